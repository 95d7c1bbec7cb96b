"""Running git-annex for what it does best, and what it does then."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import Process, free_port, wait_for_port

from locklane_bench.gitannex import AnnexRepository
from locklane_client.key import Key
from locklane_server.repository import filelock
from locklane_server.repository.annex import program as programs
from locklane_server.repository.annex.layout import Layout
from locklane_server.repository.annex.program import (
    ProgramError,
    calculate_key,
    drop_key,
    environment,
    program,
    run,
    run_blocking,
    set_key,
)

BOUND = 30.0
CONTENT = b"content"


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AnnexRepository:
    """With the content of one file, locked as ``locked`` and unlocked as ``unlocked``."""
    (tmp_path / "home").mkdir()
    made = AnnexRepository(tmp_path / "repository", tmp_path / "home")
    for name, value in made.environment.items():
        monkeypatch.setenv(name, value)
    made.directory.mkdir()
    for name in ("locked", "unlocked"):
        (made.directory / name).write_bytes(CONTENT)
    made.make()
    made.git("annex", "unlock", "--quiet", "unlocked")
    made.git("commit", "--quiet", "--all", "--message", "unlocked")
    return made


def key_of(repository: AnnexRepository) -> Key:
    return Key.parse(repository.git("annex", "lookupkey", "locked").strip())


def object_of(repository: AnnexRepository) -> Path:
    return (repository.directory / "locked").resolve()


def unlocked(repository: AnnexRepository) -> bytes:
    return (repository.directory / "unlocked").read_bytes()


def journalled(repository: AnnexRepository, key: Key) -> str:
    """The status in the journal, or ``""``."""
    for path in (repository.directory / ".git/annex/journal").iterdir():
        if key.file_name in path.name.replace("__", "_"):
            return path.read_text().split()[-2]
    return ""


def here(repository: AnnexRepository, key: Key) -> bool:
    uuid = repository.git("config", "annex.uuid").strip()
    done = subprocess.run(
        ["git-annex", "whereis", "--json", "--key", key.text],
        cwd=repository.directory,
        capture_output=True,
        text=True,
        check=False,
    )
    return uuid in done.stdout


# -- removing and storing --------------------------------------------------------------------------


def test_drop_and_set(repository: AnnexRepository, tmp_path: Path) -> None:
    key = key_of(repository)
    drop_key(repository.directory, key)
    assert not object_of(repository).exists()
    assert unlocked(repository) == b"/annex/objects/%s\n" % key.file_name.encode()
    assert not here(repository, key)
    assert repository.git("status", "--short") == ""

    file = tmp_path / "-new content"
    file.write_bytes(CONTENT)
    set_key(repository.directory, key, file)
    assert not file.exists()
    assert object_of(repository).read_bytes() == CONTENT
    assert stat.S_IMODE(object_of(repository).stat().st_mode) == 0o444
    assert unlocked(repository) == CONTENT
    assert here(repository, key)
    assert repository.git("status", "--short") == ""


def test_a_partial_upload_is_taken_where_it_is(repository: AnnexRepository) -> None:
    key = key_of(repository)
    drop_key(repository.directory, key)
    file = repository.directory / ".git/annex/tmp" / key.file_name
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(CONTENT)
    set_key(repository.directory, key, file, verified=True)
    assert unlocked(repository) == CONTENT
    assert list(file.parent.iterdir()) == []


def test_changes_are_recorded_and_not_committed_one_by_one(repository: AnnexRepository) -> None:
    key = Key.parse("WORM--" + os.fsdecode(b"-strange %:/&_ \xff\xc3\xa9"))
    before = repository.git("rev-parse", "git-annex")
    for content in ("one", "two"):
        file = repository.directory / ".git" / content
        file.write_text(content)
        set_key(repository.directory, key, file)
        assert Path(Layout(repository.directory / ".git", False).objects(key)[0]).exists()
        drop_key(repository.directory, key)
    names = [path.name for path in (repository.directory / ".git/annex/journal").iterdir()]
    assert len(names) == 1
    assert repository.git("rev-parse", "git-annex") == before


def test_setting_twice_keeps_the_first(repository: AnnexRepository, tmp_path: Path) -> None:
    key = key_of(repository)
    file = tmp_path / "file"
    file.write_bytes(b"another")
    set_key(repository.directory, key, file, verified=True)
    assert not file.exists()
    assert object_of(repository).read_bytes() == CONTENT


def test_wrong_content_is_refused(repository: AnnexRepository, tmp_path: Path) -> None:
    key = key_of(repository)
    drop_key(repository.directory, key)
    file = tmp_path / "file"
    file.write_bytes(b"nothing")
    with pytest.raises(ProgramError, match=r"^git-annex setkey failed \(1\): .*Verification of"):
        set_key(repository.directory, key, file)
    assert not here(repository, key)
    assert not file.exists()


def test_dropping_what_is_not_here(repository: AnnexRepository) -> None:
    key = Key.parse("WORM--nothing")
    drop_key(repository.directory, key)
    assert not here(repository, key)


def test_an_edited_file_is_left_alone(repository: AnnexRepository) -> None:
    (repository.directory / "unlocked").write_bytes(b"edited")
    drop_key(repository.directory, key_of(repository))
    assert unlocked(repository) == b"edited"
    assert not object_of(repository).exists()


def test_locked_content_is_not_dropped(repository: AnnexRepository) -> None:
    content = object_of(repository)
    content.parent.chmod(0o755)
    with filelock.held(f"{content}.lck", exclusive=False):
        with pytest.raises(ProgramError, match="content is locked") as refused:
            drop_key(repository.directory, key_of(repository))
        assert "content is locked" in refused.value.printed
    assert content.exists()
    drop_key(repository.directory, key_of(repository))
    assert not content.exists()


def test_retained_content_is_not_dropped(repository: AnnexRepository) -> None:
    content = object_of(repository)
    content.parent.chmod(0o755)
    retention = Path(f"{content}.rtm")
    retention.write_text(f"{time.time() + 600:.6f}s")
    with pytest.raises(ProgramError, match="content is locked"):
        drop_key(repository.directory, key_of(repository))
    assert content.exists()
    retention.write_text(f"{time.time() - 1:.6f}s")
    drop_key(repository.directory, key_of(repository))
    assert not content.exists()
    assert not retention.exists()


# -- keys ------------------------------------------------------------------------------------------


def test_calculate_key(repository: AnnexRepository, tmp_path: Path) -> None:
    assert calculate_key(repository.directory, "SHA256E", object_of(repository)).name == (
        key_of(repository).name
    )
    file = tmp_path / "-file.tar.gz"
    file.write_bytes(CONTENT)
    key = calculate_key(repository.directory, "SKEIN256E", file)
    assert (key.backend, key.size) == ("SKEIN256E", len(CONTENT))
    assert key.name.endswith(".tar.gz")
    assert key.name.removesuffix(".tar.gz") == (
        calculate_key(repository.directory, "SKEIN256", file).name
    )


def test_what_has_no_key(repository: AnnexRepository, tmp_path: Path) -> None:
    for backend, file in (("NOSUCH", object_of(repository)), ("SKEIN256", tmp_path / "nothing")):
        with pytest.raises(ProgramError, match="git-annex calckey failed"):
            calculate_key(repository.directory, backend, file)


# -- running ---------------------------------------------------------------------------------------


def test_the_program_beside_this_python_is_found(tmp_path: Path) -> None:
    assert program() == Path(sys.executable).with_name("git-annex")


def test_without_git_annex_the_error_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ProgramError, match="pip install git-annex"):
        run_blocking(tmp_path, "version")


def test_a_git_that_started_the_server_does_not_lead_astray(
    repository: AnnexRepository, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    assert "GIT_DIR" not in environment()
    found = run_blocking(repository.directory, "lookupkey", "locked")
    monkeypatch.delenv("GIT_DIR")
    assert found.strip() == key_of(repository).text


async def test_run(repository: AnnexRepository) -> None:
    key = key_of(repository).text
    assert await run(repository.directory, "lookupkey", "locked") == key + "\n"
    out = await run(repository.directory, "lookupkey", "--batch", stdin=b"locked\nunlocked\n")
    assert out == f"{key}\n{key}\n"
    with pytest.raises(ProgramError, match=r"git-annex lookupkey failed \(1\)"):
        await run(repository.directory, "lookupkey", "nothing")


async def test_no_such_directory(tmp_path: Path) -> None:
    with pytest.raises(ProgramError, match="cannot run git-annex"):
        await run(tmp_path / "nothing", "version")
    with pytest.raises(ProgramError, match="cannot run git-annex"):
        run_blocking(tmp_path / "nothing", "version")


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


async def test_what_takes_too_long_is_ended(repository: AnnexRepository) -> None:
    with filelock.held(repository.directory / ".git/annex/journal.lck"):
        words = ("setpresentkey", key_of(repository).text, "somewhere", "1")
        with pytest.raises(ProgramError, match=r"setpresentkey was not done in 0\.5 s"):
            await run(repository.directory, *words, timeout=0.5)
        assert running_in(repository.directory) == []
        with pytest.raises(ProgramError, match=r"setpresentkey was not done in 0\.5 s"):
            run_blocking(repository.directory, *words, timeout=0.5)
        assert running_in(repository.directory) == []


async def test_one_that_does_not_end_when_asked_is_killed(
    repository: AnnexRepository, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(programs, "GRACE_SECONDS", 0.2)
    stubborn = tmp_path / "bin/git-annex"
    stubborn.parent.mkdir()
    stubborn.write_text("#!/bin/sh\ntrap 'echo asked >>asked' TERM\nwhile :; do sleep 0.05; done\n")
    stubborn.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(stubborn.with_name("python")))
    with pytest.raises(ProgramError, match="not done"):
        await run(repository.directory, "version", timeout=0.2)
    with pytest.raises(ProgramError, match="not done"):
        run_blocking(repository.directory, "version", timeout=0.2)
    assert running_in(repository.directory) == []
    assert (repository.directory / "asked").read_text() == "asked\n" * 2


async def test_cancelling_ends_git_annex_and_its_gits(repository: AnnexRepository) -> None:
    with filelock.held(repository.directory / ".git/annex/journal.lck"):
        task = asyncio.create_task(
            run(repository.directory, "setpresentkey", "WORM--x", "somewhere", "1")
        )
        async with asyncio.timeout(BOUND):
            await asyncio.sleep(0.3)  # it waits for the lock now, or will soon
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert running_in(repository.directory) == []
    assert journalled(repository, Key.parse("WORM--x")) == ""


def test_git_annex_does_not_outlive_a_server_that_is_killed(repository: AnnexRepository) -> None:
    """It could remove, or move into place, what the next server has promised or begun since."""
    port = free_port()
    serve = f"'p2phttp', '-J2', '--wideopen', '--port={port}', '--bind=127.0.0.1'"
    program = (
        "from pathlib import Path; from locklane_server.repository.annex import program; "
        f"program.run_blocking(Path('.'), {serve})"
    )
    with Process(sys.executable, "-c", program, cwd=repository.directory) as server:
        wait_for_port(port)
        server.kill()
    end = time.monotonic() + BOUND
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except ConnectionRefusedError:
            return
        assert time.monotonic() < end, "it goes on"
        time.sleep(0.01)
