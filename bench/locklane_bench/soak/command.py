"""``locklane soak``."""

from __future__ import annotations

import sys
import tempfile
from datetime import datetime
from pathlib import Path

import click
from rich.console import Console

from locklane_bench.children import ChildError
from locklane_bench.gitannex import GitAnnexError
from locklane_bench.progress import progress_bar
from locklane_client.loop import use_all_descriptors


@click.command(
    short_help="Load a server for long, and see whether it is afterwards as it was.",
    epilog="""\b
Examples:
  Ten minutes, as "make soak" does it:
    locklane soak
  A minute, to try it:
    locklane soak --minutes 1 --report soak
""",
)
@click.option(
    "--minutes",
    type=click.FloatRange(0.1, 10_000),
    default=10,
    show_default=True,
    metavar="N",
    help="Of load, the warm-up (a fifth, a minute at the most) included.",
)
@click.option(
    "--work",
    type=click.Path(exists=True, file_okay=False, writable=True, path_type=Path),
    metavar="DIR",
    help="Make the repositories below this directory. [default: where temporary files go]",
)
@click.option(
    "--report",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Where to write the report. [default: a new directory below reports/]",
)
def soak(minutes: float, work: Path | None, report: Path | None) -> None:
    """Put a mixed load on two real servers, one of a git-annex repository and one of a store:
    uploads, downloads, removals, locks over every transport, clients that are cut off, and garbage.

    When all clients are gone, the descriptors and threads of the servers have to be as many as
    after the warm-up, and over the second half of the load their memory has to have stayed where it
    was. Writes report.md, memory.svg and samples.csv. Ends with 1, and a sentence, if not so.
    """
    from locklane_bench.soak.load import SoakError
    from locklane_bench.soak.runner import soak as make_soak

    console = Console(width=None if sys.stdout.isatty() else 100)
    use_all_descriptors()
    directory = report or Path("reports") / datetime.now().strftime("soak-%Y-%m-%d-%H%M%S")
    try:
        with (
            tempfile.TemporaryDirectory(prefix="locklane-soak-", dir=work) as place,
            progress_bar(console) as progress,
        ):
            soaked = make_soak(minutes, Path(place), progress)
    except (ChildError, GitAnnexError, SoakError) as error:
        raise click.ClickException(str(error)) from error
    # matplotlib takes a second to import, and only this needs it.
    from locklane_bench.soak import report as reports

    written = reports.write(soaked, directory)
    for line in reports.summary(soaked):
        console.print(line, soft_wrap=True, markup=False, highlight=False)
    console.print(f"report: {written[0]}", soft_wrap=True)
    if faults := soaked.faults():
        raise click.ClickException("; ".join(faults))
