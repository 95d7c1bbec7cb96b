"""Results of a simulated comparison: users who drop files over a distance, and a server that does
one thing at a time. What the model has to find is what went in."""

from __future__ import annotations

import heapq
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from locklane_bench.results import (
    ClientCounts,
    Condition,
    Grid,
    RelayCounts,
    Results,
    Run,
    Settings,
)


@dataclass(frozen=True, slots=True)
class Simulated:
    """A transport: what one drop is made of."""

    name: str
    trips: float
    """Round trips of one drop, after which its user starts the next."""
    per: str = "user"
    """What a connection is opened for: ``file``, ``user`` or ``all``."""
    work_ms: float = 0.3
    """Of the server, for which drops queue."""
    own_ms: float = 0.6
    """Of the user, for which they do not."""
    last_trips: float = 0.0
    """After the last drop, until all is confirmed: of an unlock that no drop waits for."""
    setup_trips: float = 1.0
    """Before the first drop of a user, where connections are used again; one more with TLS."""
    curve: float = 0.0
    """How much longer a drop takes with the square of the RTT, in ms: no line fits that."""

    def delay_ms(self, rtt_ms: float, tls: bool) -> float:
        trips = self.trips + (1 if tls and self.per == "file" else 0)
        return trips * rtt_ms + self.own_ms + self.curve * rtt_ms**2

    def last_s(self, rtt_ms: float) -> float:
        """Of a run's wall time, what comes when every file has been dropped."""
        return self.last_trips * rtt_ms / 1000

    def run(self, condition: Condition, number: int = 1, noise: float = 0.0) -> Run:
        """One round, through all of its queues."""
        chance = random.Random(f"{self.name} {condition} {number}")
        slow = 1 + noise * chance.uniform(-1, 1)
        rtt, users = condition.rtt_ms, min(condition.concurrency, condition.files)
        first = 0.0 if self.per == "file" else (self.setup_trips + condition.tls) * rtt
        starts = [(0.0, True)] * users
        heapq.heapify(starts)
        free = end = 0.0
        latency = []
        for _ in range(condition.files):
            began, is_first = heapq.heappop(starts)
            delay = (first if is_first else 0.0) + self.delay_ms(rtt, condition.tls) * slow
            free = max(free, began + delay) + self.work_ms * slow
            end = max(end, free)
            latency.append(free - began)
            heapq.heappush(starts, (free, False))
        opened = {"file": condition.files, "user": users, "all": 1}[self.per]
        trips = self.trips + (1 if condition.tls and self.per == "file" else 0)
        waits = 0 if self.per == "file" else (self.setup_trips + condition.tls) * opened
        return Run(
            condition=condition,
            transport=self.name,
            via="relay" if rtt else "direct",
            round=number,
            files=condition.files,
            failures=0,
            wall_s=end / 1000 + self.last_s(rtt),
            latency_ms=latency,
            client=ClientCounts(
                opened, 2 * condition.files, 0, round(trips * condition.files + waits)
            ),
            server_connections=opened,
            server_tls_full=opened if condition.tls else 0,
            server_tls_resumed=0,
            relay=RelayCounts(opened, 700 * condition.files, 300 * condition.files)
            if rtt
            else None,
            kernel_connections=opened,
            client_cpu_ms=0.1 * condition.files,
            server_cpu_ms=self.work_ms * slow * condition.files,
            server_peak_memory_kib=50_000,
            server_peak_descriptors=20,
            time_wait=opened,
        )


LONGPOLL = Simulated("longpoll", 2)
WEBSOCKET = Simulated("websocket", 3, per="file", work_ms=0.4)
PIPELINE = Simulated("pipeline", 1, last_trips=1)
MULTIPLEX = Simulated("multiplex", 2, per="all", work_ms=0.2, setup_trips=2)
FIVE = (LONGPOLL, WEBSOCKET, PIPELINE, MULTIPLEX, Simulated("duplex", 2.0, own_ms=0.5))


def conditions(
    rtts: Iterable[float] = (0, 20, 100),
    concurrencies: Sequence[int] = (1, 8, 64),
    tls: Iterable[bool] = (False,),
    files: int = 600,
) -> list[Condition]:
    """All combinations."""
    return [
        Condition(rtt_ms=rtt, concurrency=concurrency, tls=secure, files=files)
        for secure in tls
        for rtt in rtts
        for concurrency in concurrencies
    ]


def simulate(
    transports: Iterable[Simulated],
    under: Iterable[Condition],
    *,
    rounds: int = 3,
    noise: float = 0.02,
) -> list[Run]:
    """Interleaved rounds of each transport under each condition."""
    under, transports = list(under), list(transports)
    return [
        transport.run(condition, number, noise)
        for number in range(1, rounds + 1)
        for condition in under
        for transport in transports
    ]


def results_of(runs: list[Run], **changes: object) -> Results:
    """A whole results file with these runs."""
    transports = list(dict.fromkeys(run.transport for run in runs))
    grid = Grid("matrix", transports, [1, 8, 64], [600], rtt_ms=[0, 20, 100])
    made = Results(
        started="2026-11-22T08:40:12+00:00",
        duration_s=12.5,
        command="locklane compare --preset quick",
        settings=Settings(
            preset="quick",
            transports=transports,
            grids=[grid],
            rounds=max((run.round for run in runs), default=1),
            rate=None,
            url=None,
            keys_from="made up",
        ),
        machine={"processor": "Some | <processor>", "cores": "2"},
        versions={"locklane": "0.1.0"},
        runs=runs,
    )
    return replace(made, **changes)  # type: ignore[arg-type]
