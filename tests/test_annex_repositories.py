"""Repositories that come and go below a directory that is served, and those that cannot be."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from annexes import Annex, Locklane, Serving, annex, home, locklane, own
from annexwire import Api
from conftest import BOUND, LOCKLANE, Process, eventually, key_of

from locklane_client import Client

__all__ = ["annex", "home", "locklane"]

CONTENT = b"some content"
KEY = key_of(CONTENT, ".dat")


def below(home: Path, *names: str) -> Path:
    """A directory for repositories."""
    directory = home.joinpath(*names)
    for each in (*reversed(directory.relative_to(home).parents), directory.relative_to(home)):
        if not (home / each).exists():
            (home / each).mkdir()
            own(home / each)
    return directory


def of(base: str, annex: Annex) -> Api:
    return Api(base + annex.uuid)


def is_served(api: Api) -> bool:
    status, answer = api.post("checkpresent", key=KEY)
    # 500: it is gone, and has not been looked for since.
    assert status in (200, 404) or (status == 500 and "is gone" in answer["error"]), answer
    return status == 200


def look(server: Locklane) -> bool:
    """Have the server look for what is new or gone, as it does now and then: it does so, too, when
    it is asked for a repository that it does not know."""
    return not is_served(Api(server.base + "00000000-0000-4000-8000-000000000000"))


def soon_served(api: Api) -> None:
    end = time.monotonic() + BOUND
    while not is_served(api):
        assert time.monotonic() < end
        time.sleep(0.1)


def remove(directory: Path) -> None:
    """With the directories that git-annex has made read-only."""
    for each in (directory, *(path for path in directory.rglob("*") if path.is_dir())):
        each.chmod(0o755)
    shutil.rmtree(directory)


def test_repositories_at_any_depth_are_served(home: Path, locklane: Serving) -> None:
    """With a work tree and bare, below two directories; not one inside of another's work tree, and
    none through a symbolic link."""
    below(home, "a", "b", "c")
    below(home, "other")
    shallow = Annex(home / "a", "shallow")
    deep = Annex(home / "a" / "b" / "c", "deep")
    bare = Annex(home / "a" / "b", "bare.git", bare=True)
    elsewhere = Annex(home / "other", "repository")
    inner = Annex(shallow.directory, "inner")
    linked = Annex(home, "linked")
    (home / "a" / "link").symlink_to(linked.directory)
    server = locklane(shallow, "--directory", home / "a", "--directory", home / "other")
    for each in (shallow, deep, bare, elsewhere):
        api = of(server.base, each)
        assert is_served(api)
        assert api.put(KEY, CONTENT)[0] == 200
        assert each.objects() == {KEY.file_name}
        assert each.uuid in server.output
    for each in (inner, linked):
        assert not is_served(of(server.base, each))
    server.terminate()
    assert server.wait() == 0
    for each in (shallow, deep, bare, elsewhere):
        assert each.recorded() == {KEY.text}


async def test_repositories_come_and_go_while_the_server_runs(
    annex: Annex, locklane: Serving
) -> None:
    """A new one is served without a restart, one that is removed is 404, with its locks; one that
    is moved is found again."""
    below(annex.home, "top", "inner")
    first = Annex(annex.home / "top", "first")
    server = locklane(first, "--directory", annex.home / "top")
    second = Annex(annex.home / "top" / "inner", "second")
    key = second.add(CONTENT)
    api = of(server.base, second)
    await eventually(lambda: is_served(api))
    assert api.get(key) == (200, CONTENT)
    lock_id = api.lock(key)
    async with Client(server.base + second.uuid) as client:
        assert await client.check_present(key)
    api.unlock(lock_id)

    moved = below(annex.home, "top", "elsewhere") / "second"
    second.directory.rename(moved)
    await eventually(lambda: look(server) and is_served(api) and api.get(key) == (200, CONTENT))

    api.lock(key)
    assert server.lock_files()
    remove(moved)
    await eventually(lambda: look(server) and api.post("checkpresent", key=key)[0] == 404)
    await eventually(lambda: not server.lock_files())
    assert is_served(of(server.base, first))
    status, answer = api.post("checkpresent", key=key)
    assert status == 404
    assert second.uuid in answer["error"]
    assert "Traceback" not in server.output


def test_a_server_with_no_repository_yet(annex: Annex, locklane: Serving) -> None:
    """Starts, and serves the one that is made then."""
    top = below(annex.home, "top")
    command = annex.command(LOCKLANE, "serve", "--wideopen", "--port=0", f"--directory={top}")
    with Process(*command, env=annex.env) as process:
        base = process.line(r"serving (annex\+http://\S+/git-annex/) \(no repository")[1]
        made = Annex(top, "made")
        api = of(base, made)
        soon_served(api)
        assert api.put(KEY, CONTENT)[0] == 200


# -- refused ---------------------------------------------------------------------------------------


def version_8(annex: Annex) -> None:
    annex.git("config", "annex.version", "8")


def version_11(annex: Annex) -> None:
    annex.git("config", "annex.version", "11")


def tuned(annex: Annex) -> None:
    annex.git("config", "annex.tune.objecthash1", "true")


def pidlock(annex: Annex) -> None:
    annex.git("config", "annex.pidlock", "true")


def crippled(annex: Annex) -> None:
    annex.git("config", "annex.crippledfilesystem", "true")


def not_initialized(annex: Annex) -> None:
    annex.git("config", "--unset", "annex.uuid")


REFUSED: dict[str, tuple[Callable[[Annex], None], str]] = {
    "version 8": (version_8, "git annex upgrade"),
    "version 11": (version_11, "newer"),
    "tuned": (tuned, "annex.tune.objecthash1"),
    "pidlock": (pidlock, "annex.pidlock"),
    "crippled": (crippled, "crippled"),
    "not initialized": (not_initialized, "git annex init"),
}


@pytest.mark.parametrize(("spoil", "says"), REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_be_served_is_refused_with_a_sentence(
    annex: Annex, spoil: Callable[[Annex], None], says: str
) -> None:
    """As the repository that one is in: the program ends with 1 and says what to do."""
    spoil(annex)
    done = annex.attempt(LOCKLANE, "serve", "--wideopen", "--port=0")
    assert done.returncode == 1
    assert says in done.stderr
    assert str(annex.directory) in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_directory_that_is_no_repository(annex: Annex) -> None:
    """A sentence too."""
    below(annex.home, "nothing")
    command = annex.command(LOCKLANE, "serve", "--wideopen", "--port=0", cwd=annex.home / "nothing")
    done = subprocess.run(command, env=annex.env, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "not a git repository" in done.stderr
    assert "Traceback" not in done.stderr


def test_below_a_directory_what_cannot_be_served_is_logged_once(
    annex: Annex, locklane: Serving
) -> None:
    """The others are served; a git repository without git-annex is not worth a word; one that is
    put right is served from then on."""
    below(annex.home, "top")
    good = Annex(annex.home / "top", "good")
    spoiled = {name: Annex(annex.home / "top", name.replace(" ", "-")) for name in REFUSED}
    for name, (spoil, _) in REFUSED.items():
        spoil(spoiled[name])
    server = locklane(good, "--directory", annex.home / "top")
    assert of(server.base, good).put(KEY, CONTENT)[0] == 200

    for _ in range(3):
        for each in spoiled.values():  # each question has the server look, if it has not just
            assert not is_served(of(server.base, each))
    for name, (_, says) in REFUSED.items():
        place = str(spoiled[name].directory)
        lines = [line for line in server.output.splitlines() if f"{place}/" in line]
        if name == "not initialized":
            assert lines == []
        else:
            assert len(lines) == 1, server.output
            assert says in lines[0]
    right = spoiled["pidlock"]
    right.git("config", "--unset", "annex.pidlock")
    soon_served(of(server.base, right))


def test_a_repository_that_cannot_be_written_in_is_said_once_and_hinders_no_other(
    home: Path, locklane: Serving
) -> None:
    """As after a server that somebody else ran there. When it can be, it is served."""
    below(home, "top")
    good, spoiled = (Annex(home / "top", name) for name in ("good", "spoiled"))
    ours = spoiled.git_directory / "annex" / "locklane"
    ours.mkdir()
    ours.chmod(0o555)
    alone = spoiled.attempt(LOCKLANE, "serve", "--wideopen", "--port=0")
    assert alone.returncode == 1
    assert f"cannot write in {ours}: Permission denied" in alone.stderr
    assert "Traceback" not in alone.stderr
    server = locklane(good, "--directory", home / "top")
    for _ in range(3):
        assert is_served(of(server.base, good))
        assert not is_served(of(server.base, spoiled))
    assert server.output.count("cannot write in") == 1
    assert "Traceback" not in server.output
    ours.chmod(0o755)
    own(ours)
    soon_served(of(server.base, spoiled))
    # What is wrong again after it was right is said again.
    away = home / "away"
    spoiled.directory.rename(away)
    assert look(server)
    assert not is_served(of(server.base, spoiled))
    (away / ".git/annex/locklane").chmod(0o555)
    away.rename(spoiled.directory)
    assert look(server)
    assert not is_served(of(server.base, spoiled))
    assert server.output.count("cannot write in") == 2


def test_a_repository_whose_disk_is_away_claims_nothing(annex: Annex, locklane: Serving) -> None:
    """Not that the content is absent, nor that it has been removed: clients would record that.
    When it is back, all is as it was."""
    key = annex.add(CONTENT)
    api = locklane(annex).api
    away = annex.home / "away"
    annex.directory.rename(away)
    for request in ("checkpresent", "remove", "lockcontent", "putoffset"):
        status, answer = api.post(request, key=key)
        assert status == 500, (request, answer)
        assert "is gone" in answer["error"]
    assert api.put(key, CONTENT)[0] == 500
    assert api.get(key)[0] == 500
    assert not annex.directory.exists()
    away.rename(annex.directory)
    assert api.present(key)
    api.unlock(api.lock(key))
    assert api.get(key) == (200, CONTENT)
    annex.fsck()


def test_two_of_one_uuid_are_one_and_a_warning(home: Path, locklane: Serving) -> None:
    """A copy made with ``cp -a`` is not served: which of them would hold a lock?"""
    below(home, "top")
    first = Annex(home / "top", "first")
    first.attempt("cp", "-a", str(first.directory), str(home / "top" / "second"))
    server = locklane(first, "--directory", home / "top")
    server.line("there are two repositories of that UUID")
    assert of(server.base, first).put(KEY, CONTENT)[0] == 200
    assert first.objects() == {KEY.file_name}


def test_a_linked_work_tree_is_the_repository(annex: Annex, locklane: Serving) -> None:
    """From ``git worktree add`` or a subdirectory, the one repository is served."""
    annex.add(b"first")
    below(annex.home, "served", "sub")
    annex.git("worktree", "add", "-q", str(annex.home / "tree"), "-b", "tree")
    for number, directory in enumerate((annex.directory / "sub", annex.home / "tree")):
        with _in(annex, directory) as api:
            content = b"%d" % number
            key = key_of(content, ".dat")
            assert api.put(key, content)[0] == 200
            assert key.file_name in annex.objects()
            api.unlock(api.lock(key))
            assert annex.drop(key).returncode == 0


@contextmanager
def _in(annex: Annex, directory: Path) -> Iterator[Api]:
    command = annex.command(LOCKLANE, "serve", "--wideopen", "--port=0", cwd=directory)
    with Process(*command, env=annex.env) as process:
        yield Api(process.line(r"serving (annex\+http://\S+)")[1])
