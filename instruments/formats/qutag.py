"""qutools quTAG and quTAU files, as the vendor's ``TDC_writeTimestamps`` makes them.

- ``qutag`` ("binary"): a header of 40 bytes that says nothing of use, then 10 bytes per tag,
  little-endian: u64 time, u16 channel.
- ``qutagraw`` ("raw"): the same without the header.
- ``qutau`` ("compressed"): the header, then 5 bytes per tag, little-endian: time in bits 36-0,
  channel in bits 39-37. The time turns over every 11 s; a turnover is taken from the nearest
  way round, so longer silence than 5 s is lost.

Times are whole ps in the 10-byte records of a quTAG, and steps of 81 ps in the 5-byte records;
older quTAU files hold their own steps in the 10-byte records too: say ``resolution_ps`` (the
vendor's ``TDC_getTimebase``). Channels are numbered from 0 as in the file; 100 and more are
marker inputs (104: a tick every ms). Tags are not quite in order of time in the file: they are
sorted, see `in_order`. The writer leaves the header zero: it is for the vendor's software alone.

Sources: tdcbase.h; 81 ps of the 5-byte records is (unverified).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
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
    error_at,
    in_order,
    plain_info,
    step_of,
    to_ps,
)

__all__ = ["QUTAG", "QUTAG_RAW", "QUTAU", "QutagCodec"]

_HEADER = 40
_LONG = np.dtype([("time", "<u8"), ("channel", "<u2")])
_SHORT = np.dtype([("low", "<u4"), ("high", "u1")])
_BITS = 37
_CHANNELS = 128  # 32 inputs, markers from 100 on
_FEWEST = 16


@dataclass(frozen=True, slots=True)
class QutagCodec:
    """Reader and writer of one of the files."""

    name: str
    header_bytes: int
    record: np.dtype[np.void]
    own_ps: float
    begin_ps: int | None = None
    options: frozenset[str] = frozenset({"resolution_ps"})

    def describe(self, path: Path, size: int) -> TagFileInfo:
        """Describe a file of tags."""
        return plain_info(
            self.name,
            path,
            size,
            self.record.itemsize,
            self.own_ps,
            data_offset=self.header_bytes,
        )

    def read(self, info: TagFileInfo, chunk_records: int) -> Iterator[Piece]:
        """Decode the tags."""
        yield from in_order(info, self._clicks(info, chunk_records))

    def _clicks(self, info: TagFileInfo, chunk_records: int) -> Iterator[Decoded]:
        step = step_of(info.resolution_ps)
        most = int(2.0**62 / info.resolution_ps)
        unwrap = Unwrap(_BITS, info.resolution_ps)
        for first, records in chunks(info, self.record, chunk_records):
            if self.record is _SHORT:
                ticks, channels = _split(records)
                ticks = unwrap(ticks)
                good = ticks.size
            else:
                times, channels = records["time"], records["channel"].astype(np.int64)
                wrong = np.flatnonzero((times > most) | (channels >= _CHANNELS))
                good = int(wrong[0]) if wrong.size else times.size
                ticks = times[:good].astype(np.int64)
            yield Decoded(
                to_ps(ticks, step.numerator, step.denominator),
                channels[:good].astype(np.int16),
                first + np.arange(good),
            )
            if good < records.size:
                raise error_at(
                    info,
                    first + good,
                    f"time {records['time'][good]} on channel {records['channel'][good]} cannot"
                    f" be: damaged, or not of format {info.format}",
                )

    def writer(self, file: BinaryIO, about: About) -> RecordWriter:
        """Begin a file; it has no place for start and clock."""
        step = step_of(self.own_ps if about.resolution_ps is None else about.resolution_ps)
        file.write(bytes(self.header_bytes))
        return RecordWriter(file, lambda batch: self._encode(batch, step))

    def _encode(self, batch: TagBatch, step: Fraction) -> bytes:
        ticks = to_ps(batch.times_ps, step.denominator, step.numerator)
        highest = 7 if self.record is _SHORT else _CHANNELS - 1
        if len(batch) and not (batch.channels.min() >= 0 and batch.channels.max() <= highest):
            raise ValueError(
                f"{self.name} holds channels 0..{highest}, not"
                f" {batch.channels.min()}..{batch.channels.max()}; choose channels"
            )
        if len(batch) and int(ticks[0]) < 0:
            raise ValueError(f"{self.name} holds no times before 0, as {batch.times_ps[0]} ps")
        records = np.zeros(len(batch), self.record)
        if self.record is _SHORT:
            words = (ticks & ((1 << _BITS) - 1)) | batch.channels.astype(np.int64) << _BITS
            records["low"], records["high"] = words & 0xFFFFFFFF, words >> 32
        else:
            records["time"], records["channel"] = ticks, batch.channels
        return records.tobytes()

    def plausible(self, head: bytes, size: int) -> bool:
        """Whether the head holds channels that exist, and times that mostly grow."""
        count = (len(head) - self.header_bytes) // self.record.itemsize
        begins = head[:_HEADER]
        if count < _FEWEST or (not self.header_bytes and not any(begins)):
            return False
        if self is QUTAG and QUTAG_RAW.plausible(head, size):  # the header is records, too
            return False
        records = np.frombuffer(head, self.record, count, self.header_bytes)
        if self.record is _SHORT:
            ticks, _ = _split(records)
            steps = np.diff(ticks)
            half = 1 << (_BITS - 1)
            steps = (steps + half) % (2 * half) - half
            # 60 clicks a second at least: in other files steps are anywhere in the 11 s.
            return bool(0 < np.abs(steps).mean() < half / 400 and steps.sum() > 0)
        times = records["time"]
        if np.any(times > 1 << 62) or np.any(records["channel"] >= _CHANNELS):
            return False
        steps = np.diff(times.astype(np.int64))
        sorted_enough = 4 * np.count_nonzero(steps < 0) <= count
        return bool(sorted_enough and steps.sum() > 0 and np.abs(steps).mean() < 1e13)


def _split(
    records: npt.NDArray[np.void],
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    words = records["low"].astype(np.int64) | records["high"].astype(np.int64) << 32
    return words & ((1 << _BITS) - 1), words >> _BITS


QUTAG = QutagCodec("qutag", _HEADER, _LONG, 1.0)
QUTAG_RAW = QutagCodec("qutagraw", 0, _LONG, 1.0)
QUTAU = QutagCodec("qutau", _HEADER, _SHORT, 81.0)
