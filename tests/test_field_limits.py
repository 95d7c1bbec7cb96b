"""Scenarios from the field: what there is only so much of, and what is said when that is all."""

from __future__ import annotations

import os
from contextlib import ExitStack

import pytest
from annexes import Annex, Locklane, Serving, annex, home, locklane
from annexwire import Api
from conftest import LOCKLANE, Process
from fields import add_files, curl, ends_with_0, http_url, open_descriptors, returns_to, threads
from smalldisk import small_disk

__all__ = ["annex", "home", "locklane"]

pytestmark = pytest.mark.timeout(180)


class LimitedLocklane(Locklane):
    """With as many descriptors as a service of systemd gets."""

    def __init__(self, annex: Annex, *options: str) -> None:
        limited = ("prlimit", "--nofile=1024:1024", LOCKLANE, "serve", "--wideopen", "--port", "0")
        Process.__init__(self, *annex.command(*limited, *options), env=annex.env)
        self.base = self.line(r"serving (annex\+http://\S+/git-annex/)")[1]
        self.url = self.base + annex.uuid
        self.api = Api(self.url)


def test_field_07_many_jobs_take_no_descriptors(annex: Annex) -> None:
    """250 jobs, and many clients at once: all of them are answered."""
    files = add_files(annex, 60, 100_000)
    key = annex.add(b"content")
    with LimitedLocklane(annex, "--jobs", "250") as server:
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
    """After git-annex has locked and dropped many files, and when there are as many locks as there
    may be: who is refused is told why, and that it is not for the content."""
    count = 10
    add_files(annex, count, 10)
    keys = [annex.add(f"content {number}".encode()) for number in range(5)]
    server = locklane(annex, "--lockedfiles", "4")
    before = open_descriptors(server)
    clone = annex.clone("clone", server.url)
    for _ in range(2):
        clone.annex("get", "-q", "-J2", ".")
        dropped = clone.annex("drop", "-J2", ".")
        assert dropped.count("locking origin") == count + len(keys)
        returns_to(server, before)
    clients = [Api(server.url, f"{number}0000000-0000-4000-8000-00000000c11e") for number in "123"]
    locks = [
        (client, client.lock(keys[2 * number + again]))
        for number, client in enumerate(clients[:2])
        for again in range(2)
    ]
    status, answer = clients[2].post("lockcontent", key=keys[4])
    said = str(answer.get("reason") or answer.get("error"))
    assert status in (200, 503)
    assert not answer.get("locked")
    assert "as many locks as it may; try again later" in said, answer
    for client, lock in locks:
        client.unlock(lock)
    clients[2].unlock(clients[2].lock(keys[4]))
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
