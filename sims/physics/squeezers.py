"""Fibre under strain: the loops of a paddle, and piezo squeezers with hysteresis and creep.

A squeezer makes fibre birefringent along its own axis, ``phi = pi V / V_pi``; squeezers at 0 and
45 degrees in turn rotate the Poincare sphere about S1 and S2 in turn. The piezo follows its voltage
with hysteresis, a Prandtl-Ishlinskii operator, and then creeps; Kuhnen and Krejci put both in
series (Kuhnen, European J. Control 9, 407 (2003)).
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

__all__ = ["Creep", "Hysteresis", "loop_retardance_deg"]

Real = npt.NDArray[np.float64]

#: Elasto-optic factor of bent silica fibre: delta n = a (r/R)^2.
_SILICA = 0.133
_PLAYS = 10
_CREEP_FROM_S = 0.1
_PER_DECADE = 3
_DECADES = 7


def loop_retardance_deg(
    turns: int, loop_diameter_m: float, wavelength_m: float, cladding_m: float = 125e-6
) -> float:
    """Return the retardance of fibre wound into loops, degrees.

    ``phi = 2 pi^2 a N d^2 / (lambda D)`` with a = 0.133 for silica (Lefevre, Electron. Lett. 16,
    778 (1980): delta n = a (r/R)^2 over the length N 2 pi R; so in Thorlabs' manuals of paddles).
    """
    phi = 2 * math.pi**2 * _SILICA * turns * cladding_m**2 / (wavelength_m * loop_diameter_m)
    return math.degrees(phi)


class Hysteresis:
    """Prandtl-Ishlinskii operator: a weighted sum of plays ``p = max(u-r, min(u+r, p_before))``.

    The output is ``w_0 u + w sum_i p_i`` with ten thresholds r_i, equal steps up to half the
    largest drive. The weights follow from what is measured on a piezo: a sweep from one end to the
    other gives an output of the same stroke, and in its middle the branch up lies ``width`` of that
    stroke below the branch down. It depends on the drives in their order, not on time. Loops of
    small strokes are narrower and flatter; within the smallest threshold nothing is left but the
    slope ``w_0 = 1 - 2.6 width``.

    Args:
        width: Width of the loop at full stroke over the stroke, 0 to 0.3; piezos have 0.05 to 0.15.
        largest: Largest drive to either side.
        stages: How many are driven, each with a memory of its own.

    Attributes:
        drives: Drive of each stage, shape (stages,).
        plays: Where the plays of each stage are, shape (stages, 10).
    """

    def __init__(self, width: float, largest: float, stages: int) -> None:
        if not 0 <= width <= 0.3:
            raise ValueError(f"the loop cannot be {width:g} of the stroke: 0 to 0.3 is modelled")
        self._thresholds: Real = largest / 2 * np.arange(1, _PLAYS + 1) / _PLAYS
        # Half the loop is w sum(r) = width * largest; the full stroke keeps its length:
        # (w_0 + n w) largest - w sum(r) = largest.
        self._weight = width * largest / float(self._thresholds.sum())
        self._direct = 1 + width - _PLAYS * self._weight
        self.drives: Real = np.zeros(stages)
        self.plays: Real = np.zeros((stages, _PLAYS))

    @property
    def output(self) -> Real:
        """Output of each stage, in the unit of the drive, shape (stages,)."""
        found: Real = self._direct * self.drives + self._weight * self.plays.sum(axis=1)
        return found

    def drive(self, stage: int, value: float) -> None:
        """Bring one stage's drive to ``value``, on a straight way from where it was."""
        self.drives[stage] = value
        plays = self.plays[stage]
        np.clip(plays, value - self._thresholds, value + self._thresholds, out=plays)


class Creep:
    """What a piezo goes on to do after a step: ``y(t) = y_0 (1 + g log10(t / 0.1 s))``.

    Made of relaxations with time constants on a logarithmic grid, three per decade from 0.1 s over
    seven decades (Kuhnen and Janocha's creep operator), so that any history of drives is followed,
    and, since each relaxation is solved exactly for a drive that stands still, without regard to
    the length of the steps. Below 0.1 s it hardly creeps, after days it has come to rest.

    Args:
        per_decade: g, the share of the step that a decade in time adds; 0.01 to 0.05.
        stages: How many creep.

    Attributes:
        relaxed: Where the relaxations of each stage are, shape (stages, 21).
    """

    def __init__(self, per_decade: float, stages: int) -> None:
        self._gain = per_decade / _PER_DECADE
        # Relaxations from t_0 on sum to log10(t e^gamma / t_0) per decade, gamma being Euler's.
        edge = _CREEP_FROM_S * math.exp(np.euler_gamma)
        grid = (np.arange(_PER_DECADE * _DECADES) + 0.5) / _PER_DECADE
        self._times: Real = edge * 10**grid
        self.relaxed: Real = np.zeros((stages, self._times.size))

    def step(self, drives: npt.ArrayLike, seconds: float) -> None:
        """Let ``seconds`` pass with the drives, shape (stages,), standing still."""
        share = -np.expm1(-seconds / self._times)
        self.relaxed += (np.asarray(drives)[:, None] - self.relaxed) * share

    def output(self, drives: npt.ArrayLike) -> Real:
        """Return where the stages are, driven like this now, shape (stages,)."""
        found: Real = np.asarray(drives) + self._gain * self.relaxed.sum(axis=1)
        return found
