"""What works behind each reverse proxy: each transport is tried against a real server, not timed.

For each proxy there is a server of its own, which is asked about its locks without the proxy. The
reference client takes locks through the proxy, and what it believes is held against what the server
says.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeVar

import aiohttp
from yarl import URL

from locklane_bench.certificates import Certificates
from locklane_bench.children import PATIENCE_SECONDS, Child, ServerChild
from locklane_bench.keys import made, put_into_store
from locklane_bench.proxies import PROXIES, Proxy
from locklane_bench.proxies.child import HOST, ProxyChild
from locklane_bench.results import ProxyCheck
from locklane_client import TRANSPORTS, Client, Key, LocklaneError, LockLost
from locklane_client.address import Address
from locklane_client.client import Lock
from locklane_client.wire import JSON_TYPE, UNLOCK, VERSIONS, request_path
from locklane_server.transports import TRANSPORTS as SERVED

T = TypeVar("T")
C = TypeVar("C", bound=Child)

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much is done, and how much there is."""

FILES = 50
"""Dropped one after the other, while nothing else is: a proxy that now and then closes a connection
which the client uses again shows by that."""

ARRIVES_SECONDS = 2.0
"""Within which a hold is at the server, if it gets there before its end."""

SEEN_SECONDS = 4.0
"""How old a hold is when the server ends it. Of the first that lasts, a client asks the server
after some 2 s whether it arrived, and that is not how those after it could be told."""

TOLD_SECONDS = 12.0
"""How long the client is given to find out that its hold is none."""

CLIENT_UUID = "8a6d2b4e-0000-4000-8000-0000000c4ec4"
"""Who ends the holds behind the client's back."""

_CONNECT_SECONDS = 5.0
_ANSWER_SECONDS = 6.0
_STEP_SECONDS = 40.0
"""Of all that is done with one lock besides leaving it alone; no more than a safety net."""

LockState = Literal["live", "retained", "over"]

_HTTP2_SUFFIX = "-http2"


def suits(proxy: Proxy, transport: str) -> bool:
    """Whether it makes sense to try: a client that speaks HTTP/2 needs a proxy that does."""
    return proxy.http2 or not transport.endswith(_HTTP2_SUFFIX)


async def check(
    proxy: Proxy, transport: str, directory: Path, *, idle_s: float | None = None
) -> ProxyCheck:
    """Try one transport behind one reverse proxy. Takes some seconds, and ``idle_s``.

    :param directory: an empty one, for what is started here.
    :param idle_s: also leave a hold alone for so many seconds, over 0.
    :raises ChildError: the proxy or the server could not be started.
    """
    [done] = await check_all(directory, proxies=[proxy], transports=[transport], idle_s=idle_s)
    return done


async def check_all(
    directory: Path,
    *,
    proxies: Iterable[Proxy] = PROXIES.values(),
    transports: Iterable[str] = TRANSPORTS,
    idle_s: float | None = None,
    progress: Progress | None = None,
) -> list[ProxyCheck]:
    """Try each of the transports behind each of the proxies.

    All are tried side by side, which takes half a minute, and then all holds are left alone at the
    same time, for ``idle_s``. A proxy that cannot
    be run here (:meth:`Proxy.why_missing`) is left out, and so is what does not suit it.

    :param directory: an empty one, for what is started here.
    :param progress: called after each check, on the event loop.
    :returns: by proxy and then by transport, in the order given.
    :raises ChildError: a proxy or a server could not be started.
    """
    to_do = {
        proxy: [name for name in transports if suits(proxy, name)]
        for proxy in proxies
        if proxy.why_missing() is None
    }
    total = sum(map(len, to_do.values()))
    done = 0
    alone = asyncio.Lock()

    async def tried(stage: _Stage, transport: str) -> ProxyCheck:
        nonlocal done
        outcome = await _try(stage, transport, alone)
        done += 1
        if progress is not None:
            progress(f"{transport} behind {stage.proxy.title}", done, total)
        return outcome

    async def on(stage: _Stage) -> list[ProxyCheck]:
        return await _all(tried(stage, transport) for transport in to_do[stage.proxy])

    certificates = await asyncio.to_thread(Certificates.make, directory)
    async with AsyncExitStack() as stages:
        running = [
            await stages.enter_async_context(_stage(proxy, directory / proxy.name, certificates))
            for proxy in to_do
        ]
        found = await _all(on(stage) for stage in running)
        if idle_s is None:
            return [each for group in found for each in group]
        if progress is not None:
            progress(f"holds that are left alone for {idle_s:g} s", done, total)
        left = await _all(
            _leave_alone(stage, group, idle_s) for stage, group in zip(running, found, strict=True)
        )
        return [each for group in left for each in group]


# -- a proxy and a server --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Stage:
    """A reverse proxy with a server behind it."""

    proxy: Proxy
    server: Address
    url: str
    """Of the server's repository, through the proxy."""
    tls: ssl.SSLContext | None
    key: Key
    http: aiohttp.ClientSession

    def client(self, transport: str) -> Client:
        return Client(
            self.url,
            transport=transport,
            tls=self.tls,
            connect_timeout=_CONNECT_SECONDS,
            answer_timeout=_ANSWER_SECONDS,
        )

    async def state(self, lock_id: str) -> LockState:
        """What the server says of a lock ("GET keeplocked")."""
        async with self.http.get(self._keeplocked(lock_id)) as answer:
            answer.raise_for_status()
            said = await answer.json()
        if not said["locked"]:
            return "over"
        return "live" if said["live"] else "retained"

    async def becomes(self, lock_id: str, state: LockState) -> bool:
        """Whether the lock comes into a state soon."""
        end = time.monotonic() + ARRIVES_SECONDS
        while await self.state(lock_id) != state:
            if time.monotonic() > end:
                return False
            await asyncio.sleep(0.05)
        return True

    async def end_hold(self, lock_id: str) -> None:
        """Have the server end a hold that somebody else has, not through the proxy."""
        headers = {"Content-Type": JSON_TYPE}
        url = self._keeplocked(lock_id)
        async with self.http.post(url, data=UNLOCK, headers=headers) as answer:
            answer.raise_for_status()
            await answer.read()

    def _keeplocked(self, lock_id: str) -> URL:
        path = request_path(
            self.server.uuid, VERSIONS[0], "keeplocked", lockid=lock_id, clientuuid=CLIENT_UUID
        )
        return URL(f"{self.server.http_base}{path}", encoded=True)


@asynccontextmanager
async def _stage(
    proxy: Proxy, directory: Path, certificates: Certificates
) -> AsyncIterator[_Stage]:
    store, own = directory / "store", directory / "proxy"
    for each in (store, own):
        each.mkdir(parents=True)
    [source] = made(1)
    put_into_store([source], store)
    async with AsyncExitStack() as open_now:
        server = await _start(open_now, ServerChild.locklane(store, list(SERVED)))
        address = Address.parse(server.address)
        # Writing the configuration may run the program, too.
        child = await asyncio.to_thread(ProxyChild, proxy, address.port, own, certificates)
        await _start(open_now, child)
        scheme = "https" if proxy.tls else "http"
        yield _Stage(
            proxy,
            address,
            str(replace(address, scheme=scheme, host=HOST, port=child.port)),
            certificates.trusting() if proxy.tls else None,
            source.key,
            await open_now.enter_async_context(
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=PATIENCE_SECONDS))
            ),
        )


async def _start(open_now: AsyncExitStack, child: C) -> C:
    """Enter it where nobody waits; it is ended with the stack, if it was started at all."""
    starting = asyncio.create_task(asyncio.to_thread(child.__enter__))
    try:
        await asyncio.shield(starting)
    except asyncio.CancelledError:
        await asyncio.wait([starting])  # a thread cannot be cancelled
        if starting.exception() is None:
            await asyncio.to_thread(child.__exit__)
        raise
    open_now.push_async_callback(asyncio.to_thread, child.__exit__)
    return child


# -- what is tried ---------------------------------------------------------------------------------


async def _try(stage: _Stage, transport: str, alone: asyncio.Lock) -> ProxyCheck:
    outcome = await _find_out(stage, transport, alone)
    # Its address is of no use to a reader.
    return replace(outcome, message=_without(stage, outcome.message))


def _without(stage: _Stage, message: str | None) -> str | None:
    return message and message.replace(stage.url, "the server")


async def _find_out(stage: _Stage, transport: str, alone: asyncio.Lock) -> ProxyCheck:
    drops, said = await _said(_drop(stage, transport, 1))
    if drops:
        async with alone:
            drops, said = await _said(_drop(stage, transport, FILES))
    outcome = ProxyCheck(
        proxy=stage.proxy.name,
        transport=transport,
        drops=bool(drops),
        hold_arrives=False,
        client_told=None,
        loss_told=False,
        idle_s=None,
        idle_survives=None,
        message=said,
    )
    held, said = await _said(_hold(stage, transport))
    if held is None:
        return replace(outcome, client_told=False, message=outcome.message or said)
    return replace(
        outcome,
        hold_arrives=held.arrives,
        client_told=None if held.arrives else held.told,
        loss_told=held.arrives and held.told,
        message=outcome.message or held.said,
    )


async def _drop(stage: _Stage, transport: str, files: int) -> bool:
    """Drop some files one after the other; whether the server has none of the locks left."""
    taken = []
    async with stage.client(transport) as client:
        for _ in range(files):
            async with client.lock(stage.key) as lock:
                taken.append(_id(lock))
    if client.counts.unconfirmed:
        raise LocklaneError(f"unlocks that were not confirmed: {client.counts.unconfirmed}")
    for lock_id in taken:
        if not await stage.becomes(lock_id, "over"):
            raise LocklaneError("the server still has a lock that was unlocked")
    return True


@dataclass(frozen=True, slots=True)
class _Held:
    arrives: bool
    """The server said that the lock was live; then it ended the hold."""
    told: bool
    """The client said that there is no hold, in time."""
    said: str | None
    """Its words, if something did not work."""


async def _hold(stage: _Stage, transport: str) -> _Held:
    arrives, reason = False, None
    try:
        async with (
            stage.client(transport) as client,
            client.lock(stage.key, interrupt=False) as lock,
        ):
            began = time.monotonic()
            arrives = await stage.becomes(_id(lock), "live")
            if arrives:
                await asyncio.sleep(began + SEEN_SECONDS - time.monotonic())
                await stage.end_hold(_id(lock))
            reason = await _lost(lock)
    except LockLost as lost:
        if reason is None:  # until it asked to unlock
            return _Held(arrives, False, str(lost))
    except LocklaneError as error:  # there is no hold, and whoever asked for it was told so
        return _Held(arrives, not arrives, str(error))
    return _Held(arrives, reason is not None, None if arrives else reason)


def _id(lock: Lock) -> str:
    if lock.lock_id is None:
        raise LocklaneError("the client does not know the lock's id: nobody can ask about it")
    return lock.lock_id


async def _lost(lock: Lock, within_s: float = TOLD_SECONDS) -> str | None:
    """What the client says of a hold that is none, if it finds out in time."""
    try:
        async with asyncio.timeout(within_s):
            return await lock.wait_lost()
    except TimeoutError:
        return None


# -- holds that are left alone ---------------------------------------------------------------------


async def _leave_alone(stage: _Stage, checks: list[ProxyCheck], idle_s: float) -> list[ProxyCheck]:
    """Hold a lock over each transport whose holds arrive, all at the same time, and see after that
    time which of them are live."""

    async def leave(outcome: ProxyCheck) -> ProxyCheck:
        if not outcome.hold_arrives:
            return outcome
        survives, said = await _said(
            _idle(stage, outcome.transport, idle_s), idle_s + _STEP_SECONDS
        )
        return replace(
            outcome,
            idle_s=idle_s,
            idle_survives=bool(survives),
            message=outcome.message or _without(stage, said),
        )

    return await _all(map(leave, checks))


async def _idle(stage: _Stage, transport: str, idle_s: float) -> bool:
    async with (
        stage.client(transport) as client,
        client.lock(stage.key, interrupt=False) as lock,
    ):
        if (reason := await _lost(lock, idle_s)) is not None:
            raise LocklaneError(reason)
        state = await stage.state(_id(lock))
    return state == "live"


# -- bounds ----------------------------------------------------------------------------------------


async def _said(step: Awaitable[T], bound_s: float = _STEP_SECONDS) -> tuple[T | None, str | None]:
    """What a step gives, or what the client said instead; whatever goes wrong is a finding."""
    try:
        async with asyncio.timeout(bound_s):
            return await step, None
    except TimeoutError:
        return None, f"nothing came of it within {bound_s:g} s"
    except LocklaneError as error:
        return None, str(error)
    except Exception as error:
        return None, f"{type(error).__name__}: {error}"


async def _all(steps: Iterable[Awaitable[T]]) -> list[T]:
    """Side by side; if one fails, the others are cancelled, and its error is raised."""

    async def task(step: Awaitable[T]) -> T:
        return await step

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(task(step)) for step in steps]
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from None
    return [each.result() for each in tasks]
