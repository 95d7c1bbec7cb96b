"""Transfers into a repository, so that there is one of a key at a time, whoever makes them, and
git-annex knows of ours.

git-annex keeps a file for each transfer under way (``annex/transfer/download/CLIENT/KEYFILE``) and
write locks on two lock files for it; who finds one of them locked does not begin.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from locklane_client.key import Key
from locklane_server.repository import TransferInProgress, filelock
from locklane_server.repository.annex.layout import Layout
from locklane_server.repository.annex.modes import Modes

_PLAIN = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}")


_ATTEMPTS = 5


class Transfers:
    """The transfers of one repository. All of it blocks, for moments."""

    def __init__(self, layout: Layout, modes: Modes) -> None:
        self._layout = layout
        self._modes = modes

    @contextmanager
    def receiving(self, key: Key, client: str, file: str | None) -> Iterator[None]:
        """Be the one who transfers a key into the repository.

        :param client: UUID of the repository that it comes from. It becomes part of a path, so
            one that is not plain is left out.
        :param file: name of the file in the work tree, for those who look at what goes on.
        :raises TransferInProgress: somebody else is.
        :raises OSError: the disk does not let it be known.
        """
        client = client if _PLAIN.fullmatch(client) and client != "lck" else "unknown"
        about = self._layout.transfer(key, client)
        taken: dict[str, int] = {}
        mine = False
        try:
            for path in map(str, self._layout.transfer_locks(key, client)):
                taken[path] = self._take(path, key)
            mine = True
            self._tell(str(about), file)
            yield
        finally:
            if mine:
                with suppress(FileNotFoundError):
                    about.unlink()
            for path in taken:
                with suppress(FileNotFoundError):
                    os.unlink(path)
            for descriptor in taken.values():
                os.close(descriptor)
            # Anybody can call himself anything, and every name would leave a directory.
            with suppress(OSError):  # another transfer of the client's is under way
                about.parent.rmdir()

    def clear_up(self) -> None:
        """Delete the directories of clients that transfer nothing."""
        for client in self._clients():
            if client.name != "lck":
                with suppress(OSError):
                    os.rmdir(client.path)

    def interrupted(self) -> list[tuple[Key, str]]:
        """Keys and clients of what is left of transfers that nobody makes any more."""
        found: dict[tuple[Key, str], None] = {}
        # Most of them have left a lock file that they share with those of other clients, too.
        for client in sorted(self._clients(), key=lambda entry: entry.name == "lck"):
            with suppress(OSError):
                for name in os.listdir(client.path):
                    with suppress(ValueError):
                        key = Key.from_file_name(name.removeprefix("lck."))
                        lock = name if name.startswith("lck.") else f"lck.{name}"
                        if not _is_locked(f"{client.path}/{lock}"):
                            found[key, client.name] = None
        return list(found)

    def bytes_to_come(self, besides: Key) -> int:
        """Bytes that the transfers under way will still need on the disk, as far as their keys
        tell; that of one key is left out."""
        total = 0
        for client in self._clients():
            if client.name == "lck":
                continue
            with suppress(OSError), os.scandir(client.path) as entries:
                for entry in entries:
                    total += self._to_come(entry, client.path, besides)
        return total

    def _to_come(self, entry: os.DirEntry[str], above: str, besides: Key) -> int:
        if entry.name.startswith("lck."):
            return 0
        try:
            key = Key.from_file_name(entry.name)
        except ValueError:
            return 0
        if key == besides or key.size is None or not _is_locked(f"{above}/lck.{entry.name}"):
            return 0
        try:
            here = os.stat(self._layout.partial(key)).st_size
        except OSError:
            here = 0
        return max(0, key.size - here)

    def _clients(self) -> list[os.DirEntry[str]]:
        """The directories of clients, and ``lck``, which belongs to all."""
        return _directories(str(self._layout.annex / "transfer" / "download"))

    def _take(self, path: str, key: Key) -> int:
        descriptor = filelock.try_for(path, lambda: self._open(path), exclusive=True)
        if descriptor is None:
            raise TransferInProgress(
                f"the content of {key.text!a} is being transferred here already; try again later"
            )
        return descriptor

    def _open(self, path: str) -> int:
        for _ in range(_ATTEMPTS):
            with suppress(FileNotFoundError):  # or somebody has just cleared it away again
                return self._modes.create(path)
            self._modes.make_directories(os.path.dirname(path))
        return self._modes.create(path)

    def _tell(self, path: str, file: str | None) -> None:
        with open(path, "wb") as about:
            about.write(f"{time.time():.6f}s\n".encode() + os.fsencode(file or "") + b"\n")
        self._modes.file(path)


def _directories(path: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(path) as entries:
            return [entry for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return []


def _is_locked(path: str) -> bool:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return filelock.is_locked(descriptor)
    finally:
        os.close(descriptor)
