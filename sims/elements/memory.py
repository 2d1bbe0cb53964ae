"""Quantum memories."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from ...instruments import Unit
from ..physics.memory import Comb
from .base import Fraction, Model, Stage

Output = Literal["AB", "CD", "EF", "GH"]


class MemoryModel(Model):
    """Atomic-frequency-comb memory with spin-wave storage, run by a delay generator.

    What it does with a photon: :mod:`bellbench.sims.physics.memory`.
    """

    stage: ClassVar[Stage] = "optic"
    kind: Literal["memory"]
    sequencer: str
    """The delay generator that runs it; each of its cycles begins with the cleaning light."""
    prepare: Output = "AB"
    """Output that burns the comb while it is active."""
    pit: Output = "GH"
    """Output that, active when the burn begins, makes it a transparent pit: the reference."""
    transfer: Output = "CD"
    """Output whose rise transfers the excitation to the spin state."""
    recall: Output = "EF"
    """Output whose rise transfers it back."""
    echo_time: Annotated[float, Unit("s"), Field(gt=0, le=1)] = 25e-6
    """Inverse of the comb's tooth spacing: when the echo comes without transfer."""
    efficiency: Fraction = 0.4
    """Of storage, fully burned, extrapolated to no time in the spin state."""
    spin_coherence_time: Annotated[float, Unit("s"), Field(gt=0)] = 60e-6
    """T of the decay exp(-(t/T)^2) in the spin state."""
    burn_time: Annotated[float, Unit("s"), Field(gt=0)] = 2e-6
    """1/e time in which the comb is burned."""
    comb_lifetime: Annotated[float, Unit("s"), Field(gt=0)] = 0.1
    absorption: Fraction = 0.9
    """Share of the light that the comb absorbs; the rest passes at once."""
    transparency: Fraction = 0.95
    """Share of the light that passes the pit."""
    noise: Annotated[float, Unit("1"), Field(ge=0)] = 1e-3
    """Mean photons that a recall adds in each mode."""
    mode_duration: Annotated[float, Unit("s"), Field(gt=0)] = 200e-9
    """Length of one temporal mode."""
    loss: Annotated[float, Unit("dB"), Field(ge=0)] = 0.0

    def comb(self) -> Comb:
        """What the comb does to photons.

        Raises:
            ConfigError: where its numbers contradict each other.
        """
        return Comb(
            efficiency=self.efficiency,
            absorption=self.absorption,
            transparency=self.transparency,
            echo_time_ps=round(self.echo_time * 1e12),
            spin_coherence_time_ps=self.spin_coherence_time * 1e12,
            burn_time_ps=self.burn_time * 1e12,
            comb_lifetime_ps=self.comb_lifetime * 1e12,
        )
