"""How much the lock manager holds, and how fast it decides: ``python -m locklane_bench.lockcore``.

Only the core, on one processor core: no network, no disk. What it costs to carry a lock to it is
the business of ``locklane compare``.
"""

from __future__ import annotations

import gc
import hashlib
import multiprocessing
import statistics
import sys
import tracemalloc
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from locklane_server.locks import Lock, LockManager

BYTES_PER_LOCK = 1000
"""The most that a lock may take: 100,000 of them in under 100 MB."""
PAIRS_PER_SECOND = 100_000
"""The fewest lock-unlock pairs per second, in the median of the rounds."""

PAIRS_PER_ROUND = 50_000
OWNERS = 100
START_S = 1000.0
"""The clock's reading when the first lock is taken; any will do."""
STEP_S = 1e-5
"""How far the clock goes on from lock to lock: it does, so ends of locks are in order of age."""


def key(number: int) -> str:
    """A key as git-annex makes them of pictures; no two alike."""
    digest = hashlib.sha256(str(number).encode()).hexdigest()
    return f"SHA256E-s{2_000_000 + number}--{digest}.jpg"


def owners() -> list[str]:
    """UUIDs of clients."""
    return [str(uuid.UUID(int=number, version=4)) for number in range(OWNERS)]


def filled(count: int, *, live: bool) -> LockManager:
    """A manager that holds so many locks, each on a key of its own."""
    manager = LockManager(limit=count + 1)
    clients = owners()
    for number in range(count):
        owner = clients[number % OWNERS]
        now = START_S + number * STEP_S
        manager.lock(key(number), owner, "longpoll", now, live=live)
    return manager


# -- memory ----------------------------------------------------------------------------------------


def _resident_bytes() -> int:
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmRSS:"):  # man 5 proc_pid_status
            return int(line.split()[1]) * 1024
    raise OSError("/proc/self/status tells no VmRSS")


def resident_per_lock(count: int, live: bool) -> float:
    """Bytes by which this process grew in memory, per lock; for a process of its own."""
    filled(100, live=live)
    gc.collect()
    before = _resident_bytes()
    manager = filled(count, live=live)
    gc.collect()
    return (_resident_bytes() - before) / len(manager)


def allocated_per_lock(count: int, live: bool) -> float:
    """Bytes that Python allocated per lock, as tracemalloc counts them."""
    filled(100, live=live)
    gc.collect()
    tracemalloc.start()
    try:
        manager = filled(count, live=live)
        gc.collect()
        return tracemalloc.get_traced_memory()[0] / len(manager)
    finally:
        tracemalloc.stop()


def in_a_new_process(measure: Callable[[int, bool], float], count: int, live: bool) -> float:
    """What ``measure`` finds in a process that has allocated nothing before."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as processes:
        return processes.submit(measure, count, live).result()


# -- speed -----------------------------------------------------------------------------------------


def lock_unlock_per_second(manager: LockManager, *, live: bool) -> float:
    """Pairs of a lock and its unlock."""
    keys = [key(-1 - number) for number in range(1000)]
    owner = owners()[0]
    now = START_S + len(manager) * STEP_S
    begin = perf_counter()
    for number in range(PAIRS_PER_ROUND):
        now += STEP_S
        lock = manager.lock(keys[number % 1000], owner, "longpoll", now, live=live)
        assert isinstance(lock, Lock)
        manager.unlock(lock.id, now)
    return PAIRS_PER_ROUND / (perf_counter() - begin)


def keep_lose_per_second(manager: LockManager) -> float:
    """Pairs of a hold's beginning and its loss, on locks taken in turn."""
    ids = [lock.id for lock in manager]
    now = START_S + len(manager) * STEP_S
    begin = perf_counter()
    for number in range(PAIRS_PER_ROUND):
        now += STEP_S
        lock_id = ids[number % len(ids)]
        manager.keep(lock_id, now)
        manager.lose(lock_id, now)
    return PAIRS_PER_ROUND / (perf_counter() - begin)


def expiry_ms(manager: LockManager) -> float:
    """How long it takes to end all locks at once, in ms."""
    after = START_S + len(manager) * STEP_S + manager.retention
    begin = perf_counter()
    manager.expire(after)
    took = perf_counter() - begin
    assert len(manager) == 0
    return took * 1000


# -- all of it -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Figure:
    """One thing measured, and what it has to be."""

    name: str
    unit: str
    rounds: list[float]
    target: str = ""
    met: bool = True

    @property
    def median(self) -> float:
        return statistics.median(self.rounds)


def _bytes(name: str, rounds: list[float]) -> Figure:
    met = statistics.median(rounds) < BYTES_PER_LOCK
    return Figure(name, "bytes per lock", rounds, f"under {BYTES_PER_LOCK:,}", met)


def _pairs(name: str, rounds: list[float]) -> Figure:
    met = statistics.median(rounds) >= PAIRS_PER_SECOND
    return Figure(name, "pairs per second", rounds, f"{PAIRS_PER_SECOND:,} or more", met)


def measure(locks: int, rounds: int) -> Iterator[str | Figure]:
    """Measure all. Yields the name of each thing before each round of it, which makes
    :func:`steps` names, and its figure after the last."""
    for name, measure_one in (
        ("resident (VmRSS)", resident_per_lock),
        ("allocated (tracemalloc)", allocated_per_lock),
    ):
        for live in (False, True):
            full = f"{name}, {_kind(live)}"
            found = []
            for _ in range(rounds):
                yield full
                found.append(in_a_new_process(measure_one, locks, live))
            yield _bytes(full, found)
    for others in (0, locks):
        for live in (False, True):
            full = f"lock and unlock, {_kind(live)}, {others:,} others"
            found = []
            manager = filled(others, live=live)
            for _ in range(rounds):
                yield full
                found.append(lock_unlock_per_second(manager, live=live))
            yield _pairs(full, found)
    full = f"keep and lose, {locks:,} locks"
    found = []
    manager = filled(locks, live=False)
    for _ in range(rounds):
        yield full
        found.append(keep_lose_per_second(manager))
    yield Figure(full, "pairs per second", found)
    full = "all expire at once"
    found = []
    for _ in range(rounds):
        yield full
        found.append(expiry_ms(filled(locks, live=False)))
    yield Figure(full, "ms", found)


def _kind(live: bool) -> str:
    return "live" if live else "retained"


def steps(rounds: int) -> int:
    """Rounds of all things together."""
    return 10 * rounds


def table(figures: list[Figure], locks: int) -> Table:
    """The figures for a person."""
    shown = Table(title=f"The lock manager with {locks:,} locks, on one core", title_justify="left")
    shown.add_column("measured")
    shown.add_column("unit")
    for column in ("min", "median", "max"):
        shown.add_column(column, justify="right")
    shown.add_column("target")
    for figure in figures:
        numbers = (min(figure.rounds), figure.median, max(figure.rounds))
        verdict = ": [green]met[/]" if figure.met else ": [bold red]missed[/]"
        shown.add_row(
            figure.name,
            figure.unit,
            *(f"{number:,.0f}" if number >= 100 else f"{number:,.1f}" for number in numbers),
            figure.target + verdict if figure.target else "",
        )
    return shown


@click.command(
    epilog="""\b
Examples:
  All of it, as the targets have it:
    python -m locklane_bench.lockcore
  A quick look:
    python -m locklane_bench.lockcore --locks 10000 --rounds 1
"""
)
@click.option(
    "--locks",
    type=click.IntRange(min=1000),
    default=100_000,
    show_default=True,
    help="Locks held at once.",
)
@click.option(
    "--rounds",
    type=click.IntRange(min=1),
    default=5,
    show_default=True,
    help="Times that each thing is measured.",
)
def main(locks: int, rounds: int) -> None:
    """Measure the lock manager: bytes per lock, decisions per second.

    Ends with 1 if a target is missed, and says which.
    """
    figures: list[Figure] = []
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
    ) as progress:
        # Its thread would take turns with the one that is measured.
        progress.live.auto_refresh = False
        task = progress.add_task("", total=steps(rounds))
        for done in measure(locks, rounds):
            if isinstance(done, Figure):
                figures.append(done)
            else:
                progress.update(task, description=done)
                progress.refresh()
                progress.advance(task)
    Console(width=None if sys.stdout.isatty() else 120).print(table(figures, locks))
    missed = [figure for figure in figures if not figure.met]
    for figure in missed:
        click.echo(
            f"missed: {figure.name}: {figure.median:,.0f} {figure.unit}, not {figure.target}",
            err=True,
        )
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
