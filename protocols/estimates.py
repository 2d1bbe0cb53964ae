"""A number with its standard error."""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["Estimate", "counted", "counted_sigma", "fraction"]


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


def counted(count: int, per: float) -> Estimate:
    """A count over a time, or over what else it is measured in; nan where that is 0."""
    if not per:
        return Estimate(math.nan, math.nan)
    return Estimate(count / per, counted_sigma(count) / per, count)


def counted_sigma(*variances: float) -> float:
    """Root of a sum of counts; at least 1, as of one count that might have come."""
    return math.sqrt(max(sum(variances), 1.0))


def fraction(count: int, trials: int) -> Estimate:
    """Binomial share; its error never vanishes (Agresti and Coull, Am. Stat. 52, 119, 1998)."""
    if not trials:
        return Estimate(math.nan, math.nan)
    near = (count + 1) / (trials + 2)
    return Estimate(count / trials, math.sqrt(near * (1 - near) / trials))
