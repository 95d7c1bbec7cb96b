"""The real ``git annex drop`` as the client: how long it takes against each server, over how many
connections and requests, and is nothing left locked behind it?

All servers have the same content, and every drop is made in the same clone, by a copy of it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from locklane_bench.children import QUIET, RelayChild, ServerChild, python
from locklane_bench.gitannex import AnnexRepository
from locklane_bench.keys import from_repository, put_into_store
from locklane_bench.peer import repositories, servers
from locklane_bench.peer.repositories import Repositories
from locklane_bench.results import AnnexDrop
from locklane_client.address import Address

STORE, ANNEX, PEER = "locklane", "locklane-annex", "p2phttp"
"""The servers, as in :class:`~locklane_bench.results.Condition`."""

SERVERS = (STORE, ANNEX, PEER)

JOBS = (1, 4)
"""Numbers of jobs that ``git annex drop`` is run with."""

FILE_SIZE = 100
"""Bytes of each file: a drop sends none of them."""

SETTLE_SECONDS = 5.0
"""How long connections may take to be closed, and locks to be undone, after a drop."""

_LOOK_SECONDS = 0.02


@dataclass(frozen=True, slots=True)
class Step:
    """One ``git annex drop`` to be made."""

    server: str
    jobs: int
    round: int


@dataclass(frozen=True, slots=True)
class _Target:
    """A server that is running, and what to ask about it."""

    address: Address
    relay: RelayChild
    locks_taken: Callable[[], int] | None
    locks_left: Callable[[], int]


class AnnexDrops:
    """A git-annex repository, the servers that have its content, and the drops against them. A
    context manager; to enter it is also to make an uncounted drop against each server.

    >>> with AnnexDrops(Path("empty"), files=100) as drops:
    ...     made = [drops.run(step) for step in drops.steps(rounds=3)]

    :param directory: an empty directory, on one file system. What is in it at the end can be
        removed.
    :param files: to drop in each step, 1 or more.
    :param servers: which of :data:`SERVERS`.
    :raises GitAnnexError: git-annex is not there, or failed.
    :raises ChildError: a server did not start.
    """

    def __init__(self, directory: Path, files: int, servers: Sequence[str] = SERVERS) -> None:
        unknown = set(servers) - set(SERVERS)
        if unknown:
            raise ValueError(f"no server {min(unknown)!r}; there are {', '.join(SERVERS)}")
        self._directory = directory
        self._files = files
        self._servers = list(servers)
        self._targets: dict[str, _Target] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.callback(AnnexRepository(self._directory, self._directory).make_removable)
            self._repositories = Repositories(self._directory)
            content = self._repositories.make(self._files, FILE_SIZE, FILE_SIZE)
            self._uuid = content.uuid
            self._keys = content.small
            self._version = self._repositories.version()
            for name in self._servers:
                start = self._start_store if name == STORE else self._start_annex
                self._targets[name] = start(name, stack)
            for name in self._servers:
                self.run(Step(name, jobs=1, round=0))  # the first of all is slower
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def keys(self) -> list[str]:
        """Of the files, as every server has them."""
        return self._keys

    def address(self, server: str) -> Address:
        """Where one of the servers is, past its relay."""
        return self._targets[server].address

    def steps(self, rounds: int, jobs: Sequence[int] = JOBS) -> list[Step]:
        """What there is to do, in the order in which to do it: each round makes every drop once."""
        return [
            Step(server, at_once, number)
            for number in range(1, rounds + 1)
            for at_once in jobs
            for server in self._servers
        ]

    def run(self, step: Step) -> AnnexDrop:
        """Drop all files in a clone made for it.

        :raises GitAnnexError: git-annex failed, or did not drop them all.
        :raises ChildError: a server or its relay has ended.
        """
        target = self._targets[step.server]
        url = f"annex+http://127.0.0.1:{target.relay.port}/git-annex/"
        client = self._repositories.client("client", url, self._uuid)
        try:
            return self._dropped(step, target, client)
        finally:
            self._repositories.remove(client)

    def _dropped(self, step: Step, target: _Target, client: AnnexRepository) -> AnnexDrop:
        _until_none(target.relay.open)
        taken = target.locks_taken() if target.locks_taken else None
        before = target.relay.counts()
        started = time.perf_counter()
        self._repositories.drop(client, step.jobs)
        seconds = time.perf_counter() - started
        self._repositories.check_dropped(client)
        _until_none(target.relay.open)
        after = target.relay.counts()
        return AnnexDrop(
            server=step.server,
            round=step.round,
            git_annex_version=self._version,
            files=self._files,
            jobs=step.jobs,
            seconds=seconds,
            connections=after.connections - before.connections,
            requests=(after.requests or 0) - (before.requests or 0),
            bytes_up=after.bytes_up - before.bytes_up,
            bytes_down=after.bytes_down - before.bytes_down,
            locks_taken=target.locks_taken() - (taken or 0) if target.locks_taken else None,
            locks_left=_until_none(target.locks_left),
        )

    def _start_store(self, name: str, stack: ExitStack) -> _Target:
        """Locklane on a directory of keys, with the repository's UUID, so that git-annex finds
        what it needs in its clone just as with the others."""
        store = self._directory / "store"
        store.mkdir()
        put_into_store(from_repository(self._repositories.objects), store)
        command = python("locklane_client", "serve", "--store", str(store), "--uuid", self._uuid)
        command += ["--wideopen", "--port", "0", "--metrics", "127.0.0.1:0", *QUIET]
        server = stack.enter_context(ServerChild(command, "locklane serve"))
        address = Address.parse(server.address)
        return _Target(
            address,
            _relay(stack, address.port),
            lambda: server.counted("locklane_locks_taken_total"),
            lambda: server.counted("locklane_locks"),
        )

    def _start_annex(self, name: str, stack: ExitStack) -> _Target:
        """A server on a copy of the repository, with its UUID."""
        served = self._repositories.copy(name)
        make = servers.locklane if name == ANNEX else servers.p2phttp
        server = stack.enter_context(make(served))
        return _Target(
            Address.parse(server.url, server.uuid),
            _relay(stack, server.port),
            None,  # neither is asked what it counted
            lambda: repositories.locks_left(served),
        )


def _relay(stack: ExitStack, port: int) -> RelayChild:
    relay = stack.enter_context(RelayChild("127.0.0.1", port))
    relay.count_requests(True)
    return relay


def _until_none(count: Callable[[], int]) -> int:
    """Wait until a count is 0, but not longer than :data:`SETTLE_SECONDS`; returns the last."""
    end = time.monotonic() + SETTLE_SECONDS
    while (left := count()) and time.monotonic() < end:
        time.sleep(_LOOK_SECONDS)
    return left
