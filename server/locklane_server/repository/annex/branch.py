"""Reading files of the branch ``git-annex`` as it is at the moment, through one long-lived git."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import IO

from locklane_server.repository import RepositoryError
from locklane_server.repository.annex.program import environment

BRANCH = "refs/heads/git-annex"

_COMMIT = BRANCH.encode() + b"^{commit}"

_MISSING = b" missing\n"


def read_answer(git: IO[bytes]) -> bytes | None:
    """What ``git cat-file --batch`` says to a name: the content, or ``None``: there is none.

    :raises EOFError: that is no whole answer.
    """
    header = git.readline()
    if header.endswith(_MISSING):
        return None
    words = header.split()
    if len(words) != 3 or not words[2].isdigit() or len(words[2]) > 18:
        raise EOFError
    size = int(words[2])
    content = git.read(size + 1)
    if len(content) != size + 1:
        raise EOFError
    return content[:size]


def subdirectories(tree: bytes, length: int) -> dict[bytes, bytes]:
    """The directories in a directory, with their hashes, out of the form that git stores it in.

    :param length: of a hash, in bytes.
    """
    found, at = {}, 0
    while (end := tree.find(b"\0", at)) >= 0:
        mode, _, name = tree[at:end].partition(b" ")
        at = end + 1 + length
        if mode == b"40000":
            found[name] = tree[end + 1 : at]
    return found


class BranchReader:
    """``git cat-file --batch``: resolves the branch anew for each file that it is asked for.

    For one thread at a time. The process is started when it is needed first, and again if it died.

    :param gitdir: the git directory (``.git``, or a bare repository itself).
    """

    def __init__(self, gitdir: Path) -> None:
        self._gitdir = gitdir
        self._process: subprocess.Popen[bytes] | None = None
        # Of the branch as it was last read. git would inflate its some 4,000 entries for each file.
        self._top_name = b""
        self._top: dict[bytes, bytes] = {}

    def read(self, path: bytes) -> bytes:
        """The content of a file on the branch; empty if it is not there.

        :param path: of a file in a directory, from the top of the branch; without a line end, which
            git would split it at.
        :raises RepositoryError: git cannot read the branch; the text has what it said.
        """
        directory, _, rest = path.partition(b"/")
        name = self._read_top().get(directory)
        if name is None:
            return b""
        return self._object(name.hex().encode() + b":" + rest) or b""

    def _read_top(self) -> dict[bytes, bytes]:
        """What is in the top directory of the branch, with the hashes of it.

        :raises RepositoryError: there is no such branch. To take that for an empty one would be to
            write over all that is known of a key.
        """
        commit = self._object(_COMMIT)
        name = commit[len(b"tree ") : commit.index(b"\n")] if commit else b""
        if name != self._top_name or not commit:
            top = self._object(name) if name else None
            if top is None:
                raise RepositoryError(self._complaint())
            # Not searched as it is: an entry may have a name that looks like another entry.
            self._top_name, self._top = name, subdirectories(top, len(name) // 2)
        return self._top

    def close(self) -> None:
        """End git. It is started again if it is needed."""
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.communicate()

    def _object(self, name: bytes) -> bytes | None:
        fresh = self._process is None
        try:
            return self._ask(name)
        except (OSError, EOFError) as error:
            if not fresh:  # it may have died long ago
                try:
                    return self._ask(name)
                except (OSError, EOFError):
                    pass
            raise RepositoryError(self._complaint()) from error

    def _ask(self, name: bytes) -> bytes | None:
        process = self._process or self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(name + b"\n")
            process.stdin.flush()
            return read_answer(process.stdout)
        except BaseException:
            # What it still has to say would be taken for the answer to the next question.
            self.close()
            raise

    def _start(self) -> subprocess.Popen[bytes]:
        self._process = subprocess.Popen(
            ["git", f"--git-dir={self._gitdir}", "cat-file", "--batch"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment(),
            start_new_session=True,  # out of reach of what a terminal sends to the server
        )
        return self._process

    def _complaint(self) -> str:
        """A sentence with what git says when asked for the branch."""
        try:
            done = subprocess.run(
                ["git", f"--git-dir={self._gitdir}", "rev-parse", "--verify", BRANCH + "^{commit}"],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                env=environment(),
                check=False,
                timeout=30,
            )
            said = os.fsdecode(done.stderr).strip() or "git cat-file ended"
        except FileNotFoundError:
            said = "git is not installed"
        except (OSError, subprocess.TimeoutExpired) as error:
            said = str(error)
        return f"cannot read the branch git-annex of {self._gitdir}: {said}"
