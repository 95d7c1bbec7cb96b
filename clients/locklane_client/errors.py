"""What can go wrong, by whose doing. Every error's text is a sentence for a person."""

from __future__ import annotations


class LocklaneError(Exception):
    """Anything that a client of the API raises on purpose."""


class HoldEnded(LocklaneError):
    """From a transport: the server says that the hold had ended before it was asked to unlock."""

    def __init__(self, reason: str, retained: bool) -> None:
        super().__init__(reason)
        self.retained = retained
        """Whether the content stays locked for the rest of its time."""


class LockRefused(LocklaneError):
    """The server understood the request and does not lock: the content is not there, a limit is
    reached, it is being removed. ``str(error)`` is the reason, as far as the server told one."""


class LockLost(LocklaneError):
    """The hold ended before the holder asked for it, or nobody confirmed that it is over.

    A server that has not been asked to unlock, and does not say that the lock itself is over, keeps
    the content locked for what remains of its ten minutes ("lockcontent").
    """

    def __init__(self, reason: str, retained_for: float) -> None:
        super().__init__(
            f"{reason}; the server goes on keeping the content for {retained_for:.0f} s"
            if retained_for > 0
            else f"{reason}; the content may not be protected any more"
        )
        self.reason = reason
        self.retained_for = retained_for
        """Seconds from when this was raised for which the server still keeps the content, by the
        client's clock and from before the lock was asked for, so never too long. 0 or more."""


class ServerUnreachable(LocklaneError):
    """No server, or none that answers in time; trying again later may help."""


class AccessDenied(LocklaneError):
    """The server wants (other) credentials (401), or does not let this user do it (403)."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class ProtocolViolation(LocklaneError):
    """The peer answered something that the protocol does not know; trying again will not help."""


class ServerFailed(ProtocolViolation):
    """The server answered 500: something went wrong inside it, and what it did of the request is
    unknown. ``git annex p2phttp`` answers so, too, when it refuses a removal because the content is
    locked."""


class NotSupported(LocklaneError):
    """The server speaks a version of the protocol that has no such request ("remove-before",
    "gettimestamp": version 3; "put" with ``data-present``: version 4)."""


class NotPresent(LocklaneError):
    """The server does not have the content."""


class RemovalRefused(LocklaneError):
    """The server says that the content was not removed: it is locked, or the time given is over.
    ``reason`` is the server's own, where it told one."""

    def __init__(self, message: str, reason: str | None, plus_uuids: tuple[str, ...]) -> None:
        super().__init__(message)
        self.reason = reason
        self.plus_uuids = plus_uuids
        """Other repositories that it was removed from all the same ("remove")."""


class PutRefused(LocklaneError):
    """The server says that the content was not stored. ``reason`` is the server's own, where it
    told one; git-annex tells none."""

    def __init__(self, message: str, reason: str | None, plus_uuids: tuple[str, ...]) -> None:
        super().__init__(message)
        self.reason = reason
        self.plus_uuids = plus_uuids
        """Other repositories in which it was stored all the same ("put")."""


class WrongContent(LocklaneError):
    """The content, the server's or that of a local file, is not the key's. None of it is kept."""


class Unverifiable(LocklaneError):
    """The server does not say how long the content is, as in version 0, and nothing in the key
    would tell whether all of it came."""


class ContentChanged(LocklaneError):
    """A file changed while it was sent, so that nothing of it was stored."""


class TransferIncomplete(LocklaneError):
    """Less content came than there is: the connection broke, or the server found that the content
    changed while it was sent, which it signals so. Trying again may help."""

    def __init__(self, message: str, kept: int) -> None:
        super().__init__(message)
        self.kept = kept
        """Bytes, counted from the beginning of the content, that the next attempt goes on from."""


class LocalFileError(LocklaneError):
    """A file or directory on this machine cannot be used: it is there already, or cannot be read
    or written, or the disk is full. The text names it."""
