"""A websocket with the server, for the transports that use one."""

from __future__ import annotations

import asyncio
import ssl
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException

from .errors import ProtocolViolation, ServerUnreachable
from .session import MAX_ANSWER, Session, sentence
from .tls import trouble


class Upgrade:
    """Makes the websockets of one session.

    A peer that vanished is noticed by pings, each ``keep_interval``.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._connection = _counting(session)

    async def open(
        self, request: str, version: int, **parameters: str | int | None
    ) -> ClientConnection:
        """Open a websocket.

        :param request: what follows the version in the path.
        :raises ServerUnreachable: no connection, no answer in time, or the connection broke.
        :raises AccessDenied: 401 or 403.
        :raises VersionNotServed: 404.
        :raises ProtocolViolation: it was not upgraded.
        """
        session = self._session
        address = session.address
        session.counts.requests += 1
        options: dict[str, Any] = {"ssl": session.tls_context} if address.tls else {}
        if session.via is not None:
            options["host"], options["port"] = session.via
        if address.authorization:
            options["additional_headers"] = {"Authorization": address.authorization}
        try:
            socket = await _Connect(
                address.websocket_base + session.url(request, version, **parameters),
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
                    f"{': ' + said if said else ''}; it may not offer this transport, or a proxy "
                    "in between does not pass upgrades on"
                ) from error
            raise session.refusal(request, status, body) from error
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
        except ssl.SSLError as error:
            raise ServerUnreachable(
                f"no TLS connection with {address}: {trouble(error)}"
            ) from error
        except (OSError, EOFError) as error:
            why = getattr(error, "strerror", None) or error or type(error).__name__
            raise ServerUnreachable(f"no connection with {address}: {why}") from error
        session.counts.round_trips += 1
        return socket


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


async def receive(session: Session, socket: ClientConnection) -> str:
    """The server's next message.

    :raises ServerUnreachable: the websocket was closed.
    :raises ProtocolViolation: it is a binary one.
    """
    try:
        message = await socket.recv()
    except ConnectionClosed as error:
        raise ServerUnreachable(why_closed(error)) from error
    session.counts.messages += 1
    if isinstance(message, bytes):
        raise ProtocolViolation("the server sent a binary message")
    return message


def why_closed(error: ConnectionClosed) -> str:
    """In a sentence."""
    close = error.rcvd
    said = f": {close.reason}" if close is not None and close.reason else ""
    code = f" ({close.code})" if close is not None else ""
    return f"the server closed the websocket{code}{said}"


async def drop(socket: ClientConnection) -> None:
    """Close without the closing handshake, as a crash would."""
    socket.transport.abort()
    await socket.wait_closed()
