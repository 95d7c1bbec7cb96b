"""The processes of a comparison: servers and the load, started here and ended here, by their own
process id and no other."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import tempfile
import urllib.request
import uuid as uuids
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from locklane_bench.certificates import Certificates
from locklane_bench.orders import Order, Outcome
from locklane_bench.results import RelayCounts
from locklane_client.address import join_host_port

PATIENCE_SECONDS = 30.0
"""How long a process may take to start or to answer."""

STOP_SECONDS = 15.0
"""How long a process may take to end by itself before it is killed."""


class ChildError(Exception):
    """A process of the benchmark did not do its part; the text has what it said."""


def python(module: str, *arguments: str) -> list[str]:
    """The command that runs a module with this Python."""
    return [sys.executable, "-m", module, *arguments]


class Child:
    """A process that is spoken with in lines. A context manager.

    :param command: the program to run, and its arguments.
    :param name: what to call it in messages.
    :param env: its environment; ``None``: this process's.
    :param cwd: its working directory; ``None``: this process's.
    """

    def __init__(
        self,
        command: list[str],
        name: str,
        *,
        env: dict[str, str] | None = None,
        cwd: Path | None = None,
    ) -> None:
        self._command = command
        self._name = name
        self._env = env
        self._cwd = cwd
        self._pending = b""

    def __enter__(self) -> Self:
        self._said = tempfile.TemporaryFile()  # which, unlike a pipe, is never full
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            env=self._env,
            cwd=self._cwd,
        )
        try:
            self._greet()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _greet(self) -> None:
        """Wait until it is ready."""

    def __exit__(self, *_: object) -> None:
        with self._said, self._process as process:  # which closes its pipes and waits for it
            assert process.stdin is not None
            with suppress(BrokenPipeError):
                process.stdin.close()
            process.terminate()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()

    @property
    def pid(self) -> int:
        return self._process.pid

    def check(self) -> None:
        """Nothing, if it is running.

        :raises ChildError: it has ended; with what it said.
        """
        status = self._process.poll()
        if status is not None:
            raise ChildError(f"{self._name} has ended with status {status}{self._stderr()}")

    def read_line(self, patience_s: float | None = PATIENCE_SECONDS) -> str:
        """The next line that it prints.

        :param patience_s: how long to wait for it; ``None``: as long as it takes.
        :raises ChildError: none came, or it has ended.
        """
        assert self._process.stdout is not None
        stdout = self._process.stdout.fileno()
        answered = select.poll()
        answered.register(stdout, select.POLLIN)
        while b"\n" not in self._pending:
            if not answered.poll(None if patience_s is None else patience_s * 1000):
                said = self._stderr()
                raise ChildError(f"{self._name} has not answered for {patience_s:g} s{said}")
            chunk = os.read(stdout, 1 << 16)
            if not chunk:
                status = self._process.wait(STOP_SECONDS)
                raise ChildError(f"{self._name} has ended with status {status}{self._stderr()}")
            self._pending += chunk
        line, _, self._pending = self._pending.partition(b"\n")
        return line.decode("utf-8", "replace")

    def write_line(self, line: str) -> None:
        """Say something to it. If it has ended, no answer comes, and :meth:`read_line` says why."""
        stdin = self._process.stdin
        assert stdin is not None
        with suppress(BrokenPipeError):
            stdin.write(f"{line}\n".encode())
            stdin.flush()

    def said(self, most: int = 1 << 20) -> str:
        """What it printed on its standard error, the last ``most`` bytes."""
        # Not by seek and read: the position in the file is the process's too.
        size = os.fstat(self._said.fileno()).st_size
        tail = os.pread(self._said.fileno(), most, max(0, size - most))
        return tail.decode("utf-8", "replace").strip()

    def _stderr(self) -> str:
        said = self.said(2000)
        return f", having said:\n{said}" if said else ", having said nothing"


QUIET = ("--log-level", "warning")
"""Without a line for each request, as git-annex's server has none either."""


class ServerChild(Child):
    """A server that prints ``serving ADDRESS`` when it is ready."""

    address: str
    metrics: str | None = None
    """Where it tells what it counted, if it does."""

    @classmethod
    def locklane(
        cls, store: Path, transports: list[str], certificates: Certificates | None = None
    ) -> ServerChild:
        """The real server on a store, counting; with certificates, over TLS."""
        command = python("locklane_client", "serve", "--store", str(store), "--wideopen")
        command += ["--uuid", str(uuids.uuid4())]
        command += ["--port", "0", "--metrics", "127.0.0.1:0", "--transports", ",".join(transports)]
        command += QUIET
        if certificates is not None:
            command += ["--certfile", str(certificates.chain)]
            command += ["--privatekeyfile", str(certificates.key)]
        return cls(command, "locklane serve")

    @classmethod
    def bare(cls) -> ServerChild:
        """The ceiling."""
        return cls(python("locklane_bench.ceiling"), "the bare server")

    def _greet(self) -> None:
        what = ""
        while what != "serving":
            what, _, where = self.read_line().partition(" ")
            if what == "metrics":
                self.metrics = where.removeprefix("at ")
        self.address = where

    def figures(self) -> dict[str, float]:
        """All of its metrics, by name and labels as they are written."""
        if self.metrics is None:
            raise ChildError(f"{self._name} has no metrics")
        with urllib.request.urlopen(self.metrics, timeout=10) as answer:
            lines = answer.read().decode("utf-8").splitlines()
        pairs = (line.rpartition(" ") for line in lines if not line.startswith("#"))
        return {name: float(value) for name, _, value in pairs}

    def locks(self, state: str) -> int:
        """Locks that the server says are ``live``, or ``retained``."""
        return sum(
            int(value)
            for name, value in self.figures().items()
            if name.startswith("locklane_locks{") and f'state="{state}"' in name
        )

    def counted(self, name: str) -> int:
        """A figure of its metrics, all labels added up. 0 if it has none by that name."""
        return sum(
            int(value)
            for written, value in self.figures().items()
            if written == name or written.startswith(name + "{")
        )


class RelayChild(Child):
    """A counting relay.

    >>> with RelayChild("127.0.0.1", 9417) as relay:
    ...     measure(port=relay.port)
    ...     print(relay.counts())
    """

    port: int
    """Where it listens, on 127.0.0.1."""

    def __init__(self, target_host: str, target_port: int) -> None:
        target = join_host_port(target_host, target_port)
        super().__init__(python("locklane_bench.relayprocess", "--target", target), "the relay")

    def _greet(self) -> None:
        self.port = json.loads(self.read_line())["port"]

    def counts(self) -> RelayCounts:
        """Totals since the start: subtract those of before to know those of a run, and wait for
        :meth:`open` to come down to have the last bytes of connections that were closed."""
        said = self._ask("counts")
        return RelayCounts(
            said["connections"], said["bytes_up"], said["bytes_down"], said["requests"]
        )

    def open(self) -> int:
        """Connections that are open now."""
        open_now: int = self._ask("counts")["open"]
        return open_now

    def retarget(self, host: str, port: int) -> None:
        """Send the connections to come elsewhere."""
        self._ask(f"target {join_host_port(host, port)}")

    def set_rtt(self, rtt_ms: float) -> None:
        """Have the server seem as far as that for the connections to come: 0 to 10000 ms there and
        back; see :attr:`locklane_bench.relay.Relay.rtt_s`.

        :raises ChildError: that is no such distance.
        """
        self._ask(f"rtt {rtt_ms}")

    def count_requests(self, on: bool) -> None:
        """Count the HTTP requests on the connections to come, or no longer: :meth:`counts` has them
        from the first time on."""
        self._ask(f"requests {'on' if on else 'off'}")

    def _ask(self, line: str) -> dict[str, Any]:
        self.write_line(line)
        said: dict[str, Any] = json.loads(self.read_line())
        if "error" in said:
            raise ChildError(f"the relay refused {line!r}: {said['error']}")
        return said


class LoadChild(Child):
    """The process that drops files.

    :param command: what to run in its place; it has to speak as it does.
    """

    def __init__(self, command: list[str] | None = None) -> None:
        super().__init__(command or python("locklane_bench.load"), "the load process")

    def carry_out(self, order: Order) -> Outcome:
        """Have an order carried out, and wait for the outcome.

        :raises ChildError: it could not be.
        """
        self.write_line(order.to_json())
        try:
            return Outcome.from_json(self.read_line(patience_s=None))
        except RuntimeError as error:
            raise ChildError(f"{self._name}: {error}") from error
