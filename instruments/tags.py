"""How clicks travel: sorted picoseconds and channels, with their losses and a watermark."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import numpy.typing as npt

__all__ = ["Channels", "Loss", "TagBatch", "TimesPs", "concatenate", "merge"]

TimesPs = npt.NDArray[np.int64]
Channels = npt.NDArray[np.int16]


@dataclass(frozen=True, slots=True)
class Loss:
    """An interval of the recording in which clicks were, or may have been, lost.

    Attributes:
        kind: ``"overflow"``, ``"gap"``, ``"late"``, ``"corrupt"`` or ``"clock"``.
        begin_ps: Start of the interval, ps since the recording's start.
        end_ps: End of the interval (exclusive).
        count: Number of lost clicks, or None where the device does not say.
    """

    kind: str
    begin_ps: int
    end_ps: int
    count: int | None = None


@dataclass(frozen=True, slots=True)
class TagBatch:
    """A piece of a click stream.

    Attributes:
        times_ps: int64, non-decreasing, ps since the recording's own start.
        channels: int16, one per time; the tagger's own input numbers.
        begin_ps: Watermark of the batch before; no click in this batch is earlier.
        end_ps: Watermark: no later batch holds a click earlier than this. Clicks of this
            batch lie in ``[begin_ps, end_ps)``.
        start_unix_ns: Host time of the recording's start, ns since the Unix epoch (0: unknown).
        clock_id: Name of the clock the times were taken with.
        losses: Intervals in which clicks were lost.

    Raises:
        ValueError: where the arrays do not fit together or leave ``[begin_ps, end_ps)``.
            Order inside the batch is checked only by :meth:`checked`, which costs a pass.
    """

    times_ps: TimesPs
    channels: Channels
    begin_ps: int
    end_ps: int
    start_unix_ns: int = 0
    clock_id: str = ""
    losses: tuple[Loss, ...] = field(default=())

    def __post_init__(self) -> None:
        if self.times_ps.dtype != np.int64 or self.channels.dtype != np.int16:
            raise ValueError(
                f"a TagBatch holds int64 times and int16 channels,"
                f" not {self.times_ps.dtype} and {self.channels.dtype}"
            )
        if self.times_ps.ndim != 1 or self.times_ps.shape != self.channels.shape:
            raise ValueError(
                f"times {self.times_ps.shape} and channels {self.channels.shape} differ in shape"
            )
        if self.end_ps < self.begin_ps:
            raise ValueError(f"batch ends ({self.end_ps} ps) before it begins ({self.begin_ps} ps)")
        if self.times_ps.size and not (
            self.begin_ps <= int(self.times_ps[0]) and int(self.times_ps[-1]) < self.end_ps
        ):
            raise ValueError(
                f"clicks {int(self.times_ps[0])}..{int(self.times_ps[-1])} ps leave"
                f" [{self.begin_ps}, {self.end_ps})"
            )

    def __len__(self) -> int:
        return int(self.times_ps.size)

    def checked(self) -> TagBatch:
        """Return self after checking that times never decrease (one pass over the tags)."""
        if self.times_ps.size and bool(np.any(np.diff(self.times_ps) < 0)):
            raise ValueError("times of a TagBatch must not decrease")
        return self

    @property
    def duration_s(self) -> float:
        """Length of the batch in seconds, losses included."""
        return (self.end_ps - self.begin_ps) * 1e-12

    @property
    def live_s(self) -> float:
        """Length of the batch in seconds without the union of its losses."""
        covered, reach = 0, self.begin_ps
        for loss in sorted(self.losses, key=lambda loss: loss.begin_ps):
            begin, end = max(loss.begin_ps, reach), min(loss.end_ps, self.end_ps)
            if end > begin:
                covered += end - begin
                reach = end
        return (self.end_ps - self.begin_ps - covered) * 1e-12

    def select(self, channels: Sequence[int]) -> TagBatch:
        """Return the batch with only the clicks of ``channels``."""
        keep = np.isin(self.channels, np.asarray(channels, dtype=np.int16))
        return self._with(self.times_ps[keep], self.channels[keep], self.begin_ps, self.end_ps)

    def split(self, at_ps: int) -> tuple[TagBatch, TagBatch]:
        """Cut the batch in two at ``at_ps``; the second begins there."""
        at = min(max(at_ps, self.begin_ps), self.end_ps)
        i = int(np.searchsorted(self.times_ps, at))
        return (
            self._with(self.times_ps[:i], self.channels[:i], self.begin_ps, at),
            self._with(self.times_ps[i:], self.channels[i:], at, self.end_ps),
        )

    def _with(self, times: TimesPs, channels: Channels, begin: int, end: int) -> TagBatch:
        # One without length belongs where it begins.
        losses = tuple(
            x for x in self.losses if x.begin_ps < end and (x.end_ps > begin or x.begin_ps >= begin)
        )
        return TagBatch(times, channels, begin, end, self.start_unix_ns, self.clock_id, losses)


def concatenate(batches: Iterable[TagBatch]) -> TagBatch:
    """Join consecutive batches of one stream.

    Raises:
        ValueError: for no batches, or batches that do not follow on each other.
    """
    parts = list(batches)
    if not parts:
        raise ValueError("cannot join zero batches")
    for before, after in itertools.pairwise(parts):
        if after.begin_ps != before.end_ps:
            raise ValueError(f"batch at {after.begin_ps} ps does not follow {before.end_ps} ps")
    losses = dict.fromkeys(loss for part in parts for loss in part.losses)
    return TagBatch(
        np.concatenate([p.times_ps for p in parts]),
        np.concatenate([p.channels for p in parts]),
        parts[0].begin_ps,
        parts[-1].end_ps,
        parts[0].start_unix_ns,
        parts[0].clock_id,
        tuple(losses),
    )


def merge(*streams: Iterable[TagBatch]) -> Iterator[TagBatch]:
    """Join streams that ran at the same time into one, such as a file per channel of one tagger.

    Times must count from the same zero, by the same clock. Clicks at one time stand in the order
    of the streams. Losses of one are losses of the whole, and so is the time before a stream begins
    and after it ends (kind ``gap``): its clicks are not known there. A stream without any batch is
    left out. Cost: some 20 ns per click; memory: a batch of each stream.

    Raises:
        ValueError: for streams of different starts or clocks, or batches that do not follow on
            each other.
        TagFileError: where a stream raises it; all clicks before that have been yielded.
    """
    sources = [iter(stream) for stream in streams]
    heads = [(next(source, None), source) for source in sources]
    held = [(batch, source) for batch, source in heads if batch is not None]
    if not held:
        return
    start = _agreed("start", [batch.start_unix_ns for batch, _ in held])
    clock = _agreed("clock", [batch.clock_id for batch, _ in held])
    begin, streams_in_all = min(batch.begin_ps for batch, _ in held), len(held)
    while held:
        upto = min(batch.end_ps for batch, _ in held)
        waiting = [batch.begin_ps for batch, _ in held if batch.begin_ps > begin]
        if len(held) < streams_in_all:
            waiting.append(upto)
        gap = min(max(waiting, default=begin), upto)
        cuts = [
            (*batch.split(upto), source) if batch.end_ps > upto else (batch, None, source)
            for batch, source in held
        ]
        gone = (Loss("gap", begin, gap),) if gap > begin else ()
        yield _overlaid([part for part, _, _ in cuts], begin, upto, start, clock, gone)
        begin = upto
        held = [
            (batch, source)
            for _, rest, source in cuts
            if (batch := _following(source, upto) if rest is None else rest) is not None
        ]


def _following(source: Iterator[TagBatch], upto_ps: int) -> TagBatch | None:
    batch = next(source, None)
    if batch is not None and batch.begin_ps != upto_ps:
        raise ValueError(f"batch at {batch.begin_ps} ps does not follow {upto_ps} ps")
    return batch


T = TypeVar("T", int, str)


def _agreed(what: str, values: list[T]) -> T:
    """Return what all say that say anything."""
    said = sorted({value for value in values if value})
    if len(said) > 1:
        raise ValueError(f"streams of different {what}s, {said[0]!r} and {said[1]!r}, do not merge")
    return said[0] if said else values[0]


def _overlaid(
    parts: list[TagBatch], begin: int, end: int, start: int, clock: str, gone: tuple[Loss, ...]
) -> TagBatch:
    filled = [part for part in parts if len(part)] or parts[:1]
    times = np.concatenate([part.times_ps for part in filled])
    channels = np.concatenate([part.channels for part in filled])
    if len(filled) > 1:
        order = np.argsort(times, kind="stable")  # quick, for it is made of sorted runs
        times, channels = times[order], channels[order]
    losses = dict.fromkeys((*gone, *(loss for part in parts for loss in part.losses)))
    return TagBatch(times, channels, begin, end, start, clock, tuple(losses))
