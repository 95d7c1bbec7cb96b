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
from locklane_bench.gitannex import AnnexRepository
from locklane_bench.keys import KeysError, from_repository, made, put_into_store
from locklane_bench.orders import Order
from locklane_bench.results import ClientCounts, RelayCounts, Results, Run, Settings, read

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
        *["compare", "--files", "30", "--rounds", "2", "--concurrency", "1,4", "--report", "out"],
        cwd=where,
    )
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout, where / "out", read(where / "out")


def test_every_round_makes_every_run_in_the_same_order(
    comparison: tuple[str, Path, Results],
) -> None:
    _, __, results = comparison
    made = [(run.server, run.transport, run.concurrency, run.via) for run in results.runs]
    assert made[: len(made) // 2] == made[len(made) // 2 :]
    assert len(set(made)) == len(made) // 2
    assert {"longpoll", "websocket"} == {run.transport for run in results.runs}
    assert [run.round for run in results.runs] == sorted(run.round for run in results.runs)


def test_every_file_is_dropped_in_every_run(comparison: tuple[str, Path, Results]) -> None:
    for run in comparison[2].runs:
        assert (run.files, run.failures, len(run.latency_ms)) == (30, 0, 30)


def test_a_websocket_costs_exactly_one_connection_per_file_and_longpoll_one_per_user(
    comparison: tuple[str, Path, Results],
) -> None:
    for run in comparison[2].runs:
        if run.transport == "websocket":
            assert run.client.connections == 30
        else:
            assert 1 <= run.client.connections <= run.concurrency


def test_client_server_relay_and_kernel_count_the_same(
    comparison: tuple[str, Path, Results],
) -> None:
    results = comparison[2]
    assert results.disagreements == []
    for run in results.runs:
        counts = {run.client.connections}
        if run.server != "bare":
            counts.add(run.server_connections)
        if run.via == "relay":
            assert run.relay is not None
            counts.add(run.relay.connections)
            assert run.relay.bytes_up > 0 < run.relay.bytes_down
        if "of its own" in results.machine["network"]:
            counts.add(run.kernel_connections)
        assert len(counts) == 1, run


def test_websockets_leave_sockets_in_time_wait_one_per_file(
    comparison: tuple[str, Path, Results],
) -> None:
    """Each run counts its own: sixty seconds of TIME_WAIT outlast many runs."""
    for run in comparison[2].runs:
        if run.via == "direct" and run.transport == "websocket":
            assert run.time_wait == 30


def test_the_real_git_annex_drops_over_few_connections_and_leaves_nothing_locked(
    comparison: tuple[str, Path, Results],
) -> None:
    drop = comparison[2].annex_drop
    assert drop is not None, comparison[2].annex_drop_missing
    assert (drop.files, drop.locks_taken, drop.locks_left) == (50, 50, 0)
    assert 1 <= drop.connections <= 5


def test_the_table_and_the_path_of_the_report_are_printed(
    comparison: tuple[str, Path, Results],
) -> None:
    printed, where, _ = comparison
    assert "Connections" in printed
    assert "per file" in printed
    assert "out/report.html" in printed
    assert {path.name for path in where.iterdir()} == {
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
    assert {run.server for run in results.runs} == {"external"}  # no ceiling for one elsewhere
    assert all(run.failures == 0 for run in results.runs)
    assert results.settings.repository == "photos"
    assert "11 keys" in results.settings.keys_from
    for path in (tmp_path / "out").iterdir():
        assert "secret" not in path.read_text()


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        ("--transports carrier-pigeon", 2, "there are longpoll, websocket"),
        ("--concurrency 0", 2, "whole numbers from 1"),
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
    server="locklane",
    transport="longpoll",
    concurrency=1,
    via="relay",
    round=3,
    files=1,
    failures=0,
    wall_s=1.0,
    latency_ms=[1.0],
    client=ClientCounts(1, 2, 0, 3),
    server_connections=1,
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
    ],
)
def test_a_count_that_differs_is_said(differing: Run) -> None:
    assert compare.disagreement(RUN) is None
    said = compare.disagreement(differing)
    assert said is not None
    assert "Round 3" in said
    assert "2" in said


def test_counts_that_nobody_could_make_do_not_disagree() -> None:
    assert (
        compare.disagreement(replace(RUN, server_connections=None, kernel_connections=None)) is None
    )


def test_the_command_in_a_report_is_one_that_runs() -> None:
    settings = Settings(["longpoll"], 5, [1, 8], 2, 0.5, 10.0, None, "made", "photos")
    words = compare.command(settings)
    assert words == (
        "locklane compare --transports longpoll --files 5 --concurrency 1,8 --rounds 2 "
        "--think-time 0.5 --rate 10 --keys-from photos"
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


@pytest.mark.parametrize("transport", ["longpoll", "websocket"])
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
