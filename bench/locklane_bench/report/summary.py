"""From runs to figures: medians over rounds with their spread. Nothing here prints or draws.

Runs that the client made directly give the times, the processor and the connections; runs through
the relay give the bytes and a third party's count of connections. A figure is per dropped file
unless its name says otherwise. A run that dropped nothing has no figure per file: it is left out,
and :attr:`Summary.empty_runs` counts it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from statistics import median

from locklane_bench.results import Results, Run, Via

BARE = "bare"
EXTERNAL = "external"
BASELINE = "websocket"
"""What the other transports are compared with, where it was measured."""


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of some rounds, with the least and the greatest of them."""

    median: float
    low: float
    high: float
    rounds: int

    def overlaps(self, other: Spread) -> bool:
        return self.low <= other.high and other.low <= self.high


def spread(values: Iterable[float | None]) -> Spread | None:
    """Median, least and greatest of what was observed; None where nothing was."""
    known = [value for value in values if value is not None and math.isfinite(value)]
    if not known:
        return None
    return Spread(median(known), min(known), max(known), len(known))


@dataclass(frozen=True, slots=True)
class Figures:
    """One transport at one concurrency against one server, over all its rounds."""

    server: str
    transport: str
    concurrency: int
    files: int
    """Dropped in all direct rounds together."""
    least_files: int
    """Dropped in the direct round that dropped the fewest; 0 without a direct round."""
    failures: int
    """Over all runs, direct and relay."""
    connections_total: int
    """Opened in all direct rounds together."""
    connections: Spread | None
    requests: Spread | None
    messages: Spread | None
    round_trips: Spread | None
    drops_per_s: Spread | None
    p50_ms: Spread | None
    p90_ms: Spread | None
    p99_ms: Spread | None
    max_ms: Spread | None
    client_cpu_ms: Spread | None
    server_cpu_ms: Spread | None
    memory_kib: Spread | None
    """Peak of the server process; not per file."""
    descriptors: Spread | None
    """Peak of the server process; not per file."""
    time_wait: Spread | None
    bytes_up: Spread | None
    bytes_down: Spread | None
    relay_connections: Spread | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """Drops per second of ``transport`` over those of ``baseline``, round by round."""

    server: str
    transport: str
    baseline: str
    concurrency: int
    ratio: Spread | None
    """None where no round has both."""
    by_round: list[tuple[int, float]]
    tie: bool
    """Neither was faster in every round: the rounds do not tell them apart."""


@dataclass(frozen=True, slots=True)
class Ceiling:
    """Drops per second against the bare server, and what part of them the real one reached."""

    transport: str
    concurrency: int
    drops_per_s: Spread | None
    share: dict[str, Spread | None]
    """By measured server, round by round; 1 is the ceiling itself."""


@dataclass(frozen=True, slots=True)
class Counted:
    """Connections of one transport at one concurrency as each side counted them, rounds added."""

    server: str
    transport: str
    concurrency: int
    via: Via
    runs: int
    files: int
    client: int
    server_said: int | None
    relay: int | None
    kernel: int | None
    checked: int
    """Runs with at least two counts to hold against each other."""
    agreeing: int
    """Of those, runs in which all counts are equal."""


@dataclass(frozen=True, slots=True)
class Summary:
    """All that the report says in figures."""

    servers: list[str]
    """The measured ones; the bare server is not one of them."""
    transports: list[str]
    concurrencies: list[int]
    figures: list[Figures]
    """By server, then concurrency, then transport."""
    ceilings: list[Ceiling]
    comparisons: list[Comparison]
    counts: list[Counted]
    empty_runs: int
    """Runs that dropped nothing, or in no time, left out of every figure."""
    failures: int
    attempts: int

    def at(self, server: str, transport: str, concurrency: int) -> Figures | None:
        wanted = (server, transport, concurrency)
        for each in self.figures:
            if (each.server, each.transport, each.concurrency) == wanted:
                return each
        return None


def summarise(results: Results) -> Summary:
    """Work out every figure of the report."""
    runs = [run for run in results.runs if run.files > 0 and run.wall_s > 0]
    measured = [run for run in runs if run.server != BARE]
    servers = _in_order(run.server for run in measured)
    found = {run.transport for run in measured}
    transports = [name for name in _in_order(results.settings.transports) if name in found]
    transports += _in_order(run.transport for run in measured if run.transport not in transports)
    concurrencies = sorted({run.concurrency for run in measured})
    cells = [
        (server, transport, concurrency)
        for server in servers
        for concurrency in concurrencies
        for transport in transports
        if any(_is(run, server, transport, concurrency) for run in measured)
    ]
    figures = [
        figures_of(
            [run for run in runs if _is(run, *cell)],
            failures=sum(run.failures for run in results.runs if _is(run, *cell)),
        )
        for cell in cells
    ]
    return Summary(
        servers=servers,
        transports=transports,
        concurrencies=concurrencies,
        figures=figures,
        ceilings=_ceilings(runs, servers, transports),
        comparisons=_comparisons(runs, figures, transports),
        counts=_counts(results.runs, transports),
        empty_runs=len(results.runs) - len(runs),
        failures=sum(run.failures for run in results.runs),
        attempts=sum(run.files + run.failures for run in results.runs),
    )


def figures_of(runs: list[Run], *, failures: int = 0) -> Figures:
    """The figures of runs that share server, transport and concurrency (at least one run)."""
    direct = [run for run in runs if run.via == "direct"]
    relayed = [(run, run.relay) for run in runs if run.via == "relay" and run.relay is not None]

    def per_file(count: Callable[[Run], float | None]) -> Spread | None:
        return spread(
            None if (value := count(run)) is None else value / run.files for run in direct
        )

    def percentile(percent: float) -> Spread | None:
        return spread(run.percentile_ms(percent) for run in direct)

    return Figures(
        server=runs[0].server,
        transport=runs[0].transport,
        concurrency=runs[0].concurrency,
        files=sum(run.files for run in direct),
        least_files=min((run.files for run in direct), default=0),
        failures=failures,
        connections_total=sum(run.client.connections for run in direct),
        connections=per_file(lambda run: run.client.connections),
        requests=per_file(lambda run: run.client.requests),
        messages=per_file(lambda run: run.client.messages),
        round_trips=per_file(lambda run: run.client.round_trips),
        drops_per_s=spread(run.drops_per_s for run in direct),
        p50_ms=percentile(50),
        p90_ms=percentile(90),
        p99_ms=percentile(99),
        max_ms=percentile(100),
        client_cpu_ms=per_file(lambda run: run.client_cpu_ms),
        server_cpu_ms=per_file(lambda run: run.server_cpu_ms),
        memory_kib=spread(run.server_peak_memory_kib for run in direct),
        descriptors=spread(run.server_peak_descriptors for run in direct),
        time_wait=per_file(lambda run: run.time_wait),
        bytes_up=spread(relay.bytes_up / run.files for run, relay in relayed),
        bytes_down=spread(relay.bytes_down / run.files for run, relay in relayed),
        relay_connections=spread(relay.connections / run.files for run, relay in relayed),
    )


def ratio_by_round(over: Iterable[Run], under: Iterable[Run]) -> list[tuple[int, float]]:
    """Drops per second of one over the other, for each round that has both (direct runs)."""
    first, second = _rate_by_round(over), _rate_by_round(under)
    return [
        (number, first[number] / second[number]) for number in sorted(first) if number in second
    ]


def _rate_by_round(runs: Iterable[Run]) -> dict[int, float]:
    rates: dict[int, list[float]] = {}
    for run in runs:
        if run.via == "direct":
            rates.setdefault(run.round, []).append(run.drops_per_s)
    return {number: median(found) for number, found in rates.items()}


def _comparisons(
    runs: list[Run], figures: list[Figures], transports: list[str]
) -> list[Comparison]:
    if not transports:
        return []
    baseline = BASELINE if BASELINE in transports else transports[0]
    rates = {(each.server, each.transport, each.concurrency): each.drops_per_s for each in figures}
    compared = []
    for (server, transport, concurrency), rate in rates.items():
        base = rates.get((server, baseline, concurrency))
        if transport == baseline or rate is None or base is None:
            continue
        by_round = ratio_by_round(
            [run for run in runs if _is(run, server, transport, concurrency)],
            [run for run in runs if _is(run, server, baseline, concurrency)],
        )
        ratio = spread(value for _, value in by_round)
        compared.append(
            Comparison(
                server=server,
                transport=transport,
                baseline=baseline,
                concurrency=concurrency,
                ratio=ratio,
                by_round=by_round,
                tie=ratio is not None and ratio.low <= 1 <= ratio.high,
            )
        )
    return compared


def _ceilings(runs: list[Run], servers: list[str], transports: list[str]) -> list[Ceiling]:
    bare = [run for run in runs if run.server == BARE and run.via == "direct"]
    names = [name for name in transports if any(run.transport == name for run in bare)]
    names += _in_order(run.transport for run in bare if run.transport not in names)
    ceilings = []
    for concurrency in sorted({run.concurrency for run in bare}):
        for name in names:
            here = [run for run in bare if _is(run, BARE, name, concurrency)]
            if not here:
                continue
            share = {
                server: spread(
                    value
                    for _, value in ratio_by_round(
                        [run for run in runs if _is(run, server, name, concurrency)], here
                    )
                )
                for server in servers
            }
            rate = spread(run.drops_per_s for run in here)
            ceilings.append(Ceiling(name, concurrency, rate, share))
    return ceilings


def _counts(runs: list[Run], transports: list[str]) -> list[Counted]:
    order = {name: place for place, name in enumerate(transports)}
    groups: dict[tuple[str, str, int, Via], list[Run]] = {}
    for run in runs:
        key = (run.server, run.transport, run.concurrency, run.via)
        groups.setdefault(key, []).append(run)
    last = len(order)
    counted = []
    for key in sorted(
        groups, key=lambda key: (key[0] == BARE, key[0], key[2], order.get(key[1], last), key[3])
    ):
        group = groups[key]
        counted_by = [run.counted_connections().values() for run in group]
        checked = [found for found in counted_by if len(found) > 1]
        counted.append(
            Counted(
                *key,
                runs=len(group),
                files=sum(run.files for run in group),
                client=sum(run.client.connections for run in group),
                server_said=_sum(run.server_connections for run in group),
                relay=_sum(run.relay.connections if run.relay else None for run in group),
                kernel=_sum(run.kernel_connections for run in group),
                checked=len(checked),
                agreeing=sum(len(set(found)) == 1 for found in checked),
            )
        )
    return counted


def _sum(values: Iterable[int | None]) -> int | None:
    """The sum, None where one of them could not be observed: a part is not the whole."""
    total = 0
    for value in values:
        if value is None:
            return None
        total += value
    return total


def _is(run: Run, server: str, transport: str, concurrency: int) -> bool:
    return (run.server, run.transport, run.concurrency) == (server, transport, concurrency)


def _in_order(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))
