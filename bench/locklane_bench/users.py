"""The locust user that drops files, on the reference clients that people install.

A drop: take a lock, have it confirmed as far as the transport can, let the client "delete" (think),
unlock, be done. All users of a process share one client, as the jobs of one ``git annex drop`` do.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import gevent
from gevent.event import Event
from locust import User, task
from locust.env import Environment
from locust.exception import StopUser

from locklane_bench.eventloop import EventLoopThread
from locklane_client import Client, LocklaneError


@dataclass
class Plan:
    """What the users of one process do together: drop ``files`` files, then stop.

    :param keys: dropped in this order, and again from the first when they are used up.
    :param files: how many drops in all; ``None``: until somebody stops the users.
    :param think_time: seconds for which each lock is held.
    :param rate: drops due per second over all users; ``None``: each user starts the next when one
        has ended. With a rate, latency counts from when a drop was due.
    """

    client: Client
    transport: str
    loop: EventLoopThread
    keys: Sequence[str]
    files: int | None = None
    think_time: float = 0.0
    rate: float | None = None
    latency_ms: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    done: Event = field(default_factory=Event)
    """Set when the last of ``files`` drops has ended."""
    _next: int = 0
    _ended: int = 0
    _began: float = 0.0

    def begin(self) -> None:
        """The time from which a rate counts."""
        self._began = time.perf_counter()

    def take(self) -> tuple[str, float | None] | None:
        """The next file: its key and when it is due; ``None`` when all are taken."""
        number = self._next
        if self.files is not None and number >= self.files:
            return None
        self._next += 1
        due = None if self.rate is None else self._began + number / self.rate
        return self.keys[number % len(self.keys)], due

    def ended(self, latency_ms: float | None, failure: str | None) -> None:
        if latency_ms is not None:
            self.latency_ms.append(latency_ms)
        if failure is not None:
            self.failures.append(failure)
        self._ended += 1
        if self.files is not None and self._ended >= self.files:
            self.done.set()


async def drop(client: Client, key: str, think_time: float, due: float | None) -> float:
    """Drop one file; returns the milliseconds since it was due, or since now."""
    started = time.perf_counter() if due is None else due
    async with client.lock(key):
        if think_time:
            await asyncio.sleep(think_time)
    return (time.perf_counter() - started) * 1000


class PlannedEnvironment(Environment):
    """Locust's environment, with what its users do together."""

    plan: Plan


class DropUser(User):
    """Drops one file after the other. ``environment.plan`` says which and how."""

    abstract = True
    environment: PlannedEnvironment

    @task
    def drop(self) -> None:
        plan: Plan | None = getattr(self.environment, "plan", None)
        taken = None if plan is None else plan.take()
        if plan is None or taken is None:
            raise StopUser
        key, due = taken
        if due is not None:
            gevent.sleep(max(0.0, due - time.perf_counter()))
        began = time.perf_counter()
        latency: float | None = None
        failure: Exception | None = None
        try:
            latency = plan.loop.call(drop(plan.client, key, plan.think_time, due))
        except LocklaneError as error:
            failure = error
        except Exception as error:  # a fault of ours: say so, and let nobody wait for this drop
            failure = RuntimeError(f"{type(error).__name__}: {error}")
        self._report(plan, latency, failure, began)
        plan.ended(latency, None if failure is None else str(failure))

    def _report(
        self, plan: Plan, latency: float | None, failure: Exception | None, began: float
    ) -> None:
        event: dict[str, Any] = {
            "request_type": plan.transport,
            "name": "drop",
            "response_time": latency or (time.perf_counter() - began) * 1000,
            "response_length": 0,
            "exception": failure,
            "context": {},
        }
        self.environment.events.request.fire(**event)  # type: ignore[no-untyped-call]
