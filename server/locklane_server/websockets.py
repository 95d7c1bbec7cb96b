"""What the transports over websockets share: the upgrade, heartbeats, closing.

A peer that vanished is noticed by pings: after :data:`HEARTBEAT_SECONDS` of silence it is asked,
and after as long again without a sign of life it is gone. One that is there and takes nothing any
more is gone, too, after :data:`SEND_SECONDS`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

from aiohttp import WSCloseCode, WSMsgType, hdrs, web

from locklane_server.request import ApiError, ApiRequest

HEARTBEAT_SECONDS = 20.0
"""Silence after which a ping is sent, and after which an unanswered one means the end."""

SEND_SECONDS = 40.0
"""How long a client may take to make room for an answer."""

AT_ONCE = 32
"""Messages, pings among them, after which others have their turn: a client that floods has tens of
thousands of them in what is read at once."""

CLOSE_SECONDS = 2.0
"""How long to wait for the client's side of the closing handshake."""


class Conversation:
    """A websocket with one client, of text messages. Made by :func:`upgrade`."""

    def __init__(self, socket: web.WebSocketResponse, http: web.BaseRequest) -> None:
        self.socket = socket
        self._http = http
        self._received = 0

    async def receive(self) -> str | None:
        """The client's next message; ``None`` at the end, by whomever and however."""
        asked = False
        while True:
            try:
                message = await self.socket.receive(HEARTBEAT_SECONDS)
            except TimeoutError:
                if asked:
                    self.abort()
                    return None
                asked = True
                await self._within(self.socket.ping())
                continue
            asked = False
            self._received += 1
            if self._received % AT_ONCE == 0:
                await asyncio.sleep(0)
            match message.type:
                case WSMsgType.TEXT:
                    text: str = message.data
                    return text
                case WSMsgType.PING:
                    await self._within(self.socket.pong(message.data))
                case WSMsgType.PONG:
                    pass
                case WSMsgType.BINARY:
                    await self.close(WSCloseCode.UNSUPPORTED_DATA, "text messages only")
                    return None
                case _:  # closed, by whomever, or broken
                    return None

    async def send(self, message: str) -> None:
        """Send a message; returns when there is room for the next.

        :raises ConnectionError: the client is gone, or takes nothing any more.
        """
        await self._within(self.socket.send_str(message))

    async def _within(self, sending: Awaitable[None]) -> None:
        try:
            async with asyncio.timeout(SEND_SECONDS):
                await sending
        except TimeoutError as error:
            self.abort()
            raise ConnectionResetError("the client does not read what it asked for") from error

    async def close(self, code: WSCloseCode, reason: str) -> None:
        """Begin the closing handshake, and wait a little for the client's side of it."""
        # A close frame's reason has room for 123 bytes (RFC 6455, 5.5).
        await self.socket.close(code=code, message=reason.encode("utf-8")[:123])

    def abort(self) -> None:
        """Break the connection."""
        if self._http.transport is not None:
            self._http.transport.abort()


async def upgrade(request: ApiRequest, max_message: int) -> Conversation:
    """Make a websocket of a request.

    :param max_message: bytes of the longest message from the client; a longer one closes the
        websocket with 1009.
    :raises ApiError: 426, it asks for none.
    """
    # Not aiohttp's own heartbeat: its timer outlives the socket and keeps 10 kB for as long, which
    # adds up when there is a socket for each lock (aiohttp 3.14).
    socket = web.WebSocketResponse(
        timeout=CLOSE_SECONDS, max_msg_size=max_message, autoping=False, compress=False
    )
    if not socket.can_prepare(request.http):
        raise ApiError(
            426,
            f"GET {request.path.request} is a websocket: ask for an upgrade",
            {hdrs.UPGRADE: "websocket", hdrs.CONNECTION: "Upgrade"},
        )
    request.record.status = 101
    await socket.prepare(request.http)
    return Conversation(socket, request.http)
