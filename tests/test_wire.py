"""What both ends spell alike: parameters, paths, answers, unlock requests and keys."""

from __future__ import annotations

import base64
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from locklane_client import wire
from locklane_client.key import MAX_KEY_LENGTH, Key
from locklane_client.wire import ApiPath, LockAnswer, PathError, UnlockStream
from locklane_server.repository.hashing import hash_directories_lower, hash_directories_mixed

UUID = "c5b1a7f4-1bb0-4f9f-8a3c-6b8e7d5d2c11"
NOT_UTF_8 = "\udcff\udcfe"
"""The bytes FF FE, as they appear in Python."""

any_bytes_as_text = st.one_of(
    st.binary(),
    st.binary().map(lambda inner: b"[" + inner + b"]"),
    st.binary().map(base64.urlsafe_b64encode).map(lambda inner: b"[" + inner + b"]"),
    st.text("[]=-_/%+&?#. \n").map(str.encode),
).map(lambda raw: raw.decode("utf-8", "surrogateescape"))


# -- brackets --------------------------------------------------------------------------------------


@given(any_bytes_as_text)
@example("[foo]")
@example("[]")
@example("[")
@example(NOT_UTF_8)
def test_anything_bracketed_comes_back(text: str) -> None:
    assert wire.unbracket(wire.bracket(text)) == text


@given(any_bytes_as_text)
def test_what_was_bracketed_can_be_written_as_utf_8(text: str) -> None:
    wire.bracket(text).encode("utf-8")


@pytest.mark.parametrize(
    ("text", "spelled"),
    [
        ("foo", "foo"),
        (UUID, UUID),
        ("", ""),
        ("[", "["),
        ("[foo", "[foo"),
        ("foo]", "foo]"),
        ("é b/c", "é b/c"),
        ("[foo]", "[W2Zvb10=]"),
        ("[]", "[W10=]"),
        (NOT_UTF_8, "[__4=]"),
    ],
)
def test_only_what_would_be_misread_is_bracketed(text: str, spelled: str) -> None:
    assert wire.bracket(text) == spelled
    assert wire.unbracket(spelled) == text


@pytest.mark.parametrize(
    ("spelled", "text"),
    [
        ("[Zm9v]", "foo"),  # the design page's own
        ("[Zg==]", "f"),
        ("[Zg]", "f"),
        ("[Zm8=]", "fo"),
        ("[Zm8]", "fo"),
        ("[]", ""),
        ("[__4=]", NOT_UTF_8),
        ("[__4]", NOT_UTF_8),
        ("[LS1f]", "--_"),
    ],
)
def test_brackets_are_undone_with_padding_and_without(spelled: str, text: str) -> None:
    assert wire.unbracket(spelled) == text


@pytest.mark.parametrize(
    "spelled", ["[Z]", "[=]", "[Z===]", "[Zm 9v]", "[Zm9v\n]", "[é]", "[Zm9v!]", "[[Zm9v]]"]
)
def test_brackets_around_anything_else_are_refused(spelled: str) -> None:
    with pytest.raises(ValueError, match="is in brackets but is not base64url"):
        wire.unbracket(spelled)


@pytest.mark.parametrize("spelled", ["[Zm+v]", "[Zm/v]"])
def test_the_other_base64_alphabet_is_refused(spelled: str) -> None:
    with pytest.raises(ValueError, match="is in brackets but is not base64url"):
        wire.unbracket(spelled)


# -- paths -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["", "/some/prefix", "/git-annex", "//", "/git-annex/x"])
@pytest.mark.parametrize("version", [0, 1, 2, 3, 4])
def test_a_request_is_found_behind_any_prefix(prefix: str, version: int) -> None:
    path = wire.parse_path(f"{prefix}/git-annex/{UUID}/v{version}/lockcontent")
    assert path == ApiPath(UUID, version, "lockcontent", None)


@pytest.mark.parametrize(
    ("written", "key"),
    [
        ("SHA256E-s10--ab12.txt", "SHA256E-s10--ab12.txt"),
        ("URL--http%3A%2F%2Fa%2Fb", "URL--http://a/b"),
        ("URL--http://a/b", "URL--http://a/b"),
        ("WORM--a%20b+c", "WORM--a b+c"),
        ("WORM--%2525", "WORM--%25"),
        ("WORM--%ff%FE", "WORM--" + NOT_UTF_8),
        ("WORM--..%2F..%2Fx", "WORM--../../x"),
        ("[V09STS0tYQ==]", "WORM--a"),
        ("%5BV09STS0tYQ%5D", "WORM--a"),
        ("[V09STS0tYS9i]", "WORM--a/b"),
        ("..", ".."),
        ("../../etc/passwd", "../../etc/passwd"),
    ],
)
def test_a_key_is_taken_out_of_the_path(written: str, key: str) -> None:
    unversioned = wire.parse_path(f"/git-annex/{UUID}/key/{written}")
    assert unversioned == ApiPath(UUID, None, "key", key)
    versioned = wire.parse_path(f"/git-annex/{UUID}/v4/key/{written}")
    assert versioned == ApiPath(UUID, 4, "key", key)


@pytest.mark.parametrize("written", ["[Zm9v]", "%5BZm9v%5D", "[Zm9v%5D", "f%6fo"])
def test_the_uuid_may_be_in_brackets_or_percent_encoded(written: str) -> None:
    assert wire.parse_path(f"/git-annex/{written}/v3/remove").uuid == "foo"


@pytest.mark.parametrize("version", ["v5", "v-1", "v", "v04", "V4", "4", "v4.0", "v４", "%764", ""])
def test_an_unknown_version_is_not_found(version: str) -> None:
    with pytest.raises(PathError, match="is not spoken here; v0 to v4 are"):
        wire.parse_path(f"/git-annex/{UUID}/{version}/lockcontent")


def test_the_message_about_a_version_is_short_and_ascii() -> None:
    with pytest.raises(PathError) as error:
        wire.parse_path(f"/git-annex/{UUID}/{'é' * 5000}/lockcontent")
    assert str(error.value).isascii()
    assert len(str(error.value)) < 200


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "/metrics",
        "/git-annex",
        "/git-annex/",
        f"/git-annex/{UUID}",
        f"/git-annex/{UUID}/v4",
        f"/git-annex/{UUID}/key",
        f"git-annex/{UUID}/v4/lockcontent",
        f"/Git-Annex/{UUID}/v4/lockcontent",
        f"/xgit-annex/{UUID}/v4/lockcontent",
        f"/git-annex/{UUID}/v4/lockcontent/more",
        f"/git-annex/{UUID}/v4/lockcontent/",
        f"/git-annex/../{UUID}/v4/lockcontent",
    ],
)
def test_a_path_that_names_nothing_is_not_found(path: str) -> None:
    with pytest.raises(PathError):
        wire.parse_path(path)


@pytest.mark.parametrize("path", ["[Z]/v4/remove", f"{UUID}/v4/key/[Z]", f"{UUID}/key/[Z]"])
def test_bad_brackets_in_a_path_are_said(path: str) -> None:
    with pytest.raises(ValueError, match="not base64url"):
        wire.parse_path(f"/git-annex/{path}")


@given(st.text(), st.sampled_from(["", "/v4/", "/key/"]))
def test_no_path_does_worse_than_a_value_error(rest: str, middle: str) -> None:
    try:
        path = wire.parse_path(f"/git-annex/{UUID}{middle}{rest}")
    except ValueError:
        return
    assert path.version in (None, 0, 1, 2, 3, 4)


@settings(max_examples=200)
@given(
    uuid=any_bytes_as_text,
    version=st.sampled_from(wire.VERSIONS),
    request=st.sampled_from(["lockcontent", "keeplocked", "remove-before"]),
    key=st.none() | any_bytes_as_text,
    associatedfile=st.none() | any_bytes_as_text,
    timestamp=st.none() | st.integers(0, 2**63),
)
def test_what_a_client_writes_a_server_reads(
    uuid: str,
    version: int,
    request: str,
    key: str | None,
    associatedfile: str | None,
    timestamp: int | None,
) -> None:
    written = wire.request_path(
        uuid, version, request, key=key, associatedfile=associatedfile, timestamp=timestamp
    )
    assert written.isascii()
    assert written.isprintable()
    assert " " not in written
    path, _, query = written.partition("?")
    assert wire.parse_path(f"/prefix/git-annex/{path}") == ApiPath(uuid, version, request, None)
    expected = {"key": key, "associatedfile": associatedfile, "timestamp": timestamp}
    assert wire.parse_query(query) == {
        name: [str(value)] for name, value in expected.items() if value is not None
    }


def test_a_request_without_parameters_has_no_query() -> None:
    assert wire.request_path(UUID, 4, "gettimestamp", key=None) == f"{UUID}/v4/gettimestamp"


def test_an_underscore_in_a_parameters_name_is_a_hyphen_on_the_wire() -> None:
    written = wire.request_path("u", 4, "put", data_present="true", offset=0)
    assert written == "u/v4/put?data-present=true&offset=0"


# -- queries ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "parameters"),
    [
        ("", {}),
        ("key=a", {"key": ["a"]}),
        ("bypass=a&key=k&bypass=b", {"bypass": ["a", "b"], "key": ["k"]}),
        ("key=a+b", {"key": ["a b"]}),
        ("key=a%2Bb", {"key": ["a+b"]}),
        ("key=a%20b", {"key": ["a b"]}),
        ("key=a%26b%3Dc", {"key": ["a&b=c"]}),
        ("key=a=b=c", {"key": ["a=b=c"]}),
        ("key=%25s", {"key": ["%s"]}),
        ("key=100%", {"key": ["100%"]}),
        ("key=%zz", {"key": ["%zz"]}),
        ("key=%FF%fe", {"key": [NOT_UTF_8]}),
        ("key=%C3%A9", {"key": ["é"]}),
        ("key=[Zm9v]", {"key": ["foo"]}),
        ("key=%5BZm9v%5D", {"key": ["foo"]}),
        ("key=%5BZm9v", {"key": ["[Zm9v"]}),
        ("key=[W2Zvb10=]", {"key": ["[foo]"]}),
        ("key=%5BW2Zvb10%3D%5D", {"key": ["[foo]"]}),
        ("key=[__4]", {"key": [NOT_UTF_8]}),
        ("key", {"key": [""]}),
        ("key=", {"key": [""]}),
        ("data-present=true", {"data-present": ["true"]}),
        ("data%2Dpresent=true", {"data-present": ["true"]}),
    ],
)
def test_a_query_is_taken_apart(query: str, parameters: dict[str, list[str]]) -> None:
    assert wire.parse_query(query) == parameters


@pytest.mark.parametrize("query", ["key=[Z]", "clientuuid=u&key=%5B%21%5D", "key=[+]"])
def test_bad_brackets_in_a_query_are_refused(query: str) -> None:
    with pytest.raises(ValueError, match="not base64url"):
        wire.parse_query(query)


# -- answers ---------------------------------------------------------------------------------------


def test_answers_are_spelled_as_git_annex_spells_them() -> None:
    assert wire.lock_answer("id") == b'{"locked":true,"lockid":"id"}'
    assert wire.not_locked_answer() == b'{"locked":false}'
    assert wire.not_locked_answer("no\n") == b'{"locked":false,"reason":"no\\n"}'


@given(any_bytes_as_text.filter(bool))
def test_any_lock_id_comes_through(lock_id: str) -> None:
    answer = wire.parse_lock_answer(wire.lock_answer(lock_id))
    assert answer == LockAnswer(True, lock_id)


@given(st.text())
def test_any_reason_comes_through(reason: str) -> None:
    answer = wire.parse_lock_answer(wire.not_locked_answer(reason))
    assert answer == LockAnswer(False, None, reason)


@pytest.mark.parametrize(
    ("body", "answer"),
    [
        (b'{"locked": true, "lockid": "a"}', LockAnswer(True, "a")),
        ('{"locked":true,"lockid":"a"}', LockAnswer(True, "a")),
        (b'\n{"lockid":"a","locked":true,"more":[{}]}\n', LockAnswer(True, "a")),
        (b'{"locked":true,"lockid":"[Zm9v]"}', LockAnswer(True, "foo")),
        (b'{"locked":false}', LockAnswer(False)),
        (b'{"locked":false,"reason":null}', LockAnswer(False)),
        (b'{"locked":false,"reason":7}', LockAnswer(False)),
        (b'{"locked":false,"lockid":7}', LockAnswer(False)),
    ],
)
def test_a_lock_answer_is_read(body: bytes | str, answer: LockAnswer) -> None:
    assert wire.parse_lock_answer(body) == answer


NO_LOCKED = 'no "locked" that is true or false'
NO_ID = 'locked, but has no "lockid"'


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        pytest.param(body, complaint, id=f"{number}-{body[:20].decode('latin-1')}")
        for number, (body, complaint) in enumerate(
            [
                (b"", "not JSON"),
                (b"locked", "not JSON"),
                (b'{"locked":true', "not JSON"),
                (b'{"locked":false}{"locked":false}', "not JSON"),
                (b"\xff\xfe\xfd", "not JSON"),
                (b'{"locked":false,"reason":"\xff"}', "not JSON"),
                (b"[" * 100_000, "not JSON"),
                (b'{"a":' * 100_000, "not JSON"),
                (b'{"locked":' + b"1" * 5000 + b"}", "not JSON"),
                (b"<html>502 Bad Gateway</html>", "not JSON"),
                (b"null", "not a JSON object"),
                (b"true", "not a JSON object"),
                (b'[{"locked":true,"lockid":"a"}]', "not a JSON object"),
                (b'"{}"', "not a JSON object"),
                (b"{}", NO_LOCKED),
                (b'{"Locked":true}', NO_LOCKED),
                (b'{"locked":1,"lockid":"a"}', NO_LOCKED),
                (b'{"locked":0}', NO_LOCKED),
                (b'{"locked":1e999}', NO_LOCKED),
                (b'{"locked":NaN}', NO_LOCKED),
                (b'{"locked":"true","lockid":"a"}', NO_LOCKED),
                (b'{"locked":null}', NO_LOCKED),
                (b'{"locked":{"locked":true},"lockid":"a"}', NO_LOCKED),
                (b'{"locked":true}', NO_ID),
                (b'{"locked":true,"lockid":null}', NO_ID),
                (b'{"locked":true,"lockid":7}', NO_ID),
                (b'{"locked":true,"lockid":["a"]}', NO_ID),
                (b'{"locked":true,"lockid":""}', NO_ID),
                (b'{"locked":true,"lockid":"[Z]"}', "not base64url"),
            ]
        )
    ],
)
def test_what_is_no_lock_answer_is_refused_and_said(body: bytes, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        wire.parse_lock_answer(body)


def test_an_empty_lock_id_in_brackets_is_no_lock_id_either() -> None:
    with pytest.raises(ValueError, match=NO_ID):
        wire.parse_lock_answer(b'{"locked":true,"lockid":"[]"}')


def test_a_lock_id_that_cannot_be_sent_back_is_refused() -> None:
    """Half of a surrogate pair: JSON can spell it, UTF-8 cannot."""
    with pytest.raises(ValueError, match=r"lockid|UTF-8|base64url"):
        wire.parse_lock_answer(b'{"locked":true,"lockid":"\\ud800"}')


# -- unlock requests -------------------------------------------------------------------------------


def unlocks(*chunks: bytes) -> list[bool]:
    stream = UnlockStream()
    found = [unlock for chunk in chunks for unlock in stream.feed(chunk)]
    assert stream._rest == b""
    return found


@st.composite
def streams(draw: st.DrawFn) -> tuple[list[bool], list[bytes]]:
    """A stream of unlock requests as any client might spell it, cut anywhere."""
    blank = st.text(" \t\r\n", max_size=3)
    wanted = draw(st.lists(st.booleans(), max_size=8))
    written = draw(blank)
    for unlock in wanted:
        b = [draw(blank) for _ in range(5)]
        value = "true" if unlock else "false"
        more = draw(st.sampled_from(["", ',"a":1', ',"é":"x\\"y"', ',"unlock":' + value]))
        written += f'{{{b[0]}"unlock"{b[1]}:{b[2]}{value}{b[3]}{more}}}{b[4]}'
    raw = written.encode()
    cuts = sorted(draw(st.sets(st.integers(0, len(raw)), max_size=len(raw))))
    edges = [0, *cuts, len(raw)]
    return wanted, [raw[a:b] for a, b in itertools.pairwise(edges)]


@given(streams())
def test_a_stream_means_the_same_however_it_is_cut(
    stream: tuple[list[bool], list[bytes]],
) -> None:
    wanted, chunks = stream
    assert unlocks(*chunks) == wanted


@given(streams())
def test_each_request_is_given_out_as_soon_as_its_last_byte_is_there(
    stream: tuple[list[bool], list[bytes]],
) -> None:
    wanted, chunks = stream
    reader, found, braces = UnlockStream(), 0, 0
    for byte in b"".join(chunks):
        found += len(list(reader.feed(bytes([byte]))))
        braces += byte == ord("}")
        assert found == braces
    assert found == len(wanted)


def test_the_chunks_of_the_real_client_are_understood() -> None:
    chunks = [b'{"unlock":false}', b"\n", b'{"unlock":true}', b"\n"]
    assert unlocks(*chunks) == [False, True]
    assert unlocks(b"".join(chunks)) == [False, True]
    assert unlocks(wire.KEEP, wire.UNLOCK) == [False, True]
    assert unlocks(wire.KEEP * 3 + wire.UNLOCK) == [False, False, False, True]


def test_white_space_alone_asks_for_nothing() -> None:
    assert unlocks(b"", b" \r\n\t" * 10_000, b"") == []


@pytest.mark.parametrize(
    "data",
    [
        b"x",
        b"[",
        b"true",
        b'"unlock"',
        b"}",
        b"\0",
        b"\xef\xbb\xbf{}",
        b"{}",
        b"{unlock:true}",
        b'{"unlock":}',
        b'{"unlock":1}',
        b'{"unlock":0}',
        b'{"unlock":null}',
        b'{"unlock":"true"}',
        b'{"unlock":[true]}',
        b'{"unlock":{"unlock":true}}',
        b'{"Unlock":true}',
        b'{"unlock":true,}',
        b'{"unlock":true,"a":"}"}',
        b'{"unlock":tru\xff}',
        b'{"unlock":' + b"1" * 4000 + b"}",
        b'{"a":' + b"[" * 4000 + b"}",
        b'{"unlock":true},{"unlock":true}',
        b'{"unlock":true}x',
    ],
)
def test_what_is_no_unlock_request_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"expected \{\"unlock\"|not JSON"):
        list(UnlockStream().feed(data))


def test_what_stands_before_a_malformed_request_still_counts() -> None:
    stream = UnlockStream().feed(b'{"unlock":false}{"unlock":true}[]')
    assert [next(stream), next(stream)] == [False, True]
    with pytest.raises(ValueError, match="expected"):
        next(stream)


def padded(length: int) -> bytes:
    whole = wire.UNLOCK[:-1] + b" " * (length - len(wire.UNLOCK)) + b"}"
    assert len(whole) == length
    return whole


def test_the_longest_request_allowed_is_read() -> None:
    whole = padded(wire.MAX_UNLOCK_REQUEST)
    assert unlocks(whole) == [True]
    assert unlocks(*(bytes([byte]) for byte in whole)) == [True]


@pytest.mark.parametrize("size", [1, 1000, 10_000])
@pytest.mark.parametrize(
    "data", [padded(wire.MAX_UNLOCK_REQUEST + 1), b"{" + b" " * wire.MAX_UNLOCK_REQUEST]
)
def test_a_longer_one_is_refused_however_it_arrives(data: bytes, size: int) -> None:
    stream = UnlockStream()
    chunks = (data[start : start + size] for start in range(0, len(data), size))
    with pytest.raises(ValueError, match="longer than 4096 bytes"):
        list(itertools.chain.from_iterable(map(stream.feed, chunks)))


@pytest.mark.parametrize("data", [b"{", b'{"unlock":true', b'{"unlock":false}\n{"unl'])
def test_an_unfinished_request_can_be_finished(data: bytes) -> None:
    stream = UnlockStream()
    before = list(stream.feed(data))
    rest = wire.UNLOCK[len(data[data.rindex(b"{") :]) :]
    assert [*before, *stream.feed(rest)][-1] is True
    assert stream._rest == b""


def steps_of(work: Callable[[], object]) -> int:
    """How many lines of Python run for it: what it costs, whatever the machine is busy with."""
    steps = 0

    def count(_frame: object, event: str, _argument: object) -> object:
        nonlocal steps
        steps += event == "line"
        return count

    before = sys.gettrace()
    sys.settrace(count)  # type: ignore[arg-type]
    try:
        work()
    finally:
        sys.settrace(before)
    return steps


BLANKS = b" \t\r\n" * (256 * 1024)


@pytest.mark.parametrize("size", [len(BLANKS) + 100, 65536, 4096], ids=lambda size: f"by {size}")
@pytest.mark.parametrize(
    ("data", "wanted"),
    [
        (BLANKS, []),
        (BLANKS + wire.KEEP, [False]),
        (wire.KEEP + BLANKS, [False]),
        (BLANKS + wire.KEEP + BLANKS + wire.UNLOCK + BLANKS, [False, True]),
    ],
    ids=["blanks alone", "before", "behind", "between"],
)
def test_a_mebibyte_of_blanks_costs_a_few_steps_for_each_chunk_and_is_not_kept(
    data: bytes, wanted: list[bool], size: int
) -> None:
    chunks = [data[start : start + size] for start in range(0, len(data), size)]
    stream, found, kept = UnlockStream(), list[bool](), list[int]()

    def feed() -> None:
        for chunk in chunks:
            found.extend(stream.feed(chunk))
            kept.append(len(stream._rest))

    steps = steps_of(feed)
    assert found == wanted
    assert max(kept) <= len(wire.KEEP)  # of an object that is cut in two
    assert kept[-1] == 0
    assert steps < 40 * (len(chunks) + len(wanted))


@pytest.mark.parametrize("text", ['{"unlock":true}', b'{"unlock":true}', ' {"unlock" : true}\n'])
def test_one_message_is_read_from_text_or_bytes(text: str | bytes) -> None:
    assert wire.parse_unlock_request(text) is True


@pytest.mark.parametrize("text", ["", "{}", "[]", "{}{}", '{"unlock":1}', b"\xff"])
def test_a_message_that_is_no_unlock_request_is_refused(text: str | bytes) -> None:
    with pytest.raises(ValueError, match=r"expected \{\"unlock\"|not JSON|not a JSON"):
        wire.parse_unlock_request(text)


# -- keys ------------------------------------------------------------------------------------------

key_names = (
    st.one_of(st.binary(min_size=1), st.text("&%:/asc.-\\ é", min_size=1).map(str.encode))
    .map(lambda raw: raw.decode("utf-8", "surrogateescape"))
    .filter(lambda name: "\n" not in name and "\0" not in name)
)


@given(
    backend=st.text("ABCXYZ0189_", min_size=1, max_size=10),
    size=st.none() | st.integers(0, 10**20 - 1),
    mtime=st.none() | st.integers(0, 10**20 - 1),
    chunk=st.none() | st.tuples(st.integers(0, 10**12), st.integers(0, 10**6)),
    name=key_names,
)
def test_a_key_is_taken_apart_and_its_file_name_leads_back(
    backend: str, size: int | None, mtime: int | None, chunk: tuple[int, int] | None, name: str
) -> None:
    text = backend
    text += "" if size is None else f"-s{size}"
    text += "" if mtime is None else f"-m{mtime}"
    text += "" if chunk is None else f"-S{chunk[0]}-C{chunk[1]}"
    text += f"--{name}"
    key = Key.parse(text)
    assert (key.text, key.backend, key.size, key.name) == (text, backend, size, name)
    assert str(key) == text
    assert "/" not in key.file_name
    assert ":" not in key.file_name
    assert key.file_name not in ("", ".", "..")
    assert Key.from_file_name(key.file_name) == key
    os.fsencode(key.file_name)
    hash_directories_lower(key)


@given(st.text() | key_names.map(lambda name: f"WORM--{name}"))
def test_whatever_is_taken_for_a_key_can_be_a_file(text: str) -> None:
    try:
        key = Key.parse(text)
    except ValueError:
        return
    os.fsencode(key.file_name)
    assert all(len(part) == 3 for part in hash_directories_lower(key))


@given(key_names, key_names)
def test_two_keys_never_share_a_file(one: str, other: str) -> None:
    names = {Key.parse(f"A--{name}").file_name for name in (one, other)}
    assert len(names) == len({one, other})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "--",
        "--x",
        "SHA256E",
        "SHA256E--",
        "SHA256E-s10",
        "SHA256E-s10-x",
        "SHA256E-s--x",
        "SHA256E-s-5--x",
        "SHA256E-s1.5--x",
        "SHA256E-s+5--x",
        "SHA256E-m5-s10--x",
        "SHA256E-s1-s2--x",
        "SHA256E-S5--x",
        "SHA256E-C1-S5--x",
        "SHA256E-z5--x",
        "SHA256E -s5--x",
        "SHA/256--x",
        "../SHA256--x",
        "WORM--a\0b",
        "WORM--" + "x" * MAX_KEY_LENGTH,
    ],
)
def test_what_is_no_key_is_refused_with_the_form_of_one(text: str) -> None:
    with pytest.raises(ValueError, match=r"which looks like SHA256E-s10--ab12\.txt") as error:
        Key.parse(text)
    assert str(error.value).isascii()
    assert len(str(error.value)) < 300


@pytest.mark.parametrize("size", ["１", "٣", "१०"])
def test_the_digits_of_a_size_are_those_of_ascii(size: str) -> None:
    with pytest.raises(ValueError, match="is not a git-annex key"):
        Key.parse(f"SHA256E-s{size}--x")


def test_the_length_of_a_key_is_counted_in_bytes() -> None:
    longest = "WORM--" + "x" * (MAX_KEY_LENGTH - len("WORM--"))
    assert Key.parse(longest).text == longest
    with pytest.raises(ValueError, match="is not a git-annex key"):
        Key.parse("WORM--" + "é" * (MAX_KEY_LENGTH - len("WORM--")))


@pytest.mark.parametrize("file_name", ["", ".", "..", "tmp", ".locklane", "uuid", "WORM-x--a"])
def test_what_is_no_object_file_has_no_key(file_name: str) -> None:
    with pytest.raises(ValueError, match="not"):
        Key.from_file_name(file_name)


@pytest.mark.parametrize("file_name", ["WORM--a:b", "WORM--a/b", "WORM--&b", "WORM--&"])
def test_a_name_that_file_name_never_makes_has_no_key(file_name: str) -> None:
    with pytest.raises(ValueError, match="not"):
        Key.from_file_name(file_name)


# -- git-annex is the judge ------------------------------------------------------------------------

AWKWARD = [
    b"SHA256E-s10--ab12.txt",
    b"WORM-s5-m1700000000--a&b%c:d",
    b"WORM--&a&s&c%",
    b"WORM--%2F&&aa::%%",
    b"URL--http://example.org/a?b=1&c=%20#d",
    b"URL-s3--ftp&c%%example.org%a",
    b"SHA256E-s10-m5-S3-C2--x",
    b"SHA256E-s10-S3-C2--x",
    b"SHA1--\xff\xfe.txt",
    "SHA1-s0--é日本🐢".encode(),
    b"FOO--x--y",
    b"WORM---x",
    b"WORM----s5--x",
    b"WORM--..",
    b"WORM--../../etc/passwd",
    b"WORM--a\tb\\c\"d'e",
    b"XBACK_END1-s18446744073709551615--x",
    b"SHA256-s5--" + b"k" * 300,
    b"WORM--[foo]",
    b"WORM--$(x);`y`|z*?",
    b"SHA256E-s5--ab." + b"x" * 63,
    b"SHA1E-s5--ab.c." + "é".encode() * 30,
    b"SHA256-s5--ab." + b"x" * 100,
    b"GITBUNDLE-s5--ab." + b"x" * 100,
    b"WORM-s5--ab." + b"x" * 100,
]
REFUSED = [
    b"SHA256E-s10",
    b"SHA256E-s10-x--y",
    b"SHA256E-s--x",
    b"SHA256E-s-5--x",
    b"SHA256E-m5-s10--x",
    b"SHA256E-s1-s2--x",
    b"SHA256E-C1-S5--x",
    b"SHA256E-z5--x",
    "SHA256E-s１--x".encode(),
    b"SHA256E-s5--ab." + b"x" * 64,
    b"BLAKE2B256E-s5--ab.tar." + b"x" * 61,
    b"SHA1E-s5--ab.c." + "é".encode() * 31,
    b"FOOE--ab." + b"x" * 64,
    b"XFOOE--ab." + b"x" * 64,
]
GIT_ANNEX = Path(sys.executable).with_name("git-annex")


@pytest.fixture(scope="module")
def annexed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A repository of git-annex's own, and the environment to run it in."""
    assert GIT_ANNEX.exists(), "git-annex is not installed"
    home = tmp_path_factory.mktemp("home")
    environment = os.environ | {
        "HOME": str(home),
        "PATH": f"{GIT_ANNEX.parent}:{os.environ['PATH']}",
        "LC_ALL": "C.UTF-8",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_AUTHOR_NAME": "a",
        "GIT_AUTHOR_EMAIL": "a@example.org",
        "GIT_COMMITTER_NAME": "a",
        "GIT_COMMITTER_EMAIL": "a@example.org",
    }
    repository = tmp_path_factory.mktemp("annex")
    for command in (["git", "init", "--quiet"], [GIT_ANNEX, "init", "--quiet"]):
        subprocess.run(
            command, cwd=repository, env=environment, check=True, timeout=60, capture_output=True
        )
    return repository, environment


@pytest.fixture(scope="module")
def examined(annexed: tuple[Path, dict[str, str]]) -> dict[bytes, dict[str, bytes]]:
    """What git-annex says about each awkward key."""
    repository, environment = annexed
    fields = ("key", "backend", "bytesize", "keyname", "objectpath", "hashdirlower", "hashdirmixed")
    separator = "\x1f"
    form = separator.join(f"${{{field}}}" for field in fields)
    said = subprocess.run(
        # A blank would end the key, -z or not: the name of a file may follow it.
        [GIT_ANNEX, "examinekey", "--batch", "-z", f"--format={form}\\n"],
        input=b"\0".join(AWKWARD) + b"\0",
        cwd=repository,
        env=environment,
        check=True,
        capture_output=True,
        timeout=60,
    )
    lines = said.stdout.split(b"\n")[:-1]
    assert len(lines) == len(AWKWARD)
    return {
        key: dict(zip(fields, line.split(separator.encode()), strict=True))
        for key, line in zip(AWKWARD, lines, strict=True)
    }


@pytest.mark.parametrize("raw", AWKWARD, ids=lambda raw: repr(raw[:40]))
def test_git_annex_reads_the_key_the_same_way(
    examined: dict[bytes, dict[str, bytes]], raw: bytes
) -> None:
    key, said = Key.parse(os.fsdecode(raw)), examined[raw]
    assert os.fsencode(key.text) == said["key"]
    assert os.fsencode(key.backend) == said["backend"]
    assert os.fsencode(key.name) == said["keyname"]
    assert ("unknown" if key.size is None else str(key.size)).encode() == said["bytesize"]


@pytest.mark.parametrize("raw", AWKWARD, ids=lambda raw: repr(raw[:40]))
def test_git_annex_stores_the_key_in_the_same_place(
    examined: dict[bytes, dict[str, bytes]], raw: bytes
) -> None:
    key, said = Key.parse(os.fsdecode(raw)), examined[raw]
    assert "{}/{}/".format(*hash_directories_lower(key)).encode() == said["hashdirlower"]
    assert "{}/{}/".format(*hash_directories_mixed(key)).encode() == said["hashdirmixed"]
    *_, directory, file = said["objectpath"].split(b"/")
    assert os.fsencode(key.file_name) == file == directory
    assert Key.from_file_name(os.fsdecode(file)) == key


@pytest.mark.parametrize("raw", REFUSED, ids=repr)
def test_what_git_annex_does_not_take_for_a_key_we_do_not_either(
    annexed: tuple[Path, dict[str, str]], raw: bytes
) -> None:
    repository, environment = annexed
    said = subprocess.run(
        [GIT_ANNEX, "examinekey", "--format=${key}", raw],
        cwd=repository,
        env=environment,
        capture_output=True,
        timeout=60,
    )
    assert said.returncode != 0
    with pytest.raises(ValueError, match="is not a git-annex key"):
        Key.parse(os.fsdecode(raw))


def test_the_json_of_answers_needs_no_blanks() -> None:
    body = wire.dumps({"present": True, "plusuuids": [UUID, "é"]})
    assert b" " not in body
    assert json.loads(body) == {"present": True, "plusuuids": [UUID, "é"]}
