"""What a server does with what no client of ours would send: by transport, over bare sockets.

After each: an error that says what is wrong, and nothing lost.
"""

# What raises LockLost is the end of the ``async with``, so its body belongs into pytest.raises.
# ruff: noqa: PT012

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

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
    until_interrupted,
)
from websockets.exceptions import ConnectionClosed

import locklane_server.transports
import locklane_server.transports.websocket
from locklane_client import (
    Client,
    Key,
    LockLost,
)
from locklane_client.wire import MAX_UNLOCK_REQUEST

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
    monkeypatch.setattr(locklane_server.transports.websocket, "HEARTBEAT_SECONDS", 0.4)
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
