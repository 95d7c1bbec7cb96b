"""Peers: git-annex's own server for longpoll, and its own client against each server."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from locklane_bench.report.bars import Bar, Panel, panel_chart
from locklane_bench.report.drawing import Chart
from locklane_bench.report.section import Section, Table, section
from locklane_bench.report.summary import Spread, Summary, spread, tie, times_as_fast
from locklane_bench.report.wording import (
    UNKNOWN,
    Cell,
    at_a_time,
    cell,
    exact,
    listed,
    manner,
    middle,
    number,
    per_file,
    plural,
    rtt,
    sentence,
    shown,
    times_form,
    whole,
)
from locklane_bench.results import AnnexDrop, Condition, Results

P2PHTTP = "p2phttp"
SERVERS = {
    "locklane": "Locklane (a store)",
    "locklane-annex": "Locklane (a git-annex repository)",
    P2PHTTP: "git annex p2phttp",
}
_DROP = "git annex drop"


def peers_section(results: Results, summary: Summary) -> Section | None:
    """Both peers, as far as they were measured."""
    parts = servers_table(summary), drop_table(results)
    if not any(parts) and _DROP not in results.missing:
        return None
    why = results.missing.get(_DROP)
    missing = sentence(f"Not measured: {why}") if why and not results.annex_drops else None
    return section(
        "git-annex itself",
        servers_said(summary),
        parts[0],
        *drop_said(results),
        drop_chart(results),
        parts[1],
        missing,
    )


def server_title(server: str) -> str:
    return SERVERS.get(server, server)


def _alike(summary: Summary) -> dict[tuple[Condition, str], dict[str, Condition]]:
    """Conditions of the peers that differ in the server alone, with the transport."""
    grouped: dict[tuple[Condition, str], dict[str, Condition]] = {}
    for at in summary.conditions("peers"):
        for each in summary.under(at):
            key = replace(at, server=""), each.transport
            grouped.setdefault(key, {})[at.server] = at
    return grouped


def servers_said(summary: Summary) -> str | None:
    """How Locklane stands to git annex p2phttp, where it was measured."""
    said = []
    for (at, name), servers in _alike(summary).items():
        theirs = summary.at(servers[P2PHTTP], name) if P2PHTTP in servers else None
        for server, condition in servers.items():
            ours = summary.at(condition, name)
            if server == P2PHTTP or ours is None or theirs is None:
                continue
            ratio = times_as_fast(ours, theirs)
            if ratio:
                tied = " (a tie)" if tie(ours, theirs) else ""
                said.append(
                    f"{at_a_time(at.concurrency)}, {server_title(server)} was "
                    f"{shown(ratio, times_form)} times as fast{tied}"
                )
    if not said:
        return None
    return sentence(f"With longpoll, against git annex p2phttp: {'; '.join(said)}")


def servers_table(summary: Summary) -> Table | None:
    """The same transport against each server."""
    groups, headings = [], []
    for (at, name), servers in _alike(summary).items():
        theirs = summary.at(servers[P2PHTTP], name) if P2PHTTP in servers else None
        rows = []
        for server, condition in servers.items():
            found = summary.at(condition, name)
            if found is None:
                continue
            ratio = times_as_fast(found, theirs) if theirs else None
            rows.append(
                [
                    Cell(server_title(server)),
                    cell(found.drops_per_s),
                    cell(found.p50_ms),
                    Cell(middle(found.p99_ms)),
                    Cell(middle(found.connections, exact)),
                    Cell(middle(found.requests, per_file)),
                    Cell("1") if found is theirs else cell(ratio, times_form),
                ]
            )
        groups.append(rows)
        setting = replace(at, server="locklane")
        where = f"{name}, {at_a_time(at.concurrency)}, {rtt(at.rtt_ms)}, {manner(setting)}"
        headings.append(where)
    if not groups:
        return None
    return Table(
        "The same client against each server, on copies of one git-annex repository",
        [
            *("Server", "Files per s", "p50 ms", "p99 ms", "Connections per file"),
            *("Requests per file", "Times p2phttp"),
        ],
        groups,
        ["Times p2phttp: how many times as fast, round by round."],
        headings,
    )


def _by_setting(results: Results) -> dict[tuple[int, str], list[AnnexDrop]]:
    grouped: dict[tuple[int, str], list[AnnexDrop]] = {}
    for each in sorted(results.annex_drops, key=lambda each: each.jobs):
        if each.files > 0:
            grouped.setdefault((each.jobs, each.server), []).append(each)
    return grouped


def _of(drops: list[AnnexDrop], value: Callable[[AnnexDrop], float | None]) -> Spread | None:
    return spread(value(each) for each in drops)


def drop_said(results: Results) -> list[str]:
    """The real ``git annex drop`` in sentences."""
    if not results.annex_drops:
        return []
    versions = listed(list(dict.fromkeys(each.git_annex_version for each in results.annex_drops)))
    files = listed([f"{each:,}" for each in sorted({each.files for each in results.annex_drops})])
    said = [
        f"The real git annex drop, version {versions}, dropped {files} files from a clone, with "
        "each server as the remote that it had to lock the content in. The relay counted what it "
        "sent."
    ]
    counted = [each for each in results.annex_drops if each.locks_left is not None]
    if counted:
        taken = sum(each.locks_taken or 0 for each in counted)
        left = sum(each.locks_left or 0 for each in counted)
        kept = "none was left" if left == 0 else f"{left:,} were left, which is a fault,"
        said.append(
            f"Where the server counts its locks, git-annex took {plural(taken, 'lock')} in "
            f"{plural(len(counted), 'run')}; {kept} when it had ended."
        )
    return said


def drop_table(results: Results) -> Table | None:
    """``git annex drop`` against each server."""
    grouped = _by_setting(results)
    jobs = list(dict.fromkeys(number for number, _ in grouped))
    groups = [
        [
            [
                Cell(server_title(server)),
                cell(_of(drops, lambda each: each.seconds)),
                cell(_of(drops, lambda each: each.seconds * 1000 / each.files)),
                cell(_of(drops, lambda each: each.connections), whole),
                cell(_of(drops, lambda each: each.connections / each.files), exact),
                cell(_of(drops, lambda each: each.requests / each.files), exact),
                cell(_of(drops, lambda each: each.bytes_up / each.files), whole),
                cell(_of(drops, lambda each: each.bytes_down / each.files), whole),
                _locks(drops),
            ]
            for (of, server), drops in grouped.items()
            if of == number_of_jobs
        ]
        for number_of_jobs in jobs
    ]
    if not groups:
        return None
    return Table(
        "The real git annex drop",
        [
            *("Server", "Seconds", "ms per file", "Connections", "per file", "Requests per file"),
            *("Bytes up per file", "Bytes down per file", "Locks left"),
        ],
        groups,
        headings=[f"git annex drop -J{each}" for each in jobs],
    )


def _locks(drops: list[AnnexDrop]) -> Cell:
    left = [each.locks_left for each in drops if each.locks_left is not None]
    return Cell(f"{sum(left):,}" if left else UNKNOWN)


def drop_chart(results: Results) -> Chart | None:
    grouped = _by_setting(results)
    servers = list(dict.fromkeys(server for _, server in grouped))
    panels = []
    for jobs in dict.fromkeys(number_of for number_of, _ in grouped):
        bars = []
        for (of, server), drops in grouped.items():
            value = _of(drops, lambda each: each.seconds * 1000 / each.files)
            if of == jobs and value:
                bars.append(Bar(server, value, servers.index(server)))
        panels.append(Panel(f"git annex drop -J{jobs}", bars))
    if not panels:
        return None
    title = "The real git annex drop: ms per dropped file"
    return panel_chart("annex-drop", title, panels, "ms per dropped file (less is better)", number)
