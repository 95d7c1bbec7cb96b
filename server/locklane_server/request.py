"""One request of the API, understood: what every handler is given, and what it answers with."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from aiohttp import hdrs, web

from locklane_client import wire
from locklane_client.key import Key
from locklane_server.answers import json_answer
from locklane_server.served import ServedRepository

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

    def needs_version(self, version: int) -> None:
        """The request came with that version of the protocol.

        :raises ApiError: 404, so that a client of an earlier one falls back.
        """
        if self.path.version is not None and self.path.version < version:
            raise ApiError(404, f"{self.path.request} came with version {version}")

    def answer(self, answer: bytes | dict[str, object]) -> web.StreamResponse:
        """What is answered: JSON, or what it is to say."""
        body = answer if isinstance(answer, bytes) else wire.dumps(answer)
        return json_answer(self.http, body)

    def with_plus(self, answer: dict[str, object]) -> dict[str, object]:
        """An answer that since version 2 has a list of the other repositories that it is about;
        there are none here."""
        if self.path.version is not None and self.path.version >= 2:
            answer["plusuuids"] = []
        return answer


Handler = Callable[[ApiRequest], Awaitable[web.StreamResponse]]
Requests = Mapping[tuple[str, str], Handler]
"""What answers which request, by method and name."""
