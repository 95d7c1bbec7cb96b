"""Keys, and the names of their files."""

from __future__ import annotations

import os
from contextlib import suppress

from fuzzing import text_of
from locklane_client.key import MAX_KEY_LENGTH, Key

PIECES = (
    *(b"SHA256E", b"WORM", b"URL", b"GITBUNDLE", b"-s10", b"-s0", b"-m1", b"-S5-C2", b"--", b"-"),
    *(b"a.txt", b"." * 9, b"..", b"../..", b"&a", b"&", b"%", b":", b"/", b"\0", b"\n", b"\xff"),
    *(b"0" * 20, b"9" * 21, b"\xed\xb2\x80", "ä€".encode()),
)


def parse(data: bytes) -> None:
    with suppress(ValueError):
        Key.parse(text_of(data))
    with suppress(ValueError):
        Key.from_file_name(text_of(data))


def check(data: bytes) -> None:
    text = text_of(data)
    try:
        key = Key.parse(text)
    except ValueError as error:
        assert str(error).isprintable()  # fit for a log, whatever was in it
    else:
        assert key.text == text
        assert len(data) <= MAX_KEY_LENGTH
        assert _fields(data) == (key.backend, key.size, key.name)
        assert Key.from_file_name(key.file_name) == key
        file_name = os.fsencode(key.file_name)
        assert b"/" not in file_name
        assert b"\0" not in file_name
        assert file_name not in (b"", b".", b"..")
        whole = Key.parse(key.whole)
        assert (whole.backend, whole.size, whole.name) == (key.backend, key.size, key.name)
        assert not whole.chunk
    try:
        other = Key.from_file_name(text)
    except ValueError:
        pass
    else:
        assert os.fsencode(other.file_name) == data


def _fields(data: bytes) -> tuple[str, int | None, str]:
    """What a key says, read in another way: the first "--" ends the fields."""
    fields, _, name = data.partition(b"--")
    backend, *rest = fields.split(b"-")
    sizes = [int(field[1:]) for field in rest if field[:1] == b"s"]
    return text_of(backend), sizes[0] if sizes else None, text_of(name)
