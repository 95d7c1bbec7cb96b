"""Many locks held at once on one transport and left alone: what each takes of the server's and of
the client's memory and descriptors, and whether the server says that all of them are live."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from locklane_bench import procfs
from locklane_bench.children import Child, ChildError, ServerChild, python
from locklane_bench.holder import RELEASE, Holding, Released, Taken
from locklane_bench.results import IdleHolds

WARM_UP = 20
"""Locks that are held once before, so that what is needed for the first is not counted."""

TAKING_SECONDS = 600.0
"""How long all locks together may take to be taken, or to be unlocked."""

REST_SECONDS = 35.0
"""How long locks are left alone. By then each has been pinged, and connections that the client used
beside them, to ask whether they arrived for example, have been closed for want of use."""

SETTLE_SECONDS = 15.0
"""How long to wait, at the most, for figures to come to rest."""

_STILL_SECONDS = 1.0
"""For which they have to stay where they are."""

_STILL_KIB = 64
"""By which memory may move in that time."""

_LOOK_SECONDS = 0.1


class HolderChild(Child):
    """The process that holds locks."""

    def __init__(self) -> None:
        super().__init__(python("locklane_bench.holder"), "the process that holds locks")

    def take(self, order: Holding) -> Taken:
        """Have locks taken, and held until :meth:`release`. What cannot be taken is said in the
        answer.

        :raises ChildError: the process did not answer.
        """
        self.write_line(order.to_json())
        return Taken(**json.loads(self.read_line(TAKING_SECONDS)))

    def release(self) -> Released:
        """Have all of them unlocked, and their connections closed.

        :raises ChildError: the process did not answer.
        """
        self.write_line(RELEASE)
        return Released(**json.loads(self.read_line(TAKING_SECONDS)))


def measure(
    transport: str, store: Path, keys: Sequence[str], count: int, rest_s: float = REST_SECONDS
) -> IdleHolds:
    """Hold ``count`` locks over a transport, on a server of their own: memory that another
    transport's locks left behind would be used again and not be seen.

    :param store: holds the content of the keys; nobody else serves it meanwhile.
    :param keys: what to lock, not empty; from the first again where there are fewer than ``count``.
    :param count: how many locks, 1 or more. Each may take a descriptor of either process.
    :param rest_s: seconds, 0 or more, for which the locks are left alone before anything is read.
    :raises ChildError: a process of the measurement failed. That fewer locks were given than were
        wanted is not such an error, but part of the result.
    """
    with ServerChild.locklane(store, [transport]) as server, HolderChild() as holder:
        order = Holding(server.address, transport, list(keys), count)
        _warm_up(server, holder, order)
        server_before, holder_before = _resting(server.pid, holder.pid)
        opened = server.counted("locklane_connections_opened_total")
        taken = holder.take(order)
        # What a client takes for its hold may still be on its way to the server.
        _until(lambda: server.locks("live") >= taken.held)
        time.sleep(rest_s)
        server_after, holder_after = _resting(server.pid, holder.pid)
        live = server.locks("live")
        connections = server.counted("locklane_connections_opened_total") - opened
        released = holder.release()
        return IdleHolds(
            transport=transport,
            wanted=count,
            held=taken.held,
            live=live,
            server_memory_kib=server_after.memory_kib - server_before.memory_kib,
            client_memory_kib=holder_after.memory_kib - holder_before.memory_kib,
            server_descriptors=server_after.descriptors - server_before.descriptors,
            client_descriptors=holder_after.descriptors - holder_before.descriptors,
            connections=connections,
            seconds_to_take=taken.seconds,
            seconds_to_unlock=released.seconds,
            failure=_failure(taken, released),
        )


def _failure(taken: Taken, released: Released) -> str | None:
    """In a sentence or two, what did not go as it should."""
    said = [taken.failure] if taken.failure else []
    if released.unlocked < taken.held:
        lost = taken.held - released.unlocked
        said.append(f"{lost} locks were not unlocked: {released.failure}")
    return "; ".join(said) or None


def _warm_up(server: ServerChild, holder: HolderChild, order: Holding) -> None:
    few = min(WARM_UP, order.count)
    # With all of the keys, so that room for the order has been made, too.
    warm = holder.take(Holding(order.url, order.transport, order.keys, few))
    released = holder.release()
    if (why := _failure(warm, released)) is not None:
        raise ChildError(f"{order.transport}: not even {few} locks could be held: {why}")
    _until(lambda: server.counted("locklane_locks") == 0)


@dataclass(frozen=True, slots=True)
class _Figures:
    """What a process has."""

    memory_kib: int
    descriptors: int

    @classmethod
    def of(cls, pid: int) -> _Figures:
        return cls(procfs.memory_kib(pid), procfs.descriptors(pid))

    def near(self, other: _Figures) -> bool:
        memory = abs(self.memory_kib - other.memory_kib)
        return self.descriptors == other.descriptors and memory <= _STILL_KIB


def _resting(*pids: int) -> list[_Figures]:
    """What each process has, once all have come to rest."""
    resting = [_Figures.of(pid) for pid in pids]
    since = start = time.monotonic()
    while (now := time.monotonic()) - since < _STILL_SECONDS and now - start < SETTLE_SECONDS:
        time.sleep(_LOOK_SECONDS)
        found = [_Figures.of(pid) for pid in pids]
        if not all(map(_Figures.near, found, resting)):
            resting, since = found, now
    return resting


def _until(condition: Callable[[], bool]) -> None:
    """Wait until a condition is true, or has not become so for :data:`SETTLE_SECONDS`: then what is
    found counts."""
    end = time.monotonic() + SETTLE_SECONDS
    while not condition() and time.monotonic() < end:
        time.sleep(_LOOK_SECONDS)
