"""What the runner asks of the load process, and what comes back. No locust here: importing it
patches the process that does."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from locklane_bench.results import ClientCounts


@dataclass(frozen=True, slots=True)
class Order:
    """One run: which files to drop where, and how many at a time."""

    url: str
    transport: str
    keys: list[str]
    files: int
    concurrency: int
    think_time_s: float = 0.0
    rate: float | None = None
    relay_port: int | None = None
    """Port on 127.0.0.1 of the relay to go through, if any."""
    authority: str | None = None
    """Whom to trust for TLS: a PEM file; ``None``: whom the system trusts."""

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, line: str) -> Order:
        return cls(**json.loads(line))


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of it."""

    wall_s: float
    cpu_ms: float
    """Processor time of the load process: clients, locust and all."""
    latency_ms: list[float]
    failures: list[str]
    client: ClientCounts

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, line: str) -> Outcome:
        """Read an outcome.

        :raises RuntimeError: the order could not be carried out; the text says why.
        """
        data: dict[str, Any] = json.loads(line)
        if "error" in data:
            raise RuntimeError(data["error"])
        data["client"] = ClientCounts(**data["client"])
        return cls(**data)
