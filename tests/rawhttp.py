"""HTTP/1.1 over a bare connection, for what clients would not do, or hide; and the files of a
server that have to be as they were afterwards."""

from __future__ import annotations

import asyncio
import re
import socket
import struct
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote_from_bytes, urlsplit

from conftest import BOUND, SOMEBODY, There, eventually

from locklane_client import Key

LENGTH = "X-git-annex-data-length"


@dataclass
class Answer:
    """What came back, as far as it came."""

    status: int
    reason: str
    headers: dict[str, str]
    """By their names in lower case."""
    body: bytes
    ended: bool = False
    """The connection ended before the body was whole."""

    def __getitem__(self, name: str) -> str | None:
        return self.headers.get(name.lower())


class Wire:
    """One connection."""

    def __init__(self, base: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter):
        self._base = base
        self.reader = reader
        self.writer = writer

    def head(self, method: str, request: str, *headers: str, **lengths: int) -> None:
        """Send the head of a request: what follows the UUID, and header lines."""
        lines = [f"{method} {self._base}/{request} HTTP/1.1", "Host: h", *headers]
        lines += [f"{_NAMES[name]}: {value}" for name, value in lengths.items()]
        self.writer.write("\r\n".join([*lines, "", ""]).encode())

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def line(self) -> str:
        """The next line of an answer's head."""
        async with asyncio.timeout(BOUND):
            return (await self.reader.readline()).decode().rstrip("\r\n")

    async def answer(self, *, bodiless: bool = False) -> Answer:
        """The next answer; what came of it, if the connection ends within it."""
        _, status, reason = (await self.line()).split(" ", 2)
        headers = {}
        while line := await self.line():
            name, _, value = line.partition(": ")
            headers[name.lower()] = value
        answer = Answer(int(status), reason, headers, b"")
        if not bodiless and status not in ("304", "204"):
            length = int(headers["content-length"])
            try:
                async with asyncio.timeout(BOUND):
                    answer.body = await self.reader.readexactly(length)
            except asyncio.IncompleteReadError as error:
                answer.body, answer.ended = error.partial, True
        return answer

    async def end(self) -> bytes:
        """All that comes until the server closes the connection."""
        async with asyncio.timeout(BOUND):
            return await self.reader.read()

    def vanish(self) -> None:
        """As a process that is killed with something unread: the server gets a reset."""
        linger = struct.pack("ii", 1, 0)
        there = self.writer.get_extra_info("socket")
        there.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.writer.transport.abort()


_NAMES = {"length": "Content-Length", "promised": LENGTH}


@asynccontextmanager
async def wire(there: There | str) -> AsyncIterator[Wire]:
    """A connection to a server. It takes little at once, so that a big answer waits for who reads
    it."""
    url = urlsplit(there if isinstance(there, str) else there.url)
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    connection.setblocking(False)
    await asyncio.get_running_loop().sock_connect(connection, (url.hostname, url.port))
    reader, writer = await asyncio.open_connection(sock=connection, limit=65536)
    try:
        yield Wire(url.path, reader, writer)
    finally:
        writer.transport.abort()


@asynccontextmanager
async def leaves_nothing_open(there: There) -> AsyncIterator[None]:
    """Whatever happens within, files, connections and workers are afterwards as before."""
    files = _open_files()
    yield
    await eventually(lambda: there.server._api.in_progress == 0)
    await eventually(lambda: there.workers.busy == 0)
    end = time.monotonic() + BOUND
    while more := _open_files() - files:
        assert time.monotonic() < end, f"still open: {more}"
        await asyncio.sleep(0.005)


_STAY = re.compile(r"^/(proc|dev)/|/annex/keysdb/db$")


def _open_files() -> Counter[str]:
    """What this process has open, by kind and name; without the pipes to git and the database of
    git-annex, which stay once they have been opened."""
    names: Counter[str] = Counter()
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # that of the listing itself
            name = str(descriptor.readlink())
            if name.startswith("socket:"):
                names["socket"] += 1
            elif name.startswith("/") and not _STAY.search(name):
                names[name] += 1
    return names


def request(name: str, key: Key, version: int = 4, **parameters: object) -> str:
    """A request about a key, as it follows the UUID in the path."""
    quoted = quote_from_bytes(key.text.encode("utf-8", "surrogateescape"), safe="")
    about = f"v{version}/key/{quoted}?" if name == "key" else f"v{version}/{name}?key={quoted}&"
    more = "".join(f"&{each.replace('_', '-')}={value}" for each, value in parameters.items())
    return f"{about}clientuuid={SOMEBODY}{more}"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


LAST_CHUNK = b"0\r\n\r\n"
