"""S-Fifteen / CQT timestamp cards: 64-bit events of a counter and a detector pattern.

Three layouts of two little-endian 32-bit words, ``high << 32 | low`` being the event:

- ``a1`` (TDC2, timestamp7; low word first): 54-bit time in 1/256 ns in bits 63-10, bits 9-5
  a mask that is not zero in real files, bit 4 = dummy (no event), bits 3-0 = detectors.
- ``a1x``: the same with the high word first (legacy option ``-X`` of readevents).
- ``s15raw`` (older cards): high word first, 49-bit time in 125 ps in bits 63-15, detectors in
  bits 3-0.

As text, one number a line: ``a0`` is a1 in words of 8 hexadecimal digits, ``a2`` its events in
16 digits.

1/256 ns is 3.90625 ps: times are rounded to the nearest ps, halves up, each on its own, so
the rounding error stays below 0.5 ps and does not accumulate. Both counters turn over after
19.5 h, which is undone. Times count from the counter's own zero, not from the first event.
An event without any detector bit carries no click.

Sources: pyS15, fpfind, QKDServer.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from ..tags import TagBatch
from ._common import (
    About,
    Decoded,
    Piece,
    RecordWriter,
    TagFileInfo,
    Unwrap,
    chunks,
    click_patterns,
    error_at,
    fixed_step,
    in_order,
    pattern_bits,
    plain_info,
    to_ps,
)
from ._text import count_lines, hex_words

__all__ = ["A0", "A1", "A1X", "A2", "RAW", "S15Codec", "S15TextCodec"]

Events = tuple[npt.NDArray[np.int64], npt.NDArray[np.uint64]]  # records and events

_DUMMY = 0x10
_RAREST_PS = 1e13  # one event per 10 s; rarer is no recording


@dataclass(frozen=True, slots=True)
class S15Codec:
    """Reader and writer of one layout."""

    name: str
    high_first: bool
    time_shift: int
    numerator: int
    denominator: int
    begin_ps: int | None = None

    @property
    def resolution_ps(self) -> float:
        """Time step of the counter."""
        return self.numerator / self.denominator

    @property
    def _half(self) -> int:
        return 1 << (63 - self.time_shift)

    def _events(self, words: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
        """Return the events of words as in the file, or the other way round."""
        return words << np.uint64(32) | words >> np.uint64(32) if self.high_first else words

    def describe(self, path: Path, size: int) -> TagFileInfo:
        """Describe a file of this layout."""
        return plain_info(self.name, path, size, 8, self.resolution_ps)

    def read(self, info: TagFileInfo, chunk_records: int) -> Iterator[Piece]:
        """Decode the events."""
        words = chunks(info, "<u8", chunk_records)
        events = ((first + np.arange(w.size), self._events(w)) for first, w in words)
        yield from in_order(info, self.clicks(events))

    def clicks(self, pieces: Iterable[Events]) -> Iterator[Decoded]:
        """Return the clicks of events."""
        unwrap = Unwrap(64 - self.time_shift, self.resolution_ps)
        for records, events in pieces:
            # Dummies keep no order with the clicks around them, and carry none.
            clicks = (events & np.uint64(_DUMMY)) == 0
            if not clicks.all():
                records, events = records[clicks], events[clicks]
            ticks = unwrap((events >> np.uint64(self.time_shift)).astype(np.int64))
            times = to_ps(ticks, self.numerator, self.denominator)
            event, channels = pattern_bits(events)
            reached = int(times.max()) if times.size else None
            yield Decoded(times[event], channels, records[event], reached)

    def encode(self, batch: TagBatch) -> bytes:
        """Return the records of a batch, times rounded to the nearest step of the counter.

        Raises:
            ValueError: for channels other than 1..4 or times outside the counter.
        """
        ticks = to_ps(batch.times_ps, self.denominator, self.numerator)
        ticks, patterns = click_patterns(ticks, batch.channels)
        if ticks.size and not (ticks[0] >= 0 and int(ticks[-1]) < 1 << (64 - self.time_shift)):
            raise ValueError(f"times do not fit the {64 - self.time_shift}-bit counter")
        events = ticks.astype(np.uint64) << np.uint64(self.time_shift) | patterns.astype(np.uint64)
        return self._events(events).astype("<u8").tobytes()

    def writer(self, file: BinaryIO, about: About) -> RecordWriter:
        """Begin a file; it has no place for start and clock."""
        fixed_step(self.name, self.resolution_ps, about.resolution_ps)
        return RecordWriter(file, self.encode)

    def plausible(self, head: bytes, size: int) -> bool:
        """Whether the head decodes to events in order that all carry a detector or a dummy."""
        count = len(head) // 8
        if count < 4:
            return False
        events = self._events(np.frombuffer(head, "<u8", count))
        low = events & np.uint64(0x1F)
        if np.any((low == 0) | (low > _DUMMY)):
            return False
        fine = np.uint64((1 << 15) - 32)  # what only the newer cards fill in
        if self.high_first and bool(np.any(events & fine)) == (self is RAW):
            return False
        ticks = (events[low < _DUMMY] >> np.uint64(self.time_shift)).astype(np.int64)
        if ticks.size < 4:
            return False
        # Merged files are out of order in places, files of another format everywhere.
        steps = np.diff(ticks)
        steps = (steps + self._half) % (2 * self._half) - self._half
        back = np.count_nonzero(steps < 0)
        span = float(np.abs(steps).sum(dtype=np.float64))
        # TDC1 words in pairs are in order too, but would be hours apart.
        return bool(
            10 * back <= steps.size and span * self.resolution_ps <= ticks.size * _RAREST_PS
        )


@dataclass(frozen=True, slots=True)
class S15TextCodec:
    """Reader and writer of a1 events as hexadecimal text."""

    name: str
    digits: int
    begin_ps: int | None = None

    def describe(self, path: Path, size: int) -> TagFileInfo:
        """Describe a file of this layout; its lines are counted."""
        info = plain_info(self.name, path, size, self.digits, A1.resolution_ps)
        return replace(info, records=count_lines(path) * self.digits // 16, record_bytes=0)

    def read(self, info: TagFileInfo, chunk_records: int) -> Iterator[Piece]:
        """Decode the events."""
        yield from in_order(info, A1.clicks(self._events(info, chunk_records)))

    def _events(self, info: TagFileInfo, chunk_records: int) -> Iterator[Events]:
        held: Events = np.zeros(0, np.int64), np.zeros(0, np.uint64)
        for offsets, words in hex_words(info, self.digits, chunk_records):
            if self.digits == 16:
                yield offsets, words
                continue
            offsets = np.concatenate([held[0], offsets])
            words = np.concatenate([held[1], words])
            pairs = words.size // 2 * 2
            held = offsets[pairs:], words[pairs:]
            yield offsets[:pairs:2], words[1:pairs:2] << np.uint64(32) | words[:pairs:2]
        if held[0].size:
            raise error_at(
                info, int(held[0][0]), "the last event is cut off: the file is truncated"
            )

    def writer(self, file: BinaryIO, about: About) -> RecordWriter:
        """Begin a file; it has no place for start and clock."""
        fixed_step(self.name, A1.resolution_ps, about.resolution_ps)
        return RecordWriter(file, self._encode)

    def _encode(self, batch: TagBatch) -> bytes:
        size = self.digits // 2
        words = np.frombuffer(A1.encode(batch), f"<u{size}").astype(f">u{size}")
        return (words.tobytes().hex("\n", size) + "\n" * bool(words.size)).encode()

    def plausible(self, head: bytes, size: int) -> bool:
        """Whether the head is lines of so many digits that make sensible events."""
        lines = head[: head.rfind(b"\n") + 1].split()
        if any(len(line) != self.digits for line in lines):
            return False
        try:
            words = bytes.fromhex(b"".join(lines).decode("ascii"))
        except ValueError:
            return False
        return A1.plausible(np.frombuffer(words, f">u{self.digits // 2}").byteswap().tobytes(), 0)


A1 = S15Codec("a1", False, 10, 125, 32)
A1X = S15Codec("a1x", True, 10, 125, 32)
RAW = S15Codec("s15raw", True, 15, 125, 1)
A0 = S15TextCodec("a0", 8)
A2 = S15TextCodec("a2", 16)
