"""``DirectoryRepository``: objects in a plain directory, nothing else needed.

The layout is that of git-annex's ``directory`` special remote: ``abc/def/KEYFILE/KEYFILE``, with
the lower-case hash directories of git-annex ("internals/hashing") and the escaped file name of the
key. Such a directory can be served, but then nobody may go past the server: the special remote
knows nothing of locks. What Locklane itself keeps lies in ``.locklane/``.
"""

from __future__ import annotations

import fcntl
import logging
import os
import re
import sqlite3
import stat
import uuid as uuids
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path

import anyio

from locklane_client import backends
from locklane_client.key import Key
from locklane_server.clock import Clock, boottime
from locklane_server.locks import Lock, Refusal
from locklane_server.repository import RepositoryError, TransferInProgress
from locklane_server.repository.content import ABSENT, FileContent, find, open_content
from locklane_server.repository.diskerrors import (
    database_error,
    disk_error,
    make_sure_of_room,
    try_disk,
)
from locklane_server.repository.hashing import hash_directories_lower
from locklane_server.repository.partial import (
    PartialFile,
    can_be_resumed,
    partial_size,
    sync_directory,
)
from locklane_server.repository.retention import Retention
from locklane_server.workers import Workers

DISK_RESERVE = 100_000_000
"""Bytes that uploads leave free on the disk."""

_log = logging.getLogger(__name__)
_UUID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_STORE_ENTRY = re.compile(r"[0-9a-f]{3}|tmp|\.locklane|lost\+found")


def object_path(directory: str | Path, key: Key) -> str:
    """Where the content of a key lies, or would lie, in a store."""
    first, second = hash_directories_lower(key)
    name = key.file_name
    return f"{directory}/{first}/{second}/{name}/{name}"


class DirectoryRepository:
    """A store of keys in a directory of its own. Made by :meth:`open`; one process at a time."""

    def __init__(
        self,
        directory: Path,
        uuid: str,
        clock: Clock,
        retention: Retention,
        serving: int,
        workers: Workers,
        reserve: int,
    ) -> None:
        self.uuid = uuid
        self.directory = directory
        self._top = str(directory)
        self._clock = clock
        self._retention = retention
        self._serving = serving
        self._workers = workers
        self._reserve = reserve
        self._arriving: set[Key] = set()

    @classmethod
    def open(
        cls,
        directory: Path,
        workers: Workers,
        *,
        uuid: str | None = None,
        clock: Clock = boottime,
        reserve: int = DISK_RESERVE,
    ) -> DirectoryRepository:
        """Open a store, and make it if it is not there. Blocks.

        :param uuid: the UUID of the repository. Default: what the store has been told before, or
            for an empty one a new random one. A directory that holds content already, and has not
            been served before, needs it: under another UUID git-annex would count its content
            twice, and might let the last copy go.
        :param reserve: bytes that uploads leave free on the disk.
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
            _clear_up(own / "partial")
        except (OSError, sqlite3.Error) as error:
            os.close(serving)
            raise RepositoryError(f"cannot use {directory}: {error}") from error
        except BaseException:
            os.close(serving)
            raise
        return cls(directory, known, clock, retention, serving, workers, reserve)

    async def present(self, key: Key) -> bool:
        return await find([self._path(key)], self._workers) is not None

    def content(self, key: Key) -> AbstractAsyncContextManager[FileContent | None]:
        return open_content(key, [self._path(key)], self._workers)

    def _path(self, key: Key) -> str:
        return object_path(self._top, key)

    # -- storing -----------------------------------------------------------------------------------

    def _partial(self, key: Key) -> str:
        return f"{self.directory}/.locklane/partial/{key.file_name}"

    async def partial(self, key: Key) -> int:
        return await self._workers.run(partial_size, self._partial(key), key)

    @asynccontextmanager
    async def receive(
        self, key: Key, *, client: str, file: str | None, offset: int, length: int
    ) -> AsyncIterator[PartialFile | None]:
        if await self.present(key):
            yield None
            return
        if key in self._arriving:
            raise TransferInProgress(
                f"the content of {key.text!a} is being transferred here already; try again later"
            )
        self._arriving.add(key)
        begun: list[PartialFile] = []
        try:
            await self._workers.run(self._begin, begun, key, offset, length)
            yield begun[0]
        finally:
            with anyio.CancelScope(shield=True):
                for upload in begun:
                    await upload.aclose()
            self._arriving.discard(key)

    def _begin(self, begun: list[PartialFile], key: Key, offset: int, length: int) -> None:
        path = self._partial(key)
        try:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            wanted = (offset + length if key.size is None else key.size) - partial_size(path, key)
            make_sure_of_room(self.directory, wanted, self._reserve)
        except OSError as error:
            raise disk_error("cannot store the upload", error) from error
        verifier = backends.verifier(key)
        begun.append(
            PartialFile.open(key, path, offset, 0o666, verifier, self._workers, self._store(key))
        )

    def _store(self, key: Key) -> Callable[[str], None]:
        place = self._path(key)
        above = os.path.dirname(place)

        def store(path: str) -> None:
            try:
                os.makedirs(above, exist_ok=True)
                os.chmod(above, 0o755)
                os.chmod(path, 0o444)
                os.rename(path, place)
                os.chmod(above, 0o555)
                sync_directory(above)
            except OSError as error:
                raise disk_error("cannot put the content into its place", error) from error

        return store

    async def confirm(self, key: Key) -> bool:
        return await self.present(key)

    # -- removing ----------------------------------------------------------------------------------

    async def remove(self, key: Key, *, before: float | None) -> Refusal | None:
        return await self._workers.run(self._remove, Path(self._path(key)), before)

    def _remove(self, path: Path, before: float | None) -> Refusal | None:
        above = path.parent
        try:
            path.stat()
            # git-annex leaves an object's own directory without write permission.
            above.chmod(0o755)
            if before is not None and self._clock() > before:
                return Refusal.TOO_LATE
            path.unlink()
        except OSError as error:
            if error.errno in ABSENT:
                return None
            raise disk_error("cannot remove the content", error) from error
        with suppress(OSError):  # until one is not empty
            for directory in (above, above.parent, above.parent.parent):
                directory.rmdir()
        return None

    # -- locks -------------------------------------------------------------------------------------

    async def lock_content(self, key: Key, lock: Lock) -> Refusal | None:
        if not await self.present(key):
            return Refusal.NOT_PRESENT
        try:
            self._retention.add(lock)
        except sqlite3.Error as error:
            raise database_error("cannot record the lock on disk", error) from error
        return None

    async def unlock_content(self, lock: Lock) -> None:
        self._retention.end(lock)

    async def check(self) -> None:
        await self._workers.run(try_disk, self._top, f"{self._top}/.locklane")

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


def _clear_up(directory: Path) -> None:
    """Delete what a server that was killed left of uploads that nobody can go on with, and make the
    rest as it was while they were under way."""
    for name in os.listdir(directory) if directory.is_dir() else []:
        path = directory / name
        with suppress(ValueError):
            if can_be_resumed(Key.from_file_name(name)) and path.stat().st_size:
                path.chmod(path.stat().st_mode | stat.S_IWUSR)
            else:
                path.unlink()


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
        raise RepositoryError(
            f"{path.parent.parent} is repository {known}, not {wanted}; if it was given a wrong "
            f"UUID before, delete {path} and give the right one"
        )
    return known
