"""``kill -9`` at random moments under a mixed load: nobody is wronged, and nothing is left lying
about. ``make crash`` does it a hundred times; here it is done as often as there is time for."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import aftermath
import pytest
from annexes import Annex, Serving, annex, home, locklane
from annexwire import Api
from conftest import LOCKLANE, FakeClock, Process, ServerProcess, eventually, free_port
from crashing import Crashing
from kinds import open_repository

from locklane_client import Client, Key
from locklane_server.served import ServedRepository
from locklane_server.workers import Workers

__all__ = ["annex", "home", "locklane"]

KILLS = int(os.environ.get("LOCKLANE_KILLS", "0"))
"""Set it to have so many on each kind of repository; ``make crash`` does."""

SEED = int(os.environ.get("LOCKLANE_SEED", "20261122"))
"""Set it in the environment to repeat a run, or to make another."""

pytestmark = pytest.mark.timeout(240 + 15 * KILLS)


def say(text: str) -> None:
    """Seen with ``-s``, and where a test fails."""
    print(text, flush=True)  # noqa: T201


async def rest_of_uploads_is_used(crashing: Crashing, url: str, left: dict[Key, int]) -> None:
    """What is left of an upload is told to who asks, and an upload from there ends well."""
    api = Api(url)
    for key, size in left.items():
        assert size > 0, f"an empty file is left for {key}"
        status, answer = await asyncio.to_thread(api.post, "putoffset", key=key)
        assert (status, answer.get("offset")) == (200, size), f"{key}: {size} left, {answer}"
        rest = crashing.contents.files[key].read_bytes()[size:]
        status, answer = await asyncio.to_thread(api.put, key, rest, offset=size)
        assert (status, answer["stored"]) == (200, True), answer


async def locked_keys_stay(crashing: Crashing, url: str) -> None:
    """Whoever asks for their removal."""
    keys = [key for key in crashing.aside if crashing.promises.stays_locked(key, 60)]
    async with Client(url) as client:
        for key in keys:
            assert await client.check_present(key)
    api = Api(url)
    for key in keys:
        assert not (await asyncio.to_thread(api.remove, key))["removed"], key


async def test_a_git_annex_repository_comes_through_kills(
    annex: Annex, locklane: Serving, tmp_path: Path
) -> None:
    """fsck finds nothing wrong, no lock is lost before its time, the last copy never, and nothing
    is left that nobody uses."""
    say(f"LOCKLANE_SEED={SEED}")
    contents = {f"shared{number}": b"%d" % number * 20_000 for number in range(4)}
    keys = {name: annex.add(content, name) for name, content in contents.items()}
    port = str(free_port())
    url = f"annex+http://127.0.0.1:{port}/git-annex/{annex.uuid}"
    clone = annex.clone("clone", url)

    def start() -> Process:
        return annex.start(LOCKLANE, "serve", "--wideopen", "--port", port)

    crashing = Crashing(start, url, tmp_path, seed=SEED, clone=clone)
    for name, key in keys.items():
        crashing.share(name, key, contents[name])
    await crashing.run(KILLS or 10, say)
    say(f"{dict(sorted(crashing.counts.items()))}")

    journal = annex.git_directory / "annex/journal"
    server = locklane(annex)
    await eventually(lambda: not aftermath.files_below(journal))
    server.terminate()
    assert await server.ended() == 0

    own = annex.git_directory / "annex"
    found = aftermath.content_in(own / "objects")
    aftermath.content_is_right(crashing, found)
    aftermath.promises_are_kept(crashing, found, clone)
    aftermath.fsck_finds_nothing(annex, found)
    retained = aftermath.locks_end(own / "objects")
    left = aftermath.partials(crashing, own / "tmp", found)
    for name in ("journal", "othertmp", "locklane", "transfer", "bad"):
        assert aftermath.files_below(own / name) == []
    say(f"{len(found)} keys there, {len(retained)} retained, {len(left)} uploads to go on with")

    again = locklane(annex)
    await locked_keys_stay(crashing, again.url)
    await rest_of_uploads_is_used(crashing, again.url, left)
    assert aftermath.files_below(own / "tmp") == []
    for path in retained.values():  # ten minutes later
        path.write_text("1.00s")
    for name in retained:
        key = Key.from_file_name(name)
        assert (await asyncio.to_thread(again.api.remove, key))["removed"], key
    again.terminate()
    assert await again.ended() == 0
    assert "ERROR" not in again.output
    assert aftermath.locks_end(own / "objects") == {}


async def test_a_store_comes_through_kills(store: Path, clock: FakeClock, tmp_path: Path) -> None:
    """The same without git-annex: no lock is lost before its time, the last copy never, and nothing
    is left that nobody uses."""
    say(f"LOCKLANE_SEED={SEED}")
    port = str(free_port())
    uuid = (store / ".locklane/uuid").read_text().strip()
    url = f"annex+http://127.0.0.1:{port}/git-annex/{uuid}"
    files = tmp_path / "files"
    files.mkdir()

    def start() -> Process:
        return Process(LOCKLANE, "serve", "--store", store, "--wideopen", "--port", port)

    crashing = Crashing(start, url, files, seed=SEED)
    await crashing.run(KILLS or 5, say)
    say(f"{dict(sorted(crashing.counts.items()))}")

    with ServerProcess(store) as server:
        server.terminate()
        assert await server.ended() == 0
    found = aftermath.content_in(store)
    aftermath.content_is_right(crashing, found)
    aftermath.promises_are_kept(crashing, found)
    own = store / ".locklane"
    left = aftermath.partials(crashing, own / "partial", found)
    say(f"{len(found)} keys there, {len(left)} uploads to go on with")
    with ServerProcess(store) as server:
        await locked_keys_stay(crashing, server.url)
        await rest_of_uploads_is_used(crashing, server.url, left)
        server.terminate()
        assert await server.ended() == 0
    assert {path.name for path in aftermath.files_below(own)} == {
        "retention.sqlite",
        "serving",
        "uuid",
    }

    clock.advance(600)
    workers = Workers()
    served = ServedRepository(open_repository(store, workers, clock), clock=clock)
    await served.restore()
    for name in found:
        assert await served.remove(Key.from_file_name(name)) is None
    await served.aclose()
    workers.close()
