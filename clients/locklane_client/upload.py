"""Uploads ("POST /git-annex/$uuid/v4/put"), resumed where the server has a part already."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import anyio

from .errors import (
    ContentChanged,
    LocklaneError,
    ProtocolViolation,
    PutRefused,
    WrongContent,
)
from .files import Progress, Source, in_thread
from .key import Key
from .requests import need, read
from .session import Session, sentence
from .wire import (
    CONTENT_TYPE,
    DATA_LENGTH,
    Outcome,
    PutOffset,
    parse_outcome,
    parse_present,
    parse_put_offset,
)

BLOCK = 512 * 1024
"""Bytes read and sent at a time."""


@dataclass(frozen=True, slots=True)
class Stored:
    """What an upload came to: the server has the content."""

    already: bool
    """It had it before, and nothing was sent."""
    plus_uuids: tuple[str, ...] = ()
    """Other repositories that have it stored too ("put", version 2 and later)."""
    resumed_from: int = 0
    """Bytes that the server had of an earlier attempt."""


async def upload(
    session: Session,
    key: Key,
    path: Path,
    *,
    progress: Progress | None,
    associated_file: str | None,
) -> Stored:
    """See :meth:`locklane_client.Client.put`."""
    source = Source(path)
    try:
        await in_thread(source.open)
        if key.size is not None and source.size != key.size:
            raise WrongContent(
                f"{path} is not the content of {key}: it has {source.size} bytes instead of "
                f"{key.size}"
            )
        putting = _Upload(session, key, source, progress, associated_file)
        return await session.with_version(putting.attempt)
    finally:
        with anyio.CancelScope(shield=True):
            await in_thread(source.close)


async def announce(session: Session, key: Key, *, associated_file: str | None) -> Stored:
    """See :meth:`locklane_client.Client.put`."""

    async def ask(version: int) -> Outcome:
        await need(session, "put with data-present", version, 4)
        body = await session.post(
            "put",
            version,
            # The header is required; what it says is what would have been sent.
            headers={DATA_LENGTH: str(key.size or 0), "Content-Type": CONTENT_TYPE},
            key=key.text,
            associatedfile=associated_file,
            data_present="true",
            wait=session.answer_timeout,
        )
        return read("put", _parse_stored, body)

    outcome = await session.with_version(ask)
    if not outcome.done:
        raise _refused(session, key, outcome)
    return Stored(False, outcome.plus_uuids)


@dataclass(slots=True)
class _Upload:
    session: Session
    key: Key
    source: Source
    progress: Progress | None
    associated_file: str | None
    _doubted: bool = False
    """The server found that the content was wrong, or did not say why it stored nothing."""

    async def attempt(self, version: int) -> Stored:
        """Upload with one version of the protocol."""
        size = self.source.size
        for _ in range(2):
            there = await self._what_is_there(version)
            if there.offset is None:
                return Stored(True, there.plus_uuids)
            offset = there.offset
            outcome = await self._send(version, offset)
            if outcome.done:
                return Stored(False, outcome.plus_uuids, offset)
            if offset <= size:
                raise _refused(self.session, self.key, outcome, offset if self._doubted else 0)
            # What the server has is longer than the content, so that nothing could be added to
            # it. Having looked at it, it has thrown it away; if not, no attempt will ever succeed.
        raise ProtocolViolation(
            f"{self.session.address} has {offset} bytes of a content of {size}, and keeps them"
        )

    async def _what_is_there(self, version: int) -> PutOffset:
        # Before version 1 there was neither putoffset nor an offset. But a server that has the
        # content answers the put at once and may close the connection on what is still being sent,
        # upon which its answer can get lost.
        request = "putoffset" if version >= 1 else "checkpresent"
        body = await self.session.post(
            request, version, key=self.key.text, wait=self.session.answer_timeout
        )
        if version >= 1:
            return read(request, parse_put_offset, body)
        return PutOffset(None if read(request, parse_present, body) else 0)

    async def _send(self, version: int, offset: int) -> Outcome:
        session = self.session
        body = _Body(session, self.source, offset, self.progress)
        try:
            async with (
                body.limit,
                session.send(
                    "POST",
                    "put",
                    version,
                    {
                        "key": self.key.text,
                        "associatedfile": self.associated_file,
                        "offset": offset or None,
                    },
                    body=body.blocks(),
                    headers={DATA_LENGTH: str(body.length), "Content-Type": CONTENT_TYPE},
                ) as response,
            ):
                body.rest()  # an answer that comes before all is sent ends the sending
                text = await session.answer("put", response)
        except TimeoutError as error:
            raise session.stalled() from error
        except LocklaneError:
            if body.error is not None:  # it, and not the connection, was the reason
                raise body.error from None
            raise
        if body.error is not None:
            raise body.error
        if response.status == 200:
            outcome = read("put", _parse_stored, text)
            self._doubted = not outcome.reason
        elif response.status in _NOT_STORED:
            outcome = Outcome(False, reason=sentence(text))
            self._doubted = response.status == 422
        else:
            raise session.refusal("put", response.status, text)
        if body.changed and not outcome.done:
            raise ContentChanged(
                f"{self.source.path} changed while it was sent; the server stored nothing"
            )
        return outcome


_NOT_STORED = frozenset({409, 413, 422, 507})
"""Statuses with which a server says why it does not store something; git-annex's own says 200, and
nothing."""


class _Body:
    """The content from an offset on, as the body of a request."""

    def __init__(
        self, session: Session, source: Source, offset: int, progress: Progress | None
    ) -> None:
        self.length = max(0, source.size - offset)
        """Bytes that will be sent, unless the file changes."""
        self.changed = False
        """It did; fewer were sent, which tells the server ("truncated")."""
        self.error: Exception | None = None
        """What went wrong at this end."""
        self.limit = asyncio.timeout(None)
        """Ends the request when the server takes no more of the body for ``stall_timeout``. How
        long it takes to answer is not limited: it may have to hash all of the content."""
        self._patience = session.stall_timeout
        self._source = source
        self._position = offset
        self._progress = progress

    async def blocks(self) -> AsyncIterator[bytes]:
        try:
            end = self._position + self.length
            self._report()
            while self._position < end and not self.changed:
                self.rest()
                size = min(BLOCK, end - self._position)
                block = await in_thread(partial(self._source.read, self._position, size))
                whole = self._position + size == end
                if len(block) < size:
                    self.changed = True  # somebody made it shorter
                elif whole and await in_thread(self._source.changed):
                    self.changed = True
                    block = block[:-1]
                self._expect_progress()
                if block:
                    yield block
                self._position += len(block)
                self._report()
            self.rest()
        except Exception as error:
            self.error = error
            raise

    def _report(self) -> None:
        if self._progress is not None:
            self._progress(self._position, self._source.size)

    def _expect_progress(self) -> None:
        self.limit.reschedule(asyncio.get_running_loop().time() + self._patience)

    def rest(self) -> None:
        """Nothing is expected of the server."""
        self.limit.reschedule(None)


def _parse_stored(body: bytes) -> Outcome:
    return parse_outcome(body, "stored")


def _refused(session: Session, key: Key, outcome: Outcome, offset: int = 0) -> PutRefused:
    """
    :param offset: bytes of an earlier attempt that may be why.
    """
    message = f"{session.address} did not store {key}"
    if outcome.reason:
        message += f": {outcome.reason}"
    if offset:
        message += (
            f" ({offset} bytes of an earlier attempt were part of it; if they were wrong, they are "
            "gone, and another attempt will do)"
        )
    return PutRefused(message, outcome.reason, outcome.plus_uuids)
