"""The matrix: distance × TLS × number at a time, and charts of the same.

A *view* is a way to reach the server (TLS or not, a proxy, a think time); its lines differ in how
many files are dropped at a time, and along a line the distance grows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import groupby

from locklane_bench.report.bars import Bar, Panel, panel_chart
from locklane_bench.report.drawing import Chart
from locklane_bench.report.section import Section, Table, beside, section
from locklane_bench.report.summary import (
    BARE,
    Figures,
    Line,
    Spread,
    Summary,
    baseline,
    tie,
    times_as_fast,
)
from locklane_bench.report.wording import (
    BEST,
    UNKNOWN,
    Cell,
    at_a_time,
    cell,
    manner,
    number,
    rtt,
    times_form,
)
from locklane_bench.results import Condition, Results

CellOf = Callable[[Condition, str], Cell]


def matrix_section(results: Results, summary: Summary) -> Section | None:
    """Every condition of the matrix in tables."""
    views = views_of(summary)
    if not views:
        return None
    compared = len(summary.transports) > 1
    decides = "its p99" if summary.latency_decides else "drops per second"
    if not summary.latency_decides and any(max(distances(view)) for view in views):
        decides += ", over a distance by its p50"
    marked = (
        f"{BEST}: the fastest under this condition by {decides}, or tied with it (neither was "
        "faster in every round). Large: the median of the rounds; small: the least and the "
        "greatest round."
    )
    return section(
        "The matrix",
        marked if compared else None,
        *beside([_table("Files dropped per second", view, summary, _rates) for view in views]),
        *beside([_table("Latency of a drop (p50), in ms", view, summary, _p50s) for view in views]),
        *(beside([_against(view, summary) for view in views]) if compared else []),
    )


def charts_section(results: Results, summary: Summary) -> Section | None:
    """Drops per second under each condition, drawn."""
    charts = [
        drops_chart(line, summary, f"drops-{place}-{line.setting.concurrency}")
        for place, view in enumerate(views_of(summary), 1)
        for line in view
    ]
    return section("Condition by condition", *beside(charts))


def views_of(summary: Summary) -> list[list[Line]]:
    """The lines of the matrix, those that differ in number at a time alone together."""
    return [
        list(found)
        for _, found in groupby(
            summary.lines(), key=lambda line: replace(line.setting, concurrency=1)
        )
    ]


def farthest(view: list[Line]) -> Line:
    """The line with the most distances; of several, that with the fewest at a time."""
    return max(view, key=lambda line: len(line.by_rtt))


def distances(view: list[Line]) -> list[float]:
    return sorted({rtt_ms for line in view for rtt_ms in line.by_rtt})


def names_in(view: list[Line], summary: Summary) -> list[str]:
    """The transports with a figure in a view."""
    return [
        name
        for name in summary.transports
        if any(summary.at(at, name) for line in view for at in line.by_rtt.values())
    ]


def _table(
    title: str, view: list[Line], summary: Summary, made: Callable[[Summary], CellOf]
) -> Table:
    cell_of = made(summary)
    far = distances(view)
    groups = [
        [
            [
                Cell(name),
                *(
                    cell_of(line.by_rtt[each], name) if each in line.by_rtt else Cell(UNKNOWN)
                    for each in far
                ),
            ]
            for name in names_in([line], summary)
        ]
        for line in view
    ]
    return Table(
        f"{title}, {manner(view[0].setting)}",
        ["Transport", *(rtt(each) for each in far)],
        groups,
        headings=[at_a_time(line.setting.concurrency).capitalize() for line in view],
    )


def _rates(summary: Summary) -> CellOf:
    return _marked(summary, lambda each: each.drops_per_s, best=not summary.latency_decides)


def _p50s(summary: Summary) -> CellOf:
    return _marked(summary, lambda each: each.p50_ms, best=summary.latency_decides)


def _marked(summary: Summary, value: Callable[[Figures], Spread | None], *, best: bool) -> CellOf:
    def made(at: Condition, name: str) -> Cell:
        found = summary.at(at, name)
        return cell(value(found) if found else None, best=best and is_best(at, name, summary))

    return made


def is_best(at: Condition, name: str, summary: Summary, *, by_p50: bool = False) -> bool:
    """The fastest or tied with it, where there is somebody to be faster than."""
    rank = summary.rank(at, by_p50=by_p50)
    return rank is not None and len(rank.order) > 1 and name in rank.best


def _against(view: list[Line], summary: Summary) -> Table | None:
    """Each transport against the baseline, round by round."""
    base = baseline(
        each for line in view for at in line.by_rtt.values() for each in summary.under(at)
    )
    if base is None:
        return None

    def ratio(_: Summary) -> CellOf:
        def made(at: Condition, name: str) -> Cell:
            one, other = summary.at(at, name), summary.at(at, base.transport)
            found = times_as_fast(one, other) if one and other else None
            if one is None or other is None or found is None:
                return Cell(UNKNOWN)
            if one is other:
                return Cell("1")
            shown = cell(found, times_form)
            return replace(shown, main=f"tie, {shown.main}") if tie(one, other) else shown

        return made

    decides = (
        "Times as fast as {} in the same round"
        if not summary.latency_decides
        else "p99 that is so many times as short as that of {} in the same round"
    )
    table = _table(decides.format(base.transport), view, summary, ratio)
    return replace(
        table, notes=[f"tie: neither it nor {base.transport} was faster in every round."]
    )


def drops_chart(line: Line, summary: Summary, name: str) -> Chart | None:
    """Drops per second along one line, with the range of the rounds and the ceiling."""
    panels = []
    for rtt_ms, at in line.by_rtt.items():
        bars = [
            Bar(
                each.transport,
                each.drops_per_s,
                summary.transports.index(each.transport),
                mark=is_best(at, each.transport, summary) and not summary.latency_decides,
            )
            for each in summary.under(at)
            if each.drops_per_s
        ]
        bars += [
            Bar(f"{each.transport} ceiling", each.drops_per_s)
            for each in summary.ceilings
            if each.condition == replace(at, server=BARE) and each.drops_per_s
        ]
        if bars:
            panels.append(Panel(rtt(rtt_ms), bars))
    if not panels:
        return None
    title = f"Files dropped per second, {at_a_time(line.setting.concurrency)}, " + manner(
        line.setting
    )
    return panel_chart(name, title, panels, "files per second (more is better)", number)
