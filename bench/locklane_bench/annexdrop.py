"""The real ``git annex drop`` against the server: does git-annex itself find locks there that it
accepts, over how many connections, and is nothing left locked behind it?"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from locklane_bench.children import RelayChild, ServerChild
from locklane_bench.keys import Source, from_repository, put_into_store
from locklane_bench.results import AnnexDrop
from locklane_client.address import Address

TIMEOUT_SECONDS = 300.0
"""The longest that one git-annex command may take."""


class AnnexDropError(Exception):
    """git-annex is not there, or did not do what it was asked to; the text has what it said."""


def git_annex() -> Path | None:
    """The git-annex beside this Python, or the one on the path; ``None`` without it or git."""
    beside = Path(sys.executable).with_name("git-annex")
    found = beside if beside.exists() else shutil.which("git-annex")
    return Path(found) if found and shutil.which("git") else None


def measure(server: ServerChild, store: Path, files: int, jobs: int = 1) -> AnnexDrop:
    """Make a git-annex repository, copy its content to the store, and drop it all.

    :raises AnnexDropError: as it says.
    """
    program = git_annex()
    if program is None:
        raise AnnexDropError("git-annex or git is not installed")
    address = Address.parse(server.address)
    with (
        tempfile.TemporaryDirectory(prefix="locklane-annex-") as scratch,
        RelayChild(address.host, address.port) as relay,
    ):
        repository = _Repository(Path(scratch), program)
        try:
            repository.make(files)
            put_into_store(_copied(from_repository(repository.directory)), store)
            repository.know(f"annex+http://127.0.0.1:{relay.port}/git-annex/", address.uuid)
            locks = server.counted("locklane_locks_taken_total")
            before = relay.counts()
            started = time.perf_counter()
            repository.run("annex", "drop", f"--jobs={jobs}", ".")
            seconds = time.perf_counter() - started
            after = relay.counts()
            left = repository.run("annex", "find").splitlines()
            if left:
                raise AnnexDropError(f"git-annex did not drop {len(left)} of {files} files")
            return AnnexDrop(
                git_annex_version=repository.run("annex", "version", "--raw").strip(),
                files=files,
                jobs=jobs,
                seconds=seconds,
                connections=after.connections - before.connections,
                bytes_up=after.bytes_up - before.bytes_up,
                bytes_down=after.bytes_down - before.bytes_down,
                locks_taken=server.counted("locklane_locks_taken_total") - locks,
                locks_left=server.counted("locklane_locks"),
            )
        finally:
            repository.make_removable()


def _copied(sources: list[Source]) -> list[Source]:
    """With the content itself: the drop deletes the files that it came from."""
    return [
        Source(source.key, source.content.read_bytes())
        for source in sources
        if isinstance(source.content, Path)
    ]


class _Repository:
    """A git-annex repository of its own, with its own home and settings."""

    def __init__(self, scratch: Path, program: Path) -> None:
        self.directory = scratch / "repository"
        home = scratch / "home"
        home.mkdir()
        self._environment = {
            "PATH": f"{program.parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
            "HOME": str(home),
            "LC_ALL": "C.UTF-8",
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_AUTHOR_NAME": "Locklane",
            "GIT_AUTHOR_EMAIL": "benchmark@locklane.invalid",
            "GIT_COMMITTER_NAME": "Locklane",
            "GIT_COMMITTER_EMAIL": "benchmark@locklane.invalid",
        }

    def run(self, *arguments: str, stdin: str = "") -> str:
        """Run git here; returns what it printed."""
        try:
            done = subprocess.run(
                ["git", *arguments],
                cwd=self.directory,
                env=self._environment,
                input=stdin,
                capture_output=True,
                text=True,
                timeout=TIMEOUT_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise AnnexDropError(f"git {arguments[0]} {arguments[1]} took too long") from error
        if done.returncode:
            said = (done.stderr or done.stdout).strip()[-500:]
            raise AnnexDropError(f"git {' '.join(arguments[:2])}: {said}")
        return done.stdout

    def make(self, files: int) -> None:
        """Make the repository and its files."""
        self.directory.mkdir()
        self.run("init", "--quiet")
        self.run("annex", "init", "--quiet", "benchmark")
        for number in range(files):
            name = self.directory / f"file-{number:05}.txt"
            name.write_text(f"content of file {number}\n", encoding="utf-8")
        self.run("annex", "add", "--quiet", ".")
        self.run("commit", "--quiet", "--message", "files")

    def know(self, url: str, uuid: str) -> None:
        """Make the server a remote that is known to have every file."""
        for name, value in {
            "remote.locklane.url": url,
            "remote.locklane.annexUrl": url,
            "remote.locklane.annex-uuid": uuid,
            "remote.locklane.annex-ignore": "false",
            "remote.locklane.fetch": "+refs/heads/*:refs/remotes/locklane/*",
            "annex.security.allowed-ip-addresses": "all",
        }.items():
            self.run("config", name, value)
        keys = self.run("annex", "find", "--format=${key}\\n").splitlines()
        present = "".join(f"{key} {uuid} 1\n" for key in keys)
        self.run("annex", "setpresentkey", "--batch", stdin=present)

    def make_removable(self) -> None:
        """git-annex keeps its objects' directories without write permission."""
        for directory, _, __ in os.walk(self.directory):
            os.chmod(directory, 0o755)  # noqa: PTH101
