"""What is no HTTP at all: it is answered, and a stranger who sends it fills no log."""

from __future__ import annotations

import pytest
from conftest import Serve
from rawhttp import leaves_nothing_open, request, wire
from test_conformance_input import complaints

from locklane_client import Key

HEAD = "POST /git-annex/ HTTP/1.1\r\nHost: h\r\n"

GARBAGE = {
    "a header that does not end": f"{HEAD}X: {'y' * 20_000}".encode(),
    "a line that is no header": f"{HEAD}what is this?\r\n\r\n".encode(),
    "a negative chunk": f"{HEAD}Transfer-Encoding: chunked\r\n\r\n-5\r\nabc".encode(),
    "two lengths": f"{HEAD}Content-Length: 5\r\nContent-Length: 6\r\n\r\n".encode(),
    "no version": b"GET / HTP\r\n\r\n",
    "no method": b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03",
}


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE.keys())
@pytest.mark.parametrize("first", [True, False], ids=["at once", "after a request"])
async def test_garbage_is_answered_400_and_is_no_error_in_the_log(
    serve: Serve, key: Key, garbage: bytes, first: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async with serve() as there, leaves_nothing_open(there), wire(there) as connection:
        if not first:
            connection.head("POST", request("checkpresent", key), length=0)
            assert (await connection.answer()).body == b'{"present":true}'
        await connection.send(garbage)
        assert (await connection.end()).startswith(b"HTTP/1.0 400 ")
    assert complaints(caplog) == []
