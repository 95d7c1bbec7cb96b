"""Three repositories that each hold a copy of one piece of content, their servers, and clients that
drop it: a world without disks and sockets, in which every step is a choice.

What decides is the real thing: :class:`~locklane_server.locks.LockManager` and
:mod:`~locklane_server.repository.annex.clocksteps`. What stands for the disk does what the two
kinds of repository do there, no more.

All that is left out on purpose: a wall clock that is wrong after a restart of the machine, over
which nothing else is left to git-annex's format; git-annex itself, which judges retention by the
wall clock even then when that is set; and a connection that outlives the machine at its other end.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from functools import partial

from stepping import Machine

from locklane_client.wire import RETENTION
from locklane_server.locks import Lock, LockManager, Refusal
from locklane_server.repository.annex import clocksteps
from locklane_server.repository.annex.clocksteps import Era, Eras

KEY = "SHA256E-s10--ab12.txt"
PASSES = (0.5, 30.0, 299.0, 301.0, 601.0)
STEPS = (660.0, -660.0, 7200.0, -7200.0)
MOST_DROPS = 8
KINDS_OF_MOVES = [
    kind
    for kind, weight in {
        "go_on": 30,
        "begin": 12,
        "restart": 6,
        "step": 10,
        "pass": 3,
        "lose": 3,
        "crash": 1,
        "start": 2,
        "tick": 1,
        "reboot": 1,
        "vanish": 1,
    }.items()
    for _ in range(weight)
]
"""Each as often as it is here."""

Moves = list[tuple[str, Callable[[], object]]]


class LastCopyLostError(AssertionError):
    """What must not be."""


class Site:
    """A repository, its machine and its server."""

    kind = ""

    def __init__(self, name: str, has: bool, number: int) -> None:
        self.name = name
        self.has = has
        self.machine = Machine(1_800_000_000.0)
        self.machine.up += 777.7 * number
        self.manager: LockManager | None = None
        self.run = 0
        """Changes when the server is killed: what was under way with it is over."""
        self.local = False
        """A program beside the server is removing the content."""
        self.start()

    @property
    def now(self) -> float:
        return self.machine.up

    @property
    def watched(self) -> bool:
        """Somebody has seen the wall clock since the machine was started."""
        return True

    # -- the server --------------------------------------------------------------------------------

    def start(self) -> None:
        self.manager = LockManager()
        self.restore(self.manager)

    def crash(self) -> None:
        """``kill -9``."""
        self.manager = None
        self.run += 1

    def restart_machine(self) -> None:
        self.crash()
        self.local = False
        self.machine.reboots()

    def lock(self, *, live: bool) -> Lock | None:
        if self.manager is None:
            return None
        lock = self.manager.lock(KEY, "owner", "any", self.now, live=live)
        if isinstance(lock, Refusal):
            return None
        if not self.has or self.local:
            self.manager.unlock(lock.id, self.now)
            return None
        self.promise(lock)
        return lock

    def keep(self, lock: Lock) -> bool:
        return self.manager is not None and isinstance(self.manager.keep(lock.id, self.now), Lock)

    def lose(self, lock: Lock) -> None:
        assert self.manager is not None
        self.manager.lose(lock.id, self.now)
        self.clear()

    def unlock(self, lock: Lock) -> None:
        if self.manager is not None and isinstance(self.manager.unlock(lock.id, self.now), Lock):
            self.forget(lock)

    def live(self) -> list[Lock]:
        return [] if self.manager is None else [lock for lock in self.manager if lock.live]

    def begin_removal(self, before: float) -> bool:
        """The server's first look."""
        assert self.manager is not None
        refusal = self.manager.begin_removal(KEY, self.now, before=before)
        self.clear()
        return refusal is None

    def end_removal(self, before: float) -> None:
        """The content is deleted, if its turn comes in time and the disk has nothing against it."""
        assert self.manager is not None
        if self.now <= before and not self.local and not self.retained():
            self.has = False
        self.manager.end_removal(KEY)

    def clear(self) -> None:
        """Forget what is over."""
        if self.manager is not None:
            for lock in self.manager.take_expired():
                self.forget(lock)

    def tick(self) -> None:
        if self.manager is not None:
            self.manager.expire(self.now)
            self.clear()

    # -- what a kind of repository does ------------------------------------------------------------

    def restore(self, manager: LockManager) -> None:
        """Take over what an earlier server has promised."""

    def promise(self, lock: Lock) -> None:
        """Record it."""

    def forget(self, lock: Lock) -> None:
        """It has ended."""

    def retained(self) -> bool:
        """What the disk has against a removal that the manager allows."""
        return False

    def begin_local(self) -> bool:
        """A program beside the server wants to remove the content."""
        return False


class Directory(Site):
    """As :class:`~locklane_server.repository.directory.DirectoryRepository`: each lock is a row."""

    kind = "directory"

    def __init__(self, name: str, has: bool, number: int) -> None:
        self.rows: dict[str, tuple[Lock, str]] = {}
        super().__init__(name, has, number)

    def restore(self, manager: LockManager) -> None:
        for lock_id, (lock, boot) in list(self.rows.items()):
            if boot != self.machine.boot:
                lock = replace(lock, locked_at=self.now)
                self.rows[lock_id] = (lock, self.machine.boot)
            if not manager.restore(replace(lock), self.now):
                del self.rows[lock_id]

    def promise(self, lock: Lock) -> None:
        self.rows[lock.id] = (replace(lock), self.machine.boot)

    def forget(self, lock: Lock) -> None:
        del self.rows[lock.id]


class Annex(Site):
    """As a git-annex repository: one time for all locks, by the wall clock."""

    kind = "annex"

    def __init__(self, name: str, has: bool, number: int) -> None:
        self.until: float | None = None
        self.eras: Eras = ()
        self.boot = ""
        self.foreign: float | None = None
        super().__init__(name, has, number)

    @property
    def watched(self) -> bool:
        return self.boot == self.machine.boot

    def look(self) -> None:
        if self.boot != self.machine.boot:
            self.boot, self.eras = self.machine.boot, ()
        seen = Era(self.now, self.machine.offset)
        self.eras = clocksteps.needed(clocksteps.merged((*self.eras, seen)), self.now)

    def left(self, until: float | None) -> float:
        """Seconds; less than 0: none."""
        if until is None:
            return -1.0
        self.look()
        return clocksteps.end(self.eras, until, self.now, self.machine.offset) - self.now

    def restore(self, manager: LockManager) -> None:
        self.look()
        self.foreign = None

    def promise(self, lock: Lock) -> None:
        assert self.manager is not None
        self.look()  # before anything is promised in its time
        if len(self.manager) == 1:  # the first; what is there is another's
            self.foreign = self.as_now(self.until)
        until = self.machine.wall() + lock.locked_at + RETENTION - self.now
        self.until = max(until, self.as_now(self.until) or 0.0)

    def as_now(self, until: float | None) -> float | None:
        left = self.left(until)
        return self.machine.wall() + left if left >= 0 else None

    def forget(self, lock: Lock) -> None:
        if not self.manager:  # the last has ended
            self.until = self.as_now(self.foreign)

    def tick(self) -> None:
        super().tick()
        if self.manager:
            self.until, self.foreign = self.as_now(self.until), self.as_now(self.foreign)
        self.look()

    def retained(self) -> bool:
        return self.left(self.until) >= 0

    def begin_local(self) -> bool:
        # A server that has a lock has the lock file locked.
        if self.local or not self.has or self.manager or self.retained():
            return False
        if self.manager is not None and KEY in self.manager._removing:
            return False
        self.local = True
        return True


@dataclass(slots=True)
class Drop:
    """A client that drops the content from one repository."""

    target: Site
    others: list[Site]
    live: bool
    """The hold begins with the lock."""
    local: bool
    """Its own repository, by a program beside its server."""
    steps: Generator[None, None, None] | None = None


Make = Callable[[str, bool, int], Site]


class World:
    """Everything, and what may happen next.

    :param kinds: what makes each repository.
    :param has: which of them hold a copy.
    """

    def __init__(self, kinds: list[Make], has: list[bool]) -> None:
        pairs = zip(kinds, has, strict=True)
        self.sites = [
            make(f"repository {number}", held, number) for number, (make, held) in enumerate(pairs)
        ]
        self.now = 0.0
        self.drops: list[Drop] = []
        self.begun = 0
        self.removed = 0
        self.log: list[str] = []

    # -- what a client does ------------------------------------------------------------------------

    def client(self, drop: Drop) -> Generator[None, None, None]:
        """Each ``yield`` is a moment in which anything else may happen."""
        target = drop.target
        taken: list[tuple[Site, Lock]] = []
        if drop.local and not target.begin_local():
            return
        try:
            deadline = yield from self.lock_others(drop, taken)
            if deadline is None:
                return
            if drop.local:
                if self.now < deadline and target.local:
                    target.has = False
            else:
                yield from self.remove_remotely(target, deadline)
        except GeneratorExit:  # it vanishes: its locks are left to the servers
            taken.clear()
            raise
        finally:
            if drop.local:
                target.local = False
            for site, lock in taken:
                site.unlock(lock)

    def lock_others(
        self, drop: Drop, taken: list[tuple[Site, Lock]]
    ) -> Generator[None, None, float | None]:
        """When the first of the locks ends, to the client; ``None``: not all could be had."""
        deadline = math.inf
        for site in drop.others:
            sent = self.now
            yield
            lock = site.lock(live=drop.live)
            if lock is None:
                return None
            taken.append((site, lock))
            deadline = min(deadline, sent + RETENTION)
            yield
            if not drop.live:
                site.keep(lock)  # nothing tells whether that went well
        yield
        return deadline

    def remove_remotely(self, target: Site, deadline: float) -> Generator[None, None, None]:
        """ "gettimestamp" and "remove-before", over one connection."""
        if target.manager is None:
            return
        run, stamp = target.run, math.floor(target.now)
        yield
        left = math.floor(deadline - self.now)
        if left <= 0:
            return
        yield
        if target.run != run or not target.begin_removal(stamp + left):
            return
        yield
        if target.run == run:
            target.end_removal(stamp + left)
        yield

    # -- what may happen ---------------------------------------------------------------------------

    def happens(self, choice: int) -> None:
        """One of all that may happen; 0 to 65,535."""
        kind, which = KINDS_OF_MOVES[choice % len(KINDS_OF_MOVES)], choice // len(KINDS_OF_MOVES)
        moves = getattr(self, f"may_{kind}")()
        if moves:
            name, move = moves[which % len(moves)]
            self.log.append(f"{self.now:g} s: {kind} {name}")
            move()
            self.check()

    def may_go_on(self) -> Moves:
        return [(str(self.begun), partial(self.go_on, drop)) for drop in self.drops]

    def may_vanish(self) -> Moves:
        return [(drop.target.name, partial(self.vanish, drop)) for drop in self.drops]

    def may_begin(self) -> Moves:
        moves: Moves = []
        if self.begun == MOST_DROPS:
            return moves
        for target in self.sites:
            others = [site for site in self.sites if site is not target and site.has]
            if target.has and others:
                chosen = [[site] for site in others] * 2 + [others[::-1]]
                for which in chosen:
                    for live, local in ((True, False), (False, False), (True, True)):
                        if not local or target.kind == "annex":
                            drop = Drop(target, which, live, local)
                            name = f"{target.name} {[site.name for site in which]} {live} {local}"
                            moves.append((name, partial(self.begin, drop)))
        return moves

    def may_crash(self) -> Moves:
        return [(site.name, site.crash) for site in self.sites if site.manager is not None]

    def may_start(self) -> Moves:
        return [(site.name, site.start) for site in self.sites if site.manager is None]

    def may_restart(self) -> Moves:
        return [(site.name, partial(self.restart, site)) for site in self.sites]

    def may_reboot(self) -> Moves:
        return [(site.name, site.restart_machine) for site in self.sites]

    def may_lose(self) -> Moves:
        return [
            (site.name, partial(site.lose, lock)) for site in self.sites for lock in site.live()
        ]

    def may_step(self) -> Moves:
        return [
            (f"{site.name} {step}", partial(site.machine.steps, step))
            for step in STEPS
            for site in self.sites
            if site.watched
        ]

    def may_tick(self) -> Moves:
        return [(site.name, site.tick) for site in self.sites]

    def may_pass(self) -> Moves:
        return [(str(seconds), partial(self.passes, seconds)) for seconds in PASSES]

    def restart(self, site: Site) -> None:
        """Somebody looks after it."""
        site.crash()
        site.start()

    def begin(self, drop: Drop) -> None:
        self.begun += 1
        self.drops.append(drop)
        drop.steps = self.client(drop)
        self.go_on(drop)

    def go_on(self, drop: Drop) -> None:
        assert drop.steps is not None
        before = sum(site.has for site in self.sites)
        try:
            next(drop.steps)
        except StopIteration:
            self.drops.remove(drop)
        self.removed += before - sum(site.has for site in self.sites)

    def vanish(self, drop: Drop) -> None:
        """Its servers find out in their own time."""
        assert drop.steps is not None
        drop.steps.close()
        self.drops.remove(drop)

    def passes(self, seconds: float) -> None:
        self.now += seconds
        for site in self.sites:
            site.machine.passes(seconds)

    def check(self) -> None:
        if not any(site.has for site in self.sites):
            raise LastCopyLostError("\n".join(self.log))
