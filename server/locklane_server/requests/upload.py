"""``put`` and ``putoffset``."""

from __future__ import annotations

from aiohttp import hdrs, web

from locklane_server.access import Right
from locklane_server.body import arriving
from locklane_server.request import ApiError, ApiRequest, Requests, Route

_LENGTH = "X-git-annex-data-length"


async def _put(request: ApiRequest) -> web.StreamResponse:
    key, client, version = request.key, request.client_uuid, request.path.version
    stored = request.with_plus({"stored": True})
    if version is not None and version >= 4 and request.optional("data-present") == "true":
        if not await request.served.repository.confirm(key):
            reason = "the content is said to be present, and it is not"
            return request.answer({**stored, "stored": False, "reason": reason})
        return request.answer(stored)
    length = _promised(request)
    skip = request.optional("offset") if version != 0 else None
    offset = 0 if skip is None else request.number("offset", skip)
    if key.size is not None and offset + length > key.size:
        raise ApiError(
            422,
            f"the content of this key has {key.size} bytes, and {offset + length} are announced",
        )
    async with request.served.repository.receive(
        key, client=client, file=request.optional("associatedfile"), offset=offset, length=length
    ) as upload:
        if upload is None:
            await _pass_over(request.http)
            return request.answer(stored)
        await _go_ahead(request.http)
        came = 0
        async for data in arriving(request.http):
            came += len(data)
            request.record.received = came
            if came > length:
                raise ApiError(422, f"{length} bytes were promised, and more came")
            await upload.write(data)
        if came < length:
            # A sender whose file changes under its hands says so in this way.
            raise ApiError(422, f"{length} bytes were promised, and {came} came")
        await upload.finish()
    return request.answer(stored)


async def _putoffset(request: ApiRequest) -> web.StreamResponse:
    request.needs_version(1)
    key, _ = request.key, request.client_uuid
    if await request.served.repository.present(key):
        return request.answer(request.with_plus({"alreadyhave": True}))
    return request.answer({"offset": await request.served.repository.partial(key)})


def _promised(request: ApiRequest) -> int:
    value = request.http.headers.get(_LENGTH)
    if value is None:
        raise ApiError(400, f"the header {_LENGTH} is missing, which says how much will come")
    if not (value.isascii() and value.isdigit() and len(value) <= 20):
        raise ApiError(400, f"the header {_LENGTH} has to be a whole number from 0")
    return int(value)


def _expects_go_ahead(http: web.BaseRequest) -> bool:
    return http.headers.get(hdrs.EXPECT, "").lower() == "100-continue"


async def _go_ahead(http: web.BaseRequest) -> None:
    """Tell a client that waits for it that its body is wanted (RFC 9110, 10.1.1)."""
    if _expects_go_ahead(http):
        await http.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        http.writer.output_size = 0  # that was not of the answer


async def _pass_over(http: web.BaseRequest) -> None:
    """Let a client that does not wait send its body: it may read no answer before it has."""
    if not _expects_go_ahead(http):
        async for _ in arriving(http):
            pass


REQUESTS: Requests = {
    ("POST", "put"): Route(Right.WRITE, _put, has_body=True),
    ("POST", "putoffset"): Route(Right.WRITE, _putoffset),
}
