"""What every client transport stands on: where the server is, who asks, the pool of connections,
the version of the protocol that server speaks, and what was counted."""

from __future__ import annotations

import asyncio
import html
import json
import re
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import aiohttp
from yarl import URL

from .address import Address
from .errors import (
    AccessDenied,
    LocklaneError,
    ProtocolViolation,
    ServerFailed,
    ServerUnreachable,
)
from .tls import Handshakes, default_context, handshakes, trouble
from .wire import VERSIONS, request_path

T = TypeVar("T")
P = TypeVar("P", bound=asyncio.BaseProtocol)

Lost = Callable[[str, bool], None]
"""What a hold calls when it is lost: why, and whether the server may still be keeping the content
for the rest of its ten minutes (it has not said otherwise)."""

MAX_ANSWER = 64 * 1024
"""Longest answer read, in bytes; every answer of the API that is not content is far shorter."""

READ_AHEAD = 512 * 1024
"""Bytes of an answer that may wait to be read before the peer is held up (twice that, in fact)."""

IDLE_SECONDS = 15.0
"""How long an unused connection stays open. Shorter than any server's own limit (30 s in
git-annex's), so that a request is hardly ever sent into a connection that is being closed."""

FAREWELL_SECONDS = 2.0
"""How long a client that is being closed waits for unlocks and closing handshakes that nobody
else waits for."""

_NO_HEADERS: Mapping[str, str] = {}

_TITLE = re.compile(r"<title>([^<]*)</title>", re.IGNORECASE)


@dataclass(slots=True)
class Counts:
    """What a client did so far."""

    connections_opened: int = 0
    """TCP connections."""
    requests: int = 0
    """HTTP requests, a websocket's upgrade included."""
    messages: int = 0
    """Websocket messages sent and received, control frames not included."""
    round_trips: int = 0
    """Times that somebody had to wait for the peer: a TCP handshake, a TLS 1.3 handshake, an
    answer."""
    unconfirmed: int = 0
    """Unlocks that nobody waited for, and that the server then did not confirm."""


class VersionNotServed(LocklaneError):
    """404, or "bad version": this version of the protocol, or this repository, is not served
    there."""


@dataclass(slots=True)
class Session:
    """State that the transports of one client share. Not for use by several event loops."""

    address: Address
    client_uuid: str
    tls: ssl.SSLContext | None
    connect_timeout: float
    answer_timeout: float
    keep_interval: float
    stall_timeout: float = 300.0
    via: tuple[str, int] | None = None
    closed: bool = False
    counts: Counts = field(default_factory=Counts)
    version: int = VERSIONS[0]
    """The best version that the server has not refused."""
    closing: list[Callable[[], Awaitable[None]]] = field(default_factory=list)
    """Called by :meth:`aclose`: what else has connections."""
    holds_arrive: bool = False
    """A hold that nothing answers was seen to have reached the server, or it cannot be known."""
    holds_missing: int = 0
    """How often a hold was looked for at the server and was not there."""
    asking_arrival: bool = False
    """The server is being asked about one."""
    confirming: set[asyncio.Future[None]] = field(default_factory=set)
    """Unlocks that were sent and that nobody waits for: done when the answer is there."""
    _http: aiohttp.ClientSession | None = None
    _tls: ssl.SSLContext | None = None
    _background: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def tls_context(self) -> ssl.SSLContext | None:
        """How to check the server, where it is spoken to over TLS; sessions are taken up again."""
        if not self.address.tls:
            return None
        if self._tls is None:
            self._tls = self.tls or default_context()
            handshakes(self._tls)
        return self._tls

    @property
    def tls_handshakes(self) -> Handshakes:
        """Those made with this session's context, whoever made them."""
        context = self.tls_context
        return Handshakes() if context is None else handshakes(context)

    @property
    def http(self) -> aiohttp.ClientSession:
        """The pool of HTTP connections, made on first use; as many at once as there are holds."""
        if self._http is None:
            trace = aiohttp.TraceConfig()
            trace.on_connection_create_end.append(self._connection_opened)
            authorization = self.address.authorization
            self._http = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    limit=0,
                    keepalive_timeout=IDLE_SECONDS,
                    socket_factory=self._socket,
                    ssl=self.tls_context or True,
                ),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=self.connect_timeout),
                headers={"Authorization": authorization} if authorization else None,
                skip_auto_headers=("Accept-Encoding",),
                trace_configs=[trace],
            )
        return self._http

    def _socket(self, address: aiohttp.AddrInfoType) -> socket.socket:
        family, kind, protocol, *_ = address
        made = socket.socket(family, kind, protocol)
        self.set_patience(made)
        return made

    def set_patience(self, made: socket.socket) -> None:
        """Let a socket give a vanished peer up after some ``keep_interval``s; Linux by itself takes
        a quarter of an hour, more than a lock is retained for (tcp(7))."""
        seconds = max(1, round(self.keep_interval))
        patience = max(2 * self.keep_interval, self.connect_timeout)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in (
            (socket.TCP_KEEPIDLE, seconds),
            (socket.TCP_KEEPINTVL, max(1, seconds // 4)),
            (socket.TCP_KEEPCNT, 4),
            (socket.TCP_USER_TIMEOUT, round(1000 * patience)),
        ):
            made.setsockopt(socket.IPPROTO_TCP, option, value)

    async def connect(
        self, make: Callable[[], P], tls: ssl.SSLContext | None
    ) -> tuple[asyncio.BaseTransport, P]:
        """Open a connection with the server past the pool, for a protocol of one's own.

        :param make: makes the protocol.
        :param tls: the context to speak TLS with; ``None``: plain.
        :raises ServerUnreachable: there is none within ``connect_timeout``.
        """
        address = self.address
        host, port = self.via or (address.host, address.port)
        name = address.host if tls is not None else None
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self.connect_timeout):
                return await loop.create_connection(make, host, port, ssl=tls, server_hostname=name)
        except TimeoutError as error:
            raise ServerUnreachable(
                f"no connection with {address} within {self.connect_timeout:g} s"
            ) from error
        except ssl.SSLError as error:
            raise ServerUnreachable(
                f"no TLS connection with {address}: {trouble(error)}"
            ) from error
        except OSError as error:
            why = error.strerror or error
            raise ServerUnreachable(f"no connection with {address}: {why}") from error

    async def _connection_opened(self, *_: object) -> None:
        self.count_connection()

    def count_connection(self) -> None:
        """A TCP connection was opened, and TLS set up on it where it is used."""
        self.counts.connections_opened += 1
        self.counts.round_trips += 2 if self.address.tls else 1

    def url(self, request: str, version: int, **parameters: str | int | None) -> str:
        """Path and query of a request, to be put behind ``address.http_base``."""
        return request_path(
            self.address.uuid, version, request, **parameters, clientuuid=self.client_uuid
        )

    @asynccontextmanager
    async def send(
        self,
        method: str,
        request: str,
        version: int,
        parameters: Mapping[str, str | int | None],
        *,
        body: Any = None,
        headers: Mapping[str, str] = _NO_HEADERS,
        head_wait: float | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send a request; the body of the ``with`` has the response once its head is there. Read
        the rest with :meth:`answer` or :meth:`block`.

        :param request: what follows the version in the path, percent-encoded.
        :param parameters: as :func:`~locklane_client.wire.request_path` takes them.
        :param body: bytes, or an iterator of them that is sent as it yields. What of it has not
            been sent when the ``with`` ends is not sent, and the connection is closed.
        :param head_wait: seconds to wait for the head; ``None`` waits for as long as it takes.
        :raises ServerUnreachable: no connection, it broke, or no head in time.
        :raises ProtocolViolation: the peer did not speak HTTP.
        """
        self.counts.requests += 1
        address = self.address
        base = address.http_base
        server_hostname = None
        if self.via is not None:
            base = replace(address, host=self.via[0], port=self.via[1]).http_base
            headers = {**headers, "Host": address.authority}
            server_hostname = address.host
        url = URL(base + self.url(request, version, **parameters), encoded=True)
        try:
            async with asyncio.timeout(head_wait):
                with self._plainly():
                    response = await self.http.request(
                        method,
                        url,
                        data=body,
                        headers=headers,
                        server_hostname=server_hostname,
                        allow_redirects=False,
                        read_bufsize=READ_AHEAD,
                    )
        except TimeoutError as error:
            raise ServerUnreachable(f"{address} did not answer within {head_wait} s") from error
        async with response:
            yield response
            self.counts.round_trips += 1

    async def answer(self, request: str, response: aiohttp.ClientResponse) -> bytes:
        """The body of a response that is not content.

        :raises ServerUnreachable: the connection broke.
        :raises ProtocolViolation: it is too long.
        """
        text = b""
        with self._plainly():
            while len(text) <= MAX_ANSWER:
                more = await response.content.read(MAX_ANSWER + 1 - len(text))
                if not more:
                    return text
                text += more
        raise ProtocolViolation(f"{self.address} answered {request} with over {MAX_ANSWER} bytes")

    async def line(
        self, request: str, response: aiohttp.ClientResponse, wait: float | None
    ) -> bytes:
        """The next line of a response that is not over yet; empty at its end.

        :param wait: seconds to wait for it; ``None`` waits for as long as it takes.
        :raises ServerUnreachable: the connection broke, or no line came in time.
        :raises ProtocolViolation: it is too long.
        """
        try:
            async with asyncio.timeout(wait):
                with self._plainly():
                    return await response.content.readline(max_line_length=MAX_ANSWER)
        except TimeoutError as error:
            raise ServerUnreachable(f"{self.address} has not answered for {wait} s") from error
        except aiohttp.http_exceptions.LineTooLong as error:
            raise ProtocolViolation(
                f"{self.address} answered {request} with over {MAX_ANSWER} bytes"
            ) from error

    async def block(self, response: aiohttp.ClientResponse) -> bytes:
        """Some more of the content in a response; empty at its end.

        :raises ServerUnreachable: the connection broke, or nothing came for ``stall_timeout``.
        :raises ProtocolViolation: the peer did not speak HTTP.
        """
        try:
            async with asyncio.timeout(self.stall_timeout):
                with self._plainly():
                    return await response.content.readany()
        except TimeoutError as error:
            raise self.stalled() from error

    def stalled(self) -> ServerUnreachable:
        """The error that ``stall_timeout`` without a byte of content amounts to."""
        return ServerUnreachable(f"{self.address} made no progress for {self.stall_timeout:g} s")

    async def post(
        self,
        request: str,
        version: int,
        *,
        body: Any = None,
        headers: Mapping[str, str] = _NO_HEADERS,
        wait: float | None = None,
        **parameters: str | int | None,
    ) -> bytes:
        """Send a POST and read the answer.

        :param wait: seconds to wait for the answer; ``None`` waits for as long as it takes.
        :raises ServerUnreachable: no connection, no answer in time, or the connection broke.
        :raises AccessDenied: 401 or 403.
        :raises VersionNotServed: 404.
        :raises ProtocolViolation: any other answer than 200, or one that is too long.
        """
        try:
            async with (
                asyncio.timeout(wait),
                self.send(
                    "POST", request, version, parameters, body=body, headers=headers
                ) as response,
            ):
                text = await self.answer(request, response)
        except TimeoutError as error:
            raise ServerUnreachable(f"{self.address} did not answer within {wait} s") from error
        if response.status != 200:
            raise self.refusal(request, response.status, text)
        return text

    @contextmanager
    def _plainly(self) -> Iterator[None]:
        """Turns aiohttp's errors into ours."""
        try:
            yield
        except aiohttp.ServerTimeoutError as error:
            raise ServerUnreachable(
                f"no connection with {self.address} within {self.connect_timeout:g} s"
            ) from error
        except aiohttp.ClientSSLError as error:
            raise ServerUnreachable(
                f"no TLS connection with {self.address}: {trouble(error)}"
            ) from error
        except aiohttp.ClientConnectorError as error:
            why = error.os_error.strerror or error.os_error
            raise ServerUnreachable(f"no connection with {self.address}: {why}") from error
        except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, OSError) as error:
            raise ServerUnreachable(
                f"the connection with {self.address} broke: {error or type(error).__name__}"
            ) from error
        except aiohttp.ClientError as error:
            raise ProtocolViolation(f"{self.address} did not speak HTTP: {error}") from error

    def refusal(self, request: str, status: int, body: bytes | bytearray) -> LocklaneError:
        """The error that an answer other than 200 amounts to."""
        said = sentence(body)
        message = f"{self.address} answered {request} with {status}{': ' + said if said else ''}"
        match status:
            case 404:
                return VersionNotServed(message)
            case 401 | 403:
                return AccessDenied(message, status)
            case 400 if is_of_another_version(status, body):
                return VersionNotServed(message)
            case 500:
                return ServerFailed(message)
            case 502 | 503 | 504:
                return ServerUnreachable(message)
            case _:
                return ProtocolViolation(message)

    async def with_version(self, attempt: Callable[[int], Awaitable[T]]) -> T:
        """Make an attempt with the best version of the protocol, and with an earlier one for as
        long as the server answers 404 ("protocol version"). What was found is kept for the next
        attempt; those under way go on with theirs.

        :raises ServerUnreachable: no version is served there for this repository.
        """
        for version in range(self.version, VERSIONS[-1] - 1, -1):
            try:
                done = await attempt(version)
            except VersionNotServed as error:
                refused = error
            else:
                self.version = min(self.version, version)
                return done
        raise ServerUnreachable(f"{refused}; check the address and the UUID") from refused

    def in_background(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Let work go on that nobody has to wait for, until :meth:`aclose` at the latest."""
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        return task

    async def aclose(self) -> None:
        """End what goes on in the background, then close every connection."""
        self.closed = True
        try:
            if self._background:
                patience = min(self.connect_timeout, FAREWELL_SECONDS)
                _, late = await asyncio.wait(self._background, timeout=patience)
                for task in late:
                    task.cancel()
                if late:
                    await asyncio.wait(late)
        finally:
            for close in self.closing:
                await close()
            if self._http is not None:
                await self._http.close()


def is_of_another_version(status: int, body: bytes | bytearray) -> bool:
    """Whether an answer says that this version of the protocol is not spoken there: a 404 in the
    design page, and from ``git annex p2phttp`` this."""
    return status == 400 and body.strip() == b"bad version"


def sentence(body: bytes | bytearray) -> str:
    """What an error answer says to a person, on one line and not too long."""
    text = body.decode("utf-8", "replace")
    if text.lstrip()[:1] == "<":  # a page, of some other server
        title = _TITLE.search(text)
        text = html.unescape(title[1]) if title else ""
    try:
        answer = json.loads(text)
        if isinstance(answer, dict) and isinstance(answer.get("error"), str):
            text = answer["error"].encode("utf-8", "replace").decode("utf-8")
    except (ValueError, RecursionError):
        pass
    line = " ".join(text.split())
    return line if len(line) <= 300 else line[:299] + "…"
