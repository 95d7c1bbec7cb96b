"""A server that has as many connections as it may: it says so, and goes on with those it has."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import aiohttp
import pytest
from conftest import BOUND, FakeClock, MakeClient, There, eventually, post, remove

from locklane_client import Key, ServerUnreachable
from locklane_server import connections, descriptors
from locklane_server.access import WIDE_OPEN
from locklane_server.repository.directory import DirectoryRepository
from locklane_server.served import ServedRepository
from locklane_server.server import Server
from locklane_server.workers import Workers

FULL = "the server has 3 connections, as many as it may"


@asynccontextmanager
async def small_server(store: Path, clock: FakeClock) -> AsyncIterator[There]:
    """With room for three connections."""
    served = ServedRepository(DirectoryRepository.open(store, Workers(), clock=clock), clock=clock)
    async with Server([served], access=WIDE_OPEN, port=0, connections=3) as server:
        yield There(server, served, clock, store)


@asynccontextmanager
async def connection(there: There) -> AsyncIterator[asyncio.StreamWriter]:
    """A connection that has been used once and is kept open, so the server knows of it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", there.server.port)
    try:
        writer.write(b"GET /nothing HTTP/1.1\r\nHost: h\r\n\r\n")
        async with asyncio.timeout(BOUND):
            assert b" 404 " in await reader.readline()
        yield writer
    finally:
        writer.close()


async def test_on_a_full_server_a_lock_is_refused_with_a_sentence_and_works_when_there_is_room(
    store: Path, clock: FakeClock, client: MakeClient, keys: list[Key]
) -> None:
    async with small_server(store, clock) as there, client(there.url) as holder:
        async with holder.lock(keys[0]) as held:
            await eventually(lambda: there.live == 1)
            async with AsyncExitStack() as others:
                for _ in range(2):
                    await others.enter_async_context(connection(there))
                async with client(there.url) as late:
                    for _ in range(3):  # each is turned away, and none takes anybody's place
                        with pytest.raises(ServerUnreachable, match=FULL):
                            async with late.lock(keys[1]):
                                raise AssertionError("locked over one connection too many")
                assert held.lost is None
                assert there.live == there.locks == 1
            async with client(there.url) as late, asyncio.timeout(BOUND):
                while True:  # until the server has seen that the others are gone
                    try:
                        async with late.lock(keys[1]):
                            assert there.locks == 2
                        break
                    except ServerUnreachable:
                        await asyncio.sleep(0.005)
            assert held.lost is None
            assert there.live == 1
        await there.nothing_left()


async def test_on_a_full_server_requests_are_503_on_new_connections_and_answered_on_old_ones(
    store: Path, clock: FakeClock, key: Key
) -> None:
    async with small_server(store, clock) as there, AsyncExitStack() as others:
        url = f"{there.url.removeprefix('annex+')}/v4/checkpresent?key={key}&clientuuid=u"
        old = await others.enter_async_context(aiohttp.ClientSession())

        async def still_answered() -> None:
            async with old.post(url) as response:
                assert (response.status, await response.json()) == (200, {"present": True})

        await still_answered()
        for _ in range(2):
            await others.enter_async_context(connection(there))
        for request in ("checkpresent", "lockcontent", "remove", "gettimestamp"):
            status, answer = await post(there.url, request, key=key.text)
            assert status == 503
            assert FULL in answer["error"]
            # What was turned away is closed by the server, and takes nobody's place.
            await still_answered()
        assert there.locks == 0
        await others.aclose()
        # Until the server has seen that they are gone; each attempt is a connection and takes time.
        async with asyncio.timeout(BOUND):
            while (await post(there.url, "checkpresent", key=key.text))[0] == 503:
                pass
        assert (await remove(there.url, key))["removed"]


async def test_a_full_server_still_lets_its_holders_unlock(
    store: Path, clock: FakeClock, client: MakeClient, keys: list[Key]
) -> None:
    async with (
        small_server(store, clock) as there,
        client(there.url) as c,
        AsyncExitStack() as others,
    ):
        async with AsyncExitStack() as locks:
            for key in keys:
                await locks.enter_async_context(c.lock(key))
            for _ in range(3 - there.server.connections_open):  # where one carries all locks
                await others.enter_async_context(connection(there))
            await eventually(lambda: there.live == 3)
            async with client(there.url) as late:
                with pytest.raises(ServerUnreachable, match=FULL):
                    await others.enter_async_context(late.lock(keys[0]))
        await there.nothing_left()


async def test_connections_beyond_the_bound_disturb_nobody_within_it_and_are_cut(
    store: Path,
    clock: FakeClock,
    client: MakeClient,
    key: Key,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They ask nothing, so they cannot be told; the holder's requests are answered all the same."""
    monkeypatch.setattr("locklane_server.connections.EXCESS_SECONDS", 0.2)
    async with small_server(store, clock) as there, client(there.url) as holder:
        async with holder.lock(key):
            await eventually(lambda: there.live == 1)
            silent = [
                await asyncio.open_connection("127.0.0.1", there.server.port) for _ in range(4)
            ]
            cut = [reader.read() for reader, _ in silent[2:]]
            async with asyncio.timeout(BOUND):
                assert await asyncio.gather(*cut, return_exceptions=True)
        await eventually(lambda: there.locks == 0)
        for _, writer in silent:
            writer.close()


async def test_connections_far_beyond_the_bound_are_cut_at_once(
    store: Path, clock: FakeClock, client: MakeClient, key: Key
) -> None:
    """They would take the descriptors of everybody's files, and asking costs them nothing."""
    most = 3 + descriptors.RESERVED // 2
    async with small_server(store, clock) as there, client(there.url) as holder:
        async with holder.lock(key), AsyncExitStack() as flood:
            for _ in range(most + 50):
                silent = flood.enter_context(socket.socket())
                silent.setblocking(False)
                with suppress(BlockingIOError, ConnectionError):
                    address = ("127.0.0.1", there.server.port)
                    await asyncio.get_running_loop().sock_connect(silent, address)
            await eventually(lambda: there.server.connections_opened > most)
            await eventually(lambda: there.server.connections_open <= most)
            assert there.live == 1
        await there.nothing_left()


async def test_a_hold_on_a_lock_that_was_given_out_is_let_in_beyond_the_bound(
    store: Path, clock: FakeClock, key: Key
) -> None:
    """Refused, it would block the removal of the content for ten minutes."""
    async with small_server(store, clock) as there, AsyncExitStack() as others:
        _, answer = await post(there.url, "lockcontent", key=key.text)
        for _ in range(3):
            await others.enter_async_context(connection(there))
        with_unlock = await post(
            there.url, "keeplocked", lockid=answer["lockid"], body=b'{"unlock":true}'
        )
        assert with_unlock == (200, {"locked": False})
        status, _ = await post(there.url, "checkpresent", key=key.text)
        assert status == 503


async def test_who_keeps_no_lock_is_not_let_stay_beyond_the_bound(
    store: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Anybody can ask to keep a lock that there is not."""
    monkeypatch.setattr("locklane_server.connections.EXCESS_SECONDS", 0.5)
    async with small_server(store, clock) as there, AsyncExitStack() as others:
        for _ in range(3):
            await others.enter_async_context(connection(there))
        reader, writer = await asyncio.open_connection("127.0.0.1", there.server.port)
        path = there.url.partition(str(there.server.port))[2]
        writer.write(
            f"POST {path}/v4/keeplocked?lockid=none&clientuuid=u HTTP/1.1\r\nHost: h\r\n"
            "Content-Length: 0\r\n\r\n".encode()
        )
        async with asyncio.timeout(BOUND):
            assert b" 200 " in await reader.readline()
            await reader.read()  # until it is cut
        writer.close()


async def test_one_address_has_half_of_the_connections_and_no_more(
    store: Path, clock: FakeClock, key: Key, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But for this machine's own, where a proxy may be."""
    assert connections._whose("127.0.0.1") == connections._whose("::1") == ""
    assert connections._whose("192.0.2.1") == "192.0.2.1"
    monkeypatch.setattr(connections, "_is_here", lambda address: address == "127.0.0.9")
    served = ServedRepository(DirectoryRepository.open(store, Workers(), clock=clock), clock=clock)
    async with (
        Server([served], access=WIDE_OPEN, port=0, connections=4) as server,
        AsyncExitStack() as greedy,
    ):
        there = There(server, served, clock, store)
        for _ in range(2):
            await greedy.enter_async_context(connection(there))
        status, _ = await post(there.url, "checkpresent", key=key.text)
        assert status == 503
        for other in ("127.0.0.2", "127.0.0.9"):
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", server.port, local_addr=(other, 0)
            )
            writer.write(b"GET /health HTTP/1.1\r\nHost: h\r\n\r\n")
            async with asyncio.timeout(BOUND):
                assert b" 200 " in await reader.readline()
            writer.close()
        await greedy.aclose()
        await eventually(lambda: not server._http._from)
