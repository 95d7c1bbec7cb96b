"""The load of a soak: clients of every kind at one server, until they are told to stop."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import aiohttp
from yarl import URL

from locklane_bench.soak.cutoff import Strangers
from locklane_client import Client, LocklaneError
from locklane_client.address import Address
from locklane_client.wire import key_request, request_path

SIZES = (1_000, 20_000, 20_000, 300_000, 2_000_000)
"""Bytes of what is uploaded."""

ROUNDS = 20
"""What one client does until there is a new one, with new connections."""

AT_ONCE = 4
"""Locks that one client holds at a time."""

HOLD_SECONDS = 0.02
"""The most that one is held."""

INTERRUPT_SECONDS = 0.03
"""When a client is interrupted, at the latest."""


class SoakError(Exception):
    """A client did not get what it should; the text says which, and what it got."""


def key_for(content: bytes) -> str:
    """The key of some content."""
    return f"SHA256E-s{len(content)}--{hashlib.sha256(content).hexdigest()}.bin"


class Load:
    """Clients of one server.

    :param url: the repository's.
    :param transports: lock transports that it offers.
    :param keys: of content that is there and stays.
    :param large: a key of large content, that stays too.
    :param scratch: an empty directory, for what clients send and get.
    :param seed: decides on what each does.
    """

    def __init__(
        self,
        url: str,
        transports: Sequence[str],
        keys: list[str],
        large: str,
        scratch: Path,
        seed: int,
    ) -> None:
        self.done: Counter[str] = Counter()
        """Rounds of each kind of client."""
        self._url = url
        self._address = Address.parse(url)
        self._transports = list(transports)
        self._keys = keys
        self._large = large
        self._scratch = scratch
        self._chance = random.Random(seed)
        self._clients: set[Client] = set()
        self._gone = 0
        self._partial = {key_for(each): each for each in self._contents(8, 1_000_000)}
        self._strangers = Strangers(self._address, keys, large, self._partial)
        self._files = 0

    @property
    def requests(self) -> int:
        """Sent so far, by all."""
        own = sum(client.counts.requests + client.counts.messages // 2 for client in self._clients)
        return self._gone + own + self._strangers.requests

    async def run(self, seconds: float) -> None:
        """Let them all work for so long, and go.

        :raises SoakError: one did not get what it should.
        """
        end = asyncio.get_running_loop().time() + seconds
        kinds: list[tuple[str, Callable[[], Awaitable[None]]]] = [
            ("uploads, downloads and removals", self._transfers),
            ("uploads, downloads and removals", self._transfers),
            ("clients interrupted", self._interrupted),
            ("clients cut off", self._strangers.cut_off),
            ("clients cut off", self._strangers.cut_off),
            ("clients with garbage", self._strangers.garbage),
        ]
        kinds += [(f"locks over {each}", self._locks_over(each)) for each in self._transports]
        try:
            async with asyncio.TaskGroup() as group:
                for kind, work in kinds:
                    group.create_task(self._repeat(kind, work, end))
        except* (LocklaneError, OSError) as errors:
            error = errors.exceptions[0]
            raise SoakError(f"{self._url}: {type(error).__name__}: {error}") from error

    async def _repeat(self, kind: str, work: Callable[[], Awaitable[None]], end: float) -> None:
        while asyncio.get_running_loop().time() < end:
            await work()
            self.done[kind] += 1

    @asynccontextmanager
    async def _client(self, transport: str = "longpoll") -> AsyncIterator[Client]:
        async with Client(self._url, transport=transport) as client:
            self._clients.add(client)
            try:
                yield client
            finally:
                self._clients.discard(client)
                self._gone += client.counts.requests + client.counts.messages // 2

    def _contents(self, count: int, size: int) -> list[bytes]:
        return [self._chance.randbytes(size) for _ in range(count)]

    def _new_file(self) -> Path:
        self._files += 1
        return self._scratch / f"{self._files}"

    # -- those who do as they should ---------------------------------------------------------------

    async def _transfers(self) -> None:
        async with self._client(self._chance.choice(self._transports)) as client:
            for _ in range(ROUNDS):
                await self._transfer(client)

    async def _transfer(self, client: Client) -> None:
        [content] = self._contents(1, self._chance.choice(SIZES))
        key, sent, got = key_for(content), self._new_file(), self._new_file()
        sent.write_bytes(content)
        try:
            await client.put(key, sent)
            _expect(await client.check_present(key), f"{key} was uploaded, and is not there")
            async with client.lock(key):
                await client.get(key, got)
                await self._range(key, content)
            await client.confirmed()
            if self._chance.random() < 0.5:
                await client.remove(key)
            else:
                await client.remove_before(key, await client.timestamp() + 60)
            _expect(not await client.check_present(key), f"{key} was removed, and is there")
        finally:
            sent.unlink()
            got.unlink(missing_ok=True)

    async def _range(self, key: str, content: bytes) -> None:
        begin = self._chance.randrange(len(content))
        end = self._chance.randrange(begin, len(content))
        path = request_path(self._address.uuid, 4, key_request(key), clientuuid="soak")
        headers = {"Range": f"bytes={begin}-{end}"}
        async with (
            aiohttp.ClientSession() as http,
            http.get(URL(self._address.http_base + path, encoded=True), headers=headers) as answer,
        ):
            self._gone += 1
            came = await answer.read()
        _expect(
            answer.status == 206 and came == content[begin : end + 1],
            f"a range of {key} came wrong, with {answer.status}",
        )

    def _locks_over(self, transport: str) -> Callable[[], Awaitable[None]]:
        async def lock(client: Client) -> None:
            for _ in range(ROUNDS):
                async with client.lock(self._chance.choice(self._keys)):
                    await asyncio.sleep(self._chance.uniform(0, HOLD_SECONDS))

        async def work() -> None:
            async with self._client(transport) as client:
                await asyncio.gather(*(lock(client) for _ in range(AT_ONCE)))
                unconfirmed = await client.confirmed()
                _expect(not unconfirmed, f"{unconfirmed} unlocks over {transport} unconfirmed")

        return work

    # -- those who are interrupted -----------------------------------------------------------------

    async def _interrupted(self) -> None:
        async with self._client(self._chance.choice(self._transports)) as client:
            file = self._new_file()
            key, content = self._chance.choice(list(self._partial.items()))
            works: list[Callable[[], Coroutine[None, None, object]]] = [
                lambda: client.get(self._large, file),
                lambda: self._hold(client),
                lambda: client.put(key, file),
            ]
            work = self._chance.randrange(len(works))
            if puts := work == len(works) - 1:
                file.write_bytes(content)
            task = asyncio.create_task(works[work]())
            await asyncio.sleep(self._chance.uniform(0, INTERRUPT_SECONDS))
            task.cancel()
            with suppress(asyncio.CancelledError, LocklaneError):
                await task
            if puts:
                with suppress(LocklaneError):
                    await client.remove(key)
            for each in (file, file.with_name(f"{file.name}.part")):
                each.unlink(missing_ok=True)

    async def _hold(self, client: Client) -> None:
        async with client.lock(self._chance.choice(self._keys)):
            await asyncio.sleep(self._chance.uniform(0, HOLD_SECONDS))


def _expect(so: bool, otherwise: str) -> None:
    if not so:
        raise SoakError(otherwise)
