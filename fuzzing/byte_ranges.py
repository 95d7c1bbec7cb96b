"""``Range``."""

from __future__ import annotations

import re
from contextlib import suppress

from fuzzing import text_of
from locklane_server.requests import ranges

PIECES = (
    *(b"bytes=", b"bytes", b"=", b"-", b",", b" ", b"\t", b"0", b"1", b"9", b"10", b"99", b"-5"),
    *(b"0-0", b"5-", b"5-4", b"9" * 5000, b"18446744073709551616", b"\xff", b"\xd9\xa3", b"Bytes="),
)
CONTENT = bytes(range(10))


def parse(data: bytes) -> None:
    with suppress(ValueError):
        ranges.parse(text_of(data), 10)


def check(data: bytes) -> None:
    header = text_of(data)
    for size in (0, 1, len(CONTENT)):
        content = CONTENT[:size]
        try:
            wanted = ranges.parse(header, size)
        except ranges.NothingThereError as error:
            assert str(error).isprintable()
            assert _sliced(header, content) == b""
            continue
        if wanted is None:
            assert _sliced(header, content) is None
        else:
            begin, length = wanted
            assert length > 0
            assert 0 <= begin < begin + length <= size
            assert content[begin : begin + length] == _sliced(header, content)


def _sliced(header: str, content: bytes) -> bytes | None:
    """The part by Python's own slices; ``None``: all of it is to be sent."""
    if not header.startswith("bytes="):
        return None
    first, dash, last = header.removeprefix("bytes=").strip().partition("-")
    if not dash or not re.fullmatch("[0-9]*", first + last):
        return None
    if max(len(first), len(last)) > 4000:  # of which no content is so long that it mattered
        return None
    if not first:
        return content[-int(last) :] if last.strip("0") else (b"" if last else None)
    if not last:
        return content[int(first) :]
    return content[int(first) : int(last) + 1] if int(last) >= int(first) else None
