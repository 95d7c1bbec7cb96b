"""The load: a process that drops files with locust users when it is told to.

``python -m locklane_bench.load`` reads one order (JSON) per line and answers each with one outcome
(JSON) per line. It stays for a whole comparison, so that no run pays for starting it.
"""

from __future__ import annotations

import gc
import json
import ssl
import sys
import time

from locust import User

from locklane_bench.eventloop import EventLoopThread
from locklane_bench.orders import Order, Outcome
from locklane_bench.results import ClientCounts
from locklane_bench.users import DropUser, Plan, PlannedEnvironment
from locklane_client import Client
from locklane_client.loop import use_all_descriptors


class _ComparedUser(DropUser):
    """The user of a comparison: it does not wait between drops."""


def carry_out(order: Order, loop: EventLoopThread) -> Outcome:
    """Drop the files of one order with locust users; a new client, so new connections."""
    client = loop.call(_open(order))
    plan = Plan(
        client,
        order.transport,
        loop,
        order.keys,
        files=order.files,
        think_time=order.think_time_s,
        rate=order.rate,
    )
    users: list[type[User]] = [_ComparedUser]
    environment = PlannedEnvironment(user_classes=users)
    environment.plan = plan
    runner = environment.create_local_runner()
    gc.collect()
    try:
        cpu, wall = time.process_time(), time.perf_counter()
        plan.begin()
        runner.start(order.concurrency, spawn_rate=order.concurrency)
        plan.done.wait()
        unconfirmed = loop.call(client.confirmed())
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        runner.user_greenlets.join()  # they find nothing left to take
    finally:
        runner.quit()
        loop.call(client.aclose())
    counts, handshakes = client.counts, client.tls_handshakes
    if unconfirmed:
        plan.failures.append(f"{unconfirmed} unlocks were sent and never confirmed")
    return Outcome(
        wall,
        cpu * 1000,
        [round(each, 3) for each in plan.latency_ms],
        plan.failures,
        ClientCounts(
            counts.connections_opened,
            counts.requests,
            counts.messages,
            counts.round_trips,
            handshakes.full,
            handshakes.resumed,
        ),
    )


async def _open(order: Order) -> Client:
    via = None if order.relay_port is None else ("127.0.0.1", order.relay_port)
    tls = ssl.create_default_context(cafile=order.authority) if order.authority else None
    return Client(order.url, transport=order.transport, via=via, tls=tls)


def main() -> None:
    """Take orders until there are no more."""
    use_all_descriptors()
    with EventLoopThread() as loop:
        for line in sys.stdin:
            try:
                answer = carry_out(Order.from_json(line), loop).to_json()
            except Exception as error:
                answer = json.dumps({"error": f"{type(error).__name__}: {error}"})
            sys.stdout.write(answer + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
