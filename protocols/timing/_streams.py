"""Per-channel delays and the pairing of two streams, in bounded memory."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from ...instruments import TagBatch, TimesPs
from ._live import JointLive, clock_steps

Indices = npt.NDArray[np.int16]

FOREVER = 1 << 62  # 53 days; no click lies further from the recording's start

_PIECE = 1 << 16  # clicks taken at a time, for the cache
_FEW = 1 << 12  # so many may wait before their pairs are counted: small batches cost less


def check_near(batch: TagBatch, latest_ps: int = FOREVER) -> None:
    """Refuse clicks so far from the recording's start that their sums would leave 64 bits.

    Raises:
        ValueError: for a batch before -2^62 ps (53 days) or after ``latest_ps``.
    """
    if batch.begin_ps < -FOREVER or batch.end_ps > latest_ps:
        raise ValueError(
            f"clicks of [{batch.begin_ps}, {batch.end_ps}) ps lie more than"
            f" 2**{latest_ps.bit_length() - 1} ps ({latest_ps / 86400e12:.0f} days)"
            " from the recording's start"
        )


def whole(what: str, value: int) -> int:
    """Return a number of ps, or of bins, as an int; numpy's integers are taken too.

    Raises:
        ValueError: for a fraction, or a float at all.
    """
    try:
        return operator.index(value)
    except TypeError:
        raise ValueError(f"{what} is a whole number, not {value!r}") from None


def whole_delays(channels: Sequence[int], delays_ps: Mapping[int, int]) -> list[int]:
    """Return the delay of each channel, 0 where not named.

    Raises:
        ValueError: for one that is no whole number, or that no recording is as long as.
    """
    delays = [whole("a delay", delays_ps.get(channel, 0)) for channel in channels]
    for delay in delays:
        if not -FOREVER // 2 < delay < FOREVER // 2:
            raise ValueError(f"no recording is as long as a delay of {delay} ps")
    return delays


def check_named(delays_ps: Iterable[int], channels: Iterable[int]) -> None:
    """Refuse delays of channels that are not used.

    Raises:
        ValueError: naming them.
    """
    unused = sorted(set(delays_ps) - set(channels))
    if unused:
        raise ValueError(f"delays for channels {unused}, which are not among {sorted(channels)}")


def finished(operation: object) -> ValueError:
    """Return the error for clicks after the end."""
    return ValueError(f"{type(operation).__name__} is finished: make a new one for more clicks")


def live(batch: TagBatch) -> npt.NDArray[np.bool_]:
    """Return which clicks lie outside the batch's losses."""
    alive = np.ones(len(batch), np.bool_)
    for loss in batch.losses:
        i, j = np.searchsorted(batch.times_ps, [loss.begin_ps, loss.end_ps])
        alive[i:j] = False
    return alive


def less_delays(batch: TagBatch, delays_ps: Mapping[int, int]) -> tuple[TagBatch, TimesPs]:
    """Return the clicks of the channels named, and their times less their channel's delay.

    Both are in the order recorded. Clicks inside losses are left out.
    """
    which = places(list(delays_ps), -1)[batch.channels.view(np.uint16)]
    keep = (which >= 0) & live(batch)
    known = replace(batch, times_ps=batch.times_ps[keep], channels=batch.channels[keep])
    return known, known.times_ps - np.array(list(delays_ps.values()), np.int64)[which[keep]]


def places(channels: Sequence[int], other: int) -> Indices:
    """Return the place in ``channels`` of each 16-bit channel, ``other`` for those not in it."""
    if not channels or len(set(channels)) != len(channels):
        raise ValueError(f"need distinct channels, got {list(channels)}")
    if any(not -(1 << 15) <= channel < 1 << 15 for channel in channels):
        raise ValueError(f"channels are 16-bit numbers, got {list(channels)}")
    found = np.full(1 << 16, other, np.int16)
    found[np.asarray(channels) & 0xFFFF] = np.arange(len(channels))
    return found


class _Clicks:
    """Waiting clicks of one stream, each channel's in a row of its own, at the tagger's times.

    The rows lie one after the other in one array: slot k's clicks from ``begins[k]`` to
    ``ends[k]``. Memory: four times the clicks that wait, and 2 MB per channel, at most.
    """

    def __init__(self, channels: Sequence[int]) -> None:
        self._slots = places(channels, len(channels))
        slots = len(channels) + 1  # the last: channels not asked for
        self.begins = np.zeros(slots, np.int64)
        self.ends = np.zeros(slots, np.int64)
        self._rows = np.zeros(slots + 1, np.int64)  # where each row begins
        self._store: TimesPs = np.zeros(0, np.int64)
        self.taken = np.zeros(slots, np.int64)
        self.watermark = -FOREVER

    def slot(self, k: int, begin: int, end: int | None = None) -> TimesPs:
        """Clicks of a slot from one place in the array to another."""
        return self._store[begin : self.ends[k] if end is None else end]

    def find(self, k: int, begin: int, time: int) -> int:
        """Return the place of the slot's first click, from ``begin`` on, that is not earlier."""
        time = min(max(time, -FOREVER), FOREVER + 1)
        return begin + int(np.searchsorted(self.slot(k, begin), time))

    def append(self, times: TimesPs, channels: Indices) -> None:
        """Take at most a piece."""
        from . import _kernels

        while not _kernels.deal(
            times,
            channels,
            self._slots,
            self._store,
            self._rows,
            self.begins,
            self.ends,
            self.taken,
        ):
            self._make_room()

    def give_back(self) -> None:
        """Return memory of which far less is needed."""
        if self._store.size <= 4 * self.ends.size * _PIECE:
            return
        waiting = int((self.ends - self.begins)[:-1].sum())
        if self._store.size > 4 * (waiting + self.ends.size * _PIECE):
            self._make_room()

    def _make_room(self) -> None:
        """Move the clicks to a new array, with room for thrice as many and a piece."""
        lengths = self.ends - self.begins
        lengths[-1] = 0
        rows = np.concatenate([[0], np.cumsum(3 * lengths + 2 * _PIECE)])
        store = np.empty(rows[-1], np.int64)
        for k, begin in enumerate(self.begins.tolist()):
            store[rows[k] : rows[k] + lengths[k]] = self._store[begin : begin + lengths[k]]
        self.begins, self.ends = rows[:-1].copy(), rows[:-1] + lengths
        self._rows, self._store = rows, store


class Pairs:
    """Hands out, per pair of channels, clicks of A with all of B that lie within the reach.

    Each click of A comes up once with each channel of B, when no partner of it can still come.
    Nothing is put in order and no time is changed: each pair of channels has its own offset.

    Cost: 1-2 ns per tag, and what ``work`` takes. Memory: four times the clicks within the reach
    and within the lead of one stream over the other, and 2 MB per channel, at most.

    Args:
        channels: The two sets.
        delays: Delay of each channel, ps, subtracted from its times; 0 where not named.
        reach: First and last difference b - a, delays subtracted, that counts, ps.
        work: Called with the places of both channels in their sets, clicks of A, all clicks of B
            that lie within the reach of them and perhaps more, and the offset: the difference of
            their times where b - a is zero. Where a clock stepped it is called for what lies
            before and for what lies after.
    """

    def __init__(
        self,
        channels: tuple[Sequence[int], Sequence[int]],
        delays: tuple[Mapping[int, int], Mapping[int, int]],
        reach: tuple[int, int],
        work: Callable[[int, int, TimesPs, TimesPs, int], None],
    ) -> None:
        for each in channels:
            places(each, -1)
        self._channels, self._reach, self._work = channels, reach, work
        self._delays_a, self._delays_b = (
            [whole("a delay", of.get(channel, 0)) for channel in each]
            for each, of in zip(channels, delays, strict=True)
        )
        for each, of in zip(channels, delays, strict=True):
            check_named(of, each)
        latest = max(self._delays_b) - min(self._delays_a) + reach[1]
        earliest = min(self._delays_b) - max(self._delays_a) + reach[0]
        if max(latest, -earliest) >= FOREVER // 2:
            raise ValueError("delays, shifts and window reach beyond 2**61 ps (26 days)")
        self._streams: tuple[_Clicks, ...] = ()
        self._slots = range(0), range(0)
        self._done = [0] * len(channels[0])  # clicks of A that have come up, after ``begins``
        self._new = 0
        self._steps: tuple[list[int], list[int]] = ([], [])  # of the clock of either stream
        self.live = JointLive()

    def add(self, a: TagBatch, b: TagBatch | None) -> None:
        """Take the next batch of each stream, or, without ``b``, of the one both sets are of."""
        batches = (a,) if b is None else (a, b)
        if not self._streams:
            self._begin(len(batches))
        if len(batches) != len(self._streams):
            raise ValueError("began with one stream and goes on with two, or the reverse")
        pieces = []
        for i, batch in enumerate(batches):
            self._check(batch, self._streams[i])
            times, channels, end = batch.times_ps, batch.channels, 0
            if batch.losses:
                alive = live(batch)
                times, channels = times[alive], channels[alive]
            reached = batch.begin_ps
            for begin in range(0, times.size, _PIECE):
                end = begin + _PIECE
                after = int(times[end]) if end < times.size else batch.end_ps
                pieces.append((reached, i, times[begin:end], channels[begin:end], after))
                reached = after
        for steps, batch in zip(self._steps, batches, strict=False):
            steps.extend(clock_steps(batch))
        self.live.add(a, b)
        pieces.sort(key=lambda piece: piece[0])  # the stream that lies behind goes first
        for _, i, times, channels, after in pieces:
            self._streams[i].append(times, channels)
            self._streams[i].watermark = after
            self._new += times.size
            if self._new >= _PIECE:
                self._count()
        for stream, batch in zip(self._streams, batches, strict=True):
            stream.watermark = batch.end_ps
        if self._new >= _FEW:
            self._count()

    def finish(self) -> None:
        """End the streams: what waits comes up."""
        for stream in self._streams:
            stream.watermark = 2 * FOREVER
        if self._streams:
            self._count()

    def catch_up(self) -> None:
        """Hand out what is ready; the streams go on."""
        if self._streams:
            self._count()

    @property
    def come_up(self) -> int:
        """Clicks of the first set that have come up."""
        if not self._streams:
            return 0
        of_a = self._streams[0]
        slots = slice(self._slots[0].start, self._slots[0].stop)
        waiting = of_a.ends[slots] - of_a.begins[slots] - np.array(self._done)
        return int((of_a.taken[slots] - waiting).sum())

    @property
    def singles(self) -> tuple[int, int]:
        """Clicks of each set."""
        if not self._streams:
            return 0, 0
        a, b = (
            int(stream.taken[slots.start : slots.stop].sum())
            for stream, slots in zip(
                (self._streams[0], self._streams[-1]), self._slots, strict=True
            )
        )
        return a, b

    @property
    def offsets(self) -> list[int]:
        """Difference of the times of each two channels where b - a is zero."""
        return [b - a for a in self._delays_a for b in self._delays_b]

    @property
    def live_s(self) -> float:
        """How long both were live at the same time, delays subtracted; of all channels the mean."""
        offsets, times = np.unique(self.offsets, return_counts=True)
        each = [float(self.live.at_s(int(offset))[0]) for offset in offsets]
        return float(np.average(each, weights=times))

    @property
    def held(self) -> int:
        """Clicks there is memory for."""
        return sum(stream._store.size for stream in self._streams)

    def _begin(self, streams: int) -> None:
        a, b = (list(each) for each in self._channels)
        if streams == 2:
            self._streams = _Clicks(a), _Clicks(b)
            self._slots = range(len(a)), range(len(b))
        elif a == b:
            self._streams = (_Clicks(a),)
            self._slots = range(len(a)), range(len(a))
        else:
            self._streams = (_Clicks([*a, *b]),)
            self._slots = range(len(a)), range(len(a), len(a) + len(b))

    def _check(self, batch: TagBatch, stream: _Clicks) -> None:
        check_near(batch, FOREVER + 1)
        if batch.begin_ps < stream.watermark:
            raise ValueError(
                f"a batch begins at {batch.begin_ps} ps, before {stream.watermark} ps, where the"
                " one before it ends"
            )

    def _count(self) -> None:
        """Hand out what is ready, and forget what nothing needs any more."""
        self._new = 0
        of_a, of_b = self._streams[0], self._streams[-1]
        left, right = self._reach
        until = of_b.watermark - max(self._delays_b) - right
        begins, ends, nexts = [], [], []
        for i, slot in enumerate(self._slots[0]):
            begins.append(int(of_a.begins[slot]) + self._done[i])
            ends.append(of_a.find(slot, begins[i], until + self._delays_a[i]))
            rest = of_a.slot(slot, ends[i])
            nexts.append((int(rest[0]) if rest.size else of_a.watermark) - self._delays_a[i])
            if begins[i] == ends[i]:
                continue
            clicks = of_a.slot(slot, begins[i], ends[i])
            for j, other in enumerate(self._slots[1]):
                partners = of_b.slot(other, int(of_b.begins[other]))
                offset = self._delays_b[j] - self._delays_a[i]
                for some, near in self._between_steps(clicks, partners, offset):
                    self._work(i, j, some, near, offset)
        needed = min(nexts) + left
        low = min(needed, min(nexts)) + min(self._delays_a + self._delays_b)
        for steps in self._steps:
            steps[:] = [step for step in steps if step > low]
        own = of_a is of_b and self._slots[0] == self._slots[1]  # the same clicks are A and B
        for j, slot in enumerate(self._slots[1]):
            past = of_b.find(slot, int(of_b.begins[slot]), needed + self._delays_b[j])
            of_b.begins[slot] = min(past, ends[j]) if own else past
        for i, slot in enumerate(self._slots[0]):
            if not own:
                of_a.begins[slot] = ends[i]
            self._done[i] = ends[i] - int(of_a.begins[slot])
        for stream in self._streams:
            stream.give_back()

    def _between_steps(
        self, a: TimesPs, b: TimesPs, offset: int
    ) -> Iterator[tuple[TimesPs, TimesPs]]:
        """Part both where a clock stepped: a difference across it means nothing."""
        steps = self._steps
        if not (steps[0] or steps[1]):
            yield a, b
            return
        one = len(self._streams) == 1
        cuts = np.unique(np.array([*steps[0], *(step - offset for step in steps[1])], np.int64))
        at_a = [0, *np.searchsorted(a, cuts).tolist(), a.size]
        at_b = [0, *np.searchsorted(b, cuts if one else cuts + offset).tolist(), b.size]
        for k in range(cuts.size + 1):
            if at_a[k] < at_a[k + 1]:
                yield a[at_a[k] : at_a[k + 1]], b[at_b[k] : at_b[k + 1]]
