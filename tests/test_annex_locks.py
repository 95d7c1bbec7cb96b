"""Content locks that our server and git-annex's programs hold on one repository: each respects the
other's, whoever dies, and nothing is left when the last has unlocked."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest
from annexes import Annex, Serving, annex, either, home, locklane, open_files, own
from annexwire import Api, Shell
from conftest import BOUND, eventually

from locklane_client import Client
from locklane_client.key import Key

__all__ = ["annex", "either", "home", "locklane"]

CONTENT = b"content that somebody needs"


def beside(annex: Annex, key: Key) -> set[str]:
    """The endings of what lies beside an object."""
    name = key.file_name
    return {path.name.removeprefix(name) for path in annex.object(key).parent.iterdir()} - {""}


def refused_as_locked(annex: Annex, key: Key) -> None:
    """``git annex drop --force`` is refused because of a lock, and the content is there."""
    done = annex.drop(key)
    assert done.returncode != 0
    assert "content is locked" in done.stdout + done.stderr
    assert annex.object(key).read_bytes() == CONTENT


def can_be_dropped(annex: Annex, key: Key) -> None:
    """Nothing but the object is left in its directory, and git-annex drops it."""
    assert beside(annex, key) == set()
    assert annex.object(key).parent.stat().st_mode & 0o777 == 0o555
    done = annex.drop(key)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not annex.objects()


def not_removed(api: Api, key: Key) -> None:
    answer = api.remove(key)
    assert answer["removed"] is False
    assert "locked" in answer["reason"]
    assert api.present(key)


# -- ours, and git-annex that wants to drop --------------------------------------------------------


async def test_while_our_client_holds_a_lock_git_annex_does_not_drop(
    either: Annex, locklane: Serving, transport: str
) -> None:
    """With either transport; after the unlock nothing is left but the object, and drop works."""
    annex, key = with_content(either)
    server = locklane(annex)
    async with Client(server.url, transport=transport) as client, client.lock(key):
        await asyncio.to_thread(refused_as_locked, annex, key)
        assert beside(annex, key) == {".lck", ".rtm"}
    await asyncio.to_thread(can_be_dropped, annex, key)
    await eventually(lambda: server.lock_files() == [])


def with_content(annex: Annex) -> tuple[Annex, Key]:
    """A repository, bare or not, with the content of one key. git-annex put it there."""
    if annex.git_directory != annex.directory:
        return annex, annex.add(CONTENT)
    file = annex.home / "file.dat"
    file.write_bytes(CONTENT)
    own(file)
    key = Key.parse(annex.annex("calckey", "--backend=SHA256E", str(file)).strip())
    annex.annex("setkey", key.text, str(file))
    return annex, key


async def test_a_client_that_vanishes_leaves_the_lock_for_git_annex_too(
    annex: Annex, locklane: Serving, transport: str
) -> None:
    """The connection is cut, and what was promised for ten minutes is kept."""
    key = annex.add(CONTENT)
    server = locklane(annex)
    client = Client(server.url, transport=transport)
    holding = asyncio.create_task(_hold(client, key))
    await eventually(lambda: server.lock_files())
    holding.cancel()
    await asyncio.wait([holding])
    server.api.lock(key)  # and one that nobody ever held open
    await asyncio.to_thread(refused_as_locked, annex, key)
    not_removed(server.api, key)


async def _hold(client: Client, key: Key) -> None:
    async with client, client.lock(key):
        await asyncio.sleep(60)


def test_after_kill_9_of_the_server_the_ten_minutes_count_for_everybody(
    annex: Annex, locklane: Serving
) -> None:
    """git-annex's drop, a new server of ours, and git-annex's own server all refuse."""
    key = annex.add(CONTENT)
    server = locklane(annex)
    locked_at = time.time()
    server.api.lock(key)
    server.kill()
    refused_as_locked(annex, key)
    path = annex.object(key)
    until = float((path.parent / f"{path.name}.rtm").read_text().removesuffix("s"))
    assert 595 < until - locked_at < 620
    not_removed(locklane(annex).api, key)
    with annex.p2phttp() as url:
        api = Api(url)
        status, body, _ = api.request("POST", api.target("remove", key=key))
        assert status != 200 or b'"removed":false' in body.replace(b" ", b"")
    refused_as_locked(annex, key)
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize("end", ["terminate", "interrupt"])
def test_a_server_that_is_stopped_leaves_its_locks(
    annex: Annex, locklane: Serving, end: str
) -> None:
    """A restart of the server is no reason for a client to lose what it was promised."""
    key = annex.add(CONTENT)
    server = locklane(annex)
    server.api.lock(key)
    getattr(server, end)()
    assert server.wait() == 0
    refused_as_locked(annex, key)
    not_removed(locklane(annex).api, key)


def test_the_retention_of_an_earlier_server_survives_a_lock_and_unlock_by_a_new_one(
    annex: Annex, locklane: Serving
) -> None:
    """The new lock's end is not the old one's."""
    key = annex.add(CONTENT)
    path = annex.object(key)
    retention = path.with_name(f"{path.name}.rtm")
    first = locklane(annex)
    first.api.lock(key)
    promised = float(retention.read_text().removesuffix("s"))
    first.kill()
    second = locklane(annex)
    for _ in range(2):
        second.api.unlock(second.api.lock(key))
        assert float(retention.read_text().removesuffix("s")) >= promised
        not_removed(second.api, key)
        refused_as_locked(annex, key)


async def test_many_locks_on_a_key_take_one_descriptor(annex: Annex, locklane: Serving) -> None:
    """Two hundred locks; only the unlock of the last one lets git-annex drop. (The files are let go
    of while the answer to the unlock is on its way.)"""
    key, other = annex.add(CONTENT), annex.add(b"other")
    server = locklane(annex)
    locks = [server.api.lock(key) for _ in range(200)]
    assert len(server.lock_files()) == 1
    other_lock = server.api.lock(other)
    assert len(server.lock_files()) == 2
    server.api.unlock(other_lock)
    for lock_id in locks[1:]:
        server.api.unlock(lock_id)
    await eventually(lambda: len(server.lock_files()) == 1)
    refused_as_locked(annex, key)
    not_removed(server.api, key)
    server.api.unlock(locks[0])
    await eventually(lambda: server.lock_files() == [])
    assert annex.drop(other).returncode == 0
    can_be_dropped(annex, key)


# -- git-annex's, and our removal ------------------------------------------------------------------


@contextmanager
def by_shell(annex: Annex, key: Key) -> Iterator[None]:
    """A lock that git-annex holds for a client over ssh."""
    with Shell(annex) as shell:
        assert shell.ask(f"LOCKCONTENT {key.text}") == "SUCCESS"
        yield
        shell.say("UNLOCKCONTENT")
        shell.close()  # then it has been done


@contextmanager
def by_p2phttp(annex: Annex, key: Key) -> Iterator[None]:
    """A lock that git-annex's own HTTP server holds."""
    with annex.p2phttp() as url:
        api = Api(url)
        lock_id = api.lock(key)
        yield
        api.unlock(lock_id)
        end = time.monotonic() + BOUND
        while open_files(annex.server, ".lck"):  # it answers before it has unlocked
            assert time.monotonic() < end
            time.sleep(0.01)


HOLDERS = {"p2pstdio": by_shell, "p2phttp": by_p2phttp}
Holder = Callable[[Annex, Key], AbstractContextManager[None]]


@pytest.fixture(params=list(HOLDERS))
def holder(request: pytest.FixtureRequest) -> Holder:
    """Each program of git-annex that locks content for others."""
    return HOLDERS[request.param]


def test_while_git_annex_holds_a_lock_we_do_not_remove(
    annex: Annex, locklane: Serving, holder: Holder
) -> None:
    """``remove`` and ``remove-before`` say so; afterwards they remove."""
    key = annex.add(CONTENT)
    api = locklane(annex).api
    with holder(annex, key):
        not_removed(api, key)
        now = api.post("gettimestamp")[1]["timestamp"]
        status, answer = api.post("remove-before", key=key, timestamp=now + 60)
        assert (status, answer["removed"]) == (200, False)
        assert "locked" in answer["reason"]
        assert annex.object(key).read_bytes() == CONTENT
    gone_by_us(annex, api, key)


def gone_by_us(annex: Annex, api: Api, key: Key) -> None:
    """We remove it, and nothing of it is left."""
    answer = api.remove(key)
    assert answer["removed"] is True, answer
    assert not annex.objects()
    assert not any((annex.git_directory / "annex/objects").iterdir())


def test_ours_and_git_annexs_at_once_and_ours_unlocked_first(
    annex: Annex, locklane: Serving, holder: Holder
) -> None:
    """Git-annex's still counts. It deletes only a retention that it wrote, and ours is later: so,
    as among git-annex's own processes, the content stays for the rest of that time."""
    key = annex.add(CONTENT)
    server = locklane(annex)
    with holder(annex, key):
        lock_id = server.api.lock(key)
        refused_as_locked(annex, key)
        server.api.unlock(lock_id)
        refused_as_locked(annex, key)
        not_removed(server.api, key)
    not_removed(server.api, key)
    let_the_time_pass(annex, key)
    gone_by_us(annex, server.api, key)


def test_ours_and_git_annexs_at_once_and_git_annexs_unlocked_first(
    annex: Annex, locklane: Serving, holder: Holder
) -> None:
    """Neither takes the other's with it. Nobody can tell whether git-annex has unlocked or died
    meanwhile, so what it promised stays promised for the rest of its time."""
    key = annex.add(CONTENT)
    server = locklane(annex)
    with holder(annex, key):
        lock_id = server.api.lock(key)
    refused_as_locked(annex, key)
    not_removed(server.api, key)
    server.api.unlock(lock_id)
    refused_as_locked(annex, key)
    let_the_time_pass(annex, key)
    assert annex.drop(key).returncode == 0
    assert not annex.objects()


def let_the_time_pass(annex: Annex, key: Key) -> None:
    """Ten minutes, as far as a retention goes."""
    path = annex.object(key)
    path.with_name(f"{path.name}.rtm").write_bytes(b"1600000000s")


def test_a_git_annex_that_is_killed_leaves_its_ten_minutes_to_us(
    annex: Annex, locklane: Serving
) -> None:
    """We respect what git-annex promised before, and our lock in between does not end it."""
    key = annex.add(CONTENT)
    with annex.p2phttp() as url:
        Api(url).lock(key)
    # p2phttp has ended and its lock with it, but not the retention.
    server = locklane(annex)
    assert ".rtm" in beside(annex, key)
    not_removed(server.api, key)
    server.api.unlock(server.api.lock(key))
    not_removed(server.api, key)
    refused_as_locked(annex, key)


# -- what lies there from before -------------------------------------------------------------------

STALE = {
    "an empty lock file": {".lck": b""},
    "all three, from the past": {".lck": b"", ".rtl": b"", ".rtm": b"1600000000.5s"},
    "a retention from the past": {".rtm": b"1600000000s"},
    "a retention that is none": {".rtl": b"", ".rtm": b"garbage"},
    "an empty retention": {".rtm": b""},
}


@pytest.mark.parametrize("left", STALE.values(), ids=STALE.keys())
def test_what_an_earlier_lock_left_behind_disturbs_nobody(
    annex: Annex, locklane: Serving, left: dict[str, bytes]
) -> None:
    """Lock, unlock and remove work, and clear it away."""
    key = annex.add(CONTENT)
    api = locklane(annex).api
    leave(annex, key, left)
    lock_id = api.lock(key)
    refused_as_locked(annex, key)
    api.unlock(lock_id)
    assert beside(annex, key) == set()
    leave(annex, key, left)
    gone_by_us(annex, api, key)


def leave(annex: Annex, key: Key, files: dict[str, bytes]) -> None:
    """Files beside an object, made by the owner of the directory."""
    path = annex.object(key)
    for ending, content in files.items():
        made = path.with_name(path.name + ending)
        made.write_bytes(content)
        own(made)
    assert path.parent.stat().st_mode & 0o777 == 0o555


def test_a_read_only_directory_is_locked_in_by_who_is_not_root(
    annex: Annex, locklane: Serving
) -> None:
    """Where the mode of the directory counts, it is made writable for the moment and back."""
    key = annex.add(CONTENT)
    directory = annex.object(key).parent
    assert directory.stat().st_mode & 0o777 == 0o555
    assert annex.attempt("touch", str(directory / "file")).returncode != 0, "modes do not count"
    api = locklane(annex).api
    lock_id = api.lock(key)
    assert directory.stat().st_mode & 0o777 == 0o555
    refused_as_locked(annex, key)
    api.unlock(lock_id)
    can_be_dropped(annex, key)


def test_content_that_is_not_there_is_not_locked_and_leaves_nothing(
    annex: Annex, locklane: Serving
) -> None:
    """Whether there was an object before or not."""
    key = annex.add(CONTENT)
    api = locklane(annex).api
    assert annex.drop(key).returncode == 0
    status, answer = api.post("lockcontent", key=key)
    assert (status, answer["locked"]) == (200, False)
    assert not annex.objects()
    assert api.remove(key)["removed"]


async def test_a_removal_and_locks_of_all_kinds_at_once_never_agree(
    annex: Annex, locklane: Serving
) -> None:
    """Over and over, somebody of ours and git-annex lock a key while others remove it: whoever got
    a lock finds the content there for as long as it is held."""
    keys = [annex.add(b"%d" % number) for number in range(6)]
    server = locklane(annex)

    async def lock(key: Key) -> bool:
        status, answer = await asyncio.to_thread(server.api.post, "lockcontent", key=key)
        assert status == 200
        if not answer["locked"]:
            return False
        for _ in range(3):
            assert annex.object(key).exists()
        await asyncio.to_thread(server.api.unlock, answer["lockid"])
        return True

    async def remove(key: Key) -> bool:
        return bool((await asyncio.to_thread(server.api.remove, key))["removed"])

    async def drop(key: Key) -> bool:
        return (await asyncio.to_thread(annex.drop, key)).returncode == 0

    for key in keys:
        await asyncio.gather(lock(key), remove(key), lock(key), drop(key), lock(key), remove(key))
        if key.file_name in annex.objects():
            assert await remove(key)
    assert not annex.objects()
    await eventually(lambda: server.lock_files() == [])
    server.terminate()
    assert await server.ended() == 0
    assert annex.recorded() == set()
