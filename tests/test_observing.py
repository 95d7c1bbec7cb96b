"""What can be seen of a server from outside: its log, its metrics, and whether it is well."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest
from conftest import (
    ABSENT,
    BOUND,
    LOCKLANE,
    SOMEBODY,
    MakeClient,
    Process,
    Serve,
    ServerProcess,
    eventually,
    post,
    remove,
)
from kinds import both, put
from prometheus_client.parser import text_string_to_metric_families
from rawhttp import request, wire

from locklane_client import AccessDenied, Client, Key, LockRefused
from locklane_server.access import Access, Level
from locklane_server.log import Log
from locklane_server.metrics import ServerCollector
from locklane_server.records import Records, network

StartServer = Callable[..., ServerProcess]


def parse(line: str) -> dict[str, str]:
    """A line of the log, by its names."""
    return dict(pair.split("=", 1) for pair in shlex.split(line) if "=" in pair)


@pytest.fixture
def lines() -> list[str]:
    return []


@pytest.fixture
def observed(serve: Serve, lines: list[str]) -> Callable[..., Any]:
    def start(**options: Any) -> Any:
        return serve(records=Records(lines.append), **options)

    return start


# -- the log ---------------------------------------------------------------------------------------


async def test_each_request_is_a_line_with_what_was_asked_by_whom_and_what_came_of_it(
    observed: Callable[..., Any], lines: list[str], key: Key
) -> None:
    async with observed() as there:
        await post(there.url, "checkpresent", key=key.text)
        await post(there.url, "checkpresent", version=2, key="nonsense")
        await post(there.url, "nothing")
        async with wire(there) as getting:
            getting.head("GET", request("key", key))
            content = (await getting.answer()).body
        first, second, third, fourth = map(parse, lines)
        assert first == {
            **first,
            "method": "POST",
            "address": "127.0.0.1",
            "request": "checkpresent",
            "repository": there.served.uuid,
            "version": "4",
            "key": key.text,
            "client": SOMEBODY,
            "status": "200",
        }
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", first["time"])
        assert 0 <= float(first["seconds"]) < 20
        assert (second["version"], second["status"]) == ("2", "400")
        assert "key" not in second
        assert (third["request"], third["status"]) == ("nothing", "404")
        assert (fourth["request"], fourth["sent"]) == ("key", str(len(content)))
        ids = {parse(line)["id"] for line in lines}
        assert len(ids) == 4


async def test_what_is_refused_is_a_line_with_the_reason_and_with_who_asked_for_what(
    observed: Callable[..., Any], lines: list[str], key: Key
) -> None:
    users = {
        b"GIT_ANNEX_P2PHTTP_PASSWORD_bob": b"secret",
        b"GIT_ANNEX_P2PHTTP_PERMISSIONS_bob": b"readonly",
    }
    async with observed(access=Access(Level.READ_ONLY).with_users(users)) as there:
        with pytest.raises(AccessDenied):
            async with Client(there.url.replace("//", "//bob:secret@")) as bob:
                await bob.remove(key)
        await post(there.url, "lockcontent", key=ABSENT.text)
        await post(there.url, "checkpresent", key="nonsense")
        async with aiohttp.ClientSession() as http:
            await http.get(f"http://127.0.0.1:{there.server.port}/robots.txt")
        denied, locked, nonsense, stranger = map(parse, lines)
        assert (denied["user"], denied["key"], denied["status"]) == ("bob", key.text, "403")
        assert denied["repository"] == there.served.uuid
        assert denied["error"] == "the user bob may not remove here"
        assert (locked["status"], locked["error"]) == ("200", "the content is not present")
        assert nonsense["error"]
        assert (stranger["path"], stranger["status"]) == ("/robots.txt", "404")


@pytest.mark.parametrize("transport", ["multiplex"], indirect=True)
async def test_a_refused_lock_among_many_has_the_reason_in_its_own_line(
    observed: Callable[..., Any], lines: list[str], client: MakeClient, transport: str
) -> None:
    async with observed() as there:
        async with client(there.url) as c:
            with pytest.raises(LockRefused):
                async with c.lock(ABSENT):
                    pass
        await eventually(lambda: len(lines) == 2)
        lock, connection = map(parse, lines)
        assert (lock["request"], lock["error"]) == ("lock", "the content is not present")
        assert "error" not in connection


async def test_an_error_names_the_line_in_the_log(
    observed: Callable[..., Any], lines: list[str]
) -> None:
    async with observed() as there:
        _, answer = await post(there.url, "checkpresent", key="nonsense")
        assert answer["request"] == parse(lines[0])["id"]


async def test_whatever_a_client_sends_a_request_is_one_line_of_pairs(
    observed: Callable[..., Any], lines: list[str]
) -> None:
    nasty = 'SHA1--x" status=200\nrequest forged=1 \x1b[31m\udcff'
    async with observed() as there:
        await post(there.url, "checkpresent", key=nasty)
        await post(there.url, quote('x" y=\n'), key=nasty)
        assert len(lines) == 2
        for line in lines:
            assert "\n" not in line
            assert line.isascii()
            assert line.isprintable()
        assert 'key="SHA1--x\\" status=200\\nrequest forged=1 \\u001b[31m\\udcff"' in lines[0]


async def test_a_lock_is_a_line_with_its_key_over_every_transport(
    observed: Callable[..., Any], lines: list[str], client: MakeClient, key: Key, transport: str
) -> None:
    async with observed() as there:
        async with client(there.url) as c, c.lock(key):
            pass
        await there.nothing_left()
        await eventually(lambda: there.server._api.in_progress == 0)
        locked = [parse(line) for line in lines]
        about_key = [line for line in locked if line.get("key") == key.text]
        wanted = {"longpoll": 2, "pipeline": 2, "websocket": 1, "multiplex": 1, "duplex": 1}
        assert len(about_key) == wanted[transport]
        assert {line["client"] for line in about_key if "client" in line}


async def test_behind_a_proxy_the_address_and_the_id_are_those_that_it_says(
    serve: Serve, lines: list[str], key: Key
) -> None:
    by_the_client = "X-Forwarded-For: 6.6.6.6"
    said = (by_the_client, "X-Forwarded-For: 7.7.7.7, 192.0.2.7", "X-Request-Id: from-the-proxy.1")
    for trust in (True, False):
        async with (
            serve(records=Records(lines.append, trust_forwarded=trust)) as there,
            wire(there) as proxy,
        ):
            proxy.head("GET", request("checkpresent", key), *said)
            await proxy.answer()
    trusted, not_trusted = map(parse, lines)
    assert (trusted["address"], trusted["id"]) == ("192.0.2.7", "from-the-proxy.1")
    assert not_trusted["address"] == "127.0.0.1"
    assert not_trusted["id"] != "from-the-proxy.1"


@pytest.mark.parametrize(("level", "there"), [("info", True), ("warning", False)])
async def test_the_server_writes_requests_at_info(
    server_process: StartServer, key: Key, level: str, there: bool
) -> None:
    server = server_process("--log-level", level)
    await post(server.url, "checkpresent", key=key.text)
    server.terminate()
    assert await server.ended() == 0
    assert (f"key={key.text} " in server.output) == there


def test_a_log_that_nobody_reads_holds_up_nobody_and_says_what_is_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("locklane_server.log.MOST", 10)
    reading, writing = os.pipe()
    with (
        os.fdopen(reading) as reader,
        os.fdopen(writing, "w") as stream,
        Log(stream) as log,
    ):
        for number in range(100_000):  # more than a pipe holds
            log.request(f"line {number}")
        said = ""
        while "could not be written" not in said:
            log.request("one more")
            said = reader.readline()
    assert re.search(r"could not be written: \d+\n", said)


def test_a_log_that_cannot_be_written_keeps_nothing_and_goes_on_when_it_can(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("locklane_server.log.GATHER_SECONDS", 0.0)
    with (
        (tmp_path / "log").open("w+") as good,
        Path("/dev/full").open("w") as full,
        Log(full) as log,
    ):
        log.request("lost")
        end = time.monotonic() + 20
        while not log._lost:
            assert time.monotonic() < end
        assert not log._lines
        log._stream = good
        log.request("kept")
    said = (tmp_path / "log").read_text()
    assert "INFO: request" not in said
    assert "kept" in said
    assert re.search(r"could not be written: 1\n", said)


# -- metrics ---------------------------------------------------------------------------------------


def metrics_of(server: Any) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    """What is counted, by name and labels (that of the repository is left out)."""
    found: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
    for family in ServerCollector(server).collect():
        for sample in family.samples:
            labels = tuple(
                sorted((n, v) for n, v in sample.labels.items() if n not in ("repository",))
            )
            found.setdefault(sample.name, {})[labels] = sample.value
    return found


async def test_requests_are_counted_by_class_and_status_with_how_long_they_took(
    serve: Serve, keys: list[Key], store: Path
) -> None:
    async with serve() as there:
        for key in (*keys, ABSENT):
            await post(there.url, "checkpresent", key=key.text)
        await post(there.url, "checkpresent", key="nonsense")
        await remove(there.url, keys[0])
        await post(there.url, "nothing")
        key = put(store, b"x" * 1000)
        async with wire(there) as getting:
            getting.head("GET", request("key", key))
            await getting.answer()
        said = metrics_of(there.server)
        name = "locklane_request_duration_seconds"

        def count(kind: str, status: int) -> float:
            labels = (("class", kind), ("le", "+Inf"), ("status", str(status)))
            return said[f"{name}_bucket"][labels]

        assert count("read", 200) == 5
        assert count("read", 400) == 1
        assert count("remove", 200) == 1
        assert count("none", 404) == 1
        assert said[f"{name}_sum"][("class", "read"), ("status", "200")] > 0
        assert said["locklane_content_bytes_total"][(("direction", "sent"),)] == 1000


async def test_a_hold_that_is_lost_is_counted_and_one_that_is_unlocked_is_not(
    serve: Serve, client: MakeClient, key: Key, transport: str
) -> None:
    async with serve() as there:
        async with client(there.url) as c, c.lock(key):
            pass
        await there.nothing_left()
        assert there.served.holds_lost[transport] == 0
        taken = await there.served.lock(key, "somebody", transport, live=True)
        there.served.begin_hold(taken).lose()  # type: ignore[arg-type]
        lost = metrics_of(there.server)["locklane_holds_lost_total"]
        assert lost[(("transport", transport),)] == 1


async def test_the_process_serves_metrics_that_prometheus_reads_with_busy_workers(
    server_process: StartServer, key: Key
) -> None:
    server = server_process("--metrics", "127.0.0.1:0")
    where = server.line(r"metrics at (\S+)")[1]
    await post(server.url, "checkpresent", key=key.text)
    async with aiohttp.ClientSession() as http, http.get(where) as response:
        families = {family.name for family in text_string_to_metric_families(await response.text())}
    assert families >= {
        "locklane_connections",
        "locklane_connections_opened",
        "locklane_content_bytes",
        "locklane_holds_lost",
        "locklane_locks",
        "locklane_locks_refused",
        "locklane_locks_taken",
        "locklane_request_duration_seconds",
        "locklane_workers_busy",
        "locklane_workers_waiting",
    }


# -- health ----------------------------------------------------------------------------------------


def rename(directory: Path, name: str) -> Path:
    return directory.rename(directory.with_name(name))


async def health(url: str) -> tuple[int, dict[str, Any]]:
    async with aiohttp.ClientSession() as http, http.get(url) as response:
        return response.status, await response.json(content_type=None)


@both
async def test_a_server_is_well_only_while_its_repository_can_be_served(
    server_process: StartServer, store: Path
) -> None:
    server = server_process("--metrics", "127.0.0.1:0")
    details = server.line(r"metrics at (\S+)/metrics")[1] + "/health"
    plain = re.sub(r"annex\+(http://[^/]+)/.*", r"\1/health", server.url)
    uuid = server.url.rpartition("/")[2]
    assert await health(plain) == (200, {"healthy": True})
    assert await health(details) == (200, {"healthy": True, "repositories": {uuid: "healthy"}})
    gone = rename(store, "gone")
    end = asyncio.get_running_loop().time() + 20
    while (answer := await health(plain))[0] == 200:
        assert asyncio.get_running_loop().time() < end
    assert answer[0] == 503
    assert answer[1]["healthy"] is False
    assert uuid not in str(answer[1])
    status, said = await health(details)
    assert status == 503
    assert uuid in said["repositories"]
    rename(gone, store.name)
    while (await health(plain))[0] == 503:
        assert asyncio.get_running_loop().time() < end


async def test_a_server_that_stops_is_not_well(serve: Serve) -> None:
    async with serve() as there:
        there.server.health.stopping = True
        answer = await there.server.health.answer()
        assert answer.status == 503


async def test_health_needs_no_rights_and_says_nothing_of_what_is_served(
    store: Path, key: Key
) -> None:
    process = ServerProcess(
        store,
        access=("--authenv-http",),
        env={"GIT_ANNEX_P2PHTTP_PASSWORD_alice": "secret"},
    )
    with process:
        plain = re.sub(r"annex\+(http://[^/]+)/.*", r"\1/health", process.url)
        assert await health(plain) == (200, {"healthy": True})
        status, _ = await post(process.url, "checkpresent", key=key.text)
        assert status == 401
        async with Client(process.url.replace("//", "//alice:secret@")) as alice:
            assert await alice.check_present(key)


async def test_a_disk_that_hangs_is_said_in_time(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that has begun to wait for it cannot be called back."""
    monkeypatch.setattr("locklane_server.health.PATIENCE_SECONDS", 0.2)
    monkeypatch.setattr("locklane_server.health.FRESH_SECONDS", 0.0)
    async with serve() as there:
        goes_on = threading.Event()

        async def hangs() -> None:
            await there.workers.run(goes_on.wait, BOUND)

        monkeypatch.setattr(there.served.repository, "check", hangs)
        for _ in range(2):
            async with asyncio.timeout(BOUND / 2):
                assert (await there.server.health.answer()).status == 503
        assert there.workers.busy == 1
        goes_on.set()
        await eventually(lambda: not there.workers.busy)
        assert (await there.server.health.answer()).status == 200


def test_an_address_is_counted_by_what_one_client_has_of_them() -> None:
    assert network("192.0.2.7") == network("::ffff:192.0.2.7") == "192.0.2.7"
    assert network("2001:db8::1") == network("2001:db8::ffff:1%eth0") == "2001:db8::/64"
    assert network("2001:db8:0:1::1") != network("2001:db8::1")
    assert network("whatever: a proxy says") == "whatever: a proxy says"


async def test_a_directory_without_a_repository_is_not_well(tmp_path: Path) -> None:
    """The disk may not be mounted."""
    with Process(
        LOCKLANE, "serve", "--directory", tmp_path, "--wideopen", "--port", "0"
    ) as process:
        base = (await process.prints(r"annex\+(http://[^/]+)/"))[1]
        status, said = await health(f"{base}/health")
        assert (status, said["healthy"]) == (503, False)
