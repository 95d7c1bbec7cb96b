"""What ``git cat-file --batch`` answers, and the directories that git prints in its own form."""

from __future__ import annotations

import io
from contextlib import suppress

from locklane_server.repository.annex import branch

PIECES = (
    *(
        b"f" * 40,
        b" blob ",
        b" tree ",
        b"5",
        b"0",
        b"\n",
        b" missing\n",
        b"hello",
        b" ",
        b"9" * 5000,
    ),
    *(b"-1", b"40000 ", b"100644 ", b"f87", b"\0", b"x" * 20, b"40000 f87\0", b"uuid.log", b"\xff"),
    *(b"100644 x40000 f87\0" + b"y" * 20, b"40000 f87\0" + b"z" * 20, b"\xc2\xb2"),
)
SHA1 = 20


def parse(data: bytes) -> None:
    with suppress(EOFError):
        branch.read_answer(io.BytesIO(data))
    branch.subdirectories(data, SHA1)


def check(data: bytes) -> None:
    stream = io.BytesIO(data)
    try:
        answer = branch.read_answer(stream)
    except EOFError:
        pass
    else:
        header = data[: data.index(b"\n")]
        if answer is None:
            assert header.endswith(b" missing")
            assert stream.tell() == len(header) + 1
        else:
            assert int(header.split()[2]) == len(answer)
            assert data[len(header) + 1 :].startswith(answer)
            assert stream.tell() == len(header) + len(answer) + 2
    _directories(data)


def _directories(data: bytes) -> None:
    """A directory of files with any names and any hashes."""
    entries = {}
    for number, name in enumerate(data.replace(b"/", b"").split(b"\0")):
        if name:
            entries[name] = (data[number:] + b"40000 f87\0" + b"-" * SHA1)[:SHA1]
    tree = b"".join(b"100644 %b\0%b" % entry for entry in entries.items())
    directory = b"f87" if b"f87" not in entries else b"f88"
    if directory in entries:
        return
    assert branch.subdirectories(tree, SHA1).get(directory) is None
    tree += b"40000 %b\0%b" % (directory, b"+" * SHA1)
    assert branch.subdirectories(tree, SHA1) == {directory: b"+" * SHA1}
