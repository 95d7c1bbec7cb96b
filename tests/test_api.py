"""The requests that are not about locks, the shape of errors, the store on disk; and the same
requests put to the real git-annex, whose answers ours have to resemble."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import sqlite3
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from conftest import (
    ABSENT,
    GIT_ANNEX,
    LOCKLANE,
    SOMEBODY,
    Process,
    Serve,
    ServerProcess,
    free_port,
    object_path,
    post,
    put,
    remove,
    wait_for_port,
)
from yarl import URL

from locklane_client import Client, Key
from locklane_client.wire import bracket
from locklane_server.repository import RepositoryError
from locklane_server.repository.directory import DirectoryRepository

VERSIONS = range(5)


def base_of(url: str) -> str:
    return url.removeprefix("annex+")


async def fetch(
    url: str, *, method: str = "GET", **options: Any
) -> tuple[aiohttp.ClientResponse, bytes]:
    async with (
        aiohttp.ClientSession() as http,
        http.request(method, URL(url, encoded=True), **options) as response,
    ):
        return response, await response.read()


async def refused(url: str, status: int, says: str, *, method: str = "POST") -> None:
    """The error is JSON with a sentence, and the reason phrase carries the sentence too."""
    response, _ = await fetch(url, method=method)
    assert response.status == status
    assert response.headers["Content-Type"] == "application/json;charset=utf-8"
    error = (await response.json())["error"]
    assert says in error
    assert says in (response.reason or "")


# -- checkpresent, remove, gettimestamp ------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
async def test_checkpresent_tells_what_is_there(serve: Serve, key: Key, version: int) -> None:
    async with serve() as there:
        for asked, present in ((key, True), (ABSENT, False)):
            answer = await post(there.url, "checkpresent", version=version, key=asked.text)
            assert answer == (200, {"present": present})


@pytest.mark.parametrize("version", VERSIONS)
async def test_remove_removes_and_tells_of_plusuuids_from_version_2(
    serve: Serve, key: Key, version: int
) -> None:
    plus: dict[str, Any] = {"plusuuids": []} if version >= 2 else {}
    async with serve() as there:
        assert await remove(there.url, key, version=version) == {"removed": True, **plus}
        assert not object_path(there.store, key).parent.exists()
        assert await post(there.url, "checkpresent", key=key.text) == (200, {"present": False})
        # Removed is also what was never there.
        assert await remove(there.url, key, version=version) == {"removed": True, **plus}


async def test_remove_leaves_no_empty_directories_and_touches_nothing_else(
    serve: Serve, keys: list[Key]
) -> None:
    async with serve() as there:
        await remove(there.url, keys[0])
        assert not object_path(there.store, keys[0]).parents[2].exists()
        for key in keys[1:]:
            assert object_path(there.store, key).is_file()


@pytest.mark.parametrize("version", [3, 4])
async def test_remove_before_goes_by_the_servers_clock(
    serve: Serve, keys: list[Key], version: int
) -> None:
    async with serve() as there:
        status, answer = await post(there.url, "gettimestamp", version=version)
        assert status == 200
        assert list(answer) == ["timestamp"]
        now = answer["timestamp"]
        assert isinstance(now, int)
        assert 0 <= there.clock() - now < 5

        async def before(key: Key, timestamp: int) -> dict[str, Any]:
            status, answer = await post(
                there.url, "remove-before", version=version, key=key.text, timestamp=str(timestamp)
            )
            assert status == 200
            return answer

        assert await before(keys[0], now + 60) == {"removed": True, "plusuuids": []}
        there.clock.advance(61)
        late = await before(keys[1], now + 60)
        assert (late["removed"], late["plusuuids"]) == (False, [])
        assert object_path(there.store, keys[1]).is_file()


@pytest.mark.parametrize("version", [0, 1, 2])
@pytest.mark.parametrize("request_", ["remove-before", "gettimestamp"])
async def test_before_version_3_there_was_neither_of_them(
    serve: Serve, key: Key, version: int, request_: str
) -> None:
    async with serve() as there:
        status, answer = await post(
            there.url, request_, version=version, key=key.text, timestamp="1"
        )
        assert status == 404
        assert "version 3" in answer["error"]
        assert object_path(there.store, key).is_file()


@pytest.mark.parametrize("timestamp", ["", "soon", "-1", "1.5", "9" * 30])
async def test_a_timestamp_that_is_none_is_400(serve: Serve, key: Key, timestamp: str) -> None:
    async with serve() as there:
        query = f"key={key}&clientuuid=u&timestamp={timestamp}"
        await refused(f"{base_of(there.url)}/v4/remove-before?{query}", 400, "parameter timestamp")
        assert object_path(there.store, key).is_file()


# -- downloads -------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [None, *VERSIONS])
async def test_downloads_carry_content_and_length(
    serve: Serve, key: Key, version: int | None
) -> None:
    async with serve() as there:
        content = object_path(there.store, key).read_bytes()
        between = "" if version is None else f"/v{version}"
        url = f"{base_of(there.url)}{between}/key/{key}?clientuuid={SOMEBODY}"
        for method, expected in (("GET", content), ("HEAD", b"")):
            response, body = await fetch(url, method=method)
            assert response.status == 200
            assert body == expected
            assert response.headers["Content-Length"] == str(len(content))
            promised = response.headers.get("X-git-annex-data-length")
            assert promised == (None if version == 0 else str(len(content)))
        absent = url.replace(key.text, ABSENT.text)
        await refused(absent, 404, "not present", method="GET")
        response, body = await fetch(absent, method="HEAD")
        assert (response.status, body) == (404, b"")


@pytest.mark.parametrize("version", VERSIONS)
async def test_downloads_begin_at_an_offset(serve: Serve, key: Key, version: int) -> None:
    async with serve() as there:
        content = object_path(there.store, key).read_bytes()
        for offset in (0, 1, len(content) - 1, len(content), len(content) + 1, 10**18):
            url = (
                f"{base_of(there.url)}/v{version}/key/{key}?clientuuid=u&offset={offset}"
                "&associatedfile=dir%2Ffile.txt"
            )
            response, body = await fetch(url)
            assert response.status == 200
            assert body == content[offset:]
            if version != 0:
                assert response.headers["X-git-annex-data-length"] == str(len(content[offset:]))
        for wrong in ("-1", "x", "1.0"):
            url = f"{base_of(there.url)}/v{version}/key/{key}?clientuuid=u&offset={wrong}"
            await refused(url, 400, "parameter offset", method="GET")


async def test_a_big_download_comes_whole(serve: Serve, store: Path) -> None:
    content = os.urandom(5_000_000)
    key = put(store, content)
    async with serve() as there:
        _, body = await fetch(f"{base_of(there.url)}/v4/key/{key}?clientuuid=u")
        assert body == content
        _, body = await fetch(f"{base_of(there.url)}/v4/key/{key}?clientuuid=u&offset=4000001")
        assert body == content[4000001:]


async def test_empty_content_is_content(serve: Serve, store: Path) -> None:
    key = put(store, b"")
    async with serve() as there:
        response, body = await fetch(f"{base_of(there.url)}/v4/key/{key}?clientuuid=u")
        assert (response.status, body) == (200, b"")
        assert response.headers["X-git-annex-data-length"] == "0"


# -- names -----------------------------------------------------------------------------------------

STRANGE = [
    "WORM-s3-m1--a b+c&d%e:f/g",
    "WORM-s3--[x]",
    "WORM-s3--../../../etc/passwd",
    "WORM-s3--ä€",
    "WORM-s3--\udcff\udcfe",
    "WORM-s3--'\"<>\\?#;=",
    "WORM-s3--a/git-annex/b",
    "WORM-s3--\x1b[0m",
    "WORM-s3--a\nb",
]


@pytest.mark.parametrize("name", STRANGE, ids=ascii)
async def test_keys_of_any_bytes_can_be_asked_for(serve: Serve, store: Path, name: str) -> None:
    key = put(store, b"abc", Key.parse(name))
    brackets = f"[{base64.urlsafe_b64encode(os.fsencode(name)).decode()}]"
    async with serve() as there:
        for spelled in (bracket(name), brackets):
            quoted = "".join(f"%{byte:02X}" for byte in os.fsencode(spelled))
            url = f"{base_of(there.url)}/v4/checkpresent?key={quoted}&clientuuid=u"
            response, body = await fetch(url, method="POST")
            assert (response.status, body) == (200, b'{"present":true}')
            for between in ("/v4", ""):
                _, body = await fetch(f"{base_of(there.url)}{between}/key/{quoted}?clientuuid=u")
                assert body == b"abc"
        async with Client(there.url) as client, client.lock(name):
            assert there.served.manager.locks_on(name) == 1
        assert (await remove(there.url, key))["removed"]
        assert not object_path(store, key).exists()


async def test_a_path_prefix_and_brackets_may_stand_anywhere(serve: Serve, key: Key) -> None:
    async with serve() as there:
        root, _, uuid = base_of(there.url).partition("/git-annex/")
        brackets = f"%5B{base64.urlsafe_b64encode(uuid.encode()).decode()}%5D"
        unpadded = brackets.replace("=", "")
        for prefix in ("", "/some/prefix", "/git-annex", "/a%20b/git-annex/c"):
            for name in (uuid, brackets, unpadded):
                url = f"{root}{prefix}/git-annex/{name}/v4/checkpresent?key={key}&clientuuid=u"
                response, body = await fetch(url, method="POST")
                assert (response.status, body) == (200, b'{"present":true}')
        prefixed = there.url.replace("/git-annex/", "/some/prefix/git-annex/")
        async with Client(prefixed) as client, client.lock(key):
            assert there.locks == 1


# -- errors ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "status", "says"),
    [
        ("POST", "/v5/checkpresent?key=WORM--a&clientuuid=u", 404, "version 'v5'"),
        ("POST", "/checkpresent?key=WORM--a&clientuuid=u", 404, "the path has to be"),
        ("POST", "/v4/checkpresent/more?key=WORM--a&clientuuid=u", 404, "the path has to be"),
        ("POST", "/v4/nonsense?clientuuid=u", 404, "no request 'nonsense'"),
        ("DELETE", "/v4/remove?key=WORM--a&clientuuid=u", 405, "remove takes POST"),
        ("PUT", "/v4/lockcontent?key=WORM--a&clientuuid=u", 405, "lockcontent takes"),
        ("POST", "/v4/key/WORM--a", 405, "key takes GET"),
        ("POST", "/v4/checkpresent?key=nokey&clientuuid=u", 400, "'nokey' is not a git-annex key"),
        ("POST", "/v4/checkpresent?key=%5B%25%5D&clientuuid=u", 400, "not base64url"),
        ("POST", "/v4/checkpresent?clientuuid=u", 400, "parameter key is missing"),
        ("POST", "/v4/checkpresent?key=WORM--a", 400, "parameter clientuuid is missing"),
        ("POST", "/v4/remove?key=WORM--a", 400, "parameter clientuuid is missing"),
        ("POST", "/v4/gettimestamp", 400, "parameter clientuuid is missing"),
        ("GET", "/v4/key/nokey", 400, "'nokey' is not a git-annex key"),
        ("GET", "/v4/key/WORM--a%00b", 400, "is not a git-annex key"),
    ],
)
async def test_an_error_is_a_status_and_a_sentence(
    serve: Serve, method: str, path: str, status: int, says: str
) -> None:
    async with serve() as there:
        await refused(base_of(there.url) + path, status, says, method=method)


async def test_an_unknown_repository_is_404(serve: Serve) -> None:
    async with serve() as there:
        root = base_of(there.url).partition("/git-annex/")[0]
        url = f"{root}/git-annex/{SOMEBODY}/v4/checkpresent?key=WORM--a&clientuuid=u"
        await refused(url, 404, f"no repository '{SOMEBODY}'")
        for path in ("/", "/git-annex/", "/favicon.ico"):
            await refused(root + path, 404, "the path has to be", method="GET")


async def test_a_wrong_method_is_told_which_are_right(serve: Serve) -> None:
    """RFC 9110, 15.5.6: the server MUST say which methods it allows."""
    async with serve() as there:
        response, _ = await fetch(f"{base_of(there.url)}/v4/remove", method="DELETE")
        assert response.status == 405
        assert response.headers.get("Allow") == "POST"


# -- the store on disk -----------------------------------------------------------------------------


def test_two_processes_on_one_store_are_refused(store: Path, server_process: Any, key: Key) -> None:
    first: ServerProcess = server_process()
    with Process(LOCKLANE, "serve", "--store", store, "--wideopen", "--port", "0") as second:
        assert second.wait() == 1
        assert "another process serves" in second.output
        assert "Traceback" not in second.output
    assert first.running
    first.kill()
    assert server_process().url.rpartition("/")[2] == first.url.rpartition("/")[2]


@pytest.mark.parametrize("bare", [False, True])
def test_a_git_repository_is_no_store(tmp_path: Path, bare: bool) -> None:
    directory = tmp_path / "repository"
    options = ["--bare"] if bare else []
    subprocess.run(["git", "init", "-q", *options, directory], check=True)
    before = sorted(directory.iterdir())
    with Process(LOCKLANE, "serve", "--store", directory, "--wideopen", "--port", "0") as process:
        assert process.wait() == 1
    assert f"{directory} is a git repository" in process.output
    assert "Traceback" not in process.output
    assert sorted(directory.iterdir()) == before


@pytest.mark.parametrize("uuid", ["", "foo/bar", "a b", "../x", "[Zm9v]", "a\nb", "ä"])
def test_what_is_no_uuid_is_refused_before_the_store_is_made(uuid: str, tmp_path: Path) -> None:
    with pytest.raises(RepositoryError, match="no UUID"):
        DirectoryRepository.open(tmp_path / "new", uuid=uuid)
    assert not (tmp_path / "new").exists()


def test_a_store_keeps_its_uuid(tmp_path: Path) -> None:
    def open_as(uuid: str | None) -> str:
        repository = DirectoryRepository.open(tmp_path / "new", uuid=uuid)
        repository._retention.close()
        os.close(repository._serving)
        return repository.uuid

    assert open_as(SOMEBODY) == SOMEBODY
    assert open_as(None) == SOMEBODY
    with pytest.raises(RepositoryError, match=f"is repository {SOMEBODY}"):
        open_as("another")
    assert open_as(SOMEBODY) == SOMEBODY


async def test_what_git_annex_made_read_only_can_be_removed(serve: Serve, key: Key) -> None:
    async with serve() as there:
        path = object_path(there.store, key)
        path.chmod(0o444)
        path.parent.chmod(0o555)
        assert (await remove(there.url, key))["removed"]
        assert not path.parent.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become nobody; others were nobody")
def test_what_git_annex_made_read_only_can_be_removed_by_who_is_not_root() -> None:
    """Root is not kept out by the mode, so the test above proves nothing for it."""
    nobody = 65534
    with tempfile.TemporaryDirectory() as directory:
        store = Path(directory) / "store"
        key = put(store, b"content")
        path = object_path(store, key)
        path.chmod(0o444)
        path.parent.chmod(0o555)
        for each in (Path(directory), store, *store.rglob("*")):
            os.chown(each, nobody, nobody)
        os.seteuid(nobody)
        try:
            with pytest.raises(PermissionError):
                path.unlink()

            async def remove_it() -> None:
                repository = DirectoryRepository.open(store, uuid="u")
                await repository.remove(key, before=None)
                await repository.aclose()

            asyncio.run(remove_it())
        finally:
            os.seteuid(0)
        assert not path.parent.exists()


# -- the real git-annex ----------------------------------------------------------------------------


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
        DirectoryRepository.open(store)
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
        DirectoryRepository.open(store, uuid="u")


def test_an_encrypted_special_remote_is_refused(tmp_path: Path) -> None:
    name = "GPGHMACSHA1--0f3e2d1c0b9a89786756453423120102030405"  # as git-annex names its keys
    (tmp_path / "special" / "0ab" / "1cd" / name).mkdir(parents=True)
    with pytest.raises(RepositoryError, match="encrypted"):
        DirectoryRepository.open(tmp_path / "special", uuid="u")


def test_a_directory_is_adopted_only_if_all_of_it_can_be_listed(tmp_path: Path) -> None:
    """A loop of symbolic links stands for any fault of the disk that hides the content."""
    (tmp_path / "special").mkdir()
    (tmp_path / "special" / "abc").symlink_to("abc")
    with pytest.raises(RepositoryError, match="cannot use"):
        DirectoryRepository.open(tmp_path / "special")
    assert not (tmp_path / "special" / ".locklane" / "uuid").exists()


@pytest.mark.parametrize("content", ["", "\n", "a b\n", "../x\n"])
def test_a_store_whose_uuid_is_damaged_is_refused(store: Path, content: str) -> None:
    (store / ".locklane" / "uuid").write_text(content)
    with pytest.raises(RepositoryError, match="does not hold a UUID"):
        DirectoryRepository.open(store)


def test_retentions_of_another_version_are_refused_at_the_start(store: Path) -> None:
    with closing(sqlite3.connect(store / ".locklane" / "retention.sqlite")) as database:
        database.execute("PRAGMA user_version = 99")
    with pytest.raises(RepositoryError, match=r"another version of Locklane \(99\)"):
        DirectoryRepository.open(store)


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


@pytest.mark.parametrize("version", VERSIONS)
async def test_our_answers_have_the_members_and_types_of_git_annexs(
    serve: Serve, annex: Annex, p2phttp: str, version: int
) -> None:
    key, content = next(iter(annex.contents.items()))
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
            ):
                if version < 3 and request in ("remove-before", "gettimestamp"):
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
        headers={"Content-Type": "application/json"},
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
