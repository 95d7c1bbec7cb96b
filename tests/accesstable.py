"""Every mode of access, everybody who may ask, and every request: what README's table says of it,
and where git-annex's own server says something else."""

from __future__ import annotations

import base64
import http.client
import re
import ssl
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from typing import Self

from conftest import ABSENT, BOUND, SOMEBODY, key_of
from kinds import CONTENTS

from locklane_client.address import Address
from locklane_server.access import Right

README = Path(__file__).parent.parent / "README.md"

USERS = {
    "GIT_ANNEX_P2PHTTP_PASSWORD_alice": "of alice: é",
    "GIT_ANNEX_P2PHTTP_PASSWORD_bob": "of-bob",
    "GIT_ANNEX_P2PHTTP_PERMISSIONS_bob": "readonly",
    "GIT_ANNEX_P2PHTTP_PASSWORD_carol": "of-carol",
    "GIT_ANNEX_P2PHTTP_PERMISSIONS_carol": "appendonly",
}
"""The environment of every server."""


def basic(user: str, password: str) -> str:
    """Value of ``Authorization``."""
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


PEOPLE = {
    "nobody": None,
    "alice": basic("alice", "of alice: é"),
    "bob": basic("bob", "of-bob"),
    "carol": basic("carol", "of-carol"),
    "alice, wrong": basic("alice", "of-bob"),
    "dave": basic("dave", "of-dave"),
}
"""Who asks, and with which ``Authorization``; alice may do everything, dave is unknown."""

KNOWN = {"alice", "bob", "carol"}

_UNAUTHENTICATED = (
    "--wideopen",
    "--unauth-appendonly",
    "--unauth-appendonly --unauth-nolocking",
    "--unauth-readonly",
    "--unauth-readonly --unauth-nolocking",
)

PLAIN_MODES = (
    *_UNAUTHENTICATED,
    "--authenv-http",
    *(f"{mode} --authenv-http" for mode in _UNAUTHENTICATED),
)

TLS_MODES = ("--authenv", "--unauth-readonly --authenv")

MODES = (*PLAIN_MODES, *TLS_MODES)
"""Access options, as they are given."""

WITH_USERS = {mode for mode in MODES if "--authenv" in mode}


@dataclass(frozen=True)
class Asked:
    """One kind of request.

    :param path: what follows the repository's UUID.
    :param granted: status, if who asks may.
    :param theirs: git-annex has it.
    """

    right: Right
    method: str
    path: str
    granted: int = 200
    theirs: bool = True
    body: bytes | None = None
    headers: tuple[tuple[str, str], ...] = ()
    repository: str | None = None
    """Another one than that which is served."""


_UPGRADE = (
    ("Connection", "Upgrade"),
    ("Upgrade", "websocket"),
    ("Sec-WebSocket-Version", "13"),
    ("Sec-WebSocket-Key", base64.b64encode(bytes(16)).decode()),
)
_KEY = f"key={key_of(CONTENTS[0])}&clientuuid={SOMEBODY}"
_ABSENT = f"key={ABSENT}&clientuuid={SOMEBODY}"
_LOCK = f"lockid=0123456789abcdef0123456789abcdef&clientuuid={SOMEBODY}"
_UNLOCK = b'{"unlock":true}\n'
_LENGTH = (("X-git-annex-data-length", str(len(CONTENTS[0]))),)
_READ, _WRITE, _REMOVE, _LOCKS = Right.READ, Right.WRITE, Right.REMOVE, Right.LOCK

REQUESTS = {
    "key": Asked(_READ, "GET", f"key/{key_of(CONTENTS[0])}"),
    "key, head": Asked(_READ, "HEAD", f"key/{key_of(CONTENTS[0])}", theirs=False),
    "key, version": Asked(_READ, "GET", f"v4/key/{key_of(CONTENTS[0])}?clientuuid={SOMEBODY}"),
    "checkpresent": Asked(_READ, "POST", f"v4/checkpresent?{_KEY}"),
    "checkpresent, version 0": Asked(_READ, "POST", f"v0/checkpresent?{_KEY}"),
    "checkpresent by GET": Asked(_READ, "GET", f"v4/checkpresent?{_KEY}", theirs=False),
    "gettimestamp": Asked(_READ, "POST", f"v4/gettimestamp?clientuuid={SOMEBODY}"),
    "gettimestamp by GET": Asked(
        _READ, "GET", f"v4/gettimestamp?clientuuid={SOMEBODY}", theirs=False
    ),
    "put": Asked(_WRITE, "POST", f"v4/put?{_KEY}", body=CONTENTS[0], headers=_LENGTH),
    "put, version 0": Asked(_WRITE, "POST", f"v0/put?{_KEY}", body=CONTENTS[0], headers=_LENGTH),
    "put, data-present": Asked(
        _WRITE, "POST", f"v4/put?{_KEY}&data-present=true", headers=(_LENGTH[0],)
    ),
    "putoffset": Asked(_WRITE, "POST", f"v4/putoffset?{_KEY}"),
    "remove": Asked(_REMOVE, "POST", f"v4/remove?{_ABSENT}"),
    "remove, version 0": Asked(_REMOVE, "POST", f"v0/remove?{_ABSENT}"),
    "remove-before": Asked(_REMOVE, "POST", f"v4/remove-before?{_ABSENT}&timestamp=999999999"),
    "lockcontent": Asked(_LOCKS, "POST", f"v4/lockcontent?{_KEY}"),
    "keeplocked": Asked(_LOCKS, "POST", f"v4/keeplocked?{_LOCK}", body=_UNLOCK),
    "keeplocked by GET": Asked(_LOCKS, "GET", f"v4/keeplocked?{_LOCK}", theirs=False),
    "lockhold": Asked(_LOCKS, "POST", f"v4/lockhold?{_KEY}", theirs=False, body=_UNLOCK),
    "websocket lockcontent": Asked(
        _LOCKS, "GET", f"v4/lockcontent?{_KEY}", 101, theirs=False, headers=_UPGRADE
    ),
    "websocket locks": Asked(
        _LOCKS, "GET", f"v4/locks?clientuuid={SOMEBODY}", 101, theirs=False, headers=_UPGRADE
    ),
    # What would show that a request was looked into before its right was.
    "checkpresent elsewhere": Asked(
        _READ, "POST", f"v4/checkpresent?{_KEY}", 404, repository=SOMEBODY
    ),
    "remove elsewhere": Asked(_REMOVE, "POST", f"v4/remove?{_ABSENT}", 404, repository=SOMEBODY),
    "lockcontent elsewhere": Asked(
        _LOCKS, "POST", f"v4/lockcontent?{_KEY}", 404, repository=SOMEBODY
    ),
    "remove of nothing": Asked(_REMOVE, "POST", f"v4/remove?clientuuid={SOMEBODY}", 400),
    "put of nothing": Asked(_WRITE, "POST", f"v4/put?clientuuid={SOMEBODY}", 400, body=b"x"),
}


# -- README's table --------------------------------------------------------------------------------


@cache
def in_readme() -> dict[tuple[str, str], dict[Right, int]]:
    """By who asks and by the options."""
    shown = re.search(
        r"<!-- table: .*?access.*?-->\n\n(.*?)\n\n", README.read_text("utf-8"), re.DOTALL
    )
    assert shown is not None, "README has no table of access"
    head, _, *lines = (
        [cell.strip().replace("`", "") for cell in line.strip("|").split("|")]
        for line in shown[1].splitlines()
    )
    rights = [Right(name) for name in head[2:]]
    assert set(rights) == set(Right)
    table = {
        (who, options): dict(zip(rights, map(int, statuses), strict=True))
        for who, options, *statuses in lines
    }
    assert len(table) == len(lines), "two lines of README's table say the same"
    return table


def line_of(mode: str, person: str) -> tuple[str, str]:
    """The line of the table that somebody finds themselves in."""
    options = re.sub(r" ?--authenv(-http)?$", "", mode)
    if mode not in WITH_USERS:
        return "anybody", options
    match person:
        case "alice":
            return "a user", "any"
        case "carol":
            return "a user, appendonly", "any"
        case "bob":
            return "a user, readonly", "any"
    return "nobody known", options or "none"


# -- git-annex -------------------------------------------------------------------------------------


Case = tuple[str, str, str]
"""A mode, who asks, and a request."""


@dataclass(frozen=True)
class Difference:
    """git-annex answers otherwise."""

    why: str
    theirs: dict[Case, int]
    """What it answers, in every case in which that is so."""


def ours(case: Case) -> int:
    """What README says that our server answers."""
    mode, person, name = case
    allowed = in_readme()[line_of(mode, person)][REQUESTS[name].right]
    return REQUESTS[name].granted if allowed == 200 else allowed


ALL: list[Case] = list(product(MODES, PEOPLE, REQUESTS))


def differences() -> tuple[Difference, ...]:
    """All of them."""
    common = [case for case in ALL if REQUESTS[case[2]].theirs]
    refused = [case for case in common if ours(case) in (401, 403)]
    return (
        Difference(
            "It looks for the repository, and reads the parameters, before it looks who asks: who "
            "may do nothing can find out what is served.",
            {
                case: REQUESTS[case[2]].granted
                for case in refused
                if REQUESTS[case[2]].granted != 200
            },
        ),
        Difference(
            "With --unauth-appendonly it lets everybody lock whether or not there is "
            "--unauth-nolocking.",
            {
                (mode, person, name): 200
                for mode, person, name in refused
                if mode.startswith("--unauth-appendonly --unauth-nolocking")
                and (mode not in WITH_USERS or person not in KNOWN)
                and REQUESTS[name].right is Right.LOCK
                and REQUESTS[name].granted == 200
            },
        ),
        Difference(
            "To wrong credentials it answers with 403; ours is 401, so that the client asks for "
            "others.",
            {
                (mode, person, name): 403
                for mode, person, name in refused
                if "--unauth-" in mode
                and mode in WITH_USERS
                and person not in KNOWN
                and person != "nobody"
                and REQUESTS[name].granted == 200
                and not (
                    mode.startswith("--unauth-appendonly") and REQUESTS[name].right is Right.LOCK
                )
            },
        ),
    )


NOT_TOGETHER = {
    "--wideopen --unauth-readonly": "do not go together",
    "--wideopen --unauth-appendonly": "do not go together",
    "--unauth-appendonly --unauth-readonly": "do not go together",
    "--wideopen --unauth-nolocking": "--unauth-nolocking is for",
    "--unauth-nolocking": "who may use the server?",
    "--unauth-nolocking --authenv-http": "--unauth-nolocking is for",
    "--authenv": "--authenv needs TLS",
    "--unauth-readonly --authenv": "--authenv needs TLS",
}
"""Options that contradict each other, and what our server says of them; git-annex's starts, and
passes over one of them, or serves nobody."""


# -- asking ----------------------------------------------------------------------------------------


class Asker:
    """Asks a server over one connection, and over another where that is at its end."""

    def __init__(self, url: str, tls: ssl.SSLContext | None = None) -> None:
        self._address = address = Address.parse(url)
        self._http = (
            http.client.HTTPConnection(address.host, address.port, timeout=BOUND)
            if tls is None
            else http.client.HTTPSConnection(address.host, address.port, timeout=BOUND, context=tls)
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def status(self, asked: Asked, authorization: str | None) -> int:
        """Of the answer."""
        headers = dict(asked.headers)
        if authorization is not None:
            headers["Authorization"] = authorization
        uuid = asked.repository or self._address.uuid
        path = f"{self._address.base}{uuid}/{asked.path}"
        self._http.request(asked.method, path, asked.body, headers)
        answer = self._http.getresponse()
        if answer.status == 101:
            self._http.close()
        else:
            answer.read()
            if answer.status == 401:
                assert answer.getheader("WWW-Authenticate") == (
                    'Basic realm="git-annex", charset="UTF-8"'
                )
        return answer.status
