"""The listening server: sockets, start and stop. The API itself is :mod:`locklane_server.api`."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Iterable, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Self

import anyio
from aiohttp import web

from locklane_client.wire import DEFAULT_PORT
from locklane_server.api import Api
from locklane_server.served import ServedRepository
from locklane_server.transports import TRANSPORTS

IDLE_SECONDS = 75.0
"""How long a connection without a request stays open. Longer than clients keep theirs (15 s in the
reference client, 30 s in git-annex's), so that it is the client that closes."""

BACKLOG = 4096
"""Connections that may wait to be accepted; the kernel's net.core.somaxconn bounds it too."""

GRACE_SECONDS = 5.0
"""How long requests in progress may take to end when the server stops."""

CLEANUP_SECONDS = 1.0
"""How long what is still in progress after that may take to notice that it is cancelled."""

_KEEPALIVE = ((socket.TCP_KEEPIDLE, 60), (socket.TCP_KEEPINTVL, 15), (socket.TCP_KEEPCNT, 4))
"""A peer that does not answer for 60 + 4 × 15 s is gone (tcp(7))."""

_log = logging.getLogger(__name__)


class _CountingServer(web.Server):
    """Counts what is accepted."""

    connections_opened = 0

    def connection_made(self, handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        self.connections_opened += 1
        super().connection_made(handler, transport)


class Server:
    """Serves repositories. Use it as ``async with Server(…) as server``.

    :param repositories: what to serve; each is restored at the start and closed at the end.
    :param transports: names of the lock transports to offer, of :data:`TRANSPORTS`.
    :param host: address to listen on.
    :param port: port to listen on; 0 takes a free one, see :attr:`port`.
    :raises ValueError: an unknown transport.
    :raises OSError: the address cannot be listened on.
    """

    def __init__(
        self,
        repositories: Sequence[ServedRepository],
        *,
        transports: Iterable[str] = tuple(TRANSPORTS),
        host: str = "127.0.0.1",
        port: int = DEFAULT_PORT,
    ) -> None:
        self.repositories = repositories
        self.host = host
        self.port = port
        offered = []
        for name in transports:
            if name not in TRANSPORTS:
                raise ValueError(f"no transport {name!r}; there are {', '.join(TRANSPORTS)}")
            offered.append(TRANSPORTS[name]().requests)
        self._api = Api(repositories, offered)
        self._http: _CountingServer | None = None
        self._runner: web.ServerRunner | None = None
        self._sweepers: list[asyncio.Task[None]] = []

    @property
    def connections_opened(self) -> int:
        """TCP connections accepted so far."""
        return self._http.connections_opened if self._http else 0

    async def __aenter__(self) -> Self:
        try:
            for served in self.repositories:
                await served.restore()
            self._http = _CountingServer(self._api, access_log=None, keepalive_timeout=IDLE_SECONDS)
            self._runner = web.ServerRunner(self._http, shutdown_timeout=CLEANUP_SECONDS)
            await self._runner.setup()
            listening = _listen(self.host, self.port)
            self.port = listening.getsockname()[1]
            await web.SockSite(self._runner, listening, backlog=BACKLOG).start()
        except BaseException:
            await self._close()
            raise
        self._sweepers = [
            asyncio.create_task(served.keep_sweeping()) for served in self.repositories
        ]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._runner is not None
        for site in tuple(self._runner.sites):
            await site.stop()  # no new connections
        for served in self.repositories:
            if served.holds:
                _log.info("%s: %d holds end; their locks stay", served.uuid, served.holds)
            served.end_holds("the server is stopping")
        # Before aiohttp's own clean-up, which stops listening to clients at once: their side of a
        # websocket's closing handshake would never be heard.
        with anyio.move_on_after(GRACE_SECONDS):
            await self._api.stop()
        await self._close()

    async def _close(self) -> None:
        try:
            for sweeper in self._sweepers:
                sweeper.cancel()
                with suppress(asyncio.CancelledError):
                    await sweeper
            if self._runner is not None:
                await self._runner.cleanup()
        finally:
            for served in self.repositories:
                await served.repository.aclose()


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.create_server((host, port), family=family, backlog=BACKLOG)
    # Accepted sockets inherit these.
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _KEEPALIVE:
        listening.setsockopt(socket.IPPROTO_TCP, option, value)
    return listening
