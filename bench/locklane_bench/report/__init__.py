"""The report of a comparison: a page, the same as Markdown, and the raw figures."""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from locklane_bench.report import plots, table, wording
from locklane_bench.report.summary import Summary, summarise
from locklane_bench.results import Results
from locklane_bench.results import write as write_raw


def write(results: Results, directory: Path) -> list[Path]:
    """Write ``report.html``, ``report.md``, ``results.json`` and ``results.csv``.

    The page needs nothing but itself: its charts are in it, and it loads and runs nothing.

    :returns: their paths, the page's first.
    """
    directory.mkdir(parents=True, exist_ok=True)
    page, text = render(results)
    written = [directory / "report.html", directory / "report.md"]
    written[0].write_text(page, encoding="utf-8")
    written[1].write_text(text, encoding="utf-8")
    return [*written, *write_raw(results, directory)]


def render(results: Results) -> tuple[str, str]:
    """The report as HTML and as Markdown."""
    templates = environment()
    content = _content(results, summarise(results))
    page = templates.get_template("report.html.j2").render(content)
    text = templates.get_template("report.md.j2").render(content)
    return page, text


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
    return made


def _content(results: Results, summary: Summary) -> dict[str, object]:
    drawn = plots.charts(summary)
    return {
        "results": results,
        "summary": summary,
        "answer": wording.answer(results, summary),
        "cautions": wording.cautions(results, summary),
        "main_chart": drawn[0] if drawn else None,
        "other_charts": drawn[1:],
        "main_table": table.main_table(summary),
        "comparison_table": table.comparison_table(summary),
        "latency_table": table.latency_table(summary),
        "cost_table": table.cost_table(summary),
        "peak_table": table.peak_table(summary),
        "ceiling_table": table.ceiling_table(summary),
        "counts_table": table.counts_table(summary),
        "agreement": wording.agreement(results, summary),
        "annex": wording.annex(results),
        "measured": wording.measured(results),
        "reading": wording.reading(summary),
        "settings": wording.settings(results),
        "figure_count": len(summary.figures),
    }


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
