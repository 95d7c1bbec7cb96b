"""Running git-annex, for what it alone can do or does best.

Each run is a session of its own, so that nothing typed at the server's terminal reaches it, and is
ended as a whole: git is asked first, because a git that is killed leaves lock files behind which
stand in the way of every later one.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from locklane_client.key import Key
from locklane_server.repository import RepositoryError

TIMEOUT_SECONDS = 300.0
"""The longest that a command may take which moves no content."""

CONTENT_TIMEOUT_SECONDS = 6 * 3600.0
"""The longest that a command may take which reads content from end to end."""

GRACE_SECONDS = 5.0
"""From asking git-annex to end to killing it."""

_SHOWN = 600
"""Characters of what git-annex printed that an error carries."""

# What a git that started the server says of *its* repository: git would look there.
_OF_ANOTHER_REPOSITORY = (
    "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_COMMON_DIR",
    "GIT_DIR",
    "GIT_INDEX_FILE",
    "GIT_NAMESPACE",
    "GIT_OBJECT_DIRECTORY",
    "GIT_PREFIX",
    "GIT_WORK_TREE",
)


_TETHERED = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 15)
if os.getppid() != int(sys.argv[1]):
    sys.exit("the server is gone")
os.execv(sys.argv[2], sys.argv[2:])
"""
"""Runs git-annex so that it is asked to end (SIGTERM) when who started it dies (PR_SET_PDEATHSIG,
which a program that is executed inherits)."""

_TETHER = [os.fsencode(sys.executable), b"-ISc", _TETHERED.encode()]


class ProgramError(RepositoryError):
    """git-annex is not there or did not do what it was asked to; the text has what it said."""

    def __init__(self, message: str, *, printed: str = "") -> None:
        super().__init__(message)
        self.printed = printed
        """All that it wrote to its standard error, or else to its standard output."""


def program() -> Path:
    """The git-annex beside this Python, else the one on the path.

    :raises ProgramError: there is none, or no git.
    """
    beside = Path(sys.executable).with_name("git-annex")
    found = beside if beside.exists() else shutil.which("git-annex")
    if not found:
        raise ProgramError(
            "git-annex is not installed, and this repository needs it: pip install git-annex"
        )
    if not shutil.which("git"):
        raise ProgramError("git is not installed, and git-annex needs it")
    return Path(found)


def environment() -> dict[str, str]:
    """What git and git-annex are run with. Their user's settings count, but not what belongs to
    some other repository, and they find each other."""
    kept = {name: value for name, value in os.environ.items() if name not in _OF_ANOTHER_REPOSITORY}
    beside = Path(sys.executable).with_name("git-annex")
    if beside.exists():
        kept["PATH"] = f"{beside.parent}{os.pathsep}{kept.get('PATH', os.defpath)}"
    kept["GIT_TERMINAL_PROMPT"] = "0"
    return kept


def run_blocking(
    directory: Path, *arguments: str, stdin: bytes = b"", timeout: float = TIMEOUT_SECONDS
) -> str:
    """Run git-annex in a repository; in a worker thread.

    It does not outlive the server, even one that is killed: the next server might take a lock that
    a removal does not know of yet, or go on with the upload whose file is being moved.

    :param arguments: may hold surrogate escapes (PEP 383).
    :param timeout: seconds until it is ended.
    :returns: what it wrote to its standard output.
    :raises ProgramError: it failed, was not done in time, or could not be started.
    """
    command = [*_TETHER, str(os.getpid()).encode(), *_command(arguments)]
    try:
        process = subprocess.Popen(
            command,
            cwd=directory,
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
    except OSError as error:
        raise _not_started(error) from error
    try:
        out, said = process.communicate(stdin, timeout)
    except subprocess.TimeoutExpired as error:
        raise _too_slow(arguments, timeout) from error
    finally:
        if process.poll() is None:
            _signal(process.pid, signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                process.communicate(timeout=GRACE_SECONDS)
            _signal(process.pid, signal.SIGKILL)
            process.communicate()
    return _answer(arguments, process.returncode, out, said)


async def run(
    directory: Path, *arguments: str, stdin: bytes = b"", timeout: float = TIMEOUT_SECONDS
) -> str:
    """As :func:`run_blocking`. If this is cancelled, git-annex has ended before it returns."""
    command = _command(arguments)
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            cwd=directory,
            env=environment(),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
    except OSError as error:
        raise _not_started(error) from error
    try:
        async with asyncio.timeout(timeout):
            out, said = await process.communicate(stdin)
    except TimeoutError as error:
        raise _too_slow(arguments, timeout) from error
    finally:
        if process.returncode is None:
            try:
                _signal(process.pid, signal.SIGTERM)
                with suppress(TimeoutError):
                    await asyncio.wait_for(process.wait(), GRACE_SECONDS)
            finally:  # cancelled once more: at once, then
                if process.returncode is None:
                    _signal(process.pid, signal.SIGKILL)
                    await process.wait()
    assert process.returncode is not None
    return _answer(arguments, process.returncode, out, said)


async def commit_journal(directory: Path, *, timeout: float = TIMEOUT_SECONDS) -> None:
    """Have what is in the journal committed to the branch ``git-annex``, and other clones' branches
    merged into it; not if ``annex.alwayscommit`` is off. The work tree stays as it is.

    Reading a setting that is stored on the branch is the lightest command that does so.

    :param timeout: seconds.
    :raises ProgramError: it could not be committed.
    """
    await run(directory, "config", "--get", "annex.largefiles", timeout=timeout)


def set_key(
    directory: Path,
    key: Key,
    file: Path,
    *,
    verified: bool = False,
    timeout: float = CONTENT_TIMEOUT_SECONDS,
) -> None:
    """Move content into place, fill the unlocked files of the work tree with it, and record in the
    journal that it is here. If it is here already, the file is deleted, and that is no error.

    The content counts as received: git-annex looks at it (unless ``annex.verify`` is off), at
    ``annex.securehashesonly``, and whether there is as much room *beside* it on the disk as it is
    large.

    :param file: is gone afterwards. What fails verification is gone too; else it is in its place
        or in ``annex/tmp/``, as the partial upload of the key.
    :param verified: the hash has been looked at already, so git-annex need not.
    :raises ProgramError: it is not in place.
    """
    settings = ["-c", "annex.verify=false"] if verified else []
    # The journal is committed for many changes at once, see the committer.
    settings += ["-c", "annex.alwayscommit=false"]
    where = str(file.absolute())
    run_blocking(directory, "setkey", *settings, "--", key.text, where, timeout=timeout)


def drop_key(directory: Path, key: Key, *, timeout: float = TIMEOUT_SECONDS) -> None:
    """Delete content, turn the unlocked files of the work tree that hold it into pointers again
    (those that were not edited), and record in the journal that it is here no more. Nothing is
    deleted if it was not here; that is recorded too.

    git-annex takes the write lock on the content itself, so nobody here may hold a lock on it.

    :raises ProgramError: it is locked, retained, or cannot be deleted.
    """
    run_blocking(
        directory,
        "dropkey",
        "--force",
        "-c",
        "annex.alwayscommit=false",
        "--",
        key.text,
        timeout=timeout,
    )


def calculate_key(
    directory: Path, backend: str, file: Path, *, timeout: float = CONTENT_TIMEOUT_SECONDS
) -> Key:
    """The key that a file's content has in a backend. Reads it from end to end.

    With a backend whose keys carry an extension (``SKEIN256E``) the key has that of ``file``, and
    not that of the key which the content is said to belong to: compare without it.

    :raises ProgramError: git-annex does not know the backend, or cannot read the file.
    """
    where = str(file.absolute())
    out = run_blocking(directory, "calckey", f"--backend={backend}", "--", where, timeout=timeout)
    try:
        return Key.parse(out.removesuffix("\n"))
    except ValueError as error:
        raise ProgramError(f"git-annex calckey gave no key: {error}", printed=out) from error


def _command(arguments: tuple[str, ...]) -> list[bytes]:
    return [os.fsencode(program()), *map(os.fsencode, arguments)]


def _signal(group: int, number: signal.Signals) -> None:
    """To git-annex and all that it started."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def _answer(arguments: tuple[str, ...], code: int, out: bytes, said: bytes) -> str:
    if code:
        printed = os.fsdecode(said.strip() or out.strip())
        # What a person needs stands first; a trace of the program's own calls may follow.
        shown = " / ".join(dict.fromkeys(printed.splitlines()))[:_SHOWN] or "without a word"
        raise ProgramError(f"git-annex {arguments[0]} failed ({code}): {shown}", printed=printed)
    return os.fsdecode(out)


def _too_slow(arguments: tuple[str, ...], timeout: float) -> ProgramError:
    return ProgramError(f"git-annex {arguments[0]} was not done in {timeout:g} s, and was ended")


def _not_started(error: OSError) -> ProgramError:
    return ProgramError(f"cannot run git-annex: {error}")
