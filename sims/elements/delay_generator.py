"""Digital delay generators: triggers, cycles and the edges of their channels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from ...instruments import Unit
from ..physics.pulses import first_tick, stride_of, ticks_ps
from .base import Model, Stage

#: Channels of a delay generator, in the order of its delays after T0 and T1.
CHANNELS = "ABCDEFGH"


# After the last edge of a cycle, and to the end of the cycle (SRS' data sheet, unverified).
_DEAD_PS = 100_000


_T1_AFTER_PS = 25_000


# Longer than any world lives, and yet summable: 2^32 cycles of 2000 s are not.
_EVER_PS = 1 << 61


class DelayGeneratorModel(Model):
    """Digital delay generator; nothing is wired to its trigger input.

    All of a world share one 10 MHz reference, so that their internal rates keep step.
    """

    stage: ClassVar[Stage] = "wire"
    #: Channels that a wire may begin at.
    outputs: ClassVar[tuple[str, ...]] = ("T0", "T1", *CHANNELS)
    kind: Literal["delay_generator"]
    line_frequency: Annotated[float, Unit("Hz"), Field(gt=0)] = 50.0
    """Frequency of the mains, for triggers from the line."""
    inhibited: bool = False
    """Whether the inhibit input is held high."""


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

    def power_off(self) -> None:
        """Be without power: no trigger, and no burst that goes on."""
        self.source, self.burst = "single", False

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
