"""Charts of bars in panels, one panel for each distance, with a scale of its own: what takes 1 ms
on loopback and 400 ms over a distance is not comparable by eye on one scale."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from locklane_bench.report.drawing import (
    FILLS,
    INK,
    ROW_INCHES,
    STYLE,
    TEXT_BAR,
    WIDTH_INCHES,
    Chart,
    short,
    text_bar,
    to_svg,
    write_beside,
    write_range,
)
from locklane_bench.report.summary import Spread
from locklane_bench.report.wording import BEST, cell, shown

_CHARACTER_INCHES = 0.105


@dataclass(frozen=True, slots=True)
class Bar:
    """One line: a bar, and a second figure as a mark beside it where there is one."""

    name: str
    value: Spread
    look: int | None = None
    """Which fill and hatch; None: a diamond in place of a bar."""
    second: Spread | None = None
    mark: bool = False
    """The best of its panel, or tied with it."""


@dataclass(frozen=True, slots=True)
class Panel:
    """Bars on one scale, from zero."""

    title: str
    bars: Sequence[Bar]


def panel_chart(
    name: str,
    title: str,
    panels: Sequence[Panel],
    axis: str,
    form: Callable[[float], str],
    *,
    keys: tuple[str, str] | None = None,
) -> Chart:
    """The chart.

    :param axis: what the bars are of, and which way is better.
    :param keys: what the bar is and what the mark of its second figure is, where there are any.
    """
    described = " ".join([f"{title}.", *(_described(each, form, keys) for each in panels)])
    marked = any(bar.mark for panel in panels for bar in panel.bars)
    lines = sum(len(each.bars) for each in panels)
    # A heading and the room between panels take a line and a half.
    height = (lines + 1.5 * len(panels)) * ROW_INCHES + 0.55 + (0.3 if keys else 0)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH_INCHES, height), layout="constrained")
        FigureCanvasSVG(figure)
        found = figure.subplots(
            len(panels), 1, height_ratios=[len(each.bars) for each in panels], squeeze=False
        )
        for axes, panel in zip(found[:, 0], panels, strict=True):
            _draw(axes, panel, form, keys)
        explained = [f"{BEST} best or tied"] if marked else []
        explained += ["each part has its own scale"] if len(panels) > 1 else []
        also = f"\n{'; '.join(explained)}" if explained else ""
        figure.supxlabel(f"{axis}{also}", fontsize=10)
        if keys:
            handles = [
                Patch(facecolor="white", edgecolor=INK, label=keys[0]),
                Line2D(
                    [],
                    [],
                    linestyle="",
                    marker="D",
                    color="white",
                    markeredgecolor=INK,
                    label=keys[1],
                ),
            ]
            figure.legend(handles=handles, loc="outside upper center", ncols=2, frameon=False)
        svg = to_svg(figure, name, title, described)
    return Chart(name, title, svg, described, _text(panels, form, keys))


def _draw(
    axes: Axes, panel: Panel, form: Callable[[float], str], keys: tuple[str, str] | None
) -> None:
    axes.set_title(panel.title, loc="left", fontsize=11.5, fontweight="bold", pad=3, x=0)
    axes.set_ylim(len(panel.bars) - 0.4, -0.6)
    axes.set_yticks(range(len(panel.bars)), [short(bar.name) for bar in panel.bars])
    axes.tick_params(axis="y", length=0)
    axes.set_xticks([])
    axes.spines["bottom"].set_visible(False)
    axes.axvline(0, color=INK, linewidth=1.2, zorder=3)
    ends, texts = [], []
    for y, bar in enumerate(panel.bars):
        if bar.look is None:
            axes.plot(bar.value.median, y, "D", color=INK, markersize=7, zorder=4)
        else:
            fill, hatch = FILLS[bar.look % len(FILLS)]
            axes.barh(
                y,
                bar.value.median,
                height=0.74,
                color=fill,
                edgecolor=INK,
                linewidth=0.9,
                hatch=hatch,
                zorder=2,
            )
        write_range(axes, y, bar.value)
        end = bar.value.high
        if bar.second:
            axes.plot(
                bar.second.median,
                y,
                "D",
                color="white",
                markeredgecolor=INK,
                markersize=6.5,
                zorder=5,
            )
            end = max(end, bar.second.median)
        text = _value(bar, form, keys)
        write_beside(axes, end, y, text, bold=bar.look is not None, points=9)
        ends.append(end)
        texts.append(text)
    widest = max(len(short(bar.name)) for bar in panel.bars) * 0.09
    room = max(WIDTH_INCHES - widest - 0.25, 1.5)
    # So much of the width is left of each text that it ends within the chart.
    most = max(
        end / max(1 - (len(text) * _CHARACTER_INCHES + 0.2) / room, 0.15)
        for end, text in zip(ends, texts, strict=True)
    )
    axes.set_xlim(0, most or 1)


def _value(bar: Bar, form: Callable[[float], str], keys: tuple[str, str] | None) -> str:
    said = f"{BEST} {form(bar.value.median)}" if bar.mark else form(bar.value.median)
    if bar.second and keys:
        said += f" / {form(bar.second.median)} ◇"
    return said


def _described(panel: Panel, form: Callable[[float], str], keys: tuple[str, str] | None) -> str:
    values = []
    for bar in panel.bars:
        said = f"{bar.name} {shown(bar.value, form)}"
        if bar.second and keys:
            said += f", {keys[1]} {shown(bar.second, form)}"
        if bar.mark:
            said += ", best or tied"
        values.append(said)
    return f"{panel.title}: {'; '.join(values)}."


def _text(
    panels: Sequence[Panel], form: Callable[[float], str], keys: tuple[str, str] | None
) -> str:
    """The same bars in characters."""
    width = max(len(bar.name) for panel in panels for bar in panel.bars)
    lines: list[str] = []
    for panel in panels:
        most = max(bar.value.median for bar in panel.bars) or 1
        lines += ["", panel.title] if lines else [panel.title]
        for bar in panel.bars:
            if bar.look is None:
                drawn = " " * max(int(bar.value.median / most * TEXT_BAR) - 1, 0) + "◆"
            else:
                drawn = text_bar(bar.value.median, most)
            said = str(cell(bar.value, form, best=bar.mark))
            if bar.second and keys:
                said += f"; {keys[1]} {shown(bar.second, form)}"
            lines.append(f"  {bar.name:<{width}}  {drawn} {said}")
    return "\n".join(lines)
