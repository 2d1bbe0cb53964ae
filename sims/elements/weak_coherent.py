"""Sources of weak coherent pulses."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from ...instruments import Unit
from ..physics.coherent import mach_zehnder, retarded_state
from .base import Model, Stage

__all__ = ["WeakCoherentModel"]

_Output = Annotated[int, Field(ge=0, le=1)]
_HalfWave = Annotated[float, Unit("V"), Field(gt=0, le=100)]


class WeakCoherentModel(Model):
    """Laser pulses of random phase, attenuated, with intensity and polarization modulators.

    A pulse leaves with each rising edge of the trigger. Its intensity and its state are those of
    the sequencer's two analog levels at that moment.
    """

    stage: ClassVar[Stage] = "source"
    kind: Literal["weak_coherent"]
    trigger: str
    """Digital output of a pulse sequencer, such as ``alice_pulses.0``."""
    mean_photons: Annotated[float, Unit("1"), Field(ge=0, le=1e4)]
    """Mean photon number of a pulse, with the intensity modulator wide open."""
    laser: str | None = None
    """Its laser; one that always emits unless given."""
    power: Annotated[float, Unit("W"), Field(gt=0)] | None = None
    """Power of the laser at which ``mean_photons`` holds; photons go with the power."""
    pulse_width: Annotated[float, Unit("s"), Field(gt=0, le=1e-6)] = 300e-12
    """FWHM of a pulse of light."""
    bandwidth: Annotated[float, Unit("m"), Field(ge=0)] = 0.0
    """FWHM of its spectrum, m of wavelength, which dispersion spreads in time and PMD blurs."""
    wavelength: Annotated[float, Unit("m"), Field(gt=0, le=1e-4)] = 1550e-9
    intensity_output: _Output = 0
    """Analog output of the sequencer that drives the intensity modulator: dark at 0 V."""
    intensity_half_wave: _HalfWave = 1.0
    """Voltage that opens it."""
    intensity_extinction: Annotated[float, Unit("dB"), Field(gt=0)] = 30.0
    """Of the intensity modulator: what passes at 0 V."""
    state_output: _Output = 1
    """Analog output that drives the polarization modulator: H at 0 V."""
    state_half_wave: _HalfWave = 1.0
    """Voltage that turns H into V; half of it into D, half of it reversed into A."""

    @model_validator(mode="after")
    def _apart(self) -> Self:
        if self.intensity_output == self.state_output:
            raise ValueError("intensity_output and state_output are the same analog output")
        if (self.laser is None) != (self.power is None):
            raise ValueError("laser and power belong together: photons go with the laser's power")
        return self

    def ports(self) -> dict[str, tuple[int, int]]:
        """Where light leaves."""
        return {"out": (0, 0)}

    def light(
        self, analog_v: npt.NDArray[np.float64], power_w: float
    ) -> npt.NDArray[np.complex128]:
        """Return pulses at these levels.

        Args:
            analog_v: Levels of the sequencer's analog outputs, (n, 2).
            power_w: Power of the laser now, W.

        Returns:
            Jones vectors whose squared length is the mean photon number, (n, 2).
        """
        full = self.mean_photons * (1.0 if self.power is None else power_w / self.power)
        share = mach_zehnder(
            analog_v[:, self.intensity_output], self.intensity_half_wave, self.intensity_extinction
        )
        state = retarded_state(analog_v[:, self.state_output], self.state_half_wave)
        found: npt.NDArray[np.complex128] = np.sqrt(full * share)[:, None] * state
        return found
