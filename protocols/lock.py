"""Polarization lock: holds a link's QBER at its minimum by the errors of its revealed bits.

A state machine without I/O. Tell it the time and whether the actuators rest
(:meth:`PolarizationLock.advance`), feed it the bits that the parties have revealed anyway, counted
per basis and stretch of time (:meth:`PolarizationLock.add`); take set points out.

**What is held.** Paddles and fibres rotate the Poincare sphere. Two unbiased bases see two diagonal
elements of the rotation R between the analyzers, ``QBER = 1/2 - V (R_11 + R_22)/4`` on average; one
basis alone would leave a free rotation. Over all rotations this has no minimum but the least one,
so going down is enough.

**How.** Turn the paddles of one party so that they rotate by ``x`` more about a fixed axis: then
``QBER = m - A cos(x - x0)``, whatever the fibres do before and behind them. The axes take turns.
Near the optimum ``A`` is known (V/4 about S1 and S2, V/2 about S3, in between about others), and
two settings ``x = -d, +d`` give ``sin x0 = (QBER(-d) - QBER(d))/(2 A sin d)`` without knowing
``m``. Far from it three settings 120 degrees apart give all.

**Paddles.** The angles that make a rotation follow from the nominal retardances. What these are off
by stretches the axes; the loop closes over it. Near an end of the range, or where three paddles
cannot turn every way, the other party's paddles take over; where these cannot either, one party's
go to other angles that make the same rotation.

**Voltages.** Squeezers and liquid crystals have fixed axes and a retardance that follows a voltage,
nominally. What hysteresis and creep make of it the loop closes over: model-free, since a voltage
does not tell the state. Near an end of its range a stage is unwound by a full turn while the others
hold; the rotation stays the same but for hysteresis, and the lock goes on from there.

**Speed** is set by counting noise: n bits at each setting tell ``x0`` with the variance
``QBER/(2 n A^2 d^2)``, which costs a QBER of ``QBER/(4 n A d^2)``. Dithering costs ``A d^2/2``, the
same about all axes: ``dither`` in the settings. ``n = 1.25/dither`` bits are waited for, so that
noise costs a tenth of the QBER about each axis at most.
"""

from __future__ import annotations

import cmath
import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from ..instruments import Limits

__all__ = ["LockSettings", "LockState", "PolarizationLock", "RetarderStation", "Station"]

Real = npt.NDArray[np.float64]
#: One angle (deg) or voltage (V) per actuator, per station.
SetPoints = tuple[tuple[float, ...], ...]

_AXES: Real = np.eye(3)
#: A over V of the module's docstring, about S1, S2, S3.
_AMPLITUDES = (0.25, 0.25, 0.5)
#: Of a correction found, the part that is applied: stable up to twice the amplitude assumed.
_GAIN = 0.5
_LARGEST = 0.5  # rad; a correction in one go
_WIDE = 2 * math.pi / 3
_MARGIN_DEG = 1.0  # kept from the ends, for readings that round
_REACHED = 1e-3  # rad
_FREEDOM = 0.5  # below it the paddles are sent where they can turn better,
_WORTH = 1.5  # by this factor at least: the way there costs errors
_SAME_S = 1e-6  # times are sums of steps


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
class RetarderStation:
    """Retarders of fixed axes of one party, squeezers or liquid crystals, in the light's order.

    Attributes:
        axes_deg: Axis of each retarder.
        curve: Nominal (voltage, retardance in deg) of any of them, joined by straight lines;
            voltages rise, retardances rise or fall. Two points are a line without ends, as of a
            squeezer; else the range ends where the curve does.
        limits: Range of each voltage.
        volts: Where they stand.
    """

    axes_deg: tuple[float, ...]
    curve: tuple[tuple[float, float], ...]
    limits: tuple[Limits, ...]
    volts: tuple[float, ...]

    def __post_init__(self) -> None:
        if not len(self.axes_deg) == len(self.limits) == len(self.volts):
            raise ValueError(
                f"{len(self.axes_deg)} axes, {len(self.limits)} limits and {len(self.volts)}"
                " voltages do not describe the same retarders"
            )
        if len(self.curve) < 2:
            raise ValueError("a curve has two points of voltage and retardance at least")
        volts, degrees = (np.diff(each) for each in zip(*self.curve, strict=True))
        if not ((volts > 0).all() and ((degrees > 0).all() or (degrees < 0).all())):
            raise ValueError("along a curve voltages rise, and retardances all rise or all fall")
        for volt, limits in zip(self.volts, self.limits, strict=True):
            if volt not in limits:
                raise ValueError(f"{volt:g} V is outside {limits.low:g} to {limits.high:g} V")


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
    """A rotation off what is thought to be the optimum, who makes it, and the bits wanted."""

    paddles: _Actuators
    rotation: Real
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
    """Holds the polarization of a link between two parties, either or both with a controller.

    Args:
        stations: Alice's paddles or retarders and Bob's; a party without any has an empty one.
        settings: What to aim at.

    Attributes:
        state: How it stands.
        reason: Why it idles or is lost; else empty.
        qber: Mean QBER of both bases, as last found: at the begin, after a turn over the axes,
            after a search; nan before.
        moves: Set points given out.

    Raises:
        ValueError: for fewer than three paddles, which cannot make every rotation.
    """

    def __init__(
        self,
        stations: tuple[Station | RetarderStation, Station | RetarderStation],
        settings: LockSettings | None = None,
    ) -> None:
        self.settings = settings or LockSettings()
        self._stations = tuple(
            _Paddles(each) if isinstance(each, Station) else _Retarders(each) for each in stations
        )
        self._able = [p for p in self._stations if p.angles.size >= 3]
        if not self._able:
            raise ValueError("no station has three paddles, and fewer cannot make every rotation")
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
        """Where the actuators should be, deg or V."""
        alice, bob = (p.set_points() for p in self._stations)
        return alice, bob

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
        if not begin_s <= end_s or begin_s < self._until - _SAME_S:
            raise ValueError(f"a stretch from {begin_s:g} to {end_s:g} s is out of order")
        pairs = list(zip(compared, wrong, strict=True))
        if len(pairs) != 2 or not all(0 <= w <= n for n, w in pairs):
            raise ValueError(f"{wrong} of {compared} are no errors among bits of two bases")
        self._until = end_s
        if self._since is None or begin_s < self._since - _SAME_S:
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
            New set points, per station one per actuator, deg or V; None where nothing is to move.
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
        for paddles in self._stations:
            mine = paddles is self._setting.paddles
            paddles.turn(self._setting.rotation if mine else np.zeros(3))
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
        self.qber = yield _Setting(self._able[0], np.zeros(3), self.settings.bits)  # as it stands
        while True:
            if self.qber > self.settings.lost:
                yield from self._search()
            yield from self._track()

    def _track(self) -> _Course:
        """Go once over the axes with small settings."""
        seen = []
        for axis, amplitude in zip(_AXES, _AMPLITUDES, strict=True):
            paddles = self._freest()
            d = math.sqrt(2 * self.settings.dither / amplitude)
            low = yield _Setting(paddles, -d * axis, self.settings.bits)
            high = yield _Setting(paddles, d * axis, self.settings.bits)
            seen += [low, high]
            sine = (low - high) / (2 * amplitude * math.sin(d))
            found = math.asin(min(max(sine, -1.0), 1.0))
            paddles.shift(min(max(_GAIN * found, -_LARGEST), _LARGEST) * axis)
        self.qber = sum(seen) / len(seen)
        self.state = LockState.LOCKED if self.qber <= self.settings.good else LockState.DITHERING

    def _search(self) -> _Course:
        """Turn about the axes by thirds of a circle until the QBER is no longer bad."""
        for turn in range(1, 1 << 62):
            self.state = LockState.LOST  # again, should it have idled
            self.reason = f"the QBER was {100 * self.qber:.1f} %; search, turn {turn}"
            for axis in _AXES:
                paddles = self._freest()
                vector = 0j  # first harmonic of the QBER
                for x in (-_WIDE, 0.0, _WIDE):
                    qber = yield _Setting(paddles, x * axis, self.settings.bits // 4)
                    vector += qber * complex(math.cos(x), math.sin(x))
                paddles.shift(cmath.phase(-vector) * axis)
            self.qber = yield _Setting(paddles, np.zeros(3), self.settings.bits // 4)
            if self.qber <= self.settings.lost:
                break
        self.state, self.reason = LockState.DITHERING, ""

    def _freest(self) -> _Actuators:
        """The paddles that can turn best, sent to better angles where none can well enough."""
        best = max(self._able, key=lambda paddles: paddles.freedom)
        if best.freedom < _FREEDOM:
            seats = [(paddles.best_seat(), paddles) for paddles in self._able]
            (angles, freedom), other = max(seats, key=lambda seat: seat[0][1])
            if freedom > _WORTH * best.freedom:
                other.angles = angles
                return other
        return best


class _Actuators:
    """The retarders of one station: which angles make which rotation.

    Args:
        low: Least angle of each, rad: of a paddle where it stands, of a squeezer its retardance.
        high: Largest.
        angles: Where they are.

    Attributes:
        angles: Where they are told to be, rad.
    """

    def __init__(self, low: Real, high: Real, angles: Real) -> None:
        self._low, self._high = low, high
        self.angles = angles
        made, _ = self._made(self.angles[None])
        self._target: Real = made[0]  # what is thought to be the optimum

    def shift(self, rotation: Real) -> None:
        """Believe that the optimum lies at ``rotation`` from where it was thought to be."""
        self._target = _turn(rotation) @ self._target

    def turn(self, rotation: Real) -> None:
        """Go where they make ``rotation`` more than at the optimum, or as near as can be."""
        wanted = _turn(rotation) @ self._target
        for starts in (self.angles[None], *self._starts()):
            ways, errors = self._approach(wanted, starts)
            if errors.min() <= _REACHED:
                break
        far = np.abs(ways - self.angles).max(axis=1, initial=0.0)
        self.angles = ways[int(np.argmin(np.maximum(errors, _REACHED) + 1e-4 * far))]

    @property
    def freedom(self) -> float:
        """How well they can turn any way: rad of rotation per rad, about the worst axis.

        Less within 10 degrees of an end.
        """
        return float(self._freedom(self.angles[None])[0])

    def best_seat(self) -> tuple[Real, float]:
        """Return the angles that make the optimum and can turn any way best, and their freedom."""
        seat, most = self.angles, self.freedom
        for starts in self._starts():
            ways, errors = self._approach(self._target, starts)
            ways = np.concatenate([seat[None], ways[errors <= _REACHED]])
            freedoms = self._freedom(ways)
            best = int(np.argmax(freedoms))
            seat, most = ways[best], float(freedoms[best])
            if most >= _FREEDOM:
                break
        return seat, most

    def _freedom(self, ways: Real) -> Real:
        _, jacobians = self._made(ways)
        room = np.minimum(ways - self._low, self._high - ways).min(axis=1) / math.radians(10)
        least: Real = np.linalg.svd(jacobians, compute_uv=False)[:, 2] * np.clip(room, 0, 1)
        return least

    def set_points(self) -> tuple[float, ...]:
        """Where they are told to be, as the instrument is told."""
        raise NotImplementedError

    def _starts(self) -> list[Real]:
        """Angles to start from, shapes (m, n), those that are tried first before the others."""
        raise NotImplementedError

    def _approach(self, wanted: Real, ways: Real) -> tuple[Real, Real]:
        """From each of the angles, shape (m, n), go towards a rotation within the range.

        Damped Gauss-Newton steps; returns the angles and what each is off by, rad, shape (m,).
        """
        ways = np.clip(ways, self._low, self._high)
        best, least = ways, np.full(len(ways), math.inf)
        for _ in range(30):
            made, jacobians = self._made(ways)
            errors = _vectors(wanted @ made.transpose(0, 2, 1))
            sizes = np.linalg.norm(errors, axis=1)
            better = sizes < least
            best, least = np.where(better[:, None], ways, best), np.where(better, sizes, least)
            if sizes.max() < _REACHED / 10:
                break
            transposed = jacobians.transpose(0, 2, 1)
            damping = (1e-6 + 0.01 * sizes)[:, None, None] * np.eye(3)
            solved = np.linalg.solve(jacobians @ transposed + damping, errors[:, :, None])
            moves = (transposed @ solved)[:, :, 0]
            moves *= np.minimum(1.0, 0.5 / np.maximum(1e-12, np.abs(moves).max(axis=1)))[:, None]
            ways = np.clip(ways + moves, self._low, self._high)
        return best, least

    def _made(self, ways: Real) -> tuple[Real, Real]:
        """Return the rotations that angles (m, n) make, (m, 3, 3), and their slopes, (m, 3, n)."""
        made = np.broadcast_to(np.eye(3), (len(ways), 3, 3))
        slopes = np.empty((len(ways), 3, ways.shape[1]))
        for i in reversed(range(ways.shape[1])):
            retarder, slope = self._one(i, ways[:, i])
            slopes[:, :, i] = (made @ slope[:, :, None])[:, :, 0]
            made = made @ retarder
        return made, slopes

    def _one(self, i: int, angles: Real) -> tuple[Real, Real]:
        """Return the rotations of one retarder, (m, 3, 3), and their slopes, (m, 3), after it."""
        raise NotImplementedError


class _Paddles(_Actuators):
    """Retarders that turn."""

    def __init__(self, station: Station) -> None:
        self._phi = np.radians(station.retardances_deg)
        low = np.radians([limits.low + _MARGIN_DEG for limits in station.limits])
        high = np.radians([limits.high - _MARGIN_DEG for limits in station.limits])
        super().__init__(low, high, np.radians(station.angles_deg))

    def set_points(self) -> tuple[float, ...]:
        """Angles, deg."""
        return tuple(np.degrees(self.angles).tolist())

    def _starts(self) -> list[Real]:
        shares = np.random.default_rng(0).uniform(size=(48, self.angles.size))
        return [self._low + (self._high - self._low) * shares]

    def _one(self, i: int, angles: Real) -> tuple[Real, Real]:
        # a retarder is Z(2t) X Z(-2t), so it turns by 2 (z - R z) dt, seen from its left
        retarder = _retarder(float(self._phi[i]), angles)
        return retarder, 2 * (_AXES[2] - retarder[:, :, 2])


class _Retarders(_Actuators):
    """Retarders of fixed axes; their angles are retardances."""

    def __init__(self, station: RetarderStation) -> None:
        volts, degrees = (np.array(each) for each in zip(*station.curve, strict=True))
        if volts.size == 2:
            ends = [end for limits in station.limits for end in (limits.low, limits.high)]
            slope = (degrees[1] - degrees[0]) / (volts[1] - volts[0])
            first, volts = volts[0], np.array([min(ends), max(ends)])
            degrees = degrees[0] + slope * (volts - first)
        rising = np.argsort(degrees)  # as np.interp wants them
        self._volts, self._phases = volts[rising], np.radians(degrees)[rising]
        axes = 2 * np.radians(station.axes_deg)
        self._axes = np.stack([np.cos(axes), np.sin(axes), np.zeros_like(axes)], axis=1)
        pairs = [(limits.low, limits.high) for limits in station.limits]
        phases = np.interp(np.array(pairs).reshape(-1, 2), volts, np.radians(degrees))
        now = np.interp(station.volts, volts, np.radians(degrees))
        super().__init__(phases.min(axis=1), phases.max(axis=1), now)

    def set_points(self) -> tuple[float, ...]:
        """Voltages, V."""
        return tuple(np.interp(self.angles, self._phases, self._volts).tolist())

    def _starts(self) -> list[Real]:
        # A full turn of one stage leaves the rotation, and the others hold; else somewhere near.
        turns = 2 * math.pi * np.eye(self.angles.size)
        unwound = self.angles + np.concatenate([turns, -turns])
        inside = ((self._low <= unwound) & (unwound <= self._high)).all(axis=1)
        near = self.angles + np.random.default_rng(0).normal(size=(48, self.angles.size))
        return [unwound[inside], near] if inside.any() else [near]

    def _one(self, i: int, angles: Real) -> tuple[Real, Real]:
        axis = self._axes[i]
        x, y, z = axis
        cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
        sin, cos = np.sin(angles)[:, None, None], np.cos(angles)[:, None, None]
        retarder: Real = np.eye(3) + sin * cross + (1 - cos) * cross @ cross  # Rodrigues
        return retarder, np.broadcast_to(axis, (len(angles), 3))


def _retarder(phi: float, angles: Real) -> Real:
    """Return the rotations, shape (m, 3, 3), of a retarder with its axis at each of m angles."""
    c, s, cos, sin = np.cos(2 * angles), np.sin(2 * angles), math.cos(phi), math.sin(phi)
    made = np.empty((len(angles), 3, 3))
    made[:, 0, 0] = c * c * (1 - cos) + cos
    made[:, 1, 1] = s * s * (1 - cos) + cos
    made[:, 2, 2] = cos
    made[:, 0, 1] = made[:, 1, 0] = c * s * (1 - cos)
    made[:, 0, 2], made[:, 2, 0] = s * sin, -s * sin
    made[:, 1, 2], made[:, 2, 1] = -c * sin, c * sin
    return made


def _turn(vector: Real) -> Real:
    """Return the rotation about ``vector`` by its length, rad (Rodrigues)."""
    angle = float(np.linalg.norm(vector))
    if angle == 0.0:
        return np.eye(3)
    x, y, z = vector / angle
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    matrix: Real = np.eye(3) + math.sin(angle) * cross + (1 - math.cos(angle)) * cross @ cross
    return matrix


def _vectors(matrices: Real) -> Real:
    """Return axis times angle, shape (m, 3), of rotations; of a half turn, some half turn."""
    r = matrices
    odd = np.stack([r[:, 2, 1] - r[:, 1, 2], r[:, 0, 2] - r[:, 2, 0], r[:, 1, 0] - r[:, 0, 1]], 1)
    sines = np.linalg.norm(odd, axis=1) / 2
    angles = np.arctan2(sines, (np.trace(r, axis1=1, axis2=2) - 1) / 2)
    halves = (sines < 1e-9) & (angles > 1)
    vectors: Real = odd * (angles / np.maximum(2 * sines, 1e-12))[:, None]
    vectors[halves] = angles[halves, None] * _AXES[0]
    return vectors
