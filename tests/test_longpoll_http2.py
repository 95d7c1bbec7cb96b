"""The long poll over one HTTP/2 connection, through a real Caddy in front of the server."""

# What raises LockLost is the end of the ``async with``, so its body belongs into pytest.raises.
# ruff: noqa: PT012

from __future__ import annotations

import asyncio
import signal
import ssl
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme
from conftest import (
    ABSENT,
    CADDY,
    SOMEBODY,
    Line,
    Process,
    Serve,
    ServerProcess,
    There,
    descriptors,
    eventually,
    free_port,
    remove,
    until_interrupted,
    wait_for_port,
)
from interrupting import MANNERS, interrupted, no_complaints

from locklane_client import (
    TRANSPORTS,
    AccessDenied,
    Client,
    Key,
    LocklaneError,
    LockLost,
    LockRefused,
    ProtocolViolation,
    ServerUnreachable,
)
from locklane_client.address import Address
from locklane_client.http2 import Headers, Http2
from locklane_client.http2_connection import Connection
from locklane_client.loop import run
from locklane_client.transports.longpoll_http2 import LongPollHttp2

NAME = "longpoll-http2"

GLOBAL = """
    admin off
    auto_https off
    persist_config off
    grace_period 10s
"""


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TRANSPORTS, NAME, LongPollHttp2)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def trusting(authority: trustme.CA) -> ssl.SSLContext:
    """Trusts the authority of the tests, besides nobody."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(context)
    return context


class Caddy(Process):
    """Caddy in front of a server, or of several ports of this machine."""

    def __init__(self, directory: Path, certificate: str, upstream: int) -> None:
        self.tls, self.plain, self.h1, self.password = (free_port() for _ in range(4))
        proxy = f"reverse_proxy 127.0.0.1:{upstream}"
        config = directory / "Caddyfile"
        config.write_text(
            f"""
            {{
                {GLOBAL}
                storage file_system {directory / "caddy"}
                servers 127.0.0.1:{self.plain} {{
                    protocols h1 h2c
                }}
                servers 127.0.0.1:{self.h1} {{
                    protocols h1
                }}
            }}
            https://127.0.0.1:{self.tls}, https://annex.invalid:{self.tls} {{
                bind 127.0.0.1
                {certificate}
                {proxy}
            }}
            http://127.0.0.1:{self.plain} {{
                bind 127.0.0.1
                @newer path */v4/* */v3/*
                header @newer X-Newer yes
                {proxy}
            }}
            https://127.0.0.1:{self.h1} {{
                bind 127.0.0.1
                {certificate}
                {proxy}
            }}
            https://127.0.0.1:{self.password} {{
                bind 127.0.0.1
                {certificate}
                @stranger not header Authorization "Basic YWxpY2U6czNjcmV0"
                respond @stranger "who are you?" 401
                @newer path */v4/* */v3/*
                respond @newer 404
                {proxy}
            }}
            """
        )
        super().__init__(CADDY, "run", "--adapter", "caddyfile", "--config", config)
        try:
            for port in (self.tls, self.plain, self.h1, self.password):
                wait_for_port(port)
        except AssertionError:
            self.kill()
            pytest.fail(f"Caddy did not start:\n{self.output}")


@pytest.fixture
def caddy(tmp_path: Path, authority: trustme.CA) -> Iterator[Callable[[There | int], Caddy]]:
    """Starts Caddy before a server, which may be told by its port."""
    certificate = authority.issue_cert("127.0.0.1", "annex.invalid")
    certificate.private_key_pem.write_to_path(tmp_path / "key.pem")
    chain = b"".join(each.bytes() for each in certificate.cert_chain_pems)
    (tmp_path / "chain.pem").write_bytes(chain)
    started: list[Caddy] = []

    def start(there: There | int) -> Caddy:
        upstream = there if isinstance(there, int) else there.server.port
        tls = f"tls {tmp_path / 'chain.pem'} {tmp_path / 'key.pem'}"
        started.append(Caddy(tmp_path, tls, upstream))
        return started[-1]

    yield start
    for process in started:
        process.kill()


def url(there: There, port: int, scheme: str = "https", login: str = "") -> str:
    return f"annex+{scheme}://{login}127.0.0.1:{port}/git-annex/{there.served.uuid}"


def over_http2(address: str, **options: Any) -> Client:
    return Client(address, transport=NAME, **options)


def inside(client: Client) -> Http2:
    transport = client._transport
    assert isinstance(transport, LongPollHttp2)
    return transport._http2


def connection(client: Client) -> Connection:
    [only] = inside(client)._connections
    return only


@asynccontextmanager
async def many(client: Client, keys: list[Key], number: int) -> AsyncIterator[list[str | None]]:
    """Hold so many locks at once; why some were lost is in the list at the end."""
    lost: list[str | None] = []
    done = asyncio.Event()
    held = 0

    async def hold(key: Key) -> None:
        nonlocal held
        try:
            async with client.lock(key, interrupt=False) as lock:
                held += 1
                await done.wait()
        except LockLost:
            lost.append(lock.lost)

    async with asyncio.TaskGroup() as holders:
        for each in range(number):
            holders.create_task(hold(keys[each % len(keys)]))
        await eventually(lambda: held == number)
        yield lost
        done.set()


# -- lock and unlock -------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["https", "http"])
async def test_a_lock_keeps_the_content_and_its_unlock_leaves_nothing(
    serve: Serve, caddy: Any, trusting: ssl.SSLContext, key: Key, scheme: str
) -> None:
    async with serve() as there:
        proxy = caddy(there)
        port = proxy.tls if scheme == "https" else proxy.plain
        async with over_http2(url(there, port, scheme), tls=trusting) as c:
            for _ in range(3):
                async with c.lock(key) as lock:
                    await eventually(lambda: there.live == 1)
                    [held] = there.served.manager
                    assert (held.key, held.id) == (key.text, lock.lock_id)
                    assert not (await remove(there.url, key))["removed"]
                assert there.locks == 0
            assert c.connections_opened == 1
            assert c.counts.requests == 6
            assert c.counts.round_trips == 6 + (2 if scheme == "https" else 1)
        await there.nothing_left()
        assert (await remove(there.url, key))["removed"]


async def test_64_at_once_share_one_connection(
    serve: Serve, caddy: Any, trusting: ssl.SSLContext, keys: list[Key]
) -> None:
    async with serve() as there:
        async with over_http2(url(there, caddy(there).tls), tls=trusting) as c:
            async with many(c, keys, 64) as lost:
                await eventually(lambda: there.live == 64)
                assert not (await remove(there.url, keys[0]))["removed"]
            assert lost == []
            assert c.connections_opened == 1
            assert there.server.connections_opened >= 64
        await there.nothing_left()


@pytest.mark.parametrize("scheme", ["https", "http"])
def test_on_uvloop_it_is_the_same(
    server_process: Callable[..., ServerProcess],
    caddy: Any,
    trusting: ssl.SSLContext,
    keys: list[Key],
    scheme: str,
) -> None:
    pytest.importorskip("uvloop")
    server = server_process()
    port = Address.parse(server.url).port
    proxy = caddy(port)
    address = server.url.replace(
        f":{port}/", f":{proxy.tls if scheme == 'https' else proxy.plain}/"
    )

    async def locks() -> None:
        async with over_http2(
            address.replace("+http:", f"+{scheme}:"), tls=trusting, keep_interval=0.1
        ) as c:
            async with many(c, keys, 20) as lost:
                await asyncio.sleep(0.3)  # some pings and signs of life later
            assert lost == []
            assert c.connections_opened == 1
            with pytest.raises(LockLost, match="broke"):
                async with c.lock(keys[0]):
                    proxy.kill()
                    await until_interrupted()

    run(locks())


async def test_200_locks_one_after_the_other_leave_nothing_behind(
    serve: Serve, caddy: Any, trusting: ssl.SSLContext, key: Key
) -> None:
    async with serve() as there:
        address = url(there, caddy(there).tls)
        tasks, files = len(asyncio.all_tasks()), descriptors()
        upstream: int
        async with over_http2(address, tls=trusting) as c:
            for _ in range(200):
                async with c.lock(key):
                    assert there.locks == 1
            opened = connection(c)
            assert opened.slots == {}
            assert opened._taken == 0
            assert opened.h2.open_outbound_streams == 0
            assert opened.h2.streams == {}
            assert c.connections_opened == 1
            assert c.counts.requests == 400
            upstream = there.server.connections_opened
        await there.nothing_left()
        assert upstream < 20, "the proxy did not use its connections again"
        await eventually(lambda: len(asyncio.all_tasks()) <= tasks + upstream)
        await eventually(lambda: descriptors() <= files + upstream)
        assert opened.gone.done()


async def test_absent_content_is_refused_with_the_reason_and_room_is_left(
    serve: Serve, caddy: Any, trusting: ssl.SSLContext, key: Key
) -> None:
    async with (
        serve(limit=1) as there,
        over_http2(url(there, caddy(there).tls), tls=trusting) as c,
    ):
        with pytest.raises(LockRefused, match="not present"):
            async with c.lock(ABSENT):
                raise AssertionError("held a lock on nothing")
        async with c.lock(key):
            with pytest.raises(LockRefused, match="as many locks as it may"):
                async with c.lock(key):
                    raise AssertionError("held one lock too many")
        assert connection(c)._taken == 0
        await there.nothing_left()


async def test_more_locks_than_the_peer_has_room_for_wait_for_their_turn(
    serve: Serve, caddy: Any, trusting: ssl.SSLContext, keys: list[Key]
) -> None:
    async with serve() as there:
        address = url(there, caddy(there).tls)
        async with over_http2(address, tls=trusting, answer_timeout=1.0) as c:
            async with c.lock(keys[0]):
                pass
            room = connection(c).room
            assert 100 <= room < 1000, "that of Caddy"
            async with many(c, keys, room) as lost:
                with pytest.raises(ServerUnreachable, match=f"allows {room} requests at once"):
                    async with c.lock(keys[0]):
                        raise AssertionError("there was room for one more")
                waiting = asyncio.create_task(_lock_and_unlock(c, keys[0]))
                await eventually(lambda: connection(c)._waiting)
                assert there.locks == room
            await waiting
            assert lost == []
            assert c.connections_opened == 1
        await there.nothing_left()


async def _lock_and_unlock(client: Client, key: Key) -> None:
    async with client.lock(key):
        pass


# -- who is spoken to, and as whom -----------------------------------------------------------------


async def test_the_password_and_an_earlier_version_go_through(
    serve: Serve, caddy: Any, trusting: ssl.SSLContext, key: Key
) -> None:
    async with serve() as there:
        port = caddy(there).password
        async with over_http2(url(there, port, login="alice:s3cret@"), tls=trusting) as c:
            async with c.lock(key):
                assert c.version == 2
                assert there.locks == 1
            assert c.connections_opened == 1
        async with over_http2(url(there, port, login="alice:wrong@"), tls=trusting) as c:
            with pytest.raises(AccessDenied, match="who are you") as denied:
                async with c.lock(key):
                    raise AssertionError("nobody locked")
            assert denied.value.status == 401
        await there.nothing_left()


async def test_via_connects_elsewhere_and_checks_the_certificate_for_the_urls_name(
    serve: Serve, caddy: Any, trusting: ssl.SSLContext, key: Key
) -> None:
    async with serve() as there:
        proxy = caddy(there)
        named = url(there, proxy.tls).replace("127.0.0.1", "annex.invalid")
        via = ("127.0.0.1", proxy.tls)
        async with over_http2(named, tls=trusting, via=via) as c, c.lock(key):
            await eventually(lambda: there.live == 1)
        other = named.replace("annex.invalid", "other.invalid")
        async with over_http2(other, tls=trusting, via=via) as c:
            with pytest.raises(ServerUnreachable, match="TLS"):
                async with c.lock(key):
                    raise AssertionError("locked at a server of another name")
        async with over_http2(url(there, proxy.tls)) as c:
            with pytest.raises(ServerUnreachable, match="its certificate is not trusted"):
                async with c.lock(key):
                    raise AssertionError("locked at a server that nobody vouches for")
        await there.nothing_left()


async def test_the_context_given_goes_on_serving_http_1(
    serve: Serve, caddy: Any, trusting: ssl.SSLContext, key: Key
) -> None:
    async with serve() as there:
        async with over_http2(url(there, caddy(there).tls), tls=trusting) as c:
            for _ in range(2):
                async with c.lock(key):
                    assert await c.check_present(key), "over HTTP/1.1, with the same context"
            assert c.connections_opened == 2
        await there.nothing_left()


async def test_a_peer_without_http2_is_no_success_and_the_message_says_what_to_do(
    serve: Serve, caddy: Any, trusting: ssl.SSLContext, key: Key
) -> None:
    async with serve() as there:
        for address in (there.url, url(there, caddy(there).h1)):
            async with over_http2(address, tls=trusting) as c:
                with pytest.raises(ProtocolViolation, match="put a proxy in front"):
                    async with c.lock(key):
                        raise AssertionError("nobody locked")
        assert there.locks == 0


async def test_nobody_there_is_unreachable_for_all_who_ask_at_once(key: Key) -> None:
    async with over_http2(f"annex+http://127.0.0.1:{free_port()}/git-annex/u") as c:
        asked = [asyncio.create_task(_lock_and_unlock(c, key)) for _ in range(5)]
        for failed in await asyncio.gather(*asked, return_exceptions=True):
            assert isinstance(failed, ServerUnreachable)
            assert "Connect" in str(failed)
        assert c.connections_opened == 0


async def test_a_peer_that_accepts_and_says_nothing_is_given_up(key: Key) -> None:
    silent = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
    port = silent.sockets[0].getsockname()[1]
    async with silent:
        for scheme, wait in (("http", "answer_timeout"), ("https", "connect_timeout")):
            address = f"annex+{scheme}://127.0.0.1:{port}/git-annex/u"
            async with over_http2(address, **{wait: 0.2}) as c:
                with pytest.raises(ServerUnreachable, match=r"within 0\.2 s"):
                    async with c.lock(key):
                        raise AssertionError("nobody locked")


async def test_without_h2_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "locklane_client.http2")
    monkeypatch.delitem(sys.modules, "locklane_client.http2_connection")
    monkeypatch.setitem(sys.modules, "h2", None)
    monkeypatch.setitem(sys.modules, "h2.config", None)
    with pytest.raises(ValueError, match=r"pip install 'locklane\[http2\]'"):
        over_http2("annex+http://127.0.0.1:1/git-annex/u")


# -- the end of a hold, and of the connection ------------------------------------------------------


async def test_a_hold_that_the_server_ends_is_lost_at_once_and_the_others_are_not(
    serve: Serve, caddy: Any, trusting: ssl.SSLContext, keys: list[Key]
) -> None:
    async with serve() as there, over_http2(url(there, caddy(there).tls), tls=trusting) as c:
        async with c.lock(keys[1]) as other:
            with pytest.raises(LockLost, match="unlocked") as lost:
                async with c.lock(keys[0]):
                    await eventually(lambda: there.live == 2)
                    [ending] = [each for each in there.served.manager if each.key == keys[0].text]
                    await there.served.unlock(ending)
                    await until_interrupted()
            assert lost.value.retained_for == 0
            assert other.lost is None
        await there.nothing_left()


async def test_a_server_killed_behind_the_proxy_is_told_with_the_next_sign_of_life(
    server_process: Callable[..., ServerProcess], caddy: Any, trusting: ssl.SSLContext, key: Key
) -> None:
    """Caddy finds out when it has something to pass on, as it does for HTTP/1.1."""
    server = server_process()
    port = Address.parse(server.url).port
    address = server.url.replace("+http:", "+https:").replace(f":{port}/", f":{caddy(port).tls}/")
    async with over_http2(address, tls=trusting, keep_interval=0.2) as c:
        with pytest.raises(LockLost, match="answered keeplocked with 502") as lost:
            async with c.lock(key):
                assert await c.check_present(key)
                server.kill()
                await until_interrupted()
        assert lost.value.retained_for > 500
        assert connection(c)._taken == 0


async def test_all_holds_are_lost_when_the_proxy_is_killed_and_retained(
    serve: Serve, caddy: Any, trusting: ssl.SSLContext, keys: list[Key]
) -> None:
    async with serve() as there:
        proxy = caddy(there)
        async with over_http2(url(there, proxy.tls), tls=trusting) as c:
            async with many(c, keys, 8) as lost:
                await eventually(lambda: there.live == 8)
                await asyncio.to_thread(proxy.kill)
                await eventually(lambda: there.live == 0)
                assert there.locks == 8
            assert len(lost) == 8
            assert all(why is not None and "broke" in why for why in lost)
            with pytest.raises(ServerUnreachable):
                async with c.lock(keys[0]):
                    raise AssertionError("locked at nobody")


async def test_a_cut_connection_loses_the_hold_and_the_next_lock_opens_another(
    serve: Serve, caddy: Any, key: Key
) -> None:
    async with serve() as there:
        proxy = caddy(there)
        async with (
            Line(url(there, proxy.plain, "http")) as line,
            # The name is the proxy's, the way leads over the line.
            over_http2(url(there, proxy.plain, "http"), via=("127.0.0.1", line.port)) as c,
        ):
            for connections in (1, 2):
                with pytest.raises(LockLost, match="broke") as lost:
                    async with c.lock(key):
                        await eventually(lambda: there.live == 1)
                        line.cut()
                        await until_interrupted()
                assert lost.value.retained_for > 500
                await eventually(lambda: there.live == 0)
                assert c.connections_opened == connections == line.connections
            async with c.lock(key):
                await eventually(lambda: there.live == 1)
            assert c.connections_opened == 3
            assert len(inside(c)._connections) == 1


async def test_a_proxy_that_stands_still_is_found_out_by_pings(
    serve: Serve, caddy: Any, trusting: ssl.SSLContext, key: Key
) -> None:
    async with serve() as there:
        proxy = caddy(there)
        async with over_http2(url(there, proxy.tls), tls=trusting, keep_interval=0.1) as c:
            async with c.lock(key):
                await asyncio.sleep(0.5)  # several pings are answered meanwhile
            with pytest.raises(LockLost, match="no answer to a ping"):
                async with c.lock(key):
                    await eventually(lambda: there.live == 1)
                    proxy.signal(signal.SIGSTOP)
                    await until_interrupted()
            await eventually(lambda: inside(c)._connections == set())
            proxy.signal(signal.SIGCONT)
            async with c.lock(key):
                pass
            assert c.connections_opened == 2


async def test_a_proxy_that_is_shutting_down_lets_holds_go_on_to_their_unlock(
    serve: Serve, caddy: Any, trusting: ssl.SSLContext, keys: list[Key]
) -> None:
    async with serve() as there:
        proxy = caddy(there)
        async with over_http2(url(there, proxy.tls), tls=trusting) as c:
            async with many(c, keys, 3) as lost:
                await eventually(lambda: there.live == 3)
                leaving = connection(c)
                proxy.terminate()
                await eventually(lambda: not leaving.usable)
                assert leaving.error is None
                with pytest.raises(ServerUnreachable):
                    async with c.lock(keys[0]):
                        raise AssertionError("locked at a proxy that takes no connections")
                assert there.live == 3
            assert lost == []
            await eventually(lambda: inside(c)._connections == set())
        await there.nothing_left()
        await proxy.ended()


async def test_a_connection_that_nobody_uses_is_closed_and_opened_again_for_the_next_lock(
    serve: Serve,
    caddy: Any,
    trusting: ssl.SSLContext,
    key: Key,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("locklane_client.http2_connection.IDLE_SECONDS", 0.1)
    async with serve() as there:
        async with over_http2(url(there, caddy(there).tls), tls=trusting, keep_interval=0.05) as c:
            async with c.lock(key):
                await asyncio.sleep(0.3)
                assert c.connections_opened == 1, "it was used all the time"
                unused = connection(c)
            await eventually(unused.gone.done)
            assert inside(c)._connections == set()
            async with c.lock(key):
                await eventually(lambda: there.live == 1)
            assert c.connections_opened == 2
        await there.nothing_left()


async def test_closing_the_client_abandons_what_it_holds(
    serve: Serve, caddy: Any, trusting: ssl.SSLContext, key: Key
) -> None:
    async with serve() as there:
        c = over_http2(url(there, caddy(there).tls), tls=trusting)
        async with many(c, [key], 1) as lost:
            await eventually(lambda: there.live == 1)
            opened = connection(c)
            await c.aclose()
            assert opened.gone.done()
        assert lost == ["the client was closed"]
        await there.retained(key)
        with pytest.raises(LocklaneError, match="the client is closed"):
            async with c.lock(key):
                raise AssertionError("locked with a closed client")


# -- cancelled -------------------------------------------------------------------------------------


async def test_a_cancelled_body_unlocks(
    serve: Serve, caddy: Any, trusting: ssl.SSLContext, key: Key
) -> None:
    async with serve() as there, over_http2(url(there, caddy(there).tls), tls=trusting) as c:

        async def hold() -> None:
            async with c.lock(key):
                await until_interrupted()

        holder = asyncio.create_task(hold())
        await eventually(lambda: there.live == 1)
        holder.cancel()
        with pytest.raises(asyncio.CancelledError):
            await holder
        await there.nothing_left()
        assert connection(c)._taken == 0


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 8, 13, 30])
async def test_cancelled_while_it_locks_leaves_neither_lock_nor_room_taken(
    serve: Serve, caddy: Any, trusting: ssl.SSLContext, key: Key, steps: int
) -> None:
    """Wherever it is cancelled: after so many turns of the event loop, with and without a
    connection there."""
    async with serve() as there, over_http2(url(there, caddy(there).tls), tls=trusting) as c:
        for _ in range(3):
            taking = asyncio.create_task(_lock_and_unlock(c, key))
            for _ in range(steps):
                await asyncio.sleep(0)
            taking.cancel()
            await asyncio.wait([taking])
        async with c.lock(key):
            await eventually(lambda: there.live == 1)
        # What was taken all the same is given back in the background.
        await eventually(lambda: connection(c)._taken == 0)
        await there.nothing_left()
        assert c.connections_opened == 1


async def test_a_request_broken_off_frees_its_room_and_hurts_no_other(
    serve: Serve, caddy: Any, trusting: ssl.SSLContext, keys: list[Key]
) -> None:
    async with serve() as there, over_http2(url(there, caddy(there).tls), tls=trusting) as c:
        async with c.lock(keys[0]) as held:
            transport = c._transport
            told: list[str] = []
            hold = await transport.acquire(keys[1].text, 4, lambda why, _: told.append(why))
            await eventually(lambda: there.live == 2)
            await hold.abandon()
            await eventually(lambda: there.live == 1)
            assert connection(c)._taken == 1
            assert held.lost is None
            assert told == []
        await there.retained(keys[1])
        headers: Headers = [
            (":method", "GET"),
            (":scheme", "https"),
            (":authority", c.address.authority),
            (":path", "/nothing"),
        ]
        with pytest.raises(ServerUnreachable, match="did not answer"):
            await inside(c).begin(headers, 0.0)
        slot, answer = await inside(c).begin(headers, 5.0)
        assert answer.status == 404
        slot.leave()
        assert connection(c)._taken == 0


async def test_a_peer_that_floods_with_pings_and_reads_no_answer_is_given_up(key: Key) -> None:
    """Each ping has to be answered (RFC 9113, 6.7), and the answers would pile up."""
    settings = b"\0\0\0\x04\0\0\0\0\0"
    pings = b"\0\0\x08\x06\0\0\0\0\0flooding" * 1000

    async def flood(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            writer.write(settings)
            while True:
                writer.write(pings)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()

    # A reader of that limit stops reading at once.
    async with await asyncio.start_server(flood, "127.0.0.1", 0, limit=1) as flooding:
        port = flooding.sockets[0].getsockname()[1]
        url = f"annex+http://127.0.0.1:{port}/git-annex/{SOMEBODY}"
        async with Client(url, transport="longpoll-http2") as client:
            with pytest.raises(ServerUnreachable, match="it reads nothing"):
                async with client.lock(key):
                    pass


# -- interrupted -----------------------------------------------------------------------------------


@pytest.mark.parametrize("manner", MANNERS)
@pytest.mark.parametrize("scheme", ["https", "http"])
async def test_a_lock_interrupted_at_every_await_is_given_back_and_leaves_nothing(
    serve: Serve, caddy: Any, trusting: ssl.SSLContext, key: Key, scheme: str, manner: str
) -> None:
    async with serve() as there:
        proxy = caddy(there)
        port = proxy.tls if scheme == "https" else proxy.plain

        async def work() -> None:
            async with over_http2(url(there, port, scheme), tls=trusting) as c, c.lock(key):
                await asyncio.sleep(0)

        def left() -> tuple[int, int]:
            """Tasks and descriptors, without those of the proxy's connections, which stay."""
            of_proxy = there.server.connections_open
            return len(asyncio.all_tasks()) - of_proxy, descriptors() - of_proxy

        before = left()
        await work()
        at = 1
        with no_complaints():
            while await interrupted(work, at, manner):
                at += 1
                await eventually(lambda: there.locks == there.served.holds == 0)
                await eventually(lambda: left() <= before)
        assert at > 10
        await there.nothing_left()
