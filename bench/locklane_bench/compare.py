"""The comparison: interleaved rounds of every transport at every concurrency, and what they cost.

Each round makes every run once, one right after the other (A B C A B C …), so that a slow minute
hurts all alike. A run is made twice: straight to the server, which gives the times, and through the
counting relay, which gives the bytes and a count of connections by a third party.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from locklane_bench import annexdrop, procfs
from locklane_bench.children import ChildError, LoadChild, RelayChild, ServerChild
from locklane_bench.gitannex import GitAnnexError
from locklane_bench.keys import Source, put_into_store
from locklane_bench.orders import Order
from locklane_bench.results import AnnexDrop, RelayCounts, Results, Run, Settings, Via
from locklane_bench.versions import versions
from locklane_client.address import Address

WARM_UP_FILES = 50
"""Drops over each transport before the first round, which nobody counts."""

PAUSE_SECONDS = 0.1
"""Before each run, so that what the one before left in TIME_WAIT is told from its own by age."""

SETTLE_SECONDS = 5.0
"""How long connections may take to be closed on both sides after a run."""

CEILING_TRANSPORT = "longpoll"
"""The transport that the bare server answers."""

MEASURED_WITH = ("locklane", "aiohttp", "websockets", "anyio", "uvloop", "locust", "gevent")
"""Packages that a figure could depend on."""

ANNEX_FILES = 50
"""Files for the real ``git annex drop``."""


@dataclass(frozen=True, slots=True)
class Step:
    """One run to be made."""

    server: str
    transport: str
    concurrency: int
    via: Via
    round: int


def steps(settings: Settings, server: str) -> Iterator[Step]:
    """Every run of a comparison, in the order in which they are made."""
    for number in range(1, settings.rounds + 1):
        for concurrency in settings.concurrency:
            for transport in settings.transports:
                yield Step(server, transport, concurrency, "direct", number)
            if has_ceiling(settings):
                yield Step("bare", CEILING_TRANSPORT, concurrency, "direct", number)
        for concurrency in settings.concurrency:
            for transport in settings.transports:
                yield Step(server, transport, concurrency, "relay", number)


def has_ceiling(settings: Settings) -> bool:
    """Whether the bare server says something: not of a server elsewhere, nor where the load waits
    for something else than the server."""
    return (
        CEILING_TRANSPORT in settings.transports
        and settings.url is None
        and settings.rate is None
        and settings.think_time_s == 0
    )


class Comparison:
    """The processes of one comparison, and the runs made with them. A context manager.

    :param settings: what to compare.
    :param sources: the keys to drop, and their content for the server that is started here.
    :param store: an empty directory for that server.
    :param external: measure the server at this address instead.
    """

    def __init__(
        self, settings: Settings, sources: list[Source], store: Path, external: Address | None
    ) -> None:
        self.settings = settings
        self._external = external
        self.failure: str | None = None
        """What went wrong with a drop that failed."""
        self._keys = [source.key.text for source in sources]
        self._sources = sources
        self._store = store
        self._stack = ExitStack()
        self._server: ServerChild | None = None
        self._bare: ServerChild | None = None

    def __enter__(self) -> Comparison:
        with ExitStack() as stack:
            if self._external is None:
                put_into_store(self._sources, self._store)
                self._server = stack.enter_context(
                    ServerChild.locklane(self._store, self.settings.transports)
                )
                self._address = Address.parse(self._server.address)
                if has_ceiling(self.settings):
                    self._bare = stack.enter_context(ServerChild.bare())
            else:
                self._address = self._external
            self._relay = stack.enter_context(RelayChild(self._address.host, self._address.port))
            self._load = stack.enter_context(LoadChild())
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *details: object) -> None:
        self._stack.close()

    @property
    def server_name(self) -> str:
        """``locklane`` or ``external``, as in :class:`~locklane_bench.results.Run`."""
        return "external" if self._server is None else "locklane"

    def steps(self) -> list[Step]:
        """What there is to do."""
        return list(steps(self.settings, self.server_name))

    def warm_up(self) -> None:
        """Drop some files over each transport, uncounted.

        :raises ChildError: not one of them could be dropped.
        """
        servers = [(self.server_name, transport) for transport in self.settings.transports]
        if self._bare:
            servers.append(("bare", CEILING_TRANSPORT))
        for server, transport in servers:
            order = self._order(Step(server, transport, 1, "direct", 0))
            outcome = self._load.carry_out(replace(order, files=WARM_UP_FILES, rate=None))
            if len(outcome.failures) == WARM_UP_FILES:
                raise ChildError(
                    f"nothing could be dropped over {transport}: {outcome.failures[0]}"
                )

    def run(self, step: Step) -> Run:
        """Make one run."""
        order = self._order(step)
        server = self._bare if step.server == "bare" else self._server
        port = Address.parse(server.address).port if server else None
        relay = self._relay if step.via == "relay" else None
        # The server is asked first and last, because asking opens a connection too.
        accepted = _accepted(server)
        if server is not None:
            procfs.reset_peak_memory(server.pid)
        relayed = relay.counts() if relay else None
        cpu = procfs.cpu_seconds(server.pid) if server else None
        time.sleep(PAUSE_SECONDS)
        began, opened = time.monotonic(), procfs.tcp_passive_opens()
        with ExitStack() as watching:
            peak = watching.enter_context(procfs.PeakDescriptors(server.pid)) if server else None
            outcome = self._load.carry_out(order)
        self.failure = next(iter(outcome.failures), self.failure)
        opened = procfs.tcp_passive_opens() - opened
        if relay is not None:
            _settle(relay)
        counted = _difference(relay.counts(), relayed) if relay and relayed else None
        return Run(
            server=step.server,
            transport=step.transport,
            concurrency=step.concurrency,
            via=step.via,
            round=step.round,
            files=len(outcome.latency_ms),
            failures=len(outcome.failures),
            wall_s=outcome.wall_s,
            latency_ms=outcome.latency_ms,
            client=outcome.client,
            server_connections=None if accepted is None else (_accepted(server) or 0) - accepted,
            relay=counted,
            kernel_connections=opened - (counted.connections if counted else 0),
            client_cpu_ms=outcome.cpu_ms,
            server_cpu_ms=(procfs.cpu_seconds(server.pid) - cpu) * 1000 if server and cpu else None,
            server_peak_memory_kib=procfs.peak_memory_kib(server.pid) if server else None,
            server_peak_descriptors=peak.peak if peak else None,
            time_wait=None if port is None or relay else procfs.time_wait(port, since=began),
        )

    def annex_drop(self) -> AnnexDrop:
        """The real ``git annex drop`` against the server that was started here."""
        if self._server is None:
            raise GitAnnexError("it is only made against a server started here")
        return annexdrop.measure(self._server, self._store, ANNEX_FILES)

    def _order(self, step: Step) -> Order:
        bare = Address.parse(self._bare.address) if self._bare else None
        address = bare if bare and step.server == "bare" else self._address
        settings = self.settings
        return Order(
            url=address.url,
            transport=step.transport,
            keys=self._keys[: settings.files],
            files=settings.files,
            concurrency=step.concurrency,
            think_time_s=settings.think_time_s,
            rate=settings.rate,
            relay_port=self._relay.port if step.via == "relay" else None,
        )


def compare(
    settings: Settings,
    sources: list[Source],
    store: Path,
    progress: Callable[[str, int, int], None],
    external: Address | None = None,
    *,
    kernel_is_ours: bool,
) -> Results:
    """Make a whole comparison; the parameters as for :class:`Comparison`.

    :param store: an empty directory.
    :param progress: called with what is being done, how much is done, and how much there is.
    :param kernel_is_ours: nobody else uses this network namespace, so that what the kernel counts
        can be held against the other counts.
    :raises ChildError: a process of the comparison failed.
    """
    started, clock = datetime.now(UTC), time.monotonic()
    runs: list[Run] = []
    with Comparison(settings, sources, store, external) as comparison:
        todo = comparison.steps()
        progress("warming up", 0, len(todo) + 1)
        comparison.warm_up()
        for number, step in enumerate(todo):
            progress(_words(step), number, len(todo) + 1)
            run = comparison.run(step)
            runs.append(run if kernel_is_ours else replace(run, kernel_connections=None))
        progress("git annex drop", len(todo), len(todo) + 1)
        drop, missing = None, None
        try:
            drop = comparison.annex_drop()
        except GitAnnexError as error:
            missing = str(error)
        progress("done", len(todo) + 1, len(todo) + 1)
    return Results(
        started=started.isoformat(timespec="seconds"),
        duration_s=time.monotonic() - clock,
        command=command(settings),
        settings=settings,
        machine=procfs.machine() | {"network": _network(kernel_is_ours)},
        versions=versions(*MEASURED_WITH),
        runs=runs,
        failure=comparison.failure,
        annex_drop=drop,
        annex_drop_missing=missing,
        disagreements=[sentence for run in runs if (sentence := disagreement(run))],
    )


def command(settings: Settings) -> str:
    """The command line that repeats a comparison, with nothing of this machine in it."""
    words = ["locklane", "compare", "--transports", ",".join(settings.transports)]
    words += ["--files", str(settings.files)]
    words += ["--concurrency", ",".join(map(str, settings.concurrency))]
    words += ["--rounds", str(settings.rounds), "--think-time", f"{settings.think_time_s:g}"]
    if settings.rate is not None:
        words += ["--rate", f"{settings.rate:g}"]
    if settings.url is not None:
        words += ["--url", settings.url]
    if settings.repository is not None:
        words += ["--keys-from", settings.repository]
    return shlex.join(words)


def disagreement(run: Run) -> str | None:
    """A sentence if the counts of a run's connections differ; ``None`` if all that there are
    agree."""
    known = run.counted_connections()
    if len(set(known.values())) == 1:
        return None
    said = ", ".join(f"{who} {count}" for who, count in known.items())
    return (
        f"Round {run.round}, {run.transport} at {run.concurrency}, {run.server}, {run.via}: "
        f"connections counted by {said}."
    )


def _network(kernel_is_ours: bool) -> str:
    return (
        "loopback in a network namespace of its own"
        if kernel_is_ours
        else "shared with the rest of the machine, so the kernel's counts are not used"
    )


def _accepted(server: ServerChild | None) -> int | None:
    if server is None or server.metrics is None:
        return None
    return server.counted("locklane_connections_opened_total")


def _settle(relay: RelayChild) -> None:
    """Wait until the relay has seen the end of every connection, so that it has counted all."""
    deadline = time.monotonic() + SETTLE_SECONDS
    while relay.open() and time.monotonic() < deadline:
        time.sleep(0.01)


def _difference(after: RelayCounts, before: RelayCounts) -> RelayCounts:
    return RelayCounts(
        after.connections - before.connections,
        after.bytes_up - before.bytes_up,
        after.bytes_down - before.bytes_down,
    )


def _words(step: Step) -> str:
    through = " through the relay" if step.via == "relay" else ""
    server = " (ceiling)" if step.server == "bare" else ""
    return f"round {step.round}: {step.transport}{server}, {step.concurrency} at a time{through}"
