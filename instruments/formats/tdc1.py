"""S-Fifteen TDC1: a stream of 32-bit words, from a file or live from the serial port.

Word, little-endian: bits 31-5 time in 2 ns (27 bits, turns over every 2^28 ns = 268.4 ms),
bit 4 = dummy word that marks a turnover (no event), bits 3-0 = inputs 1..4 that fired, several
at once being several clicks at one time. Whole ps: nothing is rounded. Time counts from the
counter's zero before the first word.

**Turnovers.** A dummy that is not later than the word before it is a turnover, however small the
drop, so silent inputs cost nothing. Without dummies a drop of more than 2^25 ns is one (the
vendor library's rule).

**Resynchronisation.** At high rates the box loses bytes. A healthy word has bits 4-0 of 1..15
(event) or 16 (dummy), and never lies up to 2^25 ns before its predecessor. The first word that
breaks this is damage: it and the 8 words before it (as far as they were not delivered yet) are
dropped, and reading goes on at the first byte from which 16 healthy words follow (at the end of
the stream: fewer). A ``"corrupt"`` loss covers the interval. A gap of more than one turnover
inside the damage cannot be noticed.

Source: pyS15; that dummies come at every turnover is (unverified) on a real unit.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..errors import TagFileError
from ..tags import Loss, TagBatch, TimesPs
from ._common import (
    Piece,
    TagFileInfo,
    chunks,
    click_patterns,
    error_at,
    pattern_clicks,
    plain_info,
)

__all__ = ["TDC1", "Tdc1Codec", "Tdc1Decoder"]

_TICK_PS = 2000
_TURN = 1 << 27
_BACK = 1 << 24  # a drop of up to this many ticks (2^25 ns) is no turnover
_DUMMY = 0x10
_DISTRUST = 8
_HEALTHY = 16
_FEWEST = 4


class Tdc1Decoder:
    """Decodes a TDC1 stream in pieces of any size.

    The last word waits until its successor arrives, since only a later word proves that the
    earlier time is over; so a batch ends at the time of the last word received. Cost: some
    20 ns per word in pieces of thousands.

    Args:
        resync: Recover from damage; else :meth:`feed` raises `TagFileError` at it.
    """

    def __init__(self, *, resync: bool = True) -> None:
        self._resync = resync
        self._pending = b""
        self._consumed = 0  # bytes before the pending ones
        self._lost = False
        self._last = 0  # the word before the pending ones: ticks within its turn,
        self._base = 0  # and ticks up to its turn
        self._end_ps = 0

    def feed(self, data: bytes) -> TagBatch:
        """Decode more bytes; return the clicks before the last whole word's time.

        Raises:
            TagFileError: for damage, without ``resync``; its offset counts from the first byte.
        """
        self._pending += data
        return self._decode(final=False)

    def flush(self) -> TagBatch:
        """Return what still waits; the stream is over. The batch ends 1 ps after the last word.

        Raises:
            TagFileError: without ``resync``, for half a word at the end.
        """
        batch = self._decode(final=True)
        if self._pending and not self._resync:
            raise TagFileError("the last word is cut off", offset=self._consumed)
        self._consume(len(self._pending))
        return batch

    def _decode(self, *, final: bool) -> TagBatch:
        begin, since = self._end_ps, self._end_ps
        times: list[TimesPs] = [np.zeros(0, np.int64)]
        patterns: list[npt.NDArray[np.uint32]] = [np.zeros(0, np.uint32)]
        losses: list[Loss] = []
        while True:
            if self._lost:
                since = self._end_ps
                if not self._find(final=final):
                    if final:
                        self._end_ps += 1
                        losses.append(Loss("corrupt", since, self._end_ps))
                    break
                self._lost = False
                first = int(_words(self._pending)[0] >> 5)
                if first <= self._last:
                    self._base += _TURN
                self._last = first - 1  # the turnover is counted
                losses.append(Loss("corrupt", since, (self._base + first) * _TICK_PS))
            words = _words(self._pending)
            bad, bases = _check(words, self._last)
            if bad >= 0 and not self._resync:
                raise TagFileError(
                    f"word {int(words[bad]):#010x} is neither an event nor a dummy, or lies just"
                    " before its predecessor: damaged, or not of format tdc1",
                    offset=self._consumed + 4 * bad,
                )
            good = words.size if bad < 0 else max(0, bad - _DISTRUST)
            ps = ((words[:good] >> 5).astype(np.int64) + bases[:good] + self._base) * _TICK_PS
            take = good
            if good and bad < 0 and not final:
                take = int(np.searchsorted(ps, ps[-1]))
                self._end_ps = int(ps[-1])
            elif good:
                self._end_ps = int(ps[-1]) + 1
            if take:
                times.append(ps[:take])
                patterns.append(np.where(words[:take] & _DUMMY, 0, words[:take] & 0xF))
                self._last = int(words[take - 1] >> 5)
                self._base += int(bases[take - 1])
            self._consume(4 * take)
            if bad < 0:
                break
            self._lost = True
        clicks, channels = pattern_clicks(np.concatenate(times), np.concatenate(patterns))
        return TagBatch(clicks, channels, begin, self._end_ps, losses=tuple(losses))

    def _consume(self, count: int) -> None:
        self._pending = self._pending[count:]
        self._consumed += count

    def _find(self, *, final: bool) -> bool:
        """Drop bytes until the pending ones begin with healthy words; say whether they do."""
        codes = np.frombuffer(self._pending, np.uint8) & 0x1F
        valid = (codes >= 1) & (codes <= _DUMMY)
        count = _HEALTHY
        if final:
            count = min(_HEALTHY, len(self._pending) // 4)
            if count < _FEWEST:
                return False
        starts = valid.size - 4 * count + 1
        if starts <= 0:
            return False
        run = np.logical_and.reduce([valid[4 * k : 4 * k + starts] for k in range(count)])
        for start in np.flatnonzero(run).tolist():
            words = np.frombuffer(self._pending, "<u4", count, start)
            if _check(words, int(words[0] >> 5) - 1)[0] < 0:
                self._consume(start)
                return True
        self._consume(starts)
        return self._find(final=final) if final else False


def _words(data: bytes) -> npt.NDArray[np.uint32]:
    return np.frombuffer(data, "<u4", len(data) // 4)


def _check(words: npt.NDArray[np.uint32], last: int) -> tuple[int, npt.NDArray[np.int64]]:
    """Return the index of the first unhealthy word (or -1) and the turns before each, in ticks."""
    codes = words & 0x1F
    dummy = codes == _DUMMY
    steps = np.diff((words >> 5).astype(np.int64), prepend=last)
    turn = np.where(dummy, steps <= 0, steps < -_BACK)
    bad = np.flatnonzero((codes == 0) | (codes > _DUMMY) | ((steps < 0) & ~turn))
    return int(bad[0]) if bad.size else -1, np.cumsum(turn) * _TURN


class Tdc1Codec:
    """Reader and writer of recorded words."""

    begin_ps: int | None = None

    def describe(self, path: Path, size: int) -> TagFileInfo:
        """Describe a file of words."""
        return plain_info("tdc1", path, size, 4, float(_TICK_PS))

    def read(self, info: TagFileInfo, chunk_records: int) -> Iterator[Piece]:
        """Decode the words; damage is an error."""
        decoder = Tdc1Decoder(resync=False)
        try:
            for _, words in chunks(info, "<u4", chunk_records):
                batch = decoder.feed(words.tobytes())
                yield Piece(batch.times_ps, batch.channels, batch.end_ps)
            batch = decoder.flush()
        except TagFileError as error:
            if error.path:
                raise
            raise error_at(info, (error.offset or 0) // 4, str(error)) from None
        yield Piece(batch.times_ps, batch.channels, batch.end_ps - 1)

    def encode(self, batch: TagBatch, *, after_ps: int = 0) -> bytes:
        """Return the words of a batch, times rounded down to 2 ns, with a dummy per turnover.

        Args:
            batch: Clicks of channels 1..4.
            after_ps: Time up to which dummies have been written already.

        Raises:
            ValueError: for other channels, or clicks before ``after_ps``.
        """
        ticks, patterns = click_patterns(batch.times_ps // _TICK_PS, batch.channels)
        first = after_ps // _TICK_PS // _TURN + 1
        turns = np.arange(first, (batch.end_ps - 1) // _TICK_PS // _TURN + 1) * _TURN
        if ticks.size and int(ticks[0]) < after_ps // _TICK_PS:
            raise ValueError(f"clicks before {after_ps} ps are late")
        # A turnover's dummy comes before an event at the same tick.
        all_ticks = np.concatenate([turns, ticks])
        codes = np.concatenate([np.full(turns.size, _DUMMY), patterns])
        order = np.argsort(all_ticks, kind="stable")
        words = ((all_ticks[order] % _TURN) << 5 | codes[order]).astype("<u4")
        return bytes(words.tobytes())

    def plausible(self, head: bytes, size: int) -> bool:
        """Whether the head is all healthy words."""
        words = _words(head)
        return size % 4 == 0 and words.size >= _FEWEST and _check(words, 0)[0] < 0


TDC1 = Tdc1Codec()
