"""The command line that repeats a comparison, with nothing of this machine in it."""

from __future__ import annotations

import shlex

from locklane_bench.results import Grid, Settings


def command(settings: Settings) -> str:
    """For a shell."""
    words = ["locklane", "compare"]
    if settings.preset is not None:
        words += ["--preset", settings.preset]
    words += ["--transports", ",".join(settings.transports)]
    words += ["--rounds", str(settings.rounds)]
    if settings.preset is None:
        words += _grid(settings.grids[0])
    if settings.idle_holds:
        words += ["--idle-holds", str(settings.idle_holds)]
    if settings.rate is not None:
        words += ["--rate", f"{settings.rate:g}"]
    if settings.url is not None:
        words += ["--url", settings.url]
    if settings.repository is not None:
        words += ["--keys-from", settings.repository]
    return shlex.join(words)


def _grid(grid: Grid) -> list[str]:
    words = ["--files", ",".join(map(str, grid.files))]
    words += ["--concurrency", ",".join(map(str, grid.concurrency))]
    words += ["--think-time", ",".join(f"{each:g}" for each in grid.think_time_s)]
    words += ["--rtt", ",".join(f"{each:g}" for each in grid.rtt_ms)]
    words += ["--tls", ",".join("yes" if each else "no" for each in grid.tls)]
    words += ["--proxy", ",".join(each or "none" for each in grid.proxies)]
    return words
