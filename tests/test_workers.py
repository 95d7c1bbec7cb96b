"""The worker threads: whoever asks or goes away, and whatever the work does, all come back."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import pytest
from conftest import BOUND, eventually

from locklane_server.workers import (
    FIRST_PAUSE_SECONDS,
    MAX_BATCH,
    SLOW_AT_ONCE_SECONDS,
    SLOW_SECONDS,
    SLOW_SHARE,
    Workers,
    WouldWait,
)


@pytest.fixture
def workers() -> Iterator[Workers]:
    made = Workers(2)
    yield made
    made.close()


@asynccontextmanager
async def nothing_left(workers: Workers) -> AsyncIterator[None]:
    tasks = asyncio.all_tasks()
    try:
        yield
    finally:
        workers.close()
    await eventually(lambda: workers.busy == 0)
    await eventually(lambda: asyncio.all_tasks() <= tasks)
    assert not workers._waiting
    assert not workers._batches


class Gate:
    """Work that begins, and then waits until it is let go on."""

    def __init__(self) -> None:
        self.begun = 0
        self.most = 0
        self.done = 0
        self._now = 0
        self._guard = threading.Lock()
        self._open = threading.Event()

    def work(self) -> str:
        with self._guard:
            self.begun += 1
            self._now += 1
            self.most = max(self.most, self._now)
        assert self._open.wait(BOUND), "nobody opened the gate"
        with self._guard:
            self._now -= 1
            self.done += 1
        return "done"

    def open(self) -> None:
        self._open.set()


@contextmanager
def gate() -> Iterator[Gate]:
    it = Gate()
    try:
        yield it
    finally:
        it.open()


async def turns(count: int = 50) -> None:
    """Let everything happen that can without waiting for anything."""
    for _ in range(count):
        await asyncio.sleep(0)


def fail(text: str) -> None:
    raise ValueError(text)


@pytest.mark.parametrize("jobs", [0, -1])
def test_there_has_to_be_a_worker(jobs: int) -> None:
    with pytest.raises(ValueError, match="1 worker or more"):
        Workers(jobs)


# -- run -------------------------------------------------------------------------------------------


async def test_run_gives_what_the_work_gives_and_raises_what_it_raises() -> None:
    workers = Workers(1)
    async with nothing_left(workers):
        for _ in range(3):  # with one worker, which comes back each time
            assert await workers.run(divmod, 7, 2) == (3, 1)
            with pytest.raises(ValueError, match="no good"):
                await workers.run(fail, "no good")
            assert workers.busy == 0


@pytest.mark.parametrize("brief", [False, True], ids=["run", "run_brief"])
async def test_a_caller_that_is_cancelled_goes_when_the_work_is_done(brief: bool) -> None:
    workers = Workers(1)
    run = workers.run_brief if brief else workers.run
    async with nothing_left(workers):
        with gate() as it:
            caller = asyncio.create_task(run(it.work))
            await eventually(lambda: it.begun == 1)
            for _ in range(3):  # however impatient it is
                caller.cancel()
                await turns()
                assert not caller.done()
                assert workers.busy == (0 if brief else 1)
            it.open()
            with pytest.raises(asyncio.CancelledError):
                await caller
            assert it.done == 1
        assert await run(str, 1) == "1"


@pytest.mark.parametrize("brief", [False, True], ids=["run", "run_brief"])
async def test_the_failure_of_work_whose_caller_was_cancelled_bothers_nobody(brief: bool) -> None:
    workers = Workers(1)
    complaints: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, what: complaints.append(what))

    def work(it: Gate) -> None:
        it.work()
        fail("too late")

    async with nothing_left(workers):
        with gate() as it:
            caller = asyncio.create_task((workers.run_brief if brief else workers.run)(work, it))
            await eventually(lambda: it.begun == 1)
            caller.cancel()
            await turns()
            it.open()
            await asyncio.wait([caller])
        assert await workers.run_brief(str, 1) == "1"
    # Either is an answer to who was cancelled.
    assert caller.cancelled() or isinstance(caller.exception(), ValueError)
    assert not complaints


async def test_no_more_work_at_once_than_there_are_workers_and_the_rest_waits() -> None:
    workers = Workers(3)
    async with nothing_left(workers):
        with gate() as it:
            callers = [asyncio.create_task(workers.run(it.work)) for _ in range(20)]
            await eventually(lambda: it.begun == 3)
            await turns()
            assert it.begun == 3
            assert workers.busy == 20
            # Who goes away before it was its turn holds nothing up, and is not done.
            callers[-1].cancel()
            with pytest.raises(asyncio.CancelledError):
                await callers[-1]
            it.open()
            assert await asyncio.gather(*callers[:-1]) == ["done"] * 19
        assert it.most == 3
        assert it.done == 19


# -- run_brief -------------------------------------------------------------------------------------


async def test_brief_work_of_many_gives_each_its_own_result_or_failure() -> None:
    workers = Workers(2)
    async with nothing_left(workers):
        results = await asyncio.gather(
            *(
                workers.run_brief(fail, str(number)) if number % 3 else
                workers.run_brief(pow, number, 2)
                for number in range(5 * MAX_BATCH)
            ),
            return_exceptions=True,
        )  # fmt: skip
        for number, result in enumerate(results):
            if number % 3:
                assert isinstance(result, ValueError)
                assert str(result) == str(number)
            else:
                assert result == number**2


async def test_brief_work_is_done_in_the_order_in_which_a_caller_asks() -> None:
    workers = Workers(4)
    done: list[tuple[int, int]] = []

    async def call(caller: int) -> None:
        for number in range(50):
            await workers.run_brief(done.append, (caller, number))

    async with nothing_left(workers):
        await asyncio.gather(*(call(caller) for caller in range(10)))
    for caller in range(10):
        assert [number for who, number in done if who == caller] == list(range(50))


async def test_brief_work_that_is_stuck_does_not_hold_up_what_comes_after_it() -> None:
    workers = Workers(2)
    async with nothing_left(workers):
        with gate() as it:
            stuck = asyncio.create_task(workers.run_brief(it.work))
            await eventually(lambda: it.begun == 1)
            for number in range(10):
                async with asyncio.timeout(BOUND):
                    assert await workers.run_brief(str, number) == str(number)
            assert not stuck.done()
            it.open()
            assert await stuck == "done"


async def test_brief_work_takes_no_more_workers_than_there_are() -> None:
    """All are stuck: what comes after waits, and is done when one comes free."""
    workers = Workers(2)
    async with nothing_left(workers):
        with gate() as it:
            stuck = []
            for number in (1, 2):
                stuck.append(asyncio.create_task(workers.run_brief(it.work)))
                await eventually(lambda number=number: it.begun == number)
            waiting = [asyncio.create_task(workers.run_brief(it.work)) for _ in range(5)]
            # A look at what is stuck finds no worker free, again and again.
            looks = 0
            hand_out = workers._hand_out

            def counting() -> None:
                nonlocal looks
                looks += 1
                hand_out()

            workers._hand_out = counting  # type: ignore[method-assign]
            await eventually(lambda: looks >= 3)
            assert it.begun == 2
            assert not any(each.done() for each in waiting)
            it.open()
            assert await asyncio.gather(*stuck, *waiting) == ["done"] * 7
        assert it.most <= 2


async def test_brief_work_does_not_wait_behind_work_that_takes_long() -> None:
    workers = Workers(1)
    async with nothing_left(workers):
        with gate() as it:
            long = [asyncio.create_task(workers.run(it.work)) for _ in range(3)]
            await eventually(lambda: it.begun == 1)
            async with asyncio.timeout(BOUND):
                results = await asyncio.gather(*(workers.run_brief(str, n) for n in range(200)))
            assert results == [str(number) for number in range(200)]
            assert not any(each.done() for each in long)
            it.open()
            assert await asyncio.gather(*long) == ["done"] * 3


async def test_brief_work_whose_caller_is_cancelled_before_it_began_is_done_all_the_same() -> None:
    """An unlock, for example: it is small, and others may count on it."""
    workers = Workers(1)
    done: list[int] = []
    async with nothing_left(workers):
        with gate() as it:
            stuck = asyncio.create_task(workers.run_brief(it.work))
            await eventually(lambda: it.begun == 1)
            callers = [asyncio.create_task(workers.run_brief(done.append, n)) for n in range(3)]
            await turns()
            for caller in callers:
                caller.cancel()
            await turns()
            assert not any(caller.done() for caller in callers)
            it.open()
            assert await stuck == "done"
            await asyncio.wait(callers)
            assert all(caller.cancelled() for caller in callers)
    assert done == [0, 1, 2]


# -- at once ---------------------------------------------------------------------------------------


async def test_what_is_quick_is_done_on_the_spot(workers: Workers) -> None:
    """In this thread, and told that it may not wait."""
    done: list[tuple[int, bool]] = []

    def work(wait: bool) -> str:
        done.append((threading.get_ident(), wait))
        return "done"

    assert await workers.run_at_once(work) == "done"
    assert workers.at_once(work) == "done"
    assert done == [(threading.get_ident(), False)] * 2


async def test_what_would_wait_is_done_by_a_worker(workers: Workers) -> None:
    done: list[tuple[bool, bool]] = []

    def work(wait: bool) -> str:
        done.append((threading.get_ident() == threading.main_thread().ident, wait))
        if not wait:
            raise WouldWait
        return "done"

    assert await workers.run_at_once(work) == "done"
    assert done == [(True, False), (False, True)]
    with pytest.raises(WouldWait):
        workers.at_once(work)


async def test_after_something_slow_the_workers_do_it_for_a_while(
    workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And for longer when it is slow again; once all was well for a while, as at first."""
    now = 1000.0
    monkeypatch.setattr("locklane_server.workers.time.monotonic", lambda: now)
    here = threading.get_ident()

    def quick(wait: bool) -> bool:
        return threading.get_ident() == here

    def slow(wait: bool) -> None:
        nonlocal now
        now += 2 * SLOW_AT_ONCE_SECONDS

    pause = FIRST_PAUSE_SECONDS
    for _ in range(3):
        assert await workers.run_at_once(quick)
        await workers.run_at_once(slow)
        assert workers.disk_is_slow
        now += 0.9 * pause
        assert not await workers.run_at_once(quick)
        now += 0.2 * pause
        assert not workers.disk_is_slow
        pause *= 2
    assert await workers.run_at_once(quick)
    now += 2 * pause
    assert await workers.run_at_once(quick)
    await workers.run_at_once(slow)
    now += 1.1 * FIRST_PAUSE_SECONDS
    assert await workers.run_at_once(quick)


async def test_a_hiccup_now_and_then_is_no_reason_but_many_are(
    workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr("locklane_server.workers.time.monotonic", lambda: now)
    took = SLOW_AT_ONCE_SECONDS / 2

    def slow(wait: bool) -> None:
        nonlocal now
        now += took

    for _ in range(100):
        await workers.run_at_once(slow)
        assert not workers.disk_is_slow
        now += took / SLOW_SHARE
    for _ in range(100):
        await workers.run_at_once(slow)
        if workers.disk_is_slow:
            break
        now += took / SLOW_SHARE / 2
    assert workers.disk_is_slow

    now += FIRST_PAUSE_SECONDS
    assert not workers.disk_is_slow
    took = 0.9 * SLOW_SECONDS
    for _ in range(100):
        await workers.run_at_once(slow)
    assert not workers.disk_is_slow


async def test_an_error_of_what_is_done_at_once_is_the_callers(workers: Workers) -> None:
    def work(wait: bool) -> None:
        raise OSError("no")

    with pytest.raises(OSError, match="no"):
        await workers.run_at_once(work)
