"""TLS sessions that are taken up again: on a second connection the server need not prove once more
who it is (RFC 8446, 2.2). Python keeps no sessions by itself; this does, for each context.

A session stands in for the check of the server's certificate. So one is taken up only for the name
that was checked, by the rules and with the authorities that it was checked by.
"""

from __future__ import annotations

import ssl
from collections.abc import Hashable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, ClassVar


@dataclass(slots=True)
class Handshakes:
    """What a context has seen, as a client."""

    full: int = 0
    """Handshakes in which the server proved who it is."""
    resumed: int = 0
    """Handshakes that took up an earlier session."""
    sessions: dict[Hashable, ssl.SSLSession] = field(default_factory=dict)
    """The newest to take up, by what was checked. Not the connections that they are of: those keep
    the context, past the collection of garbage (CPython 3.11)."""


def handshakes(context: ssl.SSLContext) -> Handshakes:
    """What a context has seen; from now on it takes up sessions, whoever uses it, if nobody else
    has changed what its connections are (``SSLContext.sslobject_class``)."""
    kind = context.sslobject_class
    seen = getattr(kind, "seen", None)
    if isinstance(seen, Handshakes):
        return seen
    seen = Handshakes()
    if kind is ssl.SSLObject:
        # Kept with the context, which its connections know: they all go together.
        context.sslobject_class = type("_ResumingHere", (_Resuming,), {"seen": seen})
    return seen


@lru_cache(maxsize=1)
def default_context() -> ssl.SSLContext:
    """Trusts the system's authorities. All clients that were given no other share it: it takes most
    of a megabyte."""
    return ssl.create_default_context()


def _checked(connection: ssl.SSLObject) -> Hashable:
    """For whom, and how, a connection's server is checked; ``None``: it is not."""
    context = connection.context
    if context.verify_mode == ssl.CERT_NONE:
        return None
    return (
        connection.server_hostname,
        context.verify_mode,
        context.check_hostname,
        context.hostname_checks_common_name,
        context.verify_flags,
        context.minimum_version,
        tuple(context.cert_store_stats().items()),
    )


class _Resuming(ssl.SSLObject):
    """A connection that takes up an earlier session with the same server, where there is one."""

    seen: ClassVar[Handshakes]
    _begun = False
    _kept = False
    _how: Hashable = None

    def do_handshake(self) -> None:
        if not self._begun:
            self._begun = True
            self._how = _checked(self)
            session = self.seen.sessions.get(self._how)
            if session is not None:
                self.session = session
        super().do_handshake()
        if self.session_reused:
            self.seen.resumed += 1
        else:
            self.seen.full += 1

    def read(self, *arguments: Any) -> Any:
        data = super().read(*arguments)
        if not self._kept and self._how is not None:
            # The server's ticket comes after the handshake, before what else it sends.
            session = self.session
            if session is not None and session.has_ticket:
                self._kept = True
                self.seen.sessions[self._how] = session
        return data


def trouble(error: BaseException) -> str:
    """Why there is no TLS connection, in a sentence for a person."""
    # aiohttp has it within.
    inner = getattr(error, "certificate_error", None) or getattr(error, "os_error", None) or error
    if isinstance(inner, ssl.SSLCertVerificationError):
        return (
            f"its certificate is not trusted: {inner.verify_message}; the environment variable "
            "SSL_CERT_FILE can name a file of authorities (PEM)"
        )
    if isinstance(inner, ssl.SSLError) and inner.reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST"):
        return "it does not speak TLS there; try http in the place of https"
    return str(inner)
