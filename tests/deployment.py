"""Locklane as docs/serving.md puts it on the internet: the unit's own command with the page's
passwords, behind the real Caddy or nginx with the file of docs/."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import ssl
import string
import subprocess
import tempfile
import urllib.request
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from annexes import Annex, own
from conftest import BOUND, CADDY, LOCKLANE, Process, free_port, wait_for_port

from locklane_bench.certificates import Certificates
from locklane_bench.proxies import template

DOCS = Path(__file__).parent.parent / "docs"
PAGE = (DOCS / "serving.md").read_text(encoding="utf-8")
UNIT = (DOCS / "systemd" / "locklane.service").read_text(encoding="utf-8")

PROGRAM = "/opt/locklane/bin/locklane"
REPOSITORIES = "/srv/annex"
RUNTIME = "/run/locklane"
CERTIFICATES = "/etc/ssl/annex.example.com/"
TCP = "127.0.0.1:9417"

PASSWORD = "GIT_ANNEX_P2PHTTP_PASSWORD_"

Front = Literal["caddy", "nginx"]


def blocks(language: str) -> list[str]:
    """What the page has in fences of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


def settings(unit: str) -> list[tuple[str, str, str]]:
    """Section, name and value of each line of a unit (systemd.syntax(7)), in their order."""
    found = []
    section = ""
    for line in unit.splitlines():
        if line.startswith("["):
            section = line.strip("[]")
        elif line and not line.startswith("#"):
            name, equals, value = line.partition("=")
            assert equals, line
            found.append((section, name, value))
    return found


def values(unit: str, name: str) -> list[str]:
    return [value for _, each, value in settings(unit) if each == name]


def commands() -> list[list[str]]:
    """What is started: by the unit, and by each change to it that the page has."""
    units = [UNIT, *blocks("ini")]
    return [shlex.split(each) for unit in units for each in values(unit, "ExecStart") if each]


def over_socket() -> tuple[list[str], str, str]:
    """The page's own way: the command, and what Caddy and nginx are told."""
    [command] = [words for words in commands() if "--socket" in words]
    [caddy] = [
        value.removeprefix("ANNEX_UPSTREAM=")
        for unit in blocks("ini")
        for value in values(unit, "Environment")
    ]
    [nginx] = re.findall(r"^ *server (unix:.*);$", "".join(blocks("nginx")), re.MULTILINE)
    return command, caddy, nginx


def passwords() -> dict[str, str]:
    """The page's file of passwords, as systemd reads it."""
    [file] = [block for block in blocks("sh") if "GIT_ANNEX_P2PHTTP_" in block]
    return dict(line.split("=", 1) for line in file.splitlines())


@dataclass
class Deployed:
    """A server and the proxy before it, running."""

    front: Front
    annex: Annex
    server: Process
    port: int
    """Of the proxy, which speaks TLS on localhost."""
    authority: Path
    """Whom to trust (PEM)."""
    socket: Path | None

    def url(self, user: str | None = None, password: str | None = None) -> str:
        """Of the repository, with the page's password if another is not given."""
        if user is not None and password is None:
            password = passwords()[PASSWORD + user]
        who = "" if user is None else f"{user}:{password}@"
        return f"annex+https://{who}localhost:{self.port}/git-annex/{self.annex.uuid}"

    @property
    def tls(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.authority))

    @property
    def secrets(self) -> list[str]:
        """What is not to be seen anywhere: passwords, and how they go over the wire."""
        logins = [
            (name.removeprefix(PASSWORD), value)
            for name, value in passwords().items()
            if name.startswith(PASSWORD)
        ]
        encoded = [b64encode(":".join(login).encode()).decode() for login in logins]
        return [password for _, password in logins] + encoded

    def counted(self, name: str) -> int:
        """A figure of the server's own metrics, all labels added up; a pattern of its labels may
        follow the name."""
        where = self.server.line(r"metrics at (\S+)")[1]
        with urllib.request.urlopen(where, timeout=BOUND) as answer:
            said = answer.read().decode()
        labels = "" if "{" in name else r"(?:{.*})?"
        return sum(map(int, re.findall(rf"^{name}{labels} (\d+)(?:\.0)?$", said, re.MULTILINE)))

    def clone(self, name: str, user: str, password: str | None = None) -> Annex:
        """A clone of the repository that goes through the proxy, as that user."""
        made = Annex(self.annex.home.parent, name, origin=self.annex)
        made.env["SYSTEM_CERTIFICATE_PATH"] = str(self.authority)
        made.env["GIT_TERMINAL_PROMPT"] = "0"
        made.git("config", "annex.security.allowed-ip-addresses", "all")
        made.connect(self.url())
        login = self.url(user, password).rpartition("/")[0]
        kept = made.home / f"{name}.credentials"
        kept.write_text(login + "\n")
        own(kept)
        made.git("config", "credential.helper", f"store --file={kept}")
        return made


@contextmanager
def deployed(front: Front, over: Literal["tcp", "socket"]) -> Iterator[Deployed]:
    """All of it in a directory of its own; and the server ends as a unit that is stopped."""
    command, caddy_upstream, nginx_upstream = over_socket()
    if over == "tcp":
        [words] = values(UNIT, "ExecStart")
        command, caddy_upstream, nginx_upstream = shlex.split(words), TCP, TCP
    top = Path(tempfile.mkdtemp(prefix="locklane-"))  # as short as a socket's name has to be
    try:
        top.chmod(0o755)
        served, run, proxy = top / "srv", top / "run", top / "proxy"
        for directory in (top, served, run, proxy):
            directory.mkdir(exist_ok=True)
            own(directory)
        annex = Annex(served, "photos.git", bare=True)
        with _server(annex, [_moved(word, top) for word in command]) as server:
            where = TCP
            if over == "tcp":
                where = server.line(r"serving annex\+http://(127\.0\.0\.1:\d+)/")[1]
            server.line(rf"serving .*{annex.uuid}")
            upstream = caddy_upstream if front == "caddy" else nginx_upstream
            upstream = _moved(upstream, top).replace(TCP, where)
            start = _caddy if front == "caddy" else _nginx
            with start(upstream, proxy) as (port, authority):
                socket = run / "annex.sock" if over == "socket" else None
                yield Deployed(front, annex, server, port, authority, socket)
            server.terminate()
            assert server.wait() == 0, server.output
    finally:
        shutil.rmtree(top)


def _moved(word: str, top: Path) -> str:
    """Where the test has what the page has elsewhere; ports that are free."""
    for documented, here in (
        (PROGRAM, LOCKLANE),
        (REPOSITORIES, str(top / "srv")),
        (RUNTIME, str(top / "run")),
        ("127.0.0.1:9418", "127.0.0.1:0"),
    ):
        word = word.replace(documented, here)
    return word


@contextmanager
def _server(annex: Annex, command: list[str]) -> Iterator[Process]:
    port = [] if "--socket" in command else ["--port", "0"]
    started = annex.command(*command, *port)
    with Process(*started, env=annex.env | passwords()) as server:
        yield server


@contextmanager
def _caddy(upstream: str, directory: Path) -> Iterator[tuple[int, Path]]:
    """With docs/caddy/Caddyfile as it stands, to which is added what keeps this process to its
    directory and to one port. The certificate is by Caddy's own authority, as for every name that
    is of this machine."""
    port = free_port()
    env = {
        **os.environ,
        "ANNEX_SITE": f"localhost:{port}",
        "ANNEX_UPSTREAM": upstream,
        "XDG_CONFIG_HOME": str(directory / "config"),
        "XDG_DATA_HOME": str(directory / "data"),
    }
    adapt = [CADDY, "adapt", "--adapter", "caddyfile", "--config", DOCS / "caddy" / "Caddyfile"]
    adapted = json.loads(subprocess.run(adapt, env=env, check=True, capture_output=True).stdout)
    adapted["admin"] = {"disabled": True, "config": {"persist": False}}
    adapted["apps"]["pki"] = {"certificate_authorities": {"local": {"install_trust": False}}}
    adapted["apps"]["http"]["grace_period"] = "1s"
    for server in adapted["apps"]["http"]["servers"].values():
        server["listen"] = [f"127.0.0.1:{port}"]
        server["automatic_https"] = {"disable_redirects": True}
    config = directory / "caddy.json"
    config.write_text(json.dumps(adapted))
    authority = directory / "data" / "caddy" / "pki" / "authorities" / "local" / "root.crt"
    with Process(CADDY, "run", "--config", config, env=env) as process:
        process.line(r'"certificate obtained successfully"')
        wait_for_port(port)
        for each in (*authority.parents, authority):  # git-annex is run by another user
            if each.is_relative_to(directory):
                own(each)
        yield port, authority
        process.terminate()
        process.wait()


@contextmanager
def _nginx(upstream: str, directory: Path) -> Iterator[tuple[int, Path]]:
    """With docs/nginx/annex.conf, but for the port, the certificate and the server's address."""
    certificates = Certificates.make(directory)
    port = free_port()
    site = (DOCS / "nginx" / "annex.conf").read_text(encoding="utf-8")
    for documented, here in (
        ("listen 443 ssl;", f"listen 127.0.0.1:{port} ssl;"),
        (f"server {TCP};", f"server {upstream};"),
        (f"{CERTIFICATES}chain.pem", str(certificates.chain)),
        (f"{CERTIFICATES}key.pem", str(certificates.key)),
    ):
        assert site.count(documented) == 1, documented
        site = site.replace(documented, here)
    (directory / "site.conf").write_text(site)
    root = "user root;" if os.geteuid() == 0 else ""
    frame = string.Template(template("frame.conf")).substitute(user=root, descriptors=1024)
    (directory / "nginx.conf").write_text(frame)
    program = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    assert program is not None
    files = ["-p", directory, "-c", directory / "nginx.conf", "-e", "stderr"]
    with Process(program, *files) as process:
        try:
            wait_for_port(port)
            yield port, certificates.authority
        finally:
            process.terminate()  # which ends its workers, too
            process.wait()
