"""Looking at files without waiting: what it tells is what the ordinary calls tell; or it tells
nothing, and a worker is asked."""

from __future__ import annotations

import errno
import os
import random
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from conftest import Serve, descriptors, object_path, post, put
from kinds import both
from rawhttp import request, wire

from locklane_client import Key
from locklane_server import nowait

CONTENT = random.Random(6).randbytes(300_000)

works = nowait.status("/") is not None
"""Whether this kernel has the call; where it has not, only that nothing wrong is told is proven."""


@pytest.fixture
def places(tmp_path: Path) -> dict[str, Path]:
    """Something of every kind; each has been looked at, so the kernel knows it."""
    there = {
        name: tmp_path / name
        for name in ("file", "empty", "directory", "fifo", "link", "loop", "dangling", "absent")
    }
    there["file"].write_bytes(CONTENT)
    there["empty"].touch()
    there["directory"].mkdir()
    os.mkfifo(there["fifo"])
    there["link"].symlink_to("file")
    there["loop"].symlink_to("loop")
    there["dangling"].symlink_to("nowhere")
    there["below a file"] = there["file"] / "x"
    there["too long"] = tmp_path / ("x" * 300)
    there["not UTF-8"] = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))
    there["not UTF-8"].write_bytes(b"abc")
    for path in there.values():
        try:
            path.stat()
        except OSError:
            continue
    return there


def test_a_status_is_that_of_stat_or_none(places: dict[str, Path]) -> None:
    for name, path in places.items():
        told = nowait.status(str(path))
        try:
            right = path.stat()
        except OSError:
            assert told is None, name
        else:
            assert told is not None or not works, name
            assert told is None or tuple(told)[:9] == tuple(right)[:9], name
            assert told is None or told.st_mtime_ns == right.st_mtime_ns, name


def test_only_a_plain_file_is_opened_and_nothing_else_is_waited_for(
    places: dict[str, Path],
) -> None:
    for name, path in places.items():
        before = descriptors()
        descriptor = nowait.open_file(str(path))
        if name in ("file", "empty", "link", "not UTF-8"):
            assert descriptor is not None or not works, name
        else:
            assert descriptor is None, name
        if descriptor is not None:
            assert os.path.samestat(os.fstat(descriptor), path.stat())
            assert not os.get_inheritable(descriptor)
            os.close(descriptor)
        assert descriptors() == before, name


@pytest.mark.parametrize("cached", [True, False])
def test_what_is_read_is_what_pread_reads_or_none(places: dict[str, Path], cached: bool) -> None:
    for name in ("file", "empty"):
        descriptor = os.open(places[name], os.O_RDWR)
        try:
            size = os.fstat(descriptor).st_size
            for offset in (0, 1, 65536, 299_999, 300_000, 300_001, 2**62):
                for count in (0, 1, 4096, 65537, 400_000):
                    if cached:
                        os.pread(descriptor, size, 0)
                    else:
                        os.fsync(descriptor)
                        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
                    told = nowait.read(descriptor, offset, count)
                    right = os.pread(descriptor, count, offset)
                    assert told == right or (told is None and not cached), (offset, count)
        finally:
            os.close(descriptor)


def test_a_file_that_is_gone_is_not_there_any_more(tmp_path: Path) -> None:
    """What the kernel remembers is never older than what happened here."""
    path = tmp_path / "file"
    for _ in range(100):
        path.write_bytes(b"abc")
        told = nowait.status(str(path))
        assert told is None or told.st_size == 3
        path.unlink()
        assert nowait.status(str(path)) is None
        assert nowait.open_file(str(path)) is None


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_read_that_would_have_to_wait_or_cannot_be_had_is_a_workers(
    places: dict[str, Path], number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(descriptor: int, buffers: Sequence[Any], offset: int, flags: int = 0) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "preadv", refuse)
    descriptor = os.open(places["file"], os.O_RDONLY)
    try:
        assert nowait.read(descriptor, 0, 10) is None
    finally:
        os.close(descriptor)


def test_a_read_that_fails_is_an_error(tmp_path: Path) -> None:
    descriptor = os.open(tmp_path / "file", os.O_WRONLY | os.O_CREAT)
    try:
        with pytest.raises(OSError, match="Bad file descriptor"):
            nowait.read(descriptor, 0, 10)
    finally:
        os.close(descriptor)


@both
async def test_on_a_kernel_without_the_call_everything_is_answered_the_same(
    serve: Serve, store: Path, keys: list[Key], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = 0

    def no_such_call(*_: object) -> int:
        nonlocal asked
        asked += 1
        return -1

    monkeypatch.setattr(nowait, "_syscall", no_such_call)
    absent = put(store, CONTENT)
    path = object_path(store, absent)
    path.parent.chmod(0o755)
    path.unlink()
    async with serve(jobs=1) as there, wire(there) as connection:
        assert await post(there.url, "checkpresent", key=keys[0].text) == (200, {"present": True})
        assert await post(there.url, "checkpresent", key=absent.text) == (200, {"present": False})
        for key in keys:
            connection.head("GET", request("key", key))
            answer = await connection.answer()
            assert answer.body == object_path(store, key).read_bytes()
            assert stat.S_ISREG(object_path(store, key).stat().st_mode)
        connection.head("GET", request("key", absent))
        assert (await connection.answer()).status == 404
        assert (await post(there.url, "lockcontent", key=keys[0].text))[1]["locked"]
    assert asked >= 5
