"""Pulse sequencers: pattern generators with digital and analog outputs."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt

from .base import Model, Stage

__all__ = ["OUTPUTS", "Program", "PulseSequencer", "PulseSequencerModel", "Span"]

#: Digital outputs of a sequencer, counted from 0.
OUTPUTS = 8
_NS = 1000

Times = npt.NDArray[np.int64]


class PulseSequencerModel(Model):
    """Pulse sequencer; nothing is wired to its trigger input.

    Every sequencer and delay generator of a world shares one reference, whatever clock it selects.
    """

    stage: ClassVar[Stage] = "wire"
    kind: Literal["pulse_sequencer"]
    #: Where edges come from.
    outputs: ClassVar[tuple[str, ...]] = tuple(str(n) for n in range(OUTPUTS))


@dataclass(frozen=True, eq=False)
class Program:
    """What a sequencer plays: steps, again and again, then a final state.

    Attributes:
        durations_ns: Length of each step, int64 (n,), above 0; n = 0 shows the final state only.
        digital: Mask of the digital outputs, uint8 (n + 1,): each step's, then the final one.
        analog_v: Levels of the analog outputs, float64 (n + 1, 2), likewise.
        runs: How often; None for ever.
    """

    durations_ns: Times
    digital: npt.NDArray[np.uint8]
    analog_v: npt.NDArray[np.float64]
    runs: int | None = None
    _rises: dict[int, tuple[Times, Times]] = field(default_factory=dict)

    @cached_property
    def starts_ps(self) -> Times:
        """Beginning of each step, from that of its run, and the run's end, int64 (n + 1,)."""
        return _NS * np.concatenate([np.zeros(1, np.int64), np.cumsum(self.durations_ns)])

    @property
    def period_ps(self) -> int:
        """Length of one run."""
        return int(self.starts_ps[-1])

    def rises(self, output: int) -> tuple[Times, Times]:
        """Rising edges of a digital output in a run after another: (steps, times in the run)."""
        if output not in self._rises:
            high = (self.digital[:-1] >> output & 1).astype(bool)
            steps = np.flatnonzero(high & ~np.roll(high, 1))
            self._rises[output] = steps, self.starts_ps[steps]
        return self._rises[output]


@dataclass(frozen=True)
class Span:
    """Rising edges of one output: those number ``low`` to ``high`` of each of some runs in a row.

    Attributes:
        start_ps: Beginning of the first of the runs, world time.
        runs: How many.
        low: Number of the first edge within a run.
        high: Number of the last, exclusive.
    """

    start_ps: int
    runs: int
    low: int
    high: int


def hold(digital: int = 0, analog_v: tuple[float, float] = (0.0, 0.0)) -> Program:
    """A program that shows one state."""
    return Program(
        np.empty(0, np.int64), np.array([digital], np.uint8), np.array([analog_v], np.float64), 0
    )


class PulseSequencer:
    """Plays the program it was given last; programs change at the beginning of blocks only."""

    def __init__(self, model: PulseSequencerModel) -> None:
        self.model = model
        self.program = hold()
        self.start_ps = 0
        self._before = 0  # mask of the digital outputs until start_ps

    @property
    def end_ps(self) -> int | None:
        """When the last run ends, world time; None for a program that plays for ever."""
        runs = self.program.runs
        return None if runs is None else self.start_ps + runs * self.program.period_ps

    def power_off(self) -> None:
        """Be without power: every output low."""
        self.program, self._before = hold(), 0

    def play(self, program: Program, start_ps: int) -> None:
        """Play ``program`` from ``start_ps`` on, the beginning of a block."""
        if start_ps > self.start_ps:  # else the program before it was never seen
            self._before = int(self.program.digital[self.step_before(start_ps)])
        self.program, self.start_ps = program, start_ps

    def step_before(self, time_ps: int) -> int:
        """The program's step that is shown just before a time after its beginning."""
        program, end = self.program, self.end_ps
        last = len(program.durations_ns)
        if not last or (end is not None and time_ps > end):
            return last
        within = (time_ps - 1 - self.start_ps) % program.period_ps
        return int(np.searchsorted(program.starts_ps, within, "right")) - 1

    def spans(self, output: int, begin_ps: int, end_ps: int) -> list[Span]:
        """Rising edges in ``[begin_ps, end_ps)`` by runs, without :meth:`lone_edges`."""
        program = self.program
        period = program.period_ps
        _, times = program.rises(output)
        if not times.size:
            return []
        stop = end_ps if self.end_ps is None else min(end_ps, self.end_ps)
        begin = max(begin_ps, self.start_ps)
        if begin >= stop:
            return []
        k0, within0 = divmod(begin - self.start_ps, period)
        k1, within1 = divmod(stop - self.start_ps, period)
        low, high = (int(n) for n in np.searchsorted(times, (within0, within1)))
        if k0 == 0 and times[0] == 0 and within0 == 0 and self._before >> output & 1:
            low = 1  # it was high already
        if k0 == k1:
            found = [(k0, 1, low, high)]
        else:
            found = [(k0, 1, low, times.size), (k0 + 1, k1 - k0 - 1, 0, times.size)]
            found.append((k1, 1, 0, high))
        return [
            Span(self.start_ps + k * period, runs, a, b)
            for k, runs, a, b in found
            if runs > 0 and b > a
        ]

    def lone_edges(self, output: int, begin_ps: int, end_ps: int) -> list[tuple[int, int]]:
        """Rising edges in the block that no run repeats: at its beginning, at its end.

        Returns:
            Their times, and the steps that begin with them.
        """
        program, found = self.program, []
        first, last = (int(m) >> output & 1 for m in program.digital[[0, -1]])
        n = len(program.durations_ns)
        if n:
            wrapped = int(program.digital[-2]) >> output & 1
            if first and wrapped and not self._before >> output & 1:
                found.append((self.start_ps, 0))
            if last and not wrapped and self.end_ps is not None:
                found.append((self.end_ps, n))
        elif last and not self._before >> output & 1:
            found.append((self.start_ps, 0))
        return [(time, step) for time, step in found if begin_ps <= time < end_ps]

    def edges(self, output: int, begin_ps: int, end_ps: int) -> tuple[Times, Times]:
        """Rising edges of a digital output in ``[begin_ps, end_ps)``.

        Returns:
            Times, world time, sorted int64 (m,), and the step of the program that begins with
            each, int64 (m,): an index into ``program.digital`` and ``program.analog_v``.
        """
        steps, offsets = self.program.rises(output)
        times, shown = [], []
        for span in self.spans(output, begin_ps, end_ps):
            chosen = slice(span.low, span.high)
            runs = span.start_ps + self.program.period_ps * np.arange(span.runs, dtype=np.int64)
            times.append((runs[:, None] + offsets[chosen]).ravel())
            shown.append(np.tile(steps[chosen], span.runs))
        lone = self.lone_edges(output, begin_ps, end_ps)
        times.append(np.array([time for time, _ in lone], np.int64))
        shown.append(np.array([step for _, step in lone], np.int64))
        time, step = np.concatenate(times), np.concatenate(shown)
        if lone:
            order = np.argsort(time, kind="stable")
            time, step = time[order], step[order]
        return time, step
