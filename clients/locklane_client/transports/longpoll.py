"""``longpoll``: ``lockcontent``, then a ``keeplocked`` whose body stays open while the lock is
wanted. Two requests per lock over connections that are used again ("keeplocked").

What the client can know: that the lock was taken. That the hold is live it only assumes, as
git-annex does: nothing answers a ``keeplocked`` before its end. A server of Locklane's is asked
about it when a hold lasts longer than a moment (:mod:`locklane_client.arrival`). If the hold ends
at the server in the moment of the unlock, the answer to the one is taken for the answer to the
other, unless it has a reason (Locklane's server gives one).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import ClassVar

from locklane_client.answers import confirm_locked, confirm_unlocked, read_answer
from locklane_client.arrival import HoldWatch, asking
from locklane_client.errors import HoldEnded, LocklaneError
from locklane_client.session import Lost, Session
from locklane_client.wire import JSON_TYPE, KEEP, UNLOCK

KEEPLOCKED_HEADERS = {
    "Content-Type": JSON_TYPE,
    "Connection": "Keep-Alive",
    "Keep-Alive": "timeout=1200",
}
"""As git-annex sends them ("keeplocked": "important to use Connection and Keep-Alive headers")."""


class LongPoll:
    """See the module."""

    name: ClassVar[str] = "longpoll"
    knows: ClassVar[str] = "that it was taken"
    confirmed: ClassVar[bool] = False
    waits_for_unlock: ClassVar[bool] = True
    told_when_lost: ClassVar[str] = "at once; not where the hold never reached the server"

    def __init__(self, session: Session) -> None:
        self._session = session

    async def acquire(self, key: str, version: int, lost: Lost) -> LongPollHold:
        session = self._session
        body = await session.post("lockcontent", version, key=key, wait=session.answer_timeout)
        lock_id = confirm_locked(read_answer("the answer to lockcontent", body))
        hold = LongPollHold(session, version, lock_id, lost)
        try:
            await hold.sent
        except BaseException:
            await hold.abandon()
            raise
        return hold


class LongPollHold:
    """A ``keeplocked`` in progress."""

    def __init__(self, session: Session, version: int, lock_id: str, lost: Lost) -> None:
        self.lock_id: str | None = lock_id
        self.sent: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when the first object is on its way, or the hold has ended already."""
        self._session = session
        self._lost = lost
        self._unlock_asked = asyncio.Event()
        self._unlock_sent = False
        self._ended = False
        self._request = asyncio.create_task(
            session.post(
                "keeplocked",
                version,
                lockid=lock_id,
                body=self._unlock_requests(),
                headers=KEEPLOCKED_HEADERS,
            )
        )
        self._request.add_done_callback(self._request_ended)
        self._watch = HoldWatch(session, asking(session, version, lock_id), self._not_arrived)

    def _not_arrived(self, reason: str, retained: bool) -> None:
        if not self._ended and not self._unlock_asked.is_set():
            self._ended = True
            self._request.cancel()
            self._lost(reason, retained)

    async def _unlock_requests(self) -> AsyncIterator[bytes]:
        yield KEEP + b"\n"
        if not self.sent.done():
            self.sent.set_result(None)
        while not self._unlock_asked.is_set():
            try:
                async with asyncio.timeout(self._session.keep_interval):
                    await self._unlock_asked.wait()
            except TimeoutError:
                # Keeps proxies and address translators from forgetting the connection, and lets
                # this end find out that the other is gone.
                yield KEEP + b"\n"
        self._unlock_sent = True
        yield UNLOCK + b"\n"

    def _request_ended(self, request: asyncio.Task[bytes]) -> None:
        self._watch.end()
        if not self.sent.done():
            self.sent.set_result(None)
        if self._ended or request.cancelled():
            return
        error = request.exception()
        if self._unlock_asked.is_set():
            return  # unlock() has the outcome
        self._ended = True
        if error is not None:
            self._lost(str(error), True)
            return
        try:
            answer = read_answer("the answer to keeplocked", request.result())
            self._lost(answer.reason or "the server ended the hold", answer.retained)
        except LocklaneError as violation:
            self._lost(str(violation), True)

    async def unlock(self) -> None:
        self._unlock_asked.set()
        try:
            async with asyncio.timeout(self._session.answer_timeout):
                body = await asyncio.shield(self._request)
        except TimeoutError as error:
            await self.abandon()
            raise LocklaneError(
                f"no answer to the unlock within {self._session.answer_timeout:g} s"
            ) from error
        except asyncio.CancelledError:
            await self.abandon()
            raise
        answer = read_answer("the answer to keeplocked", body)
        if not self._unlock_sent:
            raise HoldEnded(answer.reason or "the server ended the hold", answer.retained)
        confirm_unlocked(answer)

    async def confirmed(self) -> None:
        """:meth:`unlock` has waited for that."""

    async def abandon(self) -> None:
        self._ended = True
        self._request.cancel()
        await asyncio.wait([self._request])
