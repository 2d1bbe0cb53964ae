"""Pulsed pair sources against Fock space, closed forms and their own sampler."""

import itertools
import math
from collections.abc import Callable, Collection, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from bellbench.instruments.errors import ConfigError
from bellbench.sims.physics import polarization as pol
from bellbench.sims.physics.pulsed_pairs import (
    ClickStatistics,
    PairPulse,
    arm_units,
    bell_station_units,
    mode_overlap,
)
from hypothesis import given, settings
from hypothesis import strategies as st

Complex = npt.NDArray[np.complex128]

ONE: Complex = np.eye(2, dtype=np.complex128)
H: Complex = np.array([np.diag([1.0, 0.0])], np.complex128)
BASES: dict[str, Complex] = {
    "Z": np.array([[[1, 0], [0, 0]], [[0, 0], [0, 1]]], np.complex128),
    "X": np.array([[[1, 1], [1, 1]], [[1, -1], [-1, 1]]], np.complex128) / 2,
    "Y": np.array([[[1, -1j], [1j, 1]], [[1, 1j], [-1j, 1]]], np.complex128) / 2,
}
PSI_MINUS, PSI_PLUS = ((0, 3), (1, 2)), ((0, 1), (2, 3))  # of cH cV dH dV


def station(
    *, left: tuple[int, int] = (0, 1), right: tuple[int, int] = (1, 1), sources: int = 2, **how: Any
) -> Complex:
    return bell_station_units(
        left,
        right,
        how.pop("jones_left", ONE),
        how.pop("jones_right", ONE),
        sources,
        reflectivity=how.pop("reflectivity", 0.5),
        extinction_db=how.pop("extinction_db", 400.0),
        overlap=how.pop("overlap", 1.0),
    )


# --- Fock space, up to three pairs: the operator that no unit of G clicks acts on n photons as
# (1 - G) on each, so that its matrix elements are permanents.


def permanent(matrix: Complex) -> complex:
    """Ryser's formula."""
    n = len(matrix)
    subsets = np.arange(1 << n) >> np.arange(n)[:, None] & 1
    signs = (-1.0) ** (n - subsets.sum(axis=0))
    return complex((signs * np.prod(matrix @ subsets, axis=0)).sum())


def fock_silence(amplitudes: Complex, unitary: Complex, g: Complex, most: int = 3) -> float:
    """P(silent, at most ``most`` pairs): pair k has one photon in mode (k, 0) and one in (k, 1).

    ``unitary`` turns modes (k, arm) in the order of the module under test.
    """
    silent = unitary.conj().T @ (np.eye(len(g)) - g) @ unitary
    total = 0.0 + 0.0j
    norm = np.prod(1 - np.abs(amplitudes) ** 2)
    for n in range(most + 1):
        states = list(itertools.combinations_with_replacement(range(len(amplitudes)), n))
        for bra, ket in itertools.product(states, repeat=2):
            # modes of pair k: signal 4 s + p, idler 4 s + 2 + p with k = 2 s + p
            rows, columns = (
                [4 * (k // 2) + k % 2 + arm for k in state for arm in (0, 2)]
                for state in (bra, ket)
            )
            counts = [math.factorial(state.count(k)) for state in (bra, ket) for k in set(state)]
            # sqrt(n!) of signal and idler, for bra and ket: n! each
            element = permanent(silent[np.ix_(rows, columns)]) / math.prod(counts)
            weight = np.prod(amplitudes[list(bra)].conj()) * np.prod(amplitudes[list(ket)])
            total += complex(weight * element)
    return float(total.real * norm)


def fock_probability(
    pulses: Sequence[PairPulse], units: Complex, clicked: Collection[int], silent: Collection[int]
) -> tuple[float, float]:
    """The probability from up to three pairs, and that of more pairs."""
    paulis = [
        np.eye(2),
        np.array([[0, 1], [1, 0]]),
        np.array([[0, -1j], [1j, 0]]),
        np.diag([1, -1]),
    ]
    amplitudes = []
    for pulse in pulses:
        # sinh^2 of both polarizations add up to the mean: by bisection
        low, high = 0.0, 1 / max(1.0, pulse.imbalance) ** 2
        for _ in range(200):
            t = (low + high) / 2
            u = t * pulse.imbalance**2
            low, high = (t, high) if t / (1 - t) + u / (1 - u) < pulse.mean_pairs else (low, t)
        phase = np.exp(1j * math.radians(pulse.phase_deg))
        amplitudes += [math.sqrt(low), math.sqrt(low) * pulse.imbalance * phase]
    total, inside = 0.0, 0.0
    for errors in itertools.product(range(4), repeat=len(pulses)):
        weight = math.prod(
            (1 - 3 * (1 - p.visibility) / 4) if e == 0 else (1 - p.visibility) / 4
            for p, e in zip(pulses, errors, strict=True)
        )
        if weight == 0:
            continue
        unitary = np.eye(4 * len(pulses), dtype=np.complex128)
        for s, error in enumerate(errors):
            unitary[4 * s + 2 : 4 * s + 4, 4 * s + 2 : 4 * s + 4] = paulis[error]

        def silence(of: Collection[int], unitary: Complex = unitary) -> float:
            return fock_silence(np.array(amplitudes), unitary, units[list(of)].sum(axis=0))

        for k in range(len(clicked) + 1):
            for chosen in itertools.combinations(clicked, k):
                total += weight * (-1) ** k * silence((*silent, *chosen))
        inside += weight * silence(())
    return total, 1 - inside


def random_jones(rng: np.random.Generator) -> Complex:
    return pol.rotation(rng.uniform(-180, 180, 3)) * math.sqrt(rng.uniform(0.2, 0.9))


@pytest.mark.parametrize(
    ("clicked", "silent"),
    [((0,), ()), ((0, 2), ()), ((0, 3), (1, 2)), ((1, 2, 3), ()), ((), (0, 1, 2, 3))],
)
def test_one_source_agrees_with_fock_space(
    clicked: tuple[int, ...], silent: tuple[int, ...]
) -> None:
    rng = np.random.default_rng(5)
    pulse = PairPulse(mean_pairs=0.02, visibility=0.8, phase_deg=70.0, imbalance=0.6)
    units = np.concatenate(
        [
            arm_units(BASES["X"], random_jones(rng), 0, 0, 1),
            arm_units(BASES["Z"], random_jones(rng), 0, 1, 1),
        ]
    )
    got = ClickStatistics([pulse], units).probability(clicked, silent)
    expected, tail = fock_probability([pulse], units, clicked, silent)
    assert 0 < tail < 1e-6
    assert expected - 1e-13 <= got <= expected + tail + 1e-13


@pytest.mark.parametrize(
    ("clicked", "silent"), [((0, 3), ()), ((4, 0, 3), ()), ((4, 5, 1, 2), ()), ((4, 0, 1), (5, 3))]
)
def test_two_sources_and_a_station_agree_with_fock_space(
    clicked: tuple[int, ...], silent: tuple[int, ...]
) -> None:
    rng = np.random.default_rng(6)
    pulses = [PairPulse(0.004, 1.0, 30.0, 1.3), PairPulse(0.007, 1.0, -80.0, 0.7)]
    bell = station(
        jones_left=random_jones(rng),
        jones_right=random_jones(rng),
        reflectivity=0.42,
        extinction_db=15.0,
        overlap=0.8,
    )
    ends = [arm_units(BASES["X"][:1], random_jones(rng), s, 0, 2) for s in (0, 1)]
    units = np.concatenate([bell, *ends])
    got = ClickStatistics(pulses, units).probability(clicked, silent)
    expected, tail = fock_probability(pulses, units, clicked, silent)
    assert 0 < tail < 1e-7
    assert expected - 1e-13 <= got <= expected + tail + 1e-13


def test_signal_and_idler_of_one_source_may_meet() -> None:
    pulse = PairPulse(0.01, 1.0, 40.0, 0.5)
    units = station(left=(0, 0), right=(0, 1), sources=1, overlap=0.9, extinction_db=20.0)
    statistics = ClickStatistics([pulse], units)
    for clicked in ((0,), (0, 2), (0, 3), (0, 1, 2)):
        expected, tail = fock_probability([pulse], units, clicked, ())
        assert expected - 1e-13 <= statistics.probability(clicked) <= expected + tail + 1e-13
    # HOM of a pair, HH + eps VV: they leave together
    ideal = station(left=(0, 0), right=(0, 1), sources=1)
    same = ClickStatistics([PairPulse(1e-6)], ideal)
    assert same.probability([0, 2]) < 1e-11 < 1e-7 < same.probability([0])


# --- closed forms


@settings(max_examples=50)
@given(st.floats(1e-3, 5), st.floats(0, 1), st.sampled_from([1.0, 1.5, 2.0, 7.0]))
def test_number_of_pairs_is_that_of_two_thermal_modes(mean: float, z: float, k: float) -> None:
    # silent with 1 - G = z: the generating function sum_n P(n) z^n; physics.md sec. 1 with K = 1:
    # P(n) = (n + 1) l^n / (1 + l)^(n + 2); K Schmidt modes: negative binomial of order 2 K
    unit = arm_units((1 - z) * ONE[None], ONE, 0, 0, 1)
    got = ClickStatistics([PairPulse(mean)], unit, k).probability([], [0])
    lam, n, term, total = mean / 2 / k, 0, (1 + mean / 2 / k) ** (-2 * k), 0.0
    while n < 4000 and term * (z**n) > 1e-18:
        if k == 1.0:
            assert term == pytest.approx((n + 1) * lam**n / (1 + lam) ** (n + 2))
        total += term * z**n
        term *= (n + 2 * k) / (n + 1) * lam / (1 + lam)
        n += 1
    assert got == pytest.approx(total, rel=1e-9)


@given(st.floats(1e-9, 20), st.floats(0, 3), st.floats(-180, 180), st.floats(0, 1), st.floats(1, 9))
def test_mean_and_state_of_the_pairs_are_as_asked(
    mean: float, eps: float, phase: float, v: float, k: float
) -> None:
    eta = 1e-6
    units = np.concatenate([arm_units(eta * ONE[None], ONE, 0, arm, 1) for arm in (0, 1)])
    statistics = ClickStatistics([PairPulse(mean, v, phase, eps)], units, k)
    for arm in (0, 1):
        assert statistics.probability([arm]) == pytest.approx(eta * mean, rel=1e-4)
    # one pair at a time: the table of correlations of the density matrix
    pure, flat = pol.pair_state(1.0, phase, eps), np.eye(2) / 2
    marginal = np.einsum("ijkj->ik", pure.reshape(2, 2, 2, 2))  # idler depolarized
    rho = v * pure + (1 - v) * np.kron(marginal, flat)
    if eps == 1:
        assert rho == pytest.approx(pol.pair_state(v, phase, eps))
    turn = pol.rotation((20, 50, -70)), pol.rotation((-10, 30, 130))
    ops = 0.1 * pol.analyzer_operators(0.4, 17.0)
    units = np.concatenate([arm_units(ops, turn[a], 0, a, 1) for a in (0, 1)])
    few = ClickStatistics([PairPulse(1e-7, v, phase, eps)], units, k)
    expected = pol.joint_probabilities(rho, turn[0], turn[1], ops, ops)
    got = [[few.probability([i, 4 + j]) / 1e-7 for j in range(4)] for i in range(4)]
    assert np.array(got) == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize("k", [1.0, 3.0])
def test_g2_unheralded_and_heralded(k: float) -> None:
    eta, mean = 1e-4, 0.04  # H only: mu = 0.02
    half: Complex = np.asarray(np.concatenate([H, H]) * eta / 2, np.complex128)
    units = np.concatenate([arm_units(half, ONE, 0, 0, 1), arm_units(eta * H, ONE, 0, 1, 1)])
    p = ClickStatistics([PairPulse(mean)], units, k).probability
    assert p([0, 1]) / (p([0]) * p([1])) == pytest.approx(1 + 1 / k, rel=1e-4)
    heralded = p([2, 0, 1]) * p([2]) / (p([2, 0]) * p([2, 1]))
    # factorial moments of the negative binomial
    mu, second = mean / 2, (mean / 2) ** 2 * (1 + 1 / k)
    third = mu * second * (1 + 2 / k)
    assert heralded == pytest.approx((third + 2 * second) * mu / (mu + second) ** 2, rel=3e-4)
    assert heralded == pytest.approx(2 * mu * (1 + 1 / k), rel=0.05)


@pytest.mark.parametrize(
    ("r", "m", "k"), [(0.5, 1.0, 1.0), (0.5, 0.6, 1.0), (0.3, 0.9, 1.0), (0.5, 1.0, 2.5)]
)
def test_hong_ou_mandel_of_heralded_and_of_thermal_light(r: float, m: float, k: float) -> None:
    heralds = [arm_units(H, ONE, s, 0, 2) for s in (0, 1)]
    pulses = [PairPulse(1e-5)] * 2
    # one photon each: P_c = R^2 + T^2 - 2 R T M, with M = 1/K of independent sources
    units = np.concatenate([station(reflectivity=r, overlap=m), *heralds])
    p = ClickStatistics(pulses, units, k).probability
    t = 1 - r
    expected = r * r + t * t - 2 * r * t * m / k
    assert p([0, 2, 4, 5]) / p([4, 5]) == pytest.approx(expected, abs=1e-3)
    # unheralded, faint: V = M / (1 + g2), g2 = 1 + 1/K (balanced)
    if r == 0.5:
        together, apart = (
            ClickStatistics(
                [PairPulse(0.1)] * 2, 1e-5 * station(reflectivity=r, overlap=overlap), k
            ).probability([0, 2])
            for overlap in (m, 0.0)
        )
        assert 1 - together / apart == pytest.approx((m / k) / (2 + 1 / k), rel=1e-4)


def swapped(
    pulses: Sequence[PairPulse], k: float = 1.0, **how: Any
) -> Callable[[str, Sequence[tuple[int, int]]], float]:
    """Correlation of the signals in a basis, given one of the heralds, faintly detected."""

    def correlation(basis: str, heralds: Sequence[tuple[int, int]]) -> float:
        ends = [arm_units(BASES[basis], ONE, s, 0, 2) for s in (0, 1)]
        p = ClickStatistics(pulses, np.concatenate([station(**how), *ends]), k).probability
        table = np.array(
            [[sum(p([*h, 4 + i, 6 + j]) for h in heralds) for j in (0, 1)] for i in (0, 1)]
        )
        return float((table[0, 0] + table[1, 1] - table[0, 1] - table[1, 0]) / table.sum())

    return correlation


@pytest.mark.parametrize(
    ("v1", "v2", "m", "k"), [(1, 1, 1, 1), (0.97, 0.9, 0.93, 1), (0.9, 0.8, 1, 1), (1, 1, 1, 4)]
)
def test_swapped_state_has_the_sign_and_visibility_of_theory(
    v1: float, v2: float, m: float, k: float
) -> None:
    e = swapped([PairPulse(1e-6, v1), PairPulse(1e-6, v2)], k, overlap=m)
    # network.md sec. 5: XX, YY, ZZ of Psi+ are (+, +, -), of Psi- (-, -, -)
    v = v1 * v2
    for heralds, sign in ((PSI_MINUS, -1), (PSI_PLUS, 1)):
        for one in heralds:  # each of the patterns by itself
            assert e("Z", [one]) == pytest.approx(-v, abs=1e-4)
            assert e("X", [one]) == pytest.approx(sign * v * m / k, abs=1e-4)
            assert e("Y", [one]) == pytest.approx(sign * v * m / k, abs=1e-4)
    fidelity = (1 - e("X", PSI_MINUS) - e("Y", PSI_MINUS) - e("Z", PSI_MINUS)) / 4
    if m == k == 1:
        f1, f2 = (1 + 3 * v1) / 4, (1 + 3 * v2) / 4
        assert fidelity == pytest.approx(f1 * f2 + (1 - f1) * (1 - f2) / 3, abs=1e-4)
    else:  # rho = M rho_ideal + (1 - M) rho_dephased
        assert fidelity == pytest.approx((1 + v + 2 * v * m / k) / 4, abs=1e-4)


def test_about_half_of_the_heralds_are_empty_on_one_side() -> None:
    # physics.md sec. 7: two pairs left, none right (or mirrored) are 1.5 times as likely as one
    # each; 1/3 of those and 1/2 of the good ones give a Psi pattern at low efficiency.
    ends = [arm_units(ONE[None], ONE, s, 0, 2) for s in (0, 1)]
    units = np.concatenate([1e-3 * station(), *ends])
    p = ClickStatistics([PairPulse(1e-4)] * 2, units).probability
    heralds = PSI_MINUS + PSI_PLUS
    total = sum(p(h) for h in heralds)
    for silent, filled in ((4, 5), (5, 4)):
        empty = sum(p([*h, filled], [silent]) for h in heralds)
        assert empty / total == pytest.approx(0.25, abs=2e-3)
    assert sum(p([*h, 4, 5]) for h in heralds) / total == pytest.approx(0.5, abs=2e-3)


def test_four_folds_of_1e_12_keep_their_digits() -> None:
    # two independent pairs of modes: the square of a closed form, in rational numbers
    eta, mean = Fraction(3, 100), Fraction(1, 1000)

    def silent(e: Fraction) -> Fraction:
        return 1 / (1 + mean * e)

    pair = 1 - 2 * silent(eta) + silent(2 * eta - eta**2)
    units = np.concatenate([arm_units(0.03 * H, ONE, s, arm, 2) for s in (0, 1) for arm in (0, 1)])
    p = ClickStatistics([PairPulse(0.001, imbalance=0.0)] * 2, units).probability
    assert 5e-13 < pair**2 < 1e-12
    assert p(range(4)) == pytest.approx(float(pair**2), rel=1e-6)


@settings(max_examples=10)
@given(st.floats(0.01, 2), st.integers(0, 2**32))
def test_two_schmidt_modes_are_two_sources_that_meet_no_other(mean: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    turns = [random_jones(rng) for _ in range(4)]

    def bench(copies: int) -> Complex:
        """Source s of copy j is source s + 2 j; every unit sees all copies."""
        total: Complex = np.zeros((8, 8 * copies, 8 * copies), np.complex128)
        for j in range(copies):
            n, a, b = 2 * copies, 2 * j, 2 * j + 1
            bell = station(
                left=(a, 1), right=(b, 1), sources=n, jones_left=turns[0], jones_right=turns[1]
            )
            ends = [
                arm_units(BASES["X"], turns[2], a, 0, n),
                arm_units(BASES["Y"], turns[3], b, 0, n),
            ]
            total += np.concatenate([bell, *ends])
        return total

    pulses = [PairPulse(mean, 1.0, 10.0, 0.9), PairPulse(mean / 2, 1.0, 50.0, 1.2)]
    halves = [PairPulse(p.mean_pairs / 2, 1.0, p.phase_deg, p.imbalance) for p in pulses]
    together = ClickStatistics(pulses, bench(1), 2.0)
    apart = ClickStatistics([*halves, *halves], bench(2))
    for clicked, silent in (((0, 3), ()), ((1, 2, 4, 6), (5,)), ((4,), (0, 1))):
        assert together.probability(clicked, silent) == pytest.approx(
            apart.probability(clicked, silent), rel=1e-9
        )


# --- the sampler


def busy_bench(mean: float = 0.4, visibility: float = 0.9) -> ClickStatistics:
    ops = 0.7 * pol.analyzer_operators(0.5, 20.0)
    ends = [arm_units(ops[:3], pol.rotation((30 * s, 5, 9)), s, 0, 2) for s in (0, 1)]
    dead = np.zeros((1, 8, 8), complex)
    units = np.concatenate([ends[0], dead, 0.8 * station(overlap=0.9), dead, ends[1]])
    return ClickStatistics([PairPulse(mean, visibility)] * 2, units, 1.3)


def test_probabilities_of_all_patterns_add_up_to_one() -> None:
    statistics = busy_bench(visibility=1.0)
    real = [u for u in range(12) if u not in (3, 8)]
    total = sum(
        statistics.probability(clicked, [u for u in range(12) if u not in clicked])
        for k in range(len(real) + 1)
        for clicked in itertools.combinations(real, k)
    )
    assert total == pytest.approx(1, abs=1e-9)
    assert statistics.probability([]) == pytest.approx(1, abs=1e-15)
    assert statistics.probability([3]) == statistics.probability([0], [0]) == 0
    assert statistics.probability([0], [3, 8]) == statistics.probability([0])


def test_sampled_patterns_have_the_right_frequencies() -> None:
    statistics, pulses = busy_bench(), 200_000
    masks, counts = statistics.sample(np.random.default_rng(11), pulses)
    assert masks.dtype == np.uint64
    assert counts.dtype == np.int64
    assert (np.diff(masks.astype(np.int64)) > 0).all()
    assert (masks > 0).all()
    assert (counts > 0).all()
    chi2, cells, seen, likely = 0.0, 0, 0, 0.0
    for mask, count in zip(masks.tolist(), counts.tolist(), strict=True):
        clicked = [u for u in range(12) if mask >> u & 1]
        assert not {3, 8} & set(clicked)
        p = statistics.probability(clicked, [u for u in range(12) if u not in clicked])
        if p * pulses > 20:
            chi2 += (count - p * pulses) ** 2 / (p * pulses * (1 - p))
            cells, seen, likely = cells + 1, seen + count, likely + p
    assert cells > 100
    assert abs(chi2 - cells) < 3 * math.sqrt(2 * cells)
    assert abs(seen - likely * pulses) < 3 * math.sqrt(pulses * likely * (1 - likely))
    # correlations of few units, whatever the others do
    for clicked in ([0], [0, 9], [4, 7], [0, 4, 7, 10]):
        need = sum(1 << u for u in clicked)
        n = int(counts[(masks & np.uint64(need)) == need].sum())
        p = statistics.probability(clicked)
        assert abs(n - p * pulses) < 3 * math.sqrt(pulses * p)


def test_the_same_seed_gives_the_same_sample_whatever_was_asked_before() -> None:
    fresh, used = busy_bench(0.1), busy_bench(0.1)
    used.probability([0, 5, 9], [2])
    for seed in range(5):
        used.sample(np.random.default_rng(seed + 100), 3000)
    for seed in range(5):
        a = fresh.sample(np.random.default_rng(seed), 20_000)
        b = used.sample(np.random.default_rng(seed), 20_000)
        assert a[0].tolist() == b[0].tolist()
        assert a[1].tolist() == b[1].tolist()


def test_dark_benches_stay_dark_and_sixty_units_fit() -> None:
    rng = np.random.default_rng(0)
    for statistics in (
        ClickStatistics([PairPulse(0.1)], np.zeros((3, 4, 4), complex)),
        ClickStatistics([PairPulse(0.0)], arm_units(H, ONE, 0, 0, 1)),
        ClickStatistics([PairPulse(0.1)], np.zeros((0, 4, 4), complex)),
    ):
        assert statistics.sample(rng, 1000)[0].size == 0
    assert busy_bench().sample(rng, 0)[1].size == 0
    units = np.zeros((60, 4, 4), np.complex128)
    units[0] = units[59] = arm_units(0.5 * H, ONE, 0, 0, 1)[0]
    masks, counts = ClickStatistics([PairPulse(2.0)], units).sample(rng, 1000)
    assert masks.tolist() == [1, 1 << 59, 1 << 59 | 1]
    assert counts.min() > 0
    everywhere = np.repeat(arm_units(ONE[None] / 60, ONE, 0, 1, 1), 60, axis=0)
    masks, counts = ClickStatistics([PairPulse(0.2)], everywhere).sample(rng, 1000)
    assert 0.08 * 1000 < counts.sum() < 0.3 * 1000


# --- helpers


def test_the_station_loses_nothing_of_its_own() -> None:
    rng = np.random.default_rng(3)
    jones = [random_jones(rng) for _ in range(2)]
    units = station(
        jones_left=jones[0], jones_right=jones[1], reflectivity=0.37, extinction_db=12, overlap=0.7
    )
    expected = np.zeros((8, 8), np.complex128)
    expected[2:4, 2:4] = jones[0].conj().T @ jones[0]
    expected[6:8, 6:8] = jones[1].conj().T @ jones[1]
    assert np.allclose(units.sum(axis=0), expected)
    assert np.linalg.eigvalsh(units).min() > -1e-12


@pytest.mark.parametrize("ratio", [0.0, 0.3, 1.0, 2.5])
def test_mode_overlap_is_that_of_gaussian_photons(ratio: float) -> None:
    t = np.linspace(-12, 12, 20_001)

    def amplitude(shift: float) -> npt.NDArray[np.float64]:
        intensity = 2.0 ** (-((2 * (t - shift)) ** 2))  # FWHM 1
        normed: npt.NDArray[np.float64] = np.sqrt(intensity / intensity.sum())
        return normed

    expected = float((amplitude(0) * amplitude(ratio)).sum()) ** 2
    assert mode_overlap(ratio * 300e-12, 300e-12) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("act", "word"),
    [
        (lambda: PairPulse(-0.1), "mean_pairs"),
        (lambda: PairPulse(0.1, 1.1), "visibility"),
        (lambda: PairPulse(0.1, imbalance=-1.0), "imbalance"),
        (lambda: ClickStatistics([PairPulse(0.1)], np.zeros((1, 8, 8), complex)), "shape"),
        (lambda: ClickStatistics([PairPulse(0.1)], np.zeros((61, 4, 4), complex)), "60"),
        (lambda: ClickStatistics([PairPulse(0.1)], np.zeros((1, 4, 4), complex), 0.9), "schmidt"),
        (lambda: ClickStatistics([PairPulse(0.1)], np.ones((1, 4, 4), complex)), "sum"),
        (lambda: ClickStatistics([PairPulse(0.1)], 1j * np.ones((1, 4, 4), complex)), "Hermitian"),
        (
            lambda: ClickStatistics([PairPulse(0.1)], np.zeros((1, 4, 4), complex)).probability(
                [1]
            ),
            "unit 1",
        ),
        (lambda: station(left=(0, 1), right=(0, 1)), "both inputs"),
        (lambda: arm_units(H, ONE, 2, 0, 2), "source 2"),
        (lambda: arm_units(H, ONE, 0, 2, 2), "arm 2"),
    ],
)
def test_what_cannot_be_is_refused(act: Callable[[], object], word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        act()
