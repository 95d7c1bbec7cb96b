"""What the runner tells the load's process to do, and what that answers. Both are one JSON line."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Literal

Kind = Literal[
    "locks", "checkpresent", "downloads", "download", "verify", "upload", "remove", "hash", "write"
]


@dataclass(frozen=True, slots=True)
class Task:
    """Something to do, and to be timed."""

    kind: Kind
    port: int = 0
    """Of the server, on 127.0.0.1."""
    base: str = ""
    """Path in front of a request's name, without a slash at its end."""
    keys: list[str] = field(default_factory=list)
    """Taken in turn, and again from the first."""
    paths: list[str] = field(default_factory=list)
    """What to download, taken in the same way."""
    operations: int = 1
    connections: int = 1
    size: int = 0
    """Bytes of the content."""
    file: str = ""
    """To upload, or to write."""
    sha256: str = ""
    """What the content's hash has to be, in hexadecimal."""

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, line: str) -> Task:
        return cls(**json.loads(line))


@dataclass(frozen=True, slots=True)
class Done:
    """What came of it."""

    operations: int
    requests: int
    answers: int
    content_bytes: int
    wall_s: float
    cpu_s: float
    """Processor time of the load's process."""

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, line: str) -> Done:
        """Read an answer.

        :raises LoadError: the task could not be done; the text says why.
        """
        data = json.loads(line)
        if "error" in data:
            raise LoadError(data["error"])
        return cls(**data)


class LoadError(Exception):
    """A server did not do what it was asked to; the text says what happened."""
