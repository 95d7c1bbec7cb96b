"""``locklane get``, ``put``, ``checkpresent``, ``remove`` and ``gettimestamp``: a command for each
request of the API that is not about locks."""

from __future__ import annotations

from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import anyio
import click

from locklane_client.client import Client
from locklane_client.commands import (
    KEY,
    errors_as_sentences,
    make_client,
    on_interrupt,
    server_options,
)
from locklane_client.display import Display
from locklane_client.errors import (
    LocklaneError,
    RemovalRefused,
    ServerFailed,
    ServerUnreachable,
    TransferIncomplete,
)
from locklane_client.files import PART
from locklane_client.key import Key
from locklane_client.loop import run


class _Interrupted(LocklaneError):
    pass


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
@click.argument("key", type=KEY)
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
    part = Path(f"{destination}{PART}")

    before = "preparing" if part.exists() else "waiting for the server"

    async def download() -> None:
        with Display(before, "downloading", "verifying") as display:
            got = await client.get(
                key, destination, progress=display.progress, associated_file=associated_file
            )
        display.conclude(f"fetched {key}", got.size)
        if not got.verified:
            what = "only the size" if key.size is not None else "nothing"
            click.echo(f"note: there was {what} to verify it by", err=True)

    def kept() -> str:
        if not part.exists():
            return "nothing was kept; run it again"
        return f"{part} has what came; the same command goes on from there"

    try:
        _run(client, download())
    except _Interrupted:
        raise click.ClickException(f"interrupted; {kept()}") from None
    except TransferIncomplete as error:
        raise click.ClickException(f"{error}; {kept()}") from error
    except ServerUnreachable as error:
        # Nothing came this time, but before that something may have.
        raise click.ClickException(f"{error}; {kept()}" if part.exists() else str(error)) from error


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
@click.argument("key", type=KEY)
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

    display = Display("waiting for the server", "uploading", "waiting for the server")

    async def upload() -> None:
        with display:
            stored = await client.put(
                key, file, progress=display.progress, associated_file=associated_file
            )
        if stored.already:
            click.echo(f"the server has {key} already", err=True)
        else:
            display.conclude(f"stored {key}", display.size)

    kept = "the same command goes on from what the server has kept"
    try:
        _run(client, upload())
    except _Interrupted:
        raise click.ClickException(f"interrupted; {kept}") from None
    except ServerUnreachable as error:
        raise click.ClickException(f"{error}; {kept}" if display.moved else str(error)) from error


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
@click.argument("keys", nargs=-1, required=True, type=KEY, metavar="KEY...")
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
@click.argument("keys", nargs=-1, required=True, type=KEY, metavar="KEY...")
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
    except ServerUnreachable as error:
        raise click.ClickException(str(error)) from error


def _run(client: Client, work: Coroutine[Any, Any, Any]) -> Any:
    """Do something with the client, and close it.

    :raises _Interrupted: ctrl-C or SIGTERM ended it.
    :raises TransferIncomplete, ServerUnreachable: as they come; every other error is a sentence for
        click.
    """

    async def interruptible() -> Any:
        with anyio.CancelScope() as scope:
            on_interrupt(scope.cancel)
            async with client:
                return await work
        raise _Interrupted("interrupted")

    try:
        return run(interruptible())
    except (_Interrupted, TransferIncomplete, ServerUnreachable):
        raise
    except Exception:
        with errors_as_sentences():
            raise
