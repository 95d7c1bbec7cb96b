"""The client through a real reverse proxy: TLS, passwords, and versions that are not served."""

from __future__ import annotations

import json
import ssl
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme
from conftest import CADDY, Process, Serve, There, eventually, free_port, remove, wait_for_port

from locklane_client import AccessDenied, Client, Key, LocklaneError, LockLost, ServerUnreachable

MakeClient = Callable[..., Client]
PASSWORD = "s3cret: ä/@"
QUOTED = "s3cret%3A%20%C3%A4%2F%40"


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def password_hash() -> str:
    command = [CADDY, "hash-password", "--algorithm", "bcrypt", "--bcrypt-cost", "4"]
    done = subprocess.run(
        [*command, "--plaintext", PASSWORD], check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


@pytest.fixture
def trusting(authority: trustme.CA) -> ssl.SSLContext:
    """Trusts the authority of the tests, besides nobody."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(context)
    return context


@pytest.fixture
def caddy(tmp_path: Path, authority: trustme.CA, password_hash: str) -> Iterator[Any]:
    """Starts Caddy before a server: TLS on one port, a password on another, and on a third one
    neither, but only version 2."""
    started: list[Process] = []

    def start(there: There) -> dict[str, str]:
        certificate = authority.issue_cert("127.0.0.1", "localhost")
        certificate.private_key_pem.write_to_path(tmp_path / "key.pem")
        (tmp_path / "chain.pem").write_bytes(
            b"".join(each.bytes() for each in certificate.cert_chain_pems)
        )
        ports = {name: free_port() for name in ("tls", "password", "v2")}
        upstream = f"127.0.0.1:{there.server.port}"
        tls = f"tls {tmp_path / 'chain.pem'} {tmp_path / 'key.pem'}"
        (tmp_path / "Caddyfile").write_text(
            f"""
            {{
                admin off
                auto_https off
                persist_config off
                storage file_system {tmp_path / "caddy"}
                grace_period 1s
                servers {{
                    enable_full_duplex
                }}
            }}
            https://127.0.0.1:{ports["tls"]} {{
                {tls}
                reverse_proxy {upstream}
            }}
            https://127.0.0.1:{ports["password"]} {{
                {tls}
                basic_auth bcrypt git-annex {{
                    alice {password_hash}
                }}
                reverse_proxy {upstream}
            }}
            http://127.0.0.1:{ports["v2"]} {{
                @newer path */v4/* */v3/*
                respond @newer 404
                reverse_proxy {upstream}
            }}
            """
        )
        process = Process(
            CADDY, "run", "--adapter", "caddyfile", "--config", tmp_path / "Caddyfile"
        )
        started.append(process)
        for port in ports.values():
            try:
                wait_for_port(port)
            except AssertionError:
                pytest.fail(f"Caddy did not start:\n{process.output}")
        tail = f"/git-annex/{there.served.uuid}"
        return {
            "tls": f"annex+https://127.0.0.1:{ports['tls']}{tail}",
            "password": f"annex+https://{{}}127.0.0.1:{ports['password']}{tail}",
            "v2": f"annex+http://127.0.0.1:{ports['v2']}{tail}",
        }

    yield start
    for process in started:
        process.kill()


async def test_locks_work_over_tls_through_a_proxy(
    serve: Serve, client: MakeClient, caddy: Any, trusting: ssl.SSLContext, key: Key, transport: str
) -> None:
    async with serve() as there:
        async with client(caddy(there)["tls"], tls=trusting) as c:
            for _ in range(5):
                async with c.lock(key):
                    await eventually(lambda: there.locks == 1)
                    assert not (await remove(there.url, key))["removed"]
            assert c.connections_opened == (5 if transport == "websocket" else 1)
        await there.nothing_left()


async def test_a_certificate_that_nobody_vouches_for_is_unreachable_and_said_so(
    serve: Serve, client: MakeClient, caddy: Any, key: Key
) -> None:
    async with serve() as there, client(caddy(there)["tls"]) as c:
        with pytest.raises(ServerUnreachable, match="its certificate is not trusted"):
            async with c.lock(key):
                raise AssertionError("nobody locked")
        assert there.locks == 0


async def test_a_certificate_of_another_host_is_unreachable_and_said_so(
    serve: Serve, client: MakeClient, caddy: Any, trusting: ssl.SSLContext, key: Key
) -> None:
    async with serve() as there:
        url = caddy(there)["tls"].replace("127.0.0.1", "127.0.0.2")
        with pytest.raises(ServerUnreachable):
            async with client(url, tls=trusting) as c, c.lock(key):
                raise AssertionError("nobody locked")


async def test_plain_http_to_a_tls_port_is_no_success(
    serve: Serve, client: MakeClient, caddy: Any, key: Key
) -> None:
    async with serve() as there:
        url = caddy(there)["tls"].replace("annex+https", "annex+http")
        with pytest.raises(LocklaneError):
            async with client(url) as c, c.lock(key):
                raise AssertionError("nobody locked")


async def test_the_password_in_the_url_opens(
    serve: Serve, client: MakeClient, caddy: Any, trusting: ssl.SSLContext, key: Key
) -> None:
    async with serve() as there:
        url = caddy(there)["password"].format(f"alice:{QUOTED}@")
        async with client(url, tls=trusting) as c, c.lock(key):
            assert there.locks == 1
        await there.nothing_left()


@pytest.mark.parametrize("credentials", ["alice:wrong@", "bob:wrong@", "alice@", ""])
async def test_a_wrong_password_is_access_denied(
    serve: Serve,
    client: MakeClient,
    caddy: Any,
    trusting: ssl.SSLContext,
    key: Key,
    credentials: str,
) -> None:
    async with serve() as there:
        async with client(caddy(there)["password"].format(credentials), tls=trusting) as c:
            with pytest.raises(AccessDenied) as denied:
                async with c.lock(key):
                    raise AssertionError("nobody locked")
        assert denied.value.status == 401
        assert "wrong" not in str(denied.value), "the password is in the message"
        assert there.locks == 0


async def test_a_client_falls_back_to_the_version_served_and_stays_there(
    serve: Serve, client: MakeClient, caddy: Any, key: Key, transport: str
) -> None:
    first = {"longpoll": 2, "pipeline": 2}.get(transport, 1)
    each = 0 if transport == "multiplex" else first
    async with serve() as there, client(caddy(there)["v2"]) as c:
        async with c.lock(key):
            assert c.version == 2
            assert there.locks == 1
        assert c.counts.requests == 2 + first
        async with c.lock(key):
            await eventually(lambda: there.locks == 1)
        assert c.counts.requests == 2 + first + each, "it tried again what is not served"
        await there.nothing_left()


async def test_via_connects_elsewhere_and_speaks_to_the_server_under_the_urls_name(
    serve: Serve,
    client: MakeClient,
    tmp_path: Path,
    authority: trustme.CA,
    trusting: ssl.SSLContext,
    key: Key,
) -> None:
    """A host that does not resolve, served by a proxy that knows it by certificate and name."""
    certificate = authority.issue_cert("annex.invalid")
    certificate.private_key_pem.write_to_path(tmp_path / "key.pem")
    (tmp_path / "chain.pem").write_bytes(
        b"".join(each.bytes() for each in certificate.cert_chain_pems)
    )
    async with serve() as there:
        port = free_port()
        (tmp_path / "Caddyfile").write_text(
            f"""
            {{
                admin off
                auto_https off
                persist_config off
                storage file_system {tmp_path / "caddy"}
                grace_period 1s
                servers {{
                    enable_full_duplex
                }}
            }}
            https://annex.invalid:{port} {{
                tls {tmp_path / "chain.pem"} {tmp_path / "key.pem"}
                @other not header Host annex.invalid:9417
                respond @other "this is not the host of the URL" 421
                reverse_proxy 127.0.0.1:{there.server.port}
            }}
            """
        )
        with Process(
            CADDY, "run", "--adapter", "caddyfile", "--config", tmp_path / "Caddyfile"
        ) as proxy:
            wait_for_port(port)
            url = f"annex+https://annex.invalid/git-annex/{there.served.uuid}"
            async with client(url, tls=trusting, via=("127.0.0.1", port)) as c:
                for _ in range(3):
                    async with c.lock(key):
                        await eventually(lambda: there.live == 1)
                        assert not (await remove(there.url, key))["removed"]
                assert c.address.host == "annex.invalid"
            # It is the URL's name that the certificate is checked against, not that of the way.
            other = url.replace("annex.invalid", "other.invalid")
            async with client(other, tls=trusting, via=("127.0.0.1", port)) as c:
                with pytest.raises(LocklaneError):
                    async with c.lock(key):
                        raise AssertionError("locked at a server of another name")
            # And without the way there is nothing.
            async with client(url, tls=trusting) as c:
                with pytest.raises(ServerUnreachable):
                    async with c.lock(key):
                        raise AssertionError("locked at a host that does not exist")
        assert proxy.running is False
        await there.nothing_left()


async def test_the_proxy_gone_while_holding_loses_the_lock(
    serve: Serve, client: MakeClient, tmp_path: Path, key: Key
) -> None:
    async with serve() as there:
        port = free_port()
        config = tmp_path / "caddy.json"
        config.write_text(
            json.dumps(
                {
                    "admin": {"disabled": True, "config": {"persist": False}},
                    "apps": {
                        "http": {
                            "servers": {
                                "one": {
                                    "listen": [f"127.0.0.1:{port}"],
                                    "automatic_https": {"disable": True},
                                    "enable_full_duplex": True,
                                    "routes": [
                                        {
                                            "handle": [
                                                {
                                                    "handler": "reverse_proxy",
                                                    "upstreams": [
                                                        {"dial": f"127.0.0.1:{there.server.port}"}
                                                    ],
                                                }
                                            ]
                                        }
                                    ],
                                }
                            }
                        }
                    },
                }
            )
        )
        with Process(CADDY, "run", "--config", config) as proxy:
            wait_for_port(port)
            url = there.url.replace(str(there.server.port), str(port))
            with pytest.raises(LockLost, match="goes on keeping"):  # noqa: PT012
                async with client(url) as c, c.lock(key) as lock:
                    await eventually(lambda: there.live == 1)
                    proxy.kill()
                    await lock.wait_lost()
        await there.retained(key)
