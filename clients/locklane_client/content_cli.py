"""``locklane get``, ``put``, ``checkpresent``, ``remove`` and ``gettimestamp``: a command for each
request of the API that is not about locks."""

from __future__ import annotations

import time
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import click
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from locklane_client.client import Client
from locklane_client.commands import (
    errors_as_sentences,
    make_client,
    on_interrupt,
    server_options,
)
from locklane_client.errors import LocklaneError, RemovalRefused, ServerFailed, TransferIncomplete
from locklane_client.files import PART
from locklane_client.key import Key
from locklane_client.loop import run

BAR_AFTER_SECONDS = 2.0
"""A shorter transfer shows no bar."""


class _Interrupted(LocklaneError):
    pass


class _KeyType(click.ParamType[Key]):
    name = "key"

    def convert(
        self, value: str | Key, param: click.Parameter | None, ctx: click.Context | None
    ) -> Key:
        if isinstance(value, Key):
            return value
        try:
            return Key.parse(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


_KEY = _KeyType()

_stall_option = click.option(
    "--stall-timeout",
    type=click.FloatRange(0, min_open=True),
    default=300.0,
    show_default=True,
    metavar="SECONDS",
    help="How long the transfer may make no progress.",
)
_associated_option = click.option(
    "--associated-file",
    metavar="NAME",
    help="A file in the git repository that has the key; some servers go by it.",
)


@click.command(
    short_help="Download the content of a key.",
    epilog="""\b
Examples:
  Make a file named as the key, here:
    locklane get annex+http://localhost:9417/git-annex/UUID SHA256E-s10--ab12.txt
  Make song.ogg, as user alice, over TLS:
    locklane get annex+https://alice:secret@annex.example.org/git-annex/UUID KEY song.ogg
""",
)
@server_options
@click.argument("key", type=_KEY)
@click.argument("file", required=False, type=click.Path(path_type=Path))
@_associated_option
@_stall_option
def get(
    url: str,
    key: Key,
    file: Path | None,
    uuid: str | None,
    timeout: float,
    associated_file: str | None,
    stall_timeout: float,
) -> None:
    """Download the content of KEY from the repository at URL to FILE, which must not exist.

    What came is in FILE.part until the size and, where the key has one, the hash are right. After
    ctrl-C, or when the connection broke, the same command goes on from there.
    """
    client = make_client(url, uuid, timeout, stall_timeout=stall_timeout)
    destination = file if file is not None else Path(key.file_name)

    async def download() -> None:
        with _bar("downloading") as progress:
            got = await client.get(
                key, destination, progress=progress, associated_file=associated_file
            )
        if not got.verified:
            what = "only the size" if key.size is not None else "nothing"
            click.echo(f"note: there was {what} to verify it by", err=True)

    def kept() -> str:
        part = destination.with_name(destination.name + PART)
        if not part.exists():
            return "nothing was kept"
        return f"{part} has what came; the same command goes on from there"

    try:
        _run(client, download())
    except _Interrupted:
        raise click.ClickException(f"interrupted; {kept()}") from None
    except TransferIncomplete as error:
        raise click.ClickException(f"{error}; {kept()}") from error


@click.command(
    short_help="Upload a file as the content of a key.",
    epilog="""\b
Examples:
  locklane put annex+http://localhost:9417/git-annex/UUID SHA256E-s10--ab12.txt file.txt
  In a git-annex repository, of a file that is there:
    locklane put URL $(git annex lookupkey song.ogg) song.ogg --associated-file song.ogg
""",
)
@server_options
@click.argument("key", type=_KEY)
@click.argument("file", type=click.Path(path_type=Path))
@_associated_option
@_stall_option
def put(
    url: str,
    key: Key,
    file: Path,
    uuid: str | None,
    timeout: float,
    associated_file: str | None,
    stall_timeout: float,
) -> None:
    """Upload FILE to the repository at URL as the content of KEY.

    The server checks that it is. After ctrl-C, or when the connection broke, the same command goes
    on from what the server has kept.
    """
    client = make_client(url, uuid, timeout, stall_timeout=stall_timeout)

    async def upload() -> None:
        with _bar("uploading") as progress:
            stored = await client.put(key, file, progress=progress, associated_file=associated_file)
        if stored.already:
            click.echo(f"the server has {key} already", err=True)

    try:
        _run(client, upload())
    except _Interrupted:
        raise click.ClickException(
            "interrupted; the same command goes on from what the server has kept"
        ) from None


@click.command(
    short_help="Ask whether the content of keys is there.",
    epilog="""\b
Examples:
  Of one key:
    locklane checkpresent annex+http://localhost:9417/git-annex/UUID SHA256E-s10--ab12.txt
  In a git-annex repository, of a file that is there:
    locklane checkpresent URL $(git annex lookupkey song.ogg)
""",
)
@server_options
@click.argument("keys", nargs=-1, required=True, type=_KEY, metavar="KEY...")
def checkpresent(url: str, keys: tuple[Key, ...], uuid: str | None, timeout: float) -> None:
    """Ask the repository at URL whether it has the content of KEYs.

    Prints "present KEY" or "absent KEY" for each. Ends with 0 if all are present, with 1 if not.
    """
    client = make_client(url, uuid, timeout)

    async def ask() -> bool:
        every = True
        for key in keys:
            present = await client.check_present(key)
            every = every and present
            click.echo(f"{'present' if present else 'absent'} {key}")
        return every

    if not _plain_run(client, ask()):
        raise click.exceptions.Exit(1)


@click.command(
    short_help="Remove the content of keys.",
    epilog="""\b
Examples:
  locklane remove annex+http://localhost:9417/git-annex/UUID SHA256E-s10--ab12.txt
  Within a minute from now, by the server's clock, or not at all:
    locklane remove --before $(($(locklane gettimestamp URL) + 60)) URL KEY
""",
)
@server_options
@click.argument("keys", nargs=-1, required=True, type=_KEY, metavar="KEY...")
@click.option(
    "--before",
    type=click.IntRange(0),
    metavar="TIMESTAMP",
    help='Not when the server\'s clock ("locklane gettimestamp") is past this.',
)
def remove(
    url: str, keys: tuple[Key, ...], uuid: str | None, timeout: float, before: int | None
) -> None:
    """Remove the content of KEYs from the repository at URL.

    Nothing is done to make sure that there are other copies: "git annex drop" does that. Prints
    "removed KEY" for each; ends with 1 if the server refuses one, when it has been asked for all.
    """
    client = make_client(url, uuid, timeout)

    async def ask() -> bool:
        every = True
        for key in keys:
            try:
                if before is None:
                    await client.remove(key)
                else:
                    await client.remove_before(key, before)
            except (RemovalRefused, ServerFailed) as error:
                every = False
                click.echo(f"Error: {error}", err=True)
            else:
                click.echo(f"removed {key}")
        return every

    if not _plain_run(client, ask()):
        raise click.exceptions.Exit(1)


@click.command(
    short_help="Print the server's clock.",
    epilog="""\b
Examples:
  locklane gettimestamp annex+http://localhost:9417/git-annex/UUID
  Of a server over TLS, as user alice:
    locklane gettimestamp annex+https://alice:secret@annex.example.org/git-annex/UUID
""",
)
@server_options
def gettimestamp(url: str, uuid: str | None, timeout: float) -> None:
    """Print the clock of the server at URL: whole seconds, for "locklane remove --before"."""
    client = make_client(url, uuid, timeout)

    async def ask() -> None:
        click.echo(await client.timestamp())

    _plain_run(client, ask())


def _plain_run(client: Client, work: Coroutine[Any, Any, Any]) -> Any:
    try:
        return _run(client, work)
    except _Interrupted:
        raise click.ClickException("interrupted") from None


def _run(client: Client, work: Coroutine[Any, Any, Any]) -> Any:
    """Do something with the client, and close it.

    :raises _Interrupted: ctrl-C or SIGTERM ended it.
    :raises TransferIncomplete: as it comes; every other error is a sentence for click.
    """

    async def interruptible() -> Any:
        with anyio.CancelScope() as scope:
            on_interrupt(scope.cancel)
            async with client:
                return await work
        raise _Interrupted("interrupted")

    try:
        return run(interruptible())
    except (_Interrupted, TransferIncomplete):
        raise
    except Exception:
        with errors_as_sentences():
            raise


@contextmanager
def _bar(what: str) -> Iterator[Any]:
    """A progress bar, as a callback for the client."""
    console = Console(stderr=True)
    shown: list[Any] = []
    begin = time.monotonic()
    bar = Progress(
        "{task.description}",
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )

    def progress(done: int, total: int | None) -> None:
        if not shown:
            if not console.is_terminal or time.monotonic() - begin < BAR_AFTER_SECONDS:
                return
            bar.start()
            shown.append(bar.add_task(what, completed=done, total=total))
        bar.update(shown[0], completed=done, total=total)

    try:
        yield progress
    finally:
        if shown:
            bar.stop()
