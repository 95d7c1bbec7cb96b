"""What a server answers, as a client reads it."""

from __future__ import annotations

import json
from contextlib import suppress

from fuzzing import text_of
from locklane_client import wire
from locklane_client.session import sentence

PIECES = (
    *(b'{"locked":true,"lockid":"', b'{"locked":false}', b'"reason":"', b'"retained":true', b"{"),
    *(b'{"removed":true,"plusuuids":[]}', b'{"stored":true}', b'{"present":true}', b"}", b'"'),
    *(b'{"offset":', b'{"timestamp":', b'"alreadyhave":true', b'"plusuuids":["[Zg]"]', b",", b":"),
    *(b'{"error":"', b"<title>", b"</title>", b"&#x110000;", b"1e999", b"NaN", b"-1", b"9" * 30),
    *(b"\\ud800", b"\\u0000", b"[", b"[" * 3000, b"]", b"null", b"\xff", b"\xff\xfe", b"\0"),
)


def parse(data: bytes) -> None:
    with suppress(ValueError):
        wire.parse_lock_answer(data)
    sentence(data)


def check(data: bytes) -> None:
    for body in (data, text_of(data)):
        _understood(body)
    line = sentence(data)
    assert len(line) <= 300
    assert "\n" not in line
    line.encode("utf-8")  # can be printed


def _understood(body: bytes | str) -> None:
    try:
        plain = json.loads(body)
    except (ValueError, RecursionError):
        plain = None
    said = plain if isinstance(plain, dict) else {}
    readings = (
        (wire.parse_lock_answer, lambda answer: answer.locked is said["locked"]),
        (wire.parse_status, lambda status: status.locked is said["locked"]),
        (wire.parse_present, lambda present: present is said["present"]),
        (lambda text: wire.parse_outcome(text, "removed"), lambda o: o.done is said["removed"]),
        (lambda text: wire.parse_outcome(text, "stored"), lambda o: o.done is said["stored"]),
        (
            wire.parse_put_offset,
            lambda put: said.get("alreadyhave") or put.offset == said["offset"],
        ),
        (wire.parse_timestamp, lambda time: time == said["timestamp"]),
    )
    for parse, agrees in readings:
        try:
            answer = parse(body)
        except ValueError as error:
            str(error).encode("utf-8", "surrogateescape")
        else:
            assert agrees(answer)
