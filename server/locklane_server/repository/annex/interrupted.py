"""What a server that was killed left half done, put in order when the next one starts.

Content comes into its place, or is deleted, before that is recorded, as git-annex has it too: who
is killed between the two leaves a record that is wrong. What tells of an upload under way, and the
note of a removal, are there until both are done; so the few keys to look at are known.
"""

from __future__ import annotations

import logging
import os
from contextlib import suppress

from locklane_client.key import Key
from locklane_server.repository import RepositoryError, TransferInProgress
from locklane_server.repository.annex.contentlock import ContentLocks
from locklane_server.repository.annex.layout import Layout
from locklane_server.repository.annex.locationlog import LocationLog
from locklane_server.repository.annex.objects import Objects
from locklane_server.repository.annex.scratch import clear_up
from locklane_server.repository.annex.transfers import Transfers
from locklane_server.repository.content import find_blocking

_log = logging.getLogger(__name__)


class Interrupted:
    """What killed servers, and others, have left in one repository."""

    def __init__(
        self,
        layout: Layout,
        objects: Objects,
        locks: ContentLocks,
        transfers: Transfers,
        locations: LocationLog,
    ) -> None:
        self._layout = layout
        self._objects = objects
        self._locks = locks
        self._transfers = transfers
        self._locations = locations

    def put_in_order(self) -> None:
        """See the module. Blocks. What fails is tried again by the next server."""
        try:
            self._locations.clear_up()
            clear_up(str(self._layout.own), self._end_removals)
            for key, client in self._transfers.interrupted():
                with suppress(TransferInProgress):
                    self._end_transfer(key, client)
            self._transfers.clear_up()
        except (OSError, RepositoryError) as error:
            _log.warning(
                "%s: what an earlier server left cannot be put in order: %s",
                self._layout.git,
                error,
            )

    def _end_removals(self, keys: list[str]) -> None:
        for text in keys:
            try:
                key = Key.parse(text)
            except ValueError:
                continue
            for place in self._layout.objects(key):
                if find_blocking([place]) is None and os.path.isdir(os.path.dirname(place)):
                    with suppress(FileNotFoundError), self._locks.removing(place):
                        pass  # its lock files go
                    self._objects.clean_up(place)
            self._record(key)

    def _end_transfer(self, key: Key, client: str) -> None:
        with self._transfers.receiving(key, client, None):
            self._record(key)
            place = find_blocking(self._layout.objects(key))
            partial = self._layout.partial(key)
            if place is not None:
                self._objects.freeze(key)
            with suppress(FileNotFoundError):
                if place is not None or partial.stat().st_size == 0:
                    partial.unlink()

    def _record(self, key: Key) -> None:
        """Record what is so; not of a key that never was here that it is not."""
        paths = self._layout.objects(key)
        if find_blocking(paths) is not None or self._locations.says_here(key):
            self._locations.record(key, lambda: find_blocking(paths) is not None)
