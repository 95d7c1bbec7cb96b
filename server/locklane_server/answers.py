"""Short JSON answers, which most requests get.

aiohttp's own way of writing one takes a twentieth of what a whole lock takes. It suits every
client; the one here suits those that nearly all are, which keep a connection of HTTP/1.1 open.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from email.utils import formatdate
from functools import lru_cache

from aiohttp import HttpVersion11, hdrs, web
from aiohttp.http import SERVER_SOFTWARE

from locklane_client import wire

_WHOLE = (
    b"HTTP/1.1 200 OK\r\n"
    b"Content-Type: " + wire.JSON_TYPE.encode("ascii") + b"\r\n"
    b"Content-Length: %d\r\n"
    b"Date: %s\r\n"
    b"Server: " + SERVER_SOFTWARE.encode("ascii") + b"\r\n"
    b"\r\n"
    b"%s"
)

_date = lru_cache(maxsize=1)(lambda second: formatdate(second, usegmt=True).encode("ascii"))


class _Ready(web.StreamResponse):
    """A head and a body that are written as one, on a connection that stays open."""

    keep_alive = True

    def __init__(self, body: bytes) -> None:
        super().__init__()
        self._whole = _WHOLE % (len(body), _date(int(time.time())), body)

    async def prepare(self, request: web.BaseRequest) -> None:
        """Write it."""
        await request.writer.write(self._whole)

    async def write_eof(self, data: bytes = b"") -> None:
        """It is written."""


def json_answer(
    http: web.BaseRequest, body: bytes, headers: Mapping[str, str]
) -> web.StreamResponse:
    """The answer to a request that was understood: 200, and JSON.

    :param headers: to be sent besides.
    """
    plain = not headers and http.method != hdrs.METH_HEAD
    if plain and http.version == HttpVersion11 and http.keep_alive:
        return _Ready(body)
    return web.Response(body=body, headers={hdrs.CONTENT_TYPE: wire.JSON_TYPE, **headers})
