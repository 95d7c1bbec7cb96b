"""The servers of a side-by-side comparison: how each is started, and that it is ready."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import Self
from urllib.parse import quote

from locklane_bench import procfs
from locklane_bench.children import PATIENCE_SECONDS, QUIET, Child, ChildError, ServerChild, python
from locklane_bench.gitannex import AnnexRepository, program
from locklane_bench.peer.engine import CLIENT_UUID, HOST
from locklane_bench.peer.repositories import Content
from locklane_client.address import Address

JOBS = 4
"""Workers of ``git annex p2phttp`` (``--jobs``): it locks with two at the least."""

LOCKED_FILES = 1000
"""Its ``--lockedfiles``: more than are ever locked at once here."""


class PeerServer:
    """A server that is running. A context manager.

    :param child: its process.
    :param shown: its command line, for readers, with nothing of the machine in it.
    :param version: what it says that it is.
    """

    base: str
    """Path in front of a request's name, without a slash at its end; empty if it serves files."""
    port: int
    uuid: str

    def __init__(self, child: Child, shown: str) -> None:
        self._child = child
        self.shown = shown

    def __enter__(self) -> Self:
        self._child.__enter__()
        try:
            self._find()
        except BaseException:
            self._child.__exit__()
            raise
        return self

    def _find(self) -> None:
        """Wait until it is ready, and set where it is."""
        raise NotImplementedError

    def __exit__(self, *details: object) -> None:
        self._child.__exit__(*details)

    def check(self) -> None:
        """Nothing, if it is running.

        :raises ChildError: it has ended; with what it said.
        """
        self._child.check()

    def cpu_seconds(self) -> float:
        """Processor time so far, that of its children included."""
        return procfs.tree_cpu_seconds(self._child.pid)

    def download_path(self, key: str, content: Content) -> str:
        """Of a request for a key's content."""
        return f"{self.base}/key/{quote(key, safe='')}?clientuuid={CLIENT_UUID}"

    @property
    def url(self) -> str:
        """For git-annex."""
        return f"annex+http://{HOST}:{self.port}/git-annex/"


class Announced(PeerServer):
    """A server of ours, which prints where it is."""

    _child: ServerChild

    def _find(self) -> None:
        address = Address.parse(self._child.address)
        self.port, self.uuid = address.port, address.uuid
        self.base = f"/git-annex/{self.uuid}/v4"


class Silent(PeerServer):
    """A server that has to be told its port, and is ready when it can be connected to."""

    def __init__(self, child: Child, shown: str, port: int, uuid: str) -> None:
        super().__init__(child, shown)
        self.port, self.uuid = port, uuid
        self.base = f"/git-annex/{uuid}/v4"

    def _find(self) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            self.check()
            try:
                socket.create_connection((HOST, self.port), 1).close()
                return
            except OSError as error:
                if time.monotonic() > deadline:
                    raise ChildError(
                        f"nothing listens on port {self.port} after {PATIENCE_SECONDS:g} s"
                    ) from error
            time.sleep(0.02)


class Files(Silent):
    """nginx, which knows nothing of keys: it serves the objects' files."""

    def download_path(self, key: str, content: Content) -> str:
        return f"/{content.objects[key]}"


def locklane(repository: AnnexRepository) -> PeerServer:
    """``locklane serve`` on a git-annex repository."""
    options = ["--wideopen", "--port", "0", *QUIET]
    child = ServerChild(
        python("locklane_client", "serve", "--directory", str(repository.directory), *options),
        "locklane serve",
        env=repository.environment,
    )
    return Announced(child, f"locklane serve --directory DIR {' '.join(options)}")


def p2phttp(repository: AnnexRepository) -> PeerServer:
    """``git annex p2phttp`` on a git-annex repository.

    :raises GitAnnexError: there is no git-annex.
    """
    port = free_port()
    options = ["--wideopen", f"--jobs={JOBS}", f"--lockedfiles={LOCKED_FILES}", "--bind", HOST]
    child = Child(
        [str(program()), "p2phttp", *options, "--port", str(port)],
        "git annex p2phttp",
        env=repository.environment,
        cwd=repository.directory,
    )
    shown = f"git annex p2phttp {' '.join(options)} --port PORT"
    return Silent(child, shown, port, repository.uuid())


def bare() -> PeerServer:
    """The ceiling: aiohttp that answers unthinking."""
    return Announced(ServerChild.bare(), "python -m locklane_bench.ceiling")


def nginx_program() -> str | None:
    """nginx, if it is installed."""
    return shutil.which(
        "nginx", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/usr/local/sbin"
    )


def nginx_version() -> str:
    """For example ``1.22.1``."""
    said = subprocess.run(
        [nginx_program() or "nginx", "-v"], capture_output=True, text=True, check=False
    ).stderr
    return said.rpartition("/")[2].strip() or "unknown"


_NGINX = """\
{user}
worker_processes auto;
daemon off;
pid nginx.pid;
error_log stderr;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    sendfile on;
    tcp_nopush on;
    keepalive_requests 1000000;
    default_type application/octet-stream;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    server {{
        listen {host}:{port};
        root "{root}";
    }}
}}
"""


def nginx(objects: Path, directory: Path) -> PeerServer:
    """nginx on a directory of files.

    :param objects: what to serve.
    :param directory: an empty directory for its own files.
    """
    port = free_port()
    # Its workers would be another user's, who may not read what is in a temporary directory.
    user = "user root;" if os.getuid() == 0 else ""
    settings = directory / "nginx.conf"
    settings.write_text(
        _NGINX.format(user=user, host=HOST, port=port, root=objects), encoding="utf-8"
    )
    command = [
        nginx_program() or "nginx",
        "-p",
        str(directory),
        "-c",
        str(settings),
        "-e",
        "stderr",
    ]
    shown = "nginx (worker_processes auto; sendfile on; tcp_nopush on; access_log off)"
    return Files(Child(command, "nginx"), shown, port, "")


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as any_socket:
        any_socket.bind((HOST, 0))
        port: int = any_socket.getsockname()[1]
        return port
