"""What the server did and holds, for Prometheus; and whether it is well.

Counted where it happens and only read here, so that a scrape costs and a request does not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from locklane_server.records import BUCKETS
from locklane_server.server import Server


class ServerCollector(Collector):
    """Reads a server's counters when asked."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def collect(self) -> Iterable[Metric]:
        yield from self._connections()
        yield from self._requests()
        yield from self._workers()
        yield from self._locks()

    def _connections(self) -> Iterable[Metric]:
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
        yield GaugeMetricFamily(
            "locklane_connections",
            "TCP connections that are open now.",
            self._server.connections_open,
        )

    def _requests(self) -> Iterable[Metric]:
        records = self._server.records
        requests = HistogramMetricFamily(
            "locklane_request_duration_seconds",
            "Requests answered, and how long they took. Class: read, write, remove, lock; hold: as "
            "long as a lock is held; none: no request of the API. Status 0: the client was gone.",
            labels=["class", "status"],
        )
        for (kind, status), durations in records.durations.items():
            so_far, buckets = 0, []
            for bound, count in zip((*BUCKETS, float("inf")), durations.counts, strict=True):
                so_far += count
                buckets.append(("+Inf" if bound == float("inf") else str(bound), so_far))
            requests.add_metric([kind, str(status)], buckets, durations.total)
        yield requests
        content = CounterMetricFamily(
            "locklane_content_bytes", "Bytes of content that came or went.", labels=["direction"]
        )
        content.add_metric(["received"], records.received)
        content.add_metric(["sent"], records.sent)
        yield content

    def _workers(self) -> Iterable[Metric]:
        workers = self._server.workers
        if workers is None:
            return
        yield GaugeMetricFamily(
            "locklane_workers_busy", "Workers that have something to do.", workers.working
        )
        yield GaugeMetricFamily(
            "locklane_workers_waiting",
            "Pieces of work for which no worker is free.",
            workers.waiting,
        )

    def _locks(self) -> Iterable[Metric]:
        taken = CounterMetricFamily(
            "locklane_locks_taken", "Locks given out.", labels=["repository", "transport"]
        )
        refused = CounterMetricFamily(
            "locklane_locks_refused", "Locks refused.", labels=["repository", "reason"]
        )
        lost = CounterMetricFamily(
            "locklane_holds_lost",
            "Holds that ended without an unlock.",
            labels=["repository", "transport"],
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
            for transport in self._server.transports:
                lost.add_metric([served.uuid, transport], served.holds_lost[transport])
            states = Counter(
                (lock.transport, "live" if lock.live else "retained") for lock in served.manager
            )
            for transport in self._server.transports | {transport for transport, _ in states}:
                for state in ("live", "retained"):
                    held.add_metric([served.uuid, transport, state], states[transport, state])
        yield taken
        yield refused
        yield lost
        yield held


def runner(server: Server) -> web.ServerRunner:
    """An HTTP server for the metrics, and for how the repositories are, to be put on an address of
    its own: it tells what is served to whoever asks."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(ServerCollector(server))

    async def answer(request: web.BaseRequest) -> web.Response:
        if request.path == "/health":
            return await server.health.answer(details=True)
        if request.path != "/metrics":
            return web.Response(
                status=404, text="metrics are at /metrics, and how it is is at /health\n"
            )
        return web.Response(
            body=generate_latest(registry),
            headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"},
        )

    return web.ServerRunner(web.Server(answer, access_log=None))
