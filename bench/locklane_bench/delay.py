"""Distance: lines that deliver later what is put into them, and the timer that they share.

An event loop's own timers are too coarse for legs of 10 ms: uvloop's count whole milliseconds, and
so does the timeout of epoll on which asyncio's rest. A ``timerfd`` counts nanoseconds, and an event
loop can wait for it as for any other descriptor.
"""

from __future__ import annotations

import asyncio
import ctypes
import heapq
import math
import os
import time
from collections import deque
from collections.abc import Callable
from itertools import count

MOST_ON_THE_WAY = 4 * 2**20
"""Bytes that one direction of a connection may have on their way before its reading is held. What
was read at once may exceed it: by 256 KiB at most."""

_OVERHEAD = 256
"""What a thing on its way takes besides its bytes, roughly: small ones are bounded as well."""

_TFD_NONBLOCK, _TFD_CLOEXEC, _TFD_TIMER_ABSTIME = os.O_NONBLOCK, os.O_CLOEXEC, 1
_libc = ctypes.CDLL(None, use_errno=True)


class _TimeSpec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _TimerSpec(ctypes.Structure):
    _fields_ = (("interval", _TimeSpec), ("value", _TimeSpec))


class Timer:
    """Calls back at moments of :func:`time.monotonic_ns`: never early, and as late as it takes to
    wake this process. Calls of one moment come in the order in which they were asked for.

    :raises OSError: the process has no descriptor left.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._fd = _checked(
            _libc.timerfd_create(time.CLOCK_MONOTONIC, _TFD_NONBLOCK | _TFD_CLOEXEC)
        )
        self._calls: list[tuple[int, int, Callable[[], None]]] = []
        self._order = count()
        self._set_to = 0
        loop.add_reader(self._fd, self._ring)

    def call_at(self, due_ns: int, call: Callable[[], None]) -> None:
        """Call when it is ``due_ns``, or soon if that is past. The call must not raise."""
        heapq.heappush(self._calls, (due_ns, next(self._order), call))
        if not self._set_to or due_ns < self._set_to:
            self._set(due_ns)

    def close(self) -> None:
        """Forget all calls to come."""
        self._calls.clear()
        self._loop.remove_reader(self._fd)
        os.close(self._fd)

    def _ring(self) -> None:
        calls = self._calls
        while calls and calls[0][0] <= time.monotonic_ns():
            heapq.heappop(calls)[2]()
        self._set(calls[0][0] if calls else 0)  # always: it also makes it unreadable again

    def _set(self, due_ns: int) -> None:
        """Ring at this moment; 0: not at all."""
        self._set_to = due_ns
        spec = _TimerSpec(value=_TimeSpec(*divmod(due_ns, 10**9)))
        _checked(_libc.timerfd_settime(self._fd, _TFD_TIMER_ABSTIME, ctypes.byref(spec), None))


class Line:
    """One direction of a connection to somewhere far: what is put in arrives later, in order.

    :param delay_s: from here to there in s.
    :param hold: called when more than :data:`MOST_ON_THE_WAY` is on its way: put nothing more.
    :param release: called when there is room again.
    """

    def __init__(
        self, timer: Timer, delay_s: float, hold: Callable[[], None], release: Callable[[], None]
    ) -> None:
        self.full = False
        self._timer = timer
        self._delay_ns = math.ceil(delay_s * 1e9)
        self._hold = hold
        self._release = release
        self._opens_ns = 0
        self._on_the_way: deque[tuple[int, int, Callable[[], None]]] = deque()
        self._weight = 0
        self._cancelled = False

    def open_in(self, seconds: float) -> None:
        """Let nothing arrive earlier than that from now."""
        self._opens_ns = time.monotonic_ns() + math.ceil(seconds * 1e9)

    def put(self, arrive: Callable[[], None], size: int = 0) -> None:
        """Have it arrive at the other end: what has ``size`` bytes, by a call that must not raise.
        After :meth:`cancel` nothing happens."""
        if self._cancelled:
            return
        due_ns = max(time.monotonic_ns() + self._delay_ns, self._opens_ns)
        self._on_the_way.append((due_ns, size + _OVERHEAD, arrive))
        if len(self._on_the_way) == 1:
            self._timer.call_at(due_ns, self._arrived)
        self._weight += size + _OVERHEAD
        if self._weight > MOST_ON_THE_WAY and not self.full:
            self.full = True
            self._hold()

    def cancel(self) -> None:
        """Drop all that is on its way."""
        self._cancelled = True
        self._on_the_way.clear()

    def _arrived(self) -> None:
        if self._cancelled:
            return
        _, weight, arrive = self._on_the_way.popleft()
        if self._on_the_way:
            self._timer.call_at(self._on_the_way[0][0], self._arrived)
        self._weight -= weight
        arrive()
        if self.full and self._weight <= MOST_ON_THE_WAY and not self._cancelled:
            self.full = False
            self._release()


def _checked(result: int) -> int:
    if result == -1:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result
