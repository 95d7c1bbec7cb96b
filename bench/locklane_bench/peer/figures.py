"""What is measured side by side, what is wanted of it, and how samples become figures."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from locklane_bench.peer.results import PeerResults, PeerSettings, Sample
from locklane_bench.report.summary import Spread, spread

OURS, PEER, NGINX, BARE = "locklane", "p2phttp", "nginx", "bare aiohttp"
HASHING, WRITING = "hashing", "writing"
SLOWER = "the slower of hashing and writing alone"

GROUPS = ("locks", "checkpresent", "small-download", "large-download", "upload", "drop")
"""What ``--only`` takes."""


@dataclass(frozen=True, slots=True)
class Work:
    """A piece of work that is given to each of some servers in each round."""

    name: str
    group: str
    """One of :data:`GROUPS`."""
    servers: tuple[str, ...]
    """In the order in which they are given it."""
    at_once: int = 1
    """Connections, or git-annex's jobs."""
    per_file: int = 1
    """Operations for each of ``--files``; 0: one operation in all."""
    large: bool = False
    """Whether it is about the one large file."""

    def operations(self, files: int) -> int:
        return files * self.per_file or 1


WORKS = (
    # Each key is locked once in a run: git-annex's server refuses a lock, or hangs, while another
    # connection lets go of one on the same key.
    *(Work(f"locks-{many}", "locks", (OURS, PEER, BARE), many) for many in (1, 4, 16)),
    Work("checkpresent", "checkpresent", (OURS, PEER, BARE), 4, per_file=10),
    Work("small-download", "small-download", (OURS, PEER, NGINX), 4, per_file=4),
    Work("large-download", "large-download", (OURS, PEER, NGINX), per_file=0, large=True),
    Work("upload", "upload", (OURS, PEER, HASHING, WRITING), per_file=0, large=True),
    *(Work(f"drop-{jobs}", "drop", (OURS, PEER), jobs) for jobs in (1, 4)),
)

Better = Literal["more", "less"]


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the report: Locklane held against another, with or without a target."""

    work: str
    title: str
    unit: str
    value: Callable[[Sample], float | None]
    against: str = PEER
    better: Better = "more"
    wanted: float | None = None
    """How many times better Locklane has to be; ``None``: nothing is asked of it."""
    beyond: bool = False
    """The wanted value itself does not do: it has to be passed."""


def _rate(sample: Sample) -> float:
    return sample.operations / sample.wall_s


def _gigabytes(sample: Sample) -> float:
    return sample.content_bytes / 1e9 / sample.wall_s


def _wall(sample: Sample) -> float:
    return sample.wall_s


def _cpu(sample: Sample) -> float | None:
    return sample.server_cpu_s


def figures(settings: PeerSettings) -> list[Figure]:
    """All lines of a report, in their order."""
    large, small = size_words(settings.size), size_words(settings.small_size)
    per_s, gb = "/s", "GB/s"
    found = [
        Figure("locks-1", "Lock cycles, 1 at once", per_s, _rate, wanted=2),
        Figure("locks-4", "Lock cycles, 4 at once", per_s, _rate, wanted=2.5),
        Figure("locks-16", "Lock cycles, 16 at once", per_s, _rate, wanted=3),
        Figure("checkpresent", "checkpresent", per_s, _rate, wanted=1.3),
        Figure("small-download", f"Downloads of {small}", per_s, _rate, wanted=3),
        Figure("large-download", f"Download of {large}", gb, _gigabytes, wanted=1.2),
        Figure("large-download", f"Download of {large}", gb, _gigabytes, NGINX, wanted=0.9),
        Figure("upload", f"Upload of {large}", gb, _gigabytes),
        Figure("upload", f"Upload of {large}", gb, _gigabytes, SLOWER, wanted=0.8),
    ]
    for work in WORKS:
        if work.group == "drop":
            jobs = f"{work.at_once} {'job' if work.at_once == 1 else 'jobs'}"
            name = work.name
            found += [
                Figure(name, f"Drop, {jobs}: time", "s", _wall, PEER, "less", 1, beyond=True),
                Figure(name, f"Drop, {jobs}: server CPU", "s", _cpu, PEER, "less", 2),
            ]
    groups = {work.name: work.group for work in WORKS}
    return [figure for figure in found if groups[figure.work] in settings.only]


def size_words(size: int) -> str:
    """A number of bytes as people say it: ``1 GiB``, ``64 MiB``, ``10 kB``, ``1,234 bytes``."""
    for unit, name in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1000, "kB")):
        if size >= unit and size % unit == 0:
            return f"{size // unit} {name}"
    return f"{size:,} bytes"


def size_option(size: int) -> str:
    """A number of bytes as ``--size`` takes it: ``1GiB``, ``64MiB``, ``10000``."""
    for unit, name in ((1 << 30, "GiB"), (1 << 20, "MiB")):
        if size % unit == 0:
            return f"{size // unit}{name}"
    return str(size)


@dataclass(frozen=True, slots=True)
class Line:
    """A figure with what came out."""

    figure: Figure
    ours: Spread | None
    theirs: Spread | None
    ratio: Spread | None
    """How many times better Locklane was, reckoned in each round; ``None``: no round has both."""
    by_round: list[float]

    @property
    def reached(self) -> bool | None:
        """Whether the median does what is wanted; ``None``: nothing is, or nothing was measured."""
        if self.figure.wanted is None or self.ratio is None:
            return None
        if self.figure.beyond:
            return self.ratio.median > self.figure.wanted
        return self.ratio.median >= self.figure.wanted


def lines(results: PeerResults) -> list[Line]:
    """Every line of a report."""
    return [_line(figure, results.samples) for figure in figures(results.settings)]


def _line(figure: Figure, samples: list[Sample]) -> Line:
    ours = _values(figure, samples, OURS)
    theirs = _others(figure, samples)
    ratios = []
    for number in sorted(ours.keys() & theirs.keys()):
        mine, other = ours[number], theirs[number]
        above, below = (mine, other) if figure.better == "more" else (other, mine)
        if below > 0:
            ratios.append(above / below)
    return Line(figure, spread(ours.values()), spread(theirs.values()), spread(ratios), ratios)


def _others(figure: Figure, samples: list[Sample]) -> dict[int, float]:
    if figure.against != SLOWER:
        return _values(figure, samples, figure.against)
    hashing, writing = (_values(figure, samples, name) for name in (HASHING, WRITING))
    return {number: min(hashing[number], writing[number]) for number in hashing.keys() & writing}


def _values(figure: Figure, samples: Iterable[Sample], server: str) -> dict[int, float]:
    """By round."""
    return {
        sample.round: value
        for sample in samples
        if sample.work == figure.work
        and sample.server == server
        and (value := figure.value(sample)) is not None
    }


@dataclass(frozen=True, slots=True)
class Limit:
    """Whose processor time went where, in one work against one server."""

    work: str
    server: str
    rate: Spread | None
    """Operations per second."""
    load: Spread | None
    """Processor time of the load's process per second of the run: near 1 it is the limit."""
    served: Spread | None
    """The same of the server, on all cores together."""


def limits(results: PeerResults) -> list[Limit]:
    """One for each work and server over HTTP, so that a reader sees what held a figure back."""
    found = []
    for work in WORKS:
        for server in work.servers:
            here = [
                each for each in results.samples if (each.work, each.server) == (work.name, server)
            ]
            if here and server not in (HASHING, WRITING) and work.group != "drop":
                found.append(
                    Limit(
                        work.name,
                        server,
                        spread(_rate(each) for each in here),
                        spread(each.load_cpu_s / each.wall_s for each in here),
                        spread(
                            None if each.server_cpu_s is None else each.server_cpu_s / each.wall_s
                            for each in here
                        ),
                    )
                )
    return found
