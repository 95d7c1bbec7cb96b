"""The messages of ``multiplex``, in both directions."""

from __future__ import annotations

import json
from contextlib import suppress

from fuzzing import text_of
from locklane_client import multiplexed, wire

PIECES = (
    *(b'{"id":1,"lock":"SHA256E-s1--a"}', b'{"id":1,"unlock":true}', b'{"id":', b',"lock":"', b"}"),
    *(b',"unlock":true', b',"unlock":false', b'"locked":true', b'"locked":false', b'"lockid":"x"'),
    *(b'"reason":"no"', b"9007199254740991", b"9007199254740992", b"-1", b"1.0", b"1e3", b"true"),
    *(b'"', b",", b":", b"[Zg]", b"[", b"[" * 3000, b"\\ud800", b"\xff", b"9" * 5000, b"null"),
)


def parse(data: bytes) -> None:
    with suppress(ValueError):
        multiplexed.parse_request(text_of(data))


def check(data: bytes) -> None:
    text = text_of(data)
    try:
        request = multiplexed.parse_request(text)
    except ValueError as error:
        str(error).encode("utf-8", "surrogateescape")
    else:
        message = json.loads(text)
        assert request.id == message["id"]
        assert 0 <= request.id <= multiplexed.MAX_ID
        assert (request.key is None) == (message.get("unlock") is True)
    try:
        number, answer = multiplexed.parse_answer(text)
    except ValueError as error:
        str(error).encode("utf-8", "surrogateescape")
    else:
        assert answer.locked is json.loads(text)["locked"]
        assert 0 <= number <= multiplexed.MAX_ID
    number = int.from_bytes(data[:6], "big")
    asked = multiplexed.parse_request(multiplexed.lock_request(number, text))
    assert asked == multiplexed.Request(number, text)
    told = multiplexed.answer(number, wire.not_locked_answer(text))
    assert multiplexed.parse_answer(told) == (number, wire.LockAnswer(False, reason=text))
    locked = multiplexed.answer(number, wire.lock_answer(text or "x"))
    assert multiplexed.parse_answer(locked)[1].lock_id == (text or "x")
