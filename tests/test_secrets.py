"""No password and no lock id is in anything that the server says, or hands on to other programs."""

from __future__ import annotations

import asyncio
import base64
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import aiohttp
import pytest
from conftest import ABSENT, BOUND, SOMEBODY, ServerProcess, eventually, key_of
from kinds import CONTENTS, copy_annex
from users import ENVIRONMENT, PASSWORDS, as_user, ask, basic

from locklane_client import AccessDenied, Client
from locklane_client.address import Address
from locklane_server.transports import TRANSPORTS as SERVED

WRONG = "Das-ist-das-falsche"
"""A password that somebody has mistaken for hers."""

KEY = key_of(CONTENTS[0])


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, annex_template: Path
) -> Iterator[ServerProcess]:
    """One that says all it can, over a real repository, for which it starts git and git-annex."""
    repository = tmp_path_factory.mktemp("secrets") / "annex"
    copy_annex(annex_template, repository)
    options = ("--log-level", "debug", "--metrics", "127.0.0.1:0")
    access = ("--unauth-readonly", "--authenv-http")
    with ServerProcess(repository, *options, access=access, env=ENVIRONMENT) as process:
        yield process


def _forms(user: str, password: str) -> set[str]:
    credentials = basic(user, password).removeprefix("Basic ")
    return {
        password,
        credentials,
        base64.b64encode(password.encode()).decode(),
        password.encode().hex(),
    }


SECRETS = {
    form
    for user in PASSWORDS
    for password in (PASSWORDS[user], WRONG)
    for form in _forms(user, password)
}


def found(text: str, more: set[str] | None = None) -> set[str]:
    """Which secrets a text has."""
    return {secret for secret in SECRETS | (more or set()) if secret.lower() in text.lower()}


async def said(url: str, *lines: str) -> str:
    """What the server answers to that, on a connection of its own, until it closes it."""
    address = Address.parse(url)
    reader, writer = await asyncio.open_connection(address.host, address.port)
    writer.write("\r\n".join([*lines, "", ""]).encode("latin-1"))
    async with asyncio.timeout(BOUND):
        answer = await reader.read()
    writer.close()
    with suppress(ConnectionError):
        await writer.wait_closed()
    return answer.decode()


def _bad_requests(url: str, password: str, lock_id: str) -> dict[str, list[str]]:
    address = Address.parse(url)
    path = f"{address.base}{address.uuid}/v4"
    header = f"Authorization: {basic('alice', password)}"
    login = f"http://alice:{password}@{address.authority}"
    common = ["Host: h", "Connection: close"]
    kept = f"POST {path}/keeplocked?lockid={lock_id}&clientuuid={SOMEBODY} HTTP/1.1"
    return {
        "a password in the address": [f"GET {login}{path}/checkpresent HTTP/1.1", *common],
        "and nothing there": [f"GET {login}/nothing HTTP/1.1", *common],
        "and no port": [f"GET http://alice:{password}@h:port/ HTTP/1.1", *common],
        "and no address at all": [f"GET alice:{password}@h HTTP/1.1", *common],
        "for a proxy": [f"CONNECT alice:{password}@h:80 HTTP/1.1", *common],
        "a control character behind it": ["GET / HTTP/1.1", "Host: h", header + "\x01"],
        "a space in the header's name": ["GET / HTTP/1.1", "Host: h", f" {header}"],
        "no colon behind the name": ["GET / HTTP/1.1", "Host: h", header.replace(":", "")],
        "a header that is too long": ["GET / HTTP/1.1", "Host: h", header + "x" * 20_000],
        "as the first line": [header.removeprefix("Authorization: ")],
        "as the method": [f"{password} / HTTP/1.1", *common],
        "as the version": [f"GET / {password}", *common],
        "no request of ours": [f"POST {path}/nothing HTTP/1.1", header, *common],
        "another method": [f"DELETE {path}/remove HTTP/1.1", header, *common],
        "no key": [f"POST {path}/remove HTTP/1.1", header, *common],
        "no upgrade": [f"GET {path}/locks?clientuuid={SOMEBODY} HTTP/1.1", header, *common],
        "a hold with no end": [kept, header, "Content-Length: 0", *common],
        "a hold with nonsense": [kept, header, "Content-Length: 9", *common, "", "nonsense"],
        "a hold that is no HTTP": [
            kept,
            header,
            "Transfer-Encoding: chunked",
            *common,
            "",
            f"{lock_id}{password}",
        ],
        "a parameter that is no number": [
            f"POST {path}/remove-before?key={ABSENT}&clientuuid={SOMEBODY}&timestamp=x HTTP/1.1",
            header,
            *common,
        ],
        "wrong content": [
            f"POST {path}/put?key={ABSENT}&clientuuid={SOMEBODY} HTTP/1.1",
            header,
            f"X-git-annex-data-length: {ABSENT.size}",
            f"Content-Length: {ABSENT.size}",
            *common,
            "",
            "x" * (ABSENT.size or 0),
        ],
    }  # fmt: skip


async def test_nothing_that_is_said_has_a_password_or_a_lock_id_in_it(
    server: ServerProcess,
) -> None:
    """Logged, answered to what is refused, or counted."""
    url = server.url
    ids = set()
    for transport in SERVED:
        async with Client(as_user(url, "alice"), transport=transport) as c:
            async with c.lock(KEY):
                pass
            await c.confirmed()
    for _ in range(3):
        status, answer = await ask(url, "lockcontent", "alice", key=KEY.text)
        assert status == 200
        ids.add(str(answer["lockid"]))
    lock_id = next(iter(ids))
    for user, password in (("alice", WRONG), ("bob", PASSWORDS["bob"]), ("bob", WRONG)):
        async with Client(as_user(url, user, password)) as c:
            with pytest.raises(AccessDenied) as denied:
                await c.remove(ABSENT)
            assert not found(str(denied.value))
    for password in (PASSWORDS["alice"], WRONG):
        for name, lines in _bad_requests(url, password, lock_id).items():
            answer_text = await said(url, *lines)
            assert re.match(r"HTTP/1\.[01] (4\d\d|200) ", answer_text), name
            assert not found(answer_text, ids), name
    # Of another user, the id is answered as one that there never was.
    _, other = await ask(url, "keeplocked", "eve", body=b'{"unlock":true}', lockid=lock_id)
    assert not found(str(other), ids)
    metrics = server.line(r"metrics at (\S+)")[1]
    async with aiohttp.ClientSession() as http:
        for page in (metrics, metrics.replace("/metrics", "/health"), metrics + "/none"):
            async with http.get(page) as response:
                assert not found(await response.text(), ids)
    # The log is there, and has come so far.
    await ask(url, "checkpresent", "eve", key=ABSENT.text)
    await server.prints(r"user=eve request=checkpresent .*\n")
    assert "did not speak HTTP" in server.output
    assert "user=alice request=lockcontent" in server.output
    assert not found(server.output, ids)


async def test_programs_that_the_server_starts_do_not_find_passwords_in_their_environment(
    server: ServerProcess,
) -> None:
    """git, and git-annex, which writes down a removal some seconds later."""
    seen: dict[str, str] = {}

    def look() -> bool:
        for pid in _below(server.pid):
            with suppress(OSError):
                program = _program(pid)
                environment = Path(f"/proc/{pid}/environ").read_text(errors="replace")
                # Before it is another program it is the server's; when it has ended it has none.
                if program != _program(server.pid) and environment:
                    seen[program] = environment
        return seen.keys() >= {"git", "git-annex"}

    key = key_of(CONTENTS[1])
    _, answer = await ask(server.url, "remove", "alice", key=key.text)
    assert answer["removed"]
    await eventually(look)
    for program, environment in seen.items():
        assert not found(environment), program
        assert "P2PHTTP" not in environment, program
        assert "PATH=" in environment, program


def _program(pid: int) -> str:
    return Path(f"/proc/{pid}/comm").read_text().strip()


def _below(pid: int) -> list[int]:
    """The processes that a process has started, and theirs."""
    below = []
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in map(int, (task / "children").read_text().split()):
                below += [child, *_below(child)]
    return below
