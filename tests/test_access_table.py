"""README's table of access, all of it, held against the real server; and the real server against
git-annex's own, put the same requests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from accesstable import (
    ALL,
    MODES,
    NOT_TOGETHER,
    PEOPLE,
    REQUESTS,
    TLS_MODES,
    USERS,
    Asker,
    Case,
    differences,
    in_readme,
    line_of,
    ours,
)
from click.testing import CliRunner
from conftest import GIT_ANNEX, Process, ServerProcess, free_port, wait_for_port
from kinds import CONTENTS, copy_annex, git, make_directory, put

from locklane_bench.certificates import Certificates
from locklane_server.cli import serve


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates.make(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store for our server, with content."""
    store = tmp_path_factory.mktemp("served") / "store"
    make_directory(store)
    put(store, CONTENTS[0])
    return store


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory, annex_template: Path) -> Path:
    """A repository for git-annex's server, with the same content."""
    repository = tmp_path_factory.mktemp("theirs") / "annex"
    copy_annex(annex_template, repository)
    return repository


@contextmanager
def p2phttp(repository: Path, *options: str) -> Iterator[str]:
    """The URL of a ``git annex p2phttp``."""
    uuid = git(repository, "config", "annex.uuid").strip()
    port = free_port()
    path = f"{Path(GIT_ANNEX).parent}{os.pathsep}{os.environ['PATH']}"
    command = (GIT_ANNEX, "p2phttp", "-J2", "--bind=127.0.0.1", f"--port={port}", *options)
    with Process(*command, env={**os.environ, **USERS, "PATH": path}, cwd=repository):
        wait_for_port(port)
        scheme = "annex+https" if "--certfile" in options else "annex+http"
        yield f"{scheme}://127.0.0.1:{port}/git-annex/{uuid}"


Statuses = dict[Case, int]


@pytest.fixture(scope="module")
def asked(store: Path, theirs: Path, certificates: Certificates) -> tuple[Statuses, Statuses]:
    """What our server answered, and git-annex's."""
    answers: tuple[Statuses, Statuses] = ({}, {})
    for mode in MODES:
        options = mode.split()
        tls = None
        if mode in TLS_MODES:
            tls = certificates.trusting()
            options += ["--certfile", str(certificates.chain)]
            options += ["--privatekeyfile", str(certificates.key)]
        with ExitStack() as stack:
            there = stack.enter_context(p2phttp(theirs, *options))
            here = stack.enter_context(ServerProcess(store, *options, access=(), env=USERS))
            for url, statuses in ((here.url, answers[0]), (there, answers[1])):
                asker = stack.enter_context(Asker(url, tls))
                for who, authorization in PEOPLE.items():
                    for name, request in REQUESTS.items():
                        if request.theirs or url == here.url:
                            status = asker.status(request, authorization)
                            statuses[mode, who, name] = status
    return answers


def test_each_answer_is_as_the_readme_says(asked: tuple[Statuses, Statuses]) -> None:
    answered, _ = asked
    assert list(answered) == ALL
    assert {case: status for case, status in answered.items() if status != ours(case)} == {}


def test_each_line_of_the_readmes_table_was_asked_about() -> None:
    assert {line_of(mode, person) for mode, person, _ in ALL} == set(in_readme())


def test_git_annex_answers_the_same_but_for_what_is_listed(
    asked: tuple[Statuses, Statuses],
) -> None:
    answered, theirs = asked
    listed: Statuses = {}
    for difference in differences():
        assert difference.theirs, f"is none any more: {difference.why}"
        assert not listed.keys() & difference.theirs.keys(), difference.why
        listed |= difference.theirs
    assert {case: status for case, status in theirs.items() if status != answered[case]} == listed


def test_where_git_annex_answers_otherwise_ours_refuses(asked: tuple[Statuses, Statuses]) -> None:
    answered, theirs = asked
    assert all(
        answered[case] in (401, 403) for case, status in theirs.items() if status != answered[case]
    )


# -- at the start ----------------------------------------------------------------------------------


@pytest.fixture
def users_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in USERS.items():
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("users_in_the_environment")
@pytest.mark.parametrize("options", NOT_TOGETHER)
def test_options_that_contradict_each_other_are_refused_where_git_annex_starts(
    store: Path, theirs: Path, options: str
) -> None:
    words = ["--store", str(store), "--port", "0", *options.split()]
    done = CliRunner().invoke(serve, words, terminal_width=10_000)
    assert done.exit_code == 2
    assert NOT_TOGETHER[options] in done.output
    with p2phttp(theirs, *options.split()):
        pass


@pytest.mark.usefixtures("users_in_the_environment")
def test_users_without_tls_are_not_asked_for_where_there_is_tls(
    store: Path, theirs: Path, certificates: Certificates
) -> None:
    """git-annex authenticates nobody then."""
    options = ["--authenv-http", "--certfile", str(certificates.chain)]
    options += ["--privatekeyfile", str(certificates.key)]
    done = CliRunner().invoke(serve, ["--store", str(store), *options], terminal_width=10_000)
    assert done.exit_code == 2
    assert "give --authenv in place of --authenv-http" in done.output
    with p2phttp(theirs, *options) as url, Asker(url, certificates.trusting()) as asker:
        assert asker.status(REQUESTS["checkpresent"], PEOPLE["alice"]) == 401
