"""Do the counts agree? Connections and TLS handshakes as each side counted them."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from locklane_bench.report.section import Points, Section, Table, section
from locklane_bench.report.summary import BARE, Summary
from locklane_bench.report.wording import UNKNOWN, Cell, exact, plural
from locklane_bench.results import Results, Run


def counts_section(results: Results, summary: Summary) -> Section | None:
    return section(
        "Do the counts agree?",
        agreement(results),
        Points(results.disagreements) if results.disagreements else None,
        counts_table(results, summary),
        handshakes_table(results, summary),
    )


def agreement(results: Results) -> str:
    """One sentence on the counts; the disagreements themselves are listed beside it."""
    runs = len(results.runs)
    if not runs:
        return "There are no runs."
    found = [agrees(run) for run in results.runs]
    checked, differing = len([each for each in found if each is not None]), found.count(False)
    alone = runs - checked
    rest = f" In {plural(alone, 'run')} only the client could count." if alone else ""
    if results.disagreements:
        return f"{plural(len(results.disagreements), 'run')} of {runs:,} disagree:{rest}"
    if differing:
        return (
            f"The comparison named no disagreement, yet the counts of {plural(differing, 'run')} "
            f"of {runs:,} are not equal: see the last column.{rest}"
        )
    if not checked:
        return (
            f"Nothing to hold against each other: in all {runs:,} runs only the client could count."
        )
    if alone:
        return f"All {plural(checked, 'run')} with more than one count agree.{rest}"
    return f"All {plural(runs, 'run')} agree." if runs > 1 else "The one run agrees."


def agrees(run: Run) -> bool | None:
    """Whether all counts of a run are equal; None where there is nothing to hold against each
    other."""
    connections, handshakes = run.counted_connections(), run.counted_handshakes()
    if len(connections) < 2 and len(handshakes) < 2:
        return None
    return len(set(connections.values())) == 1 and len(set(handshakes.values())) == 1


def _through(run: Run) -> str:
    by = "relay" if run.via == "relay" else "direct"
    if run.condition.server not in ("locklane", "external", BARE):
        by += f", {run.condition.server}"
    if run.condition.proxy is not None:
        by += ", a proxy"
    return by


def counts_table(results: Results, summary: Summary) -> Table | None:
    """Connections by client, server, relay and kernel, all conditions and rounds added up."""
    rows = []
    for (name, tls, through), runs in _grouped(results.runs, summary).items():
        checked = [each for each in map(agrees, runs) if each is not None]
        rows.append(
            [
                Cell(name),
                Cell("TLS" if tls else "plain"),
                Cell(through),
                Cell(f"{sum(run.files for run in runs):,}"),
                _sum(runs, lambda run: run.client.connections),
                _sum(runs, lambda run: run.server_connections),
                _sum(runs, lambda run: run.relay.connections if run.relay else None),
                _sum(runs, lambda run: run.kernel_connections),
                Cell(f"{sum(checked):,} of {len(checked):,}" if checked else UNKNOWN),
            ]
        )
    if not rows:
        return None
    head = ["Transport", "TLS", "Through", "Files", "Client", "Server", "Relay", "Kernel"]
    return Table(
        "TCP connections as each side counted them, all conditions and rounds added up",
        [*head, "Runs that agree"],
        [rows],
        [
            "The kernel counts for the network namespace that the comparison had to itself. Behind "
            "a proxy, server and kernel also see the proxy’s own connections: their counts are "
            "shown, but not held against the client’s."
        ],
    )


def handshakes_table(results: Results, summary: Summary) -> Table | None:
    """Full and resumed TLS handshakes by client and server."""
    secure = [run for run in results.runs if run.condition.tls and run.condition.proxy is None]
    rows = []
    for (name, _, through), runs in _grouped(secure, summary).items():
        files = sum(run.files for run in runs)
        full = sum(run.client.tls_full for run in runs)
        rows.append(
            [
                Cell(name),
                Cell(through),
                Cell(f"{files:,}"),
                _sum(runs, lambda run: run.client.tls_full),
                _sum(runs, lambda run: run.server_tls_full),
                _sum(runs, lambda run: run.client.tls_resumed),
                _sum(runs, lambda run: run.server_tls_resumed),
                Cell(exact(full / files) if files else UNKNOWN),
            ]
        )
    if not rows:
        return None
    return Table(
        "TLS handshakes as client and server counted them, all conditions and rounds added up",
        [
            *("Transport", "Through", "Files", "Full: client", "Full: server"),
            *("Resumed: client", "Resumed: server", "Full per file"),
        ],
        [rows],
    )


def _grouped(runs: Iterable[Run], summary: Summary) -> dict[tuple[str, bool, str], list[Run]]:
    place = {name: number for number, name in enumerate(summary.transports)}
    groups: dict[tuple[str, bool, str], list[Run]] = {}
    for run in runs:
        bare = run.condition.server == BARE
        name = f"{run.transport} (ceiling)" if bare else run.transport
        groups.setdefault((name, run.condition.tls, _through(run)), []).append(run)
    last = len(place)
    order = sorted(groups, key=lambda key: (key[1], place.get(key[0], last), key[0], key[2]))
    return {key: groups[key] for key in order}


def _sum(runs: list[Run], count: Callable[[Run], int | None]) -> Cell:
    """The sum, unknown where one of them could not be observed: a part is not the whole."""
    values = [count(run) for run in runs]
    known = [value for value in values if value is not None]
    return Cell(f"{sum(known):,}" if len(known) == len(values) else UNKNOWN)
