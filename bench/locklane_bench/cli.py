"""``locklane compare``."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path

import click
from click.core import ParameterSource
from rich.console import Console

from locklane_bench import namespace, plan
from locklane_bench.children import ChildError
from locklane_bench.compare import compare as make_comparison
from locklane_bench.keys import KeysError, Source, from_repository, made
from locklane_bench.peer import command as peers
from locklane_bench.peer.figures import GROUPS
from locklane_bench.peer.results import PeerSettings
from locklane_bench.progress import progress_bar
from locklane_bench.proxies import PROXIES
from locklane_bench.results import Grid, Results, Settings
from locklane_client.address import Address
from locklane_client.options import Names, Numbers
from locklane_client.transports import TRANSPORTS


@click.command(
    short_help="Price the lock transports per dropped file.",
    epilog="""\b
Examples:
  The comparison of this machine with itself, in 3 minutes, as "make compare" does it:
    locklane compare
  Everything, in 40 minutes:
    locklane compare --preset full
  For one's own conditions, 80 ms away over TLS:
    locklane compare --rtt 0,40,80 --tls yes --concurrency 1,4 --files 200
  Behind nginx as it comes, and as README recommends:
    locklane compare --proxy none,nginx,nginx-recommended
  With the keys of a git-annex repository, up to 16 at a time:
    locklane compare --keys-from ~/annex --files 2000 --concurrency 1,8,16
  Another server (say "git annex p2phttp -J2 --wideopen") that has these keys:
    locklane compare --transports longpoll --keys-from ~/annex \\
        --url annex+http://annex.example.org:9417/git-annex/UUID
  Locklane and "git annex p2phttp" side by side, on one git-annex repository:
    locklane compare --peer git-annex
""",
)
@click.option(
    "--preset",
    type=click.Choice(plan.PRESETS),
    help="Conditions that go together: quick takes 3 minutes; full takes 40, and has more of them, "
    "with TLS, reverse proxies, think time, up to 10,000 files, git-annex's own server and client, "
    "and 10,000 idle holds. [default: quick, if no condition is given]",
)
@click.option(
    "--transports",
    default=",".join(TRANSPORTS),
    show_default=True,
    type=Names(TRANSPORTS, "transport"),
    metavar="NAME,…",
    help="Lock transports to compare.",
)
@click.option(
    "--files",
    default="1000",
    show_default=True,
    type=Numbers(1, 1_000_000, whole=True, example="10,100"),
    metavar="N,…",
    help="Files to drop in each run. One run for each number, as with the next five.",
)
@click.option(
    "--concurrency",
    default="1,8",
    show_default=True,
    type=Numbers(1, 10_000, whole=True, example="1,8"),
    metavar="N,…",
    help="How many files to drop at a time.",
)
@click.option(
    "--rtt",
    default="0",
    show_default=True,
    type=Numbers(0, 10_000, whole=False, example="0,20,100"),
    metavar="MS,…",
    help="Round-trip times that the relay adds, in milliseconds.",
)
@click.option(
    "--tls",
    default="no",
    show_default=True,
    type=Names(("no", "yes"), "answer"),
    metavar="no,yes",
    help="Without and with TLS 1.3.",
)
@click.option(
    "--proxy",
    default="none",
    show_default=True,
    type=Names(("none", *PROXIES), "proxy"),
    metavar="NAME,…",
    help=f"Behind reverse proxies: none, {', '.join(PROXIES)}.",
)
@click.option(
    "--think-time",
    default="0",
    show_default=True,
    type=Numbers(0, 3600, whole=False, example="0,0.05"),
    metavar="SECONDS,…",
    help="How long each lock is held, as if the client were deleting.",
)
@click.option(
    "--rounds",
    type=click.IntRange(1, 1000),
    default=5,
    show_default=True,
    metavar="N",
    help="Interleaved rounds; figures are medians over them.",
)
@click.option(
    "--idle-holds",
    type=click.IntRange(0, 100_000),
    metavar="N",
    help="Also hold so many locks at once on each transport, and see what they take. [default: "
    "1,000 with --preset quick, 10,000 with full, else none]",
)
@click.option(
    "--rate",
    type=click.FloatRange(0, min_open=True),
    metavar="DROPS",
    help="Drops due per second; latency then counts from when a drop was due. [default: each user "
    "drops the next file when it is done with the last]",
)
@click.option(
    "--url",
    help="Measure the server at this address, which has to have the keys. [default: a server is "
    "started for the purpose]",
)
@click.option("--uuid", help="UUID of the repository, where URL does not end in it.")
@click.option(
    "--keys-from",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="REPO",
    help="Drop the keys whose content is in this git-annex repository, which is only read. "
    "[default: keys made for the purpose]",
)
@click.option(
    "--peer",
    type=click.Choice(peers.PEERS),
    help="Compare servers instead of transports: Locklane and git-annex's own, side by side. Of "
    "the other options, --files, --rounds, --report and the next three go with it.",
)
@click.option(
    "--size",
    type=peers.Size(),
    default="1GiB",
    show_default=True,
    metavar="SIZE",
    help="With --peer: the size of the large file.",
)
@click.option(
    "--only",
    type=Names(GROUPS, "figure"),
    default=",".join(GROUPS),
    show_default=True,
    metavar="NAME,…",
    help="With --peer: what to measure.",
)
@click.option(
    "--work",
    type=click.Path(exists=True, file_okay=False, writable=True, path_type=Path),
    metavar="DIR",
    help="With --peer: make the repositories below this directory, which decides on the disk that "
    "is measured. [default: where temporary files go]",
)
@click.option(
    "--report",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Where to write the report. [default: a new directory below reports/]",
)
@click.pass_context
def compare(
    context: click.Context,
    preset: str | None,
    transports: list[str],
    files: list[int],
    concurrency: list[int],
    rtt: list[float],
    tls: list[str],
    proxy: list[str],
    think_time: list[float],
    rounds: int,
    idle_holds: int | None,
    rate: float | None,
    url: str | None,
    uuid: str | None,
    keys_from: Path | None,
    peer: str | None,
    size: int,
    only: list[str],
    work: Path | None,
    report: Path | None,
) -> None:
    """Drop files over each lock transport, in interleaved rounds, and report what each costs under
    each condition.

    The unit is one dropped file: take a lock, have it confirmed, think, unlock. Prints a table of
    the cost per dropped file, and writes report.html, report.md, results.json and results.csv.
    Ends with 1 if a drop failed.

    With --peer, measures two servers side by side: what each makes of lock cycles, checkpresent,
    downloads, an upload and the real "git annex drop".
    """
    _need_packages()
    console = Console(width=None if sys.stdout.isatty() else 100)
    if peer is not None:
        _refuse(context, PEERLESS, "does not go with --peer")
        if len(files) > 1:
            raise click.UsageError("with --peer, --files takes one number")
        asked = PeerSettings(
            peer=peer,
            rounds=rounds,
            files=files[0],
            size=size,
            small_size=peers.SMALL_SIZE,
            only=only,
        )
        directory = _report_directory(report)
        peers.show(peers.measure(asked, work, console), directory, console)
        return
    _refuse(context, ("size", "only", "work"), "goes with --peer")
    address = None
    if url is not None:
        try:
            address = Address.parse(url, uuid)
        except ValueError as error:
            raise click.BadParameter(str(error), param_hint="--url") from error
        if keys_from is None:
            raise click.UsageError(
                "which keys does the server at --url have? Give a git-annex repository that has "
                "the same with --keys-from"
            )
    elif uuid is not None:
        raise click.UsageError("--uuid goes with --url")
    if preset is None and url is None and rate is None:
        preset = None if any(_given(context, name) for name in CONDITIONS) else "quick"
    if preset is not None:
        _refuse(context, CONDITIONS, f"is set by --preset {preset}")
        _refuse(context, ("url", "rate"), "does not go with --preset")
        grids = plan.preset(preset, transports)
    else:
        given = Grid(
            part="matrix",
            transports=transports,
            concurrency=concurrency,
            files=files,
            proxies=[None if each == "none" else each for each in proxy],
            tls=[each == "yes" for each in tls],
            rtt_ms=rtt,
            think_time_s=think_time,
        )
        if address is not None:
            _refuse(context, ("tls", "proxy", "idle_holds"), "does not go with --url")
            given = replace(given, servers=["external"], tls=[address.tls])
        grids = [given]
    transports = plan.usable(grids, transports)
    if not transports:
        raise click.UsageError(
            "longpoll-http2 needs a proxy that speaks HTTP/2 in front: add --proxy caddy-http2"
        )
    most = max(number for grid in grids for number in grid.files)
    sources, origin = _sources(keys_from, most)
    settings = Settings(
        preset=preset,
        transports=transports,
        grids=grids,
        rounds=rounds,
        rate=rate,
        url=str(address) if address else None,
        keys_from=origin,
        repository=keys_from.resolve().name if keys_from else None,
        idle_holds=IDLE_HOLDS.get(preset, 0) if idle_holds is None else idle_holds,
    )
    directory = _report_directory(report)
    try:
        results = _measure(settings, sources, address, console)
    except ChildError as error:
        raise click.ClickException(str(error)) from error
    _show(results, directory, console)
    if not any(run.files for run in results.runs):
        why = [f"{each.transport} behind {each.proxy}: {each.message}" for each in results.proxies]
        raise click.ClickException("; ".join(["nothing could be dropped", *why]))
    # What does not work behind a proxy is a finding.
    failures = sum(run.failures for run in results.runs if run.condition.proxy is None)
    if failures:
        raise click.ClickException(f"{failures} drops failed, for example: {results.failure}")


CONDITIONS = ("files", "concurrency", "rtt", "tls", "proxy", "think_time")
"""Parameters that a preset sets."""

IDLE_HOLDS: dict[str | None, int] = {"quick": 1000, "full": 10_000}
"""By preset."""

PEERLESS = (
    *("preset", "transports", "concurrency", "rtt", "tls", "proxy", "think_time"),
    *("idle_holds", "rate", "url", "uuid", "keys_from"),
)
"""Parameters that mean nothing with ``--peer``."""


def _given(context: click.Context, name: str) -> bool:
    return context.get_parameter_source(name) is not ParameterSource.DEFAULT


def _refuse(context: click.Context, names: Iterable[str], why: str) -> None:
    for name in names:
        if _given(context, name):
            raise click.UsageError(f"--{name.replace('_', '-')} {why}")


def _report_directory(report: Path | None) -> Path:
    """Where to write, having seen that it can be made: it is, when there is something to put."""
    directory = report or Path("reports") / datetime.now().strftime("%Y-%m-%d-%H%M%S")
    new = not directory.exists()
    try:
        directory.mkdir(parents=True, exist_ok=True)
        if new:
            directory.rmdir()
    except OSError as error:
        raise click.BadParameter(f"{directory}: {error.strerror}", param_hint="--report") from error
    return directory


def _need_packages() -> None:
    for package in ("locust", "matplotlib", "jinja2", "trustme", "h2"):
        if find_spec(package) is None:
            raise click.ClickException(
                f"'locklane compare' needs the package {package}: pip install 'locklane[bench]'"
            )


def _sources(keys_from: Path | None, files: int) -> tuple[list[Source], str]:
    if keys_from is None:
        return made(files), "made for the purpose, a few bytes of content each"
    try:
        sources = from_repository(keys_from, files)
    except KeysError as error:
        raise click.BadParameter(str(error), param_hint="--keys-from") from error
    size = sum(source.key.size or 0 for source in sources)
    origin = f"the content of a git-annex repository: {len(sources)} keys, {size} bytes"
    if len(sources) < files:
        origin += f", dropped again from the first until {files} are done"
    return sources, origin


def _measure(
    settings: Settings, sources: list[Source], address: Address | None, console: Console
) -> Results:
    # A server elsewhere could not be reached from a namespace of our own.
    shared = "the server is elsewhere" if address else namespace.enter()
    with (
        tempfile.TemporaryDirectory(prefix="locklane-store-") as store,
        progress_bar(console) as progress,
    ):
        return make_comparison(
            settings, sources, Path(store), progress, address, kernel_is_ours=shared is None
        )


def _show(results: Results, directory: Path, console: Console) -> None:
    # matplotlib takes a second to import, and only this needs it.
    from locklane_bench import report
    from locklane_bench.report.summary import summarise
    from locklane_bench.report.table import terminal_table
    from locklane_bench.report.wording import cautions

    written = report.write(results, directory)
    console.print(terminal_table(results))
    for sentence in [*cautions(results, summarise(results)), *results.disagreements]:
        console.print(f"Caution: {sentence}", style="bold", soft_wrap=True)
    console.print(f"report: {written[0]}", soft_wrap=True)
