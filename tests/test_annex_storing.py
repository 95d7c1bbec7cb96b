"""What is stored in a git-annex repository, and where: every backend, keys of any bytes, both
layouts; and the settings that say what may be stored at all."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from annexes import Annex, Serving, annex, either, home, locklane, own
from annexwire import Api
from conftest import eventually, key_of

from locklane_client.key import Key

__all__ = ["annex", "either", "home", "locklane"]

CONTENT = b"some content\n" * 1000
WRONG = b"other things\n" * 1000

BACKENDS = (
    *("SHA256E", "SHA1", "SHA512E", "MD5E", "SHA3_256E", "SKEIN256E", "SKEIN512", "BLAKE2B160"),
    *("BLAKE2BP512E", "BLAKE2SP224E", "BLAKE2SP256", "BLAKE3_256E", "XXH3", "WORM"),
)


def key_in(annex: Annex, backend: str, content: bytes = CONTENT) -> Key:
    """The key that git-annex gives some content."""
    file = annex.home / "file.dat"
    file.write_bytes(content)
    own(file)
    return Key.parse(annex.annex("calckey", f"--backend={backend}", str(file)).strip())


def is_here(annex: Annex, api: Api, key: Key, content: bytes) -> None:
    """By our answers, where git-annex looks for it, and by its records."""
    assert api.present(key)
    for version in (0, 4):
        assert api.get(key, version=version) == (200, content)
    place = annex.annex("contentlocation", key.text).removesuffix("\n")
    assert (annex.directory / place).read_bytes() == content
    assert annex.attempt("git", "annex", "readpresentkey", key.text, annex.uuid).returncode == 0


def test_every_backend_is_verified_and_stored(annex: Annex, locklane: Serving) -> None:
    """By us or by git-annex: the right content only. WORM keys know their content by its size."""
    server = locklane(annex)
    keys = {backend: key_in(annex, backend) for backend in BACKENDS}
    for backend, key in keys.items():
        assert len(WRONG) == key.size
        status, answer = server.api.put(key, WRONG)
        if backend == "WORM":
            assert status == 200
            assert server.api.remove(key)["removed"]
        else:
            assert status == 422, (backend, answer)
            assert "hash" in answer["error"]
        assert key.file_name not in annex.objects()
        status, answer = server.api.put(key, CONTENT)
        assert status == 200, (backend, answer)
        is_here(annex, server.api, key, CONTENT)
        assert server.api.remove(key)["removed"]
        assert server.api.put(key, CONTENT[:1])[0] == 422
        annex.partial(key).unlink(missing_ok=True)
        assert server.api.put(key, CONTENT)[0] == 200
    server.terminate()
    assert server.wait() == 0
    assert annex.recorded() == {key.text for key in keys.values()}
    annex.fsck()


STRANGE = [
    "WORM-s{size}-m1--a b+c&d%e:f",
    "WORM-s{size}--[x]",
    "WORM-s{size}--ä€\U0001f600",
    "WORM-s{size}--\udcff\udcfe",
    "WORM-s{size}--'\"<>\\?#;=*$`",
    "WORM-s{size}--a/b/../../c",
    "WORM-s{size}--a_b__c",
    "WORM-s{size}---dashed--",
    "WORM-s{size}--\x1b[0m",
    "URL-s{size}--http&c%%example.com%?a=b&amp;c",
    "URL--http://example.com/a%20b",
]


def test_keys_of_any_bytes_lie_where_git_annex_looks_for_them(
    either: Annex, locklane: Serving
) -> None:
    """Put, look, get, lock, remove, by names that have to be quoted in URLs and in file names."""
    server = locklane(either)
    keys = [Key.parse(name.format(size=len(CONTENT))) for name in STRANGE]
    for key in keys:
        status, answer = server.api.put(key, CONTENT, associatedfile=f"[dir]/{key.name}\udc80")
        assert status == 200, answer
        is_here(either, server.api, key, CONTENT)
        server.api.unlock(server.api.lock(key))
        assert server.api.post("putoffset", key=key)[1]["alreadyhave"]
    either.fsck()
    for key in keys[::2]:
        assert server.api.remove(key)["removed"]
    server.terminate()
    assert server.wait() == 0
    assert either.objects() == {key.file_name for key in keys[1::2]}
    for number, key in enumerate(keys):
        done = either.attempt("git", "annex", "readpresentkey", key.text, either.uuid)
        assert done.returncode == (number % 2 == 0)


@pytest.mark.parametrize("name", ["WORM-s13000--a\nb", "WORM-s13000--" + 240 * "x"], ids=ascii)
def test_a_key_that_git_annex_cannot_record_is_refused_before_it_is_stored(
    annex: Annex, locklane: Serving, name: str
) -> None:
    """A line end in its name, or one that is too long for the journal."""
    server = locklane(annex)
    key = Key.parse(name)
    status, answer = server.api.put(key, CONTENT)
    assert status == 422
    assert "git-annex" in answer["error"]
    assert not annex.objects()
    assert not annex.transfers()
    server.terminate()
    assert server.wait() == 0
    annex.fsck()


# -- where it lies ---------------------------------------------------------------------------------


def test_new_content_goes_where_the_kind_of_repository_has_it(
    either: Annex, locklane: Serving
) -> None:
    """Mixed case with a work tree, lower case in a bare repository."""
    api = locklane(either).api
    key = key_of(CONTENT, ".dat")
    assert api.put(key, CONTENT)[0] == 200
    bare = either.git_directory == either.directory
    assert either.object(key, mixed=not bare).is_file()
    assert not either.object(key, mixed=bare).exists()


async def test_content_is_found_in_either_layout(either: Annex, locklane: Serving) -> None:
    """A repository that was bare once, or is now: look, get, lock and remove, beside git-annex."""
    server = locklane(either)
    for number, mixed in enumerate((True, False)):
        content = b"%d" % number
        key = key_of(content, ".dat")
        assert server.api.put(key, content)[0] == 200
        _move(either.object(key), either.object(key, mixed=mixed))
        assert server.api.present(key)
        assert server.api.get(key) == (200, content)
        assert server.api.post("putoffset", key=key)[1]["alreadyhave"]
        assert server.api.put(key, content)[0] == 200
        assert len(either.objects()) == 1
        lock_id = server.api.lock(key)
        assert not server.api.remove(key)["removed"]
        done = either.drop(key)
        assert done.returncode == 1
        assert "content is locked" in done.stdout + done.stderr
        server.api.unlock(lock_id)
        await eventually(lambda: len(either.objects()) == 1)
        assert server.api.remove(key)["removed"]
        assert not either.objects()
        assert not server.api.present(key)
    server.terminate()
    assert server.wait() == 0
    assert either.recorded() == set()


def _move(old: Path, new: Path) -> None:
    if old == new:
        return
    for directory in reversed(new.parent.parents):
        if not directory.exists():
            directory.mkdir()
            own(directory)
    old.parent.chmod(0o755)
    shutil.move(old.parent, new.parent)
    new.parent.chmod(0o555)


# -- what is there already -------------------------------------------------------------------------


def test_what_is_there_is_not_stored_again(annex: Annex, locklane: Serving) -> None:
    """Whatever comes; and "data-present" is believed only where it is true."""
    key = annex.add(CONTENT)
    absent = key_of(WRONG)
    server = locklane(annex)
    before = annex.object(key).stat()
    assert server.api.put(key, CONTENT) == (200, {"stored": True, "plusuuids": []})
    assert server.api.put(key, WRONG)[0] == 200
    status, answer = server.api.put(key, b"", data_present="true")
    assert (status, answer["stored"]) == (200, True)
    status, answer = server.api.put(absent, b"", data_present="true")
    assert (status, answer["stored"]) == (200, False)
    after = annex.object(key).stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert annex.objects() == {key.file_name}


def test_content_that_came_another_way_is_recorded_when_that_is_said(
    annex: Annex, locklane: Serving
) -> None:
    """``data-present`` is how content that was put there past the server gets known."""
    key = annex.add(CONTENT)
    annex.annex("setpresentkey", key.text, annex.uuid, "0")
    server = locklane(annex)
    assert annex.recorded() == set()
    assert server.api.put(key, b"", data_present="true")[0] == 200
    assert annex.recorded() == {key.text}


# -- settings --------------------------------------------------------------------------------------


def test_a_disk_that_has_to_be_kept_free_is_413(annex: Annex, locklane: Serving) -> None:
    """With a sentence that names the setting; nothing is left behind."""
    annex.configure(annex_diskreserve="1000 terabytes")
    api = locklane(annex).api
    key = key_of(CONTENT)
    status, answer = api.put(key, CONTENT)
    assert status == 413
    assert "annex.diskreserve" in answer["error"]
    assert not api.present(key)
    assert not annex.partial(key).exists()
    assert not annex.transfers()


@pytest.mark.parametrize("backend", ["MD5", "MD5E", "SHA1", "WORM", "URL", "XXH3"])
def test_keys_without_a_secure_hash_are_kept_out_where_that_is_set(
    annex: Annex, locklane: Serving, backend: str
) -> None:
    """``annex.securehashesonly`` is 422, as git-annex refuses it."""
    annex.configure(annex_securehashesonly="true")
    key = Key.parse("URL-s13000--x") if backend == "URL" else key_in(annex, backend)
    api = locklane(annex).api
    status, answer = api.put(key, CONTENT)
    assert status == 422
    assert "annex.securehashesonly" in answer["error"]
    with annex.p2phttp() as url:
        theirs = Api(url)
        target = theirs.target("put", key=key)
        length = str(len(CONTENT))
        status, body, _ = theirs.request("POST", target, CONTENT, X_git_annex_data_length=length)
        assert status != 200 or b"true" not in body
    assert not annex.objects()
    assert api.put(key_in(annex, "SHA256E"), CONTENT)[0] == 200


def test_without_annex_verify_content_is_taken_as_it_comes(annex: Annex, locklane: Serving) -> None:
    """As git-annex does; its size still has to be right, and a resumed upload is verified."""
    annex.configure(annex_verify="false")
    api = locklane(annex).api
    key = key_of(CONTENT)
    with annex.p2phttp() as url:
        assert Api(url).put(key, WRONG)[0] == 200
    assert annex.drop(key).returncode == 0
    assert api.put(key, WRONG[:-1])[0] == 422
    assert not annex.objects()
    annex.partial(key).unlink(missing_ok=True)
    annex.leave_partial(key, WRONG[:10])
    assert api.put(key, WRONG[10:], offset=10)[0] == 422
    assert not annex.objects()
    assert api.put(key, WRONG)[0] == 200
    assert api.get(key) == (200, WRONG)


def test_a_private_repository_is_not_told_of(annex: Annex, locklane: Serving) -> None:
    """With ``annex.private`` nothing about it gets to the branch."""
    annex.configure(annex_private="true")
    server = locklane(annex)
    key = key_of(CONTENT, ".dat")
    assert server.api.put(key, CONTENT)[0] == 200
    server.terminate()
    assert server.wait() == 0
    assert annex.recorded() == {key.text}
    assert key.file_name not in annex.git("ls-tree", "-r", "--name-only", "git-annex")


def test_a_hook_of_git_annexs_is_run(annex: Annex, locklane: Serving) -> None:
    """``annex.freezecontent-command`` sees what comes, ``annex.thawcontent-command`` what goes."""
    seen = annex.home / "seen"
    annex.git("config", "annex.freezecontent-command", f"echo freeze %path >> {seen}")
    annex.git("config", "annex.thawcontent-command", f"echo thaw %path >> {seen}")
    server = locklane(annex)
    key = key_of(CONTENT, ".dat")
    assert server.api.put(key, CONTENT)[0] == 200
    is_here(annex, server.api, key, CONTENT)
    assert f"freeze {_relative(annex, key)}" in seen.read_text()
    assert server.api.remove(key)["removed"]
    assert "thaw" in seen.read_text()
    assert not annex.objects()
    server.terminate()
    assert server.wait() == 0
    assert annex.recorded() == set()


def _relative(annex: Annex, key: Key) -> str:
    return os.fspath(annex.object(key).relative_to(annex.directory))


def test_the_trash_bin_gets_what_is_removed(annex: Annex, locklane: Serving) -> None:
    """``annex.trashbin`` names a remote that keeps what is dropped."""
    bin_ = annex.home / "bin"
    bin_.mkdir()
    own(bin_)
    annex.annex("initremote", "-q", "bin", "type=directory", f"directory={bin_}", "encryption=none")
    annex.configure(annex_trashbin="bin")
    key = annex.add(CONTENT)
    server = locklane(annex)
    assert server.api.remove(key)["removed"]
    assert not annex.objects()
    uuid = json.loads(annex.annex("info", "--json", "--fast", "bin"))["uuid"]
    assert annex.whereis(key) == {uuid}
