"""Lock streams: the body of ``keeplocked`` and ``lockhold``."""

from __future__ import annotations

import json
from contextlib import suppress

from locklane_client import wire

PIECES = (
    *(b'{"unlock":true}', b'{"unlock":false}', b'{"unlock": true }', b"\n", b" ", b"\t\r\n", b"{"),
    *(b"}", b'"', b":", b",", b"true", b"false", b"null", b'"unlock"', b'{"unlock":1}', b"{}"),
    *(b'{"unlock":true,"more":"x"}', b"[", b"]", b"[[[[", b"\\", b"\xff", b"\0", b" " * 4096),
)


def parse(data: bytes) -> None:
    with suppress(ValueError):
        list(wire.UnlockStream().feed(data))
    stream = wire.UnlockStream()
    with suppress(ValueError):
        for at in range(0, len(data), 100):
            list(stream.feed(data[at : at + 100]))


def check(data: bytes) -> None:
    whole = _read([data])
    # However it is cut, it says the same.
    assert _read([data[at : at + 1] for at in range(min(len(data), 512))] + [data[512:]]) == whole
    cuts = sorted({cut % (len(data) + 1) for cut in data[:8]})
    ends = [*cuts, len(data)]
    assert _read([data[a:b] for a, b in zip([0, *cuts], ends, strict=True)]) == whole
    requests, wrong, rest = whole
    assert rest <= wire.MAX_UNLOCK_REQUEST
    if not wrong:
        assert _decoded(data) == requests


def _read(pieces: list[bytes]) -> tuple[list[bool], bool, int]:
    """What was asked for, whether it was a stream of requests, and how much was left."""
    stream, requests = wire.UnlockStream(), []
    for piece in pieces:
        try:
            for unlock in stream.feed(piece):  # some may come before what is wrong
                requests.append(unlock)  # noqa: PERF402
        except ValueError as error:
            str(error).encode("utf-8")
            return requests, True, 0
    return requests, False, len(stream._rest)


def _decoded(data: bytes) -> list[bool]:
    """The same by the JSON decoder, for what is right up to an object that is not complete."""
    text, decoder, at, found = data.decode("latin-1"), json.JSONDecoder(), 0, []
    while True:
        while at < len(text) and text[at] in " \t\r\n":
            at += 1
        try:
            value, at = decoder.raw_decode(text, at)
        except (ValueError, RecursionError):
            return found
        found.append(value["unlock"])
