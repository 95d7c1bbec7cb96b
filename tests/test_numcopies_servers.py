"""Numcopies with real servers, sockets and disks: what the model is asked is asked again of three
repositories that clients drop from over every transport; servers are killed, and clocks set."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from conftest import BOUND, Line, key_of, object_path, put
from forkedservers import Forked
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from kinds import CONTENTS, copy_annex, make_directory

import locklane_client.client
import locklane_server.transports
from locklane_client import Client, LocklaneError

TRANSPORTS = list(locklane_server.transports.TRANSPORTS)
KEY = key_of(CONTENTS[0])

Move = tuple[str, int, int, float]
"""What happens; to which client or repository; with which other; how much, or over what."""

site = st.integers(0, 2)
move = st.one_of(
    st.tuples(st.just("go on"), st.integers(0, 3), st.just(0), st.just(0.0)),
    st.tuples(st.just("go on"), st.integers(0, 3), st.just(0), st.just(0.0)),
    st.tuples(st.just("begin"), site, st.integers(1, 2), st.integers(0, 9).map(float)),
    st.tuples(st.just("kill"), site, st.just(0), st.just(0.0)),
    st.tuples(st.just("cut"), site, st.just(0), st.just(0.0)),
    st.tuples(st.just("pass"), st.just(0), st.just(0), st.sampled_from([200.0, 601.0])),
    st.tuples(st.just("step"), site, st.just(0), st.sampled_from([660.0, -660.0])),
)


def crossing(transport: int, *, steps: float) -> list[Move]:
    """Each of three clients has a lock on what the next drops from; then all servers are killed."""
    begun: list[Move] = [("begin", number, 1, float(transport)) for number in range(3)]
    locked: list[Move] = [("go on", number, 0, 0.0) for number in range(3)]
    killed: list[Move] = [("kill", number, 0, 0.0) for number in range(3)]
    stepped: list[Move] = [("step", number, 0, steps) for number in range(3)]
    removed: list[Move] = [("go on", number, 0, 0.0) for number in range(3)] * 2
    return [*begun, *locked, *stepped, *killed, *removed]


class Gated:
    """A client that goes on when it is told to."""

    def __init__(self, work: Callable[[Callable[[], Awaitable[None]]], Awaitable[None]]) -> None:
        self._go = asyncio.Semaphore(0)
        self._stopped = asyncio.Event()
        self._task = asyncio.create_task(self._run(work))

    async def _run(self, work: Callable[[Callable[[], Awaitable[None]]], Awaitable[None]]) -> None:
        try:
            with suppress(LocklaneError):
                await work(self._gate)
        finally:
            self._stopped.set()

    async def _gate(self) -> None:
        self._stopped.set()
        await self._go.acquire()

    async def begun(self) -> None:
        """It waits for the first time, or has ended."""
        async with asyncio.timeout(3 * BOUND):
            await self._stopped.wait()

    async def go_on(self) -> None:
        """To where it waits next, or to its end."""
        if not self._task.done():
            self._stopped.clear()
            self._go.release()
            await self.begun()

    async def end(self) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])


class World:
    def __init__(self, sites: list[Forked], set_clock: Callable[[float], None]) -> None:
        self.sites = sites
        self.set_clock = set_clock
        self.now = 0.0
        self.lines: list[Line] = []
        self.clients: list[Gated] = []
        self.removals = 0

    async def run(self, moves: list[Move]) -> int:
        """How many copies are left."""
        async with AsyncExitStack() as stack:
            self.lines = [await stack.enter_async_context(Line(site.url)) for site in self.sites]
            try:
                for kind, which, other, amount in moves:
                    await self.happens(kind, which, other, amount)
            finally:
                for line in self.lines:
                    line.cut()
                for client in self.clients:
                    await client.end()
        return sum(object_path(site.store, KEY).exists() for site in self.sites)

    async def happens(self, kind: str, which: int, other: int, amount: float) -> None:
        match kind:
            case "begin":
                self.begin(which, (which + other) % 3, TRANSPORTS[int(amount) % len(TRANSPORTS)])
                await self.clients[-1].begun()
            case "go on" if which < len(self.clients):
                await self.clients[which].go_on()
            case "kill":
                self.lines[which].cut()
                await asyncio.to_thread(self.sites[which].kill)
                await asyncio.to_thread(self.sites[which].start)
            case "cut":
                self.lines[which].cut()
            case "step":
                self.sites[which].times[1] += amount
            case "pass":
                self.now += amount
                self.set_clock(self.now)
                for site in self.sites:
                    site.times[0] = self.now

    def begin(self, target: int, other: int, transport: str) -> None:
        async def drop(gate: Callable[[], Awaitable[None]]) -> None:
            async with (
                Client(self.lines[other].url, transport=transport) as keeper,
                keeper.lock(KEY, interrupt=False) as lock,
            ):
                await gate()
                async with Client(self.lines[target].url) as dropper:
                    stamp = await dropper.timestamp()
                    await gate()
                    left = math.floor(lock.retained_for)
                    if left > 0:
                        await dropper.remove_before(KEY, stamp + left)
                        self.removals += 1
                await gate()

        self.clients.append(Gated(drop))


@pytest.fixture
def worlds(
    annex_template: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Callable[[list[Move]], tuple[int, int]]]:
    """``worlds()(moves)``: copies that are left of three, and removals that were confirmed."""
    real = locklane_client.client._clock
    ahead = 0.0

    def set_clock(seconds: float) -> None:
        nonlocal ahead
        ahead = seconds

    monkeypatch.setattr(locklane_client.client, "_clock", lambda: real() + ahead)

    @contextmanager
    def sites(forgetful: bool) -> Iterator[list[Forked]]:
        with TemporaryDirectory(ignore_cleanup_errors=True) as directory:
            made = []
            for number, kind in enumerate(("annex", "directory", "annex")):
                store = Path(directory) / str(number)
                if kind == "annex":
                    copy_annex(annex_template, store)
                else:
                    make_directory(store)
                    put(store, CONTENTS[0])
                made.append(Forked(store, forgetful=forgetful))
            try:
                for site in made:
                    site.start()
                yield made
            finally:
                for site in made:
                    site.kill()

    def world(*, forgetful: bool = False) -> Callable[[list[Move]], tuple[int, int]]:
        def run(moves: list[Move]) -> tuple[int, int]:
            set_clock(0.0)
            with sites(forgetful) as made:
                world = World(made, set_clock)
                return asyncio.run(world.run(moves)), world.removals

        return run

    return world


few = settings(
    max_examples=4,
    deadline=None,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


def test_no_run_loses_the_last_copy(
    worlds: Callable[..., Callable[[list[Move]], tuple[int, int]]],
) -> None:
    run = worlds()

    @few
    @example(moves=crossing(0, steps=660.0))
    @given(moves=st.lists(move, min_size=10, max_size=30))
    def look(moves: list[Move]) -> None:
        left, _ = run(moves)
        assert left >= 1, "the last copy is lost"

    look()


@pytest.mark.parametrize("number", range(len(TRANSPORTS)), ids=TRANSPORTS)
def test_of_three_that_drop_at_once_none_succeeds_over_killed_servers(
    worlds: Callable[..., Callable[[list[Move]], tuple[int, int]]], number: int
) -> None:
    """Each has the lock that forbids the next; the clocks are set forward meanwhile."""
    assert worlds()(crossing(number, steps=660.0)) == (3, 0)


def test_a_client_that_drops_alone_succeeds(
    worlds: Callable[..., Callable[[list[Move]], tuple[int, int]]],
) -> None:
    alone: list[Move] = [("begin", 0, 1, 0.0), *[("go on", 0, 0, 0.0)] * 3]
    assert worlds()(alone) == (2, 1)


def test_all_is_lost_where_servers_forget_what_was_promised(
    worlds: Callable[..., Callable[[list[Move]], tuple[int, int]]],
) -> None:
    """So that the others would have found it."""
    assert worlds(forgetful=True)(crossing(0, steps=0.0)) == (0, 3)
