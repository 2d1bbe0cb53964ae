"""Tag-file codecs: recorded clicks of several vendors, read in bounded memory.

Detector-pattern formats (a1, a1x, s15raw, tdc1) number their channels 1..4 by bit; the others
keep the file's own numbers. Each module states its rounding and where time counts from.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Literal

from ..errors import TagFileError
from ..tags import TagBatch, merge
from ._common import (
    CHUNK_RECORDS,
    LOOK_AHEAD,
    About,
    BatchCodec,
    PieceCodec,
    TagFileInfo,
    WritableCodec,
    Writer,
    batches,
    step_of,
)
from .bbt import BBT, BbtCodec, BbtWriter
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
        parts: The files it is merged from, if several.
    """

    info: TagFileInfo
    chunk_records: int = CHUNK_RECORDS
    parts: tuple[TagFile, ...] = ()
    _seen: dict[str, int] = field(default_factory=dict, repr=False, compare=False)

    @property
    def reordered(self) -> int:
        """Clicks that the file holds too late, as far as the last iteration came.

        They were sorted into their place; up to `LOOK_AHEAD` clicks late they can be.
        """
        return self._seen.get("reordered", 0) + sum(part.reordered for part in self.parts)

    def __iter__(self) -> Iterator[TagBatch]:
        """Decode the file from its start, or from ``from_ps``.

        Raises:
            TagFileError: at the first damage, naming the byte offset; all clicks before it have
                been yielded.
        """
        found = self._decode()
        from_ps = self.info.header.get("from_ps")
        return found if from_ps is None else _since(found, from_ps)

    def _decode(self) -> Iterator[TagBatch]:
        if self.parts:
            return merge(*self.parts)
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

    def follow(self, patience_s: float = 10.0) -> Iterator[TagBatch]:
        """Yield the batches of a recording (bbt) that is still being written, as they come.

        Ends where the recording was closed, or when nothing has come for ``patience_s``.

        Raises:
            ValueError: for a file of another format, or several.
            TagFileError: at damage, as on iteration.
        """
        if self.parts or self.info.format != "bbt":
            raise ValueError("only one file of format bbt can be read while it is written")
        return self._follow(patience_s)

    def _follow(self, patience_s: float) -> Iterator[TagBatch]:
        reader = BBT.reader(self.info)
        last = time.monotonic()
        while True:
            for batch in reader:
                yield batch
                last = time.monotonic()
            if reader.closed or time.monotonic() - last >= patience_s:
                return
            time.sleep(0.05)

    def _count(self, reordered: int) -> None:
        self._seen["reordered"] += reordered


def open_tags(
    path: str | Path | Sequence[str | Path],
    format: str | None = None,  # noqa: A002 - the word on the command line too
    *,
    chunk_records: int = CHUNK_RECORDS,
    channel: int | Sequence[int] | None = None,
    period_ps: int | None = None,
    resolution_ps: float | None = None,
    from_ps: int | None = None,
    damage: Literal["raise", "mark"] = "raise",
) -> TagFile:
    """Open a recorded tag file. Reads the header at most; the clicks come on iteration.

    Several files of one tagger, such as one per channel, become one stream, see `merge`.

    Args:
        path: The file, or a list of files; of qcrypto a folder or a list of epochs.
        format: One of `FORMATS`; None finds it by content (PicoQuant's magic; for formats
            without a header whether the first records make sense).
        chunk_records: Records read at a time; bounds the memory.
        channel: Number of the channel, for files that do not tell it (id900); of several files
            that of each.
        period_ps: Period of the reference that times count from (id900ref, id900txt).
        resolution_ps: Time step, where the file does not tell it (quTAU).
        from_ps: Begin at this time. bbt seeks it; of other formats all before is decoded.
        damage: ``"mark"`` (bbt alone): read on behind damage, which becomes a ``"corrupt"`` loss
            whose count is exact.

    Raises:
        TagFileError: for a missing, empty or unknown file, or a header that lies.
        ValueError: for an option that the format does not take, or a value that cannot be.
    """
    if format is not None and format not in _CODECS:
        raise TagFileError(f"unknown format {format!r}; known are {', '.join(FORMATS)}")
    if period_ps is not None and not 0 < period_ps <= 10**15:
        raise ValueError(f"a period of {period_ps} ps is not between 1 ps and 1000 s")
    if resolution_ps is not None:
        step_of(resolution_ps)
    if damage not in ("raise", "mark"):
        raise ValueError(f'damage is "raise" or "mark", not {damage!r}')
    channels = [*channel] if isinstance(channel, Sequence) else [channel]
    for number in channels:
        if number is not None and not -(1 << 15) <= number < 1 << 15:
            raise ValueError(f"channel {number} does not fit 16 bits")
    if channel is not None and len(set(channels)) < len(channels):
        raise ValueError(f"files of different channels are joined; {channels} names one twice")
    options: dict[str, Any] = {"period_ps": period_ps, "resolution_ps": resolution_ps}
    options |= {"from_ps": from_ps, "damage": None if damage == "raise" else damage}
    paths = [Path(path)] if isinstance(path, str | Path) else [Path(part) for part in path]
    if not paths:
        raise ValueError("there is no file in the list")
    if channel is None:
        channels *= len(paths)
    if len(channels) != len(paths):
        raise ValueError(f"{len(paths)} files need a channel each, not {len(channels)}")
    first = _open(paths[0], format, {"channel": channels[0], **options}, chunk_records)
    if len(paths) == 1:
        return first
    codec = _CODECS[first.info.format]
    if isinstance(codec, QcryptoCodec):
        with _readable(paths[0]):
            info = codec.describe_files(paths[0].parent, paths)
        return TagFile(_with_options(info, options), chunk_records)
    if channel is None and "channel" in _options(codec):
        raise ValueError(f"{first.info.format} files do not tell their channel; say that of each")
    rest = zip(paths[1:], channels[1:], strict=True)
    return _merged(
        first,
        *(_open(p, format, {"channel": c, **options}, chunk_records) for p, c in rest),
    )


def _open(path: Path, name: str | None, options: dict[str, Any], chunk_records: int) -> TagFile:
    with _readable(path):
        file = epochs_of(path)[0] if path.is_dir() else path
        size = file.stat().st_size
        if not size:
            raise TagFileError("is empty: the recording wrote nothing", path=str(file))
        codec = _CODECS[name or _recognise(file, size)]
        if path.is_dir():
            if not isinstance(codec, QcryptoCodec):
                raise TagFileError(f"is a folder, but {name} comes in files", path=str(path))
            info = codec.describe_files(path, epochs_of(path))
        elif isinstance(codec, BbtCodec):
            info = codec.describe(path, size, lenient=options["damage"] is not None)
        else:
            info = codec.describe(path, size)
    return TagFile(_with_options(info, options), chunk_records)


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise TagFileError(f"cannot be read: {error.strerror}", path=str(path)) from error


def _merged(*parts: TagFile) -> TagFile:
    """Return several files as one stream."""
    infos = [part.info for part in parts]
    formats = sorted({info.format for info in infos})
    if len(formats) > 1:
        raise ValueError(
            f"files of formats {' and '.join(formats)} are not of one tagger;"
            " join what `open_tags` returns for each by `merge`"
        )
    records = [info.records for info in infos]
    whole = replace(
        infos[0],
        path=", ".join(info.path for info in infos),
        records=sum(records) if all(records) else 0,
        start_unix_ns=max(info.start_unix_ns for info in infos),
        clock_id=max(info.clock_id for info in infos),
    )
    return TagFile(whole, parts[0].chunk_records, parts)


def _since(found: Iterator[TagBatch], from_ps: int) -> Iterator[TagBatch]:
    """Leave out what is before a time."""
    for batch in found:
        if batch.begin_ps >= from_ps:
            yield batch
        elif batch.end_ps > from_ps:
            yield batch.split(from_ps)[1]


class TagWriter:
    """Writes a tag file batch by batch; from `create_tags`. Use it as a context manager.

    The file appears under its name when all is written; until then, and where an error ends
    the writing, there is only ``<name>.part``, which is removed. Our own stream format is written
    in place, readable from the beginning and kept after an error.

    Attributes:
        path: The file.
        format: Its format, one of `FORMATS`.
        losses_dropped: Losses that were not written, for the format has no place for their kind;
        dropped_ps: and their length in all.
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
        self.losses_dropped = 0
        self.dropped_ps = 0
        self._holds: frozenset[str] = getattr(_CODECS[format], "losses", frozenset())
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
        gone = tuple(loss for loss in batch.losses if loss.kind not in self._holds)
        if gone:
            self.losses_dropped += sum(loss.begin_ps >= batch.begin_ps for loss in gone)
            lossy = replace(batch, losses=gone)
            self.dropped_ps += round((lossy.duration_s - lossy.live_s) * 1e12)

    def flush(self) -> None:
        """Make readable what was written so far: of bbt only; other formats need `close`."""
        if isinstance(self._writer, BbtWriter):
            self._writer.flush()

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
    metadata: Mapping[str, Any] | None = None,
    append: bool = False,
) -> TagWriter:
    """Begin a tag file. An old one is replaced when the new one is complete, of bbt at once.

    Args:
        path: The file; of qcrypto a folder.
        format: One of `FORMATS`; None: by the suffix of ``path``.
        resolution_ps: Time step, for formats that let one choose; None: the format's own.
        start_unix_ns: Host time of the recording's start, ns since the Unix epoch; 0: unknown.
        clock_id: Name of the clock the times are taken with.
        metadata: What JSON can hold (bbt alone); read again as ``info.header["metadata"]``.
        append: Go on with a recording that was closed or killed (bbt alone), with its own step,
            start, clock and metadata; a pause becomes a loss ``"gap"``. Begin one if there is none.

    Raises:
        ValueError: for an unknown format, or a time step or option it cannot have.
        TagFileError: where no file can be made there.
    """
    path = Path(path)
    name = format or format_of_suffix(path)
    codec = _writable(name)
    if name != "bbt" and (append or metadata is not None):
        raise ValueError(f"{name} can{'not be appended to' if append else ' hold no metadata'}")
    part = path if name in _LIVE else path.with_name(path.name + ".part")
    about = About(resolution_ps, start_unix_ns, clock_id, metadata)
    file: BinaryIO | None = None
    there = part.exists()
    try:
        if isinstance(codec, QcryptoCodec):
            writer: Writer = codec.folder_writer(part, about)
            part.mkdir()
        elif append and there and part.stat().st_size:
            file = part.open("r+b")
            writer = BbtWriter.resume(file)
        else:
            if part == path:
                codec.writer(io.BytesIO(), about)  # what cannot be, replaces no recording
            file = part.open("w+b")
            writer = codec.writer(file, about)
    except OSError as error:
        raise TagFileError(f"cannot be written: {error.strerror}", path=str(path)) from error
    except BaseException:
        if file is not None:
            file.close()
            if not there:
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
    about = About(start_unix_ns=batch.start_unix_ns, clock_id=batch.clock_id)
    writer = _writable(format).writer(file, about)
    writer.write(batch)
    writer.finish()
    return file.getvalue()


def _writable(name: str) -> WritableCodec:
    codec: object = _CODECS.get(name)
    if not isinstance(codec, WritableCodec):
        there = ", ".join(n for n in FORMATS if isinstance(_CODECS[n], WritableCodec))
        raise ValueError(f"no writer for {name!r}; there are {there}")
    return codec


def _options(codec: object) -> frozenset[str]:
    """Options of `open_tags` that a format takes."""
    return frozenset({"from_ps"}) | getattr(codec, "options", frozenset())


def _with_options(info: TagFileInfo, options: dict[str, Any]) -> TagFileInfo:
    given = {name: value for name, value in options.items() if value is not None}
    for name in given:
        if name not in _options(_CODECS[info.format]):
            raise ValueError(f"{info.format} files take no {name}; leave it out")
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
