"""``DirectoryRepository``: objects in a plain directory, nothing else needed.

The layout is that of git-annex's ``directory`` special remote: ``abc/def/KEYFILE/KEYFILE``, with
the lower-case hash directories of git-annex ("internals/hashing") and the escaped file name of the
key. Such a directory can be served, but then nobody may go past the server: the special remote
knows nothing of locks. What Locklane itself keeps lies in ``.locklane/``.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import logging
import os
import re
import sqlite3
import stat
import uuid as uuids
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import IO

from anyio import CapacityLimiter, to_thread

from locklane_client.key import Key
from locklane_server.clock import Clock, boottime
from locklane_server.locks import Lock
from locklane_server.repository import RepositoryError
from locklane_server.repository.retention import Retention

CHUNK = 256 * 1024
"""Bytes read at once for a download."""

READERS = 32
"""Files read at the same time for downloads."""

REMOVERS = 8
"""Files deleted at the same time."""

_log = logging.getLogger(__name__)
_UUID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_STORE_ENTRY = re.compile(r"[0-9a-f]{3}|tmp|\.locklane|lost\+found")


def hash_directories(key: Key) -> tuple[str, str]:
    """The two directories above a key's object: 3 + 3 hex digits of the key's md5. Chunks lie
    where the whole content would."""
    digest = hashlib.md5(
        key.whole.encode("utf-8", "surrogateescape"), usedforsecurity=False
    ).hexdigest()
    return digest[:3], digest[3:6]


def object_path(directory: Path, key: Key) -> Path:
    """Where the content of a key lies, or would lie, in a store."""
    first, second = hash_directories(key)
    name = key.file_name
    return Path(f"{directory}/{first}/{second}/{name}/{name}")


class DirectoryRepository:
    """A store of keys in a directory of its own. Made by :meth:`open`; one process at a time."""

    def __init__(
        self, directory: Path, uuid: str, clock: Clock, retention: Retention, serving: int
    ) -> None:
        self.uuid = uuid
        self.directory = directory
        self._clock = clock
        self._retention = retention
        self._serving = serving
        # Worker threads of their own for each: a removal does not queue behind slow readers.
        self._readers = CapacityLimiter(READERS)
        self._removers = CapacityLimiter(REMOVERS)

    @classmethod
    def open(
        cls, directory: Path, *, uuid: str | None = None, clock: Clock = boottime
    ) -> DirectoryRepository:
        """Open a store, and make it if it is not there.

        :param uuid: the UUID of the repository. Default: what the store has been told before, or
            for an empty one a new random one. A directory that holds content already, and has not
            been served before, needs it: under another UUID git-annex would count its content
            twice, and might let the last copy go.
        :raises RepositoryError: it is no store, another process serves it, its UUID is unknown or
            another one, it holds what cannot be served, or the disk will not have it.
        """
        own = directory / ".locklane"
        if uuid is not None and not _UUID.fullmatch(uuid):
            raise RepositoryError(f"{uuid!r} is no UUID: it has to be of plain letters and digits")
        try:
            _refuse_what_is_no_store(directory)
            if not (own / "uuid").exists():
                _refuse_what_cannot_be_adopted(directory, uuid)
            own.mkdir(parents=True, exist_ok=True)
            serving = os.open(own / "serving", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise RepositoryError(f"cannot use {directory}: {error.strerror}") from error
        try:
            try:
                fcntl.flock(serving, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise RepositoryError(
                    f"another process serves {directory}; two would not know of each other's "
                    "locks. Stop that one first"
                ) from error
            known = _uuid(own / "uuid", uuid)
            retention = Retention(own / "retention.sqlite", clock=clock)
        except (OSError, sqlite3.Error) as error:
            os.close(serving)
            raise RepositoryError(f"cannot use {directory}: {error}") from error
        except BaseException:
            os.close(serving)
            raise
        return cls(directory, known, clock, retention, serving)

    async def present(self, key: Key) -> bool:
        try:
            return stat.S_ISREG(object_path(self.directory, key).stat().st_mode)
        except OSError as error:
            if error.errno in _ABSENT:
                return False
            raise RepositoryError(f"cannot look for the content: {error.strerror}") from error

    @asynccontextmanager
    async def content(self, key: Key) -> AsyncIterator[FileContent | None]:
        path = object_path(self.directory, key)
        try:
            file = await to_thread.run_sync(_open, path, limiter=self._readers)
        except OSError as error:
            if error.errno not in _ABSENT:
                raise RepositoryError(f"cannot read the content: {error.strerror}") from error
            file = None
        if file is None:
            yield None
            return
        with file:
            yield FileContent(file, self._readers)

    async def remove(self, key: Key, *, before: float | None) -> bool:
        path = object_path(self.directory, key)
        return await to_thread.run_sync(self._remove, path, before, limiter=self._removers)

    def _remove(self, path: Path, before: float | None) -> bool:
        above = path.parent
        try:
            path.stat()
            # git-annex leaves an object's own directory without write permission.
            above.chmod(0o755)
            if before is not None and self._clock() > before:
                return False
            path.unlink()
        except OSError as error:
            if error.errno in _ABSENT:
                return True
            raise RepositoryError(f"cannot remove the content: {error.strerror}") from error
        with suppress(OSError):  # until one is not empty
            for directory in (above, above.parent, above.parent.parent):
                directory.rmdir()
        return True

    async def lock_content(self, key: Key, lock: Lock) -> bool:
        if not await self.present(key):
            return False
        try:
            self._retention.add(lock)
        except sqlite3.Error as error:
            raise RepositoryError(f"cannot record the lock on disk: {error}") from error
        return True

    async def unlock_content(self, lock: Lock) -> None:
        self._retention.end(lock)

    async def tidy(self) -> None:
        try:
            self._retention.flush()
        except sqlite3.Error as error:
            _log.warning("ended locks stay on disk, until their time if need be: %s", error)

    async def retained(self) -> list[Lock]:
        try:
            return self._retention.all()
        except sqlite3.Error as error:
            raise RepositoryError(f"cannot read the locks of an earlier server: {error}") from error

    async def aclose(self) -> None:
        await self.tidy()
        self._retention.close()
        os.close(self._serving)


class FileContent:
    """Content that is a file here."""

    def __init__(self, file: IO[bytes], readers: CapacityLimiter) -> None:
        self._file = file
        self._readers = readers
        self.size = os.fstat(file.fileno()).st_size

    async def chunks(self, offset: int) -> AsyncIterator[bytes]:
        self._file.seek(offset)
        while chunk := await to_thread.run_sync(self._file.read, CHUNK, limiter=self._readers):
            yield chunk


def _open(path: Path) -> IO[bytes] | None:
    """Open a file; ``None`` if it is something else, on which reading might wait for ever."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        return None
    return os.fdopen(descriptor, "rb")


_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG)


def _refuse_what_is_no_store(directory: Path) -> None:
    try:
        entries = [entry.name for entry in directory.iterdir()]
    except FileNotFoundError:
        return
    except NotADirectoryError:
        raise RepositoryError(f"{directory} is not a directory") from None
    if ".git" in entries or {"HEAD", "objects", "refs"} <= set(entries):
        raise RepositoryError(
            f"{directory} is a git repository; --store takes an empty directory, an earlier store "
            "or the directory of a git-annex directory special remote"
        )
    strange = sorted(name for name in entries if not _STORE_ENTRY.fullmatch(name))
    if strange:
        raise RepositoryError(
            f"{directory} holds {strange[0]!r}, so it is no store; --store takes an empty "
            "directory, an earlier store or the directory of a git-annex directory special remote"
        )


def _refuse_what_cannot_be_adopted(directory: Path, uuid: str | None) -> None:
    """Of a store that has not been served before; looks at every key in it."""
    keys = 0
    for name in _names(directory):
        try:
            key = Key.from_file_name(name)
        except ValueError:
            continue
        keys += 1
        if key.chunk or key.backend.startswith("GPGHMAC"):
            how = "in chunks" if key.chunk else "encrypted"
            raise RepositoryError(
                f"{directory} holds content {how} ({key.text!a}), which only git-annex can put "
                "together; serve a special remote with neither encryption nor chunks"
            )
    if keys and uuid is None:
        raise RepositoryError(
            f"{directory} holds content already, so it has a UUID already: give that with --uuid. "
            "For a git-annex special remote, 'git annex info NAME' tells it. Under another UUID "
            "git-annex would count one copy as two, and could drop the last"
        )


def _names(directory: Path) -> Iterator[str]:
    """The names of what lies where keys do; what may not be listed is an OSError."""
    try:
        hashes = [entry for entry in os.scandir(directory) if len(entry.name) == 3]
    except FileNotFoundError:
        return
    for first in hashes:
        for second in os.scandir(first.path):
            if len(second.name) == 3:
                yield from (entry.name for entry in os.scandir(second.path))


def _uuid(path: Path, wanted: str | None) -> str:
    try:
        known = path.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        known = wanted or str(uuids.uuid4())
        new = path.with_suffix(".new")
        with new.open("w", encoding="utf-8") as file:
            file.write(known + "\n")
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
    if not _UUID.fullmatch(known):
        raise RepositoryError(f"{path} does not hold a UUID; write the store's own into it")
    if wanted is not None and wanted != known:
        raise RepositoryError(f"{path.parent.parent} is repository {known}, not {wanted}")
    return known
