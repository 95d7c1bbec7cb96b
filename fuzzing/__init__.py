"""Fuzz targets: one small file for each parser of ours, found here by its name.

Each has ``parse``, which only parses; ``check``, which fails if what the parser does with some
bytes is not what it claims; and ``PIECES``, what its inputs are made of. The tests run every target
with some examples that hypothesis puts together of these; ``make fuzz`` runs them for long, under
atheris.

A parser of ours raises nothing but what it says it raises: any other exception is a failure, and
needs no line in a target.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Target:
    """One of them."""

    name: str
    parse: Callable[[bytes], None]
    check: Callable[[bytes], None]
    pieces: tuple[bytes, ...]


def names() -> list[str]:
    """The name of every target."""
    return sorted(found.name for found in pkgutil.iter_modules(__path__) if found.name[0] != "_")


def load(name: str) -> Target:
    """One of them by its name."""
    module = importlib.import_module(f"{__name__}.{name}")
    return Target(name, module.parse, module.check, module.PIECES)


def text_of(data: bytes) -> str:
    """Bytes as a parser is given them: as text, with what is not UTF-8 escaped (PEP 383)."""
    return data.decode("utf-8", "surrogateescape")
