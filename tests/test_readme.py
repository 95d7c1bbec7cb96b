"""What the README says is so."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from locklane_bench.report.summary import summarise
from locklane_bench.report.table import main_table
from locklane_bench.results import read

TOP = Path(__file__).parent.parent
README = (TOP / "README.md").read_text(encoding="utf-8")
REFERENCE = TOP / "reports" / "reference"


def test_the_table_is_that_of_the_reference_report() -> None:
    shown = re.search(r"<!-- table:.*?-->\n(.*?)<!-- end of table -->", README, re.DOTALL)
    assert shown is not None
    lines = [line for line in shown[1].splitlines() if line.startswith("|")]
    assert len(lines) > 2
    assert "\n".join(lines) in (REFERENCE / "report.md").read_text(encoding="utf-8")


def test_the_reference_is_a_run_of_five_rounds_on_a_real_repository_in_which_counts_agree() -> None:
    results = read(REFERENCE)
    assert results.settings.preset == "full"
    assert results.settings.rounds >= 5
    assert results.settings.repository is not None
    assert results.disagreements == []
    assert sum(run.failures for run in results.runs if run.condition.proxy is None) == 0
    assert {drop.server for drop in results.annex_drops} == {
        "locklane",
        "locklane-annex",
        "p2phttp",
    }
    assert all(not drop.locks_left for drop in results.annex_drops)
    assert results.missing == {}
    assert main_table(summarise(results)) is not None


def test_the_reference_names_no_path_of_a_machine() -> None:
    for path in REFERENCE.iterdir():
        assert not re.search(r"/(home|root|tmp|work|Users)/", path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("command", sorted(set(re.findall(r"^ +locklane (\w+)", README, re.M))))
def test_every_option_in_the_readme_exists(command: str) -> None:
    said = subprocess.run(
        [Path(sys.executable).with_name("locklane"), command, "--help"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for call in re.findall(rf"^ +locklane {command} (.*(?:\\\n.*)*)", README, re.M):
        for option in re.findall(r"--[a-z-]+", call):
            assert option in said


@pytest.mark.parametrize(
    "path", sorted(set(re.findall(r"`((?:clients|server|bench|tests|reports)/[a-z_/.]*)`", README)))
)
def test_every_path_in_the_readme_exists(path: str) -> None:
    assert (TOP / path).exists()


def test_every_make_target_in_the_readme_exists() -> None:
    makefile = (TOP / "Makefile").read_text(encoding="utf-8")
    for target in set(re.findall(r"(?:`|    )make ([a-z-]+)", README)):
        assert re.search(rf"^{target}:", makefile, re.M), target
