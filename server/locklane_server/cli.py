"""``locklane serve``."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
from contextlib import AsyncExitStack
from pathlib import Path

import click
from aiohttp import web

from locklane_client.address import join_host_port
from locklane_client.loop import run, use_all_descriptors
from locklane_client.wire import bracket
from locklane_server import descriptors, metrics, options
from locklane_server.access import Level
from locklane_server.listening import ListenError
from locklane_server.locks import CLIENTS_SHARE, Allowance
from locklane_server.log import Log
from locklane_server.records import Records
from locklane_server.repository import RepositoryError
from locklane_server.repository.annex.discovery import AnnexDiscovery
from locklane_server.repository.annex.repository import AnnexRepository
from locklane_server.repository.directory import DirectoryRepository
from locklane_server.served import ServedRepository
from locklane_server.server import Server
from locklane_server.workers import Workers


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
  Over TLS; everybody may read and lock, and alice may do everything:
    GIT_ANNEX_P2PHTTP_PASSWORD_alice=secret \\
    locklane serve --unauth-readonly --authenv --bind 0.0.0.0 \\
        --certfile annex.example.org.pem --privatekeyfile annex.example.org.key
  Behind a proxy on this machine that speaks TLS, for users only:
    GIT_ANNEX_P2PHTTP_PASSWORD_alice=secret \\
    locklane serve --authenv-http --socket /run/locklane/socket --socket-mode 660
  How git-annex is told of it: see README, "Serve".
""",
)
@options.options(options.WHAT, options.WHO, options.WHERE, options.HOW_MUCH)
def serve(
    directories: tuple[Path, ...],
    store: Path | None,
    store_uuid: str | None,
    wideopen: bool,
    unauth_readonly: bool,
    unauth_appendonly: bool,
    unauth_nolocking: bool,
    authenv: bool,
    authenv_http: bool,
    origins: tuple[str, ...],
    transports: list[str],
    bind: str,
    port: int,
    socket_path: Path | None,
    socket_mode: int,
    trust_forwarded: bool,
    certfile: Path | None,
    privatekeyfile: Path | None,
    chainfiles: tuple[Path, ...],
    jobs: int,
    lockedfiles: int,
    lockedfiles_per_client: int | None,
    grace: float,
    log_level: str,
    metrics_address: tuple[str, int] | None,
) -> None:
    """Serve git-annex repositories over the HTTP API, in the place of "git annex p2phttp".

    Prints the address that clients use, then serves until it is interrupted. git-annex can be used
    in the repositories meanwhile. Locks survive the server: until their ten minutes are over, their
    content cannot be removed.
    """
    levels = {
        "--wideopen": (wideopen, Level.FULL),
        "--unauth-appendonly": (unauth_appendonly, Level.APPEND_ONLY),
        "--unauth-readonly": (unauth_readonly, Level.READ_ONLY),
    }
    access = options.access(
        {name: level for name, (chosen, level) in levels.items() if chosen},
        locks=not unauth_nolocking,
        users=authenv or authenv_http,
    )
    tls = options.tls(certfile, privatekeyfile, chainfiles)
    if authenv and tls is None:
        raise click.UsageError(
            "--authenv needs TLS (--certfile and --privatekeyfile), or passwords could be read on "
            "their way; behind a proxy that speaks TLS, give --authenv-http"
        )
    if authenv_http and not authenv and tls is not None:
        raise click.UsageError("this server speaks TLS: give --authenv in place of --authenv-http")
    if store is not None and directories:
        raise click.UsageError("--store and --directory do not go together; start two servers")
    if store_uuid is not None and store is None:
        raise click.UsageError("--uuid is for --store; a git-annex repository has one")
    use_all_descriptors()
    workers = Workers(jobs)
    repositories = []
    discovery = None
    # Of a git-annex repository each locked key takes one, and each connection up to three.
    quarter = max(1, descriptors.spare() // 4)
    for_locks = descriptors.Descriptors(quarter)
    if lockedfiles_per_client is None and store is None:
        # Each lock may be on a key of its own, and one client shall not take them all.
        lockedfiles_per_client = max(1, int(min(lockedfiles, quarter) * CLIENTS_SHARE))
    allowance = Allowance(lockedfiles, lockedfiles_per_client)
    with Log(sys.stderr, log_level) as log:
        try:
            if directories:
                discovery = AnnexDiscovery(
                    directories, workers, descriptors=for_locks, allowance=allowance
                )
            elif store is not None:
                opened = DirectoryRepository.open(store, workers, uuid=store_uuid)
                repositories.append(ServedRepository(opened, allowance=allowance))
            else:
                here = AnnexRepository.open(Path.cwd(), workers, descriptors=for_locks)
                repositories.append(ServedRepository(here, allowance=allowance))
        except RepositoryError as error:
            elsewhere = ""
            if "not a git repository" in str(error):
                elsewhere = "; go into one, or give --directory, or --store for a store"
            raise click.ClickException(f"{error}{elsewhere}") from error
        server = Server(
            repositories,
            access=access,
            discovery=discovery,
            transports=transports,
            host=bind,
            port=port,
            socket=None if socket_path is None else (socket_path, socket_mode),
            tls=tls,
            connections=quarter if store is None else None,
            records=Records(
                log.request if log.takes_requests else None, trust_forwarded=trust_forwarded
            ),
            origins=origins,
            workers=workers,
            grace=grace,
        )
        try:
            run(_serve(server, metrics_address))
        except ListenError as error:
            where = f"{bind} port {port}" if socket_path is None else str(socket_path)
            instead = "--bind or --port" if socket_path is None else "--socket"
            raise click.ClickException(
                f"cannot listen on {where}: {error.strerror}; choose another with {instead}"
            ) from error
        except RepositoryError as error:
            raise click.ClickException(str(error)) from error


async def _serve(server: Server, metrics_address: tuple[str, int] | None) -> None:
    stop = asyncio.Event()

    def interrupted() -> None:
        if stop.is_set():
            server.hurry()
        stop.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, interrupted)
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
        base = _base(server)
        for served in server.repositories:
            click.echo(f"serving {base}{bracket(served.uuid)}")
        if not len(server.repositories):
            click.echo(f"serving {base} (no repository yet)")
        sys.stdout.flush()
        await stop.wait()


def _base(server: Server) -> str:
    if server.socket is not None:
        return f"{server.socket[0]}: /git-annex/"
    host = socket.gethostname() if server.host in ("0.0.0.0", "::") else server.host
    scheme = "annex+http" if server.tls is None else "annex+https"
    return f"{scheme}://{join_host_port(host, server.port)}/git-annex/"
