"""A network namespace of our own: entered whole or not at all; and in one, a line that goes dead,
which is how a peer vanishes whose machine loses its power.

Everything here runs in processes of their own, for there is no way back.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import put

HERE = Path(__file__).parent


def run_script(script: str, *arguments: str, within: float = 60.0) -> dict[str, Any]:
    """Run a script; it prints one JSON object."""
    done = subprocess.run(
        [
            *(sys.executable, "-c", f"import sys; sys.path.insert(0, {str(HERE)!r})\n{script}"),
            *arguments,
        ],
        capture_output=True,
        text=True,
        timeout=within,
    )
    assert done.returncode == 0, done.stderr + done.stdout
    said: dict[str, Any] = json.loads(done.stdout)
    return said


# -- entered or not --------------------------------------------------------------------------------

FAILS = """
import json, os, socket
from locklane_bench import namespace

def no(*_):
    raise PermissionError(1, "Operation not permitted")

before = os.readlink("/proc/self/ns/net"), os.readlink("/proc/self/ns/user"), os.getuid()
with socket.create_server(("127.0.0.1", 0)) as listening:
    setattr(namespace, sys.argv[1], no)
    reason = namespace.enter()
    after = os.readlink("/proc/self/ns/net"), os.readlink("/proc/self/ns/user"), os.getuid()
    with socket.create_connection(listening.getsockname(), timeout=10) as there:
        here, _ = listening.accept()
        with here:
            here.sendall(b"reached")
            got = there.recv(100).decode()
    # A connection made before the attempt is one thing; a new socket's is another.
    with socket.create_server(("127.0.0.1", 0)) as new:
        socket.create_connection(new.getsockname(), timeout=10).close()
children = 0
try:
    os.waitpid(-1, os.WNOHANG)
    children = 1
except ChildProcessError:
    pass
print(json.dumps({"reason": reason, "unchanged": before == after, "got": got,
                  "children": children}))
"""


@pytest.mark.parametrize("step", ["_enter", "_loopback_up"])
def test_a_namespace_that_cannot_be_entered_leaves_the_network_as_it_was(step: str) -> None:
    """Not even half of it is done: the last step failing is the same as the first."""
    said = run_script(FAILS, step)
    assert "not permitted" in said.pop("reason")
    assert said == {"unchanged": True, "got": "reached", "children": 0}


ENTERS = """
import json, os, socket
from locklane_bench import namespace
before = os.readlink("/proc/self/ns/net")
reason = namespace.enter()
print(json.dumps({"reason": reason, "moved": before != os.readlink("/proc/self/ns/net")}))
with socket.create_server(("127.0.0.1", 0)) as listening:
    socket.create_connection(listening.getsockname(), timeout=10).close()
"""


def test_a_namespace_is_entered_with_a_loopback_or_the_reason_is_told() -> None:
    said = run_script(ENTERS)
    assert said["moved"] is (said["reason"] is None)


# -- a line that goes dead -------------------------------------------------------------------------

VANISHES = """
import asyncio, fcntl, json, socket, struct, time
from pathlib import Path
from locklane_bench import namespace

transport, store, key_text = sys.argv[1:]
reason = namespace.enter()
if reason is not None:
    print(json.dumps({"skip": reason}))
    sys.exit()

import locklane_server.listening
import locklane_server.websockets
from conftest import There, FakeClock, eventually
from locklane_client import Client, Key, LockLost
from locklane_client.loop import run
from locklane_server.access import WIDE_OPEN
from locklane_server.repository.directory import DirectoryRepository
from locklane_server.served import ServedRepository
from locklane_server.server import Server
from locklane_server.workers import Workers

locklane_server.listening._KEEPALIVE = (
    (socket.TCP_KEEPIDLE, 1), (socket.TCP_KEEPINTVL, 1), (socket.TCP_KEEPCNT, 3),
)
locklane_server.websockets.HEARTBEAT_SECONDS = 1.0

def loopback_down():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        request = struct.pack("16sH14x", b"lo", 0)
        (flags,) = struct.unpack_from("16xH", fcntl.ioctl(any_socket, 0x8913, request))
        fcntl.ioctl(any_socket, 0x8914, struct.pack("16sH14x", b"lo", flags & ~0x1))

async def main():
    clock, said = FakeClock(), {}
    repository = DirectoryRepository.open(Path(store), Workers(), clock=clock)
    served = ServedRepository(repository, clock=clock)
    async with Server([served], access=WIDE_OPEN, port=0) as server:
        there = There(server, served, clock, Path(store))
        client = Client(there.url, transport=transport, keep_interval=1,
                        connect_timeout=2, answer_timeout=5)
        async with client:
            try:
                async with client.lock(key_text) as lock:
                    await eventually(lambda: there.live == 1)
                    loopback_down()
                    began = time.monotonic()

                    async def watch():
                        await eventually(lambda: there.live == 0, within=40)
                        said["server_s"] = time.monotonic() - began

                    watching = asyncio.create_task(watch())
                    await asyncio.sleep(40)
                    said["client"] = "it was not told"
            except LockLost as lost:
                said["client_s"] = time.monotonic() - began
                said["client"] = lost.reason
                said["retained_for"] = lost.retained_for
            await watching
        said["holds"] = there.served.holds
        said["locks"] = [there.served.manager.locks_on(key_text), await there.on_disk()]
        refusal = await served.remove(Key.parse(key_text))
        said["removal"] = refusal and refusal.value
    print(json.dumps(said))

run(main())
"""


@pytest.mark.parametrize("transport", ["longpoll", "websocket"])
def test_a_peer_that_vanishes_without_a_word_is_noticed_by_both_ends(
    transport: str, store: Path
) -> None:
    key = put(store, b"content")
    said = run_script(VANISHES, transport, str(store), key.text)
    if "skip" in said:
        pytest.skip(f"no network namespace here: {said['skip']}")
    assert "client_s" in said, said
    assert said["client_s"] < 10, said
    assert said["server_s"] < 20, said
    # The lock itself is not lost with its holder.
    assert 570 < said["retained_for"] < 600
    assert said["holds"] == 0
    assert said["locks"] == [1, 1]
    assert said["removal"] == "the content is locked"
