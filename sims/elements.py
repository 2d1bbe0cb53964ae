"""The parts of an optical layout: what the world file says of them, and their knobs.

A *model* is what the world file says and never changes. An element holds a model and the state
that instruments turn (knobs) and read. Knobs are turned at block boundaries only.
"""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from ..instruments import Unit
from .physics.laser import optical_power_w
from .physics.thermal import relax

__all__ = [
    "AnalyzerModel",
    "CrystalModel",
    "ElementModel",
    "FibreModel",
    "Oven",
    "OvenModel",
    "Paddles",
    "PaddlesModel",
    "PowerMeterHead",
    "PowerMeterModel",
    "PumpLaser",
    "PumpLaserModel",
    "SnspdArray",
    "SnspdModel",
    "TaggerInputs",
    "TaggerModel",
]

Fraction = Annotated[float, Unit("1"), Field(ge=0, le=1)]
Seconds = Annotated[float, Unit("s"), Field(ge=0)]
Rate = Annotated[float, Unit("Hz"), Field(ge=0)]
Degrees = Annotated[float, Unit("deg")]
Celsius = Annotated[float, Unit("degC")]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PumpLaserModel(_Model):
    """Diode pump laser with its thermoelectric cooler."""

    kind: Literal["pump_laser"]
    threshold: Annotated[float, Unit("A"), Field(ge=0)] = 0.04
    slope: Annotated[float, Unit("W/A"), Field(gt=0)] = 0.5
    monitor_responsivity: Annotated[float, Unit("1"), Field(ge=0)] = 1e-3
    """Photodiode current per optical power at the monitor, A/W."""
    ambient: Celsius = 22.0
    tec_time_constant: Annotated[float, Unit("s"), Field(gt=0)] = 1.0


class OvenModel(_Model):
    """Crystal oven: heater and first-order thermal response."""

    kind: Literal["oven"]
    ambient: Celsius = 22.0
    start: Celsius | None = None
    """Temperature when the world begins; the ambient temperature unless given."""
    time_constant: Annotated[float, Unit("s"), Field(gt=0)] = 5.0


class PowerMeterModel(_Model):
    """Power meter behind a pick-off of a laser."""

    kind: Literal["power_meter"]
    at: str
    tap: Fraction = 0.01
    noise: Annotated[float, Unit("1"), Field(ge=0)] = 1e-3
    """Relative rms noise of one reading."""


class CrystalModel(_Model):
    """CW-pumped SPDC crystal emitting polarization-entangled pairs into two arms."""

    kind: Literal["spdc"]
    pump: str
    oven: str | None = None
    pair_rate: Annotated[float, Unit("Hz/W"), Field(ge=0)]
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
    coherence_time: Seconds = 0.0
    """FWHM of the two-photon correlation."""


class FibreModel(_Model):
    """Fibre: loss, group delay, dispersion and a fixed rotation of polarization."""

    kind: Literal["fibre"]
    length: Annotated[float, Unit("m"), Field(ge=0)] = 0.0
    attenuation: Annotated[float, Unit("dB/km"), Field(ge=0)] = 0.2
    loss: Annotated[float, Unit("dB"), Field(ge=0)] = 0.0
    """Loss besides the attenuation: coupling, connectors, filters."""
    group_index: Annotated[float, Unit("1"), Field(gt=0)] = 1.468
    dispersion_broadening: Seconds = 0.0
    """FWHM that chromatic dispersion adds to the arrival time."""
    rotation: tuple[Degrees, Degrees, Degrees] = (0.0, 0.0, 0.0)
    """Rotation on the Poincare sphere: vector along (S1, S2, S3) whose length is the angle."""


class PaddlesModel(_Model):
    """Fibre polarization controller: linear retarders rotated by paddles."""

    kind: Literal["paddles"]
    retardance: tuple[Degrees, ...] = (90.0, 180.0, 90.0)
    loss: Annotated[float, Unit("dB"), Field(ge=0)] = 0.0


class AnalyzerModel(_Model):
    """Passive BBM92 analyzer: beam splitter, then H/V and D/A polarizing beam splitters.

    Its outputs are, in this order, H, V, D, A.
    """

    kind: Literal["analyzer"]
    z_fraction: Fraction = 0.5
    """Share of photons sent to the H/V side."""
    extinction: Annotated[float, Unit("dB"), Field(gt=0)] = 60.0
    """Polarization extinction of each polarizing beam splitter."""
    loss: Annotated[float, Unit("dB"), Field(ge=0)] = 0.0


class DetectorModel(_Model):
    """One SNSPD."""

    efficiency: Fraction = 0.9
    """System detection efficiency at the operating bias."""
    dark_rate: Rate = 100.0
    """Dark counts at the operating bias, the background light included."""
    operating_bias: Annotated[float, Unit("A"), Field(gt=0)] = 18e-6
    switching_current: Annotated[float, Unit("A"), Field(gt=0)] = 22e-6
    jitter: Seconds = 50e-12
    """FWHM of the Gaussian timing jitter of the detector with its amplifier."""
    dead_time: Seconds = 30e-9


class SnspdModel(_Model):
    """Array of SNSPDs on one electronics box; one per analyzer output."""

    kind: Literal["snspd"]
    detectors: Annotated[tuple[DetectorModel, ...], Field(min_length=1, max_length=64)]


class TaggerModel(_Model):
    """Time tagger inputs; input n is fed by detector n of the path."""

    kind: Literal["tagger"]
    cable_delays: tuple[Seconds, ...] = ()
    """Electrical delay of each input, 0 where not given."""
    jitter: Seconds = 0.0
    """FWHM of the tagger's own timing jitter."""
    start_offset: Annotated[float, Unit("s")] = 0.0
    """How long after the command the recording begins; unknown to the user."""


ElementModel = Annotated[
    PumpLaserModel
    | OvenModel
    | PowerMeterModel
    | CrystalModel
    | FibreModel
    | PaddlesModel
    | AnalyzerModel
    | SnspdModel
    | TaggerModel,
    Field(discriminator="kind"),
]


class PumpLaser:
    """Knobs: ``current_a``, ``emitting``, ``tec_on``, ``tec_setpoint_c``."""

    def __init__(self, model: PumpLaserModel) -> None:
        self.model = model
        self.current_a = 0.0
        self.emitting = False
        self.tec_on = False
        self.tec_setpoint_c = 25.0
        self.diode_temperature_c = model.ambient

    def step(self, dt_s: float) -> None:
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
        return optical_power_w(self.current_a, self.model.threshold, self.model.slope)

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

    def __init__(self, model: OvenModel) -> None:
        self.model = model
        self.setpoint_c = model.ambient
        self.heating = False
        self.temperature_c = model.ambient if model.start is None else model.start

    def step(self, dt_s: float) -> None:
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


class Paddles:
    """Knob: ``angles_deg``, one per paddle."""

    def __init__(self, model: PaddlesModel) -> None:
        self.model = model
        self.angles_deg: list[float] = [0.0] * len(model.retardance)


class SnspdArray:
    """Knobs: ``bias_a``, ``trigger_v`` (per detector), ``enabled``, ``counting``.

    Reading: ``counts``, int64 per detector, of the block that has just ended; it is filled only
    while ``counting`` (somebody listens to counts) or while the tagger behind it records.
    """

    def __init__(self, model: SnspdModel) -> None:
        self.model = model
        n = len(model.detectors)
        self.bias_a: list[float] = [0.0] * n
        self.trigger_v: list[float] = [0.1] * n
        self.enabled = False
        self.counting = False
        self.counts: npt.NDArray[np.int64] = np.zeros(n, np.int64)


class TaggerInputs:
    """Knob: ``recording``. Readings: ``times_ps``, ``inputs`` of the block that has just ended.

    ``times_ps`` (int64, sorted, world time of the electrical pulse at the tagger) and ``inputs``
    (int16, counted from 1) hold the clicks in ``[begin, end)`` of the block while ``recording``.
    """

    def __init__(self, model: TaggerModel, inputs: int) -> None:
        self.model = model
        self.input_count = inputs
        self.recording = False
        self.times_ps: npt.NDArray[np.int64] = np.empty(0, np.int64)
        self.inputs: npt.NDArray[np.int16] = np.empty(0, np.int16)
