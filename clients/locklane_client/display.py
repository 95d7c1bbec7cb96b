"""What a person at a terminal sees of a transfer. Where stderr is no terminal: nothing."""

from __future__ import annotations

import asyncio
import sys
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.filesize import decimal
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

BAR_AFTER_SECONDS = 0.5
"""A shorter transfer shows no bar."""


class Display:
    """A bar for as long as a ``with`` lasts, on the running event loop.

    :param before: what goes on until the content begins to move.
    :param during: what goes on while it moves.
    :param after: what goes on when all of it has moved.
    """

    def __init__(self, before: str, during: str, after: str) -> None:
        self.moved = False
        """Some of the content has moved, now or in an earlier attempt."""
        self.size = 0
        """Of the content, as far as it is known."""
        self._during = during
        self._after = after
        self._began = time.monotonic()
        self._begun = False
        self._terminal = sys.stderr.isatty()
        self._console = Console(stderr=True)
        self._bar = Progress(
            "{task.description}",
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
        )
        self._task = self._bar.add_task(before, total=None)
        self._later: asyncio.TimerHandle | None = None

    def __enter__(self) -> Self:
        self._began = time.monotonic()
        if self._terminal:
            loop = asyncio.get_running_loop()
            self._later = loop.call_later(BAR_AFTER_SECONDS, self._bar.start)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._later is not None:
            self._later.cancel()
            if self._bar.live.is_started:
                self._bar.stop()

    def progress(self, done: int, total: int | None) -> None:
        """The callback for the client."""
        self.size = done if total is None else total
        description = self._after if done == total else self._during
        if self._begun:
            self._bar.update(self._task, completed=done, total=total, description=description)
        else:
            self._bar.reset(self._task, completed=done, total=total, description=description)
            if done and (total is None or done < total):
                self._say(f"going on from {decimal(done)}")
            self._begun = True
        self.moved = self.moved or done > 0

    def conclude(self, what: str, size: int) -> None:
        """Say what was done, of how many bytes, and how long it took."""
        self._say(f"{what} ({decimal(size)} in {time.monotonic() - self._began:.1f} s)")

    def _say(self, line: str) -> None:
        if self._terminal:
            self._console.print(line, markup=False, highlight=False, emoji=False, soft_wrap=True)
