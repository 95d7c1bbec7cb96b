"""Content locks that git-annex sees and respects, and that respect its own.

Beside an object lie, while it is locked, ``KEYFILE.lck``: a read lock on it holds the content, a
write lock removes it; ``KEYFILE.rtm``: the time until which nothing may be removed, even if the
process that locked it is gone; and ``KEYFILE.rtl``, whose write lock orders the writers of that.

Who is the only one with a lock takes it as a write lock for the moment in which it writes the
retention, and needs no ``KEYFILE.rtl`` for that.

A process has one descriptor and one read lock for all its locks on a key. All of this blocks, for
moments: it is called in worker threads, or on the event loop with ``wait=False``.
"""

from __future__ import annotations

import enum
import os
import random
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from locklane_server.descriptors import Descriptors
from locklane_server.repository import filelock
from locklane_server.repository.annex.modes import Modes
from locklane_server.repository.annex.spares import Spares
from locklane_server.workers import WouldWait

PATIENCE_SECONDS = 0.05
"""How long a lock is tried that another has as a write lock. Removal takes longer, or not."""

_ATTEMPTS = 100
"""Times that a lock is tried for whose file somebody deleted in the meantime."""


class Taken(enum.Enum):
    """What came of an attempt to lock."""

    LOCKED = enum.auto()
    NOT_PRESENT = enum.auto()
    BUSY = enum.auto()
    """Somebody removes the content, or has it locked against removal."""
    NO_DESCRIPTOR = enum.auto()
    """As many keys are locked as this process may have files open for that."""


def _any(_: str, __: os.stat_result) -> bool:
    return True


class _Held:
    """One locked key."""

    __slots__ = ("count", "descriptor", "foreign", "guard", "until")

    def __init__(self) -> None:
        self.guard = threading.Lock()
        self.count = 0
        self.descriptor = -1
        self.until = 0.0
        """The retention written, in seconds since the epoch."""
        self.foreign: float | None = None
        """A retention that was there before ours, and is not ours to delete."""


class ContentLocks:
    """The content locks of this process on one repository.

    :param scratch: a directory on the file system of the objects, for files that are not in use.
    :param modes: the permissions of lock files, and of the directories they lie in.
    :param descriptors: how many may be open. Default: as many as the system lets.
    :param now: seconds since the epoch, by the clock that other processes read too.
    """

    def __init__(
        self,
        scratch: str,
        modes: Modes,
        descriptors: Descriptors | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._spares = Spares(scratch, modes.creation)
        self._modes = modes
        self._descriptors = descriptors or Descriptors(sys.maxsize)
        self._now = now
        self._guard = threading.Lock()
        self._held: dict[str, _Held] = {}
        self._paths: dict[str, str] = {}

    def __len__(self) -> int:
        """Keys locked, and descriptors open for that."""
        return len(self._held)

    # -- locking -----------------------------------------------------------------------------------

    def lock(
        self,
        path: str,
        lock_id: str,
        until: float,
        *,
        good: Callable[[str, os.stat_result], bool] = _any,
        wait: bool = True,
    ) -> Taken:
        """Lock the content at ``path`` once more, and write its retention.

        :param lock_id: names this lock to :meth:`unlock`; a new one each time.
        :param until: seconds since the epoch up to which it has to stay, whatever happens.
        :param good: looks whether the file there is the content.
        :param wait: wait for others who are about to lock or unlock it too.
        :raises OSError: the disk does not let it be promised. Nothing is locked then.
        :raises WouldWait: others are, and it shall not be waited. Nothing is locked.
        """
        with self._entry(path, wait) as held:
            if held.count == 0:
                taken = self._open(path, held, wait)
                if taken is not Taken.LOCKED:
                    return taken
            try:
                if not _is_there(path, good):
                    self._close(path, held)
                    return Taken.NOT_PRESENT
                self._retain(path, held, until, wait)
            except BaseException:
                self._close(path, held)
                raise
            held.count += 1
            self._paths[lock_id] = path
            return Taken.LOCKED

    def unlock(self, lock_id: str, *, wait: bool = True) -> None:
        """Undo one :meth:`lock`; the last one lets others remove the content. Does nothing if
        there is no such lock.

        :raises OSError: the files cannot be deleted. The lock is over, but the retention may go on.
        :raises WouldWait: as in :meth:`lock`; the lock is not over.
        """
        path = self._paths.get(lock_id)
        if path is None:
            return
        with self._entry(path, wait) as held:
            if self._paths.pop(lock_id, None) is None or held.count == 0:
                return
            held.count -= 1
            self._close(path, held)

    def abandon(self) -> None:
        """Let go of everything as the death of the process would: retention goes on."""
        self._paths.clear()
        with self._guard:
            entries, self._held = self._held, {}
        for held in entries.values():
            with held.guard:
                if held.count:
                    self._release(held)
                    held.count = 0
        self._spares.close()

    @contextmanager
    def _entry(self, path: str, wait: bool) -> Iterator[_Held]:
        """The entry of a key, to itself; dropped when nothing holds it any more."""
        while True:
            with self._guard:
                held = self._held.get(path)
                if held is None:
                    held = self._held[path] = _Held()
            if not held.guard.acquire(wait):
                raise WouldWait
            if self._held.get(path) is held:
                break
            held.guard.release()  # it was dropped while we waited
        try:
            yield held
        finally:
            if held.count == 0:
                with self._guard:
                    if self._held.get(path) is held:
                        del self._held[path]
            held.guard.release()

    def _open(self, path: str, held: _Held, wait: bool) -> Taken:
        if not self._descriptors.take():
            return Taken.NO_DESCRIPTOR
        try:
            descriptor = self._take(path + ".lck", exclusive=False)
            end = time.monotonic() + PATIENCE_SECONDS
            while descriptor is None and time.monotonic() < end:
                # Another may only be writing its retention.
                if not wait:
                    raise WouldWait
                time.sleep(random.uniform(0.000_1, 0.002))
                descriptor = self._take(path + ".lck", exclusive=False)
        except BaseException:
            self._descriptors.give_back()
            raise
        if descriptor is None or descriptor < 0:
            self._descriptors.give_back()
            return Taken.BUSY if descriptor is None else Taken.NOT_PRESENT
        held.descriptor = descriptor
        held.foreign, held.until = None, 0.0
        return Taken.LOCKED

    def _release(self, held: _Held) -> None:
        os.close(held.descriptor)
        self._descriptors.give_back()

    def _close(self, path: str, held: _Held) -> None:
        """Let go, if nobody here holds it any more; whoever is the last of all cleans up."""
        if held.count:
            return
        lock_file = path + ".lck"
        taken: list[str | None] = []
        try:
            alone = filelock.try_lock(held.descriptor, exclusive=True)
            if not alone:
                # Another may try the same at the same time; then one of the two has to succeed.
                filelock.unlock(held.descriptor)
                alone = filelock.try_lock(held.descriptor, exclusive=True) and filelock.is_sane(
                    held.descriptor, lock_file
                )
            if alone:
                self._changing(path, lambda: self._clear(path, held, taken))
        finally:
            self._release(held)
            self._spares.give(*taken)

    def _clear(self, path: str, held: _Held, taken: list[str | None]) -> None:
        if held.until and self._read_retention(path) == held.until:
            if held.foreign is not None and held.foreign > self._now():
                self._write_retention(path, held.foreign)
            else:
                taken.append(self._spares.remove(path + ".rtm"))
                taken.append(self._spares.remove(path + ".rtl"))
        taken.append(self._spares.remove(path + ".lck"))

    # -- retention ---------------------------------------------------------------------------------

    def _retain(self, path: str, held: _Held, until: float, wait: bool) -> None:
        until = _rounded_up(until)
        if until <= held.until:
            return

        self._changing(path, lambda: self._move_retention(path, held, until, wait))
        held.until = until

    def _move_retention(self, path: str, held: _Held, until: float, wait: bool) -> None:
        if not held.until and filelock.try_lock(held.descriptor, exclusive=True):
            # Nobody else has any lock on the content, so nobody else may write this.
            try:
                self._compare_and_write(path, held, until)
            finally:
                filelock.try_lock(held.descriptor, exclusive=False)
            return
        # Only who has the write lock on the content deletes this file, and we have a read lock.
        order = self._spares.open(path + ".rtl")
        try:
            if wait:
                filelock.wait(order)
            elif not filelock.try_lock(order, exclusive=True):
                raise WouldWait
            self._compare_and_write(path, held, until)
        finally:
            os.close(order)
        self._modes.file(path + ".rtl")

    def _compare_and_write(self, path: str, held: _Held, until: float) -> None:
        there = self._read_retention(path)
        if there is not None and there != held.until and there > self._now():
            held.foreign = max(there, held.foreign or 0.0)
        if there is None or there < until:
            self._write_retention(path, until)

    def _write_retention(self, path: str, until: float) -> None:
        new = self._spares.written(_spell(until))
        try:
            self._modes.file(new)
            os.rename(new, path + ".rtm")
        except BaseException:
            self._spares.give(new)
            raise

    def _read_retention(self, path: str) -> float | None:
        """When the retention ends, in seconds since the epoch; ``None`` without one."""
        try:
            descriptor = os.open(path + ".rtm", os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            return _understand(os.read(descriptor, 64))
        finally:
            os.close(descriptor)

    # -- removal -----------------------------------------------------------------------------------

    @contextmanager
    def removing(self, path: str) -> Iterator[bool]:
        """Keep every lock off the content at ``path`` while it is removed.

        Yields ``False`` if it may not be removed: somebody holds it locked, or its retention is not
        over. The caller deletes the object, and leaves its directory thawed or gone.

        :raises OSError: the lock file cannot be made or deleted.
        """
        retained = self._read_retention(path)
        if retained is not None and self._now() <= retained:
            yield False
            return
        descriptor = self._take(path + ".lck", exclusive=True)
        if descriptor is None:
            yield False
            return
        if descriptor < 0:
            yield True  # there is not even a directory
            return
        try:
            # Whoever wrote one since we looked held a lock then.
            retained = self._read_retention(path)
            if retained is not None and self._now() <= retained:
                yield False
            else:
                # One that cannot be understood (empty after a power cut) is cleared away too.
                self._changing(path, lambda: _delete(path + ".rtm", path + ".rtl"))
                yield True
            self._changing(path, lambda: _delete(path + ".lck"))
        finally:
            os.close(descriptor)

    # -- files in a directory that is kept read-only -----------------------------------------------

    def _take(self, lock_file: str, *, exclusive: bool) -> int | None:
        """A descriptor with the lock; ``None``: another has it; -1: there is no such directory."""
        for _ in range(_ATTEMPTS):
            try:
                descriptor = self._open_lock_file(lock_file)
            except NotADirectoryError:
                return -1
            except FileNotFoundError:
                if os.path.isdir(os.path.dirname(lock_file)):
                    continue
                return -1
            try:
                if not filelock.try_lock(descriptor, exclusive=exclusive):
                    os.close(descriptor)
                    return None
                if filelock.is_sane(descriptor, lock_file):
                    return descriptor
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)
        return None

    def _open_lock_file(self, lock_file: str) -> int:
        opened = -1

        def create() -> None:
            nonlocal opened
            opened = self._spares.open(lock_file)

        self._changing(lock_file, create)
        self._modes.file(lock_file)
        return opened

    def _changing(self, path: str, change: Callable[[], object]) -> None:
        """Make a change in the directory of ``path``, which is only thawed where that is needed."""
        try:
            change()
        except PermissionError:
            self._modes.change(os.path.dirname(path), change)


def _delete(*paths: str) -> None:
    for path in paths:
        with suppress(FileNotFoundError):
            os.unlink(path)


def _is_there(path: str, good: Callable[[str, os.stat_result], bool]) -> bool:
    try:
        status = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return stat.S_ISREG(status.st_mode) and good(path, status)


def _rounded_up(seconds: float) -> float:
    """To whole microseconds, which a float of today's size can still tell apart."""
    return -(-seconds * 1e6 // 1) / 1e6 if seconds % 1 else seconds


def _spell(seconds: float) -> bytes:
    return f"{seconds:.6f}s".encode("ascii")


def _understand(text: bytes) -> float | None:
    """As git-annex reads it: what is no time is no retention."""
    try:
        return float(text.strip().rstrip(b"s"))
    except ValueError:
        return None
