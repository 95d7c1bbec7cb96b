"""Lock transports, server side: one file each, the same shape in each, found here by name.

A transport turns bytes on the wire into calls of :class:`~locklane_server.served.ServedRepository`
and its answers into bytes. It waits and decides nothing. Several can be offered on one port: each
names the requests that are its own.
"""

from __future__ import annotations

from typing import ClassVar, Protocol

from locklane_server.request import Requests

from .duplex import Duplex
from .longpoll import LongPoll
from .multiplex import Multiplex
from .pipeline import Pipeline
from .websocket import Websocket


class Transport(Protocol):
    """A way for holds to travel."""

    name: ClassVar[str]

    @property
    def requests(self) -> Requests:
        """What it answers, by method and name of the request."""


TRANSPORTS: dict[str, type[Transport]] = {
    transport.name: transport for transport in (LongPoll, Pipeline, Websocket, Multiplex, Duplex)
}
"""Every transport by its name. Where two answer the same request, the later one does, for both."""
