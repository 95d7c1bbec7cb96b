"""Where keys live: what the API needs of a repository, whichever kind it is.

A repository waits for its disk and decides nothing about locks: the lock manager does that, and
:class:`~locklane_server.served.ServedRepository` holds the two together.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from locklane_client.key import Key
from locklane_server.locks import Lock


class RepositoryError(Exception):
    """The repository cannot do it; the text is a sentence that a person can act on."""


class Content(Protocol):
    """The content of a key, open to be read."""

    size: int
    """Bytes in all, from the beginning."""

    def chunks(self, offset: int) -> AsyncIterator[bytes]:
        """The bytes from ``offset`` (0 to :attr:`size`) to the end, in pieces."""


class Repository(Protocol):
    """One repository."""

    uuid: str
    """git-annex's name for it."""

    async def present(self, key: Key) -> bool:
        """Whether the content is there, whole."""

    def content(self, key: Key) -> AbstractAsyncContextManager[Content | None]:
        """Open the content for reading; ``None`` if it is not there."""

    async def remove(self, key: Key, *, before: float | None) -> bool:
        """Delete the content. Does nothing if it is not there. The caller has made sure that no
        lock stands against it and none comes meanwhile, and does not cancel this.

        :param before: do not delete it after this time of the server's clock ("remove-before"),
            looked at when nothing more has to be waited for.
        :returns: whether the content is not there any more; ``False``: it was too late.
        :raises RepositoryError: it is still there.
        """

    async def lock_content(self, key: Key, lock: Lock) -> bool:
        """Make a promise good that the lock manager gave: record its retention so that it
        outlives this process, and see that the content is there.

        If this is cancelled, :meth:`unlock_content` undoes what may have been done.

        :returns: ``False``, with nothing recorded, if the content is not there.
        :raises RepositoryError: the retention cannot be recorded, so nothing was promised.
        """

    async def unlock_content(self, lock: Lock) -> None:
        """Forget a retention, because the lock has ended; on disk at the next :meth:`tidy`.
        Never fails: what cannot be forgotten ends by its time."""

    async def tidy(self) -> None:
        """Do what could wait. Called about once a second, and never fails."""

    async def retained(self) -> list[Lock]:
        """The locks that an earlier process recorded and did not forget, in the time of this
        run of the machine's clock."""

    async def aclose(self) -> None:
        """Let go of everything on disk."""
