"""What was seen of a server, and whether that is flat."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median

from locklane_bench import procfs

JOBS = 4
"""Workers of each server (``--jobs``): …"""

POOLS = 3
"""… so many threads of each kind it may have, each begun when it is first needed."""

ENOUGH = 120
"""Samples that a slope is found from; up to twice as many."""

SLOPE_KIB = 16.0
"""KiB per 1,000 requests by which memory may grow over the second half: 16 bytes for a request.
Whatever is kept of each request takes more, the smallest object of Python's included."""

NOISE_KIB = 4096
"""What memory may differ by without having grown: uploads come and go, and allocators take and give
back some megabytes at a time."""


@dataclass(frozen=True, slots=True)
class Sample:
    """A server at one time."""

    seconds: float
    """Of load so far; the warm-up does not count."""
    requests: int
    """Sent to it so far."""
    memory_kib: int
    """Resident."""
    descriptors: int
    threads: int

    @classmethod
    def of(cls, pid: int, seconds: float, requests: int) -> Sample:
        """Now.

        :raises ProcessLookupError: it is gone.
        """
        return cls(
            seconds,
            requests,
            procfs.memory_kib(pid),
            procfs.descriptors(pid),
            procfs.threads(pid),
        )


@dataclass(frozen=True, slots=True)
class Slope:
    """A line through samples of memory."""

    kib: float
    """Per 1,000 requests."""
    at_zero_kib: float
    """Where it meets zero requests."""

    @classmethod
    def through(cls, samples: Sequence[Sample]) -> Slope:
        """The line of Theil and Sen: its slope is the median of those between any two samples, its
        height the median of what they leave. A quarter of all samples may be anything. Of many,
        some are taken at even distances: all pairs of them would take long."""
        samples = samples[:: max(1, len(samples) // ENOUGH)]
        pairs = [
            (later.memory_kib - sooner.memory_kib) * 1000 / (later.requests - sooner.requests)
            for place, sooner in enumerate(samples)
            for later in samples[place + 1 :]
            if later.requests > sooner.requests
        ]
        kib = median(pairs) if pairs else 0.0
        left = [each.memory_kib - kib * each.requests / 1000 for each in samples]
        return cls(kib, median(left) if left else 0.0)

    def at(self, requests: float) -> float:
        """Memory in KiB after so many requests."""
        return self.at_zero_kib + self.kib * requests / 1000


@dataclass(slots=True)
class Watched:
    """One server, from its start to the end."""

    name: str
    start: Sample
    """Before anybody asked it anything."""
    before: Sample
    """After the warm-up, when all clients were gone."""
    after: Sample
    """The same after the load."""
    samples: list[Sample]
    """Under load, each second."""
    done: dict[str, int] = field(default_factory=dict)
    """How often each kind of client did its part."""
    live_locks: int = 0
    """Locks that the server takes for held when no client is left."""
    retained_locks: int = 0
    """Locks whose clients were cut off before they knew of them; their ten minutes end them."""
    complaints: list[str] = field(default_factory=list)
    """What it printed that somebody would be woken up for."""

    @property
    def requests(self) -> int:
        """Of the load."""
        return self.after.requests - self.before.requests

    @property
    def half(self) -> list[Sample]:
        """The samples of the second half of the load's time."""
        end = self.samples[-1].seconds if self.samples else 0.0
        return [each for each in self.samples if each.seconds >= end / 2]

    @property
    def slope(self) -> Slope:
        """Of memory over the second half."""
        return Slope.through(self.half)

    @property
    def growth_kib(self) -> float:
        """What the slope comes to over the second half."""
        half = self.half
        return self.slope.kib * (half[-1].requests - half[0].requests) / 1000 if half else 0.0

    @property
    def grew(self) -> bool:
        """Memory grows with requests: over the second half, in either part of that (one step is no
        growth), and what is there when all clients are gone has become more, too."""
        half = self.half
        parts = half, half[: len(half) // 2], half[len(half) // 2 :]
        return (
            all(Slope.through(part).kib > SLOPE_KIB for part in parts)
            and self.growth_kib > NOISE_KIB
            and self.after.memory_kib - self.before.memory_kib > NOISE_KIB
        )

    def faults(self) -> list[str]:
        """What is not as it was, a sentence each."""
        found = []
        name, before, after = self.name, self.before, self.after
        if after.descriptors > before.descriptors:
            found.append(
                f"{name}: {after.descriptors} descriptors are open when all clients are gone, and "
                f"{before.descriptors} were after the warm-up"
            )
        if after.threads > self.start.threads + POOLS * JOBS:
            found.append(
                f"{name}: {after.threads} threads run when all clients are gone; it began with "
                f"{self.start.threads}, and has {POOLS} times {JOBS} workers"
            )
        if self.grew:
            found.append(
                f"{name}: memory grew by {self.slope.kib:.1f} KiB per 1,000 requests over the "
                f"second half, {self.growth_kib / 1024:.1f} MiB in all; {SLOPE_KIB:g} KiB are "
                "the bound"
            )
        if self.live_locks:
            found.append(f"{name}: {self.live_locks} locks are held by clients that are gone")
        if self.complaints:
            found.append(f"{name}: it complained: {self.complaints[0]}")
        return found


@dataclass(slots=True)
class Soaked:
    """What a soak came to."""

    minutes: float
    warm_up_s: float
    servers: list[Watched]
    machine: dict[str, str]

    def faults(self) -> list[str]:
        """What is not flat; empty: all is."""
        return [fault for each in self.servers for fault in each.faults()]
