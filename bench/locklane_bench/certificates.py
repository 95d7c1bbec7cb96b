"""Certificates for what speaks TLS in a comparison: an authority that only the benchmark trusts."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

import trustme

NAMES = ("localhost", "127.0.0.1")
"""Whom the certificate is of."""


@dataclass(frozen=True, slots=True)
class Certificates:
    """An authority, and a certificate by it for :data:`NAMES`. Make it with :meth:`make`."""

    authority: Path
    """The authority's own certificate (PEM): what a client has to trust."""
    chain: Path
    """The server's certificate, and those between it and the authority if there are any (PEM)."""
    key: Path
    """The server's private key (PEM), which only this user may read."""

    @classmethod
    def make(cls, directory: Path) -> Certificates:
        """New ones, in a directory that exists."""
        authority = trustme.CA()
        certificate = authority.issue_cert(*NAMES)
        made = cls(directory / "authority.pem", directory / "chain.pem", directory / "key.pem")
        made.authority.write_bytes(authority.cert_pem.bytes())
        made.chain.write_bytes(b"".join(each.bytes() for each in certificate.cert_chain_pems))
        made.key.touch(mode=0o600)
        made.key.write_bytes(certificate.private_key_pem.bytes())
        return made

    def trusting(self) -> ssl.SSLContext:
        """For a client: trusts the authority, besides nobody."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(cafile=self.authority)
        return context
