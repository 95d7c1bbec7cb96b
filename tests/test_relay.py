"""The relay passes on what each side does, loses nothing, leaks nothing, and counts it all."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import random
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from queue import SimpleQueue

import pytest
import uvloop

from locklane_bench.children import ChildError, RelayChild
from locklane_bench.delay import MOST_ON_THE_WAY
from locklane_bench.procfs import descriptors
from locklane_bench.relay import Relay
from locklane_bench.results import RelayCounts

BOUND_S = 20.0
HOST = "127.0.0.1"


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + BOUND_S
    while not condition():
        assert time.monotonic() < end, "this never came true"
        time.sleep(0.002)


def reset(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def read_all(connection: socket.socket) -> bytes:
    parts = []
    while part := connection.recv(2**18):
        parts.append(part)
    return b"".join(parts)


def read_exactly(connection: socket.socket, length: int) -> bytes:
    said = b""
    while len(said) < length:
        part = connection.recv(length - len(said))
        assert part, "the stream has ended early"
        said += part
    return said


def send_until_stopped(sender: socket.socket) -> int:
    """Send until nobody has taken anything for a while; how many bytes went."""
    block, sent = bytes(2**16), 0
    sender.settimeout(0.5)
    with suppress(TimeoutError):
        while True:
            sent += sender.send(block)
    sender.settimeout(BOUND_S)
    return sent


@contextmanager
def relaying(loop_factory: Callable[[], asyncio.AbstractEventLoop], port: int) -> Iterator[Relay]:
    """A relay on a loop of its own in a thread, so that tests can speak plain blocking sockets."""
    started: SimpleQueue[tuple[Relay, asyncio.AbstractEventLoop, asyncio.Event]] = SimpleQueue()
    unhandled: list[object] = []

    def note(_: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
        error = context.get("exception")
        # asyncio itself trips over a reset between the last byte and the end of a stream.
        if not (isinstance(error, OSError) and error.errno == errno.ENOTCONN):
            unhandled.append(context)

    async def relay_until_stopped() -> None:
        loop, stop = asyncio.get_running_loop(), asyncio.Event()
        loop.set_exception_handler(note)
        async with Relay(HOST, port) as relay:
            started.put((relay, loop, stop))
            await stop.wait()
        assert relay.open == 0

    with asyncio.Runner(loop_factory=loop_factory) as runner, ThreadPoolExecutor(1) as thread:
        ended = thread.submit(runner.run, relay_until_stopped())
        relay, loop, stop = started.get(timeout=BOUND_S)
        try:
            yield relay
        finally:
            loop.call_soon_threadsafe(stop.set)
            ended.result(BOUND_S)
    assert not unhandled


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
    """What the relay does, it does over any distance: that is in test_relay_delay.py."""
    with relaying(loop_factory, server.getsockname()[1]) as relay:
        relay.rtt_s = request.param
        yield relay


def connect(port: int) -> socket.socket:
    return socket.create_connection((HOST, port), timeout=BOUND_S)


@contextmanager
def joined(relay: Relay, server: socket.socket) -> Iterator[tuple[socket.socket, socket.socket]]:
    """A client and the server's end of its connection."""
    with connect(relay.port) as client:
        far, _ = server.accept()
        with far:
            far.settimeout(BOUND_S)
            until(lambda: all(link.server.transport for link in list(relay.links)))
            yield client, far


@pytest.fixture(params=["client", "server"])
def sides(
    request: pytest.FixtureRequest, relay: Relay, server: socket.socket
) -> Iterator[tuple[socket.socket, socket.socket]]:
    """The one that acts, and the other: once the client is the one, once the server."""
    with joined(relay, server) as (client, far):
        yield (client, far) if request.param == "client" else (far, client)


def test_every_connection_and_every_byte_of_both_directions_is_counted(
    relay: Relay, server: socket.socket
) -> None:
    with ExitStack() as stack:
        pairs = [stack.enter_context(joined(relay, server)) for _ in range(200)]
        assert relay.open == 200
        for number, (client, far) in enumerate(pairs, start=1):
            client.sendall(bytes([number]) * number)
            far.sendall(bytes([number]) * 3 * number)
        for number, (client, far) in enumerate(pairs, start=1):
            assert read_exactly(far, number) == bytes([number]) * number
            assert read_exactly(client, 3 * number) == bytes([number]) * 3 * number
    until(lambda: relay.open == 0)
    each = 200 * 201 // 2
    assert relay.counts == RelayCounts(connections=200, bytes_up=each, bytes_down=3 * each)


def test_large_streams_cross_whole_both_ways_at_once(relay: Relay, server: socket.socket) -> None:
    up, down = random.Random(1).randbytes(20_000_000), random.Random(2).randbytes(20_000_001)

    def send(connection: socket.socket, data: bytes) -> None:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)

    with joined(relay, server) as (client, far), ThreadPoolExecutor(3) as threads:
        sent = [threads.submit(send, client, up), threads.submit(send, far, down)]
        received = threads.submit(read_all, far)
        assert read_all(client) == down
        assert received.result() == up
        assert [each.result() for each in sent] == [None, None]
        until(lambda: relay.open == 0)
    assert relay.counts == RelayCounts(1, len(up), len(down))


def test_the_end_of_one_stream_leaves_the_other_open(
    relay: Relay, sides: tuple[socket.socket, socket.socket]
) -> None:
    one, other = sides
    one.sendall(b"that is all")
    one.shutdown(socket.SHUT_WR)
    assert read_all(other) == b"that is all"
    other.sendall(b"but I go on")
    assert read_exactly(one, 11) == b"but I go on"
    assert relay.open == 1
    other.close()
    assert read_all(one) == b""
    until(lambda: relay.open == 0)


def test_all_that_was_sent_before_closing_arrives_at_a_reader_that_comes_late(
    relay: Relay, sides: tuple[socket.socket, socket.socket]
) -> None:
    one, other = sides
    other.shutdown(socket.SHUT_WR)
    sent = send_until_stopped(one)
    one.close()
    assert len(read_all(other)) == sent
    until(lambda: relay.open == 0)


def test_a_reset_of_one_side_resets_the_other(
    relay: Relay, sides: tuple[socket.socket, socket.socket]
) -> None:
    one, other = sides
    reset(one)
    with pytest.raises(ConnectionResetError):
        other.recv(1)
    until(lambda: relay.open == 0)


def test_a_reset_is_seen_after_the_end_of_its_stream(
    relay: Relay, sides: tuple[socket.socket, socket.socket]
) -> None:
    one, other = sides
    one.shutdown(socket.SHUT_WR)
    assert read_all(other) == b""
    reset(one)
    with pytest.raises(ConnectionError):  # its own stream had ended in order: only sending can tell
        send_until_stopped(other)
    until(lambda: relay.open == 0)


@pytest.mark.parametrize("which", ["who sends", "who does not read"])
def test_a_reset_is_seen_of_a_connection_that_is_held_back(
    relay: Relay, sides: tuple[socket.socket, socket.socket], which: str
) -> None:
    sender, reader = sides
    send_until_stopped(sender)
    reset(sender if which == "who sends" else reader)
    until(lambda: relay.open == 0)


def test_a_reader_that_does_not_read_stops_the_sender(
    relay: Relay, sides: tuple[socket.socket, socket.socket]
) -> None:
    sender, reader = sides
    sent = send_until_stopped(sender)
    (link,) = relay.links
    on_the_way = MOST_ON_THE_WAY if relay.rtt_s else 0
    for leg in (link.client, link.server):
        assert leg.transport is not None
        most = 64 * 2**10 + 256 * 2**10 + on_the_way  # the second is one read
        assert leg.transport.get_write_buffer_size() <= most
    assert sent < 40 * 2**20, "four socket buffers hold less"
    sender.shutdown(socket.SHUT_WR)
    assert len(read_all(reader)) == sent


@contextmanager
def busy_server() -> Iterator[socket.socket]:
    """A listener whose queue is full, so that who connects now gets no answer for a second."""
    with socket.create_server((HOST, 0), backlog=0) as listener, connect(listener.getsockname()[1]):
        listener.settimeout(BOUND_S)
        yield listener


def test_early_bytes_wait_within_bounds_until_the_server_is_there(
    loop_factory: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    with busy_server() as server, relaying(loop_factory, server.getsockname()[1]) as relay:
        with connect(relay.port) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2**16)
            sent = send_until_stopped(client)
            assert 0 < relay.counts.bytes_up <= 256 * 2**10
            client.shutdown(socket.SHUT_WR)
            server.accept()[0].close()
            far, _ = server.accept()
            with far:
                assert len(read_all(far)) == sent
        until(lambda: relay.open == 0)
    assert relay.counts == RelayCounts(1, sent, 0)


@pytest.mark.parametrize("early", [b"", b"early"])
def test_a_client_that_vanishes_while_the_server_is_connected_to_leaves_nothing(
    loop_factory: Callable[[], asyncio.AbstractEventLoop], early: bytes
) -> None:
    with busy_server() as server, relaying(loop_factory, server.getsockname()[1]) as relay:
        client = connect(relay.port)
        client.sendall(early)
        until(lambda: relay.counts == RelayCounts(1, len(early), 0))
        reset(client)
        until(lambda: relay.open == 0)


def test_a_server_that_cannot_be_reached_resets_the_client(
    relay: Relay, server: socket.socket
) -> None:
    server.close()
    with pytest.raises(ConnectionResetError), connect(relay.port) as client:
        client.recv(1)  # where connecting has not seen it yet
    until(lambda: relay.open == 0)
    assert relay.counts == RelayCounts(1, 0, 0)


def test_small_writes_are_not_delayed(relay: Relay, server: socket.socket) -> None:
    with joined(relay, server):
        (link,) = relay.links
        for leg in (link.client, link.server):
            assert leg.transport is not None
            connection = leg.transport.get_extra_info("socket")
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_whatever_peers_do_nothing_is_left(relay: Relay, server: socket.socket) -> None:
    """Peers that talk, end their stream, close and reset, at random (seeded) points."""
    before = descriptors(os.getpid())

    def act(connection: socket.socket, chance: random.Random) -> None:
        with connection, suppress(OSError):
            connection.settimeout(0.05)
            for _ in range(chance.randrange(8)):
                match chance.choice(["send", "send", "receive", "end", "close", "reset"]):
                    case "send":
                        connection.sendall(bytes(chance.choice([1, 1000, 3_000_000])))
                    case "receive":
                        connection.recv(2**16)
                    case "end":
                        connection.shutdown(socket.SHUT_WR)
                    case "close":
                        return
                    case "reset":
                        reset(connection)

    def serve() -> None:
        with suppress(OSError), ThreadPoolExecutor(16) as threads:
            for number in range(10**6):
                threads.submit(act, server.accept()[0], random.Random(f"server {number}"))

    serving = threading.Thread(target=serve)
    serving.start()
    with ThreadPoolExecutor(16) as threads:
        for number in range(300):
            with suppress(ConnectionResetError):  # by a server that was that quick
                threads.submit(act, connect(relay.port), random.Random(f"client {number}"))
    until(lambda: relay.open == 0)
    server.shutdown(socket.SHUT_RDWR)
    serving.join(BOUND_S)
    assert relay.counts.connections == 300
    until(lambda: descriptors(os.getpid()) <= before)


def test_a_relay_that_ends_resets_what_is_open_and_leaves_no_descriptor(
    loop_factory: Callable[[], asyncio.AbstractEventLoop], server: socket.socket
) -> None:
    before = descriptors(os.getpid())
    with ExitStack() as stack:
        with relaying(loop_factory, server.getsockname()[1]) as relay:
            pairs = [stack.enter_context(joined(relay, server)) for _ in range(20)]
        for end in (end for pair in pairs for end in pair):
            with pytest.raises(ConnectionResetError):
                end.recv(1)
        with pytest.raises(ConnectionRefusedError):
            connect(relay.port)
    assert descriptors(os.getpid()) == before


async def test_it_serves_async_programs_on_their_own_loop() -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.read())
        writer.close()

    async with (
        await asyncio.start_server(echo, HOST, 0) as server,
        Relay(HOST, server.sockets[0].getsockname()[1]) as relay,
    ):
        reader, writer = await asyncio.open_connection(relay.host, relay.port)
        writer.write(b"hello")
        writer.write_eof()
        assert await reader.read() == b"hello"
        writer.close()
        await writer.wait_closed()
        assert relay.counts == RelayCounts(1, 5, 5)


def spawn(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "locklane_bench.relayprocess", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_the_process_answers_each_line_and_ends_with_its_input(server: socket.socket) -> None:
    process = spawn("--target", "{}:{}".format(*server.getsockname()))
    with process, socket.create_server((HOST, 0)) as second:
        assert process.stdin is not None
        assert process.stdout is not None

        def ask(line: str) -> object:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(line + "\n")
            process.stdin.flush()
            return json.loads(process.stdout.readline())

        port = json.loads(process.stdout.readline())["port"]
        with connect(port) as client, server.accept()[0] as far:
            client.sendall(b"12345")
            assert read_exactly(far, 5) == b"12345"
            said = {"connections": 1, "bytes_up": 5, "bytes_down": 0, "requests": None, "open": 1}
            assert ask("counts") == said
            assert ask("target 127.0.0.1") == {"error": "not HOST:PORT: '127.0.0.1'"}
            assert ask("hello") == {
                "error": "none of 'counts', 'target HOST:PORT', 'rtt MILLISECONDS' and "
                "'requests on|off': 'hello'"
            }
            elsewhere = "{}:{}".format(*second.getsockname())
            assert ask(f"target {elsewhere}") == {"target": elsewhere}
            with connect(port), second.accept()[0]:
                client.sendall(b"6")
                assert read_exactly(far, 1) == b"6", "what was open stays where it was"
                assert process.communicate(timeout=BOUND_S) == ("", "")
                assert process.returncode == 0


def test_the_process_ends_quietly_on_an_interrupt() -> None:
    # Shells let what they start in the background ignore it, and so would its children.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        _interrupt_a_process()
    finally:
        signal.signal(signal.SIGINT, before)


def _interrupt_a_process() -> None:
    with spawn("--target", f"{HOST}:1") as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        # Before its standard input is closed, which would end it as well.
        assert process.wait(BOUND_S) == 130
        assert process.communicate(timeout=BOUND_S) == ("", "")


@pytest.mark.parametrize("target", ["here", "here:", ":80", "here:0", "here:65536", "here:-1"])
def test_the_process_refuses_what_is_no_target(target: str) -> None:
    with spawn("--target", target) as process:
        _, said = process.communicate(timeout=BOUND_S)
    assert process.returncode == 2
    assert f"not HOST:PORT: {target!r}" in said


def test_the_process_refuses_an_input_that_it_cannot_wait_for() -> None:
    said = subprocess.run(
        [sys.executable, "-m", "locklane_bench.relayprocess", "--target", f"{HOST}:1"],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        timeout=BOUND_S,
    )
    assert said.returncode == 2
    assert "must be a pipe, a socket or a terminal" in said.stderr


def test_the_help_shows_an_example() -> None:
    with spawn("--help") as process:
        said, _ = process.communicate(timeout=BOUND_S)
    assert "$ python -m locklane_bench.relayprocess --target" in said


def test_the_handle_counts_retargets_and_ends_its_process(server: socket.socket) -> None:
    with RelayChild(*server.getsockname()) as relay:
        with connect(relay.port) as client, server.accept()[0] as far:
            assert relay.open() == 1
            client.sendall(b"up")
            assert read_exactly(far, 2) == b"up"
            far.sendall(b"down")
            assert read_exactly(client, 4) == b"down"
        until(lambda: relay.open() == 0)
        assert relay.counts() == RelayCounts(1, 2, 4)
        with socket.create_server((HOST, 0)) as second:
            relay.retarget(*second.getsockname())
            with connect(relay.port), second.accept()[0]:
                pass
        with pytest.raises(ChildError, match="refused 'target nowhere:0': not HOST:PORT"):
            relay.retarget("nowhere", 0)
    with pytest.raises(ProcessLookupError):
        os.kill(relay.pid, 0)


def test_the_handle_says_why_its_process_did_not_start() -> None:
    with pytest.raises(ChildError, match=r"status 2.*(?s:.)*not HOST:PORT: 'nowhere:0'"):
        RelayChild("nowhere", 0).__enter__()


def test_the_handle_says_that_its_process_has_died() -> None:
    with RelayChild(HOST, 1) as relay:
        os.kill(relay.pid, signal.SIGKILL)
        with pytest.raises(ChildError, match="ended with status -9, having said nothing"):
            relay.counts()
