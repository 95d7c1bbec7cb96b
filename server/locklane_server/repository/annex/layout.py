"""Where git-annex keeps things in a repository ("internals").

Only names are made here; nothing is looked at.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from locklane_client.key import Key
from locklane_server.repository.hashing import hash_directories_lower, hash_directories_mixed


@dataclass(frozen=True, slots=True)
class Layout:
    """The paths of one repository.

    :param git: its git directory, with no symbolic link in it.
    :param bare: it has no work tree.
    """

    git: Path
    bare: bool

    @property
    def annex(self) -> Path:
        """Everything that is git-annex's, but the branch."""
        return self.git / "annex"

    @property
    def own(self) -> Path:
        """What is Locklane's, and of which git-annex knows nothing."""
        return self.git / "annex" / "locklane"

    def objects(self, key: Key) -> tuple[str, str]:
        """Where the content of a key may lie; new content belongs to the first. A string, because
        this is asked for at each request."""
        name = key.file_name
        mixed, lower = (
            f"{self.git}/annex/objects/{first}/{second}/{name}/{name}"
            for first, second in (hash_directories_mixed(key), hash_directories_lower(key))
        )
        return (lower, mixed) if self.bare else (mixed, lower)

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
