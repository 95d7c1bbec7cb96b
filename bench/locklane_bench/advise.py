"""``locklane advise``: which lock transport to take, out of a results file."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import click
from rich import box
from rich.console import Console
from rich.table import Table

from locklane_bench.model import Prediction, predict
from locklane_bench.results import GIT_ANNEX_TRANSPORT, ProxyCheck, Results, read

REFERENCE = Path(__file__).parents[2] / "reports" / "reference"
"""The report that comes with the repository; an installed package has none."""


@dataclass(frozen=True, slots=True)
class Advice:
    """The ranking, and what there is to say about it."""

    ranking: list[Prediction]
    """The fastest first."""
    ties: list[list[str]]
    """Neighbours in the ranking whose ranges overlap: the runs do not tell them apart."""
    left_out: dict[str, str]
    """Why a transport is not in the ranking, though it was measured."""
    notes: list[str]
    """Whole sentences."""


def advice_from(
    results: Results,
    *,
    rtt_ms: float,
    files: int,
    concurrency: int,
    tls: bool,
    behind: str | None = None,
) -> Advice:
    """Rank the transports; the parameters as for :func:`~locklane_bench.model.predict`.

    :param behind: leave out what does not work behind this reverse proxy.
    :raises ValueError: the results do not say; a sentence that says what to do.
    """
    ranking = predict(results, rtt_ms=rtt_ms, files=files, concurrency=concurrency, tls=tls)
    known = {each.transport for each in ranking}
    left_out = {
        name: "the results do not say: it has no runs to go by"
        for name in results.settings.transports
        if name not in known
    }
    notes = []
    if behind is not None:
        checks = _checks(results, behind)
        for check in checks.values():
            broken = _broken(check)
            if broken:
                left_out[check.transport] = broken
            elif check.transport in known and check.idle_survives is False:
                notes.append(
                    f"Behind {behind}, a hold of {check.transport} that was left alone for "
                    f"{check.idle_s or 0:g} s was cut."
                )
        ranking = [each for each in ranking if each.transport not in left_out]
        untried = [each.transport for each in ranking if each.transport not in checks]
        if untried:
            notes.append(f"Not tried behind {behind}: {', '.join(untried)}.")
        notes.append("The times are those without a proxy, which adds its own.")
    measured = [each.transport for each in ranking if each.measured]
    if not ranking:
        notes.append(f"No transport that was measured works behind {behind}.")
    elif len(measured) == len(ranking):
        notes.append("All of this was measured, and only the number of files worked out.")
    elif measured:
        notes.append(f"Measured: {', '.join(measured)}. The others are predictions of the model.")
    else:
        notes.append("None of this was measured: all are predictions of the model.")
    if any(each.transport != GIT_ANNEX_TRANSPORT for each in ranking):
        notes.append(f"git-annex's own client speaks {GIT_ANNEX_TRANSPORT} only.")
    ties = list(_ties(ranking))
    for *others, last in ties:
        notes.append(f"{', '.join(others)} and {last} tie: their ranges overlap.")
    return Advice(ranking, ties, left_out, notes)


def _checks(results: Results, behind: str) -> dict[str, ProxyCheck]:
    found = {each.transport: each for each in results.proxies if each.proxy == behind}
    if not found:
        tried = ", ".join(dict.fromkeys(each.proxy for each in results.proxies))
        raise ValueError(
            f"nothing was tried behind {behind!r}; "
            + (f"the results have {tried}" if tried else "the results have no proxy at all")
            + ": 'locklane compare --preset full' tries those that are installed"
        )
    return found


def _broken(check: ProxyCheck) -> str | None:
    """Why a transport cannot be recommended behind a proxy."""
    if not check.drops:
        return f"behind {check.proxy} no file could be dropped with it"
    if not check.hold_arrives:
        told = "" if check.client_told else ", and the client is not told"
        return f"behind {check.proxy} its hold never reaches the server{told}"
    return None


def _ties(ranking: Sequence[Prediction]) -> Iterator[list[str]]:
    """Neighbours in the ranking of which each overlaps one before it."""
    group: list[Prediction] = []
    for each in ranking:
        if group and each.low_s > max(member.high_s for member in group):
            if len(group) > 1:
                yield [member.transport for member in group]
            group = []
        group.append(each)
    if len(group) > 1:
        yield [member.transport for member in group]


# -- for people ------------------------------------------------------------------------------------


def duration(seconds: float) -> str:
    """Seconds as a person says them: 0.41 s, 41 s, 4 min 10 s, 2 h 13 min, 3 d 4 h."""
    if seconds < 9.95:
        return f"{seconds:.2g} s" if seconds < 0.995 else f"{seconds:.1f} s"
    whole = round(seconds)
    for unit, size, part, part_size in (
        ("d", 86400, "h", 3600),
        ("h", 3600, "min", 60),
        ("min", 60, "s", 1),
    ):
        # Rounded to the smaller unit before it is divided: never 1 h 60 min.
        parts = math.floor(seconds / part_size + 0.5)
        big, small = divmod(parts, size // part_size)
        if big:
            return f"{big:,} {unit} {small} {part}" if small else f"{big:,} {unit}"
    return f"{whole} s"


def _table(advice: Advice) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("", justify="right")
    table.add_column("Transport", no_wrap=True)
    table.add_column("Time", no_wrap=True)
    table.add_column("From – to")
    table.add_column("Connections", justify="right")
    table.add_column("Why", overflow="fold")
    for place, each in enumerate(advice.ranking, 1):
        low, high = duration(each.low_s), duration(each.high_s)
        table.add_row(
            str(place),
            each.transport,
            duration(each.seconds),
            "" if low == high else f"{low} – {high}",
            f"{each.connections:,.0f}",
            f"{'measured' if each.measured else 'predicted'}: {each.why}",
        )
    return table


def _question(asked: dict[str, object]) -> str:
    tls = "with TLS" if asked["tls"] else "without TLS"
    behind = f", behind {asked['behind']}" if asked["behind"] else ""
    return (
        f"Dropping {asked['files']:,} files, {asked['concurrency']:,} at a time, over a round trip "
        f"of {asked['rtt_ms']:g} ms, {tls}{behind}:"
    )


# -- the results -----------------------------------------------------------------------------------


def read_or_say(path: Path) -> Results:
    """Read a results file or a report's directory.

    :raises click.ClickException: it is none; a sentence.
    """
    try:
        return read(path)
    except OSError as error:
        raise click.ClickException(
            f"cannot read {path}: {error.strerror}. Give a results.json or the directory of a "
            "report; 'locklane compare' makes one"
        ) from error
    except ValueError as error:
        raise click.ClickException(
            f"{path} is of no use here: {error}. 'locklane compare' makes a new one"
        ) from error


def newest(reports: Path) -> Iterator[tuple[Path, Results]]:
    """The comparisons below a directory of reports, the newest first, and at last a reference
    report.

    :raises click.ClickException: there is none.
    """

    def age(path: Path) -> tuple[bool, float]:
        return path.parent.name == REFERENCE.name, -path.stat().st_mtime

    found = False
    for path in [*sorted(reports.glob("*/results.json"), key=age), REFERENCE / "results.json"]:
        try:
            results = read(path)
        except (OSError, ValueError):
            continue  # the results of something else, or of an older Locklane
        found = True
        yield path, results
    if not found:
        raise click.ClickException(
            "there are no results to go by: run 'locklane compare --preset quick', or give a "
            "results file or the directory of a report"
        )


@click.command(
    short_help="Say which lock transport to take.",
    epilog="""\b
Examples:
  100,000 files over a line of 80 ms, with TLS, as "git annex drop -J4" would:
    locklane advise --rtt 80 --tls --files 100000 --concurrency 4
  The same behind nginx as it comes, out of a report of your own:
    locklane advise --rtt 80 --tls --behind nginx reports/mine
  For a program:
    locklane advise --rtt 20 --json
""",
)
@click.option(
    "--rtt",
    type=click.FloatRange(0, 10_000),
    default=0.0,
    show_default=True,
    metavar="MS",
    help="Round-trip time to the server, as ping tells it.",
)
@click.option("--tls/--no-tls", default=False, help="Whether TLS is spoken. [default: it is not]")
@click.option(
    "--files",
    type=click.IntRange(1, 1_000_000_000),
    default=1000,
    show_default=True,
    metavar="N",
    help="Files to drop.",
)
@click.option(
    "--concurrency",
    type=click.IntRange(1, 10_000),
    default=1,
    show_default=True,
    metavar="N",
    help="How many files are dropped at a time.",
)
@click.option(
    "--behind",
    metavar="PROXY",
    help="Leave out what does not work behind this reverse proxy, as it was tried: caddy, "
    "caddy-recommended, nginx, nginx-recommended.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.argument("results", required=False, type=click.Path(path_type=Path))
def advise(
    rtt: float,
    tls: bool,
    files: int,
    concurrency: int,
    behind: str | None,
    as_json: bool,
    results: Path | None,
) -> None:
    """Rank the lock transports for your files and your network, with the time that each takes.

    RESULTS is a results.json or the directory of a report. [default: the newest comparison below
    reports/ that can tell, or else the reference report]

    Where your conditions were measured, that is what counts; else a model of the runs, which says
    so.
    """
    if not math.isfinite(rtt):
        raise click.BadParameter("give a number of milliseconds", param_hint="--rtt")
    asked: dict[str, object] = {
        "rtt_ms": rtt,
        "tls": tls,
        "files": files,
        "concurrency": concurrency,
        "behind": behind,
    }
    candidates = (
        newest(Path("reports")) if results is None else iter([(results, read_or_say(results))])
    )
    failed: click.ClickException | None = None
    for path, measured in candidates:
        try:
            advice = advice_from(
                measured, rtt_ms=rtt, tls=tls, files=files, concurrency=concurrency, behind=behind
            )
            break
        except ValueError as error:
            failed = failed or click.ClickException(f"{path}: {error}")
    else:
        assert failed is not None
        raise failed
    if as_json:
        source = {"results": str(path), "started": measured.started}
        click.echo(json.dumps({"asked": asked, **source, **asdict(advice)}, indent=1))
        return
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    console.print(_question(asked), soft_wrap=True, markup=False)
    if advice.ranking:
        console.print(_table(advice))
    out = [f"Left out: {name}: {why}." for name, why in advice.left_out.items()]
    for sentence in [*advice.notes, *out, f"Out of {path}, measured {measured.started}."]:
        console.print(sentence, soft_wrap=True, markup=False)
