"""E91: the CHSH value of measured counts, and the key rate it would stand for.

Acin, Brunner, Gisin, Massar, Pironio and Scarani, PRL 98, 230501 (2007), eqs (2) and (3);
Pironio, Acin, Brunner, Gisin, Massar and Scarani, NJP 11, 045021 (2009), eqs (11) and (12).

S is a diagnostic here. A key of a bench with characterised analysers follows from its error rate
(:func:`~bellbench.protocols.qkd.finite_key.secure_key_length`): E91 is BBM92 then. Nothing computed
from coincidences that were selected after detection is device-independent: that needs an overall
detection efficiency of at least 92.4 % for maximally entangled pairs, 86.5 % for partially
entangled ones, 82.6 % with noisy preprocessing (Woodhead, Acin and Pironio, Quantum 5, 443 (2021)),
and a finite-key proof by entropy accumulation (Arnon-Friedman et al., Nat. Commun. 9, 459 (2018)).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .finite_key import binary_entropy, check_efficiency

__all__ = [
    "KEY_SHARE",
    "TSIRELSON",
    "ChshValue",
    "chsh_rate",
    "chsh_value",
    "holevo_information",
]

TSIRELSON = 2.0 * math.sqrt(2.0)
"""Largest CHSH value of quantum mechanics."""

KEY_SHARE = 2.0 / 9.0
"""Share of pairs that make key: three uniformly random settings each, two of them shared."""

_SIGNS = (1, -1, 1, 1)


@dataclass(frozen=True, slots=True)
class ChshValue:
    """A CHSH value with its statistical uncertainty.

    Attributes:
        value: ``S = E(a1,b1) - E(a1,b3) + E(a3,b1) + E(a3,b3)``, signed; about -2 sqrt(2) for a
            singlet at Ekert's settings.
        standard_error: One standard deviation of ``value`` from counting.
        correlations: The four E, in the order of the formula.
        counts: Coincidences behind each.
    """

    value: float
    standard_error: float
    correlations: tuple[float, float, float, float]
    counts: tuple[int, int, int, int]

    @property
    def violation(self) -> float:
        """Standard errors by which ``|S|`` exceeds 2; negative where it does not."""
        if self.standard_error == 0.0:
            return math.copysign(math.inf, abs(self.value) - 2.0)
        return (abs(self.value) - 2.0) / self.standard_error


def chsh_value(coincidences: npt.ArrayLike) -> ChshValue:
    """S of measured coincidences.

    ``E = (N00 + N11 - N01 - N10)/N``, with the variance ``(1 - E^2)/N`` of independent pairs; a
    setting whose coincidences all agree has the variance of one that differs, since few counts
    must not look exact. Only coincidences are seen: S stands for all pairs only where those
    detected are a fair sample.

    Args:
        coincidences: Counts, 4 by 2 by 2: the settings (a1,b1), (a1,b3), (a3,b1), (a3,b3), then
            Alice's outcome, then Bob's.

    Raises:
        ValueError: for another shape, negative counts, or a setting without any.
    """
    counts = np.asarray(coincidences)
    if counts.shape != (4, 2, 2) or not np.issubdtype(counts.dtype, np.integer):
        raise ValueError("coincidences must be whole numbers, 4 settings by 2 by 2 outcomes")
    if np.any(counts < 0):
        raise ValueError("a count of coincidences is negative")
    totals = [int(n) for n in counts.sum(axis=(1, 2))]
    if 0 in totals:
        raise ValueError(f"no coincidences for one of the settings: {totals}")
    correlations, variance = [], 0.0
    for table, n in zip(counts, totals, strict=True):
        equal = int(table[0, 0]) + int(table[1, 1])
        correlations.append((2 * equal - n) / n)
        spread = abs(2 * min(max(equal, 1), n - 1) - n) / n if n > 1 else 0.0
        variance += (1.0 - spread**2) / n
    value = math.fsum(sign * e for sign, e in zip(_SIGNS, correlations, strict=True))
    a, b, c, d = correlations
    i, j, k, m = totals
    return ChshValue(value, math.sqrt(variance), (a, b, c, d), (i, j, k, m))


def holevo_information(s: float) -> float:
    """Most that an attacker knows of a key bit at this S, ``h((1 + sqrt((S/2)^2 - 1))/2)`` bits.

    Acin eq. (3): tight against collective attacks, for infinitely long keys, and for *all* pairs
    (see the module). 1 without a violation. A value beyond ``2 sqrt(2)``, to which counting may
    lead, is taken for ``2 sqrt(2)``.

    Raises:
        ValueError: for ``|S|`` above 4, which no counts give.
    """
    s = abs(s)
    if not s <= 4.0:
        raise ValueError(f"S = {s} is beyond 4, which no counts give")
    if s <= 2.0:
        return 1.0
    root = math.sqrt(max(0.0, min(s, TSIRELSON) ** 2 / 4.0 - 1.0))
    return binary_entropy(min(1.0, (1.0 + root) / 2.0))


def chsh_rate(qber: float, s: float, f_ec: float) -> float:
    """Key bits per key pair, ``1 - f h(Q) - h((1 + sqrt((S/2)^2 - 1))/2)``.

    Pironio eqs (11) and (12) with ``f``: collective attacks, infinitely long keys. ``s`` must come
    from data (:func:`chsh_value`); computed from an assumed state it proves nothing. See the
    module for why this is not a device-independent rate of a bench that loses photons.

    Args:
        qber: Error rate of the key pairs.
        s: Measured CHSH value; the sign plays no part.
        f_ec: Efficiency of the reconciliation, 1 at the Shannon limit.

    Returns:
        Negative where there is no key.

    Raises:
        ValueError: for ``f_ec`` below 1, or others outside their range.
    """
    check_efficiency(f_ec)
    return 1.0 - f_ec * binary_entropy(qber) - holevo_information(s)
