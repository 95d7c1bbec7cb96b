"""The sentences of a side-by-side report. No result is written here: each is chosen and filled from
the figures, and stays right whichever way they fall."""

from __future__ import annotations

from locklane_bench.peer.figures import NGINX, OURS, PEER, WRITING, Limit, Line, size_words
from locklane_bench.peer.results import PeerResults
from locklane_bench.peer.servers import JOBS
from locklane_bench.report.wording import FEWEST_ROUNDS, listed, number, percent, plural, shown

BUSY = 1.0
"""Load average before the start from which on something else may have been measured too."""

UNSTEADY = 1.5
"""How many times the least time the greatest may be before a reader is told."""

FULL_LOAD = 0.8
"""Share of a processor from which on the load's process may be what held a figure back."""


def wanted(line: Line) -> str:
    """What is wanted of a line, as a multiple."""
    figure = line.figure
    if figure.wanted is None:
        return "–"
    return f"{'more than' if figure.beyond else 'at least'} {figure.wanted:g}"


def verdict(line: Line) -> str:
    """Whether that was reached."""
    if line.figure.wanted is None:
        return "–"
    if line.ratio is None:
        return "not measured"
    return "reached" if line.reached else "missed"


def answer(lines: list[Line]) -> list[str]:
    """How many targets were reached, and each that was not."""
    targets = [line for line in lines if line.figure.wanted is not None]
    if not targets:
        return ["None of the figures has a target."]
    reached = sum(line.reached is True for line in targets)
    said = [f"Locklane reached {reached} of {plural(len(targets), 'target')}."]
    said += [_missed(line) for line in targets if line.reached is False]
    unknown = [
        f"{line.figure.title} against {line.figure.against}"
        for line in targets
        if line.reached is None
    ]
    if unknown:
        said.append(f"Not measured: {listed(unknown)}.")
    return said


def _missed(line: Line) -> str:
    figure = line.figure
    return (
        f"Missed: {figure.title} against {figure.against} was {shown(line.ratio)} times as good; "
        f"{wanted(line)} was wanted."
    )


def cautions(results: PeerResults, limits: list[Limit]) -> list[str]:
    """What a reader must know before believing a figure."""
    said = [f"A server failed: {sentence}" for sentence in results.failures]
    said += [
        f"{plural(left, 'file')} of content locks {'was' if left == 1 else 'were'} left in the "
        f"repository of {server}: a fault."
        for server, left in results.locks_left.items()
        if left
    ]
    said += results.missing
    if results.settings.rounds < FEWEST_ROUNDS:
        said.append(
            f"Only {plural(results.settings.rounds, 'round')} where {FEWEST_ROUNDS} are the least "
            "to rely on: these figures show that it runs, not how fast."
        )
    if results.load_average > BUSY:
        said.append(
            f"The machine was busy when this began (load average {number(results.load_average)}): "
            "whatever else ran took time from one server or the other."
        )
    held = [
        f"{each.work} against {each.server} ({percent(each.load.median)})"
        for each in limits
        if each.load and each.load.median > FULL_LOAD and each.server in (OURS, PEER)
    ]
    alone = [each.wall_s for each in results.samples if each.server == WRITING]
    if alone and max(alone) > UNSTEADY * min(alone):
        said.append(
            f"Writing the large file alone took from {number(min(alone))} to {number(max(alone))} "
            "s, and uploads depend on the same. That need not be the disk: a virtual machine that "
            "gives its free memory to its host waits, while it writes, until it has that again."
        )
    if held:
        said.append(
            "The load's process was busy for most of the time, so that the server could have done "
            f"more: {listed(held)}."
        )
    return said


def measured(results: PeerResults) -> list[str]:
    """How it was measured, one point each."""
    asked = results.settings
    small, large = size_words(asked.small_size), size_words(asked.size)
    return [
        f"One git-annex repository of {plural(asked.files, 'file')} of {small} and one of {large}, "
        "all of random bytes, was made for the comparison. Each server had a copy of its own, with "
        "the same UUID, whose content is the same by hard links, so that all read the same pages "
        "of the page cache, which was warm.",
        "The rounds are interleaved: each gives every work to every server, one right after the "
        "other, so that a slow minute hurts all alike. Figures are medians over rounds, with the "
        "least and the greatest round. A ratio is worked out within each round; its median is held "
        "against what is wanted.",
        "The load for lock cycles, checkpresent and small downloads is one process on uvloop and "
        "httptools, the same for all servers, with connections that stay open; checkpresent and "
        "small downloads use 4. A lock cycle is POST lockcontent, its answer, POST keeplocked with "
        'a chunked body whose {"unlock":false} and {"unlock":true} are written one after the '
        "other, and its answer, as git-annex’s own client does it with nothing to delete between.",
        "A large download goes from a blocking socket to nowhere in blocks of 1 MiB, and was "
        "hashed once before. A large upload goes from the page cache by sendfile; the key is a "
        "SHA256 key and its content is removed again before the next. Hashing alone is SHA256 by "
        "Python’s hashlib over as many bytes in memory; writing alone is as many bytes to a new "
        "file on the same file system, in blocks of 1 MiB, until the disk has it (fdatasync), as "
        "Locklane writes an upload before it says that it is stored.",
        "git annex drop is the real program, in a fresh clone each time that has all small files "
        "and knows only the server; numcopies is 1. Its time is from start to end, client "
        "included.",
        "Server CPU is processor time of the server’s process and its children, user and system.",
        f"{PEER} is git annex p2phttp with {JOBS} jobs: with 2 its small downloads were slower, "
        "and more than 4 gave it nothing.",
    ]


def reading(results: PeerResults) -> list[str]:
    """How to read the report, one point each."""
    said = [
        "“Times better” is how many times as fast, or with what fraction of the time: 2 is twice "
        "as good, below 1 is worse, for every figure.",
    ]
    if any(sample.server == NGINX for sample in results.samples):
        said.append("nginx serves plain files by sendfile and knows nothing of keys or locks.")
    said += [
        "The bare server is aiohttp answering without thinking: what is far below it was held back "
        "by the server’s own work, not by the load.",
        "These figures are of this machine, over loopback and without TLS.",
    ]
    return said


def settings(results: PeerResults) -> list[tuple[str, str]]:
    """What was asked for, in the order to print."""
    asked = results.settings
    return [
        ("Files", f"{asked.files:,} of {size_words(asked.small_size)}"),
        ("Large file", size_words(asked.size)),
        ("Rounds", f"{asked.rounds:,}"),
        ("Measured", ", ".join(asked.only)),
        ("Started", results.started),
        ("Took", f"{number(results.duration_s)} s"),
    ]
