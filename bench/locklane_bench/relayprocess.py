"""The relay as a process; :class:`locklane_bench.children.RelayChild` is the handle to it.

They speak lines: the relay says ``{"port": N}``, then answers each line of its standard input by
one line of JSON, until its standard input ends.
"""

from __future__ import annotations

import argparse
import asyncio
import json
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

EXAMPLE = """\
example:
  $ python -m locklane_bench.relayprocess --target 127.0.0.1:9417
  {"port": 40123}
  counts
  {"connections": 2, "bytes_up": 1830, "bytes_down": 2412, "open": 1}
  target 127.0.0.1:9418
  {"target": "127.0.0.1:9418"}
"""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m locklane_bench.relayprocess",
        description="Relay connections from a free port of 127.0.0.1, and count them and their "
        "bytes. Says its port, then answers each line of standard input ('counts', or 'target "
        "HOST:PORT' for connections to come) by one line of JSON, until standard input ends.",
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
    target = parser.parse_args(arguments).target
    if not _can_be_waited_for(sys.stdin):
        parser.error("standard input must be a pipe, a socket or a terminal")
    use_all_descriptors()
    with suppress(KeyboardInterrupt), asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(serve(target))
        return 0
    return 130


async def serve(target: tuple[str, int]) -> None:
    """Relay, and answer the lines of standard input, until that ends."""
    lines = asyncio.StreamReader()
    pipe, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(lines), sys.stdin
    )
    with closing(pipe):
        async with Relay(*target) as relay:
            _say({"port": relay.port})
            while line := await lines.readline():
                _say(answer(relay, line.decode(errors="replace").strip()))


def answer(relay: Relay, line: str) -> dict[str, object]:
    """What the process answers to a line."""
    match line.split():
        case ["counts"]:
            return {**asdict(relay.counts), "open": relay.open}
        case ["target", address]:
            try:
                relay.target = _target(address)
            except ValueError as error:
                return {"error": str(error)}
            return {"target": address}
    return {"error": f"neither 'counts' nor 'target HOST:PORT': {line!r}"}


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


def _can_be_waited_for(stream: TextIO) -> bool:
    """Whether an event loop can; uvloop aborts the process where it cannot."""
    mode = os.fstat(stream.fileno()).st_mode
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or stream.isatty()


def _say(answer: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
