"""When two streams were live together: what rates of pairs are held against."""

from __future__ import annotations

import itertools
from array import array
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from ...instruments import TagBatch, TimesPs

_NODES = 513  # delays at which the live time is worked out; straight lines join more
_AT_ONCE = 1 << 18  # stretches of live time times delays

Floats = npt.NDArray[np.float64]
Spans = tuple[TimesPs, TimesPs]  # begins and ends, sorted, apart from each other


class LiveTime:
    """When a stream was live, and where its clock stepped. Memory: 16 bytes per loss."""

    def __init__(self) -> None:
        self._begins, self._ends = array("q"), array("q")
        self._steps = array("q")

    def add(self, batch: TagBatch) -> None:
        """Take the next batch."""
        at = batch.begin_ps
        for loss in sorted(batch.losses, key=lambda loss: loss.begin_ps):
            self._span(at, min(loss.begin_ps, batch.end_ps))
            at = max(at, loss.end_ps)
        self._span(at, batch.end_ps)
        self._steps.extend(clock_steps(batch))

    def _span(self, begin: int, end: int) -> None:
        if end <= begin:
            return
        if self._ends and self._ends[-1] == begin:
            self._ends[-1] = end
        else:
            self._begins.append(begin)
            self._ends.append(end)

    @property
    def spans(self) -> Spans:
        """When it was live."""
        return np.array(self._begins, np.int64), np.array(self._ends, np.int64)

    @property
    def steps(self) -> TimesPs:
        """Where clicks before are not compared with clicks after."""
        return np.unique(np.array(self._steps, np.int64))

    def __len__(self) -> int:
        return len(self._begins)

    @property
    def total_s(self) -> float:
        return (sum(self._ends) - sum(self._begins)) * 1e-12


class JointLive:
    """When two streams, or two channels of one stream, were live together.

    A pair ``b - a - delay = tau`` can be seen while a is live and b is live ``delay + tau`` later,
    with no step of a clock between.
    """

    def __init__(self) -> None:
        self.a, self.b = LiveTime(), LiveTime()
        self._one = False

    def add(self, a: TagBatch, b: TagBatch | None) -> None:
        """Take the next batch of each stream, or, without ``b``, of the one."""
        self.a.add(a)
        if b is None:
            self._one, self.b = True, self.a
        else:
            self.b.add(b)

    def at_s(self, delay_ps: int, taus_ps: Sequence[int] = (0,)) -> Floats:
        """Return for how long pairs of these differences could be seen, s (n,)."""
        total, later = np.zeros(len(taus_ps), np.int64), delay_ps + np.array(taus_ps, np.int64)
        for a, b in self._parts(delay_ps):
            few = max(1, _AT_ONCE // max(1, a[0].size))
            for i in range(0, later.size, few):
                total[i : i + few] += overlap_ps(a, b, later[i : i + few])
        return np.asarray(total * 1e-12, np.float64)

    def along_s(self, delay_ps: int, left_ps: int, bin_ps: int, bins: int) -> Floats:
        """Return the same at the middles of equal bins, s (bins,).

        Exact where bins and losses are few, else on straight lines between delays that are.
        """
        middles = left_ps + bin_ps // 2 + bin_ps * np.arange(bins, dtype=np.int64)
        most = max(33, min(_NODES, 4 * _AT_ONCE // (len(self.a) + len(self.b) + 1)))
        if bins <= most:
            return self.at_s(delay_ps, middles.tolist())
        nodes = middles[np.linspace(0, bins - 1, most).astype(np.int64)]
        return np.interp(middles, nodes, self.at_s(delay_ps, nodes.tolist()))

    def over_s2(self, delay_ps: int, edges_ps: TimesPs) -> Floats:
        """Return the same integrated over each bin between the edges, s^2 (n - 1,)."""
        total = np.zeros(edges_ps.size - 1)
        for a, b in self._parts(delay_ps):
            if a[0].size and b[0].size:
                total += _integral(a, b, delay_ps + edges_ps)
        return total * 1e-24

    def _parts(self, delay_ps: int) -> Iterator[tuple[Spans, Spans]]:
        """When both were live, apart at the steps of the clocks."""
        a, b, steps = self.a.spans, self.b.spans, self.a.steps
        if not self._one:
            steps = np.union1d(steps, self.b.steps - delay_ps)
        later = 0 if self._one else delay_ps
        ends = [None, *steps.tolist(), None]
        for begin, end in itertools.pairwise(ends):
            yield (
                _between(a, begin, end),
                _between(
                    b,
                    None if begin is None else begin + later,
                    None if end is None else end + later,
                ),
            )


def clock_steps(batch: TagBatch) -> list[int]:
    """Return where the batch's clock stepped."""
    return [loss.begin_ps for loss in batch.losses if loss.kind == "clock"]


def overlap_ps(a: Spans, b: Spans, later_ps: TimesPs) -> TimesPs:
    """Return for how long ``a`` was live with ``b`` live so much later, each (n,)."""
    if not (a[0].size and b[0].size):
        return np.zeros(later_ps.size, np.int64)
    later = later_ps[:, None]
    return np.asarray((_until(b, a[1] + later) - _until(b, a[0] + later)).sum(axis=1), np.int64)


def both(a: Spans, b: Spans) -> Spans:
    """Return when both were live."""
    begins, ends = np.concatenate([a[0], b[0]]), np.concatenate([a[1], b[1]])
    at = np.concatenate([begins, ends])
    step = np.repeat([1, -1], [begins.size, ends.size])
    order = np.lexsort((step, at))
    at, depth = at[order], np.cumsum(step[order])
    begin = np.flatnonzero(depth == 2)
    return at[begin], at[begin + 1]


def _until(spans: Spans, times: TimesPs) -> TimesPs:
    """Live time up to each."""
    begins, ends = spans
    before = np.concatenate([[0], np.cumsum(ends - begins)])
    k = np.searchsorted(begins, times, "right")
    last = np.maximum(k - 1, 0)
    rest = np.where(k > 0, np.maximum(ends[last] - times, 0), 0)
    return np.asarray(before[k] - rest, np.int64)


def _between(spans: Spans, begin: int | None, end: int | None) -> Spans:
    begins, ends = spans
    if begin is not None:
        first = int(np.searchsorted(ends, begin, "right"))
        begins, ends = np.maximum(begins[first:], begin), ends[first:]
    if end is not None:
        last = int(np.searchsorted(begins, end))
        begins, ends = begins[:last], np.minimum(ends[:last], end)
    return begins, ends


def _integral(a: Spans, b: Spans, edges: TimesPs) -> Floats:
    """The overlap integrated over how much later ``b`` was live, between each two edges; ps^2."""
    at = np.array(b, np.float64).T.ravel()
    live = np.concatenate([[0.0], np.repeat(np.cumsum(at[1::2] - at[::2]), 2)[:-1]])
    area = np.concatenate([[0.0], np.cumsum((live[1:] + live[:-1]) / 2 * np.diff(at))])

    def until(times: TimesPs) -> float:
        """The integral of b's live time up to each, summed."""
        x = times.astype(np.float64)
        k = np.clip(np.searchsorted(at, x) - 1, 0, at.size - 1)
        so_far = area[k] + (x - at[k]) * (live[k] + np.interp(x, at, live)) / 2
        return float(np.where(x > at[0], so_far, 0.0).sum())

    found = np.empty(edges.size - 1)
    for i, (first, last) in enumerate(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)):
        if last - first < 1e-4 * (at[-1] - at[0]):
            middle = np.array([(first + last) // 2])
            found[i] = float(overlap_ps(a, b, middle)[0]) * (last - first)
        else:
            found[i] = (until(a[1] + last) - until(a[1] + first)) - (
                until(a[0] + last) - until(a[0] + first)
            )
    return found
