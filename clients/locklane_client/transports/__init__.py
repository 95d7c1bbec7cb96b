"""Lock transports, client side: one file each, the same shape in each, found here by name.

A transport takes a lock and gives back a :class:`Hold`. It decides nothing about what the holder
does; :mod:`locklane_client.client` makes ``async with client.lock(key)`` of it.
"""

from __future__ import annotations

from typing import ClassVar, Protocol

from locklane_client.session import Lost, Session

from .duplex import Duplex
from .longpoll import LongPoll
from .longpoll_http2 import LongPollHttp2
from .multiplex import Multiplex
from .pipeline import Pipeline
from .websocket import Websocket


class Hold(Protocol):
    """One lock, held for as long as somebody needs it."""

    lock_id: str | None
    """The server's name for the lock, where the transport tells it."""

    async def unlock(self) -> None:
        """End the hold; returns when the server confirmed it, or, where the next lock need not wait
        for that, when it is sent: then :meth:`confirmed` tells.

        :raises HoldEnded: the hold had ended before.
        :raises LocklaneError: it was not confirmed; the lock's retention will end it, if the unlock
            never arrives.
        """

    async def confirmed(self) -> None:
        """Wait until the unlock was confirmed.

        :raises LocklaneError: as :meth:`unlock`.
        """

    async def abandon(self) -> None:
        """End the hold without a word, as a crash would. Retention keeps the content locked."""


class Transport(Protocol):
    """A way for holds to travel."""

    name: ClassVar[str]
    knows: ClassVar[str]
    """What a client can know about its lock, in words that follow "knows"."""
    confirmed: ClassVar[bool]
    """The client knows that the server holds the lock live, and not only that it was taken."""
    waits_for_unlock: ClassVar[bool]
    """Leaving a lock waits until the server has confirmed the unlock."""
    told_when_lost: ClassVar[str]
    """When the client learns that its hold is lost, in words."""

    def __init__(self, session: Session) -> None: ...

    async def acquire(self, key: str, version: int, lost: Lost) -> Hold:
        """Take a lock and begin to hold it.

        :param version: of the protocol, for all requests of this hold.
        :param lost: called at most once, as soon as the hold is known to have ended without
            :meth:`Hold.unlock` having been called.
        :raises LockRefused: the server does not lock, with its reason.
        :raises VersionNotServed: 404; the caller may try an earlier version.
        :raises LocklaneError: as in :mod:`locklane_client.errors`.
        """


TRANSPORTS: dict[str, type[Transport]] = {
    transport.name: transport
    for transport in (LongPoll, Pipeline, Websocket, Multiplex, Duplex, LongPollHttp2)
}
"""Every transport by its name. Locklane's server has each of them, but for HTTP/2: that is spoken
with a reverse proxy, and what comes to the server is ``longpoll``."""
