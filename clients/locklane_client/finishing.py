"""What is done to its end, whoever is interrupted meanwhile."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any, TypeVar

import anyio

T = TypeVar("T")


async def to_its_end(running: asyncio.Future[T]) -> T:
    """Wait for something that goes on by itself. Cancelled, wait all the same, and only then pass
    the cancellation on."""
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await ended(running)
        raise


async def ended(running: asyncio.Future[Any]) -> None:
    """Wait for it whatever happens, without looking at what came of it."""
    with anyio.CancelScope(shield=True):
        while not running.done():
            with suppress(asyncio.CancelledError):  # who cancels again has to wait, too
                await asyncio.wait([running])
    if not running.cancelled():
        running.exception()  # nobody else will look at it
