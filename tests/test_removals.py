"""A removal from its beginning to its end, whoever goes away meanwhile, and what waits for it."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from conftest import (
    BOUND,
    SOMEBODY,
    FakeClock,
    Serve,
    eventually,
    object_path,
    post,
    put,
)
from kinds import both, open_repository, thaw
from yarl import URL

from locklane_client import Key
from locklane_server.locks import Refusal
from locklane_server.repository import RepositoryError
from locklane_server.repository.annex.repository import AnnexRepository
from locklane_server.repository.directory import DirectoryRepository
from locklane_server.served import ServedRepository
from locklane_server.workers import Workers

pytestmark = both


class SlowDisk:
    """Every deletion begins, and then waits for :attr:`goes_on`."""

    def __init__(self) -> None:
        self.begun = 0
        self.goes_on = threading.Event()
        self._counting = threading.Lock()

    def wait(self) -> None:
        with self._counting:
            self.begun += 1
        assert self.goes_on.wait(BOUND), "nobody let the deletion go on"


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[SlowDisk]:
    """The real deletion, on a disk that takes its time."""
    disk = SlowDisk()

    def slow(at_once: Callable[..., Refusal | None]) -> Callable[..., Refusal | None]:
        def slowly(*arguments: Any) -> Refusal | None:
            disk.wait()
            return at_once(*arguments)

        return slowly

    for kind in (DirectoryRepository, AnnexRepository):
        monkeypatch.setattr(kind, "_remove", slow(kind._remove))
    yield disk
    disk.goes_on.set()


async def cancel_twice(task: asyncio.Task[object]) -> None:
    """What two impatient callers do: the second one while the first is being obeyed."""
    task.cancel()
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task], timeout=BOUND)


async def served_at(store: Path, clock: FakeClock) -> ServedRepository:
    served = ServedRepository(open_repository(store, Workers(), clock), clock=clock)
    await served.restore()
    return served


async def test_a_removal_whose_requester_is_cancelled_keeps_locks_off_until_the_file_is_gone(
    store: Path, clock: FakeClock, key: Key, disk: SlowDisk
) -> None:
    served = await served_at(store, clock)
    asking = asyncio.create_task(served.remove(key))
    await eventually(lambda: disk.begun == 1)
    await cancel_twice(asking)
    assert asking.cancelled()

    async def lock() -> object:
        return await served.lock(key, SOMEBODY, "longpoll", live=False)

    for _ in range(10):
        assert await lock() is Refusal.REMOVING
        assert await served.remove(key) is Refusal.REMOVING
        assert object_path(store, key).is_file()
        await asyncio.sleep(0)
    disk.goes_on.set()
    await eventually(lambda: key.text not in served.manager._removing)
    assert await lock() is Refusal.NOT_PRESENT
    assert not object_path(store, key).exists()
    await served.aclose()


async def test_a_removal_whose_client_hung_up_keeps_locks_off_until_the_file_is_gone(
    serve: Serve, key: Key, disk: SlowDisk
) -> None:
    async with serve() as there:
        asking = asyncio.create_task(post(there.url, "remove", key=key.text))
        await eventually(lambda: disk.begun == 1)
        await cancel_twice(asking)  # which closes its connection
        reasons = []
        for _ in range(5):
            status, answer = await post(there.url, "lockcontent", key=key.text)
            assert (status, answer["locked"]) == (200, False)
            reasons.append(answer["reason"])
            assert object_path(there.store, key).is_file()
        assert all("being removed" in reason for reason in reasons), reasons
        disk.goes_on.set()
        async with asyncio.timeout(BOUND):
            while "being removed" in answer["reason"]:
                _, answer = await post(there.url, "lockcontent", key=key.text)
        assert "not present" in answer["reason"]
        assert not object_path(there.store, key).exists()
        assert there.locks == 0


@pytest.mark.kinds("directory")
@pytest.mark.parametrize("requester", ["waits", "is cancelled"])
async def test_a_store_is_let_go_only_when_its_removals_have_ended(
    store: Path, clock: FakeClock, key: Key, disk: SlowDisk, requester: str
) -> None:
    served = await served_at(store, clock)
    asking = asyncio.create_task(served.remove(key))
    await eventually(lambda: disk.begun == 1)
    if requester == "is cancelled":
        await cancel_twice(asking)
    closing = asyncio.create_task(served.aclose())
    for _ in range(20):
        await asyncio.sleep(0)
        assert not closing.done()
        with pytest.raises(RepositoryError, match="another process serves"):
            DirectoryRepository.open(store, Workers(), clock=clock)
    assert object_path(store, key).is_file()
    disk.goes_on.set()
    async with asyncio.timeout(BOUND):
        await closing
    assert not object_path(store, key).exists()
    await DirectoryRepository.open(store, Workers(), clock=clock).aclose()
    if requester == "waits":
        assert await asking is None


async def test_a_removal_that_fails_after_its_requester_went_away_lets_locks_in_again(
    store: Path, clock: FakeClock, key: Key, disk: SlowDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    unlink = os.unlink

    def broken(path: str | os.PathLike[str]) -> None:
        if Path(path) == object_path(store, key):
            raise OSError(5, "Input/output error")
        unlink(path)

    served = await served_at(store, clock)
    asking = asyncio.create_task(served.remove(key))
    await eventually(lambda: disk.begun == 1)
    await cancel_twice(asking)
    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", broken)
        disk.goes_on.set()
        await eventually(lambda: not served._removals)
    lock = await served.lock(key, SOMEBODY, "longpoll", live=False)
    assert not isinstance(lock, Refusal)
    assert object_path(store, key).is_file()
    await served.aclose()


# -- remove-before ---------------------------------------------------------------------------------


async def test_remove_before_is_judged_when_it_deletes_not_when_it_was_asked(
    serve: Serve, keys: list[Key], disk: SlowDisk
) -> None:
    """All workers are busy, and the time goes by in the queue."""
    async with serve(jobs=2) as there:
        others = [put(there.store, f"busy {number}".encode()) for number in range(2)]
        busy = [asyncio.create_task(post(there.url, "remove", key=key.text)) for key in others]
        await eventually(lambda: disk.begun == 2)
        asked = [
            asyncio.create_task(
                post(
                    there.url,
                    "remove-before",
                    key=key.text,
                    timestamp=str(int(there.clock()) + seconds),
                )
            )
            for key, seconds in ((keys[0], 30), (keys[1], 3600))
        ]
        await eventually(lambda: {key.text for key in keys[:2]} <= there.served.manager._removing)
        there.clock.advance(60)
        disk.goes_on.set()
        late, in_time = [await each for each in asked]
        assert late[0] == 200
        assert late[1]["removed"] is False
        assert "is over" in late[1]["reason"]
        assert object_path(there.store, keys[0]).is_file()
        assert in_time == (200, {"removed": True, "plusuuids": []})
        assert not object_path(there.store, keys[1]).exists()
        for each in busy:
            assert await each == (200, {"removed": True, "plusuuids": []})
        # What came too late has let go of the key.
        assert (await post(there.url, "lockcontent", key=keys[0].text))[1]["locked"]


async def test_remove_before_is_judged_after_a_wait_for_the_disk(
    serve: Serve, key: Key, disk: SlowDisk
) -> None:
    async with serve() as there:
        until = str(int(there.clock()) + 30)
        asked = asyncio.create_task(post(there.url, "remove-before", key=key.text, timestamp=until))
        await eventually(lambda: disk.begun == 1)
        there.clock.advance(60)
        disk.goes_on.set()
        status, answer = await asked
        assert (status, answer["removed"]) == (200, False)
        assert object_path(there.store, key).is_file()


# -- what is no file -------------------------------------------------------------------------------


async def test_a_fifo_in_the_place_of_an_object_is_absent_and_holds_nothing_up(
    serve: Serve, keys: list[Key]
) -> None:
    fifo, good, *_ = keys
    async with serve() as there, aiohttp.ClientSession() as http:
        path = object_path(there.store, fifo)
        thaw(path)
        path.unlink()
        os.mkfifo(path)

        async def download(key: Key) -> int:
            url = f"{there.url.removeprefix('annex+')}/v4/key/{key}"
            async with http.get(URL(url, encoded=True)) as response:
                await response.read()
                return response.status

        try:
            async with asyncio.timeout(10):
                # More than there are threads of any kind: one that hung would be missed.
                answers = await asyncio.gather(*(download(fifo) for _ in range(60)))
                assert set(answers) == {404}
                assert await download(good) == 200
                answer = await post(there.url, "checkpresent", key=fifo.text)
                assert answer == (200, {"present": False})
                _, answer = await post(there.url, "lockcontent", key=fifo.text)
                assert answer["locked"] is False
                assert "not present" in answer["reason"]
                assert (await post(there.url, "lockcontent", key=good.text))[1]["locked"]
                assert (await post(there.url, "remove", key=keys[2].text))[1]["removed"]
        finally:
            # Whoever waits for a writer after all, has one that goes away.
            if path.exists():
                os.close(os.open(path, os.O_RDWR | os.O_NONBLOCK))


@pytest.mark.kinds("directory")
async def test_what_cannot_be_looked_at_is_not_said_to_be_removed(serve: Serve, key: Key) -> None:
    """A loop of symbolic links stands for any fault of the disk that hides the content."""
    async with serve() as there:
        above = object_path(there.store, key).parent.parent
        above.rename(there.store / "tmp")
        above.symlink_to(above)
        status, answer = await post(there.url, "remove", key=key.text)
        assert status == 500
        assert "cannot remove the content" in answer["error"]
        above.unlink()
        (there.store / "tmp").rename(above)
        assert await post(there.url, "checkpresent", key=key.text) == (200, {"present": True})
