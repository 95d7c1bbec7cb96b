"""Puts the main chart and the main table of a report into the README, between two marks."""

from __future__ import annotations

import os
import re
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

_TABLE = re.compile(r"\*\*What a dropped file costs\*\*\n\n((?:\|.*\n)+)")
_PLACE = re.compile(r"(<!-- table:.*?-->\n).*?(<!-- end of table -->)", re.DOTALL)
_TITLE = "{http://www.w3.org/2000/svg}title"


def main(report: Path, readme: Path) -> None:
    """Copy the table of ``report`` (its Markdown) to ``readme``, below the chart beside it."""
    table = _TABLE.search(report.read_text(encoding="utf-8"))
    text = readme.read_text(encoding="utf-8")
    if table is None or _PLACE.search(text) is None:
        sys.exit(f"no table in {report}, or no place for it in {readme}")
    shown = chart(report.with_name("main.svg"), readme.parent) + table[1]
    new = _PLACE.sub(lambda place: f"{place[1]}\n{shown}\n{place[2]}", text)
    readme.write_text(new, encoding="utf-8")


def chart(svg: Path, beside: Path) -> str:
    """The chart as Markdown, with its title for who cannot see it; nothing if there is none."""
    if not svg.exists():
        return ""
    title = ET.parse(svg).getroot().findtext(_TITLE) or "The main chart of the report"
    where = Path(os.path.relpath(svg.resolve(), beside.resolve())).as_posix()
    return f"![{title.translate(str.maketrans('[]', '()'))}]({where})\n\n"


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
