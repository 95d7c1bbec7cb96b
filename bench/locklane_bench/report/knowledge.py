"""What a client can know about its hold, over each transport."""

from __future__ import annotations

from locklane_bench.report.section import Section, Table, section
from locklane_bench.report.summary import Summary
from locklane_bench.report.wording import LONG_NAMES, UNKNOWN, Cell, word
from locklane_bench.results import Results
from locklane_client.transports import TRANSPORTS


def knowledge_section(results: Results, summary: Summary) -> Section | None:
    """The transports' own words."""
    rows = [
        [
            Cell(name),
            Cell(LONG_NAMES.get(name, UNKNOWN)),
            Cell(word(confirmed(name))),
            Cell(told_when_lost(name) or UNKNOWN),
            Cell(word(waits_for_unlock(name))),
            Cell(knows(name) or UNKNOWN),
        ]
        for name in summary.transports
        if name in TRANSPORTS
    ]
    if not rows:
        return None
    return section(
        "What the client can know about its hold",
        "While a client deletes its own copy, it relies on the lock that it holds elsewhere. Not "
        "every transport can tell it that the server really holds that lock, and that it still "
        "does.",
        Table(
            "What the client can know",
            [
                *("Transport", "On the wire", "Hold confirmed?", "Told when it is lost?"),
                *("Waits for the unlock?", "It knows"),
            ],
            [rows],
            words=True,
            notes=[
                "Waits for the unlock: leaving a lock returns when the server has confirmed the "
                "unlock. Nothing depends on that, since retention ends a lock whose unlock is "
                "lost; a transport that does not wait for it saves a round trip, and any of the "
                "others could do without, too."
            ],
        ),
    )


def confirmed(transport: str) -> bool | None:
    """Whether the client knows that the server holds its lock live; None: nobody says."""
    found: bool | None = getattr(TRANSPORTS.get(transport), "confirmed", None)
    return found


def told_when_lost(transport: str) -> str | None:
    """Whether and how the client is told of the end of its hold, in words."""
    found: str | None = getattr(TRANSPORTS.get(transport), "told_when_lost", None)
    return found


def waits_for_unlock(transport: str) -> bool | None:
    """Whether leaving a lock waits for the answer to the unlock; None: nobody says."""
    found: bool | None = getattr(TRANSPORTS.get(transport), "waits_for_unlock", None)
    return found


def knows(transport: str) -> str | None:
    """What a client can know about its lock, in words that follow "knows"."""
    found: str | None = getattr(TRANSPORTS.get(transport), "knows", None)
    return found
