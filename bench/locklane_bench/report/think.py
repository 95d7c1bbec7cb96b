"""Think time: what a lock costs that is held for a while."""

from __future__ import annotations

from dataclasses import replace

from locklane_bench.report.section import Section, Table, beside, section
from locklane_bench.report.summary import Line, Spread, Summary
from locklane_bench.report.wording import UNKNOWN, Cell, at_a_time, cell, manner, rtt
from locklane_bench.results import Results


def think_section(results: Results, summary: Summary) -> Section | None:
    grouped: dict[object, list[Line]] = {}
    for line in summary.lines("think"):
        grouped.setdefault(replace(line.setting, think_time_s=0.0), []).append(line)
    tables = [
        _table(lines, rtt_ms, summary) for lines in grouped.values() for rtt_ms in _far(lines)
    ]
    return section(
        "With a think time",
        "How long the client holds each lock is part of every drop. What is left of its time "
        "when that is taken off is what the transport costs."
        if tables
        else None,
        *beside(tables),
    )


def _far(lines: list[Line]) -> list[float]:
    return sorted({rtt_ms for line in lines for rtt_ms in line.by_rtt})


def _table(lines: list[Line], rtt_ms: float, summary: Summary) -> Table:
    at = {line.setting.think_time_s: line.by_rtt[rtt_ms] for line in lines if rtt_ms in line.by_rtt}
    rows = []
    for name in summary.transports:
        found = {think: summary.at(each, name) for think, each in at.items()}
        if not any(found.values()):
            continue
        row = [Cell(name)]
        for think, each in found.items():
            row.append(cell(_less(each.ms_per_file, think * 1000) if each else None))
        row += [cell(each.drops_per_s) if each else Cell(UNKNOWN) for think, each in found.items()]
        rows.append(row)
    setting = replace(lines[0].setting, think_time_s=0.0)
    return Table(
        f"Time per file (ms) beyond the think time, and files per second, "
        f"{at_a_time(setting.concurrency)}, {rtt(rtt_ms)}, {manner(setting)}",
        [
            "Transport",
            *(f"ms beyond {_words(think)}" if think else "ms, no think time" for think in at),
            *(f"Files per s, {_words(think) if think else 'no think time'}" for think in at),
        ],
        [rows],
    )


def _words(think_s: float) -> str:
    return f"{think_s * 1000:,.6g} ms"


def _less(of: Spread | None, by: float) -> Spread | None:
    return of and replace(of, median=of.median - by, low=of.low - by, high=of.high - by)
