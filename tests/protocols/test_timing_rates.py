"""Counts per bin of time and dead-time correction."""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest
from bellbench.instruments import Loss, TagBatch
from bellbench.protocols import timing
from hypothesis import given, settings
from hypothesis import strategies as st

BEGIN, END = 37, 300
clicks = st.lists(
    st.tuples(st.integers(BEGIN, END - 1), st.sampled_from([-3, 1, 2])), max_size=40
).map(sorted)
cuts = st.lists(st.integers(BEGIN, END), max_size=4)
losses = st.lists(
    st.builds(
        lambda begin, length: Loss("gap", begin, begin + length),
        st.integers(BEGIN, END - 1),
        st.sampled_from([0, 5, 30, 120]),
    ),
    max_size=3,
).map(tuple)


def split(whole: TagBatch, at: Sequence[int]) -> list[TagBatch]:
    parts = []
    for cut in sorted(at):
        first, whole = whole.split(cut)
        parts.append(first)
    return [*parts, whole]


@given(
    pairs=clicks,
    lost=losses,
    cut=cuts,
    width=st.integers(1, 120),
    keep=st.sampled_from([None, 1, 3, 7]),
)
@settings(max_examples=60, deadline=None)
def test_counts_over_time_in_any_split(
    pairs: list[tuple[int, int]],
    lost: tuple[Loss, ...],
    cut: list[int],
    width: int,
    keep: int | None,
) -> None:
    stream = TagBatch(
        np.array([t for t, _ in pairs], np.int64),
        np.array([c for _, c in pairs], np.int16),
        BEGIN,
        END,
        losses=lost,
    )
    counter = timing.Counter([-3, 2], width, n_values=keep)
    for part in split(stream, cut):
        counter.add(part)
    got = counter.finish()
    bins = range(BEGIN, END, width)[-(keep or END) :]
    assert (got.begin_ps, got.bin_ps) == (bins[0], width)

    def live(t: int) -> bool:
        return t < END and not any(x.begin_ps <= t < x.end_ps for x in lost)

    assert got.counts.tolist() == [
        [
            sum(c == channel and live(t) and b <= t < b + width for t, c in pairs)
            for channel in (-3, 2)
        ]
        for b in bins
    ]
    assert got.live_ps.tolist() == [sum(map(live, range(b, b + width))) for b in bins]
    rates = timing.CountRates()
    rates.add(stream)
    if keep is None:
        assert got.counts.sum(axis=0).tolist() == [rates.counts.get(c, 0) for c in (-3, 2)]
        assert got.live_ps.sum() * 1e-12 == pytest.approx(rates.live_s)
    for rate, row, live_ps in zip(got.rates_hz, got.counts, got.live_ps, strict=True):
        expected = row / (live_ps * 1e-12) if live_ps else [math.nan] * 2
        assert rate == pytest.approx(expected, nan_ok=True)
    assert got.times_s == pytest.approx([(b + width / 2) * 1e-12 for b in bins])


def test_a_counter_may_be_looked_at_and_does_not_grow() -> None:
    counter = timing.Counter([1], 10, n_values=4)
    assert counter.so_far().counts.shape == (0, 1)
    for k in range(100):
        times = np.arange(k * 20, k * 20 + 20, 5)
        counter.add(TagBatch(times, np.ones(4, np.int16), k * 20, k * 20 + 20))
        assert counter.so_far().counts[-1].tolist() == [2]
    assert counter.finish().begin_ps == 1960
    assert len(counter._live) == 4


def test_late_clicks_are_lost_clicks() -> None:
    # They belong before the batch that tells of them; one that a split tells of twice counts once.
    late, gone = Loss("late", 500, 1001, 7), Loss("gap", 1400, 1600, 2)
    whole = TagBatch(np.array([1500]), np.array([1], np.int16), 1000, 2000, losses=(late, gone))
    for at in ([], [1001], [1500], [1500, 1500, 1550], [1000, 1000]):
        rates = timing.CountRates()
        rates.add(TagBatch(np.zeros(0, np.int64), np.zeros(0, np.int16), 0, 1000))
        for part in split(whole, at):
            rates.add(part)
        assert rates.lost == 9


def test_rates_refuse_a_batch_twice() -> None:
    rates = timing.CountRates()
    rates.add(TagBatch(np.array([15]), np.array([1], np.int16), 0, 20))
    for begin, end in ((0, 20), (30, 40)):
        with pytest.raises(ValueError, match="does not follow on the last"):
            rates.add(TagBatch(np.zeros(0, np.int64), np.zeros(0, np.int16), begin, end))
    assert rates.counts == {1: 1}
    assert rates.live_s == pytest.approx(20e-12)


def test_mistakes() -> None:
    with pytest.raises(ValueError, match="a bin is a whole number"):
        timing.Counter([1], 10.0)  # type: ignore[arg-type]
    for channels, width, keep, said in (
        ([], 1, 1, "distinct channels"),
        ([1, 1], 1, 1, "distinct channels"),
        ([1], 0, 1, "holds nothing"),
        ([1], 1, 0, "last 0 bins"),
    ):
        with pytest.raises(ValueError, match=said):
            timing.Counter(channels, width, n_values=keep)
    empty = np.zeros(0, np.int64)
    with pytest.raises(ValueError, match="10 million bins"):
        timing.Counter([1], 1).add(TagBatch(empty, empty.astype(np.int16), 0, 10**9))


def dead(times: npt.NDArray[np.float64], dead_s: float, extended: bool) -> int:
    """How many of sorted times (s) a detector with dead time counts."""
    if extended:
        return int(np.count_nonzero(np.diff(times, prepend=-1e9) >= dead_s))
    count, ready = 0, -1.0
    for t in times.tolist():
        if t >= ready:
            count += 1
            ready = t + dead_s
    return count


@pytest.mark.parametrize(("extended", "busy"), [(False, 0.8), (True, 0.4)])
def test_corrected_rates_and_their_errors(extended: bool, busy: float) -> None:
    """Pulls of 300 runs have mean 0 and width 1: the clicks that are left are sub-Poissonian."""
    rng = np.random.default_rng(2)
    rate, seconds = 1e6, 2e-3
    pulls = []
    for _ in range(300):
        times = np.sort(rng.random(rng.poisson(rate * seconds)) * seconds)
        count = dead(times, busy / rate, extended)
        found = timing.dead_time_corrected(count, seconds, busy / rate, extended=extended)
        pulls.append((found.value - rate) / found.sigma)
    assert abs(np.mean(pulls)) < 3 / math.sqrt(300) + 0.03  # 0.03: second order of the formula
    assert np.std(pulls) == pytest.approx(1, abs=3 / math.sqrt(600))


def test_correction_in_numbers() -> None:
    found = timing.dead_time_corrected(10_000, 0.01, 200e-9)
    assert found.value == pytest.approx(1e6 / 0.8)
    assert found.sigma == pytest.approx(1e4 / 0.8)
    extended = timing.dead_time_corrected(10_000, 0.01, 200e-9, extended=True)
    assert extended.value * math.exp(-extended.value * 200e-9) == pytest.approx(1e6)
    assert extended.value * 200e-9 < 1
    for kind in (False, True):
        same = timing.dead_time_corrected(100, 1.0, 0.0, extended=kind)
        assert (same.value, same.sigma) == (100, 10)
        assert timing.dead_time_corrected(0, 1.0, 1e-9, extended=kind).value == 0
        assert math.isnan(timing.dead_time_corrected(0, 0.0, 1e-9, extended=kind).value)
        with pytest.raises(ValueError, match="means nothing"):
            timing.dead_time_corrected(1, 1.0, -1e-9, extended=kind)
    with pytest.raises(ValueError, match=r"at most 2\.5e\+07"):
        timing.dead_time_corrected(25_000_000, 1.0, 40e-9)
    with pytest.raises(ValueError, match=r"an extended dead time of 40 ns: at most 9\.197e\+06"):
        timing.dead_time_corrected(9_200_000, 1.0, 40e-9, extended=True)
