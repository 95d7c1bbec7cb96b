"""A program that does one thing in a copy of a git-annex repository, once for each change that it
makes on the disk, and is killed just before that change. Prints how many copies there are.

    python dying.py TEMPLATE COPIES OPERATION KEY CONTENT

The copies are called 0, 1, 2 and so on. The last of them is one in which nobody was killed.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from locklane_client import Key
from locklane_server.repository.annex.repository import AnnexRepository
from locklane_server.workers import Workers

CHANGES = (
    *("open", "rename", "link", "unlink", "symlink", "mkdir", "rmdir", "chmod", "fchmod"),
    *("write", "writev", "ftruncate", "fdatasync", "fsync"),
)
"""Of ``os``; to open a file may make it."""


def die_before(change: int) -> None:
    """Kill this process when it is about to make so many changes and one more."""
    made = 0

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            nonlocal made
            if made == change:
                os.kill(os.getpid(), signal.SIGKILL)
            made += 1
            return function(*arguments, **named)

        return call

    for name in CHANGES:
        setattr(os, name, counted(getattr(os, name)))


async def act(directory: Path, operation: str, key: Key, content: bytes, change: int) -> None:
    repository = AnnexRepository.open(directory, Workers(2))
    die_before(change)
    if operation == "remove":
        assert await repository.remove(key, before=None) is None
    else:
        async with repository.receive(
            key, client="somebody", file=None, offset=0, length=len(content)
        ) as upload:
            assert upload is not None
            await upload.write(content)
            await upload.finish()


def main(template: Path, copies: Path, operation: str, name: str, content: str) -> int:
    for change in range(1000):
        copy = copies / str(change)
        shutil.copytree(template, copy, symlinks=True)
        child = os.fork()
        if child == 0:
            asyncio.run(act(copy, operation, Key.parse(name), content.encode(), change))
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if status == 0:
            return change + 1
        assert os.WIFSIGNALED(status), status
        assert os.WTERMSIG(status) == signal.SIGKILL, status
    raise AssertionError("it never ends")


if __name__ == "__main__":
    print(main(*map(Path, sys.argv[1:3]), *sys.argv[3:]))  # noqa: T201
