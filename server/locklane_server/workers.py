"""Worker threads for what blocks: files, hashes, lock files.

One :class:`Workers` serves a whole server, so that ``--jobs`` bounds what it does at once. A piece
of work takes a worker for as long as it runs and not for as long as a request lives: a client that
is slow, or gone, holds none. Who waits for a worker waits without limit.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, TypeVar

import anyio
from anyio import CapacityLimiter, to_thread

T = TypeVar("T")

DEFAULT_JOBS = 8
"""Workers, unless told otherwise."""

STUCK_SECONDS = 0.005
"""After this long a batch does not hold up those who came after it any more."""

MAX_BATCH = 64
"""Pieces of brief work that one worker does in one go."""


class Workers:
    """See the module.

    :param jobs: how many work at once, 1 or more.
    :raises ValueError: ``jobs`` is less than 1.
    """

    def __init__(self, jobs: int = DEFAULT_JOBS) -> None:
        if jobs < 1:
            raise ValueError(f"there has to be 1 worker or more, not {jobs}")
        self.jobs = jobs
        self._limiter = CapacityLimiter(jobs)
        self._brief: list[tuple[Callable[..., Any], tuple[Any, ...], asyncio.Future[Any]]] = []
        self._batches: dict[asyncio.Task[None], float] = {}
        self._check: asyncio.TimerHandle | None = None

    async def run(self, work: Callable[..., T], *arguments: Any) -> T:
        """Do it in a worker. If the caller is cancelled it is still done to its end, and only then
        is the cancellation passed on: nobody else may take the file meanwhile."""
        return await to_thread.run_sync(work, *arguments, limiter=self._limiter)

    async def run_brief(self, work: Callable[..., T], *arguments: Any) -> T:
        """The same for work that takes microseconds, of which a worker does what has come together
        in one go: to wake a thread for each would cost several times the work itself."""
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._brief.append((work, arguments, done))
        self._start()
        try:
            return await asyncio.shield(done)
        except asyncio.CancelledError:
            with anyio.CancelScope(shield=True):
                await asyncio.wait([done])
            done.exception()  # nobody else looks at it
            raise

    def _start(self) -> None:
        """Have a worker take what waits, unless one is about to be free for it."""
        loop = asyncio.get_running_loop()
        if self._batches:
            wait = max(self._batches.values()) + STUCK_SECONDS - time.monotonic()
            if wait > 0 or len(self._batches) >= self.jobs:
                if self._check is None:
                    self._check = loop.call_later(max(wait, STUCK_SECONDS), self._look)
                return
        self._batches[loop.create_task(self._work())] = time.monotonic()

    def _look(self) -> None:
        self._check = None
        if self._brief:
            self._start()

    async def _work(self) -> None:
        me = asyncio.current_task()
        assert me is not None
        try:
            while self._brief:
                batch, self._brief = self._brief[:MAX_BATCH], self._brief[MAX_BATCH:]
                self._batches[me] = time.monotonic()
                results = await to_thread.run_sync(_do, batch, limiter=self._limiter)
                for (_, _, done), (result, error) in zip(batch, results, strict=True):
                    if error is None:
                        done.set_result(result)
                    else:
                        done.set_exception(error)
        finally:
            del self._batches[me]


def _do(
    batch: list[tuple[Callable[..., Any], tuple[Any, ...], asyncio.Future[Any]]],
) -> list[tuple[Any, BaseException | None]]:
    results: list[tuple[Any, BaseException | None]] = []
    for work, arguments, _ in batch:
        try:
            results.append((work(*arguments), None))
        except BaseException as error:
            results.append((None, error))
    return results
