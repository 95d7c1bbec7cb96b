"""A thousand operations of all kinds, eight at a time, many of them cut off, with git-annex at work
in the same repository: what is there is right, and all records agree with it."""

from __future__ import annotations

import asyncio
import hashlib
import http.client
import os
import random
import socket
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

import pytest
from annexes import Annex, Locklane, Serving, annex, home, locklane
from annexwire import Api, Upload
from conftest import eventually

from locklane_client import Client, LocklaneError, LockRefused
from locklane_client.errors import NotPresent, ProtocolViolation, RemovalRefused
from locklane_client.key import Key

__all__ = ["annex", "home", "locklane"]

WORKERS = 8
OPERATIONS = 125
"""Of each worker."""

KEYS = 24
LOSING = 3
"""The first so many keys also have locks that are lost, after which nobody can remove them."""

SEED = int(os.environ.get("LOCKLANE_SEED", "20261122"))
"""Set it in the environment to repeat a run, or to make another."""

SIZES = [0, 1, 100, 5000, 65536, 200_000, 1_100_000]


def make(number: int, rng: random.Random) -> tuple[Key, bytes]:
    """A key of one of some backends, and its content."""
    content = rng.randbytes(SIZES[number % len(SIZES)]) + b"%d" % number
    match number % 4:
        case 0:
            name = f"WORM-s{len(content)}-m1--a b&c%{number}"
        case 1:
            name = f"SHA1E-s{len(content)}--{hashlib.sha1(content).hexdigest()}.dat"
        case _:
            name = f"SHA256E-s{len(content)}--{hashlib.sha256(content).hexdigest()}.dat"
    return Key.parse(name), content


class Worker:
    """One of those who work at the same time, with a client of its own."""

    def __init__(
        self, number: int, server: Locklane, contents: dict[Key, bytes], directory: Path
    ) -> None:
        self.rng = random.Random(SEED * 1000 + number)
        self.api = Api(server.url, f"{number:08x}-0000-4000-8000-00000000c11e")
        transport = ("longpoll", "websocket")[number % 2]
        self.client = Client(server.url, transport=transport, client_uuid=self.api.client)
        self.contents = contents
        self.keys = list(contents)
        self.file = directory / f"file{number}"
        self.done: Counter[str] = Counter()

    async def work(self) -> Counter[str]:
        operations: list[Callable[[Key], Awaitable[str]]] = [
            *(self.put, self.put, self.put, self.put_by_client, self.put_wrong),
            *(self.put_in_part, self.put_in_part, self.resume, self.resume),
            *(self.get, self.get_by_client, self.get_in_part),
            *(self.remove, self.remove, self.remove_by_client),
            *(self.lock, self.lock, self.lose_lock),
        ]
        async with self.client:
            for _ in range(OPERATIONS):
                operation = self.rng.choice(operations)
                key = self.rng.choice(self.keys)
                outcome = await operation(key)
                self.done[f"{operation.__name__}: {outcome}"] += 1
        return self.done

    async def put(self, key: Key) -> str:
        status, answer = await asyncio.to_thread(self.api.put, key, self.contents[key])
        assert status in (200, 409), answer
        return str(status)

    async def put_by_client(self, key: Key) -> str:
        self.file.write_bytes(self.contents[key])
        try:
            await self.client.put(key, self.file)
        except LocklaneError as error:
            if "being transferred" not in str(error):  # by somebody else
                raise
            return "refused"
        return "stored"

    async def put_wrong(self, key: Key) -> str:
        wrong = bytes([self.contents[key][0] ^ 1]) + self.contents[key][1:]
        if key.backend == "WORM":
            wrong += b"x"
        status, _ = await asyncio.to_thread(self.api.put, key, wrong)
        assert status in (200, 409, 422)  # 200: it is there already
        return str(status)

    async def put_in_part(self, key: Key) -> str:
        return await asyncio.to_thread(self._put_in_part, key)

    def _put_in_part(self, key: Key) -> str:
        content = self.contents[key]
        length = len(content) if self.rng.random() < 0.5 else None
        with suppress(OSError):  # who is refused may be cut off
            upload = Upload(self.api, key, len(content), length=length)
            upload.send(content[: self.rng.randrange(len(content))])
            if self.rng.random() < 0.5:
                upload.reset()
            else:
                upload.cut()
        return "cut"

    async def resume(self, key: Key) -> str:
        _, answer = await asyncio.to_thread(self.api.post, "putoffset", key=key)
        if answer.get("alreadyhave"):
            return "there"
        offset = answer["offset"]
        rest = self.contents[key][offset:]
        status, answer = await asyncio.to_thread(self.api.put, key, rest, offset=offset)
        assert status in (200, 409), answer
        return f"{status}{' later' if offset else ''}"

    async def get(self, key: Key) -> str:
        status, body = await asyncio.to_thread(self.api.get, key)
        assert status in (200, 404)
        assert status == 404 or body == self.contents[key]
        return str(status)

    async def get_by_client(self, key: Key) -> str:
        self.file.unlink(missing_ok=True)
        try:
            await self.client.get(key, self.file)
        except NotPresent:
            return "absent"
        except ProtocolViolation as error:
            if "and yet that the content is present" not in str(error):  # just now, then
                raise
            return "came"
        assert self.file.read_bytes() == self.contents[key]
        return "got"

    async def get_in_part(self, key: Key) -> str:
        return await asyncio.to_thread(self._get_in_part, key)

    def _get_in_part(self, key: Key) -> str:
        host, port = self.api.host.split(":")
        with suppress(OSError), socket.create_connection((host, int(port)), 20) as connection:
            path = self.api.target(f"key/{quote(key.text, safe='')}")
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            connection.recv(self.rng.randrange(1, 70_000))
        return "cut"

    async def remove(self, key: Key) -> str:
        answer = await asyncio.to_thread(self.api.remove, key)
        assert answer["removed"] or answer["reason"]
        return str(answer["removed"])

    async def remove_by_client(self, key: Key) -> str:
        timestamp = await self.client.timestamp()
        try:
            await self.client.remove_before(key, timestamp + self.rng.choice([-5, 60]))
        except RemovalRefused:
            return "refused"
        return "removed"

    async def lock(self, key: Key) -> str:
        try:
            async with self.client.lock(key):
                for _ in range(3):
                    assert await self.client.check_present(key), "gone, though it is locked"
                    await asyncio.sleep(self.rng.random() / 100)
        except LockRefused:
            return "refused"
        return "held"

    async def lose_lock(self, _: Key) -> str:
        key = self.rng.choice(self.keys[:LOSING])
        _, answer = await asyncio.to_thread(self.api.post, "lockcontent", key=key)
        if not answer["locked"]:
            return "refused"
        assert await asyncio.to_thread(self.api.present, key)
        return "lost"


async def git_annex_at_work(annex: Annex, keys: list[Key]) -> int:
    """Drops, and looks after the repository, meanwhile."""
    rng = random.Random(SEED)
    for number in range(16):
        key = rng.choice(keys)
        if number % 4:
            await asyncio.to_thread(annex.drop, key)
        else:
            done = await asyncio.to_thread(annex.attempt, "git", "annex", "merge")
            assert done.returncode == 0, done.stderr
    return 16


@pytest.mark.timeout(180)
async def test_after_a_thousand_operations_all_is_sound(
    annex: Annex, locklane: Serving, tmp_path: Path
) -> None:
    """What git-annex finds on the disk is what its records say, here and in a clone; every byte is
    right; no lock, transfer or partial file stands in anybody's way."""
    sys.stdout.write(f"LOCKLANE_SEED={SEED}\n")  # which pytest shows if this fails
    rng = random.Random(SEED)
    contents = dict(make(number, rng) for number in range(KEYS))
    keys = list(contents)
    server = locklane(annex)
    workers = [Worker(number, server, contents, tmp_path) for number in range(WORKERS)]
    *done, _ = await asyncio.gather(
        *(worker.work() for worker in workers), git_annex_at_work(annex, keys)
    )
    counts = sum(done, Counter[str]())
    sys.stdout.write(f"{dict(sorted(counts.items()))}\n")
    assert counts.total() == WORKERS * OPERATIONS
    server.terminate()
    assert await server.ended() == 0
    assert "Traceback" not in server.output
    assert "ERROR" not in server.output, server.output

    here = {key for key in keys if key.file_name in annex.objects()}
    assert {key.text for key in here} == annex.recorded()
    for name in annex.objects():
        # Beside content there is something only where a lock was lost.
        assert name in {key.file_name for key in here} or name.startswith(
            tuple(f"{key.file_name}." for key in keys[:LOSING])
        )
    assert not annex.transfers()
    clone = annex.clone("clone")
    assert clone.recorded_in(annex.uuid) == annex.recorded()

    again = locklane(annex)
    for key, content in contents.items():
        offset = again.api.post("putoffset", key=key)[1].get("offset", 0)
        assert again.api.put(key, content[offset:], offset=offset)[0] == 200
        assert again.api.get(key) == (200, content)
    again.terminate()
    assert await again.ended() == 0
    assert annex.recorded() == {key.text for key in keys}
    assert not list((annex.git_directory / "annex/tmp").iterdir())
    annex.know(*keys)
    annex.fsck()


def test_who_stores_and_who_removes_at_once_leave_a_record_that_is_so(
    annex: Annex, locklane: Serving
) -> None:
    """Of one key, over and over: the last one's record counts, and it is of what is on the disk."""
    keys = [make(number, random.Random(SEED)) for number in (1, 2, 3)]
    server = locklane(annex)

    def change(number: int) -> int:
        key, content = keys[number % 3]
        if number // 3 % 2:
            return int(server.api.remove(key)["removed"])
        status, answer = server.api.put(key, content)
        assert status in (200, 409), answer
        return status

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(change, range(480))) <= {0, 1, 200, 409}
    server.terminate()
    assert server.wait() == 0
    here = {key.text for key, _ in keys if key.file_name in annex.objects()}
    assert annex.recorded() == here


async def test_a_server_that_is_killed_again_and_again_harms_nothing(
    annex: Annex, locklane: Serving
) -> None:
    """``kill -9`` at any moment of uploads and removals: what is in place is right, and what is
    uploaded once more is recorded, whatever the killed server had come to."""
    rng = random.Random(SEED)
    contents = dict(make(number, rng) for number in range(40))

    async def change(api: Api, keys: list[Key]) -> None:
        with suppress(OSError, ValueError, http.client.HTTPException):  # when it is killed
            for key in keys:
                if rng.random() < 0.7:
                    await asyncio.to_thread(api.put, key, contents[key])
                else:
                    await asyncio.to_thread(api.remove, key)

    for _ in range(6):
        server = locklane(annex)
        keys = rng.sample(list(contents), len(contents))
        changing = [asyncio.create_task(change(server.api, keys[each::4])) for each in range(4)]
        await asyncio.sleep(rng.random() / 4)
        server.kill()
        await asyncio.gather(*changing)
        by_name = {key.file_name: content for key, content in contents.items()}
        for place in (annex.git_directory / "annex/objects").rglob("*"):
            if place.is_file() and not place.name.endswith(".lck"):
                assert place.read_bytes() == by_name[place.name]
    last = locklane(annex)
    for key, content in contents.items():
        offset = last.api.post("putoffset", key=key)[1].get("offset", 0)
        assert last.api.put(key, content[offset:], offset=offset)[0] == 200
    last.terminate()
    assert await last.ended() == 0
    assert annex.recorded() == {key.text for key in contents}
    assert annex.objects() >= {key.file_name for key in contents}
    annex.know(*contents)
    annex.fsck()


async def test_a_client_error_is_no_error_of_the_servers(annex: Annex, locklane: Serving) -> None:
    """Uploads and downloads that are cut off leave no descriptor open, and no line of complaint."""
    key = annex.add(os.urandom(300_000))
    server = locklane(annex)
    api = server.api
    api.get(key)
    before = len(server.open_files())
    other = Key.parse(f"SHA256E-s{key.size}--{'0' * 64}.dat")
    for length in range(0, 300_000, 30_000):
        upload = Upload(api, other, 300_000, length=300_000)
        upload.send(b"x" * length)
        upload.reset()
    with pytest.raises(LocklaneError):
        async with Client(server.url) as client:
            await client.get(other, annex.home / "file")
    # The server notices a reset on its own time, and puts its things away after that.
    await eventually(lambda: len(server.open_files()) <= before + 1 and not annex.transfers())
    assert "ERROR" not in server.output
