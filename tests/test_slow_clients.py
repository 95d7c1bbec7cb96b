"""Who takes long over what is sent is cut off, so that it keeps nobody from being served; who only
waits for the server, or holds a lock, never is."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from conftest import BOUND, SOMEBODY, MakeClient, Serve, eventually, post, put
from kinds import key_of, object_path
from rawhttp import leaves_nothing_open, request, wire

from locklane_client import Key
from locklane_client.wire import request_path
from locklane_server import body, connections

SOON = 0.5
"""Seconds, in the place of a minute or so."""

BIG = b"much more than sockets hold\n" * 400_000


async def test_a_head_that_does_not_end_is_cut_off_with_408(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "HEAD_SECONDS", SOON)
    async with serve() as there, wire(there) as slow:
        await slow.send(b"POST /git-annex/")
        answer = await slow.answer()
        assert (answer.status, json.loads(answer.body)) == (
            408,
            {"error": "no request came within 0.5 s"},
        )
        assert await slow.end() == b""


async def test_a_connection_that_asks_nothing_is_cut_off(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "HEAD_SECONDS", SOON)
    async with serve() as there, wire(there) as silent:
        assert (await silent.answer()).status == 408
        assert await silent.end() == b""
        await eventually(lambda: there.server.connections_open == 0)


async def test_a_later_head_that_does_not_end_is_cut_off_when_the_connection_has_been_idle(
    serve: Serve, key: Key, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "IDLE_SECONDS", SOON)
    async with serve() as there, wire(there) as slow:
        slow.head("GET", request("checkpresent", key))
        assert (await slow.answer()).status == 200
        await slow.send(b"POST /git-annex/")
        assert await slow.end() == b""


@pytest.mark.parametrize("nibble", [b"", b"x"], ids=["silent", "a byte at a time"])
async def test_a_body_that_hardly_comes_is_cut_off_and_others_can_store_the_key(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, nibble: bytes
) -> None:
    monkeypatch.setattr(body, "SECONDS", SOON)
    monkeypatch.setattr(body, "BYTES", 1024)
    content = b"x" * 5000
    key = key_of(content)
    async with serve() as there, leaves_nothing_open(there):
        async with wire(there) as slow:
            slow.head("POST", request("put", key), length=5000, promised=5000)
            await slow.send(content[:2000])

            async def go_on() -> None:
                while nibble:
                    await slow.send(nibble)
                    await asyncio.sleep(SOON / 10)

            sending = asyncio.create_task(go_on())
            answer = await slow.answer()
            sending.cancel()
            assert answer.status == 408
            assert "fewer than 1024 bytes came" in json.loads(answer.body)["error"]
        status, answered = await post(there.url, "putoffset", key=key.text)
        assert status == 200
        assert answered["offset"] >= 2000  # what came is kept
        async with wire(there) as quick:
            quick.head("POST", request("put", key), length=5000, promised=5000)
            await quick.send(content)
            assert (await quick.answer()).status == 200
        assert object_path(there.store, key).read_bytes() == content


async def test_time_that_the_disk_takes_does_not_count_against_a_body(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client has sent everything long ago, and the server takes its time over it."""
    monkeypatch.setattr(body, "SECONDS", SOON)
    content = b"x" * 600_000
    key = key_of(content)
    async with serve(jobs=1) as there, wire(there) as client:
        goes_on = asyncio.Event()
        real = there.served.repository.receive

        @asynccontextmanager
        async def receive(*arguments: Any, **options: Any) -> AsyncIterator[Any]:
            async with real(*arguments, **options) as upload:
                write = upload.write

                async def slowly(data: bytes) -> None:
                    await goes_on.wait()
                    await write(data)

                upload.write = slowly
                yield upload

        monkeypatch.setattr(there.served.repository, "receive", receive)
        client.head("POST", request("put", key), length=len(content), promised=len(content))
        sending = asyncio.create_task(client.send(content))
        asyncio.get_running_loop().call_later(3 * SOON, goes_on.set)
        answer = await client.answer()
        await sending
        assert (answer.status, json.loads(answer.body)["stored"]) == (200, True)


@pytest.mark.parametrize("many", [1, 250], ids=["by the kernel", "from memory"])
async def test_a_client_that_takes_nothing_of_its_answers_is_cut_off(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, many: int
) -> None:
    monkeypatch.setattr(connections, "TAKE_SECONDS", SOON)
    async with serve() as there, leaves_nothing_open(there):
        key = put(there.store, BIG if many == 1 else BIG[:60_000])
        async with wire(there) as deaf:
            for _ in range(many):
                deaf.head("GET", request("key", key))
            await deaf.line()
            await eventually(lambda: there.server.connections_open == 0)


@pytest.mark.parametrize("last", [(), ("Connection: close",)], ids=["idle", "closing"])
async def test_what_is_left_to_take_of_a_closed_connection_is_not_waited_for_for_ever(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, last: tuple[str, ...]
) -> None:
    """Of the last answers on each connection, more or less is left: also less than pauses it."""
    monkeypatch.setattr(connections, "IDLE_SECONDS", SOON)
    monkeypatch.setattr(connections, "TAKE_SECONDS", 3 * SOON)
    async with serve() as there, AsyncExitStack() as open_:
        key = put(there.store, BIG[:40_000])
        for many in range(60, 140):
            deaf = await open_.enter_async_context(wire(there))
            for number in range(many):
                deaf.head("GET", request("key", key), *(last if number == many - 1 else ()))
        await eventually(lambda: there.server.connections_open == 0)


async def test_who_takes_no_answers_is_not_given_more_of_them_than_fit(serve: Serve) -> None:
    """They wait in the server's memory."""
    async with serve() as there:
        key = put(there.store, BIG[:60_000])
        async with wire(there) as deaf:
            for _ in range(400):
                deaf.head("GET", request("key", key))
            await eventually(lambda: there.server.records.sent)
            await asyncio.sleep(3 * SOON)  # the time is what is tested
            assert there.server.records.sent < 300 * 60_000


async def test_a_hold_that_only_waits_is_not_cut_off(
    serve: Serve, client: MakeClient, key: Key, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module, name in (
        (connections, "HEAD_SECONDS"),
        (connections, "IDLE_SECONDS"),
        (connections, "TAKE_SECONDS"),
        (body, "SECONDS"),
    ):
        monkeypatch.setattr(module, name, SOON)
    async with serve() as there, client(there.url, keep_interval=60.0) as c:
        async with c.lock(key) as lock:
            await asyncio.sleep(3 * SOON)  # the time is what is tested
            assert there.live == 1
            assert lock.lost is None
        await there.nothing_left()


async def test_a_request_that_waits_for_a_worker_is_not_cut_off(
    serve: Serve, key: Key, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HEAD_SECONDS", "IDLE_SECONDS", "TAKE_SECONDS"):
        monkeypatch.setattr(connections, name, SOON)
    async with serve(jobs=1) as there:
        goes_on = threading.Event()
        busy = asyncio.create_task(there.workers.run(goes_on.wait, BOUND))
        await eventually(lambda: there.workers.working == 1)
        waiting = asyncio.create_task(post(there.url, "remove", key=key.text))
        await eventually(lambda: there.workers.waiting == 1)
        await asyncio.sleep(3 * SOON)  # the time is what is tested
        goes_on.set()
        await busy
        assert (await waiting)[1]["removed"]


async def test_what_is_no_http_is_told_so_in_json_and_is_no_error_of_the_server(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    async with serve() as there, wire(there) as stranger:
        await stranger.send(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n")
        answer = await stranger.answer()
        assert answer.status == 400
        assert json.loads(answer.body)["error"]
        assert await stranger.end() == b""
    assert [record for record in caplog.records if record.levelname != "INFO"] == []


async def test_a_head_that_is_too_long_is_refused(serve: Serve, key: Key) -> None:
    async with serve() as there:
        for line, status in ((f"X-Long: {'x' * 100_000}", 400), ("X: y\r\n" * 1000 + "X: y", 400)):
            async with wire(there) as talker:
                path = request_path(there.served.uuid, 4, "checkpresent", clientuuid=SOMEBODY)
                talker.writer.write(f"POST /git-annex/{path} HTTP/1.1\r\n{line}\r\n\r\n".encode())
                answer = await talker.answer()
                assert answer.status == status
                assert json.loads(answer.body)["error"]
