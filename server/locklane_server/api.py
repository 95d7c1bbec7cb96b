"""The HTTP API: from a request on the wire to the repository, and back as an answer.

Reads the path and the parameters, finds the repository, and hands the request to the one function
that answers it. Lock requests belong to the transports (:mod:`locklane_server.transports`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping

from aiohttp import hdrs, web

from locklane_client import wire
from locklane_client.key import Key
from locklane_server.locks import Refusal
from locklane_server.repository import RepositoryError
from locklane_server.served import ServedRepository

_log = logging.getLogger(__name__)


_NONE: Mapping[str, str] = {}


class ApiError(Exception):
    """A request that cannot be answered with what it asked for.

    :param status: HTTP status.
    :param sentence: for a person; git-annex shows it, because it goes out as the reason phrase.
    :param headers: to be sent with it.
    """

    def __init__(self, status: int, sentence: str, headers: Mapping[str, str] = _NONE) -> None:
        super().__init__(sentence)
        self.status = status
        self.sentence = sentence
        self.headers = headers

    def response(self) -> web.Response:
        phrase = " ".join(self.sentence.split()).encode("ascii", "replace").decode("ascii")
        return web.Response(
            status=self.status,
            reason=phrase[:200],
            body=wire.dumps({"error": self.sentence}),
            headers={hdrs.CONTENT_TYPE: wire.JSON_TYPE, **self.headers},
        )


class ApiRequest:
    """One request, understood: which repository, which version, which parameters."""

    __slots__ = ("_query", "http", "path", "served")

    def __init__(
        self,
        http: web.BaseRequest,
        served: ServedRepository,
        path: wire.ApiPath,
        query: dict[str, list[str]],
    ) -> None:
        self.http = http
        self.served = served
        self.path = path
        self._query = query

    def optional(self, name: str) -> str | None:
        """A parameter, or ``None``; of repeated ones the first."""
        values = self._query.get(name)
        return values[0] if values else None

    def required(self, name: str) -> str:
        """A parameter that the request cannot do without ("common request parameters").

        :raises ApiError: 400, it is missing or empty.
        """
        value = self.optional(name)
        if not value:
            raise ApiError(400, f"the parameter {name} is missing")
        return value

    def number(self, name: str, value: str) -> int:
        """A parameter's value as a whole number from 0.

        :raises ApiError: 400, it is not one.
        """
        if not (value.isascii() and value.isdigit() and len(value) <= 20):
            raise ApiError(400, f"the parameter {name} has to be a whole number from 0")
        return int(value)

    @property
    def key(self) -> Key:
        """The key that the request is about.

        :raises ApiError: 400, it is missing or not a key.
        """
        text = self.required("key") if self.path.key is None else self.path.key
        try:
            return Key.parse(text)
        except ValueError as error:
            raise ApiError(400, str(error)) from error

    @property
    def client_uuid(self) -> str:
        return self.required("clientuuid")


Handler = Callable[[ApiRequest], Awaitable[web.StreamResponse]]
Requests = Mapping[tuple[str, str], Handler]
"""What answers which request, by method and name."""


def json_answer(body: bytes) -> web.Response:
    """An answer of the API, with its content type."""
    return web.Response(body=body, headers={hdrs.CONTENT_TYPE: wire.JSON_TYPE})


class Api:
    """Answers every request of the API for the repositories given.

    :param repositories: what is served.
    :param requests: the requests of the transports on offer, added to those of the API itself.
    """

    def __init__(
        self, repositories: Iterable[ServedRepository], requests: Iterable[Requests]
    ) -> None:
        self._repositories = {served.uuid: served for served in repositories}
        self._handlers: dict[tuple[str, str], Handler] = dict(_REQUESTS)
        for more in requests:
            self._handlers.update(more)
        self._methods: dict[str, list[str]] = {}
        for method, name in self._handlers:
            self._methods.setdefault(name, []).append(method)
        self._in_progress = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._stopping = False

    async def stop(self) -> None:
        """Refuse new requests; returns when those in progress are answered."""
        self._stopping = True
        await self._idle.wait()

    async def __call__(self, http: web.BaseRequest) -> web.StreamResponse:
        """Answer a request; nothing that a client sends gets an exception out of here."""
        self._in_progress += 1
        self._idle.clear()
        try:
            return await self._answer(http)
        finally:
            self._in_progress -= 1
            if not self._in_progress:
                self._idle.set()

    async def _answer(self, http: web.BaseRequest) -> web.StreamResponse:
        try:
            if self._stopping:
                raise ApiError(503, "the server is stopping")
            request, handler = self._understand(http)
            return await handler(request)
        except ApiError as error:
            return error.response()
        except ConnectionError:
            return ApiError(400, "the client is gone").response()  # which nobody will read
        except web.RequestPayloadError as error:
            return ApiError(400, f"the body cannot be read: {error}").response()
        except RepositoryError as error:
            _log.error("%s %s: %s", http.method, http.rel_url.raw_path, error)
            return ApiError(500, str(error)).response()

    def _understand(self, http: web.BaseRequest) -> tuple[ApiRequest, Handler]:
        try:
            path = wire.parse_path(http.rel_url.raw_path)
            query = wire.parse_query(http.rel_url.raw_query_string)
        except wire.PathError as error:
            raise ApiError(404, str(error)) from error
        except ValueError as error:
            raise ApiError(400, str(error)) from error
        served = self._repositories.get(path.uuid)
        if served is None:
            raise ApiError(404, f"no repository {path.uuid!a} is served here")
        handler = self._handlers.get((http.method, path.request))
        if handler is None:
            methods = self._methods.get(path.request)
            if methods is None:
                raise ApiError(404, f"no request {path.request[:40]!a} is served here")
            allow = {"Allow": ", ".join(methods)}
            raise ApiError(405, f"{path.request} takes {' or '.join(methods)}", allow)
        return ApiRequest(http, served, path, query), handler


# -- the requests that are not about locks ---------------------------------------------------------


async def _checkpresent(request: ApiRequest) -> web.StreamResponse:
    key, _ = request.key, request.client_uuid
    return json_answer(wire.dumps({"present": await request.served.repository.present(key)}))


async def _remove(request: ApiRequest) -> web.StreamResponse:
    key, _ = request.key, request.client_uuid
    return _removed(request, await request.served.remove(key))


async def _remove_before(request: ApiRequest) -> web.StreamResponse:
    _since_version_3(request)
    key, _ = request.key, request.client_uuid
    before = request.number("timestamp", request.required("timestamp"))
    return _removed(request, await request.served.remove(key, before=before))


async def _gettimestamp(request: ApiRequest) -> web.StreamResponse:
    _since_version_3(request)
    _ = request.client_uuid
    return json_answer(wire.dumps({"timestamp": int(request.served.clock())}))


def _removed(request: ApiRequest, refusal: Refusal | None) -> web.Response:
    answer: dict[str, object] = {"removed": refusal is None}
    if request.path.version is not None and request.path.version >= 2:
        answer["plusuuids"] = []
    if refusal is not None:
        answer["reason"] = refusal.value
    return json_answer(wire.dumps(answer))


def _since_version_3(request: ApiRequest) -> None:
    if request.path.version is not None and request.path.version < 3:
        raise ApiError(404, f"{request.path.request} came with version 3")


async def _key(request: ApiRequest) -> web.StreamResponse:
    """Download ("GET /git-annex/$uuid/vN/key/$key")."""
    key, version, http = request.key, request.path.version, request.http
    skip = request.optional("offset") if version is not None else None
    offset = 0 if skip is None else request.number("offset", skip)
    async with request.served.repository.content(key) as content:
        if content is None:
            raise ApiError(404, "the content is not present")
        length = max(0, content.size - offset)
        response = web.StreamResponse(
            headers={hdrs.CONTENT_TYPE: "application/octet-stream"},
        )
        response.content_length = length
        if version != 0:
            response.headers["X-git-annex-data-length"] = str(length)
        await response.prepare(http)
        if http.method != hdrs.METH_HEAD and length:
            sent = 0
            async for chunk in content.chunks(offset):
                await response.write(chunk[: length - sent])
                sent += len(chunk)
            if sent != length:
                # It changed while it was sent. Truncate, never pad, and let the connection's end
                # say so; who waits for the rest on an open one waits for ever.
                response.force_close()
        await response.write_eof()
    return response


_REQUESTS: Requests = {
    ("POST", "checkpresent"): _checkpresent,
    ("POST", "remove"): _remove,
    ("POST", "remove-before"): _remove_before,
    ("POST", "gettimestamp"): _gettimestamp,
    ("GET", "key"): _key,
    ("HEAD", "key"): _key,
}
