"""Lock transports, client side: one file each, the same shape in each, found here by name.

A transport takes a lock and gives back a :class:`Hold`. It decides nothing about what the holder
does; :mod:`locklane_client.client` makes ``async with client.lock(key)`` of it.
"""

from __future__ import annotations

from typing import ClassVar, Protocol

from locklane_client.session import Lost, Session

from .longpoll import LongPoll
from .websocket import Websocket


class Hold(Protocol):
    """One lock, held for as long as somebody needs it."""

    lock_id: str | None
    """The server's name for the lock, where the transport tells it."""

    async def unlock(self) -> None:
        """End the hold; returns when the server confirmed it.

        :raises LocklaneError: it was not confirmed; the lock's retention will end it.
        """

    async def abandon(self) -> None:
        """End the hold without a word, as a crash would. Retention keeps the content locked."""


class Transport(Protocol):
    """A way for holds to travel."""

    name: ClassVar[str]
    knows: ClassVar[str]
    """What a client can know about its lock, in words that follow "knows"."""

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
    transport.name: transport for transport in (LongPoll, Websocket)
}
"""Every transport by its name."""
