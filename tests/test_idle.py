"""Many locks that are held and left alone: all that are wanted are held and live, or it is said why
not; and each process's figures are its own."""

from __future__ import annotations

import errno
import os
import resource
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import BOUND

from locklane_bench import idle, procfs
from locklane_bench.children import ChildError, ServerChild
from locklane_bench.holder import AT_A_TIME, Holding
from locklane_bench.idle import HolderChild
from locklane_bench.keys import made, put_into_store
from locklane_client import TRANSPORTS as OF_THE_CLIENT
from locklane_server.transports import TRANSPORTS as OF_THE_SERVER

COUNT = 200

BOTH = [name for name in OF_THE_CLIENT if name in OF_THE_SERVER]
"""Transports that need nothing between client and server."""


@pytest.fixture
def keys(tmp_path: Path) -> list[str]:
    """The keys of a store at ``tmp_path / "keys"``."""
    sources = made(COUNT)
    put_into_store(sources, tmp_path / "keys")
    return [source.key.text for source in sources]


@pytest.fixture
def holder() -> Iterator[HolderChild]:
    with HolderChild() as holder:
        yield holder


@pytest.fixture
def server(tmp_path: Path, keys: list[str]) -> Iterator[ServerChild]:
    with ServerChild.locklane(tmp_path / "keys", BOTH) as server:
        yield server


@pytest.mark.parametrize("transport", BOTH)
def test_all_locks_are_held_and_live_and_their_connections_are_the_descriptors(
    transport: str, tmp_path: Path, keys: list[str]
) -> None:
    holds = idle.measure(transport, tmp_path / "keys", keys, COUNT, rest_s=0)
    assert holds.failure is None
    assert (holds.transport, holds.wanted, holds.held, holds.live) == (transport, *[COUNT] * 3)
    assert holds.seconds_to_take > 0
    assert holds.seconds_to_unlock > 0
    assert 1 <= holds.server_descriptors == holds.client_descriptors <= holds.connections


def test_fewer_keys_are_locked_again_and_again(tmp_path: Path, keys: list[str]) -> None:
    holds = idle.measure("websocket", tmp_path / "keys", keys[:3], 50, rest_s=0)
    assert (holds.held, holds.live, holds.failure) == (50, 50, None)


@pytest.mark.parametrize("transport", BOTH)
def test_more_locks_than_are_taken_at_a_time_are_all_unlocked(
    transport: str, server: ServerChild, holder: HolderChild, keys: list[str]
) -> None:
    count = 3 * AT_A_TIME
    taken = holder.take(Holding(server.address, transport, keys, count))
    assert (taken.held, taken.failure) == (count, None)
    # The last holds' connections may wait to be accepted while the first locks are answered.
    end = time.monotonic() + BOUND
    while server.counted("locklane_connections_opened_total") < taken.connections:
        assert time.monotonic() < end
    released = holder.release()
    assert (released.unlocked, released.failure) == (count, None)
    assert server.counted("locklane_locks") == 0


@pytest.mark.parametrize("transport", BOTH)
def test_a_lock_that_is_refused_ends_the_taking_and_is_told(
    transport: str, server: ServerChild, holder: HolderChild, keys: list[str]
) -> None:
    absent = made(COUNT + 1)[-1].key.text
    taken = holder.take(Holding(server.address, transport, [*keys, absent], COUNT + 50))
    assert taken.failure is not None
    assert taken.failure.startswith("LockRefused: ")
    assert COUNT - AT_A_TIME <= taken.held < COUNT + 50
    assert holder.release().unlocked == taken.held
    assert server.counted("locklane_locks") == 0


@pytest.mark.parametrize("transport", BOTH)
def test_descriptors_that_run_out_are_told_and_what_was_held_is_unlocked(
    transport: str, server: ServerChild, holder: HolderChild, keys: list[str]
) -> None:
    few = 60
    resource.prlimit(holder.pid, resource.RLIMIT_NOFILE, (few, few))
    taken = holder.take(Holding(server.address, transport, keys, COUNT))
    if taken.connections < few and taken.held == COUNT:
        assert taken.failure is None  # a transport that needs no connection for each lock
    else:
        assert 0 < taken.held < few
        assert taken.failure is not None
        assert os.strerror(errno.EMFILE) in taken.failure
    released = holder.release()
    assert (released.unlocked, released.failure) == (taken.held, None)
    again = holder.take(Holding(server.address, transport, keys, 10))
    assert (again.held, again.failure) == (10, None)


@pytest.mark.parametrize("transport", BOTH)
def test_holds_that_were_lost_are_not_counted_as_unlocked(
    transport: str, server: ServerChild, holder: HolderChild, keys: list[str]
) -> None:
    assert holder.take(Holding(server.address, transport, keys, 20)).held == 20
    os.kill(server.pid, signal.SIGKILL)
    released = holder.release()
    assert released.unlocked == 0
    assert released.failure is not None
    assert released.failure.startswith("LockLost: ")


def test_a_server_that_gives_no_locks_at_all_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    absent = [source.key.text for source in made(1)]
    with pytest.raises(ChildError, match="not even 1 locks could be held: LockRefused"):
        idle.measure("websocket", tmp_path / "none", absent, 1, rest_s=0)


def test_memory_that_is_resident_now_is_told_as_it_comes_and_goes() -> None:
    before = procfs.memory_kib(os.getpid())
    block = bytearray(b"x") * 100_000_000
    assert 95_000 < procfs.memory_kib(os.getpid()) - before < 105_000
    del block
    assert procfs.memory_kib(os.getpid()) < before + 5_000
