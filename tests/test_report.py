"""The report: its arithmetic, its sentences, and what it shows. The runs here are made up."""

from __future__ import annotations

import csv
import io
import json
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from rich.console import Console

from locklane_bench import report
from locklane_bench.report import plots, table, wording
from locklane_bench.report.summary import Spread, spread, summarise
from locklane_bench.results import (
    AnnexDrop,
    ClientCounts,
    RelayCounts,
    Results,
    Run,
    Settings,
    Via,
    read,
)

FILES = 1000


def a_run(
    transport: str,
    rate: float,
    *,
    server: str = "locklane",
    concurrency: int = 8,
    via: Via = "direct",
    number: int = 1,
    files: int = FILES,
    failures: int = 0,
) -> Run:
    """``rate`` drops per second; latencies of 1, 2, 3 … ms, so that p50 is half of ``files``."""
    connections = files if transport == "websocket" else concurrency
    known = server != "external"
    return Run(
        server=server,
        transport=transport,
        concurrency=concurrency,
        via=via,
        round=number,
        files=files,
        failures=failures,
        wall_s=files / rate if files else 1.0,
        latency_ms=[float(each + 1) for each in range(files)],
        client=ClientCounts(connections, 2 * files, 3 * files, 4 * files),
        server_connections=connections if known else None,
        relay=RelayCounts(connections, 600 * files, 300 * files) if via == "relay" else None,
        kernel_connections=connections if known else None,
        client_cpu_ms=0.5 * files,
        server_cpu_ms=0.25 * files if known else None,
        server_peak_memory_kib=51200 if known else None,
        server_peak_descriptors=40 if known else None,
        time_wait=connections,
    )


def some_results(runs: list[Run], **changes: object) -> Results:
    transports = list(dict.fromkeys(run.transport for run in runs))
    made = Results(
        started="2026-11-22T08:40:12Z",
        duration_s=12.5,
        command="locklane compare --files 1000 --rounds 5",
        settings=Settings(
            transports=transports,
            files=FILES,
            concurrency=sorted({run.concurrency for run in runs}),
            rounds=5,
            think_time_s=0.0,
            rate=None,
            url=None,
            keys_from="made up",
        ),
        machine={"Processor": "Some | <processor>", "Kernel": "Linux 6"},
        versions={"Locklane": "0.1.0"},
        runs=runs,
        annex_drop=AnnexDrop("10.20261026", 100, 4, 9.5, 5, 80_000, 70_000, 100, 0),
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def rounds(transport: str, *rates: float, **more: object) -> list[Run]:
    return [
        a_run(transport, rate, number=number, **more)  # type: ignore[arg-type]
        for number, rate in enumerate(rates, 1)
    ]


def usual() -> Results:
    """Long poll twice as fast in every round but one; bytes; a ceiling."""
    return some_results(
        [
            *rounds("websocket", 500, 400, 450, 420, 480),
            *rounds("longpoll", 1000, 800, 900, 840, 1440),
            *rounds("longpoll", 2000, 1000, 1000, 1050, 1600, server="bare"),
            *rounds("websocket", 100, via="relay"),
            *rounds("longpoll", 100, via="relay"),
        ]
    )


def said(results: Results) -> str:
    return " ".join(wording.answer(results, summarise(results)))


# Figures


def test_spread_is_median_least_and_greatest() -> None:
    assert spread([5, 1, 3, None, float("nan")]) == Spread(3, 1, 5, 3)
    assert spread([4, 1, 3, 2]) == Spread(2.5, 1, 4, 4)
    assert spread([None]) is None
    assert spread([]) is None


def test_figures_are_medians_over_rounds_per_dropped_file() -> None:
    figures = summarise(usual()).at("locklane", "longpoll", 8)
    assert figures is not None
    rate = figures.drops_per_s
    assert rate is not None
    assert (rate.median, rate.low, rate.high) == pytest.approx((900, 800, 1440))
    assert rate.rounds == 5
    assert figures.connections == Spread(0.008, 0.008, 0.008, 5)
    assert (figures.connections_total, figures.files) == (40, 5000)
    percentiles = [figures.p50_ms, figures.p90_ms, figures.p99_ms, figures.max_ms]
    assert [each.median for each in percentiles if each] == [500, 900, 990, 1000]
    assert figures.client_cpu_ms == Spread(0.5, 0.5, 0.5, 5)
    assert figures.server_cpu_ms == Spread(0.25, 0.25, 0.25, 5)
    assert figures.requests == Spread(2, 2, 2, 5)
    assert figures.round_trips == Spread(4, 4, 4, 5)
    assert figures.memory_kib == Spread(51200, 51200, 51200, 5)


def test_bytes_come_from_relay_runs_and_times_from_direct_ones() -> None:
    runs = [a_run("longpoll", 1000), a_run("longpoll", 10, via="relay")]
    figures = summarise(some_results(runs)).at("locklane", "longpoll", 8)
    assert figures is not None
    assert figures.drops_per_s == Spread(1000, 1000, 1000, 1)
    assert figures.bytes_up == Spread(600, 600, 600, 1)
    assert figures.bytes_down == Spread(300, 300, 300, 1)
    assert figures.relay_connections == Spread(0.008, 0.008, 0.008, 1)


def test_ratio_is_of_runs_in_the_same_round() -> None:
    (compared,) = summarise(usual()).comparisons
    assert (compared.transport, compared.baseline) == ("longpoll", "websocket")
    assert [value for _, value in compared.by_round] == pytest.approx([2, 2, 2, 2, 3])
    assert compared.ratio is not None
    # The ratio of the medians is the same here; of the extremes it would be 1440/400.
    assert (compared.ratio.median, compared.ratio.high) == pytest.approx((2, 3))
    assert not compared.tie


def test_a_round_that_only_one_has_is_in_no_ratio() -> None:
    runs = [*rounds("websocket", 500, 500), *rounds("longpoll", 1000, 1000, 4000)]
    (compared,) = summarise(some_results(runs)).comparisons
    assert [number for number, _ in compared.by_round] == [1, 2]


def test_share_of_the_ceiling_is_round_by_round() -> None:
    (ceiling,) = summarise(usual()).ceilings
    share = ceiling.share["locklane"]
    assert share is not None
    # 0.5, 0.8, 0.9, 0.8, 0.9; the medians alone would have said 900/1050.
    assert (share.median, share.low, share.high) == pytest.approx((0.8, 0.5, 0.9))
    assert "bare" not in summarise(usual()).servers


def test_a_run_that_dropped_nothing_is_left_out_and_said() -> None:
    runs = [a_run("longpoll", 1000), a_run("longpoll", 1, number=2, files=0, failures=7)]
    results = some_results(runs)
    summary = summarise(results)
    assert summary.empty_runs == 1
    assert summary.figures[0].failures == 7
    text = " ".join(wording.cautions(results, summary))
    assert "7 of 1,007 drops failed (longpoll, 8 at a time: 7)" in text
    assert "1 run dropped nothing: left out of the figures." in text


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


def test_a_ratio_near_one_is_not_written_as_one() -> None:
    assert wording.times_form(1.004) == "1.004"
    assert wording.times_form(2.0) == "2.00"


# The answer


def test_answer_when_longpoll_is_faster() -> None:
    answer = wording.answer(usual(), summarise(usual()))
    assert answer == [
        "Connections for 1,000 dropped files, 8 at a time: 1,000 with one websocket per lock "
        "(websocket) and 8 with lockcontent + keeplocked (longpoll); 1.000 and 0.008 per dropped "
        "file.",
        "Speed: 8 at a time, longpoll dropped 2.00 (2.00–3.00) times as many files per second as "
        "websocket.",
        "Bytes for each drop, both ways, 8 at a time: 900 with websocket and 900 with longpoll.",
        "Server processor time for each drop, 8 at a time: 0.250 ms with websocket and 0.250 ms "
        "with longpoll.",
        "What the holder of a lock can know: with websocket, that it was taken, that its hold is "
        "live, and when it is lost; with longpoll, that it was taken.",
    ]


def test_answer_when_websocket_is_faster() -> None:
    runs = [*rounds("websocket", 1000, 1200, 1500), *rounds("longpoll", 500, 300, 500)]
    text = said(some_results(runs))
    # 2, 4 and 3 round by round: turned over before the median, not after.
    assert "websocket dropped 3.00 (2.00–4.00) times as many files per second as longpoll" in text
    assert "longpoll dropped" not in text


def test_answer_when_neither_is_faster_in_every_round_is_a_tie() -> None:
    runs = [*rounds("websocket", 500, 600, 700), *rounds("longpoll", 650, 540, 700)]
    text = said(some_results(runs))
    assert (
        "8 at a time they tie: from round to round longpoll dropped 0.90 to 1.30 times as many "
        "as websocket." in text
    )


def test_a_slow_round_that_hurts_both_alike_makes_no_tie() -> None:
    runs = [*rounds("websocket", 500, 600, 200), *rounds("longpoll", 650, 800, 250)]
    (compared,) = summarise(some_results(runs)).comparisons
    assert not compared.tie


def test_answer_differs_by_concurrency() -> None:
    runs = [
        *rounds("websocket", 500, 600, concurrency=1),
        *rounds("longpoll", 250, 300, concurrency=1),
        *rounds("websocket", 500, 600, concurrency=8),
        *rounds("longpoll", 1000, 1200, concurrency=8),
        *rounds("websocket", 500, 600, concurrency=32),
        *rounds("longpoll", 550, 590, concurrency=32),
    ]
    text = said(some_results(runs))
    assert "8 at a time, longpoll dropped 2.00 times as many files per second as websocket" in text
    assert "1 at a time, websocket dropped 2.00 times as many files per second as longpoll" in text
    assert "32 at a time they tie" in text


def test_answer_of_many_transports_names_the_fastest() -> None:
    runs = [
        *rounds("websocket", 500, 510),
        *rounds("longpoll", 1000, 1010),
        *rounds("multiplex", 3000, 3010),
        *rounds("novel", 2000, 2010),
    ]
    text = said(some_results(runs))
    assert "Of all 4 transports, 8 at a time, multiplex was the fastest" in text
    assert "longpoll, multiplex and novel opened the fewest connections (0.008" in text
    assert "0.008 and 0.008 per dropped file" in text
    tied = said(some_results([*runs, *rounds("duplex", 2900, 3200)]))
    assert "no single one was the fastest: the ranges of duplex and multiplex overlap" in tied


def test_answer_of_one_transport_compares_nothing() -> None:
    text = said(some_results(rounds("longpoll", 1000, 1100)))
    assert "no other transport was measured" in text
    assert "times as many" not in text


def test_answer_under_a_rate_is_of_latency() -> None:
    results = usual()
    results = replace(results, settings=replace(results.settings, rate=400.0))
    text = said(results)
    assert "With 400 drops due per second and 8 at a time, 99 of 100 drops ended within" in text
    assert "websocket and longpoll tie" in text  # both 990 ms
    assert "times as many" not in text


def test_answer_without_figures() -> None:
    assert said(some_results([])) == "No run gave a figure: there is no answer."


# What is missing


def test_foreign_server_has_dashes_and_a_footnote(tmp_path: Path) -> None:
    runs = [
        *rounds("websocket", 500, server="external"),
        *rounds("longpoll", 1000, server="external"),
    ]
    results = some_results(runs, annex_drop=None, annex_drop_missing="it is not our server")
    for path in report.write(results, tmp_path)[:2]:
        text = path.read_text("utf-8")
        assert "cannot be seen from here" in text
        assert "Not measured: it is not our server." in text
        assert "Nothing to hold against each other: in all 2 runs only the client" in text
        assert "None" not in text
        assert "nan" not in re.sub(r"<svg.*?</svg>", "", text, flags=re.DOTALL).split()
    assert "cannot be seen" not in report.render(usual())[0]


@pytest.mark.parametrize(
    "results",
    [
        some_results([]),
        some_results(rounds("longpoll", 1000, via="relay")),
        some_results(rounds("longpoll", 1000, server="bare")),
        some_results(rounds("longpoll", 1000, files=3)),
        some_results(rounds("longpoll", 1000, files=0)),
        some_results([*rounds("a" * 60, 900.0), *rounds("$x_1$", 1.0), *rounds("z<&|", 80_000.0)]),
        some_results([*rounds("websocket", 5.0), *rounds("websocket", 7.0, server="external")]),
    ],
    ids=["nothing", "relay only", "bare only", "3 files", "no files", "names", "two servers"],
)
def test_renders_whatever_is_missing(results: Results, tmp_path: Path) -> None:
    paths = report.write(results, tmp_path)
    check_page(paths[0].read_text("utf-8"))
    assert terminal(results)


def test_notes_on_missing_relay_and_few_rounds() -> None:
    results = some_results([*rounds("websocket", 500), *rounds("longpoll", 900, files=30)])
    page, text = report.render(results)
    for each in (page, text):
        assert "no run went through the relay" in each
        assert "Only 1 round where 5 are the least to rely on" in each
        assert "A round of 30 drops has no hundredth part" in each
        assert "No run was made against the bare server" in each


def test_asked_for_but_not_there() -> None:
    results = usual()
    results = replace(
        results, settings=replace(results.settings, transports=["longpoll", "duplex"])
    )
    assert "Asked for, but without a run to show: duplex." in wording.cautions(
        results, summarise(results)
    )


# Do the counts agree?


def test_counts_agree() -> None:
    results = usual()
    assert wording.agreement(results, summarise(results)) == "All 17 runs agree."


def test_disagreements_are_listed_one_by_one() -> None:
    sentences = ["websocket, round 1: client 1000, relay 999.", "longpoll: <kernel> 9."]
    page, text = report.render(replace(usual(), disagreements=sentences))
    assert "2 runs of 17 disagree:" in page
    assert "<li>longpoll: &lt;kernel&gt; 9.</li>" in page
    assert "- websocket, round 1: client 1000, relay 999." in text
    assert "The counts disagree in 2 runs" in page


def test_a_disagreement_that_nobody_named_is_seen() -> None:
    results = usual()
    results.runs[0] = replace(results.runs[0], kernel_connections=1001)
    sentence = wording.agreement(results, summarise(results))
    assert sentence.startswith(
        "The comparison named no disagreement, yet the counts of 1 run of 17"
    )


def test_git_annex_drop_and_a_lock_left() -> None:
    results = usual()
    assert (
        "opened 5 connections (0.050 per dropped file), as the relay" in wording.annex(results)[0]
    )
    assert results.annex_drop is not None
    results = replace(results, annex_drop=replace(results.annex_drop, locks_left=2))
    assert any("fault" in each for each in wording.cautions(results, summarise(results)))


# The page


class _Page(HTMLParser):
    """Checks that every element is closed, in order, and gathers what the page refers to."""

    VOID = frozenset({"meta", "br", "hr", "img", "link", "input", "wbr"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.references: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        names = dict(attrs)
        self.references += [
            value or ""
            for name, value in names.items()
            if name.rpartition(":")[2] in ("src", "href", "srcset", "action", "data")
        ]
        if names.get("id"):
            self.ids.append(names["id"] or "")
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag


def check_page(page: str) -> _Page:
    parser = _Page()
    parser.feed(page)
    parser.close()
    assert parser.open == []
    raw = {"results.json", "results.csv", "report.md"}
    assert {each for each in parser.references if not each.startswith("#")} == raw
    assert not {"script", "link", "img", "iframe", "object"} & set(parser.tags)
    assert "url(" not in re.sub(r"url\(#", "", page)
    assert "@import" not in page
    assert len(parser.ids) == len(set(parser.ids))
    for reference in parser.references:
        assert not reference.startswith("#") or reference[1:] in parser.ids
    return parser


def test_page_is_whole_and_refers_to_nothing_outside(tmp_path: Path) -> None:
    paths = report.write(usual(), tmp_path / "new" / "report")
    assert [path.name for path in paths] == [
        "report.html",
        "report.md",
        "results.json",
        "results.csv",
    ]
    page = paths[0].read_text("utf-8")
    parser = check_page(page)
    assert parser.tags.count("svg") == 3
    assert parser.tags.count("caption") == parser.tags.count("table")
    assert '<html lang="en">' in page
    assert not re.findall(r"<th(?![^>]*scope=)[ >]", page)
    assert "Some | &lt;processor&gt;" in page
    headings = [
        "The ceiling",
        "Do the counts agree?",
        "The real git annex drop",
        "How it was measured",
        "How to read it",
        "Conditions",
        "How to repeat it",
        "Raw data",
    ]
    for text in (page, paths[1].read_text("utf-8")):
        places = [
            text.index(f"{heading}\n") if "<h2>" not in text else text.index(f"<h2>{heading}")
            for heading in headings
        ]
        assert places == sorted(places)
        assert "locklane compare --files 1000 --rounds 5" in text


def test_markdown_tables_have_as_many_cells_as_heads() -> None:
    text = report.render(usual())[1]
    widths: set[int] = set()
    for line in [*text.splitlines(), ""]:
        if line.startswith("|"):
            widths.add(len(re.split(r"(?<!\\)\|", line)))
        else:
            assert len(widths) <= 1
            widths.clear()
    assert "Some \\| \\<processor\\>" in text
    assert "| longpoll | 8 | 0.008 | 900 (800–1,440) | 500 | 990 | 600 | 300 | 0.250 |" in text
    assert "| longpoll | 8 | 1,050 (1,000–2,000) | 900 (800–1,440) | 80% (50%–90%) |" in text
    assert "| longpoll | 8 | 2.00 (2.00–3.00) | 2.00, 2.00, 2.00, 2.00, 3.00 | faster |" in text
    assert "| longpoll | 8 | direct | 5,000 | 40 | 40 | – | 40 | 5 of 5 |" in text
    assert "| longpoll | 8 | relay | 1,000 | 8 | 8 | 8 | 8 | 1 of 1 |" in text
    assert "\n\n\n\n" not in text


def test_charts_are_xml_with_a_text_alternative_and_the_same_every_time() -> None:
    first, second = plots.charts(summarise(usual())), plots.charts(summarise(usual()))
    assert [chart.name for chart in first] == ["connections", "drops", "latency"]
    for chart, again in zip(first, second, strict=True):
        assert chart.svg == again.svg
        root = ET.fromstring(chart.svg)
        assert root.get("role") == "img"
        assert root.get("aria-label") == chart.description
        assert root[0].tag.endswith("title")
        assert root[0].text == chart.title
        assert "metadata" not in chart.svg
    assert "websocket 1.000; longpoll 0.008." in first[0].description
    assert ">0.008<" in first[0].svg
    assert "longpoll ceiling 1,050 (1,000–2,000)" in first[1].description
    assert "500 / 900 / 990" in first[2].svg


def test_same_results_same_report() -> None:
    assert report.render(usual()) == report.render(usual())


# The terminal


def terminal(results: Results) -> str:
    stream = io.StringIO()
    Console(file=stream, width=100, color_system=None).print(table.terminal_table(results))
    return stream.getvalue()


def test_terminal_table_fits_and_cuts_nothing() -> None:
    fast = [
        *rounds("websocket", 12_345.6, 23_456.7, 34_567.8, concurrency=10_000),
        *rounds("longpoll", 12_345.6, 23_456.7, 34_567.8, concurrency=10_000),
        *rounds("multiplex", 12_345.6, 23_456.7, 34_567.8, concurrency=10_000, via="relay"),
    ]
    shown = terminal(some_results([*usual().runs, *fast]))
    assert max(map(len, shown.splitlines())) <= 100
    assert "…" not in shown
    (row,) = [line for line in shown.splitlines() if "0.008" in line]
    assert " ".join(row.split()) == "longpoll 8 0.008 900 (800–1,440) 500 / 990 600 / 300 0.250"
    assert "23,457 (12,346–34,568)" in shown
    assert "8 at a time 80%" in shown


# The raw files


def test_json_round_trip(tmp_path: Path) -> None:
    results = usual()
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
    path = report.write(usual(), tmp_path)[3]
    with path.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 17
    assert list(rows[0]) == [
        *("server", "transport", "concurrency", "via", "round", "files", "failures", "wall_s"),
        *("server_connections", "kernel_connections", "client_cpu_ms", "server_cpu_ms"),
        *("server_peak_memory_kib", "server_peak_descriptors", "time_wait"),
        *("client_connections", "client_requests", "client_messages", "client_round_trips"),
        *("relay_connections", "relay_bytes_up", "relay_bytes_down"),
        *("p50_ms", "p90_ms", "p99_ms", "max_ms"),
    ]
    assert rows[0]["p99_ms"] == "990.0"
    assert rows[0]["relay_bytes_up"] == ""
    assert rows[-1]["relay_bytes_up"] == "600000"
