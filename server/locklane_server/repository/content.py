"""Content that is a plain file here, open to be read."""

from __future__ import annotations

import errno
import hashlib
import os
import select
import stat
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from locklane_client import backends
from locklane_client.key import Key
from locklane_server import nowait
from locklane_server.repository import RepositoryError
from locklane_server.workers import Workers

STEP = 8 * 1024 * 1024
"""Most bytes given to the kernel in one call."""

SLICE_SECONDS = 0.1
"""How long one download keeps a worker before others get their turn."""

PATIENCE_MILLISECONDS = 5
"""How long a worker waits for a client to take more: for a fast one that is cheaper than to come
back."""

ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG)
"""What the system says where there is no such file."""


class FileContent:
    """See :class:`~locklane_server.repository.Content`."""

    def __init__(self, key: Key, descriptor: int, workers: Workers) -> None:
        self.descriptor = descriptor
        self._workers = workers
        self._opened = os.fstat(descriptor)
        self.size = self._opened.st_size
        name = key.text
        if backends.check(key) in (backends.Check.SIZE, backends.Check.PERHAPS):
            # the key alone does not tell the content
            name += f"\0{self.size}\0{self._opened.st_mtime_ns}"
        digest = hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=16)
        self.etag = digest.hexdigest()

    async def read(self, offset: int, count: int) -> bytes:
        try:
            there = nowait.read(self.descriptor, offset, count)
            if there is None:
                there = await self._workers.run(_read, self.descriptor, offset, count)
        except OSError as error:
            raise RepositoryError(f"cannot read the content: {error.strerror}") from error
        return there

    async def send(self, socket: int, offset: int, count: int) -> int:
        return await self._workers.run(_send, self.descriptor, socket, offset, count)

    def unchanged(self) -> bool:
        now, opened = os.fstat(self.descriptor), self._opened
        return (now.st_size, now.st_mtime_ns) == (opened.st_size, opened.st_mtime_ns)


@asynccontextmanager
async def open_content(
    key: Key, paths: Sequence[str], workers: Workers
) -> AsyncIterator[FileContent | None]:
    """Open the first of some files that is there.

    :raises RepositoryError: it cannot be opened.
    """
    opened: list[int] = []
    try:
        descriptor = nowait.open_file(paths[0])
        if descriptor is None:
            await workers.run(_open_first, paths, opened)
        else:
            opened.append(descriptor)
        yield FileContent(key, opened[0], workers) if opened else None
    finally:
        for descriptor in opened:
            os.close(descriptor)


async def find(paths: Sequence[str], workers: Workers) -> os.stat_result | None:
    """The status of the first of some files that is there and is a plain one.

    :raises RepositoryError: it cannot be told.
    """
    status = nowait.status(paths[0])
    if status is None:
        status = await workers.run_brief(find_blocking, paths)
    return status if status is not None and stat.S_ISREG(status.st_mode) else None


def find_blocking(paths: Sequence[str]) -> os.stat_result | None:
    """:func:`find`, in a worker thread."""
    for path in paths:
        try:
            status = os.stat(path)
        except OSError as error:
            if error.errno not in ABSENT:
                raise RepositoryError(f"cannot look for the content: {error.strerror}") from error
        else:
            if stat.S_ISREG(status.st_mode):
                return status
    return None


def _open_first(paths: Sequence[str], opened: list[int]) -> None:
    """Puts a descriptor where it is found even by who was cancelled meanwhile."""
    for path in paths:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            if error.errno not in ABSENT:
                raise RepositoryError(f"cannot read the content: {error.strerror}") from error
            continue
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            opened.append(descriptor)
            return
        os.close(descriptor)  # something on which reading might wait for ever


def _read(descriptor: int, offset: int, count: int) -> bytes:
    pieces = []
    while count and (piece := os.pread(descriptor, count, offset)):
        pieces.append(piece)
        offset += len(piece)
        count -= len(piece)
    return b"".join(pieces)


def _send(descriptor: int, socket: int, offset: int, count: int) -> int:
    begin, end = offset, offset + count
    turn_over = time.monotonic() + SLICE_SECONDS
    poll = select.poll()
    poll.register(socket, select.POLLOUT)
    while offset < end and time.monotonic() < turn_over:
        try:
            sent = os.sendfile(socket, descriptor, offset, min(STEP, end - offset))
        except BlockingIOError:
            if not poll.poll(PATIENCE_MILLISECONDS):
                return offset - begin or -1
            continue
        except ConnectionError:
            raise
        except OSError as error:
            raise RepositoryError(f"cannot read the content: {error.strerror}") from error
        if sent == 0:
            break
        offset += sent
    return offset - begin
