"""A process that holds many locks at once and leaves them alone.

``python -m locklane_bench.holder`` speaks lines: it reads an order (JSON), takes the locks and
answers with what it took (JSON); holds them until the next line, ``release``, then unlocks all and
answers with what came of that (JSON). Then it reads the next order, until its standard input ends.
Each order has a client, and so connections, of its own.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, closing
from dataclasses import asdict, dataclass
from itertools import cycle, islice

from locklane_client import Client, Lock, LocklaneError
from locklane_client.loop import new_event_loop, use_all_descriptors

AT_A_TIME = 200
"""Locks that are being taken, or unlocked, at the same time at the most."""

RELEASE = "release"
"""The line that has all locks unlocked."""

_LONGEST_LINE = 1 << 28
"""An order names its keys, in bytes."""


@dataclass(frozen=True, slots=True)
class Holding:
    """An order: what to hold."""

    url: str
    transport: str
    keys: list[str]
    """Locked in this order, and again from the first where there are fewer than ``count``."""
    count: int

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, line: str | bytes) -> Holding:
        return cls(**json.loads(line))


@dataclass(frozen=True, slots=True)
class Taken:
    """What came of taking the locks."""

    held: int
    seconds: float
    connections: int
    """That the client opened for them."""
    failure: str | None
    """Why there are not as many as were ordered: after the first that fails, no more are asked
    for."""


@dataclass(frozen=True, slots=True)
class Released:
    """What came of unlocking them."""

    unlocked: int
    """Those of which the server confirmed it."""
    seconds: float
    failure: str | None
    """What became of the first of the others."""


class Holds:
    """Takes, holds and unlocks the locks of one order.

    A fixed number of workers does it, each of which holds a pile of locks: a task for each lock
    would be counted as memory of the lock.

    :param client: whom the locks are taken with.
    :param keys: what to lock, not empty.
    :param count: how many locks, 1 or more.
    """

    def __init__(self, client: Client, keys: Sequence[str], count: int) -> None:
        self.held = 0
        self.unlocked = 0
        self.failure: str | None = None
        self.workers = min(AT_A_TIME, count)
        self._client = client
        self._keys = islice(cycle(keys), count)  # which the workers share
        self._taking = self.workers
        self._all_taken = asyncio.Event()
        self._release = asyncio.Event()

    async def taken(self) -> None:
        """Wait until all are held, or one could not be taken and no more are on their way."""
        await self._all_taken.wait()

    def release(self) -> None:
        """Have all unlocked; the workers end when they are."""
        self.failure = None
        self._release.set()

    async def work(self) -> None:
        """One worker, from the first lock to the last unlock."""
        async with AsyncExitStack() as pile:
            await self._take(pile)
            self._taking -= 1
            if not self._taking:
                self._all_taken.set()
            await self._release.wait()

    async def _take(self, pile: AsyncExitStack) -> None:
        for key in self._keys:
            if self.failure is not None:
                return
            holding = self._client.lock(key, interrupt=False)
            try:
                lock = await holding.__aenter__()
            except LocklaneError as error:
                self._failed(error)
            else:
                pile.push_async_callback(self._unlock, holding, lock)
                self.held += 1

    async def _unlock(self, holding: AbstractAsyncContextManager[Lock], lock: Lock) -> None:
        try:
            await holding.__aexit__(None, None, None)
            await lock.confirmed()
        except LocklaneError as error:
            self._failed(error)
        else:
            self.unlocked += 1

    def _failed(self, error: LocklaneError) -> None:
        self.failure = self.failure or f"{type(error).__name__}: {error}"


async def carry_out(order: Holding, lines: asyncio.StreamReader) -> None:
    """Take the locks of an order, say so, and unlock them when told to."""
    async with Client(order.url, transport=order.transport) as client:
        holds = Holds(client, order.keys, order.count)
        started = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for _ in range(holds.workers):
                group.create_task(holds.work())
            await holds.taken()
            seconds = time.perf_counter() - started
            _say(asdict(Taken(holds.held, seconds, client.connections_opened, holds.failure)))
            await lines.readline()  # ``release``, or the end, which is to say the same
            started = time.perf_counter()
            holds.release()
        seconds = time.perf_counter() - started
    # After the client has closed its connections: what comes next is to begin with none.
    _say(asdict(Released(holds.unlocked, seconds, holds.failure)))


async def serve() -> None:
    """Carry out the orders of standard input, until that ends."""
    lines = asyncio.StreamReader(limit=_LONGEST_LINE)
    pipe, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(lines), sys.stdin
    )
    with closing(pipe):
        while line := await lines.readline():
            await carry_out(Holding.from_json(line), lines)


def _say(answer: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


def main() -> None:
    use_all_descriptors()
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(serve())


if __name__ == "__main__":
    main()
