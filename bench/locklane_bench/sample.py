"""A git-annex repository with real content, for ``locklane compare --keys-from``: the sources of
this Python's standard library, some thousand files of all sizes.

``python -m locklane_bench.sample DIR`` makes it.
"""

from __future__ import annotations

import shutil
import sysconfig
import tempfile
from pathlib import Path

import click

from locklane_bench.gitannex import AnnexRepository, GitAnnexError


def make(directory: Path) -> int:
    """Make the repository; returns how many files it has.

    :raises GitAnnexError: git-annex is not there, or failed.
    """
    with tempfile.TemporaryDirectory(prefix="locklane-home-") as home:
        repository = AnnexRepository(directory, Path(home))
        shutil.copytree(
            sysconfig.get_path("stdlib"),
            directory,
            ignore=shutil.ignore_patterns("__pycache__", "site-packages", "*.so", "*.a"),
        )
        repository.make()
        return len(repository.git("annex", "find").splitlines())


@click.command(
    epilog="""\b
Example:
  python -m locklane_bench.sample build/python-library
  locklane compare --keys-from build/python-library
"""
)
@click.argument("directory", type=click.Path(path_type=Path))
def main(directory: Path) -> None:
    """Make a git-annex repository of this Python's standard library in a new DIRECTORY."""
    if directory.exists():
        raise click.ClickException(f"{directory} is there already; name one that is not")
    try:
        click.echo(f"{make(directory)} files in {directory}")
    except GitAnnexError as error:
        raise click.ClickException(str(error)) from error


if __name__ == "__main__":
    main(prog_name="python -m locklane_bench.sample")
