"""Worker threads for what blocks: files, hashes, lock files.

One :class:`Workers` serves a whole server, so that ``--jobs`` bounds what it does at once. A piece
of work takes a worker for as long as it runs and not for as long as a request lives: a client that
is slow, or gone, holds none. Who waits for a worker waits without limit.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from locklane_client.finishing import ended, to_its_end

T = TypeVar("T")

DEFAULT_JOBS = 8
"""Workers, unless told otherwise."""

STUCK_SECONDS = 0.005
"""After this long a batch of brief work does not hold up what came after it any more."""

MAX_BATCH = 64
"""Pieces of brief work that are done in one go."""

SLOW_SECONDS = 0.005
"""What takes longer than this on the event loop holds up the others."""

SLOW_SHARE = 0.02
"""The most of the event loop's time that such things may take in the long run, …"""

SLOW_AT_ONCE_SECONDS = 0.05
"""… and the most that they may take together before they are counted against that. (A file system
that writes its journal every few seconds makes one operation wait for some milliseconds then.)
Beyond it, such things are left to the workers for a while."""

FIRST_PAUSE_SECONDS = 2.0
LONGEST_PAUSE_SECONDS = 600.0
"""Bounds of that while."""


class WouldWait(Exception):
    """What was asked for has to wait for somebody."""


_Brief = tuple[Callable[..., Any], tuple[Any, ...], "asyncio.Future[Any]"]
_Results = list[tuple[Any, BaseException | None]]


class Workers:
    """See the module. Belongs to one event loop from its first use on.

    :param jobs: how many work at once, 1 or more; and as many again for brief work, and for work
        that waits for other processes, so that none of these waits behind another.
    :raises ValueError: ``jobs`` is less than 1.
    """

    def __init__(self, jobs: int = DEFAULT_JOBS) -> None:
        if jobs < 1:
            raise ValueError(f"there has to be 1 worker or more, not {jobs}")
        self.jobs = jobs
        self._threads = ThreadPoolExecutor(jobs, "worker")
        self._brief_threads = ThreadPoolExecutor(jobs, "brief")
        self._patient_threads = ThreadPoolExecutor(jobs, "patient")
        self._callers: Counter[ThreadPoolExecutor] = Counter()
        """Callers of each that wait for a worker or have one."""
        self._waiting: list[_Brief] = []
        self._batches: dict[Future[_Results], float] = {}
        self._timer: asyncio.Handle | None = None
        self._slow = 0.0
        self._slow_at = 0.0
        self._slow_until = 0.0
        self._pause = FIRST_PAUSE_SECONDS

    async def run(self, work: Callable[..., T], *arguments: Any) -> T:
        """Do it in a worker. If the caller is cancelled, work that has begun is done to its end,
        and only then is the cancellation passed on: nobody else may take the file meanwhile."""
        return await self._run(self._threads, work, *arguments)

    async def run_patiently(self, work: Callable[..., T], *arguments: Any) -> T:
        """The same for work that may have to wait for another process: what does not, does not
        wait behind it."""
        return await self._run(self._patient_threads, work, *arguments)

    async def _run(self, threads: ThreadPoolExecutor, work: Callable[..., T], *arguments: Any) -> T:
        self._callers[threads] += 1
        job = threads.submit(work, *arguments)
        done = asyncio.wrap_future(job)
        try:
            return await asyncio.shield(done)
        except asyncio.CancelledError:
            if not job.cancel():
                await ended(done)
            raise
        finally:
            self._callers[threads] -= 1

    async def run_brief(self, work: Callable[..., T], *arguments: Any) -> T:
        """The same for work that takes microseconds. What comes together is done in one go: to
        wake a thread for each piece would cost several times the work itself."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()
        self._waiting.append((work, arguments, done))
        if self._timer is None:
            self._timer = loop.call_soon(self._hand_out)
        return await to_its_end(done)

    @property
    def busy(self) -> int:
        """Callers of :meth:`run` that wait for a worker or have one."""
        return self._callers.total()

    @property
    def working(self) -> int:
        """Workers that have something to do."""
        having = sum(min(callers, self.jobs) for callers in self._callers.values())
        return having + len(self._batches)

    @property
    def waiting(self) -> int:
        """Pieces of work for which no worker is free."""
        queued = sum(max(0, callers - self.jobs) for callers in self._callers.values())
        return queued + len(self._waiting)

    @property
    def disk_is_slow(self) -> bool:
        """Whether :meth:`at_once` does nothing on the spot for the time being."""
        return time.monotonic() < self._slow_until

    def at_once(self, work: Callable[..., T], *arguments: Any) -> T:
        """Do on the spot, on the event loop, what takes microseconds unless the disk is in trouble:
        that is several times as fast as to wake a thread for it. Once it took too long, it is not
        done so for a while, and for twice as long each time that it takes too long again.

        :param work: takes one more argument: whether it may wait for others. If it may not, and
            would have to, it raises :class:`WouldWait` and has done nothing.
        :raises WouldWait: it has not been done.
        """
        begun = time.monotonic()
        if begun < self._slow_until:
            raise WouldWait
        try:
            return work(*arguments, False)
        finally:
            self._learn(begun)

    async def run_at_once(self, work: Callable[..., T], *arguments: Any) -> T:
        """:meth:`at_once`, or else by a worker."""
        try:
            return self.at_once(work, *arguments)
        except WouldWait:
            return await self.run_brief(work, *arguments, True)

    def _learn(self, begun: float) -> None:
        now = time.monotonic()
        if now - begun > SLOW_SECONDS:
            paid = (now - self._slow_at) * SLOW_SHARE
            self._slow = max(0.0, self._slow - paid) + now - begun
            self._slow_at = now
            if self._slow > SLOW_AT_ONCE_SECONDS:
                self._slow = 0.0
                self._slow_until = now + self._pause
                self._pause = min(2 * self._pause, LONGEST_PAUSE_SECONDS)
        elif self._pause > FIRST_PAUSE_SECONDS and now > self._slow_until + self._pause:
            self._pause = FIRST_PAUSE_SECONDS

    def close(self) -> None:
        """Wait for what is being done, and end the threads."""
        self._threads.shutdown()
        self._brief_threads.shutdown()
        self._patient_threads.shutdown()

    def _hand_out(self) -> None:
        """Have what waits done, unless a thread will be free for it in a moment."""
        self._timer = None
        if not self._waiting:
            return
        loop = asyncio.get_running_loop()
        if self._batches:
            stuck_in = max(self._batches.values()) + STUCK_SECONDS - time.monotonic()
            if stuck_in > 0 or len(self._batches) >= self.jobs:
                self._timer = loop.call_later(max(stuck_in, STUCK_SECONDS), self._hand_out)
                return
        batch, self._waiting = self._waiting[:MAX_BATCH], self._waiting[MAX_BATCH:]
        job = self._brief_threads.submit(_do, batch)
        self._batches[job] = time.monotonic()
        job.add_done_callback(lambda job: loop.call_soon_threadsafe(self._give_back, batch, job))

    def _give_back(self, batch: list[_Brief], job: Future[_Results]) -> None:
        del self._batches[job]
        for (_, _, done), (result, error) in zip(batch, job.result(), strict=True):
            if error is None:
                done.set_result(result)
            else:
                done.set_exception(error)
        if self._waiting:
            if self._timer is not None:
                self._timer.cancel()
            self._hand_out()


def _do(batch: list[_Brief]) -> _Results:
    results: _Results = []
    for work, arguments, _ in batch:
        try:
            results.append((work(*arguments), None))
        except BaseException as error:
            results.append((None, error))
    return results
