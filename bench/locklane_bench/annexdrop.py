"""The real ``git annex drop`` against the server: does git-annex itself find locks there that it
accepts, over how many connections, and is nothing left locked behind it?"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from locklane_bench.children import RelayChild, ServerChild
from locklane_bench.gitannex import AnnexRepository, GitAnnexError
from locklane_bench.keys import Source, from_repository, put_into_store
from locklane_bench.results import AnnexDrop
from locklane_client.address import Address


def measure(server: ServerChild, store: Path, files: int, jobs: int = 1) -> AnnexDrop:
    """Make a git-annex repository, copy its content to the store, and drop it all.

    :raises GitAnnexError: git-annex is not there, or did not drop them.
    """
    address = Address.parse(server.address)
    with (
        tempfile.TemporaryDirectory(prefix="locklane-annex-") as scratch,
        RelayChild(address.host, address.port) as relay,
    ):
        home = Path(scratch) / "home"
        home.mkdir()
        repository = AnnexRepository(Path(scratch) / "repository", home)
        try:
            repository.make()
            for number in range(files):
                name = repository.directory / f"file-{number:05}.txt"
                name.write_text(f"content of file {number}\n", encoding="utf-8")
            repository.add()
            put_into_store(_copied(from_repository(repository.directory)), store)
            make_remote(repository, f"annex+http://127.0.0.1:{relay.port}/git-annex/", address.uuid)
            _say_all_present(repository, address.uuid)
            locks = server.counted("locklane_locks_taken_total")
            before = relay.counts()
            started = time.perf_counter()
            repository.git("annex", "drop", f"--jobs={jobs}", ".")
            seconds = time.perf_counter() - started
            after = relay.counts()
            left = repository.git("annex", "find").splitlines()
            if left:
                raise GitAnnexError(f"git-annex did not drop {len(left)} of {files} files")
            return AnnexDrop(
                git_annex_version=repository.version(),
                files=files,
                jobs=jobs,
                seconds=seconds,
                connections=after.connections - before.connections,
                bytes_up=after.bytes_up - before.bytes_up,
                bytes_down=after.bytes_down - before.bytes_down,
                locks_taken=server.counted("locklane_locks_taken_total") - locks,
                locks_left=server.counted("locklane_locks"),
            )
        finally:
            repository.make_removable()


def _copied(sources: list[Source]) -> list[Source]:
    """With the content itself: the drop deletes the files that it came from."""
    return [
        Source(source.key, source.content.read_bytes())
        for source in sources
        if isinstance(source.content, Path)
    ]


def make_remote(repository: AnnexRepository, url: str, uuid: str) -> None:
    """Make a server the remote ``locklane`` of a repository, or move that remote to this address.

    :raises GitAnnexError: git refused.
    """
    for name, value in {
        "remote.locklane.url": url,
        "remote.locklane.annexUrl": url,
        "remote.locklane.annex-uuid": uuid,
        "remote.locklane.annex-ignore": "false",
        "remote.locklane.fetch": "+refs/heads/*:refs/remotes/locklane/*",
        "annex.security.allowed-ip-addresses": "all",
    }.items():
        repository.git("config", name, value)


def _say_all_present(repository: AnnexRepository, uuid: str) -> None:
    """Let git-annex take every file for present there."""
    keys = repository.git("annex", "find", "--format=${key}\\n").splitlines()
    present = "".join(f"{key} {uuid} 1\n" for key in keys)
    repository.git("annex", "setpresentkey", "--batch", stdin=present)
