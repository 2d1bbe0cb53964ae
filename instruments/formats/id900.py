"""ID Quantique ID900 / ID1000 time controller, as its DataLinkTargetService saves tags.

- ``id900``: little-endian 64-bit words, each the time of a click in ps.
- ``id900ref`` (``--with-ref-index``): each time is followed by a 64-bit index.
- ``id900txt`` (``--format ascii``): lines ``<time>`` or ``<time>;<index>``.

A file holds the clicks of one input; which one, only its name may tell: say ``channel`` (else 1).
`open_tags` takes the files of several inputs, with the channel of each, as one stream.

With ``RAW#:REF:LINK NONE`` times count from the start of the record and grow: that is a stream.
With a reference linked, they count from the last reference event, which the index numbers; the
files do not say when those events were. So ``period_ps``, the period of the reference, is needed:
a click is at index x period + time. Without it an index that changes is an error. Record the
reference itself as another input (link NONE) where its period is not known well enough.

A file with a reference but without index cannot be put in order: an error, too.

Sources: IDQ's example scripts, Time Controller manual.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from ..tags import TagBatch
from ._common import (
    LATEST_PS,
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
from ._text import blocks, count_lines, spans
from .s15 import A1
from .swabian import SWABIAN

__all__ = ["ID900", "ID900_REF", "ID900_TXT", "Id900Codec"]

_FEWEST = 16
_RAREST_PS = 1e13
_INDEX = 1  # that of a record without reference


@dataclass(frozen=True, slots=True)
class Id900Codec:
    """Reader and writer of one of the files."""

    name: str
    words: int  # per click; 0: text
    begin_ps: int | None = 0
    options: frozenset[str] = frozenset({"channel", "period_ps"})

    def describe(self, path: Path, size: int) -> TagFileInfo:
        """Describe a file of clicks; of text, count its lines."""
        if self.words:
            return plain_info(self.name, path, size, 8 * self.words, 1.0)
        info = plain_info(self.name, path, size, 1, 1.0)
        return replace(info, records=count_lines(path), record_bytes=0)

    def read(self, info: TagFileInfo, chunk_records: int) -> Iterator[Piece]:
        """Decode the clicks."""
        decoded = (
            self._text(info, chunk_records) if not self.words else self._binary(info, chunk_records)
        )
        yield from in_order(info, self._clicks(info, decoded))

    def _binary(
        self, info: TagFileInfo, chunk_records: int
    ) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.uint64]]]:
        for first, words in chunks(info, "<u8", chunk_records):
            clicks = words.reshape(-1, self.words)
            yield first + np.arange(clicks.shape[0]), clicks

    def _text(
        self, info: TagFileInfo, chunk_records: int
    ) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.uint64]]]:
        columns = 0
        for offset, block in blocks(info, 16 * chunk_records):
            begins, lengths = spans(block)
            fast = _table(block, begins, lengths)
            if fast is not None and columns in (0, fast.shape[1]):
                columns = fast.shape[1]
                yield offset + begins, fast
                continue
            rows: list[tuple[int, ...]] = []
            bad = ""
            for begin, length in zip(begins.tolist(), lengths.tolist(), strict=True):
                parts = block[begin : begin + length].split(b";")
                columns = columns or len(parts)
                if not (
                    len(parts) == columns <= 2
                    and all(part.isdigit() and len(part) <= 19 for part in parts)
                ):
                    bad = "a line that is not <time> or <time>;<index> as the lines before it"
                    break
                if begin + length == len(block):
                    bad = "the last line is cut off"
                    break
                rows.append(tuple(int(part) for part in parts))
            shape = (len(rows), max(columns, 1))
            yield offset + begins[: len(rows)], np.array(rows, np.uint64).reshape(shape)
            if bad:
                raise error_at(
                    info,
                    offset + int(begins[len(rows)]),
                    f"{bad}: the file is truncated or damaged, or not of format {info.format};"
                    " copy it again, or say --format",
                )

    def _clicks(
        self,
        info: TagFileInfo,
        rows: Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.uint64]]],
    ) -> Iterator[Decoded]:
        channel = int(info.header.get("channel", 1))
        period = info.header.get("period_ps")
        constant: int | None = None
        for records, words in rows:
            times = words[:, 0]
            index = words[:, 1] if words.shape[1] == 2 else None
            wrong, why = times > LATEST_PS, "its time lies months away"
            if index is not None and period is not None:
                wrong = wrong | (index > LATEST_PS // int(period))
            elif index is not None and index.size:
                constant = int(index[0]) if constant is None else constant
                changed = index != np.uint64(constant)
                if np.any(changed) and not np.any(wrong[: int(np.argmax(changed))]):
                    why = (
                        f"its time counts from another reference event than the first"
                        f" ({index[int(np.argmax(changed))]}, not {constant}); say the period of"
                        " the reference (--period, period_ps)"
                    )
                wrong = wrong | changed
            good = int(np.argmax(wrong)) if np.any(wrong) else times.size
            ps = times[:good].astype(np.int64)
            if index is not None and period is not None:
                ps = ps + index[:good].astype(np.int64) * int(period)
            yield Decoded(ps, np.full(good, channel, np.int16), records[:good])
            if good < times.size:
                raise error_at(
                    info,
                    int(records[good]),
                    f"{why}; else the file is damaged, or not of format {info.format}",
                )

    def writer(self, file: BinaryIO, about: About) -> RecordWriter:
        """Begin a file; it has no place for start, clock, and the number of the channel."""
        fixed_step(self.name, 1.0, about.resolution_ps)
        only: list[int] = []

        def encode(batch: TagBatch) -> bytes:
            found = np.unique(batch.channels).tolist()
            if len({*only, *found}) > 1:
                raise ValueError(
                    f"{self.name} holds one channel in a file, not"
                    f" {', '.join(map(str, sorted({*only, *found})))}; choose one"
                )
            if len(batch) and int(batch.times_ps[0]) < 0:
                raise ValueError(f"{self.name} holds no times before 0: {batch.times_ps[0]} ps")
            only[:] = only or found
            if not self.words:
                return "".join(map(f"%d;{_INDEX}\n".__mod__, batch.times_ps.tolist())).encode()
            words = np.full((len(batch), self.words), _INDEX, "<u8")
            words[:, 0] = batch.times_ps
            return words.tobytes()

        return RecordWriter(file, encode)

    def plausible(self, head: bytes, size: int) -> bool:
        """Whether the head looks like times, or times and indices, and not like a1 or swabian."""
        if not self.words:
            lines = head[: head.rfind(b"\n") + 1].split()
            parts = [line.split(b";") for line in lines]
            return len(lines) >= 2 and all(
                len(p) == 2 and all(x.isdigit() and len(x) <= 19 for x in p) for p in parts
            )
        count = len(head) // 8 // self.words
        if count < _FEWEST or A1.plausible(head, size) or SWABIAN.plausible(head, size):
            return False
        words = np.frombuffer(head, "<u8", count * self.words).reshape(-1, self.words)
        if np.any(words > LATEST_PS):
            return False
        values = words.astype(np.int64)
        if self.words == 1:
            return _grows(values[:, 0])
        if _grows(values.ravel()) or np.any(np.diff(values[:, 1]) < 0):
            return False
        turns = values[-1, 1] - values[0, 1]
        times = values[:, 0]
        if not turns:
            return _grows(times)
        return bool(turns < (1 << 32) * count and times.max() > times.min() and times.max() < 1e12)


def _table(
    block: bytes, begins: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64]
) -> npt.NDArray[np.uint64] | None:
    """Return the numbers of lines that are all as they should be; else None."""
    if block.translate(None, b"0123456789;\r\n") or not block.endswith(b"\n"):
        return None
    if block.count(b"\r") != block.count(b"\r\n"):  # one within a line parts no numbers
        return None
    marks = np.flatnonzero(np.frombuffer(block, np.uint8) == ord(";"))
    if not begins.size or marks.size not in (0, begins.size):
        return None
    parts = [lengths]
    if marks.size:
        parts = [marks - begins, begins + lengths - marks - 1]
    if any(part.min() < 1 or part.max() > 19 for part in parts):
        return None
    numbers = np.fromstring(block.replace(b";", b"\n"), np.uint64, sep="\n")
    return numbers.reshape(begins.size, -1)


def _grows(times: npt.NDArray[np.int64]) -> bool:
    steps = np.diff(times)
    if 10 * np.count_nonzero(steps < 0) > steps.size:
        return False
    return bool(0 < np.abs(steps).mean() < _RAREST_PS)


ID900 = Id900Codec("id900", 1)
ID900_REF = Id900Codec("id900ref", 2)
ID900_TXT = Id900Codec("id900txt", 0)
