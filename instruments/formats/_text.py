"""Tags as lines of text, read in blocks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..errors import TagFileError
from ._common import TagFileInfo, error_at

__all__ = ["blocks", "count_lines", "hex_words", "spans"]

_LONGEST = 64  # bytes of a line
_HEX = b"0123456789abcdefABCDEF"


def blocks(info: TagFileInfo, size: int) -> Iterator[tuple[int, bytes]]:
    """Yield (byte offset, whole lines) of some ``size`` bytes each; the last may lack its end.

    Raises:
        TagFileError: for a line of more than 64 bytes.
    """
    with Path(info.path).open("rb") as file:
        offset, rest = 0, b""
        while True:
            data = file.read(max(size, 2 * _LONGEST))
            block = rest + data
            end = block.rfind(b"\n") + 1 if data else len(block)
            if end:
                yield offset, block[:end]
            offset, rest = offset + end, block[end:]
            if len(rest) > _LONGEST:
                raise TagFileError(
                    f"a line of more than {_LONGEST} bytes: damaged, or not of format"
                    f" {info.format}",
                    path=info.path,
                    offset=offset,
                )
            if not data:
                return


def spans(block: bytes) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return begin and length of every line that is not empty, without its end."""
    letters = np.frombuffer(block, np.uint8)
    ends = np.flatnonzero(letters == 0x0A)
    if not block.endswith(b"\n"):
        ends = np.append(ends, letters.size)
    begins = np.concatenate([[0], ends[:-1] + 1])
    # A line may end as on Windows.
    returns = (ends > begins) & (letters[np.maximum(ends - 1, 0)] == 0x0D)
    lengths = ends - returns - begins
    keep = lengths > 0
    return begins[keep], lengths[keep]


def hex_words(
    info: TagFileInfo, digits: int, chunk_records: int
) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.uint64]]]:
    """Yield (byte offsets, values) of lines of ``digits`` hexadecimal digits each.

    Raises:
        TagFileError: at the first other line; those before it have been yielded.
    """
    for offset, block in blocks(info, chunk_records * (digits + 1)):
        letters = np.frombuffer(block, np.uint8)
        begins, lengths = spans(block)
        wrong = np.flatnonzero(lengths != digits)
        good = int(wrong[0]) if wrong.size else begins.size
        stride = digits + 1
        if good * stride == letters.size and begins[-1] == letters.size - stride:
            # Nothing but such lines, as nearly always.
            lines = letters.reshape(-1, stride)[:, :digits]
        else:
            lines = letters[begins[:good, None] + np.arange(digits)]
        text = lines.tobytes()
        if text.translate(None, _HEX):
            bad = np.flatnonzero(~np.isin(lines, np.frombuffer(_HEX, np.uint8)).all(axis=1))
            good = int(bad[0])
            text = text[: good * digits]
        packed = bytes.fromhex(text.decode("ascii"))
        words = np.frombuffer(packed, f">u{digits // 2}").astype(np.uint64)
        yield offset + begins[:good], words
        if good < begins.size:
            raise error_at(
                info,
                offset + int(begins[good]),
                f"a line that is not {digits} hexadecimal digits: the file is truncated or"
                f" damaged, or not of format {info.format}; copy it again, or say --format",
            )


def count_lines(path: Path) -> int:
    """Return the number of lines of a file (a pass at the speed of the disk)."""
    count, last = 0, b"\n"
    with path.open("rb") as file:
        while data := file.read(1 << 16):
            count += data.count(b"\n")
            last = data[-1:]
    return count + (last != b"\n")
