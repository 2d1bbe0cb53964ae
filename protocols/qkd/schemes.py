"""What the bases of a protocol on entangled pairs are for: key, test, or nothing.

An analyzer has two outputs of one basis and two of another, unbiased to the first, and photons go
to either at random. Where it is turned between settings it has two bases at each: basis 2s is that
of the first outputs (H and V at home, "Z") at setting s, basis 2s + 1 that of the others ("X").
Equal bases make key.

- ``bbm92`` (Bennett, Brassard and Mermin, PRL 68, 557 (1992)): one setting.
- ``e91``: two settings, 22.5 deg apart: directions 0 and 45, 22.5 and 67.5 deg. The outcomes at
  different settings are revealed; these four correlations, twice, make the CHSH value S. Ekert's
  three directions for each party, 0, 22.5, 45 and 22.5, 45, 67.5 deg (PRL 67, 661 (1991)), are
  among them, and his S is that of Alice's first setting with Bob's second. A quarter of the pairs
  makes key and a half S, where three random directions each would give 2/9 and 4/9.
- ``six_state`` (Bruss, PRL 81, 3018 (1998)): three settings, with Z and X, X and Y, Y and Z, where
  Y is circular polarization. Outcomes in one of these at different settings are revealed.

**Length of a key.** Pairs that make key were measured at equal settings. Given these, each pair
meets one of two unbiased bases at either party, at random and anew for each pair, as in BBM92, and
the sample is drawn from all of them: the bound of Tomamichel and Leverrier holds as it stands,
for coherent attacks, even if the attacker knew the settings beforehand. So S, and the errors at
different settings, are diagnostics on which a block may be refused. Nothing is gained by them: a
six-state key is as long as one of BBM92 from the same bits, and no key is device-independent
(:mod:`.chsh`).

Settings last for many pairs, and pairs of different settings must not make key: a party that keeps
one basis for a while is no random choice of bases. They are told only after all that was measured
with them was paired.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from .chsh import ChshValue, chsh_value

__all__ = ["SCHEMES", "Scheme", "SchemeName", "e91_chsh", "six_state_errors"]

Bits = npt.NDArray[np.uint8]
Table = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

SchemeName = Literal["bbm92", "e91", "six_state"]


@dataclass(frozen=True, eq=False)
class Scheme:
    """A protocol's table.

    Attributes:
        names: Of the bases, two for each setting.
        tests: Pairs of bases (Alice's, Bob's) whose outcomes both reveal.
        opposite: Bases in which the pairs' outcomes are opposite; Bob flips his.
    """

    names: tuple[str, ...]
    tests: tuple[tuple[int, int], ...] = ()
    opposite: tuple[int, ...] = ()

    @property
    def settings(self) -> int:
        """How many settings an analyzer has."""
        return len(self.names) // 2

    @property
    def _width(self) -> int:
        return (len(self.names) - 1).bit_length()

    def planes(self, bases: Bits) -> Bits:
        """Numbers of bases as bits to be told: the highest of each, then the next ones."""
        shifts = reversed(range(self._width))
        return np.concatenate([(bases >> np.uint8(shift)) & np.uint8(1) for shift in shifts])

    def numbers(self, planes: Bits, count: int) -> Bits | None:
        """The inverse of :meth:`planes`; None where these are not ``count`` numbers of bases."""
        if planes.size != self._width * count:
            return None
        found = np.zeros(count, np.uint8)
        for plane in planes.reshape(self._width, count):
            found = found << np.uint8(1) | plane
        return None if count and int(found.max()) >= len(self.names) else found

    def tested(self, alice: Bits, bob: Bits) -> Mask:
        """Which pairs are tests, by the bases of both parties; other numbers are no basis."""
        last = len(self.names)
        use = np.zeros((last + 1, last + 1), np.bool_)
        for a, b in self.tests:
            use[a, b] = True
        return np.asarray(use[np.minimum(alice, last), np.minimum(bob, last)])

    def flip(self, bases: Bits, bits: Bits) -> Bits:
        """Bob's outcomes as Alice's should be."""
        return bits ^ np.isin(bases, self.opposite) if self.opposite else bits

    def no_counts(self) -> Table:
        """Counts of nothing."""
        return self.count(*4 * [np.zeros(0, np.uint8)])

    def count(self, alice: Bits, bits_a: Bits, bob: Bits, bits_b: Bits) -> Table:
        """Count revealed outcomes: int64, by Alice's basis, Bob's, her outcome, his."""
        n = len(self.names)
        cells = ((alice.astype(np.int64) * n + bob) * 2 + bits_a) * 2 + bits_b
        return np.bincount(cells, minlength=4 * n * n).reshape(n, n, 2, 2).astype(np.int64)


SCHEMES: dict[SchemeName, Scheme] = {
    "bbm92": Scheme(("Z", "X")),
    "e91": Scheme(
        ("0", "45", "22.5", "67.5"),
        tuple((a, b) for a in range(4) for b in range(4) if a // 2 != b // 2),
    ),
    "six_state": Scheme(
        ("Z", "X", "X", "Y", "Y", "Z"), ((0, 5), (5, 0), (1, 2), (2, 1), (3, 4), (4, 3)), (3, 4)
    ),
}


def six_state_errors(tests: Table) -> dict[str, tuple[int, int]]:
    """Errors and pairs, by the name of the basis, of those revealed in the six-state protocol."""
    scheme = SCHEMES["six_state"]
    found: dict[str, tuple[int, int]] = {}
    for a, b in scheme.tests:
        seen, name = tests[a, b], scheme.names[a]
        wrong, n = found.get(name, (0, 0))
        found[name] = wrong + int(seen[0, 1] + seen[1, 0]), n + int(seen.sum())
    return found


def e91_chsh(tests: Table, *, ekert: bool = False) -> ChshValue | None:
    """S of the outcomes revealed in E91; None before each combination was seen.

    Args:
        tests: Counts, int64 (4, 4, 2, 2), as of :meth:`Scheme.count`.
        ekert: Only of Alice's first setting with Bob's second, which are Ekert's a1, a3, b1, b3;
            otherwise of these and of the same with the parties exchanged.
    """
    found = np.array([tests[a, b] for a in (0, 1) for b in (2, 3)])
    if not ekert:
        found += np.array([tests[b, a].T for a in (0, 1) for b in (2, 3)])
    return chsh_value(found) if np.all(found.sum(axis=(1, 2))) else None
