"""Time references: one pulse each second."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from ...instruments import Unit
from .base import Model, Stage

_PS = 1_000_000_000_000
#: Rms jitter of the pulse, s. GPS: a timing receiver without sawtooth correction (data sheets say
#: 10 to 25 ns); White Rabbit: between two nodes.
_JITTER_S = {"ideal": 0.0, "white_rabbit": 15e-12, "gps": 20e-9}


class ReferenceModel(Model):
    """One pulse per second at ``[NAME.pps, TAGGER.INPUT]``, from world second 1 on.

    Each pulse is off by itself; the slow wander of a GPS receiver, tens of ns over hours, is left
    out.
    """

    stage: ClassVar[Stage] = "wire"
    outputs: ClassVar[tuple[str, ...]] = ("pps",)
    kind: Literal["reference"]
    source: Literal["gps", "white_rabbit", "ideal"] = "ideal"
    jitter_rms: Annotated[float, Unit("s"), Field(ge=0, le=1e-3)] | None = None
    """Gaussian, rms; not given: 20 ns (gps), 15 ps (white_rabbit), 0 (ideal)."""
    offset: Annotated[float, Unit("s"), Field(ge=-0.1, le=0.1)] = 0.0
    """How long after the world's second the pulse comes."""


class Reference:
    """Gives the edges of its pulse, a second ahead."""

    KEPT: ClassVar[tuple[str, ...]] = ("pulses_ps",)
    step_s: ClassVar[float] = 1.0

    def __init__(self, model: ReferenceModel) -> None:
        self.model = model
        jitter_s = model.jitter_rms
        self._jitter_ps = (_JITTER_S[model.source] if jitter_s is None else jitter_s) * _PS
        self._offset_ps = round(model.offset * _PS)
        #: The last two pulses that were made; an early one may still wait for its block.
        self.pulses_ps = [-1, -1]

    @property
    def drifts(self) -> bool:
        """Always: every second has its pulse."""
        return True

    def step(self, rng: np.random.Generator, now_s: float) -> None:
        """Make the pulse of the second that follows."""
        jitter_ps = round(self._jitter_ps * float(np.clip(rng.standard_normal(), -6, 6)))
        pulse_ps = (round(now_s) + 1) * _PS + self._offset_ps + jitter_ps
        self.pulses_ps = [self.pulses_ps[1], pulse_ps]

    def edges(self, begin_ps: int, end_ps: int) -> npt.NDArray[np.int64]:
        """Pulses in ``[begin_ps, end_ps)``, world time, sorted."""
        found = [pulse for pulse in self.pulses_ps if begin_ps <= pulse < end_ps]
        return np.array(found, np.int64)
