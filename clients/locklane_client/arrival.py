"""Whether a hold that nothing answers has reached the server.

A client that only writes ``{"unlock":false}`` cannot tell a server that holds its lock from a proxy
that keeps the body of the request back. Locklane's server can be asked (``GET keeplocked``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from .errors import LocklaneError
from .session import Lost, Session
from .wire import LockStatus, parse_status

CHECK_SECONDS = (2.0, 2.0, 4.0)
"""How long a hold lasts before the server is asked whether it arrived, and then asked again: it may
be on its way, and lose a packet or two there. If it is missing every time, it is lost."""

NOT_ARRIVED = (
    "the hold has not reached the server: something between here and there, a reverse proxy that "
    "buffers the bodies of requests for example, keeps it back"
)

Ask = Callable[[], Awaitable[tuple[int, bytes]]]
"""Asks the server about a lock: status and body of its answer."""


def asking(session: Session, version: int, lock_id: str) -> Ask:
    """Asks over a connection of the session's pool."""

    async def ask() -> tuple[int, bytes]:
        async with (
            asyncio.timeout(session.answer_timeout),
            session.send("GET", "keeplocked", version, {"lockid": lock_id}) as response,
        ):
            return response.status, await session.answer("keeplocked", response)

    return ask


class HoldWatch:
    """Sees whether a hold that nothing answers has reached the server, and says so if not.

    Of a session's holds it asks about those that last, one at a time, until one of them was seen at
    the server, or the server turns out not to answer such questions.

    :param lost: called if the hold has not arrived, or the lock has ended.
    """

    def __init__(self, session: Session, ask: Ask, lost: Lost) -> None:
        self._session = session
        self._ask_server = ask
        self._lost = lost
        self._asking: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        if not session.holds_arrive:
            self._wait(CHECK_SECONDS[0])

    def _wait(self, seconds: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(seconds, self._begin)

    def _begin(self) -> None:
        session = self._session
        if session.closed or session.holds_arrive:
            return
        if session.asking_arrival:
            self._wait(CHECK_SECONDS[0])  # that answer is for all
        else:
            session.asking_arrival = True
            self._asking = session.in_background(self._ask())
            self._asking.add_done_callback(self._asked)

    def _asked(self, _: object) -> None:
        self._session.asking_arrival = False

    async def _ask(self) -> None:
        session = self._session
        said: LockStatus | None = None
        bad_moment = False
        try:
            status, body = await self._ask_server()
            bad_moment = status >= 500
            if status == 200:
                said = parse_status(body)
        except (LocklaneError, TimeoutError):
            bad_moment = True
        except ValueError:
            pass  # some other server's answer
        if bad_moment:
            self._wait(CHECK_SECONDS[-1])
        elif said is None:
            session.holds_arrive = True  # it does not say, and there is no use in asking
        elif said.locked and said.live:
            session.holds_arrive = True
        elif not said.locked:
            self._lost(said.reason or "the server knows of no such lock", False)
        else:
            session.holds_missing += 1
            if session.holds_missing < len(CHECK_SECONDS):
                self._wait(CHECK_SECONDS[session.holds_missing])
            else:
                self._lost(NOT_ARRIVED, True)

    def end(self) -> None:
        """The hold is over."""
        if self._timer is not None:
            self._timer.cancel()
        if self._asking is not None:
            self._asking.cancel()
