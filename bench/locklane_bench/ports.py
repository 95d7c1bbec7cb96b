"""How soon a transport runs out of ephemeral ports.

The end of a TCP connection that closes first keeps it in TIME_WAIT for a minute (RFC 9293, 3.6.1).
If that is the client's end, the client's port cannot be used for another connection to the same
server so long, and a client that drops files fast enough has none left.

``python -m locklane_bench.ports`` finds out with few ports instead of the usual 28,232, in a
network namespace of its own, and prints a :class:`~locklane_bench.results.PortUse` as one line of
JSON. :func:`measure` runs it.
"""

from __future__ import annotations

import argparse
import asyncio
import errno
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from itertools import cycle, islice
from pathlib import Path

from locklane_bench import namespace, procfs
from locklane_bench.children import Child, ServerChild, python
from locklane_bench.keys import made, put_into_store
from locklane_bench.results import PortUse
from locklane_client import Client, LocklaneError
from locklane_client.address import Address
from locklane_client.loop import run, use_all_descriptors
from locklane_server.transports import TRANSPORTS

DEFAULT_PORTS = 28_232
"""Ephemeral ports that Linux has if nobody changes ``net.ipv4.ip_local_port_range``: 32768 to
60999."""

FIRST_PORT = 20_000
"""Of the narrow range: below the default one, which the server's own ports were taken from."""

MOST_PORTS = 10_000

KEYS = 50
"""Files that are dropped, again and again."""

PATIENCE_SECONDS = 300.0
"""How long a measurement may take."""

SETTLE_SECONDS = 5.0
"""How long connections may take to be closed on both sides after the last drop."""

_NO_PORT = os.strerror(errno.EADDRNOTAVAIL)
_SETTINGS = Path("/proc/sys/net/ipv4")
_THIS_NAMESPACE = Path("/proc/self/ns/net")


class PortsError(Exception):
    """Ports could not be made scarce here; the text says why."""


@dataclass(frozen=True, slots=True)
class Exhaustion:
    """When ports run out at some speed."""

    above_drops_per_s: float
    """Up to these drops per second, ports come back as fast as they are needed."""
    after_s: float | None
    """Seconds after which none is left at the speed that was asked about; None: at that speed,
    never."""


def exhaustion(
    client_time_wait_per_file: float,
    drops_per_s: float,
    ports: int = DEFAULT_PORTS,
    time_wait_s: float = procfs.TIME_WAIT_S,
) -> Exhaustion | None:
    """Reckon when one client address runs out of ports for one server.

    :param client_time_wait_per_file: sockets that each drop leaves in TIME_WAIT at the client's
        end, 0 or more.
    :param drops_per_s: how fast files are dropped, 0 or more.
    :param ports: how many there are.
    :param time_wait_s: seconds for which each is kept.
    :returns: None if they never run out, however fast files are dropped.
    """
    if client_time_wait_per_file <= 0:
        return None
    above = ports / (client_time_wait_per_file * time_wait_s)
    return Exhaustion(
        above_drops_per_s=above,
        after_s=time_wait_s * above / drops_per_s if drops_per_s > above else None,
    )


class PortsChild(Child):
    """The process that makes ports scarce, for itself and the server that it starts."""

    def __init__(self, transport: str, ports: int, files: int) -> None:
        options = ["--transport", transport, "--ports", str(ports), "--files", str(files)]
        super().__init__(python("locklane_bench.ports", *options), "the measurement of ports")

    def result(self) -> PortUse:
        """Wait for what it found.

        :raises PortsError: ports cannot be made scarce here.
        :raises ChildError: it failed.
        """
        said = json.loads(self.read_line(PATIENCE_SECONDS))
        if "impossible" in said:
            raise PortsError(said["impossible"])
        return PortUse(**said)


def measure(transport: str, ports: int = 400, files: int = 1200) -> PortUse:
    """Drop files over a transport with few ephemeral ports, in a process of its own.

    :param ports: how many, 2 to 10,000.
    :param files: how many, 1 or more; to see a transport run out, more than there are ports.
    :raises PortsError: ports cannot be made scarce here.
    :raises ChildError: the process failed.
    """
    with PortsChild(transport, ports, files) as child:
        return child.result()


def make_scarce(before: str, ports: int) -> None:
    """Leave few ephemeral ports in this network namespace, and have none used again before its
    time.

    Linux uses a port in TIME_WAIT again within a second if both ends are on loopback
    (``net.ipv4.tcp_tw_reuse`` is 2): a client elsewhere has no such luck, so it is turned off.

    :param before: the network namespace that this process was in, as :func:`network` told it then.
    :raises PortsError: this is still the same, which others use too, or the kernel refuses.
    """
    if network() == before:
        raise PortsError("this is not a network namespace of our own: its ports are others' too")
    try:
        (_SETTINGS / "tcp_tw_reuse").write_text("0")
        (_SETTINGS / "ip_local_port_range").write_text(f"{FIRST_PORT} {FIRST_PORT + ports - 1}")
    except OSError as error:
        raise PortsError(f"the kernel's settings cannot be changed here: {error}") from error


def network() -> str:
    """The kernel's name for the network namespace of this process."""
    return str(_THIS_NAMESPACE.readlink())


async def use(client: Client, keys: Iterable[str]) -> tuple[int, str | None]:
    """Drop one file after the other, until all are dropped or there is no port for a connection.

    :returns: how many were dropped, and what the client said when there was no port.
    :raises LocklaneError: a drop failed for another reason.
    """
    dropped = 0
    for key in keys:
        try:
            async with client.lock(key):
                pass
        except LocklaneError as error:
            if not lacks_port(error):
                raise
            return dropped, str(error)
        dropped += 1
    return dropped, None


def lacks_port(error: BaseException | None) -> bool:
    """Whether an error, or what caused it, is that there is no ephemeral port (``connect(2)``)."""
    while error is not None:
        if isinstance(error, OSError) and error.errno == errno.EADDRNOTAVAIL:
            return True
        if _NO_PORT in str(error):  # a lost lock has a reason, and no cause
            return True
        error = error.__cause__ or error.__context__
    return False


async def find_out(address: Address, url: str, transport: str, ports: int, files: int) -> PortUse:
    """Drop files at a server, in a network namespace where ports are scarce already."""
    keys = [source.key.text for source in made(KEYS)]
    async with Client(url, transport=transport) as client:
        dropped, message = await use(client, islice(cycle(keys), files))
        # With the client still open: what it goes on using is not what a drop leaves behind.
        at_server, at_client = await _settled(address.port)
        return PortUse(
            transport=transport,
            ports=ports,
            files=dropped,
            wanted=files,
            ran_out=message is not None,
            connections=client.connections_opened,
            client_time_wait=at_client,
            server_time_wait=at_server,
            message=message,
        )


async def _settled(port: int) -> tuple[int, int]:
    """Sockets in TIME_WAIT by end, once no more come."""
    end = time.monotonic() + SETTLE_SECONDS
    found, looks = procfs.time_wait_by_end(port), 0
    while looks < 5 and time.monotonic() < end:
        await asyncio.sleep(0.05)
        now = procfs.time_wait_by_end(port)
        found, looks = now, looks + 1 if now == found else 0
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m locklane_bench.ports",
        description="Drop files over a transport with few ephemeral ports, in a network namespace "
        "of its own, and print as a line of JSON how far it came.",
    )
    parser.add_argument("--transport", required=True, choices=list(TRANSPORTS))
    parser.add_argument("--ports", type=int, default=400, help="in the range (default: 400)")
    parser.add_argument("--files", type=int, default=1200, help="to drop (default: 1200)")
    options = parser.parse_args(arguments)
    if not 2 <= options.ports <= MOST_PORTS or options.files < 1:
        parser.error(f"--ports has to be 2 to {MOST_PORTS}, and --files 1 or more")
    before = network()
    answer: dict[str, object]
    try:
        if (why := namespace.enter()) is not None:
            raise PortsError(f"no network namespace of our own: {why}")
        answer = asdict(measured(before, options.transport, options.ports, options.files))
    except PortsError as error:
        answer = {"impossible": str(error)}
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()
    return 1 if "impossible" in answer else 0


def measured(before: str, transport: str, ports: int, files: int) -> PortUse:
    """What :func:`measure` returns, by the process that has entered a network namespace.

    :param before: the one that it was in.
    :raises PortsError: it was not entered, or the kernel refuses.
    """
    use_all_descriptors()
    with ExitStack() as stack:
        store = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="locklane-ports-")))
        put_into_store(made(KEYS), store)
        # First the server, whose own ports are to be none of the few.
        server = stack.enter_context(ServerChild.locklane(store, list(TRANSPORTS)))
        make_scarce(before, ports)
        address = Address.parse(server.address)
        return run(find_out(address, server.address, transport, ports, files))


if __name__ == "__main__":
    sys.exit(main())
