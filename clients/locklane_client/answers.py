"""What a client makes of the answers about locks, whichever transport they came over."""

from __future__ import annotations

from .errors import HoldEnded, LockRefused, ProtocolViolation
from .wire import LockAnswer, parse_lock_answer


def read_answer(what: str, body: bytes | str) -> LockAnswer:
    """Read an answer.

    :param what: what to call it in a message.
    :raises ProtocolViolation: it is none.
    """
    try:
        return parse_lock_answer(body)
    except ValueError as error:
        raise ProtocolViolation(f"{what} cannot be read: {error}") from error


def confirm_locked(answer: LockAnswer) -> str:
    """The id of the lock that an answer to ``lockcontent`` gives.

    :raises LockRefused: it gives none.
    """
    if answer.lock_id is None:
        raise LockRefused(answer.reason or "the server did not lock the content")
    return answer.lock_id


def confirm_unlocked(answer: LockAnswer) -> None:
    """Look whether an answer to an unlock says that it was this unlock that ended the hold.

    :raises HoldEnded: it had ended before.
    :raises ProtocolViolation: it says that there is a lock.
    """
    if answer.locked:
        raise ProtocolViolation("the server answered the unlock with a lock")
    if answer.reason is not None:
        raise HoldEnded(answer.reason, answer.retained)
