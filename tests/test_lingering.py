"""A client that is answered before its body has ended: the server reads on for a while, so that the
answer is not lost, but not for one that is gone."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from aiohttp import web_protocol
from conftest import Serve, eventually
from kinds import key_of
from rawhttp import LENGTH, leaves_nothing_open, request, wire

SIZE = 10_000_000
KEY = key_of(bytes(SIZE))


@pytest.mark.parametrize("how", ["FIN", "RST"])
async def test_a_client_that_was_answered_before_its_end_and_is_gone_is_not_waited_for(
    serve: Serve, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = web_protocol.RequestHandler.__init__

    def patient(self: web_protocol.RequestHandler, *arguments: Any, **options: Any) -> None:
        begin(self, *arguments, **{**options, "lingering_time": 1000.0})

    monkeypatch.setattr(web_protocol.RequestHandler, "__init__", patient)
    async with serve() as there, leaves_nothing_open(there):
        tasks = asyncio.all_tasks()
        async with wire(there) as connection:
            # More is announced than the key has, so the answer does not wait for it.
            connection.head("POST", request("put", KEY), f"{LENGTH}: {SIZE + 1}", length=SIZE + 1)
            await connection.send(bytes(1000))
            assert (await connection.answer()).status == 422
            assert len(asyncio.all_tasks() - tasks) == 1
            if how == "RST":
                connection.vanish()
        await eventually(lambda: asyncio.all_tasks() <= tasks)
