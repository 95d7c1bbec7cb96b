"""A lock belongs to the user who took it: its id is of no use to anybody else."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any

import pytest
from conftest import MakeClient, Serve, ServerProcess, eventually
from kinds import both
from users import ENVIRONMENT, access, as_user, ask

from locklane_client import Key
from locklane_server.access import Level
from locklane_server.locks import RandomIds, Refusal

UNLOCK = b'{"unlock":true}\n'


async def unlock(url: str, lock_id: str, user: str | None) -> dict[str, Any]:
    """Ask to keep a lock, and at once to end it; the answer."""
    status, answer = await ask(url, "keeplocked", user, body=UNLOCK, lockid=lock_id)
    assert status == 200
    return answer


async def is_kept(url: str, lock_id: str, user: str | None) -> dict[str, Any]:
    """Ask whether anybody keeps a lock; the answer."""
    status, answer = await ask(url, "keeplocked", user, method="GET", lockid=lock_id)
    assert status == 200
    return answer


async def take(url: str, key: Key, user: str | None) -> str:
    status, answer = await ask(url, "lockcontent", user, key=key.text)
    assert (status, answer["locked"]) == (200, True)
    return str(answer["lockid"])


async def removed(url: str, key: Key) -> bool:
    _, answer = await ask(url, "remove", "alice", key=key.text)
    return bool(answer["removed"])


OTHERS = ("eve", None)
"""Who may lock, too: a user who may do everything, and nobody in particular."""


async def is_of_no_use(url: str, lock_id: str) -> None:
    """To others than the user who took it a lock is not there."""
    for other in OTHERS:
        for answer in (await unlock(url, lock_id, other), await is_kept(url, lock_id, other)):
            assert not answer["locked"]
            assert answer["reason"] == Refusal.UNKNOWN.value


async def test_a_lock_that_is_held_over_any_transport_is_its_users_alone(
    serve: Serve, client: MakeClient, key: Key
) -> None:
    async with serve(access=access(Level.READ_ONLY)) as there:
        async with client(as_user(there.url, "alice")) as c, c.lock(key):
            [lock] = there.served.manager
            assert lock.user == "alice"
            await is_of_no_use(there.url, lock.id)
            assert there.locks == 1
            assert not await removed(there.url, key)
            # Over a long poll the client does not know when.
            await eventually(lambda: there.live == 1)
            assert (await is_kept(there.url, lock.id, "alice"))["locked"]
        await c.confirmed()
        await there.nothing_left()


@both
async def test_another_users_unlock_leaves_the_lock_and_its_users_own_ends_it(
    serve: Serve, key: Key
) -> None:
    async with serve(access=access(Level.READ_ONLY)) as there:
        lock_id = await take(there.url, key, "alice")
        await is_of_no_use(there.url, lock_id)
        assert not await removed(there.url, key)
        assert await unlock(there.url, lock_id, "alice") == {"locked": False}
        assert await removed(there.url, key)
        await there.nothing_left()


async def test_after_a_restart_it_is_still_its_users_alone(
    server_process: Callable[..., ServerProcess], key: Key
) -> None:
    """A store gives the ids back after ``kill -9``."""
    options: dict[str, Any] = {
        "access": ("--unauth-readonly", "--authenv-http"),
        "env": ENVIRONMENT,
    }
    first = server_process(**options)
    of_alice, of_nobody = await take(first.url, key, "alice"), await take(first.url, key, None)
    first.kill()
    second = server_process(**options)
    await is_of_no_use(second.url, of_alice)
    assert await unlock(second.url, of_nobody, None) == {"locked": False}
    assert not await removed(second.url, key)
    assert await unlock(second.url, of_alice, "alice") == {"locked": False}
    assert await removed(second.url, key)


async def test_one_that_nobody_in_particular_took_is_of_whoever_knows_its_id(
    serve: Serve, key: Key
) -> None:
    async with serve(access=access(Level.READ_ONLY)) as there:
        for who in (None, "alice", "eve"):
            lock_id = await take(there.url, key, None)
            assert not await removed(there.url, key)
            assert await unlock(there.url, lock_id, who) == {"locked": False}
        assert await removed(there.url, key)


async def test_who_may_not_lock_is_told_nothing_of_a_lock(serve: Serve, key: Key) -> None:
    async with serve(access=access(Level.READ_ONLY)) as there:
        lock_id = await take(there.url, key, "alice")
        for method, body in (("POST", UNLOCK), ("GET", None)):
            for asked in (lock_id, "0" * 32):
                status, answer = await ask(
                    there.url, "keeplocked", "bob", method=method, body=body, lockid=asked
                )
                assert status == 403
                assert answer["error"] == "the user bob may not lock here"
        assert there.locks == 1


async def test_what_is_nearly_an_id_is_none(serve: Serve, key: Key) -> None:
    async with serve() as there:
        lock_id = await take(there.url, key, None)
        last = "0" if lock_id[-1] != "0" else "1"
        nearly = [lock_id[:-1], lock_id[:-1] + last, lock_id + "0", lock_id + " ", " " + lock_id]
        nearly += [f"%{lock_id[1:]}", "*", "%", lock_id[:16] + "%"]
        nearly += [lock_id.upper()] if lock_id.upper() != lock_id else []
        for guess in nearly:
            assert (await unlock(there.url, guess, None))["reason"] == Refusal.UNKNOWN.value
        assert there.locks == 1


def test_ids_are_128_bits_from_the_systems_secrets_and_none_comes_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawn = []
    token_bytes = secrets.token_bytes

    def drawing(count: int) -> bytes:
        drawn.append(token_bytes(count))
        return drawn[-1]

    monkeypatch.setattr(secrets, "token_bytes", drawing)
    new = RandomIds()
    ids = [new() for _ in range(10_000)]
    assert len(set(ids)) == len(ids)
    assert all(len(bytes.fromhex(each)) == 16 for each in ids)
    assert b"".join(drawn).startswith(bytes.fromhex("".join(ids)))
