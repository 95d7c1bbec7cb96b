"""The repositories that a server serves: given, found, gone, and two of one name."""

from __future__ import annotations

import asyncio
import errno
import logging
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from conftest import BOUND, SOMEBODY, FakeClock, descriptors, eventually, post, until_interrupted
from kinds import CONTENTS, copy_annex, git, key_of, make_directory, open_repository

from locklane_client import Client, LockLost
from locklane_server import repositories
from locklane_server.access import WIDE_OPEN
from locklane_server.repositories import Repositories
from locklane_server.repository.annex.discovery import AnnexDiscovery
from locklane_server.served import ServedRepository
from locklane_server.server import Server
from locklane_server.workers import Workers

KEY = key_of(CONTENTS[0])


class Watched(AnnexDiscovery):
    """The real discovery; counts its looks, and waits in each until it may."""

    def __init__(self, top: Path) -> None:
        super().__init__([top], Workers())
        self.looks = 0
        self.may_look = threading.Event()
        self.may_look.set()

    def _find(self) -> set[Path]:
        self.looks += 1
        assert self.may_look.wait(BOUND)
        return super()._find()


@pytest.fixture
def top(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory for repositories, in which is looked only when somebody asks for one."""
    monkeypatch.setattr(repositories, "LOOK_SECONDS", 3600.0)
    top = tmp_path / "top"
    top.mkdir()
    return top


@asynccontextmanager
async def serving(found: Watched) -> AsyncIterator[Server]:
    async with Server([], access=WIDE_OPEN, discovery=found, port=0) as server:
        yield server


def url_of(server: Server, uuid: str) -> str:
    return f"annex+http://127.0.0.1:{server.port}/git-annex/{uuid}"


async def is_served(server: Server, uuid: str) -> bool:
    status, _ = await post(url_of(server, uuid), "checkpresent", key=KEY.text)
    assert status in (200, 404)
    return status == 200


def add(template: Path, place: Path, uuid: str) -> None:
    copy_annex(template, place)
    git(place, "config", "annex.uuid", uuid)


async def test_what_comes_is_served_and_what_goes_is_not(annex_template: Path, top: Path) -> None:
    found = Watched(top)
    async with serving(found) as server:
        assert not await is_served(server, SOMEBODY)
        add(annex_template, top / "one", SOMEBODY)
        assert await is_served(server, SOMEBODY)
        assert [served.uuid for served in server.repositories] == [SOMEBODY]
        looks = found.looks
        assert await is_served(server, SOMEBODY)
        assert found.looks == looks, "what is known was looked for"
        (top / "one").rename(top.parent / "elsewhere")
        await server.repositories.look()
        assert not await is_served(server, SOMEBODY)
        assert len(server.repositories) == 0
        # Back again, it is served again.
        (top.parent / "elsewhere").rename(top / "two")
        assert await is_served(server, SOMEBODY)


async def test_of_two_with_one_uuid_the_first_stays_and_the_log_says_so(
    annex_template: Path, top: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("a", "b"):
        add(annex_template, top / name, SOMEBODY)
    found = Watched(top)
    async with serving(found) as server:
        [served] = server.repositories
        assert "there are two repositories of that UUID" in caplog.text
        assert f"{top / 'b'} is not" in caplog.text
        status, answer = await post(url_of(server, SOMEBODY), "remove", key=KEY.text)
        assert (status, answer["removed"]) == (200, True)
        await server.repositories.look()
        assert list(server.repositories) == [served]
        # When the first is gone, the other one takes its place.
        (top / "a").rename(top.parent / "gone")
        await server.repositories.look()
        [other] = server.repositories
        assert other is not served
        assert await post(url_of(server, SOMEBODY), "checkpresent", key=KEY.text) == (
            200,
            {"present": True},
        )


async def hold_until_it_is_gone(client: Client, server: Server, top: Path) -> None:
    [served] = server.repositories
    async with client.lock(KEY):
        await eventually(lambda: served.holds == 1)
        (top / "one").rename(top.parent / "gone")
        await server.repositories.look()
        await until_interrupted()


async def test_a_holder_is_told_when_its_repository_is_gone(
    annex_template: Path, top: Path
) -> None:
    add(annex_template, top / "one", SOMEBODY)
    async with serving(Watched(top)) as server, Client(url_of(server, SOMEBODY)) as client:
        with pytest.raises(LockLost, match="not served any more"):
            await hold_until_it_is_gone(client, server, top)


async def test_many_who_ask_for_what_is_not_there_share_the_looks(
    annex_template: Path, top: Path
) -> None:
    """Whoever asks while it is looked waits for the next look, and all who wait for the same."""
    add(annex_template, top / "one", SOMEBODY)
    found = Watched(top)
    async with serving(found) as server:
        assert found.looks == 1
        found.may_look.clear()
        first = asyncio.create_task(is_served(server, f"0{SOMEBODY[1:]}"))
        await eventually(lambda: found.looks == 2)
        asking = [
            asyncio.create_task(is_served(server, f"{number}{SOMEBODY[2:]}"))
            for number in range(10, 60)
        ]
        await eventually(lambda: server.connections_opened > 50)
        assert await is_served(server, SOMEBODY)
        found.may_look.set()
        assert not any(await asyncio.gather(first, *asking))
        assert found.looks <= 4


async def test_another_repository_in_the_place_of_one_is_not_taken_for_it(
    annex_template: Path, top: Path
) -> None:
    """Neither before it is looked again nor after."""
    other = f"22{SOMEBODY[2:]}"
    add(annex_template, top / "one", SOMEBODY)
    add(annex_template, top / "two", other)
    async with serving(Watched(top)) as server:
        assert await is_served(server, SOMEBODY)
        assert await is_served(server, other)
        (top / "one").rename(top.parent / "away")
        (top / "two").rename(top / "one")
        assert not await is_served(server, SOMEBODY)
        assert await is_served(server, other)


async def test_a_directory_that_cannot_be_listed_takes_no_repository_away(
    annex_template: Path, top: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Too many open files, or a disk in trouble: nobody may conclude that it is gone."""
    add(annex_template, top / "one", SOMEBODY)
    async with serving(Watched(top)) as server:

        def fails(path: object) -> None:
            raise OSError(errno.EMFILE, "Too many open files")

        with monkeypatch.context() as context:
            context.setattr("locklane_server.repository.annex.discovery.os.scandir", fails)
            await server.repositories.look()
            assert server.repositories.get(SOMEBODY) is not None
        assert await is_served(server, SOMEBODY)


async def test_who_asks_while_it_is_looked_waits_for_that_and_others_do_not(
    annex_template: Path, top: Path
) -> None:
    add(annex_template, top / "one", SOMEBODY)
    found = Watched(top)
    async with serving(found) as server:
        found.may_look.clear()
        new = f"11{SOMEBODY[2:]}"
        add(annex_template, top / "two", new)
        asking = asyncio.create_task(is_served(server, new))
        await eventually(lambda: found.looks == 2)
        assert await is_served(server, SOMEBODY)
        assert not asking.done()
        found.may_look.set()
        assert await asking


async def test_a_server_can_be_stopped_while_it_looks(annex_template: Path, top: Path) -> None:
    tasks, files = len(asyncio.all_tasks()), descriptors()
    add(annex_template, top / "one", SOMEBODY)
    found = Watched(top)
    served = Repositories([], found)
    async with served.open():
        assert len(served) == 1
        add(annex_template, top / "two", f"11{SOMEBODY[2:]}")
        found.may_look.clear()
        looking = asyncio.create_task(served.look())
        await eventually(lambda: found.looks == 2)
        threading.Timer(0.05, found.may_look.set).start()
        looking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await looking
    assert len(served) == 0
    await eventually(lambda: len(asyncio.all_tasks()) == tasks)
    await eventually(lambda: descriptors() <= files)


async def test_a_server_can_be_stopped_while_it_looks_by_itself(
    annex_template: Path, top: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repositories, "LOOK_SECONDS", 0.01)
    tasks, files = len(asyncio.all_tasks()), descriptors()
    found = Watched(top)
    served = Repositories([], found)
    async with served.open():
        add(annex_template, top / "one", SOMEBODY)
        await eventually(lambda: len(served) == 1)
        found.may_look.clear()
        looks = found.looks
        await eventually(lambda: found.looks > looks)
        add(annex_template, top / "two", f"11{SOMEBODY[2:]}")
        asyncio.get_running_loop().call_later(0.05, found.may_look.set)
    assert len(served) == 0
    await eventually(lambda: len(asyncio.all_tasks()) == tasks)
    await eventually(lambda: descriptors() <= files)


async def test_one_that_fails_to_open_does_not_keep_the_others_from_being_served(
    annex_template: Path, top: Path, caplog: pytest.LogCaptureFixture
) -> None:
    add(annex_template, top / "a", f"11{SOMEBODY[2:]}")
    git(top / "a", "config", "annex.version", "8")
    (top / "b").mkdir()
    git(top / "b", "init", "-q")  # none of git-annex's, which is no fault
    add(annex_template, top / "c", SOMEBODY)
    caplog.set_level(logging.INFO)
    async with serving(Watched(top)) as server:
        assert [served.uuid for served in server.repositories] == [SOMEBODY]
        for _ in range(3):
            await server.repositories.look()
        refused = [each for each in caplog.messages if "annex.version 8" in each]
        assert len(refused) == 1, "it is said once"
        assert not [each for each in caplog.messages if str(top / "b") in each]
        # Set right, it is served.
        git(top / "a", "config", "annex.version", "10")
        assert await is_served(server, f"11{SOMEBODY[2:]}")


async def test_two_that_are_given_with_one_uuid_are_refused(
    tmp_path: Path, clock: FakeClock
) -> None:
    served = []
    for name in ("a", "b"):
        make_directory(tmp_path / name)
        (tmp_path / name / ".locklane" / "uuid").write_text(SOMEBODY)
        served.append(ServedRepository(open_repository(tmp_path / name, Workers(), clock)))
    with pytest.raises(ValueError, match="the same UUID"):
        Repositories(served)
    for each in served:
        await each.aclose()
    for name in ("a", "b"):
        # Let go of, it can be opened again.
        await open_repository(tmp_path / name, Workers(), clock).aclose()
