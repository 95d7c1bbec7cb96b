"""One websocket for all locks: order, slowness, numbers, malformed messages, the end."""

# What raises LockLost is the end of the ``async with``, so its body belongs into pytest.raises.
# ruff: noqa: PT012

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import aiohttp
import pytest
import websockets
from conftest import ABSENT, BOUND, SOMEBODY, Line, Serve, There, eventually, remove
from websockets.exceptions import ConnectionClosed

from locklane_client import Client, Key, LockLost, ServerUnreachable, multiplexed
from locklane_server.locks import Lock as ServerLock


@asynccontextmanager
async def channel(there: There, **options: Any) -> AsyncIterator[websockets.ClientConnection]:
    url = f"{there.url.replace('annex+http', 'ws')}/v4/locks?clientuuid={SOMEBODY}"
    async with websockets.connect(url, proxy=None, **options) as made:
        yield made


async def said(to: websockets.ClientConnection) -> dict[str, Any]:
    async with asyncio.timeout(BOUND):
        message: dict[str, Any] = json.loads(await to.recv())
    return message


async def test_it_answers_as_documented(serve: Serve, keys: list[Key]) -> None:
    async with serve() as there:
        async with channel(there) as to:
            await to.send(f'{{"id":7,"lock":"{keys[0].text}"}}')
            [lock] = [await said(to)]
            assert lock == {"id": 7, "locked": True, "lockid": lock["lockid"]}
            [held] = there.served.manager
            assert (held.id, held.transport, held.live) == (lock["lockid"], "multiplex", True)
            await to.send(f'{{"id":0,"lock":"{ABSENT.text}"}}')
            assert await said(to) == {
                "id": 0,
                "locked": False,
                "reason": "the content is not present",
            }
            await to.send('{"id":7,"unlock":true}')
            assert await said(to) == {"id": 7, "locked": False}
            assert there.locks == 0
            # Both numbers are free again.
            await to.send(f'{{"id":7,"lock":"{keys[1].text}"}}')
            assert (await said(to))["locked"]
            await to.send('{"id":8,"unlock":true}')
            refused = await said(to)
            assert (refused["id"], refused["locked"]) == (8, False)
            assert "no such lock" in refused["reason"]
        await there.retained(keys[1])


async def test_a_key_in_brackets_is_the_key(serve: Serve, key: Key) -> None:
    """As everywhere in the API ("base64 encoding of keys")."""
    assert multiplexed.parse_request('{"id":1,"lock":"[V09STS0tYQ==]"}').key == "WORM--a"
    odd = "WORM--\udcff[x]"
    assert multiplexed.parse_request(multiplexed.lock_request(1, odd)).key == odd


async def test_a_slow_lock_holds_up_no_other(
    serve: Serve, keys: list[Key], monkeypatch: pytest.MonkeyPatch
) -> None:
    goes_on = asyncio.Event()
    async with serve() as there, Client(there.url, transport="multiplex") as c:
        at_once = there.served.repository.lock_content

        async def slowly(key: Key, lock: ServerLock) -> Any:
            if key == keys[0]:
                await goes_on.wait()
            return await at_once(key, lock)

        monkeypatch.setattr(there.served.repository, "lock_content", slowly)

        async def hold() -> None:
            async with c.lock(keys[0]):
                pass

        slow = asyncio.create_task(hold())
        await eventually(lambda: there.locks == 1)
        for number in range(20):
            async with c.lock(keys[1 + number % 2]):
                assert not slow.done()
        goes_on.set()
        await slow
        assert c.connections_opened == 1
        await there.nothing_left()


async def test_many_slow_locks_hold_up_neither_unlocks_nor_signs_of_life(
    serve: Serve, keys: list[Key], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that stalls: more locks than the server takes at a time wait for it."""
    goes_on = asyncio.Event()
    async with (
        serve() as there,
        Client(there.url, transport="multiplex", keep_interval=0.2) as c,
    ):
        at_once = there.served.repository.lock_content

        async def slowly(key: Key, lock: ServerLock) -> Any:
            if key == keys[0]:
                await goes_on.wait()
            return await at_once(key, lock)

        monkeypatch.setattr(there.served.repository, "lock_content", slowly)

        async def hold() -> None:
            async with c.lock(keys[0]):
                pass

        async with c.lock(keys[1]) as innocent, asyncio.TaskGroup() as slow:
            async with c.lock(keys[2]):
                for _ in range(3 * multiplexed.UNDER_WAY):
                    slow.create_task(hold())
                await eventually(lambda: there.locks == 2 + multiplexed.UNDER_WAY)
            assert there.served.manager.locks_on(keys[2].text) == 0
            await asyncio.sleep(1)  # five intervals without a sign of life would be too many
            assert innocent.lost is None
            goes_on.set()
        await there.nothing_left()


async def test_more_locks_at_once_than_may_wait_are_refused_with_the_reason(
    serve: Serve, key: Key, monkeypatch: pytest.MonkeyPatch
) -> None:
    goes_on = asyncio.Event()
    async with serve() as there, channel(there) as to:
        at_once = there.served.repository.lock_content

        async def slowly(key: Key, lock: ServerLock) -> Any:
            await goes_on.wait()
            return await at_once(key, lock)

        monkeypatch.setattr(there.served.repository, "lock_content", slowly)
        most = multiplexed.UNDER_WAY + multiplexed.WAITING
        for number in range(most + 1):
            await to.send(f'{{"id":{number},"lock":"{key.text}"}}')
        refused = await said(to)
        assert refused["id"] == most
        assert "more wait already" in refused["reason"]
        goes_on.set()
        assert all([(await said(to))["locked"] for _ in range(most)])


async def test_a_lock_that_comes_too_late_for_who_asked_is_let_go(
    serve: Serve, keys: list[Key], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its connection lives on, and so would the lock, without an owner."""
    goes_on = asyncio.Event()
    async with (
        serve() as there,
        Client(there.url, transport="multiplex", answer_timeout=0.3) as c,
    ):
        async with c.lock(keys[1]):
            at_once = there.served.repository.lock_content

            async def slowly(key: Key, lock: ServerLock) -> Any:
                await goes_on.wait()
                return await at_once(key, lock)

            monkeypatch.setattr(there.served.repository, "lock_content", slowly)
            with pytest.raises(ServerUnreachable):
                async with c.lock(keys[0]):
                    raise AssertionError("nobody answered")
            goes_on.set()
            await eventually(lambda: there.served.manager.locks_on(keys[0].text) == 0)
            assert there.locks == 1
        await there.nothing_left()


async def test_a_connection_that_breaks_leaves_retention_for_all_of_its_locks(
    serve: Serve, keys: list[Key]
) -> None:
    async with (
        serve() as there,
        Line(there.url) as line,
        Client(line.url, transport="multiplex") as c,
        AsyncExitStack() as locks,
    ):
        held = [
            await locks.enter_async_context(c.lock(keys[number % 3], interrupt=False))
            for number in range(30)
        ]
        assert line.connections == 1
        line.cut()
        async with asyncio.timeout(BOUND):
            for lock in held:
                await lock.wait_lost()
                assert 590 < lock.retained_for <= 600
        await eventually(lambda: there.live == 0)
        assert there.locks == 30
        for key in keys:
            assert not (await remove(there.url, key))["removed"]
        # The next lock has a new connection.
        async with c.lock(keys[0]):
            assert line.connections == 2
        with pytest.raises(LockLost):
            await locks.aclose()


async def test_a_client_that_does_not_read_is_held_up_and_not_remembered_without_limit(
    serve: Serve, key: Key
) -> None:
    """It asks for locks of what is not there, which costs it nothing and the server an answer."""
    async with serve() as there, aiohttp.ClientSession() as http:
        url = f"{there.url.removeprefix('annex+')}/v4/locks?clientuuid={SOMEBODY}"
        async with http.ws_connect(url, autoping=False) as to:
            raw = to.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            to._response.connection.protocol.pause_reading()  # type: ignore[union-attr]
            number = 0
            with pytest.raises(TimeoutError):
                while True:  # until nobody takes any more
                    async with asyncio.timeout(1):
                        await to.send_str(f'{{"id":{number},"lock":"{ABSENT.text}"}}')
                    number += 1
                    assert number < 2_000_000, "the server goes on reading for ever"
            refused = there.served.locks_refused.total()
            assert refused < number
            # Others are served meanwhile.
            async with Client(there.url, transport="multiplex") as c, c.lock(key):
                assert there.served.manager.locks_on(key.text) == 1


NO_MESSAGES: dict[str, tuple[str | bytes, int, str]] = {
    "no JSON": ("hello", 1007, "not JSON"),
    "an array": ("[1]", 1007, "not a JSON object"),
    "no id": ('{"lock":"WORM--a"}', 1007, '"id"'),
    "an id that is none": ('{"id":"1","lock":"WORM--a"}', 1007, '"id"'),
    "an id below 0": ('{"id":-1,"lock":"WORM--a"}', 1007, '"id"'),
    "a true id": ('{"id":true,"lock":"WORM--a"}', 1007, '"id"'),
    "an id too great": ('{"id":9007199254740993,"lock":"WORM--a"}', 1007, '"id"'),
    "an id that is a fraction": ('{"id":1.0,"lock":"WORM--a"}', 1007, '"id"'),
    "nothing asked": ('{"id":2}', 1007, "expected"),
    "both asked": ('{"id":2,"lock":"WORM--a","unlock":true}', 1007, "expected"),
    "an unlock that is none": ('{"id":1,"unlock":false}', 1007, "expected"),
    "no key": ('{"id":2,"lock":"nokey"}', 1007, "not a git-annex key"),
    "broken brackets": ('{"id":2,"lock":"[!]"}', 1007, "base64url"),
    "deeply nested": ("[" * 4000, 1007, "not JSON"),
    "an id in use": ('{"id":1,"lock":"WORM--a"}', 1008, "in use"),
    "binary": (b'{"id":1,"unlock":true}', 1003, "text messages only"),
    "too long": ('{"id":2,"lock":"' + "x" * multiplexed.MAX_MESSAGE + '"}', 1009, ""),
}


@pytest.mark.parametrize(("message", "code", "says"), NO_MESSAGES.values(), ids=NO_MESSAGES.keys())
async def test_malformed_messages_close_with_the_reason_and_lose_nothing(
    serve: Serve, key: Key, message: str | bytes, code: int, says: str
) -> None:
    async with serve() as there:
        async with channel(there) as to:
            await to.send(f'{{"id":1,"lock":"{key.text}"}}')
            assert (await said(to))["locked"]
            await to.send(message)
            async with asyncio.timeout(BOUND):
                with pytest.raises(ConnectionClosed) as end:
                    await to.recv()
            assert end.value.rcvd is not None
            assert end.value.rcvd.code == code
            assert says in end.value.rcvd.reason
        await there.retained(key)


async def test_a_get_without_an_upgrade_is_426(serve: Serve) -> None:
    async with serve() as there, aiohttp.ClientSession() as http:
        url = f"{there.url.removeprefix('annex+')}/v4/locks?clientuuid=u"
        async with http.get(url) as response:
            assert response.status == 426
            assert response.headers.get("Upgrade") == "websocket"


async def test_a_hold_ended_from_elsewhere_is_told_and_the_others_stay(
    serve: Serve, keys: list[Key]
) -> None:
    async with serve() as there, Client(there.url, transport="multiplex") as c:
        async with c.lock(keys[1]) as other:
            with pytest.raises(LockLost, match="unlocked by another request"):
                async with c.lock(keys[0]) as lock:
                    [mine] = [each for each in there.served.manager if each.id == lock.lock_id]
                    await there.served.unlock(mine)
                    await asyncio.sleep(BOUND)
            assert other.lost is None
            assert there.live == 1
        await there.nothing_left()


async def test_a_server_that_stops_tells_every_holder_and_closes(
    serve: Serve, keys: list[Key]
) -> None:
    async with Client("annex+http://127.0.0.1:1/git-annex/u", transport="multiplex"):
        pass  # one that was never used is closed without fuss
    async with serve() as there, channel(there) as to:
        for number in range(200):
            await to.send(f'{{"id":{number},"lock":"{keys[number % 3].text}"}}')
            assert (await said(to))["locked"]
        there.served.end_holds("the server is stopping")
        told = [await said(to) for _ in range(200)]
        assert {each["id"] for each in told} == set(range(200))
        assert all(each["reason"] == "the server is stopping" for each in told)
        assert all(each["retained"] for each in told)
        async with asyncio.timeout(BOUND):
            with pytest.raises(ConnectionClosed) as end:
                await to.recv()
        assert end.value.rcvd is not None
        assert end.value.rcvd.code == 1001
        assert there.locks == 200
