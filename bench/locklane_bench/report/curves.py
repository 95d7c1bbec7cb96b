"""Charts of lines: one marker, one dash and one name written at the end of the line for each
series, so that nothing hangs on colour."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import log10

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator

from locklane_bench.report.drawing import INK, STYLE, WIDTH_INCHES, Chart, to_svg
from locklane_bench.report.wording import number

MARKERS = "osD^vPX*"
COLOURS = ("#b35806", "#1f6fb2", "#2a7f55", "#8a4a98", "#7a6c00", "#555555")
DASHES: tuple[object, ...] = ("-", "--", ":", "-.", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2)))


@dataclass(frozen=True, slots=True)
class Series:
    """One line."""

    name: str
    look: int
    """Which marker, dash and colour."""
    points: Sequence[tuple[float, float]]
    """Measured."""
    line: Sequence[tuple[float, float]] | None = None
    """Drawn instead of a line through the points: a model."""
    hollow: frozenset[float] = frozenset()
    """Where, along x, the markers are hollow."""


def curve_chart(
    name: str,
    title: str,
    series: Sequence[Series],
    axes_names: tuple[str, str],
    *,
    log: bool,
    hollow: str | None = None,
) -> Chart:
    """The chart.

    :param log: both axes are logarithmic.
    :param hollow: what a hollow marker stands for.
    """
    described = " ".join(
        [f"{title}."]
        + [
            f"{each.name}: {', '.join(f'{number(y)} at {x:,.6g}' for x, y in each.points)}."
            for each in series
        ]
    )
    places = sorted({x for each in series for x, _ in each.points})
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH_INCHES, 3.9), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        axes.spines["left"].set_visible(True)
        for each in series:
            _draw(axes, each)
        if log:
            axes.set_xscale("log")
            axes.set_yscale("log")
            ys = [y for each in series for _, y in each.points]
            span = max(ys) / min(ys)
            axes.yaxis.set_major_locator(LogLocator(subs=log_steps(span)))
            axes.set_ylim(min(ys) / 1.3, max(ys) * 1.3)
        else:
            axes.set_ylim(0, 1.06 * max(y for each in series for _, y in each.points) or 1)
            axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.xaxis.set_major_locator(FixedLocator(places))
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_minor_locator(NullLocator())
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))
        axes.set_xlabel(axes_names[0])
        axes.set_title(axes_names[1], loc="left", x=-0.1, fontsize=11.5, pad=8)
        axes.grid(color="#dddddd", linewidth=0.8)
        axes.set_axisbelow(True)
        _names(axes, series, log)
        if hollow:
            key = Line2D(
                [], [], linestyle="", marker="o", color="white", markeredgecolor=INK, label=hollow
            )
            figure.legend(handles=[key], loc="outside lower right", frameon=False, fontsize=10)
        svg = to_svg(figure, name, title, described)
    return Chart(name, title, svg, described, "")


def _draw(axes: Axes, each: Series) -> None:
    colour = COLOURS[each.look % len(COLOURS)]
    drawn = each.line or each.points
    axes.plot(
        [x for x, _ in drawn],
        [y for _, y in drawn],
        color=colour,
        linestyle=DASHES[each.look % len(DASHES)],
        linewidth=1.8,
        zorder=2,
    )
    for x, y in each.points:
        axes.plot(
            x,
            y,
            MARKERS[each.look % len(MARKERS)],
            markersize=7.5,
            markerfacecolor="white" if x in each.hollow else colour,
            markeredgecolor=INK,
            zorder=3,
        )


def _names(axes: Axes, series: Sequence[Series], log: bool) -> None:
    """The names at the right, in the order of the ends, moved apart where they would overlap,
    each with its marker."""
    low, high = axes.get_ylim()
    scale: Callable[[float], float] = log10 if log else float
    bottom, top = scale(low if low > 0 or not log else 1e-9), scale(high)

    def part(y: float) -> float:
        return (scale(y) - bottom) / (top - bottom)

    ends = sorted(
        ((part((each.line or each.points)[-1][1]), each) for each in series),
        key=lambda pair: pair[0],
    )
    step = 0.075
    heights: list[float] = []
    for wanted, _ in ends:
        heights.append(max(wanted, heights[-1] + step) if heights else max(wanted, 0.0))
    # What was pushed beyond the top comes down again, with those below it.
    over = heights[-1] - 1.0 if heights else 0.0
    if over > 0:
        heights[-1] = 1.0
        for place in range(len(heights) - 2, -1, -1):
            heights[place] = min(heights[place], heights[place + 1] - step)
    for (_, each), height in zip(ends, heights, strict=True):
        colour = COLOURS[each.look % len(COLOURS)]
        axes.plot(
            1.04,
            height,
            MARKERS[each.look % len(MARKERS)],
            transform=axes.transAxes,
            clip_on=False,
            markersize=7,
            markerfacecolor=colour,
            markeredgecolor=INK,
        )
        axes.annotate(
            each.name,
            (1.075, height),
            xycoords="axes fraction",
            verticalalignment="center",
            annotation_clip=False,
        )


def log_steps(span: float) -> tuple[float, ...]:
    """Which ticks within a power of ten have room."""
    return (1.0, 2.0, 5.0) if span < 100 else (1.0, 3.0) if span < 3_000 else (1.0,)
