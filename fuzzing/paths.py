"""Paths of requests."""

from __future__ import annotations

from contextlib import suppress

from fuzzing import text_of
from locklane_client import wire

PIECES = (
    *(b"/git-annex/", b"/git-annex", b"/", b"//", b"key/", b"key", b"v4/", b"v0/", b"v5/", b"v"),
    *(b"uuid", b"[dXVpZA==]", b"[", b"]", b"%5B", b"%5D", b"%2F", b"%2e%2e", b"..", b".", b"%"),
    *(b"checkpresent", b"lockcontent", b"SHA256E-s1--a", b"\xff", b"\0", b"%00", b"%252e", b"?"),
)


def parse(data: bytes) -> None:
    with suppress(ValueError):
        wire.parse_path(text_of(data))


def check(data: bytes) -> None:
    raw = text_of(data)
    try:
        path = wire.parse_path(raw)
    except ValueError as error:  # PathError is one
        assert str(error).isprintable()
        return
    assert wire.parse_path("/a/prefix" + raw) == path
    assert path.version is None or path.version in wire.VERSIONS
    assert (path.request == "key") == (path.key is not None) or path.request == "key"
    assert "/" not in path.request
    if path.version is not None and path.key is not None and path.uuid:
        rebuilt = f"/git-annex/{wire.request_path(path.uuid, path.version, 'x')}"
        rebuilt = rebuilt.removesuffix("x") + wire.key_request(path.key)
        if path.key:
            assert wire.parse_path(rebuilt) == path
