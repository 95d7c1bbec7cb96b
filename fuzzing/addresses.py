"""Addresses of repositories, and of hosts and ports."""

from __future__ import annotations

import os
from contextlib import suppress

from fuzzing import text_of
from locklane_client.address import Address, join_host_port, split_host_port

PIECES = (
    *(b"annex+http://", b"annex+https://", b"http://", b"ANNEX+", b"//", b"/", b":", b"@", b"#"),
    *(b"user:secret@", b"host", b"127.0.0.1", b"[::1]", b":9417", b":65536", b":" + b"9" * 5000),
    *(
        b"/git-annex/",
        b"uuid",
        b"[dXVpZA==]",
        b"[",
        b"]",
        b"%",
        b"%2F",
        b"%40",
        b"%ff",
        b"?",
        b"\n",
    ),
    *(b"\0", b"\xff", b"\xe2\x84\x80", b" ", b"\\"),
)


def parse(data: bytes) -> None:
    with suppress(ValueError):
        Address.parse(text_of(data))
    with suppress(ValueError):
        split_host_port(text_of(data))


def check(data: bytes) -> None:
    text = text_of(data)
    for uuid in (None, "another-uuid"):
        try:
            address = Address.parse(text, uuid)
        except ValueError as error:
            assert "secret@" not in str(error)
            continue
        assert address.scheme in ("http", "https")
        assert 0 <= address.port < 65536
        assert address.base.endswith("/git-annex/")
        assert address.uuid
        if address.password:
            assert f":{address.password}@" not in str(address)
        again = Address.parse(address.url)
        assert (again.authority, again.base) == (address.authority, address.base)
        # As bytes: two of them may have become one character, where a line end was between them.
        assert os.fsencode(again.uuid) == os.fsencode(address.uuid)
        assert again.authorization == address.authorization
    try:
        host, port = split_host_port(text)
    except ValueError:
        pass
    else:
        assert split_host_port(join_host_port(host, port)) == (host, port)
