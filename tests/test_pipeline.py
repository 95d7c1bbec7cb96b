"""Pipelining: what is sent before what is answered, and what comes of the requests behind one that
was the connection's last."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
from conftest import BOUND, Serve, eventually
from rawhttp import LAST_CHUNK, chunk, request, wire

from locklane_client import Client, Key, LockLost
from locklane_client.client import Lock

UNLOCK = chunk(b'{"unlock":true}\n') + LAST_CHUNK


def locked(number: int) -> bytes:
    return answer(b'{"locked":true,"lockid":"lock%d"}' % number)


def answer(body: bytes, *headers: bytes) -> bytes:
    lines = [b"HTTP/1.1 200 OK", b"Content-Length: %d" % len(body), *headers]
    return b"\r\n".join([*lines, b"", body])


class Far:
    """A server that is far away: the test answers in its place, when it likes."""

    def __init__(self) -> None:
        self.heard: list[bytes] = []
        """By connection, in the order in which they were made."""
        self._writers: list[asyncio.StreamWriter] = []

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = len(self.heard)
        self.heard.append(b"")
        self._writers.append(writer)
        with suppress(ConnectionError):
            while data := await reader.read(65536):
                self.heard[number] += data
        writer.close()

    def requests(self, connection: int = 0) -> list[str]:
        """Names of the requests that have come, as far as their heads are there."""
        found = re.findall(rb"POST \S+/v4/(\w+)\?\S* HTTP/1.1\r\n", self.heard[connection])
        return [name.decode() for name in found]

    def say(self, data: bytes, connection: int = 0) -> None:
        self._writers[connection].write(data)

    def close(self, connection: int = 0) -> None:
        self._writers[connection].close()


@asynccontextmanager
async def far() -> AsyncIterator[tuple[Far, str]]:
    it = Far()
    listening = await asyncio.start_server(it.connected, "127.0.0.1", 0)
    async with listening:
        port = listening.sockets[0].getsockname()[1]
        yield it, f"annex+http://127.0.0.1:{port}/git-annex/u"
        for connection in range(len(it.heard)):
            it.close(connection)


async def test_the_unlock_and_the_next_lock_leave_before_either_is_answered(key: Key) -> None:
    async with far() as (there, url), Client(url, transport="pipeline") as c:

        async def two() -> None:
            async with c.lock(key):
                pass
            async with c.lock(key) as second:
                assert second.lock_id == "lock2"

        working = asyncio.create_task(two())
        await eventually(lambda: there.heard and there.requests() == ["lockcontent"])
        there.say(locked(1))
        await eventually(lambda: len(there.requests()) == 3)
        assert there.requests() == ["lockcontent", "keeplocked", "lockcontent"]
        assert UNLOCK in there.heard[0]
        there.say(answer(b'{"locked":false}') + locked(2))  # in the order of the requests
        await eventually(lambda: there.heard[0].count(UNLOCK) == 2)
        there.say(answer(b'{"locked":false}'))
        await working
        assert await c.confirmed() == 0
        assert c.connections_opened == 1


async def test_an_unlock_that_is_refused_is_told_to_who_asks_and_counted(key: Key) -> None:
    async with far() as (there, url), Client(url, transport="pipeline") as c:
        held = asyncio.create_task(_hold(c, key))
        await eventually(lambda: there.heard and there.requests())
        there.say(locked(1))
        lock = await held
        there.say(answer(b'{"locked":false,"reason":"no such lock"}'))
        with pytest.raises(LockLost, match="no such lock"):
            await lock.confirmed()
        assert await c.confirmed() == 1


@pytest.mark.parametrize("closes", [True, False], ids=["said and done", "said only"])
async def test_a_lock_behind_the_last_answer_of_a_connection_is_asked_for_again(
    key: Key, closes: bool
) -> None:
    """A server or proxy that has answered as many requests on it as it likes (nginx: 1,000) says
    so, and looks at no other: RFC 9112, 9.6."""
    async with far() as (there, url), Client(url, transport="pipeline") as c:
        first = asyncio.create_task(_hold(c, key))
        await eventually(lambda: there.heard and there.requests())
        there.say(locked(1))
        await first
        second = asyncio.create_task(_hold(c, key))
        await eventually(lambda: len(there.requests()) == 3)
        there.say(answer(b'{"locked":false}', b"Connection: close"))
        if closes:
            there.close()
        await eventually(lambda: len(there.heard) == 2 and there.requests(1) == ["lockcontent"])
        there.say(locked(2), 1)
        assert (await second).lock_id == "lock2"
        there.say(answer(b'{"locked":false}'), 1)
        assert await c.confirmed() == 0


async def test_a_lock_given_with_the_last_answer_of_a_connection_is_held_over_another(
    key: Key,
) -> None:
    async with far() as (there, url), Client(url, transport="pipeline") as c:
        held = asyncio.create_task(_hold(c, key))
        await eventually(lambda: there.heard and there.requests())
        there.say(answer(b'{"locked":true,"lockid":"lock1"}', b"Connection: close"))
        await held
        await eventually(lambda: len(there.heard) == 2 and there.requests(1) == ["keeplocked"])
        there.say(answer(b'{"locked":false}'), 1)
        assert await c.confirmed() == 0


async def test_at_several_at_a_time_each_has_a_connection_and_uses_it_again(
    serve: Serve, keys: list[Key]
) -> None:
    async with serve() as there, Client(there.url, transport="pipeline") as c:

        async def drop() -> None:
            for number in range(30):
                async with c.lock(keys[number % 3]):
                    await asyncio.sleep(0)

        async with asyncio.TaskGroup() as workers:
            for _ in range(4):
                workers.create_task(drop())
        assert await c.confirmed() == 0
        assert c.connections_opened == 4
        assert c.counts.round_trips == 4 + 4 * 30
        await there.nothing_left()


async def test_a_server_answers_piled_up_requests_in_their_order(serve: Serve, key: Key) -> None:
    """Bare bytes: twenty locks and their unlocks, all before the first answer is read."""
    async with serve() as there, wire(there) as connection:
        for _ in range(20):
            connection.head("POST", request("lockcontent", key, transport="pipeline"), length=0)
        ids = [json.loads((await connection.answer()).body)["lockid"] for _ in range(20)]
        assert len(set(ids)) == 20
        assert {lock.transport for lock in there.served.manager} == {"pipeline"}
        for lock_id in ids:
            connection.head("POST", f"v4/keeplocked?lockid={lock_id}", "Transfer-Encoding: chunked")
            await connection.send(chunk(b'{"unlock":false}\n') + UNLOCK)
        for _ in ids:
            assert (await connection.answer()).body == b'{"locked":false}'
        await there.nothing_left()


async def test_an_idle_connection_is_closed_by_the_client(
    serve: Serve, key: Key, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before a server would, so that no request is sent into one that is being closed."""
    monkeypatch.setattr("locklane_client.transports.pipeline.IDLE_SECONDS", 0.05)
    async with serve() as there, Client(there.url, transport="pipeline") as c:
        async with c.lock(key):
            pass
        await c.confirmed()
        async with c.lock(key):
            pass
        await eventually(lambda: there.server.connections_open == 0)
        async with c.lock(key):
            pass
        await c.confirmed()


async def _hold(c: Client, key: Key) -> Lock:
    async with asyncio.timeout(BOUND):
        async with c.lock(key) as lock:
            pass
    return lock
