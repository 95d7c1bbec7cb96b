"""The client: one repository behind the HTTP API, its content and locks on it."""

from __future__ import annotations

import asyncio
import os
import ssl
import time
import uuid as uuids
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

import anyio

from . import requests
from .address import Address
from .download import Got, download
from .errors import HoldEnded, LocklaneError, LockLost
from .files import Progress
from .finishing import to_its_end
from .key import Key
from .requests import Removed
from .session import Counts, Session
from .tls import Handshakes
from .transports import TRANSPORTS, Hold
from .upload import Stored, announce, upload
from .wire import RETENTION


class Lock:
    """A lock that is held. Made by :meth:`Client.lock`."""

    def __init__(self, key: Key, retained_until: float, interrupt: bool) -> None:
        self.key = key
        self.lock_id: str | None = None
        """The server's name for the lock, where the transport tells it."""
        self.lost: str | None = None
        """Why the hold ended by itself; ``None`` while it has not."""
        self._promised_until = self._retained_until = retained_until
        self._interrupt = interrupt
        self._scope = anyio.CancelScope()
        self._ended = anyio.Event()
        self._hold: Hold | None = None
        self._left = False

    @property
    def retained_for(self) -> float:
        """Seconds for which the server keeps the content whatever happens to this client, to the
        connection or to the server ("lockcontent": ten minutes from when it was locked). Counted
        from before the lock was asked for, so never too long. 0 or more; 0 from the unlock on."""
        return max(0.0, self._retained_until - _clock())

    async def wait_lost(self) -> str:
        """Wait until the hold ends by itself; returns why. For ``interrupt=False``."""
        await self._ended.wait()
        assert self.lost is not None
        return self.lost

    async def confirmed(self) -> None:
        """Wait until the server confirmed the unlock, after it was left. Nothing to wait for but
        over ``pipeline``, where leaving returns when the unlock is sent.

        :raises LockLost: the hold had ended before, or nobody confirmed the unlock.
        :raises RuntimeError: it is still held.
        """
        if self._hold is None or not self._left:
            raise RuntimeError("the lock is still held: leave it first")
        if self.lost is not None:
            raise LockLost(self.lost, self.retained_for)
        try:
            await self._hold.confirmed()
        except LocklaneError as error:
            self._unconfirmed(error)
            raise LockLost(self.lost or "", self.retained_for) from error

    def _unconfirmed(self, error: LocklaneError) -> None:
        """The unlock did not end the hold, as far as is known."""
        if isinstance(error, HoldEnded):
            self._retained_until = self._promised_until
            self._lose(str(error), error.retained)
        else:
            # Who knows whether the server got the request?
            self._lose(f"nobody confirmed the unlock: {error}", False)

    def _lose(self, reason: str, retained: bool) -> None:
        self.lost = reason
        if not retained:
            self._retained_until = 0.0
        self._ended.set()
        if self._interrupt:
            self._scope.cancel(reason)


class Client:
    """A client of one repository. Use it as ``async with Client(…) as client``.

    :param url: where the repository is served: ``annex+http://HOST:9417/git-annex/UUID``, with
        ``annex+https`` for TLS and ``USER:PASSWORD@`` before the host for basic authentication
        ("authentication").
    :param uuid: the repository's UUID, where the URL does not have it.
    :param transport: how locks travel, a name in
        :data:`locklane_client.transports.TRANSPORTS`. Default ``longpoll``, which every server
        of the API has.
    :param client_uuid: UUID of the repository that asks ("common request parameters"). Default: a
        new random one.
    :param tls: how to check the server's certificate. Default ``None``: against the system's
        authorities.
    :param connect_timeout: seconds to wait for a connection (and for it to be closed), over 0.
    :param answer_timeout: seconds to wait for an answer, over 0. A hold itself has no limit.
    :param keep_interval: seconds after which an idle hold shows that it is alive, 0.05 to 3600. A
        peer that vanished is noticed within about three times that.
    :param stall_timeout: seconds without a byte of content, over 0, after which a transfer is given
        up. Waiting for the server to check an upload is not bounded by it.
    :param via: host and port to connect to in the place of the URL's: a tunnel or a relay. The
        server is still spoken to, and its certificate checked, under the URL's name.
    :raises ValueError: the URL, the transport's name or a number cannot be used.

    One client may hold any number of locks at once. It belongs to one event loop.
    """

    def __init__(
        self,
        url: str,
        uuid: str | None = None,
        *,
        transport: str = "longpoll",
        client_uuid: str | None = None,
        tls: ssl.SSLContext | None = None,
        connect_timeout: float = 10.0,
        answer_timeout: float = 30.0,
        keep_interval: float = 20.0,
        stall_timeout: float = 300.0,
        via: tuple[str, int] | None = None,
    ) -> None:
        if transport not in TRANSPORTS:
            raise ValueError(f"no transport {transport!r}; there are {', '.join(TRANSPORTS)}")
        for name, seconds in (
            ("connect_timeout", connect_timeout),
            ("answer_timeout", answer_timeout),
            ("keep_interval", keep_interval),
            ("stall_timeout", stall_timeout),
        ):
            if not 0 < seconds < 1e6:
                raise ValueError(f"{name} has to be over 0 and below a million s, not {seconds!r}")
        if not 0.05 <= keep_interval <= 3600:
            raise ValueError(f"keep_interval has to be 0.05 to 3600 s, not {keep_interval!r}")
        self._session = Session(
            Address.parse(url, uuid),
            client_uuid or str(uuids.uuid4()),
            tls,
            connect_timeout,
            answer_timeout,
            keep_interval,
            stall_timeout,
            via,
        )
        self._transport = TRANSPORTS[transport](self._session)
        self._held: dict[Lock, Hold] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close every connection. Holds that are still open end as a crash would end them, and
        are lost to their holders. Whoever is cancelled meanwhile waits all the same."""
        await to_its_end(asyncio.create_task(self._aclose()))

    async def _aclose(self) -> None:
        while self._held:
            lock, hold = self._held.popitem()
            if lock.lost is None:
                lock._lose("the client was closed", True)
            await hold.abandon()
        await self._session.aclose()

    @property
    def address(self) -> Address:
        """Where the repository is served."""
        return self._session.address

    @property
    def version(self) -> int:
        """The version of the protocol spoken: the best that the server has not refused."""
        return self._session.version

    @property
    def counts(self) -> Counts:
        """What was opened, sent and waited for so far; goes on counting."""
        return self._session.counts

    @property
    def connections_opened(self) -> int:
        """TCP connections opened so far."""
        return self._session.counts.connections_opened

    async def confirmed(self) -> int:
        """Wait until every unlock that was sent is answered (over ``pipeline``; elsewhere leaving a
        lock has waited for that). :meth:`aclose` does so too, for some seconds.

        :returns: how many unlocks of this client the server has not confirmed, so far.
        """
        while self._session.confirming:
            await asyncio.wait(self._session.confirming)
        return self._session.counts.unconfirmed

    @property
    def tls_handshakes(self) -> Handshakes:
        """TLS handshakes so far, full and resumed, with the context ``tls`` (those of other
        clients, too, that were given the same)."""
        return self._session.tls_handshakes

    @asynccontextmanager
    async def lock(self, key: str | Key, *, interrupt: bool = True) -> AsyncIterator[Lock]:
        """Hold a lock on a key's content: ``async with client.lock(key) as lock: …``

        The body runs while the server promises to keep the content. Leaving it unlocks, and
        returns when the server confirmed that; over ``pipeline`` when the unlock is sent, see
        :meth:`Lock.confirmed`.

        :param key: the key, as git-annex prints it.
        :param interrupt: if the hold is lost while the body runs, cancel the body where it waits
            and raise :class:`LockLost`, at once. ``False``: let it run; it can look at
            ``lock.lost`` or wait for ``lock.wait_lost()``; :class:`LockLost` is raised at the end.
        :raises LockRefused: the server does not lock; the text is its reason.
        :raises LockLost: the hold ended before the body did, or nobody confirmed the unlock.
        :raises ServerUnreachable: no server, or no answer in time.
        :raises AccessDenied: credentials are missing, wrong or not enough.
        :raises ProtocolViolation: the peer does not speak the protocol.
        :raises ValueError: that is no key.
        """
        key = _key(key)
        lock = Lock(key, _clock() + RETENTION, interrupt)
        hold = await self._acquire(key, lock)
        lock.lock_id = hold.lock_id
        lock._hold = self._held[lock] = hold
        try:
            try:
                with lock._scope:
                    yield lock
            finally:
                self._held.pop(lock, None)
        except BaseException:
            # The body's own error is what the caller has to see.
            await self._end(lock, hold, quiet=True)
            raise
        await self._end(lock, hold, quiet=False)

    async def check_present(self, key: str | Key) -> bool:
        """Whether the server has the content of a key ("checkpresent"). It does not promise to keep
        it: that takes :meth:`lock`.

        :raises ServerUnreachable: no server, or no answer in time.
        :raises AccessDenied: credentials are missing, wrong or not enough.
        :raises ProtocolViolation: the peer does not speak the protocol.
        :raises ValueError: that is no key.
        """
        return await requests.check_present(self._open, _key(key))

    async def remove(self, key: str | Key) -> Removed:
        """Remove the content of a key from the server ("remove"). To have removed it is also to
        find that it was not there.

        Nothing is checked but locks on this server: who removes has to know that enough other
        copies are there, and will be there by then.

        :raises RemovalRefused: the server did not remove it.
        :raises ServerFailed: git-annex's server answers so if the content is locked.
        :raises LocklaneError: as :meth:`check_present`; whether it was removed is unknown then.
        """
        return await requests.remove(self._open, _key(key))

    async def remove_before(self, key: str | Key, timestamp: int) -> Removed:
        """:meth:`remove`, unless the server's clock is past a time ("remove-before").

        :param timestamp: what :meth:`timestamp` said, plus the seconds for which locks held
            elsewhere are sure to last. 0 or more.
        :raises RemovalRefused: the server did not remove it; its clock may be past the time.
        :raises NotSupported: it speaks a version of the protocol before 3. Nothing was removed.
        :raises LocklaneError: as :meth:`remove`.
        """
        if timestamp < 0:
            raise ValueError(f"the timestamp has to be 0 or more, not {timestamp}")
        return await requests.remove_before(self._open, _key(key), timestamp)

    async def timestamp(self) -> int:
        """The server's clock, for :meth:`remove_before` ("gettimestamp"): whole seconds, 0 or more,
        from a beginning that only the server knows.

        :raises NotSupported: it speaks a version of the protocol before 3.
        :raises LocklaneError: as :meth:`check_present`.
        """
        return await requests.timestamp(self._open)

    async def get(
        self,
        key: str | Key,
        path: str | os.PathLike[str],
        *,
        progress: Progress | None = None,
        verify: bool = True,
        associated_file: str | None = None,
    ) -> Got:
        """Download the content of a key to a file ("GET key").

        Until it is whole, what came is in ``PATH.part`` beside it. If the attempt fails or is
        cancelled, and the content can be verified by a hash, that is left there, and the next
        attempt goes on from it. When the size and the hash are right and all is on the disk, it
        becomes ``PATH`` in one step. What cannot be verified by a hash is begun anew every time.

        :param path: the file to make; its directory has to exist, and it must not.
        :param progress: called now and then, on the event loop, with how many bytes are there, and
            how many there will be, or ``None``. What it raises ends the download.
        :param verify: ``False``: take the server's word for it that the content is right.
        :param associated_file: name of a file in the repository that has the key.
        :raises NotPresent: the server does not have it.
        :raises WrongContent: what the server has under that key is something else.
        :raises TransferIncomplete: the connection broke, or the content changed while it was sent.
        :raises Unverifiable: nobody could say whether all of it came.
        :raises LocalFileError: the file exists, or it or the part cannot be written.
        :raises LocklaneError: as :meth:`check_present`.
        """
        return await download(
            self._open,
            _key(key),
            Path(path),
            progress=progress,
            verify=verify,
            associated_file=associated_file,
        )

    async def put(
        self,
        key: str | Key,
        path: str | os.PathLike[str] | None,
        *,
        progress: Progress | None = None,
        associated_file: str | None = None,
        data_present: bool = False,
    ) -> Stored:
        """Upload a file as the content of a key ("put"), from where an earlier attempt stopped, if
        the server has kept what came of it ("putoffset", version 1 and later).

        :param path: the file. Its size has to be the key's; the hash is left to the server.
        :param progress: called now and then, on the event loop, with how many bytes are on their
            way, and how many there are. What it raises ends the upload.
        :param associated_file: name of a file in the repository that has the key.
        :param data_present: send nothing, and let the server look for the content itself, which
            came to it in another way; the path may be ``None``.
        :raises PutRefused: the server did not store it.
        :raises ContentChanged: the file changed while it was sent, so nothing was stored.
        :raises WrongContent: the file has another size than the key; nothing was sent.
        :raises NotSupported: ``data_present`` before version 4 of the protocol.
        :raises LocalFileError: the file cannot be read.
        :raises LocklaneError: as :meth:`check_present`.
        """
        if data_present:
            return await announce(self._open, _key(key), associated_file=associated_file)
        if path is None:
            raise ValueError("there is no path to put the content from")
        return await upload(
            self._open,
            _key(key),
            Path(path),
            progress=progress,
            associated_file=associated_file,
        )

    @property
    def _open(self) -> Session:
        if self._session.closed:
            raise LocklaneError("the client is closed")
        return self._session

    async def _acquire(self, key: Key, lock: Lock) -> Hold:
        taking = asyncio.create_task(
            self._open.with_version(
                lambda version: self._transport.acquire(key.text, version, lock._lose)
            )
        )
        try:
            return await asyncio.shield(taking)
        except asyncio.CancelledError:
            # The server may have locked already, or be about to: then it is given back.
            self._session.in_background(_give_back(taking))
            raise

    async def _end(self, lock: Lock, hold: Hold, *, quiet: bool) -> None:
        lock._left = True
        # Cancelled or not, the server is told; how long that may take is bounded by the hold.
        with anyio.CancelScope(shield=True):
            if lock.lost is None:
                lock._retained_until = 0.0
                try:
                    await hold.unlock()
                except LocklaneError as error:
                    lock._unconfirmed(error)
        if lock.lost is not None and not quiet:
            raise LockLost(lock.lost, lock.retained_for)


def _key(key: str | Key) -> Key:
    return key if isinstance(key, Key) else Key.parse(key)


async def _give_back(taking: asyncio.Task[Hold]) -> None:
    try:
        hold = await taking
        await hold.unlock()
    except LocklaneError:
        pass  # there is no lock, or its ten minutes will end it
    finally:
        taking.cancel()


def _clock() -> float:
    """Seconds that go on while the machine sleeps, as the server's ten minutes do."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
