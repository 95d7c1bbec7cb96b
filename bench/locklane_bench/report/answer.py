"""The answer: three sentences and one chart. Each sentence is computed, and stays right whichever
way the figures fall: over a distance, near by, and what has to be given up."""

from __future__ import annotations

from locklane_bench.report.bars import Bar, Panel, panel_chart
from locklane_bench.report.drawing import Chart
from locklane_bench.report.knowledge import confirmed, waits_for_unlock
from locklane_bench.report.matrix import farthest, is_best, views_of
from locklane_bench.report.proxies import works
from locklane_bench.report.summary import (
    BASELINE,
    Figures,
    Line,
    Rank,
    Summary,
    baseline,
    tie,
    times_as_fast,
    without_distance,
)
from locklane_bench.report.wording import (
    at_a_time,
    exact,
    listed,
    manner,
    middle,
    number,
    over,
    rtt,
    sentence,
    shown,
    times_form,
)
from locklane_bench.results import Condition, Results


def answer(results: Results, summary: Summary) -> list[str]:
    """Three sentences at the most; one that says so where there is nothing to answer with."""
    views = views_of(summary)
    if not views:
        return ["No run gave a figure: there is no answer."]
    view = views[0]
    far, near = _conditions(view)
    said: list[str] = []
    first = summary.rank(far) if far else None
    second = summary.rank(near)
    if first and first.order:
        said.append(_distance(first, summary, _with_tls(views, first.condition)))
    elif len(summary.under(near)) > 1:
        said += _trips(summary.under(near))
    if second and (far != near or summary.latency_decides):
        said.append(_near(second, results, summary))
    taken = [*(first.best if first else []), *(second.best if second else [])]
    given = _price(list(dict.fromkeys(taken)), first or second, near, results, summary)
    return [*said, *given] or ["No run gave times: there is no answer."]


def _conditions(view: list[Line]) -> tuple[Condition | None, Condition]:
    """The far one, with the fewest at a time; the near one, with the most."""
    low, high = farthest(view), view[-1]
    rtt_ms = max(low.by_rtt)
    return (low.by_rtt[rtt_ms] if rtt_ms else None), high.by_rtt[min(high.by_rtt)]


def _with_tls(views: list[list[Line]], plain: Condition) -> Condition | None:
    """The same with TLS, where the one that is spoken of is without."""
    if plain.tls:
        return None
    for view in views:
        for line in view:
            at = line.by_rtt.get(plain.rtt_ms)
            if (
                at
                and at.tls
                and (at.concurrency, at.proxy, at.think_time_s, at.server)
                == (plain.concurrency, plain.proxy, plain.think_time_s, plain.server)
            ):
                return at
    return None


def _distance(rank: Rank, summary: Summary, secure: Condition | None) -> str:
    """Which to take over a distance, and why."""
    at, best = rank.condition, rank.order[0]
    where = f"{over(at.rtt_ms)}, {at_a_time(at.concurrency)}"
    if len(rank.order) == 1:
        return sentence(
            f"{where}, {best.transport} took {shown(best.ms_per_file)} ms per dropped file; no "
            "other transport was measured to compare it with"
        )
    name = listed(rank.best)
    if len(rank.best) > 1:
        said = f"Over a distance take {name}, which tie: {where}"
    else:
        said = f"Over a distance take {name}: {where}"
    tied = [each for each in rank.order if each.transport in rank.best]
    said += f", a dropped file takes {_each(tied)}"
    trips = _near_trips(best, summary)
    if len(tied) == 1 and trips is not None:
        said += f" and waits for {_trip(trips)}"
        if waits_for_unlock(best.transport) is False:
            said += ", because it does not wait for the unlock to be confirmed"
    said += _held_against(rank, summary)
    if secure:
        said += _secure(rank, summary.rank(secure))
    return sentence(said)


def _each(figures: list[Figures]) -> str:
    """Times in ms; whose, where there are several."""
    if len(figures) == 1:
        return f"{shown(figures[0].ms_per_file)} ms"
    return listed([f"{shown(each.ms_per_file)} ms with {each.transport}" for each in figures])


def _trip(value: float) -> str:
    """To one place: what falls to each file of a connection's opening is left out, where
    connections are used again."""
    told = f"{value:.1f}".removesuffix(".0")
    return f"{told} round trip{'' if told == '1' else 's'}"


def _held_against(rank: Rank, summary: Summary) -> str:
    """How much faster than the baseline; if that is the best itself, than the next."""
    best = rank.order[0]
    rest = [each for each in rank.order if each.transport not in rank.best]
    base = baseline(rank.order)
    other = base if base in rest else rest[0] if rest else None
    if other is None:
        return ""
    ratio = times_as_fast(best, other)
    if ratio is None:
        return ""
    if tie(best, other) or summary.latency_decides:
        return ""
    who = best.transport if len(rank.best) > 1 else "it"
    word = "the next, " if other is not base else ""
    against = f"; {who} is {shown(ratio, times_form)} times as fast as {word}{other.transport}"
    trips = _near_trips(other, summary)
    if trips is not None and other.condition.rtt_ms:
        against += f", which waits for {_trip(trips)}"
    return against


def _near_trips(figures: Figures, summary: Summary) -> float | None:
    """Round trips per file, counted where most files were dropped: near by."""
    for line in summary.lines():
        if line.setting == without_distance(figures.condition):
            near = summary.at(line.by_rtt[min(line.by_rtt)], figures.transport)
            figures = near or figures
    return figures.round_trips.median if figures.round_trips else None


def _secure(plain: Rank, secure: Rank | None) -> str:
    if secure is None:
        return ""
    if set(secure.best) == set(plain.best):
        return (
            "; with TLS it is the same" if len(plain.best) == 1 else "; with TLS they are the same"
        )
    tied = ", which tie" if len(secure.best) > 1 else ""
    return f"; with TLS, {listed(secure.best)}{tied}"


def _trips(figures: list[Figures]) -> list[str]:
    """Without a distance, the round trips are all that says what one would cost."""
    known = [(each, round(trips.median, 1)) for each in figures if (trips := each.round_trips)]
    if len(known) < 2:
        return []
    least = min(trips for _, trips in known)
    few = [each.transport for each, trips in known if trips == least]
    rest = [f"{each.transport} {_trip(trips)}" for each, trips in known if trips != least]
    verb = "waits" if len(few) == 1 else "wait"
    against = f" ({'; '.join(rest)})" if rest else ""
    return [
        "No distance was measured, over which round trips decide: "
        f"{listed(few)} {verb} for {_trip(least)} per dropped file{against}."
    ]


def _near(rank: Rank, results: Results, summary: Summary) -> str:
    """Near by, with the most at a time."""
    at, best = rank.condition, rank.order[0]
    where = f"{'Near by' if not at.rtt_ms else over(at.rtt_ms).capitalize()}, "
    where += at_a_time(at.concurrency)
    rate = results.settings.rate
    tied = [each for each in rank.order if each.transport in rank.best]
    if rate is not None:
        values = listed([f"{shown(each.p99_ms)} ms with {each.transport}" for each in rank.order])
        ties = f"; {listed(rank.best)} tie" if len(tied) > 1 else ""
        return sentence(
            f"{where}, with {number(rate)} drops due per second, 99 of 100 drops ended within "
            f"{values}{ties}"
        )
    if len(rank.order) == 1:
        return sentence(
            f"{where}, {best.transport} dropped {shown(best.drops_per_s)} files per second; no "
            "other transport was measured to compare it with"
        )
    if len(tied) > 1:
        values = listed([f"{each.transport} {shown(each.drops_per_s)}" for each in tied])
        said = f"{where}, {listed(rank.best)} tie as the fastest: {values} files per second"
    else:
        said = (
            f"{where}, {best.transport} is the fastest: {shown(best.drops_per_s)} files per second"
        )
    return sentence(said + _held_against(rank, summary))


def _price(
    taken: list[str],
    rank: Rank | None,
    near: Condition,
    results: Results,
    summary: Summary,
) -> list[str]:
    """What is had and what is given up with the transports that were named."""
    parts = []
    for name in taken[:2]:
        figures = summary.at(near, name)
        words = []
        if figures and figures.connections:
            opened = exact(figures.connections.median)
            words.append(f"opens {opened} connections per file ({at_a_time(near.concurrency)})")
        behind = [each for each in results.proxies if each.transport == name]
        if behind:
            fails = [each.proxy for each in behind if not works(each)]
            words.append(
                f"does not hold behind {listed(fails)}"
                if fails
                else "works behind every proxy tried"
            )
        sure = confirmed(name)
        if sure is not None:
            words.append(
                "lets its client know that the hold is live"
                if sure
                else "does not let its client know that the hold is live"
            )
        if words:
            parts.append(f"{name} {listed(words)}")
    if not parts:
        return []
    said = f"What comes with it: {'; '.join(parts)}"
    surest = [each for each in (rank.order if rank else []) if confirmed(each.transport)]
    if surest and not any(confirmed(name) for name in taken) and rank:
        best = surest[0]
        said += f", which {best.transport} does ({middle(best.ms_per_file)} ms per file)"
    if BASELINE not in taken:
        said += f"; git-annex's own client speaks {BASELINE} only"
    return [sentence(said)]


def main_chart(summary: Summary) -> Chart | None:
    """Milliseconds per dropped file at each distance, with the fewest at a time; with TLS as a
    mark on the same line."""
    views = views_of(summary)
    if not views:
        return None
    low = farthest(views[0])
    panels, marked = [], False
    for rtt_ms, at in low.by_rtt.items():
        secure = _with_tls(views, at)
        bars = []
        for each in summary.under(at):
            if each.ms_per_file is None:
                continue
            with_tls = summary.at(secure, each.transport) if secure else None
            second = with_tls.ms_per_file if with_tls else None
            marked = marked or second is not None
            bars.append(
                Bar(
                    each.transport,
                    each.ms_per_file,
                    summary.transports.index(each.transport),
                    second,
                    is_best(at, each.transport, summary, by_p50=True),
                )
            )
        if bars:
            panels.append(Panel(rtt(rtt_ms), bars))
    if not panels:
        return None
    also = "" if marked else f", {manner(low.setting)}"
    return panel_chart(
        "main",
        f"Milliseconds per dropped file, {at_a_time(low.setting.concurrency)}{also}",
        panels,
        "ms per dropped file (less is better)",
        number,
        keys=(manner(low.setting), "with TLS") if marked else None,
    )
