"""SIGTERM: nothing new is begun, what is under way ends well, and what was promised stays."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import MakeClient, ServerProcess, eventually, post, until_interrupted
from kinds import both, key_of, lock_files, object_path
from rawhttp import request, wire

from locklane_client import Key, LockLost

StartServer = Callable[..., ServerProcess]

CONTENT = b"a transfer that is under way\n" * 40_000


@both
async def test_an_upload_under_way_ends_and_is_stored_and_the_status_is_0(
    server_process: StartServer, store: Path
) -> None:
    server = server_process()
    key = key_of(CONTENT)
    async with wire(server.url) as sender, wire(server.url) as idle:
        idle.head("GET", request("checkpresent", key))
        assert (await idle.answer()).status == 200
        sender.head("POST", request("put", key), length=len(CONTENT), promised=len(CONTENT))
        await sender.send(CONTENT[:500_000])
        partial = Path(f"{store}/.git/annex/tmp" if (store / ".git").exists() else store)
        await eventually(lambda: any(partial.rglob(key.file_name)))
        server.terminate()
        await server.prints("requests in progress, waited for up to 30 s: 1")
        idle.head("GET", request("checkpresent", key))  # on a connection that it had already
        refused = await idle.answer()
        assert (refused.status, refused.reason) == (503, "the server is stopping")
        with pytest.raises(OSError, match=r"Connect|refused"):  # and takes no new ones
            await post(server.url, "checkpresent", key=key.text)
        await sender.send(CONTENT[500_000:])
        assert (await sender.answer()).status == 200
    assert await server.ended() == 0
    assert object_path(store, key).read_bytes() == CONTENT
    if (store / ".git").exists():
        assert list((store / ".git/annex/journal").iterdir()) == []  # all is committed


async def test_what_takes_longer_than_the_grace_time_is_cut_off_and_can_be_resumed(
    server_process: StartServer, store: Path
) -> None:
    server = server_process("--grace", "0.2")
    key = key_of(CONTENT)
    async with wire(server.url) as sender:
        sender.head("POST", request("put", key), length=len(CONTENT), promised=len(CONTENT))
        await sender.send(CONTENT[:500_000])
        await eventually(lambda: any(store.rglob(key.file_name)))
        server.terminate()
        assert await server.ended() == 0
    assert not object_path(store, key).exists()
    again = server_process()
    status, answer = await post(again.url, "putoffset", key=key.text)
    assert (status, answer) == (200, {"offset": 500_000})


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_second_signal_does_not_wait_any_longer(
    server_process: StartServer, store: Path, number: int
) -> None:
    server = server_process("--grace", "3600")
    key = key_of(CONTENT)
    async with wire(server.url) as sender:
        sender.head("POST", request("put", key), length=len(CONTENT), promised=len(CONTENT))
        await sender.send(CONTENT[:500_000])
        await eventually(lambda: any(store.rglob(key.file_name)))
        server.signal(number)
        await server.prints("requests in progress, waited for up to 3600 s: 1")
        assert server.running
        server.signal(number)
        assert await server.ended() == 0


@both
async def test_holds_get_their_retention_written(
    server_process: StartServer, client: MakeClient, store: Path, key: Key, transport: str
) -> None:
    server = server_process()
    async with client(server.url, keep_interval=0.2) as c:
        with pytest.raises(LockLost):  # noqa: PT012
            async with c.lock(key):
                server.terminate()
                await until_interrupted()
    assert await server.ended() == 0
    if (store / ".git").exists():
        assert lock_files(store, "rtm")
    again = server_process()
    _, answer = await post(again.url, "remove", key=key.text)
    assert not answer["removed"]
    assert "locked" in answer["reason"]
