"""What every element has in common, and what light meets in one that it passes.

A *model* is what the world file says and never changes. An *element* holds a model and the state
that instruments turn (knobs) and read. Knobs are turned at block boundaries only.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from ...instruments import Unit

__all__ = [
    "Branching",
    "Celsius",
    "Degrees",
    "Drifting",
    "Fraction",
    "Model",
    "Optic",
    "Passage",
    "Rate",
    "Seconds",
    "Stage",
]

Fraction = Annotated[float, Unit("1"), Field(ge=0, le=1)]
Seconds = Annotated[float, Unit("s"), Field(ge=0, le=1000)]
Rate = Annotated[float, Unit("Hz"), Field(ge=0)]
Degrees = Annotated[float, Unit("deg")]
Celsius = Annotated[float, Unit("degC")]

#: Where an element stands in a path: at its beginning, then any optics, a ``branch`` among them
#: where paths part, one that splits the light, one kind of detectors, one tagger. ``wire`` gives
#: edges to a tagger; ``apart`` is what no path passes.
Stage = Literal["source", "optic", "branch", "split", "detect", "tag", "station", "wire", "apart"]


class Model(BaseModel):
    """What a world file says of one element."""

    model_config = ConfigDict(extra="forbid", frozen=True)


@dataclass(frozen=True, eq=False)
class Passage:
    """What light meets on its way through one element, as it stands in a block.

    Attributes:
        transmission: Share of unpolarized light that passes.
        jones: Rotation of polarization that it meets first, unitary, complex (2, 2).
        stokes: What follows, a real (4, 4) map of Stokes vectors (S0, S1, S2, S3) that leaves S0 of
            unpolarized light as it is (depolarization, dichroism, a photon measured and sent
            again); None for nothing. Light of two sources that interfere takes none.
        delay_s: Group delay at the beginning of the block.
        delay_rate: Its change, s/s.
        dispersion: Group delay per wavelength, s/m: the dispersion parameter times the length.
        dgd_s: Differential group delay of the two principal states: it blurs the polarization of
            light of some bandwidth (``physics.fibre.pmd_map``), after ``jones`` and before
            ``stokes``.
        pmd_axis: Slow principal state at the end, a unit Stokes vector (S1, S2, S3).
        light_hz: Unpolarized photons per second that it adds, at its end.
    """

    transmission: float = 1.0
    jones: npt.NDArray[np.complex128] = field(
        default_factory=lambda: np.eye(2, dtype=np.complex128)
    )
    stokes: npt.NDArray[np.float64] | None = None
    delay_s: float = 0.0
    delay_rate: float = 0.0
    dispersion: float = 0.0
    dgd_s: float = 0.0
    pmd_axis: tuple[float, float, float] = (1.0, 0.0, 0.0)
    light_hz: float = 0.0


@runtime_checkable
class Optic(Protocol):
    """An element that light passes."""

    def passage(self) -> Passage:
        """What light meets now: the same object as long as nothing has changed."""
        ...


@runtime_checkable
class Branching(Protocol):
    """An element with several outputs, each the beginning of another way."""

    def passage_to(self, port: int) -> Passage:
        """What light on its way to an output, from 1, meets now; as :meth:`Optic.passage`."""
        ...


@runtime_checkable
class Drifting(Protocol):
    """An element that changes by itself, at random or on a schedule."""

    #: Time between two steps, s; a multiple of a block.
    step_s: float

    @property
    def drifts(self) -> bool:
        """Whether it needs steps at all."""
        ...

    def step(self, rng: np.random.Generator, now_s: float) -> None:
        """Go on by ``step_s`` from world time ``now_s``."""
        ...
