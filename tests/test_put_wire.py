"""Uploads as seen on the wire: who asks before sending, who is slow, who vanishes, who is refused
while still sending; and disks that are full, or not to be written to."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import random
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from conftest import ABSENT, LOCKLANE, Process, Serve, ServerProcess, eventually, post
from kinds import both, git, key_of, kind_of, object_path, partial_path
from rawhttp import LAST_CHUNK, LENGTH, chunk, leaves_nothing_open, request, wire
from test_put import fetched, offset, upload

from locklane_client import Key
from locklane_client.wire import JSON_TYPE

pytestmark = both

CONTENT = random.Random(7).randbytes(200_000)
KEY = key_of(CONTENT)
SIZE = len(CONTENT)
CHUNKED = "Transfer-Encoding: chunked"
ASKING = "Expect: 100-continue"
CHECKPRESENT = request("checkpresent", KEY)
NOBODY = 65534


# -- asking first ----------------------------------------------------------------------------------


@pytest.mark.parametrize("spelling", ["100-continue", "100-Continue"])
@pytest.mark.parametrize("chunked", [False, True], ids=["Content-Length", "chunked"])
async def test_who_asks_first_is_told_to_go_ahead(
    serve: Serve, chunked: bool, spelling: str
) -> None:
    async with serve() as there, wire(there) as connection:
        expect = f"Expect: {spelling}"
        if chunked:
            connection.head("POST", request("put", KEY), expect, CHUNKED, promised=SIZE)
        else:
            connection.head("POST", request("put", KEY), expect, promised=SIZE, length=SIZE)
        assert await connection.line() == "HTTP/1.1 100 Continue"
        assert await connection.line() == ""
        await connection.send(chunk(CONTENT) + LAST_CHUNK if chunked else CONTENT)
        answer = await connection.answer()
        assert (answer.status, json.loads(answer.body)["stored"]) == (200, True)
        # The connection is good for more.
        connection.head("POST", CHECKPRESENT, length=0)
        assert (await connection.answer()).body == b'{"present":true}'


REFUSED = {
    "no length": (request("put", KEY), {}, 400),
    "too long for the key": (request("put", KEY), {"promised": SIZE + 1}, 422),
    "after the end": (request("put", KEY, offset=10), {"promised": SIZE - 10}, 409),
    "no key": (f"v4/put?key=nokey&clientuuid={'u'}", {"promised": SIZE}, 400),
    "no such version": (request("put", KEY, 5), {"promised": SIZE}, 404),
}


@pytest.mark.parametrize(("what", "lengths", "status"), REFUSED.values(), ids=REFUSED.keys())
async def test_who_asks_first_and_is_refused_is_told_so_instead(
    serve: Serve, what: str, lengths: dict[str, int], status: int
) -> None:
    async with serve() as there, leaves_nothing_open(there), wire(there) as connection:
        connection.head("POST", what, ASKING, length=SIZE, **lengths)
        answer = await connection.answer()
        assert answer.status == status
        assert answer["Content-Type"] == JSON_TYPE
        assert json.loads(answer.body)["error"][:100] in answer.reason


async def test_who_asks_first_with_what_is_there_is_answered_at_once(
    serve: Serve, key: Key
) -> None:
    async with serve() as there, wire(there) as connection:
        size = key.size or 0
        connection.head("POST", request("put", key), ASKING, promised=size, length=size)
        answer = await connection.answer()
        assert (answer.status, json.loads(answer.body)["stored"]) == (200, True)


async def test_who_does_not_ask_gets_no_100_and_sends_what_is_there_in_vain(
    serve: Serve, key: Key
) -> None:
    """The connection is good for more then: the body has been read to its end."""
    async with serve() as there, wire(there) as connection:
        content = object_path(there.store, key).read_bytes()
        connection.head("POST", request("put", key), promised=len(content), length=len(content))
        await connection.send(content[:100])
        await connection.send(content[100:])
        connection.head("POST", request("checkpresent", key), length=0)
        assert (await connection.answer()).status == 200
        assert (await connection.answer()).body == b'{"present":true}'


# -- slow, and gone --------------------------------------------------------------------------------


async def test_a_client_that_sends_slowly_keeps_no_worker_from_others(serve: Serve) -> None:
    """There is one worker, and it stores another upload meanwhile."""
    async with serve(jobs=1) as there, leaves_nothing_open(there), wire(there) as slow:
        slow.head("POST", request("put", KEY), CHUNKED, promised=SIZE)
        for begin in range(0, SIZE, 20_000):
            await slow.send(chunk(CONTENT[begin : begin + 20_000]))
            other = CONTENT[begin:]
            if begin:
                assert (await upload(there, key_of(other), other))[0] == 200
        await slow.send(LAST_CHUNK)
        assert (await slow.answer()).status == 200
        assert await fetched(there, KEY) == CONTENT


@pytest.mark.parametrize("how", ["reset", "end of file"])
@pytest.mark.parametrize("chunked", [False, True], ids=["Content-Length", "chunked"])
async def test_what_came_of_a_client_that_vanished_is_kept_and_can_be_resumed(
    serve: Serve, how: str, chunked: bool
) -> None:
    content = random.Random(8).randbytes(3_000_000)
    key, size = key_of(content), len(content)
    async with serve() as there, leaves_nothing_open(there):
        async with wire(there) as connection:
            if chunked:
                connection.head("POST", request("put", key), CHUNKED, promised=size)
                await connection.send(chunk(content[: size - 1]))
            else:
                connection.head("POST", request("put", key), promised=size, length=size)
                await connection.send(content[: size - 1])
            await eventually(lambda: _length(partial_path(there.store, key)) >= 2**20)
            if how == "reset":
                connection.vanish()
        await eventually(lambda: there.server._api.in_progress == 0)
        begin = await offset(there, key)
        assert 2**20 <= begin < size
        assert await fetched(there, key) is None
        assert (await upload(there, key, content[begin:], offset=begin))[0] == 200
        assert await fetched(there, key) == content


def _length(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


async def test_a_client_that_vanished_before_a_byte_leaves_no_empty_file(serve: Serve) -> None:
    async with serve() as there, leaves_nothing_open(there):
        async with wire(there) as connection:
            connection.head("POST", request("put", KEY), ASKING, promised=SIZE, length=SIZE)
            assert await connection.line() == "HTTP/1.1 100 Continue"
            connection.vanish()
        await eventually(lambda: not partial_path(there.store, KEY).exists())
        # And the key can be stored by somebody else.
        await eventually(lambda: there.server._api.in_progress == 0)
        assert (await upload(there, KEY, CONTENT))[0] == 200


async def test_what_follows_an_upload_on_its_connection_is_answered_in_turn(serve: Serve) -> None:
    async with serve() as there, wire(there) as connection:
        connection.head("POST", CHECKPRESENT, length=0)
        connection.head("POST", request("put", KEY), promised=SIZE, length=SIZE)
        connection.writer.write(CONTENT)
        connection.head("POST", CHECKPRESENT, length=0)
        connection.head("POST", request("remove", KEY), length=0)
        connection.head("POST", CHECKPRESENT, length=0)
        await connection.writer.drain()
        bodies = [json.loads((await connection.answer()).body) for _ in range(5)]
        assert bodies == [
            {"present": False},
            {"stored": True, "plusuuids": []},
            {"present": True},
            {"removed": True, "plusuuids": []},
            {"present": False},
        ]


# -- refused while it is sent ----------------------------------------------------------------------


@pytest.mark.parametrize(("what", "lengths", "status"), REFUSED.values(), ids=REFUSED.keys())
async def test_who_reads_no_answer_before_all_is_sent_still_reads_the_refusal(
    serve: Serve, what: str, lengths: dict[str, int], status: int
) -> None:
    """A plain client over a plain socket, with a body longer than any buffer on the way."""
    size = 20_000_000
    promised = lengths.get("promised")

    def ask(port: int, base: str) -> bytes:
        with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
            lines = [f"POST {base}/{what} HTTP/1.1", "Host: h", f"Content-Length: {size}"]
            lines += [f"{LENGTH}: {promised}"] if promised else []
            connection.sendall("\r\n".join([*lines, "", ""]).encode())
            for _ in range(size // 100_000):
                connection.sendall(bytes(100_000))
            return connection.recv(65536)

    async with serve() as there, leaves_nothing_open(there):
        url = urlsplit(there.url)
        answer = await asyncio.to_thread(ask, url.port or 0, url.path)
        assert answer.startswith(f"HTTP/1.1 {status} ".encode())
        assert b'{"error":"' in answer


async def test_an_upload_that_does_not_fit_is_refused_before_it_is_sent(
    serve: Serve,
) -> None:
    key = Key.parse(f"SHA256-s{10**18}--{hashlib.sha256(b'').hexdigest()}")
    async with serve() as there, wire(there) as connection:
        connection.head("POST", request("put", key), ASKING, CHUNKED, promised=10**18)
        answer = await connection.answer()
        assert answer.status == 507
        assert "not enough free space" in json.loads(answer.body)["error"]
        assert await offset(there, key) == 0


# -- disks that do not take it ---------------------------------------------------------------------


async def test_a_file_that_may_not_be_so_long_is_507_and_the_server_goes_on(
    store: Path, key: Key
) -> None:
    """A limit of the process stands for any disk that takes no more in the middle of it."""
    content = random.Random(9).randbytes(5_000_000)
    big = key_of(content)
    where = "--directory" if kind_of(store) == "annex" else "--store"
    serving = (LOCKLANE, "serve", where, store, "--wideopen", "--port", "0")
    with Process("prlimit", "--fsize=3000000", *serving) as process:
        url = (await process.prints(r"serving (annex\+http://\S+)\n"))[1]
        status, answer = await upload(url, big, content)
        assert status == 507
        assert "File too large; free some space" in answer["error"]
        assert await post(url, "checkpresent", key=big.text) == (200, {"present": False})
        assert (await upload(url, KEY, CONTENT))[0] == 200
        assert (await post(url, "lockcontent", key=key.text))[1]["locked"]
    assert "Traceback" not in process.output


@contextmanager
def on_a_small_disk(store: Path, megabytes: int) -> Iterator[tuple[Process, Path]]:
    """``locklane serve`` over a copy of a store on a file system of its own, which nobody else
    sees; and where that can be looked at from outside."""
    disk = store.parent / "disk"
    disk.mkdir()
    where = "--directory" if kind_of(store) == "annex" else "--store"
    script = (
        f'mount -t tmpfs -o size={megabytes}m none "$0" && cp -a "$1" "$0/store" && '
        f'exec "$2" serve {where} "$0/store" --wideopen --port 0'
    )
    own = ["unshare", "--mount", *(() if os.geteuid() == 0 else ("--map-root-user",))]
    with Process(*own, "sh", "-c", script, disk, store, LOCKLANE) as process:
        yield process, Path(f"/proc/{process.pid}/root{disk}")


async def test_a_disk_that_becomes_full_meanwhile_is_507_and_what_fits_again_is_stored(
    store: Path,
) -> None:
    """Real ENOSPC: there is room for the upload when it begins, and somebody else fills it."""
    content = random.Random(10).randbytes(6_000_000)
    key, size = key_of(content), len(content)
    with on_a_small_disk(store, 120) as (process, disk):
        url = (await process.prints(r"serving (annex\+http://\S+)\n"))[1]
        async with wire(url) as connection:
            connection.head("POST", request("put", key), ASKING, promised=size, length=size)
            assert await connection.line() == "HTTP/1.1 100 Continue"
            assert await connection.line() == ""
            filler = disk / "filler"
            free = os.statvfs(disk)
            with filler.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, free.f_bavail * free.f_frsize)
            await connection.send(content)
            answer = await connection.answer()
            assert answer.status == 507
            assert "No space left on device; free some space" in json.loads(answer.body)["error"]
        assert await post(url, "checkpresent", key=key.text) == (200, {"present": False})
        status, said = await upload(url, key, content)
        assert status == 507
        assert "not enough free space" in said["error"]
        filler.unlink()
        assert (await upload(url, key, content))[0] == 200
        process.terminate()
        assert await process.ended() == 0
    assert "Traceback" not in process.output


def as_ordinary_user(directory: str) -> list[str]:
    """What to put before a command, so that it is an ordinary user's; who gets the directory."""
    if os.geteuid() != 0:
        return []
    for each in (Path(directory), *Path(directory).rglob("*")):
        os.chown(each, NOBODY, NOBODY, follow_symlinks=False)
    # Root's Python may lie where only root may look; reading is no matter here, and writing is.
    may_read = ("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search")
    return ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", *may_read]


async def test_what_may_not_be_written_to_is_500_with_a_sentence(store: Path, key: Key) -> None:
    """The server is an ordinary user's, and so is the disk, but for what root made read-only."""
    with tempfile.TemporaryDirectory() as directory:
        copy = Path(directory) / "store"
        shutil.copytree(store, copy, symlinks=True)
        ordinary = [*as_ordinary_user(directory), "env", f"HOME={directory}"]
        where = "--directory" if kind_of(store) == "annex" else "--store"
        serving = (LOCKLANE, "serve", where, copy, "--wideopen", "--port", "0")
        with Process(*ordinary, *serving) as process:
            url = (await process.prints(r"serving (annex\+http://\S+)\n"))[1]
            partial = partial_path(copy, KEY).parent
            partial.mkdir(exist_ok=True)
            partial.chmod(0o555)
            if os.geteuid() == 0:
                os.chown(partial, 0, 0)
            status, answer = await upload(url, KEY, CONTENT)
            assert status == 500
            assert "cannot store the upload: Permission denied" in answer["error"]
            assert await post(url, "checkpresent", key=KEY.text) == (200, {"present": False})
            # What needs no writing there goes on.
            assert await post(url, "checkpresent", key=key.text) == (200, {"present": True})
            assert (await post(url, "lockcontent", key=key.text))[1]["locked"]
            await process.prints("cannot store the upload")
            process.kill()
        partial.chmod(0o755)
    assert "Traceback" not in process.output


@pytest.mark.kinds("annex")
async def test_content_that_cannot_be_recorded_is_not_said_to_be_stored(
    store: Path, server_process: type[ServerProcess]
) -> None:
    """The journal's directory has become a file."""
    server = server_process()
    journal = store / ".git/annex/journal"
    shutil.rmtree(journal, ignore_errors=True)
    journal.write_text("in the way")
    status, answer = await upload(str(server.url), KEY, CONTENT)
    assert status == 500
    assert "cannot record" in answer["error"]
    journal.unlink()
    # Once more, when it can be: then it is there and on record.
    assert (await upload(str(server.url), KEY, CONTENT))[0] == 200
    assert (await post(server.url, "putoffset", key=ABSENT.text))[0] == 200
    server.terminate()
    assert await server.ended() == 0
    uuid = git(store, "config", "annex.uuid").strip()
    assert uuid in git(store, "annex", "whereis", f"--key={KEY.text}")
