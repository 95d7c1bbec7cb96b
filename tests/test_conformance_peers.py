"""What every lock transport's client has to do with a peer that is missing, other, or strange.

Whatever takes the fixtures ``transport`` or ``client`` runs once for each transport.
"""

# What raises LockLost is the end of the ``async with``, so its body belongs into pytest.raises.
# ruff: noqa: PT012

from __future__ import annotations

import asyncio
import base64
import hashlib
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from conftest import (
    SOMEBODY,
    MakeClient,
    Serve,
    ServerProcess,
    eventually,
    free_port,
    remove,
    until_interrupted,
)
from kinds import both

import locklane_server.transports
from locklane_client import (
    Client,
    Key,
    LocklaneError,
    LockLost,
    LockRefused,
    ProtocolViolation,
    ServerUnreachable,
)

# -- no server, another server ---------------------------------------------------------------------


async def test_no_server_is_unreachable(client: MakeClient, key: Key) -> None:
    async with client(f"annex+http://127.0.0.1:{free_port()}/git-annex/u") as c:
        with pytest.raises(ServerUnreachable, match=r"127\.0\.0\.1"):
            async with c.lock(key):
                raise AssertionError("nobody locked")
        assert c.connections_opened == 0


@both
async def test_a_client_outlives_a_restart_of_the_server(
    store: Path, client: MakeClient, key: Key
) -> None:
    port = str(free_port())
    first = ServerProcess(store, "--port", port)
    async with client(first.url) as c:
        async with c.lock(key):
            pass
        first.kill()
        with pytest.raises(ServerUnreachable):
            async with c.lock(key):
                raise AssertionError("nobody locked")
        with ServerProcess(store, "--port", port) as second:
            async with c.lock(key):
                assert not (await remove(second.url, key))["removed"]


@both
async def test_an_unknown_repository_is_said_to_be_unknown(
    serve: Serve, client: MakeClient, key: Key
) -> None:
    async with serve() as there:
        url = there.url.rpartition("/")[0] + "/" + SOMEBODY
        async with client(url) as c:
            with pytest.raises(LocklaneError, match=f"no repository '{SOMEBODY}' is served here"):
                async with c.lock(key):
                    raise AssertionError("nobody locked")
            assert c.version == 4
        await there.nothing_left()


async def test_a_transport_that_is_not_offered_is_said_to_be_missing(
    serve: Serve, client: MakeClient, key: Key, transport: str
) -> None:
    polled = {"longpoll", "pipeline"}  # which are the same requests
    without = polled if transport in polled else {transport}
    others = [name for name in locklane_server.transports.TRANSPORTS if name not in without]
    async with serve(transports=others) as there, client(there.url) as c:
        with pytest.raises(LocklaneError, match=r"40[45]"):
            async with c.lock(key):
                raise AssertionError("nobody locked")
        await there.nothing_left()


async def test_a_websocket_client_is_told_to_try_another_transport(serve: Serve, key: Key) -> None:
    async with serve(transports=["longpoll"]) as there:
        c = Client(there.url, transport="websocket")
        with pytest.raises(ProtocolViolation, match="may not offer this transport"):
            async with c, c.lock(key):
                raise AssertionError("nobody locked")


# -- a peer that does not speak the protocol -------------------------------------------------------


class Peer:
    """Answers requests, upgrades and websocket messages in turn with what it was given, then goes
    silent. Speaks just enough of HTTP and websockets for that."""

    def __init__(self, answers: list[bytes], raw: bytes | None) -> None:
        self._answers = list(answers)
        self._raw = raw
        self.requests = 0
        self.url = ""

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, EOFError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                self.requests += 1
                if self._raw is not None:
                    writer.write(self._raw)
                    break
                if b"upgrade: websocket" in head.lower():
                    await self._websocket(head, reader, writer)
                    break
                if b"/lockhold?" in head and self._answers:
                    await self._duplex(reader, writer)
                    continue
                if b"chunked" in head.lower():
                    await reader.readuntil(b'{"unlock":true}' if self._answers else b"\r\n0\r\n")
                if self._answers:
                    writer.write(_response(self._answers.pop(0)))
                await writer.drain()
            await writer.drain()
        writer.close()

    async def _websocket(
        self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        [nonce] = [
            line.partition(b":")[2].strip()
            for line in head.split(b"\r\n")
            if line.lower().startswith(b"sec-websocket-key:")
        ]
        magic = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        accept = base64.b64encode(hashlib.sha1(nonce + magic).digest())
        writer.write(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n"
        )
        many = b"/locks?" in head.split(b"\r\n")[0]
        for number, text in enumerate(self._answers):
            if many or number > 0:
                await _read_frame(reader)
            if many and text.startswith(b"{"):
                text = (b'{"id":1,' + text[1:]).replace(b",}", b"}")
            size = (
                bytes([len(text)])
                if len(text) < 126
                else b"\x7e" + struct.pack(">H", len(text))
                if len(text) < 65536
                else b"\x7f" + struct.pack(">Q", len(text))
            )
            writer.write(b"\x81" + size + text)
        await reader.read()

    async def _duplex(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for wanted in (b'{"unlock":false}', b'{"unlock":true}'):
            await reader.readuntil(wanted)
            if not self._answers:
                await reader.read()
            line = self._answers.pop(0) + b"\n"
            writer.write(b"%x\r\n%b\r\n" % (len(line), line))
        writer.write(b"0\r\n\r\n")
        await reader.readuntil(b"\r\n0\r\n\r\n")


async def _read_frame(reader: asyncio.StreamReader) -> None:
    """A client's short websocket frame, whatever is in it."""
    _, size = await reader.readexactly(2)
    await reader.readexactly(4 + (size & 0x7F))


def _response(body: bytes) -> bytes:
    return (
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json;charset=utf-8\r\n"
        b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
    )


@asynccontextmanager
async def peer(answers: list[bytes], *, raw: bytes | None = None) -> AsyncIterator[Peer]:
    it = Peer(answers, raw)
    listening = await asyncio.start_server(it.connected, "127.0.0.1", 0)
    async with listening:
        port = listening.sockets[0].getsockname()[1]
        it.url = f"annex+http://127.0.0.1:{port}/git-annex/u"
        yield it


QUICK: dict[str, Any] = {"connect_timeout": 1.0, "answer_timeout": 0.3}
LOCKED = b'{"locked":true,"lockid":"abc"}'

NO_ANSWERS = {
    "no JSON": b"hello",
    "no object": b"[]",
    "nothing": b"",
    "an empty object": b"{}",
    "a number for locked": b'{"locked":1}',
    "locked without an id": b'{"locked":true}',
    "a number for the id": b'{"locked":true,"lockid":7}',
    "an empty id": b'{"locked":true,"lockid":""}',
    "an id in broken brackets": b'{"locked":true,"lockid":"[!]"}',
    "no UTF-8": b'{"locked":true,"lockid":"\xff\xfe"}',
    "deeply nested": b"[" * 40_000,
    "too long": b'{"locked":true,"lockid":"' + b"x" * 100_000 + b'"}',
}


@pytest.mark.parametrize("answer", NO_ANSWERS.values(), ids=NO_ANSWERS.keys())
async def test_an_answer_that_is_none_is_a_violation(
    client: MakeClient, key: Key, answer: bytes
) -> None:
    async with peer([answer]) as there, client(there.url, **QUICK) as c:
        async with asyncio.timeout(10):
            with pytest.raises((ProtocolViolation, ServerUnreachable)):
                async with c.lock(key):
                    raise AssertionError("held a lock that nobody gave")


async def test_not_locked_with_an_id_is_not_locked(client: MakeClient, key: Key) -> None:
    async with peer([b'{"locked":false,"lockid":"abc"}']) as there, client(there.url, **QUICK) as c:
        async with asyncio.timeout(10):
            with pytest.raises(LockRefused):
                async with c.lock(key):
                    raise AssertionError("held a lock that was refused")


RAW = {
    "closes at once": b"",
    "no HTTP": b"SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u3\r\n",
    "garbage": bytes(range(256)) * 8,
    "half a header": b"HTTP/1.1 200 OK\r\nContent-Le",
    "less than it promised": b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{",
    "a bad length": b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n",
    "an endless header": b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000,
    "500": b"HTTP/1.1 500 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
    "200 and a page": b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\n<html>",
    "a redirect": b"HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Length: 0\r\n\r\n",
    "an upgrade that is none": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n",
}


@pytest.mark.parametrize("raw", RAW.values(), ids=RAW.keys())
async def test_a_peer_that_speaks_no_http_is_typed(
    client: MakeClient, key: Key, raw: bytes
) -> None:
    async with peer([], raw=raw) as there, client(there.url, **QUICK) as c:
        async with asyncio.timeout(10):
            with pytest.raises((ProtocolViolation, ServerUnreachable)):
                async with c.lock(key):
                    raise AssertionError("held a lock that nobody gave")


async def test_a_connection_closed_instead_of_an_answer_is_unreachable(
    client: MakeClient, key: Key
) -> None:
    """A server that dies just then; trying again later may help."""
    async with peer([], raw=b"") as there, client(there.url, **QUICK) as c:
        with pytest.raises(ServerUnreachable):
            async with c.lock(key):
                raise AssertionError("held a lock that nobody gave")
        assert c.connections_opened >= 1, "a connection was opened and not counted"


async def test_a_peer_that_never_answers_is_unreachable(client: MakeClient, key: Key) -> None:
    async with peer([]) as there, client(there.url, **QUICK) as c:
        async with asyncio.timeout(10):
            with pytest.raises(ServerUnreachable):
                async with c.lock(key):
                    raise AssertionError("held a lock that nobody gave")


async def test_an_unlock_that_nobody_answers_is_a_lost_lock(client: MakeClient, key: Key) -> None:
    async with peer([LOCKED]) as there, client(there.url, **QUICK) as c:
        async with asyncio.timeout(10):
            with pytest.raises(LockLost, match="nobody confirmed the unlock: no answer") as lost:
                async with c.lock(key) as lock:
                    pass
                await lock.confirmed()
        # The server may have got the request, so the holder must not count on the retention.
        assert lost.value.retained_for == 0
        assert "the content may not be protected any more" in str(lost.value)


@pytest.mark.parametrize("answer", NO_ANSWERS.values(), ids=NO_ANSWERS.keys())
async def test_an_unlock_answered_with_nonsense_is_a_lost_lock(
    client: MakeClient, key: Key, answer: bytes
) -> None:
    async with peer([LOCKED, answer]) as there, client(there.url, **QUICK) as c:
        async with asyncio.timeout(10):
            with pytest.raises(LockLost):
                async with c.lock(key) as lock:
                    pass
                await lock.confirmed()


async def test_an_unlock_answered_with_a_lock_is_a_lost_lock(client: MakeClient, key: Key) -> None:
    async with peer([LOCKED, LOCKED]) as there, client(there.url, **QUICK) as c:
        async with asyncio.timeout(10):
            with pytest.raises(LockLost, match=r"unlock with a lock|saying that it unlocked"):
                async with c.lock(key) as lock:
                    pass
                await lock.confirmed()


async def test_a_version_found_by_one_lock_does_not_lose_another(key: Key) -> None:
    """Two first locks at once at a server that speaks version 2: while one falls back, the other
    has its lock already and keeps it with the version that it got it with."""
    asked: list[str] = []
    second_tried_3 = asyncio.Event()
    first_asked_2 = asyncio.Event()
    first_keeps = asyncio.Event()

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        version, name = request.path.split("/")[3:5]
        asked.append(f"{version} {name}")
        if asked[-1] == "v4 lockcontent" and asked.count("v4 lockcontent") == 2:
            await first_asked_2.wait()
        if asked[-1] == "v3 lockcontent" and asked.count("v3 lockcontent") == 2:
            second_tried_3.set()
            await first_keeps.wait()
        if name == "keeplocked":
            first_keeps.set()
        if version in ("v4", "v3"):
            return web.Response(status=404)
        if name == "keeplocked":
            async for line in request.content:
                if b"true" in line:
                    break
            return web.Response(body=b'{"locked":false}')
        if not first_asked_2.is_set():
            first_asked_2.set()
            await second_tried_3.wait()
        return web.Response(body=LOCKED)

    runner = web.ServerRunner(web.Server(answer, access_log=None), shutdown_timeout=1)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        async with Client(f"annex+http://127.0.0.1:{port}/git-annex/u", transport="longpoll") as c:

            async def hold() -> None:
                async with c.lock(key):
                    await asyncio.sleep(0.05)

            async with asyncio.timeout(10), asyncio.TaskGroup() as both:
                both.create_task(hold())
                both.create_task(hold())
            assert c.version == 2
            assert not [each for each in asked if "keeplocked" in each and "v2" not in each]
    finally:
        first_asked_2.set()
        second_tried_3.set()
        first_keeps.set()
        await runner.cleanup()


async def test_keeplocked_that_cannot_connect_is_a_lost_lock_with_a_sentence(key: Key) -> None:
    """The connection of lockcontent is closed, and no new one comes about."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        address = listening.getsockname()

        def answer_once() -> None:
            taken, _ = listening.accept()
            with taken:
                taken.recv(65536)
                fill()
                body = LOCKED
                taken.sendall(
                    b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%b"
                    % (len(body), body)
                )

        waiting: list[socket.socket] = []

        def fill() -> None:
            # The queue of connections that wait to be accepted is full: further ones hang.
            for _ in range(4):
                more = socket.socket()
                more.setblocking(False)
                with suppress(BlockingIOError):
                    more.connect(address)
                waiting.append(more)

        url = f"annex+http://127.0.0.1:{address[1]}/git-annex/u"
        answering = asyncio.create_task(asyncio.to_thread(answer_once))
        try:
            async with Client(url, connect_timeout=0.5, answer_timeout=5) as c:
                with pytest.raises(LockLost) as lost:
                    async with c.lock(key):
                        await until_interrupted()
            assert "format" not in str(lost.value)
            assert "127.0.0.1" in str(lost.value)
        finally:
            await answering
            for each in waiting:
                each.close()


async def test_cancelled_while_nobody_answers_it_ends_at_once(client: MakeClient, key: Key) -> None:
    async with peer([]) as silent, client(silent.url) as c:

        async def hold() -> None:
            async with c.lock(key):
                raise AssertionError("nobody locked")

        task = asyncio.create_task(hold())
        await eventually(lambda: silent.requests == 1)
        task.cancel()
        async with asyncio.timeout(5):
            with pytest.raises(asyncio.CancelledError):
                await task


async def test_longpoll_keeplocked_has_the_headers_that_long_polling_needs(key: Key) -> None:
    """As the design page has them, and git-annex sends them."""
    seen: dict[str, str] = {}

    async def answer(request: web.BaseRequest) -> web.Response:
        if request.path.endswith("/lockcontent"):
            return web.json_response({"locked": True, "lockid": "x"})
        seen.update(request.headers)
        await request.read()
        return web.json_response({"locked": False})

    runner = web.ServerRunner(web.Server(answer))
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        async with Client(f"http://127.0.0.1:{runner.addresses[0][1]}/git-annex/u") as c:
            for _ in range(3):
                async with c.lock(key):
                    pass
            assert c.connections_opened == 1
    finally:
        await runner.cleanup()
    assert seen["Connection"] == "Keep-Alive"
    assert seen["Keep-Alive"] == "timeout=1200"
    assert seen["Content-Type"] == "application/json;charset=utf-8"
    assert seen["Transfer-Encoding"] == "chunked"
