"""Single-photon avalanche diodes: closed forms of what they count.

Their clicks are made one by one (:mod:`bellbench.sims.physics.clicks`); these forms say how many
there have to be.
"""

from __future__ import annotations

import math

__all__ = ["afterpulse_share", "counted_rate_hz"]


def counted_rate_hz(rate_hz: float, dead_time_s: float, *, extending: bool = False) -> float:
    """Return what a detector counts of Poisson light that it would detect at ``rate_hz``, Hz.

    Non-extending dead time (active quenching): ``m = n/(1 + n t_d)``. Extending (passive: what
    falls into the dead time prolongs it): ``m = n exp(-n t_d)``. Knoll, Radiation Detection and
    Measurement, sec. 4.VII.
    """
    if extending:
        return rate_hz * math.exp(-rate_hz * dead_time_s)
    return rate_hz / (1 + rate_hz * dead_time_s)


def afterpulse_share(afterpulse: float, afterpulse_time_s: float, dead_time_s: float) -> float:
    """Return the afterpulses per click, later ones of afterpulses included, at low rates.

    A click leaves a trapped carrier with probability p_ap, freed after an exponential time t_ap;
    in the dead time it does nothing. So ``q = p_ap exp(-t_d/t_ap)`` clicks follow at first hand,
    ``q/(1 - q)`` in all.
    """
    first = afterpulse * math.exp(-dead_time_s / afterpulse_time_s) if afterpulse else 0.0
    return first / (1 - first)
