"""Counting, correlating and matching: against brute force, in any split."""

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pytest
from bellbench.instruments import Loss, TagBatch
from bellbench.protocols import timing
from hypothesis import given, settings
from hypothesis import strategies as st

Clicks = list[tuple[int, int]]

clicks = st.lists(st.tuples(st.integers(0, 300), st.integers(1, 3)), max_size=30).map(sorted)
cuts = st.lists(st.integers(0, 301), max_size=4)
delay = st.integers(-60, 60)
delays = st.fixed_dictionaries({1: delay, 2: delay, 3: delay})


def batch(pairs: Clicks, end: int = 301, losses: tuple[Loss, ...] = ()) -> TagBatch:
    times = np.array([t for t, _ in pairs], np.int64)
    channels = np.array([c for _, c in pairs], np.int16)
    return TagBatch(times, channels, 0, end, losses=losses)


def split(whole: TagBatch, at: Sequence[int]) -> list[TagBatch]:
    parts = []
    for cut in sorted(at):
        first, whole = whole.split(cut)
        parts.append(first)
    return [*parts, whole]


def in_pieces(a: TagBatch, b: TagBatch, at_a: list[int], at_b: list[int]) -> list[list[TagBatch]]:
    """Both streams cut on their own, an empty batch standing in for the one that has ended."""
    parts = [split(a, at_a), split(b, at_b)]
    empty = batch([]).split(301)[1]
    return [list(pair) for pair in itertools.zip_longest(*parts, fillvalue=empty)]


@given(a=clicks, b=clicks, da=delays, db=delays, cut_a=cuts, cut_b=cuts, window=st.integers(0, 50))
@settings(max_examples=150, deadline=None)
def test_coincidences_are_all_pairs_in_any_split(
    a: Clicks,
    b: Clicks,
    da: dict[int, int],
    db: dict[int, int],
    cut_a: list[int],
    cut_b: list[int],
    window: int,
) -> None:
    shifts = (100, -70, 30)
    counter = timing.CoincidenceCounter(
        (1, 2), (3, 1), window, delays_a=da, delays_b=db, shifts_ps=shifts
    )
    for part_a, part_b in in_pieces(batch(a), batch(b), cut_a, cut_b):
        counter.add(part_a, part_b)
    got = counter.finish()
    for k, shift in enumerate((0, *shifts)):
        expected = [
            [
                sum(
                    2 * abs((tb - db[cb]) - (ta - da[ca]) - shift) <= window
                    for ta, ca in a
                    for tb, cb in b
                    if (ca, cb) == (row, column)
                )
                for column in (3, 1)
            ]
            for row in (1, 2)
        ]
        counts = got.counts if k == 0 else got.shifted[k - 1]
        assert counts.tolist() == expected


@given(a=clicks, b=clicks, cut_a=cuts, cut_b=cuts, late=delay, bins=st.integers(1, 40))
@settings(max_examples=150, deadline=None)
def test_cross_correlation(
    a: Clicks, b: Clicks, cut_a: list[int], cut_b: list[int], late: int, bins: int
) -> None:
    histogram = timing.CorrelationHistogram(1, 2, 7 * bins + 3, 7, delay_ps=late)
    for part_a, part_b in in_pieces(batch(a), batch(b), cut_a, cut_b):
        histogram.add(part_a, part_b)
    got = histogram.finish()
    left = -((7 * bins) // 2)
    steps = [tb - late - ta for ta, ca in a if ca == 1 for tb, cb in b if cb == 2]
    expected = np.histogram(steps, left + 7 * np.arange(bins + 1))[0]
    expected[-1] -= sum(step == left + 7 * bins for step in steps)  # numpy closes the last bin
    assert got.counts.tolist() == expected.tolist()
    assert got.delays_ps.tolist() == [left + 7 * k + 3.5 for k in range(bins)]
    assert got.singles_a == sum(c == 1 for _, c in a)
    assert got.singles_b == sum(c == 2 for _, c in b)


@given(a=clicks, cut=cuts, bins=st.integers(1, 40), late=delay)
@settings(max_examples=100, deadline=None)
def test_autocorrelation_leaves_out_each_click_itself(
    a: Clicks, cut: list[int], bins: int, late: int
) -> None:
    histogram = timing.CorrelationHistogram(1, 1, 7 * bins, 7, delay_ps=late)
    for part in split(batch(a), cut):
        histogram.add(part)
    times = [t for t, c in a if c == 1]
    left = -((7 * bins) // 2)
    expected = [0] * bins
    for (i, ta), (j, tb) in itertools.product(enumerate(times), repeat=2):
        place = (tb - late - ta - left) // 7
        if i != j and 0 <= place < bins:
            expected[place] += 1
    assert histogram.finish().counts.tolist() == expected


def oracle_match(a: list[int], b: list[int], window: int) -> list[tuple[int, int]]:
    pairs: list[tuple[int, int]] = []
    free = set(range(len(b)))
    for i, ta in enumerate(a):
        near = [j for j in sorted(free) if 2 * abs(b[j] - ta) <= window]
        if near:
            pairs.append((i, near[0]))
            free -= set(range(near[0] + 1))
    return pairs


def most_pairs(a: list[int], b: list[int], window: int) -> int:
    """Largest one-to-one matching, by dynamic programming over prefixes."""
    best = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i, j in itertools.product(range(len(a)), range(len(b))):
        near = 2 * abs(a[i] - b[j]) <= window
        best[i + 1][j + 1] = max(best[i][j + 1], best[i + 1][j], best[i][j] + near)
    return best[-1][-1]


@given(
    a=st.lists(st.integers(0, 200), max_size=30).map(sorted),
    b=st.lists(st.integers(0, 200), max_size=30).map(sorted),
    window=st.integers(0, 40),
)
@settings(max_examples=200, deadline=None)
def test_match_is_one_to_one_earliest_first_and_as_large_as_can_be(
    a: list[int], b: list[int], window: int
) -> None:
    i, j = timing.match(np.array(a, np.int64), np.array(b, np.int64), window)
    assert list(zip(i.tolist(), j.tolist(), strict=True)) == oracle_match(a, b, window)
    assert len(i) == most_pairs(a, b, window)


def test_match_example() -> None:
    a = np.array([100, 200, 210, 400], np.int64)
    b = np.array([105, 195, 215, 500], np.int64)
    i, j = timing.match(a, b, 10)
    assert (i.tolist(), j.tolist()) == ([0, 1, 2], [0, 1, 2])
    assert timing.match(a, b, 9)[0].size == 0  # 5 > 4.5: the window is a full width
    with pytest.raises(ValueError, match="full width"):
        timing.match(a, b, -1)


def test_clicks_inside_losses_do_not_count() -> None:
    pairs = [(10, 1), (12, 2), (100, 1), (101, 2), (149, 2), (150, 1), (151, 2)]
    lossy = batch(pairs, 1000, (Loss("overflow", 100, 150, 9),))
    rates = timing.CountRates()
    rates.add(lossy)
    assert rates.counts == {1: 2, 2: 2}
    assert rates.lost == 9
    assert rates.live_s == pytest.approx(950e-12)
    assert rates.duration_s == pytest.approx(1000e-12)
    assert rates.rate_hz(1) == pytest.approx(2 / 950e-12)
    assert rates.rate_hz(7) == 0
    counter = timing.CoincidenceCounter([1], [2], 10)
    counter.add(lossy)
    assert counter.finish().counts.tolist() == [[2]]
    histogram = timing.CorrelationHistogram(1, 2, 10, 1)
    histogram.add(lossy)
    assert histogram.finish().counts.sum() == 2


def test_rates_of_falling_edges_and_of_nothing() -> None:
    rates = timing.CountRates()
    assert math.isnan(rates.rate_hz(1))
    rates.add(batch([(1, -2), (2, 3), (3, -2)]))
    rates.add(batch([]).split(301)[1])
    assert rates.counts == {-2: 2, 3: 1}


def poisson(seed: int, rates: dict[int, float], seconds: float) -> TagBatch:
    rng = np.random.default_rng(seed)
    times, channels = [], []
    for channel, rate in rates.items():
        some = rng.integers(0, int(seconds * 1e12), rng.poisson(rate * seconds))
        times.append(some)
        channels.append(np.full(some.size, channel, np.int16))
    order = np.argsort(np.concatenate(times), kind="stable")
    return TagBatch(
        np.concatenate(times)[order],
        np.concatenate(channels)[order],
        0,
        int(seconds * 1e12),
    )


def test_uncorrelated_streams_have_g2_of_one_and_the_accidentals_of_theory() -> None:
    stream = poisson(3, {1: 1e6, 2: 5e5}, 1.0)
    histogram = timing.CorrelationHistogram(1, 2, 100_000, 1000)
    counter = timing.CoincidenceCounter(
        [1], [2], 300, shifts_ps=[k * 10_000 for k in range(-10, 11) if k]
    )
    for part in split(stream, [10**11, 5 * 10**11]):
        histogram.add(part)
        counter.add(part)
    correlation = histogram.finish()
    # 1e6 * 5e5 * 1 ns = 500 per bin; 100 bins: the mean is good to 1/sqrt(50000).
    assert correlation.expected == pytest.approx(500, rel=0.01)
    assert correlation.g2.mean() == pytest.approx(1, abs=3 / math.sqrt(50_000))
    value, sigma = correlation.g2_within(20_000)
    assert abs(value - 1) < 3 * sigma
    assert sigma == pytest.approx(1 / math.sqrt(500 * 20), rel=0.05)
    got = counter.finish()
    # Closed window of 300 ps in whole ps: 301 values.
    assert got.accidentals[0, 0] == pytest.approx(5e11 * 301e-12, abs=3 * math.sqrt(150.5 / 20))
    assert got.car == pytest.approx(0, abs=0.3)


def test_coincidences_without_wrong_delays_have_no_car() -> None:
    counter = timing.CoincidenceCounter([1], [2], 10)
    counter.add(batch([(1, 1), (2, 2)]))
    assert math.isnan(counter.finish().car)


def test_mistakes() -> None:
    with pytest.raises(ValueError, match="would coincide with themselves"):
        timing.CoincidenceCounter([1, 2], [2], 10).add(batch([]))
    with pytest.raises(ValueError, match="distinct channels"):
        timing.CoincidenceCounter([1, 1], [2], 10)
    with pytest.raises(ValueError, match="full width"):
        timing.CoincidenceCounter([1], [2], -1)
    with pytest.raises(ValueError, match="no bin of 20 ps"):
        timing.CorrelationHistogram(1, 2, 10, 20)
    with pytest.raises(ValueError, match="10 million bins"):
        timing.CorrelationHistogram(1, 2, 10**9, 1)


def test_memory_does_not_grow_with_the_stream() -> None:
    counter = timing.CoincidenceCounter([1], [2], 1000, delays_b={2: 50_000})
    for k in range(50):
        times = np.arange(k * 10**9, (k + 1) * 10**9, 10**6)
        channels = (1 + np.arange(times.size) % 2).astype(np.int16)
        counter.add(TagBatch(times, channels, k * 10**9, (k + 1) * 10**9))
        assert counter._pairing._a.size + counter._pairing._b.size < 10
