"""Coincidences of many channels at once: all pairs, and the n-folds asked for.

A window is a full width, with both ends closed. One click from each of n channels is an n-fold
where each two of them coincide, ``|b - a| <= window/2`` (delays subtracted): where the last comes
at most window/2 after the first. So a two-fold is what :class:`CoincidenceCounter` counts as a
pair, and the ``coincidenceWindow`` of Swabian's software is half of the window here. All tuples
count: two clicks of channel 1 with one of channel 2 are two coincidences.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ...instruments import TagBatch
from ._order import Counting
from ._pieces import CutLine, Ready, half_of
from ._streams import check_named

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["FoldCounter", "FoldCounts"]

Counts = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class FoldCounts:
    """Clicks, pairs and n-folds of a set of channels.

    Attributes:
        channels: What the rows and columns are.
        window_ps: Full width.
        singles: int64 (channels,), clicks outside losses.
        pairs: int64 (channels, channels), symmetric; the diagonal is 0.
        folds: The combinations of channels that were asked for.
        counts: int64 (folds,).
        shifts: The wrong delays asked for: by how much later each channel was sought, ps.
        shifted_pairs: int64 (shifts, channels, channels), pairs at the wrong delays.
        shifted_counts: int64 (shifts, folds), n-folds at the wrong delays.
        live_s: Recorded time without losses.
    """

    channels: tuple[int, ...]
    window_ps: int
    singles: Counts
    pairs: Counts
    folds: tuple[tuple[int, ...], ...]
    counts: Counts
    shifts: tuple[Mapping[int, int], ...]
    shifted_pairs: Counts
    shifted_counts: Counts
    live_s: float

    def count(self, *channels: int) -> int:
        """Clicks of one channel, pairs of two, or n-folds of the channels named.

        Raises:
            ValueError: for channels, or a combination, that were not counted.
        """
        if len(channels) == 1:
            return int(self.singles[self._row(channels[0])])
        return int(self._of(channels, self.pairs[None], self.counts[None])[0])

    def rate_hz(self, *channels: int) -> float:
        """The same per live second; nan without live time."""
        return self.count(*channels) / self.live_s if self.live_s else math.nan

    def accidentals(self, *channels: int) -> float:
        """Mean count of a pair or n-fold at the wrong delays, nan where none was asked for.

        Only wrong delays that move these channels against each other are taken.

        Raises:
            ValueError: where they tear the n-fold apart in different ways, as
                ``{2: 10_000}`` and ``{3: 10_000}`` do: one counts what pairs in 1 and 3 have with
                2, the other what pairs in 1 and 2 have with 3, and a mean of the two is of nothing.
        """
        counts = self._of(channels, self.shifted_pairs, self.shifted_counts)
        ways = [_together(channels, shift) for shift in self.shifts]
        apart = [len(way) > 1 for way in ways]
        if len({way for way in ways if len(way) > 1}) > 1:
            raise ValueError(
                f"the shifts tear the {len(channels)}-fold of {list(channels)} apart in different"
                " ways: take shifted_counts, one by one"
            )
        return float(counts[apart].mean()) if any(apart) else math.nan

    def plot(self, ax: Axes | None = None, *, log: bool = False) -> Axes:
        """Draw the pairs as a matrix, each with its coincidence-to-accidental ratio.

        Accidentals are those of the wrong delays that move the two channels against each other;
        without one the ratio is what it exceeds at 95 %.

        Args:
            ax: To draw on; a new figure by default.
            log: Logarithmic colours.
        """
        from ._pictures import draw_folds

        return draw_folds(self, ax, log=log)

    def _of(self, channels: tuple[int, ...], pairs: Counts, counts: Counts) -> Counts:
        if len(set(channels)) != len(channels) or not channels:
            raise ValueError(f"a coincidence is of distinct channels, got {list(channels)}")
        if len(channels) == 2:
            return pairs[:, self._row(channels[0]), self._row(channels[1])]
        for i, fold in enumerate(self.folds):
            if set(fold) == set(channels):
                return counts[:, i]
        raise ValueError(f"the {len(channels)}-fold of {list(channels)} was not counted")

    def _row(self, channel: int) -> int:
        if channel not in self.channels:
            raise ValueError(f"channel {channel} was not counted, only {list(self.channels)}")
        return self.channels.index(channel)


def _together(channels: Sequence[int], shift: Mapping[int, int]) -> frozenset[frozenset[int]]:
    """The sets of channels that a shift does not move against each other."""
    return frozenset(
        frozenset(c for c in channels if shift.get(c, 0) == by)
        for by in {shift.get(c, 0) for c in channels}
    )


class FoldCounter(Counting[FoldCounts]):
    """Counts all pairs of a tagger's channels and any n-folds, in one pass.

    What is an n-fold is said at the top of this module. The result does not depend on how the
    stream was cut into batches. Clicks inside losses do not count; an n-fold with a loss between
    its clicks does, all of them having been seen, unless the clock stepped there (a loss of kind
    ``clock``), as in :class:`CoincidenceCounter`.

    Cost: some 12 ns per tag whatever the number of pairs, and as much again per wrong delay; a
    click with others in its window costs 1 ns more per channel and, where they are of enough
    channels, per n-fold it may be in; 0.1 us where tags overtake more than 8 others each as
    delays are subtracted. Memory for the clicks within the delays and the window. The first use
    ever compiles for 3 s.

    Args:
        channels: Rows of the result.
        window_ps: Full width.
        folds: Combinations of two channels or more to count besides all pairs, e.g.
            ``itertools.combinations(channels, 4)``.
        delays_ps: Delay of each channel, subtracted from its times; 0 where not named.
        shifts_ps: Wrong delays at which accidentals are counted. Each says by how much later
            the channels it names are sought: ``{2: 10_000}`` the accidentals of channel 2 with
            all others, ``{3: 10_000, 4: 10_000}`` those of a pair in 1 and 2 with one in 3 and 4.

    Raises:
        ValueError: for a negative window, channels named twice, or a fold of others; while it
            counts, where one click completes more than 4e9 n-folds: the window is too wide.
    """

    def __init__(
        self,
        channels: Sequence[int],
        window_ps: int,
        *,
        folds: Sequence[Sequence[int]] = (),
        delays_ps: Mapping[int, int] | None = None,
        shifts_ps: Sequence[Mapping[int, int]] = (),
    ) -> None:
        super().__init__()
        half = half_of(window_ps)
        self._channels = tuple(channels)
        self._window = window_ps
        self._folds = tuple(tuple(fold) for fold in folds)
        known = set(self._channels)
        for fold in self._folds:
            if len(fold) < 2 or len(set(fold)) != len(fold) or not set(fold) <= known:
                raise ValueError(
                    f"a fold is of two or more of the channels {list(channels)}, got {list(fold)}"
                )
        self._shifts = tuple(dict(shift) for shift in shifts_ps)
        delays = dict(delays_ps or {})
        for named in (delays, *self._shifts):
            check_named(named, known)
        self._passes = [
            _Pass(
                self._channels,
                {c: delays.get(c, 0) + shift.get(c, 0) for c in self._channels},
                half,
                self._folds,
            )
            for shift in ({}, *self._shifts)
        ]

    def so_far(self) -> FoldCounts:
        """Return what is counted so far, without what still waits; the stream goes on."""
        here, *beside = self._passes
        n, folds = len(self._channels), len(self._folds)
        return FoldCounts(
            self._channels,
            self._window,
            here.singles.copy(),
            here.symmetric,
            self._folds,
            here.folds.copy(),
            self._shifts,
            np.array([one.symmetric for one in beside], np.int64).reshape(len(beside), n, n),
            np.array([one.folds for one in beside], np.int64).reshape(len(beside), folds),
            self._order.live_s,
        )

    def _feed(self, batch: TagBatch | None) -> None:
        for one in self._passes:
            one.feed(batch)


class _Pass:
    """Counts at one set of delays."""

    def __init__(
        self,
        channels: tuple[int, ...],
        delays: Mapping[int, int],
        half: int,
        folds: tuple[tuple[int, ...], ...],
    ) -> None:
        self._half = half
        rows = [[channels.index(c) for c in fold] for fold in folds]
        self._sizes = np.array([len(row) for row in rows], np.int64)
        self._members = np.zeros((len(rows), max(map(len, rows), default=0)), np.int64)
        for members, row in zip(self._members, rows, strict=True):
            members[: len(row)] = row
        lists = [[f for f, row in enumerate(rows) if c in row] for c in range(len(channels))]
        self._of_channel = np.array([f for one in lists for f in one], np.int64)
        self._begins = np.concatenate([[0], np.cumsum([len(one) for one in lists])])
        self._pairs = np.zeros((len(channels), len(channels)), np.int64)
        self.singles = np.zeros(len(channels), np.int64)
        self.folds = np.zeros(len(rows), np.int64)
        self._line = CutLine(channels, delays, at="clock")
        self._forget()

    def _forget(self) -> None:
        self._held = np.zeros(0, np.int64)
        self._held_which = np.zeros(0, np.int16)

    @property
    def symmetric(self) -> Counts:
        """Pairs of different channels, whichever came last."""
        pairs = self._pairs + self._pairs.T
        np.fill_diagonal(pairs, 0)
        return pairs

    def feed(self, batch: TagBatch | None) -> None:
        for ready, last in self._line.feed(batch):
            self._count(ready)
            if last:
                self._forget()

    def _count(self, ready: Ready) -> None:
        from . import _kernels_many

        times, which, watermark = ready
        if not _kernels_many.count_folds(
            self._held,
            self._held_which,
            times,
            which,
            self._half,
            self._members,
            self._sizes,
            self._of_channel,
            self._begins,
            self.singles,
            self._pairs,
            self.folds,
        ):
            raise ValueError(
                f"a window of {2 * self._half} ps holds too many clicks to count their n-folds:"
                " is it in ps?"
            )
        since = watermark - self._half
        new, old = int(np.searchsorted(times, since)), int(np.searchsorted(self._held, since))
        self._held = np.concatenate([self._held[old:], times[new:]])
        self._held_which = np.concatenate([self._held_which[old:], which[new:]])
