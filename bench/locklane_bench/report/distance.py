"""Distance: latency as a + b × RTT with its check, and what it predicts."""

from __future__ import annotations

from locklane_bench.model import Fit, fits, predict
from locklane_bench.report.curves import Series, curve_chart
from locklane_bench.report.drawing import Chart
from locklane_bench.report.matrix import views_of
from locklane_bench.report.section import Section, Table, beside, section
from locklane_bench.report.summary import Summary
from locklane_bench.report.wording import (
    UNKNOWN,
    Cell,
    at_a_time,
    duration,
    manner,
    number,
    percent,
    plural,
    whole,
)
from locklane_bench.results import Condition, Results

PREDICTED_FILES = 1_000_000
PREDICTED_RTT_MS = 100.0

_WHAT = (
    "The latency of a drop is fitted as a + b × RTT: a is what client and server need, b how many "
    "round trips a drop waits for. The fit is checked at a distance that was not used for it. "
    "Where drops queue for a busy client or server, latency is no longer a matter of distance "
    "alone: the line is then drawn through those that do not queue."
)


def distance_section(results: Results, summary: Summary) -> Section | None:
    """The model."""
    found = fits(results)
    if not found:
        return None
    settings = dict.fromkeys((each.tls, each.concurrency) for each in found)
    tables = [_table([each for each in found if each.tls is tls], tls) for tls in (False, True)]
    charts = [
        _chart([each for each in found if (each.tls, each.concurrency) == setting], summary)
        for setting in settings
        if setting[1] == min(concurrency for tls, concurrency in settings if tls is setting[0])
    ]
    return section("Over a distance", _WHAT, _verdict(found), *beside(charts), *tables)


def _verdict(found: list[Fit]) -> str:
    checked = [each for each in found if each.error is not None]
    if not checked:
        return "No distance was left to check the fit with: that takes three."
    worst = max(checked, key=lambda each: abs(each.error or 0))
    within = [each for each in checked if abs(each.error or 0) <= 0.05]
    return (
        f"Of {plural(len(checked), 'check')}, {len(within):,} came within 5% of what was measured; "
        f"the worst, {worst.transport} {at_a_time(worst.concurrency)} "
        f"{'with TLS' if worst.tls else 'without TLS'}, was {_signed(worst.error)} off."
    )


def _signed(error: float | None) -> str:
    if error is None:
        return UNKNOWN
    shown = percent(abs(error))
    return shown if shown == "0.0%" else f"{'+' if error > 0 else '−'}{shown}"


def _table(found: list[Fit], tls: bool) -> Table | None:
    if not found:
        return None
    concurrencies = sorted({each.concurrency for each in found})
    groups = [
        [
            [
                Cell(each.transport),
                Cell(number(each.a_ms)),
                Cell(f"{each.b:.2f}"),
                Cell(", ".join(f"{rtt:g}" for rtt in each.fitted_at)),
                Cell(UNKNOWN if each.checked_at is None else f"{each.checked_at:g}"),
                Cell(UNKNOWN if each.expected_ms is None else number(each.expected_ms)),
                _measured(each),
                Cell(_signed(each.error)),
            ]
            for each in found
            if each.concurrency == concurrency
        ]
        for concurrency in concurrencies
    ]
    return Table(
        f"The model, {'TLS' if tls else 'plain'}: latency = a + b × RTT",
        [
            *("Transport", "a, ms", "b", "Fitted at RTT ms", "Checked at RTT ms"),
            *("Model says ms", "Measured ms", "Off by"),
        ],
        groups,
        headings=[at_a_time(each).capitalize() for each in concurrencies],
    )


def _measured(each: Fit) -> Cell:
    if each.measured_ms is None:
        return Cell(UNKNOWN)
    low, high = each.measured_low_ms, each.measured_high_ms
    spread = "" if low is None or high is None else f"{number(low)}–{number(high)}"
    return Cell(number(each.measured_ms), spread)


def _chart(found: list[Fit], summary: Summary) -> Chart | None:
    tls, concurrency = found[0].tls, found[0].concurrency
    line = next(
        (
            line
            for view in views_of(summary)
            for line in view
            if (line.setting.tls, line.setting.concurrency) == (tls, concurrency)
            and line.setting.proxy is None
            and not line.setting.think_time_s
        ),
        None,
    )
    if line is None:
        return None
    series = []
    for each in found:
        points = []
        for rtt, at in line.by_rtt.items():
            figures = summary.at(at, each.transport)
            if figures and figures.p50_ms:
                points.append((rtt, figures.p50_ms.median))
        if points:
            first, last = points[0][0], points[-1][0]
            steps = [first + (last - first) * step / 40 for step in range(41)]
            series.append(
                Series(
                    each.transport,
                    summary.transports.index(each.transport),
                    points,
                    [(rtt, max(each.latency_ms(rtt), 0.0)) for rtt in steps],
                    frozenset() if each.checked_at is None else frozenset({each.checked_at}),
                )
            )
    if not series:
        return None
    return curve_chart(
        f"model-{'tls' if tls else 'plain'}-{concurrency}",
        f"Latency over distance, {at_a_time(concurrency)}, {manner(line.setting)}",
        series,
        ("round-trip time, ms", "ms per dropped file"),
        log=False,
        hollow="hollow: the check, not used for the line",
    )


def predictions_section(results: Results, summary: Summary) -> Section | None:
    """What dropping very many files would take: computed, not measured."""
    settings = list(
        dict.fromkeys(
            (line.setting.tls, line.setting.concurrency)
            for view in views_of(summary)
            for line in (view[0], view[-1])
        )
    )
    tables = [_prediction(results, *setting) for setting in settings]
    if not any(tables):
        return None
    return section(
        f"Predictions: {PREDICTED_FILES:,} files at {PREDICTED_RTT_MS:g} ms",
        f"Predicted, not measured: nobody dropped {PREDICTED_FILES:,} files. The times follow from "
        "the model and from the highest rate that was measured; low and high are what its rounds "
        "and its error allow.",
        *tables,
    )


def _prediction(results: Results, tls: bool, concurrency: int) -> Table | None:
    try:
        found = predict(
            results,
            rtt_ms=PREDICTED_RTT_MS,
            files=PREDICTED_FILES,
            concurrency=concurrency,
            tls=tls,
        )
    except ValueError:
        return None
    if not found:
        return None
    at = Condition(tls=tls)
    return Table(
        f"Predicted: {at_a_time(concurrency)}, {manner(at)}",
        ["Transport", "Time", "Low to high", "Connections", "Why"],
        [
            [
                [
                    Cell(each.transport),
                    Cell(f"≈ {duration(each.seconds)}"),
                    Cell(f"{duration(each.low_s)} to {duration(each.high_s)}"),
                    Cell(whole(each.connections)),
                    Cell(each.why),
                ]
                for each in found
            ]
        ],
        words=True,
    )
