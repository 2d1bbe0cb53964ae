"""Folds, histograms and event tables of many channels: against brute force, in any split."""

import itertools
import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from bellbench.instruments import Loss, TagBatch
from bellbench.protocols import timing
from hypothesis import given, settings
from hypothesis import strategies as st

Clicks = list[tuple[int, int]]
Intervals = list[tuple[int, int]]

END = 301
# On a grid, so that clicks, edges of windows and of bins, cuts and losses fall together; and off.
times = st.one_of(st.integers(0, 60).map(lambda k: 5 * k), st.integers(0, 300))
clicks = st.lists(st.tuples(times, st.integers(1, 5)), max_size=30).map(sorted)
#: Many clicks at few times.
crowds = st.lists(
    st.tuples(st.integers(0, 12).map(lambda k: 5 * k), st.integers(1, 4)), min_size=5, max_size=25
).map(sorted)
streams = st.one_of(clicks, crowds)
windows = st.one_of(st.integers(0, 5).map(lambda k: 10 * k), st.integers(0, 60))
cuts = st.lists(st.one_of(times, st.just(END)), max_size=4)
losses = st.lists(
    st.tuples(times, st.one_of(st.integers(0, 4).map(lambda k: 5 * k), st.integers(0, 30))).map(
        lambda x: (x[0], x[0] + x[1])
    ),
    max_size=3,
)
delay = st.one_of(st.integers(-3, 3).map(lambda k: 5 * k), st.integers(-60, 60))
delays = st.one_of(
    st.just(dict.fromkeys((1, 2, 3, 4), 0)),
    st.fixed_dictionaries(dict.fromkeys((1, 2, 3, 4), delay)),
)
some = settings(max_examples=60, deadline=None)


def batch(pairs: Clicks, lost: Sequence[tuple[int, int]] = ()) -> TagBatch:
    times = np.array([t for t, _ in pairs], np.int64)
    channels = np.array([c for _, c in pairs], np.int16)
    gone = tuple(Loss("overflow", begin, end) for begin, end in lost)
    return TagBatch(times, channels, 0, END, losses=gone)


def split(whole: TagBatch, at: Sequence[int]) -> list[TagBatch]:
    parts = []
    for cut in sorted(at):
        first, whole = whole.split(cut)
        parts.append(first)
    return [*parts, whole]


def only(late: dict[int, int], channels: Sequence[int]) -> dict[int, int]:
    return {c: late.get(c, 0) for c in channels}


def fed(operation: Any, whole: TagBatch, at: Sequence[int]) -> Any:
    for part in split(whole, at):
        operation.add(part)
    return operation.finish()


def by_channel(
    pairs: Clicks, lost: Intervals, late: dict[int, int]
) -> dict[int, list[tuple[int, int]]]:
    """Corrected times of the clicks outside losses, each with the number of losses before it."""
    found: dict[int, list[tuple[int, int]]] = {c: [] for c in range(1, 6)}
    for t, c in pairs:
        if not any(begin <= t < end for begin, end in lost):
            found[c].append((t - late.get(c, 0), sum(begin <= t for begin, _ in lost)))
    return {c: sorted(of) for c, of in found.items()}


def folds_by_force(
    of: dict[int, list[tuple[int, int]]], channels: Sequence[int], window: int
) -> int:
    return sum(
        2 * (max(t for t, _ in some) - min(t for t, _ in some)) <= window
        for some in itertools.product(*(of[c] for c in channels))
    )


@given(pairs=streams, lost=losses, late=delays, cut=cuts, window=windows, two=st.booleans())
@settings(max_examples=80, deadline=None)
def test_folds_are_all_tuples_within_half_a_window_in_any_split(
    pairs: Clicks, lost: Intervals, late: dict[int, int], cut: list[int], window: int, two: bool
) -> None:
    channels = (4, 1, 2, 3)
    folds = ((1, 2, 3), (4, 3, 2, 1), (2, 3, 4), *([(3, 2)] if two else []))
    shifts = ({2: 17}, {3: -25, 4: -25})
    counter = timing.FoldCounter(channels, window, folds=folds, delays_ps=late, shifts_ps=shifts)
    got = fed(counter, batch(pairs, lost), cut)
    of = by_channel(pairs, lost, late)
    for a, b in itertools.combinations(channels, 2):
        assert got.count(a, b) == got.count(b, a) == folds_by_force(of, (a, b), window)
    assert [got.count(c) for c in channels] == [len(of[c]) for c in channels]
    assert got.counts.tolist() == [folds_by_force(of, fold, window) for fold in folds]
    for k, shift in enumerate(shifts):
        there = by_channel(pairs, lost, {c: late[c] + shift.get(c, 0) for c in channels})
        expected = [folds_by_force(there, fold, window) for fold in folds]
        assert got.shifted_counts[k].tolist() == expected
        for i, j in itertools.combinations(range(4), 2):
            both = folds_by_force(there, (channels[i], channels[j]), window)
            assert got.shifted_pairs[k, i, j] == got.shifted_pairs[k, j, i] == both
    assert not np.diagonal(got.pairs).any()


@given(pairs=streams, lost=losses, late=delays, window=windows)
@some
def test_a_two_fold_is_a_pair_of_the_coincidence_counter(
    pairs: Clicks, lost: Intervals, late: dict[int, int], window: int
) -> None:
    counter = timing.CoincidenceCounter(
        [1, 2], [3, 4], window, delays_a=only(late, (1, 2)), delays_b=only(late, (3, 4))
    )
    folds = timing.FoldCounter((1, 2, 3, 4), window, delays_ps=late)
    expected = fed(counter, batch(pairs, lost), [])
    assert fed(folds, batch(pairs, lost), []).pairs[:2, 2:].tolist() == expected.counts.tolist()


def test_folds_example() -> None:
    # Two clicks of 1, one of 2 and of 3: two tuples, whatever came last. 150 is too late.
    pairs = [(100, 1), (104, 1), (105, 2), (110, 3), (150, 2), (200, 3)]
    counter = timing.FoldCounter(
        [1, 2, 3], 20, folds=[(3, 1, 2)], shifts_ps=[{1: 40}, {1: 5, 2: 5, 3: 5}, {3: 50}]
    )
    counter.add(batch(pairs, [(160, 261)]))
    got = counter.finish()
    assert got.count(1, 2, 3) == 2
    assert got.count(3, 1) == 2
    assert got.count(2, 1) == 2
    assert got.count(2) == 2
    assert got.live_s == pytest.approx(200e-12)
    assert got.rate_hz(1, 2, 3) == pytest.approx(1e10)
    # 1 sought 40 later meets nothing, 3 sought 50 later meets nothing; moving all tells nothing.
    assert got.shifted_counts.tolist() == [[0], [2], [0]]
    assert got.accidentals(2, 3) == 0
    # 1 with pairs of 2 and 3, and 3 with pairs of 1 and 2, are unlike things.
    with pytest.raises(ValueError, match="apart in different ways: take shifted_counts"):
        got.accidentals(1, 2, 3)
    alike = timing.FoldCounter(
        [1, 2, 3], 20, folds=[(3, 1, 2)], shifts_ps=[{1: 40}, {2: -3, 3: -3}, {2: 30, 3: 30}]
    )
    alike.add(batch(pairs, [(160, 261)]))
    assert alike.so_far().shifted_counts.tolist() == [[0], [1], [0]]
    assert alike.finish().accidentals(1, 2, 3) == pytest.approx(1 / 3)
    assert math.isnan(timing.FoldCounter([1], 20).finish().rate_hz(1))
    # 9 of half a window does not reach from 100 to 110.
    nine = timing.FoldCounter([1, 2, 3], 19, folds=[(1, 2, 3)])
    assert fed(nine, batch(pairs), []).count(1, 2, 3) == 1
    assert math.isnan(nine.finish().accidentals(1, 2))


def test_accidental_pairs_and_four_folds_of_uncorrelated_streams_are_those_of_theory() -> None:
    rng = np.random.default_rng(5)
    seconds, rate, window = 0.02, 2e7, 2000
    n = rng.poisson(4 * rate * seconds)
    end = int(seconds * 1e12)
    whole = TagBatch(
        np.sort(rng.integers(0, end, n)), rng.integers(1, 5, n).astype(np.int16), 0, end
    )
    counter = timing.FoldCounter(
        [1, 2, 3, 4], window, folds=[(1, 2, 3, 4)], shifts_ps=[{1: 10**6, 2: 2 * 10**6}]
    )
    for part in split(whole, range(0, end, end // 7)):
        counter.add(part)
    got = counter.finish()
    pairs = rate**2 * 2001e-12 * seconds
    assert got.count(1, 2) == pytest.approx(pairs, abs=4 * math.sqrt(pairs))
    assert got.accidentals(1, 2) == pytest.approx(pairs, abs=4 * math.sqrt(pairs))
    # n t^(n-1) rates^n: the last of n comes up to window/2 after the first, 4 may be the first.
    fours = 4 * (rate * window / 2 * 1e-12) ** 3 * rate * seconds
    # Tuples share clicks: their scatter is some 2.5 times Poisson's at 0.02 clicks per window.
    assert got.count(1, 2, 3, 4) == pytest.approx(fours, abs=6 * math.sqrt(fours))


def after(
    of: dict[int, list[tuple[int, int]]], start: int, click: int, span: int
) -> list[list[int]]:
    """For each start, the times since it of the clicks in reach, later ones of a channel itself."""
    found = []
    for i, (t, piece) in enumerate(of[start]):
        others = of[click][i + 1 :] if click == start else of[click]
        found.append([u - t for u, where in others if where == piece and 0 <= u - t < span])
    return found


@given(
    pairs=streams,
    lost=losses,
    late=delays,
    cut=cuts,
    width=st.one_of(st.just(1), st.just(5), st.integers(1, 9)),
    same=st.booleans(),
)
@some
def test_start_stop_and_histogram(
    pairs: Clicks, lost: Intervals, late: dict[int, int], cut: list[int], width: int, same: bool
) -> None:
    start, bins = (2 if same else 1), 5
    of = by_channel(pairs, lost, late)
    got = fed(timing.Histogram(2, start, width, bins, delays_ps={c: late[c] for c in {2, start}}),
              batch(pairs, lost), cut)  # fmt: skip
    expected = [0] * bins
    for steps in after(of, start, 2, width * bins):
        for step in steps:
            expected[step // width] += 1
    assert got.counts.tolist() == expected
    assert (got.starts, got.clicks) == (len(of[start]), len(of[2]))
    assert got.delays_ps.tolist() == [width * (k + 0.5) for k in range(bins)]

    stops = timing.StartStop(
        2, None if same else 1, width, bins, delays_ps={c: late[c] for c in {2, start}}
    )
    got = fed(stops, batch(pairs, lost), cut)
    expected = [0] * bins
    for i, (t, piece) in enumerate(of[2]):
        starts = [s for s, where in (of[2][:i] if same else of[1]) if where == piece and s <= t]
        if starts and t - max(starts) < width * bins:
            expected[(t - max(starts)) // width] += 1
    assert got.counts.tolist() == expected


@given(pairs=streams, lost=losses, late=delays, cut=cuts, every=st.booleans())
@some
def test_histogram_of_two_stops(
    pairs: Clicks, lost: Intervals, late: dict[int, int], cut: list[int], every: bool
) -> None:
    names = {c: late[c] for c in (1, 2, 3)}
    histogram = timing.Histogram2D(1, 2, 3, 5, 7, 6, 9, every=every, delays_ps=names)
    got = fed(histogram, batch(pairs, lost), cut)
    of = by_channel(pairs, lost, late)
    expected = np.zeros((6, 9), np.int64)
    for first, second in zip(after(of, 1, 2, 30), after(of, 1, 3, 63), strict=True):
        for a, b in itertools.product(first, second) if every else zip(first[:1], second[:1]):  # noqa: B905
            expected[a // 5, b // 7] += 1
    assert got.counts.tolist() == expected.tolist()
    assert got.starts == len(of[1])
    assert got.delays_2_ps.tolist() == [7 * (k + 0.5) for k in range(9)]


@given(
    pairs=streams,
    lost=losses,
    late=delays,
    cut=cuts,
    eighths=st.one_of(st.sampled_from((16, 40, 80)), st.integers(9, 300)),
)
@some
def test_phase_since_the_last_sync(
    pairs: Clicks, lost: Intervals, late: dict[int, int], cut: list[int], eighths: int
) -> None:
    period = Fraction(eighths, 8)
    names = {c: late[c] for c in (1, 2, 3)}
    histogram = timing.PhaseHistogram((3, 1), 2, float(period), 8, periods=2, delays_ps=names)
    got = fed(histogram, batch(pairs, lost), cut)
    of = by_channel(pairs, lost, late)
    for row, c in enumerate((3, 1)):
        expected, unsynced = [0] * 8, 0
        for t, piece in of[c]:
            syncs = [s for s, where in of[2] if where == piece and s <= t]
            if syncs and t - max(syncs) < period * Fraction(5, 2):
                # float(turns) * 8 rounds to the next bin only where it is within 1e-14 of it.
                expected[int((t - max(syncs)) % period * 8 / period)] += 1
            else:
                unsynced += 1
        assert got.counts[row].tolist() == expected
        assert got.unsynced[row] == unsynced
    assert got.syncs == len(of[2])
    assert got.phases_ps[0] == float(period) / 16


def events_by_rule(groups: list[list[int]], window: int) -> list[list[int]]:
    """Greedy, all clicks known: the rule said in words."""
    groups = [list(group) for group in groups]
    found = []
    while all(groups):
        heads = [group[0] for group in groups]
        if 2 * (max(heads) - min(heads)) <= window:
            found.append(heads)
            for group in groups:
                group.pop(0)
        else:
            groups[heads.index(min(heads))].pop(0)
    return found


def most_events(groups: list[list[int]], window: int) -> int:
    """Largest number of disjoint events, trying everything for the last click of the first."""
    if not all(groups):
        return 0
    first, *others = groups
    best = most_events([first[:-1], *others], window)
    for rest in itertools.product(*(range(len(g)) for g in others)):
        times = [first[-1], *(g[i] for g, i in zip(others, rest, strict=True))]
        if 2 * (max(times) - min(times)) <= window:
            left = [first[:-1], *(g[:i] + g[i + 1 :] for g, i in zip(others, rest, strict=True))]
            best = max(best, 1 + most_events(left, window))
    return best


@given(
    pairs=streams,
    lost=losses,
    late=delays,
    cut=st.lists(cuts, min_size=3, max_size=3),
    window=windows,
    one=st.booleans(),
)
@some
def test_event_tables_follow_the_rule_in_any_split(
    pairs: Clicks, lost: Intervals, late: dict[int, int], cut: list[list[int]], window: int,
    one: bool,
) -> None:  # fmt: skip
    groups = ([1, 3], [2], [4])
    finder = timing.EventFinder(groups, window, delays_ps=[only(late, g) for g in groups])
    whole = batch(pairs, lost)
    if one:
        tables = [finder.feed(part) for part in split(whole, cut[0])]
    else:  # three taggers that run ahead of each other
        none = batch([]).split(END)[1]
        parts = itertools.zip_longest(*(split(whole, at) for at in cut), fillvalue=none)
        tables = [finder.feed(*part) for part in parts]
    got = timing.EventTable.joined([*tables, finder.finish()])
    of = by_channel(pairs, lost, late)
    members = [sorted((t, c) for c in group for t, _ in of[c]) for group in groups]
    expected = events_by_rule([[t for t, _ in member] for member in members], window)
    assert got.times_ps.tolist() == expected
    assert len(got) == len(expected)
    assert finder.singles == tuple(map(len, members))
    for column, member in enumerate(members):
        assert (np.diff(got.indices[:, column]) > 0).all()
        for event in range(len(got)):
            t, c = got.times_ps[event, column], got.channels[event, column]
            assert member[got.indices[event, column]][0] == t
            assert (t, c) in member


@given(
    groups=st.lists(st.lists(st.integers(0, 60), max_size=4).map(sorted), min_size=2, max_size=3),
    window=st.integers(0, 40),
)
@some
def test_no_choice_gives_more_events(groups: list[list[int]], window: int) -> None:
    matcher = timing.Matcher(len(groups), window)
    times, numbers = matcher.feed([np.array(g, np.int64) for g in groups], [1 << 62] * len(groups))
    assert len(times) == len(numbers) == most_events(groups, window)
    if len(groups) == 2:
        a, b = (np.array(g, np.int64) for g in groups)
        i, j = timing.match(a, b, window)
        assert numbers.tolist() == [list(pair) for pair in zip(i.tolist(), j.tolist(), strict=True)]


def test_fourfolds_of_a_station_and_two_ends() -> None:
    station = batch([(100, 1), (103, 4), (200, 2), (201, 3), (250, 1)])
    alice = batch([(99, 1), (190, 2), (202, 3)])
    bob = batch([(110, 1), (211, 2), (260, 2)])
    finder = timing.EventFinder([[1, 3], [2, 4], [1, 2, 3, 4], [1, 2]], 10,
                                delays_ps=[{}, {}, {}, {1: 10, 2: 10}])  # fmt: skip
    table = finder.feed(station, station, alice, bob)
    table = timing.EventTable.joined([table, finder.finish()])
    assert table.times_ps.tolist() == [[100, 103, 99, 100], [201, 200, 202, 201]]
    assert table.channels.tolist() == [[1, 4, 1, 1], [3, 2, 3, 2]]
    assert table.indices.tolist() == [[0, 0, 0, 0], [1, 1, 2, 1]]
    assert finder.live_s == pytest.approx(END * 1e-12)


def test_mistakes_are_told() -> None:
    for window in (math.nan, 10.0, 10.5):
        with pytest.raises(ValueError, match="window is a whole number"):
            timing.FoldCounter([1, 2], window)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="window is a whole number"):
            timing.Matcher(2, window)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"a delay is a whole number, not 12\.7"):
        timing.FoldCounter([1, 2], 10, delays_ps={1: 12.7})  # type: ignore[dict-item]
    with pytest.raises(ValueError, match=r"a bin is a whole number, not 100\.0"):
        timing.Histogram(1, 0, 1e2, 100)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="number of bins is a whole number"):
        timing.StartStop(1, 0, 100, 1e2)  # type: ignore[arg-type]
    assert timing.StartStop(1, 0, np.int64(100), 10).finish().delays_ps[0] == 50  # type: ignore[arg-type]
    for window in (-1, 1 << 61):
        with pytest.raises(ValueError, match="full width"):
            timing.FoldCounter([1, 2], window)
        with pytest.raises(ValueError, match="full width"):
            timing.Matcher(2, window)
    with pytest.raises(ValueError, match="distinct channels"):
        timing.FoldCounter([1, 1], 10)
    for fold in ([1], [1, 1], [1, 7]):
        with pytest.raises(ValueError, match="a fold is of two or more"):
            timing.FoldCounter([1, 2], 10, folds=[fold])
    for make in (
        lambda: timing.FoldCounter([1, 2], 10, delays_ps={9: 1}),
        lambda: timing.FoldCounter([1, 2], 10, shifts_ps=[{9: 1}]),
        lambda: timing.Histogram(1, 2, delays_ps={9: 1}),
        lambda: timing.EventFinder([[1], [2]], 10, delays_ps=[{9: 1}, {}]),
    ):
        with pytest.raises(ValueError, match=r"delays for channels \[9\]"):
            make()
    got = timing.FoldCounter([1, 2, 3], 10).finish()
    with pytest.raises(ValueError, match="was not counted"):
        got.count(1, 2, 3)
    with pytest.raises(ValueError, match="channel 4 was not counted"):
        got.count(1, 4)
    with pytest.raises(ValueError, match="distinct channels"):
        got.count(1, 1)
    with pytest.raises(ValueError, match="hold nothing"):
        timing.Histogram(1, 2, 0)
    with pytest.raises(ValueError, match="longer than any"):
        timing.StartStop(1, 2, 1 << 55, 100)
    with pytest.raises(ValueError, match="10 million"):
        timing.Histogram2D(1, 2, 3, 1, 1, 4000, 4000)
    with pytest.raises(ValueError, match="distinct channels"):
        timing.Histogram2D(1, 2, 2, 1, 1, 4, 4)
    for period in (0.0, math.nan, math.inf, -1.0):
        with pytest.raises(ValueError, match="not between"):
            timing.PhaseHistogram([1], 2, period)
    with pytest.raises(ValueError, match="two streams"):
        timing.EventFinder([[1, 2]], 10)
    with pytest.raises(ValueError, match="share a channel"):
        timing.EventFinder([[1, 2], [2]], 10).feed(batch([]))
    with pytest.raises(ValueError, match="3 batches for 2 groups"):
        timing.EventFinder([[1], [2]], 10).feed(batch([]), batch([]), batch([]))
    with pytest.raises(ValueError, match="delays for 1 groups of 2"):
        timing.EventFinder([[1], [2]], 10, delays_ps=[{}])


def test_a_window_too_wide_for_its_folds_is_told() -> None:
    n = 5000
    times = np.sort(np.tile(np.arange(n), 4))
    crowd = TagBatch(times, np.tile(np.arange(1, 5, dtype=np.int16), n), 0, n)
    counter = timing.FoldCounter([1, 2, 3, 4], 10 * n, folds=[(1, 2, 3, 4)])
    with pytest.raises(ValueError, match="is it in ps"):
        fed(counter, crowd, [])


def test_losses_that_outlast_their_batch_hold_nothing_back() -> None:
    lost = (Loss("gap", 50, 500), Loss("gap", 60, 700), Loss("gap", -9, 3))
    first = TagBatch(np.array([2, 40]), np.array([1, 1], np.int16), 0, 100, losses=lost)
    second = TagBatch(np.array([110, 111]), np.array([1, 2], np.int16), 100, 200)
    counter = timing.FoldCounter([1, 2], 10)
    counter.add(first)
    counter.add(second)
    got = counter.finish()
    assert got.singles.tolist() == [2, 1]
    assert got.count(1, 2) == 1
    # The other tagger is ahead; its click waits for what comes up to 100.
    events = timing.EventFinder([[1], [1]], 10)
    ahead = TagBatch(np.array([112]), np.array([1], np.int16), 0, 200)
    assert len(events.feed(first, ahead)) == 0
    empty = TagBatch(ahead.times_ps[1:], ahead.channels[1:], 200, 200)
    assert events.feed(second, empty).times_ps.tolist() == [[110, 112]]
    assert len(events.finish()) == 0


def test_far_delays_and_unnamed_channels_in_long_batches() -> None:
    # Long enough for several chunks, delays of thousands of clicks.
    rng = np.random.default_rng(7)
    n = 150_000
    times = np.sort(rng.integers(0, 10**9, n))
    whole = TagBatch(times, rng.integers(-1, 4, n).astype(np.int16), 0, 10**9)
    late = {1: 10**7, 2: -(10**7), 3: 123}
    got = fed(timing.FoldCounter([1, 2, 3], 4000, delays_ps=late), whole, [10**8, 7 * 10**8])
    counter = timing.CoincidenceCounter(
        [1], [2, 3], 4000, delays_a=only(late, (1,)), delays_b=only(late, (2, 3))
    )
    assert got.pairs[0, 1:].tolist() == fed(counter, whole, []).counts[0].tolist()
    assert got.singles.tolist() == [int((whole.channels == c).sum()) for c in (1, 2, 3)]


def test_memory_does_not_grow_with_the_stream() -> None:
    late = {1: 0, 2: 50_000, 3: -20_000}
    folds = timing.FoldCounter([1, 2, 3], 1000, folds=[(1, 2, 3)], delays_ps=late)
    histogram = timing.Histogram(1, 2, 100, 100)
    two = timing.Histogram2D(1, 2, 3, 100, 100, 10, 10)
    events = timing.EventFinder([[1], [2, 3]], 1000, delays_ps=[{1: 0}, only(late, (2, 3))])
    for k in range(30):
        times = np.arange(k * 10**9, (k + 1) * 10**9, 10**6)
        # Of the last kind of clicks only the first half of the stream holds any.
        channels = (1 + np.arange(times.size) % (3 if k < 15 else 1)).astype(np.int16)
        part = TagBatch(times, channels, k * 10**9, (k + 1) * 10**9)
        for operation in (folds, histogram, two):
            operation.add(part)
        events.feed(part)
        held = folds._passes[0]
        assert held._held.size + held._line.waiting < 5
        assert histogram._starts.size < 5
        assert sum(x.size for x in two._held) < 10
        assert sum(x.size for x in events._matcher._waiting) < 10
        assert sum(x.size for x in events._which) < 10
        assert sum(x.size for x in events._matcher._ahead) < 10


def test_a_tagger_far_ahead_costs_no_more_than_its_clicks() -> None:
    # What waits is not copied with every batch that comes.
    finder = timing.EventFinder([[1], [2]], 10)
    none = TagBatch(np.zeros(0, np.int64), np.zeros(0, np.int16), 0, 0)
    times = np.arange(0, 1000, 100)
    for k in range(20):
        begin, end = 1000 * k, 1000 * k + 1000
        part = TagBatch(times + begin, np.ones(10, np.int16), begin, end)
        assert len(finder.feed(part, none)) == 0
        assert finder._matcher._waiting[0].size <= 1
    assert finder._matcher.taken == [200, 0]
    for k in range(20):
        begin, end = 1000 * k, 1000 * k + 1000
        part = TagBatch(times + begin, np.full(10, 2, np.int16), begin, end)
        empty = TagBatch(none.times_ps, none.channels, 20_000, 20_000)
        found = finder.feed(empty, part)
        assert found.times_ps[:, 0].tolist() == (times + begin).tolist()
        assert found.indices[:, 0].tolist() == list(range(10 * k, 10 * k + 10))


def each() -> list[Any]:
    """Every operation of this kind, with a way to feed it."""
    return [
        timing.FoldCounter([1, 2], 10),
        timing.StartStop(2, 1, 10, 10),
        timing.Histogram(2, 1, 10, 10),
        timing.Histogram2D(1, 2, 3, 10, 10, 10, 10),
        timing.PhaseHistogram([1], 2, 10.0),
        timing.Counter([1, 2], 10),
        timing.EventFinder([[1], [2]], 10),
    ]


def test_batches_come_in_order_once_each_and_not_after_the_end() -> None:
    one, two, three = split(batch([(5, 1), (108, 2)]), [100, 200])
    for operation in each():
        add = getattr(operation, "add", None) or operation.feed
        add(two)
        for wrong in (two, one):
            with pytest.raises(ValueError, match="does not follow on the last, which ended at 200"):
                add(wrong)
        operation.finish()
        with pytest.raises(
            ValueError, match=f"^{type(operation).__name__} is finished: make a new"
        ):
            add(three)
        missing = each()[[type(x) for x in each()].index(type(operation))]
        add = getattr(missing, "add", None) or missing.feed
        add(one)
        with pytest.raises(ValueError, match="none may be left out"):
            add(three)


@given(pairs=streams, cut=cuts)
@some
def test_looking_ends_nothing(pairs: Clicks, cut: list[int]) -> None:
    late = {1: 30}
    for looked, other in zip(each()[:6], each()[:6], strict=True):
        for part in split(batch(pairs), cut):
            looked.add(part)
            looked.so_far()
            other.add(part)
        assert repr(vars(looked.so_far()).keys()) == repr(vars(looked.finish()).keys())
        a, b = vars(looked.finish()), vars(other.finish())
        assert all(np.array_equal(a[name], b[name]) for name in a)
    waits = timing.FoldCounter([1, 2], 10, delays_ps=late)
    waits.add(batch([(299, 2)]))
    assert (waits.so_far().count(2), waits.finish().count(2)) == (0, 1)


def test_a_loss_without_length_at_the_edge_of_batches_cuts_in_either() -> None:
    for kind in ("clock", "gap"):
        loss = Loss(kind, 100, 100)
        whole = TagBatch(np.array([90, 110]), np.array([1, 2], np.int16), 0, 200, losses=(loss,))
        first, second = whole.split(100)
        told_before = TagBatch(first.times_ps, first.channels, 0, 100, losses=(loss,))
        told_after = TagBatch(second.times_ps, second.channels, 100, 200, losses=(loss,))
        untold = TagBatch(second.times_ps, second.channels, 100, 200)
        for parts in (
            [whole],
            [told_before, untold],
            [first, told_after],
            [told_before, told_after],
        ):
            for operation in (timing.StartStop(2, 1, 10, 10), timing.Histogram(2, 1, 10, 10)):
                for part in parts:
                    operation.add(part)
                assert operation.finish().counts.sum() == 0
            folds, events = timing.FoldCounter([1, 2], 40), timing.EventFinder([[1], [2]], 40)
            found = 0
            for part in parts:
                folds.add(part)
                found += len(events.feed(part))
            found += len(events.finish())
            assert folds.finish().count(1, 2) == found == (kind != "clock")


@given(
    pairs=streams,
    lost=losses,
    kinds=st.lists(st.sampled_from(("clock", "overflow")), min_size=3, max_size=3),
    late=delays,
    cut=cuts,
    window=windows,
)
@some
def test_nothing_is_counted_across_a_step_of_the_clock(
    pairs: Clicks,
    lost: Intervals,
    kinds: list[str],
    late: dict[int, int],
    cut: list[int],
    window: int,
) -> None:
    plain = batch(pairs)
    gone = tuple(Loss(k, b, e) for k, (b, e) in zip(kinds, lost, strict=False))
    whole = TagBatch(plain.times_ps, plain.channels, 0, END, losses=gone)
    got = fed(timing.FoldCounter([1, 2, 3], window, folds=[(1, 2, 3)],
                                 delays_ps=only(late, (1, 2, 3))), whole, cut)  # fmt: skip
    steps = [x.begin_ps for x in gone if x.kind == "clock"]
    of: dict[int, list[tuple[int, int]]] = {1: [], 2: [], 3: []}
    for t, c in pairs:
        if c in of and not any(x.begin_ps <= t < x.end_ps for x in gone):
            of[c].append((t - late[c], sum(step <= t for step in steps)))
    for channels in ((1, 2), (2, 3), (1, 2, 3)):
        assert got.count(*channels) == sum(
            2 * (max(some)[0] - min(some)[0]) <= window and len({k for _, k in some}) == 1
            for some in itertools.product(*(of[c] for c in channels))
        )
    finder = timing.EventFinder([[1], [2]], window, delays_ps=[{1: late[1]}, {2: late[2]}])
    tables = [finder.feed(part) for part in split(whole, cut)]
    events = timing.EventTable.joined([*tables, finder.finish()])
    matched = events_by_rule([sorted(t for t, _ in of[c]) for c in (1, 2)], window)
    apart = [
        sum(step <= a + late[1] for step in steps) != sum(step <= b + late[2] for step in steps)
        for a, b in matched
    ]
    expected = [pair for pair, torn in zip(matched, apart, strict=True) if not torn]
    assert events.times_ps.tolist() == expected


def test_events_of_two_streams_are_not_counted_across_a_step_of_either() -> None:
    loss = (Loss("clock", 1095, 1095),)
    a = TagBatch(np.array([90, 200]), np.array([1, 1], np.int16), 0, 300)
    b = TagBatch(np.array([1097, 1201]), np.array([2, 2], np.int16), 0, 1300, losses=loss)
    finder = timing.EventFinder([[1], [2]], 40, delays_ps=[{}, {2: 1000}])
    found = timing.EventTable.joined([finder.feed(a, b), finder.finish()])
    assert found.times_ps.tolist() == [[200, 201]]
    assert not finder._steps


@pytest.mark.parametrize("per_batch", [1, 7, 300])
def test_long_delays_wait_in_queues_and_give_the_same(per_batch: int) -> None:
    rng = np.random.default_rng(8)
    n, end = 9000, 900_000
    times = np.sort(rng.integers(0, end, n))
    whole = TagBatch(times, rng.integers(0, 5, n).astype(np.int16), 0, end)
    late = {1: 0, 2: 400_000, 3: -1000, 4: 400_000}
    parts = split(whole, times[per_batch * 3 :: per_batch * 3].tolist())
    one, many = (timing.FoldCounter([1, 2, 3, 4], 300, delays_ps=late) for _ in range(2))
    finder = timing.EventFinder(
        [[1, 3], [2, 4]], 300, delays_ps=[{3: -1000}, {2: 400_000, 4: 400_000}]
    )
    other = timing.EventFinder(
        [[1, 3], [2, 4]], 300, delays_ps=[{3: -1000}, {2: 400_000, 4: 400_000}]
    )
    one.add(whole)
    tables = []
    for part in parts:
        many.add(part)
        tables.append(finder.feed(part))
        line = many._passes[0]._line
        assert line._times.size <= 2048  # what is copied with each batch
    assert line._lanes
    assert many.finish().pairs.tolist() == one.finish().pairs.tolist()
    expected = timing.EventTable.joined([other.feed(whole), other.finish()])
    got = timing.EventTable.joined([*tables, finder.finish()])
    assert got.times_ps.tolist() == expected.times_ps.tolist()
    assert got.channels.tolist() == expected.channels.tolist()
    assert got.indices.tolist() == expected.indices.tolist()


def test_many_losses_in_a_batch_part_it_once() -> None:
    # A piece per loss with clicks after it, not per loss.
    losses = tuple(Loss("overflow", 10 * k, 10 * k + 5) for k in range(20_000))
    times = np.arange(7, 200_000, 1000)
    whole = TagBatch(times, np.ones(times.size, np.int16), 0, 200_000, losses=losses)
    stops = timing.StartStop(1, None, 1000, 10)
    assert len(list(stops._line._parts(whole))) <= times.size + 2
    stops.add(whole)
    got = stops.finish()
    assert (got.clicks, got.counts.sum()) == (times.size, 0)
    folds = timing.FoldCounter([1], 10)
    assert len(list(folds._passes[0]._line._parts(whole))) == 1
