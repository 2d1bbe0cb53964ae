"""Polarization controllers."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from ...instruments import Unit
from ..physics import liquid_crystal as lc
from ..physics import polarization as pol
from ..physics.squeezers import Creep, Hysteresis, loop_retardance_deg
from .base import Degrees, Model, Passage, Seconds, Stage

Real = npt.NDArray[np.float64]
Decibels = Annotated[float, Unit("dB"), Field(ge=0)]
Positive = Annotated[float, Unit("V"), Field(gt=0)]
#: A retardance that has changed by less is the same.
_SAME_DEG = 0.01


class PaddlesModel(Model):
    """Fibre polarization controller: linear retarders rotated by paddles."""

    stage: ClassVar[Stage] = "optic"
    kind: Literal["paddles"]
    retardance: Annotated[tuple[Degrees, ...], Field(min_length=1)] = (90.0, 180.0, 90.0)
    turns: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)] | None = None
    """Turns of fibre in each paddle, which make its retardance; instead of ``retardance``."""
    loop_diameter: Annotated[float, Unit("m"), Field(gt=0)] = 18e-3
    wavelength: Annotated[float, Unit("m"), Field(gt=0)] = 1550e-9
    loss: Decibels = 0.0

    @model_validator(mode="after")
    def _one_of_both(self) -> PaddlesModel:
        if self.turns is not None and "retardance" in self.model_fields_set:
            raise ValueError("give either retardance or turns: turns make the retardance")
        return self

    @property
    def retardances_deg(self) -> tuple[float, ...]:
        """Retardance of each paddle."""
        if self.turns is None:
            return self.retardance
        return tuple(
            loop_retardance_deg(n, self.loop_diameter, self.wavelength) for n in self.turns
        )


class Paddles:
    """Knob: ``angles_deg``, one per paddle."""

    def __init__(self, model: PaddlesModel) -> None:
        self.model = model
        self.angles_deg: list[float] = [0.0] * len(model.retardances_deg)
        self._passage: tuple[tuple[float, ...], Passage] | None = None

    def power_off(self) -> None:
        """Be without power: paddles stay where they are."""

    def passage(self) -> Passage:
        """What light meets now."""
        angles = tuple(self.angles_deg)
        if self._passage is None or self._passage[0] != angles:
            jones = pol.retarders(self.model.retardances_deg, angles)
            self._passage = angles, Passage(_share(self.model.loss), jones)
        return self._passage[1]


class SqueezersModel(Model):
    """Piezo squeezers on a fibre: retarders of fixed axes whose retardance follows a voltage."""

    stage: ClassVar[Stage] = "optic"
    kind: Literal["squeezers"]
    axes: Annotated[tuple[Degrees, ...], Field(min_length=1)] = (0.0, 45.0, 0.0, 45.0)
    """Axis of each squeezer: those at 0 turn about S1, those at 45 degrees about S2."""
    pi_voltage: Positive = 1.4
    """Change of the control voltage that turns by 180 degrees."""
    max_voltage: Positive = 5.0
    """Largest voltage to either side: the stroke that ``hysteresis`` is a share of."""
    hysteresis: Annotated[float, Unit("1"), Field(ge=0, le=0.3)] = 0.1
    """Width of the loop over the stroke."""
    creep: Annotated[float, Unit("1"), Field(ge=0, lt=0.5)] = 0.02
    """Share of a step by which the piezo goes on, per decade in time from 0.1 s."""
    loss: Decibels = 0.0


class Squeezers:
    """Knobs: :meth:`drive`, in the order of the voltages; :meth:`sweep`. Reading: ``volts``."""

    KEPT: ClassVar[tuple[str, ...]] = ("volts", "plays", "relaxed")

    step_s = 0.01

    def __init__(self, model: SqueezersModel) -> None:
        self.model = model
        count = len(model.axes)
        self._hysteresis = Hysteresis(model.hysteresis, model.max_voltage, count)
        self._creep = Creep(model.creep, count)
        self._swept: Real | None = None
        self._shown: Real = np.zeros(count)
        self._passage: Passage | None = None

    @property
    def drifts(self) -> bool:
        """Whether the piezos creep."""
        return self.model.creep > 0

    @property
    def volts(self) -> list[float]:
        """Voltage of each squeezer."""
        return [float(volts) for volts in self._hysteresis.drives]

    @volts.setter
    def volts(self, volts: list[float]) -> None:
        self._hysteresis.drives[:] = volts

    @property
    def plays(self) -> Real:
        """What the hysteresis remembers, shape (squeezers, plays)."""
        return self._hysteresis.plays

    @plays.setter
    def plays(self, plays: Real) -> None:
        self._hysteresis.plays[:] = plays

    @property
    def relaxed(self) -> Real:
        """What the creep remembers, shape (squeezers, relaxations)."""
        return self._creep.relaxed

    @relaxed.setter
    def relaxed(self, relaxed: Real) -> None:
        self._creep.relaxed[:] = relaxed

    @property
    def retardances_deg(self) -> Real:
        """Retardance of each squeezer now, degrees."""
        degrees: Real = self._creep.output(self._hysteresis.output) * 180.0 / self.model.pi_voltage
        return degrees

    def drive(self, stage: int, volts: float) -> None:
        """Bring a squeezer, from 0, to a voltage: at once, but for the creep."""
        self._hysteresis.drive(stage, volts)

    def power_off(self) -> None:
        """Be without power: no voltage."""
        self.sweep(None)
        for stage in range(len(self.volts)):
            self.drive(stage, 0.0)

    def sweep(self, volts: Real | None) -> None:
        """Let the voltages of a block be these, shape (times, squeezers); None ends it.

        Light then meets the mean over the block. Fast swings average hysteresis out: it is left
        out, and so is creep.
        """
        if volts is not None or self._swept is not None:
            self._passage = None
        self._swept = volts

    def step(self, rng: np.random.Generator, now_s: float) -> None:
        """Creep for :attr:`step_s`; nothing is random."""
        self._creep.step(self._hysteresis.output, self.step_s)

    def passage(self) -> Passage:
        """What light meets now."""
        now = self.retardances_deg
        if self._passage is None or np.abs(now - self._shown).max() > _SAME_DEG:
            self._shown = now
            self._passage = self._made(now)
        return self._passage

    def _made(self, retardances: Real) -> Passage:
        share = _share(self.model.loss)
        if self._swept is None:
            return Passage(share, pol.retarders(retardances.tolist(), self.model.axes))
        maps = [
            pol.stokes_map(
                pol.retarders((180.0 * v / self.model.pi_voltage).tolist(), self.model.axes)
            )
            for v in self._swept
        ]
        return Passage(share, stokes=np.mean(maps, axis=0))


class LiquidCrystalsModel(Model):
    """Liquid-crystal retarders of fixed axes; see :func:`physics.liquid_crystal.retardance_deg`."""

    stage: ClassVar[Stage] = "optic"
    kind: Literal["liquid_crystals"]
    axes: Annotated[tuple[Degrees, ...], Field(min_length=1)] = (0.0, 45.0, 0.0, 45.0)
    retardance: Annotated[float, Unit("deg"), Field(gt=0)] = 540.0
    """Retardance of a cell without drive."""
    threshold: Annotated[float, Unit("V"), Field(ge=0)] = 1.0
    """Amplitude from which the molecules tilt."""
    scale: Positive = 2.0
    """Amplitude above it, at which the retardance has fallen to 42 %."""
    rise: Seconds = 0.05
    """Time constant of a growing retardance: the molecules relax."""
    fall: Seconds = 0.005
    """Time constant of a falling one: the field pulls."""
    loss: Decibels = 0.0


class LiquidCrystals:
    """Knobs: ``amplitudes_v``, one per cell, and ``driven``. Reading: ``retardances_deg``."""

    KEPT: ClassVar[tuple[str, ...]] = ("retardances_deg",)

    step_s = 0.01

    def __init__(self, model: LiquidCrystalsModel) -> None:
        self.model = model
        count = len(model.axes)
        self.amplitudes_v: list[float] = [0.0] * count
        self.driven = False
        self.retardances_deg: Real = np.full(count, model.retardance)
        self._shown: Real = self.retardances_deg
        self._passage: Passage | None = None

    def power_off(self) -> None:
        """Be without power: no drive."""
        self.driven = False

    @property
    def drifts(self) -> bool:
        """Always: a cell follows its drive step by step."""
        return True

    def step(self, rng: np.random.Generator, now_s: float) -> None:
        """Relax for :attr:`step_s`; nothing is random."""
        m = self.model
        amplitudes = np.array(self.amplitudes_v) * self.driven
        goal = lc.retardance_deg(amplitudes, m.retardance, m.threshold, m.scale)
        self.retardances_deg = lc.relax(self.retardances_deg, goal, self.step_s, m.rise, m.fall)

    def passage(self) -> Passage:
        """What light meets now."""
        now = self.retardances_deg
        if self._passage is None or np.abs(now - self._shown).max() > _SAME_DEG:
            self._shown = now
            jones = pol.retarders(now.tolist(), self.model.axes)
            self._passage = Passage(_share(self.model.loss), jones)
        return self._passage


def _share(loss_db: float) -> float:
    return float(10 ** (-loss_db / 10))
