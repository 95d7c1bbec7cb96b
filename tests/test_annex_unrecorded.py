"""A disk that lets content be stored, and not be recorded."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from conftest import key_of
from kinds import copy_annex, git

from locklane_server.repository import RepositoryError
from locklane_server.repository.annex.repository import AnnexRepository
from locklane_server.workers import Workers


async def test_what_the_disk_did_not_let_be_recorded_is_recorded_when_it_does(
    tmp_path: Path, annex_template: Path
) -> None:
    """Who asks again is told that the content is here, so nobody else would record it."""
    copy_annex(annex_template, tmp_path / "annex")
    journal = tmp_path / "annex/.git/annex/journal"
    workers = Workers()
    repository = AnnexRepository.open(tmp_path / "annex", workers)
    content = b"stored, and not recorded"
    key = key_of(content)
    shutil.rmtree(journal, ignore_errors=True)
    journal.write_text("in the way")
    with pytest.raises(RepositoryError, match="cannot record where"):  # noqa: PT012
        async with repository.receive(
            key, client="somebody", file=None, offset=0, length=len(content)
        ) as upload:
            assert upload is not None
            await upload.write(content)
            await upload.finish()
    assert await repository.present(key)
    with pytest.raises(RepositoryError):  # which /health tells
        await repository.check()
    journal.unlink()
    await repository.tidy()
    await repository.check()
    await repository.aclose()
    workers.close()
    said = git(tmp_path / "annex", "annex", "whereis", "--json", "--key", key.text)
    assert json.loads(said)["whereis"]
