"""Bracketed parameters, and the query that they stand in."""

from __future__ import annotations

import base64
from contextlib import suppress
from urllib.parse import parse_qsl

from fuzzing import text_of
from locklane_client import wire

PIECES = (
    *(b"key", b"clientuuid", b"bypass", b"associatedfile", b"offset", b"=", b"&", b";", b"+"),
    *(b"[", b"]", b"[Zm9v]", b"%5BZm9v%5D", b"[Zm9v", b"[_-8]", b"[+/8]", b"[Zg]", b"[Zg=]"),
    *(b"%", b"%2", b"%zz", b"%00", b"%2F", b"%25", b"%ff", b"%c0%af", b"\xff", b"\0", b"[[]]"),
)


def parse(data: bytes) -> None:
    with suppress(ValueError):
        wire.parse_query(text_of(data))
    with suppress(ValueError):
        wire.unbracket(text_of(data))


def check(data: bytes) -> None:
    text = text_of(data)
    assert wire.unbracket(wire.bracket(text)) == text
    encoded = base64.urlsafe_b64encode(data).decode()
    for spelled in (encoded, encoded.rstrip("=")):
        assert wire.unbracket(f"[{spelled}]") == text
    try:
        plain = wire.unbracket(text)
    except ValueError as error:
        assert str(error).isprintable()
        assert text[0] + text[-1] == "[]"
    else:
        assert plain.encode("utf-8", "surrogateescape") is not None
        if text[:1] + text[-1:] != "[]":
            assert plain == text
    path = wire.request_path(text, 4, "checkpresent", key=text, clientuuid="me")
    before, _, query = path.partition("?")
    if text:
        uuid = wire.parse_path(f"/git-annex/{before}").uuid
        assert uuid == text
    assert wire.parse_query(query) == {"key": [text], "clientuuid": ["me"]}
    _query(text)


def _query(text: str) -> None:
    try:
        found = wire.parse_query(text)
    except ValueError as error:
        assert str(error).isprintable()
        return
    if "[" in text or "%5" in text:  # of which the library knows nothing
        return
    if "+" in text:  # which it takes for a blank in names, too
        return
    pairs = parse_qsl(text, keep_blank_values=True, errors="surrogateescape")
    assert set(pairs) <= {(name, value) for name, values in found.items() for value in values}
