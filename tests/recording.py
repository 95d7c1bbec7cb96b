"""What a client says, byte by byte, to be said again in part by one that vanishes."""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from collections.abc import Iterable

from conftest import BOUND, Line

MANNERS = ("RST", "FIN")
"""How a client goes: as a process that is killed with something unread, and as one that is not."""


class Recorder(Line):
    """Stands between a client and a server, and keeps what the client says."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.said: list[bytearray] = []
        """On each connection."""

    async def _connected(self, here: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        said = bytearray()
        self.said.append(said)
        feed = here.feed_data

        def keep(data: bytes) -> None:
            said.extend(data)
            feed(data)

        here.feed_data = keep  # type: ignore[method-assign]
        await super()._connected(here, back)


class Vanishing:
    """Clients of one server that send the beginning of something, and are gone.

    :param port: of the server, on this machine.
    :param tls: where it speaks TLS; what is sent goes past it all the same.
    """

    def __init__(self, port: int, tls: ssl.SSLContext | None = None) -> None:
        self._port = port
        self._tls = tls

    async def open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection as it should be."""
        return await asyncio.open_connection("127.0.0.1", self._port, ssl=self._tls)

    async def come_and_go(self, beginnings: Iterable[bytes], manner: str) -> None:
        """All at once: connect, send, wait until the server has read it, and go."""
        connections = await asyncio.gather(*(self._send(each) for each in beginnings))
        await self.read()
        for connection in connections:
            if manner == "FIN":
                connection.shutdown(socket.SHUT_WR)
            else:
                linger = struct.pack("ii", 1, 0)
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                connection.close()
        if manner == "FIN":  # to close would send a reset, if there is an answer that is not read
            await asyncio.gather(*(self._hang_up(each) for each in connections))

    async def _send(self, beginning: bytes) -> socket.socket:
        connection = socket.socket()
        connection.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(connection, ("127.0.0.1", self._port))
        await loop.sock_sendall(connection, beginning)
        return connection

    async def read(self) -> None:
        """Wait until the server has read all that was sent to it before: it takes what comes in
        turns."""
        for _ in range(2):
            reader, writer = await self.open()
            try:
                writer.write(b"GET /nothing HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
                async with asyncio.timeout(BOUND):
                    assert (await reader.read()).startswith(b"HTTP/1.1 404 ")
            finally:
                writer.close()

    async def come_and_go_secured(self, beginning: bytes, manner: str) -> None:
        """One, that what it sends goes over TLS."""
        _, writer = await self.open()
        writer.write(beginning)
        await writer.drain()
        await self.read()
        if manner == "FIN":
            writer.close()
        else:
            linger = struct.pack("ii", 1, 0)
            there = writer.get_extra_info("socket")
            there.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            writer.transport.abort()

    async def _hang_up(self, connection: socket.socket) -> None:
        """Take what the server still has to say, and close when it does."""
        loop = asyncio.get_running_loop()
        with connection:
            async with asyncio.timeout(BOUND):
                try:
                    while await loop.sock_recv(connection, 1 << 20):
                        pass
                except ConnectionError:
                    pass
