"""Downloads: offsets, ranges, conditions, and what becomes of content that changes while it is
sent. On every kind of repository."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

import pytest
from conftest import ABSENT, Serve, There, put
from kinds import both, object_path, thaw
from rawhttp import Answer, request, wire

from locklane_client import Key
from locklane_client.wire import JSON_TYPE
from locklane_server.repository.content import FileContent

pytestmark = both

VERSIONS = range(5)
CONTENT = bytes(range(256)) * 4
SIZE = len(CONTENT)


async def get(there: There, what: str, *headers: str, method: str = "GET") -> Answer:
    async with wire(there) as connection:
        connection.head(method, what, *headers)
        return await connection.answer(bodiless=method == "HEAD")


@pytest.fixture
def there_is(store: Path) -> Key:
    return put(store, CONTENT)


def forms(key: Key) -> list[str]:
    """Every form that a download's path can have, the one without a version last."""
    return [*(request("key", key, version) for version in VERSIONS), f"key/{key}"]


# -- whole -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 65535, 65536, 65537, 10_000_000])
async def test_content_of_any_size_comes_whole(serve: Serve, store: Path, size: int) -> None:
    content = random.Random(size).randbytes(size)
    key = put(store, content)
    async with serve() as there, wire(there) as connection:
        for what in forms(key):  # all over one connection
            connection.head("HEAD", what)
            head = await connection.answer(bodiless=True)
            connection.head("GET", what)
            answer = await connection.answer()
            assert answer.body == content
            for each in (head, answer):
                assert (each.status, each["Content-Length"]) == (200, str(size))
                promised = None if what.startswith("v0/") else str(size)
                assert each["X-git-annex-data-length"] == promised
                assert each["Content-Type"] == "application/octet-stream"
                assert each["Accept-Ranges"] == "bytes"
                assert each["ETag"] == answer["ETag"]


async def test_absent_content_is_404_in_every_form(serve: Serve) -> None:
    async with serve() as there:
        for what in forms(ABSENT):
            answer = await get(there, what, "If-None-Match: *", "Range: bytes=0-0")
            assert (answer.status, answer["Content-Type"]) == (404, JSON_TYPE)
            assert json.loads(answer.body)["error"] == "the content is not present"
            assert answer.reason == "the content is not present"
            assert (await get(there, what, method="HEAD")).status == 404


# -- from an offset --------------------------------------------------------------------------------


@pytest.mark.parametrize("offset", [0, 1, SIZE - 1, SIZE, SIZE + 1, 10**19])
async def test_an_offset_leaves_out_what_is_before_it(
    serve: Serve, there_is: Key, offset: int
) -> None:
    rest = CONTENT[offset:]
    async with serve() as there:
        for version in VERSIONS:
            answer = await get(there, request("key", there_is, version, offset=offset))
            assert (answer.status, answer.body) == (200, rest)
            promised = None if version == 0 else str(len(rest))
            assert answer["X-git-annex-data-length"] == promised
        # The form without a version has no such parameter.
        assert (await get(there, f"key/{there_is}?offset={offset}")).body == CONTENT


# -- ranges ----------------------------------------------------------------------------------------

RANGES = {
    "the first byte": ("bytes=0-0", 0, 1),
    "from the first on": ("bytes=0-", 0, SIZE),
    "some": ("bytes=10-19", 10, 20),
    "open": (f"bytes={SIZE - 1}-", SIZE - 1, SIZE),
    "beyond the end": (f"bytes=1000-{10**30}", 1000, SIZE),
    "the last ten": ("bytes=-10", SIZE - 10, SIZE),
    "the last too many": (f"bytes=-{SIZE + 1}", 0, SIZE),
    "spaced": ("bytes= 10-19 ", 10, 20),
}


@pytest.mark.parametrize(("spelled", "begin", "end"), RANGES.values(), ids=RANGES.keys())
async def test_a_range_is_206_with_what_it_is_of(
    serve: Serve, there_is: Key, spelled: str, begin: int, end: int
) -> None:
    async with serve() as there:
        for what in forms(there_is):
            for method in ("GET", "HEAD"):
                answer = await get(there, what, f"Range: {spelled}", method=method)
                assert answer.status == 206
                assert answer["Content-Range"] == f"bytes {begin}-{end - 1}/{SIZE}"
                assert answer["Content-Length"] == str(end - begin)
                assert answer.body == (CONTENT[begin:end] if method == "GET" else b"")


async def test_a_range_counts_from_the_offset(serve: Serve, there_is: Key) -> None:
    async with serve() as there:
        what = request("key", there_is, offset=1000)
        answer = await get(there, what, "Range: bytes=4-7")
        assert (answer.status, answer.body) == (206, CONTENT[1004:1008])
        assert answer["Content-Range"] == f"bytes 4-7/{SIZE - 1000}"
        answer = await get(there, what, "Range: bytes=-2")
        assert (answer.status, answer.body) == (206, CONTENT[-2:])
        answer = await get(there, what, "Range: bytes=24-")
        assert (answer.status, answer["Content-Range"]) == (416, f"bytes */{SIZE - 1000}")


@pytest.mark.parametrize("spelled", [f"bytes={SIZE}-", f"bytes={SIZE}-{SIZE + 5}", "bytes=-0"])
async def test_a_range_of_which_nothing_is_there_is_416_with_the_size(
    serve: Serve, there_is: Key, spelled: str
) -> None:
    async with serve() as there:
        answer = await get(there, request("key", there_is), f"Range: {spelled}")
        assert (answer.status, answer["Content-Range"]) == (416, f"bytes */{SIZE}")
        assert "none of them is in that range" in json.loads(answer.body)["error"]


async def test_empty_content_has_no_range(serve: Serve, store: Path) -> None:
    empty = put(store, b"")
    async with serve() as there:
        for spelled in ("bytes=0-", "bytes=0-0", "bytes=-1"):
            answer = await get(there, request("key", empty), f"Range: {spelled}")
            assert (answer.status, answer["Content-Range"]) == (416, "bytes */0")


@pytest.mark.parametrize(
    "spelled",
    [
        "bytes=0-1,3-4", "bytes=2-1", "bytes=-", "bytes=a-b", "bytes", "lines=1-2", "0-5",
        "bytes=1--2", "bytes=0-" + "9" * 5000, "bytes=٣-٤", "",
    ],
)  # fmt: skip
async def test_several_ranges_and_what_is_none_are_answered_with_all(
    serve: Serve, there_is: Key, spelled: str
) -> None:
    """RFC 9110, 14.2: a server may ignore the header, and must where it makes no sense."""
    async with serve() as there:
        answer = await get(there, request("key", there_is), f"Range: {spelled}")
        assert (answer.status, answer.body) == (200, CONTENT)
        assert answer["Content-Range"] is None


async def test_a_range_of_big_content_is_sent_from_where_it_begins(
    serve: Serve, store: Path
) -> None:
    content = random.Random(1).randbytes(3_000_000)
    key = put(store, content)
    async with serve() as there:
        for begin, end in ((0, 65536), (0, 65537), (1_000_000, 2_000_001), (2_999_999, 3_000_000)):
            answer = await get(there, request("key", key), f"Range: bytes={begin}-{end - 1}")
            assert (answer.status, answer.body) == (206, content[begin:end])


# -- conditions ------------------------------------------------------------------------------------


async def test_the_etag_names_the_content_and_outlives_the_server(
    serve: Serve, keys: list[Key]
) -> None:
    tags = set()
    for _ in range(2):
        async with serve() as there:
            for key in keys:
                tags |= {(await get(there, what))["ETag"] for what in forms(key)}
    assert len(tags) == len(keys)
    assert all(tag and tag[0] == tag[-1] == '"' for tag in tags)


async def test_the_etag_of_a_key_without_a_hash_changes_with_the_file(
    serve: Serve, store: Path
) -> None:
    key = put(store, b"abc", Key.parse("WORM-s3-m1--a"))
    async with serve() as there:
        before = (await get(there, request("key", key)))["ETag"]
        path = object_path(store, key)
        thaw(path)
        path.write_bytes(b"xyz")
        os.utime(path, ns=(1, 1))
        assert (await get(there, request("key", key)))["ETag"] != before


async def test_if_none_match_is_304_without_a_body_where_it_names_the_content(
    serve: Serve, there_is: Key
) -> None:
    async with serve() as there, wire(there) as connection:
        what = request("key", there_is)
        connection.head("GET", what)
        tag = (await connection.answer())["ETag"]
        for spelled in (tag, f'"other", {tag}', f"W/{tag}", f'W/"x",W/{tag}', "*"):
            for method in ("GET", "HEAD"):
                # With a range too: the condition comes first (RFC 9110, 13.2.2).
                connection.head(method, what, f"If-None-Match: {spelled}", "Range: bytes=0-0")
                answer = await connection.answer(bodiless=True)
                assert (answer.status, answer["ETag"]) == (304, tag)
        for spelled in ('"other"', 'W/"other"', "", "nonsense", (tag or "").strip('"')):
            connection.head("GET", what, f"If-None-Match: {spelled}")
            answer = await connection.answer()
            assert (answer.status, answer.body) == (200, CONTENT)


async def test_if_range_gives_the_range_only_of_the_same_content(
    serve: Serve, there_is: Key
) -> None:
    async with serve() as there:
        what = request("key", there_is)
        tag = (await get(there, what))["ETag"]
        answer = await get(there, what, "Range: bytes=5-9", f"If-Range: {tag}")
        assert (answer.status, answer.body) == (206, CONTENT[5:10])
        # Neither another tag, nor a weak one, nor a date says that it is the same.
        for other in ('"other"', f"W/{tag}", "Sun, 22 Nov 2026 12:00:00 GMT", ""):
            answer = await get(there, what, "Range: bytes=5-9", f"If-Range: {other}")
            assert (answer.status, answer.body) == (200, CONTENT)
        # What cannot be given is no error then.
        answer = await get(there, what, f"Range: bytes={SIZE}-", 'If-Range: "other"')
        assert (answer.status, answer.body) == (200, CONTENT)


# -- content that changes while it is sent ---------------------------------------------------------

BIG = 24 * 2**20
"""More than there is room for on the way to a client that does not read."""


def append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def empty(path: Path) -> None:
    os.truncate(path, 0)


def overwrite(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"other")


CHANGES = [append, cut, empty, overwrite]


@pytest.mark.parametrize("change", CHANGES)
async def test_big_content_that_changes_while_it_is_sent_is_cut_short(
    serve: Serve, store: Path, change: object
) -> None:
    """The receiver learns of it because less comes than was promised, and the connection ends."""
    assert callable(change)
    key = put(store, random.Random(2).randbytes(BIG))
    async with serve() as there, wire(there) as connection:
        path = object_path(store, key)
        thaw(path)
        connection.head("GET", request("key", key))
        assert (await connection.line()).endswith(" 200 OK")
        change(path)
        headers = {}
        while line := await connection.line():
            name, _, value = line.partition(": ")
            headers[name] = value
        assert headers["X-git-annex-data-length"] == headers["Content-Length"] == str(BIG)
        came = await connection.end()
        assert len(came) < BIG


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("size", [1, 900, 65536])
async def test_small_content_that_changes_while_it_is_sent_is_cut_short(
    serve: Serve, store: Path, change: object, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is changed after it has been read, for which there is hardly any time."""
    assert callable(change)
    key = put(store, random.Random(3).randbytes(size))
    path = object_path(store, key)
    thaw(path)
    read = FileContent.read

    async def read_and_change(self: FileContent, offset: int, count: int) -> bytes:
        there = await read(self, offset, count)
        change(path)
        return there

    monkeypatch.setattr(FileContent, "read", read_and_change)
    async with serve() as there, wire(there) as connection:
        connection.head("GET", request("key", key))
        answer = await connection.answer()
        assert answer.status == 200
        assert answer["Content-Length"] == str(size)
        assert answer.ended
        assert len(answer.body) == size - 1


@pytest.mark.parametrize("size", [900, BIG])
async def test_content_that_is_removed_or_replaced_while_it_is_sent_comes_whole(
    serve: Serve, store: Path, size: int
) -> None:
    """What was opened is what is sent: another file of that name is none of its business."""
    content = random.Random(4).randbytes(size)
    key = put(store, content)
    async with serve() as there, wire(there) as connection:
        path = object_path(store, key)
        path.parent.chmod(0o755)
        connection.head("GET", request("key", key))
        assert (await connection.line()).endswith(" 200 OK")
        path.unlink()
        path.write_bytes(b"other")
        while await connection.line():
            pass
        assert await connection.reader.readexactly(size) == content
        connection.head("GET", request("key", ABSENT))
        assert (await connection.answer()).status == 404


async def test_content_cut_short_before_it_is_asked_for_is_what_it_is(
    serve: Serve, there_is: Key
) -> None:
    """The length promised is the file's; the receiver knows the key, and sees."""
    async with serve() as there:
        path = object_path(there.store, there_is)
        os.truncate(path, 100)
        answer = await get(there, request("key", there_is))
        assert (answer.status, answer.body) == (200, CONTENT[:100])
        assert answer["X-git-annex-data-length"] == "100"
