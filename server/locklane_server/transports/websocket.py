"""``websocket``: one websocket per lock; the lock lives as long as the socket.

``GET /git-annex/$uuid/v4/lockcontent?key=…&clientuuid=…`` with an upgrade. The first message is the
answer of ``lockcontent``; a refusal is followed by a close with the reason. ``{"unlock": true}``
from the client is answered by ``{"locked": false}`` and close 1000. A connection that ends in any
other way leaves the retention.
"""

from __future__ import annotations

from typing import ClassVar

from aiohttp import WSCloseCode, web

from locklane_client import wire
from locklane_server.access import Right
from locklane_server.locks import Refusal
from locklane_server.repository import RepositoryError
from locklane_server.request import ApiRequest, Requests, Route
from locklane_server.served import Hold
from locklane_server.websockets import Conversation, upgrade

MAX_MESSAGE = wire.MAX_UNLOCK_REQUEST
"""Longest message from the client, in bytes; a longer one closes with 1009."""


class Websocket:
    """See the module."""

    name: ClassVar[str] = "websocket"

    @property
    def requests(self) -> Requests:
        return {("GET", "lockcontent"): Route(Right.LOCK, self._lockcontent, holds=True)}

    async def _lockcontent(self, request: ApiRequest) -> web.StreamResponse:
        key, _ = request.key, request.client_uuid
        client = await upgrade(request, MAX_MESSAGE)
        try:
            lock = await request.lock(key, self.name, live=True)
        except RepositoryError as error:
            return await _refuse(client, str(error))
        if isinstance(lock, Refusal):
            return await _refuse(client, lock.value)
        hold = request.served.begin_hold(lock)
        with hold:
            await _send(client, wire.lock_answer(lock.id))
            await _wait_for_unlock(client, hold)
        if hold.ended is not None:
            await _send(client, wire.not_locked_answer(hold.ended, retained=hold.retained))
            await client.close(WSCloseCode.GOING_AWAY, hold.ended)
        return client.socket


async def _wait_for_unlock(client: Conversation, hold: Hold) -> None:
    """Read messages until one asks to unlock, and unlock; or until the socket ends, by whoever."""
    while (message := await client.receive()) is not None:
        try:
            unlock = wire.parse_unlock_request(message.encode("utf-8"))
        except ValueError as error:
            await client.close(WSCloseCode.INVALID_TEXT, str(error))
            return
        if unlock:
            await hold.unlock()
            await _send(client, wire.not_locked_answer())
            await client.close(WSCloseCode.OK, "unlocked")
            return


async def _refuse(client: Conversation, reason: str) -> web.WebSocketResponse:
    await _send(client, wire.not_locked_answer(reason))
    await client.close(WSCloseCode.OK, reason)
    return client.socket


async def _send(client: Conversation, answer: bytes) -> None:
    await client.send(answer.decode("utf-8"))
