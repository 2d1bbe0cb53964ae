"""An eavesdropper in a path."""

from __future__ import annotations

from typing import ClassVar, Literal

from ..physics.interception import intercept_map
from .base import Fraction, Model, Passage, Rate, Stage


class EavesdropperModel(Model):
    """Somebody in the path: does nothing unless told to, at the start or by an event."""

    stage: ClassVar[Stage] = "optic"
    kind: Literal["eavesdropper"]
    intercept: Fraction = 0.0
    """Share of photons measured in a random basis (Z or X) and sent again."""
    tap: Fraction = 0.0
    """Share of the light branched off."""
    light: Rate = 0.0
    """Unpolarized photons sent to the detectors, before their losses."""


class Eavesdropper:
    """Knobs: ``intercept`` and ``tap``, shares of the light; ``light``, photons per second."""

    def __init__(self, model: EavesdropperModel) -> None:
        self.model = model
        self.intercept = model.intercept
        self.tap = model.tap
        self.light = model.light
        self._passage: tuple[tuple[float, float, float], Passage] | None = None

    def passage(self) -> Passage:
        """What light meets now."""
        now = self.intercept, self.tap, self.light
        if self._passage is None or self._passage[0] != now:
            self._passage = (
                now,
                Passage(
                    transmission=1 - self.tap,
                    stokes=intercept_map(self.intercept) if self.intercept else None,
                    light_hz=self.light,
                ),
            )
        return self._passage[1]
