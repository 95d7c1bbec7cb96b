"""Content locks of several processes on one repository: each has descriptors of its own, so that
two objects in this process are as good as two processes."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import BOUND

from locklane_server.descriptors import Descriptors
from locklane_server.repository.annex import retentionfiles
from locklane_server.repository.annex.contentlock import ContentLocks, Taken
from locklane_server.repository.annex.modes import Modes
from locklane_server.workers import WouldWait

LATER = 600.0


class Two:
    """Two processes, and an object that both may lock."""

    def __init__(self, tmp_path: Path) -> None:
        (tmp_path / "own").mkdir()
        self.path = tmp_path / "key" / "key"
        self.path.parent.mkdir()
        self.path.write_text("content")
        self.own = str(tmp_path / "own")
        self.begin_anew()

    def begin_anew(self) -> None:
        """With nothing locked, and nothing promised."""
        Path(f"{self.path}.rtm").unlink(missing_ok=True)
        self.one, self.other, self.third = (ContentLocks(self.own, Modes()) for _ in range(3))

    def removable(self) -> bool:
        with self.third.removing(str(self.path)) as mine:
            return mine


@pytest.fixture(params=["links", "no links"])
def two(
    tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Two]:
    """On a file system that knows hard links, and on one that does not."""
    if request.param == "no links":

        def refuse(*_: object, **__: object) -> None:
            raise PermissionError(errno.EPERM, "Operation not permitted")

        monkeypatch.setattr(os, "link", refuse)
    made = Two(tmp_path)
    yield made
    for each in (made.one, made.other, made.third):
        each.abandon()


def test_a_promise_of_another_outlives_ours_even_if_ours_was_renewed(two: Two) -> None:
    """The other is killed; then our two locks are given back."""
    path, now = str(two.path), time.time()
    assert two.one.lock(path, "a", now + LATER) is Taken.LOCKED
    assert two.other.lock(path, "b", now + LATER + 1) is Taken.LOCKED
    assert two.one.lock(path, "c", now + LATER + 2) is Taken.LOCKED
    two.other.abandon()
    two.one.unlock("a")
    two.one.unlock("c")
    assert not two.removable()
    assert float(Path(f"{path}.rtm").read_text().removesuffix("s")) > now + LATER + 1 - 0.02


@pytest.mark.parametrize("first", [0.001, 0.003, 0.006, 0.3])
@pytest.mark.parametrize("then", [0.001, 0.004, 0.007, 0.3])
def test_a_promise_of_the_same_moment_is_not_lost_with_the_first(
    two: Two, first: float, then: float
) -> None:
    """Two lock one after the other, whatever times they took for that; one is killed, and the
    other unlocks."""
    path, now = str(two.path), float(int(time.time()))
    for dead, alive in ((two.other, two.one), (two.one, two.other)):
        assert two.one.lock(path, "a", now + LATER + first) is Taken.LOCKED
        assert two.other.lock(path, "b", now + LATER + then) is Taken.LOCKED
        promised = now + LATER + (then if dead is two.other else first)
        dead.abandon()
        alive.unlock("a" if alive is two.one else "b")
        assert not two.removable()
        found = retentionfiles.read(f"{path}.rtm")
        assert found is not None
        assert found >= promised - 0.02
        two.begin_anew()


def test_git_annex_never_finds_its_promise_covered_by_an_earlier_one(two: Two) -> None:
    """It would write none, and lose it when we unlock: what we write is not later than asked."""
    for number in range(300):
        until = time.time() + LATER
        assert two.one.lock(str(two.path), f"{number}", until) is Taken.LOCKED
        found = retentionfiles.read(f"{two.path}.rtm")
        assert found is not None
        assert until - 0.02 < found <= until
        two.one.unlock(f"{number}")


def test_locks_that_are_given_back_leave_nothing_and_let_it_be_removed(two: Two) -> None:
    path = str(two.path)
    for number in range(3):
        assert two.one.lock(path, f"a{number}", time.time() + LATER) is Taken.LOCKED
    assert len(two.one) == 1
    for number in range(3):
        assert not two.removable()
        two.one.unlock(f"a{number}")
    assert [each.name for each in two.path.parent.iterdir()] == ["key"]
    assert two.removable()
    assert len(two.one) == 0


def test_two_who_lock_and_unlock_one_key_all_the_time_are_never_refused(two: Two) -> None:
    """While one writes its retention the other waits for that moment."""
    refused: list[Taken] = []

    def work(locks: ContentLocks, name: str) -> None:
        for number in range(200):
            taken = locks.lock(str(two.path), f"{name}{number}", time.time() + LATER)
            if taken is not Taken.LOCKED:
                refused.append(taken)
            locks.unlock(f"{name}{number}")

    threads = [
        threading.Thread(target=work, args=(locks, name))
        for locks, name in ((two.one, "a"), (two.other, "b"), (two.third, "c"))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert refused == []


def test_content_is_never_gone_while_it_is_locked(two: Two) -> None:
    """Two lock and unlock it all the time, a third removes it and stores it again, until all have
    done so often enough. Retention is over at once, so that the locks alone keep it."""
    path = str(two.path)
    gone: list[str] = []
    counts = {"a": 0, "b": 0, "removed": 0}
    end = time.monotonic() + 3 * BOUND

    def go_on() -> bool:
        return min(counts.values()) < 100 and time.monotonic() < end

    def lock(locks: ContentLocks, name: str) -> None:
        number = 0
        while go_on():
            number += 1
            if locks.lock(path, f"{name}{number}", time.time() - 1) is Taken.LOCKED:
                counts[name] += 1
                if not two.path.exists():
                    gone.append(f"{name}{number}")
            locks.unlock(f"{name}{number}")
            time.sleep(0.000_3)  # so that it is not locked all the time

    def remove() -> None:
        while go_on():
            with two.third.removing(path) as mine:
                if mine:
                    two.path.unlink()
            if mine:
                counts["removed"] += 1
                two.path.write_text("content")

    threads = [
        threading.Thread(target=lock, args=(two.one, "a")),
        threading.Thread(target=lock, args=(two.other, "b")),
        threading.Thread(target=remove),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert gone == []
    assert min(counts.values()) >= 100, counts


def test_who_may_not_wait_is_told_and_has_locked_nothing(two: Two) -> None:
    path = str(two.path)
    with two.other.removing(path) as mine:
        assert mine
        with pytest.raises(WouldWait):
            two.one.lock(path, "a", time.time() + LATER, wait=False)
        assert two.one.lock(path, "a", time.time() + LATER) is Taken.BUSY
    assert len(two.one) == 0


def test_what_is_no_content_is_not_locked(two: Two) -> None:
    path = str(two.path)
    assert two.one.lock(path, "a", time.time() + LATER, good=lambda _, __: False) is (
        Taken.NOT_PRESENT
    )
    assert two.one.lock(f"{path}x", "a", time.time() + LATER) is Taken.NOT_PRESENT
    assert two.one.lock(f"{path}/x/x", "a", time.time() + LATER) is Taken.NOT_PRESENT
    assert [each.name for each in two.path.parent.iterdir()] == ["key"]


def test_as_many_keys_as_there_are_descriptors_for(two: Two, tmp_path: Path) -> None:
    (tmp_path / "few").mkdir()
    few = ContentLocks(str(tmp_path / "few"), Modes(), Descriptors(1))
    second = two.path.with_name("second")
    second.write_text("x")
    assert few.lock(str(two.path), "a", time.time() + LATER) is Taken.LOCKED
    assert few.lock(str(two.path), "b", time.time() + LATER) is Taken.LOCKED
    assert few.lock(str(second), "c", time.time() + LATER) is Taken.NO_DESCRIPTOR
    few.unlock("a")
    few.unlock("b")
    assert few.lock(str(second), "c", time.time() + LATER) is Taken.LOCKED
    few.abandon()


def test_free_files_of_one_repository_make_room_for_locks_in_another(
    two: Two, tmp_path: Path
) -> None:
    few = Descriptors(3)
    (tmp_path / "more").mkdir()
    one, other = (ContentLocks(str(tmp_path / name), Modes(), few) for name in ("own", "more"))
    keys = [two.path.with_name(name) for name in "abcd"]
    for key in keys:
        key.write_text("x")
    for locks in (one, other, one):
        for key in keys[:3]:
            assert locks.lock(str(key), key.name, time.time() + LATER) is Taken.LOCKED
        assert locks.lock(str(keys[3]), "d", time.time() + LATER) is Taken.NO_DESCRIPTOR
        for key in keys[:3]:
            locks.unlock(key.name)
    one.abandon()
    assert other.lock(str(keys[3]), "d", time.time() + LATER) is Taken.LOCKED
    other.abandon()
    assert [few.take() for _ in range(4)] == [True, True, True, False]


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.EIO])
def test_a_directory_that_stays_writable_does_not_keep_a_lock(
    two: Two, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """It cannot be made read-only again, and the lock is what it is all the same."""
    refuse = True

    def link(source: str, target: str) -> None:
        nonlocal refuse
        if refuse:
            refuse = False
            raise PermissionError(errno.EACCES, "read-only, for who is not root")
        real(source, target)

    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    real = os.link
    monkeypatch.setattr(os, "link", link)
    monkeypatch.setattr(Modes, "freeze_directory", fail)
    few = Descriptors(1)
    locks = ContentLocks(two.own, Modes(), few)
    assert locks.lock(str(two.path), "a", time.time() + LATER) is Taken.LOCKED
    assert not few.take()
    locks.unlock("a")
    assert two.removable()
    locks.abandon()
    assert few.take()


def test_what_has_no_directory_is_not_said_to_be_ours(two: Two) -> None:
    """Somebody may store it again, and lock it, before we come to delete it."""
    with pytest.raises(FileNotFoundError), two.one.removing(f"{two.path.parent}x/key"):
        pass
