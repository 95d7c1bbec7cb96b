"""Scenarios from the field: content that came late, not at all, or other than it was."""

from __future__ import annotations

import json
import os
from pathlib import Path

import fsspec
import pytest
from annexes import Annex, Serving, annex, home, locklane
from annexwire import PATIENCE
from conftest import ABSENT, eventually
from fields import (
    FULL_SIZE,
    add_files,
    curl,
    ends_with_0,
    http_url,
    soon,
)
from kinds import thaw
from rawhttp import request, wire

__all__ = ["annex", "home", "locklane"]

pytestmark = pytest.mark.timeout(1800 if FULL_SIZE else 180)

BIG = 16_000_000
"""Bytes, more than all buffers between a server and a client that does not read."""


def test_field_02_an_upload_that_turns_out_to_be_wrong_is_judged(
    annex: Annex, locklane: Serving
) -> None:
    """One after the other on the connections of one git-annex, with one job on either side: what
    is not the content is refused with a sentence, and the next is stored."""
    server = locklane(annex, "--jobs", "1")
    clone = annex.clone("clone", server.url)
    files = add_files(clone, 6, 300_000)
    wrong, right = files[:3], files[3:]
    for number, file in enumerate(wrong):
        thaw(file.resolve())
        content = file.read_bytes()
        # Another one, a shorter one, a longer one.
        file.resolve().write_bytes([os.urandom(len(content)), content[:-1], content + b"x"][number])
    copied = clone.attempt("git", "annex", "copy", "--to=origin", "--json", ".")
    answers = [json.loads(line) for line in copied.stdout.splitlines()]
    stored = {answer["file"] for answer in answers if answer["success"]}
    assert stored == {file.name for file in right}, copied
    assert "what came is not the content of this key" in copied.stderr
    assert len(annex.objects()) == len(right)
    ends_with_0(server)


def test_field_06_the_last_chunk_comes(annex: Annex, locklane: Serving) -> None:
    """Of many files, twenty at a time: 1,000 of 1 MB were reported, which ``make field`` has."""
    files = add_files(annex, *((1000, 1_000_000) if FULL_SIZE else (120, 256_000)))
    server = locklane(annex)
    clone = annex.clone("clone", server.url)
    with clone.start("git-annex", "get", "-q", "-J20", ".") as client:
        assert client.wait(1500 if FULL_SIZE else PATIENCE) == 0, client.output
    for file in files:
        assert (clone.directory / file.name).read_bytes() == file.read_bytes()
    ends_with_0(server)


def test_field_10_other_clones_learn_of_content_while_the_server_runs(
    annex: Annex, locklane: Serving
) -> None:
    """Of what came and what went, by a fetch, with nothing else running in the repository."""
    gone = annex.add(b"to be removed")
    server = locklane(annex)
    one, two = annex.clone("one", server.url), annex.clone("two")
    came = one.add(b"to be stored")
    assert one.attempt("git", "annex", "copy", "--to=origin", f"--key={came.text}").returncode == 0
    done = one.attempt("git", "annex", "drop", "--from=origin", "--force", f"--key={gone.text}")
    assert done.returncode == 0, done

    def known() -> bool:
        two.git("fetch", "-q", "origin")
        two.annex("merge", "-q")
        return annex.uuid in two.whereis(came) and annex.uuid not in two.whereis(gone)

    soon(known, "the other clone knows")
    ends_with_0(server)


def test_field_11_asking_for_the_offset_leaves_no_file(annex: Annex, locklane: Serving) -> None:
    """Not by itself, and not when git-annex asks before it copies, and is then refused."""
    server = locklane(annex)
    for version in (1, 2, 3, 4):
        target = server.api.target("putoffset", version=version, key=ABSENT)
        status, body, _ = server.api.request("POST", target)
        assert (status, json.loads(body)) == (200, {"offset": 0})
    clone = annex.clone("clone", server.url)
    damaged = clone.add(b"x" * 1000)
    thaw(clone.object(damaged))
    clone.object(damaged).write_bytes(b"")
    copied = clone.attempt("git", "annex", "copy", "--to=origin", f"--key={damaged.text}")
    assert copied.returncode == 1
    assert not list((annex.git_directory / "annex/tmp").iterdir())
    ends_with_0(server)


async def test_field_12_truncated_and_never_padded(
    annex: Annex, locklane: Serving, tmp_path: Path
) -> None:
    """A file that becomes shorter while curl gets it, and one that is too short for git-annex."""
    content = os.urandom(3 * BIG)  # three seconds of curl's
    key = annex.add(content)
    server = locklane(annex)
    kept = tmp_path / "kept"
    with curl("--limit-rate", "16M", "--output", kept, http_url(server, key)) as client:
        await eventually(lambda: kept.exists() and kept.stat().st_size)
        thaw(annex.object(key))
        os.truncate(annex.object(key), 2 * BIG + 1000)
        assert await client.ended() == 18, "curl was not told that something is missing"
    assert content.startswith(kept.read_bytes())
    assert kept.stat().st_size <= 2 * BIG + 1000
    clone = annex.clone("clone", server.url)
    got = clone.attempt("git", "annex", "get", f"--key={key.text}")
    assert got.returncode == 1
    assert not clone.objects()
    partial = clone.partial(key)
    assert not partial.exists() or content.startswith(partial.read_bytes())
    ends_with_0(server)


async def test_field_15_what_is_short_leaves_nobody_waiting_on_its_connection(
    annex: Annex, locklane: Serving
) -> None:
    """An upload of less than was promised is answered, and so is what follows it; a download that
    becomes shorter than was promised is the last on its connection."""
    content = os.urandom(BIG)
    key = annex.add(content)
    server = locklane(annex)
    async with wire(server.url) as connection:
        for _ in range(3):
            connection.head("POST", request("put", ABSENT), length=10, promised=ABSENT.size or 0)
            await connection.send(b"x" * 10)
            assert (await connection.answer()).status == 422
            connection.head("POST", request("checkpresent", key), length=0)
            assert json.loads((await connection.answer()).body) == {"present": True}
        connection.head("GET", request("key", key))
        assert await connection.line() == "HTTP/1.1 200 OK"
        thaw(annex.object(key))
        os.truncate(annex.object(key), BIG - 1000)
        connection.head("POST", request("checkpresent", key), length=0)
        came = await connection.end()
    assert came.endswith(content[: BIG - 1000][-100:]), "something came after what there was"
    ends_with_0(server)


def test_field_18_ordinary_tools_can_read_content(annex: Annex, locklane: Serving) -> None:
    """With a length and by ranges: curl, which goes on where it was, and fsspec, which seeks."""
    content = os.urandom(1_000_000)
    server = locklane(annex)
    url = http_url(server, annex.add(content))
    begun = annex.home / "begun"
    begun.write_bytes(content[:999])
    with curl("--continue-at", "-", "--output", begun, url) as client:
        assert client.wait() == 0, client.output
    assert begun.read_bytes() == content
    with fsspec.open(url, block_size=65536) as file:
        assert file.size == len(content)
        for position in (999_990, 0, 500_000):
            file.seek(position)
            assert file.read(100) == content[position : position + 100]
    ends_with_0(server)
