"""Real servers of the API over a real git-annex repository, for the tests of clients."""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from conftest import GIT_ANNEX, LOCKLANE, free_port, wait_for_port

from locklane_client.key import Key


class Repository:
    """A git-annex repository with nothing in it."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.directory = home / "repository"
        self.env = {
            "PATH": f"{Path(GIT_ANNEX).parent}{os.pathsep}{os.environ['PATH']}",
            "HOME": str(home),
            "LC_ALL": "C.UTF-8",
            "GIT_CONFIG_NOSYSTEM": "1",
        }
        (home / ".gitconfig").write_text("[user]\n\tname = tester\n\temail = tester@localhost\n")
        self.directory.mkdir()
        self.run("git", "init", "-q")
        self.run("git", "annex", "init", "-q", "test")
        self.uuid = self.run("git", "config", "annex.uuid").strip()

    def run(self, *command: str) -> str:
        done = subprocess.run(
            command, cwd=self.directory, env=self.env, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def add(self, content: bytes, backend: str = "SHA256E") -> Key:
        """Add a file with some content."""
        name = f"{hashlib.sha1(content + backend.encode()).hexdigest()}.dat"
        (self.directory / name).write_bytes(content)
        self.run("git", "annex", "add", "-q", f"--backend={backend}", name)
        self.run("git", "commit", "-q", "--allow-empty", "-m", name)
        return Key.parse(self.run("git", "annex", "lookupkey", name).strip())

    def know(self, key: Key) -> None:
        """Add a file whose content is not here, so that fsck and whereis look at the key."""
        self.run("git", "annex", "fromkey", "-q", "--force", key.text, f"{key.backend}{key.name}")
        self.run("git", "commit", "-q", "-m", "known")

    def object_path(self, key: Key) -> Path:
        hashed = self.run("git", "annex", "examinekey", "--format=${hashdirmixed}", key.text)
        return self.directory / ".git/annex/objects" / hashed / key.file_name / key.file_name

    def partial(self, key: Key) -> Path:
        """Where git-annex keeps what came of an upload."""
        directory = self.directory / ".git/annex/tmp"
        directory.mkdir(exist_ok=True)
        return directory / key.file_name

    def is_clean(self, key: Key) -> bool:
        """``git annex fsck`` finds nothing wrong with a key."""
        self.run("git", "annex", "fsck", f"--key={key.text}")
        return True

    def whereis(self, key: Key) -> bool:
        """Whether git-annex has it on record that the content is here."""
        done = subprocess.run(
            ["git", "annex", "whereis", f"--key={key.text}"],
            cwd=self.directory,
            env=self.env,
            capture_output=True,
            text=True,
        )
        return self.uuid in done.stdout

    def make_removable(self) -> None:
        for directory, _, __ in os.walk(self.directory):
            Path(directory).chmod(0o755)


@contextmanager
def _serving(repository: Repository, *command: str) -> Iterator[str]:
    port = free_port()
    process = subprocess.Popen(
        [*command, "--bind", "127.0.0.1", "--port", str(port)],
        cwd=repository.directory,
        env=repository.env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for_port(port)
        yield f"annex+http://127.0.0.1:{port}/git-annex/{repository.uuid}"
    finally:
        process.terminate()
        try:
            process.wait(20)
        finally:
            process.kill()
            process.wait()


def p2phttp(repository: Repository, access: str = "--wideopen") -> AbstractContextManager[str]:
    """The URL of a ``git annex p2phttp`` that runs meanwhile."""
    return _serving(repository, GIT_ANNEX, "p2phttp", "-J2", access)


def locklane(repository: Repository) -> AbstractContextManager[str]:
    """The URL of a ``locklane serve`` that runs meanwhile."""
    return _serving(repository, LOCKLANE, "serve", "--wideopen")


SERVERS = {"p2phttp": p2phttp, "locklane": locklane}
"""Servers of the whole API, by name: the tests of transfers run against every one of them."""
