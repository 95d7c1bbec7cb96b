"""A real browser, with a page of another site that tries to use the server."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from conftest import BOUND, SOMEBODY, Process, Serve, There, free_port, key_of
from kinds import CONTENTS
from rawhttp import request
from users import access

from locklane_client import Key
from locklane_client.address import Address
from locklane_server.access import Level

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="chromium is not installed; .ci/run does so where it may"
)

PAGE = """<!doctype html>
<script>
const asks = %s;

async function fetched([path, options]) {
  try {
    const answer = await fetch(path, options);
    return {status: answer.status, body: await answer.text(), type: answer.type,
            length: answer.headers.get("X-git-annex-data-length")};
  } catch (error) {
    return {failed: String(error)};
  }
}

function socket([path, answered]) {
  return new Promise(resolve => {
    const opened = new WebSocket(path.replace("http", "ws"));
    opened.onopen = () => { if (!answered) { resolve({body: "open"}); opened.close(); } };
    opened.onmessage = message => { resolve({body: message.data}); opened.close(); };
    opened.onclose = () => resolve({failed: "closed"});
  });
}

function picture([path]) {
  return new Promise(resolve => {
    const image = new Image();
    image.onload = image.onerror = () => resolve({failed: "no picture"});
    image.src = path;
  });
}

(async () => {
  const said = {};
  for (const [name, [how, ...ask]] of Object.entries(asks))
    said[name] = await {fetched, socket, picture}[how](ask);
  await fetch("/said", {method: "POST", body: JSON.stringify(said)});
})();
</script>
"""

NEW = key_of(b"from a page")


def asks(there: There, key: Key) -> dict[str, list[Any]]:
    """What the page tries, in this order."""
    address = Address.parse(there.url)
    base = f"{address.http_base}{address.uuid}/"
    put = {"method": "POST", "body": "from a page", "headers": {"X-git-annex-data-length": "11"}}
    blind = {"method": "POST", "mode": "no-cors"}
    return {
        "download": ["fetched", base + request("key", key)],
        "picture": ["picture", f"{base}key/{key}"],
        "lock": ["fetched", base + request("lockcontent", key), {"method": "POST"}],
        "websocket": ["socket", base + request("lockcontent", key), True],
        "multiplex": ["socket", f"{base}v4/locks?clientuuid={SOMEBODY}", False],
        "put": ["fetched", base + request("put", NEW), put],
        "remove": ["fetched", base + request("remove", NEW), {"method": "POST"}],
        "remove unread": ["fetched", base + request("remove", key), blind],
    }


class Site:
    """Another site, and a browser that shows its page."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._port = free_port()
        self.origin = f"http://localhost:{self._port}"
        self._page = ""
        self._said: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()

    async def _answer(self, http: web.BaseRequest) -> web.Response:
        if http.method == "POST":
            self._said.set_result(json.loads(await http.text()))
        return web.Response(text=self._page, content_type="text/html")

    async def visit(self, asks: dict[str, list[Any]]) -> dict[str, Any]:
        """What came of each."""
        self._page = PAGE % json.dumps(asks)
        runner = web.ServerRunner(web.Server(self._answer, access_log=None))
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", self._port).start()
        root = ["--no-sandbox"] if os.geteuid() == 0 else []
        profile = f"--user-data-dir={self._directory}"
        options = ["--headless", "--disable-gpu", "--no-first-run", profile, *root]
        # In a machine with little shared memory its pages crash else; and it would end at once.
        options += ["--disable-dev-shm-usage", "--remote-debugging-port=0"]
        try:
            with Process(str(CHROMIUM), *options, f"{self.origin}/") as browser:
                try:
                    async with asyncio.timeout(3 * BOUND):
                        return await self._said
                except TimeoutError:
                    raise AssertionError(f"the page said nothing:\n{browser.output}") from None
        finally:
            await runner.cleanup()


@pytest.mark.timeout(120)
async def test_a_page_of_another_site_gets_at_nothing(
    serve: Serve, key: Key, tmp_path: Path
) -> None:
    other = Site(tmp_path / "profile")
    async with serve() as there:
        said = await other.visit(asks(there, key))
        unread = said.pop("remove unread")
        assert (unread["status"], unread["type"]) == (0, "opaque")
        assert all("failed" in each for each in said.values()), said
        assert {status for _, status in there.server.records.durations} == {403}
        assert there.locks == 0
        assert await there.served.repository.present(key)


@pytest.mark.timeout(120)
async def test_a_page_of_an_allowed_site_gets_what_it_asks_and_is_told_what_is_denied(
    serve: Serve, key: Key, tmp_path: Path
) -> None:
    other = Site(tmp_path / "profile")
    allowed = access(Level.APPEND_ONLY)
    async with serve(access=allowed, origins=[other.origin]) as there:
        said = await other.visit(asks(there, key))
        assert said["download"]["body"] == CONTENTS[0].decode()
        assert said["download"]["length"] == str(len(CONTENTS[0]))
        for name in ("lock", "websocket"):
            assert json.loads(said[name]["body"])["locked"]
        assert said["multiplex"]["body"] == "open"
        assert json.loads(said["put"]["body"])["stored"]
        assert await there.served.repository.present(NEW)
        assert said["remove"]["status"] == 401
        assert "a user name and a password are needed" in said["remove"]["body"]
