"""Every form in which a repository's address may be written, and what is said about the others."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from locklane_client.address import Address

UUID = "c5b1a7f4-1bb0-4f9f-8a3c-6b8e7d5d2c11"
OTHER = "00000000-0000-0000-0000-000000000001"
FORM = "annex+http://HOST:9417/git-annex/UUID"


@pytest.mark.parametrize(
    ("url", "scheme", "port"),
    [
        ("annex+http://h/git-annex/", "http", 9417),
        ("annex+https://h/git-annex/", "https", 9417),
        ("http://h/git-annex/", "http", 80),
        ("https://h/git-annex/", "https", 443),
        ("annex+http://h:80/git-annex/", "http", 80),
        ("annex+https://h:443/git-annex/", "https", 443),
        ("http://h:9417/git-annex/", "http", 9417),
        ("https://h:1/git-annex/", "https", 1),
        ("https://h:65535/git-annex/", "https", 65535),
        ("ANNEX+HTTP://h/git-annex/", "http", 9417),
    ],
)
def test_the_scheme_decides_tls_and_the_port_left_out(url: str, scheme: str, port: int) -> None:
    address = Address.parse(url, UUID)
    assert (address.scheme, address.port, address.tls) == (scheme, port, scheme == "https")
    assert address.http_base == f"{scheme}://h:{port}/git-annex/"
    assert address.websocket_base == f"{'wss' if address.tls else 'ws'}://h:{port}/git-annex/"


@pytest.mark.parametrize(
    ("path", "base"),
    [
        ("", "/git-annex/"),
        ("/", "/git-annex/"),
        ("/git-annex", "/git-annex/"),
        ("/git-annex/", "/git-annex/"),
        ("/some/prefix", "/some/prefix/git-annex/"),
        ("/some/prefix/", "/some/prefix/git-annex/"),
        ("/some/prefix/git-annex/", "/some/prefix/git-annex/"),
        ("/git-annex/git-annex/", "/git-annex/git-annex/"),
        ("/a%20b%2Fc/git-annex/", "/a%20b%2Fc/git-annex/"),
    ],
)
def test_the_base_ends_in_git_annex_behind_any_prefix(path: str, base: str) -> None:
    address = Address.parse(f"annex+http://h{path}", UUID)
    assert address.base == base
    assert address.http_base == f"http://h:9417{base}"


@pytest.mark.parametrize(
    "url",
    [
        f"annex+http://h/git-annex/{UUID}",
        f"annex+http://h/git-annex/{UUID}/",
        "annex+http://h/git-annex/%63" + UUID[1:],
        f"annex+http://h/git-annex/[{base64.urlsafe_b64encode(UUID.encode()).decode()}]",
        f"annex+http://h/git-annex/%5B{base64.urlsafe_b64encode(UUID.encode()).decode()}%5D",
    ],
)
@pytest.mark.parametrize("given_too", [None, "", UUID])
def test_the_uuid_may_be_in_the_url(url: str, given_too: str | None) -> None:
    address = Address.parse(url, given_too)
    assert address.uuid == UUID
    assert address.base == "/git-annex/"


def test_the_uuid_may_be_in_the_url_behind_a_prefix() -> None:
    address = Address.parse(f"https://h/pre/fix/git-annex/{UUID}")
    assert (address.base, address.uuid) == ("/pre/fix/git-annex/", UUID)


@pytest.mark.parametrize("path", ["", "/", "/git-annex", "/git-annex/", "/prefix/"])
def test_the_uuid_may_be_given_beside_the_url(path: str) -> None:
    assert Address.parse(f"annex+http://h{path}", UUID).uuid == UUID


@pytest.mark.parametrize("path", ["", "/git-annex/", "/prefix/"])
@pytest.mark.parametrize("uuid", [None, ""])
def test_without_a_uuid_the_error_says_where_to_get_and_put_one(
    path: str, uuid: str | None
) -> None:
    with pytest.raises(ValueError, match="which repository") as error:
        Address.parse(f"annex+http://h{path}", uuid)
    assert FORM in str(error.value)
    assert "git config remote.NAME.annex-uuid" in str(error.value)


def test_two_different_uuids_are_refused() -> None:
    with pytest.raises(ValueError, match="names another repository") as error:
        Address.parse(f"annex+http://h/git-annex/{UUID}", OTHER)
    assert OTHER in str(error.value)
    assert UUID in str(error.value)


@pytest.mark.parametrize(
    ("written", "host", "authority"),
    [
        ("localhost", "localhost", "localhost:9417"),
        ("127.0.0.1", "127.0.0.1", "127.0.0.1:9417"),
        ("[::1]", "::1", "[::1]:9417"),
        ("[::1]:80", "::1", "[::1]:80"),
        ("[2001:DB8::7]:80", "2001:db8::7", "[2001:db8::7]:80"),
        ("Example.ORG", "example.org", "example.org:9417"),
        ("alice:secret@[::1]:80", "::1", "[::1]:80"),
    ],
)
def test_hosts_of_every_kind(written: str, host: str, authority: str) -> None:
    address = Address.parse(f"annex+http://{written}/git-annex/{UUID}")
    assert address.host == host
    assert address.http_base == f"http://{authority}/git-annex/"
    assert address.websocket_base == f"ws://{authority}/git-annex/"
    assert str(address) == f"annex+http://{authority}/git-annex/{UUID}"


# -- credentials -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("userinfo", "user", "password"),
    [
        ("", None, None),
        ("alice@", "alice", None),
        ("alice:@", "alice", ""),
        ("alice:secret@", "alice", "secret"),
        ("alice:a:b@", "alice", "a:b"),
        ("a%40b:p%3Aw%2F%25@", "a@b", "p:w/%"),
        ("%C3%A9:%F0%9F%90%A2@", "é", "🐢"),
    ],
)
def test_credentials_are_taken_from_the_url(
    userinfo: str, user: str | None, password: str | None
) -> None:
    address = Address.parse(f"annex+https://{userinfo}h/git-annex/{UUID}")
    assert (address.user, address.password, address.host) == (user, password, "h")
    if user is None:
        assert address.authorization is None
    else:
        pair = f"{user}:{password or ''}".encode()
        assert address.authorization == "Basic " + base64.b64encode(pair).decode()


def test_credentials_that_are_not_utf_8_are_refused_when_read_or_sent_as_they_are() -> None:
    try:
        address = Address.parse(f"annex+https://alice:%FF@h/git-annex/{UUID}")
    except ValueError as error:
        assert "UTF-8" in str(error)  # noqa: PT017 (either is right)
        return
    assert address.authorization == "Basic " + base64.b64encode(b"alice:\xff").decode()


def test_credentials_are_in_no_text_of_the_address() -> None:
    address = Address.parse(f"annex+https://alice:hunter2@h/git-annex/{UUID}")
    assert repr(address) == f"Address('annex+https://h:9417/git-annex/{UUID}')"
    shown = [str(address), repr(address), f"{address!a}", f"{address}", repr([address])]
    shown += [address.http_base, address.websocket_base]
    for text in shown:
        assert "alice" not in text
        assert "hunter2" not in text


SECRET = "alice:hunter2@"


@pytest.mark.parametrize(
    "url",
    [
        f"ftp://{SECRET}h/git-annex/{UUID}",
        f"annex+http://{SECRET}/git-annex/{UUID}",
        f"annex+http://{SECRET}h:x/git-annex/{UUID}",
        f"annex+http://{SECRET}h/git-annex/{UUID}/v4",
        f"annex+http://{SECRET}h/git-annex/",
        f"annex+http://{SECRET}h/git-annex/{OTHER}2",
        f"annex+http://{SECRET}[::1/git-annex/{UUID}",
        f"annex+http://{SECRET}h/git-annex/[Z]",
    ],
)
def test_the_password_is_in_no_message(url: str) -> None:
    uuid = OTHER if url.endswith("2") else None
    with pytest.raises(ValueError, match=r"write|UUID|URL|base64") as error:
        Address.parse(url, uuid)
    assert "hunter2" not in str(error.value)


@pytest.mark.parametrize(
    "url",
    [
        "annex+http://alice:s3cr/et@h/git-annex/U",
        "annex+http://alice:s3cret#x@h/git-annex/U",
        "annex+http://alice:s3cret?x@h/git-annex/U",
        "annex+http://alice:s3cr@et@h/git-annex/U/v4",
        "annex+http://alice:s3cret]@h/git-annex/U",
        "annex+http://alice:[s3cret@h/git-annex/U",
        "annex+http://alice:1:s3cret@h:x/git-annex/U",
        "annex+http:/alice:s3cret@h/git-annex/U",
        "annex+http:///alice:s3cret@h/git-annex/U",
        "annex+http:alice:s3cret@h",
        "annex+http:alice:s3cret@h/git-annex/U",
        "alice:s3cret@host/git-annex/",
        "//alice:s3cret@host/git-annex/",
        "s3cret@host/git-annex/",
        "annex://alice:s3cret@host/git-annex/U",
        "ANNEX+HTTP:alice:s3cret@h",
        " annex+http:alice:s3cret@h",
        "annex+http//alice:s3cret@h/git-annex/U",
        "annex+http:\n//alice:s3cr\net@/git-annex/U",
    ],
)
@pytest.mark.parametrize("uuid", [None, UUID])
def test_the_password_in_a_url_that_was_written_wrongly_is_in_no_message(
    url: str, uuid: str | None
) -> None:
    with pytest.raises(ValueError, match=r"write|which repository") as error:
        Address.parse(url, uuid)
    said: BaseException | None = error.value
    while said is not None:
        assert "s3cr" not in str(said)
        assert said.__suppress_context__ or said.__context__ is None
        said = said.__cause__


@pytest.mark.parametrize("login", ["alice:/s3cret", "alice:1/s3cret", "alice/s3cret"])
def test_a_password_that_looks_like_a_path_is_in_no_text_of_the_address(login: str) -> None:
    try:
        shown = str(Address.parse(f"annex+http://{login}@h/git-annex/U"))
    except ValueError as error:
        shown = str(error)
    assert "s3cr" not in shown


# -- what is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "",
        "h",
        "h:9417",
        "/git-annex/",
        "//h/git-annex/",
        "ftp://h/git-annex/",
        "annex+ftp://h/git-annex/",
        "ssh://h/git-annex/",
        "annex+http:h",
        "annex+http://",
        "annex+http:///git-annex/",
        "annex+http://:9417/git-annex/",
        "annex+http://h:x/git-annex/",
        "annex+http://h:-1/git-annex/",
        "annex+http://h:65536/git-annex/",
        f"annex+http://h/git-annex/{UUID}/v4",
        f"annex+http://h/git-annex/{UUID}/key/SHA256E-s1--a",
        f"annex+http://h/git-annex/../{UUID}",
        "annex+http://[::1/git-annex/",
        "annex+http://[nonsense]/git-annex/",
        "annex+http://h/git-annex/[Z]",
    ],
)
@pytest.mark.parametrize("uuid", [None, UUID])
def test_the_error_about_a_url_that_cannot_be_used_says_what_to_write(
    url: str, uuid: str | None
) -> None:
    with pytest.raises(ValueError, match="HOST:9417") as error:
        Address.parse(url, uuid)
    assert f"write {FORM}" in str(error.value)


@given(
    st.sampled_from(["annex+http", "annex+https", "http", "https"]),
    st.sampled_from(["h", "h:1", "[::1]", "[::1]:2", "alice:secret@h"]),
    st.sampled_from(["", "/p", "/p/q%20r"]),
    st.uuids().map(str) | st.sampled_from(["[foo]", "[", "é", "a-b_c"]),
)
def test_an_address_as_printed_is_the_same_address(
    scheme: str, host: str, prefix: str, uuid: str
) -> None:
    address = Address.parse(f"{scheme}://{host}{prefix}/git-annex/", uuid)
    again = Address.parse(str(address))
    assert (again.http_base, again.uuid) == (address.http_base, uuid)
    assert again.user is None


@given(st.text())
def test_no_text_does_worse_than_a_value_error(text: str) -> None:
    for url in (text, f"annex+http://{text}", f"annex+http://h/git-annex/{text}"):
        try:
            address = Address.parse(url)
        except ValueError:
            continue
        assert address.base.endswith("/git-annex/")
