"""Recording where content is in git-annex's journal, beside the real git-annex."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from locklane_bench.gitannex import AnnexRepository
from locklane_client.key import Key
from locklane_server.repository import RepositoryError, filelock
from locklane_server.repository.annex.locationlog import LocationLog, changed, journal_name, parse
from locklane_server.repository.annex.modes import Modes

BOUND = 30.0
OTHER = b"11111111-2222-3333-4444-555555555555"
NOW = 1_700_000_000
KEY = Key.parse("WORM-s3-m1--some_file.txt")

STRANGE = [
    "SHA256E-s10--ab12.tar.gz",
    "WORM--under_score__twice",
    "WORM--a&b%c:d/e",
    "WORM--&a&s&c%",
    "WORM-s1--with space and 'quotes\" $HOME",
    os.fsdecode(b"WORM--caf\xc3\xa9 \xff\xfe"),
    "WORM--a\rb\r",
    "WORM---x",
    "SHA256-s10-S4-C2--ab",
    "URL--http&c%%host%a_b",
]

LOGS = {
    "others": b"1600000000s 1 %s\n" % OTHER,
    "sorted": b"1600000000s 1 zzz\n1600000000s 0 aaa\n1600000000s X mmm\n",
    "fractions": b"1600000000.5s 1 a\n1600000000.123456789012345s 1 b\n16.10s 1 c\n1.0s 0 d\n",
    "forms": b"5 1 a\n+6s 1 b\n-7.5s 1 c\n007s 1 d\n8.s 1 e\n9.xs 1 f\n",
    "newest counts": b"1s 1 a\n3s 0 a\n2s 1 a\n",
    "equal times": b"3s 1 a\n3s 0 a\n",
    "other ends of lines": b"1s 1 a\r\n2s 1 b\r\r\n\n3s 1 c\n",
    "no lines": b"nonsense\n1s 2 a\n1s 1\n 1s 1 a\n1s  1 a\n\n1s 1 \n",
    "spaces": b"1s 1 a uuid of words\n",
    "incomplete": b"1600000000s 1 aaa\n1600000000s 1 bb",
    "nothing whole": b"1600000000s 1 aaa",
    "empty": b"",
}


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AnnexRepository:
    (tmp_path / "home").mkdir()
    made = AnnexRepository(tmp_path / "repository", tmp_path / "home")
    for name, value in made.environment.items():
        monkeypatch.setenv(name, value)
    made.make()
    return made


@pytest.fixture
def log(repository: AnnexRepository) -> Iterator[LocationLog]:
    with closing(LocationLog(git(repository), uuid(repository))) as made:
        yield made


def git(repository: AnnexRepository) -> Path:
    return repository.directory / ".git"


def uuid(repository: AnnexRepository) -> str:
    return repository.git("config", "annex.uuid").strip()


def set_present(repository: AnnexRepository, key: Key, of: str, value: str = "1") -> None:
    """As git-annex does it, at the time :data:`NOW`."""
    subprocess.run(
        ["git-annex", "setpresentkey", "--quiet", "--", key.text, of, value],
        cwd=repository.directory,
        env={**os.environ, "GIT_ANNEX_VECTOR_CLOCK": str(NOW)},
        check=True,
        timeout=BOUND,
    )


def commit(repository: AnnexRepository) -> None:
    repository.git("annex", "config", "--get", "annex.largefiles")
    assert not list((git(repository) / "annex/journal").iterdir())


def journalled(repository: AnnexRepository, journal: str = "journal") -> dict[bytes, bytes]:
    directory = os.fsencode(git(repository) / "annex" / journal)
    return {e.name: Path(os.fsdecode(e.path)).read_bytes() for e in os.scandir(directory)}


def here(repository: AnnexRepository, key: Key) -> bool:
    done = subprocess.run(
        ["git-annex", "whereis", "--json", "--key", key.text],
        cwd=repository.directory,
        capture_output=True,
        text=True,
        check=False,
        timeout=BOUND,
    )
    return uuid(repository) in done.stdout


# -- the lines of a log ----------------------------------------------------------------------------


def test_a_new_line_is_later_than_the_one_it_replaces() -> None:
    future = b"%ds 1 here\n" % (NOW + 500)
    assert changed(future, b"here", present=False, now=NOW) == b"%ds 0 here\n" % (NOW + 501)
    assert changed(b"5.25s 1 here\n", b"here", present=False, now=5.9) == b"6.25s 0 here\n"
    assert changed(b"5s 1 here\n", b"here", present=False, now=5.9) == b"6s 0 here\n"


def test_a_log_that_says_so_already_is_left_alone() -> None:
    assert changed(b"5s 1 here\n", b"here", present=True, now=NOW) is None
    assert changed(b"5s X here\n", b"here", present=False, now=NOW) == b"%ds 0 here\n" % NOW
    assert changed(b"", b"here", present=False, now=NOW) == b"%ds 0 here\n" % NOW


def test_the_newest_line_counts() -> None:
    assert parse(b"1s 1 a\n3s 0 a\n2s 1 a\n")[b"a"].status == b"0"


# -- as git-annex itself does it -------------------------------------------------------------------


@pytest.mark.parametrize("text", STRANGE)
def test_the_journal_is_what_git_annex_would_write(repository: AnnexRepository, text: str) -> None:
    key = Key.parse(text)
    set_present(repository, key, uuid(repository))
    expected = journalled(repository)
    assert list(expected) == [journal_name(key)]
    shutil.rmtree(git(repository) / "annex/journal")
    with closing(LocationLog(git(repository), uuid(repository), clock=lambda: NOW + 0.9)) as log:
        log.record(key, True)
    assert journalled(repository) == expected
    commit(repository)
    assert here(repository, key)


@pytest.mark.parametrize("old", LOGS.values(), ids=list(LOGS))
def test_what_was_there_is_kept_as_git_annex_would(repository: AnnexRepository, old: bytes) -> None:
    file = git(repository) / "annex/journal" / os.fsdecode(journal_name(KEY))
    file.write_bytes(old)
    set_present(repository, KEY, uuid(repository))
    expected = file.read_bytes()
    file.write_bytes(old)
    with closing(LocationLog(git(repository), uuid(repository), clock=lambda: NOW)) as log:
        log.record(KEY, True)
    assert file.read_bytes() == expected
    assert list((git(repository) / "annex/othertmp").iterdir()) == []


def test_git_annex_believes_it(repository: AnnexRepository, log: LocationLog) -> None:
    log.record(KEY, True)
    assert here(repository, KEY)
    log.record(KEY, False)
    assert not here(repository, KEY)
    commit(repository)
    assert not here(repository, KEY)
    log.record(KEY, True)
    assert here(repository, KEY)


@pytest.mark.parametrize("shared", ["group", "all", "0660"])
def test_the_modes_are_those_of_git_annex(repository: AnnexRepository, shared: str) -> None:
    repository.git("config", "core.sharedRepository", shared)
    annex = git(repository) / "annex"
    file = annex / "journal" / os.fsdecode(journal_name(KEY))

    def modes() -> list[int]:
        return [stat.S_IMODE(path.stat().st_mode) for path in (file, file.parent)]

    shutil.rmtree(file.parent)
    set_present(repository, KEY, uuid(repository))
    expected = modes()
    shutil.rmtree(file.parent)
    with closing(LocationLog(git(repository), uuid(repository), modes=Modes.parse(shared))) as log:
        log.record(KEY, True)
    assert modes() == expected


def test_a_private_repository_stays_private(repository: AnnexRepository) -> None:
    set_present(repository, KEY, OTHER.decode())
    commit(repository)
    repository.git("config", "annex.private", "true")
    set_present(repository, KEY, uuid(repository))
    expected = journalled(repository, "journal-private")
    assert expected
    shutil.rmtree(git(repository) / "annex/journal-private")
    with closing(
        LocationLog(git(repository), uuid(repository), private=True, clock=lambda: NOW)
    ) as log:
        log.record(KEY, True)
        assert journalled(repository, "journal-private") == expected
        assert journalled(repository) == {}
        assert not log.pending()
        log.record(KEY, True)
        assert journalled(repository, "journal-private") == expected
        log.record(KEY, False)
    assert not here(repository, KEY)


# -- the branch ------------------------------------------------------------------------------------


def test_the_branch_is_read_as_it_is_now(repository: AnnexRepository, log: LocationLog) -> None:
    log.record(KEY, True)  # git runs from now on
    for number in range(3):
        set_present(repository, KEY, f"other{number}")
        commit(repository)
        if number == 1:
            repository.git("gc", "--quiet", "--prune=now")
        log.record(KEY, number % 2 == 1)
        lines = parse(journalled(repository)[journal_name(KEY)])
        assert set(lines) == {
            uuid(repository).encode(),
            *(f"other{n}".encode() for n in range(number + 1)),
        }
    commit(repository)
    assert not here(repository, KEY)


def test_nothing_changes_when_the_branch_says_so(
    repository: AnnexRepository, log: LocationLog
) -> None:
    log.record(KEY, True)
    assert log.pending()
    commit(repository)
    assert not log.pending()
    log.record(KEY, True)
    assert not log.pending()


def test_a_git_that_died_is_started_again(repository: AnnexRepository, log: LocationLog) -> None:
    set_present(repository, KEY, OTHER.decode())
    commit(repository)
    log.record(Key.parse("WORM--another"), True)
    process = log._branch._process
    assert process is not None
    process.kill()
    process.wait(BOUND)
    log.record(KEY, True)
    assert OTHER in journalled(repository)[journal_name(KEY)]


def test_closing_ends_git_and_it_can_be_started_again(
    repository: AnnexRepository, log: LocationLog
) -> None:
    log.record(KEY, True)
    process = log._branch._process
    assert process is not None
    log.close()
    assert process.returncode is not None
    log.record(Key.parse("WORM--another"), True)


def test_without_the_branch_nothing_is_written_over(
    repository: AnnexRepository, log: LocationLog
) -> None:
    repository.git("update-ref", "-d", "refs/heads/git-annex")
    with pytest.raises(RepositoryError, match=r"cannot read the branch git-annex of .*: fatal:"):
        log.record(KEY, True)
    assert journalled(repository) == {}


def test_a_bare_repository(repository: AnnexRepository, tmp_path: Path) -> None:
    repository.git("clone", "--quiet", "--bare", ".", str(tmp_path / "bare"))
    bare = AnnexRepository(tmp_path / "bare", tmp_path / "home")
    bare.git("annex", "init", "--quiet", "bare")
    with closing(LocationLog(bare.directory, uuid(bare))) as log:
        log.record(KEY, True)
    assert here(bare, KEY)


# -- what stands in the way ------------------------------------------------------------------------


def test_directories_are_made(repository: AnnexRepository, log: LocationLog) -> None:
    for name in ("journal", "othertmp"):
        shutil.rmtree(git(repository) / "annex" / name, ignore_errors=True)
    (git(repository) / "annex/journal.lck").unlink()
    log.record(KEY, True)
    assert here(repository, KEY)


def test_keys_that_git_annex_cannot_record_are_refused(
    repository: AnnexRepository, log: LocationLog
) -> None:
    for text, why in (("WORM--a\nb", "line end"), ("WORM--" + "_" * 130, "too long")):
        with pytest.raises(RepositoryError, match=why):
            log.record_many([(KEY, True), (Key.parse(text), True)])
    assert journalled(repository) == {}


def test_the_longest_key(repository: AnnexRepository, log: LocationLog) -> None:
    longest = Key.parse("WORM--" + "x" * (255 - len("abc_def_WORM--.log")))
    log.record(longest, True)
    assert here(repository, longest)
    with pytest.raises(RepositoryError, match="too long"):
        log.record(Key.parse(longest.text + "x"), True)


def test_what_the_disk_says_is_passed_on(repository: AnnexRepository, log: LocationLog) -> None:
    shutil.rmtree(git(repository) / "annex/journal")
    (git(repository) / "annex/journal").write_text("in the way")
    with pytest.raises(RepositoryError, match="cannot record where content is: "):
        log.record(KEY, True)


HOLDER = """
import fcntl, sys
with open(sys.argv[1], "r+") as file:
    fcntl.lockf(file, fcntl.LOCK_SH)
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(repository: AnnexRepository) -> Iterator[subprocess.Popen[str]]:
    """Another process that has the journal locked, with a lock of git-annex's kind, until its input
    ends. A shared one is enough to keep out who changes something."""
    lock = git(repository) / "annex/journal.lck"
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(lock)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process


def test_the_lock_of_another_process_is_waited_for(
    repository: AnnexRepository, log: LocationLog, holder: subprocess.Popen[str]
) -> None:
    done = threading.Event()

    def record() -> None:
        log.record(KEY, True)
        done.set()

    thread = threading.Thread(target=record)
    thread.start()
    assert not done.wait(0.5)
    assert journalled(repository) == {}
    holder.communicate()
    assert done.wait(BOUND)
    thread.join()
    assert here(repository, KEY)


def test_a_lock_that_is_never_let_go_is_an_error(
    repository: AnnexRepository,
    log: LocationLog,
    holder: subprocess.Popen[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(filelock, "WAIT_SECONDS", 0.3)
    with ThreadPoolExecutor(4) as pool:
        for future in [pool.submit(log.record, KEY, True) for _ in range(4)]:
            with pytest.raises(RepositoryError, match=r"journal\.lck locked"):
                future.result(BOUND)


def test_git_annex_waits_for_this_lock(repository: AnnexRepository) -> None:
    with filelock.held(git(repository) / "annex/journal.lck"):
        waiting = subprocess.Popen(
            ["git-annex", "setpresentkey", "--quiet", KEY.text, uuid(repository), "1"],
            cwd=repository.directory,
        )
        with pytest.raises(subprocess.TimeoutExpired):
            waiting.wait(1)
        assert journalled(repository) == {}
    assert waiting.wait(BOUND) == 0
    assert here(repository, KEY)


# -- all at once -----------------------------------------------------------------------------------


def test_nothing_is_lost_beside_git_annex(
    repository: AnnexRepository, log: LocationLog, tmp_path: Path
) -> None:
    """Threads record, the same keys and others, while git-annex records of another repository,
    commits, and merges what a clone has pushed."""
    keys = [Key.parse(f"WORM--file_{number}") for number in range(48)]
    stop = threading.Event()
    repository.git("clone", "--quiet", ".", str(tmp_path / "clone"))
    clone = AnnexRepository(tmp_path / "clone", tmp_path / "home")
    clone.git("annex", "init", "--quiet", "clone")
    batch = "".join(f"{key.text} {uuid(clone)} 1\n" for key in keys)
    clone.git("annex", "setpresentkey", "--batch", stdin=batch)
    commit(clone)

    def ours(part: int) -> None:
        for key in keys[part::4] + keys:
            log.record(key, True)

    def theirs() -> None:
        batch = "".join(f"{key.text} {OTHER.decode()} 1\n" for key in keys)
        repository.git("annex", "setpresentkey", "--batch", stdin=batch)

    def pushes() -> None:
        clone.git("push", "--quiet", "origin", "git-annex:synced/git-annex")

    def commits() -> None:
        while not stop.is_set():
            repository.git("annex", "config", "--get", "annex.largefiles")

    with ThreadPoolExecutor(10) as pool:
        committing = pool.submit(commits)
        work = [pool.submit(ours, part % 4) for part in range(7)]
        work += [pool.submit(theirs), pool.submit(pushes)]
        try:
            for future in work:
                future.result(120)
        finally:
            stop.set()
        committing.result(BOUND)
    commit(repository)
    for key in keys:
        name = os.fsdecode(journal_name(key)).replace("__", "/").split("_", 2)
        path = "/".join(name).replace("file/", "file_")
        lines = parse(repository.git("cat-file", "blob", f"git-annex:{path}").encode())
        assert {uuid for uuid, line in lines.items() if line.status == b"1"} == {
            OTHER,
            uuid(repository).encode(),
            uuid(clone).encode(),
        }


RECORDER = """
import sys, pathlib
from locklane_client.key import Key
from locklane_server.repository.annex.locationlog import LocationLog
log = LocationLog(pathlib.Path(sys.argv[1]), sys.argv[2])
number = 0
while True:
    log.record(Key.parse(f"WORM--killed{number}"), True)
    print(number, flush=True)
    number += 1
"""


@pytest.mark.parametrize("after", [0, 5, 33])
def test_a_process_killed_at_it_leaves_nothing_broken(
    repository: AnnexRepository, log: LocationLog, after: int
) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", RECORDER, str(git(repository)), uuid(repository)],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if int(line) == after:
                process.send_signal(signal.SIGKILL)
                break
    for content in journalled(repository).values():
        assert parse(content)
        assert content.endswith(b"\n")
    log.record(KEY, True)
    commit(repository)
    recorded = repository.git("annex", "whereis", "--all", "--format", "${key}\n").split()
    assert {KEY.text, *(f"WORM--killed{number}" for number in range(after + 1))} <= set(recorded)
