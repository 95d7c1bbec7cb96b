"""A repository that is being served: the lock manager's decisions, made good on disk.

The manager decides and the repository waits; this is where the two meet, for every transport alike.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from types import TracebackType
from typing import Any

import anyio

from locklane_client.key import Key
from locklane_server.clock import Clock, boottime
from locklane_server.locks import DEFAULT_LIMIT, Allowance, Lock, LockManager, Refusal
from locklane_server.repository import Repository, RepositoryError

SWEEP_SECONDS = 1.0
"""How often what has ended is cleared from the disk. Decisions do not wait for it."""

_log = logging.getLogger(__name__)


class Hold:
    """One open hold on a lock. It ends by :meth:`unlock`, or by :meth:`lose`, for whatever reason:
    then the retention goes on.

    As a context manager it is around the waiting for its unlock: leaving it loses it, if it has not
    been unlocked, and if the lock is ended from elsewhere, the waiting is cancelled and
    :attr:`ended` says why. Where one task looks after many holds, :meth:`when_ended` tells it.
    """

    __slots__ = (
        "_cancelled",
        "_over",
        "_served",
        "_tell",
        "_waiting",
        "ended",
        "lock",
        "retained",
    )

    def __init__(self, served: ServedRepository, lock: Lock) -> None:
        self.lock = lock
        self.ended: str | None = None
        """Why the hold ended without its own unlock, in a sentence for the client."""
        self.retained = False
        """With :attr:`ended`: the lock is not over with it."""
        self._served = served
        self._over = False
        self._tell: Callable[[], object] | None = None
        self._waiting: asyncio.Task[Any] | None = None
        self._cancelled = False
        served._holds.setdefault(lock.id, set()).add(self)
        if served.stopping is not None:
            self.end(served.stopping, retained=True)

    def when_ended(self, tell: Callable[[], object]) -> None:
        """Be told, once and soon, when the hold ends from elsewhere; see :attr:`ended`."""
        self._tell = tell
        if self.ended is not None:  # shall be noticed where it waits, and not if it never does
            asyncio.get_running_loop().call_soon(self._say)

    def _say(self) -> None:
        if self._tell is not None and not self._over:
            self._tell()

    def __enter__(self) -> Hold:
        self._waiting = asyncio.current_task()
        self.when_ended(self._cancel)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        task, self._waiting = self._waiting, None
        self.lose()
        # As in asyncio.timeout: the cancellation was ours unless somebody else asked for one too.
        ours = self._cancelled and task is not None and task.uncancel() == 0
        return ours and kind is asyncio.CancelledError

    def _cancel(self) -> None:
        if self._waiting is not None and not self._cancelled:
            self._cancelled = True
            self._waiting.cancel()

    def _leave(self) -> None:
        self._over = True
        holds = self._served._holds.get(self.lock.id)
        if holds is not None:
            holds.discard(self)
            if not holds:
                del self._served._holds[self.lock.id]

    async def unlock(self) -> None:
        """End the lock, as its holder asked."""
        self.ended, self.retained = None, False  # whatever came just before
        self._leave()
        await self._served.unlock(self.lock)

    def lose(self) -> None:
        """It is over without an unlock; does nothing after the one."""
        if not self._over:
            self._leave()
            self._served.holds_lost[self.lock.transport] += 1
            self._served.manager.lose(self.lock.id, self._served.clock())

    def end(self, reason: str, *, retained: bool) -> None:
        """End the hold from elsewhere; ``retained``: but not the lock."""
        if self.ended is None and not self._over:
            self.ended, self.retained = reason, retained
            self._say()


class ServedRepository:
    """One repository with its locks. Use :meth:`restore` first; :meth:`sweep` now and then.

    :param limit: locks at once, where no ``allowance`` is given.
    :param allowance: of locks, shared with other repositories.
    :param clock: the server's monotonic clock.
    """

    def __init__(
        self,
        repository: Repository,
        *,
        limit: int = DEFAULT_LIMIT,
        allowance: Allowance | None = None,
        clock: Clock = boottime,
    ) -> None:
        self.repository = repository
        self.manager = LockManager(limit=limit, allowance=allowance)
        self.clock = clock
        self.locks_taken: Counter[str] = Counter()
        """Locks given out so far, by transport."""
        self.locks_refused: Counter[Refusal] = Counter()
        """Locks refused so far, by reason."""
        self.holds_lost: Counter[str] = Counter()
        """Holds that ended without an unlock so far, by transport."""
        self.stopping: str | None = None
        """Why every hold ends, and every new one at once: in a sentence for clients."""
        self.when_stopping: set[Callable[[], None]] = set()
        """Called when :attr:`stopping` is set, after all holds were told."""
        self._holds: dict[str, set[Hold]] = {}
        self._removals: set[asyncio.Task[Refusal | None]] = set()

    @property
    def uuid(self) -> str:
        return self.repository.uuid

    async def restore(self) -> None:
        """Take over the locks that an earlier server gave out and that have not ended."""
        now = self.clock()
        for lock in await self.repository.retained():
            if not self.manager.restore(lock, now):
                await self.repository.unlock_content(lock)
        if len(self.manager):
            _log.info("%s: locks of an earlier server: %d", self.uuid, len(self.manager))

    async def lock(
        self,
        key: Key,
        owner: str,
        transport: str,
        *,
        live: bool,
        user: str | None = None,
        account: str = "",
    ) -> Lock | Refusal:
        """Take a lock ("lockcontent"). With ``live``, the caller begins its hold with
        :meth:`begin_hold` before it waits for anything else.

        :raises RepositoryError: the disk does not let the promise be made; nothing is locked.
        """
        lock = self.manager.lock(
            key.text, owner, transport, self.clock(), live=live, user=user, account=account
        )
        if isinstance(lock, Refusal):
            self.locks_refused[lock] += 1
            return lock
        try:
            refusal = await self.repository.lock_content(key, lock)
        except RepositoryError:
            self.manager.unlock(lock.id, self.clock())
            raise
        except BaseException:  # which may have come after it was recorded
            with anyio.CancelScope(shield=True):
                await self.unlock(lock)
            raise
        if refusal is not None:
            self.manager.unlock(lock.id, self.clock())
            self.locks_refused[refusal] += 1
            return refusal
        self.locks_taken[transport] += 1
        return lock

    def begin_hold(self, lock: Lock) -> Hold:
        """The hold of a lock that was taken with ``live``."""
        return Hold(self, lock)

    def keep(self, lock_id: str, *, user: str | None = None) -> Hold | Refusal:
        """Open a hold on a lock that was taken before ("keeplocked")."""
        lock = self.manager.keep(lock_id, self.clock(), user=user)
        return lock if isinstance(lock, Refusal) else Hold(self, lock)

    def find(self, lock_id: str, *, user: str | None = None) -> Lock | Refusal:
        """A lock that has not ended, by its id, for who may keep it."""
        return self.manager.find(lock_id, self.clock(), user=user)

    async def unlock(self, lock: Lock) -> None:
        """End a lock, and every other hold on it."""
        self.manager.unlock(lock.id, self.clock())
        for other in tuple(self._holds.get(lock.id, ())):
            other.end("the lock has been unlocked by another request", retained=False)
        await self.repository.unlock_content(lock)

    async def remove(self, key: Key, *, before: float | None = None) -> Refusal | None:
        """Remove content, if nothing stands against it ("remove", "remove-before").

        :returns: why not, or ``None`` when the content is not there any more.
        :raises RepositoryError: the disk does not let it be removed.
        """
        refusal = self.manager.begin_removal(key.text, self.clock(), before=before)
        if refusal is Refusal.TOO_LATE and not await self.repository.present(key):
            return None  # as git-annex has it: what is not there has been removed
        if refusal is not None:
            return refusal
        removal = asyncio.create_task(self._remove(key, before))
        self._removals.add(removal)
        removal.add_done_callback(self._removals.discard)
        # Whoever asked may go away; the removal, once begun, is not given up half-way, because the
        # key may be locked again as soon as it is said to be over.
        return await asyncio.shield(removal)

    async def _remove(self, key: Key, before: float | None) -> Refusal | None:
        try:
            await self._clear_expired()  # one of them may have been on this key
            return await self.repository.remove(key, before=before)
        except RepositoryError as error:
            # Whoever asked may not be there any more to be told.
            _log.error("%s: %s: %s", self.uuid, key.text, error)
            raise
        finally:
            self.manager.end_removal(key.text)

    def end_holds(self, reason: str) -> None:
        """Tell every holder, and who comes after, that its hold is over; retention goes on."""
        self.stopping = reason
        for holds in tuple(self._holds.values()):
            for hold in tuple(holds):
                hold.end(reason, retained=True)
        for tell in tuple(self.when_stopping):
            tell()

    async def aclose(self) -> None:
        """Let go of the repository, when nothing is being removed from it any more."""
        while self._removals:
            await asyncio.wait(self._removals)
        await self.repository.aclose()

    @property
    def holds(self) -> int:
        """Holds now open."""
        return sum(len(holds) for holds in self._holds.values())

    async def sweep(self) -> None:
        """Clear what has expired, and let the repository tidy up."""
        self.manager.expire(self.clock())
        await self._clear_expired()
        await self.repository.tidy()

    async def _clear_expired(self) -> None:
        for lock in self.manager.take_expired():
            await self.repository.unlock_content(lock)

    async def keep_sweeping(self) -> None:
        """:meth:`sweep` until cancelled."""
        while True:
            await anyio.sleep(SWEEP_SECONDS)
            try:
                await self.sweep()
            except Exception:  # a fault of ours, which must not be the end of all sweeping
                _log.exception("%s: what has ended could not be cleared away", self.uuid)
