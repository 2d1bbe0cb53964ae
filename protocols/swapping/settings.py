"""Analyzer settings by name, and the paddle angles that make them.

Directions are unit vectors (S1, S2, S3) on the Poincare sphere: H and V lie along +-S1, D and A
along +-S2, circular polarization along +-S3. In Pauli operators they are Z, X and Y.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["SETTINGS", "Analyzer", "Setting", "paddle_angles"]

Stokes = tuple[float, float, float]
Quaternion = tuple[float, float, float, float]  # scalar, then along S1, S2, S3; of unit length

_Z: Stokes = (1.0, 0.0, 0.0)
_X: Stokes = (0.0, 1.0, 0.0)
_Y: Stokes = (0.0, 0.0, 1.0)


@dataclass(frozen=True)
class Analyzer:
    """What an analyzer with its paddles measures.

    Attributes:
        hv: Direction that its H output stands for; V is opposite.
        da: Direction that its D output stands for, orthogonal to ``hv``; A is opposite.
    """

    hv: Stokes
    da: Stokes

    @property
    def turn(self) -> npt.NDArray[np.float64]:
        """Rotation (3, 3) of the sphere that brings ``hv`` to S1 and ``da`` to S2."""
        rows = np.array([self.hv, self.da, np.cross(self.hv, self.da)], np.float64)
        if not np.allclose(rows @ rows.T, np.eye(3), atol=1e-9):
            raise ValueError(f"{self.hv} and {self.da} are not orthogonal unit vectors")
        return rows


@dataclass(frozen=True)
class Setting:
    """Analyzers of both ends."""

    alice: Analyzer
    bob: Analyzer

    @property
    def directions(self) -> npt.NDArray[np.float64]:
        """float64 (2, 2, 3): end, basis (H/V, D/A), direction."""
        return np.array([[end.hv, end.da] for end in (self.alice, self.bob)])


_HOME = Analyzer(_Z, _X)
_HALF = math.sqrt(0.5)

#: ``ZX``: both at home. ``CHSH``: bob's linear bases turned by 22.5 deg, half way between alice's.
#: ``Y``: both measure circular polarization with their H/V outputs.
SETTINGS = {
    "ZX": Setting(_HOME, _HOME),
    "CHSH": Setting(_HOME, Analyzer((_HALF, _HALF, 0.0), (-_HALF, _HALF, 0.0))),
    "Y": Setting(Analyzer(_Y, _X), Analyzer(_Y, _X)),
}

_ENOUGH = 1e-9  # 1 - |overlap| of rotations that counts as reached
_STARTS = 30
_FOUND = 4  # solutions to choose the nearest of; there are few


def paddle_angles(
    analyzer: Analyzer,
    home_deg: Sequence[float],
    *,
    retardances_deg: Sequence[float] = (90.0, 180.0, 90.0),
    limits_deg: tuple[float, float] = (0.0, 170.0),
) -> tuple[float, ...]:
    """Return paddle angles that turn an analyzer's bases, as near to home as can be.

    At home the paddles undo the fibre, so that the H output stands for H. The angles found do that
    and then the turn. They follow from the retardances alone: a paddle that differs from its
    nominal one turns to something else.

    Args:
        analyzer: What is to be measured.
        home_deg: Angle of each paddle at home, in the order in which light passes.
        retardances_deg: Retardance of each paddle.
        limits_deg: Range of the angles.

    Raises:
        ValueError: where no angles within the limits make this turn.
    """
    from scipy.optimize import least_squares

    low, high = limits_deg
    if len(home_deg) != len(retardances_deg):
        raise ValueError(f"{len(home_deg)} angles for {len(retardances_deg)} paddles")
    at_home = _paddles(retardances_deg, home_deg)
    wanted = _times(_quaternion(analyzer.turn), at_home)
    if 1 - abs(_overlap(at_home, wanted)) < _ENOUGH:
        return tuple(home_deg)

    def miss(angles: npt.NDArray[np.float64]) -> list[float]:
        made = _paddles(retardances_deg, angles.tolist())
        sign = math.copysign(1.0, _overlap(made, wanted))  # both are the same rotation
        return [sign * x - y for x, y in zip(made, wanted, strict=True)]

    # A fixed set of starts: the same angles on every run.
    random = np.random.default_rng(0)
    start = np.asarray(home_deg, np.float64)
    found: list[tuple[float, ...]] = []
    for _ in range(_STARTS):
        begin = np.clip(start, low + 1e-3, high - 1e-3)
        angles = tuple(least_squares(miss, begin, bounds=(low, high), x_scale=50.0).x.tolist())
        if 1 - abs(_overlap(_paddles(retardances_deg, angles), wanted)) < _ENOUGH:
            found.append(angles)
        if len(found) == _FOUND:
            break
        start = random.uniform(low, high, start.size)
    if not found:
        raise ValueError(
            f"no paddle angles from {low:g} to {high:g} deg with retardances"
            f" {', '.join(f'{r:g}' for r in retardances_deg)} deg make this turn"
        )
    return min(found, key=lambda angles: _far(angles, home_deg))


def _far(angles: Sequence[float], home: Sequence[float]) -> float:
    return max(abs(a - b) for a, b in zip(angles, home, strict=True))


def _overlap(a: Quaternion, b: Quaternion) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def _paddles(retardances_deg: Sequence[float], angles_deg: Sequence[float]) -> Quaternion:
    """Linear retarders passed in this order."""
    made: Quaternion = (1.0, 0.0, 0.0, 0.0)
    for retardance, angle in zip(retardances_deg, angles_deg, strict=True):
        half, twice = math.radians(retardance) / 2, 2 * math.radians(angle)
        s = math.sin(half)
        made = _times((math.cos(half), s * math.cos(twice), s * math.sin(twice), 0.0), made)
    return made


def _times(a: Quaternion, b: Quaternion) -> Quaternion:
    """Rotation ``b`` followed by ``a``."""
    return (
        a[0] * b[0] - a[1] * b[1] - a[2] * b[2] - a[3] * b[3],
        a[0] * b[1] + a[1] * b[0] + a[2] * b[3] - a[3] * b[2],
        a[0] * b[2] + a[2] * b[0] + a[3] * b[1] - a[1] * b[3],
        a[0] * b[3] + a[3] * b[0] + a[1] * b[2] - a[2] * b[1],
    )


def _quaternion(turn: npt.NDArray[np.float64]) -> Quaternion:
    """Unit quaternion of a rotation matrix."""
    from scipy.spatial.transform import Rotation

    x, y, z, w = Rotation.from_matrix(turn).as_quat().tolist()
    return (w, x, y, z)
