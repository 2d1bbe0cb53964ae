"""PicoQuant PTU: a header of named tags, then 32-bit records. Reads T2 and T3, writes T2.

**Channels** are numbered as in the file: input n of the instrument (counted from 1) is channel
n-1. The sync input of HydraHarp, TimeHarp, MultiHarp and PicoHarp 330 is channel -1 (ptufile gives
it the same number as the first input). The PicoHarp 300 counts its inputs from 0, where 0 is the
sync input, and so do we: 0..4 (ptufile: one less, in T3 only).

**Markers** are not clicks and are left out: the vendor states them to some ns only, and they may
stand out of order among the clicks.

**T2**: whole ticks of ``MeasDesc_GlobalResolution`` since the start, each rounded to the nearest
ps (halves up, no accumulation).

**T3**: a click is stored as the number of the sync (laser) period and the delay since that sync.
Its time is ``number * MeasDesc_GlobalResolution + delay * MeasDesc_Resolution``, as PicoQuant
states it (snAPI's ``abs_T3`` too; ptufile and the demos give the two apart), rounded once. The sync
itself is no channel: sync k lies at k periods by definition, so the laser's own jitter and drift
cannot be seen. The period in the header is one over the sync rate measured at the start, in whole
Hz: for 80 MHz it may be off by 6e-9, and all times with it, by 6 ns in every second; delays within
a period are not. Clicks of one period need not stand in order in the file; here they do, delays
longer than a period included. ``header["Measurement_Mode"]`` is 3.

**Damage**: all clicks before it are yielded, then a `TagFileError` names the byte. Where the
number of records is not the one the header promises, all whole records of the file are read first.

**Cost**: 3 to 5 ns per record from file to batch, half of what ptufile takes; memory some 20 bytes
per record of one chunk, whatever the file's length. The first click ever compiles for about 1 s;
the result is kept on disk, and later processes load it, and numba, in some 0.7 s.

Sources: PicoQuant's Time-Tagged-File-Format-Demos (PTU/Python, doc/apx_tttrrecords.html).
"""

from __future__ import annotations

import os
import struct
import time
import uuid
from collections.abc import Iterator
from datetime import datetime, timedelta
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from ..errors import TagFileError
from ..tags import TagBatch
from ._common import About, Following, TagFileInfo, back_in_time, error_at

__all__ = ["PTU", "PtuCodec", "PtuWriter"]

_MAGIC = b"PQTTTR\0\0"
_EMPTY, _BOOL, _INT, _FLOAT, _DATE = 0xFFFF0008, 0x00000008, 0x10000008, 0x20000008, 0x21000008
_BITS, _COLOR = 0x11000008, 0x12000008
_FLOATS, _ANSI, _WIDE, _BLOB = 0x2001FFFF, 0x4001FFFF, 0x4002FFFF, 0xFFFFFFFF
_SIZED = {_FLOATS, _ANSI, _WIDE, _BLOB}  # value = length of the data behind it
_FIXED = {_EMPTY, _BOOL, _INT, _BITS, _COLOR, _FLOAT, _DATE}
_HEADER_BYTES = 1 << 26  # real headers have some kB; with a preview picture, some MB
_LATEST_PS = 4 * 10**18  # 46 days; int64 ends at 9.2e18
_MOST_AT_ONCE = 1 << 20


class _Kind(NamedTuple):
    """A type of record."""

    device: str
    mode: int
    picoharp: bool = False
    version: int = 2
    unit: int = 33554432  # ticks of an overflow, T2

    @property
    def shift(self) -> int:
        """Bits below the code."""
        return 28 if self.picoharp else 25

    def meaning(self) -> np.ndarray[Any, np.dtype[np.int16]]:
        """Channel of each code, or what else the kernels take it for."""
        from ._kernels_ptu import MARKER, OVERFLOW, UNKNOWN

        codes = np.full(1 << (32 - self.shift), UNKNOWN, np.int16)
        if self.picoharp:
            first = 0 if self.mode == 2 else 1
            codes[first:5] = np.arange(first, 5)
        else:
            codes[:64] = np.arange(64)
            codes[65:80] = MARKER
            if self.mode == 2:
                codes[64] = -1
        codes[-1] = OVERFLOW
        return codes


_KINDS = {
    0x00010203: _Kind("PicoHarp 300", 2, picoharp=True, version=1, unit=210698240),
    0x00010303: _Kind("PicoHarp 300", 3, picoharp=True, version=1),
    0x00010204: _Kind("HydraHarp 1", 2, version=1, unit=33552000),
    0x00010304: _Kind("HydraHarp 1", 3, version=1),
    0x01010204: _Kind("HydraHarp 2", 2),
    0x01010304: _Kind("HydraHarp 2", 3),
    0x00010205: _Kind("TimeHarp 260N", 2),
    0x00010305: _Kind("TimeHarp 260N", 3),
    0x00010206: _Kind("TimeHarp 260P", 2),
    0x00010306: _Kind("TimeHarp 260P", 3),
    0x00010207: _Kind("MultiHarp, PicoHarp 330", 2),
    0x00010307: _Kind("MultiHarp, PicoHarp 330", 3),
}
_GENERIC_T2 = 0x00010207


class PtuCodec:
    """Reader of T2 and T3 files, writer of T2 files."""

    def describe(self, path: Path, size: int) -> TagFileInfo:
        """Check the header. ``resolution_ps`` is the tick in T2, the step of the delay in T3."""
        with path.open("rb") as file:
            tags, places, offset = _read_header(file, path, size)

        def damaged(name: str, what: str) -> TagFileError:
            # an entry that is missing is missing at the end
            at = places.get(name, offset - 48)
            return TagFileError(f"{what}: damaged header", path=str(path), offset=at)

        for name in ("TTResultFormat_TTTRRecType", "TTResult_NumberOfRecords"):
            if isinstance(tags.get(name), bool) or not isinstance(tags.get(name), int):
                raise damaged(name, f"there is no usable {name}")
        number = tags["TTResultFormat_TTTRRecType"]
        if number not in _KINDS:
            raise damaged(
                "TTResultFormat_TTTRRecType", f"record type {number:#010x} is not a known one"
            )
        mode = _KINDS[number].mode
        if tags.get("Measurement_Mode") != mode:
            raise damaged(
                "Measurement_Mode",
                f"records of mode T{mode} in a measurement of mode {tags.get('Measurement_Mode')}",
            )
        bits = tags.get("TTResultFormat_BitsPerRecord")
        if bits not in (None, 0, 32):
            raise damaged("TTResultFormat_BitsPerRecord", f"{bits} bits per record, not 32")
        steps = {"MeasDesc_GlobalResolution": 1e-3 if mode == 2 else 10.0}
        if mode == 3:
            steps["MeasDesc_Resolution"] = 1e-3
        for name, most in steps.items():
            seconds = tags.get(name)
            if not (isinstance(seconds, float) and 1e-15 <= seconds <= most):  # NaN neither
                raise damaged(name, f"{name} of {seconds} s cannot be a time step")
        step_ps = float(_picoseconds(tags[[*steps][-1]]))
        start, clock = tags.get(_START), tags.get(_CLOCK)
        return TagFileInfo(
            "ptu",
            str(path),
            (size - offset) // 4,
            4,
            offset,
            step_ps,
            tags,
            start if isinstance(start, int) else 0,
            clock if isinstance(clock, str) else "",
        )

    def read_batches(self, info: TagFileInfo, chunk_records: int) -> Iterator[TagBatch]:
        """Decode the records."""
        chunk_records = max(chunk_records, 1)
        path = Path(info.path)
        stream = _Stream(info)
        buffer = bytearray(4 * min(chunk_records, info.records))
        with path.open("rb", buffering=0) as file:
            file.seek(info.data_offset)
            done = 0
            while done < info.records:
                want = min(chunk_records, info.records - done)
                got = _fill(file, memoryview(buffer)[: 4 * want])
                error = None
                if got < 4 * want:
                    error = TagFileError(
                        "the file became shorter while it was read; is it still being written?",
                        path=info.path,
                        offset=info.data_offset + 4 * done + got,
                    )
                damage = stream.decode(np.frombuffer(buffer, "<u4", got // 4), done)
                done += want
                error = damage or error
                if error is None and done == info.records:
                    break
                yield stream.take(last=error is not None)
                if error is not None:
                    raise error
        yield stream.take(last=True)
        _check_promise(info, path.stat().st_size)

    def writer(self, file: BinaryIO, about: About) -> PtuWriter:
        """Begin a T2 file; see `PtuWriter`."""
        return PtuWriter(
            file,
            resolution_ps=about.resolution_ps,
            start_unix_ns=about.start_unix_ns,
            clock_id=about.clock_id,
        )

    def plausible(self, head: bytes, size: int) -> bool:
        """Whether the file begins with PicoQuant's magic."""
        return head.startswith(_MAGIC)


class _Stream:
    """Decodes chunk by chunk; holds back the clicks that may still get company."""

    def __init__(self, info: TagFileInfo) -> None:
        self._info = info
        tags = info.header
        kind = self._kind = _KINDS[tags["TTResultFormat_TTTRRecType"]]
        self._meaning = kind.meaning()
        self._step = _fixed_point(_picoseconds(tags["MeasDesc_GlobalResolution"]))
        self._delay = (0, 0)
        if kind.mode == 3:
            self._delay = _fixed_point(_picoseconds(tags["MeasDesc_Resolution"]))
        self._limit = min(_LATEST_PS // max(self._step[0], 1), _LATEST_PS)
        self._state = np.zeros(4, np.int64)
        self._times, self._channels = np.empty(0, np.int64), np.empty(0, np.int16)
        self._begin = 0

    def decode(self, records: np.ndarray[Any, Any], first: int) -> TagFileError | None:
        """Decode records, of which the first is number ``first``; return the damage in them."""
        from . import _kernels_ptu as kernels

        kind, held = self._kind, self._times.size
        times = np.empty(held + records.size, np.int64)
        channels = np.empty(held + records.size, np.int16)
        times[:held], channels[:held] = self._times, self._channels
        if kind.mode == 2:
            filled = kernels.decode_t2(
                records,
                self._meaning,
                kind.shift,
                0xF if kind.picoharp else 0,
                kind.unit,
                kind.version == 1,
                *self._step,
                self._limit,
                self._state,
                times,
                channels,
                held,
            )
        else:
            filled = kernels.decode_t3(
                records,
                self._meaning,
                kind.shift,
                16 if kind.picoharp else 10,
                kind.picoharp,
                kind.version == 1,
                *self._step,
                *self._delay,
                self._limit,
                self._state,
                times,
                channels,
                held,
            )
        self._times, self._channels = times[:filled], channels[:filled]
        if kind.mode == 3 and bool(np.any(self._times[1:] < self._times[:-1])):
            order = np.argsort(self._times, kind="stable")
            self._times, self._channels = self._times[order], self._channels[order]
        bad, why = first + int(self._state[2]), int(self._state[3])
        if why == kernels.BAD_CODE:
            return error_at(self._info, bad, "a special record of unknown meaning: damaged file")
        if why == kernels.TOO_LATE:
            return error_at(self._info, bad, "its time lies years ahead: damaged file")
        if why == kernels.BACK:
            return back_in_time(self._info, bad)
        if held > _MOST_AT_ONCE:
            return error_at(
                self._info, first, f"more than {_MOST_AT_ONCE} clicks at one time: damaged file"
            )
        return None

    def take(self, *, last: bool) -> TagBatch:
        """Return the clicks that are complete; with ``last`` all, up to 1 ps after the last."""
        from ._kernels_ptu import PLACES

        whole, fraction = self._step
        upto = (
            int(self._state[1]) * ((whole << PLACES) + fraction) + (1 << (PLACES - 1))
        ) >> PLACES
        times, channels = self._times, self._channels
        ready = times.size
        if last:
            upto = max(upto, int(times[-1]) if times.size else 0) + 1
        else:
            ready = int(np.searchsorted(times, upto))
        batch = TagBatch(
            times[:ready],
            channels[:ready],
            self._begin,
            upto,
            self._info.start_unix_ns,
            self._info.clock_id,
        )
        self._times, self._channels = times[ready:].copy(), channels[ready:].copy()
        self._begin = upto
        return batch


_START, _CLOCK = "Bellbench_StartUnixNs", "Bellbench_ClockId"
_COMMENT_BYTES = 256
_WRITE_RECORDS = 1 << 20
_CHANNELS = range(-1, 64)


class PtuWriter:
    """Writes a PTU file of type T2, generic records, as of a MultiHarp.

    Holds channels -1 (sync) and 0..63 and times from 0 on, for 46 days. ptufile, phconvert,
    tttrlib and snAPI read the same clicks from it; their numbers of a channel differ (ptufile
    gives -1 and 0 the same number). The file lasts to the end of the last batch, by overflow
    records. Losses find no place in the format: their number and length stand in
    ``File_Comment``. ``start_unix_ns`` and ``clock_id`` are kept in tags of our own; the first is
    ``File_CreatingTime`` too (UTC; where it is unknown, the time of writing).

    Costs about 7 ns per click; memory bounded by the batch. A silence takes one record per 4.3 ms
    (at 1 ps), because ptufile misreads longer ones: snAPI, phconvert, tttrlib and we do not. Until
    `finish`, the header promises 0 records.

    Args:
        file: Seekable; the header is completed at the end.
        resolution_ps: Length of a tick, 1 to 1e9 ps; None: 1 ps. Times are rounded to it,
            halves up.
        start_unix_ns: Host time of the start, ns since the Unix epoch; 0: unknown.
        clock_id: Name of the clock.

    Raises:
        ValueError: for another resolution.
    """

    def __init__(
        self,
        file: BinaryIO,
        *,
        resolution_ps: float | None = None,
        start_unix_ns: int = 0,
        clock_id: str = "",
    ) -> None:
        resolution = 1.0 if resolution_ps is None else float(resolution_ps)
        if not 1 <= resolution <= 1e9:  # NaN too
            raise ValueError(f"a PTU file has a time step of 1 to 1e9 ps, not {resolution:g}")
        self._file = file
        self._tick = _nice(resolution).limit_denominator(1 << 16)
        self._follow = Following()
        self._turns = self._records = self._inputs = self._losses = self._lost_ps = 0
        self._places: dict[str, int] = {}
        created = start_unix_ns or time.time_ns()
        self._origin = file.tell()
        file.write(self._header(float(self._tick) * 1e-12, created, start_unix_ns, clock_id))

    def write(self, batch: TagBatch) -> None:
        """Append a batch that follows on the one before.

        Raises:
            ValueError: for a channel or time that the format cannot hold; nothing is written.
        """
        from ._kernels_ptu import encode_t2

        self._follow.check(batch)
        ticks, channels = self._ticks(batch), batch.channels
        if ticks.size:
            strange = np.flatnonzero((channels < _CHANNELS[0]) | (channels > _CHANNELS[-1]))
            if strange.size:
                raise ValueError(
                    f"channel {channels[strange[0]]} at {batch.times_ps[strange[0]]} ps: a PTU file"
                    f" holds channels {_CHANNELS[0]}..{_CHANNELS[-1]}; select or renumber them"
                )
            out = np.empty(min(2 * ticks.size, _WRITE_RECORDS), np.dtype("<u4"))
            at = 0
            while at < ticks.size:
                count, at, self._turns = encode_t2(ticks, channels, at, self._turns, out)
                self._file.write(out[:count].data)
                self._records += count
            self._inputs = max(self._inputs, int(channels.max()) + 1)
        self._losses += len(batch.losses)
        self._lost_ps += sum(loss.end_ps - loss.begin_ps for loss in batch.losses)
        self._follow.end_ps = batch.end_ps

    def finish(self) -> None:
        """Write the silence at the end and complete the header."""
        from ._kernels_ptu import MOST_OVERFLOWS

        end_ps = self._follow.end_ps or 0
        silent = (int((end_ps - 1) / self._tick) >> 25) - self._turns if end_ps > 0 else 0
        while silent > 0:
            records = np.full(min(-(-silent // MOST_OVERFLOWS), _WRITE_RECORDS), MOST_OVERFLOWS)
            silent -= records.size * MOST_OVERFLOWS
            records[-1] += min(silent, 0)
            self._file.write((records | 0xFE000000).astype("<u4").tobytes())
            self._records += records.size
        comment = "written by Bellbench"
        if self._losses:
            comment += (
                f"; {self._losses} losses of {self._lost_ps * 1e-12:.6g} s in all are not marked"
                " in the records"
            )
        end = self._file.seek(0, os.SEEK_END)
        for name, value in {
            "TTResult_NumberOfRecords": self._records,
            "MeasDesc_AcquisitionTime": -(-end_ps // 10**9),
            "TTResult_StopAfter": -(-end_ps // 10**9),
            "HW_InpChannels": self._inputs,
        }.items():
            self._file.seek(self._places[name])
            self._file.write(struct.pack("<q", value))
        self._file.seek(self._places["File_Comment"] + 8)
        self._file.write(comment.encode()[:_COMMENT_BYTES])
        self._file.seek(end)

    def _ticks(self, batch: TagBatch) -> np.ndarray[Any, np.dtype[np.int64]]:
        times = batch.times_ps
        if not times.size:
            return times
        if times[0] < 0 or times[-1] > _LATEST_PS:
            wrong = int(times[0] if times[0] < 0 else times[-1])
            raise ValueError(
                f"a click at {wrong} ps: a PTU file holds times from 0 to {_LATEST_PS} ps;"
                " shift them"
            )
        if bool(np.any(times[1:] < times[:-1])):
            raise ValueError("clicks must be in order of time")
        if self._tick == 1:
            return times
        step, parts = self._tick.numerator, self._tick.denominator
        whole, rest = np.divmod(times, step)
        return np.asarray(whole * parts + (2 * rest * parts + step) // (2 * step))

    def _header(self, tick_s: float, created: int, start: int, clock: str) -> bytes:
        values: dict[str, bool | int | float | str | _Date | None] = {
            "File_GUID": f"{{{str(uuid.uuid4()).upper()}}}",
            "CreatorSW_ContentVersion": "1.0",
            "CreatorSW_Name": "Bellbench",
            "CreatorSW_Version": "1.0",
            "File_CreatingTime": _Date(created / 86400e9 + 25569),
            "File_Comment": "not closed".ljust(_COMMENT_BYTES - 1, "\0"),
            "Measurement_Mode": 2,
            "Measurement_SubMode": 0,
            "TTResult_StopReason": 0,
            "TTResultFormat_TTTRRecType": _GENERIC_T2,
            "TTResultFormat_BitsPerRecord": 32,
            "MeasDesc_BinningFactor": 1,
            "MeasDesc_Offset": 0,
            "MeasDesc_AcquisitionTime": 0,
            "MeasDesc_StopAt": 0,
            "MeasDesc_StopOnOvfl": False,
            "MeasDesc_Restart": False,
            "HW_Type": "Bellbench",
            "HW_PartNo": "",
            "HW_Version": "1.0",
            "HW_SerialNo": "0",
            "HW_BaseResolution": tick_s,
            "HW_InpChannels": len(_CHANNELS) - 1,
            "HW_ExternalRefClock": False,
            "HWSync_Divider": 1,
            "MeasDesc_Resolution": tick_s,
            "MeasDesc_GlobalResolution": tick_s,
            "TTResult_SyncRate": 0,
            "TTResult_StopAfter": 0,
            "TTResult_NumberOfRecords": 0,
            _START: start,
            _CLOCK: clock,
            "Header_End": None,
        }
        header = _MAGIC + b"1.0.00\0\0"
        for name, value in values.items():
            self._places[name] = self._origin + len(header) + 40
            header += _entry(name, value)
        return header


class _Date(float):
    """Days since 1899-12-30, as the header keeps them."""


def _entry(name: str, value: bool | int | float | str | _Date | None) -> bytes:
    """Return a header entry. Texts end with a zero byte and fill multiples of 8 bytes."""
    head = struct.pack("<32si", name.encode(), -1)
    if value is None:
        return head + struct.pack("<Iq", _EMPTY, 0)
    if isinstance(value, str):
        text = value.encode("cp1252", "replace")
        text = text.ljust((len(text) // 8 + 1) * 8, b"\0")
        return head + struct.pack("<Iq", _ANSI, len(text)) + text
    if isinstance(value, float):
        return head + struct.pack("<Id", _DATE if isinstance(value, _Date) else _FLOAT, value)
    return head + struct.pack("<Iq", _BOOL if isinstance(value, bool) else _INT, value)


def _read_header(
    file: BinaryIO, path: Path, size: int
) -> tuple[dict[str, Any], dict[str, int], int]:
    """Return the header's entries, the offsets of their values, and that of the first record.

    An entry with an index becomes a list; a binary blob its length in bytes.
    """
    if file.read(8) != _MAGIC:
        raise TagFileError("does not begin with PQTTTR: not a PTU file", path=str(path), offset=0)
    tags: dict[str, Any] = {}
    places: dict[str, int] = {}
    offset = 16
    while True:
        file.seek(offset)
        entry = file.read(48)
        if len(entry) < 48:
            raise TagFileError(
                "the file ends inside its header: truncated; copy it again",
                path=str(path),
                offset=size,
            )
        raw, index, kind = struct.unpack("<32siI", entry[:40])
        name = raw.partition(b"\0")[0].decode("ascii", "replace")
        offset += 48
        if name == "Header_End":
            return tags, places, offset
        if kind in _SIZED:
            (length,) = struct.unpack("<q", entry[40:])
            if not 0 <= length <= size - offset:
                raise TagFileError(
                    f"header entry {name!r} claims {length} bytes of data,"
                    f" {size - offset} are left: damaged header or truncated file",
                    path=str(path),
                    offset=offset - 8,
                )
        elif kind in _FIXED:
            length = 0
        else:
            raise TagFileError(
                f"header entry {name!r} has unknown type {kind:#010x}: damaged header",
                path=str(path),
                offset=offset - 12,
            )
        if offset + length > _HEADER_BYTES:
            raise TagFileError(
                f"the header is longer than {_HEADER_BYTES >> 20} MiB: damaged",
                path=str(path),
                offset=offset - 48,
            )
        value = _value(kind, entry[40:], length, b"" if kind == _BLOB else file.read(length))
        places[name] = offset - 8
        offset += length
        if index < 0:
            tags[name] = value
        elif isinstance(tags.get(name), list):
            tags[name].append(value)
        else:
            tags[name] = [value]


def _value(kind: int, field: bytes, length: int, data: bytes) -> Any:
    """Return the value of a header entry; texts and arrays from the ``data`` behind it."""
    if kind == _ANSI:
        return data.rstrip(b"\0").decode("cp1252", "replace")
    if kind == _WIDE:
        return data.decode("utf-16-le", "replace").rstrip("\0")
    if kind == _FLOATS:
        return struct.unpack(f"<{length // 8}d", data[: length // 8 * 8])
    if kind == _BLOB:
        return length
    if kind == _FLOAT:
        return struct.unpack("<d", field)[0]
    if kind == _DATE:
        days = struct.unpack("<d", field)[0]
        try:
            return datetime(1899, 12, 30) + timedelta(days=days)  # the PC's own time zone
        except (ValueError, OverflowError):
            return days
    if kind == _EMPTY:
        return None
    number = struct.unpack("<q", field)[0]
    return bool(number) if kind == _BOOL else number


def _picoseconds(seconds: float) -> Fraction:
    """Return a time of the header in ps, freed from the rounding of its unit."""
    return _nice(Fraction(seconds) * 10**12)


def _nice(value: float | Fraction) -> Fraction:
    """Return the simplest fraction a float of this value may stand for."""
    value = Fraction(value)
    for most in (1, 8, 1000, 1 << 16):
        simple = value.limit_denominator(most)
        if abs(simple - value) <= value / (1 << 51):
            return simple
    return value


def _fixed_point(value: Fraction) -> tuple[int, int]:
    """Return the whole ps of a step and the rest in 2^-44 ps, as the kernels take it."""
    from ._kernels_ptu import PLACES

    return divmod(round(value * (1 << PLACES)), 1 << PLACES)


def _fill(file: Any, view: memoryview) -> int:
    """Read until ``view`` is full or the file ends; return the number of bytes."""
    filled = 0
    while filled < len(view):
        got = file.readinto(view[filled:])
        if not got:
            break
        filled += got
    return filled


def _check_promise(info: TagFileInfo, size: int) -> None:
    """Raise where the header promises another number of records than there are."""
    promised = info.header["TTResult_NumberOfRecords"]
    rest = (size - info.data_offset) % 4
    if promised == info.records and not rest:
        return
    lacking = promised > info.records
    raise TagFileError(
        f"the header announces {promised} records, but {info.records} whole ones"
        + (f" and {rest} bytes" if rest else "")
        + " follow it: "
        + (
            "the file is truncated; copy it again"
            if lacking
            else "the measurement was not closed properly or the header is damaged;"
            " repair it with the vendor's software"
        ),
        path=info.path,
        offset=size if lacking else info.data_offset + 4 * max(promised, 0),
    )


PTU = PtuCodec()
