"""What a server does with what no client of ours would send: by transport, over bare sockets.

After each: an error that says what is wrong, and nothing lost.
"""

# What raises LockLost is the end of the ``async with``, so its body belongs into pytest.raises.
# ruff: noqa: PT012

from __future__ import annotations

import asyncio
import gzip
import json
import logging
import os
import signal
import socket
import struct
import time
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
import websockets
from conftest import (
    ABSENT,
    LOCKLANE,
    SOMEBODY,
    Process,
    Serve,
    ServerProcess,
    There,
    eventually,
    post,
    put,
    until_interrupted,
)
from kinds import both
from websockets.exceptions import ConnectionClosed

import locklane_server.transports
import locklane_server.websockets
from locklane_client import (
    Client,
    Key,
    LockLost,
)
from locklane_client.wire import MAX_UNLOCK_REQUEST, UnlockStream

pytestmark = both

# -- malformed input: longpoll ---------------------------------------------------------------------


async def lock_by_hand(there: There, key: Key) -> str:
    status, answer = await post(there.url, "lockcontent", key=key.text)
    assert status == 200
    assert answer["locked"] is True
    return str(answer["lockid"])


async def nothing_lost(there: There, key: Key, lock_id: str) -> None:
    """The lock is retained, and can still be kept and unlocked."""
    await there.retained(key)
    answer = await post(there.url, "keeplocked", lockid=lock_id, body=b'{"unlock":true}')
    assert answer == (200, {"locked": False})
    await there.nothing_left()


MALFORMED = {
    "no JSON": (b"hello", "expected"),
    "broken JSON": (b'{"unlock":tru}', "not JSON"),
    "an array": (b"[true]", "expected"),
    "a string": (b'{"unlock":"true"}', "expected"),
    "a number": (b'{"unlock":1}', "expected"),
    "null": (b'{"unlock":null}', "expected"),
    "no unlock": (b"{}", "expected"),
    "nested": (b'{"unlock":{}}', "not JSON"),
    "no UTF-8": (b'{"\xff":1}', "not JSON"),
    "after a good one": (b'{"unlock":false}\n{"unlock":2}', "expected"),
    "too long": (b'{"unlock":false' + b" " * MAX_UNLOCK_REQUEST + b"}", "longer than 4096"),
    "endless": (b"{" + b" " * 100_000, "longer than 4096"),
    "empty": (b"", "ended without"),
    "no unlock at the end": (b'{"unlock":false}\n{"unlock":false}\n', "ended without"),
    "half an object": (b'{"unlock":false}\n{"unlock":tr', "ended without"),
}


@pytest.mark.parametrize(("body", "says"), MALFORMED.values(), ids=MALFORMED.keys())
async def test_longpoll_malformed_unlock_requests_are_told_and_lose_nothing(
    serve: Serve, key: Key, body: bytes, says: str
) -> None:
    async with serve() as there:
        lock_id = await lock_by_hand(there, key)
        status, answer = await post(there.url, "keeplocked", lockid=lock_id, body=body)
        assert status == 400
        assert says in answer["error"]
        assert "stays until its time" in answer["error"]
        await nothing_lost(there, key, lock_id)


async def test_longpoll_an_error_is_told_while_the_body_is_still_open(
    serve: Serve, key: Key
) -> None:
    async with serve() as there:
        lock_id = await lock_by_hand(there, key)
        told = asyncio.Event()

        async def body() -> AsyncIterator[bytes]:
            yield b'{"unlock":false}\n'
            await eventually(lambda: there.live == 1)
            yield b"nonsense"
            await told.wait()

        asking = asyncio.create_task(post(there.url, "keeplocked", lockid=lock_id, body=body()))
        async with asyncio.timeout(10):
            status, answer = await asking
        told.set()
        assert status == 400
        assert "expected" in answer["error"]
        await nothing_lost(there, key, lock_id)


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "x-gzip"])
@pytest.mark.parametrize("what", ["an unlock", "a mebibyte of blanks"])
async def test_longpoll_a_compressed_body_is_400_and_is_not_inflated(
    serve: Serve, key: Key, encoding: str, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a client compresses may be a thousand times as long as what it sends."""
    plain = b'{"unlock":true}' if what == "an unlock" else b" " * 2**20
    body = zlib.compress(plain) if encoding == "deflate" else gzip.compress(plain)
    fed = 0
    feed = UnlockStream.feed

    def counting(self: UnlockStream, data: bytes) -> Iterator[bool]:
        nonlocal fed
        fed += len(data)
        return feed(self, data)

    monkeypatch.setattr(UnlockStream, "feed", counting)
    async with serve() as there:
        lock_id = await lock_by_hand(there, key)
        path = f"{there.url.removeprefix('annex+')}/v4/keeplocked?lockid={lock_id}&clientuuid=u"
        async with (
            asyncio.timeout(10),
            aiohttp.ClientSession() as http,
            http.post(path, data=body, headers={"Content-Encoding": encoding}) as response,
        ):
            assert response.status == 400
            assert "expected" in (await response.json())["error"]
        assert 0 < fed <= len(body)
        await nothing_lost(there, key, lock_id)


async def test_longpoll_blanks_without_end_hold_nothing_and_nobody_up(
    serve: Serve, key: Key
) -> None:
    async with serve() as there:
        lock_id = await lock_by_hand(there, key)

        async def body() -> AsyncIterator[bytes]:
            for _ in range(64):
                yield b" " * 65536
            await eventually(lambda: there.live == 1)
            yield b'{"unlock":true}'

        async with asyncio.timeout(20):
            answer = await post(there.url, "keeplocked", lockid=lock_id, body=body())
        assert answer == (200, {"locked": False})
        await there.nothing_left()


# -- what goes wrong on the wire -------------------------------------------------------------------


@asynccontextmanager
async def keeplocked_by_hand(
    there: There, lock_id: str
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A ``keeplocked`` over a bare connection, its hold open."""
    reader, writer = await asyncio.open_connection("127.0.0.1", there.server.port)
    try:
        path = f"/git-annex/{there.served.uuid}/v4/keeplocked?lockid={lock_id}&clientuuid=u"
        writer.write(
            f"POST {path} HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
            + b'10\r\n{"unlock":false}\r\n'
        )
        await eventually(lambda: there.live == 1)
        yield reader, writer
    finally:
        writer.transport.abort()


def complaints(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What a log has that somebody would be woken up for."""
    return [
        record.getMessage()
        for record in caplog.records
        if record.levelno >= logging.ERROR or record.exc_info
    ]


@pytest.mark.parametrize("how", ["FIN", "RST", "FIN within a chunk"])
async def test_longpoll_a_client_that_vanishes_is_no_error_in_the_log(
    serve: Serve, key: Key, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with serve() as there:
        lock_id = await lock_by_hand(there, key)
        async with keeplocked_by_hand(there, lock_id) as (_, writer):
            if how == "FIN within a chunk":
                writer.write(b'10\r\n{"unlock"')
                await writer.drain()
            if how == "RST":
                linger = struct.pack("ii", 1, 0)
                writer.get_extra_info("socket").setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, linger
                )
            writer.close()
            await eventually(lambda: there.live == 0 and there.served.holds == 0)
        await there.retained(key)
    assert complaints(caplog) == []


async def test_a_client_that_vanishes_during_a_download_is_no_error_in_the_log(
    serve: Serve, store: Path, caplog: pytest.LogCaptureFixture
) -> None:
    big = put(store, b"x" * (32 << 20))
    async with serve() as there:
        reader, writer = await asyncio.open_connection("127.0.0.1", there.server.port)
        path = f"/git-annex/{there.served.uuid}/v4/key/{big}"
        writer.write(f"GET {path} HTTP/1.1\r\nHost: h\r\n\r\n".encode())
        await reader.readexactly(1000)
        writer.transport.abort()
        await eventually(lambda: there.server._api.in_progress == 0)
        assert (await post(there.url, "checkpresent", key=big.text))[1]["present"]
    assert complaints(caplog) == []


BAD_CHUNKS = {
    "no size": b"what is this?\r\n",
    "a negative size": b"-5\r\nabc",
    "longer than its size": b'10\r\n{"unlock":false}and more',
    "NUL": b"\0\r\n",
}


@pytest.mark.parametrize("chunk", BAD_CHUNKS.values(), ids=BAD_CHUNKS.keys())
async def test_longpoll_bad_chunks_with_the_head_are_400_and_lose_nothing(
    serve: Serve, key: Key, chunk: bytes
) -> None:
    async with serve() as there:
        lock_id = await lock_by_hand(there, key)
        reader, writer = await asyncio.open_connection("127.0.0.1", there.server.port)
        path = f"/git-annex/{there.served.uuid}/v4/keeplocked?lockid={lock_id}&clientuuid=u"
        head = f"POST {path} HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
        writer.write(head.encode() + chunk)
        async with asyncio.timeout(10):
            assert b" 400 " in await reader.readline()
        writer.close()
        await nothing_lost(there, key, lock_id)


@pytest.mark.parametrize("chunk", BAD_CHUNKS.values(), ids=BAD_CHUNKS.keys())
async def test_longpoll_bad_chunks_later_lose_nothing(serve: Serve, key: Key, chunk: bytes) -> None:
    """They are not answered: aiohttp's parser (3.14) does not tell the handler of them. The hold
    ends with the connection, and the retention goes on."""
    async with serve() as there:
        lock_id = await lock_by_hand(there, key)
        async with keeplocked_by_hand(there, lock_id) as (_, writer):
            writer.write(chunk)
            await writer.drain()
        await nothing_lost(there, key, lock_id)


@pytest.mark.parametrize("chunk", BAD_CHUNKS.values(), ids=BAD_CHUNKS.keys())
async def test_longpoll_bad_chunks_lose_nothing_when_the_connection_has_ended(
    serve: Serve, key: Key, chunk: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with serve() as there:
        lock_id = await lock_by_hand(there, key)
        async with keeplocked_by_hand(there, lock_id) as (_, writer):
            writer.write(chunk)
            await writer.drain()
        await nothing_lost(there, key, lock_id)
    assert complaints(caplog) == []


SPELLINGS = {
    "as git-annex does": [b'{"unlock":false}', b"\n", b'{"unlock":true}', b"\n"],
    "split": [b'{"unl', b'ock": fal', b"se", b"}", b" {", b'"unlock":', b"true", b"}"],
    "byte by byte": [bytes([byte]) for byte in b'{"unlock":false}\r\n{"unlock":true}'],
    "several in one chunk": [b'{"unlock":false}{"unlock":false}\n\n{"unlock":true}'],
    "spaced": [b' \t\r\n{ "unlock" :\n true } \n'],
    "with more members": [b'{"more":"x","unlock":true}'],
    "many": [b'{"unlock":false}\n' * 5000, b'{"unlock":true}\n'],
}


@pytest.mark.parametrize("chunks", SPELLINGS.values(), ids=SPELLINGS.keys())
async def test_longpoll_objects_come_in_any_chunks(
    serve: Serve, key: Key, chunks: list[bytes]
) -> None:
    async with serve() as there:
        lock_id = await lock_by_hand(there, key)

        async def body() -> AsyncIterator[bytes]:
            for chunk in chunks:
                yield chunk
                await asyncio.sleep(0)

        answer = await post(there.url, "keeplocked", lockid=lock_id, body=body())
        assert answer == (200, {"locked": False})
        await there.nothing_left()


async def test_longpoll_an_unknown_id_is_not_locked(serve: Serve) -> None:
    async with serve() as there:
        for lock_id in ("unknown", "[", "\udcff", "0" * 3000):
            status, answer = await post(
                there.url, "keeplocked", lockid=lock_id, body=b'{"unlock":true}'
            )
            assert status == 200
            assert answer["locked"] is False
            assert "no such lock" in answer["reason"]


@pytest.mark.parametrize(
    ("request_", "query", "says"),
    [
        ("lockcontent", "clientuuid=u", "parameter key is missing"),
        ("lockcontent", "key=&clientuuid=u", "parameter key is missing"),
        ("lockcontent", "key=WORM--a", "parameter clientuuid is missing"),
        ("lockcontent", "key=nokey&clientuuid=u", "not a git-annex key"),
        ("lockcontent", "key=%5B!!%5D&clientuuid=u", "not base64url"),
        ("keeplocked", "clientuuid=u", "parameter lockid is missing"),
    ],
)
async def test_longpoll_missing_and_bad_parameters_are_400_with_a_sentence(
    serve: Serve, request_: str, query: str, says: str
) -> None:
    async with serve() as there:
        url = f"{there.url.removeprefix('annex+')}/v4/{request_}?{query}"
        async with (
            aiohttp.ClientSession() as http,
            http.post(url, data=b'{"unlock":true}') as response,
        ):
            assert response.status == 400
            assert says in (await response.json())["error"]
            assert says in (response.reason or "")
        await there.nothing_left()


async def test_longpoll_keeplocked_needs_no_clientuuid_as_in_git_annex(serve: Serve) -> None:
    async with serve() as there:
        url = f"{there.url.removeprefix('annex+')}/v4/keeplocked?lockid=abc"
        async with (
            aiohttp.ClientSession() as http,
            http.post(url, data=b'{"unlock":true}') as response,
        ):
            assert response.status == 200
            assert (await response.json())["locked"] is False


# -- malformed input: websocket --------------------------------------------------------------------


def websocket_url(there: There, query: str) -> str:
    return f"{there.url.replace('annex+http', 'ws')}/v4/lockcontent?{query}"


@asynccontextmanager
async def websocket(there: There, key: Key) -> AsyncIterator[websockets.ClientConnection]:
    url = websocket_url(there, f"key={key}&clientuuid={SOMEBODY}")
    async with websockets.connect(url, proxy=None) as socket_:
        yield socket_


async def closed(socket_: websockets.ClientConnection) -> tuple[int, str]:
    """Code and reason with which the server closes."""
    async with asyncio.timeout(10):
        with pytest.raises(ConnectionClosed) as end:
            await socket_.recv()
    assert end.value.rcvd is not None, "closed without saying why"
    return end.value.rcvd.code, end.value.rcvd.reason


async def test_websocket_answers_as_documented(serve: Serve, key: Key) -> None:
    async with serve() as there:
        async with websocket(there, key) as socket_:
            [lock] = there.served.manager
            assert json.loads(await socket_.recv()) == {"locked": True, "lockid": lock.id}
            assert lock.live
            await socket_.send('{"unlock": false}')
            await socket_.send('{"unlock": true}')
            assert json.loads(await socket_.recv()) == {"locked": False}
            assert (await closed(socket_))[0] == 1000
        await there.nothing_left()

        async with websocket(there, ABSENT) as socket_:
            refused = json.loads(await socket_.recv())
            assert refused == {"locked": False, "reason": "the content is not present"}
            code, reason = await closed(socket_)
            assert (code, reason) == (1000, refused["reason"])
        await there.nothing_left()


NO_MESSAGES: dict[str, tuple[str | bytes, int, str]] = {
    "no JSON": ("hello", 1007, "not JSON"),
    "an array": ("[true]", 1007, "not a JSON object"),
    "a string": ('{"unlock":"true"}', 1007, "expected"),
    "a number": ('{"unlock":1}', 1007, "expected"),
    "no unlock": ("{}", 1007, "expected"),
    "empty": ("", 1007, "not JSON"),
    "two in one": ('{"unlock":false}{"unlock":true}', 1007, "not JSON"),
    "deeply nested": ("[" * 4000, 1007, "not JSON"),
    "binary": (b'{"unlock":true}', 1003, "text messages only"),
    "too long": ('{"unlock":true' + " " * MAX_UNLOCK_REQUEST + "}", 1009, ""),
    "binary and too long": (b"x" * 100_000, 1009, ""),
}


@pytest.mark.parametrize(("message", "code", "says"), NO_MESSAGES.values(), ids=NO_MESSAGES.keys())
async def test_websocket_malformed_messages_close_with_the_reason_and_lose_nothing(
    serve: Serve, key: Key, message: str | bytes, code: int, says: str
) -> None:
    async with serve() as there:
        async with websocket(there, key) as socket_:
            lock_id = json.loads(await socket_.recv())["lockid"]
            await socket_.send(message)
            got, reason = await closed(socket_)
            assert got == code
            assert says in reason
        await nothing_lost(there, key, lock_id)


@pytest.mark.parametrize(
    ("frame", "codes"),
    [
        # aiohttp reads what is not masked as if it were.
        pytest.param(b"\x81\x05hello", {1002, 1007}, id="not masked"),
        pytest.param(b"\x83\x80\0\0\0\0", {1002}, id="an opcode that is none"),
        pytest.param(b"\xf1\x80\0\0\0\0", {1002}, id="reserved bits"),
        pytest.param(b"\x81\x82\0\0\0\0\xff\xfe", {1007}, id="not UTF-8"),
        pytest.param(b"\x88\x82\0\0\0\0\x03\xe8", {1000}, id="closed by the client"),
    ],
)
async def test_websocket_broken_frames_lose_nothing(
    serve: Serve, key: Key, frame: bytes, codes: set[int]
) -> None:
    async with serve() as there:
        async with websocket(there, key) as socket_:
            lock_id = json.loads(await socket_.recv())["lockid"]
            socket_.transport.write(frame)
            assert (await closed(socket_))[0] in codes
        await nothing_lost(there, key, lock_id)


async def test_websocket_a_get_without_an_upgrade_is_426(serve: Serve, key: Key) -> None:
    async with serve() as there, aiohttp.ClientSession() as http:
        url = f"{there.url.removeprefix('annex+')}/v4/lockcontent?key={key}&clientuuid=u"
        async with http.get(url) as response:
            assert response.status == 426
            assert "websocket" in (await response.json())["error"]
            # RFC 9110, 15.5.22: the server MUST send an Upgrade header.
            assert response.headers.get("Upgrade") == "websocket"
        await there.nothing_left()


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("clientuuid=u", "parameter key is missing"),
        ("key=WORM--a", "parameter clientuuid is missing"),
        ("key=nokey&clientuuid=u", "not a git-annex key"),
    ],
)
async def test_websocket_bad_parameters_are_400_before_the_upgrade(
    serve: Serve, query: str, says: str
) -> None:
    async with serve() as there:
        with pytest.raises(websockets.exceptions.InvalidStatus) as refused:
            async with websockets.connect(websocket_url(there, query), proxy=None):
                pass
        assert refused.value.response.status_code == 400
        assert says in json.loads(refused.value.response.body or b"")["error"]


# -- dead peers ------------------------------------------------------------------------------------


async def test_websocket_a_client_that_answers_no_ping_is_gone(
    serve: Serve, key: Key, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locklane_server.websockets, "HEARTBEAT_SECONDS", 0.4)
    async with serve() as there:
        with Process(LOCKLANE, "lock", "--transport", "websocket", there.url, key.text) as process:
            await process.prints("holding 1 lock")
            await asyncio.sleep(1.5)
            assert there.live == 1, "a live client was taken for dead"
            process.signal(signal.SIGSTOP)
            await eventually(lambda: there.live == 0, within=5)
            await there.retained(key)


async def test_websocket_a_server_that_answers_no_ping_is_gone(
    server_process: Callable[..., ServerProcess], key: Key
) -> None:
    process = server_process()
    async with Client(process.url, transport="websocket", keep_interval=0.3) as c:
        stopped = 0.0
        with pytest.raises(LockLost):
            async with c.lock(key):
                await asyncio.sleep(0.9)
                os.kill(process.pid, signal.SIGSTOP)
                stopped = time.monotonic()
                await until_interrupted()
        assert time.monotonic() - stopped < 5
        os.kill(process.pid, signal.SIGCONT)
