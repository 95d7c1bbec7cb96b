"""Full-duplex HTTP over bare connections: each line has its answer while the request is open."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from conftest import ABSENT, BOUND, Serve, eventually, until_interrupted
from rawhttp import LAST_CHUNK, Wire, chunk, request, wire

from locklane_client import Client, Key, LockLost

KEEP, UNLOCK = b'{"unlock":false}\n', b'{"unlock":true}\n'


async def begin(connection: Wire, key: Key) -> None:
    connection.head("POST", request("lockhold", key), "Transfer-Encoding: chunked")
    await connection.send(chunk(KEEP))


async def head(connection: Wire) -> tuple[str, dict[str, str]]:
    status = await connection.line()
    headers = {}
    while line := await connection.line():
        name, _, value = line.partition(": ")
        headers[name.lower()] = value
    return status, headers


async def line(connection: Wire) -> dict[str, Any]:
    """The next chunk, which has to be a line."""
    size = int(await connection.line(), 16)
    async with asyncio.timeout(BOUND):
        data = await connection.reader.readexactly(size + 2)
    assert data.endswith(b"\n\r\n")
    said: dict[str, Any] = json.loads(data)
    return said


async def test_each_object_is_answered_while_the_body_is_open(serve: Serve, key: Key) -> None:
    async with serve() as there, wire(there) as connection:
        for _ in range(3):  # over the same connection
            await begin(connection, key)
            status, headers = await head(connection)
            assert status == "HTTP/1.1 200 OK"
            assert headers["transfer-encoding"] == "chunked"
            first = await line(connection)
            [lock] = there.served.manager
            assert first == {"locked": True, "lockid": lock.id}
            assert (lock.transport, lock.live) == ("duplex", True)
            await connection.send(chunk(KEEP))
            assert await line(connection) == first
            await connection.send(chunk(UNLOCK) + LAST_CHUNK)
            assert await line(connection) == {"locked": False}
            assert await connection.line() == "0"
            assert await connection.line() == ""
            assert there.locks == 0
        assert there.server.connections_opened == 1


async def test_a_refusal_is_an_answer_like_any_other_and_leaves_the_connection(
    serve: Serve, key: Key
) -> None:
    async with serve() as there, wire(there) as connection:
        await begin(connection, ABSENT)
        refused = await connection.answer()
        assert json.loads(refused.body) == {
            "locked": False,
            "reason": "the content is not present",
        }
        await connection.send(LAST_CHUNK)
        await begin(connection, key)
        await head(connection)
        assert (await line(connection))["locked"]


WRONG = {
    "no JSON": (b"hello", "expected"),
    "a number": (b'{"unlock":1}', "expected"),
    "the end": (b"", "ended without"),
}


@pytest.mark.parametrize(("body", "says"), WRONG.values(), ids=WRONG.keys())
async def test_what_is_wrong_with_the_body_is_said_and_the_lock_stays(
    serve: Serve, key: Key, body: bytes, says: str
) -> None:
    async with serve() as there, wire(there) as connection:
        await begin(connection, key)
        await head(connection)
        await line(connection)
        await connection.send(chunk(body) if body else LAST_CHUNK)
        told = await line(connection)
        assert told["locked"] is False
        assert told["retained"] is True
        assert says in told["reason"]
        if body:  # else the server waits for the rest of it, for a while
            await connection.send(LAST_CHUNK)
        assert await connection.end() == b"0\r\n\r\n"
        await there.retained(key)


@pytest.mark.parametrize(("body", "says"), WRONG.values(), ids=WRONG.keys())
async def test_what_is_wrong_from_the_start_is_400(
    serve: Serve, key: Key, body: bytes, says: str
) -> None:
    async with serve() as there, wire(there) as connection:
        connection.head("POST", request("lockhold", key), "Transfer-Encoding: chunked")
        await connection.send((chunk(body) if body else b"") + LAST_CHUNK)
        answer = await connection.answer()
        assert answer.status == 400
        assert says in json.loads(answer.body)["error"]
        await there.retained(key)


async def test_an_unlock_at_once_is_a_plain_answer(serve: Serve, key: Key) -> None:
    async with serve() as there, wire(there) as connection:
        connection.head("POST", request("lockhold", key), "Transfer-Encoding: chunked")
        await connection.send(chunk(UNLOCK) + LAST_CHUNK)
        answer = await connection.answer()
        assert (answer.status, json.loads(answer.body)) == (200, {"locked": False})
        assert there.locks == 0


async def test_a_client_whose_server_falls_silent_knows_after_three_intervals(
    key: Key,
) -> None:
    """Each sign of life has an answer, so that no answer means that somebody vanished."""

    async def answer_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(KEEP)
        said = chunk(b'{"locked":true,"lockid":"x"}\n')
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + said)
        await reader.read()
        writer.close()

    listening = await asyncio.start_server(answer_once, "127.0.0.1", 0)
    async with listening:
        url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/git-annex/u"
        async with Client(url, transport="duplex", keep_interval=0.1) as c:
            async with asyncio.timeout(BOUND):
                with pytest.raises(LockLost, match="has not answered"):
                    async with c.lock(key):
                        await until_interrupted()


async def test_a_hold_says_again_and_again_that_it_is_live(serve: Serve, key: Key) -> None:
    async with serve() as there:
        c = Client(there.url, transport="duplex", keep_interval=0.05)
        async with c, c.lock(key) as lock:
            await asyncio.sleep(0.5)  # ten intervals, three of which without an answer are many
            assert lock.lost is None
            assert there.live == 1
        await there.nothing_left()


@pytest.mark.parametrize("packets", [1, 64])
@pytest.mark.parametrize("name", ["lockhold", "keeplocked"])
async def test_what_is_no_http_within_an_open_body_ends_the_hold(
    serve: Serve, key: Key, name: str, packets: int
) -> None:
    """And the connection: else nothing would ever end it, not even that the client goes."""
    async with serve() as there, wire(there) as connection:
        about = request("lockhold", key)
        if name == "keeplocked":
            connection.head("POST", request("lockcontent", key), length=0)
            lock_id = json.loads((await connection.answer()).body)["lockid"]
            about = f"v4/keeplocked?lockid={lock_id}"
        connection.head("POST", about, "Transfer-Encoding: chunked")
        await connection.send(chunk(KEEP))
        await eventually(lambda: there.live == 1)
        for _ in range(packets):
            connection.writer.write(b"ZZ\r\n")
            await asyncio.sleep(0.005)
        await eventually(lambda: there.live == 0)
        connection.writer.transport.abort()
        await there.retained(key)
        await eventually(lambda: there.server.connections_open == 0)
