"""``multiplex``: one websocket carries all locks of a client.

``GET /git-annex/$uuid/v4/locks?clientuuid=…`` with an upgrade; the messages are those of
:mod:`locklane_client.multiplexed`. A connection that ends leaves the retention of every lock that
it held. No lock waits for another: each request is worked on by itself, up to
:data:`~locklane_client.multiplexed.UNDER_WAY` of them; with as many nothing more is read, so that
a client that asks faster than it is answered, or does not read its answers, is held up by TCP.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import ClassVar

import anyio
from aiohttp import WSCloseCode, web

from locklane_client import multiplexed, wire
from locklane_client.key import Key
from locklane_server.access import Right
from locklane_server.locks import Refusal
from locklane_server.records import Record
from locklane_server.repository import RepositoryError
from locklane_server.request import ApiRequest, Requests, Route
from locklane_server.served import Hold
from locklane_server.websockets import Conversation, upgrade

TOO_MANY = (
    f"the server works on {multiplexed.UNDER_WAY} locks of a connection at a time, and "
    f"{multiplexed.WAITING} more wait already; ask again when some are answered"
)

_log = logging.getLogger(__name__)


class Multiplex:
    """See the module."""

    name: ClassVar[str] = "multiplex"

    @property
    def requests(self) -> Requests:
        return {("GET", multiplexed.REQUEST): Route(Right.LOCK, self._locks, holds=True)}

    async def _locks(self, request: ApiRequest) -> web.StreamResponse:
        _ = request.client_uuid
        client = await upgrade(request, multiplexed.MAX_MESSAGE)
        await _Locks(client, request, self.name).serve()
        return client.socket


class _Locks:
    """The locks of one connection, by their numbers."""

    def __init__(self, client: Conversation, request: ApiRequest, transport: str) -> None:
        self._client = client
        self._request = request
        self._served = request.served
        self._transport = transport
        self._held: dict[int, Hold | None] = {}
        """``None``: being worked on."""
        self._records: dict[int, Record] = {}
        self._under_way = anyio.Semaphore(multiplexed.UNDER_WAY)
        self._locking = 0
        """Locks that are being taken, or wait for their turn."""
        self._reading = anyio.CancelScope()

    async def serve(self) -> None:
        """Answer until the connection ends, or the server stops; what is held then is lost."""
        self._served.when_stopping.add(self._reading.cancel)
        try:
            async with anyio.create_task_group() as self._tasks:
                if self._served.stopping is None:
                    with self._reading, suppress(ConnectionError):
                        await self._read()
                if self._served.stopping is None:
                    self._tasks.cancel_scope.cancel()  # nobody is left to be answered
        finally:
            self._served.when_stopping.discard(self._reading.cancel)
            for hold in self._held.values():
                if hold is not None:
                    hold.lose()
            for record in self._records.values():
                record.end()
        if self._served.stopping is not None:
            await self._client.close(WSCloseCode.GOING_AWAY, self._served.stopping)

    async def _read(self) -> None:
        while (message := await self._client.receive()) is not None:
            try:
                request = multiplexed.parse_request(message)
                key = None if request.key is None else Key.parse(request.key)
            except ValueError as error:
                await self._client.close(WSCloseCode.INVALID_TEXT, str(error))
                return
            number = request.id
            hold = self._held.get(number)
            if key is None and hold is not None:
                self._held[number] = None
                self._tasks.start_soon(self._work, self._unlock, number, hold)
            elif number in self._held:
                reason = f"the id {number} is in use"
                await self._client.close(WSCloseCode.POLICY_VIOLATION, reason)
                return
            elif key is None:
                await self._deny(number, Refusal.UNKNOWN.value)
            elif self._locking >= multiplexed.UNDER_WAY + multiplexed.WAITING:
                await self._deny(number, TOO_MANY)
            else:
                self._held[number] = None
                self._records[number] = self._request.record.part("lock", key.text)
                self._locking += 1
                self._tasks.start_soon(self._work, self._lock_in_turn, number, key)

    async def _work(
        self, work: Callable[..., Awaitable[None]], number: int, *arguments: object
    ) -> None:
        try:
            await work(number, *arguments)
        except ConnectionError:
            self._client.abort()  # then reading ends, too
        except Exception:  # a fault of ours, which must not be that of the other locks' holders
            _log.exception("multiplex: the request of id %d failed", number)
            self._client.abort()

    async def _lock_in_turn(self, number: int, key: Key) -> None:
        try:
            async with self._under_way:
                await self._lock(number, key)
        finally:
            self._locking -= 1

    async def _lock(self, number: int, key: Key) -> None:
        try:
            lock = await self._request.lock(
                key, self._transport, live=True, record=self._records[number]
            )
        except RepositoryError as error:
            await self._refuse(number, str(error))
            return
        if isinstance(lock, Refusal):
            await self._refuse(number, lock.value)
            return
        hold = self._held[number] = self._served.begin_hold(lock)
        hold.when_ended(lambda: self._tasks.start_soon(self._tell_ended, number, hold))
        await self._send(number, wire.lock_answer(lock.id))

    def _over(self, number: int) -> None:
        del self._held[number]
        self._records.pop(number).end()

    async def _refuse(self, number: int, reason: str) -> None:
        self._records[number].error = reason
        self._over(number)
        await self._send(number, wire.not_locked_answer(reason))

    async def _unlock(self, number: int, hold: Hold) -> None:
        with anyio.CancelScope(shield=True):  # once asked for, whether or not the client stays
            await hold.unlock()
        self._over(number)
        await self._send(number, wire.not_locked_answer())

    async def _deny(self, number: int, reason: str) -> None:
        await self._send(number, wire.not_locked_answer(reason))

    async def _tell_ended(self, number: int, hold: Hold) -> None:
        if self._held.get(number) is not hold:
            return  # it is being unlocked, which has an answer of its own
        self._over(number)
        hold.lose()
        try:
            await self._send(number, wire.not_locked_answer(hold.ended, retained=hold.retained))
        except ConnectionError:
            self._client.abort()

    async def _send(self, number: int, answer: bytes) -> None:
        await self._client.send(multiplexed.answer(number, answer))
