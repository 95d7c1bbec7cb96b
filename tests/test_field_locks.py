"""Scenarios from the field: locks that were let go too early, or could not be unlocked."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
import pytest
from annexes import Annex, Serving, annex, home, locklane
from conftest import ABSENT, BOUND, SOMEBODY, ServerProcess, put, remove
from fields import WAIT_FOR_A_GATE, FieldServer, ends_with_0, soon
from rawhttp import LAST_CHUNK, Wire, chunk, request, wire
from test_annex_locks import let_the_time_pass, not_removed, refused_as_locked

from locklane_client.key import Key

__all__ = ["annex", "home", "locklane"]

pytestmark = pytest.mark.timeout(180)

CONTENT = b"content that somebody needs"
CHUNKED = "Transfer-Encoding: chunked"


def test_field_13_a_lock_outlives_kill_9_of_its_server(annex: Annex, locklane: Serving) -> None:
    """While git-annex in a clone holds it and deletes its own copy, which takes long: neither
    git-annex in the repository nor a new server removes the last copy before the time is over."""
    key = annex.add(CONTENT)
    server = locklane(annex)
    clone = annex.clone("clone", server.url)
    clone.annex("get", "-q", ".")
    clone.git("config", "annex.secure-erase-command", WAIT_FOR_A_GATE)
    with clone.start("git-annex", "drop", f"--key={key.text}") as client:
        soon((annex.home / "reached").exists, "the clone deletes its copy")
        assert server.lock_files(), "git-annex has taken no lock"
        server.kill()
        refused_as_locked(annex, key)
        again = locklane(annex)
        not_removed(again.api, key)
        (annex.home / "gate").touch()
        assert client.wait() == 0, client.output
    assert not clone.objects()
    refused_as_locked(annex, key)
    not_removed(again.api, key)
    assert again.api.get(key) == (200, CONTENT)
    let_the_time_pass(annex, key)
    assert again.api.remove(key)["removed"] is True
    ends_with_0(again)


def test_field_14_who_may_read_may_lock_unless_that_is_switched_off(annex: Annex) -> None:
    """``git annex drop`` takes a lock from a server that is read-only for it. With
    ``--unauth-nolocking`` it gets none, and drops because it sees that the content is there."""
    key = annex.add(CONTENT)
    with FieldServer(annex, access=("--unauth-readonly",)) as server:
        assert server.api.put(ABSENT, b"nobody ever stored this")[0] == 403
        clone = annex.clone("clone", server.url)
        clone.annex("get", "-q", ".")
        clone.git("config", "annex.secure-erase-command", WAIT_FOR_A_GATE)
        with clone.start("git-annex", "drop", f"--key={key.text}") as client:
            soon((annex.home / "reached").exists, "the clone deletes its copy")
            assert server.lock_files(), "git-annex has taken no lock"
            refused_as_locked(annex, key)
            (annex.home / "gate").touch()
            assert client.wait() == 0, client.output
        soon(lambda: not server.lock_files(), "it is unlocked")
        ends_with_0(server)
    with FieldServer(annex, access=("--unauth-readonly", "--unauth-nolocking")) as server:
        clone.connect(server.url)
        status, answer = server.api.post("lockcontent", key=key)
        assert status == 403
        assert "lock" in answer["error"]
        clone.annex("get", "-q", ".")
        dropped = clone.annex("drop", f"--key={key.text}")
        assert "locking origin" in dropped
        assert not clone.objects()
        ends_with_0(server)


async def test_field_17_a_lock_is_kept_and_unlocked_over_any_connections(
    store: Path, server_process: Callable[..., ServerProcess]
) -> None:
    """Lock, hold and unlock, each on one of three connections, in all pairings; with the hold still
    open where another connection unlocks, and with its connection broken.

    In the field it was a proxied lock. Proxying comes later, and rests on this: which connection a
    request comes on says nothing about whose lock it is.
    """
    key = put(store, CONTENT)
    server = server_process()
    for locked, kept, unlocked in itertools.product(range(3), repeat=3):
        for broken in {False, unlocked != kept}:
            async with AsyncExitStack() as stack:
                ways = [await stack.enter_async_context(wire(server.url)) for _ in range(3)]
                lock_id = await lock(ways[locked], key)
                keep(ways[kept], lock_id)
                await held(server, lock_id)
                if broken:
                    ways[kept].vanish()
                assert not (await remove(server.url, key))["removed"]
                if unlocked != kept:
                    keep(ways[unlocked], lock_id)
                await ways[unlocked].send(chunk(b'{"unlock":true}\n') + LAST_CHUNK)
                # The hold on the other connection is over, too, and is told so.
                told = {unlocked} if broken else {unlocked, kept}
                for each in told:
                    answer = await ways[each].answer()
                    assert answer.status == 200
                    assert json.loads(answer.body)["locked"] is False
            # Nothing but an unlock lets it go before its ten minutes are over.
            assert (await remove(server.url, key))["removed"]
            put(store, CONTENT, key)
    server.terminate()
    assert await server.ended() == 0


async def lock(way: Wire, key: Key) -> str:
    way.head("POST", request("lockcontent", key), length=0)
    return str(json.loads((await way.answer()).body)["lockid"])


def keep(way: Wire, lock_id: str) -> None:
    way.head("POST", f"v4/keeplocked?lockid={lock_id}&clientuuid={SOMEBODY}", CHUNKED)
    way.writer.write(chunk(b'{"unlock":false}\n'))


async def held(server: ServerProcess, lock_id: str) -> None:
    """The server knows of the hold."""
    address = f"{server.url.removeprefix('annex+')}/v4/keeplocked"
    async with aiohttp.ClientSession() as http, asyncio.timeout(BOUND):
        while True:
            about = {"lockid": lock_id, "clientuuid": SOMEBODY}
            async with http.get(address, params=about) as response:
                answer = await response.json(content_type=None)
            assert answer["locked"] is True
            if answer["live"]:
                return
