"""Swabian Instruments raw records: 16 bytes each, as Dump and TimeTagStream buffers hold them.

Little-endian: u8 type, u8 reserved, u16 number of missed tags, i32 channel (negative = falling
edge), i64 time in ps. Types: 0 tag, 1 error, 2 overflow begins, 3 overflow ends, 4 missed tags.
Whole ps: nothing is rounded.

An overflow becomes a `Loss` of kind ``"overflow"``, with the missed tags counted in it. Missed
tags outside an overflow are placed between the record before and their own time. An error
record becomes a ``"corrupt"`` loss over the same interval. An overflow that never ends lasts to
the end of the file.

Source: Time Tagger manual 2.17.4.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ..tags import Loss, TagBatch
from ._common import (
    Piece,
    RecordWriter,
    TagFileInfo,
    back_in_time,
    chunks,
    error_at,
    fixed_step,
    plain_info,
)

__all__ = ["SWABIAN", "SwabianCodec"]

_RECORD = np.dtype(
    [("type", "u1"), ("reserved", "u1"), ("missed", "<u2"), ("channel", "<i4"), ("time", "<i8")]
)
_TAG, _ERROR, _BEGIN, _END, _MISSED = range(5)


class SwabianCodec:
    """Reader and writer of raw records."""

    begin_ps: int | None = None

    def describe(self, path: Path, size: int) -> TagFileInfo:
        """Describe a file of raw records."""
        return plain_info("swabian", path, size, 16, 1.0)

    def read(self, info: TagFileInfo, chunk_records: int) -> Iterator[Piece]:
        """Decode the records."""
        before: int | None = None  # time of the record before
        overflow: int | None = None  # since when tags are being lost
        missed = 0
        for first, records in chunks(info, _RECORD, chunk_records):
            kinds, times = records["type"], records["time"].astype(np.int64)
            if np.any(kinds > _MISSED):
                bad = int(np.argmax(kinds > _MISSED))
                raise error_at(
                    info,
                    first + bad,
                    f"record type {kinds[bad]} does not exist:"
                    " the file is damaged, or not of format swabian",
                )
            early = np.flatnonzero(times[1:] < times[:-1]) + 1
            if before is not None and times[0] < before:
                early = np.zeros(1, np.int64)
            if early.size:
                raise back_in_time(info, first + int(early[0]))
            losses: list[Loss] = []
            for i in np.flatnonzero(kinds != _TAG).tolist():
                kind, now, count = int(kinds[i]), int(times[i]), int(records["missed"][i])
                since = int(times[i - 1]) if i else now if before is None else before
                if kind == _ERROR:
                    losses.append(Loss("corrupt", since, now))
                elif kind == _BEGIN and overflow is None:
                    overflow, missed = now, 0
                elif kind == _END and overflow is not None:
                    losses.append(Loss("overflow", overflow, now, missed or None))
                    overflow = None
                elif kind == _END:
                    losses.append(Loss("overflow", since, now))
                elif kind == _MISSED and overflow is not None:
                    missed += count
                elif kind == _MISSED:
                    losses.append(Loss("overflow", since, now, count))
            before = int(times[-1])
            if overflow is not None:  # what is left of it belongs to the next batch
                losses.append(Loss("overflow", overflow, before, missed or None))
                overflow, missed = before, 0
            tags = kinds == _TAG
            channels = records["channel"][tags]
            far = np.abs(channels.astype(np.int64)) > np.iinfo(np.int16).max
            if np.any(far):
                bad = int(np.flatnonzero(tags)[np.argmax(far)])
                raise error_at(
                    info, first + bad, f"channel {records['channel'][bad]} cannot be one"
                )
            yield Piece(times[tags], channels.astype(np.int16), before, tuple(losses))

    def encode(self, batch: TagBatch) -> bytes:
        """Return the records of a batch, its losses included.

        Raises:
            ValueError: for losses of other kinds than overflow and corrupt.
        """
        records = np.zeros(len(batch), _RECORD)
        records["channel"], records["time"] = batch.channels, batch.times_ps
        extra = []
        for loss in batch.losses:
            if loss.kind == "corrupt":
                extra.append((_ERROR, 0, 0, 0, loss.end_ps))
            elif loss.kind == "overflow":
                extra.append((_BEGIN, 0, 0, 0, loss.begin_ps))
                count = loss.count or 0
                while count:
                    part = min(count, 0xFFFF)
                    extra.append((_MISSED, 0, part, 0, loss.end_ps))
                    count -= part
                extra.append((_END, 0, 0, 0, loss.end_ps))
            else:
                raise ValueError(f"raw records cannot hold a loss of kind {loss.kind!r}")
        records = np.concatenate([records, np.array(extra, _RECORD)])
        return records[np.argsort(records["time"], kind="stable")].tobytes()

    def writer(
        self,
        file: BinaryIO,
        *,
        resolution_ps: float | None = None,
        start_unix_ns: int = 0,
        clock_id: str = "",
    ) -> RecordWriter:
        """Begin a file; it has no place for start and clock."""
        fixed_step("swabian", 1.0, resolution_ps)
        return RecordWriter(file, self.encode)

    def plausible(self, head: bytes, size: int) -> bool:
        """Whether the head holds known types, channels, and times in order."""
        count = len(head) // 16
        if size % 16 or count < 4:
            return False
        records = np.frombuffer(head, _RECORD, count)
        times = records["time"]
        return bool(
            np.all(records["type"] <= _MISSED)
            and np.all(records["reserved"] == 0)
            and np.all(np.abs(records["channel"].astype(np.int64)) < 1000)
            and np.all(records["channel"][records["type"] == _TAG] != 0)
            and np.all(records["missed"][records["type"] != _MISSED] == 0)
            and times[0] >= 0
            and np.all(times[1:] >= times[:-1])
        )


SWABIAN = SwabianCodec()
