"""The vocabulary of git-annex's "P2P protocol over HTTP": what both ends must spell alike.

No I/O here. Paths, bracketed parameters, the JSON of requests and answers, and the stream of
unlock requests of ``keeplocked``. Section names are those of the design page.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from urllib.parse import quote, unquote_to_bytes

VERSIONS = (4, 3, 2, 1, 0)
"""Protocol versions, the best first; a client falls back in this order ("protocol version")."""

RETENTION = 600.0
"""Seconds that a lock outlives its client or its server, from when it was taken ("lockcontent")."""

DEFAULT_PORT = 9417
"""Port of ``annex+http`` and ``annex+https`` URLs that name none ("introduction")."""

JSON_TYPE = "application/json;charset=utf-8"

JSON_LINES_TYPE = "application/jsonl"
"""Of the answers of ``duplex``: JSON objects, a line each."""

CONTENT_TYPE = "application/octet-stream"

DATA_LENGTH = "X-git-annex-data-length"
"""Header that says how many bytes of content the sender means to send ("put", "GET key")."""

MAX_UNLOCK_REQUEST = 4096
"""Longest JSON object accepted in a stream of unlock requests, in bytes."""

UNLOCK = b'{"unlock":true}'
KEEP = b'{"unlock":false}'


# -- base64 encoding of keys, uuids, and filenames -------------------------------------------------


def bracket(text: str) -> str:
    """Spell a key, UUID or file name as a parameter: in square brackets, as base64url, where the
    plain text would be misread (it is in brackets itself, or is not UTF-8)."""
    raw = text.encode("utf-8", "surrogateescape")
    if not (text.startswith("[") and text.endswith("]")):
        try:
            raw.decode("utf-8")
        except UnicodeDecodeError:
            pass
        else:
            return text
    return f"[{base64.urlsafe_b64encode(raw).decode('ascii')}]"


def unbracket(text: str) -> str:
    """Undo :func:`bracket`. Padding may be missing.

    :raises ValueError: what stands in the brackets is not base64url.
    """
    if not (len(text) >= 2 and text[0] == "[" and text[-1] == "]"):
        return text
    inner = text[1:-1]
    try:
        if "+" in inner or "/" in inner:  # which base64url spells - and _
            raise ValueError(inner)
        raw = base64.b64decode(inner + "=" * (-len(inner) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"{text!a} is in brackets but is not base64url") from error
    return raw.decode("utf-8", "surrogateescape")


# -- paths -----------------------------------------------------------------------------------------


class PathError(ValueError):
    """The path names nothing of the API: answer 404."""


@dataclass(frozen=True, slots=True)
class ApiPath:
    """``/git-annex/$uuid/$version/$request``, taken apart."""

    uuid: str
    version: int | None
    """``None`` for the unversioned ``/git-annex/$uuid/key/$key``."""
    request: str
    """``lockcontent``, ``key``, …"""
    key: str | None
    """The key, where the path holds one."""


# The first place where a path of the API can begin: a prefix may hold /git-annex/ too, and so may,
# unescaped, a key.
_API = re.compile(r"/git-annex/([^/]*)/(key|v[0-9]+)/(.+)", re.DOTALL)
_VERSION_NAMES = {f"v{version}": version for version in VERSIONS}


def parse_path(raw_path: str) -> ApiPath:
    """Take apart the path of a request, as it came over the wire (percent-encoded, no query).

    Any prefix may stand before ``/git-annex/``.

    :raises PathError: it names nothing of the API, or a version that is not spoken here
        ("protocol version": 404, so that the client falls back).
    :raises ValueError: brackets that hold no base64url.
    """
    # The paths of downloads are all different, and those of everything else are few.
    return _parse_path(raw_path) if "/key/" in raw_path else _parse_known_path(raw_path)


def _parse_path(raw_path: str) -> ApiPath:
    match = _API.search(raw_path)
    if match is None:
        near = re.search(r"/git-annex/[^/]*/([^/]*)/.", raw_path, re.DOTALL)
        if near is not None:
            raise PathError(f"version {near[1][:20]!a} is not spoken here; v0 to v4 are")
        raise PathError("the path has to be /git-annex/UUID/VERSION/REQUEST")
    uuid, place, rest = match.groups()
    uuid = unbracket(unquote(uuid))
    if place == "key":
        return ApiPath(uuid, None, "key", unbracket(unquote(rest)))
    version = _VERSION_NAMES.get(place)
    if version is None:
        raise PathError(f"version {place[:20]!a} is not spoken here; v0 to v4 are")
    if rest.startswith("key/") and len(rest) > 4:
        return ApiPath(uuid, version, "key", unbracket(unquote(rest[4:])))
    if "/" in rest:
        raise PathError("the path has to be /git-annex/UUID/VERSION/REQUEST")
    return ApiPath(uuid, version, rest, None)


_parse_known_path = lru_cache(maxsize=256)(_parse_path)


def request_path(uuid: str, version: int, request: str, **parameters: str | int | None) -> str:
    """``UUID/vN/REQUEST?…``, percent-encoded, to be appended to a base that ends in a slash.

    Text parameters are bracketed where needed; ``None`` leaves a parameter out; an underscore in
    a name stands for a hyphen.
    """
    query = "&".join(
        f"{name.replace('_', '-')}={_quote(bracket(value)) if isinstance(value, str) else value}"
        for name, value in parameters.items()
        if value is not None
    )
    path = f"{_quote(bracket(uuid))}/v{version}/{request}"
    return f"{path}?{query}" if query else path


def key_request(key: str) -> str:
    """What follows the version in the path of a download: ``key/KEY``, percent-encoded."""
    return f"key/{_quote(bracket(key))}"


def _quote(text: str) -> str:
    return quote(text, safe="")


def unquote(text: str) -> str:
    """Undo percent-encoding; bytes that are not UTF-8 become surrogate escapes."""
    if "%" not in text:
        return text
    return unquote_to_bytes(text).decode("utf-8", "surrogateescape")


def parse_query(raw_query: str) -> dict[str, list[str]]:
    """Take apart a query string: percent-encoding and brackets undone, repeats kept in order.

    :raises ValueError: brackets that hold no base64url.
    """
    parameters: dict[str, list[str]] = {}
    if raw_query:
        for pair in raw_query.split("&"):
            name, _, value = pair.partition("=")
            value = unbracket(unquote(value.replace("+", "%20") if "+" in value else value))
            parameters.setdefault(unquote(name), []).append(value)
    return parameters


# -- answers ---------------------------------------------------------------------------------------


def dumps(answer: dict[str, Any]) -> bytes:
    """An answer's body, spelled as git-annex spells it: no blanks."""
    return _encode(answer).encode("utf-8")


_encode = json.JSONEncoder(separators=(",", ":")).encode


def lock_answer(lock_id: str) -> bytes:
    """The answer of ``lockcontent`` when the content is locked."""
    if lock_id.isalnum() and lock_id.isascii():  # as ours are
        return b'{"locked":true,"lockid":"%s"}' % lock_id.encode("ascii")
    return dumps({"locked": True, "lockid": bracket(lock_id)})


def not_locked_answer(reason: str | None = None, *, retained: bool = False) -> bytes:
    """The answer of ``lockcontent`` when it refuses, and of ``keeplocked`` when the hold is over.

    Two members are an addition of Locklane's, which git-annex passes over.

    :param reason: a sentence for a person.
    :param retained: the hold is over, but the content stays locked for the rest of its time.
    """
    if reason is None and not retained:
        return b'{"locked":false}'
    answer: dict[str, Any] = {"locked": False}
    if reason is not None:
        answer["reason"] = reason
    if retained:
        answer["retained"] = True
    return dumps(answer)


@dataclass(frozen=True, slots=True)
class LockAnswer:
    """What a server said to ``lockcontent`` or ``keeplocked``."""

    locked: bool
    lock_id: str | None = None
    reason: str | None = None
    retained: bool = False
    """Not locked any more by this hold, but for the rest of its ten minutes."""


def parse_lock_answer(body: bytes | str) -> LockAnswer:
    """Read the answer of ``lockcontent`` or ``keeplocked``.

    :raises ValueError: it is not one; the message says what is wrong with it.
    """
    return read_lock_answer(json_object(body))


def read_lock_answer(answer: dict[str, Any]) -> LockAnswer:
    """:func:`parse_lock_answer` of what is JSON already.

    :raises ValueError: as there.
    """
    locked, lock_id, reason = answer.get("locked"), answer.get("lockid"), answer.get("reason")
    if not isinstance(locked, bool):
        raise ValueError('the answer has no "locked" that is true or false')
    if not locked:
        return LockAnswer(
            False,
            reason=reason if isinstance(reason, str) else None,
            retained=answer.get("retained") is True,
        )
    lock_id = unbracket(lock_id) if isinstance(lock_id, str) else ""
    if not lock_id:
        raise ValueError('the answer says that it locked, but has no "lockid"')
    try:
        lock_id.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise ValueError('the "lockid" is no text that could be sent back') from None
    return LockAnswer(True, lock_id)


def status_answer(live: bool) -> bytes:
    """The answer to ``GET keeplocked``, an addition of Locklane's: the lock has not ended, and
    whether a hold is open."""
    return b'{"locked":true,"live":true}' if live else b'{"locked":true,"live":false}'


@dataclass(frozen=True, slots=True)
class LockStatus:
    """What a server said to ``GET keeplocked``."""

    locked: bool
    """The lock has not ended."""
    live: bool
    """A hold is open."""
    reason: str | None


def parse_status(body: bytes | str) -> LockStatus:
    """Read the answer to ``GET keeplocked``.

    :raises ValueError: it is not one; the message says what is wrong with it.
    """
    answer = json_object(body)
    if _boolean(answer, "locked"):
        return LockStatus(True, _boolean(answer, "live"), None)
    reason = answer.get("reason")
    return LockStatus(False, False, reason if isinstance(reason, str) else None)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a server said to ``remove``, ``remove-before`` or ``put``."""

    done: bool
    """It was removed, or stored."""
    plus_uuids: tuple[str, ...] = ()
    """Other repositories in which it was done too (version 2 and later)."""
    reason: str | None = None
    """Why it was not done: an addition of Locklane's."""


@dataclass(frozen=True, slots=True)
class PutOffset:
    """What a server said to ``putoffset``."""

    offset: int | None
    """Bytes that it has of the content; ``None``: all, and stored."""
    plus_uuids: tuple[str, ...] = ()
    """Other repositories that have it stored (version 2 and later)."""


def parse_present(body: bytes | str) -> bool:
    """Read the answer of ``checkpresent``.

    :raises ValueError: it is not one; the message says what is wrong with it.
    """
    return _boolean(json_object(body), "present")


def parse_outcome(body: bytes | str, member: str) -> Outcome:
    """Read the answer of ``remove`` and ``remove-before`` (``removed``) or ``put`` (``stored``).

    :raises ValueError: it is not one; the message says what is wrong with it.
    """
    answer = json_object(body)
    done, reason = _boolean(answer, member), answer.get("reason")
    return Outcome(done, _plus_uuids(answer), reason if isinstance(reason, str) else None)


def parse_put_offset(body: bytes | str) -> PutOffset:
    """Read the answer of ``putoffset``.

    :raises ValueError: it is not one; the message says what is wrong with it.
    """
    answer = json_object(body)
    if answer.get("alreadyhave") is True:
        return PutOffset(None, _plus_uuids(answer))
    return PutOffset(_number(answer, "offset"))


def parse_timestamp(body: bytes | str) -> int:
    """Read the answer of ``gettimestamp``.

    :raises ValueError: it is not one; the message says what is wrong with it.
    """
    return _number(json_object(body), "timestamp")


def _boolean(answer: dict[str, Any], member: str) -> bool:
    value = answer.get(member)
    if not isinstance(value, bool):
        raise ValueError(f'the answer has no "{member}" that is true or false')
    return value


def _number(answer: dict[str, Any], member: str) -> int:
    value = answer.get(member)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 63:
        raise ValueError(f'the answer has no "{member}" that is a whole number, 0 or more')
    return value


def _plus_uuids(answer: dict[str, Any]) -> tuple[str, ...]:
    """Texts in ``plusuuids``; versions 0 and 1 have no such member."""
    uuids = answer.get("plusuuids", [])
    if not isinstance(uuids, list) or not all(isinstance(uuid, str) for uuid in uuids):
        raise ValueError('the "plusuuids" of the answer are no list of UUIDs')
    return tuple(unbracket(uuid) for uuid in uuids)


def json_object(body: bytes | str) -> dict[str, Any]:
    """What a message says.

    :raises ValueError: it is not JSON, or no object.
    """
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON: {error}") from error
    if not isinstance(answer, dict):
        raise ValueError("not a JSON object")
    return answer


# -- keeplocked: a stream of unlock requests -------------------------------------------------------


def parse_unlock_request(text: bytes) -> bool:
    """Read one unlock request: whether it asks to unlock.

    :raises ValueError: it is not ``{"unlock": true}`` or ``{"unlock": false}``.
    """
    if text in (KEEP, UNLOCK):  # as nearly all are spelled
        return text == UNLOCK
    unlock = json_object(text).get("unlock")
    if not isinstance(unlock, bool):
        raise ValueError('expected {"unlock": true} or {"unlock": false}')
    return unlock


_BLANKS = re.compile(rb"[ \t\r\n]+")


class UnlockStream:
    """Cuts the body of ``keeplocked`` into unlock requests.

    Objects may be split over chunks or share one, with white space between them. Feed it bytes,
    take out booleans; it keeps at most :data:`MAX_UNLOCK_REQUEST` bytes of an unfinished object.
    """

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[bool]:
        """Give it what arrived; yields, for each object now whole, whether it asks to unlock.

        :raises ValueError: not a stream of unlock requests, or an object that does not end.
        """
        rest = self._rest + data
        begin = 0
        try:
            while begin < len(rest):
                if blanks := _BLANKS.match(rest, begin):
                    begin = blanks.end()
                    continue
                if rest[begin] != ord("{"):
                    raise ValueError('expected {"unlock": true} or {"unlock": false}')
                # An unlock request holds no nested object and no brace in a string, so the first
                # closing brace ends it; what else stands before that, the JSON parser refuses.
                end = rest.find(b"}", begin) + 1
                if (end or len(rest)) - begin > MAX_UNLOCK_REQUEST:
                    raise ValueError(f"a JSON object longer than {MAX_UNLOCK_REQUEST} bytes")
                if end == 0:
                    break
                request = parse_unlock_request(rest[begin:end])
                begin = end
                yield request
        finally:
            self._rest = rest[begin:]
