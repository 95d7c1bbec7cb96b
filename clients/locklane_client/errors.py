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
