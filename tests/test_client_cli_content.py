"""The commands about content, as processes, against a real server over a real repository."""

from __future__ import annotations

import asyncio
import os
import pty
import re
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import BOUND, LOCKLANE, Process, eventually, key_of
from contentservers import SERVERS, Repository
from test_client_content import Remote, names, write
from test_client_content_peers import answers, chunked, json, promised, server

MIB = 1 << 20


@pytest.fixture(scope="module", params=list(SERVERS))
def remote(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Remote]:
    repository = Repository(tmp_path_factory.mktemp("annex"))
    with SERVERS[request.param](repository) as url:
        yield Remote(repository, url)
    repository.make_removable()


def run(*arguments: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [LOCKLANE, *map(str, arguments)], cwd=cwd, capture_output=True, text=True, timeout=BOUND
    )


def ok(*arguments: str | Path, cwd: Path | None = None) -> str:
    done = run(*arguments, cwd=cwd)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def fails(*arguments: str | Path, status: int = 1) -> str:
    done = run(*arguments)
    assert done.returncode == status, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


def test_every_request_has_a_command(remote: Remote, tmp_path: Path) -> None:
    url, content = remote.url, os.urandom(3000)
    key = key_of(content)
    file = write(tmp_path / "file", content)
    absent = run("checkpresent", url, str(key))
    assert (absent.returncode, absent.stdout) == (1, f"absent {key}\n")
    assert ok("put", url, str(key), file) == ""
    assert "has it already" in run("put", url, str(key), file).stderr.replace(str(key), "it")
    assert ok("checkpresent", url, str(key)) == f"present {key}\n"
    ok("get", url, str(key), tmp_path / "got", "--associated-file", "x/file")
    assert (tmp_path / "got").read_bytes() == content
    (tmp_path / "here").mkdir()
    ok("get", url, str(key), cwd=tmp_path / "here")
    assert names(tmp_path / "here") == [key.file_name]
    now = int(ok("gettimestamp", url))
    assert "did not remove" in fails("remove", url, str(key), "--before", str(now - 1))
    assert ok("remove", url, str(key), "--before", str(now + 100)) == f"removed {key}\n"
    assert ok("remove", url, str(key)) == f"removed {key}\n"
    assert "does not have the content" in fails("get", url, str(key), tmp_path / "no")


def test_errors_are_sentences(remote: Remote, tmp_path: Path) -> None:
    url, key = remote.url, remote.repository.add(os.urandom(1000))
    file = write(tmp_path / "file", b"x")
    assert "exists already" in fails("get", url, str(key), file)
    assert "1 bytes instead of 1000" in fails("put", url, str(key), file)
    assert "No such file" in fails("put", url, str(key), tmp_path / "no")
    assert "not a git-annex key" in fails("get", url, "nokey", status=2)
    assert "write annex+http" in fails("get", "ftp://x/", str(key), status=2)
    assert "Missing argument" in fails("remove", url, status=2)
    assert "no connection" in fails("checkpresent", "annex+http://127.0.0.1:1/git-annex/u", "W--x")
    assert file.read_bytes() == b"x"
    assert names(tmp_path) == ["file"]


def test_what_could_not_be_verified_is_said(remote: Remote, tmp_path: Path) -> None:
    key = remote.repository.add(os.urandom(1000), "WORM")
    done = run("get", remote.url, str(key), tmp_path / "file")
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == "note: there was only the size to verify it by\n"


@pytest.mark.parametrize(
    "command", ["get", "put", "checkpresent", "remove", "gettimestamp", "lock"]
)
def test_help_has_examples(command: str) -> None:
    text = ok(command, "--help")
    assert "Example" in text
    assert f"locklane {command} " in text
    assert "--uuid" in text
    assert f"  {command} " in ok("--help")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_ctrl_c_leaves_what_came_and_the_next_run_goes_on(
    remote: Remote, tmp_path: Path, number: int
) -> None:
    content = os.urandom(2 * MIB)
    key = remote.repository.add(content)
    path, part = tmp_path / "file", tmp_path / "file.part"
    half = chunked(content[:MIB], promised(len(content)), end=False)  # and no more
    async with server(answers(half)) as url:
        with Process(LOCKLANE, "get", url, str(key), path) as process:
            await eventually(lambda: part.exists() and part.stat().st_size == MIB)
            process.signal(number)
            assert await process.ended() == 1
    assert f"interrupted; {part} has what came" in process.output
    assert "Traceback" not in process.output
    assert names(tmp_path) == ["file.part"]
    assert part.read_bytes() == content[:MIB]
    await asyncio.to_thread(ok, "get", remote.url, str(key), path)
    assert path.read_bytes() == content
    assert names(tmp_path) == ["file"]


async def test_ctrl_c_while_sending(tmp_path: Path) -> None:
    content = os.urandom(1000)

    async def handle(head: str, reader: object, writer: asyncio.StreamWriter) -> None:
        if "/putoffset?" in head:
            writer.write(json(b'{"offset":0}'))
        else:
            asked.set()
            await asyncio.Event().wait()

    asked = asyncio.Event()
    async with server(handle) as url:
        path = write(tmp_path / "file", content)
        with Process(LOCKLANE, "put", url, str(key_of(content)), path) as process:
            await asked.wait()
            process.interrupt()
            assert await process.ended() == 1
    assert "interrupted; the same command goes on" in process.output
    assert "Traceback" not in process.output


def test_a_file_that_cannot_grow(remote: Remote, tmp_path: Path) -> None:
    """As on a full disk: a limit of this process stands for that of the file system."""
    content = os.urandom(2 * MIB)
    key = remote.repository.add(content)
    limited = subprocess.run(
        [LOCKLANE, "get", remote.url, str(key), tmp_path / "file"],
        capture_output=True,
        text=True,
        timeout=BOUND,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (MIB, MIB)),
    )
    assert limited.returncode == 1
    assert "file.part: File too large" in limited.stderr
    assert "Traceback" not in limited.stderr
    assert (tmp_path / "file.part").read_bytes() == content[:MIB]
    ok("get", remote.url, str(key), tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == content


def test_a_bar_is_only_for_terminals(remote: Remote, tmp_path: Path) -> None:
    """Shown at once here, by way of a program that sets the delay to nothing."""
    key = remote.repository.add(os.urandom(3 * MIB))
    program = (
        "import sys, locklane_client.content_cli as c; c.BAR_AFTER_SECONDS = 0; "
        "from locklane_client.cli import main; main(sys.argv[1:])"
    )
    command = [sys.executable, "-c", program, "get", remote.url, str(key)]
    piped = subprocess.run([*command, tmp_path / "a"], capture_output=True, timeout=BOUND)
    assert (piped.returncode, piped.stdout, piped.stderr) == (0, b"", b"")
    mine, its = pty.openpty()
    env = {**os.environ, "TERM": "xterm", "COLUMNS": "80"}
    done = subprocess.Popen([*command, tmp_path / "b"], stdout=-1, stderr=its, env=env)
    os.close(its)
    shown = b""
    try:
        while data := os.read(mine, 4096):
            shown += data
    except OSError:  # its end of the terminal is closed
        pass
    os.close(mine)
    out, _ = done.communicate(timeout=BOUND)
    assert done.returncode == 0, shown
    assert out == b""
    assert re.search(rb"downloading.*MB", shown), shown
