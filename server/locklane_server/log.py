"""The server's log: written by a thread of its own, so that whoever reads it slowly, or not at all,
holds up nobody who is being served."""

from __future__ import annotations

import logging
import os
import threading
from collections import deque
from types import TracebackType
from typing import Self, TextIO

GATHER_SECONDS = 0.1
"""How long lines are gathered before they are written together; warnings are not waited with."""

MOST = 20_000
"""Lines that may wait to be written; more are lost, and that is said."""

CLOSE_SECONDS = 2.0
"""How long what waits may take to be written at the end."""

LEVELS = ("debug", "info", "warning", "error")

REQUESTS = logging.INFO
"""The level of the requests' lines."""


class Log(logging.Handler):
    """Writes what is logged in this process to a stream while it is open: ``with Log(…) as log``.

    :param level: one of :data:`LEVELS`; what is less important is not written.
    """

    def __init__(self, stream: TextIO, level: str = "info") -> None:
        super().__init__(level.upper())
        self._stream = stream
        self._lines: deque[str] = deque()
        self._lost = 0
        self._something = threading.Event()
        self._at_once = threading.Event()
        self._ending = False
        self._level_before = logging.NOTSET
        self._writer = threading.Thread(target=self._write, name="log", daemon=True)

    @property
    def takes_requests(self) -> bool:
        """Whether the requests' lines are wanted."""
        return self.level <= REQUESTS

    def __enter__(self) -> Self:
        self.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
        root = logging.getLogger()
        root.addHandler(self)
        self._level_before = root.level
        root.setLevel(self.level)
        self._writer.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        root = logging.getLogger()
        root.removeHandler(self)
        root.setLevel(self._level_before)
        self._ending = True
        self._at_once.set()
        self._something.set()
        self._writer.join(CLOSE_SECONDS)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._add(self.format(record))
        except Exception:  # as every handler does
            self.handleError(record)
        if record.levelno >= logging.WARNING:
            self._at_once.set()

    def request(self, line: str) -> None:
        """Take the line of a request."""
        self._add(f"INFO: {line}")

    def _add(self, line: str) -> None:
        if len(self._lines) >= MOST:
            self._lost += 1
            return
        self._lines.append(line)
        if not self._something.is_set():
            self._something.set()

    def _write(self) -> None:
        while not (self._ending and not self._lines):
            self._something.wait()
            self._at_once.wait(GATHER_SECONDS)
            self._something.clear()
            self._at_once.clear()
            gathered = [self._lines.popleft() for _ in range(len(self._lines))]
            lost, self._lost = self._lost, 0
            if lost:
                gathered.append(f"WARNING: lines of the log that could not be written: {lost}")
            if gathered:
                try:
                    self._put("\n".join(gathered) + "\n")
                except (OSError, ValueError):  # a full disk, or nobody reads it any more
                    self._lost += len(gathered)

    def _put(self, text: str) -> None:
        """Past Python's own buffer: what is left there would be tried again at the end of the
        process, which would then end with 120, or wait for who does not read."""
        left = text.encode(self._stream.encoding or "utf-8", "backslashreplace")
        while left:
            left = left[os.write(self._stream.fileno(), left) :]
