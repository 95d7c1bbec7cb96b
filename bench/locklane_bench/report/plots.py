"""The charts, as SVG to put into a page and as text to put into Markdown.

No global state of matplotlib is changed, and the same results give the same bytes. Every series
has a marker or a hatch of its own and every value is written beside its mark, so that nothing
hangs on colour.
"""

from __future__ import annotations

import html
import io
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from locklane_bench.report.summary import Ceiling, Figures, Spread, Summary
from locklane_bench.report.wording import at_a_time, exact, label, middle, number, shown

_STYLE: dict[Any, Any] = {
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
_WIDTH_INCHES = 5.0
_ROW_INCHES = 0.29
_INK = "#1a1a1a"
_FILLS = [
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
class _Row:
    """A line of a chart: a heading, or the figures of one transport, or a ceiling."""

    y: float
    name: str
    value: Spread | None = None
    """None for a heading."""
    figures: Figures | None = None
    ceiling: Ceiling | None = None


def charts(summary: Summary) -> list[Chart]:
    """All charts that there are figures for, the main one first."""
    drawn = (connections_chart(summary), drops_chart(summary), latency_chart(summary))
    return [chart for chart in drawn if chart is not None]


def connections_chart(summary: Summary) -> Chart | None:
    """Connections per dropped file: plain bars from zero, the exact number beside each."""
    rows = _rows(summary, lambda each: each.connections)
    if not rows:
        return None
    most = max(row.value.median for row in rows if row.value)
    title = "TCP connections opened per dropped file"
    with mpl.rc_context(_STYLE):
        figure, axes = _canvas(rows)
        for row in rows:
            if row.value and row.figures:
                _bar(axes, row.y, row.value.median, row.figures.transport, summary)
                _write_beside(axes, row.value.median, row.y, exact(row.value.median), bold=True)
        _finish_x(axes, (most or 1) * 1.2, "connections per file (fewer is better)")
        said = _describe(title, rows, summary, lambda row: shown(row.value, exact))
        text = _text_bars(rows, exact)
        return Chart("connections", title, _svg(figure, "connections", title, said), said, text)


def drops_chart(summary: Summary) -> Chart | None:
    """Drops per second with the range of the rounds, and the ceiling where there is one."""
    rows = _rows(summary, lambda each: each.drops_per_s, ceilings=True)
    if not rows:
        return None
    most = max(row.value.high for row in rows if row.value)
    title = "Files dropped per second"
    with mpl.rc_context(_STYLE):
        figure, axes = _canvas(rows)
        for row in rows:
            rate = row.value
            if rate is None:
                continue
            if row.figures:
                _bar(axes, row.y, rate.median, row.figures.transport, summary)
            else:
                axes.plot(rate.median, row.y, "D", color=_INK, markersize=7, zorder=4)
            if rate.low != rate.high:
                axes.errorbar(
                    rate.median,
                    row.y,
                    xerr=[[rate.median - rate.low], [rate.high - rate.median]],
                    color=_INK,
                    capsize=4,
                    linewidth=1.4,
                    zorder=3,
                )
            _write_beside(axes, rate.high, row.y, number(rate.median), bold=row.figures is not None)
        _finish_x(axes, most * 1.22, "files dropped per second (more is better)")
        said = _describe(title, rows, summary, lambda row: shown(row.value))
        text = _text_bars(rows, number)
        return Chart("drops", title, _svg(figure, "drops", title, said), said, text)


def latency_chart(summary: Summary) -> Chart | None:
    """p50, p90 and p99 of each transport on one line; the numbers at the right."""
    rows = _rows(summary, lambda each: each.p50_ms)
    if not rows:
        return None
    timed = [row.figures for row in rows if row.figures]
    most = max(each.p99_ms.median for each in timed if each.p99_ms)
    least = min(each.p50_ms.median for each in timed if each.p50_ms)
    marks = (("p50", "o", "white"), ("p90", "s", "#9a9a9a"), ("p99", "^", _INK))
    with mpl.rc_context(_STYLE):
        figure, axes = _canvas(rows, extra=0.45)
        ticks, numbers = [], []
        for row in rows:
            if row.figures is None:
                continue
            three = [row.figures.p50_ms, row.figures.p90_ms, row.figures.p99_ms]
            values = [each.median for each in three if each]
            axes.plot(values, [row.y] * len(values), color="#8a8a8a", linewidth=2, zorder=2)
            for value, (_, marker, fill) in zip(values, marks, strict=True):
                axes.plot(
                    value,
                    row.y,
                    marker,
                    markersize=8.5,
                    markerfacecolor=fill,
                    markeredgecolor=_INK,
                    zorder=3,
                )
            ticks.append(row.y)
            numbers.append(" / ".join(number(value) for value in values))
        if least > 0 and most / least > 20:
            axes.set_xscale("log")
            axes.set_xlim(least / 1.5, most * 1.5)
            axes.xaxis.set_major_locator(LogLocator(subs=_log_steps(most / least)))
            axes.xaxis.set_minor_locator(NullLocator())
            scale = ", logarithmic"
        else:
            axes.set_xlim(0, most * 1.08 or 1)
            axes.xaxis.set_major_locator(MaxNLocator(4))
            scale = ""
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))
        axes.set_xlabel(f"ms per drop{scale} (less is better)")
        axes.grid(axis="x", color="#dddddd", linewidth=0.8)
        right = axes.twinx()
        right.set_ylim(axes.get_ylim())
        right.set_yticks([*ticks, rows[0].y], [*numbers, "p50 / p90 / p99"])
        right.tick_params(axis="y", length=0)
        right.get_yticklabels()[-1].set_fontweight("bold")
        keys = [
            Line2D(
                [],
                [],
                linestyle="",
                marker=marker,
                markersize=8.5,
                markerfacecolor=fill,
                markeredgecolor=_INK,
                label=name,
            )
            for name, marker, fill in marks
        ]
        figure.legend(
            handles=keys,
            loc="outside upper center",
            ncols=3,
            frameon=False,
            handletextpad=0.2,
        )
        title = "Latency of a drop: p50, p90 and p99, in ms"
        said = _describe(
            title,
            rows,
            summary,
            lambda row: (
                ", ".join(
                    middle(each)
                    for each in (row.figures.p50_ms, row.figures.p90_ms, row.figures.p99_ms)
                )
                if row.figures
                else ""
            ),
        )
        return Chart("latency", title, _svg(figure, "latency", title, said), said, "")


def _rows(
    summary: Summary, value_of: Callable[[Figures], Spread | None], *, ceilings: bool = False
) -> list[_Row]:
    """Lines from top to bottom: for each concurrency a heading, its transports, its ceilings."""
    rows: list[_Row] = []
    y = 0.0
    for concurrency in summary.concurrencies:
        here = [
            _Row(0, label(each.server, each.transport, summary), value, figures=each)
            for each in summary.figures
            if each.concurrency == concurrency and (value := value_of(each))
        ]
        if not here:
            continue
        here += [
            _Row(0, f"{each.transport} ceiling", each.drops_per_s, ceiling=each)
            for each in summary.ceilings
            if ceilings and each.concurrency == concurrency and each.drops_per_s
        ]
        for row in [_Row(0, at_a_time(concurrency)), *here]:
            rows.append(replace(row, y=y))
            y -= 1
        y -= 0.35
    return rows


def _canvas(rows: list[_Row], *, extra: float = 0.0) -> tuple[Figure, Axes]:
    lowest = rows[-1].y
    height = (1.2 - lowest) * _ROW_INCHES + 0.65 + extra
    figure = Figure(figsize=(_WIDTH_INCHES, height), layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.add_subplot()
    axes.set_ylim(lowest - 0.65, 0.55)
    axes.set_yticks([row.y for row in rows], [_short(row.name) for row in rows])
    axes.tick_params(axis="y", length=0)
    for row, tick in zip(rows, axes.get_yticklabels(), strict=True):
        if row.value is None:
            tick.set_fontweight("bold")
    return figure, axes


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 1] + "…"


def _bar(axes: Axes, y: float, value: float, transport: str, summary: Summary) -> None:
    fill, hatch = _FILLS[summary.transports.index(transport) % len(_FILLS)]
    axes.barh(
        y, value, height=0.72, color=fill, edgecolor=_INK, linewidth=0.9, hatch=hatch, zorder=2
    )


def _write_beside(axes: Axes, x: float, y: float, text: str, *, bold: bool) -> None:
    axes.annotate(
        text,
        (x, y),
        xytext=(6, 0),
        textcoords="offset points",
        verticalalignment="center",
        fontweight="bold" if bold else "normal",
    )


def _finish_x(axes: Axes, most: float, title: str) -> None:
    axes.set_xlim(0, most)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))
    axes.set_xlabel(title)
    axes.grid(axis="x", color="#dddddd", linewidth=0.8, zorder=0)
    axes.set_axisbelow(True)


def _log_steps(span: float) -> tuple[float, ...]:
    """Which ticks within a power of ten have room."""
    return (1.0, 2.0, 5.0) if span < 100 else (1.0, 3.0) if span < 3_000 else (1.0,)


def _describe(title: str, rows: list[_Row], summary: Summary, say: Callable[[_Row], str]) -> str:
    parts = [f"{title}."]
    for concurrency in summary.concurrencies:
        values = [
            f"{row.name} {say(row)}"
            for row in rows
            if (of := row.figures or row.ceiling) and of.concurrency == concurrency
        ]
        if values:
            parts.append(f"{at_a_time(concurrency)}: {'; '.join(values)}.")
    return " ".join(parts)


_TEXT_BAR = 36


def _text_bars(rows: list[_Row], form: Callable[[float], str]) -> str:
    """The same bars in characters."""
    width = max(len(row.name) for row in rows)
    most = max(row.value.median for row in rows if row.value) or 1
    lines: list[str] = []
    for row in rows:
        if row.value is None:
            lines += ["", row.name] if lines else [row.name]
            continue
        full, part = divmod(round(row.value.median / most * _TEXT_BAR * 8), 8)
        if row.ceiling:
            bar = " " * max(full - 1, 0) + "◆"
        else:
            bar = "█" * full + ("", *"▏▎▍▌▋▊▉")[part]
            bar = bar or ("▏" if row.value.median else "")
        lines.append(f"  {row.name:<{width}}  {bar} {shown(row.value, form)}")
    return "\n".join(lines)


def _svg(figure: Figure, name: str, title: str, description: str) -> str:
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
