"""The soak: servers, a warm-up, the load, and what is left when all clients are gone."""

from __future__ import annotations

import asyncio
import os
import re
import time
import uuid as uuids
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from locklane_bench import procfs
from locklane_bench.children import QUIET, ServerChild, python
from locklane_bench.gitannex import AnnexRepository
from locklane_bench.keys import Source, made, put_into_store
from locklane_bench.soak.figures import JOBS, Sample, Soaked, Watched
from locklane_bench.soak.load import Load, key_for
from locklane_client import Key
from locklane_client.loop import run
from locklane_server.transports import TRANSPORTS

SAMPLE_SECONDS = 1.0

WARM_UP_SHARE = 0.2
"""Of the time: what is made once, and then kept, is made in it."""

LONGEST_WARM_UP_SECONDS = 60.0

STILL_SECONDS = 5.0
"""For which descriptors and threads have to stay where they are. Longer than git-annex's changes
wait to be committed, for which another process is started."""

SETTLE_SECONDS = 100.0
"""How long they may take to come back: the server closes what is idle after 75 s."""

KEYS = 50
"""Files whose content stays, to be locked."""

LARGE_SIZE = 8 << 20

ALLOCATOR = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": "65536",
    "MALLOC_TRIM_THRESHOLD_": "65536",
}
"""For glibc (mallopt(3)): what is free goes back to the system at once, so that what is resident is
what is kept. Otherwise some megabytes come and go, by where the largest buffers happened to be."""

_COMPLAINT = re.compile(r"^Traceback |\b(?:ERROR|CRITICAL)\b|Error: |exception", re.MULTILINE)

Progress = Callable[[str, int, int], None]


@dataclass
class _Place:
    """A server that is running, and its clients."""

    name: str
    child: ServerChild
    load: Load
    start: Sample
    before: Sample | None = None
    samples: list[Sample] = field(default_factory=list)

    def sample(self, seconds: float = 0.0) -> Sample:
        return Sample.of(self.child.pid, seconds, self.load.requests)

    async def rest(self, most: Sample | None = None) -> Sample:
        """What it has once it has come to rest, with no more descriptors than ``most`` if that
        comes in time."""
        end = time.monotonic() + SETTLE_SECONDS
        found, since = self.sample(), time.monotonic()
        while (now := time.monotonic()) < end:
            if now - since >= STILL_SECONDS and (
                most is None or found.descriptors <= most.descriptors
            ):
                break
            await asyncio.sleep(0.2)
            again = self.sample()
            if (again.descriptors, again.threads) != (found.descriptors, found.threads):
                since = now
            found = again
        return found


def soak(minutes: float, directory: Path, progress: Progress) -> Soaked:
    """Make a soak.

    :param minutes: of load, over 0; the warm-up comes out of them.
    :param directory: an empty one. What is in it afterwards can be removed.
    :raises ChildError: a server ended.
    :raises GitAnnexError: git-annex is not there, or failed.
    :raises SoakError: a client did not get what it should.
    """
    warm_up = min(LONGEST_WARM_UP_SECONDS, WARM_UP_SHARE * 60 * minutes)
    with ExitStack() as stack:
        places = [_annex(directory, stack), _store(directory, stack)]
        watched = run(_soak(places, 60 * minutes, warm_up, progress))
    return Soaked(minutes, warm_up, watched, procfs.machine())


async def _soak(
    places: list[_Place], seconds: float, warm_up: float, progress: Progress
) -> list[Watched]:
    total = round(seconds)
    async with asyncio.TaskGroup() as group:
        watching = group.create_task(_watch(places, 0, total, progress, keep=False))
        await asyncio.gather(*(each.load.run(warm_up) for each in places))
        watching.cancel()
    progress("letting all clients go, and waiting", round(warm_up), total)
    befores = await asyncio.gather(*(each.rest() for each in places))
    for place, before in zip(places, befores, strict=True):
        place.before = before
        place.load.done.clear()
    async with asyncio.TaskGroup() as group:
        watching = group.create_task(_watch(places, round(warm_up), total, progress, keep=True))
        await asyncio.gather(*(each.load.run(seconds - warm_up) for each in places))
        watching.cancel()
    progress("letting all clients go, and waiting", total, total)
    afters = await asyncio.gather(
        *(each.rest(before) for each, before in zip(places, befores, strict=True))
    )
    return [
        await asyncio.to_thread(_watched, place, before, after)
        for place, before, after in zip(places, befores, afters, strict=True)
    ]


async def _watch(
    places: list[_Place], done: int, total: int, progress: Progress, *, keep: bool
) -> None:
    """Look at the servers, each second."""
    begin = time.monotonic()
    number = 0
    while True:
        number += 1
        await asyncio.sleep(max(0.0, begin + number * SAMPLE_SECONDS - time.monotonic()))
        said = []
        for place in places:
            try:
                found = place.sample(time.monotonic() - begin)
            except ProcessLookupError:
                place.child.check()
                raise
            if keep:
                place.samples.append(found)
            memory = found.memory_kib / 1024
            said.append(f"{place.name}: {memory:.0f} MiB, {found.descriptors} descriptors")
        what = "; ".join(said)
        progress(what if keep else f"warming up: {what}", min(total, done + number), total)


def _watched(place: _Place, before: Sample, after: Sample) -> Watched:
    place.child.check()
    return Watched(
        name=place.name,
        start=place.start,
        before=before,
        after=after,
        samples=place.samples,
        done=dict(sorted(place.load.done.items())),
        live_locks=place.child.locks("live"),
        retained_locks=place.child.locks("retained"),
        complaints=[line for line in place.child.said().splitlines() if _COMPLAINT.search(line)],
    )


def _annex(directory: Path, stack: ExitStack) -> _Place:
    """A server on a git-annex repository."""
    home = directory / "home"
    home.mkdir()
    repository = AnnexRepository(directory / "annex", home)
    stack.callback(repository.make_removable)
    for number in range(KEYS):
        _write(repository.directory / f"file-{number}.bin", 1000)
    _write(repository.directory / "large.bin", LARGE_SIZE)
    repository.make()
    keys = repository.git("annex", "find", "--format=${key}\\n").splitlines()
    [large] = [key for key in keys if f"-s{LARGE_SIZE}-" in key]
    keys.remove(large)
    command = ["--directory", str(repository.directory)]
    return _place("git-annex", command, keys, large, directory, stack, repository.environment)


def _store(directory: Path, stack: ExitStack) -> _Place:
    """A server on a store."""
    sources = made(KEYS)
    store = directory / "store"
    store.mkdir()
    content = os.urandom(LARGE_SIZE)
    large = Source(Key.parse(key_for(content)), content)
    put_into_store([*sources, large], store)
    keys = [source.key.text for source in sources]
    command = ["--store", str(store), "--uuid", str(uuids.uuid4())]
    return _place("store", command, keys, large.key.text, directory, stack, None)


def _write(path: Path, size: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(os.urandom(size))


def _place(
    name: str,
    what: list[str],
    keys: list[str],
    large: str,
    directory: Path,
    stack: ExitStack,
    environment: dict[str, str] | None,
) -> _Place:
    command = [
        *what,
        "--wideopen",
        "--port",
        "0",
        "--metrics",
        "127.0.0.1:0",
        "--jobs",
        f"{JOBS}",
        *QUIET,
    ]
    env = {**(environment or os.environ), **ALLOCATOR}
    child = stack.enter_context(
        ServerChild(python("locklane_client", "serve", *command), "locklane serve", env=env)
    )
    scratch = directory / f"clients-{name}"
    scratch.mkdir()
    load = Load(child.address, list(TRANSPORTS), keys, large, scratch, seed=len(name))
    return _Place(name, child, load, Sample.of(child.pid, 0.0, 0))
