"""The repositories of a side-by-side comparison: one is made, and each server gets a copy of it, so
that none sees what another did to it.

The content is not copied: copies share it by hard links, so that all servers read the same pages
of the page cache. Nobody changes content; git-annex only ever links and unlinks it.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from locklane_bench.gitannex import AnnexRepository, GitAnnexError, make_remote
from locklane_bench.keys import from_repository

SMALL, LARGE = "small", "large"
"""Directories of the work tree."""

_OBJECTS = Path(".git", "annex", "objects")
_BLOCK = 1 << 20


@dataclass(frozen=True, slots=True)
class Content:
    """What the repositories hold."""

    uuid: str
    small: list[str]
    """Keys of the small files."""
    small_size: int
    large: str
    """Key of the large file."""
    large_size: int
    large_sha256: str
    objects: dict[str, str]
    """Where each key's object lies below ``annex/objects``."""

    @property
    def absent(self) -> str:
        """A key of the large file's content that no repository has."""
        return f"SHA256-s{self.large_size}--{self.large_sha256}"


class Repositories:
    """The repositories below one directory.

    :param directory: an empty directory, on one file system.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.home = directory / "home"
        self._origin = AnnexRepository(directory / "origin", self.home)
        self._client: AnnexRepository | None = None

    def make(self, files: int, small_size: int, large_size: int) -> Content:
        """Make the repository, of random bytes.

        :raises GitAnnexError: git-annex is not there, or failed.
        """
        self.home.mkdir()
        top = self._origin.directory
        for number in range(files):
            name = top / SMALL / f"file-{number:05}.bin"
            name.parent.mkdir(parents=True, exist_ok=True)
            name.write_bytes(os.urandom(small_size))
        (top / LARGE).mkdir()
        sha256 = _write_random(top / LARGE / "large.bin", large_size)
        self._origin.make()
        sources = {source.key.text: source for source in from_repository(top)}
        large = self._keys(LARGE)[0]
        return Content(
            uuid=self._origin.uuid(),
            small=self._keys(SMALL),
            small_size=small_size,
            large=large,
            large_size=large_size,
            large_sha256=sha256,
            objects={
                key: str(source.content.relative_to(top / _OBJECTS))
                for key, source in sources.items()
                if isinstance(source.content, Path)
            },
        )

    def _keys(self, directory: str) -> list[str]:
        format_ = "--format=${key}\\n"
        return self._origin.git("annex", "find", format_, directory).splitlines()

    @property
    def objects(self) -> Path:
        """Where the content lies; not to be changed."""
        return self._origin.directory / _OBJECTS

    @property
    def environment(self) -> dict[str, str]:
        """For git and git-annex, with nothing of the user's own settings."""
        return self._origin.environment

    def version(self) -> str:
        """Of git-annex."""
        return self._origin.version()

    def copy(self, name: str) -> AnnexRepository:
        """A new copy of the repository, with its UUID and all its content."""
        return self._copy(self._origin, name)

    def client(self, name: str, url: str, uuid: str) -> AnnexRepository:
        """A new clone with the content of all small files, whose only remote is a server: always
        the same one, made once and copied."""
        if self._client is None:
            clone = self._origin.clone_to(self._directory / "clone")
            clone.git("annex", "get", "--quiet", "--jobs=2", SMALL)
            clone.git("remote", "remove", "origin")
            self._client = clone
        copy = self._copy(self._client, name)
        make_remote(copy, url, uuid)
        return copy

    def drop(self, client: AnnexRepository, jobs: int) -> None:
        """``git annex drop`` of all small files.

        :raises GitAnnexError: git-annex did not drop them all.
        """
        client.git("annex", "drop", "--quiet", f"--jobs={jobs}", SMALL)

    def check_dropped(self, client: AnnexRepository) -> None:
        """See that nothing is left.

        :raises GitAnnexError: something is.
        """
        left = client.git("annex", "find", SMALL).splitlines()
        if left:
            raise GitAnnexError(f"git annex drop: {len(left)} files are still there")

    def remove(self, repository: AnnexRepository) -> None:
        """Remove a copy."""
        repository.make_removable()
        shutil.rmtree(repository.directory)

    def _copy(self, of: AnnexRepository, name: str) -> AnnexRepository:
        copy = AnnexRepository(self._directory / name, self.home)
        objects = of.directory / _OBJECTS

        def ignore(directory: str, names: list[str]) -> set[str]:
            return {"objects"} if Path(directory) == objects.parent else set()

        shutil.copytree(of.directory, copy.directory, symlinks=True, ignore=ignore)
        _link_tree(objects, copy.directory / _OBJECTS)
        return copy


def locks_left(repository: AnnexRepository) -> int:
    """Files of content locks, and of their retention, beside its objects."""
    objects = repository.directory / _OBJECTS
    return sum(path.suffix in (".lck", ".rtm", ".rtl") for path in objects.glob("*/*/*/*"))


def _link_tree(source: Path, target: Path) -> None:
    """The same directories, the same files by hard links. A directory's mode comes last: that of a
    key allows no new files."""
    target.mkdir(parents=True)
    for entry in os.scandir(source):
        if entry.is_dir(follow_symlinks=False):
            _link_tree(Path(entry.path), target / entry.name)
        else:
            (target / entry.name).hardlink_to(entry.path)
    shutil.copymode(source, target)


def _write_random(path: Path, size: int) -> str:
    """Write that many random bytes; returns their SHA256 in hexadecimal."""
    digest, left = hashlib.sha256(), size
    with path.open("xb") as out:
        while left > 0:
            block = os.urandom(min(left, _BLOCK))
            digest.update(block)
            out.write(block)
            left -= len(block)
    return digest.hexdigest()
