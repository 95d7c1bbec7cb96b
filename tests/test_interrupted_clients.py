"""The reference clients, interrupted at every await: nothing of it is left, at either end."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from conftest import (
    ABSENT,
    MakeClient,
    Serve,
    There,
    descriptors,
    eventually,
    key_of,
    put,
    remove,
)
from interrupting import MANNERS, Work, interrupted, no_complaints
from kinds import both, object_path, partial_path

from locklane_client import Client, Key, LockRefused

CONTENT = random.Random(11).randbytes(1_200_000)
"""More than one block of an upload."""

KEY = key_of(CONTENT)

MOST = 300
"""Awaits of one piece of work. Reached only on failure."""


@asynccontextmanager
async def as_before(there: There) -> AsyncIterator[None]:
    """Whatever happens within, tasks, descriptors, workers and holds are afterwards as before."""
    tasks, files = asyncio.all_tasks(), descriptors()
    yield
    await eventually(lambda: asyncio.all_tasks() <= tasks)
    await eventually(lambda: there.server._api.in_progress == 0 and there.workers.busy == 0)
    await eventually(lambda: there.served.holds == 0 and there.live == 0)
    await eventually(lambda: there.server.connections_open == 0)
    await eventually(lambda: descriptors() <= files)


async def at_every_await(
    there: There, work: Work, manner: str, after: Callable[[], object] = lambda: None
) -> int:
    """Interrupt the work at every await; how many there are.

    :param after: called after each interrupt, and may return something to wait for.
    """
    with no_complaints():
        for at in range(1, MOST):
            async with as_before(there):
                came = await interrupted(work, at, manner)
            done = after()
            if asyncio.iscoroutine(done):
                await done
            if not came:
                return at - 1
    raise AssertionError(f"not through after {MOST} awaits")


@pytest.fixture(params=MANNERS)
def manner(request: pytest.FixtureRequest) -> str:
    return str(request.param)


# -- locks -----------------------------------------------------------------------------------------


async def given_back(there: There) -> None:
    """No lock is left, not even for the rest of its ten minutes."""
    await eventually(lambda: there.locks == 0)


@both
async def test_locks_interrupted_at_every_await_are_given_back(
    serve: Serve, client: MakeClient, keys: list[Key], manner: str
) -> None:
    async with serve() as there:

        async def work() -> None:
            async with client(there.url) as c:
                async with c.lock(keys[0]), c.lock(keys[1]):
                    await asyncio.sleep(0)
                await c.confirmed()

        await work()  # lock files, which are used again, are open from now on
        awaits = await at_every_await(there, work, manner, lambda: given_back(there))
        assert awaits > 10
        await there.nothing_left()
        for key in keys:
            assert (await remove(there.url, key))["removed"]


async def test_a_lock_that_is_refused_and_interrupted_leaves_nothing(
    serve: Serve, client: MakeClient, keys: list[Key], manner: str
) -> None:
    async with serve() as there:

        async def work() -> None:
            async with client(there.url) as c:
                with pytest.raises(LockRefused):
                    await c.lock(ABSENT).__aenter__()

        await work()
        assert await at_every_await(there, work, manner, lambda: given_back(there)) > 3
        await there.nothing_left()


# -- content ---------------------------------------------------------------------------------------


def asking(key: Key) -> dict[str, Callable[[Client], Coroutine[Any, Any, object]]]:
    """The requests that transfer nothing."""

    async def remove_before(c: Client) -> None:
        await c.remove_before(key, await c.timestamp() + 60)

    return {
        "checkpresent": lambda c: c.check_present(key),
        "gettimestamp": lambda c: c.timestamp(),
        "remove": lambda c: c.remove(key),
        "remove-before": remove_before,
    }


@pytest.mark.parametrize("request_", asking(ABSENT))
async def test_a_request_interrupted_at_every_await_leaves_nothing(
    serve: Serve, store: Path, keys: list[Key], request_: str, manner: str
) -> None:
    content = b"to be removed"
    async with serve() as there:

        async def work() -> None:
            async with Client(there.url) as c:
                await asking(key_of(content))[request_](c)

        def present() -> None:
            if not object_path(store, key_of(content)).exists():
                put(store, content)

        present()
        await work()
        present()
        assert await at_every_await(there, work, manner, present) > 3


async def test_a_download_interrupted_at_every_await_leaves_a_part_or_nothing(
    serve: Serve, store: Path, tmp_path: Path, manner: str
) -> None:
    put(store, CONTENT)
    path = tmp_path / "file"
    async with serve() as there:

        async def work() -> None:
            async with Client(there.url) as c:
                await c.get(KEY, path)

        def look() -> None:
            assert not path.exists() or path.read_bytes() == CONTENT
            left = [each for each in tmp_path.iterdir() if each.is_file()]
            assert {each.name for each in left} <= {"file", "file.part"}
            for each in left:
                each.unlink()

        await work()
        look()
        assert await at_every_await(there, work, manner, look) > 10


@both
async def test_an_upload_interrupted_at_every_await_is_nobodys_afterwards(
    serve: Serve, store: Path, tmp_path: Path, manner: str
) -> None:
    path = tmp_path / "file"
    path.write_bytes(CONTENT)
    async with serve() as there:

        async def work() -> None:
            async with Client(there.url) as c:
                await c.put(KEY, path)

        async def uploads_again() -> None:
            async with Client(there.url) as c:
                await c.put(KEY, path)  # else 409: a transfer is in progress
                await c.remove(KEY)
            await eventually(lambda: there.server.connections_open == 0)
            assert not partial_path(store, KEY).exists()

        await work()
        await uploads_again()
        assert await at_every_await(there, work, manner, uploads_again) > 10
