"""Ephemeral ports: who keeps them in TIME_WAIT, that a transport that wastes them is seen to run
out, and that no others than those of a network namespace of our own are ever made scarce."""

from __future__ import annotations

import errno
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from locklane_bench import namespace, ports, procfs
from locklane_bench.ports import Exhaustion, PortsError, exhaustion, lacks_port
from locklane_bench.results import PortUse
from locklane_client import TRANSPORTS as OF_THE_CLIENT
from locklane_client import ServerUnreachable
from locklane_server.transports import TRANSPORTS as OF_THE_SERVER

PORTS, FILES = 60, 100

BOTH = [name for name in OF_THE_CLIENT if name in OF_THE_SERVER]


def measure(transport: str) -> PortUse:
    try:
        return ports.measure(transport, PORTS, FILES)
    except PortsError as error:
        pytest.skip(str(error))


# -- what transports do ----------------------------------------------------------------------------


@pytest.mark.parametrize("transport", BOTH)
def test_a_transport_drops_all_or_is_said_to_have_run_out(transport: str) -> None:
    use = measure(transport)
    assert (use.transport, use.ports, use.wanted) == (transport, PORTS, FILES)
    assert use.connections >= 1
    assert use.ran_out is (use.files < FILES) is (use.message is not None)
    # Nobody has more connections in TIME_WAIT than were made, at whichever end.
    assert use.client_time_wait + use.server_time_wait <= use.connections
    assert use.client_time_wait <= PORTS


def test_longpoll_needs_one_port_for_all_files() -> None:
    use = measure("longpoll")
    assert (use.files, use.connections, use.ran_out) == (FILES, 1, False)
    assert (use.client_time_wait, use.server_time_wait) == (0, 0)


def test_the_server_is_the_one_that_closes_websockets_so_that_the_client_keeps_its_ports() -> None:
    """RFC 6455, 7.1.1: the server closes the TCP connection first."""
    use = measure("websocket")
    assert (use.files, use.connections, use.ran_out) == (FILES, FILES, False)
    assert use.client_time_wait == 0
    assert use.server_time_wait > 0


WASTEFUL = """
import dataclasses, json, os, sys
from locklane_bench import namespace, ports
from locklane_client import transports
from locklane_client.transports.websocket import Websocket

class Hold:
    def __init__(self, hold):
        self.hold, self.lock_id = hold, hold.lock_id

    async def unlock(self):
        await self.hold.abandon()

class Wasteful(Websocket):
    name = "wasteful"

    async def acquire(self, *arguments):
        return Hold(await super().acquire(*arguments))

transports.TRANSPORTS["wasteful"] = Wasteful
before = ports.network()
if (why := namespace.enter()) is not None:
    print(json.dumps({"skip": why}))
    sys.exit()
use = ports.measured(before, "wasteful", *map(int, sys.argv[1:]))
print(json.dumps(dataclasses.asdict(use)))
"""


def script(code: str, *arguments: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr + done.stdout
    said: dict[str, Any] = json.loads(done.stdout)
    if "skip" in said:
        pytest.skip(f"no network namespace here: {said['skip']}")
    return said


def test_a_client_that_closes_a_connection_for_each_file_runs_out_of_ports() -> None:
    said = script(WASTEFUL, str(PORTS), str(FILES))
    assert said["ran_out"] is True
    assert os.strerror(errno.EADDRNOTAVAIL) in said["message"]
    assert said["files"] == said["connections"] == said["client_time_wait"] == PORTS
    assert said["server_time_wait"] == 0


# -- nobody else's ports ---------------------------------------------------------------------------


def settings() -> dict[str, str]:
    names = ("ip_local_port_range", "tcp_tw_reuse")
    return {name: Path("/proc/sys/net/ipv4", name).read_text() for name in names}


def test_the_ports_of_a_namespace_that_was_not_entered_are_left_alone() -> None:
    before = settings()
    with pytest.raises(PortsError, match="not a network namespace of our own"):
        ports.make_scarce(ports.network(), PORTS)
    assert settings() == before


def test_a_measurement_changes_nothing_outside_of_its_namespace() -> None:
    before = settings()
    measure("longpoll")
    assert settings() == before


def test_where_there_is_no_namespace_to_be_had_that_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(namespace, "enter", lambda: "Operation not permitted")
    before = settings()
    assert ports.main(["--transport", "longpoll"]) == 1
    said = json.loads(capsys.readouterr().out)
    assert said == {"impossible": "no network namespace of our own: Operation not permitted"}
    assert settings() == before


# -- what is counted and reckoned ------------------------------------------------------------------


@pytest.mark.parametrize("first", ["server", "client"])
def test_time_wait_is_of_the_end_that_closes_first(first: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        # Somebody else may have had this port within the last minute.
        server_before, clients_before = procfs.time_wait_by_end(port)
        for _ in range(20):
            client = socket.create_connection(("127.0.0.1", port))
            server, _ = listener.accept()
            one, other = (server, client) if first == "server" else (client, server)
            one.close()
            assert other.recv(1) == b""
            other.close()
        server_after, clients_after = procfs.time_wait_by_end(port)
        more = (server_after - server_before, clients_after - clients_before)
        assert more == ((20, 0) if first == "server" else (0, 20))


def test_the_want_of_a_port_is_told_from_other_failures() -> None:
    def unreachable(cause: OSError) -> ServerUnreachable:
        error = ServerUnreachable("no connection with it")
        error.__cause__ = cause
        return error

    assert lacks_port(unreachable(OSError(errno.EADDRNOTAVAIL, "no such address")))
    assert lacks_port(ServerUnreachable(f"no connection: {os.strerror(errno.EADDRNOTAVAIL)}"))
    assert not lacks_port(unreachable(OSError(errno.ECONNREFUSED, "refused")))


def test_a_transport_that_leaves_nothing_in_time_wait_never_runs_out() -> None:
    assert exhaustion(0, 1e9) is None


def test_a_port_for_each_file_lasts_for_470_drops_a_second() -> None:
    slow, fast = exhaustion(1, 470), exhaustion(1, 941.0667)
    assert slow is not None
    assert slow.above_drops_per_s == pytest.approx(470.53, abs=0.01)
    assert slow.after_s is None
    assert fast is not None
    # Twice as fast as ports come back, they are gone in half of the time that each takes.
    assert fast.after_s == pytest.approx(30, abs=0.001)


def test_fewer_ports_for_each_file_last_longer() -> None:
    assert exhaustion(0.5, 100, ports=600, time_wait_s=60) == Exhaustion(20, 12)
    assert exhaustion(1, 10, ports=600, time_wait_s=60) == Exhaustion(10, None)
