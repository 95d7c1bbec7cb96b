"""What the runs say about conditions that nobody measured: latency as a + b × RTT, and its check.

The model: a drop takes ``a + b × RTT`` as long as nothing queues, whatever the concurrency. With
``concurrency`` at a time, drops per second grow with it until server, client or machine can do no
more; from there on they stay what they are, and drops wait for each other. So the time per dropped
file, over all users, is ``max((a + b × RTT) / concurrency, s)``, with ``s`` the seconds per drop at
the best rate that was measured.

Where both terms are about the same, drops queue now and then, and the model is 10 to 20% too fast.

Where drops queue, their latency says nothing about distance: 64 at a time on loopback wait mostly
for each other. A place (an RTT and a concurrency) counts as queueing if a user takes more than
:data:`~locklane_bench.places.QUEUEING` times as long per drop there as at the fewest at a time that
were measured over the same RTT. The line is drawn through the places that do not queue; for one
that does, the next lower concurrency that does not stands in.

Two things are fitted. :func:`fits` takes the latency of one drop, which people look at.
:func:`predict` takes the time from one drop of a user to its next: near by that is the latency and
what the client does in between; far away they are the same. The first drops' handshakes are charged
once where connections are used again.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import linear_regression, median

from locklane_bench.places import Seen, busiest, ms_words, rate_words, seen_in
from locklane_bench.results import Results


@dataclass(frozen=True, slots=True)
class Fit:
    """Latency of one drop (p50 of a run, median of the rounds) as a line over the RTT."""

    transport: str
    tls: bool
    concurrency: int
    a_ms: float
    """Latency without distance."""
    b: float
    """Round trips per drop: latency = ``a_ms`` + ``b`` × RTT."""
    fitted_at: list[float]
    """RTTs in ms through which the line was drawn."""
    checked_at: float | None
    """The middle one of three or more RTTs in ms, which was not used for fitting."""
    expected_ms: float | None
    """What the model says there, the least latency included."""
    measured_ms: float | None
    measured_low_ms: float | None
    """The least round's p50 there."""
    measured_high_ms: float | None
    error: float | None
    """(expected − measured) / measured."""
    floor_ms: float | None = None
    """Latency where drops queue, below which it does not fall; None where none queued."""

    def latency_ms(self, rtt_ms: float) -> float:
        """What the model says for an RTT."""
        return max(self.a_ms + self.b * rtt_ms, self.floor_ms or 0.0)


@dataclass(frozen=True, slots=True)
class Prediction:
    """What dropping the files over one transport takes."""

    transport: str
    seconds: float
    low_s: float
    """From the round that says the least; for what was not measured also the model's own error."""
    high_s: float
    connections: float
    """TCP connections, all files together."""
    why: str
    """For a person, without a full stop."""
    measured: bool
    """Whether the very condition was measured (distance, TLS, concurrency), so that no model came
    between."""


def fits(results: Results) -> list[Fit]:
    """Every line that can be fitted: two or more RTTs at one concurrency. Empty if none."""
    found = []
    for seen in seen_in(results):
        for concurrency in seen.concurrencies:
            rtts = sorted(rtt for rtt, each in seen.places if each == concurrency)
            if len(rtts) >= 2:
                found.append(_fit(seen, concurrency, rtts))
    return found


def predict(
    results: Results, *, rtt_ms: float, files: int, concurrency: int, tls: bool
) -> list[Prediction]:
    """What dropping ``files`` files takes over each transport, the fastest first.

    A transport of which the results do not say it is left out.

    :param rtt_ms: round-trip time to the server.
    :param concurrency: files dropped at a time.
    :raises ValueError: nothing can be said of any transport, or the question makes no sense; a
        sentence that says what to do.
    """
    if not (math.isfinite(rtt_ms) and rtt_ms >= 0 and files >= 1 and concurrency >= 1):
        raise ValueError("ask for a round-trip time of 0 ms or more, and at least 1 file at a time")
    if results.settings.rate is not None:
        raise ValueError(
            "these runs were made with a rate, which sets how many files are dropped per second: "
            "make a comparison without --rate"
        )
    seen = seen_in(results)
    if not seen:
        raise ValueError(
            "there is no run to go by (one without a proxy and without a think time, that dropped "
            "something): 'locklane compare --preset quick' makes them"
        )
    alike = [each for each in seen if each.tls is tls]
    if not alike:
        wanted = "with TLS" if tls else "without TLS"
        raise ValueError(f"no run was made {wanted}: 'locklane compare --preset quick' makes them")
    known = [each for each in alike if each.knows(rtt_ms)]
    if not known:
        rtts = ", ".join(f"{rtt:g}" for rtt in sorted({rtt for each in alike for rtt in each.rtts}))
        raise ValueError(
            f"to say something about a round-trip time of {rtt_ms:g} ms, runs at that or at two "
            f"others are needed, and there are only those at {rtts} ms: "
            f"'locklane compare --rtt {'0,' if rtt_ms else ''}{rtt_ms:g}"
            f"{' --tls yes' if tls else ''}' makes them"
        )
    made = [_prediction(each, rtt_ms, files, concurrency) for each in known]
    return sorted(made, key=lambda each: each.seconds)


def _line(points: Mapping[float, float]) -> tuple[float, float]:
    """a and b of the line through these points (two at least), by least squares."""
    b, a = linear_regression(list(points), list(points.values()))
    return a, b


def _middle(rtts: list[float]) -> float | None:
    """The RTT to check with: not one of the extremes, beyond which a line says nothing."""
    return rtts[len(rtts) // 2] if len(rtts) > 2 else None


def _fit(seen: Seen, concurrency: int, rtts: list[float]) -> Fit:
    checked_at = _middle(rtts)
    used = [rtt for rtt in rtts if rtt != checked_at]
    a, b = _line({rtt: seen.p50_ms(seen.unloaded(rtt, concurrency)) for rtt in used})
    queued = [(rtt, concurrency) for rtt in used if seen.queues((rtt, concurrency))]
    floor = median(seen.p50_ms(place) for place in queued) if queued else None
    expected = measured = low = high = error = None
    if checked_at is not None:
        p50s = [run.percentile_ms(50) for run in seen.places[checked_at, concurrency]]
        measured, low, high = median(p50s), min(p50s), max(p50s)
        expected = max(a + b * checked_at, floor or 0.0)
        error = (expected - measured) / measured if measured > 0 else None
    return Fit(
        transport=seen.transport,
        tls=seen.tls,
        concurrency=concurrency,
        a_ms=a,
        b=b,
        fitted_at=used,
        checked_at=checked_at,
        expected_ms=expected,
        measured_ms=measured,
        measured_low_ms=low,
        measured_high_ms=high,
        error=error,
        floor_ms=floor,
    )


def _prediction(seen: Seen, rtt_ms: float, files: int, concurrency: int) -> Prediction:
    place = rtt_ms, concurrency
    setup_s = seen.setup_s(rtt_ms)
    measured = place in seen.places
    if measured:
        # Where drops queue, time goes with the files; elsewhere with the drops of one user.
        queues = seen.queues(place)
        laps = -(-files // concurrency)
        times = [
            setup_s
            + (seen.work_s(run) * files / run.files if queues else laps * seen.lap_ms(run) / 1000)
            for run in seen.places[place]
        ]
        seconds, low, high = median(times), min(times), max(times)
    else:
        queues = _is_held_back(seen, rtt_ms, files, concurrency)
        seconds = setup_s + _work_s(seen, rtt_ms, files, concurrency)
        rounds = [
            setup_s + _work_s(seen, rtt_ms, files, concurrency, number) for number in seen.rounds
        ]
        doubt = 0.0 if queues or rtt_ms in seen.rtts else _doubt(seen, concurrency)
        low = min(seconds, *rounds) * (1 - min(doubt, 1.0))
        high = max(seconds, *rounds) * (1 + doubt)
    return Prediction(
        transport=seen.transport,
        seconds=seconds,
        low_s=low,
        high_s=high,
        connections=seen.opened.count(files, concurrency),
        why="; ".join(_why(seen, rtt_ms, concurrency, seconds / files, queues, measured)),
        measured=measured,
    )


def _pace_ms(seen: Seen, rtt_ms: float, concurrency: int, number: int | None = None) -> float:
    """From one drop of a user to its next as long as nothing queues: measured or on the line."""
    points = seen.points(concurrency, number)
    if rtt_ms in points:
        return points[rtt_ms]
    a, b = _line(points)
    # Chance may turn a line so that it is below 0 at one end.
    return max(a + b * rtt_ms, min(points.values()) if rtt_ms > min(points) else 0.0)


def _work_s(
    seen: Seen, rtt_ms: float, files: int, concurrency: int, number: int | None = None
) -> float:
    laps = -(-files // concurrency)
    pace_ms = _pace_ms(seen, rtt_ms, concurrency, number)
    return max(laps * pace_ms / 1000, files * seen.least_s(number)[0])


def _is_held_back(seen: Seen, rtt_ms: float, files: int, concurrency: int) -> bool:
    laps = -(-files // concurrency)
    return files * seen.least_s()[0] > laps * _pace_ms(seen, rtt_ms, concurrency) / 1000


def _doubt(seen: Seen, concurrency: int) -> float:
    """By how much the line misses an RTT that it was not drawn through, as a share of it."""
    points = seen.points(concurrency)
    held_out = _middle(sorted(points))
    if held_out is None:
        return 0.0
    a, b = _line({rtt: pace for rtt, pace in points.items() if rtt != held_out})
    return abs(a + b * held_out - points[held_out]) / points[held_out]


def _why(
    seen: Seen, rtt_ms: float, concurrency: int, per_file_s: float, queues: bool, measured: bool
) -> Iterable[str]:
    new = " and a new connection for each" if seen.opened.per == "file" else ""
    points = seen.points(concurrency)
    trips = _line(points)[1] if len(points) > 1 else None
    if queues and measured:
        by = busiest(seen.places[rtt_ms, concurrency])
        yield f"held back by {by}: {rate_words(per_file_s)} drops/s"
    elif queues:
        yield seen.least_s()[1]
    elif trips is not None and trips * rtt_ms > points.get(rtt_ms, trips * rtt_ms) / 2:
        yield f"{trips:.1f} round trips per file{new}"
    else:
        yield f"{ms_words(_pace_ms(seen, rtt_ms, concurrency))} ms per file{new}"
    if measured:
        return
    beyond = []
    if not seen.rtts[0] <= rtt_ms <= seen.rtts[-1]:
        beyond.append(f"{seen.rtts[0]:g} to {seen.rtts[-1]:g} ms")
    least, most = seen.concurrencies[0], seen.concurrencies[-1]
    if not least <= concurrency <= most:
        beyond.append(f"{least:,} to {most:,} at a time" if least < most else f"{most:,} at a time")
    if beyond:
        yield f"extrapolated from {' and '.join(beyond)}"
