"""Key lengths of BBM92: asymptotic, and finite with composable security.

The finite bound is Tomamichel and Leverrier, Quantum 1, 14 (2017), Theorems 2 and 3, eqs (56)
and (58), "TL" below. Entropies are in bits (log2); only the tail bound uses ln, through exp.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = [
    "KeyBound",
    "SamplePlan",
    "asymptotic_key_fraction",
    "binary_entropy",
    "choose_sample",
    "estimation_epsilon",
    "leak_budget",
    "secure_key_length",
]

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


def asymptotic_key_fraction(e_bit: float, e_phase: float, f_ec: float) -> float:
    """Key bits per sifted bit for infinitely long keys, ``1 - f h(e_bit) - h(e_phase)``.

    Shor-Preskill and Koashi-Preskill; Ma, Fung, Lo, PRA 76, 012307 (2007), eq. (5). Negative
    where there is no key.
    """
    return 1.0 - f_ec * binary_entropy(e_bit) - binary_entropy(e_phase)


def leak_budget(n: int, delta: float, f_ec: float) -> int:
    """Bits reserved for reconciling ``n`` bits at error rate ``delta``: ``ceil(f h(delta) n)``."""
    return math.ceil(f_ec * binary_entropy(delta) * n)


def estimation_epsilon(nu: float, m: int, k: int) -> float:
    """TL eq. (56): bound on missing an error rate ``nu`` above the one of the sample.

    Twice the root of a Serfling tail for ``k`` of ``m`` bits drawn without replacement.
    """
    n = m - k
    return 2.0 * math.exp(-n * k * k * nu * nu / (m * (k + 1)))


@dataclass(frozen=True, slots=True)
class KeyBound:
    """A secure key length and what its security rests on.

    Attributes:
        length: Secure key bits; 0 where the bound gives none.
        nu: Margin on the error rate at which the bound was evaluated.
        correctness: Probability bound of differing keys, ``2^-t``.
        estimation: ``eps_pe(nu)``.
        amplification: ``eps_pa(nu)`` at this length.
        raw: The bound before rounding down, in bits; may be negative.
    """

    length: int
    nu: float
    correctness: float
    estimation: float
    amplification: float
    raw: float

    @property
    def epsilon(self) -> float:
        """Total: a key of this length is this close to an ideal one."""
        return self.correctness + self.estimation + self.amplification


def secure_key_length(
    m: int, k: int, delta: float, leak: int, verify: int, epsilon: float, *, overlap: float = 0.5
) -> KeyBound:
    """Longest key that is ``epsilon``-secure (TL Theorems 2 and 3).

    ``leak`` is what was *reserved* for reconciliation before the data, not what was used: the
    theorem holds for a protocol of fixed lengths that aborts where a limit is exceeded.

    Args:
        m: Sifted bits of the block.
        k: Of these, bits of the random sample; ``n = m - k`` remain for the key.
        delta: Tolerated error rate of the sample, set before the run.
        leak: Bits reserved for reconciliation.
        verify: Bits ``t`` of the verification hash.
        epsilon: Target of the total, correctness and secrecy.
        overlap: Effective overlap of the two bases; 1/2 for mutually unbiased ones.

    Returns:
        The bound, the margin ``nu`` chosen to make it longest.

    Raises:
        ValueError: for parameters outside their range.
    """
    if not 0 < k < m:
        raise ValueError(f"the sample must leave bits for the key: k = {k} of m = {m}")
    if not 0.0 <= delta < 0.5:
        raise ValueError(f"tolerance {delta} is not in [0, 0.5)")
    if leak < 0 or verify < 1:
        raise ValueError(f"leak {leak} and verification bits {verify} must not be negative or zero")
    if not 0.0 < epsilon < 1.0:
        raise ValueError(f"epsilon {epsilon} is not in (0, 1)")
    if not 0.0 < overlap <= 0.5:
        raise ValueError(f"overlap {overlap} of two bases of a qubit is not in (0, 0.5]")
    raw, nu = _longest(m, k, delta, leak, verify, epsilon, overlap)
    correctness = 2.0**-verify
    if math.isnan(nu):
        return KeyBound(0, nu, correctness, math.nan, math.nan, raw)
    estimation = estimation_epsilon(nu, m, k)
    length = max(0, math.floor(raw))
    rate = math.log2(1.0 / overlap) - binary_entropy(delta + nu)

    def amplification(bits: int) -> float:
        exponent = -(m - k) * rate + leak + verify + bits
        return 0.5 * math.exp2(min(exponent / 2.0, 1000.0))

    # Rounding in floating point must not buy a bit.
    while length and correctness + estimation + amplification(length) > epsilon:
        length -= 1
    return KeyBound(length, nu, correctness, estimation, amplification(length), raw)


def _longest(
    m: int, k: int, delta: float, leak: float, verify: int, epsilon: float, overlap: float
) -> tuple[float, float]:
    """Maximise the unrounded length over nu; (-inf, nan) where no nu is allowed."""
    n = m - k
    room = epsilon - 2.0**-verify
    if room <= 0.0:
        return -math.inf, math.nan
    fixed = n * math.log2(1.0 / overlap) - leak - verify + 2.0 * math.log2(2.0 * room)

    # Search the share 10^x of the room that goes to eps_pa; eps_pe has the rest.
    def evaluate(x: _Floats) -> tuple[_Floats, _Floats]:
        rest = -np.expm1(x * math.log(10.0)) * room
        nu = np.sqrt(m * (k + 1) * np.log(2.0 / rest) / (float(n) * k * k))
        error = delta + nu
        inside = error < 0.5
        error = np.where(inside, error, 0.25)
        entropy = -error * np.log2(error) - (1.0 - error) * np.log2(1.0 - error)
        value = fixed - n * entropy + 2.0 * x * math.log2(10.0)
        return np.where(inside, value, -np.inf), nu

    low, high = -12.0, -1e-9
    best, nu_best = -math.inf, math.nan
    for _ in range(4):
        x = np.linspace(low, high, 201)
        value, nu = evaluate(x)
        i = int(np.argmax(value))
        if value[i] > best:
            best, nu_best = float(value[i]), float(nu[i])
        low, high = float(x[max(i - 1, 0)]), float(x[min(i + 1, 200)])
    return best, nu_best


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


def choose_sample(m: int, delta: float, f_ec: float, epsilon: float) -> SamplePlan:
    """Choose sample size and hash length for an expected block, before the data.

    Args:
        m: Expected sifted bits.
        delta: Tolerated error rate.
        f_ec: Efficiency that the leak budget is reserved at.
        epsilon: Target of the total security parameter.

    Raises:
        ValueError: for fewer than 4 bits, or parameters outside their range.
    """
    if m < 4:
        raise ValueError(f"cannot plan a block of {m} bits")
    rate = f_ec * binary_entropy(delta)
    first = math.floor(-math.log2(epsilon)) + 1

    def smooth(k: int, verify: int) -> float:
        return _longest(m, k, delta, rate * (m - k), verify, epsilon, 0.5)[0]

    def exact(choice: tuple[int, int]) -> float:
        k, verify = choice
        budget = leak_budget(m - k, delta, f_ec)
        return _longest(m, k, delta, budget, verify, epsilon, 0.5)[0]

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
