"""Estimating the error rate from a random sample that leaves the key."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .randomness import Randomness

__all__ = ["ErrorHistory", "Errors", "random_sample", "split_sample"]

Bits = npt.NDArray[np.uint8]
Indices = npt.NDArray[np.int64]

#: Stretches in which revealed bits are counted, in ps, and how many of them are remembered.
_STRETCH = 10**11
_REMEMBERED = 100_000


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


class ErrorHistory:
    """Errors of revealed bits over time: of those monitored, and of the samples.

    Both parties hold the same history, and it is public: the times were announced for every
    event, the bits were revealed. Only the last 100 000 stretches of 0.1 s are kept (2.8 hours).
    """

    def __init__(self) -> None:
        self._found: dict[int, Errors] = {}

    def add(self, mine: Bits, theirs: Bits, bases: Bits, times_ps: Indices) -> Errors:
        """Count the errors among revealed bits, sorted by their announced times, and note them."""
        stretches, starts = np.unique(times_ps // _STRETCH, return_index=True)
        pieces = itertools.pairwise([*starts.tolist(), mine.size])
        for stretch, (begin, end) in zip(stretches.tolist(), pieces, strict=True):
            errors = Errors.count(mine[begin:end], theirs[begin:end], bases[begin:end])
            self._found[stretch] = self._found.get(stretch, Errors()) + errors
        if len(self._found) > _REMEMBERED:
            for stretch in sorted(self._found)[:-_REMEMBERED]:
                del self._found[stretch]
        return Errors.count(mine, theirs, bases)

    def entries(self) -> list[tuple[float, Errors]]:
        """Middle of each stretch in s, by the announced times, and the bits revealed of it."""
        return [
            ((stretch + 0.5) * _STRETCH * 1e-12, errors)
            for stretch, errors in sorted(self._found.items())
        ]

    def between(self, begin_s: float, end_s: float) -> Errors:
        """Errors in the stretches that lie within a time."""
        first = math.ceil(begin_s * 1e12 / _STRETCH - 1e-6)
        last = math.floor(end_s * 1e12 / _STRETCH + 1e-6)
        found = (self._found.get(stretch) for stretch in range(first, last))
        return sum((errors for errors in found if errors is not None), Errors())


def random_sample(m: int, k: int, randomness: Randomness, purpose: str = "sample") -> Indices:
    """A uniformly random subset of ``k`` out of ``m`` positions, sorted.

    Each position draws a 64-bit word and the ``k`` smallest win; ties are drawn again, so that
    the subset is exactly uniform.
    """
    for attempt in range(100):
        words = randomness.words(purpose, attempt * m, m)
        order = np.argsort(words)
        if not np.any(np.diff(words[order]) == 0):
            return np.sort(order[:k]).astype(np.int64)
    raise RuntimeError("the random source repeats itself: 64-bit words collided 100 times")


def split_sample(bits: Bits, positions: Indices) -> tuple[Bits, Bits]:
    """Bits of the sample, and the others in their order."""
    keep = np.ones(bits.size, dtype=np.bool_)
    keep[positions] = False
    return bits[positions], bits[keep]
