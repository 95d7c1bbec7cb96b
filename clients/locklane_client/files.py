"""Files at this end of a transfer. All methods block: call them by :func:`in_thread`."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from .backends import Verifier
from .errors import LocalFileError
from .finishing import to_its_end

T = TypeVar("T")

Progress = Callable[[int, int | None], None]
"""Called with how many bytes of the content are transferred, those of earlier attempts included,
and how many there are, if that is known."""

PART = ".part"
"""What is put behind a file's name for what came of it so far."""

_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV}
"""What link(2) says where the file system has no hard links."""


async def in_thread(work: Callable[[], T]) -> T:
    """Do work that blocks in another thread. Cancelled, it waits until the thread is done: what the
    work uses can then be closed."""
    return await to_its_end(asyncio.get_running_loop().run_in_executor(None, work))


class Part:
    """The beginning of a download: ``FILE.part``, which becomes ``FILE`` when it is whole.

    :param destination: what it will become; must not exist.
    """

    def __init__(self, destination: Path) -> None:
        self.destination = destination
        self.path = destination.with_name(destination.name + PART)
        self.size = 0
        """Bytes in it."""
        self._fd = -1
        self._ours = False

    def open(self) -> None:
        """Open what an earlier attempt left, or begin one.

        :raises LocalFileError: the destination exists, another download to it is under way, or the
            file cannot be written.
        """
        self._refuse_to_overwrite()
        with _about(self.path, "cannot write"):
            while True:
                flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
                self._fd = os.open(self.path, flags, 0o666)
                here = os.fstat(self._fd)
                if not stat.S_ISREG(here.st_mode):
                    raise LocalFileError(f"{self.path} is in the way: it is no regular file")
                try:
                    fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    raise LocalFileError(
                        f"another download to {self.destination} is under way"
                    ) from None
                with suppress(FileNotFoundError):
                    if os.path.samestat(here, self.path.lstat()):
                        break
                # Between open and lock, whoever had the lock finished or gave up.
                os.close(self._fd)
                self._fd = -1
                self._refuse_to_overwrite()
            self._ours = True
            self.size = os.lseek(self._fd, 0, os.SEEK_END)

    def empty(self) -> None:
        """Forget what is in it."""
        with _about(self.path, "cannot write"):
            os.ftruncate(self._fd, 0)
            os.lseek(self._fd, 0, os.SEEK_SET)
        self.size = 0

    def feed(self, verifier: Verifier, begin: int, length: int) -> int:
        """Let the verifier see some of what is in it; returns how many bytes that were."""
        with _about(self.path, "cannot read"):
            data = os.pread(self._fd, length, begin)
        verifier.update(data)
        return len(data)

    def write(self, data: bytes, verifier: Verifier | None) -> None:
        """Add to it, and let the verifier see it too."""
        with _about(self.path, "cannot write"), memoryview(data) as rest:
            done = 0
            while done < len(rest):
                written = os.write(self._fd, rest[done:])
                done += written
                self.size += written
        if verifier is not None:
            verifier.update(data)

    def finish(self) -> None:
        """Make it the destination, on the disk and in one step, replacing nothing.

        :raises LocalFileError: the destination exists by now, or the disk has a fault; the part is
            still there.
        """
        with _about(self.path, "cannot write"):
            os.fsync(self._fd)
        with _about(self.destination, "cannot make"):
            try:
                os.link(self.path, self.destination, follow_symlinks=False)
            except FileExistsError:
                self._refuse_to_overwrite()
                raise
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
                self._refuse_to_overwrite()
                self.path.rename(self.destination)
            else:
                self.path.unlink(missing_ok=True)
            _sync_directory(self.destination.parent)

    def close(self, *, keep: bool) -> None:
        """Let go of it; of one that is neither finished nor to be kept, nor has anything in it,
        nothing is left."""
        if self._fd < 0:
            return
        try:
            if self._ours and (not keep or self.size == 0):
                with suppress(OSError):
                    here = self.path.lstat()
                    if os.path.samestat(here, os.fstat(self._fd)):
                        self.path.unlink()
        finally:
            os.close(self._fd)
            self._fd = -1

    def _refuse_to_overwrite(self) -> None:
        if os.path.lexists(self.destination):
            raise LocalFileError(f"{self.destination} exists already; it was left as it is")


class Source:
    """A file that is sent."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = 0
        self._fd = -1
        self._mtime = 0
        self._using = threading.Lock()

    def open(self) -> None:
        """
        :raises LocalFileError: it is not there, no regular file, or cannot be read.
        """
        with _about(self.path, "cannot read"):
            # Without O_NONBLOCK, opening a named pipe would wait for somebody to write.
            self._fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            here = os.fstat(self._fd)
        if not stat.S_ISREG(here.st_mode):
            raise LocalFileError(f"cannot read {self.path}: it is no regular file")
        self.size, self._mtime = here.st_size, here.st_mtime_ns

    def read(self, begin: int, length: int) -> bytes:
        """Up to so many bytes; fewer only where the file ends.

        :raises LocalFileError: the disk has a fault.
        """
        pieces = []
        with self._using, _about(self.path, "cannot read"):
            while length > 0 and (piece := os.pread(self._fd, length, begin)):
                pieces.append(piece)
                begin += len(piece)
                length -= len(piece)
        return b"".join(pieces)

    def changed(self) -> bool:
        """Whether the file was written to since it was opened."""
        with self._using, _about(self.path, "cannot read"):
            here = os.fstat(self._fd)
        return (here.st_size, here.st_mtime_ns) != (self.size, self._mtime)

    def close(self) -> None:
        """Let go of it, when nobody reads it any more; reading it again is a fault."""
        with self._using:
            if self._fd >= 0:
                os.close(self._fd)
            self._fd = -1


@contextmanager
def _about(path: Path, cannot: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        why = error.strerror or type(error).__name__
        raise LocalFileError(f"{cannot} {path}: {why}") from error


def _sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):  # not so on this file system
            raise
    finally:
        os.close(fd)
