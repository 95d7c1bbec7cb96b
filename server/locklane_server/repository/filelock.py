"""Locks on files that other processes see: fcntl record locks over the whole file.

"Open file description" locks (fcntl_locking(2)): they conflict with the locks that git-annex takes
as they should, and unlike those they belong to the descriptor and not to the process, so that two
threads can exclude each other and closing some other descriptor of the same file releases nothing.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_SET = getattr(fcntl, "F_OFD_SETLK", 37)
_GET = getattr(fcntl, "F_OFD_GETLK", 36)

# struct flock: l_type, l_whence, l_start, l_len (0: to the end), l_pid (has to be 0).
_FLOCK = struct.Struct("hhqqi4x")
_READ = _FLOCK.pack(fcntl.F_RDLCK, os.SEEK_SET, 0, 0, 0)
_WRITE = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
_NONE = _FLOCK.pack(fcntl.F_UNLCK, os.SEEK_SET, 0, 0, 0)

_BUSY = (errno.EAGAIN, errno.EACCES)

WAIT_SECONDS = 60.0
"""How long a lock is waited for that others hold for moments only. Longer means that a process
hangs which holds it, and it is better to say so than to hang with it."""

_ATTEMPTS = 100
"""Times that a lock is tried for whose file somebody deleted in the meantime."""

FIRST_PAUSE_SECONDS = 0.000_2
LONGEST_PAUSE_SECONDS = 0.02


def try_lock(descriptor: int, *, exclusive: bool) -> bool:
    """Take a lock, or change the one held, without waiting; ``False``: another has it."""
    try:
        fcntl.fcntl(descriptor, _SET, _WRITE if exclusive else _READ)
    except OSError as error:
        if error.errno in _BUSY:
            return False
        raise
    return True


def unlock(descriptor: int) -> None:
    """Let go of a lock. Closing the descriptor does so too."""
    fcntl.fcntl(descriptor, _SET, _NONE)


def is_locked(descriptor: int) -> bool:
    """Whether another holds any lock on the file."""
    answer = fcntl.fcntl(descriptor, _GET, _WRITE)
    return bool(_FLOCK.unpack(answer)[0] != fcntl.F_UNLCK)


def is_sane(descriptor: int, path: str | os.PathLike[str]) -> bool:
    """Whether a lock file is still the one of that name: who unlocks may delete it, and a lock on a
    deleted file keeps nobody away."""
    try:
        there = os.stat(path)
    except FileNotFoundError:
        return False
    return os.path.samestat(there, os.fstat(descriptor))


def try_for(
    path: str | os.PathLike[str], opened: Callable[[], int], *, exclusive: bool
) -> int | None:
    """A descriptor with the lock of a lock file that others may delete, without waiting.

    :param opened: opens the file, which is made if it is not there.
    :returns: ``None``: another has it.
    :raises OSError: it cannot be opened or locked.
    """
    for _ in range(_ATTEMPTS):
        descriptor = opened()
        try:
            if not try_lock(descriptor, exclusive=exclusive):
                os.close(descriptor)
                return None
            if is_sane(descriptor, path):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # it was deleted meanwhile
    return None


def wait(descriptor: int, *, exclusive: bool = True, patience: float = WAIT_SECONDS) -> None:
    """Take a lock that others hold for moments only.

    :param patience: seconds to wait for it.
    :raises TimeoutError: another held it for all that time.
    """
    end = time.monotonic() + patience
    pause = FIRST_PAUSE_SECONDS
    while not try_lock(descriptor, exclusive=exclusive):
        if time.monotonic() > end:
            raise TimeoutError(errno.ETIMEDOUT, "another process keeps a file locked")
        time.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE_SECONDS)


@contextmanager
def held(
    path: str | os.PathLike[str],
    *,
    exclusive: bool = True,
    mode: int = 0o666,
    created: Callable[[str | os.PathLike[str]], None] | None = None,
    patience: float = WAIT_SECONDS,
) -> Iterator[int]:
    """Hold the lock of a lock file, which is made if it is not there.

    :param mode: of a file that is made.
    :param created: called with the path, as permissions may have to be set.
    :param patience: seconds to wait for it.
    :raises TimeoutError: another held it for all that time.
    :raises OSError: the file cannot be opened.
    """
    descriptor = wait_for(path, exclusive=exclusive, mode=mode, created=created, patience=patience)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def wait_for(
    path: str | os.PathLike[str],
    *,
    exclusive: bool = True,
    mode: int = 0o666,
    created: Callable[[str | os.PathLike[str]], None] | None = None,
    patience: float = WAIT_SECONDS,
) -> int:
    """As :func:`held`; returns the descriptor, whose closing lets go."""
    end = time.monotonic() + patience
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, mode)
        try:
            if created is not None:
                created(path)
            wait(descriptor, exclusive=exclusive, patience=end - time.monotonic())
            if is_sane(descriptor, path):
                return descriptor
        except TimeoutError:
            os.close(descriptor)
            raise TimeoutError(errno.ETIMEDOUT, f"another process keeps {path} locked") from None
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # it was deleted meanwhile
