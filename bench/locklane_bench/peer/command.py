"""What ``locklane compare --peer`` does."""

from __future__ import annotations

import re
import shutil
import tempfile
from pathlib import Path

import click
from rich.console import Console

from locklane_bench import namespace
from locklane_bench.children import ChildError
from locklane_bench.gitannex import GitAnnexError
from locklane_bench.peer.figures import size_words
from locklane_bench.peer.results import PeerResults, PeerSettings
from locklane_bench.peer.runner import SPACE, compare
from locklane_bench.peer.tasks import LoadError
from locklane_bench.progress import progress_bar

PEERS = ("git-annex",)
"""What ``--peer`` takes."""

SMALL_SIZE = 10_000
"""Bytes of each file but the large one."""

_UNITS = {"": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
_SIZE = re.compile(rf"(\d+) ?({'|'.join(_UNITS)})")


class Size(click.ParamType[int]):
    """A number of bytes from 1 on: ``1GiB``, ``64MiB``, ``10000``."""

    name = "size"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        if isinstance(value, int):
            return value
        written = _SIZE.fullmatch(str(value))
        size = int(written[1]) * _UNITS[written[2]] if written else 0
        if size < 1:
            self.fail("write a number of bytes, for example 1GiB, 64MiB or 10000", param, ctx)
        return size


def measure(settings: PeerSettings, work: Path | None, console: Console) -> PeerResults:
    """Make a comparison in a directory that is removed again.

    :param work: where to make that directory; ``None``: where temporary files go.
    :raises click.ClickException: it could not be made; the text says why.
    """
    where = (work or Path(tempfile.gettempdir())).resolve()
    needed = SPACE * settings.size + 8 * settings.files * settings.small_size
    free = shutil.disk_usage(where).free
    if free < needed:
        raise click.ClickException(
            f"{where} has {free >> 20} MiB free, and {needed >> 20} MiB are needed: choose "
            f"another directory with --work, or a smaller file with --size (now "
            f"{size_words(settings.size)})"
        )
    own_network = namespace.enter() is None
    try:
        with (
            tempfile.TemporaryDirectory(prefix="locklane-peer-", dir=where) as directory,
            progress_bar(console) as progress,
        ):
            return compare(settings, Path(directory), progress, own_network=own_network)
    except (ChildError, GitAnnexError, LoadError) as error:
        raise click.ClickException(str(error)) from error


def show(results: PeerResults, directory: Path, console: Console) -> None:
    """Write the report and print its table.

    :raises click.ClickException: a server failed, or left something locked.
    """
    # matplotlib takes a second to import, and only this needs it.
    from locklane_bench.peer import report, wording
    from locklane_bench.peer.figures import limits, lines
    from locklane_bench.peer.tables import terminal_table

    written = report.write(results, directory)
    found = lines(results)
    console.print(terminal_table(found))
    console.print(wording.answer(found)[0], soft_wrap=True)
    for sentence in wording.cautions(results, limits(results)):
        console.print(f"Caution: {sentence}", style="bold", soft_wrap=True)
    console.print(f"report: {written[0]}", soft_wrap=True)
    if results.failures:
        raise click.ClickException(f"a server failed: {results.failures[0]}")
    if any(results.locks_left.values()):
        raise click.ClickException("content locks were left behind; the report says whose")
