"""A process's own small files, on the file system of the objects: made and written there, they are
linked to where they are needed. What a process leaves that is killed, the next one clears up.
"""

from __future__ import annotations

import errno
import itertools
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from locklane_server.repository import filelock
from locklane_server.repository.annex.modes import Modes

_ALIVE = "alive"
"""End of the name of the file that a process keeps locked for as long as it lives."""

_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EXDEV, errno.EMLINK)
"""What file systems say that know no hard links, or no more of them."""


class Scratch:
    """The files of one process. For any number of threads.

    :param directory: where they are; their names begin with something that no other process has.
    :raises OSError: nothing can be made there.
    """

    def __init__(self, directory: str, modes: Modes) -> None:
        self._prefix = f"{directory}/{os.getpid()}-{secrets.token_hex(4)}."
        self._modes = modes
        self._numbers = itertools.count()
        alive = f"{self._prefix}{_ALIVE}"
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        self._alive = os.open(alive, flags, modes.creation)
        filelock.try_lock(self._alive, exclusive=True)

    def name(self) -> str:
        """A path that nothing has."""
        return f"{self._prefix}{next(self._numbers)}"

    def create(self) -> tuple[str, int]:
        """A new file, with the permissions of the repository: its path, and a descriptor.

        :raises OSError: it cannot be made.
        """
        path = self.name()
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        try:
            descriptor = os.open(path, flags, self._modes.creation)
        except FileNotFoundError:  # somebody has cleared the directory away
            self._modes.make_directories(os.path.dirname(path))
            descriptor = os.open(path, flags, self._modes.creation)
        self._modes.file(path)
        return path, descriptor

    def delete(self, path: str) -> None:
        """Delete a file, if that can be done."""
        with suppress(OSError):
            os.unlink(path)

    @contextmanager
    def noting(self, text: str) -> Iterator[None]:
        """Leave a note of what is about to be done, for the case that it is not done to its end.
        Where none can be made, on a full disk for example, it is done without."""
        path = self.name()
        with suppress(OSError):
            os.symlink(text, path)  # it is there whole, and takes one call
        try:
            yield
        finally:
            self.delete(path)

    def close(self) -> None:
        """When all files are deleted."""
        if self._alive >= 0:
            self.delete(f"{self._prefix}{_ALIVE}")
            os.close(self._alive)
            self._alive = -1


def link(source: str, target: str) -> bool:
    """Let a file appear somewhere, but not over another.

    :returns: ``False``: there is one, or the file system cannot do it.
    :raises FileNotFoundError: the directory is not there, or the file is not.
    :raises OSError: it is not allowed, or there is no space.
    """
    try:
        os.link(source, target)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno in _NO_LINKS:
            return False
        raise
    return True


def clear_up(directory: str, settle: Callable[[list[str]], None] = lambda _: None) -> None:
    """Delete the files of processes that were killed.

    :param settle: is given the notes of one of them. Should it fail, all of its files stay.
    :raises OSError: the directory cannot be read.
    """
    for alive in os.listdir(directory):
        owner, _, rest = alive.partition(".")
        if rest != _ALIVE:
            continue
        try:
            descriptor = os.open(f"{directory}/{alive}", os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            if filelock.try_lock(descriptor, exclusive=True):
                names = [name for name in os.listdir(directory) if name.startswith(f"{owner}.")]
                settle(_notes([f"{directory}/{name}" for name in names]))
                # Last of all what the others are found by, should we be killed ourselves.
                for name in sorted(names, key=alive.__eq__):
                    with suppress(OSError):
                        os.unlink(f"{directory}/{name}")
        finally:
            os.close(descriptor)


def _notes(paths: list[str]) -> list[str]:
    found: list[str] = []
    for path in paths:
        with suppress(OSError):  # EINVAL: it is none
            found.append(os.readlink(path))
    return found
