"""One HTTP/1.1 connection on which requests are sent without waiting for the answers to earlier
ones; the answers come in their order (RFC 9112, 9.3.2). The parser is llhttp, of httptools."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import httptools

from .errors import LocklaneError, ProtocolViolation, ServerUnreachable
from .session import MAX_ANSWER, Session


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server answered."""

    status: int
    body: bytes


class NotProcessed(LocklaneError):
    """The server closed the connection after the answer to an earlier request, as it had said: it
    has not looked at this one, which may be sent again."""


class PipelinedConnection(asyncio.Protocol):
    """A connection. Made by :func:`connect`.

    :param who: the server, for messages.
    :param when_lost: called when it can carry no more requests.
    """

    def __init__(self, who: str, when_lost: Callable[[PipelinedConnection], None]) -> None:
        self.usable = True
        """It can carry more requests."""
        self._who = who
        self._when_lost = when_lost
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._lost: asyncio.Future[None] = self._loop.create_future()
        self._parser = httptools.HttpResponseParser(self)
        self._body = b""
        self._awaited: deque[asyncio.Future[Answer]] = deque()
        self._held_back: list[bytes] = []

    # -- requests in, answers out ------------------------------------------------------------------

    def request(self, data: bytes) -> asyncio.Future[Answer]:
        """Send a request, or the beginning of one that :meth:`write` ends; its answer, or

        - :class:`NotProcessed`: the server will not answer it any more;
        - :class:`ServerUnreachable`: the connection broke;
        - :class:`ProtocolViolation`: what came was no HTTP, or too long.
        """
        answer: asyncio.Future[Answer] = self._loop.create_future()
        self._awaited.append(answer)
        self.write(data)
        return answer

    def write(self, data: bytes) -> None:
        """Send more of the last request."""
        assert self._transport is not None
        self._held_back.append(data)
        self._flush()

    def write_soon(self, data: bytes) -> None:
        """:meth:`write`, together with what else is written before the loop comes round twice."""
        if not self._held_back:
            self._loop.call_soon(self._loop.call_soon, self._flush)
        self._held_back.append(data)

    def _flush(self) -> None:
        if self._held_back and self._transport is not None:
            data = b"".join(self._held_back)
            self._held_back.clear()
            self._transport.write(data)

    @property
    def awaited(self) -> int:
        """Requests without an answer."""
        return len(self._awaited)

    async def aclose(self, patience: float) -> None:
        """Close it when every answer is there, or in ``patience`` seconds at the latest."""
        self.usable = False
        self._flush()
        try:
            if self._awaited:
                await asyncio.wait(self._awaited, timeout=patience)
        finally:
            if self._transport is not None:
                if self._awaited:
                    self._transport.abort()
                else:
                    self._transport.close()
                await asyncio.wait([self._lost], timeout=patience)

    def abort(self, why: str = "the connection was given up") -> None:
        """Break it, without a word to the server; ``why`` is for those who wait for answers."""
        if self._transport is not None:
            self._transport.abort()
        self._end(ServerUnreachable(why))

    def _end(self, error: LocklaneError) -> None:
        was_usable, self.usable = self.usable, False
        while self._awaited:
            answer = self._awaited.popleft()
            if not answer.done():
                answer.set_exception(error)
        if was_usable:
            self._when_lost(self)

    # -- asyncio's side ----------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._violated("an upgrade that nobody asked for")
        except httptools.HttpParserError as error:
            # The parser reports what its callbacks raise, too: those have ended it already.
            if self._awaited or self.usable:
                self._violated(str(error.__context__ or error))

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        if not self._lost.done():
            self._lost.set_result(None)
        why = error or "the server closed it"
        self._end(ServerUnreachable(f"the connection with {self._who} broke: {why}"))

    def _violated(self, why: str) -> None:
        if self._transport is not None:
            self._transport.abort()
        self._end(ProtocolViolation(f"{self._who} did not speak HTTP: {why}"))

    # -- httptools' side ---------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        self._body = b""

    def on_body(self, data: bytes) -> None:
        self._body += data
        if len(self._body) > MAX_ANSWER:
            self._violated(f"an answer of over {MAX_ANSWER} bytes")

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        if 100 <= status < 200:
            return
        if not self._awaited:
            if self.usable:
                self._violated(f"an answer ({status}) to nothing")
            return
        answer = self._awaited.popleft()
        if not answer.done():
            answer.set_result(Answer(status, self._body))
        if not self._parser.should_keep_alive():
            if self._transport is not None:
                self._transport.close()
            self._end(NotProcessed(f"{self._who} closes the connection"))


async def connect(
    session: Session, when_lost: Callable[[PipelinedConnection], None]
) -> PipelinedConnection:
    """Open a connection with the server of a session.

    :raises ServerUnreachable: there is none within ``connect_timeout``.
    """
    transport, pipeline = await session.connect(
        lambda: PipelinedConnection(str(session.address), when_lost), session.tls_context
    )
    session.count_connection()
    session.set_patience(transport.get_extra_info("socket"))
    return pipeline
