"""Files that are used again instead of being deleted and made anew.

To lock a key takes three small files for a moment. ext4 looks for an inode that has not been in use
for five seconds, past all those that have, so that some thousand locks a second make each new file
cost a hundred microseconds; a file that is only renamed costs five.
"""

from __future__ import annotations

import ctypes
import errno
import itertools
import os
import secrets
from contextlib import suppress

from locklane_server.repository import filelock

MOST = 256
"""Files kept at the most."""


_ALIVE = "alive"
"""End of the name of the file that a process keeps locked for as long as it lives."""

_AT_FDCWD = -100
_RENAME_NOREPLACE = 1
_renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)


def _move(source: str, target: str) -> None:
    """Rename a file, but not over another.

    :raises FileExistsError: there is one.
    :raises OSError: it cannot be done.
    """
    if _renameat2 is not None:
        if not _renameat2(
            _AT_FDCWD,
            os.fsencode(source),
            _AT_FDCWD,
            os.fsencode(target),
            _RENAME_NOREPLACE,
        ):
            return
        number = ctypes.get_errno()
        if number not in (errno.EINVAL, errno.ENOSYS):
            raise OSError(number, os.strerror(number), source, None, target)
    os.link(source, target)  # where the file system knows only this way
    os.unlink(source)


class Spares:
    """The spare files of one process. For any number of threads.

    :param directory: where they are, on the file system where they are needed; their names begin
        with something that no other process has.
    :param mode: of a file that is made.
    """

    def __init__(self, directory: str, mode: int) -> None:
        self._prefix = f"{directory}/{os.getpid()}-{secrets.token_hex(4)}."
        self._mode = mode
        self._alive = os.open(
            f"{self._prefix}{_ALIVE}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, mode
        )
        filelock.try_lock(self._alive, exclusive=True)
        self._numbers = itertools.count()
        self._free: list[str] = []

    def _name(self) -> str:
        return f"{self._prefix}{next(self._numbers)}"

    def written(self, content: bytes) -> str:
        """The path of a file with that content, to be renamed to where it belongs.

        :param content: always of the same length, or longer than before.
        :raises OSError: the disk does not take it.
        """
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        try:
            path = self._free.pop()
        except IndexError:
            path = self._name()
        descriptor = os.open(path, flags, self._mode)
        try:
            os.pwrite(descriptor, content, 0)
        except BaseException:
            with suppress(OSError):
                os.unlink(path)
            raise
        finally:
            os.close(descriptor)
        return path

    def open(self, path: str) -> int:
        """Open a lock file to be read and written; it is made if it is not there. What is in it is
        of no consequence.

        :raises OSError: it cannot be opened or made.
        """
        flags = os.O_RDWR | os.O_CLOEXEC
        try:
            spare = self._free.pop()
        except IndexError:
            return os.open(path, flags | os.O_CREAT, self._mode)
        try:
            _move(spare, path)
        except OSError:
            self._free.append(spare)  # it is there, or it cannot be made in this way
        return os.open(path, flags | os.O_CREAT, self._mode)

    def remove(self, path: str) -> str | None:
        """Take a file from where it is, if it is there.

        :returns: for :meth:`give`, when nobody has it open any more.
        :raises OSError: it cannot be taken away.
        """
        try:
            if len(self._free) >= MOST:
                os.unlink(path)
                return None
            name = self._name()
            os.rename(path, name)
        except FileNotFoundError:
            return None
        return name

    def give(self, *names: str | None) -> None:
        """Files that :meth:`remove` took away can be used again."""
        self._free += [name for name in names if name is not None]

    def close(self) -> None:
        """Delete them."""
        while self._free:
            with suppress(OSError):
                os.unlink(self._free.pop())
        if self._alive >= 0:
            with suppress(OSError):
                os.unlink(f"{self._prefix}{_ALIVE}")
            os.close(self._alive)
            self._alive = -1


def clear_up(directory: str) -> None:
    """Delete the files of processes that were killed.

    :raises OSError: the directory cannot be read.
    """
    names = os.listdir(directory)
    for name in names:
        owner, _, rest = name.partition(".")
        if rest != _ALIVE:
            continue
        try:
            descriptor = os.open(f"{directory}/{name}", os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            if filelock.try_lock(descriptor, exclusive=True):
                for other in names:
                    if other.startswith(f"{owner}."):
                        with suppress(OSError):
                            os.unlink(f"{directory}/{other}")
        finally:
            os.close(descriptor)
