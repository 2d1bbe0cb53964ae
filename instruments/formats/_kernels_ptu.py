"""Compiled loops over PicoQuant's 32-bit records. Import this module lazily: it loads numba."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ..compiled import compiled

UInt32 = npt.NDArray[np.uint32]
Int16 = npt.NDArray[np.int16]
Int64 = npt.NDArray[np.int64]

#: What a record's code means, where it is no channel (which is -1 or more).
OVERFLOW, MARKER, UNKNOWN = -2, -3, -4
#: Why decoding stopped.
FINE, BAD_CODE, TOO_LATE, BACK = 0, 1, 2, 3
#: Time steps are fixed-point numbers of ps with this many binary places.
PLACES = 44
_HALF_PLACES = PLACES // 2
_LOW = (1 << _HALF_PLACES) - 1
_PLACE_MASK = (1 << PLACES) - 1
_HALF = 1 << (PLACES - 1)
_ONE = np.uint64(1)
_T2_BITS = 25
_T2_MASK = (1 << _T2_BITS) - 1
_SYNC, _OVERFLOW_CODE = 0x40, 0x7F
#: Overflows in one record that we write: ptufile 2026.2.6 multiplies in 32 bits and reads 128 as 0.
MOST_OVERFLOWS = 127


@compiled
def _product(n: int, fraction: int) -> tuple[int, int]:
    """Return n * fraction / 2^PLACES as whole part and rest in 2^-PLACES, without overflow."""
    n1, n0 = n >> _HALF_PLACES, n & _LOW
    f1, f0 = fraction >> _HALF_PLACES, fraction & _LOW
    low = n0 * f0
    middle = n1 * f0 + n0 * f1 + (low >> _HALF_PLACES)
    rest = ((middle & _LOW) << _HALF_PLACES) | (low & _LOW)
    return n1 * f1 + (middle >> _HALF_PLACES), rest


@compiled
def decode_t2(
    records: UInt32,
    meaning: Int16,
    shift: int,
    marker_mask: int,
    unit: int,
    one_each: bool,
    whole: int,
    fraction: int,
    limit: int,
    state: Int64,
    times: Int64,
    channels: Int16,
    filled: int,
) -> int:
    """Decode T2 records behind the first ``filled`` clicks; return how many there are then.

    Args:
        records: As in the file.
        meaning: Channel, or `OVERFLOW`, `MARKER`, `UNKNOWN`, of each code.
        shift: Bits of the time field; the code lies above.
        marker_mask: Bits that make an overflow record a marker (PicoHarp 300), else 0.
        unit: Ticks of one overflow.
        one_each: An overflow record means one overflow, else as many as its time field says.
        whole: Whole ps of a tick.
        fraction: The rest of it, in 2^-PLACES ps.
        limit: Latest possible overflow, in ticks.
        state: [ticks of the overflows, ticks of the last record, record decoding stopped at,
            why]; continued from call to call.
        times: Output, ps.
        channels: Output.
        filled: Clicks that are in the output already.
    """
    base, last = state[0], state[1]
    at = np.uint64(filled)  # unsigned: no test for an index from the end, 1.5 times as fast
    bits = np.uint32(shift)
    mask = np.uint32((1 << shift) - 1)
    state[3] = FINE
    for i in range(records.size):
        record = records[i]
        channel = meaning[np.uint64(record >> bits)]
        if channel >= -1:
            tick = base + np.int64(record & mask)
            if tick < last:
                state[2], state[3] = i, BACK
                break
            last = tick
            if fraction == 0:
                times[at] = tick * whole
            else:
                more, rest = _product(tick, fraction)
                times[at] = tick * whole + more + ((rest + _HALF) >> PLACES)
            channels[at] = channel
            at += _ONE
        elif channel == OVERFLOW:
            if record & np.uint32(marker_mask):
                continue
            count = np.int64(record & mask)
            base += unit if one_each or count == 0 else unit * count
            if base > limit:
                state[2], state[3] = i, TOO_LATE
                break
            last = max(last, base)
        elif channel == UNKNOWN:
            state[2], state[3] = i, BAD_CODE
            break
    state[0], state[1] = base, last
    return int(at)


@compiled
def decode_t3(
    records: UInt32,
    meaning: Int16,
    shift: int,
    sync_bits: int,
    picoharp: bool,
    one_each: bool,
    whole: int,
    fraction: int,
    dtime_whole: int,
    dtime_fraction: int,
    limit: int,
    state: Int64,
    times: Int64,
    channels: Int16,
    filled: int,
) -> int:
    """Decode T3 records, as `decode_t2` does; times need not come out in order.

    ``state`` counts syncs; ``whole`` and ``fraction`` are the sync period, ``dtime_whole`` and
    ``dtime_fraction`` the step of the delay since the sync. ``picoharp``: an overflow code with
    a delay is a marker.
    """
    base, last = state[0], state[1]
    at = np.uint64(filled)
    bits, low_bits = np.uint32(shift), np.uint32(sync_bits)
    mask = np.uint32((1 << sync_bits) - 1)
    delays = np.uint32((1 << (shift - sync_bits)) - 1)
    turn = 1 << sync_bits
    state[3] = FINE
    for i in range(records.size):
        record = records[i]
        channel = meaning[np.uint64(record >> bits)]
        delay = np.int64((record >> low_bits) & delays)
        if channel >= -1:
            sync = base + np.int64(record & mask)
            if sync < last:
                state[2], state[3] = i, BACK
                break
            last = sync
            more, rest = _product(sync, fraction)
            carry = (rest + delay * dtime_fraction + _HALF) >> PLACES
            times[at] = sync * whole + delay * dtime_whole + more + carry
            channels[at] = channel
            at += _ONE
        elif channel == OVERFLOW:
            if picoharp and delay:
                continue
            count = np.int64(record & mask)
            base += turn if one_each or count == 0 else turn * count
            if base > limit:
                state[2], state[3] = i, TOO_LATE
                break
            last = max(last, base)
        elif channel == UNKNOWN:
            state[2], state[3] = i, BAD_CODE
            break
    state[0], state[1] = base, last
    return int(at)


@compiled
def encode_t2(
    ticks: Int64, channels: Int16, at: int, turns: int, out: UInt32
) -> tuple[int, int, int]:
    """Write T2 records of the clicks from ``at`` on, with their overflows, until ``out`` is full.

    Return (records written, click to go on with, overflows up to now).
    """
    written = 0
    while at < ticks.size and written < out.size:
        ahead = (ticks[at] >> _T2_BITS) - turns
        if ahead > 0:
            step = min(ahead, MOST_OVERFLOWS)
            out[written] = (_OVERFLOW_CODE << _T2_BITS) | step
            turns += step
        else:
            channel = np.int64(channels[at])
            code = channel if channel >= 0 else _SYNC
            out[written] = (code << _T2_BITS) | (ticks[at] & _T2_MASK)
            at += 1
        written += 1
    return written, at, turns
