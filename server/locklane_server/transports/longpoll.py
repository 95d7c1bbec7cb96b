"""``longpoll``: ``lockcontent`` takes the lock, and a ``keeplocked`` whose body stays open keeps it
("lockcontent", "keeplocked"). What git-annex's own client speaks.

A peer that vanished is noticed by TCP's keep-alive probes, which
:mod:`locklane_server.server` sets: git-annex sends nothing while it holds, so silence is no sign.
"""

from __future__ import annotations

from typing import ClassVar

from aiohttp import web

from locklane_client import wire
from locklane_server.locks import Refusal
from locklane_server.request import ApiError, ApiRequest, Requests
from locklane_server.served import Hold


class LongPoll:
    """See the module."""

    name: ClassVar[str] = "longpoll"

    @property
    def requests(self) -> Requests:
        return {
            ("POST", "lockcontent"): self._lockcontent,
            ("POST", "keeplocked"): self._keeplocked,
        }

    async def _lockcontent(self, request: ApiRequest) -> web.StreamResponse:
        lock = await request.served.lock(request.key, request.client_uuid, self.name, live=False)
        if isinstance(lock, Refusal):
            return request.answer(wire.not_locked_answer(lock.value))
        return request.answer(wire.lock_answer(lock.id))

    async def _keeplocked(self, request: ApiRequest) -> web.StreamResponse:
        hold = request.served.keep(request.required("lockid"))
        if isinstance(hold, Refusal):
            return request.answer(wire.not_locked_answer(hold.value))
        with hold:
            await _wait_for_unlock(request.http, hold)
        return request.answer(wire.not_locked_answer(hold.ended, retained=hold.retained))


async def _wait_for_unlock(http: web.BaseRequest, hold: Hold) -> None:
    """Read the body until it asks to unlock, and unlock.

    :raises ApiError: the body is not a stream of unlock requests, or ends without the one.
    :raises ConnectionError: the client is gone.
    """
    stream = wire.UnlockStream()
    try:
        async for data in http.content.iter_any():
            for unlock in stream.feed(data):
                if unlock:
                    await hold.unlock()
                    return
    except ValueError as error:
        raise ApiError(400, f"keeplocked: {error}; the lock stays until its time") from error
    raise ApiError(
        400, 'keeplocked: the body ended without {"unlock": true}; the lock stays until its time'
    )
