"""A server over a repository on a real small file system, which nobody but that server sees."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from annexes import Annex
from annexwire import Api
from conftest import BOUND, LOCKLANE, Process

_MOUNT = 'mount -t tmpfs -o "size=$1" none "$2" && cp -a "$3" "$2/" && shift 3 && exec "$@"'


class SmallDisk(Process):
    """``locklane serve`` over a copy of a repository, in a mount namespace of its own. The
    repository itself stays as it is, for clones to be connected to."""

    def __init__(self, annex: Annex, size: str) -> None:
        self._disk = annex.home / "disk"
        self._disk.mkdir()
        self._name = annex.directory.name
        copy = self._disk / self._name
        own = ["unshare", "--mount", *(() if os.geteuid() == 0 else ("--map-root-user",))]
        serving = annex.command(LOCKLANE, "serve", "--wideopen", "--port", "0", cwd=copy)
        super().__init__(
            *(*own, "sh", "-c", _MOUNT, "sh", size, self._disk, annex.directory, *serving),
            env=annex.env,
        )
        self._filler: Path | None = None

    def start(self) -> None:
        self.url = self.line(r"serving (annex\+http://\S+)\n")[1]
        self.api = Api(self.url)

    @property
    def directory(self) -> Path:
        """Where the disk can be looked at from outside."""
        return Path(f"/proc/{self.pid}/root{self._disk}")

    @property
    def copy(self) -> Path:
        """The repository that is served."""
        return self.directory / self._name

    def fill(self, *, but: int = 0) -> None:
        """Take all that is free on it, but so many bytes."""
        free = os.statvfs(self.directory)
        with self._filler_path.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, free.f_bavail * free.f_frsize - but)

    def free(self) -> None:
        self._filler_path.unlink()

    @property
    def _filler_path(self) -> Path:
        return self.directory / "filler"

    def eventually(self, pattern: str) -> None:
        """Wait for a file to be there, in the copy."""
        end = time.monotonic() + BOUND
        while not any(self.copy.glob(pattern)):
            assert time.monotonic() < end, f"there is no {pattern}"
            time.sleep(0.005)

    def make_read_only(self) -> None:
        """As far as anybody can see who opens something now. A file that is open for writing, as
        the server has some, keeps the whole file system from it."""
        self._inside('mount --bind "$0" "$0" && mount -o remount,bind,ro "$0"')

    def make_writable(self) -> None:
        self._inside('umount "$0"')

    def _inside(self, script: str) -> None:
        enter = ["nsenter", f"--target={self.pid}", "--mount"]
        if os.geteuid() != 0:
            enter += ["--user", "--preserve-credentials"]
        done = subprocess.run(
            [*enter, "sh", "-c", script, self._disk], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr


@contextmanager
def small_disk(annex: Annex, size: str = "40m") -> Iterator[SmallDisk]:
    with SmallDisk(annex, size) as process:
        process.start()
        yield process
