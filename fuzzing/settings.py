"""What git's configuration says, as git prints it."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from fuzzing import text_of
from locklane_server.repository import RepositoryError
from locklane_server.repository.annex import config
from locklane_server.repository.annex.modes import Modes

PIECES = (
    *(b"annex.uuid\n", b"annex.version\n10\0", b"annex.version\n", b"annex.diskreserve\n", b"\0"),
    *(b"\n", b"core.sharedrepository\n", b"annex.verify\0", b"annex.pidlock\ntrue\0", b"=", b" "),
    *(b"1 gigabyte", b"1.5 GiB", b"100mb", b"0", b"9" * 400, b"9" * 5000, b"\xc2\xb2", b"0640"),
    *(b"-1", b"0x1ff", b"group", b"everybody", b"annex.tune.x\n1\0", b"annex.dbdir\nx\0", b"\xff"),
)
NOWHERE = Path("/nonexistent")


def parse(data: bytes) -> None:
    config.parse_settings(text_of(data))
    with suppress(ValueError):
        config.parse_size(text_of(data))
    with suppress(ValueError):
        Modes.parse(text_of(data))


def check(data: bytes) -> None:
    text = text_of(data)
    settings = config.parse_settings(text)
    assert "" not in settings
    assert all("\0" not in name + value for name, value in settings.items())
    listed = "".join(f"{name}\n{value}\0" for name, value in settings.items())
    assert config.parse_settings(listed) == settings
    with suppress(RepositoryError):
        config._refuse(NOWHERE, settings)
        raise AssertionError("a place where nothing is was not refused")
    for value in (text, *settings.values()):
        with suppress(ValueError):
            assert config.parse_size(value) >= 0
        with suppress(ValueError):
            modes = Modes.parse(value)
            assert modes.creation & ~0o666 == 0
            assert modes.creation & 0o600 == 0o600
