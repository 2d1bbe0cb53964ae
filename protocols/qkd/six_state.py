"""Six-state protocol: asymptotic rate, and a finite key length for single photons.

- "RMP": Scarani, Bechmann-Pasquinucci, Cerf, Dusek, Luetkenhaus and Peev, Rev. Mod. Phys. 81, 1301
  (2009), appendix A.
- "SR": Scarani and Renner, PRL 100, 200501 (2008), arXiv:0708.0709, Lemmas 1 to 3.

All for qubits and collective attacks; SR argue that the symmetry of the protocol extends their
bound to coherent ones. No published finite bound for weak coherent pulses with decoys is known to
us, so there is none here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from .finite_key import binary_entropy, check_efficiency

__all__ = [
    "SixStateBound",
    "six_state_fraction",
    "six_state_information",
    "six_state_key_length",
]


def six_state_information(e_key: float, e_test: float | None = None) -> float:
    """Most that an attacker knows of a key bit, in bits (RMP eqs (A4) to (A6)).

    ``I_E = e + (1 - e) h((1 - t - e/2)/(1 - e))`` with the error rates e of the key basis and t of
    the two others, on average; for ``t = e = Q`` it is ``Q + (1 - Q) h((1 - 3Q/2)/(1 - Q))``. Only
    the average enters: unequal rates of the others can but help (RMP, SR before eq. (7)).

    Args:
        e_key: Error rate of the key basis.
        e_test: Mean error rate of the other two bases; as ``e_key`` unless given.

    Raises:
        ValueError: for error rates that no state of two qubits has (``e_key > 2 e_test``, or
            ``e_test + e_key/2 > 1``).
    """
    t = e_key if e_test is None else e_test
    if not 0.0 <= e_key < 1.0 or not e_key / 2.0 <= t <= 1.0 - e_key / 2.0:
        raise ValueError(f"no state of two qubits has error rates {e_key} and, on average, {t}")
    return e_key + (1.0 - e_key) * binary_entropy(min(1.0, (1.0 - t - e_key / 2.0) / (1.0 - e_key)))


def six_state_fraction(e_key: float, f_ec: float, e_test: float | None = None) -> float:
    """Key bits per sifted bit for infinitely long keys, ``1 - f h(e) - I_E``.

    Negative where there is no key; zero at 12.619 % for ``f = 1``. Arguments as in
    :func:`six_state_information`.

    Raises:
        ValueError: for ``f_ec`` below 1, or error rates that no state has.
    """
    check_efficiency(f_ec)
    return 1.0 - f_ec * binary_entropy(e_key) - six_state_information(e_key, e_test)


@dataclass(frozen=True, slots=True)
class SixStateBound:
    """A finite key length and the error rates it was evaluated at.

    Attributes:
        length: Secure key bits; 0 where the bound gives none.
        e_key: Error rate of the key basis that is worst within its deviation.
        e_test: Mean error rate of the other bases that is worst within its deviation.
        entropy: Least entropy of a key bit given the attacker, bits.
        correctness: Probability bound of differing keys.
        secrecy: Distance of the key from one that nobody knows.
        raw: The bound before rounding down, in bits; may be negative.
    """

    length: int
    e_key: float
    e_test: float
    entropy: float
    correctness: float
    secrecy: float
    raw: float

    @property
    def epsilon(self) -> float:
        """Total: a key of this length is this close to an ideal one."""
        return self.correctness + self.secrecy


def six_state_key_length(
    n: int, m: int, e_key: float, e_test: float, leak: int, epsilon: float, eps_cor: float
) -> SixStateBound:
    """Finite key length of single photons, SR. Fixed length, collective attacks.

    ``length = floor(n H(X|E) - leak - 7 sqrt(n log2(2/(eps_bar - eps_pe)))
    - 2 log2(1/(2 (eps - eps_bar - eps_cor))))`` with ``eps - eps_cor > eps_bar > eps_pe > 0``,
    the three gaps equal, and ``H`` the least over all states within
    ``xi(m) = sqrt((2 ln(1/eps) + 2 ln(m + 1))/m)`` of both error rates, each at half of
    ``eps_pe``. SR evaluate ``e_key`` at its *upper* end, where H is not least; we take the lower.

    Args:
        n: Bits of the key basis, whose errors are counted after verification.
        m: Pairs compared in *each* of the other two bases.
        e_key: Error rate of the key basis.
        e_test: Mean error rate of the other two.
        leak: Bits disclosed (or reserved) for reconciliation, with the verification hash.
        epsilon: Total, correctness included.
        eps_cor: Correctness, below ``epsilon``.

    Raises:
        ValueError: for parameters outside their range.
    """
    if n < 1 or m < 1 or leak < 0:
        raise ValueError(f"n = {n}, m = {m} and leak = {leak} must not be negative or empty")
    if not (0.0 <= e_key <= 0.5 and 0.0 <= e_test <= 0.5):
        raise ValueError(f"error rates {e_key} and {e_test} are not in [0, 0.5]")
    if not 0.0 < eps_cor < epsilon < 1.0:
        raise ValueError(f"epsilons must satisfy 0 < {eps_cor} < {epsilon} < 1")
    gap = (epsilon - eps_cor) / 3.0
    # H grows with e_key and falls with e_test
    least = max(0.0, e_key - _width(n, gap / 2.0))
    most = min(0.5, e_test + _width(m, gap / 2.0))
    least = min(least, 2.0 * most)
    entropy = 1.0 - six_state_information(least, most)
    cost = 7.0 * math.sqrt(n * math.log2(2.0 / gap)) - 2.0 * math.log2(2.0 * gap)
    raw = n * entropy - leak - cost
    secrecy = epsilon - eps_cor
    return SixStateBound(max(0, math.floor(raw)), least, most, entropy, eps_cor, secrecy, raw)


def _width(samples: int, epsilon: float) -> float:
    """SR Lemma 3 for two outcomes."""
    return math.sqrt(2.0 * (math.log(1.0 / epsilon) + math.log(samples + 1.0)) / samples)
