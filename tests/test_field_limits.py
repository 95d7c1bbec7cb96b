"""Scenarios from the field: what there is only so much of, and what is said when that is all."""

from __future__ import annotations

import os
from contextlib import ExitStack

import pytest
from annexes import Annex, Serving, annex, home, locklane
from conftest import LOCKLANE
from fields import (
    FieldServer,
    add_files,
    curl,
    ends_with_0,
    http_url,
    open_descriptors,
    returns_to,
    threads,
)
from smalldisk import small_disk

__all__ = ["annex", "home", "locklane"]

pytestmark = pytest.mark.timeout(180)


LIMITED = ("prlimit", "--nofile=1024:1024", LOCKLANE)
"""With as many descriptors as a service of systemd gets."""


def test_field_07_many_jobs_take_no_descriptors(annex: Annex) -> None:
    """250 jobs, and many clients at once: all of them are answered."""
    files = add_files(annex, 60, 100_000)
    key = annex.add(b"content")
    with FieldServer(annex, "--jobs", "250", command=LIMITED) as server:
        before = open_descriptors(server)
        clone = annex.clone("clone", server.url)
        with ExitStack() as stack:
            many = ("--parallel", "--parallel-immediate", "--parallel-max", "100", "--fail")
            urls = [http_url(server, key)] * 300
            crowd = [stack.enter_context(curl(*many, *urls)) for _ in range(2)]
            clone.annex("get", "-q", "-J40", ".")
            for each in crowd:
                assert each.wait() == 0, each.output
                assert each.output == "content" * 300
        for file in files:
            assert (clone.directory / file.name).read_bytes() == file.read_bytes()
        assert threads(server) < 250 + 10
        returns_to(server, before)
        ends_with_0(server)


def test_field_08_descriptors_return_and_a_limit_of_locks_is_said(
    annex: Annex, locklane: Serving
) -> None:
    """After git-annex has locked and dropped many files; and when there are as many locks as there
    may be, who is refused is told that it is for this, and not for the content."""
    count = 10
    add_files(annex, count, 10)
    keys = [annex.add(f"content {number}".encode()) for number in range(3)]
    server = locklane(annex, "--lockedfiles=2", "--lockedfiles-per-client=2")
    before = open_descriptors(server)
    clone = annex.clone("clone", server.url)
    for _ in range(2):
        clone.annex("get", "-q", "-J2", ".")
        dropped = clone.annex("drop", "-J2", ".")
        assert dropped.count("locking origin") == count + len(keys)
        returns_to(server, before)
    locks = [server.api.lock(key) for key in keys[:2]]
    status, answer = server.api.post("lockcontent", key=keys[2])
    assert (status, answer["locked"]) == (200, False)
    assert "as many locks as it may; try again later, or raise --lockedfiles" in answer["reason"]
    for lock in locks:
        server.api.unlock(lock)
    server.api.unlock(server.api.lock(keys[2]))
    returns_to(server, before)
    ends_with_0(server)


def test_field_09_a_full_disk_is_said_to_who_runs_git_annex(annex: Annex) -> None:
    """With what to do, for copy and move alike; and nothing is moved away."""
    annex.configure(annex_diskreserve="0")
    annex.add(b"content")
    with small_disk(annex) as disk:
        clone = annex.clone("clone", disk.url)
        content = os.urandom(2_000_000)
        key = clone.add(content)
        for words in ("copy", "move"):
            disk.fill(but=1_000_000)
            failed = clone.attempt("git", "annex", words, "--to=origin", f"--key={key.text}")
            assert failed.returncode == 1
            said = failed.stdout + failed.stderr
            assert "not enough free space: 2000000 bytes are needed" in said
            assert "free some space on the server's disk, and try again" in said
            assert clone.object(key).read_bytes() == content
            disk.free()
        clone.annex("move", "-q", "--to=origin", f"--key={key.text}")
        assert disk.api.get(key) == (200, content)
