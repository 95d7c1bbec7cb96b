"""Retention files that serve many keys: what is put into place says what was promised, and is told
apart from what others put there."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from locklane_server.repository.annex.modes import Modes
from locklane_server.repository.annex.retentionfiles import (
    RetentionFiles,
    read,
    rounded_down,
    rounded_up,
)
from locklane_server.repository.annex.scratch import Scratch

UNTIL = 1795360470.25


@pytest.fixture
def files(tmp_path: Path) -> Iterator[RetentionFiles]:
    (tmp_path / "own").mkdir()
    scratch = Scratch(str(tmp_path / "own"), Modes())
    made = RetentionFiles(scratch, Modes())
    yield made
    made.close()
    scratch.close()
    assert list((tmp_path / "own").iterdir()) == []


@pytest.fixture
def no_links(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that knows no hard links."""

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)


def test_one_file_serves_all_keys_of_a_moment(files: RetentionFiles, tmp_path: Path) -> None:
    places = [str(tmp_path / f"{number}.rtm") for number in range(100)]
    put = [files.put(UNTIL, place) for place in places]
    assert len({Path(place).stat().st_ino for place in places}) == 1
    assert {Path(place).read_bytes() for place in places} == {b"1795360470.25s"}
    for file, place in zip(put, places, strict=True):
        assert file is not None
        assert file.is_at(place)
        files.release(file)
    later = files.put(UNTIL + 1, str(tmp_path / "later.rtm"))
    assert later is not None
    assert later.until == read(str(tmp_path / "later.rtm")) == UNTIL + 1
    assert not later.is_at(places[0])
    files.release(later)


def test_times_are_rounded_to_hundredths(files: RetentionFiles, tmp_path: Path) -> None:
    """And what is written says exactly that."""
    place = str(tmp_path / "a.rtm")
    for number in range(500):
        time = 1795360470 + number * 0.003_7
        assert time - 0.02 < rounded_down(time) <= time <= rounded_up(time) < time + 0.02
        file = files.put(rounded_down(time), place)
        assert file is not None
        assert read(place) == file.until == rounded_down(time)
        files.release(file)
        Path(place).unlink()


def test_it_cannot_be_written_to(files: RetentionFiles, tmp_path: Path) -> None:
    """A change would be one for other keys too."""
    place = tmp_path / "a.rtm"
    file = files.put(UNTIL, str(place))
    assert file is not None
    assert place.stat().st_mode & 0o777 & ~0o444 == 0
    files.release(file)


def test_what_is_there_is_replaced_only_when_that_is_asked_for(
    files: RetentionFiles, tmp_path: Path
) -> None:
    place = tmp_path / "a.rtm"
    place.write_bytes(b"1600000000s")
    assert files.put(UNTIL, str(place)) is None
    assert place.read_bytes() == b"1600000000s"
    for _ in range(2):  # the second time it is that file already
        file = files.replace(UNTIL, str(place))
        assert file.is_at(str(place))
        assert read(str(place)) == file.until
        files.release(file)
    assert len([path for path in (tmp_path / "own").iterdir() if path.suffix != ".alive"]) == 1


@pytest.mark.usefixtures("no_links")
def test_a_file_system_without_links_has_a_file_for_each(
    files: RetentionFiles, tmp_path: Path
) -> None:
    places = [str(tmp_path / name) for name in ("a.rtm", "b.rtm")]
    for place in places:
        assert files.put(UNTIL, place) is None
        file = files.replace(UNTIL, place)
        assert file.is_at(place)
        Path(place).chmod(0o600)
        Path(place).write_bytes(b"1795360999s")  # the same inode again, with another's promise
        assert not file.is_at(place)
        files.release(file)
    assert Path(places[0]).stat().st_ino != Path(places[1]).stat().st_ino


def test_a_file_with_the_same_number_is_another(files: RetentionFiles, tmp_path: Path) -> None:
    """Where ours has been cleared away, its number is given out again."""
    place = tmp_path / "a.rtm"
    file = files.put(UNTIL, str(place))
    assert file is not None
    status = place.stat()
    os.utime(place, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert not file.is_at(str(place))
    files.release(file)


def test_what_is_not_in_use_is_deleted_in_time(files: RetentionFiles, tmp_path: Path) -> None:
    place = str(tmp_path / "a.rtm")
    file = files.put(UNTIL, place)
    assert file is not None
    files.trim()
    assert Path(file.path).exists(), "or another file might get its number"
    files.release(file)
    files.trim()
    assert not Path(file.path).exists()
    assert Path(place).exists()


def test_who_clears_our_files_away_does_no_harm(files: RetentionFiles, tmp_path: Path) -> None:
    file = files.put(UNTIL, str(tmp_path / "a.rtm"))
    assert file is not None
    Path(file.path).unlink()
    assert files.put(UNTIL, str(tmp_path / "b.rtm")) is None
    replaced = files.replace(UNTIL, str(tmp_path / "b.rtm"))
    assert read(str(tmp_path / "b.rtm")) == replaced.until
    files.release(file)
    files.release(replaced)


def test_a_directory_that_is_not_there_is_said(files: RetentionFiles, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        files.put(UNTIL, str(tmp_path / "no" / "a.rtm"))


TIMES = {
    b"1795360470s": 1795360470.0,
    b"1795360470.25s": 1795360470.25,
    b"1795360470.25s\n": 1795360470.25,
    b"1795360470": 1795360470.0,
    b"-5s": -5.0,
    b"": None,
    b"garbage": None,
    b"nan": None,
    b"infs": None,
    b"1e400s": None,
    b"1795360470s 1795360470s": None,
}


@pytest.mark.parametrize(("text", "until"), TIMES.items())
def test_what_is_no_time_is_no_retention(text: bytes, until: float | None, tmp_path: Path) -> None:
    (tmp_path / "a.rtm").write_bytes(text)
    assert read(str(tmp_path / "a.rtm")) == until
    assert read(str(tmp_path / "b.rtm")) is None
