"""Puts the main table of a report into the README, between its two marks."""

from __future__ import annotations

import re
import sys
from pathlib import Path

_TABLE = re.compile(r"\*\*What a dropped file costs\*\*\n\n((?:\|.*\n)+)")
_PLACE = re.compile(r"(<!-- table:.*?-->\n).*?(<!-- end of table -->)", re.DOTALL)


def main(report: Path, readme: Path) -> None:
    """Copy the table of ``report`` to ``readme``."""
    table = _TABLE.search(report.read_text(encoding="utf-8"))
    text = readme.read_text(encoding="utf-8")
    if table is None or _PLACE.search(text) is None:
        sys.exit(f"no table in {report}, or no place for it in {readme}")
    new = _PLACE.sub(lambda place: f"{place[1]}\n{table[1]}\n{place[2]}", text)
    readme.write_text(new, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
