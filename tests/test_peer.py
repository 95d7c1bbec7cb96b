"""The side-by-side comparison as a user runs it, against real servers with real git-annex; and its
arithmetic, on figures that are made up. No test depends on how fast anything is."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import eventually

from locklane_bench import procfs
from locklane_bench.children import Child, ChildError, ServerChild, python
from locklane_bench.peer import report, servers
from locklane_bench.peer.command import Size
from locklane_bench.peer.figures import (
    BARE,
    GROUPS,
    HASHING,
    NGINX,
    OURS,
    PEER,
    SLOWER,
    WRITING,
    figures,
    lines,
    size_words,
)
from locklane_bench.peer.repositories import Content, Repositories, locks_left
from locklane_bench.peer.results import PeerResults, PeerSettings, Sample, read
from locklane_bench.peer.runner import PeerLoad, command, steps
from locklane_bench.peer.servers import PeerServer
from locklane_bench.peer.tables import main_table
from locklane_bench.peer.tasks import LoadError, Task
from locklane_bench.peer.wording import cautions

BIN = Path(sys.executable).parent
FILES = 32


def locklane(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [BIN / "locklane", *arguments], cwd=cwd, capture_output=True, text=True, check=False
    )


# -- a whole comparison ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, PeerResults]:
    """One small ``locklane compare --peer git-annex``: what it printed, where it wrote, what it
    found."""
    where = tmp_path_factory.mktemp("peer")
    work = where / "work"
    work.mkdir()
    done = locklane(
        *["compare", "--peer", "git-annex", "--files", str(FILES), "--size", "300000"],
        *["--rounds", "1", "--work", "work", "--report", "out"],
        cwd=where,
    )
    assert done.returncode == 0, done.stderr + done.stdout
    assert list(work.iterdir()) == []
    return done.stdout, where / "out", read(where / "out")


def test_every_server_is_given_every_work(comparison: tuple[str, Path, PeerResults]) -> None:
    results = comparison[2]
    assert results.failures == []
    present = [*results.servers, HASHING, WRITING]
    wanted = [(each.work.name, each.server) for each in steps(results.settings, present)]
    assert [(sample.work, sample.server) for sample in results.samples] == wanted
    assert {OURS, PEER, BARE} <= set(results.servers)
    assert (NGINX in results.servers) == (results.missing == [])


def test_what_was_sent_was_answered(comparison: tuple[str, Path, PeerResults]) -> None:
    operations = {"locks": FILES, "checkpresent": 10 * FILES, "small-download": 4 * FILES}
    for sample in comparison[2].samples:
        assert sample.answers == sample.requests
        group = sample.work.partition("-")[0] if "download" not in sample.work else sample.work
        if group == "drop":
            assert (sample.operations, sample.requests) == (FILES, 0)
            continue
        assert sample.operations == operations.get(group, 1)
        per_operation = 2 if group == "locks" else 0 if sample.server in (HASHING, WRITING) else 1
        assert sample.requests == per_operation * sample.operations
        if "download" in sample.work or group == "upload":
            size = 10_000 if sample.work == "small-download" else 300_000
            assert sample.content_bytes == sample.operations * size


def test_servers_used_the_processor_and_left_nothing_locked(
    comparison: tuple[str, Path, PeerResults],
) -> None:
    results = comparison[2]
    assert results.locks_left == {OURS: 0, PEER: 0}
    for sample in results.samples:
        if sample.server in (HASHING, WRITING):
            assert sample.server_cpu_s is None
        else:
            assert sample.server_cpu_s is not None
            assert sample.server_cpu_s > 0


def test_the_raw_figures_are_those_of_the_table(
    comparison: tuple[str, Path, PeerResults],
) -> None:
    _, where, results = comparison
    text = (where / "report.md").read_text(encoding="utf-8")
    for row in main_table(lines(results)).rows:
        shown = [str(cell).replace(">", r"\>") for cell in row]
        assert f"| {' | '.join(shown)} |" in text
    raw = json.loads((where / "results.json").read_text(encoding="utf-8"))
    with (where / "results.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == len(raw["samples"]) == len(results.samples)
    [locks] = [
        each for each in raw["samples"] if (each["work"], each["server"]) == ("locks-1", OURS)
    ]
    [line] = [line for line in lines(results) if line.figure.work == "locks-1"]
    assert line.ours is not None
    assert line.ours.median == pytest.approx(locks["operations"] / locks["wall_s"])


def test_the_report_has_what_repeats_it_and_no_path_of_the_machine(
    comparison: tuple[str, Path, PeerResults],
) -> None:
    said, where, results = comparison
    assert "of 12 targets" in said
    assert "out/report.html" in said
    words = f"locklane compare --peer git-annex --files {FILES} --size 300000 --rounds 1"
    assert results.command == words
    for name in ("report.html", "report.md"):
        text = (where / name).read_text(encoding="utf-8")
        assert results.command in text
        assert f"--jobs={servers.JOBS}" in text
        assert not re.search(r"/(home|root|tmp|work|Users)/", text)
    assert {"git-annex", "locklane", "uvloop", "httptools"} <= set(results.versions)
    assert results.machine["file system"] != "unknown"


def test_results_are_read_back_as_they_were(comparison: tuple[str, Path, PeerResults]) -> None:
    results = comparison[2]
    assert PeerResults.from_json(results.to_json()) == results
    with pytest.raises(ValueError, match="not a results file of format peer-2"):
        PeerResults.from_json('{"format": 1}')
    with pytest.raises(ValueError, match="not a whole results file"):
        PeerResults.from_json('{"format": "peer-2", "settings": {}}')


# -- the pieces ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[Repositories, Content]]:
    """The repositories of a comparison."""
    top = tmp_path_factory.mktemp("repositories")
    repositories = Repositories(top)
    content = repositories.make(8, 1000, 5000)
    yield repositories, content
    subprocess.run(["chmod", "-R", "u+w", str(top)], check=True)


@pytest.fixture(scope="module", params=[OURS, PEER])
def served(
    request: pytest.FixtureRequest, made: tuple[Repositories, Content]
) -> Iterator[tuple[PeerServer, Path]]:
    """Each of the two servers, and the repository that it serves."""
    repository = made[0].copy(f"copy-{request.param}")
    start = servers.locklane if request.param == OURS else servers.p2phttp
    with start(repository) as server:
        yield server, repository.directory


@pytest.fixture(scope="module")
def load() -> Iterator[PeerLoad]:
    with PeerLoad() as process:
        yield process


def task(server: PeerServer, **other: object) -> Task:
    return Task(port=server.port, base=server.base, **other)  # type: ignore[arg-type]


def test_a_copy_shares_content_and_nothing_else(made: tuple[Repositories, Content]) -> None:
    repositories, content = made
    copy = repositories.copy("a-copy")
    for key, path in content.objects.items():
        assert (copy.directory / ".git/annex/objects" / path).samefile(repositories.objects / path)
        assert key in path
    config = copy.directory / ".git/config"
    assert not config.samefile(repositories.objects.parent.parent / "config")
    assert copy.uuid() == content.uuid
    repositories.remove(copy)
    assert not copy.directory.exists()
    assert all((repositories.objects / path).exists() for path in content.objects.values())


async def test_lock_cycles_leave_keys_that_can_be_removed(
    served: tuple[PeerServer, Path], made: tuple[Repositories, Content], load: PeerLoad
) -> None:
    server, directory = served
    keys = made[1].small
    done = load.carry_out(task(server, kind="locks", keys=keys, operations=8, connections=4))
    assert (done.operations, done.requests, done.answers) == (8, 16, 16)
    objects = directory / ".git/annex/objects"
    await eventually(lambda: not list(objects.glob("*/*/*/*.rtm")))  # it answers before it tidies
    key = keys[0]
    done = load.carry_out(task(server, kind="remove", keys=[key]))
    assert (done.operations, done.answers) == (1, 1)
    with pytest.raises(LoadError, match=r"lockcontent did not lock .*'locked': False"):
        load.carry_out(task(server, kind="locks", keys=[key]))
    with pytest.raises(LoadError, match="checkpresent did not find"):
        load.carry_out(task(server, kind="checkpresent", keys=[key]))


def test_an_upload_is_the_content_and_is_removed_again(
    served: tuple[PeerServer, Path], made: tuple[Repositories, Content], load: PeerLoad
) -> None:
    server, (repositories, content) = served[0], made
    source = str(repositories.objects / content.objects[content.large])
    upload = task(server, kind="upload", keys=[content.absent], size=5000, file=source)
    for _ in range(2):
        assert load.carry_out(upload).content_bytes == 5000
        verify = task(
            server,
            kind="verify",
            size=5000,
            sha256=content.large_sha256,
            paths=[server.download_path(content.absent, content)],
        )
        load.carry_out(verify)
        load.carry_out(task(server, kind="remove", keys=[content.absent]))
        with pytest.raises(LoadError, match="which are not the 5000 bytes of the content"):
            load.carry_out(verify)


def test_a_download_that_is_not_the_content_is_not_counted(
    served: tuple[PeerServer, Path], made: tuple[Repositories, Content], load: PeerLoad
) -> None:
    server, content = served[0], made[1]
    paths = [server.download_path(content.large, content)]
    for kind in ("downloads", "download", "verify"):
        with pytest.raises(LoadError, match="a download"):
            load.carry_out(task(server, kind=kind, paths=paths, size=50_000))
    done = load.carry_out(task(server, kind="downloads", paths=paths, size=5000, operations=6))
    assert (done.operations, done.content_bytes) == (6, 30_000)


def test_a_refused_request_says_what_the_server_said(
    served: tuple[PeerServer, Path], load: PeerLoad
) -> None:
    bad = task(served[0], kind="checkpresent", keys=["nothing"])
    with pytest.raises(LoadError, match=r"checkpresent was answered with status 400: ."):
        load.carry_out(bad)


def test_nobody_there_is_said(load: PeerLoad) -> None:
    port = servers.free_port()
    for kind in ("locks", "download", "upload"):
        nobody = Task(kind=kind, port=port, keys=["k"], paths=["/"], file="/dev/null")  # type: ignore[arg-type]
        with pytest.raises(LoadError, match=r"cannot connect|broke off"):
            load.carry_out(nobody)


def test_a_server_that_ends_says_why(made: tuple[Repositories, Content]) -> None:
    failing = Child(
        [sys.executable, "-c", "raise SystemExit('no such luck')"], "the failing server"
    )
    server = servers.Silent(failing, "shown", servers.free_port(), "u")
    with pytest.raises(
        ChildError, match=r"(?s)the failing server has ended with status 1.*no such luck"
    ):
        server.__enter__()


def test_processor_time_counts_children_that_run_and_that_have_ended() -> None:
    spin = "import time\nwhile time.process_time() < 0.3: pass\n"
    child = (
        f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {spin!r}])\n"
        f"other = subprocess.Popen([sys.executable, '-c', {spin!r} + 'input()'])\n"
        "print('ready', flush=True)\nother.wait()\n"
    )
    with Child([sys.executable, "-c", child], "spinner") as spinner:
        spinner.read_line()
        for _ in range(2000):
            if procfs.tree_cpu_seconds(spinner.pid) >= 0.55:
                break
        assert procfs.tree_cpu_seconds(spinner.pid) >= 0.55 > procfs.cpu_seconds(spinner.pid)
    with pytest.raises(ProcessLookupError):
        procfs.tree_cpu_seconds(spinner.pid)


def test_a_broken_server_fails_the_comparison_with_its_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from locklane_bench.peer import runner

    def broken(_: object) -> PeerServer:
        return servers.Announced(ServerChild(python("locklane_client", "lock"), "broken"), "broken")

    monkeypatch.setattr(runner.servers, "locklane", broken)
    settings = some_settings(files=2, size=1000, only=["locks"])
    with pytest.raises(ChildError, match=r"(?s)broken has ended with status 2.*Usage"):
        runner.compare(settings, tmp_path, lambda *_: None, own_network=False)


# -- the arithmetic --------------------------------------------------------------------------------


def some_settings(**changes: object) -> PeerSettings:
    usual = PeerSettings("git-annex", 5, 1000, 1 << 30, 10_000, list(GROUPS))
    return replace(usual, **changes)  # type: ignore[arg-type]


def a_sample(work: str, server: str, number: int, wall_s: float, **other: object) -> Sample:
    usual = Sample(work, server, number, 1000, 2000, 2000, 10**9, wall_s, 0.1, 0.5)
    return replace(usual, **other)  # type: ignore[arg-type]


def some_results(samples: list[Sample], **changes: object) -> PeerResults:
    usual = PeerResults(
        started="2026-11-22T08:40:12+00:00",
        duration_s=12.5,
        command="locklane compare --peer git-annex",
        settings=some_settings(),
        machine={"processor": "A & B <fast>"},
        versions={"locklane": "0.1.0"},
        servers={OURS: "locklane serve"},
        samples=samples,
    )
    return replace(usual, **changes)  # type: ignore[arg-type]


def test_a_ratio_is_worked_out_within_a_round() -> None:
    walls = {1: (1.0, 3.0), 2: (2.0, 4.0), 3: (1.0, 5.0)}
    samples = [
        a_sample("locks-4", server, number, wall)
        for number, both in walls.items()
        for server, wall in zip((OURS, PEER), both, strict=True)
    ]
    [line] = [line for line in lines(some_results(samples)) if line.figure.work == "locks-4"]
    assert line.by_round == [3.0, 2.0, 5.0]
    assert line.ratio is not None
    assert (line.ratio.median, line.ratio.low, line.ratio.high) == (3.0, 2.0, 5.0)
    assert line.ours is not None
    assert line.ours.median == 1000
    assert line.reached is True


@pytest.mark.parametrize(
    ("ours", "theirs", "time_reached", "cpu_reached"),
    [(1.0, 1.0, False, False), (0.9, 1.0, True, False), (0.5, 1.0, True, True)],
)
def test_less_time_is_better_and_as_much_is_not_less(
    ours: float, theirs: float, time_reached: bool, cpu_reached: bool
) -> None:
    samples = [
        a_sample("drop-1", OURS, 1, ours, server_cpu_s=ours),
        a_sample("drop-1", PEER, 1, theirs, server_cpu_s=theirs),
    ]
    found = [line for line in lines(some_results(samples)) if line.figure.work == "drop-1"]
    assert [line.reached for line in found] == [time_reached, cpu_reached]


def test_an_upload_is_held_against_the_slower_of_what_it_needs() -> None:
    samples = [
        a_sample("upload", OURS, 1, 2.5),
        a_sample("upload", HASHING, 1, 1.0),
        a_sample("upload", WRITING, 1, 2.0),
    ]
    [line] = [line for line in lines(some_results(samples)) if line.figure.against == SLOWER]
    assert line.theirs is not None
    assert line.theirs.median == pytest.approx(0.5)
    assert line.ratio is not None
    assert line.ratio.median == pytest.approx(0.8)
    assert line.reached is (line.ratio.median >= 0.8)


def test_a_missed_target_a_failure_and_a_lock_that_was_left_are_said() -> None:
    samples = [a_sample("locks-1", OURS, 1, 1.0), a_sample("locks-1", PEER, 1, 1.5)]
    results = some_results(
        samples, failures=["upload, locklane, round 1: <no>"], locks_left={OURS: 2, PEER: 0}
    )
    page, text = report.render(results)
    for shown in (page, text):
        assert "Locklane reached 0 of 12 targets." in shown
        assert (
            "Missed: Lock cycles, 1 at once against p2phttp was 1.50 times as good; at least 2"
            in shown
        )
        assert "Not measured: Lock cycles, 4 at once against p2phttp" in shown
        assert "2 files of content locks were left in the repository of locklane" in shown
    assert "&lt;no&gt;" in page
    assert "A &amp; B &lt;fast&gt;" in page


def test_a_reader_is_told_when_writing_alone_is_unsteady() -> None:
    """A ratio to it says little then."""
    for last, told in ((1.4, False), (3.0, True)):
        samples = [a_sample("upload", WRITING, n, wall) for n, wall in enumerate((1.0, 1.2, last))]
        said = " ".join(cautions(some_results(samples), []))
        assert ("took from 1.00 to 3.00 s" in said) == told


def test_a_report_of_nothing_is_one() -> None:
    page, text = report.render(some_results([]))
    assert "reached 0 of 12" in page
    assert "not measured" in text


def test_the_order_is_interleaved() -> None:
    order = list(steps(some_settings(rounds=3), [OURS, PEER]))
    assert [step.round for step in order] == sorted(step.round for step in order)
    assert [step.server for step in order] == [OURS, PEER] * (len(order) // 2)
    assert {step.round for step in order} == {1, 2, 3}


def test_the_command_repeats_what_was_asked_for() -> None:
    assert command(some_settings()) == (
        "locklane compare --peer git-annex --files 1000 --size 1GiB --rounds 5"
    )
    asked = some_settings(rounds=2, size=1_234_567, only=["drop"])
    assert command(asked) == (
        "locklane compare --peer git-annex --files 1000 --size 1234567 --rounds 2 --only drop"
    )
    assert len(figures(asked)) == 4


@pytest.mark.parametrize("size", [1, 9_999, 10_000, 1 << 20, 1 << 30, 3 << 30, 1_234_567])
def test_a_size_is_written_and_read(size: int) -> None:
    written = command(some_settings(size=size)).split("--size ")[1].split(" --rounds")[0]
    assert Size().convert(written, None, None) == size
    assert size_words(size)


# -- the command line ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["--peer", "git-annex", "--transports", "longpoll"],
            "--transports does not go with --peer",
        ),
        (["--peer", "git-annex", "--think-time", "1"], "--think-time does not go with --peer"),
        (["--size", "1MiB"], "--size goes with --peer"),
        (["--only", "drop"], "--only goes with --peer"),
        (["--peer", "git-annex", "--only", "lunch"], "no figure 'lunch'"),
        (["--peer", "git-annex", "--size", "big"], "write a number of bytes"),
        (["--peer", "git-annex", "--size", "90000000GiB"], "another directory with --work"),
    ],
)
def test_what_cannot_be_asked_for_is_refused(
    arguments: list[str], said: str, tmp_path: Path
) -> None:
    done = locklane("compare", *arguments, cwd=tmp_path)
    assert done.returncode != 0
    assert said in done.stderr
    assert not any(path.is_file() for path in tmp_path.rglob("*"))


def test_locks_that_are_left_are_seen(made: tuple[Repositories, Content]) -> None:
    repositories, content = made
    copy = repositories.copy("locked")
    assert locks_left(copy) == 0
    holder = (copy.directory / ".git/annex/objects" / content.objects[content.large]).parent
    holder.chmod(0o755)
    (holder / f"{content.large}.lck").touch()
    assert locks_left(copy) == 1
    repositories.remove(copy)
