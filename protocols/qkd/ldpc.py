"""One-way reconciliation by syndromes of LDPC codes, with more redundancy where decoding fails.

Alice sends the syndrome of her bits; Bob adds that of his own and looks for the error pattern of
the sum. Frames that he cannot decode get further checks on the same bits (incremental redundancy),
in at most ``ROUNDS`` rounds. Both derive every size from the number of bits, the error rate and the
round, so a message holds nothing but parities, and **each bit sent is one bit of leak**.

Two families of quasi-cyclic codes, chosen by rate and made on the spot from published structures:

- up to 0.42 bit of leak per bit: the degree distributions of Elkouss, Leverrier, Alleaume, Boutros,
  ISIT 2009 (arXiv:0901.2140), Table I, mixed linearly (by number of columns) between the two
  nearest rates, with rows as equal in degree as can be, and with the columns of degree 2 in a
  chain; further rounds split rows in two;
- above: base graph 1 of 3GPP TS 38.212, Table 5.3.2-2, cut to the rows needed, the last one in
  part. Its two punctured columns are no bits of the key. Usually they are random, which hides as
  many bits of the syndrome (leak = checks - punctured: Elkouss, Martinez-Mateo, Martin,
  arXiv:1006.2660). Here Alice chooses them so that the checks of rows 0 and 1 are zero, which
  therefore need not be sent: the same code and the same leak, without random bits and without an
  argument about what they hide.

Shifts are free of 4-cycles. Words of Philox4x64-10, under a key that is the BLAKE2b digest of the
code's sizes, decide what structure leaves open, so that other programs can make the same codes.

The bits of a block are spread over its frames, and over the columns of each, by the map
``place -> (start + step place) mod n``; start and step follow from the public key. Bursts of errors
are spread so; nothing secret depends on it.

Which frames Bob wants more of follows from his errors, and so does the number of bits sent in all.
A proof of a fixed length therefore reserves what it allows (between the two figures of
:func:`leak_budget`) and gives the block up beyond it. That his list of frames says nothing of the
key but what its parities say is assumed, as for the questions of Cascade
(``docs/security.md``).

Decoding is layered, with the box-plus of A-min* in 16-bit integers (see the kernels). What decodes
satisfies every parity; whether it is right, only verification by a universal hash can tell.
"""

from __future__ import annotations

import functools
import hashlib
import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ...instruments import ProtocolError
from .finite_key import binary_entropy
from .randomness import philox_words

__all__ = [
    "ERROR_RATES",
    "MAX_BITS",
    "MIN_BITS",
    "ROUNDS",
    "Corrector",
    "LeakBudget",
    "Reference",
    "leak_budget",
]

Bits = npt.NDArray[np.uint8]
Indices = npt.NDArray[np.int64]

MIN_BITS = 4096
MAX_BITS = 1 << 31
#: Error rates that the codes are made for. Below, Cascade leaks less; above, there is no key.
ERROR_RATES = (0.012, 0.12)
#: Rounds after the first syndrome. Together they nearly double it.
ROUNDS = 5

_FRAME = 1 << 18
_ITERATIONS = 60
_LANES = 32  # of the kernels
_STEP = 0.03  # of the first syndrome: added in the first round, then twice that, ...
_EXTRA_DEGREE = 5  # of further checks on the base graph
_PROTOGRAPH_FROM = 0.42  # leak per bit
_COLUMNS = 400
# Error rates, and leak / (n h(Q)) of very long frames there, as measured.
_LIMIT = (
    (0.012, 0.0185, 0.027, 0.055, 0.07, 0.085, 0.097, 0.11),
    (1.09, 1.068, 1.075, 1.08, 1.087, 1.075, 1.062, 1.055),
)
_KNOWN = 8191  # LLR of bits that are known, in units of the kernels

# Leak per bit: degree and fraction of the edges, of the columns of each degree.
_DEGREES = """
.15: 2 .04528 3 .20537 4 .05878 5 .094274 6 .08454 7 .01176 9 .05137 21 .50015
.20: 2 .09420 3 .18088 6 .11972 7 .08550 9 .09816 17 .07194 26 .34960
.25: 2 .10805 3 .09511 4 .01449 5 .13764 6 .10667 7 .05288 28 .01107 31 .47408
.30: 2 .05343 3 .29406 6 .00896 9 .15571 12 .12189 25 .19872 46 .09572 62 .02741 65 .04056 73 .00354
.35: 2 .10451 3 .15652 4 .08057 5 .00056 9 .12151 13 .10485 15 .10719 21 .00771 51 .31656
.40: 2 .11040 3 .20804 8 .14163 9 .14858 26 .14438 27 .08909 46 .00748 71 .15038
.45: 2 .16880 3 .20994 6 .18095 15 .03846 16 .02635 18 .23454 19 .05815 31 .08280
"""

# Columns of each row of base graph 1; row r > 3 has column 22 + r besides, which no other row has.
_BASE_GRAPH = """
0 1 2 3 5 6 9 10 11 12 13 15 16 18 19 20 21 22 23/0 2 3 4 5 7 8 9 11 12 14 15 16 17 19 21 22 23 24/
0 1 2 4 5 6 7 8 9 10 13 14 15 17 18 19 20 24 25/0 1 3 4 6 7 8 10 11 12 13 14 16 17 18 20 21 22 25/
0 1/0 1 3 12 16 21 22/0 6 10 11 13 17 18 20/0 1 4 7 8 14/0 1 3 12 16 19 21 22 24/0 1 10 11 13 17 18
20/1 2 4 7 8 14/0 1 12 16 21 22 23/0 1 10 11 13 18/0 3 7 20 23/0 12 15 16 17 21/0 1 10 13 18 25/1 3
11 20 22/0 14 16 17 21/1 12 13 18 19/0 1 7 8 10/0 3 9 11 22/1 5 16 20 21/0 12 13 17/1 2 10 18/0 3 4
11 22/1 6 7 14/0 2 4 15/1 6 8/0 4 19 21/1 14 18 25/0 10 13 24/1 7 22 25/0 12 14 24/1 2 11 21/0 7 15
17/1 6 12 22/0 14 15 18/1 13 23/0 9 10 12/1 3 7 19/0 8 17/1 3 9 18/0 4 24/1 16 18 25/0 7 9 22/1 6
10
"""
_HIDDEN = 2  # punctured columns of the base graph, the first ones
_CORE = 4  # its rows without a bit of their own
_COPIES = 8  # of the base graph, joined at random before it is lifted


class _Shape(NamedTuple):
    """Sizes of a frame; all that a code depends on."""

    protograph: bool
    columns: int  # with lanes in the decoder: bits of the key and hidden ones
    lifting: int
    first: int  # bits of the first syndrome


class _Plan(NamedTuple):
    """How a block is cut."""

    frames: int
    size: int  # bits of a frame; the last has up to ``frames - 1`` less
    shape: _Shape


class LeakBudget(NamedTuple):
    """What the reconciliation of a block leaks, known before it begins.

    Attributes:
        syndrome: Bits of the first message, and all there is where every frame decodes.
        most: Bits where every frame asks for all rounds.
        efficiency: ``syndrome / (n h(error_rate))``.
        frames: Number of frames.
    """

    syndrome: int
    most: int
    efficiency: float
    frames: int


def leak_budget(n: int, error_rate: float) -> LeakBudget:
    """What reconciling ``n`` bits will leak.

    About one frame of a hundred, seven near 1.9 %, asks for the first further round, of 3 % of its
    syndrome, where the error rate is as said. Of small blocks ``most`` can exceed ``n``: no key is
    left then.

    Raises:
        ValueError: for a block or an error rate that the codes are not made for.
    """
    plan = _plan(n, error_rate)
    rounds = sum(_bits_of_round(plan.shape, index) for index in range(ROUNDS + 1))
    first = plan.frames * plan.shape.first
    efficiency = first / (n * binary_entropy(error_rate))
    return LeakBudget(first, plan.frames * rounds, efficiency, plan.frames)


def _plan(n: int, error_rate: float) -> _Plan:
    if not MIN_BITS <= n <= MAX_BITS:
        raise ValueError(f"LDPC reconciles {MIN_BITS} to 2^31 bits at a time, not {n}")
    if not ERROR_RATES[0] <= error_rate <= ERROR_RATES[1]:
        low, high = (f"{100 * rate:g} %" for rate in ERROR_RATES)
        raise ValueError(
            f"the LDPC codes are for error rates of {low} to {high}, not {error_rate:.3%}: "
            "take Cascade"
        )
    frames = -(-n // _FRAME)
    size = -(-n // frames)
    leak = _efficiency(size, error_rate) * binary_entropy(error_rate)
    if leak < _PROTOGRAPH_FROM:
        lifting = max(64, 64 * round(size / _COLUMNS / 64))
        rows = math.ceil(leak * size / lifting)
        return _Plan(frames, size, _Shape(False, -(-size // lifting), lifting, rows * lifting))
    first = _LANES * math.ceil(leak * size / _LANES)
    # 24 columns of the core, and one bit for each further check, of which two lifts are not sent.
    lifts = (size - first) / 22
    copies = min(max(int(lifts / 128), 1), _COPIES)
    lifting = max(64, _LANES * math.ceil(lifts / copies / _LANES))
    return _Plan(frames, size, _Shape(True, 26 * copies, lifting, first))


def _efficiency(size: int, error_rate: float) -> float:
    """Aim of leak / (n h(Q)): few frames of a hundred fail in the first round."""
    q = error_rate
    spread = math.sqrt(q * (1 - q) / size) * math.log2((1 - q) / q) / binary_entropy(q)
    return float(np.interp(q, *_LIMIT)) + 4.0 * spread


def _bits_of_round(shape: _Shape, index: int) -> int:
    """Parities of a frame in the first syndrome (round 0) and after it."""
    if index == 0:
        return shape.first
    if shape.protograph:
        return _LANES * math.ceil(_STEP * (1 << index >> 1) * shape.first / _LANES)
    return (_split(shape, index) - _split(shape, index - 1)) * shape.lifting


def _split(shape: _Shape, rounds: int) -> int:
    """Rows of an irregular code that are split in two after so many rounds."""
    return max(rounds, round(_STEP * ((1 << rounds) - 1) * (shape.first // shape.lifting)))


class _Code(NamedTuple):
    """Arrays of a code, as the kernels take them, up to some round."""

    row_start: Indices
    column: Indices
    shift: npt.NDArray[np.uint64]
    has_own: npt.NDArray[np.bool_]
    length: Indices
    first_row: tuple[int, ...]  # of each round, and the end
    hidden: int

    @property
    def rows(self) -> int:
        return self.length.size


@functools.lru_cache(maxsize=64)
def _code(shape: _Shape, rounds: int) -> _Code:
    """The code of the first syndrome and of ``rounds`` rounds after it."""
    from . import _kernels_ldpc as kernels

    lifting, copies = shape.lifting, shape.columns // 26
    hidden = _HIDDEN * copies if shape.protograph else 0
    sent = [_bits_of_round(shape, index) for index in range(rounds + 1)]
    checks = [sent[0] + hidden * lifting, *sent[1:]]
    first_row = np.cumsum([0] + [-(-count // lifting) for count in checks]).tolist()
    base, end = first_row[1], first_row[-1]
    length = np.full(end, lifting, dtype=np.int64)
    for count, last in zip(checks, first_row[1:], strict=True):
        length[last - 1] -= -count % lifting

    if shape.protograph:
        rows, columns = _protograph_edges(base, copies)
    else:
        rows, columns = _irregular_edges(shape.columns, base)
    digest = hashlib.blake2b(f"bellbench ldpc/1/{tuple(shape)}".encode(), digest_size=16)
    key = int.from_bytes(digest.digest(), "little")
    shifts = np.full((end, shape.columns), -1, dtype=np.int64)
    kernels.place(
        np.array(rows, dtype=np.int64),
        np.array(columns, dtype=np.int64),
        philox_words(key, 0, 2 * len(rows)),
        shifts[:base],
        np.zeros(shape.columns, dtype=np.int64),
        lifting,
    )
    own = np.zeros(end, dtype=np.bool_)
    if shape.protograph:
        own[_CORE * copies : base] = True
        more = np.repeat(np.arange(base, end), _EXTRA_DEGREE)
        load = np.zeros(shape.columns, dtype=np.int64)
        load[:hidden] = 1 << 30
        kernels.place(
            more,
            np.full(more.size, -1, dtype=np.int64),
            philox_words(key, 2 * len(rows), 2 * more.size),
            shifts,
            load,
            lifting,
        )
    else:
        for old in range(_split(shape, rounds)):
            odd = np.flatnonzero(shifts[old] >= 0)[1::2]
            shifts[base + old, odd] = shifts[old, odd]
            shifts[old, odd] = -1
    row, column = np.nonzero(shifts >= 0)
    return _Code(
        np.searchsorted(row, np.arange(end + 1)),
        column,
        shifts[row, column].astype(np.uint64),
        own,
        length,
        tuple(first_row),
        hidden,
    )


_Edges = tuple[list[int], list[int]]  # rows, columns


def _protograph_edges(rows: int, copies: int) -> _Edges:
    # Circulants alone commute, so that a few columns of the base graph with few edges would hold
    # light codewords at any lifting (Smarandache, Vontobel, IEEE Trans. IT 58, 585 (2012)).
    # Copies joined by permutations that do not commute have none.
    # Hidden columns stay first; the accumulator comes next, so that the last columns, whose last
    # bits a short frame lacks, are ordinary ones.
    order = {0: 0, 1: 1} | {old: old - 20 for old in range(22, 26)}
    order |= {old: old + 4 for old in range(2, 22)}
    table = [[order[int(word)] for word in row.split()] for row in _BASE_GRAPH.split("/")]
    index = [row for row in range(rows) for _ in table[row // copies]]
    words = philox_words(0, 0, 46 * 26 * copies).reshape(46, 26, copies)
    orders = np.argsort(words, axis=2, kind="stable")
    column = [
        copies * c + int(orders[row // copies, c, row % copies])
        for row in range(rows)
        for c in table[row // copies]
    ]
    return index, column


def _irregular_edges(columns: int, rows: int) -> _Edges:
    designs = _designs()
    leak = rows / columns
    above = next((i for i, (rate, _) in enumerate(designs) if rate >= leak), len(designs) - 1)
    (lower, few), (upper, many) = designs[max(above - 1, 0)], designs[max(above, 1)]
    weight = min(max((leak - lower) / (upper - lower), 0.0), 1.0)
    share = {
        degree: (1.0 - weight) * few.get(degree, 0.0) + weight * many.get(degree, 0.0)
        for degree in sorted(few.keys() | many.keys())
    }
    degrees: list[int] = []
    so_far = 0.0
    for degree, part in share.items():
        so_far += part
        degrees += [degree] * (round(so_far * columns) - len(degrees))
    # Columns of degree 2 make a chain from row to row: a cycle of them would be a light codeword.
    chain = min(degrees.count(2), rows - 1)
    index = [column for column in range(chain) for _ in range(2)]
    order = [row + i for row in range(chain) for i in range(2)]
    for column in range(chain, columns):
        degree = max(degrees[column], 3)
        index += [column] * degree
        order += [-1] * degree
    return order, index


def _designs() -> list[tuple[float, dict[int, float]]]:
    """Leak per bit, and fraction of the columns of each degree."""
    designs = []
    for line in _DEGREES.strip().splitlines():
        leak, rest = line.split(":")
        words = rest.split()
        columns = {int(d): float(e) / int(d) for d, e in zip(words[::2], words[1::2], strict=True)}
        total = sum(columns.values())
        designs.append((float(leak), {degree: c / total for degree, c in columns.items()}))
    return designs


def _is_line(value: object, dtype: type[np.generic]) -> bool:
    return isinstance(value, np.ndarray) and value.dtype == np.dtype(dtype) and value.ndim == 1


class _Party:
    """What both parties do: cut the block in frames and compute their parities."""

    def __init__(self, bits: Bits, error_rate: float, key: int) -> None:
        self._plan = _plan(bits.size, error_rate)
        n = bits.size
        start, *steps = philox_words(key, 0, 1 + 256).tolist()
        self._start = start % n
        self._step = next(step % n for step in steps if math.gcd(step % n, n) == 1)
        self._bits = bits
        self._round = 0

    def _place(self, frame: int) -> tuple[int, int]:
        """Place of the first bit of a frame in the block, and number of its bits."""
        first = frame * self._plan.size
        n = self._bits.size
        return (self._start + self._step * first) % n, min(self._plan.size, n - first)

    def _parities(self, frame: int, index: int) -> Bits:
        """Parities of a frame in round ``index``, in the order in which they are sent."""
        from . import _kernels_ldpc as kernels

        shape = self._plan.shape
        code = _code(shape, index)
        start, count = self._place(frame)
        bits = np.zeros(count, dtype=np.uint8)
        kernels.gather(self._bits, start, self._step, bits)
        own = shape.first - code.hidden * shape.lifting if code.hidden else 0
        columns = np.zeros((shape.columns, shape.lifting), dtype=np.uint8)
        columns[code.hidden :].reshape(-1)[: count - own] = bits[: count - own]
        out = np.zeros((code.rows, shape.lifting), dtype=np.uint8)
        graph = (code.row_start, code.column, code.shift, code.length)
        if code.hidden:
            # Row 1 has the hidden column 0 and not 1; row 0 has both.
            copies = code.hidden // _HIDDEN
            for row in (*range(copies, 2 * copies), *range(copies)):
                kernels.parities(columns, *graph, row, row + 1, out)
                edge = code.row_start[row] + (0 if row >= copies else 1)
                columns[code.column[edge]] = np.roll(out[row], int(code.shift[edge]))
        first = code.first_row[index]
        kernels.parities(columns, *graph, first, code.rows, out)
        if index == 0 and own:
            core = _CORE // _HIDDEN * code.hidden
            out[core:].reshape(-1)[:own] ^= bits[count - own :]
        first += code.hidden if index == 0 else 0
        return out[first:].reshape(-1)[: _bits_of_round(shape, index)]


class Reference(_Party):
    """The party whose bits are taken as right: sends parities and changes nothing.

    Args:
        bits: uint8 zeros and ones, ``MIN_BITS`` to ``MAX_BITS``.
        error_rate: The estimate that the corrector uses too; sizes follow from it.
        key: Public key of the order of the bits, 0 <= key < 2^128.

    Raises:
        ValueError: for a block or an error rate that the codes are not made for.
    """

    def __init__(self, bits: Bits, error_rate: float, key: int) -> None:
        super().__init__(bits, error_rate, key)
        self._open: Indices | None = None

    def syndrome(self) -> Bits:
        """The first message: parities of every frame, uint8.

        Raises:
            ProtocolError: where it was asked for before.
        """
        if self._open is not None:
            raise ProtocolError("the syndrome of this block was sent before")
        self._open = np.arange(self._plan.frames, dtype=np.int64)
        return np.concatenate([self._parities(frame, 0) for frame in self._open.tolist()])

    def more(self, frames: Indices) -> Bits:
        """Further parities of frames that did not decode.

        Args:
            frames: Increasing, int64; of those asked for before, if any were.

        Raises:
            ProtocolError: for other frames, or after ``ROUNDS`` rounds.
        """
        if self._open is None:
            raise ProtocolError("more parities were asked for before the first were sent")
        if self._round == ROUNDS:
            raise ProtocolError(f"more parities were asked for after {ROUNDS} rounds")
        if not _is_line(frames, np.int64):
            raise ProtocolError("the frames that did not decode are no list of numbers")
        if not frames.size or bool(np.any(frames[1:] <= frames[:-1])):
            raise ProtocolError("the frames that did not decode are not in increasing order")
        if not bool(np.all(np.isin(frames, self._open))):
            raise ProtocolError("more parities were asked for of a frame that is not open")
        self._open = frames.copy()
        self._round += 1
        return np.concatenate([self._parities(frame, self._round) for frame in frames.tolist()])


class Corrector(_Party):
    """The party that corrects its bits by the parities of the other.

    Args:
        bits: uint8 zeros and ones, ``MIN_BITS`` to ``MAX_BITS``; copied.
        error_rate: The estimate that the reference uses too.
        key: Public key of the order of the bits, 0 <= key < 2^128.

    Attributes:
        bits: The bits, corrected so far, frame by frame.
        errors: Number of bits flipped.
        iterations: Iterations of the decoder, over all frames and rounds.

    Raises:
        ValueError: for a block or an error rate that the codes are not made for.
    """

    def __init__(self, bits: Bits, error_rate: float, key: int) -> None:
        super().__init__(bits, error_rate, key)
        self.bits = self._bits = bits.copy()
        self.errors = 0
        self.iterations = 0
        self._ratio = math.log((1.0 - error_rate) / error_rate)
        self._waiting = list(range(self._plan.frames))
        # Of each frame that waits: sums of both parties' parities, by round.
        self._sums: dict[int, list[Bits]] = {frame: [] for frame in self._waiting}

    def accept(self, parities: Bits) -> Indices | None:
        """Take the syndrome, or what ``more`` gave for the frames last returned.

        Returns:
            Increasing frames that need more parities; None where all have decoded.

        Raises:
            ProtocolError: for anything but the right number of parities, and where frames are
                left after the last round.
        """
        each = _bits_of_round(self._plan.shape, self._round)
        if not self._waiting:
            raise ProtocolError("parities came after every frame had decoded")
        if self._round > ROUNDS:
            raise ProtocolError(f"parities came after {ROUNDS} rounds")
        if not _is_line(parities, np.uint8):
            raise ProtocolError("the parities received are no bits")
        if parities.size != each * len(self._waiting) or bool(np.any(parities > 1)):
            raise ProtocolError(
                f"{parities.size} parities came for {len(self._waiting)} frames of {each}"
            )
        work = _Work(_code(self._plan.shape, self._round), self._plan.shape)
        left = []
        for i, frame in enumerate(self._waiting):
            sums = self._sums[frame]
            sums.append(parities[i * each : (i + 1) * each] ^ self._parities(frame, self._round))
            start, count = self._place(frame)
            pattern, iterations = work.decode(sums, count, self._ratio)
            self.iterations += iterations
            if pattern is None:
                left.append(frame)
                continue
            del self._sums[frame]
            self.errors += _flip(self.bits, start, self._step, pattern)
        self._waiting = left
        self._round += 1
        if left and self._round > ROUNDS:
            raise ProtocolError(
                f"{len(left)} of {self._plan.frames} frames did not decode after {ROUNDS} rounds: "
                "there are far more errors than was estimated"
            )
        return np.array(left, dtype=np.int64) if left else None


def _flip(bits: Bits, start: int, step: int, pattern: Bits) -> int:
    from . import _kernels_ldpc as kernels

    return int(kernels.flip(bits, start, step, pattern))


class _Work:
    """Memory of the decoder, used again for each frame."""

    def __init__(self, code: _Code, shape: _Shape) -> None:
        self._code, self._shape = code, shape
        lifting = shape.lifting
        stride = lifting + 4 * _LANES
        self._state = np.zeros((shape.columns, stride), dtype=np.int16)
        self._messages = np.zeros(code.column.size * lifting, dtype=np.int16)
        self._own = np.zeros((code.rows, lifting), dtype=np.int16)
        self._syndrome = np.zeros((code.rows, lifting), dtype=np.int16)
        self._base = (code.column * stride + _LANES).astype(np.uint64)

    def decode(self, sums: list[Bits], count: int, ratio: float) -> tuple[Bits | None, int]:
        """Error pattern of a frame of ``count`` bits, None where none is found; iterations."""
        from . import _kernels_ldpc as kernels

        code, shape = self._code, self._shape
        lifting, hidden = shape.lifting, code.hidden
        flat = self._syndrome.reshape(-1)
        for index, part in enumerate(sums):
            at = (code.first_row[index] + (hidden if index == 0 else 0)) * lifting
            flat[at : at + part.size] = part
        if not hidden:  # what is left of the rows that were split
            split = code.rows - code.first_row[1]
            self._syndrome[:split] ^= self._syndrome[code.first_row[1] :]
        np.negative(self._syndrome, out=self._syndrome)
        own = shape.first - hidden * lifting if hidden else 0
        channel = round(ratio * kernels.UNIT)
        ratios = np.full((shape.columns, lifting), channel, dtype=np.int16)
        ratios[:hidden] = 0
        ratios[hidden:].reshape(-1)[count - own :] = _KNOWN
        self._state[:, _LANES : _LANES + lifting] = ratios
        self._state[:, _LANES + lifting : 2 * _LANES + lifting] = ratios[:, :_LANES]
        self._messages[:] = 0
        iterations = kernels.decode(
            self._state.reshape(-1),
            self._messages,
            self._own.reshape(-1),
            flat,
            code.row_start,
            self._base,
            code.shift,
            code.has_own,
            code.length,
            lifting,
            channel,
            _ITERATIONS,
        )
        if not iterations:
            return None, _ITERATIONS
        columns = (self._state[:, _LANES : _LANES + lifting] < 0).astype(np.uint8)
        pattern = np.zeros(count, dtype=np.uint8)
        pattern[: count - own] = columns[hidden:].reshape(-1)[: count - own]
        if own:
            rest = (self._syndrome & 1).astype(np.uint8)
            graph = (code.row_start, code.column, code.shift, code.length)
            core = _CORE // _HIDDEN * hidden
            kernels.parities(columns, *graph, core, code.first_row[1], rest)
            pattern[count - own :] = rest[core:].reshape(-1)[:own]
        return pattern, iterations
