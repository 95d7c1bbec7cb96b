"""Where content is gets known: to other clones, soon, in few commits, whatever ends the server."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from annexes import Annex, Serving, annex, either, home, locklane
from conftest import key_of

from locklane_client.key import Key

__all__ = ["annex", "either", "home", "locklane"]

BURST = 200
SOON = 10.0
"""Seconds after the last upload within which a clone that fetches learns of it."""


def commits(annex: Annex) -> int:
    return int(annex.git("rev-list", "--count", "refs/heads/git-annex"))


def journal(annex: Annex) -> set[str]:
    """Changes that are not committed."""
    directory = annex.git_directory / "annex/journal"
    return {path.name for path in directory.iterdir()} if directory.is_dir() else set()


def contents(count: int, what: str = "") -> dict[Key, bytes]:
    every = (f"content {what}{number}\n".encode() for number in range(count))
    return {key_of(content, ".dat"): content for content in every}


def told_on_branch(clone: Annex, annex: Annex) -> set[str]:
    """The keys that are in a repository by what its own branch says, freshly fetched."""
    clone.git("fetch", "-q", "origin")
    found = set()
    listed = clone.git("grep", "-E", "-l", f"^[0-9.]+s 1 {annex.uuid}$", "origin/git-annex")
    for line in listed.splitlines():
        name = line.rpartition("/")[2]
        if name.endswith(".log"):
            found.add(Key.from_file_name(name.removesuffix(".log")).text)
    return found


def test_a_burst_of_uploads_is_known_soon_and_in_a_few_commits(
    either: Annex, locklane: Serving
) -> None:
    """Two hundred uploads, eight at a time: within ten seconds of the last a clone has them all,
    without anybody having run git-annex in the repository."""
    clone = Annex(either.home, "clone", origin=either)
    server = locklane(either)
    before = commits(either)
    every = contents(BURST)
    with ThreadPoolExecutor(8) as pool:
        statuses = {
            answer[0] for answer in pool.map(lambda one: server.api.put(*one), every.items())
        }
    last = time.monotonic()
    assert statuses == {200}
    assert journal(either), "each was committed by itself"
    expected = {key.text for key in every}
    while journal(either):
        assert time.monotonic() - last < SOON
        time.sleep(0.1)
    assert told_on_branch(clone, either) == expected
    assert time.monotonic() - last < SOON + 5  # the fetch takes time too
    assert commits(either) - before <= 8
    assert clone.recorded_in(either.uuid) == expected


def test_uploads_that_do_not_end_are_known_before_they_do(annex: Annex, locklane: Serving) -> None:
    """One that follows the other does not put off the commit for ever."""
    server = locklane(annex)
    before = commits(annex)
    begun = time.monotonic()
    done = 0
    for key, content in contents(2000).items():
        assert server.api.put(key, content)[0] == 200
        done += 1
        if commits_if_due(annex, done) > before:
            break
        time.sleep(0.02)
    assert time.monotonic() - begun < SOON
    assert done > 10


def commits_if_due(annex: Annex, done: int) -> int:
    """Looked at now and then."""
    return commits(annex) if done % 10 == 0 else 0


@pytest.mark.parametrize("how", ["terminate", "interrupt"])
def test_a_server_that_is_stopped_commits_first(annex: Annex, locklane: Serving, how: str) -> None:
    """Uploads and removals of its last second."""
    server = locklane(annex)
    before = commits(annex)
    stored, removed = contents(10), contents(10, "other ")
    for key, content in {**stored, **removed}.items():
        assert server.api.put(key, content)[0] == 200
    for key in removed:
        assert server.api.remove(key)["removed"]
    assert journal(annex)
    getattr(server, how)()
    assert server.wait() == 0
    assert not journal(annex)
    assert 1 <= commits(annex) - before <= 2
    clone = annex.clone("clone")
    assert told_on_branch(clone, annex) == {key.text for key in stored}


def test_what_a_killed_server_left_is_committed_by_the_next(
    annex: Annex, locklane: Serving
) -> None:
    """By itself, some seconds after its start: nobody has to upload anything, or run git-annex."""
    every = contents(20)
    first = locklane(annex)
    for key, content in every.items():
        assert first.api.put(key, content)[0] == 200
    first.kill()
    left = journal(annex)
    assert len(left) == len(every)
    locklane(annex)
    begun = time.monotonic()
    while journal(annex):
        assert time.monotonic() - begun < SOON
        time.sleep(0.1)
    clone = annex.clone("clone")
    assert told_on_branch(clone, annex) == {key.text for key in every}


def test_nothing_is_committed_where_nothing_changed(annex: Annex, locklane: Serving) -> None:
    """Downloads, locks and looks leave the branch as it is; so does what is there already."""
    key = annex.add(b"content")
    before = commits(annex)
    server = locklane(annex)
    assert server.api.get(key)[0] == 200
    server.api.unlock(server.api.lock(key))
    assert server.api.put(key, b"content")[0] == 200
    assert server.api.remove(key_of(b"nobody ever stored this"))["removed"]
    server.terminate()
    assert server.wait() == 0
    assert commits(annex) == before


def test_records_of_git_annex_and_ours_do_not_undo_each_other(
    annex: Annex, locklane: Serving
) -> None:
    """Of many keys that git-annex and our server take turns with, and of clones that are merged
    meanwhile, the last word counts."""
    every = contents(12)
    server = locklane(annex)
    clone = annex.clone("clone", server.url)
    for number, (key, content) in enumerate(every.items()):
        assert server.api.put(key, content)[0] == 200
        if number % 3 == 0:
            assert annex.drop(key).returncode == 0
        elif number % 3 == 1:
            assert annex.drop(key).returncode == 0
            assert server.api.put(key, content)[0] == 200
        else:
            clone.annex("setpresentkey", key.text, clone.uuid, "1")
            annex.learn_from(clone)
            assert server.api.remove(key)["removed"]
            assert annex.whereis(key) == {clone.uuid}
    server.terminate()
    assert server.wait() == 0
    keys = list(every)
    assert annex.recorded() == {key.text for key in keys[1::3]}
    assert annex.objects() == {key.file_name for key in keys[1::3]}
    for key in keys[2::3]:
        assert annex.whereis(key) == {clone.uuid}


def test_alwayscommit_off_leaves_the_journal(annex: Annex, locklane: Serving) -> None:
    """``annex.alwayscommit`` is honoured: a later git-annex commits."""
    annex.configure(annex_alwayscommit="false")
    server = locklane(annex)
    before = commits(annex)
    (key, content), *_ = contents(1).items()
    assert server.api.put(key, content)[0] == 200
    server.terminate()
    assert server.wait() == 0
    assert journal(annex)
    assert commits(annex) == before
    annex.configure(annex_alwayscommit="true")
    annex.annex("merge", "-q")
    assert annex.recorded() == {key.text}
