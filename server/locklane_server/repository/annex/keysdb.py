"""Which files of the work tree belong to a key: a look into git-annex's keys database.

A file checked out *unlocked* is a regular file: a pointer to the content while that is not here,
and a copy of it else. The database has those and the locked ones, which are symbolic links; it may
lag behind, so each file is looked at.

The database is SQLite's, in WAL mode. It is only ever read, and nothing is made beside it (but for
an empty log, which means nothing, if git-annex ends at the very moment of a look).
"""

from __future__ import annotations

import os
import sqlite3
import stat
import threading
import time
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

from locklane_client.key import Key
from locklane_server.repository import RepositoryError

MAX_POINTER = 32 * 1024
"""Longest pointer file, in bytes."""

BUSY_SECONDS = 1.0
"""How long a database is waited for that git-annex changes."""

_PAUSE_SECONDS = 0.002
_SETTLED_NANOSECONDS = 1_000_000_000
_POINTS = b"/annex/objects/"
_QUERY = "SELECT file FROM associated WHERE key = ?"

_Version = tuple[int, int, int]


class KeysUnreadableError(RepositoryError):
    """The database cannot be read now, so nothing is known; git-annex itself may get on better."""


def database_directory(gitdir: Path, *, dbdir: str | None, uuid: str) -> Path:
    """Where the keys database is.

    :param gitdir: the git directory.
    :param dbdir: ``annex.dbdir``, if it is set. If it is relative, git-annex has one database for
        each directory that it is run in; that of the present one is meant here too.
    :param uuid: of the repository.
    """
    return (Path(dbdir) / uuid if dbdir else gitdir / "annex") / "keysdb"


class KeysDatabase:
    """The files of a work tree by key. For any number of threads at once; every call blocks.

    :param directory: of the database, see :func:`database_directory`. It need not be there.
    :param work_tree: its top; ``None`` for a bare repository, which has no files.
    """

    def __init__(self, directory: Path, work_tree: Path | None) -> None:
        self._work_tree = None if work_tree is None else os.fsencode(work_tree)
        self._database = str(directory / "db")
        name = quote(os.fsencode(self._database))
        # With no write-ahead log the file is all there is. Opened in any other way, SQLite would
        # make an empty log beside it, and leave it there.
        self._settled = f"file:{name}?immutable=1"
        self._in_use = f"file:{name}?mode=ro&readonly_shm=1"
        self._guard = threading.Lock()
        self._kept: tuple[_Version, sqlite3.Connection] | None = None

    def unlocked_files(self, key: Key, *, populated: bool = False) -> list[Path]:
        """The unlocked files of a key that wait for its content.

        :param populated: not those, but all that are regular files now: they hold the content, a
            pointer, or what somebody has written there since.
        :raises KeysUnreadableError: git-annex is changing the database, or it is damaged.
        """
        if self._work_tree is None:
            return []
        found = []
        for name in self._associated(os.fsencode(key.text)):
            path = os.path.join(self._work_tree, name)
            if _is_regular(path) if populated else _is_pointer(path, key):
                found.append(Path(os.fsdecode(path)))
        return found

    def close(self) -> None:
        """Let go of the database."""
        with self._guard:
            self._forget()

    def _associated(self, key: bytes) -> list[bytes]:
        end = time.monotonic() + BUSY_SECONDS
        trouble: sqlite3.Error | None = None
        while True:
            before = self._version()
            if before is None:
                return []
            try:
                if self._has_log():
                    return self._read_in_use(key)
                files = self._read_settled(key, before)
                # Nothing protects what is read without the log, so see that it stood still.
                if self._version() == before and not self._has_log():
                    return files
            except sqlite3.Error as error:
                trouble = error
            if time.monotonic() > end:
                said = f": {trouble}" if trouble else ", which git-annex is changing all the time"
                raise KeysUnreadableError(f"cannot read {self._database}{said}") from trouble
            time.sleep(_PAUSE_SECONDS)

    def _read_in_use(self, key: bytes) -> list[bytes]:
        # Kept open, this would keep git-annex from cleaning up when it ends.
        with closing(sqlite3.connect(self._in_use, uri=True, timeout=BUSY_SECONDS)) as database:
            return _files(database, key)

    def _read_settled(self, key: bytes, version: _Version) -> list[bytes]:
        with self._guard:
            if self._kept is None or self._kept[0] != version:
                self._forget()
                database = sqlite3.connect(self._settled, uri=True, check_same_thread=False)
                self._kept = version, database
            try:
                return _files(self._kept[1], key)
            finally:
                # Two changes at one moment cannot be told apart, so what has just changed is not
                # kept.
                if time.time_ns() - version[1] < _SETTLED_NANOSECONDS:
                    self._forget()

    def _forget(self) -> None:
        kept, self._kept = self._kept, None
        if kept is not None:
            kept[1].close()

    def _version(self) -> _Version | None:
        """Changes with the file; ``None``: there is none."""
        try:
            found = os.stat(self._database)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise KeysUnreadableError(f"cannot read {self._database}: {error.strerror}") from error
        return found.st_ino, found.st_mtime_ns, found.st_size

    def _has_log(self) -> bool:
        """Whether there is a write-ahead log with something in it."""
        try:
            return os.stat(self._database + "-wal").st_size > 0
        except OSError:
            return False


def _files(database: sqlite3.Connection, key: bytes) -> list[bytes]:
    rows = database.execute(_QUERY, (key,)).fetchall()
    return [file if isinstance(file, bytes) else os.fsencode(file) for (file,) in rows]


def _is_regular(path: bytes) -> bool:
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)
    except OSError:
        return False


def _is_pointer(path: bytes, key: Key) -> bool:
    """Whether a file is a pointer to a key's content, and not the content."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_size > MAX_POINTER:
            return False
        content = os.read(descriptor, MAX_POINTER + 1)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return _points_to(content, os.fsencode(key.file_name))


def _points_to(content: bytes, file_name: bytes) -> bool:
    first, _, rest = content.partition(b"\n")
    where, _, name = first.removesuffix(b"\r").rpartition(b"/")
    # git-annex may append lines to a pointer, which say so of themselves.
    return (
        _POINTS in where + b"/"
        and name == file_name
        and len(content) <= MAX_POINTER
        and all(b"/annex/" in line for line in rest.split(b"\n")[:-1])
        and (not rest or rest.endswith(b"\n"))
    )
