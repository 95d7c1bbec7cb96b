"""Keys that are too long for the name of a file are refused, in a sentence; none is a bare 500."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import Serve, post
from kinds import both, object_path, put
from rawhttp import request, wire

from locklane_client import Key

CONTENT = b"content"

pytestmark = both


def key_of_length(length: int) -> Key:
    begin = f"WORM-s{len(CONTENT)}-m1--"
    return Key.parse(begin + "n" * (length - len(begin)))


@pytest.mark.parametrize("length", [256, 1000, 4096])
async def test_a_key_that_no_file_can_be_named_after_is_not_here_and_cannot_be_stored(
    serve: Serve, store: Path, length: int
) -> None:
    key = key_of_length(length)
    async with serve() as there:
        for name, answer in {
            "checkpresent": {"present": False},
            "lockcontent": {"locked": False, "reason": "the content is not present"},
            "remove": {"removed": True, "plusuuids": []},
            "putoffset": {"offset": 0},
        }.items():
            assert await post(there.url, name, key=key.text) == (200, answer), name
        async with wire(there) as line:
            line.head("POST", request("put", key), length=len(CONTENT), promised=len(CONTENT))
            await line.send(CONTENT)
            answer = await line.answer()
            assert answer.status == 422
            assert b"too long" in answer.body


@pytest.mark.kinds("annex")
async def test_content_beside_which_no_lock_file_can_lie_is_not_locked(
    serve: Serve, store: Path
) -> None:
    key = put(store, CONTENT, key_of_length(254))
    assert object_path(store, key).is_file()
    async with serve() as there:
        assert await post(there.url, "checkpresent", key=key.text) == (200, {"present": True})
        for name in ("lockcontent", "lockhold"):
            status, answer = await post(there.url, name, key=key.text)
            assert (status, answer["locked"]) == (200, False)
            assert "too long for the name of a lock file" in answer["reason"]
        assert there.locks == 0
        status, answer = await post(there.url, "remove", key=key.text)
        assert status == 422
        assert "too long" in answer["error"]
