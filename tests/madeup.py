"""Made-up results of a comparison: plausible, and the same every time."""

from __future__ import annotations

import random
from dataclasses import replace

from locklane_bench.results import (
    AnnexDrop,
    ClientCounts,
    Condition,
    Grid,
    IdleHolds,
    Part,
    PortUse,
    ProxyCheck,
    RelayCounts,
    Results,
    Run,
    Settings,
    Via,
)

FILES = 300
FIVE = ["longpoll", "websocket", "pipeline", "multiplex", "duplex"]
PER_CONNECTION = {"websocket"}
"""Transports that open a connection for each file; the others, one for each user."""
BASE_MS = {
    "longpoll": 0.95,
    "websocket": 0.90,
    "pipeline": 0.62,
    "multiplex": 0.45,
    "duplex": 0.80,
    "longpoll-http2": 1.3,
}
ROUND_TRIPS = {"longpoll": 2.0, "websocket": 3.0, "pipeline": 1.0, "multiplex": 2.0, "duplex": 2.0}
LAST_TRIPS = {"pipeline": 1.0}
"""After the last drop: the answer to an unlock that no drop waits for."""
OPENING_MS = 3.0
"""Of a user's first connection beside its round trips."""
CAPACITY = {
    "longpoll": 2600,
    "websocket": 2000,
    "pipeline": 3500,
    "multiplex": 5200,
    "duplex": 2700,
}


def a_run(
    transport: str,
    rate: float,
    *,
    at: Condition | None = None,
    via: Via = "direct",
    number: int = 1,
    files: int | None = None,
    failures: int = 0,
    p50_ms: float | None = None,
) -> Run:
    """``rate`` drops per second. Latencies are spread evenly from 0.8 to 1.2 of ``p50_ms``, without
    which it is that of users who drop one file after the other at this rate. With an even number of
    files it is the p50 exactly; p99 is 1.196 of it."""
    at = at or Condition(concurrency=8)
    files = at.files if files is None else files
    opened = files if transport in PER_CONNECTION else min(at.concurrency, max(files, 1))
    known = at.server != "external"
    direct = at.proxy is None
    full = min(at.concurrency, opened) if at.tls else 0
    resumed = opened - full if at.tls else 0
    if p50_ms is None:
        p50_ms = min(at.concurrency, files) * 1000 / rate
    return Run(
        condition=at,
        transport=transport,
        via=via,
        round=number,
        files=files,
        failures=failures,
        wall_s=files / rate if files else 1.0,
        latency_ms=[p50_ms * (0.8 + 0.4 * each / files) for each in range(1, files + 1)],
        client=ClientCounts(
            opened,
            files if transport == "websocket" else 2 * files,
            3 * files if transport in ("websocket", "multiplex") else 0,
            round(ROUND_TRIPS.get(transport, 2.0) * files),
            full,
            resumed,
        ),
        server_connections=opened if known and direct else None,
        server_tls_full=full if known and direct else None,
        server_tls_resumed=resumed if known and direct else None,
        relay=RelayCounts(opened, 600 * files, 300 * files) if via == "relay" else None,
        kernel_connections=opened if known and direct else None,
        client_cpu_ms=0.5 * files,
        server_cpu_ms=0.25 * files if known else None,
        server_peak_memory_kib=51200 if known else None,
        server_peak_descriptors=40 if known else None,
        time_wait=opened,
    )


def rounds(transport: str, *rates: float, **more: object) -> list[Run]:
    return [
        a_run(transport, rate, number=number, **more)  # type: ignore[arg-type]
        for number, rate in enumerate(rates, 1)
    ]


def some_results(runs: list[Run], **changes: object) -> Results:
    transports = list(dict.fromkeys(run.transport for run in runs))
    made = Results(
        started="2026-11-22T08:40:12Z",
        duration_s=12.5,
        command="locklane compare --files 1000 --rounds 5",
        settings=Settings(
            preset=None,
            transports=transports,
            grids=[Grid("matrix", transports, [1, 8], [1000])],
            rounds=5,
            rate=None,
            url=None,
            keys_from="made up",
        ),
        machine={"Processor": "Some | <processor>", "Kernel": "Linux 6"},
        versions={"Locklane": "0.1.0"},
        runs=runs,
        missing={"git annex drop": "git-annex is not installed"},
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def of_a_condition(transport: str, at: Condition, how_many: int = 5) -> list[Run]:
    """Rounds of a transport under a condition: latency is a + b × RTT, or what the machine allows;
    the rate has in it what comes before a user's first drop and after the last, too."""
    chance = random.Random(f"{transport} {at}")
    trips, once = ROUND_TRIPS.get(transport, 2.0), LAST_TRIPS.get(transport, 0.0)
    base = BASE_MS.get(transport, 1.0) * (1.7 if at.proxy else 1.0)
    if at.tls:
        base += 0.9 if transport in PER_CONNECTION else 0.1
        trips += 1 if transport in PER_CONNECTION else 0
    # The first drop of a user opens the connection that its others use again.
    opening = 0.0 if transport in PER_CONNECTION else OPENING_MS
    once += 0 if transport in PER_CONNECTION else 1 + at.tls
    users = min(at.concurrency, at.files)
    if at.server == "p2phttp":
        base *= 6
    if at.server == "bare":
        base *= 0.9
    found = []
    for number in range(1, how_many + 1):
        alone = (base + trips * at.rtt_ms + at.think_time_s * 1000) * chance.uniform(0.97, 1.04)
        most = CAPACITY.get(transport, 1500) * chance.uniform(0.93, 1.05)
        if at.tls:
            most *= 0.55 if transport in PER_CONNECTION else 0.9
        if at.server == "p2phttp":
            most = 300 * chance.uniform(0.9, 1.1)
        latency = max(alone, users * 1000 / most)
        wall_ms = opening + once * at.rtt_ms + at.files / users * latency
        rate = at.files * 1000 / wall_ms
        vias: tuple[Via, ...] = ("relay",) if at.rtt_ms else ("direct", "relay")
        found += [
            a_run(transport, rate, at=at, via=via, number=number, p50_ms=latency) for via in vias
        ]
    return found


def everything(how_many: int = 5) -> Results:
    """What a full run gives: every part, with figures as one would expect them."""
    runs: list[Run] = []
    for tls in (False, True):
        for rtt_ms, files in ((0.0, FILES), (20.0, 120), (100.0, 60)):
            for concurrency in (1, 8, 64):
                at = Condition(tls=tls, rtt_ms=rtt_ms, concurrency=concurrency, files=files)
                for name in FIVE:
                    runs += of_a_condition(name, at, how_many)
    for concurrency in (1, 8, 64):
        at = Condition(server="bare", concurrency=concurrency, files=FILES)
        runs += of_a_condition("longpoll", at, how_many)

    def more(part: Part, names: list[str], **changes: object) -> None:
        at = Condition(part=part, files=FILES, **changes)  # type: ignore[arg-type]
        for name in names:
            runs.extend(of_a_condition(name, at, how_many))

    proxies = {
        "caddy": [name for name in FIVE if name != "duplex"],
        "caddy-recommended": FIVE,
        "caddy-http2": ["longpoll-http2"],
        "nginx": ["websocket", "multiplex"],
        "nginx-recommended": FIVE,
    }
    more("proxies", FIVE, tls=True, concurrency=8)
    for proxy, names in proxies.items():
        more("proxies", names, proxy=proxy, tls=True, concurrency=8)
    for think in (0.0, 0.05):
        more("think", FIVE, think_time_s=think, concurrency=8)
    for files in (10, 100, 1000):
        at = Condition(part="files", files=files, concurrency=8)
        for name in FIVE:
            runs += of_a_condition(name, at, how_many)
    for server in ("p2phttp", "locklane-annex"):
        for concurrency in (1, 8):
            more("peers", ["longpoll"], server=server, concurrency=concurrency)
    settings = Settings(
        preset="full",
        transports=FIVE,
        grids=[
            Grid(
                "matrix",
                FIVE,
                [1, 8, 64],
                [FILES],
                tls=[False, True],
                rtt_ms=[0.0, 20.0, 100.0],
                files_s=20,
            ),
            Grid("proxies", FIVE, [8], [FILES], proxies=[None, *proxies], tls=[True]),
            Grid("think", FIVE, [8], [FILES], think_time_s=[0.0, 0.05]),
            Grid("files", FIVE, [8], [10, 100, 1000]),
            Grid("peers", ["longpoll"], [1, 8], [FILES], servers=["p2phttp", "locklane-annex"]),
        ],
        rounds=how_many,
        rate=None,
        url=None,
        keys_from="the content of a git-annex repository: 1000 keys, 19522717 bytes",
        repository="python-library",
        idle_holds=10_000,
    )
    return some_results(
        runs,
        settings=settings,
        duration_s=2211.0,
        command="locklane compare --preset full --keys-from python-library",
        annex_drops=_annex_drops(how_many),
        idle=_idle(),
        ports=_ports(),
        proxies=_checks(proxies),
        missing={"nginx over HTTP/2": "this nginx cannot pass on what it has not read to its end"},
    )


def _annex_drops(how_many: int) -> list[AnnexDrop]:
    chance = random.Random("git annex drop")
    return [
        AnnexDrop(
            server=server,
            round=number,
            git_annex_version="10.20261026",
            files=100,
            jobs=jobs,
            seconds=(1.9 if server == "p2phttp" else 0.5) / jobs**0.5 * chance.uniform(0.95, 1.1),
            connections=jobs + 1,
            requests=200 + jobs,
            bytes_up=94_300,
            bytes_down=39_100,
            locks_taken=None if server == "p2phttp" else 100,
            locks_left=None if server == "p2phttp" else 0,
        )
        for number in range(1, how_many + 1)
        for server in ("locklane", "locklane-annex", "p2phttp")
        for jobs in (1, 4)
    ]


def _idle() -> list[IdleHolds]:
    wanted = 10_000
    per_lock = {
        "longpoll": (31.0, 1.0),
        "websocket": (24.0, 1.0),
        "pipeline": (32.0, 1.0),
        "multiplex": (2.1, 1 / wanted),
        "duplex": (29.0, 1.0),
    }
    return [
        IdleHolds(
            transport=name,
            wanted=wanted,
            held=wanted if name != "duplex" else 8_123,
            live=wanted if name != "duplex" else 8_123,
            server_memory_kib=int(kib * wanted),
            client_memory_kib=int(kib * wanted * 1.4),
            server_descriptors=max(1, int(each * wanted)),
            client_descriptors=max(1, int(each * wanted)),
            connections=max(1, int(each * wanted)),
            seconds_to_take=4.2,
            seconds_to_unlock=3.1,
            failure=None if name != "duplex" else "no descriptor was left",
        )
        for name, (kib, each) in per_lock.items()
    ]


def _ports() -> list[PortUse]:
    return [
        PortUse(
            transport=name,
            ports=200,
            files=200 if name == "websocket" else 1000,
            wanted=1000,
            ran_out=name == "websocket",
            connections=200 if name == "websocket" else 1,
            client_time_wait=200 if name == "websocket" else 0,
            server_time_wait=0 if name == "websocket" else 1,
            message="no connection: Cannot assign requested address"
            if name == "websocket"
            else None,
        )
        for name in FIVE
    ]


def _checks(proxies: dict[str, list[str]]) -> list[ProxyCheck]:
    found = []
    for proxy in proxies:
        for name in [*FIVE, "longpoll-http2"]:
            if (name == "longpoll-http2") != (proxy == "caddy-http2"):
                continue
            drops = not (proxy == "caddy" and name == "duplex") and not (
                proxy == "nginx" and name == "duplex"
            )
            arrives = drops and not (proxy == "nginx" and name in ("longpoll", "pipeline"))
            found.append(
                ProxyCheck(
                    proxy=proxy,
                    transport=name,
                    drops=drops,
                    hold_arrives=arrives,
                    client_told=None if arrives or not drops else name == "pipeline",
                    loss_told=arrives and name not in ("longpoll", "longpoll-http2"),
                    idle_s=75.0 if arrives else None,
                    idle_survives=(proxy != "nginx") if arrives else None,
                    message=None if drops else "the answer to lockcontent did not come in 10 s",
                )
            )
    return found
