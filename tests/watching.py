"""Watching a directory from outside (inotify(7)): who opens, reads, makes or changes anything in
it, in whatever way, is seen."""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_libc = ctypes.CDLL(None, use_errno=True)

_EVERYTHING = 0xFFF  # IN_ALL_EVENTS
_LOOKING = 0x1 | 0x10 | 0x20  # IN_ACCESS, IN_CLOSE_NOWRITE, IN_OPEN
_HEAD = struct.Struct("iIII")


class Watch:
    """See :func:`watching`."""

    def __init__(self, top: Path, leave_out: Path) -> None:
        self._descriptor = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        assert self._descriptor >= 0, os.strerror(ctypes.get_errno())
        self._leave_out = leave_out
        self._paths: dict[int, Path] = {}
        places = []
        for directory, below, _ in os.walk(top):
            places.append(place := Path(directory))
            below[:] = [name for name in below if place / name != leave_out]
        for place in places:  # after the walk, which would be seen
            number = _libc.inotify_add_watch(self._descriptor, os.fsencode(place), _EVERYTHING)
            assert number >= 0, os.strerror(ctypes.get_errno())
            self._paths[number] = place

    def seen(self) -> set[Path]:
        """The paths at which something has happened since it was last asked."""
        found = set()
        for number, mask, name in self._events():
            path = self._paths[number] / name
            if path != self._leave_out or mask & ~_LOOKING & _EVERYTHING:
                found.add(path)
        return found

    def _events(self) -> Iterator[tuple[int, int, str]]:
        while True:
            try:
                data = os.read(self._descriptor, 1 << 16)
            except BlockingIOError:
                return
            at = 0
            while at < len(data):
                number, mask, _, length = _HEAD.unpack_from(data, at)
                at += _HEAD.size + length
                yield number, mask, os.fsdecode(data[at - length : at].rstrip(b"\0"))

    def close(self) -> None:
        os.close(self._descriptor)


@contextmanager
def watching(top: Path, *, leave_out: Path) -> Iterator[Watch]:
    """Watch a directory and all below it.

    :param leave_out: a directory right below it, in which anything may happen, as long as it stays.
    """
    watch = Watch(top, leave_out)
    try:
        yield watch
    finally:
        watch.close()
