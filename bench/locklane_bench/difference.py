"""``locklane report A B``: two comparisons held against each other. ``locklane report A``: the
report of one written anew."""

from __future__ import annotations

import sys
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich import box
from rich.console import Console
from rich.table import Table as RichTable

from locklane_bench.advise import read_or_say
from locklane_bench.contrast import Difference, Line, Ratio, difference
from locklane_bench.results import Condition, Results

if TYPE_CHECKING:
    from locklane_bench.report.section import Table


def condition_words(condition: Condition) -> str:
    """A condition for a person; what is as usual is not said."""
    said = [f"{condition.concurrency:,} at a time", f"{condition.rtt_ms:g} ms"]
    if condition.tls:
        said.append("TLS")
    if condition.server == "bare":
        said.append("ceiling")
    elif condition.server not in ("locklane", "external"):
        said.append(condition.server)
    if condition.proxy:
        said.append(f"behind {condition.proxy}")
    if condition.think_time_s:
        said.append(f"held {condition.think_time_s * 1000:g} ms")
    if condition.files:
        said.append(f"{condition.files:,} files")
    return f"{condition.part}: {', '.join(said)}"


def sentences(found: Difference) -> list[str]:
    """What came out."""
    said = []
    if not found.lines:
        return ["The two have no transport under the same condition: nothing can be compared."]
    if found.opposites:
        said.append(
            f"The two rank the transports differently: of {_pairs_words(found.ranked)} that both "
            f"rank, {len(found.opposites):,} ranked in opposite directions."
        )
    elif found.ranked:
        said.append(
            f"The two rank the transports the same: none of {_pairs_words(found.ranked)} that both "
            f"rank, under {found.conditions:,} conditions, is ranked in opposite directions."
        )
    else:
        said.append("There is no pair of transports that both rank.")
    if found.undecided:
        said.append(
            f"{_pairs_words(found.undecided).capitalize()} not ranked by A or by B: neither "
            "transport was faster in every round there."
        )
    changed = [each for each in found.lines if each.speed and not each.speed.tie]
    what = "latencies" if found.rate else "drops per second"
    said.append(
        f"In {len(changed):,} of {len(found.lines):,} lines the {what} of all of B’s rounds are "
        "above, or below, those of all of A’s."
    )
    if any(found.only_in):
        said.append(
            f"{found.only_in[0]:,} lines are only in A, {found.only_in[1]:,} only in B: left out."
        )
    return said


def opposites(found: Difference) -> list[str]:
    """Each pair that is ranked in opposite directions."""
    return [
        f"{condition_words(each.condition)}: A has {each.first_in_a} before {each.first_in_b}, B "
        "the other way round."
        for each in found.opposites
    ]


def _pairs_words(count: int) -> str:
    return "1 pair" if count == 1 else f"{count:,} pairs"


def _times(ratio: Ratio | None) -> tuple[str, str]:
    """A ratio and its range."""
    if ratio is None:
        return "–", ""
    low, high = f"{ratio.low:.2f}", f"{ratio.high:.2f}"
    return f"{ratio.median:.2f}", "" if low == high else f"{low}–{high}"


def _count(value: float) -> str:
    """Connections per dropped file; what is nearly whole is not written as if it were."""
    return f"{value:.3f}" if value >= 0.01 or value == 0 else f"{value:.5f}"


def _opened(line: Line) -> str:
    if line.connections is None:
        return "–"
    a, b = map(_count, line.connections)
    return a if a == b else f"{a} → {b}"


def _reading(line: Line, rate: bool) -> str:
    if line.speed is None:
        return "–"
    if line.speed.tie:
        return "tie"
    return "B faster" if (line.speed.median > 1) is not rate else "B slower"


def _head(found: Difference) -> list[str]:
    speed = "p50 latency" if found.rate else "Drops per second"
    return ["Transport", speed, "Reading", "Connections per file", "Bytes", "Server CPU"]


def _rows(found: Difference) -> list[tuple[str, list[list[tuple[str, str]]]]]:
    """By condition: for each transport the cells, each with its range."""
    grouped = groupby(found.lines, key=lambda line: line.condition)
    return [
        (
            condition_words(condition),
            [
                [
                    (line.transport, ""),
                    _times(line.speed),
                    (_reading(line, found.rate), ""),
                    (_opened(line), ""),
                    _times(line.bytes_),
                    _times(line.server_cpu),
                ]
                for line in lines
            ],
        )
        for condition, lines in grouped
    ]


NOTES = [
    "B over A, of the medians of the rounds; in brackets or small print the least round of B over "
    "the greatest of A, and the greatest of B over the least of A. A tie: that range has 1 in it.",
    "Connections per dropped file: in A, and after the arrow in B where it differs. Bytes are "
    "those of the runs through the relay, both ways. All is per dropped file.",
    "Where connections are used again there are the fewer per file the more files there are; over "
    "a distance the two need not have dropped the same number.",
]


def _terminal_table(found: Difference) -> RichTable:
    table = RichTable(box=box.SIMPLE_HEAD, pad_edge=False, title="B over A", title_justify="left")
    for number, head in enumerate(_head(found)):
        table.add_column(head, justify="right" if number else "left")
    for name, rows in _rows(found):
        table.add_row(name, style="bold")
        for cells in rows:
            table.add_row(*(f"{main} ({spread})" if spread else main for main, spread in cells))
        table.add_section()
    return table


# -- the page --------------------------------------------------------------------------------------


def _table(found: Difference) -> Table:
    from locklane_bench.report.section import Table
    from locklane_bench.report.wording import Cell

    rows = _rows(found)
    return Table(
        "B over A",
        _head(found),
        [[[Cell(*cell) for cell in cells] for cells in group] for _, group in rows],
        NOTES,
        headings=[name for name, _ in rows],
    )


def write(a: Results, b: Results, found: Difference, directory: Path) -> list[Path]:
    """Write ``difference.html`` and ``difference.md``; returns their paths, the page's first."""
    from locklane_bench.report import environment

    directory.mkdir(parents=True, exist_ok=True)
    content = {
        "a": a,
        "b": b,
        "sentences": sentences(found),
        "opposites": opposites(found),
        "table": _table(found) if found.lines else None,
        "circumstances": [
            (name, [(each, f"{in_a} → {in_b}") for each, in_a, in_b in rows])
            for name, rows in circumstances(found)
        ],
    }
    written = []
    for name in ("difference.html", "difference.md"):
        path = directory / name
        text = environment().get_template(f"{name}.j2").render(content)
        path.write_text(text, encoding="utf-8")
        written.append(path)
    return written


def circumstances(found: Difference) -> list[tuple[str, list[tuple[str, str, str]]]]:
    """What differs beside the figures, by kind; empty if nothing does."""
    kinds = [
        ("Settings", found.settings),
        ("Machine", found.machine),
        ("Versions", found.versions),
    ]
    return [(name, rows) for name, rows in kinds if rows]


# -- the command -----------------------------------------------------------------------------------


@click.command(
    short_help="Compare two reports, or write one anew.",
    epilog="""\b
Examples:
  Before and after a change:
    locklane report reports/before reports/after
  As a page, too:
    locklane report reports/before reports/after --report reports/difference
  Do two runs on one machine say the same?
    locklane report reports/one reports/two --same-ranking
  Write a report anew from its results:
    locklane report reports/mine
""",
)
@click.argument("a", type=click.Path(path_type=Path))
@click.argument("b", required=False, type=click.Path(path_type=Path))
@click.option(
    "--report",
    "directory",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Write difference.html and difference.md there, or with A alone its report. [default: "
    "nothing is written; with A alone, beside its results]",
)
@click.option(
    "--same-ranking",
    is_flag=True,
    help="End with 1 if A and B rank any two transports in opposite directions, or have no two to "
    "rank.",
)
def report(a: Path, b: Path | None, directory: Path | None, same_ranking: bool) -> None:
    """Hold comparison B against comparison A, or write the report of A anew.

    A and B are results.json files or directories of reports. Two transports count as ranked only
    where one was faster than the other in every round.
    """
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    if b is None:
        if same_ranking:
            raise click.UsageError("--same-ranking needs two reports: give B")
        _again(a, directory, console)
        return
    one, two = read_or_say(a), read_or_say(b)
    try:
        found = difference(one, two)
    except ValueError as error:
        raise click.ClickException(str(error)) from error
    console.print(f"A is {a}, {one.started}; B is {b}, {two.started}.", soft_wrap=True)
    if found.lines:
        console.print(_terminal_table(found))
    for name, rows in circumstances(found):
        for each, in_a, in_b in rows:
            console.print(f"{name} differ: {each}: {in_a} → {in_b}", soft_wrap=True, markup=False)
    for sentence in [*sentences(found), *opposites(found)]:
        console.print(sentence, soft_wrap=True, markup=False)
    if directory is not None:
        try:
            written = write(one, two, found, directory)
        except OSError as error:
            raise click.BadParameter(
                f"{directory}: {error.strerror}", param_hint="--report"
            ) from error
        console.print(f"report: {written[0]}", soft_wrap=True, markup=False)
    if same_ranking and (found.opposites or not found.ranked + found.undecided):
        sys.exit(1)


def _again(a: Path, directory: Path | None, console: Console) -> None:
    results = read_or_say(a)
    # matplotlib takes a second to import, and only this needs it.
    from locklane_bench.report import write as write_report

    target = directory or (a if a.is_dir() else a.parent)
    try:
        written = write_report(results, target)
    except OSError as error:
        raise click.ClickException(f"cannot write to {target}: {error.strerror}") from error
    console.print(f"report: {written[0]}", soft_wrap=True, markup=False)
