"""Interrupting a client wherever it waits, as whoever presses ctrl-C does in the end: its task is
cancelled at the first await, at the second, and so on until it gets through."""

from __future__ import annotations

import asyncio
import gc
import sys
import warnings
from collections.abc import Callable, Coroutine, Generator, Iterator
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from typing import Any

MANNERS = ("while it waits", "as it goes on")
"""When the interrupt comes: before what is waited for, or together with it, so that it is there,
and nobody takes it."""

Work = Callable[[], Coroutine[Any, Any, object]]


class _Interrupt:
    """To come when the n-th await is met, by a task or by those that it made."""

    def __init__(self, at: int, manner: str) -> None:
        self.came = False
        self.task: asyncio.Task[object] | None = None
        self._left = at
        self._manner = manner

    def met(self, future: Any) -> None:
        """Somebody begins to wait."""
        self._left -= 1
        if self._left == 0 and self.task is not None:
            if self._manner == MANNERS[1] and future is not None:
                future.add_done_callback(self._come)
            else:
                self._come()

    def _come(self, _: object = None) -> None:
        assert self.task is not None
        self.came = self.task.cancel()  # at once if it is its own await


_interrupt: ContextVar[_Interrupt | None] = ContextVar("interrupt", default=None)


class _Watched(Coroutine[Any, Any, Any]):
    """A coroutine whose awaits are counted."""

    def __init__(self, inner: Coroutine[Any, Any, Any], by: _Interrupt) -> None:
        self._inner = inner
        self._by = by

    def send(self, value: Any) -> Any:
        future = self._inner.send(value)
        self._by.met(future)
        return future

    def throw(self, *error: Any) -> Any:
        future = self._inner.throw(*error)
        self._by.met(future)
        return future

    def close(self) -> None:
        self._inner.close()

    def __await__(self) -> Generator[Any, Any, Any]:
        return self._inner.__await__()


def _factory(loop: asyncio.AbstractEventLoop, inner: Any, **options: Any) -> asyncio.Task[Any]:
    context = options.get("context")
    by = _interrupt.get() if context is None else context.get(_interrupt)
    if by is not None and asyncio.iscoroutine(inner):
        inner = _Watched(inner, by)
    return asyncio.Task(inner, loop=loop, **options)


async def interrupted(work: Work, at: int, manner: str) -> bool:
    """Do the work and interrupt it at an await; ``False``: it was through before.

    What it raises when it is not interrupted is raised.
    """
    loop = asyncio.get_running_loop()
    interrupt = _Interrupt(at, manner)
    context = copy_context()
    context.run(_interrupt.set, interrupt)
    loop.set_task_factory(_factory)  # type: ignore[arg-type]
    try:
        interrupt.task = loop.create_task(work(), context=context)
        await asyncio.wait([interrupt.task])
        await asyncio.sleep(0)
    finally:
        loop.set_task_factory(None)
    if interrupt.came:
        assert interrupt.task.cancelled(), (
            f"interrupted at await {at} {manner}, it went on: {interrupt.task}"
        )
        return True
    interrupt.task.result()
    return False


@contextmanager
def no_complaints() -> Iterator[list[str]]:
    """Nothing is left that complains: of what was never awaited, closed or looked at."""
    loop = asyncio.get_running_loop()
    said: list[str] = []
    hook = sys.unraisablehook

    def handle(_: asyncio.AbstractEventLoop, about: dict[str, Any]) -> None:
        said.append(f"{about.get('message')}: {about.get('exception')!r} {about}")

    loop.set_exception_handler(handle)
    sys.unraisablehook = lambda about: said.append(f"{about.exc_value!r} in {about.object!r}")
    try:
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            yield said
            gc.collect()
        said += [str(each.message) for each in warned]
    finally:
        sys.unraisablehook = hook
        loop.set_exception_handler(None)
    assert not said, said
