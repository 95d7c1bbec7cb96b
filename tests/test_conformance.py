"""What every lock transport has to do, server with client, whichever it is.

Whatever takes the fixtures ``transport`` or ``client`` runs once for each name in
``locklane_server.transports.TRANSPORTS``.
It runs on every kind of repository, too, as far as the disk comes into it.
``test_conformance_peers.py`` has the clients' dealings with strange peers,
``test_conformance_input.py`` what a server does with strange input.
"""

# What raises LockLost is the end of the ``async with``, so its body belongs into pytest.raises.
# ruff: noqa: PT012

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable

import anyio
import pytest
from conftest import (
    ABSENT,
    BOUND,
    LOCKLANE,
    FakeClock,
    Line,
    MakeClient,
    Process,
    Serve,
    ServerProcess,
    descriptors,
    eventually,
    free_port,
    post,
    remove,
    until_interrupted,
)
from kinds import both, git, kind_of, lock_files

import locklane_server.transports
from locklane_client import (
    TRANSPORTS,
    Client,
    Key,
    LockLost,
    LockRefused,
)

pytestmark = both

CONNECTIONS = {
    "longpoll": lambda locks: 1,
    "pipeline": lambda locks: 1,
    "websocket": lambda locks: locks,
    "multiplex": lambda locks: 1,
    "duplex": lambda locks: 1,
}
"""Connections for so many locks one after the other. A new transport says here what it takes."""

REQUESTS = {
    "longpoll": lambda locks: 2 * locks,
    "pipeline": lambda locks: 2 * locks,
    "websocket": lambda locks: locks,
    "multiplex": lambda locks: 1,
    "duplex": lambda locks: locks,
}
"""HTTP requests for so many locks, by transport."""

ROUND_TRIPS = {
    "longpoll": lambda locks: 1 + 2 * locks,
    "pipeline": lambda locks: 1 + locks,
    "websocket": lambda locks: 3 * locks,
    "multiplex": lambda locks: 2 + 2 * locks,
    "duplex": lambda locks: 1 + 2 * locks,
}
"""Times that the client waits for so many locks, the making of connections included."""


def test_client_and_server_know_the_same_transports() -> None:
    """But for HTTP/2, which is a proxy's."""
    assert [name for name in TRANSPORTS if name != "longpoll-http2"] == list(
        locklane_server.transports.TRANSPORTS
    )
    assert all(name == transport.name for name, transport in TRANSPORTS.items())


# -- lock and unlock -------------------------------------------------------------------------------


async def test_a_lock_keeps_the_content_and_its_unlock_leaves_nothing(
    serve: Serve, client: MakeClient, key: Key, transport: str
) -> None:
    async with serve() as there, client(there.url) as c:
        async with c.lock(key) as lock:
            await eventually(lambda: there.live == 1)
            assert await there.on_disk() == 1
            [held] = there.served.manager
            assert (held.key, held.transport, held.id) == (key.text, transport, lock.lock_id)
            assert lock.lost is None
            assert 590 < lock.retained_for <= 600
            refused = await remove(there.url, key)
            assert refused == {
                "removed": False,
                "plusuuids": [],
                "reason": "the content is locked",
            }
        await there.nothing_left()
        assert (await remove(there.url, key))["removed"]


async def test_leaving_a_lock_returns_when_the_server_has_unlocked(
    serve: Serve, client: MakeClient, key: Key, transport: str
) -> None:
    """But over pipeline, which has sent the unlock by then, and can be asked to wait."""
    async with serve() as there, client(there.url) as c:
        async with c.lock(key) as lock:
            pass
        if transport == "pipeline":
            await lock.confirmed()
        assert there.locks == 0
        await lock.confirmed()
        assert await c.confirmed() == 0


async def test_50_locks_one_after_the_other_take_the_connections_expected(
    serve: Serve, client: MakeClient, key: Key, transport: str
) -> None:
    async with serve() as there, client(there.url) as c:
        for _ in range(50):
            async with c.lock(key):
                pass
        expected = CONNECTIONS[transport](50)
        assert c.connections_opened == expected
        assert c.counts.requests == REQUESTS[transport](50)
        assert c.counts.round_trips == ROUND_TRIPS[transport](50)
        assert await c.confirmed() == 0
        assert there.server.connections_opened == expected
        await there.nothing_left()


async def test_the_bodys_own_error_passes_through_and_unlocks(
    serve: Serve, client: MakeClient, key: Key
) -> None:
    async with serve() as there, client(there.url) as c:
        with pytest.raises(ZeroDivisionError):
            async with c.lock(key):
                _ = 1 // 0
        await there.nothing_left()


async def test_200_at_once_leave_nothing_behind(
    serve: Serve, client: MakeClient, keys: list[Key]
) -> None:
    async with serve() as there:
        tasks, files = len(asyncio.all_tasks()), descriptors()
        async with client(there.url) as c:
            held = 0
            done = asyncio.Event()

            async def hold(key: Key) -> None:
                nonlocal held
                async with c.lock(key):
                    held += 1
                    await done.wait()

            async with asyncio.TaskGroup() as holders:
                for number in range(200):
                    holders.create_task(hold(keys[number % len(keys)]))
                await eventually(lambda: held == 200)
                await eventually(lambda: there.live == 200)
                # git-annex's retention is the key's, and not each lock's.
                recorded = 200 if kind_of(there.store) == "directory" else len(keys)
                assert await there.on_disk() == recorded
                assert not (await remove(there.url, keys[0]))["removed"]
                done.set()
            await there.nothing_left()
        await eventually(lambda: len(asyncio.all_tasks()) == tasks)
        await eventually(lambda: descriptors() == files)


# -- refused ---------------------------------------------------------------------------------------


async def test_absent_content_is_refused_with_the_reason(serve: Serve, client: MakeClient) -> None:
    async with serve() as there, client(there.url) as c:
        with pytest.raises(LockRefused, match="not present"):
            async with c.lock(ABSENT):
                raise AssertionError("held a lock on nothing")
        await there.nothing_left()


async def test_a_lock_beyond_the_limit_is_refused_with_the_reason(
    serve: Serve, client: MakeClient, key: Key
) -> None:
    async with serve(limit=2) as there, client(there.url) as c:
        async with c.lock(key), c.lock(key):
            with pytest.raises(LockRefused, match="as many locks as it may"):
                async with c.lock(key):
                    raise AssertionError("held one lock too many")
        async with c.lock(key):
            assert there.locks == 1
        await there.nothing_left()


async def test_content_that_is_being_removed_is_refused(
    serve: Serve, client: MakeClient, key: Key
) -> None:
    async with serve() as there, client(there.url) as c:
        assert there.served.manager.begin_removal(key.text, there.clock()) is None
        with pytest.raises(LockRefused, match="being removed"):
            async with c.lock(key):
                raise AssertionError("held a lock on what is being removed")
        there.served.manager.end_removal(key.text)
        async with c.lock(key):
            pass
        await there.nothing_left()


async def test_what_is_no_key_never_leaves_the_client(client: MakeClient) -> None:
    async with client(f"annex+http://127.0.0.1:{free_port()}/git-annex/u") as c:
        with pytest.raises(ValueError, match="not a git-annex key"):
            async with c.lock("no key"):
                pass
        assert c.counts.requests == 0


# -- two holders, and removal ----------------------------------------------------------------------


async def test_while_one_of_two_holders_stays_the_content_stays(
    serve: Serve, client: MakeClient, key: Key
) -> None:
    async with serve() as there, client(there.url) as one, client(there.url) as other:
        async with one.lock(key):
            async with other.lock(key):
                await eventually(lambda: there.live == 2)
            await eventually(lambda: there.locks == 1)
            assert not (await remove(there.url, key))["removed"]
        await there.nothing_left()
        assert (await remove(there.url, key))["removed"]


async def test_a_hold_longer_than_the_retention_stays_until_it_is_lost(
    serve: Serve, client: MakeClient, key: Key
) -> None:
    async with serve() as there, Line(there.url) as line, client(line.url) as c:
        with pytest.raises(LockLost):
            async with c.lock(key):
                await eventually(lambda: there.live == 1)
                for _ in range(3):
                    there.clock.advance(601)
                    await there.served.sweep()
                    assert not (await remove(there.url, key))["removed"]
                assert await there.on_disk() == 1
                line.cut()
                await until_interrupted()
        await eventually(lambda: there.served.holds == 0)
        assert (await remove(there.url, key))["removed"]
        await there.served.sweep()
        await there.nothing_left()


async def test_a_hold_longer_than_the_retention_can_be_unlocked(
    serve: Serve, client: MakeClient, key: Key
) -> None:
    async with serve() as there, client(there.url) as c:
        async with c.lock(key):
            await eventually(lambda: there.live == 1)
            there.clock.advance(3600)
        await there.nothing_left()


async def test_an_expired_id_means_nothing_any_more(
    serve: Serve, client: MakeClient, key: Key
) -> None:
    async with serve() as there, Line(there.url) as line, client(line.url) as c:
        with pytest.raises(LockLost):
            async with c.lock(key) as lock:
                await eventually(lambda: there.live == 1)
                line.cut()
                await until_interrupted()
        await there.retained(key)
        there.clock.advance(601)
        status, answer = await post(
            there.url, "keeplocked", lockid=lock.lock_id or "", body=b'{"unlock":false}'
        )
        assert status == 200
        assert answer["locked"] is False
        assert "ten minutes are over" in answer["reason"]
        await there.served.sweep()
        await there.nothing_left()


# -- somebody vanishes -----------------------------------------------------------------------------


async def test_a_connection_cut_is_noticed_at_both_ends_and_the_lock_is_retained(
    serve: Serve, client: MakeClient, key: Key
) -> None:
    async with serve() as there, Line(there.url) as line, client(line.url) as c:
        with pytest.raises(LockLost) as lost:
            async with c.lock(key) as lock:
                await eventually(lambda: there.live == 1)
                line.cut()
                await until_interrupted()
        assert lock.lost == lost.value.reason
        assert 590 < lost.value.retained_for <= 600
        await there.retained(key)
        await there.ends_by_its_time(key)


async def test_a_client_process_killed_leaves_its_lock_until_its_time(
    serve: Serve, transport: str, key: Key
) -> None:
    async with serve() as there:
        with Process(LOCKLANE, "lock", "--transport", transport, there.url, key.text) as process:
            await process.prints("holding 1 lock")
            await eventually(lambda: there.live == 1)
            process.kill()
        await there.retained(key)
        await there.ends_by_its_time(key)


async def test_a_client_closed_while_it_holds_leaves_its_lock_until_its_time(
    serve: Serve, client: MakeClient, key: Key
) -> None:
    async with serve() as there:
        c = client(there.url)
        with pytest.raises(LockLost):
            async with c.lock(key):
                await eventually(lambda: there.live == 1)
                await c.aclose()
                async with asyncio.timeout(5):
                    await until_interrupted()
        await there.retained(key)
        await there.ends_by_its_time(key)


async def killed_while_it_gave_locks(
    process: ServerProcess, client: MakeClient, keys: list[Key]
) -> list[str]:
    """Lock the keys, kill the server, and see that every holder learns of it; the locks' ids."""
    ids: list[str] = []

    async def hold(c: Client, key: Key) -> LockLost:
        with pytest.raises(LockLost) as lost:
            async with c.lock(key) as lock:
                ids.append(lock.lock_id or "")
                await until_interrupted()
        return lost.value

    async with client(process.url) as c:
        async with asyncio.TaskGroup() as holders:
            tasks = [holders.create_task(hold(c, key)) for key in keys]
            await eventually(lambda: len(ids) == len(keys))
            process.kill()
            killed = time.monotonic()
        assert time.monotonic() - killed < BOUND / 4
        for task in tasks:
            assert 590 < task.result().retained_for <= 600
            assert "stay" not in task.result().reason
    return ids


@pytest.mark.kinds("directory")
async def test_a_server_killed_is_told_to_the_holder_and_its_locks_outlive_it(
    serve: Serve,
    server_process: Callable[..., ServerProcess],
    client: MakeClient,
    keys: list[Key],
) -> None:
    process = server_process()
    ids = await killed_while_it_gave_locks(process, client, keys)

    async with serve(clock=FakeClock()) as there:
        assert there.url.rpartition("/")[2] == process.url.rpartition("/")[2]
        assert there.locks == await there.on_disk() == len(keys)
        for key in keys:
            assert not (await remove(there.url, key))["removed"]
        # One of them is unlocked by the id that the dead server gave out.
        [first] = [lock.key for lock in there.served.manager if lock.id == ids[0]]
        answer = await post(
            there.url, "keeplocked", lockid=ids[0], body=b'{"unlock":false}\n{"unlock":true}\n'
        )
        assert answer == (200, {"locked": False})
        assert (await remove(there.url, Key.parse(first)))["removed"]
    async with serve(clock=FakeClock(590)) as there:
        assert there.locks == len(keys) - 1
    async with serve(clock=FakeClock(601)) as there:
        assert there.locks == await there.on_disk() == 0
        for key in keys:
            assert (await remove(there.url, key))["removed"]


@pytest.mark.kinds("annex")
async def test_a_server_killed_leaves_retention_that_its_successor_and_git_annex_respect(
    serve: Serve,
    server_process: Callable[..., ServerProcess],
    client: MakeClient,
    keys: list[Key],
) -> None:
    """The ids are forgotten; what was promised is in git-annex's own files."""
    process = server_process()
    ids = await killed_while_it_gave_locks(process, client, keys)

    async with serve() as there:
        assert there.url.rpartition("/")[2] == process.url.rpartition("/")[2]
        assert there.locks == 0
        assert await there.on_disk() == len(keys)
        answer = await post(there.url, "keeplocked", lockid=ids[0], body=b'{"unlock":true}')
        assert answer[1]["locked"] is False
        for key in keys:
            refused = await remove(there.url, key)
            assert (refused["removed"], refused["reason"]) == (False, "the content is locked")
        dropping = ("annex", "dropkey", "--force", keys[0].text)
        with pytest.raises(AssertionError, match="content is locked"):
            await asyncio.to_thread(git, there.store, *dropping)
        # Locked anew and unlocked, it is still kept for as long as the dead server promised.
        async with client(there.url) as c, c.lock(keys[0]):
            pass
        assert not (await remove(there.url, keys[0]))["removed"]
        for retention in lock_files(there.store, "rtm"):
            assert 0 < float(retention.read_text().rstrip("s")) - time.time() <= 600.1
            retention.unlink()  # it may serve other keys too
            retention.write_text(f"{time.time() - 1:.6f}s")
        for key in keys:
            assert (await remove(there.url, key))["removed"]
        await there.nothing_left()


async def test_a_server_stopped_tells_every_holder_and_ends_with_0(
    server_process: Callable[..., ServerProcess], client: MakeClient, keys: list[Key]
) -> None:
    process = server_process()
    held = 0

    async def hold(c: Client, key: Key) -> LockLost:
        nonlocal held
        with pytest.raises(LockLost) as lost:
            async with c.lock(key):
                held += 1
                await until_interrupted()
        return lost.value

    async with client(process.url) as c:
        # A lock taken and let go over the same server, so that an idle connection may be open too.
        async with c.lock(keys[0]):
            pass
        async with asyncio.TaskGroup() as holders:
            tasks = [holders.create_task(hold(c, key)) for key in keys * 4]
            await eventually(lambda: held == len(tasks))
            process.terminate()
            stopped = time.monotonic()
        for task in tasks:
            assert "the server is stopping" in task.result().reason
            assert 590 < task.result().retained_for <= 600
        assert await process.ended() == 0
        # Every holder is told and answers at once, so there is nothing to wait for.
        assert time.monotonic() - stopped < 3
    assert "Traceback" not in process.output


async def test_a_stop_is_not_held_up_by_holders_that_do_not_answer(
    server_process: Callable[..., ServerProcess], transport: str, key: Key
) -> None:
    process = server_process()
    with Process(LOCKLANE, "lock", "--transport", transport, process.url, key.text) as holder:
        await holder.prints("holding 1 lock")
        holder.signal(signal.SIGSTOP)
        process.terminate()
        assert await process.ended() == 0
    assert "Traceback" not in process.output


async def test_unlocked_by_another_request_the_holder_is_told(
    serve: Serve, client: MakeClient, key: Key
) -> None:
    async with serve() as there, client(there.url) as c:
        with pytest.raises(LockLost, match="unlocked by another request") as lost:
            async with c.lock(key) as lock:
                await eventually(lambda: there.live == 1)
                answer = await post(
                    there.url, "keeplocked", lockid=lock.lock_id or "", body=b'{"unlock":true}'
                )
                assert answer == (200, {"locked": False})
                await until_interrupted()
        await there.nothing_left()
        # Nothing keeps the content now, so the holder must not be told that something does.
        assert lost.value.retained_for == 0
        assert "the content may not be protected any more" in str(lost.value)


async def test_a_lost_hold_leaves_nothing_behind_at_the_client(
    server_process: Callable[..., ServerProcess], client: MakeClient, key: Key
) -> None:
    process = server_process()
    async with client(process.url) as c:
        async with c.lock(key):
            pass  # now there is the connection that multiplex keeps
        tasks, files = len(asyncio.all_tasks()), descriptors()
        for _ in range(5):
            with pytest.raises(LockLost):
                async with c.lock(key) as lock:
                    await post(
                        process.url,
                        "keeplocked",
                        lockid=lock.lock_id or "",
                        body=b'{"unlock":true}',
                    )
                    await until_interrupted()
        await eventually(lambda: len(asyncio.all_tasks()) <= tasks, within=5)
        # At most one connection stays open to be used again.
        await eventually(lambda: descriptors() <= files + 1, within=5)


# -- interrupt=False -------------------------------------------------------------------------------


async def test_who_does_not_want_to_be_interrupted_is_told_and_learns_at_the_end(
    serve: Serve, client: MakeClient, key: Key
) -> None:
    async with serve() as there, Line(there.url) as line, client(line.url) as c:
        went_on = False
        with pytest.raises(LockLost) as lost:
            async with c.lock(key, interrupt=False) as lock:
                await eventually(lambda: there.live == 1)
                waiting = asyncio.create_task(lock.wait_lost())
                line.cut()
                async with asyncio.timeout(BOUND):
                    reason = await waiting
                assert lock.lost == reason
                await asyncio.sleep(0)
                went_on = True
        assert went_on
        assert lost.value.reason == reason
        await there.retained(key)


async def test_the_bodys_own_error_wins_over_a_lost_lock(
    serve: Serve, client: MakeClient, key: Key
) -> None:
    async with serve() as there, Line(there.url) as line, client(line.url) as c:
        with pytest.raises(ZeroDivisionError):
            async with c.lock(key, interrupt=False) as lock:
                line.cut()
                async with asyncio.timeout(BOUND):
                    await lock.wait_lost()
                _ = 1 // 0
        await eventually(lambda: there.served.holds == 0)


# -- cancelled -------------------------------------------------------------------------------------


async def test_cancelled_while_it_holds_it_unlocks(
    serve: Serve, client: MakeClient, key: Key
) -> None:
    async with serve() as there, client(there.url) as c:
        held = asyncio.Event()

        async def hold() -> None:
            async with c.lock(key):
                held.set()
                await until_interrupted()

        task = asyncio.create_task(hold())
        await held.wait()
        await eventually(lambda: there.live == 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await there.nothing_left()

        held.clear()
        async with anyio.create_task_group() as group:
            group.start_soon(hold)
            await held.wait()
            group.cancel_scope.cancel()
        await there.nothing_left()


@pytest.mark.parametrize("how", ["task", "scope"])
async def test_cancelled_at_any_moment_no_hold_stays_open(
    serve: Serve, client: MakeClient, key: Key, how: str
) -> None:
    async with serve() as there:
        tasks, files = len(asyncio.all_tasks()), descriptors()
        async with client(there.url) as c:
            outcomes = set()
            for moment in range(60):
                # In turns of the event loop, and so wherever a lock's life has a wait in it.
                turns = moment

                async def hold() -> str:
                    async with c.lock(key):
                        for _ in range(5):
                            await asyncio.sleep(0)
                    return "unlocked"

                async def pass_turns(turns: int = turns) -> None:
                    for _ in range(turns):
                        await asyncio.sleep(0.0002)

                if how == "task":
                    task = asyncio.create_task(hold())
                    await pass_turns()
                    task.cancel()
                    try:
                        outcomes.add(await task)
                    except asyncio.CancelledError:
                        outcomes.add("cancelled")
                else:
                    async with anyio.create_task_group() as group:
                        group.start_soon(hold)
                        await pass_turns()
                        outcomes.add("cancelled" if group.cancel_scope.cancel() is None else "")
                await eventually(lambda: there.served.holds == 0 and there.live == 0)
            assert "cancelled" in outcomes
        await eventually(lambda: len(asyncio.all_tasks()) == tasks)
        await eventually(lambda: descriptors() == files)
        there.clock.advance(601)
        await there.served.sweep()
        await there.nothing_left()
