"""``multiplex``: one websocket carries all locks of a client.

``GET …/locks`` with an upgrade, at the first lock; the messages are those of
:mod:`locklane_client.multiplexed`. The connection stays for as long as the client does, and is made
anew when it broke; then every lock that it carried is lost, and the server retains them.

What the client can know: that the lock was taken and the hold is live, and, through messages, pings
and the close of the socket, when it is lost.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import ClassVar

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from locklane_client import multiplexed
from locklane_client.answers import confirm_locked, confirm_unlocked
from locklane_client.errors import HoldEnded, LocklaneError, ProtocolViolation, ServerUnreachable
from locklane_client.session import Lost, Session
from locklane_client.upgrade import Upgrade, drop, receive
from locklane_client.wire import LockAnswer


class Multiplex:
    """See the module."""

    name: ClassVar[str] = "multiplex"
    knows: ClassVar[str] = "that it was taken, that its hold is live, and when it is lost"
    confirmed: ClassVar[bool] = True
    waits_for_unlock: ClassVar[bool] = True
    told_when_lost: ClassVar[str] = "at once; by pings where the peer has vanished"

    def __init__(self, session: Session) -> None:
        self._session = session
        self._upgrade = Upgrade(session)
        self._channels: dict[int, asyncio.Task[_Channel]] = {}
        """By version; one is made by whoever is the first to need it."""
        session.closing.append(self._aclose)

    async def acquire(self, key: str, version: int, lost: Lost) -> MultiplexHold:
        channel = await self._channel(version)
        async with channel.asking:
            hold = MultiplexHold(channel, lost)
            await hold.lock(key)
        return hold

    async def _channel(self, version: int) -> _Channel:
        opening = self._channels.get(version)
        if opening is not None and opening.done():
            failed = opening.cancelled() or opening.exception() is not None
            if failed or not opening.result().open:
                opening = None
        if opening is None:
            opening = asyncio.create_task(self._open(version))
            self._channels[version] = opening
        # Whoever is cancelled leaves it to the others who wait for it, or to the next.
        return await asyncio.shield(opening)

    async def _open(self, version: int) -> _Channel:
        socket = await self._upgrade.open(multiplexed.REQUEST, version)
        return _Channel(self._session, socket)

    async def _aclose(self) -> None:
        channels, self._channels = self._channels, {}
        for opening in channels.values():
            if not opening.done():
                opening.cancel()
                await asyncio.wait([opening])
            if not opening.cancelled() and opening.exception() is None:
                await opening.result().aclose()


class _Channel:
    """A websocket, and who waits for what from it."""

    def __init__(self, session: Session, socket: ClientConnection) -> None:
        self.session = session
        self.open = True
        self._socket = socket
        self._holds: dict[int, Callable[[LockAnswer | LocklaneError], None]] = {}
        self._next = 0
        self.asking = asyncio.Semaphore(multiplexed.UNDER_WAY + multiplexed.WAITING)
        """For whoever asks for a lock: a server refuses more at the same time."""
        self._reading = asyncio.create_task(self._read())

    def add(self, tell: Callable[[LockAnswer | LocklaneError], None]) -> int:
        """A number for a new lock; ``tell`` gets every answer to it, and at last, if there is still
        a lock by then, what ended the connection."""
        self._next += 1
        self._holds[self._next] = tell
        return self._next

    def remove(self, number: int) -> None:
        """Nothing more is expected for a lock."""
        self._holds.pop(number, None)

    async def send(self, message: str) -> None:
        """Send, when there is room. If the connection is lost, those who wait are told."""
        try:
            await self._socket.send(message)
        except ConnectionClosed:
            return  # then reading says why
        self.session.counts.messages += 1

    async def _read(self) -> None:
        error: LocklaneError
        try:
            while True:
                number, answer = _parse(await receive(self.session, self._socket))
                tell = self._holds.get(number)
                if tell is not None:
                    tell(answer)
        except LocklaneError as broken:
            error = broken
        except asyncio.CancelledError:
            error = ServerUnreachable("the client was closed")
            raise
        finally:
            self.open = False
            holds, self._holds = self._holds, {}
            for tell in holds.values():
                tell(error)
            if isinstance(error, ProtocolViolation):
                self._socket.transport.abort()

    async def aclose(self) -> None:
        """Close it: politely, if no lock is left that this would end."""
        if self._holds:
            await drop(self._socket)
        else:
            await self._socket.close()
        self._reading.cancel()
        await asyncio.wait([self._reading])


class MultiplexHold:
    """One lock of a channel."""

    def __init__(self, channel: _Channel, lost: Lost) -> None:
        self.lock_id: str | None = None
        self._channel = channel
        self._lost = lost
        self._waiting: asyncio.Future[LockAnswer] | None = None
        self._ended: LocklaneError | None = None
        self._number = channel.add(self._told)

    def _told(self, answer: LockAnswer | LocklaneError) -> None:
        """What came for this lock, or instead."""
        waiting, self._waiting = self._waiting, None
        over = isinstance(answer, LocklaneError) or not answer.locked
        if over:
            self._channel.remove(self._number)
        if waiting is not None:
            if waiting.done():
                if not over:  # nobody waits any more for this lock: let it go
                    self._channel.session.in_background(self._let_go())
            elif isinstance(answer, LocklaneError):
                waiting.set_exception(answer)
            else:
                waiting.set_result(answer)
        elif over and self._ended is None:
            self._ended = _why(answer)
            retained = getattr(self._ended, "retained", True)
            self._lost(str(self._ended), retained)

    async def _ask(self, message: str, wait: float) -> LockAnswer:
        """Send a message and wait for its answer.

        :raises TimeoutError: there is none in time.
        """
        waiting = self._waiting = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(wait):
                await self._channel.send(message)
                answer: LockAnswer = await waiting
        finally:
            waiting.cancel()  # then a lock that comes too late is let go
        self._channel.session.counts.round_trips += 1
        return answer

    async def lock(self, key: str) -> None:
        """Take the lock."""
        session = self._channel.session
        if not self._channel.open:
            raise ServerUnreachable(f"the connection with {session.address} broke")
        try:
            answer = await self._ask(
                multiplexed.lock_request(self._number, key), session.answer_timeout
            )
        except TimeoutError as error:
            raise ServerUnreachable(
                f"{session.address} did not answer within {session.answer_timeout:g} s"
            ) from error
        self.lock_id = confirm_locked(answer)

    async def unlock(self) -> None:
        if self._ended is not None:
            raise self._ended
        session = self._channel.session
        self._ended = LocklaneError("the hold has ended")
        try:
            answer = await self._ask(
                multiplexed.unlock_request(self._number), session.answer_timeout
            )
        except TimeoutError as error:
            session.in_background(self._let_go())
            raise LocklaneError(
                f"no answer to the unlock within {session.answer_timeout:g} s"
            ) from error
        except asyncio.CancelledError:
            session.in_background(self._let_go())
            raise
        confirm_unlocked(answer)

    async def _let_go(self) -> None:
        """Ask for the unlock, perhaps once more: the connection lives on, and so would the lock."""
        await self._channel.send(multiplexed.unlock_request(self._number))

    async def confirmed(self) -> None:
        """:meth:`unlock` has waited for that."""

    async def abandon(self) -> None:
        # The server is not told: it finds out when the connection ends.
        if self._ended is None:
            self._ended = LocklaneError("the hold was abandoned")


def _parse(message: str) -> tuple[int, LockAnswer]:
    try:
        return multiplexed.parse_answer(message)
    except ValueError as error:
        raise ProtocolViolation(f"the server's message cannot be read: {error}") from error


def _why(answer: LockAnswer | LocklaneError) -> LocklaneError:
    """How a hold ended that nobody had asked to end."""
    if isinstance(answer, LocklaneError):
        return answer
    return HoldEnded(answer.reason or "the server ended the hold", answer.retained)
