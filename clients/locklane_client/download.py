"""Downloads ("GET /git-annex/$uuid/v4/key/$key"), resumed and verified."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import aiohttp
import anyio

from .backends import Verifier, verifier
from .errors import (
    LocalFileError,
    LocklaneError,
    NotPresent,
    ProtocolViolation,
    ServerUnreachable,
    TransferIncomplete,
    Unverifiable,
    WrongContent,
)
from .files import Part, Progress, in_thread
from .key import Key
from .requests import check_present
from .session import Session, VersionNotServed
from .wire import DATA_LENGTH, key_request

HASH_STEP = 8 * 1024 * 1024
"""Bytes of an earlier attempt that are hashed at a time."""


@dataclass(frozen=True, slots=True)
class Got:
    """What a download came to."""

    size: int
    """Of the content, in bytes."""
    verified: bool
    """By the hash in the key; otherwise by nothing but the size, where it is known."""
    resumed_from: int = 0
    """Bytes that an earlier attempt had left."""


class _NotFound(LocklaneError):
    """404: the content, this version of the protocol, or the repository is not there."""


async def download(
    session: Session,
    key: Key,
    path: Path,
    *,
    progress: Progress | None,
    verify: bool,
    associated_file: str | None,
) -> Got:
    """See :meth:`locklane_client.Client.get`."""
    getting = _Download(session, key, Part(path), progress, verifier(key) if verify else None)
    part = getting.part
    keep = False
    try:
        await in_thread(part.open)
        # Only what is verified as a whole in the end may come from several attempts.
        keep = getting.verifier is not None
        if part.size and (not keep or (key.size is not None and part.size > key.size)):
            await in_thread(part.empty)
        await getting.look_at_what_is_there()
        # Whole already, but for the last step: nobody needs to be asked.
        if not part.size or part.size != key.size:
            await getting.fetch(verify, associated_file)
        try:
            getting.check()
        except WrongContent:
            keep = False
            raise
        keep = True  # it is whole, whatever may be in the way of its name
        with getting.saying_what_is_kept(keep):
            await in_thread(part.finish)
        return Got(part.size, getting.verifier is not None, getting.resumed_from)
    except _WrongLength:
        keep = False
        raise
    except TransferIncomplete as error:
        if not keep:
            error.kept = 0
        raise
    finally:
        with anyio.CancelScope(shield=True):
            await in_thread(partial(part.close, keep=keep))


class _WrongLength(WrongContent):
    """More bytes came than were promised, or other than the key's number was promised."""


@dataclass(slots=True)
class _Download:
    session: Session
    key: Key
    part: Part
    progress: Progress | None
    verifier: Verifier | None
    resumed_from: int = 0

    async def look_at_what_is_there(self) -> None:
        """Let the verifier see what an earlier attempt left."""
        self.resumed_from = self.part.size
        seen = 0
        while self.verifier is not None and seen < self.part.size:
            feed = partial(
                self.part.feed, self.verifier, seen, min(HASH_STEP, self.part.size - seen)
            )
            seen += await in_thread(feed)

    async def fetch(self, verify: bool, associated_file: str | None) -> None:
        """Download what is missing."""
        began = self.part.size
        asked_again = False
        while True:
            version = self.session.version
            try:
                whole = await self._attempt(version, verify, associated_file)
            except _NotFound as error:
                # What is not found? The other requests answer 404 for another reason.
                await self._confirm_present()
                if self.session.version == version:
                    if asked_again:
                        raise ProtocolViolation(
                            f"{error}, and yet that the content is present"
                        ) from error
                    asked_again = True  # it may have come in between
                continue
            except ServerUnreachable as error:
                if self.part.size == began:
                    raise
                raise self._incomplete(str(error)) from error
            break
        if self.part.size == began:
            # git-annex's server answers 200, without content, when there is none.
            await self._confirm_present()
        if not whole:
            raise self._incomplete(
                f"{self.session.address} sent less than there should be, which means that the "
                "content changed while it was sent"
            )

    async def _attempt(self, version: int, verify: bool, associated_file: str | None) -> bool:
        """Download with one version of the protocol; returns whether all came that was to come, as
        far as that can be told."""
        session, part, size = self.session, self.part, self.key.size
        async with session.send(
            "GET",
            key_request(self.key.text),
            version,
            {"associatedfile": associated_file, "offset": part.size or None},
            head_wait=session.stall_timeout,
        ) as response:
            if response.status != 200:
                body = await session.answer("key", response)
                refusal = session.refusal("key", response.status, body)
                if isinstance(refusal, VersionNotServed):
                    raise _NotFound(str(refusal))
                raise refusal
            length = _length(response)
            if length is None and size is None and self.verifier is None and verify:
                raise Unverifiable(
                    f"{session.address} does not say how long the content is, and the key does "
                    "not tell what it should be: nobody could say whether all of it came"
                )
            total = size if length is None else part.size + length
            if length and size is not None and total != size:
                # What is there already is thrown away with it: if it was the reason, as with a
                # server that does not know of offsets, the next attempt will not meet it again.
                raise _WrongLength(
                    f"{session.address} has {total} bytes under this key, whose content has {size}"
                    + ("; nothing was kept of an earlier attempt; run it again" * bool(part.size))
                )
            if self.progress is not None:
                self.progress(part.size, total)
            while data := await session.block(response):
                if total is not None and part.size + len(data) > total:
                    raise _WrongLength(f"{session.address} sent more than {total} bytes")
                with self.saying_what_is_kept(self.verifier is not None):
                    await in_thread(partial(part.write, data, self.verifier))
                if self.progress is not None:
                    self.progress(part.size, total)
        return part.size == (total if size is None else size) or total is None

    async def _confirm_present(self) -> None:
        """
        :raises NotPresent: the server does not have the content.
        """
        if not await check_present(self.session, self.key):
            raise NotPresent(f"{self.session.address} does not have the content of {self.key}")

    def check(self) -> None:
        """Whether what is there is the content.

        :raises WrongContent: it is not.
        """
        part, key = self.part, self.key
        why = None
        if key.size is not None and part.size != key.size:
            why = f"has {part.size} bytes instead of {key.size}"
        elif self.verifier is not None and not self.verifier.matches():
            why = "has another hash"
        if why is not None:
            raise WrongContent(
                f"what came is not the content of {key}: it {why}; nothing was kept"
                + (", nor of what an earlier attempt had left" if self.resumed_from else "")
                + "; run it again"
            )

    @contextmanager
    def saying_what_is_kept(self, keep: bool) -> Iterator[None]:
        """Adds to the error of a disk what becomes of the part."""
        try:
            yield
        except LocalFileError as error:
            if error.__cause__ is None:  # not of the disk: a file is in the way
                raise
            kept = "nothing was kept"
            if keep and self.part.size:
                kept = f"{self.part.path} is kept, and the next attempt goes on from there"
            raise LocalFileError(f"{error}; {kept}") from error.__cause__

    def _incomplete(self, why: str) -> TransferIncomplete:
        return TransferIncomplete(why, self.part.size)


def _length(response: aiohttp.ClientResponse) -> int | None:
    """How many bytes of content the server means to send.

    :raises ProtocolViolation: the header is no number.
    """
    text = response.headers.get(DATA_LENGTH)
    if text is None:
        return response.content_length
    if not (text.isascii() and text.isdecimal() and len(text) < 20):
        raise ProtocolViolation(f"{DATA_LENGTH} is no number: {text[:40]!a}")
    return int(text)
