"""S-Fifteen / CQT timestamp cards: 64-bit events of a counter and a detector pattern.

Three layouts of two little-endian 32-bit words, ``high << 32 | low`` being the event:

- ``a1`` (TDC2, timestamp7; low word first): 54-bit time in 1/256 ns in bits 63-10, bits 9-5
  a mask that is not zero in real files, bit 4 = dummy (no event), bits 3-0 = detectors.
- ``a1x``: the same with the high word first (legacy option ``-X`` of readevents).
- ``s15raw`` (older cards): high word first, 49-bit time in 125 ps in bits 63-15, detectors in
  bits 3-0.

1/256 ns is 3.90625 ps: times are rounded to the nearest ps, halves up, each on its own, so
the rounding error stays below 0.5 ps and does not accumulate. Both counters turn over after
19.5 h, which is undone. Times count from the counter's own zero, not from the first event.
An event without any detector bit carries no click.

Sources: pyS15, fpfind, QKDServer.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from ..tags import TagBatch
from ._common import (
    Piece,
    RecordWriter,
    TagFileInfo,
    Unwrap,
    back_in_time,
    chunks,
    click_patterns,
    fixed_step,
    pattern_clicks,
    plain_info,
    to_ps,
)

__all__ = ["A1", "A1X", "RAW", "S15Codec"]

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

    def _events(self, words: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint64]:
        pairs = words.reshape(-1, 2).astype(np.uint64)
        high, low = (0, 1) if self.high_first else (1, 0)
        return pairs[:, high] << np.uint64(32) | pairs[:, low]

    def describe(self, path: Path, size: int) -> TagFileInfo:
        """Describe a file of this layout."""
        return plain_info(self.name, path, size, 8, self.resolution_ps)

    def read(self, info: TagFileInfo, chunk_records: int) -> Iterator[Piece]:
        """Decode the events."""
        unwrap = Unwrap(64 - self.time_shift)
        for first, words in chunks(info, "<u4", chunk_records):
            events = self._events(words)
            # Dummies keep no order with the clicks around them, and carry none.
            index = np.flatnonzero((events & np.uint64(_DUMMY)) == 0)
            events = events[index]
            ticks, bad = unwrap((events >> np.uint64(self.time_shift)).astype(np.int64))
            if bad >= 0:
                raise back_in_time(info, first + int(index[bad]))
            if ticks.size:
                times = to_ps(ticks, self.numerator, self.denominator)
                upto = int(times[-1])
                yield Piece(*pattern_clicks(times, events & np.uint64(0xF)), upto)

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
        high, low = events >> np.uint64(32), events & np.uint64(0xFFFFFFFF)
        first, second = (high, low) if self.high_first else (low, high)
        return np.stack([first, second], axis=1).astype("<u4").tobytes()

    def writer(
        self,
        file: BinaryIO,
        *,
        resolution_ps: float | None = None,
        start_unix_ns: int = 0,
        clock_id: str = "",
    ) -> RecordWriter:
        """Begin a file; it has no place for start and clock."""
        fixed_step(self.name, self.resolution_ps, resolution_ps)
        return RecordWriter(file, self.encode)

    def plausible(self, head: bytes, size: int) -> bool:
        """Whether the head decodes to events in order that all carry a detector or a dummy."""
        count = len(head) // 8
        if size % 8 or count < 4:
            return False
        events = self._events(np.frombuffer(head, "<u4", 2 * count))
        low = events & np.uint64(0x1F)
        if np.any((low == 0) | (low > _DUMMY)):
            return False
        fine = np.uint64((1 << 15) - 32)  # what only the newer cards fill in
        if self.high_first and bool(np.any(events & fine)) == (self is RAW):
            return False
        counter = (events[low < _DUMMY] >> np.uint64(self.time_shift)).astype(np.int64)
        ticks, bad = Unwrap(64 - self.time_shift)(counter)
        if ticks.size < 4 or bad >= 0:
            return False
        # TDC1 words in pairs are in order too, but would be hours apart.
        return bool((ticks[-1] - ticks[0]) * self.resolution_ps <= ticks.size * _RAREST_PS)


A1 = S15Codec("a1", False, 10, 125, 32)
A1X = S15Codec("a1x", True, 10, 125, 32)
RAW = S15Codec("s15raw", True, 15, 125, 1)
