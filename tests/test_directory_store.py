"""The store on disk: what is one and what is not, its UUID, and the modes of what is in it."""

from __future__ import annotations

import asyncio
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest
from conftest import (
    LOCKLANE,
    SOMEBODY,
    Process,
    Serve,
    ServerProcess,
    object_path,
    put,
    remove,
)
from kinds import key_of, partial_path

from locklane_client import Key
from locklane_server.repository import RepositoryError
from locklane_server.repository.directory import DirectoryRepository
from locklane_server.workers import Workers

# -- the store on disk -----------------------------------------------------------------------------


def test_two_processes_on_one_store_are_refused(store: Path, server_process: Any, key: Key) -> None:
    first: ServerProcess = server_process()
    with Process(LOCKLANE, "serve", "--store", store, "--wideopen", "--port", "0") as second:
        assert second.wait() == 1
        assert "another process serves" in second.output
        assert "Traceback" not in second.output
    assert first.running
    first.kill()
    assert server_process().url.rpartition("/")[2] == first.url.rpartition("/")[2]


@pytest.mark.parametrize("bare", [False, True])
def test_a_git_repository_is_no_store(tmp_path: Path, bare: bool) -> None:
    directory = tmp_path / "repository"
    options = ["--bare"] if bare else []
    subprocess.run(["git", "init", "-q", *options, directory], check=True)
    before = sorted(directory.iterdir())
    with Process(LOCKLANE, "serve", "--store", directory, "--wideopen", "--port", "0") as process:
        assert process.wait() == 1
    assert f"{directory} is a git repository" in process.output
    assert "Traceback" not in process.output
    assert sorted(directory.iterdir()) == before


@pytest.mark.parametrize("uuid", ["", "foo/bar", "a b", "../x", "[Zm9v]", "a\nb", "ä"])
def test_what_is_no_uuid_is_refused_before_the_store_is_made(uuid: str, tmp_path: Path) -> None:
    with pytest.raises(RepositoryError, match="no UUID"):
        DirectoryRepository.open(tmp_path / "new", Workers(), uuid=uuid)
    assert not (tmp_path / "new").exists()


def test_a_store_keeps_its_uuid(tmp_path: Path) -> None:
    def open_as(uuid: str | None) -> str:
        repository = DirectoryRepository.open(tmp_path / "new", Workers(), uuid=uuid)
        repository._retention.close()
        os.close(repository._serving)
        return repository.uuid

    assert open_as(SOMEBODY) == SOMEBODY
    assert open_as(None) == SOMEBODY
    with pytest.raises(RepositoryError, match=f"is repository {SOMEBODY}"):
        open_as("another")
    assert open_as(SOMEBODY) == SOMEBODY


async def test_what_git_annex_made_read_only_can_be_removed(serve: Serve, key: Key) -> None:
    async with serve() as there:
        path = object_path(there.store, key)
        path.chmod(0o444)
        path.parent.chmod(0o555)
        assert (await remove(there.url, key))["removed"]
        assert not path.parent.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become nobody; others were nobody")
def test_what_git_annex_made_read_only_can_be_removed_by_who_is_not_root() -> None:
    """Root is not kept out by the mode, so the test above proves nothing for it."""
    nobody = 65534
    with tempfile.TemporaryDirectory() as directory:
        store = Path(directory) / "store"
        key = put(store, b"content")
        path = object_path(store, key)
        path.chmod(0o444)
        path.parent.chmod(0o555)
        for each in (Path(directory), store, *store.rglob("*")):
            os.chown(each, nobody, nobody)
        os.seteuid(nobody)
        try:
            with pytest.raises(PermissionError):
                path.unlink()

            async def remove_it() -> None:
                repository = DirectoryRepository.open(store, Workers(), uuid="u")
                await repository.remove(key, before=None)
                await repository.aclose()

            asyncio.run(remove_it())
        finally:
            os.seteuid(0)
        assert not path.parent.exists()


def test_of_uploads_that_a_killed_server_left_only_those_stay_that_a_resume_uses(
    store: Path,
) -> None:
    """What has been made read-only, to be put into its place, can be gone on with."""
    content = b"what has come so far"
    begun, empty = key_of(content + b", and the rest"), key_of(b"nothing of it has come")
    unhashed = Key.parse("WORM-s100-m1--a file")
    for key, came in (begun, content), (empty, b""), (unhashed, content):
        path = partial_path(store, key)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(came)
        path.chmod(0o444)
    workers = Workers()
    opened = DirectoryRepository.open(store, workers)
    asyncio.run(opened.aclose())
    workers.close()
    path = partial_path(store, begun)
    assert list(path.parent.iterdir()) == [path]
    assert path.stat().st_mode & 0o200
