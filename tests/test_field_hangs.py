"""Scenarios from the field: servers that stop answering, and servers that end."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from annexes import Annex, Locklane, Serving, annex, home, locklane
from annexwire import Api, Upload
from conftest import ABSENT, BOUND, LOCKLANE, key_of
from fields import (
    WAIT_FOR_A_GATE,
    FieldServer,
    add_files,
    all_end_well,
    curl,
    ends_with_0,
    http_url,
    open_descriptors,
    returns_to,
    soon,
)
from rawhttp import request, wire

from locklane_client import Client
from locklane_client.key import Key

__all__ = ["annex", "home", "locklane"]

pytestmark = pytest.mark.timeout(180)

BIG = 16_000_000
"""Bytes, more than all buffers between a server and a client that does not read."""


def test_field_01_requests_that_ended_give_their_workers_back(
    annex: Annex, locklane: Serving
) -> None:
    """Of every kind, and however they end, more than twice as many as there are jobs."""
    key = annex.add(b"content")
    server = locklane(annex, "--jobs", "2")
    clone = annex.clone("clone", server.url)
    api = server.api
    for turn in range(2 * 2 + 1):
        assert api.get(key)[0] == 200
        assert api.get(ABSENT)[0] == 404
        assert not api.present(ABSENT)
        api.unlock(api.lock(key))
        assert not api.post("lockcontent", key=ABSENT)[1]["locked"]
        content = f"turn {turn}".encode()
        other = key_of(content, ".dat")
        assert api.put(other, b"x" * len(content))[0] == 422
        assert api.put(other, content[:-1], length=len(content))[0] == 422
        assert api.post("putoffset", key=other)[0] == 200
        assert api.put(other, content[-1:], offset=len(content) - 1)[0] == 200
        assert api.put(other, content)[1]["stored"] is True
        assert api.post("remove-before", key=other, timestamp=0)[1]["removed"] is False
        assert api.remove(other)["removed"] is True
        assert api.post("remove")[0] == 400
        clone.annex("get", "-q", "--force", f"--key={key.text}")
        clone.annex("drop", "-q", f"--key={key.text}")
    ends_with_0(server)


def killed_in_a_download(server: Locklane, key: Key, kept: Path) -> None:
    """A curl that has got some of the content and is reading on, slowly."""
    kept.unlink(missing_ok=True)
    with curl("--limit-rate", "1M", "--output", kept, http_url(server, key)):
        soon(lambda: kept.exists() and kept.stat().st_size, "the download begins")
    assert kept.stat().st_size < BIG


@contextmanager
def the_only_worker_busy(annex: Annex, server: Locklane) -> Iterator[list[Key]]:
    """Keys that are being stored within: the first by the server's only worker, which waits in it,
    and the others wait for the worker. After it, all are stored."""
    contents = [f"to be stored {number}".encode() for number in range(3)]
    keys = [key_of(content, ".dat") for content in contents]
    with ThreadPoolExecutor() as clients:
        answers = []
        for key, content in zip(keys, contents, strict=True):
            answers.append(clients.submit(server.api.put, key, content))
            soon((annex.home / "reached").exists, "the worker waits")
        yield keys
        assert not any(answer.done() for answer in answers)
        (annex.home / "gate").touch()
        for answer in answers:
            assert answer.result() == (200, {"stored": True, "plusuuids": []})


def test_field_03_stuck_after_interrupted_clients(
    annex: Annex, locklane: Serving, tmp_path: Path
) -> None:
    """Clients killed in the middle of big downloads again and again, while requests wait for the
    only worker, and killed while they wait themselves: then everybody is answered."""
    content = os.urandom(BIG)
    key = annex.add(content)
    annex.git("config", "annex.freezecontent-command", WAIT_FOR_A_GATE)
    server = locklane(annex, "--jobs", "1")
    assert server.api.get(key) == (200, content)
    before = open_descriptors(server)
    for number in range(10):
        killed_in_a_download(server, key, tmp_path / f"{number}")
    with the_only_worker_busy(annex, server):
        for number in range(10):
            with curl("--verbose", "--output", tmp_path / "x", http_url(server, key)) as download:
                download.line("> GET ")
            late = f"late {number}".encode()
            upload = Upload(server.api, key_of(late, ".dat"), len(late), length=len(late))
            upload.send(late if number < 3 else late[:3])  # and then it waits for the worker, too
            upload.reset()
    assert server.api.get(key) == (200, content)
    clone = annex.clone("clone", server.url)
    clone.annex("get", "-q", ".")
    returns_to(server, before)
    ends_with_0(server)


HURRIED = """
import sys
from locklane_client.cli import main
from locklane_server import body, connections
connections.HEAD_SECONDS = body.SECONDS = 1.0
sys.argv[0] = "locklane"
main()
"""
"""``locklane`` that gives heads and bodies a second, where it would give them 20 and 60."""


async def test_field_03_a_slow_head_and_body_are_cut_off_and_what_only_waits_is_not(
    annex: Annex,
) -> None:
    """Longer than it takes for two slow heads and a slow body to be cut off, one after the other: a
    hold says nothing, requests wait for the only worker, and nobody reads a download."""
    key = annex.add(os.urandom(BIG))
    annex.git("config", "annex.freezecontent-command", WAIT_FOR_A_GATE)
    with FieldServer(annex, "--jobs=1", command=(sys.executable, "-c", HURRIED)) as server:
        async with (
            Client(server.url, transport="longpoll") as client,
            client.lock(key) as held,
            wire(server.url) as reader,
        ):
            reader.head("GET", request("key", key))
            with the_only_worker_busy(annex, server):
                for beginning in ("", f"GET {server.api.path} HTTP/1.1\r\nHost"):
                    async with wire(server.url) as slow:
                        await slow.send(beginning.encode())
                        assert b" 408 " in (await slow.end()).splitlines()[0]
            async with wire(server.url) as slow:
                size = ABSENT.size or 0
                slow.head("POST", request("put", ABSENT), length=size, promised=size)
                await slow.send(b"n")
                assert (await slow.answer()).status == 408
            assert held.lost is None
            assert len((await reader.answer()).body) == BIG
        ends_with_0(server)


def test_field_04_heads_and_bodies_that_nobody_reads(annex: Annex, locklane: Serving) -> None:
    content = os.urandom(BIG)
    key = annex.add(content)
    server = locklane(annex, "--jobs", "1")
    before = open_descriptors(server)
    url = http_url(server, key)
    for _ in range(3):  # three on one connection
        with curl("--head", url, url, url) as heads:
            assert heads.wait() == 0
            assert heads.output.count(f"Content-Length: {BIG}") == 3
    host, port = server.api.host.split(":")
    with ExitStack() as stack:
        for _ in range(5):
            unread = stack.enter_context(socket.create_connection((host, int(port))))
            head = f"GET {server.api.path}/key/{key.text} HTTP/1.1\r\nHost: {host}\r\n\r\n"
            unread.sendall(head.encode())
            assert unread.recv(12) == b"HTTP/1.1 200"
        assert server.api.get(key) == (200, content)
        assert server.api.put(ABSENT, b"nobody ever stored this")[0] == 200
    returns_to(server, before)
    ends_with_0(server)


def test_field_05_clients_that_drop_and_get_in_a_circle(annex: Annex, locklane: Serving) -> None:
    """Three at once, of a server with two jobs."""
    files = add_files(annex, 4, 100_000)
    server = locklane(annex, "--jobs", "2")
    clones = [annex.clone(f"clone {number}", server.url) for number in range(3)]
    circle = "for turn in 1 2 3; do git annex get -q . && git annex drop -q . || exit; done"
    all_end_well([clone.start("sh", "-c", f"{circle}; git annex get -q .") for clone in clones])
    for clone in clones:
        for file in files:
            assert (clone.directory / file.name).read_bytes() == file.read_bytes()
    ends_with_0(server)
    annex.fsck()


def test_field_16_clients_that_vanish_do_not_end_the_server(
    annex: Annex, locklane: Serving
) -> None:
    """git-annex in the middle of a download, an upload, and a drop; and less of a client."""
    theirs = annex.add(os.urandom(BIG))
    server = locklane(annex)
    clone = annex.clone("clone", server.url)
    own = clone.add(os.urandom(BIG))
    before = open_descriptors(server)

    def vanishes(*words: str, when: Callable[[], object], how: signal.Signals) -> None:
        with clone.start("git-annex", *words) as client:
            soon(when, words[0])
            client.signal(how)
            (annex.home / "gate").touch()  # for the hook, which outlives who called it
            assert client.wait() != 0

    clone.git("config", "remote.origin.annex-bwlimit", "4MB")
    came = clone.partial(theirs)
    vanishes("get", f"--key={theirs.text}", when=came.exists, how=signal.SIGKILL)
    sent = annex.partial(own)
    vanishes("copy", "--to=origin", f"--key={own.text}", when=sent.exists, how=signal.SIGINT)
    clone.git("config", "--unset", "remote.origin.annex-bwlimit")
    clone.annex("get", "-q", f"--key={theirs.text}")
    clone.git("config", "annex.secure-erase-command", WAIT_FOR_A_GATE)
    (annex.home / "gate").unlink()
    reached = annex.home / "reached"
    vanishes("drop", f"--key={theirs.text}", when=reached.exists, how=signal.SIGKILL)
    for beginning in ("", "GET / HTT", f"POST {server.api.target('keeplocked', lockid='x')} HTTP"):
        reset(server, beginning.encode())
    returns_to(server, before, more=1)  # the lock file, which stays for ten minutes
    assert server.api.present(theirs)
    ends_with_0(server)


def reset(server: Locklane, sent: bytes) -> None:
    host, port = server.api.host.split(":")
    with socket.create_connection((host, int(port))) as client:
        client.sendall(sent)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def test_field_16_nobody_reads_what_the_server_prints(annex: Annex) -> None:
    """As ``locklane serve | head -n 1`` has it. Ends with 0 all the same, and not by SIGPIPE."""
    key = annex.add(b"content")
    command = annex.command(LOCKLANE, "serve", "--wideopen", "--port", "0")
    with subprocess.Popen(
        command, env=annex.env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            assert process.stdout is not None
            api = Api(process.stdout.readline().split()[-1])
            process.stdout.close()
            journal = annex.git_directory / "annex/journal"
            shutil.rmtree(journal, ignore_errors=True)
            journal.write_text("in the way")
            other = key_of(b"cannot be recorded")
            for _ in range(3):  # each is logged
                assert api.put(other, b"cannot be recorded")[0] == 500
            journal.unlink()
            assert api.get(key) == (200, b"content")
            process.terminate()
            assert process.wait(BOUND) == 0
        finally:
            process.kill()
