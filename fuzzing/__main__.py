"""Runs fuzz targets under atheris, each for some seconds, and keeps what it finds out.

``python -m fuzzing --seconds 60 [TARGET…]``. atheris (libFuzzer) watches which lines an input
reaches and goes on from those that reach new ones, which finds in minutes what chance does not in
days. The inputs that do are kept in ``build/fuzzing/TARGET/``, so that the next run begins with
them; one that fails is written there too, and named.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import fuzzing

KEPT = Path("build/fuzzing")

LONGEST = 64 * 1024
"""Bytes of an input."""

TIMEOUT_SECONDS = 10
"""Within which each input has to be dealt with, however slow the machine; it takes milliseconds."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m fuzzing", description="Run fuzz targets.")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help="default: all of them")
    parser.add_argument("--seconds", type=int, default=60, help="for each (default: 60)")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    names = options.targets or fuzzing.names()
    for name in names:
        if name not in fuzzing.names():
            parser.error(f"no target {name!r}; there are {', '.join(fuzzing.names())}")
    if options.here:
        fuzz(names[0], options.seconds)
    failed = [name for name in names if not in_a_process_of_its_own(name, options.seconds)]
    say(f"{len(names) - len(failed)} of {len(names)} targets found nothing")
    for name in failed:
        say(f"FAILED: {name}; what failed is in {KEPT / name}")
    return 1 if failed else 0


def in_a_process_of_its_own(name: str, seconds: int) -> bool:
    """libFuzzer ends the process that it runs in. Returns whether it found nothing."""
    say(f"== {name}: {seconds} s")
    command = [sys.executable, "-m", "fuzzing", "--here", f"--seconds={seconds}", name]
    return subprocess.run(command, check=False).returncode == 0


def fuzz(name: str, seconds: int) -> None:
    import atheris  # which is there for `make fuzz` only

    with atheris.instrument_imports(include=["locklane_client", "locklane_server"]):
        target = fuzzing.load(name)
    kept = KEPT / name
    kept.mkdir(parents=True, exist_ok=True)
    words = kept.with_suffix(".words")
    words.write_text("".join(f'"{_escaped(piece)}"\n' for piece in target.pieces if piece[:32]))
    for number, piece in enumerate(target.pieces):
        (kept / f"piece-{number}").write_bytes(piece)
    atheris.Setup(
        [
            sys.argv[0],
            f"-max_total_time={seconds}",
            f"-timeout={TIMEOUT_SECONDS}",
            f"-max_len={LONGEST}",
            "-len_control=20",
            f"-dict={words}",
            f"-artifact_prefix={kept}/",
            "-print_final_stats=1",
            str(kept),
        ],
        target.check,
    )
    atheris.Fuzz()


def _escaped(piece: bytes) -> str:
    """As libFuzzer's dictionaries have it."""
    return "".join(f"\\x{byte:02x}" for byte in piece[:64])


def say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
