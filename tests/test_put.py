"""``put`` and ``putoffset``: what is stored, what is refused, and what is left of what was refused.
On every kind of repository."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import random
import stat
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from conftest import ABSENT, Serve, There, eventually, post
from kinds import both, key_of, object_path, partial_path
from rawhttp import LENGTH, request, wire
from yarl import URL

from locklane_client import Key

pytestmark = both

VERSIONS = range(5)
CONTENT = b"this is the content that is going to be stored\n" * 20
KEY = key_of(CONTENT)

Said = tuple[int, dict[str, Any]]


async def upload(
    there: There | str,
    key: Key,
    body: Any,
    *,
    version: int = 4,
    promised: int | str | None = None,
    **parameters: object,
) -> Said:
    """``put``; the length promised is that of the body, if not told."""
    if promised is None and isinstance(body, bytes):
        promised = len(body)
    if isinstance(body, bytes) and len(body) > 2**20:
        body = io.BytesIO(body)  # aiohttp warns of so many bytes at once
    headers = {} if promised in (None, "") else {LENGTH: str(promised)}
    url = (there if isinstance(there, str) else there.url).removeprefix("annex+")
    where = URL(f"{url}/{request('put', key, version, **parameters)}", encoded=True)
    async with (
        aiohttp.ClientSession() as http,
        http.post(where, data=body, headers=headers) as response,
    ):
        assert response.headers["Content-Type"] == "application/json;charset=utf-8"
        return response.status, await response.json()


async def offset(there: There, key: Key) -> int:
    status, answer = await post(there.url, "putoffset", key=key.text)
    assert (status, list(answer)) == (200, ["offset"]), answer
    return int(answer["offset"])


async def fetched(there: There, key: Key) -> bytes | None:
    url = f"{there.url.removeprefix('annex+')}/{request('key', key)}"
    async with aiohttp.ClientSession() as http, http.get(URL(url, encoded=True)) as response:
        body = await response.read()
        return None if response.status == 404 else body


async def nothing_stored(there: There, key: Key) -> None:
    assert await fetched(there, key) is None
    assert await post(there.url, "checkpresent", key=key.text) == (200, {"present": False})
    assert not object_path(there.store, key).exists()


async def pieces(data: bytes, size: int) -> AsyncIterator[bytes]:
    for begin in range(0, len(data), size):
        yield data[begin : begin + size]


# -- stored ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
async def test_what_was_put_is_there_and_plusuuids_are_told_from_version_2(
    serve: Serve, version: int
) -> None:
    plus: dict[str, Any] = {"plusuuids": []} if version >= 2 else {}
    async with serve() as there:
        stored = (200, {"stored": True, **plus})
        assert await upload(there, KEY, CONTENT, version=version) == stored
        assert await fetched(there, KEY) == CONTENT
        assert await post(there.url, "checkpresent", key=KEY.text) == (200, {"present": True})
        path = object_path(there.store, KEY)
        assert path.read_bytes() == CONTENT
        assert stat.S_IMODE(path.stat().st_mode) == 0o444
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o555
        assert not partial_path(there.store, KEY).exists()
        # Storing what is there already is no error, and changes nothing.
        assert await upload(there, KEY, CONTENT, version=version) == stored
        assert await upload(there, KEY, b"x" * len(CONTENT), version=version) == stored
        assert await fetched(there, KEY) == CONTENT


@pytest.mark.parametrize("size", [0, 1, 65535, 65536, 65537, 10_000_000])
@pytest.mark.parametrize("chunked", [False, True], ids=["Content-Length", "chunked"])
async def test_content_of_any_size_comes_in_either_way(
    serve: Serve, size: int, chunked: bool
) -> None:
    content = random.Random(size).randbytes(size)
    key = key_of(content)
    async with serve() as there:
        body = pieces(content, 60_001) if chunked else content
        assert (await upload(there, key, body, promised=size))[0] == 200
        assert object_path(there.store, key).read_bytes() == content


async def test_a_key_that_does_not_tell_its_size_can_be_stored(serve: Serve) -> None:
    key = Key.parse(f"SHA256--{hashlib.sha256(CONTENT).hexdigest()}")
    async with serve() as there:
        assert (await upload(there, key, CONTENT[:-1] + b"!"))[0] == 422
        await nothing_stored(there, key)
        assert (await upload(there, key, CONTENT))[0] == 200
        assert await fetched(there, key) == CONTENT


async def test_of_a_key_without_a_hash_only_the_size_is_looked_at(serve: Serve) -> None:
    key = Key.parse(f"WORM-s{len(CONTENT)}-m1--a file")
    async with serve() as there:
        assert (await upload(there, key, CONTENT[1:]))[0] == 422
        await nothing_stored(there, key)
        assert (await upload(there, key, CONTENT))[0] == 200
        assert await fetched(there, key) == CONTENT


# -- the length that is promised -------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
async def test_without_a_promised_length_a_put_is_400_in_every_version(
    serve: Serve, version: int
) -> None:
    async with serve() as there:
        status, answer = await upload(there, KEY, CONTENT, version=version, promised="")
        assert status == 400
        assert f"the header {LENGTH} is missing" in answer["error"]
        await nothing_stored(there, KEY)
        assert await offset(there, KEY) == 0


@pytest.mark.parametrize("length", ["-1", "many", "1.0", "0x10", "9" * 30, "1 2"])
async def test_a_promised_length_that_is_none_is_400(serve: Serve, length: str) -> None:
    async with serve() as there:
        status, answer = await upload(there, KEY, CONTENT, promised=length)
        assert status == 400
        assert "whole number" in answer["error"]
        await nothing_stored(there, KEY)


@pytest.mark.parametrize("version", VERSIONS)
async def test_less_than_was_promised_is_not_stored_and_is_kept_for_a_resumed_put(
    serve: Serve, version: int
) -> None:
    """A sender whose file changes under its hands says so in this way."""
    async with serve() as there:
        status, answer = await upload(
            there, KEY, CONTENT[:-1], version=version, promised=len(CONTENT)
        )
        assert status == 422
        assert "were promised, and" in answer["error"]
        await nothing_stored(there, KEY)
        assert await offset(there, KEY) == len(CONTENT) - 1
        rest = (await upload(there, KEY, CONTENT[-1:], offset=len(CONTENT) - 1))[0]
        assert rest == 200
        assert await fetched(there, KEY) == CONTENT


@pytest.mark.parametrize("chunked", [False, True], ids=["Content-Length", "chunked"])
async def test_more_than_was_promised_is_not_stored(serve: Serve, chunked: bool) -> None:
    async with serve() as there:
        body = pieces(CONTENT, 100) if chunked else CONTENT
        status, answer = await upload(there, KEY, body, promised=len(CONTENT) - 1)
        assert status == 422
        assert "more came" in answer["error"]
        await nothing_stored(there, KEY)


async def test_exactly_what_was_promised_but_less_than_the_key_has_is_not_stored(
    serve: Serve,
) -> None:
    async with serve() as there:
        status, answer = await upload(there, KEY, CONTENT[:100])
        assert status == 422
        assert f"has {len(CONTENT)} bytes, and 100 came" in answer["error"]
        await nothing_stored(there, KEY)


async def test_more_than_the_key_has_is_refused_before_a_byte_of_it_is_sent(serve: Serve) -> None:
    async with serve() as there, wire(there) as connection:
        size = len(CONTENT) + 1
        connection.head("POST", request("put", KEY), "Expect: 100-continue", promised=size,
                        length=size)  # fmt: skip
        answer = await connection.answer()
        assert answer.status == 422
        assert f"{size} are announced" in json.loads(answer.body)["error"]
        await nothing_stored(there, KEY)


# -- other content ---------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [900, 3_000_000])
async def test_other_content_is_refused_and_nothing_of_it_is_kept(serve: Serve, size: int) -> None:
    content = random.Random(size).randbytes(size)
    key = key_of(content)
    async with serve() as there:
        status, answer = await upload(there, key, content[:-1] + bytes([content[-1] ^ 1]))
        assert status == 422
        assert "not the content of this key" in answer["error"]
        await nothing_stored(there, key)
        assert await offset(there, key) == 0
        assert not partial_path(there.store, key).exists()
        assert (await upload(there, key, content))[0] == 200
        assert await fetched(there, key) == content


async def test_what_was_kept_is_verified_when_it_is_resumed(serve: Serve) -> None:
    async with serve() as there:
        wrong = b"X" + CONTENT[1:500]
        assert (await upload(there, KEY, wrong, promised=len(CONTENT)))[0] == 422
        assert await offset(there, KEY) == 500
        status, _ = await upload(there, KEY, CONTENT[500:], offset=500)
        assert status == 422
        await nothing_stored(there, KEY)
        assert await offset(there, KEY) == 0


# -- offsets ---------------------------------------------------------------------------------------


async def test_putoffset_came_with_version_1_and_leaves_no_file_behind(serve: Serve) -> None:
    async with serve() as there:
        for version in VERSIONS:
            status, answer = await post(there.url, "putoffset", version=version, key=ABSENT.text)
            if version == 0:
                assert status == 404
                assert "version 1" in answer["error"]
            else:
                assert (status, answer) == (200, {"offset": 0})
        assert not partial_path(there.store, ABSENT).exists()


@pytest.mark.parametrize("version", VERSIONS[1:])
async def test_putoffset_tells_who_has_all_of_it_already(
    serve: Serve, key: Key, version: int
) -> None:
    plus: dict[str, Any] = {"plusuuids": []} if version >= 2 else {}
    async with serve() as there:
        answer = await post(there.url, "putoffset", version=version, key=key.text)
        assert answer == (200, {"alreadyhave": True, **plus})


@pytest.mark.parametrize("version", VERSIONS[1:])
async def test_a_put_goes_on_where_the_last_one_ended_or_before(serve: Serve, version: int) -> None:
    async with serve() as there:
        assert (await upload(there, KEY, CONTENT[:600], promised=len(CONTENT)))[0] == 422
        # What is sent once more counts, and not what was there.
        status, _ = await upload(
            there, KEY, CONTENT[200:400], version=version, offset=200, promised=len(CONTENT) - 200
        )
        assert status == 422
        assert await offset(there, KEY) == 400
        status, answer = await upload(there, KEY, CONTENT[400:], version=version, offset=400)
        assert (status, answer["stored"]) == (200, True)
        assert await fetched(there, KEY) == CONTENT


@pytest.mark.parametrize("here", [0, 100])
async def test_a_put_that_begins_after_the_end_of_what_is_here_is_409(
    serve: Serve, here: int
) -> None:
    async with serve() as there:
        if here:
            assert (await upload(there, KEY, CONTENT[:here], promised=len(CONTENT)))[0] == 422
        status, answer = await upload(there, KEY, CONTENT[here + 1 :], offset=here + 1)
        assert status == 409
        assert "ask for the offset with putoffset" in answer["error"]
        await nothing_stored(there, KEY)
        assert await offset(there, KEY) == here
        assert partial_path(there.store, KEY).exists() == bool(here)


async def test_a_partial_file_longer_than_the_key_is_of_no_use(serve: Serve) -> None:
    async with serve() as there:
        partial = partial_path(there.store, KEY)
        partial.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(CONTENT + b"more")
        assert await offset(there, KEY) == 0
        assert (await upload(there, KEY, CONTENT))[0] == 200
        assert await fetched(there, KEY) == CONTENT


async def test_version_0_knows_no_offset(serve: Serve) -> None:
    async with serve() as there:
        assert (await upload(there, KEY, CONTENT, version=0, offset=100))[0] == 200
        assert await fetched(there, KEY) == CONTENT


@pytest.mark.parametrize("wrong", ["-1", "x", "1.0", "9" * 30])
async def test_an_offset_that_is_none_is_400(serve: Serve, wrong: str) -> None:
    async with serve() as there:
        status, answer = await upload(there, KEY, CONTENT, offset=wrong)
        assert status == 400
        assert "parameter offset" in answer["error"]


async def test_what_came_of_content_that_nobody_can_verify_is_not_gone_on_with(
    serve: Serve,
) -> None:
    """The next upload may be of another file."""
    key = Key.parse("WORM-s10-m1--a file")
    async with serve() as there:
        assert (await upload(there, key, b"AAAAAA", promised=10))[0] == 422
        assert await offset(there, key) == 0
        assert not partial_path(there.store, key).exists()
        assert (await upload(there, key, b"BBBB", offset=6))[0] == 409
        await nothing_stored(there, key)
        assert (await upload(there, key, b"B" * 10))[0] == 200


# -- data-present ----------------------------------------------------------------------------------


async def test_data_present_says_stored_of_what_is_there_and_not_of_what_is_not(
    serve: Serve, key: Key
) -> None:
    async with serve() as there:
        answer = await upload(there, key, None, data_present="true")
        assert answer == (200, {"stored": True, "plusuuids": []})
        status, said = await upload(there, ABSENT, None, data_present="true")
        assert (status, said["stored"]) == (200, False)
        assert "said to be present, and it is not" in said["reason"]
        await nothing_stored(there, ABSENT)


@pytest.mark.parametrize("version", VERSIONS[:4])
async def test_before_version_4_there_was_no_data_present(
    serve: Serve, key: Key, version: int
) -> None:
    async with serve() as there:
        status, said = await upload(there, key, None, version=version, data_present="true")
        assert status == 400
        assert LENGTH in said["error"]
        status, _ = await upload(there, KEY, CONTENT, version=version, data_present="true")
        assert status == 200
        assert await fetched(there, KEY) == CONTENT


@pytest.mark.parametrize("value", ["false", "", "1", "True"])
async def test_only_true_is_data_present(serve: Serve, value: str) -> None:
    async with serve() as there:
        assert (await upload(there, KEY, CONTENT, data_present=value))[0] == 200
        assert await fetched(there, KEY) == CONTENT


# -- two at once -----------------------------------------------------------------------------------


async def test_a_second_upload_of_a_key_is_409_and_does_not_disturb_the_first(
    serve: Serve,
) -> None:
    async with serve() as there, wire(there) as first:
        size = len(CONTENT)
        first.head("POST", request("put", KEY), "Expect: 100-continue", promised=size, length=size)
        assert await first.line() == "HTTP/1.1 100 Continue"
        assert await first.line() == ""
        await first.send(CONTENT[:400])
        status, answer = await upload(there, KEY, CONTENT)
        assert status == 409
        assert "being transferred here already" in answer["error"]
        other = CONTENT[::-1]
        assert (await upload(there, key_of(other), other))[0] == 200
        await first.send(CONTENT[400:])
        assert (await first.answer()).status == 200
        assert await fetched(there, KEY) == CONTENT


async def test_many_uploads_at_once_are_stored_each(serve: Serve) -> None:
    contents = [random.Random(number).randbytes(200_000 + number) for number in range(20)]
    async with serve(jobs=2) as there:
        said = await asyncio.gather(*(upload(there, key_of(each), each) for each in contents))
        assert {status for status, _ in said} == {200}
        for content in contents:
            assert object_path(there.store, key_of(content)).read_bytes() == content
        await eventually(lambda: there.workers.busy == 0)
