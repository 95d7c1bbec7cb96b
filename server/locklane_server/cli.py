"""``locklane serve``."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import ssl
import sys
import tempfile
import uuid
from contextlib import AsyncExitStack
from pathlib import Path

import click
from aiohttp import web

from locklane_client.address import join_host_port, split_host_port
from locklane_client.loop import run, use_all_descriptors
from locklane_client.options import Names
from locklane_client.wire import DEFAULT_PORT, bracket
from locklane_server import descriptors, metrics
from locklane_server.locks import DEFAULT_LIMIT
from locklane_server.repository import RepositoryError
from locklane_server.repository.annex.discovery import AnnexDiscovery
from locklane_server.repository.annex.repository import AnnexRepository
from locklane_server.repository.directory import DirectoryRepository
from locklane_server.served import ServedRepository
from locklane_server.server import ListenError, Server, tls_context
from locklane_server.transports import TRANSPORTS
from locklane_server.workers import DEFAULT_JOBS, Workers


def _address(_: click.Context, __: click.Parameter, value: str | None) -> tuple[str, int] | None:
    if value is None:
        return None
    try:
        return split_host_port(value)
    except ValueError as error:
        raise click.BadParameter("write HOST:PORT, for example 127.0.0.1:9418") from error


def _uuid(_: click.Context, __: click.Parameter, value: str | None) -> str | None:
    if value is None:
        return None
    try:
        return str(uuid.UUID(value))
    except ValueError as error:
        raise click.BadParameter(
            f"{value!r} is none; for a git-annex special remote, 'git annex info NAME' tells it"
        ) from error


@click.command(
    short_help="Serve git-annex repositories over the HTTP API.",
    epilog="""\b
Examples:
  Serve the git-annex repository that you are in, to this machine:
    locklane serve --wideopen
  All repositories below /srv/annex, to everybody on the network, with metrics:
    locklane serve --directory /srv/annex --wideopen --bind 0.0.0.0 \\
        --metrics 127.0.0.1:9418
  A store in ./store without git, which is made if it is not there; long poll only:
    locklane serve --store ./store --wideopen --transports longpoll
  The directory of a git-annex special remote, under that remote's UUID:
    locklane serve --store /mnt/disk/annex --uuid UUID --wideopen
  Over TLS, with a certificate that its clients trust:
    locklane serve --wideopen --bind 0.0.0.0 \\
        --certfile annex.example.org.pem --privatekeyfile annex.example.org.key
  How git-annex is told of it: see README, "Serve".
""",
)
@click.option(
    "--directory",
    "directories",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    multiple=True,
    metavar="DIR",
    help="Serve the git-annex repositories in and below this directory, and those that come and go "
    "there while the server runs. Can be given several times. [default: the repository around the "
    "current directory]",
)
@click.option(
    "--store",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Serve a store of keys in this directory, without git: an empty or new one, one served "
    "before, or that of a git-annex directory special remote, which then must not be used past the "
    "server: it knows nothing of locks.",
)
@click.option(
    "--uuid",
    "store_uuid",
    callback=_uuid,
    metavar="UUID",
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
    "--certfile",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="PEM",
    help="Speak TLS with this certificate, and what is between it and its authority, if that is in "
    "the same file. Needs --privatekeyfile.",
)
@click.option(
    "--privatekeyfile",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="PEM",
    help="The certificate's private key, without a password.",
)
@click.option(
    "--chainfile",
    "chainfiles",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    multiple=True,
    metavar="PEM",
    help="A certificate between that of --certfile and its authority. Can be given several times.",
)
@click.option(
    "--jobs",
    "-J",
    type=click.IntRange(1),
    default=DEFAULT_JOBS,
    show_default=True,
    metavar="N",
    help="Worker threads: how many files are read, written, hashed or locked at the same time.",
)
@click.option(
    "--lockedfiles",
    type=click.IntRange(1),
    default=DEFAULT_LIMIT,
    show_default=True,
    metavar="N",
    help="Locks that may be held at once in each repository.",
)
@click.option(
    "--metrics",
    "metrics_address",
    callback=_address,
    metavar="HOST:PORT",
    help="Serve Prometheus metrics at http://HOST:PORT/metrics. [default: off]",
)
def serve(
    directories: tuple[Path, ...],
    store: Path | None,
    store_uuid: str | None,
    wideopen: bool,
    transports: list[str],
    bind: str,
    port: int,
    certfile: Path | None,
    privatekeyfile: Path | None,
    chainfiles: tuple[Path, ...],
    jobs: int,
    lockedfiles: int,
    metrics_address: tuple[str, int] | None,
) -> None:
    """Serve git-annex repositories over the HTTP API, in the place of "git annex p2phttp".

    Prints the address that clients use, then serves until it is interrupted. git-annex can be used
    in the repositories meanwhile. Locks survive the server: until their ten minutes are over, their
    content cannot be removed.
    """
    if not wideopen:
        raise click.UsageError(
            "who may use the server? --wideopen lets everybody who can reach its port read, write, "
            "lock and remove; it is the only answer that this version knows, so keep the port "
            "private."
        )
    if store is not None and directories:
        raise click.UsageError("--store and --directory do not go together; start two servers")
    if store_uuid is not None and store is None:
        raise click.UsageError("--uuid is for --store; a git-annex repository has one")
    tls = _tls(certfile, privatekeyfile, chainfiles)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s")
    use_all_descriptors()
    workers = Workers(jobs)
    repositories = []
    discovery = None
    # Of a git-annex repository each locked key takes one, and each connection up to three.
    quarter = max(1, descriptors.spare() // 4)
    for_locks = descriptors.Descriptors(quarter)
    try:
        if directories:
            discovery = AnnexDiscovery(
                directories, workers, descriptors=for_locks, limit=lockedfiles
            )
        elif store is not None:
            opened = DirectoryRepository.open(store, workers, uuid=store_uuid)
            repositories.append(ServedRepository(opened, limit=lockedfiles))
        else:
            here = AnnexRepository.open(Path.cwd(), workers, descriptors=for_locks)
            repositories.append(ServedRepository(here, limit=lockedfiles))
    except RepositoryError as error:
        elsewhere = ""
        if "not a git repository" in str(error):
            elsewhere = "; go into one, or name others with --directory, or a store with --store"
        raise click.ClickException(f"{error}{elsewhere}") from error
    server = Server(
        repositories,
        discovery=discovery,
        transports=transports,
        host=bind,
        port=port,
        tls=tls,
        connections=quarter if store is None else None,
    )
    try:
        run(_serve(server, metrics_address))
    except ListenError as error:
        raise click.ClickException(
            f"cannot listen on {bind} port {port}: {error.strerror}; choose another with "
            "--bind or --port"
        ) from error
    except RepositoryError as error:
        raise click.ClickException(str(error)) from error


def _tls(
    certificate: Path | None, key: Path | None, between: tuple[Path, ...]
) -> ssl.SSLContext | None:
    if certificate is None and key is None and not between:
        return None
    if certificate is None or key is None:
        raise click.UsageError(
            "TLS needs a certificate and its private key: give --certfile and --privatekeyfile"
        )
    try:
        if not between:
            return tls_context(certificate, key)
        with tempfile.NamedTemporaryFile(suffix=".pem") as chain:
            for each in (certificate, *between):
                chain.write(each.read_bytes().rstrip() + b"\n")
            chain.flush()
            return tls_context(Path(chain.name), key)
    except (OSError, ValueError) as error:
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
            try:
                await web.TCPSite(runner, *metrics_address).start()
            except OSError as error:
                raise click.ClickException(
                    f"cannot serve metrics on {join_host_port(*metrics_address)}: "
                    f"{error.strerror or error}; choose another address with --metrics"
                ) from error
            host, port = runner.addresses[0][:2]
            click.echo(f"metrics at http://{join_host_port(host, port)}/metrics")
        host = socket.gethostname() if server.host in ("0.0.0.0", "::") else server.host
        scheme = "annex+http" if server.tls is None else "annex+https"
        base = f"{scheme}://{join_host_port(host, server.port)}/git-annex/"
        for served in server.repositories:
            click.echo(f"serving {base}{bracket(served.uuid)}")
        if not len(server.repositories):
            click.echo(f"serving {base} (no repository yet)")
        sys.stdout.flush()
        await stop.wait()
