"""The directories that git-annex spreads keys over ("internals/hashing")."""

from __future__ import annotations

import hashlib

from locklane_client.key import Key

_MIXED_LETTERS = "0123456789zqjxkmvwgpfZQJXKMVWGPF"
"""32 letters without vowels, so that no word comes out."""


def _md5(key: Key) -> bytes:
    name = key.whole.encode("utf-8", "surrogateescape")
    return hashlib.md5(name, usedforsecurity=False).digest()


def hash_directories_lower(key: Key) -> tuple[str, str]:
    """The two directories above a key's object in a bare repository, and above its log on the
    git-annex branch: 3 + 3 hex digits of the key's md5. Chunks lie where the whole content would.
    """
    digest = _md5(key).hex()
    return digest[:3], digest[3:6]


def hash_directories_mixed(key: Key) -> tuple[str, str]:
    """The two directories above a key's object in a repository with a work tree: the lowest 20
    bits of the key's md5, five at a time."""
    bits, letters = int.from_bytes(_md5(key)[:4], "little"), _MIXED_LETTERS
    return (
        letters[bits >> 6 & 31] + letters[bits & 31],
        letters[bits >> 18 & 31] + letters[bits >> 12 & 31],
    )
