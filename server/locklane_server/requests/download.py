"""The content of a key ("GET /git-annex/$uuid/key/$key", and with a version before ``key``).

Beyond what git-annex has: ``Range``, ``ETag``, ``If-None-Match``, ``If-Range`` and HEAD (RFC 9110).
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass

from aiohttp import hdrs, web

from locklane_server.access import Right
from locklane_server.repository import Content, RepositoryError
from locklane_server.request import ApiError, ApiRequest, Requests, Route
from locklane_server.requests import ranges
from locklane_server.sendfile import send_file

SMALL = 64 * 1024
"""Up to so many bytes are read and sent in one piece."""

PIECE = 256 * 1024
"""Bytes that are read at once where the kernel cannot send the file by itself (TLS)."""

_log = logging.getLogger(__name__)
_TAG = re.compile(r'(?:W/)?"([^"]*)"')


@dataclass(slots=True)
class _Part:
    """What is sent of the content: ``length`` bytes from ``begin``."""

    begin: int
    length: int
    whole: int
    """Length of what a request without ``Range`` would get."""
    offset: int
    """Where that begins in the content."""
    status: int = 200


async def _download(request: ApiRequest) -> web.StreamResponse:
    key, version, http = request.key, request.path.version, request.http
    skip = request.optional("offset") if version is not None else None
    offset = 0 if skip is None else request.number("offset", skip)
    async with request.served.repository.content(key) as content:
        if content is None:
            raise ApiError(404, "the content is not present")
        tag = f'"{content.etag}"'
        if _names(http.headers.get(hdrs.IF_NONE_MATCH), content.etag):
            return web.Response(status=304, headers={hdrs.ETAG: tag, **request.headers})
        part = _part(http, content, offset)
        response = web.StreamResponse(
            status=part.status,
            headers={
                hdrs.CONTENT_TYPE: "application/octet-stream",
                hdrs.ETAG: tag,
                hdrs.ACCEPT_RANGES: "bytes",
                **request.headers,
            },
        )
        response.content_length = part.length
        if version != 0:
            response.headers["X-git-annex-data-length"] = str(part.length)
        if part.status == 206:
            first = part.begin - part.offset
            last = first + part.length - 1
            response.headers[hdrs.CONTENT_RANGE] = f"bytes {first}-{last}/{part.whole}"
        if http.method == hdrs.METH_HEAD:
            await response.prepare(http)
        else:
            request.record.sent = await _send(http, response, content, part)
        await response.write_eof()
    return response


def _part(http: web.BaseRequest, content: Content, offset: int) -> _Part:
    offset = min(offset, content.size)
    whole = content.size - offset
    part = _Part(offset, whole, whole, offset)
    condition = http.headers.get(hdrs.IF_RANGE)
    if condition is not None and condition.strip() != f'"{content.etag}"':
        return part
    try:
        wanted = ranges.parse(http.headers.get(hdrs.RANGE, ""), whole)
    except ranges.NothingThereError as error:
        raise ApiError(416, str(error), {hdrs.CONTENT_RANGE: f"bytes */{whole}"}) from error
    if wanted is not None:
        begin, part.length = wanted
        part.begin, part.status = offset + begin, 206
    return part


def _names(condition: str | None, etag: str) -> bool:
    """Whether an ``If-None-Match`` names the content that is here."""
    if condition is None:
        return False
    return condition.strip() == "*" or etag in _TAG.findall(condition)


async def _send(
    http: web.BaseRequest, response: web.StreamResponse, content: Content, part: _Part
) -> int:
    """Send it; the last byte only if the content is still what it was at the first ("content that
    changes while it is sent": the sender truncates, and never pads).

    :returns: bytes sent.
    """
    last = part.begin + part.length - 1
    if part.length <= SMALL:
        body = await content.read(part.begin, part.length)
        if len(body) == part.length and content.unchanged():
            await response.prepare(http)
            await response.write(body)
            return part.length
        await response.prepare(http)
        body = body[: part.length - 1]
        await response.write(body)
        sent = part.begin + len(body)
    else:
        await response.prepare(http)
        sent = part.begin
        try:
            sent = await send_file(http, content, part.begin, last)
            if sent == part.begin:
                sent = await _copy(response, content, part.begin, last)
            end = await content.read(last, 1) if sent == last else b""
        except RepositoryError as error:  # too late for another answer
            _log.error("%s: %s", http.rel_url.raw_path, error)
            end = b""
        if end and content.unchanged():
            await response.write(end)
            return part.length
    # Let the connection's end say so: who waits for the rest on an open one waits for ever.
    response.force_close()
    return sent - part.begin


async def _copy(response: web.StreamResponse, content: Content, begin: int, end: int) -> int:
    """Where the kernel cannot do it; returns where the first byte is that was not sent."""
    while begin < end:
        piece = await content.read(begin, min(PIECE, end - begin))
        if not piece:
            break
        await response.write(piece)
        begin += len(piece)
    return begin


REQUESTS: Requests = {
    ("GET", "key"): Route(Right.READ, _download),
    ("HEAD", "key"): Route(Right.READ, _download),
}
