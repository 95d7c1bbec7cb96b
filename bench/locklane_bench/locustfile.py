"""The same users as ``locklane compare``, for locust's own command line, web page and workers::

    locust -f bench/locklane_bench/locustfile.py --transport websocket \\
        --host annex+http://127.0.0.1:9417/git-annex/UUID --keys-from ~/annex

``locust --help`` lists Locklane's options in a group of their own. Keys come from a git-annex
repository (``--keys-from``) or are named one by one (``--key``, repeatable).
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import gevent
from locust import events

from locklane_bench.eventloop import EventLoopThread
from locklane_bench.keys import KeysError, from_repository
from locklane_bench.users import DropUser, Plan, PlannedEnvironment
from locklane_client import TRANSPORTS, Client, Key

_log = logging.getLogger(__name__)


@events.init_command_line_parser.add_listener  # type: ignore[untyped-decorator]
def _options(parser: Any) -> None:
    group = parser.add_argument_group("Locklane")
    group.add_argument(
        "--transport",
        choices=list(TRANSPORTS),
        default="longpoll",
        env_var="LOCKLANE_TRANSPORT",
        help="Lock transport (default: longpoll).",
    )
    group.add_argument(
        "--uuid", env_var="LOCKLANE_UUID", help="UUID of the repository, if --host has none."
    )
    group.add_argument(
        "--keys-from",
        env_var="LOCKLANE_KEYS_FROM",
        metavar="REPO",
        help="Drop the keys whose content is in this git-annex repository.",
    )
    group.add_argument("--key", action="append", default=[], help="Drop this key; repeatable.")
    group.add_argument(
        "--think-time", type=float, default=0.0, help="Seconds to hold each lock (default: 0)."
    )
    group.add_argument(
        "--rate",
        type=float,
        help="Drops due per second for each process; latency then counts from when one was due.",
    )


@events.test_start.add_listener  # type: ignore[untyped-decorator]
def _begin(environment: PlannedEnvironment, **_: object) -> None:
    options: Any = environment.parsed_options
    if environment.runner is not None and type(environment.runner).__name__ == "MasterRunner":
        return  # its workers have the users
    try:
        if not environment.host:
            raise ValueError("give the server's address with --host")
        keys = [Key.parse(key).text for key in options.key]
        if options.keys_from:
            keys += [source.key.text for source in from_repository(Path(options.keys_from))]
        if not keys:
            raise ValueError("which keys? Name them with --key, or give --keys-from a repository")
        loop = EventLoopThread().__enter__()
        client = loop.call(_open(environment.host, options.uuid, options.transport))
    except (ValueError, KeysError) as error:
        _log.error("%s", error)
        environment.process_exit_code = 2
        if environment.web_ui is None and environment.runner is not None:
            gevent.spawn(environment.runner.quit)
        return
    environment.plan = Plan(
        client,
        options.transport,
        loop,
        keys,
        think_time=options.think_time,
        rate=options.rate,
    )
    environment.plan.begin()


@events.test_stop.add_listener  # type: ignore[untyped-decorator]
def _end(environment: PlannedEnvironment, **_: object) -> None:
    plan: Plan | None = getattr(environment, "plan", None)
    if plan is not None:
        del environment.plan
        plan.loop.call(plan.client.aclose())
        plan.loop.__exit__(None, None, None)


async def _open(url: str, uuid: str | None, transport: str) -> Client:
    return Client(url, uuid, transport=transport)


class Drop(DropUser):
    """Drops files for as long as it is let."""
