"""The listening server: sockets, start and stop. The API itself is :mod:`locklane_server.api`."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Iterable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import anyio
from aiohttp import web, web_protocol

from locklane_client.wire import DEFAULT_PORT
from locklane_server import descriptors
from locklane_server.api import Api
from locklane_server.repositories import Discovery, Repositories
from locklane_server.request import ApiError
from locklane_server.served import ServedRepository
from locklane_server.transports import TRANSPORTS

IDLE_SECONDS = 75.0
"""How long a connection without a request stays open. Longer than clients keep theirs (15 s in the
reference client, 30 s in git-annex's), so that it is the client that closes."""

BACKLOG = 4096
"""Connections that may wait to be accepted; the kernel's net.core.somaxconn bounds it too."""

EXCESS_SECONDS = 5.0
"""How long a connection beyond the bound may take to ask, and be told, before it is cut."""

HANDSHAKE_SECONDS = 5.0
"""How long a TLS handshake may take."""

GRACE_SECONDS = 5.0
"""How long requests in progress may take to end when the server stops."""

CLEANUP_SECONDS = 1.0
"""How long what is still in progress after that may take to notice that it is cancelled."""

_KEEPALIVE = ((socket.TCP_KEEPIDLE, 60), (socket.TCP_KEEPINTVL, 15), (socket.TCP_KEEPCNT, 4))
"""A peer that does not answer for 60 + 4 × 15 s is gone (tcp(7))."""

_log = logging.getLogger(__name__)


class ListenError(OSError):
    """The address cannot be listened on."""


class _Connection(web.RequestHandler):
    """aiohttp's, but that whoever reads a body is told of what is no HTTP in it: aiohttp itself
    says so to the next request, which a hold's never comes to (3.14)."""

    __slots__ = ()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        request = self._current_request
        if request is not None and self._messages and not request.content.is_eof():
            found, _ = self._messages[-1]
            if isinstance(found, web_protocol._ErrInfo) and request.content.exception() is None:
                request.content.set_exception(web.RequestPayloadError(found.message))

    def log_exception(self, *arguments: Any, **options: Any) -> None:
        if not isinstance(options.get("exc_info"), web.RequestPayloadError):  # the client's doing
            super().log_exception(*arguments, **options)


class _CountingServer(web.Server):
    """Counts what is accepted, and what is open."""

    def __call__(self) -> web.RequestHandler:
        return _Connection(self, loop=self._loop, **self._kwargs)

    connections_opened = 0
    connections_open = 0
    tls_full = 0
    tls_resumed = 0

    def __init__(self, *arguments: Any, bound: int, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._bound = bound
        self.excess: dict[object, asyncio.TimerHandle] = {}
        """Connections beyond the bound, by their handlers: they are told so, and closed."""

    def connection_made(self, handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        self.connections_opened += 1
        self.connections_open += 1
        secured = transport.get_extra_info("ssl_object")
        if secured is not None:
            if secured.session_reused:
                self.tls_resumed += 1
            else:
                self.tls_full += 1
        if self.connections_open > self._bound:
            loop = asyncio.get_running_loop()
            self.excess[handler] = loop.call_later(EXCESS_SECONDS, transport.abort)
        super().connection_made(handler, transport)

    def connection_lost(
        self, handler: web.RequestHandler, exc: BaseException | None = None
    ) -> None:
        self.connections_open -= 1
        if (closing := self.excess.pop(handler, None)) is not None:
            closing.cancel()
        super().connection_lost(handler, exc)

    def admit(self, http: web.BaseRequest) -> bool:
        """Whether a request may be answered on its connection.

        A hold on a lock that was given out is let in for as long as there are descriptors: refused,
        it would block the content's removal for ten minutes.
        """
        if http.protocol not in self.excess:
            return True
        room = self.connections_open <= self._bound + descriptors.RESERVED // 2
        keeps = http.method == "POST" and http.rel_url.raw_path.endswith("/keeplocked")
        if room and keeps:
            self.excess.pop(http.protocol).cancel()
            return True
        return False


class Server:
    """Serves repositories. Use it as ``async with Server(…) as server``.

    :param repositories: what to serve; each is restored at the start and closed at the end.
    :param discovery: finds more, while the server runs.
    :param transports: names of the lock transports to offer, of :data:`TRANSPORTS`.
    :param host: address to listen on.
    :param port: port to listen on; 0 takes a free one, see :attr:`port`.
    :param tls: the certificate to speak TLS with; ``None``: plain HTTP. See :func:`tls_context`.
    :param connections: TCP connections at once; requests on more are answered 503. Default: as many
        as the process may have descriptors, less some for files.
    :raises ValueError: an unknown transport.
    :raises ListenError: the address cannot be listened on.
    """

    def __init__(
        self,
        repositories: Sequence[ServedRepository],
        *,
        discovery: Discovery | None = None,
        transports: Iterable[str] = tuple(TRANSPORTS),
        host: str = "127.0.0.1",
        port: int = DEFAULT_PORT,
        tls: ssl.SSLContext | None = None,
        connections: int | None = None,
    ) -> None:
        self.repositories = Repositories(repositories, discovery)
        self.host = host
        self.port = port
        self.tls = tls
        self.transports = set(transports)
        """Names of the lock transports on offer."""
        for name in self.transports - set(TRANSPORTS):
            raise ValueError(f"no transport {name!r}; there are {', '.join(TRANSPORTS)}")
        offered = [
            transport().requests
            for name, transport in TRANSPORTS.items()
            if name in self.transports
        ]
        self._api = Api(self.repositories, offered)
        if connections is None:
            connections = descriptors.spare()
        self.connections = connections
        self._http: _CountingServer | None = None
        self._runner: web.ServerRunner | None = None
        self._listening: asyncio.Server | None = None
        self._open = AsyncExitStack()

    @property
    def connections_opened(self) -> int:
        """TCP connections accepted so far; over TLS, those whose handshake was completed."""
        return self._http.connections_opened if self._http else 0

    @property
    def connections_open(self) -> int:
        """TCP connections that are open now."""
        return self._http.connections_open if self._http else 0

    @property
    def tls_handshakes(self) -> tuple[int, int]:
        """TLS handshakes so far: full ones, and those that took up an earlier session."""
        return (self._http.tls_full, self._http.tls_resumed) if self._http else (0, 0)

    async def _answer(self, http: web.BaseRequest) -> web.StreamResponse:
        if self._http is not None and not self._http.admit(http):
            full = f"the server has {self.connections} connections, as many as it may"
            refusal = ApiError(503, full).response()
            refusal.force_close()
            return refusal
        return await self._api(http)

    async def __aenter__(self) -> Self:
        try:
            await self._open.enter_async_context(self.repositories.open())
            self._http = _CountingServer(
                self._answer,
                bound=self.connections,
                access_log=None,
                keepalive_timeout=IDLE_SECONDS,
                # What a client compresses may be a thousand times as long as what it sends.
                auto_decompress=False,
            )
            self._runner = web.ServerRunner(self._http, shutdown_timeout=CLEANUP_SECONDS)
            await self._runner.setup()
            try:
                listening = _listen(self.host, self.port)
            except OSError as error:
                raise ListenError(error.errno, error.strerror or str(error)) from error
            self.port = listening.getsockname()[1]
            # Not by a site of aiohttp's, which gives a TLS handshake a minute: meanwhile it takes a
            # descriptor, and is not counted yet.
            self._listening = await asyncio.get_running_loop().create_server(
                self._http,
                sock=listening,
                backlog=BACKLOG,
                ssl=self.tls,
                ssl_handshake_timeout=None if self.tls is None else HANDSHAKE_SECONDS,
            )
        except BaseException:
            await self._close()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._runner is not None
        self._stop_listening()
        for served in self.repositories:
            if served.holds:
                _log.info(
                    "%s: holds that end, while their locks stay: %d", served.uuid, served.holds
                )
            served.end_holds("the server is stopping")
        # Before aiohttp's own clean-up, which stops listening to clients at once: their side of a
        # websocket's closing handshake would never be heard.
        if self._api.in_progress:
            _log.info(
                "requests in progress, waited for up to %g s: %d",
                GRACE_SECONDS,
                self._api.in_progress,
            )
        with anyio.move_on_after(GRACE_SECONDS):
            await self._api.stop()
        await self._close()

    def _stop_listening(self) -> None:
        listening, self._listening = self._listening, None
        if listening is not None:
            listening.close()

    async def _close(self) -> None:
        self._stop_listening()
        try:
            if self._runner is not None:
                await self._runner.cleanup()
        finally:
            await self._open.aclose()


def tls_context(chain: Path, key: Path) -> ssl.SSLContext:
    """What a server needs to speak TLS 1.2 or 1.3.

    :param chain: PEM file of the certificate, and of those between it and the authority.
    :param key: PEM file of its private key, without a password.
    :raises ValueError: they cannot be used; the text says why.
    """
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        # A password would be asked for on the terminal.
        context.load_cert_chain(chain, key, password=lambda: "")
    except OSError as error:  # ssl.SSLError is one
        raise ValueError(
            f"{chain} and {key} cannot be used as certificate and private key: "
            f"{error.strerror or error}"
        ) from error
    return context


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.create_server((host, port), family=family, backlog=BACKLOG)
    # Accepted sockets inherit these.
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _KEEPALIVE:
        listening.setsockopt(socket.IPPROTO_TCP, option, value)
    return listening
