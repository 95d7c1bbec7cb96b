"""``locklane advise``: the ranking, and what it says beside it."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st
from simulated import FIVE, LONGPOLL, WEBSOCKET, conditions, results_of, simulate

from locklane_bench import advise as module
from locklane_bench.advise import advice_from, advise, duration
from locklane_bench.results import ProxyCheck, Results, write


def check(transport: str, **how: object) -> ProxyCheck:
    works = ProxyCheck(
        proxy="nginx",
        transport=transport,
        drops=True,
        hold_arrives=True,
        client_told=None,
        loss_told=True,
        idle_s=70.0,
        idle_survives=True,
    )
    return replace(works, **how)  # type: ignore[arg-type]


CHECKS = [
    check("longpoll", hold_arrives=False, client_told=False),
    check("websocket", idle_survives=False),
    check("multiplex"),
    check("duplex", drops=False),
]


@pytest.fixture(scope="module")
def full() -> Results:
    return results_of(simulate(FIVE, conditions(tls=(False, True))), proxies=CHECKS)


@pytest.fixture(scope="module")
def report(full: Results, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("report")
    list(write(full, directory))
    return directory


def run(*words: str) -> Result:
    return CliRunner().invoke(advise, words)


def test_the_ranking_has_times_connections_and_reasons(report: Path) -> None:
    said = run(*("--rtt", "80", "--tls", "--files", "100000", "--concurrency", "4", str(report)))
    assert said.exit_code == 0, said.output
    lines = said.output.splitlines()
    assert lines[0] == (
        "Dropping 100,000 files, 4 at a time, over a round trip of 80 ms, with TLS:"
    )
    ranked = [line.split() for line in lines if line.strip()[:2] in ("1 ", "2 ", "3 ", "4 ", "5 ")]
    assert ranked[0][1] == "pipeline"
    assert " ".join(ranked[0][2:6]).startswith("33 min")
    assert ranked[4][1:6] == ["websocket", "2", "h", "13", "min"]
    assert "100,000" in ranked[4]
    assert "4.0 round trips per file" in said.output
    assert "None of this was measured" in said.output
    assert "duplex, multiplex and longpoll tie" in said.output
    assert "\x1b" not in said.output


def test_what_was_measured_is_told_from_predictions(report: Path, full: Results) -> None:
    assert "All of this was measured" in run("--rtt", "20", str(report)).output
    runs = [
        each for each in full.runs if each.transport == "longpoll" or each.condition.rtt_ms != 20
    ]
    mixed = advice_from(replace(full, runs=runs), rtt_ms=20, files=100, concurrency=8, tls=False)
    assert "Measured: longpoll. The others are predictions of the model." in mixed.notes


def test_a_results_file_does_as_well_as_its_directory(report: Path) -> None:
    one = run("--rtt", "20", "--json", str(report))
    other = run("--rtt", "20", "--json", str(report / "results.json"))
    assert json.loads(one.stdout)["ranking"] == json.loads(other.stdout)["ranking"]


def test_programs_get_the_same_as_json(report: Path) -> None:
    said = json.loads(run("--rtt", "20", "--concurrency", "8", "--json", str(report)).stdout)
    assert said["asked"] == {
        "rtt_ms": 20.0,
        "tls": False,
        "files": 1000,
        "concurrency": 8,
        "behind": None,
    }
    assert said["ranking"][0]["transport"] == "pipeline"
    assert said["ranking"][-1]["connections"] == 1000
    assert all(each["measured"] for each in said["ranking"])


def test_behind_a_proxy_what_does_not_work_there_is_left_out(report: Path) -> None:
    said = json.loads(run("--rtt", "20", "--behind", "nginx", "--json", str(report)).stdout)
    assert {each["transport"] for each in said["ranking"]} == {"pipeline", "multiplex", "websocket"}
    assert said["left_out"] == {
        "longpoll": "behind nginx its hold never reaches the server, and the client is not told",
        "duplex": "behind nginx no file could be dropped with it",
    }
    notes = " ".join(said["notes"])
    assert "Not tried behind nginx: pipeline." in notes
    assert "a hold of websocket that was left alone for 70 s was cut" in notes
    assert "without a proxy" in notes


def test_a_proxy_that_was_not_tried_is_named_with_those_that_were(report: Path) -> None:
    said = run("--behind", "caddy", str(report))
    assert said.exit_code == 1
    assert "nothing was tried behind 'caddy'; the results have nginx" in said.output


def test_nothing_works_behind_a_proxy_and_that_is_said(full: Results) -> None:
    none = [check(each.name, drops=False) for each in FIVE]
    found = advice_from(
        replace(full, proxies=none), rtt_ms=20, files=1, concurrency=1, tls=False, behind="nginx"
    )
    assert found.ranking == []
    assert "No transport that was measured works behind nginx." in found.notes


def test_ties_are_neighbours_whose_ranges_overlap() -> None:
    apart = results_of(simulate([LONGPOLL, WEBSOCKET], conditions()))
    asked = {"rtt_ms": 20, "files": 1000, "concurrency": 8, "tls": False}
    assert advice_from(apart, **asked).ties == []  # type: ignore[arg-type]
    twins = [LONGPOLL, replace(LONGPOLL, name="twin"), WEBSOCKET]
    together = advice_from(
        results_of(simulate(twins, conditions(), noise=0.05)),
        **asked,  # type: ignore[arg-type]
    )
    assert [sorted(each) for each in together.ties] == [["longpoll", "twin"]]


def test_a_transport_without_runs_is_named(full: Results) -> None:
    runs = [each for each in full.runs if each.transport != "duplex"]
    found = advice_from(replace(full, runs=runs), rtt_ms=20, files=9, concurrency=1, tls=False)
    assert "do not say" in found.left_out["duplex"]


def test_without_an_argument_the_newest_comparison_counts_but_the_reference_last(
    full: Results, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "REFERENCE", tmp_path / "elsewhere" / "reference")
    said = run()
    assert said.exit_code == 1
    assert "run 'locklane compare --preset quick'" in said.output

    def put(directory: str, seconds: int) -> None:
        raw, _ = write(full, tmp_path / directory)
        os.utime(raw, (seconds, seconds))

    put("elsewhere/reference", 9)
    assert json.loads(run("--json").stdout)["results"].endswith("elsewhere/reference/results.json")
    put("reports/reference", 9)
    assert json.loads(run("--json").stdout)["results"] == "reports/reference/results.json"
    put("reports/old", 1)
    put("reports/new", 2)
    assert json.loads(run("--json").stdout)["results"] == "reports/new/results.json"
    other = tmp_path / "reports" / "another-format"
    other.mkdir()
    (other / "results.json").write_text('{"format": "peer-2"}', encoding="utf-8")
    assert json.loads(run("--json").stdout)["results"] == "reports/new/results.json"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"format": 1}', "not a results file of format 2"),
        ("[]", "not a results file of format 2"),
        ("no JSON", "is of no use here"),
        ('{"format": 2}', "not a whole results file"),
    ],
)
def test_a_file_that_is_none_is_refused_in_a_sentence(
    tmp_path: Path, content: str, said: str
) -> None:
    path = tmp_path / "results.json"
    path.write_text(content, encoding="utf-8")
    answer = run(str(path))
    assert answer.exit_code == 1
    assert said in answer.output
    assert "locklane compare" in answer.output


def test_a_missing_file_and_missing_runs_are_said_in_sentences(report: Path) -> None:
    gone = run(str(report / "nothing"))
    assert gone.exit_code == 1
    assert "No such file or directory" in gone.output
    plain = results_of(simulate([LONGPOLL], conditions()))
    list(write(plain, report / "plain"))
    said = run("--tls", str(report / "plain"))
    assert said.exit_code == 1
    assert "no run was made with TLS: 'locklane compare --preset quick' makes them" in said.output


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.0413, "0.041 s"),
        (0.9, "0.9 s"),
        (0.999, "1.0 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.7, "1 min"),
        (250, "4 min 10 s"),
        (3599.8, "1 h"),
        (7980, "2 h 13 min"),
        (86399, "1 d"),
        (360_000, "4 d 4 h"),
    ],
)
def test_durations_are_said_as_people_do(seconds: float, said: str) -> None:
    assert duration(seconds) == said


@given(st.floats(0.001, 1e8))
def test_a_duration_is_never_far_from_what_it_says(seconds: float) -> None:
    sizes = {"s": 1, "min": 60, "h": 3600, "d": 86400}
    words = duration(seconds).replace(",", "").split()
    told = sum(
        float(count) * sizes[unit] for count, unit in zip(words[::2], words[1::2], strict=True)
    )
    assert told == pytest.approx(seconds, rel=0.06)
    assert "60 s" not in duration(seconds)
    assert "60 min" not in duration(seconds)
