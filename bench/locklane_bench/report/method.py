"""How it was measured, under what conditions, how to read and to repeat it, and what is missing."""

from __future__ import annotations

from locklane_bench.report.section import Code, Pairs, Points, Section, section
from locklane_bench.report.summary import Summary
from locklane_bench.report.wording import (
    BEST,
    at_a_time,
    duration,
    ended,
    listed,
    long_names,
    number,
    rtt,
)
from locklane_bench.results import Condition, Grid, Results

_PARTS = {
    "matrix": "The matrix",
    "proxies": "Behind proxies",
    "think": "Think time",
    "files": "Numbers of files",
    "peers": "git-annex’s server",
}


def missing_section(results: Results, summary: Summary) -> Section | None:
    """What was not measured, and why."""
    said = [ended(f"{what}: {why}") for what, why in results.missing.items()]
    return section("What was not measured", Points(said)) if said else None


def method_section(results: Results, summary: Summary) -> Section | None:
    return section("How it was measured", Points(measured(results, summary)))


def reading_section(results: Results, summary: Summary) -> Section | None:
    return section("How to read it", Points(reading(summary)))


def conditions_section(results: Results, summary: Summary) -> Section | None:
    return section(
        "Conditions",
        Pairs("Machine", list(results.machine.items())) if results.machine else None,
        Pairs("Versions", list(results.versions.items())) if results.versions else None,
        Pairs("Settings", settings(results)),
    )


def repeat_section(results: Results, summary: Summary) -> Section | None:
    return section("How to repeat it", Code(results.command))


def settings(results: Results) -> list[tuple[str, str]]:
    """What was asked for, in the order to print."""
    asked = results.settings
    load = (
        "each client starts the next drop when one has ended"
        if asked.rate is None
        else f"{number(asked.rate)} drops due per second over all clients"
    )
    return [
        *([("Preset", asked.preset)] if asked.preset else []),
        ("Transports", ", ".join(asked.transports)),
        *((_PARTS.get(grid.part, grid.part), grid_words(grid)) for grid in asked.grids),
        *([("Held at once", f"{asked.idle_holds:,}")] if asked.idle_holds else []),
        ("Rounds", f"{asked.rounds:,}"),
        ("Load", load),
        ("Server", asked.url or "started for the comparison, on this machine"),
        ("Keys", asked.keys_from),
        ("Started", results.started),
        ("Took", duration(results.duration_s)),
    ]


def grid_words(grid: Grid) -> str:
    """All combinations of these."""
    files = f"{', '.join(f'{each:,}' for each in grid.files)} files in each run"
    if grid.files_s is not None:
        files += (
            f", over a distance no more than take the slowest transport about {grid.files_s:g} s"
        )
    said = [files, f"{', '.join(f'{each:,}' for each in grid.concurrency)} at a time"]
    if grid.rtt_ms != [0.0]:
        said.append(f"RTT {', '.join(f'{each:g}' for each in grid.rtt_ms)} ms")
    if grid.tls != [False]:
        said.append(" and ".join("TLS" if each else "plain" for each in grid.tls))
    if grid.think_time_s != [0.0]:
        said.append(f"think time {', '.join(f'{each * 1000:g}' for each in grid.think_time_s)} ms")
    if grid.proxies != [None]:
        said.append(f"proxies: {', '.join(each or 'none' for each in grid.proxies)}")
    if grid.servers != ["locklane"]:
        said.append(f"servers: {', '.join(grid.servers)}")
    return "; ".join(said)


def measured(results: Results, summary: Summary) -> list[str]:
    """How it was measured, one point each."""
    asked = results.settings
    conditions = {each.condition for each in summary.figures}
    said = [
        "The unit is one dropped file: take the lock, have it confirmed as far as the transport "
        "can, delete, unlock, be done.",
        "The rounds are interleaved: each round runs every transport, one after the other, so "
        "that a slow minute hurts all alike. Figures are medians over rounds, with the least and "
        "the greatest round.",
        "Without a distance, connections, times, processor, memory and descriptors come from runs "
        "in which the client spoke to the server (or to the proxy before it) directly. Bytes come "
        "from runs through a relay that counts them. Bytes are TCP payload, HTTP, websocket and "
        "TLS framing included.",
    ]
    if any(each.rtt_ms for each in conditions):
        said.append(
            "The distance is made by the relay, which holds back what passes for half a round trip "
            "each way, and the first bytes of a new connection for one more, as the TCP handshake "
            "with a far server would; so over a distance all figures come from runs through the "
            "relay. There are fewer files the farther it is."
        )
    if any(each.tls for each in conditions):
        said.append(
            "TLS is 1.3, with a certificate made for the purpose; the client takes up earlier "
            "sessions where it can, and full and resumed handshakes are counted."
        )
    said.append(_thinking(conditions))
    said.append(
        "Each client started its next drop when one had ended; latency counts from the start of "
        "the drop."
        if asked.rate is None
        else f"{number(asked.rate)} drops were due per second. Latency counts from when a drop was "
        "due, not from when it could start, so a server that falls behind cannot hide it."
    )
    said += [
        "Requests are HTTP requests, a websocket’s upgrade included. Messages are websocket "
        "messages both ways, without control frames. Round trips are the times that the client "
        "waited for its peer: a TCP handshake, an upgrade, an answer. All these the client counts, "
        "by its own rules.",
        "The clients are Locklane’s own, of asyncio, those that people install. The processor time "
        "of the client includes that of locust, which drives them.",
    ]
    return said


def _thinking(conditions: set[Condition]) -> str:
    times = sorted({each.think_time_s for each in conditions if each.think_time_s})
    if not times:
        return "The client let go as soon as it held the lock (no think time)."
    words = listed([f"{each * 1000:,.6g} ms" for each in times])
    return (
        f"Where a think time is named ({words}), the client waited for so long between lock and "
        "unlock, which is in every latency and bounds the drops per second; elsewhere it let go as "
        "soon as it held the lock."
    )


def reading(summary: Summary) -> list[str]:
    """How to read the report, one point each."""
    conditions = {each.condition for each in summary.figures}
    names = long_names(summary.transports)
    said = [names] if names else []
    many = max((each.concurrency for each in conditions), default=1)
    if many > 1:
        said.append(
            f"“{at_a_time(many).capitalize()}” means that {many:,} clients dropped files at the "
            "same time."
        )
    far = max((each.rtt_ms for each in conditions), default=0)
    if far:
        said.append(
            f"RTT is the round-trip time that was added: “{rtt(far)}” is a server "
            f"{far / 2:g} ms away. RTT 0 is this machine itself."
        )
    said += [
        "1.000 connections per dropped file means a new TCP connection for every file. 0.008 means "
        "8 connections for 1,000 files.",
        "Milliseconds per dropped file are those of the median drop: with 8 at a time, 8 files are "
        "dropped in them.",
        "p50 is the latency that half of the drops did not exceed; p99, all but one in a hundred.",
    ]
    if len(summary.transports) > 1:
        said.append(
            "Two transports tie where neither was faster in every round, the two being compared "
            f"within each round: then these rounds do not tell which is faster. {BEST} stands at "
            "the fastest and at all that tie with it. Near by, the drops per second decide; over a "
            "distance, where fewer files are dropped and the opening of connections would weigh "
            "too much, the median drop."
        )
    said.append(
        f"These figures are of this machine and this load"
        f"{'' if far else ', and of no distance: over a longer line every round trip counts'}. "
        "Repeat the comparison with your own."
    )
    return said
