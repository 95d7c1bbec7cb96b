"""A TCP relay on loopback that counts what passes between client and server.

It passes on what each side does, as that side did it: bytes, the end of a stream as such, a reset
as a reset, and slowness as back-pressure. It can do so as late as if the server were far
(:attr:`Relay.rtt_s`). Run as a process of its own, which is described in
:mod:`locklane_bench.relayprocess`, it counts outside what is measured, and what it costs is charged
to neither side.
"""

from __future__ import annotations

import asyncio
import logging
import select
import socket
import struct
from functools import partial
from typing import Self, cast

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser

from locklane_bench.delay import Line, Timer
from locklane_bench.results import RelayCounts

BACKLOG = 4096
"""Connections that may wait to be accepted; ``net.core.somaxconn`` is the kernel's own bound."""

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER, on, 0 s: socket(7)
_log = logging.getLogger(__name__)


class Relay:
    """Listens on a free port of 127.0.0.1 and joins each connection to one made to the target.

    Both event loops, asyncio's and uvloop, set ``TCP_NODELAY`` on every connection by themselves.
    """

    host = "127.0.0.1"
    port: int

    def __init__(self, target_host: str, target_port: int) -> None:
        self.target = (target_host, target_port)
        """Where new connections go; may be changed at any time."""
        self.rtt_s = 0.0
        """Round-trip time in s, 0 or more, of connections to come.

        Half of it passes before what one side does reaches the other. The handshake, which the
        relay completes at once, is charged before the first byte: the server is connected to
        1.5 round trips after the client was accepted, which is when a far server's ``accept``
        would return, and what the client sent by then arrives with that. Even 1 ms legs are right
        to some 0.1 ms on an idle machine, and never short.
        """
        self.counts_requests = False
        """Whether the requests of connections to come are counted; :meth:`count_requests`."""
        self.requests: int | None = None
        """Heads of HTTP/1.1 requests since the start; ``None`` if they never were to be counted."""
        self.connections = 0
        self.up = Tally()
        self.down = Tally()
        self.links: set[_Link] = set()
        self.closing = False
        self._idle = asyncio.Event()

    @property
    def counts(self) -> RelayCounts:
        """Totals since the start. A byte counts once the relay has read it, so the counts of
        connections that are closed are final when :attr:`open` has come down."""
        return RelayCounts(self.connections, self.up.bytes, self.down.bytes, self.requests)

    @property
    def open(self) -> int:
        """Accepted connections of which anything is left, towards the client or the server."""
        return len(self.links)

    def count_requests(self, on: bool) -> None:
        """Whether to look for HTTP requests in what clients send on connections to come.

        What cannot be read as HTTP/1 (TLS, a websocket's frames) passes like anything else; nothing
        is counted on that connection from there on.
        """
        self.counts_requests = on
        if on and self.requests is None:
            self.requests = 0

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self.watch = _ResetWatch(loop)
        self.timer = Timer(loop)
        self._server = await loop.create_server(
            lambda: _Link(self).client, self.host, 0, backlog=BACKLOG
        )
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self.closing = True
        self._server.close()
        for link in list(self.links):
            link.abort()
        while self.links:
            self._idle.clear()
            await self._idle.wait()
        await self._server.wait_closed()
        self.timer.close()
        self.watch.close()

    def ended(self, link: _Link) -> None:
        self.links.discard(link)
        if not self.links:
            self._idle.set()


class Tally:
    bytes = 0


class _Link:
    """A client's connection and the one that is made to the server for it: they live together."""

    def __init__(self, relay: Relay) -> None:
        self.relay = relay
        self.client = _Client(self, relay.up)
        self.server = _Server(self, relay.down)
        self.client.peer, self.server.peer = self.server, self.client
        self.rtt_s = relay.rtt_s
        if self.rtt_s:
            for leg in (self.client, self.server):
                leg.line = Line(relay.timer, self.rtt_s / 2, leg.pause, leg.resume)
        if relay.counts_requests:
            self.client.requests = _Requests(relay)
        self.aborted = False
        self._connecting: asyncio.Task[None] | None = None

    def accepted(self) -> None:
        self.relay.links.add(self)
        self.relay.connections += 1
        if self.relay.closing:
            self.abort()
        elif self.client.line is None:
            self._start_connecting()
        else:
            self.client.line.open_in(1.5 * self.rtt_s)
            self.client.line.put(self._start_connecting)

    def _start_connecting(self) -> None:
        self._connecting = asyncio.create_task(self._connect())
        self._connecting.add_done_callback(self._connected)

    async def _connect(self) -> None:
        """Open the connection to the server.

        A client that vanishes before that is done ends the attempt. Should the server just then
        have accepted, it sees an empty stream that ends, not one that is reset.
        """
        host, port = self.relay.target
        loop = asyncio.get_running_loop()
        try:
            await loop.create_connection(lambda: self.server, host, port)
        except (OSError, UnicodeError) as error:  # a name too odd to look up is the second
            if not self.aborted:
                _log.warning("cannot reach %s port %d: %s", host, port, error)
                self.server.pass_on_reset()

    def _connected(self, connecting: asyncio.Task[None]) -> None:
        if connecting.cancelled():
            self.server.connection_lost(None)  # which uvloop does not say of one made just then
        self.settle()

    def abort(self) -> None:
        """Reset both connections, whatever is still on its way."""
        self.aborted = True
        for leg in (self.client, self.server):
            leg.cancel()
        if self._connecting is not None and self.server.transport is None:
            self._connecting.cancel()
        for leg in (self.client, self.server):
            leg.abort()
        self.settle()

    def settle(self) -> None:
        """Something of this link has come to its end; if it was the last, the link has too."""
        if self._connecting is None:
            to_be_connected = not self.aborted
        else:
            to_be_connected = not self._connecting.done()
        if not to_be_connected and self.client.transport is None and self.server.transport is None:
            for leg in (self.client, self.server):
                leg.cancel()
            self.relay.ended(self)


class _Leg(asyncio.Protocol):
    """One of a link's two connections: what it receives it sends on to its peer, the other."""

    peer: _Leg

    def __init__(self, link: _Link, tally: Tally) -> None:
        self.link = link
        self.tally = tally
        self.line: Line | None = None
        """The way to its peer; None if that is no distance."""
        self.requests: _Requests | None = None
        self.transport: asyncio.Transport | None = None
        """None before the connection is made and when it is lost."""
        self.lost = False
        self.fileno = -1
        self.ended = False
        """It has received the end of its stream."""
        self.finished = False
        """It has been sent the end of its peer's, or is to be as soon as it is connected."""
        self.held = False
        """Its peer takes no more for now."""
        self.early: list[bytes] = []
        """What it is to send as soon as it is connected; at most one read of its peer, which is
        held from then on, and what was on its way at that time."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.fileno = transport.get_extra_info("socket").fileno()

    def data_received(self, data: bytes) -> None:
        self.tally.bytes += len(data)
        if self.requests is not None:
            self.requests.look(data)
        if self.line is None:
            self.peer.send(data)
        else:
            self.line.put(partial(self.peer.send, data), len(data))

    def send(self, data: bytes) -> None:
        if self.transport is not None:
            self.transport.write(data)
        elif not self.lost:
            self.early.append(data)
            self.peer.hold()

    def eof_received(self) -> bool:
        self.ended = True
        if self.line is None:
            self.peer.finish()
        else:
            self.line.put(self.peer.finish)
        if self.finished:
            self.close()
        else:
            self.link.relay.watch.add(self)
        return True  # this side may still be sent to

    def finish(self) -> None:
        """Its peer's stream has ended."""
        self.finished = True
        if self.ended:
            self.close()
        else:
            self.send_eof()

    def send_eof(self) -> None:
        if self.transport is not None:
            try:
                self.transport.write_eof()
            except OSError:  # asyncio's: it has been reset this moment
                self.was_reset()

    def pause_writing(self) -> None:
        self.peer.hold()

    def resume_writing(self) -> None:
        self.peer.release()

    def hold(self) -> None:
        """Stop reading: the peer takes no more for now."""
        self.held = True
        self.pause()

    def release(self) -> None:
        self.held = False
        self.resume()

    def pause(self) -> None:
        if self.transport is not None and not self.ended:
            self.transport.pause_reading()
            self.link.relay.watch.add(self)

    def resume(self) -> None:
        """Read again, unless there still is a reason not to."""
        if self.held or (self.line is not None and self.line.full):
            return
        if self.transport is not None and not self.ended:
            self.link.relay.watch.remove(self)
            self.transport.resume_reading()

    def close(self) -> None:
        """Both sides have said all: deliver what it is still to be sent, then close."""
        self.link.relay.watch.remove(self)
        if self.transport is not None:
            self.transport.close()

    def was_reset(self) -> None:
        """It has been reset, which its event loop does not know."""
        if self.line is None:
            self.link.abort()
        else:
            self.abort()  # and its peer, when it is lost

    def pass_on_reset(self) -> None:
        self.lost = True
        if self.line is None:
            self.link.abort()
        else:
            self.line.put(self.link.abort)

    def cancel(self) -> None:
        """Drop what is on its way to the peer."""
        if self.line is not None:
            self.line.cancel()

    def abort(self) -> None:
        if self.transport is not None:
            connection = self.transport.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            self.transport.abort()

    def connection_lost(self, error: Exception | None) -> None:
        self.link.relay.watch.remove(self)
        self.transport = None
        if not self.link.aborted and not (self.ended and self.finished):
            self.pass_on_reset()
        self.link.settle()


class _Client(_Leg):
    """The connection that was accepted."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.link.accepted()


class _Server(_Leg):
    """The connection to the target."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if self.link.aborted:
            self.abort()
            return
        self.peer.release()  # first: sending may hold it again
        self.send(b"".join(self.early))
        self.early.clear()
        if self.finished:
            self.send_eof()


class _Requests:
    """Counts the heads of requests in what one client sends."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay
        self._parser: HttpRequestParser | None = HttpRequestParser(self)

    def on_headers_complete(self) -> None:
        self._relay.requests = (self._relay.requests or 0) + 1

    def look(self, data: bytes) -> None:
        while data and self._parser is not None:
            try:
                self._parser.feed_data(data)
                data = b""
            except HttpParserUpgrade as upgrade:
                # If the server agrees (101), what follows is no HTTP, which the parser will say; if
                # it does not, it is the next request.
                data = data[upgrade.args[0] :]
            except HttpParserError:
                self._parser = None


class _ResetWatch:
    """Sees the reset of a connection that is not being read, to which event loops are blind.

    The kernel reports errors to an epoll that asked for nothing at all (``man 2 epoll_ctl``).
    Edge-triggered, because a mere hang-up, which is of no interest here, would be reported forever.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._epoll = select.epoll()
        self._legs: dict[int, _Leg] = {}
        loop.add_reader(self._epoll.fileno(), self._look)

    def add(self, leg: _Leg) -> None:
        if leg.fileno not in self._legs:
            self._legs[leg.fileno] = leg
            self._epoll.register(leg.fileno, select.EPOLLET)

    def remove(self, leg: _Leg) -> None:
        if self._legs.get(leg.fileno) is leg:
            del self._legs[leg.fileno]
            self._epoll.unregister(leg.fileno)

    def _look(self) -> None:
        for fd, events in self._epoll.poll(0):
            if events & select.EPOLLERR and fd in self._legs:
                self._legs[fd].was_reset()

    def close(self) -> None:
        self._loop.remove_reader(self._epoll.fileno())
        self._epoll.close()
