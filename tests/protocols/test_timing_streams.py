"""Counting, correlating and matching: against brute force, in any split."""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from unittest import mock

import numpy as np
import pytest
from bellbench.instruments import Loss, TagBatch
from bellbench.protocols import timing
from bellbench.protocols.timing import _kernels, _streams
from bellbench.protocols.timing._delays import DelayLine
from hypothesis import given, settings
from hypothesis import strategies as st

Clicks = list[tuple[int, int]]

# Clicks are counted as soon as they can be, not when many wait: the watermarks are what is tested.
in_small_pieces = mock.patch.multiple(_streams, _FEW=0, _PIECE=4)

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


@in_small_pieces
@given(
    a=clicks,
    b=clicks,
    da=delays,
    db=delays,
    cut_a=cuts,
    cut_b=cuts,
    window=st.integers(0, 50),
    shifts=st.sampled_from([(), (100, -70, 51)]),
)
@settings(max_examples=60, deadline=None)
def test_coincidences_are_all_pairs_in_any_split(
    a: Clicks,
    b: Clicks,
    da: dict[int, int],
    db: dict[int, int],
    cut_a: list[int],
    cut_b: list[int],
    window: int,
    shifts: tuple[int, ...],
) -> None:
    counter = timing.CoincidenceCounter(
        (1, 2),
        (3, 1),
        window,
        delays_a={c: da[c] for c in (1, 2)},
        delays_b={c: db[c] for c in (3, 1)},
        shifts_ps=shifts,
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


@in_small_pieces
@given(a=clicks, b=clicks, cut_a=cuts, cut_b=cuts, late=delay, bins=st.integers(1, 40))
@settings(max_examples=60, deadline=None)
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


@in_small_pieces
@given(a=clicks, cut=cuts, bins=st.integers(1, 40), late=delay)
@settings(max_examples=50, deadline=None)
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
@settings(max_examples=60, deadline=None)
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


@in_small_pieces
def test_a_click_on_the_watermark_still_finds_its_partner() -> None:
    whole = TagBatch(np.array([0, 5], np.int64), np.array([1, 2], np.int16), 0, 6)
    counter = timing.CoincidenceCounter([1], [2], 10)
    for part in whole.split(5):
        counter.add(part)
    assert counter.finish().counts.tolist() == [[1]]


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
    assert correlation.expected == pytest.approx(np.full(100, 500), rel=0.01)
    assert correlation.g2.mean() == pytest.approx(1, abs=3 / math.sqrt(50_000))
    g2 = timing.g2_zero(correlation, 20_000, from_rates=True)
    assert abs(g2.value - 1) < 3 * g2.sigma
    assert g2.sigma == pytest.approx(1 / math.sqrt(500 * 20), rel=0.05)
    got = counter.finish()
    # Closed window of 300 ps in whole ps: 301 values.
    assert got.accidentals[0, 0] == pytest.approx(5e11 * 301e-12, abs=3 * math.sqrt(150.5 / 20))
    car = timing.car(got)
    assert abs(car.value) < 3 * car.sigma < 0.3


def test_coincidences_without_wrong_delays_have_no_car() -> None:
    counter = timing.CoincidenceCounter([1], [2], 10)
    counter.add(batch([(1, 1), (2, 2)]))
    assert math.isnan(timing.car(counter.finish()).value)


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
    for shift in (0, 10, -10):
        with pytest.raises(ValueError, match="true pairs as accidentals"):
            timing.CoincidenceCounter([1], [2], 10, shifts_ps=[50, shift])
    with pytest.raises(ValueError, match=r"delays for channels \[5\], which are not among \[2\]"):
        timing.CoincidenceCounter([1], [2], 10, delays_b={5: 100})


def test_fractions_of_a_picosecond_are_refused() -> None:
    half: Any = 12.5
    many: Any = 100.0
    makes: list[Callable[[], object]] = [
        lambda: timing.CoincidenceCounter([1], [2], many),
        lambda: timing.CoincidenceCounter([1], [2], 10, delays_a={1: half}),
        lambda: timing.CoincidenceCounter([1], [2], 10, shifts_ps=[half]),
        lambda: timing.CorrelationHistogram(1, 2, many, 10),
        lambda: timing.CorrelationHistogram(1, 2, 100, half),
        lambda: timing.CorrelationHistogram(1, 2, 100, 10, delay_ps=half),
        lambda: timing.HistogramLogBins(1, 2, many, 1000, 5),
        lambda: timing.HistogramLogBins(1, 2, 100, 1000, many),
        lambda: timing.HeraldedG2(1, 2, 3, many),
        lambda: timing.HeraldedG2(1, 2, 3, 100, delays_ps={2: half}),
        lambda: timing.match(np.zeros(1, np.int64), np.zeros(1, np.int64), half),
    ]
    for make in makes:
        with pytest.raises(ValueError, match="is a whole number, not 1"):
            make()
    timing.CoincidenceCounter([1], [2], np.int64(10), shifts_ps=np.array([50]))  # type: ignore[arg-type]


@pytest.mark.parametrize("channels", [(1, 2), (1, 1)])
def test_what_is_counted_so_far_is_what_can_no_longer_change(channels: tuple[int, int]) -> None:
    stream = poisson(4, {1: 3e6, 2: 2e6}, 0.01)
    first, rest = stream.split(6 * 10**9)
    makes: list[Callable[[], Any]] = [
        lambda: timing.CorrelationHistogram(*channels, 10**6, 10**4),
        lambda: timing.HistogramLogBins(*channels, 10**3, 10**6, 20),
        lambda: timing.CoincidenceCounter([1], [2], 10**5),
    ]
    for make in makes:
        one, alone = make(), make()
        empty = one.so_far()
        assert not empty.counts.any()
        one.add(first)
        early = one.so_far()
        alone.add(first)
        whole = alone.finish().counts
        assert (early.counts <= whole).all()
        assert early.counts.sum() == pytest.approx(whole.sum(), rel=0.01)
        assert (early.counts >= 0).all()
        one.add(rest)
        fresh = one.finish()
        assert (fresh.counts >= early.counts).all()
        assert fresh.counts.sum() > 1.5 * early.counts.sum()


def test_nothing_is_added_after_the_end() -> None:
    operations: list[Any] = [
        timing.CoincidenceCounter([1], [2], 10),
        timing.CorrelationHistogram(1, 2, 100, 10),
        timing.HistogramLogBins(1, 2, 10, 100, 5),
        timing.HeraldedG2(1, 2, 3, 10),
    ]
    for one in operations:
        one.add(batch([(1, 1), (15, 2), (20, 1)]))
        first, again = one.finish(), one.finish()
        assert str(first) == str(again)
        with pytest.raises(ValueError, match=f"{type(one).__name__} is finished: make a new one"):
            one.add(batch([]).split(301)[1])


def pieces(seconds: int, rates: dict[int, float], silent: int | None = None) -> Iterator[TagBatch]:
    """A stream in batches of 50 ms, uniformly random; ``silent`` never clicks."""
    rng = np.random.default_rng(8)
    step = 5 * 10**10
    for begin in range(0, seconds * 10**12, step):
        parts = [
            (rng.integers(begin, begin + step, int(rate * step * 1e-12)), channel)
            for channel, rate in rates.items()
            if channel != silent
        ]
        times = np.concatenate([times for times, _ in parts])
        channels = np.concatenate([np.full(t.size, c, np.int16) for t, c in parts])
        order = np.argsort(times)
        yield TagBatch(times[order], channels[order], begin, begin + step)


@pytest.mark.parametrize("silent", [None, 1, 2])
def test_memory_does_not_grow_with_the_stream(silent: int | None) -> None:
    counter = timing.CoincidenceCounter([1], [2], 1000, delays_b={2: 50_000})
    histogram = timing.CorrelationHistogram(1, 2, 10**8, 10**6)
    logarithmic = timing.HistogramLogBins(1, 2, 100, 10**10, 30)
    held = []
    for part in pieces(1, {1: 4e5, 2: 4e5}, silent):
        for operation in (counter, histogram, logarithmic):
            operation.add(part)
        held.append(sum(each._pairs.held for each in (counter, histogram, logarithmic)))
    assert max(held[2:]) == held[2]


def test_memory_holds_the_lead_of_one_tagger_and_gives_it_back() -> None:
    counter = timing.CoincidenceCounter([1], [2], 1000)
    alone = list(pieces(2, {1: 1e6}))
    late = list(pieces(2, {2: 1e5}))
    counter.add(alone[0], late[0])
    at_rest = counter._pairs.held
    for part in alone[1:]:
        counter.add(part, late[0].split(late[0].end_ps)[1])
    assert counter._pairs.held < 4 * 2 * 10**6 + at_rest
    for part in late[1:]:
        counter.add(alone[-1].split(alone[-1].end_ps)[1], part)
    counter.add(*(part.split(part.end_ps)[1] for part in (alone[-1], late[-1])))
    assert counter._pairs.held <= 4 * at_rest


def stretched(a: Clicks, factor: int, origin: int) -> TagBatch:
    times = np.array([origin + factor * t for t, _ in a], np.int64)
    channels = np.array([c for _, c in a], np.int16)
    return TagBatch(times, channels, origin, origin + factor * 301)


@given(
    a=clicks,
    b=clicks,
    factor=st.sampled_from([1, 10**3, 10**15]),
    at=st.sampled_from(["first", "zero", "last"]),
    bins=st.integers(1, 400),
)
@settings(max_examples=40, deadline=None)
def test_times_of_any_size(a: Clicks, b: Clicks, factor: int, at: str, bins: int) -> None:
    last = 1 << 62
    origin = {"first": -last, "zero": 0, "last": last + 1 - 301 * factor}[at]
    batches = stretched(a, factor, origin), stretched(b, factor, origin)
    half = 20 * factor
    counter = timing.CoincidenceCounter([1], [2], 2 * half, shifts_ps=[100 * factor])
    counter.add(*batches)
    width = max(1, factor * 300 // bins)
    histogram = timing.CorrelationHistogram(1, 2, bins * width, width)
    histogram.add(*batches)
    steps = [
        int(tb) - int(ta)
        for ta in batches[0].times_ps[batches[0].channels == 1]
        for tb in batches[1].times_ps[batches[1].channels == 2]
    ]
    got = counter.finish()
    assert got.counts[0, 0] == sum(abs(step) <= half for step in steps)
    assert got.shifted[0, 0, 0] == sum(abs(step - 100 * factor) <= half for step in steps)
    expected = [0] * bins
    for step in steps:
        if 0 <= (place := (step + bins * width // 2) // width) < bins:
            expected[place] += 1
    assert histogram.finish().counts.tolist() == expected


def test_times_beyond_the_limits_are_refused() -> None:
    none = np.zeros(0, np.int64), np.zeros(0, np.int16)
    counter = timing.CoincidenceCounter([1], [2], 10)
    with pytest.raises(ValueError, match=r"2\*\*62 ps \(53 days\)"):
        counter.add(TagBatch(*none, 0, (1 << 62) + 2))
    with pytest.raises(ValueError, match=r"2\*\*62 ps \(53 days\)"):
        counter.add(TagBatch(*none, -(1 << 62) - 1, 0))
    counter.add(TagBatch(*none, 0, 100))
    with pytest.raises(ValueError, match="begins at 99 ps, before 100 ps"):
        counter.add(TagBatch(*none, 99, 200))
    with pytest.raises(ValueError, match="began with one stream"):
        counter.add(TagBatch(*none, 100, 200), TagBatch(*none, 100, 200))
    with pytest.raises(ValueError, match=r"beyond 2\*\*61 ps"):
        timing.CoincidenceCounter([1], [2], 10, shifts_ps=[1 << 61])
    with pytest.raises(ValueError, match=r"beyond 2\*\*61 ps"):
        timing.CorrelationHistogram(1, 2, 100, 10, delay_ps=-(1 << 100))
    with pytest.raises(ValueError, match=r"up to 2\*\*62 ps"):
        timing.match(*none, 1 << 62)  # type: ignore[arg-type]


@pytest.mark.parametrize("span", [10**3, 10**5, 10**7, 10**9, 4 * 10**9])
@pytest.mark.parametrize("step", [1, 10**5])
def test_few_pairs_and_many(span: int, step: int) -> None:
    """From pairs counted one by one to pairs counted by the ranks of the edges."""
    stream = poisson(5, {1: 1e6, 2: 6e5}, 0.004)
    times = stream.times_ps // step * step  # many at the same time
    stream = TagBatch(times, stream.channels, 0, stream.end_ps)
    a, b = (stream.times_ps[stream.channels == channel] for channel in (1, 2))
    edges = np.arange(-span // 2, span // 2 + 1, span // 50)
    counter = timing.CoincidenceCounter([1], [2], span, shifts_ps=[4 * span // 3])
    alone = timing.CoincidenceCounter([1], [2], span)
    histogram = timing.CorrelationHistogram(1, 2, span, span // 50)
    for part in split(stream, [10**9, 3 * 10**9]):
        counter.add(part)
        alone.add(part)
        histogram.add(part)
    ranks = np.array([np.searchsorted(b, a + edge).sum() for edge in edges])
    assert histogram.finish().counts.tolist() == np.diff(ranks).tolist()
    got = counter.finish()
    assert alone.finish().counts.tolist() == got.counts.tolist()
    for shift, count in ((0, got.counts), (4 * span // 3, got.shifted[0])):
        until = np.searchsorted(b, a + shift + span // 2, "right").sum()
        assert count[0, 0] == until - np.searchsorted(b, a + shift - span // 2).sum()


@given(width=st.integers(1, 10**8), bins=st.integers(1, 10**7), data=st.data())
@settings(max_examples=40, deadline=None)
def test_bins_are_exact_at_their_edges(width: int, bins: int, data: st.DataObject) -> None:
    """The product with 1/width must not carry a difference over an edge."""
    place = data.draw(st.integers(0, bins - 1))
    steps = {place * width, place * width + width - 1, place * width + width // 2}
    counts = np.zeros(bins, np.int64)
    _kernels.histogram(np.zeros(1, np.int64), np.array(sorted(steps)), 0, width, counts)
    assert counts[place] == len(steps) == counts.sum()


def test_unordered_times_do_no_harm() -> None:
    """Order is not checked for speed's sake: nonsense comes out, but nothing breaks."""
    rng = np.random.default_rng(1)
    for size in (10, 1000, 20_000):
        times = rng.integers(0, 10**6, size)
        times[0], times[-1] = 0, 10**6 - 1
        mixed = TagBatch(times, rng.integers(1, 3, size).astype(np.int16), 0, 10**6)
        counter = timing.CoincidenceCounter([1], [2], 100, shifts_ps=[1000])
        histogram = timing.CorrelationHistogram(1, 2, 1000, 10)
        counter.add(mixed)
        histogram.add(mixed)
        assert histogram.finish().counts.size == 100
        assert counter.finish().counts.shape == (1, 1)


@in_small_pieces
@given(
    a=clicks,
    b=clicks,
    cut_a=cuts,
    cut_b=cuts,
    late=delay,
    first=st.integers(1, 50),
    wide=st.integers(1, 300),
    bins=st.integers(1, 40),
    own=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_logarithmic_bins(
    a: Clicks,
    b: Clicks,
    cut_a: list[int],
    cut_b: list[int],
    late: int,
    first: int,
    wide: int,
    bins: int,
    own: bool,
) -> None:
    second = 1 if own else 2
    histogram = timing.HistogramLogBins(second, 1, first, first + wide, bins, delay_ps=late)
    if own:
        b = a
        for part in split(batch(a), cut_a):
            histogram.add(part)
    else:
        for part_a, part_b in in_pieces(batch(a), batch(b), cut_a, cut_b):
            histogram.add(part_b, part_a)
    got = histogram.finish()
    edges = got.edges_ps.tolist()
    assert (edges[0], edges[-1]) == (first, first + wide)
    assert edges == sorted(set(edges))
    assert len(edges) <= bins + 1
    expected = [0] * (len(edges) - 1)
    for (i, (ta, ca)), (j, (tb, cb)) in itertools.product(enumerate(a), enumerate(b)):
        step = tb - late - ta
        if (ca, cb) == (1, second) and not (own and i == j) and first <= step < first + wide:
            expected[int(np.searchsorted(edges, step, "right")) - 1] += 1
    assert got.counts.tolist() == expected


def test_logarithmic_bins_grow_by_one_factor_and_are_whole() -> None:
    got = timing.HistogramLogBins(1, 2, 1, 10**12, 120).finish()
    assert got.edges_ps[[0, -1]].tolist() == [1, 10**12]
    growth = got.edges_ps[-60:] / got.edges_ps[-61:-1]
    assert growth == pytest.approx(np.full(60, 10**0.1), rel=1e-5)
    assert got.delays_ps[-1] == pytest.approx(10**11.95, rel=1e-5)
    assert np.isnan(got.g2).all()
    assert np.isnan(got.g2_sigma).all()
    with pytest.raises(ValueError, match="no logarithmic bins from 0 to 5 ps"):
        timing.HistogramLogBins(1, 2, 0, 5, 3)
    with pytest.raises(ValueError, match="1 to 100000 bins"):
        timing.HistogramLogBins(1, 2, 1, 5, 0)


def test_independent_clicks_have_g2_of_one_through_losses_and_to_the_end() -> None:
    stream = poisson(11, {1: 2e5, 2: 1e5}, 1.0)
    # A third of the time lost, and delays up to 0.8 of the recording.
    gaps = tuple(Loss("gap", k * 10**11, k * 10**11 + 3 * 10**10) for k in range(1, 10))
    alive = np.ones(len(stream), np.bool_)
    for gap in gaps:
        alive &= ~((stream.times_ps >= gap.begin_ps) & (stream.times_ps < gap.end_ps))
    lossy = TagBatch(stream.times_ps, stream.channels, 0, 10**12, losses=gaps)
    for channels in ((1, 2), (2, 1), (1, 1)):
        histogram = timing.HistogramLogBins(*channels[::-1], 10**6, 8 * 10**11, 25)
        for part in split(lossy, [10**11, 15 * 10**10, 85 * 10**10]):
            histogram.add(part)
        got = histogram.finish()
        assert got.live_s == pytest.approx(0.73)
        times = stream.times_ps[alive]
        a, b = (times[stream.channels[alive] == c] for c in channels)
        ranks = [int(np.searchsorted(b, a + edge).sum()) for edge in got.edges_ps]
        assert got.counts.tolist() == np.diff(ranks).tolist()
        # Pairs share clicks: at many pairs per click the scatter is that of the clicks.
        sigma = np.hypot(got.g2_sigma, 2 / math.sqrt(min(a.size, b.size)))
        assert np.abs(got.g2 - 1).max() < 4 * sigma.max()
        assert (np.abs(got.g2 - 1) / sigma).max() < 4.5


def test_delay_lines_put_clicks_in_order_however_far_they_overtake() -> None:
    stream = poisson(2, {1: 3e5, 2: 3e5, 3: 1e5}, 0.01)
    for spread in (0, 10**5, 10**7, 10**9):
        delays = {1: spread, 2: 0, 3: -spread // 3}
        line = DelayLine([1, 2, 3], delays)
        parts = [line.feed(part) for part in (*split(stream, [3 * 10**9, 10**9]), None)]
        times, which = (np.concatenate(column) for column in zip(*parts, strict=True))
        shifted = stream.times_ps - np.array([0, spread, 0, -spread // 3])[stream.channels]
        order = np.argsort(shifted, kind="stable")
        assert times.tolist() == shifted[order].tolist()
        assert which.tolist() == (stream.channels[order] - 1).tolist()


def test_what_waits_for_a_long_delay_is_not_touched_by_each_batch() -> None:
    """A second of clicks waits while batches of 1 ms come in: what is moved is what comes out."""
    line = DelayLine([1, 2], {1: 10**12})
    rng = np.random.default_rng(1)
    step, n, waiting = 10**9, 200, 0
    for k in range(300):
        times = np.sort(rng.integers(k * step, (k + 1) * step, n))
        channels = rng.integers(1, 3, n).astype(np.int16)
        line.feed(TagBatch(times, channels, k * step, (k + 1) * step))
        waiting += int(np.count_nonzero(channels == 2))
    # of the channel that is not delayed, in lanes, which no batch copies
    assert line._line.waiting == waiting
    assert line._line._times.size == 0


bursts = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 20)), max_size=12)


@given(a=bursts, b=bursts, left=st.integers(-25, 25), width=st.integers(1, 25))
@settings(max_examples=200, deadline=None)
def test_bursts_in_sparse_streams(
    a: list[tuple[int, int]], b: list[tuple[int, int]], left: int, width: int
) -> None:
    """Few clicks on the mean, yet several in one window, and on its edges."""
    times = [
        np.array(sorted([*(10**6 * k + t for k, t in each), *far]), np.int64)
        for each, far in ((a, [5 * 10**6]), (b, [-(10**6), 4 * 10**6, 5 * 10**6, 6 * 10**6]))
    ]
    steps = [int(tb - ta) for ta in times[0] for tb in times[1]]
    expected = sum(left <= step < left + width for step in steps)
    assert _kernels.count_window(times[0], times[1], left, width) == expected
    counts = np.zeros(2, np.int64)
    _kernels.count_windows(times[0], times[1], np.array([left, left]), width, counts)
    assert counts.tolist() == [expected] * 2
