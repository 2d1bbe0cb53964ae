"""One composable budget of failure probabilities, spent by every step of a session.

Security parameters of composable proofs add up: Portmann and Renner, Rev. Mod. Phys. 94, 025008
(2022). A session that makes N keys of epsilon each, and whose tags can be forged with probability
d each, is at most N (epsilon + d) away from an ideal one, aborted blocks included. The session
states its total before the data and every step spends from it by name; what would go beyond is
refused, so that the total in the report is a fact and not a sum done afterwards.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from ...instruments import ProtocolError

__all__ = ["EpsilonBudget", "Spent"]


@dataclass(frozen=True, slots=True)
class Spent:
    """What one kind of step has spent.

    Attributes:
        epsilon: Sum over all its steps.
        times: Number of its steps.
    """

    epsilon: float
    times: int


class EpsilonBudget:
    """A total security parameter and who spent how much of it.

    Sums are exact (fractions of the floats given), so that a million blocks do not drift. Memory
    grows with the number of names, not of steps. Not thread-safe.

    Example:
        >>> budget = EpsilonBudget(1e-6)
        >>> budget.spend("secrecy and correctness of a key", 1e-10)
        >>> budget.spend("forged tag", 2e-25, times=2)

    Args:
        total: Distance of all keys of the session together from ideal ones, in (0, 1).

    Raises:
        ValueError: for a total outside (0, 1).
    """

    def __init__(self, total: float) -> None:
        if not 0.0 < total < 1.0:
            raise ValueError(f"a total epsilon of {total} is not in (0, 1)")
        self._total = Fraction(total)
        self._sum = Fraction(0)
        self._parts: dict[str, tuple[Fraction, int]] = {}

    @property
    def total(self) -> float:
        """The budget."""
        return float(self._total)

    @property
    def spent(self) -> float:
        """Sum of what was spent; never above :attr:`total`."""
        return float(self._sum)

    @property
    def remaining(self) -> float:
        """What may still be spent."""
        return float(self._total - self._sum)

    @property
    def parts(self) -> dict[str, Spent]:
        """What was spent, by name, in order of first use."""
        return {name: Spent(float(sum_), times) for name, (sum_, times) in self._parts.items()}

    def allows(self, *epsilons: float) -> bool:
        """Whether all of these could be spent now; spends nothing."""
        return self._sum + sum(map(_checked, epsilons), Fraction(0)) <= self._total

    def spend(self, name: str, epsilon: float, *, times: int = 1) -> None:
        """Spend ``times * epsilon`` under a name; all of it or nothing.

        Spend *before* the step: an epsilon counts whether or not the step succeeds.

        Args:
            name: What can fail, in words, the same for every block.
            epsilon: Bound on the probability (or distance) of one failure, in (0, 1).
            times: Number of such steps.

        Raises:
            ProtocolError: where the budget does not hold that much; nothing is spent then.
            ValueError: for an epsilon outside (0, 1), no name, or fewer than one time.
        """
        if not name:
            raise ValueError("an epsilon needs a name for the report")
        if times < 1:
            raise ValueError(f"{name!r} cannot be spent {times} times")
        cost = _checked(epsilon) * times
        if self._sum + cost > self._total:
            raise ProtocolError(
                f"{name} needs an epsilon of {float(cost):.3g}, and {self.remaining:.3g} of"
                f" {self.total:.3g} is left: end the session, or begin one with a larger total"
            )
        old, count = self._parts.get(name, (Fraction(0), 0))
        self._parts[name] = (old + cost, count + times)
        self._sum += cost

    def as_dict(self) -> dict[str, object]:
        """For the report: total, spent, remaining, and each part with its number of steps."""
        return {
            "total": self.total,
            "spent": self.spent,
            "remaining": self.remaining,
            "parts": {
                name: {"epsilon": part.epsilon, "times": part.times}
                for name, part in self.parts.items()
            },
        }


def _checked(epsilon: float) -> Fraction:
    if not 0.0 < epsilon < 1.0:  # refuses nan as well
        raise ValueError(f"an epsilon of {epsilon} is not in (0, 1)")
    return Fraction(epsilon)
