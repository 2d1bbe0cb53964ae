"""Polarization: turn the paddles until both bases agree.

One basis alone is not enough: rotations about its axis leave its QBER as it is, and the other basis
anywhere. So the mean QBER of Z and X is minimised.

Method: for any retarder, the coincidence probabilities are a polynomial in cos and sin of twice its
fast axis' angle, of degree two, whatever stands before and behind it and whatever its retardance.
So the QBER along one paddle is ``a0 + a1 cos 2t + b1 sin 2t + a2 cos 4t + b2 sin 4t``: a few points
fix it, and its minimum is known wherever it lies. The paddles take turns (sequential minimal
optimization, Nakanishi, Fujii and Todo, Phys. Rev. Research 2, 043158 (2020), with one harmonic
more). No Jones matrix of the fibre is needed.

What follows a voltage, squeezers and liquid crystals, has a fixed axis and a retardance that no
voltage tells for sure. Along one the QBER is ``a0 + a1 cos phi + b1 sin phi``, every valley as deep
as the next, so going down is enough: step by step, then a parabola through the lowest points.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ...instruments import (
    Clock,
    Limited,
    Limits,
    PolarizationController,
    ProtocolError,
    Settable,
    TimeTagger,
)
from .. import timing
from ._recorder import Recorder
from .delays import coincidence_window

__all__ = ["PolarizationResult", "Station", "find_polarization"]

Real = npt.NDArray[np.float64]

_LABELS = ("H", "V", "D", "A")
_RANGE = Limits(0.0, 170.0)  # where a controller does not tell its own
_POINTS = 7  # along one paddle; the curve has 5 parameters
_STEPS = 50  # of the way downhill, in the range of a voltage


@dataclass(frozen=True)
class Station:
    """What one party measures polarization with.

    Attributes:
        tagger: Not recording.
        channels: Label (H, V, D, A) of each tagger input.
        controller: What may be turned; None where nothing may.
    """

    tagger: TimeTagger
    channels: Mapping[int, str]
    controller: PolarizationController | None


@dataclass(frozen=True)
class PolarizationResult:
    """Settings of paddles, or voltages of retarders, of the least QBER.

    Attributes:
        ok: Whether the search ended below the QBER that was asked for; the paddles stand at the
            angles found then, else where they stood before.
        reason: Why not, in words; empty where ok.
        angles: Angle (or voltage) of each actuator, per station; empty where it has none to turn.
        sigmas: Their standard errors: how far counting noise may have moved each minimum.
        qber: Residual mean QBER of both bases, and its error ``qber_sigma``.
        qber_sigma: Standard error.
        qber_z: Residual QBER of Z, and of X ``qber_x``.
        qber_x: See ``qber_z``.
        history: float64 (n, 3): QBER of Z, of X and error of their mean at each setting tried.
        minima: float64 (m, 2): mean QBER and its error at the minimum along each paddle in turn.
    """

    ok: bool
    reason: str
    angles: tuple[tuple[float, ...], tuple[float, ...]]
    sigmas: tuple[tuple[float, ...], tuple[float, ...]]
    qber: float
    qber_sigma: float
    qber_z: float
    qber_x: float
    history: Real
    minima: Real


@dataclass(frozen=True)
class _Qber:
    z: float
    x: float
    sigma: float

    @property
    def mean(self) -> float:
        return (self.z + self.x) / 2


def find_polarization(
    alice: Station,
    bob: Station,
    clock: Clock,
    *,
    seconds: float = 0.1,
    final_s: float = 1.0,
    max_sweeps: int = 12,
    limit: float = 0.05,
    timeout_s: float = 60.0,
) -> PolarizationResult:
    """Minimise the mean QBER of both bases over all paddles that may be turned.

    Ends when two sweeps over all paddles have gained less than 0.05 % and their counting error.

    Args:
        alice: First party.
        bob: Second party; one of both must have a controller.
        clock: The bench's clock.
        seconds: Recording per setting.
        final_s: Recording at the end, for the residual QBER.
        max_sweeps: Sweeps over all paddles at most.
        limit: Residual QBER above which the search has failed (a local minimum, or no light).
        timeout_s: Longest wait for a paddle.

    Raises:
        InstrumentTimeout: where a paddle does not arrive.
        ValueError: without any controller.
    """
    stations = (alice, bob)
    controllers = [s.controller for s in stations if s.controller is not None]
    actuators = [a for c in controllers for a in c.actuators]
    if not actuators:
        raise ValueError("no station has a controller, so there is nothing to turn")
    before = [a.get() for a in actuators]
    with Recorder([s.tagger for s in stations], clock) as recorder:
        search = _Search(stations, recorder, seconds, timeout_s)
        try:
            search.find_delays()
            sigmas = search.minimise(actuators, max_sweeps)
            final = search.measure(final_s)
            reason = ""
            if final.mean + 2 * final.sigma > limit:
                reason = (
                    f"the QBER stays at {100 * final.mean:.2f} %, above {100 * limit:g} %: start"
                    " from other angles, or is the source's state or phase matching off?"
                )
        except ProtocolError as error:
            reason, sigmas, final = str(error), [], _Qber(math.nan, math.nan, math.nan)
        if reason:
            for actuator, angle in zip(actuators, before, strict=True):
                search.turn(actuator, angle)
    angles = iter([a.get() for a in actuators])
    errors = iter(sigmas or [math.nan] * len(actuators))
    counts = [len(s.controller.actuators) if s.controller else 0 for s in stations]
    return PolarizationResult(
        not reason,
        reason,
        _pair([tuple(next(angles) for _ in range(n)) for n in counts]),
        _pair([tuple(next(errors) for _ in range(n)) for n in counts]),
        final.mean,
        final.sigma,
        final.z,
        final.x,
        np.array([(q.z, q.x, q.sigma) for q in search.history]).reshape(-1, 3),
        np.array(search.minima).reshape(-1, 2),
    )


class _Search:
    def __init__(
        self,
        stations: tuple[Station, Station],
        recorder: Recorder,
        seconds: float,
        timeout_s: float,
    ) -> None:
        self._stations = stations
        self._recorder = recorder
        self._seconds = seconds
        self._timeout_s = timeout_s
        # a detector of each outcome, in the order of the labels
        self._channels = (_by_outcome(stations[0]), _by_outcome(stations[1]))
        self._delays: timing.ChannelDelays | None = None
        self.history: list[_Qber] = []
        self.minima: list[tuple[float, float]] = []

    def find_delays(self) -> None:
        """Find the delays of this recording; a few orthogonal outputs may need a longer one."""
        a, b = self._recorder.record(max(1.0, self._seconds))
        first, second = self._channels
        _, line, found = timing.on_one_clock(a, b, (first, second))
        if line is not None:
            self._recorder.follow(timing.follower(line, (found.delays_a, found.delays_b)))
        self._delays = found

    def turn(self, actuator: Settable[float], angle: float) -> None:
        actuator.set(angle)
        controllers = [s.controller for s in self._stations if s.controller is not None]
        self._recorder.until(
            lambda: all(c.ready() for c in controllers), self._timeout_s, actuator.name
        )

    def measure(self, seconds: float) -> _Qber:
        """Measure the QBER of both bases at the present setting.

        Raises:
            ProtocolError: without coincidences in either basis.
        """
        assert self._delays is not None
        counter = timing.CoincidenceCounter(
            self._channels[0],
            self._channels[1],
            coincidence_window(self._delays, [s.tagger for s in self._stations]),
            delays_a=self._delays.delays_a,
            delays_b=self._delays.delays_b,
        )
        counter.add(*self._recorder.record(seconds))
        counts = counter.finish().counts
        blocks = [counts[:2, :2], counts[2:, 2:]]
        rates, variance = [], 0.0
        for basis, block in zip("ZX", blocks, strict=True):
            n, wrong = int(block.sum()), int(block[0, 1] + block[1, 0])
            if not n:
                raise ProtocolError(f"no coincidences in basis {basis}; the light went out")
            rates.append(wrong / n)
            padded = (wrong + 1) / (n + 2)  # none seen is not known without error
            variance += padded * (1 - padded) / n / 4
        found = _Qber(rates[0], rates[1], math.sqrt(variance))
        self.history.append(found)
        return found

    def minimise(self, actuators: Sequence[Settable[float]], max_sweeps: int) -> list[float]:
        """Let the actuators take turns; return the error of each angle."""
        sigmas = [math.nan] * len(actuators)
        lowest, idle = math.inf, 0
        for sweep in range(max_sweeps):
            order = range(len(actuators))
            for i in order if sweep % 2 == 0 else reversed(order):
                sigmas[i], expected, error = self._along(actuators[i])
            idle = idle + 1 if expected > lowest - max(5e-4, error) else 0
            lowest = min(lowest, expected)
            if idle == 2:
                break
        return sigmas

    def _along(self, actuator: Settable[float]) -> tuple[float, float, float]:
        """Go to the minimum along one actuator; return its error, the QBER there, and that's."""
        if actuator.unit == "V":
            return self._downhill(actuator)
        limits = actuator.limits if isinstance(actuator, Limited) else _RANGE
        here = actuator.get()
        wanted = np.linspace(limits.low, limits.high, _POINTS)
        if here > limits.low + (limits.high - limits.low) / 2:
            wanted = wanted[::-1]  # the shorter way
        seen, angles = [], []
        for angle in wanted:
            self.turn(actuator, float(angle))
            seen.append(self.measure(self._seconds))
            angles.append(actuator.get())
        best, sigma, value, error = _minimum(
            np.array(angles),
            np.array([q.mean for q in seen]),
            np.array([q.sigma for q in seen]),
            limits,
        )
        self.turn(actuator, best)
        self.minima.append((value, error))
        return sigma, value, error

    def _downhill(self, actuator: Settable[float]) -> tuple[float, float, float]:
        """As :meth:`_along`, for a voltage: whatever the retardance makes of it."""
        if not isinstance(actuator, Limited):
            raise ProtocolError(f"{actuator.name} tells no limits, so no voltage of it is safe")
        low, high = actuator.limits.low, actuator.limits.high
        here, step = actuator.get(), (high - low) / _STEPS
        first, last = math.ceil((low - here) / step), math.floor((high - here) / step)
        seen: dict[int, _Qber] = {}
        wanted = range(max(first, -2), min(last, 2) + 1)
        while True:
            for k in wanted:  # upwards: a piezo has hysteresis
                if k not in seen:
                    self.turn(actuator, here + k * step)
                    seen[k] = self.measure(self._seconds)
            lowest = min(seen, key=lambda k: seen[k].mean)
            wanted = range(max(first, lowest - 2), min(last, lowest + 2) + 1)
            if seen.keys() >= set(wanted):
                break
        near = [seen[k] for k in wanted]
        best, sigma, value, error = _valley(
            here + step * np.array(wanted),
            np.array([q.mean for q in near]),
            np.array([q.sigma for q in near]),
        )
        self.turn(actuator, max(low, best - 2 * step))
        self.turn(actuator, best)
        self.minima.append((value, error))
        return sigma, value, error


def _by_outcome(station: Station) -> list[int]:
    return [next(c for c, label in station.channels.items() if label == o) for o in _LABELS]


def _harmonics(angles_deg: Real, derivative: int = 0) -> Real:
    """Return the curve's terms, or their derivatives by the angle in rad, shape (n, 5)."""
    t = np.radians(np.atleast_1d(angles_deg))
    terms = [np.zeros_like(t) if derivative else np.ones_like(t)]
    for k in (2, 4):
        phase = k * t + derivative * math.pi / 2
        terms += [k**derivative * np.cos(phase), k**derivative * np.sin(phase)]
    return np.stack(terms, axis=-1)


def _minimum(
    angles_deg: Real, values: Real, sigmas: Real, limits: Limits
) -> tuple[float, float, float, float]:
    """Return angle and error of the curve's minimum, its value there, and the value's error."""
    weighted = _harmonics(angles_deg) / sigmas[:, None]
    covariance = np.linalg.pinv(weighted.T @ weighted)
    model = covariance @ (weighted.T @ (values / sigmas))
    grid = np.linspace(limits.low, limits.high, 3401)
    best = float(grid[int(np.argmin(_harmonics(grid) @ model))])
    here, slope, bend = (_harmonics(np.array([best]), d)[0] for d in (0, 1, 2))
    curvature = float(bend @ model)
    noise = math.sqrt(max(float(slope @ covariance @ slope), 0.0))
    reach = (limits.high - limits.low) / math.sqrt(12)  # nothing known but the range
    sigma = math.degrees(noise / curvature) if curvature > 0 else reach
    error = math.sqrt(max(float(here @ covariance @ here), 0.0))
    return best, min(sigma, reach), float(here @ model), error


def _valley(volts: Real, values: Real, sigmas: Real) -> tuple[float, float, float, float]:
    """As :func:`_minimum`, of a parabola through the points."""
    middle, reach = (volts[0] + volts[-1]) / 2, (volts[-1] - volts[0]) / 2
    x = (volts - middle) / reach
    terms = np.stack([np.ones_like(x), x, x * x], axis=-1)
    covariance = np.linalg.pinv((terms / sigmas[:, None]).T @ (terms / sigmas[:, None]))
    a, b, c = covariance @ (terms.T @ (values / sigmas**2))
    best = float(np.clip(-b / (2 * c), -1, 1)) if c > 0 else float(x[int(np.argmin(values))])
    here, slope = np.array([1.0, best, best * best]), np.array([0.0, 1.0, 2 * best])
    noise = math.sqrt(max(float(slope @ covariance @ slope), 0.0))
    sigma = min(noise / (2 * c), 1.0) if c > 0 else 1.0
    error = math.sqrt(max(float(here @ covariance @ here), 0.0))
    return middle + reach * best, reach * sigma, float(a + b * best + c * best**2), error


def _pair(values: list[tuple[float, ...]]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    first, second = values
    return first, second
