"""Quantum memories: those that photons come into, and ensembles that make their own."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace
from typing import Annotated, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from ...instruments import Unit
from ..physics.memory import (
    NEVER,
    Comb,
    Cycles,
    Decay,
    Fates,
    Gas,
    GasCycles,
    fates,
    in_band,
    slow_fates,
)
from .base import Fraction, Model, Stage
from .delay_generator import Train

__all__ = ["DLCZModel", "GasMemoryModel", "MemoryModel", "Output", "StorageModel", "let_out"]

Output = Literal["AB", "CD", "EF", "GH"]
Times = npt.NDArray[np.int64]


class StorageModel(Model):
    """A memory that photons come into, run by a delay generator.

    What it does with a photon: :mod:`bellbench.sims.physics.memory`.
    """

    stage: ClassVar[Stage] = "optic"
    sequencer: str
    """The delay generator that runs it; each of its cycles begins with light that empties it."""
    prepare: Output = "AB"
    """Output that prepares the medium while it is active."""
    pit: Output = "GH"
    """Output that, active when the preparation begins, makes the medium transparent: the
    reference."""
    efficiency: Fraction = 0.4
    """Of storage, fully prepared, extrapolated to no time as a spin wave."""
    bandwidth: Annotated[float, Unit("Hz"), Field(gt=0)] | None = None
    """FWHM of the band in which it stores; what of a pulse's spectrum lies outside is lost."""
    absorption: Fraction = 0.9
    """Share of the light that it takes in; the rest passes at once."""
    transparency: Fraction = 0.95
    """Share of the light that passes the transparent medium."""
    noise: Annotated[float, Unit("1"), Field(ge=0, le=100)] = 1e-3
    """Mean photons that reading adds in each mode."""
    mode_duration: Annotated[float, Unit("s"), Field(ge=1e-12, le=1)] = 200e-9
    """Length of one temporal mode."""
    loss: Annotated[float, Unit("dB"), Field(ge=0)] = 0.0

    @property
    @abstractmethod
    def used(self) -> tuple[Output, ...]:
        """Outputs of the sequencer that it listens to."""

    @abstractmethod
    def medium(self, pulse_width_s: float = 0.0) -> Comb | Gas:
        """What it does to pulses of that FWHM; 0 for what fits into its band.

        Raises:
            ConfigError: where its numbers contradict each other.
        """

    @abstractmethod
    def no_cycles(self) -> Cycles | GasCycles:
        """What it is told before its sequencer runs."""

    @abstractmethod
    def cycles(self, train: Train) -> Cycles | GasCycles:
        """What the sequencer tells it in the cycles of a train."""

    @abstractmethod
    def reads(self, cycles: Cycles | GasCycles) -> tuple[Times, Times]:
        """When light of reading comes out, and for how long, ps, (m,) each."""

    def _prepared(self, train: Train) -> tuple[Times, Times, npt.NDArray[np.bool_]]:
        """Begin and end of each cycle's preparation, and whether it makes a pit."""
        begin, end = _pulse(train, self.prepare)
        high = train.delay_ps(self.pit[0]), train.delay_ps(self.pit[1])
        pit = high[0] <= train.delay_ps(self.prepare[0]) < high[1]
        return begin, end, train.answers(self.pit[0]) & pit


class MemoryModel(StorageModel):
    """Atomic-frequency-comb memory, with or without spin-wave storage."""

    kind: Literal["memory"]
    spin_wave: bool = True
    """Whether control pulses reach it. Without them photons come out after the echo time."""
    transfer: Output = "CD"
    """Output whose rise transfers the excitation to the spin state."""
    recall: Output = "EF"
    """Output whose rise transfers it back."""
    echo_time: Annotated[float, Unit("s"), Field(gt=0, le=1)] = 25e-6
    """Inverse of the comb's tooth spacing: when the echo comes without transfer."""
    spin_coherence_time: Annotated[float, Unit("s"), Field(gt=0)] = 60e-6
    """T of the decay exp(-(t/T)^2) in the spin state."""
    burn_time: Annotated[float, Unit("s"), Field(gt=0)] = 2e-6
    """1/e time in which the comb is burned."""
    comb_lifetime: Annotated[float, Unit("s"), Field(gt=0)] = 0.1

    @property
    def used(self) -> tuple[Output, ...]:
        """Outputs of the sequencer that it listens to."""
        control = (self.transfer, self.recall) if self.spin_wave else ()
        return (self.prepare, self.pit, *control)

    def medium(self, pulse_width_s: float = 0.0) -> Comb:
        """What the comb does to pulses of that FWHM; 0 for what fits into its band.

        Raises:
            ConfigError: where its numbers contradict each other.
        """
        comb = Comb(
            efficiency=self.efficiency,
            absorption=self.absorption,
            transparency=self.transparency,
            echo_time_ps=round(self.echo_time * 1e12),
            spin_coherence_time_ps=self.spin_coherence_time * 1e12,
            burn_time_ps=self.burn_time * 1e12,
            comb_lifetime_ps=self.comb_lifetime * 1e12,
        )
        if self.bandwidth is None or not pulse_width_s:
            return comb
        share = in_band(pulse_width_s, self.bandwidth, "square")
        return replace(comb, efficiency=comb.efficiency * share)

    def no_cycles(self) -> Cycles:
        """What it is told before its sequencer runs."""
        return Cycles.none()

    def cycles(self, train: Train) -> Cycles:
        """What the sequencer tells it in the cycles of a train."""
        transfer = recall = np.full(train.starts_ps.size, NEVER)
        if self.spin_wave:
            transfer, recall = _pulse(train, self.transfer)[0], _pulse(train, self.recall)[0]
        return Cycles(train.starts_ps, *self._prepared(train), transfer, recall)

    def reads(self, cycles: Cycles | GasCycles) -> tuple[Times, Times]:
        """When light of a recall comes out, and for how long, ps, (m,) each."""
        assert isinstance(cycles, Cycles)
        begins = cycles.recall_ps[cycles.recall_ps < NEVER]
        return begins, np.full(begins.size, round(self.echo_time * 1e12))


class GasMemoryModel(StorageModel):
    """Atomic gas that keeps light as a spin wave: stopped by transparency, or in a gradient."""

    kind: Literal["gas_memory"]
    write: Output = "CD"
    """Output that lets control light in while photons come; what is in the gas when it ends stays
    there as a spin wave."""
    read: Output = "EF"
    """Output that lets control light in again: what was kept goes on."""
    scheme: Literal["eit", "gem"] = "eit"
    """Electromagnetically induced transparency: slow light stands still in the dark, first in,
    first out. Or a gradient echo: the gradient is turned round for reading, last in, first out."""
    group_delay: Annotated[float, Unit("s"), Field(gt=0, le=1)] = 2e-6
    """Time that a photon takes through the gas under control light (eit)."""
    spin_coherence_time: Annotated[float, Unit("s"), Field(gt=0)] = 100e-6
    """T of the decay as a spin wave."""
    decay: Decay = "gaussian"
    """exp(-(t/T)^2), as atoms that move and fields that vary give, or exp(-t/T), as loss does."""
    pump_time: Annotated[float, Unit("s"), Field(gt=0)] = 2e-6
    """1/e time in which the gas is pumped."""
    pumped_lifetime: Annotated[float, Unit("s"), Field(gt=0)] = 10e-3
    """1/e time in which it forgets that."""

    @property
    def used(self) -> tuple[Output, ...]:
        """Outputs of the sequencer that it listens to."""
        return (self.prepare, self.pit, self.write, self.read)

    def medium(self, pulse_width_s: float = 0.0) -> Gas:
        """What the gas does to pulses of that FWHM; 0 for what fits into its band.

        Raises:
            ConfigError: where its numbers contradict each other.
        """
        gas = Gas(
            efficiency=self.efficiency,
            absorption=self.absorption,
            transparency=self.transparency,
            group_delay_ps=round(self.group_delay * 1e12),
            spin_coherence_time_ps=self.spin_coherence_time * 1e12,
            decay=self.decay,
            pump_time_ps=self.pump_time * 1e12,
            pumped_lifetime_ps=self.pumped_lifetime * 1e12,
            gradient_echo=self.scheme == "gem",
        )
        if self.bandwidth is None or not pulse_width_s:
            return gas
        window: Literal["gaussian", "square"] = "square" if self.scheme == "gem" else "gaussian"
        share = in_band(pulse_width_s, self.bandwidth, window)
        return replace(gas, efficiency=gas.efficiency * share)

    def no_cycles(self) -> GasCycles:
        """What it is told before its sequencer runs."""
        return GasCycles.none()

    def cycles(self, train: Train) -> GasCycles:
        """What the sequencer tells it in the cycles of a train."""
        written, read = (np.stack(_pulse(train, o), 1) for o in (self.write, self.read))
        # What overlaps a reading is one pulse with it; a reading before the writing comes first.
        swap = (read[:, 0] < written[:, 0])[:, None]
        first, second = np.where(swap, read, written), np.where(swap, written, read)
        joined = (second[:, 0] <= first[:, 1]) & (second[:, 0] < NEVER)
        first[:, 1] = np.where(joined, np.maximum(first[:, 1], second[:, 1]), first[:, 1])
        second[joined] = NEVER
        on, off = np.stack([first, second], 2).swapaxes(0, 1)
        return GasCycles(train.starts_ps, *self._prepared(train), on.copy(), off.copy())

    def reads(self, cycles: Cycles | GasCycles) -> tuple[Times, Times]:
        """When light of a reading comes out, and for how long, ps, (m,) each."""
        assert isinstance(cycles, GasCycles)
        comes = cycles.on_ps[:, 1] < NEVER
        begins = cycles.on_ps[comes, 1]
        return begins, cycles.off_ps[comes, 1] - begins


def let_out(arrivals_ps: Times, cycles: Cycles | GasCycles, medium: Comb | Gas) -> Fates:
    """Tell how each photon leaves a memory; all three belong to one."""
    if isinstance(cycles, Cycles):
        assert isinstance(medium, Comb)
        return fates(arrivals_ps, cycles, medium)
    assert isinstance(medium, Gas)
    return slow_fates(arrivals_ps, cycles, medium)


def _pulse(train: Train, output: Output) -> tuple[Times, Times]:
    """Rise and fall of an output in each cycle; never where it has no length or no answer."""
    rise, fall = train.delay_ps(output[0]), train.delay_ps(output[1])
    comes = train.answers(output[0]) & (fall > rise)
    starts = train.starts_ps
    return np.where(comes, starts + rise, NEVER), np.where(comes, starts + fall, NEVER)


class DLCZModel(Model):
    """Ensemble that writes photons and spin waves in pairs, and reads the spin waves (DLCZ).

    All photons are horizontally polarized. What it does:
    :mod:`bellbench.sims.physics.memory`, :mod:`bellbench.sims.ensembles`.
    """

    stage: ClassVar[Stage] = "source"
    kind: Literal["dlcz"]
    prepare: str
    """Channel or output, such as ``sequencer.A``, whose rise begins the optical pumping, which
    empties the memory."""
    write: str
    """Channel whose rise sends a write pulse: photons leave by the port ``write``."""
    read: str
    """Channel whose rise sends a read pulse: photons leave by the port ``read``."""
    excitations: Annotated[float, Unit("1"), Field(gt=0, le=10)] = 0.01
    """Mean number that a write pulse makes in each spatial mode."""
    pumping_time: Annotated[float, Unit("s"), Field(ge=0)] = 1e-6
    """Time that the pumping takes; write pulses before its end, or without it, make no pairs."""
    efficiency: Fraction = 0.4
    """Of retrieval at once: an excitation becomes a photon."""
    lifetime: Annotated[float, Unit("s"), Field(gt=0, le=0.3)] = 100e-6
    """T of the decay of the efficiency."""
    decay: Decay = "gaussian"
    """exp(-(t/T)^2), as atoms that move and fields that vary give, or exp(-t/T), as loss does."""
    write_noise: Annotated[float, Unit("1"), Field(ge=0, le=10)] = 0.0
    """Mean photons without partners that a write pulse adds in each spatial mode."""
    read_noise: Annotated[float, Unit("1"), Field(ge=0, le=10)] = 1e-3
    """The same of a read pulse."""
    pulse_width: Annotated[float, Unit("s"), Field(gt=0, le=1e-3)] = 50e-9
    """FWHM in time of the photons."""
    spatial_modes: Annotated[int, Field(ge=1, le=64)] = 1
    """Directions in which photons are collected, each a memory of its own; all are written and
    read by the same pulses."""

    def ports(self) -> dict[str, tuple[int, int]]:
        """Where light leaves: by port, its spatial mode and whether it was read (1) or not (0)."""
        if self.spatial_modes == 1:
            return {"write": (0, 0), "read": (0, 1)}
        modes = range(self.spatial_modes)
        return {f"{arm}{n + 1}": (n, a) for n in modes for a, arm in enumerate(("write", "read"))}
