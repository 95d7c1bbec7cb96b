"""What the scenarios from the field have in common: clients that are killed, and what they leave at
the server's process."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from annexes import Annex, Locklane, open_files
from annexwire import PATIENCE, Api
from conftest import BOUND, LOCKLANE, Process

from locklane_client.key import Key

FULL_SIZE = bool(os.environ.get("LOCKLANE_FULL_SIZE"))
"""Run the scenarios in the sizes that were reported (``make field``)."""


WAIT_FOR_A_GATE = 'touch "$HOME/reached"; until [ -e "$HOME/gate" ]; do sleep 0.02; done #'
"""A hook of git-annex's that tells that it was called, and goes on when it is told to. (What is to
be erased is erased in any case.)"""


class FieldServer(Locklane):
    """``locklane serve`` with another access than everybody's to everything, or started by
    something else.

    :param command: what runs it.
    """

    def __init__(
        self,
        annex: Annex,
        *options: str,
        access: tuple[str, ...] = ("--wideopen",),
        command: tuple[str, ...] = (LOCKLANE,),
    ) -> None:
        words = annex.command(*command, "serve", *access, "--port", "0", *options)
        Process.__init__(self, *words, env=annex.env)
        try:
            self.base = self.line(r"serving (annex\+http://\S+/git-annex/)")[1]
        except BaseException:
            self.kill()
            raise
        self.url = self.base + annex.uuid
        self.api = Api(self.url)


def soon(condition: Callable[[], object], what: str, within: float = BOUND) -> None:
    """Wait for something; fail if it does not come true."""
    end = time.monotonic() + within
    while not condition():
        assert time.monotonic() < end, f"not within {within:g} s: {what}"
        time.sleep(0.005)


def open_descriptors(server: Locklane) -> list[str]:
    """The connections and files that the server's process has open, without what stays once it has
    been opened: the pipes to git, and the database of git-annex."""
    names = open_files(server.pid)
    return [name for name in names if not re.match(r"pipe:|anon_inode:|/dev/|.*/keysdb/", name)]


def threads(server: Locklane) -> int:
    return len(list(Path(f"/proc/{server.pid}/task").iterdir()))


def returns_to(server: Locklane, before: list[str], more: int = 0) -> None:
    """The server's descriptors are again as many as they were, or so many more."""
    end = time.monotonic() + BOUND
    while len(now := open_descriptors(server)) > len(before) + more:
        assert time.monotonic() < end, f"still open: {set(now) - set(before)}"
        time.sleep(0.005)


def add_files(annex: Annex, count: int, size: int) -> list[Path]:
    """Add that many files of random bytes at once; where they are in the work tree."""
    names = [f"file {number:04}.dat" for number in range(count)]
    for name in names:
        annex.write(name, os.urandom(size))
    annex.annex("add", "-q", ".")
    annex.git("commit", "-q", "-m", "files")
    return [annex.directory / name for name in names]


def all_end_well(processes: Sequence[Process], within: float = PATIENCE) -> None:
    """Each of some commands that run at the same time ends with 0."""
    try:
        for process in processes:
            assert process.wait(within) == 0, f"{process.command}: {process.output}"
    finally:
        for process in processes:
            process.kill()


def ends_with_0(server: Locklane) -> None:
    """At SIGTERM, and nothing was said of the server's own faults."""
    server.terminate()
    assert server.wait() == 0, server.output
    assert "Traceback" not in server.output


def http_url(server: Locklane, key: Key) -> str:
    """Where any HTTP client gets the content of a key."""
    return f"http://{server.api.host}{server.api.path}/key/{key.text}"


def curl(*words: str | Path) -> Process:
    return Process("curl", "--silent", "--show-error", "--no-progress-meter", *words)
