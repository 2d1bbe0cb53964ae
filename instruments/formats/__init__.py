"""Tag-file codecs: recorded clicks of several vendors, read in bounded memory.

Detector-pattern formats (a1, a1x, s15raw, tdc1) number their channels 1..4 by bit; the others
keep the file's own numbers. Each module states its rounding and where time counts from.
"""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from ..errors import TagFileError
from ..tags import TagBatch
from ._common import (
    CHUNK_RECORDS,
    LOOK_AHEAD,
    BatchCodec,
    PieceCodec,
    TagFileInfo,
    WritableCodec,
    Writer,
    batches,
)
from .bbt import BBT
from .id900 import ID900, ID900_REF, ID900_TXT
from .photon_hdf5 import PHOTON_HDF5
from .ptu import PTU
from .qcrypto import QCRYPTO_T1, QCRYPTO_T2, QcryptoCodec, epochs_of
from .qutag import QUTAG, QUTAG_RAW, QUTAU
from .s15 import A0, A1, A1X, A2, RAW
from .swabian import SWABIAN
from .tdc1 import TDC1, Tdc1Decoder

__all__ = [
    "FORMATS",
    "LOOK_AHEAD",
    "TagFile",
    "TagFileInfo",
    "TagWriter",
    "Tdc1Decoder",
    "Writer",
    "create_tags",
    "encode_tags",
    "open_tags",
]

_CODECS: dict[str, PieceCodec | BatchCodec] = {
    "bbt": BBT,
    "ptu": PTU,
    "a0": A0,
    "a1": A1,
    "a1x": A1X,
    "a2": A2,
    "s15raw": RAW,
    "tdc1": TDC1,
    "swabian": SWABIAN,
    "qutag": QUTAG,
    "qutagraw": QUTAG_RAW,
    "qutau": QUTAU,
    "id900": ID900,
    "id900ref": ID900_REF,
    "id900txt": ID900_TXT,
    "qcrypto_t1": QCRYPTO_T1,
    "qcrypto_t2": QCRYPTO_T2,
    "photon_hdf5": PHOTON_HDF5,
}
#: Formats that begin with a mark; it counts for more than records that seem to make sense.
_MARKED = ("bbt", "ptu", "photon_hdf5", "qcrypto_t1", "qcrypto_t2")
#: Formats whose files can be read while they are written.
_LIVE = frozenset({"bbt"})

#: Names of the formats and what they are.
FORMATS: dict[str, str] = {
    "bbt": "Bellbench tags, our own compact stream",
    "ptu": "PicoQuant PTU, T2 and T3 mode",
    "a0": "S-Fifteen a1 as text, lines of 8 hexadecimal digits",
    "a1": "S-Fifteen TDC2 / timestamp7 a1, low word first",
    "a1x": "S-Fifteen a1, high word first (legacy -X)",
    "a2": "S-Fifteen a1 as text, lines of 16 hexadecimal digits",
    "s15raw": "S-Fifteen raw events of older cards, 125 ps",
    "tdc1": "S-Fifteen TDC1 32-bit words",
    "swabian": "Swabian Time Tagger 16-byte records",
    "qutag": "qutools quTAG, 40-byte header and 10-byte records",
    "qutagraw": "qutools quTAG records without header",
    "qutau": "qutools quTAU, 40-byte header and 5-byte records",
    "id900": "ID Quantique ID900 words, one channel",
    "id900ref": "ID Quantique ID900 words with reference index, one channel",
    "id900txt": "ID Quantique ID900 text with reference index, one channel",
    "qcrypto_t1": "qcrypto T1 packets (chopper2), a file or a folder of epochs",
    "qcrypto_t2": "qcrypto T2 packets (chopper), a file or a folder of epochs",
    "photon_hdf5": "Photon-HDF5 (needs h5py: bellbench[hdf5])",
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
    _seen: dict[str, int] = field(default_factory=dict, repr=False, compare=False)

    @property
    def reordered(self) -> int:
        """Clicks that the file holds too late, as far as the last iteration came.

        They were sorted into their place; up to `LOOK_AHEAD` clicks late they can be.
        """
        return self._seen.get("reordered", 0)

    def __iter__(self) -> Iterator[TagBatch]:
        """Decode the file from its start.

        Raises:
            TagFileError: at the first damage, naming the byte offset; all clicks before it have
                been yielded.
        """
        codec = _CODECS[self.info.format]
        if isinstance(codec, BatchCodec):
            return codec.read_batches(self.info, self.chunk_records)
        self._seen["reordered"] = 0
        return batches(
            codec.read(self.info, self.chunk_records),
            codec.begin_ps,
            start_unix_ns=self.info.start_unix_ns,
            clock_id=self.info.clock_id,
            reordered=self._count,
        )

    def _count(self, reordered: int) -> None:
        self._seen["reordered"] += reordered


def open_tags(
    path: str | Path,
    format: str | None = None,  # noqa: A002 - the word on the command line too
    *,
    chunk_records: int = CHUNK_RECORDS,
    channel: int | None = None,
    period_ps: int | None = None,
    resolution_ps: float | None = None,
) -> TagFile:
    """Open a recorded tag file. Reads the header at most; the clicks come on iteration.

    Args:
        path: The file; of qcrypto a folder of epochs, too.
        format: One of `FORMATS`; None finds it by content (PicoQuant's magic; for formats
            without a header whether the first records make sense).
        chunk_records: Records read at a time; bounds the memory.
        channel: Number of the channel, for files that do not tell it (id900).
        period_ps: Period of the reference that times count from (id900ref, id900txt).
        resolution_ps: Time step, where the file does not tell it (quTAU).

    Raises:
        TagFileError: for a missing, empty or unknown file, or a header that lies.
        ValueError: for an option that the format does not take, or a value that cannot be.
    """
    if format is not None and format not in _CODECS:
        raise TagFileError(f"unknown format {format!r}; known are {', '.join(FORMATS)}")
    if channel is not None and not -(1 << 15) <= channel < 1 << 15:
        raise ValueError(f"channel {channel} does not fit 16 bits")
    if period_ps is not None and not 0 < period_ps <= 10**15:
        raise ValueError(f"a period of {period_ps} ps is not between 1 ps and 1000 s")
    if resolution_ps is not None and not 1e-3 <= resolution_ps <= 1e9:
        raise ValueError(f"a time step of {resolution_ps:g} ps cannot be")
    path = Path(path)
    try:
        first = epochs_of(path)[0] if path.is_dir() else path
        size = first.stat().st_size
        if not size:
            raise TagFileError("is empty: the recording wrote nothing", path=str(first))
        name = format or _recognise(first, size)
        codec = _CODECS[name]
        if not path.is_dir():
            info = codec.describe(path, size)
        elif isinstance(codec, QcryptoCodec):
            info = codec.describe_folder(path)
        else:
            raise TagFileError(f"is a folder, but {name} comes in files", path=str(path))
        options = {"channel": channel, "period_ps": period_ps, "resolution_ps": resolution_ps}
        return TagFile(_with_options(info, options), chunk_records)
    except OSError as error:
        raise TagFileError(f"cannot be read: {error.strerror}", path=str(path)) from error


class TagWriter:
    """Writes a tag file batch by batch; from `create_tags`. Use it as a context manager.

    The file appears under its name when all is written; until then, and where an error ends
    the writing, there is only ``<name>.part``, which is removed. Our own stream format is written
    in place, readable from the beginning and kept after an error.
    """

    def __init__(
        self,
        path: Path,
        format: str,  # noqa: A002 - as in create_tags
        part: Path,
        file: BinaryIO | None,
        writer: Writer,
    ) -> None:
        self.path = path
        self.format = format
        self._part = part
        self._file = file  # None: a folder
        self._writer = writer
        self._closed = False

    def write(self, batch: TagBatch) -> None:
        """Append a batch that follows on the one before. Times are rounded to the format's step.

        Raises:
            ValueError: for clicks the format cannot hold; nothing of the batch is written.
        """
        self._writer.write(batch)

    def close(self) -> None:
        """Complete the file and give it its name. Again: nothing."""
        if self._closed:
            return
        try:
            self._writer.finish()
        except BaseException:
            self._discard()
            raise
        self._closed = True
        if self._file is not None:
            self._file.close()
        if self._part != self.path:
            try:
                os.replace(self._part, self.path)
            except OSError as error:
                raise TagFileError(
                    f"cannot take the place of what is there: {error.strerror}; the new"
                    f" recording is {self._part}",
                    path=str(self.path),
                ) from error

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
        self._closed = True
        if self._file is None:
            shutil.rmtree(self._part, ignore_errors=True)
            return
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
        path: The file; of qcrypto a folder.
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
    part = path if name in _LIVE else path.with_name(path.name + ".part")
    about: dict[str, Any] = {
        "resolution_ps": resolution_ps,
        "start_unix_ns": start_unix_ns,
        "clock_id": clock_id,
    }
    file: BinaryIO | None = None
    try:
        if isinstance(codec, QcryptoCodec):
            writer: Writer = codec.folder_writer(part, **about)
            part.mkdir()
        else:
            file = part.open("w+b")
            writer = codec.writer(file, **about)
    except OSError as error:
        raise TagFileError(f"cannot be written: {error.strerror}", path=str(path)) from error
    except BaseException:
        if file is not None:
            file.close()
            part.unlink()
        raise
    return TagWriter(path, name, part, file, writer)


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


def _with_options(info: TagFileInfo, options: dict[str, int | float | None]) -> TagFileInfo:
    given = {name: value for name, value in options.items() if value is not None}
    takes: frozenset[str] = getattr(_CODECS[info.format], "options", frozenset())
    for name in given:
        if name not in takes:
            raise ValueError(f"{info.format} files tell or need no {name}; leave it out")
    step = given.pop("resolution_ps", info.resolution_ps)
    return replace(info, resolution_ps=float(step), header={**info.header, **given})


def _recognise(path: Path, size: int) -> str:
    with path.open("rb") as file:
        head = file.read(1 << 16)
    fitting = [name for name, codec in _CODECS.items() if codec.plausible(head, size)]
    fitting = [name for name in fitting if name in _MARKED] or fitting
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
