"""The requests about content that is not transferred: ``checkpresent``, ``remove``,
``remove-before`` and ``gettimestamp``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from .errors import NotSupported, ProtocolViolation, RemovalRefused
from .key import Key
from .session import Session
from .wire import Outcome, parse_outcome, parse_present, parse_timestamp

T = TypeVar("T")

_ANY_KEY = Key.parse("WORM-s0--any")
"""To ask for when the answer does not matter."""


@dataclass(frozen=True, slots=True)
class Removed:
    """A removal that was done."""

    plus_uuids: tuple[str, ...] = ()
    """Other repositories that the content was removed from too ("remove", version 2 and later)."""


async def check_present(session: Session, key: Key) -> bool:
    """See :meth:`locklane_client.Client.check_present`."""

    async def ask(version: int) -> bool:
        body = await session.post(
            "checkpresent", version, key=key.text, wait=session.answer_timeout
        )
        return read("checkpresent", parse_present, body)

    return await session.with_version(ask)


async def remove(session: Session, key: Key) -> Removed:
    """See :meth:`locklane_client.Client.remove`."""

    async def ask(version: int) -> bytes:
        return await session.post("remove", version, key=key.text, wait=session.answer_timeout)

    return _removed(session, key, "remove", await session.with_version(ask))


async def remove_before(session: Session, key: Key, timestamp: int) -> Removed:
    """See :meth:`locklane_client.Client.remove_before`."""

    async def ask(version: int) -> bytes:
        await need(session, "remove-before", version, 3)
        return await session.post(
            "remove-before",
            version,
            key=key.text,
            timestamp=timestamp,
            wait=session.answer_timeout,
        )

    return _removed(session, key, "remove-before", await session.with_version(ask))


async def timestamp(session: Session) -> int:
    """See :meth:`locklane_client.Client.timestamp`."""

    async def ask(version: int) -> int:
        await need(session, "gettimestamp", version, 3)
        body = await session.post("gettimestamp", version, wait=session.answer_timeout)
        return read("gettimestamp", parse_timestamp, body)

    return await session.with_version(ask)


def read(request: str, parse: Callable[[bytes], T], body: bytes) -> T:
    """Read an answer.

    :raises ProtocolViolation: it is none.
    """
    try:
        return parse(body)
    except ValueError as error:
        raise ProtocolViolation(f"the answer to {request} cannot be read: {error}") from error


async def need(session: Session, request: str, version: int, first: int) -> None:
    """For a request that came with a later version of the protocol than the first.

    :param version: the one to be asked in; those from ``first`` on answered 404 if it is lower.
    :raises NotSupported: the server speaks no version of the protocol that has the request.
    :raises ServerUnreachable: it speaks none at all for this repository.
    :raises ProtocolViolation: it speaks one that has it, and yet does not serve it.
    """
    if version >= first:
        return
    if session.version >= first:
        # 404 to all that was asked so far. A request that every version has tells what that means,
        # and sets the version.
        await check_present(session, _ANY_KEY)
    if session.version >= first:
        raise ProtocolViolation(
            f"{session.address} speaks version {session.version} of the protocol, and yet does not "
            f"serve {request}"
        )
    raise NotSupported(
        f"{session.address} speaks version {session.version} of the protocol; {request} came with "
        f"version {first}"
    )


def _removed(session: Session, key: Key, request: str, body: bytes) -> Removed:
    def parse(body: bytes) -> Outcome:
        return parse_outcome(body, "removed")

    outcome = read(request, parse, body)
    if not outcome.done:
        raise RemovalRefused(
            f"{session.address} did not remove {key}{': ' if outcome.reason else ''}"
            f"{outcome.reason or ''}",
            outcome.reason,
            outcome.plus_uuids,
        )
    return Removed(outcome.plus_uuids)
