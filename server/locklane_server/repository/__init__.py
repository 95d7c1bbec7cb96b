"""Where keys live: what the API needs of a repository, whichever kind it is.

A repository waits for its disk. About locks between clients it decides nothing: the lock manager
does that, and :class:`~locklane_server.served.ServedRepository` holds the two together. A
repository that others use beside this server also makes every lock good against them.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Protocol

from locklane_client.key import Key
from locklane_server.locks import Lock, Refusal


class RepositoryError(Exception):
    """The repository cannot do it; the text is a sentence that a person can act on."""


class RepositoryGone(RepositoryError):
    """There is no repository any more where it was: deleted, moved, or its disk is not mounted."""


class TransferInProgress(RepositoryError):
    """Somebody else is storing the content of that key just now."""


class BadOffset(RepositoryError):
    """An upload would begin after the end of what is here."""


class NotAccepted(RepositoryError):
    """Such a key does not get into the repository."""


class InvalidContent(RepositoryError):
    """What came is not the content of the key, or not all of it. Nothing is stored; what came is
    kept only if it can still become right."""


class NoSpace(RepositoryError):
    """The disk is full, or has less space than the content takes."""


class NotEnoughReserve(RepositoryError):
    """It would fit on the disk, but not leave free what is to be kept free there."""


class ReadOnly(RepositoryError):
    """The file system may only be read."""


class Content(Protocol):
    """The content of a key, open to be read."""

    size: int
    """Bytes in all, from the beginning."""
    etag: str
    """Names this very content, for caches: without quotation marks (RFC 9110, 8.8.3)."""

    async def read(self, offset: int, count: int) -> bytes:
        """``count`` bytes from ``offset``, or fewer at the end.

        :raises RepositoryError: it cannot be read.
        """

    async def send(self, socket: int, offset: int, count: int) -> int:
        """Have the kernel send up to ``count`` bytes from ``offset`` on a socket that does not
        block, until that takes no more at once.

        :returns: bytes sent; -1: the socket takes nothing now; 0: there are no more.
        :raises ConnectionError: nobody is at its other end.
        :raises RepositoryError: the content cannot be read.
        """

    def unchanged(self) -> bool:
        """Whether it still is what it was when it was opened ("a file may change while it is
        sent")."""


class Upload(Protocol):
    """Content that is arriving. Leaving it without :meth:`finish` keeps what came, for a resumed
    upload, and stores nothing under the key."""

    async def write(self, data: bytes) -> None:
        """Take the next piece. Waits while too many are on their way to the disk.

        :raises NoSpace: the disk is full.
        :raises InvalidContent: it is more than the key has.
        :raises RepositoryError: it cannot be written.
        """

    async def finish(self) -> None:
        """All of it came: look whether it is the content of the key, and store it.

        :raises InvalidContent: it is not.
        :raises RepositoryError: it cannot be stored. What came is kept.
        """


class Repository(Protocol):
    """One repository."""

    uuid: str
    """git-annex's name for it."""

    async def present(self, key: Key) -> bool:
        """Whether the content is there, whole."""

    def content(self, key: Key) -> AbstractAsyncContextManager[Content | None]:
        """Open the content for reading; ``None`` if it is not there."""

    async def partial(self, key: Key) -> int:
        """How many bytes an interrupted upload has left behind ("putoffset")."""

    def receive(
        self, key: Key, *, client: str, file: str | None, offset: int, length: int
    ) -> AbstractAsyncContextManager[Upload | None]:
        """Begin to store content ("put"); ``None`` if it is there already.

        :param client: UUID of the client's repository.
        :param file: name of the file that the content is for, if any.
        :param offset: where what comes begins; not after :meth:`partial`.
        :param length: bytes that are promised.
        :raises TransferInProgress: another upload of the same key is under way.
        :raises BadOffset: so many bytes are not here.
        :raises NotAccepted: such a key may not be stored here.
        :raises NoSpace: there is not enough space for it.
        :raises NotEnoughReserve: there would not be enough space left.
        """

    async def confirm(self, key: Key) -> bool:
        """Content came in another way: look whether it is there, and record that ("put" with
        ``data-present``)."""

    async def remove(self, key: Key, *, before: float | None) -> Refusal | None:
        """Delete the content. Does nothing if it is not there. The caller has made sure that no
        lock of its own stands against it and none comes meanwhile, and does not cancel this.

        :param before: do not delete it after this time of the server's clock ("remove-before"),
            looked at when nothing more has to be waited for.
        :returns: why not (TOO_LATE, or LOCKED by somebody beside this server); ``None``: the
            content is not there any more.
        :raises RepositoryError: it is still there.
        """

    async def lock_content(self, key: Key, lock: Lock) -> Refusal | None:
        """Make a promise good that the lock manager gave: record its retention so that it
        outlives this process, and see that the content is there.

        If this is cancelled, :meth:`unlock_content` undoes what may have been done.

        :returns: why not, with nothing recorded: NOT_PRESENT, REMOVING or LIMIT.
        :raises RepositoryError: the retention cannot be recorded, so nothing was promised.
        """

    async def unlock_content(self, lock: Lock) -> None:
        """Forget a retention, because the lock has ended. Never fails: what cannot be forgotten
        ends by its time."""

    async def check(self) -> None:
        """Try whether the repository can be served: content be found, and a byte be written.

        :raises RepositoryError: it cannot; the text says why.
        """

    async def tidy(self) -> None:
        """Do what could wait. Called about once a second, and never fails."""

    async def retained(self) -> list[Lock]:
        """The locks that an earlier process recorded by their ids and did not forget, in the time
        of this run of the machine's clock."""

    async def aclose(self) -> None:
        """Let go of everything on disk."""
