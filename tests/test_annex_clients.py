"""git-annex's own commands in clones, through ``locklane serve`` in the repository cloned from."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from annexes import Annex, Serving, annex, either, home, locklane
from conftest import Process

from locklane_client.key import Key

__all__ = ["annex", "either", "home", "locklane"]

FILES = 12

pytestmark = pytest.mark.timeout(180)


def content(number: int, who: str = "") -> bytes:
    """Of some bytes or of some hundred thousand, none of it compressible to nothing."""
    return f"{who}{number}\n".encode() * (3 if number % 4 else 40_000) + os.urandom(8)


def fill(annex: Annex, count: int, who: str = "") -> dict[str, bytes]:
    """Add that many files at once."""
    contents = {f"{who}file {number}.dat": content(number, who) for number in range(count)}
    for name, each in contents.items():
        annex.write(name, each)
    annex.annex("add", "-q", ".")
    annex.git("commit", "-q", "-m", "files")
    return contents


def keys_of(annex: Annex, names: list[str]) -> dict[str, Key]:
    found = annex.annex("lookupkey", *names).splitlines()
    return {name: Key.parse(text) for name, text in zip(names, found, strict=True)}


def at_once(*runs: tuple[Annex, list[str]]) -> None:
    """Run a git-annex command in each of some repositories at the same time."""
    started: list[Process] = []
    try:
        started += [annex.start("git", "annex", *words) for annex, words in runs]
        for process in started:
            status = process.wait(60)
            assert status == 0, f"{process.command}: {process.output}"
    finally:
        for process in started:
            process.kill()


def has(annex: Annex, name: str, expected: bytes) -> None:
    assert (annex.directory / name).read_bytes() == expected


@pytest.mark.parametrize("jobs", [1, 8])
def test_two_clones_at_once_do_all_that_git_annex_does(
    annex: Annex, locklane: Serving, jobs: int
) -> None:
    """Get, drop, copy, move both ways, drop from and fsck from, by two clones in parallel: every
    byte arrives, a third clone learns where everything is, and the repository stays sound."""
    contents = fill(annex, FILES)
    names = list(contents)
    server = locklane(annex)
    clones = [annex.clone(name, server.url) for name in ("one", "two")]
    concurrently = f"-J{jobs}"

    at_once(*((clone, ["get", "-q", concurrently, "."]) for clone in clones))
    for clone in clones:
        for name, expected in contents.items():
            has(clone, name, expected)
    at_once(*((clone, ["drop", "-q", concurrently, "."]) for clone in clones))
    for clone in clones:
        assert not clone.objects()
    assert annex.objects() == {key.file_name for key in keys_of(annex, names).values()}

    # Files that each clone adds and copies to the repository, and moves there.
    own = [fill(clone, 6, f"{clone.directory.name} ") for clone in clones]
    half = [list(each)[:3] for each in own], [list(each)[3:] for each in own]
    runs = list(zip(clones, half[0], half[1], strict=True))
    at_once(*((clone, ["copy", "-q", concurrently, "--to=origin", *a]) for clone, a, _ in runs))
    at_once(*((clone, ["move", "-q", concurrently, "--to=origin", *b]) for clone, _, b in runs))
    at_once(*((clone, ["fsck", "-q", concurrently, "--from=origin"]) for clone in clones))
    keys = [keys_of(clone, list(each)) for clone, each in zip(clones, own, strict=True)]
    for clone, copied, moved in runs:
        there = {key.file_name for key in keys[clones.index(clone)].values()}
        assert there <= annex.objects()
        here = clone.objects()
        assert {keys[clones.index(clone)][name].file_name for name in copied} <= here
        assert not {keys[clones.index(clone)][name].file_name for name in moved} & here

    # Back again: the first half of the shared files to one, the second to two; what was copied is
    # dropped from the repository.
    first, second = names[: FILES // 2], names[FILES // 2 :]
    at_once(
        (clones[0], ["move", "-q", concurrently, "--from=origin", *first]),
        (clones[1], ["move", "-q", concurrently, "--from=origin", *second]),
    )
    at_once(*((clone, ["drop", "-q", concurrently, "--from=origin", *a]) for clone, a, _ in runs))
    server.terminate()
    assert server.wait() == 0
    for clone, mine in zip(clones, (first, second), strict=True):
        for name in mine:
            has(clone, name, contents[name])

    third = annex.clone("third")
    third.git("fetch", "-q", "origin")
    # What the repository has said of itself; the clones have not told anybody of theirs yet.
    gone = [*keys_of(third, names).values()]
    gone += [known[name] for (_, a, _), known in zip(runs, keys, strict=True) for name in a]
    there = [known[name] for (_, _, b), known in zip(runs, keys, strict=True) for name in b]
    told = third.recorded_in(annex.uuid)
    assert not {key.text for key in gone} & told
    assert {key.text for key in there} <= told
    for clone in clones:
        annex.learn_from(clone)
    annex.fsck()
    assert {Key.parse(text).file_name for text in annex.recorded()} == annex.objects()


def test_whereis_in_a_third_clone_tells_of_all_three(
    either: Annex, home: Path, locklane: Serving
) -> None:
    """Two clones upload their own files to a repository, bare or not, and each other's copies come
    from there; after syncing, a third clone finds all of them in the right places."""
    server = locklane(either)
    one = Annex(home, "one")
    one.git("remote", "add", "origin", str(either.directory))
    one.git("config", "remote.origin.annex-uuid", either.uuid)
    one.git("config", "annex.security.allowed-ip-addresses", "all")
    one.connect(server.url)
    contents = fill(one, 12)
    one.git("push", "-q", "origin", "HEAD:shared", "git-annex:synced/git-annex")
    either.annex("merge", "-q")
    two = Annex(home, "two", origin=either)
    two.git("config", "annex.security.allowed-ip-addresses", "all")
    two.connect(server.url)
    two.git("checkout", "-q", "-b", "shared", "origin/shared")
    at_once(
        (one, ["copy", "-q", "-J8", "--to=origin", "."]),
        (two, ["get", "-q", "--auto", "-J8", "."]),
    )
    two.git("fetch", "-q", "origin")
    two.git("config", "remote.origin.annex-speculate-present", "true")
    two.annex("get", "-q", "-J8", ".")
    for name, expected in contents.items():
        has(two, name, expected)
    server.terminate()
    assert server.wait() == 0
    third = Annex(home, "third", origin=either)
    for clone in (one, two):
        third.learn_from(clone)
    third.annex("merge", "-q")
    third.git("checkout", "-q", "-b", "shared", "origin/shared")
    expected_keys = {key.text for key in keys_of(third, list(contents)).values()}
    for place in (either, one, two):
        assert third.recorded_in(place.uuid) == expected_keys
    either.fsck()


def test_without_the_server_nothing_is_transferred(annex: Annex, locklane: Serving) -> None:
    """The clones' content really goes through the server, and not past it over the disk."""
    name = next(iter(fill(annex, 1)))
    server = locklane(annex)
    clone = annex.clone("clone", server.url)
    server.kill()
    done = clone.attempt("git", "annex", "get", name)
    assert done.returncode == 1
    assert not clone.objects()


def test_a_drop_in_a_clone_leans_on_a_lock_in_the_repository(
    annex: Annex, locklane: Serving
) -> None:
    """With numcopies 1 a clone may drop only while the repository's copy is locked; a key that is
    not there any more, whatever the records say, keeps the clone's copy."""
    (name, expected), (other, _) = fill(annex, 2).items()
    server = locklane(annex)
    clone = annex.clone("clone", server.url)
    clone.annex("get", "-q", ".")
    key = keys_of(annex, [name])[name]
    assert annex.drop(key).returncode == 0
    refused = clone.attempt("git", "annex", "drop", name)
    assert refused.returncode == 1
    has(clone, name, expected)
    clone.annex("drop", "-q", other)
    assert annex.objects() == {keys_of(annex, [other])[other].file_name}
