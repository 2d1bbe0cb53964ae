"""Hostile streams and parameters for everything in protocols/timing; more with -m slow.

A shift of all times changes no count: the same stream far from 0, where sums leave 64 bits, must
give the same answer or a ValueError. Pairs are also counted in Python's unbounded integers.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from bellbench.instruments import Loss, TagBatch
from bellbench.protocols import timing
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

CHANNELS = (-32768, -1, 0, 7, 32767)
A, B, C = -32768, 7, 32767
OFFSETS = [
    sign * size
    for size in (
        0,
        2**31,
        2**53 + 1,
        2**60,
        2**61 - 100,
        2**62 - 400,
        2**62 - 1,
        2**62,
        2**63 - 401,
    )
    for sign in (1, -1)
]
HOSTILE: list[Any] = [-(2**62), -1, 0, 1, 2, 3, 10, 1000, 2**31, 2**53 + 1, 2**60 - 1, 2**61]
HOSTILE += [2**62 - 1, 2**62, math.nan]
SHORT = settings(max_examples=8, suppress_health_check=[*HealthCheck])
LONG = settings(max_examples=4000, suppress_health_check=[*HealthCheck])

numbers = st.sampled_from(HOSTILE)
places = st.sampled_from(CHANNELS)


@st.composite
def streams(draw: st.DrawFn, *, losses: bool = True) -> list[TagBatch]:
    """Return a short stream that begins at 0: duplicates, empty batches, losses of any kind."""
    scale = draw(st.sampled_from([1, 1, 100]))
    times = sorted(draw(st.lists(st.integers(0, 3), max_size=25)))
    times = [scale * t for t in np.cumsum(times).tolist()]
    channels = [draw(places) for _ in times]
    end = (times[-1] if times else 0) + draw(st.integers(1, 5))
    cuts = sorted(draw(st.lists(st.integers(0, end), max_size=4)))
    batches = []
    for begin, until in zip([0, *cuts], [*cuts, end], strict=True):
        lost = []
        for _ in range(draw(st.sampled_from([0, 0, 0, 1, 3])) if losses else 0):
            first = draw(st.integers(begin - 3, until + 3))
            last = first + draw(st.sampled_from([0, 0, 1, 5, 10**6]))
            lost.append(Loss("overflow", first, last, draw(st.sampled_from([None, 0, 2]))))
        inside = [i for i, t in enumerate(times) if begin <= t < until]
        batches.append(
            TagBatch(
                np.array([times[i] for i in inside], np.int64),
                np.array([channels[i] for i in inside], np.int16),
                begin,
                until,
                losses=tuple(lost),
            )
        )
    return batches


def moved(batches: list[TagBatch], by: int) -> list[TagBatch] | None:
    """Return the stream later by so much; None where that leaves 64 bits."""
    top = max(batches[-1].end_ps, *(x.end_ps for b in batches for x in b.losses), 0)
    low = min(0, *(x.begin_ps for b in batches for x in b.losses), 0)
    if top + by >= 2**63 or low + by < -(2**63):
        return None
    return [
        TagBatch(
            b.times_ps + by,
            b.channels,
            b.begin_ps + by,
            b.end_ps + by,
            losses=tuple(Loss(x.kind, x.begin_ps + by, x.end_ps + by, x.count) for x in b.losses),
        )
        for b in batches
    ]


def added(operation: Any, batches: list[TagBatch]) -> Any:
    for batch in batches:
        operation.add(batch)
    return operation.finish()


def fed(channel: timing.VirtualChannel, batches: list[TagBatch], by: int) -> list[Any]:
    out = list(channel.through(batches))
    for before, after in itertools.pairwise(out):
        assert before.end_ps == after.begin_ps
    return [
        (int(t) - by, int(c))
        for batch in out
        for t, c in zip(batch.checked().times_ps, batch.channels, strict=True)
    ]


def shown(value: Any) -> Any:
    """Make results comparable; live times to what is left of a double so far from 0."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    return value


Runner = Callable[[list[TagBatch], int, Any, Any, Any], Any]


def _events(batches: list[TagBatch], by: int, x: Any, y: Any, z: Any) -> Any:
    finder = timing.EventFinder([[A, 0], [B], [C]], x, delays_ps=[{A: y}, {B: z}, {}])
    parts = [finder.feed(batch) for batch in batches] + [finder.finish()]
    table = timing.EventTable.joined(parts)
    return [(table.times_ps - by).tolist(), table.channels.tolist(), table.indices.tolist()]


def _counter(batches: list[TagBatch], by: int, x: Any, y: Any, z: Any) -> Any:
    found = added(timing.Counter([A, B], x, n_values=None if y is None else y), batches)
    return found.counts.tolist(), found.live_ps.tolist()


def _rates(batches: list[TagBatch], by: int, x: Any, y: Any, z: Any) -> Any:
    rates = timing.CountRates()
    for batch in batches:
        rates.add(batch)
    return rates.counts, round(rates.live_s, 15), round(rates.duration_s, 15), rates.lost


RUNNERS: dict[str, tuple[Runner, tuple[Any, Any, Any]]] = {
    "CoincidenceCounter": (
        lambda s, by, x, y, z: (
            added(
                timing.CoincidenceCounter([A, 0], [B, C], x, delays_a={A: y}, shifts_ps=[z]), s
            ).counts
        ),
        (10, 3, 100),
    ),
    "CorrelationHistogram": (
        lambda s, by, x, y, z: added(timing.CorrelationHistogram(A, B, x, y, delay_ps=z), s).counts,
        (60, 7, 3),
    ),
    "auto": (
        lambda s, by, x, y, z: added(timing.CorrelationHistogram(B, B, x, y, delay_ps=z), s).counts,
        (60, 7, 3),
    ),
    "HistogramLogBins": (
        lambda s, by, x, y, z: added(timing.HistogramLogBins(A, B, y, x, 5, delay_ps=z), s).counts,
        (60, 1, 3),
    ),
    "FoldCounter": (
        lambda s, by, x, y, z: (
            lambda found: [found.pairs.tolist(), found.counts.tolist(), found.singles.tolist()]
        )(
            added(
                timing.FoldCounter(
                    CHANNELS, x, folds=[[A, B, C]], delays_ps={A: y}, shifts_ps=[{B: z}]
                ),
                s,
            )
        ),
        (10, 3, 100),
    ),
    "StartStop": (
        lambda s, by, x, y, z: added(timing.StartStop(A, B, x, y, delays_ps={A: z}), s).counts,
        (3, 20, 5),
    ),
    "Histogram": (
        lambda s, by, x, y, z: added(timing.Histogram(A, B, x, y, delays_ps={A: z}), s).counts,
        (3, 20, 5),
    ),
    "Histogram2D": (
        lambda s, by, x, y, z: (
            added(timing.Histogram2D(A, B, C, x, 2, y, 4, delays_ps={A: z}, every=True), s).counts
        ),
        (3, 20, 5),
    ),
    "PhaseHistogram": (
        lambda s, by, x, y, z: (
            added(timing.PhaseHistogram([A, B], C, x, 4, periods=y, delays_ps={A: z}), s).counts
        ),
        (12.5, 2, 5),
    ),
    "HeraldedG2": (
        lambda s, by, x, y, z: added(timing.HeraldedG2(A, B, C, x, delays_ps={A: y, B: z}), s),
        (10, 3, 20),
    ),
    "EventFinder": (_events, (10, 3, 20)),
    "Counter": (_counter, (10, None, 0)),
    "CountRates": (_rates, (0, 0, 0)),
    "DelayedChannel": (
        lambda s, by, x, y, z: fed(timing.DelayedChannel(A, x, 5), s, by),
        (10, 0, 0),
    ),
    "Combiner": (lambda s, by, x, y, z: fed(timing.Combiner([A, B], 5), s, by), (0, 0, 0)),
    "CoincidenceChannel": (
        lambda s, by, x, y, z: fed(
            timing.CoincidenceChannel([A, B], x, 5, timestamp="mean"), s, by
        ),
        (10, 0, 0),
    ),
    "GatedChannel": (
        lambda s, by, x, y, z: fed(timing.GatedChannel(A, B, C, 5, initially_open=True), s, by),
        (0, 0, 0),
    ),
    "EventDivider": (lambda s, by, x, y, z: fed(timing.EventDivider(A, x, 5), s, by), (3, 0, 0)),
    "DeadTime": (
        lambda s, by, x, y, z: fed(timing.DeadTime({A: x, B: y}, extended=True), s, by),
        (10, 20, 0),
    ),
}


def check_far(name: str, batches: list[TagBatch], by: int) -> None:
    """The stream far away gives what it gives near 0, or says that it cannot."""
    run, sane = RUNNERS[name]
    there = moved(batches, by)
    if there is None:
        return
    near = shown(run(batches, 0, *sane))
    try:
        far = shown(run(there, by, *sane))
    except ValueError:
        assert abs(by) >= 2**60
        return
    assert far == near, name


def check_hostile(name: str, batches: list[TagBatch], by: int, values: tuple[Any, ...]) -> None:
    """Any parameters give an answer or a ValueError (TypeError for NaN where counts go)."""
    run, sane = RUNNERS[name]
    there = moved(batches, by) or batches
    given_ = [s if v is ... else v for s, v in zip(sane, values, strict=True)]
    try:
        run(there, 0, *given_)
    except (ValueError, TypeError):
        return


@pytest.mark.parametrize("name", RUNNERS)
@pytest.mark.parametrize("by", [1 - 2**62, 401 - 2**63, 2**62 - 2])
def test_where_clicks_were_lost(name: str, by: int) -> None:
    times, channels = np.array([0, 0, 0, 0]), np.array([A, A, B, C], np.int16)
    check_far(name, [TagBatch(times, channels, 0, 1)], by)


some = st.tuples(*[st.one_of(st.just(...), numbers)] * 3)
far_cases = {"batches": streams(), "by": st.sampled_from(OFFSETS)}
hostile_cases = {**far_cases, "values": some}


@pytest.mark.parametrize("name", RUNNERS)
@given(**far_cases)
@SHORT
def test_far_from_zero(name: str, batches: list[TagBatch], by: int) -> None:
    check_far(name, batches, by)


@pytest.mark.parametrize("name", RUNNERS)
@given(**hostile_cases)
@settings(SHORT, max_examples=6)
def test_hostile_parameters(
    name: str, batches: list[TagBatch], by: int, values: tuple[Any, ...]
) -> None:
    check_hostile(name, batches, by, values)


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNNERS)
@given(**far_cases)
@LONG
def test_far_from_zero_long(name: str, batches: list[TagBatch], by: int) -> None:
    check_far(name, batches, by)


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNNERS)
@given(**hostile_cases)
@LONG
def test_hostile_parameters_long(
    name: str, batches: list[TagBatch], by: int, values: tuple[Any, ...]
) -> None:
    check_hostile(name, batches, by, values)


def pairs_of(batches: list[TagBatch]) -> list[tuple[int, int]]:
    """Clicks outside losses, in Python's integers."""
    return [
        (t, c)
        for batch in batches
        for t, c in zip(batch.times_ps.tolist(), batch.channels.tolist(), strict=True)
        if not any(loss.begin_ps <= t < loss.end_ps for loss in batch.losses)
    ]


def check_exact(batches: list[TagBatch], by: int, window: int, delay: int, shift: int) -> None:
    there = moved(batches, by) or batches
    try:
        found = added(
            timing.CoincidenceCounter([A], [B], window, delays_b={B: delay}, shifts_ps=[shift]),
            there,
        )
    except ValueError:
        found = None
    clicks = pairs_of(there)
    steps = [tb - ta - delay for ta, a in clicks if a == A for tb, b in clicks if b == B]
    if found is not None:
        half = window // 2
        assert found.counts.tolist() == [[sum(abs(d) <= half for d in steps)]]
        assert found.shifted.tolist() == [[[sum(abs(d - shift) <= half for d in steps)]]]
    width = max(window // 9, 1)
    try:
        histogram = added(timing.CorrelationHistogram(A, B, window, width, delay_ps=delay), there)
    except ValueError:
        return
    counts, left = histogram.counts, -(histogram.counts.size * width // 2)
    exact = [0] * counts.size
    for d in steps:
        if 0 <= d - left < counts.size * width:
            exact[(d - left) // width] += 1
    assert counts.tolist() == exact


whole = st.sampled_from([x for x in HOSTILE if type(x) is int])
exact_cases = {"window": whole, "delay": whole | st.integers(-50, 50), "shift": whole}


@given(**far_cases, **exact_cases)
@settings(SHORT, max_examples=30)
def test_pairs_in_unbounded_integers(
    batches: list[TagBatch], by: int, window: int, delay: int, shift: int
) -> None:
    check_exact(batches, by, window, delay, shift)


@pytest.mark.slow
@given(**far_cases, **exact_cases)
@settings(LONG, max_examples=30_000)
def test_pairs_in_unbounded_integers_long(
    batches: list[TagBatch], by: int, window: int, delay: int, shift: int
) -> None:
    check_exact(batches, by, window, delay, shift)


def check_clock(a: list[TagBatch], b: list[TagBatch], by: int, values: tuple[Any, ...]) -> None:
    search, frequency, around = values
    there = moved(b, by) or b
    options: dict[str, Any] = {}
    for name, value in (("search_ps", search), ("around_ps", around)):
        if value is not ...:
            options[name] = value
    if frequency is not ...:
        options["search_frequency"] = frequency
    try:
        recovery = timing.ClockRecovery(**options)
        for first, second in zip(a, there, strict=False):
            recovery.add(first, second)
        recovery.add(None, None)
        assert not recovery.state.locked
        assert not timing.find_clock(a[0], there[0], **options).locked
    except (ValueError, TypeError):
        return


@pytest.mark.slow
@given(a=streams(), b=streams(), by=st.sampled_from(OFFSETS), values=some)
@settings(LONG, max_examples=300)
def test_clocks_long(
    a: list[TagBatch], b: list[TagBatch], by: int, values: tuple[Any, ...]
) -> None:
    check_clock(a, b, by, values)


@pytest.mark.parametrize("by", [0, -(2**61), 2**62 - 400])
def test_clocks(by: int) -> None:
    times = np.array([0, 0, 5, 9], np.int64)
    batch = TagBatch(times, np.array([A, B, B, C], np.int16), 0, 10, losses=(Loss("gap", 3, 3),))
    check_clock([batch], [batch], by, (..., ..., ...))
