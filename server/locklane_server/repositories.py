"""The repositories that a server serves: those it was given, and those that come and go below a
directory while it runs."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Protocol

import anyio

from locklane_server.repository import RepositoryError
from locklane_server.served import ServedRepository

LOOK_SECONDS = 10.0
"""How often is looked for repositories that are new or gone."""

LOOK_AGAIN_SECONDS = 1.0
"""The least time between two looks when somebody asks for a repository that is not known."""

_log = logging.getLogger(__name__)


class Discovery(Protocol):
    """Finds repositories on disk. Both wait for the disk."""

    async def find(self) -> set[Path]:
        """The places where there is one now."""

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
        self._places: dict[Path, ServedRepository] = {}
        self._looking = asyncio.Lock()
        self._looked_at = float("-inf")
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

    def get(self, uuid: str) -> ServedRepository | None:
        """The repository of that UUID, if it is known."""
        return self._served.get(uuid)

    async def find(self, uuid: str) -> ServedRepository | None:
        """The repository of that UUID; one that is new is looked for."""
        served = self._served.get(uuid)
        if served is None and self._discovery is not None:
            if time.monotonic() >= self._looked_at + LOOK_AGAIN_SECONDS:
                await self.look()
            served = self._served.get(uuid)
        return served

    async def look(self) -> None:
        """Look for repositories that are new or gone."""
        assert self._discovery is not None
        async with self._looking:
            found = await self._discovery.find()
            for place in self._places.keys() - found:
                served = self._places.pop(place)
                _log.info("%s: %s is gone, and is not served any more", served.uuid, place)
                served.end_holds("the repository is not served any more")
                await self._end(served)
            for place in sorted(found - self._places.keys()):
                served_new = await self._discovery.open(place)
                if served_new is None:
                    continue
                if served_new.uuid in self._served:
                    _log.warning(
                        "%s: another repository of that UUID is served; %s is not",
                        served_new.uuid,
                        place,
                    )
                    await served_new.aclose()
                    continue
                try:
                    await self._begin(served_new)
                except RepositoryError as error:
                    _log.warning("%s: not served: %s", place, error)
                    await served_new.aclose()
                    continue
                self._places[place] = served_new
                _log.info("%s: found in %s", served_new.uuid, place)
            self._looked_at = time.monotonic()

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
