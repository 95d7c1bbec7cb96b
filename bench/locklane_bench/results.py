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

FORMAT = 2
"""Version of ``results.json``; a reader refuses one that it does not know."""

GIT_ANNEX_TRANSPORT = "longpoll"
"""What git-annex's own client speaks."""

Via = Literal["direct", "relay"]
"""``direct``: the client spoke to the server, or to the proxy before it. ``relay``: through the
counting relay, which gives the bytes and a count of connections by a third party, and makes the
distance where there is one. Without a distance the direct runs give the times."""

Part = Literal["matrix", "proxies", "think", "files", "peers"]
"""What a run was made for: one part of the report. ``matrix``: distance × TLS × concurrency (and
whatever else was asked for on the command line); ``proxies``: behind each reverse proxy; ``think``:
with a think time; ``files``: the cost per file as their number grows; ``peers``: longpoll against
``git annex p2phttp`` and against Locklane, on copies of one git-annex repository."""


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
    tls_full: int = 0
    """TLS handshakes in which the server proved who it is."""
    tls_resumed: int = 0
    """TLS handshakes that took up an earlier session."""


@dataclass(frozen=True, slots=True)
class RelayCounts:
    """What the relay between client and server counted during one run."""

    connections: int
    bytes_up: int
    """Bytes from client to server, TCP payload (HTTP and websocket framing included)."""
    bytes_down: int
    """Bytes from server to client."""
    requests: int | None = None
    """HTTP/1.1 requests; None where the relay was not told to look (and over TLS it cannot)."""


@dataclass(frozen=True, slots=True)
class Condition:
    """What a run is made under. Runs that share it differ in transport, round and luck alone."""

    part: Part = "matrix"
    server: str = "locklane"
    """``locklane``; ``locklane-annex`` and ``p2phttp`` (on copies of one git-annex repository);
    ``external`` (``--url``); ``bare`` (the ceiling: answers unthinking)."""
    proxy: str | None = None
    """Name of the reverse proxy in front of the server, with its configuration (a key of
    :data:`locklane_bench.proxies.PROXIES`)."""
    tls: bool = False
    """The client speaks TLS (1.3)."""
    rtt_ms: float = 0.0
    """Round-trip time that the relay adds; 0: loopback as it is."""
    concurrency: int = 1
    """Files dropped at a time."""
    files: int = 1000
    """Files to drop."""
    think_time_s: float = 0.0
    """For which each lock is held."""


@dataclass(frozen=True, slots=True)
class Run:
    """One round of one transport under one condition: ``files`` files dropped, start to end."""

    condition: Condition
    transport: str
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
    """TCP connections that the server itself says it accepted; from the proxy, if there is one."""
    server_tls_full: int | None
    """Full TLS handshakes that the server itself says it made."""
    server_tls_resumed: int | None
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
        could not, and those who see a proxy's connections with the client's or in their place."""
        direct = self.condition.proxy is None
        everybody = {
            "the client": self.client.connections,
            "the server": self.server_connections if direct else None,
            "the relay": self.relay.connections if self.relay else None,
            "the kernel": self.kernel_connections if direct else None,
        }
        return {who: count for who, count in everybody.items() if count is not None}

    def counted_handshakes(self) -> dict[str, tuple[int, int]]:
        """Full and resumed TLS handshakes as client and server counted them."""
        counted = {"the client": (self.client.tls_full, self.client.tls_resumed)}
        full, resumed = self.server_tls_full, self.server_tls_resumed
        if full is not None and resumed is not None and self.condition.proxy is None:
            counted["the server"] = (full, resumed)
        return counted

    @property
    def gives_times(self) -> bool:
        """Whether this run is the one to take times, processor time and memory from: the direct
        one, or with a distance, which only the relay can make, that through the relay."""
        return self.via == ("relay" if self.condition.rtt_ms else "direct")

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

    def pace(self, *, by_latency: bool) -> float:
        """What decides who is the faster, more being better: drops per second. Over a distance the
        inverse of the p50: few files are dropped there, and the opening of connections would weigh
        too much. Where the load is a rate (``by_latency``), which sets those, the inverse of the
        p99."""
        if by_latency or self.condition.rtt_ms:
            return 1 / max(self.percentile_ms(99 if by_latency else 50), 1e-6)
        return self.drops_per_s


@dataclass(frozen=True, slots=True)
class AnnexDrop:
    """The real ``git annex drop`` of ``files`` files against a server, through the relay."""

    server: str
    """``locklane``, ``locklane-annex`` or ``p2phttp``, as in :class:`Condition`."""
    round: int
    git_annex_version: str
    files: int
    jobs: int
    seconds: float
    connections: int
    """As the relay counted them."""
    requests: int
    """HTTP requests, as the relay counted them: heads of requests that passed."""
    bytes_up: int
    bytes_down: int
    locks_taken: int | None
    """As the server counted them."""
    locks_left: int | None
    """Locks still held when git-annex had ended; anything but 0 is a fault."""


@dataclass(frozen=True, slots=True)
class IdleHolds:
    """Many locks held at once and left alone, on one transport."""

    transport: str
    wanted: int
    held: int
    """Fewer than ``wanted`` only if ``failure`` says why."""
    live: int
    """Of them, those that the server said were live."""
    server_memory_kib: int
    """What the server's resident memory grew by."""
    client_memory_kib: int
    server_descriptors: int
    """What the server's open descriptors grew by."""
    client_descriptors: int
    connections: int
    seconds_to_take: float
    seconds_to_unlock: float
    failure: str | None = None


@dataclass(frozen=True, slots=True)
class PortUse:
    """How far one transport comes with few ephemeral ports, in a network namespace with a narrow
    ``ip_local_port_range``."""

    transport: str
    ports: int
    """In the range that was set."""
    files: int
    """Dropped before a port was missing, or ``wanted``."""
    wanted: int
    ran_out: bool
    connections: int
    client_time_wait: int
    """Sockets in TIME_WAIT at the client's end, each of which keeps one of its ports."""
    server_time_wait: int
    """Sockets in TIME_WAIT at the server's end."""
    message: str | None = None
    """What the client said when it ran out."""


@dataclass(frozen=True, slots=True)
class ProxyCheck:
    """What becomes of one transport behind one reverse proxy: tried, not timed."""

    proxy: str
    """Key of :data:`locklane_bench.proxies.PROXIES`."""
    transport: str
    drops: bool
    """A file could be dropped: locked and unlocked."""
    hold_arrives: bool
    """While the client held, the server said that the lock was live."""
    client_told: bool | None
    """Where the hold did not arrive: whether the client found out and said so; else None."""
    loss_told: bool
    """When the server ended the hold, the client was told within some seconds."""
    idle_s: float | None
    """Seconds for which a hold was left alone to see whether the proxy cuts it; None: not tried."""
    idle_survives: bool | None
    message: str | None = None
    """What the client said when something did not work."""


@dataclass(frozen=True, slots=True)
class Grid:
    """Conditions that are all combinations of these lists."""

    part: Part
    transports: list[str]
    concurrency: list[int]
    files: list[int]
    """Of each condition; ``files_s`` may bound them further."""
    servers: list[str] = field(default_factory=lambda: ["locklane"])
    proxies: list[str | None] = field(default_factory=lambda: [None])
    tls: list[bool] = field(default_factory=lambda: [False])
    rtt_ms: list[float] = field(default_factory=lambda: [0.0])
    think_time_s: list[float] = field(default_factory=lambda: [0.0])
    files_s: float | None = None
    """Over a distance, no more files than take the slowest transport about these seconds."""
    relay: bool = True
    """Without a distance, make every run through the relay too, for the bytes."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What was asked for, so that a reader can ask for the same."""

    preset: str | None
    """``quick``, ``full``, or None: the conditions were given one by one."""
    transports: list[str]
    grids: list[Grid]
    rounds: int
    rate: float | None
    """Drops due per second over all users; None: each user starts the next when one has ended."""
    url: str | None
    """The server that was measured, without credentials; None: one started for the purpose."""
    keys_from: str
    """In words: where the keys came from."""
    repository: str | None = None
    """The name, without its path, of the git-annex repository that the keys are of."""
    idle_holds: int = 0
    """Locks to hold at once on each transport; 0: not tried."""


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
    annex_drops: list[AnnexDrop] = field(default_factory=list)
    idle: list[IdleHolds] = field(default_factory=list)
    ports: list[PortUse] = field(default_factory=list)
    proxies: list[ProxyCheck] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)
    """Why something was not measured, by what it is: ``git annex drop``, ``nginx``, …"""
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
            settings = data["settings"]
            settings["grids"] = [Grid(**each) for each in settings["grids"]]
            data["settings"] = Settings(**settings)
            data["runs"] = [_run_from(each) for each in data["runs"]]
            data["annex_drops"] = [AnnexDrop(**each) for each in data["annex_drops"]]
            data["idle"] = [IdleHolds(**each) for each in data["idle"]]
            data["ports"] = [PortUse(**each) for each in data["ports"]]
            data["proxies"] = [ProxyCheck(**each) for each in data["proxies"]]
            return cls(**data)
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a whole results file: {error}") from error

    def write_csv(self, stream: TextIO) -> None:
        """One row per run; the latencies as percentiles."""
        writer = csv.writer(stream)
        nested = ("condition", "latency_ms", "client", "relay")
        flat = [f.name for f in fields(Run) if f.name not in nested]
        # Files to drop, there, and files dropped, here.
        writer.writerow(
            ["files_wanted" if f.name == "files" else f.name for f in fields(Condition)]
            + [*flat]
            + [f"client_{f.name}" for f in fields(ClientCounts)]
            + [f"relay_{f.name}" for f in fields(RelayCounts)]
            + ["p50_ms", "p90_ms", "p99_ms", "max_ms"]
        )
        for run in self.runs:
            relay = asdict(run.relay) if run.relay else {}
            writer.writerow(
                [csv_cell(value) for value in asdict(run.condition).values()]
                + [csv_cell(getattr(run, name)) for name in flat]
                + [csv_cell(value) for value in asdict(run.client).values()]
                + [csv_cell(relay.get(f.name)) for f in fields(RelayCounts)]
                + [csv_cell(run.percentile_ms(percent)) for percent in (50, 90, 99, 100)]
            )


def _run_from(data: dict[str, Any]) -> Run:
    data["condition"] = Condition(**data["condition"])
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
