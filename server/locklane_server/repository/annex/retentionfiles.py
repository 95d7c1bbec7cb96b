"""``KEYFILE.rtm``: until when content has to stay, even if the process that locked it is gone.

What is promised in one hundredth of a second is promised until the same time, so that one file,
written once, is linked beside all objects that are locked in that hundredth. It cannot be written
to, and git-annex replaces such files and never changes them.

That time is up to a hundredth *earlier* than asked for. If it were later, who locks the same
content right after would find its own promise covered, write nothing, and be left with nothing when
the first unlocks and takes its file away.
"""

from __future__ import annotations

import math
import os
import re
import stat
import threading

from locklane_server.repository.annex.modes import Modes
from locklane_server.repository.annex.scratch import Scratch, link

_TIME = re.compile(rb"\s*(-?[0-9]{1,15}(?:\.[0-9]*)?)s?\s*")


class RetentionFile:
    """One such file, which may have been put into place any number of times."""

    __slots__ = ("_identity", "path", "until", "users")

    def __init__(self, path: str, until: float, status: os.stat_result) -> None:
        self.path = path
        """Where it stays; empty: nowhere but where it has been put."""
        self.until = until
        """Seconds since the epoch."""
        self.users = 0
        self._identity = _identity(status)

    def is_at(self, place: str) -> bool:
        """Whether this is the file there."""
        try:
            status = os.stat(place)
        except FileNotFoundError:
            return False
        if _identity(status) != self._identity:
            return False
        # What stays elsewhere too is still the same file.
        return bool(self.path) or read(place) == self.until


class RetentionFiles:
    """The retention files of a process in one repository. For any number of threads."""

    def __init__(self, scratch: Scratch, modes: Modes) -> None:
        self._scratch = scratch
        self._modes = modes
        self._guard = threading.Lock()
        self._files: dict[float, RetentionFile] = {}

    def put(self, until: float, place: str) -> RetentionFile | None:
        """Let the file for that time appear there, if there is none.

        :param until: seconds since the epoch, in whole hundredths.
        :returns: the file, which is to be released in the end; ``None``: there is one already, or
            it does not go in this way.
        :raises OSError: it cannot be put there.
        """
        file = self._take(until)
        put = False
        try:
            put = link(file.path, place)
        except FileNotFoundError:
            if os.path.exists(file.path):
                raise
            self._forget(file)  # somebody has cleared it away
        finally:
            if not put:
                self.release(file)
        return file if put else None

    def replace(self, until: float, place: str) -> RetentionFile:
        """The same, whatever is there; only for who keeps others from doing so too.

        :raises OSError: it cannot be put there.
        """
        name = self._scratch.name()
        file = self.put(until, name)
        if file is not None:
            try:
                os.rename(name, place)
            except BaseException:
                self.release(file)
                raise
            finally:
                self._scratch.delete(name)  # a move onto itself leaves it
            return file
        copy = self._write(until)
        try:
            os.rename(copy.path, place)
        except BaseException:
            self._scratch.delete(copy.path)
            raise
        copy.path, copy.users = "", 1
        return copy

    def release(self, file: RetentionFile) -> None:
        """It is not in use any more."""
        with self._guard:
            file.users -= 1

    def __len__(self) -> int:
        """Files that may be put into place once more."""
        return len(self._files)

    def trim(self) -> None:
        """Delete what is not in use."""
        with self._guard:
            unused = [file for file in self._files.values() if not file.users]
            for file in unused:
                del self._files[file.until]
        for file in unused:
            self._scratch.delete(file.path)

    def close(self) -> None:
        """Delete all; what has been put into place stays there."""
        with self._guard:
            for file in self._files.values():
                self._scratch.delete(file.path)
            self._files.clear()

    def _forget(self, file: RetentionFile) -> None:
        with self._guard:
            if self._files.get(file.until) is file:
                del self._files[file.until]

    def _take(self, until: float) -> RetentionFile:
        with self._guard:
            file = self._files.get(until)
            if file is not None:
                file.users += 1
                return file
        written = self._write(until)  # nobody waits for the disk because of it
        with self._guard:
            file = self._files.setdefault(until, written)
            file.users += 1
        if file is not written:
            self._scratch.delete(written.path)
        return file

    def _write(self, until: float) -> RetentionFile:
        path, descriptor = self._scratch.create()
        try:
            os.write(descriptor, b"%.2fs" % until)
            os.fchmod(descriptor, stat.S_IMODE(os.fstat(descriptor).st_mode) & ~0o222)
            return RetentionFile(path, until, os.fstat(descriptor))
        except BaseException:
            self._scratch.delete(path)
            raise
        finally:
            os.close(descriptor)


def _identity(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_dev, status.st_ino, status.st_mtime_ns


def rounded_down(seconds: float) -> float:
    """To a hundredth."""
    return math.floor(seconds * 100) / 100


def rounded_up(seconds: float) -> float:
    """To a hundredth."""
    return math.ceil(seconds * 100) / 100


def read(place: str) -> float | None:
    """When the retention there ends, in seconds since the epoch; ``None``: there is none, or what
    is there is no time, which git-annex takes for none too.

    :raises OSError: it cannot be read.
    """
    try:
        with open(place, "rb", buffering=0) as file:
            text = file.read(64) or b""
    except FileNotFoundError:
        return None
    return parse(text)


def parse(text: bytes) -> float | None:
    """The time that a retention file holds; ``None``: it is none."""
    match = _TIME.fullmatch(text)
    return float(match[1]) if match else None
