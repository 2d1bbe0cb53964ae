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
breaks this, or turns over without a dummy, is suspicious: reading goes on at the first byte from
which 16 healthy words follow (at the end of the stream: 4 suffice); of neighbouring bytes the
one whose words lie closer together, since words out of step seem 2^8 to 2^24 times farther
apart. The same measure finds the place of the loss in the bytes not yet delivered; where that
fails, the 8 words before are dropped too. A ``"corrupt"`` loss covers the interval. A loss of
whole words leaves no trace; one of 1 or 3 bytes (the box loses 2) may take 1 ms to show. Damage
that began in bytes delivered earlier may leave a few false clicks and shift what follows by one
turnover.

Source: pyS15; that dummies come at every turnover is (unverified) on a real unit.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from ..errors import TagFileError
from ..tags import Loss, TagBatch, TimesPs
from ._common import (
    About,
    Piece,
    RecordWriter,
    TagFileInfo,
    chunks,
    click_patterns,
    error_at,
    fixed_step,
    pattern_clicks,
    plain_info,
    to_ps,
)

__all__ = ["TDC1", "Tdc1Codec", "Tdc1Decoder"]

_TICK_PS = 2000
_TURN = 1 << 27
_BACK = 1 << 24  # a drop of up to this many ticks (2^25 ns) is no turnover
_DUMMY = 0x10
_DISTRUST = 8
_HEALTHY = 16
_FEWEST = 4
_NEVER = 1e9
_SKIPPED = 20.0  # what the logarithm of a healthy step may cost


class Tdc1Decoder:
    """Decodes a TDC1 stream in pieces of any size.

    The last word waits until its successor arrives, since only a later word proves that the
    earlier time is over; so a batch ends at the time of the last word received. Cost: some
    0.1 us per word in pieces of thousands.

    Args:
        resync: Recover from damage; else :meth:`feed` raises `TagFileError` at it.
    """

    def __init__(self, *, resync: bool = True) -> None:
        self._resync = resync
        self._pending = b""
        self._consumed = 0  # bytes before the pending ones
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

        After an error of `feed`, these are the clicks before the damage.

        Raises:
            TagFileError: without ``resync``, for half a word at the end.
        """
        batch = self._decode(final=True)
        if self._pending and not self._resync:
            raise TagFileError("the last word is cut off", offset=self._consumed)
        self._consume(len(self._pending))
        return batch

    def _decode(self, *, final: bool) -> TagBatch:
        begin = self._end_ps
        times: list[TimesPs] = [np.zeros(0, np.int64)]
        patterns: list[npt.NDArray[np.uint32]] = [np.zeros(0, np.uint32)]
        losses: list[Loss] = []
        proven = 0  # words up to here are known to be in step
        while True:
            words = _words(self._pending)
            bad, bases = _check(words, self._last)
            suspect = _first(bad | self._unmarked(words, bases), proven)
            if not self._resync and suspect >= 0:
                word = int(words[suspect])
                self._pending = self._pending[: 4 * suspect]  # what `flush` still gives
                raise TagFileError(
                    f"word {word:#010x} is neither an event nor a dummy, or lies"
                    " just before its predecessor: damaged, or not of format tdc1",
                    offset=self._consumed + 4 * suspect,
                )
            good, resume = words.size, -1
            if suspect >= 0:
                resume = _find(self._pending, 4 * suspect, final=final)
                genuine = not bad[suspect] and (resume == 4 * suspect or (final and resume < 0))
                if genuine:
                    proven = suspect + 1
                    continue
                if resume < 0 and not final:
                    break
                good, resume = self._seam(words, bad, suspect, resume)
            ps = ((words[:good] >> 5).astype(np.int64) + bases[:good] + self._base) * _TICK_PS
            take = good
            if good and suspect < 0 and not final:
                take = int(np.searchsorted(ps, ps[-1]))
                self._end_ps = int(ps[-1])
            elif good:
                self._end_ps = int(ps[-1]) + 1
            if take:
                times.append(ps[:take])
                patterns.append(np.where(words[:take] & _DUMMY, 0, words[:take] & 0xF))
                self._last = int(words[take - 1] >> 5)
                self._base += int(bases[take - 1])
            if suspect < 0:
                self._consume(4 * take)
                break
            since = self._end_ps
            if resume < 0:
                self._consume(len(self._pending))
                self._end_ps += 1
                losses.append(Loss("corrupt", since, self._end_ps))
                break
            self._consume(resume)
            first = int(_words(self._pending)[0] >> 5)
            if first <= self._last:
                self._base += _TURN
            self._last = first - 1  # the turnover is counted
            losses.append(Loss("corrupt", since, (self._base + first) * _TICK_PS))
            proven = 1
        clicks, channels = pattern_clicks(np.concatenate(times), np.concatenate(patterns))
        return TagBatch(clicks, channels, begin, self._end_ps, losses=tuple(losses))

    def _consume(self, count: int) -> None:
        self._pending = self._pending[count:]
        self._consumed += count

    def _unmarked(
        self, words: npt.NDArray[np.uint32], bases: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.bool_]:
        """Turnovers without a dummy: what a stream out of step also looks like."""
        if not self._resync:
            return np.zeros(words.size, np.bool_)
        return np.asarray((np.diff(bases, prepend=0) > 0) & ((words & 0x1F) != _DUMMY))

    def _seam(
        self,
        words: npt.NDArray[np.uint32],
        bad: npt.NDArray[np.bool_],
        suspect: int,
        resume: int,
    ) -> tuple[int, int]:
        """Return how many words were in step, and the byte from which they are again.

        Bytes may have been lost long before the first suspicious word. Words out of step seem
        to lie far apart, so the seam is where words lie closest together in all.
        """
        careful = max(0, suspect - _DISTRUST)
        if resume < 0:
            return careful, resume
        shift = resume % 4
        after = _words(self._pending[shift : resume + 8])  # the first may still be a lone stray
        first = int(after[0] >> 5)
        until = _distance(words[:suspect], self._last, bad[:suspect])
        until = np.concatenate([[0.0], np.cumsum(until)])
        since = _distance(after, first, _check(after, first)[0])
        since = np.concatenate([np.cumsum(since[:0:-1])[::-1], [0.0]])
        since[_invalid(after)] = _NEVER
        ends = np.concatenate([[self._last], (words[:suspect] >> 5).astype(np.int64)])
        starts = (after >> 5).astype(np.int64)
        best, least = (careful, resume), _NEVER
        # The cut may have left a stray word or two; in the same step it surely has.
        for skipped in range(int(not shift), min(3, starts.size)):
            count = min(ends.size, starts.size - skipped)
            gaps = (starts[skipped:][:count] - ends[:count] - 1) % _TURN  # never the same time
            cost = until[:count] + np.log2(2.0 + gaps) + since[skipped:][:count]
            cost += skipped * _SKIPPED
            seam = int(np.argmin(cost))
            if cost[seam] < least:
                best, least = (seam, 4 * (seam + skipped) + shift), float(cost[seam])
        return best


def _words(data: bytes) -> npt.NDArray[np.uint32]:
    return np.frombuffer(data, "<u4", len(data) // 4)


def _first(flags: npt.NDArray[np.bool_], start: int) -> int:
    found = np.flatnonzero(flags[start:])
    return start + int(found[0]) if found.size else -1


def _invalid(words: npt.NDArray[np.uint32]) -> npt.NDArray[np.bool_]:
    codes = words & 0x1F
    return np.asarray((codes == 0) | (codes > _DUMMY))


def _check(
    words: npt.NDArray[np.uint32], last: int
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.int64]]:
    """Return which words are unhealthy, and the turns up to each word, in ticks."""
    steps = np.diff((words >> 5).astype(np.int64), prepend=last)
    turn = np.where((words & 0x1F) == _DUMMY, steps <= 0, steps < -_BACK)
    bad = _invalid(words) | ((steps < 0) & ~turn)
    return bad, np.cumsum(turn) * _TURN


def _distance(
    words: npt.NDArray[np.uint32], last: int, bad: npt.NDArray[np.bool_]
) -> npt.NDArray[np.float64]:
    """Return the logarithm of the ticks that seem to pass before each word.

    Its sum tells words in step from words out of step; unhealthy ones lie endlessly far.
    """
    steps = np.mod(np.diff((words >> 5).astype(np.int64), prepend=last), _TURN)
    return np.where(bad, _NEVER, np.log2(1.0 + steps))


def _find(data: bytes, start: int, *, final: bool) -> int:
    """Return the byte at or after ``start`` from which healthy words follow, or -1."""
    codes = np.frombuffer(data, np.uint8)[start:] & 0x1F
    valid = (codes >= 1) & (codes <= _DUMMY)
    count = min(_HEALTHY, codes.size // 4) if final else _HEALTHY
    starts = codes.size - 4 * count + 1
    if count < _FEWEST or starts <= 0:
        return -1
    run = np.logical_and.reduce([valid[4 * k : 4 * k + starts] for k in range(count)])
    best, least = -1, _NEVER
    for place in np.flatnonzero(run).tolist():
        if best >= 0 and place > best + 7:  # the cut may spoil the first word in step
            break
        words = np.frombuffer(data, "<u4", count, start + place)
        first = int(words[0] >> 5) - 1
        seems = float(_distance(words, first, _check(words, first)[0]).sum())
        if seems < least:
            best, least = place, seems
    return start + best if best >= 0 else -1


class _Encoder:
    """Makes the words of batches, with a dummy for every turnover since the recording began."""

    def __init__(self) -> None:
        self._turns = 0

    def __call__(self, batch: TagBatch) -> bytes:
        ticks, patterns = click_patterns(to_ps(batch.times_ps, 1, _TICK_PS), batch.channels)
        if batch.begin_ps < 0:
            raise ValueError(f"tdc1 counts from 0, not from {batch.begin_ps} ps")
        upto = max((batch.end_ps - 1) // _TICK_PS, int(ticks[-1]) if ticks.size else 0) // _TURN
        turns = np.arange(self._turns + 1, upto + 1) * _TURN
        self._turns = max(self._turns, upto)
        # A turnover's dummy comes before an event at the same tick.
        all_ticks = np.concatenate([turns, ticks])
        codes = np.concatenate([np.full(turns.size, _DUMMY), patterns])
        order = np.argsort(all_ticks, kind="stable")
        words = ((all_ticks[order] % _TURN) << 5 | codes[order]).astype("<u4")
        return bytes(words.tobytes())


class Tdc1Codec:
    """Reader and writer of recorded words."""

    begin_ps: int | None = None

    def describe(self, path: Path, size: int) -> TagFileInfo:
        """Describe a file of words."""
        return plain_info("tdc1", path, size, 4, float(_TICK_PS))

    def read(self, info: TagFileInfo, chunk_records: int) -> Iterator[Piece]:
        """Decode the words; damage is an error."""
        decoder = Tdc1Decoder(resync=False)
        damage: TagFileError | None = None
        source = chunks(info, "<u4", chunk_records)
        while damage is None:
            try:
                _, words = next(source)
                batch = decoder.feed(words.tobytes())
            except StopIteration:
                break
            except TagFileError as error:
                damage = error
                if not error.path:
                    damage = error_at(info, (error.offset or 0) // 4, str(error))
                break
            yield Piece(batch.times_ps, batch.channels, batch.end_ps)
        batch = decoder.flush()
        if batch.end_ps:
            yield Piece(batch.times_ps, batch.channels, batch.end_ps - 1)
        if damage is not None:
            raise damage from None

    def writer(self, file: BinaryIO, about: About) -> RecordWriter:
        """Begin a file; it has no place for start and clock."""
        fixed_step("tdc1", float(_TICK_PS), about.resolution_ps)
        return RecordWriter(file, _Encoder())

    def plausible(self, head: bytes, size: int) -> bool:
        """Whether the head is all healthy words."""
        words = _words(head)
        return words.size >= _FEWEST and not _check(words, 0)[0].any()


TDC1 = Tdc1Codec()
