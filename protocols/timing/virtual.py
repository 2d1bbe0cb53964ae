"""Virtual channels: a click stream in, the same stream with made or fewer clicks out.

``feed`` takes the next batch and returns the next batch of the new stream; ``feed(None)`` ends it.
What is made stands on the channel ``output``, beside all that was there, or in place of an input
channel that is named as the output. The result does not depend on how the stream was cut.

Losses travel on with the stream, and nothing is made from clicks inside one or of clicks on its
two sides; each class says what it does there. A clock step or gap without length counts as well.

Cost: some 10 ns per tag of the whole stream on one core unless a class says otherwise; memory for
what has to wait. The first use ever compiles for some seconds; the result is kept on disk.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ...instruments import Channels, Loss, TagBatch, TimesPs, concatenate
from ._losses import Picked, check_channel, loss_intervals
from ._order import InOrder
from ._streams import FOREVER, whole

__all__ = [
    "Chain",
    "CoincidenceChannel",
    "Combiner",
    "DeadTime",
    "DelayedChannel",
    "EventDivider",
    "GatedChannel",
    "VirtualChannel",
]

_NO_TIMES: TimesPs = np.zeros(0, np.int64)
_NO_CHANNELS: Channels = np.zeros(0, np.int16)
_NOTHING = TagBatch(_NO_TIMES, _NO_CHANNELS, 0, 0)
_NONE = 1 << 15  # no channel
_Clicks = tuple[TimesPs, Channels, TimesPs]  # those outside losses, as Picked gives them


class VirtualChannel(ABC):
    """A stage of a click stream."""

    @abstractmethod
    def feed(self, batch: TagBatch | None) -> TagBatch:
        """Take the next batch, None at the end; return the next batch of the new stream.

        Raises:
            ValueError: for a batch that does not follow on the last one, or with clicks on the
                output channel; after the end.
        """

    def through(self, batches: Iterable[TagBatch]) -> Iterator[TagBatch]:
        """Yield the new stream of a whole one."""
        for batch in batches:
            yield self.feed(batch)
        yield self.feed(None)


class Chain(VirtualChannel):
    """Stages one behind the other, as one.

    Cost: the sum of theirs.
    """

    def __init__(self, *stages: VirtualChannel) -> None:
        self._stages = stages

    def feed(self, batch: TagBatch | None) -> TagBatch:
        """Take the next batch, None at the end; return the next batch of the new stream."""
        if batch is not None:
            for stage in self._stages:
                batch = stage.feed(batch)
            return batch
        tail: TagBatch | None = None
        for stage in self._stages:
            last = [] if tail is None else [stage.feed(tail)]
            tail = concatenate([*last, stage.feed(None)])
        return _NOTHING if tail is None else tail


class _Fed(InOrder):
    """Also start and clock of the batches so far."""

    start_unix_ns = 0
    clock_id = ""

    @property
    def any(self) -> bool:
        return self.begin_ps is not None

    def next(self, batch: TagBatch) -> None:
        """Take the next batch."""
        super().next(batch)
        self.start_unix_ns, self.clock_id = batch.start_unix_ns, batch.clock_id


class _Making(VirtualChannel):
    """Merges clicks made from ``channels`` into the stream.

    Args:
        channels: What they are made from.
        output: Where they go.
        delay_ps: By how much later than the stream's end made clicks may come; negative where
            they may come so much before the last clicks they are made from.
    """

    def __init__(self, channels: Sequence[int], output: int, *, delay_ps: int = 0) -> None:
        check_channel(output)
        self._picked = Picked(channels)
        self._output = output
        self._replaced = output if output in channels else _NONE
        self._delay = delay_ps
        self._fed = _Fed(self)
        self._end = 0
        self._times, self._made = _NO_TIMES, _NO_TIMES
        self._channels: Channels = _NO_CHANNELS
        self._losses: dict[Loss, None] = {}  # a set in order

    @abstractmethod
    def _make(self, batch: TagBatch, clicks: _Clicks, losses: tuple[TimesPs, TimesPs]) -> TimesPs:
        """Return the made clicks, none earlier than those before."""

    def _lost(self, batch: TagBatch, *, first: bool) -> tuple[Loss, ...]:
        """Return the losses of the new stream that a batch brings."""
        return batch.losses

    def _begin(self, first: TagBatch) -> int:
        """Return where the new stream begins."""
        return first.begin_ps + min(self._delay, 0)

    def feed(self, batch: TagBatch | None) -> TagBatch:
        """Take the next batch, None at the end; return the next batch of the new stream."""
        if batch is None:
            self._fed.over = True
            return self._finish()
        first = not self._fed.any
        self._fed.next(batch)
        if first:
            self._end = self._begin(batch)
        if self._replaced == _NONE and bool(np.any(batch.channels == self._output)):
            raise ValueError(
                f"channel {self._output} already has clicks in this stream: name another output"
            )
        losses = loss_intervals(batch)
        times, which, floors, _ = self._picked.of(batch, *losses)
        self._made = _join(self._made, self._make(batch, (times, which, floors), losses))
        self._times = _join(self._times, batch.times_ps)
        self._channels = _join(self._channels, batch.channels)
        self._losses.update(dict.fromkeys(self._lost(batch, first=first)))
        return self._emit(batch.end_ps + min(self._delay, 0))

    def _finish(self) -> TagBatch:
        return self._emit(self._fed.end_ps + max(self._delay, 0)) if self._fed.any else _NOTHING

    def _emit(self, end: int) -> TagBatch:
        from . import _kernels_virtual

        begin, end = self._end, max(self._end, end)
        i, j = int(self._times.searchsorted(end)), int(self._made.searchsorted(end))
        times = np.empty(i + j, np.int64)
        channels = np.empty(i + j, np.int16)
        n = _kernels_virtual.merge(
            self._times[:i],
            self._channels[:i],
            self._replaced,
            self._made[:j],
            self._output,
            times,
            channels,
        )
        self._times, self._channels = self._times[i:], self._channels[i:]
        self._made, self._end = self._made[j:], end
        lost = tuple(loss for loss in self._losses if loss.begin_ps < end)
        for loss in lost:
            if loss.end_ps <= end:
                del self._losses[loss]
        fed = self._fed
        return TagBatch(times[:n], channels[:n], begin, end, fed.start_unix_ns, fed.clock_id, lost)


class DelayedChannel(_Making):
    """Clicks of a channel, later by a delay (Swabian's name); negative: earlier.

    Where only one of the original and the delayed channel is known, the new stream has a loss: a
    loss stands there twice, the second time later by the delay (with no further lost clicks), and
    the first and the last stretch of the recording, as long as the delay, are gaps. So rates and
    coincidences of the two stay right.

    A negative delay holds all other clicks back by as much. Cost: some 12 ns per tag; memory for
    the clicks within the delay.

    Args:
        channel: What is delayed.
        delay_ps: By how much.
        output: Where it goes; the channel itself by default.
    """

    def __init__(self, channel: int, delay_ps: int, output: int | None = None) -> None:
        if abs(whole("a delay", delay_ps)) >= FOREVER:
            raise ValueError(f"no recording is as long as a delay of {delay_ps} ps")
        super().__init__([channel], channel if output is None else output, delay_ps=delay_ps)

    def _make(self, batch: TagBatch, clicks: _Clicks, losses: tuple[TimesPs, TimesPs]) -> TimesPs:
        return clicks[0] + self._delay

    def _lost(self, batch: TagBatch, *, first: bool) -> tuple[Loss, ...]:
        if not self._delay:
            return batch.losses
        moved = tuple(
            Loss(loss.kind, loss.begin_ps + self._delay, loss.end_ps + self._delay, 0)
            for loss in batch.losses
        )
        if not first:
            return batch.losses + moved
        edge = self._end
        return Loss("gap", edge, edge + abs(self._delay), 0), *batch.losses, *moved

    def _finish(self) -> TagBatch:
        if self._delay:
            edges = sorted((self._fed.end_ps, self._fed.end_ps + self._delay))
            self._losses[Loss("gap", edges[0], edges[1], 0)] = None
        return super()._finish()


class Combiner(_Making):
    """Clicks of any of some channels (Swabian's name). At a loss nothing needs to be done.

    Cost: some 14 ns per tag.

    Args:
        channels: Which.
        output: Where they go, too.
    """

    def __init__(self, channels: Sequence[int], output: int) -> None:
        if not channels or len(set(channels)) != len(channels):
            raise ValueError(f"a union is of distinct channels, got {list(channels)}")
        super().__init__(channels, output)

    def _make(self, batch: TagBatch, clicks: _Clicks, losses: tuple[TimesPs, TimesPs]) -> TimesPs:
        return clicks[0]


class CoincidenceChannel(_Making):
    """A click for each coincidence of all of some channels.

    One-to-one: going forward in time, the earliest unused clicks of all channels that lie within
    half the window of each other make a coincidence and are used up; for two channels those of
    :func:`match`. This gives as many as can be. Swabian's ``Coincidence`` has half of this
    window. A coincidence does not span a loss. Delays: put :class:`DelayedChannel` before.

    ``first`` and ``mean`` hold the stream back by half the window. Cost: some 15 ns per tag for
    two channels, 25 for three; memory for the clicks within half the window.

    Args:
        channels: Two or more.
        window_ps: Full width: they coincide where the last comes at most window/2 after the first.
        output: Where the coincidences go.
        timestamp: Time of a coincidence: its first or last click, or the mean, rounded down.
    """

    def __init__(
        self,
        channels: Sequence[int],
        window_ps: int,
        output: int,
        *,
        timestamp: Literal["first", "last", "mean"] = "last",
    ) -> None:
        if len(channels) < 2 or len(set(channels)) != len(channels):
            raise ValueError(f"a coincidence is of distinct channels, got {list(channels)}")
        if whole("a window", window_ps) < 0:
            raise ValueError("the coincidence window is a full width and cannot be negative")
        if timestamp not in ("first", "last", "mean"):
            raise ValueError(f"a coincidence is at its first, last or mean time, not {timestamp!r}")
        self._half, self._fold = window_ps // 2, len(channels)
        self._stamp = ("first", "last", "mean").index(timestamp)
        super().__init__(channels, output, delay_ps=0 if timestamp == "last" else -self._half)
        self._open = _NO_TIMES, _NO_CHANNELS, _NO_TIMES

    def _make(self, batch: TagBatch, clicks: _Clicks, losses: tuple[TimesPs, TimesPs]) -> TimesPs:
        from . import _kernels_virtual

        times = _join(self._open[0], clicks[0])
        which = _join(self._open[1], clicks[1])
        floors = _join(self._open[2], clicks[2])
        used = np.zeros(times.size, np.bool_)
        out = np.empty(times.size // self._fold, np.int64)
        found = _kernels_virtual.coincide(
            times, which, floors, used, self._fold, self._half, self._stamp, out
        )
        late = int(times.searchsorted(batch.end_ps - self._half))
        keep = ~used[late:]
        self._open = times[late:][keep], which[late:][keep], floors[late:][keep]
        return out[:found]

    def _begin(self, first: TagBatch) -> int:
        return first.begin_ps  # none is earlier than its clicks


class GatedChannel(_Making):
    """Clicks of a channel from each gate start to the next stop (Swabian's name).

    A click at the time of a start is let through, one at the time of a stop is not, in whichever
    order they came; of a start and a stop at one time the stop holds. Further starts and stops
    change nothing. A loss closes the gate, until the next start.

    Cost: some 20 ns per tag.

    Args:
        channel: What is gated.
        gate_start: Channel that opens the gate.
        gate_stop: Channel that closes it.
        output: Where the clicks go; the channel itself by default.
        initially_open: Whether the gate is open at the beginning of the stream.
    """

    def __init__(
        self,
        channel: int,
        gate_start: int,
        gate_stop: int,
        output: int | None = None,
        *,
        initially_open: bool = False,
    ) -> None:
        names = (channel, gate_start, gate_stop)
        if len(set(names)) != 3:
            raise ValueError(f"click, start and stop are three channels, got {list(names)}")
        output = channel if output is None else output
        if output in names[1:]:
            raise ValueError(f"channel {output} is the gate itself: name another output")
        super().__init__(names, output)
        self._initially_open = initially_open
        self._state = np.zeros(3, np.int64)

    @property
    def open_s(self) -> float:
        """How long the gate was open so far, losses excluded: the live time of its clicks."""
        is_open, since, total = self._state.tolist()
        if is_open:
            total += self._fed.end_ps - since
        return float(total * 1e-12)

    def _make(self, batch: TagBatch, clicks: _Clicks, losses: tuple[TimesPs, TimesPs]) -> TimesPs:
        from . import _kernels_virtual

        if self._initially_open:
            self._state[:2] = 1, batch.begin_ps
            self._initially_open = False
        out = np.empty(clicks[0].size, np.int64)
        found = _kernels_virtual.gate(*clicks[:2], *losses, self._state, out)
        return out[:found]


class EventDivider(_Making):
    """Every n-th click of a channel, the n-th the first of them.

    At a loss the counting begins anew. Cost: some 10 ns per tag.

    Args:
        channel: What is divided.
        divisor: n.
        output: Where the clicks go; the channel itself by default.
    """

    def __init__(self, channel: int, divisor: int, output: int | None = None) -> None:
        if whole("a divisor", divisor) < 1:
            raise ValueError(f"every {divisor}th click means nothing: take 1 or more")
        super().__init__([channel], channel if output is None else output)
        self._divisor = divisor
        self._state = np.array([0, -FOREVER])

    def _make(self, batch: TagBatch, clicks: _Clicks, losses: tuple[TimesPs, TimesPs]) -> TimesPs:
        from . import _kernels_virtual

        out = np.empty(clicks[0].size // self._divisor + 1, np.int64)
        found = _kernels_virtual.every_nth(clicks[0], clicks[2], self._divisor, self._state, out)
        return out[:found]


class DeadTime(VirtualChannel):
    """Takes away clicks too soon after others of their channel.

    A channel is dead from a click on for less than its dead time. Not extended: clicks in the dead
    time do nothing, as in a tagger. Extended: each begins it anew, as in a passively quenched
    diode. At a loss all channels are ready again, for what clicked in it is not known. Clicks
    inside losses stay in the stream, where they count for nothing.

    Cost: some 8 ns per tag.

    Args:
        dead_times_ps: Of each channel; others are left alone.
        extended: Which of the two.
    """

    def __init__(self, dead_times_ps: Mapping[int, int], *, extended: bool = False) -> None:
        if any(not 0 <= whole("a dead time", dead) < FOREVER for dead in dead_times_ps.values()):
            raise ValueError(f"dead times are 0 ps or more, got {dict(dead_times_ps)}")
        self._picked = Picked(list(dead_times_ps))
        self._dead = np.array(list(dead_times_ps.values()), np.int64)
        self._extended = extended
        self._before = np.full(self._dead.size, np.iinfo(np.int64).min)
        self._fed = _Fed(self)

    def feed(self, batch: TagBatch | None) -> TagBatch:
        """Take the next batch, None at the end; return the next batch of the new stream."""
        from . import _kernels_virtual

        if batch is None:
            fed = self._fed
            fed.over, end = True, fed.end_ps
            return replace(
                _NOTHING,
                begin_ps=end,
                end_ps=end,
                start_unix_ns=fed.start_unix_ns,
                clock_id=fed.clock_id,
            )
        self._fed.next(batch)
        clicks = self._picked.of(batch, *loss_intervals(batch))
        keep = np.ones(len(batch), np.bool_)
        _kernels_virtual.dead_time(*clicks, self._dead, self._extended, self._before, keep)
        return replace(batch, times_ps=batch.times_ps[keep], channels=batch.channels[keep])


def _join(first: npt.NDArray[Any], second: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return np.concatenate([first, second]) if first.size else second
