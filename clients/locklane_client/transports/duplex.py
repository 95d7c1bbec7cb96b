"""``duplex``: one full-duplex HTTP request per lock, over connections that are used again.

``POST …/lockhold?key=…`` with a body that stays open while the lock is wanted. The server answers
each object of the body by a line of the response, while the body is open: ``{"unlock":false}`` by
``{"locked":true,"lockid":"…"}``, ``{"unlock":true}`` by ``{"locked":false}``.

What the client can know: that the lock was taken and the hold is live, again at each
``keep_interval``, and when it is lost. Proxies that keep the body of a request back, or its answer,
are noticed: then no answer comes.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import ClassVar

import aiohttp

from locklane_client.answers import confirm_locked, confirm_unlocked, read_answer
from locklane_client.errors import HoldEnded, LocklaneError, LockRefused, ServerUnreachable
from locklane_client.session import Lost, Session
from locklane_client.wire import KEEP, UNLOCK, LockAnswer

from .longpoll import KEEPLOCKED_HEADERS


class Duplex:
    """See the module."""

    name: ClassVar[str] = "duplex"
    knows: ClassVar[str] = "that it was taken, that its hold is live, and when it is lost"
    confirmed: ClassVar[bool] = True
    waits_for_unlock: ClassVar[bool] = True
    told_when_lost: ClassVar[str] = "at once; by missing answers where the peer has vanished"

    def __init__(self, session: Session) -> None:
        self._session = session
        self._talks: set[asyncio.Task[LockAnswer]] = set()
        session.closing.append(self._aclose)

    async def _aclose(self) -> None:
        # aiohttp leaves those who wait for more of an answer waiting when it is closed (3.14).
        talks = tuple(self._talks)
        for talk in talks:
            talk.cancel()
        if talks:
            await asyncio.wait(talks)

    async def acquire(self, key: str, version: int, lost: Lost) -> DuplexHold:
        session = self._session
        hold = DuplexHold(session, key, version, lost)
        self._talks.add(hold.talk)
        hold.talk.add_done_callback(self._talks.discard)
        try:
            async with asyncio.timeout(max(session.connect_timeout, session.answer_timeout)):
                hold.lock_id = confirm_locked(await asyncio.shield(hold.first))
        except TimeoutError as error:
            await hold.abandon()
            raise ServerUnreachable(
                f"{session.address} has not answered for "
                f"{max(session.connect_timeout, session.answer_timeout):g} s while the request was "
                "open; perhaps a proxy in between keeps its body back"
            ) from error
        except LockRefused:
            raise  # the answer ends by itself
        except BaseException:
            await hold.abandon()
            raise
        return hold


class DuplexHold:
    """A request in progress."""

    def __init__(self, session: Session, key: str, version: int, lost: Lost) -> None:
        self.lock_id: str | None = None
        self.first: asyncio.Future[LockAnswer] = asyncio.get_running_loop().create_future()
        """The answer to the lock, or what went wrong."""
        self._session = session
        self._lost = lost
        self._enough = asyncio.Event()
        """The body has to end: with an unlock, or because the server will not hold any more."""
        self._unlock_asked = False
        self._unlock_sent = False
        self._ended = False
        self.talk: asyncio.Task[LockAnswer] = asyncio.create_task(self._converse(key, version))
        self.talk.add_done_callback(self._talked)

    async def _unlock_requests(self) -> AsyncIterator[bytes]:
        yield KEEP + b"\n"
        while not self._enough.is_set():
            try:
                async with asyncio.timeout(self._session.keep_interval):
                    await self._enough.wait()
            except TimeoutError:
                yield KEEP + b"\n"
        if self._unlock_asked:
            self._unlock_sent = True
            yield UNLOCK + b"\n"

    async def _converse(self, key: str, version: int) -> LockAnswer:
        """Everything that is said; the last answer.

        :raises LocklaneError: it broke off.
        """
        session = self._session
        body = self._unlock_requests()
        try:
            async with session.send(
                "POST", "lockhold", version, {"key": key}, body=body, headers=KEEPLOCKED_HEADERS
            ) as response:
                if response.status != 200:
                    text = await session.answer("lockhold", response)
                    raise session.refusal("lockhold", response.status, text)
                answer = await self._answer(response, None)
                self.first.set_result(answer)
                while answer.locked:
                    # Each {"unlock":false} has an answer, so silence means that somebody vanished.
                    answer = await self._answer(response, 3 * session.keep_interval)
                self._enough.set()
                # To its end, so that the connection can be used again.
                await session.answer("lockhold", response)
                return answer
        finally:
            self._enough.set()

    async def _answer(self, response: aiohttp.ClientResponse, wait: float | None) -> LockAnswer:
        line = await self._session.line("lockhold", response, wait)
        if not line:
            raise ServerUnreachable("the server ended its answer without saying that it unlocked")
        return read_answer("an answer to lockhold", line)

    def _talked(self, talk: asyncio.Task[LockAnswer]) -> None:
        error = None if talk.cancelled() else talk.exception()
        if not self.first.done():
            if error is None:
                self.first.cancel()
            else:
                self.first.set_exception(error)
                self.first.exception()
            return
        if self._ended or self._unlock_asked or talk.cancelled():
            return  # unlock() has the outcome
        self._ended = True
        if error is not None:
            self._lost(str(error), True)
        elif self.lock_id is not None:
            answer = talk.result()
            self._lost(answer.reason or "the server ended the hold", answer.retained)

    async def unlock(self) -> None:
        session = self._session
        self._unlock_asked = True
        self._enough.set()
        try:
            async with asyncio.timeout(session.answer_timeout):
                answer = await asyncio.shield(self.talk)
        except TimeoutError as error:
            await self.abandon()
            raise LocklaneError(
                f"no answer to the unlock within {session.answer_timeout:g} s"
            ) from error
        except asyncio.CancelledError:
            if self.talk.cancelled():
                raise LocklaneError("the client was closed") from None
            await self.abandon()
            raise
        if not self._unlock_sent:
            raise HoldEnded(answer.reason or "the server ended the hold", answer.retained)
        session.counts.round_trips += 1
        confirm_unlocked(answer)

    async def confirmed(self) -> None:
        """:meth:`unlock` has waited for that."""

    async def abandon(self) -> None:
        self._ended = True
        self.talk.cancel()
        await asyncio.wait([self.talk])
