"""Whether what is served can be served: asked by proxies, service managers and people.

Each repository tries what it does for clients: it reads, and writes a byte. ``GET /health`` on the
API's own port says no more than whether that went well, since anybody can ask; the address for
metrics also says which repository, and why not.
"""

from __future__ import annotations

import asyncio
import time

import anyio
from aiohttp import web

from locklane_client import wire
from locklane_server.repositories import Repositories
from locklane_server.repository import RepositoryError
from locklane_server.served import ServedRepository

FRESH_SECONDS = 2.0
"""How long an answer is good for, however often it is asked for."""

PATIENCE_SECONDS = 10.0
"""A repository that takes longer cannot be served."""


class Health:
    """Of all repositories of a server."""

    def __init__(self, repositories: Repositories) -> None:
        self._repositories = repositories
        self._looking = asyncio.Lock()
        self._looked_at = float("-inf")
        self._ill: dict[str, str] = {}
        self._looks: dict[str, asyncio.Task[None]] = {}
        """Those under way. Who has begun to wait for a disk cannot be called back."""
        self.stopping = False
        """The server is: nobody should be sent here any more."""

    async def look(self) -> dict[str, str]:
        """What cannot be served, by UUID or place, and why, in a sentence; empty: all is well."""
        async with self._looking:
            if time.monotonic() - self._looked_at > FRESH_SECONDS:
                self._ill = dict(self._repositories.troubles())
                async with anyio.create_task_group() as tasks:
                    for served in self._repositories:
                        tasks.start_soon(self._look_at, served)
                self._looked_at = time.monotonic()
            return self._ill

    async def _look_at(self, served: ServedRepository) -> None:
        look = self._looks.get(served.uuid)
        if look is None:
            look = self._looks[served.uuid] = asyncio.create_task(served.repository.check())
        done, _ = await asyncio.wait([look], timeout=PATIENCE_SECONDS)
        if not done:
            self._ill[served.uuid] = f"its disk has not answered for {PATIENCE_SECONDS:g} s"
            return
        del self._looks[served.uuid]
        try:
            look.result()
        except RepositoryError as error:
            self._ill[served.uuid] = str(error)

    async def answer(self, *, details: bool = False) -> web.Response:
        """200 or 503, and JSON.

        :param details: say what is served, and what is the matter with it.
        """
        ill = await self.look()
        said: dict[str, object] = {"healthy": not ill and not self.stopping}
        if self.stopping:
            said["error"] = "the server is stopping"
        elif ill:
            said["error"] = f"repositories that cannot be served: {len(ill)}"
        if details:
            well = {served.uuid: "healthy" for served in self._repositories}
            said["repositories"] = {**well, **ill}
        return web.Response(
            status=200 if said["healthy"] else 503,
            body=wire.dumps(said),
            headers={"Content-Type": wire.JSON_TYPE, "Cache-Control": "no-store"},
        )
