"""What a comparison measures besides runs: the real ``git annex drop``, idle holds, ephemeral
ports, and what works behind proxies."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from locklane_bench import idle, ports
from locklane_bench.annexdrop import JOBS, Step
from locklane_bench.children import ChildError
from locklane_bench.gitannex import GitAnnexError
from locklane_bench.keys import put_into_store
from locklane_bench.plan import HTTP2_TRANSPORT
from locklane_bench.proxies import PROXIES
from locklane_bench.proxies.check import check_all
from locklane_bench.results import AnnexDrop, IdleHolds, PortUse, ProxyCheck
from locklane_bench.stage import Stage

REST_S = {"quick": 0.0, "full": 35.0}
"""How long held locks are left alone before what they take is read, by preset: in full for as long
as it takes until every transport has sent its first sign of life."""

IDLE_S = {"quick": None, "full": 70.0}
"""How long a hold is left alone behind each proxy: nginx waits 60 s."""

Say = Callable[[str, int], None]
"""Called with what is being done, and how many steps are done."""


@dataclass
class Found:
    """What was measured."""

    annex_drops: list[AnnexDrop] = field(default_factory=list)
    idle: list[IdleHolds] = field(default_factory=list)
    ports: list[PortUse] = field(default_factory=list)
    proxies: list[ProxyCheck] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)


class Extras:
    """See the module.

    :param directory: the stage's own.
    """

    def __init__(self, stage: Stage, directory: Path) -> None:
        settings = stage.settings
        self._stage = stage
        self._directory = directory
        self._preset = settings.preset
        self._transports = [name for name in settings.transports if name != HTTP2_TRANSPORT]
        self._drops: list[Step] = []
        whole = settings.preset is not None
        if stage.drops is not None:
            rounds = settings.rounds if settings.preset == "full" else 1
            self._drops = stage.drops.steps(rounds, JOBS if whole else JOBS[:1])
        self._holds = settings.idle_holds
        wanted = {name for grid in settings.grids for name in grid.proxies if name}
        self._proxies = [each for each in PROXIES.values() if whole or each.name in wanted]
        self._ports = whole

    @property
    def steps(self) -> int:
        """How many there are."""
        each = len(self._transports)
        return (
            len(self._drops)
            + (each if self._holds else 0)
            + (each if self._ports else 0)
            + (1 if self._proxies else 0)
        )

    def check(self, say: Say, found: Found) -> None:
        """See what works behind which proxy: what does not is not worth timing."""
        if self._proxies:
            say("what works behind proxies", 0)
            self._check(found)

    def measure(self, say: Say, found: Found) -> None:
        """Measure all the rest.

        :raises ChildError: a process failed.
        """
        done = 1 if self._proxies else 0
        for step in self._drops:
            say(f"git annex drop -J{step.jobs} against {step.server}", done)
            self._drop(step, found)
            done += 1
        for name in self._transports if self._holds else ():
            say(f"{self._holds:,} idle holds: {name}", done)
            found.idle.append(self._hold(name))
            done += 1
        for name in self._transports if self._ports else ():
            say(f"ephemeral ports: {name}", done)
            try:
                found.ports.append(ports.measure(name))
            except ports.PortsError as error:
                found.missing["ephemeral ports"] = str(error)
            done += 1

    def _drop(self, step: Step, found: Found) -> None:
        assert self._stage.drops is not None
        if "git annex drop" in found.missing:
            return
        try:
            found.annex_drops.append(self._stage.drops.run(step))
        except GitAnnexError as error:
            found.missing["git annex drop"] = str(error)

    def _hold(self, transport: str) -> IdleHolds:
        store = self._directory / f"idle-{transport}"
        store.mkdir()
        put_into_store(self._stage.sources, store)
        keys = [source.key.text for source in self._stage.sources]
        rest_s = REST_S.get(self._preset or "quick", 0.0)
        return idle.measure(transport, store, keys, self._holds, rest_s=rest_s)

    def _check(self, found: Found) -> None:
        own = self._directory / "behind-proxies"
        own.mkdir()
        for proxy in self._proxies:
            why = proxy.why_missing()
            if why is not None:
                found.missing[proxy.name] = why
            else:
                found.versions[proxy.program] = proxy.version()
        try:
            found.proxies = asyncio.run(
                check_all(
                    own,
                    proxies=self._proxies,
                    transports=self._stage.settings.transports,
                    idle_s=IDLE_S.get(self._preset or "quick"),
                )
            )
        except ChildError as error:
            found.missing["what works behind proxies"] = str(error)
