"""Saying where content is: git-annex's location logs, changed through its journal.

The log of a key is the file ``f87/4d5/KEYFILE.log`` on the branch ``git-annex``, with a line
``TIMEs STATUS UUID`` for each repository: 1 present, 0 missing, X dead. Changes are not committed
one by one. Whoever holds the write lock on ``annex/journal.lck`` puts the whole new file into
``annex/journal/``, and the next git-annex that commits takes it from there, under the same lock; so
a file is always in the journal or on the branch, and what is in the journal counts.

As git-annex does, nothing here waits until it is on the platter: after a power cut
``git annex fsck`` finds what is not recorded.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from locklane_client.key import Key
from locklane_server.repository import NotAccepted, RepositoryError, filelock
from locklane_server.repository.annex.branch import BranchReader
from locklane_server.repository.annex.modes import Modes
from locklane_server.repository.diskerrors import disk_error
from locklane_server.repository.hashing import hash_directories_lower

MAX_NAME = 255
"""Longest file name, in bytes, that Linux's file systems take."""

PICOSECONDS = 10**12
"""In a second. git-annex's times have that resolution."""

_TEMPORARY = b"locklane-"

MAX_DIGITS = 4000
"""Of the seconds in a line. Python reads no number that is much longer; git-annex writes ten."""

_LINE_END = re.compile(rb"[\r\n]+")
_LINE = re.compile(rb"([+-]?)([0-9]{1,%d})(?:\.([0-9]+))?s? ([01X]) (.*)" % MAX_DIGITS, re.DOTALL)


class Line(NamedTuple):
    """One line of a log."""

    time: int
    """Picoseconds since the epoch."""
    status: bytes
    """``b"1"``, ``b"0"`` or ``b"X"``."""
    uuid: bytes


def parse(log: bytes) -> dict[bytes, Line]:
    """The newest line for each repository. Of two with one time the first counts. Lines that are
    none are passed over, as git-annex does."""
    newest: dict[bytes, Line] = {}
    for text in _LINE_END.split(log):
        match = _LINE.fullmatch(text)
        if match is None:
            continue
        sign, whole, fraction, status, uuid = match.groups()
        line = Line(_picoseconds(sign, whole, fraction or b""), status, uuid)
        before = newest.get(uuid)
        if before is None or before.time < line.time:
            newest[uuid] = line
    return newest


def changed(log: bytes, uuid: bytes, *, present: bool, now: float) -> bytes | None:
    """A log in which ``uuid`` has the content or has it not; ``None`` if it says so already.

    :param now: seconds since the epoch. Fractions are left out, which keeps the branch small; the
        new line is later than the one it replaces even if that is of the future.
    """
    lines = parse(log)
    status = b"1" if present else b"0"
    before = lines.get(uuid)
    if before is not None and before.status == status:
        return None
    moment = int(now) * PICOSECONDS
    if before is not None and before.time >= moment:
        moment = before.time + PICOSECONDS
    lines[uuid] = Line(moment, status, uuid)
    return b"".join(
        b"%s %s %s\n" % (_seconds(line.time), line.status, line.uuid)
        for _, line in sorted(lines.items())
    )


def journal_name(key: Key) -> bytes:
    """The name of the file in the journal that holds the log of a key.

    :raises NotAccepted: git-annex cannot have a log for this key. Ask before storing content.
    """
    first, second = hash_directories_lower(key)
    file_name = os.fsencode(key.file_name)
    if b"\n" in file_name:
        # git-annex writes such a file, and from then on fails at every commit of the journal.
        raise NotAccepted(
            f"the key {key.text!a} has a line end in its name, and git-annex cannot record where "
            "the content of such a key is"
        )
    name = b"%s_%s_%s.log" % (first.encode(), second.encode(), file_name.replace(b"_", b"__"))
    if len(name) > MAX_NAME:
        raise NotAccepted(
            f"the key {key.text[:40]!a}… is too long: git-annex's journal needs a file name of "
            f"{len(name)} bytes for it, and {MAX_NAME} are possible"
        )
    return name


class LocationLog:
    """What a repository says of itself. For any number of threads at once; every call blocks.

    :param gitdir: the git directory (``.git``, or a bare repository itself), of a repository that
        git-annex has initialized, with neither ``annex.pidlock`` nor ``annex.tune.branchhash1``.
    :param uuid: of this repository.
    :param private: ``annex.private`` is set: nothing goes to the branch, and what is recorded stays
        in ``annex/journal-private``.
    :param clock: seconds since the epoch.
    """

    def __init__(
        self,
        gitdir: Path,
        uuid: str,
        *,
        modes: Modes | None = None,
        private: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._annex = gitdir / "annex"
        self._uuid = uuid.encode()
        self._modes = modes or Modes()
        self._private = private
        self._clock = clock
        self._branch = BranchReader(gitdir)
        self._mutex = threading.Lock()
        self._public_journal = os.fsencode(self._annex / "journal") + b"/"
        self._private_journal = os.fsencode(self._annex / "journal-private") + b"/"
        # Under the lock nobody else is in there with this name.
        self._temporary = os.fsencode(self._annex / "othertmp") + b"/%s%d" % (
            _TEMPORARY,
            os.getpid(),
        )

    def record(self, key: Key, present: bool | Callable[[], bool]) -> None:
        """Record that the content is there, or is there no more.

        :param present: if it is to be called, it is while nobody else can record anything: so the
            last of several who store and remove at the same time records what is so.
        :raises RepositoryError: it cannot be recorded.
        """
        self.record_many([(key, present)])

    def record_many(self, changes: Iterable[tuple[Key, bool | Callable[[], bool]]]) -> None:
        """Record about several keys under one lock, in the order given. git-annex's own changes
        have to wait meanwhile, so not for more than some thousand.

        :raises RepositoryError: one of them cannot be recorded. Those before it are; none is if
            it is for the key itself.
        """
        named = [(journal_name(key), key, present) for key, present in changes]
        if not named:
            return
        with self._locked():
            for name, key, present in named:
                self._change(name, key, present() if callable(present) else present)

    def says_here(self, key: Key) -> bool:
        """Whether the content is here by what is recorded.

        :raises RepositoryError: the branch cannot be read.
        """
        with self._mutex:
            line = parse(self._read(journal_name(key), key)).get(self._uuid)
        return line is not None and line.status == b"1"

    def clear_up(self) -> None:
        """Delete what was being written when its process was killed.

        :raises RepositoryError: it cannot be.
        """
        directory = os.path.dirname(self._temporary)
        try:
            names = os.listdir(directory)
        except FileNotFoundError:
            return
        if any(name.startswith(_TEMPORARY) for name in names):
            with self._locked():
                for name in os.listdir(directory):
                    if name.startswith(_TEMPORARY):
                        os.unlink(directory + b"/" + name)

    def pending(self) -> bool:
        """Whether the journal holds changes that are not committed yet, whoever made them. Those of
        a private repository never are, and do not count."""
        try:
            with os.scandir(self._public_journal) as entries:
                return any(entry.is_file(follow_symlinks=False) for entry in entries)
        except OSError:
            return False

    def close(self) -> None:
        """End the git that reads the branch. It is started again if it is needed."""
        with self._mutex:
            self._branch.close()

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Nobody else changes the journal or commits it."""
        patience = filelock.WAIT_SECONDS
        end = time.monotonic() + patience
        if not self._mutex.acquire(timeout=patience):
            raise RepositoryError(self._stuck())
        try:
            try:
                lock = filelock.wait_for(
                    self._annex / "journal.lck",
                    mode=self._modes.creation,
                    created=self._modes.file,
                    patience=max(0.0, end - time.monotonic()),
                )
            except TimeoutError as error:
                raise RepositoryError(self._stuck()) from error
            try:
                yield
            finally:
                os.close(lock)
        except OSError as error:
            raise disk_error("cannot record where content is", error) from error
        finally:
            self._mutex.release()

    def _stuck(self) -> str:
        return (
            f"cannot record where content is: for {filelock.WAIT_SECONDS:g} s another process has "
            f"had {self._annex / 'journal.lck'} locked. See whether a git-annex hangs or is stopped"
        )

    def _change(self, name: bytes, key: Key, present: bool) -> None:
        old = self._read(name, key)
        new = changed(old, self._uuid, present=present, now=self._clock())
        if new is not None and new != old:
            self._write(name, new)

    def _read(self, name: bytes, key: Key) -> bytes:
        public = _whole_lines(self._public_journal + name)
        private = _whole_lines(self._private_journal + name) if self._private else None
        # What others have recorded since may be on the branch, which the private journal never
        # gets to, so it may lack that.
        if public is None:
            first, second = hash_directories_lower(key)
            path = f"{first}/{second}/".encode() + os.fsencode(key.file_name) + b".log"
            public = self._branch.read(path)
        return public + (private or b"")

    def _write(self, name: bytes, log: bytes) -> None:
        """Put a file into the journal, whole or not at all."""
        journal = self._private_journal if self._private else self._public_journal
        # The shared lock keeps away who would clean up in there.
        with filelock.held(
            self._annex / "othertmp.lck",
            exclusive=False,
            mode=self._modes.creation,
            created=self._modes.file,
        ):
            try:
                file = self._create()
            except FileNotFoundError:
                self._modes.make_directories(str(self._annex / "othertmp"))
                file = self._create()
            with os.fdopen(file, "wb") as stream:
                stream.write(log)
            try:
                os.rename(self._temporary, journal + name)
            except FileNotFoundError:
                self._modes.make_directories(os.fsdecode(journal.rstrip(b"/")))
                os.rename(self._temporary, journal + name)
        self._modes.file(os.fsdecode(journal + name))

    def _create(self) -> int:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        return os.open(self._temporary, flags, self._modes.creation)


def _whole_lines(path: bytes) -> bytes | None:
    """The content of a file in a journal, without a line that an interrupted git-annex has not
    written to its end; ``None`` if there is no such file."""
    try:
        with open(path, "rb") as file:
            content = file.read()
    except FileNotFoundError:
        return None
    return content[: content.rfind(b"\n") + 1]


def _picoseconds(sign: bytes, whole: bytes, fraction: bytes) -> int:
    seconds = -int(whole) if sign == b"-" else int(whole)
    rest = int(fraction[:12].ljust(12, b"0"))
    return seconds * PICOSECONDS + (-rest if seconds < 0 else rest)


def _seconds(time: int) -> bytes:
    whole, rest = divmod(abs(time), PICOSECONDS)
    sign = b"-" if time < 0 else b""
    fraction = f".{rest:012d}".rstrip("0").encode() if rest else b""
    return b"%s%d%ss" % (sign, whole, fraction)
