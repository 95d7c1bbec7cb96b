"""Downloads as seen on the wire: one after the other on a connection, readers that are slow or
vanish, and what a server does meanwhile. On every kind of repository."""

from __future__ import annotations

import asyncio
import json
import os
import random
from pathlib import Path

import pytest
from conftest import ABSENT, BOUND, Serve, eventually, key_of, object_path, post, put
from kinds import both
from rawhttp import leaves_nothing_open, request, wire
from test_put import fetched, upload

from locklane_client import Key

pytestmark = both

BIG = random.Random(5).randbytes(16 * 2**20)
"""More than there is room for on the way to a client that does not read."""


@pytest.fixture
def big(store: Path) -> Key:
    return put(store, BIG)


async def test_after_a_big_download_its_connection_is_good_for_more(serve: Serve, big: Key) -> None:
    async with serve() as there, wire(there) as connection:
        for _ in range(3):
            connection.head("GET", request("key", big))
            assert (await connection.answer()).body == BIG
            connection.head("POST", request("checkpresent", big), length=0)
            assert (await connection.answer()).body == b'{"present":true}'
        assert there.server.connections_opened == 1


async def test_requests_that_are_sent_all_at_once_are_answered_in_turn(
    serve: Serve, big: Key, keys: list[Key]
) -> None:
    async with serve() as there, wire(there) as connection:
        for _ in range(2):
            for key in (big, *keys):
                connection.head("GET", request("key", key))
            connection.head("GET", request("key", ABSENT))
            connection.head("GET", request("key", big), "Range: bytes=1000000-9999999")
            connection.head("HEAD", request("key", big))
            connection.head("POST", request("checkpresent", ABSENT), length=0)
        for _ in range(2):
            assert (await connection.answer()).body == BIG
            for key in keys:
                answer = await connection.answer()
                assert answer.body == object_path(there.store, key).read_bytes()
            assert (await connection.answer()).status == 404
            assert (await connection.answer()).body == BIG[1_000_000:10_000_000]
            assert (await connection.answer(bodiless=True))["Content-Length"] == str(len(BIG))
            assert json.loads((await connection.answer()).body) == {"present": False}


async def test_connection_close_is_honoured_after_the_last_byte(serve: Serve, big: Key) -> None:
    async with serve() as there, wire(there) as connection:
        connection.head("GET", request("key", big), "Connection: close")
        assert (await connection.answer()).body == BIG
        assert await connection.end() == b""


async def test_slow_readers_keep_no_worker_from_others(serve: Serve, big: Key) -> None:
    """There is one worker, and more downloads wait for their readers than there are."""
    async with serve(jobs=1) as there, leaves_nothing_open(there), asyncio.timeout(BOUND):
        others_done = asyncio.Event()
        async with asyncio.TaskGroup() as readers:

            async def read_slowly() -> None:
                async with wire(there) as connection:
                    connection.head("GET", request("key", big))
                    while await connection.line():
                        pass
                    begin = await connection.reader.readexactly(1000)
                    await others_done.wait()
                    assert begin + await connection.reader.readexactly(len(BIG) - 1000) == BIG

            tasks = [readers.create_task(read_slowly()) for _ in range(5)]
            await eventually(lambda: there.server._api.in_progress == 5)
            content = BIG[:3_000_000]
            assert (await upload(there, key_of(content), content))[0] == 200
            assert await fetched(there, big) == BIG
            _, answer = await post(there.url, "lockcontent", key=big.text)
            unlocked = await post(
                there.url, "keeplocked", lockid=answer["lockid"], body=b'{"unlock":true}'
            )
            assert unlocked == (200, {"locked": False})
            assert not any(task.done() for task in tasks)
            others_done.set()


@pytest.mark.parametrize("read", [0, 1000, 5_000_000])
async def test_a_reader_that_vanishes_leaves_nothing_open(
    serve: Serve, big: Key, read: int
) -> None:
    async with serve(jobs=1) as there, leaves_nothing_open(there):
        for _ in range(5):
            async with wire(there) as connection:
                connection.head("GET", request("key", big))
                if read:
                    while await connection.line():
                        pass
                    await connection.reader.readexactly(read)
                else:
                    await connection.writer.drain()
                connection.vanish()
        assert await fetched(there, big) == BIG


async def test_a_server_that_stops_ends_a_download_that_nobody_reads(
    serve: Serve, big: Key
) -> None:
    async with serve() as there, wire(there) as connection:
        connection.head("GET", request("key", big))
        assert (await connection.line()).endswith(" 200 OK")
        await eventually(lambda: there.server._api.in_progress == 1)
    # Leaving the server behind has not waited for the client, which has read nothing.
    assert there.workers.busy == 0


async def test_many_downloads_at_once_come_whole(serve: Serve, big: Key, keys: list[Key]) -> None:
    async with serve(jobs=2) as there, leaves_nothing_open(there):
        every = [big, *keys] * 4
        bodies = await asyncio.gather(*(fetched(there, key) for key in every))
        for key, body in zip(every, bodies, strict=True):
            assert body == object_path(there.store, key).read_bytes()


async def test_content_that_the_page_cache_does_not_have_comes_whole(
    serve: Serve, big: Key
) -> None:
    """Then it is read from the disk, in a worker."""
    async with serve() as there:
        for count in (1, 900, 65536, len(BIG)):
            path = object_path(there.store, big)
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(descriptor)
            async with wire(there) as connection:
                connection.head("GET", request("key", big), f"Range: bytes=0-{count - 1}")
                assert (await connection.answer()).body == BIG[:count]
