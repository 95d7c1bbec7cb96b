"""Retention files (``KEYFILE.rtm``), which git-annex writes, too."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation

from locklane_server.repository.annex import retentionfiles

PIECES = (
    *(b"1795333951.736694411s", b"1795333951.73s", b"1795333951s", b"1795333951", b"s", b".", b"-"),
    *(b" ", b"\n", b"0", b"9", b"9" * 15, b"9" * 16, b"1e5", b"inf", b"nan", b"\0", b"\xff", b"_"),
)


def parse(data: bytes) -> None:
    retentionfiles.parse(data)


def check(data: bytes) -> None:
    time = retentionfiles.parse(data)
    text = data.strip(b" \t\n\r\x0b\x0c").removesuffix(b"s")
    if time is None:
        # Whatever git-annex or we would write is understood.
        assert not (text.replace(b".", b"", 1).isdigit() and len(text) < 15 and text[0] != 46)
        return
    try:
        exactly = Decimal(text.decode("ascii"))
    except InvalidOperation:
        raise AssertionError(f"{data!r} is no time") from None
    assert abs(Decimal(time) - exactly) < Decimal("0.5")
    if abs(time) < 1e12:
        assert retentionfiles.parse(b"%.2fs" % retentionfiles.rounded_down(time)) is not None
