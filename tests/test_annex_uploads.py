"""Uploads into a git-annex repository that end too early, bring something else, or meet another:
nothing is stored then, nobody is kept out, and what came is gone on with, by git-annex too."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from contextlib import suppress

import pytest
from annexes import Annex, Locklane, Serving, annex, home, locklane
from annexwire import Api, Shell, Upload
from conftest import BOUND, key_of

from locklane_client.key import Key

__all__ = ["annex", "home", "locklane"]

MIB = 1024 * 1024
SIZE = 2 * MIB + 17
SEED = 20261122
BUFFERS = 512 * 1024
"""Bytes that may be on their way inside of the server when a connection ends."""
_RANDOM = random.Random(SEED)
BORDERS = [0, 1, 2, 65535, 65536, 65537, MIB - 1, MIB, MIB + 1, 2 * MIB, SIZE - 1, SIZE]
ANYWHERE = [_RANDOM.randrange(SIZE) for _ in range(6)]


def some(size: int, seed: object = 0) -> bytes:
    return random.Random(repr(seed)).randbytes(size)


def soon(condition: Callable[[], object]) -> None:
    """What the server does after its client has gone, it does at once, but nobody is told."""
    end = time.monotonic() + BOUND
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def nothing_stored(annex: Annex, api: Api, key: Key) -> None:
    """Neither is it here, nor does a transfer go on, by whatever trace."""
    soon(lambda: not annex.transfers())
    assert key.file_name not in annex.objects()
    assert not api.present(key)
    assert api.get(key)[0] == 404


def stored(annex: Annex, api: Api, key: Key, content: bytes) -> None:
    """It is here, whole, and the partial file is not."""
    assert api.get(key) == (200, content)
    assert key.file_name in annex.objects()
    assert not annex.partial(key).exists()
    assert not annex.transfers()


def sound(annex: Annex, server: Locklane, *keys: Key) -> None:
    """When the server has ended, git-annex finds nothing wrong, and the records are right."""
    server.terminate()
    assert server.wait() == 0
    assert annex.recorded() == {key.text for key in keys}
    annex.know(*keys)
    annex.fsck()


# -- cut off ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["length", "chunks", "reset"])
def test_an_upload_that_is_cut_off_anywhere_is_resumed_from_there(
    annex: Annex, locklane: Serving, way: str
) -> None:
    """At the ends, at the borders of every buffer, and at random: nothing is stored, the partial
    file holds what came up to some buffers' length (of a reset connection: at most), and ``put``
    with its offset completes."""
    server = locklane(annex)
    keys = []
    for cut in {*BORDERS, *ANYWHERE} - ({SIZE} if way == "length" else set()):
        content = some(SIZE, (way, cut))
        key = key_of(content, ".dat")
        upload = Upload(server.api, key, SIZE, length=None if way == "chunks" else SIZE + 1)
        upload.send(content[: cut - 10 if way == "chunks" and cut > 10 else cut])
        soon(annex.transfers)
        if way == "reset":
            upload.reset()
        else:
            upload.cut(inside=content[cut - 10 : cut] if way == "chunks" and cut > 10 else b"")
        nothing_stored(annex, server.api, key)
        status, answer = server.api.post("putoffset", key=key)
        offset = answer["offset"]
        assert status == 200
        assert (0 if way == "reset" else cut - BUFFERS) <= offset <= cut
        if offset:
            assert annex.partial(key).read_bytes() == content[:offset]
        else:
            assert not annex.partial(key).exists()
        status, answer = server.api.put(key, content[offset:], offset=offset)
        assert (status, answer["stored"]) == (200, True), answer
        stored(annex, server.api, key, content)
        keys.append(key)
    sound(annex, server, *keys)


def test_a_server_that_is_killed_in_an_upload_leaves_what_came(
    annex: Annex, locklane: Serving
) -> None:
    """The lock files that it leaves stop neither a new server nor git-annex."""
    content = some(SIZE)
    key = key_of(content, ".dat")
    server = locklane(annex)
    upload = Upload(server.api, key, SIZE)
    upload.send(content[: MIB + 5])
    soon(lambda: annex.partial(key).exists() and annex.partial(key).stat().st_size >= MIB)
    server.kill()
    assert annex.transfers(), "nothing is left that could stand in the way"
    again = locklane(annex)
    offset = again.api.post("putoffset", key=key)[1]["offset"]
    assert MIB <= offset <= MIB + 5
    assert again.api.put(key, content[offset:], offset=offset)[0] == 200
    stored(annex, again.api, key, content)
    sound(annex, again, key)


# -- git-annex goes on -----------------------------------------------------------------------------


def test_git_annex_goes_on_with_what_we_began(annex: Annex, locklane: Serving) -> None:
    """Over its line protocol, and with its own HTTP server."""
    for number, resume in enumerate((_resume_by_shell, _resume_by_p2phttp)):
        content = some(SIZE, number)
        key = key_of(content, ".dat")
        server = locklane(annex)
        upload = Upload(server.api, key, SIZE, length=SIZE)
        upload.send(content[:1_500_000])
        soon(annex.transfers)
        upload.cut()
        nothing_stored(annex, server.api, key)
        offset = server.api.post("putoffset", key=key)[1]["offset"]
        assert offset > 1_500_000 - BUFFERS
        resume(annex, key, content, offset)
        stored(annex, server.api, key, content)
        server.kill()


def _resume_by_shell(annex: Annex, key: Key, content: bytes, offset: int) -> None:
    with Shell(annex) as shell:
        assert shell.ask(f"PUT  {key.text}") == f"PUT-FROM {offset}"
        shell.send(f"DATA {len(content) - offset}\n".encode() + content[offset:])
        assert shell.ask("VALID") == "SUCCESS"


def _resume_by_p2phttp(annex: Annex, key: Key, content: bytes, offset: int) -> None:
    with annex.p2phttp() as url:
        api = Api(url)
        assert api.post("putoffset", key=key)[1]["offset"] == offset
        status, answer = api.put(key, content[offset:], offset=offset)
        assert (status, answer["stored"]) == (200, True)


def test_we_go_on_with_what_git_annex_began(annex: Annex, locklane: Serving) -> None:
    """A ``git-annex-shell`` that is killed in the middle of an upload leaves us its partial."""
    content = some(SIZE)
    key = key_of(content, ".dat")
    with Shell(annex) as shell:
        assert shell.ask(f"PUT  {key.text}") == "PUT-FROM 0"
        shell.send(f"DATA {SIZE}\n".encode() + content[:1_500_000])
        soon(lambda: annex.partial(key).exists() and annex.partial(key).stat().st_size > MIB)
        shell.kill()
    server = locklane(annex)
    offset = server.api.post("putoffset", key=key)[1]["offset"]
    assert offset == annex.partial(key).stat().st_size
    assert server.api.put(key, content[offset:], offset=offset)[0] == 200
    stored(annex, server.api, key, content)
    sound(annex, server, key)


def test_a_partial_file_with_something_else_in_it_is_found_out(
    annex: Annex, locklane: Serving
) -> None:
    """What an earlier upload left is verified too, and a damaged one does not last."""
    content = some(SIZE)
    key = key_of(content, ".dat")
    api = locklane(annex).api
    annex.leave_partial(key, b"x" * 1000)
    assert api.post("putoffset", key=key)[1] == {"offset": 1000}
    status, answer = api.put(key, content[1000:], offset=1000)
    assert status == 422
    assert "hash" in answer["error"]
    nothing_stored(annex, api, key)
    assert api.post("putoffset", key=key)[1] == {"offset": 0}
    assert api.put(key, content)[0] == 200
    stored(annex, api, key, content)


@pytest.mark.parametrize("offset", [1, 999, 1001, 10**15])
def test_an_offset_that_is_not_where_the_partial_ends(
    annex: Annex, locklane: Serving, offset: int
) -> None:
    """Beyond it is refused; before it is gone on from there."""
    content = some(5000)
    key = key_of(content, ".dat")
    api = locklane(annex).api
    annex.leave_partial(key, content[:1000])
    status, answer = api.put(key, content[offset:], offset=offset)
    if offset < 1000:
        assert status == 200
        stored(annex, api, key, content)
    else:
        assert status in (409, 422)
        assert answer["error"]
        nothing_stored(annex, api, key)
        assert annex.partial(key).read_bytes() == content[:1000]


# -- not what was promised -------------------------------------------------------------------------


def keys_for(content: bytes) -> list[Key]:
    """A key that tells its size, and one that does not."""
    sized = key_of(content, ".dat")
    return [sized, Key.parse(f"SHA256E--{sized.name}")]


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunks"])
def test_more_or_less_than_promised_is_not_valid(
    annex: Annex, locklane: Serving, chunked: bool
) -> None:
    """The sender's way of saying that the file changed meanwhile; whole uploads still work."""
    server = locklane(annex)
    keys = []
    for off in (-SIZE, -1, 1, 100_000):
        content = some(SIZE, off)
        for key in keys_for(content):
            body = content[:off] if off < 0 else content + b"x" * off
            upload = Upload(server.api, key, SIZE, length=None if chunked else len(body))
            upload.send(body)
            status, answer = upload.answer()
            assert status == 422
            assert f"{SIZE} bytes were promised" in answer["error"]
            nothing_stored(annex, server.api, key)
            offset = server.api.post("putoffset", key=key)[1]["offset"]
            assert offset <= SIZE
            assert server.api.put(key, content[offset:], offset=offset)[0] == 200
            stored(annex, server.api, key, content)
            keys.append(key)
    sound(annex, server, *keys)


def test_content_of_another_key_is_not_stored(annex: Annex, locklane: Serving) -> None:
    """Of the same size, with a wrong size promised, with a size that the key does not have."""
    server = locklane(annex)
    content = some(SIZE)
    for key in keys_for(content):
        status, answer = server.api.put(key, content[:-1] + bytes([content[-1] ^ 1]))
        assert status == 422
        assert "hash" in answer["error"]
        nothing_stored(annex, server.api, key)
        assert server.api.post("putoffset", key=key)[1] == {"offset": 0}
        for body in (content[:-1], content + b"x", b""):
            status, answer = server.api.put(key, body)
            assert status == 422, answer
            assert answer["error"]
            nothing_stored(annex, server.api, key)
            annex.partial(key).unlink(missing_ok=True)
        assert server.api.put(key, content)[0] == 200
        stored(annex, server.api, key, content)
    sound(annex, server, *keys_for(content))


def test_empty_content_is_content(annex: Annex, locklane: Serving) -> None:
    """No byte, and all of them."""
    server = locklane(annex)
    key = key_of(b"", ".dat")
    assert server.api.put(key, b"")[0] == 200
    stored(annex, server.api, key, b"")
    sound(annex, server, key)


# -- two at once -----------------------------------------------------------------------------------


def test_a_second_upload_is_told_to_wait(annex: Annex, locklane: Serving) -> None:
    """By the same client or another; the first one goes on, and then both have it."""
    content = some(SIZE)
    key = key_of(content, ".dat")
    server = locklane(annex)
    first = Upload(server.api, key, SIZE, length=SIZE)
    first.send(content[:MIB])
    soon(annex.transfers)
    for client in (server.api.client, "11111111-0000-4000-8000-00000000c11e"):
        status, answer = Api(server.url, client).put(key, content)
        assert status == 409
        assert "being transferred" in answer["error"]
    first.send(content[MIB:])
    assert first.answer()[0] == 200
    stored(annex, server.api, key, content)
    assert server.api.put(key, content) == (200, {"stored": True, "plusuuids": []})


def test_git_annex_is_kept_out_while_our_upload_goes_on(annex: Annex, locklane: Serving) -> None:
    """Its own server refuses, and so does git-annex-shell; ours is none the worse for it."""
    content = some(SIZE)
    key = key_of(content, ".dat")
    server = locklane(annex)
    first = Upload(server.api, key, SIZE, length=SIZE)
    first.send(content[:MIB])
    soon(annex.transfers)
    with annex.p2phttp() as url:
        api = Api(url)
        target = api.target("put", key=key)
        status, body, _ = api.request("POST", target, content, X_git_annex_data_length=str(SIZE))
        assert status != 200 or b"true" not in body
    with Shell(annex) as shell, suppress(BrokenPipeError):  # when it refuses, it ends
        assert shell.ask(f"PUT  {key.text}").startswith("PUT-FROM")
        shell.send(f"DATA {SIZE}\n".encode() + content)
        assert shell.ask("VALID") != "SUCCESS"
    assert key.file_name not in annex.objects()
    first.send(content[MIB:])
    assert first.answer()[0] == 200
    stored(annex, server.api, key, content)
    sound(annex, server, key)


def test_we_are_kept_out_while_git_annexs_upload_goes_on(annex: Annex, locklane: Serving) -> None:
    """Until git-annex is done, and then it is there."""
    content = some(SIZE)
    key = key_of(content, ".dat")
    server = locklane(annex)
    with Shell(annex) as shell:
        assert shell.ask(f"PUT  {key.text}") == "PUT-FROM 0"
        shell.send(f"DATA {SIZE}\n".encode() + content[:MIB])
        soon(annex.transfers)
        soon(lambda: annex.partial(key).exists())
        status, answer = server.api.put(key, content)
        assert status == 409
        assert "being transferred" in answer["error"]
        shell.send(content[MIB:])
        assert shell.ask("VALID") == "SUCCESS"
    assert server.api.get(key) == (200, content)
    assert server.api.put(key, content)[0] == 200
    sound(annex, server, key)
