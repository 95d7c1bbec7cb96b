"""The server over TLS by itself: its certificate, handshakes full and resumed, content."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import os
import ssl
import weakref
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import trustme
from conftest import (
    BOUND,
    LOCKLANE,
    MakeClient,
    Process,
    Serve,
    ServerProcess,
    eventually,
    put,
    run_locklane,
)

from locklane_bench.certificates import Certificates
from locklane_client import Client, Key, ServerUnreachable
from locklane_client.address import Address
from locklane_server import connections, descriptors
from locklane_server.listening import tls_context


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates.make(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def server(store: Path, certificates: Certificates) -> Iterator[ServerProcess]:
    files = ("--certfile", str(certificates.chain), "--privatekeyfile", str(certificates.key))
    with ServerProcess(store, *files) as process:
        yield process


async def test_locks_work_and_all_but_the_first_connection_take_up_its_session(
    server: ServerProcess, client: MakeClient, certificates: Certificates, key: Key, transport: str
) -> None:
    assert server.url.startswith("annex+https://")
    async with client(server.url, tls=certificates.trusting()) as c:
        for _ in range(5):
            async with c.lock(key):
                pass
        await c.confirmed()
        connections = 5 if transport == "websocket" else 1
        assert c.connections_opened == connections
        assert (c.tls_handshakes.full, c.tls_handshakes.resumed) == (1, connections - 1)


async def test_what_it_speaks_is_tls_1_3(server: ServerProcess, certificates: Certificates) -> None:
    address = Address.parse(server.url)
    _, writer = await asyncio.open_connection(
        address.host, address.port, ssl=certificates.trusting()
    )
    assert writer.get_extra_info("ssl_object").version() == "TLSv1.3"
    writer.close()
    await writer.wait_closed()


async def test_a_session_of_one_name_never_stands_in_for_another(
    server: ServerProcess, certificates: Certificates, key: Key
) -> None:
    """The certificate is of localhost and of 127.0.0.1, which are two names all the same."""
    tls = certificates.trusting()
    for host in ("127.0.0.1", "localhost"):
        async with Client(server.url.replace("127.0.0.1", host), tls=tls) as c, c.lock(key):
            pass
    async with Client(server.url.replace("127.0.0.1", "127.0.0.2"), tls=tls) as c:
        with pytest.raises(ServerUnreachable):
            async with c.lock(key):
                raise AssertionError("a session stood in for a check")
    assert (c.tls_handshakes.full, c.tls_handshakes.resumed) == (2, 0)


async def test_a_session_that_was_not_checked_never_stands_in_for_a_check(
    server: ServerProcess, client: MakeClient, certificates: Certificates, key: Key
) -> None:
    """The same context, told to check only later."""
    careless = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    careless.check_hostname = False
    careless.verify_mode = ssl.CERT_NONE
    async with client(server.url, tls=careless) as c, c.lock(key):
        pass
    assert c.tls_handshakes.full >= 1
    careless.verify_mode = ssl.CERT_REQUIRED
    careless.check_hostname = True
    async with client(server.url, tls=careless) as c:
        with pytest.raises(ServerUnreachable, match="its certificate is not trusted"):
            async with c.lock(key):
                raise AssertionError("locked at a server that nobody vouches for")


async def test_rules_that_were_made_stricter_are_kept(
    server: ServerProcess, certificates: Certificates, key: Key
) -> None:
    tls = certificates.trusting()
    async with Client(server.url, tls=tls) as c, c.lock(key):
        pass
    tls.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF  # and there is no list of what was revoked
    async with Client(server.url, tls=tls) as c:
        with pytest.raises(ServerUnreachable):
            async with c.lock(key):
                raise AssertionError("a session stood in for the stricter check")


async def test_contexts_go_with_their_clients(
    server: ServerProcess, certificates: Certificates, key: Key
) -> None:
    contexts = []
    for _ in range(5):
        tls = certificates.trusting()
        contexts.append(weakref.ref(tls))
        async with Client(server.url, tls=tls) as c, c.lock(key):
            pass
    del tls, c
    gc.collect()
    assert [each for each in contexts if each() is not None] == []


async def test_clients_that_share_a_context_share_its_sessions(
    server: ServerProcess, certificates: Certificates, key: Key
) -> None:
    tls = certificates.trusting()
    for _ in range(3):
        async with Client(server.url, tls=tls) as c, c.lock(key):
            pass
    assert (c.tls_handshakes.full, c.tls_handshakes.resumed) == (1, 2)


async def test_content_of_any_size_comes_and_goes_unharmed(
    server: ServerProcess, store: Path, tmp_path: Path, certificates: Certificates
) -> None:
    """Over TLS the kernel cannot send a file by itself."""
    content = os.urandom(5_000_000)
    key = put(store, content)
    async with Client(server.url, tls=certificates.trusting()) as c:
        await c.get(key, tmp_path / "got")
        assert (tmp_path / "got").read_bytes() == content
        other = content[::-1]
        (tmp_path / "other").write_bytes(other)
        new = Key.parse(f"SHA256E-s{len(other)}--{hashlib.sha256(other).hexdigest()}.bin")
        await c.put(new, tmp_path / "other")
        assert await c.check_present(new)


def test_a_plain_client_is_not_served_and_does_no_harm(
    server: ServerProcess, certificates: Certificates, key: Key
) -> None:
    plain = server.url.replace("annex+https", "annex+http")
    done = Process(LOCKLANE, "checkpresent", plain, key.text)
    assert done.wait() != 0
    assert server.running


@pytest.mark.parametrize(
    ("files", "says"),
    [
        (["--certfile", "chain"], "--privatekeyfile"),
        (["--privatekeyfile", "key"], "--certfile"),
        (["--chainfile", "chain"], "--certfile and --privatekeyfile"),
        (["--certfile", "key", "--privatekeyfile", "key"], "cannot be used as certificate"),
        (["--certfile", "chain", "--privatekeyfile", "chain"], "cannot be used as certificate"),
        (["--certfile", "authority", "--privatekeyfile", "key"], "cannot be used as certificate"),
    ],
)
def test_what_cannot_be_used_is_said_at_the_start(
    store: Path, certificates: Certificates, files: list[str], says: str
) -> None:
    words = [str(getattr(certificates, word, word)) for word in files]
    process = Process(LOCKLANE, "serve", "--store", store, "--wideopen", "--port", "0", *words)
    assert process.wait() != 0
    assert says in " ".join(process.output.split())
    assert "Traceback" not in process.output


def test_a_chain_may_be_in_files_of_its_own(store: Path, tmp_path: Path) -> None:
    top = trustme.CA()
    between = top.create_child_ca()
    certificate = between.issue_cert("127.0.0.1")
    leaf, *others = certificate.cert_chain_pems
    leaf.write_to_path(tmp_path / "leaf.pem")
    certificate.private_key_pem.write_to_path(tmp_path / "key.pem")
    words = [
        "--certfile",
        str(tmp_path / "leaf.pem"),
        "--privatekeyfile",
        str(tmp_path / "key.pem"),
    ]
    for number, each in enumerate(others):
        each.write_to_path(tmp_path / f"between{number}.pem")
        words += ["--chainfile", str(tmp_path / f"between{number}.pem")]
    tls = ssl.create_default_context()
    top.configure_trust(tls)

    async def ask(url: str) -> bool:
        async with Client(url, tls=tls) as c:
            return await c.check_present("WORM-s0--nothing")

    with ServerProcess(store, *words) as server:
        assert asyncio.run(ask(server.url)) is False


async def test_connections_that_make_no_handshake_are_bounded_and_cut_off(
    serve: Serve, key: Key, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "HANDSHAKE_SECONDS", 2.0)
    monkeypatch.setattr(descriptors, "RESERVED", 4)
    tls = tls_context(certificates.chain, certificates.key)
    async with serve(tls=tls, connections=3) as there:
        silent = [await open_connection(there.server.port) for _ in range(5)]
        await eventually(lambda: there.server._http.handshakes == 5)
        reader, _ = await open_connection(there.server.port)
        async with asyncio.timeout(BOUND):
            assert await reader.read() == b""  # one too many: closed at once
        async with asyncio.timeout(BOUND):
            for reader, _ in silent:
                with suppress(ConnectionResetError):
                    await reader.read()
        await eventually(lambda: there.server._http.handshakes == 0)
        url = there.url.replace("annex+http:", "annex+https:")
        async with Client(url, tls=certificates.trusting()) as client:
            assert await client.check_present(key)


async def open_connection(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", port)


def test_a_chain_file_without_a_certificate_is_refused(
    store: Path, certificates: Certificates
) -> None:
    status, said = run_locklane(
        *("serve", "--store", store, "--wideopen", "--port", "0"),
        *("--certfile", certificates.chain, "--privatekeyfile", certificates.key),
        *("--chainfile", certificates.key),
    )
    assert (status, f"there is no certificate (PEM) in {certificates.key}" in said) == (1, True)


async def test_garbage_in_place_of_a_handshake_disturbs_nobody(
    serve: Serve, key: Key, certificates: Certificates
) -> None:
    tls = tls_context(certificates.chain, certificates.key)
    async with serve(tls=tls) as there:
        for garbage in (b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01", b""):
            _, writer = await open_connection(there.server.port)
            writer.write(garbage)
            writer.close()
        await eventually(lambda: there.server._http.handshakes == 0)
        url = there.url.replace("annex+http:", "annex+https:")
        async with Client(url, tls=certificates.trusting()) as client:
            assert await client.check_present(key)


async def test_a_client_that_speaks_tls_to_a_server_that_does_not_is_told_so(
    serve: Serve, client: MakeClient, certificates: Certificates, key: Key
) -> None:
    async with serve() as there:
        url = there.url.replace("annex+http:", "annex+https:")
        async with client(url, tls=certificates.trusting()) as c:
            with pytest.raises(ServerUnreachable, match="does not speak TLS there; try http"):
                async with c.lock(key):
                    pass
