"""What the codecs share: bounded reading, scaling to ps, counters that turn over, patterns."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from ..errors import TagFileError
from ..tags import Channels, Loss, TagBatch, TimesPs

#: Records per batch. 2^18 records of any format and their tags stay below some 20 MB.
CHUNK_RECORDS = 1 << 18

#: Clicks that a click may come late in a file and still find its place.
LOOK_AHEAD = 1 << 16

#: Latest time that makes sense: 53 days. int64 ends at twice that.
LATEST_PS = 1 << 62

_AT_ONCE = 1 << 20  # clicks at one time; more is damage, and would fill the memory


@dataclass(frozen=True, slots=True)
class TagFileInfo:
    """What a file says about itself before its records are read.

    Attributes:
        format: Name of the format, as ``open_tags(format=...)`` takes it.
        path: The file.
        records: Number of records in it (clicks, overflows and markers together); 0 where only
            reading tells.
        record_bytes: Size of one record; 0 where they differ, as lines of text do.
        data_offset: Byte offset of the first record.
        resolution_ps: Time step of the records; not whole for some formats, see their modules.
        header: What the header tells, where there is one.
        start_unix_ns: Host time of the recording's start, ns since the Unix epoch; 0: unknown.
        clock_id: Name of the clock of the times; empty: unknown.
    """

    format: str
    path: str
    records: int
    record_bytes: int
    data_offset: int
    resolution_ps: float
    header: Mapping[str, Any] = field(default_factory=dict)
    start_unix_ns: int = 0
    clock_id: str = ""


class Piece(NamedTuple):
    """Decoded clicks on their way into a `TagBatch`.

    ``times_ps`` lie at or before ``upto_ps``; all later pieces at or after it, so a click at
    ``upto_ps`` itself may still get company.
    """

    times_ps: TimesPs
    channels: Channels
    upto_ps: int
    losses: tuple[Loss, ...] = ()
    reordered: int = 0  # clicks that the file holds too late, now in their place


class Decoded(NamedTuple):
    """Clicks in the order of the file, for `in_order`."""

    times_ps: TimesPs
    channels: Channels
    records: npt.NDArray[np.int64]  # index of each click's record
    reached_ps: int | None = None  # latest time of any record; None: of the clicks
    losses: tuple[Loss, ...] = ()
    losing_since_ps: int | None = None  # an overflow that goes on


class Codec(Protocol):
    """One file format; each module of this package offers one or more."""

    def describe(self, path: Path, size: int) -> TagFileInfo:
        """Check the file as far as that is cheap, and describe it."""
        ...

    def plausible(self, head: bytes, size: int) -> bool:
        """Whether a file of ``size`` bytes that begins with ``head`` may be of this format."""
        ...


class PieceCodec(Codec, Protocol):
    """A codec whose files hold clicks and losses."""

    @property
    def begin_ps(self) -> int | None:
        """Time the recording begins at; None: at the first record."""
        ...

    def read(self, info: TagFileInfo, chunk_records: int) -> Iterator[Piece]:
        """Decode it, ``chunk_records`` at a time."""
        ...


class About(NamedTuple):
    """What a new recording is told about itself; see `create_tags`."""

    resolution_ps: float | None = None
    start_unix_ns: int = 0
    clock_id: str = ""
    metadata: Mapping[str, Any] | None = None


class Writer(Protocol):
    """Writes one recording; what `WritableCodec.writer` returns."""

    def write(self, batch: TagBatch) -> None:
        """Append a batch that follows on the one before; memory is bounded by the batch.

        Raises:
            ValueError: for clicks the format cannot hold; nothing of the batch is written.
        """
        ...

    def finish(self) -> None:
        """Complete headers and end marks. The file stays open: its owner closes it."""
        ...


@runtime_checkable
class WritableCodec(Protocol):
    """A codec that writes, too."""

    def writer(self, file: BinaryIO, about: About) -> Writer:
        """Begin a recording in ``file`` (seekable, readable too), from its position on.

        Raises:
            ValueError: for a time step the format cannot have.
        """
        ...


@runtime_checkable
class BatchCodec(Codec, Protocol):
    """A codec whose files hold whole batches: losses, watermarks, start and clock included."""

    def read_batches(self, info: TagFileInfo, chunk_records: int) -> Iterator[TagBatch]:
        """Decode the file to batches that follow on each other."""
        ...


class Following:
    """Checks that batches follow on each other."""

    def __init__(self) -> None:
        self.end_ps: int | None = None

    def check(self, batch: TagBatch) -> None:
        """Raise ValueError where a batch begins before the end of the last one accepted."""
        if self.end_ps is not None and batch.begin_ps < self.end_ps:
            raise ValueError(
                f"a batch from {batch.begin_ps} ps overlaps the one before, to {self.end_ps} ps;"
                " write the batches of one stream, in order"
            )


class RecordWriter:
    """Writer of formats whose batches become bytes one by one, without header or end.

    Args:
        file: Where to write.
        encode: Makes the bytes of a batch; ValueError where that cannot be.
    """

    def __init__(self, file: BinaryIO, encode: Callable[[TagBatch], bytes]) -> None:
        self._file = file
        self._encode = encode
        self._following = Following()

    def write(self, batch: TagBatch) -> None:
        """Append a batch."""
        self._following.check(batch)
        self._file.write(self._encode(batch))
        self._following.end_ps = batch.end_ps

    def finish(self) -> None:
        """There is no header and no end mark."""


def fixed_step(name: str, own_ps: float, resolution_ps: float | None) -> None:
    """Refuse another time step than the format's own.

    Raises:
        ValueError: for one.
    """
    if resolution_ps is not None and resolution_ps != own_ps:
        raise ValueError(
            f"{name} has a time step of {own_ps:g} ps, not {resolution_ps:g}; leave it out"
        )


def batches(
    pieces: Iterable[Piece],
    begin_ps: int | None,
    *,
    start_unix_ns: int = 0,
    clock_id: str = "",
    reordered: Callable[[int], None] | None = None,
) -> Iterator[TagBatch]:
    """Join pieces to batches: clicks at the watermark wait for the next piece.

    The last batch ends 1 ps after the last record. Before damage raises, what waits is yielded.
    """
    held_times, held_channels = np.zeros(0, np.int64), np.zeros(0, np.int16)
    begin = begin_ps
    damage: TagFileError | None = None
    source = iter(pieces)
    while True:
        try:
            piece = next(source)
        except StopIteration:
            break
        except TagFileError as error:
            damage = error
            break
        if reordered is not None and piece.reordered:
            reordered(piece.reordered)
        times = np.concatenate([held_times, piece.times_ps])
        channels = np.concatenate([held_channels, piece.channels])
        if begin is None:
            begin = int(times[0]) if times.size else piece.upto_ps
        ready = int(np.searchsorted(times, piece.upto_ps))
        yield TagBatch(
            times[:ready],
            channels[:ready],
            begin,
            piece.upto_ps,
            start_unix_ns,
            clock_id,
            tuple(piece.losses),
        )
        held_times, held_channels, begin = times[ready:], channels[ready:], piece.upto_ps
    if begin is not None:
        yield TagBatch(held_times, held_channels, begin, begin + 1, start_unix_ns, clock_id)
    if damage is not None:
        raise damage


class _Order:
    """Sorts clicks within a look-ahead of `LOOK_AHEAD` clicks, whatever the chunks."""

    def __init__(self, info: TagFileInfo) -> None:
        self._info = info
        self._times, self._channels = np.zeros(0, np.int64), np.zeros(0, np.int16)
        self._tops = np.zeros(0, np.int64)  # latest time up to each of the last clicks
        self._upto: int | None = None  # all before is given out
        self._reached: int | None = None
        self._late = 0
        self._losses: list[Loss] = []
        self._since: int | None = None  # an overflow that goes on,
        self._admitted = 0  # and up to when it is already told

    def add(self, new: Decoded) -> tuple[Piece | None, TagFileError | None]:
        """Take the next clicks; return those in order, and the error for one that is too late."""
        times, error = new.times_ps, None
        if times.size and (int(times.max()) > LATEST_PS or int(times.min()) < -LATEST_PS):
            bad = int(np.argmax((times > LATEST_PS) | (times < -LATEST_PS)))
            error = error_at(
                self._info,
                int(new.records[bad]),
                f"its time lies months away: damaged, or not of format {self._info.format}",
            )
            times = times[:bad]
        tops = np.maximum.accumulate(times)
        if self._tops.size and tops.size:
            tops = np.maximum(tops, self._tops[-1])
        all_tops = np.concatenate([self._tops, tops])
        ahead = all_tops[: max(all_tops.size - LOOK_AHEAD - 1, 0)]
        bound = ahead[max(ahead.size - times.size, 0) :]
        early = np.flatnonzero(times[times.size - bound.size :] < bound)
        if early.size:
            bad = times.size - bound.size + int(early[0])
            error = too_late(self._info, int(new.records[bad]))
            times, tops = times[:bad], tops[:bad]
            all_tops = all_tops[: self._tops.size + bad]
        late = int(np.count_nonzero(times < tops))
        self._late += late
        merged = np.concatenate([self._times, times])
        channels = np.concatenate([self._channels, new.channels[: times.size]])
        if late:
            order = np.argsort(merged, kind="stable")
            merged, channels = merged[order], channels[order]
        self._tops = all_tops[-LOOK_AHEAD - 1 :]
        self._times, self._channels = merged, channels
        if error is None:
            self._take_losses(new)
            reached = new.reached_ps
            if reached is not None:
                self._reached = max(reached, self._reached or reached)
        if self._tops.size > LOOK_AHEAD:
            upto = int(self._tops[0])
            piece = self._give(upto, int(np.searchsorted(merged, upto)))
            if error is None and self._times.size > _AT_ONCE + LOOK_AHEAD + new.times_ps.size:
                error = error_at(
                    self._info,
                    int(new.records[-1]),
                    f"more than {_AT_ONCE} clicks at {upto} ps:"
                    f" damaged, or not of format {self._info.format}",
                )
            return piece, error
        return None, error

    def rest(self) -> Piece | None:
        """Return what is left; the file is over."""
        ends = [int(self._tops[-1])] if self._tops.size else []
        ends += [] if self._reached is None else [self._reached]
        if not ends:
            return None
        upto = max(ends)
        return self._give(upto, self._times.size)

    def _take_losses(self, new: Decoded) -> None:
        for loss in new.losses:
            if loss.begin_ps == self._since and self._admitted > self._since:
                loss = Loss(loss.kind, min(self._admitted, loss.end_ps), loss.end_ps, loss.count)
            self._losses.append(loss)
        if new.losing_since_ps != self._since:
            self._since = new.losing_since_ps
            self._admitted = self._since or 0

    def _give(self, upto: int, count: int) -> Piece:
        losses = [loss for loss in self._losses if loss.begin_ps < upto]
        self._losses = [loss for loss in self._losses if loss.end_ps > upto]
        if self._since is not None and self._admitted < upto:
            losses.append(Loss("overflow", self._admitted, upto))
            self._admitted = upto
        piece = Piece(self._times[:count], self._channels[:count], upto, tuple(losses), self._late)
        self._times, self._channels = self._times[count:], self._channels[count:]
        self._upto, self._late = upto, 0
        return piece


def in_order(info: TagFileInfo, decoded: Iterable[Decoded]) -> Iterator[Piece]:
    """Bring clicks into the order of time.

    A click may come up to `LOOK_AHEAD` clicks after one that is later in time. Cost: some 10 ns
    per click of a file in order. Memory: the clicks of a chunk and of the look-ahead.

    Raises:
        TagFileError: for a click farther back, or what ``decoded`` raises; all clicks before it
            have been yielded.
    """
    order = _Order(info)
    damage: TagFileError | None = None
    source = iter(decoded)
    while damage is None:
        try:
            new = next(source)
        except StopIteration:
            break
        except TagFileError as error:
            damage = error
            break
        piece, damage = order.add(new)
        if piece is not None:
            yield piece
    last = order.rest()
    if last is not None:
        yield last
    if damage is not None:
        raise damage


def plain_info(
    name: str,
    path: Path,
    size: int,
    record_bytes: int,
    resolution_ps: float,
    *,
    data_offset: int = 0,
) -> TagFileInfo:
    """Describe a file of records of one size after ``data_offset`` bytes.

    Raises:
        TagFileError: if there is not even one record.
    """
    records = max(size - data_offset, 0) // record_bytes
    if not records:
        raise TagFileError(
            f"{size} bytes hold no record of format {name}: the file is truncated,"
            " or say its --format",
            path=str(path),
            offset=size,
        )
    return TagFileInfo(name, str(path), records, record_bytes, data_offset, resolution_ps)


def chunks(
    info: TagFileInfo, dtype: npt.DTypeLike, chunk_records: int
) -> Iterator[tuple[int, npt.NDArray[Any]]]:
    """Yield (index of the first record, records) of a file, ``chunk_records`` at a time.

    Raises:
        TagFileError: after the last whole record, if the file ends inside one, or has become
            shorter since it was described.
    """
    with Path(info.path).open("rb") as file:
        file.seek(info.data_offset)
        done = 0
        while done < info.records:
            want = min(chunk_records, info.records - done)
            data = file.read(want * info.record_bytes)
            whole = len(data) // info.record_bytes
            if whole:
                yield done, np.frombuffer(data, dtype, whole * _items(info, dtype))
            if len(data) != want * info.record_bytes:
                raise TagFileError(
                    "the file became shorter while it was read; is it still being written?",
                    path=info.path,
                    offset=info.data_offset + done * info.record_bytes + len(data),
                )
            done += want
        rest = len(file.read(info.record_bytes))
        if 0 < rest < info.record_bytes:
            raise TagFileError(
                f"the last record is cut off ({rest} of {info.record_bytes} bytes): the file is"
                f" truncated, or not of format {info.format}; copy it again, or say --format",
                path=info.path,
                offset=info.data_offset + done * info.record_bytes,
            )


def _items(info: TagFileInfo, dtype: npt.DTypeLike) -> int:
    return info.record_bytes // np.dtype(dtype).itemsize


def step_of(resolution_ps: float) -> Fraction:
    """Return a time step of the caller's choice as a fraction.

    Raises:
        ValueError: for one outside 1 fs to 1 ms.
    """
    if not 1e-3 <= resolution_ps <= 1e9:  # and no NaN
        raise ValueError(f"a time step of {resolution_ps:g} ps is not between 1 fs and 1 ms")
    return Fraction(resolution_ps).limit_denominator(1 << 16)


def to_ps(ticks: npt.NDArray[np.int64], numerator: int, denominator: int) -> TimesPs:
    """Scale counter ticks of ``numerator/denominator`` ps to whole ps, halves rounded up.

    Exact in integers: the remainder never accumulates, whatever the length of the recording.
    """
    if denominator == 1:
        return ticks * numerator
    far = (1 << 62) // numerator
    if ticks.size and -far < int(ticks.min()) and int(ticks.max()) < far:
        return np.asarray((ticks * numerator + denominator // 2) // denominator)
    whole = ticks // denominator
    rest = ticks - whole * denominator
    return np.asarray(whole * numerator + (rest * numerator + denominator // 2) // denominator)


class Unwrap:
    """Continues a counter of ``bits`` bits beyond its turnover, across chunks.

    Each step is the shortest way round: a drop by more than half the range is a turnover, a
    smaller one a record that comes late.

    Args:
        bits: Width of the counter.
        tick_ps: Its step; the continued counter ends where `in_order` finds times too late.
    """

    def __init__(self, bits: int, tick_ps: float) -> None:
        self._half = 1 << (bits - 1)
        self._most = int(1.01 * LATEST_PS / tick_ps)
        self._last: int | None = None  # continued

    def __call__(self, counter: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return the continued counter; the first value stands as it is."""
        if not counter.size:
            return counter
        if self._last is None:
            self._last = int(counter[0])
        steps = np.diff(counter, prepend=self._last)
        steps = ((steps + self._half) & (2 * self._half - 1)) - self._half
        if float(np.abs(steps).sum(dtype=np.float64)) + abs(self._last) < self._most:
            continued = self._last + np.cumsum(steps)
        else:
            far = self._last + np.cumsum(steps, dtype=np.float64)
            continued = np.clip(far, -self._most, self._most).astype(np.int64)
        self._last = int(continued[-1])
        return continued


def pattern_clicks(
    times_ps: TimesPs, patterns: npt.NDArray[np.integer[Any]]
) -> tuple[TimesPs, Channels]:
    """Turn events with a detector pattern into clicks: channel n for bit n-1, n = 1..4.

    An event with several bits becomes as many clicks at one time, in order of channel.
    """
    event, bit = pattern_bits(patterns)
    return times_ps[event], bit


def pattern_bits(
    patterns: npt.NDArray[np.integer[Any]],
) -> tuple[npt.NDArray[np.int64], Channels]:
    """Return index of the event and channel of every click, as in `pattern_clicks`."""
    patterns = patterns & 0xF
    channels = _ONLY[patterns]
    if channels.all():  # as nearly always
        return np.arange(patterns.size), channels
    event = np.repeat(np.arange(patterns.size), _CLICKS[patterns])
    bits = (patterns.astype(np.uint8)[:, None] >> np.arange(4, dtype=np.uint8)) & 1
    return event, (np.nonzero(bits)[1] + 1).astype(np.int16)


_CLICKS = np.array([pattern.bit_count() for pattern in range(16)])
#: Channel of a pattern of one bit, 0 of the others.
_ONLY = np.array([p.bit_length() if p.bit_count() == 1 else 0 for p in range(16)], np.int16)


def click_patterns(
    ticks: npt.NDArray[np.int64], channels: Channels
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Join clicks of channels 1..4 at one tick into events; the inverse of `pattern_clicks`.

    Raises:
        ValueError: for another channel, or ticks that decrease.
    """
    if channels.size and not (channels.min() >= 1 and channels.max() <= 4):
        raise ValueError("detector-pattern formats hold channels 1..4")
    steps = np.diff(ticks)
    if np.any(steps < 0):
        raise ValueError("clicks must be in order of time")
    bits = np.left_shift(1, channels.astype(np.int64) - 1)
    if steps.all():  # as nearly always
        return ticks, bits
    starts = np.flatnonzero(np.concatenate([[1], steps]))
    return ticks[starts], np.bitwise_or.reduceat(bits, starts)


def error_at(info: TagFileInfo, record: int, message: str) -> TagFileError:
    """Return the error for damage at a record; of text, a record is the offset of its line."""
    if not info.record_bytes:
        return TagFileError(message, path=info.path, offset=record)
    offset = info.data_offset + record * info.record_bytes
    return TagFileError(f"record {record}: {message}", path=info.path, offset=offset)


def too_late(info: TagFileInfo, record: int) -> TagFileError:
    """Return the error for a record that comes too late to be sorted."""
    return error_at(
        info,
        record,
        f"its time lies before clicks more than {LOOK_AHEAD} earlier in the file:"
        f" the file is damaged here, or not of format {info.format}; copy it again,"
        " or say --format",
    )


def back_in_time(info: TagFileInfo, record: int) -> TagFileError:
    """Return the error for a record that is earlier than the one before it."""
    return error_at(
        info,
        record,
        "its time lies before the record before it: the file is damaged here,"
        f" or not of format {info.format}; copy it again, or say --format",
    )
