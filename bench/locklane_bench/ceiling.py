"""The ceiling: a bare aiohttp application that answers the two long-poll requests, and
``checkpresent``, without thinking.

No key is looked at, nothing is locked. A server that does the work on aiohttp cannot well give the
same client more than this.
"""

from __future__ import annotations

import asyncio
import sys

from aiohttp import web

from locklane_client.loop import run
from locklane_client.wire import JSON_TYPE

UUID = "00000000-0000-4000-8000-000000000000"
"""The repository that it answers for; any other would do."""

_JSON = {"Content-Type": JSON_TYPE}


async def lockcontent(request: web.Request) -> web.Response:
    """Say that it is locked."""
    return web.Response(body=b'{"locked":true,"lockid":"0"}', headers=_JSON)


async def keeplocked(request: web.Request) -> web.Response:
    """Wait for the unlock, as far as looking for a word is that."""
    async for data in request.content.iter_any():
        if b"true" in data:
            break
    return web.Response(body=b'{"locked":false}', headers=_JSON)


async def checkpresent(request: web.Request) -> web.Response:
    """Say that it is there."""
    return web.Response(body=b'{"present":true}', headers=_JSON)


async def serve() -> None:
    """Serve on a free port of the loopback, printing its address, until the process is ended."""
    application = web.Application()
    application.router.add_post("/git-annex/{uuid}/{version}/lockcontent", lockcontent)
    application.router.add_post("/git-annex/{uuid}/{version}/keeplocked", keeplocked)
    application.router.add_post("/git-annex/{uuid}/{version}/checkpresent", checkpresent)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, backlog=4096).start()
    port = runner.addresses[0][1]
    sys.stdout.write(f"serving annex+http://127.0.0.1:{port}/git-annex/{UUID}\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


if __name__ == "__main__":
    run(serve())
