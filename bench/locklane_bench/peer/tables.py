"""The figures of a side-by-side comparison as tables, for the report and for the terminal."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby

from rich import box
from rich.table import Table as RichTable

from locklane_bench.peer.figures import SLOWER, WORKS, Limit, Line
from locklane_bench.peer.wording import verdict
from locklane_bench.report.table import Table
from locklane_bench.report.wording import UNKNOWN, Cell, cell, middle, number, percent, shown

_GROUPS = {work.name: work.group for work in WORKS}


def main_table(lines: list[Line]) -> Table:
    """What came out, and what was wanted."""
    rows = [
        (
            _GROUPS[line.figure.work],
            [
                Cell(f"{line.figure.title}, {line.figure.unit}"),
                cell(line.ours),
                Cell(short(line.figure.against)),
                cell(line.theirs),
                cell(line.ratio),
                Cell(UNKNOWN if line.figure.wanted is None else f"{bound(line)}, {verdict(line)}"),
            ],
        )
        for line in lines
    ]
    head = ["Figure", "Locklane", "Against", "Its figure", "Times better"]
    return Table(
        "Locklane and its peers, side by side",
        [*head, "Wanted"],
        _grouped(rows),
        [
            "Median of the rounds, in brackets or small print the least and the greatest round. "
            "Times better is worked out round by round. “hash, write”: the slower of hashing and "
            "writing alone."
        ],
    )


def round_table(lines: list[Line]) -> Table:
    """The ratio of each round."""
    rows = [
        (
            _GROUPS[line.figure.work],
            [
                Cell(line.figure.title),
                Cell(line.figure.against),
                Cell(", ".join(number(each) for each in line.by_round) or UNKNOWN),
            ],
        )
        for line in lines
    ]
    return Table(
        "Times better, round by round", ["Figure", "Against", "Each round"], _grouped(rows)
    )


def limit_table(limits: list[Limit]) -> Table | None:
    """Who was busy."""
    if not limits:
        return None
    rows = [
        (
            each.work,
            [
                Cell(each.work),
                Cell(each.server),
                cell(each.rate),
                cell(each.load, percent),
                cell(each.served, percent),
            ],
        )
        for each in limits
    ]
    return Table(
        "Who was busy",
        ["Work", "Server", "Operations per second", "Load, of one core", "Server, of one core"],
        _grouped(rows),
        ["Processor time per second of the run. A server that uses two cores can reach 200%."],
    )


def bound(line: Line) -> str:
    """What is wanted of a line, in the fewest signs."""
    if line.figure.wanted is None:
        return UNKNOWN
    return f"{'>' if line.figure.beyond else '≥'} {line.figure.wanted:g}"


def short(against: str) -> str:
    """What Locklane is held against, in a word or two."""
    return "hash, write" if against == SLOWER else against


def _grouped(rows: Iterable[tuple[str, list[Cell]]]) -> list[list[list[Cell]]]:
    return [[row for _, row in group] for _, group in groupby(rows, key=lambda row: row[0])]


def terminal_table(lines: list[Line]) -> RichTable:
    """What is printed at the end, medians with the spread of the ratio; fits in 100 columns."""
    table = RichTable(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("Figure", overflow="fold")
    table.add_column("Locklane", justify="right", no_wrap=True)
    table.add_column("Against", no_wrap=True)
    for head in ("Its figure", "Times better", "Wanted"):
        table.add_column(head, justify="right", no_wrap=True)
    table.add_column("Target", no_wrap=True)
    before = None
    for line in lines:
        group = _GROUPS[line.figure.work]
        if before not in (None, group):
            table.add_section()
        before = group
        figure = line.figure
        table.add_row(
            f"{figure.title}, {figure.unit}",
            middle(line.ours),
            short(figure.against),
            middle(line.theirs),
            shown(line.ratio),
            bound(line),
            verdict(line),
        )
    return table
