"""Whether a hold that nothing answers has reached the server.

A client that only writes ``{"unlock":false}`` cannot tell a server that holds its lock from a proxy
that keeps the body of the request back. Locklane's server can be asked.
"""

from __future__ import annotations

import asyncio

from .errors import LocklaneError
from .session import Lost, Session
from .wire import parse_status

CHECK_SECONDS = 2.0
"""How long a hold lasts before the server is asked whether it arrived, and asked again."""

CHECKS = 2
"""How often it is asked: a hold may just be on its way."""

NOT_ARRIVED = (
    "the hold has not reached the server: something between here and there, a reverse proxy that "
    "buffers the bodies of requests for example, keeps it back"
)


async def is_kept(session: Session, version: int, lock_id: str) -> bool | None:
    """Ask whether the server has an open hold on a lock (``GET keeplocked``, an addition of
    Locklane's).

    :returns: ``None`` if it does not say.
    """
    try:
        async with (
            asyncio.timeout(session.answer_timeout),
            session.send("GET", "keeplocked", version, {"lockid": lock_id}) as response,
        ):
            text = await session.answer("keeplocked", response)
        return parse_status(text) if response.status == 200 else None
    except (LocklaneError, TimeoutError, ValueError):
        return None


class HoldWatch:
    """Sees whether a hold that nothing answers has reached the server, and says so if not.

    Of a session's holds it asks about those that last, one at a time, until one of them was seen at
    the server.

    :param lost: called if the hold has not arrived.
    """

    def __init__(self, session: Session, version: int, lock_id: str, lost: Lost) -> None:
        self._session = session
        self._about = (version, lock_id)
        self._lost = lost
        self._missed = 0
        self._asking: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._wait()

    def _wait(self) -> None:
        if not self._session.holds_arrive:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(CHECK_SECONDS, self._begin)

    def _begin(self) -> None:
        session = self._session
        if session.closed or session.holds_arrive:
            return
        if session.asking_arrival:
            self._wait()  # that answer is for all
        else:
            session.asking_arrival = True
            self._asking = session.in_background(self._ask())
            self._asking.add_done_callback(self._asked)

    def _asked(self, _: object) -> None:
        self._session.asking_arrival = False

    async def _ask(self) -> None:
        session = self._session
        kept = await is_kept(session, *self._about)
        if kept is False and not session.holds_arrive:
            self._missed += 1
            if self._missed < CHECKS:
                self._wait()
            else:
                self._lost(NOT_ARRIVED, True)
        else:
            # It was seen; or the server does not say, and there is no use in asking.
            session.holds_arrive = True

    def end(self) -> None:
        """The hold is over."""
        if self._timer is not None:
            self._timer.cancel()
        if self._asking is not None:
            self._asking.cancel()
