"""Two comparisons held against each other: what changed from A to B, and whether both rank the
transports the same. Nothing here prints."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from statistics import median

from locklane_bench.results import Condition, Results, Run


@dataclass(frozen=True, slots=True)
class Ratio:
    """B over A. The rounds of two comparisons are no pairs, so the least is the least round of B
    over the greatest of A, and the greatest the other way round."""

    median: float
    low: float
    high: float

    @property
    def tie(self) -> bool:
        """The rounds of A and of B overlap: they do not tell which is greater."""
        return self.low <= 1 <= self.high


@dataclass(frozen=True, slots=True)
class Line:
    """One transport under one condition in both comparisons; None: one of them does not tell."""

    condition: Condition
    """As B has it: only its number of files may be another in A."""
    transport: str
    speed: Ratio | None
    """Drops per second; with a rate the latency, p50."""
    connections: tuple[float, float] | None
    """Per dropped file, in A and in B."""
    bytes_: Ratio | None
    """Both ways, per dropped file."""
    server_cpu: Ratio | None
    """Processor time per dropped file."""


@dataclass(frozen=True, slots=True)
class Opposite:
    """Two transports that A and B rank in opposite directions."""

    condition: Condition
    first_in_a: str
    first_in_b: str


@dataclass(frozen=True, slots=True)
class Difference:
    """What is to be said of B against A."""

    rate: bool
    """Both were made with a rate: latency is what they are compared by."""
    lines: list[Line]
    conditions: int
    """Under which two or more transports could be ranked in both."""
    ranked: int
    """Pairs of transports that both rank."""
    undecided: int
    """Pairs that A or B does not rank: neither transport was faster in every round."""
    opposites: list[Opposite]
    only_in: tuple[int, int]
    """Transports under conditions that A has and B has not, and the other way round."""
    settings: list[tuple[str, str, str]]
    """What differs: name, in A, in B."""
    machine: list[tuple[str, str, str]]
    versions: list[tuple[str, str, str]]


def difference(a: Results, b: Results) -> Difference:
    """Hold B against A.

    :raises ValueError: one was made with a rate, the other was not.
    """
    rate = a.settings.rate is not None
    if rate != (b.settings.rate is not None):
        raise ValueError(
            "one was made with --rate and the other was not: neither drops per second nor "
            "latencies can be compared"
        )
    in_a, in_b = _by_place(a), _by_place(b)
    places = [place for place in in_b if place in in_a]
    speed = _p50_ms if rate else _drops_per_s
    pairs = list(_pairs(in_a, in_b, rate))
    both = [(condition, one, two, va, vb) for condition, one, two, va, vb in pairs if va and vb]
    return Difference(
        rate=rate,
        lines=[_line(place, in_a[place], in_b[place], speed) for place in places],
        conditions=len({condition for condition, *_ in pairs}),
        ranked=len(both),
        undecided=len(pairs) - len(both),
        opposites=[
            Opposite(condition, one if va > 0 else two, one if vb > 0 else two)
            for condition, one, two, va, vb in both
            if va != vb
        ],
        only_in=(len(in_a) - len(places), len(in_b) - len(places)),
        settings=_differing(_settings(a), _settings(b)),
        machine=_differing(a.machine, b.machine),
        versions=_differing(a.versions, b.versions),
    )


# -- figures ---------------------------------------------------------------------------------------

Place = tuple[Condition, str]
"""A condition and a transport."""


def _by_place(results: Results) -> dict[Place, list[Run]]:
    """The runs by condition and transport. The number of files, which over a distance depends on
    how long they took, is no part of the condition unless there are several."""
    usable = [run for run in results.runs if run.files > 0 and run.wall_s > 0]
    numbers: dict[Condition, set[int]] = {}
    for run in usable:
        numbers.setdefault(replace(run.condition, files=0), set()).add(run.condition.files)
    found: dict[Place, list[Run]] = {}
    for run in usable:
        without = replace(run.condition, files=0)
        condition = without if len(numbers[without]) == 1 else run.condition
        found.setdefault((condition, run.transport), []).append(run)
    return found


def _drops_per_s(run: Run) -> float | None:
    return run.drops_per_s if run.gives_times else None


def _p50_ms(run: Run) -> float | None:
    return run.percentile_ms(50) if run.gives_times and run.latency_ms else None


def _connections(run: Run) -> float | None:
    return run.client.connections / run.files if run.gives_times else None


def _bytes(run: Run) -> float | None:
    return None if run.relay is None else (run.relay.bytes_up + run.relay.bytes_down) / run.files


def _server_cpu(run: Run) -> float | None:
    known = run.gives_times and run.server_cpu_ms is not None
    return (run.server_cpu_ms or 0.0) / run.files if known else None


def _known(runs: Iterable[Run], value: Callable[[Run], float | None]) -> list[float]:
    return [found for run in runs if (found := value(run)) is not None]


def _ratio(a: list[Run], b: list[Run], value: Callable[[Run], float | None]) -> Ratio | None:
    under, over = _known(a, value), _known(b, value)
    if not under or not over or min(under) <= 0:
        return None
    low, high = min(over) / max(under), max(over) / min(under)
    return Ratio(median(over) / median(under), low, high)


def _line(place: Place, a: list[Run], b: list[Run], speed: Callable[[Run], float | None]) -> Line:
    under, over = _known(a, _connections), _known(b, _connections)
    return Line(
        *place,
        speed=_ratio(a, b, speed),
        connections=(median(under), median(over)) if under and over else None,
        bytes_=_ratio(a, b, _bytes),
        server_cpu=_ratio(a, b, _server_cpu),
    )


# -- ranking ---------------------------------------------------------------------------------------


def _pairs(
    in_a: dict[Place, list[Run]], in_b: dict[Place, list[Run]], rate: bool
) -> Iterator[tuple[Condition, str, str, int, int]]:
    """Each two transports that both have under a condition, and how A and B rank them."""
    names: dict[Condition, list[str]] = {}
    for condition, transport in in_b:
        if (condition, transport) in in_a:
            names.setdefault(condition, []).append(transport)
    for condition, there in names.items():
        for one, two in combinations(sorted(there), 2):
            verdicts = [
                _verdict(found[condition, one], found[condition, two], rate)
                for found in (in_a, in_b)
            ]
            if None not in verdicts:
                yield condition, one, two, verdicts[0] or 0, verdicts[1] or 0


def _verdict(one: list[Run], two: list[Run], rate: bool) -> int | None:
    """1 if the first was faster in every round, -1 if the second was, else 0; None: no round has
    both."""
    first, second = _goodness(one, rate), _goodness(two, rate)
    rounds = first.keys() & second.keys()
    if not rounds:
        return None
    signs = {(first[each] > second[each]) - (first[each] < second[each]) for each in rounds}
    return signs.pop() if len(signs) == 1 else 0


def _goodness(runs: list[Run], rate: bool) -> dict[int, float]:
    """By round, what is greater where a transport is faster, as the report has it."""
    return {
        run.round: run.pace(by_latency=rate) for run in runs if run.gives_times and run.latency_ms
    }


# -- circumstances ---------------------------------------------------------------------------------


def _settings(results: Results) -> dict[str, str]:
    """Settings by name; each grid's by its part, where no preset says what they are."""
    flat = asdict(results.settings)
    grids = flat.pop("grids")
    if results.settings.preset is not None:
        grids = []
    numbers: dict[str, int] = {}
    for grid in grids:
        part = grid.pop("part")
        numbers[part] = numbers.get(part, 0) + 1
        which = part if numbers[part] == 1 else f"{part} ({numbers[part]})"
        flat |= {f"{which}: {name}": value for name, value in grid.items()}
    return {name.replace("_", " "): _said(value) for name, value in flat.items()}


def _said(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(_said(each) for each in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _differing(a: dict[str, str], b: dict[str, str]) -> list[tuple[str, str, str]]:
    return [
        (name, a.get(name, "–"), b.get(name, "–"))
        for name in dict.fromkeys([*a, *b])
        if a.get(name) != b.get(name)
    ]
