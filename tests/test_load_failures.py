"""The load process, when something goes wrong that nobody foresaw."""

from __future__ import annotations

import pytest

from locklane_bench.children import LoadChild, ServerChild
from locklane_bench.keys import made
from locklane_bench.orders import Order, Outcome


def carry_out(load: LoadChild, order: Order) -> Outcome:
    """As ``load.carry_out``, which however waits for as long as it takes."""
    load.write_line(order.to_json())
    return Outcome.from_json(load.read_line())


@pytest.mark.parametrize("concurrency", [1, 3])
@pytest.mark.parametrize("rate", [None, 200.0])
def test_a_drop_with_an_unexpected_error_is_counted_and_explained_and_does_not_hang(
    concurrency: int, rate: float | None
) -> None:
    good = made(1)[0].key.text
    with ServerChild.bare() as server, LoadChild() as load:
        order = Order(
            server.address, "longpoll", ["no key", good], 6, concurrency=concurrency, rate=rate
        )
        outcome = carry_out(load, order)
        assert len(outcome.failures) == 3
        assert all("ValueError" in failure for failure in outcome.failures)
        assert all("'no key' is not a git-annex key" in failure for failure in outcome.failures)
        assert len(outcome.latency_ms) == 3
        assert outcome.client.connections >= 1
        # And the next order is carried out as if nothing had been.
        again = carry_out(load, Order(server.address, "longpoll", [good], 4, concurrency))
        assert again.failures == []
        assert len(again.latency_ms) == 4


def test_an_order_in_which_every_drop_fails_comes_back() -> None:
    with LoadChild() as load:
        order = Order("annex+http://127.0.0.1:1/git-annex/U", "websocket", ["no key"], 5, 2)
        outcome = carry_out(load, order)
    assert outcome.latency_ms == []
    assert len(outcome.failures) == 5
