"""A machine with a wall clock that can be set, and another clock that cannot."""

from __future__ import annotations


class Machine:
    """Time passes only when it is told to."""

    def __init__(self, wall: float = 1_800_000_000.0) -> None:
        self.up = 5000.0
        """Seconds since it was started."""
        self.offset = wall - self.up
        self.boot = "boot-1"

    def clock(self) -> float:
        return self.up

    def wall(self) -> float:
        return self.up + self.offset

    def passes(self, seconds: float) -> None:
        self.up += seconds

    def steps(self, seconds: float) -> None:
        """Somebody sets the wall clock."""
        self.offset += seconds

    def reboots(self) -> None:
        """In no time; the wall clock goes on."""
        self.offset += self.up - 10.0
        self.up = 10.0
        self.boot += "'"
