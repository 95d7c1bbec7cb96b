"""Figures as text: number formats, and the sentences that the report computes.

No result is written here: every sentence is chosen and filled from the figures, and stays right
whichever way they fall.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from locklane_bench.report.summary import (
    EXTERNAL,
    Comparison,
    Figures,
    Spread,
    Summary,
    spread,
)
from locklane_bench.results import Results
from locklane_client.transports import TRANSPORTS

UNKNOWN = "–"

LONG_NAMES = {
    "websocket": "one websocket per lock",
    "longpoll": "lockcontent + keeplocked",
    "pipeline": "pipelined lockcontent + keeplocked",
    "multiplex": "one websocket for many locks",
    "duplex": "full-duplex HTTP",
}
"""What a transport's short name stands for. A name that is not here stands for itself."""

FEWEST_ROUNDS = 5


@dataclass(frozen=True, slots=True)
class Cell:
    """What a table shows of one figure: the median, and the range where there is one."""

    main: str
    range: str = ""

    def __str__(self) -> str:
        return f"{self.main} ({self.range})" if self.range else self.main


def number(value: float) -> str:
    """Three significant digits below 100, whole numbers above: 0.412, 4.12, 41.2, 412, 4,120."""
    size = abs(value)
    if size == 0:
        return "0"
    if size >= 99.95:
        return f"{value:,.0f}"
    if size >= 9.995:
        return f"{value:.1f}"
    if size >= 0.9995:
        return f"{value:.2f}"
    places = 3
    while round(size, places) * 10**places < 10 and places < 6:
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


def cell(found: Spread | None, form: Callable[[float], str] = number) -> Cell:
    """Median and range; no range where all rounds read the same."""
    if found is None:
        return Cell(UNKNOWN)
    low, high = form(found.low), form(found.high)
    return Cell(form(found.median), "" if low == high else f"{low}–{high}")


def shown(found: Spread | None, form: Callable[[float], str] = number) -> str:
    return str(cell(found, form))


def middle(found: Spread | None, form: Callable[[float], str] = number) -> str:
    """The median alone."""
    return UNKNOWN if found is None else form(found.median)


def at_a_time(concurrency: int) -> str:
    return f"{concurrency:,} at a time"


def label(server: str, transport: str, summary: Summary) -> str:
    """The transport's name, with the server's where more than one was measured."""
    return transport if len(summary.servers) < 2 else f"{transport} ({server})"


def listed(parts: Sequence[str]) -> str:
    return ", ".join(parts[:-1]) + " and " + parts[-1] if len(parts) > 1 else "".join(parts)


def plural(count: int, one: str, many: str | None = None) -> str:
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def answer(results: Results, summary: Summary) -> list[str]:
    """The answer in two or three sentences (for each server, where there are several)."""
    sentences: list[str] = []
    for server in summary.servers:
        said = _answer_for(server, results, summary)
        if said and len(summary.servers) > 1:
            said[0] = f"Server {server}: {said[0]}"
        sentences += said
    return sentences or ["No run gave a figure: there is no answer."]


def headline(summary: Summary, server: str) -> int | None:
    """The concurrency that the answer speaks of: where most transports have times, the highest."""
    timed: dict[int, int] = {}
    for each in summary.figures:
        if each.server == server and each.drops_per_s is not None:
            timed[each.concurrency] = timed.get(each.concurrency, 0) + 1
    return max(timed, key=lambda concurrency: (timed[concurrency], concurrency), default=None)


def _answer_for(server: str, results: Results, summary: Summary) -> list[str]:
    concurrency = headline(summary, server)
    if concurrency is None:
        return []
    here = [
        each
        for name in summary.transports
        if (each := summary.at(server, name, concurrency)) and each.drops_per_s is not None
    ]
    sentences = [_connections_sentence(here, concurrency, results.settings.files)]
    if results.settings.rate is not None:
        sentences.append(_latency_sentence(here, concurrency, results.settings.rate))
    elif len(here) == 1:
        rate = shown(here[0].drops_per_s)
        sentences.append(
            f"{at_a_time(concurrency).capitalize()}, {here[0].transport} dropped {rate} files per "
            "second; no other transport was measured to compare it with."
        )
    else:
        pair = _pair(server, summary)
        if pair:
            sentences.append(_ratio_sentence(pair, summary))
        if len(here) > 2 or not pair:
            sentences.append(_fastest_sentence(here, concurrency))
    if len(here) == 2:
        sentences += _price_sentences(here)
    known = [
        f"with {each.transport}, {TRANSPORTS[each.transport].knows}"
        for each in here
        if each.transport in TRANSPORTS
    ]
    if known:
        sentences.append(f"What the holder of a lock can know: {'; '.join(known)}.")
    return sentences


def _connections_sentence(here: list[Figures], concurrency: int, files: int) -> str:
    counts, shares = [], []
    for each in here:
        long = LONG_NAMES.get(each.transport)
        name = f"{long} ({each.transport})" if long else each.transport
        opened = whole(each.connections.median * files) if each.connections else UNKNOWN
        counts.append(f"{opened} with {name}")
        shares.append(shown(each.connections, exact))
    where = at_a_time(concurrency)
    return (
        f"Connections for {plural(files, 'dropped file')}, {where}: {listed(counts)}; "
        f"{listed(shares)} per dropped file."
    )


def _pair(server: str, summary: Summary) -> list[Comparison]:
    """Websocket against long poll; without these two, the only two that there are."""
    found = [each for each in summary.comparisons if each.server == server and each.ratio]
    names = {(each.baseline, each.transport) for each in found}
    if ("websocket", "longpoll") in names:
        return [each for each in found if each.transport == "longpoll"]
    return found if len(names) == 1 and len(summary.transports) == 2 else []


def _ratio_sentence(pair: list[Comparison], summary: Summary) -> str:
    one, two = pair[0].transport, pair[0].baseline
    parts: list[str] = []
    for winner, loser, forward in ((one, two, True), (two, one, False)):
        won = [
            each
            for each in pair
            if each.ratio and not each.tie and (each.ratio.median > 1) == forward
        ]
        if won:
            parts.append(_won(won, winner, loser, forward))
    for each in pair:
        if each.tie and each.ratio:
            low, high = times_form(each.ratio.low), times_form(each.ratio.high)
            parts.append(
                f"{at_a_time(each.concurrency)} they tie: from round to round {one} dropped "
                f"{low} to {high} times as many as {two}"
            )
    return f"Speed: {'; '.join(parts)}."


def _won(won: list[Comparison], winner: str, loser: str, forward: bool) -> str:
    ratios = {each.concurrency: found for each in won if (found := _turned(each, forward))}
    if len(ratios) > 3:
        places = listed([f"{concurrency:,}" for concurrency in ratios])
        medians = [found.median for found in ratios.values()]
        least, most = times_form(min(medians)), times_form(max(medians))
        between = least if least == most else f"{least} to {most}"
        return (
            f"{places} at a time, {winner} dropped {between} times as many files per second as "
            f"{loser}"
        )
    (highest, ratio), *rest = sorted(ratios.items(), reverse=True)
    said = (
        f"{at_a_time(highest)}, {winner} dropped {shown(ratio, times_form)} times as many files "
        f"per second as {loser}"
    )
    for concurrency, found in rest:
        said += f"; {at_a_time(concurrency)}, {shown(found, times_form)} times"
    return said


def _turned(each: Comparison, forward: bool) -> Spread | None:
    """The ratio seen from the winner: turned over in each round, not only in the median."""
    return spread(value if forward else 1 / value for _, value in each.by_round)


def times_form(value: float) -> str:
    """A ratio: 1.42, 12.3; more decimals where two would read as 1.00."""
    if value >= 9.995:
        return number(value)
    return f"{value:.3f}" if f"{value:.2f}" == "1.00" else f"{value:.2f}"


def _latency_sentence(here: list[Figures], concurrency: int, rate: float) -> str:
    """Where the load is a rate, the rate sets the drops per second and latency is the answer."""
    due = f"With {number(rate)} drops due per second and {at_a_time(concurrency)}"
    values = listed([f"{each.transport} {shown(each.p99_ms)} ms" for each in here])
    said = f"{due}, 99 of 100 drops ended within: {values}"
    best = min(here, key=lambda each: each.p99_ms.median if each.p99_ms else float("inf"))
    tied = [
        each.transport
        for each in here
        if each is not best and each.p99_ms and best.p99_ms and each.p99_ms.overlaps(best.p99_ms)
    ]
    if len(here) > 1 and tied:
        said += f"; {listed([best.transport, *tied])} tie, their ranges overlap"
    return said + "."


def _fastest_sentence(here: list[Figures], concurrency: int) -> str:
    def rate(each: Figures) -> float:
        return each.drops_per_s.median if each.drops_per_s else 0.0

    best = max(here, key=rate)
    tied = [
        each.transport
        for each in here
        if each is not best
        and each.drops_per_s
        and best.drops_per_s
        and each.drops_per_s.overlaps(best.drops_per_s)
    ]
    where = f"Of all {len(here)} transports, {at_a_time(concurrency)}, "
    if tied:
        names = listed([best.transport, *tied])
        first = f"no single one was the fastest: the ranges of {names} overlap"
    else:
        first = f"{best.transport} was the fastest with {shown(best.drops_per_s)} files per second"
    counted = [each for each in here if each.connections]
    fewest = min(each.connections.median for each in counted if each.connections)
    sparing = [
        each.transport for each in counted if each.connections and each.connections.median == fewest
    ]
    verb = "opened the fewest connections"
    return f"{where}{first}; {listed(sparing)} {verb} ({exact(fewest)} per dropped file)."


def _price_sentences(here: list[Figures]) -> list[str]:
    """Bytes and server processor time, where they are known for all."""
    where = at_a_time(here[0].concurrency)
    traffic = [
        f"{whole(each.bytes_up.median + each.bytes_down.median)} with {each.transport}"
        for each in here
        if each.bytes_up and each.bytes_down
    ]
    work = [
        f"{number(each.server_cpu_ms.median)} ms with {each.transport}"
        for each in here
        if each.server_cpu_ms
    ]
    said = []
    if len(traffic) == len(here):
        said.append(f"Bytes for each drop, both ways, {where}: {listed(traffic)}.")
    if len(work) == len(here):
        said.append(f"Server processor time for each drop, {where}: {listed(work)}.")
    return said


def cautions(results: Results, summary: Summary) -> list[str]:
    """What a reader must know before the figures; empty when all went as it should."""
    said = []
    if summary.failures:
        parts = [
            f"{label(each.server, each.transport, summary)}, {at_a_time(each.concurrency)}: "
            f"{each.failures:,}"
            for each in summary.figures
            if each.failures
        ]
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
    if results.annex_drop and results.annex_drop.locks_left:
        left = results.annex_drop.locks_left
        said.append(f"git-annex left {plural(left, 'lock')} behind. That is a fault.")
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


def agreement(results: Results, summary: Summary) -> str:
    """One sentence on the counts; the disagreements themselves are listed beside it."""
    runs = len(results.runs)
    checked = sum(each.checked for each in summary.counts)
    differing = checked - sum(each.agreeing for each in summary.counts)
    if not runs:
        return "There are no runs."
    alone = runs - checked
    rest = f" In {plural(alone, 'run')} only the client could count." if alone else ""
    if results.disagreements:
        return f"{plural(len(results.disagreements), 'run')} of {runs:,} disagree:{rest}"
    if differing:
        return (
            f"The comparison named no disagreement, yet the counts of {plural(differing, 'run')} "
            f"of {runs:,} are not equal: see the last column.{rest}"
        )
    if not checked:
        return (
            f"Nothing to hold against each other: in all {runs:,} runs only the client could count."
        )
    if alone:
        return f"All {plural(checked, 'run')} with more than one count agree.{rest}"
    return f"All {plural(runs, 'run')} agree." if runs > 1 else "The one run agrees."


def server_note(summary: Summary) -> str | None:
    """The footnote to figures that a foreign server keeps to itself."""
    if EXTERNAL not in summary.servers:
        return None
    return (
        f"{UNKNOWN} in a server column: a foreign server's own figures (processor time, memory, "
        "descriptors, its count of connections) cannot be seen from here."
    )


def annex(results: Results) -> list[str]:
    """The real ``git annex drop`` in sentences, or why there is none."""
    drop = results.annex_drop
    if drop is None:
        why = (results.annex_drop_missing or "no reason was recorded").strip()
        return [f"Not measured: {why}{'' if why.endswith('.') else '.'}"]
    jobs = "one at a time" if drop.jobs == 1 else f"with {drop.jobs:,} jobs"
    said = [
        f"git-annex {drop.git_annex_version} dropped {plural(drop.files, 'file')} {jobs} in "
        f"{number(drop.seconds)} s and opened {plural(drop.connections, 'connection')}, as the "
        "relay counted them."
    ]
    if drop.files > 0:
        said[0] = said[0].replace(
            ", as the relay",
            f" ({exact(drop.connections / drop.files)} per dropped file), as the relay",
        )
        up, down = whole(drop.bytes_up / drop.files), whole(drop.bytes_down / drop.files)
        said.append(f"Each drop sent {up} bytes up and {down} down.")
    left = "none was left" if drop.locks_left == 0 else f"{drop.locks_left:,} were left"
    said.append(
        f"The server took {plural(drop.locks_taken, 'lock')}; {left} when git-annex had ended."
    )
    if drop.locks_left:
        said.append("A lock that is left is a fault.")
    return said


def settings(results: Results) -> list[tuple[str, str]]:
    """What was asked for, in the order to print."""
    asked = results.settings
    think = f"{number(asked.think_time_s * 1000)} ms" if asked.think_time_s else "none"
    load = (
        "each client starts the next drop when one has ended"
        if asked.rate is None
        else f"{number(asked.rate)} drops due per second over all clients"
    )
    return [
        ("Transports", ", ".join(asked.transports)),
        ("Files in each run", f"{asked.files:,}"),
        ("Drops at a time", ", ".join(f"{each:,}" for each in asked.concurrency)),
        ("Rounds", f"{asked.rounds:,}"),
        ("Think time", think),
        ("Load", load),
        ("Server", asked.url or "started for the comparison, on this machine"),
        ("Keys", asked.keys_from),
        ("Started", results.started),
        ("Took", f"{number(results.duration_s)} s"),
    ]


def measured(results: Results) -> list[str]:
    """How it was measured, one point each."""
    asked = results.settings
    think = (
        "The client let go as soon as it held the lock (no think time)."
        if not asked.think_time_s
        else f"Between lock and unlock the client waited {number(asked.think_time_s * 1000)} ms "
        "(think time), which is in every latency and bounds the drops per second."
    )
    due = (
        "Each client started its next drop when one had ended; latency counts from the start of "
        "the drop."
        if asked.rate is None
        else f"{number(asked.rate)} drops were due per second. Latency counts from when a drop was "
        "due, not from when it could start, so a server that falls behind cannot hide it."
    )
    return [
        "The unit is one dropped file: take the lock, have it confirmed as far as the transport "
        "can, delete, unlock, be done.",
        "The rounds are interleaved: each round runs every transport, one after the other, so "
        "that a slow minute hurts all alike. Figures are medians over rounds, with the least and "
        "the greatest round.",
        "Connections, times, processor, memory and descriptors come from runs in which the client "
        "spoke to the server directly. Bytes come from runs through a relay that counts them; its "
        "own cost is in no time shown here. Bytes are TCP payload, HTTP and websocket framing "
        "included.",
        think,
        due,
        "Requests are HTTP requests, a websocket’s upgrade included. Messages are websocket "
        "messages both ways, without control frames. Round trips are the times that the client "
        "waited for its peer: a TCP handshake, an upgrade, an answer. All these the client counts, "
        "by its own rules.",
        "The clients are Locklane’s own, of asyncio: longpoll on the package aiohttp, websocket on "
        "the package websockets. The processor time of the client includes that of locust, which "
        "drives them.",
    ]


def reading(summary: Summary) -> list[str]:
    """How to read the report, one point each."""
    names = [f"{name} is {LONG_NAMES[name]}" for name in summary.transports if name in LONG_NAMES]
    said = [f"Names: {'; '.join(names)}."] if names else []
    return [
        *said,
        "“8 at a time” means that 8 clients dropped files at the same time.",
        "1.000 connections per dropped file means a new TCP connection for every file. 0.008 means "
        "8 connections for 1,000 files.",
        "p50 is the latency that half of the drops did not exceed; p99, all but one in a hundred.",
        "Two transports tie where neither was faster in every round, the two being compared within "
        "each round: then these rounds do not tell which is faster.",
        "These figures are of this machine, this network and this load. Over a longer line every "
        "round trip counts for more; repeat the comparison there.",
    ]
