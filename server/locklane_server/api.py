"""The HTTP API: from a request on the wire to the repository, and back as an answer.

Reads the path and the parameters, finds the repository, and hands the request to the one function
that answers it. Lock requests belong to the transports (:mod:`locklane_server.transports`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable

from aiohttp import web

from locklane_client import wire
from locklane_server.repositories import Repositories
from locklane_server.repository import (
    BadOffset,
    InvalidContent,
    NoSpace,
    NotAccepted,
    RepositoryError,
    RepositoryGone,
    TransferInProgress,
)
from locklane_server.request import ApiError, ApiRequest, Handler, Requests
from locklane_server.requests import REQUESTS
from locklane_server.served import ServedRepository

_log = logging.getLogger(__name__)

_STATUS: dict[type[RepositoryError], int] = {
    TransferInProgress: 409,
    BadOffset: 409,
    NotAccepted: 422,
    InvalidContent: 422,
    NoSpace: 507,
}
"""What each refusal of a repository is on the wire; any other is a 500."""


class Api:
    """Answers every request of the API for the repositories given.

    :param repositories: what is served.
    :param requests: the requests of the transports on offer, added to those of the API itself.
    """

    def __init__(self, repositories: Repositories, requests: Iterable[Requests]) -> None:
        self._repositories = repositories
        self._handlers: dict[tuple[str, str], Handler] = dict(REQUESTS)
        for more in requests:
            self._handlers.update(more)
        self._methods: dict[str, list[str]] = {}
        for method, name in self._handlers:
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
        try:
            return await self._answer(http)
        finally:
            self.in_progress -= 1
            if self._stopping and not self.in_progress:
                self._idle.set()

    async def _answer(self, http: web.BaseRequest) -> web.StreamResponse:
        try:
            if self._stopping:
                raise ApiError(503, "the server is stopping")
            path = _parse_path(http)
            served = self._repositories.get(path.uuid) or await self._repositories.find(path.uuid)
            if served is None:
                raise ApiError(404, f"no repository {path.uuid!a} is served here")
            request, handler = self._understand(http, path, served)
            return await handler(request)
        except ApiError as error:
            return error.response()
        except ConnectionError:
            return ApiError(400, "the client is gone").response()  # which nobody will read
        except web.RequestPayloadError as error:
            return ApiError(400, f"the body cannot be read: {error}").response()
        except RepositoryError as error:
            return await self._failed(http, error)

    async def _failed(self, http: web.BaseRequest, error: RepositoryError) -> web.Response:
        """What a repository could not do; of one that is not served any more, 404."""
        if isinstance(error, RepositoryGone) and await self._repositories.look_again():
            uuid = _parse_path(http).uuid
            if self._repositories.get(uuid) is None:
                return ApiError(404, f"no repository {uuid!a} is served here").response()
        status = _STATUS.get(type(error), 500)
        if status >= 500:
            cause = error.__cause__
            where = f" ({cause.filename})" if isinstance(cause, OSError) and cause.filename else ""
            _log.error("%s %s: %s%s", http.method, http.rel_url.raw_path, error, where)
        return ApiError(status, str(error)).response()

    def _understand(
        self, http: web.BaseRequest, path: wire.ApiPath, served: ServedRepository
    ) -> tuple[ApiRequest, Handler]:
        try:
            query = wire.parse_query(http.rel_url.raw_query_string)
        except ValueError as error:
            raise ApiError(400, str(error)) from error
        handler = self._handlers.get((http.method, path.request))
        if handler is None:
            methods = self._methods.get(path.request)
            if methods is None:
                raise ApiError(404, f"no request {path.request[:40]!a} is served here")
            allow = {"Allow": ", ".join(methods)}
            raise ApiError(405, f"{path.request} takes {' or '.join(methods)}", allow)
        return ApiRequest(http, served, path, query), handler


def _parse_path(http: web.BaseRequest) -> wire.ApiPath:
    try:
        return wire.parse_path(http.rel_url.raw_path)
    except wire.PathError as error:
        raise ApiError(404, str(error)) from error
    except ValueError as error:
        raise ApiError(400, str(error)) from error
