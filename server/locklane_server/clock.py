"""The server's one monotonic clock ("gettimestamp").

Seconds of ``CLOCK_BOOTTIME``, as git-annex uses on Linux: it never goes back, is not set by anyone
and goes on while the machine sleeps. Retention and removal are both counted by it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

Clock = Callable[[], float]
"""Gives the time in seconds; never less than it gave before."""


def boottime() -> float:
    """Seconds since the machine was started, sleep included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def boot_id() -> str:
    """Names the run of the machine in which :func:`boottime` counts (proc_sys_kernel(5))."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
