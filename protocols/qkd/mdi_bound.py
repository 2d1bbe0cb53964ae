"""Measurement-device-independent BB84 with decoys: key lengths from counts, and planning.

- "Curty": Curty, Xu, Cui, Lim, Tamaki and Lo, Nat. Commun. 5, 3732 (2014), arXiv:1307.1081.
  Finite keys, coherent attacks, fixed length.
- "Xu": Xu, Curty, Qi and Lo, New J. Phys. 15, 113007 (2013), Table 2. Infinitely long keys.
- "MR": Ma and Razavi, PRA 86, 062319 (2012). What a relay of linear optics sees, for planning.

Both parties send phase-randomised pulses of one of three intensities in one of two bases, chosen
independently at random; a relay that nobody trusts announces Bell states. Nothing is assumed about
the relay or its detectors. Assumed of the senders: Poissonian photon numbers at the intensities
stated, the four states exactly, no other trace of the setting; and an authentic channel.

Grids are indexed ``[Alice's intensity][Bob's intensity]``, signal, decoy, weakest. The key comes
from pulses where both sent the signal in the key basis. Entropies in bits; tails with ln.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .finite_key import binary_entropy, check_efficiency

__all__ = [
    "MdiBound",
    "MdiSources",
    "RelayLink",
    "asymptotic_mdi_rate",
    "chernoff_deviation",
    "error_of_single_pairs",
    "mdi_key_length",
    "single_pair_yield",
]

Grid = npt.NDArray[np.float64]

_TERMS = 266  # failures in the secrecy of one Bell state, all of one size: Curty, Methods
# Ladders of two intensities, and pairs of ladders whose second lies below the first.
_RUNGS = ((0, 1), (0, 2), (1, 2))
_NESTED = (((0, 1), (0, 2)), ((0, 1), (1, 2)), ((0, 2), (1, 2)))


@dataclass(frozen=True, slots=True)
class MdiSources:
    """Intensities of both parties and how often each pair of settings is sent in one basis.

    Attributes:
        alice: Mean photon numbers, strictly decreasing, the last may be 0.
        bob: As Alice's.
        probabilities: 3 by 3, of both sending these intensities *and* both this basis; all above
            0, their sum at most 1.

    Raises:
        ValueError: for anything else.
    """

    alice: tuple[float, float, float]
    bob: tuple[float, float, float]
    probabilities: tuple[tuple[float, float, float], ...]

    def __post_init__(self) -> None:
        for mu in (self.alice, self.bob):
            if np.shape(mu) != (3,) or not all(math.isfinite(x) for x in mu):
                raise ValueError(f"three intensities are needed, not {mu}")
            if not mu[0] > mu[1] > mu[2] >= 0.0:
                raise ValueError(f"intensities {mu} do not decrease to 0 or above")
        shares = np.asarray(self.probabilities, np.float64)
        if shares.shape != (3, 3) or not np.all(shares > 0.0):
            raise ValueError("probabilities must be 3 by 3 and above 0")
        if not shares.sum() <= 1.0 + 1e-9:
            raise ValueError(f"probabilities of one basis add up to {shares.sum()}, above 1")

    @classmethod
    def independent(
        cls,
        alice: tuple[float, float, float],
        bob: tuple[float, float, float],
        shares_alice: Sequence[float],
        shares_bob: Sequence[float],
        basis: float,
    ) -> MdiSources:
        """From each party's own shares, and the probability that both chose this basis."""
        grid = basis * np.outer(shares_alice, shares_bob)
        rows = tuple((float(a), float(b), float(c)) for a, b, c in grid)
        return cls(alice, bob, rows)

    def single_pairs(self) -> float:
        """Probability that both send one photon each, in this basis (tau_11)."""
        a, b = np.asarray(self.alice), np.asarray(self.bob)
        weights = np.outer(a * np.exp(-a), b * np.exp(-b))
        return float((weights * np.asarray(self.probabilities)).sum())


def chernoff_deviation(count: float, trials: float, epsilon: float) -> tuple[float, float]:
    """How far the mean may lie above and below an observed count (Curty, Claims 1 to 3).

    The multiplicative Chernoff bound on the *observed* count where it holds, else Hoeffding's::

        above = g(x, eps^4/16)    if (2/eps)^(1/m) <= exp((3/(4 sqrt 2))^2)
        below = g(x, eps^(3/2))   if (1/eps)^(1/m) <  exp(1/3)
                g(x, eps^2)       if (1/eps)^(1/m) <  exp(((2e - 1)/2)^2)
        g(x, y) = sqrt(2 x ln(1/y)),   m = x - sqrt(n/2 ln(1/eps)) > 0
        both    = sqrt(n/2 ln(1/eps)) otherwise

    Curty print ``log`` in the last line, where their derivation gives ln.

    Args:
        count: Observed number x of successes.
        trials: Number n of independent trials, not below ``count``.
        epsilon: Size of the failure; one cell fails with at most ``3 epsilon``.

    Returns:
        ``(above, below)``: the mean lies in ``[count - below, count + above]``.
    """
    if not 0.0 <= count <= trials or not 0.0 < epsilon < 1.0:
        raise ValueError(f"{count} successes of {trials}, epsilon {epsilon}: out of range")
    tail = -math.log(epsilon)
    flat = math.sqrt(trials / 2.0 * tail)
    mean = count - flat
    if mean <= 0.0:
        return flat, flat
    above = below = flat
    if math.log(2.0) + tail <= 9.0 / 32.0 * mean:
        above = math.sqrt(2.0 * count * (4.0 * tail + math.log(16.0)))
    if tail < mean / 3.0:
        below = math.sqrt(2.0 * count * 1.5 * tail)
    elif tail < (math.e - 0.5) ** 2 * mean:
        below = math.sqrt(2.0 * count * 2.0 * tail)
    return above, below


@dataclass(frozen=True, slots=True)
class MdiBound:
    """A key length of one announced Bell state and the estimates it rests on.

    Attributes:
        length: Secure key bits; 0 where the bound gives none.
        vacuum: Least number of key bits where Alice sent no photon.
        single: Least number of key bits where both sent one photon.
        test_single: Least number of announcements in the test basis where both sent one photon.
        test_errors: Most errors among those.
        phase_error: Upper bound on the phase error rate of the single pairs of the key.
        correctness: Probability bound of differing keys.
        secrecy: Distance of the key from one that nobody knows.
        raw: The bound before rounding down, in bits; may be negative.
    """

    length: int
    vacuum: float
    single: float
    test_single: float
    test_errors: float
    phase_error: float
    correctness: float
    secrecy: float
    raw: float

    @property
    def epsilon(self) -> float:
        """Total: a key of this length is this close to an ideal one."""
        return self.correctness + self.secrecy


def mdi_key_length(
    key_sources: MdiSources,
    key_counts: npt.ArrayLike,
    test_sources: MdiSources,
    test_counts: npt.ArrayLike,
    test_errors: npt.ArrayLike,
    key_bits: float,
    leak: float,
    eps_sec: float,
    eps_cor: float,
) -> MdiBound:
    """Key length of one announced Bell state, Curty. Fixed length.

    ``length = floor(n0 + n1 (1 - h(e)) - leak - log2(8/eps_cor) - 2 log2(2/(eps' eps^))
    - 2 log2(1/(2 eps_PA)))`` with 266 failures of ``eps_sec/266`` each. The keys of several Bell
    states add up, and so do their epsilons.

    The single pairs follow from two double differences of the counts, of which the combination
    cancels one of the terms (1, 2) and (2, 1) and leaves no other with a positive weight; all nine
    choices of intensities hold at once, and the best is taken. A fluctuation is charged to each
    cell at its worst sign. (Curty's printed sum for the pairs takes the smaller deviation for some
    of the cells.) The phase error is at most 1/2.

    Args:
        key_sources: Settings in the key basis.
        key_counts: Announcements of this Bell state in the key basis, 3 by 3.
        test_sources: Settings in the test basis.
        test_counts: Announcements in the test basis, 3 by 3.
        test_errors: Errors among those, 3 by 3.
        key_bits: Bits of the string the key is made of, a random part of ``key_counts[0][0]``;
            the others of that cell told the error rate.
        leak: Bits disclosed (or reserved) for reconciliation, a count; the verification hash is
            charged apart.
        eps_sec: Secrecy, for this Bell state.
        eps_cor: Correctness, for this Bell state.

    Raises:
        ValueError: for counts that are impossible, or other parameters outside their range.
    """
    key, test, wrong = _grid(key_counts), _grid(test_counts), _grid(test_errors)
    if np.any(wrong > test):
        raise ValueError("more errors than announcements")
    if not 0.0 <= key_bits <= key[0, 0]:
        raise ValueError(f"{key_bits} key bits of {key[0, 0]} announcements of both signals")
    if not 0.0 <= leak < math.inf:
        raise ValueError(f"leak {leak} must not be negative or infinite")
    if not (0.0 < eps_sec < 1.0 and 0.0 < eps_cor < 1.0):
        raise ValueError(f"epsilons {eps_sec} and {eps_cor} are not in (0, 1)")
    each = eps_sec / _TERMS
    tail = -math.log(each)

    def drawn(expected: float) -> float:
        """Least number in the key string of what is ``expected`` among both signals."""
        least = max(0.0, expected - math.sqrt(2.0 * max(expected, 0.0) * tail))
        if key_bits <= 0.0:
            return 0.0
        total = float(key[0, 0])
        serfling = math.sqrt((total - key_bits + 1.0) * tail / (2.0 * total * key_bits))
        return float(max(0, math.floor(key_bits * least / total - key_bits * serfling)))

    a0, b0 = key_sources.alice[0], key_sources.bob[0]
    share = key_sources.probabilities[0][0] * math.exp(-a0 - b0)
    # no more than was counted: counts may be such that they occur with less than epsilon
    vacuum = min(key_bits, drawn(share * _empty_alice(key_sources, key, each)))
    single = drawn(share * a0 * b0 * _single_pairs(key_sources, key, each))
    single = min(key_bits - vacuum, single)
    tau = test_sources.single_pairs()
    test_single = min(float(test.sum()), tau * _single_pairs(test_sources, test, each))
    errors = tau * _single_pair_errors(test_sources, wrong, each)
    phase = 0.5
    if single > 0.0 and test_single > 0.0:
        both = single + test_single
        margin = both * math.sqrt((single + 1.0) * tail / (2.0 * test_single * both))
        phase = min(0.5, math.ceil(single * errors / test_single + margin) / single)
    cost = math.log2(8.0 / eps_cor) + 2.0 * math.log2(2.0 / each**2) - 2.0 * math.log2(2.0 * each)
    raw = vacuum + single * (1.0 - binary_entropy(phase)) - leak - cost
    length = max(0, math.floor(raw))
    return MdiBound(length, vacuum, single, test_single, errors, phase, eps_cor, eps_sec, raw)


def single_pair_yield(alice: Sequence[float], bob: Sequence[float], gains: npt.ArrayLike) -> float:
    """Least probability of an announcement where both sent one photon, Xu Table 2 (Y11).

    Args:
        alice: Alice's three intensities, decreasing.
        bob: Bob's.
        gains: Probability of an announcement per pulse pair in one basis, 3 by 3 (Q).
    """
    a, b = tuple(alice), tuple(bob)
    scaled = _grid(gains) * np.exp(np.add.outer(np.asarray(a), np.asarray(b)))
    zero = np.zeros((3, 3))
    return max(0.0, _pairs(a, b, scaled, zero, zero, (((0, 2), (1, 2)),)))


def error_of_single_pairs(
    alice: Sequence[float], bob: Sequence[float], error_gains: npt.ArrayLike, yield_11: float
) -> float:
    """Highest error rate of announcements where both sent one photon, Xu Table 2 (e11).

    Args:
        alice: Alice's three intensities, decreasing.
        bob: Bob's.
        error_gains: Probability of an error per pulse pair in one basis, 3 by 3 (E Q).
        yield_11: :func:`single_pair_yield` of the same basis.

    Returns:
        At most 1/2; 1/2 where there is no yield.
    """
    if yield_11 <= 0.0:
        return 0.5
    a, b = tuple(alice), tuple(bob)
    scaled = _grid(error_gains) * np.exp(np.add.outer(np.asarray(a), np.asarray(b)))
    wrong = _corner(scaled, (1, 2), (1, 2)) / ((a[1] - a[2]) * (b[1] - b[2]))
    return min(0.5, max(0.0, wrong / yield_11))


def asymptotic_mdi_rate(
    single_gain: float, phase_error: float, gain: float, qber: float, f_ec: float
) -> float:
    """Key bits per pulse pair for infinitely long keys, Xu eq. (1).

    ``Q11 (1 - h(e11)) - Q f h(E)``.

    Args:
        single_gain: ``mu_a mu_b exp(-mu_a - mu_b) Y11`` of the key basis.
        phase_error: ``e11`` of the test basis.
        gain: Probability of an announcement per pulse pair, both signals, key basis.
        qber: Error rate of those.
        f_ec: Efficiency of the reconciliation, 1 at the Shannon limit.

    Returns:
        0 where there is no key. Sifting is not included.

    Raises:
        ValueError: for ``f_ec`` below 1.
    """
    check_efficiency(f_ec)
    secret = single_gain * (1.0 - binary_entropy(min(phase_error, 0.5)))
    return max(0.0, secret - f_ec * gain * binary_entropy(qber))


# --------------------------------------------------------------------------------- estimates


def _grid(values: npt.ArrayLike) -> Grid:
    grid = np.asarray(values, np.float64)
    if grid.shape != (3, 3) or not np.all(np.isfinite(grid)) or np.any(grid < 0.0):
        raise ValueError("a grid must be 3 by 3 finite numbers, 0 or more")
    return grid


def _rescaled(sources: MdiSources, counts: Grid, epsilon: float) -> tuple[Grid, Grid, Grid]:
    """``e^(a+b)/p_ab`` times the counts, and how far their means lie above and below at most.

    Given what the pulses held, the setting of each announcement is an independent trial.
    """
    scale = np.exp(np.add.outer(np.asarray(sources.alice), np.asarray(sources.bob)))
    scale = scale / np.asarray(sources.probabilities)
    total = float(counts.sum())
    widths = [chernoff_deviation(float(n), total, epsilon) for n in counts.ravel()]
    above, below = np.asarray(widths, np.float64).T.reshape(2, 3, 3)
    return scale * counts, scale * above, scale * below


def _corner(x: Grid, i: tuple[int, int], j: tuple[int, int]) -> float:
    """Double difference, in which empty pulses of either party cancel."""
    return float(x[i[0], j[0]] + x[i[1], j[1]] - x[i[0], j[1]] - x[i[1], j[0]])


def _widest(plus: Grid, minus: Grid, i: tuple[int, int], j: tuple[int, int]) -> float:
    """Worst deviation of a double difference whose cells deviate by ``plus`` and ``minus``."""
    return float(plus[i[0], j[0]] + plus[i[1], j[1]] + minus[i[0], j[1]] + minus[i[1], j[0]])


def _pairs(
    a: Sequence[float],
    b: Sequence[float],
    scaled: Grid,
    above: Grid,
    below: Grid,
    nested: Sequence[tuple[tuple[int, int], tuple[int, int]]],
) -> float:
    """Most of the lower bounds on ``S_11/tau_11``; may be negative.

    With ``A_n = a0^n - a1^n`` a double difference is ``sum_nm A_n B_m S_nm/(tau_nm n! m!)``. Of a
    strong one and a weak one (primed), ``A_1 B_2 weak - A'_1 B'_2 strong`` has no term (1, 2), and
    weights ``<= 0`` for all others but (1, 1) if ``A_2 B'_2 A'_1 B_1 >= A'_2 B_2 A_1 B'_1``, since
    ``A_n/A_1`` and ``B_m/B_2`` grow with the intensities; else the parties change places.
    """
    best = -math.inf
    for strong_a, weak_a in nested:
        for strong_b, weak_b in nested:
            a0, a1, a2, a3 = (a[i] for i in (*strong_a, *weak_a))
            b0, b1, b2, b3 = (b[j] for j in (*strong_b, *weak_b))
            if (a0 + a1) * (b2 + b3) >= (b0 + b1) * (a2 + a3):
                weak, strong = (a0 - a1) * (b0**2 - b1**2), (a2 - a3) * (b2**2 - b3**2)
                gap = (b0 + b1) - (b2 + b3)
            else:
                weak, strong = (b0 - b1) * (a0**2 - a1**2), (b2 - b3) * (a2**2 - a3**2)
                gap = (a0 + a1) - (a2 + a3)
            value = weak * (
                _corner(scaled, weak_a, weak_b) - _widest(below, above, weak_a, weak_b)
            ) - strong * (
                _corner(scaled, strong_a, strong_b) + _widest(above, below, strong_a, strong_b)
            )
            best = max(best, value / ((a0 - a1) * (a2 - a3) * (b0 - b1) * (b2 - b3) * gap))
    return best


def _single_pairs(sources: MdiSources, counts: Grid, epsilon: float) -> float:
    """Least ``S_11/tau_11``, single pairs over their probability."""
    scaled, above, below = _rescaled(sources, counts, epsilon)
    return max(0.0, _pairs(sources.alice, sources.bob, scaled, above, below, _NESTED))


def _single_pair_errors(sources: MdiSources, errors: Grid, epsilon: float) -> float:
    """Highest ``E_11/tau_11``: every other term of a double difference has a positive weight."""
    scaled, above, below = _rescaled(sources, errors, epsilon)
    a, b = sources.alice, sources.bob
    bounds = [
        (_corner(scaled, i, j) + _widest(above, below, i, j))
        / ((a[i[0]] - a[i[1]]) * (b[j[0]] - b[j[1]]))
        for i in _RUNGS
        for j in _RUNGS
    ]
    return max(0.0, min(bounds))


def _empty_alice(sources: MdiSources, counts: Grid, epsilon: float) -> float:
    """Least ``e^b/p_ab`` times announcements of Bob's signal with an empty pulse of Alice's."""
    scaled, above, below = _rescaled(sources, counts, epsilon)
    a = sources.alice
    bounds = [
        (a[i] * (scaled[j, 0] - below[j, 0]) - a[j] * (scaled[i, 0] + above[i, 0])) / (a[i] - a[j])
        for i, j in _RUNGS
    ]
    return float(max(0.0, *bounds))


# ---------------------------------------------------------------------------------- planning


@dataclass(frozen=True, slots=True)
class RelayLink:
    """What a relay of linear optics with four threshold detectors announces, MR.

    Attributes:
        efficiency_a: Share of Alice's photons that would click, channel and detector.
        efficiency_b: Bob's.
        dark: Probability of a dark count per pulse and detector; a published ``Y0`` of the whole
            background is twice that.
        misalignment: Error rate of the optics (e_d).
    """

    efficiency_a: float
    efficiency_b: float
    dark: float
    misalignment: float

    def key_basis(self, mu_a: float, mu_b: float) -> tuple[float, float]:
        """Gain per pulse pair and error rate in the rectilinear basis, MR eqs (51) to (54)."""
        a, b = self.efficiency_a * mu_a, self.efficiency_b * mu_b
        live, bulk = 1.0 - self.dark, math.exp(-(a + b) / 2.0)
        hit_a = -math.expm1(-a / 2.0) + self.dark * math.exp(-a / 2.0)
        hit_b = -math.expm1(-b / 2.0) + self.dark * math.exp(-b / 2.0)
        right = 2.0 * live**2 * bulk * hit_a * hit_b
        # I0(2x) - (1 - dark) bulk without cancellation, x^2 = ab/4
        inner = _bessel(a * b / 4.0) - math.expm1(-(a + b) / 2.0) + self.dark * bulk
        wrong = 2.0 * self.dark * live**2 * bulk * inner
        gain = right + wrong
        if gain <= 0.0:
            return 0.0, 0.5
        return gain, (self.misalignment * right + (1.0 - self.misalignment) * wrong) / gain

    def test_basis(self, mu_a: float, mu_b: float) -> tuple[float, float]:
        """Gain per pulse pair and error rate in the diagonal basis, MR eqs (35) and (39).

        Two photons from one party and none from the other err half of the time, so that the
        error rate tends to 1/4 for faint pulses.
        """
        a, b = self.efficiency_a * mu_a, self.efficiency_b * mu_b
        bulk = math.exp(-(a + b) / 4.0)
        y = (1.0 - self.dark) * bulk
        z = -math.expm1(-(a + b) / 4.0) + self.dark * bulk  # 1 - y
        square = a * b / 4.0
        # 1 + 2 y^2 - 4 y I0(x) + I0(2x) without cancellation
        dip = _bessel(square, lambda k: 1.0 - 4.0 ** (1 - k))
        gain = 2.0 * y**2 * (2.0 * z**2 + 4.0 * z * _bessel(square / 4.0) + dip)
        if gain <= 0.0:
            return 0.0, 0.5
        wrong = gain / 2.0 - 2.0 * (0.5 - self.misalignment) * y**2 * _bessel(square)
        return gain, min(0.5, max(0.0, wrong / gain))


def _bessel(square: float, weight: Callable[[int], float] = lambda k: 1.0) -> float:
    """``sum_k weight(k) square^k/(k!)^2`` from k = 1; with weight 1, ``I0(2 sqrt(square)) - 1``."""
    total, term, k = 0.0, square, 1
    while term > 1e-18 * total:
        total += weight(k) * term
        k += 1
        term *= square / (k * k)
    return total
