"""TCP connections with clients: how many there may be, and how long each may take over what.

A head that does not come, an answer that is not taken, and a handshake that is not made are cut
off, since each keeps a connection from others. A request that waits for a worker, or a hold that
only waits, is never: nothing here looks at a connection between its request's head and the answer.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import re
import socket
import ssl
from collections import Counter
from typing import Any

import anyio
from aiohttp import web, web_protocol

from locklane_client import wire
from locklane_server import descriptors
from locklane_server.records import network

IDLE_SECONDS = 75.0
"""How long a connection without a request stays open. Longer than clients keep theirs (15 s in the
reference client, 30 s in git-annex's), so that it is the client that closes."""

ADDRESS_SHARE = 0.5
"""Of the connections, what one address may have: there is always room for another. Addresses of
this machine may have all, since a proxy's clients come from there."""

HEAD_SECONDS = 20.0
"""How long the head of a connection's first request may take; that of a later one has to be there
when the connection has been idle for its time."""

TAKE_SECONDS = 120.0
"""How long a client may take nothing of an answer that waits for it."""

EXCESS_SECONDS = 5.0
"""How long a connection beyond the bound may take to ask, and be told, before it is cut."""

HANDSHAKE_SECONDS = 5.0
"""How long a TLS handshake may take."""

ACCEPT_PAUSE_SECONDS = 0.2
"""How long no connection is accepted after the system could not."""

LINGER_SECONDS = 10.0
"""How long the rest of a body that nobody wants is read, so that its sender gets to know why."""

_SENTENCE = re.compile(r"[A-Z][a-z]*(?: (?:'Host'|[A-Za-z0-9-]+))+")
"""What is before a quotation; nothing that could be an address, which has no spaces."""

_log = logging.getLogger(__name__)


class _Connection(web.RequestHandler):
    """aiohttp's, with the bounds of this module, and errors that are said as the API says them.

    Whoever reads a body is told of what is no HTTP in it: aiohttp itself says so to the next
    request, which a hold's never comes to (3.14).
    """

    __slots__ = ("_closing", "_gone", "_late", "whose")

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._late: asyncio.TimerHandle | None = None
        self._closing: asyncio.TimerHandle | None = None
        self._gone = False
        self.whose = ""
        """Whom it is counted for."""

    async def start(self) -> None:
        await super().start()
        self._close_in_time(self.transport)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._late = self._loop.call_later(HEAD_SECONDS, self._no_head)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Of one that is gone, the rest of a body is not waited for: aiohttp itself goes on for as
        long as if it were there (3.14)."""
        self._gone = True
        self._in_time()
        task, answered = self._task_handler, self._current_request is None
        super().connection_lost(exc)
        if self._closing is not None:
            self._closing.cancel()
        if answered and task is not None:
            task.cancel()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._request_count and self._late is not None and not self._paused:
            self._in_time()
        request = self._current_request
        if request is not None and self._messages and not request.content.is_eof():
            found, _ = self._messages[-1]
            if isinstance(found, web_protocol._ErrInfo) and request.content.exception() is None:
                request.content.set_exception(web.RequestPayloadError(_said(found.message)))

    def pause_writing(self) -> None:
        super().pause_writing()
        self._in_time()
        self._late = self._loop.call_later(TAKE_SECONDS, self._abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._in_time()

    def force_close(self) -> None:
        transport = self.transport
        super().force_close()
        self._close_in_time(transport)

    def _close_in_time(self, transport: asyncio.Transport | None) -> None:
        """What still waits to be taken when a connection is closed is not waited for for ever."""
        if transport is not None and self._closing is None and not self._gone:
            self._closing = self._loop.call_later(TAKE_SECONDS, transport.abort)

    def _in_time(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _no_head(self) -> None:
        if self.transport is not None:
            said = wire.dumps({"error": f"no request came within {HEAD_SECONDS:g} s"})
            self.transport.write(
                b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\n"
                b"Content-Type: application/json;charset=utf-8\r\n"
                b"Content-Length: %d\r\n\r\n%s" % (len(said), said)
            )
            self.force_close()

    def _abort(self) -> None:
        if self.transport is not None:
            self.transport.abort()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """What could not be read as HTTP; or a fault of ours, which is logged."""
        if status >= 500:
            _log.error("%s %s failed", request.method, request.rel_url.raw_path, exc_info=exc)
            message = "the server failed at this; its log says more"
        else:
            message = _said(message)
            _log.debug("%s did not speak HTTP: %s", request.remote, message)
        if request.writer.output_size > 0:
            raise ConnectionError("the answer has begun already")
        response = web.Response(
            status=status,
            body=wire.dumps({"error": message}),
            headers={"Content-Type": wire.JSON_TYPE},
        )
        response.force_close()
        return response

    def log_exception(self, *arguments: Any, **options: Any) -> None:
        if not isinstance(options.get("exc_info"), web.RequestPayloadError):  # the client's doing
            super().log_exception(*arguments, **options)


def _said(message: str | None) -> str:
    """What aiohttp says of what is no HTTP, without the words of the client that it quotes: they
    may be of an Authorization header, or of an address with a password."""
    found = _SENTENCE.match(message or "")
    return found[0] if found else "this is no HTTP"


class Connections(web.Server):
    """Accepts, counts and bounds them.

    :param bound: at once; requests on more are to be refused, see :meth:`admit`.
    """

    def __init__(self, *arguments: Any, bound: int, **options: Any) -> None:
        super().__init__(
            *arguments,
            access_log=None,
            keepalive_timeout=IDLE_SECONDS,
            lingering_time=LINGER_SECONDS,
            # What a client compresses may be a thousand times as long as what it sends.
            auto_decompress=False,
            **options,
        )
        self.bound = bound
        self.opened = 0
        """Accepted so far; over TLS, those whose handshake was completed."""
        self.open = 0
        """Open now."""
        self.tls_full = 0
        """TLS handshakes so far."""
        self.tls_resumed = 0
        """Those that took up an earlier session."""
        self.handshakes = 0
        """TLS handshakes that are being made."""
        self._from: Counter[str] = Counter()
        """Connections that are open, by whose address they come from."""
        self._excess: dict[object, asyncio.TimerHandle] = {}
        """Connections beyond the bound, by their handlers: they are told so, and closed."""

    def __call__(self) -> web.RequestHandler:
        return _Connection(self, loop=self._loop, **self._kwargs)

    def connection_made(self, handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        self.opened += 1
        self.open += 1
        secured = transport.get_extra_info("ssl_object")
        if secured is not None:
            if secured.session_reused:
                self.tls_resumed += 1
            else:
                self.tls_full += 1
        peer = transport.get_extra_info("peername")
        whose = _whose(peer[0]) if isinstance(peer, tuple) else ""
        if whose:
            self._from[whose] += 1
            handler.whose = whose  # type: ignore[attr-defined]
        if self.open > self.bound or self._from[whose] > max(1, int(self.bound * ADDRESS_SHARE)):
            loop = asyncio.get_running_loop()
            self._excess[handler] = loop.call_later(EXCESS_SECONDS, transport.abort)
        super().connection_made(handler, transport)
        if self.open > self.bound + descriptors.RESERVED // 2:
            transport.abort()  # there is not even a descriptor for telling it

    def connection_lost(
        self, handler: web.RequestHandler, exc: BaseException | None = None
    ) -> None:
        self.open -= 1
        whose = handler.whose  # type: ignore[attr-defined]
        if whose:
            self._from[whose] -= 1
            if not self._from[whose]:
                del self._from[whose]
        if (closing := self._excess.pop(handler, None)) is not None:
            closing.cancel()
        super().connection_lost(handler, exc)

    async def accept_tls(self, listening: socket.socket, context: ssl.SSLContext) -> None:
        """Accept connections and make their handshakes, until cancelled. A connection takes a
        descriptor from the first moment, so each counts from then on: beyond the bound, it is
        closed at once.

        :param listening: a socket that does not block.
        """
        loop = asyncio.get_running_loop()
        async with anyio.create_task_group() as tasks:
            while True:
                try:
                    accepted, _ = await loop.sock_accept(listening)
                except Exception as error:  # no descriptor, or no memory; or a fault of ours
                    _log.warning("no connection can be accepted: %s", error)
                    await anyio.sleep(ACCEPT_PAUSE_SECONDS)
                    continue
                if self.open + self.handshakes >= self.bound + descriptors.RESERVED // 2:
                    accepted.close()
                else:
                    self.handshakes += 1
                    tasks.start_soon(self._shake_hands, accepted, context)

    async def _shake_hands(self, accepted: socket.socket, context: ssl.SSLContext) -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.connect_accepted_socket(
                self, accepted, ssl=context, ssl_handshake_timeout=HANDSHAKE_SECONDS
            )
        except Exception as error:  # whatever it is, others are accepted
            _log.debug("no TLS connection: %s", error)
            accepted.close()
        finally:
            self.handshakes -= 1

    def admit(self, http: web.BaseRequest) -> bool:
        """Whether a request may be answered on its connection.

        A hold on a lock that was given out is let in for as long as there are descriptors: refused,
        it would block the content's removal for ten minutes. See :func:`stay`.
        """
        if http.protocol not in self._excess:
            return True
        return http.method == "POST" and http.rel_url.raw_path.endswith("/keeplocked")

    def let_stay(self, handler: object) -> None:
        """Do not cut a connection, though it is beyond the bound."""
        if (closing := self._excess.pop(handler, None)) is not None:
            closing.cancel()


def stay(http: web.BaseRequest) -> None:
    """The connection of a request is needed, even if it is beyond the bound: a hold is open."""
    manager = http.protocol._manager
    if isinstance(manager, Connections):
        manager.let_stay(http.protocol)


def _whose(address: str) -> str:
    """Whom a connection is counted for; empty: for nobody, since all may be a proxy's."""
    return "" if _is_here(address) else network(address)


def _is_here(address: str) -> bool:
    try:
        return ipaddress.ip_address(address.partition("%")[0]).is_loopback
    except ValueError:
        return False
