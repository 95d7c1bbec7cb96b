"""Ephemeral ports: who keeps TIME_WAIT, and how soon a transport has no port left."""

from __future__ import annotations

from locklane_bench.ports import DEFAULT_PORTS, exhaustion
from locklane_bench.procfs import TIME_WAIT_S
from locklane_bench.report.section import Section, Table, section
from locklane_bench.report.summary import Summary
from locklane_bench.report.wording import (
    UNKNOWN,
    Cell,
    duration,
    ended,
    exact,
    listed,
    number,
    plural,
    whole,
)
from locklane_bench.results import PortUse, Results


def ports_section(results: Results, summary: Summary) -> Section | None:
    """Measured with a narrow range, computed for the default one."""
    if not results.ports:
        return None
    return section(
        "Ephemeral ports",
        f"The end that closes a TCP connection first keeps it in TIME_WAIT for {TIME_WAIT_S:g} "
        "s. If that is the client, its port is taken for so long, and a client that opens a "
        "connection for each file can run out of ports.",
        _said(results.ports),
        _measured(results.ports),
        _computed(results.ports, summary),
    )


def _said(ports: list[PortUse]) -> str:
    out = [each for each in ports if each.ran_out]
    if not out:
        return f"With {_range(ports)}, no transport ran out of ports."
    counts = listed([f"{each.transport} after {plural(each.files, 'file')}" for each in out])
    rest = "; the others dropped all" if len(out) < len(ports) else ""
    return f"With {_range(ports)}, ports ran out for {counts}{rest}."


def _range(ports: list[PortUse]) -> str:
    return f"{listed([f'{each:,}' for each in sorted({each.ports for each in ports})])} ports"


def _keeps(each: PortUse) -> str:
    client, server = each.client_time_wait > 0, each.server_time_wait > 0
    if client and server:
        return "both"
    return "the client" if client else "the server" if server else "neither"


def _measured(ports: list[PortUse]) -> Table:
    return Table(
        "Measured with a narrow range of ports",
        [
            *("Transport", "Ports", "Files dropped", "Of", "Ran out", "Connections"),
            *("TIME_WAIT at the client", "at the server", "Kept by"),
        ],
        [
            [
                [
                    Cell(each.transport),
                    Cell(f"{each.ports:,}"),
                    Cell(f"{each.files:,}"),
                    Cell(f"{each.wanted:,}"),
                    Cell("yes" if each.ran_out else "no"),
                    Cell(f"{each.connections:,}"),
                    Cell(f"{each.client_time_wait:,}"),
                    Cell(f"{each.server_time_wait:,}"),
                    Cell(_keeps(each)),
                ]
                for each in ports
            ]
        ],
        [
            ended(f"What the client said, {each.transport}: {each.message}")
            for each in ports
            if each.message
        ],
    )


def _computed(ports: list[PortUse], summary: Summary) -> Table | None:
    """Ports kept = drops per second × client's TIME_WAIT sockets per drop × 60 s."""
    rows = []
    for each in ports:
        if not each.files:
            continue
        kept = each.client_time_wait / each.files
        rate = best_rate(each.transport, summary)
        ends = exhaustion(kept, rate or 0.0)
        if_first = exhaustion(each.connections / each.files, 0.0)
        if rate is None:
            taken, until = UNKNOWN, UNKNOWN
        else:
            taken = whole(rate * kept * TIME_WAIT_S)
            after_s = ends.after_s if ends else None
            until = "never" if after_s is None else f"after {duration(after_s)}"
        rows.append(
            [
                Cell(each.transport),
                Cell(exact(kept)),
                Cell(whole(ends.above_drops_per_s) if ends else "no bound"),
                Cell(UNKNOWN if rate is None else number(rate)),
                Cell(taken),
                Cell(until),
                Cell(whole(if_first.above_drops_per_s) if if_first else "no bound"),
            ]
        )
    if not rows:
        return None
    return Table(
        f"Computed for the default range of {DEFAULT_PORTS:,} ports, one client and one server",
        [
            *("Transport", "Client TIME_WAIT per file", "Most files per s for good"),
            *("Fastest measured, files per s", "Ports it would keep", "Runs out"),
            "Most files per s if the client closed first",
        ],
        [rows],
        [
            "Computed, not measured: ports kept = files per second × TIME_WAIT sockets per file × "
            f"{TIME_WAIT_S:g} s. It runs out at the fastest rate that the matrix has. The last "
            "column is for clients, proxies or crashes that close every connection before the "
            "server does."
        ],
    )


def best_rate(transport: str, summary: Summary) -> float | None:
    """The most files per second of a transport under any condition of the matrix."""
    return max(
        (
            found.drops_per_s.median
            for at in summary.conditions("matrix")
            if (found := summary.at(at, transport)) and found.drops_per_s
        ),
        default=None,
    )
