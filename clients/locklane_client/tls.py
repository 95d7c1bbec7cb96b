"""TLS sessions that are taken up again: on a second connection the server need not prove once more
who it is (RFC 8446, 2.2). Python keeps no sessions by itself; this does, for each context.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from typing import ClassVar
from weakref import WeakKeyDictionary


@dataclass(slots=True)
class Handshakes:
    """What a context has seen, as a client."""

    full: int = 0
    """Handshakes in which the server proved who it is."""
    resumed: int = 0
    """Handshakes that took up an earlier session."""
    last: dict[str | None, ssl.SSLObject] = field(default_factory=dict)
    """The newest connection with each server, by the name that its certificate was checked for: a
    session with one must never stand in for a check of another."""
    sessions: dict[str | None, ssl.SSLSession] = field(default_factory=dict)

    def session(self, name: str | None) -> ssl.SSLSession | None:
        """One to take up. Servers send tickets after the handshake, so that the newest connection
        may have none yet."""
        newest = self.last.get(name)
        if newest is not None and newest.session is not None and newest.session.has_ticket:
            self.sessions[name] = newest.session
        return self.sessions.get(name)


_contexts: WeakKeyDictionary[ssl.SSLContext, Handshakes] = WeakKeyDictionary()


def handshakes(context: ssl.SSLContext) -> Handshakes:
    """What a context has seen; from now on it takes up sessions, if nobody else has changed what
    its connections are (``SSLContext.sslobject_class``)."""
    found = _contexts.get(context)
    if found is None:
        found = _contexts[context] = Handshakes()
        if context.sslobject_class is ssl.SSLObject:
            context.sslobject_class = type("_Resuming", (_Resuming,), {"seen": found})
    return found


class _Resuming(ssl.SSLObject):
    """A connection that takes up an earlier session with the same server, where there is one."""

    seen: ClassVar[Handshakes]
    _begun = False

    def do_handshake(self) -> None:
        seen = self.seen
        if not self._begun:
            self._begun = True
            session = seen.session(self.server_hostname)
            if session is not None:
                self.session = session
        super().do_handshake()
        seen.last[self.server_hostname] = self
        if self.session_reused:
            seen.resumed += 1
        else:
            seen.full += 1
