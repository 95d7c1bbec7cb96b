"""What git's configuration says of a repository, and which repositories cannot be served."""

from __future__ import annotations

import math
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from locklane_server.repository import RepositoryError
from locklane_server.repository.annex.layout import Layout
from locklane_server.repository.annex.modes import Modes
from locklane_server.repository.annex.program import environment

VERSION = "10"
"""The version of repositories that is spoken here; git-annex's since 2022."""

DISK_RESERVE = 100_000_000
"""Bytes to be kept free on the disk, where ``annex.diskreserve`` does not say otherwise."""

GIT_TIMEOUT_SECONDS = 60.0


Version = tuple[int, int]


def version_of(status: os.stat_result) -> Version:
    """Of the file ``config`` in a git directory: changes with the configuration, for which git
    replaces it, and with the repository in its place."""
    return status.st_ino, status.st_mtime_ns


class NotInitializedError(RepositoryError):
    """A git repository, but not one of git-annex's."""


@dataclass(frozen=True, slots=True)
class Config:
    """What matters of the configuration. Read once; who changes it starts the server anew."""

    layout: Layout
    work_tree: Path | None
    uuid: str
    modes: Modes
    verify: bool
    """``annex.verify``: look whether what arrives is the content of its key."""
    thin: bool
    """``annex.thin``: an unlocked file of the work tree may be the object itself."""
    secure_hashes_only: bool
    disk_reserve: int
    """Bytes."""
    private: bool
    """``annex.private``: nothing about this repository goes to the branch."""
    database_directory: str | None
    """``annex.dbdir``."""
    by_git_annex: bool
    """Something is set that only git-annex can do when content comes or goes (a hook, a trash
    bin): leave that to it."""

    @classmethod
    def read(cls, directory: Path) -> Config:
        """Of the repository in a directory, or around it.

        :raises NotInitializedError: git-annex has not been set up in it.
        :raises RepositoryError: there is none, or it cannot be served; the text says why, and what
            to do.
        """
        facts = _git(
            directory,
            "rev-parse",
            "--path-format=absolute",
            "--is-bare-repository",
            "--git-common-dir",
        ).splitlines()
        if len(facts) != 2:
            raise RepositoryError(f"git does not say where the repository of {directory} is")
        bare, git = facts[0] == "true", Path(facts[1]).resolve()
        work_tree = None
        if not bare:
            top = _git(directory, "rev-parse", "--path-format=absolute", "--show-toplevel")
            work_tree = Path(top.removesuffix("\n"))
        settings = parse_settings(_git(directory, "config", "--null", "--list"))
        _refuse(git, settings)
        try:
            modes = Modes.parse(settings.get("core.sharedrepository"))
        except ValueError as error:
            raise RepositoryError(f"{git}: {error}, which git does not know") from error
        return cls(
            layout=Layout(git, bare),
            work_tree=work_tree,
            uuid=settings["annex.uuid"],
            modes=modes,
            verify=_boolean(settings, "annex.verify", True),
            thin=_boolean(settings, "annex.thin", False),
            secure_hashes_only=_boolean(settings, "annex.securehashesonly", False),
            disk_reserve=_disk_reserve(git, settings.get("annex.diskreserve")),
            private=_boolean(settings, "annex.private", False),
            database_directory=settings.get("annex.dbdir"),
            by_git_annex=any(settings.get(name) for name in _GIT_ANNEX_ONLY)
            or any((git / "hooks" / name).exists() for name in _HOOKS)
            or settings.get("annex.adjustedbranchrefresh", "0").lower() not in ("0", "false"),
        )


_GIT_ANNEX_ONLY = (
    "annex.trashbin",
    "annex.secure-erase-command",
    "annex.freezecontent-command",
    "annex.thawcontent-command",
)
_HOOKS = ("freezecontent-annex", "thawcontent-annex", "secure-erase-annex")


def _refuse(git: Path, settings: dict[str, str]) -> None:
    if not settings.get("annex.uuid"):
        raise NotInitializedError(
            f"{git} has no annex.uuid: run 'git annex init' in that repository first"
        )
    version = settings.get("annex.version", "")
    if version != VERSION:
        raise RepositoryError(
            f"{git} has annex.version {version or 'unset'}, and only {VERSION} is served, because "
            "older ones lock content in another way: run 'git annex upgrade --force' in it, when "
            "no process of an older git-annex uses it any more"
            if not version.isdigit() or int(version) < int(VERSION)
            else f"{git} has annex.version {version}, which is newer than {VERSION}, the one that "
            "this server knows: install a newer Locklane"
        )
    for name, value in settings.items():
        if name.startswith("annex.tune."):
            raise RepositoryError(
                f"{git} has {name} = {value}: a repository whose layout was tuned cannot be "
                "served; make a clone of it that was initialized without tuning"
            )
    if _boolean(settings, "annex.crippledfilesystem", False):
        raise RepositoryError(
            f"{git} is on a file system that git-annex calls crippled, without the permissions "
            "and locks that content is kept safe with; put it on another one"
        )
    if _boolean(settings, "annex.pidlock", False):
        raise RepositoryError(
            f"{git} has annex.pidlock set: then git-annex does not see this server's locks, nor "
            "this server its. Unset it, if the file system has locks"
        )
    if (database := settings.get("annex.dbdir")) and not Path(database).is_absolute():
        raise RepositoryError(
            f"{git} has annex.dbdir = {database}, which is another directory for each place that "
            "git-annex is run in: set it to an absolute path"
        )
    if not (git / "annex").is_dir():
        raise RepositoryError(f"{git} has no directory annex: run 'git annex init' in it again")


def parse_settings(listed: str) -> dict[str, str]:
    """What ``git config --null --list`` prints. Of several values the last counts. A name without a
    value is true."""
    settings = {}
    for entry in listed.split("\0"):
        name, separator, value = entry.partition("\n")
        if name:
            settings[name] = value if separator else "true"
    return settings


def _boolean(settings: dict[str, str], name: str, default: bool) -> bool:
    """As git-annex reads one: what it does not understand is the default."""
    value = settings.get(name, "").lower()
    if value in ("true", "yes", "on", "1"):
        return True
    if value in ("false", "no", "off", "0"):
        return False
    return default


_SIZE = re.compile(
    r"(?P<number>[0-9]+(?:\.[0-9]+)?)\s*"
    r"(?:(?P<binary>[kmgtp])(?:i|[ie]bi)|(?P<decimal>[kmgtp])(?:ilo|ega|iga|era|eta)?)?"
    r"(?:b|bytes?)?"
)


def _disk_reserve(git: Path, value: str | None) -> int:
    if value is None:
        return DISK_RESERVE
    try:
        return parse_size(value)
    except ValueError as error:
        raise RepositoryError(
            f"{git}: annex.diskreserve is {value!r}, which is no size; write for example 1 gigabyte"
        ) from error


def parse_size(value: str) -> int:
    """A size as git-annex's settings have it: ``100 megabytes``, ``1.5 GiB``, ``1gb``, ``0``.

    :raises ValueError: it is none.
    """
    match = _SIZE.fullmatch(value.strip().lower())
    if match is None:
        raise ValueError(f"{value!r} is no size")
    size = float(match["number"])
    if match["binary"]:
        size *= 1024.0 ** ("kmgtp".index(match["binary"]) + 1)
    elif match["decimal"]:
        size *= 1000.0 ** ("kmgtp".index(match["decimal"]) + 1)
    if math.isinf(size):
        raise ValueError(f"{value!r} is beyond every disk")
    return round(size)


def _git(directory: Path, *arguments: str) -> str:
    if not shutil.which("git"):
        raise RepositoryError("git is not installed, and it is needed to serve a git repository")
    try:
        done = subprocess.run(
            ["git", *arguments],
            cwd=directory,
            env=environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=GIT_TIMEOUT_SECONDS,
            check=False,
        )
    except OSError as error:
        raise RepositoryError(f"cannot look into {directory}: {error.strerror}") from error
    except subprocess.TimeoutExpired as error:
        raise RepositoryError(
            f"git did not answer within {GIT_TIMEOUT_SECONDS:g} s in {directory}"
        ) from error
    if done.returncode:
        said = " ".join(done.stderr.decode("utf-8", "replace").split())
        raise RepositoryError(f"{directory}: {said[:500]}")
    return done.stdout.decode("utf-8", "surrogateescape")
