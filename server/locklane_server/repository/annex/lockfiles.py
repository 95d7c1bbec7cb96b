"""``KEYFILE.lck``: lock files that are made for a moment, and used again.

A free one is open, write-locked and in :mod:`~locklane_server.repository.annex.scratch`. To lock a
key is to link it to where the key's lock file belongs: in one step it is there, and locked. To
unlock is to unlink it there. (To make, open, lock and delete a file each time costs several times
as much; ext4 alone looks for a new inode past all those that were in use in the last five seconds.)

Whoever opened it for one key and locks it when it serves another finds that it is not the file of
that name any more, as with one that was deleted: git-annex looks for that too.
"""

from __future__ import annotations

import os
from contextlib import suppress

from locklane_server.descriptors import Descriptors
from locklane_server.repository import filelock
from locklane_server.repository.annex.modes import Modes
from locklane_server.repository.annex.scratch import Scratch, link


class NoDescriptorError(Exception):
    """As many files are open for locks as may be."""


class LockFile:
    """A lock file that is open and locked."""

    __slots__ = ("descriptor", "exclusive", "spare")

    def __init__(self, descriptor: int, spare: str | None, *, exclusive: bool) -> None:
        self.descriptor = descriptor
        self.spare = spare
        """Where it stays when it is not needed; ``None``: it is somebody else's."""
        self.exclusive = exclusive
        """The lock is a write lock."""

    def make_exclusive(self) -> bool:
        """Turn the lock into a write lock; ``False``: others have one too."""
        self.exclusive = self.exclusive or filelock.try_lock(self.descriptor, exclusive=True)
        return self.exclusive

    def share(self) -> None:
        """Turn the lock into a read lock."""
        if self.exclusive:
            self.exclusive = False
            filelock.try_lock(self.descriptor, exclusive=False)


class LockFiles:
    """The lock files that a process has open in one repository. For any number of threads.

    :param descriptors: how many may be open, the free ones among them.
    """

    def __init__(self, scratch: Scratch, modes: Modes, descriptors: Descriptors) -> None:
        self._scratch = scratch
        self._modes = modes
        self._descriptors = descriptors
        self._free: list[LockFile] = []
        self._least_free = 0
        descriptors.lenders.append(self._lend)

    def acquire(self, path: str) -> LockFile | None:
        """Lock the lock file of that path, which is made if it is not there, with a write lock if
        it was not, else with a read lock.

        :returns: ``None``: another has the write lock.
        :raises FileNotFoundError: the directory is not there.
        :raises NoDescriptorError: too many are open.
        :raises OSError: it cannot be made or opened.
        """
        spare = self._take()
        try:
            if self._link(spare, path):
                return spare
        except BaseException:
            self.release(spare)
            raise
        self.release(spare)
        return self._open(path)

    def lock_for_removal(self, path: str) -> int | None:
        """A descriptor with the write lock on the lock file of that path, which is made if it is
        not there. It does not count: no more of them are open than there are removals.

        :returns: ``None``: others have a lock.
        :raises FileNotFoundError: the directory is not there.
        :raises OSError: it cannot be made or opened.
        """
        return self._modes.change_beside(path, lambda: self._attempt(path, exclusive=True))

    def release(self, file: LockFile) -> None:
        """The file is not anywhere any more where it is needed, or not ours to care for."""
        # A second look, because a lock that is used again where it still counts is two in one.
        if file.spare is not None and file.exclusive and not _is_linked(file):
            self._free.append(file)
        else:
            self._close(file)

    def __len__(self) -> int:
        """Files that are free."""
        return len(self._free)

    def trim(self) -> None:
        """Close those that have been free ever since this was last asked for."""
        for _ in range(self._least_free):
            with suppress(IndexError):  # somebody may need them now
                self._close(self._free.pop(0))
        self._least_free = len(self._free)

    def close(self) -> None:
        """Close all that are free. None are asked for any more."""
        with suppress(ValueError):  # they are closed already
            self._descriptors.lenders.remove(self._lend)
        with suppress(IndexError):
            while True:
                self._close(self._free.pop())

    def _take(self) -> LockFile:
        try:
            spare = self._free.pop()
        except IndexError:
            if not self._descriptors.take():
                raise NoDescriptorError from None
            try:
                spare = self._create()
            except BaseException:
                self._descriptors.give_back()
                raise
        if len(self._free) < self._least_free:
            self._least_free = len(self._free)
        return spare

    def _create(self) -> LockFile:
        path, descriptor = self._scratch.create()
        try:
            filelock.try_lock(descriptor, exclusive=True)
        except BaseException:
            os.close(descriptor)
            self._scratch.delete(path)
            raise
        return LockFile(descriptor, path, exclusive=True)

    def _close(self, file: LockFile) -> None:
        if file.spare is not None:
            self._scratch.delete(file.spare)
        os.close(file.descriptor)
        self._descriptors.give_back()

    def _link(self, spare: LockFile, path: str) -> bool:
        """``False``: there is one already, or it does not go in this way."""
        assert spare.spare is not None
        try:
            # Over a network it may be there although the answer says that something is.
            return link(spare.spare, path) or self._is_at(spare, path)
        except FileNotFoundError:
            if not os.path.isdir(os.path.dirname(path)):
                raise
            if not os.path.exists(spare.spare):
                spare.spare = None  # somebody has cleared it away
            return False

    def _is_at(self, spare: LockFile, path: str) -> bool:
        return _is_linked(spare) and filelock.is_sane(spare.descriptor, path)

    def _lend(self) -> bool:
        try:
            self._close(self._free.pop())
        except IndexError:
            return False
        return True

    def _open(self, path: str) -> LockFile | None:
        if not self._descriptors.take():
            raise NoDescriptorError
        descriptor = None
        try:
            descriptor = self._attempt(path, exclusive=False)
        finally:
            if descriptor is None:
                self._descriptors.give_back()
        return None if descriptor is None else LockFile(descriptor, None, exclusive=False)

    def _attempt(self, path: str, *, exclusive: bool) -> int | None:
        return filelock.try_for(path, lambda: self._modes.create(path), exclusive=exclusive)


def _is_linked(spare: LockFile) -> bool:
    """Whether it may be somewhere else than where it stays."""
    try:
        return os.fstat(spare.descriptor).st_nlink != 1
    except OSError:
        return True
