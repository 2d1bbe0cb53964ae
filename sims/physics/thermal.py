"""First-order thermal settling, exact for any step."""

from __future__ import annotations

import math

__all__ = ["relax"]


def relax(value: float, target: float, time_constant_s: float, dt_s: float) -> float:
    """Solve ``dT/dt = (target - T)/tau`` over ``dt_s`` exactly; independent of the step size."""
    return target + (value - target) * math.exp(-dt_s / time_constant_s)
