"""What is read from the kernel is what processes and sockets really did."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from locklane_bench import procfs

BOUND_S = 20.0


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + BOUND_S
    while not condition():
        assert time.monotonic() < end, "this never came true"
        time.sleep(0.002)


class Child(subprocess.Popen[str]):
    """A process that runs a piece of code for each line it is told, and says ``it``."""

    def __init__(self) -> None:
        code = (
            "import sys, time\nfor line in sys.stdin:\n    exec(line)\n    print(it, flush=True)\n"
        )
        super().__init__(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def do(self, code: str) -> str:
        assert self.stdin is not None
        assert self.stdout is not None
        self.stdin.write(code + "\n")
        self.stdin.flush()
        return self.stdout.readline().strip()


@pytest.fixture
def child() -> Iterator[Child]:
    with Child() as child:
        child.do("it = 'ready'")
        yield child


@pytest.fixture
def gone() -> int:
    """The id of a process that was."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        pass
    return process.pid


@contextmanager
def no_clock() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:

        def fail(clock: int) -> float:
            raise OSError(clock)

        patch.setattr(time, "clock_gettime", fail)
        yield


def test_cpu_seconds_are_those_that_the_process_itself_counts(child: Child) -> None:
    before = procfs.cpu_seconds(child.pid)
    burn = "s = time.process_time()\\nwhile time.process_time() < s + 0.3: pass"
    said = float(child.do(f"exec('{burn}'); it = time.process_time()"))
    after = procfs.cpu_seconds(child.pid)
    assert said <= after < said + 0.05
    assert 0.3 <= after - before < 0.4


def test_threads_are_those_that_run_now() -> None:
    before = procfs.threads(os.getpid())
    end = threading.Event()
    more = [threading.Thread(target=end.wait) for _ in range(3)]
    for each in more:
        each.start()
    assert procfs.threads(os.getpid()) == before + 3
    end.set()
    for each in more:
        each.join()
    until(lambda: procfs.threads(os.getpid()) == before)


def test_cpu_seconds_include_every_thread() -> None:
    def burn() -> None:
        start = time.thread_time()
        while time.thread_time() < start + 0.1:
            pass

    threads = [threading.Thread(target=burn) for _ in range(3)]
    before = procfs.cpu_seconds(os.getpid())
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert procfs.cpu_seconds(os.getpid()) - before >= 0.3


def test_cpu_seconds_come_from_stat_where_the_clock_is_refused(child: Child, gone: int) -> None:
    burn = "while time.process_time() < 0.3: pass"
    said = float(child.do(f"exec('{burn}'); it = time.process_time()"))
    with no_clock():
        assert procfs.cpu_seconds(child.pid) == pytest.approx(said, abs=0.05)
        with pytest.raises(ProcessLookupError):
            procfs.cpu_seconds(gone)


def test_cpu_seconds_outlive_a_process_until_somebody_waits_for_it(child: Child) -> None:
    said = float(child.do("it = time.process_time()"))
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert procfs.cpu_seconds(child.pid) >= said
    with pytest.raises(ProcessLookupError):
        procfs.peak_memory_kib(child.pid)


def test_descriptors_are_counted(child: Child) -> None:
    before = procfs.descriptors(child.pid)
    child.do("it = [open('/dev/null') for _ in range(100)]")
    assert procfs.descriptors(child.pid) == before + 100
    assert procfs.descriptors(child.pid) == len(list(Path(f"/proc/{child.pid}/fd").iterdir()))


def test_the_peak_of_descriptors_stays_when_they_are_closed(child: Child) -> None:
    before = procfs.descriptors(child.pid)
    with procfs.PeakDescriptors(child.pid, every_ms=1) as sampled:
        child.do("it = [open('/dev/null') for _ in range(50)]")
        until(lambda: sampled.peak >= before + 50)
        child.do("del it; it = 0")
    assert procfs.descriptors(child.pid) == before
    assert sampled.peak == before + 50


def test_the_peak_of_descriptors_includes_the_last_moment(child: Child) -> None:
    before = procfs.descriptors(child.pid)
    with procfs.PeakDescriptors(child.pid, every_ms=60_000) as sampled:
        child.do("it = [open('/dev/null') for _ in range(50)]")
    assert sampled.peak == before + 50


def test_the_peak_of_descriptors_outlives_the_process(child: Child) -> None:
    before = procfs.descriptors(child.pid)
    with procfs.PeakDescriptors(child.pid) as sampled:
        child.kill()
        child.wait()
    assert sampled.peak == before


def test_the_peak_of_memory_can_be_reset(child: Child) -> None:
    small = procfs.peak_memory_kib(child.pid)
    child.do("it = len(bytearray(b'x') * 100_000_000)")
    large = procfs.peak_memory_kib(child.pid)
    assert 95_000 < large - small < 110_000
    procfs.reset_peak_memory(child.pid)
    assert procfs.peak_memory_kib(child.pid) < small + 10_000


@pytest.mark.parametrize(
    "ask",
    [
        procfs.cpu_seconds,
        procfs.descriptors,
        procfs.peak_memory_kib,
        procfs.reset_peak_memory,
        lambda pid: procfs.PeakDescriptors(pid).__enter__(),
    ],
    ids=["cpu_seconds", "descriptors", "peak_memory_kib", "reset_peak_memory", "PeakDescriptors"],
)
def test_a_process_that_is_gone_is_said_to_be(ask: Callable[[int], object], gone: int) -> None:
    with pytest.raises(ProcessLookupError, match=str(gone)):
        ask(gone)


def converse(listener: socket.socket) -> None:
    """One connection, closed by the client first, then by the server."""
    with socket.create_connection(listener.getsockname()[:2]) as client:
        far, _ = listener.accept()
        client.shutdown(socket.SHUT_WR)
        assert far.recv(1) == b""
        far.close()
        assert client.recv(1) == b""


@contextmanager
def listening(family: socket.AddressFamily) -> Iterator[socket.socket]:
    host = "127.0.0.1" if family == socket.AF_INET else "::1"
    try:
        listener = socket.create_server((host, 0), family=family, backlog=64)
    except OSError as error:
        pytest.skip(f"no {host} here: {error}")
    with listener:
        yield listener


def test_opens_are_counted() -> None:
    with listening(socket.AF_INET) as listener:
        before = procfs.tcp_passive_opens()
        for _ in range(50):
            converse(listener)
        assert procfs.tcp_passive_opens() - before >= 50  # other programs' count too


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_sockets_in_time_wait_are_counted_once_each(family: socket.AddressFamily) -> None:
    with listening(family) as listener:
        port = listener.getsockname()[1]
        before = procfs.time_wait(port)  # of a listener that had this port within the last minute
        for _ in range(50):
            converse(listener)
        assert procfs.time_wait(port) - before == 50


def test_time_wait_counts_ipv4_connections_to_a_listener_of_both_families() -> None:
    if not socket.has_dualstack_ipv6():
        pytest.skip("no IPv6 here")
    with socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as listener:
        port = listener.getsockname()[1]
        before = procfs.time_wait(port)
        with socket.create_connection(("127.0.0.1", port)) as client:
            far, _ = listener.accept()
            far.close()  # first, so that the listener's family has the socket in TIME_WAIT
            assert client.recv(1) == b""
        assert procfs.time_wait(port) - before == 1


def test_the_machine_is_described_without_being_named() -> None:
    facts = procfs.machine()
    assert list(facts) == [
        "processor",
        "cores",
        "memory",
        "kernel",
        "python",
        "net.ipv4.ip_local_port_range",
        "net.ipv4.tcp_tw_reuse",
        "net.ipv4.tcp_max_tw_buckets",
    ]
    assert all(facts.values())
    assert facts["kernel"].startswith("Linux ")
    assert facts["memory"].endswith(" GiB")
    low, high = facts["net.ipv4.ip_local_port_range"].split()
    assert 0 < int(low) < int(high) < 65536
    said = " ".join(facts.values())
    assert "/" not in said
    assert socket.gethostname() not in said.split()
