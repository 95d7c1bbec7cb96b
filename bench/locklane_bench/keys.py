"""The keys that are dropped, and the store in which they are present."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from locklane_client import Key
from locklane_server.repository.directory import object_path


class KeysError(Exception):
    """No keys can be had from there; the text says what to do."""


@dataclass(frozen=True, slots=True)
class Source:
    """A key and where its content is: a file, or the bytes themselves."""

    key: Key
    content: Path | bytes


def made(count: int) -> list[Source]:
    """Keys made for the purpose, the same ones every time, each with a few bytes of content."""
    return [_made(f"file {number} of the benchmark\n".encode()) for number in range(count)]


def _made(content: bytes) -> Source:
    digest = hashlib.sha256(content).hexdigest()
    return Source(Key.parse(f"SHA256E-s{len(content)}--{digest}.txt"), content)


def from_repository(directory: Path, most: int | None = None) -> list[Source]:
    """The keys whose content is in a git-annex repository, in the order of their names.

    :param most: take no more than these.
    :raises KeysError: it is no git-annex repository, or holds no content.
    """
    git = subprocess.run(
        ["git", "-C", str(directory), "rev-parse", "--path-format=absolute", "--git-common-dir"],
        capture_output=True,
        text=True,
        check=False,
    )
    if git.returncode:
        raise KeysError(f"{directory} is no git repository: {git.stderr.strip()}")
    objects = Path(git.stdout.strip()) / "annex" / "objects"
    found = sorted(_objects(objects), key=lambda source: source.key.text)[:most]
    if not found:
        raise KeysError(
            f"{directory} holds no annexed content; give a git-annex repository in which "
            "'git annex find' lists files"
        )
    return found


def _objects(objects: Path) -> Iterator[Source]:
    for path in objects.glob("*/*/*/*"):
        if path.name == path.parent.name and path.is_file():
            try:
                yield Source(Key.from_file_name(path.name), path)
            except ValueError:
                continue  # a stray file


def put_into_store(sources: list[Source], store: Path) -> None:
    """Make the keys present in a store. Content that is a file is linked to, not copied: the
    benchmark locks content and never changes it."""
    for source in sources:
        path = Path(object_path(store, source.key))
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(source.content, bytes):
            path.write_bytes(source.content)
        else:
            path.symlink_to(source.content.resolve())
