"""The report of a side-by-side comparison: a page, the same as Markdown, and the raw figures."""

from __future__ import annotations

from pathlib import Path

from locklane_bench.peer import charts, tables, wording
from locklane_bench.peer.figures import limits, lines
from locklane_bench.peer.results import PeerResults
from locklane_bench.peer.results import write as write_raw
from locklane_bench.report import environment


def write(results: PeerResults, directory: Path) -> list[Path]:
    """Write ``report.html``, ``report.md``, ``results.json`` and ``results.csv``.

    :returns: their paths, the page's first.
    """
    directory.mkdir(parents=True, exist_ok=True)
    page, text = render(results)
    written = [directory / "report.html", directory / "report.md"]
    written[0].write_text(page, encoding="utf-8")
    written[1].write_text(text, encoding="utf-8")
    return [*written, *write_raw(results, directory)]


def render(results: PeerResults) -> tuple[str, str]:
    """The report as HTML and as Markdown."""
    found, held = lines(results), limits(results)
    drawn = [charts.ratio_chart(found), charts.locks_chart(held)]
    content = {
        "results": results,
        "answer": wording.answer(found),
        "cautions": wording.cautions(results, held),
        "charts": [chart for chart in drawn if chart],
        "main_table": tables.main_table(found),
        "round_table": tables.round_table(found),
        "limit_table": tables.limit_table(held),
        "measured": wording.measured(results),
        "reading": wording.reading(results),
        "settings": wording.settings(results),
    }
    templates = environment()
    page = templates.get_template("peer.html.j2").render(content)
    text = templates.get_template("peer.md.j2").render(content)
    return page, text
