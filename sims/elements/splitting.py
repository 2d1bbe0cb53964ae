"""What splits light onto detectors: analyzers, splitters, Bell stations."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from ...instruments import Unit
from .base import Degrees, Fraction, Model, Passage, Stage


class AnalyzerModel(Model):
    """Passive BBM92 analyzer: beam splitter, then H/V and D/A polarizing beam splitters.

    Its outputs are, in this order, H, V, D, A.
    """

    stage: ClassVar[Stage] = "split"
    kind: Literal["analyzer"]
    z_fraction: Fraction = 0.5
    """Share of photons sent to the H/V side."""
    extinction: Annotated[float, Unit("dB"), Field(gt=0, le=200)] = 60.0
    """Polarization extinction of each polarizing beam splitter."""
    loss: Annotated[float, Unit("dB"), Field(ge=0)] = 0.0


class SplitterModel(Model):
    """Beam splitter with a detector at each output, blind to polarization."""

    stage: ClassVar[Stage] = "split"
    kind: Literal["splitter"]
    transmission: Fraction = 0.5
    """Share of photons sent to the first output."""
    loss: Annotated[float, Unit("dB"), Field(ge=0)] = 0.0


class PolarizingSplitterModel(Model):
    """Polarizing beam splitter with a detector at each output: one basis at a time.

    With a controller before it (paddles, liquid crystals, squeezers) it is an analyzer whose basis
    is chosen by what the controller does. Outputs, in this order: along its axis, across it.
    """

    stage: ClassVar[Stage] = "split"
    kind: Literal["polarizing_splitter"]
    angle: Degrees = 0.0
    """Of its axis from horizontal: 45 deg takes D and A apart."""
    extinction: Annotated[float, Unit("dB"), Field(gt=0, le=200)] = 60.0
    """Polarization extinction of both outputs."""
    loss: Annotated[float, Unit("dB"), Field(ge=0)] = 0.0


class BellStationModel(Model):
    """Bell-state station: a beam splitter, then a polarizing beam splitter in each port.

    Inputs: ``left`` and ``right``. Outputs, in this order: cH, cV, dH, dV.
    """

    stage: ClassVar[Stage] = "station"
    kind: Literal["bell_station"]
    reflectivity: Fraction = 0.5
    extinction: Annotated[float, Unit("dB"), Field(gt=0, le=200)] = 40.0
    """Polarization extinction of each polarizing beam splitter."""
    mode_overlap: Fraction = 1.0
    """Overlap, in space and spectrum, of two photons that arrive together."""
    loss: Annotated[float, Unit("dB"), Field(ge=0)] = 0.0


class CouplerModel(Model):
    """Fibre coupler: light goes on by one of its outputs at random, each another path."""

    stage: ClassVar[Stage] = "branch"
    kind: Literal["coupler"]
    shares: Annotated[tuple[Fraction, ...], Field(min_length=2, max_length=64)] = (0.5, 0.5)
    """Share of photons at outputs 1, 2, ...; together 1 at most."""
    loss: Annotated[float, Unit("dB"), Field(ge=0)] = 0.0

    @property
    def branches(self) -> int:
        """How many outputs it has."""
        return len(self.shares)

    @model_validator(mode="after")
    def _together(self) -> CouplerModel:
        if sum(self.shares) > 1 + 1e-9:
            raise ValueError(f"the shares sum to {sum(self.shares):g}; 1 is the most there can be")
        return self


class Coupler:
    """No knob."""

    def __init__(self, model: CouplerModel) -> None:
        self.model = model
        passed = 10 ** (-model.loss / 10)
        self._passages = [Passage(transmission=share * passed) for share in model.shares]

    def passage_to(self, port: int) -> Passage:
        """What light on its way to an output meets."""
        return self._passages[port - 1]
