"""An ensemble memory as an instrument: what its delay generator has to do, and when.

No vendor sells one with a wire of its own: a memory is lasers and modulators behind a sequencer.
Four of its outputs gate the light, once per cycle:

====== ==================== ================ ============================================
output ``afc_spin_wave``    ``eit``          in each cycle
====== ==================== ================ ============================================
AB     burn                 pumping          prepares the medium: the comb, the polarized gas
CD     transfer             write control    optical excitation to the spin state (storage)
EF     recall               read control     and back (retrieval on demand)
GH     pit                  other state      high from the trigger to the end of AB: transparent
====== ==================== ================ ============================================

``afc`` is a comb without control pulses: CD and EF are not used.

A photon that comes into a comb at t leaves at t + echo time, the inverse of the teeth's spacing
(Afzelius et al., PRA 79, 052329, 2009). Transferred before that, it waits in the spin state, and
leaves at t + echo time + (recall - transfer). A photon in a gas under control light leaves after
the group delay, here the echo time; where the write control ends before, it stands still until the
read control begins (Fleischhauer and Lukin, PRL 84, 5094, 2000). An output that is not used has
both edges at the trigger.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Protocol, Self, runtime_checkable

from pydantic import Field, model_validator

from ..instruments import (
    Clock,
    ConfigError,
    DelayGenerator,
    Identity,
    Instrument,
    MemoryInfo,
    Retrieval,
    Unit,
)
from .base import Driver, DriverSettings, check_parts
from .signal import ReadOnlySignal

__all__ = ["EnsembleMemory", "EnsembleMemorySettings", "Sequencer"]

_BURN, _TRANSFER, _RECALL, _PIT = ("A", "B"), ("C", "D"), ("E", "F"), ("G", "H")
_PAIRS = (_BURN, _TRANSFER, _RECALL, _PIT)
_NONE = (0.0, 0.0)
_KINDS = {"afc_spin_wave": "AFC spin-wave", "afc": "AFC", "eit": "EIT"}

_Time = Annotated[float, Field(gt=0, le=1000), Unit("s")]


@runtime_checkable
class Sequencer(Instrument, DelayGenerator, Protocol):
    """What the memory needs of its delay generator."""


class EnsembleMemorySettings(DriverSettings):
    """The cycle, and what the memory's maker states. Times count from the cycle's trigger.

    The trigger, clean, burn, wait, then the window in which photons may come in, the transfer,
    the recall, and the rest: ``cycle`` later the next trigger. Defaults are round numbers of the
    order of Pr:Y2SiO5 memories. In a gas, read pumping for burn, end of the write control for
    transfer, beginning of the read control for recall, group delay for echo time.
    """

    protocol: Literal["afc_spin_wave", "afc", "eit"] = "afc_spin_wave"
    """A comb with spin-wave storage, a comb alone, with its fixed delay, or stopped light."""
    cleaning: _Time = 1e-6
    """From the trigger to the burn: light that empties the spin state."""
    burn: _Time = 10e-6
    """Length of the burn."""
    wait: _Time = 1e-6
    """From the burn to the window: fluorescence and the modulator's tail die away."""
    window: _Time = 8e-6
    """Length of the window; it and the control pulse fit into the echo time."""
    control_pulse: _Time = 500e-9
    """Length of transfer and recall; of ``eit``, shortest time between write and read control."""
    rest: _Time = 1e-6
    """End of the cycle, in which nothing comes out any more; covers the sequencer's dead time."""
    cycle: _Time = 80e-6
    """From one trigger to the next."""
    echo_time: _Time = 10e-6
    """Inverse of the comb's tooth spacing."""
    mode_duration: _Time = 200e-9
    """Slot of one photon."""
    spectral_modes: Annotated[int, Field(ge=1, le=10_000)] = 1
    """Frequency channels that each slot holds; told, not driven."""
    preparation: _Time = 20e-3
    """How long cycles run until the medium is prepared."""
    efficiency: Annotated[float, Field(gt=0, le=1), Unit("1")] = 0.4
    """Share of what passes the pit that comes out, extrapolated to no time in the spin state."""
    coherence_time: _Time = 30e-6
    """T of the decay in the spin state."""
    decay: Literal["gaussian", "exponential"] = "gaussian"
    """exp(-(t/T)^2), as inhomogeneous broadening gives, or exp(-t/T)."""
    noise: Annotated[float, Field(ge=0), Unit("1")] = 0.0
    """Mean photons that a recall adds to one mode, at the output."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.mode_duration > self.window:
            raise ValueError("mode_duration is longer than the window: no mode fits")
        control = 0.0 if self.protocol == "afc" else self.control_pulse
        if self.window + control > self.echo_time * (1 + 1e-9):
            what, before = "window and control_pulse take", "transfer"
            if self.protocol == "afc":
                what, before = "the window takes", "window"
            raise ValueError(
                f"{what} {_show(self.window + control)}, the first echo comes after"
                f" {_show(self.echo_time)}, before the {before} is over; shorten the window"
            )
        least = self.info.window_s[1] + self.info.min_storage_s + self.tail + self.rest
        if self.cycle < least * (1 - 1e-9):
            raise ValueError(
                f"a cycle of {_show(self.cycle)} is too short: with the shortest storage it takes"
                f" {_show(least)}"
            )
        return self

    @property
    def tail(self) -> float:
        """How much longer than to the last photon control light stays on, s."""
        return self.mode_duration if self.protocol == "eit" else 0.0

    @property
    def info(self) -> MemoryInfo:
        """What a memory with these settings can do."""
        begin = round(self.cleaning + self.burn + self.wait, 12)
        end = round(begin + self.window, 12)
        on_demand = self.protocol != "afc"
        shortest = round(self.echo_time + self.control_pulse, 12)
        longest = round(self.cycle - self.rest - self.tail - end, 12)
        return MemoryInfo(
            kind=_KINDS[self.protocol],
            mode_kind="temporal",
            modes=math.floor(self.window / self.mode_duration * (1 + 1e-9)),
            mode_duration_s=self.mode_duration,
            prepared_s=self.cleaning + self.burn,
            window_s=(begin, end),
            on_demand=on_demand,
            echo_s=self.echo_time,
            min_storage_s=shortest if on_demand else self.echo_time,
            max_storage_s=longest if on_demand else self.echo_time,
            cycle_s=self.cycle,
            decay=self.decay,
            noise_per_mode=self.noise,
            spectral_modes=self.spectral_modes,
        )


@dataclass(frozen=True)
class _Programme:
    """What the cycles do; ``state`` as in the role, without ``preparing``."""

    state: str
    storage_s: float = 0.0


class EnsembleMemory(Driver):
    """An AFC or EIT memory, run by a delay generator's outputs AB to GH.

    It is programmed as a whole: the train stops, delays are written, the train starts again, so
    that no cycle runs half of the old and half of the new programme. Levels of the outputs stand
    in the delay generator's own settings.

    Args:
        name: Name on the bench.
        parts: The instruments named in :attr:`PARTS`.
        settings: The cycle, and the maker's numbers.
        clock: The bench's clock.

    Raises:
        ConfigError: where the sequencer is missing or cannot do what is needed.
    """

    MODEL = "ensemble memory"
    Settings: ClassVar[type[EnsembleMemorySettings]] = EnsembleMemorySettings
    #: Parts it needs -> what they must provide.
    PARTS: ClassVar[dict[str, type[Any]]] = {"sequencer": Sequencer}

    def __init__(
        self,
        name: str,
        parts: Mapping[str, Instrument],
        settings: EnsembleMemorySettings,
        clock: Clock,
    ) -> None:
        super().__init__(name, ", ".join(part.name for part in parts.values()), clock)
        self._settings = settings
        self._info = settings.info
        check_parts(name, "a memory", self.PARTS, parts)
        sequencer = parts["sequencer"]
        assert isinstance(sequencer, Sequencer)  # check_parts has said it better
        self._sequencer = sequencer
        self._check_sequencer()
        self._known: _Programme | None = None
        self._ready_at = -math.inf
        self.state = ReadOnlySignal("state", "", self._read_state, label="What the cycles do")
        self.storage_time = ReadOnlySignal(
            "storage_time", "s", self._read_storage_time, label="Time from in to out"
        )

    @property
    def info(self) -> MemoryInfo:
        """Capabilities; known before opening."""
        return self._info

    @property
    def signals(self) -> tuple[ReadOnlySignal[object], ...]:
        """Every signal of the memory."""
        return (self.state, self.storage_time)

    def open(self) -> None:
        """Open the sequencer if it is not open yet."""
        self._sequencer.open()

    def close(self) -> None:
        """Close the sequencer, leaving it as it is: a running train goes on."""
        self._known = None
        self._sequencer.close()

    def identify(self) -> Identity:
        """What it is made of."""
        of = self._sequencer.identify()
        kind = f"{self._info.kind} memory ({of.model})"
        return Identity("Bellbench", kind, of.serial, of.firmware)

    def configure(self) -> None:
        """Nothing: :meth:`prepare` and :meth:`bypass` write the cycle when they start it."""

    def ready(self) -> bool:
        """Whether no preparation is under way; :attr:`state` says whether cycles run."""
        return self._sequencer.ready() and self._clock.now() >= self._ready_at

    def off(self) -> None:
        """Stop the cycles."""
        self._known = None
        self._sequencer.off()

    def safe(self) -> None:
        """Bring the sequencer to its safe state: no cycles."""
        self._known = None
        self._sequencer.safe()

    def efficiency(self, storage_s: float) -> float:
        """Return the maker's model: the share, of what passes the bypass, that comes out.

        Raises:
            InstrumentError: for a storage time that is neither the echo time nor in range.
        """
        if abs(storage_s - self._info.echo_s) > self._sequencer.info.resolution_s / 2:
            self._check_storage(storage_s)
        x = (storage_s - self._info.echo_s) / self._settings.coherence_time
        return self._settings.efficiency * math.exp(
            -x * x if self._info.decay == "gaussian" else -x
        )

    def prepare(self) -> None:
        """Start cycles that burn the comb; what was kept is given up."""
        self._write(_Programme("ready", self._info.echo_s))

    def bypass(self) -> None:
        """Start cycles that burn a transparent pit: the reference for efficiencies."""
        self._write(_Programme("bypassed"))

    def store(self) -> None:
        """Transfer what comes into the window of each cycle to the spin state from now on.

        A programmed recall is given up.

        Raises:
            InstrumentError: where no comb is burned, or the delay is fixed.
        """
        self._check_on_demand("store")
        self._require("store", "prepare", "ready", "storing", "retrieving")
        self._write(_Programme("storing"))

    def retrieve(self, storage_s: float) -> None:
        """Recall in each cycle, so that photons come out ``storage_s`` after they came in.

        Raises:
            InstrumentError: before :meth:`store`, or for a storage time that it cannot do.
        """
        self._check_on_demand("retrieve")
        self._check_storage(storage_s)
        self._require("retrieve", "store", "storing", "retrieving")
        self._write(_Programme("retrieving", storage_s))

    def herald(self, arrival_s: float) -> Retrieval:
        """Return where a photon is, and when it comes out, by the cycles as last set or read.

        Raises:
            InstrumentError: where it came outside the window, or will not come out.
        """
        known = self._known or _Programme("idle")
        if known.state not in ("ready", "retrieving"):
            raise self._endpoint.error(
                f"a photon is heralded, but the memory is {known.state!r} as far as is known:"
                " it will not come out",
                hint="prepare(), store() and retrieve() first; after opening, read state",
            )
        begin = self._info.window_s[0]
        end = round(begin + self._info.modes * self._info.mode_duration_s, 12)
        if not begin <= arrival_s < end:
            raise self._endpoint.error(
                f"a photon that comes in at {_show(arrival_s)} misses the modes, {_show(begin)}"
                f" to {_show(end)} after the trigger: it is not kept",
                hint="gate the heralds on the window",
            )
        mode = min(
            math.floor((arrival_s - begin) / self._info.mode_duration_s), self._info.modes - 1
        )
        return Retrieval(mode, known.storage_s, arrival_s + known.storage_s)

    def _check_sequencer(self) -> None:
        of, name = self._sequencer.info, self._sequencer.name
        for begin, end in _PAIRS:
            if of.outputs.get(begin + end) != (begin, end):
                raise ConfigError(f"{self.name}: {name} has no output {begin + end}")
        if "internal" not in of.trigger_sources or "single" not in of.trigger_sources:
            raise ConfigError(f"{self.name}: {name} has no internal trigger that can be stopped")
        if of.dead_time_s > self._settings.rest:
            raise ConfigError(
                f"{self.name}: {name} needs {_show(of.dead_time_s)} after its last edge;"
                f" a rest of {_show(self._settings.rest)} is too short"
            )

    def _check_on_demand(self, verb: str) -> None:
        if not self._info.on_demand:
            raise self._endpoint.error(
                f"{verb}() of a memory with a fixed delay: without control pulses photons come out"
                f" {_show(self._info.echo_s)} after they came in",
                hint="prepare() is all it takes",
            )

    def _check_storage(self, storage_s: float) -> None:
        low, high = self._info.min_storage_s, self._info.max_storage_s
        grid = self._sequencer.info.resolution_s / 2
        if low - grid <= storage_s <= high + grid:
            return
        if not self._info.on_demand:
            why, way = "its delay is fixed", "ask for that, or take a memory with control pulses"
        elif storage_s > high:
            why = f"the cycle of {_show(self._info.cycle_s)} ends before the last photon is out"
            way = "ask for less, or raise the memory's cycle"
        elif storage_s < low:
            echo = _show(self._info.echo_s)
            why = f"the echo takes {echo}, transfer and recall must not overlap"
            if self._settings.protocol == "eit":
                why = f"the group delay is {echo}, the dark between write and read comes on top"
            way = "ask for more, or leave photons to the echo: prepare() alone"
        else:
            why, way = "that is no time", "give it in seconds"
        raise self._endpoint.error(
            f"cannot store for {_show(storage_s)}, only for {_show(low)} to {_show(high)}: {why}",
            hint=way,
        )

    def _require(self, verb: str, first: str, *states: str) -> None:
        state = self._read().state
        if state not in states:
            raise self._endpoint.error(
                f"{verb}() while the memory is {state!r}", hint=f"{first}() first"
            )

    def _pulses(self, programme: _Programme) -> tuple[tuple[float, float], ...]:
        """Delays of the edges of burn, transfer, recall and pit."""
        wanted, (begin, end) = self._settings, self._info.window_s
        burn = (wanted.cleaning, wanted.cleaning + wanted.burn)
        if programme.state == "bypassed":
            return burn, _NONE, _NONE, (0.0, burn[1])
        eit = wanted.protocol == "eit"
        if programme.state == "ready":
            through = (begin, end + wanted.echo_time + wanted.tail)
            return burn, through if eit else _NONE, _NONE, _NONE
        transfer = (begin, end) if eit else (end, end + wanted.control_pulse)
        if programme.state == "storing":
            return burn, transfer, _NONE, _NONE
        recall = end + programme.storage_s - wanted.echo_time
        length = wanted.echo_time + wanted.tail if eit else wanted.control_pulse
        return burn, transfer, (recall, recall + length), _NONE

    def _write(self, programme: _Programme) -> None:
        of = self._sequencer
        self._known = None
        of.trigger_source.set("single")
        of.burst.set(False)
        for pair, delays in zip(_PAIRS, self._pulses(programme), strict=True):
            for channel, delay in zip(pair, delays, strict=True):
                of.delays[channel].set(delay)
        of.trigger_rate.set(1 / self._info.cycle_s)
        of.trigger_source.set("internal")
        self._known = programme
        self._ready_at = self._clock.now() + self._settings.preparation

    def _read(self) -> _Programme:
        """Read what the sequencer does, whoever programmed it."""
        self._known = self._decode()
        return self._known

    def _decode(self) -> _Programme:
        of = self._sequencer
        source = of.trigger_source.get()
        if source == "single":
            return _Programme("idle")
        near = 1.5 * of.info.resolution_s
        found = [[of.delays[channel].get() for channel in pair] for pair in _PAIRS]
        _, transfer, recall, _ = found
        parked = transfer[1] if self._settings.protocol == "eit" else transfer[0]
        storage = round(self._settings.echo_time + recall[0] - parked, 12)
        candidates = [_Programme("ready", self._info.echo_s), _Programme("bypassed")]
        if self._info.on_demand:
            candidates += [_Programme("storing"), _Programme("retrieving", storage)]
        low, high = self._info.min_storage_s, self._info.max_storage_s
        rate = 1 / self._info.cycle_s
        if (
            source == "internal"
            and not of.burst.get()
            and abs(of.trigger_rate.get() - rate) <= 1e-6 * rate
        ):
            for each in candidates:
                if each.state == "retrieving" and not low - near <= storage <= high + near:
                    continue
                wanted = self._pulses(each)
                if all(
                    abs(is_at - should) <= near
                    for edges, pulse in zip(found, wanted, strict=True)
                    for is_at, should in zip(edges, pulse, strict=True)
                ):
                    return each
        return _Programme("fault")

    def _read_state(self) -> str:
        state = self._read().state
        running = state not in ("idle", "fault")
        return "preparing" if running and self._clock.now() < self._ready_at else state

    def _read_storage_time(self) -> float:
        return self._read().storage_s


def _show(seconds: float) -> str:
    return f"{seconds * 1e6:.6g} us"
