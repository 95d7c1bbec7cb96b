"""Real git-annex repositories, and the real server over them.

All of it is run by an ordinary user, because the modes of directories mean nothing to root.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from annexwire import PATIENCE, Api
from conftest import GIT_ANNEX, LOCKLANE, Process, free_port, wait_for_port

from locklane_client.key import Key

NOBODY = 65534
"""The ordinary user's number, where the tests are run by root."""


class Annex:
    """A git-annex repository in a directory of the home directory given."""

    def __init__(
        self,
        home: Path,
        name: str,
        *,
        bare: bool = False,
        shared: str | None = None,
        origin: Annex | None = None,
    ) -> None:
        self.home = home
        self.directory = home / name
        self.git_directory = self.directory if bare else self.directory / ".git"
        self.env = {
            "PATH": f"{Path(GIT_ANNEX).parent}{os.pathsep}{os.environ['PATH']}",
            "HOME": str(home),
            "LC_ALL": "C.UTF-8",
            "GIT_CONFIG_NOSYSTEM": "1",
            **{f"GIT_{who}_NAME": "tester" for who in ("AUTHOR", "COMMITTER")},
            **{f"GIT_{who}_EMAIL": "tester@localhost" for who in ("AUTHOR", "COMMITTER")},
        }
        options = ["--bare"] if bare else []
        options += [f"--shared={shared}"] if shared else []
        if origin is None:
            self._run("git", "init", "-q", *options, str(self.directory), cwd=home)
        else:
            where = str(origin.directory)
            self._run("git", "clone", "-q", *options, where, str(self.directory), cwd=home)
        self.annex("init", "-q", name)
        self.uuid = self.git("config", "annex.uuid").strip()
        self.server = 0
        """The process of the last :meth:`p2phttp`."""

    # -- running things ----------------------------------------------------------------------------

    def command(self, *words: str | Path, cwd: Path | None = None) -> list[str]:
        """A command that is run by the ordinary user in the repository; its process is that of the
        command itself."""
        user = _as_ordinary_user() if os.geteuid() == 0 else []
        return [*user, "env", "-C", str(cwd or self.directory), *map(str, words)]

    def attempt(self, *words: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        """Run something that may fail."""
        return subprocess.run(
            self.command(*words, cwd=cwd),
            env=self.env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="surrogateescape",
            timeout=PATIENCE,
            check=False,
        )

    def _run(self, *words: str, cwd: Path | None = None) -> str:
        done = self.attempt(*words, cwd=cwd)
        assert done.returncode == 0, f"{words}: {_shown(done)}"
        return done.stdout

    def git(self, *words: str) -> str:
        return self._run("git", *words)

    def annex(self, *words: str) -> str:
        return self._run("git", "annex", *words)

    def start(self, *words: str | Path) -> Process:
        """Start something; ``with`` ends it."""
        return Process(*self.command(*words), env=self.env)

    def configure(self, **settings: str) -> None:
        """``annex_verify="false"`` sets ``annex.verify``."""
        for name, value in settings.items():
            self.git("config", name.replace("_", "."), value)

    # -- what is in it -----------------------------------------------------------------------------

    def write(self, name: str, content: bytes) -> Path:
        """A file of the work tree, not added yet."""
        path = self.directory / name
        path.write_bytes(content)
        own(path)
        return path

    def add(self, content: bytes, name: str | None = None, backend: str = "SHA256E") -> Key:
        """Add and commit a file."""
        name = name or f"{hashlib.sha1(content + backend.encode()).hexdigest()}.dat"
        self.write(name, content)
        self.annex("add", "-q", f"--backend={backend}", name)
        self.git("commit", "-q", "--allow-empty", "-m", "added")
        return Key.parse(self.annex("lookupkey", name).strip())

    def know(self, *keys: Key) -> None:
        """Files whose content need not be here, so that fsck looks at those keys."""
        for number, key in enumerate(keys):
            name = f"known-{hashlib.sha1(os.fsencode(key.text)).hexdigest()}-{number}"
            self.annex("fromkey", "-q", "--force", key.text, name)
        self.git("commit", "-q", "-m", "known")

    def drop(self, key: Key) -> subprocess.CompletedProcess[str]:
        """``git annex drop --force``, here."""
        return self.attempt("git", "annex", "drop", "--force", f"--key={key.text}")

    def object(self, key: Key, *, mixed: bool | None = None) -> Path:
        """Where git-annex has the content of a key, in its own words."""
        form = "hashdirlower" if self.git_directory == self.directory else "hashdirmixed"
        if mixed is not None:
            form = "hashdirmixed" if mixed else "hashdirlower"
        hashed = self.annex("examinekey", f"--format=${{{form}}}", key.text)
        return self.git_directory / "annex/objects" / hashed / key.file_name / key.file_name

    def objects(self) -> set[str]:
        """The names of all that lies in place, content and anything beside it."""
        found = (self.git_directory / "annex/objects").rglob("*")
        return {path.name for path in found if not path.is_dir()}

    def partial(self, key: Key) -> Path:
        return self.git_directory / "annex/tmp" / key.file_name

    def leave_partial(self, key: Key, content: bytes) -> None:
        """What an interrupted upload leaves."""
        path = self.partial(key)
        if not path.parent.exists():
            path.parent.mkdir()
            own(path.parent)
        path.write_bytes(content)
        own(path)

    def transfers(self) -> list[Path]:
        """What tells of transfers under way, lock files and all."""
        found = (self.git_directory / "annex/transfer").rglob("*")
        return [path for path in found if path.is_file()]

    def recorded(self) -> set[str]:
        """The keys that are here by git-annex's records, whatever is on the disk."""
        return self.recorded_in(self.uuid)

    def recorded_in(self, uuid: str) -> set[str]:
        """The keys that are in some repository by this one's records."""
        found = set()
        # It fails where a key is nowhere.
        printed = self.attempt("git", "annex", "whereis", "--all", "--json").stdout
        for line in printed.splitlines():
            answer = json.loads(line)
            if uuid in {place["uuid"] for place in answer["whereis"]}:
                found.add(str(answer["key"]))
        return found

    def learn_from(self, other: Annex) -> None:
        """Take over what another repository's branch ``git-annex`` says."""
        other.annex("merge", "-q")  # some commands leave their changes in the journal
        name = f"git-annex:refs/remotes/{other.uuid}/git-annex"
        self.git("fetch", "-q", str(other.directory), name)
        self.annex("merge", "-q")

    def whereis(self, key: Key) -> set[str]:
        """The UUIDs of the repositories that have it, by this one's records."""
        done = self.attempt("git", "annex", "whereis", "--json", f"--key={key.text}")
        answer = json.loads(done.stdout)
        return {place["uuid"] for place in answer["whereis"]}

    def fsck(self) -> None:
        """git-annex finds nothing wrong, with the files and with all keys that it knows of."""
        every = [] if self.git_directory == self.directory else [["fsck"]]
        for words in (*every, ["fsck", "--all"]):
            done = self.attempt("git", "annex", *words)
            said = done.stdout + done.stderr
            assert done.returncode == 0, _shown(done)
            assert not re.search(r"failed|fixing|Bad|moved|\*\*", said), _shown(done)

    # -- talking to it -----------------------------------------------------------------------------

    def clone(self, name: str, url: str | None = None) -> Annex:
        """A clone, whose ``origin`` is to be reached at the URL given for its content."""
        made = Annex(self.home, name, origin=self)
        made.git("config", "annex.security.allowed-ip-addresses", "all")
        if url is not None:
            made.connect(url)
        return made

    def connect(self, url: str) -> None:
        self.git("config", "remote.origin.annexUrl", url.rpartition("/")[0] + "/")

    @contextmanager
    def p2phttp(self) -> Iterator[str]:
        """The URL of git-annex's own server."""
        port = free_port()
        with self.start(
            GIT_ANNEX, "p2phttp", "-J4", "--wideopen", "--bind=127.0.0.1", f"--port={port}"
        ) as process:
            wait_for_port(port)
            self.server = process.pid
            yield f"annex+http://127.0.0.1:{port}/git-annex/{self.uuid}"
            process.terminate()
            process.wait()


def _shown(done: subprocess.CompletedProcess[str]) -> str:
    return (done.stdout + done.stderr).encode("utf-8", "replace").decode()


def _as_ordinary_user() -> list[str]:
    setpriv = shutil.which("setpriv")
    assert setpriv, "to prove anything as root, setpriv is needed (util-linux)"
    # Root's Python may lie where only root may look; reading is no matter here, and writing is.
    may_read = ("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search")
    who = (f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")
    return [setpriv, *who, *may_read, "--"]


def own(path: Path) -> None:
    """Give a file that the test made to the ordinary user."""
    if os.geteuid() == 0:
        os.chown(path, NOBODY, NOBODY, follow_symlinks=False)


class Locklane(Process):
    """The real ``locklane serve`` in a repository (or below directories), ready to be asked."""

    def __init__(self, annex: Annex, *options: str | Path) -> None:
        super().__init__(
            *annex.command(LOCKLANE, "serve", "--wideopen", "--port", "0", *options), env=annex.env
        )
        try:
            self.base = self.line(r"serving (annex\+http://\S+/git-annex/)")[1]
        except BaseException:
            self.kill()
            raise
        self.url = self.base + annex.uuid
        self.api = Api(self.url)

    def open_files(self) -> list[str]:
        """The files that the server has open."""
        return open_files(self.pid)

    def lock_files(self) -> list[str]:
        """Those of them that are lock files, each with the first of its names."""
        ours = [name for name in self.open_files() if "/annex/locklane/" in name]
        return [name for name in ours if not name.removesuffix(" (deleted)").endswith(".alive")]


def open_files(process: int, ending: str = "") -> list[str]:
    """The files with that ending that a process has open."""
    found = []
    for descriptor in Path(f"/proc/{process}/fd").iterdir():
        try:
            name = str(descriptor.readlink())
        except FileNotFoundError:
            continue
        if name.removesuffix(" (deleted)").endswith(ending):
            found.append(name)
    return found


@pytest.fixture
def home() -> Iterator[Path]:
    """A home directory of the ordinary user, which pytest's own directories would hide from it."""
    directory = Path(tempfile.mkdtemp(prefix="locklane-"))
    directory.chmod(0o755)
    own(directory)
    yield directory
    for inner, _, __ in os.walk(directory):
        Path(inner).chmod(0o755)
    shutil.rmtree(directory)


@pytest.fixture
def annex(home: Path) -> Annex:
    """A repository with nothing in it."""
    return Annex(home, "served")


@pytest.fixture(params=[False, True], ids=["work tree", "bare"])
def either(request: pytest.FixtureRequest, home: Path) -> Annex:
    """A repository with nothing in it, with a work tree and bare in turn."""
    return Annex(home, "served", bare=request.param)


Serving = Callable[..., Locklane]


@pytest.fixture
def locklane() -> Iterator[Serving]:
    """``locklane(annex, *options)`` starts a server; what still runs at the end is killed."""
    started: list[Locklane] = []

    def start(annex: Annex, *options: str | Path) -> Locklane:
        started.append(Locklane(annex, *options))
        return started[-1]

    yield start
    for process in started:
        process.kill()
