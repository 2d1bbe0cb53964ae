"""Time taggers."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from ...instruments import Unit
from .base import Model, Seconds, Stage


class TaggerModel(Model):
    """Time tagger inputs; a path's detectors feed them one after the other."""

    stage: ClassVar[Stage] = "tag"
    kind: Literal["tagger"]
    cable_delays: tuple[Annotated[float, Unit("s"), Field(ge=0, le=1)], ...] = ()
    """Electrical delay of each input, 0 where not given."""
    jitter: Seconds = 0.0
    """FWHM of the tagger's own timing jitter."""
    start_offset: Annotated[float, Unit("s")] = 0.0
    """How long after the command the recording begins; unknown to the user."""


class TaggerInputs:
    """Knob: ``recording``. Readings: ``times_ps``, ``inputs`` of the block that has just ended.

    ``times_ps`` (int64, sorted, world time of the electrical pulse at the tagger) and ``inputs``
    (int16, counted from 1) hold the clicks in ``[begin, end)`` of the block while ``recording``.
    """

    def __init__(self, model: TaggerModel) -> None:
        self.model = model
        self.recording = False
        self.times_ps: npt.NDArray[np.int64] = np.empty(0, np.int64)
        self.inputs: npt.NDArray[np.int16] = np.empty(0, np.int16)
        self._parts: list[tuple[npt.NDArray[np.int64], npt.NDArray[np.int16]]] = []

    def add(self, times_ps: npt.NDArray[np.int64], inputs: npt.NDArray[np.int16]) -> None:
        """Take the sorted pulses of some inputs in this block."""
        self._parts.append((times_ps, inputs))

    def end_block(self) -> None:
        """Merge what the inputs took into the block's pulses."""
        parts, self._parts = self._parts, []
        if len(parts) == 1:
            self.times_ps, self.inputs = parts[0]
            return
        times = np.concatenate([np.empty(0, np.int64), *(part[0] for part in parts)])
        inputs = np.concatenate([np.empty(0, np.int16), *(part[1] for part in parts)])
        order = np.argsort(times, kind="stable")
        self.times_ps, self.inputs = times[order], inputs[order]
