"""The kinds of repository that a server can serve, as the tests make them, fill them and look at
them on disk. Whatever takes a store's directory works on each kind."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from uuid import uuid4

import pytest

from locklane_client import Key
from locklane_server.clock import Clock
from locklane_server.repository.annex.layout import Layout
from locklane_server.repository.annex.repository import AnnexRepository
from locklane_server.repository.directory import DirectoryRepository
from locklane_server.workers import Workers

KINDS = ("directory", "annex")

both = pytest.mark.kinds(*KINDS)
"""The test, or all of a module's, runs once for each kind; without it, on a directory."""

CONTENTS = [f"content of file {number}\n".encode() * 50 for number in range(3)]
"""What the keys of the fixture ``keys`` hold."""


def kind_of(store: Path) -> str:
    return "annex" if (store / ".git").exists() else "directory"


def make_directory(store: Path) -> None:
    """An empty store with a UUID."""
    (store / ".locklane").mkdir(parents=True)
    (store / ".locklane" / "uuid").write_text(f"{uuid4()}\n")


def make_annex(repository: Path) -> None:
    """A git-annex repository that has :data:`CONTENTS` in files of its work tree."""
    repository.mkdir()
    git(repository, "init", "-q")
    for name, value in (("user.name", "tester"), ("user.email", "tester@localhost")):
        git(repository, "config", name, value)
    git(repository, "annex", "init", "-q", "test")
    for number, content in enumerate(CONTENTS):
        (repository / f"file{number}.txt").write_bytes(content)
    git(repository, "annex", "add", "-q", "--backend=SHA256E", ".")
    git(repository, "commit", "-q", "-m", "files")


def copy_annex(template: Path, repository: Path) -> None:
    shutil.copytree(template, repository, symlinks=True)


def git(repository: Path, *arguments: str) -> str:
    """Run git, or the real git-annex, in a repository; what it printed."""
    beside = str(Path(sys.executable).parent)
    env = {**os.environ, "PATH": f"{beside}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        ["git", *arguments], cwd=repository, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{arguments}: {done.stdout}{done.stderr}"
    return done.stdout


def open_repository(
    store: Path, workers: Workers, clock: Clock
) -> DirectoryRepository | AnnexRepository:
    if kind_of(store) == "annex":
        return AnnexRepository.open(store, workers, clock=clock)
    return DirectoryRepository.open(store, workers, clock=clock, reserve=0)


def key_of(content: bytes, extension: str = ".txt") -> Key:
    """The SHA256E key of some content."""
    digest = hashlib.sha256(content).hexdigest()
    return Key.parse(f"SHA256E-s{len(content)}--{digest}{extension}")


def object_path(store: Path, key: Key) -> Path:
    """Where a key's content lies: as git-annex's ``directory`` special remote has it, reckoned here
    by itself; or in a repository, of whose keys git-annex has put the first three there."""
    if kind_of(store) == "annex":
        return Path(Layout(store / ".git", bare=False).objects(key)[0])
    digest = hashlib.md5(os.fsencode(key.text)).hexdigest()
    name = key.text.translate(str.maketrans({"&": "&a", "%": "&s", ":": "&c", "/": "%"}))
    return store / digest[:3] / digest[3:6] / name / name


def partial_path(store: Path, key: Key) -> Path:
    """Where what came of an upload is kept."""
    own = ".git/annex/tmp" if kind_of(store) == "annex" else ".locklane/partial"
    return store / own / key.file_name


def put(store: Path, content: bytes, key: Key | None = None) -> Key:
    """Put content into a store under its SHA256E key, or under another, with the modes that
    git-annex gives it in a repository."""
    key = key or key_of(content)
    path = object_path(store, key)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    if kind_of(store) == "annex":
        path.chmod(0o444)
        path.parent.chmod(0o555)
    return key


def thaw(path: Path) -> None:
    """Let an object, and the directory it lies in, be changed behind the server's back."""
    path.parent.chmod(0o755)
    path.chmod(0o644)


def lock_files(repository: Path, ending: str) -> list[Path]:
    """The lock files, or retention files, beside the objects of a git-annex repository."""
    return sorted((repository / ".git/annex/objects").glob(f"*/*/*/*.{ending}"))
