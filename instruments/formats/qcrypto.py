"""qcrypto packets of clicks, T1 and T2: one per epoch of 2^29 ns, in a file each or in a row.

- ``qcrypto_t1`` (chopper2): header of five 32-bit words {1 or 0x101, epoch, number of events or
  0, 49, bits of a pattern}; events of two words, high word first, as in ``s15raw`` with the
  finer bits of newer cards; ended by two zero words. 1/256 ns.
- ``qcrypto_t2`` (chopper): {2 or 0x102, epoch, number of events or 0, time order, base bits,
  protocol}; per event a difference of time in 125 ps and a value, packed from the highest bit of
  each word: 0 escapes to 32 bits, 1 ends the packet. Differences of 0 and 1 do not exist: the
  writer moves such a click to 250 ps after the one before it.

A path is a file of one or more packets, or a folder of files named by their epoch in hexadecimal,
as chopper's option ``-D`` makes it, read as one stream; so is a list of such files. `create_tags`
makes such a folder.

Channels are 1..4 by detector bit; in T2 of another protocol than 0 (service) the value is no
pattern, but what the protocol tells the partner, and the channel is value + 1. Tag 1 and 2:
epochs are the high bits of the card's counter, and times count from its zero. Tags 0x101 and
0x102: epochs count from 1970, times from the start of the first epoch, which
``TagFileInfo.start_unix_ns`` tells; ``start_unix_ns`` makes the writer use them. An epoch without
packet is a ``"gap"`` loss: chopper writes none for an epoch without a click, which at any useful
rate means loss. A batch ends with its epoch, so memory is bounded by the largest packet's chunk.

Sources: qcrypto filespec.txt, chopper.c and chopper2.c (time is in the high bits of a T2 entry,
the text says low), fpfind.
"""

from __future__ import annotations

import itertools
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt

from ..errors import TagFileError
from ..tags import Loss, TagBatch
from ._common import (
    About,
    Decoded,
    Following,
    Piece,
    TagFileInfo,
    click_patterns,
    fixed_step,
    in_order,
    pattern_bits,
    to_ps,
)

__all__ = ["QCRYPTO_T1", "QCRYPTO_T2", "QcryptoCodec"]

_EPOCH_PS = 1000 << 29
_LOCAL = 1 << 17  # epochs of the card's counter
_EXTENDED = 0x100
_NAME = re.compile(r"[0-9a-fA-F]{1,8}")
_LATEST = (1 << 62) // _EPOCH_PS
_LATE = 1 << 12  # steps that a T2 event may be pushed over the end of its epoch


class _Packet(NamedTuple):
    epoch: int
    extended: bool
    length: int
    order: int  # of T2
    bits: int
    protocol: int


@dataclass(frozen=True, slots=True)
class QcryptoCodec:
    """Reader and writer of one type of packet."""

    name: str
    kind: int
    resolution_ps: float
    begin_ps: int | None = None

    @property
    def _header(self) -> struct.Struct:
        return struct.Struct("<5I" if self.kind == 1 else "<6I")

    def describe(self, path: Path, size: int) -> TagFileInfo:
        """Describe a file of packets by its first one."""
        return self.describe_files(path, [path])

    def describe_files(self, path: Path, files: list[Path]) -> TagFileInfo:
        """Describe files as one stream; files named by their epoch are put in order.

        Raises:
            TagFileError: if the first does not begin with a packet.
        """
        if all(_NAME.fullmatch(file.name) for file in files):
            files = sorted(files, key=lambda file: int(file.name, 16))
        with files[0].open("rb") as file:
            head = self._packet(files[0], 0, file.read(self._header.size))
        records = sum(map(self._announced, files)) if len(files) > 1 else 0
        return TagFileInfo(
            self.name,
            str(path),
            records,
            0,
            self._header.size,
            self.resolution_ps,
            {"files": [str(file) for file in files], "epoch": head.epoch},
            start_unix_ns=head.epoch << 29 if head.extended else 0,
        )

    def _announced(self, path: Path) -> int:
        with path.open("rb") as file:
            head = file.read(self._header.size)
        try:
            return self._packet(path, 0, head).length
        except TagFileError:  # reading will come to it
            return 0

    def _packet(self, path: Path, offset: int, head: bytes) -> _Packet:
        def fail(message: str) -> TagFileError:
            return TagFileError(
                f"{message}: the file is damaged or truncated, or not of format {self.name}",
                path=str(path),
                offset=offset,
            )

        if len(head) < self._header.size:
            raise fail("the header of a packet is cut off")
        tag, epoch, length, *rest = self._header.unpack(head)
        if tag not in (self.kind, self.kind | _EXTENDED):
            raise fail(f"tag {tag:#x} is not {self.kind} or {self.kind | _EXTENDED:#x}")
        extended = tag != self.kind
        if not extended and epoch >= _LOCAL:
            raise fail(f"epoch {epoch:#x} has more than 17 bits")
        if self.kind == 1:
            width, bits = rest
            if width not in (49, 54) or not 1 <= bits <= 4:
                raise fail(f"{width} bits of time and {bits} of pattern are not known")
            return _Packet(epoch, extended, length, 0, bits, 0)
        order, bits, protocol = rest
        # Order 1 has no room for a difference beside the two codes.
        if not (order >= 2 and 1 <= bits <= 8 and order + bits <= 32 and protocol < 256):
            raise fail(
                f"{order} bits of difference, {bits} of value, protocol {protocol} cannot be"
            )
        return _Packet(epoch, extended, length, order, bits, protocol)

    def read(self, info: TagFileInfo, chunk_records: int) -> Iterator[Piece]:
        """Decode the packets of all files."""
        none = np.zeros(0, np.int64)
        begin = 0 if info.start_unix_ns else info.header["epoch"] * _EPOCH_PS
        yield Piece(none, none.astype(np.int16), begin)
        yield from in_order(info, self._clicks(info, chunk_records))

    def _clicks(self, info: TagFileInfo, chunk_records: int) -> Iterator[Decoded]:
        first = base = last = -1
        for name in info.header["files"]:
            path = Path(name)
            with path.open("rb") as file:
                while True:
                    offset = file.tell()
                    head = file.read(self._header.size)
                    if not head:
                        break
                    packet = self._packet(path, offset, head)
                    if first < 0:
                        first = packet.epoch
                        base = first if packet.extended else 0
                    if not abs(packet.epoch - base) <= _LATEST or packet.epoch < first:
                        raise TagFileError(
                            f"epoch {packet.epoch:#x} does not follow {first:#x}:"
                            " the file is damaged, or of another recording",
                            path=name,
                            offset=offset,
                        )
                    start = (packet.epoch - base) * _EPOCH_PS
                    losses: tuple[Loss, ...] = ()
                    if 0 <= last < packet.epoch - 1:
                        losses = (Loss("gap", (last + 1 - base) * _EPOCH_PS, start),)
                    last = max(last, packet.epoch)
                    none = np.zeros(0, np.int64)
                    yield Decoded(none, none.astype(np.int16), none, start, losses)
                    events = self._t1 if self.kind == 1 else self._t2
                    for ticks, patterns in events(file, path, packet, chunk_records):
                        if self.kind == 1:
                            times = start + to_ps(ticks, 125, 32)
                        else:
                            times = start + 125 * ticks
                        if self.kind == 2 and packet.protocol:
                            click = np.arange(times.size)
                            channels = (patterns + 1).astype(np.int16)
                        else:
                            click, channels = pattern_bits(patterns)
                        yield Decoded(times[click], channels, np.full(click.size, offset, np.int64))
        if last >= 0:
            none = np.zeros(0, np.int64)
            end = (last + 1 - base) * _EPOCH_PS - 1
            yield Decoded(none, none.astype(np.int16), none, end)

    def _t1(
        self, file: BinaryIO, path: Path, packet: _Packet, chunk_records: int
    ) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
        done = 0
        while True:
            offset = file.tell()
            data = file.read(8 * chunk_records)
            pairs = np.frombuffer(data, "<u4", len(data) // 8 * 2).reshape(-1, 2)
            events = pairs[:, 0].astype(np.uint64) << np.uint64(32) | pairs[:, 1]
            ends = np.flatnonzero(events == 0)
            count = int(ends[0]) if ends.size else events.size
            events = events[:count]
            done += count
            strange = events >> np.uint64(47) != np.uint64(packet.epoch % _LOCAL)
            if np.any(strange):
                count = int(np.argmax(strange))
                events = events[:count]
            ticks = (events >> np.uint64(10)).astype(np.int64) & ((1 << 37) - 1)
            yield ticks, (events & np.uint64(0xF)).astype(np.int64)
            if np.any(strange):
                raise self._damage(path, offset + 8 * count, "an event of another epoch")
            if ends.size:
                file.seek(offset + 8 * count + 8)
                self._check(path, offset + 8 * count, packet, done)
                return
            if len(data) < 8 * chunk_records:
                raise self._damage(
                    path, offset + len(data) // 8 * 8, "the packet has no end; truncated"
                )

    def _t2(
        self, file: BinaryIO, path: Path, packet: _Packet, chunk_records: int
    ) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
        from ._kernels_qcrypto import unpack

        # An entry may take 3 bits.
        size = min(max(chunk_records // 8, 1), 1 << 14)
        room = (32 * size + 64) // (packet.order + packet.bits) + 2
        times, values = np.zeros(room, np.int64), np.zeros(room, np.int64)
        state = np.zeros(4, np.int64)
        done = 0
        while True:
            offset = file.tell()
            data = file.read(4 * size)
            words = np.frombuffer(data, "<u4", len(data) // 4)
            found, used, ended = unpack(words, packet.order, packet.bits, state, times, values)
            late = np.flatnonzero(times[:found] >= (1 << 32) + _LATE)
            good = int(late[0]) if late.size else found
            done += found
            yield times[:good].copy(), values[:good].copy()
            if late.size:
                raise self._damage(path, offset, "an event after the end of its epoch")
            if ended:
                file.seek(offset + 4 * used)
                self._check(path, offset + 4 * used, packet, done)
                return
            if len(data) < 4 * size:
                raise self._damage(
                    path, offset + len(data) // 4 * 4, "the packet has no end; truncated"
                )

    def _check(self, path: Path, offset: int, packet: _Packet, done: int) -> None:
        if packet.length not in (0, done):
            raise self._damage(
                path, offset, f"the packet announces {packet.length} events and holds {done}"
            )

    def _damage(self, path: Path, offset: int, message: str) -> TagFileError:
        return TagFileError(
            f"{message}: damaged, or not of format {self.name}; copy the file again",
            path=str(path),
            offset=offset,
        )

    def writer(self, file: BinaryIO, about: About) -> QcryptoWriter:
        """Begin a file of packets in a row; it has no place for the clock."""
        fixed_step(self.name, self.resolution_ps, about.resolution_ps)
        return QcryptoWriter(self, file, about.start_unix_ns)

    def folder_writer(self, folder: Path, about: About) -> QcryptoWriter:
        """Begin a folder of one file per epoch."""
        fixed_step(self.name, self.resolution_ps, about.resolution_ps)
        return QcryptoWriter(self, folder, about.start_unix_ns)

    def plausible(self, head: bytes, size: int) -> bool:
        """Whether the head is that of a packet."""
        try:
            self._packet(Path(), 0, head[: self._header.size])
        except TagFileError:
            return False
        return True


class QcryptoWriter:
    """Writes packets, each when its epoch is over.

    Memory: the clicks of one epoch and of a batch.
    """

    def __init__(self, codec: QcryptoCodec, to: BinaryIO | Path, start_unix_ns: int) -> None:
        self._codec = codec
        self._to = to
        self._extended = bool(start_unix_ns)
        self._first, rest = divmod(start_unix_ns, _EPOCH_PS // 1000)
        self._shift_ps = 1000 * rest
        self._following = Following()
        self._epoch: int | None = None  # the one not yet written
        self._ticks: list[npt.NDArray[np.int64]] = []
        self._patterns: list[npt.NDArray[np.int64]] = []
        self._lost: list[Loss] = []

    def write(self, batch: TagBatch) -> None:
        """Append a batch."""
        self._following.check(batch)
        begin, end = batch.begin_ps + self._shift_ps, batch.end_ps + self._shift_ps
        t1 = self._codec.kind == 1
        ticks = to_ps(batch.times_ps + self._shift_ps, *((32, 125) if t1 else (1, 125)))
        ticks, patterns = click_patterns(ticks, batch.channels)
        last = self._first + (end // _EPOCH_PS)
        if begin < 0 or last >= (1 << 32 if self._extended else _LOCAL):
            raise ValueError(
                f"{self._codec.name} counts {'2^32' if self._extended else '2^17'} epochs of"
                f" {_EPOCH_PS * 1e-12:.3f} s from 0; {batch.begin_ps}..{batch.end_ps} ps leave them"
            )
        self._lost += [x for x in batch.losses if x not in self._lost]
        if self._epoch is None:
            self._epoch = self._first + begin // _EPOCH_PS
        bits = 37 if t1 else 32
        epochs = self._first + (ticks >> bits)
        found = np.flatnonzero(np.diff(epochs, prepend=-1)).tolist()
        for at, until in itertools.pairwise([*found, ticks.size]):
            self._upto(int(epochs[at]))
            self._ticks.append(ticks[at:until] & ((1 << bits) - 1))
            self._patterns.append(patterns[at:until])
        # A click may have been rounded up into the next epoch.
        self._upto(max(self._epoch or 0, self._first + end // _EPOCH_PS))
        self._following.end_ps = batch.end_ps

    def finish(self) -> None:
        """Write the last packet."""
        if self._epoch is None or self._following.end_ps is None:
            return
        begin = (self._epoch - self._first) * _EPOCH_PS - self._shift_ps
        if self._ticks or begin < self._following.end_ps:
            self._packet()

    def _upto(self, epoch: int) -> None:
        assert self._epoch is not None
        while self._epoch < epoch:
            begin = (self._epoch - self._first) * _EPOCH_PS - self._shift_ps
            self._packet()
            self._epoch += 1
            self._lost = [x for x in self._lost if x.end_ps > begin + _EPOCH_PS]

    def _packet(self) -> None:
        assert self._epoch is not None
        none = [np.zeros(0, np.int64)]
        ticks = np.concatenate(self._ticks or none)
        patterns = np.concatenate(self._patterns or none)
        self._ticks, self._patterns = [], []
        begin = (self._epoch - self._first) * _EPOCH_PS - self._shift_ps
        if not ticks.size and any(
            x.begin_ps <= begin and x.end_ps >= begin + _EPOCH_PS for x in self._lost
        ):
            return
        tag = self._codec.kind | (_EXTENDED if self._extended else 0)
        if self._codec.kind == 1:
            head = struct.pack("<5I", tag, self._epoch, ticks.size, 49, 4)
            events = (self._epoch % _LOCAL << 37 | ticks).astype(np.uint64) << np.uint64(10)
            events |= patterns.astype(np.uint64)
            events = np.append(events, np.uint64(0))
            pairs = np.stack([events >> np.uint64(32), events & np.uint64(0xFFFFFFFF)], axis=1)
            body = pairs.astype("<u4").tobytes()
        else:
            from ._kernels_qcrypto import pack

            # No difference of 0 or 1: later clicks are pushed as far as it takes.
            room = 2 * np.arange(1, ticks.size + 1)
            ticks = np.maximum.accumulate(np.maximum(ticks - room, 0)) + room
            order = _order(ticks.size)
            words = np.zeros(2 * ticks.size + 4, np.uint32)
            used = pack(np.diff(ticks, prepend=0), patterns, order, 4, words)
            head = struct.pack("<6I", tag, self._epoch, ticks.size, order, 4, 0)
            body = words[:used].astype("<u4").tobytes()
        if isinstance(self._to, Path):
            (self._to / f"{self._epoch:08x}").write_bytes(head + body)
        else:
            self._to.write(head + body)


def _order(events: int) -> int:
    """Bits of a difference that make the packet shortest for clicks at random."""
    mean = max((1 << 32) / max(events, 1), 4.0)
    return int(min(max(round(np.log2(mean) + 2.2), 4), 28))


def epochs_of(folder: Path) -> list[Path]:
    """Return the epoch files of a folder.

    Raises:
        TagFileError: if there is none.
    """
    files = [p for p in folder.iterdir() if _NAME.fullmatch(p.name) and p.is_file()]
    if not files:
        raise TagFileError(
            "is a folder without epoch files (named by 8 hexadecimal digits); name a tag file",
            path=str(folder),
        )
    return files


QCRYPTO_T1 = QcryptoCodec("qcrypto_t1", 1, 125 / 32)
QCRYPTO_T2 = QcryptoCodec("qcrypto_t2", 2, 125.0)
