"""``Range`` (RFC 9110, 14): which bytes of a content are asked for."""

from __future__ import annotations

import re

_RANGE = re.compile(r"bytes=\s*([0-9]{0,4000})-([0-9]{0,4000})\s*")


class NothingThereError(ValueError):
    """None of the bytes asked for is there: answer 416."""


def parse(header: str, whole: int) -> tuple[int, int] | None:
    """The first byte and the number of bytes asked for; ``None``: all of it is to be sent. So it
    is if the header is no range of bytes or makes no sense (14.2), and for several at once, where
    all is an answer too.

    :param whole: bytes that there are.
    :raises NothingThereError: none of it is there.
    """
    match = _RANGE.fullmatch(header)
    if match is None:
        return None
    first, last = match.groups()
    if first:
        begin = int(first)
        if last and int(last) < begin:
            return None
        length = (min(int(last) + 1, whole) if last else whole) - begin
    elif last:  # the last so many
        length = min(int(last), whole)
        begin = whole - length
    else:
        return None
    if length <= 0:
        raise NothingThereError(f"there are {whole} bytes, and none of them is in that range")
    return begin, length
