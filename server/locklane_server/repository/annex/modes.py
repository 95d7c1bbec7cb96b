"""The permissions of what lies in a repository: content is kept from accidents, and
``core.sharedRepository`` is honoured (git-config(1)), as git-annex does."""

from __future__ import annotations

import errno
import logging
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")

_log = logging.getLogger(__name__)

_WRITE = 0o222
_OWNER_WRITE = stat.S_IWUSR
_ATTEMPTS = 100
"""Times that a directory is made writable again after another process, done with its own change,
made it read-only under our hands."""


@dataclass(frozen=True, slots=True)
class Modes:
    """What modes a repository wants. Failure to set one is passed over where the repository is
    shared, because what belongs to another user cannot be changed.

    :param shared: ``"group"``, ``"all"``, a mode for files (``0o640``), or ``None``: the umask's.
    """

    shared: str | int | None = None

    @classmethod
    def parse(cls, value: str | None) -> Modes:
        """From the value of ``core.sharedRepository``.

        :raises ValueError: git does not know it.
        """
        match (value or "umask").lower():
            case "umask" | "false" | "0" | "no" | "off":
                return cls(None)
            case "group" | "true" | "1" | "yes" | "on" | "":
                return cls("group")
            case "all" | "world" | "everybody" | "2" | "3":
                return cls("all")
            case number:
                mode = int(number, 8)
                if mode & 0o600 != 0o600:
                    raise ValueError(f"core.sharedRepository is {value}")
                return cls(mode & 0o666)

    @property
    def creation(self) -> int:
        """Mode to create a file with that is not content."""
        return self.shared if isinstance(self.shared, int) else 0o666

    def file(self, path: str | os.PathLike[str]) -> None:
        """A new file that is not content."""
        match self.shared:
            case None:
                return
            case "group":
                self._change(path, add=0o660)
            case "all":
                self._change(path, add=0o664)
            case int(mode):
                self._set(path, mode)

    def directory(self, path: str | os.PathLike[str]) -> None:
        """A new directory that holds no content itself."""
        match self.shared:
            case None:
                return
            case "group":
                self._change(path, add=0o770)
            case "all":
                self._change(path, add=0o775)
            case int(mode):
                self._set(path, _directory_mode(mode))

    def make_directories(self, path: str) -> None:
        """A directory and what is missing above it."""
        try:
            os.mkdir(path)
        except FileExistsError:
            return
        except FileNotFoundError:
            self.make_directories(os.path.dirname(path))
            with suppress(FileExistsError):
                os.mkdir(path)
        self.directory(path)

    def freeze_content(self, path: str | os.PathLike[str]) -> None:
        """Content: nobody writes to it."""
        match self.shared:
            case None:
                self._change(path, add=0o400, remove=_WRITE)
            case "group":
                self._change(path, add=0o440, remove=_WRITE)
            case "all":
                self._change(path, add=0o444, remove=_WRITE)
            case int(mode):
                self._set(path, mode & ~_WRITE)

    def freeze_directory(self, path: str) -> None:
        """The directory of one key's content: nothing in it is deleted by accident. In a shared
        repository the others have to be able to, and cannot change its mode."""
        match self.shared:
            case None:
                self._change(path, remove=_WRITE)
            case "group" | "all":
                self._change(path, add=0o660)
            case int(mode):
                self._set(path, _directory_mode(mode & ~_OWNER_WRITE))

    def thaw_directory(self, path: str) -> None:
        """Allow changes in the directory of one key's content.

        :raises OSError: it cannot be allowed.
        """
        if isinstance(self.shared, int):
            self._set(path, _directory_mode(self.shared))
        else:
            self._change(path, add=_OWNER_WRITE)

    @contextmanager
    def thawed(self, path: str) -> Iterator[None]:
        """Change something in the directory of one key's content. Another process that ends its own
        change freezes the directory while this one is at work; see :meth:`change`.

        :raises OSError: it cannot be allowed.
        """
        self.thaw_directory(path)
        try:
            yield
        finally:
            # What has been changed is changed; a directory that stays writable does no harm.
            try:
                self.freeze_directory(path)
            except FileNotFoundError:
                pass
            except OSError as error:
                _log.warning("%s stays writable: %s", path, error.strerror)

    def change(self, path: str, change: Callable[[], T]) -> T:
        """Make a change in the directory of one key's content, and again from its beginning if
        another process froze the directory meanwhile.

        :raises OSError: it cannot be made.
        """
        for _ in range(_ATTEMPTS):
            with suppress(PermissionError), self.thawed(path):
                return change()
        raise PermissionError(errno.EACCES, f"{path} does not stay writable")

    def change_beside(self, path: str, change: Callable[[], T]) -> T:
        """Make a change in the directory of ``path``, which is only thawed where that is needed.

        :raises OSError: it cannot be made.
        """
        try:
            return change()
        except PermissionError:
            return self.change(os.path.dirname(path), change)

    def create(self, path: str) -> int:
        """Open a file that is not content, to be read and written; it is made if it is not there.

        :raises FileNotFoundError: the directory is not there.
        :raises OSError: it cannot be opened.
        """
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, self.creation)
        self.file(path)
        return descriptor

    def delete(self, *paths: str) -> None:
        """Delete those of some files that are there, in the directory of one key's content.

        :raises OSError: they cannot be deleted.
        """
        self.change_beside(paths[0], lambda: _delete(paths))

    def _change(self, path: str | os.PathLike[str], *, add: int = 0, remove: int = 0) -> None:
        try:
            old = stat.S_IMODE(os.stat(path).st_mode)
            new = (old | add) & ~remove
            if new != old:
                os.chmod(path, new)
        except OSError:
            if self.shared is None:
                raise

    def _set(self, path: str | os.PathLike[str], mode: int) -> None:
        with suppress(OSError):
            os.chmod(path, mode)


def _delete(paths: tuple[str, ...]) -> None:
    for path in paths:
        with suppress(FileNotFoundError):
            os.unlink(path)


def _directory_mode(mode: int) -> int:
    """A file's mode as a directory's: who may read may enter; who is shared with, stays so."""
    directory = mode | (mode & 0o444) >> 2
    return directory | stat.S_ISGID if mode & 0o060 else directory
