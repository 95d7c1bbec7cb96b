"""Clients that no server deserves: some are cut off in the middle of a request, of an answer or of
a hold; some send garbage. By hand, over bare connections."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import random
import re
import socket
import struct
from collections.abc import Awaitable, Callable
from contextlib import suppress

from locklane_client import multiplexed
from locklane_client.address import Address
from locklane_client.wire import DATA_LENGTH, KEEP, UNLOCK, key_request, request_path

PATIENCE_SECONDS = 20.0
"""How long what is waited for may take to come."""

IMPATIENCE_SECONDS = 0.05
"""How long a client waits for an answer that may not come."""

CLIENT_UUID = "8a6d2b4e-0000-4000-8000-00000000c0ff"

_LOCK_ID = re.compile(rb'"lockid":"([^"]+)"')


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _message(text: bytes) -> bytes:
    """A short text message of a websocket, masked with zeros (RFC 6455, 5.2)."""
    size = len(text)
    length = bytes([0x80 | size]) if size < 126 else struct.pack("!BH", 0x80 | 126, size)
    return b"\x81" + length + bytes(4) + text


class Strangers:
    """All of them, at one server.

    :param address: of the repository.
    :param keys: whose content is there, and stays.
    :param large: the key of a large one.
    :param uploads: keys that may be uploaded in part, with their content.
    """

    def __init__(
        self, address: Address, keys: list[str], large: str, uploads: dict[str, bytes]
    ) -> None:
        self.requests = 0
        """That they began."""
        self._address = address
        self._keys = keys
        self._large = large
        self._uploads = uploads
        self._chance = random.Random(5)
        self._cuts = (
            self._head,
            self._put,
            self._download,
            self._keeplocked,
            self._lockhold,
            self._websocket,
            self._multiplex,
        )

    async def cut_off(self) -> None:
        """One that is cut off, in one of the ways there are."""
        await self._visit(self._chance.choice(self._cuts))

    async def garbage(self) -> None:
        """One that sends garbage, and looks for a moment what comes of it."""

        async def send(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(self._any_garbage())
            async with asyncio.timeout(IMPATIENCE_SECONDS):
                while await reader.read(65536):
                    pass

        await self._visit(send)

    async def _visit(
        self, visit: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
    ) -> None:
        reader, writer = await asyncio.open_connection(self._address.host, self._address.port)
        self.requests += 1
        with suppress(OSError, TimeoutError, asyncio.IncompleteReadError):
            await visit(reader, writer)
        if self._chance.random() < 0.5:  # else a FIN
            there = writer.get_extra_info("socket")
            there.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()

    def _request(self, method: str, what: str, *headers: str, **parameters: str | int) -> bytes:
        path = request_path(self._address.uuid, 4, what, **parameters, clientuuid=CLIENT_UUID)
        lines = [f"{method} {self._address.base}{path} HTTP/1.1", "Host: h", *headers, "", ""]
        return "\r\n".join(lines).encode()

    def _upgrade(self, what: str, **parameters: str) -> bytes:
        nonce = base64.b64encode(os.urandom(16)).decode()
        return self._request(
            "GET",
            what,
            "Connection: Upgrade",
            "Upgrade: websocket",
            "Sec-WebSocket-Version: 13",
            f"Sec-WebSocket-Key: {nonce}",
            **parameters,
        )

    # -- cut off -----------------------------------------------------------------------------------

    async def _head(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = self._request("POST", "checkpresent", key=self._chance.choice(self._keys))
        writer.write(head[: self._chance.randrange(len(head))])
        await writer.drain()

    async def _put(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        key, content = self._chance.choice(list(self._uploads.items()))
        size = len(content)
        writer.write(
            self._request(
                "POST", "put", f"Content-Length: {size}", f"{DATA_LENGTH}: {size}", key=key
            )
            + content[: self._chance.randrange(size)]
        )
        await writer.drain()
        await asyncio.sleep(self._chance.uniform(0, 0.02))

    async def _download(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(self._request("GET", key_request(self._large)))
        await reader.readexactly(self._chance.randrange(1 << 20))

    async def _keeplocked(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        key = self._chance.choice(self._keys)
        writer.write(self._request("POST", "lockcontent", "Content-Length: 0", key=key))
        lock_id = await self._lock_id(reader)
        head = self._request("POST", "keeplocked", "Transfer-Encoding: chunked", lockid=lock_id)
        whole = head + _chunk(KEEP + b"\n")
        writer.write(whole[: self._chance.randrange(len(whole)) + 1])
        await writer.drain()
        await self._let_go(lock_id)

    async def _lockhold(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        key = self._chance.choice(self._keys)
        head = self._request("POST", "lockhold", "Transfer-Encoding: chunked", key=key)
        writer.write(head + _chunk(KEEP + b"\n"))
        await self._let_go(await self._lock_id(reader))

    async def _websocket(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(self._upgrade("lockcontent", key=self._chance.choice(self._keys)))
        await self._let_go(await self._lock_id(reader))

    async def _multiplex(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(self._upgrade(multiplexed.REQUEST))
        for number in range(3):
            key = self._chance.choice(self._keys)
            writer.write(_message(multiplexed.lock_request(number, key).encode()))
        lock_ids = [await self._lock_id(reader) for _ in range(3)]
        writer.write(_message(b'{"id":')[:5])
        for lock_id in lock_ids:
            await self._let_go(lock_id)

    async def _lock_id(self, reader: asyncio.StreamReader) -> str:
        """What the server calls the lock that it has just given."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                data = await reader.readuntil(b"}")
                if found := _LOCK_ID.search(data):
                    return str(json.loads(b'"%b"' % found[1]))

    async def _let_go(self, lock_id: str) -> None:
        """Unlock a lock over another connection: else its retention would be on the server's mind
        for ten minutes, and nothing flat."""
        body = UNLOCK + b"\n"
        reader, writer = await asyncio.open_connection(self._address.host, self._address.port)
        self.requests += 1
        try:
            writer.write(
                self._request("POST", "keeplocked", f"Content-Length: {len(body)}", lockid=lock_id)
                + body
            )
            async with asyncio.timeout(PATIENCE_SECONDS):
                await reader.readuntil(b"}")
        finally:
            writer.close()

    # -- garbage -----------------------------------------------------------------------------------

    def _any_garbage(self) -> bytes:
        key = self._chance.choice(self._keys)
        body = "Content-Length: 20"
        choices = (
            lambda: self._chance.randbytes(self._chance.randrange(1, 5000)),
            lambda: b"GET / HTTP/1.1\r\nX: " + b"y" * self._chance.randrange(1, 200_000),
            lambda: self._request("POST", "nonsense", body) + b"x" * 20,
            lambda: self._request("POST", "put", body, key="nokey") + b"x" * 20,
            lambda: self._request("POST", "put", body, f"{DATA_LENGTH}: 7", key=key) + b"x" * 20,
            lambda: self._request("HEAD", key_request(self._large)) * 5,
            lambda: self._request("GET", key_request(self._large), "Range: bytes=9-1,-,x"),
            lambda: self._request("POST", "lockhold", body, key=key[:-1]) + b"{" * 20,
            lambda: self._request("POST", "keeplocked", body, lockid="\udcff") + b"[" * 20,
            lambda: (
                self._request("POST", "checkpresent", "Transfer-Encoding: chunked", key=key)
                + b"-5\r\nabc"
            ),
            lambda: self._upgrade(multiplexed.REQUEST) + _message(b"no JSON"),
            lambda: self._upgrade(multiplexed.REQUEST) + self._chance.randbytes(300),
            lambda: self._upgrade("lockcontent", key=key[:-1]),
            lambda: self._request("POST", "checkpresent", "Content-Length: 0", key=key) * 100,
        )
        return self._chance.choice(choices)()
