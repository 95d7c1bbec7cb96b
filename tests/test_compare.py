"""The benchmark as a user runs it, against real servers, with real git-annex."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from locklane_bench import compare
from locklane_bench.children import ChildError, LoadChild, ServerChild
from locklane_bench.command import command
from locklane_bench.gitannex import AnnexRepository
from locklane_bench.keys import KeysError, from_repository, made, put_into_store
from locklane_bench.orders import Order
from locklane_bench.results import (
    ClientCounts,
    Condition,
    Grid,
    RelayCounts,
    Results,
    Run,
    Settings,
    read,
)
from locklane_server.transports import TRANSPORTS

BIN = Path(sys.executable).parent


def locklane(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [BIN / "locklane", *arguments], cwd=cwd, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def annex(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A real git-annex repository with 12 files, two of them of one content."""
    top = tmp_path_factory.mktemp("annex")
    repository = AnnexRepository(top / "photos", top)
    repository.directory.mkdir()
    for number in range(12):
        name = repository.directory / f"a:b&c%{number}.txt"
        name.write_text(f"content {max(1, number)}\n")
    repository.make()
    yield repository.directory
    repository.make_removable()


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, Results]:
    """One small ``locklane compare``: what it printed, where it wrote, what it found."""
    where = tmp_path_factory.mktemp("compare")
    done = locklane(
        *["compare", "--files", "30", "--rounds", "2", "--concurrency", "1,4", "--tls", "no,yes"],
        *["--rtt", "0,4", "--report", "out"],
        cwd=where,
    )
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout, where / "out", read(where / "out")


def test_every_round_makes_every_timed_run_in_the_same_order(
    comparison: tuple[str, Path, Results],
) -> None:
    _, __, results = comparison
    timed = [run for run in results.runs if run.gives_times]
    made = [(run.condition, run.transport, run.via) for run in timed]
    assert made[: len(made) // 2] == made[len(made) // 2 :]
    assert len(set(made)) == len(made) // 2
    assert set(TRANSPORTS) == {run.transport for run in results.runs}
    assert [run.round for run in results.runs] == sorted(run.round for run in results.runs)


def test_every_file_is_dropped_in_every_run(comparison: tuple[str, Path, Results]) -> None:
    for run in comparison[2].runs:
        assert (run.files, run.failures, len(run.latency_ms)) == (30, 0, 30)


def test_each_transport_opens_exactly_the_connections_that_it_is_known_for(
    comparison: tuple[str, Path, Results],
) -> None:
    for run in comparison[2].runs:
        match run.transport:
            case "websocket":
                assert run.client.connections == 30
            case "multiplex":
                assert run.client.connections == 1
            case _:
                assert 1 <= run.client.connections <= run.condition.concurrency


def test_client_server_relay_and_kernel_count_the_same_for_every_transport_plain_and_tls(
    comparison: tuple[str, Path, Results],
) -> None:
    results = comparison[2]
    assert results.disagreements == []
    counted_by_all = set()
    for run in results.runs:
        counts = {run.client.connections}
        if run.condition.server != "bare":
            counts.add(run.server_connections)
        if run.via == "relay":
            assert run.relay is not None
            counts.add(run.relay.connections)
            assert run.relay.bytes_up > 0 < run.relay.bytes_down
        if "of its own" in results.machine["network"]:
            counts.add(run.kernel_connections)
        assert len(counts) == 1, run
        if run.via == "relay":
            counted_by_all.add((run.transport, run.condition.tls))
    assert counted_by_all == {(name, tls) for name in TRANSPORTS for tls in (False, True)}


def test_client_and_server_count_the_same_tls_handshakes_and_the_first_is_full(
    comparison: tuple[str, Path, Results],
) -> None:
    for run in comparison[2].runs:
        if run.condition.server == "bare":
            continue
        client, server = run.counted_handshakes().values()
        assert client == server
        assert sum(client) == (run.client.connections if run.condition.tls else 0)
        if run.condition.tls:
            assert client[0] >= 1
            # Those who come at the same time have no session yet to take up.
            assert client[0] <= run.condition.concurrency


def test_a_distance_costs_a_drop_its_round_trips(comparison: tuple[str, Path, Results]) -> None:
    """Never less: the relay holds back for as long as it was told."""
    least = {"longpoll": 2, "pipeline": 1, "websocket": 3, "multiplex": 2, "duplex": 2}
    for run in comparison[2].runs:
        if run.condition.rtt_ms:
            more = 1 if run.condition.tls and run.transport == "websocket" else 0
            assert min(run.latency_ms) >= (least[run.transport] + more) * run.condition.rtt_ms


def test_websockets_leave_sockets_in_time_wait_one_per_file(
    comparison: tuple[str, Path, Results],
) -> None:
    """Each run counts its own: sixty seconds of TIME_WAIT outlast many runs."""
    for run in comparison[2].runs:
        if run.via == "direct" and run.transport == "websocket" and not run.condition.tls:
            assert run.time_wait == 30


def test_the_real_git_annex_drops_over_few_connections_and_leaves_nothing_locked(
    comparison: tuple[str, Path, Results],
) -> None:
    results = comparison[2]
    assert results.annex_drops, results.missing
    for drop in results.annex_drops:
        assert (drop.files, drop.locks_taken, drop.locks_left) == (50, 50, 0)
        assert 1 <= drop.connections <= 5
        assert drop.requests == 100


def test_the_table_and_the_path_of_the_report_are_printed(
    comparison: tuple[str, Path, Results],
) -> None:
    printed, where, _ = comparison
    assert "Connections" in printed
    assert "per file" in printed
    assert "out/report.html" in printed
    assert {path.name for path in where.iterdir()} == {
        "main.svg",
        "report.html",
        "report.md",
        "results.json",
        "results.csv",
    }


def test_nothing_written_names_a_path_of_this_machine(
    comparison: tuple[str, Path, Results],
) -> None:
    for path in comparison[1].iterdir():
        text = path.read_text()
        assert str(Path.cwd()) not in text
        assert str(comparison[1]) not in text
        assert "/tmp" not in text


def test_a_server_elsewhere_is_measured_with_the_keys_of_a_git_annex_repository(
    annex: Path, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    put_into_store(from_repository(annex), store)
    with ServerChild.locklane(store, ["longpoll"]) as server:
        done = locklane(
            *[
                "compare",
                "--transports",
                "longpoll",
                "--files",
                "20",
                "--rounds",
                "1",
                "--concurrency",
                "2",
            ],
            *("--url", server.address.replace("://", "://alice:secret@")),
            *("--keys-from", str(annex), "--report", "out"),
            cwd=tmp_path,
        )
    assert done.returncode == 0, done.stderr
    results = read(tmp_path / "out")
    assert {run.condition.server for run in results.runs} == {
        "external"
    }  # no ceiling for one elsewhere
    assert all(run.failures == 0 for run in results.runs)
    assert results.settings.repository == "photos"
    assert "11 keys" in results.settings.keys_from
    for path in (tmp_path / "out").iterdir():
        assert "secret" not in path.read_text()


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        ("--transports carrier-pigeon", 2, "there are longpoll, pipeline, websocket"),
        ("--concurrency 0", 2, "whole numbers from 1"),
        ("--rtt 20ms", 2, "numbers from 0"),
        ("--proxy squid", 2, "there are none, caddy"),
        ("--preset full --rtt 5", 2, "is set by --preset full"),
        ("--preset quick --url annex+http://h/git-annex/U --keys-from .", 2, "--preset"),
        ("--url annex+http://127.0.0.1:1/git-annex/U", 2, "--keys-from"),
        ("--uuid U", 2, "goes with --url"),
        ("--keys-from .", 2, "no git repository"),
        ("--report /proc/nowhere", 2, "--report"),
    ],
)
def test_bad_usage_is_told_in_a_sentence(
    arguments: str, status: int, said: str, tmp_path: Path
) -> None:
    done = locklane("compare", *arguments.split(), cwd=tmp_path)
    assert done.returncode == status
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_server_that_is_not_there_is_told_in_a_sentence(annex: Path, tmp_path: Path) -> None:
    done = locklane(
        *["compare", "--url", "annex+http://127.0.0.1:1/git-annex/U", "--files", "3"],
        *("--keys-from", str(annex)),
        cwd=tmp_path,
    )
    assert done.returncode == 1
    assert "nothing could be dropped over longpoll" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_keys_of_a_repository_are_those_that_git_annex_finds(annex: Path) -> None:
    listed = AnnexRepository(annex, annex.parent).git("annex", "find", "--format=${key}\\n").split()
    assert [source.key.text for source in from_repository(annex)] == sorted(set(listed))
    assert len(from_repository(annex, 3)) == 3


def test_a_repository_without_content_is_refused(tmp_path: Path) -> None:
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    with pytest.raises(KeysError, match="holds no annexed content"):
        from_repository(tmp_path)


def test_with_a_rate_latency_counts_from_when_a_drop_was_due() -> None:
    """One user that needs 50 ms a drop, with one due every 10 ms, falls behind by 40 ms each."""
    with ServerChild.bare() as server, LoadChild() as load:
        order = Order(
            url=server.address,
            transport="longpoll",
            keys=[made(1)[0].key.text],
            files=10,
            concurrency=1,
            think_time_s=0.05,
            rate=100.0,
        )
        latency = load.carry_out(order).latency_ms
        unhurried = load.carry_out(replace(order, rate=None)).latency_ms
    assert latency == sorted(latency)
    assert latency[-1] >= 9 * 40 + 50
    assert max(unhurried) < latency[-1]


def test_a_failed_drop_is_counted_and_explained() -> None:
    with ServerChild.bare() as server, LoadChild() as load:
        order = Order(server.address, "websocket", [made(1)[0].key.text], files=3, concurrency=2)
        outcome = load.carry_out(order)
    assert outcome.latency_ms == []
    assert len(outcome.failures) == 3
    assert "websocket upgrade" in outcome.failures[0]


def test_an_order_that_cannot_be_carried_out_is_an_error_not_a_hang() -> None:
    with LoadChild() as load, pytest.raises(ChildError, match="no transport 'pigeon'"):
        load.carry_out(Order("annex+http://127.0.0.1:1/git-annex/U", "pigeon", ["K"], 1, 1))


def test_a_process_that_dies_says_what_it_said() -> None:
    with (
        pytest.raises(ChildError, match=r"locklane serve has ended with status 1(?s:.)*no store"),
        ServerChild.locklane(Path("/proc"), ["longpoll"]),
    ):
        pass


RUN = Run(
    condition=Condition(),
    transport="longpoll",
    via="relay",
    round=3,
    files=1,
    failures=0,
    wall_s=1.0,
    latency_ms=[1.0],
    client=ClientCounts(1, 2, 0, 3),
    server_connections=1,
    server_tls_full=0,
    server_tls_resumed=0,
    relay=RelayCounts(1, 1, 1),
    kernel_connections=1,
    client_cpu_ms=1.0,
    server_cpu_ms=1.0,
    server_peak_memory_kib=1,
    server_peak_descriptors=1,
    time_wait=0,
)


@pytest.mark.parametrize(
    "differing",
    [
        replace(RUN, server_connections=2),
        replace(RUN, kernel_connections=2),
        replace(RUN, relay=RelayCounts(2, 1, 1)),
        replace(RUN, client=ClientCounts(2, 2, 0, 3)),
        replace(RUN, client=ClientCounts(1, 2, 0, 3, tls_full=2)),
        replace(RUN, server_tls_resumed=2),
    ],
)
def test_a_count_that_differs_is_said(differing: Run) -> None:
    assert compare.disagreements(RUN) == []
    (said,) = compare.disagreements(differing)
    assert "Round 3" in said
    assert "2" in said


def test_counts_that_nobody_could_make_do_not_disagree() -> None:
    blind = replace(RUN, server_connections=None, kernel_connections=None, server_tls_full=None)
    assert compare.disagreements(blind) == []


def test_behind_a_proxy_the_servers_connections_are_the_proxys() -> None:
    behind = replace(RUN, condition=Condition(proxy="caddy"), server_connections=7)
    assert compare.disagreements(behind) == []


def test_the_command_in_a_report_is_one_that_runs() -> None:
    grid = Grid("matrix", ["longpoll"], [1, 8], [5], rtt_ms=[0.0, 20.0], think_time_s=[0.5])
    settings = Settings(None, ["longpoll"], [grid], 2, 10.0, None, "made", "photos")
    assert command(settings) == (
        "locklane compare --transports longpoll --rounds 2 --files 5 --concurrency 1,8 "
        "--think-time 0.5 --rtt 0,20 --tls no --proxy none --rate 10 --keys-from photos"
    )
    full = Settings("full", ["longpoll"], [grid], 5, None, None, "made", idle_holds=10)
    assert command(full) == (
        "locklane compare --preset full --transports longpoll --rounds 5 --idle-holds 10"
    )


LOCUSTFILE = Path(compare.__file__).with_name("locustfile.py")


def locust(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [BIN / "locust", "-f", LOCUSTFILE, "--headless", "-u", "2", "-r", "2", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("transport", list(TRANSPORTS))
def test_locust_runs_the_same_users_by_itself(transport: str, tmp_path: Path) -> None:
    sources = made(5)
    put_into_store(sources, tmp_path / "store")
    with ServerChild.locklane(tmp_path / "store", [transport]) as server:
        done = locust(
            *("--host", server.address, "--transport", transport, "-t", "2s", "--csv", "out"),
            *("--key", sources[0].key.text, "--key", sources[1].key.text, "--json"),
            cwd=tmp_path,
        )
        taken = server.counted("locklane_locks_taken_total")
        left = server.counted("locklane_locks")
    assert done.returncode == 0, done.stderr
    (stats,) = json.loads(done.stdout)
    assert stats["method"] == transport
    assert stats["num_failures"] == 0
    assert 0 < stats["num_requests"] <= taken
    assert left <= 2  # that the end of the time cut off, of which the retention takes care
    assert (tmp_path / "out_stats.csv").exists()


def test_locust_without_keys_is_told_what_to_give(tmp_path: Path) -> None:
    done = locust("--host", "annex+http://127.0.0.1:1/git-annex/U", "-t", "1s", cwd=tmp_path)
    assert done.returncode == 2
    assert "--keys-from" in done.stderr
    assert "Traceback" not in done.stderr
