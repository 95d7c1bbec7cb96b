"""The wall clock that git-annex's retention files are written by, and what is known of its steps.

While a repository is served, ``annex/locklane/clock-BOOTID`` says how the wall clock and the time
since the machine was started differ, with a line for each time that this changed. A server that
takes the place of one that was killed so knows whether the ten minutes of what it finds are really
over (:mod:`~locklane_server.repository.annex.clocksteps`).

Over a restart of the machine only the wall clock is left, and what it says then is believed: a
retention file of an earlier run ends when the wall clock says so, however it came there. The same
goes for a git-annex that removes content beside the server, at any time: it knows only the wall
clock, and what keeps it off meanwhile is the lock that the server holds, and that the server writes
its retention files anew a second after a step.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from locklane_server.clock import Clock, boot_id, boottime
from locklane_server.repository import filelock
from locklane_server.repository.annex import clocksteps
from locklane_server.repository.annex.clocksteps import Era, Eras
from locklane_server.repository.annex.modes import Modes

_PREFIX = "clock-"
_LINE = re.compile(rb"(-?[0-9]+\.[0-9]+) (-?[0-9]+\.[0-9]+)")
_MOST_BYTES = 16384
"""Of the file, before what is not needed any more is left out."""

_CLOSE_SECONDS = 0.001
_ATTEMPTS = 5

_Version = tuple[int, int, int]


class WallClock:
    """The wall clock. For any number of threads.

    :param directory: where its steps are written down; ``None``: nowhere.
    :param clock: seconds since the machine was started.
    :param wall: seconds since the epoch, by the clock that other processes read too.
    :param boot: names the run of the machine that ``clock`` counts in.
    :raises OSError: what is written down cannot be read.
    """

    def __init__(
        self,
        directory: str | None = None,
        modes: Modes | None = None,
        *,
        clock: Clock = boottime,
        wall: Callable[[], float] = time.time,
        boot: str | None = None,
    ) -> None:
        self._path = None if directory is None else f"{directory}/{_PREFIX}{boot or boot_id()}"
        self._modes = modes or Modes()
        self._clock = clock
        self._wall = wall
        self._guard = threading.Lock()
        self._eras: Eras = ()
        self._written: frozenset[Era] = frozenset()
        self._version: _Version | None = None
        with self._guard:
            self._read()
        self._look()

    @property
    def offset(self) -> float:
        """Names the time in which it has not been stepped, as it was last read."""
        return self._eras[-1].offset

    def look(self) -> bool:
        """Read it.

        :returns: whether there is something for :meth:`write_down`.
        """
        self._look()
        return self._path is not None and not self._written.issuperset(self._eras)

    def write_down(self) -> None:
        """Write down what has been seen of its steps, for who comes after.

        :raises OSError: that cannot be done; it can be tried again.
        """
        if self._path is None:
            return
        with self._guard:
            descriptor = self._modes.create(self._path)
            try:
                filelock.wait(descriptor)  # others may be writing it too
                self._read()
                eras = self._eras = clocksteps.needed(self._eras, self._clock())
                size = os.fstat(descriptor).st_size
                missing = [era for era in eras if era not in self._written]
                if size > _MOST_BYTES:
                    os.ftruncate(descriptor, 0)
                    size, missing = 0, list(eras)
                text = b"".join(b"%.6f %.6f\n" % (era.since, era.offset) for era in missing)
                os.pwrite(descriptor, text, size)
            finally:
                os.close(descriptor)
            self._written |= frozenset(eras)

    def until(self, end: float) -> float:
        """What it says when the other clock says ``end``, if it is not stepped; rather less."""
        _, offset = self._look()
        return end + offset

    def as_now(self, until: float) -> float | None:
        """When a promise ends by the clock as it is now.

        :param until: when it ends by the clock as whoever made it read that.
        :returns: ``None``: it is over.
        """
        if self._path is not None and _version(self._path) != self._version:
            with self._guard:
                self._read()
        now, offset = self._look()
        end = clocksteps.end(self._eras, until, now, offset)
        if end < now:
            return None
        return until if end == until - offset else end + offset

    def forget_other_runs(self) -> None:
        """Delete what was written down before the machine was last started."""
        if self._path is None:
            return
        directory, name = os.path.split(self._path)
        for other in os.listdir(directory):
            if other.startswith(_PREFIX) and other != name:
                with suppress(OSError):
                    os.unlink(f"{directory}/{other}")

    def _look(self) -> tuple[float, float]:
        """Now, and what is to be added to that for the wall clock."""
        now, offset = self._sample()
        eras = self._eras
        if not eras or clocksteps.is_stepped(eras[-1].offset, offset):
            with self._guard:
                seen = Era(round(now, 6), round(offset, 6))
                self._eras = clocksteps.merged((*self._eras, seen))
        return now, offset

    def _sample(self) -> tuple[float, float]:
        """Both clocks, read as nearly at once as may be."""
        closest = now = offset = float("inf")
        for _ in range(_ATTEMPTS):
            before, wall, after = self._clock(), self._wall(), self._clock()
            if after - before < closest:
                closest, now, offset = after - before, after, wall - after
            if closest < _CLOSE_SECONDS:
                break
        return now, offset

    def _read(self) -> None:
        if self._path is None:
            return
        try:
            with open(self._path, "rb") as file:
                version = _version(file.fileno())
                lines = file.read().splitlines()
        except FileNotFoundError:
            self._written, self._version = frozenset(), None
            return
        now = self._clock()
        found = [Era(float(m[1]), float(m[2])) for m in map(_LINE.fullmatch, lines) if m]
        found = [era for era in found if era.since <= now]  # of this run, and no other's
        self._written, self._version = frozenset(found), version
        self._eras = clocksteps.merged((*found, *self._eras))


def _version(file: str | int) -> _Version | None:
    try:
        status = os.stat(file)
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns
