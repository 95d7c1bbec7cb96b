"""On what file system something lies."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from locklane_server.repository.annex import mounts


@pytest.mark.parametrize("path", ["/", "/proc/self", "/sys", "/dev/shm", "."])
def test_the_kind_is_that_which_the_system_tells(path: str, tmp_path: Path) -> None:
    """findmnt(8) reads the same table."""
    place = tmp_path if path == "." else Path(path)
    said = subprocess.run(
        ["findmnt", "--noheadings", "--output", "FSTYPE", "--target", place.resolve()],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert mounts.kind(str(place)) == said[-1]


def test_proc_is_not_a_disk_of_this_machine() -> None:
    assert not mounts.is_local("/proc")


def test_what_the_system_does_not_tell_is_not_local(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mounts, "TABLE", "/nonexistent")
    assert mounts.kind("/") == ""
    assert not mounts.is_local("/")


def test_a_mount_with_a_blank_in_its_name_and_one_over_another(tmp_path: Path) -> None:
    """In a mount namespace of its own, where that is allowed."""
    program = (
        "import sys; from locklane_server.repository.annex import mounts;"
        "print(mounts.kind(sys.argv[1]), mounts.kind(sys.argv[2]))"
    )
    below = tmp_path / "with blank" / "below"
    below.mkdir(parents=True)
    script = (
        'mount -t tmpfs none "$1" && mkdir "$1/below" && mount -t ramfs none "$1" '
        '&& mkdir "$1/below" && exec "$2" -c "$3" "$1/below" "$4"'
    )
    done = subprocess.run(
        [
            "unshare",
            "--user",
            "--map-root-user",
            "--mount",
            "sh",
            "-c",
            script,
            "sh",
            str(below.parent),
            sys.executable,
            program,
            str(tmp_path),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["ramfs", mounts.kind(str(tmp_path))]
