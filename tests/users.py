"""Users of a server, and requests by them."""

from __future__ import annotations

import base64
from typing import Any

import aiohttp
from conftest import SOMEBODY
from yarl import URL

from locklane_client.address import Address
from locklane_client.wire import request_path
from locklane_server.access import Access, Level

PASSWORDS = {"alice": "Zu-lang-fuer-Zufall", "bob": "Noch-eins-wie-keins", "eve": "Und-keins-davon"}
"""Of everybody there is: bob may read, the others everything."""

ENVIRONMENT = {
    **{f"GIT_ANNEX_P2PHTTP_PASSWORD_{user}": password for user, password in PASSWORDS.items()},
    "GIT_ANNEX_P2PHTTP_PERMISSIONS_bob": "readonly",
}


def access(level: Level | None = None) -> Access:
    """For a server in this process.

    :param level: what everybody may do.
    """
    binary = {name.encode(): value.encode() for name, value in ENVIRONMENT.items()}
    return Access(level).with_users(binary)


def basic(user: str, password: str | None = None) -> str:
    """Value of ``Authorization``: with the right password, if no other is given."""
    pair = f"{user}:{PASSWORDS[user] if password is None else password}"
    return f"Basic {base64.b64encode(pair.encode()).decode()}"


def as_user(url: str, user: str, password: str | None = None) -> str:
    """The address with a user's name and password."""
    password = PASSWORDS[user] if password is None else password
    return url.replace("://", f"://{user}:{password}@")


async def ask(
    url: str,
    request: str,
    user: str | None = None,
    *,
    method: str = "POST",
    body: bytes | None = None,
    **parameters: str,
) -> tuple[int, dict[str, Any]]:
    """A request by a user, or by nobody in particular: its status and its JSON."""
    address = Address.parse(url)
    path = request_path(address.uuid, 4, request, **parameters, clientuuid=SOMEBODY)
    headers = {} if user is None else {"Authorization": basic(user)}
    target = URL(address.http_base + path, encoded=True)
    async with (
        aiohttp.ClientSession() as http,
        http.request(method, target, data=body, headers=headers) as response,
    ):
        return response.status, await response.json(content_type=None)
