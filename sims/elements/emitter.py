"""Matter qubits that emit photons."""

from __future__ import annotations

import math
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from ...instruments import Unit
from ..physics.emission import Encoding, Fluorescence
from .base import Degrees, Fraction, Model, Stage
from .memory import Output

__all__ = ["EmitterModel"]

_Time = Annotated[float, Unit("s"), Field(gt=0)]
_Light = Annotated[float, Unit("Hz"), Field(ge=0, le=1e15)]


class EmitterModel(Model):
    """A spin that emits photons entangled with it, run by a delay generator.

    Each cycle of the generator begins with the initialisation into |0>. A rise of ``excite``
    prepares the spin and excites it: one attempt. Pulses of ``read_x`` and ``read_y`` turn the
    spin, so that ``read`` shows X or Y instead of Z: while it is high, |1> is bright, |0> dark.
    """

    stage: ClassVar[Stage] = "source"
    kind: Literal["emitter"]
    sequencer: str
    """The delay generator that runs it."""
    excite: Output = "AB"
    """Output whose rise makes an attempt."""
    read_x: Output = "CD"
    """Output that turns X onto Z (pi/2 about -Y) between attempt and read-out."""
    read_y: Output = "EF"
    """Output that turns Y onto Z (pi/2 about X)."""
    read: Output = "GH"
    """Output that reads the spin while it is high."""
    encoding: Encoding = "number"
    """``number``: |1> emits a photon, H, and |0> none; ``polarization``: |0> emits H, |1> V."""
    alpha: Fraction | None = None
    """Population of |1>, the bright state."""
    pi_voltage: Annotated[float, Unit("V"), Field(gt=0)] | None = None
    """Instead of ``alpha``: amplitude of ``excite`` that turns |0> into |1>. It drives the pulse
    that prepares the spin: alpha = sin^2(pi V / 2 pi_voltage)."""
    efficiency: Fraction = 1.0
    """Probability that an emitted photon leaves by ``out``: line, collection, filters."""
    lifetime: _Time = 12e-9
    """1/e lifetime of the excited state."""
    linewidth: Annotated[float, Unit("Hz"), Field(gt=0)] | None = None
    """FWHM of the photons' line with pure dephasing; the lifetime's own, 1/(2 pi T1), unless
    given."""
    detuning: Annotated[float, Unit("Hz")] = 0.0
    """Of the line from that of other emitters."""
    double_excitation: Fraction = 0.0
    """Probability that a spin that emits does so twice; the photon too many is filtered out."""
    phase_noise: Degrees = 0.0
    """Rms phase of the way to the station, from attempt to attempt."""
    coherence_time: _Time | None = None
    """T of the spin's dephasing exp(-t/T); it keeps its coherence unless given."""
    fluorescence: _Light = 1e6
    """Photons per second that leave by ``readout`` while |1> is read."""
    background: _Light = 0.0
    """Photons per second that leave by it while either state is read."""
    pumping_time: _Time | None = None
    """Mean time of reading after which |1> is pumped into a dark state; never unless given."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.alpha is None) == (self.pi_voltage is None):
            raise ValueError("give alpha, or the pi_voltage that makes it, and not both")
        outputs = (self.excite, self.read_x, self.read_y, self.read)
        for output in outputs:
            if outputs.count(output) > 1:
                raise ValueError(f"output {output} cannot do two things; there are AB, CD, EF, GH")
        limit = 1 / (2 * math.pi * self.lifetime)
        if self.linewidth is not None and self.linewidth < limit * (1 - 1e-9):
            raise ValueError(
                f"a linewidth of {self.linewidth:g} Hz is below {limit:g} Hz, the least for this"
                " lifetime; leave it out for that"
            )
        return self

    @property
    def dephasing_hz(self) -> float:
        """Pure dephasing rate g, 1/s, of ``1/T2 = 1/(2 T1) + g`` with ``1/T2 = pi linewidth``."""
        if self.linewidth is None:
            return 0.0
        return max(0.0, math.pi * self.linewidth - 1 / (2 * self.lifetime))

    @property
    def light(self) -> Fluorescence:
        """What a read-out shines."""
        return Fluorescence(self.fluorescence, self.background, self.pumping_time or math.inf)

    def bright(self, volts: float) -> float:
        """Population of |1> at an amplitude of the excite output."""
        if self.pi_voltage is None:
            assert self.alpha is not None
            return self.alpha
        return math.sin(math.pi / 2 * volts / self.pi_voltage) ** 2

    def ports(self) -> dict[str, tuple[int, int]]:
        """Where light leaves."""
        return {"out": (0, 0), "readout": (0, 1)}
