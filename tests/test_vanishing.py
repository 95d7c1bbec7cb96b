"""Clients that vanish at every byte of what they have to say: the server is afterwards where it
was, and answers."""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme
from conftest import (
    FakeClock,
    Serve,
    ServerProcess,
    There,
    descriptors,
    eventually,
    key_of,
    post,
    put,
)
from kinds import both, kind_of, open_repository
from recording import MANNERS, Recorder, Vanishing
from test_conformance_input import complaints

from locklane_client import Client, Key
from locklane_client.address import Address
from locklane_server.access import WIDE_OPEN
from locklane_server.served import ServedRepository
from locklane_server.server import Server
from locklane_server.transports import TRANSPORTS
from locklane_server.workers import Workers

SIZE = 100
"""Bytes of what is uploaded: few, each of them is a place to vanish at."""

AT_ONCE = 100
"""Clients that vanish together."""

_LOCK_ID = re.compile(rb"lockid=([0-9a-f]{32})")


def content(number: int) -> bytes:
    """Another for each client, as long as the others."""
    return b"%*d" % (SIZE, number)


UPLOADED = content(10**9)

Work = Callable[[Client, Path], Coroutine[Any, Any, object]]


def _lock(key: Key) -> Work:
    async def lock(client: Client, _: Path) -> None:
        async with client.lock(key):
            pass
        await client.confirmed()

    return lock


async def _remove_before(client: Client, key: Key) -> None:
    await client.remove_before(key, await client.timestamp() + 60)


def works(key: Key) -> dict[str, tuple[str, Work]]:
    """Everything that a client can ask for, and the transport that it has."""
    removed = key_of(b"what is removed")
    return {
        "checkpresent": ("longpoll", lambda c, _: c.check_present(key)),
        "remove": ("longpoll", lambda c, _: c.remove(removed)),
        "gettimestamp, remove-before": ("longpoll", lambda c, _: _remove_before(c, removed)),
        "GET": ("longpoll", lambda c, path: c.get(key, path / "got")),
        "putoffset, put": ("longpoll", lambda c, path: c.put(key_of(UPLOADED), path / "sent")),
        **{f"lock over {name}": (name, _lock(key)) for name in TRANSPORTS},
    }


KEY = key_of(b"x" * 4_000_000)
"""More than a connection has room for: who vanishes does so while it is sent."""


@pytest.fixture(params=works(KEY))
def work(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=MANNERS)
def manner(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def recorded(url: str, work: str, tmp_path: Path) -> bytes:
    """What the reference client says to have something done."""
    (tmp_path / "sent").write_bytes(UPLOADED)
    transport, do = works(KEY)[work]
    async with Recorder(url) as line:
        async with Client(line.url, transport=transport) as client:
            await do(client, tmp_path)
        (tmp_path / "got").unlink(missing_ok=True)
        [said] = line.said
    assert len(said) > 150
    return bytes(said)


async def beginnings(there: There, said: bytes, step: int) -> AsyncIterator[bytes]:
    """Each beginning of it, with a lock of its own to hold where there is one to hold, and with a
    content of its own to upload."""
    for end in range(0, len(said) + 1, step):
        own = content(end)
        mine = said.replace(key_of(UPLOADED).text.encode(), key_of(own).text.encode())
        mine = mine.replace(UPLOADED, own)
        if held := _LOCK_ID.search(mine):
            lock = await there.served.lock(KEY, "u", "longpoll", live=False)
            mine = mine.replace(held[1], lock.id.encode())  # type: ignore[union-attr]
        yield mine[:end]


@asynccontextmanager
async def as_before(there: There) -> AsyncIterator[None]:
    """Connections, tasks, workers, holds and descriptors are afterwards as many as before."""
    tasks, files = asyncio.all_tasks(), descriptors()
    yield
    await eventually(lambda: there.server.connections_open == 0)
    await eventually(lambda: there.server._api.in_progress == 0 and there.workers.busy == 0)
    await eventually(lambda: there.served.holds == 0 and there.live == 0)
    await eventually(lambda: asyncio.all_tasks() <= tasks)
    await eventually(lambda: descriptors() <= files)


@both
async def test_whoever_vanishes_at_any_byte_leaves_the_server_as_it_was(
    serve: Serve,
    store: Path,
    tmp_path: Path,
    work: str,
    manner: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    put(store, b"x" * 4_000_000)
    step = 1 if kind_of(store) == "directory" else 13
    async with serve() as there:
        said = await recorded(there.url, work, tmp_path)
        await eventually(lambda: there.server.connections_open == 0)
        vanishing = Vanishing(there.server.port)
        all_of_them = [each async for each in beginnings(there, said, step)]
        for begin in range(0, len(all_of_them), AT_ONCE):
            async with as_before(there):
                await vanishing.come_and_go(all_of_them[begin : begin + AT_ONCE], manner)
        # It answers, and nothing is claimed by who is gone.
        assert await post(there.url, "checkpresent", key=KEY.text) == (200, {"present": True})
        if "put" in work:
            for end in range(len(said) - SIZE, len(said), 9):
                (tmp_path / "again").write_bytes(content(end))
                async with Client(there.url) as client:
                    await client.put(key_of(content(end)), tmp_path / "again")
        there.clock.advance(601)
        await there.served.sweep()
        await there.nothing_left()
        async with Client(there.url) as client:
            await client.remove(KEY)
    assert complaints(caplog) == []


# -- over TLS, thinly ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@asynccontextmanager
async def secured(store: Path, clock: FakeClock, authority: trustme.CA) -> AsyncIterator[There]:
    """A server that speaks TLS."""
    workers = Workers()
    served = ServedRepository(open_repository(store, workers, clock), clock=clock)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    try:
        async with Server(
            [served], access=WIDE_OPEN, port=0, tls=context, workers=workers
        ) as server:
            yield There(server, served, clock, store, workers)
    finally:
        workers.close()


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_whoever_vanishes_over_tls_leaves_the_server_as_it_was(
    serve: Serve,
    store: Path,
    clock: FakeClock,
    authority: trustme.CA,
    tmp_path: Path,
    transport: str,
    manner: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    put(store, b"x" * 4_000_000)
    trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(trusting)
    work = f"lock over {transport}"
    async with serve() as there:
        said = await recorded(there.url, work, tmp_path)
    async with secured(store, clock, authority) as there:
        async with Recorder(there.url) as line:
            url = line.url.replace("annex+http:", "annex+https:")
            async with Client(url, transport=transport, tls=trusting) as client:
                await works(KEY)[work][1](client, tmp_path)
            ciphered = bytes(line.said[0])
        await eventually(lambda: there.server.connections_open == 0)
        vanishing = Vanishing(there.server.port, trusting)
        async with as_before(there):
            await vanishing.come_and_go(
                [ciphered[:end] for end in range(0, len(ciphered), 19)], manner
            )
        async with as_before(there):
            async for beginning in beginnings(there, said, 97):
                await vanishing.come_and_go_secured(beginning, manner)
        there.clock.advance(601)
        await there.served.sweep()
        await there.nothing_left()
    assert complaints(caplog) == []


# -- the real server -------------------------------------------------------------------------------


def open_files(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


@both
async def test_the_real_server_keeps_no_descriptor_of_who_vanished_and_ends_as_it_should(
    store: Path, server_process: Callable[..., ServerProcess], tmp_path: Path
) -> None:
    put(store, b"x" * 4_000_000)
    server = server_process()
    port = Address.parse(server.url).port
    said = {work: await recorded(server.url, work, tmp_path) for work in works(KEY)}
    # Whose lock file, in a git-annex repository, is open for as long as it is retained.
    _, lock = await post(server.url, "lockcontent", key=KEY.text)
    before = open_files(server.pid)
    vanishing = Vanishing(port)
    for manner in MANNERS:
        for each in said.values():
            mine = each
            if held := _LOCK_ID.search(each):
                mine = each.replace(held[1], lock["lockid"].encode())
            await vanishing.come_and_go(
                [mine[:end] for end in (*range(0, len(mine), 23), len(mine))], manner
            )
    await eventually(lambda: open_files(server.pid) <= before)
    assert await post(server.url, "checkpresent", key=KEY.text) == (200, {"present": True})
    server.terminate()
    assert await server.ended() == 0  # and not 141, of a SIGPIPE
    assert "Traceback" not in server.output
    assert "ERROR" not in server.output
