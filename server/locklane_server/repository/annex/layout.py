"""Where git-annex keeps things in a repository ("internals").

Only names are made here; nothing is looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import overload

from locklane_client.key import Key
from locklane_server.repository.hashing import hash_directories_lower, hash_directories_mixed


class Places(Sequence[str]):
    """The two paths that the content of a key may have. The second is only made where the first
    was in vain: this is needed at each request. Strings, for the same reason."""

    __slots__ = ("_bare", "_key", "_objects", "_paths")

    def __init__(self, objects: str, key: Key, *, bare: bool) -> None:
        self._objects = objects
        self._key = key
        self._bare = bare
        self._paths: list[str] = []

    def __len__(self) -> int:
        return 2

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> list[str]: ...

    def __getitem__(self, index: int | slice) -> str | list[str]:
        paths = self._paths
        while len(paths) < 2 and (not isinstance(index, int) or len(paths) <= index % 2):
            lower = self._bare != bool(paths)
            hashed = hash_directories_lower if lower else hash_directories_mixed
            first, second = hashed(self._key)
            name = self._key.file_name
            paths.append(f"{self._objects}/{first}/{second}/{name}/{name}")
        return paths[index]


@dataclass(frozen=True, slots=True)
class Layout:
    """The paths of one repository.

    :param git: its git directory, with no symbolic link in it.
    :param bare: it has no work tree.
    """

    git: Path
    bare: bool
    _objects: str = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_objects", f"{self.git}/annex/objects")

    @property
    def annex(self) -> Path:
        """Everything that is git-annex's, but the branch."""
        return self.git / "annex"

    @property
    def own(self) -> Path:
        """What is Locklane's, and of which git-annex knows nothing."""
        return self.git / "annex" / "locklane"

    def objects(self, key: Key) -> Places:
        """Where the content of a key may lie; new content belongs to the first."""
        return Places(self._objects, key, bare=self.bare)

    def partial(self, key: Key) -> Path:
        """Where content that is not complete yet is kept."""
        return self.annex / "tmp" / key.file_name

    def bad(self, key: Key) -> str:
        """Where what turned out not to be the content of a key is kept."""
        return f"{self.git}/annex/bad/{key.file_name}"

    def transfer_locks(self, key: Key, client: str) -> tuple[Path, Path]:
        """The lock files that keep a second transfer of a key away, in the order in which they
        are to be taken. (Older git-annex has one for each client.)"""
        downloads = self.annex / "transfer" / "download"
        name = f"lck.{key.file_name}"
        return downloads / "lck" / name, downloads / client / name

    def transfer(self, key: Key, client: str) -> Path:
        """The file that tells others of a transfer into this repository."""
        return self.annex / "transfer" / "download" / client / key.file_name
