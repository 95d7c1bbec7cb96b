"""What a report is put together from, before it is a page or Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from locklane_bench.report.drawing import Chart
from locklane_bench.report.wording import Cell


@dataclass(frozen=True, slots=True)
class Table:
    """A caption, a head, and rows in groups; the first cell of a row is its heading."""

    caption: str
    head: list[str]
    groups: list[list[list[Cell]]]
    notes: list[str] = field(default_factory=list)
    headings: list[str] = field(default_factory=list)
    """One line above each group; none at all, or as many as there are groups."""
    words: bool = False
    """The cells hold words, which may be broken into lines, rather than figures."""

    @property
    def rows(self) -> list[list[Cell]]:
        return [row for group in self.groups for row in group]

    @property
    def titled(self) -> list[tuple[str, list[list[Cell]]]]:
        """The groups with their headings."""
        return list(zip(self.headings or [""] * len(self.groups), self.groups, strict=True))


@dataclass(frozen=True, slots=True)
class Beside:
    """Charts or tables that stand side by side where there is room."""

    parts: list[Chart] | list[Table]


@dataclass(frozen=True, slots=True)
class Points:
    """A list of sentences."""

    sentences: list[str]


@dataclass(frozen=True, slots=True)
class Pairs:
    """Names with what they stand for."""

    caption: str
    rows: list[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Code:
    """A command."""

    text: str


Part = str | Table | Chart | Beside | Points | Pairs | Code
"""A plain string is a paragraph."""


@dataclass(frozen=True, slots=True)
class Section:
    """A heading and what stands below it."""

    title: str
    parts: Sequence[Part]

    @property
    def name(self) -> str:
        """Its anchor."""
        kept = "".join(each if each.isalnum() else " " for each in self.title.lower())
        return "-".join(kept.split())


def beside(parts: Sequence[Chart | Table | None]) -> list[Part]:
    """Those that are there, side by side if there are several."""
    charts = [each for each in parts if isinstance(each, Chart)]
    tables = [each for each in parts if isinstance(each, Table)]
    found: list[Part] = []
    for kind in (charts, tables):
        if len(kind) > 1:
            found.append(Beside(kind))
        else:
            found += kind
    return found


def section(title: str, *parts: Part | None) -> Section | None:
    """A section of the parts that are there; None without any."""
    found = [part for part in parts if part is not None and part != ""]
    return Section(title, found) if found else None
