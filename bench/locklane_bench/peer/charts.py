"""The charts of a side-by-side report."""

from __future__ import annotations

import matplotlib as mpl
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator

from locklane_bench.peer.figures import BARE, OURS, PEER, Limit, Line
from locklane_bench.peer.wording import verdict, wanted
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
from locklane_bench.report.wording import number, shown

_REACHED, _MISSED, _NO_TARGET = ("#7fb2dc", ""), ("#f2b27a", "////"), ("#dddddd", "")


def ratio_chart(lines: list[Line]) -> Chart | None:
    """How many times better each figure is, with a mark where the target is."""
    rows, of = _ratio_rows(lines)
    if not rows:
        return None
    title = "How many times better Locklane is, and what was wanted"
    ratios = [line.ratio for line in of.values() if line.ratio]
    ends = [each for ratio in ratios for each in (ratio.low, ratio.high)]
    ends += [line.figure.wanted or 1.0 for line in of.values()]
    least, most = min(1.0, *ends), max(1.0, *ends)
    with mpl.rc_context(STYLE):
        figure, axes = canvas(rows, extra=0.75)
        axes.axvline(1, color=INK, linewidth=1.2, zorder=1)
        for row in rows:
            line = of.get(row.y)
            if line is None or line.ratio is None:
                continue
            fill, hatch = {True: _REACHED, False: _MISSED, None: _NO_TARGET}[line.reached]
            axes.barh(
                row.y,
                line.ratio.median - 1,
                left=1,
                height=0.72,
                color=fill,
                edgecolor=INK,
                linewidth=0.9,
                hatch=hatch,
                zorder=2,
            )
            write_range(axes, row.y, line.ratio)
            end = max(1.0, line.ratio.high)
            if line.figure.wanted is not None:
                axes.plot(
                    line.figure.wanted,
                    row.y,
                    "D",
                    markersize=7,
                    color="white",
                    markeredgecolor=INK,
                    zorder=4,
                )
                end = max(end, line.figure.wanted)
            write_beside(axes, end, row.y, number(line.ratio.median), bold=True)
        finish_x(axes, most, "times better (1 is as good)")
        axes.set_xscale("log", base=2)  # twice as good is as far from 1 as half as good
        axes.set_xlim(least / 1.15, most * (most / least) ** 0.22)
        axes.xaxis.set_major_locator(LogLocator(base=2))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.4g}"))
        keys = [
            mpl.patches.Patch(facecolor=fill, edgecolor=INK, hatch=hatch, label=name)
            for (fill, hatch), name in ((_REACHED, "reached"), (_MISSED, "missed"))
        ]
        diamond = Line2D(
            [], [], linestyle="", marker="D", color="white", markeredgecolor=INK, label="wanted"
        )
        figure.legend(handles=[*keys, diamond], loc="outside upper center", ncols=3, frameon=False)
        said = " ".join(
            [f"{title}."]
            + [
                f"{line.figure.title} against {line.figure.against}: {shown(line.ratio)}, wanted "
                f"{wanted(line)}, {verdict(line)}."
                for line in of.values()
            ]
        )
        longest = max(ratio.median for ratio in ratios)
        return Chart(
            "ratios", title, to_svg(figure, "ratios", title, said), said, _text(rows, of, longest)
        )


def _ratio_rows(lines: list[Line]) -> tuple[list[Row], dict[float, Line]]:
    """Lines from top to bottom, a heading for each of those that Locklane is held against."""
    rows: list[Row] = []
    of: dict[float, Line] = {}
    y = 0.0
    measured = [line for line in lines if line.ratio is not None]
    for against in dict.fromkeys(line.figure.against for line in measured):
        rows.append(Row(y, f"against {_name(against)}"))
        y -= 1
        for line in measured:
            if line.figure.against == against:
                rows.append(Row(y, line.figure.title, line.ratio))
                of[y] = line
                y -= 1
        y -= 0.35
    return rows, of


def _name(against: str) -> str:
    return against if " " not in against else "hashing or writing"


def _text(rows: list[Row], of: dict[float, Line], longest: float) -> str:
    width = max(len(row.name) for row in rows)
    lines: list[str] = []
    for row in rows:
        line = of.get(row.y)
        if line is None or line.ratio is None:
            lines += ["", row.name] if lines else [row.name]
            continue
        end = f"{shown(line.ratio)}"
        if line.figure.wanted is not None:
            end += f", {wanted(line)} wanted: {verdict(line)}"
        lines.append(f"  {row.name:<{width}}  {text_bar(line.ratio.median, longest)} {end}")
    return "\n".join(lines)


def locks_chart(limits: list[Limit]) -> Chart | None:
    """Lock cycles per second of both servers, and what the load gets from the bare one."""
    here = [each for each in limits if each.work.startswith("locks-") and each.rate]
    if not here:
        return None
    rows: list[Row] = []
    of: dict[float, Limit] = {}
    y = 0.0
    for work in dict.fromkeys(each.work for each in here):
        rows.append(Row(y, f"{work.removeprefix('locks-')} at once"))
        y -= 1
        for each in here:
            if each.work == work:
                rows.append(Row(y, each.server, each.rate))
                of[y] = each
                y -= 1
        y -= 0.35
    title = "Lock cycles per second"
    looks = {OURS: FILLS[1], PEER: FILLS[2]}
    most = max(each.rate.high for each in here if each.rate)
    with mpl.rc_context(STYLE):
        figure, axes = canvas(rows)
        for row in rows:
            if row.value is None:
                continue
            server = of[row.y].server
            if server in looks:
                fill, hatch = looks[server]
                axes.barh(
                    row.y,
                    row.value.median,
                    height=0.72,
                    color=fill,
                    edgecolor=INK,
                    linewidth=0.9,
                    hatch=hatch,
                    zorder=2,
                )
            else:
                axes.plot(row.value.median, row.y, "D", color=INK, markersize=7, zorder=4)
            write_range(axes, row.y, row.value)
            text = number(row.value.median)
            write_beside(axes, row.value.high, row.y, text, bold=server in looks)
        finish_x(axes, most * 1.22, "lock cycles per second (more is better)")
        said = " ".join(
            [f"{title}."]
            + [f"{each.work}, {each.server}: {shown(each.rate)}." for each in of.values()]
        )
        lines: list[str] = []
        for row in rows:
            if row.value is None:
                lines += ["", row.name] if lines else [row.name]
                continue
            if of[row.y].server == BARE:
                bar = " " * max(int(row.value.median / most * TEXT_BAR) - 1, 0) + "◆"
            else:
                bar = text_bar(row.value.median, most)
            lines.append(f"  {row.name:<12}  {bar} {shown(row.value)}")
        return Chart("locks", title, to_svg(figure, "locks", title, said), said, "\n".join(lines))
