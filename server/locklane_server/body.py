"""Bodies of requests, as they come, for as long as they come: a client that sends hardly anything
is cut off, or it would keep others from storing the same key for as long as it likes.

Only the client's own time counts, not that of a disk or of a worker that is waited for.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from aiohttp import web

from locklane_server.request import ApiError

SECONDS = 60.0
"""Within so long of waiting for a client …"""

BYTES = 60 * 1024
"""… at least so many bytes of its body have to come."""


async def arriving(http: web.BaseRequest) -> AsyncIterator[bytes]:
    """The body of a request, piece by piece.

    :raises ApiError: 408, it comes too slowly.
    :raises ConnectionError: the client is gone.
    """
    loop = asyncio.get_running_loop()
    content = http.content
    waited, came = 0.0, 0
    while True:
        begun = loop.time()
        try:
            async with asyncio.timeout(SECONDS - waited):
                data = await content.readany()
        except TimeoutError as error:
            raise ApiError(
                408,
                f"fewer than {BYTES} bytes came in {SECONDS:g} s; what came is kept, send the rest "
                "later",
            ) from error
        if not data:
            return
        waited += loop.time() - begun
        came += len(data)
        if came >= BYTES:
            waited, came = 0.0, 0
        yield data
