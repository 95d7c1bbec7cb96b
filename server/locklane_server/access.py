"""Who may do what: decided from the server's options and a request's credentials, before anything
is read from its body or opened on disk ("authentication").

The rules are those of ``git annex p2phttp``. Each request belongs to a class, which is the right
that it needs; who is not known has the rights of :attr:`Access.anonymous`, a user those of the
environment. Where they differ, this is the stricter: see README, "Access".
"""

from __future__ import annotations

import base64
import binascii
import enum
import hashlib
import hmac
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field

REALM = 'Basic realm="git-annex", charset="UTF-8"'
"""Value of ``WWW-Authenticate``."""

PASSWORD = b"GIT_ANNEX_P2PHTTP_PASSWORD_"
"""Of the environment variable with a user's password; the user's name follows."""

PERMISSIONS = b"GIT_ANNEX_P2PHTTP_PERMISSIONS_"
"""Of the one with the user's level, where that is not all."""

FAMILY = b"GIT_ANNEX_P2PHTTP_"
"""How both begin, and nothing else does."""


class Right(enum.Enum):
    """What a request needs: its class."""

    READ = "read"
    WRITE = "write"
    REMOVE = "remove"
    LOCK = "lock"


class Level(enum.Enum):
    """What somebody may do."""

    READ_ONLY = "readonly"
    APPEND_ONLY = "appendonly"
    FULL = "full"


_RIGHTS = {
    Level.READ_ONLY: frozenset({Right.READ}),
    Level.APPEND_ONLY: frozenset({Right.READ, Right.WRITE, Right.LOCK}),
    Level.FULL: frozenset(Right),
}


class Denied(Exception):
    """A request that is not to be answered; the text is a sentence for a person.

    :param status: 401: (other) credentials would do, or 403.
    :param user: who asked, if that is known.
    """

    def __init__(self, status: int, sentence: str, user: str | None = None) -> None:
        super().__init__(sentence)
        self.status = status
        self.user = user


@dataclass(frozen=True, slots=True)
class _User:
    name: str
    proof: bytes
    """What the password comes to with this process's own secret."""
    rights: frozenset[Right]


@dataclass(frozen=True, slots=True)
class Access:
    """See the module. Nobody may do anything unless told otherwise.

    :param anonymous: what everybody may do; ``None``: nothing.
    :param anonymous_locks: whether everybody who may read may lock too.
    :param users: made by :meth:`with_users`.
    """

    anonymous: Level | None = None
    anonymous_locks: bool = True
    _users: Mapping[bytes, _User] = field(default_factory=dict, repr=False)
    _secret: bytes = field(default_factory=lambda: secrets.token_bytes(32), repr=False)

    def with_users(self, environment: Mapping[bytes, bytes]) -> Access:
        """The same, and the users of an environment.

        :raises ValueError: there are none, or one of them has no password, or a permission that
            there is not; the text says what to set.
        """
        for variable in environment:
            if variable.startswith(FAMILY) and not variable.startswith((PASSWORD, PERMISSIONS)):
                raise ValueError(
                    f"{_text(variable)} means nothing; there are {_text(PASSWORD)}NAME and "
                    f"{_text(PERMISSIONS)}NAME"
                )
        levels = {}
        for variable, value in environment.items():
            if variable.startswith(PERMISSIONS):
                levels[variable.removeprefix(PERMISSIONS)] = _level(variable, value)
        users = {}
        for variable, password in environment.items():
            if variable.startswith(PASSWORD):
                name = variable.removeprefix(PASSWORD)
                if not password or not name:
                    raise ValueError(f"{_text(variable)} needs the name of a user, and a password")
                try:
                    name.decode("utf-8")
                except UnicodeDecodeError as error:
                    raise ValueError(f"the name in {_text(variable)} is not UTF-8") from error
                level = levels.pop(name, Level.FULL)
                users[name] = _User(_text(name), self._proof(name, password), _RIGHTS[level])
        if not users:
            raise ValueError(
                f"there is no user: set {_text(PASSWORD)}alice=… in the environment, for each user"
            )
        for name in levels:
            raise ValueError(
                f"{_text(PERMISSIONS + name)} is set, and {_text(PASSWORD + name)} is not"
            )
        return Access(self.anonymous, self.anonymous_locks, users, self._secret)

    def check(self, authorization: str | None, right: Right) -> str | None:
        """Whether a request may be answered.

        :param authorization: its header of that name.
        :returns: the user's name; ``None``: nobody in particular.
        :raises Denied: it may not.
        """
        user = None
        if self._users and authorization is not None:
            user = self._authenticate(authorization)
        if user is not None:
            if right in user.rights:
                return user.name
            raise Denied(403, f"the user {user.name} may not {right.value} here", user.name)
        if self._anyone_may(right):
            return None
        if self.anonymous is not None and not self._users:
            raise Denied(403, f"nobody may {right.value} here")
        if authorization is None:
            raise Denied(401, f"a user name and a password are needed to {right.value} here")
        raise Denied(401, "the user name or the password is wrong")

    def _anyone_may(self, right: Right) -> bool:
        if self.anonymous is None:
            return False
        if right is Right.LOCK and self.anonymous is not Level.FULL:
            return self.anonymous_locks
        return right in _RIGHTS[self.anonymous]

    def _authenticate(self, authorization: str) -> _User | None:
        scheme, _, encoded = authorization.partition(" ")
        if scheme.lower() != "basic":
            return None
        try:
            name, colon, password = base64.b64decode(encoded.strip(), validate=True).partition(b":")
        except (binascii.Error, ValueError):
            return None
        user = self._users.get(name)
        proof = self._proof(name, password)
        # As long for a name that there is not.
        same = hmac.compare_digest(proof, user.proof if user is not None else self._secret)
        return user if same and colon else None

    def _proof(self, name: bytes, password: bytes) -> bytes:
        whole = len(name).to_bytes(8, "big") + name + password
        return hashlib.blake2b(whole, key=self._secret, digest_size=32).digest()


WIDE_OPEN = Access(Level.FULL)
"""Everybody may do everything."""


def _level(variable: bytes, value: bytes) -> Level:
    try:
        level = Level(_text(value))
    except ValueError:
        level = None
    if level in (Level.READ_ONLY, Level.APPEND_ONLY):
        return level
    raise ValueError(
        f"{_text(variable)} has to be readonly or appendonly, or not to be set for a user who may "
        "do everything"
    )


def _text(name: bytes) -> str:
    return name.decode("utf-8", "backslashreplace")
