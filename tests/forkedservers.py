"""Servers as processes of their own that start in a moment, with clocks that the test sets, and
that are killed as ``kill -9`` does."""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from kinds import kind_of

from locklane_server.access import WIDE_OPEN
from locklane_server.clock import boottime
from locklane_server.locks import Lock
from locklane_server.repository.annex.contentlock import ContentLocks
from locklane_server.repository.annex.repository import AnnexRepository
from locklane_server.repository.directory import DirectoryRepository
from locklane_server.served import ServedRepository
from locklane_server.server import Server
from locklane_server.workers import Workers

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["forkedservers"])
START_SECONDS = 60.0


class Forked:
    """A server, one run after another, of one repository.

    :param forgetful: what an earlier run has promised means nothing to the next.
    """

    def __init__(self, store: Path, *, forgetful: bool = False) -> None:
        self.store = store
        self.forgetful = forgetful
        self.times: Any = CONTEXT.RawArray("d", 2)
        """Seconds that both its clocks are ahead of the real ones, and the wall clock besides."""
        self.url = ""
        self._port = 0
        self._process: Any = None

    def start(self) -> None:
        here, there = CONTEXT.Pipe()
        arguments = (str(self.store), self._port, self.times, self.forgetful, there)
        self._process = CONTEXT.Process(target=_serve, args=arguments, daemon=True)
        self._process.start()
        there.close()
        assert here.poll(START_SECONDS), "the server does not start"
        self._port, uuid = here.recv()
        here.close()
        self.url = f"annex+http://127.0.0.1:{self._port}/git-annex/{uuid}"

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._process.close()
            self._process = None


def _serve(
    store: str, port: int, times: Sequence[float], forgetful: bool, there: Connection
) -> None:
    if forgetful:
        _forget()
    asyncio.run(_go_on_serving(Path(store), port, times, there))


async def _go_on_serving(store: Path, port: int, times: Sequence[float], there: Connection) -> None:
    def clock() -> float:
        return boottime() + times[0]

    def wall() -> float:
        return time.time() + times[0] + times[1]

    workers = Workers(2)
    repository = (
        AnnexRepository.open(store, workers, clock=clock, wall=wall)
        if kind_of(store) == "annex"
        else DirectoryRepository.open(store, workers, clock=clock, reserve=0)
    )
    served = ServedRepository(repository, clock=clock)
    async with Server([served], access=WIDE_OPEN, port=port, workers=workers) as server:
        there.send((server.port, repository.uuid))
        await asyncio.Event().wait()


def _forget() -> None:
    async def none(self: DirectoryRepository) -> list[Lock]:
        return []

    def never(self: ContentLocks, path: str) -> None:
        return None

    DirectoryRepository.retained = none  # type: ignore[method-assign]
    ContentLocks._retained = never  # type: ignore[method-assign]
