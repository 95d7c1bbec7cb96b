"""``longpoll``: ``lockcontent`` takes the lock, and a ``keeplocked`` whose body stays open keeps it
("lockcontent", "keeplocked"). What git-annex's own client speaks.

Nothing answers a ``keeplocked`` before its end, so a client cannot tell a server that holds its
lock from a proxy that keeps the body back. It can ask: ``GET keeplocked?lockid=…``, an addition of
Locklane's, tells whether a hold is open.

A peer that vanished is noticed by TCP's keep-alive probes, which
:mod:`locklane_server.server` sets: git-annex sends nothing while it holds, so silence is no sign.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from typing import ClassVar

from aiohttp import web

from locklane_client import wire
from locklane_server.access import Right
from locklane_server.locks import Refusal
from locklane_server.request import ApiError, ApiRequest, Requests, Route
from locklane_server.served import Hold

AT_ONCE = 64
"""Unlock requests after which others have their turn, however many are in what is read at once."""

END_SECONDS = 0.25
"""How long the end of a body may come after the unlock before that is answered all the same."""


class LongPoll:
    """See the module."""

    name: ClassVar[str] = "longpoll"

    @property
    def requests(self) -> Requests:
        return {
            ("POST", "lockcontent"): Route(Right.LOCK, self._lockcontent),
            ("POST", "keeplocked"): Route(Right.LOCK, self._keeplocked, holds=True, has_body=True),
            ("GET", "keeplocked"): Route(Right.LOCK, self._is_kept),
        }

    def _name(self, request: ApiRequest) -> str:
        """Under which name the lock is counted."""
        return self.name

    async def _lockcontent(self, request: ApiRequest) -> web.StreamResponse:
        lock = await request.lock(request.key, self._name(request), live=False)
        if isinstance(lock, Refusal):
            return request.answer(wire.not_locked_answer(lock.value))
        return request.answer(wire.lock_answer(lock.id))

    async def _keeplocked(self, request: ApiRequest) -> web.StreamResponse:
        hold = request.keep_lock()
        if isinstance(hold, Refusal):
            return request.answer(wire.not_locked_answer(hold.value))
        request.record.key = hold.lock.key
        with hold:
            await _wait_for_unlock(request.http, hold)
        return request.answer(wire.not_locked_answer(hold.ended, retained=hold.retained))

    async def _is_kept(self, request: ApiRequest) -> web.StreamResponse:
        lock = request.find_lock()
        if isinstance(lock, Refusal):
            return request.answer(wire.not_locked_answer(lock.value))
        return request.answer(wire.status_answer(lock.live))


async def _wait_for_unlock(http: web.BaseRequest, hold: Hold) -> None:
    """Read the body until it asks to unlock, and unlock.

    :raises ApiError: the body is not a stream of unlock requests, or ends without the one.
    :raises ConnectionError: the client is gone.
    """
    requests = UnlockRequests(http, "keeplocked")
    while not await requests.next():
        pass
    await hold.unlock()
    await requests.end()


class UnlockRequests:
    """The unlock requests of a body, as they come.

    :param name: of the HTTP request, for messages.
    """

    def __init__(self, http: web.BaseRequest, name: str) -> None:
        self._content = http.content
        self._name = name
        self._stream = wire.UnlockStream()
        self._read: Iterator[bool] = iter(())
        self._came = 0

    async def next(self) -> bool:
        """The next one: whether it asks to unlock.

        :raises ApiError: the body is not a stream of unlock requests, or it is over.
        :raises ConnectionError: the client is gone.
        """
        try:
            while True:
                for unlock in self._read:
                    self._came += 1
                    if self._came % AT_ONCE == 0:
                        await asyncio.sleep(0)
                    return unlock
                data = await self._content.readany()
                if not data:
                    break
                self._read = self._stream.feed(data)
        except ValueError as error:
            raise ApiError(400, f"{self._name}: {error}; the lock stays until its time") from error
        raise ApiError(
            400,
            f'{self._name}: the body ended without {{"unlock": true}}; the lock stays until its '
            "time",
        )

    async def end(self) -> None:
        """Wait a moment for the end of the body, after the unlock: some proxies close a connection
        on which an answer came before that."""
        if self._content.at_eof():
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(END_SECONDS):
                while await self._content.readany():
                    pass
