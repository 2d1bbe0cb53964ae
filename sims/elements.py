"""The parts of an optical layout: what the world file says of them, and their knobs.

A *model* is what the world file says and never changes. An element holds a model and the state
that instruments turn (knobs) and read. Knobs are turned at block boundaries only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from ..instruments import Unit
from .physics.laser import optical_power_w
from .physics.memory import Comb
from .physics.polarization import drift_step, rotation
from .physics.pulses import first_tick, stride_of, ticks_ps
from .physics.thermal import relax

__all__ = [
    "AnalyzerModel",
    "BellStationModel",
    "CrystalModel",
    "DelayGenerator",
    "DelayGeneratorModel",
    "Edges",
    "ElementModel",
    "Fibre",
    "FibreModel",
    "MemoryModel",
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
    "SplitterModel",
    "TaggerInputs",
    "TaggerModel",
    "Train",
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
    """SPDC crystal emitting polarization-entangled pairs into two arms.

    Its pump is continuous, or carved into pulses by a modulator that a delay generator triggers.
    """

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
    """FWHM of the two-photon correlation of a continuously pumped crystal."""
    trigger: str | None = None
    """Channel of a delay generator, such as ``pulser.A``: each edge lets one pump pulse through."""
    pulse_width: Annotated[float, Unit("s"), Field(ge=0, le=1e-6)] = 0.0
    """FWHM of a pump pulse, and of the photons made by it. Mean pairs per pulse: what the pump
    would make in this time."""
    schmidt_number: Annotated[float, Unit("1"), Field(ge=1)] = 1.0
    """Number of modes a pulse's pairs are spread over; 1 where photons are spectrally pure."""


class FibreModel(_Model):
    """Fibre: loss, group delay, dispersion and a fixed rotation of polarization."""

    kind: Literal["fibre"]
    length: Annotated[float, Unit("m"), Field(ge=0, le=1e9)] = 0.0
    attenuation: Annotated[float, Unit("dB/km"), Field(ge=0)] = 0.2
    loss: Annotated[float, Unit("dB"), Field(ge=0)] = 0.0
    """Loss besides the attenuation: coupling, connectors, filters."""
    group_index: Annotated[float, Unit("1"), Field(gt=0)] = 1.468
    dispersion_broadening: Seconds = 0.0
    """FWHM that chromatic dispersion adds to the arrival time."""
    rotation: tuple[Degrees, Degrees, Degrees] = (0.0, 0.0, 0.0)
    """Rotation on the Poincare sphere: vector along (S1, S2, S3) whose length is the angle."""
    drift_time: Annotated[float, Unit("s"), Field(gt=0)] | None = None
    """The rotation walks at random: time in which the state forgets where it was, to 1/e."""


class PaddlesModel(_Model):
    """Fibre polarization controller: linear retarders rotated by paddles."""

    kind: Literal["paddles"]
    retardance: Annotated[tuple[Degrees, ...], Field(min_length=1)] = (90.0, 180.0, 90.0)
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


class SplitterModel(_Model):
    """Beam splitter with a detector at each output, blind to polarization."""

    kind: Literal["splitter"]
    transmission: Fraction = 0.5
    """Share of photons sent to the first output."""
    loss: Annotated[float, Unit("dB"), Field(ge=0)] = 0.0


class BellStationModel(_Model):
    """Bell-state station: a beam splitter, then a polarizing beam splitter in each port.

    Inputs: ``left`` and ``right``. Outputs, in this order: cH, cV, dH, dV.
    """

    kind: Literal["bell_station"]
    reflectivity: Fraction = 0.5
    extinction: Annotated[float, Unit("dB"), Field(gt=0)] = 40.0
    """Polarization extinction of each polarizing beam splitter."""
    mode_overlap: Fraction = 1.0
    """Overlap, in space and spectrum, of two photons that arrive together."""
    loss: Annotated[float, Unit("dB"), Field(ge=0)] = 0.0


Output = Literal["AB", "CD", "EF", "GH"]


class MemoryModel(_Model):
    """Atomic-frequency-comb memory with spin-wave storage, run by a delay generator.

    What it does with a photon: :mod:`bellbench.sims.physics.memory`.
    """

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
    """Array of SNSPDs on one electronics box."""

    kind: Literal["snspd"]
    detectors: Annotated[tuple[DetectorModel, ...], Field(min_length=1, max_length=64)]


class TaggerModel(_Model):
    """Time tagger inputs; a path's detectors feed them one after the other."""

    kind: Literal["tagger"]
    cable_delays: tuple[Annotated[float, Unit("s"), Field(ge=0, le=1)], ...] = ()
    """Electrical delay of each input, 0 where not given."""
    jitter: Seconds = 0.0
    """FWHM of the tagger's own timing jitter."""
    start_offset: Annotated[float, Unit("s")] = 0.0
    """How long after the command the recording begins; unknown to the user."""


class DelayGeneratorModel(_Model):
    """Digital delay generator; nothing is wired to its trigger input.

    All of a world share one 10 MHz reference, so that their internal rates keep step.
    """

    kind: Literal["delay_generator"]
    line_frequency: Annotated[float, Unit("Hz"), Field(gt=0)] = 50.0
    """Frequency of the mains, for triggers from the line."""
    inhibited: bool = False
    """Whether the inhibit input is held high."""


ElementModel = Annotated[
    PumpLaserModel
    | OvenModel
    | PowerMeterModel
    | CrystalModel
    | FibreModel
    | PaddlesModel
    | AnalyzerModel
    | SplitterModel
    | BellStationModel
    | MemoryModel
    | SnspdModel
    | TaggerModel
    | DelayGeneratorModel,
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


class Fibre:
    """No knob: its polarization walks by itself. Reading: ``jones``, complex (2, 2)."""

    #: Longest step of the walk, s.
    STEP_S = 0.1

    def __init__(self, model: FibreModel) -> None:
        self.model = model
        self.jones = rotation(model.rotation)

    def step(self, rng: np.random.Generator) -> None:
        """Walk for :attr:`STEP_S`; a fibre without ``drift_time`` stays as it is."""
        if self.model.drift_time is not None:
            self.jones = drift_step(rng, self.STEP_S, self.model.drift_time) @ self.jones


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

    def __init__(self, model: TaggerModel) -> None:
        self.model = model
        self.recording = False
        self.times_ps: npt.NDArray[np.int64] = np.empty(0, np.int64)
        self.inputs: npt.NDArray[np.int16] = np.empty(0, np.int16)
        self._parts: list[tuple[npt.NDArray[np.int64], npt.NDArray[np.int16]]] = []

    def add(self, times_ps: npt.NDArray[np.int64], inputs: npt.NDArray[np.int16]) -> None:
        """Take the sorted pulses of some inputs in this block."""
        self._parts.append((times_ps, inputs))

    def end_block(self) -> None:
        """Merge what the inputs took into the block's pulses."""
        parts, self._parts = self._parts, []
        if len(parts) == 1:
            self.times_ps, self.inputs = parts[0]
            return
        times = np.concatenate([np.empty(0, np.int64), *(part[0] for part in parts)])
        inputs = np.concatenate([np.empty(0, np.int16), *(part[1] for part in parts)])
        order = np.argsort(times, kind="stable")
        self.times_ps, self.inputs = times[order], inputs[order]


#: Channels of a delay generator, in the order of its delays after T0 and T1.
CHANNELS = "ABCDEFGH"
# After the last edge of a cycle, and to the end of the cycle (SRS' data sheet, unverified).
_DEAD_PS = 100_000
_T1_AFTER_PS = 25_000
# Longer than any world lives, and yet summable: 2^32 cycles of 2000 s are not.
_EVER_PS = 1 << 61


@dataclass(frozen=True)
class Train:
    """Cycles that answered one trigger, or a row of triggers, with the settings they began with.

    Attributes:
        starts_ps: Beginnings of the cycles, world time, sorted int64 (n,).
        first: Whether each is the first after its trigger, (n,).
        number: Number of the first cycle since the world began.
        delays_ps: Delays A to H from the beginning.
        outputs: Whether AB, CD, EF, GH are let out by the inhibit input.
        prescales: Of every so many cycles an output answers one, AB to GH.
        phases: Which one.
        t0_once: Whether T0 and T1 answer only the first cycle of a burst.
    """

    starts_ps: npt.NDArray[np.int64]
    first: npt.NDArray[np.bool_]
    number: int
    delays_ps: tuple[int, ...]
    outputs: tuple[bool, ...]
    prescales: tuple[int, ...]
    phases: tuple[int, ...]
    t0_once: bool

    @property
    def t1_ps(self) -> int:
        """End of the cycle from its beginning."""
        return max(self.delays_ps) + _T1_AFTER_PS

    def ended(self, begin_ps: int, end_ps: int) -> int:
        """How many of the cycles ended in ``[begin_ps, end_ps)``."""
        span = (begin_ps - self.t1_ps, end_ps - self.t1_ps)
        low, high = np.searchsorted(self.starts_ps, span)
        return int(high - low)

    def answers(self, channel: str) -> npt.NDArray[np.bool_]:
        """Whether each cycle has an edge of this channel, (n,)."""
        if channel in ("T0", "T1"):
            return self.first if self.t0_once else np.ones(self.starts_ps.size, np.bool_)
        pair = CHANNELS.index(channel) // 2
        if not self.outputs[pair]:
            return np.zeros(self.starts_ps.size, np.bool_)
        number = self.number + np.arange(self.starts_ps.size, dtype=np.int64)
        found: npt.NDArray[np.bool_] = number % self.prescales[pair] == self.phases[pair]
        return found

    def delay_ps(self, channel: str) -> int:
        """Delay of a channel from the beginning of the cycle."""
        if channel in ("T0", "T1"):
            return 0 if channel == "T0" else self.t1_ps
        return self.delays_ps[CHANNELS.index(channel)]

    def edges_ps(self, channel: str, begin_ps: int, end_ps: int) -> npt.NDArray[np.int64]:
        """Edges of a channel in ``[begin_ps, end_ps)``, sorted."""
        delay_ps = self.delay_ps(channel)
        low, high = np.searchsorted(self.starts_ps, (begin_ps - delay_ps, end_ps - delay_ps))
        found: npt.NDArray[np.int64] = self.starts_ps[low:high] + delay_ps
        pair = CHANNELS.find(channel[0]) // 2
        if channel in ("T0", "T1"):
            plain = not self.t0_once
        else:
            plain = self.outputs[pair] and self.prescales[pair] == 1
        return found if plain else found[self.answers(channel)[low:high]]


@dataclass(frozen=True)
class Edges:
    """What a delay generator did in one block; times are world time, sorted int64 arrays.

    Attributes:
        begin_ps: Beginning of the block.
        end_ps: Its end.
        triggers_ps: Triggers that were taken.
        ignored: How many came while a cycle or burst was running, burst cycles included that
            the delays left no time for.
        inhibited: How many triggers the inhibit input held back.
        cycles_ps: Beginnings of cycles.
        cycles_ended: Cycles that ended.
        bursts_ended: Bursts that ended.
        trains: All cycles that have edges in the block or after it, in the order they began.
    """

    begin_ps: int
    end_ps: int
    triggers_ps: npt.NDArray[np.int64]
    ignored: int
    inhibited: int
    cycles_ps: npt.NDArray[np.int64]
    cycles_ended: int
    bursts_ended: int
    trains: tuple[Train, ...]

    def channel(self, name: str) -> npt.NDArray[np.int64]:
        """Edges in the block of one channel: ``T0`` (beginning), ``T1`` (end of cycle), A to H."""
        found = [train.edges_ps(name, self.begin_ps, self.end_ps) for train in self.trains]
        if len(found) == 1:
            return found[0]
        # Cycles never overlap, so their edges are in order.
        return np.concatenate([*found, np.empty(0, np.int64)])


@dataclass
class _Burst:
    """Cycles that follow from one trigger and have not begun yet, with what they will do."""

    start_ps: int
    period_ps: int
    count: int
    is_burst: bool
    delays_ps: tuple[int, ...]
    begun: int = 0

    @property
    def cycle_ps(self) -> int:
        """Length of a cycle with the dead time behind it."""
        return max(self.delays_ps) + _DEAD_PS

    def begin_until(self, end_ps: int) -> npt.NDArray[np.int64]:
        """Beginnings of the next cycles before ``end_ps``."""
        due = self.count
        if self.count > 1:
            due = min(due, max(0, -(-(end_ps - self.start_ps) // self.period_ps)))
        elif self.start_ps >= end_ps:
            due = 0
        k = np.arange(self.begun, due, dtype=np.int64)
        self.begun = max(self.begun, due)
        return self.start_ps + k * self.period_ps


class DelayGenerator:
    """Answers triggers with cycles of edges; :meth:`edges` is its physics.

    Knobs: ``source`` (``internal``, ``line``, ``single``, ``external``), ``rate_uhz``,
    ``delays_ps`` (A to H from T0), ``burst``, ``burst_count``, ``burst_delay_ps``,
    ``burst_period_ps``, ``burst_t0_once``, ``holdoff_ps``, ``prescales`` and ``phases`` (AB, CD,
    EF, GH), ``inhibit`` (0 nothing, 1 triggers, 2 to 5 the first 1 to 4 pairs of channels),
    ``amplitudes_v``, ``offsets_v``, ``positive`` (T0, AB, CD, EF, GH), and ``shots``, the single
    triggers asked for, which act when the next block begins.

    A cycle is busy until its last edge and 100 ns more, a burst until its last cycle is; triggers
    in between are ignored. Cycles keep the delays they were triggered with. A burst is cut short
    when ``burst`` is switched off. The internal trigger starts anew when its rate is set.
    """

    def __init__(self, model: DelayGeneratorModel) -> None:
        self.model = model
        self.source = "single"
        self.rate_uhz = 1000 * 10**6
        self.delays_ps: list[int] = [0] * len(CHANNELS)
        self.burst = False
        self.burst_count = 1
        self.burst_delay_ps = 0
        self.burst_period_ps = 10_000_000
        self.burst_t0_once = False
        self.holdoff_ps = 0
        self.prescales: list[int] = [1] * 4
        self.phases: list[int] = [0] * 4
        self.inhibit = 0
        self.amplitudes_v: list[float] = [2.5] * 5
        self.offsets_v: list[float] = [0.0] * 5
        self.positive: list[bool] = [True] * 5
        self.shots = 0
        self._tuned: tuple[str, int] | None = None
        self._anchor_ps = 0
        self._next_tick = 0
        self._busy_until_ps = 0
        self._running: _Burst | None = None
        self._cycles = 0
        self._trains: list[Train] = []
        self._burst_ends: npt.NDArray[np.int64] = np.empty(0, np.int64)
        self._latest: Edges | None = None

    def edges(self, begin_ps: int, end_ps: int) -> Edges:
        """Return what happens in the block ``[begin_ps, end_ps)`` with the knobs as they stand.

        Blocks are asked for in order, the last one as often as one likes.
        """
        latest = self._latest
        if latest is not None and (latest.begin_ps, latest.end_ps) == (begin_ps, end_ps):
            return latest
        if self._running is not None and self._running.is_burst and not self.burst:
            self._cut_burst(begin_ps)
        template = self._template()
        lasting_ps = template.period_ps * (template.count - 1) + template.cycle_ps
        lasting_ps = min(template.start_ps + lasting_ps, _EVER_PS)
        busy_ps = max(lasting_ps, self.holdoff_ps)
        came, triggers = self._triggers(begin_ps, end_ps, busy_ps)
        inhibited = came if self._inhibits(1) else 0
        ignored = came - inhibited - triggers.size
        if template.is_burst:
            ignored += (self.burst_count - template.count) * triggers.size

        groups: list[tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_], tuple[int, ...]]] = []
        if self._running is not None:
            groups.append(_begin(self._running, end_ps))
        if triggers.size:
            # Every burst but the last is over before its successor's trigger, within the block.
            k = np.arange(template.count if triggers.size > 1 else 0, dtype=np.int64)
            starts = (triggers[:-1, None] + template.start_ps + k * template.period_ps).ravel()
            first = np.tile(k == 0, triggers.size - 1)
            groups.append((starts, first, template.delays_ps))
            self._running = template
            if template.is_burst:
                self._burst_ends = np.append(self._burst_ends, triggers + lasting_ps)
            template.start_ps += int(triggers[-1])
            groups.append(_begin(template, end_ps))
        for starts, first, delays_ps in groups:
            self._emit(starts, first, delays_ps)
        cycles = np.concatenate([starts for starts, _, _ in groups] or [np.empty(0, np.int64)])
        self._trains = [t for t in self._trains if int(t.starts_ps[-1]) + t.t1_ps >= begin_ps]
        ends = np.searchsorted(self._burst_ends, end_ps)
        self._burst_ends, ended = self._burst_ends[ends:], int(ends)
        found = Edges(
            begin_ps=begin_ps,
            end_ps=end_ps,
            triggers_ps=triggers,
            ignored=ignored,
            inhibited=inhibited,
            cycles_ps=cycles,
            cycles_ended=sum(train.ended(begin_ps, end_ps) for train in self._trains),
            bursts_ended=ended,
            trains=tuple(self._trains),
        )
        self._latest = found
        return found

    def _inhibits(self, mode: int) -> bool:
        return self.model.inhibited and self.inhibit == mode

    def _template(self) -> _Burst:
        """What a trigger starts now; its start counts from the trigger."""
        delays_ps = tuple(self.delays_ps)
        if not self.burst:
            return _Burst(0, 0, 1, False, delays_ps)
        # Cycles that would begin while the one before runs are left out.
        stride = max(1, -(-(max(delays_ps) + _DEAD_PS) // self.burst_period_ps))
        count = -(-self.burst_count // stride)
        return _Burst(self.burst_delay_ps, stride * self.burst_period_ps, count, True, delays_ps)

    def _triggers(
        self, begin_ps: int, end_ps: int, busy_ps: int
    ) -> tuple[int, npt.NDArray[np.int64]]:
        """How many triggers came in the block, and the times of those taken."""
        none: npt.NDArray[np.int64] = np.empty(0, np.int64)
        shots, self.shots = self.shots, 0
        if self.source == "single":
            self._tuned = None
            if not shots or self._inhibits(1) or begin_ps < self._busy_until_ps:
                return shots, none
            self._busy_until_ps = begin_ps + busy_ps
            return shots, np.array([begin_ps], np.int64)
        if self.source not in ("internal", "line"):
            self._tuned = None
            return 0, none
        internal = self.source == "internal"
        rate = self.rate_uhz if internal else round(self.model.line_frequency * 1e6)
        if self._tuned != (self.source, rate):
            self._tuned = self.source, rate
            self._anchor_ps = begin_ps if internal else 0
            self._next_tick = first_tick(self._busy_until_ps - self._anchor_ps, rate)
        low = first_tick(begin_ps - self._anchor_ps, rate)
        high = first_tick(end_ps - self._anchor_ps, rate)
        first, stride = max(low, self._next_tick), stride_of(busy_ps, rate)
        count = 0 if self._inhibits(1) else max(0, -(-(high - first) // stride))
        times = ticks_ps(self._anchor_ps, rate, first, stride, count)
        if count:
            self._next_tick = first + stride * count
            self._busy_until_ps = int(times[-1]) + busy_ps
        return high - low, times

    def _cut_burst(self, now_ps: int) -> None:
        running = self._running
        assert running is not None
        if running.begun < running.count:
            last_ps = running.start_ps + (running.begun - 1) * running.period_ps
            self._busy_until_ps = last_ps + running.cycle_ps if running.begun else now_ps
            self._burst_ends = np.array([max(now_ps, self._busy_until_ps)], np.int64)
            if self._tuned is not None:
                span_ps = self._busy_until_ps - self._anchor_ps
                self._next_tick = first_tick(span_ps, self._tuned[1])
        self._running = None

    def _emit(
        self,
        starts: npt.NDArray[np.int64],
        first: npt.NDArray[np.bool_],
        delays_ps: tuple[int, ...],
    ) -> None:
        """Note cycles with the settings they begin with."""
        if not starts.size:
            return
        outputs = tuple(
            not any(self._inhibits(mode) for mode in range(pair + 2, 6)) for pair in range(4)
        )
        self._trains.append(
            Train(
                starts,
                first,
                self._cycles,
                delays_ps,
                outputs,
                tuple(self.prescales),
                tuple(self.phases),
                self.burst_t0_once,
            )
        )
        self._cycles += starts.size


def _begin(
    burst: _Burst, end_ps: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_], tuple[int, ...]]:
    begun = burst.begun
    starts = burst.begin_until(end_ps)
    first = np.arange(begun, begun + starts.size) == 0
    return starts, first, burst.delays_ps
