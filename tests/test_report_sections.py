"""The sections of the report, each with what it says, both ways, and without what it is made of."""

from __future__ import annotations

from dataclasses import replace

import pytest
from madeup import FIVE, a_run, everything, of_a_condition, rounds, some_results

from locklane_bench.report import SECTIONS
from locklane_bench.report.ceiling import ceiling_section
from locklane_bench.report.costs import costs_section, spread_section
from locklane_bench.report.counts import agreement, counts_section, counts_table, handshakes_table
from locklane_bench.report.distance import distance_section, predictions_section
from locklane_bench.report.drawing import Chart
from locklane_bench.report.files import files_section
from locklane_bench.report.holds import holds_section
from locklane_bench.report.knowledge import knowledge_section
from locklane_bench.report.matrix import charts_section, matrix_section
from locklane_bench.report.method import grid_words, measured, missing_section, reading, settings
from locklane_bench.report.peers import drop_said, drop_table, peers_section, servers_table
from locklane_bench.report.ports import ports_section
from locklane_bench.report.proxies import checks_table, costs_tables, proxies_section
from locklane_bench.report.section import Beside, Section, Table
from locklane_bench.report.summary import summarise
from locklane_bench.report.think import think_section
from locklane_bench.results import Condition, Grid, Results

ALL = everything(3)
SUMMARY = summarise(ALL)
EIGHT = Condition(concurrency=8)


def tables(found: Section | None) -> list[Table]:
    assert found is not None
    made: list[Table] = []
    for part in found.parts:
        if isinstance(part, Table):
            made.append(part)
        elif isinstance(part, Beside):
            made += [each for each in part.parts if isinstance(each, Table)]
    return made


def charts(found: Section | None) -> list[Chart]:
    assert found is not None
    made: list[Chart] = []
    for part in found.parts:
        if isinstance(part, Chart):
            made.append(part)
        elif isinstance(part, Beside):
            made += [each for each in part.parts if isinstance(each, Chart)]
    return made


def text(found: Section | None) -> str:
    assert found is not None
    return " ".join(part for part in found.parts if isinstance(part, str))


def row(table: Table, name: str, place: int = 0) -> list[str]:
    return [[str(cell) for cell in row] for row in table.rows if row[0].main == name][place]


# The matrix


def test_matrix_has_a_table_for_each_view_with_distances_as_columns() -> None:
    found = tables(matrix_section(ALL, SUMMARY))
    assert [table.caption for table in found][:2] == [
        "Files dropped per second, plain",
        "Files dropped per second, TLS",
    ]
    for table in found:
        assert table.head == ["Transport", "RTT 0", "RTT 20 ms", "RTT 100 ms"]
        assert table.headings == ["One at a time", "8 at a time", "64 at a time"]
        assert [row[0].main for row in table.groups[0]] == FIVE


def test_each_condition_of_the_matrix_has_a_best_that_a_sign_marks() -> None:
    for table in tables(matrix_section(ALL, SUMMARY))[:2]:
        for group in table.groups:
            for column in (1, 2, 3):
                assert any(row[column].best for row in group)
    assert row(tables(matrix_section(ALL, SUMMARY))[0], "pipeline")[3].startswith("★ 9.")


def test_the_matrix_says_what_decides_who_is_best() -> None:
    near = some_results([*rounds("longpoll", 10, 20), *rounds("duplex", 11, 19)])
    paced = replace(ALL, settings=replace(ALL.settings, rate=400.0))
    for results, decides in (
        (ALL, "by drops per second, over a distance by its p50, or tied with it"),
        (near, "by drops per second, or tied with it"),
        (paced, "by its p99, or tied with it"),
    ):
        assert decides in text(matrix_section(results, summarise(results)))


def test_ratios_of_the_matrix_say_tie_in_a_word() -> None:
    runs = [*rounds("longpoll", 10, 20), *rounds("duplex", 11, 19), *rounds("pipeline", 30, 50)]
    results = some_results(runs)
    against = tables(matrix_section(results, summarise(results)))[2]
    assert against.caption == "Times as fast as longpoll in the same round, plain"
    assert row(against, "longpoll")[1] == "1"
    assert row(against, "duplex")[1] == "tie, 1.02 (0.95–1.10)"
    assert row(against, "pipeline")[1] == "2.75 (2.50–3.00)"


def test_one_transport_is_compared_with_nothing() -> None:
    results = some_results(rounds("longpoll", 10, 20))
    found = matrix_section(results, summarise(results))
    assert [table.caption for table in tables(found)] == [
        "Files dropped per second, plain",
        "Latency of a drop (p50), in ms, plain",
    ]
    assert "★" not in text(found)


def test_there_is_a_chart_for_each_line_with_the_ceiling_where_it_was_measured() -> None:
    drawn = charts(charts_section(ALL, SUMMARY))
    assert len(drawn) == 6
    assert len({chart.name for chart in drawn}) == 6
    assert "longpoll ceiling" in drawn[0].text
    assert "longpoll ceiling" not in drawn[3].text


# Distance


def test_model_finds_the_round_trips_that_were_put_in_and_is_checked() -> None:
    found = distance_section(ALL, SUMMARY)
    plain = tables(found)[0]
    assert plain.caption == "The model, plain: latency = a + b × RTT"
    for name, trips in (("pipeline", 1), ("longpoll", 2), ("websocket", 3)):
        assert float(row(plain, name)[2]) == pytest.approx(trips, rel=0.05)
        assert row(plain, name)[4] == "20"
    assert "Of 30 checks," in text(found)
    assert [chart.name for chart in charts(found)] == ["model-plain-1", "model-tls-1"]


def test_two_distances_make_a_model_without_a_check() -> None:
    runs = of_a_condition("longpoll", Condition(files=50)) + of_a_condition(
        "longpoll", Condition(files=50, rtt_ms=20.0)
    )
    results = some_results(runs)
    found = distance_section(results, summarise(results))
    assert "No distance was left to check the fit with" in text(found)
    assert row(tables(found)[0], "longpoll")[4:] == ["–"] * 4


def test_predictions_are_marked_as_predictions_and_sorted() -> None:
    found = predictions_section(ALL, SUMMARY)
    assert found is not None
    assert found.title == "Predictions: 1,000,000 files at 100 ms"
    assert text(found).startswith("Predicted, not measured")
    made = tables(found)
    assert [table.caption for table in made] == [
        "Predicted: one at a time, plain",
        "Predicted: 64 at a time, plain",
        "Predicted: one at a time, TLS",
        "Predicted: 64 at a time, TLS",
    ]
    assert made[0].rows[0][0].main == "pipeline"
    assert made[0].rows[0][1].main.startswith("≈ 2")
    assert row(made[0], "websocket")[3] == "1,000,000"


# Proxies


def test_proxy_table_says_in_words_what_works_and_what_does_not() -> None:
    table = checks_table(ALL, SUMMARY)
    assert table is not None
    assert table.head == ["Proxy", *FIVE, "longpoll-http2"]
    caddy, *_ = table.rows
    assert [str(cell) for cell in caddy] == [
        "Caddy, default forwarding",
        *["✓ works"] * 4,
        "✗ does not work",
        "–",
    ]
    nginx = row(table, "nginx, default forwarding")
    assert nginx[1] == "! not held: the hold never arrives; the client does not find out"
    assert nginx[3] == (
        "! not held: the hold never arrives; the client finds out if it holds for some seconds"
    )
    assert (
        "Caddy, default forwarding, duplex: the answer to lockcontent did not come in 10 s."
        in table.notes
    )


def test_proxy_that_nobody_knows_has_its_own_name() -> None:
    checks = [replace(each, proxy="squid") for each in ALL.proxies[:2]]
    results = replace(ALL, proxies=checks)
    table = checks_table(results, SUMMARY)
    assert table is not None
    assert table.rows[0][0].main == "squid"


def test_costs_behind_proxies_are_a_multiple_of_those_without() -> None:
    at = Condition(part="proxies", concurrency=8)
    runs = [
        a_run("longpoll", 10, at=at, p50_ms=2.0),
        a_run("longpoll", 10, at=replace(at, proxy="nginx"), p50_ms=5.0),
        a_run("longpoll-http2", 10, at=replace(at, proxy="caddy-http2"), p50_ms=4.0),
    ]
    (table,) = [each for each in costs_tables(summarise(some_results(runs))) if each]
    assert row(table, "nginx, default forwarding, plain")[1].endswith("(2.50 times)")
    # Over HTTP/2 there is nothing without a proxy: the same transport over HTTP/1.1 stands in.
    assert row(table, "Caddy, default forwarding, HTTP/2 in front, plain")[2].endswith(
        "(2.00 times)"
    )


def test_without_a_run_of_its_own_the_matrix_gives_the_costs_without_a_proxy() -> None:
    at = Condition(concurrency=8)
    runs = [
        a_run("longpoll", 10, at=at, p50_ms=2.0),
        a_run("longpoll", 10, at=replace(at, part="proxies", proxy="nginx"), p50_ms=3.0),
    ]
    (table,) = [each for each in costs_tables(summarise(some_results(runs))) if each]
    assert row(table, "nginx, default forwarding, plain")[1].endswith("(1.50 times)")


# What the client can know


def test_knowledge_is_in_the_words_of_the_transports() -> None:
    (table,) = tables(knowledge_section(ALL, SUMMARY))
    assert [cell.main for cell in table.rows[0][:2]] == ["longpoll", "lockcontent + keeplocked"]
    assert table.head[-2:] == ["Waits for the unlock?", "It knows"]
    assert {name: row(table, name)[-2] for name in FIVE} == {
        **dict.fromkeys(FIVE, "yes"),
        "pipeline": "no",
    }
    assert "retention ends a lock whose unlock is lost" in table.notes[0]
    assert row(table, "longpoll")[-1] == "that it was taken"
    assert row(table, "websocket")[-1].startswith("that it was taken, that its hold is live")


# Think time, files


def test_think_time_is_taken_off_the_time_per_file() -> None:
    at = Condition(part="think", concurrency=8)
    runs = [
        a_run("longpoll", 4000, at=at, p50_ms=2.0),
        a_run("longpoll", 8000 / 53, at=replace(at, think_time_s=0.05), p50_ms=53.0),
    ]
    results = some_results(runs)
    (table,) = tables(think_section(results, summarise(results)))
    assert table.head[1:3] == ["ms, no think time", "ms beyond 50 ms"]
    assert [float(each) for each in row(table, "longpoll")[1:3]] == pytest.approx(
        [2.0, 3.0], abs=0.06
    )


def test_cost_curve_is_time_per_file_by_number_of_files() -> None:
    runs = []
    for files, rate in ((10, 100.0), (100, 500.0), (1000, 1000.0)):
        runs += rounds("longpoll", rate, at=Condition(part="files", files=files, concurrency=8))
    results = some_results(runs)
    found = files_section(results, summarise(results))
    times, connections = tables(found)
    assert times.head == ["Transport", "10", "100", "1,000"]
    assert row(times, "longpoll")[1:] == ["10.0", "2.00", "1.00"]
    assert row(connections, "longpoll")[1:] == ["0.800", "0.080", "0.008"]
    assert len(charts(found)) == 1


# Holds, ports


def test_idle_holds_are_per_held_lock_and_those_not_held_are_said() -> None:
    found = holds_section(ALL, SUMMARY)
    assert "On longpoll, websocket, pipeline and multiplex all were; 8,123 on duplex" in text(found)
    (table,) = tables(found)
    assert row(table, "longpoll")[3:5] == ["31.0", "43.4"]
    assert row(table, "multiplex")[5] == "0.0001"
    idle = [replace(each, live=each.held - 3) for each in ALL.idle[:1]]
    some = text(holds_section(replace(ALL, idle=idle), SUMMARY))
    assert "The server said that it held live only 9,997 of 10,000 on longpoll." in some
    nothing = [replace(each, held=0, live=0) for each in ALL.idle[:1]]
    found = holds_section(replace(ALL, idle=nothing), SUMMARY)
    assert charts(found) == []
    assert row(tables(found)[0], "longpoll")[3] == "–"


def test_ports_say_who_keeps_them_and_how_soon_they_run_out() -> None:
    found = ports_section(ALL, SUMMARY)
    assert "With 200 ports, ports ran out for websocket after 200 files; the others" in text(found)
    measured_table, computed = tables(found)
    assert row(measured_table, "websocket")[-1] == "the client"
    assert row(measured_table, "longpoll")[-1] == "the server"
    # 28,232 ports over 60 s.
    assert row(computed, "websocket")[1:3] == ["1.000", "471"]
    rate = float(row(computed, "websocket")[3].replace(",", ""))
    kept = float(row(computed, "websocket")[4].replace(",", ""))
    assert kept == pytest.approx(rate * 60, rel=0.01)
    assert row(computed, "websocket")[5] == f"after {28_232 / rate:.1f} s"
    assert row(computed, "longpoll")[2] == "no bound"
    # Who closes first keeps TIME_WAIT: 1,000 files on a connection take so many times as long.
    assert computed.head[-1] == "Most files per s if the client closed first"
    assert row(computed, "websocket")[-1] == "471"
    assert row(computed, "longpoll")[-1] == "470,533"
    none = [replace(each, ran_out=False) for each in ALL.ports]
    assert "no transport ran out" in text(ports_section(replace(ALL, ports=none), SUMMARY))


# Peers


def test_servers_are_compared_round_by_round_with_git_annex() -> None:
    ours = Condition(part="peers", server="locklane-annex")
    theirs = replace(ours, server="p2phttp")
    runs = [
        *rounds("longpoll", 100, 200, at=theirs),
        *rounds("longpoll", 300, 1000, at=ours),
    ]
    summary = summarise(some_results(runs))
    table = servers_table(summary)
    assert table is not None
    assert row(table, "Locklane (a git-annex repository)")[-1] == "4.00 (3.00–5.00)"
    assert row(table, "git annex p2phttp")[-1] == "1"
    assert "was 4.00 (3.00–5.00) times as fast" in text(peers_section(some_results(runs), summary))


def test_git_annex_drop_is_per_file_and_a_lock_left_is_a_fault() -> None:
    table = drop_table(ALL)
    assert table is not None
    assert table.headings == ["git annex drop -J1", "git annex drop -J4"]
    assert row(table, "git annex p2phttp")[3:] == [
        *("2", "0.020", "2.010", "943", "391", "–"),
    ]
    assert "git-annex took 1,200 locks in 12 runs; none was left" in drop_said(ALL)[1]
    drops = [replace(each, locks_left=1) for each in ALL.annex_drops[:1]]
    assert "1 were left, which is a fault" in drop_said(replace(ALL, annex_drops=drops))[1]


def test_git_annex_drop_that_was_not_made_is_explained() -> None:
    results = some_results(
        rounds("longpoll", 1), missing={"git annex drop": "it is not our server"}
    )
    assert "Not measured: it is not our server." in text(peers_section(results, summarise(results)))


# The ceiling, costs, spread


def test_ceiling_is_there_or_its_absence_explained() -> None:
    at = Condition(concurrency=8, files=1000)
    runs = [
        *rounds("longpoll", 1000, 800, 900, 840, 1440, at=at),
        *rounds("longpoll", 2000, 1000, 1000, 1050, 1600, at=replace(at, server="bare")),
    ]
    results = some_results(runs)
    (table,) = tables(ceiling_section(results, summarise(results)))
    assert row(table, "longpoll")[2:] == [
        "1,050 (1,000–2,000)",
        "900 (800–1,440)",
        "80% (50%–90%)",
    ]
    results = some_results(rounds("longpoll", 1))
    assert "No run was made against the bare server" in text(
        ceiling_section(results, summarise(results))
    )


def test_foreign_server_has_dashes_and_a_footnote() -> None:
    at = Condition(server="external", concurrency=8)
    results = some_results([*rounds("websocket", 500, at=at), *rounds("longpoll", 1000, at=at)])
    results = replace(results, settings=replace(results.settings, url="annex+http://there/x"))
    table, *_ = tables(costs_section(results, summarise(results)))
    assert table.caption == "Costs of a dropped file, plain"
    assert any("cannot be seen from here" in note for note in table.notes)
    assert any("no run went through the relay" in note for note in table.notes)
    assert row(table, "longpoll")[8] == "–"
    assert agreement(results).startswith("Nothing to hold against each other: in all 2 runs only")


def test_spread_has_every_round() -> None:
    results = some_results(rounds("longpoll", 90, 100, 120))
    found = spread_section(results, summarise(results))
    assert "spans 30% of its median" in text(found)
    (table,) = tables(found)
    assert row(table, "longpoll") == ["longpoll", "90.0", "100", "120"]
    assert spread_section(some_results([]), summarise(some_results([]))) is None


# Do the counts agree?


def test_counts_agree() -> None:
    assert agreement(some_results(rounds("longpoll", 1, 2))) == "All 2 runs agree."
    assert agreement(ALL).startswith("All ")
    assert agreement(some_results([])) == "There are no runs."


def test_a_disagreement_that_nobody_named_is_seen_in_connections_and_in_handshakes() -> None:
    one, two, three = rounds("longpoll", 1, 2, 3, at=replace(EIGHT, tls=True))
    one = replace(one, kernel_connections=9)
    two = replace(two, server_tls_full=3)
    results = some_results([one, two, three])
    assert agreement(results).startswith(
        "The comparison named no disagreement, yet the counts of 2 runs of 3"
    )
    table = counts_table(results, summarise(results))
    assert table is not None
    assert row(table, "longpoll")[-1] == "1 of 3"
    named = replace(results, disagreements=["longpoll, round 1: client 8, kernel 9."])
    assert agreement(named) == "1 run of 3 disagree:"


def test_counts_are_added_up_by_transport_and_way_and_a_part_is_not_the_whole() -> None:
    one, two = rounds("longpoll", 1, 2, at=EIGHT)
    two = replace(two, server_connections=None)
    relayed = a_run("longpoll", 1, at=EIGHT, via="relay")
    bare = a_run("longpoll", 1, at=replace(EIGHT, server="bare"))
    results = some_results([one, two, relayed, bare])
    table = counts_table(results, summarise(results))
    assert table is not None
    assert row(table, "longpoll")[1:] == [
        *("plain", "direct", "2,000", "16", "–", "–", "16", "2 of 2"),
    ]
    assert row(table, "longpoll", 1)[1:] == [
        *("plain", "relay", "1,000", "8", "8", "8", "8", "1 of 1"),
    ]
    assert row(table, "longpoll (ceiling)")[4] == "8"


def test_handshakes_of_client_and_server_stand_side_by_side() -> None:
    results = some_results(rounds("websocket", 1, at=replace(EIGHT, tls=True)))
    table = handshakes_table(results, summarise(results))
    assert table is not None
    assert row(table, "websocket")[2:] == ["1,000", "8", "8", "992", "992", "0.008"]
    assert handshakes_table(some_results(rounds("websocket", 1)), SUMMARY) is None
    assert len(tables(counts_section(ALL, SUMMARY))) == 2


# Method


def test_settings_name_every_grid() -> None:
    said = dict(settings(ALL))
    assert said["Preset"] == "full"
    assert said["The matrix"] == (
        "300 files in each run, over a distance no more than take the slowest transport about "
        "20 s; 1, 8, 64 at a time; RTT 0, 20, 100 ms; plain and TLS"
    )
    assert said["Think time"].endswith("think time 0, 50 ms")
    assert said["Took"] == "36 min 51 s"
    assert (
        grid_words(Grid("matrix", ["longpoll"], [1], [10])) == "10 files in each run; 1 at a time"
    )


def test_method_speaks_of_what_was_done_only() -> None:
    small = some_results(rounds("longpoll", 1))
    for results, there in ((ALL, True), (small, False)):
        summary = summarise(results)
        said = " ".join([*measured(results, summary), *reading(summary)])
        assert ("The distance is made by the relay" in said) is there
        assert ("TLS is 1.3" in said) is there
        assert ("RTT is the round-trip time" in said) is there
        assert ("no think time" in said) is not there
        assert ("Two transports tie" in said) is there
        assert ("over a distance, where fewer files are dropped" in said) is there
        assert "Milliseconds per dropped file are those of the median drop" in said


def test_what_is_missing_is_listed() -> None:
    found = missing_section(ALL, SUMMARY)
    assert found is not None
    assert missing_section(replace(ALL, missing={}), SUMMARY) is None


# Nothing to say


def without_everything() -> Results:
    return replace(some_results([]), missing={})


def test_what_was_not_measured_has_no_section() -> None:
    results = without_everything()
    summary = summarise(results)
    titles = [found.title for each in SECTIONS if (found := each(results, summary))]
    assert titles == [
        "The ceiling",
        "Do the counts agree?",
        "How it was measured",
        "How to read it",
        "Conditions",
        "How to repeat it",
    ]


def test_everything_has_every_section_once() -> None:
    found = [each(ALL, SUMMARY) for each in SECTIONS]
    assert all(found)
    names = [each.name for each in found if each]
    assert len(names) == len(set(names))
    assert "predictions-1-000-000-files-at-100-ms" in names


def test_proxies_without_runs_or_checks_have_what_there_is() -> None:
    found = proxies_section(replace(ALL, proxies=[]), SUMMARY)
    assert len(tables(found)) == 1
    at = summarise(some_results(rounds("longpoll", 1)))
    assert len(tables(proxies_section(ALL, at))) == 2
    assert proxies_section(without_everything(), at) is None
