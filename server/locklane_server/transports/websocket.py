"""``websocket``: one websocket per lock; the lock lives as long as the socket.

``GET /git-annex/$uuid/v4/lockcontent?key=…&clientuuid=…`` with an upgrade. The first message is the
answer of ``lockcontent``; a refusal is followed by a close with the reason. ``{"unlock": true}``
from the client is answered by ``{"locked": false}`` and close 1000. A connection that ends in any
other way leaves the retention.

A peer that vanished is noticed by pings: after :data:`HEARTBEAT_SECONDS` of silence it is asked,
and after as long again without a sign of life it is gone.
"""

from __future__ import annotations

from typing import ClassVar

from aiohttp import WSCloseCode, WSMsgType, hdrs, web

from locklane_client import wire
from locklane_server.locks import Refusal
from locklane_server.repository import RepositoryError
from locklane_server.request import ApiError, ApiRequest, Requests
from locklane_server.served import Hold

HEARTBEAT_SECONDS = 20.0
"""Silence after which a ping is sent, and after which an unanswered one means the end."""

MAX_MESSAGE = wire.MAX_UNLOCK_REQUEST
"""Longest message from the client, in bytes; a longer one closes with 1009."""

CLOSE_SECONDS = 2.0
"""How long to wait for the client's side of the closing handshake."""


class Websocket:
    """See the module."""

    name: ClassVar[str] = "websocket"

    @property
    def requests(self) -> Requests:
        return {("GET", "lockcontent"): self._lockcontent}

    async def _lockcontent(self, request: ApiRequest) -> web.StreamResponse:
        key, owner = request.key, request.client_uuid
        # Not aiohttp's own heartbeat: its timer outlives the socket and keeps 10 kB for as long,
        # which adds up when there is a socket for each lock (aiohttp 3.14).
        socket = web.WebSocketResponse(
            timeout=CLOSE_SECONDS, max_msg_size=MAX_MESSAGE, autoping=False, compress=False
        )
        if not socket.can_prepare(request.http):
            raise ApiError(
                426,
                "GET lockcontent is a websocket: ask for an upgrade, or POST",
                {hdrs.UPGRADE: "websocket", hdrs.CONNECTION: "Upgrade"},
            )
        await socket.prepare(request.http)
        try:
            lock = await request.served.lock(key, owner, self.name, live=True)
        except RepositoryError as error:
            return await _refuse(socket, str(error))
        if isinstance(lock, Refusal):
            return await _refuse(socket, lock.value)
        hold = request.served.begin_hold(lock)
        with hold:
            await _send(socket, wire.lock_answer(lock.id))
            await _wait_for_unlock(socket, request.http, hold)
        if hold.ended is not None:
            await _send(socket, wire.not_locked_answer(hold.ended, retained=hold.retained))
            await _close(socket, WSCloseCode.GOING_AWAY, hold.ended)
        return socket


async def _wait_for_unlock(
    socket: web.WebSocketResponse, http: web.BaseRequest, hold: Hold
) -> None:
    """Read messages until one asks to unlock, and unlock; or until the socket ends, by whoever."""
    asked = False
    while True:
        try:
            message = await socket.receive(HEARTBEAT_SECONDS)
        except TimeoutError:
            if asked:
                if http.transport is not None:
                    http.transport.abort()
                return
            asked = True
            await socket.ping()
            continue
        asked = False
        match message.type:
            case WSMsgType.TEXT:
                if await _answer(socket, hold, message.data):
                    return
            case WSMsgType.PING:
                await socket.pong(message.data)
            case WSMsgType.PONG:
                pass
            case WSMsgType.BINARY:
                await _close(socket, WSCloseCode.UNSUPPORTED_DATA, "text messages only")
                return
            case _:  # closed, by whoever, or broken
                return


async def _answer(socket: web.WebSocketResponse, hold: Hold, text: str) -> bool:
    """Do what a message asks for; whether the conversation is over with it."""
    try:
        unlock = wire.parse_unlock_request(text.encode("utf-8"))
    except ValueError as error:
        await _close(socket, WSCloseCode.INVALID_TEXT, str(error))
        return True
    if unlock:
        await hold.unlock()
        await _send(socket, wire.not_locked_answer())
        await _close(socket, WSCloseCode.OK, "unlocked")
    return unlock


async def _refuse(socket: web.WebSocketResponse, reason: str) -> web.WebSocketResponse:
    await _send(socket, wire.not_locked_answer(reason))
    await _close(socket, WSCloseCode.OK, reason)
    return socket


async def _send(socket: web.WebSocketResponse, answer: bytes) -> None:
    await socket.send_str(answer.decode("utf-8"))


async def _close(socket: web.WebSocketResponse, code: WSCloseCode, reason: str) -> None:
    # A close frame's reason has room for 123 bytes (RFC 6455, 5.5).
    await socket.close(code=code, message=reason.encode("utf-8")[:123])
