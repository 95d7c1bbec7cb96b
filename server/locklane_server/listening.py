"""The socket that a server listens on, and the certificate that it shows there."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import ssl
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

BACKLOG = 4096
"""Connections that may wait to be accepted; the kernel's net.core.somaxconn bounds it too."""

SOCKET_MODE = 0o600
"""Who may use a unix socket, unless told otherwise: the server's own user."""

_KEEPALIVE = ((socket.TCP_KEEPIDLE, 60), (socket.TCP_KEEPINTVL, 15), (socket.TCP_KEEPCNT, 4))
"""A peer that does not answer for 60 + 4 × 15 s is gone (tcp(7))."""


class ListenError(OSError):
    """The address cannot be listened on."""


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens on an address; port 0 takes a free one.

    :raises ListenError: it cannot be.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise ListenError(error.errno, error.strerror or str(error)) from error
    # Accepted sockets inherit these.
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _KEEPALIVE:
        listening.setsockopt(socket.IPPROTO_TCP, option, value)
    return listening


def listen_unix(path: Path, mode: int = SOCKET_MODE) -> socket.socket:
    """A unix socket that listens. One that a killed server has left there is replaced.

    :raises ListenError: something else is there, or another server listens.
    """
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with _alone(path.parent):
            _clear_away(path)
            os.fchmod(listening.fileno(), mode)  # from the first moment, less the umask
            listening.bind(os.fspath(path))
            path.chmod(mode)
            listening.listen(BACKLOG)
    except OSError as error:
        listening.close()
        raise ListenError(error.errno, error.strerror or str(error)) from error
    return listening


@contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """No other server looks for its socket there."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _clear_away(path: Path) -> None:
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise OSError(errno.EEXIST, "there is a file of that name, which is no socket")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
        try:
            asking.connect(os.fspath(path))
        except ConnectionRefusedError:  # nobody listens any more
            with suppress(FileNotFoundError):
                path.unlink()
        else:
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))


def tls_context(chain: Path, key: Path) -> ssl.SSLContext:
    """What a server needs to speak TLS 1.2 or 1.3.

    :param chain: PEM file of the certificate, and of those between it and the authority.
    :param key: PEM file of its private key, without a password.
    :raises ValueError: they cannot be used; the text says why.
    """
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        # A password would be asked for on the terminal.
        context.load_cert_chain(chain, key, password=lambda: "")
    except OSError as error:
        why = _why(error) if isinstance(error, ssl.SSLError) else error.strerror or error
        raise ValueError(
            f"{chain} and {key} cannot be used as certificate and private key: {why}"
        ) from error
    return context


def check_certificate(file: Path) -> None:
    """See that there is one in a file.

    :raises ValueError: there is none.
    """
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=file)
    except OSError as error:  # ssl.SSLError is one
        raise ValueError(f"there is no certificate (PEM) in {file}") from error


def _why(error: ssl.SSLError) -> str:
    """OpenSSL's reason, in words where it has none."""
    if error.reason == "KEY_VALUES_MISMATCH":
        return "the key is not that of the certificate"
    if error.reason in (None, "NO_START_LINE", "PEM_LIB", "BAD_DECRYPT", "BAD_PASSWORD_READ"):
        return "one of them is no PEM file, holds something else, or wants a password"
    return error.reason.replace("_", " ").lower()
