"""Retention on disk: the locks that must outlive the server, in SQLite.

One row per lock that has not ended, written before the lock is promised and deleted soon after it
ended, so that after ``kill -9`` a new server knows what the old one promised ("keeplocked": "even
if the web server gets shut down, the content will remain locked").

The write-ahead log is not synced at each commit: a row survives the death of the process, but the
last seconds' rows may not survive that of the machine. git-annex's own retention files are not
synced either. A transaction takes some 10 µs and is made where it is asked for, in the event loop.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

from locklane_server.clock import Clock, boot_id, boottime
from locklane_server.locks import Lock

_SCHEMA = """
CREATE TABLE lock (
    id TEXT PRIMARY KEY,
    key BLOB NOT NULL,
    owner BLOB NOT NULL,
    transport TEXT NOT NULL,
    locked_at REAL NOT NULL,
    boot TEXT NOT NULL,
    user TEXT
) WITHOUT ROWID
"""
_VERSION = 2
"""Of the schema."""

_FROM_VERSION_1 = "ALTER TABLE lock ADD COLUMN user TEXT"

_ADD = "INSERT INTO lock VALUES (?, ?, ?, ?, ?, ?, ?)"
_REMOVE = "DELETE FROM lock WHERE id = ?"
_ADOPT = "UPDATE lock SET locked_at = ?, boot = ? WHERE boot <> ?"
_ALL = "SELECT id, key, owner, transport, locked_at, user FROM lock"


class Retention:
    """The records of one repository.

    :param path: the database's file; made if it is not there.
    :param clock: the clock that locks are counted by, see :mod:`locklane_server.clock`.
    :param boot: names the run of the machine that ``clock`` counts in.
    :raises sqlite3.Error: the file cannot be used.
    """

    def __init__(
        self,
        path: Path,
        *,
        clock: Clock = boottime,
        boot: str | None = None,
    ) -> None:
        self._clock = clock
        self._boot = boot or boot_id()
        self._ended: list[tuple[str]] = []
        # Nobody else has any business in it, and nobody is waited for.
        self._database = sqlite3.connect(
            path, timeout=0, isolation_level=None, check_same_thread=False
        )
        try:
            self._database.execute("PRAGMA locking_mode = EXCLUSIVE")
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute("PRAGMA synchronous = NORMAL")
            (version,) = self._database.execute("PRAGMA user_version").fetchone()
            if version in (0, 1):
                # Both or neither, whenever this process is killed.
                self._database.execute("BEGIN IMMEDIATE")
                self._database.execute(_SCHEMA if version == 0 else _FROM_VERSION_1)
                self._database.execute(f"PRAGMA user_version = {_VERSION}")
                self._database.execute("COMMIT")
            elif version != _VERSION:
                raise sqlite3.DatabaseError(f"written by another version of Locklane ({version})")
        except BaseException:
            self._database.close()
            raise

    def add(self, lock: Lock) -> None:
        """Record a lock, and forget those that have ended: one transaction is the price of both.

        :raises sqlite3.Error: it could not be recorded (a full disk, for example).
        """
        row = (
            lock.id,
            lock.key.encode("utf-8", "surrogateescape"),
            lock.owner.encode("utf-8", "surrogateescape"),
            lock.transport,
            lock.locked_at,
            self._boot,
            lock.user,
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

        The monotonic clock starts anew with the machine, and the wall clock may have been anything
        (a machine without a battery starts in 1970), so nobody knows how long a lock of an earlier
        boot has been held. It counts as new, once: it is never ended too early.

        :raises sqlite3.Error: the records cannot be read or written.
        """
        self._database.execute(_ADOPT, (self._clock(), self._boot, self._boot))
        return [
            Lock(
                lock_id,
                key.decode("utf-8", "surrogateescape"),
                owner.decode("utf-8", "surrogateescape"),
                transport,
                locked_at,
                holds=0,
                user=user,
                account=user or "",
            )
            for lock_id, key, owner, transport, locked_at, user in self._database.execute(_ALL)
        ]

    def close(self) -> None:
        """Close the database."""
        self._database.close()
