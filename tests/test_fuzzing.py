"""Every fuzz target, with some examples; ``make fuzz`` runs them for long."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import fuzzing

LONG = 1 << 19
"""Bytes of an input over which work that grows with its square takes minutes, and other work far
less than a second."""

every_target = pytest.mark.parametrize("name", fuzzing.names())


def inputs(target: fuzzing.Target) -> st.SearchStrategy[bytes]:
    """Pieces of a target's inputs, one after the other, with other bytes between them."""
    piece = st.sampled_from(target.pieces) | st.binary(max_size=3)
    return st.lists(piece, max_size=12).map(b"".join)


@every_target
def test_what_a_parser_claims_is_so_whatever_comes(name: str) -> None:
    target = fuzzing.load(name)
    for piece in (b"", *target.pieces):
        target.check(piece)

    @settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
    @given(inputs(target))
    def runs(data: bytes) -> None:
        target.check(data)

    runs()


@pytest.mark.timeout(60)
@every_target
def test_the_work_of_a_parser_does_not_grow_with_the_square_of_its_input(name: str) -> None:
    target = fuzzing.load(name)
    for piece in target.pieces:
        for begin in (b"", target.pieces[0]):
            target.parse((begin + piece * (LONG // len(piece) + 1))[:LONG])
