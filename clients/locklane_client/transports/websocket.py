"""``websocket``: one websocket per lock; the lock lives as long as the socket.

``GET …/lockcontent?key=…`` with an upgrade. The server's first message is the answer of
``lockcontent``; ``{"unlock": true}`` from here is answered by ``{"locked": false}`` and a close.

What the client can know: that the lock was taken and the hold is live, and, through pings and the
close of the socket, when it is lost.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any, ClassVar

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import (
    ConnectionClosed,
    InvalidStatus,
    WebSocketException,
)

from locklane_client.answers import confirm_locked, confirm_unlocked, read_answer
from locklane_client.errors import (
    LocklaneError,
    LockRefused,
    ProtocolViolation,
    ServerUnreachable,
)
from locklane_client.session import MAX_ANSWER, Lost, Session, sentence
from locklane_client.wire import UNLOCK, LockAnswer


class Websocket:
    """See the module."""

    name: ClassVar[str] = "websocket"
    knows: ClassVar[str] = "that it was taken, that its hold is live, and when it is lost"

    def __init__(self, session: Session) -> None:
        self._session = session
        self._connection = _counting(session)

    async def acquire(self, key: str, version: int, lost: Lost) -> WebsocketHold:
        socket = await self._open(key, version)
        try:
            async with asyncio.timeout(self._session.answer_timeout):
                lock_id = confirm_locked(await _receive(self._session, socket))
        except TimeoutError as error:
            await _drop(socket)
            raise ServerUnreachable(
                f"{self._session.address} upgraded, then did not answer within "
                f"{self._session.answer_timeout:g} s"
            ) from error
        except LockRefused:
            self._session.in_background(_close(socket))
            raise
        except BaseException:
            await _drop(socket)
            raise
        return WebsocketHold(self._session, socket, lock_id, lost)

    async def _open(self, key: str, version: int) -> ClientConnection:
        session = self._session
        address = session.address
        session.counts.requests += 1
        options: dict[str, Any] = {"ssl": session.tls} if address.tls and session.tls else {}
        if session.via is not None:
            options["host"], options["port"] = session.via
        if address.authorization:
            options["additional_headers"] = {"Authorization": address.authorization}
        try:
            socket = await _Connect(
                address.websocket_base + session.url("lockcontent", version, key=key),
                create_connection=self._connection,
                compression=None,
                open_timeout=session.connect_timeout,
                # How long a socket on which a ping went unanswered is kept, too.
                close_timeout=min(session.connect_timeout, session.keep_interval),
                ping_interval=session.keep_interval,
                ping_timeout=session.keep_interval,
                max_size=MAX_ANSWER,
                proxy=None,
                **options,
            )
        except InvalidStatus as error:
            session.counts.round_trips += 1
            status, body = error.response.status_code, error.response.body or b""
            if status in (200, 400, 405, 426, 501):
                said = sentence(body) if status != 200 else ""
                raise ProtocolViolation(
                    f"{address} answered the websocket upgrade with {status}"
                    f"{': ' + said if said else ''}; it may not offer this transport: try longpoll"
                ) from error
            raise session.refusal("lockcontent", status, body) from error
        except TimeoutError as error:
            raise ServerUnreachable(
                f"no websocket with {address} within {session.connect_timeout:g} s"
            ) from error
        except WebSocketException as error:
            if isinstance(error.__cause__, (EOFError, OSError)):
                raise ServerUnreachable(
                    f"the connection with {address} broke: {error.__cause__}"
                ) from error
            raise ProtocolViolation(f"{address} did not upgrade to a websocket: {error}") from error
        except (OSError, EOFError) as error:
            why = getattr(error, "strerror", None) or error or type(error).__name__
            raise ServerUnreachable(f"no connection with {address}: {why}") from error
        session.counts.round_trips += 1
        return socket


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
        self._session.in_background(_close(self._socket))

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
        session.in_background(_close(self._socket))
        confirm_unlocked(answer)

    async def abandon(self) -> None:
        self._ended = True
        self._answer.cancel()
        await asyncio.wait([self._answer])
        await _drop(self._socket)


class _Connect(connect):
    """Does not follow redirects: a lock is taken at the address that was given, or not at all."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        return exc


def _counting(session: Session) -> type[ClientConnection]:
    class Counted(ClientConnection):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            session.count_connection()
            super().connection_made(transport)

    return Counted


async def _receive(session: Session, socket: ClientConnection) -> LockAnswer:
    try:
        message = await socket.recv()
    except ConnectionClosed as error:
        close = error.rcvd
        said = f": {close.reason}" if close is not None and close.reason else ""
        code = f" ({close.code})" if close is not None else ""
        raise ServerUnreachable(f"the server closed the websocket{code}{said}") from error
    session.counts.messages += 1
    if isinstance(message, bytes):
        raise ProtocolViolation("the server sent a binary message")
    return read_answer("the server's message", message)


async def _close(socket: ClientConnection) -> None:
    await socket.close()


async def _drop(socket: ClientConnection) -> None:
    """Close without the closing handshake, as a crash would."""
    socket.transport.abort()
    await socket.wait_closed()
