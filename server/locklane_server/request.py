"""One request of the API, understood: what every handler is given, and what it answers with."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import NamedTuple

from aiohttp import hdrs, web

from locklane_client import wire
from locklane_client.key import Key
from locklane_server.access import Right
from locklane_server.answers import json_answer
from locklane_server.connections import stay
from locklane_server.crosssite import NO_HEADERS
from locklane_server.locks import Lock, Refusal
from locklane_server.records import Record
from locklane_server.served import Hold, ServedRepository

_ENDS = frozenset({408, 413})
"""Statuses that end the connection: what else is on its way there is not wanted."""


class ApiError(Exception):
    """A request that cannot be answered with what it asked for.

    :param status: HTTP status.
    :param sentence: for a person; git-annex shows it, because it goes out as the reason phrase.
    :param headers: to be sent with it.
    """

    def __init__(self, status: int, sentence: str, headers: Mapping[str, str] = NO_HEADERS) -> None:
        super().__init__(sentence)
        self.status = status
        self.sentence = sentence
        self.headers = headers

    def response(self, record: Record, headers: Mapping[str, str] = NO_HEADERS) -> web.Response:
        """The answer.

        :param record: of the request, whose id finds it in the log.
        :param headers: to be sent besides.
        """
        record.error = self.sentence
        phrase = " ".join(self.sentence.split()).encode("ascii", "replace").decode("ascii")
        response = web.Response(
            status=self.status,
            reason=phrase[:200],
            body=wire.dumps({"error": self.sentence, "request": record.id}),
            headers={hdrs.CONTENT_TYPE: wire.JSON_TYPE, **headers, **self.headers},
        )
        if self.status in _ENDS:
            response.force_close()
        return response


class ApiRequest:
    """One request, understood: which repository, which version, which parameters.

    :param record: of it, for the log.
    :param headers: that its answer has to have for a page of another site to read it.
    """

    __slots__ = ("_query", "headers", "http", "path", "record", "served")

    def __init__(
        self,
        http: web.BaseRequest,
        served: ServedRepository,
        path: wire.ApiPath,
        query: dict[str, list[str]],
        record: Record,
        headers: Mapping[str, str] = NO_HEADERS,
    ) -> None:
        self.http = http
        self.served = served
        self.path = path
        self.record = record
        self.headers = headers
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
            key = Key.parse(text)
        except ValueError as error:
            raise ApiError(400, str(error)) from error
        self.record.key = key.text
        return key

    @property
    def client_uuid(self) -> str:
        """The client's repository.

        :raises ApiError: 400, it is missing.
        """
        uuid = self.record.client = self.required("clientuuid")
        return uuid

    async def lock(
        self, key: Key, transport: str, *, live: bool, record: Record | None = None
    ) -> Lock | Refusal:
        """Take a lock for who asks, see :meth:`~locklane_server.served.ServedRepository.lock`.

        :param record: of this lock, where the request asks for several.
        """
        record = record or self.record
        lock = await self.served.lock(
            key,
            self.client_uuid,
            transport,
            live=live,
            user=record.user,
            account=record.account,
        )
        if isinstance(lock, Refusal):
            record.error = lock.value
        return lock

    def keep_lock(self) -> Hold | Refusal:
        """Open a hold on the lock that is asked about."""
        hold = self.served.keep(self.required("lockid"), user=self.record.user)
        if isinstance(hold, Refusal):
            self.record.error = hold.value
        else:
            stay(self.http)
        return hold

    def find_lock(self) -> Lock | Refusal:
        """The lock that is asked about."""
        return self.served.find(self.required("lockid"), user=self.record.user)

    def needs_version(self, version: int) -> None:
        """The request came with that version of the protocol.

        :raises ApiError: 404, so that a client of an earlier one falls back.
        """
        if self.path.version is not None and self.path.version < version:
            raise ApiError(404, f"{self.path.request} came with version {version}")

    def answer(self, answer: bytes | dict[str, object]) -> web.StreamResponse:
        """What is answered: JSON, or what it is to say."""
        body = answer if isinstance(answer, bytes) else wire.dumps(answer)
        return json_answer(self.http, body, self.headers)

    def with_plus(self, answer: dict[str, object]) -> dict[str, object]:
        """An answer that since version 2 has a list of the other repositories that it is about;
        there are none here."""
        if self.path.version is not None and self.path.version >= 2:
            answer["plusuuids"] = []
        return answer


Handler = Callable[[ApiRequest], Awaitable[web.StreamResponse]]


class Route(NamedTuple):
    """What answers a request."""

    right: Right
    """That who asks needs: the class of the request."""
    handler: Handler
    holds: bool = False
    """It lasts as long as a lock is held."""
    has_body: bool = False
    """What it asks for is in a body, too."""


Requests = Mapping[tuple[str, str], Route]
"""What answers which request, by method and name."""
