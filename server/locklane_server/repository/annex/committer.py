"""Committing git-annex's journal, so that other clones learn where content is.

A burst of changes is one commit: some seconds after the last of them, but not long after the first.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from locklane_server.repository import RepositoryError

QUIET_SECONDS = 3.0
"""From the last change of a burst to the commit."""

LONGEST_SECONDS = 8.0
"""From the first change to the commit, however many follow. With the time that a commit takes, a
clone that fetches ten seconds after a change has it."""

FIRST_RETRY_SECONDS = 5.0
LAST_RETRY_SECONDS = 300.0
"""Bounds of the time from a commit that failed to the next attempt, doubled after each."""

CLOSING_SECONDS = 20.0
"""How long the end waits for the last commit."""

_log = logging.getLogger(__name__)


class Schedule:
    """When to commit. All times in seconds, of one clock that never goes back.

    :param quiet: from the last change to the commit.
    :param longest: from the first change to the commit.
    """

    def __init__(self, quiet: float = QUIET_SECONDS, longest: float = LONGEST_SECONDS) -> None:
        self._quiet = quiet
        self._longest = longest
        self._first: float | None = None
        self._last = 0.0
        self._failures = 0
        self._not_before = float("-inf")

    @property
    def due_at(self) -> float | None:
        """When to commit if nothing changes until then; ``None``: there is nothing to commit."""
        if self._first is None:
            return None
        return max(
            min(self._last + self._quiet, self._first + self._longest),
            self._not_before,
        )

    def due(self, now: float) -> bool:
        """Whether it is time to commit."""
        due_at = self.due_at
        return due_at is not None and now >= due_at

    def changed(self, now: float) -> None:
        """Something changed."""
        if self._first is None:
            self._first = now
        self._last = now

    def begun(self) -> None:
        """What has changed until now is being committed."""
        self._first = None

    def done(self) -> None:
        """The commit that was begun is made."""
        self._failures = 0
        self._not_before = float("-inf")

    def failed(self, now: float) -> float:
        """The commit that was begun was not made: what it was for has to wait for another.

        :returns: seconds to the next attempt.
        """
        pause = min(FIRST_RETRY_SECONDS * 2.0**self._failures, LAST_RETRY_SECONDS)
        self._failures = min(self._failures + 1, 32)
        self._not_before = now + pause
        self.changed(now)
        return pause


class Committer:
    """Commits at the right time, one commit after the other. Belongs to one event loop.

    :param commit: makes the commit; a :class:`RepositoryError` if that fails. Ends soon, with
        nothing left running, when it is cancelled.
    :param pending: whether there is something to commit; somebody else may have done it.
    """

    def __init__(
        self,
        commit: Callable[[], Awaitable[None]],
        pending: Callable[[], bool],
        *,
        name: str,
        schedule: Schedule | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._commit = commit
        self._pending = pending
        self._name = name
        self._schedule = schedule or Schedule()
        self._clock = clock
        self._task: asyncio.Task[None] | None = None
        self._committing = asyncio.Lock()
        self._closed = False
        self.trouble: str | None = None
        """Why the last attempt failed; ``None``: it did not."""

    def changed(self) -> None:
        """Something is in the journal. Called on the event loop after each change, and once at the
        start if an earlier server left something there. Costs next to nothing."""
        if self._closed:
            return
        self._schedule.changed(self._clock())
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._work(), name=f"commits of {self._name}")

    async def aclose(self, within: float = CLOSING_SECONDS) -> None:
        """Commit what is left, and stop. Call it when nothing changes any more.

        :param within: seconds. What is not committed then stays in the journal, and the next
            git-annex that runs in the repository commits it.
        """
        if self._closed:
            return
        self._closed = True
        try:
            async with asyncio.timeout(within):
                async with self._committing:  # one that is under way is let finish
                    await self._stop()
                if self._pending():
                    await self._attempt()
        except TimeoutError:
            _log.warning(
                "%s: not all changes could be committed in %g s; they are in git-annex's journal, "
                "and the next git-annex command there commits them",
                self._name,
                within,
            )
        finally:
            await self._stop()

    async def _stop(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    async def _work(self) -> None:
        """Until nothing is left to commit."""
        while (due_at := self._schedule.due_at) is not None:
            now = self._clock()
            if due_at > now:
                await asyncio.sleep(due_at - now)
            else:
                await self._attempt()

    async def _attempt(self) -> None:
        async with self._committing:
            self._schedule.begun()
            started = self._clock()
            try:
                if self._pending():
                    await self._commit()
                    _log.info(
                        "%s: committed the journal in %.2f s", self._name, self._clock() - started
                    )
            except RepositoryError as error:
                self.trouble = str(error)
                pause = self._schedule.failed(self._clock())
                again = "" if self._closed else f"; the next attempt is in {pause:g} s"
                _log.warning("%s: cannot commit the journal: %s%s", self._name, error, again)
            else:
                self.trouble = None
                self._schedule.done()
