"""The relay as a process; :class:`locklane_bench.children.RelayChild` is the handle to it.

They speak lines: the relay says ``{"port": N}``, then answers each line of its standard input by
one line of JSON, until its standard input ends.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import stat
import sys
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import asdict
from typing import TextIO

from locklane_bench.relay import Relay
from locklane_client.address import split_host_port
from locklane_client.loop import new_event_loop, use_all_descriptors

COMMANDS = "'counts', 'target HOST:PORT', 'rtt MILLISECONDS' and 'requests on|off'"
MOST_RTT_MS = 10_000.0

EXAMPLE = """\
example:
  $ python -m locklane_bench.relayprocess --target 127.0.0.1:9417
  {"port": 40123}
  counts
  {"connections": 2, "bytes_up": 1830, "bytes_down": 2412, "requests": null, "open": 1}
  target 127.0.0.1:9418
  {"target": "127.0.0.1:9418"}
  rtt 20
  {"rtt_ms": 20.0}
  requests on
  {"requests": "on"}
"""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m locklane_bench.relayprocess",
        description="Relay connections from a free port of 127.0.0.1, and count them and their "
        "bytes. Says its port, then answers each line of standard input ('counts'; or, for "
        "connections to come, 'target HOST:PORT', 'rtt MILLISECONDS' or 'requests on|off') by one "
        "line of JSON, until standard input ends.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--target",
        required=True,
        type=_target_option,
        metavar="HOST:PORT",
        help="where the server is",
    )
    parser.add_argument(
        "--rtt",
        default=0.0,
        type=_rtt_option,
        metavar="MILLISECONDS",
        help="how far away the server is to seem: 0 (default) to 10000",
    )
    options = parser.parse_args(arguments)
    if not _can_be_waited_for(sys.stdin):
        parser.error("standard input must be a pipe, a socket or a terminal")
    use_all_descriptors()
    with suppress(KeyboardInterrupt), asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(serve(options.target, options.rtt))
        return 0
    return 130


async def serve(target: tuple[str, int], rtt_ms: float = 0.0) -> None:
    """Relay, and answer the lines of standard input, until that ends."""
    lines = asyncio.StreamReader()
    pipe, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(lines), sys.stdin
    )
    with closing(pipe):
        async with Relay(*target) as relay:
            relay.rtt_s = rtt_ms / 1000
            _say({"port": relay.port})
            while line := await lines.readline():
                _say(answer(relay, line.decode(errors="replace").strip()))


def answer(relay: Relay, line: str) -> dict[str, object]:
    """What the process answers to a line."""
    try:
        match line.split():
            case ["counts"]:
                return {**asdict(relay.counts), "open": relay.open}
            case ["target", address]:
                relay.target = _target(address)
                return {"target": address}
            case ["rtt", milliseconds]:
                rtt_ms = _rtt_ms(milliseconds)
                relay.rtt_s = rtt_ms / 1000
                return {"rtt_ms": rtt_ms}
            case ["requests", "on" | "off" as switch]:
                relay.count_requests(switch == "on")
                return {"requests": switch}
    except ValueError as error:
        return {"error": str(error)}
    return {"error": f"none of {COMMANDS}: {line!r}"}


def _target(text: str) -> tuple[str, int]:
    host, port = split_host_port(text)
    if port == 0:
        raise ValueError(f"not HOST:PORT: {text!r}")
    return host, port


def _target_option(text: str) -> tuple[str, int]:
    try:
        return _target(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _rtt_ms(text: str) -> float:
    try:
        rtt_ms = float(text)
    except ValueError:
        rtt_ms = math.nan
    if not 0 <= rtt_ms <= MOST_RTT_MS:
        raise ValueError(f"not a number of ms from 0 to {MOST_RTT_MS:g}: {text!r}")
    return rtt_ms


def _rtt_option(text: str) -> float:
    try:
        return _rtt_ms(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _can_be_waited_for(stream: TextIO) -> bool:
    """Whether an event loop can; uvloop aborts the process where it cannot."""
    mode = os.fstat(stream.fileno()).st_mode
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or stream.isatty()


def _say(answer: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
