"""Key lengths of BBM92 and single-photon BB84: asymptotic, and finite with composable security.

Finite bounds, all against coherent attacks:

- "TL": Tomamichel and Leverrier, Quantum 1, 14 (2017), Theorems 2 and 3, eqs (56) and (58), the
  default. Fixed length: tolerance, reserve and tag are set before the data.
- "LXPE": Lim, Xu, Pan and Ekert, PRL 126, 100501 (2021). The same theorem with a sharper tail for
  the sample, worth having for blocks below 1e5 bits. Fixed length.
- "TLGR": Tomamichel, Lim, Gisin and Renner, Nat. Commun. 3, 634 (2012). The older bound, for
  comparison with published figures. Fixed length.
- :func:`counted_key_length`: no sample; the errors of one basis, counted after reconciliation and
  verification, bound the phase errors of the other. Variable length.

Entropies are in bits (log2); only the tail bounds use ln, through exp. ``docs/key-lengths.md``
says what each rests on.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

__all__ = [
    "Bound",
    "FixedLength",
    "KeyBound",
    "SamplePlan",
    "asymptotic_key_fraction",
    "binary_entropy",
    "check_efficiency",
    "choose_sample",
    "counted_key_length",
    "estimation_epsilon",
    "leak_budget",
    "secure_key_length",
    "sharp_estimation_epsilon",
    "tlgr_key_length",
]

Bound = Literal["tomamichel-leverrier", "lim-xu-pan-ekert"]
"""Bounds for a protocol of fixed lengths; they differ in the tail of the sample only."""

_Floats = npt.NDArray[np.float64]


def binary_entropy(x: float) -> float:
    """Binary entropy h(x) in bits.

    Raises:
        ValueError: for ``x`` outside [0, 1].
    """
    if not 0.0 <= x <= 1.0:
        raise ValueError(f"h(x) needs 0 <= x <= 1, not {x}")
    if x in (0.0, 1.0):
        return 0.0
    return -x * math.log2(x) - (1.0 - x) * math.log2(1.0 - x)


def check_efficiency(f_ec: float) -> None:
    """Refuse an efficiency of reconciliation below 1, the Shannon limit.

    Raises:
        ValueError: for ``f_ec`` below 1, infinite or nan.
    """
    if not 1.0 <= f_ec < math.inf:
        raise ValueError(f"no reconciliation beats the Shannon limit: f_ec = {f_ec}")


def asymptotic_key_fraction(e_bit: float, e_phase: float, f_ec: float) -> float:
    """Key bits per sifted bit for infinitely long keys, ``1 - f h(e_bit) - h(e_phase)``.

    Shor-Preskill and Koashi-Preskill; Ma, Fung, Lo, PRA 76, 012307 (2007), eq. (5). Negative
    where there is no key.

    Raises:
        ValueError: for ``f_ec`` below 1, or error rates outside [0, 1].
    """
    check_efficiency(f_ec)
    return 1.0 - f_ec * binary_entropy(e_bit) - binary_entropy(e_phase)


def leak_budget(n: int, delta: float, f_ec: float) -> int:
    """Bits reserved for reconciling ``n`` bits at error rate ``delta``: ``ceil(f h(delta) n)``.

    Raises:
        ValueError: for ``f_ec`` below 1, or an error rate outside [0, 1].
    """
    check_efficiency(f_ec)
    return math.ceil(f_ec * binary_entropy(delta) * n)


def estimation_epsilon(nu: float, m: float, k: float) -> float:
    """TL eq. (56): bound on missing an error rate ``nu`` above the one of the sample.

    Twice the root of a Serfling tail for ``k`` of ``m`` bits drawn without replacement.
    """
    n = m - k
    return 2.0 * math.exp(-n * k * k * nu * nu / (m * (k + 1)))


def sharp_estimation_epsilon(nu: float, xi: float, delta: float, m: int, k: int) -> float:
    """LXPE: as :func:`estimation_epsilon`, through the error rate of the whole block.

    If ``k`` sampled bits show at most ``delta`` and the other ``n = m - k`` more than
    ``delta + nu``, then either the block has more than ``delta + xi`` (Serfling), or it has less
    and the ``n`` are unlucky (Hush and Scovel, Stat. Probab. Lett. 75, 127 (2005), Theorem 1, for
    ``m (delta + xi)`` errors)::

        p = exp(-2 m k xi^2/(n + 1)) + exp(-2 G (n^2 (nu - xi)^2 - 1))
        G = 1/(m (delta + xi) + 1) + 1/(m - m (delta + xi) + 1)

    Args:
        nu: Margin above the tolerance, for the bits of the key.
        xi: Margin above the tolerance, for the whole block; ``0 < xi < nu``.
        delta: Tolerated error rate of the sample.
        m: Bits of the block.
        k: Bits of the sample.

    Returns:
        ``2 sqrt(p)``, what estimation adds to the total; above 1 where the bound says nothing.
    """
    n = m - k
    if not 0.0 < xi < nu or delta + xi > 0.5 or n * (nu - xi) < 2.0:
        return math.inf  # outside of what Hush and Scovel prove
    errors = m * (delta + xi)
    gamma = 1.0 / (errors + 1.0) + 1.0 / (m - errors + 1.0)
    block = math.exp(-2.0 * m * k * xi * xi / (n + 1.0))
    rest = math.exp(-2.0 * gamma * ((n * (nu - xi)) ** 2 - 1.0))
    return 2.0 * math.sqrt(block + rest)


@dataclass(frozen=True, slots=True)
class KeyBound:
    """A secure key length and what its security rests on.

    Attributes:
        length: Secure key bits; 0 where the bound gives none.
        nu: Margin on the error rate at which the bound was evaluated.
        correctness: Probability bound of differing keys, ``2^-t``.
        estimation: ``eps_pe(nu)``, what estimation adds to the total.
        amplification: ``eps_pa(nu)`` at this length.
        raw: The bound before rounding down, in bits; may be negative.
        xi: LXPE's margin of the whole block; None for other bounds.
    """

    length: int
    nu: float
    correctness: float
    estimation: float
    amplification: float
    raw: float
    xi: float | None = None

    @property
    def epsilon(self) -> float:
        """Total: a key of this length is this close to an ideal one."""
        return self.correctness + self.estimation + self.amplification


def secure_key_length(
    m: int,
    k: int,
    delta: float,
    leak: int,
    verify: int,
    epsilon: float,
    *,
    overlap: float = 0.5,
    bound: Bound = "tomamichel-leverrier",
) -> KeyBound:
    """Longest key that is ``epsilon``-secure (TL Theorems 2 and 3, or LXPE). Fixed length.

    ``epsilon >= 2^-t + eps_pe + eps_pa`` with ``eps_pe`` of :func:`estimation_epsilon` or
    :func:`sharp_estimation_epsilon`, and::

        length = floor(n (log2(1/overlap) - h(delta + nu)) - leak - t + 2 log2(2 eps_pa))

    ``leak`` is what was *reserved* for reconciliation before the data, not what was used: the
    theorem holds for a protocol of fixed lengths that aborts where a limit is exceeded, and where
    the sample shows more than ``delta``. It assumes two measurements of known overlap at one
    party at least, detection that does not depend on the basis, and an authentic channel.

    Args:
        m: Sifted bits of the block.
        k: Of these, bits of the random sample; ``n = m - k`` remain for the key.
        delta: Tolerated error rate of the sample, set before the run.
        leak: Bits reserved for reconciliation.
        verify: Bits ``t`` of the verification hash.
        epsilon: Target of the total, correctness and secrecy.
        overlap: Effective overlap of the two bases; 1/2 for mutually unbiased ones.
        bound: Which tail bounds the errors outside of the sample.

    Returns:
        The bound, with the margins that make it longest.

    Raises:
        ValueError: for parameters outside their range.
    """
    _check_block(m, k, leak, verify, epsilon, overlap)
    if not 0.0 <= delta < 0.5:
        raise ValueError(f"tolerance {delta} is not in [0, 0.5)")
    raw, nu, xi = _longest(m, k, delta, leak, verify, epsilon, overlap, bound)
    correctness = 2.0**-verify
    if math.isnan(nu):
        return KeyBound(0, nu, correctness, math.nan, math.nan, raw)
    if xi is None:
        estimation = estimation_epsilon(nu, m, k)
    else:
        estimation = sharp_estimation_epsilon(nu, xi, delta, m, k)
    return _settled(m - k, delta, nu, leak, verify, epsilon, overlap, estimation, raw, xi)


def counted_key_length(
    n: int,
    k: int,
    errors: int,
    expected: float,
    leak: int,
    verify: int,
    epsilon: float,
    *,
    overlap: float = 0.5,
) -> KeyBound:
    """Key of one basis from the errors *counted* in the other. Variable length.

    No bit is given up to a sample: both bases are reconciled and verified, so that the errors of
    each are known, and those of one bound the phase errors of the other, which were a random
    choice of the same pairs. Tupkary, Nahar, Sinha and Luetkenhaus, Quantum 9, 1937 (2025),
    arXiv:2408.17349, Theorem 1, prove for bases chosen at random in every round, with detection
    independent of the basis, that a key of the length below, chosen by what was seen, is
    ``2^-t + 2 eps_AT + eps_PA``-secure; their ``eps_AT^2`` is the Serfling tail of
    :func:`estimation_epsilon`. They announce the test basis. Keeping a key of it as well is a step
    of ours: the first key is secure even from one who knows all of the test basis, hence from one
    who knows the second key, and the other way round, so the pair is secure with the sum of both
    epsilons, each key paying for the parities of its own basis and for the tag. Fung, Ma and
    Chau, PRA 81, 012318 (2010), count errors in this way, with an approximate tail.

    The margin may not depend on what was seen: it follows from ``n``, ``k`` and ``expected``. A
    test basis that fails its verification has no count, and both keys are given up; that it passes
    with a wrong count, ``2^-t``, is in the total of the other key, and must be spent apart where
    only one key is made.

    Args:
        n: Bits of the basis that this key is made of.
        k: Bits of the other basis, at least 1.
        errors: Errors counted among the ``k`` bits, of ``0..k``.
        expected: Error rate expected *before* the data, where the epsilons are split best.
        leak: Bits that may be disclosed about the ``n``: fixed, or a function of what is public
            before reconciliation; a block that needs more is given up.
        verify: Bits ``t`` of the verification hash.
        epsilon: Target of the total, for this key.
        overlap: Effective overlap of the two bases.

    Raises:
        ValueError: for parameters outside their range.
    """
    _check_block(n + k, k, leak, verify, epsilon, overlap)
    if not 0 <= errors <= k:
        raise ValueError(f"{errors} errors among {k} bits are impossible")
    if not 0.0 <= expected < 0.5:
        raise ValueError(f"expected error rate {expected} is not in [0, 0.5)")
    correctness = 2.0**-verify
    m, seen = n + k, errors / k
    _, nu, _ = _longest(m, k, expected, leak, verify, epsilon, overlap, "tomamichel-leverrier")
    if math.isnan(nu) or seen + nu >= 0.5:
        return KeyBound(0, nu, correctness, math.nan, math.nan, -math.inf)
    estimation = estimation_epsilon(nu, m, k)
    room = epsilon - correctness - estimation
    rate = math.log2(1.0 / overlap) - binary_entropy(seen + nu)
    raw = n * rate - leak - verify + 2.0 * math.log2(2.0 * room)
    return _settled(n, seen, nu, leak, verify, epsilon, overlap, estimation, raw, None)


@dataclass(frozen=True, slots=True)
class FixedLength:
    """A length from a bound whose secrecy is one number.

    Attributes:
        length: Secure key bits; 0 where the bound gives none.
        margin: Margin on the error rate.
        correctness: Probability bound of differing keys.
        secrecy: Distance of the key from one that nobody knows.
        raw: The bound before rounding down, in bits; may be negative.
    """

    length: int
    margin: float
    correctness: float
    secrecy: float
    raw: float

    @property
    def epsilon(self) -> float:
        """Total: a key of this length is this close to an ideal one."""
        return self.correctness + self.secrecy


def tlgr_key_length(
    n: int,
    k: int,
    tolerance: float,
    leak: int,
    eps_sec: float,
    eps_cor: float,
    *,
    quality: float = 1.0,
) -> FixedLength:
    """TLGR's key length (Theorem 2, with eqs S3 and S4). Fixed length.

    One basis makes the key, the other the test; the block ends when both are full::

        length = floor(n (quality - h(tolerance + mu)) - leak - log2(2/(eps_sec^2 eps_cor)))
        mu = sqrt((n + k)/(n k) (k + 1)/k ln(4/eps_sec))

    The verification hash is charged within ``log2(2/eps_cor)``. Ending a block at a number of
    bits needs care with what is announced when (Pfister et al., NJP 18, 053001 (2016)).

    Args:
        n: Bits of the key basis.
        k: Bits of the test basis; the test aborts above ``tolerance``.
        tolerance: Error rate of the test, set before the run.
        leak: Bits reserved for reconciliation.
        eps_sec: Secrecy.
        eps_cor: Correctness.
        quality: ``log2(1/overlap)`` of the preparation, 1 for mutually unbiased bases.

    Raises:
        ValueError: for parameters outside their range.
    """
    if n < 1 or k < 1 or leak < 0:
        raise ValueError(f"n = {n}, k = {k} and leak = {leak} must not be negative or empty")
    if not 0.0 <= tolerance < 0.5:
        raise ValueError(f"tolerance {tolerance} is not in [0, 0.5)")
    if not (0.0 < eps_sec < 1.0 and 0.0 < eps_cor < 1.0):
        raise ValueError(f"epsilons {eps_sec} and {eps_cor} are not in (0, 1)")
    if not 0.0 < quality <= 1.0:
        raise ValueError(f"quality {quality} of a preparation is not in (0, 1]")
    mu = math.sqrt((n + k) / (n * k) * (k + 1) / k * math.log(4.0 / eps_sec))
    if tolerance + mu >= 0.5:
        return FixedLength(0, mu, eps_cor, eps_sec, -math.inf)
    cost = 1.0 - 2.0 * math.log2(eps_sec) - math.log2(eps_cor)
    raw = n * (quality - binary_entropy(tolerance + mu)) - leak - cost
    return FixedLength(max(0, math.floor(raw)), mu, eps_cor, eps_sec, raw)


def _check_block(m: int, k: int, leak: int, verify: int, epsilon: float, overlap: float) -> None:
    if not 0 < k < m:
        raise ValueError(f"the sample must leave bits for the key: k = {k} of m = {m}")
    if leak < 0 or verify < 1:
        raise ValueError(f"leak {leak} and verification bits {verify} must not be negative or zero")
    if not 0.0 < epsilon < 1.0:
        raise ValueError(f"epsilon {epsilon} is not in (0, 1)")
    if not 0.0 < overlap <= 0.5:
        raise ValueError(f"overlap {overlap} of two bases of a qubit is not in (0, 0.5]")


def _settled(
    n: int,
    error: float,
    nu: float,
    leak: int,
    verify: int,
    epsilon: float,
    overlap: float,
    estimation: float,
    raw: float,
    xi: float | None,
) -> KeyBound:
    """The bound at these margins, rounded down to whole bits that keep within epsilon."""
    correctness = 2.0**-verify
    rate = math.log2(1.0 / overlap) - binary_entropy(error + nu)
    length = max(0, math.floor(raw))

    def amplification(bits: int) -> float:
        exponent = -n * rate + leak + verify + bits
        return 0.5 * math.exp2(min(exponent / 2.0, 1000.0))

    # Rounding in floating point must not buy a bit.
    while length and correctness + estimation + amplification(length) > epsilon:
        length -= 1
    return KeyBound(length, nu, correctness, estimation, amplification(length), raw, xi)


def _longest(
    m: int,
    k: int,
    delta: float,
    leak: float,
    verify: int,
    epsilon: float,
    overlap: float,
    bound: Bound,
) -> tuple[float, float, float | None]:
    """Maximise the unrounded length over the margins; (-inf, nan, None) where none is allowed."""
    n = m - k
    room = epsilon - 2.0**-verify
    if room <= 0.0:
        return -math.inf, math.nan, None
    fixed = n * math.log2(1.0 / overlap) - leak - verify + 2.0 * math.log2(2.0 * room)

    # Search the share 10^x of the room that goes to eps_pa; eps_pe has the rest.
    def evaluate(x: _Floats, nu: _Floats) -> _Floats:
        error = delta + nu
        inside = error < 0.5
        error = np.where(inside, error, 0.25)
        entropy = -error * np.log2(error) - (1.0 - error) * np.log2(1.0 - error)
        value = fixed - n * entropy + 2.0 * x * math.log2(10.0)
        return np.where(inside, value, -np.inf)

    def rest(x: _Floats) -> _Floats:
        return np.asarray(-np.expm1(x * math.log(10.0)) * room)

    low, high = -12.0, -1e-9
    best, nu_best = -math.inf, math.nan
    if bound == "tomamichel-leverrier":
        for _ in range(4):
            x = np.linspace(low, high, 201)
            nu = np.sqrt(m * (k + 1) * np.log(2.0 / rest(x)) / (float(n) * k * k))
            value = evaluate(x, nu)
            i = int(np.argmax(value))
            if value[i] > best:
                best, nu_best = float(value[i]), float(nu[i])
            low, high = float(x[max(i - 1, 0)]), float(x[min(i + 1, 200)])
        return best, nu_best, None
    if bound != "lim-xu-pan-ekert":
        raise ValueError(f"there is no bound {bound!r}: tomamichel-leverrier or lim-xu-pan-ekert")

    # The two tails share (eps_pe/2)^2; y is the logarithm of the part of the first.
    left, right = math.log(1e-15), -1e-12
    xi_best: float | None = None
    for _ in range(8):
        x = np.linspace(low, high, 33)[:, None]
        y = np.linspace(left, right, 33)[None, :]
        total = 2.0 * np.log(rest(x) / 2.0)
        xi = np.sqrt((n + 1.0) * -(total + y) / (2.0 * m * k))
        errors = m * (delta + xi)
        gamma = 1.0 / (errors + 1.0) + 1.0 / np.maximum(m - errors + 1.0, 1.0)
        second = -(total + np.log(-np.expm1(y)))
        step = np.sqrt(second / (2.0 * gamma) + 1.0) / n
        proven = (delta + xi <= 0.5) & (n * step >= 2.0)
        value = np.where(proven, evaluate(x, xi + step), -np.inf)
        i, j = divmod(int(np.argmax(value)), 33)
        if value[i, j] > best:
            best = float(value[i, j])
            nu_best, xi_best = float((xi + step)[i, j]), float(xi[i, j])
        low, high = float(x[max(i - 2, 0), 0]), float(x[min(i + 2, 32), 0])
        left, right = float(y[0, max(j - 2, 0)]), float(y[0, min(j + 2, 32)])
    return best, nu_best, xi_best


@dataclass(frozen=True, slots=True)
class SamplePlan:
    """Choices that give the longest key for an expected block.

    Attributes:
        sample: Bits ``k`` of the sample.
        verify: Bits ``t`` of the verification hash.
        length: Key bits that follow; 0 where there is no key for any choice.
    """

    sample: int
    verify: int
    length: int


def choose_sample(
    m: int,
    delta: float,
    f_ec: float,
    epsilon: float,
    *,
    bound: Bound = "tomamichel-leverrier",
) -> SamplePlan:
    """Choose sample size and hash length for an expected block, before the data.

    Args:
        m: Expected sifted bits.
        delta: Tolerated error rate.
        f_ec: Efficiency that the leak budget is reserved at.
        epsilon: Target of the total security parameter.
        bound: See :func:`secure_key_length`.

    Raises:
        ValueError: for fewer than 4 bits, or parameters outside their range.
    """
    if m < 4:
        raise ValueError(f"cannot plan a block of {m} bits")
    check_efficiency(f_ec)
    rate = f_ec * binary_entropy(delta)
    first = math.floor(-math.log2(epsilon)) + 1

    def smooth(k: int, verify: int) -> float:
        return _longest(m, k, delta, rate * (m - k), verify, epsilon, 0.5, bound)[0]

    def exact(choice: tuple[int, int]) -> float:
        k, verify = choice
        budget = leak_budget(m - k, delta, f_ec)
        return _longest(m, k, delta, budget, verify, epsilon, 0.5, bound)[0]

    # The best k hardly depends on t, so each is found in turn; rounding the budget up then
    # shifts the optimum by a few bits.
    k = _argmax(lambda k: smooth(k, first + 6), 1, m - 1)
    verify = max(range(first, first + 24), key=lambda t: smooth(k, t))
    k = _argmax(lambda k: smooth(k, verify), 1, m - 1)
    near = range(max(1, k - 16), min(m - 1, k + 16) + 1)
    k, verify = max(
        ((k, t) for t in range(max(first, verify - 1), verify + 2) for k in near), key=exact
    )
    return SamplePlan(k, verify, math.floor(max(0.0, exact((k, verify)))))


def _argmax(function: Callable[[int], float], low: int, high: int) -> int:
    """Argument of the maximum of a unimodal function on the integers ``low..high``."""
    while high - low > 2:
        third = (high - low) // 3
        a, b = low + third, high - third
        if function(a) < function(b):
            low = a
        else:
            high = b
    return max(range(low, high + 1), key=function)
