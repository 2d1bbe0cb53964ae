"""What a device *is*: one small structural type per role.

Protocol code sees these and nothing else, so it cannot tell a driver from a twin's driver.
Times are ps in tags and s elsewhere; currents A, voltages V, powers W, angles degrees,
temperatures degrees Celsius, rates Hz.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from .signals import Readable, Settable
from .tags import TagBatch

__all__ = [
    "Attenuator",
    "DelayGenerator",
    "DelayGeneratorInfo",
    "DetectorArray",
    "Identity",
    "Instrument",
    "MemoryInfo",
    "OpticalSwitch",
    "PairSource",
    "PolarizationController",
    "PolarizationStabilizer",
    "PowerMeter",
    "QuantumMemory",
    "Retrieval",
    "TaggerInfo",
    "TimeTagger",
]


@dataclass(frozen=True, slots=True)
class Identity:
    """What an instrument says it is."""

    vendor: str
    model: str
    serial: str = ""
    firmware: str = ""


@runtime_checkable
class Instrument(Protocol):
    """What every instrument on a bench can do, whatever its role.

    Construction does no I/O; :meth:`open` connects and resets nothing.
    """

    @property
    def name(self) -> str:
        """Name on the bench."""
        ...

    @property
    def signals(self) -> Sequence[Readable[object]]:
        """Every signal of the instrument, for snapshots and adapters."""
        ...

    def open(self) -> None:
        """Connect. Opening an open instrument does nothing."""
        ...

    def close(self) -> None:
        """Disconnect, leaving the instrument as it is. Closing twice does nothing."""
        ...

    def identify(self) -> Identity:
        """Ask the instrument who it is."""
        ...

    def ready(self) -> bool:
        """Whether every set point has been reached (oven settled, paddles arrived)."""
        ...

    def off(self) -> None:
        """Bring it to its normal rest after a run (a pump off, an oven left warm)."""
        ...

    def safe(self) -> None:
        """Bring it to the state in which nothing can be harmed, after an error or a signal."""
        ...


@runtime_checkable
class PairSource(Protocol):
    """A pumped source of photon pairs."""

    @property
    def pump_current(self) -> Settable[float]:
        """Drive current of the pump laser, A."""
        ...

    @property
    def emission(self) -> Settable[bool]:
        """Whether the pump emits."""
        ...

    @property
    def crystal_temperature(self) -> Settable[float]:
        """Set point of the crystal's temperature, degC; reads back the set point."""
        ...

    @property
    def measured_crystal_temperature(self) -> Readable[float]:
        """Temperature of the crystal now, degC."""
        ...


@runtime_checkable
class DetectorArray(Protocol):
    """A set of single-photon detectors on one electronics box."""

    @property
    def detectors(self) -> int:
        """Number of detectors; they are counted from 1."""
        ...

    @property
    def bias_currents(self) -> Sequence[Settable[float]]:
        """Bias current of each detector, A; index 0 is detector 1."""
        ...

    @property
    def count_rates(self) -> Sequence[Readable[float]]:
        """Counts per second of each detector over the electronics' own integration time, Hz."""
        ...

    @property
    def enabled(self) -> Settable[bool]:
        """Whether the detectors are biased and counting."""
        ...


@dataclass(frozen=True, slots=True)
class TaggerInfo:
    """Capability of a tagger: what its tags can mean.

    Attributes:
        channels: Input numbers that can produce clicks.
        resolution_ps: Smallest time step of a tag.
        max_rate_hz: Sum over all channels that it sustains without loss.
        latency_s: How far :meth:`TimeTagger.read` stays behind the tagger's clock.
        clock_tolerance: Largest fraction by which that clock is taken to run off the bench's.
    """

    channels: tuple[int, ...]
    resolution_ps: int
    max_rate_hz: float
    latency_s: float
    clock_tolerance: float = 0.0


@runtime_checkable
class TimeTagger(Protocol):
    """Turns electrical pulses into a stream of time tags."""

    @property
    def info(self) -> TaggerInfo:
        """Capabilities; known once open."""
        ...

    def start(self) -> None:
        """Start recording; tag times count from here.

        Raises:
            InstrumentError: if it is recording already.
        """
        ...

    def read(self) -> TagBatch:
        """Return the clicks from the last read up to a new watermark.

        Its time is the tagger's, which runs freely: while the bench's clock has counted t since the
        start, the tagger's has counted between (1 - c) t and (1 + c) t, c being
        ``info.clock_tolerance``. The watermark is what the tagger's clock shows, less
        ``info.latency_s``, as far as the words of the stream and the bench's clock together prove
        it: at least (1 - c) t, less the latency, however silent the inputs are. The call waits
        (in wall time, up to the timeout) until the stream has got there. So on a stepped twin
        the batch depends on clock and stream alone. What is lost is said in the batch.

        Raises:
            InstrumentError: if it is not recording.
            InstrumentTimeout: if the stream stays behind the clock.
        """
        ...

    def stop(self) -> None:
        """Stop recording and discard what was not read. Stopping twice does nothing."""
        ...


@runtime_checkable
class PolarizationController(Protocol):
    """Moves a state of polarization by a few mechanical or electrical actuators."""

    @property
    def actuators(self) -> Sequence[Settable[float]]:
        """Position of each actuator, in its signal's unit; setting starts a move."""
        ...

    def ready(self) -> bool:
        """Whether no actuator is moving."""
        ...


@runtime_checkable
class PolarizationStabilizer(PolarizationController, Protocol):
    """A polarization controller with a signal that tells how far off the polarization is.

    Whoever minimises :attr:`error` with the actuators holds the polarization. The signal may come
    from a polarimeter, or from the error rate of the link itself.
    """

    @property
    def error(self) -> Readable[float]:
        """What is to be made small, from 0 up; nan while nothing is known."""
        ...


@runtime_checkable
class PowerMeter(Protocol):
    """Measures optical power."""

    @property
    def power(self) -> Readable[float]:
        """Optical power, W."""
        ...

    @property
    def wavelength(self) -> Settable[float]:
        """Wavelength the reading is corrected for, m."""
        ...


@runtime_checkable
class Attenuator(Protocol):
    """A variable optical attenuator."""

    @property
    def attenuation(self) -> Settable[float]:
        """Attenuation besides the insertion loss, dB; setting starts a move."""
        ...

    def ready(self) -> bool:
        """Whether it has arrived."""
        ...


@runtime_checkable
class OpticalSwitch(Protocol):
    """Joins one fibre to one of several others."""

    @property
    def outputs(self) -> int:
        """How many there are; they are counted from 1."""
        ...

    @property
    def output(self) -> Settable[int]:
        """The one that is joined."""
        ...

    def ready(self) -> bool:
        """Whether it has switched."""
        ...


@dataclass(frozen=True, slots=True)
class DelayGeneratorInfo:
    """Capability of a delay generator: what it can time.

    Attributes:
        channels: Names of the edges that can be delayed.
        outputs: Each output and the two channels it is active between; ``T0`` is the trigger.
        trigger_sources: What :attr:`DelayGenerator.trigger_source` takes.
        resolution_s: Grid of the delays.
        max_delay_s: Longest delay from the trigger.
        dead_time_s: After the last edge of a cycle, how long triggers are still ignored.
    """

    channels: tuple[str, ...]
    outputs: Mapping[str, tuple[str, str]]
    trigger_sources: tuple[str, ...]
    resolution_s: float
    max_delay_s: float
    dead_time_s: float


@runtime_checkable
class DelayGenerator(Protocol):
    """Answers each trigger with a cycle of edges at set delays; a burst is a train of cycles.

    A trigger that comes while a cycle or a burst is running is ignored.
    """

    @property
    def info(self) -> DelayGeneratorInfo:
        """Capabilities; known before opening."""
        ...

    @property
    def delays(self) -> Mapping[str, Settable[float]]:
        """Delay of each channel from the start of the cycle, s."""
        ...

    @property
    def amplitudes(self) -> Mapping[str, Settable[float]]:
        """Height of each output's step, V."""
        ...

    @property
    def positive(self) -> Mapping[str, Settable[bool]]:
        """Whether each output goes up, and not down, while it is active."""
        ...

    @property
    def trigger_source(self) -> Settable[str]:
        """What starts a cycle: one of ``info.trigger_sources``.

        ``internal`` is its own clock, ``single`` is :meth:`trigger`, so setting ``single`` stops
        a running train.
        """
        ...

    @property
    def trigger_rate(self) -> Settable[float]:
        """Rate of the internal trigger, Hz."""
        ...

    @property
    def burst(self) -> Settable[bool]:
        """Whether a trigger starts a burst of cycles instead of one."""
        ...

    @property
    def burst_count(self) -> Settable[int]:
        """Cycles in a burst."""
        ...

    @property
    def burst_period(self) -> Settable[float]:
        """Time from one cycle of a burst to the next, s."""
        ...

    def trigger(self) -> None:
        """Start one cycle, or one burst, now.

        Raises:
            InstrumentError: where the trigger source is not ``single``.
        """
        ...


@dataclass(frozen=True, slots=True)
class MemoryInfo:
    """Capability of a quantum memory, as its maker states it; known before opening.

    Attributes:
        kind: What it is, e.g. ``"AFC spin-wave"``.
        mode_kind: What tells its modes apart: ``"temporal"``, ``"spectral"`` or ``"spatial"``.
        modes: Modes that one cycle keeps.
        mode_duration_s: Length of one mode's time slot.
        prepared_s: When the preparation ends, after the cycle's trigger; what comes before, from
            the trigger on, is lost, in the bypass, too.
        window_s: Begin and end, after the cycle's trigger, of when photons may come in.
        on_demand: Whether the time of recall can be chosen; else it is ``echo_s``.
        echo_s: Storage time without recall (the AFC echo), from which the decay counts; 0 where
            there is none.
        min_storage_s: Shortest storage time that :meth:`QuantumMemory.retrieve` takes.
        max_storage_s: Longest.
        cycle_s: Time from one trigger to the next.
        decay: How the efficiency falls with the storage time beyond ``echo_s``: ``"gaussian"``,
            exp(-(t/T)^2), or ``"exponential"``, exp(-t/T).
        noise_per_mode: Mean number of noise photons that a recall adds to a mode, at the output.
        spectral_modes: Frequency channels that each of the modes holds.
    """

    kind: str
    mode_kind: str
    modes: int
    mode_duration_s: float
    prepared_s: float
    window_s: tuple[float, float]
    on_demand: bool
    echo_s: float
    min_storage_s: float
    max_storage_s: float
    cycle_s: float
    decay: Literal["gaussian", "exponential"]
    noise_per_mode: float
    spectral_modes: int = 1


@dataclass(frozen=True, slots=True)
class Retrieval:
    """What becomes of one heralded photon.

    Attributes:
        mode: Mode that holds it, counted from 0.
        storage_s: Time from in to out.
        out_s: When it comes out, after the trigger of the cycle that it came in.
    """

    mode: int
    storage_s: float
    out_s: float


@runtime_checkable
class QuantumMemory(Protocol):
    """Keeps photons and gives them back, cycle by cycle, in a train that goes on until stopped.

    Storage times count from in to out. Every verb checks before it touches the instrument: what
    is refused leaves it as it was.
    """

    @property
    def info(self) -> MemoryInfo:
        """Capabilities; known before opening."""
        ...

    @property
    def state(self) -> Readable[str]:
        """What the cycles do now, read from the instrument.

        ``idle`` (no cycles), ``preparing``, ``ready`` (photons come out after ``info.echo_s``),
        ``bypassed``, ``storing`` (kept, and lost at the cycle's end), ``retrieving``, ``fault``
        (something that no verb of this role leaves behind).
        """
        ...

    @property
    def storage_time(self) -> Readable[float]:
        """Time from in to out as it is now, s; 0 where photons pass at once or never come out."""
        ...

    def efficiency(self, storage_s: float) -> float:
        """Return the maker's model: the share, of what passes the bypass, that comes out.

        Raises:
            InstrumentError: for a storage time out of range.
        """
        ...

    def prepare(self) -> None:
        """Start cycles that prepare the medium; photons are not transferred.

        :meth:`Instrument.ready` says when the medium is prepared. What was kept is given up.
        """
        ...

    def bypass(self) -> None:
        """Start cycles that make the medium transparent: the reference for efficiencies."""
        ...

    def store(self) -> None:
        """Keep what comes into the window of each cycle from now on.

        Raises:
            InstrumentError: where it is not prepared.
        """
        ...

    def retrieve(self, storage_s: float) -> None:
        """Recall in each cycle, so that photons come out ``storage_s`` after they came in.

        Raises:
            InstrumentError: before :meth:`store`, or for a storage time that it cannot do.
        """
        ...

    def herald(self, arrival_s: float) -> Retrieval:
        """Return where a photon is, and when it comes out, by the cycles as last set or read.

        Does no I/O, so that it can be asked for every click.

        Args:
            arrival_s: When it came in, after the trigger of its cycle.

        Raises:
            InstrumentError: where it came outside the window, or will not come out.
        """
        ...
