"""From runs to figures: medians over rounds with their spread. Nothing here prints or draws.

Runs are grouped by their condition and transport. Those that :attr:`Run.gives_times` give the
times, the processor and the connections; runs through the relay give the bytes. A figure is per
dropped file unless its name says otherwise. A run that dropped nothing has no figure per file: it
is left out, and :attr:`Summary.empty_runs` counts it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from statistics import median
from typing import TypeVar

from locklane_bench.results import GIT_ANNEX_TRANSPORT, Condition, Part, Results, Run

T = TypeVar("T")

BARE = "bare"
EXTERNAL = "external"
BASELINE = GIT_ANNEX_TRANSPORT
"""What git-annex speaks: the other transports are compared with it, where it was measured."""


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of some rounds, with the least and the greatest of them."""

    median: float
    low: float
    high: float
    rounds: int


def spread(values: Iterable[float | None]) -> Spread | None:
    """Median, least and greatest of what was observed; None where nothing was."""
    known = [value for value in values if value is not None and math.isfinite(value)]
    if not known:
        return None
    return Spread(median(known), min(known), max(known), len(known))


@dataclass(frozen=True, slots=True)
class Figures:
    """One transport under one condition, over all its rounds."""

    condition: Condition
    transport: str
    files: int
    """Dropped in all rounds that give times, together."""
    least_files: int
    """Dropped in the one of these rounds that dropped the fewest; 0 without one."""
    failures: int
    """Over all runs, whatever they give."""
    connections: Spread | None
    requests: Spread | None
    messages: Spread | None
    round_trips: Spread | None
    tls_full: Spread | None
    tls_resumed: Spread | None
    drops_per_s: Spread | None
    ms_per_file: Spread | None
    """The p50 of the latency: what a dropped file takes its client when the connection is there."""
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
    rates: dict[int, float]
    """Drops per second by round."""
    p50s: dict[int, float]
    """The p50 of the latency in ms by round."""
    pace: dict[int, float]
    """:meth:`Run.pace` by round."""


@dataclass(frozen=True, slots=True)
class Rank:
    """The transports under one condition, the fastest first."""

    condition: Condition
    order: list[Figures]
    best: list[str]
    """The fastest, and those that tie with it: neither was faster in every round."""


@dataclass(frozen=True, slots=True)
class Line:
    """Conditions that differ in distance alone, or in the number of files with it."""

    setting: Condition
    """What they share, with a distance of 0 and no files."""
    by_rtt: dict[float, Condition]
    """From near to far; of several numbers of files, the greatest."""


@dataclass(frozen=True, slots=True)
class Summary:
    """All that the report says in figures."""

    transports: list[str]
    figures: list[Figures]
    """By condition in the order in which they were first run, then transport."""
    ceilings: list[Figures]
    """The bare server's."""
    latency_decides: bool
    """The load is a rate."""
    unheld: frozenset[tuple[str | None, str]]
    """Proxies and transports whose holds do not reach the server behind them: however fast that
    is, it is not what a lock is for."""
    empty_runs: int
    """Runs that dropped nothing, or in no time, left out of every figure."""
    failures: int
    attempts: int
    _at: dict[tuple[Condition, str], Figures] = field(repr=False)

    def at(self, condition: Condition, transport: str) -> Figures | None:
        return self._at.get((condition, transport))

    def under(self, condition: Condition) -> list[Figures]:
        """All figures under a condition, in the order of the transports."""
        found = (self.at(condition, name) for name in self.transports)
        return [each for each in found if each]

    def conditions(self, *parts: Part) -> list[Condition]:
        """Those with a figure, of these parts."""
        found = dict.fromkeys(each.condition for each in self.figures)
        return [each for each in found if each.part in parts]

    def lines(self, part: Part = "matrix") -> list[Line]:
        """The conditions of a part, grouped: no proxy, no think time, no TLS, few at a time
        first."""
        grouped: dict[Condition, dict[float, Condition]] = {}
        for each in sorted(self.conditions(part), key=lambda each: (each.rtt_ms, each.files)):
            grouped.setdefault(without_distance(each), {})[each.rtt_ms] = each
        order = {
            server: place
            for place, server in enumerate(each.server for each in self.conditions(part))
        }

        def rank(line: Line) -> tuple[int, str, float, bool, int]:
            at = line.setting
            return order[at.server], at.proxy or "", at.think_time_s, at.tls, at.concurrency

        return sorted((Line(*each) for each in grouped.items()), key=rank)

    def rank(self, condition: Condition, *, by_p50: bool = False) -> Rank | None:
        """Who was the fastest of those that hold; None where nobody has times.

        :param by_p50: by the median drop, whatever :attr:`Figures.pace` is.
        """

        def goodness(figures: Figures) -> dict[int, float]:
            if not by_p50:
                return figures.pace
            return {number: 1 / max(each, 1e-6) for number, each in figures.p50s.items()}

        timed = [
            each
            for each in self.under(condition)
            if each.pace and (condition.proxy, each.transport) not in self.unheld
        ]
        if not timed:
            return None
        order = sorted(timed, key=lambda each: -median(goodness(each).values()))
        first = goodness(order[0])
        tied = [each.transport for each in order[1:] if _tie(ratios(first, goodness(each)))]
        return Rank(condition, order, [order[0].transport, *tied])


def without_distance(condition: Condition) -> Condition:
    return replace(condition, rtt_ms=0.0, files=0)


def summarise(results: Results) -> Summary:
    """Work out every figure of the report."""
    runs = [run for run in results.runs if run.files > 0 and run.wall_s > 0]
    grouped: dict[tuple[Condition, str], list[Run]] = {}
    for run in runs:
        grouped.setdefault((run.condition, run.transport), []).append(run)
    failures: dict[tuple[Condition, str], int] = {}
    for run in results.runs:
        key = (run.condition, run.transport)
        failures[key] = failures.get(key, 0) + run.failures
    by_latency = results.settings.rate is not None
    measured = {name for condition, name in grouped if condition.server != BARE}
    transports = [name for name in _in_order(results.settings.transports) if name in measured]
    transports += _in_order(
        name for _, name in grouped if name in measured and name not in transports
    )
    place = {name: number for number, name in enumerate(transports)}
    conditions = {each: number for number, each in enumerate(_in_order(key[0] for key in grouped))}
    figures = [
        figures_of(found, failures=failures[key], by_latency=by_latency)
        for key, found in sorted(
            grouped.items(),
            key=lambda item: (conditions[item[0][0]], place.get(item[0][1], len(place))),
        )
    ]
    return Summary(
        transports=transports,
        figures=[each for each in figures if each.condition.server != BARE],
        ceilings=[each for each in figures if each.condition.server == BARE],
        latency_decides=by_latency,
        unheld=frozenset(
            (each.proxy, each.transport)
            for each in results.proxies
            if each.drops and not each.hold_arrives
        ),
        empty_runs=len(results.runs) - len(runs),
        failures=sum(run.failures for run in results.runs),
        attempts=sum(run.files + run.failures for run in results.runs),
        _at={(each.condition, each.transport): each for each in figures},
    )


def figures_of(runs: list[Run], *, failures: int = 0, by_latency: bool = False) -> Figures:
    """The figures of runs that share condition and transport (at least one run)."""
    timed = [run for run in runs if run.gives_times]
    relayed = [(run, run.relay) for run in runs if run.via == "relay" and run.relay is not None]
    tls = runs[0].condition.tls

    def per_file(count: Callable[[Run], float | None]) -> Spread | None:
        return spread(None if (value := count(run)) is None else value / run.files for run in timed)

    def percentile(percent: float) -> Spread | None:
        return spread(run.percentile_ms(percent) for run in timed)

    return Figures(
        condition=runs[0].condition,
        transport=runs[0].transport,
        files=sum(run.files for run in timed),
        least_files=min((run.files for run in timed), default=0),
        failures=failures,
        connections=per_file(lambda run: run.client.connections),
        requests=per_file(lambda run: run.client.requests),
        messages=per_file(lambda run: run.client.messages),
        round_trips=per_file(lambda run: run.client.round_trips),
        tls_full=per_file(lambda run: run.client.tls_full) if tls else None,
        tls_resumed=per_file(lambda run: run.client.tls_resumed) if tls else None,
        drops_per_s=spread(run.drops_per_s for run in timed),
        ms_per_file=percentile(50),
        p50_ms=percentile(50),
        p90_ms=percentile(90),
        p99_ms=percentile(99),
        max_ms=percentile(100),
        client_cpu_ms=per_file(lambda run: run.client_cpu_ms),
        server_cpu_ms=per_file(lambda run: run.server_cpu_ms),
        memory_kib=spread(run.server_peak_memory_kib for run in timed),
        descriptors=spread(run.server_peak_descriptors for run in timed),
        time_wait=per_file(lambda run: run.time_wait),
        bytes_up=spread(relay.bytes_up / run.files for run, relay in relayed),
        bytes_down=spread(relay.bytes_down / run.files for run, relay in relayed),
        rates=_by_round(timed, lambda run: run.drops_per_s),
        p50s=_by_round(timed, lambda run: run.percentile_ms(50)),
        pace=_by_round(timed, lambda run: run.pace(by_latency=by_latency)),
    )


def _by_round(runs: list[Run], value: Callable[[Run], float]) -> dict[int, float]:
    found: dict[int, list[float]] = {}
    for run in runs:
        found.setdefault(run.round, []).append(value(run))
    return {number: median(found[number]) for number in sorted(found)}


def ratios(over: dict[int, float], under: dict[int, float]) -> list[float]:
    """One over the other, for each round that has both."""
    return [over[number] / under[number] for number in over if number in under]


def times_as_fast(one: Figures, other: Figures) -> Spread | None:
    """How many times as fast ``one`` was as ``other``, round by round; None where no round has
    both."""
    return spread(ratios(one.pace, other.pace))


def tie(one: Figures, other: Figures) -> bool:
    """Neither was faster in every round that both have: the rounds do not tell them apart."""
    return _tie(ratios(one.pace, other.pace))


def _tie(found: list[float]) -> bool:
    return bool(found) and min(found) <= 1 <= max(found)


def baseline(figures: Iterable[Figures]) -> Figures | None:
    """The one that the others are compared with: :data:`BASELINE`, or without it the first."""
    found = list(figures)
    for each in found:
        if each.transport == BASELINE:
            return each
    return found[0] if found else None


def _in_order(names: Iterable[T]) -> list[T]:
    return list(dict.fromkeys(names))
