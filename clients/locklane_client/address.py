"""Where a repository is served: ``annex+http://user:password@host:9417/git-annex/UUID``."""

from __future__ import annotations

import base64
import ipaddress
import re
from dataclasses import dataclass
from urllib.parse import quote, urlsplit

from .wire import DEFAULT_PORT, bracket, unbracket, unquote

_SCHEMES = {"annex+http": "http", "annex+https": "https", "http": "http", "https": "https"}
_LOGIN = re.compile(r"^([a-z+]*+:/*+)?.*@", re.DOTALL | re.IGNORECASE)
"""What no message may show: all before the last @, whatever a mistake has made of it."""
_HOST = re.compile(r"(?:\[([^\[\]]+)\]|[^\s:\[\]\x00-\x1f\x7f\ud800-\udfff]+)(?::[0-9]*)?")
"""With a port or without. Python's own reading passes over what stands beside brackets (3.11)."""
_FORM = "annex+http://HOST:9417/git-annex/UUID"


@dataclass(frozen=True, slots=True)
class Address:
    """A repository behind the HTTP API. Make it with :meth:`parse`."""

    scheme: str
    """``http`` or ``https``."""
    host: str
    port: int
    base: str
    """Path that ends in ``/git-annex/``, percent-encoded; a prefix may stand in front."""
    uuid: str
    user: str | None = None
    password: str | None = None

    def __repr__(self) -> str:
        return f"Address({str(self)!r})"

    def __str__(self) -> str:
        """The address without the credentials, fit for messages and logs."""
        return f"annex+{self.scheme}://{self.authority}{self.base}{bracket(self.uuid)}"

    @property
    def url(self) -> str:
        """The whole address, credentials and all, as :meth:`parse` takes it. A secret."""
        login = ""
        if self.user is not None:
            login = f"{_quote(self.user)}:{_quote(self.password or '')}@"
        uuid = _quote(bracket(self.uuid))
        return f"annex+{self.scheme}://{login}{self.authority}{self.base}{uuid}"

    @property
    def authority(self) -> str:
        """``host:port``, as in the ``Host`` header."""
        return join_host_port(self.host, self.port)

    @property
    def http_base(self) -> str:
        """``http://host:port/…/git-annex/``."""
        return f"{self.scheme}://{self.authority}{self.base}"

    @property
    def websocket_base(self) -> str:
        """``ws://host:port/…/git-annex/``, or ``wss``."""
        return f"ws{self.scheme[4:]}://{self.authority}{self.base}"

    @property
    def tls(self) -> bool:
        return self.scheme == "https"

    @property
    def authorization(self) -> str | None:
        """Value of the ``Authorization`` header ("authentication": basic, UTF-8)."""
        if self.user is None:
            return None
        pair = f"{self.user}:{self.password or ''}".encode("utf-8", "surrogateescape")
        return f"Basic {base64.b64encode(pair).decode('ascii')}"

    @classmethod
    def parse(cls, url: str, uuid: str | None = None) -> Address:
        """Take a URL apart.

        :param url: as in ``remote.NAME.annexUrl``, or the same with the repository's UUID behind
            ``/git-annex/``; ``http`` and ``https`` work too.
        :param uuid: UUID of the repository, where the URL has none.
        :raises ValueError: the URL cannot be one of the API's, or no UUID is known; the message
            says what to write.
        """
        shown = repr(_LOGIN.sub(r"\1", url))
        try:
            parts = urlsplit(url)
            scheme, host, port = _SCHEMES.get(parts.scheme), parts.hostname, parts.port
            if "@" in parts.path:  # then what stands before it was meant for a password
                raise ValueError("@ in the path")
            if host:
                _check_host(parts.netloc.rpartition("@")[2])
        except ValueError:  # whose text may hold a part of the password
            raise ValueError(
                f"{shown} cannot be read; write {_FORM}, with any of /?#@: in a user or password "
                "as %2F %3F %23 %40 %3A"
            ) from None
        if scheme is None or not host:
            raise ValueError(f"{shown} is no address of a git-annex HTTP server; write {_FORM}")
        if port is None:
            plain = parts.scheme == scheme
            port = (443 if scheme == "https" else 80) if plain else DEFAULT_PORT
        path = parts.path if parts.path.endswith("/") else parts.path + "/"
        before, found, after = path.rpartition("/git-annex/")
        base = before + found if found else path + "git-annex/"
        try:
            in_url = unbracket(unquote(after.strip("/"))) if found else ""
        except ValueError as error:
            raise ValueError(f"{shown} has no readable UUID ({error}); write {_FORM}") from None
        if "/" in in_url:
            raise ValueError(f"{shown} goes on behind the UUID; write {_FORM}")
        if uuid and in_url and uuid != in_url:
            raise ValueError(f"{shown} names another repository than the UUID given, {uuid}")
        if not (uuid or in_url):
            raise ValueError(
                f"which repository at {shown}? Put its UUID behind /git-annex/ ({_FORM}) or give "
                "it by itself; 'git config remote.NAME.annex-uuid' prints it"
            )
        return cls(
            scheme,
            host,
            port,
            base,
            uuid or in_url,
            None if parts.username is None else unquote(parts.username),
            None if parts.password is None else unquote(parts.password),
        )


def _check_host(text: str) -> None:
    match = _HOST.fullmatch(text)
    if match is None:
        raise ValueError("no name of a host")
    if match[1]:
        ipaddress.IPv6Address(match[1])


def join_host_port(host: str, port: int) -> str:
    """``host:port``, an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def split_host_port(text: str) -> tuple[str, int]:
    """Undo :func:`join_host_port`; the port is 0 to 65535.

    :raises ValueError: it is not that.
    """
    host, _, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    if not (
        host
        and not set("[]") & set(host)
        and port.isascii()
        and port.isdecimal()
        and int(port) < 65536
    ):
        raise ValueError(f"not HOST:PORT: {text!r}")
    return host, int(port)


def _quote(text: str) -> str:
    return quote(text, safe="", errors="surrogateescape")
