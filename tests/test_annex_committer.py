"""When the journal is committed, and that it is."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest

from locklane_bench.gitannex import AnnexRepository
from locklane_client.key import Key
from locklane_server.repository import RepositoryError
from locklane_server.repository.annex import committer as committers
from locklane_server.repository.annex.committer import Committer, Schedule
from locklane_server.repository.annex.locationlog import LocationLog
from locklane_server.repository.annex.program import ProgramError, commit_journal

BOUND = 30.0


async def eventually(condition: object) -> None:
    assert callable(condition)
    end = time.monotonic() + BOUND
    while not condition():
        assert time.monotonic() < end
        await asyncio.sleep(0.005)


# -- when ------------------------------------------------------------------------------------------


def test_a_commit_is_due_some_seconds_after_the_last_change() -> None:
    schedule = Schedule(quiet=3, longest=8)
    assert not schedule.due(1e9)
    schedule.changed(100)
    assert schedule.due_at == 103
    schedule.changed(102)
    assert not schedule.due(104.9)
    assert schedule.due(105)


def test_changes_that_go_on_do_not_put_it_off_for_ever() -> None:
    schedule = Schedule(quiet=3, longest=8)
    for now in range(100, 120):
        schedule.changed(now)
        assert schedule.due(now) == (now >= 108)


def test_what_changes_during_a_commit_is_for_the_next() -> None:
    schedule = Schedule(quiet=3, longest=8)
    schedule.changed(100)
    schedule.begun()
    assert schedule.due_at is None
    schedule.changed(104)
    schedule.done()
    assert schedule.due_at == 107


def test_after_failures_it_waits_longer_and_longer() -> None:
    schedule = Schedule(quiet=3, longest=8)
    schedule.changed(0)
    pauses, now = [], 100.0
    for _ in range(8):
        assert schedule.due(now)
        schedule.begun()
        pauses.append(schedule.failed(now))
        schedule.changed(now + 1)
        assert not schedule.due(now + pauses[-1] - 0.01)
        now += pauses[-1] + 8
    assert pauses == [5, 10, 20, 40, 80, 160, 300, 300]
    schedule.begun()
    schedule.done()
    schedule.changed(now)
    assert schedule.due_at == now + 3


# -- one after the other ---------------------------------------------------------------------------


class Journal:
    """Something to commit, in memory."""

    def __init__(self) -> None:
        self.changes = 0
        self.commits: list[int] = []
        self.at_once = 0
        self.begun = 0
        self.fails = 0
        self.goes_on = asyncio.Event()
        self.goes_on.set()

    def pending(self) -> bool:
        return self.changes > 0

    async def commit(self) -> None:
        self.at_once += 1
        self.begun += 1
        assert self.at_once == 1
        try:
            await self.goes_on.wait()
            if self.fails:
                self.fails -= 1
                raise RepositoryError("the disk is full")
            self.commits.append(self.changes)
            self.changes = 0
        finally:
            self.at_once -= 1


@asynccontextmanager
async def committing(journal: Journal, quiet: float = 0.05) -> AsyncIterator[Committer]:
    made = Committer(
        journal.commit, journal.pending, name="here", schedule=Schedule(quiet, 4 * quiet)
    )
    try:
        yield made
    finally:
        await made.aclose(1)


async def test_a_burst_is_one_commit() -> None:
    journal = Journal()
    async with committing(journal) as committer:
        for _ in range(50):
            journal.changes += 1
            committer.changed()
        await eventually(lambda: journal.commits)
        assert journal.commits == [50]
        journal.changes += 1
        committer.changed()
        await eventually(lambda: len(journal.commits) == 2)


async def test_what_somebody_else_committed_needs_no_commit() -> None:
    journal = Journal()
    async with committing(journal) as committer:
        committer.changed()
        await eventually(lambda: committer._task is not None and committer._task.done())
    assert journal.commits == []


async def test_never_two_at_once() -> None:
    journal = Journal()
    journal.goes_on.clear()
    async with committing(journal, 0.01) as committer:
        for _ in range(10):
            journal.changes += 1
            committer.changed()
            await asyncio.sleep(0.02)
        assert journal.at_once == 1
        closing = asyncio.create_task(committer.aclose(BOUND))
        await asyncio.sleep(0.02)
        journal.goes_on.set()
        await closing
    assert journal.changes == 0
    assert journal.begun == 1


async def test_a_failure_is_told_and_tried_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(committers, "FIRST_RETRY_SECONDS", 0.01)
    journal = Journal()
    journal.fails = 2
    async with committing(journal, 0.01) as committer:
        journal.changes = 3
        committer.changed()
        await eventually(lambda: journal.commits == [3])
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 2
    assert told[0] == (
        "here: cannot commit the journal: the disk is full; the next attempt is in 0.01 s"
    )


async def test_at_the_end_the_rest_is_committed() -> None:
    journal = Journal()
    async with committing(journal, 100) as committer:
        journal.changes = 3
        committer.changed()
    assert journal.commits == [3]


async def test_the_end_does_not_wait_for_ever(caplog: pytest.LogCaptureFixture) -> None:
    for at_work in (False, True):
        journal = Journal()
        journal.goes_on.clear()
        journal.changes = 1
        async with committing(journal, 0.01 if at_work else 100) as committer:
            committer.changed()
            if at_work:
                await eventually(lambda journal=journal: journal.at_once)
            await committer.aclose(0.1)
            assert journal.at_once == 0
            committer.changed()
            assert committer._task is None
    assert caplog.text.count("the next git-annex command there commits them") == 2


# -- with git-annex --------------------------------------------------------------------------------


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AnnexRepository:
    (tmp_path / "home").mkdir()
    made = AnnexRepository(tmp_path / "repository", tmp_path / "home")
    for name, value in made.environment.items():
        monkeypatch.setenv(name, value)
    made.directory.mkdir()
    (made.directory / "file").write_text("content")
    made.make()
    return made


@pytest.fixture
def log(repository: AnnexRepository) -> Iterator[LocationLog]:
    uuid = repository.git("config", "annex.uuid").strip()
    with closing(LocationLog(repository.directory / ".git", uuid)) as made:
        yield made


def commits(repository: AnnexRepository) -> int:
    return int(repository.git("rev-list", "--count", "git-annex"))


async def test_another_clone_knows_within_ten_seconds(
    repository: AnnexRepository, log: LocationLog, tmp_path: Path
) -> None:
    repository.git("clone", "--quiet", ".", str(tmp_path / "clone"))
    clone = AnnexRepository(tmp_path / "clone", tmp_path / "home")
    before = commits(repository)
    committer = Committer(
        lambda: commit_journal(repository.directory), log.pending, name="repository"
    )
    started = time.monotonic()
    for number in range(30):
        await asyncio.to_thread(log.record, Key.parse(f"WORM--{number}"), True)
        committer.changed()
        await asyncio.sleep(0.05)
    await eventually(lambda: not log.pending())
    clone.git("fetch", "--quiet")
    assert time.monotonic() - started < 10
    assert commits(repository) == before + 1
    uuid = repository.git("config", "annex.uuid").strip()
    assert "WORM--29.log" in clone.git("grep", "-l", uuid, "origin/git-annex")
    await committer.aclose()


async def test_a_commit_leaves_the_work_tree_alone(
    repository: AnnexRepository, log: LocationLog
) -> None:
    (repository.directory / "file").unlink()
    (repository.directory / "file").write_text("edited")
    repository.git("branch", "synced/master", "HEAD")
    repository.git("commit", "--quiet", "--allow-empty", "--message", "more")
    seen = [repository.git(*words.split()) for words in ("status --short", "rev-parse HEAD")]
    log.record(Key.parse("WORM--x"), True)
    await commit_journal(repository.directory)
    assert not log.pending()
    assert seen == [
        repository.git(*words.split()) for words in ("status --short", "rev-parse HEAD")
    ]


async def test_other_clones_branches_are_merged(
    repository: AnnexRepository, log: LocationLog, tmp_path: Path
) -> None:
    repository.git("clone", "--quiet", ".", str(tmp_path / "clone"))
    clone = AnnexRepository(tmp_path / "clone", tmp_path / "home")
    clone.git("annex", "init", "--quiet", "clone")
    clone.git("push", "--quiet", "origin", "git-annex:synced/git-annex")
    log.record(Key.parse("WORM--x"), True)
    await commit_journal(repository.directory)
    merged = repository.git("show", "git-annex:uuid.log")
    assert clone.git("config", "annex.uuid").strip() in merged


async def test_alwayscommit_is_respected(repository: AnnexRepository, log: LocationLog) -> None:
    repository.git("config", "annex.alwayscommit", "false")
    log.record(Key.parse("WORM--x"), True)
    await commit_journal(repository.directory)
    assert log.pending()


async def test_what_git_annex_says_of_a_failure_is_told(
    repository: AnnexRepository, log: LocationLog
) -> None:
    lock = repository.directory / ".git/refs/heads/git-annex.lock"
    lock.touch()
    log.record(Key.parse("WORM--x"), True)
    with pytest.raises(ProgramError, match=r"git-annex config failed \(1\): .*git-annex\.lock"):
        await commit_journal(repository.directory)
    assert log.pending()
    lock.unlink()
    await commit_journal(repository.directory)
    assert not log.pending()


HOLDER = """
import fcntl, sys
with open(sys.argv[1], "r+") as file:
    fcntl.lockf(file, fcntl.LOCK_EX)
    print("held", flush=True)
    sys.stdin.read()
"""


def running_in(directory: Path) -> list[int]:
    """Processes that are at work in a directory."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                if (process / "cwd").readlink() == directory:
                    found.append(int(process.name))
            except OSError:
                continue
    return found


async def test_the_end_leaves_no_git_annex_behind(
    repository: AnnexRepository, log: LocationLog, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    log.record(Key.parse("WORM--x"), True)
    log.close()
    lock = repository.directory / ".git/annex/journal.lck"
    with subprocess.Popen(  # noqa: ASYNC220
        [sys.executable, "-c", HOLDER, str(lock)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=os.sep,
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        committer = Committer(
            lambda: commit_journal(repository.directory),
            log.pending,
            name="repository",
            schedule=Schedule(0, 0),
        )
        committer.changed()
        await eventually(lambda: running_in(repository.directory))
        await committer.aclose(0.5)
        assert running_in(repository.directory) == []
    assert "the next git-annex command there commits them" in caplog.text
    assert log.pending()
