"""Fibre: delay, dispersion, PMD and Raman light against closed forms and worked numbers."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
from bellbench.sims.physics import fibre
from bellbench.sims.physics.polarization import drift_step, rotation
from hypothesis import given, settings
from hypothesis import strategies as st

PAULI = np.array([[[1, 0], [0, 1]], [[1, 0], [0, -1]], [[0, 1], [1, 0]], [[0, -1j], [1j, 0]]])
AXES = st.tuples(*[st.floats(-1, 1)] * 3).filter(lambda n: math.hypot(*n) > 0.01)


def unit(vector: tuple[float, ...]) -> npt.NDArray[np.float64]:
    return np.array(vector) / math.hypot(*vector)


def choi_eigenvalues(stokes_map: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Of the channel that the map stands for: none below 0 means completely positive."""
    choi = np.einsum("mn,mab,ncd->acbd", stokes_map, PAULI, PAULI.conj()).reshape(4, 4) / 4
    return np.linalg.eigvalsh(choi)


def test_delay_of_a_kilometre_and_of_a_warm_one() -> None:
    assert fibre.group_delay_s(1e3, 1.468) == pytest.approx(4.897e-6, rel=1e-3)
    # 20 km, 40 ps/km/K, 5 K: 4 ns
    assert fibre.thermal_delay_s(20e3, 40e-15, 5.0) == pytest.approx(4e-9)
    silica = (1.1e-5 + 1.45 * 5.5e-7) / 299_792_458
    assert silica == pytest.approx(39e-15, rel=0.02)


def test_a_day_goes_up_and_down_by_its_swing() -> None:
    kelvin = [fibre.daily_kelvin(60.0 * t, 8.0) for t in range(1441)]
    assert kelvin[0] == 0
    assert max(kelvin) - min(kelvin) == pytest.approx(8.0)
    assert max(kelvin) == kelvin[360]
    assert kelvin[-1] == pytest.approx(0, abs=1e-9)


def test_dispersion_broadens_a_pair_by_its_sum_and_one_compensates_both() -> None:
    # physics.md sec. 2: 17 ps/nm/km, 20 km, 0.8 nm: 272 ps
    one = 17e-6 * 20e3
    assert fibre.dispersion_fwhm_s(one, 0.0, 0.8e-9) == pytest.approx(272e-12)
    assert fibre.dispersion_fwhm_s(one, one, 0.8e-9) == pytest.approx(544e-12)
    compensating = -100e-6 * 6.8e3
    assert fibre.dispersion_fwhm_s(one, one + compensating, 0.8e-9) == pytest.approx(0, abs=1e-20)


def test_dispersion_of_drawn_pairs() -> None:
    rng = np.random.default_rng(5)
    bandwidth, d_a, d_b = 0.8e-9, 17e-6 * 30e3, -17e-6 * 10e3
    detuning = rng.normal(0, bandwidth / 2.354820, 200_000)
    difference = d_a * detuning - d_b * -detuning
    assert difference.std() * 2.354820 == pytest.approx(
        fibre.dispersion_fwhm_s(d_a, d_b, bandwidth), rel=5 / math.sqrt(400_000)
    )


def test_width_of_a_channel() -> None:
    # 0.8 nm at 1550 nm are 99.8 GHz FWHM
    width = fibre.angular_width(0.8e-9, 1550e-9)
    assert width * 2.354820 / (2 * math.pi) == pytest.approx(99.8e9, rel=1e-3)


def test_dgd_has_a_maxwell_distribution() -> None:
    mean = fibre.average_dgd_s(0.1e-12 / math.sqrt(1e3), 25e3)
    assert mean == pytest.approx(0.5e-12)
    rng = np.random.default_rng(6)
    count = 20_000
    vectors = np.array([fibre.pmd_step(rng, None, mean) for _ in range(count)])
    dgd = np.linalg.norm(vectors, axis=1) / mean
    spread = math.sqrt(3 * math.pi / 8 - 1)
    assert dgd.mean() == pytest.approx(1, abs=4 * spread / math.sqrt(count))
    assert (dgd**2).mean() == pytest.approx(3 * math.pi / 8, rel=0.02)
    a = math.sqrt(math.pi / 8)
    for x in (0.5, 1.0, 1.5):
        share = math.erf(x / a / math.sqrt(2)) - math.sqrt(2 / math.pi) * x / a * math.exp(
            -(x**2) / (2 * a**2)
        )
        assert (dgd < x).mean() == pytest.approx(share, abs=4 * 0.5 / math.sqrt(count))


def test_pmd_forgets_but_keeps_its_distribution() -> None:
    rng = np.random.default_rng(7)
    vectors = [fibre.pmd_step(rng, None, 1.0)]
    for _ in range(40_000):
        vectors.append(fibre.pmd_step(rng, vectors[-1], 1.0, memory=0.9))
    walk = np.array(vectors)
    variance = math.pi / 8
    assert walk.var(axis=0) == pytest.approx(variance, rel=0.1)
    for lag in (1, 5):
        correlation = (walk[lag:] * walk[:-lag]).mean() / variance
        assert correlation == pytest.approx(0.9**lag, abs=0.04)


@given(AXES, st.floats(0, 3))
@settings(max_examples=30, deadline=None)
def test_pmd_is_the_mean_of_turns_over_a_gaussian_spectrum(
    vector: tuple[float, ...], product: float
) -> None:
    # Derived and integrated: exp(-(s_w DGD)^2/2), s_w the rms width of |phi(w)|^2.
    axis, dgd = unit(vector), 1e-12
    width = product / dgd
    w = np.linspace(-8, 8, 1601)
    weight = np.exp(-(w**2) / 2)
    turned = np.zeros((3, 3))
    for detuning, share in zip(w * product, weight / weight.sum(), strict=True):
        u = rotation(np.degrees(detuning * axis))
        turned += share * np.einsum("iab,bc,jcd,ad->ij", PAULI[1:], u, PAULI[1:], u.conj()).real / 2
    blurred = fibre.pmd_map(dgd, axis, width)
    assert blurred[1:, 1:] == pytest.approx(turned, abs=1e-9)
    assert blurred[0] == pytest.approx([1, 0, 0, 0])
    assert choi_eigenvalues(blurred).min() > -1e-12


def test_pmd_of_a_filtered_and_of_an_unfiltered_source() -> None:
    # physics.md sec. 2: 0.5-2 % for 0.8 nm over 50 km of 0.05-0.1 ps/sqrt(km)
    width = fibre.angular_width(0.8e-9, 1550e-9)
    for coefficient, expected in ((0.05, 0.0044), (0.1, 0.0175)):
        dgd = fibre.average_dgd_s(coefficient * 1e-12 / math.sqrt(1e3), 50e3)
        lost = 1 - fibre.pmd_map(dgd, (1, 0, 0), width)[2, 2]
        assert lost == pytest.approx(expected, rel=0.02)
    wide = fibre.angular_width(60e-9, 1550e-9)
    assert fibre.pmd_map(0.35e-12, (1, 0, 0), wide)[2, 2] < 1e-10


@given(AXES, AXES, st.floats(0, 2), st.floats(0, 2))
@settings(max_examples=20, deadline=None)
def test_pmd_of_a_pair_is_the_mean_over_opposite_detunings(
    n_a: tuple[float, ...], n_b: tuple[float, ...], dgd_a: float, dgd_b: float
) -> None:
    phi_plus = np.diag([1.0, 1.0, 1.0, -1.0])
    a, b = unit(n_a), unit(n_b)
    w = np.linspace(-8, 8, 801)
    weight = np.exp(-(w**2) / 2)
    expected = np.zeros((4, 4))
    for detuning, share in zip(w, weight / weight.sum(), strict=True):
        turns = []
        for angle in (detuning * dgd_a * a, -detuning * dgd_b * b):
            u = rotation(np.degrees(angle))
            turns.append(np.einsum("iab,bc,jcd,ad->ij", PAULI, u, PAULI, u.conj()).real / 2)
        expected += share * turns[0] @ phi_plus @ turns[1].T
    assert fibre.pmd_pair(phi_plus, dgd_a * a, dgd_b * b, 1.0) == pytest.approx(expected, abs=1e-9)


def test_pmd_in_one_arm_undoes_that_in_the_other() -> None:
    phi_plus = np.diag([1.0, 1.0, 1.0, -1.0])
    nothing = np.zeros(3)
    one = fibre.pmd_pair(phi_plus, (1.0, 0, 0), nothing, 1.0)
    assert one == pytest.approx(fibre.pmd_map(1.0, (1, 0, 0), 1.0) @ phi_plus)
    # Phi+ about S1: (S2, S3) of b turn against those of a, and so does the detuning
    undone = fibre.pmd_pair(phi_plus, (1.0, 0, 0), (1.0, 0, 0), 1.0)
    added = fibre.pmd_pair(phi_plus, (1.0, 0, 0), (-1.0, 0, 0), 1.0)
    assert undone == pytest.approx(phi_plus)
    assert added[2, 2] == pytest.approx(math.exp(-2))


@pytest.mark.parametrize("s", [0.05, 0.4])
def test_autocorrelation_of_one_step_is_exact(s: float) -> None:
    # <S.S'> after one step: (1 + 2 (1 - 4 s^2) e^{-2 s^2})/3; e^{-4 s^2} for small ones
    rng = np.random.default_rng(8)
    count = 20_000
    overlap = np.empty(count)
    for k in range(count):
        u = drift_step(rng, 4 * s * s, 1.0)
        overlap[k] = (abs(np.trace(u)) ** 2 - 1) / 3  # mean cosine over all states
    exact = (1 + 2 * (1 - 4 * s * s) * math.exp(-2 * s * s)) / 3
    assert overlap.mean() == pytest.approx(exact, abs=4 * overlap.std() / math.sqrt(count))
    if s < 0.1:
        assert exact == pytest.approx(math.exp(-4 * s * s), abs=1e-4)


def test_raman_light_of_a_milliwatt() -> None:
    # physics.md sec. 2, after Eraerds et al. 2010: 0 dBm, 25 km, 0.2 dB/km, 0.8 nm, 2.6e-9 /(km nm)
    args = (1e-3, 25e3, 0.2, 2.6e-3, 0.8e-9)
    forward = fibre.photon_rate_hz(fibre.raman_forward_w(*args), 1550e-9)
    backward = fibre.photon_rate_hz(fibre.raman_backward_w(*args), 1550e-9)
    assert forward == pytest.approx(1.3e8, rel=0.02)
    assert backward == pytest.approx(1.6e8, rel=0.02)


@given(st.floats(0, 100), st.floats(0, 1))
@settings(max_examples=30)
def test_raman_light_is_the_sum_over_the_fibre(length_km: float, attenuation: float) -> None:
    n = 4000
    z = (np.arange(n) + 0.5) / n * length_km * 1e3
    a = attenuation * math.log(10) * 1e-4
    step = length_km * 1e3 / n
    forward = (np.exp(-a * z) * np.exp(-a * (length_km * 1e3 - z))).sum() * step
    backward = np.exp(-2 * a * z).sum() * step
    args = (1.0, length_km * 1e3, attenuation, 1.0, 1.0)
    assert fibre.raman_forward_w(*args) == pytest.approx(forward, rel=1e-3)
    assert fibre.raman_backward_w(*args) == pytest.approx(backward, rel=1e-3)


def test_raman_spectrum_of_silica() -> None:
    near = fibre.raman_shape(1550e-9, 1558.1e-9)
    assert near == pytest.approx(1, rel=0.03)  # 1 THz to the red
    red = [fibre.raman_shape(1450e-9, 1450e-9 + nm * 1e-9) for nm in range(1, 200)]
    peak = 1450e-9 + (1 + int(np.argmax(red))) * 1e-9
    shift = 299_792_458 / 1450e-9 - 299_792_458 / peak
    assert shift == pytest.approx(13.2e12, rel=0.06)
    # detailed balance: towards the blue less by exp(-h nu/kT), beside the nu^3
    blue, there = fibre.raman_shape(peak, 1450e-9), fibre.raman_shape(1450e-9, peak)
    balance = math.exp(-6.62607015e-34 * shift / (1.380649e-23 * 300))
    assert blue / there == pytest.approx(balance * (peak / 1450e-9) ** 6)
    # O band beside C-band traffic: more than 20 dB less than a neighbour in the C band
    assert fibre.raman_shape(1550e-9, 1310e-9) < 1e-2


def test_crosstalk_of_a_milliwatt_behind_100_db() -> None:
    assert fibre.photon_rate_hz(1e-3, 1550e-9) == pytest.approx(7.8e15, rel=1e-2)
    assert fibre.crosstalk_hz(1e-3, 1550e-9, 100.0) == pytest.approx(7.8e5, rel=1e-2)
