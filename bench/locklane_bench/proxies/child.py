"""A reverse proxy as a process: its configuration with ports and paths put in."""

from __future__ import annotations

import json
import os
import re
import resource
import shlex
import signal
import socket
import string
import subprocess
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from locklane_bench.certificates import Certificates
from locklane_bench.children import PATIENCE_SECONDS, Child, ChildError
from locklane_bench.peer.servers import free_port, nginx_program
from locklane_bench.proxies import ANSWER_SECONDS, Proxy, caddy_program, template

HOST = "127.0.0.1"

DESCRIPTORS = 16384
"""What nginx may open, where the system lets it: two for each connection. Caddy takes what it can
get by itself."""

CADDY_GRACE = "1s"
"""How long Caddy waits for requests in progress when it is ended."""


class ProxyChild(Child):
    """A reverse proxy that is running. A context manager; ready when its port answers.

    >>> with ProxyChild(PROXIES["caddy"], 9417, directory, certificates) as proxy:
    ...     measure(port=proxy.port)

    :param proxy: which one.
    :param upstream_port: where the server listens, on 127.0.0.1.
    :param directory: an empty directory for its own files.
    :param certificates: what to serve TLS with; the proxies without TLS need none.
    :raises ChildError: on entering: it cannot be started here, or did not become ready.
    """

    port: int
    """Where it listens, on 127.0.0.1."""

    def __init__(
        self,
        proxy: Proxy,
        upstream_port: int,
        directory: Path,
        certificates: Certificates | None = None,
    ) -> None:
        if why := proxy.why_missing():
            raise ChildError(why)
        if proxy.tls and certificates is None:
            raise ValueError(f"{proxy.name} speaks TLS: it needs certificates")
        self.proxy = proxy
        self.port = free_port()
        # Absolute, because both programs have ideas of their own what a path is relative to.
        directory = directory.resolve()
        write = _write_nginx if proxy.program == "nginx" else _write_caddy
        command, env = write(proxy, self.port, upstream_port, directory, certificates)
        super().__init__(command, proxy.title, env=env, cwd=directory)

    def _greet(self) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            self.check()
            try:
                socket.create_connection((HOST, self.port), 1).close()
            except OSError as error:
                if time.monotonic() > deadline:
                    raise ChildError(
                        f"{self._name} does not listen on port {self.port} after "
                        f"{PATIENCE_SECONDS:g} s{self._stderr()}"
                    ) from error
            else:
                return
            time.sleep(0.01)

    def __exit__(self, *details: object) -> None:
        with ExitStack() as workers:
            # nginx ends its workers, unless it has to be killed: then nobody would. A descriptor
            # of a process means that one, even when its id is given to another.
            for worker in _children(self.pid):
                with suppress(ProcessLookupError):
                    descriptor = os.pidfd_open(worker)
                    workers.callback(os.close, descriptor)
                    workers.callback(_kill, descriptor)
            super().__exit__(*details)


def _write_nginx(
    proxy: Proxy, port: int, upstream_port: int, directory: Path, certificates: Certificates | None
) -> tuple[list[str], dict[str, str] | None]:
    site = proxy.configuration.replace("127.0.0.1:9417", f"{HOST}:{upstream_port}")
    # The recommended one speaks TLS; what is priced is what it does with requests.
    site = re.sub(r"listen (80|443 ssl);", f"listen {HOST}:{port};", site)
    site = re.sub(r"^ *ssl_certificate.*\n", "", site, flags=re.MULTILINE)
    (directory / "site.conf").write_text(site, encoding="utf-8")
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    unlimited = most == resource.RLIM_INFINITY
    frame = string.Template(template("frame.conf")).substitute(
        # The workers of root would be another user's, who may not write in a temporary directory.
        user="user root;" if os.getuid() == 0 else "",
        descriptors=DESCRIPTORS if unlimited else min(most, DESCRIPTORS),
    )
    settings = directory / "nginx.conf"
    settings.write_text(frame, encoding="utf-8")
    program = nginx_program() or "nginx"
    return [program, "-p", str(directory), "-c", str(settings), "-e", "stderr"], None


def _write_caddy(
    proxy: Proxy,
    port: int,
    upstream_port: int,
    directory: Path,
    certificates: Certificates | None,
) -> tuple[list[str], dict[str, str] | None]:
    """As JSON, which Caddy makes of the Caddyfile by itself, and to which is added here what a
    process of the benchmark needs: it keeps to its directory and to its port."""
    # No directories of the user's, nor settings for a server of the user's.
    env = {
        **{name: value for name, value in os.environ.items() if not name.startswith("ANNEX_")},
        "XDG_CONFIG_HOME": str(directory / "config"),
        "XDG_DATA_HOME": str(directory / "data"),
    }
    site = proxy.configuration.replace("127.0.0.1:9417", f"{HOST}:{upstream_port}")
    # Any host name: the relay, or a client that was told another way, may ask under any.
    scheme = "https" if proxy.tls else "http"
    site = site.replace("annex.example.com", f"{scheme}://:{port}")
    if certificates is not None:
        files = f"{_quoted(certificates.chain)} {_quoted(certificates.key)}"
        site = site.replace("chain.pem key.pem", files)
    caddyfile = directory / "Caddyfile"
    caddyfile.write_text(site, encoding="utf-8")
    program = caddy_program() or "caddy"
    adapt = [program, "adapt", "--adapter", "caddyfile", "--config", str(caddyfile)]
    done = subprocess.run(
        adapt, capture_output=True, text=True, check=False, timeout=ANSWER_SECONDS, env=env
    )
    if done.returncode:
        raise ChildError(f"{shlex.join(adapt)} refused: {done.stderr.strip()}")
    settings: dict[str, Any] = json.loads(done.stdout)
    settings["admin"] = {"disabled": True, "config": {"persist": False}}
    http = settings["apps"]["http"]
    http["grace_period"] = CADDY_GRACE
    for server in http["servers"].values():
        server["listen"] = [f"{HOST}:{port}"]
        server["automatic_https"] = {"disable": True}
    config = directory / "caddy.json"
    config.write_text(json.dumps(settings, indent=2), encoding="utf-8")
    return [program, "run", "--config", str(config)], env


def _quoted(path: Path) -> str:
    """For a Caddyfile."""
    escaped = str(path.resolve()).replace('"', r"\"")
    return f'"{escaped}"'


def _children(pid: int) -> list[int]:
    """Of a process, those that live now."""
    with suppress(OSError):
        return [
            int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        ]
    return []


def _kill(descriptor: int) -> None:
    with suppress(ProcessLookupError):
        signal.pidfd_send_signal(descriptor, signal.SIGKILL)
