"""Who may not is told so before anything else is done: before the body is read, before anything is
looked for on the disk."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from conftest import SOMEBODY, Serve, key_of
from kinds import both
from rawhttp import LENGTH, leaves_nothing_open, request, wire
from users import access, basic

from locklane_client import Key
from locklane_server.access import Level

NEW = key_of(b"x" * 1000)

BIG = 10**12

WITH_BODY = {
    "put": ("put", NEW, (f"{LENGTH}: {BIG}",)),
    "a hold": ("lockhold", NEW, ()),
    "remove": ("remove", NEW, ()),
}

WHO = {
    "nobody": ((), 401),
    "a wrong password": ((f"Authorization: {basic('alice', 'wrong')}",), 401),
    "who may only read": ((f"Authorization: {basic('bob')}",), 403),
}

each_body = pytest.mark.parametrize("name", WITH_BODY)
everybody = pytest.mark.parametrize(("headers", "status"), WHO.values(), ids=WHO.keys())


@each_body
@everybody
async def test_a_refusal_does_not_wait_for_the_body(
    serve: Serve, name: str, headers: tuple[str, ...], status: int
) -> None:
    """Of which nothing comes; a body of this size would be refused too, by other requests."""
    what, key, more = WITH_BODY[name]
    async with serve(access=access()) as there, leaves_nothing_open(there), wire(there) as c:
        c.head("POST", request(what, key), *headers, *more, length=BIG)
        assert (await c.answer()).status == status


@each_body
@everybody
async def test_a_client_that_waits_to_be_told_to_go_ahead_is_not(
    serve: Serve, name: str, headers: tuple[str, ...], status: int
) -> None:
    what, key, more = WITH_BODY[name]
    async with serve(access=access()) as there, wire(there) as c:
        c.head("POST", request(what, key), *headers, *more, "Expect: 100-continue", length=1000)
        assert (await c.answer()).status == status, "it was told to go ahead"


@everybody
async def test_a_body_that_no_end_was_told_of_is_not_waited_for(
    serve: Serve, headers: tuple[str, ...], status: int
) -> None:
    async with serve(access=access()) as there, wire(there) as c:
        lock = f"v4/keeplocked?lockid={'0' * 32}&clientuuid={SOMEBODY}"
        c.head("POST", lock, *headers, "Transfer-Encoding: chunked")
        assert (await c.answer()).status == status


@both
async def test_nothing_is_looked_for_on_the_disk_for_who_may_not(
    serve: Serve, store: Path, key: Key, kind: str
) -> None:
    """All of it is gone, and only who may is told."""
    requests = {
        "remove": ("POST", request("remove", key)),
        "put": ("POST", request("put", NEW)),
        "putoffset": ("POST", request("putoffset", NEW)),
    }
    async with serve(access=access(Level.READ_ONLY)) as there:
        content = store / ".git" / "annex" if kind == "annex" else store
        aside = shutil.move(content, store.with_name("aside"))
        async with wire(there) as c:
            for method, path in requests.values():
                c.head(method, path, length=0)
                assert (await c.answer()).status == 401
                c.head(method, path, f"Authorization: {basic('bob')}", length=0)
                assert (await c.answer()).status == 403
            c.head("POST", request("checkpresent", key), length=0)
            assert (await c.answer()).body != b'{"present":true}', "it is still there"
        # So that what the server does at its end finds its files.
        shutil.move(aside, content)
