"""Fibre."""

from __future__ import annotations

import math
from typing import Annotated, ClassVar, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from ...instruments import Unit
from ..physics import fibre as physics
from ..physics import polarization as pol
from ..physics.constants import C_M_PER_S
from .base import Degrees, Model, Passage, Stage

Metres = Annotated[float, Unit("m"), Field(gt=0)]


class ClassicalChannel(Model):
    """Data traffic in the same fibre, at another wavelength, or frequency, as DWDM plans say it."""

    wavelength: Annotated[float, Unit("m"), Field(ge=1e-6, le=2e-6)] | None = None
    frequency: Annotated[float, Unit("Hz"), Field(ge=150e12, le=300e12)] | None = None
    power: Annotated[float, Unit("dBm"), Field(ge=-100, le=40)]
    """What is launched into the fibre."""
    direction: Literal["forward", "backward"] = "forward"
    """With the quantum light or against it."""
    isolation: Annotated[float, Unit("dB"), Field(ge=0)] = 100.0
    """By how much the quantum channel's filter holds this one back, where both go forward."""

    @model_validator(mode="after")
    def _is_somewhere(self) -> Self:
        if (self.wavelength is None) == (self.frequency is None):
            raise ValueError("give a classical channel either its wavelength or its frequency")
        return self

    @property
    def wavelength_m(self) -> float:
        """Where it is."""
        if self.wavelength is not None:
            return self.wavelength
        assert self.frequency is not None
        return C_M_PER_S / self.frequency


class FibreModel(Model):
    """Fibre: loss, delay, dispersion, polarization, their drifts, and light from other channels."""

    stage: ClassVar[Stage] = "optic"
    kind: Literal["fibre"]
    length: Annotated[float, Unit("m"), Field(ge=0, le=1e9)] = 0.0
    attenuation: Annotated[float, Unit("dB/km"), Field(ge=0)] = 0.2
    loss: Annotated[float, Unit("dB"), Field(ge=0)] = 0.0
    """Loss besides the attenuation, at the end: coupling, connectors, filters."""
    group_index: Annotated[float, Unit("1"), Field(ge=1, le=10)] = 1.468
    dispersion: Annotated[float, Unit("s/m2"), Field(ge=-1e-2, le=1e-2)] = 0.0
    """Chromatic dispersion: 17 ps/nm/km in standard fibre at 1550 nm; below 0 it compensates."""
    pmd: Annotated[float, Unit("s/sqrt(m)"), Field(ge=0, le=1e-10)] = 0.0
    """Mean differential group delay of the two polarizations: 0.05-0.1 ps/sqrt(km)."""
    rotation: tuple[Degrees, Degrees, Degrees] = (0.0, 0.0, 0.0)
    """Rotation on the Poincare sphere: vector along (S1, S2, S3) whose length is the angle."""
    drift_time: Annotated[float, Unit("s"), Field(gt=0)] | None = None
    """Rotation and PMD walk at random: time in which they forget where they were, to 1/e."""
    daily_swing: Annotated[float, Unit("K"), Field(ge=0, le=200)] = 0.0
    """Temperature of the fibre: the day's highest less the day's lowest."""
    temperature_walk: Annotated[float, Unit("K"), Field(ge=0, le=200)] = 0.0
    """Random walk of the temperature: rms change in an hour."""
    thermal_delay: Annotated[float, Unit("s/m/K")] = 40e-15
    """Delay per length and temperature: about 40 ps/km/K, less in hollow fibre."""
    thermal_rotation: tuple[Degrees, Degrees, Degrees] = (0.0, 0.0, 0.0)
    """Rotation per kelvin, before the other; as ``rotation``."""
    wavelength: Metres = 1550e-9
    """Of the quantum light; matters beside classical channels."""
    filter_width: Metres = 0.8e-9
    """Of the filter that the quantum light passes at the end."""
    raman: Annotated[float, Unit("1/m2"), Field(ge=0)] = 2.6e-3
    """Raman scattering of a channel 1 THz to the blue: 1e-9 to 5e-9 /km/nm."""
    classical_channels: tuple[ClassicalChannel, ...] = ()


class Fibre:
    """No knob: it drifts by itself, and events bump and bend it.

    Attributes:
        kelvin: Temperature against the start; ``walked_k`` is the part that is not the day's.
        walked_k: See ``kelvin``.
        turned: Rotation of polarization without the temperature's, complex (2, 2).
        pmd_s: PMD vector (S1, S2, S3), s, shape (3,); 0 until the first step has drawn it.
        added_delay_s: What bumps have added to the delay.
        bent_db: What bends add to the loss, at the end.
    """

    #: Time between two steps of the drifts, s.
    step_s = 0.1
    KEPT: ClassVar[tuple[str, ...]] = (
        "kelvin",
        "walked_k",
        "turned",
        "pmd_s",
        "added_delay_s",
    )

    def __init__(self, model: FibreModel) -> None:
        self.model = model
        self.kelvin = 0.0
        self.walked_k = 0.0
        self.turned = pol.rotation(model.rotation)
        self.pmd_s: npt.NDArray[np.float64] = np.zeros(3)
        self.added_delay_s = 0.0
        self.bent_db = 0.0
        self._traffic_hz = sum(self._light_hz(channel) for channel in model.classical_channels)
        self._passage: tuple[tuple[object, ...], Passage] | None = None

    @property
    def jones(self) -> pol.Complex:
        """Rotation of polarization now, complex (2, 2)."""
        warm = np.asarray(self.model.thermal_rotation) * self.kelvin
        return self.turned @ pol.rotation(warm)

    @property
    def drifts(self) -> bool:
        """Whether anything about it changes, or is drawn at the start."""
        model = self.model
        return bool(
            model.drift_time is not None
            or model.daily_swing
            or model.temperature_walk
            or (model.pmd * model.length and not self.pmd_s.any())
        )

    def step(self, rng: np.random.Generator, now_s: float) -> None:
        """Drift from ``now_s`` for :attr:`step_s`."""
        model = self.model
        memory = 1.0
        if model.drift_time is not None:
            self.turned = pol.drift_step(rng, self.step_s, model.drift_time) @ self.turned
            memory = math.exp(-self.step_s / model.drift_time)
        if model.temperature_walk:
            hours = self.step_s / 3600
            self.walked_k += model.temperature_walk * math.sqrt(hours) * rng.standard_normal()
        if model.temperature_walk or model.daily_swing:
            day = physics.daily_kelvin(now_s + self.step_s, model.daily_swing)
            self.kelvin = day + self.walked_k
        first = not self.pmd_s.any()
        if model.pmd * model.length and (first or memory < 1):
            mean = physics.average_dgd_s(model.pmd, model.length)
            self.pmd_s = physics.pmd_step(rng, None if first else self.pmd_s, mean, memory)

    def bump(self, rotation_deg: tuple[float, float, float], delay_s: float = 0.0) -> None:
        """Turn the polarization by a rotation as the model's, and lengthen the fibre."""
        self.turned = pol.rotation(rotation_deg) @ self.turned
        self.added_delay_s += delay_s

    def passage(self) -> Passage:
        """What light meets now."""
        state = (self.kelvin, self.turned, self.pmd_s, self.added_delay_s, self.bent_db)
        known = self._passage
        if known is None or any(a is not b for a, b in zip(state, known[0], strict=True)):
            known = self._passage = state, self._now()
        return known[1]

    def _now(self) -> Passage:
        model = self.model
        end = 10 ** (-(model.loss + self.bent_db) / 10)
        dgd_s = float(np.linalg.norm(self.pmd_s))
        s1, s2, s3 = (self.pmd_s / dgd_s).tolist() if dgd_s > 0 else (1.0, 0.0, 0.0)
        return Passage(
            transmission=float(end * 10 ** (-model.attenuation * model.length * 1e-4)),
            jones=self.jones,
            delay_s=physics.group_delay_s(model.length, model.group_index)
            + physics.thermal_delay_s(model.length, model.thermal_delay, self.kelvin)
            + self.added_delay_s,
            dispersion=model.dispersion * model.length,
            dgd_s=dgd_s,
            pmd_axis=(s1, s2, s3),
            light_hz=end * self._traffic_hz,
        )

    def _light_hz(self, channel: ClassicalChannel) -> float:
        """Photons per second of a classical channel at the quantum one's wavelength, at the end."""
        model = self.model
        power_w = 1e-3 * 10 ** (channel.power / 10)
        beta = model.raman * physics.raman_shape(channel.wavelength_m, model.wavelength)
        along = channel.direction == "forward"
        scatter = physics.raman_forward_w if along else physics.raman_backward_w
        raman_w = scatter(power_w, model.length, model.attenuation, beta, model.filter_width)
        hz = physics.photon_rate_hz(raman_w, model.wavelength)
        if along:
            arrives_w = power_w * 10 ** (-model.attenuation * model.length * 1e-4)
            hz += physics.crosstalk_hz(arrives_w, channel.wavelength_m, channel.isolation)
        return hz
