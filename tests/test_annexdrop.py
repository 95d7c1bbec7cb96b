"""The real ``git annex drop`` against each server, and what is counted of it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from locklane_bench import annexdrop
from locklane_bench.annexdrop import ANNEX, PEER, SERVERS, STORE, AnnexDrops, Step
from locklane_bench.gitannex import GitAnnexError

FILES = 5


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("drops")


@pytest.fixture(scope="module")
def drops(directory: Path) -> Iterator[AnnexDrops]:
    with AnnexDrops(directory, FILES) as drops:
        yield drops


def test_each_round_makes_every_drop_once_with_the_servers_next_to_each_other() -> None:
    steps = AnnexDrops(Path("unused"), FILES, [STORE, PEER]).steps(rounds=2, jobs=[1, 4])
    once = [(STORE, 1), (PEER, 1), (STORE, 4), (PEER, 4)]
    assert [(step.server, step.jobs) for step in steps] == once * 2
    assert [step.round for step in steps] == [1] * 4 + [2] * 4


def test_a_server_that_there_is_not_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(ValueError, match="'nginx'; there are locklane, locklane-annex, p2phttp"):
        AnnexDrops(Path("unused"), FILES, [STORE, "nginx"])


@pytest.mark.parametrize("jobs", [1, 4])
@pytest.mark.parametrize("server", SERVERS)
def test_git_annex_drops_all_and_leaves_no_lock(drops: AnnexDrops, server: str, jobs: int) -> None:
    drop = drops.run(Step(server, jobs, round=3))
    assert (drop.server, drop.jobs, drop.round, drop.files) == (server, jobs, 3, FILES)
    assert drop.locks_left == 0
    assert drop.locks_taken == (FILES if server == STORE else None)
    # One lockcontent and one keeplocked for each file, over connections that are used again.
    assert drop.requests == 2 * FILES
    assert 1 <= drop.connections <= (1 if jobs == 1 else 2 * FILES)
    assert drop.bytes_up > 100 * drop.requests
    assert drop.bytes_down > 50 * drop.requests
    assert drop.seconds > 0
    assert drop.git_annex_version.startswith("10.")


def test_locks_that_stay_are_counted(
    drops: AnnexDrops, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(annexdrop, "SETTLE_SECONDS", 0.5)
    served = directory / ANNEX / ".git/annex/objects"
    of_a_key = next(path.parent for path in served.glob("*/*/*/*"))
    of_a_key.chmod(0o755)
    left = of_a_key / "another.lck"
    left.touch()
    try:
        assert drops.run(Step(ANNEX, 1, 1)).locks_left == 1
    finally:
        left.unlink()


def test_content_that_the_server_does_not_have_is_not_dropped_and_that_is_an_error(
    tmp_path: Path,
) -> None:
    with AnnexDrops(tmp_path, FILES, [STORE]) as drops:
        (step, *_) = drops.steps(rounds=1)
        objects = list((tmp_path / "store").glob("[0-9a-f]*"))
        hidden = [path.rename(tmp_path / f"hidden-{path.name}") for path in objects]
        with pytest.raises(GitAnnexError, match="git annex"):
            drops.run(step)
        for path, place in zip(hidden, objects, strict=True):
            path.rename(place)
        assert drops.run(step).locks_taken == FILES, "the failure spoilt what came after it"


def test_nothing_is_left_that_cannot_be_removed(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    with AnnexDrops(tmp_path / "work", 1, [ANNEX]) as drops:
        drops.run(Step(ANNEX, 1, 1))
        assert not (tmp_path / "work" / "client").exists()
    assert all(path.stat().st_mode & 0o200 for path in (tmp_path / "work").rglob("*/"))
    shutil.rmtree(tmp_path / "work")
