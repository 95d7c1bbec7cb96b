"""The messages of ``multiplex``: what both ends must spell alike. No I/O here.

Every message is a JSON object with the number that the client chose for the lock, whole and from 0,
not in use on this connection::

    client                              server
    {"id":1,"lock":"SHA256E-s10--…"}
                                        {"id":1,"locked":true,"lockid":"…"}
    {"id":1,"unlock":true}
                                        {"id":1,"locked":false}

A refusal, and a hold that ended by itself, is ``{"id":1,"locked":false,"reason":"…"}``, with
``"retained":true`` if the content stays locked for the rest of its time. With that, or with the
answer to an unlock, the number is free again. Answers come in the order in which they are ready.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from .wire import LockAnswer, bracket, json_object, read_lock_answer, unbracket

REQUEST = "locks"
"""``GET /git-annex/UUID/v4/locks?clientuuid=…`` with an upgrade begins such a conversation."""

MAX_MESSAGE = 16 * 1024
"""Longest message from a client, in bytes; a key has far less."""

MAX_ID = 2**53 - 1
"""Greatest number: the greatest that every JSON parser reads exactly (RFC 8259, 6)."""

UNDER_WAY = 64
"""Locks of one connection that a server takes at the same time."""

WAITING = 1024
"""Locks of one connection that may wait for their turn; a further one is refused."""


@dataclass(frozen=True, slots=True)
class Request:
    """What a client asks for."""

    id: int
    key: str | None
    """To be locked; ``None``: unlock."""


def lock_request(number: int, key: str) -> str:
    """Asks for a lock."""
    return f'{{"id":{number},"lock":{json.dumps(bracket(key))}}}'


def unlock_request(number: int) -> str:
    """Asks to unlock."""
    return f'{{"id":{number},"unlock":true}}'


def parse_request(text: str) -> Request:
    """Read a client's message.

    :raises ValueError: it is none; the message says what is wrong with it.
    """
    message = _message(text)
    if message.get("unlock") is True and "lock" not in message:
        return Request(message["id"], None)
    key = message.get("lock")
    if not isinstance(key, str) or "unlock" in message:
        raise ValueError('expected {"id":N,"lock":"KEY"} or {"id":N,"unlock":true}')
    return Request(message["id"], unbracket(key))


def answer(number: int, body: bytes) -> str:
    """The answer to what was asked under a number; ``body`` as it would be to ``lockcontent`` or
    ``keeplocked``."""
    return f'{{"id":{number},{body[1:].decode("utf-8")}'


def parse_answer(text: str) -> tuple[int, LockAnswer]:
    """Read a server's message.

    :raises ValueError: it is none; the message says what is wrong with it.
    """
    message = _message(text)
    return message["id"], read_lock_answer(message)


def _message(text: str) -> dict[str, Any]:
    message = json_object(text)
    number = message.get("id")
    if type(number) is not int or not 0 <= number <= MAX_ID:
        raise ValueError(f'the "id" has to be a whole number from 0 to {MAX_ID}')
    return message
