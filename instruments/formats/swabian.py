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
    About,
    Decoded,
    Piece,
    RecordWriter,
    TagFileInfo,
    chunks,
    error_at,
    fixed_step,
    in_order,
    plain_info,
)

__all__ = ["SWABIAN", "SwabianCodec"]

_RECORD = np.dtype(
    [("type", "u1"), ("reserved", "u1"), ("missed", "<u2"), ("channel", "<i4"), ("time", "<i8")]
)
_TAG, _ERROR, _BEGIN, _END, _MISSED = range(5)
_LATEST_PS = 1 << 62


class _Encoder:
    """Makes the records of batches; a loss that spans several begins and ends once."""

    def __init__(self) -> None:
        self._open: Loss | None = None

    def __call__(self, batch: TagBatch) -> bytes:
        records = np.zeros(len(batch), _RECORD)
        records["channel"], records["time"] = batch.channels, batch.times_ps
        extra = []
        for loss in batch.losses:
            if loss.kind not in SwabianCodec.losses:
                continue
            ends = loss.end_ps <= batch.end_ps
            if loss.kind == "corrupt":
                if ends:
                    extra.append((_ERROR, 0, 0, 0, loss.end_ps))
                continue
            if self._open != loss:
                extra.append((_BEGIN, 0, 0, 0, max(loss.begin_ps, batch.begin_ps)))
            self._open = None if ends else loss
            if not ends:
                continue
            count = loss.count or 0
            while count:
                part = min(count, 0xFFFF)
                extra.append((_MISSED, 0, part, 0, loss.end_ps))
                count -= part
            extra.append((_END, 0, 0, 0, loss.end_ps))
        records = np.concatenate([records, np.array(extra, _RECORD)])
        return bytes(records[np.argsort(records["time"], kind="stable")].tobytes())


class SwabianCodec:
    """Reader and writer of raw records."""

    begin_ps: int | None = None
    losses = frozenset({"overflow", "corrupt"})

    def describe(self, path: Path, size: int) -> TagFileInfo:
        """Describe a file of raw records."""
        return plain_info("swabian", path, size, 16, 1.0)

    def read(self, info: TagFileInfo, chunk_records: int) -> Iterator[Piece]:
        """Decode the records."""
        yield from in_order(info, self._clicks(info, chunk_records))

    def _clicks(self, info: TagFileInfo, chunk_records: int) -> Iterator[Decoded]:
        before: int | None = None  # latest time of the records before
        overflow: int | None = None  # since when tags are being lost
        missed = 0
        for first, whole in chunks(info, _RECORD, chunk_records):
            far = np.abs(whole["channel"].astype(np.int64)) > np.iinfo(np.int16).max
            far &= whole["type"] == _TAG
            # Other records than tags have a time, too.
            late = (whole["time"] > _LATEST_PS) | (whole["time"] < -_LATEST_PS)
            wrong = np.flatnonzero((whole["type"] > _MISSED) | far | late)
            records = whole[: wrong[0]] if wrong.size else whole
            kinds, times = records["type"], records["time"].astype(np.int64)
            losses: list[Loss] = []
            for i in np.flatnonzero(kinds != _TAG).tolist():
                kind, now, count = int(kinds[i]), int(times[i]), int(records["missed"][i])
                since = int(times[i - 1]) if i else now if before is None else before
                since = min(since, now)
                if kind == _ERROR:
                    losses.append(Loss("corrupt", since, now))
                elif kind == _BEGIN and overflow is None:
                    overflow, missed = now, 0
                elif kind == _END and overflow is not None:
                    losses.append(Loss("overflow", overflow, max(overflow, now), missed or None))
                    overflow = None
                elif kind == _END:
                    losses.append(Loss("overflow", since, now))
                elif kind == _MISSED and overflow is not None:
                    missed += count
                elif kind == _MISSED:
                    losses.append(Loss("overflow", since, now, count))
            before = int(times[-1]) if times.size else before
            index = np.flatnonzero(kinds == _TAG)
            yield Decoded(
                times[index],
                records["channel"][index].astype(np.int16),
                first + index,
                int(times.max()) if times.size else None,
                tuple(losses),
                overflow,
            )
            if wrong.size:
                at = int(wrong[0])
                if whole["type"][at] > _MISSED:
                    what = f"record type {whole['type'][at]} does not exist"
                elif far[at]:
                    what = f"channel {whole['channel'][at]} cannot be one"
                else:
                    what = "its time lies months away"
                raise error_at(
                    info, first + at, f"{what}: the file is damaged, or not of format swabian"
                )

    def writer(self, file: BinaryIO, about: About) -> RecordWriter:
        """Begin a file; it has no place for start and clock.

        Losses of other kinds than overflow and corrupt have no place either. An error record has
        no beginning: read again, such a loss begins at the record before it.
        """
        fixed_step("swabian", 1.0, about.resolution_ps)
        return RecordWriter(file, _Encoder())

    def plausible(self, head: bytes, size: int) -> bool:
        """Whether the head holds known types, channels, and times in order."""
        count = len(head) // 16
        if count < 4:
            return False
        records = np.frombuffer(head, _RECORD, count)
        times = records["time"]
        return bool(
            np.all(records["type"] <= _MISSED)
            and np.all(records["reserved"] == 0)
            and np.all(np.abs(records["channel"].astype(np.int64)) < 1000)
            and np.all(records["channel"][records["type"] == _TAG] != 0)
            and np.all(records["missed"][records["type"] != _MISSED] == 0)
            and np.all(times >= 0)
            and 10 * np.count_nonzero(times[1:] < times[:-1]) <= count
        )


SWABIAN = SwabianCodec()
