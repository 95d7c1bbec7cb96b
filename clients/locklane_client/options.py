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


class Numbers(click.ParamType[list[float]]):
    """Numbers, separated by commas; the value is a list without repeats.

    :param least: the least that is allowed.
    :param most: the greatest.
    :param whole: whether they have to be whole.
    :param example: how it may look.
    """

    name = "numbers"

    def __init__(self, least: float, most: float, *, whole: bool, example: str) -> None:
        self._least = least
        self._most = most
        self._whole = whole
        self._example = example

    def convert(
        self, value: str | list[float], param: click.Parameter | None, ctx: click.Context | None
    ) -> list[float]:
        if isinstance(value, list):
            return value
        numbers: list[float]
        try:
            numbers = [int(each) if self._whole else float(each) for each in value.split(",")]
        except ValueError:
            numbers = []
        if not numbers or not all(self._least <= each <= self._most for each in numbers):
            kind = "whole numbers" if self._whole else "numbers"
            self.fail(
                f"write {kind} from {self._least:g} to {self._most:,.15g}, as in {self._example}",
                param,
                ctx,
            )
        return list(dict.fromkeys(numbers))
