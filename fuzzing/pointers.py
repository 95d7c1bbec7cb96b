"""Pointer files of a work tree: they decide whether content is put there."""

from __future__ import annotations

from locklane_server.repository.annex import keysdb

PIECES = (
    *(b"/annex/objects/", b"/annex/", b"SHA256E-s1--a", b"\n", b"\r\n", b"/", b"x", b" ", b"\0"),
    *(b"/annex/objects/SHA256E-s1--a\n", b"../", b"\xff", b"annex/objects"),
)
NAME = b"SHA256E-s1--a"


def parse(data: bytes) -> None:
    keysdb._points_to(data, NAME)


def check(data: bytes) -> None:
    points = keysdb._points_to(data, NAME)
    first = data.split(b"\n")[0].removesuffix(b"\r")
    assert not points or (b"/annex/objects/" in first and first.endswith(b"/" + NAME))
    # Content that anybody wrote into the file is not taken for a pointer.
    assert not points or all(b"/annex/" in line for line in data.split(b"\n") if line)
    assert keysdb._points_to(b"/annex/objects/" + NAME + b"\n", NAME)
