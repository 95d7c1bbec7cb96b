"""Retention files are in wall-clock time, and somebody sets that clock: ten minutes stay the ten
minutes that really pass, to a server that runs and to one that comes after one that was killed."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from conftest import key_of, object_path, put
from hypothesis import given
from hypothesis import strategies as st
from kinds import git, lock_files
from stepping import Machine

from locklane_client import Key
from locklane_client.wire import RETENTION
from locklane_server.locks import Lock, Refusal
from locklane_server.repository.annex import clocksteps, retentionfiles
from locklane_server.repository.annex.clocksteps import Era, Eras
from locklane_server.repository.annex.contentlock import ContentLocks, Taken
from locklane_server.repository.annex.modes import Modes
from locklane_server.repository.annex.repository import AnnexRepository
from locklane_server.repository.annex.wallclock import WallClock
from locklane_server.served import ServedRepository
from locklane_server.workers import Workers

MINUTE = 60.0
HOUR = 3600.0
SECOND = 1.0
"""How much longer than its time a promise may count."""

# -- what is decided -------------------------------------------------------------------------------


class Watch:
    """Who watches a machine's clock, and promises by it."""

    def __init__(self) -> None:
        self.machine = Machine()
        self.eras: Eras = ()
        self.look()

    def look(self) -> None:
        seen = Era(self.machine.up, self.machine.offset)
        self.eras = clocksteps.needed(clocksteps.merged((*self.eras, seen)), self.machine.up)

    def promise(self) -> tuple[float, float]:
        """When it really ends, and what is written down."""
        self.look()
        return self.machine.up + RETENTION, self.machine.wall() + RETENTION

    def left(self, written: float) -> float:
        self.look()
        now = self.machine.up
        return clocksteps.end(self.eras, written, now, self.machine.offset) - now


seconds = st.one_of(
    st.integers(0, 5), st.integers(0, 1500), st.sampled_from([599, 600, 601, 660, 3600, 90_000])
)
either_way = st.builds(int.__mul__, seconds, st.sampled_from([1, -1]))


@given(
    events=st.lists(
        st.one_of(
            st.tuples(st.just("pass"), seconds),
            st.tuples(st.just("step"), either_way),
            st.tuples(st.just("look"), st.just(0)),
            st.tuples(st.just("promise"), st.just(0)),
        ),
        max_size=25,
    )
)
def test_no_step_ends_a_promise_before_its_time(events: list[tuple[str, int]]) -> None:
    """However often, how far and in which direction the clock is set, watched or not."""
    watch = Watch()
    promises: list[tuple[float, float]] = []
    for event, amount in events:
        match event:
            case "pass":
                watch.machine.passes(amount)
            case "step":
                watch.machine.steps(amount)
            case "look":
                watch.look()
            case "promise":
                promises.append(watch.promise())
        for end, written in promises:
            if watch.machine.up <= end:
                assert watch.left(written) >= end - watch.machine.up - 1e-5


@given(
    events=st.lists(
        st.tuples(st.sampled_from(["pass", "step", "promise"]), seconds), min_size=3, max_size=25
    )
)
def test_steps_forward_do_not_make_a_promise_longer(events: list[tuple[str, int]]) -> None:
    watch = Watch()
    promises: list[tuple[float, float]] = []
    for event, amount in events:
        match event:
            case "pass":
                watch.machine.passes(amount)
            case "step":
                watch.machine.steps(amount)
                watch.look()
            case "promise":
                promises.append(watch.promise())
        for end, written in promises:
            left = end - watch.machine.up
            assert watch.left(written) <= max(0.0, left) + 1.1


@given(back=st.integers(2, 100_000), before=st.integers(0, 599), after=st.integers(0, 200_000))
def test_a_step_back_does_not_make_a_promise_longer(back: int, before: int, after: int) -> None:
    """But when that time comes a second time, ten minutes of it cannot be told from a new one."""
    watch = Watch()
    end, written = watch.promise()
    watch.machine.passes(before)
    watch.machine.steps(-back)
    watch.look()
    watch.machine.passes(after)
    really = end - watch.machine.up
    again = 0 <= really + back <= RETENTION + SECOND
    assert (watch.left(written) >= 0) == (really >= -clocksteps.TOLERANCE_SECONDS or again)


def test_without_a_step_the_wall_clock_is_believed_however_long_a_promise_is() -> None:
    """Another git-annex may promise more than ten minutes."""
    watch = Watch()
    written = watch.machine.wall() + 3 * HOUR
    watch.machine.passes(2 * HOUR)
    assert watch.left(written) == HOUR
    watch.machine.steps(10 * MINUTE)
    assert watch.left(written) >= HOUR, "a step does not make it shorter"


def test_what_cannot_matter_any_more_is_forgotten() -> None:
    watch = Watch()
    for _ in range(50):
        watch.machine.steps(HOUR)
        watch.look()
        watch.machine.passes(15 * MINUTE)
    watch.look()
    assert len(watch.eras) == 1
    watch.machine.steps(-HOUR)
    watch.look()
    watch.machine.passes(50 * MINUTE)
    watch.look()
    assert len(watch.eras) == 2, "what was promised then still seems to go on"
    watch.machine.passes(25 * MINUTE)
    watch.look()
    assert len(watch.eras) == 1


# -- what is written down --------------------------------------------------------------------------


def clock_of(machine: Machine, directory: Path) -> WallClock:
    return WallClock(str(directory), clock=machine.clock, wall=machine.wall, boot=machine.boot)


def test_who_comes_after_knows_of_the_steps(tmp_path: Path) -> None:
    machine = Machine()
    clock_of(machine, tmp_path).write_down()
    promised = machine.wall() + RETENTION
    machine.passes(MINUTE)
    machine.steps(11 * MINUTE)
    machine.passes(MINUTE)
    later = clock_of(machine, tmp_path)
    left = later.as_now(promised)
    assert left is not None
    assert left - machine.wall() == pytest.approx(8 * MINUTE, abs=0.1)
    machine.passes(8 * MINUTE + SECOND)
    assert later.as_now(promised) is None


def test_who_runs_beside_learns_of_steps_that_it_has_not_seen(tmp_path: Path) -> None:
    """The clock is set and set back between two looks of the one, and the other has promised."""
    machine = Machine()
    one, other = clock_of(machine, tmp_path), clock_of(machine, tmp_path)
    one.write_down()
    machine.steps(-HOUR)
    assert other.look()
    other.write_down()
    assert not other.look()
    promised = other.until(machine.up + RETENTION)
    machine.steps(HOUR)
    assert one.as_now(promised) is not None


def test_another_run_of_the_machine_is_not_this_one(tmp_path: Path) -> None:
    """All that is left is the wall clock, and it is believed."""
    machine = Machine()
    clock_of(machine, tmp_path).write_down()
    promised = machine.wall() + RETENTION
    machine.steps(11 * MINUTE)
    machine.reboots()
    later = clock_of(machine, tmp_path)
    assert later.as_now(promised) is None
    assert later.as_now(promised + 2 * MINUTE) == promised + 2 * MINUTE
    later.write_down()
    assert len(list(tmp_path.iterdir())) == 2
    later.forget_other_runs()
    assert [path.name for path in tmp_path.iterdir()] == [f"clock-{machine.boot}"]


@pytest.mark.parametrize("text", [b"", b"\0\0\0", b"12.0", b"1.0 2.0 3.0\nnan nan\n1e9 5.0\n"])
def test_what_cannot_be_understood_is_passed_over(tmp_path: Path, text: bytes) -> None:
    machine = Machine()
    (tmp_path / f"clock-{machine.boot}").write_bytes(text)
    clock = clock_of(machine, tmp_path)
    assert clock.offset == machine.offset
    clock.write_down()
    assert clock_of(machine, tmp_path).offset == machine.offset


def test_however_often_it_is_set_little_is_written_down(tmp_path: Path) -> None:
    machine = Machine()
    clock = clock_of(machine, tmp_path)
    for _ in range(1500):
        machine.passes(5)
        machine.steps(1)
        assert clock.look()
        clock.write_down()
    (written,) = tmp_path.iterdir()
    assert written.stat().st_size < 20_000


def test_the_real_clocks_are_not_said_to_have_been_stepped(tmp_path: Path) -> None:
    clock = WallClock(str(tmp_path))
    clock.write_down()
    assert not any(clock.look() for _ in range(20_000))


# -- locks that are held ---------------------------------------------------------------------------


class Holder:
    """A process that has content locked, on a machine; the retention file as git-annex reads it."""

    def __init__(self, directory: Path) -> None:
        self.machine = Machine()
        (directory / "own").mkdir()
        self.path = directory / "key" / "key"
        self.path.parent.mkdir()
        self.path.write_text("content")
        self.own = directory / "own"
        self.locks = self.another()

    def another(self) -> ContentLocks:
        self.wall = clock_of(self.machine, self.own)
        self.wall.write_down()
        return ContentLocks(str(self.own), Modes(), wall=self.wall)

    def lock(self, name: str, locks: ContentLocks | None = None) -> None:
        locks = self.locks if locks is None else locks
        assert locks.lock(str(self.path), name, self.machine.wall() + RETENTION) is Taken.LOCKED

    def follow(self) -> None:
        self.wall.look()
        self.wall.write_down()
        assert self.locks.stepped
        self.locks.restate()
        assert not self.locks.stepped

    def left(self) -> float:
        """Seconds, to git-annex."""
        until = retentionfiles.read(f"{self.path}.rtm")
        assert until is not None
        return until - self.machine.wall()

    def removable(self, locks: ContentLocks) -> bool:
        with locks.removing(str(self.path)) as mine:
            return mine


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[Holder]:
    made = Holder(tmp_path)
    yield made
    made.locks.abandon()


STEPS = [11 * MINUTE, -11 * MINUTE, 90 * HOUR, -90 * HOUR, 1.0, -1.0]


@pytest.mark.parametrize("step", STEPS)
def test_retention_is_written_anew_when_the_clock_was_set(holder: Holder, step: float) -> None:
    """So that git-annex, too, goes by ten minutes when this process is killed after that."""
    holder.lock("a")
    holder.machine.passes(MINUTE)
    holder.machine.steps(step)
    holder.follow()
    assert holder.left() == pytest.approx(9 * MINUTE, abs=0.1)
    holder.locks.unlock("a")
    assert [path.name for path in holder.path.parent.iterdir()] == ["key"]


@pytest.mark.parametrize("step", STEPS)
def test_a_lock_after_the_step_is_good_for_its_own_ten_minutes(holder: Holder, step: float) -> None:
    """Also where the clock went back, and the file that is there seems to say enough."""
    holder.lock("a")
    holder.machine.passes(MINUTE)
    holder.machine.steps(step)
    assert holder.wall.look()
    holder.lock("b")
    assert holder.left() == pytest.approx(10 * MINUTE, abs=0.1)
    holder.locks.abandon()
    later = holder.another()
    holder.machine.passes(10 * MINUTE - SECOND)
    assert not holder.removable(later)
    holder.machine.passes(2 * SECOND)
    assert holder.removable(later)
    later.abandon()


@pytest.mark.parametrize("step", STEPS)
def test_anothers_promise_follows_too(holder: Holder, step: float) -> None:
    """One process is killed; the other, whose lock is a little older, goes on and unlocks."""
    dead = holder.another()
    holder.locks = holder.another()
    holder.lock("a", dead)
    holder.machine.passes(MINUTE)
    holder.lock("b")
    dead.abandon()
    holder.machine.steps(step)
    holder.follow()
    holder.locks.unlock("b")
    assert holder.left() == pytest.approx(9 * MINUTE, abs=0.2)
    assert not holder.removable(holder.locks)


def test_what_is_over_is_not_written_anew(holder: Holder) -> None:
    """A lock that is held for longer than ten minutes: its hold keeps it, and nothing after."""
    holder.lock("a")
    holder.machine.passes(11 * MINUTE)
    before = Path(f"{holder.path}.rtm").read_bytes()
    holder.machine.steps(HOUR)
    holder.follow()
    assert Path(f"{holder.path}.rtm").read_bytes() == before
    assert not holder.removable(holder.another())


# -- a repository that is served -------------------------------------------------------------------


class Site:
    """A git-annex repository on a machine, and the servers of it, one after another."""

    def __init__(self, store: Path) -> None:
        self.store = store
        self.machine = Machine()
        self.workers = Workers()

    def open(self) -> ServedRepository:
        machine = self.machine
        repository = AnnexRepository.open(
            self.store, self.workers, clock=machine.clock, wall=machine.wall, boot=machine.boot
        )
        return ServedRepository(repository, clock=machine.clock)

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[ServedRepository]:
        served = self.open()
        try:
            await served.restore()
            yield served
        finally:
            await served.aclose()

    def lock_and_be_killed(self, key: Key) -> None:
        """A process of its own takes a lock and is killed with it."""
        program = """if True:
            import asyncio, os, signal, sys
            from pathlib import Path
            from stepping import Machine
            from test_clock_steps import Site, take
            from locklane_client import Key
            site = Site(Path(sys.argv[1]))
            site.machine.up, site.machine.offset = map(float, sys.argv[3:5])
            site.machine.boot = sys.argv[5]
            asyncio.run(take(site.open(), Key.parse(sys.argv[2])))
            os.kill(os.getpid(), signal.SIGKILL)
        """
        machine = self.machine
        words = [str(self.store), key.text, repr(machine.up), repr(machine.offset), machine.boot]
        died = subprocess.run(
            [sys.executable, "-c", program, *words], cwd=Path(__file__).parent, capture_output=True
        )
        assert died.returncode == -9, died.stderr


async def take(served: ServedRepository, key: Key) -> Lock:
    lock = await served.lock(key, "somebody", "longpoll", live=False)
    assert isinstance(lock, Lock)
    return lock


@pytest.fixture
def site(store: Path) -> Iterator[Site]:
    made = Site(store)
    yield made
    made.workers.close()


annex = pytest.mark.kinds("annex")


@annex
@pytest.mark.parametrize("step", STEPS)
async def test_a_step_after_kill_9_neither_ends_nor_extends_the_ten_minutes(
    site: Site, key: Key, step: float
) -> None:
    """The server is killed, then the clock is set, and a new server is asked to remove."""
    site.lock_and_be_killed(key)
    site.machine.passes(MINUTE)
    site.machine.steps(step)
    async with site.serving() as served:
        assert await served.remove(key) is Refusal.LOCKED
        site.machine.passes(9 * MINUTE - SECOND)
        assert await served.remove(key) is Refusal.LOCKED
        assert object_path(site.store, key).exists()
        site.machine.passes(3 * SECOND)
        assert await served.remove(key) is None
    assert not object_path(site.store, key).exists()


@annex
async def test_a_step_while_the_new_server_runs_counts_as_little(site: Site, key: Key) -> None:
    site.lock_and_be_killed(key)
    async with site.serving() as served:
        site.machine.passes(MINUTE)
        site.machine.steps(11 * MINUTE)
        assert await served.remove(key) is Refusal.LOCKED
        site.machine.steps(-12 * HOUR)
        assert await served.remove(key) is Refusal.LOCKED
        site.machine.passes(9 * MINUTE + SECOND)
        assert await served.remove(key) is None


@annex
async def test_a_running_server_writes_retention_anew_within_a_sweep(site: Site, key: Key) -> None:
    async with site.serving() as served:
        lock = await take(served, key)
        site.machine.passes(MINUTE)
        site.machine.steps(11 * MINUTE)
        await served.sweep()
        (file,) = lock_files(site.store, "rtm")
        until = retentionfiles.read(str(file))
        assert until is not None
        assert until - site.machine.wall() == pytest.approx(9 * MINUTE, abs=0.1)
        await served.unlock(lock)
        await served.sweep()
        assert lock_files(site.store, "rtm") == []


@annex
async def test_what_git_annex_has_to_remove_is_kept_from_it(site: Site) -> None:
    """A file that is checked out unlocked; git-annex itself would take the promise to be over."""
    (site.store / "open.txt").write_bytes(b"to be edited\n")
    git(site.store, "annex", "add", "-q", "--backend=SHA256E", "open.txt")
    git(site.store, "annex", "unlock", "-q", "open.txt")
    git(site.store, "commit", "-q", "-m", "unlocked")
    key = key_of(b"to be edited\n")
    site.machine = Machine(wall=1_600_000_000.0)  # so that to git-annex all this is long ago
    site.lock_and_be_killed(key)
    site.machine.steps(11 * MINUTE)
    async with site.serving() as served:
        assert await served.remove(key) is Refusal.LOCKED
        assert object_path(site.store, key).exists()
        site.machine.passes(10 * MINUTE + SECOND)
        assert await served.remove(key) is None
    assert not object_path(site.store, key).exists()


@annex
async def test_after_a_restart_of_the_machine_the_wall_clock_is_what_counts(
    site: Site, key: Key
) -> None:
    site.lock_and_be_killed(key)
    site.machine.passes(MINUTE)
    site.machine.reboots()
    async with site.serving() as served:
        assert await served.remove(key) is Refusal.LOCKED
        site.machine.passes(9 * MINUTE + SECOND)
        assert await served.remove(key) is None
    own = site.store / ".git/annex/locklane"
    assert [path.name for path in own.iterdir()] == [f"clock-{site.machine.boot}"]


async def test_a_directory_does_not_go_by_the_wall_clock_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not one of its decisions reads it."""
    import time

    from locklane_server.repository.directory import DirectoryRepository

    def read() -> float:
        raise AssertionError("the wall clock was read")

    machine, workers = Machine(), Workers()
    key = put(tmp_path, b"content")

    def open_it() -> ServedRepository:
        repository = DirectoryRepository.open(
            tmp_path, workers, uuid="it", clock=machine.clock, reserve=0
        )
        return ServedRepository(repository, clock=machine.clock)

    with monkeypatch.context() as patched:
        patched.setattr(time, "time", read)
        for left in (RETENTION, RETENTION - MINUTE, 0.0):
            served = open_it()
            await served.restore()
            if left == RETENTION:
                await take(served, key)
            assert await served.remove(key) is (Refusal.LOCKED if left else None)
            await served.aclose()
            machine.passes(MINUTE if left == RETENTION else RETENTION)
    await asyncio.to_thread(workers.close)
