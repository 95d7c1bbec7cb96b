"""The HTTP API: from a request on the wire to the repository, and back as an answer.

Whether a request may be answered is looked at before anything else: its class, who asks, and from
where. Then the repository is found, and the one function that answers such a request does the rest.
Lock requests belong to the transports (:mod:`locklane_server.transports`).
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress

from aiohttp import hdrs, web

from locklane_client import wire
from locklane_server import crosssite
from locklane_server.access import REALM, Access, Denied
from locklane_server.health import Health
from locklane_server.records import HOLD, Record, Records
from locklane_server.repositories import Repositories
from locklane_server.repository import (
    BadOffset,
    InvalidContent,
    NoSpace,
    NotAccepted,
    NotEnoughReserve,
    ReadOnly,
    RepositoryError,
    RepositoryGone,
    TransferInProgress,
)
from locklane_server.request import ApiError, ApiRequest, Requests, Route
from locklane_server.requests import REQUESTS
from locklane_server.workers import Workers

MAX_WAITING = 10_000
"""Requests that may wait for a worker; more are refused, but for the end of a lock."""

MAX_BODY = 64 * 1024
"""Bytes of a body that a request may have that needs none."""

_log = logging.getLogger(__name__)

_STATUS: dict[type[RepositoryError], int] = {
    TransferInProgress: 409,
    BadOffset: 409,
    NotAccepted: 422,
    InvalidContent: 422,
    NoSpace: 507,
    NotEnoughReserve: 413,
    ReadOnly: 503,
}
"""What each refusal of a repository is on the wire; any other is a 500."""


class Api:
    """Answers every request of the API for the repositories given.

    :param repositories: what is served.
    :param requests: the requests of the transports on offer, added to those of the API itself.
    :param access: who may do what.
    :param records: told of every request.
    :param health: whether the repositories can be served.
    :param origins: of sites whose pages may use the server.
    :param workers: what is waited for.
    """

    def __init__(
        self,
        repositories: Repositories,
        requests: Iterable[Requests],
        *,
        access: Access,
        records: Records,
        health: Health,
        origins: Collection[str] = (),
        workers: Workers | None = None,
    ) -> None:
        self._repositories = repositories
        self._access = access
        self._records = records
        self._health = health
        self._origins = frozenset(origins)
        self._workers = workers
        self._routes: dict[tuple[str, str], Route] = dict(REQUESTS)
        for more in requests:
            self._routes.update(more)
        self._methods: dict[str, list[str]] = {}
        for method, name in self._routes:
            self._methods.setdefault(name, []).append(method)
        self.in_progress = 0
        """Requests that are being answered."""
        self._idle = asyncio.Event()
        self._stopping = False

    async def stop(self) -> None:
        """Refuse new requests; returns when those in progress are answered."""
        self._stopping = True
        if self.in_progress:
            await self._idle.wait()

    async def __call__(self, http: web.BaseRequest) -> web.StreamResponse:
        """Answer a request; nothing that a client sends gets an exception out of here."""
        self.in_progress += 1
        record = self._records.begin(http)
        try:
            response = await self._answer(http, record)
            if record.status is None:
                record.status = response.status
            return response
        finally:
            record.end()
            self.in_progress -= 1
            if self._stopping and not self.in_progress:
                self._idle.set()

    async def _answer(self, http: web.BaseRequest, record: Record) -> web.StreamResponse:
        headers = crosssite.NO_HEADERS
        try:
            # Who asks and asks and never reads is not asked what more it wants, whatever it asked.
            await http.writer.drain()
            headers = crosssite.check(http, self._origins)
            record.path = http.rel_url.raw_path
            if record.path == "/health":
                if http.method not in (hdrs.METH_GET, hdrs.METH_HEAD):
                    raise ApiError(405, "health takes GET or HEAD", {"Allow": "GET, HEAD"})
                return await self._health.answer()
            if self._stopping:
                raise ApiError(503, "the server is stopping")
            path = _parse_path(http)
            record.request, record.version = path.request[:40], path.version
            route = self._route(http, path)
            if route is None:
                return crosssite.preflight(headers)
            record.path = None
            record.kind = HOLD if route.holds else route.right.value
            record.repository = path.uuid
            record.user = self._access.check(http.headers.get(hdrs.AUTHORIZATION), route.right)
            self._check_load(http, route)
            served = self._repositories.get(path.uuid) or await self._repositories.find(path.uuid)
            if served is None:
                raise ApiError(404, f"no repository {path.uuid!a} is served here")
            record.repository = served.uuid
            query = _parse_query(http)
            return await route.handler(ApiRequest(http, served, path, query, record, headers))
        except ApiError as error:
            return error.response(record, headers)
        except Denied as error:
            record.user = error.user
            record.key = _key_asked_for(http)
            challenge = {"WWW-Authenticate": REALM} if error.status == 401 else {}
            return ApiError(error.status, str(error), challenge).response(record, headers)
        except ConnectionError as error:
            _log.debug("id=%s: %s", record.id, error)
            return _gone(record)
        except web.RequestPayloadError as error:
            return ApiError(400, f"the body cannot be read: {error}").response(record, headers)
        except RepositoryError as error:
            return await self._failed(http, record, headers, error)

    async def _failed(
        self,
        http: web.BaseRequest,
        record: Record,
        headers: Mapping[str, str],
        error: RepositoryError,
    ) -> web.Response:
        """What a repository could not do; of one that is not served any more, 404."""
        if isinstance(error, RepositoryGone) and await self._repositories.look_again():
            uuid = _parse_path(http).uuid
            if self._repositories.get(uuid) is None:
                gone = ApiError(404, f"no repository {uuid!a} is served here")
                return gone.response(record, headers)
        status = _STATUS.get(type(error), 500)
        if status >= 500:
            cause = error.__cause__
            where = ""
            if isinstance(cause, OSError) and cause.filename:
                where = f" ({os.fsdecode(cause.filename)})"
            path = http.rel_url.raw_path
            _log.error("id=%s %s %s: %s%s", record.id, http.method, path, error, where)
        return ApiError(status, str(error)).response(record, headers)

    def _route(self, http: web.BaseRequest, path: wire.ApiPath) -> Route | None:
        """What answers a request; ``None``: a browser asks whether it may be made."""
        route = self._routes.get((http.method, path.request))
        if route is not None:
            return route
        methods = self._methods.get(path.request)
        if methods is None:
            raise ApiError(404, f"no request {path.request[:40]!a} is served here")
        if http.method == hdrs.METH_OPTIONS and hdrs.ORIGIN in http.headers:
            return None
        allow = {"Allow": ", ".join(methods)}
        raise ApiError(405, f"{path.request} takes {' or '.join(methods)}", allow)

    def _check_load(self, http: web.BaseRequest, route: Route) -> None:
        """Refuse what there is no room for.

        :raises ApiError: 413, a body that is of no use; 503, too many requests wait already.
        """
        if route.has_body:
            pass
        elif http.body_exists and (http.content_length or 0) > MAX_BODY:
            raise ApiError(413, f"a body of up to {MAX_BODY} bytes is passed over, and no longer")
        # The end of a lock, which frees something, is never refused.
        if self._workers is None or (route.holds and route.has_body):
            return
        if self._workers.waiting >= MAX_WAITING:
            raise ApiError(
                503,
                f"{MAX_WAITING} requests wait for a worker, as many as may; try again later, or "
                "give the server more (--jobs)",
                {"Retry-After": "5"},
            )


def _key_asked_for(http: web.BaseRequest) -> str | None:
    """For the log, of a request that is not looked at any further."""
    with suppress(ValueError):
        path = wire.parse_path(http.rel_url.raw_path)
        return path.key or next(
            iter(wire.parse_query(http.rel_url.raw_query_string).get("key", ())), None
        )
    return None


def _gone(record: Record) -> web.Response:
    """For nobody."""
    response = ApiError(400, "the client is gone").response(record)
    record.status = 0
    return response


def _parse_path(http: web.BaseRequest) -> wire.ApiPath:
    try:
        return wire.parse_path(http.rel_url.raw_path)
    except wire.PathError as error:
        raise ApiError(404, str(error)) from error
    except ValueError as error:
        raise ApiError(400, str(error)) from error


def _parse_query(http: web.BaseRequest) -> dict[str, list[str]]:
    try:
        return wire.parse_query(http.rel_url.raw_query_string)
    except ValueError as error:
        raise ApiError(400, str(error)) from error
