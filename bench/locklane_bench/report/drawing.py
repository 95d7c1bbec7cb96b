"""What all charts share: their looks, and their three forms.

No global state of matplotlib is changed, and the same results give the same bytes. Every series
has a marker or a hatch of its own and every value is written beside its mark, so that nothing
hangs on colour.
"""

from __future__ import annotations

import html
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from locklane_bench.report.summary import Spread

STYLE: dict[Any, Any] = {
    "font.family": ["DejaVu Sans", "sans-serif"],
    "font.size": 11.5,
    "text.parse_math": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.linewidth": 0.8,
    "hatch.linewidth": 1.1,
    "svg.fonttype": "none",
    "svg.hashsalt": "locklane",
    "figure.facecolor": "white",
    "axes.facecolor": "white",
}
WIDTH_INCHES = 5.0
ROW_INCHES = 0.29
INK = "#1a1a1a"
FILLS = [
    ("#f2b27a", "////"),
    ("#7fb2dc", ""),
    ("#9ed3b4", "\\\\\\\\"),
    ("#d9b3dd", "xxx"),
    ("#e3dc8a", "----"),
    ("#c9c9c9", "++++"),
]
_LONGEST_NAME = 26


@dataclass(frozen=True, slots=True)
class Chart:
    """One chart in three forms."""

    name: str
    title: str
    svg: str
    description: str
    """The same in words, for who cannot see it; also the SVG's ``aria-label``."""
    text: str
    """Bars of characters, for Markdown; empty where the table already says it."""


@dataclass(frozen=True, slots=True)
class Row:
    """A line of a chart: a heading, or a value."""

    y: float
    name: str
    value: Spread | None = None
    """None for a heading."""


def canvas(rows: Sequence[Row], *, extra: float = 0.0) -> tuple[Figure, Axes]:
    """An empty chart with these lines, and ``extra`` inches of height."""
    lowest = rows[-1].y
    height = (1.2 - lowest) * ROW_INCHES + 0.65 + extra
    figure = Figure(figsize=(WIDTH_INCHES, height), layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.add_subplot()
    axes.set_ylim(lowest - 0.65, 0.55)
    axes.set_yticks([row.y for row in rows], [short(row.name) for row in rows])
    axes.tick_params(axis="y", length=0)
    for row, tick in zip(rows, axes.get_yticklabels(), strict=True):
        if row.value is None:
            tick.set_fontweight("bold")
    return figure, axes


def short(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 1] + "…"


def write_beside(
    axes: Axes, x: float, y: float, text: str, *, bold: bool, points: float = 6
) -> None:
    """A value to the right of its mark, ``points`` away."""
    axes.annotate(
        text,
        (x, y),
        xytext=(points, 0),
        textcoords="offset points",
        verticalalignment="center",
        fontweight="bold" if bold else "normal",
    )


def finish_x(axes: Axes, most: float, title: str) -> None:
    """The axis of values, from zero."""
    axes.set_xlim(0, most)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))
    axes.set_xlabel(title)
    axes.grid(axis="x", color="#dddddd", linewidth=0.8, zorder=0)
    axes.set_axisbelow(True)


def write_range(axes: Axes, y: float, of: Spread) -> None:
    """The least and the greatest round as a whisker; nothing where they are the same."""
    if of.low != of.high:
        axes.errorbar(
            of.median,
            y,
            xerr=[[of.median - of.low], [of.high - of.median]],
            color=INK,
            capsize=4,
            linewidth=1.4,
            zorder=3,
        )


TEXT_BAR = 36
"""Characters of the longest bar in a text."""


def text_bar(value: float, most: float) -> str:
    """A bar of characters, ``most`` being the longest."""
    full, part = divmod(round(value / most * TEXT_BAR * 8), 8)
    bar = "█" * full + ("", *"▏▎▍▌▋▊▉")[part]
    return bar or ("▏" if value else "")


def to_svg(figure: Figure, name: str, title: str, description: str) -> str:
    """The figure as an ``<svg>`` that can stand beside others in one page."""
    stream = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(stream, format="svg", metadata=nothing)
    svg = stream.getvalue()
    svg = svg[svg.index("<svg") :].strip()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<!--.*?-->\n?", "", svg, flags=re.DOTALL)
    # Ids are unique in a page, not only in a chart; the style sheet is for this chart alone.
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', svg)
    svg = re.sub(r'href="#([^"]+)"', rf'href="#{name}-\1"', svg)
    svg = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", svg)
    svg = svg.replace('<style type="text/css">*{', f'<style type="text/css">#chart-{name} *{{')
    spoken = html.escape(description, quote=True)
    return svg.replace(
        "<svg ", f'<svg id="chart-{name}" role="img" aria-label="{spoken}" ', 1
    ).replace(">", f">\n <title>{html.escape(title)}</title>", 1)
