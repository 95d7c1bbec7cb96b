"""What the backend of a key lets one verify (git-annex, "backends").

The name of most keys is a hash of the content, with an extension behind it where the backend's
name ends in ``E``. Those that hashlib, blake3 and xxhash compute are verified here, while the
content passes by. Two families are git-annex's alone to verify: SKEIN, for which there is no
well-kept library, and BLAKE2SP224, whose leaves are longer than hashlib can make them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from enum import Enum
from functools import partial
from typing import Any, Protocol

import blake3
import xxhash

from .key import Key


class Check(Enum):
    """Who can say whether some content is that of a key."""

    HERE = "here"
    """:func:`verifier` can."""
    CALCKEY = "calckey"
    """git-annex can: ``git annex calckey --backend=BACKEND FILE`` prints a key; ask
    :func:`same_hash` about the name in it."""
    PERHAPS = "perhaps"
    """git-annex may be able to, in a repository that has what it takes: a record of the keys that a
    ``VURL`` key is equivalent to, or the program behind an external backend (``X…``)."""
    SIZE = "size"
    """Nobody: only the size can be compared, where the key has one (``WORM``, ``URL``,
    ``GITMANIFEST``, and backends that git-annex does not know, which it lets pass)."""


class _Hash(Protocol):
    def update(self, data: Any, /) -> object: ...

    def hexdigest(self) -> str: ...


class Verifier:
    """Takes content, from its first byte to its last, and says whether it is the key's. Made by
    :func:`verifier`. The size is not looked at."""

    def __init__(self, key: Key, hashing: _Hash) -> None:
        self.key = key
        self._hash = hashing

    def update(self, data: bytes | bytearray | memoryview) -> None:
        """Take the next bytes, of any number. Lets other threads run while it hashes many."""
        self._hash.update(data)

    def matches(self) -> bool:
        """Whether what was taken so far is the whole content of the key."""
        return same_hash(self.key, self._hash.hexdigest())


def verifier(key: Key) -> Verifier | None:
    """Something that verifies the content of a key; ``None`` unless :func:`check` says
    :attr:`Check.HERE`.

    A chunk of a key (``-S…-C…``) has the name of the whole content, and does not match it; as in
    git-annex.
    """
    hashing = _HASHES.get(_family(key.backend))
    return None if hashing is None else Verifier(key, hashing())


def check(key: Key) -> Check:
    """Who can verify the content of a key."""
    family = _family(key.backend)
    if family in _HASHES:
        return Check.HERE
    if family in _CALCKEY:
        return Check.CALCKEY
    return Check.PERHAPS if family == "VURL" or family.startswith("X") else Check.SIZE


def secure(key: Key) -> bool:
    """Whether nobody can make two contents that fit the key: what ``annex.securehashesonly`` asks
    for.

    Two answers depend on the repository, and are "no" here. git-annex takes a ``VURL`` key to be
    secure if all keys recorded as equivalent to it are, which is so where none is recorded yet; and
    it asks the program behind an external backend (``X…``).
    """
    family = _family(key.backend)
    return family not in _INSECURE and (family in _HASHES or family in _CALCKEY)


def same_hash(key: Key, hexdigest: str) -> bool:
    """Whether a hash, in lower-case hexadecimal digits, is the one in a key's name."""
    if key.backend == "GITBUNDLE":  # the UUID of a remote, then the hash
        return key.name.rpartition("-")[2] == hexdigest
    # Whatever follows the first dot is the extension. Old versions of git-annex wrote a backslash
    # before some hashes, and such keys are still good.
    return key.name.partition(".")[0].removeprefix("\\") == hexdigest


class _ParallelBlake2:
    """BLAKE2bp and BLAKE2sp: as many hashes side by side as the tree has leaves, each of every
    n-th block, and one hash over theirs (hashlib, "tree mode")."""

    def __init__(self, blake2: Callable[..., _Blake2], leaves: int, block: int) -> None:
        make = partial(blake2, fanout=leaves, depth=2, leaf_size=0, inner_size=blake2().digest_size)
        self._leaves = [
            make(node_offset=leaf, node_depth=0, last_node=leaf == leaves - 1)
            for leaf in range(leaves)
        ]
        self._root = make(node_offset=0, node_depth=1, last_node=True)
        self._block = block
        self._stripe = leaves * block
        self._rest = b""

    def update(self, data: bytes | bytearray | memoryview, /) -> None:
        with memoryview(data) as given, given.cast("B") as view:
            begin = 0
            if self._rest:
                begin = min(self._stripe - len(self._rest), len(view))
                self._rest += view[:begin]
                if len(self._rest) < self._stripe:
                    return
                self._spread(memoryview(self._rest))
            end = begin + (len(view) - begin) // self._stripe * self._stripe
            while begin < end:
                some = min(end - begin, self._stripe * 2048)
                self._spread(view[begin : begin + some])
                begin += some
            self._rest = bytes(view[end:])

    def _spread(self, stripes: memoryview) -> None:
        """Deal whole stripes out to the leaves, eight bytes at a time: the loop over the stripes is
        then in the interpreter's own code, and the one here is short."""
        words = self._block // 8
        width = self._stripe // 8
        source = stripes.cast("Q")
        column = bytearray(len(stripes) // len(self._leaves))
        with memoryview(column) as raw, raw.cast("Q") as target:
            for number, leaf in enumerate(self._leaves):
                for word in range(words):
                    target[word::words] = source[number * words + word :: width]
                leaf.update(column)

    def hexdigest(self) -> str:
        root = self._root.copy()
        for number, leaf in enumerate(self._leaves):
            last = leaf.copy()
            last.update(self._rest[number * self._block : (number + 1) * self._block])
            root.update(last.digest())
        return root.hexdigest()


class _Blake2(_Hash, Protocol):
    @property
    def digest_size(self) -> int: ...

    def digest(self) -> bytes: ...

    def copy(self) -> _Blake2: ...


_HASHES: dict[str, Callable[[], _Hash]] = {
    "SHA1": partial(hashlib.sha1, usedforsecurity=False),
    "MD5": partial(hashlib.md5, usedforsecurity=False),
    "SHA224": hashlib.sha224,
    "SHA256": hashlib.sha256,
    "SHA384": hashlib.sha384,
    "SHA512": hashlib.sha512,
    "SHA3_224": hashlib.sha3_224,
    "SHA3_256": hashlib.sha3_256,
    "SHA3_384": hashlib.sha3_384,
    "SHA3_512": hashlib.sha3_512,
    **{
        f"BLAKE2B{bits}": partial(hashlib.blake2b, digest_size=bits // 8)
        for bits in (160, 224, 256, 384, 512)
    },
    **{
        f"BLAKE2S{bits}": partial(hashlib.blake2s, digest_size=bits // 8)
        for bits in (160, 224, 256)
    },
    "BLAKE2BP512": partial(_ParallelBlake2, hashlib.blake2b, 4, 128),
    "BLAKE2SP256": partial(_ParallelBlake2, hashlib.blake2s, 8, 64),
    "BLAKE3_256": blake3.blake3,
    "XXH3": xxhash.xxh3_64,
    "GITBUNDLE": hashlib.sha256,
}
"""Every backend that is verified here, without its ``E``."""

_CALCKEY = frozenset({"SKEIN256", "SKEIN512", "BLAKE2SP224"})
_INSECURE = frozenset({"SHA1", "MD5", "XXH3"})
_WITHOUT_EXTENSION = frozenset({"GITBUNDLE"})


def _family(backend: str) -> str:
    """A backend's name without the ``E`` that says that its keys have extensions."""
    family = backend.removesuffix("E")
    known = family in _HASHES or family in _CALCKEY
    return family if known and family not in _WITHOUT_EXTENSION else backend
