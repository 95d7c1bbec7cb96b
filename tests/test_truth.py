"""A transport that costs more than it should is caught by the figures, whatever it says itself."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from locklane_bench.children import LoadChild
from locklane_bench.compare import Comparison, disagreements
from locklane_bench.keys import made
from locklane_bench.plan import Step
from locklane_bench.results import Condition, Grid, Run, Settings, Via
from locklane_bench.stage import Stage

FILES = 20

WRONG = """
import asyncio

from locklane_bench import load
from locklane_client.transports import TRANSPORTS
from locklane_client.transports.duplex import Duplex


class Secretive(Duplex):
    "Opens a second connection for each lock, and does not count it."

    async def acquire(self, *arguments):
        host, port = self._session.via or (self._session.address.host, self._session.address.port)
        _, writer = await asyncio.open_connection(host, port)
        try:
            return await super().acquire(*arguments)
        finally:
            writer.close()
            await writer.wait_closed()


class Talkative(Duplex):
    "Sends twice the bytes: each lock is taken, and given back, twice."

    async def acquire(self, *arguments):
        await (await super().acquire(*arguments)).unlock()
        return await super().acquire(*arguments)


class Sleepy(Duplex):
    "Takes its time: 5 ms for each lock."

    async def acquire(self, *arguments):
        await asyncio.sleep(0.005)
        return await super().acquire(*arguments)


TRANSPORTS |= {"secretive": Secretive, "talkative": Talkative, "sleepy": Sleepy}
load.main()
"""


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "TLS"])
def runs(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> dict[tuple[str, Via], Run]:
    """One run of each transport, an honest one and three wrong ones, direct and by the relay."""
    names = ["duplex", "secretive", "talkative", "sleepy"]
    grid = Grid("matrix", names, [1], [FILES])
    settings = Settings(None, names, [grid], 1, None, None, "made")
    directory = tmp_path_factory.mktemp("truth")
    script = directory / "load.py"
    script.write_text(WRONG)
    found: dict[tuple[str, Via], Run] = {}
    with (
        Stage(settings, made(FILES), _empty(directory), None) as stage,
        LoadChild([sys.executable, str(script)]) as stage.load,
    ):
        comparison = Comparison(stage)
        condition = Condition(files=FILES, tls=request.param)
        for name in names:
            for via in ("direct", "relay"):
                step = Step(condition, name, via, 1)
                comparison.warm_up(step)
                found[name, via] = comparison.run(step)
    return found


def _empty(directory: Path) -> Path:
    (directory / "stage").mkdir()
    return directory / "stage"


def test_the_honest_one_is_not_accused(runs: dict[tuple[str, Via], Run]) -> None:
    for via in ("direct", "relay"):
        run = runs["duplex", via]
        assert (run.files, run.failures, run.client.connections) == (FILES, 0, 1)
        assert _unmoved(run) == []


def test_a_second_connection_is_seen_by_everybody_but_the_one_who_made_it(
    runs: dict[tuple[str, Via], Run],
) -> None:
    direct, relayed = runs["secretive", "direct"], runs["secretive", "relay"]
    assert direct.client.connections == 1
    if not direct.condition.tls:  # a server counts those who have got through the handshake
        assert direct.server_connections == 1 + FILES
        assert _unmoved(direct)
    assert relayed.relay is not None
    assert relayed.relay.connections == 1 + FILES
    assert _unmoved(relayed)


def test_twice_the_bytes_are_twice_the_bytes_at_the_relay(
    runs: dict[tuple[str, Via], Run],
) -> None:
    honest, talkative = runs["duplex", "relay"].relay, runs["talkative", "relay"].relay
    assert honest is not None
    assert talkative is not None
    handshake = 3000 if runs["duplex", "relay"].condition.tls else 0
    assert talkative.bytes_up - handshake > 1.9 * (honest.bytes_up - handshake)
    assert talkative.bytes_down - handshake > 1.9 * (honest.bytes_down - handshake)


def test_five_milliseconds_are_in_every_latency_and_in_no_honest_one(
    runs: dict[tuple[str, Via], Run],
) -> None:
    assert min(runs["sleepy", "direct"].latency_ms) >= 5
    assert min(runs["duplex", "direct"].latency_ms) < 5
    sleepy, honest = runs["sleepy", "direct"], runs["duplex", "direct"]
    assert sleepy.percentile_ms(50) > honest.percentile_ms(50)


def _unmoved(run: Run) -> list[str]:
    """What is wrong with its counts, but for the kernel's: others use this network too."""
    return disagreements(replace(run, kernel_connections=None))
