"""Numcopies as a model: clients that drop at once, servers that are killed, machines that restart,
clocks that are set, all in any order. No run of it loses the last copy; and where something of what
keeps it is broken, such a run is found."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from numcopies import Annex, Directory, LastCopyLostError, Make, Site, World

from locklane_server.locks import Lock, LockManager

KINDS: dict[str, list[Make]] = {
    "annexes": [Annex, Annex, Annex],
    "directories": [Directory, Directory, Directory],
    "mixed": [Annex, Directory, Annex],
}
COPIES = [[True, True, True], [True, True, False], [False, True, True], [True, False, True]]
even = st.integers(0, 2**64).map(lambda number: random.Random(number).randbytes(240))
choices = st.one_of(even, even, even, st.binary(min_size=60, max_size=240))
"""Two bytes for each. Hypothesis by itself is fond of zeros."""

slow_is_fine = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example]


def run(kinds: list[Make], has: list[bool], made: bytes) -> World:
    world = World(kinds, has)
    for high, low in zip(made[::2], made[1::2], strict=False):
        world.happens(256 * high + low)
    return world


@pytest.mark.parametrize("kinds", KINDS.values(), ids=KINDS)
def test_no_run_loses_the_last_copy(kinds: list[Make]) -> None:
    removed: Counter[int] = Counter()

    @settings(max_examples=1500, deadline=None, database=None, suppress_health_check=slow_is_fine)
    @given(has=st.sampled_from(COPIES), made=choices)
    def look(has: list[bool], made: bytes) -> None:
        removed[run(kinds, has, made).removed] += 1

    look()
    assert removed[1] + removed[2] > 100, f"hardly a drop comes to its end: {removed}"


# -- what is broken is found -----------------------------------------------------------------------


class ForgetfulAnnex(Annex):
    """A new server does not know what the one before has promised."""

    def retained(self) -> bool:
        return False


class ForgetfulDirectory(Directory):
    def restore(self, manager: LockManager) -> None:
        self.rows.clear()


class HastyAnnex(Annex):
    """Who is not connected any more has no lock any more."""

    def lose(self, lock: Lock) -> None:
        self.unlock(lock)


class HastyDirectory(Directory):
    def lose(self, lock: Lock) -> None:
        self.unlock(lock)


class RuthlessAnnex(Annex):
    """Locks are no reason not to remove."""

    def begin_removal(self, before: float) -> bool:
        self.end_removal(before)
        return False

    def end_removal(self, before: float) -> None:
        self.has = self.has and self.now > before


class RuthlessDirectory(Directory):
    begin_removal = RuthlessAnnex.begin_removal
    end_removal = RuthlessAnnex.end_removal


class UnhurriedAnnex(Annex):
    """The time by which the content has to be removed is no matter."""

    def begin_removal(self, before: float) -> bool:
        return super().begin_removal(float("inf"))

    def end_removal(self, before: float) -> None:
        super().end_removal(float("inf"))


class Credulous(Annex):
    """The wall clock is believed, as git-annex does, whoever has set it."""

    def left(self, until: float | None) -> float:
        return -1.0 if until is None else until - self.machine.wall()


class Careless(Annex):
    """What is promised after the clock was set is promised before that is written down."""

    def promise(self, lock: Lock) -> None:
        seen = self.eras
        super().promise(lock)
        self.eras = seen


BROKEN: dict[str, Make] = {
    each.__name__: each
    for each in (
        ForgetfulAnnex,
        ForgetfulDirectory,
        HastyAnnex,
        HastyDirectory,
        RuthlessAnnex,
        RuthlessDirectory,
        UnhurriedAnnex,
        Credulous,
        Careless,
    )
}


@pytest.mark.parametrize("make", BROKEN.values(), ids=BROKEN)
def test_a_run_that_loses_it_is_found_where_something_is_broken(make: type[Site]) -> None:
    @seed(1)
    @settings(
        max_examples=10_000,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=slow_is_fine,
    )
    @given(has=st.sampled_from(COPIES), made=choices)
    def look(has: list[bool], made: bytes) -> None:
        run([make, make, make], has, made)

    with pytest.raises(LastCopyLostError):
        look()
