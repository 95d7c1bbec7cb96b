"""The relay counts the HTTP requests that pass it, and passes on whatever is none."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator

import aiohttp
import pytest
import uvloop
from aiohttp import web
from test_relay import BOUND_S, HOST, connect, joined, read_exactly, relaying, until

from locklane_bench.children import RelayChild
from locklane_bench.relay import Relay

GET = b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n"
POST = b"POST /b HTTP/1.1\r\nHost: x\r\nContent-Length: 28\r\n\r\n" + GET
CHUNKED = (
    b"POST /c HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"5\r\nhello\r\n1c\r\n" + GET + b"\r\n0\r\n\r\n"
)
UPGRADE = b"GET /d HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
FRAME = b"\x81\x85\x00\x00\x00\x00hello"


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with socket.create_server((HOST, 0), backlog=1024) as listener:
        listener.settimeout(BOUND_S)
        yield listener


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def loop_factory(request: pytest.FixtureRequest) -> Callable[[], asyncio.AbstractEventLoop]:
    factory: Callable[[], asyncio.AbstractEventLoop] = request.param
    return factory


@pytest.fixture(params=[0.0, 0.01], ids=["near", "far"])
def relay(
    loop_factory: Callable[[], asyncio.AbstractEventLoop],
    server: socket.socket,
    request: pytest.FixtureRequest,
) -> Iterator[Relay]:
    with relaying(loop_factory, server.getsockname()[1]) as relay:
        relay.rtt_s = request.param
        yield relay


def passed(relay: Relay, server: socket.socket, *parts: bytes) -> int | None:
    """How many requests there are after sending these, one at a time, which all arrive."""
    before = relay.open
    with joined(relay, server) as (client, far):
        for part in parts:
            client.sendall(part)
            assert read_exactly(far, len(part)) == part
    until(lambda: relay.open == before)
    return relay.counts.requests


@pytest.mark.parametrize(
    ("parts", "requests"),
    [
        ([], 0),
        ([GET], 1),
        ([GET, GET, POST, GET], 4),
        ([GET + POST + CHUNKED + GET], 4),
        ([bytes([byte]) for byte in GET + CHUNKED + POST], 3),
        ([GET[:-1]], 0),
        ([GET, b"\r\n", GET], 2),
        ([GET + GET[:10], GET[10:]], 2),
    ],
)
def test_heads_of_requests_are_counted_however_they_are_cut(
    relay: Relay, server: socket.socket, parts: list[bytes], requests: int
) -> None:
    relay.count_requests(True)
    assert passed(relay, server, *parts) == requests


@pytest.mark.parametrize(
    ("parts", "requests"),
    [
        ([FRAME, GET], 0),
        ([b"\x16\x03\x01\x02\x00\x01" + GET], 0),
        ([b"no such thing\r\n\r\n", GET], 0),
        ([GET + b"\x00\x01", GET], 1),
    ],
)
def test_what_is_no_http_passes_and_ends_the_counting_of_its_connection(
    relay: Relay, server: socket.socket, parts: list[bytes], requests: int
) -> None:
    relay.count_requests(True)
    assert passed(relay, server, *parts) == requests
    assert passed(relay, server, GET) == requests + 1, "others are counted as before"


@pytest.mark.parametrize("together", [False, True])
def test_after_an_upgrade_frames_are_no_requests(
    relay: Relay, server: socket.socket, together: bool
) -> None:
    parts = [GET, UPGRADE, FRAME, FRAME + GET, GET]
    relay.count_requests(True)
    assert passed(relay, server, *([b"".join(parts)] if together else parts)) == 2


def test_an_upgrade_that_is_refused_does_not_hide_the_requests_after_it(
    relay: Relay, server: socket.socket
) -> None:
    relay.count_requests(True)
    assert passed(relay, server, UPGRADE, GET, UPGRADE + POST + GET) == 5


def test_counting_begins_and_ends_with_connections_to_come(
    relay: Relay, server: socket.socket
) -> None:
    assert passed(relay, server, GET) is None
    relay.count_requests(True)
    assert relay.counts.requests == 0
    with joined(relay, server) as (client, far):
        relay.count_requests(False)
        assert passed(relay, server, GET) == 0
        client.sendall(GET)
        assert read_exactly(far, len(GET)) == GET
    assert relay.counts.requests == 1


async def test_the_requests_of_a_real_client_are_counted_exactly() -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        if "Upgrade" in request.headers:
            socket = web.WebSocketResponse()
            await socket.prepare(request)
            async for message in socket:
                await socket.send_str(message.data)
            return socket
        return web.Response(body=await request.read())

    app = web.Application()
    app.router.add_route("*", "/", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, HOST, 0).start()
    try:
        async with Relay(HOST, runner.addresses[0][1]) as relay, aiohttp.ClientSession() as session:
            relay.count_requests(True)
            url = f"http://{HOST}:{relay.port}/"
            for body in [b"", b"x" * 300_000, b"y"] * 5:
                async with session.post(url, data=body) as answered:
                    assert await answered.read() == body
            assert relay.counts.requests == 15
            async with session.ws_connect(url) as websocket:
                for _ in range(10):
                    await websocket.send_str("hello")
                    assert await websocket.receive_str() == "hello"
            assert relay.counts.requests == 16
    finally:
        await runner.cleanup()


def test_the_handle_counts_requests_once_it_is_told_to(server: socket.socket) -> None:
    with RelayChild(*server.getsockname()) as relay:
        for on, requests in [(None, None), (True, 2), (False, 2), (True, 4)]:
            if on is not None:
                relay.count_requests(on)
            with connect(relay.port) as client, server.accept()[0] as far:
                client.sendall(GET + POST)
                assert read_exactly(far, len(GET + POST)) == GET + POST
            assert relay.counts().requests == requests
