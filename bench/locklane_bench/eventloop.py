"""An asyncio event loop in a thread of its own, for greenlets to wait on.

Locust runs its users as gevent greenlets; the reference clients run on asyncio. The loop lives in a
real thread, made past gevent's patches; a greenlet hands it a coroutine and waits on a gevent
result, so that other greenlets run meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Self, TypeVar

import gevent
from gevent import monkey
from gevent.event import AsyncResult, Event

from locklane_client.loop import new_event_loop

T = TypeVar("T")

_start_thread = monkey.get_original("_thread", "start_new_thread")


class EventLoopThread:
    """The loop. Use it as a context manager, from a greenlet."""

    def __init__(self) -> None:
        self._loop = new_event_loop()
        self._finished: deque[tuple[AsyncResult, asyncio.Task[Any]]] = deque()
        # The one thing of gevent's that another thread may touch: it wakes the hub.
        self._wake = gevent.get_hub().loop.async_()

    def __enter__(self) -> Self:
        self._wake.start(self._deliver)
        self._ended = gevent.get_hub().loop.async_()
        self._end_seen = Event()
        self._ended.start(self._end_seen.set)
        _start_thread(self._run, ())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._end_seen.wait()
        self._wake.close()
        self._ended.close()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        finally:
            for task in asyncio.all_tasks(self._loop):
                task.cancel()
                with contextlib.suppress(BaseException):
                    self._loop.run_until_complete(task)
            self._loop.close()
            self._ended.send()

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in the loop; the greenlet waits for what it returns or raises. If the
        greenlet is killed, the coroutine is cancelled."""
        result = AsyncResult()
        started: list[asyncio.Task[T]] = []

        def start() -> None:
            task = self._loop.create_task(work)
            started.append(task)
            task.add_done_callback(lambda done: self._finish(result, done))

        self._loop.call_soon_threadsafe(start)
        try:
            return result.get()  # type: ignore[no-any-return]
        except gevent.GreenletExit:
            self._loop.call_soon_threadsafe(lambda: started[0].cancel())
            raise

    def _finish(self, result: AsyncResult, task: asyncio.Task[Any]) -> None:
        self._finished.append((result, task))
        self._wake.send()

    def _deliver(self) -> None:
        while self._finished:
            result, task = self._finished.popleft()
            if task.cancelled():
                result.set_exception(asyncio.CancelledError())
            elif (error := task.exception()) is not None:
                result.set_exception(error)
            else:
                result.set(task.result())
