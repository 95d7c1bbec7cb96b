"""Looking at files from the event loop, where the kernel can answer from memory.

``openat2(2)`` with ``RESOLVE_CACHED`` opens a file only if nothing has to be read from a disk or
asked of another machine for that, and ``preadv2(2)`` with ``RWF_NOWAIT`` reads only what is in the
page cache. Where the answer is "I would have to wait", or the kernel has no such call, a worker
thread does it instead: these are short cuts, never the only way.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat

_OPENAT2 = 437  # the same on every architecture
_RESOLVE_CACHED = 0x20
_AT_FDCWD = -100


class _How(ctypes.Structure):
    _fields_ = (
        ("flags", ctypes.c_uint64),
        ("mode", ctypes.c_uint64),
        ("resolve", ctypes.c_uint64),
    )


_syscall = ctypes.CDLL(None, use_errno=True).syscall
_PATH = _How(os.O_PATH | os.O_CLOEXEC, 0, _RESOLVE_CACHED)
_READ = _How(os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC, 0, _RESOLVE_CACHED)
_SIZE = ctypes.sizeof(_How)


def _open(path: str, how: _How) -> int:
    """A descriptor, or -1: it cannot be told without waiting, or not in this way."""
    descriptor: int = _syscall(_OPENAT2, _AT_FDCWD, os.fsencode(path), ctypes.byref(how), _SIZE)
    return descriptor


def status(path: str) -> os.stat_result | None:
    """What is known of a file; ``None``: ask a worker. (It may not be there.)"""
    descriptor = _open(path, _PATH)
    if descriptor < 0:
        return None
    try:
        return os.fstat(descriptor)
    finally:
        os.close(descriptor)


def open_file(path: str) -> int | None:
    """A descriptor of a plain file, to be read; ``None``: ask a worker."""
    descriptor = _open(path, _READ)
    if descriptor < 0:
        return None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        return None
    return descriptor


def read(descriptor: int, offset: int, count: int) -> bytes | None:
    """``count`` bytes, or fewer at the end of the file; ``None``: ask a worker."""
    buffer = bytearray(count)
    try:
        got = os.preadv(descriptor, [buffer], offset, os.RWF_NOWAIT)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EOPNOTSUPP, errno.ENOSYS):
            return None
        raise
    if got < count and offset + got < os.fstat(descriptor).st_size:
        return None  # the rest is not in memory
    return bytes(memoryview(buffer)[:got])
