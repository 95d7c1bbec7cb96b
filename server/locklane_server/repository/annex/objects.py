"""The files that hold content, in ``annex/objects``. Everything here blocks."""

from __future__ import annotations

import errno
import logging
import os
import stat
from collections.abc import Callable, Sequence
from contextlib import suppress

from locklane_client import backends
from locklane_client.key import Key
from locklane_server.repository.annex.layout import Layout
from locklane_server.repository.annex.modes import Modes
from locklane_server.repository.content import find_blocking
from locklane_server.repository.partial import PIECE, sync_directory

_log = logging.getLogger(__name__)

_ATTEMPTS = 100
"""Times that content is put into its place while others change the directory."""


class Objects:
    """The objects of one repository.

    :param thin: ``annex.thin`` is set: an unlocked file of the work tree is the same file as the
        object.
    """

    def __init__(self, layout: Layout, modes: Modes, *, thin: bool) -> None:
        self._layout = layout
        self._modes = modes
        self._thin = thin
        self._unmodified: dict[str, tuple[int, int, int]] = {}

    def may_be_edited(self, status: os.stat_result) -> bool:
        """Whether an object may be no content of its key any more, because somebody has edited the
        file of the work tree that is the same file. git-annex goes by the setting; where that has
        been changed since, an object that can be written to may still be one."""
        return self._thin or bool(stat.S_IMODE(status.st_mode) & 0o222)

    def is_unmodified(self, key: Key, paths: Sequence[str]) -> bool:
        """Whether an object that may be edited is what it was. Reads it whole, once for each state
        of the file."""
        for path in paths:
            with suppress(FileNotFoundError), open(path, "rb") as file:
                status = os.fstat(file.fileno())
                if self.is_known(path, status):
                    return True
                if key.size is not None and key.size != status.st_size:
                    return False
                if (verifier := backends.verifier(key)) is not None:
                    while piece := file.read(PIECE):
                        verifier.update(piece)
                    if not verifier.matches():
                        return False
                self._unmodified[path] = _state(status)
                return True
        return False

    def is_known(self, path: str, status: os.stat_result) -> bool:
        """Whether an object has been read whole in this very state, and was the content."""
        return self._unmodified.get(path) == _state(status)

    def is_here(self, key: Key) -> bool:
        """Whether the content is here, and is that of the key as far as anybody could have changed
        it."""
        paths = self._layout.objects(key)
        status = find_blocking(paths)
        if status is None:
            return False
        return not self.may_be_edited(status) or self.is_unmodified(key, paths)

    def place(self, key: Key, path: str) -> None:
        """Put verified content into its place.

        :raises OSError: it cannot be put there.
        """
        place = self._layout.objects(key)[0]
        directory = os.path.dirname(place)
        fresh = not os.path.isdir(directory)
        for _ in range(_ATTEMPTS):
            # Another process may freeze the directory, or delete it because it is empty.
            with suppress(FileNotFoundError):
                self._modes.make_directories(directory)
            with suppress(PermissionError, FileNotFoundError), self._modes.thawed(directory):
                if os.path.exists(place):
                    os.unlink(path)
                else:
                    os.rename(path, place)
                    with suppress(FileNotFoundError):  # somebody may remove it at once
                        self._modes.freeze_content(place)
                        sync_directory(directory)
                        if fresh:
                            sync_directory(os.path.dirname(directory))
                            sync_directory(os.path.dirname(os.path.dirname(directory)))
                return
            if not os.path.exists(path):
                raise FileNotFoundError(errno.ENOENT, f"{path} is gone")
        raise PermissionError(errno.EACCES, f"{directory} does not stay writable")

    def freeze(self, key: Key) -> None:
        """Take the permission to write from content that was put into its place by somebody who
        did not come as far as that. An object that a file of the work tree shares is left alone.

        :raises OSError: it cannot be taken.
        """
        for place in self._layout.objects(key):
            status = find_blocking([place])
            if status is not None and status.st_nlink == 1:
                self._modes.freeze_content(place)
                self._modes.freeze_directory(os.path.dirname(place))

    def make_way(self, key: Key) -> None:
        """Let go of what was the content of a key until somebody edited it; git-annex would take
        that for the content, and throw away what comes. The file of the work tree that is the same
        file stays; where there is none any more, it goes where git-annex keeps what is bad.

        :raises OSError: it cannot be cleared away.
        """
        bad = self._layout.bad(key)
        for place in self._layout.objects(key):
            status = find_blocking([place])
            if status is None or not self.may_be_edited(status):
                continue
            if self.is_unmodified(key, [place]):
                continue
            self._modes.make_directories(os.path.dirname(bad))

            def put_away(place: str = place, alone: bool = status.st_nlink == 1) -> None:
                if alone:
                    os.rename(place, bad)
                else:
                    os.unlink(place)

            self._modes.change(os.path.dirname(place), put_away)
            _log.warning("what was %s has been edited, and is not kept as such", key)

    def delete(self, place: str, may: Callable[[], bool]) -> bool:
        """Delete one object, for whom its removal has been reserved.

        :param may: asked at the last moment.
        :returns: ``False``: it might not be.
        :raises OSError: it cannot be deleted.
        """

        def unlink() -> bool:
            if not may():
                return False
            with suppress(FileNotFoundError):
                os.unlink(place)
            return True

        deleted = self._modes.change(os.path.dirname(place), unlink)
        if deleted:
            self._unmodified.pop(place, None)
        return deleted

    def clean_up(self, place: str) -> None:
        """Delete the directories of an object that nothing is left in, from the innermost on."""
        with suppress(OSError):
            for _ in range(3):
                place = os.path.dirname(place)
                os.rmdir(place)


def _state(status: os.stat_result) -> tuple[int, int, int]:
    """Changes when a file is written to."""
    return status.st_ino, status.st_size, status.st_mtime_ns
