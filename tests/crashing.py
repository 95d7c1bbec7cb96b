"""A server that is killed again and again under a mixed load, and those who make the load.

Users upload, download, lock over every transport, drop their own copies in the shelter of a lock,
and remove from the server what they have themselves; the real git-annex gets, drops, copies and
moves in a clone meanwhile. :mod:`promises` keeps account of what they were told.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import subprocess
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from pathlib import Path

from annexes import Annex
from conftest import Process, eventually
from promises import Promises

from locklane_client import TRANSPORTS, Client, Key, LocklaneError
from locklane_client.errors import (
    LockLost,
    LockRefused,
    NotPresent,
    ProtocolViolation,
    PutRefused,
    RemovalRefused,
)
from locklane_server.locks import Refusal

OVER = [name for name in TRANSPORTS if name != "longpoll-http2"]
"""Every transport that needs no proxy; each has two users."""

REPOSITORIES = 3
"""Of users. Several have the same one, so that they get in each other's way."""

POOL = 30
"""Keys that the users work on at a time. One that is kept locked by the lock of a server that was
killed is put aside, and there is a new one for it."""

MOST_OPERATIONS = 80
"""What the users get done, at the most, before a server that has begun to serve is killed. (Counted
so, a slow machine has as much of it as a fast one.)"""


class Contents:
    """Files, and the keys of their content; made as they are needed, and not before."""

    def __init__(self, directory: Path, rng: random.Random) -> None:
        self._directory = directory
        self._rng = rng
        self.files: dict[Key, Path] = {}

    def new(self) -> Key:
        """A key that nobody has yet. Some are large, and one in eight cannot be verified."""
        number = len(self.files)
        most = self._rng.choices([2_000, 60_000, 4_000_000], [5, 3, 2])[0]
        content = b"%d " % number + self._rng.randbytes(self._rng.randrange(most))
        name = f"SHA256E-s{len(content)}--{hashlib.sha256(content).hexdigest()}.dat"
        if self._rng.random() < 1 / 8:
            name = f"WORM-s{len(content)}-m1--content {number}"
        return self.add(Key.parse(name), content)

    def add(self, key: Key, content: bytes) -> Key:
        path = self._directory / f"content{len(self.files)}"
        path.write_bytes(content)
        self.files[key] = path
        return key


class Crashing:
    """Servers, one after the other on one port, and all that goes on around them.

    :param start: starts one; it need not serve yet.
    :param seed: of everything that is chosen at random. (When things happen is not only up to it.)
    """

    def __init__(
        self,
        start: Callable[[], Process],
        url: str,
        directory: Path,
        *,
        seed: int,
        clone: Annex | None = None,
    ) -> None:
        self.url = url
        self.rng = random.Random(seed)
        self.contents = Contents(directory, self.rng)
        self.promises = Promises()
        self.pool: list[Key] = [self._new_key() for _ in range(POOL)]
        self.aside: list[Key] = []
        """Keys that stay locked."""
        self.shared: dict[str, Key] = {}
        """Files of the clone."""
        self.counts: Counter[str] = Counter()
        self.lives = 0
        """Servers killed, and one for each that began to serve."""
        self.serving = asyncio.Event()
        self.ended = False
        self._start = start
        self._clone = clone
        users = [User(self, name, number) for number, name in enumerate(OVER * 2)]
        self._users: list[Callable[[], Awaitable[None]]] = [user.work for user in users]
        if clone is not None:
            self._users.append(self._git_annex)

    def share(self, name: str, key: Key, content: bytes) -> None:
        """A file of the clone, whose content is on the server, and there alone."""
        self.contents.add(key, content)
        self.shared[name] = key
        self.promises.shown(key, time.monotonic())

    # -- the killing -------------------------------------------------------------------------------

    async def run(self, kills: int, say: Callable[[str], object] = lambda _: None) -> None:
        """Kill so many servers, while all the others go on; ends when what they do has ended."""
        async with asyncio.TaskGroup() as group:
            for work in self._users:
                group.create_task(work())
            for number in range(kills):
                early = self.rng.random() < 1 / 10
                server = self._start()
                try:
                    if early:
                        await asyncio.sleep(self.rng.uniform(0, 1.0))
                    else:
                        await server.prints("serving annex")
                        self.lives += 1
                        self.serving.set()
                        enough = self.counts.total() + self.rng.randrange(MOST_OPERATIONS)
                        await eventually(lambda enough=enough: self.counts.total() >= enough)
                        await asyncio.sleep(self.rng.uniform(0, 0.05))
                    assert server.running, server.output
                finally:
                    self.serving.clear()
                    self.lives += 1
                    server.kill()
                assert "Traceback" not in server.output, server.output
                self._put_aside()
                say(f"{number + 1} of {kills} killed, {len(self.aside)} keys stay locked")
            self.ended = True
            self.serving.set()  # for those who wait
        self._put_aside()

    def _put_aside(self) -> None:
        for number, key in enumerate(self.pool):
            if self.promises.stays_locked(key, 0):
                self.aside.append(key)
                self.pool[number] = self._new_key()

    def _new_key(self) -> Key:
        """One whose content is not on the server yet, but in two repositories of users."""
        key = self.contents.new()
        for number in self.rng.sample(range(REPOSITORIES), 2):
            self.promises.gets(key, f"repository {number}")
        return key

    def choose(self, rng: random.Random) -> Key:
        """A key to do something with: one that stays locked, now and then."""
        if rng.random() < 0.15 and (locked := [*self.aside[-20:], *self.shared.values()]):
            return rng.choice(locked)
        return rng.choice(self.pool)

    # -- git-annex ---------------------------------------------------------------------------------

    async def _git_annex(self) -> None:
        """The real one, in a clone."""
        assert self._clone is not None
        rng = random.Random(self.rng.random())
        words = {
            "get": ["get"],
            "drop": ["drop"],
            "copy": ["copy", "--to=origin"],
            "drop from": ["drop", "--from=origin"],
            "move to": ["move", "--to=origin"],
            "move from": ["move", "--from=origin"],
        }
        while not self.ended:
            await self.serving.wait()
            name, key = rng.choice([*self.shared.items()])
            what = rng.choice([*words])
            begun = time.monotonic()
            arguments = ["git", "annex", *words[what], name]
            if what.endswith("from"):
                with self.promises.removal(key):  # by whose outcome nobody can tell if it was one
                    done = await asyncio.to_thread(self._attempt, arguments)
            else:
                done = await asyncio.to_thread(self._attempt, arguments)
                if what == "copy" and done.returncode == 0 and "copy " in done.stdout:
                    self.promises.shown(key, begun)
            told = f"git annex {what}: {'done' if done.returncode == 0 else 'failed'}"
            self.counts[told] += 1
            self.promises.note(key, told, begun)

    def _attempt(self, arguments: list[str]) -> subprocess.CompletedProcess[str]:
        assert self._clone is not None
        return self._clone.attempt(*arguments)


class User:
    """Somebody with a repository of their own, and a client over one transport."""

    def __init__(self, crashing: Crashing, transport: str, number: int) -> None:
        self._all = crashing
        self._promises = crashing.promises
        self._transport = transport
        self._rng = random.Random(crashing.rng.random())
        self._number = number
        self._who = f"repository {number % REPOSITORIES}"
        self._client: Client

    async def work(self) -> None:
        operations: list[Callable[[Key], Awaitable[str]]] = [
            *(self.put, self.put, self.put, self.put_in_part, self.get),
            *(self.lock, self.lock, self.lock, self.drop, self.drop, self.lose_lock),
            *(self.remove, self.remove, self.remove_before, self.look),
        ]
        async with AsyncExitStack() as clients:
            self._client = await clients.enter_async_context(self._new_client())
            while not self._all.ended:
                await self._all.serving.wait()
                if self._all.ended:  # nobody serves any more
                    break
                operation = self._rng.choice(operations)
                key = self._all.choose(self._rng)
                life, begun = self._all.lives, time.monotonic()
                try:
                    outcome = await operation(key)
                except LocklaneError as error:
                    outcome = self._read(error, life)
                    if outcome == "cut off" and self._rng.random() < 0.3:
                        await clients.aclose()
                        self._client = await clients.enter_async_context(self._new_client())
                what = f"{operation.__name__}: {outcome}"
                self._all.counts[what] += 1
                self._promises.note(key, f"{self._who} over {self._transport}: {what}", begun)

    def _new_client(self) -> Client:
        return Client(self._all.url, transport=self._transport, answer_timeout=120)

    def _read(self, error: LocklaneError, life: int) -> str:
        """What an error says; one that is nobody's doing is a fault."""
        if self._all.lives != life or not self._all.serving.is_set():
            return "cut off"
        match error:
            case LockRefused():
                return "refused"
            case PutRefused() if "being transferred" in str(error):
                return "refused"
            case ProtocolViolation() if "and yet that the content is present" in str(error):
                return "came"
        raise error

    # -- content -----------------------------------------------------------------------------------

    async def put(self, key: Key) -> str:
        if not self._promises.has(key, self._who):
            return await self.get(key)
        begun = time.monotonic()
        await self._client.put(key, self._all.contents.files[key])
        self._promises.shown(key, begun)
        return "stored"

    async def put_in_part(self, key: Key) -> str:
        """Interrupted by its user."""
        try:
            async with asyncio.timeout(self._rng.random() / 20):
                return await self.put(key)
        except TimeoutError:
            return "interrupted"

    async def get(self, key: Key) -> str:
        begun = time.monotonic()
        content = self._all.contents.files[key]
        file = content.with_name(f"{content.name}.{self._number}")
        file.unlink(missing_ok=True)  # it may have been interrupted when all was done
        resumed = file.with_name(f"{file.name}.part").exists()
        try:
            await self._client.get(key, file)
        except NotPresent:
            self._promises.absent(key, begun)
            return "not there"
        assert file.read_bytes() == content.read_bytes(), f"what came is not the content of {key}"
        file.unlink()
        if not resumed:  # of a part that is all of it, the server may not have anything any more
            self._promises.shown(key, begun)
        self._promises.gets(key, self._who)
        return "got"

    async def look(self, key: Key) -> str:
        begun = time.monotonic()
        if await self._client.check_present(key):
            self._promises.shown(key, begun)
            return "there"
        self._promises.absent(key, begun)
        return "not there"

    # -- locks -------------------------------------------------------------------------------------

    async def lock(self, key: Key) -> str:
        """Hold one, and look meanwhile whether it is kept."""
        return await self._hold(key, self._rng.random() / 5)

    async def drop(self, key: Key) -> str:
        """Let go of one's own copy, because the server has to keep its."""
        with self._promises.own_copy(key, self._who) as mine:
            return await self._hold(key, 0, drop=True) if mine else "has none"

    async def _hold(self, key: Key, seconds: float, *, drop: bool = False) -> str:
        asked = time.monotonic()
        try:
            async with self._client.lock(key, interrupt=False) as lock:
                promise = self._promises.locked(key, asked)
                try:
                    if drop:
                        self._promises.drops(key, self._who)
                    with suppress(TimeoutError):
                        async with asyncio.timeout(seconds):
                            await lock.wait_lost()
                    if lock.lost is None and not drop:
                        await self.look(key)
                finally:
                    if lock.lost is None:
                        self._promises.unlocked(promise)
                    else:
                        promise.lost = True
        except LockRefused as error:
            if Refusal.NOT_PRESENT.value in str(error):
                self._promises.absent(key, asked)
            raise
        return "unlocked"

    async def lose_lock(self, key: Key) -> str:
        """By a client that goes away; not often, as the key is locked for the whole test then."""
        if self._rng.random() > 0.05 or key not in self._all.pool:
            return "not now"
        asked = time.monotonic()
        async with self._new_client() as client:
            with suppress(LockLost):
                async with client.lock(key, interrupt=False) as lock:
                    promise = self._promises.locked(key, asked)
                    await client.aclose()
                    assert lock.lost is not None
                    promise.lost = True
        return "left"

    # -- removal -----------------------------------------------------------------------------------

    async def remove(self, key: Key) -> str:
        return await self._remove(key, self._client.remove)

    async def remove_before(self, key: Key) -> str:
        end = await self._client.timestamp() + self._rng.choice([60, 60, -5])
        return await self._remove(key, lambda key: self._client.remove_before(key, end))

    async def _remove(self, key: Key, remove: Callable[[Key], Awaitable[object]]) -> str:
        """From the server, while one's own copy is locked. Who has none tries it with a key that
        stays locked."""
        with self._promises.own_copy(key, self._who) as mine:
            if not mine and not self._promises.stays_locked(key, 60):
                return "has none"
            with self._promises.removal(key) as removal:
                try:
                    await remove(key)
                    removal.removed = True
                except RemovalRefused:
                    removal.refused = True
                    return "refused"
        return "removed"
