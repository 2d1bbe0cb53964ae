"""PicoQuant PTU, T2 mode: a header of named tags, then 32-bit records.

Records are decoded by the ``ptufile`` library; the header is walked here first, because a
damaged one must not make anybody allocate what it claims. Channels are numbered as in the file:
input n of the instrument (counted from 1) is channel n-1. The sync input of HydraHarp, TimeHarp
and MultiHarp is channel -1 (ptufile gives it the same number as the first input); for the
PicoHarp 300 it is channel 0. Markers are not clicks and are left out. Time counts from the start
of the measurement; whole ticks of ``MeasDesc_GlobalResolution``, which is rounded to the nearest
ps where it is not whole (halves up, no accumulation).

Sources: PicoQuant's file-format demos; ptufile 2026.2.6.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ..errors import TagFileError
from ._common import Piece, TagFileInfo, back_in_time, chunks, error_at, to_ps

__all__ = ["PTU", "PtuCodec"]

_MAGIC = b"PQTTTR\0\0"
_SIZED = {0x2001FFFF, 0x4001FFFF, 0x4002FFFF, 0xFFFFFFFF}  # value = length of the data behind it
_FIXED = {0xFFFF0008, 0x00000008, 0x10000008, 0x11000008, 0x12000008, 0x20000008, 0x21000008}
_T2 = {
    0x00010203: "PicoHarp 300",
    0x00010204: "HydraHarp 1",
    0x01010204: "HydraHarp 2",
    0x00010205: "TimeHarp 260N",
    0x00010206: "TimeHarp 260P",
    0x00010207: "MultiHarp, PicoHarp 330",
}
_PICOHARP = 0x00010203
_LATEST_PS = 4e18  # 46 days; int64 ends at 9.2e18


class PtuCodec:
    """Reader of T2 files."""

    begin_ps: int | None = 0

    def describe(self, path: Path, size: int) -> TagFileInfo:
        """Check the header and that the file holds exactly the records it announces."""
        with path.open("rb") as file:
            offset = _header_end(file, path, size)
            tags = _open(file, path).tags
        kind = _integer(tags, "TTResultFormat_TTTRRecType", path)
        if kind not in _T2 or tags.get("Measurement_Mode") != 2:
            t3 = tags.get("Measurement_Mode") == 3 or kind & 0xFF00 == 0x0300
            raise TagFileError(
                "this is a T3 (pulsed laser) recording; only T2 can be read: record in T2 mode,"
                " with the laser's sync as a channel"
                if t3
                else f"record type {kind:#010x} is not a known T2 type",
                path=str(path),
            )
        bits = tags.get("TTResultFormat_BitsPerRecord")
        if bits not in (None, 0, 32):
            raise TagFileError(f"{bits} bits per record, T2 has 32: damaged header", path=str(path))
        tick_ps = tags.get("MeasDesc_GlobalResolution", math.nan)
        tick_ps = tick_ps * 1e12 if isinstance(tick_ps, float) else math.nan
        if not (math.isfinite(tick_ps) and 1e-3 <= tick_ps <= 1e9):
            raise TagFileError(
                f"a time step of {tick_ps:g} ps cannot be; the header is damaged", path=str(path)
            )
        claimed = _integer(tags, "TTResult_NumberOfRecords", path)
        held, rest = divmod(size - offset, 4)
        if claimed != held or rest:
            lacking = claimed > held
            raise TagFileError(
                f"the header announces {claimed} records, but {held} whole ones"
                + (f" and {rest} bytes" if rest else "")
                + " follow it: "
                + (
                    "the file is truncated; copy it again"
                    if lacking
                    else "the measurement was not closed properly or the header is damaged;"
                    " repair it with the vendor's software"
                ),
                path=str(path),
                offset=size if lacking else offset + 4 * max(claimed, 0),
            )
        return TagFileInfo("ptu", str(path), held, 4, offset, tick_ps, tags)

    def read(self, info: TagFileInfo, chunk_records: int) -> Iterator[Piece]:
        """Decode the records."""
        kind = info.header["TTResultFormat_TTTRRecType"]
        time_mask = 0x0FFFFFFF if kind == _PICOHARP else 0x01FFFFFF
        step = Fraction(info.resolution_ps).limit_denominator(1 << 16)
        base = last = 0
        path = Path(info.path)
        with path.open("rb") as file:
            decoder = _open(file, path)
            for first, records in chunks(info, "<u4", chunk_records):
                code = records >> 25
                if kind != _PICOHARP and np.any((code > 0x4F) & (code < 0x7F)):
                    bad = int(np.argmax((code > 0x4F) & (code < 0x7F)))
                    raise error_at(
                        info, first + bad, "a special record of unknown meaning: damaged file"
                    )
                decoded = decoder.decode_records(records)
                # ptufile counts overflows from zero in each call; an overflow record's time
                # includes its own time field.
                ticks = decoded["time"].astype(np.int64) + base
                base = int(ticks[-1]) - (int(records[-1]) & time_mask)
                if int(ticks.max()) * info.resolution_ps > _LATEST_PS or int(ticks.min()) < 0:
                    bad = int(np.argmax((ticks < 0) | (ticks * info.resolution_ps > _LATEST_PS)))
                    raise error_at(info, first + bad, "its time lies years ahead: damaged file")
                channels = decoded["channel"].astype(np.int16)
                index = np.flatnonzero(channels >= 0)
                if kind != _PICOHARP:
                    channels[code == 0x40] = -1
                times = ticks[index]
                early = np.flatnonzero(np.diff(times, prepend=last) < 0)
                if early.size:
                    raise back_in_time(info, first + int(index[early[0]]))
                last = max(base, int(times[-1]) if times.size else 0)
                times = to_ps(ticks[index], step.numerator, step.denominator)
                upto = to_ps(np.array([last]), step.numerator, step.denominator)
                yield Piece(times, channels[index], int(upto[0]))

    def plausible(self, head: bytes, size: int) -> bool:
        """Whether the file begins with PicoQuant's magic."""
        return head.startswith(_MAGIC)


def _header_end(file: BinaryIO, path: Path, size: int) -> int:
    """Return the offset of the first record after checking every tag's type and length."""
    if file.read(8) != _MAGIC:
        raise TagFileError("does not begin with PQTTTR: not a PTU file", path=str(path), offset=0)
    offset = 16
    while True:
        file.seek(offset)
        tag = file.read(48)
        if len(tag) < 48:
            raise TagFileError(
                "the file ends inside its header: truncated; copy it again",
                path=str(path),
                offset=size,
            )
        name, _, kind, value = struct.unpack("<32siIq", tag)
        offset += 48
        if name.rstrip(b"\0") == b"Header_End":
            return offset
        if kind in _SIZED:
            if not 0 <= value <= size - offset:
                raise TagFileError(
                    f"header entry {name.rstrip(bytes(1))[:32]!r} claims {value} bytes of data,"
                    f" {size - offset} are left: damaged header or truncated file",
                    path=str(path),
                    offset=offset - 8,
                )
            offset += value
        elif kind not in _FIXED:
            raise TagFileError(
                f"header entry {name.rstrip(bytes(1))[:32]!r} has unknown type {kind:#010x}:"
                " damaged header",
                path=str(path),
                offset=offset - 12,
            )


def _open(file: BinaryIO, path: Path) -> Any:
    import ptufile

    file.seek(0)
    try:
        return ptufile.PtuFile(file)
    except ValueError as error:  # PqFileError, UnicodeDecodeError
        raise TagFileError(f"damaged header: {error}", path=str(path)) from error


def _integer(tags: dict[str, Any], name: str, path: Path) -> int:
    value = tags.get(name)
    if isinstance(value, bool) or not isinstance(value, int):
        raise TagFileError(f"the header has no usable {name}: damaged header", path=str(path))
    return value


PTU = PtuCodec()
