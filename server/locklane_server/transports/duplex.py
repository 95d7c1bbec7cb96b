"""``duplex``: one full-duplex HTTP request per lock, over connections that are used again.

``POST …/v4/lockhold?key=…&clientuuid=…``: the lock lives as long as the request. The body is a
stream of unlock requests, as that of ``keeplocked``, and each is answered by a line of the response
while the body is still open: ``{"unlock":false}`` by ``{"locked":true,"lockid":"…"}``, so that the
client knows that its hold is live; ``{"unlock":true}`` by ``{"locked":false}``, with which the
response ends. A hold that ends by itself ends the response with the reason. A request that ends in
any other way leaves the retention.

HTTP/1.1 lets a server answer before it has read the whole body (RFC 9112, 9.3), but proxies may not
pass that on. As for ``longpoll``, a peer that vanished is noticed by TCP's keep-alive probes.
"""

from __future__ import annotations

from typing import ClassVar

from aiohttp import hdrs, web

from locklane_client import wire
from locklane_server.access import Right
from locklane_server.locks import Refusal
from locklane_server.request import ApiError, ApiRequest, Requests, Route
from locklane_server.served import Hold

from .longpoll import UnlockRequests

_HEADERS = {
    hdrs.CONTENT_TYPE: wire.JSON_LINES_TYPE,
    # nginx keeps answers back unless it is told not to.
    "X-Accel-Buffering": "no",
}


class Duplex:
    """See the module."""

    name: ClassVar[str] = "duplex"

    @property
    def requests(self) -> Requests:
        return {("POST", "lockhold"): Route(Right.LOCK, self._lockhold, holds=True, has_body=True)}

    async def _lockhold(self, request: ApiRequest) -> web.StreamResponse:
        lock = await request.lock(request.key, self.name, live=True)
        if isinstance(lock, Refusal):
            return request.answer(wire.not_locked_answer(lock.value))
        hold = request.served.begin_hold(lock)
        response = web.StreamResponse(headers={**_HEADERS, **request.headers})
        response.enable_chunked_encoding()
        wrong: ApiError | None = None
        with hold:
            try:
                await _answer_until_unlocked(request.http, response, hold)
            except ApiError as error:
                wrong = error
        if not response.prepared:
            if wrong is not None:
                raise wrong
            return request.answer(wire.not_locked_answer(hold.ended, retained=hold.retained))
        if wrong is not None:  # too late for a status of its own
            answer = wire.not_locked_answer(wrong.sentence, retained=True)
            response.force_close()
        else:
            answer = wire.not_locked_answer(hold.ended, retained=hold.retained)
        await response.write(answer + b"\n")
        await response.write_eof()
        return response


async def _answer_until_unlocked(
    http: web.BaseRequest, response: web.StreamResponse, hold: Hold
) -> None:
    """Answer each request of the body but the one to unlock, which is done and not answered yet.

    :raises ApiError: the body is not a stream of unlock requests, or ends without the one.
    :raises ConnectionError: the client is gone.
    """
    locked = wire.lock_answer(hold.lock.id) + b"\n"
    requests = UnlockRequests(http, "lockhold")
    while not await requests.next():
        if not response.prepared:
            await response.prepare(http)
        await response.write(locked)
    await hold.unlock()
    await requests.end()
