"""Fibre."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field

from ...instruments import Unit
from ..physics.polarization import drift_step, rotation
from .base import Degrees, Model, Seconds, Stage


class FibreModel(Model):
    """Fibre: loss, group delay, dispersion and a fixed rotation of polarization."""

    stage: ClassVar[Stage] = "optic"
    kind: Literal["fibre"]
    length: Annotated[float, Unit("m"), Field(ge=0, le=1e9)] = 0.0
    attenuation: Annotated[float, Unit("dB/km"), Field(ge=0)] = 0.2
    loss: Annotated[float, Unit("dB"), Field(ge=0)] = 0.0
    """Loss besides the attenuation: coupling, connectors, filters."""
    group_index: Annotated[float, Unit("1"), Field(gt=0)] = 1.468
    dispersion_broadening: Seconds = 0.0
    """FWHM that chromatic dispersion adds to the arrival time."""
    rotation: tuple[Degrees, Degrees, Degrees] = (0.0, 0.0, 0.0)
    """Rotation on the Poincare sphere: vector along (S1, S2, S3) whose length is the angle."""
    drift_time: Annotated[float, Unit("s"), Field(gt=0)] | None = None
    """The rotation walks at random: time in which the state forgets where it was, to 1/e."""


class Fibre:
    """No knob: its polarization walks by itself. Reading: ``jones``, complex (2, 2)."""

    #: Longest step of the walk, s.
    STEP_S = 0.1

    def __init__(self, model: FibreModel) -> None:
        self.model = model
        self.jones = rotation(model.rotation)

    def step(self, rng: np.random.Generator) -> None:
        """Walk for :attr:`STEP_S`; a fibre without ``drift_time`` stays as it is."""
        if self.model.drift_time is not None:
            self.jones = drift_step(rng, self.STEP_S, self.model.drift_time) @ self.jones
