"""Tables of matched clicks: two-photon, four-fold and other events, each click in one at most.

An event is one click of each of n groups of channels where each two are within half the window
of each other, ``|b - a| <= window/2`` with delays subtracted: an n-fold as in
:mod:`.multichannel`, a pair as in :func:`match`. Windows are full widths, ends closed.

The rule that makes it one-to-one: walking forward in time, the earliest clicks of all groups that
are not used up and lie within the window make an event and are used up. No other choice gives more
events. It is that of :func:`match` for two groups, and not that of the nearest partner.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest

import numpy as np
import numpy.typing as npt

from ...instruments import Channels, TagBatch, TimesPs
from ._order import InOrder
from ._pieces import CutLine, Queue, Ready, half_of
from ._streams import FOREVER

__all__ = ["EventFinder", "EventTable", "Matcher"]

Indices = npt.NDArray[np.int64]


class Matcher:
    """Matches n sorted streams of times one-to-one, as they come.

    The result does not depend on how the streams are cut. Cost: some 10 ns per click; memory for
    the clicks within the window and the lead of one stream over the others.

    Args:
        streams: Number of streams, at least two.
        window_ps: Full width.

    Attributes:
        taken: Clicks taken so far of each stream.
        reach: Half the window: the last click of an event is at most so much after the first.

    Raises:
        ValueError: for a negative window, or fewer than two streams.
    """

    def __init__(self, streams: int, window_ps: int) -> None:
        if streams < 2:
            raise ValueError(f"an event is of two streams or more, got {streams}")
        self.reach = half_of(window_ps)
        self._waiting: list[TimesPs] = [np.zeros(0, np.int64)] * streams
        self._ahead = [Queue(np.int64) for _ in range(streams)]  # nothing can be decided of them
        self.taken = [0] * streams

    def feed(self, times: Sequence[TimesPs], horizons: Sequence[int]) -> tuple[TimesPs, Indices]:
        """Take the next clicks of each stream and return the events that are decided.

        Args:
            times: int64, non-decreasing ps, one array per stream.
            horizons: No later click of the stream is earlier. 2**62 ends it.

        Returns:
            Times of the events' clicks, int64 (events, streams), and their running numbers in
            their streams, int64 (events, streams). Both increase down each column.
        """
        from . import _kernels_many

        decided = [self.decided(s) for s in range(len(self.taken))]
        for s, more in enumerate(times):
            self._ahead[s].put(more)
            self.taken[s] += more.size
        undecided = min(horizons) + self.reach + 1
        joined = [
            np.concatenate([waiting, ahead.before(undecided)])
            for waiting, ahead in zip(self._waiting, self._ahead, strict=True)
        ]
        nexts = [
            horizon if ahead.first is None else int(ahead.first)
            for horizon, ahead in zip(horizons, self._ahead, strict=True)
        ]
        ends = np.cumsum([part.size for part in joined])
        heads = ends - [part.size for part in joined]
        before = heads.copy()
        flat = np.concatenate(joined)
        out = np.empty((min(part.size for part in joined) + 1, len(joined)), np.int64)
        found = _kernels_many.gather(
            flat, heads, ends, np.asarray(nexts, np.int64), self.reach, out
        )
        places = out[:found]
        numbers = places - before + np.asarray(decided)
        self._waiting = [flat[i:j].copy() for i, j in zip(heads, ends, strict=True)]
        return flat[places], numbers

    def decided(self, stream: int) -> int:
        """Clicks of a stream that are used up or have no partners: no later event has them."""
        return self.taken[stream] - self._waiting[stream].size - self._ahead[stream].size


@dataclass(frozen=True, eq=False)
class EventTable:
    """Matched clicks: a row per event, a column per group.

    Attributes:
        times_ps: int64 (events, groups), delays subtracted.
        channels: int16 (events, groups), which channel of the group clicked.
        indices: int64 (events, groups), the click's running number among its group's clicks that
            count, in order of their corrected times, from 0 at the beginning of the stream.
    """

    times_ps: TimesPs
    channels: Channels
    indices: Indices

    def __len__(self) -> int:
        return len(self.times_ps)

    @staticmethod
    def joined(parts: Iterable[EventTable]) -> EventTable:
        """Join the tables that one finder gave, one after the other.

        Raises:
            ValueError: for no table at all.
        """
        tables = list(parts)
        if not tables:
            raise ValueError("cannot join zero tables")
        return EventTable(
            np.concatenate([t.times_ps for t in tables]),
            np.concatenate([t.channels for t in tables]),
            np.concatenate([t.indices for t in tables]),
        )


class EventFinder:
    """Makes a table of events from the streams of one tagger or several, piece by piece.

    The rule is said at the top of this module. The tables, joined, do not depend on how the
    streams were cut. Clicks inside losses do not count and are not numbered; an event with a loss
    between its clicks counts, all of them having been seen. Where the clock of a stream stepped (a
    loss of kind ``clock``), an event with clicks on both sides is left out.

    With the groups ``[cH, dH]``, ``[cV, dV]`` of a Bell-state station and the four detectors of
    each end, the events are heralded four-folds: the first two columns of ``channels`` tell the
    Bell state, the others the outcomes.

    Cost: some 30 ns per tag of one stream with two to four groups; memory for the clicks within
    delays and window and for the lead of one stream over the others.

    Args:
        groups: Channels of each group; one of them clicks in an event.
        window_ps: Full width.
        delays_ps: Delay of each channel, for each group, subtracted from its times; 0 where not
            named.

    Raises:
        ValueError: for a negative window, fewer than two groups, or an empty one.
    """

    def __init__(
        self,
        groups: Sequence[Sequence[int]],
        window_ps: int,
        *,
        delays_ps: Sequence[Mapping[int, int]] | None = None,
    ) -> None:
        self._groups = tuple(tuple(group) for group in groups)
        self._matcher = Matcher(len(self._groups), window_ps)
        delays = [{}] * len(self._groups) if delays_ps is None else list(delays_ps)
        if len(delays) != len(self._groups):
            raise ValueError(f"delays for {len(delays)} groups of {len(self._groups)}")
        self._lines = [
            CutLine(g, d, at="nowhere") for g, d in zip(self._groups, delays, strict=True)
        ]
        self._delays = [
            np.array([d.get(c, 0) for c in g], np.int64)
            for g, d in zip(self._groups, delays, strict=True)
        ]
        #: Steps of a clock: when, of which group's stream, and which groups are of that stream.
        self._steps: list[tuple[int, int, npt.NDArray[np.bool_]]] = []
        self._horizons = [-FOREVER] * len(self._groups)
        self._names = [np.asarray(group, np.int16) for group in self._groups]
        self._which = [Queue(np.int16) for _ in self._groups]  # of the clicks not yet decided
        self._orders = [InOrder(self) for _ in self._groups]

    @property
    def live_s(self) -> float:
        """Shortest of the streams' live times, so far."""
        return min(order.live_s for order in self._orders)

    @property
    def singles(self) -> tuple[int, ...]:
        """Clicks of each group so far, outside losses."""
        return tuple(self._matcher.taken)

    def feed(self, *batches: TagBatch) -> EventTable:
        """Take the next batch of each group's stream, or of the one that all are in.

        Returns:
            The events decided since the last call.

        Raises:
            ValueError: for another number of batches, or one that does not follow on the last;
                where two groups of one stream share a channel, which would coincide with itself;
                after the end.
        """
        if len(batches) not in (1, len(self._groups)):
            raise ValueError(f"{len(batches)} batches for {len(self._groups)} groups")
        every = batches * len(self._groups) if len(batches) == 1 else batches
        for i, batch in enumerate(every):
            for j in range(i):
                if every[j] is batch and set(self._groups[i]) & set(self._groups[j]):
                    raise ValueError(
                        f"groups {list(self._groups[j])} and {list(self._groups[i])} of one stream"
                        " share a channel"
                    )
        for i, batch in enumerate(every):
            self._orders[i].next(batch)
            own = np.array([other is batch for other in every])
            if not own[:i].any():
                self._steps += [(x.begin_ps, i, own) for x in batch.losses if x.kind == "clock"]
        return self._feed(every)

    def finish(self) -> EventTable:
        """End the streams and return the events that were still undecided."""
        for order in self._orders:
            order.over = True
        return self._feed([None] * len(self._groups))

    def _feed(self, batches: Sequence[TagBatch | None]) -> EventTable:
        lines = [line.feed(batch) for line, batch in zip(self._lines, batches, strict=True)]
        return EventTable.joined(
            self._match([None if one is None else one[0] for one in step])
            for step in zip_longest(*lines)
        )

    def _match(self, ready: Sequence[Ready | None]) -> EventTable:
        times: list[TimesPs] = []
        for s, one in enumerate(ready):
            if one is None:  # this batch is done, others' go on
                times.append(np.zeros(0, np.int64))
                continue
            times.append(one[0])
            self._which[s].put(one[1])
            self._horizons[s] = one[2]
        first = [self._matcher.decided(s) for s in range(len(times))]
        found, numbers = self._matcher.feed(times, self._horizons)
        channels, delays = np.empty(found.shape, np.int16), np.empty(found.shape, np.int64)
        for s, names in enumerate(self._names):
            which = self._which[s].take(self._matcher.decided(s) - first[s])
            which = which[numbers[:, s] - first[s]]
            channels[:, s], delays[:, s] = names[which], self._delays[s][which]
        if not self._steps:
            return EventTable(found, channels, numbers)
        apart = np.zeros(len(found), np.bool_)
        for step, s, own in self._steps:
            after = found + np.where(own, delays, delays[:, s, None]) >= step
            apart |= after.any(axis=1) & ~after.all(axis=1)
        earliest = min(self._horizons) - self._matcher.reach + min(d.min() for d in self._delays)
        self._steps = [step for step in self._steps if step[0] > earliest]
        return EventTable(found[~apart], channels[~apart], numbers[~apart])
