"""What git-annex's keys database says of the work tree, while git-annex uses it."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from locklane_bench.gitannex import AnnexRepository
from locklane_client.key import Key
from locklane_server.repository.annex import keysdb
from locklane_server.repository.annex.keysdb import (
    KeysDatabase,
    KeysUnreadableError,
    database_directory,
)
from locklane_server.repository.annex.program import drop_key

STRANGE = ["plain", "with space", "a'quote\"", "sub/dir/deep", "ümlaut", "100%?#x", "line\nend"]
NOT_UTF8 = os.fsdecode(b"caf\xe9 \xff")


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AnnexRepository:
    """The same content in files of strange names, unlocked, and locked as ``locked``."""
    (tmp_path / "home").mkdir()
    made = AnnexRepository(tmp_path / "the repository #1?", tmp_path / "home")
    for name, value in made.environment.items():
        monkeypatch.setenv(name, value)
    for name in [*STRANGE, "locked"]:
        file = made.directory / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("content")
    made.make()
    made.git("annex", "unlock", "--quiet", ".")
    made.git("annex", "lock", "--quiet", "locked")
    # git-annex cannot unlock a file of such a name, but git can add it as one.
    (made.directory / NOT_UTF8).write_text("content")
    made.git("-c", "annex.largefiles=anything", "add", NOT_UTF8)
    made.git("commit", "--quiet", "--all", "--message", "unlocked")
    return made


@pytest.fixture
def database(repository: AnnexRepository) -> Iterator[KeysDatabase]:
    with closing(KeysDatabase(directory(repository), repository.directory)) as made:
        yield made


def directory(repository: AnnexRepository) -> Path:
    return repository.directory / ".git/annex/keysdb"


def key_of(repository: AnnexRepository, name: str = "locked") -> Key:
    return Key.parse(repository.git("annex", "lookupkey", name).strip())


def everything(repository: AnnexRepository) -> set[Path]:
    return {repository.directory / name for name in [*STRANGE, NOT_UTF8]}


def test_files_that_wait_for_content(repository: AnnexRepository, database: KeysDatabase) -> None:
    key = key_of(repository)
    assert database.unlocked_files(key) == []
    assert set(database.unlocked_files(key, populated=True)) == everything(repository)
    drop_key(repository.directory, key)
    assert set(database.unlocked_files(key)) == everything(repository)
    assert database.unlocked_files(key) == database.unlocked_files(key)
    assert set(database.unlocked_files(key, populated=True)) == everything(repository)
    assert database.unlocked_files(Key.parse("WORM--another")) == []


@pytest.mark.parametrize(
    "text", ["WORM--with space", "WORM--&%:/_x", "WORM--" + os.fsdecode(b"\xff\xc3\xa9")]
)
def test_strange_keys(repository: AnnexRepository, text: str, database: KeysDatabase) -> None:
    key = Key.parse(text)
    for name in ("one", "two"):
        subprocess.run(
            ["git-annex", "fromkey", "--quiet", "--force", "--", key.text, name],
            cwd=repository.directory,
            check=True,
        )
    assert database.unlocked_files(key, populated=True) == []
    repository.git("annex", "unlock", "--quiet", "--force", "one")
    assert database.unlocked_files(key) == [repository.directory / "one"]


def test_only_pointers_to_this_key_wait(
    repository: AnnexRepository, database: KeysDatabase
) -> None:
    key = key_of(repository)
    drop_key(repository.directory, key)
    file = repository.directory / "plain"
    pointer = file.read_bytes()
    for content, waits in {
        pointer: True,
        pointer.rstrip(): True,
        pointer.replace(b"\n", b"\r\n"): True,
        b"../.git" + pointer: True,
        pointer + b"/annex/more\n": True,
        pointer + b"/annex/more": False,
        pointer + b"more\n": False,
        pointer + b"/annex/more\n" * 4000: False,
        b"x" + pointer[1:]: False,
        pointer.replace(b"--", b"--0"): False,
        b"": False,
        b"edited": False,
    }.items():
        file.write_bytes(content)
        assert (file in database.unlocked_files(key)) == waits, content[:200]
        assert file in database.unlocked_files(key, populated=True)


def test_files_that_are_gone_or_something_else(
    repository: AnnexRepository, database: KeysDatabase
) -> None:
    key = key_of(repository)
    drop_key(repository.directory, key)
    gone = repository.directory / "plain"
    gone.unlink()
    shutil.rmtree(repository.directory / "sub")
    (repository.directory / "with space").unlink()
    (repository.directory / "with space").mkdir()
    os.mkfifo(repository.directory / "fifo")
    (repository.directory / "fifo").replace(repository.directory / "ümlaut")
    missing = {gone, *(repository.directory / n for n in ("sub/dir/deep", "with space", "ümlaut"))}
    assert set(database.unlocked_files(key)) == everything(repository) - missing
    assert set(database.unlocked_files(key, populated=True)) == everything(repository) - missing


def test_no_database_no_files(tmp_path: Path) -> None:
    database = KeysDatabase(tmp_path / "none", tmp_path)
    assert database.unlocked_files(Key.parse("WORM--x")) == []
    assert list(tmp_path.iterdir()) == []


def test_a_bare_repository_has_no_files(repository: AnnexRepository) -> None:
    database = KeysDatabase(directory(repository), None)
    assert database.unlocked_files(key_of(repository), populated=True) == []


def test_a_look_after_a_change_sees_it(repository: AnnexRepository, database: KeysDatabase) -> None:
    """Whatever is kept of the database between two looks."""
    key = key_of(repository)
    long_ago = time.time() - 100
    os.utime(directory(repository) / "db", (long_ago, long_ago))
    for number in range(3):
        assert set(database.unlocked_files(key, populated=True)) == everything(repository)
        with closing(sqlite3.connect(directory(repository) / "db")) as writer:
            writer.execute("DELETE FROM associated WHERE file = ?", (b"plain",))
            writer.commit()
        found = set(database.unlocked_files(key, populated=True))
        assert found == everything(repository) - {repository.directory / "plain"}
        with closing(sqlite3.connect(directory(repository) / "db")) as writer:
            row = (key.text.encode(), b"plain")
            writer.execute("INSERT INTO associated (key, file) VALUES (?, ?)", row)
            writer.commit()
        if number:
            os.utime(directory(repository) / "db", (long_ago + number, long_ago + number))


def test_where_the_database_is(repository: AnnexRepository, tmp_path: Path) -> None:
    uuid = repository.git("config", "annex.uuid").strip()
    elsewhere = tmp_path / "databases"
    key = key_of(repository)
    git = repository.directory / ".git"
    assert database_directory(git, dbdir=None, uuid=uuid) == directory(repository)
    shutil.rmtree(directory(repository))
    repository.git("config", "annex.dbdir", str(elsewhere))
    (repository.directory / "more").write_text("content")
    repository.git("annex", "add", "--quiet", "more")
    repository.git("annex", "unlock", "--quiet", "more")
    where = database_directory(git, dbdir=str(elsewhere), uuid=uuid)
    found = KeysDatabase(where, repository.directory).unlocked_files(key, populated=True)
    assert repository.directory / "more" in found


# -- beside git-annex ------------------------------------------------------------------------------


def test_a_look_leaves_nothing_behind(repository: AnnexRepository, database: KeysDatabase) -> None:
    key = key_of(repository)
    before = [(e.name, e.stat().st_mtime_ns) for e in os.scandir(directory(repository))]
    assert database.unlocked_files(key, populated=True)
    after = [(e.name, e.stat().st_mtime_ns) for e in os.scandir(directory(repository))]
    assert after == before
    assert [name for name, _ in before] == ["db"]


def test_what_a_writer_has_not_moved_into_the_file_yet_counts(
    repository: AnnexRepository, database: KeysDatabase
) -> None:
    key = key_of(repository)
    file = repository.directory / "new"
    file.write_text("content")
    with closing(sqlite3.connect(directory(repository) / "db")) as writer:
        writer.execute(
            "INSERT INTO associated (key, file) VALUES (?, ?)", (key.text.encode(), b"new")
        )
        assert file not in database.unlocked_files(key, populated=True)
        writer.commit()
        assert (directory(repository) / "db-wal").stat().st_size > 0
        assert file in database.unlocked_files(key, populated=True)
    assert sorted(e.name for e in os.scandir(directory(repository))) == ["db"]
    assert file in database.unlocked_files(key, populated=True)


def test_what_cannot_be_read_is_an_error(
    repository: AnnexRepository, monkeypatch: pytest.MonkeyPatch, database: KeysDatabase
) -> None:
    monkeypatch.setattr(keysdb, "BUSY_SECONDS", 0.1)
    key = key_of(repository)
    whole = (directory(repository) / "db").read_bytes()
    (directory(repository) / "db-wal").write_bytes(b"left by a machine that crashed")
    with pytest.raises(KeysUnreadableError, match=r"cannot read .*keysdb/db: "):
        database.unlocked_files(key)
    (directory(repository) / "db-wal").unlink()
    (directory(repository) / "db").write_bytes(b"no database" + whole[11:])
    with pytest.raises(KeysUnreadableError, match="not a database"):
        database.unlocked_files(key)


def test_looks_and_git_annex_do_not_disturb_each_other(
    repository: AnnexRepository, database: KeysDatabase
) -> None:
    """Threads look all the time while git-annex unlocks, locks, drops and gets."""
    key = key_of(repository)
    stop = threading.Event()

    def look() -> int:
        looks = 0
        while not stop.is_set():
            found = set(database.unlocked_files(key, populated=True))
            assert found <= everything(repository) | {repository.directory / "locked"}
            assert repository.directory / "plain" in found
            looks += 1
        return looks

    with ThreadPoolExecutor(3) as pool:
        looking = [pool.submit(look) for _ in range(3)]
        try:
            for _ in range(4):
                repository.git("annex", "unlock", "--quiet", "locked")
                repository.git("annex", "lock", "--quiet", "--force", "locked")
        finally:
            stop.set()
        assert all(future.result(30) > 10 for future in looking)
    repository.git("annex", "find", "plain")
    assert repository.git("annex", "fsck", "--quiet", "--fast", "plain") == ""


def test_a_look_is_cheap(repository: AnnexRepository, database: KeysDatabase) -> None:
    key = Key.parse("SHA256E-s10--ab12.txt")
    started = time.perf_counter()
    for _ in range(1000):
        database.unlocked_files(key)
    assert time.perf_counter() - started < 2  # measured: 0.07 to 0.1 ms each
