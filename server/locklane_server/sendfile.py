"""Sending a file by the kernel: its bytes never come into this process (sendfile(2)).

The event loop has no part in it (uvloop has no sendfile): once what it had to write itself is on
its way, the socket is written past it, through a second descriptor of the same socket. The disk is
read in a worker; a client that does not take more is waited for without one.
"""

from __future__ import annotations

import asyncio
import os
import socket
from contextlib import suppress

from aiohttp import web

from locklane_server import connections
from locklane_server.repository import Content


async def send_file(http: web.BaseRequest, content: Content, begin: int, end: int) -> int:
    """Send bytes of an answer that has been prepared, from ``begin`` to before ``end``.

    :returns: where the first byte is that was not sent: ``begin`` where the kernel cannot do it
        (over TLS), less than ``end`` if the file has become shorter.
    :raises ConnectionError: the client is gone.
    :raises RepositoryError: the file cannot be read.
    """
    transport = http.transport
    if transport is None:
        raise ConnectionResetError("the client is gone")
    if transport.get_extra_info("sslcontext") is not None:
        return begin
    await _flush(http, transport)
    descriptor = os.dup(transport.get_extra_info("socket").fileno())
    try:
        _cork(descriptor, True)
        while begin < end:
            sent = await content.send(descriptor, begin, end - begin)
            if sent < 0:
                await _writable(descriptor, transport)
            elif sent == 0:
                break
            begin += max(sent, 0)
    finally:
        _cork(descriptor, False)
        os.close(descriptor)
    return begin


def _cork(descriptor: int, corked: bool) -> None:
    """Let the kernel fill its packets, past the end of what one call gives it (tcp(7))."""
    with suppress(OSError), socket.socket(fileno=os.dup(descriptor)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, corked)


async def _flush(http: web.BaseRequest, transport: asyncio.Transport) -> None:
    """Wait until the loop has nothing more to write, the head of the answer included."""
    writer = http.writer
    writer.send_headers()
    if transport.is_closing():
        raise ConnectionResetError("the client is gone")
    low, high = transport.get_write_buffer_limits()
    transport.set_write_buffer_limits(0)
    try:
        while transport.get_write_buffer_size():
            await writer.drain()
            if transport.is_closing():
                raise ConnectionResetError("the client is gone")
            await asyncio.sleep(0)
    finally:
        with suppress(RuntimeError):  # uvloop's, when it is closed already
            transport.set_write_buffer_limits(high, low)


async def _writable(descriptor: int, transport: asyncio.Transport) -> None:
    """Wait until the socket takes more, or is broken.

    :raises ConnectionError: the client has not taken anything for too long.
    """
    loop = asyncio.get_running_loop()
    waiter = loop.create_future()
    loop.add_writer(descriptor, _wake, waiter)
    try:
        async with asyncio.timeout(connections.TAKE_SECONDS):
            await waiter
    except TimeoutError as error:
        transport.abort()
        raise ConnectionResetError("the client does not take what it asked for") from error
    finally:
        loop.remove_writer(descriptor)


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
