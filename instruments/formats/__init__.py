"""Tag-file codecs: recorded clicks of several vendors, read in bounded memory.

Detector-pattern formats (a1, a1x, s15raw, tdc1) number their channels 1..4 by bit; the others
keep the file's own numbers. Each module states its rounding and where time counts from.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from ..errors import TagFileError
from ..tags import TagBatch
from ._common import (
    CHUNK_RECORDS,
    BatchCodec,
    Codec,
    TagFileInfo,
    WritableCodec,
    Writer,
    batches,
)
from .ptu import PTU
from .s15 import A1, A1X, RAW
from .swabian import SWABIAN
from .tdc1 import TDC1, Tdc1Decoder

__all__ = [
    "FORMATS",
    "TagFile",
    "TagFileInfo",
    "TagWriter",
    "Tdc1Decoder",
    "Writer",
    "create_tags",
    "encode_tags",
    "open_tags",
]

_CODECS: dict[str, Codec] = {
    "ptu": PTU,
    "a1": A1,
    "a1x": A1X,
    "s15raw": RAW,
    "tdc1": TDC1,
    "swabian": SWABIAN,
}
#: Formats whose files can be read while they are written.
_LIVE = frozenset({"bbt"})

#: Names of the formats and what they are.
FORMATS: dict[str, str] = {
    "ptu": "PicoQuant PTU, T2 mode",
    "a1": "S-Fifteen TDC2 / timestamp7 a1, low word first",
    "a1x": "S-Fifteen a1, high word first (legacy -X)",
    "s15raw": "S-Fifteen raw events of older cards, 125 ps",
    "tdc1": "S-Fifteen TDC1 32-bit words",
    "swabian": "Swabian Time Tagger 16-byte records",
}

_SUFFIXES = {"h5": "photon_hdf5", "hdf5": "photon_hdf5"}


@dataclass(frozen=True, slots=True)
class TagFile:
    """A recorded click stream. Iterate over it, as often as you like, for its batches.

    Attributes:
        info: What the file says about itself.
        chunk_records: Records read at a time; bounds the memory.
    """

    info: TagFileInfo
    chunk_records: int = CHUNK_RECORDS

    def __iter__(self) -> Iterator[TagBatch]:
        """Decode the file from its start.

        Raises:
            TagFileError: at the first damage, naming the byte offset.
        """
        codec = _CODECS[self.info.format]
        if isinstance(codec, BatchCodec):
            return codec.read_batches(self.info, self.chunk_records)
        return batches(codec.read(self.info, self.chunk_records), codec.begin_ps)


def open_tags(
    path: str | Path,
    format: str | None = None,  # noqa: A002 - the word on the command line too
    *,
    chunk_records: int = CHUNK_RECORDS,
) -> TagFile:
    """Open a recorded tag file. Reads the header at most; the clicks come on iteration.

    Args:
        path: The file.
        format: One of `FORMATS`; None finds it by content (PicoQuant's magic; for formats
            without a header whether the first records make sense).
        chunk_records: Records read at a time; bounds the memory.

    Raises:
        TagFileError: for a missing, empty, truncated or unknown file, or a header that lies.
    """
    if format is not None and format not in _CODECS:
        raise TagFileError(f"unknown format {format!r}; known are {', '.join(FORMATS)}")
    path = Path(path)
    try:
        if path.is_dir():
            raise TagFileError("is a folder; name a tag file in it", path=str(path))
        size = path.stat().st_size
        if not size:
            raise TagFileError("is empty: the recording wrote nothing", path=str(path))
        name = format or _recognise(path, size)
        return TagFile(_CODECS[name].describe(path, size), chunk_records)
    except OSError as error:
        raise TagFileError(f"cannot be read: {error.strerror}", path=str(path)) from error


class TagWriter:
    """Writes a tag file batch by batch; from `create_tags`. Use it as a context manager.

    The file appears under its name when all is written; until then, and where an error ends
    the writing, there is only ``<name>.part``, which is removed. Our own stream format is written
    in place, readable from the beginning and kept after an error.
    """

    def __init__(self, path: Path, format: str, file: BinaryIO, writer: Writer) -> None:  # noqa: A002
        self.path = path
        self.format = format
        self._file = file
        self._writer = writer
        self._part = Path(file.name)

    def write(self, batch: TagBatch) -> None:
        """Append a batch that follows on the one before. Times are rounded to the format's step.

        Raises:
            ValueError: for clicks the format cannot hold; nothing of the batch is written.
        """
        self._writer.write(batch)

    def close(self) -> None:
        """Complete the file and give it its name. Again: nothing."""
        if self._file.closed:
            return
        try:
            self._writer.finish()
        except BaseException:
            self._discard()
            raise
        self._file.close()
        if self._part != self.path:
            os.replace(self._part, self.path)

    def __enter__(self) -> TagWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None or self._part == self.path:
            self.close()
        else:
            self._discard()

    def _discard(self) -> None:
        self._file.close()
        if self._part != self.path:
            self._part.unlink(missing_ok=True)


def create_tags(
    path: str | Path,
    format: str | None = None,  # noqa: A002 - the word on the command line too
    *,
    resolution_ps: float | None = None,
    start_unix_ns: int = 0,
    clock_id: str = "",
) -> TagWriter:
    """Begin a tag file; an old file of that name is replaced when the new one is complete.

    Args:
        path: The file.
        format: One of `FORMATS`; None: by the suffix of ``path``.
        resolution_ps: Time step, for formats that let one choose; None: the format's own.
        start_unix_ns: Host time of the recording's start, ns since the Unix epoch; 0: unknown.
        clock_id: Name of the clock the times are taken with.

    Raises:
        ValueError: for an unknown format, or a time step it cannot have.
        TagFileError: where no file can be made there.
    """
    path = Path(path)
    name = format or format_of_suffix(path)
    codec = _writable(name)
    target = path if name in _LIVE else path.with_name(path.name + ".part")
    try:
        file = target.open("w+b")
    except OSError as error:
        raise TagFileError(f"cannot be written: {error.strerror}", path=str(path)) from error
    try:
        writer = codec.writer(
            file, resolution_ps=resolution_ps, start_unix_ns=start_unix_ns, clock_id=clock_id
        )
    except BaseException:
        file.close()
        target.unlink()
        raise
    return TagWriter(path, name, file, writer)


def format_of_suffix(path: Path) -> str:
    """Return the format a file name asks for.

    Raises:
        ValueError: for a suffix that names none.
    """
    suffix = path.suffix.lower().removeprefix(".")
    name = _SUFFIXES.get(suffix, suffix)
    if name not in FORMATS:
        raise ValueError(
            f"{path.name!r} does not say a format by its suffix; name one of {', '.join(FORMATS)}"
        )
    return name


def encode_tags(batch: TagBatch, format: str) -> bytes:  # noqa: A002 - as in open_tags
    """Return a batch as the bytes of a file; times are rounded to the format's step.

    Raises:
        ValueError: for a format without a writer or clicks it cannot hold.
    """
    file = io.BytesIO()
    writer = _writable(format).writer(
        file, start_unix_ns=batch.start_unix_ns, clock_id=batch.clock_id
    )
    writer.write(batch)
    writer.finish()
    return file.getvalue()


def _writable(name: str) -> WritableCodec:
    codec: object = _CODECS.get(name)
    if not isinstance(codec, WritableCodec):
        there = ", ".join(n for n in FORMATS if isinstance(_CODECS[n], WritableCodec))
        raise ValueError(f"no writer for {name!r}; there are {there}")
    return codec


def _recognise(path: Path, size: int) -> str:
    with path.open("rb") as file:
        head = file.read(1 << 16)
    fitting = [name for name, codec in _CODECS.items() if codec.plausible(head, size)]
    if len(fitting) == 1:
        return fitting[0]
    if path.suffix.lower() == ".ptu":
        raise TagFileError(
            "is named .ptu but does not begin with PQTTTR: not a PTU file",
            path=str(path),
            offset=0,
        )
    wanted = f"say --format with one of {', '.join(FORMATS)}"
    if fitting:
        raise TagFileError(f"may be {' or '.join(fitting)}; {wanted}", path=str(path))
    raise TagFileError(
        f"is not a tag file I know (or it is damaged in its first records); if it is one, {wanted}",
        path=str(path),
    )
