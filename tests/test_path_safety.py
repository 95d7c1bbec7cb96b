"""No key, file name, UUID or lock id, however it is spelled, reaches outside the repository.

A real server is asked for everything, with names that would lead out of it if they were ever taken
for a path. What lies around the repository is watched: nobody opens, reads, makes or changes
anything there, and nothing of it comes back. Within, only what is git-annex's changes.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Iterator
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import quote_from_bytes

import pytest
from conftest import BOUND, SOMEBODY, ServerProcess
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kinds import both, kind_of
from watching import Watch, watching
from websockets.sync.client import connect

from locklane_client import Key
from locklane_client.address import Address

pytestmark = both

SECRET = b"what lies beside a repository is nobody's business"
NAME = "WORM-s50--secret"
"""Of a file outside; it is that of a key, so that it could be taken for content."""

DEPTHS = range(1, 10)
"""Of the directories that keys, partial uploads and transfers lie in, and some more."""


def names(outside: Path) -> list[bytes]:
    """What leads out of a repository, if it is taken for a path, in any of many ways."""
    up = [b"../" * depth for depth in DEPTHS]
    return [
        *(each + NAME.encode() for each in up),
        *(each + b"outside/" + NAME.encode() for each in up[::3]),
        *(each.replace(b"/", b"\\") + NAME.encode() for each in up[2:4]),
        *(each.replace(b"../", b"....//") + NAME.encode() for each in up[2:4]),
        *(each.replace(b"../", b"%2e%2e%2f") + NAME.encode() for each in up[3:6]),
        *(each.replace(b"../", b"\xc0\xae\xc0\xae\xc0\xaf") + NAME.encode() for each in up[3:6]),
        *(b"a/" + each + b"b" for each in up[3:6]),
        bytes(outside / NAME),
        b"//" + bytes(outside / NAME),
        b"file://" + bytes(outside / NAME),
        bytes(outside / NAME) + b"\0.txt",
        b"../" * 5 + NAME.encode() + b"\0",
        *(b"", b".", b"..", b"/", b"../", b"/..", b"~", b"\0", b"\n../x", b"-rf", b"--help"),
        *(b"&a%&s&c", b"..%..%..%x", b"..&c..", b"lck", b"[Li4v]", b"lck/../../..", b"\xff/../x"),
    ]


def spellings(name: bytes) -> Iterator[str]:
    """A name as a part of a URL, in every way that a server might undo once too often."""
    yield quote_from_bytes(name, safe="")
    yield f"%5B{base64.urlsafe_b64encode(name).decode()}%5D"
    yield quote_from_bytes(name, safe="/.")
    yield quote_from_bytes(quote_from_bytes(name, safe="").encode(), safe="")
    yield "".join(f"%{byte:02x}" for byte in name)


class Asker:
    """Asks one server for everything, over one connection; what comes back is looked at."""

    def __init__(self, url: str, key: Key) -> None:
        self._address = Address.parse(url)
        self._http = HTTPConnection(self._address.host, self._address.port, timeout=BOUND)
        self._base = f"/git-annex/{self._address.uuid}"
        self._key = key.text
        self.asked = 0

    def close(self) -> None:
        self._http.close()

    def ask(self, method: str, path: str, body: bytes = b"", **headers: str) -> tuple[int, bytes]:
        self.asked += 1
        lengths = {"X-git-annex-data-length": str(len(body)), "Content-Length": str(len(body))}
        self._http.request(method, path, body, {**lengths, **headers})
        answer = self._http.getresponse()
        content = answer.read()
        assert answer.status < 500, (method, path, content)
        assert SECRET not in content, (method, path)
        return answer.status, content

    def all_about(self, name: bytes) -> None:
        """In the place of every parameter of every request."""
        for spelled in spellings(name):
            self._as_uuid(spelled)
            self._as_client(spelled)
            self._as_key(spelled)
        plainly, bracketed, *_ = spellings(name)
        self._as_lock(plainly)
        self._as_lock(bracketed)
        for spelled in list(spellings(b"WORM-s7--" + name))[:3]:
            self._as_key(spelled)
        self._as_key(f"{plainly}--x")

    def _as_uuid(self, uuid: str) -> None:
        rest = f"key={self._key}&clientuuid={SOMEBODY}"
        for request in (f"key/{self._key}", f"v4/key/{self._key}"):
            status, _ = self.ask("GET", f"/git-annex/{uuid}/{request}")
            assert status in (400, 404)
        for request in ("lockcontent", "remove"):
            status, _ = self.ask("POST", f"/git-annex/{uuid}/v4/{request}?{rest}")
            assert status in (400, 404)
        self.ask("GET", f"{self._base}/v4/{uuid}?{rest}")
        self.ask("GET", f"{self._base}/{uuid}/checkpresent?{rest}")

    def _as_lock(self, lock: str) -> None:
        for method in ("GET", "POST"):
            path = f"{self._base}/v4/keeplocked?lockid={lock}&clientuuid={SOMEBODY}"
            status, content = self.ask(method, path, b'{"unlock":true}' * (method == "POST"))
            assert status == 400 or json.loads(content)["locked"] is False

    def _as_client(self, name: str) -> None:
        """Of the client, whose UUID becomes that of a directory, and of a file; the content is not
        that of the key, so that nothing is stored."""
        key = "SHA256-s7--" + "0" * 64
        for more in (f"clientuuid={name}", f"clientuuid=u&associatedfile={name}"):
            status, _ = self.ask("POST", f"{self._base}/v4/put?key={key}&{more}", b"content")
            assert status in (400, 422)
        status, content = self.ask(
            "POST", f"{self._base}/v4/checkpresent?key={key}&clientuuid={name}&bypass={name}"
        )
        assert status == 400 or json.loads(content) == {"present": False}

    def _as_key(self, key: str) -> None:
        about = f"?key={key}&clientuuid={SOMEBODY}"
        for place in ("", "/v4"):
            status, _ = self.ask("GET", f"{self._base}{place}/key/{key}")
            assert status in (400, 404), key
        nothing = {
            "checkpresent": {"present": False},
            "lockcontent": {"locked": False, "reason": "the content is not present"},
            "lockhold": {"locked": False, "reason": "the content is not present"},
            "putoffset": {"offset": 0},
        }
        if status == 400:  # then nothing else is done with it
            del nothing["lockhold"], nothing["putoffset"]
        for request, expected in nothing.items():
            status, content = self.ask("POST", f"{self._base}/v4/{request}{about}")
            assert status == 400 or json.loads(content) == expected, (request, key, content)
        # What is a key, however it looks, can be stored, and nowhere but where keys are.
        status, content = self.ask("POST", f"{self._base}/v4/put{about}", b"content")
        assert status in (200, 400, 422), content
        if status == 200:
            assert self.ask("GET", f"{self._base}/key/{key}") == (200, b"content")
            _, content = self.ask("POST", f"{self._base}/v4/lockcontent{about}")
            lock = json.loads(content)["lockid"]
            unlock = f"{self._base}/v4/keeplocked?lockid={lock}&clientuuid={SOMEBODY}"
            self.ask("POST", unlock, b'{"unlock":true}')
        for request in ("remove", "remove-before"):
            status, content = self.ask("POST", f"{self._base}/v4/{request}{about}&timestamp=9")
            assert status in (200, 400), content

    def over_websockets(self, every: list[bytes]) -> None:
        """Those that are a key's, by websockets and in messages."""
        base = self._address.websocket_base + self._address.uuid
        keys = [b"WORM--" + name for name in every if _is_key(b"WORM--" + name)]
        with connect(f"{base}/v4/locks?clientuuid=..%2F..") as socket:
            for number, key in enumerate(keys):
                bracketed = f"[{base64.urlsafe_b64encode(key).decode()}]"
                socket.send(json.dumps({"id": number, "lock": bracketed}))
                answer = json.loads(socket.recv(BOUND))
                assert answer["reason"] == "the content is not present"
        for key in keys:
            about = f"key={quote_from_bytes(key, safe='')}&clientuuid=..%2F.."
            with connect(f"{base}/v4/lockcontent?{about}") as socket:
                answer = json.loads(socket.recv(BOUND))
                assert answer["reason"] == "the content is not present"


def _is_key(key: bytes) -> bool:
    try:
        Key.parse(key.decode("utf-8", "surrogateescape"))
    except ValueError:
        return False
    return True


@pytest.fixture
def outside(tmp_path: Path, store: Path) -> Path:
    """What lies around the repository."""
    for directory in (tmp_path, tmp_path / "outside", tmp_path / "outside" / NAME):
        directory.mkdir(exist_ok=True)
        if directory.name != NAME:
            (directory / "secret").write_bytes(SECRET)
    (tmp_path / NAME).write_bytes(SECRET)
    (tmp_path / "outside" / NAME / NAME).write_bytes(SECRET)
    return tmp_path


def listing(top: Path, leave_out: str) -> dict[str, tuple[int, bytes]]:
    """All files below a directory, with their modes and content, but those whose path matches."""
    found = {}
    for path in top.rglob("*"):
        name = str(path.relative_to(top))
        if path.is_file() and not re.match(leave_out, name):
            found[name] = path.stat().st_mode, path.read_bytes()
    return found


GIT_ANNEXES = r"\.git/(annex|objects|logs/refs|refs)(/|$)|\.git/(index|packed-refs)$"
"""What git-annex changes in a repository."""

OURS = r"\.locklane/(?!uuid$)"
"""What a store has besides its content."""


@pytest.fixture
def everything_stays(
    outside: Path, store: Path, server_process: Callable[..., ServerProcess], keys: list[Key]
) -> Iterator[tuple[Asker, Watch]]:
    """A server, asked for anything; afterwards nothing has been touched that is no business of
    it, and its content is as it was."""
    around = listing(outside, "store/")
    inside = listing(store, GIT_ANNEXES if kind_of(store) == "annex" else OURS)
    server = server_process()
    asker = Asker(server.url, keys[0])
    with closing(asker), watching(outside, leave_out=store) as watch:
        yield asker, watch
        assert watch.seen() == set()
        server.terminate()
        assert server.wait() == 0
        assert watch.seen() == set()
    assert "Traceback" not in server.output, server.output
    assert listing(outside, "store/") == around
    assert listing(store, GIT_ANNEXES if kind_of(store) == "annex" else OURS) == inside
    for client in (store / ".git/annex/transfer/download").glob("*"):
        assert re.fullmatch(r"lck|unknown|[\w.-]+", client.name)
        assert not any(path.is_dir() for path in client.iterdir())


def test_no_name_made_for_it_leads_out_of_a_repository(
    everything_stays: tuple[Asker, Watch], outside: Path
) -> None:
    asker, watch = everything_stays
    for name in names(outside):
        asker.all_about(name)
        assert watch.seen() == set(), name
    asker.over_websockets(names(outside))
    assert asker.asked > 1000


PIECES = (
    *(b"..", b"/", b"../", b"\\", b".", b"%", b"%2e", b"%2f", b"%252e", b"&", b":", b"\0", b"\n"),
    *(
        b"[",
        b"]",
        b"~",
        b"-",
        b"--",
        b"\xc0\xae",
        b"\xff",
        b"outside",
        NAME.encode(),
        b"store",
        b" ",
    ),
    *(b".git", b".locklane", b"config", b"hooks", b"lck", b"#", b"?", b"=", b"+", b";", b"\r\n"),
)


def test_no_name_that_chance_makes_leads_out_of_a_repository(
    everything_stays: tuple[Asker, Watch],
) -> None:
    asker, watch = everything_stays

    @settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(st.sampled_from(PIECES), max_size=8).map(b"".join))
    def tries(name: bytes) -> None:
        asker.all_about(name)
        assert watch.seen() == set()

    tries()


@pytest.mark.kinds("directory")
def test_the_watch_sees_whatever_is_done_outside(outside: Path, store: Path) -> None:
    secret, made = outside / "outside" / "secret", outside / "made"
    with watching(outside, leave_out=store) as watch:
        (store / "inside").write_bytes(b"")
        assert watch.seen() == set()
        secret.read_bytes()
        assert watch.seen() == {secret}
        made.mkdir()
        assert watch.seen() == {made}
        store.rename(outside / "moved")
        assert store in watch.seen()
