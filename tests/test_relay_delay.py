"""The relay makes the server seem far: nothing arrives early, nothing is lost, and it all ends.

Lower bounds are exact: they are the claim. Upper bounds only say that it was not for ever.
"""

from __future__ import annotations

import asyncio
import os
import random
import select
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import uvloop
from test_relay import (
    BOUND_S,
    HOST,
    connect,
    joined,
    read_all,
    read_exactly,
    relaying,
    reset,
    send_until_stopped,
    until,
)

from locklane_bench.children import ChildError, RelayChild
from locklane_bench.delay import MOST_ON_THE_WAY, Line, Timer
from locklane_bench.procfs import descriptors
from locklane_bench.relay import Relay
from locklane_bench.results import RelayCounts

SLACK_S = 1.0
"""How late a loaded machine may be."""


@contextmanager
def taking(least_s: float, most_s: float | None = None) -> Iterator[None]:
    """What is done in here takes at least that, and little more."""
    start = time.monotonic()
    yield
    taken = time.monotonic() - start
    assert least_s <= taken < (least_s if most_s is None else most_s) + SLACK_S


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with socket.create_server((HOST, 0), backlog=1024) as listener:
        listener.settimeout(BOUND_S)
        yield listener


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def loop_factory(request: pytest.FixtureRequest) -> Callable[[], asyncio.AbstractEventLoop]:
    factory: Callable[[], asyncio.AbstractEventLoop] = request.param
    return factory


@pytest.fixture
def relay(
    loop_factory: Callable[[], asyncio.AbstractEventLoop], server: socket.socket
) -> Iterator[Relay]:
    with relaying(loop_factory, server.getsockname()[1]) as relay:
        yield relay


@pytest.mark.parametrize("rtt_s", [0.0, 0.003, 0.02, 0.1])
def test_an_exchange_takes_a_round_trip_and_the_first_one_more(
    relay: Relay, server: socket.socket, rtt_s: float
) -> None:
    def echo() -> None:
        with server.accept()[0] as far:
            while said := far.recv(100):
                far.sendall(said)

    relay.rtt_s = rtt_s
    with ThreadPoolExecutor(1) as thread:
        echoing = thread.submit(echo)
        with taking(2 * rtt_s):
            client = connect(relay.port)
            client.sendall(b"first")
            assert read_exactly(client, 5) == b"first"
        with client:
            for _ in range(5):
                with taking(rtt_s):
                    client.sendall(b"later")
                    assert read_exactly(client, 5) == b"later"
        echoing.result(BOUND_S)


def test_half_a_round_trip_passes_in_each_direction(relay: Relay, server: socket.socket) -> None:
    relay.rtt_s = 0.1
    with joined(relay, server) as (client, far):
        for one, other in [(client, far), (far, client)]:
            with taking(0.05):
                one.sendall(b"x")
                assert other.recv(1) == b"x"


def test_the_server_is_connected_to_when_a_far_one_would_have_been(
    relay: Relay, server: socket.socket
) -> None:
    relay.rtt_s = 0.1
    start = time.monotonic()
    with connect(relay.port) as client:
        assert time.monotonic() - start < SLACK_S
        with server.accept()[0] as far:
            assert time.monotonic() - start >= 0.15
            far.sendall(b"I speak first")
            assert read_exactly(client, 13) == b"I speak first"
            assert 0.2 <= time.monotonic() - start < 0.2 + SLACK_S


def test_a_server_that_refuses_is_heard_of_no_earlier_than_one_that_answers(
    relay: Relay, server: socket.socket
) -> None:
    server.close()
    relay.rtt_s = 0.1
    with taking(0.2), connect(relay.port) as client, pytest.raises(ConnectionResetError):
        client.recv(1)
    until(lambda: relay.open == 0)


@pytest.mark.parametrize("one_is", ["client", "server"])
def test_the_end_of_a_stream_arrives_after_its_bytes_and_as_late(
    relay: Relay, server: socket.socket, one_is: str
) -> None:
    relay.rtt_s = 0.2
    with joined(relay, server) as (client, far):
        one, other = (client, far) if one_is == "client" else (far, client)
        one.sendall(b"that is all")
        with taking(0.1):
            one.shutdown(socket.SHUT_WR)
            assert read_all(other) == b"that is all"
        with taking(0.1):
            other.sendall(b"but I go on")
            assert read_exactly(one, 11) == b"but I go on"
        with taking(0.1):
            other.close()
            assert read_all(one) == b""
    until(lambda: relay.open == 0)


@pytest.mark.parametrize("one_is", ["client", "server"])
def test_a_reset_arrives_after_the_bytes_and_as_late(
    relay: Relay, server: socket.socket, one_is: str
) -> None:
    relay.rtt_s = 0.4
    with joined(relay, server) as (client, far):
        one, other = (client, far) if one_is == "client" else (far, client)
        with taking(0.3):
            with taking(0.2):
                one.sendall(b"some")
                time.sleep(0.1)  # or TCP itself may have it overtake what is not read yet
                start = time.monotonic()
                reset(one)
                assert relay.open == 1
                assert read_exactly(other, 4) == b"some"
            with pytest.raises(ConnectionResetError):
                other.recv(1)
        assert time.monotonic() - start >= 0.2
    until(lambda: relay.open == 0)


def test_what_was_sent_with_the_connection_arrives_with_it_and_so_does_the_end(
    relay: Relay, server: socket.socket
) -> None:
    relay.rtt_s = 0.1
    sent = random.Random(3).randbytes(1_000_000)
    with taking(0.15):
        with connect(relay.port) as client:
            client.sendall(sent)
        with server.accept()[0] as far:
            assert read_all(far) == sent
    until(lambda: relay.open == 0)


def test_distance_is_of_connections_to_come(relay: Relay, server: socket.socket) -> None:
    relay.rtt_s = 0.2
    with joined(relay, server) as (client, far):
        relay.rtt_s = 0.0
        with joined(relay, server) as (near_client, near), taking(0.1):
            client.sendall(b"x")
            near_client.sendall(b"y")
            readable, _, _ = select.select([near, far], [], [], BOUND_S)
            assert readable == [near], "it has overtaken the other"
            assert far.recv(1) == b"x"


def test_64_connections_in_use_at_once_are_all_on_time_and_in_order(
    relay: Relay, server: socket.socket
) -> None:
    relay.rtt_s = 0.04

    def echo(far: socket.socket) -> None:
        with far:
            while said := far.recv(100):
                far.sendall(said)

    def talk(number: int) -> float:
        chance, shortest = random.Random(number), float("inf")
        with connect(relay.port) as client:
            for _ in range(10):
                said = chance.randbytes(chance.randrange(1, 100))
                start = time.monotonic()
                client.sendall(said)
                assert read_exactly(client, len(said)) == said
                shortest = min(shortest, time.monotonic() - start)
        return shortest

    with ThreadPoolExecutor(64) as talkers, ThreadPoolExecutor(64) as echoes:
        talking = [talkers.submit(talk, number) for number in range(64)]
        for _ in range(64):
            echoes.submit(echo, server.accept()[0])
        assert min(talk.result() for talk in talking) >= 0.04
    until(lambda: relay.open == 0)


def test_what_is_on_its_way_is_bounded(relay: Relay) -> None:
    relay.rtt_s = 10.0
    with connect(relay.port) as client:
        sent = send_until_stopped(client)
        assert MOST_ON_THE_WAY / 2 < relay.counts.bytes_up <= MOST_ON_THE_WAY + 2**18 < sent


@pytest.mark.parametrize("one_is", ["client", "server"])
def test_a_slow_reader_of_much_gets_it_whole_while_the_relay_stays_small(one_is: str) -> None:
    much = random.Random(4).randbytes(64 * 2**20)
    with (
        socket.create_server((HOST, 0)) as server,
        RelayChild(*server.getsockname()) as relay,
        ThreadPoolExecutor(1) as thread,
    ):
        relay.set_rtt(20)
        with connect(relay.port) as client, server.accept()[0] as far:
            one, other = (client, far) if one_is == "client" else (far, client)
            before = peak_bytes(relay.pid)
            sending = thread.submit(lambda: (one.sendall(much), one.shutdown(socket.SHUT_WR)))
            taken: list[bytes] = []
            while part := other.recv(2**18):
                taken.append(part)
                time.sleep(0.0005)
            sending.result(BOUND_S)
            assert b"".join(taken) == much
            # The line, as much again where the reader is slow and it has arrived, and slack.
            assert peak_bytes(relay.pid) - before < 4 * MOST_ON_THE_WAY


def peak_bytes(pid: int) -> int:
    with Path(f"/proc/{pid}/status").open() as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))


def test_a_relay_that_ends_drops_what_is_on_its_way_and_leaves_nothing(
    loop_factory: Callable[[], asyncio.AbstractEventLoop], server: socket.socket
) -> None:
    before = descriptors(os.getpid())
    with ExitStack() as stack:
        with relaying(loop_factory, server.getsockname()[1]) as relay:
            pairs = [stack.enter_context(joined(relay, server)) for _ in range(5)]
            relay.rtt_s = 10.0
            clients = [stack.enter_context(connect(relay.port)) for _ in range(10)]
            for client in clients:
                client.sendall(b"this never arrives")
            for client in clients[:3]:
                reset(client)
            for client in clients[3:6]:
                client.shutdown(socket.SHUT_WR)
            until(lambda: relay.counts == RelayCounts(15, 180, 0))
            assert relay.open == 15
            stack.enter_context(taking(0.0))
        ends = [end for pair in pairs for end in pair] + clients[3:]
        for end in ends:
            with pytest.raises(ConnectionResetError):
                end.recv(1)
    assert descriptors(os.getpid()) == before


def test_a_reset_drops_what_is_on_its_way_to_who_is_gone(
    relay: Relay, server: socket.socket
) -> None:
    relay.rtt_s = 0.1
    with joined(relay, server) as (client, far):
        far.sendall(b"nobody is there when this comes")
        reset(client)
        with pytest.raises(ConnectionResetError):
            far.recv(1)
    until(lambda: relay.open == 0)


async def test_a_full_line_holds_the_reading_though_the_peer_takes_more(
    server: socket.socket,
) -> None:
    async with Relay(*server.getsockname()) as relay:
        relay.rtt_s = 10.0
        _, writer = await asyncio.open_connection(relay.host, relay.port)
        writer.write(bytes(4 * MOST_ON_THE_WAY))
        await asyncio.to_thread(
            until, lambda: any(link.client.line.full for link in list(relay.links))
        )
        (link,) = relay.links
        link.client.hold()
        link.client.release()
        assert link.client.transport is not None
        assert not link.client.transport.is_reading()
        writer.transport.abort()


async def test_a_line_delivers_in_order_makes_room_and_drops_what_is_cancelled() -> None:
    timer, seen = Timer(asyncio.get_running_loop()), []
    line = Line(timer, 0.005, lambda: seen.append("held"), lambda: seen.append("released"))
    arrived, other = asyncio.Event(), Line(timer, 0.01, lambda: None, lambda: None)
    line.put(lambda: seen.append("first"), MOST_ON_THE_WAY)
    line.put(arrived.set, 1)
    assert seen == ["held"]
    await asyncio.wait_for(arrived.wait(), BOUND_S)
    assert seen == ["held", "first", "released"]
    line.put(lambda: seen.append("cancelled"))
    line.cancel()
    line.put(lambda: seen.append("too late"))
    arrived.clear()
    other.put(arrived.set)
    await asyncio.wait_for(arrived.wait(), BOUND_S)
    assert seen == ["held", "first", "released"]
    timer.close()


async def test_the_timer_calls_in_order_never_early_and_never_once_closed() -> None:
    timer, calls, done = Timer(asyncio.get_running_loop()), [], asyncio.Event()
    start = time.monotonic_ns()
    for number, after_ms in enumerate([9, 3, 3, 0, -5, 7]):
        due = start + after_ms * 10**6
        timer.call_at(due, lambda n=number, due=due: calls.append((n, time.monotonic_ns() - due)))
    timer.call_at(start + 10**7, done.set)
    await asyncio.wait_for(done.wait(), BOUND_S)
    assert [number for number, _ in calls] == [4, 3, 1, 2, 5, 0]
    assert min(late for _, late in calls) >= 0
    timer.call_at(time.monotonic_ns() + 10**6, lambda: calls.append((99, 0)))
    timer.close()
    await asyncio.sleep(0.02)
    assert len(calls) == 6


def test_the_process_is_told_its_distance_at_its_start_and_later(server: socket.socket) -> None:
    command = [sys.executable, "-m", "locklane_bench.relayprocess", "--rtt", "50", "--target"]
    command.append("{}:{}".format(*server.getsockname()))
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        port = int(process.stdout.readline().split()[1].rstrip("}"))
        with taking(0.075), connect(port), server.accept()[0]:
            pass
        process.stdin.write("rtt 0.5\nrtt 1e4\nrtt far\nrtt\n")
        process.stdin.flush()
        assert [process.stdout.readline() for _ in range(3)] == [
            '{"rtt_ms": 0.5}\n',
            '{"rtt_ms": 10000.0}\n',
            '{"error": "not a number of ms from 0 to 10000: \'far\'"}\n',
        ]
        assert process.stdout.readline().startswith('{"error": "none of ')
        process.stdin.close()
        assert process.wait(BOUND_S) == 0


@pytest.mark.parametrize("rtt", ["-1", "10001", "nan", "inf", "far"])
def test_the_process_refuses_what_is_no_distance(rtt: str) -> None:
    command = [sys.executable, "-m", "locklane_bench.relayprocess", "--target", f"{HOST}:1"]
    said = subprocess.run(
        [*command, f"--rtt={rtt}"], capture_output=True, text=True, timeout=BOUND_S
    )
    assert said.returncode == 2
    assert f"not a number of ms from 0 to 10000: {rtt!r}" in said.stderr


def test_the_handle_sets_the_distance_of_connections_to_come(server: socket.socket) -> None:
    with RelayChild(*server.getsockname()) as relay:
        for rtt_ms in (40.0, 80.5, 0.0):
            relay.set_rtt(rtt_ms)
            with taking(1.5 * rtt_ms / 1000), connect(relay.port), server.accept()[0]:
                pass
        with pytest.raises(ChildError, match=r"refused 'rtt -1\.0': not a number of ms"):
            relay.set_rtt(-1.0)
