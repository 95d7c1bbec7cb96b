"""The side-by-side comparison: every work given to every server, in interleaved rounds."""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from locklane_bench import procfs
from locklane_bench.children import Child, python
from locklane_bench.gitannex import GitAnnexError
from locklane_bench.peer import servers
from locklane_bench.peer.figures import (
    BARE,
    GROUPS,
    HASHING,
    NGINX,
    OURS,
    PEER,
    WORKS,
    WRITING,
    Work,
    size_option,
)
from locklane_bench.peer.repositories import Repositories, locks_left
from locklane_bench.peer.results import PeerResults, PeerSettings, Sample
from locklane_bench.peer.servers import PeerServer
from locklane_bench.peer.tasks import Done, Kind, LoadError, Task
from locklane_bench.versions import versions

WARM_UP_OPERATIONS = 200
"""Of each small work against each server before the first round, which nobody counts."""

PAUSE_SECONDS = 0.1
"""Before each piece of work, so that a server has done with the one before."""

SPACE = 5
"""Large files that have to fit on the disk: the content, the same while it is uploaded to either
server or written alone, and some air."""

Progress = Callable[[str, int, int], None]


class PeerLoad(Child):
    """The process that makes the load."""

    def __init__(self) -> None:
        super().__init__(python("locklane_bench.peer.load"), "the load process")

    def carry_out(self, task: Task) -> Done:
        """Have a task done.

        :raises LoadError: the server did not do its part.
        :raises ChildError: the load's process has ended.
        """
        self.write_line(task.to_json())
        return Done.from_json(self.read_line(patience_s=None))


@dataclass(frozen=True, slots=True)
class Step:
    """One work for one server in one round."""

    work: Work
    server: str
    round: int


def steps(settings: PeerSettings, present: list[str]) -> Iterator[Step]:
    """All that there is to do, in its order: A B A B …

    :param present: the servers that there are.
    """
    for number in range(1, settings.rounds + 1):
        for work in WORKS:
            if work.group in settings.only:
                for server in work.servers:
                    if server in present:
                        yield Step(work, server, number)


class PeerComparison:
    """The repositories and processes of one comparison, and the work that they are given. A context
    manager.

    :param settings: what to compare.
    :param directory: an empty directory on the file system that is to be measured.
    """

    def __init__(self, settings: PeerSettings, directory: Path) -> None:
        self.settings = settings
        self._directory = directory
        self._repositories = Repositories(directory)
        self._stack = ExitStack()
        self.servers: dict[str, PeerServer] = {}
        self.missing: list[str] = []
        """One sentence for each program that is not installed."""

    def __enter__(self) -> PeerComparison:
        with ExitStack() as stack:
            stack.callback(_make_removable, self._directory)
            settings = self.settings
            large = any(work.large and work.group in settings.only for work in WORKS)
            self._content = self._repositories.make(
                settings.files, settings.small_size, settings.size if large else 1
            )
            self._served = {
                OURS: self._repositories.copy("locklane"),
                PEER: self._repositories.copy("p2phttp"),
            }
            self.servers[OURS] = stack.enter_context(servers.locklane(self._served[OURS]))
            self.servers[PEER] = stack.enter_context(servers.p2phttp(self._served[PEER]))
            wanted = {name for step in steps(settings, [BARE, NGINX]) for name in [step.server]}
            if BARE in wanted:
                self.servers[BARE] = stack.enter_context(servers.bare())
            if NGINX in wanted:
                if servers.nginx_program():
                    own = self._directory / "nginx"
                    own.mkdir()
                    self.servers[NGINX] = stack.enter_context(
                        servers.nginx(self._repositories.objects, own)
                    )
                else:
                    self.missing.append("nginx is not installed: no download is compared with it.")
            self._load = stack.enter_context(PeerLoad())
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *details: object) -> None:
        self._stack.close()

    def steps(self) -> list[Step]:
        """What there is to do."""
        return list(steps(self.settings, [*self.servers, HASHING, WRITING]))

    def warm_up(self) -> None:
        """A little of each small work, uncounted; and the large file once, to see that it is the
        right one, which brings it into the page cache too.

        :raises LoadError: a server does not do it.
        :raises ChildError: a server has ended.
        """
        seen: set[tuple[str, str]] = set()
        for step in self.steps():
            of = (step.work.group, step.server)
            if of in seen or step.server not in self.servers:
                continue
            seen.add(of)
            try:
                if step.work.group == "large-download":
                    self._load.carry_out(self._task("verify", step))
                elif not step.work.large and step.work.group != "drop":
                    task = self._small(step, WARM_UP_OPERATIONS)
                    self._load.carry_out(task)
            except LoadError as error:
                self.servers[step.server].check()
                raise LoadError(f"{step.work.name}, {step.server}: {error}") from error

    def run(self, step: Step) -> Sample:
        """Do one step.

        :raises LoadError: the server did not do its part.
        :raises GitAnnexError: git-annex did not do its part.
        :raises ChildError: the server has ended.
        """
        time.sleep(PAUSE_SECONDS)
        try:
            if step.work.group == "drop":
                return self._drop(step)
            if step.work.group == "upload":
                return self._upload(step)
            if step.work.group == "large-download":
                self._have_in_memory()
                return self._timed(step, self._task("download", step))
            return self._timed(step, self._small(step, step.work.operations(self.settings.files)))
        except (LoadError, GitAnnexError):
            if step.server in self.servers:
                self.servers[step.server].check()
            raise

    def locks_left(self) -> dict[str, int]:
        """By server: files of locks that are left in its repository."""
        return {name: locks_left(repository) for name, repository in self._served.items()}

    def versions(self) -> dict[str, str]:
        """Of all that a figure could depend on."""
        found = versions("locklane", "aiohttp", "uvloop", "httptools")
        found["git-annex"] = self._repositories.version()
        if NGINX in self.servers:
            found["nginx"] = servers.nginx_version()
        return found

    def _timed(self, step: Step, task: Task) -> Sample:
        server = self.servers.get(step.server)
        before = server.cpu_seconds() if server else 0.0
        done = self._load.carry_out(task)
        return Sample(
            work=step.work.name,
            server=step.server,
            round=step.round,
            operations=done.operations,
            requests=done.requests,
            answers=done.answers,
            content_bytes=done.content_bytes,
            wall_s=done.wall_s,
            load_cpu_s=done.cpu_s,
            server_cpu_s=server.cpu_seconds() - before if server else None,
        )

    def _small(self, step: Step, operations: int) -> Task:
        kinds: dict[str, Kind] = {"locks": "locks", "checkpresent": "checkpresent"}
        return self._task(
            kinds.get(step.work.group, "downloads"), step, operations, step.work.at_once
        )

    def _task(self, kind: Kind, step: Step, operations: int = 1, connections: int = 1) -> Task:
        server, content = self.servers[step.server], self._content
        large = step.work.large
        keys = [content.large] if large else content.small
        asks_files = kind in ("download", "downloads", "verify")
        return Task(
            kind=kind,
            port=server.port,
            base=server.base,
            keys=[] if asks_files else keys,
            paths=[server.download_path(key, content) for key in keys] if asks_files else [],
            operations=operations,
            connections=connections,
            size=content.large_size if large else content.small_size,
            sha256=content.large_sha256 if large else "",
        )

    def _upload(self, step: Step) -> Sample:
        """An upload of the large file, or one of the two things that it cannot do without."""
        os.sync()  # what others wrote is not to be written back meanwhile
        content, size = self._content, self._content.large_size
        if step.server == HASHING:
            return self._timed(step, Task(kind="hash", size=size))
        if step.server == WRITING:
            file = self._directory / "written"
            return self._timed(step, Task(kind="write", size=size, file=str(file)))
        self._have_in_memory()
        server = self.servers[step.server]
        task = Task(
            kind="upload",
            port=server.port,
            base=server.base,
            keys=[content.absent],
            size=size,
            file=str(self._large_file),
        )
        sample = self._timed(step, task)
        self._load.carry_out(
            Task(kind="remove", port=server.port, base=server.base, keys=[content.absent])
        )
        return sample

    @property
    def _large_file(self) -> Path:
        """The one file that every repository's large content is."""
        return self._repositories.objects / self._content.objects[self._content.large]

    def _have_in_memory(self) -> None:
        """Read the large file, so that no server waits for the disk where another did not."""
        buffer = bytearray(4 * 1024 * 1024)
        with self._large_file.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass

    def _drop(self, step: Step) -> Sample:
        """The real ``git annex drop``, in a clone made for it."""
        server = self.servers[step.server]
        client = self._repositories.client("client", server.url, server.uuid)
        try:
            before = server.cpu_seconds()
            wall = time.perf_counter()
            self._repositories.drop(client, step.work.at_once)
            wall = time.perf_counter() - wall
            spent = server.cpu_seconds() - before
            self._repositories.check_dropped(client)
        finally:
            self._repositories.remove(client)
        files = self.settings.files
        return Sample(
            work=step.work.name,
            server=step.server,
            round=step.round,
            operations=files,
            requests=0,
            answers=0,
            content_bytes=files * self.settings.small_size,
            wall_s=wall,
            load_cpu_s=0.0,
            server_cpu_s=spent,
        )


def compare(
    settings: PeerSettings, directory: Path, progress: Progress, *, own_network: bool
) -> PeerResults:
    """Make a whole comparison.

    :param directory: an empty directory; see :class:`PeerComparison`.
    :param progress: called with what is being done, how much is done, and how much there is.
    :param own_network: nobody else uses this network namespace.
    :raises ChildError: a process of the comparison ended before its time.
    :raises GitAnnexError: the repositories could not be made.
    :raises LoadError: a server cannot do what it is to be measured at.
    """
    started, clock, busy = datetime.now(UTC), time.monotonic(), os.getloadavg()[0]
    samples: list[Sample] = []
    failures: dict[tuple[str, str], str] = {}
    progress("making the repositories", 0, 1)
    with PeerComparison(settings, directory) as comparison:
        todo = comparison.steps()
        progress("warming up", 0, len(todo))
        comparison.warm_up()
        for number, step in enumerate(todo):
            progress(_words(step), number, len(todo))
            of = (step.work.name, step.server)
            if of in failures:
                continue
            try:
                samples.append(comparison.run(step))
            except (LoadError, GitAnnexError) as error:
                failures[of] = f"{step.work.name}, {step.server}, round {step.round}: {error}"
        progress("done", len(todo), len(todo))
        left, found = comparison.locks_left(), comparison.versions()
        shown = {name: server.shown for name, server in comparison.servers.items()}
        missing = comparison.missing
    return PeerResults(
        started=started.isoformat(timespec="seconds"),
        duration_s=time.monotonic() - clock,
        command=command(settings),
        settings=settings,
        machine=procfs.machine()
        | {
            "network": "loopback" + (" in a network namespace of its own" if own_network else ""),
            "load average before": f"{busy:.2f}",
            "file system": procfs.file_system(directory),
        },
        versions=found,
        servers=shown,
        samples=samples,
        failures=list(failures.values()),
        locks_left=left,
        load_average=round(busy, 2),
        missing=missing,
    )


def command(settings: PeerSettings) -> str:
    """The command line that repeats a comparison, with nothing of this machine in it."""
    words = ["locklane", "compare", "--peer", settings.peer, "--files", str(settings.files)]
    words += ["--size", size_option(settings.size), "--rounds", str(settings.rounds)]
    if set(settings.only) != set(GROUPS):
        words += ["--only", ",".join(settings.only)]
    return shlex.join(words)


def _make_removable(directory: Path) -> None:
    """git-annex keeps its objects' directories without write permission."""
    for each, _, __ in os.walk(directory):
        os.chmod(each, 0o755)  # noqa: PTH101


def _words(step: Step) -> str:
    return f"round {step.round}: {step.work.name}, {step.server}"
