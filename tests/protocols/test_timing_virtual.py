"""Virtual channels: against brute force, in any split, with losses and behind each other."""

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from bellbench.instruments import Loss, TagBatch, concatenate
from bellbench.protocols import timing
from hypothesis import given, settings
from hypothesis import strategies as st

Clicks = list[tuple[int, int]]
Make = Callable[[], timing.VirtualChannel]

END = 301
OUT = 90
clicks = st.lists(st.tuples(st.integers(0, END - 1), st.integers(1, 3)), max_size=40).map(sorted)
cuts = st.lists(st.integers(0, END), max_size=4)
losses = st.lists(
    st.builds(
        lambda begin, length: Loss("gap", begin, min(begin + length, END), 2),
        st.integers(0, END - 1),
        st.sampled_from([0, 0, 5, 30, 90]),
    ),
    max_size=3,
    unique=True,
).map(tuple)


def batch(
    pairs: Sequence[tuple[int, int]], lost: tuple[Loss, ...] = (), end: int = END
) -> TagBatch:
    times = np.array([t for t, _ in pairs], np.int64)
    channels = np.array([c for _, c in pairs], np.int16)
    return TagBatch(times, channels, 0, end, 7, "clock", losses=lost)


def split(whole: TagBatch, at: Sequence[int]) -> list[TagBatch]:
    parts = []
    for cut in sorted(at):
        first, whole = whole.split(cut)
        parts.append(first)
    return [*parts, whole]


def made(stage: timing.VirtualChannel, parts: Sequence[TagBatch]) -> TagBatch:
    found = list(stage.through(parts))
    assert all((part.start_unix_ns, part.clock_id) == (7, "clock") for part in found)
    return concatenate([part.checked() for part in found])


def listed(found: TagBatch, channel: int | None = None) -> Clicks:
    pairs = zip(found.times_ps.tolist(), found.channels.tolist(), strict=True)
    return [pair for pair in pairs if channel is None or pair[1] == channel]


def alive(pairs: Clicks, lost: tuple[Loss, ...]) -> Clicks:
    return [p for p in pairs if not any(x.begin_ps <= p[0] < x.end_ps for x in lost)]


def spans(first: int, last: int, lost: tuple[Loss, ...]) -> bool:
    return any(first < loss.begin_ps <= last for loss in lost)


def live_at(t: int, lost: Sequence[Loss]) -> bool:
    return not any(x.begin_ps <= t < x.end_ps for x in lost)


MAKERS: list[Make] = [
    lambda: timing.DelayedChannel(1, 40, OUT),
    lambda: timing.DelayedChannel(1, 40),
    lambda: timing.DelayedChannel(2, -35, OUT),
    lambda: timing.DelayedChannel(3, 0),
    lambda: timing.Combiner([1, 3], OUT),
    lambda: timing.Combiner([1, 3], 3),
    lambda: timing.CoincidenceChannel([1, 2], 30, OUT),
    lambda: timing.CoincidenceChannel([1, 2, 3], 60, OUT, timestamp="first"),
    lambda: timing.CoincidenceChannel([3, 1], 30, OUT, timestamp="mean"),
    lambda: timing.GatedChannel(1, 2, 3, OUT),
    lambda: timing.GatedChannel(3, 1, 2, initially_open=True),
    lambda: timing.EventDivider(2, 3, OUT),
    lambda: timing.EventDivider(2, 2),
    lambda: timing.DeadTime({1: 20, 3: 7}),
    lambda: timing.DeadTime({1: 20, 3: 7}, extended=True),
    lambda: timing.Chain(
        timing.DelayedChannel(1, -20),
        timing.DeadTime({1: 4, 2: 9}),
        timing.CoincidenceChannel([1, 2], 40, OUT, timestamp="mean"),
        timing.DelayedChannel(OUT, 15, OUT + 1),
        timing.GatedChannel(2, 3, OUT + 1),
        timing.EventDivider(2, 2),
    ),
]


@given(pairs=clicks, lost=losses, cut=cuts, make=st.sampled_from(MAKERS), empty=st.booleans())
@settings(max_examples=120, deadline=None)
def test_any_split_gives_the_same_stream(
    pairs: Clicks, lost: tuple[Loss, ...], cut: list[int], make: Make, empty: bool
) -> None:
    stream = batch(pairs, lost)
    whole = made(make(), [stream])
    parts = made(make(), split(stream, [*cut, *cut[:1]] if empty else cut))
    assert listed(parts) == listed(whole)
    assert (parts.begin_ps, parts.end_ps) == (whole.begin_ps, whole.end_ps)
    assert set(parts.losses) == set(whole.losses)
    assert parts.live_s == pytest.approx(whole.live_s)


@given(pairs=clicks, lost=losses, delay=st.integers(-80, 80))
@settings(max_examples=30, deadline=None)
def test_a_delayed_channel_is_live_where_both_channels_are(
    pairs: Clicks, lost: tuple[Loss, ...], delay: int
) -> None:
    got = made(timing.DelayedChannel(1, delay, OUT), [batch(pairs, lost)])
    late = [(t + delay, OUT) for t, c in alive(pairs, lost) if c == 1]
    assert listed(got) == sorted(pairs + late, key=lambda p: (p[0], p[1] == OUT))
    assert (got.begin_ps, got.end_ps) == (min(delay, 0), END + max(delay, 0))
    for t in range(got.begin_ps, got.end_ps):
        both = all(0 <= s < END and live_at(s, lost) for s in (t, t - delay))
        assert live_at(t, got.losses) == both
    rates = timing.CountRates()
    rates.add(got)
    assert rates.lost == 2 * len(lost)


@given(pairs=clicks, lost=losses)
@settings(max_examples=40, deadline=None)
def test_a_union_and_a_divider(pairs: Clicks, lost: tuple[Loss, ...]) -> None:
    union = made(timing.Combiner([1, 3], OUT), [batch(pairs, lost)])
    assert listed(union, OUT) == [(t, OUT) for t, c in alive(pairs, lost) if c != 2]
    assert [p for p in listed(union) if p[1] != OUT] == pairs
    divided = made(timing.EventDivider(1, 3, OUT), [batch(pairs, lost)])
    expected, count, last = [], 0, -1
    for t in [t for t, c in alive(pairs, lost) if c == 1]:
        count = 1 if spans(last, t, lost) else count + 1
        last = t
        if count == 3:
            expected.append((t, OUT))
            count = 0
    assert listed(divided, OUT) == expected


@pytest.mark.parametrize("seed", range(10))
def test_dense_clicks_many_cuts_and_losses(seed: int) -> None:
    """As above, where something is always waiting."""
    rng = np.random.default_rng(seed)
    times = np.sort(rng.integers(0, END, 120)).tolist()
    pairs = list(zip(times, rng.integers(1, 4, 120).tolist(), strict=True))
    begins = rng.integers(0, END, 6).tolist()
    lost = tuple(Loss("gap", t, t + k) for t, k in zip(begins, (0, 0, 0, 2, 10, 20), strict=True))
    stream = batch(pairs, lost)
    parts = split(stream, rng.integers(0, END, 12).tolist())
    for make in MAKERS:
        whole, found = made(make(), [stream]), made(make(), parts)
        assert listed(found) == listed(whole)
        assert set(found.losses) == set(whole.losses)
    for channels, window in (([1, 2], 12), ([1, 2, 3], 30), ([3, 1], 90)):
        found = made(timing.CoincidenceChannel(channels, window, OUT), parts)
        expected = greedy(pairs, lost, channels, window // 2)
        assert len(expected) > 2
        assert listed(found, OUT) == [(max(heads), OUT) for heads in expected]


def greedy(
    pairs: Clicks, lost: tuple[Loss, ...], channels: Sequence[int], half: int
) -> list[list[int]]:
    queues = [[t for t, c in alive(pairs, lost) if c == channel] for channel in channels]
    found = []
    while all(queues):
        heads = [queue[0] for queue in queues]
        if max(heads) - min(heads) <= half and not spans(min(heads), max(heads), lost):
            found.append(heads)
            for queue in queues:
                del queue[0]
        else:
            del queues[heads.index(min(heads))][0]
    return found


@given(pairs=clicks, lost=losses, window=st.integers(0, 60), fold=st.sampled_from([2, 3]))
@settings(max_examples=40, deadline=None)
def test_virtual_coincidences_are_one_to_one(
    pairs: Clicks, lost: tuple[Loss, ...], window: int, fold: int
) -> None:
    channels = [1, 2, 3][:fold]
    expected = greedy(pairs, lost, channels, window // 2)
    for stamp, at in (("first", min), ("last", max), ("mean", lambda h: sum(h) // len(h))):
        stage = timing.CoincidenceChannel(channels, window, OUT, timestamp=stamp)  # type: ignore[arg-type]
        got = made(stage, [batch(pairs, lost)])
        assert listed(got, OUT) == [(at(heads), OUT) for heads in expected]
        assert [p for p in listed(got) if p[1] != OUT] == pairs
    if fold == 2 and not lost:
        a, b = (np.array([t for t, c in pairs if c == channel], np.int64) for channel in channels)
        assert len(expected) == timing.match(a, b, window)[0].size


@given(pairs=clicks, lost=losses, initially=st.booleans())
@settings(max_examples=40, deadline=None)
def test_a_gate_is_open_from_start_to_stop(
    pairs: Clicks, lost: tuple[Loss, ...], initially: bool
) -> None:
    stage = timing.GatedChannel(1, 2, 3, OUT, initially_open=initially)
    got = made(stage, [batch(pairs, lost)])
    real = alive(pairs, lost)
    open_, total, expected = initially, 0, []
    for t in range(END):
        if any(x.begin_ps == t or x.begin_ps <= t < x.end_ps for x in lost):
            open_ = False
        here = [c for s, c in real if s == t]
        open_ = False if 3 in here else open_ or 2 in here
        total += open_
        expected += [(t, OUT)] * (open_ * here.count(1))
    assert listed(got, OUT) == expected
    assert stage.open_s == pytest.approx(total * 1e-12)


@given(
    pairs=clicks,
    lost=losses,
    dead=st.tuples(st.integers(0, 60), st.integers(0, 60)),
    extended=st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_dead_times(
    pairs: Clicks, lost: tuple[Loss, ...], dead: tuple[int, int], extended: bool
) -> None:
    times = {1: dead[0], 3: dead[1]}
    got = made(timing.DeadTime(times, extended=extended), [batch(pairs, lost)])
    expected, last = [], {1: -1000, 3: -1000}
    for t, c in pairs:
        if c == 2 or not live_at(t, lost):
            expected.append((t, c))
            continue
        blind = t - last[c] < times[c] and not spans(last[c], t, lost)
        if not blind:
            expected.append((t, c))
        if extended or not blind:
            last[c] = t
    assert listed(got) == expected
    assert got.losses == lost


def test_what_may_still_be_overtaken_waits() -> None:
    stage = timing.DelayedChannel(1, -100, OUT)
    first = stage.feed(batch([(0, 2), (150, 1), (290, 2)]))
    assert (first.begin_ps, first.end_ps) == (-100, 201)
    assert listed(first) == [(0, 2), (50, OUT), (150, 1)]
    rest = stage.feed(None)
    assert (rest.begin_ps, rest.end_ps, listed(rest)) == (201, END, [(290, 2)])
    late = timing.DelayedChannel(1, 1000, OUT)
    assert listed(late.feed(batch([(5, 1)]))) == [(5, 1)]
    assert listed(late.feed(None)) == [(1005, OUT)]


def test_dead_time_correction_undoes_dead_time() -> None:
    """Poisson clicks through both kinds of dead time, to 3 sigma."""
    rng = np.random.default_rng(4)
    seconds, rate, dead = 0.05, 4e6, 50_000
    n = rng.poisson(rate * seconds)
    times = np.sort(rng.integers(0, int(seconds * 1e12), n))
    stream = TagBatch(times, np.ones(n, np.int16), 0, int(seconds * 1e12))
    for extended in (False, True):
        rates = timing.CountRates()
        for part in timing.DeadTime({1: dead}, extended=extended).through([stream]):
            rates.add(part)
        x = rate * dead * 1e-12
        seen = rate * (math.exp(-x) if extended else 1 / (1 + x))
        assert rates.rate_hz(1) == pytest.approx(seen, rel=3 / math.sqrt(seen * seconds))
        found = rates.corrected_hz(1, dead * 1e-12, extended=extended)
        assert abs(found.value - rate) < 3 * found.sigma < 0.02 * rate


def test_memory_is_what_waits() -> None:
    stage = timing.Chain(
        timing.DelayedChannel(1, -5_000),
        timing.CoincidenceChannel([1, 2], 2_000, OUT, timestamp="first"),
    )
    for k in range(20):
        times = np.arange(k * 10**8, (k + 1) * 10**8, 10**3)
        channels = (1 + np.arange(times.size) % 2).astype(np.int16)
        stage.feed(TagBatch(times, channels, k * 10**8, (k + 1) * 10**8))
    for part in stage._stages:
        assert isinstance(part, timing.DelayedChannel | timing.CoincidenceChannel)
        assert part._times.size + part._made.size < 20


def test_mistakes() -> None:
    stage = timing.Combiner([1, 2], 3)
    with pytest.raises(ValueError, match="channel 3 already has clicks"):
        stage.feed(batch([(1, 3)]))
    stage = timing.Combiner([1, 2], OUT)
    stage.feed(batch([]))
    with pytest.raises(ValueError, match="does not follow"):
        stage.feed(batch([]))
    for make, said in (
        (lambda: timing.Combiner([], OUT), "distinct channels"),
        (lambda: timing.Combiner([1], 1 << 15), "16-bit"),
        (lambda: timing.CoincidenceChannel([1, 1], 10, OUT), "distinct channels"),
        (lambda: timing.CoincidenceChannel([1, 2], -1, OUT), "full width"),
        (lambda: timing.CoincidenceChannel([1, 2], 1, OUT, timestamp="x"), "first, last or mean"),  # type: ignore[arg-type]
        (lambda: timing.GatedChannel(1, 1, 2), "three channels"),
        (lambda: timing.GatedChannel(1, 2, 3, 2), "gate itself"),
        (lambda: timing.EventDivider(1, 0), "take 1 or more"),
        (lambda: timing.DeadTime({1: -5}), "0 ps or more"),
        (lambda: timing.DelayedChannel(1, 1 << 62), "as long as"),
    ):
        with pytest.raises(ValueError, match=said):
            make()
    for make_one in MAKERS:
        ended = make_one()
        assert len(ended.feed(None)) == 0
        with pytest.raises(ValueError, match="is finished: make a new one"):
            ended.feed(batch([]))
    for fraction in (
        lambda: timing.DelayedChannel(1, 1e3),  # type: ignore[arg-type]
        lambda: timing.CoincidenceChannel([1, 2], 1e3, OUT),  # type: ignore[arg-type]
        lambda: timing.DeadTime({1: 5.5}),  # type: ignore[dict-item]
    ):
        with pytest.raises(ValueError, match="is a whole number"):
            fraction()


@pytest.mark.slow
def test_cost_per_tag() -> None:
    """Figures of the docstrings: pytest -m slow -s tests/protocols/test_timing_virtual.py."""
    import time

    rng = np.random.default_rng(0)
    n = 1_000_000
    stream = TagBatch(
        np.sort(rng.integers(0, 10**12, n)), rng.integers(1, 5, n, dtype=np.int16), 0, 10**12
    )
    for make, _ in itertools.product(MAKERS[:-1], range(2)):
        best = math.inf
        for _ in range(5):
            stage = make()
            start = time.process_time()
            stage.feed(stream)
            best = min(best, time.process_time() - start)
        print(type(make()).__name__, f"{best / n * 1e9:.1f} ns per tag")  # noqa: T201
        assert best < 1
