"""Reference clients for git-annex's HTTP API, one for each lock transport.

::

    async with Client("annex+http://localhost:9417/git-annex/UUID", transport="longpoll") as client:
        async with client.lock("SHA256E-s10--ab12.txt"):
            ...  # the server keeps the content until here
        await client.get("SHA256E-s10--ab12.txt", "file.txt")
"""

from .client import Client, Lock
from .download import Got
from .errors import (
    AccessDenied,
    ContentChanged,
    LocalFileError,
    LocklaneError,
    LockLost,
    LockRefused,
    NotPresent,
    NotSupported,
    ProtocolViolation,
    PutRefused,
    RemovalRefused,
    ServerFailed,
    ServerUnreachable,
    TransferIncomplete,
    Unverifiable,
    WrongContent,
)
from .key import Key
from .requests import Removed
from .session import Counts
from .transports import TRANSPORTS
from .upload import Stored

__all__ = [
    "TRANSPORTS",
    "AccessDenied",
    "Client",
    "ContentChanged",
    "Counts",
    "Got",
    "Key",
    "LocalFileError",
    "Lock",
    "LockLost",
    "LockRefused",
    "LocklaneError",
    "NotPresent",
    "NotSupported",
    "ProtocolViolation",
    "PutRefused",
    "RemovalRefused",
    "Removed",
    "ServerFailed",
    "ServerUnreachable",
    "Stored",
    "TransferIncomplete",
    "Unverifiable",
    "WrongContent",
]
