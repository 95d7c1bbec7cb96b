"""Lock files that are used again: what is put into place, taken away, and never overwritten."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from locklane_server.repository.annex import spares as module
from locklane_server.repository.annex.spares import MOST, Spares, clear_up


@pytest.fixture(params=["renameat2", "link"])
def spares(
    tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Spares:
    """In both ways in which a file is moved without moving it over another."""
    if request.param == "link":
        monkeypatch.setattr(module, "_renameat2", None)
    (tmp_path / "own").mkdir()
    return Spares(str(tmp_path / "own"), 0o666)


def names(tmp_path: Path) -> list[str]:
    """Of the spare files."""
    found = (path.name for path in (tmp_path / "own").iterdir())
    return [name for name in found if not name.endswith(".alive")]


def test_a_file_goes_round(spares: Spares, tmp_path: Path) -> None:
    """The same inode serves two lock files, one after the other."""
    one, other = tmp_path / "one.lck", tmp_path / "other.lck"
    os.close(spares.open(str(one)))
    inode = one.stat().st_ino
    spares.give(spares.remove(str(one)))
    assert not one.exists()
    descriptor = spares.open(str(other))
    assert os.fstat(descriptor).st_ino == other.stat().st_ino == inode
    os.close(descriptor)
    assert names(tmp_path) == []


def test_a_lock_file_that_is_there_is_opened_and_never_replaced(
    spares: Spares, tmp_path: Path
) -> None:
    """Somebody else may hold a lock on it."""
    path = tmp_path / "theirs.lck"
    os.close(spares.open(str(tmp_path / "mine")))
    spares.give(spares.remove(str(tmp_path / "mine")))
    path.write_text("")
    inode = path.stat().st_ino
    descriptor = spares.open(str(path))
    assert os.fstat(descriptor).st_ino == path.stat().st_ino == inode
    os.close(descriptor)
    assert len(names(tmp_path)) == 1, "the spare file is still there"


def test_what_is_not_given_back_is_not_used_again(spares: Spares, tmp_path: Path) -> None:
    """Between the two its lock is let go of."""
    path = tmp_path / "a.lck"
    descriptor = spares.open(str(path))
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    taken = spares.remove(str(path))
    fresh = spares.open(str(path))
    assert os.fstat(fresh).st_ino != os.fstat(descriptor).st_ino
    os.close(descriptor)
    os.close(fresh)
    spares.give(taken)


def test_content_replaces_what_was_in_the_file(spares: Spares, tmp_path: Path) -> None:
    path = tmp_path / "k.rtm"
    for content in (b"1795333951.736694s", b"1895333951.736694s"):
        Path(spares.written(content)).rename(path)
        assert path.read_bytes() == content
        spares.give(spares.remove(str(path)))


def test_no_more_than_some_are_kept_and_none_at_the_end(spares: Spares, tmp_path: Path) -> None:
    for number in range(MOST + 20):
        os.close(spares.open(str(tmp_path / str(number))))
    for number in range(MOST + 20):
        spares.give(spares.remove(str(tmp_path / str(number))))
    assert len(names(tmp_path)) == MOST
    spares.close()
    assert list((tmp_path / "own").iterdir()) == []


def test_what_is_not_there_is_not_taken(spares: Spares, tmp_path: Path) -> None:
    assert spares.remove(str(tmp_path / "nothing")) is None
    assert spares.remove(str(tmp_path / "no directory" / "nothing")) is None


def test_a_directory_that_is_not_there_is_said(spares: Spares, tmp_path: Path) -> None:
    """And the spare file is kept."""
    os.close(spares.open(str(tmp_path / "a")))
    spares.give(spares.remove(str(tmp_path / "a")))
    with pytest.raises(FileNotFoundError):
        spares.open(str(tmp_path / "no" / "b"))
    assert len(names(tmp_path)) == 1


def test_files_of_who_was_killed_are_deleted_and_of_who_lives_are_not(tmp_path: Path) -> None:
    """The lock says who lives; a process's id may mean another one in another container."""
    living = Spares(str(tmp_path), 0o666)
    os.close(living.open(str(tmp_path / "a.lck")))
    living.give(living.remove(str(tmp_path / "a.lck")))
    (tmp_path / "1-abcd.alive").touch()
    (tmp_path / "1-abcd.0").touch()
    (tmp_path / "1-abcdef.7").touch()
    there = {path.name for path in tmp_path.iterdir()}
    clear_up(str(tmp_path))
    assert {path.name for path in tmp_path.iterdir()} == there - {"1-abcd.alive", "1-abcd.0"}
    living.close()
