"""The client's transfers against servers that misbehave, over real sockets."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from conftest import descriptors, eventually, key_of

from locklane_client import (
    AccessDenied,
    Client,
    Key,
    LocklaneError,
    NotPresent,
    NotSupported,
    ProtocolViolation,
    PutRefused,
    RemovalRefused,
    ServerFailed,
    ServerUnreachable,
    Stored,
    TransferIncomplete,
    Unverifiable,
    WrongContent,
)

CONTENT = os.urandom(300_000)
KEY = key_of(CONTENT)
SIZELESS = Key.parse(KEY.text.replace(f"-s{KEY.size}", ""))
WORM = Key.parse(f"WORM-s{len(CONTENT)}-m1--worm")
UNKNOWN = Key.parse("URL--unknown")

Reader, Writer = asyncio.StreamReader, asyncio.StreamWriter
Handle = Callable[[str, Reader, Writer], Awaitable[None]]


@asynccontextmanager
async def server(handle: Handle) -> AsyncIterator[str]:
    """A server of which each request goes to a handler: the first line, the rest to be read."""
    tasks: set[asyncio.Task[None]] = set()

    async def connected(reader: Reader, writer: Writer) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                await handle(head, reader, writer)
                await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    listening = await asyncio.start_server(connected, "127.0.0.1", 0)
    try:
        port = listening.sockets[0].getsockname()[1]
        yield f"annex+http://127.0.0.1:{port}/git-annex/u"
    finally:
        listening.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def json(body: bytes, status: str = "200 OK") -> bytes:
    return b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (status.encode(), len(body), body)


PRESENT = json(b'{"present":true}')
ABSENT = json(b'{"present":false}')


def chunked(body: bytes, *headers: str, end: bool = True) -> bytes:
    head = "".join(f"{header}\r\n" for header in headers)
    return (
        f"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n{head}\r\n".encode()
        + (b"%x\r\n%s\r\n" % (len(body), body) if body else b"")
        + (b"0\r\n\r\n" if end else b"")
    )


def plain(length: int, body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (length, body)


def promised(length: int) -> str:
    return f"X-git-annex-data-length: {length}"


def answers(download: bytes, *, close: bool = False, present: bytes = PRESENT) -> Handle:
    async def handle(head: str, reader: Reader, writer: Writer) -> None:
        writer.write(download if head.startswith("GET") else present)
        if close and head.startswith("GET"):
            await writer.drain()
            writer.close()

    return handle


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


# -- downloads -------------------------------------------------------------------------------------

N = len(CONTENT)
BROKEN = [
    ("held back a byte", chunked(CONTENT[:-1], promised(N)), False, N - 1),
    ("cut short", chunked(CONTENT[:5000], promised(N), end=False), True, 5000),
    ("cut short, by length", plain(N, CONTENT[:9]), True, 9),
    ("no length, short", chunked(CONTENT[:5000]), False, 5000),
    ("until closed", b"HTTP/1.1 200 OK\r\n\r\n" + CONTENT[:5000], True, 5000),
]  # fmt: skip


@pytest.mark.parametrize(
    ("download", "close", "kept"), [each[1:] for each in BROKEN], ids=[each[0] for each in BROKEN]
)
async def test_a_download_that_breaks_is_kept_for_later(
    tmp_path: Path, download: bytes, close: bool, kept: int
) -> None:
    path = tmp_path / "file"
    before = descriptors()
    for key, left in ((WORM, 0), (KEY, kept)):
        async with server(answers(download, close=close)) as url, Client(url) as client:
            with pytest.raises(TransferIncomplete) as raised:
                await client.get(key, path)
        assert raised.value.kept == left
        assert names(tmp_path) == ["file.part"] * bool(left)
    assert (tmp_path / "file.part").read_bytes() == CONTENT[:kept]

    async def rest(head: str, reader: Reader, writer: Writer) -> None:
        assert f"offset={kept}&" in head
        writer.write(chunked(CONTENT[kept:], promised(N - kept)))

    async with server(rest) as url, Client(url) as client:
        assert (await client.get(KEY, path)).resumed_from == kept
    assert path.read_bytes() == CONTENT
    assert names(tmp_path) == ["file"]
    await eventually(lambda: descriptors() <= before)


@pytest.mark.parametrize(
    ("key", "download", "error", "says"),
    [
        (KEY, chunked(CONTENT + b"x", promised(N)), WrongContent, "more than"),
        (KEY, chunked(CONTENT + b"x"), WrongContent, "more than"),
        (KEY, chunked(CONTENT + b"x", promised(N + 1)), WrongContent, f"{N + 1} bytes"),
        (SIZELESS, chunked(CONTENT + b"x", promised(N)), WrongContent, "more than"),
        (SIZELESS, chunked(CONTENT + b"x", promised(N + 1)), WrongContent, "another hash"),
        (SIZELESS, chunked(CONTENT[:-1]), WrongContent, "another hash"),
        (UNKNOWN, chunked(CONTENT), Unverifiable, "does not say how long"),
        (UNKNOWN, chunked(CONTENT[:-1], promised(N)), TransferIncomplete, "changed while"),
        (KEY, chunked(CONTENT, "X-git-annex-data-length: ten"), ProtocolViolation, "no number"),
        (KEY, chunked(CONTENT, "X-git-annex-data-length: -5"), ProtocolViolation, "no number"),
        (KEY, json(b"", "302 X\r\nLocation: /"), ProtocolViolation, "302"),
        (KEY, chunked(b"", promised(N), end=False) + b"zz\r\nxx", ProtocolViolation, "HTTP"),
        (KEY, json(b'{"error":"no disk"}', "500 X"), ServerFailed, "500: no disk"),
        (KEY, json(b'{"error":"later"}', "503 X"), ServerUnreachable, "later"),
        (KEY, json(b'{"error":"no"}', "403 X"), AccessDenied, "no"),
        (KEY, json(b"", "404 X"), ProtocolViolation, "and yet"),
        (KEY, chunked(b"", promised(0)), TransferIncomplete, "less than there should be"),
    ],
)  # fmt: skip
async def test_downloads_that_are_refused_leave_nothing(
    tmp_path: Path, key: Key, download: bytes, error: type[LocklaneError], says: str
) -> None:
    async with server(answers(download)) as url, Client(url) as client:
        with pytest.raises(error, match=re.escape(says)):
            await client.get(key, tmp_path / "file")
        assert names(tmp_path) == []


async def test_a_server_that_knows_no_offsets_is_no_dead_end(tmp_path: Path) -> None:
    path = tmp_path / "file"
    async with server(answers(chunked(CONTENT, promised(N)))) as url, Client(url) as client:
        write(tmp_path / "file.part", CONTENT[:1000])
        with pytest.raises(WrongContent, match=f"{N + 1000} bytes"):
            await client.get(KEY, path)
        assert names(tmp_path) == []
        await client.get(KEY, path)
    assert path.read_bytes() == CONTENT


async def test_garbage_is_no_content(tmp_path: Path) -> None:
    for garbage in (b"SSH-2.0-OpenSSH\r\n\r\n", b"HTTP/1.1 abc\r\n\r\n", b"\0" * 100 + b"\r\n\r\n"):
        async with server(answers(garbage, close=True)) as url, Client(url) as client:
            with pytest.raises((ProtocolViolation, ServerUnreachable)):
                await client.get(KEY, tmp_path / "file")
        assert names(tmp_path) == []


async def test_an_unverifiable_download_can_be_asked_for(tmp_path: Path) -> None:
    async with server(answers(chunked(CONTENT))) as url, Client(url) as client:
        got = await client.get(UNKNOWN, tmp_path / "file", verify=False)
    assert (got.size, got.verified) == (N, False)
    async with server(answers(chunked(CONTENT, promised(N)))) as url, Client(url) as client:
        got = await client.get(UNKNOWN, tmp_path / "file2")
    assert (tmp_path / "file2").read_bytes() == CONTENT


async def test_404_of_a_key_and_404_of_a_version_are_told_apart(tmp_path: Path) -> None:
    async def only_version_1(head: str, reader: Reader, writer: Writer) -> None:
        if "/v1/" not in head:
            writer.write(json(b"", "404 X"))
        else:
            writer.write(chunked(CONTENT, promised(N)) if head.startswith("GET") else PRESENT)

    async with server(only_version_1) as url, Client(url) as client:
        await client.get(KEY, tmp_path / "file")
        assert client.version == 1
    not_found = answers(json(b"", "404 X"), present=ABSENT)
    async with server(not_found) as url, Client(url) as client:
        with pytest.raises(NotPresent):
            await client.get(KEY, tmp_path / "file2")
        assert client.version == 4
    nothing = answers(json(b"", "404 X"), present=json(b"", "404 X"))
    async with server(nothing) as url, Client(url) as client:
        with pytest.raises(ServerUnreachable, match="check the address and the UUID"):
            await client.get(KEY, tmp_path / "file2")
    assert names(tmp_path) == ["file"]


async def test_content_that_comes_between_two_questions_is_fetched(tmp_path: Path) -> None:
    asked: list[str] = []

    async def handle(head: str, reader: Reader, writer: Writer) -> None:
        asked.append(head.partition(" ")[0])
        if asked == ["GET"]:
            writer.write(json(b'{"error":"the content is not present"}', "404 X"))
        else:
            writer.write(chunked(CONTENT, promised(N)) if asked[-1] == "GET" else PRESENT)

    async with server(handle) as url, Client(url) as client:
        await client.get(KEY, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert asked == ["GET", "POST", "GET"]


PAGE = b"<html>\n<head><TITLE>404 Not&nbsp;Found</TITLE></head><body><p>nginx</p></body></html>"


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (
            b'{"error":"no repository \'u\' is served here"}',
            "404: no repository 'u' is served here",
        ),
        (PAGE, "404: 404 Not Found"),
        (b"<p>", "404"),
        (b"", "404"),
    ],
)
async def test_404_to_everything_is_a_wrong_address(tmp_path: Path, body: bytes, says: str) -> None:
    path = write(tmp_path / "file", CONTENT)
    async with server(answers(json(body, "404 X"), present=json(body, "404 X"))) as url:
        for transport in ("longpoll", "websocket"):
            async with Client(url, transport=transport) as client:
                for work in (
                    client.timestamp(),
                    client.remove_before(KEY, 5),
                    client.put(KEY, None, data_present=True),
                    client.check_present(KEY),
                    client.remove(KEY),
                    client.get(KEY, tmp_path / "new"),
                    client.put(KEY, path),
                    client.lock(KEY).__aenter__(),
                ):
                    with pytest.raises(ServerUnreachable) as raised:
                        await work
                    said = str(raised.value)
                    assert said.endswith(f" with {says}; check the address and the UUID"), said


@pytest.mark.parametrize("speaks", [0, 1, 2])
async def test_an_old_server_is_told_from_a_wrong_address(speaks: int) -> None:
    asked: list[str] = []

    async def handle(head: str, reader: Reader, writer: Writer) -> None:
        asked.append(head)
        there = f"/v{speaks}/checkpresent?" in head
        writer.write(ABSENT if there else json(b"", "404 X"))

    async with server(handle) as url, Client(url) as client:
        with pytest.raises(
            NotSupported, match=f"speaks version {speaks} .*; gettimestamp came with version 3"
        ):
            await client.timestamp()
        asked.clear()
        with pytest.raises(NotSupported, match="remove-before came with version 3"):
            await client.remove_before(KEY, 5)
        with pytest.raises(NotSupported, match="data-present came with version 4"):
            await client.put(KEY, None, data_present=True)
        assert not asked, "what is known was asked again"


async def test_a_server_without_a_clock_is_not_taken_for_an_old_one() -> None:
    async def handle(head: str, reader: Reader, writer: Writer) -> None:
        writer.write(json(b"", "404 X") if "/gettimestamp" in head else ABSENT)

    async with server(handle) as url, Client(url) as client:
        with pytest.raises(ProtocolViolation, match=r"version 4 .* does not serve gettimestamp"):
            await client.timestamp()


async def test_bad_version_is_as_good_as_404() -> None:
    async def handle(head: str, reader: Reader, writer: Writer) -> None:
        writer.write(PRESENT if "/v2/" in head else json(b"bad version", "400 Bad Request"))

    async with server(handle) as url, Client(url) as client:
        assert await client.check_present(KEY)
        assert client.version == 2
        with pytest.raises(NotSupported):
            await client.remove_before(KEY, 5)


@pytest.mark.parametrize("sent", [b"", chunked(CONTENT[:1000], promised(N), end=False)])
async def test_a_server_that_stalls_is_given_up(tmp_path: Path, sent: bytes) -> None:
    async with server(answers(sent)) as url, Client(url, stall_timeout=0.2) as client:
        with pytest.raises((ServerUnreachable, TransferIncomplete), match=r"0\.2 s"):
            await client.get(KEY, tmp_path / "file")
    assert names(tmp_path) == ["file.part"] * bool(sent)


# -- uploads ---------------------------------------------------------------------------------------


async def read_body(reader: Reader) -> bytes:
    body = b""
    while size := int(await reader.readline(), 16):
        body += (await reader.readexactly(size + 2))[:-2]
    await reader.readline()
    return body


def takes(put: bytes, *, offset: bytes = b'{"offset":0}', read: bool = True) -> Handle:
    async def handle(head: str, reader: Reader, writer: Writer) -> None:
        if "/putoffset?" in head:
            writer.write(json(offset))
            return
        if read:
            await read_body(reader)
        writer.write(put)

    return handle


@pytest.mark.parametrize(
    ("put", "error", "says"),
    [
        (json(b'{"stored":false}'), PutRefused, "did not store"),
        (json(b'{"stored":false,"reason":"full","plusuuids":["[Zm9v]"]}'), PutRefused, "full"),
        (json(b'{"stored":1}'), ProtocolViolation, '"stored"'),
        (json(b'{"stored":true,"plusuuids":[1]}'), ProtocolViolation, "plusuuids"),
        (json(b"[]"), ProtocolViolation, "not a JSON object"),
        (json(b"{"), ProtocolViolation, "not JSON"),
        (json(b"x" * 70_000), ProtocolViolation, "65536 bytes"),
        (json(b'{"error":"no worker"}', "503 X"), ServerUnreachable, "no worker"),
        (json(b'{"error":"broken"}', "500 X"), ServerFailed, "broken"),
        (json(b'{"error":"not you"}', "403 X"), AccessDenied, "not you"),
        (json(b'{"error":"length"}', "400 X"), ProtocolViolation, "length"),
    ],
)  # fmt: skip
async def test_what_a_server_says_to_a_put(
    tmp_path: Path, put: bytes, error: type[LocklaneError], says: str
) -> None:
    path = write(tmp_path / "file", CONTENT)
    async with server(takes(put)) as url, Client(url) as client:
        with pytest.raises(error, match=re.escape(says)) as raised:
            await client.put(KEY, path)
    if isinstance(raised.value, PutRefused) and raised.value.reason:
        assert raised.value.plus_uuids == ("foo",)


@pytest.mark.parametrize(
    ("put", "doubted"),
    [
        (json(b'{"stored":false}'), True),
        (json(b'{"error":"not the content"}', "422 X"), True),
        (json(b'{"stored":false,"reason":"full"}'), False),
        (json(b'{"error":"another upload of it is under way"}', "409 X"), False),
        (json(b'{"error":"too much"}', "413 X"), False),
        (json(b'{"error":"full"}', "507 X"), False),
    ],
)
async def test_an_earlier_attempt_is_only_blamed_where_it_can_be_the_reason(
    tmp_path: Path, put: bytes, doubted: bool
) -> None:
    path = write(tmp_path / "file", CONTENT)
    async with server(takes(put, offset=b'{"offset":5}')) as url, Client(url) as client:
        with pytest.raises(PutRefused) as raised:
            await client.put(KEY, path)
    assert ("5 bytes of an earlier attempt" in str(raised.value)) == doubted


@pytest.mark.parametrize("offset", [b"{}", b'{"offset":-1}', b'{"offset":true}', b'{"offset":1e3}'])
async def test_an_offset_that_is_none(tmp_path: Path, offset: bytes) -> None:
    path = write(tmp_path / "file", CONTENT)
    async with server(takes(b"", offset=offset)) as url, Client(url) as client:
        with pytest.raises(ProtocolViolation, match="offset"):
            await client.put(KEY, path)


async def test_a_part_that_is_too_long_and_does_not_go_away(tmp_path: Path) -> None:
    path = write(tmp_path / "file", CONTENT)
    handle = takes(json(b'{"stored":false}'), offset=b'{"offset":400000}')
    async with server(handle) as url, Client(url) as client:
        with pytest.raises(ProtocolViolation, match="400000 bytes of a content of 300000"):
            await client.put(KEY, path)


async def test_what_is_promised_is_what_is_sent(tmp_path: Path) -> None:
    path = write(tmp_path / "file", CONTENT)
    seen: list[tuple[str, bytes]] = []

    async def handle(head: str, reader: Reader, writer: Writer) -> None:
        if "/putoffset?" in head:
            writer.write(json(b'{"offset":100000}'))
            return
        seen.append((head, await read_body(reader)))
        writer.write(json(b'{"stored":true,"plusuuids":["a","b"]}'))

    async with server(handle) as url, Client(url) as client:
        stored = await client.put(KEY, path, associated_file="ä b")
        assert client.connections_opened == 1
    assert stored == Stored(False, ("a", "b"), 100_000)
    ((head, body),) = seen
    assert body == CONTENT[100_000:]
    assert "X-git-annex-data-length: 200000\r\n" in head
    assert "offset=100000" in head
    assert "associatedfile=%C3%A4%20b" in head


@pytest.mark.parametrize("status", ["200 OK", "403 Forbidden"])
async def test_an_answer_that_comes_early_ends_the_sending(tmp_path: Path, status: str) -> None:
    size = 64 << 20
    key = Key.parse(f"WORM-s{size}--big")
    with (tmp_path / "big").open("wb") as file:
        file.truncate(size)
    done = asyncio.Event()

    async def handle(head: str, reader: Reader, writer: Writer) -> None:
        if "/putoffset?" in head:
            writer.write(json(b'{"offset":0}'))
            return
        await reader.readexactly(100_000)
        writer.write(json(b'{"stored":true,"error":"not you"}', status))
        await writer.drain()
        await done.wait()  # without reading on

    async with server(handle) as url, Client(url) as client:
        sent: list[int] = []
        putting = client.put(key, tmp_path / "big", progress=lambda done, _: sent.append(done))
        try:
            if status == "200 OK":
                assert await putting == Stored(False)
            else:
                with pytest.raises(AccessDenied, match="not you"):
                    await putting
        finally:
            done.set()
        assert sent[-1] < size
        assert client.connections_opened == 1


async def test_a_connection_that_breaks_while_sending(tmp_path: Path) -> None:
    size = 64 << 20
    key = Key.parse(f"WORM-s{size}--big")
    with (tmp_path / "big").open("wb") as file:
        file.truncate(size)

    async def handle(head: str, reader: Reader, writer: Writer) -> None:
        if "/putoffset?" in head:
            writer.write(json(b'{"offset":0}'))
            return
        await reader.readexactly(100_000)
        writer.transport.abort()

    before = descriptors()
    async with server(handle) as url, Client(url) as client:
        with pytest.raises(ServerUnreachable, match="broke"):
            await client.put(key, tmp_path / "big")
    await eventually(lambda: descriptors() <= before)


async def test_a_server_that_takes_no_more_is_given_up(tmp_path: Path) -> None:
    size = 64 << 20
    key = Key.parse(f"WORM-s{size}--big")
    with (tmp_path / "big").open("wb") as file:
        file.truncate(size)

    async def handle(head: str, reader: Reader, writer: Writer) -> None:
        if "/putoffset?" in head:
            writer.write(json(b'{"offset":0}'))
        else:
            await asyncio.Event().wait()

    async with server(handle) as url, Client(url, stall_timeout=0.2) as client:
        with pytest.raises(ServerUnreachable, match=r"no progress for 0\.2 s"):
            await client.put(key, tmp_path / "big")


async def test_a_server_may_take_long_to_look_at_what_came(tmp_path: Path) -> None:
    path = write(tmp_path / "file", CONTENT)

    async def handle(head: str, reader: Reader, writer: Writer) -> None:
        if "/putoffset?" in head:
            writer.write(json(b'{"offset":0}'))
            return
        await read_body(reader)
        await asyncio.sleep(1)  # longer than all the client's limits
        writer.write(json(b'{"stored":true}'))

    async with (
        server(handle) as url,
        Client(url, stall_timeout=0.3, answer_timeout=0.3, connect_timeout=0.3) as client,
    ):
        assert await client.put(KEY, path) == Stored(False)


async def test_a_version_0_server_is_put_to(tmp_path: Path) -> None:
    path = write(tmp_path / "file", CONTENT)
    seen: list[bytes] = []

    async def handle(head: str, reader: Reader, writer: Writer) -> None:
        if "/v0/" not in head:
            writer.write(json(b"", "404 X"))
        elif "/checkpresent?" in head:
            writer.write(ABSENT)
        else:
            seen.append(await read_body(reader))
            writer.write(json(b'{"stored":true}'))

    async with server(handle) as url, Client(url) as client:
        assert await client.put(KEY, path) == Stored(False)
        assert client.version == 0
    assert seen == [CONTENT]


# -- the others ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "error", "says"),
    [
        (json(b'{"removed":false}'), RemovalRefused, "did not remove"),
        (json(b'{"removed":false,"reason":"locked","plusuuids":["x"]}'), RemovalRefused, "locked"),
        (json(b'{"removed":null}'), ProtocolViolation, '"removed"'),
        (json(b"Something went wrong", "500 X"), ServerFailed, "Something went wrong"),
    ],
)
async def test_what_a_server_says_to_a_removal(
    answer: bytes, error: type[LocklaneError], says: str
) -> None:
    async with server(answers(b"", present=answer)) as url, Client(url) as client:
        for removal in (client.remove(KEY), client.remove_before(KEY, 5)):
            with pytest.raises(error, match=says) as raised:
                await removal
            if isinstance(raised.value, RemovalRefused) and raised.value.reason:
                assert raised.value.reason == "locked"
                assert raised.value.plus_uuids == ("x",)


@pytest.mark.parametrize("status", [400, 401, 403, 405, 418, 426, 500, 501, 502, 503])
@pytest.mark.parametrize("transport", ["longpoll", "websocket"])
async def test_the_servers_own_words_are_in_every_error(
    tmp_path: Path, status: int, transport: str
) -> None:
    path = write(tmp_path / "file", CONTENT)
    refusal = json(b'{"error":"so it is"}', f"{status} X")

    async def handle(head: str, reader: Reader, writer: Writer) -> None:
        if "/put?" in head:
            await read_body(reader)
        writer.write(next(offsets) if "/putoffset?" in head else refusal)

    offsets = iter([refusal, json(b'{"offset":0}')])

    async with server(handle) as url, Client(url, transport=transport) as client:
        for work in (
            client.check_present(KEY),
            client.remove(KEY),
            client.remove_before(KEY, 5),
            client.timestamp(),
            client.get(KEY, tmp_path / "new"),
            client.put(KEY, path),
            client.put(KEY, path),
            client.lock(KEY).__aenter__(),
        ):
            with pytest.raises(LocklaneError, match=f"{status}: so it is"):
                await work


@pytest.mark.parametrize(
    "answer", [b'{"timestamp":-1}', b'{"timestamp":"1"}', b'{"timestamp":1.5}']
)
async def test_a_timestamp_that_is_none(answer: bytes) -> None:
    async with server(answers(b"", present=json(answer))) as url, Client(url) as client:
        with pytest.raises(ProtocolViolation, match="timestamp"):
            await client.timestamp()


async def test_a_closed_client_does_nothing(tmp_path: Path) -> None:
    client = Client("annex+http://127.0.0.1:1/git-annex/u")
    await client.aclose()
    for work in (client.get(KEY, tmp_path / "f"), client.put(KEY, tmp_path), client.remove(KEY)):
        with pytest.raises(LocklaneError, match="client is closed"):
            await work
