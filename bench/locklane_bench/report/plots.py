"""The charts of a comparison, as SVG to put into a page and as text to put into Markdown."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from locklane_bench.report.drawing import (
    FILLS,
    INK,
    STYLE,
    TEXT_BAR,
    Chart,
    Row,
    canvas,
    finish_x,
    text_bar,
    to_svg,
    write_beside,
    write_range,
)
from locklane_bench.report.summary import Ceiling, Figures, Spread, Summary
from locklane_bench.report.wording import at_a_time, exact, label, middle, number, shown


@dataclass(frozen=True, slots=True)
class _Row(Row):
    """A line of a chart: a heading, or the figures of one transport, or a ceiling."""

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
    with mpl.rc_context(STYLE):
        figure, axes = canvas(rows)
        for row in rows:
            if row.value and row.figures:
                _bar(axes, row.y, row.value.median, row.figures.transport, summary)
                write_beside(axes, row.value.median, row.y, exact(row.value.median), bold=True)
        finish_x(axes, (most or 1) * 1.2, "connections per file (fewer is better)")
        said = _describe(title, rows, summary, lambda row: shown(row.value, exact))
        text = _text_bars(rows, exact)
        return Chart("connections", title, to_svg(figure, "connections", title, said), said, text)


def drops_chart(summary: Summary) -> Chart | None:
    """Drops per second with the range of the rounds, and the ceiling where there is one."""
    rows = _rows(summary, lambda each: each.drops_per_s, ceilings=True)
    if not rows:
        return None
    most = max(row.value.high for row in rows if row.value)
    title = "Files dropped per second"
    with mpl.rc_context(STYLE):
        figure, axes = canvas(rows)
        for row in rows:
            rate = row.value
            if rate is None:
                continue
            if row.figures:
                _bar(axes, row.y, rate.median, row.figures.transport, summary)
            else:
                axes.plot(rate.median, row.y, "D", color=INK, markersize=7, zorder=4)
            write_range(axes, row.y, rate)
            write_beside(axes, rate.high, row.y, number(rate.median), bold=row.figures is not None)
        finish_x(axes, most * 1.22, "files dropped per second (more is better)")
        said = _describe(title, rows, summary, lambda row: shown(row.value))
        text = _text_bars(rows, number)
        return Chart("drops", title, to_svg(figure, "drops", title, said), said, text)


def latency_chart(summary: Summary) -> Chart | None:
    """p50, p90 and p99 of each transport on one line; the numbers at the right."""
    rows = _rows(summary, lambda each: each.p50_ms)
    if not rows:
        return None
    timed = [row.figures for row in rows if row.figures]
    most = max(each.p99_ms.median for each in timed if each.p99_ms)
    least = min(each.p50_ms.median for each in timed if each.p50_ms)
    marks = (("p50", "o", "white"), ("p90", "s", "#9a9a9a"), ("p99", "^", INK))
    with mpl.rc_context(STYLE):
        figure, axes = canvas(rows, extra=0.45)
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
                    markeredgecolor=INK,
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
                markeredgecolor=INK,
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
        return Chart("latency", title, to_svg(figure, "latency", title, said), said, "")


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


def _bar(axes: Axes, y: float, value: float, transport: str, summary: Summary) -> None:
    fill, hatch = FILLS[summary.transports.index(transport) % len(FILLS)]
    axes.barh(
        y, value, height=0.72, color=fill, edgecolor=INK, linewidth=0.9, hatch=hatch, zorder=2
    )


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


def _text_bars(rows: list[_Row], form: Callable[[float], str]) -> str:
    """The same bars in characters."""
    width = max(len(row.name) for row in rows)
    most = max(row.value.median for row in rows if row.value) or 1
    lines: list[str] = []
    for row in rows:
        if row.value is None:
            lines += ["", row.name] if lines else [row.name]
            continue
        if row.ceiling:
            bar = " " * max(int(row.value.median / most * TEXT_BAR) - 1, 0) + "◆"
        else:
            bar = text_bar(row.value.median, most)
        lines.append(f"  {row.name:<{width}}  {bar} {shown(row.value, form)}")
    return "\n".join(lines)
