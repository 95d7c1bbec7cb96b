"""The repositories that a server serves: those it was given, and those that come and go below a
directory while it runs."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Hashable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Protocol

import anyio

from locklane_server.repository import RepositoryError
from locklane_server.served import ServedRepository

LOOK_SECONDS = 10.0
"""How often is looked for repositories that are new or gone."""

LOOK_SHARE = 0.1
"""The most of the time that is spent looking, however often somebody asks for a repository that is
not known."""

_log = logging.getLogger(__name__)


class Discovery(Protocol):
    """Finds repositories on disk, and waits for that."""

    async def find(self) -> dict[Path, Hashable]:
        """The places where there is one now, each with something that changes when it is changed or
        replaced."""

    def troubles(self) -> Mapping[Path, str]:
        """Where there is one that cannot be served for the time being, and why."""

    async def is_gone(self, place: Path) -> bool:
        """Whether one that is not found any more certainly is not there."""

    async def uuid(self, place: Path) -> str | None:
        """The UUID of the one there; empty if it has none, ``None`` if that cannot be told."""

    async def open(self, place: Path) -> ServedRepository | None:
        """Open one; ``None`` if it is none of git-annex's, or cannot be served (which is logged,
        once)."""


class Repositories:
    """See the module. Iterates over what is served now.

    :param given: served for as long as the server runs.
    :param discovery: finds others.
    :raises ValueError: two of those given have the same UUID.
    """

    def __init__(
        self, given: Iterable[ServedRepository], discovery: Discovery | None = None
    ) -> None:
        self._given = list(given)
        self._discovery = discovery
        self._served: dict[str, ServedRepository] = {}
        self._sweepers: dict[str, asyncio.Task[None]] = {}
        self._places: dict[Path, tuple[ServedRepository, Hashable]] = {}
        self._looking = asyncio.Lock()
        self._looked_at = float("-inf")
        self._look_took = 0.0
        self._doubles: set[tuple[Path, Hashable]] = set()
        if len({served.uuid for served in self._given}) < len(self._given):
            raise ValueError("two of the repositories have the same UUID")

    def __iter__(self) -> Iterator[ServedRepository]:
        return iter(tuple(self._served.values()))

    def __len__(self) -> int:
        return len(self._served)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Serve; at the end everything is let go of.

        :raises RepositoryError: one of those given cannot be served.
        """
        looking: asyncio.Task[None] | None = None
        try:
            for served in self._given:
                await self._begin(served)
            if self._discovery is not None:
                await self.look()
                looking = asyncio.create_task(self._keep_looking())
            yield
        finally:
            with anyio.CancelScope(shield=True):
                if looking is not None:
                    looking.cancel()
                    with suppress(asyncio.CancelledError):
                        await looking
                for served in {*self._given, *self}:
                    await self._end(served)

    def troubles(self) -> dict[str, str]:
        """What should be served and is not, by its place, and why."""
        if self._discovery is None:
            return {}
        found = {str(place): why for place, why in self._discovery.troubles().items()}
        if not found and not self._served:
            found["all"] = "there is no repository: see whether the disk is mounted"
        return found

    def get(self, uuid: str) -> ServedRepository | None:
        """The repository of that UUID, if it is known."""
        return self._served.get(uuid)

    async def find(self, uuid: str) -> ServedRepository | None:
        """The repository of that UUID; one that is new is looked for."""
        served = self._served.get(uuid)
        if served is None and await self.look_again():
            served = self._served.get(uuid)
        return served

    async def look_again(self) -> bool:
        """Look because of what somebody asked for, but not all the time.

        :returns: ``False``: nothing can come or go here.
        """
        if self._discovery is None:
            return False
        asked = time.monotonic()
        await anyio.sleep(max(0.0, self._looked_at + self._look_took / LOOK_SHARE - asked))
        await self.look(asked)
        return True

    async def look(self, asked: float = float("inf")) -> None:
        """Look for repositories that are new or gone.

        :param asked: not if a look was begun after that time.
        """
        assert self._discovery is not None
        async with self._looking:
            if self._looked_at >= asked:
                return
            self._looked_at = time.monotonic()
            found = await self._discovery.find()
            for place, (served, version) in tuple(self._places.items()):
                if found.get(place) == version:
                    continue
                if place in found:
                    if await self._discovery.uuid(place) in (served.uuid, None):
                        self._places[place] = served, found[place]
                        continue
                elif not await self._discovery.is_gone(place):
                    continue
                del self._places[place]
                _log.info("%s: %s is gone, and is not served any more", served.uuid, place)
                served.end_holds("the repository is not served any more")
                await self._end(served)
            for place in sorted(found.keys() - self._places.keys()):
                await self._add(place, found[place])
            self._look_took = time.monotonic() - self._looked_at

    async def _add(self, place: Path, version: Hashable) -> None:
        assert self._discovery is not None
        served = await self._discovery.open(place)
        if served is None:
            return
        if served.uuid in self._served:
            where = [
                str(there) for there, (each, _) in self._places.items() if each.uuid == served.uuid
            ]
            if (place, version) not in self._doubles:
                self._doubles.add((place, version))
                _log.warning(
                    "%s: there are two repositories of that UUID; %s is served, and %s is not",
                    served.uuid,
                    " ".join(where) or "another one",
                    place,
                )
            await served.aclose()
            return
        try:
            await self._begin(served)
        except RepositoryError as error:
            _log.warning("%s: not served: %s", place, error)
            await served.aclose()
            return
        self._places[place] = served, version
        _log.info("%s: found in %s", served.uuid, place)

    async def _keep_looking(self) -> None:
        while True:
            await anyio.sleep(LOOK_SECONDS)
            try:
                await self.look()
            except Exception:  # a fault of ours, which must not be the end of all looking
                _log.exception("cannot look for repositories")

    async def _begin(self, served: ServedRepository) -> None:
        await served.restore()
        self._served[served.uuid] = served
        self._sweepers[served.uuid] = asyncio.create_task(served.keep_sweeping())

    async def _end(self, served: ServedRepository) -> None:
        if self._served.get(served.uuid) is served:
            del self._served[served.uuid]
            sweeper = self._sweepers.pop(served.uuid)
            sweeper.cancel()
            with suppress(asyncio.CancelledError):
                await sweeper
        await served.aclose()
