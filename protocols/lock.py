"""Polarization lock: holds a link's QBER at its minimum by the errors of its revealed bits.

A state machine without I/O. Tell it the time and whether the actuators rest
(:meth:`PolarizationLock.advance`), feed it the bits that the parties have revealed anyway, counted
per basis and stretch of time (:meth:`PolarizationLock.add`); take set points out.

**What is held.** Unfold the link at the source: B's analyzer, B's paddles, the fibres with the
source between them, A's paddles, A's analyzer are one chain of rotations of the Poincare sphere,
``R = b3 b2 b1 F a1 a2 a3``. Two unbiased bases see two of its diagonal elements,
``QBER = 1/2 - V (R_11 + R_22)/4`` on average; one basis alone would leave a free rotation. A
linear function of a rotation has no minimum but the least one, so going down is enough.

**How.** For rotations by ``x`` about any fixed axis, ``QBER = m - A cos(x - x0)``. The axes take
turns. Near the optimum ``A`` is known (V/4 about S1 and S2, V/2 about S3), and two settings
``x = -d, +d`` give ``sin x0 = (QBER(-d) - QBER(d))/(2 A sin d)`` without knowing ``m``; far from it
three settings 120 degrees apart give all. Nothing needs to be known of the fibres.

**Paddles.** Which angles make a rotation follows from the nominal retardances alone: of the
settings that do, the nearest is taken, pulled away from the ends of the range. What the retardances
are off by, and a fibre between paddles and analyzer, turn and stretch the axes a little; the loop
closes over it.

**Speed** is set by counting noise: with n bits at each setting, ``x0`` is known to
``QBER/(4 n A^2 d^2)`` (variance), which costs ``QBER/(8 n A d^2)``. Dithering costs ``A d^2/2``,
``dither`` in the settings. At ``n = 1.25/dither`` bits noise costs a tenth of the QBER about each
axis, so that many are waited for.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from ..instruments import Limits

__all__ = ["LockSettings", "LockState", "PolarizationLock", "Station"]

Real = npt.NDArray[np.float64]
#: One angle per actuator, per station.
SetPoints = tuple[tuple[float, ...], ...]

_AXES: Real = np.eye(3)
#: A over V of the module's docstring, about S1, S2, S3.
_AMPLITUDES = (0.25, 0.25, 0.5)
#: Of a correction found, the part that is applied: stable up to twice the amplitude assumed.
_GAIN = 0.5
_LARGEST = 0.5  # rad; a correction in one go
_WIDE = 2 * math.pi / 3
_MARGIN_DEG = 1.0  # kept from the ends, for readings that round
_CENTRING = 0.02  # part of the way to the centre of the range, where nothing else is moved


class LockState(StrEnum):
    """How the lock stands."""

    IDLE = "idle"
    """Not enough bits are revealed; nothing moves."""
    DITHERING = "dithering"
    """On its way down."""
    LOCKED = "locked"
    """The QBER of the last turn was good."""
    LOST = "lost"
    """The QBER is bad; it searches widely."""


@dataclass(frozen=True)
class Station:
    """Paddles of one party, in the order in which light passes them.

    Attributes:
        retardances_deg: Nominal retardance of each paddle.
        limits: Range of each paddle's angle, deg.
        angles_deg: Where they stand.
    """

    retardances_deg: tuple[float, ...]
    limits: tuple[Limits, ...]
    angles_deg: tuple[float, ...]

    def __post_init__(self) -> None:
        if not len(self.retardances_deg) == len(self.limits) == len(self.angles_deg):
            raise ValueError(
                f"{len(self.retardances_deg)} retardances, {len(self.limits)} limits and"
                f" {len(self.angles_deg)} angles do not describe the same paddles"
            )
        for angle, limits in zip(self.angles_deg, self.limits, strict=True):
            if limits.high - limits.low <= 2 * _MARGIN_DEG:
                raise ValueError(f"{limits.low:g} to {limits.high:g} deg is no range to work in")
            if angle not in limits:
                raise ValueError(f"{angle:g} is outside {limits.low:g} to {limits.high:g} deg")


@dataclass(frozen=True)
class LockSettings:
    """What the lock aims at.

    Attributes:
        good: QBER up to which it calls itself locked.
        lost: QBER above which it searches widely.
        dither: QBER that dithering may add.
        patience_s: Longest wait for the bits of one setting; then it idles.
    """

    good: float = 0.04
    lost: float = 0.15
    dither: float = 0.002
    patience_s: float = 60.0

    def __post_init__(self) -> None:
        if not 0 < self.good <= self.lost < 0.5:
            raise ValueError("good and lost must be QBERs, 0 < good <= lost < 0.5")
        if not 0 < self.dither < 0.1:
            raise ValueError("dither must be above 0 and below 0.1")
        if not self.patience_s > 0:
            raise ValueError("patience_s must be above 0")

    @property
    def bits(self) -> int:
        """Revealed bits waited for at each setting."""
        return math.ceil(1.25 / self.dither)


@dataclass(frozen=True)
class _Setting:
    """A rotation off what is thought to be the optimum, and who may move to make it."""

    rotation: Real
    stations: tuple[int, ...]
    bits: int


_Course = Generator[_Setting, float, None]


@dataclass
class _Counts:
    compared: list[int] = field(default_factory=lambda: [0, 0])
    wrong: list[int] = field(default_factory=lambda: [0, 0])

    def qber(self) -> float:
        """Mean of both bases: they count alike, however many bits of each there are."""
        return sum(w / n for w, n in zip(self.wrong, self.compared, strict=True)) / 2


class PolarizationLock:
    """Holds the polarization of a link between two parties, either or both with paddles.

    Args:
        stations: Alice's paddles and Bob's; a party without any has an empty one.
        settings: What to aim at.

    Attributes:
        state: How it stands.
        reason: Why it idles or is lost; else empty.
        qber: Mean QBER of both bases in the last full turn over the axes; nan before.
        moves: Set points given out.

    Raises:
        ValueError: for fewer than three paddles, which cannot make every rotation.
    """

    def __init__(
        self, stations: tuple[Station, Station], settings: LockSettings | None = None
    ) -> None:
        self.settings = settings or LockSettings()
        self._chain = _Chain(stations)
        self.state = LockState.IDLE
        self.reason = "no bits were revealed yet"
        self.qber = math.nan
        self.moves = 0
        self._counts = _Counts()
        self._since: float | None = None  # bits count from here: the actuators rest
        self._until = -math.inf
        self._course: _Course = self._run()
        self._setting = next(self._course)

    @property
    def set_points(self) -> SetPoints:
        """Where the actuators should be, deg."""
        return self._chain.set_points()

    def add(
        self, begin_s: float, end_s: float, compared: Sequence[int], wrong: Sequence[int]
    ) -> None:
        """Take bits revealed of one stretch of time, in the order of time.

        Those not wholly of the time since the actuators came to rest are left out.

        Args:
            begin_s: Begin of the stretch, on the clock of :meth:`advance`.
            end_s: Its end.
            compared: Bits compared in Z and in X.
            wrong: Errors among them.

        Raises:
            ValueError: for counts that are none, or a stretch taken before.
        """
        if not begin_s <= end_s or begin_s < self._until:
            raise ValueError(f"a stretch from {begin_s:g} to {end_s:g} s is out of order")
        pairs = list(zip(compared, wrong, strict=True))
        if len(pairs) != 2 or not all(0 <= w <= n for n, w in pairs):
            raise ValueError(f"{wrong} of {compared} are no errors among bits of two bases")
        self._until = end_s
        if self._since is None or begin_s < self._since:
            return
        for i, (n, w) in enumerate(pairs):
            self._counts.compared[i] += n
            self._counts.wrong[i] += w

    def advance(self, now_s: float, resting: bool) -> SetPoints | None:
        """Go on as far as the bits allow.

        Args:
            now_s: The time.
            resting: Whether no actuator moves.

        Returns:
            New set points, per station one per actuator, deg; None where nothing is to move.
        """
        if not resting or self._since is None:
            self._since = now_s if resting else None
            self._counts = _Counts()
            return None
        compared = self._counts.compared
        if sum(compared) < self._setting.bits or min(compared) < self._setting.bits // 8:
            if now_s - self._since > self.settings.patience_s:
                self._idle(sum(compared))
                self._since, self._counts = now_s, _Counts()
            return None
        if self.state is LockState.IDLE:
            self.state, self.reason = LockState.DITHERING, ""
        self._setting = self._course.send(self._counts.qber())
        self._since, self._counts = None, _Counts()
        self._chain.turn(self._setting.rotation, self._setting.stations)
        self.moves += 1
        return self.set_points

    def _idle(self, seen: int) -> None:
        self.state = LockState.IDLE
        self.reason = (
            f"{seen} bits were revealed in {self.settings.patience_s:g} s, of both bases together;"
            f" {self._setting.bits} are needed to see an error: is there light, is"
            " monitor_fraction too small?"
        )

    # -- what it does, one setting after another

    def _run(self) -> _Course:
        while True:
            qber = yield from self._track()
            if qber > self.settings.lost:
                yield from self._search()

    def _track(self) -> Generator[_Setting, float, float]:
        """One turn over the axes with small settings; returns the mean QBER seen."""
        seen = []
        for axis, amplitude in zip(_AXES, _AMPLITUDES, strict=True):
            d = math.sqrt(2 * self.settings.dither / amplitude)
            low, high = (yield self._at(-d * axis)), (yield self._at(d * axis))
            seen += [low, high]
            sine = (low - high) / (2 * amplitude * math.sin(d))
            found = math.asin(min(max(sine, -1.0), 1.0))
            self._chain.shift(min(max(_GAIN * found, -_LARGEST), _LARGEST) * axis)
        self.qber = sum(seen) / len(seen)
        self.state = LockState.LOCKED if self.qber <= self.settings.good else LockState.DITHERING
        return self.qber

    def _search(self) -> _Course:
        """Turn about the axes by thirds of a circle until the QBER is no longer bad."""
        self.state = LockState.LOST
        for turn in range(1, 1 << 62):
            self.reason = f"the QBER was {100 * self.qber:.1f} %; search, turn {turn}"
            for axis in _AXES:
                angles = (-_WIDE, 0.0, _WIDE)
                # By one party alone: both together are one rotation near the optimum only.
                found = []
                for x in angles:
                    found.append((yield self._at(x * axis, alone=True)))
                real = sum(q * math.cos(x) for q, x in zip(found, angles, strict=True))
                imag = sum(q * math.sin(x) for q, x in zip(found, angles, strict=True))
                self._chain.shift(math.atan2(-imag, -real) * axis)
            self.qber = yield self._at(np.zeros(3), alone=True)
            if self.qber <= self.settings.lost:
                break
        self.state, self.reason = LockState.DITHERING, ""

    def _at(self, rotation: Real, *, alone: bool = False) -> _Setting:
        bits = self.settings.bits
        if alone:
            return _Setting(rotation, self._chain.strongest, bits // 4)
        return _Setting(rotation, self._chain.all, bits)


class _Chain:
    """The unfolded link, ``R(angles) F``: which angles make which rotation.

    Holds the fibres' rotation as it is believed to be, and the angles asked for.
    """

    def __init__(self, stations: tuple[Station, Station]) -> None:
        alice, bob = stations
        if len(alice.angles_deg) + len(bob.angles_deg) < 3:
            raise ValueError("fewer than three paddles cannot make every rotation")
        self._alice = len(alice.angles_deg)
        # In the order of the product: Bob's last paddle first, Alice's last paddle last.
        order = [(bob, i) for i in reversed(range(len(bob.angles_deg)))]
        order += [(alice, i) for i in range(self._alice)]
        self._phi = np.radians([s.retardances_deg[i] for s, i in order])
        self._angles = np.radians([s.angles_deg[i] for s, i in order])
        low = np.array([s.limits[i].low + _MARGIN_DEG for s, i in order])
        high = np.array([s.limits[i].high - _MARGIN_DEG for s, i in order])
        self._low, self._high = np.radians(low), np.radians(high)
        self._bobs = len(bob.angles_deg)
        before, behind = self._products(self._angles)
        self._fibres: Real = before.T @ behind.T  # the whole chain is thought to be in order
        self.all = tuple(k for k, n in enumerate((self._alice, self._bobs)) if n)
        self.strongest = (1,) if self._bobs >= 3 else (0,) if self._alice >= 3 else self.all

    def set_points(self) -> SetPoints:
        degrees = np.degrees(self._angles).tolist()
        bob, alice = degrees[: self._bobs], degrees[self._bobs :]
        return tuple(alice), tuple(reversed(bob))

    def shift(self, rotation: Real) -> None:
        """Believe that the optimum lies at ``rotation`` from where it was thought to be."""
        before, _ = self._products(self._angles)
        # F' so that before F' behind = turn(-rotation) before F behind
        self._fibres = before.T @ _turn(-rotation) @ before @ self._fibres

    def turn(self, rotation: Real, stations: tuple[int, ...]) -> None:
        """Set the angles so that the chain makes ``rotation``, as near as it goes.

        Gauss-Newton steps of least motion within the range; what they leave free goes a little
        towards the centre of the range.
        """
        free = np.concatenate(
            [np.full(self._bobs, 1 in stations), np.full(self._alice, 0 in stations)]
        )
        wanted = _turn(rotation)
        angles = np.clip(self._angles, self._low, self._high)
        centre = (self._low + self._high) / 2
        best, least = angles, math.inf
        for step in range(40):
            made, jacobian = self._jacobian(angles)
            error = _vector(wanted @ made.T)
            size = float(np.linalg.norm(error))
            if size < least:
                best, least = angles, size
            if size < 1e-6 and step:
                break
            jacobian = np.where(free, jacobian, 0.0)
            # An actuator at its end that would go on is left out.
            for _ in range(angles.size):
                inverse = jacobian.T @ np.linalg.inv(
                    jacobian @ jacobian.T + (1e-6 + 0.01 * size) * np.eye(3)
                )
                move = inverse @ error
                if not step:
                    away = _CENTRING * (centre - angles) * np.any(jacobian != 0, axis=0)
                    move = move + away - inverse @ (jacobian @ away)
                stuck = ((angles + move > self._high) & (angles >= self._high - 1e-9)) | (
                    (angles + move < self._low) & (angles <= self._low + 1e-9)
                )
                stuck &= np.any(jacobian != 0, axis=0)
                if not stuck.any():
                    break
                jacobian = np.where(stuck, 0.0, jacobian)
            move *= min(1.0, 0.5 / max(1e-12, float(np.abs(move).max())))
            angles = np.clip(angles + move, self._low, self._high)
        self._angles = best

    def _retarders(self, angles: Real) -> list[Real]:
        return [
            _turn(phi * np.array([math.cos(2 * t), math.sin(2 * t), 0.0]))
            for phi, t in zip(self._phi.tolist(), angles.tolist(), strict=True)
        ]

    def _products(self, angles: Real) -> tuple[Real, Real]:
        """Return what stands before the fibres in the product, and what behind."""
        before, behind = np.eye(3), np.eye(3)
        for i, retarder in enumerate(self._retarders(angles)):
            if i < self._bobs:
                before = before @ retarder
            else:
                behind = behind @ retarder
        return before, behind

    def _jacobian(self, angles: Real) -> tuple[Real, Real]:
        """Return the chain's rotation, and how it turns with each angle, shape (3, n).

        A retarder is ``Z(2t) X Z(-2t)``, so it turns by ``2 (z - R z) dt``, seen from its left.
        """
        z = _AXES[2]
        made: Real = np.eye(3)
        columns = []
        for i, retarder in enumerate(self._retarders(angles)):
            if i == self._bobs:
                made = made @ self._fibres
            columns.append(made @ (2 * (z - retarder @ z)))
            made = made @ retarder
        if self._bobs == len(columns):
            made = made @ self._fibres
        return made, np.array(columns).T


def _turn(vector: Real) -> Real:
    """Return the rotation about ``vector`` by its length, rad (Rodrigues)."""
    angle = float(np.linalg.norm(vector))
    if angle == 0.0:
        return np.eye(3)
    x, y, z = vector / angle
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    matrix: Real = np.eye(3) + math.sin(angle) * cross + (1 - math.cos(angle)) * cross @ cross
    return matrix


def _vector(matrix: Real) -> Real:
    """Return axis times angle of a rotation, angle up to pi."""
    odd = np.array(
        [matrix[2, 1] - matrix[1, 2], matrix[0, 2] - matrix[2, 0], matrix[1, 0] - matrix[0, 1]]
    )
    sine = float(np.linalg.norm(odd)) / 2
    angle = math.atan2(sine, (float(np.trace(matrix)) - 1) / 2)
    if sine > 1e-9:
        vector: Real = odd * (angle / (2 * sine))
        return vector
    if angle < 1:
        return odd / 2
    # Half a turn: the axis is the column of (R + 1)/2 that is longest.
    columns = (matrix + np.eye(3)) / 2
    axis = columns[:, int(np.argmax(np.diag(columns)))]
    return axis / float(np.linalg.norm(axis)) * angle
