"""The report: its arithmetic, its answer, and what it shows. The runs here are made up."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from madeup import FILES, a_run, everything, of_a_condition, rounds, some_results
from rich.console import Console

from locklane_bench import report
from locklane_bench.report import table, wording
from locklane_bench.report.answer import answer, main_chart
from locklane_bench.report.ceiling import shares
from locklane_bench.report.summary import Spread, spread, summarise, tie, times_as_fast
from locklane_bench.results import Condition, ProxyCheck, Results, read

EIGHT = Condition(concurrency=8, files=1000)
BARE = replace(EIGHT, server="bare")
FAR = Condition(rtt_ms=100.0, files=50)


def usual() -> Results:
    """Long poll twice as fast in every round but one; bytes; a ceiling."""
    return some_results(
        [
            *rounds("websocket", 500, 400, 450, 420, 480),
            *rounds("longpoll", 1000, 800, 900, 840, 1440),
            *rounds("longpoll", 2000, 1000, 1000, 1050, 1600, at=BARE),
            *rounds("websocket", 100, via="relay"),
            *rounds("longpoll", 100, via="relay"),
        ]
    )


def said(results: Results) -> str:
    return " ".join(answer(results, summarise(results)))


# Figures


def test_spread_is_median_least_and_greatest() -> None:
    assert spread([5, 1, 3, None, float("nan")]) == Spread(3, 1, 5, 3)
    assert spread([4, 1, 3, 2]) == Spread(2.5, 1, 4, 4)
    assert spread([None]) is None
    assert spread([]) is None


def test_figures_are_medians_over_rounds_per_dropped_file() -> None:
    figures = summarise(usual()).at(EIGHT, "longpoll")
    assert figures is not None
    rate = figures.drops_per_s
    assert rate is not None
    assert (rate.median, rate.low, rate.high) == pytest.approx((900, 800, 1440))
    assert rate.rounds == 5
    assert figures.connections == Spread(0.008, 0.008, 0.008, 5)
    assert figures.files == 5000
    percentiles = [figures.p50_ms, figures.p90_ms, figures.p99_ms, figures.max_ms]
    # 8 at a time, 900 per second: 8.89 ms, and from 0.8 to 1.2 of it.
    assert [each.median for each in percentiles if each] == pytest.approx(
        [8000 / 900 * share for share in (1.0, 1.16, 1.196, 1.2)]
    )
    assert figures.client_cpu_ms == Spread(0.5, 0.5, 0.5, 5)
    assert figures.server_cpu_ms == Spread(0.25, 0.25, 0.25, 5)
    assert figures.requests == Spread(2, 2, 2, 5)
    assert figures.round_trips == Spread(2, 2, 2, 5)
    assert figures.memory_kib == Spread(51200, 51200, 51200, 5)
    assert figures.tls_full is None


def test_without_a_distance_bytes_come_from_relay_runs_and_times_from_direct_ones() -> None:
    runs = [a_run("longpoll", 1000), a_run("longpoll", 10, via="relay")]
    figures = summarise(some_results(runs)).at(EIGHT, "longpoll")
    assert figures is not None
    assert figures.drops_per_s == Spread(1000, 1000, 1000, 1)
    assert figures.bytes_up == Spread(600, 600, 600, 1)
    assert figures.bytes_down == Spread(300, 300, 300, 1)


def test_over_a_distance_relay_runs_give_times_too() -> None:
    figures = summarise(some_results([a_run("longpoll", 10, at=FAR, via="relay")])).at(
        FAR, "longpoll"
    )
    assert figures is not None
    assert figures.drops_per_s == Spread(10, 10, 10, 1)
    assert figures.bytes_up == Spread(600, 600, 600, 1)


def test_handshakes_are_counted_per_file_where_there_is_tls() -> None:
    at = replace(EIGHT, tls=True)
    figures = summarise(some_results([a_run("websocket", 100, at=at)])).at(at, "websocket")
    assert figures is not None
    assert figures.tls_full == Spread(0.008, 0.008, 0.008, 1)
    assert figures.tls_resumed == Spread(0.992, 0.992, 0.992, 1)


def test_conditions_that_differ_in_distance_alone_are_one_line_whatever_their_files() -> None:
    runs = [
        *rounds("longpoll", 900, at=EIGHT),
        *rounds("longpoll", 90, at=replace(EIGHT, rtt_ms=20.0, files=200), via="relay"),
        *rounds("longpoll", 700, at=replace(EIGHT, tls=True)),
        *rounds("longpoll", 300, at=replace(EIGHT, concurrency=1)),
    ]
    lines = summarise(some_results(runs)).lines()
    assert [(each.setting.tls, each.setting.concurrency) for each in lines] == [
        (False, 1),
        (False, 8),
        (True, 8),
    ]
    assert [(rtt, at.files) for rtt, at in lines[1].by_rtt.items()] == [(0.0, 1000), (20.0, 200)]


def test_ratio_is_of_runs_in_the_same_round() -> None:
    summary = summarise(usual())
    one, other = summary.at(EIGHT, "longpoll"), summary.at(EIGHT, "websocket")
    assert one is not None
    assert other is not None
    ratio = times_as_fast(one, other)
    assert ratio is not None
    # The ratio of the medians is the same here; of the extremes it would be 1440/400.
    assert (ratio.median, ratio.low, ratio.high) == pytest.approx((2, 2, 3))
    assert not tie(one, other)


def test_a_round_that_only_one_has_is_in_no_ratio() -> None:
    runs = [*rounds("websocket", 500, 500), *rounds("longpoll", 1000, 1000, 4000)]
    one, other = summarise(some_results(runs)).under(EIGHT)[::-1]
    ratio = times_as_fast(one, other)
    assert ratio is not None
    assert ratio.rounds == 2


def test_share_of_the_ceiling_is_round_by_round() -> None:
    summary = summarise(usual())
    ((at, name, share),) = shares(summary)
    assert (at, name) == (EIGHT, "longpoll")
    assert share is not None
    # 0.5, 0.8, 0.9, 0.8, 0.9; the medians alone would have said 900/1050.
    assert (share.median, share.low, share.high) == pytest.approx((0.8, 0.5, 0.9))
    assert "bare" not in {each.condition.server for each in summary.figures}


def test_a_run_that_dropped_nothing_is_left_out_and_said() -> None:
    runs = [a_run("longpoll", 1000), a_run("longpoll", 1, number=2, files=0, failures=7)]
    results = some_results(runs)
    summary = summarise(results)
    assert summary.empty_runs == 1
    assert summary.figures[0].failures == 7
    text = " ".join(wording.cautions(results, summary))
    assert "7 of 1,007 drops failed (longpoll, 8 at a time, RTT 0, plain: 7)" in text
    assert "1 run dropped nothing: left out of the figures." in text


# Ranking and ties


def test_the_fastest_is_alone_if_it_was_faster_in_every_round() -> None:
    runs = [
        *rounds("websocket", 500, 600, 200),
        *rounds("longpoll", 650, 800, 250),
        *rounds("duplex", 640, 790, 240),
    ]
    rank = summarise(some_results(runs)).rank(EIGHT)
    assert rank is not None
    assert [each.transport for each in rank.order] == ["longpoll", "duplex", "websocket"]
    assert rank.best == ["longpoll"]


def test_who_was_once_as_fast_as_the_fastest_ties_with_it_and_the_rest_does_not() -> None:
    runs = [
        *rounds("websocket", 500, 600, 700),
        *rounds("longpoll", 900, 940, 990),
        *rounds("duplex", 910, 930, 995),
    ]
    rank = summarise(some_results(runs)).rank(EIGHT)
    assert rank is not None
    assert rank.best == ["longpoll", "duplex"]


def test_over_a_distance_the_median_drop_decides_and_near_by_the_drops_per_second() -> None:
    """Few files far away: opening connections weighs in the rate as it does not for more."""
    opens_more = {"p50_ms": 100.0}, (5.0, 5.1)
    waits_more = {"p50_ms": 150.0}, (6.0, 6.1)
    for at, best in ((FAR, "pipeline"), (EIGHT, "longpoll")):
        runs = []
        for name, (latency, rates) in (("pipeline", opens_more), ("longpoll", waits_more)):
            via = "relay" if at.rtt_ms else "direct"
            runs += rounds(name, *rates, at=at, via=via, **latency)
        summary = summarise(some_results(runs))
        rank = summary.rank(at)
        assert rank is not None
        assert rank.best == [best]
        one, other = summary.at(at, best), rank.order[1]
        assert one is not None
        ratio = times_as_fast(one, other)
        assert ratio is not None
        assert ratio.median == pytest.approx(1.5 if at is FAR else 1.2, rel=0.01)


def test_under_a_rate_latency_decides() -> None:
    results = some_results([a_run("longpoll", 100), a_run("duplex", 99, p50_ms=3.0)])
    results = replace(results, settings=replace(results.settings, rate=100.0))
    rank = summarise(results).rank(EIGHT)
    assert rank is not None
    assert rank.best == ["duplex"]
    # The p99, not the p50: in a hundred of duplex there are two that are slow.
    runs = [replace(run, latency_ms=sorted(run.latency_ms)) for run in results.runs]
    runs[1] = replace(runs[1], latency_ms=[*runs[1].latency_ms[:-20], *[500.0] * 20])
    rank = summarise(replace(results, runs=runs)).rank(EIGHT)
    assert rank is not None
    assert [each.transport for each in rank.order] == ["longpoll", "duplex"]
    assert rank.best == ["longpoll"]


# Numbers as text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.0, "1.000"),
        (0.008, "0.008"),
        (0.032, "0.032"),
        (1 / 300, "0.00333"),
        (1.0002, "1.0002"),
        (0.00001, "0.00001"),
        (0.0, "0.000"),
        (2.5, "2.500"),
    ],
)
def test_connections_are_written_exactly(value: float, text: str) -> None:
    assert wording.exact(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.4123, "0.412"),
        (4.123, "4.12"),
        (41.23, "41.2"),
        (412.3, "412"),
        (4123.4, "4,123"),
        (99.97, "100"),
        (9.997, "10.0"),
        (0.9999, "1.00"),
        (0.00123, "0.0012"),
    ],
)
def test_three_digits(value: float, text: str) -> None:
    assert wording.number(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (3.21, "3.21 s"),
        (120, "2 min"),
        (250.4, "4 min 10 s"),
        (5999.9, "1 h 40 min"),
        (100_000, "27 h 47 min"),
        (3600 * 71.999, "3 days"),
        (86_400 * 11.5, "11 days 12 h"),
    ],
)
def test_durations_have_two_units_at_most(seconds: float, text: str) -> None:
    assert wording.duration(seconds) == text


def test_a_ratio_near_one_is_not_written_as_one() -> None:
    assert wording.times_form(1.004) == "1.004"
    assert wording.times_form(2.0) == "2.00"


# The answer


def test_answer_without_a_distance_speaks_of_round_trips_and_the_fastest() -> None:
    assert answer(usual(), summarise(usual())) == [
        "No distance was measured, over which round trips decide: longpoll waits for 2 round trips "
        "per dropped file (websocket 3 round trips).",
        "Near by, 8 at a time, longpoll is the fastest: 900 (800–1,440) files per second; it is "
        "2.00 (2.00–3.00) times as fast as the next, websocket.",
        "What comes with it: longpoll opens 0.008 connections per file (8 at a time) and does not "
        "let its client know that the hold is live, which websocket does (17.8 ms per file).",
    ]


def test_answer_when_the_other_is_faster() -> None:
    runs = [*rounds("websocket", 1000, 1200, 1500), *rounds("longpoll", 500, 300, 500)]
    text = said(some_results(runs))
    # 2, 4 and 3 round by round.
    assert "websocket is the fastest: 1,200 (1,000–1,500) files per second" in text
    assert "it is 3.00 (2.00–4.00) times as fast as longpoll." in text
    assert "websocket opens 1.000 connections per file (8 at a time) and lets its client" in text
    assert text.endswith("git-annex's own client speaks longpoll only.")


def test_answer_when_neither_is_faster_in_every_round_is_a_tie() -> None:
    runs = [*rounds("websocket", 500, 600, 700), *rounds("longpoll", 650, 540, 700)]
    text = said(some_results(runs))
    assert (
        "Near by, 8 at a time, longpoll and websocket tie as the fastest: longpoll 650 (540–700) "
        "and websocket 600 (500–700) files per second." in text
    )
    assert "times as fast" not in text


def distant(fast: str, *, tls: str | None = None) -> Results:
    """``fast`` takes one round trip where the others take two; with TLS, ``tls`` does."""
    runs = [*rounds("longpoll", 1000, 1000), *rounds("pipeline", 900, 900)]
    for secure in (False, True) if tls else (False,):
        at = replace(FAR, tls=secure)
        for name in ("longpoll", "pipeline"):
            one = name == (tls if secure else fast)
            rate = 10.0 if one else 5.0
            runs += rounds(name, rate, rate * 1.01, at=at, via="relay")
    return some_results(runs)


def test_answer_over_a_distance_names_the_best_its_time_and_how_much_faster_it_is() -> None:
    first, second, third = answer(distant("pipeline"), summarise(distant("pipeline")))
    assert first == (
        "Over a distance take pipeline: at an RTT of 100 ms, one at a time, a dropped file takes "
        "99.5 (99.0–100) ms and waits for 1 round trip, because it does not wait for the unlock "
        "to be confirmed; it is 2.00 times as fast as "
        "longpoll, which waits for 2 round trips."
    )
    assert second.startswith("Near by, 8 at a time, longpoll is the fastest: 1,000 files per")
    assert "pipeline opens 0.008 connections per file (8 at a time)" in third
    assert "longpoll opens" in third


def test_round_trips_of_the_answer_are_those_of_the_line_where_most_files_were_dropped() -> None:
    """Far away, what opens connections falls to few files."""
    runs = distant("pipeline").runs
    runs += rounds("pipeline", 900, 900, at=replace(FAR, rtt_ms=0.0, files=1000))
    runs = [
        replace(run, client=replace(run.client, round_trips=run.client.round_trips + 25))
        if run.condition == FAR
        else run
        for run in runs
    ]
    first = answer(some_results(runs), summarise(some_results(runs)))[0]
    assert "and waits for 1 round trip, because" in first
    # Of longpoll there is no nearer run of one at a time: (2 × 50 + 25) / 50.
    assert first.endswith("longpoll, which waits for 2.5 round trips.")


def test_answer_over_a_distance_when_the_baseline_is_the_best() -> None:
    first = answer(distant("longpoll"), summarise(distant("longpoll")))[0]
    assert first.startswith("Over a distance take longpoll:")
    assert "it is 2.00 times as fast as the next, pipeline, which waits for 1 round trip" in first


def test_what_does_not_hold_behind_a_proxy_is_never_the_best_there() -> None:
    """However fast a file is dropped: it is not what a lock is for."""
    behind = replace(FAR, rtt_ms=0.0, proxy="nginx")
    runs = [*rounds("pipeline", 900, 900, at=behind), *rounds("duplex", 300, 300, at=behind)]
    check = ProxyCheck("nginx", "pipeline", True, False, True, False, None, None)
    held = summarise(some_results(runs)).rank(behind)
    unheld = summarise(some_results(runs, proxies=[check])).rank(behind)
    assert held is not None
    assert held.best == ["pipeline"]
    assert unheld is not None
    assert unheld.best == ["duplex"]


def test_the_star_of_a_time_goes_by_that_time() -> None:
    """Not by drops per second, into which goes what the client does between two drops."""
    at = replace(FAR, rtt_ms=0.0)
    runs = [
        *rounds("longpoll", 900, 910, at=at, p50_ms=2.0),
        *rounds("duplex", 800, 810, at=at, p50_ms=1.0),
    ]
    summary = summarise(some_results(runs))
    by_rate, by_time = summary.rank(at), summary.rank(at, by_p50=True)
    assert by_rate is not None
    assert by_time is not None
    assert (by_rate.best, by_time.best) == (["longpoll"], ["duplex"])


def test_answer_over_a_distance_of_ties() -> None:
    runs = [
        *rounds("longpoll", 5.0, 5.1, at=FAR, via="relay"),
        *rounds("multiplex", 10.0, 10.4, at=FAR, via="relay"),
        *rounds("pipeline", 10.2, 10.1, at=FAR, via="relay"),
    ]
    first = answer(some_results(runs), summarise(some_results(runs)))[0]
    assert first.startswith(
        "Over a distance take multiplex and pipeline, which tie: at an RTT of 100 ms, one at a "
        "time, a dropped file takes 98.1 (96.2–100) ms with multiplex and 98.5 (98.0–99.0) ms with "
        "pipeline; multiplex is "
    )
    assert "times as fast as longpoll" in first


@pytest.mark.parametrize(
    ("tls", "end"),
    [("pipeline", "; with TLS it is the same."), ("longpoll", "; with TLS, longpoll.")],
)
def test_answer_says_whether_tls_changes_it(tls: str, end: str) -> None:
    results = distant("pipeline", tls=tls)
    assert answer(results, summarise(results))[0].endswith(end)


def test_answer_of_everything_has_three_sentences_with_proxies_in_the_last() -> None:
    results = everything(2)
    sentences = answer(results, summarise(results))
    assert len(sentences) == 3
    assert sentences[0].startswith("Over a distance take pipeline: at an RTT of 100 ms")
    assert "64 at a time, multiplex is the fastest" in sentences[1]
    assert (
        "pipeline opens 0.213 connections per file (64 at a time), does not hold behind nginx"
        in (sentences[2])
    )


def test_answer_of_one_transport_compares_nothing() -> None:
    text = said(some_results(rounds("longpoll", 1000, 1100)))
    assert "no other transport was measured" in text
    assert "times as fast" not in text
    text = said(some_results(rounds("longpoll", 5, at=FAR, via="relay")))
    assert text.startswith("At an RTT of 100 ms, one at a time, longpoll took")


def test_answer_under_a_rate_is_of_latency() -> None:
    runs = [
        a_run(name, 400, number=number, p50_ms=p50_ms)
        for name, latencies in (
            ("websocket", (5.0, 5.2)),
            ("longpoll", (5.1, 5.1)),
            ("duplex", (10.0, 10.2)),
        )
        for number, p50_ms in enumerate(latencies, 1)
    ]
    results = some_results(runs)
    results = replace(results, settings=replace(results.settings, rate=400.0))
    text = said(results)
    assert (
        "Near by, 8 at a time, with 400 drops due per second, 99 of 100 drops ended within "
        "6.10 (5.98–6.22) ms with websocket, 6.10 ms with longpoll and 12.1 (12.0–12.2) ms with "
        "duplex; websocket and longpoll tie." in text
    )
    assert "times as fast" not in text


def test_answer_without_figures() -> None:
    assert said(some_results([])) == "No run gave a figure: there is no answer."
    assert said(some_results(rounds("longpoll", 9, via="relay"))) == (
        "No run gave times: there is no answer."
    )


# What to be told first


def test_asked_for_but_not_there() -> None:
    results = usual()
    results = replace(
        results, settings=replace(results.settings, transports=["longpoll", "duplex"])
    )
    cautions = wording.cautions(results, summarise(results))
    assert "Asked for, but without a run to show: duplex." in cautions


def test_few_rounds_are_said() -> None:
    results = some_results(rounds("longpoll", 9))
    (caution,) = wording.cautions(results, summarise(results))
    assert caution.startswith("Only 1 round where 5 are the least to rely on: there is no spread")


def test_locks_that_git_annex_left_and_locks_that_could_not_be_held_are_said() -> None:
    results = everything(5)
    assert wording.cautions(results, summarise(results)) == [
        "Over duplex, 8,123 of the 10,000 locks that were wanted at once were held: no descriptor "
        "was left."
    ]
    drops = [replace(each, locks_left=2) for each in results.annex_drops[:1]]
    results = replace(results, annex_drops=drops, idle=[])
    assert wording.cautions(results, summarise(results)) == [
        "git-annex left 2 locks behind. That is a fault."
    ]


def test_many_failures_are_summed_up() -> None:
    runs = [
        a_run("longpoll", 9, at=replace(EIGHT, concurrency=each), failures=1)
        for each in range(1, 8)
    ]
    results = some_results(runs)
    text = wording.cautions(results, summarise(results))[0]
    assert text.startswith("7 of 7,007 drops failed (longpoll, one at a time")
    assert "and in 3 other conditions)" in text


# The main table, the main chart, the terminal


def test_main_table_has_distances_the_highest_concurrency_and_the_best_marked() -> None:
    shown = table.main_table(summarise(everything(2)))
    assert shown is not None
    assert shown.head == [
        "Transport",
        "Connections per file",
        "Round trips per file",
        *(f"ms per file, RTT {each}" for each in ("0", "20 ms", "100 ms")),
        "the same, TLS, RTT 100 ms",
        "Files per s, 64 at a time",
        "Server CPU ms per file",
    ]
    assert [row[0].main for row in shown.rows] == [
        *("longpoll", "websocket", "pipeline", "multiplex", "duplex")
    ]
    best = {row[0].main for row in shown.rows if row[5].best}
    assert best == {"pipeline"}
    assert str(shown.rows[2][5]).startswith("★ 10")
    assert shown.rows[1][1].main == "1.000"


def test_main_table_of_one_condition_is_small() -> None:
    shown = table.main_table(summarise(usual()))
    assert shown is not None
    assert [str(cell) for cell in shown.rows[1]] == [
        *("longpoll", "0.008", "2", "★ 8.89", "★ 900", "0.250")
    ]


def test_main_chart_has_a_panel_for_each_distance_with_values_written_and_tls_as_a_mark() -> None:
    chart = main_chart(summarise(everything(2)))
    assert chart is not None
    assert [line for line in chart.text.splitlines() if line.startswith("RTT")] == [
        "RTT 0",
        "RTT 20 ms",
        "RTT 100 ms",
    ]
    assert "with TLS" in chart.text
    assert ">with TLS<" in chart.svg
    assert chart.text.count("★") == 3
    small = main_chart(summarise(usual()))
    assert small is not None
    assert small.title == "Milliseconds per dropped file, 8 at a time, plain"
    assert "TLS" not in small.svg


def terminal(results: Results) -> str:
    stream = io.StringIO()
    Console(file=stream, width=100, color_system=None).print(table.terminal_table(results))
    return stream.getvalue()


def test_terminal_table_fits_and_cuts_nothing() -> None:
    at = replace(EIGHT, concurrency=10_000)
    far = replace(at, rtt_ms=100.0)
    fast = [
        *rounds("websocket", 12_345.6, 23_456.7, 34_567.8, at=at),
        *rounds("longpoll", 12_345.6, 23_456.7, 34_567.8, at=at),
        *rounds("multiplex", 12_345.6, 23_456.7, 34_567.8, at=at, via="relay"),
        *rounds("multiplex", 12_345.6, 23_456.7, 34_567.8, at=far, via="relay"),
        *rounds("multiplex", 12_345.6, 23_456.7, at=replace(far, tls=True), via="relay"),
    ]
    shown = terminal(some_results([*usual().runs, *fast]))
    assert max(map(len, shown.splitlines())) <= 100
    assert "…" not in shown
    rows = [" ".join(line.split()) for line in shown.splitlines()]
    assert "longpoll ★ 0 8 0.008 900 (800–1,440) 8.89 / 10.6 600 / 300 0.250" in rows
    assert "23,457 (12,346–34,568)" in shown
    assert "TLS" in rows
    assert "8 at a time, RTT 0, plain 80%" in shown


def test_terminal_table_has_a_line_for_each_transport_and_condition_of_the_matrix() -> None:
    shown = terminal(everything(1))
    lines = [line for line in shown.splitlines() if line.split()[:1] == ["duplex"]]
    assert len(lines) == 18


# The raw files


def test_json_round_trip(tmp_path: Path) -> None:
    for results in (usual(), everything(1)):
        assert Results.from_json(results.to_json()) == results
        report.write(results, tmp_path)
        assert read(tmp_path) == results
        assert read(tmp_path / "results.json") == results


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"format": 2}',
        '{"format": 1}',
        json.dumps({**json.loads(usual().to_json()), "settings": {"files": 1}}),
        json.dumps({**json.loads(usual().to_json()), "runs": [{"server": "locklane"}]}),
        json.dumps({**json.loads(usual().to_json()), "unheard": 1}),
    ],
)
def test_bad_json_is_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - the message is the reader's own
        Results.from_json(text)


def test_csv_has_one_row_per_run(tmp_path: Path) -> None:
    report.write(usual(), tmp_path)
    with (tmp_path / "results.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 17
    assert list(rows[0]) == [
        *("part", "server", "proxy", "tls", "rtt_ms", "concurrency", "files_wanted"),
        *("think_time_s", "transport", "via", "round", "files", "failures", "wall_s"),
        *("server_connections", "server_tls_full", "server_tls_resumed", "kernel_connections"),
        *("client_cpu_ms", "server_cpu_ms", "server_peak_memory_kib", "server_peak_descriptors"),
        "time_wait",
        *("client_connections", "client_requests", "client_messages", "client_round_trips"),
        *("client_tls_full", "client_tls_resumed"),
        *("relay_connections", "relay_bytes_up", "relay_bytes_down", "relay_requests"),
        *("p50_ms", "p90_ms", "p99_ms", "max_ms"),
    ]
    assert float(rows[0]["p50_ms"]) == 16.0  # 8 at a time, 500 per second
    assert float(rows[0]["p99_ms"]) == pytest.approx(1.196 * 16)
    assert rows[0]["relay_bytes_up"] == ""
    assert rows[-1]["relay_bytes_up"] == "600000"


def test_the_made_up_conditions_are_what_the_tests_say() -> None:
    runs = of_a_condition("pipeline", Condition(rtt_ms=100.0, files=FILES))
    assert {run.via for run in runs} == {"relay"}
    assert all(95 < run.percentile_ms(50) < 110 for run in runs)
    # Handshake and confirmation: two round trips beside one for each file.
    for run in runs:
        assert run.wall_s * 1000 == pytest.approx(FILES * run.percentile_ms(50) + 203)


def test_a_distance_that_was_measured_with_many_at_a_time_only_is_spoken_of() -> None:
    far = replace(EIGHT, rtt_ms=50.0, files=100)
    runs = []
    for name, rate in (("longpoll", 10), ("pipeline", 20)):
        runs += rounds(name, 100, at=replace(EIGHT, concurrency=1))
        runs += rounds(name, 500, at=EIGHT)
        runs += rounds(name, rate, at=far, via="relay")
    results = some_results(runs)
    assert said(results).startswith(
        "Over a distance take pipeline: at an RTT of 50 ms, 8 at a time"
    )
    shown = table.main_table(summarise(results))
    assert shown is not None
    assert "ms per file, RTT 50 ms" in shown.head


def test_time_per_file_is_the_median_drops_whatever_the_run_took() -> None:
    for at, via in ((EIGHT, "direct"), (FAR, "relay")):
        runs = rounds("longpoll", 5, 50, 500, at=at, via=via, p50_ms=7.0)
        figures = summarise(some_results(runs)).at(at, "longpoll")
        assert figures is not None
        assert figures.ms_per_file == Spread(7.0, 7.0, 7.0, 3)
    # Users who drop one file after the other: 8 at a time take 8 / rate.
    figures = summarise(usual()).at(EIGHT, "longpoll")
    assert figures is not None
    assert figures.ms_per_file is not None
    assert figures.ms_per_file.median == pytest.approx(8000 / 900)


def test_main_table_says_what_its_time_is() -> None:
    shown = table.main_table(summarise(usual()))
    assert shown is not None
    assert "Time per file is the median drop’s" in shown.notes[0]
