"""Reference clients for git-annex's HTTP API, one for each lock transport.

::

    async with Client("annex+http://localhost:9417/git-annex/UUID", transport="longpoll") as client:
        async with client.lock("SHA256E-s10--ab12.txt"):
            ...  # the server keeps the content until here
"""

from .client import Client, Lock
from .errors import (
    AccessDenied,
    LocklaneError,
    LockLost,
    LockRefused,
    ProtocolViolation,
    ServerUnreachable,
)
from .key import Key
from .session import Counts
from .transports import TRANSPORTS

__all__ = [
    "TRANSPORTS",
    "AccessDenied",
    "Client",
    "Counts",
    "Key",
    "Lock",
    "LockLost",
    "LockRefused",
    "LocklaneError",
    "ProtocolViolation",
    "ServerUnreachable",
]
