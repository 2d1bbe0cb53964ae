"""g2, heralded g2, CAR and efficiencies: clicks of simulated light against closed forms."""

import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import pytest
from bellbench.instruments import Loss, TagBatch
from bellbench.protocols import timing
from bellbench.protocols.estimates import Estimate
from hypothesis import given, settings
from hypothesis import strategies as st

Times = npt.NDArray[np.int64]
Rng = np.random.Generator


def stream(of: dict[int, Times], end: int, lost: tuple[Loss, ...] = ()) -> TagBatch:
    times = np.concatenate(list(of.values()))
    channels = np.repeat(np.array(list(of), np.int16), [t.size for t in of.values()])
    inside = (times >= 0) & (times < end)
    times, channels = times[inside], channels[inside]
    order = np.argsort(times, kind="stable")
    return TagBatch(times[order], channels[order], 0, end, losses=lost)


def poisson(rng: Rng, rate: float, end: int) -> Times:
    return rng.integers(0, end, rng.poisson(rate * end * 1e-12))


def check(pulls: Sequence[float], bias: float = 0.1) -> None:
    """Pulls have mean 0 and width 1, each to 3 sigma; ``bias``: ratios are off to second order."""
    n = len(pulls)
    assert np.all(np.isfinite(pulls))
    assert abs(np.mean(pulls)) < 3 / math.sqrt(n) + bias
    assert np.std(pulls) == pytest.approx(1, abs=3 / math.sqrt(2 * n))


def pull(found: Estimate, truth: float) -> float:
    return (found.value - truth) / found.sigma


# Pairs -------------------------------------------------------------------------------------


def pairs(
    rng: Rng, rate: float, eta: tuple[float, float], dark: tuple[float, float], end: int
) -> TagBatch:
    born = poisson(rng, rate, end)
    a, b = (born[rng.random(born.size) < each] for each in eta)
    a = np.append(a, poisson(rng, dark[0], end))
    b = np.append(b, poisson(rng, dark[1], end)) + rng.integers(-100, 101)
    return stream({1: a, 2: b}, end)


def test_efficiencies_pairs_and_car_with_their_errors() -> None:
    """100 recordings of 2 ms; efficiencies so high that the errors must be binomial."""
    rng = np.random.default_rng(12)
    rate, eta, dark, end = 1e6, (0.85, 0.5), (3e5, 4e5), 2 * 10**9
    width = 2001e-12  # a closed window of 2 ns in whole ps
    singles = [rate * e + d for e, d in zip(eta, dark, strict=True)]
    truth = {
        "a": eta[0],
        "b": eta[1],
        "pairs": rate,
        "true": rate * eta[0] * eta[1],
        "car": rate * eta[0] * eta[1] / (singles[0] * singles[1] * width),
    }
    pulls: dict[str, list[float]] = {name: [] for name in truth}
    for _ in range(100):
        batch = pairs(rng, rate, eta, dark, end)
        counter = timing.CoincidenceCounter(
            [1], [2], 2000, shifts_ps=[k * 10_000 for k in range(-10, 11) if k]
        )
        rates = timing.CountRates()
        counter.add(batch)
        rates.add(batch)
        darks = timing.CountRates(
            {k + 1: int(rng.poisson(d * 0.01)) for k, d in enumerate(dark)}, 0.01, 0.01
        )
        counts = counter.finish()
        found = timing.klyshko(counts, (rates, rates), darks=(darks, darks))
        seen = {
            "a": found.efficiency[0],
            "b": found.efficiency[1],
            "pairs": found.pairs_hz,
            "true": found.true_hz,
            "car": timing.car(counts),
        }
        for name, value in truth.items():
            pulls[name].append(pull(seen[name], value))
    for each in pulls.values():
        check(each)


def test_pairs_without_accidentals_or_clicks() -> None:
    def counted(total: int, wrong: int, live_s: float = 1.0) -> timing.Coincidences:
        one = np.array([[total]])
        return timing.Coincidences((1,), (2,), 10, one, np.array([[[wrong]], [[0]]]), live_s)

    rates = timing.CountRates({1: 100, 2: 50}, 1.0, 1.0)
    found = timing.klyshko(counted(10, 0), (rates, rates))
    assert found.efficiency[0].value == 0.2
    assert found.efficiency[0].sigma == pytest.approx(math.sqrt(0.2 * 0.8 / 50))
    assert found.efficiency[1].value == 0.1
    assert found.pairs_hz.value == 500
    assert math.isnan(timing.car(counted(10, 0)).value)
    p = 0.05 ** (1 / 10)
    assert timing.car_at_least(counted(10, 0)) == pytest.approx(2 * p / (1 - p) - 1)
    assert timing.car_at_least(counted(10, 1)) == timing.car_at_least(counted(0, 0)) == 0
    car = timing.car(counted(10, 4))  # 4 in two windows
    assert car.value == 4
    assert car.sigma == pytest.approx(5 * math.sqrt(1 / 10 + 1 / 4))
    nothing = timing.CountRates()
    dark = timing.klyshko(counted(0, 0), (rates, rates))
    assert dark.efficiency[0] == Estimate(0, 1 / 50, 50)
    assert math.isnan(dark.pairs_hz.value)
    for live_s in (0.0, 1.0):
        empty = timing.klyshko(counted(0, 0, live_s), (nothing, nothing))
        assert math.isnan(empty.efficiency[0].value)
    bare = timing.Coincidences((1,), (2,), 10, np.zeros((1, 1), int), np.zeros((0, 1, 1), int), 1.0)
    with pytest.raises(ValueError, match="wrong delays"):
        timing.klyshko(bare, (rates, rates))


# g2 ----------------------------------------------------------------------------------------

PERIOD = 10_000


def correlated(batch: TagBatch, window: int, width: int) -> timing.Correlation:
    histogram = timing.CorrelationHistogram(1, 2, window, width)
    histogram.add(batch)
    return histogram.finish()


def pulsed(rng: Rng, photons: npt.NDArray[np.int64], eta: float, dark: float) -> TagBatch:
    """Two threshold detectors behind a beam splitter, one pulse after the other."""
    end = photons.size * PERIOD
    clicks = {}
    left = photons
    for channel, share in ((1, eta / 2), (2, eta / 2 / (1 - eta / 2))):
        n = rng.binomial(left, share)
        left = left - n
        at = np.flatnonzero(n) * PERIOD + PERIOD // 2
        at = at + rng.integers(-200, 201, at.size)
        clicks[channel] = np.append(at, poisson(rng, dark, end))
    return stream(clicks, end)


def test_g2_of_thermal_pulses() -> None:
    """G(x) = 1/(1 + mu (1 - x)) gives P(no click); 100 recordings."""
    rng = np.random.default_rng(3)
    mu, eta = 0.2, 0.2

    def dark(share: float) -> float:
        return 1 / (1 + mu * share)

    click = 1 - dark(eta / 2)
    truth = (1 - 2 * dark(eta / 2) + dark(eta)) / click**2
    assert truth == pytest.approx(2 * (1 + mu * eta / 2) / (1 + mu * eta))  # 2 for weak clicks
    pulls = []
    for _ in range(100):
        batch = pulsed(rng, rng.geometric(1 / (1 + mu), 60_000) - 1, eta, 0.0)
        found = timing.g2_zero(correlated(batch, 20 * PERIOD, 500), 1_000, period_ps=PERIOD)
        pulls.append(pull(found, truth))
    check(pulls)


def test_g2_of_an_emitter_in_background() -> None:
    """One photon at most per pulse: what is left at zero delay is background, and is taken away."""
    rng = np.random.default_rng(5)
    pulls, dark, seconds = [], 2e7, 20_000 * PERIOD * 1e-12
    for _ in range(100):
        batch = pulsed(rng, rng.binomial(1, 0.5, 20_000), 0.4, dark)
        background = Estimate(rng.poisson(dark * seconds) / seconds, math.sqrt(dark / seconds))
        correlation = correlated(batch, 20 * PERIOD, 500)
        raw = timing.g2_zero(correlation, 1_000, period_ps=PERIOD)
        found = timing.g2_zero(
            correlation, 1_000, period_ps=PERIOD, background_hz=(background, background)
        )
        assert raw.value > 0.2
        pulls.append(pull(found, 0.0))
    check(pulls)


def test_g2_of_continuous_light() -> None:
    """Poisson light has 1 however compared, also with part of it called background."""
    rng = np.random.default_rng(6)
    pulls: list[list[float]] = [[], [], []]
    for _ in range(100):
        end = 2 * 10**9
        batch = stream({1: poisson(rng, 2e6, end), 2: poisson(rng, 1e6, end)}, end)
        correlation = correlated(batch, 400_000, 1000)
        plain = timing.g2_zero(correlation, 40_000, from_rates=True)
        pulls[0].append(pull(plain, 1))
        pulls[1].append(pull(timing.g2_zero(correlation, 40_000, beyond_ps=50_000), 1))
        part = timing.g2_zero(correlation, 40_000, from_rates=True, background_hz=(1e6, 3e5))
        pulls[2].append(pull(part, 1))
        pairs = int(correlation.counts[180:220].sum())
        expected = correlation.expected[180:220].sum()
        assert plain.value == pytest.approx(pairs / expected)
        assert plain.sigma == pytest.approx(math.sqrt(pairs) / expected)
        assert plain.n == pairs
    for each in pulls:
        check(each)


def test_g2_of_little() -> None:
    empty = stream({1: np.arange(0, 10**6, 10**4), 2: np.zeros(0, np.int64)}, 10**6)
    assert math.isnan(timing.g2_zero(correlated(empty, 1000, 10), 100, from_rates=True).value)
    assert math.isnan(timing.g2_zero(correlated(empty, 1000, 10), 100, beyond_ps=200).value)
    some = stream({1: np.array([100, 5000]), 2: np.array([400, 9000])}, 10**4)
    none_at_zero = timing.g2_zero(correlated(some, 1000, 10), 100, beyond_ps=100)
    # 1 pair in 80 bins far away, 0 in the 10 near; long delays fit into 10 ns less often
    correlation = correlated(some, 1000, 10)
    near = np.abs(correlation.delays_ps) < 50
    ratio = correlation.expected[np.abs(correlation.delays_ps) > 100].sum()
    ratio /= correlation.expected[near].sum()
    assert none_at_zero.value == 0
    assert none_at_zero.sigma == pytest.approx(ratio * math.sqrt(2))
    assert ratio == pytest.approx(8, rel=0.03)
    for options, said in (
        ({"window_ps": 5, "from_rates": True}, "window of 5 ps does not fit"),
        ({"window_ps": 1002, "from_rates": True}, "window of 1002 ps does not fit"),
        ({}, "say what to compare with"),
        ({"beyond_ps": 500}, "no delay beyond 500 ps"),
        ({"period_ps": 600.0}, "no other pulse"),
        ({"period_ps": 50.0}, "more than a period"),
        ({"period_ps": 200.0, "beyond_ps": 10}, "say what to compare with"),
        ({"background_hz": (3e8, 0.0), "from_rates": True}, "leaves no light"),
    ):
        with pytest.raises(ValueError, match=said):
            timing.g2_zero(correlation, **({"window_ps": 100} | options))


def flat(counts: npt.NDArray[np.int64], width: int) -> timing.Correlation:
    bins = counts.size
    centres = (np.arange(bins, dtype=np.float64) - bins / 2 + 0.5) * width
    return timing.Correlation(
        centres, counts, width, np.full(bins, 50.0), 10**5, 10**5, (1e5, 1e5), 1.0
    )


@pytest.mark.parametrize(("width", "window", "period"), [(256, 1000, 13_158), (250, 777, 9_999.5)])
def test_windows_need_not_be_whole_bins(width: int, window: int, period: float) -> None:
    found = timing.g2_zero(flat(np.full(1000, 100), width), window, period_ps=period)
    assert found.value == pytest.approx(1)
    found = timing.g2_zero(flat(np.full(1000, 100), width), window, beyond_ps=5 * width + 3)
    assert found.value == pytest.approx(1)
    found = timing.g2_zero(flat(np.full(1000, 100), width), window, from_rates=True)
    assert found.value == pytest.approx(2)


def test_g2_of_coherent_pulses_in_bins_that_do_not_fit_the_period() -> None:
    rng = np.random.default_rng(8)
    period, n = 13_158, 400_000
    clicks = {c: np.flatnonzero(rng.random(n) < 0.1) * period + period // 2 for c in (1, 2)}
    jittered = {c: at + rng.normal(0, 300, at.size).astype(np.int64) for c, at in clicks.items()}
    batch = stream(jittered, n * period)
    for width in (250, 256, 100):
        found = timing.g2_zero(correlated(batch, 40 * period, width), 1000, period_ps=period)
        assert abs(found.value - 1) < 3 * found.sigma + 0.01
        assert found.sigma < 0.03


def test_blinking_shows_only_against_long_delays() -> None:
    """A single emitter that is bright for half of the time, in stretches of 100 us."""
    rng = np.random.default_rng(4)
    period, n = 10_000, 1_000_000
    bright = np.repeat(rng.random(n // 10_000) < 0.5, 10_000)
    side = rng.integers(1, 3, n)
    seen = bright & (rng.random(n) < 0.1)
    at = np.arange(n) * period + rng.integers(0, period, n)
    batch = stream({c: at[seen & (side == c)] for c in (1, 2)}, n * period)
    correlation = correlated(batch, 400_000, 500)
    rates = timing.g2_zero(correlation, 200_000, from_rates=True)
    far = timing.g2_zero(correlation, 200_000, beyond_ps=100_000)
    share = bright.mean()
    assert rates.value == pytest.approx(0.9 / share, rel=0.15)
    assert far.value == pytest.approx(0.95, abs=0.1)


# Heralded g2 -------------------------------------------------------------------------------

END = 300
clicks = st.lists(st.tuples(st.integers(0, END - 1), st.integers(1, 4)), max_size=40).map(sorted)
losses = st.lists(
    st.builds(
        lambda begin, length: Loss("gap", begin, begin + length),
        st.integers(0, END - 1),
        st.sampled_from([0, 5, 40]),
    ),
    max_size=2,
).map(tuple)


@given(
    some=clicks,
    lost=losses,
    window=st.integers(0, 60),
    delays=st.fixed_dictionaries({k: st.integers(-50, 50) for k in (1, 2, 3)}),
    cuts=st.lists(st.integers(0, END), max_size=4),
)
@settings(max_examples=80, deadline=None)
def test_heralded_clicks_are_counted_once_in_any_split(
    some: list[tuple[int, int]],
    lost: tuple[Loss, ...],
    window: int,
    delays: dict[int, int],
    cuts: list[int],
) -> None:
    times = {c: np.array([t for t, k in some if k == c], np.int64) for c in (1, 2, 3, 4)}
    rest = stream(times, END, lost)
    counter = timing.HeraldedG2(1, 2, 3, window, delays_ps=delays)
    for cut in sorted(cuts):
        first, rest = rest.split(cut)
        counter.add(first)
    counter.add(rest)
    got = counter.finish()
    half, last = window // 2, -(10**9)
    reach = min(delays.values()) - half, max(delays.values()) + half
    expected = np.zeros(4, int)
    for h in (times[1] - delays[1]).tolist():
        first_ps, last_ps = h + reach[0], h + reach[1]
        whole = first_ps >= 0 and last_ps < END
        whole = whole and not any(x.end_ps > first_ps and x.begin_ps <= last_ps for x in lost)
        if not whole or h - last <= 2 * half:
            continue
        last = h
        c, d = (bool((abs(times[k] - delays[k] - h) <= half).any()) for k in (2, 3))
        expected += (1, c, d, c and d)
    assert [got.trials, got.c, got.d, got.both] == expected.tolist()


def pairs_in_pulses(rng: Rng, n: npt.NDArray[np.int64], herald: float, eta: float) -> TagBatch:
    batch = pulsed(rng, n, eta, 0.0)
    at = np.flatnonzero(rng.binomial(n, herald)) * PERIOD + PERIOD // 2
    own = {c: batch.times_ps[batch.channels == c] + 70 for c in (1, 2)}
    return stream(own | {3: at + rng.integers(-200, 201, at.size)}, batch.end_ps + 1000)


@pytest.mark.parametrize("thermal", [True, False])
def test_heralded_g2_of_pulsed_pairs(thermal: bool) -> None:
    """From the generating function of the number of pairs; 100 recordings."""
    rng = np.random.default_rng(9)
    mu, herald, eta = 0.2, 0.4, 0.5

    def none(*shares: float) -> float:
        """Probability that detectors with these shares of independent arms stay silent."""
        x = math.prod(1 - share for share in shares)
        return 1 / (1 + mu * (1 - x)) if thermal else math.exp(-mu * (1 - x))

    def heralded(share: float) -> float:
        """P(herald and none of ``share`` of the other arm)."""
        return none(share) - none(herald, share)

    h, c = heralded(0.0), heralded(0.0) - heralded(eta / 2)
    both = heralded(0.0) - 2 * heralded(eta / 2) + heralded(eta)
    truth = both * h / c**2
    pulls = []
    for _ in range(100):
        size = 20_000
        n = rng.geometric(1 / (1 + mu), size) - 1 if thermal else rng.poisson(mu, size)
        counter = timing.HeraldedG2(3, 1, 2, 1_000, delays_ps={1: 70, 2: 70})
        counter.add(pairs_in_pulses(rng, n, herald, eta))
        pulls.append(pull(counter.finish().g2, truth))
    check(pulls)
    if thermal:  # in leading order 2 mu (1 + 1/K), K = 1, less what threshold detectors hide
        assert truth == pytest.approx(4 * mu, rel=0.5)


def test_heralds_too_close_do_not_count_and_mistakes_are_told() -> None:
    counter = timing.HeraldedG2(1, 2, 3, 20)
    assert counter.finish() == timing.GateCounts(0, 0, 0, 0)
    counter = timing.HeraldedG2(1, 2, 3, 20)
    heralds = np.array([50, 60, 70, 71, 91, 95])
    counter.add(stream({1: heralds, 2: np.array([81, 100]), 3: np.array([60, 81])}, 105))
    # 50 counts, 60 and 70 overlap it; 71 counts, 91 overlaps; 95 would see past the end
    assert counter.finish() == timing.GateCounts(2, 1, 2, 1)
    with pytest.raises(ValueError, match="full width"):
        timing.HeraldedG2(1, 2, 3, -1)
    counter = timing.HeraldedG2(1, 2, 3, 20)
    counter.add(stream({1: heralds, 3: np.array([60])}, 80))
    assert counter.so_far() == timing.GateCounts(1, 0, 1, 0)  # the gate of 71 is not over
    with pytest.raises(ValueError, match="does not follow on the last"):
        counter.add(stream({1: heralds}, 80))
    make: Callable[[], object] = lambda: timing.HeraldedG2(1, 1, 3, 1)  # noqa: E731
    with pytest.raises(ValueError, match="distinct"):
        make()
    with pytest.raises(ValueError, match=r"delays for channels \[7\]"):
        timing.HeraldedG2(1, 2, 3, 10, delays_ps={7: 5})


def test_efficiencies_of_arms_that_were_live_at_different_times() -> None:
    rng = np.random.default_rng(2)
    end = 4 * 10**9
    born = np.sort(rng.integers(0, end, 200_000))
    a, b = (
        stream({channel: born[rng.random(born.size) < 0.3]}, end, (Loss("gap", *lost),))
        for channel, lost in ((1, (end // 2, end)), (2, (0, end // 4)))
    )
    counter = timing.CoincidenceCounter([1], [2], 10, shifts_ps=[50_000, 90_000])
    rates = timing.CountRates(), timing.CountRates()
    for cut in (end // 3, None):
        parts = [each if cut is None else each.split(cut)[0] for each in (a, b)]
        if cut is not None:
            a, b = (each.split(cut)[1] for each in (a, b))
        counter.add(*parts)
        for rate, part in zip(rates, parts, strict=True):
            rate.add(part)
    counts = counter.finish()
    assert counts.live_s == pytest.approx(end / 4 * 1e-12)
    found = timing.klyshko(counts, rates)
    for arm in found.efficiency:
        assert arm.value == pytest.approx(0.3, abs=4 * arm.sigma)
    assert found.pairs_hz.value == pytest.approx(5e7, abs=4 * found.pairs_hz.sigma)
