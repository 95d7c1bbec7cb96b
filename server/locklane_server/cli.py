"""``locklane serve``."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from contextlib import AsyncExitStack
from pathlib import Path

import click
from aiohttp import web

from locklane_client.address import join_host_port, split_host_port
from locklane_client.loop import run, use_all_descriptors
from locklane_client.options import Names
from locklane_client.wire import DEFAULT_PORT, bracket
from locklane_server import metrics
from locklane_server.locks import DEFAULT_LIMIT
from locklane_server.repository import RepositoryError
from locklane_server.repository.directory import DirectoryRepository
from locklane_server.served import ServedRepository
from locklane_server.server import Server
from locklane_server.transports import TRANSPORTS


def _address(_: click.Context, __: click.Parameter, value: str | None) -> tuple[str, int] | None:
    if value is None:
        return None
    try:
        return split_host_port(value)
    except ValueError as error:
        raise click.BadParameter("write HOST:PORT, for example 127.0.0.1:9418") from error


@click.command(
    short_help="Serve keys over git-annex's HTTP API.",
    epilog="""\b
Examples:
  Serve a store in ./store, which is made if it is not there, to this machine:
    locklane serve --store ./store --wideopen
  The same to everybody on the network, long poll only, with metrics:
    locklane serve --store ./store --wideopen --bind 0.0.0.0 \\
        --transports longpoll --metrics 127.0.0.1:9418
  The directory of a git-annex special remote, under that remote's UUID:
    locklane serve --store /mnt/disk/annex --uuid UUID --wideopen
  How git-annex is told of it: see README, "Serve".
""",
)
@click.option(
    "--store",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    metavar="DIR",
    help="Serve the store in this directory: an empty or new one, one served before, or that of a "
    "git-annex directory special remote, which then must not be used past the server: it knows "
    "nothing of locks.",
)
@click.option(
    "--uuid",
    help="UUID of a store that has not been served before. For the directory of a special remote "
    "it has to be that remote's. [default: a random one, if the store is empty]",
)
@click.option(
    "--wideopen", is_flag=True, help="Let everybody who can reach the port read, lock and remove."
)
@click.option(
    "--transports",
    default=",".join(TRANSPORTS),
    show_default=True,
    type=Names(TRANSPORTS, "transport"),
    metavar="NAME,…",
    help="Lock transports to offer.",
)
@click.option("--bind", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=DEFAULT_PORT,
    show_default=True,
    help="Port to listen on; 0 takes a free one.",
)
@click.option(
    "--lockedfiles",
    type=click.IntRange(1),
    default=DEFAULT_LIMIT,
    show_default=True,
    metavar="N",
    help="Locks that may be held at once.",
)
@click.option(
    "--metrics",
    "metrics_address",
    callback=_address,
    metavar="HOST:PORT",
    help="Serve Prometheus metrics at http://HOST:PORT/metrics. [default: off]",
)
def serve(
    store: Path,
    uuid: str | None,
    wideopen: bool,
    transports: list[str],
    bind: str,
    port: int,
    lockedfiles: int,
    metrics_address: tuple[str, int] | None,
) -> None:
    """Serve keys over git-annex's HTTP API, in the place of "git annex p2phttp".

    Prints the address that clients use, then serves until it is interrupted. Locks survive the
    server: whoever starts it again on the same store finds them, until their ten minutes are over.
    """
    if not wideopen:
        raise click.UsageError(
            "who may use the server? --wideopen lets everybody who can reach its port read, lock "
            "and remove; it is the only answer that this version knows, so keep the port private."
        )
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s")
    use_all_descriptors()
    try:
        repository = DirectoryRepository.open(store, uuid=uuid)
    except RepositoryError as error:
        raise click.ClickException(str(error)) from error
    server = Server(
        [ServedRepository(repository, limit=lockedfiles)],
        transports=transports,
        host=bind,
        port=port,
    )
    try:
        run(_serve(server, metrics_address))
    except OSError as error:
        raise click.ClickException(
            f"cannot listen on {bind} port {port}: {error.strerror or error}; choose another with "
            "--bind or --port"
        ) from error
    except RepositoryError as error:
        raise click.ClickException(str(error)) from error


async def _serve(server: Server, metrics_address: tuple[str, int] | None) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(server)
        if metrics_address is not None:
            runner = metrics.runner(server)
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            await web.TCPSite(runner, *metrics_address).start()
            host, port = runner.addresses[0][:2]
            click.echo(f"metrics at http://{join_host_port(host, port)}/metrics")
        for served in server.repositories:
            base = f"annex+http://{join_host_port(server.host, server.port)}/git-annex/"
            click.echo(f"serving {base}{bracket(served.uuid)}")
        sys.stdout.flush()
        await stop.wait()
