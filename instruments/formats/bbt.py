"""Bellbench tags (``bbt``): our own click stream, compact, checksummed, readable while it grows.

docs/tag-format.md is the specification. The file is a row of chunks, each with its own interval
of time and checksums, so that a reader may begin at any of them. Time steps are Rice-coded in
blocks of 128, channels packed in as few bits as they need or Huffman-coded in groups where that
saves more than 3 %: some 0.1 bits per click above the entropy of independent clicks.

Times are counted in a step, 1 ps unless one is given, and rounded to it half up; so are the
watermarks, and losses are widened to it. Clicks that round to the watermark or beyond wait for
the next batch.

Cost (one core at 2.5 GHz): about 12 ns per click to write, 9 ns to read; up to 18 and 12 where the
step is not 1 ps. The first use compiles for some 5 s, later ones load that from the cache.
"""

from __future__ import annotations

import contextlib
import json
import math
import struct
import zlib
from collections.abc import Iterator, Mapping
from fractions import Fraction
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from ..errors import TagFileError
from ..tags import Channels, Loss, TagBatch, TimesPs
from ._common import About, TagFileInfo

__all__ = ["BBT", "BbtCodec", "BbtReader", "BbtWriter"]

_MAGIC = b"\xbbBBT"
_VERSION = 1
_HEAD = struct.Struct("<4sBBHIIIIQqqII")
_PARTS = struct.Struct("<IIII")
_LOSS = struct.Struct("<16sqqq")
_START, _CLICKS, _END = b"SCE"

#: Clicks after which a chunk is written, whether `BbtWriter.flush` is called or not,
CHUNK_CLICKS = 1 << 17
#: and time of the stream; a kill loses no more than what came since the last chunk.
CHUNK_PS = 10**12

_MOST_CLICKS = 1 << 24  # per chunk; with the next one it bounds a reader's memory
_MOST_BYTES = 1 << 28
_MOST_TEXT = 1 << 20
_MOST_STEP = 1 << 31
_WINDOW = 1 << 20  # bytes looked through at a time
_WORTH = 0.97  # Huffman codes are slower: only where they save 3 %
_INT64 = range(-(1 << 63), 1 << 63)

Words = npt.NDArray[np.uint64]


class _Chunk(NamedTuple):
    """The 56 bytes every chunk begins with, and where."""

    at: int
    kind: int
    size: int
    clicks: int
    numerator: int
    denominator: int
    before: int
    begin: int
    end: int
    checksum: int

    @property
    def next(self) -> int:
        return self.at + _HEAD.size + self.size

    @property
    def begin_ps(self) -> int:
        return _scaled(self.begin, self.numerator, self.denominator)

    @property
    def end_ps(self) -> int:
        return _scaled(self.end, self.numerator, self.denominator)


def _scaled(ticks: int, numerator: int, denominator: int) -> int:
    return (ticks * numerator + denominator // 2) // denominator


def _head(chunk: _Chunk) -> bytes:
    head = _HEAD.pack(_MAGIC, chunk.kind, _VERSION, 0, *chunk[2:], 0)[:-4]
    return head + struct.pack("<I", zlib.crc32(head))


def _parse(data: bytes, at: int) -> _Chunk | str:
    """Return the chunk whose head is ``data``, or what is wrong with it."""
    magic, kind, version, zero, *rest, own = _HEAD.unpack(data)
    if magic != _MAGIC:
        return "no chunk begins here"
    if zlib.crc32(data[:-4]) != own:
        return "the head of this chunk does not match its checksum"
    if version != _VERSION:
        return f"this is version {version} of the format, and I read {_VERSION}; update bellbench"
    chunk = _Chunk(at, kind, *rest)
    step_fits = 0 < chunk.denominator <= chunk.numerator < _MOST_STEP
    step_fits = step_fits and math.gcd(chunk.numerator, chunk.denominator) == 1
    if (
        zero
        or kind not in (_START, _CLICKS, _END)
        or chunk.size > (_MOST_TEXT if kind == _START else _MOST_BYTES)
        or chunk.size % 8
        or chunk.clicks > min(_MOST_CLICKS, 8 * chunk.size)
        or not step_fits
        or chunk.begin > chunk.end
        or (kind != _CLICKS and (chunk.clicks or chunk.begin != chunk.end))
        or chunk.begin_ps not in _INT64
        or chunk.end_ps not in _INT64
    ):
        return "the head of this chunk makes no sense"
    return chunk


def _find(file: BinaryIO, start: int, stop: int) -> _Chunk | None:
    """Return the first chunk that begins in ``[start, stop)``, by magic and checksum."""
    while start < stop:
        file.seek(start)
        data = file.read(_WINDOW + _HEAD.size - 1)
        i = data.find(_MAGIC)
        while 0 <= i < min(_WINDOW, stop - start) and i + _HEAD.size <= len(data):
            chunk = _parse(data[i : i + _HEAD.size], start + i)
            if not isinstance(chunk, str):
                return chunk
            i = data.find(_MAGIC, i + 1)
        start += _WINDOW
    return None


def _find_last(file: BinaryIO, size: int) -> _Chunk | None:
    """Return the last chunk that is complete and sound; reads backwards from the end."""
    stop = size
    while stop > 0:
        start = max(0, stop - _WINDOW)
        file.seek(start)
        data = file.read(stop - start + _HEAD.size - 1)
        i = data.rfind(_MAGIC, 0, stop - start + len(_MAGIC) - 1)
        while i >= 0:
            if i + _HEAD.size <= len(data):
                chunk = _parse(data[i : i + _HEAD.size], start + i)
                if not isinstance(chunk, str) and chunk.next <= size:
                    file.seek(chunk.at + _HEAD.size)
                    if zlib.crc32(file.read(chunk.size)) == chunk.checksum:
                        return chunk
            i = data.rfind(_MAGIC, 0, i + len(_MAGIC) - 1)
        stop = start
    return None


class BbtWriter:
    """Writes the chunks of a recording; what `create_tags` uses.

    A chunk is written when 2^17 clicks or 1 s of the stream have gathered, and on `flush`.
    Whatever happens to the process afterwards, it stays readable; a kill loses at most the
    batches since. (What the operating system has not yet put on disk, a power cut may take.)
    Memory: the clicks of a chunk and of a batch.

    Args:
        file: Where to write; need not be seekable. It stays open.
        resolution_ps: Step that times are rounded to; None, or finer than 1 ps: 1 ps.
        start_unix_ns: Host time of the recording's start; 0: as the first batch says.
        clock_id: Name of the clock; empty: as the first batch says.
        metadata: What JSON can hold, e.g. ``{"instrument": …, "channels": {"1": "signal"}}``.

    Raises:
        ValueError: for a step that is no positive number below 2^31 ps, or metadata that is not
            JSON or longer than 1 MB.
    """

    def __init__(
        self,
        file: BinaryIO,
        *,
        resolution_ps: float | None = None,
        start_unix_ns: int = 0,
        clock_id: str = "",
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        step = 1.0 if resolution_ps is None else resolution_ps
        if not (math.isfinite(step) and 0 < step < _MOST_STEP - 1):
            raise ValueError(f"the time step must lie between 0 and 2^31 ps, got {step}")
        finest = max(1, min(1 << 16, int(_MOST_STEP / step) - 1))
        exact = max(Fraction(step), Fraction(1)).limit_denominator(finest)
        self._file = file
        self._step = (exact.numerator, exact.denominator)
        self._start_unix_ns = start_unix_ns
        self._clock_id = clock_id
        self._metadata = dict(metadata or {})
        self._begun = False
        self._done = False
        self._total = 0
        self._begin: int | None = None  # ticks, of the chunk in the making
        self._end = 0
        self._end_ps: int | None = None
        self._resumed = False
        self._count = 0
        self._times: list[npt.NDArray[np.int64]] = []
        self._channels: list[Channels] = []
        self._losses: list[Loss] = []
        self._known: set[Loss] = set()
        self._late: tuple[TimesPs, Channels] = (np.zeros(0, np.int64), np.zeros(0, np.int16))
        self._index = np.zeros(1 << 16, np.uint16)
        self._low: Words = np.empty(0, np.uint64)
        self._high: Words = np.empty(0, np.uint64)
        self._text()

    @classmethod
    def resume(cls, file: BinaryIO) -> BbtWriter:
        """Go on with a recording that was closed or killed; cuts off what is not complete.

        Clicks that begin later than the recording ended leave a loss ``"gap"`` between.

        Args:
            file: Opened for reading and writing, ``"r+b"``.

        Raises:
            TagFileError: where the file's beginning is damaged.
        """
        info, first, last = _survey(file, getattr(file, "name", ""))
        writer = cls(
            file,
            start_unix_ns=info.start_unix_ns,
            clock_id=info.clock_id,
            metadata=info.header["metadata"],
        )
        writer._step = (first.numerator, first.denominator)
        file.seek(last.next)
        file.truncate()
        writer._begun = writer._resumed = True
        writer._total = last.before + last.clicks
        writer._begin = writer._end = last.end
        writer._end_ps = last.end_ps
        return writer

    def write(self, batch: TagBatch) -> None:
        """Append a batch that begins where the one before it ended.

        Raises:
            ValueError: for a batch that does not follow, is out of order, is of another
                recording, or does not fit 64 bits; nothing of it is written.
        """
        from ._kernels_bbt import decreases, scaled

        if self._done:
            raise ValueError(
                "the recording is finished, or writing failed; begin another, or resume it"
            )
        if decreases(batch.times_ps):
            wrong = int(np.argmax(np.diff(batch.times_ps) < 0)) + 1
            raise ValueError(
                f"click {wrong} of the batch, at {batch.times_ps[wrong]} ps, lies before the one"
                " before it; sort the batch"
            )
        begin, end = self._tick(batch.begin_ps), self._tick(batch.end_ps)
        gap = self._follow(batch, begin)
        losses = [self._in_ticks(loss) for loss in (*gap, *batch.losses)]
        times, channels = batch.times_ps, batch.channels
        late = self._late
        if self._step != (1, 1):
            times = np.concatenate([late[0], scaled(times, *self._step[::-1])])
            channels = np.concatenate([late[1], channels])
            ready = int(np.searchsorted(times, end))
            late = times[ready:], channels[ready:]
            times, channels = times[:ready], channels[:ready]
        run = _MOST_CLICKS - CHUNK_CLICKS
        if len(times) > run and np.any(times[run:] == times[:-run]):
            raise ValueError("more than 16 million clicks at one time do not fit a chunk")
        self._late = late
        self._start_unix_ns = self._start_unix_ns or batch.start_unix_ns
        self._clock_id = self._clock_id or batch.clock_id
        if self._begin is None:
            self._begin = begin
        self._end_ps, self._resumed = batch.end_ps, False
        self._losses += [loss for loss in losses if loss not in self._known]
        self._known.update(losses)
        self._take(times, channels, end)
        if self._end - self._begin >= CHUNK_PS * self._step[1] // self._step[0]:
            self.flush()

    def flush(self) -> None:
        """Write what has gathered as a chunk; from now on it is safe and readable."""
        if self._done or self._begin is None:
            return
        if not self._begun or self._losses or self._end > self._begin:
            self._chunk(self._end, self._losses)
            self._losses, self._known = [], set()

    def finish(self) -> None:
        """Write the rest and the mark that the recording ended here. The file stays open."""
        if self._done:
            return
        times, channels = self._late
        if times.size:
            self._late = times[:0], channels[:0]
            self._take(times, channels, int(times[-1]) + 1)
        self.flush()
        if not self._begun:
            self._put(self._start(0))
        self._put(self._whole(_END, b"", 0, self._end, self._end))
        self._done = True

    def _follow(self, batch: TagBatch, begin: int) -> list[Loss]:
        """Check that the batch belongs here; return the gap before it, if there is one."""
        for mine, its in (
            (self._start_unix_ns, batch.start_unix_ns),
            (self._clock_id, batch.clock_id),
        ):
            if mine and its and mine != its:
                raise ValueError(
                    f"the batch is of another recording ({its!r}, not {mine!r}); begin a new file"
                )
        if self._end_ps is None or batch.begin_ps == self._end_ps:
            return []
        if self._resumed and begin >= self._end:
            return [Loss("gap", self._end_ps, batch.begin_ps)] if begin > self._end else []
        raise ValueError(
            f"the batch begins at {batch.begin_ps} ps and the one before it ended at"
            f" {self._end_ps} ps; give each batch once, in order"
        )

    def _tick(self, time_ps: int) -> int:
        tick = _scaled(time_ps, self._step[1], self._step[0])
        if time_ps not in _INT64 or (self._step != (1, 1) and abs(time_ps) >= 1 << 62):
            raise ValueError(f"{time_ps} ps does not fit 64 bits (63 where the step is not 1 ps)")
        return tick

    def _in_ticks(self, loss: Loss) -> Loss:
        numerator, denominator = self._step
        begin = (2 * loss.begin_ps + 1) * denominator // (2 * numerator)
        end = -((1 - 2 * loss.end_ps) * denominator // (2 * numerator))
        name = loss.kind.encode()
        if len(name) > 16 or b"\0" in name:
            raise ValueError(f"the kind of a loss must fit 16 bytes, got {loss.kind!r}")
        count = 0 if loss.count is None else loss.count
        if loss.begin_ps > loss.end_ps:
            raise ValueError(f"{loss} ends before it begins")
        if begin not in _INT64 or end not in _INT64 or not 0 <= count < 1 << 63:
            raise ValueError(f"{loss} does not fit 64 bits")
        return Loss(loss.kind, begin, end, loss.count)

    def _take(self, times: npt.NDArray[np.int64], channels: Channels, end: int) -> None:
        """Gather clicks up to the watermark ``end``; write the chunks that become full."""
        start = 0
        while self._count + len(times) - start > CHUNK_CLICKS:
            cut = start + CHUNK_CLICKS - self._count
            # Clicks at one time stay together: a chunk ends before all that follow.
            at = int(np.searchsorted(times, times[cut]))
            if at <= start and not self._count:
                at = int(np.searchsorted(times, times[cut], "right"))
            self._gather(times[start:at], channels[start:at])
            start = at
            upto = int(times[at]) if at < len(times) else end
            losses = [loss for loss in self._losses if loss.begin_ps < upto or upto == end]
            self._chunk(upto, losses)
            self._losses = [
                loss for loss in self._losses if loss.end_ps > upto or loss.begin_ps >= upto
            ]
            if upto == end:
                self._losses, self._known = [], set()
        self._gather(times[start:], channels[start:])
        self._end = end

    def _gather(self, times: npt.NDArray[np.int64], channels: Channels) -> None:
        if len(times):
            self._times.append(times)
            self._channels.append(channels)
            self._count += len(times)

    def _chunk(self, end: int, losses: list[Loss]) -> None:
        assert self._begin is not None
        if len(self._times) == 1:
            times, channels = self._times[0], self._channels[0]
        else:
            times = np.concatenate([np.zeros(0, np.int64), *self._times])
            channels = np.concatenate([np.zeros(0, np.int16), *self._channels])
        payload = b"".join(self._payload(times, channels, losses))
        if len(payload) > _MOST_BYTES:
            raise ValueError(f"{len(losses)} losses in one chunk are too many; flush more often")
        whole = self._whole(_CLICKS, payload, len(times), self._begin, end)
        if not self._begun:
            whole = self._start(self._begin) + whole
        self._put(whole)
        self._begun = True
        self._total += len(times)
        self._times, self._channels, self._count = [], [], 0
        self._begin = self._end = end

    def _put(self, data: bytes) -> None:
        # If this fails (disk full), nothing may follow: what is torn must stay the tail.
        self._done = True
        self._file.write(data)
        self._file.flush()
        self._done = False

    def _whole(self, kind: int, payload: bytes, count: int, begin: int, end: int) -> bytes:
        checksum = zlib.crc32(payload)
        size = len(payload)
        return (
            _head(_Chunk(0, kind, size, count, *self._step, self._total, begin, end, checksum))
            + payload
        )

    def _text(self) -> bytes:
        said = {
            "start_unix_ns": self._start_unix_ns,
            "clock_id": self._clock_id,
            "metadata": self._metadata,
        }
        try:
            text = json.dumps(said, allow_nan=False).encode()
        except (TypeError, ValueError, RecursionError) as error:
            raise ValueError(f"the metadata must be JSON: {error}") from None
        if len(text) > _MOST_TEXT - 8:
            raise ValueError("the metadata take more than 1 MB")
        return text + b" " * (-len(text) % 8)

    def _start(self, begin: int) -> bytes:
        return self._whole(_START, self._text(), 0, begin, begin)

    def _payload(
        self, times: npt.NDArray[np.int64], channels: Channels, losses: list[Loss]
    ) -> list[bytes]:
        told = b"".join(
            _LOSS.pack(x.kind.encode(), x.begin_ps, x.end_ps, -1 if x.count is None else x.count)
            for x in losses
        )
        if not len(times):
            return [_PARTS.pack(len(losses), 0, 0, 0), told]
        from ._kernels_bbt import BLOCK, mark, write_times

        assert self._begin is not None
        blocks = np.empty(-(-len(times) // BLOCK), np.uint8)
        if len(self._low) <= len(times):
            self._low = np.empty(len(times) + 1, np.uint64)
            self._high = np.empty(5 * len(times) // 64 + 2, np.uint64)
        low, high = self._low, self._high
        lows, highs = write_times(times, self._begin, blocks, low, high)
        seen = np.zeros(1 << 16, np.bool_)
        mark(channels, seen)
        known = (np.flatnonzero(seen) - (1 << 15)).astype(np.int16)
        self._index[known.astype(np.uint16)] = np.arange(known.size)
        group, lengths, which = self._pack_channels(channels, known, 64 * (lows + highs))
        return [
            _PARTS.pack(len(losses), known.size, highs, group),
            told,
            _padded(known.astype("<i2").tobytes()),
            _padded(lengths.tobytes()),
            _padded(blocks.tobytes()),
            low[:lows].astype("<u8", copy=False).tobytes(),
            high[:highs].astype("<u8", copy=False).tobytes(),
            which.astype("<u8", copy=False).tobytes(),
        ]

    def _pack_channels(
        self, channels: Channels, known: Channels, rest: int
    ) -> tuple[int, npt.NDArray[np.uint8], Words]:
        """Return clicks per code or 0, the codes' lengths, and the codes."""
        from . import _kernels_bbt as kernels

        many, count = int(known.size), len(channels)
        width = (many - 1).bit_length()
        group = next((g for g in range(kernels.WIDEST, 0, -1) if many**g <= 256), 0)
        if many > 1 and group and _worth_codes(channels, self._index, width, rest / count):
            symbols = np.empty(-(-count // group), np.uint8)
            counts = np.empty(many**group, np.int64)
            kernels.groups_of(channels, self._index, many, group, symbols, counts)
            order = np.argsort(counts, kind="stable")
            order = order[np.searchsorted(counts[order], 1) :]
            lengths, deep = np.zeros(counts.size, np.uint8), np.zeros(order.size, np.uint8)
            kernels.code_lengths(counts[order], deep)
            lengths[order] = deep
            bits = int(counts @ lengths.astype(np.int64)) + 8 * lengths.size
            if bits + rest < _WORTH * (width * count + rest):
                codes = np.zeros(lengths.size, np.uint16)
                kernels.codes_of(lengths, codes)
                out = np.empty(bits // 64 + 2, np.uint64)
                return group, lengths, out[: kernels.write_groups(symbols, lengths, codes, out)]
        out = np.empty(width * count // 64 + 2, np.uint64)
        used = kernels.write_fixed(channels, self._index, width, out)
        return 0, np.zeros(0, np.uint8), out[:used]


def _worth_codes(
    channels: Channels, index: npt.NDArray[np.uint16], width: int, rest: float
) -> bool:
    """Judge by a sample whether codes may save enough."""
    sample = index[channels[:: max(1, len(channels) >> 10)].view(np.uint16)]
    counts = np.bincount(sample)
    shares = counts[counts > 0] / len(sample)
    entropy = float(-(shares @ np.log2(shares)))
    return entropy + rest < _WORTH * (width + rest)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 8)


class BbtReader:
    """Reads the complete chunks of a recording, also while it is written; `open_tags` uses it.

    Iterate for one batch per chunk; iterate again for what has come since. A chunk cut off at
    the file's end is one still being written, or killed: it is not read, nor an error.
    Memory: one chunk, at most 16 million clicks.

    Args:
        path: The file.
        from_ps: Begin at this time. Found by bisection of chunk heads, no clicks are decoded.
        damage: ``"raise"``: a damaged chunk is an error. ``"mark"``: reading goes on at the next
            sound chunk, and a batch without clicks and with a loss ``"corrupt"`` stands for the
            interval between; its count is exact.

    Attributes:
        info: What the file said about itself when it was opened.
        position: Byte offset of the next chunk.
        closed: Whether the last chunk read said that the recording ended there.

    Raises:
        TagFileError: if the file cannot be read or its beginning is damaged (unless ``"mark"``
            and some chunk is sound: then start, clock and metadata are unknown).
    """

    def __init__(
        self,
        path: str | Path,
        *,
        from_ps: int | None = None,
        damage: Literal["raise", "mark"] = "raise",
    ) -> None:
        self._path = Path(path)
        self._mark = damage == "mark"
        self.closed = False
        self._from_ps = from_ps
        self._step = (1, 1)
        self._end: int | None = None  # ticks, of the chunk before
        self._clicks = 0  # up to there
        try:
            with self._path.open("rb") as file:
                self.info, first, last = _survey(file, str(path), lenient=self._mark)
                self.position = first.at
                if from_ps is not None:
                    self.position = _seek(file, first, last, from_ps).at
        except OSError as error:
            raise TagFileError(f"cannot be read: {error.strerror}", path=str(path)) from error

    def __iter__(self) -> Iterator[TagBatch]:
        """Yield the batches from where the last iteration ended up to the file's end.

        Raises:
            TagFileError: at damage, with its byte offset, unless that is marked.
        """
        try:
            file = self._path.open("rb")
        except OSError as error:
            raise TagFileError(f"cannot be read: {error.strerror}", path=str(self._path)) from error
        with file:
            file.seek(self.position)
            while (batch := self._next(file)) is not None:
                if self._from_ps is not None:
                    if batch.end_ps <= self._from_ps:
                        continue
                    batch = batch.split(self._from_ps)[1]
                    self._from_ps = None
                yield batch

    def _next(self, file: BufferedReader) -> TagBatch | None:
        """Return the next batch and go past it; None at the end of what is complete."""
        while True:
            head = file.read(_HEAD.size)
            chunk: _Chunk | str = "no chunk begins here"
            if len(head) == _HEAD.size:
                chunk = _parse(head, self.position)
            elif head[:4] == _MAGIC[: len(head)]:
                return None
            wrong = chunk if isinstance(chunk, str) else self._misplaced(chunk)
            if not wrong and not isinstance(chunk, str):
                words = np.empty(chunk.size // 8 + 2, np.uint64)
                words[-2:] = 0  # the kernels look ahead
                payload = memoryview(words.data).cast("B")[: chunk.size]
                if file.readinto(payload) < chunk.size:
                    return None
                if zlib.crc32(payload) != chunk.checksum:
                    wrong = "the chunk that begins here does not match its checksum"
                elif chunk.kind != _CLICKS:
                    self._go(chunk.next, chunk, chunk.end, chunk.before)
                    continue
                else:
                    batch = self._batch(chunk, words)
                    if batch is not None:
                        self._go(chunk.next, chunk, chunk.end, chunk.before + chunk.clicks)
                        return batch
                    wrong = "the chunk that begins here does not hold what its head promises"
            if not self._mark:
                raise TagFileError(
                    f"{wrong}: the file is damaged; copy it again, or read on behind the damage"
                    ' with open_tags(path, damage="mark") (bellbench tags: --damage mark)',
                    path=str(self._path),
                    offset=self.position,
                )
            if isinstance(chunk, str) or self._misplaced(chunk):
                lost = self._skip(file)
            else:
                lost = self._lose(chunk.next, chunk, chunk.end, chunk.before + chunk.clicks)
            file.seek(self.position)
            if lost is None or lost.losses:
                return lost

    def _go(self, position: int, chunk: _Chunk, end: int, clicks: int) -> None:
        self.position = position
        self.closed = chunk.kind == _END
        self._step = (chunk.numerator, chunk.denominator)
        self._end, self._clicks = end, clicks

    def _misplaced(self, chunk: _Chunk) -> str:
        """Return what is wrong with a chunk's place in the row, or nothing."""
        if self._end is None:
            return ""
        if self._step != (chunk.numerator, chunk.denominator):
            return "the chunk that begins here has another time step"
        if chunk.begin < self._end or chunk.before < self._clicks:
            return "the chunk that begins here is earlier than the one before it"
        if chunk.begin > self._end or chunk.before > self._clicks:
            return "a chunk is missing before the one that begins here"
        return ""

    def _skip(self, file: BufferedReader) -> TagBatch | None:
        """Go to the next sound head that continues the row; return what was lost, if any is."""
        size = file.seek(0, 2)
        start = self.position
        while (chunk := _find(file, start, size)) is not None:
            if not self._misplaced(chunk).endswith(("step", "it")):
                return self._lose(chunk.at, chunk, chunk.begin, chunk.before)
            start = chunk.at + 1
        return None

    def _lose(self, position: int, chunk: _Chunk, end: int, clicks: int) -> TagBatch:
        """Go on at ``position``; return the interval up to there as lost."""
        begin = chunk.begin if self._end is None else self._end
        count = clicks - (self._clicks or 0)
        begin_ps, end_ps = (_scaled(t, chunk.numerator, chunk.denominator) for t in (begin, end))
        losses = (Loss("corrupt", begin_ps, end_ps, count),) if end > begin or count else ()
        self._go(position, chunk, end, clicks)
        empty = np.zeros(0, np.int64), np.zeros(0, np.int16)
        return TagBatch(
            *empty, begin_ps, end_ps, self.info.start_unix_ns, self.info.clock_id, losses
        )

    def _batch(self, chunk: _Chunk, words: Words) -> TagBatch | None:
        """Decode a chunk; None where it does not hold together."""
        clicks = _clicks(chunk, words)
        if clicks is None:
            return None
        times, channels, losses = clicks
        if chunk.denominator == 1:
            if chunk.numerator != 1:
                times *= chunk.numerator
        else:
            from ._kernels_bbt import scaled

            times = scaled(times, chunk.numerator, chunk.denominator)
        return TagBatch(
            times,
            channels,
            chunk.begin_ps,
            chunk.end_ps,
            self.info.start_unix_ns,
            self.info.clock_id,
            losses,
        )


def _clicks(chunk: _Chunk, words: Words) -> tuple[TimesPs, Channels, tuple[Loss, ...]] | None:
    """Unpack a payload, all of whose lengths are checked; times in ticks."""
    from ._kernels_bbt import BLOCK, WIDEST, read_fixed, read_groups, read_times

    data = words.view(np.uint8)
    if chunk.size < _PARTS.size:
        return None
    told, many, highs, group = _PARTS.unpack_from(data.data)
    count = chunk.clicks
    if group > WIDEST or many > min(count, 1 << 16) or (count and not many):
        return None
    at = _PARTS.size
    symbols = many**group if group else 0
    n_blocks = -(-count // BLOCK)
    ends = []
    for size in (told * _LOSS.size, 2 * many, symbols, n_blocks):
        ends.append(at + size)
        at += size + -size % 8
    if at > chunk.size or symbols > 256:
        return None
    losses = []
    for kind, begin, end, lost in _LOSS.iter_unpack(data[_PARTS.size : ends[0]].data):
        try:
            name = kind.rstrip(b"\0").decode()
        except UnicodeDecodeError:
            return None
        begin, end = (_scaled(t, chunk.numerator, chunk.denominator) for t in (begin, end))
        if begin > end or begin not in _INT64 or end not in _INT64:
            return None
        losses.append(Loss(name, begin, end, None if lost < 0 else lost))
    known = data[ends[1] - 2 * many : ends[1]].view("<i2").astype(np.int16)
    lengths = data[ends[2] - symbols : ends[2]]
    blocks = data[ends[3] - n_blocks : ends[3]]
    if n_blocks and int(blocks.max()) > 63:
        return None
    low = at // 8
    high = low
    if n_blocks:
        tail = (count - (n_blocks - 1) * BLOCK) * int(blocks[-1])
        high += 2 * int(blocks[:-1].sum(dtype=np.int64)) + -(-tail // 64)
    which, stop = high + highs, chunk.size // 8
    if which > stop:
        return None
    width = max(many - 1, 0).bit_length()
    if not group and which + -(-count * width // 64) != stop:
        return None
    times = np.empty(count, np.int64)
    channels = np.empty(count + WIDEST, np.int16)
    good = read_times(words, blocks, low, high, which, chunk.begin, chunk.end, times)
    if group:
        good &= read_groups(words, which, stop, lengths, known, group, channels)
    else:
        good &= read_fixed(words, which, width, known, channels[:count])
    return (times, channels[:count], tuple(losses)) if good else None


def _survey(
    file: BinaryIO, path: str, *, lenient: bool = False
) -> tuple[TagFileInfo, _Chunk, _Chunk]:
    """Describe a file; return also its first chunk and its last complete one."""
    size = file.seek(0, 2)
    file.seek(0)
    head = file.read(_HEAD.size)
    first = _parse(head, 0) if len(head) == _HEAD.size else "the file ends before its first chunk"
    said: Any = None
    if not isinstance(first, str):
        text = file.read(first.size) if first.kind == _START else b""
        if len(text) < first.size:
            first = "the file ends before its first chunk"
        elif first.kind != _START or zlib.crc32(text) != first.checksum:
            first = "the first chunk is damaged"
        else:
            with contextlib.suppress(ValueError, RecursionError):
                said = json.loads(text)
            if not _is_start(said):
                first = "the first chunk is not what the format asks for"
    if isinstance(first, str):
        found = _find(file, 0, size) if lenient else None
        if found is None:
            raise TagFileError(
                f"{first}; if the file is bbt and chunks behind are sound,"
                ' open_tags(path, "bbt", damage="mark") reads those'
                " (bellbench tags: --format bbt --damage mark)",
                path=path,
                offset=0,
            )
        first, said = found, {"start_unix_ns": 0, "clock_id": "", "metadata": {}}
    last = _find_last(file, size) or first
    info = TagFileInfo(
        "bbt",
        path,
        last.before + last.clicks,
        0,
        first.next,
        first.numerator / first.denominator,
        {
            "begin_ps": first.begin_ps,
            "end_ps": last.end_ps,
            "closed": last.kind == _END and last.next == size,
            "torn_bytes": size - last.next,
            "metadata": said["metadata"],
        },
        said["start_unix_ns"],
        said["clock_id"],
    )
    return info, first, last


def _is_start(said: Any) -> bool:
    return (
        isinstance(said, dict)
        and type(said.get("start_unix_ns")) is int
        and isinstance(said.get("clock_id"), str)
        and isinstance(said.get("metadata"), dict)
    )


def _seek(file: BinaryIO, first: _Chunk, last: _Chunk, time_ps: int) -> _Chunk:
    """Return the last chunk that begins at or before ``time_ps``, or the first."""
    low, stop = first, last.next
    while stop - low.next > _WINDOW:
        middle = (low.next + stop) // 2
        chunk = _find(file, middle, stop)
        if chunk is None or chunk.begin_ps > time_ps:
            stop = middle
        else:
            low = chunk
    while (chunk := _find(file, low.next, low.next + 1)) and chunk.begin_ps <= time_ps:
        low = chunk
    return low


class BbtCodec:
    """Reader and writer of the format, for `open_tags` and `create_tags`."""

    options = frozenset({"damage"})
    losses = frozenset({"overflow", "gap", "late", "corrupt", "clock"})

    def describe(self, path: Path, size: int, *, lenient: bool = False) -> TagFileInfo:
        """Describe a file from its first chunk, sound if not ``lenient``, and last complete one."""
        with path.open("rb") as file:
            return _survey(file, str(path), lenient=lenient)[0]

    def reader(self, info: TagFileInfo) -> BbtReader:
        """Return a reader of the file."""
        options = {name: info.header[name] for name in ("from_ps", "damage") if name in info.header}
        return BbtReader(info.path, **options)

    def read_batches(self, info: TagFileInfo, chunk_records: int) -> Iterator[TagBatch]:
        """Decode the complete chunks, one batch each, whatever ``chunk_records``."""
        return iter(self.reader(info))

    def writer(self, file: BinaryIO, about: About) -> BbtWriter:
        """Return a writer to an empty file."""
        return BbtWriter(file, **about._asdict())

    def plausible(self, head: bytes, size: int) -> bool:
        """Whether the head begins with the magic."""
        return head.startswith(_MAGIC)


BBT = BbtCodec()
