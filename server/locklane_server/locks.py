"""The lock manager: which content is locked, for how long, and what may be removed.

It decides and never waits: no I/O, no clock (``now`` is passed in, in seconds of a clock that never
goes back), no tasks. Every method is one whole decision, so that the same decisions can be made
elsewhere by a store that several servers share.

A lock, as in the design page's "lockcontent" and "keeplocked"::

                       lock(live=False)                 lock(live=True)
                             |                                |
                             v           keep                 v
      ended  <--unlock--  RETAINED  ------------------>     LIVE  --unlock-->  ended
        ^                    |   ^                           |  |
        +------expire--------+   +--- lose, ten minutes -----+  +-- lose, ten minutes over --> ended
            ten minutes over              not over

- RETAINED: nobody holds it, but its ten minutes ("retention") are not over. They count from when
  it was *first* locked; being LIVE in between neither shortens nor extends them.
- LIVE: at least one hold is open. The ten minutes do not end it.
- Any number of locks may be on one key. While there is one, the key cannot be removed; while the
  key is being removed, it cannot be locked ("remove").
- An id, once ended, means nothing any more, and is never given out again. (A server that is
  killed may forget an unlock of its last second: then the lock is RETAINED for the rest of its
  time, which does no harm.)
"""

from __future__ import annotations

import enum
import heapq
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from locklane_client.wire import RETENTION

DEFAULT_LIMIT = 100_000
"""Locks that a server holds at once, unless told otherwise."""

CLIENTS_SHARE = 0.5
"""Of these, what one client may hold, unless told otherwise: there is always room for another."""

MAX_HOLDS = 16
"""Holds of one lock that may be open at once. A client has one, and a second while it moves to
another connection."""


class Refusal(enum.Enum):
    """Why a lock or a removal is refused; the value is the sentence for a person."""

    LIMIT = "the server holds as many locks as it may; try again later, or raise --lockedfiles"
    CLIENT_LIMIT = (
        "the server holds as many locks for this client as for one it may; try again later, or "
        "raise --lockedfiles-per-client"
    )
    HOLDS = "as many requests keep this lock already as may; it stays until its time"
    DESCRIPTORS = (
        "the server has as many files open for locks as it may; try again later, or raise its "
        "limit of descriptors (ulimit -n)"
    )
    REMOVING = "the content is being removed"
    LOCKED = "the content is locked"
    NOT_PRESENT = "the content is not present"
    TOO_LONG = (
        "the key is too long for the name of a lock file beside its content, so that it cannot be "
        "locked"
    )
    TOO_LATE = "the time by which the content had to be removed is over"
    UNKNOWN = "no such lock: it was never taken, has been unlocked, or its ten minutes are over"


@dataclass(slots=True, eq=False)
class Lock:
    """One lock on the content of one key."""

    id: str
    key: str
    owner: str
    """UUID of the client's repository."""
    transport: str
    """Name of the transport that took it."""
    locked_at: float
    """When it was first locked, in seconds of the clock passed in."""
    holds: int
    """Holds now open: LIVE while over 0."""
    user: str | None = None
    """Who alone may keep and unlock it; ``None``: whoever knows its id."""
    account: str = ""
    """Whom it is counted for: the user, or where that is not known the client's address."""

    @property
    def live(self) -> bool:
        """Whether a hold is open, so that the ten minutes do not end it."""
        return self.holds > 0


class RandomIds:
    """Ids that nobody can guess: 128 bits each, fetched from the system for many at a time."""

    SIZE = 16
    AT_ONCE = 256

    def __init__(self) -> None:
        self._store = b""
        self._used = 0

    def __call__(self) -> str:
        if self._used >= len(self._store):
            self._store, self._used = secrets.token_bytes(self.SIZE * self.AT_ONCE), 0
        begin = self._used
        self._used += self.SIZE
        return self._store[begin : self._used].hex()


class Allowance:
    """How many locks there may be at once: in all, and for one client. The managers of a server's
    repositories share one.

    :param total: 1 or more; a further lock is refused with :attr:`Refusal.LIMIT`.
    :param per_client: 1 or more; with :attr:`Refusal.CLIENT_LIMIT`. Default: half of them.
    """

    def __init__(self, total: int = DEFAULT_LIMIT, per_client: int | None = None) -> None:
        if per_client is None:
            per_client = max(1, int(total * CLIENTS_SHARE))
        for limit in (total, per_client):
            if limit < 1:
                raise ValueError(f"the limit of locks has to be 1 or more, not {limit}")
        self.total = total
        self.per_client = per_client
        self._taken = 0
        self._of: dict[str, int] = {}

    def refusal(self, account: str) -> Refusal | None:
        """Why there may not be one more for a client, if there may not."""
        if self._taken >= self.total:
            return Refusal.LIMIT
        if account and self._of.get(account, 0) >= self.per_client:
            return Refusal.CLIENT_LIMIT
        return None

    def take(self, account: str) -> None:
        """There is one more. ``account``: empty where nobody knows whose it is."""
        self._taken += 1
        self._of[account] = self._of.get(account, 0) + 1

    def give_back(self, account: str) -> None:
        """There is one less."""
        self._taken -= 1
        left = self._of[account] - 1
        if left:
            self._of[account] = left
        else:
            del self._of[account]


class LockManager:
    """The locks and removals of one repository.

    :param limit: locks at once, 1 or more, where no ``allowance`` is given.
    :param allowance: shared with other repositories.
    :param retention: seconds that a lock outlives its hold, from when it was first locked.
    :param new_id: gives ids; each has to be new. Default: random ones.
    """

    def __init__(
        self,
        *,
        limit: int = DEFAULT_LIMIT,
        allowance: Allowance | None = None,
        retention: float = RETENTION,
        new_id: Callable[[], str] | None = None,
    ) -> None:
        self._allowance = allowance or Allowance(limit, limit)
        self.retention = retention
        self._new_id = new_id or RandomIds()
        self._locks: dict[str, Lock] = {}
        self._on_key: dict[str, int] = {}
        self._removing: set[str] = set()
        # When RETAINED locks end, soonest first. An entry whose lock has been unlocked or is LIVE
        # is stale; stale entries are passed over, and swept out before they are the most.
        self._ends: list[tuple[float, str]] = []
        self._expired: list[Lock] = []

    # -- locks -------------------------------------------------------------------------------------

    def lock(
        self,
        key: str,
        owner: str,
        transport: str,
        now: float,
        *,
        live: bool,
        user: str | None = None,
        account: str = "",
    ) -> Lock | Refusal:
        """Take a lock: RETAINED, or LIVE if the hold begins with it.

        :param user: the only one who may keep and unlock it; ``None``: whoever knows its id.
        :param account: whom to count it for.

        Whether the content is there has to be checked afterwards, while the lock keeps it from
        being removed ("a content lock holds only while the object is there").
        """
        self.expire(now)
        if key in self._removing:
            return Refusal.REMOVING
        refusal = self._allowance.refusal(account)
        if refusal is not None:
            return refusal
        lock = Lock(self._new_id(), key, owner, transport, now, 1 if live else 0, user, account)
        self._add(lock)
        return lock

    def restore(self, lock: Lock, now: float) -> bool:
        """Take over, as RETAINED, a lock that an earlier server had given out.

        It counts against the limit but is never refused for it: the promise was made.

        :returns: whether its ten minutes were not over yet.
        """
        lock.holds = 0
        if now >= lock.locked_at + self.retention:
            return False
        self._add(lock)
        return True

    def keep(self, lock_id: str, now: float, *, user: str | None = None) -> Lock | Refusal:
        """A hold of the lock is open from now on."""
        lock = self.find(lock_id, now, user=user)
        if isinstance(lock, Refusal):
            return lock
        if lock.holds >= MAX_HOLDS:
            return Refusal.HOLDS
        lock.holds += 1
        return lock

    def find(self, lock_id: str, now: float, *, user: str | None = None) -> Lock | Refusal:
        """The lock of that id, if it has not ended. Nothing changes.

        :param user: who asks; to another than the one who took it, there is no such lock.
        """
        self.expire(now)
        lock = self._locks.get(lock_id)
        if lock is None or lock.user not in (None, user):
            return Refusal.UNKNOWN
        return lock

    def lose(self, lock_id: str, now: float) -> None:
        """A hold ended without an unlock. Back to RETAINED with the last one, or to the end.

        Does nothing if the lock has been unlocked through another hold.
        """
        lock = self._locks.get(lock_id)
        if lock is not None:
            if lock.holds == 0:
                raise ValueError(f"lock {lock_id} has no hold that could be lost")
            lock.holds -= 1
            if lock.holds == 0:
                self._count_down(lock)
        self.expire(now)

    def unlock(self, lock_id: str, now: float) -> Lock | Refusal:
        """End a lock at once, whoever else holds it too."""
        self.expire(now)
        lock = self._locks.get(lock_id)
        if lock is None:
            return Refusal.UNKNOWN
        self._end(lock)
        return lock

    # -- removals ----------------------------------------------------------------------------------

    def begin_removal(self, key: str, now: float, *, before: float | None = None) -> Refusal | None:
        """Keep locks off a key while its content is removed; :meth:`end_removal` ends that.

        :param before: refuse if ``now`` is past this time ("remove-before").
        :returns: why not, or ``None`` if the removal may begin.
        """
        self.expire(now)
        if before is not None and now > before:
            return Refusal.TOO_LATE
        if key in self._removing:
            return Refusal.REMOVING
        if key in self._on_key:
            return Refusal.LOCKED
        self._removing.add(key)
        return None

    def end_removal(self, key: str) -> None:
        """The removal is over, whether it succeeded or not."""
        self._removing.remove(key)

    # -- time --------------------------------------------------------------------------------------

    def expire(self, now: float) -> None:
        """End every RETAINED lock whose ten minutes are over at ``now``. O(log n) for each.

        Every decision begins with this; :meth:`take_expired` tells what ended.
        """
        while self._ends and self._ends[0][0] <= now:
            until, lock_id = heapq.heappop(self._ends)
            lock = self._locks.get(lock_id)
            if lock is not None and not lock.live and self.retained_until(lock) == until:
                self._end(lock)
                self._expired.append(lock)

    def take_expired(self) -> list[Lock]:
        """The locks that their retention has ended since this was last asked."""
        expired, self._expired = self._expired, []
        return expired

    def next_expiry(self) -> float | None:
        """A time before which no lock expires; ``None`` while none can."""
        return self._ends[0][0] if self._ends else None

    def retained_until(self, lock: Lock) -> float:
        """When the lock ends if no hold is open then."""
        return lock.locked_at + self.retention

    # -- what there is -----------------------------------------------------------------------------

    def __len__(self) -> int:
        """Locks that have not ended, LIVE and RETAINED."""
        return len(self._locks)

    def __iter__(self) -> Iterator[Lock]:
        return iter(self._locks.values())

    def locks_on(self, key: str) -> int:
        """Locks on one key."""
        return self._on_key.get(key, 0)

    # -- bookkeeping -------------------------------------------------------------------------------

    def _add(self, lock: Lock) -> None:
        if lock.id in self._locks:
            raise ValueError(f"lock id {lock.id} is in use")
        self._allowance.take(lock.account)
        self._locks[lock.id] = lock
        self._on_key[lock.key] = self._on_key.get(lock.key, 0) + 1
        if not lock.live:
            self._count_down(lock)

    def _count_down(self, lock: Lock) -> None:
        heapq.heappush(self._ends, (self.retained_until(lock), lock.id))
        if len(self._ends) > 2 * len(self._locks) + 64:
            self._ends = [
                (self.retained_until(each), each.id)
                for each in self._locks.values()
                if not each.live
            ]
            heapq.heapify(self._ends)

    def _end(self, lock: Lock) -> None:
        del self._locks[lock.id]
        self._allowance.give_back(lock.account)
        left = self._on_key[lock.key] - 1
        if left:
            self._on_key[lock.key] = left
        else:
            del self._on_key[lock.key]
