"""Free space: a link between two roofs, and a satellite that passes."""

from __future__ import annotations

import math
from typing import Annotated, ClassVar, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from ...instruments import Unit
from ..physics import free_space as physics
from ..physics.constants import C_M_PER_S
from .base import Degrees, Fraction, Model, Passage, Rate, Seconds, Stage

#: Time between two steps, s: a block of the world.
_BLOCK_S = 0.01

Angle = Annotated[float, Unit("deg"), Field(ge=0, le=90)]
Aperture = Annotated[float, Unit("m"), Field(gt=0, le=100)]


class _BeamModel(Model):
    """Telescopes, pointing and sky."""

    stage: ClassVar[Stage] = "optic"
    wavelength: Annotated[float, Unit("m"), Field(ge=1e-7, le=1e-5)] = 810e-9
    divergence: Angle = math.degrees(10e-6)
    """Full angle by which the beam spreads."""
    transmitter: Aperture = 0.3
    """Width of the beam at its beginning."""
    receiver: Aperture = 1.2
    """Diameter of the receiving telescope."""
    loss: Annotated[float, Unit("dB"), Field(ge=0)] = 0.0
    """Loss of the optics at both ends."""
    pointing_jitter: Angle = 0.0
    """Rms error of pointing, per axis."""
    pointing_time: Annotated[float, Unit("s"), Field(gt=0)] = 0.1
    """Time in which the pointing forgets its error, to 1/e."""
    scintillation_time: Seconds = 5e-3
    """Time in which scintillation forgets, to 1/e: 1 to 10 ms."""
    sky: Literal["black", "new_moon", "full_moon"] = "black"
    """What the telescope sees behind the beam: nothing, or a clear sky over a dark site."""
    field_of_view: Angle = math.degrees(100e-6)
    """Full angle that the telescope takes light from."""
    filter_width: Annotated[float, Unit("m"), Field(gt=0)] = 3e-9
    stray_light: Rate = 0.0
    """Photons of lamps or of the day, per second, that come out behind the optics."""


class _Beam:
    """What both kinds have in common: pointing and scintillation from block to block."""

    step_s = _BLOCK_S
    KEPT: ClassVar[tuple[str, ...]] = ("offset", "fading", "begun")

    def __init__(self, model: _BeamModel) -> None:
        self._beam = model
        self._pointing_memory = math.exp(-_BLOCK_S / model.pointing_time)
        self._share, self._memory = physics.block_average(model.scintillation_time, _BLOCK_S)
        #: Error of pointing in both axes, and fading, of unit variance; first drawn by a step.
        self.offset = np.zeros(2)
        self.fading = 0.0
        self.begun = False
        self._optics = 10 ** (-model.loss / 10)
        self._sky_hz = model.stray_light
        if model.sky != "black":
            radiance = physics.sky_radiance(model.wavelength, model.sky == "full_moon")
            self._sky_hz += self._optics * physics.sky_light_hz(
                radiance,
                math.radians(model.field_of_view),
                model.receiver,
                model.filter_width,
                model.wavelength,
            )

    def _fluctuate(self, rng: np.random.Generator) -> None:
        """Draw the next block's error of pointing and fading, both of unit variance."""
        fresh = rng.standard_normal(3)
        memory = np.array([self._pointing_memory] * 2 + [self._memory]) * self.begun
        last = np.append(self.offset, self.fading)
        x, y, self.fading = (memory * last + np.sqrt(1 - memory**2) * fresh).tolist()
        self.offset = np.array([x, y])
        self.begun = True

    def _transmission(self, distance_m: float, index: float) -> float:
        """Share of light that the receiver takes now, at a scintillation index."""
        model = self._beam
        divergence = math.radians(model.divergence)
        spread = physics.geometric_transmission(
            distance_m, model.transmitter, model.receiver, divergence
        )
        radius = (model.transmitter + divergence * distance_m) / 2
        x, y = math.radians(model.pointing_jitter) * distance_m * self.offset
        missed = physics.pointing_transmission(x, y, radius)
        variance = math.log1p(index) * self._share
        fading = math.exp(math.sqrt(variance) * self.fading - variance / 2)
        # Scintillation moves light about; a receiver that takes the whole beam takes no more.
        return min(1.0, self._optics * spread * missed * fading)


class FreeSpaceModel(_BeamModel):
    """A horizontal link through air."""

    kind: Literal["free_space"]
    length: Annotated[float, Unit("m"), Field(gt=0, le=1e9)]
    attenuation: Annotated[float, Unit("dB/km"), Field(ge=0)] = 0.2
    """Of the air: 0.2 dB/km when clear, 4 dB/km in haze, tens in fog."""
    turbulence: Annotated[float, Unit("m^-2/3"), Field(ge=0, le=1e-10)] = 0.0
    """Cn2 along the path: 1e-16 (calm night) to 1e-13 (hot ground)."""
    refractive_index: Annotated[float, Unit("1"), Field(ge=1)] = 1.00027


class FreeSpace(_Beam):
    """No knob: pointing and air change by themselves."""

    def __init__(self, model: FreeSpaceModel) -> None:
        super().__init__(model)
        self.model = model
        self._air = 10 ** (-model.attenuation * model.length * 1e-4)
        rytov = physics.rytov_variance(model.turbulence, model.wavelength, model.length)
        self._index = physics.scintillation_index(rytov) * physics.aperture_averaging(
            model.receiver, model.wavelength, model.length
        )
        self._passage = self._now()

    @property
    def drifts(self) -> bool:
        """Whether pointing or air fluctuate."""
        return self.model.pointing_jitter > 0 or self._index > 0

    def step(self, rng: np.random.Generator, now_s: float) -> None:
        """Go on by a block."""
        self._fluctuate(rng)
        self._passage = self._now()

    def passage(self) -> Passage:
        """What light meets now."""
        return self._passage

    def _now(self) -> Passage:
        model = self.model
        return Passage(
            transmission=self._air * self._transmission(model.length, self._index),
            delay_s=model.length * model.refractive_index / C_M_PER_S,
            light_hz=self._sky_hz,
        )


class SatellitePassModel(_BeamModel):
    """Light from a satellite that passes once over a station."""

    kind: Literal["satellite_pass"]
    altitude: Annotated[float, Unit("m"), Field(ge=1e5, le=1e8)] = 500e3
    max_elevation: Annotated[Degrees, Field(gt=0, le=90)] = 90.0
    culmination: Annotated[float, Unit("s")] = 300.0
    """World time at which the satellite stands highest."""
    min_elevation: Annotated[Degrees, Field(ge=5, lt=90)] = 10.0
    """The shutter is open above it."""
    zenith_transmission: Fraction = 0.8
    """Of the air, straight up."""
    turbulence: Annotated[float, Unit("1"), Field(ge=0, le=100)] = 1.0
    """Strength in terms of the Hufnagel-Valley profile HV 5/7; 0 for none."""

    @model_validator(mode="after")
    def _rises(self) -> Self:
        if self.max_elevation < self.min_elevation:
            raise ValueError(
                f"the satellite never rises above min_elevation, {self.min_elevation:g} deg: raise"
                f" max_elevation, {self.max_elevation:g} deg, or lower min_elevation"
            )
        return self


class SatellitePass(_Beam):
    """No knob. Readings: ``elevation_deg``, ``distance_m`` at the beginning of the block."""

    drifts = True

    def __init__(self, model: SatellitePassModel) -> None:
        super().__init__(model)
        self.model = model
        rise_m = float(physics.slant_range_m(model.altitude, model.min_elevation))
        self._dark = Passage(transmission=0.0, delay_s=rise_m / C_M_PER_S)
        self._passage = self._dark
        self._at(0.0)

    def step(self, rng: np.random.Generator, now_s: float) -> None:
        """Move the satellite to ``now_s``, and the air."""
        self._fluctuate(rng)
        self._at(now_s)

    def passage(self) -> Passage:
        """What light meets now: darkness while the satellite is too low."""
        return self._passage

    def _at(self, now_s: float) -> None:
        model = self.model
        times = now_s - model.culmination + np.array([0.0, _BLOCK_S])
        elevation, distance = physics.pass_geometry(times, model.altitude, model.max_elevation)
        self.elevation_deg, self.distance_m = float(elevation[0]), float(distance[0])
        if self.elevation_deg < model.min_elevation:
            self._passage = self._dark
            return
        sight = model.wavelength, self.elevation_deg
        rytov = model.turbulence * physics.rytov_variance_slant(*sight)
        index = physics.scintillation_index(rytov) * physics.aperture_averaging_slant(
            model.receiver, *sight
        )
        air = physics.slant_transmission(model.zenith_transmission, self.elevation_deg)
        # The rate from end to end of the block keeps the delay without steps between blocks.
        delays = distance / C_M_PER_S
        self._passage = Passage(
            transmission=air * self._transmission(self.distance_m, index),
            delay_s=float(delays[0]),
            delay_rate=float(delays[1] - delays[0]) / _BLOCK_S,
            light_hz=self._sky_hz,
        )
