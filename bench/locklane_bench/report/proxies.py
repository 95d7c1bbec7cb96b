"""What works behind reverse proxies, and what each costs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from locklane_bench.proxies import PROXIES
from locklane_bench.report.section import Pairs, Section, Table, beside, section
from locklane_bench.report.summary import Figures, Spread, Summary, spread
from locklane_bench.report.wording import (
    UNKNOWN,
    Cell,
    at_a_time,
    cell,
    ended,
    middle,
    rtt,
    times_form,
)
from locklane_bench.results import Condition, ProxyCheck, Results

WORKS, UNSEEN, FAILS = "✓", "!", "✗"
_HTTP2 = "-http2"
"""How a transport's name ends that is another over HTTP/2."""

_WHAT = (
    f"{WORKS} works: files were dropped, and the server said that the lock was live while the "
    f"client held it. {UNSEEN} not held: files were dropped, but the hold never arrives, because "
    "the proxy keeps the request to itself until it is whole. The lock rests on its ten minutes of "
    "retention alone; a client that holds for some seconds may find out. "
    f"{FAILS} does not work: no file could be dropped."
)


def proxies_section(results: Results, summary: Summary) -> Section | None:
    """Works or not, and what each costs."""
    tried = list(dict.fromkeys(each.proxy for each in results.proxies))
    measured = [at.proxy for at in summary.conditions("proxies") if at.proxy is not None]
    found = list(dict.fromkeys([*tried, *measured]))
    known = [(title(name), PROXIES[name].sentence) for name in found if name in PROXIES]
    return section(
        "Behind a reverse proxy",
        _WHAT if results.proxies else None,
        checks_table(results, summary),
        lost_table(results, summary),
        *beside(costs_tables(summary)),
        Pairs("The proxies", known) if known else None,
    )


def title(proxy: str) -> str:
    return PROXIES[proxy].title if proxy in PROXIES else proxy


def works(check: ProxyCheck) -> bool:
    """Nothing is missing but what the transport itself cannot do."""
    return check.drops and check.hold_arrives


def _transports(results: Results, summary: Summary) -> list[str]:
    found = dict.fromkeys(each.transport for each in results.proxies)
    return [name for name in summary.transports if name in found] + [
        name for name in found if name not in summary.transports
    ]


def checks_table(results: Results, summary: Summary) -> Table | None:
    """A row for each proxy, a word or two for each transport."""
    notes: list[str] = []
    return _checked(
        "What works behind which proxy",
        results,
        summary,
        lambda check: _verdict(check, notes),
        notes,
    )


def _verdict(check: ProxyCheck, notes: list[str]) -> Cell:
    said = f": {check.message}" if check.message else ""
    where = f"{title(check.proxy)}, {check.transport}"
    if not check.drops:
        if said:
            notes.append(ended(where + said))
        return Cell(f"{FAILS} does not work")
    if check.hold_arrives:
        return Cell(f"{WORKS} works")
    told = {
        True: "the client finds out if it holds for some seconds",
        False: "the client does not find out",
        None: "whether the client finds out was not tried",
    }[check.client_told]
    if said:
        notes.append(ended(where + said))
    return Cell(f"{UNSEEN} not held: the hold never arrives; {told}")


def lost_table(results: Results, summary: Summary) -> Table | None:
    """What becomes of a hold that the server ends, or that is left alone."""

    def ended(check: ProxyCheck) -> Cell:
        if not works(check):
            return Cell(UNKNOWN)
        said = "told of a loss" if check.loss_told else "not told of a loss"
        if check.idle_survives is not None:
            kept = "survives being" if check.idle_survives else "is cut when"
            left = "" if check.idle_s is None else f" for {check.idle_s:g} s"
            said += f"; {kept} left alone{left}"
        return Cell(said)

    if not any(map(works, results.proxies)):
        return None
    return _checked(
        "What becomes of a hold that the server ends, or that is left alone",
        results,
        summary,
        ended,
        [],
    )


def _checked(
    caption: str,
    results: Results,
    summary: Summary,
    form: Callable[[ProxyCheck], Cell],
    notes: list[str],
) -> Table | None:
    if not results.proxies:
        return None
    names = _transports(results, summary)
    by = {(each.proxy, each.transport): each for each in results.proxies}
    rows = [
        [
            Cell(title(proxy)),
            *(form(check) if (check := by.get((proxy, name))) else Cell(UNKNOWN) for name in names),
        ]
        for proxy in dict.fromkeys(each.proxy for each in results.proxies)
    ]
    return Table(caption, ["Proxy", *names], [rows], notes, words=True)


def costs_tables(summary: Summary) -> list[Table | None]:
    """Latency behind each proxy, and as a multiple of that without one."""
    behind = [at for at in summary.conditions("proxies", "matrix") if at.proxy is not None]
    groups: dict[Condition, list[Condition]] = {}
    for at in behind:
        key = replace(at, proxy=None, part="proxies", tls=False, files=0)
        groups.setdefault(key, []).append(at)
    return [_costs(key, found, summary) for key, found in groups.items()]


def _costs(key: Condition, behind: list[Condition], summary: Summary) -> Table:
    names = [name for name in summary.transports if any(summary.at(at, name) for at in behind)]
    rows = []
    secures = {at.tls for at in behind}
    for tls in sorted(secures):
        row = [Cell(f"No proxy, {'TLS' if tls else 'plain'}")]
        for name in names:
            found = _without(replace(key, tls=tls), name, summary)
            row.append(Cell(middle(found.p50_ms) if found else UNKNOWN))
        if any(each.main != UNKNOWN for each in row[1:]):
            rows.append(row)
    for at in behind:
        row = [Cell(f"{title(at.proxy or '')}, {'TLS' if at.tls else 'plain'}")]
        for name in names:
            found = summary.at(at, name)
            if found is None:
                row.append(Cell(UNKNOWN))
                continue
            shown = cell(found.p50_ms)
            direct = _without(at, name, summary)
            ratio = _ratio(found, direct) if direct else None
            if ratio is not None:
                shown = replace(shown, range=f"{times_form(ratio.median)} times")
            row.append(shown)
        rows.append(row)
    return Table(
        f"Latency of a drop (p50, ms) behind each proxy, "
        f"{at_a_time(key.concurrency)}, {rtt(key.rtt_ms)}",
        ["Proxy", *names],
        [rows],
        [
            "Small: as a multiple of the latency without a proxy, TLS or not alike; a transport "
            "over HTTP/2, of the same over HTTP/1.1."
        ],
    )


def _ratio(found: Figures, direct: Figures) -> Spread | None:
    if not found.p50_ms or not direct.p50_ms or not direct.p50_ms.median:
        return None
    return spread([found.p50_ms.median / direct.p50_ms.median])


def _without(at: Condition, name: str, summary: Summary) -> Figures | None:
    """The same without the proxy: made for the purpose, or found in the matrix."""
    wanted = replace(at, proxy=None, files=0)
    for part in ("proxies", "matrix"):
        for each in summary.conditions("proxies", "matrix"):
            if each.part == part and replace(each, files=0) == replace(wanted, part=part):
                found = summary.at(each, name) or summary.at(each, name.removesuffix(_HTTP2))
                if found:
                    return found
    return None
