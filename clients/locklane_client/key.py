"""git-annex keys: the names of pieces of content.

A key is ``BACKEND[-sSIZE][-mMTIME][-SCHUNKSIZE-CCHUNK]--NAME``, as in ``SHA256E-s10--ab12.txt``
(git-annex, "internals/key format"). It may hold any bytes but a newline or NUL. In Python it is
text in which bytes that are not UTF-8 appear as surrogate escapes (PEP 383), so that
``os.fsencode`` gives the bytes back.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

MAX_KEY_LENGTH = 4096
"""Longest key accepted, in bytes; no file system stores a longer name, a URL rarely carries one."""

_SHAPE = re.compile(
    r"(?P<backend>[A-Z0-9_]+)"
    r"(?:-s(?P<size>\d{1,20}))?"
    r"(?:-m(?P<mtime>\d{1,20}))?"
    r"(?:-S(?P<chunk_size>\d{1,20})-C(?P<chunk>\d{1,20}))?"
    r"--(?P<name>[^\n\0]+)"
)

_TO_FILE = str.maketrans({"&": "&a", "%": "&s", ":": "&c", "/": "%"})
_FROM_FILE = {"&a": "&", "&s": "%", "&c": ":", "%": "/"}


@dataclass(frozen=True, slots=True)
class Key:
    """One key, known to be well formed. Make it with :meth:`parse`."""

    text: str
    """The whole key, as git-annex prints it."""
    backend: str
    """``SHA256E``, ``WORM``, …"""
    name: str
    """What follows ``--``."""
    size: int | None = None
    """Size of the content in bytes, where the key tells."""

    def __str__(self) -> str:
        return self.text

    @classmethod
    def parse(cls, text: str) -> Key:
        """Take a key apart.

        :raises ValueError: it is not a key; the message says why and shows the form of one.
        """
        match = _SHAPE.fullmatch(text)
        if match is None or len(text) > MAX_KEY_LENGTH:
            shown = text if len(text) <= 80 else text[:77] + "…"
            raise ValueError(
                f"{shown!a} is not a git-annex key, which looks like SHA256E-s10--ab12.txt"
            )
        size = match["size"]
        return cls(text, match["backend"], match["name"], None if size is None else int(size))

    @property
    def file_name(self) -> str:
        """The name of the key's object file: ``&``, ``%``, ``:`` and ``/`` are escaped.

        It never is ``.`` or ``..`` and never holds a ``/``, so it cannot leave its directory.
        """
        return self.text.translate(_TO_FILE)

    @classmethod
    def from_file_name(cls, file_name: str) -> Key:
        """The key that :attr:`file_name` belongs to.

        :raises ValueError: it is not the name of a key's object file.
        """
        return cls.parse(re.sub(r"&[asc]|%", lambda m: _FROM_FILE[m[0]], file_name))
