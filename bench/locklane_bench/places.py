"""What was measured of each transport, place by place: an RTT and a concurrency, with its rounds.

For the model (:mod:`locklane_bench.model`): the runs that say how long a drop takes and nothing
else, and what follows from them without any line: whether drops queue, how many connections are
opened, how many drops per second there are at the most.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from statistics import median

from locklane_bench.results import Results, Run

QUEUEING = 1.25
"""How many times as long a drop may take as at the fewest at a time before it is said to queue."""

BUSY = 0.8
"""Share of one processor from which on a process is said to be what holds the drops back."""

MOST_SETUP_TRIPS = 4.0
"""TCP, TLS, an upgrade, and one to spare: a count beyond that is of something else."""


Place = tuple[float, int]
"""An RTT in ms and a concurrency."""


@dataclass(frozen=True, slots=True)
class Opened:
    """How many connections a transport opens: ``each`` per file, per user, or in all."""

    per: str
    each: float

    def count(self, files: int, concurrency: int) -> float:
        return self.each * _BASES[self.per](files, concurrency)


_BASES: Mapping[str, Callable[[int, int], int]] = {
    "file": lambda files, concurrency: files,
    "user": lambda files, concurrency: min(files, concurrency),
    "all": lambda files, concurrency: 1,
}


@dataclass(frozen=True, slots=True)
class Seen:
    """All usable runs of one transport, with TLS or without."""

    transport: str
    tls: bool
    opened: Opened
    setup_trips: float
    """Round trips of a user before its first drop: handshakes of TCP and TLS, an upgrade."""
    places: dict[Place, list[Run]]
    """The runs that give times; of several numbers of files those with the most."""

    @property
    def rtts(self) -> list[float]:
        return sorted({rtt for rtt, _ in self.places})

    @property
    def concurrencies(self) -> list[int]:
        return sorted({concurrency for _, concurrency in self.places})

    @property
    def rounds(self) -> list[int]:
        return sorted({run.round for runs in self.places.values() for run in runs})

    def knows(self, rtt_ms: float) -> bool:
        return len(self.rtts) > 1 or rtt_ms in self.rtts

    def setup_s(self, rtt_ms: float) -> float:
        """What comes before the first drop of a user and not before the next."""
        return self.setup_trips * rtt_ms / 1000

    def work_s(self, run: Run) -> float:
        left = run.wall_s - self.setup_s(run.condition.rtt_ms)
        return left if left > 0 else run.wall_s

    def over(self, place: Place, value: Callable[[Run], float], number: int | None = None) -> float:
        """The median of a value over the rounds, or of one round where that has it."""
        runs = self.places[place]
        here = [run for run in runs if run.round == number]
        return median(value(run) for run in here or runs)

    def lap_ms(self, run: Run) -> float:
        """From one drop of a user to its next. Over a distance the latency of one: few are dropped
        there, and what comes before the first and after the last would weigh too much."""
        if run.condition.rtt_ms:
            return run.percentile_ms(50)
        return self.work_s(run) * 1000 / laps_of(run)

    def pace_ms(self, place: Place, number: int | None = None) -> float:
        """:meth:`lap_ms` over the rounds."""
        return self.over(place, self.lap_ms, number)

    def p50_ms(self, place: Place) -> float:
        return self.over(place, lambda run: run.percentile_ms(50))

    def queues(self, place: Place) -> bool:
        least = min(concurrency for rtt, concurrency in self.places if rtt == place[0])
        return self.pace_ms(place) > QUEUEING * self.pace_ms((place[0], least))

    def unloaded(self, rtt_ms: float, concurrency: int) -> Place:
        """The place over this RTT where nothing queues and the concurrency is nearest below."""
        there = sorted(each for rtt, each in self.places if rtt == rtt_ms)
        calm = [each for each in there if each <= concurrency and not self.queues((rtt_ms, each))]
        return rtt_ms, (calm or there[:1])[-1]

    def points(self, concurrency: int, number: int | None = None) -> dict[float, float]:
        """The pace over each RTT as long as nothing queues."""
        return {rtt: self.pace_ms(self.unloaded(rtt, concurrency), number) for rtt in self.rtts}

    def least_s(self, number: int | None = None) -> tuple[float, str]:
        """Seconds per drop that no concurrency gets below, and what sets them."""

        def rate(place: Place, number: int | None = None) -> float:
            return self.over(place, lambda run: run.files / self.work_s(run), number)

        best = max(self.places, key=rate)
        at_best = 1 / rate(best, number)
        if any(self.queues(place) for place in self.places):
            by = busiest(self.places[best])
            return at_best, f"held back by {by}: {rate_words(at_best)} drops/s at the most"
        # The most was never asked for. Neither client nor server uses more than one processor.
        cpu = min(self.over(place, _cpu_s, number) for place in self.places)
        why = f"held back by the processor, of which a drop takes {ms_words(cpu * 1000)} ms"
        return min(at_best, cpu), why


def seen_in(results: Results) -> list[Seen]:
    """What the results have of each transport, in their order, without and with TLS."""
    if results.settings.rate is not None:
        return []
    usable = [run for run in results.runs if _is_usable(run)]
    names = [*results.settings.transports, *(run.transport for run in usable)]
    found = []
    for name in dict.fromkeys(names):
        of_it = [run for run in usable if run.transport == name]
        for tls in (False, True):
            places: dict[Place, list[Run]] = {}
            for run in of_it:
                if run.condition.tls is tls and run.gives_times:
                    place = run.condition.rtt_ms, run.condition.concurrency
                    places.setdefault(place, []).append(run)
            if places:
                most = {place: _with_most_files(runs) for place, runs in places.items()}
                opened = _opened(of_it)
                trips = _setup_trips(most, opened, tls)
                found.append(Seen(name, tls, opened, trips, most))
    return found


def _is_usable(run: Run) -> bool:
    condition = run.condition
    return (
        condition.part == "matrix"
        and condition.server in ("locklane", "external")
        and condition.proxy is None
        and condition.think_time_s == 0
        and run.files > 0
        and run.wall_s > 0
        and len(run.latency_ms) > 0
    )


def _with_most_files(runs: list[Run]) -> list[Run]:
    """Of runs with several numbers of files those with the most: they depend least on the start."""
    most = max(run.condition.files for run in runs)
    return [run for run in runs if run.condition.files == most]


def _opened(runs: Iterable[Run]) -> Opened:
    """What the count of connections goes with: with that which it is the steadiest multiple of."""
    counted: dict[tuple[int, int], list[int]] = {}
    for run in runs:
        place = run.files, run.condition.concurrency
        counted.setdefault(place, []).append(run.client.connections)
    found: list[tuple[float, Opened]] = []
    for per, base in _BASES.items():
        shares = [median(each) / base(*place) for place, each in counted.items()]
        # Fewer than half a connection per file or user: it is something else that they go with.
        if per == "all" or min(shares) >= 0.5:
            unsteady = max(shares) / min(shares) if min(shares) > 0 else math.inf
            found.append((unsteady, Opened(per, median(shares))))
    return min(found, key=lambda each: each[0])[1]


def _setup_trips(places: Mapping[Place, list[Run]], opened: Opened, tls: bool) -> float:
    """Round trips before a user's first drop: one of TCP and one of TLS 1.3 at the least, and what
    else the client counted for a connection beside the same number for every file."""
    if opened.per == "file":
        return 0.0
    runs = [run for of_place in places.values() for run in of_place if not run.failures]
    per_file = min((run.client.round_trips // run.files for run in runs), default=0)
    counted = [
        (run.client.round_trips - per_file * run.files) / run.client.connections
        for run in runs
        if run.client.connections
    ]
    return max(1.0 + tls, min(median(counted), MOST_SETUP_TRIPS) if counted else 0.0)


def laps_of(run: Run) -> int:
    """Drops that the user with the most of them made."""
    return -(-run.files // run.condition.concurrency)


def _cpu_s(run: Run) -> float:
    return max(run.client_cpu_ms, run.server_cpu_ms or 0.0) / 1000 / run.files


def busiest(runs: list[Run]) -> str:
    """Who worked all the time."""
    client = median(run.client_cpu_ms / 1000 / run.wall_s for run in runs)
    server = median((run.server_cpu_ms or 0.0) / 1000 / run.wall_s for run in runs)
    if max(client, server) < BUSY or min(client, server) >= BUSY:
        return "server and client"
    return "the server" if server > client else "the client"


def rate_words(seconds: float) -> str:
    """Drops per second, three digits."""
    rate = 1 / seconds
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}"


def ms_words(value: float) -> str:
    """Milliseconds, three digits."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
