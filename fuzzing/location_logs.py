"""Location logs of git-annex, which other clones write, too."""

from __future__ import annotations

from fractions import Fraction

from locklane_server.repository.annex import locationlog

PIECES = (
    *(b"1795333951s 1 ", b"1795333951.736694411s 0 ", b"1s X ", b"-5.5s 1 ", b"+1 0 ", b"0s 1 "),
    *(b"uuid", b"8a6d2b4e-0000-4000-8000-00000000c11e", b"\n", b"\r", b"\r\n", b" ", b"s", b"."),
    *(b"1", b"0", b"X", b"-", b"2s 2 ", b"9" * 5000, b"9" * 30 + b"s 1 ", b"\xff", b"\0"),
    *(b"1.", b".5s 1 ", b"1." + b"0" * 40 + b"1s 1 "),
)
UUID = b"uuid"


def parse(data: bytes) -> None:
    locationlog.changed(data, UUID, present=True, now=0)


def check(data: bytes) -> None:
    log = locationlog.parse(data)
    newest: dict[bytes, tuple[Fraction, bytes]] = {}
    for line in data.replace(b"\r", b"\n").split(b"\n"):
        read = _line(line)
        if read is None:
            continue
        time, status, uuid = read
        if uuid not in newest or newest[uuid][0] < time:
            newest[uuid] = time, status
    assert {uuid: (line.time, line.status) for uuid, line in log.items()} == newest
    for present in (True, False):
        status = b"1" if present else b"0"
        after = locationlog.changed(data, UUID, present=present, now=1795333951.5)
        if after is None:
            assert log[UUID].status == status
            continue
        again = locationlog.parse(after)
        assert again[UUID].status == status
        assert UUID not in log or again[UUID].time > log[UUID].time
        assert {**again, UUID: None} == {**log, UUID: None}  # nobody else's line is lost
        assert after.count(b"\n") == len(again)
        assert locationlog.changed(after, UUID, present=present, now=0) is None


def _line(line: bytes) -> tuple[int, bytes, bytes] | None:
    """The same by hand: picoseconds, status, UUID."""
    time, _, rest = line.partition(b" ")
    status, blank, uuid = rest[:1], rest[1:2], rest[2:]
    if status not in (b"0", b"1", b"X") or blank != b" " or status == b"":
        return None
    number = time.removesuffix(b"s")
    unsigned = number[1:] if number[:1] in (b"+", b"-") else number
    whole, dot, fraction = unsigned.partition(b".")
    if not whole.isdigit() or (dot and not fraction.isdigit()):
        return None
    if len(whole) > locationlog.MAX_DIGITS:
        return None
    # As git-annex has it, -0.5 is 0.5.
    sign = -1 if number[:1] == b"-" and whole.strip(b"0") else 1
    return sign * int(whole + fraction[:12].ljust(12, b"0")), status, uuid
