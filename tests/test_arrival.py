"""Has the hold reached the server? ``GET keeplocked`` tells, and the client asks when it lasts."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from conftest import Serve, There, eventually, post, until_interrupted

from locklane_client import Client, Key, LockLost

POLLED = pytest.mark.parametrize("polled", ["longpoll", "pipeline"])


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("locklane_client.arrival.CHECK_SECONDS", (0.05, 0.05, 0.1))


async def status(there: There, lock_id: str) -> tuple[int, Any]:
    url = f"{there.url.removeprefix('annex+')}/v4/keeplocked?lockid={lock_id}"
    async with aiohttp.ClientSession() as http, http.get(url) as response:
        return response.status, await response.json()


async def test_the_server_tells_whether_a_lock_has_an_open_hold(serve: Serve, key: Key) -> None:
    async with serve() as there:
        _, answer = await post(there.url, "lockcontent", key=key.text)
        lock_id = answer["lockid"]
        assert await status(there, lock_id) == (200, {"locked": True, "live": False})
        with there.served.keep(lock_id):  # type: ignore[union-attr]
            assert await status(there, lock_id) == (200, {"locked": True, "live": True})
        assert await status(there, lock_id) == (200, {"locked": True, "live": False})
        there.clock.advance(601)
        code, over = await status(there, lock_id)
        assert (code, over["locked"]) == (200, False)
        assert "ten minutes are over" in over["reason"]
        assert (await status(there, ""))[0] == 400


@POLLED
async def test_a_hold_that_lasts_is_asked_about_once_for_a_whole_client(
    serve: Serve, keys: list[Key], polled: str
) -> None:
    async with serve() as there, Client(there.url, transport=polled) as c:
        async with AsyncExitStack() as locks:
            for number in range(30):
                await locks.enter_async_context(c.lock(keys[number % 3]))
            await eventually(lambda: c.counts.requests == 2 * 30 + 1)
            await asyncio.sleep(0.3)
            assert c.counts.requests == 2 * 30 + 1
            assert there.live == 30
        assert await c.confirmed() == 0
        await there.nothing_left()


@POLLED
async def test_short_holds_that_were_all_missing_are_enough_to_know(
    key: Key, polled: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each lasts long enough to be asked about once, and not again."""
    monkeypatch.setattr("locklane_client.arrival.CHECK_SECONDS", (0.05, 60.0, 60.0))

    async def buffering(request: web.BaseRequest) -> web.StreamResponse:
        if request.method == "GET":
            return web.json_response({"locked": True, "live": False})
        await request.read()
        locks = request.path.endswith("/lockcontent")
        return web.json_response({"locked": locks, **({"lockid": "x"} if locks else {})})

    runner = web.ServerRunner(web.Server(buffering, access_log=None), shutdown_timeout=1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}/git-annex/u"
        async with Client(url, transport=polled) as c:
            for _ in range(2):
                missing = c._session.holds_missing
                async with c.lock(key):
                    await eventually(partial(_more_missing, c, missing))
            with pytest.raises(LockLost, match="not reached"):
                async with c.lock(key):
                    await until_interrupted()
    finally:
        await runner.cleanup()


def _more_missing(c: Client, than: int) -> bool:
    return c._session.holds_missing > than


@POLLED
async def test_a_short_hold_is_not_asked_about(serve: Serve, key: Key, polled: str) -> None:
    async with serve() as there, Client(there.url, transport=polled) as c:
        for _ in range(20):
            async with c.lock(key):
                pass
        await c.confirmed()
        await asyncio.sleep(0.2)
        assert c.counts.requests == 40


@POLLED
@pytest.mark.parametrize(
    "answer", ["not live", "no such lock", "404", "405", "nonsense", "503", "503 at first"]
)
async def test_only_a_server_that_says_so_again_and_again_makes_a_hold_lost(
    key: Key, polled: str, answer: str
) -> None:
    """Anything else is a server of another make, or a network that has a bad moment."""
    asked = 0

    async def serve(request: web.BaseRequest) -> web.StreamResponse:
        nonlocal asked
        if request.method == "GET":
            asked += 1
            match answer:
                case "not live":
                    return web.json_response({"locked": True, "live": False})
                case "no such lock":
                    return web.json_response({"locked": False, "reason": "no such lock"})
                case "nonsense":
                    return web.Response(text="hello")
                case "503 at first" if asked > 1:
                    return web.json_response({"locked": True, "live": False})
            return web.Response(status=int(answer[:3]))
        if request.path.endswith("/lockcontent"):
            return web.json_response({"locked": True, "lockid": "x"})
        async for data in request.content.iter_any():
            if b"true" in data:
                break
        return web.json_response({"locked": False})

    runner = web.ServerRunner(web.Server(serve, access_log=None), shutdown_timeout=1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}/git-annex/u"
        async with Client(url, transport=polled, answer_timeout=5) as c:
            if answer in ("not live", "no such lock", "503 at first"):
                gone = answer == "no such lock"
                with pytest.raises(LockLost, match=answer if gone else "not reached") as lost:
                    async with c.lock(key):
                        await until_interrupted()
                assert asked == {"not live": 3, "no such lock": 1, "503 at first": 4}[answer]
                # What the server does not know of, it does not keep.
                assert (lost.value.retained_for > 590) is not gone
            else:
                async with c.lock(key) as lock:
                    await eventually(lambda: asked >= 1)
                    await asyncio.sleep(0.4)
                    assert lock.lost is None
                assert await c.confirmed() == 0
                assert (asked > 1) is (answer == "503")
    finally:
        await runner.cleanup()
