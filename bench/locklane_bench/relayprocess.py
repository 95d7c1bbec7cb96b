"""The relay as a process: the one that relays, and the handle by which a plain program owns it.

They speak lines: the relay says ``{"port": N}``, then answers each line of its standard input by
one line of JSON, until its standard input ends.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import select
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import asdict
from typing import Any, NamedTuple, Self, TextIO

from locklane_bench.relay import Relay
from locklane_bench.results import RelayCounts

PATIENCE_S = 10.0
"""How long the relay may take to start, to answer, or to end."""

EXAMPLE = """\
example:
  $ python -m locklane_bench.relay --target 127.0.0.1:9417
  {"port": 40123}
  counts
  {"connections": 2, "bytes_up": 1830, "bytes_down": 2412, "open": 1}
  target 127.0.0.1:9418
  {"target": "127.0.0.1:9418"}
"""


class Address(NamedTuple):
    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read ``HOST:PORT``, an IPv6 host in brackets.

        :raises ValueError: it is not that.
        """
        host, _, port = text.rpartition(":")
        if not (host and port.isdecimal() and 0 < int(port) < 65536):
            raise ValueError(f"not HOST:PORT: {text!r}")
        return cls(host.removeprefix("[").removesuffix("]"), int(port))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m locklane_bench.relay",
        description="Relay connections from a free port of 127.0.0.1, and count them and their "
        "bytes. Says its port, then answers each line of standard input ('counts', or 'target "
        "HOST:PORT' for connections to come) by one line of JSON, until standard input ends.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--target", required=True, type=_address, metavar="HOST:PORT", help="where the server is"
    )
    target = parser.parse_args(arguments).target
    if not _can_be_waited_for(sys.stdin):
        parser.error("standard input must be a pipe, a socket or a terminal")
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # a connection takes two descriptors
    with suppress(KeyboardInterrupt), asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(serve(target))
        return 0
    return 130


async def serve(target: Address) -> None:
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
                relay.target = Address.parse(address)
            except ValueError as error:
                return {"error": str(error)}
            return {"target": address}
    return {"error": f"neither 'counts' nor 'target HOST:PORT': {line!r}"}


class RelayError(RuntimeError):
    """The relay's process has died, does not answer, or answers an error."""


class RelayProcess:
    """A relay in a process of its own, for a program that is not async itself.

    >>> with RelayProcess("127.0.0.1", 9417) as relay:
    ...     measure(port=relay.port)
    ...     print(relay.counts())
    """

    port: int

    def __init__(self, target_host: str, target_port: int) -> None:
        self._target = _written(target_host, target_port)

    def __enter__(self) -> Self:
        self._errors = tempfile.TemporaryFile()  # which, unlike a pipe, is never full
        self._process = subprocess.Popen(
            [sys.executable, "-m", "locklane_bench.relay", "--target", self._target],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
        )
        try:
            self.port = self._answer()["port"]
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    @property
    def pid(self) -> int:
        return self._process.pid

    def counts(self) -> RelayCounts:
        """Totals since the start: subtract those of before to know those of a run, and wait for
        :meth:`open` to come down to have the last bytes of connections that were closed."""
        said = self._ask("counts")
        return RelayCounts(said["connections"], said["bytes_up"], said["bytes_down"])

    def open(self) -> int:
        """Connections that are open now."""
        open_now: int = self._ask("counts")["open"]
        return open_now

    def retarget(self, host: str, port: int) -> None:
        """Send the connections to come elsewhere."""
        self._ask(f"target {_written(host, port)}")

    def _ask(self, line: str) -> dict[str, Any]:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # it has died: no answer comes, which says why
            self._process.stdin.write(f"{line}\n".encode())
            self._process.stdin.flush()
        said = self._answer()
        if "error" in said:
            raise RelayError(f"the relay refused {line!r}: {said['error']}")
        return said

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        answered = select.poll()
        answered.register(self._process.stdout, select.POLLIN)
        if not answered.poll(PATIENCE_S * 1000):
            raise RelayError(f"the relay has not answered for {PATIENCE_S:g} s{self._stderr()}")
        if line := self._process.stdout.readline():
            said: dict[str, Any] = json.loads(line)
            return said
        status = self._process.wait(PATIENCE_S)
        raise RelayError(f"the relay has died with status {status}{self._stderr()}")

    def _stderr(self) -> str:
        self._errors.seek(0)
        said = self._errors.read().decode(errors="replace").strip()
        return f", having said:\n{said}" if said else ", having said nothing"

    def _end(self) -> None:
        """End the process by ending its standard input, or by force where that does not help."""
        with self._errors, self._process:  # which closes its pipes and waits for it
            assert self._process.stdin is not None
            with suppress(BrokenPipeError):
                self._process.stdin.close()
            try:
                self._process.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                self._process.kill()


def _address(text: str) -> Address:
    try:
        return Address.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _written(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _can_be_waited_for(stream: TextIO) -> bool:
    """Whether an event loop can; uvloop aborts the process where it cannot."""
    mode = os.fstat(stream.fileno()).st_mode
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or stream.isatty()


def _say(answer: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """That of uvloop, where there is one."""
    with suppress(ImportError):
        import uvloop

        return uvloop.new_event_loop
    return None
