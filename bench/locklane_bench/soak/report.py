"""The report of a soak: Markdown, a chart, and what was sampled."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from locklane_bench.report.curves import COLOURS, DASHES
from locklane_bench.report.drawing import INK, STYLE, to_svg
from locklane_bench.report.wording import mebibytes
from locklane_bench.soak.figures import JOBS, NOISE_KIB, POOLS, SLOPE_KIB, Sample, Soaked, Watched
from locklane_bench.soak.runner import ALLOCATOR

CHART = "memory.svg"

_WIDTH_INCHES, _HEIGHT_INCHES = 8.0, 7.0


def write(soaked: Soaked, directory: Path) -> list[Path]:
    """Write ``report.md``, ``memory.svg`` and ``samples.csv``.

    :returns: their paths, the report's first.
    """
    directory.mkdir(parents=True, exist_ok=True)
    written = [directory / name for name in ("report.md", CHART, "samples.csv")]
    written[0].write_text(text(soaked), encoding="utf-8")
    written[1].write_text(f"{chart(soaked)}\n", encoding="utf-8")
    with written[2].open("w", newline="", encoding="utf-8") as out:
        rows = csv.writer(out, lineterminator="\n")
        rows.writerow(["server", "seconds", "requests", "memory_kib", "descriptors", "threads"])
        for each in soaked.servers:
            for sample in each.samples:
                rows.writerow(
                    [
                        each.name,
                        f"{sample.seconds:.1f}",
                        sample.requests,
                        sample.memory_kib,
                        sample.descriptors,
                        sample.threads,
                    ]
                )
    return written


def summary(soaked: Soaked) -> list[str]:
    """A line for each server."""
    return [
        f"{each.name}: {each.requests:,} requests; memory {each.slope.kib:+.2f} KiB per 1,000 "
        f"requests over the second half ({each.growth_kib / 1024:+.2f} MiB); descriptors "
        f"{each.before.descriptors} → {each.after.descriptors}, threads {each.before.threads} → "
        f"{each.after.threads}"
        for each in soaked.servers
    ]


def text(soaked: Soaked) -> str:
    """The report as Markdown."""
    faults = soaked.faults()
    lines = [
        f"# A soak of {soaked.minutes:g} minutes",
        "",
        "**Flat.** Descriptors are back where they were, and memory and threads stayed."
        if not faults
        else "**Not flat.** " + "; ".join(faults) + ".",
        "",
        f"![Memory and descriptors over time]({CHART})",
        "",
        _row("", [each.name for each in soaked.servers]),
        _row("---", ["---:"] * len(soaked.servers)),
        *(_row(name, [value(each) for each in soaked.servers]) for name, value in _FIGURES),
        "",
        f"Each server is the real `locklane serve`, loaded at full speed from one other process "
        f"for {soaked.minutes:g} minutes, of which the first {soaked.warm_up_s:g} s are the "
        "warm-up. After it, and at the end, all clients go, and the server is looked at when its "
        "descriptors and threads have come to rest.",
        "",
        "Memory is what is resident, sampled each second. Its slope over requests is that of Theil "
        "and Sen, the median of the slopes between any two samples of the second half, which a "
        f"spike does not move. It has grown if the slope is over {SLOPE_KIB:g} KiB per 1,000 "
        "requests there, and in either part of it, because one step of an allocator's is no "
        f"growth, and if it comes to more than {NOISE_KIB / 1024:g} MiB there, and between the "
        "warm-up and the end, when all clients are gone. The servers' C library is told to give "
        "back at once what is free: "
        + ", ".join(f"`{name}={value}`" for name, value in ALLOCATOR.items())
        + ". "
        f"Threads are begun when they are first needed, up to {POOLS} times {JOBS} (`--jobs`).",
        "",
        "What the clients did:",
        "",
    ]
    for each in soaked.servers:
        done = "; ".join(f"{kind}: {count:,}" for kind, count in each.done.items())
        lines.append(f"- {each.name}: {done}")
    lines += ["", "On: " + "; ".join(f"{name} {value}" for name, value in _short(soaked)), ""]
    return "\n".join(lines)


def _short(soaked: Soaked) -> list[tuple[str, str]]:
    return [(name, value) for name, value in soaked.machine.items() if not name.startswith("net.")]


_FIGURES: list[tuple[str, Callable[[Watched], str]]] = [
    ("requests", lambda each: f"{each.requests:,}"),
    (
        "memory's slope, KiB per 1,000 requests",
        lambda each: f"{each.slope.kib:+.2f}",
    ),
    ("what it comes to, MiB", lambda each: f"{each.growth_kib / 1024:+.2f}"),
    (
        "memory at rest, MiB: at the start, after the warm-up, at the end",
        lambda each: ", ".join(mebibytes(it.memory_kib) for it in _stages(each)),
    ),
    (
        "most memory under load, MiB",
        lambda each: mebibytes(max((it.memory_kib for it in each.samples), default=0)),
    ),
    (
        "descriptors at rest, likewise",
        lambda each: ", ".join(str(it.descriptors) for it in _stages(each)),
    ),
    (
        "most descriptors under load",
        lambda each: str(max((it.descriptors for it in each.samples), default=0)),
    ),
    (
        "threads at rest, likewise",
        lambda each: ", ".join(str(it.threads) for it in _stages(each)),
    ),
    ("locks still held by clients that are gone", lambda each: str(each.live_locks)),
    ("locks that their retention will end", lambda each: str(each.retained_locks)),
]


def _stages(each: Watched) -> tuple[Sample, Sample, Sample]:
    return each.start, each.before, each.after


def _row(name: str, cells: list[str]) -> str:
    return f"| {' | '.join([name, *cells])} |"


def chart(soaked: Soaked) -> str:
    """Memory and descriptors of each server over time, as SVG."""
    title = "Memory and descriptors under load"
    described = f"{title}. " + " ".join(f"{line}." for line in summary(soaked))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(_WIDTH_INCHES, _HEIGHT_INCHES), layout="constrained")
        FigureCanvasSVG(figure)
        memory, descriptors = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
        for place, each in enumerate(soaked.servers):
            _line(memory, place, each, lambda sample: sample.memory_kib / 1024)
            _line(descriptors, place, each, lambda sample: sample.descriptors)
            half = each.half
            memory.plot(
                [it.seconds / 60 for it in half],
                [each.slope.at(it.requests) / 1024 for it in half],
                color=INK,
                linestyle=DASHES[place % len(DASHES)],
                linewidth=2.2,
                zorder=4,
            )
        memory.set_title(
            "resident memory, MiB; in black: the slope over the second half",
            loc="left",
            fontsize=11.5,
        )
        descriptors.set_title("open descriptors", loc="left", fontsize=11.5)
        descriptors.set_xlabel("minutes of load, after the warm-up")
        for axes in (memory, descriptors):
            axes.set_ylim(bottom=0)
            axes.margins(x=0)
            axes.spines["left"].set_visible(True)
            axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
            axes.grid(color="#dddddd", linewidth=0.8)
            axes.set_axisbelow(True)
        return to_svg(figure, "soak", title, described)


def _line(axes: Axes, place: int, each: Watched, value: Callable[[Sample], float]) -> None:
    """One server's. Names are in the order of the servers: their lines are close together."""
    if not each.samples:
        return
    colour = COLOURS[place % len(COLOURS)]
    drawn: dict[str, Any] = {
        "color": colour,
        "linestyle": DASHES[place % len(DASHES)],
        "linewidth": 1.2,
    }
    axes.plot(
        [it.seconds / 60 for it in each.samples],
        [value(it) for it in each.samples],
        **drawn,
        zorder=3,
    )
    axes.annotate(
        each.name,
        (1.01, 0.95 - 0.12 * place),
        xycoords="axes fraction",
        verticalalignment="center",
        color=colour,
        annotation_clip=False,
    )
