"""What the commands that are clients share: where the server is, and errors as sentences."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import click

from locklane_client.client import Client
from locklane_client.errors import LocklaneError, LockLost
from locklane_client.key import Key

F = TypeVar("F", bound=Callable[..., Any])


class _KeyType(click.ParamType[Key]):
    name = "key"

    def convert(
        self, value: str | Key, param: click.Parameter | None, ctx: click.Context | None
    ) -> Key:
        if isinstance(value, Key):
            return value
        try:
            return Key.parse(value)
        except ValueError as error:
            self.fail(f"{error}. 'git annex lookupkey FILE' prints that of a file.", param, ctx)


KEY = _KeyType()
"""Type of an argument that is a key."""


def server_options(command: F) -> F:
    """URL, ``--uuid`` and ``--timeout``, as every such command takes them."""
    for decorate in (
        click.option(
            "--timeout",
            type=click.FloatRange(0, min_open=True),
            default=30.0,
            show_default=True,
            metavar="SECONDS",
            help="How long to wait for an answer.",
        ),
        click.option("--uuid", help="UUID of the repository, where URL does not end in it."),
        click.argument("url"),
    ):
        command = decorate(command)
    return command


def make_client(url: str, uuid: str | None, timeout: float, **options: Any) -> Client:
    """The client that the options of :func:`server_options` describe.

    :raises click.UsageError: one of them cannot be used.
    """
    try:
        return Client(url, uuid, answer_timeout=timeout, connect_timeout=timeout, **options)
    except ValueError as error:
        raise click.UsageError(str(error)) from error


@contextmanager
def errors_as_sentences() -> Iterator[None]:
    """Ends the command with 1 and the errors' own words, or with 2 for a wrong argument."""
    try:
        yield
    except* LockLost as lost:
        raise click.ClickException("lost: " + _sentences(lost)) from lost
    except* LocklaneError as errors:
        raise click.ClickException(_sentences(errors)) from errors
    except* ValueError as errors:
        raise click.UsageError(_sentences(errors)) from errors


def on_interrupt(interrupt: Callable[[], None]) -> None:
    """Have ctrl-C and SIGTERM call something on the running event loop."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, interrupt)


def _sentences(errors: BaseExceptionGroup[BaseException]) -> str:
    lines: dict[str, None] = {}
    for error in errors.exceptions:
        if isinstance(error, BaseExceptionGroup):
            lines[_sentences(error)] = None
        else:
            lines[str(error)] = None
    return "\n".join(lines)
