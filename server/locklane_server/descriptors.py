"""Who may open how many files: the process's limit of descriptors, divided up."""

from __future__ import annotations

import resource
import threading
from collections.abc import Callable

RESERVED = 128
"""Of what the process may open: kept for files, and for telling a client that there are no more."""


def spare() -> int:
    """Descriptors of this process beside those that are reserved, 1 or more."""
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(1, most - RESERVED)


class Descriptors:
    """A share of them, for one purpose; for any number of threads.

    :param most: how many there are.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.lenders: list[Callable[[], bool]] = []
        """Each closes a file that is only open to be used again and gives its descriptor back;
        ``False``: it has none."""
        self._taken = 0
        self._guard = threading.Lock()

    def take(self) -> bool:
        """Take one; ``False``: all are taken and needed."""
        while not self._take():
            if not any(lend() for lend in tuple(self.lenders)):
                return False
        return True

    def _take(self) -> bool:
        with self._guard:
            if self._taken >= self.most:
                return False
            self._taken += 1
            return True

    def give_back(self) -> None:
        """One is closed."""
        with self._guard:
            self._taken -= 1
