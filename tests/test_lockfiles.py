"""Lock files that are used again: what is put into place, taken away, and never overwritten."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from locklane_server.descriptors import Descriptors
from locklane_server.repository import filelock
from locklane_server.repository.annex.lockfiles import LockFile, LockFiles, NoDescriptorError
from locklane_server.repository.annex.modes import Modes
from locklane_server.repository.annex.scratch import Scratch, clear_up


class Keeper:
    """Lock files for some keys, and no more descriptors than three."""

    def __init__(self, directory: Path) -> None:
        self.own = directory / "own"
        self.own.mkdir()
        self.keys = directory / "keys"
        self.keys.mkdir()
        self.descriptors = Descriptors(3)
        self.scratch = Scratch(str(self.own), Modes())
        self.files = LockFiles(self.scratch, Modes(), self.descriptors)

    def path(self, name: str) -> str:
        return str(self.keys / f"{name}.lck")

    def acquire(self, name: str) -> LockFile:
        file = self.files.acquire(self.path(name))
        assert file is not None
        return file

    def let_go(self, name: str, file: LockFile) -> None:
        assert file.make_exclusive()
        Path(self.path(name)).unlink()
        self.files.release(file)

    @property
    def spares(self) -> set[str]:
        return {path.name for path in self.own.iterdir() if path.suffix != ".alive"}


@pytest.fixture
def keeper(tmp_path: Path) -> Iterator[Keeper]:
    made = Keeper(tmp_path)
    yield made
    made.files.close()
    made.scratch.close()
    assert list(made.own.iterdir()) == []


def lockable_by_others(path: str, exclusive: bool) -> bool:
    """Whether another process gets a lock as git-annex takes it."""
    program = (
        "import fcntl, sys\n"
        "kind = fcntl.LOCK_EX if sys.argv[2] == 'True' else fcntl.LOCK_SH\n"
        "fcntl.lockf(open(sys.argv[1], 'r+b'), kind | fcntl.LOCK_NB)\n"
    )
    command = [sys.executable, "-c", program, path, str(exclusive)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def test_a_file_goes_round(keeper: Keeper) -> None:
    """The same inode serves two keys one after the other, and is locked when it appears."""
    one = keeper.acquire("one")
    inode = Path(keeper.path("one")).stat().st_ino
    assert not lockable_by_others(keeper.path("one"), exclusive=False)
    one.share()
    assert lockable_by_others(keeper.path("one"), exclusive=False)
    assert not lockable_by_others(keeper.path("one"), exclusive=True)
    keeper.let_go("one", one)
    other = keeper.acquire("other")
    assert Path(keeper.path("other")).stat().st_ino == os.fstat(other.descriptor).st_ino == inode
    assert not lockable_by_others(keeper.path("other"), exclusive=False)
    keeper.let_go("other", other)
    assert list(keeper.keys.iterdir()) == []


def test_who_opened_it_for_another_key_has_not_that_ones_lock(keeper: Keeper) -> None:
    """It comes to lock it when the file has moved on, and sees that."""
    one = keeper.acquire("one")
    late = os.open(keeper.path("one"), os.O_RDWR)
    keeper.let_go("one", one)
    other = keeper.acquire("other")
    assert not filelock.try_lock(late, exclusive=False)
    other.share()
    assert filelock.try_lock(late, exclusive=False)
    assert not filelock.is_sane(late, keeper.path("one"))
    os.close(late)
    keeper.let_go("other", other)


def test_a_lock_file_that_is_there_is_shared_and_never_replaced(keeper: Keeper) -> None:
    """Somebody else may hold a lock on it."""
    path = Path(keeper.path("theirs"))
    path.write_text("")
    inode = path.stat().st_ino
    file = keeper.acquire("theirs")
    assert not file.exclusive
    assert os.fstat(file.descriptor).st_ino == path.stat().st_ino == inode
    with path.open("r+b") as theirs:
        assert filelock.try_lock(theirs.fileno(), exclusive=False)
        assert not file.make_exclusive()
    keeper.files.release(file)
    with path.open("r+b") as theirs:
        assert filelock.try_lock(theirs.fileno(), exclusive=True)
        assert keeper.files.acquire(str(path)) is None
        assert keeper.files.lock_for_removal(str(path)) is None


def test_a_file_that_others_have_locked_too_is_not_used_again(keeper: Keeper) -> None:
    file = keeper.acquire("one")
    file.share()
    with Path(keeper.path("one")).open("r+b") as theirs:
        assert filelock.try_lock(theirs.fileno(), exclusive=False)
        assert not file.make_exclusive()
        keeper.files.release(file)
        assert keeper.spares == set()
        assert Path(keeper.path("one")).exists(), "they will delete it"


def test_a_link_that_is_answered_wrongly_is_not_used_twice(
    keeper: Keeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over a network, what is asked for again has been done already (link(2), on NFS)."""
    real = os.link

    def link_twice(source: str, target: str) -> None:
        real(source, target)
        real(source, target)

    monkeypatch.setattr(os, "link", link_twice)
    one = keeper.acquire("one")
    assert one.exclusive
    other = keeper.acquire("other")
    assert not os.path.sameopenfile(one.descriptor, other.descriptor)
    keeper.let_go("one", one)
    keeper.let_go("other", other)

    def link_and_fail(source: str, target: str) -> None:
        real(source, target)
        raise OSError(errno.EIO, "the answer is lost")

    monkeypatch.setattr(os, "link", link_and_fail)
    with pytest.raises(OSError, match="answer is lost"):
        keeper.files.acquire(keeper.path("one"))
    assert len(keeper.files) == 1, "it is not used again where it is still in place"
    removal = keeper.files.lock_for_removal(keeper.path("one"))
    assert removal is not None
    os.close(removal)


def test_a_file_that_cannot_be_looked_at_is_closed(
    keeper: Keeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As over a network; what is not certain is not used again."""
    file = keeper.acquire("one")

    def fail(*_: object) -> None:
        raise OSError(errno.ESTALE, "stale")

    Path(keeper.path("one")).unlink()
    monkeypatch.setattr(os, "fstat", fail)
    keeper.files.release(file)
    monkeypatch.undo()
    assert keeper.spares == set()
    assert [keeper.descriptors.take() for _ in range(4)] == [True, True, True, False]


def test_there_are_no_more_than_may_be(keeper: Keeper) -> None:
    """Free ones count, and make room for those that are needed."""
    files = [keeper.acquire(name) for name in "abc"]
    with pytest.raises(NoDescriptorError):
        keeper.files.acquire(keeper.path("d"))
    for name, file in zip("abc", files, strict=True):
        keeper.let_go(name, file)
    theirs = [Path(keeper.path(name)) for name in "def"]
    for path in theirs:
        path.write_text("")
    found = [keeper.acquire(path.stem) for path in theirs]
    with pytest.raises(NoDescriptorError):
        keeper.files.acquire(keeper.path("g"))
    removal = keeper.files.lock_for_removal(keeper.path("g"))
    assert removal is not None
    os.close(removal)
    for file in found:
        keeper.files.release(file)
    assert keeper.descriptors.take()


def test_what_is_not_needed_any_more_is_closed_in_time(keeper: Keeper) -> None:
    files = [keeper.acquire(name) for name in "abc"]
    for name, file in zip("abc", files, strict=True):
        keeper.let_go(name, file)
    keeper.files.trim()
    assert len(keeper.spares) == 3
    keeper.let_go("a", keeper.acquire("a"))
    keeper.files.trim()
    assert len(keeper.spares) == 1, "one was enough for that time"
    keeper.files.trim()
    assert keeper.spares == set()


def test_a_directory_that_is_not_there_is_said(keeper: Keeper) -> None:
    with pytest.raises(FileNotFoundError):
        keeper.files.acquire(str(keeper.keys / "no" / "b.lck"))
    assert len(keeper.spares) == 1
    for path in keeper.own.glob("*.0"):
        path.unlink()
    with pytest.raises(FileNotFoundError):
        keeper.files.acquire(str(keeper.keys / "no" / "b.lck"))


def test_who_clears_our_files_away_does_no_harm(keeper: Keeper) -> None:
    keeper.let_go("a", keeper.acquire("a"))
    for path in keeper.own.iterdir():
        if path.suffix != ".alive":
            path.unlink()
    file = keeper.acquire("b")
    assert os.fstat(file.descriptor).st_ino == Path(keeper.path("b")).stat().st_ino
    assert not lockable_by_others(keeper.path("b"), exclusive=True)
    keeper.files.release(file)


def test_files_of_who_was_killed_are_deleted_and_of_who_lives_are_not(tmp_path: Path) -> None:
    """The lock says who lives; a process's id may mean another one in another container."""
    living = Scratch(str(tmp_path), Modes())
    path, descriptor = living.create()
    os.close(descriptor)
    (tmp_path / "1-abcd.alive").touch()
    (tmp_path / "1-abcd.0").touch()
    (tmp_path / "1-abcdef.7").touch()
    there = {path.name for path in tmp_path.iterdir()}
    clear_up(str(tmp_path))
    assert {path.name for path in tmp_path.iterdir()} == there - {"1-abcd.alive", "1-abcd.0"}
    living.delete(path)
    living.close()


def test_a_directory_of_ours_that_was_cleared_away_is_made_again(tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    scratch = Scratch(str(tmp_path / "own"), Modes())
    for path in (tmp_path / "own").iterdir():
        path.unlink()
    (tmp_path / "own").rmdir()
    made, descriptor = scratch.create()
    os.close(descriptor)
    assert Path(made).exists()
    scratch.delete(made)
    scratch.close()


def test_a_note_of_who_was_killed_is_given_to_the_next_and_stays_until_that_is_done_with_it(
    tmp_path: Path,
) -> None:
    notes: list[str] = []

    def fails(given: list[str]) -> None:
        raise OSError(given)

    (tmp_path / "1-abcd.alive").touch()
    (tmp_path / "1-abcd.0").symlink_to("KEY")
    (tmp_path / "1-abcd.1").touch()
    with pytest.raises(OSError, match="KEY"):
        clear_up(str(tmp_path), fails)
    clear_up(str(tmp_path), notes.extend)
    assert notes == ["KEY"]
    assert list(tmp_path.iterdir()) == []


def test_a_note_is_there_while_something_is_done_and_hinders_nothing_on_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch = Scratch(str(tmp_path), Modes())
    with scratch.noting("KEY"):
        assert "KEY" in [str(path.readlink()) for path in tmp_path.iterdir() if path.is_symlink()]
    assert not any(path.is_symlink() for path in tmp_path.iterdir())

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "symlink", full)
    with scratch.noting("KEY"):
        pass
    scratch.close()
