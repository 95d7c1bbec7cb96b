"""The client's transfers and removals, put to real servers over a real git-annex repository."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import anyio
import pytest
from conftest import BOUND, descriptors, eventually, key_of
from contentservers import SERVERS, Repository, p2phttp

from locklane_client import (
    AccessDenied,
    Client,
    ContentChanged,
    Got,
    Key,
    LocalFileError,
    LocklaneError,
    NotPresent,
    NotSupported,
    PutRefused,
    RemovalRefused,
    ServerFailed,
    ServerUnreachable,
    Stored,
    WrongContent,
)
from locklane_client.wire import VERSIONS

MIB = 1 << 20


@dataclass
class Remote:
    """A repository, and a server of it."""

    repository: Repository
    url: str

    def client(self, version: int = VERSIONS[0]) -> Client:
        """One that has found out already that the server speaks only this version."""
        client = Client(self.url, answer_timeout=BOUND)
        client._session.version = version
        return client


@pytest.fixture(scope="module", params=list(SERVERS))
def remote(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Remote]:
    repository = Repository(tmp_path_factory.mktemp("annex"))
    with SERVERS[request.param](repository) as url:
        yield Remote(repository, url)
    repository.make_removable()


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def part(path: Path) -> Path:
    return path.with_name(path.name + ".part")


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def only(path: Path) -> bool:
    """There is nothing else beside a file."""
    return [found.name for found in path.parent.iterdir()] == [path.name]


# -- checkpresent, remove, remove-before, gettimestamp ---------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
async def test_presence_and_removal(remote: Remote, version: int) -> None:
    key = remote.repository.add(os.urandom(1000))
    async with remote.client(version) as client:
        assert await client.check_present(key)
        assert (await client.remove(key)).plus_uuids == ()
        assert not remote.repository.object_path(key).exists()
        assert not await client.check_present(key.text)
        await client.remove(key)
        assert client.version == version
    assert not remote.repository.whereis(key)


async def test_a_locked_key_is_not_removed(remote: Remote) -> None:
    key = remote.repository.add(os.urandom(1000))
    async with remote.client() as client:
        async with client.lock(key):
            with pytest.raises((RemovalRefused, ServerFailed)):
                await client.remove(key)
            assert await client.check_present(key)
        await client.remove(key)


@pytest.mark.parametrize("version", [3, 4])
async def test_removal_before_a_time(remote: Remote, version: int) -> None:
    key = remote.repository.add(os.urandom(1000))
    async with remote.client(version) as client:
        now = await client.timestamp()
        assert now > 0
        with pytest.raises(RemovalRefused, match="did not remove") as refused:
            await client.remove_before(key, now - 1)
        assert refused.value.plus_uuids == ()
        assert await client.check_present(key)
        await client.remove_before(key, now + 600)
        assert not await client.check_present(key)
        with pytest.raises(ValueError, match="0 or more"):
            await client.remove_before(key, -1)


@pytest.mark.parametrize("version", [0, 1, 2])
async def test_what_an_old_server_cannot_do_is_not_done_in_another_way(
    remote: Remote, version: int
) -> None:
    key = remote.repository.add(os.urandom(1000))
    async with remote.client(version) as client:
        with pytest.raises(NotSupported, match="version 3"):
            await client.remove_before(key, 1 << 40)
        with pytest.raises(NotSupported, match="version 3"):
            await client.timestamp()
        with pytest.raises(NotSupported, match="version 4"):
            await client.put(key, None, data_present=True)
        assert await client.check_present(key)


# -- get -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("size", [0, 1, 65_536, 5 * MIB + 7])
async def test_a_download(remote: Remote, tmp_path: Path, version: int, size: int) -> None:
    content = os.urandom(size)
    key = remote.repository.add(content)
    seen: list[tuple[int, int | None]] = []
    path = tmp_path / "file"
    async with remote.client(version) as client:
        got = await client.get(
            key,
            path,
            progress=lambda done, total: seen.append((done, total)),
            associated_file="some/file ä.dat",
        )
        assert client.connections_opened <= 2
    assert got == Got(size, True)
    assert path.read_bytes() == content
    assert only(path)
    assert path.stat().st_mode & 0o777 == 0o666 & ~_umask()
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert not size or seen[-1] == (size, size)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@pytest.mark.parametrize(
    "backend", ["WORM", "MD5", "SHA512", "BLAKE2BP512E", "BLAKE3_256", "XXH3E", "SKEIN256E"]
)
async def test_downloads_of_other_backends(remote: Remote, tmp_path: Path, backend: str) -> None:
    content = os.urandom(MIB + 1)
    key = remote.repository.add(content, backend)
    async with remote.client() as client:
        got = await client.get(key, tmp_path / "file")
    assert got == Got(len(content), backend not in ("WORM", "SKEIN256E"))
    assert (tmp_path / "file").read_bytes() == content


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    "key",
    [
        key_of(b"never stored"),
        Key.parse("WORM-s0--empty"),
        Key.parse("WORM-s5--full"),
        Key.parse("URL--nothing is known of it"),
        key_of(b""),
    ],
    ids=str,
)
async def test_what_is_absent_is_not_taken_for_empty(
    remote: Remote, tmp_path: Path, version: int, key: Key
) -> None:
    async with remote.client(version) as client:
        await client.remove(key)
        with pytest.raises(NotPresent, match="does not have the content"):
            await client.get(key, tmp_path / "file")
        assert names(tmp_path) == []
        # What came of it once is kept, as long as it can be verified.
        write(tmp_path / "file.part", b"nev")
        with pytest.raises(NotPresent):
            await client.get(key, tmp_path / "file")
    kept = key == key_of(b"never stored")
    assert names(tmp_path) == ["file.part"] * kept


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("there", [1, 65_536, 3 * MIB - 1, 3 * MIB])
async def test_a_download_goes_on(remote: Remote, tmp_path: Path, version: int, there: int) -> None:
    content = os.urandom(3 * MIB)
    key = remote.repository.add(content)
    path = tmp_path / "file"
    write(part(path), content[:there])
    seen: list[int] = []
    async with remote.client(version) as client:
        got = await client.get(key, path, progress=lambda done, _: seen.append(done))
        assert client.counts.requests == (there < len(content))
    assert got == Got(len(content), True, there)
    assert path.read_bytes() == content
    assert only(path)
    assert not seen or seen[0] == there


async def test_what_an_earlier_attempt_left_is_not_taken_on_trust(
    remote: Remote, tmp_path: Path
) -> None:
    content = os.urandom(100_000)
    key = remote.repository.add(content)
    path = tmp_path / "file"
    async with remote.client() as client:
        for wrong in (b"x" * 1000, b"x" * len(content)):
            write(part(path), wrong)
            with pytest.raises(WrongContent, match=r"another hash.*earlier attempt"):
                await client.get(key, path)
            assert names(tmp_path) == []
        write(part(path), b"x" * (len(content) + 1))  # cannot be of this key: begun anew
        assert (await client.get(key, path)).resumed_from == 0
        assert path.read_bytes() == content


async def test_what_cannot_be_verified_is_begun_anew(remote: Remote, tmp_path: Path) -> None:
    content = os.urandom(100_000)
    path = tmp_path / "file"
    async with remote.client() as client:
        for number, (backend, verify) in enumerate((("WORM", True), ("SHA256", False))):
            key = remote.repository.add(content + bytes([number]), backend)
            write(part(path), b"x" * 1000)
            got = await client.get(key, path, verify=verify)
            assert got == Got(len(content) + 1, False)
            assert path.read_bytes() == content + bytes([number])
            path.unlink()


@pytest.mark.parametrize("version", [0, 4])
async def test_content_that_is_damaged_at_the_server(
    remote: Remote, tmp_path: Path, version: int
) -> None:
    content = os.urandom(100_000)
    keys = [remote.repository.add(content + bytes([number])) for number in range(2)]
    longer, other = (remote.repository.object_path(key) for key in keys)
    for path, damaged in ((longer, content + b"xyz"), (other, b"x" * 100_001)):
        path.chmod(0o644)
        path.write_bytes(damaged)
        path.chmod(0o444)
    async with remote.client(version) as client:
        with pytest.raises(WrongContent, match="100003 bytes"):
            await client.get(keys[0], tmp_path / "file")
        with pytest.raises(WrongContent, match="another hash; nothing was kept"):
            await client.get(keys[1], tmp_path / "file")
        assert names(tmp_path) == []
        for key in keys:
            await client.remove(key)


async def test_cancelled_downloads_leave_nothing_open_and_go_on(
    remote: Remote, tmp_path: Path
) -> None:
    content = os.urandom(20 * MIB)
    key = remote.repository.add(content)
    path = tmp_path / "file"
    open_before = descriptors()
    for how in ("task", "scope"):
        before = part(path).stat().st_size if part(path).exists() else 0
        async with remote.client() as client:
            come = asyncio.Event()

            def progress(done: int, _: int | None, more: int = before, come: asyncio.Event = come):
                if done > more + MIB:
                    come.set()

            if how == "task":
                task = asyncio.create_task(client.get(key, path, progress=progress))
                await come.wait()
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            else:
                async with anyio.create_task_group() as group:
                    group.start_soon(lambda: client.get(key, path, progress=progress))
                    await come.wait()
                    group.cancel_scope.cancel()
            assert names(tmp_path) == ["file.part"]
            size = part(path).stat().st_size
            assert before < size < len(content)
            assert part(path).read_bytes() == content[:size]
    async with remote.client() as client:
        got = await client.get(key, path)
    assert got.resumed_from == size
    assert path.read_bytes() == content
    await eventually(lambda: descriptors() <= open_before)


async def test_a_callbacks_own_error_is_what_the_caller_sees(
    remote: Remote, tmp_path: Path
) -> None:
    content = os.urandom(2 * MIB)
    key = remote.repository.add(content)
    absent = key_of(content + b"x")

    def progress(done: int, _: int | None) -> None:
        if done:
            raise OSError(errno.EIO, "of the callback")

    async with remote.client() as client:
        with pytest.raises(OSError, match="of the callback"):
            await client.get(key, tmp_path / "file", progress=progress)
        assert names(tmp_path) == ["file.part"]
        with pytest.raises(OSError, match="of the callback"):
            await client.put(absent, write(tmp_path / "f", content + b"x"), progress=progress)


# -- get: this end's files -------------------------------------------------------------------------


async def test_an_existing_file_is_left_as_it_is(remote: Remote, tmp_path: Path) -> None:
    key = remote.repository.add(os.urandom(2 * MIB))
    path = write(tmp_path / "file", b"mine")
    async with remote.client() as client:
        with pytest.raises(LocalFileError, match="exists already"):
            await client.get(key, path)
        assert only(path)
        (tmp_path / "dangling").symlink_to("nowhere")
        with pytest.raises(LocalFileError, match="exists already"):
            await client.get(key, tmp_path / "dangling")

        def progress(done: int, _: int | None) -> None:
            if not (tmp_path / "late").exists():
                write(tmp_path / "late", b"mine too")

        with pytest.raises(LocalFileError, match="exists already"):
            await client.get(key, tmp_path / "late", progress=progress)
        assert (tmp_path / "late").read_bytes() == b"mine too"
        assert part(tmp_path / "late").stat().st_size == key.size
        (tmp_path / "late").unlink()
        assert (await client.get(key, tmp_path / "late")).resumed_from == key.size
    assert path.read_bytes() == b"mine"


async def test_places_that_cannot_be_written(remote: Remote, tmp_path: Path) -> None:
    key = remote.repository.add(os.urandom(1000))
    async with remote.client() as client:
        with pytest.raises(LocalFileError, match=r"no/file.part: No such file or directory"):
            await client.get(key, tmp_path / "no" / "file")
        part(tmp_path / "linked").symlink_to(tmp_path / "elsewhere")
        with pytest.raises(LocalFileError, match=r"linked.part"):
            await client.get(key, tmp_path / "linked")
        os.mkfifo(part(tmp_path / "pipe"))
        with pytest.raises(LocalFileError, match="no regular file"):
            await client.get(key, tmp_path / "pipe")
        with pytest.raises(LocalFileError, match="File name too long"):
            await client.get(key, tmp_path / ("x" * 252))
        assert not (tmp_path / "elsewhere").exists()
        assert part(tmp_path / "pipe").exists()


async def test_two_downloads_to_one_file(remote: Remote, tmp_path: Path) -> None:
    content = os.urandom(1000)
    key = remote.repository.add(content)
    path = tmp_path / "file"
    async with remote.client() as client:
        with part(path).open("wb") as other:
            fcntl.flock(other, fcntl.LOCK_EX)
            with pytest.raises(LocalFileError, match="another download"):
                await client.get(key, path)
        results = await asyncio.gather(
            *(client.get(key, path) for _ in range(8)), return_exceptions=True
        )
        assert sum(isinstance(result, Got) for result in results) == 1
        for result in results:
            assert isinstance(result, Got | LocalFileError), result
    assert path.read_bytes() == content
    assert only(path)


# -- put -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("size", [0, 1, 5 * MIB + 7])
async def test_an_upload(remote: Remote, tmp_path: Path, version: int, size: int) -> None:
    content = b"%d" % version + os.urandom(size - 1) if size else b""
    key = key_of(content)
    seen: list[tuple[int, int | None]] = []
    path = write(tmp_path / "file", content)
    async with remote.client(version) as client:
        await client.remove(key)
        stored = await client.put(
            key,
            path,
            progress=lambda done, total: seen.append((done, total)),
            associated_file="dir/[x] ä.txt",
        )
        assert stored == Stored(False)
        assert await client.check_present(key)
        again = await client.put(key, path)
        assert again == Stored(True)
        assert client.connections_opened == 1
    assert seen[0] == (0, size)
    assert seen[-1] == (size, size)
    assert remote.repository.object_path(key).read_bytes() == content
    assert remote.repository.whereis(key)


async def test_what_was_put_is_good_to_git_annex(remote: Remote, tmp_path: Path) -> None:
    contents = [os.urandom(10_000 + number) for number in range(5)]
    async with remote.client() as client:
        await asyncio.gather(
            *(
                client.put(key_of(content), write(tmp_path / str(number), content))
                for number, content in enumerate(contents)
            )
        )
    for content in contents:
        remote.repository.know(key_of(content))
        assert remote.repository.whereis(key_of(content))
        assert remote.repository.is_clean(key_of(content))


@pytest.mark.parametrize("there", [1, MIB + 1, 3 * MIB])
async def test_an_upload_goes_on(remote: Remote, tmp_path: Path, there: int) -> None:
    content = os.urandom(3 * MIB)
    key = key_of(content)
    path = write(tmp_path / "file", content)
    write(remote.repository.partial(key), content[:there])
    seen: list[int] = []
    async with remote.client() as client:
        stored = await client.put(key, path, progress=lambda done, _: seen.append(done))
    assert stored == Stored(False, (), there)
    assert seen[0] == there
    assert seen[-1] == len(content)
    assert remote.repository.object_path(key).read_bytes() == content


async def test_a_wrong_part_at_the_server_is_in_the_way_only_once(
    remote: Remote, tmp_path: Path
) -> None:
    content = os.urandom(3000)
    key = key_of(content)
    path = write(tmp_path / "file", content)
    async with remote.client() as client:
        write(remote.repository.partial(key), b"x" * 1000)
        with pytest.raises(PutRefused, match="another attempt") as refused:
            await client.put(key, path)
        assert refused.value.reason is None or "hash" in refused.value.reason
        assert refused.value.plus_uuids == ()
        assert not await client.check_present(key)
        write(remote.repository.partial(key), b"x" * 4000)
        assert await client.put(key, path) == Stored(False)
    assert remote.repository.object_path(key).read_bytes() == content


@pytest.mark.parametrize("version", VERSIONS)
async def test_wrong_content_is_not_stored(remote: Remote, tmp_path: Path, version: int) -> None:
    content = os.urandom(3000)
    key = key_of(content)
    async with remote.client(version) as client:
        with pytest.raises(PutRefused, match="did not store"):
            await client.put(key, write(tmp_path / "file", b"x" * 3000))
        requests = client.counts.requests
        with pytest.raises(WrongContent, match="4 bytes instead of 3000"):
            await client.put(key, write(tmp_path / "file", b"four"))
        assert client.counts.requests == requests, "it was sent"
        assert not await client.check_present(key)
        await client.put(key, write(tmp_path / "file", content))


@pytest.mark.parametrize("how", ["written", "shortened", "lengthened"])
@pytest.mark.parametrize("size", [1, 5 * MIB])
async def test_a_file_that_changes_while_it_is_sent(
    remote: Remote, tmp_path: Path, how: str, size: int
) -> None:
    """Nothing but the size can be verified of a WORM key, so that the server has to be told."""
    key = Key.parse(f"WORM-s{size}-m1--{how}")
    path = write(tmp_path / "file", b"a" * size)
    os.utime(path, ns=(1, 1))

    def progress(done: int, _: int | None) -> None:
        if done == 0:
            if how == "shortened":
                os.truncate(path, size - 1)
            elif how == "lengthened":
                os.truncate(path, size + 1)
            else:
                write(path, b"b" * size)

    async with remote.client() as client:
        with pytest.raises(ContentChanged, match="stored nothing"):
            await client.put(key, path, progress=progress)
        assert not await client.check_present(key)


async def test_cancelled_uploads_leave_nothing_open_and_go_on(
    remote: Remote, tmp_path: Path
) -> None:
    content = os.urandom(40 * MIB)
    key = key_of(content)
    path = write(tmp_path / "file", content)
    open_before = descriptors()
    async with remote.client() as client:
        come = asyncio.Event()
        task = asyncio.create_task(
            client.put(key, path, progress=lambda done, _: done > 10 * MIB and come.set())
        )
        await come.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not await client.check_present(key)
        stored = None
        end = asyncio.get_running_loop().time() + BOUND
        while stored is None:  # as long as the server thinks that the first goes on, it refuses
            try:
                stored = await client.put(key, path)
            except LocklaneError:
                assert asyncio.get_running_loop().time() < end
        assert 0 < stored.resumed_from < len(content)
    assert remote.repository.object_path(key).read_bytes() == content
    await eventually(lambda: descriptors() <= open_before)


async def test_files_that_cannot_be_sent(remote: Remote, tmp_path: Path) -> None:
    key = key_of(b"x")
    os.mkfifo(tmp_path / "pipe")
    async with remote.client() as client:
        with pytest.raises(LocalFileError, match="no: No such file"):
            await client.put(key, tmp_path / "no")
        for path in (tmp_path, tmp_path / "pipe"):
            with pytest.raises(LocalFileError, match="no regular file"):
                await client.put(key, path)
        with pytest.raises(ValueError, match="no path"):
            await client.put(key, None)
        with pytest.raises(ValueError, match="not a git-annex key"):
            await client.put("nokey", tmp_path / "no")
        assert client.counts.requests == 0


async def test_content_that_came_another_way(remote: Remote) -> None:
    content = os.urandom(1000)
    key = remote.repository.add(content)
    async with remote.client() as client:
        assert not (await client.put(key, None, data_present=True)).plus_uuids
        with pytest.raises(PutRefused):
            await client.put(key_of(b"not there"), None, data_present=True)


async def test_keys_of_any_bytes(remote: Remote, tmp_path: Path) -> None:
    for name in ("a b+c&d%e:f", "[x]", "ä€", "\udcff\udcfe", "'\"<>?#;="):
        key = Key.parse(f"WORM-s3-m1--{name}")
        async with remote.client() as client:
            await client.put(key, write(tmp_path / "in", b"abc"))
            await client.get(key, tmp_path / "out")
            assert (tmp_path / "out").read_bytes() == b"abc"
            (tmp_path / "out").unlink()
            await client.remove(key)


async def test_a_server_that_lets_nobody_in(tmp_path: Path) -> None:
    repository = Repository(tmp_path)
    content = os.urandom(8 * MIB)
    key = repository.add(content)
    other = os.urandom(8 * MIB)
    with p2phttp(repository, access="--unauth-readonly") as url:
        for version in (0, 4):
            async with Client(url) as client:
                client._session.version = version
                await client.get(key, tmp_path / f"got{version}")
                with pytest.raises(AccessDenied):
                    await client.remove(key)
                # Where nothing is asked before, the answer may get lost: the server does not read
                # what is still being sent, and closes the connection.
                denied = AccessDenied if version else (AccessDenied, ServerUnreachable)
                with pytest.raises(denied):
                    await client.put(key_of(other), write(tmp_path / "other", other))
    with pytest.raises(ServerUnreachable):
        async with Client(url, connect_timeout=5) as client:
            await client.get(key, tmp_path / "late")
    assert not (tmp_path / "late.part").exists()
    repository.make_removable()
