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

    def __str__(self) -> str:
        """To the second digit of the error: ``49,282 ± 70``, ``(3.1 ± 1.2)e-05``."""
        if math.isnan(self.value):
            return "-"
        value, sigma, power = self.value, self.sigma, 0
        if value and abs(value) < 1e-2:
            power = math.floor(math.log10(abs(value)))
            value, sigma = value / 10.0**power, sigma / 10.0**power
        digits = max(0, 1 - math.floor(math.log10(sigma))) if sigma > 0 else 2
        shown = f"{value:,.{digits}f} ± {sigma:,.{digits}f}"
        return f"({shown})e{power:03d}" if power else shown

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
