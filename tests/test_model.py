"""The model of the benchmark, held against a simulation of which everything is known."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from simulated import (
    FIVE,
    LONGPOLL,
    MULTIPLEX,
    PIPELINE,
    WEBSOCKET,
    Simulated,
    conditions,
    results_of,
    simulate,
)

from locklane_bench.model import Fit, Prediction, fits, predict
from locklane_bench.results import Condition, Results, Run

BY_NAME = {transport.name: transport for transport in FIVE}


@pytest.fixture(scope="module")
def full() -> Results:
    """Five transports over 0, 20 and 100 ms, with TLS and without, 1, 8 and 64 at a time."""
    return results_of(simulate(FIVE, conditions(tls=(False, True))))


def fit_of(results: Results, transport: str, concurrency: int, tls: bool = False) -> Fit:
    wanted = (transport, concurrency, tls)
    return next(
        each for each in fits(results) if (each.transport, each.concurrency, each.tls) == wanted
    )


def said_of(
    results: Results,
    transport: str,
    *,
    rtt_ms: float = 20,
    files: int = 5000,
    concurrency: int = 8,
    tls: bool = False,
) -> Prediction:
    ranking = predict(results, rtt_ms=rtt_ms, files=files, concurrency=concurrency, tls=tls)
    return next(each for each in ranking if each.transport == transport)


# The line and its check


def test_a_line_is_fitted_for_each_transport_and_concurrency_and_checked_in_the_middle(
    full: Results,
) -> None:
    found = fits(full)
    assert len(found) == 5 * 2 * 3
    for each in found:
        assert each.fitted_at == [0, 100]
        assert each.checked_at == 20
        assert each.error is not None
        assert abs(each.error) < 0.05, each


@pytest.mark.parametrize("concurrency", [1, 8, 64])
def test_the_line_has_the_round_trips_and_the_work_that_went_in(
    full: Results, concurrency: int
) -> None:
    found = fit_of(full, "websocket", concurrency)
    assert found.b == pytest.approx(3, rel=0.03)
    assert found.a_ms == pytest.approx(WEBSOCKET.own_ms + WEBSOCKET.work_ms, rel=0.05)
    assert fit_of(full, "websocket", concurrency, tls=True).b == pytest.approx(4, rel=0.03)


def test_waiting_for_each_other_is_not_taken_for_distance(full: Results) -> None:
    """64 at a time without distance wait 64 times the server's work."""
    found = fit_of(full, "longpoll", 64)
    assert found.floor_ms == pytest.approx(64 * LONGPOLL.work_ms, rel=0.05)
    assert found.a_ms < 1.0
    assert found.latency_ms(0) == found.floor_ms
    assert found.latency_ms(50) == pytest.approx(101, rel=0.03)
    assert fit_of(full, "longpoll", 1).floor_ms is None


def test_a_model_that_is_wrong_says_so() -> None:
    curved = replace(LONGPOLL, curve=0.05)  # 0.05 × 100² ms: no line
    found = fit_of(results_of(simulate([curved], conditions())), "longpoll", 1)
    assert found.error is not None
    assert found.error > 0.5
    prediction = said_of(
        results_of(simulate([curved], conditions())), "longpoll", rtt_ms=50, concurrency=1
    )
    assert prediction.high_s > 1.5 * prediction.seconds


def test_two_distances_make_a_line_without_a_check() -> None:
    found = fit_of(results_of(simulate([LONGPOLL], conditions(rtts=(0, 20)))), "longpoll", 8)
    assert (found.fitted_at, found.checked_at) == ([0, 20], None)
    assert found.expected_ms is found.measured_ms is found.error is None
    assert found.b == pytest.approx(2, rel=0.05)


def test_one_distance_makes_no_line() -> None:
    assert fits(results_of(simulate([LONGPOLL], conditions(rtts=(0,))))) == []


def test_what_was_made_for_another_part_of_the_report_is_not_fitted() -> None:
    runs = simulate([LONGPOLL], conditions())
    for change in (
        {"part": "think"},
        {"proxy": "nginx"},
        {"think_time_s": 0.05},
        {"server": "p2phttp"},
    ):
        others = [replace(run, condition=replace(run.condition, **change)) for run in runs]
        assert fits(results_of(others)) == [], change
    settings = replace(results_of(runs).settings, rate=100.0)
    assert fits(results_of(runs, settings=settings)) == []


@given(
    a=st.floats(0.1, 50),
    b=st.floats(0.5, 6),
    rtts=st.lists(st.integers(0, 500), min_size=2, max_size=6, unique=True),
)
def test_any_line_is_found_again(a: float, b: float, rtts: list[int]) -> None:
    exact = Simulated("longpoll", b, own_ms=a, work_ms=0.0)
    made = results_of(simulate([exact], conditions(rtts, [1], files=30), rounds=1, noise=0.0))
    found = fit_of(made, "longpoll", 1)
    assert found.a_ms == pytest.approx(a, abs=1e-6 * (a + b * max(rtts)))
    assert found.b == pytest.approx(b, rel=1e-6, abs=1e-6)
    assert len(found.fitted_at) == (len(rtts) if len(rtts) == 2 else len(rtts) - 1)
    assert found.checked_at is None or min(rtts) < found.checked_at < max(rtts)
    assert found.error is None or abs(found.error) < 1e-6


# Predictions


@pytest.mark.parametrize(
    ("rtt_ms", "concurrency", "tls", "files"),
    [
        (50, 4, True, 5000),
        (5, 64, False, 5000),  # held back by the server
        (5, 8, False, 5000),
        (0, 16, True, 5000),
        (200, 128, False, 5000),  # beyond all that was measured
        (20, 8, False, 10),
        (100, 64, True, 100),
        (60, 64, False, 65),  # two laps
    ],
)
def test_a_prediction_comes_near_what_the_simulation_then_takes(
    full: Results, rtt_ms: float, concurrency: int, tls: bool, files: int
) -> None:
    """Until the last file is dropped: that its unlock is confirmed then is no part of it."""
    ranking = predict(full, rtt_ms=rtt_ms, files=files, concurrency=concurrency, tls=tls)
    assert {each.transport for each in ranking} == set(BY_NAME)
    assert [each.seconds for each in ranking] == sorted(each.seconds for each in ranking)
    for each in ranking:
        condition = Condition(rtt_ms=rtt_ms, concurrency=concurrency, tls=tls, files=files)
        transport = BY_NAME[each.transport]
        run = transport.run(condition)
        dropped_s = run.wall_s - transport.last_s(rtt_ms)
        assert each.seconds == pytest.approx(dropped_s, rel=0.08), each
        assert each.connections == run.client.connections
        assert each.low_s <= each.seconds <= each.high_s


def runs_of(results: Results, transport: str, condition: Condition) -> list[Run]:
    found = [
        run for run in results.runs if (run.transport, run.condition) == (transport, condition)
    ]
    assert len(found) == 3
    return found


def test_what_was_measured_near_by_is_used_as_it_is(full: Results) -> None:
    runs = runs_of(full, "duplex", Condition(concurrency=8, files=600))
    said = said_of(full, "duplex", rtt_ms=0, files=600)
    assert said.measured
    assert [said.low_s, said.seconds, said.high_s] == pytest.approx(
        sorted(run.wall_s for run in runs)
    )


def test_near_by_what_a_user_does_between_two_drops_counts() -> None:
    """Latency does not have it, the run's time does."""
    runs = simulate([LONGPOLL], conditions(rtts=(0,), concurrencies=(1,)))
    halved = [replace(run, latency_ms=[ms / 2 for ms in run.latency_ms]) for run in runs]
    for rounds in (runs, halved):
        said = said_of(results_of(rounds), "longpoll", rtt_ms=0, concurrency=1, files=600)
        assert [said.low_s, said.seconds, said.high_s] == pytest.approx(
            sorted(run.wall_s for run in runs)
        )


def test_over_a_distance_the_median_drop_that_was_measured_is_what_each_takes(
    full: Results,
) -> None:
    runs = runs_of(full, "duplex", Condition(rtt_ms=20.0, concurrency=8, files=600))
    said = said_of(full, "duplex", files=600)
    assert said.measured
    # A connection's handshake, and 75 drops of each user.
    assert [said.low_s, said.seconds, said.high_s] == pytest.approx(
        sorted(0.020 + 75 * run.percentile_ms(50) / 1000 for run in runs)
    )
    assert said.seconds == pytest.approx(sorted(run.wall_s for run in runs)[1], rel=0.005)


def test_only_the_very_condition_counts_as_measured(full: Results) -> None:
    assert said_of(full, "longpoll", rtt_ms=20, concurrency=8, tls=True).measured
    assert not said_of(full, "longpoll", rtt_ms=21, concurrency=8).measured
    assert not said_of(full, "longpoll", rtt_ms=20, concurrency=9).measured


def test_a_drop_of_the_pipeline_is_one_round_trip(full: Results) -> None:
    assert fit_of(full, "pipeline", 1).b == pytest.approx(1, rel=0.03)
    said = said_of(full, "pipeline", rtt_ms=50, concurrency=1, files=1000)
    assert said.seconds == pytest.approx(51, rel=0.03)
    assert said.why == "1.0 round trips per file"


@pytest.mark.parametrize("rtt_ms", [50, 100])
def test_what_comes_before_the_first_drop_and_after_the_last_is_not_paid_for_each_file(
    rtt_ms: float,
) -> None:
    """Two drops of each user take four round trips with the handshake and the confirmation."""
    few = results_of(simulate([PIPELINE], conditions(concurrencies=(1, 8), files=16)))
    run = runs_of(few, "pipeline", Condition(rtt_ms=100.0, concurrency=8, files=16))[0]
    assert run.wall_s == pytest.approx(0.4, rel=0.03)
    said = said_of(few, "pipeline", rtt_ms=rtt_ms, concurrency=8, files=8000)
    many = PIPELINE.run(Condition(rtt_ms=rtt_ms, concurrency=8, files=8000))
    assert said.seconds == pytest.approx(many.wall_s, rel=0.03)


def test_the_reason_is_the_distance_or_the_server_or_the_work(full: Results) -> None:
    assert said_of(full, "longpoll", rtt_ms=50).why == "2.0 round trips per file"
    assert re.fullmatch(
        r"(3\.[01]|2\.9) round trips per file and a new connection for each",
        said_of(full, "websocket", rtt_ms=50).why,
    )
    held = said_of(full, "longpoll", rtt_ms=5, concurrency=64).why
    assert held.startswith("held back by the server: 3,3")
    assert held.endswith(" drops/s at the most")
    measured = said_of(full, "longpoll", rtt_ms=0, concurrency=64).why
    assert measured.startswith("held back by the server: 3,3")
    assert said_of(full, "longpoll", rtt_ms=0, concurrency=1).why.endswith(" ms per file")


def test_beyond_what_was_measured_the_reason_says_so(full: Results) -> None:
    far = said_of(full, "longpoll", rtt_ms=101)
    assert not far.measured
    assert far.why.endswith("; extrapolated from 0 to 100 ms")
    many = said_of(full, "longpoll", rtt_ms=150, concurrency=65)
    assert many.why.endswith("; extrapolated from 0 to 100 ms and 1 to 64 at a time")
    assert "extrapolated" not in said_of(full, "longpoll", rtt_ms=99, concurrency=63).why
    few = results_of(simulate([LONGPOLL], conditions(rtts=(20, 100), concurrencies=(8,))))
    assert said_of(few, "longpoll", rtt_ms=5, concurrency=1).why.endswith(
        "extrapolated from 20 to 100 ms and 8 at a time"
    )


def test_without_a_run_that_queues_the_processor_time_bounds_the_rate() -> None:
    alone = results_of(simulate([LONGPOLL], conditions(concurrencies=(1,))))
    said = said_of(alone, "longpoll", rtt_ms=0, concurrency=64, files=10_000)
    assert said.seconds == pytest.approx(10 * LONGPOLL.work_ms, rel=0.05)
    assert re.search(r"the processor, of which a drop takes 0\.(29|30)\d* ms", said.why)


@pytest.mark.parametrize(
    ("transport", "expected"), [(WEBSOCKET, 9000), (LONGPOLL, 16), (MULTIPLEX, 1)]
)
def test_connections_are_told_from_the_counts_and_not_from_the_name(
    transport: Simulated, expected: int
) -> None:
    made = results_of(simulate([replace(transport, name="anything")], conditions()))
    assert said_of(made, "anything", files=9000, concurrency=16).connections == expected


def test_users_without_a_file_open_no_connection(full: Results) -> None:
    assert said_of(full, "longpoll", files=3, concurrency=64).connections == 3


def test_one_distance_is_enough_for_that_distance() -> None:
    near = results_of(simulate([LONGPOLL, WEBSOCKET], conditions(rtts=(0,))))
    assert not said_of(near, "longpoll", rtt_ms=0, concurrency=3).measured
    with pytest.raises(ValueError, match=r"only those at 0 ms: 'locklane compare --rtt 0,80'"):
        said_of(near, "longpoll", rtt_ms=80)


def test_a_transport_of_which_the_runs_do_not_say_it_is_left_out() -> None:
    runs = simulate([LONGPOLL], conditions()) + simulate([PIPELINE], conditions(rtts=(0,)))
    ranking = predict(results_of(runs), rtt_ms=50, files=10, concurrency=1, tls=False)
    assert [each.transport for each in ranking] == ["longpoll"]


def without_drops(run: Run) -> Run:
    return replace(run, files=0, latency_ms=[])


def test_what_is_missing_is_said_in_a_sentence() -> None:
    runs = simulate([LONGPOLL], conditions())
    with pytest.raises(ValueError, match=r"no run to go by.*locklane compare --preset quick"):
        said_of(results_of([]), "longpoll")
    with pytest.raises(ValueError, match="no run to go by"):
        said_of(results_of([without_drops(run) for run in runs]), "longpoll")
    with pytest.raises(ValueError, match=r"no run was made with TLS: 'locklane compare"):
        said_of(results_of(runs), "longpoll", tls=True)
    settings = replace(results_of(runs).settings, rate=100.0)
    with pytest.raises(ValueError, match="without --rate"):
        said_of(results_of(runs, settings=settings), "longpoll")
    for wrong in ({"rtt_ms": -1.0}, {"rtt_ms": float("nan")}, {"files": 0}, {"concurrency": 0}):
        with pytest.raises(ValueError, match="ask for"):
            said_of(results_of(runs), "longpoll", **wrong)  # type: ignore[arg-type]


@given(
    rtt_ms=st.floats(0, 2000),
    files=st.integers(1, 10**7),
    concurrency=st.integers(1, 5000),
    tls=st.booleans(),
)
def test_every_answer_makes_sense(
    full: Results, rtt_ms: float, files: int, concurrency: int, tls: bool
) -> None:
    for each in predict(full, rtt_ms=rtt_ms, files=files, concurrency=concurrency, tls=tls):
        assert 0 < each.low_s <= each.seconds <= each.high_s < float("inf")
        assert 1 <= each.connections <= max(files, concurrency)
        assert each.why
        more = said_of(
            full, each.transport, rtt_ms=rtt_ms, files=2 * files, concurrency=concurrency, tls=tls
        )
        assert more.seconds >= each.seconds
