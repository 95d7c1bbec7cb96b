"""``git annex testremote``, git-annex's own test of a remote, through our server and its own."""

from __future__ import annotations

import re
from collections import Counter

import pytest
from annexes import Annex, Serving, either, home, locklane

__all__ = ["either", "home", "locklane"]

_GROUP = re.compile(r"^( *)(\S.*?)\s*$")
_RESULT = re.compile(r"^( *)(\S.*?): +(OK|FAIL)\b")


def results(printed: str) -> dict[str, str]:
    """The outcome of each single test, by its name and those of the groups it is in."""
    found: dict[str, str] = {}
    groups: list[tuple[int, str]] = []
    times: Counter[str] = Counter()
    for line in printed.splitlines():
        if result := _RESULT.match(line):
            depth = len(result[1])
            groups = [group for group in groups if group[0] < depth]
            name = " / ".join([*(group for _, group in groups), result[2]])
            times[name] += 1  # "present True" is asked more than once
            found[f"{name} ({times[name]})"] = result[3]
        elif (group := _GROUP.match(line)) and not line.lstrip().startswith(("FAIL", "Use -p")):
            depth = len(group[1])
            groups = [*(each for each in groups if each[0] < depth), (depth, group[2])]
    return found


def run(clone: Annex, size: str) -> dict[str, str]:
    done = clone.attempt("git", "annex", "testremote", f"--size={size}", "origin")
    found = results(done.stdout)
    assert len(found) > 500, done.stdout + done.stderr
    return found


@pytest.mark.timeout(180)
def test_what_passes_at_git_annexs_server_passes_at_ours(
    either: Annex, home: object, locklane: Serving
) -> None:
    """Test by test. Those that fail at both are about a remote that cannot be reached."""
    bare = either.git_directory == either.directory
    size = "100kB" if bare else "1MB"  # the same tests, in less time
    with either.p2phttp() as url:
        clone = either.clone("clone", url)
        theirs = run(clone, size)
    server = locklane(either)
    clone.connect(server.url)
    ours = run(clone, size)
    assert ours.keys() == theirs.keys()
    assert {name for name, result in theirs.items() if result == "OK"} <= {
        name for name, result in ours.items() if result == "OK"
    }
    failed = {name for name, result in ours.items() if result != "OK"}
    assert all("unavailable remote" in name for name in failed), failed
    server.terminate()
    assert server.wait() == 0
    assert not either.objects()
    assert not either.recorded()
