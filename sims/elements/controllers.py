"""Polarization controllers."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from ...instruments import Unit
from .base import Degrees, Model, Stage


class PaddlesModel(Model):
    """Fibre polarization controller: linear retarders rotated by paddles."""

    stage: ClassVar[Stage] = "optic"
    kind: Literal["paddles"]
    retardance: Annotated[tuple[Degrees, ...], Field(min_length=1)] = (90.0, 180.0, 90.0)
    loss: Annotated[float, Unit("dB"), Field(ge=0)] = 0.0


class Paddles:
    """Knob: ``angles_deg``, one per paddle."""

    def __init__(self, model: PaddlesModel) -> None:
        self.model = model
        self.angles_deg: list[float] = [0.0] * len(model.retardance)
