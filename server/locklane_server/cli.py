"""``locklane serve``."""

from __future__ import annotations

import asyncio
import os
import re
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
from locklane_server.access import PASSWORD, PERMISSIONS, Access, Level
from locklane_server.listening import ListenError, tls_context
from locklane_server.locks import CLIENTS_SHARE, DEFAULT_LIMIT, Allowance
from locklane_server.log import LEVELS, Log
from locklane_server.records import Records
from locklane_server.repository import RepositoryError
from locklane_server.repository.annex.discovery import AnnexDiscovery
from locklane_server.repository.annex.repository import AnnexRepository
from locklane_server.repository.directory import DirectoryRepository
from locklane_server.served import ServedRepository
from locklane_server.server import GRACE_SECONDS, Server
from locklane_server.transports import TRANSPORTS
from locklane_server.workers import DEFAULT_JOBS, Workers


def _address(_: click.Context, __: click.Parameter, value: str | None) -> tuple[str, int] | None:
    if value is None:
        return None
    try:
        return split_host_port(value)
    except ValueError as error:
        raise click.BadParameter("write HOST:PORT, for example 127.0.0.1:9418") from error


def _mode(_: click.Context, __: click.Parameter, value: str) -> int:
    try:
        mode = int(value, 8)
    except ValueError:
        mode = -1
    if not 0 <= mode <= 0o777:
        raise click.BadParameter("write it in octal, for example 660")
    return mode


def _origins(_: click.Context, __: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    origins = []
    for value in values:
        found = re.fullmatch(r"(https?)://([^/\s@?#*]+)", value.lower())
        if found is None:
            raise click.BadParameter("write it as browsers do, for example https://example.org")
        scheme, host = found.groups()
        # As browsers write it, who leave out the port where it is the usual one.
        host = host.removesuffix(":443" if scheme == "https" else ":80")
        origins.append(f"{scheme}://{host}")
    return tuple(origins)


def _jobs(_: click.Context, __: click.Parameter, value: str) -> int:
    if value == "cpus":
        return len(os.sched_getaffinity(0))
    if value.isascii() and value.isdigit() and int(value) >= 1:
        return int(value)
    raise click.BadParameter("write a number from 1, or cpus for as many as there are")


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
    "--wideopen",
    is_flag=True,
    help="Everybody who can reach the port may read, write, lock and remove.",
)
@click.option(
    "--unauth-readonly",
    is_flag=True,
    help="Everybody may read, and lock, which keeps content from being removed for as long.",
)
@click.option(
    "--unauth-appendonly",
    is_flag=True,
    help="Everybody may read, lock and write, and not remove.",
)
@click.option(
    "--unauth-nolocking",
    is_flag=True,
    help="With --unauth-readonly or --unauth-appendonly: only users may lock. Others can then drop "
    "their own copies only by the looks of what is here.",
)
@click.option(
    "--authenv",
    is_flag=True,
    help="Users have the passwords of GIT_ANNEX_P2PHTTP_PASSWORD_alice and so on in the "
    "environment, and may do everything, or as much as GIT_ANNEX_P2PHTTP_PERMISSIONS_alice says: "
    "readonly or appendonly. Needs --certfile.",
)
@click.option(
    "--authenv-http",
    is_flag=True,
    help="The same without TLS, for a proxy that speaks it: passwords are sent as they are.",
)
@click.option(
    "--allow-origin",
    "origins",
    multiple=True,
    callback=_origins,
    metavar="ORIGIN",
    help="Let pages of this site use the server in their visitors' browsers; those of others are "
    "refused. Can be given several times.",
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
    "--socket",
    "socket_path",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="Listen on this unix socket, and on no port.",
)
@click.option(
    "--socket-mode",
    default="600",
    show_default=True,
    callback=_mode,
    metavar="MODE",
    help="Who may use it, in octal.",
)
@click.option(
    "--trust-forwarded",
    is_flag=True,
    help="Take clients' addresses from X-Forwarded-For, and requests' ids from X-Request-Id: right "
    "behind a proxy that sets them, and nowhere else.",
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
    callback=_jobs,
    default=str(DEFAULT_JOBS),
    show_default=True,
    metavar="N|cpus",
    help="Worker threads: how many files are read, written, hashed or locked at the same time.",
)
@click.option(
    "--lockedfiles",
    type=click.IntRange(1),
    default=DEFAULT_LIMIT,
    show_default=True,
    metavar="N",
    help="Locks that may be held at once, in all.",
)
@click.option(
    "--lockedfiles-per-client",
    type=click.IntRange(1),
    metavar="N",
    help="Of these, how many one user may hold, or one address. [default: "
    f"{CLIENTS_SHARE:.0%} of --lockedfiles]",
)
@click.option(
    "--grace",
    type=click.FloatRange(0),
    default=GRACE_SECONDS,
    show_default=True,
    metavar="SECONDS",
    help="How long transfers may take to end when the server is stopped; a second signal stops it "
    "at once.",
)
@click.option(
    "--log-level",
    type=click.Choice(LEVELS),
    default="info",
    show_default=True,
    help="What is written to the standard error: info has a line for each request.",
)
@click.option(
    "--metrics",
    "metrics_address",
    callback=_address,
    metavar="HOST:PORT",
    help="Serve Prometheus metrics at http://HOST:PORT/metrics, and at /health how each repository "
    "is. [default: off]",
)
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
    access = _access(
        {name: level for name, (chosen, level) in levels.items() if chosen},
        locks=not unauth_nolocking,
        users=authenv or authenv_http,
    )
    tls = _tls(certfile, privatekeyfile, chainfiles)
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
    allowance = Allowance(lockedfiles, lockedfiles_per_client)
    repositories = []
    discovery = None
    # Of a git-annex repository each locked key takes one, and each connection up to three.
    quarter = max(1, descriptors.spare() // 4)
    for_locks = descriptors.Descriptors(quarter)
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


def _access(anonymous: dict[str, Level], *, locks: bool, users: bool) -> Access:
    """Who may do what, as the options say; the users are taken out of the environment, where
    programs that the server starts would find their passwords."""
    if not anonymous and not users:
        raise click.UsageError(
            "who may use the server? Choose --wideopen (everybody who can reach its port may "
            "read, write, lock and remove), --unauth-appendonly or --unauth-readonly (everybody "
            "may do a part of that), --authenv (users with passwords, over TLS; see --help), or "
            "one of the two in the middle together with the last."
        )
    if len(anonymous) > 1:
        raise click.UsageError(f"{' and '.join(anonymous)} do not go together")
    level = next(iter(anonymous.values()), None)
    if not locks and level in (None, Level.FULL):
        raise click.UsageError(
            "--unauth-nolocking is for --unauth-readonly and --unauth-appendonly"
        )
    access = Access(level, anonymous_locks=locks)
    environment = {
        variable: os.environb.pop(variable)
        for variable in tuple(os.environb)
        if variable.startswith((PASSWORD, PERMISSIONS))
    }
    if not users:
        return access
    try:
        return access.with_users(environment)
    except ValueError as error:
        raise click.UsageError(str(error)) from error


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
