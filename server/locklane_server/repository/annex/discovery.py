"""Finding git-annex repositories below a directory."""

from __future__ import annotations

import logging
import os
import subprocess
from collections.abc import Hashable, Iterable, Iterator, Mapping
from pathlib import Path

from locklane_server.clock import Clock, boottime
from locklane_server.descriptors import Descriptors
from locklane_server.locks import Allowance
from locklane_server.repository import RepositoryError
from locklane_server.repository.annex.config import Config, NotInitializedError
from locklane_server.repository.annex.repository import AnnexRepository
from locklane_server.served import ServedRepository
from locklane_server.workers import Workers

_log = logging.getLogger(__name__)

_Version = tuple[int, int]


class AnnexDiscovery:
    """Finds repositories in and below directories, at any depth; not inside of one another, and not
    through symbolic links, as git-annex has it.

    :param tops: the directories.
    :param descriptors: how many may be open for locked keys, in all repositories together.
    :param allowance: of locks, in all repositories together.
    """

    def __init__(
        self,
        tops: Iterable[Path],
        workers: Workers,
        *,
        descriptors: Descriptors | None = None,
        allowance: Allowance | None = None,
        clock: Clock = boottime,
    ) -> None:
        self._tops = [top.resolve() for top in tops]
        self._workers = workers
        self._descriptors = descriptors
        self._allowance = allowance or Allowance()
        self._clock = clock
        self._refused: dict[Path, _Version] = {}
        self._not_yet: dict[Path, str] = {}

    async def find(self) -> dict[Path, Hashable]:
        return await self._workers.run(self._find)

    def _find(self) -> dict[Path, Hashable]:
        found: dict[Path, Hashable] = {
            place: _version(place) for top in self._tops for place in find_repositories(top)
        }
        # What was refused is looked at again when its configuration changes.
        for place, version in tuple(self._refused.items()):
            if found.get(place) != version:
                del self._refused[place]
        for place in self._not_yet.keys() - found.keys():
            del self._not_yet[place]
        return found

    def troubles(self) -> Mapping[Path, str]:
        return self._not_yet

    async def is_gone(self, place: Path) -> bool:
        return await self._workers.run(_is_gone, place)

    async def uuid(self, place: Path) -> str | None:
        return await self._workers.run(self._uuid, place)

    def _uuid(self, place: Path) -> str | None:
        try:
            return Config.read(place).uuid
        except NotInitializedError:
            return ""
        except RepositoryError:
            return None

    async def open(self, place: Path) -> ServedRepository | None:
        if place in self._refused:
            return None
        repository = await self._workers.run(self._open, place)
        if repository is None:
            return None
        return ServedRepository(repository, allowance=self._allowance, clock=self._clock)

    def _open(self, place: Path) -> AnnexRepository | None:
        version = _version(place)
        try:
            repository = AnnexRepository.open(
                place, self._workers, descriptors=self._descriptors, clock=self._clock
            )
        except RepositoryError as error:
            if isinstance(error.__cause__, OSError | subprocess.SubprocessError):
                if self._not_yet.get(place) != str(error):
                    _log.warning("not served yet: %s", error)
                self._not_yet[place] = str(error)  # and it is tried again
                return None
            if not isinstance(error, NotInitializedError):
                _log.warning("not served: %s", error)
            self._refused[place] = version
            return None
        self._not_yet.pop(place, None)
        return repository


def find_repositories(top: Path) -> Iterator[Path]:
    """The git repositories in a directory: work trees, and bare ones. Blocks."""
    waiting = [str(top)]
    while waiting:
        directory = waiting.pop()
        if _is_repository(directory):
            yield Path(directory)
            continue
        try:
            with os.scandir(directory) as entries:
                waiting += [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
        except OSError:
            continue  # gone, or not ours to look into


def _is_gone(place: Path) -> bool:
    """Whether there certainly is no repository any more; not if the system cannot tell."""
    for name in (".git", "HEAD"):
        try:
            os.lstat(place / name)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError:
            return False
        return False
    return True


def _is_repository(directory: str) -> bool:
    if os.path.exists(f"{directory}/.git"):
        return True
    return os.path.isfile(f"{directory}/HEAD") and all(
        os.path.isdir(f"{directory}/{name}") for name in ("objects", "refs")
    )


def _version(place: Path) -> _Version:
    """Changes with the configuration of the repository in a directory."""
    for name in (".git/config", "config"):
        try:
            status = os.stat(place / name)
        except OSError:
            continue
        return status.st_ino, status.st_mtime_ns
    return 0, 0
