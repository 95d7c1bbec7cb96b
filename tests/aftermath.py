"""What is looked at after the last of many servers was killed, and one more has put things in order
and has been stopped: content, records, locks, and what else lies about."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

from annexes import Annex
from crashing import Crashing

from locklane_client import Key
from locklane_client.wire import RETENTION

BESIDE = (".lck", ".rtm", ".rtl")
"""What lies beside content that was locked."""


def content_in(top: Path) -> dict[str, Path]:
    """All files where content is, by the name of their key's file; nothing else may be there."""
    found: dict[str, Path] = {}
    for path in top.glob("*/*/*/*"):
        if not path.name.endswith(BESIDE):
            assert path.name == path.parent.name, path
            assert path.name not in found, path
            found[path.name] = path
    return found


def content_is_right(crashing: Crashing, found: dict[str, Path]) -> None:
    """What is in place is the content of its key, and has the modes that it should have."""
    by_name = {key.file_name: file for key, file in crashing.contents.files.items()}
    for name, path in found.items():
        assert path.read_bytes() == by_name[name].read_bytes(), path
        assert path.stat().st_mode & 0o222 == 0, path


def promises_are_kept(crashing: Crashing, found: dict[str, Path], *others: Annex) -> None:
    """What was stored or locked is there, and of every key that was there is a copy somewhere."""
    elsewhere = {name for other in others for name in other.objects()}
    for key in crashing.contents.files:
        if key.file_name not in found:
            crashing.promises.absent(key, time.monotonic())
            held = bool(crashing.promises.copies(key)) or key.file_name in elsewhere
            told = "\n".join(crashing.promises.history[key])
            assert held, f"the last copy of {key} is gone:\n{told}"


def fsck_finds_nothing(annex: Annex, found: dict[str, Path]) -> None:
    """Nor has it anything to mend. Of a key that has been removed it says that nobody has it."""
    recorded = annex.recorded()
    assert {key for key in recorded if Key.parse(key).file_name not in found} == set()
    assert {name for name in found if Key.from_file_name(name).text not in recorded} == set()
    for words in ("fsck",), ("fsck", "--all"):
        done = annex.attempt("git", "annex", *words, "--json", "--json-error-messages")
        assert done.stdout, done.stderr
        for line in done.stdout.splitlines():
            said = json.loads(line)
            if Key.parse(said["key"]).file_name in found:
                assert said["success"], said
                assert said.get("note", "").strip() in ("", "checksum..."), said
                assert not said["error-messages"], said
            else:
                assert "fixing" not in said.get("note", ""), said
                for message in said["error-messages"]:
                    assert "No known copies" in message, said


def locks_end(top: Path) -> dict[str, Path]:
    """The retention files, by the name of the key's file. None goes on for more than ten minutes,
    and there is no other trace of a lock than beside content."""
    found: dict[str, Path] = {}
    for path in top.glob("*/*/*/*"):
        if path.name.endswith(BESIDE):
            assert path.with_suffix("").exists(), f"{path} is left, without content"
        if path.name.endswith(".rtm"):
            until = float(path.read_text().rstrip("s"))
            assert until <= time.time() + RETENTION, path
            found[path.name.removesuffix(".rtm")] = path
    return found


CLOCK = re.compile(r".*/locklane/clock-[0-9a-f-]{36}")
"""What a server knows of the machine's clock, of which the next one has need."""


def files_below(*directories: Path) -> list[Path]:
    """All files but that of :data:`CLOCK`."""
    return [
        path
        for top in directories
        for path in sorted(top.rglob("*"))
        if not (path.is_dir() or CLOCK.fullmatch(str(path)))
    ]


def partials(crashing: Crashing, directory: Path, found: dict[str, Path]) -> dict[Key, int]:
    """What is left of uploads: as much as a resume says that it uses."""
    left: dict[Key, int] = {}
    by_name = {key.file_name: key for key in crashing.contents.files}
    for path in files_below(directory):
        assert path.name in by_name, f"{path} is left, and of no key"
        assert path.name not in found, f"{path} is left, though its content is there"
        left[by_name[path.name]] = path.stat().st_size
    return left
