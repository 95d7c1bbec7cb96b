"""``websocket``: one websocket per lock; the lock lives as long as the socket.

``GET …/lockcontent?key=…`` with an upgrade. The server's first message is the answer of
``lockcontent``; ``{"unlock": true}`` from here is answered by ``{"locked": false}`` and a close.

What the client can know: that the lock was taken and the hold is live, and, through pings and the
close of the socket, when it is lost.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import ClassVar

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from locklane_client.answers import confirm_locked, confirm_unlocked, read_answer
from locklane_client.errors import LocklaneError, LockRefused, ServerUnreachable
from locklane_client.session import Lost, Session
from locklane_client.upgrade import Upgrade, drop, receive
from locklane_client.wire import UNLOCK, LockAnswer


class Websocket:
    """See the module."""

    name: ClassVar[str] = "websocket"
    knows: ClassVar[str] = "that it was taken, that its hold is live, and when it is lost"
    confirmed: ClassVar[bool] = True
    waits_for_unlock: ClassVar[bool] = True
    told_when_lost: ClassVar[str] = "at once; by pings where the peer has vanished"

    def __init__(self, session: Session) -> None:
        self._session = session
        self._upgrade = Upgrade(session)

    async def acquire(self, key: str, version: int, lost: Lost) -> WebsocketHold:
        socket = await self._upgrade.open("lockcontent", version, key=key)
        try:
            async with asyncio.timeout(self._session.answer_timeout):
                lock_id = confirm_locked(await _receive(self._session, socket))
        except TimeoutError as error:
            await drop(socket)
            raise ServerUnreachable(
                f"{self._session.address} upgraded, then did not answer within "
                f"{self._session.answer_timeout:g} s"
            ) from error
        except LockRefused:
            self._session.in_background(socket.close())
            raise
        except BaseException:
            await drop(socket)
            raise
        return WebsocketHold(self._session, socket, lock_id, lost)


class WebsocketHold:
    """An open websocket whose lock was confirmed."""

    def __init__(
        self,
        session: Session,
        socket: ClientConnection,
        lock_id: str,
        lost: Lost,
    ) -> None:
        self.lock_id: str | None = lock_id
        self._session = session
        self._socket = socket
        self._lost = lost
        self._ended = False
        # Reads all the time, so that an end is noticed when it comes.
        self._answer = asyncio.create_task(_receive(session, socket))
        self._answer.add_done_callback(self._answered)

    def _answered(self, answer: asyncio.Task[LockAnswer]) -> None:
        if answer.cancelled():
            return
        error = answer.exception()
        if self._ended:
            return  # unlock() has the outcome
        self._ended = True
        if error is not None:
            self._lost(str(error), True)
        else:
            said = answer.result()
            self._lost(said.reason or "the server ended the hold", said.retained)
        self._session.in_background(self._socket.close())

    async def unlock(self) -> None:
        if self._ended:
            raise LocklaneError("the hold had ended before")
        self._ended = True
        session = self._session
        try:
            async with asyncio.timeout(session.answer_timeout):
                with contextlib.suppress(ConnectionClosed):  # then reading says why
                    await self._socket.send(UNLOCK.decode(), text=True)
                    session.counts.messages += 1
                answer = await asyncio.shield(self._answer)
        except TimeoutError as error:
            await self.abandon()
            raise LocklaneError(
                f"no answer to the unlock within {session.answer_timeout:g} s"
            ) from error
        except BaseException:
            await self.abandon()
            raise
        session.counts.round_trips += 1
        session.in_background(self._socket.close())
        confirm_unlocked(answer)

    async def confirmed(self) -> None:
        """:meth:`unlock` has waited for that."""

    async def abandon(self) -> None:
        self._ended = True
        self._answer.cancel()
        await asyncio.wait([self._answer])
        await drop(self._socket)


async def _receive(session: Session, socket: ClientConnection) -> LockAnswer:
    return read_answer("the server's message", await receive(session, socket))
