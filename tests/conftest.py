"""What the tests stand on: a store with content, servers in this process and as a process of their
own, a clock that can be set forward, and a client for every transport there is."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, Self

import aiohttp
import pytest
from kinds import (
    CONTENTS,
    copy_annex,
    key_of,
    kind_of,
    lock_files,
    make_annex,
    make_directory,
    object_path,
    open_repository,
    put,
)
from yarl import URL

import locklane_server.transports
from locklane_client import Client, Key
from locklane_client.address import Address
from locklane_client.wire import request_path
from locklane_server.access import WIDE_OPEN, Access
from locklane_server.clock import boottime
from locklane_server.locks import DEFAULT_LIMIT, Allowance
from locklane_server.served import ServedRepository
from locklane_server.server import Server
from locklane_server.workers import DEFAULT_JOBS, Workers

BOUND = 20.0
"""Seconds within which whatever the tests wait for has to come true. Reached only on failure."""

LOCKLANE = str(Path(sys.executable).with_name("locklane"))
GIT_ANNEX = str(Path(sys.executable).with_name("git-annex"))
CADDY = str(Path(sys.executable).with_name("caddy"))

SOMEBODY = "8a6d2b4e-0000-4000-8000-00000000c11e"
"""UUID of a client that is nobody in particular."""


# -- waiting ---------------------------------------------------------------------------------------


async def eventually(condition: Callable[[], object], within: float = BOUND) -> None:
    """Wait until a condition is true; fail if that takes longer than the bound."""
    end = time.monotonic() + within
    while not condition():
        assert time.monotonic() < end, f"not true within {within:g} s"
        await asyncio.sleep(0.005)


def descriptors() -> int:
    """File descriptors that this process has open."""
    return len(list(Path("/proc/self/fd").iterdir()))


# -- time ------------------------------------------------------------------------------------------


class FakeClock:
    """The machine's clock, set forward by :attr:`offset` seconds."""

    def __init__(self, offset: float = 0.0) -> None:
        self.offset = offset

    def __call__(self) -> float:
        return boottime() + self.offset

    def advance(self, seconds: float) -> None:
        self.offset += seconds


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


# -- a store ---------------------------------------------------------------------------------------

__all__ = ["key_of", "object_path", "put"]  # which tests take from here


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "kinds(*names): run on each of these kinds of repository")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    kinds = metafunc.definition.get_closest_marker("kinds")
    if kinds is not None and "kind" in metafunc.fixturenames:
        metafunc.parametrize("kind", kinds.args, indirect=True)


LONG = (
    "test_soak",
    "test_compare",
    "test_proxies",
    "test_annex_locations",
    "test_annex_testremote",
)
"""Modules that take long over few tests: were they last, the other processor would be idle."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: LONG.index(item.path.stem) if item.path.stem in LONG else len(LONG))


@pytest.fixture
def kind(request: pytest.FixtureRequest) -> str:
    """The kind of repository that is served: a directory, if the test is not marked otherwise."""
    return str(getattr(request, "param", "directory"))


@pytest.fixture(scope="session")
def annex_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A git-annex repository to be copied: to make one takes longer."""
    template = tmp_path_factory.mktemp("template") / "annex"
    make_annex(template)
    return template


@pytest.fixture
def store(tmp_path: Path, kind: str, request: pytest.FixtureRequest) -> Path:
    """The directory of an empty store, with a UUID; or of a git-annex repository."""
    directory = tmp_path / "store"
    if kind == "annex":
        copy_annex(request.getfixturevalue("annex_template"), directory)
    else:
        make_directory(directory)
    return directory


@pytest.fixture
def keys(store: Path) -> list[Key]:
    """Three keys, their content in the store."""
    if kind_of(store) == "directory":
        return [put(store, content) for content in CONTENTS]
    keys = [key_of(content) for content in CONTENTS]
    assert all(object_path(store, key).is_file() for key in keys)
    return keys


@pytest.fixture
def key(keys: list[Key]) -> Key:
    """A key whose content is in the store."""
    return keys[0]


ABSENT = key_of(b"nobody ever stored this")
"""A key whose content is in no store."""


# -- a server in this process ----------------------------------------------------------------------


@dataclass
class There:
    """A server that runs in this process, and what is behind it."""

    server: Server
    served: ServedRepository
    clock: FakeClock
    store: Path
    workers: Workers = field(default_factory=Workers)

    @property
    def url(self) -> str:
        return f"annex+http://127.0.0.1:{self.server.port}/git-annex/{self.served.uuid}"

    @property
    def locks(self) -> int:
        """Locks that have not ended."""
        return len(self.served.manager)

    @property
    def live(self) -> int:
        """Locks with an open hold."""
        return sum(lock.live for lock in self.served.manager)

    async def on_disk(self) -> int:
        """Locks that the table of retentions has, once it is tidy; or in a git-annex repository,
        the keys that have retention or a lock file beside them."""
        await self.served.sweep()
        if kind_of(self.store) == "annex":
            return max(len(lock_files(self.store, ending)) for ending in ("rtm", "lck", "rtl"))
        return len(await self.served.repository.retained())

    async def nothing_left(self) -> None:
        """Neither a lock nor a hold nor a record of one is left."""
        # Over pipeline nobody waits for the answer to an unlock.
        await eventually(lambda: self.served.holds == 0 and self.locks == 0)
        # Who else held a lock is told before the disk has been cleared.
        end = time.monotonic() + BOUND
        while await self.on_disk():
            assert time.monotonic() < end, "the record of a lock stays"
            await asyncio.sleep(0.005)

    async def retained(self, key: Key) -> None:
        """The key's one lock is known to have lost its holder, and has not ended."""
        await eventually(lambda: self.live == 0 and self.served.holds == 0)
        assert self.served.manager.locks_on(key.text) == 1
        assert await self.on_disk() == 1
        answer = await remove(self.url, key)
        assert not answer["removed"], "the retention of a lost lock did not keep the content"
        assert "locked" in answer["reason"]

    async def ends_by_its_time(self, key: Key) -> None:
        """Ten minutes on, the retained lock is over and the key can be removed."""
        self.clock.advance(601)
        assert (await remove(self.url, key))["removed"]
        await self.served.sweep()
        await self.nothing_left()


class Serve(Protocol):
    def __call__(
        self,
        *,
        transports: list[str] | None = None,
        limit: int = DEFAULT_LIMIT,
        clock: FakeClock | None = None,
        jobs: int = DEFAULT_JOBS,
        access: Access = WIDE_OPEN,
        allowance: Allowance | None = None,
        **options: Any,
    ) -> Any: ...


@pytest.fixture
def serve(store: Path, clock: FakeClock) -> Serve:
    """``async with serve() as there``: a server in this process, over the store."""
    default = clock

    @asynccontextmanager
    async def start(
        *,
        transports: list[str] | None = None,
        limit: int = DEFAULT_LIMIT,
        clock: FakeClock | None = None,
        jobs: int = DEFAULT_JOBS,
        access: Access = WIDE_OPEN,
        allowance: Allowance | None = None,
        **options: Any,
    ) -> AsyncIterator[There]:
        now = clock or default
        workers = Workers(jobs)
        served = ServedRepository(
            open_repository(store, workers, now), limit=limit, allowance=allowance, clock=now
        )
        if transports is not None:
            options["transports"] = transports
        try:
            async with Server(
                [served], access=access, port=0, workers=workers, **options
            ) as server:
                yield There(server, served, now, store, workers)
        finally:
            workers.close()

    return start


# -- processes -------------------------------------------------------------------------------------


class Process:
    """A command as a user runs it; what it prints is collected as it comes."""

    def __init__(
        self, *command: str | Path, env: dict[str, str] | None = None, cwd: Path | None = None
    ) -> None:
        self.command = [str(word) for word in command]
        self.out: list[str] = []
        self.err: list[str] = []
        self._process = subprocess.Popen(
            self.command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env=env,
            cwd=cwd,
        )
        self._readers = [
            threading.Thread(target=self._read, args=(pipe, lines), daemon=True)
            for pipe, lines in (
                (self._process.stdout, self.out),
                (self._process.stderr, self.err),
            )
        ]
        for reader in self._readers:
            reader.start()

    @staticmethod
    def _read(pipe: Any, lines: list[str]) -> None:
        with pipe:
            lines.extend(iter(pipe.readline, ""))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def output(self) -> str:
        """All that it has printed so far, on both streams."""
        return "".join(self.out) + "".join(self.err)

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def line(self, pattern: str, within: float = BOUND) -> re.Match[str]:
        """Wait for it to print something; fail with all that it printed if it does not."""
        end = time.monotonic() + within
        while not (found := re.search(pattern, self.output)):
            if not self.running:
                self._join()
                if found := re.search(pattern, self.output):
                    break
            assert self.running, f"{self.command} ended:\n{self.output}"
            assert time.monotonic() < end, f"{self.command} printed no {pattern!r}:\n{self.output}"
            time.sleep(0.005)
        return found

    async def prints(self, pattern: str) -> re.Match[str]:
        """:meth:`line`, while the event loop goes on."""
        return await asyncio.to_thread(self.line, pattern)

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def interrupt(self) -> None:
        self.signal(signal.SIGINT)

    def terminate(self) -> None:
        self._process.terminate()

    def kill(self) -> None:
        """``kill -9``, and wait until it is gone."""
        self._process.kill()
        self._process.wait(BOUND)
        self._join()

    def wait(self, within: float = BOUND) -> int:
        """Its exit status, when it has ended by itself."""
        try:
            status = self._process.wait(within)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.command} goes on:\n{self.output}") from None
        self._join()
        return status

    async def ended(self) -> int:
        """:meth:`wait`, while the event loop goes on."""
        return await asyncio.to_thread(self.wait)

    def _join(self) -> None:
        for reader in self._readers:
            reader.join(BOUND)


def run_locklane(
    *arguments: str | Path, env: dict[str, str] | None = None, cwd: Path | None = None
) -> tuple[int, str]:
    """Run ``locklane`` to its end: exit status and all it printed. A traceback is never right."""
    with Process(LOCKLANE, *arguments, env=env, cwd=cwd) as process:
        status = process.wait()
    assert "Traceback" not in process.output, process.output
    return status, process.output


class ServerProcess(Process):
    """The real ``locklane serve``, ready to be asked."""

    def __init__(
        self,
        store: Path,
        *options: str,
        access: tuple[str, ...] = ("--wideopen",),
        env: dict[str, str] | None = None,
    ) -> None:
        where = "--directory" if kind_of(store) == "annex" else "--store"
        command = (LOCKLANE, "serve", where, store, *access, "--port", "0", *options)
        super().__init__(*command, env=None if env is None else {**os.environ, **env})
        try:
            self.url = self.line(r"serving (annex\+https?://\S+)\n")[1]
        except BaseException:
            self.kill()
            raise


@pytest.fixture
def server_process(store: Path) -> Iterator[Callable[..., ServerProcess]]:
    """Starts ``locklane serve`` over the store; what still runs at the end is killed."""
    started: list[ServerProcess] = []

    def start(*options: str, **more: Any) -> ServerProcess:
        process = ServerProcess(store, *options, **more)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()


def free_port() -> int:
    """A port that nobody listened on a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


def wait_for_port(port: int, within: float = BOUND) -> None:
    """Wait until somebody listens on a port of this machine."""
    end = time.monotonic() + within
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            assert time.monotonic() < end, f"nobody listens on port {port}"
            time.sleep(0.01)
        else:
            return


# -- clients ---------------------------------------------------------------------------------------


@pytest.fixture(params=list(locklane_server.transports.TRANSPORTS))
def transport(request: pytest.FixtureRequest) -> str:
    """The name of every transport in turn; one added later is among them."""
    return str(request.param)


@pytest.fixture
def client(transport: str) -> Callable[..., Client]:
    """``async with client(url) as c``: a client over the transport in turn."""

    def make(url: str, **options: Any) -> Client:
        return Client(url, transport=transport, **options)

    return make


MakeClient = Callable[..., Client]

Answer = tuple[int, dict[str, Any]]


async def post(
    url: str, request: str, *, version: int = 4, body: Any = None, **parameters: str
) -> Answer:
    """A POST to the API by somebody, without our client: its status and its JSON."""
    address = Address.parse(url)
    path = request_path(address.uuid, version, request, **parameters, clientuuid=SOMEBODY)
    async with (
        aiohttp.ClientSession() as http,
        http.post(URL(address.http_base + path, encoded=True), data=body) as response,
    ):
        return response.status, await response.json(content_type=None)


async def remove(url: str, key: Key, *, version: int = 4) -> dict[str, Any]:
    """Ask for a removal; the answer."""
    status, answer = await post(url, "remove", version=version, key=key.text)
    assert status == 200, answer
    return answer


# -- a connection that can be cut ------------------------------------------------------------------


class Line:
    """Stands between a client and a server, passes bytes on, and can cut every connection."""

    def __init__(self, url: str) -> None:
        self._address = Address.parse(url)
        self._stack = AsyncExitStack()
        self._ends: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.connections = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self.cut()
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self._server.wait_closed()

    @property
    def url(self) -> str:
        address = self._address
        return f"annex+http://127.0.0.1:{self.port}{address.base}{address.uuid}"

    async def _connected(self, here: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        self.connections += 1
        there, on = await asyncio.open_connection(self._address.host, self._address.port)
        self._ends |= {back, on}
        for reader, writer in ((here, on), (there, back)):
            task = asyncio.create_task(self._pass(reader, writer))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()
        self._ends.discard(writer)

    def cut(self) -> None:
        """Cut every connection, as a crash would; new ones are passed on."""
        for end in tuple(self._ends):
            end.transport.abort()


async def until_interrupted() -> None:
    """The body of a holder: waits to be interrupted; fails if nobody does."""
    await asyncio.sleep(BOUND)
    raise AssertionError("the holder was not interrupted")
