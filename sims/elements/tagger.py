"""Time taggers: their inputs, their clock, their memory."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Annotated, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from ...instruments import Unit
from ..physics.clocks import PRESETS, ClockNoise, Oscillator
from ..physics.overflow import Buffer
from ..physics.snspd import filter_dead_time
from .base import Model, Stage

_STEP_S = 0.01
_STEP_PS = 10_000_000_000
# Before any world begins, by more than a dead time.
_LONG_AGO_PS = -(1 << 50)
_INPUTS = 64

_Deviation = Annotated[float, Unit("1"), Field(ge=0, le=1e-4)]


class ClockModel(Model):
    """What a tagger counts time with.

    A preset brings its noise, and an offset that is drawn once; each value given here takes the
    place of the preset's. Noise is given as Allan deviations at 1 s, as data sheets do.
    """

    reference: Literal["external", "white_rabbit", "rubidium", "ocxo", "xo", "internal"] = (
        "external"
    )
    """``external``: the world's own reference, without error; ``white_rabbit``: a node that follows
    it; ``rubidium``, ``ocxo``, ``xo``: an oscillator of its own with the noise typical of its kind;
    ``internal``: an oscillator of its own with what is given here and no other error."""
    frequency_offset: Annotated[float, Unit("1"), Field(ge=-1e-3, le=1e-3)] | None = None
    """Fractional frequency when the world begins; positive runs fast."""
    drift: Annotated[float, Unit("Hz"), Field(ge=-1e-6, le=1e-6)] = 0.0
    """Change of the fractional frequency per second, such as '1e-12 Hz'."""
    white_fm: _Deviation | None = None
    """Of white frequency noise, falls as 1/sqrt(tau)."""
    flicker_fm: _Deviation | None = None
    """Of flicker frequency noise, the same at each tau."""
    random_walk_fm: _Deviation | None = None
    """Of random-walk frequency noise, grows as sqrt(tau)."""
    lock_error: Annotated[float, Unit("s"), Field(ge=0, le=1e-6)] | None = None
    """Rms time error of a clock that follows the reference."""

    @model_validator(mode="after")
    def _is_possible(self) -> ClockModel:
        own = ("frequency_offset", "drift", "white_fm", "flicker_fm", "random_walk_fm")
        if self.reference in ("external", "white_rabbit"):
            for name in own:
                if getattr(self, name):
                    raise ValueError(
                        f"a clock that follows the reference has no {name} of its own; leave it out"
                        " or write 'reference: internal'"
                    )
        if self.reference != "white_rabbit" and self.lock_error:
            raise ValueError(
                "only a clock that follows the reference has a lock_error; leave it out or write"
                " 'reference: white_rabbit'"
            )
        return self

    def oscillator(self) -> Oscillator:
        """Build it; without an offset where none is given."""
        noise, _ = PRESETS.get(self.reference, (ClockNoise(), 0.0))
        if self.white_fm is not None:
            noise = replace(noise, white_fm=2 * self.white_fm**2)
        if self.flicker_fm is not None:
            noise = replace(noise, flicker_fm=self.flicker_fm**2 / (2 * math.log(2)))
        if self.random_walk_fm is not None:
            noise = replace(noise, random_walk_fm=1.5 * self.random_walk_fm**2 / math.pi**2)
        if self.lock_error is not None:
            noise = replace(noise, locked_rms_s=self.lock_error)
        return Oscillator(noise, _STEP_S, frequency=self.frequency_offset or 0.0, drift=self.drift)


class TaggerModel(Model):
    """Time tagger inputs; a path's detectors feed them one after the other."""

    stage: ClassVar[Stage] = "tag"
    kind: Literal["tagger"]
    cable_delays: tuple[Annotated[float, Unit("s"), Field(ge=0, le=1)], ...] = ()
    """Electrical delay of each input, 0 where not given."""
    jitter: Annotated[float, Unit("s"), Field(ge=0, le=1e-6)] = 0.0
    """FWHM of the tagger's own timing jitter."""
    start_offset: Annotated[float, Unit("s")] = 0.0
    """How long after the command the recording begins; unknown to the user."""
    clock: ClockModel = ClockModel()
    resolution: Annotated[float, Unit("s"), Field(ge=0, le=1e-6)] = 0.0
    """Width of a time bin, whole ps; 0 for 1 ps. A device whose words are coarser cuts further."""
    dead_time: Annotated[float, Unit("s"), Field(ge=0, le=1e-4)] = 0.0
    """After each pulse its input is blind for so long."""
    buffer: Annotated[int, Field(ge=1)] | None = None
    """Pulses that the tagger's memory holds; once full, it takes no more until it is empty."""
    buffer_rate: Annotated[float, Unit("Hz"), Field(gt=0)] | None = None
    """How fast the memory is read, all inputs together."""

    @model_validator(mode="after")
    def _is_possible(self) -> TaggerModel:
        if (self.buffer is None) != (self.buffer_rate is None):
            have, need = ("buffer", "buffer_rate") if self.buffer else ("buffer_rate", "buffer")
            raise ValueError(f"a {have} needs a {need}; give both, or neither for no limit")
        bins = self.resolution * 1e12
        if abs(bins - round(bins)) > 1e-6:
            raise ValueError(f"resolution must be whole picoseconds, not {bins:g} ps")
        return self


class TaggerInputs:
    """Knob: ``recording``. Readings: of the block that has just ended, while ``recording``.

    ``times_ps`` (int64, sorted) are the pulses in the tagger's own clock, which shows 0 when the
    world begins; ``inputs`` (int16, counted from 1) where they came. No later block holds a time
    before :meth:`clock_ps` of this block's end. ``lost`` (int64, by input, from 0) counts those
    that found the memory full, and ``gaps_ps`` (int64, own clock) tells where such a loss began.
    """

    KEPT: ClassVar[tuple[str, ...]] = ("clock_state",)
    step_s: ClassVar[float] = _STEP_S

    def __init__(self, model: TaggerModel) -> None:
        self.model = model
        self.recording = False
        self.times_ps: npt.NDArray[np.int64] = np.empty(0, np.int64)
        self.inputs: npt.NDArray[np.int16] = np.empty(0, np.int16)
        self.lost: npt.NDArray[np.int64] = np.zeros(_INPUTS, np.int64)
        self.gaps_ps: npt.NDArray[np.int64] = np.empty(0, np.int64)
        self._parts: list[tuple[npt.NDArray[np.int64], npt.NDArray[np.int16]]] = []
        self._bin_ps = max(1, round(model.resolution * 1e12))
        self._dead_ps = np.full(_INPUTS, round(model.dead_time * 1e12), np.int64)
        self._last_ps = np.full(_INPUTS, _LONG_AGO_PS, np.int64)
        self._buffer = self._empty_buffer()
        if self._buffer is not None:
            self._buffer.take(self.times_ps)  # compiles it before a paced world begins
        self._oscillator = model.clock.oscillator() if self.drifts else None
        # World time at which the present step of the clock began, its error then and at its end.
        self._step_ps = 0
        self._error_ps = (0.0, 0.0)

    @property
    def drifts(self) -> bool:
        """Whether its clock is not the world's."""
        return self.model.clock.reference != "external"

    def power_off(self) -> None:
        """Be without power."""
        self.recording = False

    def step(self, rng: np.random.Generator, now_s: float) -> None:
        """Let the clock run on for ``step_s``."""
        if self._oscillator is None:
            return
        clock = self.model.clock
        if not self._oscillator.steps and clock.frequency_offset is None:
            _, accuracy = PRESETS.get(clock.reference, (None, 0.0))
            self._oscillator.frequency = accuracy * float(rng.standard_normal())
        self._step_ps = round(now_s / _STEP_S) * _STEP_PS
        self._error_ps = (self._error_ps[1], self._oscillator.step(rng) * 1e12)

    @property
    def clock_state(self) -> npt.NDArray[np.float64]:
        """All that changes in the clock; set only between blocks."""
        return np.empty(0) if self._oscillator is None else self._oscillator.state

    @clock_state.setter
    def clock_state(self, state: npt.NDArray[np.float64]) -> None:
        if self._oscillator is not None:
            self._oscillator.state = state
            self._error_ps = (self._oscillator.error_s * 1e12,) * 2

    def clock_ps(self, world_ps: int) -> int:
        """What the tagger's clock shows at a time of this block, edges included, ps."""
        begin, end = self._error_ps
        share = (world_ps - self._step_ps) / _STEP_PS
        error = begin * (1 - share) + end * share  # exact at both edges
        return (world_ps + round(error)) // self._bin_ps * self._bin_ps

    def start_ps(self, world_ps: int) -> int:
        """What the clock shows when a recording begins that is asked for at ``world_ps``, ps."""
        start = self.clock_ps(world_ps) + round(self.model.start_offset * 1e12)
        return start // self._bin_ps * self._bin_ps

    def add(self, times_ps: npt.NDArray[np.int64], inputs: npt.NDArray[np.int16]) -> None:
        """Take the sorted pulses of some inputs in this block, world time."""
        self._parts.append((times_ps, inputs))

    def warm_up(self, times_ps: npt.NDArray[np.int64], inputs: npt.NDArray[np.int16]) -> None:
        """Take sorted pulses of some inputs that nobody sees: dead times come of them."""
        if self.model.dead_time and times_ps.size:
            filter_dead_time(times_ps, inputs - np.int16(1), self._dead_ps, self._last_ps)

    def rest(self, first: int, count: int) -> None:
        """Forget the last pulses of ``count`` inputs in a row, from input ``first``."""
        self._last_ps[first - 1 : first - 1 + count] = _LONG_AGO_PS

    def end_block(self) -> None:
        """Merge what the inputs took into the block's pulses."""
        parts, self._parts = self._parts, []
        if len(parts) == 1:
            times, inputs = parts[0]
        else:
            times = np.concatenate([np.empty(0, np.int64), *(part[0] for part in parts)])
            inputs = np.concatenate([np.empty(0, np.int16), *(part[1] for part in parts)])
            order = np.argsort(times, kind="stable")
            times, inputs = times[order], inputs[order]
        if self.model.dead_time and times.size:
            alive = filter_dead_time(times, inputs - np.int16(1), self._dead_ps, self._last_ps)
            times, inputs = times[alive], inputs[alive]
        if self._buffer is not None:
            times, inputs = self._store(self._buffer, times, inputs)
        self.times_ps, self.inputs = self._in_own_time(times), inputs

    def _empty_buffer(self) -> Buffer | None:
        if self.model.buffer is None or self.model.buffer_rate is None:
            return None
        return Buffer(self.model.buffer, self.model.buffer_rate)

    def _store(
        self, buffer: Buffer, times: npt.NDArray[np.int64], inputs: npt.NDArray[np.int16]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int16]]:
        """What the memory takes of the block's pulses."""
        if not self.recording:
            self._buffer = self._empty_buffer()
            self.lost, self.gaps_ps = np.zeros(_INPUTS, np.int64), np.empty(0, np.int64)
            return times, inputs
        overflowing = buffer.overflowing
        kept = buffer.take(times)
        self.lost = np.bincount(inputs[~kept] - 1, minlength=_INPUTS)
        before = np.concatenate(([not overflowing], kept[:-1]))
        self.gaps_ps = self._in_own_time(times[~kept & before])
        return times[kept], inputs[kept]

    def _in_own_time(self, times: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        if self.drifts and times.size:
            begin, end = self._error_ps
            error = (times - self._step_ps) * ((end - begin) / _STEP_PS)
            error += begin
            times = times + np.rint(error, out=error).astype(np.int64)
        return times if self._bin_ps == 1 else times // self._bin_ps * self._bin_ps
