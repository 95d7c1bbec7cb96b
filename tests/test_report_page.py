"""The report as a page, as Markdown and as a picture: whole, readable by all, and alone."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from madeup import everything, rounds, some_results
from test_report import terminal, usual

from locklane_bench import readme, report
from locklane_bench.report import SECTIONS
from locklane_bench.report.answer import main_chart
from locklane_bench.report.drawing import Chart
from locklane_bench.report.section import Beside
from locklane_bench.report.summary import summarise
from locklane_bench.results import Condition, Results

EVERYTHING = everything(2)


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


def check_page(page: str, *, chart: bool = True) -> _Page:
    parser = _Page()
    parser.feed(page)
    parser.close()
    assert parser.open == []
    raw = {"results.json", "results.csv", "report.md"} | ({"main.svg"} if chart else set())
    assert {each for each in parser.references if not each.startswith("#")} == raw
    assert not {"script", "link", "img", "iframe", "object"} & set(parser.tags)
    assert "url(" not in re.sub(r"url\(#", "", page)
    assert "@import" not in page
    assert len(parser.ids) == len(set(parser.ids))
    for reference in parser.references:
        assert not reference.startswith("#") or reference[1:] in parser.ids
    return parser


def check_tables(text: str) -> None:
    widths: set[int] = set()
    for line in [*text.splitlines(), ""]:
        if line.startswith("|"):
            widths.add(len(re.split(r"(?<!\\)\|", line)))
        else:
            assert len(widths) <= 1
            widths.clear()
    assert "\n\n\n\n" not in text


def charts(results: Results) -> Iterator[Chart]:
    summary = summarise(results)
    first = main_chart(summary)
    if first:
        yield first
    for each in SECTIONS:
        found = each(results, summary)
        for part in found.parts if found else []:
            for inner in part.parts if isinstance(part, Beside) else [part]:
                if isinstance(inner, Chart):
                    yield inner


def test_report_is_a_page_a_text_a_picture_and_the_raw_figures(tmp_path: Path) -> None:
    paths = report.write(usual(), tmp_path / "new" / "report")
    assert [path.name for path in paths] == [
        "report.html",
        "report.md",
        "main.svg",
        "results.json",
        "results.csv",
    ]
    assert all(path.exists() for path in paths)


@pytest.mark.parametrize("results", [usual(), EVERYTHING], ids=["small", "everything"])
def test_page_is_whole_and_refers_to_nothing_outside(results: Results) -> None:
    page, text = report.render(results)
    parser = check_page(page)
    assert parser.tags.count("svg") == len(list(charts(results)))
    assert parser.tags.count("caption") == parser.tags.count("table")
    assert '<html lang="en">' in page
    assert not re.findall(r"<th(?![^>]*scope=)[ >]", page)
    assert "Some | &lt;processor&gt;" in page
    check_tables(text)
    summary = summarise(results)
    titles = [found.title for each in SECTIONS if (found := each(results, summary))]
    for shown, form in ((page, "{}</h2>"), (text, "## {}\n")):
        places = [shown.index(form.format(title)) for title in [*titles, "Raw data"]]
        assert places == sorted(places)
        assert results.command in shown
    assert "Some \\| \\<processor\\>" in text


def test_the_answer_and_the_main_chart_come_first() -> None:
    page, text = report.render(EVERYTHING)
    answer, chart, matrix = (
        page.index("Over a distance take"),
        page.index('id="chart-main"'),
        page.index("Files dropped per second, plain"),
    )
    assert answer < chart < matrix
    assert text.index("Over a distance take") < text.index("Milliseconds per dropped file")


def test_what_is_best_is_read_out_to_who_cannot_see_it() -> None:
    page, text = report.render(EVERYTHING)
    assert '<span role="img" aria-label="best or tied">★</span>' in page
    assert "| pipeline | ★ " not in text.split("RTT 0")[0]
    assert re.search(r"^\| pipeline \| [^★|]+\| ★ [\d.]+ \(", text, re.MULTILINE)


def test_charts_are_xml_with_a_text_alternative_and_the_same_every_time() -> None:
    first, second = list(charts(EVERYTHING)), list(charts(EVERYTHING))
    assert len({chart.name for chart in first}) == len(first) == 12
    for chart, again in zip(first, second, strict=True):
        assert chart.svg == again.svg
        root = ET.fromstring(chart.svg)
        assert root.get("role") == "img"
        assert root.get("aria-label") == chart.description
        assert root[0].tag.endswith("title")
        assert root[0].text == chart.title
        assert "metadata" not in chart.svg


def test_charts_write_their_values_and_do_not_hang_on_colour() -> None:
    drawn = {chart.name: chart for chart in charts(usual())}
    assert set(drawn) == {"main", "drops-1-8"}
    drops = drawn["drops-1-8"]
    for value in ("450", "★ 900", "1,050"):
        assert f">{value}<" in drops.svg
    assert "longpoll ceiling 1,050 (1,000–2,000)" in drops.description
    assert "longpoll 900 (800–1,440), best or tied" in drops.description
    # Each series of a chart of bars has a hatch of its own, or is the one without.
    five = next(chart for chart in charts(EVERYTHING) if chart.name == "main")
    assert len(re.findall(r"<pattern", five.svg)) == 4


def test_same_results_same_report() -> None:
    assert report.render(usual()) == report.render(usual())


# Whatever is missing

AT = Condition(concurrency=8, files=1000)


@pytest.mark.parametrize(
    "results",
    [
        some_results([]),
        some_results(rounds("longpoll", 1000, via="relay")),
        some_results(rounds("longpoll", 1000, at=replace(AT, server="bare"))),
        some_results(rounds("longpoll", 1000, files=3)),
        some_results(rounds("longpoll", 1000, files=0)),
        some_results([*rounds("a" * 60, 900.0), *rounds("$x_1$", 1.0), *rounds("z<&|", 80_000.0)]),
        some_results(
            [
                *rounds("websocket", 5.0),
                *rounds("websocket", 7.0, at=replace(AT, server="external")),
            ]
        ),
        some_results(rounds("longpoll", 5.0, at=replace(AT, rtt_ms=50.0), via="relay")),
        some_results(rounds("longpoll", 5.0, at=replace(AT, tls=True, proxy="nginx"))),
        some_results(rounds("longpoll", 5.0, at=replace(AT, part="files"))),
        some_results(rounds("longpoll", 5.0, at=replace(AT, part="proxies", proxy="other"))),
        some_results(
            [
                *rounds("longpoll", 5.0, at=replace(AT, files=10)),
                *rounds("longpoll", 5.0, at=replace(AT, files=100)),
                *rounds("duplex", 5.0, at=replace(AT, rtt_ms=7.5, think_time_s=0.1), via="relay"),
            ]
        ),
        replace(EVERYTHING, runs=[]),
        replace(EVERYTHING, runs=[run for run in EVERYTHING.runs if run.condition.tls]),
        replace(EVERYTHING, settings=replace(EVERYTHING.settings, rate=400.0)),
    ],
    ids=[
        *("nothing", "relay only", "bare only", "3 files", "no files", "names", "two servers"),
        *("far only", "proxy and TLS in the matrix", "files only", "proxies only", "mixed"),
        *("no runs", "TLS only", "a rate"),
    ],
)
def test_renders_whatever_is_missing(results: Results, tmp_path: Path) -> None:
    paths = report.write(results, tmp_path)
    chart = paths[2].name == "main.svg"
    page, text = (path.read_text("utf-8") for path in paths[:2])
    check_page(page, chart=chart)
    check_tables(text)
    for shown in (re.sub(r"<svg.*?</svg>", "", page, flags=re.DOTALL), text):
        assert "None" not in shown
        assert not {"nan", "inf"} & set(re.split(r"[^a-z]+", shown.lower())) - {"inf"}
    assert terminal(results)


# The README


def test_readme_gets_the_chart_and_the_table(tmp_path: Path) -> None:
    report.write(EVERYTHING, tmp_path / "reports")
    page = tmp_path / "README.md"
    page.write_text("before\n<!-- table: x -->\nold\n<!-- end of table -->\nafter\n", "utf-8")
    for _ in range(2):  # the second time, over what the first has put there
        readme.main(tmp_path / "reports" / "report.md", page)
    lines = page.read_text("utf-8").splitlines()
    assert lines[:4] == [
        "before",
        "<!-- table: x -->",
        "",
        "![Milliseconds per dropped file, one at a time](reports/main.svg)",
    ]
    assert lines[5].startswith("| Transport | Connections per file |")
    assert len([line for line in lines if line.startswith("| ")]) == 7
    assert lines[-2:] == ["<!-- end of table -->", "after"]


def test_readme_without_a_place_is_said(tmp_path: Path) -> None:
    report.write(usual(), tmp_path)
    (tmp_path / "README.md").write_text("nothing", "utf-8")
    with pytest.raises(SystemExit, match="no place for it"):
        readme.main(tmp_path / "report.md", tmp_path / "README.md")
