"""Clients and credentials: ours over every transport and on the command line, and git-annex with a
helper that git asks for the password."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from annexes import Annex, annex, home, own
from conftest import (
    ABSENT,
    CADDY,
    LOCKLANE,
    Process,
    ServerProcess,
    free_port,
    key_of,
    wait_for_port,
)
from kinds import CONTENTS, make_directory, put
from users import ENVIRONMENT, PASSWORDS, as_user

from locklane_bench.certificates import Certificates
from locklane_client import TRANSPORTS, AccessDenied, Client

__all__ = ["annex", "home"]

KEY = key_of(CONTENTS[0])

HTTP2 = "longpoll-http2"
"""The transport that needs a proxy which speaks HTTP/2."""

CADDYFILE = """
{
    admin off
    auto_https off
    persist_config off
    storage file_system %s
    servers {
        protocols h1 h2c
    }
}
http://127.0.0.1:%d {
    bind 127.0.0.1
    reverse_proxy 127.0.0.1:%s
}
"""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("users") / "store"
    make_directory(store)
    put(store, CONTENTS[0])
    return store


@pytest.fixture(scope="module")
def url(store: Path) -> Iterator[str]:
    """A server for users only."""
    with ServerProcess(store, access=("--authenv-http",), env=ENVIRONMENT) as server:
        yield server.url


@pytest.fixture(scope="module")
def over_http2(url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The same server through a proxy."""
    directory = tmp_path_factory.mktemp("caddy")
    port = free_port()
    there = re.search(r":(\d+)/", url)
    assert there is not None
    config = directory / "Caddyfile"
    config.write_text(CADDYFILE % (directory, port, there[1]))
    with Process(CADDY, "run", "--adapter", "caddyfile", "--config", config):
        wait_for_port(port)
        yield url.replace(f":{there[1]}/", f":{port}/")


# -- ours ------------------------------------------------------------------------------------------

WRONG = {
    "no credentials": (None, "a user name and a password are needed to lock here", 401),
    "a wrong password": (("alice", "wrong"), "the user name or the password is wrong", 401),
    "an unknown user": (("dave", "wrong"), "the user name or the password is wrong", 401),
    "a user who may not": (("bob", PASSWORDS["bob"]), "the user bob may not lock here", 403),
}


@pytest.fixture(params=list(TRANSPORTS))
def transport(request: pytest.FixtureRequest) -> str:
    """Every transport that clients have."""
    return str(request.param)


@pytest.mark.parametrize(("login", "says", "status"), WRONG.values(), ids=WRONG.keys())
async def test_who_may_not_lock_is_told_so_over_any_transport(
    url: str,
    transport: str,
    login: tuple[str, str] | None,
    says: str,
    status: int,
    request: pytest.FixtureRequest,
) -> None:
    if transport == HTTP2:
        url = request.getfixturevalue("over_http2")
    if login is not None:
        url = as_user(url, *login)
    async with Client(url, transport=transport) as client:
        with pytest.raises(AccessDenied, match=says) as denied:
            async with client.lock(KEY):
                raise AssertionError("held a lock that nobody may take")
    assert denied.value.status == status
    assert login is None or login[1] == "wrong" or login[1] not in str(denied.value)


async def test_who_may_lock_locks_over_any_transport(
    url: str, transport: str, request: pytest.FixtureRequest
) -> None:
    if transport == HTTP2:
        url = request.getfixturevalue("over_http2")
    async with Client(as_user(url, "alice"), transport=transport) as client:
        async with client.lock(KEY):
            pass
        await client.confirmed()


@pytest.mark.parametrize(
    ("user", "password", "says"),
    [
        ("alice", "wr-ong", "the user name or the password is wrong"),
        ("bob", PASSWORDS["bob"], "the user bob may not remove here"),
    ],
)
def test_on_the_command_line_it_is_said_in_a_sentence_without_the_password(
    url: str, user: str, password: str, says: str
) -> None:
    process = Process(LOCKLANE, "remove", as_user(url, user, password), ABSENT.text)
    assert process.wait() != 0
    assert says in " ".join(process.output.split())
    assert password not in process.output
    assert "Traceback" not in process.output


def test_on_the_command_line_the_address_has_the_password(url: str) -> None:
    process = Process(LOCKLANE, "checkpresent", as_user(url, "bob"), KEY.text)
    assert process.wait() == 0, process.output


# -- git-annex -------------------------------------------------------------------------------------


def helper(user: str, password: str) -> str:
    """A value of ``credential.helper``."""
    return f"!f() {{ echo username={user}; echo password={password}; }}; f"


@contextmanager
def serving(annex: Annex, *options: str) -> Iterator[str]:
    """The address of the real server in a repository, which has users."""
    command = annex.command(LOCKLANE, "serve", "--port", "0", *options)
    with Process(*command, env={**annex.env, **ENVIRONMENT}) as process:
        yield process.line(r"serving (annex\+https?://\S+)\n")[1]


def gets_copies_and_drops(clone: Annex, served: Annex) -> None:
    """All that needs a right, by git-annex; the clone has ``theirs`` and its server has its
    content."""
    clone.annex("get", "theirs")
    (clone.directory / "ours").write_bytes(b"of the clone" * 100)
    own(clone.directory / "ours")
    clone.annex("add", "-q", "ours")
    clone.git("commit", "-q", "-m", "ours")
    clone.annex("copy", "-q", "--to", "origin", "ours")
    clone.annex("drop", "ours")
    clone.annex("get", "ours")
    clone.annex("drop", "--from", "origin", "ours", "theirs")
    for name in ("ours", "theirs"):
        assert (clone.directory / name).is_file(), "it was dropped where it was to stay"
        key = clone.annex("lookupkey", name).strip()
        assert not served.attempt("git", "annex", "contentlocation", key).stdout


@pytest.mark.timeout(120)
def test_git_annex_asks_its_helper_and_gets_copies_and_drops_and_not_with_a_wrong_password(
    annex: Annex,
) -> None:
    key = annex.add(b"of the server" * 100, "theirs")
    with serving(annex, "--authenv-http", "--unauth-readonly") as url:
        clone = annex.clone("clone", url)
        clone.git("config", "credential.helper", helper("alice", "wrong"))
        clone.annex("get", "theirs")  # which everybody may
        assert clone.attempt("git", "annex", "drop", "--from", "origin", "theirs").returncode != 0
        assert annex.object(key).is_file()
        clone.annex("drop", "theirs")
        clone.git("config", "credential.helper", helper("alice", PASSWORDS["alice"]))
        gets_copies_and_drops(clone, annex)


@pytest.mark.timeout(120)
def test_git_annex_does_so_over_tls_where_only_users_may_do_anything(
    annex: Annex, home: Path
) -> None:
    annex.add(b"of the server" * 100, "theirs")
    certificates = Certificates.make(home)
    for path in (certificates.chain, certificates.key, certificates.authority):
        own(path)
    options = ("--certfile", str(certificates.chain), "--privatekeyfile", str(certificates.key))
    with serving(annex, "--authenv", *options) as url:
        clone = annex.clone("clone", url.replace("127.0.0.1", "localhost"))
        clone.env = {**clone.env, "SYSTEM_CERTIFICATE_PATH": str(certificates.authority)}
        clone.git("config", "credential.helper", helper("alice", PASSWORDS["alice"]))
        gets_copies_and_drops(clone, annex)
