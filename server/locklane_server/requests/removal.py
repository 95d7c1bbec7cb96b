"""``remove`` and ``remove-before``."""

from __future__ import annotations

from aiohttp import web

from locklane_server.access import Right
from locklane_server.locks import Refusal
from locklane_server.request import ApiRequest, Requests, Route


async def _remove(request: ApiRequest) -> web.StreamResponse:
    key, _ = request.key, request.client_uuid
    return _removed(request, await request.served.remove(key))


async def _remove_before(request: ApiRequest) -> web.StreamResponse:
    request.needs_version(3)
    key, _ = request.key, request.client_uuid
    before = request.number("timestamp", request.required("timestamp"))
    return _removed(request, await request.served.remove(key, before=before))


def _removed(request: ApiRequest, refusal: Refusal | None) -> web.StreamResponse:
    members = request.with_plus({"removed": refusal is None})
    if refusal is not None:
        members["reason"] = refusal.value
    return request.answer(members)


REQUESTS: Requests = {
    ("POST", "remove"): Route(Right.REMOVE, _remove),
    ("POST", "remove-before"): Route(Right.REMOVE, _remove_before),
}
