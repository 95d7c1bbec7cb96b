"""The ceiling: the same client against a server that answers without thinking."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from locklane_bench.report.section import Section, Table, section
from locklane_bench.report.summary import BARE, Figures, Spread, Summary, ratios, spread
from locklane_bench.report.wording import Cell, at_a_time, cell, manner, percent, rtt
from locklane_bench.results import Condition, Results

_WHAT = (
    "The ceiling is what the same client reaches against a bare aiohttp server that answers "
    "without thinking. A transport close to it is held back by the client and by HTTP. One far "
    "below it is held back by the server’s work. A share above 100% is chance: compare it with the "
    "spread."
)
_NONE = (
    "No run was made against the bare server: that says something only of a server on the same "
    "machine, with neither a think time nor a rate."
)


def ceiling_section(results: Results, summary: Summary) -> Section | None:
    table = ceiling_table(summary)
    return section("The ceiling", _WHAT if table else _NONE, table)


def shares(summary: Summary) -> Iterator[tuple[Condition, str, Spread | None]]:
    """What part of the ceiling each condition reached, round by round; 1 is the ceiling."""
    for at, ceiling, real in _pairs(summary):
        yield at, ceiling.transport, spread(ratios(real.rates, ceiling.rates))


def _pairs(summary: Summary) -> Iterator[tuple[Condition, Figures, Figures]]:
    for at in summary.conditions("matrix"):
        for ceiling in summary.ceilings:
            real = summary.at(at, ceiling.transport)
            if real and ceiling.condition == replace(at, server=BARE):
                yield at, ceiling, real


def ceiling_table(summary: Summary) -> Table | None:
    """The bare server, and how near the real one came to it."""
    rows = [
        [
            Cell(ceiling.transport),
            Cell(f"{at_a_time(at.concurrency)}, {rtt(at.rtt_ms)}, {manner(at)}"),
            cell(ceiling.drops_per_s),
            cell(real.drops_per_s),
            cell(spread(ratios(real.rates, ceiling.rates)), percent),
        ]
        for at, ceiling, real in _pairs(summary)
    ]
    if not rows:
        return None
    return Table(
        "Files per second against the bare server and against the real one",
        ["Transport", "Condition", "Ceiling", "Measured", "Share of the ceiling"],
        [rows],
        ["The share is worked out round by round, then the median is taken."],
    )
