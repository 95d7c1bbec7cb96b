"""The load of one large file: blocking sockets and large buffers, so that almost nothing but the
kernel is between the server and the clock."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import socket
import time
from pathlib import Path
from urllib.parse import quote

from locklane_bench.peer.engine import CLIENT_UUID, HOST
from locklane_bench.peer.tasks import Done, LoadError, Task

PATIENCE_SECONDS = 300.0
"""How long a server may say nothing."""

BLOCK = 1 << 20
"""Bytes that are received, hashed or written at a time."""

_LAST_CHUNK = b"\r\n0\r\n\r\n"


def carry_out(task: Task) -> Done:
    """Do a task of kind ``download``, ``verify``, ``upload``, ``hash`` or ``write``.

    :raises LoadError: the server did not do its part.
    :raises OSError: the disk did not.
    """
    work = {
        "download": _download,
        "verify": _verify,
        "upload": _upload,
        "hash": _hash,
        "write": _write,
    }[task.kind]
    try:
        wall_s, cpu_s = work(task)
    except (TimeoutError, ConnectionError, http.client.HTTPException) as error:
        raise LoadError(f"the server broke off: {error or type(error).__name__}") from error
    sent = 0 if task.kind in ("hash", "write") else 1
    return Done(1, sent, sent, task.size, wall_s, cpu_s)


class _Clock:
    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def read(self) -> tuple[float, float]:
        return time.perf_counter() - self._wall, time.process_time() - self._cpu


def _download(task: Task) -> tuple[float, float]:
    """To nowhere, until the last byte of the answer. What comes in chunks is not taken apart: that
    it is the right content is for ``verify`` to say, once."""
    buffer = memoryview(bytearray(BLOCK))
    with socket.create_connection((HOST, task.port), PATIENCE_SECONDS) as connection:
        clock = _Clock()
        connection.sendall(f"GET {task.paths[0]} HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode())
        head, rest = _head(connection)
        length = _header(head, "content-length")
        if _status(head) != 200 or length not in ("", str(task.size)):
            raise LoadError(f"a download was answered with {head.splitlines()[0]!r}")
        received, tail = len(rest), rest[-len(_LAST_CHUNK) :]
        # Random content does not look like the end of an answer in chunks.
        while received < task.size if length else tail != _LAST_CHUNK:
            count = connection.recv_into(buffer)
            if not count:
                break
            received += count
            if not length:
                tail = (tail + bytes(buffer[max(0, count - 7) : count]))[-len(_LAST_CHUNK) :]
        spent = clock.read()
    if received < task.size:
        raise LoadError(f"a download ended after {received} of {task.size} bytes")
    return spent


def _verify(task: Task) -> tuple[float, float]:
    """A download whose bytes are hashed."""
    clock = _Clock()
    connection = http.client.HTTPConnection(HOST, task.port, timeout=PATIENCE_SECONDS)
    try:
        connection.request("GET", task.paths[0])
        answer = connection.getresponse()
        digest, size = hashlib.sha256(), 0
        while block := answer.read(BLOCK):
            digest.update(block)
            size += len(block)
    finally:
        connection.close()
    if answer.status != 200 or digest.hexdigest() != task.sha256:
        raise LoadError(
            f"a download was answered with status {answer.status} and {size} bytes, which are not "
            f"the {task.size} bytes of the content"
        )
    return clock.read()


def _upload(task: Task) -> tuple[float, float]:
    """From the page cache to the socket by ``sendfile``, until the server says it is stored."""
    path = f"{task.base}/put?key={quote(task.keys[0], safe='')}&clientuuid={CLIENT_UUID}"
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: application/octet-stream\r\n"
        f"Content-Length: {task.size}\r\nX-git-annex-data-length: {task.size}\r\n"
        "Connection: close\r\n\r\n"
    )
    with (
        Path(task.file).open("rb") as content,
        socket.create_connection((HOST, task.port), PATIENCE_SECONDS) as connection,
    ):
        clock = _Clock()
        broken: OSError | None = None
        try:
            connection.sendall(head.encode())
            connection.sendfile(content)
        except ConnectionError as error:
            broken = error  # it may have said why
        try:
            answered, body = _head(connection)
        except (LoadError, ConnectionError) as error:
            raise LoadError(f"the server broke an upload off: {broken or error}") from error
        while b"}" not in body and (block := connection.recv(BLOCK)):
            body += block
        spent = clock.read()
    said = body.decode("utf-8", "replace")
    stored = said[said.find("{") : said.rfind("}") + 1]  # it may come in a chunk
    if _status(answered) != 200 or not stored or json.loads(stored).get("stored") is not True:
        raise LoadError(
            f"an upload was answered with {answered.splitlines()[0]!r}: {said.strip()[:200]}"
        )
    return spent


def _hash(task: Task) -> tuple[float, float]:
    """As many bytes as the content has, from memory."""
    block = os.urandom(BLOCK)
    digest, left = hashlib.sha256(), task.size
    clock = _Clock()
    while left > 0:
        digest.update(block[:left] if left < BLOCK else block)
        left -= BLOCK
    digest.hexdigest()
    return clock.read()


def _write(task: Task) -> tuple[float, float]:
    """As many bytes as the content has, from memory to a new file, until the disk has it: what a
    server has to do that says "stored" only of what a power cut cannot take."""
    block, left = os.urandom(BLOCK), task.size
    path = Path(task.file)
    try:
        clock = _Clock()
        with path.open("xb", buffering=0) as out:
            while left > 0:
                out.write(block[:left] if left < BLOCK else block)
                left -= BLOCK
            os.fdatasync(out)
        return clock.read()
    finally:
        path.unlink(missing_ok=True)


def _head(connection: socket.socket) -> tuple[str, bytes]:
    """The head of the answer, and what came with it of the body."""
    data = b""
    while b"\r\n\r\n" not in data:
        block = connection.recv(BLOCK)
        if not block or len(data) > BLOCK:
            raise LoadError("the server closed the connection without an answer")
        data += block
    head, _, rest = data.partition(b"\r\n\r\n")
    return head.decode("latin-1"), rest


def _status(head: str) -> int:
    return int(head.split(maxsplit=2)[1])


def _header(head: str, name: str) -> str:
    """Its value; empty if there is none."""
    for line in head.splitlines()[1:]:
        key, _, value = line.partition(":")
        if key.strip().lower() == name:
            return value.strip()
    return ""
