"""The requests that are not about locks, and the shape of errors, on every kind of repository.

``test_put.py`` and ``test_downloads.py`` have more of those two."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from conftest import (
    ABSENT,
    SOMEBODY,
    Serve,
    object_path,
    post,
    put,
    remove,
)
from kinds import both, kind_of
from yarl import URL

from locklane_client import Client, Key
from locklane_client.wire import bracket

pytestmark = both

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
async def test_what_only_asks_can_be_asked_with_get_too(
    serve: Serve, key: Key, version: int
) -> None:
    """Which git-annex does not do, and caches and monitors like."""
    async with serve() as there:
        base = f"{base_of(there.url)}/v{version}"
        response, body = await fetch(f"{base}/checkpresent?key={key}&clientuuid=u")
        assert (response.status, body) == (200, b'{"present":true}')
        response, body = await fetch(f"{base}/gettimestamp?clientuuid=u")
        if version < 3:
            assert response.status == 404
        else:
            assert response.status == 200
            assert 0 <= there.clock() - json.loads(body)["timestamp"] < 60


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
        if kind_of(store) == "directory" or "\n" not in name:  # which no journal can have
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
        ("GET", "/v4/put?key=WORM--a&clientuuid=u", 405, "put takes POST"),
        ("PUT", "/v4/putoffset?key=WORM--a&clientuuid=u", 405, "putoffset takes POST"),
        ("POST", "/v4/put?clientuuid=u", 400, "parameter key is missing"),
        ("POST", "/v4/put?key=WORM--a", 400, "parameter clientuuid is missing"),
        ("POST", "/v4/put?key=nokey&clientuuid=u", 400, "'nokey' is not a git-annex key"),
        ("POST", "/v4/putoffset?key=WORM--a", 400, "parameter clientuuid is missing"),
        ("POST", "/v4/remove-before?key=WORM--a&clientuuid=u", 400, "timestamp is missing"),
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
