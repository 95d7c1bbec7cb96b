"""The options of ``locklane serve``, and what they come to. The names are those of
``git annex p2phttp`` where it has them."""

from __future__ import annotations

import os
import re
import ssl
import tempfile
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import click

from locklane_client.address import split_host_port
from locklane_client.options import Names
from locklane_client.wire import DEFAULT_PORT
from locklane_server.access import FAMILY, Access, Level
from locklane_server.listening import check_certificate, tls_context
from locklane_server.locks import CLIENTS_SHARE, DEFAULT_LIMIT
from locklane_server.log import LEVELS
from locklane_server.server import GRACE_SECONDS
from locklane_server.transports import TRANSPORTS
from locklane_server.workers import DEFAULT_JOBS

_Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


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


WHAT = (
    click.option(
        "--directory",
        "directories",
        type=click.Path(exists=True, file_okay=False, path_type=Path),
        multiple=True,
        metavar="DIR",
        help="Serve the git-annex repositories in and below this directory, and those that come "
        "and go there while the server runs. Can be given several times. [default: the "
        "repository around the current directory]",
    ),
    click.option(
        "--store",
        type=click.Path(file_okay=False, path_type=Path),
        metavar="DIR",
        help="Serve a store of keys in this directory, without git: an empty or new one, one "
        "served before, or that of a git-annex directory special remote, which then must not "
        "be used past the server: it knows nothing of locks.",
    ),
    click.option(
        "--uuid",
        "store_uuid",
        callback=_uuid,
        metavar="UUID",
        help="UUID of a store that has not been served before. For the directory of a special "
        "remote it has to be that remote's. [default: a random one, if the store is empty]",
    ),
)
"""What is served."""

WHO = (
    click.option(
        "--wideopen",
        is_flag=True,
        help="Everybody who can reach the port may read, write, lock and remove.",
    ),
    click.option(
        "--unauth-readonly",
        is_flag=True,
        help="Everybody may read, and lock, which keeps content from being removed for as long.",
    ),
    click.option(
        "--unauth-appendonly",
        is_flag=True,
        help="Everybody may read, lock and write, and not remove.",
    ),
    click.option(
        "--unauth-nolocking",
        is_flag=True,
        help="With --unauth-readonly or --unauth-appendonly: only users may lock. Others can then "
        "drop their own copies only by the looks of what is here.",
    ),
    click.option(
        "--authenv",
        is_flag=True,
        help="Users have the passwords of GIT_ANNEX_P2PHTTP_PASSWORD_alice and so on in the "
        "environment, and may do everything, or as much as "
        "GIT_ANNEX_P2PHTTP_PERMISSIONS_alice says: readonly or appendonly. Needs --certfile.",
    ),
    click.option(
        "--authenv-http",
        is_flag=True,
        help="The same without TLS, for a proxy that speaks it: passwords are sent as they are.",
    ),
    click.option(
        "--allow-origin",
        "origins",
        multiple=True,
        callback=_origins,
        metavar="ORIGIN",
        help="Let pages of this site use the server in their visitors' browsers; those of others "
        "are refused. Can be given several times.",
    ),
)
"""Who may do what."""

WHERE = (
    click.option(
        "--transports",
        default=",".join(TRANSPORTS),
        show_default=True,
        type=Names(TRANSPORTS, "transport"),
        metavar="NAME,…",
        help="Lock transports to offer.",
    ),
    click.option("--bind", default="127.0.0.1", show_default=True, help="Address to listen on."),
    click.option(
        "--port",
        type=click.IntRange(0, 65535),
        default=DEFAULT_PORT,
        show_default=True,
        help="Port to listen on; 0 takes a free one.",
    ),
    click.option(
        "--socket",
        "socket_path",
        type=click.Path(path_type=Path),
        metavar="PATH",
        help="Listen on this unix socket, and on no port.",
    ),
    click.option(
        "--socket-mode",
        default="600",
        show_default=True,
        callback=_mode,
        metavar="MODE",
        help="Who may use it, in octal.",
    ),
    click.option(
        "--trust-forwarded",
        is_flag=True,
        help="Take clients' addresses from X-Forwarded-For, and requests' ids from X-Request-Id: "
        "right behind a proxy that sets them, and nowhere else.",
    ),
    click.option(
        "--certfile",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        metavar="PEM",
        help="Speak TLS with this certificate, and what is between it and its authority, if that "
        "is in the same file. Needs --privatekeyfile.",
    ),
    click.option(
        "--privatekeyfile",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        metavar="PEM",
        help="The certificate's private key, without a password.",
    ),
    click.option(
        "--chainfile",
        "chainfiles",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        multiple=True,
        metavar="PEM",
        help="A certificate between that of --certfile and its authority. Can be given several "
        "times.",
    ),
)
"""Where it listens, and what it speaks there."""

HOW_MUCH = (
    click.option(
        "--jobs",
        "-J",
        callback=_jobs,
        default=str(DEFAULT_JOBS),
        show_default=True,
        metavar="N|cpus",
        help="Worker threads: how many files are read, written, hashed or locked at the same time.",
    ),
    click.option(
        "--lockedfiles",
        type=click.IntRange(1),
        default=DEFAULT_LIMIT,
        show_default=True,
        metavar="N",
        help="Locks that may be held at once, in all.",
    ),
    click.option(
        "--lockedfiles-per-client",
        type=click.IntRange(1),
        metavar="N",
        help="Of these, how many one user may hold, or one address. [default: "
        f"{CLIENTS_SHARE:.0%} of --lockedfiles, or of the keys that there are descriptors for]",
    ),
    click.option(
        "--grace",
        type=click.FloatRange(0),
        default=GRACE_SECONDS,
        show_default=True,
        metavar="SECONDS",
        help="How long transfers may take to end when the server is stopped; a second signal does "
        "not wait for them.",
    ),
    click.option(
        "--log-level",
        type=click.Choice(LEVELS),
        default="info",
        show_default=True,
        help="What is written to the standard error: info has a line for each request.",
    ),
    click.option(
        "--metrics",
        "metrics_address",
        callback=_address,
        metavar="HOST:PORT",
        help="Serve Prometheus metrics at http://HOST:PORT/metrics, and at /health how each "
        "repository is. [default: off]",
    ),
)
"""How much it does at once, and what it says of it."""


def options(*groups: Iterable[_Decorator]) -> _Decorator:
    """Give a command the options of some groups, in their order."""

    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed([option for group in groups for option in group]):
            command = option(command)
        return command

    return add


def access(anonymous: dict[str, Level], *, locks: bool, users: bool) -> Access:
    """Who may do what, as the options say; the users are taken out of the environment, where
    programs that the server starts would find their passwords."""
    if not anonymous and not users:
        raise click.UsageError(
            "who may use the server? Choose --wideopen (everybody who can reach its port may "
            "read, write, lock and remove), --unauth-appendonly or --unauth-readonly (everybody "
            "may do a part of that), --authenv (users with passwords, over TLS) or --authenv-http "
            "(the same behind a proxy that speaks TLS); these can be combined with one of the "
            "--unauth options. See --help."
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
        if variable.startswith(FAMILY)
    }
    if not users:
        if environment:
            click.echo(
                "warning: there are users in the environment, and nobody is asked for a password: "
                "--authenv or --authenv-http is not given",
                err=True,
            )
        return access
    try:
        return access.with_users(environment)
    except ValueError as error:
        raise click.UsageError(str(error)) from error


def tls(
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
                check_certificate(each)
                chain.write(each.read_bytes().rstrip() + b"\n")
            chain.flush()
            return tls_context(Path(chain.name), key)
    except (OSError, ValueError) as error:
        raise click.ClickException(str(error)) from error
