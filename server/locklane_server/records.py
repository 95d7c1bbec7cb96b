"""What each request was, once it is over: a line of the log, and the counters behind the metrics.

A line is ``request`` and pairs of ``name=value`` (logfmt), with keys and users, and no password, no
lock id and no header but those named here.
"""

from __future__ import annotations

import ipaddress
import json
import re
import secrets
import time
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable
from functools import lru_cache

from aiohttp import web

BUCKETS = (0.001, 0.005, 0.025, 0.1, 0.5, 2.5, 10.0, 60.0, 600.0)
"""Upper bounds of the durations that are counted together, in seconds; beyond is one more."""

HOLD = "hold"
"""The class of requests that last as long as a lock is held."""

_LONGEST = 500
"""Characters of a value that are written."""

_PLAIN = re.compile(r"[!#-<>-~]*", re.ASCII)
"""What needs no quotation marks: all that can be seen but ``"`` and ``=``."""

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")

_second = lru_cache(maxsize=1)(
    lambda second: time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
)


@lru_cache(maxsize=1024)
def network(address: str) -> str:
    """Whose an address is: of IPv6, everybody has some 2^64 of them."""
    if ":" not in address:
        return address
    try:
        whole = ipaddress.IPv6Address(address.partition("%")[0])
    except ValueError:  # a proxy may say anything
        return address
    if whole.ipv4_mapped is not None:
        return str(whole.ipv4_mapped)
    return str(ipaddress.IPv6Network((whole, 64), strict=False))


class Record:
    """One request. Whoever learns something of it writes it here."""

    __slots__ = (
        "_records",
        "address",
        "begun",
        "client",
        "error",
        "id",
        "key",
        "kind",
        "method",
        "path",
        "received",
        "repository",
        "request",
        "sent",
        "status",
        "user",
        "version",
    )

    def __init__(self, records: Records, request_id: str, method: str, address: str) -> None:
        self._records = records
        self.id = request_id
        self.begun = time.monotonic()
        self.method = method
        self.address = address
        """Of the client; empty where it is not known (a unix socket)."""
        self.path: str | None = None
        """What was asked for, where it is no request of the API's."""
        self.error: str | None = None
        """Why it was refused, in a sentence."""
        self.kind = "none"
        """Its class: the right that it needs, :data:`HOLD`, or ``none`` if it is none of ours."""
        self.request: str | None = None
        self.repository: str | None = None
        self.version: int | None = None
        self.key: str | None = None
        self.client: str | None = None
        """UUID of the client's repository."""
        self.user: str | None = None
        self.status: int | None = None
        """0: the client was gone before there was one."""
        self.sent = 0
        """Bytes of content in the answer."""
        self.received = 0
        """Bytes of content in the request."""

    @property
    def account(self) -> str:
        """Whom what is taken is counted for: the user, or else the address; IPv6's by the /64."""
        return self.user if self.user is not None else network(self.address)

    def part(self, request: str, key: str) -> Record:
        """One of several things that are asked for in this request, with a line of its own."""
        part = Record(self._records, self.id, self.method, self.address)
        part.kind, part.request, part.key = self.kind, request, key
        part.repository, part.version = self.repository, self.version
        part.client, part.user, part.status = self.client, self.user, 200
        return part

    def end(self) -> None:
        """It has been answered, or the client is gone."""
        self._records.count(self)


class Durations:
    """How long requests of one class and status took."""

    __slots__ = ("counts", "total")

    def __init__(self) -> None:
        self.counts = [0] * (len(BUCKETS) + 1)
        self.total = 0.0
        """Seconds together."""


class Records:
    """Of all requests of a server.

    :param log: takes each line; ``None``: nobody reads them.
    :param trust_forwarded: take a client's address and the request's id from what a proxy says
        (``X-Forwarded-For``, of which the last is the proxy's own, and ``X-Request-Id``).
    """

    def __init__(
        self, log: Callable[[str], None] | None = None, *, trust_forwarded: bool = False
    ) -> None:
        self._log = log
        self._trust = trust_forwarded
        self._prefix = secrets.token_hex(4)
        self._count = 0
        self.durations: defaultdict[tuple[str, int], Durations] = defaultdict(Durations)
        """By class and status."""
        self.received = 0
        """Bytes of content that came."""
        self.sent = 0
        """Bytes of content that went out."""

    def begin(self, http: web.BaseRequest) -> Record:
        """A request has come."""
        self._count += 1
        peer = http.protocol.peername
        address = peer[0] if isinstance(peer, tuple) else ""
        request_id = f"{self._prefix}-{self._count:x}"
        if self._trust:
            headers = http.headers
            # Some proxies write into the header that came, and some add another.
            forwarded = headers.getall("X-Forwarded-For", ("",))[-1]
            address = forwarded.rpartition(",")[2].strip() or address
            given = headers.get("X-Request-Id", "")
            if _REQUEST_ID.fullmatch(given):
                request_id = given
        return Record(self, request_id, http.method, address)

    def count(self, record: Record) -> None:
        """A request is over."""
        seconds = time.monotonic() - record.begun
        durations = self.durations[record.kind, record.status or 0]
        durations.counts[bisect_left(BUCKETS, seconds)] += 1
        durations.total += seconds
        self.received += record.received
        self.sent += record.sent
        if self._log is not None:
            self._log(line(record, seconds, time.time()))


def line(record: Record, seconds: float, now: float) -> str:
    """A request as a line of the log.

    :param seconds: that it took.
    :param now: seconds since the epoch.
    """
    whole = int(now)
    known = "".join(
        f" {name}={_quoted(value)}"
        for name, value in (
            ("user", record.user),
            ("path", record.path),
            ("request", record.request),
            ("repository", record.repository),
            ("version", record.version),
            ("key", record.key),
            ("client", record.client),
        )
        if value is not None
    )
    why = "" if record.error is None else f" error={_quoted(record.error)}"
    return (
        f"request time={_second(whole)}.{int((now - whole) * 1000):03d}Z id={record.id} "
        f"address={_quoted(record.address)} method={_quoted(record.method)}{known} "
        f"status={record.status or 'gone'} received={record.received} sent={record.sent} "
        f"seconds={seconds:.6f}{why}"
    )


def _quoted(value: str | int) -> str:
    text = str(value)
    if len(text) > _LONGEST:
        text = f"{text[:_LONGEST]}…"
    return text if _PLAIN.fullmatch(text) else json.dumps(text)
