"""``pipeline``: the requests of ``longpoll``, sent without waiting for the answers to earlier ones.

One connection carries ``lockcontent``, ``keeplocked``, ``lockcontent`` … of one file after the
other; the unlock of one and the lock of the next leave together. The server answers the requests of
a connection in their order (RFC 9112, 9.3.2), so to it they are those of ``longpoll``, with one
difference: ``transport=pipeline`` in ``lockcontent`` says for whom the lock is to be counted.
"""

from __future__ import annotations

from typing import ClassVar

from locklane_server.request import ApiRequest

from .longpoll import LongPoll


class Pipeline(LongPoll):
    """See the module."""

    name: ClassVar[str] = "pipeline"

    def _name(self, request: ApiRequest) -> str:
        return self.name if request.optional("transport") == self.name else LongPoll.name
