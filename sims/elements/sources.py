"""Pump laser, crystal and its oven, and the power meter behind the laser."""

from __future__ import annotations

import math
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field

from ...instruments import Unit
from ..physics.laser import optical_power_w
from ..physics.thermal import relax
from .base import Celsius, Degrees, Fraction, Model, Rate, Stage


class PumpLaserModel(Model):
    """Diode pump laser with its thermoelectric cooler."""

    stage: ClassVar[Stage] = "apart"
    kind: Literal["pump_laser"]
    threshold: Annotated[float, Unit("A"), Field(ge=0)] = 0.04
    slope: Annotated[float, Unit("W/A"), Field(gt=0, le=100)] = 0.5
    monitor_responsivity: Annotated[float, Unit("1"), Field(ge=0)] = 1e-3
    """Photodiode current per optical power at the monitor, A/W."""
    ambient: Celsius = 22.0
    tec_time_constant: Annotated[float, Unit("s"), Field(gt=0)] = 1.0
    power_drift: Annotated[float, Unit("1"), Field(ge=0, le=0.5)] = 0.0
    """Rms of the relative change of power at constant current: coupling, aging."""
    drift_time: Annotated[float, Unit("s"), Field(gt=0)] = 600.0
    """Time in which the power forgets where it was, to 1/e."""


class OvenModel(Model):
    """Crystal oven: heater and first-order thermal response."""

    stage: ClassVar[Stage] = "apart"
    kind: Literal["oven"]
    ambient: Celsius = 22.0
    start: Celsius | None = None
    """Temperature when the world begins; the ambient temperature unless given."""
    time_constant: Annotated[float, Unit("s"), Field(gt=0)] = 5.0


class PowerMeterModel(Model):
    """Power meter behind a pick-off of a laser."""

    stage: ClassVar[Stage] = "apart"
    kind: Literal["power_meter"]
    at: str
    tap: Fraction = 0.01
    noise: Annotated[float, Unit("1"), Field(ge=0)] = 1e-3
    """Relative rms noise of one reading."""


class CrystalModel(Model):
    """SPDC crystal emitting polarization-entangled pairs into two arms.

    Its pump is continuous, or carved into pulses by a modulator that a delay generator triggers.
    """

    stage: ClassVar[Stage] = "source"
    kind: Literal["spdc"]
    pump: str
    oven: str | None = None
    pair_rate: Annotated[float, Unit("Hz/W"), Field(ge=0, le=1e18)]
    """Pairs per second and watt of pump at perfect phase matching, before any loss."""
    phase_matching: Celsius = 25.0
    """Crystal temperature of perfect phase matching."""
    phase_matching_fwhm: Annotated[float, Unit("K"), Field(gt=0)] = 3.0
    visibility: Fraction = 1.0
    """Werner visibility of the emitted state."""
    phase: Degrees = 0.0
    """Phase of the state (|HH> + eps e^{i phi} |VV>)/sqrt(1 + eps^2) at phase matching."""
    phase_per_kelvin: Degrees = 0.0
    """Change of that phase per kelvin of detuning from phase matching."""
    imbalance: Annotated[float, Unit("1"), Field(ge=0)] = 1.0
    """eps of the state above."""
    fluorescence: Annotated[float, Unit("Hz/W"), Field(ge=0)] = 0.0
    """Uncorrelated unpolarized photons per second and watt of pump, into each arm."""
    coherence_time: Annotated[float, Unit("s"), Field(ge=0, le=1e-3)] = 0.0
    """FWHM of the two-photon correlation of a continuously pumped crystal."""
    wavelength: Annotated[float, Unit("m"), Field(gt=0)] = 1550e-9
    """Of the photons; matters beside ``bandwidth``."""
    bandwidth: Annotated[float, Unit("m"), Field(ge=0)] = 0.0
    """FWHM of each photon's spectrum, of one channel's where there are several. The two photons
    of a pair are as far above and below its middle."""
    channels: Annotated[tuple[Fraction, ...], Field(max_length=256)] = ()
    """Shares of the pairs in pairs of wavelength channels, each on a port of its own (s1 with i1,
    s2 with i2, ...); without it all light leaves by ``signal`` and ``idler``."""
    trigger: str | None = None
    """Channel of a delay generator, such as ``pulser.A``: each edge lets one pump pulse through."""
    pulse_width: Annotated[float, Unit("s"), Field(ge=0, le=1e-6)] = 0.0
    """FWHM of a pump pulse, and of the photons made by it. Mean pairs per pulse: what the pump
    would make in this time."""
    schmidt_number: Annotated[float, Unit("1"), Field(ge=1)] = 1.0
    """Number of modes a pulse's pairs are spread over; 1 where photons are spectrally pure."""

    def ports(self) -> dict[str, tuple[int, int]]:
        """Where light leaves: by port, its channel and its arm (signal 0, idler 1)."""
        if not self.channels:
            return {"signal": (0, 0), "idler": (0, 1)}
        count = range(len(self.channels))
        return {f"{arm}{n + 1}": (n, a) for n in count for a, arm in enumerate("si")}


class PumpLaser:
    """Knobs: ``current_a``, ``emitting``, ``tec_on``, ``tec_setpoint_c``."""

    step_s = 0.1
    #: What it keeps when the world is saved.
    KEPT: ClassVar[tuple[str, ...]] = ("diode_temperature_c", "power_change")

    def __init__(self, model: PumpLaserModel) -> None:
        self.model = model
        self.current_a = 0.0
        self.emitting = False
        self.tec_on = False
        self.tec_setpoint_c = 25.0
        self.diode_temperature_c = model.ambient
        #: Relative change of the power at constant current.
        self.power_change = 0.0
        #: By how much higher a mode hop has moved the phase-matching temperature of its crystals.
        self.mode_shift_k = 0.0

    @property
    def drifts(self) -> bool:
        """Whether its power does."""
        return self.model.power_drift > 0

    def step(self, rng: np.random.Generator, now_s: float) -> None:
        """Let the power drift for :attr:`step_s`: an Ornstein-Uhlenbeck process, exactly."""
        kept = math.exp(-self.step_s / self.model.drift_time)
        kick = self.model.power_drift * math.sqrt(1 - kept * kept)
        self.power_change = max(-1.0, kept * self.power_change + kick * rng.standard_normal())

    def power_off(self) -> None:
        """Be without power."""
        self.emitting = self.tec_on = False

    def settle(self, dt_s: float) -> None:
        """Advance the diode's temperature by ``dt_s``."""
        target = self.tec_setpoint_c if self.tec_on else self.model.ambient
        self.diode_temperature_c = relax(
            self.diode_temperature_c, target, self.model.tec_time_constant, dt_s
        )

    @property
    def power_w(self) -> float:
        """Optical power now, W."""
        if not self.emitting:
            return 0.0
        power = optical_power_w(self.current_a, self.model.threshold, self.model.slope)
        return power * (1 + self.power_change)

    @property
    def drive_current_a(self) -> float:
        """Current through the diode now, A."""
        return self.current_a if self.emitting else 0.0

    @property
    def voltage_v(self) -> float:
        """Forward voltage: a 1.2 V junction behind 2 ohm; 0 when off."""
        return 1.2 + 2.0 * self.current_a if self.emitting and self.current_a > 0 else 0.0

    @property
    def monitor_current_a(self) -> float:
        """Photodiode current, A."""
        return self.model.monitor_responsivity * self.power_w


class Oven:
    """Knobs: ``setpoint_c``, ``heating``. Reading: ``temperature_c``."""

    #: What it keeps when the world is saved.
    KEPT: ClassVar[tuple[str, ...]] = ("temperature_c",)

    def __init__(self, model: OvenModel) -> None:
        self.model = model
        self.setpoint_c = model.ambient
        self.heating = False
        self.temperature_c = model.ambient if model.start is None else model.start

    def power_off(self) -> None:
        """Be without power."""
        self.heating = False

    def settle(self, dt_s: float) -> None:
        """Advance by ``dt_s``; a heater cannot cool below the ambient temperature."""
        target = max(self.setpoint_c, self.model.ambient) if self.heating else self.model.ambient
        self.temperature_c = relax(self.temperature_c, target, self.model.time_constant, dt_s)


class PowerMeterHead:
    """Knob: ``wavelength_m``. Reading: ``power_w``."""

    def __init__(self, model: PowerMeterModel, laser: PumpLaser) -> None:
        self.model = model
        self.laser = laser
        self.wavelength_m = 405e-9

    @property
    def power_w(self) -> float:
        """Power on the head now, W, without readout noise (``model.noise`` is the reader's)."""
        return self.model.tap * self.laser.power_w


class LightModel(Model):
    """Light that is always on, a bright lamp or an attenuated laser: photons without partners."""

    stage: ClassVar[Stage] = "source"
    kind: Literal["light"]
    rate: Rate
    """Photons per second."""
    polarization: tuple[
        Annotated[float, Unit("1")], Annotated[float, Unit("1")], Annotated[float, Unit("1")]
    ] = (0.0, 0.0, 0.0)
    """Stokes vector (S1, S2, S3), length 1 for polarized light; unpolarized unless given."""

    def ports(self) -> dict[str, tuple[int, int]]:
        """Where light leaves."""
        return {"out": (0, 0)}


class Light:
    """Knob: ``rate_hz``."""

    def __init__(self, model: LightModel) -> None:
        self.model = model
        self.rate_hz = model.rate
