"""The cost per file as the number of files grows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from locklane_bench.report.curves import Series, curve_chart
from locklane_bench.report.drawing import Chart
from locklane_bench.report.section import Section, Table, beside, section
from locklane_bench.report.summary import Figures, Spread, Summary
from locklane_bench.report.wording import UNKNOWN, Cell, cell, exact, place
from locklane_bench.results import Condition, Results

_WHAT = (
    "What is done once, such as opening a connection, is shared by all files of a run: the more "
    "there are, the less of it falls to each. Time per file is the whole run’s, divided by its "
    "files."
)


def files_section(results: Results, summary: Summary) -> Section | None:
    grown = list(_grown(summary))
    return section(
        "As the number of files grows",
        _WHAT if grown else None,
        *beside([_chart(each, summary, number) for number, each in enumerate(grown, 1)]),
        *beside(
            [_table("Time per dropped file, in ms", each, summary, _ms, cell) for each in grown]
        ),
        *beside(
            [
                _table(
                    "Connections per dropped file",
                    each,
                    summary,
                    lambda figures: figures.connections,
                    lambda found: cell(found, exact),
                )
                for each in grown
            ]
        ),
    )


def _grown(summary: Summary) -> Iterator[dict[int, Condition]]:
    """Conditions that differ in the number of files alone, two at least, by that number."""
    grouped: dict[Condition, dict[int, Condition]] = {}
    for each in summary.conditions("files", "matrix"):
        alike = replace(each, files=0, part="files")
        grouped.setdefault(alike, {}).setdefault(each.files, each)
    in_files = {replace(each, files=0) for each in summary.conditions("files")}
    for alike, found in grouped.items():
        # The matrix adds a point to the curve that was asked for, and is one only for want of it.
        if len(found) > 1 and (alike in in_files or not in_files):
            yield dict(sorted(found.items()))


def _ms(figures: Figures) -> Spread | None:
    rate = figures.drops_per_s
    if rate is None:
        return None
    return replace(rate, median=1000 / rate.median, low=1000 / rate.high, high=1000 / rate.low)


def _table(
    title: str,
    grown: dict[int, Condition],
    summary: Summary,
    value: Callable[[Figures], Spread | None],
    form: Callable[[Spread | None], Cell],
) -> Table:
    def of(at: Condition, name: str) -> Cell:
        found = summary.at(at, name)
        return form(value(found)) if found else Cell(UNKNOWN)

    names = [
        name for name in summary.transports if any(summary.at(at, name) for at in grown.values())
    ]
    return Table(
        f"{title}, by number of files: {place(next(iter(grown.values())))}",
        ["Transport", *(f"{files:,}" for files in grown)],
        [[[Cell(name), *(of(at, name) for at in grown.values())] for name in names]],
    )


def _chart(grown: dict[int, Condition], summary: Summary, number: int) -> Chart | None:
    series = []
    for look, name in enumerate(summary.transports):
        points = []
        for files, at in grown.items():
            found = summary.at(at, name)
            spread = _ms(found) if found else None
            if spread:
                points.append((float(files), spread.median))
        if points:
            series.append(Series(name, look, points))
    if not series:
        return None
    return curve_chart(
        f"files-{number}",
        f"Time per dropped file, by number of files: {place(next(iter(grown.values())))}",
        series,
        ("files in the run, logarithmic", "ms per dropped file, logarithmic"),
        log=True,
    )
