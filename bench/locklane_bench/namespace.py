"""A network namespace of our own, so that the kernel's counters count nobody else.

Linux counts connections for each network namespace (``/proc/net/snmp``). In one with nothing but a
loopback and the processes of a comparison, its counts are exact, and so are the ports and the
sockets in TIME_WAIT.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
from contextlib import suppress
from pathlib import Path

# include/uapi/linux/sched.h, include/uapi/linux/sockios.h, include/uapi/linux/if.h
_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 0x1


def enter() -> str | None:
    """Move this process, and those it will start, to a new network namespace that has a loopback.

    As root, or where the system lets users make user namespaces; call it before any thread is
    started.

    :returns: ``None`` if it was done; else why not, and nothing has changed.
    """
    # There is no way back from half of it, so a child process tries it first.
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(read)
            _enter()
            os._exit(0)
        except OSError as error:
            os.write(write, str(error.strerror or error).encode())
        finally:
            os._exit(1)
    os.close(write)
    with os.fdopen(read, encoding="utf-8") as answer:
        why = answer.read()
    _, status = os.waitpid(child, 0)
    if status != 0:
        return why or "the attempt failed"
    _enter()
    return None


def _enter() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    user, group = os.getuid(), os.getgid()
    if libc.unshare(_CLONE_NEWNET) != 0:
        if libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        # Without a mapping, files made here would belong to nobody (user_namespaces(7)).
        with suppress(FileNotFoundError):
            Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
        Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
    _loopback_up()


def _loopback_up() -> None:
    """What ``ip link set lo up`` does (netdevice(7))."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        request = struct.pack("16sH14x", b"lo", 0)
        answer = fcntl.ioctl(any_socket, _SIOCGIFFLAGS, request)
        (flags,) = struct.unpack_from("16xH", answer)
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", flags | _IFF_UP))
