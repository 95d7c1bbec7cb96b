"""``locklane report``: two comparisons held against each other, and a report written anew."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st
from simulated import (
    FIVE,
    LONGPOLL,
    MULTIPLEX,
    PIPELINE,
    WEBSOCKET,
    conditions,
    results_of,
    simulate,
)

from locklane_bench.contrast import Difference, Opposite, Ratio, difference
from locklane_bench.difference import condition_words, opposites, report, sentences
from locklane_bench.results import Condition, Results, Run, write

NEAR = conditions(rtts=(0,), concurrencies=(8,))


def rated(name: str, *rates: float, condition: Condition = NEAR[0]) -> list[Run]:
    """Rounds of a transport with these drops per second."""
    made = replace(LONGPOLL, name=name).run(condition)
    return [
        replace(made, round=number, wall_s=made.files / rate)
        for number, rate in enumerate(rates, 1)
    ]


def held(a: list[Run], b: list[Run]) -> Difference:
    return difference(results_of(a), results_of(b))


def text(found: Difference) -> str:
    return " ".join(sentences(found))


def put(results: Results, directory: Path) -> str:
    list(write(results, directory))
    return str(directory)


def run(*words: str) -> Result:
    return CliRunner().invoke(report, words)


# Figures


def test_a_ratio_is_b_over_a_with_the_widest_range_of_the_rounds() -> None:
    found = held(rated("x", 90, 100, 110), rated("x", 190, 200, 240))
    ratio = found.lines[0].speed
    assert ratio is not None
    assert (ratio.median, ratio.low, ratio.high) == pytest.approx((2, 190 / 110, 240 / 90))
    assert not ratio.tie
    assert "In 1 of 1 lines the drops per second" in text(found)


def test_overlapping_rounds_are_a_tie() -> None:
    found = held(rated("x", 90, 100, 110), rated("x", 109, 120, 130))
    assert found.lines[0].speed is not None
    assert found.lines[0].speed.tie
    assert "In 0 of 1 lines" in text(found)


@given(
    st.lists(st.floats(1, 1e4), min_size=1, max_size=5),
    st.lists(st.floats(1, 1e4), min_size=1, max_size=5),
)
def test_turned_round_a_ratio_is_the_reciprocal(a: list[float], b: list[float]) -> None:
    forward = held(rated("x", *a), rated("x", *b)).lines[0].speed
    back = held(rated("x", *b), rated("x", *a)).lines[0].speed
    assert isinstance(forward, Ratio)
    assert isinstance(back, Ratio)
    assert forward.low <= forward.median <= forward.high
    assert back.median == pytest.approx(1 / forward.median)
    assert back.low == pytest.approx(1 / forward.high)


def test_connections_bytes_and_processor_time_are_held_against_each_other() -> None:
    place = conditions(rtts=(20,), concurrencies=(8,))
    heavy = replace(LONGPOLL, per="file", work_ms=0.6)
    a, b = simulate([LONGPOLL], place, noise=0.0), simulate([heavy], place, noise=0.0)
    doubled = [
        replace(each, relay=replace(each.relay, bytes_up=each.relay.bytes_up + 1000 * each.files))
        for each in b
        if each.relay
    ]
    line = held(a, doubled).lines[0]
    assert line.connections == pytest.approx((8 / 600, 1))
    assert line.bytes_ is not None
    assert line.bytes_.median == 2
    assert line.server_cpu is not None
    assert line.server_cpu.median == pytest.approx(2)


def test_what_one_of_them_could_not_observe_is_left_open() -> None:
    a = rated("x", 100, 110)
    b = [replace(each, server_cpu_ms=None) for each in a]
    line = held(a, b).lines[0]
    assert line.server_cpu is None
    assert line.bytes_ is None
    assert line.speed is not None


def test_over_a_distance_the_number_of_files_may_differ() -> None:
    a = rated("x", 100, condition=Condition(rtt_ms=20, files=500))
    b = rated("x", 100, condition=Condition(rtt_ms=20, files=450))
    relayed = [[replace(each, via="relay") for each in runs] for runs in (a, b)]
    assert len(held(*relayed).lines) == 1
    several = [*a, *rated("x", 100, condition=Condition(rtt_ms=20, files=450))]
    assert [each.condition.files for each in held(several, several).lines] == [500, 450]


def test_what_only_one_of_them_has_is_counted_and_left_out() -> None:
    found = held(rated("x", 1) + rated("y", 1), rated("y", 1) + rated("z", 1) + rated("w", 1))
    assert [each.transport for each in found.lines] == ["y"]
    assert found.only_in == (1, 2)
    nothing = held(rated("x", 1), rated("y", 1))
    assert "nothing can be compared" in text(nothing)


def test_with_a_rate_latency_is_compared() -> None:
    def paced(runs: list[Run]) -> Results:
        made = results_of(runs)
        return replace(made, settings=replace(made.settings, rate=50.0))

    slow = [replace(each, latency_ms=[2 * ms for ms in each.latency_ms]) for each in rated("x", 1)]
    found = difference(paced(rated("x", 1)), paced(slow))
    assert found.rate
    assert found.lines[0].speed is not None
    assert found.lines[0].speed.median == pytest.approx(2)
    with pytest.raises(ValueError, match="one was made with --rate"):
        difference(results_of(slow), paced(slow))


# Ranking


def test_the_same_ranking_is_said_to_be_the_same() -> None:
    a = rated("x", 100, 110, 120) + rated("y", 90, 100, 110)  # slower in each round
    b = rated("x", 50, 60) + rated("y", 40, 45)
    found = held(a, b)
    assert (found.ranked, found.undecided, found.opposites) == (1, 0, [])
    assert "rank the transports the same: none of 1 pair" in text(found)


def test_opposite_rankings_are_named() -> None:
    a = rated("x", 100, 110) + rated("y", 90, 100)
    b = rated("x", 90, 100) + rated("y", 100, 110)
    found = held(a, b)
    assert found.opposites == [Opposite(Condition(concurrency=8, files=0), "x", "y")]
    assert "of 1 pair that both rank, 1 ranked in opposite directions" in text(found)
    assert opposites(found) == [
        "matrix: 8 at a time, 0 ms: A has x before y, B the other way round."
    ]


def test_a_pair_that_one_of_them_does_not_rank_is_in_no_opposite_direction() -> None:
    a = rated("x", 100, 110) + rated("y", 90, 100)
    b = rated("x", 90, 100) + rated("y", 100, 99)  # each was faster once
    found = held(a, b)
    assert (found.ranked, found.undecided, found.opposites) == (0, 1, [])
    assert "no pair of transports that both rank" in text(found)
    assert "1 pair not ranked" in text(found)


def test_only_runs_that_give_times_rank() -> None:
    a = rated("x", 100, 110) + rated("y", 90, 100)
    relayed = [replace(each, via="relay", wall_s=each.wall_s * 9) for each in rated("x", 100, 110)]
    assert held(a, a + relayed).opposites == []


def test_two_comparisons_of_the_same_transports_rank_them_the_same() -> None:
    apart = [replace(LONGPOLL), WEBSOCKET, PIPELINE, replace(MULTIPLEX, trips=1.5)]
    a = results_of(simulate(apart, conditions(), noise=0.01))
    b = results_of(simulate(apart, conditions(files=500), noise=0.01))
    found = difference(a, b)
    assert found.opposites == []
    assert found.conditions == 9


# Circumstances


def test_what_else_differs_is_listed() -> None:
    a = results_of(rated("x", 1))
    a = replace(a, settings=replace(a.settings, preset=None))
    grid = replace(a.settings.grids[0], rtt_ms=[0, 50])
    b = replace(
        a,
        settings=replace(a.settings, rounds=7, grids=[grid]),
        machine={**a.machine, "cores": "4"},
        versions={"aiohttp": "4"},
    )
    found = difference(a, b)
    assert found.settings == [
        ("rounds", "1", "7"),
        ("matrix: rtt ms", "0, 20, 100", "0, 50"),
    ]
    assert found.machine == [("cores", "2", "4")]
    assert found.versions == [("locklane", "0.1.0", "–"), ("aiohttp", "–", "4")]
    same = difference(a, a)
    assert same.settings == same.machine == same.versions == []


def test_a_preset_stands_for_its_conditions() -> None:
    a = results_of(rated("x", 1))
    grid = replace(a.settings.grids[0], rtt_ms=[0, 50])
    b = replace(a, settings=replace(a.settings, preset="full", grids=[grid]))
    assert difference(a, b).settings == [("preset", "quick", "full")]


def test_a_condition_is_said_with_all_that_is_unusual() -> None:
    unusual = Condition(
        part="proxies",
        proxy="nginx",
        tls=True,
        rtt_ms=20,
        concurrency=8,
        files=0,
        think_time_s=0.05,
    )
    assert condition_words(unusual) == (
        "proxies: 8 at a time, 20 ms, TLS, behind nginx, held 50 ms"
    )
    assert condition_words(Condition(server="bare")) == (
        "matrix: 1 at a time, 0 ms, ceiling, 1,000 files"
    )


# The command


@pytest.fixture
def two(tmp_path: Path) -> tuple[str, str]:
    """Two comparisons; in the second the pipeline has become slow."""
    a = results_of(simulate(FIVE, conditions(rtts=(0, 20))))
    slow = [replace(each, trips=4) if each is PIPELINE else each for each in FIVE]
    b = results_of(simulate(slow, conditions(rtts=(0, 20))), versions={"locklane": "<0.2|0>"})
    return put(a, tmp_path / "a"), put(b, tmp_path / "b")


def test_the_terminal_gets_ratios_and_verdicts(two: tuple[str, str]) -> None:
    said = run(*two)
    assert said.exit_code == 0, said.output
    assert "matrix: 8 at a time, 20 ms" in said.output
    assert "B slower" in said.output
    assert "Versions differ: locklane: 0.1.0 → <0.2|0>" in said.output
    assert "The two rank the transports differently" in said.output
    assert "\x1b" not in said.output


def test_the_status_tells_whether_the_ranking_is_the_same(two: tuple[str, str]) -> None:
    assert run(two[0], two[0], "--same-ranking").exit_code == 0
    assert run(*two).exit_code == 0
    assert run(*two, "--same-ranking").exit_code == 1


def test_nothing_to_rank_is_not_the_same_ranking(tmp_path: Path) -> None:
    one, other = (
        put(results_of(rated(name, 1)), tmp_path / name) for name in ("longpoll", "websocket")
    )
    assert run(one, other).exit_code == 0
    assert run(one, other, "--same-ranking").exit_code == 1


def test_the_page_and_the_text_have_the_same_figures(two: tuple[str, str], tmp_path: Path) -> None:
    said = run(*two, "--report", str(tmp_path / "out"))
    assert said.exit_code == 0, said.output
    page = (tmp_path / "out" / "difference.html").read_text(encoding="utf-8")
    plain = (tmp_path / "out" / "difference.md").read_text(encoding="utf-8")
    for shown in (page, plain):
        assert "8 at a time, 20 ms" in shown
        assert "The two rank the transports differently" in shown
        assert "locklane compare --preset quick" in shown
        assert "B slower" in shown
        assert "20 ms: A has pipeline before longpoll, B the other way round" in shown
    assert "&lt;0.2|0&gt;" in page
    assert "<0.2|0>" not in page
    assert r"\<0.2\|0\>" in plain


def test_one_report_alone_is_written_anew(tmp_path: Path) -> None:
    where = put(results_of(simulate(FIVE, conditions())), tmp_path / "a")
    said = run(where)
    assert said.exit_code == 0, said.output
    page = tmp_path / "a" / "report.html"
    assert "longpoll" in page.read_text(encoding="utf-8")
    page.unlink()
    elsewhere = tmp_path / "b"
    assert run(f"{where}/results.json", "--report", str(elsewhere)).exit_code == 0
    assert (elsewhere / "report.html").exists()
    assert not page.exists()


def test_mistakes_are_said_in_sentences(two: tuple[str, str], tmp_path: Path) -> None:
    alone = run(two[0], "--same-ranking")
    assert alone.exit_code == 2
    assert "needs two reports" in alone.output
    gone = run(two[0], str(tmp_path / "gone"))
    assert gone.exit_code == 1
    assert "cannot read" in gone.output
    old = tmp_path / "results.json"
    old.write_text('{"format": 1}', encoding="utf-8")
    assert "not a results file of format 2" in run(two[0], str(old)).output
    blocked = tmp_path / "file"
    blocked.write_text("", encoding="utf-8")
    assert run(*two, "--report", str(blocked / "below")).exit_code != 0
