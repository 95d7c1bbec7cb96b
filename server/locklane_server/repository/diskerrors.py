"""What the system says of a disk, in the repository's own errors."""

from __future__ import annotations

import errno
import os
import sqlite3
import tempfile

from locklane_server.repository import (
    NoSpace,
    NotAccepted,
    NotEnoughReserve,
    ReadOnly,
    RepositoryError,
)

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

_FREE_SOME = "free some space on the server's disk, and try again"
_READ_ONLY = "the server's disk is mounted read-only; it has to be made writable there"


def database_error(what: str, error: sqlite3.Error) -> RepositoryError:
    """The repository's error for one of SQLite's."""
    match getattr(error, "sqlite_errorcode", 0) & 0xFF:  # the rest tells more
        case sqlite3.SQLITE_FULL:
            return NoSpace(f"{what}: no space left on device; {_FREE_SOME}")
        case sqlite3.SQLITE_READONLY:
            return ReadOnly(f"{what}: {_READ_ONLY}")
    return RepositoryError(f"{what}: {error}")


def disk_error(what: str, error: OSError) -> RepositoryError:
    """The repository's error for one of the system's."""
    if error.errno in _NO_SPACE:
        return NoSpace(f"{what}: {error.strerror}; {_FREE_SOME}")
    if error.errno == errno.ENAMETOOLONG:
        return NotAccepted(
            f"{what}: the key is too long for the name of a file on the server's disk"
        )
    if error.errno == errno.EROFS:
        return ReadOnly(f"{what}: {_READ_ONLY}")
    return RepositoryError(f"{what}: {error.strerror or error}")


def make_sure_of_room(
    place: str | os.PathLike[str], wanted: int, keep: int, *, others: int = 0, setting: str = ""
) -> None:
    """See that there is space for what is to be stored.

    :param place: a directory of the disk.
    :param wanted: bytes that are to come.
    :param keep: bytes that are to be kept free.
    :param others: bytes that are to come by others' transfers.
    :param setting: where the reserve is set, if it can be.
    :raises NoSpace: the disk has not so many bytes.
    :raises NotEnoughReserve: it has, but would be too full afterwards.
    :raises OSError: the disk does not tell.
    """
    disk = os.statvfs(place)
    free = disk.f_bavail * disk.f_frsize
    if wanted + others > free:
        more = f" and {others} for other uploads" if others else ""
        raise NoSpace(
            f"not enough free space: {wanted} bytes are needed{more}, and {free} are free; "
            f"{_FREE_SOME}"
        )
    if wanted + others + keep > free:
        lower = f", or lower its {setting}" if setting else ""
        raise NotEnoughReserve(
            f"not enough free space: {wanted + others + keep - free} bytes more are needed to "
            f"store {wanted} and keep {keep} free; free some space on the server's disk{lower}"
        )


def try_disk(objects: str, *others: str) -> None:
    """See that what is in a directory can be found, and that it and others take a byte. Those that
    are not there yet are made when they are needed. Blocks.

    :raises RepositoryError: one of them does not; the text says why.
    """
    try:
        with os.scandir(objects) as entries:
            next(entries, None)
    except OSError as error:
        raise disk_error("cannot read the content", error) from error
    for directory in (objects, *others):
        try:
            with tempfile.TemporaryFile(dir=directory, buffering=0) as file:
                file.write(b"\n")
        except FileNotFoundError:
            continue
        except OSError as error:
            raise disk_error(f"cannot write in {directory}", error) from error
