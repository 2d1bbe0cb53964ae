"""Estimating the error rate from a random sample that leaves the key."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .randomness import Randomness

__all__ = ["Errors", "random_sample", "split_sample"]

Bits = npt.NDArray[np.uint8]
Indices = npt.NDArray[np.int64]


@dataclass(slots=True)
class Errors:
    """Compared bits and the errors among them, by basis (0: Z, 1: X)."""

    compared: tuple[int, int] = (0, 0)
    wrong: tuple[int, int] = (0, 0)

    @classmethod
    def count(cls, mine: Bits, theirs: Bits, bases: Bits) -> Errors:
        """Compare revealed bits, arrays of one shape."""
        wrong = mine != theirs
        x = bases == 1
        return cls(
            (int(np.count_nonzero(~x)), int(np.count_nonzero(x))),
            (int(np.count_nonzero(wrong & ~x)), int(np.count_nonzero(wrong & x))),
        )

    def __add__(self, other: Errors) -> Errors:
        return Errors(
            (self.compared[0] + other.compared[0], self.compared[1] + other.compared[1]),
            (self.wrong[0] + other.wrong[0], self.wrong[1] + other.wrong[1]),
        )

    def qber(self, basis: int | None = None) -> float | None:
        """Error rate in a basis (0: Z, 1: X), or of all; None where nothing was compared."""
        compared = sum(self.compared) if basis is None else self.compared[basis]
        wrong = sum(self.wrong) if basis is None else self.wrong[basis]
        return wrong / compared if compared else None


def random_sample(m: int, k: int, randomness: Randomness) -> Indices:
    """A uniformly random subset of ``k`` out of ``m`` positions, sorted.

    Each position draws a 64-bit word and the ``k`` smallest win; ties are drawn again, so that
    the subset is exactly uniform.
    """
    for attempt in range(100):
        words = randomness.words("sample", attempt * m, m)
        order = np.argsort(words)
        if not np.any(np.diff(words[order]) == 0):
            return np.sort(order[:k]).astype(np.int64)
    raise RuntimeError("the random source repeats itself: 64-bit words collided 100 times")


def split_sample(bits: Bits, positions: Indices) -> tuple[Bits, Bits]:
    """Bits of the sample, and the others in their order."""
    keep = np.ones(bits.size, dtype=np.bool_)
    keep[positions] = False
    return bits[positions], bits[keep]
