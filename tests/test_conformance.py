"""What every lock transport has to do, server with client, whichever it is.

Whatever takes the fixtures ``transport`` or ``client`` runs once for each name in
``locklane_client.TRANSPORTS``. At the end: what comes over the wire of one transport only.
"""

# What raises LockLost is the end of the ``async with``, so its body belongs into pytest.raises.
# ruff: noqa: PT012

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
import signal
import socket
import struct
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import pytest
import websockets
from aiohttp import web
from conftest import (
    ABSENT,
    BOUND,
    LOCKLANE,
    SOMEBODY,
    FakeClock,
    Line,
    Process,
    Serve,
    ServerProcess,
    There,
    descriptors,
    eventually,
    free_port,
    post,
    remove,
)
from websockets.exceptions import ConnectionClosed

import locklane_server.transports
import locklane_server.transports.websocket
from locklane_client import (
    TRANSPORTS,
    Client,
    Key,
    LocklaneError,
    LockLost,
    LockRefused,
    ProtocolViolation,
    ServerUnreachable,
)
from locklane_client.wire import MAX_UNLOCK_REQUEST

MakeClient = Callable[..., Client]

CONNECTIONS = {"longpoll": lambda locks: 1, "websocket": lambda locks: locks}
"""Connections for so many locks one after the other. A new transport says here what it takes."""

REQUESTS = {"longpoll": lambda locks: 2 * locks, "websocket": lambda locks: locks}
"""HTTP requests for so many locks, by transport."""


async def until_interrupted() -> None:
    """The body of a holder: waits to be interrupted; fails if nobody does."""
    await asyncio.sleep(BOUND)
    raise AssertionError("the holder was not interrupted")


def test_client_and_server_know_the_same_transports() -> None:
    assert list(TRANSPORTS) == list(locklane_server.transports.TRANSPORTS)
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
                assert await there.on_disk() == 200
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
            assert there.locks == 1
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


async def test_a_server_killed_is_told_to_the_holder_and_its_locks_outlive_it(
    serve: Serve,
    server_process: Callable[..., ServerProcess],
    client: MakeClient,
    keys: list[Key],
) -> None:
    process = server_process()
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
        assert "not protected" in str(lost.value)


async def test_a_lost_hold_leaves_nothing_behind_at_the_client(
    server_process: Callable[..., ServerProcess], client: MakeClient, key: Key
) -> None:
    process = server_process()
    async with client(process.url) as c:
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
        await eventually(lambda: len(asyncio.all_tasks()) == tasks, within=5)
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

        async def hold() -> None:
            async with c.lock(key):
                await until_interrupted()

        task = asyncio.create_task(hold())
        await eventually(lambda: there.live == 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await there.nothing_left()

        with anyio.move_on_after(0.05) as scope:
            await hold()
        assert scope.cancelled_caught
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


# -- no server, another server ---------------------------------------------------------------------


async def test_no_server_is_unreachable(client: MakeClient, key: Key) -> None:
    async with client(f"annex+http://127.0.0.1:{free_port()}/git-annex/u") as c:
        with pytest.raises(ServerUnreachable, match=r"127\.0\.0\.1"):
            async with c.lock(key):
                raise AssertionError("nobody locked")
        assert c.connections_opened == 0


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
    others = [name for name in TRANSPORTS if name != transport]
    async with serve(transports=others) as there, client(there.url) as c:
        with pytest.raises(ProtocolViolation) as refused:
            async with c.lock(key):
                raise AssertionError("nobody locked")
        assert "405" in str(refused.value)
        await there.nothing_left()


async def test_a_websocket_client_is_told_to_try_another_transport(serve: Serve, key: Key) -> None:
    async with serve(transports=["longpoll"]) as there:
        c = Client(there.url, transport="websocket")
        with pytest.raises(ProtocolViolation, match="try longpoll"):
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
        while self._answers:
            text = self._answers.pop(0)
            size = (
                bytes([len(text)])
                if len(text) < 126
                else b"\x7e" + struct.pack(">H", len(text))
                if len(text) < 65536
                else b"\x7f" + struct.pack(">Q", len(text))
            )
            writer.write(b"\x81" + size + text)
            await reader.readexactly(1)
        await reader.read()


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
            with pytest.raises(LockLost, match="no answer to the unlock") as lost:
                async with c.lock(key):
                    pass
        assert lost.value.retained_for > 590


@pytest.mark.parametrize("answer", NO_ANSWERS.values(), ids=NO_ANSWERS.keys())
async def test_an_unlock_answered_with_nonsense_is_a_lost_lock(
    client: MakeClient, key: Key, answer: bytes
) -> None:
    async with peer([LOCKED, answer]) as there, client(there.url, **QUICK) as c:
        async with asyncio.timeout(10):
            with pytest.raises(LockLost):
                async with c.lock(key):
                    pass


async def test_an_unlock_answered_with_a_lock_is_a_lost_lock(client: MakeClient, key: Key) -> None:
    async with peer([LOCKED, LOCKED]) as there, client(there.url, **QUICK) as c:
        async with asyncio.timeout(10):
            with pytest.raises(LockLost, match="answered the unlock with a lock"):
                async with c.lock(key):
                    pass


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
