"""When a promise ends that is written down in wall-clock time, although that clock may be stepped.

``KEYFILE.rtm`` says when it ends by the wall clock, which anybody may set: NTP sets it soon after a
machine has started, often by more than ten minutes. Within one run of the machine there is a clock
that nobody sets (:mod:`locklane_server.clock`), and the difference between the two stays what it is
but for such steps. Who remembers the differences that there were, and until when, knows what a
promise meant when it was made: the time is counted that has really passed.

- A promise is never taken to end sooner than it does, if it was made under a difference that is
  remembered here.
- Nor much later: what is promised is promised for ten minutes at the most. What seems to be further
  ahead than that was written before the clock went back. (When such a clock comes to that time
  again, the promise cannot be told from a new one, and counts once more, for ten minutes.)
- What no difference explains is taken as it is read now, or as it was read before, whichever is
  longer: somebody may have promised more, or while nobody watched the clock.

This decides only: the clocks are read by :mod:`~locklane_server.repository.annex.wallclock`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

from locklane_client.wire import RETENTION

TOLERANCE_SECONDS = 0.05
"""Differences no further apart are the same: two clocks cannot be read at once."""

_SLACK_SECONDS = 1.0
"""What a promise may be too long, for reading, rounding and waiting."""


@dataclass(frozen=True, slots=True)
class Era:
    """A time in which the wall clock was not stepped."""

    since: float
    """When it was first seen, in seconds since the machine was started."""
    offset: float
    """Wall clock less the time since the machine was started."""


Eras = tuple[Era, ...]
"""One after the other; the last goes on."""


def merged(eras: Iterable[Era]) -> Eras:
    """What several processes have seen, in its order. The first who saw a step is the nearest."""
    result: list[Era] = []
    for era in sorted(eras, key=lambda era: era.since):
        if not result or is_stepped(result[-1].offset, era.offset):
            result.append(era)
    return tuple(result)


def is_stepped(before: float, offset: float) -> bool:
    """Whether these are the differences of two eras."""
    return abs(offset - before) > TOLERANCE_SECONDS


def needed(eras: Eras, now: float) -> Eras:
    """Those that may still tell something: a promise made in them may go on, or seem to."""
    if not eras:
        return eras
    current = eras[-1].offset
    kept = []
    for era, following in pairwise(eras):
        last = following.since + RETENTION + _SLACK_SECONDS
        if now <= last or now + current <= last + era.offset:
            kept.append(era)
    return (*kept, eras[-1])


def end(eras: Eras, until: float, now: float, offset: float) -> float:
    """When a promise really ends, in seconds since the machine was started.

    :param until: when it ends by the wall clock, as whoever made it read that.
    :param now: seconds since the machine was started.
    :param offset: the difference as it is read now, that of the last era.
    """
    possible = []
    explained = []
    # A process that saw the next era first did so after the last promise of this one.
    for era, following in pairwise(eras):
        ends = until - era.offset + TOLERANCE_SECONDS
        possible.append(ends)
        if ends <= following.since + RETENTION + _SLACK_SECONDS:
            explained.append(ends)
    ends = until - offset
    possible.append(ends)
    if ends <= now + RETENTION + _SLACK_SECONDS:
        explained.append(ends)
    return max(explained or possible)
