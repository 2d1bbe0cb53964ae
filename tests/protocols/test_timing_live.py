"""When two streams were live together: against brute force, picosecond by picosecond."""

import itertools
from collections.abc import Sequence
from unittest import mock

import numpy as np
import pytest
from bellbench.instruments import Loss, TagBatch
from bellbench.protocols import timing
from bellbench.protocols.timing import _live, _streams
from hypothesis import given, settings
from hypothesis import strategies as st

Clicks = list[tuple[int, int]]
Stream = tuple[Clicks, tuple[Loss, ...], int]

END = 120

losses = st.lists(
    st.builds(
        lambda kind, begin, length: Loss(kind, begin, begin + length),
        st.sampled_from(["gap", "overflow", "clock", "clock"]),
        st.integers(0, END - 1),
        st.sampled_from([0, 1, 7, 40]),
    ),
    max_size=4,
).map(tuple)
clicks = st.lists(st.tuples(st.integers(0, END - 1), st.integers(1, 2)), max_size=25).map(sorted)
streams: st.SearchStrategy[Stream] = st.tuples(clicks, losses, st.integers(1, END))
cuts = st.lists(st.integers(0, END), max_size=3)


def batch(of: Stream) -> TagBatch:
    some, lost, end = of
    inside = [(t, c) for t, c in some if t < end]
    times, channels = [t for t, _ in inside], [c for _, c in inside]
    lost = tuple(loss for loss in lost if loss.begin_ps < end)
    return TagBatch(np.array(times, np.int64), np.array(channels, np.int16), 0, end, losses=lost)


def split(whole: TagBatch, at: Sequence[int]) -> list[TagBatch]:
    parts = []
    for cut in sorted(at):
        first, whole = whole.split(cut)
        parts.append(first)
    return [*parts, whole]


def alive(whole: TagBatch) -> set[int]:
    dead = {t for loss in whole.losses for t in range(loss.begin_ps, loss.end_ps)}
    return set(range(whole.end_ps)) - dead


def steps(whole: TagBatch) -> list[int]:
    return [loss.begin_ps for loss in whole.losses if loss.kind == "clock"]


class Oracle:
    """All by definition. A clock's step at s parts t < s from t >= s, delay subtracted."""

    def __init__(self, a: TagBatch, b: TagBatch | None, delay: int) -> None:
        self.a, self.b, self.delay = a, a if b is None else b, delay
        self.steps = steps(a) if b is None else [*steps(a), *(s - delay for s in steps(b))]
        self.later = 0 if b is None else delay  # from a's time to b's
        self.live = alive(a), alive(self.b)

    def counts(self, ta: int, tb: int) -> bool:
        """Whether clicks at these times could be seen and compared."""
        apart = any((ta < s) != (tb - self.later < s) for s in self.steps)
        return ta in self.live[0] and tb in self.live[1] and not apart

    def joint(self, tau: int) -> int:
        return sum(self.counts(t, t + self.delay + tau) for t in self.live[0])

    def differences(self, channels: tuple[int, int]) -> list[int]:
        of = [
            [
                (i, int(t))
                for i, (t, c) in enumerate(zip(x.times_ps, x.channels, strict=True))
                if c == k
            ]
            for x, k in zip((self.a, self.b), channels, strict=True)
        ]
        own = self.a is self.b
        return [
            tb - ta - self.delay
            for (i, ta), (j, tb) in itertools.product(*of)
            if self.counts(ta, tb) and not (own and i == j)
        ]


@mock.patch.multiple(_streams, _FEW=0, _PIECE=4)
@given(
    a=streams,
    b=streams,
    one=st.booleans(),
    own=st.booleans(),
    delay=st.integers(-50, 50),
    cut_a=cuts,
    cut_b=cuts,
)
@settings(max_examples=100, deadline=None)
def test_pairs_and_joint_live_time_in_any_split(
    a: Stream, b: Stream, one: bool, own: bool, delay: int, cut_a: list[int], cut_b: list[int]
) -> None:
    whole = batch(a), None if one else batch(b)
    channels = (1, 1) if own and one else (1, 2)
    oracle = Oracle(*whole, delay)
    counter = timing.CoincidenceCounter([1], [2], 10, delays_b={2: delay}, shifts_ps=[20, -30])
    linear = timing.CorrelationHistogram(*channels, 90, 3, delay_ps=delay)
    growing = timing.HistogramLogBins(*channels[::-1], 2, 60, 7, delay_ps=delay)
    if whole[1] is None:
        for part in split(whole[0], cut_a):
            for each in (counter, linear, growing):
                each.add(part)
    else:
        parts = [split(whole[0], cut_a), split(whole[1], cut_b)]
        for i in range(max(map(len, parts))):
            pair = [of[i] if i < len(of) else of[-1].split(10**9)[1] for of in parts]
            counter.add(*pair)
            linear.add(*pair)
            growing.add(*pair[::-1])
    found, correlation, log = counter.finish(), linear.finish(), growing.finish()
    assert found.live_s == pytest.approx(oracle.joint(0) * 1e-12)
    assert correlation.live_s == log.live_s == found.live_s
    near = oracle.differences((1, 2))
    assert found.counts[0, 0] == sum(abs(x) <= 5 for x in near)
    assert found.shifted[:, 0, 0].tolist() == [
        sum(abs(x - shift) <= 5 for x in near) for shift in (20, -30)
    ]
    apart = oracle.differences(channels)
    assert correlation.counts.tolist() == [
        sum(x in range(-45 + 3 * k, -42 + 3 * k) for x in apart) for k in range(30)
    ]
    edges = log.edges_ps.tolist()
    assert log.counts.tolist() == [
        sum(x in range(*bin_) for x in apart) for bin_ in itertools.pairwise(edges)
    ]
    rates = [
        sum(c == k and int(t) in live for t, c in zip(x.times_ps, x.channels, strict=True))
        / max(len(live), 1)
        for x, k, live in zip((oracle.a, oracle.b), channels, oracle.live, strict=True)
    ]
    joint = [oracle.joint(-44 + 3 * k) for k in range(30)]
    assert correlation.expected == pytest.approx(3 * rates[0] * rates[1] * np.array(joint))
    both = [oracle.joint(x) for x in range(edges[0], edges[-1] + 1)]
    area = np.concatenate([[0], np.cumsum([(x + y) / 2 for x, y in itertools.pairwise(both)])])
    expected = np.diff(area[np.array(edges) - edges[0]]) * rates[0] * rates[1]
    assert log.expected == pytest.approx(expected)


def test_uncorrelated_streams_that_were_live_at_different_times_have_g2_of_one() -> None:
    rng = np.random.default_rng(1)
    end = 2 * 10**10
    halves = [Loss("gap", end // 2, end)], [Loss("gap", 0, end // 4)]

    def stream(channel: int, until: int, lost: Sequence[Loss]) -> TagBatch:
        times = np.sort(rng.integers(0, until, until // 100_000))
        return TagBatch(times, np.full(times.size, channel, np.int16), 0, until, losses=tuple(lost))

    for a, b in (
        (stream(1, end, halves[0]), stream(2, end, [])),
        (stream(1, end, halves[0]), stream(2, end, halves[1])),
        (stream(1, end, []), stream(2, end // 2, [])),
    ):
        for window in (2_000_000, end // 2):  # wide: its edges see half of the recording
            histogram = timing.CorrelationHistogram(1, 2, window, window // 20)
            histogram.add(a, b)
            found = histogram.finish()
            # Pairs share clicks, so that where they are many the scatter is that of the clicks.
            clicks = 3 / np.sqrt(min(found.singles_a, found.singles_b))
            good = found.expected > 0.2 * found.expected.max()
            sigma = np.hypot(clicks, 1 / np.sqrt(found.expected[good]))
            assert good.sum() >= 8
            assert (np.abs(found.g2[good] - 1) / sigma).max() < 4.5
            assert sigma.max() < 0.1
            assert found.counts.sum() == pytest.approx(found.expected.sum(), rel=0.05)


def test_many_bins_lie_on_straight_lines() -> None:
    lost = tuple(Loss("gap", 1000 * k, 1000 * k + 300) for k in range(1, 9))
    whole = TagBatch(np.zeros(0, np.int64), np.zeros(0, np.int16), 0, 10_000, losses=lost)
    live = _live.JointLive()
    live.add(whole, whole)
    middles = [-1500 + 1 + 3 * k for k in range(1000)]
    exact = live.at_s(0, middles)
    assert live.along_s(0, -1500, 3, 1000) == pytest.approx(exact, rel=0.01)


def test_delays_of_many_channels_leave_out_what_was_lost() -> None:
    lost = (Loss("corrupt", 0, 500_000),)
    a, b = (
        TagBatch(np.array([1000, 600_000]), np.array([c, c], np.int16), 0, 10**6, losses=lost)
        for c in (-3, 2)
    )
    found = timing.delay_histogram((a, b), ({-3: 10, 5: 7}, {2: 20, -1: 9}), 1000, 10)
    assert found.counts.sum() == found.singles_a == found.singles_b == 1
    assert found.counts[(1000 // 2 - 10) // 10] == 1
    assert found.live_s == pytest.approx(5e-7, rel=1e-3)


def test_delays_of_negative_channels() -> None:
    some = TagBatch(np.array([1000, 2000, 3000]), np.array([-1, 1, 4], np.int16), 0, 10**6)
    for delays in ({-1: 5, 1: 7, 0: 3}, {-3: 5, -1: 5, 1: 7}, {1: 7, -1: 5}):
        known, times = _streams.less_delays(some, delays)
        assert times.tolist() == [995, 1993]
        assert known.channels.tolist() == [-1, 1]
