"""The ``locklane`` command, and ``locklane lock``."""

from __future__ import annotations

import asyncio
import sys
from contextlib import AsyncExitStack
from importlib.metadata import EntryPoint, entry_points, version

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
from locklane_client.errors import LockRefused
from locklane_client.key import Key
from locklane_client.loop import run, use_all_descriptors
from locklane_client.transports import TRANSPORTS


class _Commands(click.Group):
    """Finds its commands among the installed entry points, so that each part of Locklane brings
    its own and none has to import another."""

    def _found(self) -> dict[str, EntryPoint]:
        return {found.name: found for found in entry_points(group="locklane.commands")}

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(self._found())

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        found = self._found().get(cmd_name)
        if found is None:
            return None
        try:
            command: click.Command = found.load()
        except ImportError as error:
            if not isinstance(error, ModuleNotFoundError) and not _is_ours(error):
                raise
            return _unavailable(cmd_name, error)
        return command


def _is_ours(missing: ImportError) -> bool:
    """Whether a module of Locklane itself is missing, which no other package can bring."""
    return (missing.name or "").startswith("locklane_")


def _unavailable(name: str, missing: ImportError) -> click.Command:
    if _is_ours(missing):
        short = "this installation is damaged: install Locklane again"
        sentence = f"{short} ({missing})"
    else:
        advice = "pip install 'locklane[bench]'"
        short = f"needs {missing.name}: {advice}"
        sentence = f"'locklane {name}' needs the package {missing.name}: {advice}"

    @click.command(
        name,
        help=f"({short})",
        context_settings={"ignore_unknown_options": True, "help_option_names": []},
    )
    @click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
    def command(arguments: tuple[str, ...]) -> None:
        raise click.ClickException(sentence)

    return command


@click.group(cls=_Commands)
@click.version_option(version("locklane"), prog_name="locklane")
def main() -> None:
    """A git-annex HTTP server with interchangeable lock transports, clients, and a benchmark.

    "locklane COMMAND --help" tells more and has examples.
    """


@click.command(
    short_help="Hold locks on keys until interrupted.",
    epilog="""\b
Examples:
  Hold one lock, until ctrl-C:
    locklane lock annex+http://localhost:9417/git-annex/UUID SHA256E-s10--ab12.txt
  Hold two over websockets, as user alice, over TLS:
    locklane lock --transport websocket \\
        annex+https://alice:secret@annex.example.org/git-annex/UUID KEY1 KEY2
""",
)
@server_options
@click.argument("keys", nargs=-1, required=True, type=KEY, metavar="KEY...")
@click.option(
    "--transport",
    type=click.Choice(list(TRANSPORTS)),
    default="longpoll",
    show_default=True,
    help="How the locks travel.",
)
def lock(url: str, keys: tuple[Key, ...], transport: str, uuid: str | None, timeout: float) -> None:
    """Hold locks on KEYs in the repository at URL until interrupted.

    While it runs, the server does not let the content of these keys be removed. It prints a line
    when all are held. On ctrl-C or SIGTERM it unlocks and ends with 0. It ends with 1 if a lock is
    refused, or lost while it is held.
    """
    client = make_client(url, uuid, timeout, transport=transport)
    use_all_descriptors()
    with errors_as_sentences():
        run(_hold(client, tuple(dict.fromkeys(keys))))


async def _hold(client: Client, keys: tuple[Key, ...]) -> None:
    interrupted = asyncio.Event()
    everything = anyio.CancelScope()
    acquiring = True

    def interrupt() -> None:
        interrupted.set()
        if acquiring:
            everything.cancel("interrupted")

    on_interrupt(interrupt)
    with everything:
        async with client, AsyncExitStack() as held:
            for key in keys:
                try:
                    await held.enter_async_context(client.lock(key))
                except LockRefused as error:
                    raise LockRefused(f"{key}: {error}") from error
                click.echo(f"locked {key}", err=True)
            acquiring = False
            count, connections = len(keys), client.connections_opened
            click.echo(
                f"holding {count} lock{'s' * (count != 1)} "
                f"over {connections} connection{'s' * (connections != 1)}"
            )
            sys.stdout.flush()
            await interrupted.wait()
    click.echo("interrupted before all were locked" if acquiring else "unlocked")
