"""What a comparison measures: which conditions, over which transports, in which order.

It decides and measures nothing. The presets are here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product

from locklane_bench.proxies import PROXIES
from locklane_bench.proxies.check import suits
from locklane_bench.results import Condition, Grid, Settings, Via

CEILING_TRANSPORT = "longpoll"
"""The transport that the bare server answers."""

HTTP2_TRANSPORT = "longpoll-http2"
"""The transport that needs a proxy."""

PEER_TRANSPORTS = ("longpoll", "pipeline")
"""What ``git annex p2phttp`` speaks: pipelining is only another way to send the same requests."""

SLOWEST_ROUND_TRIPS = 4
"""Round trips that the slowest transport waits for: a websocket for each file over TLS."""

FEWEST = 3
"""Files for each user, however far the server is."""

PRESETS = ("quick", "full")


@dataclass(frozen=True, slots=True)
class Step:
    """One run to be made."""

    condition: Condition
    transport: str
    via: Via
    round: int


def preset(name: str, transports: Sequence[str]) -> list[Grid]:
    """The grids of a preset.

    :param name: one of :data:`PRESETS`.
    :param transports: to be compared.
    """
    names = [each for each in transports if each != HTTP2_TRANSPORT]
    polled = [each for each in PEER_TRANSPORTS if each in transports]
    if name == "quick":
        return [
            Grid("matrix", names, concurrency=[1, 8], files=[300]),
            Grid("matrix", names, [1], [12], rtt_ms=[20.0]),
            Grid("matrix", names, [1], [4], rtt_ms=[100.0]),
            Grid("matrix", names, [1], [300], tls=[True]),
            Grid("matrix", names, [1], [3], tls=[True], rtt_ms=[100.0]),
        ]
    return [
        Grid(
            "matrix",
            names,
            concurrency=[1, 8, 64],
            files=[1000],
            tls=[False, True],
            rtt_ms=[0.0, 20.0, 100.0],
            files_s=6.4,
        ),
        Grid(
            "proxies",
            list(transports),
            concurrency=[1, 8],
            files=[400],
            proxies=[None, *PROXIES],
            relay=False,
        ),
        Grid("think", names, [8, 64], [640], think_time_s=[0.05], relay=False),
        Grid("files", names, [8], [10, 100, 1000, 10_000], relay=False),
        Grid("peers", polled, [1, 8], [1000], servers=["locklane-annex", "p2phttp"], relay=False),
    ]


def conditions(grid: Grid) -> Iterator[Condition]:
    """All combinations of a grid, in the order in which they are measured: near before far."""
    for server, proxy, rtt, tls, think, files, concurrency in product(
        grid.servers,
        grid.proxies,
        grid.rtt_ms,
        grid.tls,
        grid.think_time_s,
        grid.files,
        grid.concurrency,
    ):
        yield Condition(
            part=grid.part,
            server=server,
            proxy=proxy,
            tls=tls or (proxy is not None and PROXIES[proxy].tls),
            rtt_ms=rtt,
            concurrency=concurrency,
            files=_files(files, rtt, concurrency, grid.files_s),
            think_time_s=think,
        )


def _files(files: int, rtt_ms: float, concurrency: int, seconds: float | None) -> int:
    """Over a distance, no more than take the slowest transport that long."""
    if seconds is None or rtt_ms == 0:
        return files
    of_each = max(FEWEST, round(1000 * seconds / (SLOWEST_ROUND_TRIPS * rtt_ms)))
    return min(files, of_each * concurrency)


def transports_of(condition: Condition, transports: Sequence[str]) -> list[str]:
    """Those that can be tried under a condition."""
    if condition.proxy is not None:
        return [name for name in transports if suits(PROXIES[condition.proxy], name)]
    spoken = [name for name in transports if name != HTTP2_TRANSPORT]
    if condition.server == "p2phttp":
        return [name for name in spoken if name in PEER_TRANSPORTS]
    return spoken


def usable(grids: Sequence[Grid], transports: Sequence[str]) -> list[str]:
    """Those of the transports that are tried at all: one that needs a proxy is only where there is
    one."""
    used = {
        name
        for grid in grids
        for condition in conditions(grid)
        for name in transports_of(condition, grid.transports)
    }
    return [name for name in transports if name in used]


def has_ceiling(condition: Condition, grid: Grid, settings: Settings) -> bool:
    """Whether the bare server says something: not where the load waits for something else than the
    server, nor of a server elsewhere."""
    return (
        CEILING_TRANSPORT in grid.transports
        and settings.rate is None
        and condition == Condition(concurrency=condition.concurrency, files=condition.files)
    )


def steps(settings: Settings) -> list[Step]:
    """Every run of a comparison, in the order in which they are made: each round makes every run
    once, and those of one condition one right after the other (A B C A B C …), so that a slow
    minute hurts all alike."""
    found: list[Step] = []
    for number in range(1, settings.rounds + 1):
        for grid in settings.grids:
            for condition in conditions(grid):
                found += _steps(condition, grid, settings, number)
    return found


def _steps(condition: Condition, grid: Grid, settings: Settings, number: int) -> Iterator[Step]:
    far = condition.rtt_ms > 0
    names = transports_of(condition, grid.transports)
    for name in names:
        yield Step(condition, name, "relay" if far else "direct", number)
    if has_ceiling(condition, grid, settings):
        yield Step(replace(condition, server="bare"), CEILING_TRANSPORT, "direct", number)
    # The bytes of a drop do not vary from round to round.
    if grid.relay and not far and number == 1:
        for name in names:
            yield Step(condition, name, "relay", number)


def words(step: Step) -> str:
    """What is being done, for a progress bar."""
    condition = step.condition
    about = [f"{condition.concurrency} at a time"]
    if condition.server == "bare":
        about.append("ceiling")
    elif condition.server != "locklane":
        about.append(condition.server)
    if condition.rtt_ms:
        about.append(f"{condition.rtt_ms:g} ms away")
    if condition.proxy:
        about.append(f"behind {condition.proxy}")
    elif condition.tls:
        about.append("TLS")
    if condition.think_time_s:
        about.append(f"held {condition.think_time_s:g} s")
    if condition.part == "files":
        about.append(f"{condition.files} files")
    return f"round {step.round}: {step.transport}, {', '.join(about)}"
