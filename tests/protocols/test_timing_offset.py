"""Finding the delays of two taggers that share a reference but not a start."""

import math

import numpy as np
import pytest
from bellbench.instruments import Loss, ProtocolError, TagBatch
from bellbench.protocols import timing

DELAYS_A = (0, 33_000, -52_000, 80_000)
DELAYS_B = (1_000, 99_000, -70_000, 12_345)
SIGMA_PS = 60.0  # jitter per party: 200 ps FWHM of a coincidence

#: Outcomes of a BBM92 source: equal in the same basis, free in the other.
CELLS = np.array([[2, 0, 1, 1], [0, 2, 1, 1], [1, 1, 2, 0], [1, 1, 0, 2]]) / 16


def bench(
    seed: int,
    seconds: float,
    singles_a: float,
    singles_b: float,
    pairs: float,
    offset_ps: float,
    cells: np.ndarray[tuple[int, int], np.dtype[np.float64]] = CELLS,
) -> tuple[TagBatch, TagBatch]:
    rng = np.random.default_rng(seed)
    end = seconds * 1e12
    n = rng.poisson(pairs * seconds)
    at = rng.uniform(0, end, n)
    cell = rng.choice(16, n, p=cells.ravel())
    batches = []
    for singles, channel, delays, extra in (
        (singles_a, cell // 4, DELAYS_A, 0.0),
        (singles_b, cell % 4, DELAYS_B, offset_ps),
    ):
        more = rng.poisson((singles - pairs) * seconds)
        channels = np.concatenate([channel, rng.integers(0, 4, more)])
        times = np.concatenate([at + rng.normal(0, SIGMA_PS, n), rng.uniform(0, end, more)])
        times = np.rint(times + np.array(delays)[channels] + extra).astype(np.int64)
        inside = (times >= 0) & (times < end)
        order = np.argsort(times[inside], kind="stable")
        batches.append(
            TagBatch(
                times[inside][order],
                (channels[inside][order] + 1).astype(np.int16),
                0,
                int(end),
            )
        )
    return batches[0], batches[1]


def truth(offset_ps: float) -> dict[str, float]:
    names = {f"A{i + 1}": float(d) for i, d in enumerate(DELAYS_A)}
    return names | {f"B{i + 1}": d + offset_ps for i, d in enumerate(DELAYS_B)}


def found(result: timing.ChannelDelays) -> dict[str, tuple[int, float]]:
    both = {f"A{c}": (d, result.sigma_a[c]) for c, d in result.delays_a.items()}
    return both | {f"B{c}": (d, result.sigma_b[c]) for c, d in result.delays_b.items()}


@pytest.mark.parametrize(
    ("seconds", "singles_a", "singles_b", "pairs", "offset", "accuracy"),
    [
        (0.5, 1e6, 5e5, 5e4, 12.345678e9, 5),
        (0.5, 1e6, 5e5, 5e4, -49.9e9, 5),
        (0.15, 1e6, 5e5, 5e4, 0.0, 8),
        (3.0, 1e4, 1e4, 1e3, 49.9e9, 10),
    ],
)
def test_delays_of_all_channels(
    seconds: float, singles_a: float, singles_b: float, pairs: float, offset: float, accuracy: float
) -> None:
    a, b = bench(1, seconds, singles_a, singles_b, pairs, offset)
    result = timing.find_channel_delays(a, b)
    assert result.delays_a[1] == 0
    for name, (delay, sigma) in found(result).items():
        assert abs(delay - truth(offset)[name]) < 4 * sigma + 0.6, name
        assert sigma < accuracy
    assert result.fwhm_ps == pytest.approx(2.355 * SIGMA_PS * math.sqrt(2), rel=0.05)
    assert result.offset.found


def test_sigma_is_the_scatter() -> None:
    pulls = []
    for seed in range(12):
        a, b = bench(seed, 0.15, 2e5, 1e5, 2e4, 3e9)
        result = timing.find_channel_delays(a, b)
        pulls += [
            (delay - truth(3e9)[name]) / sigma
            for name, (delay, sigma) in found(result).items()
            if sigma
        ]
    # 7 delays of one run share the reference's error; some 12 * 2 are independent.
    assert 0.6 < np.std(pulls) < 1.4
    assert abs(np.mean(pulls)) < 1


def test_corrected_times_coincide() -> None:
    a, b = bench(5, 0.3, 1e6, 5e5, 5e4, -7.25e9)
    result = timing.find_channel_delays(a, b)
    counter = timing.CoincidenceCounter(
        (1, 2, 3, 4),
        (1, 2, 3, 4),
        600,
        delays_a=result.delays_a,
        delays_b=result.delays_b,
        shifts_ps=[20_000 * k for k in range(1, 6)],
    )
    counter.add(a, b)
    got = counter.finish()
    # 600 ps hold all of the peak; the recordings overlap in 0.3 s - 7 ms.
    expected = 5e4 * (0.3 - 7.25e-3) * CELLS
    assert np.all(np.abs(got.counts - got.accidentals - expected) < 5 * np.sqrt(expected + 60))
    assert timing.car(got).value > 100


def test_offset_of_mixed_channels() -> None:
    a, b = bench(2, 0.3, 1e6, 5e5, 5e4, 31.4e9)
    estimate = timing.find_offset(a.times_ps, b.times_ps)
    assert estimate.found
    differences = {31.4e9 + db - da for da in DELAYS_A for db in DELAYS_B}
    assert min(abs(estimate.offset_ps - d) for d in differences) < 5 * estimate.sigma_ps
    assert estimate.sigma_ps < 5


@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))]
)
def test_dark_bench(seed: int) -> None:
    a, b = bench(seed, 0.3, 3e5, 3e5, 0, 0)
    estimate = timing.find_offset(a.times_ps, b.times_ps)
    assert not estimate.found
    assert estimate.significance < timing.offset.THRESHOLD
    with pytest.raises(ProtocolError, match=r"no coincidence peak within \+-50 ms.*source on"):
        timing.find_channel_delays(a, b)


def test_very_few_or_no_clicks() -> None:
    none = np.zeros(0, np.int64)
    assert not timing.find_offset(none, none).found
    some = np.arange(10, dtype=np.int64) * 10**11
    assert not timing.find_offset(some, none).found
    assert not timing.find_offset(some[:1], some[:1] + 5).found
    empty = TagBatch(none, np.zeros(0, np.int16), 0, 10**12)
    with pytest.raises(ProtocolError, match="neither party has a single click"):
        timing.find_channel_delays(empty, empty)


def test_offset_out_of_range_is_not_invented() -> None:
    a, b = bench(4, 0.3, 1e5, 1e5, 1e4, 20e9)
    assert not timing.find_offset(a.times_ps, b.times_ps, search_ps=10_000_000_000).found
    assert timing.find_offset(a.times_ps, b.times_ps, search_ps=21_000_000_000).found


def test_a_dark_detector_is_named() -> None:
    a, b = bench(6, 0.3, 1e6, 5e5, 5e4, 1e9)
    dark = b.select([1, 2, 4])
    with pytest.raises(ProtocolError, match="channels B3 with A1"):
        timing.find_channel_delays(a, dark, channels_b=[1, 2, 3, 4])
    assert set(timing.find_channel_delays(a, dark).delays_b) == {1, 2, 4}


def test_channels_are_linked_through_others() -> None:
    cells = np.zeros((4, 4))
    cells[0, 0] = cells[1, 0] = cells[1, 1] = cells[2, 1] = cells[2, 2] = 0.125
    cells[3, 2] = cells[3, 3] = 0.1875
    a, b = bench(7, 0.3, 5e5, 5e5, 5e4, 2e9, cells)
    for name, (delay, sigma) in found(timing.find_channel_delays(a, b)).items():
        assert abs(delay - truth(2e9)[name]) < 4 * sigma + 0.6


def test_clicks_inside_losses_are_left_out() -> None:
    a, b = bench(8, 0.3, 1e5, 1e5, 1e4, 2e9)
    lossy = TagBatch(a.times_ps, a.channels, 0, a.end_ps, losses=(Loss("gap", 0, a.end_ps),))
    with pytest.raises(ProtocolError, match="one of the parties has not a single click"):
        timing.find_channel_delays(lossy, b)


def test_a_faint_link_is_found_where_its_offset_is_nearly_known() -> None:
    """40 dB per arm: 9 pairs/s among 8e4 clicks/s; 1.4 sigma in bins of 100 ns, 14 of 1 ns."""
    rng = np.random.default_rng(5)
    seconds, singles, pairs, offset = 16.0, 8e4, 9.0, 49_123_456
    streams: list[np.ndarray[tuple[int], np.dtype[np.int64]]] = []
    at = rng.uniform(0, seconds * 1e12, rng.poisson(pairs * seconds))
    for late in (0, offset):
        n = rng.poisson(singles * seconds)
        alone = rng.uniform(0, seconds * 1e12, n)
        times = np.concatenate([at + late + rng.normal(0, SIGMA_PS, at.size), alone])
        streams.append(np.sort(np.rint(times).astype(np.int64)))
    near = timing.find_offset(*streams, search_ps=60_000_000)
    assert near.found
    assert near.offset_ps == pytest.approx(offset, abs=4 * near.sigma_ps + 1)
    assert near.sigma_ps < 40
    # four detectors per party: too few coincidences for each, enough for all
    rng = np.random.default_rng(6)
    batches = [
        TagBatch(
            times.astype(np.int64)
            + 10 * (which := rng.integers(1, 5, times.size).astype(np.int16)),
            which,
            0,
            int(seconds * 1e12) + 10**9,
        )
        for times in streams
    ]
    known = {channel: 10 * channel for channel in range(1, 5)}
    found = timing.find_channel_delays(*batches, search_ps=60_000_000, known=(known, known))
    assert found.delays_a == known
    for channel, delay in found.delays_b.items():
        assert delay == known[channel] + round(found.offset.offset_ps)
    with pytest.raises(ProtocolError, match="links channels"):
        timing.find_channel_delays(*batches, search_ps=60_000_000)
