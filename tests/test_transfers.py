"""Transfers under way: one of a key at a time, known to others for as long as it runs."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import SOMEBODY, key_of

from locklane_server.repository import TransferInProgress
from locklane_server.repository.annex.layout import Layout
from locklane_server.repository.annex.modes import Modes
from locklane_server.repository.annex.transfers import Transfers

KEY, OTHER = key_of(b"one"), key_of(b"another one")


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    (tmp_path / "annex").mkdir()
    return Layout(tmp_path, bare=True)


def test_a_second_one_is_refused_and_does_not_hide_the_first(layout: Layout) -> None:
    """Whoever it comes from; the bytes that the first still needs count on."""
    transfers = Transfers(layout, Modes())
    with transfers.receiving(KEY, SOMEBODY, "file"):
        for client in (SOMEBODY, "another"):
            with pytest.raises(TransferInProgress), transfers.receiving(KEY, client, None):
                pass
        assert layout.transfer(KEY, SOMEBODY).exists()
        assert transfers.bytes_to_come(OTHER) == KEY.size
        assert transfers.bytes_to_come(KEY) == 0
    assert not layout.transfer(KEY, SOMEBODY).exists()
    assert transfers.bytes_to_come(OTHER) == 0
    with transfers.receiving(KEY, SOMEBODY, None):
        pass


@pytest.mark.parametrize("client", ["lck", "..", "a/b", "", "x" * 500, "é", "-"])
def test_a_clients_name_leads_nowhere_else(layout: Layout, client: str) -> None:
    transfers = Transfers(layout, Modes())
    with transfers.receiving(KEY, client, "a\nb"):
        found = {path.relative_to(layout.annex) for path in layout.annex.rglob("*")}
        assert all(path.parts[0] == "transfer" for path in found)
        assert len([path for path in found if (layout.annex / path).is_file()]) == 3


def test_a_directory_that_cannot_be_made_is_an_error_and_not_waited_for(layout: Layout) -> None:
    transfers = Transfers(layout, Modes())
    place = layout.transfer(KEY, SOMEBODY).parent
    place.parent.mkdir(parents=True)
    place.symlink_to("nowhere")
    with pytest.raises(OSError), transfers.receiving(KEY, SOMEBODY, None):  # noqa: PT011
        pass


def test_clients_that_call_themselves_anything_leave_no_directories(layout: Layout) -> None:
    transfers = Transfers(layout, Modes())
    downloads = layout.annex / "transfer" / "download"
    with transfers.receiving(OTHER, "busy", None):
        for number in range(5):
            with transfers.receiving(KEY, f"client{number}", None):
                assert (downloads / f"client{number}").is_dir()
        with transfers.receiving(KEY, "busy", None):
            pass
        assert {path.name for path in downloads.iterdir()} == {"lck", "busy"}
        (downloads / "killed").mkdir()
        transfers.clear_up()
        assert {path.name for path in downloads.iterdir()} == {"lck", "busy"}
        assert transfers.bytes_to_come(KEY) == OTHER.size
