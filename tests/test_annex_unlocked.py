"""Files of the work tree that are checked out unlocked: they get the content that is put, become
pointers when it is removed, and where they are one with the object (``annex.thin``), an edit takes
the object with it."""

from __future__ import annotations

import stat

import pytest
from annexes import Annex, Serving, annex, home, locklane
from annexwire import Api

from locklane_client.key import Key

__all__ = ["annex", "home", "locklane"]

CONTENT = b"content of an unlocked file\n" * 300


def unlocked(annex: Annex, how: str, name: str = "file.dat") -> Key:
    """A file with its content here, unlocked in one of the ways there are."""
    if how == "thin":
        annex.configure(annex_thin="true")
    key = annex.add(CONTENT, name)
    if how == "adjusted":
        annex.annex("adjust", "-q", "--unlock")
    else:
        annex.annex("unlock", "-q", name)
        annex.git("commit", "-q", "-m", "unlocked")
    path = annex.directory / name
    assert path.read_bytes() == CONTENT
    assert not path.is_symlink()
    return key


def is_pointer(annex: Annex, key: Key, name: str = "file.dat") -> bool:
    content = (annex.directory / name).read_bytes()
    return content == f"/annex/objects/{key.file_name}\n".encode()


def is_clean(annex: Annex) -> bool:
    """git sees no change in the work tree."""
    return annex.git("status", "--porcelain") == ""


@pytest.mark.parametrize("how", ["unlocked", "adjusted", "thin"])
def test_an_unlocked_file_comes_and_goes_with_the_content(
    annex: Annex, locklane: Serving, how: str
) -> None:
    """Over and over; a file that nobody unlocked, of the same key, stays a symbolic link."""
    key = unlocked(annex, how)
    path = annex.directory / "file.dat"
    server = locklane(annex)
    for _ in range(2):
        assert server.api.remove(key)["removed"]
        assert not annex.objects()
        assert is_pointer(annex, key)
        assert is_clean(annex)
        status, answer = server.api.put(key, CONTENT)
        assert status == 200, answer
        assert path.read_bytes() == CONTENT
        assert stat.S_ISREG(path.lstat().st_mode)
        assert server.api.get(key) == (200, CONTENT)
        assert is_clean(annex)
        same_file = path.stat().st_ino == annex.object(key).stat().st_ino
        assert same_file == (how == "thin")
    server.terminate()
    assert server.wait() == 0
    assert annex.recorded() == {key.text}
    annex.fsck()


def test_git_annex_sees_our_lock_on_an_unlocked_file(annex: Annex, locklane: Serving) -> None:
    """And nothing becomes a pointer while it is held."""
    key = unlocked(annex, "unlocked")
    api = locklane(annex).api
    lock_id = api.lock(key)
    assert not api.remove(key)["removed"]
    done = annex.drop(key)
    assert done.returncode == 1
    assert "content is locked" in done.stdout + done.stderr
    assert (annex.directory / "file.dat").read_bytes() == CONTENT
    api.unlock(lock_id)
    assert api.remove(key)["removed"]
    assert is_pointer(annex, key)


def test_an_edited_copy_is_kept_when_the_content_is_removed(
    annex: Annex, locklane: Serving
) -> None:
    """The object goes, somebody's work stays."""
    key = unlocked(annex, "unlocked")
    (annex.directory / "file.dat").write_bytes(b"edited")
    api = locklane(annex).api
    assert api.get(key) == (200, CONTENT)
    assert api.remove(key)["removed"]
    assert not annex.objects()
    assert (annex.directory / "file.dat").read_bytes() == b"edited"
    assert api.put(key, CONTENT)[0] == 200
    assert (annex.directory / "file.dat").read_bytes() == b"edited"


EDITS = {"shorter": b"edited", "same size": CONTENT[:-1] + b"!"}


def edit_in_place(annex: Annex, key: Key, edit: bytes) -> None:
    """As some editors do, and the object with it."""
    path = annex.directory / "file.dat"
    with path.open("r+b") as file:
        file.truncate(len(edit))
        file.write(edit)
    assert path.stat().st_ino == annex.object(key).stat().st_ino, "not one file"


def not_here(api: Api, key: Key) -> None:
    """Not present, not downloaded, and above all not locked."""
    assert not api.present(key)
    assert api.get(key)[0] == 404
    status, answer = api.post("lockcontent", key=key)
    assert (status, answer["locked"]) == (200, False)


@pytest.mark.parametrize("then", ["left", "added", "deleted", "added and dropped", "unset"])
@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS.keys())
def test_an_edited_thin_file_is_not_the_content_any_more(
    annex: Annex, locklane: Serving, edit: bytes, then: str
) -> None:
    """Whatever becomes of the file in the work tree: git-annex may leave the object as it is, and
    make it read-only. An upload gets its place, and the edit is in the work tree, or kept."""
    key = unlocked(annex, "thin")
    if then == "unset":
        annex.git("config", "--unset", "annex.thin")
    server = locklane(annex)
    assert server.api.get(key) == (200, CONTENT)
    edit_in_place(annex, key, edit)
    path = annex.directory / "file.dat"
    if then.startswith("added"):
        annex.annex("add", "-q", "file.dat")
        annex.git("commit", "-q", "-m", "edited")
    if then == "added and dropped":
        annex.annex("drop", "-q", "--force", "file.dat")
    if then == "deleted":
        path.unlink()
    not_here(server.api, key)
    assert server.api.put(key, CONTENT)[0] == 200
    assert server.api.get(key) == (200, CONTENT)
    server.api.unlock(server.api.lock(key))
    if then == "deleted":
        assert (annex.git_directory / "annex/bad" / key.file_name).read_bytes() == edit
    elif then != "added and dropped":
        assert path.read_bytes() == edit
    server.terminate()
    assert server.wait() == 0
    assert key.text in annex.recorded()
    annex.know(key)
    if then != "added and dropped":  # of the edit there is no copy any more then
        annex.fsck()


def test_an_untouched_thin_file_is_locked_and_served(annex: Annex, locklane: Serving) -> None:
    """Though anybody could write to it."""
    key = unlocked(annex, "thin")
    assert annex.object(key).stat().st_mode & 0o200
    assert annex.object(key).stat().st_nlink == 2
    api = locklane(annex).api
    lock_id = api.lock(key)
    assert annex.drop(key).returncode == 1
    api.unlock(lock_id)
    assert api.get(key) == (200, CONTENT)
    (annex.directory / "file.dat").touch()
    assert api.present(key), "its time has changed, and its content has not"


def test_many_unlocked_files_of_one_key(annex: Annex, locklane: Serving) -> None:
    """Each gets the content, in whatever directory, under whatever name."""
    key = unlocked(annex, "unlocked")
    names = ["file.dat", "b c.dat", "ä.dat"]
    for name in names[1:]:
        annex.add(CONTENT, name)
        annex.annex("unlock", "-q", name)
        annex.git("commit", "-q", "-a", "-m", "more")
    annex.add(CONTENT, "locked.dat")
    server = locklane(annex)
    assert server.api.remove(key)["removed"]
    assert all(is_pointer(annex, key, name) for name in names)
    assert not (annex.directory / "locked.dat").exists()
    assert server.api.put(key, CONTENT)[0] == 200
    for name in (*names, "locked.dat"):
        assert (annex.directory / name).read_bytes() == CONTENT
    assert (annex.directory / "locked.dat").is_symlink()
    assert is_clean(annex)
    server.terminate()
    assert server.wait() == 0
    annex.fsck()
