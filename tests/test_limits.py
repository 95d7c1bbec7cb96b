"""What a client can take is bounded, and what is refused says why."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from conftest import BOUND, SOMEBODY, MakeClient, Serve, eventually, post
from rawhttp import request, wire

from locklane_client import Client, Key, LockRefused, multiplexed
from locklane_server import api, body, connections, descriptors, websockets
from locklane_server.access import Access, Level
from locklane_server.locks import DEFAULT_LIMIT, MAX_HOLDS, Allowance, LockManager, Refusal
from locklane_server.transports import websocket


def test_an_allowance_bounds_all_locks_together_and_those_of_one_client() -> None:
    allowance = Allowance(4, 2)
    here, there = LockManager(allowance=allowance), LockManager(allowance=allowance)
    first = here.lock("k", "u", "t", 0, live=True, account="alice")
    there.lock("k", "u", "t", 0, live=True, account="alice")
    assert here.lock("k", "u", "t", 0, live=True, account="alice") is Refusal.CLIENT_LIMIT
    here.lock("k", "u", "t", 0, live=True, account="bob")
    there.lock("k", "u", "t", 0, live=True, account="10.0.0.1")
    assert there.lock("k", "u", "t", 0, live=True, account="carol") is Refusal.LIMIT
    assert not isinstance(first, Refusal)
    here.unlock(first.id, 1)
    assert not isinstance(there.lock("k", "u", "t", 1, live=True, account="alice"), Refusal)


def test_what_expires_makes_room_again() -> None:
    manager = LockManager(allowance=Allowance(10, 1))
    manager.lock("k", "u", "t", 0, live=False, account="alice")
    assert manager.lock("k", "u", "t", 599, live=False, account="alice") is Refusal.CLIENT_LIMIT
    assert not isinstance(manager.lock("k", "u", "t", 600, live=False, account="alice"), Refusal)


def test_nobody_in_particular_is_not_one_client() -> None:
    """Behind a unix socket all come from nowhere."""
    manager = LockManager(allowance=Allowance(10, 1))
    for _ in range(5):
        assert not isinstance(manager.lock("k", "u", "t", 0, live=False), Refusal)


def test_the_bounds_are_1_or_more() -> None:
    for bounds in ((0, 1), (1, 0)):
        with pytest.raises(ValueError, match="has to be 1 or more"):
            Allowance(*bounds)


async def test_a_client_with_as_many_locks_as_one_may_is_told_so_and_another_gets_his(
    serve: Serve, client: MakeClient, key: Key
) -> None:
    users = {b"GIT_ANNEX_P2PHTTP_PASSWORD_alice": b"a", b"GIT_ANNEX_P2PHTTP_PASSWORD_bob": b"b"}
    access = Access(Level.READ_ONLY).with_users(users)
    async with serve(access=access, allowance=Allowance(10, 1)) as there:
        alice = there.url.replace("//", "//alice:a@")
        bob = there.url.replace("//", "//bob:b@")
        async with client(alice) as one, client(bob) as other, one.lock(key):
            with pytest.raises(LockRefused, match="for this client as for one it may"):
                async with one.lock(key):
                    pass
            async with other.lock(key), client(there.url) as nobody, nobody.lock(key):
                assert there.locks == 3
        await there.nothing_left()


async def test_a_lock_is_kept_by_so_many_requests_at_once_and_no_more(
    serve: Serve, key: Key
) -> None:
    async with serve() as there:
        _, taken = await post(there.url, "lockcontent", key=key.text)
        goes_on = asyncio.Event()

        async def unlocks() -> AsyncIterator[bytes]:
            yield b'{"unlock": false}'
            await goes_on.wait()

        keeping = [
            asyncio.create_task(
                post(there.url, "keeplocked", lockid=taken["lockid"], body=unlocks())
            )
            for _ in range(MAX_HOLDS)
        ]
        await eventually(lambda: there.served.holds == MAX_HOLDS)
        status, answer = await post(
            there.url, "keeplocked", lockid=taken["lockid"], body=b'{"unlock": false}'
        )
        assert (status, answer["locked"]) == (200, False)
        assert "as many requests keep this lock already" in answer["reason"]
        assert there.live == 1
        goes_on.set()
        await asyncio.gather(*keeping)


async def test_requests_beyond_those_that_may_wait_are_503_and_locks_still_end(
    serve: Serve, keys: list[Key], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api, "MAX_WAITING", 2)
    goes_on = threading.Event()
    async with serve(jobs=1) as there, Client(there.url) as holder:
        async with holder.lock(keys[0]):
            await eventually(lambda: there.live == 1)
            busy = asyncio.create_task(there.workers.run(goes_on.wait, BOUND))
            await eventually(lambda: there.workers.working == 1)
            waiting = [
                asyncio.create_task(post(there.url, "remove", key=key.text)) for key in keys[1:]
            ]
            await eventually(lambda: there.workers.waiting >= 2)
            async with wire(there) as late:
                late.head("GET", request("checkpresent", keys[0]))
                answer = await late.answer()
                assert (answer.status, answer["Retry-After"]) == (503, "5")
                assert "2 requests wait for a worker" in answer.reason
                assert answer.reason == json.loads(answer.body)["error"]
        await eventually(lambda: there.locks == 0)
        goes_on.set()
        await asyncio.gather(busy, *waiting)


async def test_a_body_that_is_of_no_use_is_413(serve: Serve, key: Key) -> None:
    async with serve() as there, wire(there) as sender:
        sender.head("POST", request("checkpresent", key), length=api.MAX_BODY + 1)
        answer = await sender.answer()
        assert answer.status == 413
        assert f"up to {api.MAX_BODY} bytes" in json.loads(answer.body)["error"]


async def test_a_websocket_message_that_is_too_long_ends_the_websocket_and_not_the_server(
    serve: Serve, key: Key
) -> None:
    async with serve() as there, aiohttp.ClientSession() as http:
        base = there.url.removeprefix("annex+")
        for path in (f"v4/lockcontent?key={key}&", "v4/locks?"):
            async with http.ws_connect(f"{base}/{path}clientuuid={SOMEBODY}") as socket:
                await socket.send_str("x" * 1_000_000)
                while (await socket.receive()).type is aiohttp.WSMsgType.TEXT:
                    pass
                assert socket.close_code == 1009
        await eventually(lambda: there.live == 0)


def test_the_page_says_the_bounds_that_there_are() -> None:
    page = (Path(__file__).parents[1] / "docs/serving.md").read_text()
    table = {
        cells[1].strip(): f"{cells[2].strip()} → {cells[3].strip()}"
        for line in page.splitlines()
        if len(cells := line.split("|")) == 5
    }
    kib = body.BYTES // 1024
    for what, bound in {
        "locks, in all": f"({DEFAULT_LIMIT:,})",
        "requests that keep one lock": f"{MAX_HOLDS} ",
        "locks of a `multiplex` connection being taken": f"{multiplexed.UNDER_WAY}, and "
        f"{multiplexed.WAITING:,} ",
        "connections, and open holds with them": f"beyond {descriptors.RESERVED // 2} more",
        "a TLS handshake": f"{connections.HANDSHAKE_SECONDS:g} s",
        "the first head on a connection": f"{connections.HEAD_SECONDS:g} s → 408",
        "a connection between requests": f"{connections.IDLE_SECONDS:g} s",
        "a body where none is needed": f"{api.MAX_BODY // 1024} KiB → 413",
        "waiting for that body": f"{kib} KiB in each {body.SECONDS:g} s → 408",
        "requests that wait for a worker (`--jobs`)": f"{api.MAX_WAITING:,} → 503",
        "a message on a websocket": f"{websocket.MAX_MESSAGE // 1024} KiB; "
        f"{multiplexed.MAX_MESSAGE // 1024} KiB on",
        "an answer that its client does not take": f"{connections.TAKE_SECONDS:g} s; "
        f"{websockets.SEND_SECONDS:g} s",
    }.items():
        assert bound in table[what]


async def test_a_flood_of_pings_holds_up_nobody(serve: Serve, key: Key) -> None:
    ping = b"\x89\x80\0\0\0\0"
    async with serve() as there, wire(there) as flood:
        path = f"v4/{multiplexed.REQUEST}?clientuuid={SOMEBODY}"
        secret = "Sec-WebSocket-Key: eHh4eHh4eHh4eHh4eHh4eA=="
        upgrade = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", secret)
        flood.head("GET", path, *upgrade)
        assert " 101 " in await flood.line()
        flood.writer.write(ping * 400_000)
        loop = asyncio.get_running_loop()
        longest, end = 0.0, loop.time() + 2
        while (begun := loop.time()) < end:
            await asyncio.sleep(0)
            longest = max(longest, loop.time() - begun)
        assert longest < 0.2, longest
