"""The real git-annex, run in repositories of the benchmark's own: with a home and settings of their
own, so that nothing of the user's is read or changed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

TIMEOUT_SECONDS = 300.0
"""The longest that one command may take."""


class GitAnnexError(Exception):
    """git-annex is not there, or did not do what it was asked to; the text has what it said."""


def program() -> Path:
    """The git-annex beside this Python, else the one on the path.

    :raises GitAnnexError: there is none, or no git.
    """
    beside = Path(sys.executable).with_name("git-annex")
    found = beside if beside.exists() else shutil.which("git-annex")
    if not found:
        raise GitAnnexError("git-annex is not installed: pip install git-annex")
    if not shutil.which("git"):
        raise GitAnnexError("git is not installed")
    return Path(found)


class AnnexRepository:
    """A git-annex repository, made by :meth:`make`.

    :param directory: where it is or will be.
    :param home: a directory for git's and git-annex's own files.
    """

    def __init__(self, directory: Path, home: Path) -> None:
        self.directory = directory
        self.environment = {
            "PATH": f"{program().parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
            "HOME": str(home),
            "LC_ALL": "C.UTF-8",
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_AUTHOR_NAME": "Locklane",
            "GIT_AUTHOR_EMAIL": "benchmark@locklane.invalid",
            "GIT_COMMITTER_NAME": "Locklane",
            "GIT_COMMITTER_EMAIL": "benchmark@locklane.invalid",
        }

    def git(self, *arguments: str, stdin: str = "") -> str:
        """Run git in the repository; returns what it printed.

        :raises GitAnnexError: it failed, or took too long.
        """
        called = f"git {' '.join(arguments[:2])}"
        try:
            done = subprocess.run(
                ["git", *arguments],
                cwd=self.directory,
                env=self.environment,
                input=stdin,
                capture_output=True,
                text=True,
                timeout=TIMEOUT_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise GitAnnexError(f"{called}: not done in {TIMEOUT_SECONDS:g} s") from error
        if done.returncode:
            raise GitAnnexError(f"{called}: {(done.stderr or done.stdout).strip()[-500:]}")
        return done.stdout

    def make(self) -> None:
        """Make it of the files that are in its directory, or of none."""
        self.directory.mkdir(parents=True, exist_ok=True)
        self.git("init", "--quiet")
        self.git("annex", "init", "--quiet", "benchmark")
        self.add()

    def add(self) -> None:
        """Add and commit what is new in its directory."""
        self.git("annex", "add", "--quiet", ".")
        self.git("commit", "--quiet", "--allow-empty", "--message", "files")

    def clone_to(self, directory: Path) -> AnnexRepository:
        """A clone of it in a new directory, which knows no remote and has no content yet."""
        home = Path(self.environment["HOME"])
        self.git("clone", "--quiet", ".", str(directory))
        clone = AnnexRepository(directory, home)
        clone.git("annex", "init", "--quiet", "clone")
        return clone

    def uuid(self) -> str:
        """Its own."""
        return self.git("config", "annex.uuid").strip()

    def version(self) -> str:
        """Of git-annex."""
        return self.git("annex", "version", "--raw").strip()

    def make_removable(self) -> None:
        """git-annex keeps its objects' directories without write permission."""
        for directory, _, __ in os.walk(self.directory):
            os.chmod(directory, 0o755)  # noqa: PTH101


def make_remote(repository: AnnexRepository, url: str, uuid: str) -> None:
    """Make a server the remote ``locklane`` of a repository, or move that remote to this address.

    :raises GitAnnexError: git refused.
    """
    for name, value in {
        "remote.locklane.url": url,
        "remote.locklane.annexUrl": url,
        "remote.locklane.annex-uuid": uuid,
        "remote.locklane.annex-ignore": "false",
        "remote.locklane.fetch": "+refs/heads/*:refs/remotes/locklane/*",
        "annex.security.allowed-ip-addresses": "all",
    }.items():
        repository.git("config", name, value)
