"""One HTTP/2 connection, as a client has it. h2 keeps the protocol; here are the room for requests,
the pings, and what becomes of the requests when it ends.

Needs the package h2, which an installation need not have: import this only where it is used.
"""

from __future__ import annotations

import asyncio
import secrets
import ssl
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import cast

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    PingAckReceived,
    RemoteSettingsChanged,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    WindowUpdated,
)
from h2.exceptions import ProtocolError, StreamClosedError
from h2.settings import SettingCodes, Settings
from hyperframe.frame import Frame, GoAwayFrame

from .errors import LocklaneError, ProtocolViolation, ServerUnreachable
from .session import IDLE_SECONDS, MAX_ANSWER

Headers = list[tuple[str, str]]

ROOM_UNTOLD = 100
"""Requests at once that a peer is taken to allow before its settings came (RFC 9113, 6.5.2, has
every peer allow that many)."""

MOST_UNWRITTEN = 256 * 1024
"""Bytes that may wait to be written: requests are short, and what else there is answers the peer's
own pings and settings."""

_LAST_STREAM = 2**31 - 1

NOT_SPOKEN = (
    "{} does not speak HTTP/2: put a proxy in front that does, or take the transport longpoll"
)


@dataclass(frozen=True, slots=True)
class Answer:
    """A response, read to its end."""

    status: int
    body: bytes


class Unprocessed(ServerUnreachable):
    """The peer did nothing about the request; it may be sent again on another connection."""


class _H2(H2Connection):
    """h2 lets nothing pass after a GOAWAY, with which a proxy announces only that it takes no new
    requests (python-hyper/h2 #1181)."""

    def _receive_goaway_frame(self, frame: GoAwayFrame) -> tuple[list[Frame], list[Event]]:
        event = ConnectionTerminated()
        event.error_code = frame.error_code
        event.last_stream_id = frame.last_stream_id
        return [], [event]


class Connection(asyncio.Protocol):
    """A connection. It pings every ``keep_interval`` seconds, and ends if the answer to one has not
    come by the time of the next; it ends, too, once nobody has used it for ``IDLE_SECONDS``.

    A peer that has so much answered that more than :data:`MOST_UNWRITTEN` waits to be written, and
    reads none of it, is given up.
    """

    def __init__(
        self,
        peer: str,
        keep_interval: float,
        made: Callable[[Connection], None],
        lost: Callable[[Connection], None],
    ) -> None:
        self.error: LocklaneError | None = None
        """Why it ended; ``None`` while it has not."""
        loop = asyncio.get_running_loop()
        self.gone: asyncio.Future[None] = loop.create_future()
        self.room = ROOM_UNTOLD
        """Requests at once that the peer allows."""
        self.slots: dict[int, Slot] = {}
        """Requests in progress, by stream."""
        self._peer = peer
        self._made = made
        self._lost = lost
        self._loop = loop
        self._keep_interval = keep_interval
        self._taken = 0
        self._waiting: deque[asyncio.Future[bool]] = deque()
        self._writing = False
        self._agreed = False
        self._settled = False
        self._leaving = False
        self._pinging = b""
        """What the ping holds that has not been answered; empty: there is none."""
        self._idle_since = loop.time()
        self.h2 = _H2(H2Configuration(client_side=True))
        self.h2.local_settings = Settings(
            client=True,
            initial_values={
                SettingCodes.ENABLE_PUSH: 0,
                SettingCodes.MAX_HEADER_LIST_SIZE: MAX_ANSWER,
            },
        )

    @property
    def usable(self) -> bool:
        """Whether new requests may be sent."""
        return (
            self.error is None
            and not self._leaving
            and self.h2.highest_outbound_stream_id < _LAST_STREAM
        )

    # -- room ------------------------------------------------------------------------------------

    async def enter(self) -> bool:
        """Wait for room; whether there is some, and not the end of the connection."""
        if not self.usable:
            return False
        if self._taken < self.room and not self._waiting:
            self._taken += 1
            return True
        turn: asyncio.Future[bool] = self._loop.create_future()
        self._waiting.append(turn)
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.result():
                self.left()
            raise

    def left(self) -> None:
        """Somebody who had entered is gone."""
        self._taken -= 1
        self._idle_since = self._loop.time()
        self._admit()

    def _admit(self) -> None:
        while self._waiting and (self._taken < self.room or not self.usable):
            turn = self._waiting.popleft()
            if not turn.done():
                self._taken += self.usable
                turn.set_result(self.usable)

    # -- what goes out ---------------------------------------------------------------------------

    def flush(self) -> None:
        """Write what h2 has to say, with all else that is said in this turn of the event loop."""
        if not self._writing:
            self._writing = True
            self._loop.call_soon(self._write)

    def _write(self) -> None:
        self._writing = False
        data = self.h2.data_to_send()
        if data and not self._transport.is_closing():
            self._transport.write(data)
            if self._transport.get_write_buffer_size() > MOST_UNWRITTEN and self.error is None:
                self.end(
                    ServerUnreachable(f"the connection with {self._peer} broke: it reads nothing")
                )
                self.abort()

    def push(self, stream: int, slot: Slot) -> None:
        """Send as much of a request's body as the peer takes."""
        with suppress(ProtocolError):  # it has just ended; the event that says so comes next
            while slot.rest or slot.ending:
                window = self.h2.local_flow_control_window(stream)
                piece = slot.rest[: max(0, min(window, self.h2.max_outbound_frame_size))]
                if slot.rest and not piece:
                    return
                slot.rest = slot.rest[len(piece) :]
                last = slot.ending and not slot.rest
                self.h2.send_data(stream, piece, end_stream=last)
                if last:
                    slot.ending, slot.ended = False, True

    def finished(self, stream: int) -> None:
        """A request is over, whichever way."""
        slot = self.slots.pop(stream)
        if not slot.ended and self.error is None:
            with suppress(StreamClosedError):
                self.h2.reset_stream(stream, ErrorCodes.CANCEL)
        if self._leaving and not self.slots:
            self.end(ServerUnreachable(f"{self._peer} closes the connection"))

    def _tick(self) -> None:
        if not self._taken and self._loop.time() - self._idle_since >= IDLE_SECONDS:
            self.end(ServerUnreachable("the connection was not used"))
        elif self._pinging:
            self.end(
                ServerUnreachable(
                    f"the connection with {self._peer} broke: no answer to a ping within "
                    f"{self._keep_interval:g} s"
                )
            )
            self.abort()
        else:
            self._pinging = secrets.token_bytes(8)  # which nobody can answer beforehand
            self.h2.ping(self._pinging)
            self.flush()
            self._ticking = self._loop.call_later(self._keep_interval, self._tick)

    # -- what comes in ---------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by its class
        self._made(self)
        self._ticking = self._loop.call_later(self._keep_interval, self._tick)
        secure: ssl.SSLObject | None = transport.get_extra_info("ssl_object")
        self._agreed = secure is not None and secure.selected_alpn_protocol() == "h2"
        if secure is None or self._agreed:
            self.h2.initiate_connection()
            self.flush()
        else:
            self.end(ProtocolViolation(NOT_SPOKEN.format(self._peer)))

    def data_received(self, data: bytes) -> None:
        if self.error is not None:
            return
        try:
            for event in self.h2.receive_data(data):
                self._happened(event)
        except ProtocolError as error:
            if self._settled:
                violation = f"{self._peer} did not keep to HTTP/2: {error}"
            else:
                violation = NOT_SPOKEN.format(self._peer)
            self.end(ProtocolViolation(violation))
        else:
            self.flush()

    def _happened(self, event: Event) -> None:
        match event:
            case ResponseReceived() | DataReceived() | StreamEnded() | StreamReset():
                slot = self.slots.get(event.stream_id or 0)
                if isinstance(event, DataReceived):
                    self.h2.acknowledge_received_data(
                        event.flow_controlled_length or 0, event.stream_id or 0
                    )
                if slot is not None:
                    slot.happened(event)
            case WindowUpdated() | RemoteSettingsChanged():
                if isinstance(event, RemoteSettingsChanged):
                    self._settled = True
                    self.room = self.h2.remote_settings.max_concurrent_streams
                    self._admit()
                for stream, slot in self.slots.items():
                    if slot.rest:
                        self.push(stream, slot)
            case PingAckReceived() if event.ping_data == self._pinging:
                self._pinging = b""
            case ConnectionTerminated():
                self._terminated(event.error_code or 0, event.last_stream_id or 0)

    def _terminated(self, code: int, last: int) -> None:
        self._leaving = True
        self._admit()
        if code != ErrorCodes.NO_ERROR:
            self.end(ServerUnreachable(f"{self._peer} ended the connection: {_name(code)}"))
            return
        for stream in [stream for stream in self.slots if stream > last]:
            slot = self.slots.pop(stream)
            slot.fail(Unprocessed(f"{self._peer} closed the connection before the request came"))
        if not self.slots:
            self.end(ServerUnreachable(f"{self._peer} closed the connection"))

    def connection_lost(self, exc: Exception | None) -> None:
        if self._agreed or self._settled:
            why = exc or "it was closed"
            self.end(ServerUnreachable(f"the connection with {self._peer} broke: {why}"))
        else:  # which is how many a server of HTTP/1.1 takes it
            self.end(ProtocolViolation(NOT_SPOKEN.format(self._peer)))
        self._lost(self)
        self.gone.set_result(None)

    # -- the end ---------------------------------------------------------------------------------

    def end(self, error: LocklaneError) -> None:
        """Close it; what is in progress fails with the error. Does nothing the second time."""
        if self.error is not None:
            return
        self.error = error
        self._ticking.cancel()
        self._admit()
        slots, self.slots = self.slots, {}
        for slot in slots.values():
            slot.fail(error)
        if not isinstance(error, ProtocolViolation):
            self.h2.close_connection()
        self._write()
        self._transport.close()

    def abort(self) -> None:
        """Do not wait until the peer has read all and closed, too."""
        self._transport.abort()


class Slot:
    """Room for one request at a time on a connection, until it is left."""

    def __init__(self, connection: Connection) -> None:
        self.rest = b""
        """Of the body, what the peer has not taken yet."""
        self.ending = False
        """The body ends after that."""
        self.ended = False
        """The body has ended."""
        self._connection = connection
        self._stream = 0
        self._status = 0
        self._body = b""
        self._answer: asyncio.Future[Answer] | None = None
        self._left = False

    @property
    def usable(self) -> bool:
        """Whether another request may be sent."""
        return not self._left and self._connection.usable

    def request(
        self, headers: Headers, body: bytes = b"", *, end: bool = True
    ) -> asyncio.Future[Answer]:
        """Send a request; the answer to come. The one before has to be over.

        :param end: whether the body ends with that; else it goes on with :meth:`send`.
        """
        connection = self._connection
        self.rest, self.ending, self.ended = body, end and bool(body), end and not body
        self._status, self._body = 0, b""
        self._answer = asyncio.get_running_loop().create_future()
        if not self.usable:
            self._answer.set_exception(Unprocessed("the connection is gone"))
            return self._answer
        h2 = connection.h2
        try:
            stream = h2.get_next_available_stream_id()
            h2.send_headers(stream, headers, end_stream=self.ended)
        except ProtocolError as error:  # as when the peer has just come to allow fewer
            self._answer.set_exception(Unprocessed(f"no room on the connection: {error}"))
            return self._answer
        self._stream = stream
        connection.slots[stream] = self
        connection.push(stream, self)
        connection.flush()
        return self._answer

    def send(self, data: bytes, *, end: bool = False) -> None:
        """Send more of the body. Goes nowhere when the request is over."""
        if self._stream in self._connection.slots:
            self.rest += data
            self.ending = end
            self._connection.push(self._stream, self)
            self._connection.flush()

    def leave(self) -> None:
        """Let others have the room. A request in progress is broken off without a word."""
        if self._left:
            return
        self._left = True
        connection = self._connection
        if self._stream in connection.slots:
            connection.finished(self._stream)
            connection.flush()
        if self._answer is not None and not self._answer.cancel() and not self._answer.cancelled():
            self._answer.exception()  # has been seen
        connection.left()

    def fail(self, error: LocklaneError) -> None:
        """There will be no answer."""
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)

    def happened(self, event: ResponseReceived | DataReceived | StreamEnded | StreamReset) -> None:
        """Something came for the request."""
        connection, peer = self._connection, self._connection._peer
        match event:
            case ResponseReceived():
                status = dict(event.headers or ()).get(b":status", b"")
                self._status = int(status) if status.isdigit() else 0
                return
            case DataReceived():
                self._body += event.data or b""
                if len(self._body) <= MAX_ANSWER:
                    return
                self.fail(ProtocolViolation(f"{peer} answered with over {MAX_ANSWER} bytes"))
            case StreamEnded():
                assert self._answer is not None
                if not self._answer.done():
                    self._answer.set_result(Answer(self._status, self._body))
            case StreamReset():
                self.ended = True
                code = event.error_code or 0
                kind = Unprocessed if code == ErrorCodes.REFUSED_STREAM else ServerUnreachable
                self.fail(kind(f"{peer} broke the request off: {_name(code)}"))
        connection.finished(self._stream)


def _name(code: int) -> str:
    try:
        return ErrorCodes(code).name
    except ValueError:
        return f"error {code}"
