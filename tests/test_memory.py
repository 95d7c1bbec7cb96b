"""Big content passes through a server, and never is in its memory."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import socket
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from conftest import ServerProcess, object_path, post
from kinds import both, thaw
from rawhttp import LENGTH, request

from locklane_client import Key

SIZE = 300 * 2**20
MOST = 100 * 2**20
"""Bytes of memory that the server may ever have had."""


def key_of_zeros() -> Key:
    digest = hashlib.sha256()
    piece = bytes(2**20)
    for _ in range(SIZE // len(piece)):
        digest.update(piece)
    return Key.parse(f"SHA256-s{SIZE}--{digest.hexdigest()}")


def peak(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
    assert found
    return int(found[1]) * 1024


def send_zeros(url: str, key: Key) -> bytes:
    address = urlsplit(url)
    with socket.create_connection((address.hostname or "", address.port or 0), 60) as connection:
        connection.sendall(
            f"POST {address.path}/{request('put', key)} HTTP/1.1\r\nHost: h\r\n"
            f"{LENGTH}: {SIZE}\r\nContent-Length: {SIZE}\r\n\r\n".encode()
        )
        piece = bytes(2**20)
        for _ in range(SIZE // len(piece)):
            connection.sendall(piece)
        return connection.recv(4096)


def receive(url: str, key: Key) -> tuple[bytes, int]:
    """The head of the answer, and how many bytes came after it."""
    address = urlsplit(url)
    with socket.create_connection((address.hostname or "", address.port or 0), 60) as connection:
        connection.sendall(
            f"GET {address.path}/{request('key', key)} HTTP/1.1\r\nHost: h\r\n"
            "Connection: close\r\n\r\n".encode()
        )
        head, _, body = connection.recv(65536).partition(b"\r\n\r\n")
        came = len(body)
        while piece := connection.recv(2**20):
            came += len(piece)
        return head, came


@both
async def test_300_megabytes_each_way_are_never_in_the_servers_memory(
    store: Path, server_process: Callable[..., ServerProcess]
) -> None:
    key = await asyncio.to_thread(key_of_zeros)
    server = server_process()
    answer = await asyncio.to_thread(send_zeros, server.url, key)
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b'"stored":true' in answer
    assert await post(server.url, "checkpresent", key=key.text) == (200, {"present": True})
    path = object_path(store, key)
    assert path.stat().st_size == SIZE
    assert peak(server.pid) < MOST
    # From here on a file without blocks will do, and three readers at once.
    thaw(path)
    os.truncate(path, 0)
    os.truncate(path, SIZE)
    got = await asyncio.gather(*(asyncio.to_thread(receive, server.url, key) for _ in range(3)))
    for head, came in got:
        assert head.startswith(b"HTTP/1.1 200 ")
        assert came == SIZE
    assert peak(server.pid) < MOST
