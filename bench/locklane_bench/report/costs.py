"""All other costs of the matrix, in tables, and how far the rounds were apart."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median

from locklane_bench.report.matrix import views_of
from locklane_bench.report.section import Section, Table, beside, section
from locklane_bench.report.summary import Figures, Line, Spread, Summary
from locklane_bench.report.wording import (
    UNKNOWN,
    Cell,
    at_a_time,
    cell,
    exact,
    manner,
    mebibytes,
    middle,
    number,
    per_file,
    percent,
    place,
    plural,
    rtt,
    server_note,
    whole,
)
from locklane_bench.results import Condition, Results

Column = tuple[str, Callable[[Figures], Cell]]


def costs_section(results: Results, summary: Summary) -> Section | None:
    """Requests, bytes, processor time, memory and the percentiles of latency."""
    views = views_of(summary)
    if not views:
        return None
    relayed = any(each.bytes_up for each in summary.figures)
    notes = ["Per dropped file, at the shortest distance.", *server_note(results)]
    if not relayed:
        notes.append(f"{UNKNOWN} for the bytes: no run went through the relay, which counts them.")
    return section(
        "What else it costs",
        *(_costs(view, summary, notes) for view in views),
        *beside([_peaks(view, summary, server_note(results)) for view in views]),
        *(_percentiles(view, summary) for view in views),
    )


def _costs(view: list[Line], summary: Summary, notes: list[str]) -> Table:
    columns: list[Column] = [
        ("Connections", lambda each: Cell(middle(each.connections, exact))),
        ("Requests", lambda each: Cell(middle(each.requests, per_file))),
        ("Messages", lambda each: Cell(middle(each.messages, per_file))),
        ("Round trips", lambda each: Cell(middle(each.round_trips, per_file))),
        ("Bytes up", lambda each: Cell(middle(each.bytes_up, whole))),
        ("Bytes down", lambda each: Cell(middle(each.bytes_down, whole))),
        ("Client CPU ms", lambda each: cell(each.client_cpu_ms)),
        ("Server CPU ms", lambda each: cell(each.server_cpu_ms)),
        ("TIME_WAIT", lambda each: Cell(middle(each.time_wait, exact))),
    ]
    if view[0].setting.tls:
        columns[:1] = [
            ("Full handshakes", lambda each: Cell(middle(each.tls_full, exact))),
            ("Resumed ones", lambda each: Cell(middle(each.tls_resumed, exact))),
        ]
        notes = [*notes, "Each connection begins with a full handshake or a resumed one."]
    return _table("Costs of a dropped file", columns, view, summary, notes)


def _peaks(view: list[Line], summary: Summary, notes: list[str]) -> Table:
    columns: list[Column] = [
        ("Memory, MiB", lambda each: cell(each.memory_kib, mebibytes)),
        ("Descriptors", lambda each: cell(each.descriptors, whole)),
    ]
    return _table(
        "What the server needed at the most",
        columns,
        view,
        summary,
        ["The peak of a run, not per dropped file; at the shortest distance.", *notes],
    )


def _percentiles(view: list[Line], summary: Summary) -> Table | None:
    columns: list[Column] = [
        ("p50", lambda each: cell(each.p50_ms)),
        ("p90", lambda each: cell(each.p90_ms)),
        ("p99", lambda each: cell(each.p99_ms)),
        ("Slowest", lambda each: cell(each.max_ms)),
    ]
    timed = [
        each
        for line in view
        for at in line.by_rtt.values()
        for each in summary.under(at)
        if each.p50_ms
    ]
    if not timed:
        return None
    least = min(each.least_files for each in timed)
    notes = []
    if least < 100:
        notes.append(
            f"A round of {plural(least, 'drop')} has no hundredth part: its p99 is its slowest "
            "drop."
        )
    return _table("Latency of a drop, in ms", columns, view, summary, notes, every=True)


def _table(
    title: str,
    columns: list[Column],
    view: list[Line],
    summary: Summary,
    notes: list[str],
    *,
    every: bool = False,
) -> Table:
    """Conditions as groups; the nearest of each line, or ``every`` one."""
    conditions = [
        at
        for line in view
        for at in (list(line.by_rtt.values()) if every else [next(iter(line.by_rtt.values()))])
    ]
    return Table(
        f"{title}, {manner(view[0].setting)}",
        ["Transport", *(head for head, _ in columns)],
        [
            [
                [Cell(each.transport), *(value(each) for _, value in columns)]
                for each in summary.under(at)
            ]
            for at in conditions
        ],
        notes,
        [_heading(at) for at in conditions],
    )


def _heading(at: Condition) -> str:
    return f"{at_a_time(at.concurrency).capitalize()}, {rtt(at.rtt_ms)}"


def spread_section(results: Results, summary: Summary) -> Section | None:
    """How far the rounds of each figure were apart, and every round."""
    matrix = set(summary.conditions("matrix"))
    found = [
        (each, each.drops_per_s)
        for each in summary.figures
        if each.condition in matrix and each.drops_per_s and each.drops_per_s.rounds > 1
    ]
    if not found:
        return None
    width, (widest, _) = max(
        ((_width(spread), (each, spread)) for each, spread in found), key=lambda pair: pair[0]
    )
    typical = median(_width(spread) for _, spread in found)
    said = (
        "From its least to its greatest round, a figure of files per second spans "
        f"{percent(typical)} of its median in the typical case ({plural(len(found), 'figure')} of "
        f"the matrix); the widest is {widest.transport}, {place(widest.condition)}, with "
        f"{percent(width)}."
    )
    return section(
        "Spread, round by round", said, *(_rounds(v, summary) for v in views_of(summary))
    )


def _width(of: Spread) -> float:
    return (of.high - of.low) / of.median


def _rounds(view: list[Line], summary: Summary) -> Table | None:
    numbers = sorted(
        {
            number
            for line in view
            for at in line.by_rtt.values()
            for each in summary.under(at)
            for number in each.rates
        }
    )
    if not numbers:
        return None

    def of(round_number: int) -> Column:
        def value(each: Figures) -> Cell:
            rate = each.rates.get(round_number)
            return Cell(UNKNOWN if rate is None else number(rate))

        return f"Round {round_number}", value

    return _table(
        "Files dropped per second", [of(each) for each in numbers], view, summary, [], every=True
    )
