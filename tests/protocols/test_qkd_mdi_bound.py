"""MDI bounds against the truth behind counts, published rates, and a second program."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from bellbench.protocols.qkd.finite_key import binary_entropy
from bellbench.protocols.qkd.mdi_bound import (
    MdiBound,
    MdiSources,
    RelayLink,
    asymptotic_mdi_rate,
    chernoff_deviation,
    error_of_single_pairs,
    mdi_key_length,
    single_pair_yield,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from qkd import _core as _qkd
from scipy.stats import binom

ORACLE: Any = _qkd  # qkd 0.2.0 (PyPI, MIT)
Grid = npt.NDArray[np.float64]
DETECTOR, BACKGROUND, WRONG, F_EC = 0.145, 6.02e-6, 0.015, 1.16


def relay(km: float) -> RelayLink:
    """In the middle of a fibre of 0.2 dB/km; the background is that of two detectors."""
    eta = DETECTOR * 10 ** (-0.2 * km / 2 / 10)
    return RelayLink(eta, eta, BACKGROUND / 2, WRONG)


def gains(
    link: RelayLink, a: tuple[float, ...], b: tuple[float, ...]
) -> tuple[Grid, Grid, Grid, Grid]:
    key = np.array([[link.key_basis(x, y) for y in b] for x in a])
    test = np.array([[link.test_basis(x, y) for y in b] for x in a])
    return key[..., 0], key[..., 1], test[..., 0], test[..., 1]


# ------------------------------------------------------------------------- published figures


def asymptotic(km: float, mu: float) -> float:
    settings = (mu, 0.005, 0.0)
    q_key, e_key, q_test, e_test = gains(relay(km), settings, settings)
    pairs = single_pair_yield(settings, settings, q_key)
    error = error_of_single_pairs(
        settings, settings, q_test * e_test, single_pair_yield(settings, settings, q_test)
    )
    single = mu * mu * math.exp(-2 * mu) * pairs
    return asymptotic_mdi_rate(single, error, q_key[0, 0], e_key[0, 0], F_EC)


def test_infinitely_long_keys() -> None:
    rates = {mu: asymptotic(100, mu) for mu in np.arange(0.05, 1.0, 0.05).round(2)}
    assert rates[0.55] == pytest.approx(4.679772e-6, rel=2e-7)
    assert max(rates, key=lambda mu: rates[mu]) == 0.55  # on a grid of 0.05: the top is at 0.538
    reach = [max(asymptotic(km, mu) for mu in (0.25, 0.3, 0.35, 0.4)) for km in (230.52, 230.55)]
    assert reach[0] > 0 == reach[1]


def finite(km: float, pulses: float, settings: tuple[float, float, float]) -> MdiBound:
    """One of two Bell states; each basis chosen by half, nine tenths of both signals make key."""
    shares = (0.7, 0.2, 0.1)
    q_key, e_key, q_test, e_test = gains(relay(km), settings, settings)
    sources = MdiSources.independent(settings, settings, shares, shares, 0.25)
    weight = pulses * np.asarray(sources.probabilities) / 2
    key, test = weight * q_key, weight * q_test
    bits = 0.9 * key[0, 0]
    leak = F_EC * bits * binary_entropy(float(e_key[0, 0]))
    return mdi_key_length(sources, key, sources, test, test * e_test, bits, leak, 0.5e-10, 1e-15)


def test_a_finite_run_without_a_key_and_one_with() -> None:
    none = finite(50, 1e14, (0.3, 0.1, 5e-4))
    assert none.length == 0
    assert none.vacuum == 217_584
    assert none.single == pytest.approx(2.124e8, abs=5e4)
    assert none.phase_error == pytest.approx(0.2254, abs=5e-5)
    some = finite(50, 1e17, (0.3, 0.1, 5e-4))
    assert some.length > 10**9
    assert 0.05 < some.phase_error < none.phase_error
    # and with settings that suit a finite run, thousandfold sooner
    assert finite(0, 1e14, (0.3, 0.05, 5e-4)).length > 10**8


def test_finite_keys_tend_to_infinite_ones() -> None:
    settings = (0.3, 0.05, 5e-4)
    q_key, e_key, q_test, e_test = gains(relay(20), settings, settings)
    pairs = single_pair_yield(settings, settings, q_key)
    error = error_of_single_pairs(
        settings, settings, q_test * e_test, single_pair_yield(settings, settings, q_test)
    )
    single = 0.09 * math.exp(-0.6) * pairs
    limit = asymptotic_mdi_rate(single, error, q_key[0, 0], e_key[0, 0], F_EC)
    shares = [
        finite(20, n, settings).length / (n * 0.25 * 0.49 / 2 * 0.9) / limit
        for n in (1e15, 1e18, 1e21)
    ]
    assert shares[0] < shares[1] < shares[2]
    assert shares[2] == pytest.approx(1.0, abs=0.02)  # empty pulses add a little


# ----------------------------------------------------------------------- truth behind counts


def test_estimates_stay_on_the_safe_side_of_the_truth() -> None:
    rng = np.random.default_rng(13)
    photons = np.arange(9)
    factorial = np.array([math.factorial(n) for n in photons], float)
    found = 0
    for trial in range(40):
        a, b = rng.uniform((0.2, 0.02, 0.0), (0.7, 0.15, 1e-3), (2, 3)).tolist()
        shares = rng.dirichlet((3, 3, 3), 2).tolist()
        sources = MdiSources.independent(
            tuple(a), tuple(b if trial % 2 else a), shares[0], shares[1], 0.25
        )
        a, b = sources.alice, sources.bob
        # P(setting, photons), and what an arbitrary relay announces for each pair of photons
        poisson_a = np.exp(-np.array(a))[:, None] * np.array(a)[:, None] ** photons / factorial
        poisson_b = np.exp(-np.array(b))[:, None] * np.array(b)[:, None] ** photons / factorial
        joint = np.asarray(sources.probabilities)[:, :, None, None] * np.einsum(
            "in,jm->ijnm", poisson_a, poisson_b
        )
        tau = joint.sum(axis=(0, 1))
        eta = 10 ** rng.uniform(-3, -1)
        yields = np.minimum(
            1,
            rng.uniform(0.2, 1.5, tau.shape) * np.add.outer(photons, photons) ** 2 * eta**2 + 1e-9,
        )
        errors = rng.uniform(0.0, 0.5, tau.shape)
        errors[1, 1] = rng.uniform(0, 0.05)
        pulses = 10 ** rng.uniform(12, 16)
        true = rng.poisson(pulses * tau * yields)
        wrong = rng.binomial(true, errors)
        counts, faults = np.zeros((3, 3)), np.zeros((3, 3))
        vacuum_signal = single_signal = 0
        for n in photons:
            for m in photons:
                chances = (joint[:, :, n, m] / tau[n, m]).ravel()
                bad = rng.multinomial(wrong[n, m], chances).reshape(3, 3)
                good = rng.multinomial(true[n, m] - wrong[n, m], chances).reshape(3, 3)
                faults += bad
                counts += bad + good
                if n == 0:
                    vacuum_signal += int(bad[0, 0] + good[0, 0])
                if n == m == 1:
                    single_signal = int(bad[0, 0] + good[0, 0])
        bound = mdi_key_length(
            sources, counts, sources, counts, faults, counts[0, 0], 0.0, 1e-9, 1e-12
        )
        assert bound.vacuum <= vacuum_signal
        assert bound.single <= single_signal
        assert bound.test_single <= true[1, 1]
        assert bound.test_errors >= wrong[1, 1]
        found += bound.test_single > 0.1 * true[1, 1]
        if bound.length:
            assert bound.phase_error >= errors[1, 1]
            assert bound.length <= vacuum_signal + single_signal
    assert found > 10


@pytest.mark.parametrize("epsilon", [1e-2, 1e-4])
@pytest.mark.parametrize("trials", [2000, 10**6])
def test_deviations_cover_the_mean(epsilon: float, trials: int) -> None:
    # exactly: for every mean, the chance of a count whose interval misses it is at most epsilon
    counts = np.arange(0, min(trials, 3000) + 1)
    widths = np.array([chernoff_deviation(float(x), trials, epsilon) for x in counts])
    for share in (1e-4, 1e-3, 0.01, 0.3):
        mean = share * trials
        if mean > 2000:
            continue
        chance = binom.pmf(counts, trials, share)
        above = chance[counts + widths[:, 0] < mean].sum()
        below = chance[counts - widths[:, 1] > mean].sum()
        assert above <= 1.5 * epsilon
        assert below <= 1.5 * epsilon
        assert above + below <= 3 * epsilon


def test_many_counts_deviate_less_than_hoeffding_says() -> None:
    flat = math.sqrt(5e11 * math.log(1e12))
    above, below = chernoff_deviation(1e9, 1e12, 1e-12)
    assert below < above < flat
    assert below == pytest.approx(math.sqrt(3e9 * math.log(1e12)))
    assert chernoff_deviation(5.0, 100.0, 1e-12) == (math.sqrt(50 * math.log(1e12)),) * 2


# ---------------------------------------------------------------------------- other program


def test_every_step_agrees_with_an_independent_program() -> None:
    rng = np.random.default_rng(9)
    keys = 0
    for trial in range(100):
        a = (rng.uniform(0.2, 0.6), rng.uniform(0.02, 0.15), 10 ** rng.uniform(-5, -3))
        b = a if trial % 2 else (rng.uniform(0.2, 0.6), rng.uniform(0.02, 0.15), 1e-4)
        shares = rng.dirichlet((4, 3, 2), 2)
        key_sources = MdiSources.independent(a, b, shares[0], shares[1], 0.3)
        test_sources = MdiSources.independent(a, b, shares[1], shares[0], 0.2)
        link = RelayLink(
            10 ** rng.uniform(-2, 0), 10 ** rng.uniform(-2, 0), 1e-6, rng.uniform(0, 0.02)
        )
        q_key, e_key, q_test, e_test = gains(link, a, b)
        pulses = 10 ** rng.uniform(11, 16)
        key = pulses * np.asarray(key_sources.probabilities) * q_key
        test = pulses * np.asarray(test_sources.probabilities) * q_test
        wrong = test * e_test
        bits = float(key[0, 0] * rng.uniform(0.3, 1.0))
        qber, eps = float(e_key[0, 0]), float(10 ** rng.uniform(-12, -7))
        leak = F_EC * bits * binary_entropy(qber)
        bound = mdi_key_length(key_sources, key, test_sources, test, wrong, bits, leak, eps, 1e-13)

        def flat(grid: Any) -> list[float]:
            return [float(x) for x in np.asarray(grid).ravel()]

        each = ORACLE.mdi_eps(eps)
        settings = (list(a), list(b), flat(key_sources.probabilities), flat(key), bits, each)
        n0, n1 = ORACLE.mdi_vacuum(*settings), ORACLE.mdi_single(*settings)
        probabilities = flat(test_sources.probabilities)
        pairs = ORACLE.mdi_pairs(list(a), list(b), probabilities, flat(test), each)
        faults = ORACLE.mdi_faults(list(a), list(b), probabilities, flat(wrong), each)
        phase = ORACLE.mdi_phase(n1, pairs, faults, each)
        assert bound.vacuum == pytest.approx(n0, abs=1, rel=1e-9)
        assert bound.single == pytest.approx(n1, abs=1, rel=1e-9)
        assert bound.test_single == pytest.approx(pairs, abs=1e-3, rel=1e-9)
        assert bound.test_errors == pytest.approx(faults, abs=1e-3, rel=1e-9)
        assert bound.phase_error == pytest.approx(phase, abs=2 / max(n1, 2))
        if n0 + n1 <= bits:
            theirs = ORACLE.mdi_length(n0, n1, phase, bits, qber, F_EC, eps, 1e-13)
            assert abs(bound.length - theirs) <= 3 + 1e-9 * theirs
        keys += bound.length > 0
    assert keys > 12


def test_relay_and_infinite_bounds_agree_with_an_independent_program() -> None:
    rng = np.random.default_rng(10)
    for _ in range(40):
        eta_a, eta_b = 10 ** rng.uniform(-4, 0, 2)
        dark, wrong = 10 ** rng.uniform(-8, -4), rng.uniform(0, 0.05)
        link = RelayLink(eta_a, eta_b, dark, wrong)
        a = tuple(np.sort(rng.uniform(1e-3, 0.8, 3))[::-1])
        b = tuple(np.sort(rng.uniform(1e-3, 0.8, 3))[::-1])
        q_key, e_key, q_test, e_test = gains(link, a, b)
        for i in range(3):
            theirs = ORACLE.mdi_rect(a[i], b[i], eta_a, eta_b, dark, wrong)
            assert (q_key[i, i], e_key[i, i]) == pytest.approx(theirs, rel=1e-9)
            theirs = ORACLE.mdi_diag(a[i], b[i], eta_a, eta_b, dark, wrong)
            assert (q_test[i, i], e_test[i, i]) == pytest.approx(theirs, rel=1e-9)
        y11 = single_pair_yield(a, b, q_test)
        assert y11 == pytest.approx(
            ORACLE.mdi_y11(list(a), list(b), [float(q) for q in q_test.ravel()]),
            rel=1e-6,
            abs=1e-15,
        )
        assert y11 <= ORACLE.mdi_yield(eta_a, eta_b, dark, wrong)[0] * (1 + 1e-9)
        if y11 > 1e-9:
            qe = q_test * e_test
            theirs = ORACLE.mdi_e11(
                a[1], a[2], b[1], b[2], qe[1, 1], qe[2, 2], qe[1, 2], qe[2, 1], y11
            )
            assert error_of_single_pairs(a, b, qe, y11) == pytest.approx(theirs, rel=1e-6)


# ----------------------------------------------------------------------------- properties


def test_nothing_that_is_worse_lengthens_a_key() -> None:
    settings, shares = (0.3, 0.05, 5e-4), (0.5, 0.3, 0.2)
    q_key, _, q_test, e_test = gains(relay(0), settings, settings)
    sources = MdiSources.independent(settings, settings, shares, shares, 0.25)
    weight = 1e14 * np.asarray(sources.probabilities)
    key, test = weight * q_key, weight * q_test
    wrong = test * e_test
    bits = key[0, 0] / 2

    def length(leak: float = 1e8, eps: float = 1e-10, more: float = 1.0, used: float = 1.0) -> int:
        faults = np.minimum(test, more * wrong)
        return mdi_key_length(
            sources, key, sources, test, faults, used * bits, leak, eps, 1e-12
        ).length

    base = length()
    assert base > 9e8
    assert length(leak=1e8 + 1000) == base - 1000
    assert length(eps=1e-14) < base
    assert length(more=1.05) < base
    assert length(used=0.5) < base
    assert length(leak=1e13) == 0
    assert length(used=0.0) == 0


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32), size=st.floats(0, 14), kind=st.sampled_from(["any", "one", "zero"])
)
def test_no_counts_give_more_key_than_bits(seed: int, size: float, kind: str) -> None:
    rng = np.random.default_rng(seed)
    settings_: Any = (0.4, 0.1, 1e-3)
    sources = MdiSources.independent(settings_, settings_, (0.9, 0.06, 0.04), (0.8, 0.1, 0.1), 0.5)
    test, key = (np.floor(10**size * rng.random((3, 3))) for _ in range(2))
    if kind == "one":
        key *= rng.random((3, 3)) < 0.2
    elif kind == "zero":
        test *= 0
    wrong = np.floor(test * rng.random((3, 3)))
    bound = mdi_key_length(sources, key, sources, test, wrong, key[0, 0], 0, 1e-6, 1e-9)
    assert 0 <= bound.length <= key[0, 0]
    assert bound.vacuum + bound.single <= key[0, 0]
    assert 0 <= bound.test_single <= test.sum()
    assert 0 <= bound.phase_error <= 0.5


def test_nonsense_is_refused() -> None:
    ok: Any = (0.3, 0.1, 0.0)
    sources = MdiSources.independent(ok, ok, (0.5, 0.3, 0.2), (0.5, 0.3, 0.2), 0.5)
    grid = np.full((3, 3), 100.0)
    good: tuple[Any, ...] = (sources, grid, sources, grid, grid / 10, 50, 5, 1e-9, 1e-9)
    function: Any = mdi_key_length
    assert function(*good).length == 0
    for place, bad in [
        (1, np.full((3, 2), 1.0)),
        (1, -grid),
        (3, grid * math.nan),
        (4, grid * 2),
        (5, 101),
        (6, -1),
        (6, math.inf),
        (7, 0.0),
        (8, 1.0),
    ]:
        with pytest.raises(ValueError):
            function(*good[:place], bad, *good[place + 1 :])
    for a in ((0.1, 0.3, 0.0), (0.3, 0.1, -0.1), (0.3, 0.1), (0.3, math.nan, 0.0)):
        with pytest.raises(ValueError):
            MdiSources.independent(a, ok, (0.5, 0.3, 0.2), (0.5, 0.3, 0.2), 0.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="above 1"):
        MdiSources.independent(ok, ok, (1.0, 1.0, 1.0), (0.5, 0.3, 0.2), 1.0)
    with pytest.raises(ValueError):
        chernoff_deviation(11.0, 10.0, 1e-3)
