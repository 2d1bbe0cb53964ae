"""BB84 with weak coherent pulses and decoy states: key lengths from counts, and planning.

- "Lim": Lim, Curty, Walenta, Xu and Zbinden, PRA 89, 022307 (2014), two decoys, eqs (1) to (5).
- "Rusca": Rusca, Boaron, Gruenenfelder, Martin and Zbinden, APL 112, 171104 (2018), one decoy,
  eqs (A10) to (A25).
- "Tupkary": Tupkary, Nahar, Sinha and Luetkenhaus, Quantum 9, 1937 (2025), arXiv:2408.17349, two
  decoys, variable length, without the approximation of the other two.
- "Ma": Ma, Qi, Zhao and Lo, PRA 72, 012326 (2005), infinitely long keys.

All assume: pulses whose photon numbers are exactly Poisson at the intensities stated (phase
randomised, no correlation between pulses, no other trace of the setting), settings and bases
chosen independently at random, detection independent of the basis, double clicks made random
bits, an authentic channel. Coherent attacks.

Lim and Rusca are written for protocols of fixed length that end when enough was counted, and
their phase error bound takes the tail of a hypergeometric distribution from Fung, Ma and Chau,
PRA 81, 012318 (2010) through a Taylor step, which makes it an approximation and not a bound
(Tupkary et al., arXiv:2502.10340; Wiesemann et al., arXiv:2405.16578, repair the fixed-length
treatment). Choose ``sampling="serfling"`` for a bound, or :func:`variable_key_length`.

Intensities run from the strongest, the signal, to the weakest; "key" and "test" are the bases,
which papers call X and Z or Z and X. Entropies in bits; tails with ln.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from .finite_key import binary_entropy, check_efficiency

__all__ = [
    "DecoyBound",
    "DecoyPlan",
    "DecoySource",
    "FibreLink",
    "Sampling",
    "asymptotic_rate",
    "lim_key_length",
    "plan_one_decoy",
    "plan_two_decoys",
    "rusca_key_length",
    "single_photon_yield",
    "variable_key_length",
]

Sampling = Literal["lim", "serfling"]
"""Tail of the phase errors: as printed by Lim (approximate), or Serfling's bound."""

_LIM_TERMS = 21  # failures in Lim's secrecy, all of one size
_RUSCA_TERMS = 19  # and in Rusca's


@dataclass(frozen=True, slots=True)
class DecoySource:
    """Intensities and how often each is sent.

    Attributes:
        intensities: Mean photon numbers per pulse, strictly decreasing, the last may be 0: three
            with two decoys (``mu1 > mu2 + mu3``), two with one decoy.
        probabilities: Of each intensity, the same in both bases; above 0, sum 1.

    Raises:
        ValueError: for anything else.
    """

    intensities: tuple[float, ...]
    probabilities: tuple[float, ...]

    def __post_init__(self) -> None:
        mu = self.intensities
        if len(mu) not in (2, 3) or len(self.probabilities) != len(mu):
            raise ValueError("a source needs two or three intensities, each with a probability")
        if not all(math.isfinite(x) and x >= 0.0 for x in mu):
            raise ValueError(f"intensities {mu} are not mean photon numbers")
        if any(strong <= weak for strong, weak in itertools.pairwise(mu)):
            raise ValueError(f"intensities {mu} do not decrease")
        if len(mu) == 3 and mu[0] <= mu[1] + mu[2]:
            raise ValueError(f"the signal must be brighter than both decoys together, not {mu}")
        if len(mu) == 2 and mu[1] <= 0.0:
            raise ValueError("a single decoy must not be vacuum")
        if not all(0.0 < p < 1.0 for p in self.probabilities):
            raise ValueError(f"probabilities {self.probabilities} are not in (0, 1)")
        if abs(math.fsum(self.probabilities) - 1.0) > 1e-9:
            raise ValueError(f"probabilities {self.probabilities} do not add up to 1")

    def photons(self, n: int) -> float:
        """Probability that a pulse holds ``n`` photons, whatever its intensity (tau_n)."""
        pairs = zip(self.intensities, self.probabilities, strict=True)
        return math.fsum(p * math.exp(-k) * k**n / math.factorial(n) for k, p in pairs)


@dataclass(frozen=True, slots=True)
class DecoyBound:
    """A key length and the estimates it rests on.

    Attributes:
        length: Secure key bits; 0 where the bound gives none.
        vacuum: Least number of bits in the key basis from empty pulses that count towards it.
        single: Least number of bits in the key basis from single photons.
        test_single: Least number of bits in the test basis from single photons.
        test_errors: Most errors among those of the test basis from single photons.
        phase_error: Upper bound on the phase error rate of the single photons of the key.
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


def lim_key_length(
    source: DecoySource,
    key: Sequence[float],
    test: Sequence[float],
    test_errors: Sequence[float],
    leak: float,
    eps_sec: float,
    eps_cor: float,
    *,
    sampling: Sampling = "lim",
) -> DecoyBound:
    """Key length with two decoys, Lim eqs (1) to (5). Fixed length.

    ``length = floor(s0 + s1 (1 - h(phi)) - leak - 6 log2(21/eps_sec) - log2(2/eps_cor))``, every
    one of 21 failures being ``eps_sec/21``. Estimates below 0 are 0 before they are used, the
    phase error is at most 1/2. See the module for what is assumed.

    Args:
        source: Three intensities.
        key: Detections in the key basis, by intensity.
        test: Detections in the test basis, by intensity.
        test_errors: Errors in the test basis, by intensity.
        leak: Bits disclosed (or reserved) for reconciliation, a count; the verification hash of
            at most ``log2(2/eps_cor)`` bits is charged apart.
        eps_sec: Secrecy.
        eps_cor: Correctness.
        sampling: Tail of the phase errors. ``lim``, eq. (5), is approximate, and is taken for at
            least one error (Fung, Ma and Chau), since it has no width for none.

    Raises:
        ValueError: for counts that are impossible, or other parameters outside their range.
    """
    _check(source, 3, (key, test), ((test, test_errors),), leak, eps_sec, eps_cor)
    tail = math.log(_LIM_TERMS / eps_sec)

    def deviation(total: float) -> float:
        return math.sqrt(total / 2.0 * tail)

    vacuum, single = _two_decoys(source, key, deviation)
    _, test_single = _two_decoys(source, test, deviation)
    errors = _single_errors(source, test_errors, deviation, 1, 2)
    phase = _phase_error(errors, test_single, single, eps_sec, _LIM_TERMS, sampling)
    cost = 6.0 * math.log2(_LIM_TERMS / eps_sec) + math.log2(2.0 / eps_cor)
    raw = vacuum + single * (1.0 - binary_entropy(phase)) - leak - cost
    return DecoyBound(
        _whole(raw), vacuum, single, test_single, errors, phase, eps_cor, eps_sec, raw
    )


def rusca_key_length(
    source: DecoySource,
    key: Sequence[float],
    key_errors: Sequence[float],
    test: Sequence[float],
    test_errors: Sequence[float],
    leak: float,
    eps_sec: float,
    eps_cor: float,
    *,
    vacuum_from: int = 1,
    sampling: Sampling = "lim",
) -> DecoyBound:
    """Key length with one decoy, Rusca eqs (A10) to (A25). Fixed length.

    As :func:`lim_key_length`, with 19 failures. What one intensity fewer cannot tell, how many
    detections came from empty pulses at most, is told by the errors, half of which they make; the
    fluctuations are Lim's (eq. (A18) as printed lacks its ``e^k/p_k``).

    Args:
        source: Two intensities.
        key: Detections in the key basis, by intensity.
        key_errors: Errors in the key basis, by intensity, counted after verification.
        test: Detections in the test basis, by intensity.
        test_errors: Errors in the test basis, by intensity.
        leak: Bits disclosed (or reserved) for reconciliation, a count.
        eps_sec: Secrecy.
        eps_cor: Correctness.
        vacuum_from: Index of the intensity whose errors bound the empty pulses. Chosen before the
            data (:func:`plan_one_decoy` finds the better one): the better one *of the data* would
            need more failures than the 19.
        sampling: See :func:`lim_key_length`.

    Raises:
        ValueError: for counts that are impossible, or other parameters outside their range.
    """
    pairs = ((key, key_errors), (test, test_errors))
    _check(source, 2, (key, test), pairs, leak, eps_sec, eps_cor)
    if vacuum_from not in (0, 1):
        raise ValueError(f"vacuum_from = {vacuum_from} is not the index of an intensity")
    tail = math.log(_RUSCA_TERMS / eps_sec)

    def deviation(total: float) -> float:
        return math.sqrt(total / 2.0 * tail)

    vacuum, single = _one_decoy(source, key, key_errors, deviation, vacuum_from)
    _, test_single = _one_decoy(source, test, test_errors, deviation, vacuum_from)
    errors = _single_errors(source, test_errors, deviation, 0, 1)
    phase = _phase_error(errors, test_single, single, eps_sec, _RUSCA_TERMS, sampling)
    cost = 6.0 * math.log2(_RUSCA_TERMS / eps_sec) + math.log2(2.0 / eps_cor)
    raw = vacuum + single * (1.0 - binary_entropy(phase)) - leak - cost
    return DecoyBound(
        _whole(raw), vacuum, single, test_single, errors, phase, eps_cor, eps_sec, raw
    )


def variable_key_length(
    source: DecoySource,
    key: Sequence[float],
    test: Sequence[float],
    test_errors: Sequence[float],
    leak: float,
    eps_sec: float,
    eps_cor: float,
) -> DecoyBound:
    """Key length with two decoys that may follow from what was seen, Tupkary. Variable length.

    ``length = floor(s1 (1 - h(e + g)) - leak - 2 log2(1/(2 eps_PA)) - log2(2/eps_cor))`` with
    Lim's estimates, Hoeffding deviations of ``ln(2/eps_d^2)``, Serfling's ``g`` and
    ``eps_sec = 2 sqrt(9 eps_d^2 + eps_s^2) + eps_PA``, split as ``eps_d = eps_s`` and halves.
    Empty pulses count for nothing. The basis that is tested is announced whole; detection must
    not depend on the basis at all (the paper also treats a known mismatch, left out here).

    Args:
        source: Three intensities.
        key: Detections in the key basis that make the key, by intensity.
        test: Detections in the test basis, by intensity.
        test_errors: Errors in the test basis, by intensity.
        leak: Bits that may be disclosed for reconciliation: fixed, or a function of what is
            public before it; a block that needs more is given up.
        eps_sec: Secrecy.
        eps_cor: Correctness.

    Raises:
        ValueError: for counts that are impossible, or other parameters outside their range.
    """
    _check(source, 3, (key, test), ((test, test_errors),), leak, eps_sec, eps_cor)
    eps_pa = eps_sec / 2.0
    each = (eps_sec - eps_pa) / (2.0 * math.sqrt(10.0))
    tail = math.log(2.0) - 2.0 * math.log(each)

    def deviation(total: float) -> float:
        return math.sqrt(total / 2.0 * tail)

    _, single = _two_decoys(source, key, deviation)
    _, test_single = _two_decoys(source, test, deviation)
    errors = _single_errors(source, test_errors, deviation, 1, 2)
    phase = 0.5
    if single > 0.0 and test_single > 0.0:
        phase = min(0.5, errors / test_single + _serfling(test_single, single, -math.log(each)))
    cost = -2.0 * math.log2(2.0 * eps_pa) + math.log2(2.0 / eps_cor)
    raw = single * (1.0 - binary_entropy(phase)) - leak - cost
    return DecoyBound(_whole(raw), 0.0, single, test_single, errors, phase, eps_cor, eps_sec, raw)


def single_photon_yield(
    source: DecoySource, gains: Sequence[float], error_gains: Sequence[float]
) -> tuple[float, float, float]:
    """Vacuum yield, single-photon yield and its error rate for infinitely long keys.

    Ma eqs (18), (21) and (25) with two decoys (a weakest intensity of 0 makes them the vacuum and
    weak decoy, eqs (34) and (37)).

    Args:
        source: Three intensities; their probabilities play no part.
        gains: Probability of a detection per pulse, by intensity (Q).
        error_gains: Probability of an error per pulse, by intensity (E Q).

    Returns:
        ``Y0`` and ``Y1`` at least, ``e1`` at most (1/2 where there is nothing to divide by).
    """
    shares = source.probabilities
    counts = [p * q for p, q in zip(shares, gains, strict=True)]
    wrong = [p * q for p, q in zip(shares, error_gains, strict=True)]
    vacuum, single = _two_decoys(source, counts, lambda _: 0.0)
    errors = _single_errors(source, wrong, lambda _: 0.0, 1, 2)
    error = min(0.5, errors / single) if single > 0.0 else 0.5
    return vacuum / source.photons(0), single / source.photons(1), error


def asymptotic_rate(
    gain: float, qber: float, single_gain: float, phase_error: float, f_ec: float, sifting: float
) -> float:
    """Key bits per pulse for infinitely long keys, ``q (Q1 (1 - h(e1)) - f Q h(E))``.

    Gottesman, Lo, Luetkenhaus and Preskill, QIC 5, 325 (2004) with decoys; Ma eq. (1).

    Args:
        gain: Probability of a detection per signal pulse.
        qber: Error rate of those.
        single_gain: Least probability per signal pulse of a detection of a single photon.
        phase_error: Most errors among those.
        f_ec: Efficiency of the reconciliation, 1 at the Shannon limit.
        sifting: Share of detections in equal bases.

    Returns:
        0 where there is no key.

    Raises:
        ValueError: for ``f_ec`` below 1.
    """
    check_efficiency(f_ec)
    single = single_gain * (1.0 - binary_entropy(min(phase_error, 0.5)))
    return max(0.0, sifting * (single - f_ec * gain * binary_entropy(qber)))


# --------------------------------------------------------------------------------- estimates
# No more than was counted: counts may be such that they occur with less than epsilon.


def _two_decoys(
    source: DecoySource, counts: Sequence[float], deviation: Callable[[float], float]
) -> tuple[float, float]:
    """Lim eqs (2) and (3): least counts from empty pulses and from single photons."""
    mu1, mu2, mu3 = source.intensities
    low, high = _scaled(source, counts, deviation)
    tau0, tau1 = source.photons(0), source.photons(1)
    total = math.fsum(counts)
    vacuum = min(total, max(0.0, tau0 * (mu2 * low[2] - mu3 * high[1]) / (mu2 - mu3)))
    rest = (mu2**2 - mu3**2) / mu1**2 * (high[0] - vacuum / tau0)
    single = tau1 * mu1 * (low[1] - high[2] - rest) / (mu1 * (mu2 - mu3) - mu2**2 + mu3**2)
    return vacuum, min(total - vacuum, max(0.0, single))


def _one_decoy(
    source: DecoySource,
    counts: Sequence[float],
    errors: Sequence[float],
    deviation: Callable[[float], float],
    k: int,
) -> tuple[float, float]:
    """Rusca eqs (A17), (A19) and (A14): least counts from empty pulses and from single photons."""
    mu1, mu2 = source.intensities
    low, high = _scaled(source, counts, deviation)
    _, wrong = _scaled(source, errors, deviation)
    tau0, tau1 = source.photons(0), source.photons(1)
    total = math.fsum(counts)
    most_vacuum = 2.0 * (tau0 * wrong[k] + deviation(total))
    least = min(total, max(0.0, tau0 / (mu1 - mu2) * (mu1 * low[1] - mu2 * high[0])))
    inner = low[1] - mu2**2 / mu1**2 * high[0] - (mu1**2 - mu2**2) / mu1**2 * most_vacuum / tau0
    single = tau1 * mu1 / (mu2 * (mu1 - mu2)) * inner
    return least, min(total - least, max(0.0, single))


def _single_errors(
    source: DecoySource,
    errors: Sequence[float],
    deviation: Callable[[float], float],
    strong: int,
    weak: int,
) -> float:
    """Lim eq. (4), Rusca eq. (A22): most errors among single photons."""
    low, high = _scaled(source, errors, deviation)
    mu = source.intensities
    return max(0.0, source.photons(1) * (high[strong] - low[weak]) / (mu[strong] - mu[weak]))


def _scaled(
    source: DecoySource, counts: Sequence[float], deviation: Callable[[float], float]
) -> tuple[list[float], list[float]]:
    """``(e^k/p_k)(n_k -+ deviation)`` of every intensity."""
    width = deviation(math.fsum(counts))
    scales = [
        math.exp(k) / p for k, p in zip(source.intensities, source.probabilities, strict=True)
    ]
    low = [scale * (n - width) for scale, n in zip(scales, counts, strict=True)]
    high = [scale * (n + width) for scale, n in zip(scales, counts, strict=True)]
    return low, high


def _phase_error(
    errors: float, test: float, key: float, eps_sec: float, terms: int, sampling: Sampling
) -> float:
    """Lim eq. (5), or the same with Serfling's tail at the same failure, at most 1/2."""
    if test <= 0.0 or key <= 0.0:
        return 0.5
    seen = errors / test
    if sampling == "serfling":
        return min(0.5, seen + _serfling(test, key, math.log(terms / eps_sec)))
    if sampling != "lim":
        raise ValueError(f"there is no sampling {sampling!r}: lim or serfling")
    b = max(seen, 1.0 / test)
    if b >= 0.5:
        return 0.5
    ratio = (test + key) / (test * key)
    inner = ratio / ((1.0 - b) * b) * (terms / eps_sec) ** 2
    return min(0.5, b + math.sqrt(ratio * (1.0 - b) * b / math.log(2.0) * math.log2(inner)))


def _serfling(test: float, key: float, tail: float) -> float:
    """Margin of ``key`` bits over the error rate of ``test`` bits; fails with exp(-2 tail)."""
    return math.sqrt((test + key) * (test + 1.0) / (key * test * test) * tail)


def _whole(raw: float) -> int:
    return max(0, math.floor(raw))


def _check(
    source: DecoySource,
    intensities: int,
    counts: Sequence[Sequence[float]],
    pairs: Sequence[tuple[Sequence[float], Sequence[float]]],
    leak: float,
    eps_sec: float,
    eps_cor: float,
) -> None:
    if len(source.intensities) != intensities:
        raise ValueError(f"this bound is for {intensities} intensities, not {source.intensities}")
    for each in (*counts, *(errors for _, errors in pairs)):
        if len(each) != intensities or not all(math.isfinite(n) and n >= 0.0 for n in each):
            raise ValueError(f"counts {tuple(each)} are not {intensities} numbers, 0 or more")
    for total, errors in pairs:
        if any(wrong > n for n, wrong in zip(total, errors, strict=True)):
            raise ValueError(f"more errors {tuple(errors)} than detections {tuple(total)}")
    if not 0.0 <= leak < math.inf:
        raise ValueError(f"leak {leak} must not be negative or infinite")
    if not (0.0 < eps_sec < 1.0 and 0.0 < eps_cor < 1.0):
        raise ValueError(f"epsilons {eps_sec} and {eps_cor} are not in (0, 1)")


# ---------------------------------------------------------------------------------- planning


@dataclass(frozen=True, slots=True)
class FibreLink:
    """A fibre link with a receiver of two detectors per basis: Lim's channel, below eq. (5).

    Attributes:
        length_km: Length of the fibre.
        loss_db_per_km: Its loss.
        receiver: Efficiency from the fibre's end to a click (eta_Bob).
        dark: Probability of a dark count per pulse and detector.
        afterpulse: Probability that a click is followed by an afterpulse.
        misalignment: Error rate of the optics.
    """

    length_km: float
    loss_db_per_km: float = 0.2
    receiver: float = 0.1
    dark: float = 6e-7
    afterpulse: float = 0.04
    misalignment: float = 5e-3

    def gain(self, intensity: float) -> float:
        """Probability of a click per pulse in equal bases, ``D_k (1 + p_ap)``."""
        return self._clicks(intensity) * (1.0 + self.afterpulse)

    def error_gain(self, intensity: float) -> float:
        """Probability of an error per pulse in equal bases.

        ``p_dc + e_mis (1 - e^(-eta_sys k)) + p_ap D_k / 2``; Lim print ``eta_ch``, with which
        their figure does not come out.
        """
        light = -math.expm1(-self._efficiency() * intensity)
        dark = self.dark + self.afterpulse * self._clicks(intensity) / 2.0
        return dark + self.misalignment * light

    def _efficiency(self) -> float:
        return float(self.receiver * 10.0 ** (-self.loss_db_per_km * self.length_km / 10.0))

    def _clicks(self, intensity: float) -> float:
        return 1.0 - (1.0 - 2.0 * self.dark) * math.exp(-self._efficiency() * intensity)


@dataclass(frozen=True, slots=True)
class DecoyPlan:
    """The settings that give the longest key for an expected link.

    Attributes:
        source: Intensities and their probabilities.
        key_basis: Probability of the key basis, the same for both parties.
        pulses: Pulses that fill the block, expected.
        vacuum_from: See :func:`rusca_key_length`.
        bound: The key expected; length 0 where no settings give one.
    """

    source: DecoySource
    key_basis: float
    pulses: float
    vacuum_from: int
    bound: DecoyBound

    @property
    def rate(self) -> float:
        """Key bits per pulse sent."""
        return self.bound.length / self.pulses


def plan_two_decoys(
    link: FibreLink,
    block: float,
    *,
    eps_sec: float | None = None,
    eps_cor: float = 1e-15,
    f_ec: float = 1.16,
    weakest: float = 2e-4,
    sampling: Sampling = "lim",
) -> DecoyPlan:
    """Choose intensities, probabilities and bias for two decoys, as Lim do for their figure.

    Args:
        link: The link expected.
        block: Detections in the key basis that end a block.
        eps_sec: Secrecy; None for Lim's 1e-15 per bit of the key.
        eps_cor: Correctness.
        f_ec: Efficiency of the reconciliation, above or at 1.
        weakest: Intensity of the weakest decoy (extinction of the modulator).
        sampling: See :func:`lim_key_length`.

    Raises:
        ValueError: for parameters outside their range.
    """

    def build(x: Sequence[float]) -> tuple[DecoySource, float]:
        mu1, mu2, p1, p2, key = _unit(x, ((0.05, 1.2), (2e-3, 0.5), (0.0, 1.0), (0.0, 1.0)))
        source = DecoySource((mu1, mu2, weakest), (p1, (1.0 - p1) * p2, (1.0 - p1) * (1.0 - p2)))
        return source, key

    def bound(
        source: DecoySource,
        key: list[float],
        wrong: list[float],
        test: list[float],
        test_wrong: list[float],
        leak: float,
        eps: float,
    ) -> DecoyBound:
        return lim_key_length(source, key, test, test_wrong, leak, eps, eps_cor, sampling=sampling)

    return _plan(link, block, eps_sec, eps_cor, f_ec, build, bound, [0.5, 0.2, 0.5, 0.6, 0.6], 1)


def plan_one_decoy(
    link: FibreLink,
    block: float,
    *,
    eps_sec: float | None = None,
    eps_cor: float = 1e-15,
    f_ec: float = 1.16,
    sampling: Sampling = "lim",
) -> DecoyPlan:
    """Choose intensities, probabilities and bias for one decoy; see :func:`plan_two_decoys`.

    It also chooses the intensity whose errors bound the empty pulses.
    """

    def build(x: Sequence[float]) -> tuple[DecoySource, float]:
        mu1, mu2, p1, key = _unit(x, ((0.05, 1.2), (2e-3, 0.5), (0.0, 1.0)))
        return DecoySource((mu1, mu2), (p1, 1.0 - p1)), key

    def using(k: int) -> _Bound:
        def bound(
            source: DecoySource,
            key: list[float],
            wrong: list[float],
            test: list[float],
            test_wrong: list[float],
            leak: float,
            eps: float,
        ) -> DecoyBound:
            return rusca_key_length(
                source,
                key,
                wrong,
                test,
                test_wrong,
                leak,
                eps,
                eps_cor,
                vacuum_from=k,
                sampling=sampling,
            )

        return bound

    start = [0.4, 0.3, 0.6, 0.6]
    plans = [_plan(link, block, eps_sec, eps_cor, f_ec, build, using(k), start, k) for k in (0, 1)]
    return max(plans, key=lambda plan: plan.rate)


_Bound = Callable[
    [DecoySource, list[float], list[float], list[float], list[float], float, float], DecoyBound
]


def _unit(x: Sequence[float], limits: Sequence[tuple[float, float]]) -> tuple[float, ...]:
    """Numbers within their limits from any real ones; the last is the bias, 0 to 1."""

    def inside(value: float, low: float, high: float) -> float:
        return low + (high - low) * min(max(value, 1e-6), 1.0 - 1e-6)

    return tuple(
        inside(value, low, high)
        for value, (low, high) in zip(x, (*limits, (0.0, 1.0)), strict=True)
    )


def _plan(
    link: FibreLink,
    block: float,
    eps_sec: float | None,
    eps_cor: float,
    f_ec: float,
    build: Callable[[Sequence[float]], tuple[DecoySource, float]],
    bound: _Bound,
    start: list[float],
    k: int,
) -> DecoyPlan:
    from scipy.optimize import minimize

    if not block >= 1.0:
        raise ValueError(f"a block of {block} detections is empty")
    check_efficiency(f_ec)

    def evaluate(x: Sequence[float], size: float, final: bool) -> DecoyPlan | None:
        try:
            source, bias = build(x)
        except ValueError:
            return None  # intensities out of order
        mu, p = source.intensities, source.probabilities
        gains = [share * link.gain(each) for share, each in zip(p, mu, strict=True)]
        wrong = [share * link.error_gain(each) for share, each in zip(p, mu, strict=True)]
        pulses = size / (bias**2 * math.fsum(gains))
        key = [pulses * bias**2 * g for g in gains]
        key_wrong = [pulses * bias**2 * e for e in wrong]
        test = [pulses * (1.0 - bias) ** 2 * g for g in gains]
        test_wrong = [pulses * (1.0 - bias) ** 2 * e for e in wrong]
        leak = f_ec * size * binary_entropy(min(0.5, math.fsum(key_wrong) / size))

        def at(eps: float) -> DecoyBound:
            return bound(source, key, key_wrong, test, test_wrong, leak, eps)

        found = at(eps_sec if eps_sec is not None else 1e-16 * size)
        while final and eps_sec is None and found.length > 0:
            # eps_sec = 1e-15 per bit of the key: a fixed point, reached from above or below
            again = at(1e-15 * found.length)
            if abs(again.length - found.length) <= 1:
                break
            found = again
        return DecoyPlan(source, bias, pulses, k, found)

    def climb(start: list[float], size: float) -> list[float]:
        # where there is no key, its shortfall leads the way
        def cost(x: npt.NDArray[np.float64]) -> float:
            plan = evaluate(x.tolist(), size, False)
            if plan is None:
                return 1e9
            raw = plan.bound.raw
            return -raw / (plan.pulses if raw > 0.0 else size)

        found = minimize(
            cost,
            np.asarray(start),
            method="Nelder-Mead",
            options={"maxiter": 400, "xatol": 1e-3 if size > block else 1e-4, "fatol": math.inf},
        )
        return [float(v) for v in found.x]

    # Small blocks have no slope to follow far from their optimum: come from larger ones.
    x = start
    for size in (100.0 * block, 10.0 * block, block, block):
        x = climb(x, size)
    plan = evaluate(x, block, True)
    if plan is None:
        raise ValueError("no settings of the source are within their range")
    return plan
