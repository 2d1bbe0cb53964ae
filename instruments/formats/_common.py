"""What the codecs share: bounded reading, scaling to ps, counters that turn over, patterns."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from ..errors import TagFileError
from ..tags import Channels, Loss, TagBatch, TimesPs

#: Records per batch. 2^18 records of any format and their tags stay below some 20 MB.
CHUNK_RECORDS = 1 << 18


@dataclass(frozen=True, slots=True)
class TagFileInfo:
    """What a file says about itself before its records are read.

    Attributes:
        format: Name of the format, as ``open_tags(format=...)`` takes it.
        path: The file.
        records: Number of records in it (clicks, overflows and markers together).
        record_bytes: Size of one record.
        data_offset: Byte offset of the first record.
        resolution_ps: Time step of the records; not whole for some formats, see their modules.
        header: What the header tells, where there is one.
    """

    format: str
    path: str
    records: int
    record_bytes: int
    data_offset: int
    resolution_ps: float
    header: Mapping[str, Any] = field(default_factory=dict)


class Piece(NamedTuple):
    """Decoded clicks on their way into a `TagBatch`.

    ``times_ps`` lie at or before ``upto_ps``; all later pieces at or after it, so a click at
    ``upto_ps`` itself may still get company.
    """

    times_ps: TimesPs
    channels: Channels
    upto_ps: int
    losses: tuple[Loss, ...] = ()


class Codec(Protocol):
    """One file format; each module of this package offers one or more."""

    @property
    def begin_ps(self) -> int | None:
        """Time the recording begins at; None: at the first record."""
        ...

    def describe(self, path: Path, size: int) -> TagFileInfo:
        """Check the file as far as that is cheap, and describe it."""
        ...

    def read(self, info: TagFileInfo, chunk_records: int) -> Iterator[Piece]:
        """Decode it, ``chunk_records`` at a time."""
        ...

    def plausible(self, head: bytes, size: int) -> bool:
        """Whether a file of ``size`` bytes that begins with ``head`` may be of this format."""
        ...


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

    def writer(
        self,
        file: BinaryIO,
        *,
        resolution_ps: float | None = None,
        start_unix_ns: int = 0,
        clock_id: str = "",
    ) -> Writer:
        """Begin a recording in ``file`` (seekable, readable too).

        Args:
            file: Where to write, from its position on.
            resolution_ps: Time step, for formats that let one choose; None: the format's own.
            start_unix_ns: Host time of the recording's start, ns since the Unix epoch; 0: unknown.
            clock_id: Name of the clock of the times.

        Raises:
            ValueError: for a time step the format cannot have.
        """
        ...


@runtime_checkable
class BatchCodec(Protocol):
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


def batches(pieces: Iterable[Piece], begin_ps: int | None) -> Iterator[TagBatch]:
    """Join pieces to batches: clicks at the watermark wait for the next piece.

    The last batch ends 1 ps after the last record.
    """
    held_times, held_channels = np.zeros(0, np.int64), np.zeros(0, np.int16)
    begin = begin_ps
    for piece in pieces:
        times = np.concatenate([held_times, piece.times_ps])
        channels = np.concatenate([held_channels, piece.channels])
        if begin is None:
            begin = int(times[0]) if times.size else piece.upto_ps
        ready = int(np.searchsorted(times, piece.upto_ps))
        yield TagBatch(
            times[:ready], channels[:ready], begin, piece.upto_ps, losses=tuple(piece.losses)
        )
        held_times, held_channels, begin = times[ready:], channels[ready:], piece.upto_ps
    if begin is not None:
        yield TagBatch(held_times, held_channels, begin, begin + 1)


def plain_info(
    name: str, path: Path, size: int, record_bytes: int, resolution_ps: float
) -> TagFileInfo:
    """Describe a file that is nothing but records of one size.

    Raises:
        TagFileError: if the size is not a whole number of records.
    """
    if size % record_bytes:
        raise TagFileError(
            f"the last record is cut off ({size % record_bytes} of {record_bytes} bytes):"
            f" the file is truncated, or not of format {name}; copy it again, or say --format",
            path=str(path),
            offset=size - size % record_bytes,
        )
    return TagFileInfo(name, str(path), size // record_bytes, record_bytes, 0, resolution_ps)


def chunks(
    info: TagFileInfo, dtype: npt.DTypeLike, chunk_records: int
) -> Iterator[tuple[int, npt.NDArray[Any]]]:
    """Yield (index of the first record, records) of a file, ``chunk_records`` at a time.

    Raises:
        TagFileError: if the file has become shorter since it was described.
    """
    with Path(info.path).open("rb") as file:
        file.seek(info.data_offset)
        done = 0
        while done < info.records:
            want = min(chunk_records, info.records - done)
            data = file.read(want * info.record_bytes)
            if len(data) != want * info.record_bytes:
                raise TagFileError(
                    "the file became shorter while it was read; is it still being written?",
                    path=info.path,
                    offset=info.data_offset + done * info.record_bytes + len(data),
                )
            yield done, np.frombuffer(data, dtype)
            done += want


def to_ps(ticks: npt.NDArray[np.int64], numerator: int, denominator: int) -> TimesPs:
    """Scale counter ticks of ``numerator/denominator`` ps to whole ps, halves rounded up.

    Exact in integers: the remainder never accumulates, whatever the length of the recording.
    """
    if denominator == 1:
        return ticks * numerator
    whole, rest = np.divmod(ticks, denominator)
    return np.asarray(whole * numerator + (rest * numerator + denominator // 2) // denominator)


class Unwrap:
    """Continues a counter of ``bits`` bits beyond its turnover, across chunks.

    A drop by more than half the range is a turnover; a smaller one is damage.
    """

    def __init__(self, bits: int) -> None:
        self._range = 1 << bits
        self._last = -1
        self._base = 0

    def __call__(self, counter: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], int]:
        """Return the continued counter and the index of the first bad record, or -1."""
        if not counter.size:
            return counter, -1
        first = int(counter[0]) if self._last < 0 else self._last
        steps = np.diff(counter, prepend=first)
        turns = steps < -(self._range // 2)
        bad = np.flatnonzero((steps < 0) & ~turns)
        continued = counter + self._base + np.cumsum(turns) * self._range
        self._base = int(continued[-1] - counter[-1])
        self._last = int(counter[-1])
        return continued, int(bad[0]) if bad.size else -1


def pattern_clicks(
    times_ps: TimesPs, patterns: npt.NDArray[np.integer[Any]]
) -> tuple[TimesPs, Channels]:
    """Turn events with a detector pattern into clicks: channel n for bit n-1, n = 1..4.

    An event with several bits becomes as many clicks at one time, in order of channel.
    """
    bits = (patterns.astype(np.uint8)[:, None] >> np.arange(4, dtype=np.uint8)) & 1
    event, bit = np.nonzero(bits)
    return times_ps[event], (bit + 1).astype(np.int16)


def click_patterns(
    ticks: npt.NDArray[np.int64], channels: Channels
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Join clicks of channels 1..4 at one tick into events; the inverse of `pattern_clicks`.

    Raises:
        ValueError: for another channel, or ticks that decrease.
    """
    if channels.size and not (channels.min() >= 1 and channels.max() <= 4):
        raise ValueError("detector-pattern formats hold channels 1..4")
    if np.any(np.diff(ticks) < 0):
        raise ValueError("clicks must be in order of time")
    starts = np.flatnonzero(np.diff(ticks, prepend=-1))
    bits = np.left_shift(1, channels.astype(np.int64) - 1)
    return ticks[starts], (
        np.bitwise_or.reduceat(bits, starts) if starts.size else np.zeros(0, np.int64)
    )


def error_at(info: TagFileInfo, record: int, message: str) -> TagFileError:
    """Return the error for damage at a record."""
    offset = info.data_offset + record * info.record_bytes
    return TagFileError(f"record {record}: {message}", path=info.path, offset=offset)


def back_in_time(info: TagFileInfo, record: int) -> TagFileError:
    """Return the error for a record that is earlier than the one before it."""
    return error_at(
        info,
        record,
        "its time lies before the record before it: the file is damaged here,"
        f" or not of format {info.format}; copy it again, or say --format",
    )
