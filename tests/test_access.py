"""Who may do what, decided by itself: levels, credentials, users of an environment."""

from __future__ import annotations

import base64
import hmac

import pytest

from locklane_server.access import WIDE_OPEN, Access, Denied, Level, Right

READ, WRITE, REMOVE, LOCK = Right.READ, Right.WRITE, Right.REMOVE, Right.LOCK

ENVIRONMENT = {
    b"GIT_ANNEX_P2PHTTP_PASSWORD_alice": b"in:wonderland",
    b"GIT_ANNEX_P2PHTTP_PASSWORD_bob": b"of bob",
    b"GIT_ANNEX_P2PHTTP_PERMISSIONS_bob": b"readonly",
    b"GIT_ANNEX_P2PHTTP_PASSWORD_carol": b"of carol",
    b"GIT_ANNEX_P2PHTTP_PERMISSIONS_carol": b"appendonly",
    b"GIT_ANNEX_P2PHTTP_PASSWORD_J\xc3\xbcrgen": "Straße".encode(),
    b"HOME": b"/home",
}


def basic(user: bytes, password: bytes, scheme: str = "Basic") -> str:
    return f"{scheme} {base64.b64encode(user + b':' + password).decode()}"


ALICE = basic(b"alice", b"in:wonderland")
BOB = basic(b"bob", b"of bob")
CAROL = basic(b"carol", b"of carol")


def status(access: Access, authorization: str | None, right: Right) -> int:
    """200, or that of a refusal."""
    try:
        access.check(authorization, right)
    except Denied as denied:
        return denied.status
    return 200


def statuses(access: Access, authorization: str | None) -> list[int]:
    """To read, lock, write and remove."""
    return [status(access, authorization, right) for right in (READ, LOCK, WRITE, REMOVE)]


# -- who is not known ------------------------------------------------------------------------------

ANYBODY = [
    (None, True, [403] * 4),
    (Level.READ_ONLY, True, [200, 200, 403, 403]),
    (Level.READ_ONLY, False, [200, 403, 403, 403]),
    (Level.APPEND_ONLY, True, [200, 200, 200, 403]),
    (Level.APPEND_ONLY, False, [200, 403, 200, 403]),
    (Level.FULL, True, [200] * 4),
    (Level.FULL, False, [200] * 4),
]

NOT_KNOWN = {
    "no credentials": None,
    "a wrong password": basic(b"alice", b"in:wonderland "),
    "another's password": basic(b"alice", b"of bob"),
    "no password": basic(b"alice", b""),
    "the beginning of a password": basic(b"alice", b"in"),
    "an unknown user": basic(b"dave", b"in:wonderland"),
    "no user": basic(b"", b"in:wonderland"),
    "a name in capitals": basic(b"Alice", b"in:wonderland"),
    "another scheme": basic(b"alice", b"in:wonderland", "Bearer"),
    "no scheme": base64.b64encode(b"alice:in:wonderland").decode(),
    "no base64": "Basic alice:in:wonderland",
    "half base64": ALICE[:-3],
    "noise in base64": f"{ALICE[:10]}!{ALICE[10:]}",
    "no ASCII": "Basic \u00e9\u00e9\u00e9\u00e9",
    "bytes of no encoding": "Basic \udcff\udcff\udcff\udcff",
    "no colon": f"Basic {base64.b64encode(b'alicein:wonderland').decode()}",
    "a name and no more": f"Basic {base64.b64encode(b'alice').decode()}",
    "a scheme and no more": "Basic",
    "empty": "",
}


@pytest.mark.parametrize(("level", "locks", "expected"), ANYBODY[1:])
def test_where_there_are_no_users_nobody_is_asked_for_a_password(
    level: Level, locks: bool, expected: list[int]
) -> None:
    access = Access(level, anonymous_locks=locks)
    for authorization in NOT_KNOWN.values():
        assert statuses(access, authorization) == expected
    assert statuses(access, ALICE) == expected


@pytest.mark.parametrize("credentials", NOT_KNOWN.values(), ids=NOT_KNOWN.keys())
@pytest.mark.parametrize(("level", "locks", "expected"), ANYBODY)
def test_where_there_are_users_who_is_not_known_may_do_as_much_and_is_asked_for_the_rest(
    level: Level | None, locks: bool, expected: list[int], credentials: str | None
) -> None:
    access = Access(level, anonymous_locks=locks).with_users(ENVIRONMENT)
    assert statuses(access, credentials) == [401 if each == 403 else each for each in expected]


def test_nobody_may_do_anything_unless_told_otherwise() -> None:
    assert set(statuses(Access(), None)) == {401}
    assert statuses(WIDE_OPEN, None) == [200] * 4


# -- users -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("level", "locks", "_"), ANYBODY)
def test_a_user_has_the_rights_of_their_own_level_whatever_others_have(
    level: Level | None, locks: bool, _: list[int]
) -> None:
    access = Access(level, anonymous_locks=locks).with_users(ENVIRONMENT)
    assert statuses(access, ALICE) == [200] * 4
    assert statuses(access, BOB) == [200, 403, 403, 403]
    assert statuses(access, CAROL) == [200, 200, 200, 403]


def test_a_user_is_told_apart_from_who_is_nobody_in_particular() -> None:
    access = Access(Level.READ_ONLY).with_users(ENVIRONMENT)
    assert access.check(ALICE, READ) == "alice"
    assert access.check(BOB, READ) == "bob"
    assert access.check(None, READ) is None
    assert access.check(basic(b"alice", b"of bob"), READ) is None


def test_names_and_passwords_may_be_any_utf_8() -> None:
    access = Access().with_users(ENVIRONMENT)
    assert access.check(basic("Jürgen".encode(), "Straße".encode()), REMOVE) == "Jürgen"
    assert statuses(access, basic("Jürgen".encode("latin-1"), "Straße".encode())) == [401] * 4


@pytest.mark.parametrize("scheme", ["basic", "BASIC", "Basic "])
def test_the_schemes_name_is_taken_in_any_spelling(scheme: str) -> None:
    access = Access().with_users(ENVIRONMENT)
    assert access.check(basic(b"alice", b"in:wonderland", scheme), READ) == "alice"


# -- sentences -------------------------------------------------------------------------------------


@pytest.mark.parametrize("right", Right)
def test_a_refusal_says_what_is_missing(right: Right) -> None:
    access = Access().with_users(ENVIRONMENT)
    with pytest.raises(Denied, match=f"a user name and a password are needed to {right.value}"):
        access.check(None, right)
    with pytest.raises(Denied, match="the user name or the password is wrong"):
        access.check(basic(b"alice", b"of bob"), right)
    with pytest.raises(Denied, match="the user name or the password is wrong"):
        access.check(basic(b"dave", b"of bob"), right)


def test_a_refusal_says_who_may_not() -> None:
    access = Access(Level.READ_ONLY).with_users(ENVIRONMENT)
    with pytest.raises(Denied, match="the user bob may not remove here"):
        access.check(BOB, REMOVE)
    with pytest.raises(Denied, match="nobody may remove here"):
        Access(Level.READ_ONLY).check(None, REMOVE)


# -- passwords -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "credentials", [ALICE, basic(b"alice", b"x"), basic(b"dave", b"of bob"), basic(b"", b"")]
)
def test_a_password_is_compared_in_constant_time_even_that_of_an_unknown_user(
    credentials: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    access = Access().with_users(ENVIRONMENT)
    compared = []
    compare = hmac.compare_digest

    def counted(one: bytes, other: bytes) -> bool:
        compared.append((one, other))
        return compare(one, other)

    monkeypatch.setattr(hmac, "compare_digest", counted)
    status(access, credentials, READ)
    [(one, other)] = compared
    assert len(one) == len(other) == 32, "how long a password is would show"


def test_what_an_access_shows_of_itself_holds_no_password() -> None:
    access = Access(Level.READ_ONLY).with_users(ENVIRONMENT)
    shown = f"{access!r}{access}{access._users!r}"
    for name, value in ENVIRONMENT.items():
        if b"PASSWORD" in name and len(value) > 1:
            assert value.decode() not in shown
            assert repr(value)[2:-1] not in shown


# -- the environment -------------------------------------------------------------------------------

WRONG = [
    ({}, r"there is no user: set GIT_ANNEX_P2PHTTP_PASSWORD_alice=… in the environment"),
    ({b"HOME": b"/"}, "there is no user"),
    (
        {b"GIT_ANNEX_P2PHTTP_PASSWORD_alice": b""},
        "GIT_ANNEX_P2PHTTP_PASSWORD_alice needs .* a password",
    ),
    ({b"GIT_ANNEX_P2PHTTP_PASSWORD_": b"secret"}, "needs the name of a user"),
    ({b"GIT_ANNEX_P2PHTTP_PASSWORD_\xff": b"secret"}, "is not UTF-8"),
    (
        {
            b"GIT_ANNEX_P2PHTTP_PASSWORD_alice": b"secret",
            b"GIT_ANNEX_P2PHTTP_PERMISSION_alice": b"readonly",
        },
        "GIT_ANNEX_P2PHTTP_PERMISSION_alice means nothing",
    ),
    (
        {
            b"GIT_ANNEX_P2PHTTP_PASSWORD_alice": b"secret",
            b"GIT_ANNEX_P2PHTTP_PERMISSIONS_bob": b"readonly",
        },
        "PERMISSIONS_bob is set, and GIT_ANNEX_P2PHTTP_PASSWORD_bob is not",
    ),
    *(
        (
            {
                b"GIT_ANNEX_P2PHTTP_PASSWORD_alice": b"secret",
                b"GIT_ANNEX_P2PHTTP_PERMISSIONS_alice": permission,
            },
            "PERMISSIONS_alice has to be readonly or appendonly, or not to be set",
        )
        for permission in (b"", b"full", b"ReadOnly", b"readonly ", b"readonly,appendonly", b"\xff")
    ),
]


@pytest.mark.parametrize(("environment", "says"), WRONG)
def test_an_environment_that_makes_no_sense_is_refused_with_what_to_set(
    environment: dict[bytes, bytes], says: str
) -> None:
    """git-annex passes over a permission that it does not know: then a user may do everything."""
    with pytest.raises(ValueError, match=says) as refused:
        Access(Level.READ_ONLY).with_users(environment)
    assert "secret" not in str(refused.value)
