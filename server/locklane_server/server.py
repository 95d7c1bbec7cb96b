"""The listening server: sockets, start and stop. The API itself is :mod:`locklane_server.api`."""

from __future__ import annotations

import asyncio
import logging
import socket as socket_module
import ssl
from collections.abc import Collection, Iterable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

import anyio
from aiohttp import web

from locklane_client.wire import DEFAULT_PORT
from locklane_server import descriptors
from locklane_server.access import Access
from locklane_server.api import Api
from locklane_server.connections import Connections
from locklane_server.health import Health
from locklane_server.listening import BACKLOG, SOCKET_MODE, listen, listen_unix
from locklane_server.records import Records
from locklane_server.repositories import Discovery, Repositories
from locklane_server.request import ApiError
from locklane_server.served import ServedRepository
from locklane_server.transports import TRANSPORTS
from locklane_server.workers import Workers

GRACE_SECONDS = 30.0
"""How long requests in progress may take to end when the server stops, unless told otherwise."""

CLEANUP_SECONDS = 1.0
"""How long what is still in progress after that may take to notice that it is cancelled."""

_log = logging.getLogger(__name__)


class Server:
    """Serves repositories. Use it as ``async with Server(…) as server``.

    :param repositories: what to serve; each is restored at the start and closed at the end.
    :param discovery: finds more, while the server runs.
    :param transports: names of the lock transports to offer, of :data:`TRANSPORTS`.
    :param access: who may do what.
    :param host: address to listen on.
    :param port: port to listen on; 0 takes a free one, see :attr:`port`.
    :param socket: unix socket to listen on in their place, and who may use it: its mode.
    :param tls: the certificate to speak TLS with; ``None``: plain HTTP. See
        :func:`~locklane_server.listening.tls_context`.
    :param connections: TCP connections at once; requests on more are answered 503. Default: as many
        as the process may have descriptors, less some for files.
    :param records: of requests.
    :param origins: of sites whose pages may use the server.
    :param workers: those of the repositories; as many requests may wait for them as
        :data:`~locklane_server.api.MAX_WAITING`.
    :param grace: how long requests in progress may take to end when it stops, in seconds.
    :raises ValueError: an unknown transport.
    :raises ~locklane_server.listening.ListenError: the address cannot be listened on.
    """

    def __init__(
        self,
        repositories: Sequence[ServedRepository],
        *,
        access: Access,
        discovery: Discovery | None = None,
        transports: Iterable[str] = tuple(TRANSPORTS),
        host: str = "127.0.0.1",
        port: int = DEFAULT_PORT,
        socket: tuple[Path, int] | Path | None = None,
        tls: ssl.SSLContext | None = None,
        connections: int | None = None,
        records: Records | None = None,
        origins: Collection[str] = (),
        workers: Workers | None = None,
        grace: float = GRACE_SECONDS,
    ) -> None:
        self.repositories = Repositories(repositories, discovery)
        self.health = Health(self.repositories)
        self.records = records or Records()
        self.workers = workers
        self.host = host
        self.port = port
        self.socket = (socket, SOCKET_MODE) if isinstance(socket, Path) else socket
        self.tls = tls
        self.grace = grace
        self.transports = set(transports)
        """Names of the lock transports on offer."""
        for name in self.transports - set(TRANSPORTS):
            raise ValueError(f"no transport {name!r}; there are {', '.join(TRANSPORTS)}")
        offered = [
            transport().requests
            for name, transport in TRANSPORTS.items()
            if name in self.transports
        ]
        self._api = Api(
            self.repositories,
            offered,
            access=access,
            records=self.records,
            health=self.health,
            origins=origins,
            workers=workers,
        )
        if connections is None:
            connections = descriptors.spare()
        self.connections = connections
        self._http: Connections | None = None
        self._runner: web.ServerRunner | None = None
        self._listening: asyncio.Server | socket_module.socket | None = None
        self._accepting: asyncio.Task[None] | None = None
        self._open = AsyncExitStack()
        self._hurried = asyncio.Event()

    @property
    def connections_opened(self) -> int:
        """TCP connections accepted so far; over TLS, those whose handshake was completed."""
        return self._http.opened if self._http else 0

    @property
    def connections_open(self) -> int:
        """TCP connections that are open now."""
        return self._http.open if self._http else 0

    @property
    def tls_handshakes(self) -> tuple[int, int]:
        """TLS handshakes so far: full ones, and those that took up an earlier session."""
        return (self._http.tls_full, self._http.tls_resumed) if self._http else (0, 0)

    async def _answer(self, http: web.BaseRequest) -> web.StreamResponse:
        if self._http is not None and not self._http.admit(http):
            full = f"the server has {self.connections} connections, as many as it may"
            record = self.records.begin(http)
            refusal = ApiError(503, full).response(record)
            refusal.force_close()
            record.status = refusal.status
            record.end()
            return refusal
        return await self._api(http)

    async def __aenter__(self) -> Self:
        try:
            await self._open.enter_async_context(self.repositories.open())
            self._http = Connections(self._answer, bound=self.connections)
            self._runner = web.ServerRunner(self._http, shutdown_timeout=CLEANUP_SECONDS)
            await self._runner.setup()
            if self.socket is not None:
                listening = listen_unix(*self.socket)
            else:
                listening = listen(self.host, self.port)
                self.port = listening.getsockname()[1]
            if self.tls is None:
                self._listening = await asyncio.get_running_loop().create_server(
                    self._http, sock=listening, backlog=BACKLOG
                )
            else:
                listening.setblocking(False)
                self._listening = listening
                accepting = asyncio.create_task(self._http.accept_tls(listening, self.tls))
                self._open.push_async_callback(_cancel, accepting)
                self._accepting = accepting
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
        self.health.stopping = True
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
                "requests in progress, waited for up to %g s: %d", self.grace, self._api.in_progress
            )
        with anyio.move_on_after(self.grace):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._until_hurried, tasks.cancel_scope)
                await self._api.stop()
                tasks.cancel_scope.cancel()
        await self._close()

    def hurry(self) -> None:
        """Do not wait any longer for requests in progress."""
        self._hurried.set()

    async def _until_hurried(self, waiting: anyio.CancelScope) -> None:
        await self._hurried.wait()
        waiting.cancel()

    def _stop_listening(self) -> None:
        listening, self._listening = self._listening, None
        if listening is not None:
            if self.socket is not None:  # while it is ours: the next server may wait for its name
                self.socket[0].unlink(missing_ok=True)
            if self._accepting is not None:
                self._accepting.cancel()
            listening.close()

    async def _close(self) -> None:
        self._stop_listening()
        try:
            if self._runner is not None:
                await self._runner.cleanup()
        finally:
            await self._open.aclose()


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])
