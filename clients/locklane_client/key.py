"""git-annex keys: the names of pieces of content.

A key is ``BACKEND[-sSIZE][-mMTIME][-SCHUNKSIZE-CCHUNK]--NAME``, as in ``SHA256E-s10--ab12.txt``
(git-annex, "internals/key format"). Its name may hold any bytes but NUL. In Python it is text in
which bytes that are not UTF-8 appear as surrogate escapes (PEP 383), so that ``os.fsencode`` gives
the bytes back.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

MAX_KEY_LENGTH = 4096
"""Longest key accepted, in bytes; no file system stores a longer name, a URL rarely carries one."""

MAX_EXTENSION_LENGTH = 64
"""Longest extension of a key whose backend has them (``SHA256E``), in bytes with the dot. git-annex
takes no longer one, because a collision of two signed commits could be hidden in it."""

# Numbers have no leading zeros: git-annex would write, and hash, the key without them.
_NUMBER = "(0|[1-9][0-9]{0,19})"
_SHAPE = re.compile(
    rf"(?P<backend>[A-Za-z0-9_]+)(?:-s{_NUMBER})?(?:-m{_NUMBER})?(?P<chunk>-S{_NUMBER}-C{_NUMBER})?"
    r"--(?P<name>[^\0]+)",
    re.DOTALL,
)

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
    chunk: str = ""
    """``-S1000-C2`` of the key of a chunk; empty for whole content."""

    def __str__(self) -> str:
        return self.text

    @classmethod
    def parse(cls, text: str) -> Key:
        """Take a key apart.

        :raises ValueError: it is not a key; the message says why and shows the form of one.
        """
        match = _SHAPE.fullmatch(text)
        try:
            too_long = len(text.encode("utf-8", "surrogateescape")) > MAX_KEY_LENGTH
        except UnicodeEncodeError:  # text that stands for no bytes
            match = None
        if match is None or too_long:
            shown = text if len(text) <= 80 else text[:77] + "…"
            raise ValueError(
                f"{shown!a} is not a git-annex key, which looks like SHA256E-s10--ab12.txt"
            )
        size = match[2]
        backend, name = match["backend"], match["name"]
        if backend.endswith("E") and "." in name and backend != "GITBUNDLE":
            extension = name[name.index(".") :]
            if len(extension.encode("utf-8", "surrogateescape")) > MAX_EXTENSION_LENGTH:
                raise ValueError(
                    f"{text[:80]!a}… is not a git-annex key: its extension is longer than "
                    f"{MAX_EXTENSION_LENGTH} bytes"
                )
        return cls(
            text,
            backend,
            name,
            None if size is None else int(size),
            match["chunk"] or "",
        )

    @property
    def whole(self) -> str:
        """The key of the whole content that this is a chunk of; else the key itself."""
        return self.text.replace(f"{self.chunk}--", "--", 1) if self.chunk else self.text

    @property
    def file_name(self) -> str:
        """The name of the key's object file: ``&``, ``%``, ``:`` and ``/`` are escaped.

        It never is ``.`` or ``..`` and never holds a ``/``, so it cannot leave its directory.
        """
        text = self.text.replace("&", "&a").replace("%", "&s").replace(":", "&c")
        return text.replace("/", "%")

    @classmethod
    def from_file_name(cls, file_name: str) -> Key:
        """The key that :attr:`file_name` belongs to.

        :raises ValueError: it is not the name of a key's object file.
        """
        key = cls.parse(re.sub(r"&[asc]|%", lambda m: _FROM_FILE[m[0]], file_name))
        if key.file_name != file_name:
            raise ValueError(f"{file_name!a} is not the file name of a key")
        return key
