"""docs/serving.md and the files beside it: what they say is so, and works."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest
from annexes import Annex
from conftest import LOCKLANE, eventually
from deployment import (
    DOCS,
    PAGE,
    PROGRAM,
    UNIT,
    Deployed,
    commands,
    deployed,
    over_socket,
    passwords,
    settings,
    values,
)

from locklane_bench.proxies import PROXIES
from locklane_client import AccessDenied, Client, Key, ProtocolViolation
from locklane_server.transports import TRANSPORTS as SERVED

FRONTS = [
    (proxy.program, over)
    for proxy in PROXIES.values()
    if proxy.recommended and proxy.why_missing() is None
    for over in ("tcp", "socket")
]
"""Caddy always, nginx where it is installed; each over TCP and over a unix socket."""

LIVE = 'locklane_locks{.*state="live".*}'

CONTENT = b"a photograph\n" * 50_000

pytestmark = pytest.mark.timeout(180)


# -- the page --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def help_text() -> str:
    """What ``locklane serve`` says of itself, in lines that are long enough for anything."""
    return subprocess.run(
        [LOCKLANE, "serve", "--help"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "COLUMNS": "200"},
    ).stdout


@pytest.fixture(scope="module")
def known(help_text: str) -> set[str]:
    """Its options."""
    return set(re.findall(r"^ +(?:-\w, )?(--[a-z-]+)", help_text, re.MULTILINE))


# Of the other programs on the page.
ELSEWHERE = {
    *("--system", "--home-dir", "--shell"),  # useradd
    *("--upgrade", "--now", "--global", "--bare"),  # pip, systemctl, git config, git init
}


def test_every_option_on_the_page_is_one_of_the_server(known: set[str]) -> None:
    mentioned = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", PAGE)) - ELSEWHERE
    assert len(mentioned) > 15
    assert mentioned - known == set()


@pytest.mark.parametrize("command", commands(), ids=lambda words: words[-1])
def test_every_option_that_systemd_gives_is_one_of_the_server(
    command: list[str], known: set[str]
) -> None:
    assert command[:2] == [PROGRAM, "serve"]
    given = {word.partition("=")[0] for word in command if word.startswith("-")}
    assert given - known == set()


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\(([^)#]+)", PAGE))))
def test_every_link_of_the_page_leads_to_a_file(link: str) -> None:
    assert (DOCS / link).is_file()


def test_every_file_of_ours_that_the_page_installs_is_there() -> None:
    files = re.findall(r"docs/\S+", PAGE)
    assert files
    assert [file for file in files if not (DOCS.parent / file).is_file()] == []


def test_every_file_in_docs_is_on_the_page() -> None:
    files = [str(path.relative_to(DOCS)) for path in DOCS.rglob("*") if path.is_file()]
    assert len(files) >= 4
    assert [file for file in files if f"]({file})" not in PAGE and file != "serving.md"] == []


# -- the unit --------------------------------------------------------------------------------------


def test_systemd_waits_for_longer_than_the_server_may_take_to_stop(help_text: str) -> None:
    grace = re.search(r"--grace .*?default: ([\d.]+)", help_text, re.DOTALL)
    assert grace is not None
    [most] = values(UNIT, "TimeoutStopSec")
    assert float(most) >= 2 * float(grace[1])


def test_the_server_may_write_where_the_repositories_are() -> None:
    [command] = [words for words in commands() if "--socket" not in words]
    served = command[command.index("--directory") + 1]
    assert values(UNIT, "ProtectSystem") == ["strict"]
    assert values(UNIT, "ReadWritePaths") == [served]


def test_the_unit_does_not_hinder_git_in_shared_repositories() -> None:
    """It fails at the first commit, with EPERM: its directories are to have the group's bit."""
    assert values(UNIT, "RestrictSUIDSGID") in ([], ["no"])


def test_the_socket_is_in_the_directory_that_systemd_makes_for_it() -> None:
    command, caddy, nginx = over_socket()
    path = command[command.index("--socket") + 1]
    [made] = values(UNIT, "RuntimeDirectory")
    assert Path(path).parent == Path("/run") / made
    assert (caddy, nginx) == (f"unix/{path}", f"unix:{path}")


def test_a_line_of_the_unit_says_what_no_other_says() -> None:
    names = [(section, name) for section, name, _ in settings(UNIT)]
    assert len(names) == len(set(names))


def analyze(*words: str | Path) -> subprocess.CompletedProcess[str]:
    program = shutil.which("systemd-analyze")
    assert program is not None
    return subprocess.run(
        [program, *map(str, words)], capture_output=True, text=True, check=False, timeout=60
    )


needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed"
)


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """The unit, with the program where it is here: systemd looks whether it is there."""
    file = tmp_path / "locklane.service"
    file.write_text(UNIT.replace(PROGRAM, LOCKLANE))
    return file


@needs_systemd
def test_systemd_finds_nothing_wrong_with_the_unit(unit: Path) -> None:
    done = analyze("verify", unit)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@needs_systemd
def test_systemd_calls_the_unit_hardened(unit: Path) -> None:
    done = analyze("security", "--offline=true", "--threshold=20", unit)
    assert done.returncode == 0, done.stdout + done.stderr


# -- all of it, running ----------------------------------------------------------------------------


@pytest.fixture(scope="module", params=FRONTS, ids="-".join)
def there(request: pytest.FixtureRequest) -> Iterator[Deployed]:
    with deployed(*request.param) as running:
        yield running


@pytest.fixture(scope="module")
def clone(there: Deployed) -> Annex:
    """Of alice, who may do everything."""
    return there.clone("clone", "alice")


@pytest.fixture(scope="module")
def key(there: Deployed, clone: Annex) -> Key:
    """In the clone and, by git-annex through the proxy, on the server."""
    key = clone.add(CONTENT, "photo.raw")
    clone.annex("copy", "-q", "--to=origin", "photo.raw")
    assert there.annex.object(key).read_bytes() == CONTENT
    return key


def test_git_annex_copies_drops_gets_and_drops_there_over_tls_with_a_password(
    there: Deployed, clone: Annex, key: Key
) -> None:
    locked = there.counted("locklane_locks_taken_total")
    clone.annex("drop", "-q", "photo.raw")
    assert not clone.object(key).exists()
    assert there.counted("locklane_locks_taken_total") == locked + 1
    clone.annex("get", "-q", "photo.raw")
    assert clone.object(key).read_bytes() == CONTENT
    other = clone.add(b"another", "other.raw")
    clone.annex("copy", "-q", "--to=origin", "other.raw")
    clone.annex("drop", "-q", "--from=origin", "other.raw")
    assert not there.annex.object(other).exists()
    assert there.counted("locklane_locks") == 0


def test_git_annex_with_a_wrong_password_gets_nothing(there: Deployed, clone: Annex) -> None:
    stranger = there.clone("stranger", "alice", "wrong")
    stranger.learn_from(clone)
    key = stranger.add(b"of a stranger", "stranger.raw")
    done = stranger.attempt("git", "annex", "copy", "--to=origin", "stranger.raw")
    assert done.returncode != 0
    assert not there.annex.object(key).exists()


@pytest.mark.parametrize("transport", SERVED)
async def test_the_reference_client_holds_a_lock_through_the_proxy(
    there: Deployed, key: Key, transport: str
) -> None:
    await hold(there, key, transport)


async def test_holds_go_over_http2_where_the_file_offers_it(there: Deployed, key: Key) -> None:
    if there.front == "caddy":
        await hold(there, key, "longpoll-http2")
    else:
        with pytest.raises(ProtocolViolation, match="does not speak HTTP/2"):
            await hold(there, key, "longpoll-http2")


async def hold(there: Deployed, key: Key, transport: str) -> None:
    """Three locks one after the other, each of which the server says is held and then is not."""
    async with Client(there.url("alice"), transport=transport, tls=there.tls) as client:
        for _ in range(3):
            async with client.lock(key):
                await eventually(lambda: there.counted(LIVE) == 1)
        await client.confirmed()
    await eventually(lambda: there.counted(LIVE) == 0)


async def test_a_user_may_do_what_the_file_of_passwords_says(there: Deployed, key: Key) -> None:
    users = {name.rpartition("_")[2] for name in passwords() if "_PASSWORD_" in name}
    assert users == {"alice", "bob", "camera"}
    for user in ("bob", "camera"):
        async with Client(there.url(user), tls=there.tls) as client:
            assert await client.check_present(key)
            with pytest.raises(AccessDenied, match="403"):
                await client.remove(key)
    for url in (there.url(), there.url("alice", "wrong"), there.url("nobody", "wrong")):
        async with Client(url, tls=there.tls) as client:
            with pytest.raises(AccessDenied, match="401"):
                await client.check_present(key)


async def test_the_server_is_told_by_the_proxy_who_asks_and_not_by_the_client(
    there: Deployed, key: Key
) -> None:
    forged = {"X-Forwarded-For": "203.0.113.9", "X-Request-Id": "of-my-own-making"}
    url = there.url().removeprefix("annex+") + f"/key/{key.text}"
    async with (
        aiohttp.ClientSession(headers=forged) as http,
        http.head(url, ssl=there.tls) as answer,
    ):
        assert answer.status == 401
    line = await there.server.prints(r".*method=HEAD.*\n")
    assert "address=127.0.0.1 " in line[0]
    assert "203.0.113.9" not in there.server.output
    assert "of-my-own-making" not in there.server.output


async def test_health_is_told_to_everybody_through_the_proxy(there: Deployed) -> None:
    url = f"https://localhost:{there.port}/health"
    async with aiohttp.ClientSession() as http, http.get(url, ssl=there.tls) as answer:
        assert answer.status == 200


def test_no_password_is_in_the_log(there: Deployed, clone: Annex, key: Key) -> None:
    """After git-annex has given one with each of its requests."""
    assert key.text in there.server.output
    assert not [secret for secret in there.secrets if secret in there.server.output]


def test_the_socket_is_open_to_the_group_and_to_nobody_else(there: Deployed) -> None:
    if there.socket is not None:
        assert stat.S_IMODE(there.socket.stat().st_mode) == 0o660
    else:
        assert there.server.line(r"serving annex\+http://127\.0\.0\.1:")
