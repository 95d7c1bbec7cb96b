"""Retention on disk: the locks that must outlive the server, in SQLite.

One row per lock that has not ended, written before the lock is promised and deleted soon after it
ended, so that after ``kill -9`` a new server knows what the old one promised ("keeplocked": "even
if the web server gets shut down, the content will remain locked").

The write-ahead log is not synced at each commit: a row survives the death of the process and of
anything but the machine itself. git-annex's own retention files are not synced either.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

from locklane_server.clock import Clock, boot_id, boottime
from locklane_server.locks import Lock

_SCHEMA = """
CREATE TABLE IF NOT EXISTS lock (
    id TEXT PRIMARY KEY,
    key BLOB NOT NULL,
    owner BLOB NOT NULL,
    transport TEXT NOT NULL,
    locked_at REAL NOT NULL,
    boot TEXT NOT NULL,
    locked_at_wall REAL NOT NULL
) WITHOUT ROWID
"""
_ADD = "INSERT INTO lock VALUES (?, ?, ?, ?, ?, ?, ?)"
_REMOVE = "DELETE FROM lock WHERE id = ?"
_ALL = "SELECT id, key, owner, transport, locked_at FROM lock"
_FOREIGN = "SELECT id, locked_at_wall FROM lock WHERE boot <> ?"
_ADOPT = "UPDATE lock SET locked_at = ?, boot = ?, locked_at_wall = ? WHERE id = ?"


class Retention:
    """The records of one repository.

    :param path: the database's file; made if it is not there.
    :param clock: the clock that locks are counted by, see :mod:`locklane_server.clock`.
    :param wall: seconds since the epoch; only used across a restart of the machine.
    :param boot: names the run of the machine that ``clock`` counts in.
    :raises sqlite3.Error: the file cannot be used.
    """

    def __init__(
        self,
        path: Path,
        *,
        clock: Clock = boottime,
        wall: Callable[[], float] = time.time,
        boot: str | None = None,
    ) -> None:
        self._clock = clock
        self._wall = wall
        self._boot = boot or boot_id()
        self._ended: list[tuple[str]] = []
        self._database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        try:
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute("PRAGMA synchronous = NORMAL")
            self._database.execute(_SCHEMA)
        except BaseException:
            self._database.close()
            raise

    def add(self, lock: Lock) -> None:
        """Record a lock, and forget those that have ended: one transaction is the price of both.

        :raises sqlite3.Error: it could not be recorded (a full disk, for example).
        """
        wall = self._wall() - (self._clock() - lock.locked_at)
        row = (
            lock.id,
            lock.key.encode("utf-8", "surrogateescape"),
            lock.owner.encode("utf-8", "surrogateescape"),
            lock.transport,
            lock.locked_at,
            self._boot,
            wall,
        )
        self._write(row)

    def end(self, lock: Lock) -> None:
        """The lock has ended; :meth:`add` or :meth:`flush` forgets it. Dying before that keeps it
        for the rest of its time, which does no harm."""
        self._ended.append((lock.id,))

    def flush(self) -> None:
        """Forget what has ended.

        :raises sqlite3.Error: it could not be; another attempt may be made.
        """
        if self._ended:
            self._write(None)

    def _write(self, row: tuple[object, ...] | None) -> None:
        database, ended = self._database, self._ended
        if not ended:
            database.execute(_ADD, row or ())
            return
        database.execute("BEGIN")
        try:
            database.executemany(_REMOVE, ended)
            if row is not None:
                database.execute(_ADD, row)
            database.execute("COMMIT")
        except BaseException:
            if database.in_transaction:  # some errors end it by themselves
                database.execute("ROLLBACK")
            raise
        ended.clear()

    def all(self) -> list[Lock]:
        """The locks recorded, with ``locked_at`` in the time of the clock as it runs now.

        Within one run of the machine the monotonic clock decides. Across a restart of it only the
        wall clock can tell how long a lock has been held; if that was set back, the lock counts
        as new, so it is never ended too early. That is decided once for each lock and recorded, so
        nor is it kept for longer than one retention.

        :raises sqlite3.Error: the records cannot be read or written.
        """
        now, wall = self._clock(), self._wall()
        for lock_id, locked_at_wall in self._database.execute(_FOREIGN, (self._boot,)).fetchall():
            age = max(0.0, wall - locked_at_wall)
            self._database.execute(_ADOPT, (now - age, self._boot, wall - age, lock_id))
        return [
            Lock(
                lock_id,
                key.decode("utf-8", "surrogateescape"),
                owner.decode("utf-8", "surrogateescape"),
                transport,
                locked_at,
                holds=0,
            )
            for lock_id, key, owner, transport, locked_at in self._database.execute(_ALL)
        ]

    def close(self) -> None:
        """Close the database."""
        self._database.close()
