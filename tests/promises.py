"""What servers have promised about keys, so that nobody who takes part can be wronged unnoticed.

Every request is an interval: it begins when it is sent and ends when its answer is here, and what
it did was done somewhere between. A request without an answer may have been done or not, until the
server that it was sent to was gone. Only what follows whatever happened in between is asserted.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from locklane_client import Key
from locklane_client.wire import RETENTION

SLACK = 0.1
"""Seconds: retention ends at a whole hundredth."""


@dataclass
class Promise:
    """A lock that was answered ``locked: true``."""

    key: Key
    asked: float
    answered: float
    unlocked: float = math.inf
    """When an unlock was sent."""
    lost: bool = False
    """It never will be: the hold has ended without it."""

    def holds(self, begin: float, end: float) -> bool:
        """Whether it keeps the content for all of this time, whatever becomes of the server."""
        kept_until = min(self.unlocked, self.asked + RETENTION - SLACK)
        return self.answered <= begin and end < kept_until


@dataclass
class Removal:
    """A request to remove, which may have removed the content until ``ended``."""

    begun: float
    ended: float = math.inf
    refused: bool = False
    removed: bool = False


@dataclass
class Known:
    """What is known of one key."""

    seen: float = -math.inf
    """The latest time after which it was there: the beginning of a request that showed it."""
    shown: float = math.inf
    """And its end."""
    locks: list[Promise] = field(default_factory=list)
    removals: list[Removal] = field(default_factory=list)
    copies: set[str] = field(default_factory=set)
    """Who else has the content."""
    kept: set[str] = field(default_factory=set)
    """Who is about to drop it, or relies on having it."""


class Promises:
    """See the module. For one thread."""

    def __init__(self) -> None:
        self._known: defaultdict[Key, Known] = defaultdict(Known)
        self.history: defaultdict[Key, list[str]] = defaultdict(list)
        """What happened to each key, for whoever has to find out why."""

    def note(self, key: Key, what: str, begun: float) -> None:
        self.history[key].append(f"{begun:.3f} to {time.monotonic():.3f}: {what}")

    # -- presence ----------------------------------------------------------------------------------

    def shown(self, key: Key, begun: float) -> None:
        """An answer that is here just now says that the content is on the server: it is stored,
        locked, downloaded or present."""
        known = self._known[key]
        if begun > known.seen:
            known.seen, known.shown = begun, time.monotonic()

    def must_be_there(self, key: Key, begin: float, end: float) -> str | None:
        """Why the content has to be on the server during all of this time, if it has to."""
        known = self._known[key]
        if any(lock.holds(begin, end) for lock in known.locks):
            return "it is locked"
        others = (removal for removal in known.removals if not removal.refused)
        if known.shown <= begin and all(removal.ended < known.seen for removal in others):
            return "it was there, and nobody has asked for its removal since"
        return None

    def absent(self, key: Key, begun: float) -> None:
        """An answer that is here just now says that the content is not there."""
        now = time.monotonic()
        why = self.must_be_there(key, begun, now)
        assert why is None, (
            f"{key} was not there from {begun:.3f} to {now:.3f}, though {why}:\n"
            + "\n".join(self.history[key])
        )

    # -- removal -----------------------------------------------------------------------------------

    @contextmanager
    def removal(self, key: Key) -> Iterator[Removal]:
        """Around a request to remove: ``refused`` or ``removed`` is set by who gets an answer."""
        known = self._known[key]
        removal = Removal(time.monotonic())
        known.removals = [each for each in known.removals if each.ended >= known.seen]
        known.removals.append(removal)
        try:
            yield removal
        finally:
            removal.ended = time.monotonic()
        if removal.removed:
            for lock in known.locks:
                assert not lock.holds(removal.begun, removal.ended), (
                    f"{key} was removed, though it was locked {removal.begun - lock.asked:.1f} s "
                    "before, and not unlocked since"
                )

    # -- locks -------------------------------------------------------------------------------------

    def locked(self, key: Key, asked: float) -> Promise:
        """An answer that is here just now says that the content is locked."""
        self.shown(key, asked)
        known = self._known[key]
        now = time.monotonic()
        known.locks = [lock for lock in known.locks if lock.holds(lock.answered, now)]
        known.locks.append(promise := Promise(key, asked, now))
        return promise

    def unlocked(self, promise: Promise) -> None:
        """The unlock is about to be sent."""
        promise.unlocked = time.monotonic()

    def stays_locked(self, key: Key, seconds: float) -> bool:
        """Whether it will stay locked for so long, whatever anybody does."""
        now = time.monotonic()
        locks = self._known[key].locks
        return any(lock.lost and lock.holds(now, now + seconds) for lock in locks)

    # -- other copies ------------------------------------------------------------------------------

    def has(self, key: Key, who: str) -> bool:
        return who in self._known[key].copies

    def gets(self, key: Key, who: str) -> None:
        self._known[key].copies.add(who)

    def drops(self, key: Key, who: str) -> None:
        self._known[key].copies.discard(who)

    @contextmanager
    def own_copy(self, key: Key, who: str) -> Iterator[bool]:
        """Lock one's own copy, to drop it or to rely on it; no: one has none, or it is locked."""
        known = self._known[key]
        if who not in known.copies or who in known.kept:
            yield False
            return
        known.kept.add(who)
        try:
            yield True
        finally:
            known.kept.discard(who)

    def copies(self, key: Key) -> set[str]:
        """Who else has it."""
        return set(self._known[key].copies)
