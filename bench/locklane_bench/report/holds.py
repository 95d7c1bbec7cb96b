"""Many locks held at once and left alone."""

from __future__ import annotations

from locklane_bench.report.bars import Bar, Panel, panel_chart
from locklane_bench.report.drawing import Chart
from locklane_bench.report.section import Section, Table, section
from locklane_bench.report.summary import Spread, Summary
from locklane_bench.report.wording import Cell, ended, exact, listed, number, plural
from locklane_bench.results import IdleHolds, Results


def holds_section(results: Results, summary: Summary) -> Section | None:
    """Memory and descriptors per held lock."""
    held = [each for each in results.idle if each.held > 0]
    if not results.idle:
        return None
    failed = [ended(f"{each.transport}: {each.failure}") for each in results.idle if each.failure]
    return section(
        "Locks held and left alone",
        _said(results.idle),
        _chart(held, summary) if held else None,
        _table(results.idle, failed),
    )


def _said(idle: list[IdleHolds]) -> str:
    whole = [each.transport for each in idle if each.held >= each.wanted]
    part = [each for each in idle if each.held < each.wanted]
    most = max(each.wanted for each in idle)
    said = f"{plural(most, 'lock')} were to be held at once on each transport. "
    if not part:
        said += "All were held on every one"
    else:
        said += f"On {listed(whole)} all were" if whole else "On none were all held"
        short = listed([f"{each.held:,} on {each.transport}" for each in part])
        said += f"; {short}"
    dead = [each for each in idle if each.live < each.held]
    if dead:
        counts = listed([f"{each.live:,} of {each.held:,} on {each.transport}" for each in dead])
        return f"{said}. The server said that it held live only {counts}."
    return f"{said}, and the server said that every one of them was live."


def _per(count: int, each: IdleHolds) -> float:
    return count / each.held


def _chart(held: list[IdleHolds], summary: Summary) -> Chart:
    def bars(count: str) -> list[Bar]:
        found = []
        for each in held:
            value = _per(getattr(each, count), each)
            look = (
                summary.transports.index(each.transport)
                if each.transport in summary.transports
                else len(summary.transports)
            )
            found.append(Bar(each.transport, Spread(value, value, value, 1), look))
        return found

    return panel_chart(
        "idle",
        "Memory per held lock, in KiB",
        [
            Panel("Server", bars("server_memory_kib")),
            Panel("Client", bars("client_memory_kib")),
        ],
        "KiB per held lock (fewer is better)",
        number,
    )


def _table(idle: list[IdleHolds], failed: list[str]) -> Table:
    rows = []
    for each in idle:
        row = [Cell(each.transport), Cell(f"{each.held:,}"), Cell(f"{each.live:,}")]
        if each.held:
            row += [
                Cell(number(_per(each.server_memory_kib, each))),
                Cell(number(_per(each.client_memory_kib, each))),
                Cell(exact(_per(each.server_descriptors, each))),
                Cell(exact(_per(each.client_descriptors, each))),
            ]
        else:
            row += [Cell("–")] * 4
        row += [
            Cell(f"{each.connections:,}"),
            Cell(number(each.seconds_to_take)),
            Cell(number(each.seconds_to_unlock)),
        ]
        rows.append(row)
    return Table(
        "What a held lock takes",
        [
            *("Transport", "Held", "Live", "Server KiB per lock", "Client KiB per lock"),
            *("Server descriptors per lock", "Client descriptors per lock"),
            *("Connections", "Seconds to take all", "Seconds to unlock all"),
        ],
        [rows],
        [
            "What memory and descriptors grew by, divided by the locks that were held. Live: those "
            "that the server said it held live.",
            *failed,
        ],
    )
