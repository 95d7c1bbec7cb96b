"""A server is killed before each single change that an upload or a removal makes on the disk: the
next one puts the repository in order before it serves."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest
from aftermath import files_below
from conftest import Process
from kinds import git, key_of, object_path, partial_path

from locklane_client import Key
from locklane_server.repository.annex import program
from locklane_server.repository.annex.locationlog import LocationLog
from locklane_server.repository.annex.repository import AnnexRepository
from locklane_server.workers import Workers

CONTENT = "what is on its way, or is being removed\n" * 50
HASHED = key_of(CONTENT.encode())
UNHASHED = Key.parse(f"WORM-s{len(CONTENT)}-m1--a file")


@pytest.fixture
def no_commits(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is in the journal counts. To have it committed each time takes longer than all else."""

    async def commit(_: Path) -> None:
        pass

    monkeypatch.setattr(program, "commit_journal", commit)


async def in_order_again(repository: Path, key: Key) -> bool:
    """Start, which puts it in order, and stop; returns whether the content is there."""
    workers = Workers()
    opened = AnnexRepository.open(repository, workers)
    await opened.retained()
    await opened.aclose()
    workers.close()
    log = LocationLog(repository / ".git", opened.uuid)
    here, partial = object_path(repository, key), partial_path(repository, key)
    assert log.says_here(key) == here.exists()
    log.close()
    if here.exists():
        assert here.read_text() == CONTENT
        assert here.stat().st_mode & 0o222 == 0
    else:
        assert files_below(here.parent) == []
    own = repository / ".git/annex"
    left = [partial] if not here.exists() and key == HASHED and partial.exists() else []
    assert (
        files_below(*(own / name for name in ("tmp", "othertmp", "locklane", "transfer"))) == left
    )
    assert all(path.stat().st_size for path in left)
    return here.exists()


@pytest.mark.parametrize(
    ("operation", "key"),
    [("upload", HASHED), ("upload", UNHASHED), ("remove", HASHED)],
    ids=["upload", "upload of what cannot be verified", "removal"],
)
@pytest.mark.usefixtures("no_commits")
async def test_whatever_the_last_change_of_a_server_was_the_next_puts_things_in_order(
    annex_template: Path, tmp_path: Path, operation: str, key: Key
) -> None:
    """The records say what is there, and nothing is left but what a resumed upload uses."""
    template, copies = tmp_path / "template", tmp_path / "copies"
    git(tmp_path, "clone", "-q", str(annex_template), str(template))
    git(template, "annex", "init", "-q", "here")
    if operation == "remove":
        (tmp_path / "file").write_text(CONTENT)
        git(template, "annex", "setkey", key.text, str(tmp_path / "file"))
    copies.mkdir()
    dying = Path(__file__).with_name("dying.py")
    with Process(sys.executable, dying, template, copies, operation, key.text, CONTENT) as process:
        assert await asyncio.to_thread(process.wait, 60) == 0, process.output
    count = int(process.output)
    assert count > 10
    there = [await in_order_again(copies / str(number), key) for number in range(count)]
    assert there == sorted(there, reverse=operation == "remove")  # done, from some change on
    assert {True, False} == set(there)
