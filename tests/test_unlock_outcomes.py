"""What an unlock may come back with, and what the holder is told: silence means that all was well
to the end, and nothing else does."""

# What raises LockLost is the end of the ``async with``, so its body belongs into pytest.raises.
# ruff: noqa: PT012

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
from conftest import MakeClient, Serve, There, eventually

from locklane_client import Client, Key, LocklaneError, LockLost
from locklane_server.locks import Lock as ServerLock
from locklane_server.served import Hold


def the_lock(there: There) -> ServerLock:
    (lock,) = there.served.manager
    return lock


@pytest.mark.parametrize("keeps", [True, False], ids=["a hold", "no hold yet"])
async def test_a_lock_that_the_server_ended_just_before_the_unlock_is_lost(
    serve: Serve, client: MakeClient, key: Key, keeps: bool
) -> None:
    """The news and the unlock are under way at the same time."""
    async with serve() as there, client(there.url) as c:
        with pytest.raises(LockLost) as lost:
            async with c.lock(key) as lock:
                if keeps:
                    await eventually(lambda: there.live == 1)
                await there.served.unlock(the_lock(there))
                assert lock.lost is None, "the holder knew before it asked to unlock"
            await lock.confirmed()
        assert "unlocked" in lost.value.reason
        assert lost.value.retained_for == 0
        await there.nothing_left()


async def test_a_lock_that_the_server_forgot_before_it_was_kept_is_lost(
    serve: Serve, key: Key
) -> None:
    """The body is shorter than a round trip, so the unlock is asked before the answer comes."""
    async with serve() as there, Client(there.url, transport="longpoll") as c:
        with pytest.raises(LockLost, match="no such lock") as lost:
            async with c.lock(key) as lock:
                there.served.manager.unlock(lock.lock_id or "", there.clock())
        assert lost.value.retained_for == 0


async def test_a_lock_whose_time_was_over_before_it_was_kept_is_lost(
    serve: Serve, key: Key
) -> None:
    async with serve() as there, Client(there.url, transport="longpoll") as c:
        with pytest.raises(LockLost, match="no such lock"):
            async with c.lock(key):
                there.clock.advance(601)


@asynccontextmanager
async def hasty_peer(answer: bytes) -> AsyncIterator[str]:
    """Locks; and answers ``keeplocked`` as soon as it has its head, whatever its body says."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, EOFError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                keeps = b"/keeplocked?" in head
                body = answer if keeps else b'{"locked":true,"lockid":"abc"}'
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
                await writer.drain()
                if keeps:
                    await reader.readuntil(b"\r\n0\r\n\r\n")
        writer.close()

    listening = await asyncio.start_server(connected, "127.0.0.1", 0)
    async with listening:
        yield f"annex+http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/git-annex/u"


@pytest.mark.parametrize("answered", [False, True], ids=["at the unlock", "before the unlock"])
async def test_a_keeplocked_answered_at_once_with_a_reason_is_a_lost_lock(
    key: Key, answered: bool
) -> None:
    answer = b'{"locked":false,"reason":"no such lock"}'
    async with hasty_peer(answer) as url, Client(url, transport="longpoll") as c:
        async with asyncio.timeout(10):
            with pytest.raises(LockLost, match="no such lock") as lost:
                async with c.lock(key, interrupt=False) as lock:
                    if answered:
                        await lock.wait_lost()
        assert lost.value.retained_for == 0


async def test_a_reason_that_leaves_the_retention_says_so(key: Key) -> None:
    answer = b'{"locked":false,"reason":"the server is stopping","retained":true}'
    async with hasty_peer(answer) as url, Client(url, transport="longpoll") as c:
        async with asyncio.timeout(10):
            with pytest.raises(LockLost, match="the server is stopping") as lost:
                async with c.lock(key):
                    pass
        assert 590 < lost.value.retained_for <= 600


async def test_an_unlock_answered_plainly_is_none_of_the_stopping_servers_business(
    serve: Serve, client: MakeClient, key: Key, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server begins to stop at the very moment at which it has read the unlock."""
    stopped = 0
    unlock = Hold.unlock

    async with serve() as there, client(there.url) as c:

        async def stopping(self: Hold) -> None:
            nonlocal stopped
            stopped += 1
            there.served.end_holds("the server is stopping")
            await unlock(self)

        monkeypatch.setattr(Hold, "unlock", stopping)
        async with asyncio.timeout(10):
            async with c.lock(key) as lock:
                await eventually(lambda: there.live == 1)
            await lock.confirmed()
        assert stopped == 1
        assert lock.lost is None
        await there.nothing_left()


async def test_a_server_that_stops_before_the_unlock_arrives_leaves_the_retention(
    serve: Serve, client: MakeClient, key: Key
) -> None:
    async with serve() as there, client(there.url) as c:
        async with asyncio.timeout(10):
            with pytest.raises(LockLost, match="the server is stopping") as lost:
                async with c.lock(key) as lock:
                    await eventually(lambda: there.live == 1)
                    there.served.end_holds("the server is stopping")
                await lock.confirmed()
        assert 590 < lost.value.retained_for <= 600
        await there.retained(key)


async def test_whether_an_unlock_was_confirmed_can_be_asked_after_any_end(
    serve: Serve, client: MakeClient, key: Key
) -> None:
    """The body's own error hides that the lock was lost; who asks is told."""
    async with serve() as there, client(there.url) as c:
        with pytest.raises(KeyError, match="the body's own"):
            async with c.lock(key, interrupt=False) as lock:
                with pytest.raises(RuntimeError, match="still held"):
                    await lock.confirmed()
                await eventually(lambda: there.live == 1)
                there.served.end_holds("the server is stopping")
                await lock.wait_lost()
                raise KeyError("the body's own")
        with pytest.raises(LockLost, match="the server is stopping"):
            await lock.confirmed()


async def test_from_the_unlock_on_nothing_is_promised(
    serve: Serve, client: MakeClient, key: Key
) -> None:
    async with serve() as there, client(there.url) as c:
        async with c.lock(key) as lock:
            assert 590 < lock.retained_for <= 600
        assert lock.retained_for == 0
        assert lock.lost is None


async def test_a_client_closed_during_the_unlock_leaves_the_bodys_error_as_it_is(
    serve: Serve, client: MakeClient, key: Key, monkeypatch: pytest.MonkeyPatch
) -> None:
    unlocking, goes_on = asyncio.Event(), asyncio.Event()
    at_once = Hold.unlock

    async def slowly(hold: Hold) -> None:
        unlocking.set()
        await goes_on.wait()
        await at_once(hold)

    monkeypatch.setattr(Hold, "unlock", slowly)

    async def fail(c: Client) -> None:
        async with c.lock(key):
            raise KeyError("the body's own")

    async with serve() as there, client(there.url) as c:
        task = asyncio.create_task(fail(c))
        await unlocking.wait()
        closing = asyncio.create_task(c.aclose())
        await asyncio.sleep(0)
        goes_on.set()
        with pytest.raises(KeyError, match="the body's own"):
            await task
        await closing


async def test_an_acquisition_that_is_cancelled_gives_back_what_the_server_grants(
    serve: Serve, client: MakeClient, key: Key, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, goes_on = asyncio.Event(), asyncio.Event()
    async with serve() as there, client(there.url) as c:
        at_once = there.served.repository.lock_content

        async def slowly(key: Key, lock: ServerLock) -> bool:
            asked.set()
            await goes_on.wait()
            return await at_once(key, lock)

        monkeypatch.setattr(there.served.repository, "lock_content", slowly)

        async def hold() -> None:
            async with c.lock(key):
                raise AssertionError("it was cancelled before")

        task = asyncio.create_task(hold())
        await asked.wait()
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        assert there.locks == 1
        goes_on.set()
        await eventually(lambda: there.locks == 0)
        await there.nothing_left()


async def test_a_closed_client_takes_no_lock(serve: Serve, client: MakeClient, key: Key) -> None:
    async with serve() as there:
        async with client(there.url) as c:
            pass
        with pytest.raises(LocklaneError, match="the client is closed"):
            async with c.lock(key):
                raise AssertionError("locked by a closed client")


@pytest.mark.parametrize("seconds", [0, 0.01, -1, 3601, float("inf"), float("nan")])
def test_an_interval_that_no_socket_can_keep_is_refused(seconds: float) -> None:
    with pytest.raises(ValueError, match="keep_interval"):
        Client("annex+http://h/git-annex/u", keep_interval=seconds)
