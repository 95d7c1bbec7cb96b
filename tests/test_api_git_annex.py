"""The same requests put to the real git-annex, whose answers ours have to resemble; and its special
remotes, which can be served."""

from __future__ import annotations

import json
import os
import re
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from conftest import (
    ABSENT,
    GIT_ANNEX,
    SOMEBODY,
    Serve,
    ServerProcess,
    free_port,
    key_of,
    post,
    put,
    remove,
    wait_for_port,
)
from kinds import both
from rawhttp import LENGTH
from test_api import base_of, fetch

from locklane_client import Client, Key
from locklane_server.repository import RepositoryError
from locklane_server.repository.directory import DirectoryRepository
from locklane_server.workers import Workers

VERSIONS = range(5)


class Annex:
    """A real git-annex repository with three files."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.directory = home / "repository"
        self.env = {
            **os.environ,
            "HOME": str(home),
            "GIT_CONFIG_GLOBAL": str(home / "gitconfig"),
            "GIT_CONFIG_NOSYSTEM": "1",
            "PATH": f"{Path(GIT_ANNEX).parent}:{os.environ['PATH']}",
        }
        (home / "gitconfig").write_text("[user]\n\tname = tester\n\temail = tester@localhost\n")
        self.run("git", "init", "-q", str(self.directory), cwd=home)
        self.run("git", "annex", "init", "-q", "test")
        self.contents: dict[Key, bytes] = {}
        for number in range(3):
            name, content = f"file {number}.dat", os.urandom(1000 + number)
            (self.directory / name).write_bytes(content)
            self.run("git", "annex", "add", "-q", name)
            self.contents[Key.parse(self.run("git", "annex", "lookupkey", name).strip())] = content
        self.run("git", "commit", "-q", "-m", "files")
        self.uuid = self.run("git", "config", "annex.uuid").strip()

    def run(self, *command: str, cwd: Path | None = None) -> str:
        done = subprocess.run(
            command, cwd=cwd or self.directory, env=self.env, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def finds(self, key: Key, remote: str) -> bool:
        """Whether git-annex itself finds a key in a remote."""
        command = ["git", "annex", "checkpresentkey", key.text, remote]
        return not subprocess.run(command, cwd=self.directory, env=self.env).returncode


@pytest.fixture(scope="module")
def annex(tmp_path_factory: pytest.TempPathFactory) -> Annex:
    return Annex(tmp_path_factory.mktemp("annex"))


async def test_a_directory_special_remote_can_be_served(annex: Annex, tmp_path: Path) -> None:
    store = tmp_path / "special"
    store.mkdir()
    name = f"remote{os.getpid()}"
    annex.run(
        "git", "annex", "initremote", "-q", name, "type=directory", f"directory={store}",
        "encryption=none",
    )  # fmt: skip
    annex.run("git", "annex", "copy", "-q", "--to", name)
    uuid = json.loads(annex.run("git", "annex", "info", "--json", "--fast", name))["uuid"]
    with pytest.raises(
        RepositoryError, match="--uuid"
    ):  # under another, one copy would count twice
        DirectoryRepository.open(store, Workers())
    process = ServerProcess(store, "--uuid", uuid)
    with process:
        for key, content in annex.contents.items():
            assert await post(process.url, "checkpresent", key=key.text) == (200, {"present": True})
            _, body = await fetch(f"{base_of(process.url)}/v4/key/{key}?clientuuid=u")
            assert body == content
        first = next(iter(annex.contents))
        async with Client(process.url) as client, client.lock(first):
            assert not (await remove(process.url, first))["removed"]
        assert (await remove(process.url, first))["removed"]
    # And git-annex still finds there what is there, and only that.
    assert not annex.finds(first, name)
    for key in annex.contents:
        assert key == first or annex.finds(key, name)


def test_a_special_remote_with_chunks_is_refused(annex: Annex, tmp_path: Path) -> None:
    store = tmp_path / "special"
    store.mkdir()
    name = f"chunks{os.getpid()}"
    annex.run(
        "git", "annex", "initremote", "-q", name, "type=directory", f"directory={store}",
        "encryption=none", "chunk=5",
    )  # fmt: skip
    annex.run("git", "annex", "copy", "-q", "--to", name)
    with pytest.raises(RepositoryError, match="in chunks"):
        DirectoryRepository.open(store, Workers(), uuid="u")


def test_an_encrypted_special_remote_is_refused(tmp_path: Path) -> None:
    name = "GPGHMACSHA1--0f3e2d1c0b9a89786756453423120102030405"  # as git-annex names its keys
    (tmp_path / "special" / "0ab" / "1cd" / name).mkdir(parents=True)
    with pytest.raises(RepositoryError, match="encrypted"):
        DirectoryRepository.open(tmp_path / "special", Workers(), uuid="u")


def test_a_directory_is_adopted_only_if_all_of_it_can_be_listed(tmp_path: Path) -> None:
    """A loop of symbolic links stands for any fault of the disk that hides the content."""
    (tmp_path / "special").mkdir()
    (tmp_path / "special" / "abc").symlink_to("abc")
    with pytest.raises(RepositoryError, match="cannot use"):
        DirectoryRepository.open(tmp_path / "special", Workers())
    assert not (tmp_path / "special" / ".locklane" / "uuid").exists()


@pytest.mark.parametrize("content", ["", "\n", "a b\n", "../x\n"])
def test_a_store_whose_uuid_is_damaged_is_refused(store: Path, content: str) -> None:
    (store / ".locklane" / "uuid").write_text(content)
    with pytest.raises(RepositoryError, match="does not hold a UUID"):
        DirectoryRepository.open(store, Workers())


def test_retentions_of_another_version_are_refused_at_the_start(store: Path) -> None:
    with closing(sqlite3.connect(store / ".locklane" / "retention.sqlite")) as database:
        database.execute("PRAGMA user_version = 99")
    with pytest.raises(RepositoryError, match=r"another version of Locklane \(99\)"):
        DirectoryRepository.open(store, Workers())


@pytest.fixture(scope="module")
def p2phttp(annex: Annex) -> Iterator[str]:
    """The address of a real ``git annex p2phttp``."""
    port = free_port()
    process = subprocess.Popen(
        [GIT_ANNEX, "p2phttp", "-J2", "--wideopen", "--bind", "127.0.0.1", "--port", str(port)],
        cwd=annex.directory,
        env=annex.env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    wait_for_port(port)
    yield f"annex+http://127.0.0.1:{port}/git-annex/{annex.uuid}"
    process.terminate()
    process.wait(20)


LATER = str(10**9)
"""A timestamp that no monotonic clock has passed."""


def shape(answer: object) -> object:
    """Members and types; what differs from run to run left out."""
    if isinstance(answer, dict):
        return {name: shape(value) for name, value in sorted(answer.items()) if name != "reason"}
    if isinstance(answer, list):
        return [shape(each) for each in answer]
    return type(answer).__name__


@both
@pytest.mark.parametrize("version", VERSIONS)
async def test_our_answers_have_the_members_and_types_of_git_annexs(
    serve: Serve, annex: Annex, p2phttp: str, version: int, kind: str
) -> None:
    key, content = next(iter(annex.contents.items()))
    new = f"uploaded in version {version} to {kind}".encode()
    async with serve() as there:
        put(there.store, content, key)
        answers = []
        for url in (there.url, p2phttp):
            got: dict[str, Any] = {}
            for name, request, parameters, body in (
                ("present", "checkpresent", {"key": key.text}, None),
                ("absent", "checkpresent", {"key": ABSENT.text}, None),
                ("locked", "lockcontent", {"key": key.text}, None),
                ("not locked", "lockcontent", {"key": ABSENT.text}, None),
                ("unknown id", "keeplocked", {"lockid": "unknown"}, b'{"unlock":true}'),
                ("removed", "remove", {"key": ABSENT.text}, None),
                ("removed before", "remove-before", {"key": ABSENT.text, "timestamp": LATER}, None),
                ("timestamp", "gettimestamp", {}, None),
                ("not uploaded", "putoffset", {"key": key_of(new).text}, None),
                ("uploaded", "put", {"key": key_of(new).text}, new),
                ("uploaded again", "put", {"key": key_of(new).text}, new),
                ("uploaded already", "putoffset", {"key": key_of(new).text}, None),
                ("came otherwise", "put", {"key": key.text, "data-present": "true"}, b""),
                ("empty", "put", {"key": key_of(b"").text}, b""),
            ):
                if version < _SINCE.get(request, 0) or (name == "came otherwise" and version < 4):
                    continue
                status, answer = await _post_json(url, request, version, body, parameters)
                got[name] = (status, shape(answer), _truths(answer))
            _, answer = await _post_json(url, "lockcontent", version, None, {"key": key.text})
            status, answer = await _post_json(
                url, "keeplocked", version, b'{"unlock":true}', {"lockid": answer["lockid"]}
            )
            got["unlocked"] = (status, shape(answer), _truths(answer))
            answers.append(got)
        assert answers[0] == answers[1]


_SINCE = {"putoffset": 1, "remove-before": 3, "gettimestamp": 3}


def _truths(answer: dict[str, Any]) -> dict[str, bool]:
    return {name: value for name, value in answer.items() if isinstance(value, bool)}


async def _post_json(
    url: str, request: str, version: int, body: bytes | None, parameters: dict[str, str]
) -> tuple[int, Any]:
    query = "&".join(f"{name}={value}" for name, value in parameters.items())
    response, _ = await fetch(
        f"{base_of(url)}/v{version}/{request}?{query}&clientuuid={SOMEBODY}",
        method="POST",
        data=body,
        headers={"Content-Type": "application/octet-stream", LENGTH: str(len(body or b""))}
        if request == "put"
        else {"Content-Type": "application/json"},
    )
    assert re.fullmatch(r"application/json; ?charset=utf-8", response.headers["Content-Type"])
    return response.status, await response.json()


async def test_a_removal_that_comes_too_late_has_removed_what_is_absent_anyway(
    serve: Serve, p2phttp: str
) -> None:
    """git-annex looks whether the content is there before it looks at the clock."""
    async with serve() as there:
        answers = [
            await _post_json(url, "remove-before", 4, None, {"key": ABSENT.text, "timestamp": "1"})
            for url in (p2phttp, there.url)
        ]
        assert answers[0] == (200, {"removed": True, "plusuuids": []})
        assert answers[1] == answers[0]


async def test_our_client_locks_holds_and_unlocks_at_git_annexs_server(
    annex: Annex, p2phttp: str
) -> None:
    key = list(annex.contents)[1]
    async with Client(p2phttp, transport="longpoll", answer_timeout=10) as client:
        for _ in range(3):
            async with client.lock(key) as lock:
                assert lock.lock_id
                # git-annex answers a refused removal with a bare 500.
                url = f"{base_of(p2phttp)}/v4/remove?key={key}&clientuuid={SOMEBODY}"
                response, body = await fetch(url, method="POST")
                assert response.status == 500 or b'"removed":false' in body
        assert client.version == 4
        assert client.connections_opened == 1
    assert (await remove(p2phttp, key))["removed"] is True
