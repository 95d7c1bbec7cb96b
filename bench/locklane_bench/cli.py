"""``locklane compare``."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterable
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path

import click
from click.core import ParameterSource
from rich.console import Console

from locklane_bench import namespace
from locklane_bench.children import ChildError
from locklane_bench.compare import compare as make_comparison
from locklane_bench.keys import KeysError, Source, from_repository, made
from locklane_bench.peer import command as peers
from locklane_bench.peer.figures import GROUPS
from locklane_bench.peer.results import PeerSettings
from locklane_bench.progress import progress_bar
from locklane_bench.results import Results, Settings
from locklane_client.address import Address
from locklane_client.options import Names
from locklane_client.transports import TRANSPORTS


def _concurrency(_: click.Context, __: click.Parameter, value: str) -> list[int]:
    try:
        numbers = [int(number) for number in value.split(",")]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) < 1 or max(numbers) > 10_000:
        raise click.BadParameter("write whole numbers from 1 to 10000, for example 1,8")
    return list(dict.fromkeys(numbers))


@click.command(
    short_help="Price the lock transports per dropped file.",
    epilog="""\b
Examples:
  The comparison of this machine with itself, as "make compare" does it:
    locklane compare
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
    "--transports",
    default=",".join(TRANSPORTS),
    show_default=True,
    type=Names(TRANSPORTS, "transport"),
    metavar="NAME,…",
    help="Lock transports to compare.",
)
@click.option(
    "--files",
    type=click.IntRange(1, 1_000_000),
    default=1000,
    show_default=True,
    metavar="N",
    help="Files to drop in each run.",
)
@click.option(
    "--concurrency",
    default="1,8",
    show_default=True,
    callback=_concurrency,
    metavar="N,…",
    help="How many files to drop at a time, one run for each number.",
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
    "--think-time",
    type=click.FloatRange(0, 3600),
    default=0.0,
    show_default=True,
    metavar="SECONDS",
    help="How long each lock is held, as if the client were deleting.",
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
    transports: list[str],
    files: int,
    concurrency: list[int],
    rounds: int,
    think_time: float,
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
    """Drop files over each lock transport, in interleaved rounds, and report what each costs.

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
        asked = PeerSettings(
            peer=peer,
            rounds=rounds,
            files=files,
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
    sources, origin = _sources(keys_from, files)
    settings = Settings(
        transports=transports,
        files=files,
        concurrency=concurrency,
        rounds=rounds,
        think_time_s=think_time,
        rate=rate,
        url=str(address) if address else None,
        keys_from=origin,
        repository=keys_from.resolve().name if keys_from else None,
    )
    directory = _report_directory(report)
    try:
        results = _measure(settings, sources, address, console)
    except ChildError as error:
        raise click.ClickException(str(error)) from error
    _show(results, directory, console)
    failures = sum(run.failures for run in results.runs)
    if failures:
        raise click.ClickException(f"{failures} drops failed, for example: {results.failure}")


PEERLESS = ("transports", "concurrency", "think_time", "rate", "url", "uuid", "keys_from")
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
    for package in ("locust", "matplotlib", "jinja2", "httptools"):
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
