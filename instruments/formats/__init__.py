"""Tag-file codecs: recorded clicks of several vendors, read in bounded memory.

Detector-pattern formats (a1, a1x, s15raw, tdc1) number their channels 1..4 by bit; the others
keep the file's own numbers. Each module states its rounding and where time counts from.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import TagFileError
from ..tags import TagBatch
from ._common import CHUNK_RECORDS, Codec, TagFileInfo, batches
from .ptu import PTU
from .s15 import A1, A1X, RAW, S15Codec
from .swabian import SWABIAN, SwabianCodec
from .tdc1 import TDC1, Tdc1Codec, Tdc1Decoder

__all__ = [
    "FORMATS",
    "TagFile",
    "TagFileInfo",
    "Tdc1Decoder",
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
_ENCODERS: dict[str, S15Codec | Tdc1Codec | SwabianCodec] = {
    "a1": A1,
    "a1x": A1X,
    "s15raw": RAW,
    "tdc1": TDC1,
    "swabian": SWABIAN,
}

#: Names of the formats and what they are.
FORMATS: dict[str, str] = {
    "ptu": "PicoQuant PTU, T2 mode",
    "a1": "S-Fifteen TDC2 / timestamp7 a1, low word first",
    "a1x": "S-Fifteen a1, high word first (legacy -X)",
    "s15raw": "S-Fifteen raw events of older cards, 125 ps",
    "tdc1": "S-Fifteen TDC1 32-bit words",
    "swabian": "Swabian Time Tagger 16-byte records",
}


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


def encode_tags(batch: TagBatch, format: str) -> bytes:  # noqa: A002 - as in open_tags
    """Return a batch as the bytes of a file; times are rounded to the format's step.

    Raises:
        ValueError: for a format without a writer (ptu) or clicks it cannot hold.
    """
    if format not in _ENCODERS:
        raise ValueError(f"no writer for {format!r}; there are {', '.join(_ENCODERS)}")
    return _ENCODERS[format].encode(batch)


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
