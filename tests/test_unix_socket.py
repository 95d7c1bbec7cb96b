"""``--socket``: a server on a unix socket."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import aiohttp
import pytest
from conftest import LOCKLANE, SOMEBODY, Process, run_locklane
from kinds import make_directory


@pytest.fixture
def at(tmp_path: Path) -> Path:
    return tmp_path / "socket"


def start(store: Path, at: Path, *options: str) -> Process:
    if not store.exists():
        make_directory(store)
    process = Process(LOCKLANE, "serve", "--store", store, "--wideopen", "--socket", at, *options)
    process.line(r"serving .*socket: /git-annex/")
    return process


def ask(at: Path, store: Path) -> int:
    """Ask for the time; the status."""
    return asyncio.run(_ask(at, (store / ".locklane/uuid").read_text().strip()))


async def _ask(at: Path, uuid: str) -> int:
    async with (
        aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(at))) as http,
        http.post(
            f"http://socket/git-annex/{uuid}/v4/gettimestamp?clientuuid={SOMEBODY}"
        ) as response,
    ):
        return response.status


def test_a_server_on_a_unix_socket_answers_there_for_its_own_user_and_clears_it_away(
    tmp_path: Path, at: Path
) -> None:
    with start(tmp_path / "store", at) as process:
        assert at.stat().st_mode & 0o777 == 0o600
        assert ask(at, tmp_path / "store") == 200
        process.terminate()
        assert process.wait() == 0
    assert not at.exists()


def test_others_may_use_it_if_its_mode_says_so(tmp_path: Path, at: Path) -> None:
    with start(tmp_path / "store", at, "--socket-mode", "660"):
        assert at.stat().st_mode & 0o777 == 0o660


def test_the_socket_of_a_killed_server_is_replaced(tmp_path: Path, at: Path) -> None:
    with start(tmp_path / "store", at) as process:
        process.signal(signal.SIGKILL)
        process.wait()
    assert at.exists()
    with start(tmp_path / "store", at):
        assert ask(at, tmp_path / "store") == 200


def test_that_of_a_server_that_runs_is_not(tmp_path: Path, at: Path) -> None:
    with start(tmp_path / "store", at):
        make_directory(tmp_path / "other")
        status, said = run_locklane(
            "serve", "--store", tmp_path / "other", "--wideopen", "--socket", at
        )
        assert status == 1
        assert f"cannot listen on {at}: Address already in use" in said
        assert ask(at, tmp_path / "store") == 200


def test_a_file_of_that_name_is_not_touched(tmp_path: Path, at: Path) -> None:
    at.write_text("mine")
    make_directory(tmp_path / "store")
    status, said = run_locklane(
        "serve", "--store", tmp_path / "store", "--wideopen", "--socket", at
    )
    assert (status, at.read_text()) == (1, "mine")
    assert "which is no socket" in said


@pytest.mark.parametrize("mode", ["rw", "1000", "-1"])
def test_a_mode_that_is_none_says_how_to_write_one(tmp_path: Path, at: Path, mode: str) -> None:
    status, said = run_locklane("serve", "--wideopen", "--socket", at, "--socket-mode", mode)
    assert (status, "write it in octal, for example 660" in said) == (2, True)


def test_a_path_that_is_too_long_for_a_socket_says_so(tmp_path: Path) -> None:
    make_directory(tmp_path / "store")
    status, said = run_locklane(
        "serve", "--store", tmp_path / "store", "--wideopen", "--socket", tmp_path / ("x" * 120)
    )
    assert status == 1
    assert "too long" in said
