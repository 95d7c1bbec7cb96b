"""What a side-by-side comparison measured: the shape that the runner fills and the report reads."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TextIO

from locklane_bench.results import csv_cell, json_of_format, json_with_lines

FORMAT = "peer-2"
"""Name of the format of ``results.json``; a reader refuses one that it does not know."""


@dataclass(frozen=True, slots=True)
class PeerSettings:
    """What was asked for, so that a reader can ask for the same."""

    peer: str
    """``git-annex``: the only one so far."""
    rounds: int
    files: int
    size: int
    """Bytes of the large file."""
    small_size: int
    """Bytes of each of the other files."""
    only: list[str]
    """The groups of figures that were measured."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One work given to one server once."""

    work: str
    """As in :data:`locklane_bench.peer.figures.WORKS`."""
    server: str
    round: int
    """From 1."""
    operations: int
    """Lock cycles, requests, downloads, uploads or dropped files that were done in full."""
    requests: int
    """HTTP requests sent; 0 where the load was not HTTP, or git-annex's own."""
    answers: int
    """Of those, how many were answered with status 200 and all that was asked for."""
    content_bytes: int
    """Content that was carried, without any framing."""
    wall_s: float
    load_cpu_s: float
    """Processor time of the process that made the load; 0 where that was git-annex."""
    server_cpu_s: float | None
    """Processor time of the server with its children."""


@dataclass(slots=True)
class PeerResults:
    """A whole comparison."""

    started: str
    """ISO 8601, UTC."""
    duration_s: float
    command: str
    settings: PeerSettings
    machine: dict[str, str]
    versions: dict[str, str]
    servers: dict[str, str]
    """The command line of each server, with nothing of the machine in it."""
    samples: list[Sample] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    """One sentence for each work that a server could not do; it has no further samples then."""
    locks_left: dict[str, int] = field(default_factory=dict)
    """By server: files of content locks left in its repository at the end; anything but 0 is a
    fault."""
    load_average: float = 0.0
    """Of the machine, over the minute before the start."""
    missing: list[str] = field(default_factory=list)
    """One sentence for each program that is not installed, and what was left out for that."""
    format: str = FORMAT

    def to_json(self) -> str:
        """As JSON, with each sample on a line of its own."""
        return json_with_lines(asdict(self), "samples")

    @classmethod
    def from_json(cls, text: str) -> PeerResults:
        """Read what :meth:`to_json` wrote.

        :raises ValueError: it is not such a file, or of another format.
        """
        data = json_of_format(text, FORMAT)
        try:
            data["settings"] = PeerSettings(**data["settings"])
            data["samples"] = [Sample(**each) for each in data["samples"]]
            return cls(**data)
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a whole results file: {error}") from error

    def write_csv(self, stream: TextIO) -> None:
        """One row per sample."""
        writer = csv.writer(stream)
        names = [each.name for each in fields(Sample)]
        writer.writerow(names)
        for sample in self.samples:
            writer.writerow([csv_cell(getattr(sample, name)) for name in names])


def read(path: Path) -> PeerResults:
    """Read a ``results.json``, or the one in a report's directory."""
    if path.is_dir():
        path = path / "results.json"
    return PeerResults.from_json(path.read_text(encoding="utf-8"))


def write(results: PeerResults, directory: Path) -> Iterable[Path]:
    """Write ``results.json`` and ``results.csv``; returns their paths."""
    directory.mkdir(parents=True, exist_ok=True)
    raw, table = directory / "results.json", directory / "results.csv"
    raw.write_text(results.to_json(), encoding="utf-8")
    with table.open("w", encoding="utf-8", newline="") as stream:
        results.write_csv(stream)
    return raw, table
