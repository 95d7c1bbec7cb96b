"""Content that is arriving, in a file of its own until it is complete.

What comes is written and hashed by two workers at a time while the next piece is on its way, and is
never in memory as a whole. What an interrupted upload leaves behind is kept for a resumed one; its
bytes are hashed anew then, so that nothing is stored under a key that has not been verified from
the first byte to the last.
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import os
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from locklane_client import backends
from locklane_client.backends import Verifier
from locklane_client.key import Key
from locklane_server.repository import BadOffset, InvalidContent, RepositoryError
from locklane_server.repository.diskerrors import disk_error
from locklane_server.workers import Workers

PIECE = 1024 * 1024
"""Bytes that come together before workers are woken for them."""

LARGEST_PIECE = 4 * 1024 * 1024
"""The same where as much as eight times that has come already: to wake them takes a good part of a
millisecond, in which nothing else is done for the upload."""

SMALLEST_PIECE = 256 * 1024

MOST_PIECES = 4096
"""Parts that a piece may consist of, however small a client makes them."""

TOGETHER = 32 * 1024 * 1024
"""What the pieces of all uploads may have together before they are made smaller. Three times that
is in memory at the most: one piece is written, the next comes, and one may be on its way."""

WRITEBACK = 8 * 1024 * 1024
"""After so many bytes the kernel is asked to begin with writing them to the disk, so that little is
left to wait for at the end."""

WORTH_TWO_WORKERS = 64 * 1024
"""Fewer bytes than this are written and hashed by one worker."""


def sync_directory(directory: str) -> None:
    """Have a renaming in a directory outlive a power cut."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def partial_size(path: str | os.PathLike[str], key: Key) -> int:
    """Bytes of a partial upload. What is longer than the key's content is of no use: 0.

    :raises RepositoryError: the disk does not tell.
    """
    if not can_be_resumed(key):
        return 0
    try:
        size = os.stat(path).st_size
    except FileNotFoundError:
        return 0
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:  # then there cannot be one
            return 0
        raise disk_error("cannot look for an earlier upload", error) from error
    return 0 if key.size is not None and size > key.size else size


def can_be_resumed(key: Key) -> bool:
    """Whether what an interrupted upload leaves behind may be gone on with: only if the whole will
    be verified, because nobody knows whether it was right, or of the same file."""
    return backends.check(key) in (backends.Check.HERE, backends.Check.CALCKEY)


_SYNC_FILE_RANGE_WRITE = 2
_sync_file_range = getattr(ctypes.CDLL(None), "sync_file_range", None)


def _begin_writeback(descriptor: int, offset: int, count: int) -> None:
    """sync_file_range(2); where there is none, the end takes longer."""
    if _sync_file_range is not None:
        _sync_file_range(
            descriptor,
            ctypes.c_int64(offset),
            ctypes.c_int64(count),
            ctypes.c_uint(_SYNC_FILE_RANGE_WRITE),
        )


def _piece_size(came: int, uploads: int) -> int:
    """For an upload of which so much has come, where so many are under way."""
    wanted = max(PIECE, min(LARGEST_PIECE, came // 8))
    return max(SMALLEST_PIECE, min(wanted, TOGETHER // uploads))


class PartialFile:
    """See :class:`~locklane_server.repository.Upload`. Made by :meth:`open`, in a worker.

    :param store: called in a worker with the path of what is complete, verified and on the disk;
        it has to be moved away.
    """

    def __init__(
        self,
        key: Key,
        path: str,
        descriptor: int,
        verifier: Verifier | None,
        workers: Workers,
        store: Callable[[str], None],
    ) -> None:
        self._key = key
        self._path = path
        self._descriptor = descriptor
        self._verifier = verifier
        self._workers = workers
        self._store = store
        self.stored = False
        """Whether it was all there, and is in its place now."""
        self._size = os.lseek(descriptor, 0, os.SEEK_END)
        self._written = self._begun = self._size
        self._pieces: list[bytes] = []
        self._together = 0
        self._flushing: asyncio.Task[None] | None = None
        _open.add(self)

    @classmethod
    def open(
        cls,
        key: Key,
        path: str,
        offset: int,
        mode: int,
        verifier: Verifier | None,
        workers: Workers,
        store: Callable[[str], None],
    ) -> PartialFile:
        """Open the file, to go on at ``offset``. Whatever is after that is dropped.

        :raises BadOffset: it is not that long.
        :raises RepositoryError: the disk does not let it be done.
        """
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            descriptor = os.open(path, flags, mode)
        except OSError as error:
            raise disk_error("cannot store the upload", error) from error
        try:
            size = os.fstat(descriptor).st_size
            if size < offset:
                if size == 0:
                    os.unlink(path)
                raise BadOffset(
                    f"an upload from byte {offset} on cannot go on here, where there are {size} "
                    "bytes of it; ask for the offset with putoffset"
                )
            if size > offset:
                os.ftruncate(descriptor, offset)
            if verifier is not None:
                _feed(descriptor, offset, verifier)
            return cls(key, path, descriptor, verifier, workers, store)
        except OSError as error:
            os.close(descriptor)
            raise disk_error("cannot go on with an earlier upload", error) from error
        except BaseException:
            os.close(descriptor)
            raise

    async def write(self, data: bytes) -> None:
        self._pieces.append(data)
        self._together += len(data)
        if self._key.size is not None and self._size + self._together > self._key.size:
            await self._workers.run(self._discard)
            raise InvalidContent(
                f"more than the {self._key.size} bytes came that the content of this key has"
            )
        due = self._together >= _piece_size(self._size, len(_open))
        if due or len(self._pieces) >= MOST_PIECES:
            await self._flush()

    async def finish(self) -> None:
        if self._together >= WORTH_TWO_WORKERS:
            await self._flush()
        await self._flushed()
        await self._workers.run(self._verify)
        await self._workers.run_patiently(self._store, self._path)
        self.stored = True

    async def aclose(self) -> None:
        """Let go of the file, which is kept if there is anything in it. Not to be cancelled."""
        _open.discard(self)
        try:
            with suppress(RepositoryError):  # whoever wrote has seen it, or has no use for it
                await self._flushed()
        finally:
            await self._workers.run(self._close)

    async def _flush(self) -> None:
        """Have what came written and hashed, as soon as what came before it is."""
        await self._flushed()
        pieces, self._pieces, self._together = self._pieces, [], 0
        self._size += sum(map(len, pieces))
        self._flushing = asyncio.create_task(self._write_and_hash(pieces))

    async def _flushed(self) -> None:
        if self._flushing is not None:
            await asyncio.shield(self._flushing)
            self._flushing = None

    async def _write_and_hash(self, pieces: list[bytes]) -> None:
        works: list[Callable[[list[bytes]], None]] = [self._write]
        if self._verifier is not None:
            works.append(self._hash)
        done = await asyncio.gather(
            *(self._workers.run(work, pieces) for work in works), return_exceptions=True
        )
        for result in done:
            if isinstance(result, BaseException):
                raise result

    def _close(self) -> None:
        try:
            if not self.stored:
                self._keep()
        finally:
            os.close(self._descriptor)

    def _keep(self) -> None:
        """What came is kept, if anybody can go on with it."""
        with suppress(OSError, RepositoryError):
            if self._pieces:  # the end of what came before the client vanished
                self._write(self._pieces)
            if os.fstat(self._descriptor).st_size == 0 or not can_be_resumed(self._key):
                self._discard()

    def _write(self, pieces: list[bytes]) -> None:
        try:
            left: list[Any] = list(pieces)
            while left:
                written = os.writev(self._descriptor, left[:512])
                self._written += written
                while left and written >= len(left[0]):
                    written -= len(left.pop(0))
                if written:
                    left[0] = memoryview(left[0])[written:]
            if self._written - self._begun >= WRITEBACK:
                _begin_writeback(self._descriptor, self._begun, self._written - self._begun)
                self._begun = self._written
        except OSError as error:
            raise disk_error("cannot store the upload", error) from error

    def _hash(self, pieces: list[bytes]) -> None:
        assert self._verifier is not None
        for piece in pieces:
            self._verifier.update(piece)

    def _verify(self) -> None:
        pieces, self._pieces, self._together = self._pieces, [], 0
        self._write(pieces)
        self._size += sum(map(len, pieces))
        if self._verifier is not None:
            self._hash(pieces)
        if self._key.size is not None and self._size != self._key.size:
            raise InvalidContent(
                f"the content of this key has {self._key.size} bytes, and {self._size} came"
            )
        if self._verifier is not None and not self._verifier.matches():
            self._discard()
            raise InvalidContent(
                "what came is not the content of this key: its hash is another one"
            )
        try:
            os.fdatasync(self._descriptor)  # the client may let go of its own copy now
        except OSError as error:
            raise disk_error("cannot store the upload", error) from error

    def _discard(self) -> None:
        with suppress(FileNotFoundError):
            os.unlink(self._path)


_open: set[PartialFile] = set()
"""Of this process, whose memory they share."""


def _feed(descriptor: int, end: int, verifier: Verifier) -> None:
    offset = 0
    while offset < end:
        piece = os.pread(descriptor, min(PIECE, end - offset), offset)
        if not piece:
            raise OSError(errno.EIO, "the file became shorter")
        verifier.update(piece)
        offset += len(piece)
