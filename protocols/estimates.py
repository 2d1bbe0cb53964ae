"""A number with its standard error."""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["Estimate"]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number with its standard error, from ``n`` events; nan where there was none.

    Products and ratios take the errors as independent, to first order.
    """

    value: float
    sigma: float
    n: int = 0

    def __mul__(self, other: Estimate | float) -> Estimate:
        if not isinstance(other, Estimate):
            return Estimate(self.value * other, self.sigma * abs(other), self.n)
        sigma = math.hypot(self.value * other.sigma, self.sigma * other.value)
        return Estimate(self.value * other.value, sigma, min(self.n, other.n))

    def __truediv__(self, other: Estimate) -> Estimate:
        """Ratio; nan unless the other is above 0."""
        if not other.value > 0:
            return Estimate(math.nan, math.nan)
        value = self.value / other.value
        sigma = math.hypot(self.sigma, value * other.sigma) / other.value
        return Estimate(value, sigma, min(self.n, other.n))
