"""A git-annex repository, served beside git-annex."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Self

import anyio

from locklane_client import backends
from locklane_client.key import Key
from locklane_client.wire import RETENTION
from locklane_server import nowait
from locklane_server.clock import Clock, boottime
from locklane_server.descriptors import Descriptors
from locklane_server.locks import Lock, Refusal
from locklane_server.repository import (
    InvalidContent,
    NotAccepted,
    RepositoryError,
    RepositoryGone,
)
from locklane_server.repository import (
    partial as partials,
)
from locklane_server.repository.annex import mounts, program
from locklane_server.repository.annex.committer import Committer
from locklane_server.repository.annex.config import (
    Config,
    NotInitializedError,
    version_of,
)
from locklane_server.repository.annex.contentlock import ContentLocks, Taken
from locklane_server.repository.annex.interrupted import Interrupted
from locklane_server.repository.annex.keysdb import (
    KeysDatabase,
    KeysUnreadableError,
    database_directory,
)
from locklane_server.repository.annex.locationlog import LocationLog, journal_name
from locklane_server.repository.annex.objects import Objects
from locklane_server.repository.annex.scratch import Scratch
from locklane_server.repository.annex.transfers import Transfers
from locklane_server.repository.annex.wallclock import WallClock
from locklane_server.repository.content import FileContent, find, find_blocking, open_content
from locklane_server.repository.diskerrors import disk_error, make_sure_of_room, try_disk
from locklane_server.workers import Workers, WouldWait

_log = logging.getLogger(__name__)


class _MayBeEdited(Exception):
    """An object has to be read whole before it can be locked."""


class AnnexRepository:
    """See the module. Made by :meth:`open`; any number of processes may use the repository."""

    def __init__(
        self,
        config: Config,
        workers: Workers,
        descriptors: Descriptors | None,
        clock: Clock,
        wall: WallClock,
    ) -> None:
        self.uuid = config.uuid
        self.config = config
        self._layout = config.layout
        self._modes = config.modes
        self._workers = workers
        self._clock = clock
        self._wall = wall
        self._clock_told = False
        self._local = mounts.is_local(str(config.layout.annex))
        self._config_file = f"{config.layout.git}/config"
        self._version = version_of(os.stat(self._config_file))
        self._to_unlock: list[Lock] = []
        self._left_to_unlock: list[Lock] = []
        self._locks = ContentLocks(str(config.layout.own), config.modes, descriptors, wall)
        self._objects = Objects(config.layout, config.modes, thin=config.thin)
        self._transfers = Transfers(config.layout, config.modes)
        self._scratch = Scratch(str(config.layout.own), config.modes)
        self._locations = LocationLog(
            config.layout.git, config.uuid, modes=config.modes, private=config.private
        )
        self._interrupted = Interrupted(
            config.layout, self._objects, self._locks, self._transfers, self._locations
        )
        directory = database_directory(
            config.layout.git, dbdir=config.database_directory, uuid=config.uuid
        )
        self._keys = KeysDatabase(directory, config.work_tree)
        self._unrecorded: set[Key] = set()
        """Keys whose content came or went without a record of that."""
        self._committer = Committer(
            partial(program.commit_journal, self._program_directory),
            self._locations.pending,
            name=config.uuid,
            clock=clock,
        )

    @classmethod
    def open(
        cls,
        directory: Path,
        workers: Workers,
        *,
        descriptors: Descriptors | None = None,
        clock: Clock = boottime,
        wall: Callable[[], float] = time.time,
        boot: str | None = None,
    ) -> Self:
        """Open the repository in a directory, or around it. Blocks.

        :param descriptors: how many may be open for locked keys, one for each.
        :param wall: seconds since the epoch, by the clock that git-annex reads too.
        :param boot: names the run of the machine that ``clock`` counts in.
        :raises RepositoryError: there is none, or it cannot be served.
        """
        config = Config.read(directory)
        program.program()  # without it nobody would learn what changes
        own = str(config.layout.own)
        try:
            config.modes.make_directories(own)
            for name in ("objects", "tmp"):
                config.modes.make_directories(str(config.layout.annex / name))
                if os.stat(config.layout.annex / name).st_dev != os.stat(own).st_dev:
                    raise RepositoryError(
                        f"{config.layout.annex / name} is on another file system than {own}, and "
                        "files have to be renamed from one to the other: put them on one"
                    )
            wall_clock = WallClock(own, config.modes, clock=clock, wall=wall, boot=boot)
            wall_clock.write_down()
            if mounts.is_local(own):  # else it may be another machine's
                wall_clock.forget_other_runs()
            return cls(config, workers, descriptors, clock, wall_clock)
        except OSError as error:
            raise RepositoryError(f"cannot write in {own}: {error.strerror}") from error

    @property
    def _program_directory(self) -> Path:
        return self.config.work_tree or self._layout.git

    def _be_there(self, wait: bool = True) -> None:
        """Of a repository whose disk is not mounted nobody may say that content is not here, or has
        been removed; and where another has taken its place, that is not this one.

        :param wait: git may be asked, after the configuration has changed.
        :raises RepositoryGone: it is gone.
        :raises WouldWait: git would have to be asked.
        """
        try:
            version = version_of(os.stat(self._config_file))
        except OSError as error:
            raise self._gone() from error
        if version == self._version:
            return
        if not wait:
            raise WouldWait
        try:
            found = Config.read(self._program_directory).uuid
        except NotInitializedError:
            found = None
        if found != self.uuid:
            raise self._gone()
        self._version = version

    def _gone(self) -> RepositoryGone:
        return RepositoryGone(f"the repository {self.uuid} in {self._layout.git} is gone")

    async def _still(self) -> None:
        """As :meth:`_be_there`, on the event loop."""
        status = nowait.status(self._config_file)
        if status is None or version_of(status) != self._version:
            await self._workers.run(self._be_there)

    # -- what is here ------------------------------------------------------------------------------

    async def present(self, key: Key) -> bool:
        await self._still()
        paths = self._layout.objects(key)
        status = await find(paths, self._workers)
        if status is None:
            return False
        if self._objects.may_be_edited(status):
            return await self._workers.run(self._objects.is_unmodified, key, paths)
        return True

    @asynccontextmanager
    async def content(self, key: Key) -> AsyncIterator[FileContent | None]:
        await self._still()
        paths = self._layout.objects(key)
        async with open_content(key, paths, self._workers) as content:
            if (
                content is not None
                and self._objects.may_be_edited(os.fstat(content.descriptor))
                and not await self._workers.run(self._objects.is_unmodified, key, paths)
            ):
                yield None
                return
            yield content

    # -- storing -----------------------------------------------------------------------------------

    async def partial(self, key: Key) -> int:
        return await self._workers.run(partials.partial_size, self._layout.partial(key), key)

    @asynccontextmanager
    async def receive(
        self, key: Key, *, client: str, file: str | None, offset: int, length: int
    ) -> AsyncIterator[partials.PartialFile | None]:
        transfer = ExitStack()
        begun: list[partials.PartialFile] = []
        try:
            await self._workers.run(self._begin, transfer, begun, key, client, file, offset, length)
            if not begun:  # who stored it may not have come as far as recording it
                await self._workers.run_patiently(self._record, key)
                self._committer.changed()
            yield begun[0] if begun else None
        finally:
            # What was begun is ended, in a worker too, whatever became of who asked.
            with anyio.CancelScope(shield=True):
                for upload in begun:
                    await upload.aclose()
                    if upload.stored:
                        self._committer.changed()
                await self._workers.run(transfer.close)

    def _begin(
        self,
        transfer: ExitStack,
        begun: list[partials.PartialFile],
        key: Key,
        client: str,
        file: str | None,
        offset: int,
        length: int,
    ) -> None:
        self._be_there()
        if self._objects.is_here(key):
            return
        journal_name(key)  # a key that nobody could learn of is refused before it is stored
        if self.config.secure_hashes_only and not backends.secure(key):
            raise NotAccepted(
                f"annex.securehashesonly keeps {key.backend} keys out of this repository"
            )
        path = left = str(self._layout.partial(key))
        resumable = partials.can_be_resumed(key)
        if not resumable:
            path = self._scratch.name()  # should we be killed, the next server clears it up
        try:
            transfer.enter_context(self._transfers.receiving(key, client, file))
            if self._objects.is_here(key):  # by somebody who was faster
                return
            self._make_room(key, path, offset + length)
            self._modes.make_directories(os.path.dirname(path))
            if not resumable:
                with suppress(FileNotFoundError):
                    os.unlink(left)
        except OSError as error:
            raise disk_error("cannot store the upload", error) from error
        # Of an earlier upload nobody knows whether it was right, so its end is always verified.
        wanted = self.config.verify or offset > 0
        begun.append(
            partials.PartialFile.open(
                key,
                path,
                offset,
                self._modes.creation,
                backends.verifier(key) if wanted else None,
                self._workers,
                partial(self._store, key, wanted),
            )
        )

    def _make_room(self, key: Key, path: str, size: int) -> None:
        """See that there is space ("annex.diskreserve"), for others' transfers too."""
        wanted = key.size if key.size is not None else size
        here = partials.partial_size(path, key)
        others = self._transfers.bytes_to_come(key)
        make_sure_of_room(
            self._layout.annex,
            wanted - here,
            self.config.disk_reserve,
            others=others,
            setting="annex.diskreserve",
        )

    def _store(self, key: Key, wanted: bool, path: str) -> None:
        """Put verified content into its place, and record that it is here."""
        if wanted and backends.check(key) in (backends.Check.CALCKEY, backends.Check.PERHAPS):
            self._verify_by_git_annex(key, path)
        try:
            self._objects.make_way(key)
            if self._is_for_git_annex(key):
                program.set_key(self._program_directory, key, Path(path), verified=True)
                return
            self._objects.place(key, path)
        except OSError as error:
            raise disk_error("cannot put the content into its place", error) from error
        self._record(key)

    def _record(self, key: Key) -> None:
        """Record whether the content is here: what is so by the time that it is recorded."""
        paths = self._layout.objects(key)
        try:
            self._locations.record(key, lambda: find_blocking(paths) is not None)
        except RepositoryError:
            self._unrecorded.add(key)
            raise
        self._unrecorded.discard(key)

    def _record_what_was_not(self) -> None:
        """Content is in its place, or gone, and the disk did not let that be recorded then: nobody
        would learn of it, since who asks again is told that it is here."""
        for key in tuple(self._unrecorded):
            try:
                self._record(key)
            except RepositoryError:  # it has been said
                return

    def _is_for_git_annex(self, key: Key, *, populated: bool = False) -> bool:
        """Whether content comes or goes that files of the work tree want, or hold, or that only
        git-annex knows how to handle."""
        try:
            return self.config.by_git_annex or bool(
                self._keys.unlocked_files(key, populated=populated)
            )
        except KeysUnreadableError as error:
            _log.info("%s: left to git-annex: %s", self.uuid, error)
            return True

    def _verify_by_git_annex(self, key: Key, path: str) -> None:
        try:
            found = program.calculate_key(self._program_directory, key.backend, Path(path))
        except program.ProgramError:
            if backends.check(key) is backends.Check.PERHAPS:
                return  # as git-annex has it: what it cannot verify, it takes
            raise
        if not backends.same_hash(key, found.name.partition(".")[0]):
            os.unlink(path)
            raise InvalidContent(
                "what came is not the content of this key: its hash is another one"
            )

    async def confirm(self, key: Key) -> bool:
        if not await self.present(key):
            return False
        await self._workers.run_patiently(self._record, key)
        self._committer.changed()
        return True

    # -- removing ----------------------------------------------------------------------------------

    async def remove(self, key: Key, *, before: float | None) -> Refusal | None:
        await self._unlock_what_is_left()
        refusal = await self._workers.run_patiently(self._remove, key, before)
        if refusal is None:
            self._committer.changed()
        return refusal

    def _remove(self, key: Key, before: float | None) -> Refusal | None:
        self._be_there()
        for place in self._layout.objects(key):
            if find_blocking([place]) is None:
                continue
            by_git_annex = self._is_for_git_annex(key, populated=True)
            try:
                if by_git_annex:
                    refusal = self._may_remove(place)
                else:
                    refusal = self._delete(key, place, before)
            except FileNotFoundError:  # somebody else has removed it, and the directory with it
                self._record(key)
                continue
            except OSError as error:
                raise disk_error("cannot remove the content", error) from error
            if refusal is not None:
                return refusal
            if by_git_annex:
                with self._scratch.noting(key.text):
                    return self._remove_by_git_annex(key, before)
        return None

    def _may_remove(self, place: str) -> Refusal | None:
        """git-annex goes by what the wall clock says now: what is retained it shall not be asked to
        remove, and what only seems to be is out of its way."""
        with self._locks.removing(place) as mine:
            return None if mine else Refusal.LOCKED

    def _delete(self, key: Key, place: str, before: float | None) -> Refusal | None:
        def in_time() -> bool:
            return before is None or self._clock() < before

        with self._scratch.noting(key.text):
            with self._locks.removing(place) as mine:
                if not mine:
                    return Refusal.LOCKED
                if not self._objects.delete(place, in_time):
                    return Refusal.TOO_LATE
                self._record(key)
            self._objects.clean_up(place)
        return None

    def _remove_by_git_annex(self, key: Key, before: float | None) -> Refusal | None:
        """Where files of the work tree have to become pointers again, for example. git-annex looks
        at locks and retention itself, and is ended if it has not removed the content in time."""
        timeout = program.TIMEOUT_SECONDS
        if before is not None:
            timeout = min(timeout, before - self._clock())
            if timeout <= 0:
                return Refusal.TOO_LATE
        try:
            program.drop_key(self._program_directory, key, timeout=timeout)
        except program.ProgramError as error:
            if find_blocking(self._layout.objects(key)) is None:
                self._record(key)
                return None
            if "content is locked" in error.printed:
                return Refusal.LOCKED
            if before is not None and self._clock() >= before:
                return Refusal.TOO_LATE
            raise
        return None

    # -- locks -------------------------------------------------------------------------------------

    async def lock_content(self, key: Key, lock: Lock) -> Refusal | None:
        try:
            return await self._try_lock(key, lock)
        except _MayBeEdited:
            if not await self._workers.run(self._objects.is_here, key):
                return Refusal.NOT_PRESENT
        try:
            return await self._try_lock(key, lock)
        except _MayBeEdited:  # it has just been
            return Refusal.NOT_PRESENT

    async def _try_lock(self, key: Key, lock: Lock) -> Refusal | None:
        if self._local:
            return await self._workers.run_at_once(self._lock, key, lock)
        return await self._workers.run_brief(self._lock, key, lock, True)

    def _lock(self, key: Key, lock: Lock, wait: bool) -> Refusal | None:
        until = self._wall.until(lock.locked_at + RETENTION)
        busy = None
        self._be_there(wait)
        try:
            if self._wall.look():  # before anything is promised in its time
                if not wait:
                    raise WouldWait
                self._wall.write_down()
            for place in self._layout.objects(key):
                taken = self._locks.lock(place, lock.id, until, good=self._is_good, wait=wait)
                if taken is Taken.LOCKED:
                    return None
                if taken is Taken.NO_DESCRIPTOR:
                    return Refusal.DESCRIPTORS
                if taken is Taken.BUSY:
                    busy = Refusal.REMOVING
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                return Refusal.DESCRIPTORS
            if error.errno == errno.ENAMETOOLONG:
                there = find_blocking(self._layout.objects(key))
                return Refusal.NOT_PRESENT if there is None else Refusal.TOO_LONG
            raise disk_error("cannot lock the content", error) from error
        return busy or Refusal.NOT_PRESENT

    def _is_good(self, place: str, status: os.stat_result) -> bool:
        if self._objects.may_be_edited(status) and not self._objects.is_known(place, status):
            raise _MayBeEdited
        return True

    async def unlock_content(self, lock: Lock) -> None:
        if self._local and not self._workers.disk_is_slow:
            # Before anything else is read from a client, but while the answer is on its way.
            if not self._to_unlock:
                asyncio.get_running_loop().call_soon(self._unlock_soon)
            self._to_unlock.append(lock)
        else:
            await self._workers.run_brief(self._unlock, lock, True)

    def _unlock_soon(self) -> None:
        locks, self._to_unlock = self._to_unlock, []
        for lock in locks:
            try:
                self._workers.at_once(self._unlock, lock)
            except WouldWait:
                self._left_to_unlock.append(lock)

    async def _unlock_what_is_left(self) -> None:
        self._unlock_soon()
        while self._left_to_unlock:
            await self._workers.run_brief(self._unlock, self._left_to_unlock.pop(), True)

    def _unlock(self, lock: Lock, wait: bool) -> None:
        try:
            self._locks.unlock(lock.id, wait=wait)
        except OSError as error:
            _log.warning("%s: %s stays locked until its time: %s", self.uuid, lock.key, error)

    # -- coming and going --------------------------------------------------------------------------

    async def check(self) -> None:
        await self._still()
        await self._workers.run(self._try_disk)

    def _try_disk(self) -> None:
        annex = self._layout.annex
        others = ("tmp", "transfer", "othertmp", "journal")
        try_disk(
            str(annex / "objects"), str(self._layout.own), *(str(annex / name) for name in others)
        )
        if self._unrecorded:
            raise RepositoryError("where content is could not be recorded yet")
        if self._committer.trouble is not None:
            raise RepositoryError(f"cannot commit the journal: {self._committer.trouble}")

    async def tidy(self) -> None:
        await self._unlock_what_is_left()
        if self._locks.spares:
            await self._workers.run_brief(self._locks.trim)
        if self._unrecorded:
            await self._workers.run_patiently(self._record_what_was_not)
            self._committer.changed()
        if self._wall.look() or self._locks.stepped:
            await self._workers.run_patiently(self._follow_the_clock)

    def _follow_the_clock(self) -> None:
        for follow in (self._wall.write_down, self._locks.restate):
            try:
                follow()
            except OSError as error:
                if not self._clock_told:
                    self._clock_told = True
                    _log.warning(
                        "%s: the clock was set, and not all retention follows: %s", self.uuid, error
                    )

    async def retained(self) -> list[Lock]:
        """None by their ids: what an earlier process promised is in git-annex's retention files,
        and is looked at when content is removed."""
        await self._workers.run_patiently(self._interrupted.put_in_order)
        if self._locations.pending():
            self._committer.changed()
        return []

    async def aclose(self) -> None:
        await self._unlock_what_is_left()
        await self._workers.run(self._locks.abandon)
        await self._workers.run(self._scratch.close)
        await self._workers.run(self._record_what_was_not)
        await self._committer.aclose()
        await self._workers.run(self._locations.close)
        await self._workers.run(self._keys.close)
