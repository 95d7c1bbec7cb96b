"""What Linux says about another process, and about its own TCP: read from ``/proc``, no root needed
for processes of one's own.

A process that is gone raises :class:`ProcessLookupError`. One that has ended and that nobody has
waited for yet still tells its processor time, but no longer its memory.
"""

from __future__ import annotations

import os
import platform
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from typing import Self

TIME_WAIT_S = 60.0
"""How long Linux keeps a socket in TIME_WAIT (TCP_TIMEWAIT_LEN, include/net/tcp.h)."""

_TICKS_S = 0.03
"""What the kernel's timers may be off by: some of its ticks."""

_PROC = Path("/proc")
_TIME_WAIT = "06"  # TCP_TIME_WAIT, include/net/tcp_states.h
_PPID, _OWN, _CHILDREN = 1, slice(11, 13), slice(13, 15)  # fields 4, 14 to 15, 16 to 17 of stat
_RESET_PEAK = "5"  # CLEAR_REFS_MM_HIWATER_RSS, fs/proc/task_mmu.c


def cpu_seconds(pid: int) -> float:
    """Processor time of the whole process in s, user and system, to the ns; see
    ``man 3 clock_getcpuclockid``."""
    # The number of a process' CPU clock, for which Python has no function, is defined in Linux'
    # include/linux/posix-timers.h: the complement of the pid, then three bits, of which 2 is
    # CPUCLOCK_SCHED (what the scheduler counted) of the process, not of one thread.
    try:
        return time.clock_gettime((~pid << 3) | 2)
    except OSError:
        return sum(int(ticks) for ticks in _stat(pid)[_OWN]) / os.sysconf("SC_CLK_TCK")


def tree_cpu_seconds(pid: int) -> float:
    """Processor time of a process in s as :func:`cpu_seconds`, with that of all its children, those
    that have ended too (these to the kernel's tick, mostly 10 ms)."""
    tick_s = 1 / os.sysconf("SC_CLK_TCK")
    stats: dict[int, list[str]] = {}
    for directory in _PROC.iterdir():
        if directory.name.isdecimal():
            with suppress(ProcessLookupError):
                stats[int(directory.name)] = _stat(int(directory.name))
    if pid not in stats:
        raise ProcessLookupError(f"there is no process {pid}")
    tree, seconds = [pid], 0.0
    for each in tree:  # which grows while it is walked
        tree += [child for child, fields in stats.items() if int(fields[_PPID]) == each]
        ended = sum(int(ticks) for ticks in stats[each][_CHILDREN])
        with suppress(ProcessLookupError):
            seconds += cpu_seconds(each) + ended * tick_s
    return seconds


def descriptors(pid: int) -> int:
    """Open file descriptors (``Documentation/filesystems/proc.rst``, ``/proc/PID/fd``)."""
    directory = _PROC / str(pid) / "fd"
    with _gone(pid):
        # Since Linux 6.2 the size is their number, which costs less than to list thousands.
        return directory.stat().st_size or sum(1 for _ in directory.iterdir())


def threads(pid: int) -> int:
    """Threads of a process (``Threads``, ``man 5 proc_pid_status``)."""
    for line in _read(pid, "status").splitlines():
        if line.startswith("Threads:"):
            return int(line.split()[1])
    raise ProcessLookupError(f"process {pid} has ended")


def memory_kib(pid: int) -> int:
    """What is resident in memory now, in KiB, to the page (``Documentation/filesystems/proc.rst``,
    ``/proc/PID/smaps_rollup``; what the other files say may be off by some hundred KiB)."""
    for line in _read(pid, "smaps_rollup").splitlines():
        if line.startswith("Rss:"):
            return int(line.split()[1])
    raise ProcessLookupError(f"process {pid} has ended")


def peak_memory_kib(pid: int) -> int:
    """The most that was resident in memory, in KiB, since the start or since
    :func:`reset_peak_memory` (``VmHWM``, ``man 5 proc_pid_status``)."""
    for line in _read(pid, "status").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1])
    raise ProcessLookupError(f"process {pid} has ended")


def reset_peak_memory(pid: int) -> None:
    """Let the peak start anew from what is resident now (``man 5 proc_pid_clear_refs``)."""
    with _gone(pid):
        (_PROC / str(pid) / "clear_refs").write_text(_RESET_PEAK)


def tcp_passive_opens() -> int:
    """Connections that this network namespace has accepted since it exists: ``PassiveOpens``,
    ``Documentation/networking/snmp_counter.rst``. Any other program's count too."""
    return _snmp("PassiveOpens")


def time_wait(port: int, since: float | None = None) -> int:
    """Sockets in TIME_WAIT on loopback whose port is this one, at either end
    (``Documentation/networking/proc_net_tcp.rst``).

    :param since: count only those that came into it after this, in s of ``time.monotonic()``.
    """
    found = set()  # the kernel may list a socket twice while the table changes
    ours = f":{port:04X}"
    for line in _tcp_sockets():
        _, local, remote, state, _queues, timer, *_ = line.split(maxsplit=6)
        if state != _TIME_WAIT or not (local.endswith(ours) or remote.endswith(ours)):
            continue
        left_s = int(timer.partition(":")[2], 16) / os.sysconf("SC_CLK_TCK")
        began = time.monotonic() - (TIME_WAIT_S - left_s)
        if since is None or began >= since - _TICKS_S:
            found.add((local, remote))
    return sum(_is_loopback(local.partition(":")[0]) for local, _ in found)


def time_wait_by_end(port: int) -> tuple[int, int]:
    """Sockets in TIME_WAIT of a server that listens on this port: at its own end, and at its
    clients' ends, each of which keeps one of a client's ports from being used for it again."""
    at_server, at_clients = set(), set()
    ours = f":{port:04X}"
    for line in _tcp_sockets():
        _, local, remote, state, _rest = line.split(maxsplit=4)
        if state == _TIME_WAIT:
            if local.endswith(ours):
                at_server.add((local, remote))
            elif remote.endswith(ours):
                at_clients.add((local, remote))
    return len(at_server), len(at_clients)


class PeakDescriptors:
    """Samples the open descriptors of a process from entry to exit; one that ends keeps its peak.

    >>> with PeakDescriptors(pid) as descriptors:
    ...     work()
    >>> descriptors.peak
    """

    def __init__(self, pid: int, every_ms: float = 10) -> None:
        self.pid = pid
        self.peak = 0
        self._every_s = every_ms / 1000
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="descriptors", daemon=True)

    def __enter__(self) -> Self:
        self._sample()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        with suppress(ProcessLookupError):
            while not self._stop.wait(self._every_s):
                self._sample()
            self._sample()

    def _sample(self) -> None:
        self.peak = max(self.peak, descriptors(self.pid))


def machine() -> dict[str, str]:
    """What about this machine a reader must know, in the order to print; nothing that names it."""
    usable, cores = len(os.sched_getaffinity(0)), os.cpu_count()
    memory_kib = int(_value_of("MemTotal", _PROC / "meminfo", "0").split()[0])
    facts = {
        "processor": _value_of("model name", _PROC / "cpuinfo", platform.machine()),
        "cores": f"{cores}" if usable == cores else f"{usable} of {cores}",
        "memory": f"{memory_kib / 2**20:.1f} GiB",
        "kernel": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
    }
    # Documentation/networking/ip-sysctl.rst
    for setting in ("ip_local_port_range", "tcp_tw_reuse", "tcp_max_tw_buckets"):
        with suppress(OSError):
            value = (_PROC / "sys/net/ipv4" / setting).read_text()
            facts[f"net.ipv4.{setting}"] = " ".join(value.split())
    return facts


def file_system(path: Path) -> str:
    """The kind of file system that a path is on, for example ``ext4`` (``man 5 proc_mounts``)."""
    place, found, longest = path.resolve(), "unknown", -1
    for line in (_PROC / "self/mounts").read_text(errors="replace").splitlines():
        _, where, kind, *_ = line.split()
        mount = Path(where.replace(r"\040", " "))  # later mounts lie over earlier ones
        if place.is_relative_to(mount) and len(mount.parts) >= longest:
            found, longest = kind, len(mount.parts)
    return found


@contextmanager
def _gone(pid: int) -> Iterator[None]:
    """The kernel says the one when the process is gone, and the other when it goes meanwhile."""
    try:
        yield
    except (FileNotFoundError, ProcessLookupError):
        raise ProcessLookupError(f"there is no process {pid}") from None


def _read(pid: int, name: str) -> str:
    with _gone(pid):
        return (_PROC / str(pid) / name).read_text(encoding="utf-8", errors="replace")


def _stat(pid: int) -> list[str]:
    """The fields of man 5 proc_pid_stat from the third on: before it stands the command's name, in
    parentheses, which may hold anything."""
    return _read(pid, "stat").rpartition(")")[2].split()


def _snmp(counter: str) -> int:
    lines = (_PROC / "net/snmp").read_text().splitlines()
    names, values = (line.split() for line in lines if line.startswith("Tcp:"))
    return int(dict(zip(names, values, strict=True))[counter])


def _tcp_sockets() -> Iterator[str]:
    for table in ("tcp", "tcp6"):
        with suppress(FileNotFoundError), (_PROC / "net" / table).open() as lines:
            next(lines, None)  # the heading
            yield from lines


def _is_loopback(written: str) -> bool:
    """Of an address as the kernel writes it: 32 bits at a time, each in the processor's order."""
    words = [int(written[start : start + 8], 16) for start in range(0, len(written), 8)]
    address = ip_address(struct.pack(f"={len(words)}I", *words))
    if isinstance(address, IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    return address.is_loopback


def _value_of(name: str, file: Path, otherwise: str) -> str:
    """The first value of that name in a file of lines ``name : value``."""
    for line in file.read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name and value.strip():
            return value.strip()
    return otherwise
