"""The load of small requests: connections that are kept open, each with one request at a time.

As little as possible happens between an answer and the next request, so that the servers are what
is measured: no HTTP client library, one :class:`asyncio.Protocol` per connection, httptools to
parse. What is sent and what is expected is a generator: it yields requests, is sent the answers,
and raises :class:`~locklane_bench.peer.tasks.LoadError` if one is not what it should be.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Generator, Iterator
from itertools import cycle, islice
from typing import Any, NamedTuple, cast
from urllib.parse import quote

from httptools import HttpParserError, HttpResponseParser

from locklane_bench.peer.tasks import Done, LoadError, Task

CLIENT_UUID = "8a6d2b4e-0000-4000-8000-0000000bead5"
"""Whom the load says that it is."""

PATIENCE_SECONDS = 60.0
"""How long all requests of one task may take together."""

HOST = "127.0.0.1"


class Answer(NamedTuple):
    status: int
    body: bytes


class Request(NamedTuple):
    """What to write. A second part goes out by itself, as soon as the first is on its way."""

    first: bytes
    second: bytes = b""


Script = Generator[Request, Answer, None]


class Tally:
    """What all connections of a task did together."""

    def __init__(self) -> None:
        self.operations = self.requests = self.answers = self.content_bytes = 0


class _Connection(asyncio.Protocol):
    """Follows one script to its end."""

    def __init__(self, script: Script, tally: Tally) -> None:
        loop = asyncio.get_running_loop()
        self._soon = loop.call_soon
        self.done: asyncio.Future[None] = loop.create_future()
        self._script = script
        self._tally = tally
        self._parser: Any = HttpResponseParser(self)
        self._body: list[bytes] = []

    def begin(self) -> None:
        """Send the first request."""
        self._carry_on(None)

    def end(self) -> None:
        """Close the connection, wherever the script is."""
        self.done.cancel()
        self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's is one too, without being a subclass.
        self._transport = cast(asyncio.WriteTransport, transport)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except HttpParserError as error:
            self._fail(LoadError(f"what the server answered is not HTTP: {error}"))

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        status: int = self._parser.get_status_code()
        if 100 <= status < 200:
            return
        body = b"".join(self._body)
        self._body.clear()
        self._carry_on(Answer(status, body))

    def connection_lost(self, error: Exception | None) -> None:
        why = f": {error}" if error else ""
        self._fail(
            LoadError(
                f"the server closed a connection after {self._tally.answers} of "
                f"{self._tally.requests} requests were answered{why}"
            )
        )

    def _carry_on(self, answer: Answer | None) -> None:
        try:
            request = next(self._script) if answer is None else self._script.send(answer)
        except StopIteration:
            if not self.done.done():
                self.done.set_result(None)
            self._transport.close()
        except LoadError as error:
            self._fail(error)
        else:
            self._tally.requests += 1
            self._transport.write(request.first)
            if request.second:
                self._soon(self._transport.write, request.second)

    def _fail(self, error: LoadError) -> None:
        if not self.done.done():
            self.done.set_exception(error)
            self._transport.close()


async def carry_out(task: Task) -> Done:
    """Do a task of kind ``locks``, ``checkpresent``, ``downloads`` or ``remove``.

    :raises LoadError: an answer was not what it has to be, or none came.
    """
    tally = Tally()
    scripts = {
        "locks": _locks,
        "checkpresent": _checkpresent,
        "downloads": _downloads,
        "remove": _remove,
    }
    items = islice(cycle(task.keys or task.paths), task.operations)
    loop = asyncio.get_running_loop()
    connections: list[_Connection] = []
    try:
        for _ in range(task.connections):
            script = scripts[task.kind](task, items, tally)
            try:
                _, connection = await loop.create_connection(
                    lambda script=script: _Connection(script, tally),  # type: ignore[misc]
                    HOST,
                    task.port,
                )
            except OSError as error:
                raise LoadError(f"cannot connect to port {task.port}: {error}") from error
            connections.append(connection)
        wall, cpu = time.perf_counter(), time.process_time()
        for connection in connections:
            connection.begin()
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                await asyncio.gather(*(connection.done for connection in connections))
        except TimeoutError:
            raise LoadError(
                f"{tally.answers} of {tally.requests} requests were answered within "
                f"{PATIENCE_SECONDS:g} s"
            ) from None
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    finally:
        for connection in connections:
            connection.end()
    return Done(tally.operations, tally.requests, tally.answers, tally.content_bytes, wall, cpu)


def _post(path: str, *headers: str) -> bytes:
    return "\r\n".join([f"POST {path} HTTP/1.1", f"Host: {HOST}", *headers, "", ""]).encode()


def _post_key(task: Task, request: str, key: str) -> bytes:
    query = f"key={quote(key, safe='')}&clientuuid={CLIENT_UUID}"
    return _post(f"{task.base}/{request}?{query}", "Content-Length: 0")


def _beginning(answer: Answer) -> str:
    """What an answer that is an error says, for the end of a message."""
    said = answer.body[:200].decode("utf-8", "replace").strip()
    return f": {said}" if said and answer.status != 200 else ""


def _json(answer: Answer, what: str, tally: Tally) -> dict[str, Any]:
    if answer.status != 200:
        raise LoadError(f"{what} was answered with status {answer.status}{_beginning(answer)}")
    tally.answers += 1
    found: dict[str, Any] = json.loads(answer.body)
    return found


_KEEPALIVE = ("Connection: Keep-Alive", "Keep-Alive: timeout=1200", "Transfer-Encoding: chunked")
_HOLD = b'10\r\n{"unlock":false}\r\n1\r\n\n\r\n'
_UNLOCK = b'f\r\n{"unlock":true}\r\n1\r\n\n\r\n0\r\n\r\n'


def _locks(task: Task, keys: Iterator[str], tally: Tally) -> Script:
    """A lock, a hold and its end, in the chunks in which git-annex's own client sends them."""
    for key in keys:
        said = _json((yield Request(_post_key(task, "lockcontent", key))), "lockcontent", tally)
        if said.get("locked") is not True:
            raise LoadError(f"lockcontent did not lock {key}: {said}")
        lock = quote(str(said["lockid"]), safe="")
        path = f"{task.base}/keeplocked?lockid={lock}&clientuuid={CLIENT_UUID}"
        said = _json(
            (yield Request(_post(path, *_KEEPALIVE) + _HOLD, _UNLOCK)), "keeplocked", tally
        )
        if said.get("locked") is not False:
            raise LoadError(f"keeplocked did not unlock {key}: {said}")
        tally.operations += 1


def _checkpresent(task: Task, keys: Iterator[str], tally: Tally) -> Script:
    for key in keys:
        said = _json((yield Request(_post_key(task, "checkpresent", key))), "checkpresent", tally)
        if said.get("present") is not True:
            raise LoadError(f"checkpresent did not find {key}: {said}")
        tally.operations += 1


def _remove(task: Task, keys: Iterator[str], tally: Tally) -> Script:
    for key in keys:
        said = _json((yield Request(_post_key(task, "remove", key))), "remove", tally)
        if said.get("removed") is not True:
            raise LoadError(f"remove did not remove {key}: {said}")
        tally.operations += 1


def _downloads(task: Task, paths: Iterator[str], tally: Tally) -> Script:
    for path in paths:
        answer = yield Request(f"GET {path} HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode())
        if answer.status != 200 or len(answer.body) != task.size:
            raise LoadError(
                f"a download of {task.size} bytes was answered with status {answer.status} and "
                f"{len(answer.body)} bytes{_beginning(answer)}"
            )
        tally.answers += 1
        tally.operations += 1
        tally.content_bytes += task.size
