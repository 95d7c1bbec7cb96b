"""What the server did and holds, for Prometheus.

Counted where it happens and only read here, so that a scrape costs and a request does not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from locklane_server.server import Server


class ServerCollector(Collector):
    """Reads a server's counters when asked."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def collect(self) -> Iterable[Metric]:
        connections = CounterMetricFamily(
            "locklane_connections_opened", "TCP connections accepted on the API's port."
        )
        connections.add_metric([], self._server.connections_opened)
        yield connections
        handshakes = CounterMetricFamily(
            "locklane_tls_handshakes",
            "TLS handshakes made: full ones, and those that took up an earlier session.",
            labels=["kind"],
        )
        for kind, count in zip(("full", "resumed"), self._server.tls_handshakes, strict=True):
            handshakes.add_metric([kind], count)
        yield handshakes
        taken = CounterMetricFamily(
            "locklane_locks_taken", "Locks given out.", labels=["repository", "transport"]
        )
        refused = CounterMetricFamily(
            "locklane_locks_refused", "Locks refused.", labels=["repository", "reason"]
        )
        held = GaugeMetricFamily(
            "locklane_locks",
            "Locks that have not ended: live (a hold is open) or retained (its time runs).",
            labels=["repository", "transport", "state"],
        )
        for served in self._server.repositories:
            for transport, count in served.locks_taken.items():
                taken.add_metric([served.uuid, transport], count)
            for reason, count in served.locks_refused.items():
                refused.add_metric([served.uuid, reason.name.lower()], count)
            states = Counter(
                (lock.transport, "live" if lock.live else "retained") for lock in served.manager
            )
            for transport in self._server.transports | {transport for transport, _ in states}:
                for state in ("live", "retained"):
                    held.add_metric([served.uuid, transport, state], states[transport, state])
        yield taken
        yield refused
        yield held


def runner(server: Server) -> web.ServerRunner:
    """An HTTP server for the metrics alone, to be put on an address of its own."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(ServerCollector(server))

    async def answer(request: web.BaseRequest) -> web.Response:
        if request.path != "/metrics":
            return web.Response(status=404, text="metrics are at /metrics\n")
        return web.Response(
            body=generate_latest(registry),
            headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"},
        )

    return web.ServerRunner(web.Server(answer, access_log=None))
