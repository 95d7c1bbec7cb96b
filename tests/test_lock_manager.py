"""Every transition of the diagram at the top of ``locks.py``, one claim per test."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest

from locklane_client.wire import RETENTION
from locklane_server.locks import Lock, LockManager, RandomIds, Refusal

KEY = "SHA256E-s10--ab12.txt"
OTHER_KEY = "SHA256E-s11--cd34.txt"
OWNER = "c5b1a7f4-1bb0-4f9f-8a3c-6b8e7d5d2c11"
START = 1000.0
END = START + RETENTION


def counted_ids() -> Callable[[], str]:
    numbers = itertools.count(1)
    return lambda: f"id{next(numbers)}"


@pytest.fixture
def manager() -> LockManager:
    return LockManager(limit=3, new_id=counted_ids())


def locked(manager: LockManager, key: str = KEY, now: float = START, *, live: bool = False) -> Lock:
    lock = manager.lock(key, OWNER, "longpoll", now, live=live)
    assert isinstance(lock, Lock)
    return lock


def kept(manager: LockManager, lock: Lock, now: float) -> None:
    assert manager.keep(lock.id, now) is lock


def left(manager: LockManager, lock: Lock, now: float) -> bool:
    """Whether the lock has not ended at ``now``, asked without changing it."""
    manager.expire(now)
    return lock in list(manager)


def test_a_manager_of_no_locks_is_not_made() -> None:
    with pytest.raises(ValueError, match="1 or more, not 0"):
        LockManager(limit=0)


# -- lock ------------------------------------------------------------------------------------------


def test_a_new_lock_says_what_it_was_taken_for(manager: LockManager) -> None:
    lock = locked(manager)
    assert (lock.id, lock.key, lock.owner, lock.transport, lock.locked_at, lock.holds) == (
        "id1",
        KEY,
        OWNER,
        "longpoll",
        START,
        0,
    )
    assert not lock.live
    assert manager.retained_until(lock) == END
    assert list(manager) == [lock]
    assert (len(manager), manager.locks_on(KEY), manager.locks_on(OTHER_KEY)) == (1, 1, 0)


def test_a_lock_taken_live_has_one_hold(manager: LockManager) -> None:
    lock = locked(manager, live=True)
    assert lock.live
    assert lock.holds == 1


def test_any_number_of_locks_may_be_on_one_key(manager: LockManager) -> None:
    first, second = locked(manager), locked(manager, live=True)
    assert first.id != second.id
    assert manager.locks_on(KEY) == len(manager) == 2


def test_one_lock_more_than_the_limit_is_refused_and_changes_nothing(manager: LockManager) -> None:
    taken = [locked(manager, key) for key in (KEY, KEY, OTHER_KEY)]
    assert manager.lock("A--third", OWNER, "longpoll", START, live=False) is Refusal.LIMIT
    assert manager.lock(KEY, OWNER, "longpoll", START, live=True) is Refusal.LIMIT
    assert "as many locks as it may" in Refusal.LIMIT.value
    assert list(manager) == taken
    assert [manager.locks_on(key) for key in (KEY, OTHER_KEY, "A--third")] == [2, 1, 0]
    assert manager.begin_removal("A--third", START) is None


@pytest.mark.parametrize("live", [False, True])
def test_an_unlock_makes_room_under_the_limit(manager: LockManager, live: bool) -> None:
    first, *_ = [locked(manager, live=live) for _ in range(3)]
    assert manager.unlock(first.id, START) is first
    locked(manager)
    assert manager.lock(KEY, OWNER, "longpoll", START, live=live) is Refusal.LIMIT


def test_an_expired_lock_makes_room_under_the_limit_by_itself(manager: LockManager) -> None:
    for _ in range(3):
        locked(manager)
    assert manager.lock(KEY, OWNER, "longpoll", END - 1e-6, live=False) is Refusal.LIMIT
    locked(manager, now=END)
    assert len(manager) == 1


def test_a_key_under_removal_is_refused_even_at_the_limit_with_that_reason() -> None:
    manager = LockManager(limit=1)
    locked(manager, OTHER_KEY)
    assert manager.begin_removal(KEY, START) is None
    assert manager.lock(KEY, OWNER, "longpoll", START, live=False) is Refusal.REMOVING


def test_an_id_in_use_is_refused() -> None:
    manager = LockManager(new_id=lambda: "same")
    locked(manager)
    with pytest.raises(ValueError, match="lock id same is in use"):
        manager.lock(OTHER_KEY, OWNER, "longpoll", START, live=False)
    assert (len(manager), manager.locks_on(KEY), manager.locks_on(OTHER_KEY)) == (1, 1, 0)


def test_ids_are_long_and_never_the_same() -> None:
    new_id = RandomIds()
    ids = {new_id() for _ in range(1000)}
    assert len(ids) == 1000
    assert {len(each) for each in ids} == {32}


# -- RETAINED: expiry ------------------------------------------------------------------------------


def test_a_retained_lock_ends_exactly_when_its_ten_minutes_are_over(manager: LockManager) -> None:
    lock = locked(manager)
    assert left(manager, lock, END - 1e-6)
    assert not left(manager, lock, END)
    assert (len(manager), manager.locks_on(KEY)) == (0, 0)


@pytest.mark.parametrize("live", [False, True])
def test_a_lock_keeps_its_key_from_removal_until_it_ends(manager: LockManager, live: bool) -> None:
    lock = locked(manager, live=live)
    if live:
        manager.lose(lock.id, START + 1)
    assert manager.begin_removal(KEY, END - 1e-6) is Refusal.LOCKED
    assert manager.begin_removal(KEY, END) is None


def test_a_retention_of_another_length_is_kept_to() -> None:
    manager = LockManager(retention=5.0)
    lock = locked(manager)
    assert manager.retained_until(lock) == START + 5
    assert left(manager, lock, START + 4.9)
    assert not left(manager, lock, START + 5)


def test_what_expired_is_told_once_in_the_order_of_the_ends(manager: LockManager) -> None:
    locks = [locked(manager, now=START + second) for second in (0, 1, 2)]
    assert manager.take_expired() == []
    manager.expire(END + 1)
    assert manager.take_expired() == locks[:2]
    assert manager.take_expired() == []
    manager.expire(END + 2)
    assert manager.take_expired() == locks[2:]


@pytest.mark.parametrize("decision", ["lock", "keep", "lose", "unlock", "begin_removal", "expire"])
def test_every_decision_first_ends_what_is_over(manager: LockManager, decision: str) -> None:
    over = locked(manager, now=START)
    other = locked(manager, OTHER_KEY, START + 100, live=True)
    match decision:
        case "lock":
            locked(manager, now=END)
        case "keep":
            kept(manager, other, END)
        case "lose":
            manager.lose(other.id, END)
        case "unlock":
            manager.unlock(other.id, END)
        case "begin_removal":
            manager.begin_removal(KEY, END)
        case "expire":
            manager.expire(END)
    assert manager.take_expired() == [over]


def test_an_unlocked_lock_is_not_told_as_expired(manager: LockManager) -> None:
    lock = locked(manager)
    manager.unlock(lock.id, START)
    manager.expire(END)
    assert manager.take_expired() == []


# -- LIVE: keep and lose ---------------------------------------------------------------------------


def test_a_kept_lock_is_live(manager: LockManager) -> None:
    lock = locked(manager)
    kept(manager, lock, START + 1)
    assert lock.live


@pytest.mark.parametrize("live", [False, True])
def test_a_lock_outlasts_its_ten_minutes_while_it_is_held(manager: LockManager, live: bool) -> None:
    lock = locked(manager, live=live)
    if not live:
        kept(manager, lock, END - 1e-6)
    assert left(manager, lock, END + 10 * RETENTION)
    assert manager.begin_removal(KEY, END + 10 * RETENTION) is Refusal.LOCKED
    assert manager.take_expired() == []


def test_a_hold_lost_before_the_ten_minutes_are_over_leaves_the_rest(manager: LockManager) -> None:
    lock = locked(manager, live=True)
    manager.lose(lock.id, START + 400)
    assert not lock.live
    assert left(manager, lock, END - 1e-6)
    assert not left(manager, lock, END)
    assert manager.take_expired() == [lock]


@pytest.mark.parametrize("after", [0.0, 1e-6, 5 * RETENTION])
def test_a_hold_lost_when_the_ten_minutes_are_over_ends_the_lock(
    manager: LockManager, after: float
) -> None:
    lock = locked(manager, live=True)
    manager.lose(lock.id, END + after)
    assert (len(manager), manager.locks_on(KEY)) == (0, 0)
    assert manager.take_expired() == [lock]
    assert manager.begin_removal(KEY, END + after) is None


def test_holds_neither_lengthen_nor_shorten_the_ten_minutes(manager: LockManager) -> None:
    lock = locked(manager)
    for second in range(10, 500, 10):
        kept(manager, lock, START + second)
        manager.lose(lock.id, START + second + 5)
    assert lock.locked_at == START
    assert left(manager, lock, END - 1e-6)
    assert not left(manager, lock, END)
    assert manager.take_expired() == [lock]


def test_a_lock_with_two_holds_is_live_until_the_last_is_lost(manager: LockManager) -> None:
    lock = locked(manager, live=True)
    kept(manager, lock, START + 1)
    assert lock.holds == 2
    manager.lose(lock.id, START + 2)
    assert lock.live
    assert left(manager, lock, END + 1)
    manager.lose(lock.id, END + 2)
    assert len(manager) == 0
    assert manager.take_expired() == [lock]


def test_a_lock_can_be_held_again_after_the_hold_is_lost(manager: LockManager) -> None:
    lock = locked(manager, live=True)
    manager.lose(lock.id, START + 1)
    kept(manager, lock, START + 2)
    assert left(manager, lock, END + 1)


def test_losing_a_hold_that_is_not_there_is_an_error_and_changes_nothing(
    manager: LockManager,
) -> None:
    lock = locked(manager)
    with pytest.raises(ValueError, match="lock id1 has no hold that could be lost"):
        manager.lose(lock.id, START)
    assert lock.holds == 0
    assert left(manager, lock, END - 1e-6)


def test_losing_the_hold_of_a_lock_that_was_unlocked_through_another_does_nothing(
    manager: LockManager,
) -> None:
    lock = locked(manager, live=True)
    kept(manager, lock, START)
    manager.unlock(lock.id, START)
    manager.lose(lock.id, START)
    assert len(manager) == 0
    assert manager.take_expired() == []


@pytest.mark.parametrize("now", [END, END + 1])
def test_an_expired_lock_cannot_be_held_again(manager: LockManager, now: float) -> None:
    lock = locked(manager)
    assert manager.keep(lock.id, now) is Refusal.UNKNOWN
    assert not lock.live


@pytest.mark.parametrize("lock_id", ["", "id2", "ID1", "id1 "])
def test_an_unknown_id_can_be_neither_held_nor_unlocked(manager: LockManager, lock_id: str) -> None:
    locked(manager)
    assert manager.keep(lock_id, START) is Refusal.UNKNOWN
    assert manager.unlock(lock_id, START) is Refusal.UNKNOWN
    manager.lose(lock_id, START)
    assert len(manager) == 1


# -- unlock ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("holds", [0, 1, 2])
def test_an_unlock_ends_the_lock_at_once_whoever_holds_it(manager: LockManager, holds: int) -> None:
    lock = locked(manager)
    for _ in range(holds):
        kept(manager, lock, START)
    assert manager.unlock(lock.id, START + 1) is lock
    assert len(manager) == 0
    assert manager.begin_removal(KEY, START + 1) is None


def test_an_unlock_leaves_the_other_lock_on_the_key(manager: LockManager) -> None:
    first, second = locked(manager), locked(manager, now=START + 1)
    manager.unlock(first.id, START + 2)
    assert list(manager) == [second]
    assert manager.locks_on(KEY) == 1
    assert manager.begin_removal(KEY, END) is Refusal.LOCKED
    assert manager.begin_removal(KEY, END + 1) is None


def test_an_id_means_nothing_once_it_is_unlocked(manager: LockManager) -> None:
    lock = locked(manager, live=True)
    manager.unlock(lock.id, START)
    assert manager.unlock(lock.id, START) is Refusal.UNKNOWN
    assert manager.keep(lock.id, START) is Refusal.UNKNOWN


def test_an_id_means_nothing_once_it_has_expired(manager: LockManager) -> None:
    lock = locked(manager)
    assert manager.unlock(lock.id, END) is Refusal.UNKNOWN
    assert manager.take_expired() == [lock]


def test_a_held_lock_can_be_unlocked_long_after_its_ten_minutes(manager: LockManager) -> None:
    lock = locked(manager, live=True)
    assert manager.unlock(lock.id, END + RETENTION) is lock
    assert manager.take_expired() == []


# -- removal ---------------------------------------------------------------------------------------


def test_a_key_under_removal_cannot_be_locked_until_that_is_over(manager: LockManager) -> None:
    assert manager.begin_removal(KEY, START) is None
    assert manager.lock(KEY, OWNER, "longpoll", START, live=False) is Refusal.REMOVING
    assert manager.lock(KEY, OWNER, "websocket", START, live=True) is Refusal.REMOVING
    assert (len(manager), manager.locks_on(KEY)) == (0, 0)
    locked(manager, OTHER_KEY)
    manager.end_removal(KEY)
    locked(manager)


def test_a_removal_does_not_end_with_time(manager: LockManager) -> None:
    manager.begin_removal(KEY, START)
    assert manager.lock(KEY, OWNER, "longpoll", END + 1, live=False) is Refusal.REMOVING


def test_a_key_under_removal_cannot_be_removed_a_second_time(manager: LockManager) -> None:
    assert manager.begin_removal(KEY, START) is None
    assert manager.begin_removal(KEY, START) is Refusal.REMOVING
    assert manager.begin_removal(OTHER_KEY, START) is None
    manager.end_removal(KEY)
    assert manager.begin_removal(KEY, START) is None


@pytest.mark.parametrize("live", [False, True])
def test_a_locked_key_cannot_be_removed_and_other_keys_can(
    manager: LockManager, live: bool
) -> None:
    locked(manager, live=live)
    assert manager.begin_removal(KEY, START) is Refusal.LOCKED
    assert manager.begin_removal(OTHER_KEY, START) is None
    locked(manager)


def test_the_end_of_a_removal_that_never_began_is_an_error(manager: LockManager) -> None:
    with pytest.raises(KeyError):
        manager.end_removal(KEY)


@pytest.mark.parametrize(
    ("now", "answer"),
    [
        (START - 1e-6, None),
        (START, None),
        (START + 1e-6, Refusal.TOO_LATE),
        (START + 1, Refusal.TOO_LATE),
    ],
)
def test_a_removal_is_refused_only_past_the_time_it_had_to_be_done_by(
    manager: LockManager, now: float, answer: Refusal | None
) -> None:
    assert manager.begin_removal(KEY, now, before=START) is answer
    relocked = manager.lock(KEY, OWNER, "longpoll", now, live=False)
    assert isinstance(relocked, Lock) == (answer is not None)


def test_a_removal_with_time_left_is_refused_for_a_lock(manager: LockManager) -> None:
    locked(manager)
    assert manager.begin_removal(KEY, START, before=START) is Refusal.LOCKED


def test_a_removal_too_late_says_so_though_the_key_is_locked(manager: LockManager) -> None:
    locked(manager)
    assert manager.begin_removal(KEY, START + 1, before=START) is Refusal.TOO_LATE


# -- restore ---------------------------------------------------------------------------------------


def earlier(lock_id: str, locked_at: float = START, *, holds: int = 0, key: str = KEY) -> Lock:
    return Lock(lock_id, key, OWNER, "longpoll", locked_at, holds)


@pytest.mark.parametrize("holds", [0, 2])
def test_a_restored_lock_is_retained_for_the_rest_of_its_ten_minutes(
    manager: LockManager, holds: int
) -> None:
    lock = earlier("old", holds=holds)
    assert manager.restore(lock, START + 400)
    assert not lock.live
    assert manager.begin_removal(KEY, END - 1e-6) is Refusal.LOCKED
    assert left(manager, lock, END - 1e-6)
    assert not left(manager, lock, END)
    assert manager.take_expired() == [lock]


def test_a_restored_lock_can_be_held_and_unlocked_by_its_id(manager: LockManager) -> None:
    lock = earlier("old")
    manager.restore(lock, START)
    kept(manager, lock, START)
    assert left(manager, lock, END)
    assert manager.unlock("old", END) is lock


@pytest.mark.parametrize("now", [END, END + 1])
def test_a_lock_whose_ten_minutes_are_over_is_not_restored(
    manager: LockManager, now: float
) -> None:
    assert not manager.restore(earlier("old"), now)
    assert (len(manager), manager.locks_on(KEY)) == (0, 0)
    assert manager.next_expiry() is None
    assert manager.take_expired() == []


def test_restored_locks_count_against_the_limit_and_are_never_refused_for_it(
    manager: LockManager,
) -> None:
    for number in range(5):
        assert manager.restore(earlier(f"old{number}", START + number), START + 10)
    assert len(manager) == manager.locks_on(KEY) == 5
    assert manager.lock(KEY, OWNER, "longpoll", START + 10, live=False) is Refusal.LIMIT
    assert manager.lock(KEY, OWNER, "longpoll", END + 1, live=False) is Refusal.LIMIT
    assert len(manager) == 3
    locked(manager, now=END + 2)


def test_a_restored_id_that_is_in_use_is_refused(manager: LockManager) -> None:
    manager.restore(earlier("old"), START)
    with pytest.raises(ValueError, match="lock id old is in use"):
        manager.restore(earlier("old", key=OTHER_KEY), START)
    assert (manager.locks_on(KEY), manager.locks_on(OTHER_KEY)) == (1, 0)


# -- next_expiry -----------------------------------------------------------------------------------


def test_there_is_no_next_expiry_while_nothing_can_expire(manager: LockManager) -> None:
    assert manager.next_expiry() is None
    locked(manager, live=True)
    assert manager.next_expiry() is None


def test_the_next_expiry_is_that_of_the_oldest_retained_lock(manager: LockManager) -> None:
    locked(manager, now=START, live=True)
    second = locked(manager, now=START + 1)
    locked(manager, now=START + 2)
    assert manager.next_expiry() == manager.retained_until(second)


def test_no_lock_expires_before_the_next_expiry(manager: LockManager) -> None:
    locks = [locked(manager, now=START + second) for second in (0, 1, 2)]
    manager.unlock(locks[0].id, START + 3)
    kept(manager, locks[1], START + 3)
    said = manager.next_expiry()
    assert said is not None
    assert said <= END + 2
    manager.expire(END + 2 - 1e-6)
    assert manager.take_expired() == []
    assert list(manager) == locks[1:]


def test_waiting_for_each_next_expiry_in_turn_ends_every_lock(manager: LockManager) -> None:
    locks = [locked(manager, now=START + second) for second in (0, 1, 2)]
    manager.unlock(locks[1].id, START + 3)
    for _ in locks:
        now = manager.next_expiry()
        if now is not None:
            manager.expire(now)
    assert (len(manager), manager.next_expiry()) == (0, None)


# -- size ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("live", [False, True])
def test_many_locks_taken_and_ended_leave_nothing_behind(live: bool) -> None:
    manager = LockManager()
    for number in range(2000):
        lock = locked(manager, f"A--{number}", START + number / 1000, live=live)
        if not live:
            kept(manager, lock, START + 2)
        manager.lose(lock.id, START + 2)
        kept(manager, lock, START + 2)
        assert manager.unlock(lock.id, START + 2) is lock
        assert len(manager._ends) <= 2 * len(manager) + 64 + 3
    manager.expire(END + 2)
    tables = [manager._locks, manager._on_key, manager._ends, manager._removing]
    assert not any(tables)
    assert manager.take_expired() == []


def test_the_ends_swept_out_are_only_the_stale_ones() -> None:
    manager = LockManager()
    locks = [locked(manager, now=START + second) for second in (0, 1, 2)]
    held = locked(manager, now=START + 3, live=True)
    flapping = locked(manager, now=START + 4)
    for _ in range(200):
        kept(manager, flapping, START + 5)
        manager.lose(flapping.id, START + 5)
    assert len(manager._ends) < 100
    assert manager.next_expiry() == END
    for second, lock in enumerate(locks):
        manager.expire(END + second)
        assert manager.take_expired() == [lock]
    manager.expire(END + 4)
    assert manager.take_expired() == [flapping]
    assert list(manager) == [held]


def test_thousands_of_locks_expire_in_the_order_of_their_ends() -> None:
    manager = LockManager()
    order = [(number * 7919) % 3001 for number in range(3001)]
    for number in order:
        assert manager.restore(earlier(f"old{number}", START + number), START + 1)
    manager.expire(END + 1499)
    expired = [lock.locked_at - START for lock in manager.take_expired()]
    assert expired == [float(number) for number in range(1500)]
    assert len(manager) == 3001 - 1500
