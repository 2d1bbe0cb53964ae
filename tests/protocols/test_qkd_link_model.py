"""The closed forms of a link, against published numbers, independent sums and their limits."""

import math

import numpy as np
import pytest
from bellbench.protocols.qkd.finite_key import asymptotic_key_fraction
from bellbench.protocols.qkd.link_model import (
    Arm,
    CwLink,
    PulsedArm,
    PulsedLink,
    asymptotic_key_rate,
    timing_fwhm,
)
from hypothesis import given, settings
from hypothesis import strategies as st

METRO = CwLink(
    1e7,
    Arm(0.10, 300, 4, 30e-9),
    Arm(0.05, 300, 4, 30e-9),
    window_s=300e-12,
    fwhm_s=120e-12,
    error=0.01,
)


def test_the_worked_example_of_the_cw_model() -> None:
    rates = METRO.rates()
    assert METRO.alice.live_share(1e7) == pytest.approx(0.99255, abs=5e-6)
    assert rates.singles_a_hz == pytest.approx(992_854, abs=1)
    assert rates.singles_b_hz == pytest.approx(498_431, abs=1)
    assert rates.true_hz == pytest.approx(49_282, abs=1)
    assert rates.accidental_hz == pytest.approx(148.5, abs=0.1)
    assert rates.qber == pytest.approx(0.01147, abs=5e-6)
    assert rates.key_rate_bps() == pytest.approx(20_023, abs=1)
    assert rates.car == pytest.approx(49_282 / 148.5, rel=1e-3)
    assert rates.visibility == pytest.approx(1 - 2 * 0.01147, abs=1e-5)


def test_a_sweep_is_one_call() -> None:
    power = np.geomspace(1e5, 1e9, 40)
    window = np.array([[100e-12], [300e-12]])
    link = CwLink(power, METRO.alice, METRO.bob, window, 120e-12, 0.01)
    rates = link.rates()
    assert rates.qber.shape == rates.singles_a_hz.shape == (2, 40)
    one = CwLink(float(power[7]), METRO.alice, METRO.bob, 100e-12, 120e-12, 0.01).rates()
    assert rates.true_hz[0, 7] == pytest.approx(float(one.true_hz))
    key = rates.key_rate_bps()
    best = np.argmax(key, axis=1)
    assert np.all((best > 0) & (best < 39))  # raising the pump raises the key, then spoils it
    assert key[0].max() > key[1].max()  # at its best pump, the narrower window gives more
    assert key[1, -1] == 0.0  # and no key is no negative key


def test_no_light_is_no_key_and_no_dark_no_error() -> None:
    dark = CwLink(0.0, Arm(0.1), Arm(0.1), 1e-9, 1e-10).rates()
    assert math.isnan(dark.qber)
    faint = CwLink(1.0, Arm(0.1), Arm(0.1), 1e-9, 1e-10, 0.03).rates()
    assert faint.qber == pytest.approx(0.03, rel=1e-6)
    assert faint.true_hz == pytest.approx(0.01)


def test_timing_errors_add_in_squares() -> None:
    assert timing_fwhm(60e-12, 60e-12, 60e-12, 60e-12) == pytest.approx(120e-12)


@pytest.mark.parametrize(("f_ec", "zero"), [(1.0, 0.1100279), (1.1, 0.102283), (1.2, 0.095494)])
def test_the_key_ends_at_the_known_error_rates(f_ec: float, zero: float) -> None:
    at = np.array([zero - 1e-6, zero + 1e-6])
    rate = asymptotic_key_rate(1e3, at, f_ec=f_ec)
    assert rate[0] > 0 == rate[1]


@given(st.floats(0, 0.1), st.floats(0, 0.1), st.floats(1, 1.5))
@settings(max_examples=30)
def test_the_rate_is_the_fraction_times_the_sifted_rate(e: float, p: float, f: float) -> None:
    found = asymptotic_key_rate(200.0, e, f_ec=f, phase_error=p)
    assert found == pytest.approx(100 * max(asymptotic_key_fraction(e, p, f), 0.0), abs=1e-9)


MFL = PulsedLink(0.1176, PulsedArm(0.145, 6.02e-6), PulsedArm(0.145, 6.02e-6), 0.015)


def test_the_published_optimum_of_the_pulsed_model() -> None:
    mu = np.linspace(0.05, 0.25, 4001)
    link = PulsedLink(mu, MFL.alice, MFL.bob, MFL.error)
    key = link.rates().key_per_pulse(f_ec=1.22)
    best = int(np.argmax(key))
    assert mu[best] == pytest.approx(0.1176, abs=1e-4)
    assert link.rates().qber[best] == pytest.approx(0.0574, abs=5e-5)
    assert link.rates().gain[best] == pytest.approx(2.776e-3, rel=1e-3)
    assert key[best] == pytest.approx(4.114e-4, rel=5e-4)


@given(st.floats(1e-3, 1), st.floats(1e-3, 1), st.floats(1e-4, 2))
@settings(max_examples=20)
def test_the_gain_is_the_sum_over_photon_numbers(a: float, b: float, mean: float) -> None:
    """P(n) = (n+1) l^n/(1+l)^(n+2): pairs of a polarization-entangled single-mode source."""
    lam, y = mean / 2, 1e-3
    n = np.arange(4000.0)
    log_p = np.log(n + 1) + n * math.log(lam) - (n + 2) * math.log1p(lam)
    seen_a, seen_b = (1 - (1 - y) * (1 - eta) ** n for eta in (a, b))
    expected = float(np.sum(np.exp(log_p) * seen_a * seen_b))
    found = PulsedLink(mean, PulsedArm(a, y), PulsedArm(b, y)).rates().gain
    assert found == pytest.approx(expected, rel=1e-6, abs=1e-12)


def test_a_faint_pulsed_source_errs_like_a_single_pair() -> None:
    rates = PulsedLink(1e-9, PulsedArm(0.1), PulsedArm(0.2), 0.02).rates()
    assert rates.gain == pytest.approx(1e-9 * 0.1 * 0.2, rel=1e-5)
    assert rates.qber == pytest.approx(0.02, abs=1e-6)
