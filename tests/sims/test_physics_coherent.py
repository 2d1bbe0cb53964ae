"""Weak coherent pulses: against the closed forms of the decoy and MDI literature, and by dice."""

import math

import numpy as np
import numpy.typing as npt
import pytest
from bellbench.sims.physics.coherent import (
    click_patterns,
    mach_zehnder,
    retarded_state,
    sample_photons,
    station_means,
)
from bellbench.sims.physics.pulsed_pairs import mode_overlap
from hypothesis import given, settings
from hypothesis import strategies as st

H, D, V, A = (retarded_state(v, 1.0) for v in (0.0, 0.5, 1.0, -0.5))
BITS = (np.arange(16)[:, None] >> np.arange(4)) & 1
#: Psi-: cH dV or cV dH; Psi+: cH cV or dH dV. Patterns of exactly these clicks.
MINUS, PLUS = (0b1001, 0b0110), (0b0011, 0b1100)


def test_modulators() -> None:
    assert mach_zehnder([0.0, 1.0, 0.5], 1.0, 20.0) == pytest.approx([0.01, 1.0, 0.505])
    root = math.sqrt(0.5)
    assert np.array([H, V, D, A]).real == pytest.approx(
        np.array([[1, 0], [0, 1], [root, root], [root, -root]])
    )


def test_overlap_against_the_integral() -> None:
    t = np.linspace(-2e-9, 3e-9, 20001)
    sigma = 400e-12 / math.sqrt(8 * math.log(2))

    def field(t0: float) -> npt.NDArray[np.float64]:
        amplitude = np.exp(-((t - t0) ** 2) / (4 * sigma**2))
        found: npt.NDArray[np.float64] = amplitude / math.sqrt((amplitude**2).sum())
        return found

    for delay in (0.0, 150e-12, 500e-12):
        direct = (field(0.0) @ field(delay)) ** 2
        assert float(mode_overlap(delay, 400e-12)) == pytest.approx(direct, rel=1e-6)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.floats(-1, 1), min_size=8, max_size=8),
    st.floats(0, 1),
    st.floats(1, 40),
    st.floats(0, 1),
    st.floats(0, 2 * math.pi),
)
def test_a_station_loses_nothing(
    parts: list[float], reflectivity: float, extinction: float, overlap: float, phase: float
) -> None:
    left, right = np.array(parts).view(np.complex128).reshape(2, 2)
    one, two, cross = station_means(
        left, right, reflectivity=reflectivity, extinction_db=extinction, overlap=overlap
    )
    means = one + two + (cross * np.exp(1j * phase)).real
    assert means.sum() == pytest.approx(np.abs(np.array(parts) ** 2).sum())
    assert (means >= -1e-12).all()
    patterns = click_patterns(one + two, cross, 0.01)
    assert patterns.sum() == pytest.approx(1)
    assert (patterns >= -1e-12).all()


def test_patterns_against_an_average_over_phases() -> None:
    left, right = 0.8 * D, np.array([0.3, 0.6j])
    one, two, cross = station_means(left, right, reflectivity=0.4, extinction_db=15, overlap=0.7)
    dark = np.array([0.1, 0.02, 0.0, 0.05])
    phases = np.arange(400) * 2 * np.pi / 400
    means = one + two + (cross * np.exp(1j * phases)[:, None]).real
    quiet = (1 - dark) * np.exp(-means)
    each = np.where(BITS[:, None, :], 1 - quiet, quiet).prod(-1).mean(1)
    assert click_patterns(one + two, cross, dark) == pytest.approx(each, abs=1e-12)


@pytest.mark.parametrize("overlap", [1.0, 0.6, 0.0])
def test_hong_ou_mandel_dip_of_coherent_light(overlap: float) -> None:
    """V = M/(1 + g2) = M/2 for weak pulses: 1/2 at best."""
    pulse = math.sqrt(1e-3) * H

    def both_ports(m: float) -> float:
        one, two, cross = station_means(pulse, pulse, overlap=m)
        return float(click_patterns(one + two, cross)[0b0101])

    visibility = 1 - both_ports(overlap) / both_ports(0.0)
    assert visibility == pytest.approx(overlap / 2, rel=2e-3, abs=1e-9)


def gains(mu_a: float, mu_b: float, dark: float, basis: str) -> tuple[float, float]:
    """Gain and error gain of MDI, averaged over the bits; Psi+ and Psi- alike."""
    states = {"z": (H, V), "x": (D, A)}[basis]
    gain = wrong = 0.0
    for a, b in ((0, 0), (0, 1), (1, 0), (1, 1)):
        one, two, cross = station_means(
            math.sqrt(mu_a) * states[a], math.sqrt(mu_b) * states[b], overlap=1.0
        )
        found = click_patterns(one + two, cross, dark)
        minus, plus = (float(found[list(which)].sum()) for which in (MINUS, PLUS))
        gain += (minus + plus) / 4
        # Z: equal bits are errors. X: Psi- comes of unequal bits, Psi+ of equal ones.
        if basis == "z":
            wrong += (minus + plus) / 4 * (a == b)
        else:
            wrong += (minus if a == b else plus) / 4
    return gain, wrong


@pytest.mark.parametrize("mu_a", [0.5, 0.03])
@pytest.mark.parametrize("mu_b", [0.2, 0.01])
@pytest.mark.parametrize("dark", [0.0, 1e-3])
def test_mdi_gains_are_those_of_the_literature(mu_a: float, mu_b: float, dark: float) -> None:
    """Ma, Fung, Razavi, PRA 86, 052305 (2012), appendix A, without misalignment.

    mu_a and mu_b include channel and detector: eta_a mu_a and eta_b mu_b there.
    """
    total = mu_a + mu_b
    x, y = math.sqrt(mu_a * mu_b) / 2, (1 - dark) * math.exp(-total / 4)
    right = (
        2
        * (1 - dark) ** 2
        * math.exp(-total / 2)
        * (1 - (1 - dark) * math.exp(-mu_a / 2))
        * (1 - (1 - dark) * math.exp(-mu_b / 2))
    )
    i0 = np.i0
    false = (
        2 * dark * (1 - dark) ** 2 * math.exp(-total / 2)
        * (i0(2 * x) - (1 - dark) * math.exp(-total / 2))
    )  # fmt: skip
    gain, wrong = gains(mu_a, mu_b, dark, "z")
    assert gain == pytest.approx(right + false, rel=1e-9)
    assert wrong == pytest.approx(false, rel=1e-9, abs=1e-15)
    diagonal = 2 * y**2 * (1 + 2 * y**2 - 4 * y * i0(x) + i0(2 * x))
    gain, wrong = gains(mu_a, mu_b, dark, "x")
    assert gain == pytest.approx(diagonal, rel=1e-8)
    assert wrong == pytest.approx(diagonal / 2 - y**2 * (i0(2 * x) - 1), rel=1e-8)


def test_sampled_photons_click_as_the_closed_form_says() -> None:
    rng = np.random.default_rng(3)
    lefts = np.sqrt([[0.9], [0.4], [0.0]]) * np.array([H, D, V])
    rights = np.sqrt([[0.5], [0.7], [0.6]]) * np.array([H, D, A])
    overlap = np.array([0.8, 1.0, 0.5])
    one, two, cross = station_means(
        lefts, rights, reflectivity=0.45, extinction_db=20, overlap=overlap
    )
    seen = np.array([0.9, 0.5, 0.8, 0.7])
    base, cross = (one + two) * seen, cross * seen
    per_kind = 200_000
    kinds = rng.permutation(np.repeat(np.arange(3), per_kind))
    meeting, detector, came_left = sample_photons(
        rng,
        (lefts, kinds),
        (rights, kinds),
        seen,
        reflectivity=0.45,
        extinction_db=20,
        overlap=overlap[kinds],
    )
    masks = np.zeros(kinds.size, np.int64)
    np.bitwise_or.at(masks, meeting, 1 << detector)
    expected = click_patterns(base, cross)
    for kind in range(3):
        counts = np.bincount(masks[kinds == kind], minlength=16)
        sigma = np.sqrt(per_kind * expected[kind] * (1 - expected[kind])) + 1e-9
        # 16 counts: none beyond 4 sigma, and as a whole as far off as chance has it
        pull = (counts - per_kind * expected[kind]) / sigma
        assert np.abs(pull[expected[kind] > 1e-12]).max() < 4
        assert (pull**2).sum() < 15 + 3 * math.sqrt(2 * 15)
    # The mean is that without interference; photons of one meeting share its phase.
    mean = np.bincount(detector, minlength=4) / per_kind
    assert mean == pytest.approx(base.sum(0), abs=4 * math.sqrt(2.0 / per_kind))
    assert not came_left[kinds[meeting] == 2].any()


@pytest.mark.parametrize("meetings", [0, 5])
def test_nothing_meets_nothing(meetings: int) -> None:
    rng = np.random.default_rng(1)
    dark = np.zeros((1, 2), np.complex128), np.zeros(meetings, np.int64)
    for seen in (np.ones(4), np.zeros(4)):
        assert [part.size for part in sample_photons(rng, dark, dark, seen)] == [0, 0, 0]
