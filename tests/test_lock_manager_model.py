"""The lock manager against a model so simple that it can be seen to be right.

The model scans all its locks at every step and knows nothing of heaps, counts or stale entries.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from locklane_server.locks import MAX_HOLDS, Lock, LockManager, Refusal

RETENTION = 10.0
KEYS = ["A--1", "A--2", "A--3"]
STALE = 64
"""Ends of locks that are kept beyond twice the locks, before stale ones are swept out."""

# Time passes before a decision, so that it is often the first to see that a lock is over.
later = st.sampled_from([0.0] * 10 + [0.5, 0.5, 0.5, 2.5, RETENTION - 0.5, RETENTION])
picks = st.integers(0, 7)


@dataclass
class ModelLock:
    key: str
    locked_at: float
    holds: int


class Machine(RuleBasedStateMachine):
    @initialize(limit=st.integers(1, 8))
    def start(self, limit: int) -> None:
        self.limit = limit
        self.numbers = itertools.count(1)
        self.now = 0.0
        self.locks: dict[str, ModelLock] = {}
        self.removing: set[str] = set()
        self.all_ids: list[str] = []
        self.expired: list[str] = []
        self.manager = self.new_manager()

    def new_manager(self) -> LockManager:
        return LockManager(
            limit=self.limit, retention=RETENTION, new_id=lambda: f"id{next(self.numbers)}"
        )

    # -- the model ---------------------------------------------------------------------------------

    def over(self, lock: ModelLock) -> bool:
        return lock.holds == 0 and self.now >= lock.locked_at + RETENTION

    def end_what_is_over(self) -> None:
        for lock_id, lock in list(self.locks.items()):
            if self.over(lock):
                del self.locks[lock_id]
                self.expired.append(lock_id)

    def on(self, key: str) -> int:
        return sum(lock.key == key for lock in self.locks.values())

    def pick(self, number: int) -> str:
        """The id of a lock, or now and then of none: ended, or never given out."""
        ended = [each for each in self.all_ids if each not in self.locks]
        known = [*self.locks, *ended[-2:], "never given out"]
        return known[number % len(known)]

    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.end_what_is_over()

    # -- steps -------------------------------------------------------------------------------------

    @rule(key=st.sampled_from(KEYS), live=st.booleans(), after=later)
    def lock(self, key: str, live: bool, after: float) -> None:
        self.wait(after)
        answer = self.manager.lock(key, "owner", "longpoll", self.now, live=live)
        if key in self.removing:
            assert answer is Refusal.REMOVING
        elif len(self.locks) >= self.limit:
            assert answer is Refusal.LIMIT
        else:
            assert isinstance(answer, Lock)
            assert (answer.key, answer.owner, answer.locked_at) == (key, "owner", self.now)
            assert answer.id not in self.all_ids, "an id was given out again"
            self.all_ids.append(answer.id)
            self.locks[answer.id] = ModelLock(key, self.now, int(live))

    @rule(pick=picks, times=st.sampled_from([1, 1, 1, 3, MAX_HOLDS]), after=later)
    def keep(self, pick: int, times: int, after: float) -> None:
        lock_id = self.pick(pick)
        self.wait(after)
        for _ in range(times):
            answer = self.manager.keep(lock_id, self.now)
            if lock_id in self.locks and self.locks[lock_id].holds == MAX_HOLDS:
                assert answer is Refusal.HOLDS
            elif lock_id in self.locks:
                assert isinstance(answer, Lock)
                assert answer.id == lock_id
                self.locks[lock_id].holds += 1
            else:
                assert answer is Refusal.UNKNOWN

    @rule(pick=picks, after=later)
    def lose(self, pick: int, after: float) -> None:
        lock_id = self.pick(pick)
        lock = self.locks.get(lock_id)
        if lock is not None and lock.holds == 0:
            with pytest.raises(ValueError, match="no hold"):
                self.manager.lose(lock_id, self.now)
            return
        self.now += after
        self.manager.lose(lock_id, self.now)
        if lock is not None:
            lock.holds -= 1
        self.end_what_is_over()

    @rule(pick=picks, times=st.sampled_from([1, 100, 100]))
    def flap(self, pick: int, times: int) -> None:
        """A client that comes and goes: each time leaves a stale end behind."""
        lock_id = self.pick(pick)
        self.end_what_is_over()
        for _ in range(times):
            if isinstance(self.manager.keep(lock_id, self.now), Lock):
                assert lock_id in self.locks
                self.manager.lose(lock_id, self.now)
                assert len(self.manager._ends) <= 2 * len(self.manager) + STALE
        self.end_what_is_over()

    @rule(pick=picks, after=later)
    def unlock(self, pick: int, after: float) -> None:
        lock_id = self.pick(pick)
        self.wait(after)
        answer = self.manager.unlock(lock_id, self.now)
        if self.locks.pop(lock_id, None) is None:
            assert answer is Refusal.UNKNOWN
        else:
            assert isinstance(answer, Lock)
            assert answer.id == lock_id

    @rule(
        key=st.sampled_from(KEYS),
        before=st.sampled_from([None, None, -0.5, 0.0, 0.5]),
        after=later,
    )
    def begin_removal(self, key: str, before: float | None, after: float) -> None:
        self.wait(after)
        by = None if before is None else self.now + before
        answer = self.manager.begin_removal(key, self.now, before=by)
        if by is not None and self.now > by:
            assert answer is Refusal.TOO_LATE
        elif key in self.removing:
            assert answer is Refusal.REMOVING
        elif self.on(key):
            assert answer is Refusal.LOCKED, "a removal began while the key was locked"
        else:
            assert answer is None
            self.removing.add(key)

    @rule(key=st.sampled_from(KEYS))
    def end_removal(self, key: str) -> None:
        if key in self.removing:
            self.removing.remove(key)
            self.manager.end_removal(key)
        else:
            with pytest.raises(KeyError):
                self.manager.end_removal(key)

    @rule(after=later)
    def expire(self, after: float) -> None:
        self.wait(after)
        self.manager.expire(self.now)

    @rule()
    def wait_for_the_next_expiry(self) -> None:
        """A timer set by :meth:`LockManager.next_expiry` is never late."""
        said = self.manager.next_expiry()
        if said is not None and said > self.now:
            self.expire(said - self.now)
            after = self.manager.next_expiry()
            assert after is None or after > self.now

    @rule(limit=st.integers(1, 8), down=later)
    def restart(self, limit: int, down: float) -> None:
        """``kill -9``: holds and removals are gone with the process, the locks are on disk."""
        self.now += down
        self.limit = limit
        on_disk = [
            Lock(each.id, each.key, each.owner, each.transport, each.locked_at, each.holds)
            for each in self.manager
        ]
        self.manager = self.new_manager()
        self.removing.clear()
        self.expired.clear()
        for each in on_disk:
            lock = self.locks.get(each.id)
            if lock is not None:
                lock.holds = 0
            kept = self.manager.restore(each, self.now)
            assert kept == (lock is not None and not self.over(lock))
            if not kept:
                self.locks.pop(each.id, None)
        assert not any(self.over(lock) for lock in self.locks.values())

    # -- what always holds -------------------------------------------------------------------------

    # They look and do not expire: each decision has to do that by itself, as the model does.

    @invariant()
    def tells_what_expired(self) -> None:
        told = [lock.id for lock in self.manager.take_expired()]
        assert len(told) == len(set(told)), "a lock was told as expired twice"
        assert set(told) == set(self.expired)
        self.expired.clear()

    @invariant()
    def agrees_with_the_model(self) -> None:
        assert len(self.manager) == len(self.locks)
        assert {lock.id: lock.holds for lock in self.manager} == {
            lock_id: lock.holds for lock_id, lock in self.locks.items()
        }
        assert all(lock.live == (lock.holds > 0) for lock in self.manager)
        assert [self.manager.locks_on(key) for key in KEYS] == [self.on(key) for key in KEYS]
        assert not any(self.on(key) for key in self.removing), "locked and being removed at once"

    @invariant()
    def keeps_nothing_else(self) -> None:
        assert self.manager._on_key == {key: self.on(key) for key in KEYS if self.on(key)}
        assert self.manager._removing == self.removing
        waiting = set(self.manager._ends)
        for lock_id, lock in self.locks.items():
            if lock.holds == 0:
                assert (lock.locked_at + RETENTION, lock_id) in waiting, "it would never end"

    @invariant()
    def nothing_ends_before_the_next_expiry(self) -> None:
        ends = [lock.locked_at + RETENTION for lock in self.locks.values() if lock.holds == 0]
        said = self.manager.next_expiry()
        assert not ends or (said is not None and said <= min(ends))

    def teardown(self) -> None:
        for lock_id, lock in list(self.locks.items()):
            for _ in range(lock.holds):
                self.manager.lose(lock_id, self.now)
        for key in self.removing:
            self.manager.end_removal(key)
        self.manager.expire(self.now + RETENTION)
        assert len(self.manager) == 0, "a lock does not end"
        assert list(self.manager) == []
        manager = self.manager
        assert not any([manager._locks, manager._on_key, manager._ends, manager._removing])
        assert manager.next_expiry() is None


TestLockManager = Machine.TestCase
TestLockManager.settings = settings(
    max_examples=600,
    stateful_step_count=50,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
