"""``checkpresent``, and ``gettimestamp``."""

from __future__ import annotations

from aiohttp import web

from locklane_client import wire
from locklane_server.access import Right
from locklane_server.request import ApiRequest, Requests, Route

_PRESENT, _NOT_PRESENT = (wire.dumps({"present": present}) for present in (True, False))


async def _checkpresent(request: ApiRequest) -> web.StreamResponse:
    key, _ = request.key, request.client_uuid
    present = await request.served.repository.present(key)
    return request.answer(_PRESENT if present else _NOT_PRESENT)


async def _gettimestamp(request: ApiRequest) -> web.StreamResponse:
    request.needs_version(3)
    _ = request.client_uuid
    return request.answer({"timestamp": int(request.served.clock())})


REQUESTS: Requests = {
    ("POST", "checkpresent"): Route(Right.READ, _checkpresent),
    ("GET", "checkpresent"): Route(Right.READ, _checkpresent),
    ("POST", "gettimestamp"): Route(Right.READ, _gettimestamp),
    ("GET", "gettimestamp"): Route(Right.READ, _gettimestamp),
}
