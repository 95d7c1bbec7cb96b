"""What the disk knows of the locks, after the server or the whole machine has been restarted."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from locklane_client.wire import RETENTION
from locklane_server.locks import Lock, LockManager
from locklane_server.repository.retention import Retention

KEY = "SHA256E-s10--ab12.txt"
OWNER = "c5b1a7f4-1bb0-4f9f-8a3c-6b8e7d5d2c11"


class Machine:
    """A machine with its clock; :meth:`opened` is what a server started now would open."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.clock = 5000.0
        self.boot = "boot 1"
        self.open: list[Retention] = []

    def opened(self) -> Retention:
        self.close()
        retention = Retention(self.path, clock=lambda: self.clock, boot=self.boot)
        self.open.append(retention)
        return retention

    def close(self) -> None:
        while self.open:
            self.open.pop().close()

    def passes(self, seconds: float) -> None:
        self.clock += seconds

    def reboots(self, clock: float = 10.0) -> None:
        self.close()
        self.clock = clock
        self.boot += "'"

    def lock(
        self, lock_id: str = "id1", *, key: str = KEY, owner: str = OWNER, holds: int = 0
    ) -> Lock:
        return Lock(lock_id, key, owner, "longpoll", self.clock, holds)

    def left(self) -> dict[str, float]:
        """Seconds for which each lock is still retained, to a server started now."""
        return {lock.id: lock.locked_at + RETENTION - self.clock for lock in self.opened().all()}


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    machine = Machine(tmp_path / "retention.sqlite")
    yield machine
    machine.close()


def facts(lock: Lock) -> tuple[object, ...]:
    return lock.id, lock.key, lock.owner, lock.transport, lock.locked_at, lock.holds


def test_a_new_file_knows_no_lock(machine: Machine) -> None:
    assert machine.opened().all() == []
    assert machine.path.exists()


def test_a_lock_survives_the_close(machine: Machine) -> None:
    lock = machine.lock()
    machine.opened().add(lock)
    machine.passes(100)
    (found,) = machine.opened().all()
    assert facts(found) == facts(lock)


def test_a_lock_that_was_held_comes_back_without_its_holds(machine: Machine) -> None:
    machine.opened().add(machine.lock(holds=2))
    (found,) = machine.opened().all()
    assert found.holds == 0


def test_a_lock_survives_a_process_that_dies_without_a_close(machine: Machine) -> None:
    code = """if True:
        import os, sys
        from pathlib import Path
        from locklane_server.locks import Lock
        from locklane_server.repository.retention import Retention
        retention = Retention(Path(sys.argv[1]), clock=lambda: 5000.0, boot="boot 1")
        retention.add(Lock("id1", "A--1", "owner", "longpoll", 4990.0, 1))
        os.kill(os.getpid(), 9)
    """
    died = subprocess.run([sys.executable, "-c", code, str(machine.path)], timeout=30)
    assert died.returncode == -9
    assert machine.left() == {"id1": RETENTION - 10}


NAMES = [
    "",
    "é🐢",
    "WORM--\udcff\udcfe",
    "WORM--a\tb'\"; DROP TABLE lock; --",
    "x" * 4096,
    "a\0b",
    "[foo]",
]


@pytest.mark.parametrize("name", NAMES, ids=lambda name: ascii(name[:20]))
def test_any_key_and_any_owner_come_back(machine: Machine, name: str) -> None:
    machine.opened().add(machine.lock("key", key=name))
    machine.opened().add(machine.lock("owner", owner=name))
    found = {lock.id: lock for lock in machine.opened().all()}
    assert (found["key"].key, found["key"].owner) == (name, OWNER)
    assert (found["owner"].key, found["owner"].owner) == (KEY, name)


def test_many_locks_on_one_key_are_all_kept(machine: Machine) -> None:
    retention = machine.opened()
    for number in range(500):
        retention.add(machine.lock(f"id{number}"))
    assert set(machine.left()) == {f"id{number}" for number in range(500)}


def test_an_id_is_recorded_once(machine: Machine) -> None:
    retention = machine.opened()
    retention.add(machine.lock())
    machine.passes(5)
    with pytest.raises(sqlite3.Error):
        retention.add(machine.lock(key="A--other"))
    assert machine.left() == {"id1": RETENTION - 5}


# -- time ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("clock", [0.0, 10.0, 5000.0, 1e7])
def test_within_one_boot_a_lock_counts_from_when_it_was_taken(
    machine: Machine, clock: float
) -> None:
    machine.clock = clock
    machine.opened().add(machine.lock())
    machine.passes(100)
    assert machine.left() == {"id1": RETENTION - 100}
    machine.passes(501)
    assert machine.left() == {"id1": -1}


def test_a_lock_recorded_late_still_counts_from_when_it_was_taken(machine: Machine) -> None:
    lock = machine.lock()
    machine.passes(30)
    machine.opened().add(lock)
    assert machine.left() == {"id1": RETENTION - 30}


@pytest.mark.parametrize("clock", [0.0, 10.0, 5000.0, 1e7])
@pytest.mark.parametrize("held", [100.0, 1e6])
def test_a_lock_of_an_earlier_boot_counts_as_new_whatever_the_clock_reads(
    machine: Machine, clock: float, held: float
) -> None:
    """Nobody knows how long the machine was off, so the lock is never ended too early."""
    machine.opened().add(machine.lock())
    machine.passes(held)
    machine.reboots(clock)
    assert machine.left() == {"id1": RETENTION}


def test_a_lock_of_an_earlier_boot_counts_as_new_once_however_often_the_server_starts(
    machine: Machine,
) -> None:
    machine.opened().add(machine.lock())
    machine.reboots()
    assert machine.left() == {"id1": RETENTION}
    machine.passes(300)
    assert machine.left() == {"id1": RETENTION - 300}
    machine.passes(301)
    assert machine.left() == {"id1": -1}


def test_a_server_that_asks_again_gets_no_newer_locks(machine: Machine) -> None:
    machine.opened().add(machine.lock())
    machine.reboots()
    retention = machine.opened()
    (first,) = retention.all()
    machine.passes(300)
    (again,) = retention.all()
    assert facts(again) == facts(first)
    assert again.locked_at == machine.clock - 300


def test_a_lock_of_an_earlier_boot_has_all_its_other_facts(machine: Machine) -> None:
    lock = machine.lock(holds=1)
    machine.opened().add(lock)
    machine.reboots()
    (found,) = machine.opened().all()
    assert facts(found) == (lock.id, lock.key, lock.owner, lock.transport, machine.clock, 0)


def test_each_reboot_makes_a_lock_new_that_is_still_there(machine: Machine) -> None:
    machine.opened().add(machine.lock())
    machine.reboots()
    assert machine.left() == {"id1": RETENTION}
    machine.passes(300)
    machine.reboots()
    assert machine.left() == {"id1": RETENTION}


def test_a_lock_that_counts_as_new_does_so_once_even_if_its_server_is_killed(
    machine: Machine,
) -> None:
    machine.opened().add(machine.lock())
    machine.reboots()
    machine.close()
    code = """if True:
        import os, sys
        from pathlib import Path
        from locklane_server.repository.retention import Retention
        retention = Retention(Path(sys.argv[1]), clock=lambda: float(sys.argv[2]), boot=sys.argv[3])
        assert [lock.locked_at for lock in retention.all()] == [float(sys.argv[2])]
        os.kill(os.getpid(), 9)
    """
    command = [sys.executable, "-c", code, str(machine.path), str(machine.clock), machine.boot]
    died = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert died.returncode == -9, died.stderr
    machine.passes(200)
    assert machine.left() == {"id1": RETENTION - 200}


def test_only_the_locks_of_earlier_boots_count_as_new(machine: Machine) -> None:
    machine.opened().add(machine.lock("old"))
    machine.passes(100)
    machine.reboots()
    machine.opened().add(machine.lock("new"))
    machine.passes(100)
    assert machine.left() == {"old": RETENTION, "new": RETENTION - 100}


def test_a_manager_takes_over_exactly_the_locks_that_are_not_over(machine: Machine) -> None:
    retention = machine.opened()
    retention.add(machine.lock("old"))
    machine.passes(100)
    retention.add(machine.lock("new", holds=1))
    machine.passes(RETENTION - 100)
    manager = LockManager()
    kept = [lock.id for lock in machine.opened().all() if manager.restore(lock, machine.clock)]
    assert kept == ["new"]
    assert manager.next_expiry() == machine.clock + 100


# -- removal ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("ids", [[], ["id1"], ["id0", "id2"], ["id0", "id1", "id2"]])
def test_locks_that_ended_are_forgotten_and_no_others(machine: Machine, ids: list[str]) -> None:
    retention = machine.opened()
    locks = [machine.lock(f"id{number}") for number in range(3)]
    for lock in locks:
        retention.add(lock)
    for lock in locks:
        if lock.id in ids:
            retention.end(lock)
    retention.flush()
    assert set(machine.left()) == {"id0", "id1", "id2"} - set(ids)


def test_a_lock_that_is_not_recorded_can_be_forgotten(machine: Machine) -> None:
    retention = machine.opened()
    retention.add(machine.lock())
    retention.end(machine.lock("other"))
    retention.end(machine.lock("another"))
    retention.flush()
    assert set(machine.left()) == {"id1"}


def test_a_lock_can_be_recorded_after_many_were_forgotten(machine: Machine) -> None:
    retention = machine.opened()
    locks = [machine.lock(f"id{number}") for number in range(10)]
    for lock in locks:
        retention.add(lock)
    for lock in locks:
        retention.end(lock)
    retention.add(locks[0])
    retention.flush()
    assert set(machine.left()) == {"id0"}


def test_the_next_lock_recorded_takes_those_that_ended_with_it(machine: Machine) -> None:
    retention = machine.opened()
    first, second = machine.lock("first"), machine.lock("second")
    retention.add(first)
    retention.end(first)
    retention.add(second)
    assert set(machine.left()) == {"second"}


def test_a_lock_that_ended_comes_back_if_nothing_was_written_since(machine: Machine) -> None:
    """It does no harm: it is kept for the rest of its time."""
    retention = machine.opened()
    retention.add(machine.lock())
    retention.end(machine.lock())
    machine.passes(5)
    assert machine.left() == {"id1": RETENTION - 5}


def test_nothing_is_written_while_nothing_ended(machine: Machine) -> None:
    retention = machine.opened()
    retention.add(machine.lock())
    before = retention._database.total_changes
    retention.flush()
    retention.flush()
    assert retention._database.total_changes == before


def test_a_lock_that_could_not_be_recorded_leaves_those_that_ended_to_the_next(
    machine: Machine,
) -> None:
    retention = machine.opened()
    ended, taken = machine.lock("ended"), machine.lock("taken")
    retention.add(ended)
    retention.add(taken)
    retention.end(ended)
    with pytest.raises(sqlite3.IntegrityError):
        retention.add(taken)
    assert {lock.id for lock in retention.all()} == {"ended", "taken"}
    retention.add(machine.lock("next"))
    assert set(machine.left()) == {"taken", "next"}


# -- a disk that will not have it ------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"this is no database, but text" * 100, b"\0" * 4096])
def test_a_file_that_is_no_database_is_an_error_and_left_alone(
    machine: Machine, content: bytes
) -> None:
    machine.path.write_bytes(content)
    with pytest.raises(sqlite3.Error):
        machine.opened()
    assert machine.path.read_bytes() == content


def test_a_directory_in_its_place_is_an_error(machine: Machine) -> None:
    machine.path.mkdir()
    with pytest.raises(sqlite3.Error):
        machine.opened()


def test_a_missing_directory_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(sqlite3.Error):
        Machine(tmp_path / "missing" / "retention.sqlite").opened()


def test_a_database_with_other_columns_is_an_error_before_a_lock_is_promised(
    machine: Machine,
) -> None:
    database = sqlite3.connect(machine.path)
    database.execute("CREATE TABLE lock (id TEXT PRIMARY KEY)")
    database.close()
    with pytest.raises(sqlite3.Error):
        machine.opened().add(machine.lock())


def other_connection(statement: str) -> Callable[[Machine], None]:
    def connect(machine: Machine) -> None:
        with closing(sqlite3.connect(machine.path, timeout=0)) as other:
            other.execute(statement)

    return connect


OTHERS: dict[str, Callable[[Machine], object]] = {
    "reads": other_connection("SELECT * FROM lock"),
    "writes": other_connection("DELETE FROM lock"),
    "is a second server": lambda machine: Retention(machine.path, clock=lambda: machine.clock),
}


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS.keys())
def test_whoever_else_opens_the_database_is_told_at_once_that_it_is_locked(
    machine: Machine, other: Callable[[Machine], object]
) -> None:
    retention = machine.opened()
    retention.add(machine.lock())
    before = time.monotonic()
    with pytest.raises(sqlite3.OperationalError, match="database is locked"):
        other(machine)
    # By itself, sqlite3 waits for 5 seconds, which would be 5 seconds of the event loop.
    assert time.monotonic() - before < 2.5
    retention.add(machine.lock("id2"))
    assert set(machine.left()) == {"id1", "id2"}


def test_somebody_else_who_has_the_database_is_not_waited_for(machine: Machine) -> None:
    machine.opened().add(machine.lock())
    machine.close()
    with closing(sqlite3.connect(machine.path)) as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("SELECT * FROM lock").fetchall()
        before = time.monotonic()
        with pytest.raises(sqlite3.OperationalError, match="database is locked"):
            machine.opened()
        assert time.monotonic() - before < 2.5
    assert set(machine.left()) == {"id1"}


def test_a_closed_database_is_an_error(machine: Machine) -> None:
    retention = machine.opened()
    retention.close()
    with pytest.raises(sqlite3.Error):
        retention.add(machine.lock())


FULL_DISK = """if True:
    import resource, signal, sqlite3, sys
    from pathlib import Path
    from locklane_server.locks import Lock
    from locklane_server.repository.retention import Retention

    def lock(number):
        return Lock(f"id{number}", f"A--{number}" + "x" * 1000, "o", "longpoll", 4990.0, 0)

    retention = Retention(Path(sys.argv[1]), clock=lambda: 5000.0, boot="boot 1")
    for number in range(5):
        retention.add(lock(number))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    number, failed = 5, 0
    while failed < 2:
        try:
            retention.add(lock(number))
            number += 1
        except sqlite3.Error as error:
            failed += 1
            print(type(error).__name__, error, file=sys.stderr)
        assert number < 1000
    recorded = {each.id for each in retention.all()}
    assert recorded == {f"id{each}" for each in range(number)}, recorded
    retention.end(lock(0))
    retention.end(lock(1))
    for write in (retention.flush, lambda: retention.add(lock("none"))):
        try:
            write()
        except sqlite3.Error as error:
            print(type(error).__name__, error, file=sys.stderr)
        else:
            sys.exit("this cannot have been written")
    assert {each.id for each in retention.all()} == recorded
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    retention.flush()
    retention.add(lock("last"))
    retention.close()
    print(number)
"""


def test_a_full_disk_is_an_error_and_the_earlier_locks_stay(machine: Machine) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", FULL_DISK, str(machine.path)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    recorded = int(done.stdout)
    assert recorded > 5
    expected = {f"id{number}" for number in range(2, recorded)} | {"idlast"}
    assert set(machine.left()) == expected


def test_a_database_that_may_not_grow_is_an_error_and_the_earlier_locks_stay(
    machine: Machine,
) -> None:
    retention = machine.opened()
    retention._database.execute("PRAGMA max_page_count = 8")
    recorded = set()

    def fill() -> None:
        for number in range(1000):
            lock = machine.lock(f"id{number}", key="A--" + "x" * 1000)
            retention.add(lock)
            recorded.add(lock.id)

    with pytest.raises(sqlite3.Error, match="full"):
        fill()
    assert {lock.id for lock in retention.all()} == recorded
    assert 3 < len(recorded) < 1000
    retention.end(machine.lock("id0"))
    retention.add(machine.lock("after"))
    assert set(machine.left()) == recorded - {"id0"} | {"after"}
