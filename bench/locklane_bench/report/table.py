"""The figures as tables: for the report (HTML and Markdown alike) and for the terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import groupby

from rich import box
from rich.table import Table as RichTable

from locklane_bench.report.summary import BARE, Figures, Spread, Summary, summarise
from locklane_bench.report.wording import (
    UNKNOWN,
    Cell,
    at_a_time,
    cell,
    exact,
    label,
    mebibytes,
    middle,
    per_file,
    percent,
    server_note,
    shown,
    times_form,
    whole,
)
from locklane_bench.results import Results


@dataclass(frozen=True, slots=True)
class Table:
    """A caption, a head, and rows in groups; the first cell of a row is its heading."""

    caption: str
    head: list[str]
    groups: list[list[list[Cell]]]
    notes: list[str] = field(default_factory=list)

    @property
    def rows(self) -> list[list[Cell]]:
        return [row for group in self.groups for row in group]


Column = tuple[str, Callable[[Figures], Cell]]


def main_table(summary: Summary) -> Table | None:
    """What a drop costs: the table under the main chart."""
    columns: list[Column] = [
        ("Connections per dropped file", lambda each: cell(each.connections, exact)),
        ("Drops per second", lambda each: cell(each.drops_per_s)),
        ("p50 ms", lambda each: Cell(middle(each.p50_ms))),
        ("p99 ms", lambda each: Cell(middle(each.p99_ms))),
        ("Bytes up", lambda each: Cell(middle(each.bytes_up, whole))),
        ("Bytes down", lambda each: Cell(middle(each.bytes_down, whole))),
        ("Server CPU ms", lambda each: Cell(middle(each.server_cpu_ms))),
    ]
    notes = [
        "Per dropped file; median of the rounds, in brackets or small print the least and the "
        "greatest round."
    ]
    if not any(each.bytes_up for each in summary.figures):
        notes.append(f"{UNKNOWN} for the bytes: no run went through the relay, which counts them.")
    if not any(each.drops_per_s for each in summary.figures):
        notes.append(f"{UNKNOWN} for connections and times: no run was made without the relay.")
    return _by_figures("What a dropped file costs", columns, summary, notes)


def latency_table(summary: Summary) -> Table | None:
    """Latency with the spread of every percentile."""
    columns: list[Column] = [
        ("p50", lambda each: cell(each.p50_ms)),
        ("p90", lambda each: cell(each.p90_ms)),
        ("p99", lambda each: cell(each.p99_ms)),
        ("Slowest", lambda each: cell(each.max_ms)),
    ]
    timed = [each for each in summary.figures if each.p50_ms]
    if not timed:
        return None
    notes = []
    least = min(each.least_files for each in timed)
    if least < 100:
        notes.append(
            f"A round of {least:,} drops has no hundredth part: its p99 is its slowest drop."
        )
    return _by_figures("Latency of a drop, in ms", columns, summary, notes, server_column=False)


def cost_table(summary: Summary) -> Table | None:
    """All other costs."""
    columns: list[Column] = [
        ("Requests", lambda each: cell(each.requests, per_file)),
        ("Messages", lambda each: cell(each.messages, per_file)),
        ("Round trips", lambda each: cell(each.round_trips, per_file)),
        ("Client CPU ms", lambda each: cell(each.client_cpu_ms)),
        ("Server CPU ms", lambda each: cell(each.server_cpu_ms)),
        ("TIME_WAIT sockets", lambda each: cell(each.time_wait, exact)),
    ]
    return _by_figures("What else a dropped file costs", columns, summary, ["Per dropped file."])


def peak_table(summary: Summary) -> Table | None:
    """What the server needed at the most."""
    columns: list[Column] = [
        ("Memory, MiB", lambda each: cell(each.memory_kib, mebibytes)),
        ("Descriptors", lambda each: cell(each.descriptors, whole)),
    ]
    notes = ["The peak of a run, not per dropped file."]
    return _by_figures("What the server needed at the most", columns, summary, notes)


def comparison_table(summary: Summary) -> Table | None:
    """Each transport against the baseline, round by round."""
    if not summary.comparisons:
        return None
    baseline = summary.comparisons[0].baseline
    rows = [
        [
            Cell(label(each.server, each.transport, summary)),
            Cell(f"{each.concurrency:,}"),
            cell(each.ratio, times_form),
            Cell(", ".join(times_form(value) for _, value in each.by_round) or UNKNOWN),
            Cell("tie" if each.tie else _faster(each.ratio)),
        ]
        for each in summary.comparisons
    ]
    return Table(
        f"Drops per second, as a multiple of {baseline}’s in the same round",
        ["Transport", "At a time", f"Times {baseline}", "Each round", "Reading"],
        _grouped(rows),
    )


def _faster(ratio: Spread | None) -> str:
    if ratio is None:
        return "no round has both"
    return "faster" if ratio.median > 1 else "slower"


def ceiling_table(summary: Summary) -> Table | None:
    """The bare server, and how near the real one came to it."""
    rows = []
    for each in summary.ceilings:
        for server in summary.servers or [""]:
            figures = summary.at(server, each.transport, each.concurrency)
            rows.append(
                [
                    Cell(label(server, each.transport, summary)),
                    Cell(f"{each.concurrency:,}"),
                    cell(each.drops_per_s),
                    cell(figures.drops_per_s if figures else None),
                    cell(each.share.get(server), percent),
                ]
            )
    if not rows:
        return None
    return Table(
        "Drops per second against the bare server and against the real one",
        ["Transport", "At a time", "Ceiling", "Measured", "Share of the ceiling"],
        _grouped(rows),
        ["The share is worked out round by round, then the median is taken."],
    )


def counts_table(summary: Summary) -> Table | None:
    """Connections by client, server, relay and kernel."""
    if not summary.counts:
        return None
    rows = []
    for each in summary.counts:
        name = label(each.server, each.transport, summary)
        if each.server == BARE:
            name = f"{each.transport} (ceiling)"
        rows.append(
            [
                Cell(name),
                Cell(f"{each.concurrency:,}"),
                Cell(each.via),
                Cell(f"{each.files:,}"),
                *(
                    Cell(UNKNOWN if count is None else f"{count:,}")
                    for count in (each.client, each.server_said, each.relay, each.kernel)
                ),
                Cell(f"{each.agreeing:,} of {each.checked:,}" if each.checked else UNKNOWN),
            ]
        )
    head = ["Transport", "At a time", "Via", "Files", "Client", "Server", "Relay", "Kernel"]
    return Table(
        "TCP connections as each side counted them, all rounds added up",
        [*head, "Runs that agree"],
        _grouped(rows),
        ["The kernel counts for the network namespace that the comparison had to itself."],
    )


def _by_figures(
    caption: str,
    columns: list[Column],
    summary: Summary,
    notes: list[str],
    *,
    server_column: bool = True,
) -> Table | None:
    if not summary.figures:
        return None
    note = server_note(summary)
    rows = [
        [
            Cell(label(each.server, each.transport, summary)),
            Cell(f"{each.concurrency:,}"),
            *(value(each) for _, value in columns),
        ]
        for each in summary.figures
    ]
    return Table(
        caption,
        ["Transport", "At a time", *(name for name, _ in columns)],
        _grouped(rows),
        notes + ([note] if note and server_column else []),
    )


def _grouped(rows: Iterable[list[Cell]]) -> list[list[list[Cell]]]:
    """Rows with the same concurrency (the second cell) together."""
    return [list(group) for _, group in groupby(rows, key=lambda row: row[1].main)]


def terminal_table(results: Results) -> RichTable:
    """What ``locklane compare`` prints at its end; fits in 100 columns."""
    summary = summarise(results)
    table = RichTable(box=box.SIMPLE_HEAD, pad_edge=False, caption_justify="left")
    table.add_column("Transport", overflow="fold")
    for head in (
        "At a\ntime",
        "Connections\nper file",
        "Drops/s\n(least–most)",
        "p50 / p99\nms",
        "Bytes\nup / down",
        "Server\nCPU ms",
    ):
        table.add_column(head, justify="right", no_wrap=True)
    for before, each in zip([None, *summary.figures], summary.figures, strict=False):
        if before is not None and before.concurrency != each.concurrency:
            table.add_section()
        table.add_row(
            label(each.server, each.transport, summary),
            f"{each.concurrency:,}",
            middle(each.connections, exact),
            shown(each.drops_per_s),
            f"{middle(each.p50_ms)} / {middle(each.p99_ms)}",
            f"{middle(each.bytes_up, whole)} / {middle(each.bytes_down, whole)}",
            middle(each.server_cpu_ms),
        )
    notes = [
        f"{at_a_time(ceiling.concurrency)} {percent(share.median)}"
        for ceiling in summary.ceilings
        for share in ceiling.share.values()
        if share
    ]
    if notes:
        names = ", ".join(dict.fromkeys(each.transport for each in summary.ceilings))
        table.caption = f"Share of the ceiling that {names} reached: {', '.join(notes)}."
    note = server_note(summary)
    if note:
        table.caption = f"{table.caption}\n{note}" if table.caption else note
    return table
