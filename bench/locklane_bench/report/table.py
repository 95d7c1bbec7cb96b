"""The main table, of the report and of the README, and the table for the terminal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from rich import box
from rich.table import Table as RichTable

from locklane_bench.report.ceiling import shares
from locklane_bench.report.matrix import distances, farthest, is_best, names_in, views_of
from locklane_bench.report.section import Table
from locklane_bench.report.summary import Figures, Line, Summary, summarise
from locklane_bench.report.wording import (
    BEST,
    UNKNOWN,
    Cell,
    at_a_time,
    exact,
    listed,
    manner,
    middle,
    per_file,
    percent,
    place,
    rtt,
    server_note,
    shown,
    whole,
)
from locklane_bench.results import Condition, Results

__all__ = ["Table", "main_table", "terminal_table"]


def headline(summary: Summary) -> list[Line]:
    """The view that the answer speaks of: without TLS, proxy and think time, if there is one."""
    views = views_of(summary)
    return views[0] if views else []


def main_table(summary: Summary) -> Table | None:
    """What a dropped file costs: the table under the main chart. Medians only."""
    view = headline(summary)
    if not view:
        return None
    low, high = farthest(view), view[-1]
    secure = next(
        (
            line
            for each in views_of(summary)
            for line in each
            if replace(line.setting, tls=False) == low.setting and line.setting.tls
        ),
        None,
    )
    near = next(iter(low.by_rtt.values()))
    columns: list[tuple[str, Callable[[str], Cell]]] = []

    def add(head: str, at: Condition | None, value: Callable[[Figures], Cell]) -> None:
        def made(name: str) -> Cell:
            found = summary.at(at, name) if at else None
            return value(found) if found else Cell(UNKNOWN)

        columns.append((head, made))

    def time(at: Condition) -> Callable[[Figures], Cell]:
        return lambda each: Cell(
            middle(each.ms_per_file), best=is_best(at, each.transport, summary, by_p50=True)
        )

    add("Connections per file", near, lambda each: Cell(middle(each.connections, exact)))
    add("Round trips per file", near, lambda each: Cell(middle(each.round_trips, per_file)))
    for rtt_ms, at in low.by_rtt.items():
        add(f"ms per file, {rtt(rtt_ms)}", at, time(at))
    if secure:
        rtt_ms, at = list(secure.by_rtt.items())[-1]
        add(f"the same, TLS, {rtt(rtt_ms)}", at, time(at))
    top = next(iter(high.by_rtt.values()))
    add(
        f"Files per s, {at_a_time(high.setting.concurrency)}",
        top,
        lambda each: Cell(
            middle(each.drops_per_s),
            best=not summary.latency_decides and is_best(top, each.transport, summary),
        ),
    )
    add("Server CPU ms per file", top, lambda each: Cell(middle(each.server_cpu_ms)))
    rows = [[Cell(name), *(made(name) for _, made in columns)] for name in names_in(view, summary)]
    manners = manner(low.setting)
    first = at_a_time(low.setting.concurrency).capitalize()
    last = at_a_time(high.setting.concurrency)
    also = f"; files per second and server CPU: {last}, {rtt(top.rtt_ms)}" if len(view) > 1 else ""
    notes = [
        f"{first}, {manners}{also}. Medians of the rounds; the ranges are in the matrix. "
        "Time per file is the median drop’s, its connection being open (or opened for it, where "
        "each file has one); round trips are those that the client waited for."
    ]
    if any(cell.best for row in rows for cell in row):
        notes.append(f"{BEST}: the best, or tied with it.")
    if not any(each.p50_ms for each in summary.figures):
        notes.append(f"{UNKNOWN} for connections and times: no run was made without the relay.")
    return Table(
        "What a dropped file costs", ["Transport", *(head for head, _ in columns)], [rows], notes
    )


def terminal_table(results: Results) -> RichTable:
    """What ``locklane compare`` prints at its end, a line for each transport and condition of the
    matrix; fits in 100 columns."""
    summary = summarise(results)
    views = views_of(summary)
    # Without edges, which could put the stars on lines of their own.
    table = RichTable(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, caption_justify="left")
    table.add_column("Transport", overflow="fold")
    for head in (
        "RTT\nms",
        "At a\ntime",
        "Connections\nper file",
        "Files/s\n(least–most)",
        "p50 / p99\nms",
        "Bytes\nup / down",
        "Server\nCPU ms",
    ):
        table.add_column(head, justify="right", no_wrap=True)
    starred = False
    for view in views:
        if len(views) > 1:
            table.add_row(f"[bold]{manner(view[0].setting)}[/bold]")
        for rtt_ms in distances(view):
            for line in view:
                at = line.by_rtt.get(rtt_ms)
                if at is None:
                    continue
                for each in summary.under(at):
                    best = is_best(at, each.transport, summary)
                    starred = starred or best
                    table.add_row(
                        f"{each.transport} {BEST}" if best else each.transport,
                        f"{rtt_ms:g}",
                        f"{at.concurrency:,}",
                        middle(each.connections, exact),
                        shown(each.drops_per_s),
                        f"{middle(each.p50_ms)} / {middle(each.p99_ms)}",
                        f"{middle(each.bytes_up, whole)} / {middle(each.bytes_down, whole)}",
                        middle(each.server_cpu_ms),
                    )
                table.add_section()
    notes = [f"{BEST} the fastest, or tied with it (neither was faster in every round)."]
    if not starred:
        notes = []
    reached = [f"{place(at)} {percent(share.median)}" for at, _, share in shares(summary) if share]
    if reached:
        names = listed(list(dict.fromkeys(each.transport for each in summary.ceilings)))
        notes.append(f"Share of the ceiling that {names} reached: {'; '.join(reached)}.")
    notes += server_note(results)
    table.caption = "\n".join(["", *notes]) if notes else None
    return table
