"""Numbers of pairs: laws against draws, and against the exact clicks of pulsed sources."""

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from bellbench.instruments.errors import ConfigError
from bellbench.sims.physics import pair_statistics as ps
from bellbench.sims.physics.pulsed_pairs import ClickStatistics, PairPulse, arm_units
from hypothesis import given, settings
from hypothesis import strategies as st

Complex = npt.NDArray[np.complex128]
ONE: Complex = np.eye(2, dtype=np.complex128)
H: Complex = np.array([np.diag([1.0, 0.0])], np.complex128)
V: Complex = np.array([np.diag([0.0, 1.0])], np.complex128)
PULSES = 400_000

modes = st.sampled_from([1.0, 1.5, 2.0, 7.0, math.inf])


def test_laws_of_one_two_and_many_modes() -> None:
    n, mu = np.arange(8), 0.4
    assert ps.number_probabilities(7, mu) == pytest.approx(mu**n / (1 + mu) ** (n + 1))
    half = mu / 2  # per polarization mode
    assert ps.number_probabilities(7, mu, 2) == pytest.approx(
        (n + 1) * half**n / (1 + half) ** (n + 2)
    )
    poisson = [math.exp(-mu) * mu**k / math.factorial(k) for k in n]
    assert ps.number_probabilities(7, mu, math.inf) == pytest.approx(np.array(poisson))
    assert ps.number_probabilities(7, mu, 1e9) == pytest.approx(np.array(poisson), rel=1e-6)
    assert ps.number_probabilities(3, 0.0, 2).tolist() == [1, 0, 0, 0]


@settings(max_examples=30)
@given(st.floats(1e-3, 5), modes, st.floats(0, 1))
def test_moments_and_silence_follow_from_the_law(mean: float, k: float, eta: float) -> None:
    p, n = ps.number_probabilities(3000, mean, k), np.arange(3001)
    assert p.sum() == pytest.approx(1)
    assert p @ n == pytest.approx(mean)
    assert p @ (n * (n - 1)) / mean**2 == pytest.approx(ps.g2(k))
    assert p @ n**2 / mean**2 == pytest.approx(ps.cross_g2(mean, k))
    assert ps.silence(eta, mean, k) == pytest.approx(p @ (1 - eta) ** n)
    herald = 1 - (1 - eta) ** n if eta > 1e-3 else n
    found = (p @ (n * (n - 1) * herald)) * (p @ herald) / (p @ (n * herald)) ** 2
    assert ps.heralded_g2(mean, k, eta if eta > 1e-3 else 0.0) == pytest.approx(found, rel=1e-6)


def test_g2_of_few_pairs() -> None:
    assert ps.heralded_g2(1e-4, 1.0) == pytest.approx(4e-4, rel=1e-3)
    assert ps.heralded_g2(1e-4, 3.0, 1.0) == pytest.approx(1e-4 * (4 / 3), rel=1e-3)
    assert ps.cross_g2(0.01) == pytest.approx(1 + 1 / (0.01 / 1.01))


@pytest.mark.parametrize("k", [1.0, 2.5, math.inf])
def test_draws(k: float) -> None:
    rng, mean, eta = np.random.default_rng(int(min(k, 9) * 10)), 0.3, 0.4
    n = ps.sample_numbers(rng, mean, k, PULSES)
    counts = np.bincount(n, minlength=4)[:4]
    expected = ps.number_probabilities(3, mean, k)
    sigma = np.sqrt(PULSES * expected * (1 - expected))
    assert (np.abs(counts - PULSES * expected) < 3 * sigma).all()
    # half of the idlers each way behind a beam splitter, after loss, with and without a herald
    seen = rng.binomial(n, 0.5)
    one = rng.binomial(seen, 0.5)
    a, b = one.astype(np.float64), (seen - one).astype(np.float64)
    herald = rng.random(PULSES) < 1 - (1 - eta) ** n
    for chosen, g2 in ((slice(None), ps.g2(k)), (herald, ps.heralded_g2(mean, k, eta))):
        x, y = a[chosen], b[chosen]
        both = float((x * y).mean())
        error = float((x * y).std()) / math.sqrt(x.size) / both
        assert abs(both / (x.mean() * y.mean()) / g2 - 1) < 3 * 1.1 * error
    cross = (a + b) @ n / PULSES / (0.5 * mean**2)
    error = float(((a + b) * n).std()) / math.sqrt(PULSES) / (0.5 * mean**2)
    assert abs(cross - ps.cross_g2(mean, k)) < 3 * error


@pytest.mark.parametrize("k", [1.0, 3.0])
def test_exact_clicks_of_pulsed_sources_follow_the_same_laws(k: float) -> None:
    mean = 0.6  # of both polarizations: mu = 0.3 each
    herald: Complex = np.asarray(0.37 * H, np.complex128)
    faint: Complex = np.asarray(np.concatenate([H, H]) * 1e-5, np.complex128)
    units = np.concatenate([arm_units(herald, ONE, 0, 0, 1), arm_units(faint, ONE, 0, 1, 1)])
    p = ClickStatistics([PairPulse(mean)], units, k).probability
    assert p([], [0]) == pytest.approx(ps.silence(0.37, mean / 2, k))
    assert p([1, 2]) / p([1]) ** 2 == pytest.approx(ps.g2(k), rel=1e-3)
    heralded = p([0, 1, 2]) * p([0]) / (p([0, 1]) * p([0, 2]))
    assert heralded == pytest.approx(ps.heralded_g2(mean / 2, k, 0.37), rel=1e-3)
    # all photons of an arm: two polarization modes per Schmidt mode
    whole = ClickStatistics([PairPulse(mean)], arm_units(0.37 * ONE[None], ONE, 0, 0, 1), k)
    assert whole.probability([], [0]) == pytest.approx(ps.silence(0.37, mean, 2 * k))


@pytest.mark.parametrize("k", [1.0, 4.0])
@pytest.mark.parametrize("mean", [0.02, 0.5, 2.0])
def test_ceiling_of_the_visibility(mean: float, k: float) -> None:
    mu = mean / 2
    v = ps.multipair_visibility(mean, k)
    if k == 1:
        assert v == pytest.approx((1 + mu) / (1 + 3 * mu))
    assert ps.multipair_visibility(mean, math.inf) == pytest.approx(1 / (1 + mean))
    # the pulsed engine, faint detectors, in H/V and in D/A
    diagonal: Complex = np.array([[[1, 1], [1, 1]], [[1, -1], [-1, 1]]], np.complex128) / 2
    for basis in (np.concatenate([H, V]), diagonal):
        faint = np.asarray(basis * 1e-6, np.complex128)
        units = np.concatenate([arm_units(faint, ONE, 0, arm, 1) for arm in (0, 1)])
        p = ClickStatistics([PairPulse(mean)], units, k).probability
        same, crossed = p([0, 2]), p([0, 3])
        assert (same - crossed) / (same + crossed) == pytest.approx(v, rel=1e-4)
    # and drawn numbers: H and V pairs are independent
    rng = np.random.default_rng(3)
    h, w = ps.sample_numbers(rng, mu, k, (2, PULSES)).astype(np.float64)
    same, crossed = h * h, h * w
    found = (same.mean() - crossed.mean()) / (same.mean() + crossed.mean())
    error = math.hypot(same.std() * crossed.mean(), crossed.std() * same.mean())
    error *= 2 / math.sqrt(PULSES) / (same.mean() + crossed.mean()) ** 2
    assert abs(found - v) < 3 * error


@pytest.mark.parametrize(
    ("act", "word"),
    [
        (lambda: ps.number_probabilities(3, -1.0), "mean number"),
        (lambda: ps.silence(0.1, 1.0, 0.5), "at least one mode"),
        (lambda: ps.heralded_g2(0.0), "needs pairs"),
        (lambda: ps.heralded_g2(0.1, 1.0, 1.5), "0..1"),
    ],
)
def test_what_cannot_be_is_refused(act: Callable[[], object], word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        act()
