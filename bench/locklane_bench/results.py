"""What a comparison measured: the one shape that the runner fills and the report reads.

Every figure carries its unit in its name (``_s`` seconds, ``_ms`` milliseconds, ``_kib``
kibibytes); a figure that nobody could observe (a foreign server's processor time, say) is ``None``,
never 0.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, TextIO

FORMAT = 1
"""Version of ``results.json``; a reader refuses one that it does not know."""

Via = Literal["direct", "relay"]
"""``direct``: the client spoke to the server (these runs give the times). ``relay``: through the
counting relay (these runs give the bytes, and a count of connections made by a third party)."""


@dataclass(frozen=True, slots=True)
class ClientCounts:
    """What the reference client counted during one run, all users added up."""

    connections: int
    """TCP connections opened."""
    requests: int
    """HTTP requests sent, a websocket's upgrade included."""
    messages: int
    """Websocket messages, both ways, control frames not included."""
    round_trips: int
    """Times that a user waited for the peer: a TCP handshake, an upgrade, an answer."""


@dataclass(frozen=True, slots=True)
class RelayCounts:
    """What the relay between client and server counted during one run."""

    connections: int
    bytes_up: int
    """Bytes from client to server, TCP payload (HTTP and websocket framing included)."""
    bytes_down: int
    """Bytes from server to client."""


@dataclass(frozen=True, slots=True)
class Run:
    """One round of one transport at one concurrency: ``files`` files dropped, start to end."""

    server: str
    """``locklane``, ``external`` (``--url``), or ``bare`` (the ceiling: answers unthinking)."""
    transport: str
    concurrency: int
    via: Via
    round: int
    """From 1; the runs of one round were made one right after the other."""
    files: int
    """Files dropped with success."""
    failures: int
    wall_s: float
    latency_ms: list[float]
    """One number per dropped file, in the order in which they ended: from when the drop was due
    (which without ``--rate`` is when it started) to when the unlock was answered."""
    client: ClientCounts
    server_connections: int | None
    """TCP connections that the server itself says it accepted."""
    relay: RelayCounts | None
    kernel_connections: int | None
    """Connections that the kernel says were accepted, relay's second leg taken off; any other
    program on the machine counts too."""
    client_cpu_ms: float
    server_cpu_ms: float | None
    server_peak_memory_kib: int | None
    server_peak_descriptors: int | None
    time_wait: int | None
    """Sockets of the server's address left in TIME_WAIT by this run."""

    def counted_connections(self) -> dict[str, int]:
        """Connections of this run as each side counted them, by who it was; without those who
        could not."""
        everybody = {
            "the client": self.client.connections,
            "the server": self.server_connections,
            "the relay": self.relay.connections if self.relay else None,
            "the kernel": self.kernel_connections,
        }
        return {who: count for who, count in everybody.items() if count is not None}

    def percentile_ms(self, percent: float) -> float:
        """Latency that ``percent`` (0 to 100) of the drops did not exceed, nearest rank."""
        ordered = sorted(self.latency_ms)
        if not ordered:
            return float("nan")
        rank = max(1, -(-len(ordered) * percent // 100))
        return ordered[int(rank) - 1]

    @property
    def drops_per_s(self) -> float:
        return self.files / self.wall_s


@dataclass(frozen=True, slots=True)
class AnnexDrop:
    """The real ``git annex drop`` of ``files`` files against the server, through the relay."""

    git_annex_version: str
    files: int
    jobs: int
    seconds: float
    connections: int
    """As the relay counted them."""
    bytes_up: int
    bytes_down: int
    locks_taken: int
    """As the server counted them."""
    locks_left: int
    """Locks still held when git-annex had ended; anything but 0 is a fault."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What was asked for, so that a reader can ask for the same."""

    transports: list[str]
    files: int
    concurrency: list[int]
    rounds: int
    think_time_s: float
    rate: float | None
    """Drops due per second over all users; None: each user starts the next when one has ended."""
    url: str | None
    """The server that was measured, without credentials; None: one started for the purpose."""
    keys_from: str
    """In words: where the keys came from."""
    repository: str | None = None
    """The name, without its path, of the git-annex repository that the keys are of."""


@dataclass(frozen=True, slots=True)
class Results:
    """All of one comparison."""

    started: str
    """UTC, ISO 8601."""
    duration_s: float
    command: str
    """What repeats it."""
    settings: Settings
    machine: dict[str, str]
    """Processor, cores, memory, kernel, and the like, in the order to print."""
    versions: dict[str, str]
    runs: list[Run] = field(default_factory=list)
    failure: str | None = None
    """What went wrong with one of the drops that failed; None if none did."""
    annex_drop: AnnexDrop | None = None
    annex_drop_missing: str | None = None
    """Why there is no ``annex_drop``, where there is none."""
    disagreements: list[str] = field(default_factory=list)
    """One sentence for each run in which the counts of client, server, relay and kernel differ."""
    format: int = FORMAT

    def to_json(self) -> str:
        """As JSON, with each run on a line of its own."""
        return json_with_lines(asdict(self), "runs")

    @classmethod
    def from_json(cls, text: str) -> Results:
        """Read what :meth:`to_json` wrote.

        :raises ValueError: it is not such a file, or of another format.
        """
        data = json_of_format(text, FORMAT)
        try:
            data["settings"] = Settings(**data["settings"])
            data["runs"] = [_run_from(each) for each in data["runs"]]
            if data["annex_drop"] is not None:
                data["annex_drop"] = AnnexDrop(**data["annex_drop"])
            return cls(**data)
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a whole results file: {error}") from error

    def write_csv(self, stream: TextIO) -> None:
        """One row per run; the latencies as percentiles."""
        writer = csv.writer(stream)
        flat = [f.name for f in fields(Run) if f.name not in ("latency_ms", "client", "relay")]
        writer.writerow(
            [*flat]
            + [f"client_{f.name}" for f in fields(ClientCounts)]
            + [f"relay_{f.name}" for f in fields(RelayCounts)]
            + ["p50_ms", "p90_ms", "p99_ms", "max_ms"]
        )
        for run in self.runs:
            relay = asdict(run.relay) if run.relay else {}
            writer.writerow(
                [csv_cell(getattr(run, name)) for name in flat]
                + [csv_cell(value) for value in asdict(run.client).values()]
                + [csv_cell(relay.get(f.name)) for f in fields(RelayCounts)]
                + [csv_cell(run.percentile_ms(percent)) for percent in (50, 90, 99, 100)]
            )


def _run_from(data: dict[str, Any]) -> Run:
    data["client"] = ClientCounts(**data["client"])
    if data["relay"] is not None:
        data["relay"] = RelayCounts(**data["relay"])
    return Run(**data)


def json_of_format(text: str, form: int | str) -> dict[str, Any]:
    """The members of a results file.

    :param form: what its member ``format`` has to be.
    :raises ValueError: it is no such file.
    """
    data = json.loads(text)
    if not isinstance(data, dict) or data.get("format") != form:
        raise ValueError(f"not a results file of format {form}")
    return data


def json_with_lines(data: dict[str, Any], name: str) -> str:
    """As JSON, with the list ``name`` last, and each item of it on a line of its own."""
    rest = dict(data)
    items = [json.dumps(item, separators=(",", ":")) for item in rest.pop(name)]
    head = json.dumps(rest, indent=1).removesuffix("\n}")
    return f'{head},\n "{name}": [\n  ' + ",\n  ".join(items) + "\n ]\n}\n"


def csv_cell(value: object) -> object:
    """A value as it stands in ``results.csv``: nothing for what is not known."""
    if value is None:
        return ""
    return round(value, 4) if isinstance(value, float) else value


def read(path: Path) -> Results:
    """Read a ``results.json``, or the one in a report's directory."""
    if path.is_dir():
        path = path / "results.json"
    return Results.from_json(path.read_text(encoding="utf-8"))


def write(results: Results, directory: Path) -> Iterable[Path]:
    """Write ``results.json`` and ``results.csv``; returns their paths."""
    directory.mkdir(parents=True, exist_ok=True)
    raw, table = directory / "results.json", directory / "results.csv"
    raw.write_text(results.to_json(), encoding="utf-8")
    with table.open("w", encoding="utf-8", newline="") as stream:
        results.write_csv(stream)
    return raw, table
