"""The soak: a minute of it for real, and that it finds what is not flat."""

from __future__ import annotations

import asyncio
import csv
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import LOCKLANE, Process

from locklane_bench.soak.figures import (
    JOBS,
    NOISE_KIB,
    POOLS,
    SLOPE_KIB,
    Sample,
    Slope,
    Soaked,
    Watched,
)
from locklane_bench.soak.report import chart, text
from locklane_server.transports import TRANSPORTS

MINUTES = 1


@pytest.mark.timeout(400)
async def test_a_minute_of_mixed_load_leaves_memory_descriptors_and_threads_where_they_were(
    tmp_path: Path,
) -> None:
    report = tmp_path / "report"
    with Process(LOCKLANE, "soak", "--minutes", str(MINUTES), "--report", report) as soak:
        assert await asyncio.to_thread(soak.wait, 350) == 0, soak.output
    assert "**Flat.**" in (report / "report.md").read_text()
    assert "</svg>" in (report / "memory.svg").read_text()
    with (report / "samples.csv").open() as lines:
        rows = list(csv.DictReader(lines))
    for server in ("git-annex", "store"):
        assert sum(row["server"] == server for row in rows) > 0.7 * 60 * MINUTES
    done = (report / "report.md").read_text()
    for kind in [
        "uploads, downloads and removals",
        "clients interrupted",
        "clients cut off",
        "clients with garbage",
        *(f"locks over {transport}" for transport in TRANSPORTS),
    ]:
        assert done.count(f"{kind}: ") == 2, f"not on both servers: {kind}"


# -- what is flat ----------------------------------------------------------------------------------

PER_SECOND = 500


def watched(memory: Callable[[int], float], seconds: int = 540) -> Watched:
    """A server whose memory in KiB is so after so many seconds of load."""
    chance = random.Random(1)

    def sample(second: int, noise: float = 0.0) -> Sample:
        kib = round(memory(second) + chance.uniform(0, noise))
        return Sample(second, second * PER_SECOND, kib, 20, 10)

    samples = [sample(second, NOISE_KIB / 2) for second in range(seconds)]
    return Watched("s", replace(sample(0), threads=5), sample(0), sample(seconds), samples)


def leak(bytes_per_request: float) -> Watched:
    return watched(lambda second: 50_000 + second * PER_SECOND * bytes_per_request / 1024)


def step(at: int) -> Watched:
    return watched(lambda second: 50_000 if second < at else 50_000 + 3 * NOISE_KIB)


FLAT = {
    "the same all the time": watched(lambda _: 50_000),
    "half of the bound": leak(SLOPE_KIB / 2),
    "up in the first half": watched(lambda second: 50_000 + 100 * min(second, 250)),
    **{f"one step after {at} s": step(at) for at in (100, 300, 405, 500)},
    "a spike": watched(lambda second: 50_000 + 30_000 * (400 < second < 450)),
    "more under load, and not afterwards": watched(lambda second: 50_000 + 100 * (second % 540)),
    "ever less": leak(-50),
}


@pytest.mark.parametrize("server", FLAT.values(), ids=FLAT.keys())
def test_what_does_not_grow_with_requests_is_flat(server: Watched) -> None:
    assert server.faults() == []


@pytest.mark.parametrize("bytes_", [40, 100, 1000])
def test_what_keeps_something_of_each_request_is_not_flat_and_it_is_said(bytes_: int) -> None:
    server = leak(bytes_)
    [fault] = server.faults()
    assert server.slope.kib == pytest.approx(bytes_ * 1000 / 1024, rel=0.1)
    assert f"memory grew by {server.slope.kib:.1f} KiB per 1,000 requests" in fault
    assert "**Not flat.** s: memory grew" in text(Soaked(10, 60, [server], {}))


def test_a_leak_of_a_kibibyte_is_found_in_a_minute() -> None:
    assert watched(lambda second: 50_000 + second * PER_SECOND, 48).grew


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"descriptors": 21}, "21 descriptors are open when all clients are gone, and 20 were"),
        ({"threads": 5 + POOLS * JOBS + 1}, "18 threads run when all clients are gone"),
    ],
)
def test_what_does_not_come_back_is_said(change: dict[str, int], says: str) -> None:
    server = leak(0)
    assert server.faults() == []
    server.after = replace(server.after, **change)
    [fault] = server.faults()
    assert says in fault


def test_locks_of_who_is_gone_and_complaints_are_said() -> None:
    server = leak(0)
    server.retained_locks = 3
    assert server.faults() == []
    server.live_locks = 2
    server.complaints = ["Traceback (most recent call last):"]
    locks, complained = server.faults()
    assert "2 locks are held by clients that are gone" in locks
    assert "it complained: Traceback" in complained


def test_a_quarter_of_the_samples_may_be_anything() -> None:
    chance = random.Random(3)
    samples = [
        Sample(second, 100 * second, 1000 + 20 * second, 1, 1)
        if chance.random() > 0.25
        else Sample(second, 100 * second, chance.randrange(10**6), 1, 1)
        for second in range(200)
    ]
    line = Slope.through(samples)
    assert line.kib == pytest.approx(200, rel=0.2)
    assert line.at(5000) == pytest.approx(2000, rel=0.2)


def test_the_chart_says_in_words_what_it_shows() -> None:
    drawn = chart(Soaked(10, 60, [leak(0), replace(leak(0), name="other")], {}))
    assert 'role="img"' in drawn
    assert "other: 270,000 requests; memory" in drawn


def test_nothing_sampled_is_no_growth() -> None:
    server = leak(0)
    server.samples = []
    assert server.faults() == []
    assert "</svg>" in chart(Soaked(0.1, 1, [server], {}))
