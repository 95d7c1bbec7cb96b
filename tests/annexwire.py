"""Raw requests to a server of the API, and git-annex's side of a connection over ssh: neither has
anything of ours in it."""

from __future__ import annotations

import http.client
import json
import os
import socket
import struct
import subprocess
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import quote_from_bytes

from conftest import SOMEBODY

from locklane_client.key import Key

if TYPE_CHECKING:
    from annexes import Annex

PATIENCE = 60.0
"""Seconds that one command or one answer may take."""

Answer = tuple[int, dict[str, Any]]


class Api:
    """Raw requests, each on a connection of its own, without our client."""

    def __init__(self, url: str, client: str = SOMEBODY) -> None:
        self.host, _, path = url.removeprefix("annex+http://").partition("/")
        self.path = f"/{path}"
        self.client = client

    def target(self, request: str, version: int = 4, **parameters: object) -> str:
        query = "&".join(
            f"{name.replace('_', '-')}={quote_from_bytes(os.fsencode(str(value)), safe='')}"
            for name, value in {**parameters, "clientuuid": self.client}.items()
        )
        return f"{self.path}/v{version}/{request}?{query}"

    def request(
        self, method: str, target: str, body: bytes = b"", **headers: str
    ) -> tuple[int, bytes, str]:
        connection = http.client.HTTPConnection(self.host, timeout=PATIENCE)
        try:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, target, body, named)
            response = connection.getresponse()
            return response.status, response.read(), response.reason
        finally:
            connection.close()

    def post(self, request: str, **parameters: object) -> Answer:
        status, body, _ = self.request("POST", self.target(request, **parameters))
        return status, json.loads(body)

    def put(
        self, key: Key, body: bytes, *, length: int | None = None, **parameters: object
    ) -> Answer:
        """:param length: what is promised, where that is not what comes."""
        promised = str(len(body) if length is None else length)
        target = self.target("put", key=key, **parameters)
        status, answer, _ = self.request("POST", target, body, X_git_annex_data_length=promised)
        return status, json.loads(answer)

    def get(self, key: Key, version: int = 4) -> tuple[int, bytes]:
        name = quote_from_bytes(os.fsencode(key.text), safe="")
        status, body, _ = self.request("GET", self.target(f"key/{name}", version=version))
        return status, body

    def present(self, key: Key) -> bool:
        status, answer = self.post("checkpresent", key=key)
        assert status == 200, answer
        return bool(answer["present"])

    def remove(self, key: Key) -> dict[str, Any]:
        status, answer = self.post("remove", key=key)
        assert status == 200, answer
        return answer

    def lock(self, key: Key) -> str:
        status, answer = self.post("lockcontent", key=key)
        assert status == 200, answer
        assert answer["locked"], answer
        return str(answer["lockid"])

    def unlock(self, lock_id: str) -> None:
        target = self.target("keeplocked", lockid=lock_id)
        status, body, _ = self.request("POST", target, b'{"unlock": true}')
        assert (status, json.loads(body)) == (200, {"locked": False})


class Upload:
    """A ``put`` whose body comes piece by piece, and may never end.

    :param promised: what ``X-git-annex-data-length`` says.
    :param length: what ``Content-Length`` says; ``None``: the body comes in chunks.
    """

    def __init__(
        self, api: Api, key: Key, promised: int, *, length: int | None = None, offset: int = 0
    ) -> None:
        host, port = api.host.split(":")
        self._socket = socket.create_connection((host, int(port)), timeout=PATIENCE)
        self._chunked = length is None
        body = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
        head = (
            f"POST {api.target('put', key=key, offset=offset)} HTTP/1.1\r\nHost: {api.host}\r\n"
            f"X-git-annex-data-length: {promised}\r\n{body}\r\n\r\n"
        )
        self._socket.sendall(head.encode())

    def send(self, data: bytes) -> None:
        if self._chunked and data:
            data = b"%x\r\n%s\r\n" % (len(data), data)
        self._socket.sendall(data)

    def cut(self, *, inside: bytes = b"") -> None:
        """The end of what is sent, as of a process that was killed.

        :param inside: the beginning of a chunk that never ends.
        """
        if inside:
            self._socket.sendall(b"%x\r\n%s" % (len(inside) + 1000, inside))
        self._socket.shutdown(socket.SHUT_WR)
        while self._socket.recv(65536):
            pass
        self._socket.close()

    def reset(self) -> None:
        """The end of the connection, as a router that was switched off and on has it."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.close()

    def answer(self) -> Answer:
        """Say that the body is whole, and read what comes of it."""
        if self._chunked:
            self._socket.sendall(b"0\r\n\r\n")
        response = http.client.HTTPResponse(self._socket)
        response.begin()
        body = response.read()
        self._socket.close()
        return response.status, json.loads(body)


class Shell:
    """``git-annex-shell p2pstdio``: git-annex's own side of a connection over ssh."""

    def __init__(self, annex: Annex, client: str = SOMEBODY) -> None:
        self._process = subprocess.Popen(
            annex.command(
                "git-annex-shell", "p2pstdio", annex.directory, client, "--uuid", annex.uuid
            ),
            env=annex.env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._answer().startswith("AUTH-SUCCESS")
        assert self.ask("VERSION 4") == "VERSION 4"

    def _answer(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().decode().strip()

    def say(self, text: str) -> None:
        self.send(text.encode() + b"\n")

    def send(self, data: bytes) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(data)
        self._process.stdin.flush()

    def ask(self, text: str) -> str:
        self.say(text)
        return self._answer()

    def kill(self) -> None:
        self._process.kill()
        self.close()

    def close(self) -> None:
        """End it, as the end of its connection does."""
        with suppress(BrokenPipeError):
            self._process.communicate(timeout=PATIENCE)
        self._process.wait(PATIENCE)

    def __enter__(self) -> Shell:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self.kill()
