"""Fits of peaks: simulated ones come back, with errors that hold; what cannot be fitted is said."""

import math

import numpy as np
import numpy.typing as npt
import pytest
from bellbench.instruments import ProtocolError, TagBatch
from bellbench.protocols import timing
from bellbench.protocols.timing import peaks
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import exponnorm

Floats = npt.NDArray[np.float64]
M = 137.3


def draw(
    rng: np.random.Generator, pairs: float, ground: float, s: float, tau: float, span: float
) -> Floats:
    """Differences: a peak at M, and ``ground`` per ps of background."""
    n = rng.poisson(pairs)
    peak = M + s * rng.standard_normal(n) + tau * rng.exponential(size=n)
    return np.append(peak, rng.uniform(-span / 2, span / 2, rng.poisson(ground * span)))


def binned(differences: Floats, width: float, span: float) -> tuple[Floats, npt.NDArray[np.int64]]:
    edges = np.arange(-span / 2, span / 2 + width / 2, width)
    return edges, np.histogram(differences, edges)[0]


@pytest.mark.parametrize("tau", [30.0, -30.0, 0.2, 400.0, -1e-3])
def test_shares_of_bins_are_those_of_scipy(tau: float) -> None:
    x = np.linspace(-3000, 3000, 400)
    mine = peaks._cdf(x, 20.0, tau)
    side = math.copysign(1, tau)
    theirs = exponnorm.cdf(side * x, abs(tau) / 20, 0, 20)
    assert mine == pytest.approx(theirs if tau > 0 else 1 - theirs, abs=1e-9)
    top, fwhm = peaks._top_and_width(20.0, tau)
    fine = np.linspace(top - 3 * fwhm, top + 3 * fwhm, 60_001)
    density = np.diff(peaks._cdf(fine, 20.0, tau))
    above = fine[:-1][density > density.max() / 2]
    assert fwhm == pytest.approx(np.ptp(above), rel=1e-3)
    assert fine[np.argmax(density)] == pytest.approx(top, abs=fwhm / 100)


@pytest.mark.parametrize("tau", [30.0, -30.0, 0.2, 400.0, -1e-3, 1e-5, 0.0])
def test_slopes_are_those_of_differences(tau: float) -> None:
    edges = np.linspace(-200.0, 500.0, 71)
    values = np.array([1000.0, 10.0, 20.0, tau, 0.5])
    for row, step in zip(peaks._slopes(values, edges), 1e-3 * np.eye(5), strict=True):
        up, down = (peaks._expected(values + sign * step, edges) for sign in (1, -1))
        assert row == pytest.approx((up - down) / 2e-3, rel=1e-4, abs=1e-4)


@pytest.mark.parametrize(
    ("pairs", "ground", "s", "tau", "width", "shape", "runs"),
    [
        (2000.0, 1.0, 40.0, -70.0, 20.0, "emg", 40),
        (80.0, 0.02, 40.0, 0.0, 40.0, "gaussian", 100),  # few, in bins as wide as sigma
    ],
)
def test_errors_hold(
    pairs: float,
    ground: float,
    s: float,
    tau: float,
    width: float,
    shape: timing.PeakShape,
    runs: int,
) -> None:
    """Pulls have mean 0 and width 1."""
    rng = np.random.default_rng(8)
    top, fwhm = peaks._top_and_width(s, tau)
    truth = {
        "centre_ps": M,
        "mean_ps": M + tau,
        "top_ps": M + top,
        "sigma_ps": s,
        "tau_ps": tau,
        "fwhm_ps": fwhm,
        "pairs": pairs,
        "background": ground,
    }
    pulls: dict[str, list[float]] = {name: [] for name in truth}
    chances = []
    for _ in range(runs):
        found = timing.fit_histogram(
            *binned(draw(rng, pairs, ground, s, tau, 2400), width, 2400), shape=shape
        )
        assert found.shape == shape
        for name, value in truth.items():
            got = getattr(found, name)
            if got.sigma:
                pulls[name].append((got.value - value) / got.sigma)
            else:
                assert (name, got.value) == ("tau_ps", 0)
        chances.append(found.p_value)
    for name, each in pulls.items():
        if each:
            assert abs(np.mean(each)) < 3 / math.sqrt(runs) + 0.1, name
            assert np.std(each) == pytest.approx(1, abs=3 / math.sqrt(2 * runs)), name
    assert np.nanmean(chances) == pytest.approx(0.5, abs=3 / math.sqrt(12 * runs) + 0.1)


def test_the_counts_choose_the_shape() -> None:
    rng = np.random.default_rng(4)
    chosen = [
        timing.fit_histogram(*binned(draw(rng, 3000, 0.5, 40, tau, 2000), 10, 2000)).shape
        for tau in (0, 0, 0, 0, 80, -80)
    ]
    assert chosen.count("gaussian") >= 3
    assert chosen[4:] == ["emg", "emg"]


def test_a_correlation_is_fitted_to_a_tenth_of_a_ps() -> None:
    """Whole ps stand for half a ps to either side, whatever the bins."""
    rng = np.random.default_rng(5)
    a = np.arange(0, 2 * 10**9, 10**4)
    steps = np.rint(4021.4 + 15 * rng.standard_normal(a.size)).astype(np.int64)
    times = np.concatenate([a, a + steps])
    order = np.argsort(times, kind="stable")
    channels = np.repeat(np.array([1, 2], np.int16), a.size)[order]
    batch = TagBatch(times[order], channels, 0, 2 * 10**9 + 10**4)
    fits = []
    for width in (1, 8):
        histogram = timing.CorrelationHistogram(1, 2, 400, width, delay_ps=4000)
        histogram.add(batch)
        correlation = histogram.finish()
        fit = timing.fit_peak(correlation, shape="gaussian")
        fits.append(fit)
        assert fit.expected(np.array([-200.0, 200.0]))[0] == pytest.approx(2e5, rel=0.01)
        drawn = fit(correlation)
        assert drawn.shape == correlation.counts.shape
        assert np.argmax(drawn) == pytest.approx(np.argmax(correlation.counts), abs=15)
    listed = timing.fit_differences(steps - 4000, -200, 200, shape="gaussian")
    for fit in (*fits, listed):
        assert abs(fit.mean_ps.value - 21.4) < 3 * fit.mean_ps.sigma < 0.15
        assert abs(fit.sigma_ps.value - 15) < 3 * fit.sigma_ps.sigma
        assert fit.fwhm_ps.value == pytest.approx(15 * 2.3548, rel=0.01)
        assert fit.p_value > 1e-3


def test_a_narrow_peak_in_a_wide_range() -> None:
    rng = np.random.default_rng(6)
    wanted = 7_000_000
    peak = np.rint(wanted + 30 * rng.standard_normal(800)).astype(np.int64)
    some = np.append(peak, rng.integers(-(10**8), 10**8, 20_000))
    found = timing.fit_differences(some, -(10**8), 10**8)
    assert abs(found.mean_ps.value - wanted) < 4 * found.mean_ps.sigma < 8
    assert abs(found.pairs.value - 800) < 4 * found.pairs.sigma
    edges = np.arange(-(10**6), 10**6 + 1, 20, dtype=np.float64)  # 100 000 bins
    found = timing.fit_histogram(edges, np.histogram(some - wanted, edges)[0])
    assert abs(found.mean_ps.value) < 4 * found.mean_ps.sigma
    assert abs(found.sigma_ps.value - 30) < 4 * found.sigma_ps.sigma


def test_what_cannot_be_fitted_is_said() -> None:
    rng = np.random.default_rng(7)
    span = 2000.0
    for differences, width, said in (
        (draw(rng, 0, 1.0, 40, 0, span), 10, "no peak to fit"),
        (draw(rng, 0, 0.0, 40, 0, span), 10, "no peak to fit: of 0 counts"),
        (draw(rng, 8, 0.001, 40, 0, span), 10, "record longer"),
        (draw(rng, 3000, 0.1, 0.3, 0, span), 20, "narrower than the bins of 20 ps"),
        (draw(rng, 3000, 0.1, 40, 0, span) + 860, 10, "not whole in the histogram"),
    ):
        with pytest.raises(ProtocolError, match=said):
            timing.fit_histogram(*binned(differences, width, span))
    # counts as a Gaussian expects them leave nothing for a tail
    edges = np.arange(-200.0, 201.0, 10)
    exact = np.rint(1000 * np.diff(peaks._cdf(edges, 40.0, 0.0)) + 5).astype(np.int64)
    with pytest.raises(ProtocolError, match="tail and Gaussian apart"):
        timing.fit_histogram(edges, exact, shape="emg")
    for bad, counts, said in (
        (edges, exact[:-1], "one edge more"),
        (edges[:4], exact[:3], "6 bins"),
        (edges[::-1], exact, "in rising order"),
        (edges**3, exact, "one width"),
        (edges * math.nan, exact, "one width"),
        (edges, -exact, "negative"),
    ):
        with pytest.raises(ValueError, match=said):
            timing.fit_histogram(bad, counts)
    with pytest.raises(ValueError, match="'lorentz'"):
        timing.fit_histogram(edges, exact, shape="lorentz")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no difference lies"):
        timing.fit_differences(np.zeros(3, np.int64), 5, 5)


@given(
    counts=st.lists(st.sampled_from([0, 0, 0, 1, 2, 5, 40, 10**6]), min_size=6, max_size=30),
    width=st.sampled_from([1e-3, 1.0, 1e6]),
    shape=st.sampled_from(["auto", "emg", "gaussian"]),
)
@settings(max_examples=20, deadline=None)
def test_any_counts_give_a_fit_or_a_reason(
    counts: list[int], width: float, shape: timing.PeakShape
) -> None:
    edges = width * np.arange(len(counts) + 1, dtype=np.float64)
    try:
        found = timing.fit_histogram(edges, np.array(counts), shape=shape)
    except ProtocolError as error:
        assert len(str(error)) > 20  # noqa: PT017
        return
    for name in ("mean_ps", "sigma_ps", "fwhm_ps", "pairs"):
        got = getattr(found, name)
        assert math.isfinite(got.value)
        assert got.sigma > 0
    assert edges[0] < found.top_ps.value < edges[-1]
