"""HTTP/2 for one client: the one connection that all of its requests share, opened when it is
needed, and again when it is gone.

Needs the package h2, which an installation need not have: import this only where it is used.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import Any

from .errors import LocklaneError, ServerUnreachable
from .http2_connection import Answer, Connection, Headers, Slot, Unprocessed
from .session import FAREWELL_SECONDS, Session

__all__ = ["Answer", "Headers", "Http2", "OfferingH2", "Slot"]


class Http2:
    """The connection of a client: opened when it is needed, and again when it is gone."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._connections: set[Connection] = set()
        """The one in use, and such as carry on with what they have."""
        self._opening: asyncio.Task[Connection] | None = None
        self._tls: ssl.SSLContext | None = None
        self._closed = False

    async def begin(self, headers: Headers, wait: float) -> tuple[Slot, Answer]:
        """Send a request without a body; the answer, and the slot it came in, which is the
        caller's to use again and to leave.

        :param wait: seconds to wait for a connection, room on it, and the answer.
        :raises ServerUnreachable: no connection, no room or no answer in time, or it broke.
        :raises ProtocolViolation: the peer does not speak HTTP/2, or speaks it wrongly.
        """
        slot = None
        try:
            async with asyncio.timeout(wait):
                for again in (True, False):
                    slot = await self.slot()
                    try:
                        return slot, await slot.request(headers)
                    except Unprocessed:
                        if not again:
                            raise
                        slot.leave()
                        slot = None
                raise AssertionError("not reached")
        except BaseException as error:
            if slot is not None:
                slot.leave()
            if isinstance(error, TimeoutError):
                raise self._late(wait, slot) from error
            raise

    async def slot(self) -> Slot:
        """Room for a request, on the connection.

        :raises LocklaneError: there is no connection.
        """
        while True:
            connection = await self._connection()
            if await connection.enter():
                return Slot(connection)

    def _late(self, wait: float, slot: Slot | None) -> ServerUnreachable:
        peer = self._session.address
        full = [each.room for each in self._connections if each.usable and slot is None]
        if full:
            return ServerUnreachable(
                f"{peer} allows {full[0]} requests at once on a connection, and none of them ended "
                f"within {wait:g} s: hold fewer locks at once, or take the transport longpoll"
            )
        return ServerUnreachable(f"{peer} did not answer within {wait:g} s")

    async def _connection(self) -> Connection:
        if self._closed:
            raise LocklaneError("the client is closed")
        for connection in self._connections:
            if connection.usable:
                return connection
        if self._opening is None:
            self._opening = asyncio.create_task(self._open())
            self._opening.add_done_callback(self._opened)
        # Whoever waits may go; the others, and those who come, have use for the connection.
        return await asyncio.shield(self._opening)

    def _opened(self, opening: asyncio.Task[Connection]) -> None:
        self._opening = None
        if not opening.cancelled():
            opening.exception()  # has been seen, even if all who waited for it are gone

    async def _open(self) -> Connection:
        session = self._session
        _, connection = await session.connect(
            lambda: Connection(
                str(session.address),
                session.keep_interval,
                self._made,
                self._connections.discard,
            ),
            self._context() if session.address.tls else None,
        )
        if connection.error is not None:
            raise connection.error
        return connection

    def _made(self, connection: Connection) -> None:
        self._session.count_connection()
        self._connections.add(connection)

    def _context(self) -> ssl.SSLContext:
        if self._tls is None:
            given = self._session.tls_context
            assert given is not None
            self._tls = OfferingH2(given)
        return self._tls

    async def aclose(self) -> None:
        """Close every connection; what is in progress on it fails."""
        self._closed = True
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.wait([self._opening])
        closing = [connection.gone for connection in self._connections]
        for connection in tuple(self._connections):
            connection.end(ServerUnreachable("the client was closed"))
        if closing:
            await asyncio.wait(closing, timeout=FAREWELL_SECONDS)
            for connection in tuple(self._connections):
                connection.abort()
            await asyncio.wait(closing)


class OfferingH2(ssl.SSLContext):
    """Another context, with HTTP/2 offered by ALPN; and HTTP/1.1, so that a peer that speaks no
    other says so, and does not just break the handshake off.

    What is offered can only be set on a context, not on a connection, and the other one serves
    HTTP/1.1 elsewhere: so it is set there for just as long as it takes to make the object of a
    connection, which has its own copy. Another thread must not use the context meanwhile.
    """

    _given: ssl.SSLContext

    def __new__(cls, given: ssl.SSLContext) -> OfferingH2:
        self = super().__new__(cls, ssl.PROTOCOL_TLS_CLIENT)
        self._given = given
        return self

    def wrap_bio(self, *args: Any, **options: Any) -> ssl.SSLObject:
        self._given.set_alpn_protocols(["h2", "http/1.1"])
        try:
            return self._given.wrap_bio(*args, **options)
        finally:
            self._given.set_alpn_protocols([])
