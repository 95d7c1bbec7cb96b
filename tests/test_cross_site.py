"""Requests as browsers send them for the pages of other sites: refused, unless the site is allowed;
and the link that somebody followed, which works."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner
from conftest import SOMEBODY, Serve, ServerProcess, There, key_of
from rawhttp import Answer, request, wire
from users import access, basic

from locklane_client import Key
from locklane_server import cli
from locklane_server.access import WIDE_OPEN, Access, Level

SITE = "https://example.org"
ALLOWED = "https://annex.example.org"

_UPGRADE = (
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
)
_UNLOCK = b'{"unlock":true}\n'
_STORED = b"what a page would put"


def requests(key: Key) -> dict[str, tuple[str, str, tuple[str, ...], bytes]]:
    """Method, path, headers and body of every request and of each transport."""
    new = key_of(_STORED)
    lock = f"lockid={'0' * 32}&clientuuid={SOMEBODY}"
    length = (f"X-git-annex-data-length: {len(_STORED)}",)
    return {
        "download": ("GET", f"key/{key}", (), b""),
        "download, head": ("HEAD", f"key/{key}", (), b""),
        "download, version": ("GET", request("key", key), (), b""),
        "checkpresent": ("POST", request("checkpresent", key), (), b""),
        "checkpresent by GET": ("GET", request("checkpresent", key), (), b""),
        "gettimestamp": ("POST", f"v4/gettimestamp?clientuuid={SOMEBODY}", (), b""),
        "put": ("POST", request("put", new), length, _STORED),
        "putoffset": ("POST", request("putoffset", new), (), b""),
        "remove-before": ("POST", request("remove-before", new, timestamp=0), (), b""),
        "lockcontent": ("POST", request("lockcontent", key), (), b""),
        "keeplocked": ("POST", f"v4/keeplocked?{lock}", (), _UNLOCK),
        "keeplocked by GET": ("GET", f"v4/keeplocked?{lock}", (), b""),
        "lockhold": ("POST", request("lockhold", key), (), _UNLOCK),
        "websocket": ("GET", request("lockcontent", key), _UPGRADE, b""),
        "multiplex": ("GET", f"v4/locks?clientuuid={SOMEBODY}", _UPGRADE, b""),
        "remove": ("POST", request("remove", key), (), b""),
    }


WEBSOCKETS = {"websocket", "multiplex"}


async def asked(there: There, name: str, key: Key, *browser: str) -> Answer:
    """The answer to a request, on a connection of its own."""
    method, path, headers, body = requests(key)[name]
    async with wire(there) as connection:
        if method == "POST":
            headers = (*headers, f"Content-Length: {len(body)}")
        connection.head(method, path, *headers, *browser)
        await connection.send(body)
        return await connection.answer(bodiless=method == "HEAD" or name in WEBSOCKETS)


def page(origin: str, name: str, key: Key) -> list[tuple[str, ...]]:
    """The headers that browsers send when a page asks for that: each set in turn."""
    method = requests(key)[name][0]
    if name in WEBSOCKETS:
        return [
            (f"Origin: {origin}",),
            (
                f"Origin: {origin}",
                "Sec-Fetch-Site: cross-site",
                "Sec-Fetch-Mode: websocket",
                "Sec-Fetch-Dest: empty",
            ),
        ]
    fetched = [
        (f"Origin: {origin}", "Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: cors"),
        (f"Origin: {origin}", "Sec-Fetch-Site: same-site", "Sec-Fetch-Mode: cors"),
        (f"Origin: {origin}",),  # where the server has neither TLS nor a loopback address
    ]
    return (
        fetched
        if method != "POST"
        else [
            *fetched,
            # A form.
            (f"Origin: {origin}", "Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: navigate"),
        ]
    )


NAMES = list(requests(key_of(b"")))

each_request = pytest.mark.parametrize("name", NAMES)


@asynccontextmanager
async def allowing(serve: Serve, *origins: str, access: Access = WIDE_OPEN) -> AsyncIterator[There]:
    async with serve(access=access, origins=origins) as there:
        yield there


# -- refused ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("origin", [SITE, "null", "http://127.0.0.1:8000", f"{ALLOWED}.evil.org"])
@each_request
async def test_a_page_of_another_site_is_refused_whatever_it_asks(
    serve: Serve, key: Key, name: str, origin: str
) -> None:
    async with allowing(serve, ALLOWED) as there:
        for browser in page(origin, name, key):
            answer = await asked(there, name, key, *browser)
            assert answer.status == 403
            assert not [header for header in answer.headers if "access-control" in header]
            assert answer["Upgrade"] is None
            if answer.body:
                assert b"are refused" in answer.body
        # And nothing was done.
        assert there.locks == 0
        assert (await asked(there, "checkpresent", key)).body == b'{"present":true}'
        assert (await asked(there, "checkpresent", key_of(_STORED))).body == b'{"present":false}'


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
@pytest.mark.parametrize("name", [name for name in NAMES if name not in WEBSOCKETS])
async def test_what_a_page_embeds_is_refused_although_it_has_no_origin(
    serve: Serve, key: Key, name: str, site: str
) -> None:
    """As a picture, a script, or a prefetch."""
    async with allowing(serve, ALLOWED) as there:
        browser = (f"Sec-Fetch-Site: {site}", "Sec-Fetch-Mode: no-cors", "Sec-Fetch-Dest: image")
        assert (await asked(there, name, key, *browser)).status == 403


async def test_a_users_browser_does_not_lend_its_password_to_a_page(serve: Serve, key: Key) -> None:
    async with allowing(serve, access=access()) as there:
        credentials = f"Authorization: {basic('alice')}"
        for name in NAMES:
            for browser in page(SITE, name, key):
                assert (await asked(there, name, key, *browser, credentials)).status == 403
        assert (await asked(there, "remove", key, credentials)).status == 200


async def test_a_question_whether_a_request_may_be_made_is_refused(serve: Serve, key: Key) -> None:
    async with allowing(serve, ALLOWED) as there, wire(there) as connection:
        connection.head(
            "OPTIONS",
            request("remove", key),
            f"Origin: {SITE}",
            "Access-Control-Request-Method: POST",
            "Access-Control-Request-Headers: authorization",
        )
        answer = await connection.answer()
        assert answer.status == 403
        assert not [header for header in answer.headers if "access-control" in header]


# -- not from a page of another site ---------------------------------------------------------------


@pytest.mark.parametrize("site", ["cross-site", "same-site", "same-origin", "none"])
async def test_a_link_to_a_file_can_be_followed(serve: Serve, key: Key, site: str) -> None:
    """From another site, from mail, or typed; with a password, the browser asks for it."""
    browser = (
        f"Sec-Fetch-Site: {site}",
        "Sec-Fetch-Mode: navigate",
        "Sec-Fetch-Dest: document",
        "Sec-Fetch-User: ?1",
    )
    async with allowing(serve) as there:
        answer = await asked(there, "download", key, *browser)
        assert answer.status == 200
        assert answer["Content-Type"] == "application/octet-stream", "shown, it could be a script"
    async with allowing(serve, access=access()) as there:
        answer = await asked(there, "download", key, *browser)
        assert answer.status == 401
        assert str(answer["WWW-Authenticate"]).startswith("Basic ")


@each_request
async def test_who_is_no_browser_sends_neither_header_and_is_answered(
    serve: Serve, key: Key, name: str
) -> None:
    async with allowing(serve) as there:
        answer = await asked(there, name, key)
        assert answer.status == (101 if name in WEBSOCKETS else 200)
        assert not [header for header in answer.headers if "access-control" in header]


# -- allowed ---------------------------------------------------------------------------------------


def readable(answer: Answer) -> bool:
    """Whether a browser shows an answer to the page that asked (Fetch, "CORS check")."""
    return (
        answer["Access-Control-Allow-Origin"] == ALLOWED
        and answer["Access-Control-Allow-Credentials"] == "true"
        and "Origin" in str(answer["Vary"])
    )


@each_request
async def test_a_page_of_an_allowed_site_is_answered_and_may_read_the_answer(
    serve: Serve, key: Key, name: str
) -> None:
    async with allowing(serve, SITE, ALLOWED) as there:
        browser, *_ = page(ALLOWED, name, key)
        answer = await asked(there, name, key, *browser)
        if name in WEBSOCKETS:  # which browsers show without asking for more
            assert answer.status == 101
        else:
            assert answer.status == 200
            assert readable(answer)


async def test_an_allowed_page_may_see_how_long_a_download_is_and_its_part(
    serve: Serve, key: Key
) -> None:
    async with allowing(serve, ALLOWED) as there:
        origin = f"Origin: {ALLOWED}"
        part = await asked(there, "download, version", key, origin, "Range: bytes=0-9")
        assert part.status == 206
        assert readable(part)
        shown = str(part["Access-Control-Expose-Headers"])
        assert {"Content-Range", "ETag", "X-git-annex-data-length"} <= set(shown.split(", "))
        same = await asked(there, "download", key, origin, f"If-None-Match: {part['ETag']}")
        assert same.status == 304
        assert readable(same)


async def test_an_allowed_page_may_read_what_went_wrong(serve: Serve, key: Key) -> None:
    """Of each kind of refusal, one; 401 has to be readable for the page to ask for a password."""
    length = "X-git-annex-data-length: 5"
    wrong = {
        404: ("GET", f"key/{key_of(b'nothing')}", ()),
        400: ("POST", f"v4/checkpresent?clientuuid={SOMEBODY}", ("Content-Length: 0",)),
        405: ("GET", request("remove", key), ()),
        416: ("GET", f"key/{key}", ("Range: bytes=999999-",)),
        422: ("POST", request("put", key_of(b"good")), (length, "Content-Length: 0")),
        426: ("GET", request("lockcontent", key), ()),
    }
    origin = f"Origin: {ALLOWED}"
    async with allowing(serve, ALLOWED) as there:
        for status, (method, path, headers) in wrong.items():
            async with wire(there) as connection:
                connection.head(method, path, origin, *headers)
                answer = await connection.answer()
                assert answer.status == status
                assert readable(answer), status
    async with allowing(serve, ALLOWED, access=access(Level.READ_ONLY)) as there:
        answer = await asked(there, "remove", key, origin)
        assert answer.status == 401
        assert readable(answer)
        answer = await asked(there, "remove", key, origin, f"Authorization: {basic('bob')}")
        assert answer.status == 403
        assert readable(answer)
        assert b"bob may not remove" in answer.body


async def test_what_the_repository_refuses_can_be_read_too(serve: Serve, key: Key) -> None:
    async with allowing(serve, ALLOWED) as there, wire(there) as connection:
        other = key_of(b"other")
        connection.head(
            "POST",
            request("put", other),
            f"Origin: {ALLOWED}",
            "X-git-annex-data-length: 5",
            "Content-Length: 5",
        )
        await connection.send(b"wrong")
        answer = await connection.answer()
        assert answer.status == 422
        assert readable(answer)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in WEBSOCKETS])
async def test_an_allowed_page_may_ask_first_whatever_the_mode(
    serve: Serve, key: Key, name: str
) -> None:
    """A browser sends no credentials with that question (Fetch, "CORS preflight")."""
    method, path, _, _ = requests(key)[name]
    async with (
        allowing(serve, ALLOWED, access=access()) as there,
        wire(there) as connection,
    ):
        connection.head(
            "OPTIONS",
            path,
            f"Origin: {ALLOWED}",
            "Sec-Fetch-Site: cross-site",
            "Sec-Fetch-Mode: cors",
            f"Access-Control-Request-Method: {method}",
            "Access-Control-Request-Headers: authorization,content-type,x-git-annex-data-length",
        )
        answer = await connection.answer(bodiless=True)
        assert answer.status == 204
        assert readable(answer)
        assert method in str(answer["Access-Control-Allow-Methods"]).split(", ")
        accepted = str(answer["Access-Control-Allow-Headers"]).lower().split(", ")
        assert {"authorization", "content-type", "x-git-annex-data-length", "range"} <= {*accepted}
        assert await there.served.repository.present(key), "asking has done it"


async def test_options_are_no_method_of_who_is_no_browser(serve: Serve, key: Key) -> None:
    async with allowing(serve, ALLOWED) as there, wire(there) as connection:
        connection.head("OPTIONS", request("remove", key))
        assert (await connection.answer()).status == 405


# -- the option ------------------------------------------------------------------------------------


async def test_a_site_may_be_written_otherwise_than_browsers_do(
    server_process: Callable[..., ServerProcess], key: Key
) -> None:
    sites = ("HTTPS://Annex.Example.org:443", "http://127.0.0.1:80", "https://example.org:8443")
    there = server_process(*(word for site in sites for word in ("--allow-origin", site)))
    as_browsers_do = [ALLOWED, "http://127.0.0.1", "https://example.org:8443"]
    async with wire(there.url) as connection:
        for origin in as_browsers_do:
            connection.head("GET", request("checkpresent", key), f"Origin: {origin}")
            answer = await connection.answer()
            assert answer.status == 200
            assert answer["Access-Control-Allow-Origin"] == origin
        for origin in (SITE, "http://annex.example.org", "https://127.0.0.1"):
            connection.head("GET", request("checkpresent", key), f"Origin: {origin}")
            assert (await connection.answer()).status == 403


@pytest.mark.parametrize(
    "site",
    ["*", "https://*", "https://*.example.org", "null", "example.org", "https://example.org/",
     "ftp://example.org", "https://", "https://alice@example.org", ""],
)  # fmt: skip
def test_what_names_no_site_is_refused(store: Path, site: str) -> None:
    words = ["--store", str(store), "--wideopen", "--allow-origin", site]
    done = CliRunner().invoke(cli.serve, words, terminal_width=10_000)
    assert done.exit_code == 2
    assert "write it as browsers do" in done.output
