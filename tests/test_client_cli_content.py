"""The commands about content, as processes, against a real server over a real repository."""

from __future__ import annotations

import asyncio
import os
import pty
import re
import resource
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import BOUND, LOCKLANE, Process, eventually, key_of
from contentservers import SERVERS, Repository
from test_client_content import Remote, names, write
from test_client_content_peers import (
    answers,
    chunked,
    json,
    plain,
    promised,
    read_body,
    server,
)

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
    assert "empty name" in fails("get", url, str(key), ".", status=2)
    assert "1 bytes instead of 1000" in fails("put", url, str(key), file)
    assert "No such file" in fails("put", url, str(key), tmp_path / "no")
    said = fails("get", url, "s.txt", status=2)
    assert "'s.txt' is not a git-annex key" in said
    assert "git annex lookupkey FILE" in said
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
    part = tmp_path / "file.part"
    assert f"cannot write {part}: File too large; {part} is kept, and the next" in limited.stderr
    assert "Traceback" not in limited.stderr
    assert (tmp_path / "file.part").read_bytes() == content[:MIB]
    ok("get", remote.url, str(key), tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == content


def test_a_wrong_uuid_is_said_to_be_the_reason(remote: Remote, tmp_path: Path) -> None:
    url = remote.url.rpartition("/")[0] + "/6f1b7b4e-0000-4000-8000-000000000000"
    key = str(key_of(b"x"))
    for arguments in (
        ("gettimestamp", url),
        ("remove", "--before", "5", url, key),
        ("remove", url, key),
        ("checkpresent", url, key),
        ("get", url, key, tmp_path / "new"),
        ("put", url, key, write(tmp_path / "file", b"x")),
        ("lock", url, key),
    ):
        said = fails(*arguments)
        assert " with 404" in said
        assert "check the address and the UUID" in said
        assert "came with version" not in said


async def test_a_broken_download_says_what_to_do(tmp_path: Path) -> None:
    content = os.urandom(1000)
    path, part = tmp_path / "file", tmp_path / "file.part"
    again = f"{part} has what came; the same command goes on from there"

    async def reset(head: str, reader: object, writer: asyncio.StreamWriter) -> None:
        if "offset=" not in head:
            writer.write(chunked(content[:500], promised(1000), end=False))
            await writer.drain()
            await eventually(lambda: part.exists() and part.stat().st_size == 500)
        writer.transport.abort()

    async with server(reset) as url:
        for _ in range(2):  # the second time, nothing comes
            said = await asyncio.to_thread(fails, "get", url, str(key_of(content)), path)
            assert "broke" in said
            assert again in said
        part.unlink()
        unverifiable = "WORM-s1000--x"
        said = await asyncio.to_thread(fails, "get", url, unverifiable, path)
        assert "; nothing was kept; run it again" in said
        assert not part.exists()
    said = await asyncio.to_thread(fails, "get", url, str(key_of(content)), path)
    assert "no connection" in said
    assert "kept" not in said


async def test_a_broken_upload_says_what_to_do(tmp_path: Path) -> None:
    content = os.urandom(4 * MIB)
    path = write(tmp_path / "file", content)
    kept = "the same command goes on from what the server has kept"

    async def reset(head: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if asks and "/putoffset?" in head:
            writer.write(json(b'{"offset":0}'))
            return
        if asks:
            await reader.readexactly(MIB)
        writer.transport.abort()

    async with server(reset) as url:
        for asks in (True, False):
            said = await asyncio.to_thread(fails, "put", url, str(key_of(content)), path)
            assert "broke" in said
            assert (kept in said) == asks


async def test_damaged_content_is_to_be_fetched_again(tmp_path: Path) -> None:
    content = os.urandom(1000)
    path = tmp_path / "file"
    async with server(answers(chunked(b"x" * 1000, promised(1000)))) as url:
        said = await asyncio.to_thread(fails, "get", url, str(key_of(content)), path)
        assert said.endswith("nothing was kept; run it again\n")
    write(tmp_path / "file.part", b"x" * 500)
    async with server(answers(chunked(content[500:], promised(500)))) as url:
        said = await asyncio.to_thread(fails, "get", url, str(key_of(content)), path)
        assert said.endswith("an earlier attempt had left; run it again\n")
    assert names(tmp_path) == []


class Terminal:
    """A command whose stderr is a terminal."""

    def __init__(self, *command: str | Path) -> None:
        mine, its = pty.openpty()
        env = {**os.environ, "TERM": "xterm", "COLUMNS": "120"}
        self._process = subprocess.Popen(
            list(map(str, command)), stdout=subprocess.PIPE, stderr=its, env=env
        )
        os.close(its)
        self.shown = b""
        self._reader = threading.Thread(target=self._read, args=(mine,), daemon=True)
        self._reader.start()

    def _read(self, mine: int) -> None:
        try:
            while data := os.read(mine, 4096):
                self.shown += data
        except OSError:  # its end of the terminal is closed
            pass
        os.close(mine)

    async def shows(self, pattern: bytes) -> None:
        await eventually(lambda: re.search(pattern, self.shown) is not None)

    def ends(self) -> None:
        out, _ = self._process.communicate(timeout=BOUND)
        self._reader.join(BOUND)
        assert (self._process.returncode, out) == (0, b""), self.shown


def test_a_closing_line_is_only_for_terminals(remote: Remote, tmp_path: Path) -> None:
    content = os.urandom(3_000_000)
    key = str(key_of(content))
    file = write(tmp_path / "file", content)
    for what, arguments in (
        ("stored", ("put", remote.url, key, file)),
        ("fetched", ("get", remote.url, key, tmp_path / "got")),
    ):
        terminal = Terminal(LOCKLANE, *arguments)
        terminal.ends()
        line = rf"{what} {re.escape(key)} \(3\.0 MB in \d+\.\d s\)\r\n"
        assert re.search(line.encode(), terminal.shown), terminal.shown
    ok("remove", remote.url, key)
    (tmp_path / "got").unlink()
    for arguments in (("put", remote.url, key, file), ("get", remote.url, key, tmp_path / "got")):
        piped = run(*arguments)
        assert (piped.returncode, piped.stdout, piped.stderr) == (0, "", "")


async def test_a_bar_shows_what_is_waited_for_in_a_download(tmp_path: Path) -> None:
    """The server waits with each step until the one before has been shown."""
    content = os.urandom(3_000_000)
    write(tmp_path / "file.part", content[:1_000_000])

    async def handle(head: str, reader: object, writer: asyncio.StreamWriter) -> None:
        assert "offset=1000000&" in head
        await terminal.shows(rb"preparing")
        writer.write(plain(2_000_000, content[1_000_000:2_000_000]))
        await terminal.shows(rb"going on from 1\.0 MB\r\n")
        await terminal.shows(rb"downloading.*2\.0/3\.0 MB")
        writer.write(content[2_000_000:])

    async with server(handle) as url:
        path = tmp_path / "file"
        terminal = Terminal(LOCKLANE, "get", url, str(key_of(content)), path)
        await asyncio.to_thread(terminal.ends)
    assert path.read_bytes() == content
    assert b"fetched" in terminal.shown


async def test_a_bar_shows_what_is_waited_for_in_an_upload(tmp_path: Path) -> None:
    content = os.urandom(3_000_000)
    path = write(tmp_path / "file", content)

    async def handle(head: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if "/putoffset?" in head:
            asked = time.monotonic()
            await terminal.shows(rb"waiting for the server.*0/\?")
            assert time.monotonic() - asked < 2
            writer.write(json(b'{"offset":1000000}'))
            return
        await terminal.shows(rb"going on from 1\.0 MB\r\n")
        await read_body(reader)
        await terminal.shows(rb"waiting for the server.*3\.0/3\.0 MB")
        writer.write(json(b'{"stored":true}'))

    async with server(handle) as url:
        terminal = Terminal(LOCKLANE, "put", url, str(key_of(content)), path)
        await asyncio.to_thread(terminal.ends)
    assert b"stored" in terminal.shown
