"""The command line as a user runs it: real processes, exit statuses, and what they print."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import sys
import time
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from conftest import (
    ABSENT,
    BOUND,
    LOCKLANE,
    SOMEBODY,
    Process,
    ServerProcess,
    free_port,
    post,
    remove,
)
from conftest import run_locklane as run
from kinds import copy_annex, git

from locklane_client import Key

StartServer = Callable[..., ServerProcess]

COMMANDS = sorted(found.name for found in entry_points(group="locklane.commands"))


# -- help ------------------------------------------------------------------------------------------


def test_help_names_every_command() -> None:
    status, said = run("--help")
    assert status == 0
    for name in COMMANDS:
        assert f"\n  {name} " in said
    assert "(needs" not in said, "a command that is installed is said to be missing"
    assert "damaged" not in said


def without(module: str, *arguments: str) -> tuple[int, str]:
    """:func:`run` where a module cannot be imported."""
    program = (
        "import sys; sys.modules[sys.argv[1]] = None; "
        "from locklane_client.cli import main; main(sys.argv[2:], prog_name='locklane')"
    )
    with Process(sys.executable, "-c", program, module, *arguments) as process:
        status = process.wait()
    assert "Traceback" not in process.output, process.output
    return status, process.output


def test_a_package_that_is_missing_can_be_installed() -> None:
    status, said = without("prometheus_client", "--help")
    assert status == 0
    assert "serve" in said
    assert "(needs prometheus_client: pip install 'locklane[bench]')" in " ".join(said.split())
    status, said = without("prometheus_client", "serve", "--wideopen")
    assert status == 1
    assert "'locklane serve' needs the package prometheus_client: pip install" in said


@pytest.mark.parametrize("module", ["locklane_server.cli", "locklane_server.server"])
def test_no_package_brings_a_module_of_locklane_itself(module: str) -> None:
    status, said = without(module, "--help")
    assert status == 0
    assert "(this installation is damaged: install Locklane again)" in " ".join(said.split())
    status, said = without(module, "serve", "--wideopen")
    assert status == 1
    assert re.search(rf"damaged: install Locklane again \(.*{re.escape(module)}.*\)\n", said)
    assert "pip" not in said


def test_version_is_told() -> None:
    status, said = run("--version")
    assert status == 0
    assert said.startswith("locklane, version 0.")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_examples(command: str) -> None:
    status, said = run(command, "--help")
    assert status == 0
    assert "Usage: locklane " + command in said
    assert re.search(r"Examples?:\n", said)
    assert f"    locklane {command} " in said


def test_an_unknown_command_is_2() -> None:
    status, said = run("lokc")
    assert status == 2
    assert "No such command 'lokc'" in said


# -- serve -----------------------------------------------------------------------------------------


def test_serve_asks_who_may_use_it(tmp_path: Path) -> None:
    status, said = run("serve", "--store", tmp_path / "new", "--port", "0")
    assert status == 2
    assert "--wideopen" in said
    assert not (tmp_path / "new").exists(), "it touched the store before it was allowed to"


def test_serve_without_a_repository_around_it_is_1(tmp_path: Path) -> None:
    status, said = run("serve", "--wideopen", "--port", "0", cwd=tmp_path)
    assert status == 1
    assert f"Error: {tmp_path}" in said
    assert "not a git repository" in said


def test_serve_in_a_repository_without_git_annex_is_1_and_says_what_to_do(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    status, said = run("serve", "--wideopen", "--port", "0", cwd=tmp_path)
    assert status == 1
    assert "run 'git annex init' in that repository first" in said


@pytest.mark.kinds("annex")
async def test_serve_without_a_store_is_the_repository_around_the_current_directory(
    store: Path, key: Key
) -> None:
    inside = store / "some" / "where"
    inside.mkdir(parents=True)
    uuid = git(store, "config", "annex.uuid").strip()
    with Process(LOCKLANE, "serve", "--wideopen", "--port", "0", cwd=inside) as process:
        url = (await process.prints(r"serving (annex\+http://\S+)\n"))[1]
        assert url.endswith(f"/git-annex/{uuid}")
        assert await post(url, "checkpresent", key=key.text) == (200, {"present": True})
        process.interrupt()
        assert await process.ended() == 0


@pytest.mark.kinds("annex")
async def test_serve_a_directory_serves_what_is_below_it_and_what_comes_there(
    store: Path, annex_template: Path, key: Key
) -> None:
    """One repository is there from the start; the other one is made while the server runs."""
    top = store.parent / "top"
    top.mkdir()
    copy_annex(store, top / "one")
    where = ("--directory", top, "--directory", top / "one")  # the same one twice is served once
    with Process(LOCKLANE, "serve", *where, "--wideopen", "--port", "0") as process:
        url = (await process.prints(r"serving (annex\+http://\S+)\n"))[1]
        assert process.output.count("serving annex") == 1
        (top / "deep").mkdir()
        copy_annex(annex_template, top / "deep" / "two")
        git(top / "deep" / "two", "config", "annex.uuid", SOMEBODY)
        for each in (url, url.rpartition("/")[0] + f"/{SOMEBODY}"):
            # An unknown UUID is looked for, but not more often than once a second.
            end = time.monotonic() + BOUND
            while (answer := await post(each, "checkpresent", key=key.text))[0] == 404:
                assert time.monotonic() < end, answer
                await asyncio.sleep(0.05)
            assert answer == (200, {"present": True})
    assert "Traceback" not in process.output


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--store", "new", "--directory", "."], "--store and --directory do not go together"),
        (["--directory", ".", "--uuid", SOMEBODY], "--uuid is for --store"),
        (["--uuid", SOMEBODY], "--uuid is for --store"),
        (["--directory", "nowhere"], "'nowhere' does not exist"),
    ],
)
def test_serve_options_that_do_not_go_together_are_2_with_a_sentence(
    tmp_path: Path, options: list[str], says: str
) -> None:
    status, said = run("serve", "--wideopen", "--port", "0", *options, cwd=tmp_path)
    assert status == 2
    assert says in said
    assert not list(tmp_path.iterdir()), "it made something although it did not serve"


def test_serve_in_a_directory_without_repositories_says_that_there_is_none_yet(
    tmp_path: Path,
) -> None:
    with Process(
        LOCKLANE, "serve", "--directory", tmp_path, "--wideopen", "--port", "0"
    ) as process:
        process.line(r"serving annex\+http://127\.0\.0\.1:\d+/git-annex/ \(no repository yet\)\n")
        process.terminate()
        assert process.wait() == 0


def test_the_help_of_serve_has_an_example_of_each_kind_of_repository() -> None:
    status, said = run("serve", "--help")
    assert status == 0
    for example in (
        "    locklane serve --wideopen\n",
        "    locklane serve --directory /srv/annex --wideopen",
        "    locklane serve --store ./store --wideopen",
        "    locklane serve --store /mnt/disk/annex --uuid UUID --wideopen",
    ):
        assert example in said
    for option in ("--directory", "--store", "--jobs", "-J", "--lockedfiles", "--metrics"):
        assert option in said


@pytest.mark.kinds("annex", "directory")
async def test_serve_with_one_worker_serves_everything(
    server_process: StartServer, keys: list[Key]
) -> None:
    server = server_process("--jobs", "1")
    answers = await asyncio.gather(
        *(post(server.url, "lockcontent", key=key.text) for key in keys * 10)
    )
    assert all(answer["locked"] for _, answer in answers)
    answers = await asyncio.gather(
        *(post(server.url, "keeplocked", lockid=answer["lockid"], body=b'{"unlock":true}')
          for _, answer in answers)
    )  # fmt: skip
    assert all(answer == (200, {"locked": False}) for answer in answers)
    for key in keys:
        assert (await remove(server.url, key))["removed"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--transports", "pigeon"], "no transport 'pigeon'; there are longpoll"),
        (["--transports", ","], "name at least one transport of longpoll"),
        (["--port", "65536"], "--port"),
        (["--lockedfiles", "0"], "--lockedfiles"),
        (["--jobs", "0"], "--jobs"),
        (["-J", "many"], "--jobs"),
        (["--metrics", "9418"], "write HOST:PORT"),
    ],
)
def test_serve_options_that_make_no_sense_are_2(store: Path, options: list[str], says: str) -> None:
    status, said = run("serve", "--store", store, "--wideopen", *options)
    assert status == 2
    assert says in said


def test_serve_on_a_port_in_use_is_1(store: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        status, said = run("serve", "--store", store, "--wideopen", "--port", port)
    assert status == 1
    assert "in use" in said
    assert port in said, "which port?"


@pytest.mark.parametrize("address", ["192.0.2.1", "no.such.host.invalid"])
def test_serve_on_an_address_that_is_not_here_is_1(store: Path, address: str) -> None:
    status, said = run("serve", "--store", store, "--wideopen", "--port", "0", "--bind", address)
    assert status == 1
    assert "cannot listen" in said


def test_serve_a_metrics_port_in_use_is_1(store: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        metrics = f"127.0.0.1:{taken.getsockname()[1]}"
        status, said = run(
            "serve", "--store", store, "--wideopen", "--port", "0", "--metrics", metrics
        )
    assert status == 1
    assert "in use" in said


def test_serve_a_file_as_store_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("no store")
    status, said = run("serve", "--store", file, "--wideopen", "--port", "0")
    assert status in (1, 2)
    assert "file" in said


def test_serve_a_directory_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").write_text("not ours")
    status, said = run("serve", "--store", tmp_path, "--wideopen", "--port", "0")
    assert status == 1
    assert "holiday.jpg" in said
    assert not (tmp_path / ".locklane").exists()


def test_serve_damaged_state_is_refused(store: Path) -> None:
    (store / ".locklane" / "retention.sqlite").write_bytes(b"this is no database" * 100)
    status, said = run("serve", "--store", store, "--wideopen", "--port", "0")
    assert status == 1
    assert "not a database" in said


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_serve_ends_with_0_when_it_is_told_to(server_process: StartServer, number: int) -> None:
    process = server_process()
    process.signal(number)
    assert process.wait() == 0
    assert "Traceback" not in process.output


# -- lock ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_lock_holds_until_it_is_interrupted(
    server_process: StartServer, keys: list[Key], transport: str, number: int
) -> None:
    server = server_process()
    names = [key.text for key in keys]
    with Process(LOCKLANE, "lock", "--transport", transport, server.url, *names) as process:
        await process.prints(r"holding 3 locks over \d+ connections?\n")
        for key in keys:
            assert not (await remove(server.url, key))["removed"]
        process.signal(number)
        assert await process.ended() == 0
    assert "unlocked" in process.output
    assert "Traceback" not in process.output
    for key in keys:
        assert (await remove(server.url, key))["removed"]


async def test_lock_counts_as_a_person_would(server_process: StartServer, key: Key) -> None:
    server = server_process()
    # The same key twice is one lock.
    with Process(LOCKLANE, "lock", server.url, key.text, key.text) as process:
        said = await process.prints(r"holding .*\n")
        assert "1 locks" not in said[0]
        process.interrupt()
        assert await process.ended() == 0


async def test_lock_refused_is_1_with_the_reason_and_lets_the_others_go(
    server_process: StartServer, key: Key, transport: str
) -> None:
    server = server_process()
    status, said = run("lock", "--transport", transport, server.url, key.text, ABSENT.text)
    assert status == 1
    assert "the content is not present" in said
    assert (await remove(server.url, key))["removed"]


def test_lock_refused_for_one_of_many_says_which(
    server_process: StartServer, key: Key, transport: str
) -> None:
    server = server_process()
    _, said = run("lock", "--transport", transport, server.url, key.text, ABSENT.text)
    assert ABSENT.text in said


def test_lock_when_the_server_is_killed_is_1_and_lost(
    server_process: StartServer, keys: list[Key], transport: str
) -> None:
    server = server_process()
    names = [key.text for key in keys]
    with Process(LOCKLANE, "lock", "--transport", transport, server.url, *names) as process:
        process.line("holding 3 locks")
        server.kill()
        assert process.wait() == 1
    assert "Error: lost: " in process.output
    assert "goes on keeping the content for" in process.output
    assert "Traceback" not in process.output


def test_lock_when_the_server_is_stopped_is_1_and_says_so(
    server_process: StartServer, key: Key, transport: str
) -> None:
    server = server_process()
    with Process(LOCKLANE, "lock", "--transport", transport, server.url, key.text) as process:
        process.line("holding 1 lock")
        server.terminate()
        assert process.wait() == 1
        assert server.wait() == 0
    assert "the server is stopping" in process.output


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("localhost", "is no address"),
        ("ssh://host/git-annex/u", "is no address"),
        ("annex+http:///git-annex/u", "is no address"),
        ("annex+http://host:port/git-annex/u", "host:port"),
        ("annex+http://host:9417/git-annex/", "which repository"),
        ("annex+http://host:9417/git-annex/u/v4", "goes on behind the UUID"),
        ("annex+http://[::1/git-annex/u", ""),
        ("annex+http://host/git-annex/[!!]", "not base64url"),
    ],
)
def test_lock_a_url_that_is_none_is_2(url: str, says: str, key: Key, transport: str) -> None:
    status, said = run("lock", "--transport", transport, url, key.text)
    assert status == 2
    assert says in said
    assert "Usage: locklane lock" in said


def test_lock_a_key_that_is_none_is_2(server_process: StartServer, transport: str) -> None:
    server = server_process()
    status, said = run("lock", "--transport", transport, server.url, "nokey")
    assert status == 2
    assert "not a git-annex key" in said
    assert "git annex lookupkey FILE" in said


def test_lock_without_a_key_is_2() -> None:
    status, said = run("lock", "annex+http://localhost/git-annex/u")
    assert status == 2
    assert "KEY" in said


def test_lock_where_nobody_listens_is_1(key: Key, transport: str) -> None:
    url = f"annex+http://127.0.0.1:{free_port()}/git-annex/u"
    status, said = run("lock", "--transport", transport, url, key.text)
    assert status == 1
    assert "127.0.0.1" in said
    assert "Connect" in said or "connect" in said


def test_lock_never_prints_the_password(key: Key, transport: str) -> None:
    url = f"annex+http://alice:s3cret@127.0.0.1:{free_port()}/git-annex/u"
    _, said = run("lock", "--transport", transport, url, key.text)
    assert "s3cret" not in said


def test_lock_a_bad_url_never_prints_the_password(key: Key) -> None:
    status, said = run("lock", "annex+http://alice:s3cret@host:9417/git-annex/", key.text)
    assert status == 2
    assert "s3cret" not in said


def test_lock_interrupted_while_the_server_does_not_answer_ends_soon(
    key: Key, transport: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"annex+http://127.0.0.1:{silent.getsockname()[1]}/git-annex/u"
        with Process(LOCKLANE, "lock", "--transport", transport, url, key.text) as process:
            asking, _ = silent.accept()
            with asking:
                assert asking.recv(100)
                process.interrupt()
                process.wait(5)
    assert "Traceback" not in process.output


async def test_the_commands_work_where_the_locale_is_plain(
    store: Path, keys: list[Key], transport: str
) -> None:
    env = {**os.environ, "LC_ALL": "C", "LANG": "C"}
    with ServerProcess(store) as server:
        status, said = run("lock", "--transport", transport, server.url, ABSENT.text, env=env)
        assert status == 1
        assert "the content is not present" in said
