"""Kinds of options that the commands of Locklane share."""

from __future__ import annotations

from collections.abc import Collection

import click


class Names(click.ParamType[list[str]]):
    """Some of a list of names, separated by commas; the value is a list without repeats.

    :param known: the names that there are.
    :param what: what they are names of, in the singular.
    """

    name = "names"

    def __init__(self, known: Collection[str], what: str) -> None:
        self._known = known
        self._what = what

    def convert(
        self, value: str | list[str], param: click.Parameter | None, ctx: click.Context | None
    ) -> list[str]:
        if isinstance(value, list):
            return value
        names = [name.strip() for name in value.split(",") if name.strip()]
        there_are = ", ".join(self._known)
        if not names:
            self.fail(f"name at least one {self._what} of {there_are}", param, ctx)
        for name in names:
            if name not in self._known:
                self.fail(f"no {self._what} {name!r}; there are {there_are}", param, ctx)
        return list(dict.fromkeys(names))
