"""``longpoll-http2``: the requests of ``longpoll``, all of a client's over one HTTP/2 connection.

Locklane's server speaks HTTP/1.1, so there has to be a reverse proxy in front that speaks HTTP/2,
as Caddy does. With ``annex+https`` both agree on it during the TLS handshake; with ``annex+http``
the proxy has to take HTTP/2 without having been asked ("h2c", "prior knowledge").

What the client can know: as with ``longpoll``, that the lock was taken. When the server ends the
hold, it is told at once; of a proxy that vanished, by pings; of a server that vanished behind the
proxy, at the latest when the proxy has the next sign of life to pass on.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, ClassVar

from locklane_client.answers import confirm_locked, confirm_unlocked, read_answer
from locklane_client.arrival import Ask, HoldWatch
from locklane_client.errors import HoldEnded, LocklaneError
from locklane_client.session import Lost, Session
from locklane_client.wire import JSON_TYPE, KEEP, UNLOCK

if TYPE_CHECKING:
    from locklane_client.http2 import Answer, Headers, Slot


class LongPollHttp2:
    """See the module.

    :raises ValueError: the package h2 is not installed.
    """

    name: ClassVar[str] = "longpoll-http2"
    knows: ClassVar[str] = "that it was taken"
    confirmed: ClassVar[bool] = False
    waits_for_unlock: ClassVar[bool] = True
    told_when_lost: ClassVar[str] = (
        "at once if the server ends it; within two keep intervals if the proxy vanished; of a "
        "server behind it, when the proxy tells; not where the hold never reached the server"
    )

    def __init__(self, session: Session) -> None:
        try:
            from locklane_client.http2 import Http2
        except ModuleNotFoundError as error:
            raise ValueError(
                "the transport longpoll-http2 needs another package: pip install 'locklane[http2]'"
            ) from error
        self._session = session
        self._http2 = Http2(session)
        session.closing.append(self._http2.aclose)

    async def acquire(self, key: str, version: int, lost: Lost) -> LongPollHttp2Hold:
        session = self._session
        session.counts.requests += 1
        slot, answer = await self._http2.begin(
            self._headers("lockcontent", version, key=key), session.answer_timeout
        )
        try:
            body = _read(session, "lockcontent", answer)
            lock_id = confirm_locked(read_answer("the answer to lockcontent", body))
            if not slot.usable:
                # The proxy takes no more requests on that connection, but may on another.
                slot.leave()
                async with asyncio.timeout(session.answer_timeout):
                    slot = await self._http2.slot()
            session.counts.requests += 1
            headers = self._headers("keeplocked", version, lockid=lock_id)
            headers.append(("content-type", JSON_TYPE))
            return LongPollHttp2Hold(
                session, slot, headers, lock_id, lost, self._asking(version, lock_id)
            )
        except TimeoutError as error:
            raise LocklaneError(
                f"no connection for the hold within {session.answer_timeout:g} s"
            ) from error
        except BaseException:
            slot.leave()
            raise

    def _asking(self, version: int, lock_id: str) -> Ask:
        headers = self._headers("keeplocked", version, method="GET", lockid=lock_id)

        async def ask() -> tuple[int, bytes]:
            self._session.counts.requests += 1
            slot, answer = await self._http2.begin(headers, self._session.answer_timeout)
            slot.leave()
            self._session.counts.round_trips += 1
            return answer.status, answer.body

        return ask

    def _headers(
        self, request: str, version: int, method: str = "POST", **parameters: str
    ) -> Headers:
        address = self._session.address
        path = address.base + self._session.url(request, version, **parameters)
        headers = [
            (":method", method),
            (":scheme", address.scheme),
            (":authority", address.authority),
            (":path", path),
        ]
        if address.authorization:
            headers.append(("authorization", address.authorization))
        return headers


class LongPollHttp2Hold:
    """A ``keeplocked`` in progress, its first object on its way."""

    def __init__(
        self,
        session: Session,
        slot: Slot,
        headers: Headers,
        lock_id: str,
        lost: Lost,
        ask: Ask,
    ) -> None:
        self.lock_id: str | None = lock_id
        self._session = session
        self._slot = slot
        self._lost = lost
        self._ending = False
        """Whoever holds it has asked for its end, or knows of it."""
        self._loop = asyncio.get_running_loop()
        self._keeping = self._loop.call_later(session.keep_interval, self._keep)
        self._answer = slot.request(headers, KEEP + b"\n", end=False)
        self._answer.add_done_callback(self._request_ended)
        self._watch = HoldWatch(session, ask, self._not_arrived)

    def _not_arrived(self, reason: str, retained: bool) -> None:
        if not self._ending:
            self._ending = True
            self._keeping.cancel()
            self._slot.leave()
            self._lost(reason, retained)

    async def confirmed(self) -> None:
        """:meth:`unlock` has waited for that."""

    def _keep(self) -> None:
        # For the proxy's connection with the server, which no ping reaches.
        if not self._slot.rest:
            self._slot.send(KEEP + b"\n")
        self._keeping = self._loop.call_later(self._session.keep_interval, self._keep)

    def _request_ended(self, request: asyncio.Future[Answer]) -> None:
        self._keeping.cancel()
        self._watch.end()
        if self._ending or request.cancelled():
            return
        self._ending = True
        try:
            body = _read(self._session, "keeplocked", request.result())
            answer = read_answer("the answer to keeplocked", body)
        except LocklaneError as error:
            self._lost(str(error), True)
        else:
            self._lost(answer.reason or "the server ended the hold", answer.retained)
        finally:
            self._slot.leave()

    async def unlock(self) -> None:
        session = self._session
        self._ending = True
        self._keeping.cancel()
        ended_before = self._answer.done()
        self._slot.send(UNLOCK + b"\n", end=True)
        try:
            # Does not cancel it when it is cancelled itself.
            await asyncio.wait([self._answer], timeout=session.answer_timeout)
        except asyncio.CancelledError:
            # Of a request that is broken off, a proxy may not pass on what came last.
            session.in_background(self._leave_when_answered())
            raise
        try:
            if not self._answer.done():
                raise LocklaneError(f"no answer to the unlock within {session.answer_timeout:g} s")
            body = _read(session, "keeplocked", self._answer.result())
        finally:
            await self.abandon()
        answer = read_answer("the answer to keeplocked", body)
        if ended_before:
            raise HoldEnded(answer.reason or "the server ended the hold", answer.retained)
        confirm_unlocked(answer)

    async def _leave_when_answered(self) -> None:
        try:
            await asyncio.wait([self._answer], timeout=self._session.answer_timeout)
        finally:
            await self.abandon()

    async def abandon(self) -> None:
        self._ending = True
        self._keeping.cancel()
        self._watch.end()
        self._slot.leave()


def _read(session: Session, request: str, answer: Answer) -> bytes:
    session.counts.round_trips += 1
    if answer.status != 200:
        raise session.refusal(request, answer.status, answer.body)
    return answer.body
