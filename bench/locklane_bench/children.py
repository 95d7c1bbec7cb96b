"""The processes of a comparison: servers and the load, started here and ended here, by their own
process id and no other."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import urllib.request
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from locklane_bench.orders import Order, Outcome

STOP_SECONDS = 15.0
"""How long a process may take to end by itself before it is killed."""


class ChildError(Exception):
    """A process of the benchmark did not do its part; the text has what it said."""


class Child:
    """A process with a line-wise conversation. A context manager.

    :param command: what to run, without the interpreter.
    :param name: what to call it in messages.
    """

    def __init__(self, command: list[str], name: str) -> None:
        self._command = [sys.executable, "-m", *command]
        self._name = name

    def __enter__(self) -> Self:
        self._said = tempfile.TemporaryFile("w+", encoding="utf-8")
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            text=True,
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        process = self._process
        with suppress(OSError):
            process.stdin.close()  # type: ignore[union-attr]
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()  # type: ignore[union-attr]
        self._said.close()

    @property
    def pid(self) -> int:
        return self._process.pid

    def read_line(self) -> str:
        """The next line that it prints.

        :raises ChildError: it has ended instead.
        """
        line = self._process.stdout.readline()  # type: ignore[union-attr]
        if not line:
            raise self._broken()
        return line.rstrip("\n")

    def write_line(self, line: str) -> None:
        """Say something to it.

        :raises ChildError: it has ended.
        """
        try:
            self._process.stdin.write(line + "\n")  # type: ignore[union-attr]
            self._process.stdin.flush()  # type: ignore[union-attr]
        except BrokenPipeError as error:
            raise self._broken() from error

    def _broken(self) -> ChildError:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_SECONDS)
        self._said.seek(0)
        said = self._said.read()[-2000:].strip()
        return ChildError(f"{self._name} ended with {self._process.returncode}: {said}")


class ServerChild(Child):
    """A server that prints ``serving ADDRESS`` when it is ready."""

    address: str
    metrics: str | None = None
    """Where it tells what it counted, if it does."""

    @classmethod
    def locklane(cls, store: Path, transports: list[str]) -> ServerChild:
        """The real server on a store, counting."""
        command = ["locklane_client", "serve", "--store", str(store), "--wideopen"]
        command += ["--port", "0", "--metrics", "127.0.0.1:0", "--transports", ",".join(transports)]
        return cls(command, "locklane serve")

    @classmethod
    def bare(cls) -> ServerChild:
        """The ceiling."""
        return cls(["locklane_bench.ceiling"], "the bare server")

    def __enter__(self) -> Self:
        super().__enter__()
        try:
            while True:
                what, _, where = self.read_line().partition(" ")
                if what == "metrics":
                    self.metrics = where.removeprefix("at ")
                if what == "serving":
                    self.address = where
                    return self
        except BaseException:
            self.__exit__(None, None, None)
            raise

    def counted(self, name: str) -> int:
        """A figure of its metrics, all labels added up. 0 if it has none by that name."""
        if self.metrics is None:
            raise ChildError(f"{self._name} has no metrics")
        with urllib.request.urlopen(self.metrics, timeout=10) as answer:
            lines = answer.read().decode("utf-8").splitlines()
        return sum(
            int(float(line.rpartition(" ")[2]))
            for line in lines
            if line.startswith((name + " ", name + "{"))
        )


class LoadChild(Child):
    """The process that drops files."""

    def __init__(self) -> None:
        super().__init__(["locklane_bench.load"], "the load process")

    def carry_out(self, order: Order) -> Outcome:
        """Have an order carried out, and wait for the outcome.

        :raises ChildError: it could not be.
        """
        self.write_line(order.to_json())
        try:
            return Outcome.from_json(self.read_line())
        except RuntimeError as error:
            raise ChildError(f"{self._name}: {error}") from error
