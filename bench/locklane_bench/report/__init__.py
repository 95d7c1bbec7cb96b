"""The report of a comparison: a page, the same as Markdown, its main chart, and the raw figures.

Each section is a module with a function ``…_section(results, summary)``, which returns None where
there is nothing to say; :data:`SECTIONS` has their order.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from locklane_bench.report import section as kinds
from locklane_bench.report.answer import answer, main_chart
from locklane_bench.report.ceiling import ceiling_section
from locklane_bench.report.costs import costs_section, spread_section
from locklane_bench.report.counts import counts_section
from locklane_bench.report.distance import distance_section, predictions_section
from locklane_bench.report.drawing import Chart
from locklane_bench.report.files import files_section
from locklane_bench.report.holds import holds_section
from locklane_bench.report.knowledge import knowledge_section
from locklane_bench.report.matrix import charts_section, matrix_section
from locklane_bench.report.method import (
    conditions_section,
    method_section,
    missing_section,
    reading_section,
    repeat_section,
)
from locklane_bench.report.peers import peers_section
from locklane_bench.report.ports import ports_section
from locklane_bench.report.proxies import proxies_section
from locklane_bench.report.section import Section
from locklane_bench.report.summary import Summary, summarise
from locklane_bench.report.table import main_table
from locklane_bench.report.think import think_section
from locklane_bench.report.wording import cautions
from locklane_bench.results import Results
from locklane_bench.results import write as write_raw

SECTIONS: tuple[Callable[[Results, Summary], Section | None], ...] = (
    matrix_section,
    charts_section,
    proxies_section,
    knowledge_section,
    distance_section,
    predictions_section,
    think_section,
    files_section,
    holds_section,
    ports_section,
    peers_section,
    ceiling_section,
    costs_section,
    spread_section,
    counts_section,
    method_section,
    missing_section,
    reading_section,
    conditions_section,
    repeat_section,
)

MAIN_CHART = "main.svg"


def write(results: Results, directory: Path) -> list[Path]:
    """Write ``report.html``, ``report.md``, ``main.svg`` (the first chart alone, where there is
    one), ``results.json`` and ``results.csv``.

    The page needs nothing but itself: its charts are in it, and it loads and runs nothing.

    :returns: their paths, the page's first.
    """
    directory.mkdir(parents=True, exist_ok=True)
    summary = summarise(results)
    chart = main_chart(summary)
    page, text = _render(results, summary, chart)
    written = [directory / "report.html", directory / "report.md"]
    written[0].write_text(page, encoding="utf-8")
    written[1].write_text(text, encoding="utf-8")
    if chart:
        written.append(directory / MAIN_CHART)
        written[2].write_text(f"{chart.svg}\n", encoding="utf-8")
    return [*written, *write_raw(results, directory)]


def render(results: Results) -> tuple[str, str]:
    """The report as HTML and as Markdown."""
    summary = summarise(results)
    return _render(results, summary, main_chart(summary))


def _render(results: Results, summary: Summary, chart: Chart | None) -> tuple[str, str]:
    content = {
        "results": results,
        "summary": summary,
        "answer": answer(results, summary),
        "cautions": cautions(results, summary),
        "main_chart": chart,
        "main_chart_file": MAIN_CHART,
        "main_table": main_table(summary),
        "sections": [found for each in SECTIONS if (found := each(results, summary))],
    }
    templates = environment()
    page = templates.get_template("report.html.j2").render(content)
    text = templates.get_template("report.md.j2").render(content)
    # Parts end in blank lines, whatever follows.
    return page, re.sub(r"\n{3,}", "\n\n", text)


def environment() -> Environment:
    """Where the templates of all reports are, with the filters that they need."""
    made = Environment(
        loader=PackageLoader("locklane_bench.report"),
        autoescape=select_autoescape(enabled_extensions=("html.j2",), default=False),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.filters["md"] = _markdown
    made.filters["code"] = _code
    for name, kind in (
        ("table", kinds.Table),
        ("chart", Chart),
        ("beside", kinds.Beside),
        ("points", kinds.Points),
        ("pairs", kinds.Pairs),
        ("code", kinds.Code),
    ):
        made.tests[name] = _is(kind)
    return made


def _is(kind: type) -> Callable[[object], bool]:
    return lambda part: isinstance(part, kind)


def _markdown(text: object) -> str:
    """Text that Markdown shows as it is, in a table cell too."""
    shown = str(text).replace("\\", "\\\\")
    for mark in "|<>*_`[]#":
        shown = shown.replace(mark, f"\\{mark}")
    return " ".join(shown.split())


def _code(text: object) -> str:
    """A fenced block, with a fence longer than any in the text."""
    fence = "```"
    while fence in str(text):
        fence += "`"
    return f"{fence}\n{text}\n{fence}"
