"""What a browser asks on behalf of another site's page is refused: the page's author could be
anybody, and the browser sends along what it knows: passwords, and that it is inside the network.

No page is served here, so every request that a page makes comes from elsewhere. A browser says so:
by ``Origin`` with each websocket and each request that may change something, and by
``Sec-Fetch-Site`` with all others (Fetch Metadata). git-annex and the like send neither. A link to
a file may be followed: who placed it does not get to see the file.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from aiohttp import hdrs, web

from locklane_server.access import Denied

_SITE = "Sec-Fetch-Site"
_MODE = "Sec-Fetch-Mode"

NO_HEADERS: Mapping[str, str] = {}

_EXPOSED = "Content-Range, ETag, X-git-annex-data-length"
_ACCEPTED = "Authorization, Content-Type, If-None-Match, Range, X-git-annex-data-length"


def check(http: web.BaseRequest, allowed: Collection[str]) -> Mapping[str, str]:
    """Look where a request comes from.

    :param allowed: origins whose pages may use the server, as browsers write them:
        ``https://example.org``.
    :returns: headers for the answer, without which a browser shows it to no page.
    :raises Denied: it is from a page of another site.
    """
    headers = http.headers
    origin = headers.get(hdrs.ORIGIN)
    if origin is None:
        site = headers.get(_SITE)
        if site is None or site in ("none", "same-origin"):
            return NO_HEADERS
        if http.method in (hdrs.METH_GET, hdrs.METH_HEAD) and headers.get(_MODE) == "navigate":
            return NO_HEADERS
        raise Denied(403, "requests by other sites' pages are refused")
    if origin not in allowed:
        raise Denied(
            403, f"requests by pages of {origin[:100]!a} are refused; --allow-origin allows them"
        )
    return {
        "Access-Control-Allow-Origin": origin,
        "Access-Control-Allow-Credentials": "true",
        "Access-Control-Expose-Headers": _EXPOSED,
        "Vary": "Origin",
    }


def preflight(headers: Mapping[str, str]) -> web.Response:
    """The answer to a browser that asks whether a page's request may be made (Fetch, "CORS
    preflight"), with what :func:`check` has returned."""
    more = {
        "Access-Control-Allow-Methods": "GET, HEAD, POST",
        "Access-Control-Allow-Headers": _ACCEPTED,
        "Access-Control-Max-Age": "600",
    }
    return web.Response(status=204, headers={**headers, **more})
