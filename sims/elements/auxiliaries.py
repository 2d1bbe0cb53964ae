"""Attenuators and optical switches."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from ...instruments import Unit
from .base import Model, Passage, Stage

Decibels = Annotated[float, Unit("dB"), Field(ge=0)]


class AttenuatorModel(Model):
    """Variable attenuator."""

    stage: ClassVar[Stage] = "optic"
    kind: Literal["attenuator"]
    attenuation: Decibels = 0.0
    """Where it stands when the world begins, besides its insertion loss."""
    loss: Decibels = 1.0
    """Insertion loss."""


class Attenuator:
    """Knob: ``attenuation_db``, besides the insertion loss."""

    KEPT: ClassVar[tuple[str, ...]] = ("attenuation_db",)

    def __init__(self, model: AttenuatorModel) -> None:
        self.model = model
        self.attenuation_db = model.attenuation
        self._passage: Passage | None = None
        self._shown_db = self.attenuation_db

    def power_off(self) -> None:
        """Be without power: the motor stays where it is."""

    def passage(self) -> Passage:
        """What light meets now."""
        if self._passage is None or self._shown_db != self.attenuation_db:
            self._shown_db = self.attenuation_db
            share = 10 ** (-(self.model.loss + self.attenuation_db) / 10)
            self._passage = Passage(transmission=share)
        return self._passage


class SwitchModel(Model):
    """Optical switch: one input, joined to one of its outputs, each another path."""

    stage: ClassVar[Stage] = "branch"
    kind: Literal["switch"]
    outputs: Annotated[int, Field(ge=2, le=64)] = 2
    selected: Annotated[int, Field(ge=1)] = 1
    """Output that it is joined to when the world begins."""
    isolation: Annotated[float, Unit("dB"), Field(gt=0)] = 55.0
    """How much less light leaves by each of the others: crosstalk."""
    loss: Decibels = 1.0
    """Insertion loss."""

    @model_validator(mode="after")
    def _there(self) -> SwitchModel:
        if self.selected > self.outputs:
            raise ValueError(f"output {self.selected} of {self.outputs} cannot be selected")
        return self

    @property
    def branches(self) -> int:
        """How many outputs it has."""
        return self.outputs


class OpticalSwitch:
    """Knob: ``selected``, the output from 1; it latches."""

    KEPT: ClassVar[tuple[str, ...]] = ("selected",)

    def __init__(self, model: SwitchModel) -> None:
        self.model = model
        self.selected = model.selected
        self._joined = Passage(transmission=10 ** (-model.loss / 10))
        self._leak = Passage(transmission=10 ** (-(model.loss + model.isolation) / 10))

    def power_off(self) -> None:
        """Be without power: it latches."""

    def passage_to(self, port: int) -> Passage:
        """What light on its way to an output meets now."""
        return self._joined if port == self.selected else self._leak
