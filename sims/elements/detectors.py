"""Detectors: nanowires on an electronics box, and avalanche diodes."""

from __future__ import annotations

import math
from typing import Annotated, ClassVar, Literal, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
from pydantic import Field, field_validator, model_validator

from ...instruments import Unit
from ..physics import snspd
from ..physics.clicks import Response
from .base import Degrees, Fraction, Model, Rate, Stage

__all__ = [
    "DetectorModel",
    "DiodeModel",
    "Diodes",
    "Photodetectors",
    "SnspdArray",
    "SnspdModel",
    "SpadModel",
]

Real = npt.NDArray[np.float64]

#: What is remembered of a click is gone within a block (10 ms), or it would matter who listened:
#: some photon finds the detector rested, unless it is driven deep into saturation.
_Brief = Annotated[float, Unit("s"), Field(ge=0, le=1e-4)]
_Jitter = Annotated[float, Unit("s"), Field(ge=0, le=1e-6)]
_Share = Annotated[float, Unit("1"), Field(gt=0, lt=1)]
_Afterpulse = Annotated[float, Unit("1"), Field(ge=0, le=0.5)]
_Blinding = Annotated[float, Unit("Hz"), Field(gt=0, le=1e9)]


_MOST = 64
_Count = Annotated[int, Field(ge=1, le=_MOST)]


class DetectorModel(Model):
    """One SNSPD, or several alike."""

    count: _Count = 1
    """How many of these, one after the other."""
    efficiency: Fraction = 0.9
    """System detection efficiency at the operating bias, for the best polarization."""
    efficiency_form: Literal["erf", "logistic", "power"] = "erf"
    """Form of the efficiency against the bias."""
    half_bias: _Share = 0.60
    """Bias of half the saturated efficiency, in units of the switching current."""
    bias_width: _Share = 0.10
    """Width of the rise there, in the same units: the slope is 1/(sqrt(pi) width)."""
    dark_rate: Rate = 100.0
    """Dark counts at the operating bias, the background light included."""
    dark_background: Fraction = 0.7
    """Share of them that is light (black body, stray) and obeys the efficiency."""
    dark_efold: _Share = 0.03
    """Bias by which the intrinsic rest grows e-fold, in units of the switching current."""
    operating_bias: Annotated[float, Unit("A"), Field(ge=1e-9, le=1)] = 18e-6
    switching_current: Annotated[float, Unit("A"), Field(ge=1e-9, le=1)] = 22e-6
    retrapping: _Share = 0.15
    """Bias below which a normal wire superconducts again, in units of the switching current."""
    cooling_time: _Brief = 0.0
    """Life of a hot spot. The current must not come back within it, or the wire latches: at a bias
    above retrapping / (1 - exp(-cooling_time / recovery_time)). 0: it never does."""
    jitter: _Jitter = 50e-12
    """FWHM of the Gaussian timing jitter of the detector with its amplifier."""
    jitter_tail: _Brief = 0.0
    """Time constant of the exponential tail that is added to it."""
    dead_time: _Brief = 30e-9
    """For so long after a pulse the electronics see no other."""
    recovery_time: Annotated[float, Unit("s"), Field(ge=0, le=1e-6)] = 0.0
    """L_k/R, in which the current comes back into the wire after a click, and with it the
    efficiency; 0: it is there at once."""
    pulse_height: Annotated[float, Unit("V"), Field(ge=0)] = 0.0
    """At the operating bias. A pulse must be higher than the box's trigger level; 0: all are."""
    rise_time: _Brief = 0.0
    """Time constant of a pulse's rise: the smaller pulse of a recovering wire crosses the trigger
    level later (time walk)."""
    afterpulse: _Afterpulse = 0.0
    """Probability that the amplifier's ringing makes a second pulse."""
    afterpulse_time: _Brief = 50e-9
    """Mean time until then; what falls into the dead time is not seen."""
    polarization_extinction: Annotated[float, Unit("1"), Field(ge=1)] = 1.0
    """Efficiency for the best polarization over that for the worst. It matters where no analyzer
    stands before: behind one, the fibre is taken to be turned for the best."""
    polarization_angle: Degrees = 0.0
    """Direction of the best linear polarization, from H."""
    blinding_rate: _Blinding = 3e8
    """Light that a rested wire would detect this often keeps it normal: no clicks as long as it is
    on. Decided for each block of 10 ms."""

    @model_validator(mode="after")
    def _is_possible(self) -> DetectorModel:
        if self.operating_bias >= self.switching_current:
            raise ValueError(
                f"operating_bias {self.operating_bias * 1e6:g} uA must be below switching_current"
                f" {self.switching_current * 1e6:g} uA; 80 % of it is usual"
            )
        if self.cooling_time and not self.recovery_time:
            raise ValueError("a cooling_time needs a recovery_time, such as 10 ns; or leave it out")
        if self.rise_time and not (self.pulse_height and self.recovery_time):
            raise ValueError(
                "a rise_time needs a pulse_height and a recovery_time, such as 300 mV and 10 ns; or"
                " leave it out for no time walk"
            )
        _check_afterpulse(self.afterpulse, self.afterpulse_time)
        return self

    @property
    def curve(self) -> snspd.Curve:
        """Its efficiency against the bias."""
        return snspd.Curve(self.efficiency_form, self.half_bias, self.bias_width)

    @property
    def retrapping_current(self) -> float:
        """Bias below which a normal wire superconducts again, A."""
        return self.retrapping * self.switching_current

    @property
    def latching_current(self) -> float:
        """Bias from which on it ends up normal, A."""
        return snspd.latching_current(
            self.switching_current,
            self.retrapping_current,
            self.recovery_time,
            self.cooling_time,
        )

    def polarization(self) -> npt.NDArray[np.complex128] | None:
        """How its efficiency depends on polarization, (2, 2); None for not at all."""
        if self.polarization_extinction == 1:
            return None
        turn = math.radians(2 * self.polarization_angle)
        axis = math.cos(turn), math.sin(turn), 0.0
        return snspd.polarization_operator(self.polarization_extinction, axis)


class SnspdModel(Model):
    """Array of SNSPDs on one electronics box."""

    stage: ClassVar[Stage] = "detect"
    kind: Literal["snspd"]
    detectors: Annotated[tuple[DetectorModel, ...], Field(min_length=1, max_length=64)]

    @field_validator("detectors")
    @classmethod
    def _one_by_one(cls, detectors: tuple[DetectorModel, ...]) -> tuple[DetectorModel, ...]:
        return _each(detectors)


class DiodeModel(Model):
    """One avalanche diode (SPAD), or several alike."""

    count: _Count = 1
    """How many of these, one after the other."""
    efficiency: Fraction = 0.6
    dark_rate: Rate = 100.0
    """Dark counts, the background light included, afterpulses not."""
    jitter: _Jitter = 350e-12
    """FWHM of the Gaussian timing jitter."""
    jitter_tail: _Brief = 0.0
    """Time constant of the exponential tail that is added to it."""
    dead_time: _Brief = 50e-9
    extending_dead_time: bool = False
    """Whether what falls into the dead time prolongs it (passive quenching)."""
    afterpulse: _Afterpulse = 0.0
    """Probability that a click leaves a carrier behind that makes another, in all; each may leave
    one in turn."""
    afterpulse_time: _Brief = 100e-9
    """Mean life of such a carrier; one that is freed in the dead time is not seen."""
    blinding_rate: _Blinding = 3e8
    """Light that would be detected this often keeps the diode below breakdown: no clicks as long
    as it is on. Decided for each block of 10 ms."""

    @model_validator(mode="after")
    def _is_possible(self) -> DiodeModel:
        _check_afterpulse(self.afterpulse, self.afterpulse_time)
        return self

    def polarization(self) -> None:
        """It does not depend on polarization."""
        return


class SpadModel(Model):
    """Avalanche diodes, always on."""

    stage: ClassVar[Stage] = "detect"
    kind: Literal["spad"]
    detectors: Annotated[tuple[DiodeModel, ...], Field(min_length=1, max_length=64)]

    @field_validator("detectors")
    @classmethod
    def _one_by_one(cls, detectors: tuple[DiodeModel, ...]) -> tuple[DiodeModel, ...]:
        return _each(detectors)


class Photodetectors(Protocol):
    """Detectors at the end of paths, of any kind.

    Reading: ``counts``, int64 per detector, of the block that has just ended; it is filled only
    while ``counting`` (somebody listens to counts) or while the tagger behind it records.
    """

    counting: bool
    counts: npt.NDArray[np.int64]

    @property
    def detectors(self) -> tuple[DetectorModel | DiodeModel, ...]:
        """What the world file says of each."""
        ...

    def state(self) -> tuple[object, ...]:
        """Changes whenever what follows does; call it once a block at least."""
        ...

    def efficiencies(self) -> Real:
        """Efficiency of each detector when rested, shape (n,)."""
        ...

    def dark_rates(self) -> Real:
        """Dark counts of each when rested, Hz, shape (n,)."""
        ...

    def responses(self) -> tuple[Response, ...]:
        """How each answers what it absorbs."""
        ...


class SnspdArray:
    """Knobs: ``bias_a``, ``trigger_v`` (per detector), ``enabled``, ``counting``.

    Readings: ``counts`` (:class:`Photodetectors`) and :meth:`normal`.
    """

    def __init__(self, model: SnspdModel) -> None:
        self.model = model
        n = len(model.detectors)
        self.bias_a: list[float] = [0.0] * n
        self.trigger_v: list[float] = [0.1] * n
        self.enabled = False
        self.counting = False
        self.counts: npt.NDArray[np.int64] = np.zeros(n, np.int64)
        #: Photons per second of stray light at each detector.
        self.stray_light_hz = 0.0
        self._normal = (False,) * n
        self._state: tuple[object, ...] = ()

    def power_off(self) -> None:
        """Be without power: no bias, and nobody counts."""
        self.bias_a = [0.0] * len(self.bias_a)
        self.enabled = self.counting = False

    @property
    def detectors(self) -> tuple[DetectorModel, ...]:
        """What the world file says of each."""
        return self.model.detectors

    def normal(self) -> tuple[bool, ...]:
        """Whether each wire has latched: no clicks, a voltage over it.

        From a bias at or above its latching current on, until the bias is below the retrapping
        current or the box is off.
        """
        self.state()
        return self._normal

    def state(self) -> tuple[object, ...]:
        """Let wires latch or recover as the bias tells them, once a block; see the protocol."""
        knobs = (self.stray_light_hz, self.enabled, *self.bias_a, *self.trigger_v)
        if knobs != self._state[: len(knobs)]:
            self._normal = tuple(
                self.enabled
                and bool(abs(bias) >= (d.retrapping_current if was else d.latching_current))
                for was, bias, d in zip(self._normal, self.bias_a, self.detectors, strict=True)
            )
            self._state = (*knobs, *self._normal)
        return self._state

    def efficiencies(self) -> Real:
        """Efficiency of each detector at its bias now."""
        return self._alive() * [
            snspd.efficiency(b, d.operating_bias, d.switching_current, d.efficiency, d.curve)
            for b, d in zip(self.bias_a, self.detectors, strict=True)
        ]

    def dark_rates(self) -> Real:
        """Dark counts of each detector at its bias now, stray light's included, Hz."""
        return self.stray_light_hz * self.efficiencies() + self._alive() * [
            snspd.dark_rate_hz(
                b,
                d.operating_bias,
                d.switching_current,
                d.dark_rate,
                d.curve,
                background=d.dark_background,
                efold=d.dark_efold,
            )
            for b, d in zip(self.bias_a, self.detectors, strict=True)
        ]

    def responses(self) -> tuple[Response, ...]:
        """How each answers what it absorbs, at its bias and trigger level now."""
        return tuple(
            Response(
                dead_time_s=d.dead_time,
                recovery_s=d.recovery_time,
                recovery=snspd.recovery_table(bias, d.switching_current, d.curve),
                threshold=threshold if threshold < 1 else 0.0,  # no light comes to it then
                rise_s=d.rise_time,
                afterpulse=d.afterpulse,
                afterpulse_s=d.afterpulse_time,
                tail_s=d.jitter_tail,
            )
            for d, bias, threshold in zip(
                self.detectors, self.bias_a, self._thresholds(), strict=True
            )
        )

    def _thresholds(self) -> list[float]:
        """Trigger level of each over the height of its full pulse; 0 where that is not given."""
        return [
            abs(level) / (d.pulse_height * bias / d.operating_bias)
            if d.pulse_height and bias > 0
            else 0.0
            for level, bias, d in zip(self.trigger_v, self.bias_a, self.detectors, strict=True)
        ]

    def _alive(self) -> Real:
        """1 where clicks can be seen, else 0."""
        low = np.array(self._thresholds()) < 1
        return np.asarray(low & ~np.array(self.normal()) & self.enabled, np.float64)


class Diodes:
    """SPADs: always on, no knobs. Readings: :class:`Photodetectors`."""

    def __init__(self, model: SpadModel) -> None:
        self.model = model
        self.counting = False
        #: Photons per second of stray light at each detector.
        self.stray_light_hz = 0.0
        self.counts: npt.NDArray[np.int64] = np.zeros(len(model.detectors), np.int64)
        self._responses = tuple(
            Response(
                dead_time_s=d.dead_time,
                extending=d.extending_dead_time,
                afterpulse=d.afterpulse,
                afterpulse_s=d.afterpulse_time,
                tail_s=d.jitter_tail,
            )
            for d in model.detectors
        )

    @property
    def detectors(self) -> tuple[DiodeModel, ...]:
        """What the world file says of each."""
        return self.model.detectors

    def state(self) -> tuple[object, ...]:
        """Changes with stray light only."""
        return (self.stray_light_hz,)

    def efficiencies(self) -> Real:
        """Efficiency of each."""
        return np.array([d.efficiency for d in self.detectors])

    def dark_rates(self) -> Real:
        """Dark counts of each, stray light's included, Hz."""
        return np.array([d.dark_rate + self.stray_light_hz * d.efficiency for d in self.detectors])

    def responses(self) -> tuple[Response, ...]:
        """How each answers what it absorbs."""
        return self._responses


_Detector = TypeVar("_Detector", DetectorModel, DiodeModel)


def _each(detectors: tuple[_Detector, ...]) -> tuple[_Detector, ...]:
    """Write out those that stand for several."""
    found = tuple(d.model_copy(update={"count": 1}) for d in detectors for _ in range(d.count))
    if len(found) > _MOST:
        raise ValueError(f"{len(found)} detectors; {_MOST} is what a box can have")
    return found


def _check_afterpulse(chance: float, time_s: float) -> None:
    if chance and not time_s:
        raise ValueError("an afterpulse needs an afterpulse_time, such as 50 ns")
