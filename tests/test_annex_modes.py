"""The permissions of what we leave in a repository are those that git-annex gives."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from annexes import Annex, Serving, home, locklane
from annexwire import Api, Shell, Upload
from conftest import LOCKLANE, eventually, key_of

__all__ = ["home", "locklane"]

CONTENT = b"some content\n" * 100_000
KEY = key_of(CONTENT, ".dat")
HALF = key_of(CONTENT * 2, ".dat")

TRANSIENT = (f"tmp/{HALF.file_name}", ".rtm")
"""git-annex gives these files the umask's mode and forgets what the repository is shared with: in
one that nobody else may read, everybody can read what is on its way."""

SHARED = [None, "group", "all", "0640", "0660", "0600"]


def modes(annex: Annex) -> dict[str, str]:
    """What lies in git-annex's directory, with its mode; what is ours alone left out."""
    top = annex.git_directory / "annex"
    found = {}
    for path in top.rglob("*"):
        if "locklane" not in path.relative_to(top).parts:
            with suppress(FileNotFoundError):  # it has just gone
                found[str(path.relative_to(top))] = stat.filemode(path.lstat().st_mode)
    return found


@pytest.fixture(params=SHARED, ids=str)
def twins(request: pytest.FixtureRequest, home: Path) -> tuple[Annex, Annex]:
    """Two repositories with one setting of ``core.sharedRepository``, for git-annex and for us."""
    shared = request.param
    return Annex(home, "theirs", shared=shared), Annex(home, "ours", shared=shared)


def same(theirs: dict[str, str], ours: dict[str, str], *having: str) -> None:
    """All that is in both is alike, and both have what these names end in."""
    for ending in having:
        for found in (theirs, ours):
            assert any(name.endswith(ending) for name in found), f"{ending} not in {sorted(found)}"
    differing = {
        name: (theirs[name], ours[name])
        for name in theirs.keys() & ours.keys()
        if theirs[name] != ours[name] and not name.endswith(TRANSIENT)
    }
    assert differing == {}, "(git-annex's, ours)"


def put_by_git_annex(annex: Annex) -> None:
    with Shell(annex) as shell:
        assert shell.ask(f"PUT  {KEY.text}") == "PUT-FROM 0"
        shell.send(f"DATA {len(CONTENT)}\n".encode() + CONTENT)
        assert shell.ask("VALID") == "SUCCESS"


@contextmanager
def half_by_git_annex(annex: Annex) -> Iterator[None]:
    with Shell(annex) as shell:
        assert shell.ask(f"PUT  {HALF.text}") == "PUT-FROM 0"
        shell.send(f"DATA {HALF.size}\n".encode() + CONTENT)
        yield


async def test_modes_are_those_that_git_annex_gives(
    twins: tuple[Annex, Annex], locklane: Serving
) -> None:
    """Of content, directories, partial and lock files, the journal: during an upload, after it,
    and while the content is locked; and the directories left when it is removed."""
    theirs, ours = twins
    server = locklane(ours)
    name = KEY.file_name

    with half_by_git_annex(theirs):
        upload = Upload(server.api, HALF, HALF.size or 0, length=HALF.size)
        upload.send(CONTENT)
        await eventually(lambda: all(annex.partial(HALF).exists() for annex in twins))
        await eventually(lambda: all(len(annex.transfers()) == 3 for annex in twins))
        transfer = (f"lck/lck.{HALF.file_name}", f"c11e/lck.{HALF.file_name}")
        same(modes(theirs), modes(ours), f"tmp/{HALF.file_name}", *transfer)
        upload.reset()

    put_by_git_annex(theirs)
    assert server.api.put(KEY, CONTENT)[0] == 200
    same(modes(theirs), modes(ours), f"{name}/{name}", f"objects/{_hashed(ours)}", "journal")

    frozen = _objects(ours)
    with Shell(theirs) as shell:
        locked = shell.ask(f"LOCKCONTENT {KEY.text}") == "SUCCESS"
        assert locked != shared_by_number(theirs)
        lock_id = server.api.lock(KEY)
        beside = [f"{name}.{ending}" for ending in ("lck", "rtm")]
        assert all(any(found.endswith(each) for found in _objects(ours)) for each in beside)
        if locked:
            same(modes(theirs), modes(ours), f"{name}/{name}", *beside)
        server.api.unlock(lock_id)
    await eventually(lambda: _objects(ours) == frozen)

    assert server.api.remove(KEY)["removed"]
    assert _objects(ours) == {}


def shared_by_number(annex: Annex) -> bool:
    """Where ``core.sharedRepository`` is a number, git-annex does not make the directory of an
    object writable, and fails to lock or drop what it has stored itself."""
    setting = annex.attempt("git", "config", "core.sharedRepository").stdout.strip()
    return setting.startswith("0")


def _hashed(annex: Annex) -> str:
    return annex.object(KEY).parts[-4]


def _objects(annex: Annex) -> dict[str, str]:
    return {name: mode for name, mode in modes(annex).items() if name.startswith("objects/")}


def test_git_annex_drops_what_we_stored_and_we_remove_what_it_stored(
    twins: tuple[Annex, Annex], locklane: Serving
) -> None:
    """We lock and remove under every setting; git-annex drops ours where it drops its own."""
    theirs, ours = twins
    put_by_git_annex(theirs)
    first = locklane(theirs).api
    first.unlock(first.lock(KEY))
    assert first.remove(KEY)["removed"]
    assert not theirs.objects()
    second = locklane(ours).api
    assert second.put(KEY, CONTENT)[0] == 200
    second.unlock(second.lock(KEY))
    put_by_git_annex(theirs)
    assert ours.drop(KEY).returncode == theirs.drop(KEY).returncode == shared_by_number(ours)


def test_the_modes_of_files_go_by_the_umask(home: Path) -> None:
    """Without sharing, a server with a narrow umask leaves nothing for others to read."""
    annex = Annex(home, "served")
    with _narrow(annex) as api:
        assert api.put(KEY, CONTENT)[0] == 200
    path = annex.object(KEY)
    assert stat.filemode(path.stat().st_mode) == "-r--------"
    assert stat.filemode(path.parent.stat().st_mode) == "dr-x------"


@contextmanager
def _narrow(annex: Annex) -> Iterator[Api]:
    words = [LOCKLANE, "serve", "--wideopen", "--port=0"]
    with annex.start("sh", "-c", f"umask 077; exec {' '.join(words)}") as process:
        yield Api(process.line(r"serving (annex\+http://\S+)")[1])
