"""The comparison: interleaved rounds of every transport under every condition, and what they cost.

Each round makes every run once, one right after the other (A B C A B C …), so that a slow minute
hurts all alike. :mod:`locklane_bench.plan` says which; this makes them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from locklane_bench import extras, plan, procfs
from locklane_bench.children import ChildError, RelayChild, ServerChild
from locklane_bench.command import command
from locklane_bench.keys import Source
from locklane_bench.orders import Order
from locklane_bench.plan import Step
from locklane_bench.results import Condition, RelayCounts, Results, Run, Settings
from locklane_bench.stage import Place, Stage
from locklane_bench.versions import versions
from locklane_client.address import Address

WARM_UP_FILES = 50
"""Drops over each transport before the first round, which nobody counts."""

PAUSE_SECONDS = 0.1
"""Before each run, so that what the one before left in TIME_WAIT is told from its own by age."""

SETTLE_SECONDS = 5.0
"""How long connections may take to be closed on both sides after a run."""

MEASURED_WITH = (
    "locklane",
    "aiohttp",
    "websockets",
    "httptools",
    "h2",
    "uvloop",
    "locust",
    "gevent",
)
"""Packages that a figure could depend on."""

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much is done, and how much there is."""


@dataclass(frozen=True, slots=True)
class _Counted:
    """What a server has counted so far."""

    connections: int
    tls_full: int
    tls_resumed: int

    def since(self, before: _Counted) -> _Counted:
        return _Counted(
            self.connections - before.connections,
            self.tls_full - before.tls_full,
            self.tls_resumed - before.tls_resumed,
        )


@dataclass
class Comparison:
    """Makes runs on a stage."""

    stage: Stage
    failure: str | None = None
    """What went wrong with a drop that failed."""
    _warm: set[tuple[Condition, str]] = field(default_factory=set)

    def warm_up(self, step: Step) -> None:
        """Drop some files over the transport at the place of a step, uncounted, if that was not
        done yet.

        :raises ChildError: not one of them could be dropped.
        """
        condition = replace(
            step.condition,
            part="matrix",
            rtt_ms=0.0,
            concurrency=1,
            think_time_s=0.0,
            files=WARM_UP_FILES,
        )
        if (condition, step.transport) in self._warm:
            return
        self._warm.add((condition, step.transport))
        order = self._order(Step(condition, step.transport, "direct", 0))
        outcome = self.stage.load.carry_out(replace(order, rate=None))
        # What does not work behind a proxy is a finding; anywhere else it is a fault.
        if len(outcome.failures) == WARM_UP_FILES and condition.proxy is None:
            raise ChildError(
                f"nothing could be dropped over {step.transport}: {outcome.failures[0]}"
            )

    def run(self, step: Step) -> Run:
        """Make one run."""
        condition = step.condition
        place = self.stage.place(condition)
        server, port = place.server, place.address.port
        relay = self._relay(step, place)
        order = self._order(step)
        # The server is asked first and last, because asking opens a connection too.
        accepted = _counted(server)
        if server is not None:
            procfs.reset_peak_memory(server.pid)
        relayed = relay.counts() if relay else None
        cpu = procfs.cpu_seconds(server.pid) if server else None
        time.sleep(PAUSE_SECONDS)
        began, opened = time.monotonic(), procfs.tcp_passive_opens()
        with ExitStack() as watching:
            peak = watching.enter_context(procfs.PeakDescriptors(server.pid)) if server else None
            outcome = self.stage.load.carry_out(order)
        self.failure = next(iter(outcome.failures), self.failure)
        if relay is not None:
            _settle(relay)
        opened = procfs.tcp_passive_opens() - opened
        relay_counts = _difference(relay.counts(), relayed) if relay and relayed else None
        cpu_ms = (procfs.cpu_seconds(server.pid) - cpu) * 1000 if server and cpu else None
        peak_memory = procfs.peak_memory_kib(server.pid) if server else None
        time_wait = None if relay else procfs.time_wait(port, since=began)
        now = _counted(server)
        counted = now.since(accepted) if now and accepted else None
        return Run(
            condition=condition,
            transport=step.transport,
            via=step.via,
            round=step.round,
            files=len(outcome.latency_ms),
            failures=len(outcome.failures),
            wall_s=outcome.wall_s,
            latency_ms=outcome.latency_ms,
            client=outcome.client,
            server_connections=counted.connections if counted else None,
            server_tls_full=counted.tls_full if counted else None,
            server_tls_resumed=counted.tls_resumed if counted else None,
            relay=relay_counts,
            kernel_connections=opened - (relay_counts.connections if relay_counts else 0),
            client_cpu_ms=outcome.cpu_ms,
            server_cpu_ms=cpu_ms,
            server_peak_memory_kib=peak_memory,
            server_peak_descriptors=peak.peak if peak else None,
            time_wait=time_wait,
        )

    def _relay(self, step: Step, place: Place) -> RelayChild | None:
        if step.via == "direct":
            return None
        relay = self.stage.relay
        relay.retarget(place.address.host, place.address.port)
        relay.set_rtt(step.condition.rtt_ms)
        return relay

    def _order(self, step: Step) -> Order:
        place = self.stage.place(step.condition)
        condition = step.condition
        authority = self.stage.authority
        return Order(
            url=place.address.url,
            transport=step.transport,
            keys=place.keys[: condition.files],
            files=condition.files,
            concurrency=condition.concurrency,
            think_time_s=condition.think_time_s,
            rate=self.stage.settings.rate,
            relay_port=self.stage.relay.port if step.via == "relay" else None,
            authority=str(authority) if authority and place.address.tls else None,
        )


def compare(
    settings: Settings,
    sources: list[Source],
    directory: Path,
    progress: Progress,
    external: Address | None = None,
    *,
    kernel_is_ours: bool,
) -> Results:
    """Make a whole comparison; the parameters as for :class:`~locklane_bench.stage.Stage`.

    :param directory: an empty one.
    :param progress: told what is going on.
    :param kernel_is_ours: nobody else uses this network namespace, so that what the kernel counts
        can be held against the other counts.
    :raises ChildError: a process of the comparison failed.
    """
    started, clock = datetime.now(UTC), time.monotonic()
    runs: list[Run] = []
    progress("starting servers", 0, 1)
    with Stage(settings, sources, directory, external) as stage:
        comparison = Comparison(stage)
        todo = [step for step in plan.steps(settings) if stage.can(step)]
        more, found = extras.Extras(stage, directory), extras.Found()
        total = len(todo) + more.steps
        more.check(lambda what, done: progress(what, done, total), found)
        broken = {(each.proxy, each.transport) for each in found.proxies if not each.drops}
        todo = [step for step in todo if (step.condition.proxy, step.transport) not in broken]
        total = len(todo) + more.steps
        for step in todo:
            progress("warming up", 0, total)
            comparison.warm_up(step)
        for number, step in enumerate(todo):
            progress(plan.words(step), number, total)
            run = comparison.run(step)
            runs.append(run if kernel_is_ours else replace(run, kernel_connections=None))
        more.measure(lambda what, done: progress(what, len(todo) + done, total), found)
        missing = stage.missing | found.missing
        failure = comparison.failure
    progress("done", total, total)
    return Results(
        started=started.isoformat(timespec="seconds"),
        duration_s=time.monotonic() - clock,
        command=command(settings),
        settings=settings,
        machine=procfs.machine() | {"network": _network(kernel_is_ours)},
        versions=versions(*MEASURED_WITH) | found.versions,
        runs=runs,
        failure=failure,
        annex_drops=found.annex_drops,
        idle=found.idle,
        ports=found.ports,
        proxies=found.proxies,
        missing=missing,
        disagreements=[sentence for run in runs for sentence in disagreements(run)],
    )


def disagreements(run: Run) -> list[str]:
    """A sentence for each count of a run in which those who counted differ."""
    condition = run.condition
    about = plan.words(Step(condition, run.transport, run.via, run.round)).capitalize()
    said = []
    connections = run.counted_connections()
    if len(set(connections.values())) > 1:
        counts = ", ".join(f"{who} {count}" for who, count in connections.items())
        said.append(f"{about}, {run.via}: connections counted by {counts}.")
    handshakes = run.counted_handshakes()
    if len(set(handshakes.values())) > 1:
        both = ", ".join(
            f"{who} {full} full and {resumed} resumed"
            for who, (full, resumed) in handshakes.items()
        )
        said.append(f"{about}, {run.via}: TLS handshakes counted by {both}.")
    return said


def _network(kernel_is_ours: bool) -> str:
    return (
        "loopback in a network namespace of its own; distance by the relay"
        if kernel_is_ours
        else "shared with the rest of the machine, so the kernel's counts are not used; distance "
        "by the relay"
    )


def _counted(server: ServerChild | None) -> _Counted | None:
    if server is None or server.metrics is None:
        return None
    figures = server.figures()
    return _Counted(
        int(figures.get("locklane_connections_opened_total", 0)),
        int(figures.get('locklane_tls_handshakes_total{kind="full"}', 0)),
        int(figures.get('locklane_tls_handshakes_total{kind="resumed"}', 0)),
    )


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
