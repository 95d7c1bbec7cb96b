"""Why something cannot be stored: each reason has a status and a sentence of its own, on a real
small disk, and the person who runs git-annex is told the sentence."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
from annexes import Annex, Serving, annex, home, locklane
from annexwire import Upload
from conftest import post
from smalldisk import SmallDisk, small_disk
from test_put_wire import on_a_small_disk

from locklane_client.key import Key

__all__ = ["annex", "home", "locklane"]

pytestmark = pytest.mark.timeout(180)

SIZE = 3_000_000
RESERVE = 1_000_000

State = Callable[[SmallDisk, Annex, Key], AbstractContextManager[None]]


@contextmanager
def full(disk: SmallDisk, clone: Annex, key: Key) -> Iterator[None]:
    disk.fill()
    yield
    disk.free()


@contextmanager
def almost_full(disk: SmallDisk, clone: Annex, key: Key) -> Iterator[None]:
    disk.fill(but=SIZE // 2)
    yield
    disk.free()


@contextmanager
def room_but_for_the_reserve(disk: SmallDisk, clone: Annex, key: Key) -> Iterator[None]:
    disk.fill(but=SIZE + RESERVE // 2)
    yield
    disk.free()


@contextmanager
def read_only(disk: SmallDisk, clone: Annex, key: Key) -> Iterator[None]:
    disk.make_read_only()
    yield
    disk.make_writable()


@contextmanager
def in_progress(disk: SmallDisk, clone: Annex, key: Key) -> Iterator[None]:
    """Another client's upload goes on, slowly."""
    other = Upload(disk.api, key, SIZE, length=SIZE)
    other.send(b"x" * 1000)
    disk.eventually(".git/annex/transfer/download/*/lck.*")
    yield
    other.cut()


@contextmanager
def damaged(disk: SmallDisk, clone: Annex, key: Key) -> Iterator[None]:
    """What the client has is not the content of the key any more."""
    path = clone.object(key)
    content = path.read_bytes()
    path.chmod(0o644)
    path.write_bytes(os.urandom(SIZE))
    yield
    assert not list(disk.copy.glob(".git/annex/tmp/*")), "what can never become right is kept"
    path.write_bytes(content)
    path.chmod(0o444)


@pytest.mark.parametrize(
    ("state", "status", "sentence"),
    [
        (full, 507, "No space left on device; free some space on the server's disk"),
        (almost_full, 507, "not enough free space: 3000000 bytes are needed"),
        (room_but_for_the_reserve, 413, "keep 1000000 free"),
        (read_only, 503, "cannot store the upload: the server's disk is mounted read-only"),
        (in_progress, 409, "is being transferred here already; try again later"),
        (damaged, 422, "what came is not the content of this key: its hash is another one"),
    ],
)
def test_each_reason_has_a_status_and_a_sentence_that_git_annex_shows(
    annex: Annex, state: State, status: int, sentence: str
) -> None:
    """When the reason is gone, the same copy is stored."""
    annex.configure(annex_diskreserve=f"{RESERVE} bytes")
    annex.add(b"something that is there already")
    with small_disk(annex) as disk:
        clone = annex.clone("clone", disk.url)
        key = clone.add(os.urandom(SIZE))
        content = clone.object(key).read_bytes()
        with state(disk, clone, key):
            told, answer = disk.api.put(key, clone.object(key).read_bytes())
            assert (told, sentence in answer["error"]) == (status, True), answer
            copied = copy(clone, key)
            assert copied.returncode == 1
            assert sentence in copied.stdout + copied.stderr
            assert not disk.api.present(key)
        assert copy(clone, key).returncode == 0
        assert disk.api.get(key) == (200, content)
        disk.terminate()
        assert disk.wait() == 0
    assert "Traceback" not in disk.output


def test_a_key_that_is_none_is_400_with_a_sentence(annex: Annex, locklane: Serving) -> None:
    api = locklane(annex).api
    for name in ("nonsense", "SHA256E-s3", "-s3--abc", "SHA256E-sx--abc"):
        target = api.target("put", key=name)
        status, body, phrase = api.request("POST", target, b"abc", X_git_annex_data_length="3")
        said = json.loads(body)["error"]
        assert (status, phrase) == (400, said), said
        assert name in said, "it does not say which key"


@pytest.mark.parametrize(
    ("state", "status", "sentence"),
    [(full, 507, "No space left on device"), (read_only, 503, "mounted read-only")],
)
def test_where_nothing_can_be_written_content_is_read_and_locks_say_why_not(
    annex: Annex, state: State, status: int, sentence: str
) -> None:
    annex.configure(annex_diskreserve="0")
    key = annex.add(b"something that is there already")
    with small_disk(annex) as disk:
        with state(disk, annex, key):
            assert disk.api.present(key)
            assert disk.api.get(key) == (200, b"something that is there already")
            told, answer = disk.api.post("lockcontent", key=key)
            assert (told, sentence in answer["error"]) == (status, True), answer
        disk.api.lock(key)


def test_a_full_disk_can_be_made_less_full_and_a_read_only_one_says_why_not(annex: Annex) -> None:
    """Removals; what was not removed is there afterwards."""
    one, two = annex.add(b"one"), annex.add(b"two")
    with small_disk(annex) as disk:
        with full(disk, annex, one):
            assert disk.api.remove(one)["removed"] is True
        with read_only(disk, annex, two):
            status, answer = disk.api.post("remove", key=two)
            assert status == 503
            assert (
                "cannot remove the content: the server's disk is mounted read-only"
                in answer["error"]
            )
        assert disk.api.get(two) == (200, b"two")
        assert disk.api.remove(two)["removed"] is True
        disk.line("POST .*mounted read-only")


async def test_a_store_whose_disk_is_full_says_why_it_takes_no_lock(store: Path, key: Key) -> None:
    """Its locks are in a database, which grows."""
    with on_a_small_disk(store, 2) as (process, disk):
        url = (await process.prints(r"serving (annex\+http://\S+)\n"))[1]
        free = os.statvfs(disk)
        with (disk / "filler").open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, free.f_bavail * free.f_frsize)
        for _ in range(1000):
            status, answer = await post(url, "lockcontent", key=key.text)
            if status != 200:
                break
        assert status == 507
        assert "free some space on the server's disk" in answer["error"]
        (disk / "filler").unlink()
        assert (await post(url, "lockcontent", key=key.text))[1]["locked"]


def copy(clone: Annex, key: Key) -> subprocess.CompletedProcess[str]:
    return clone.attempt("git", "annex", "copy", "--to=origin", f"--key={key.text}")
