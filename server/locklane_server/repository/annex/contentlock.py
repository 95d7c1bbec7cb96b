"""Content locks that git-annex sees and respects, and that respect its own.

Beside an object lie, while it is locked, ``KEYFILE.lck``: a read lock on it holds the content, a
write lock removes it; ``KEYFILE.rtm``: the time until which nothing may be removed, even if the
process that locked it is gone; and ``KEYFILE.rtl``, whose write lock orders the writers of that.

That time is by the wall clock, and is written anew when that clock has been stepped (:meth:`~
ContentLocks.restate`): else git-annex would think it over too early, or far too late, once this
process is gone. Until then the read lock keeps the content.

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
from contextlib import contextmanager

from locklane_server.descriptors import Descriptors
from locklane_server.repository import filelock
from locklane_server.repository.annex import retentionfiles
from locklane_server.repository.annex.lockfiles import LockFile, LockFiles, NoDescriptorError
from locklane_server.repository.annex.modes import Modes
from locklane_server.repository.annex.retentionfiles import RetentionFile, RetentionFiles
from locklane_server.repository.annex.scratch import Scratch
from locklane_server.repository.annex.wallclock import WallClock
from locklane_server.workers import WouldWait

PATIENCE_SECONDS = 0.05
"""How long a lock is tried that another has as a write lock. Removal takes longer, or not."""


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

    __slots__ = ("count", "file", "foreign", "guard", "offset", "retention", "until")

    def __init__(self) -> None:
        self.guard = threading.Lock()
        self.count = 0
        self.file: LockFile
        self.until = 0.0
        """How long it is retained, by the wall clock."""
        self.offset = 0.0
        """Names the time in which the wall clock was not stepped, whose seconds these are."""
        self.retention: RetentionFile | None = None
        """What has been put there for that."""
        self.foreign: float | None = None
        """A retention that was there before ours, and is not ours to delete."""


class ContentLocks:
    """The content locks of this process on one repository.

    :param scratch: a directory on the file system of the objects, for files that are not in use.
    :param modes: the permissions of lock files, and of the directories they lie in.
    :param descriptors: how many may be open. Default: as many as the system lets.
    :param wall: the clock that other processes read too.
    """

    def __init__(
        self,
        scratch: str,
        modes: Modes,
        descriptors: Descriptors | None = None,
        wall: WallClock | None = None,
    ) -> None:
        self._scratch = Scratch(scratch, modes)
        self._modes = modes
        self._files = LockFiles(self._scratch, modes, descriptors or Descriptors(sys.maxsize))
        self._retentions = RetentionFiles(self._scratch, modes)
        self._wall = wall or WallClock()
        self._stated = self._wall.offset
        self._guard = threading.Lock()
        self._held: dict[str, _Held] = {}
        self._paths: dict[str, str] = {}

    def __len__(self) -> int:
        """Keys locked, and descriptors in use for that."""
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
        :param until: the time by the wall clock up to which it has to stay, whatever happens.
        :param good: looks whether the file there is the content.
        :param wait: wait for others who are about to lock or unlock it too.
        :raises OSError: the disk does not let it be promised. Nothing is locked then.
        :raises WouldWait: others are, and it shall not be waited. Nothing is locked.
        """
        held = self._enter(path, wait)
        try:
            taken = self._modes.change_beside(
                path, lambda: self._lock(path, held, until, good, wait)
            )
            if taken is Taken.LOCKED:
                held.count += 1
                self._paths[lock_id] = path
            return taken
        finally:
            self._leave(path, held)

    def unlock(self, lock_id: str, *, wait: bool = True) -> None:
        """Undo one :meth:`lock`; the last one lets others remove the content. Does nothing if
        there is no such lock.

        :raises OSError: the files cannot be deleted. The lock is over, but the retention may go on.
        :raises WouldWait: as in :meth:`lock`; the lock is not over.
        """
        path = self._paths.get(lock_id)
        if path is None:
            return
        held = self._enter(path, wait)
        try:
            if self._paths.pop(lock_id, None) is None or held.count == 0:
                return
            held.count -= 1
            self._close(path, held)
        finally:
            self._leave(path, held)

    @property
    def stepped(self) -> bool:
        """Whether the wall clock has been, since :meth:`restate`."""
        return self._stated != self._wall.offset

    def restate(self) -> None:
        """Write every retention in the time of the wall clock as it goes now.

        :raises OSError: some could not be written; the others were.
        """
        self._stated = self._wall.offset
        with self._guard:
            entries = list(self._held.items())
        failed = None
        for path, held in entries:
            with held.guard:
                if held.count and self._held.get(path) is held:
                    try:
                        self._restate(path, held)
                    except OSError as error:
                        failed = error
        if failed is not None:
            raise failed

    def _restate(self, path: str, held: _Held) -> None:
        if self._catch_up(held) and self._wall.as_now(held.until) is not None:
            until = retentionfiles.rounded_down(held.until)
            self._modes.change_beside(path, lambda: self._retain(path, held, until, True))

    def _catch_up(self, held: _Held) -> bool:
        """Take what is known of a key in the time of the wall clock as it goes now; returns whether
        that is another one."""
        step = self._wall.offset - held.offset
        if not step:
            return False
        held.offset += step
        held.until += step
        if held.foreign is not None:
            held.foreign += step
        return True

    @property
    def spares(self) -> int:
        """Files that :meth:`trim` may let go of."""
        return len(self._files) + len(self._retentions)

    def trim(self) -> None:
        """Let go of files that are kept to be used again, and have not been of late."""
        self._files.trim()
        self._retentions.trim()

    def abandon(self) -> None:
        """Let go of everything as the death of the process would: retention goes on."""
        self._paths.clear()
        with self._guard:
            entries, self._held = self._held, {}
        for held in entries.values():
            with held.guard:
                if held.count:
                    held.file.share()  # so that it is not used again
                    self._release(held)
                    held.count = 0
        self._files.close()
        self._retentions.close()
        self._scratch.close()

    def _enter(self, path: str, wait: bool) -> _Held:
        """The entry of a key, to itself until :meth:`_leave`."""
        while True:
            with self._guard:
                held = self._held.get(path)
                if held is None:
                    held = self._held[path] = _Held()
            if not held.guard.acquire(wait):
                raise WouldWait
            if self._held.get(path) is held:
                return held
            held.guard.release()  # it was dropped while we waited

    def _leave(self, path: str, held: _Held) -> None:
        """Drop the entry if nothing holds the key any more."""
        if held.count == 0:
            with self._guard:
                if self._held.get(path) is held:
                    del self._held[path]
        held.guard.release()

    def _lock(
        self,
        path: str,
        held: _Held,
        until: float,
        good: Callable[[str, os.stat_result], bool],
        wait: bool,
    ) -> Taken:
        if held.count == 0:
            taken = self._open(path, held, wait)
            if taken is not Taken.LOCKED:
                return taken
        try:
            if _is_there(path, good):
                until = retentionfiles.rounded_down(until)
                if self._catch_up(held) or until > held.until:
                    self._retain(path, held, until, wait)
                return Taken.LOCKED
        except BaseException:
            self._close(path, held)
            raise
        self._close(path, held)
        return Taken.NOT_PRESENT

    def _open(self, path: str, held: _Held, wait: bool) -> Taken:
        try:
            file = self._files.acquire(path + ".lck")
            end = time.monotonic() + PATIENCE_SECONDS if file is None else 0.0
            while file is None and time.monotonic() < end:
                # Another may only be writing its retention.
                if not wait:
                    raise WouldWait
                time.sleep(random.uniform(0.000_1, 0.002))
                file = self._files.acquire(path + ".lck")
        except (FileNotFoundError, NotADirectoryError):
            return Taken.NOT_PRESENT
        except NoDescriptorError:
            return Taken.NO_DESCRIPTOR
        if file is None:
            return Taken.BUSY
        held.file = file
        held.until, held.foreign, held.offset = 0.0, None, self._wall.offset
        return Taken.LOCKED

    def _close(self, path: str, held: _Held) -> None:
        """Let go, if nobody here holds it any more; whoever is the last of all cleans up."""
        if held.count:
            return
        file = held.file
        try:
            alone = file.make_exclusive()
            if not alone:
                # Another may try the same at the same time; then one of the two has to succeed.
                filelock.unlock(file.descriptor)
                alone = file.make_exclusive() and filelock.is_sane(file.descriptor, path + ".lck")
            if alone:
                self._clear(path, held)
        except BaseException:
            file.share()
            raise
        finally:
            self._release(held)

    def _clear(self, path: str, held: _Held) -> None:
        retention = held.retention
        if retention is not None and retention.is_at(path + ".rtm"):
            self._catch_up(held)
            if held.foreign is not None and self._wall.as_now(held.foreign) is not None:
                foreign = retentionfiles.rounded_up(held.foreign)
                self._modes.change_beside(path, lambda: self._write_retention(path, held, foreign))
            else:
                self._modes.delete(path + ".rtm", path + ".rtl")
        self._modes.delete(path + ".lck")

    def _release(self, held: _Held) -> None:
        self._files.release(held.file)
        if held.retention is not None:
            self._retentions.release(held.retention)
            held.retention = None

    # -- retention ---------------------------------------------------------------------------------

    def _retain(self, path: str, held: _Held, until: float, wait: bool) -> None:
        if held.count == 0 and held.file.make_exclusive():
            # Nobody else has any lock on the content, so nobody else may write this.
            self._compare_and_write(path, held, until)
            held.file.share()
            return
        # Only who has the write lock on the content deletes this file, and we have a read lock.
        order = self._modes.create(path + ".rtl")
        try:
            if wait:
                filelock.wait(order)
            elif not filelock.try_lock(order, exclusive=True):
                raise WouldWait
            self._compare_and_write(path, held, until)
        finally:
            os.close(order)

    def _compare_and_write(self, path: str, held: _Held, until: float) -> None:
        place = path + ".rtm"
        if held.retention is None:
            held.retention = self._retentions.put(until, place)
            if held.retention is not None:
                held.until = held.retention.until
                return
        ours = held.retention is not None and held.retention.is_at(place)
        there = None if ours else self._retained(path)
        if there is not None:
            held.foreign = max(there, held.foreign or 0.0)
        # Even where the other's is later: its file goes when it unlocks, and ours shall not.
        self._write_retention(path, held, max(until, retentionfiles.rounded_up(held.foreign or 0)))

    def _write_retention(self, path: str, held: _Held, until: float) -> None:
        """Replace what is there."""
        before = held.retention
        held.retention = self._retentions.replace(until, path + ".rtm")
        held.until = held.retention.until
        if before is not None:
            self._retentions.release(before)

    # -- removal -----------------------------------------------------------------------------------

    @contextmanager
    def removing(self, path: str) -> Iterator[bool]:
        """Keep every lock off the content at ``path`` while it is removed.

        Yields ``False`` if it may not be removed: somebody holds it locked, or its retention is not
        over. The caller deletes the object, and leaves its directory thawed or gone.

        :raises FileNotFoundError: its directory is not there.
        :raises OSError: the lock file cannot be made or deleted.
        """
        if self._retained(path) is not None:
            yield False
            return
        descriptor = self._files.lock_for_removal(path + ".lck")
        if descriptor is None:
            yield False
            return
        try:
            # Whoever wrote one since we looked held a lock then.
            if self._retained(path) is not None:
                yield False
            else:
                # One that cannot be understood (empty after a power cut) is cleared away too.
                self._modes.delete(path + ".rtm", path + ".rtl")
                yield True
            self._modes.delete(path + ".lck")
        finally:
            os.close(descriptor)

    def _retained(self, path: str) -> float | None:
        """Until when, by the wall clock as it goes now; ``None``: that is over."""
        until = retentionfiles.read(path + ".rtm")
        return None if until is None else self._wall.as_now(until)


def _is_there(path: str, good: Callable[[str, os.stat_result], bool]) -> bool:
    try:
        status = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return stat.S_ISREG(status.st_mode) and good(path, status)
