"""The processes of a comparison: servers, proxies, the relay and the load, started here and ended
here. Which of them a condition is about, :meth:`Stage.place` tells."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from locklane_bench.annexdrop import AnnexDrops
from locklane_bench.certificates import Certificates
from locklane_bench.children import LoadChild, RelayChild, ServerChild
from locklane_bench.gitannex import GitAnnexError
from locklane_bench.keys import Source, put_into_store
from locklane_bench.plan import CEILING_TRANSPORT, Step
from locklane_bench.proxies import PROXIES
from locklane_bench.proxies.child import ProxyChild
from locklane_bench.results import Condition, Settings
from locklane_client.address import Address
from locklane_server.transports import TRANSPORTS

ANNEX_FILES = {"quick": 50, "full": 200}
"""Files for the real ``git annex drop``, by preset."""

OWN_ANNEX_FILES = 50
"""And where the conditions were given one by one."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where the client goes under a condition."""

    address: Address
    """With its port: the server's, or the proxy's in front of it."""
    keys: list[str]
    """That are there."""
    server: ServerChild | None = None
    """Whom to ask what it counted, and whose processor time and memory to read."""


class Stage:
    """See the module. A context manager.

    :param settings: what to compare.
    :param sources: the keys to drop, and their content for the servers that are started here.
    :param directory: an empty one, for stores and configurations.
    :param external: measure the server at this address instead.
    :raises ChildError: on entering: a process did not start.
    """

    def __init__(
        self, settings: Settings, sources: list[Source], directory: Path, external: Address | None
    ) -> None:
        self.settings = settings
        self.missing: dict[str, str] = {}
        """Why something cannot be measured here, by what it is: a proxy's name, a server's."""
        self.drops: AnnexDrops | None = None
        """The real ``git annex drop``, if it can be had."""
        self.sources = sources
        self._keys = [source.key.text for source in sources]
        self._directory = directory
        self._external = external
        self._stack = ExitStack()
        self._servers: dict[bool, ServerChild] = {}
        """Locklane on a store, by whether it speaks TLS."""
        self._bare: ServerChild | None = None
        self._proxies: dict[str, ProxyChild] = {}

    def __enter__(self) -> Self:
        with ExitStack() as self._stack:
            self._certificates = Certificates.make(self._directory)
            if self._external is None:
                self._start_servers()
                self._start_proxies()
                self._start_annex()
            self.relay = self._stack.enter_context(RelayChild("127.0.0.1", 1))
            self.load = self._stack.enter_context(LoadChild())
            self._stack = self._stack.pop_all()
        return self

    def __exit__(self, *details: object) -> None:
        self._stack.close()

    @property
    def authority(self) -> Path | None:
        """What a client has to trust to speak TLS here (PEM); elsewhere it is for the system."""
        return self._certificates.authority if self._external is None else None

    def place(self, condition: Condition) -> Place:
        """Where the client goes."""
        if self._external is not None:
            return Place(self._external, self._keys)
        if condition.server == "bare":
            assert self._bare is not None
            return Place(Address.parse(self._bare.address), self._keys, self._bare)
        if condition.server != "locklane":
            assert self.drops is not None
            return Place(self.drops.address(condition.server), self.drops.keys)
        if condition.proxy is None:
            server = self._servers[condition.tls]
            return Place(Address.parse(server.address), self._keys, server)
        server, proxy = self._servers[False], self._proxies[condition.proxy]
        scheme = "https" if proxy.proxy.tls else "http"
        address = replace(Address.parse(server.address), scheme=scheme, port=proxy.port)
        return Place(address, self._keys, server)

    def can(self, step: Step) -> bool:
        """Whether what a step needs is there."""
        condition = step.condition
        if condition.proxy is not None and condition.proxy not in self._proxies:
            return False
        return condition.server in ("locklane", "external", "bare") or self.drops is not None

    def _start_servers(self) -> None:
        for tls in (False, True):
            store = self._directory / ("store-tls" if tls else "store")
            store.mkdir()
            put_into_store(self.sources, store)
            certificates = self._certificates if tls else None
            # All that there are: a proxy passes longpoll-http2 on as longpoll.
            server = ServerChild.locklane(store, list(TRANSPORTS), certificates)
            self._servers[tls] = self._stack.enter_context(server)
        if CEILING_TRANSPORT in self.settings.transports:
            self._bare = self._stack.enter_context(ServerChild.bare())

    def _start_proxies(self) -> None:
        wanted = [name for grid in self.settings.grids for name in grid.proxies if name]
        upstream = Address.parse(self._servers[False].address).port
        for name in dict.fromkeys(wanted):
            proxy = PROXIES[name]
            if why := proxy.why_missing():
                self.missing[name] = why
                continue
            own = self._directory / name
            own.mkdir()
            self._proxies[name] = self._stack.enter_context(
                ProxyChild(proxy, upstream, own, self._certificates)
            )

    def _start_annex(self) -> None:
        preset = self.settings.preset
        own = self._directory / "annex"
        own.mkdir()
        servers = ["locklane"] if preset is None else ["locklane", "locklane-annex", "p2phttp"]
        files = OWN_ANNEX_FILES if preset is None else ANNEX_FILES[preset]
        try:
            self.drops = self._stack.enter_context(AnnexDrops(own, files, servers))
        except GitAnnexError as error:
            self.missing["git annex drop"] = str(error)
