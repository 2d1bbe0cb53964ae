"""What the bases of a protocol on entangled pairs are for: a key, a test, or nothing.

An analyzer has two outputs of one basis (here Z) and two of another (X), and may be turned between
a few settings, which gives it more bases than two. :class:`.bbm92.Pairing` sifts by such a table.

- ``bbm92`` (Bennett, Brassard and Mermin, PRL 68, 557 (1992)): two bases, equal ones make key.
- ``e91``: two settings, turned against each other by 22.5 deg: directions 0 and 45, 22.5 and 67.5
  deg. Equal bases make key, and all four correlations of different settings make S. Ekert's three
  directions for each party, 0, 22.5, 45 and 22.5, 45, 67.5 deg (PRL 67, 661 (1991)), are among
  these, and his S is that of Alice's first setting with Bob's second.
- ``six_state`` (Bruss, PRL 81, 3018 (1998)): Z at every setting, X at the first, Y (circular) at
  the second. Z makes key, X and Y are compared.

The bases of a setting are mutually unbiased, whatever the setting: turning an analyzer turns both.
A setting must be drawn at random, and is told only after what was measured with it was paired.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

__all__ = ["SCHEMES", "Scheme", "SchemeName"]

Bits = npt.NDArray[np.uint8]
Table = npt.NDArray[np.int64]

SchemeName = Literal["bbm92", "e91", "six_state"]

_NONE, _KEY, _TEST = 0, 1, 2


@dataclass(frozen=True, eq=False)
class Scheme:
    """A protocol's table.

    Attributes:
        settings: For each setting of an analyzer the numbers of the bases that its outputs of Z
            and of X stand for.
        key: Bases that make key where both parties have measured the same.
        tests: Pairs of bases (Alice's, Bob's) whose outcomes both reveal.
        opposite: Bases in which the pairs' outcomes are opposite; Bob flips his.
    """

    settings: tuple[tuple[int, int], ...]
    key: tuple[int, ...]
    tests: tuple[tuple[int, int], ...] = ()
    opposite: tuple[int, ...] = ()

    @property
    def bases(self) -> int:
        """How many bases there are."""
        return 1 + max(basis for bases in self.settings for basis in bases)

    @property
    def turns(self) -> bool:
        """Whether analyzers have more than one setting."""
        return len(self.settings) > 1

    def planes(self, bases: Bits) -> Bits:
        """Numbers of bases as bits to be told: the highest of each, then the next ones."""
        shifts = reversed(range((self.bases - 1).bit_length()))
        return np.concatenate([(bases >> np.uint8(shift)) & np.uint8(1) for shift in shifts])

    def numbers(self, planes: Bits, count: int) -> Bits | None:
        """The inverse of :meth:`planes`; None where these are not ``count`` numbers of bases."""
        width = (self.bases - 1).bit_length()
        if planes.size != width * count:
            return None
        found = np.zeros(count, np.uint8)
        for plane in planes.reshape(width, count):
            found = found << np.uint8(1) | plane
        return None if count and int(found.max()) >= self.bases else found

    def sort(self, alice: Bits, bob: Bits) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
        """Which pairs make key, and which are tests, by the bases of both parties.

        Bases beyond the last (blind events) are good for nothing.
        """
        use = np.zeros((self.bases + 1, self.bases + 1), np.uint8)
        for basis in self.key:
            use[basis, basis] = _KEY
        for a, b in self.tests:
            use[a, b] = _TEST
        last = np.uint8(self.bases)
        cells = np.minimum(alice, last) * (last + np.uint8(1)) + np.minimum(bob, last)
        found = use.reshape(-1)[cells]
        return found == _KEY, found == _TEST

    def count(self, alice: Bits, bits_a: Bits, bob: Bits, bits_b: Bits) -> Table:
        """Count revealed outcomes: int64, Alice's basis, Bob's, her outcome, his."""
        n = self.bases
        cells = ((alice.astype(np.int64) * n + bob) * 2 + bits_a) * 2 + bits_b
        return np.bincount(cells, minlength=4 * n * n).reshape(n, n, 2, 2).astype(np.int64)

    def no_counts(self) -> Table:
        """No outcome revealed."""
        return np.zeros((self.bases, self.bases, 2, 2), np.int64)


SCHEMES: dict[SchemeName, Scheme] = {
    "bbm92": Scheme(((0, 1),), (0, 1)),
    "e91": Scheme(
        ((0, 1), (2, 3)),
        (0, 1, 2, 3),
        tuple((a, b) for a in range(4) for b in range(4) if a // 2 != b // 2),
    ),
    "six_state": Scheme(((0, 1), (0, 2)), (0,), ((1, 1), (2, 2)), opposite=(2,)),
}
