"""Figures as text: the formats of numbers, the names of conditions, and what to be told first."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from locklane_bench.report.summary import EXTERNAL, Spread, Summary
from locklane_bench.results import Condition, Results

UNKNOWN = "–"

BEST = "★"
"""Stands before the figure of the fastest, and of those that tie with it."""

LONG_NAMES = {
    "websocket": "one websocket per lock",
    "longpoll": "lockcontent + keeplocked",
    "pipeline": "pipelined lockcontent + keeplocked",
    "multiplex": "one websocket for many locks",
    "duplex": "full-duplex HTTP",
    "longpoll-http2": "lockcontent + keeplocked over HTTP/2",
}
"""What a transport's short name stands for. A name that is not here stands for itself."""

FEWEST_ROUNDS = 5


@dataclass(frozen=True, slots=True)
class Cell:
    """What a table shows of one figure: the median, and the range where there is one."""

    main: str
    range: str = ""
    best: bool = False
    """The best of its kind, or tied with it."""

    def __str__(self) -> str:
        mark = f"{BEST} " if self.best else ""
        return f"{mark}{self.main} ({self.range})" if self.range else f"{mark}{self.main}"


def number(value: float) -> str:
    """Three significant digits below 100, whole numbers above: 0.412, 4.12, 41.2, 412, 4,120."""
    if value < 0:
        return f"−{number(-value)}"  # a hyphen would read as that of a range
    if value == 0:
        return "0"
    if value >= 99.95:
        return f"{value:,.0f}"
    if value >= 9.995:
        return f"{value:.1f}"
    if value >= 0.9995:
        return f"{value:.2f}"
    places = 3
    while round(value, places) * 10**places < 10 and places < 6:
        places += 1
    return f"{value:.{places}f}"


def whole(value: float) -> str:
    return f"{value:,.0f}"


def per_file(value: float) -> str:
    """A count per dropped file: no decimals that say nothing (3, not 3.000; but 2.008)."""
    return whole(value) if abs(value - round(value)) < 1e-9 else exact(value)


def exact(value: float) -> str:
    """A count per dropped file, three decimals, more where three would hide something.

    1.0 is ``1.000`` and 0.008 is ``0.008``, but 1/300 is ``0.00333``, and 1.0002 is ``1.0002``:
    a value that is nearly whole is not written as if it were.
    """
    places = 3
    while places < 7:
        shown = round(value, places)
        hides = abs(shown - value) > 0.005 * abs(value)
        falsely_whole = shown == round(shown) and abs(shown - value) > 1e-9
        if not hides and not falsely_whole:
            break
        places += 1
    return f"{value:.{places}f}"


def percent(value: float) -> str:
    """A share as a percentage: 0.623 is ``62%``, 0.042 is ``4.2%``."""
    return f"{value * 100:.0f}%" if abs(value) >= 0.0995 else f"{value * 100:.1f}%"


def mebibytes(kib: float) -> str:
    return number(kib / 1024)


def cell(
    found: Spread | None, form: Callable[[float], str] = number, *, best: bool = False
) -> Cell:
    """Median and range; no range where all rounds read the same."""
    if found is None:
        return Cell(UNKNOWN)
    low, high = form(found.low), form(found.high)
    return Cell(form(found.median), "" if low == high else f"{low}–{high}", best)


def shown(found: Spread | None, form: Callable[[float], str] = number) -> str:
    return str(cell(found, form))


def middle(found: Spread | None, form: Callable[[float], str] = number) -> str:
    """The median alone."""
    return UNKNOWN if found is None else form(found.median)


def duration(seconds: float) -> str:
    """A time to wait, of two units at most: 3.2 s, 4 min 10 s, 27 h 46 min, 12 days 3 h."""
    if seconds < 99.5:
        return f"{number(seconds)} s"
    for unit, below, size, most in (("min", "s", 1, 100), ("h", "min", 60, 72)):
        whole_units, rest = divmod(round(seconds / size), 60)
        if whole_units < most:
            return f"{whole_units} {unit}" + (f" {rest} {below}" if rest else "")
    days, rest = divmod(round(seconds / 3600), 24)
    return plural(days, "day") + (f" {rest} h" if rest else "")


def at_a_time(concurrency: int) -> str:
    return "one at a time" if concurrency == 1 else f"{concurrency:,} at a time"


def rtt(rtt_ms: float) -> str:
    """A distance as a heading: RTT 0, RTT 100 ms."""
    return f"RTT {rtt_ms:,.6g} ms" if rtt_ms else "RTT 0"


def over(rtt_ms: float) -> str:
    """A distance within a sentence."""
    return f"at an RTT of {rtt_ms:,.6g} ms" if rtt_ms else "without a distance"


def manner(at: Condition) -> str:
    """How the client reached the server, but for distance and concurrency: ``plain``, ``TLS,
    behind nginx``."""
    said = ["TLS" if at.tls else "plain"]
    if at.proxy is not None:
        said.append(f"behind {at.proxy}")
    if at.think_time_s:
        said.append(f"{at.think_time_s * 1000:,.6g} ms of think time")
    if at.server not in ("locklane", EXTERNAL):
        said.append(f"server {at.server}")
    return ", ".join(said)


def place(at: Condition) -> str:
    """A condition in words."""
    return f"{at_a_time(at.concurrency)}, {rtt(at.rtt_ms)}, {manner(at)}"


def sentence(text: str) -> str:
    """With a capital, and a full stop."""
    text = ended(text)
    return text[:1].upper() + text[1:]


def ended(text: str) -> str:
    """With a full stop, beginning as it does: with a name, say."""
    text = text.strip()
    return text + ("" if text.endswith((".", "!", "?")) else ".")


def word(found: bool | None, yes: str = "yes", no: str = "no") -> str:
    return UNKNOWN if found is None else yes if found else no


def listed(parts: Sequence[str]) -> str:
    return ", ".join(parts[:-1]) + " and " + parts[-1] if len(parts) > 1 else "".join(parts)


def plural(count: int, one: str, many: str | None = None) -> str:
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def times_form(value: float) -> str:
    """A ratio: 1.42, 12.3; more decimals where two would read as 1.00."""
    if value >= 9.995:
        return number(value)
    return f"{value:.3f}" if f"{value:.2f}" == "1.00" else f"{value:.2f}"


def cautions(results: Results, summary: Summary) -> list[str]:
    """What a reader must know before the figures; empty when all went as it should."""
    said = []
    if summary.failures:
        parts = [
            f"{each.transport}, {place(each.condition)}: {each.failures:,}"
            for each in summary.figures
            if each.failures
        ]
        most = 4
        if len(parts) > most:
            parts[most:] = [f"and in {plural(len(parts) - most, 'other condition')}"]
        where = f" ({'; '.join(parts)})" if parts else ""
        said.append(
            f"{summary.failures:,} of {plural(summary.attempts, 'drop')} failed{where}. The "
            "figures are those of the drops that succeeded, but connections, bytes and processor "
            "time include what the failed ones used."
        )
    if results.disagreements:
        runs = plural(len(results.disagreements), "run")
        said.append(f"The counts disagree in {runs}: see “Do the counts agree?”.")
    if summary.empty_runs:
        said.append(
            f"{plural(summary.empty_runs, 'run')} dropped nothing: left out of the figures."
        )
    left = sum(drop.locks_left or 0 for drop in results.annex_drops)
    if left:
        said.append(f"git-annex left {plural(left, 'lock')} behind. That is a fault.")
    for held in results.idle:
        if held.held < held.wanted:
            why = f": {held.failure}" if held.failure else ""
            said.append(
                ended(
                    f"Over {held.transport}, {held.held:,} of the {held.wanted:,} locks that were "
                    f"wanted at once were held{why}"
                )
            )
    missing = [name for name in results.settings.transports if name not in summary.transports]
    if missing:
        said.append(f"Asked for, but without a run to show: {listed(missing)}.")
    rounds = [each.drops_per_s.rounds for each in summary.figures if each.drops_per_s]
    if rounds and min(rounds) < FEWEST_ROUNDS:
        fewest = min(rounds)
        why = (
            "there is no spread, and a difference may be chance"
            if fewest == 1
            else "the spread may look smaller than it is"
        )
        said.append(
            f"Only {plural(fewest, 'round')} where {FEWEST_ROUNDS} are the least to rely on: {why}."
        )
    return said


def long_names(names: Iterable[str]) -> str:
    """What the short names stand for, in one sentence; empty where none needs one."""
    known = [f"{name} is {LONG_NAMES[name]}" for name in names if name in LONG_NAMES]
    return f"Names: {'; '.join(known)}." if known else ""


def server_note(results: Results) -> list[str]:
    """The footnote to figures that a foreign server keeps to itself."""
    if results.settings.url is None:
        return []
    return [
        f"{UNKNOWN} in a server column: a foreign server's own figures (processor time, memory, "
        "descriptors, its count of connections) cannot be seen from here."
    ]
