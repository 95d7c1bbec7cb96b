"""On what kind of file system something lies."""

from __future__ import annotations

import os
import re

LOCAL = frozenset({"bcachefs", "btrfs", "ext2", "ext3", "ext4", "f2fs", "tmpfs", "xfs", "zfs"})
"""File systems of this machine's own disks and memory, whose directories it keeps in memory."""

TABLE = "/proc/self/mountinfo"
"""What is mounted where (proc_pid_mountinfo(5))."""

_ESCAPE = re.compile(r"\\([0-7]{3})")


def kind(path: str) -> str:
    """The name of the file system that a path is on; empty if the system does not tell."""
    path = os.path.realpath(path)
    found, length = "", -1
    try:
        with open(TABLE, encoding="utf-8", errors="surrogateescape") as mounts:
            for line in mounts:
                before, _, after = line.partition(" - ")
                point = _ESCAPE.sub(lambda m: chr(int(m[1], 8)), before.split(" ")[4])
                below = point.rstrip("/") + "/"
                # Of two on one place the later one is seen.
                if (path + "/").startswith(below) and len(below) >= length:
                    found, length = after.split(" ")[0], len(below)
    except (OSError, IndexError):
        return ""
    return found


def is_local(path: str) -> bool:
    """Whether a path is on a file system of this machine's own, where looking at and renaming files
    takes microseconds unless the disk is in trouble."""
    return kind(path) in LOCAL
