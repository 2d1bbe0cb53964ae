"""The optics of a path of light, in order: what they do to photons as they stand now."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import numpy.typing as npt

from . import elements as el
from .layout import STATION_OUTPUTS, WorldModel
from .physics import polarization as pol

__all__ = ["Arm", "Passed", "station_light_hz"]

Real = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Passed:
    """What all optics of an arm do together, while none of them changes.

    Attributes:
        transmission: Share of unpolarized light that passes, memories apart.
        transmission_after_memory: The part of it behind the memory.
        jones: The rotations alone, unitary, complex (2, 2).
        stokes: Map of Stokes vectors, rotations included, transmission not; real (4, 4).
        delay_s: Group delay at the beginning of the block, and ``delay_rate`` its change, s/s.
        delay_rate: See ``delay_s``.
        delay_to_memory_s: The part of it before the memory.
        dispersion: Group delay per wavelength, s/m.
        pmd_s: PMD vector (S1, S2, S3) of all fibres at the end, s.
        lights: What the optics add themselves: photons per second, and the transmission and the
            map of Stokes vectors of the optics behind.
    """

    transmission: float
    transmission_after_memory: float
    jones: pol.Complex
    stokes: Real
    delay_s: float
    delay_rate: float
    delay_to_memory_s: float
    dispersion: float
    pmd_s: Real
    lights: tuple[tuple[float, float, Real], ...]

    def light_hz(self, rows: Real) -> Real:
        """Clicks per second of the light that the optics add.

        Args:
            rows: Of each detector at the end, its operator over Stokes vectors, (n, 4).
        """
        found = np.zeros(len(rows))
        for hz, transmission, stokes in self.lights:
            found += hz * transmission * (rows @ stokes)[:, 0]
        return found


class Arm:
    """The optics of a path of light, in order; the last may split it into several outputs.

    Args:
        model: The world.
        elements: Its elements.
        optics: Name and port of each thing on the way to the detectors.
    """

    def __init__(
        self,
        model: WorldModel,
        elements: Mapping[str, object],
        optics: Sequence[tuple[str, str]],
    ) -> None:
        models = [model.elements[name] for name, _ in optics]
        self._steps = [
            _step(one, elements.get(name), port)
            for one, (name, port) in zip(models, optics, strict=True)
        ]
        self.memory = next((one for one in models if isinstance(one, el.StorageModel)), None)
        self._memory_at = models.index(self.memory) if self.memory is not None else len(models)
        self.operators = _operators(models)
        self._passed: tuple[tuple[el.Passage, ...], Passed] | None = None

    def passed(self) -> Passed:
        """What the optics do now: the same object as long as none of them has changed."""
        passages = tuple(step() for step in self._steps)
        known = self._passed
        if known is None or any(a is not b for a, b in zip(passages, known[0], strict=True)):
            known = self._passed = passages, self._pass(passages)
        return known[1]

    def _pass(self, passages: tuple[el.Passage, ...]) -> Passed:
        jones: pol.Complex = np.eye(2, dtype=np.complex128)
        stokes: Real = np.eye(4)
        transmission = after_memory = 1.0
        pmd: Real = np.zeros(3)
        lights: list[tuple[float, float, Real]] = []
        for i, passage in enumerate(passages):
            jones = passage.jones @ jones
            turn = pol.stokes_map(passage.jones)
            # First order: each fibre's own, turned by all that follows.
            pmd = turn[1:, 1:] @ pmd + passage.dgd_s * np.asarray(passage.pmd_axis)
            if passage.stokes is not None:
                turn = passage.stokes @ turn
            stokes = turn @ stokes
            transmission *= passage.transmission
            if i > self._memory_at:
                after_memory *= passage.transmission
            lights = [
                (hz, share * passage.transmission, turn @ later) for hz, share, later in lights
            ]
            if passage.light_hz > 0:
                lights.append((passage.light_hz, 1.0, np.eye(4)))
        before = passages[: self._memory_at]
        return Passed(
            transmission,
            after_memory,
            jones,
            stokes,
            sum(p.delay_s for p in passages),
            sum(p.delay_rate for p in passages),
            sum(p.delay_s for p in before),
            sum(p.dispersion for p in passages),
            pmd,
            tuple(lights),
        )


def station_light_hz(station: el.BellStationModel, arms: Mapping[str, Arm]) -> Real:
    """Unpolarized light of the optics on the ways to a station at its outputs, per second, (4,).

    Args:
        station: The station.
        arms: The ways, by ``left`` and ``right``, whose light is counted here.
    """
    reflected = station.reflectivity
    to_c = {"left": 1 - reflected, "right": reflected}
    found = np.zeros(len(STATION_OUTPUTS))
    for side, arm in arms.items():
        light = sum(hz * share for hz, share, _ in arm.passed().lights)
        share = to_c[side]
        found += light / 2 * np.array([share, share, 1 - share, 1 - share])
    return found * 10 ** (-station.loss / 10)


def _step(model: object, element: object, port: str) -> Callable[[], el.Passage]:
    if isinstance(element, el.Branching):
        return functools.partial(element.passage_to, int(port))
    if isinstance(element, el.Optic):
        return element.passage
    # What has no state of its own has a loss at most.
    loss = el.Passage(transmission=float(10 ** (-getattr(model, "loss", 0.0) / 10)))
    return lambda: loss


def _operators(models: Sequence[object]) -> pol.Complex:
    """Measurement operators of the outputs, shape (n, 2, 2)."""
    for one in models:
        if isinstance(one, el.AnalyzerModel):
            return pol.analyzer_operators(one.z_fraction, one.extinction)
        if isinstance(one, el.PolarizingSplitterModel):
            return pol.polarizer_operators(one.angle, one.extinction)
        if isinstance(one, el.SplitterModel):
            shares = np.array([one.transmission, 1 - one.transmission])
            return cast(pol.Complex, shares[:, None, None] * np.eye(2, dtype=np.complex128))
    return np.eye(2, dtype=np.complex128)[None]
