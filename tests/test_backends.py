"""What keys let one verify; the real git-annex says what is right."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import GIT_ANNEX
from hypothesis import given
from hypothesis import strategies as st

from locklane_client.backends import Check, check, same_hash, secure, verifier
from locklane_client.key import Key

CalcKey = Callable[[str, Path], Key]

INSECURE = {"SHA1", "MD5", "XXH3"}
NOT_HERE = {"SKEIN256", "SKEIN512", "BLAKE2SP224"}
NO_HASH = {"WORM", "URL", "VURL", "GITBUNDLE", "GITMANIFEST", "X*"}


@pytest.fixture(scope="module")
def calckey(tmp_path_factory: pytest.TempPathFactory) -> CalcKey:
    """Asks git-annex for the key of a file."""
    home = tmp_path_factory.mktemp("home")
    env = {
        "PATH": f"{Path(GIT_ANNEX).parent}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(home),
        "LC_ALL": "C.UTF-8",
        "GIT_CONFIG_NOSYSTEM": "1",
    }

    def run(*command: str) -> str:
        return subprocess.run(command, cwd=home, env=env, check=True, stdout=-1, text=True).stdout

    run("git", "init", "-q")
    run("git", "-c", "user.name=x", "-c", "user.email=x@localhost", "annex", "init", "-q")
    return lambda backend, file: Key.parse(
        run("git", "annex", "calckey", f"--backend={backend}", str(file)).strip()
    )


def backends() -> list[str]:
    """All that the installed git-annex has."""
    version = subprocess.run([GIT_ANNEX, "version"], check=True, stdout=-1, text=True).stdout
    (line,) = (line for line in version.splitlines() if line.startswith("key/value backends:"))
    return line.partition(": ")[2].split()


HASHES = [backend for backend in backends() if backend not in NO_HASH]
SIZES = (0, 1, 127, 128, 129, 511, 512, 513, 1536, 1_000_003, 2_097_152)
"""Around the blocks and stripes of the parallel hashes, and over what they take at once."""


def feed(key: Key, content: bytes, step: int) -> bool:
    verifying = verifier(key)
    assert verifying is not None
    for begin in range(0, len(content), step):
        verifying.update(memoryview(content)[begin : begin + step])
    assert verifying.matches() == verifying.matches()
    return verifying.matches()


@pytest.mark.parametrize("backend", HASHES)
def test_every_hash_of_git_annex_is_verified_or_said_not_to_be(
    calckey: CalcKey, tmp_path: Path, backend: str
) -> None:
    family = backend.removesuffix("E")
    for size in SIZES:
        content = os.urandom(size)
        (tmp_path / "file.tar.gz").write_bytes(content)
        key = calckey(backend, tmp_path / "file.tar.gz")
        assert key.backend == backend
        assert key.name.endswith(".tar.gz") == backend.endswith("E")
        assert secure(key) == (family not in INSECURE)
        if family in NOT_HERE:
            assert check(key) is Check.CALCKEY
            assert verifier(key) is None
            plain = calckey(family, tmp_path / "file.tar.gz")
            assert same_hash(key, plain.name)
            assert not same_hash(key, plain.name[:-1])
            continue
        assert check(key) is Check.HERE
        for step in (1 << 30, 1000, 64) if size < 10_000 else (1 << 30, 70_001):
            assert feed(key, content, step)
            assert not feed(key, content + b"x", step)
            if size:
                assert not feed(key, content[:-1], step)
                assert not feed(key, content[:-1] + bytes([content[-1] ^ 1]), step)


SHA256_EMPTY = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


@pytest.mark.parametrize(
    ("text", "here", "is_secure"),
    [
        ("WORM-s3-m1--name", Check.SIZE, False),
        ("URL--http&c%%example.org", Check.SIZE, False),
        ("VURL--http&c%%example.org", Check.PERHAPS, False),
        ("XFOO-s3--abc", Check.PERHAPS, False),
        ("XFOOE-s3--abc.txt", Check.PERHAPS, False),
        ("NEW-s3--abc", Check.SIZE, False),
        ("SHA256EE-s0--" + SHA256_EMPTY, Check.SIZE, False),
        ("sha256-s0--" + SHA256_EMPTY, Check.SIZE, False),
        ("SHA2-s0--" + SHA256_EMPTY, Check.SIZE, False),
        ("GITMANIFEST--8a6d2b4e-0000-4000-8000-00000000c11e", Check.SIZE, False),
        ("GITBUNDLE-s0--8a6d2b4e-0000-4000-8000-00000000c11e-" + SHA256_EMPTY, Check.HERE, True),
        ("GITBUNDLEE-s0--8a6d2b4e-" + SHA256_EMPTY, Check.SIZE, False),
        ("SKEIN512E-s0--ab.c", Check.CALCKEY, True),
    ],
)
def test_backends_that_are_no_plain_hash(text: str, here: Check, is_secure: bool) -> None:
    key = Key.parse(text)
    assert check(key) is here
    assert secure(key) is is_secure
    assert (verifier(key) is not None) == (here is Check.HERE)


@pytest.mark.parametrize(
    ("name", "matches"),
    [
        (SHA256_EMPTY, True),
        (SHA256_EMPTY + ".tar.gz", True),
        (SHA256_EMPTY + ".", True),
        ("\\" + SHA256_EMPTY, True),
        ("\\" + SHA256_EMPTY + ".e", True),
        ("\\\\" + SHA256_EMPTY, False),
        (SHA256_EMPTY.upper(), False),
        (SHA256_EMPTY[:-1], False),
        (SHA256_EMPTY + "0", False),
        ("." + SHA256_EMPTY[:63], False),
        (SHA256_EMPTY + "\udcff", False),
        (SHA256_EMPTY + ".\udcff", True),
    ],
)
@pytest.mark.parametrize("backend", ["SHA256", "SHA256E"])
def test_the_hash_in_a_name_ends_at_the_first_dot(backend: str, name: str, matches: bool) -> None:
    verifying = verifier(Key.parse(f"{backend}-s0--{name}"))
    assert verifying is not None
    assert verifying.matches() is matches


def test_a_bundles_hash_is_behind_the_last_hyphen() -> None:
    verifying = verifier(Key.parse(f"GITBUNDLE--{SHA256_EMPTY}-{SHA256_EMPTY}"))
    assert verifying is not None
    assert verifying.matches()
    verifying.update(b"x")
    assert not verifying.matches()


@given(data=st.data())
def test_the_parallel_hashes_do_not_care_how_content_is_cut(data: st.DataObject) -> None:
    content = data.draw(st.binary(max_size=3000))
    for backend in ("BLAKE2BP512", "BLAKE2SP256"):
        whole = verifier(Key.parse(f"{backend}--x"))
        pieces = verifier(Key.parse(f"{backend}--x"))
        assert whole is not None
        assert pieces is not None
        whole.update(content)
        rest = content
        while rest:
            cut = data.draw(st.integers(1, len(rest)))
            pieces.update(bytearray(rest[:cut]))
            rest = rest[cut:]
        assert pieces._hash.hexdigest() == whole._hash.hexdigest()
