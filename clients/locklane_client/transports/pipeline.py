"""``pipeline``: the requests of ``longpoll``, sent without waiting where nothing depends on the
answer. The unlock of one file and the lock of the next leave together on one connection, and their
answers are matched in order: one round trip per dropped file.

A held lock has a connection to itself; an unlock that has been sent gives it back at once, whether
or not it has been answered. Servers and proxies that answer the requests of a connection in their
order will do: all that keep to RFC 9112, git-annex's own among them.

What the client can know: that the lock was taken, as with ``longpoll``. Leaving the lock does not
wait for the unlock to be confirmed, on which nothing depends: if it never arrives, retention ends
the lock. Who wants to know waits for :meth:`PipelineHold.confirmed`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from typing import ClassVar

from locklane_client.answers import confirm_locked, confirm_unlocked, read_answer
from locklane_client.arrival import HoldWatch, asking
from locklane_client.errors import HoldEnded, LocklaneError, ServerUnreachable
from locklane_client.pipelining import Answer, NotProcessed, PipelinedConnection, connect
from locklane_client.session import FAREWELL_SECONDS, IDLE_SECONDS, Lost, Session
from locklane_client.wire import KEEP, UNLOCK

from .longpoll import KEEPLOCKED_HEADERS


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


_KEEP = _chunk(KEEP + b"\n")
_UNLOCK_AND_END = _chunk(UNLOCK + b"\n") + _chunk(b"")


class Pipeline:
    """See the module."""

    name: ClassVar[str] = "pipeline"
    knows: ClassVar[str] = "that it was taken"
    confirmed: ClassVar[bool] = False
    waits_for_unlock: ClassVar[bool] = False
    told_when_lost: ClassVar[str] = "at once; not where the hold never reached the server"

    def __init__(self, session: Session) -> None:
        self._session = session
        address = session.address
        common = {"Host": address.authority, "User-Agent": "locklane"}
        if address.authorization is not None:
            common["Authorization"] = address.authorization
        self._lockcontent_head = _head(common, {"Content-Length": "0"})
        self._keeplocked_head = _head(
            common, {**KEEPLOCKED_HEADERS, "Transfer-Encoding": "chunked"}
        )
        self._open: set[PipelinedConnection] = set()
        self._idle: dict[PipelinedConnection, asyncio.TimerHandle] = {}
        session.closing.append(self._aclose)

    async def acquire(self, key: str, version: int, lost: Lost) -> PipelineHold:
        session = self._session
        path = session.url("lockcontent", version, key=key, transport=self.name)
        answer = None
        while answer is None:
            connection = await self._take()
            with suppress(NotProcessed):  # then over another connection
                answer = await self._lockcontent(connection, path)
        if answer.status != 200:
            self.give_back(connection)
            raise session.refusal("lockcontent", answer.status, answer.body)
        try:
            lock_id = confirm_locked(read_answer("the answer to lockcontent", answer.body))
        except LocklaneError:
            self.give_back(connection)
            raise
        if not connection.usable:  # closed with this answer
            connection = await self._take()
        return PipelineHold(self, connection, version, lock_id, lost)

    async def _lockcontent(self, connection: PipelinedConnection, path: str) -> Answer:
        session = self._session
        session.counts.requests += 1
        try:
            async with asyncio.timeout(session.answer_timeout):
                answer = await connection.request(self._request(path, self._lockcontent_head))
        except TimeoutError as error:
            connection.abort()
            raise ServerUnreachable(
                f"{session.address} did not answer within {session.answer_timeout} s"
            ) from error
        except asyncio.CancelledError:
            connection.abort()
            raise
        session.counts.round_trips += 1
        return answer

    def keeplocked(
        self, connection: PipelinedConnection, version: int, lock_id: str
    ) -> asyncio.Future[Answer]:
        """Begin to hold; the answer when it is over."""
        self._session.counts.requests += 1
        path = self._session.url("keeplocked", version, lockid=lock_id)
        return connection.request(self._request(path, self._keeplocked_head) + _KEEP)

    def _request(self, path: str, head: str) -> bytes:
        return f"POST {self._session.address.base}{path} HTTP/1.1\r\n{head}".encode("ascii")

    # -- connections -------------------------------------------------------------------------------

    async def _take(self) -> PipelinedConnection:
        """A connection without a hold: the one that had its last most lately, or a new one."""
        while self._idle:
            connection, timer = self._idle.popitem()
            timer.cancel()
            if connection.usable:
                return connection
        connection = await connect(self._session, self._lost)
        self._open.add(connection)
        return connection

    def give_back(self, connection: PipelinedConnection) -> None:
        """Let the next hold have a connection."""
        if connection.usable and not self._session.closed:
            seconds = min(IDLE_SECONDS, self._session.answer_timeout)
            self._idle[connection] = asyncio.get_running_loop().call_later(
                seconds, self._tired, connection, seconds
            )

    def _tired(self, connection: PipelinedConnection, seconds: float) -> None:
        """One was idle for so long."""
        if connection.awaited and seconds < self._session.answer_timeout:
            # Its last answers are given the time that answers have.
            more = self._session.answer_timeout - seconds
            self._idle[connection] = asyncio.get_running_loop().call_later(
                more, self._tired, connection, seconds + more
            )
        else:
            connection.abort(f"no answer within {seconds:g} s")

    def _lost(self, connection: PipelinedConnection) -> None:
        self._open.discard(connection)
        if (timer := self._idle.pop(connection, None)) is not None:
            timer.cancel()

    async def _aclose(self) -> None:
        patience = min(self._session.connect_timeout, FAREWELL_SECONDS)
        for timer in self._idle.values():
            timer.cancel()
        self._idle.clear()
        if self._open:
            await asyncio.gather(*(each.aclose(patience) for each in tuple(self._open)))

    @property
    def session(self) -> Session:
        return self._session


def _head(*parts: Mapping[str, str]) -> str:
    lines = [f"{name}: {value}\r\n" for part in parts for name, value in part.items()]
    return "".join(lines) + "\r\n"


class PipelineHold:
    """A ``keeplocked`` in progress, or one that is over and perhaps not answered yet."""

    def __init__(
        self,
        transport: Pipeline,
        connection: PipelinedConnection,
        version: int,
        lock_id: str,
        lost: Lost,
    ) -> None:
        self.lock_id: str | None = lock_id
        self._transport = transport
        self._session = transport.session
        self._connection = connection
        self._lost = lost
        self._ended = False
        self._unlock_sent = False
        loop = asyncio.get_running_loop()
        self._confirmed: asyncio.Future[None] = loop.create_future()
        self._answer = transport.keeplocked(connection, version, lock_id)
        self._answer.add_done_callback(self._answered)
        self._timer = loop.call_later(self._session.keep_interval, self._keep)
        self._watch = HoldWatch(
            self._session, asking(self._session, version, lock_id), self._not_arrived
        )

    def _keep(self) -> None:
        # Keeps proxies and address translators from forgetting the connection, and lets this end
        # find out that the other is gone.
        if not self._answer.done():
            self._connection.write(_KEEP)
            self._timer = asyncio.get_running_loop().call_later(
                self._session.keep_interval, self._keep
            )

    def _stop(self) -> None:
        self._ended = True
        self._timer.cancel()
        self._watch.end()

    def _not_arrived(self, reason: str, retained: bool) -> None:
        if not self._ended:
            self._stop()
            self._connection.abort()
            self._lost(reason, retained)

    def _answered(self, answer: asyncio.Future[Answer]) -> None:
        error = _outcome(self._session, answer)
        if self._unlock_sent:
            self._session.confirming.discard(self._confirmed)
            if error is None:
                self._confirmed.set_result(None)
            else:
                self._session.counts.unconfirmed += 1
                self._confirmed.set_exception(error)
                self._confirmed.exception()  # who wants to know asks for it
        elif not self._ended:
            self._stop()
            # What is left of the request is never sent, so the connection cannot be used again.
            self._connection.abort()
            self._lost(*_loss(error))

    async def unlock(self) -> None:
        if self._answer.done():
            raise HoldEnded(*_loss(_outcome(self._session, self._answer)))
        self._stop()
        self._unlock_sent = True
        self._session.confirming.add(self._confirmed)
        self._connection.write_soon(_UNLOCK_AND_END)
        self._transport.give_back(self._connection)

    async def confirmed(self) -> None:
        if self._unlock_sent:
            await asyncio.shield(self._confirmed)

    async def abandon(self) -> None:
        self._stop()
        if not self._unlock_sent:
            self._connection.abort()


def _outcome(session: Session, answer: asyncio.Future[Answer]) -> LocklaneError | None:
    """What is wrong with the answer to an unlock; ``None`` if it confirms it."""
    try:
        said = answer.result()
        if said.status != 200:
            return session.refusal("keeplocked", said.status, said.body)
        confirm_unlocked(read_answer("the answer to keeplocked", said.body))
    except LocklaneError as error:
        return error
    return None


def _loss(error: LocklaneError | None) -> tuple[str, bool]:
    """What an answer that came before the unlock says to the holder."""
    if error is None:
        return "the server ended the hold", False
    return str(error), error.retained if isinstance(error, HoldEnded) else True
