"""Heralds of a Bell-state station and the clicks at both ends that belong to them, as a stream."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ...instruments import TagBatch, TimesPs
from ..timing._delays import DelayLine
from ..timing._live import LiveTime, both
from ..timing._streams import finished, whole

__all__ = ["BELL_LABELS", "DETECTORS", "OUTCOMES", "Gate", "SwapCounter", "SwapCounts"]

Indices = npt.NDArray[np.int64]

#: Detectors of a station: output of the beam splitter, then polarization.
DETECTORS = ("cH", "cV", "dH", "dV")
#: Bell states that two clicks in different polarizations herald, in the order of the counts.
BELL_LABELS = ("psi-", "psi+")
#: Outcomes of an analyzer, in the order of the counts.
OUTCOMES = ("H", "V", "D", "A")

_HOM = 2  # row of the counts behind the Bell labels: same polarization, opposite outputs
_NONE, _SEVERAL = 4, 5  # columns behind the outcomes
_FOREVER = 1 << 62

#: What two clicks of the station mean; -1 for two of one detector.
_MEANING: npt.NDArray[np.int64] = np.array(
    [
        [-1, 1, 2, 0],
        [1, -1, 0, 2],
        [2, 0, -1, 1],
        [0, 2, 1, -1],
    ],
    np.int64,
)


@dataclass(frozen=True)
class Gate:
    """A window that opens again and again, in step with the station's tagger.

    Attributes:
        period_ps: From one opening to the next.
        begin_ps: When it opens, within the period.
        length_ps: How long it stays open.
    """

    period_ps: float
    begin_ps: float
    length_ps: float

    def open(self, times_ps: TimesPs) -> npt.NDArray[np.bool_]:
        """Whether it is open at each time."""
        return np.asarray(np.mod(times_ps - self.begin_ps, self.period_ps) < self.length_ps)


@dataclass(frozen=True)
class SwapCounts:
    """What was counted at one setting.

    Attributes:
        table: int64 (3, 6, 6). Rows: psi-, psi+, and HOM coincidences (same polarization, opposite
            outputs: no herald). Then alice, then bob: H, V, D, A, no click, several clicks.
        lone: Detections at the station with one click.
        unclear: Detections at the station with three clicks or more, or two of one detector.
        lost: Heralds and HOM coincidences left out because an end lost clicks, or was not
            recorded, at the time.
        outside: Heralds and HOM coincidences left out because a gate was closed.
        live_s: How long a herald counted: all three were live, delays subtracted, the ends for
            half a window to either side.
    """

    table: npt.NDArray[np.int64]
    lone: int
    unclear: int
    lost: int
    outside: int
    live_s: float

    def __add__(self, other: SwapCounts) -> SwapCounts:
        return SwapCounts(
            self.table + other.table,
            self.lone + other.lone,
            self.unclear + other.unclear,
            self.lost + other.lost,
            self.outside + other.outside,
            self.live_s + other.live_s,
        )

    @property
    def fourfolds(self) -> npt.NDArray[np.int64]:
        """Heralds with one outcome at each end, int64 (2, 4, 4): label, alice, bob."""
        return self.table[:_HOM, :_NONE, :_NONE]

    @property
    def heralds(self) -> npt.NDArray[np.int64]:
        """Heralds by label, int64 (2,), whatever happened at the ends."""
        return np.asarray(self.table[:_HOM].sum(axis=(1, 2)))

    @property
    def hom(self) -> int:
        """HOM coincidences with one outcome at each end."""
        return int(self.table[_HOM, :_NONE, :_NONE].sum())

    @property
    def with_clicks(self) -> tuple[int, int, int]:
        """Heralds with any click at alice, at bob, and at both."""
        heralds = self.table[:_HOM].sum(axis=0)
        total = int(heralds.sum())
        no_a, no_b = int(heralds[_NONE].sum()), int(heralds[:, _NONE].sum())
        both = total - no_a - no_b + int(heralds[_NONE, _NONE])
        return total - no_a, total - no_b, both


class SwapCounter:
    """Counts heralds with what clicked at the ends; the result does not depend on the cutting.

    A detection at the station begins with a click outside the detection before and holds every
    click up to window/2 after it. Two clicks in it are a herald or a HOM coincidence, at the mean
    of their times. To an end belong its clicks within window/2 of that. Clicks inside losses do
    not count, and heralds at which an end lost clicks, or was not recorded, are left out.

    Cost: some 30 ns per click; memory for the clicks within the delays and the lead of one stream
    over the others, and 16 bytes per loss.

    Args:
        station: Detector (``cH``, ``cV``, ``dH``, ``dV``) of each input of the station's tagger.
        alice: Outcome (``H``, ``V``, ``D``, ``A``) of each input of alice's.
        bob: Likewise of bob's.
        window_ps: Coincidence window, full width.
        delays: Delay of each input of station, alice and bob, ps, subtracted from its times; for
            an end behind a memory it contains the storage time.
        gates: All of them must be open at a herald.
    """

    def __init__(
        self,
        station: Mapping[int, str],
        alice: Mapping[int, str],
        bob: Mapping[int, str],
        window_ps: int,
        delays: tuple[Mapping[int, int], Mapping[int, int], Mapping[int, int]],
        *,
        gates: Sequence[Gate] = (),
    ) -> None:
        window_ps = whole("a window", window_ps)
        if window_ps < 2:
            raise ValueError(f"a coincidence window of {window_ps} ps is too narrow")
        self._half = window_ps // 2
        inputs = (
            _by_name(station, DETECTORS),
            _by_name(alice, OUTCOMES),
            _by_name(bob, OUTCOMES),
        )
        self._station = _Heralds(inputs[0], delays[0], self._half)
        self._ends = (
            _End(inputs[1], delays[1], self._half),
            _End(inputs[2], delays[2], self._half),
        )
        self._times: TimesPs = np.zeros(0, np.int64)
        self._kinds: Indices = np.zeros(0, np.int64)
        self._table = np.zeros((3, 6, 6), np.int64)
        self._gates = tuple(gates)
        self._lost = self._outside = 0
        self._live = [LiveTime() for _ in range(3)]
        # how a live stretch of each gets shorter at its begin and end
        self._margins = [
            (extra - min(shifts), extra + max(shifts))
            for extra, shifts in zip(
                (0, self._half, self._half),
                ([of.get(c, 0) for c in each] for each, of in zip(inputs, delays, strict=True)),
                strict=True,
            )
        ]
        self._finished = False

    @property
    def fourfolds(self) -> int:
        """Four-folds so far, of both labels."""
        return int(self._table[:_HOM, :_NONE, :_NONE].sum())

    def add(self, station: TagBatch, alice: TagBatch, bob: TagBatch) -> None:
        """Take the next batch of each stream.

        Raises:
            ValueError: after the end.
        """
        if self._finished:
            raise finished(self)
        for live, batch in zip(self._live, (station, alice, bob), strict=True):
            live.add(batch)
        self._feed(station, alice, bob)

    def finish(self) -> SwapCounts:
        """End the streams and return the result."""
        self._finished = True
        self._take(*self._station.feed(None))
        self._lost += int(self._times.size)
        self._times, self._kinds = self._times[:0], self._kinds[:0]
        return SwapCounts(
            self._table.copy(),
            self._station.lone,
            self._station.unclear,
            self._lost,
            self._outside,
            self._live_s(),
        )

    def _live_s(self) -> float:
        spans = []
        for live, (first, last) in zip(self._live, self._margins, strict=True):
            begins, ends = live.spans
            begins, ends = begins + first, ends - last
            some = ends > begins
            spans.append((begins[some], ends[some]))
        begins, ends = both(both(spans[0], spans[1]), spans[2])
        return int((ends - begins).sum()) * 1e-12

    def _feed(self, station: TagBatch, alice: TagBatch, bob: TagBatch) -> None:
        for end, batch in zip(self._ends, (alice, bob), strict=True):
            end.feed(batch)
        self._take(*self._station.feed(station))
        next_ps = int(self._times[0]) if self._times.size else self._station.next_ps
        for end in self._ends:
            end.forget(next_ps)

    def _take(self, times: TimesPs, kinds: Indices) -> None:
        """Take in heralds, and count those whose ends are known."""
        keep = np.ones(times.size, np.bool_)
        for gate in self._gates:
            keep &= gate.open(times)
        self._outside += int(np.count_nonzero(~keep))
        self._times = np.concatenate([self._times, times[keep]])
        self._kinds = np.concatenate([self._kinds, kinds[keep]])
        known = min(end.watermark for end in self._ends) - self._half
        ready = int(np.searchsorted(self._times, known))
        at, kinds = self._times[:ready], self._kinds[:ready]
        self._times, self._kinds = self._times[ready:], self._kinds[ready:]
        alive = self._ends[0].alive(at) & self._ends[1].alive(at)
        self._lost += int(np.count_nonzero(~alive))
        at, kinds = at[alive], kinds[alive]
        first, second = (end.outcomes(at) for end in self._ends)
        np.add.at(self._table, (kinds, first, second), 1)


def _by_name(channels: Mapping[int, str], names: tuple[str, ...]) -> list[int]:
    """Channels in the order of ``names``, each of which must stand for one."""
    found = {name: channel for channel, name in channels.items() if name in names}
    labels = [name for name in channels.values() if name in names]
    if sorted(labels) != sorted(names):
        raise ValueError(f"one input for each of {', '.join(names)} needed, got {labels}")
    return [found[name] for name in names]


class _Heralds:
    """Clicks of the station, gathered into detections."""

    def __init__(self, channels: list[int], delays: Mapping[int, int], half: int) -> None:
        self._line = DelayLine(channels, delays)
        self._half = half
        self._times: TimesPs = np.zeros(0, np.int64)
        self._which: npt.NDArray[np.int16] = np.zeros(0, np.int16)
        self.lone = 0
        self.unclear = 0

    @property
    def next_ps(self) -> int:
        """No later herald is earlier than this."""
        return min(int(self._times[0]) if self._times.size else _FOREVER, self._line.watermark)

    def feed(self, batch: TagBatch | None) -> tuple[TimesPs, Indices]:
        """Return times and meanings of the next heralds and HOM coincidences."""
        more, new = self._line.feed(batch)
        times = np.concatenate([self._times, more])
        which = np.concatenate([self._which, new])
        first = _detections(times, self._half)
        size = np.diff(first, append=times.size)
        # A detection is complete when nothing that still comes can belong to it.
        done = int(np.searchsorted(times[first], self._line.watermark - self._half))
        end = int(first[done]) if done < first.size else times.size
        self._times, self._which = times[end:], which[end:]
        first, size = first[:done], size[:done]
        self.lone += int(np.count_nonzero(size == 1))
        two = first[size == 2]
        meaning = _MEANING[which[two], which[two + 1]]
        clear = meaning >= 0
        self.unclear += int(np.count_nonzero(size > 2)) + int(np.count_nonzero(~clear))
        two = two[clear]
        return times[two] + (times[two + 1] - times[two]) // 2, meaning[clear]


def _detections(times: TimesPs, half: int) -> Indices:
    """Indices of the clicks that begin a detection: each holds what comes up to ``half`` later."""
    if not times.size:
        return np.zeros(0, np.int64)
    begins = np.flatnonzero(np.diff(times, prepend=-_FOREVER) > half)
    ends = np.append(begins[1:], times.size)
    more: list[int] = []
    # Chains of close clicks that last longer are rare: three clicks or more.
    for i in np.flatnonzero(times[ends - 1] - times[begins] > half).tolist():
        start = times[begins[i]]
        for j in range(int(begins[i]) + 1, int(ends[i])):
            if times[j] - start > half:
                more.append(j)
                start = times[j]
    return np.sort(np.concatenate([begins, np.array(more, np.int64)]))


class _End:
    """Clicks of one end, kept for as long as a herald may ask for them."""

    def __init__(self, channels: list[int], delays: Mapping[int, int], half: int) -> None:
        self._line = DelayLine(channels, delays)
        self._half = half
        shifts = [delays.get(channel, 0) for channel in channels]
        self._shifts = min(shifts), max(shifts)
        self._times: TimesPs = np.zeros(0, np.int64)
        self._which: npt.NDArray[np.int16] = np.zeros(0, np.int16)
        self._begin: int | None = None  # of the recording, in corrected time
        self._losses: set[tuple[int, int]] = set()

    @property
    def watermark(self) -> int:
        return self._line.watermark

    def feed(self, batch: TagBatch) -> None:
        times, which = self._line.feed(batch)
        self._times = np.concatenate([self._times, times])
        self._which = np.concatenate([self._which, which])
        least, most = self._shifts
        if self._begin is None:
            self._begin = batch.begin_ps - least
        for loss in batch.losses:
            begin, end = loss.begin_ps - most - self._half, loss.end_ps - least + self._half
            self._losses.add((begin, end))

    def alive(self, at: TimesPs) -> npt.NDArray[np.bool_]:
        """Whether nothing was lost in the window of each herald."""
        if self._begin is None:
            return np.zeros(at.size, np.bool_)
        alive = at - self._half >= self._begin
        for begin, end in self._losses:
            alive[np.searchsorted(at, begin) : np.searchsorted(at, end)] = False
        return alive

    def outcomes(self, at: TimesPs) -> Indices:
        """Outcome, none or several, within the window of each herald."""
        low = np.searchsorted(self._times, at - self._half)
        high = np.searchsorted(self._times, at + self._half, side="right")
        found = np.where(high == low, _NONE, _SEVERAL)
        one = high == low + 1
        found[one] = self._which[low[one]]
        return found

    def forget(self, before_ps: int) -> None:
        """Drop what no herald at or after ``before_ps`` asks for."""
        past = int(np.searchsorted(self._times, before_ps - self._half))
        self._times, self._which = self._times[past:], self._which[past:]
        self._losses = {loss for loss in self._losses if loss[1] > before_ps}
