"""Compiled inner loops of LDPC reconciliation. Import this module lazily: it loads numba.

The decoder works on :data:`LANES` checks at a time, in vectors of 16-bit integers that LLVM maps to
what the processor has (AVX-512, AVX2, NEON). Numba has no such type, so it is declared here, with
the few operations that the decoder needs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba.core import cgutils, types
from numba.core.datamodel import models
from numba.extending import intrinsic, register_model

from ...instruments.compiled import compiled

F = TypeVar("F", bound=Callable[..., Any])
Int16 = npt.NDArray[np.int16]
Int64 = npt.NDArray[np.int64]
UInt8 = npt.NDArray[np.uint8]
UInt64 = npt.NDArray[np.uint64]

LANES = 32
#: Units of a log-likelihood ratio (LLR) of 1 in memory; in check nodes eight times as many. Chosen
#: so that the correction in ``_box_plus`` needs no other constant.
UNIT = 3546 / 8
_CORRECTION = round(5.75 * 3546)  # where the correction ends
_MAX_LLR = 8191  # in a check node: 18 nats


def _inlined(function: F) -> F:
    return cast(F, numba.njit(inline="always")(function))


def _intrinsic(function: Any) -> Any:
    return intrinsic(function)


# --- vectors of 16-bit integers ---

_tools: Any = cgutils  # have no types
_primitive: Any = models.PrimitiveModel
_I16 = ir.IntType(16)
_VECTOR = ir.VectorType(_I16, LANES)
_WIDE = ir.VectorType(ir.IntType(32), LANES)


class _Lanes(types.Type):
    """Vector of ``LANES`` integers."""


_lanes = _Lanes(name="Lanes16")
_register: Any = register_model(_Lanes)
_register(lambda manager, kind: _primitive(manager, kind, _VECTOR))


def _pointer(context: Any, builder: Any, kind: Any, array: Any, index: Any) -> Any:
    data = _tools.create_struct_proxy(kind)(context, builder, value=array).data
    return builder.bitcast(builder.gep(data, [index]), _VECTOR.as_pointer())


@_intrinsic
def _load(_: Any, array: Any, index: Any) -> Any:
    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        vector = builder.load(_pointer(context, builder, signature.args[0], *args))
        vector.align = 2
        return vector

    return _lanes(array, types.int64), code


@_intrinsic
def _store(_: Any, array: Any, index: Any, vector: Any) -> Any:
    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = _pointer(context, builder, signature.args[0], *args[:2])
        builder.store(args[2], pointer).align = 2
        return context.get_dummy_value()

    return types.void(array, types.int64, _lanes), code


@_intrinsic
def _all(_: Any, value: Any) -> Any:
    """Vector of one value in every lane."""

    def code(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        undefined = ir.Constant(_VECTOR, ir.Undefined)
        first = ir.Constant(ir.IntType(32), 0)
        one = builder.insert_element(undefined, builder.trunc(args[0], _I16), first)
        return builder.shuffle_vector(one, undefined, ir.Constant(_WIDE, [0] * LANES))

    return _lanes(types.int64), code


def _operation(build: Callable[[Any, Any, Any], Any]) -> Any:
    """Operation on two vectors."""

    @_intrinsic
    def operation(_: Any, a: Any, b: Any) -> Any:
        def code(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
            return build(builder, *args)

        return _lanes(_lanes, _lanes), code

    return operation


def _llvm(name: str) -> Any:
    """Operation on two vectors that LLVM knows by name."""
    kind = ir.FunctionType(_VECTOR, [_VECTOR, _VECTOR])
    full = f"llvm.{name}.v{LANES}i16"

    def build(builder: Any, a: Any, b: Any) -> Any:
        return builder.call(_tools.get_or_insert_function(builder.module, kind, full), [a, b])

    return _operation(build)


_add_signed = _llvm("sadd.sat")
_sub_signed = _llvm("ssub.sat")
_add_unsigned = _llvm("uadd.sat")
_sub_unsigned = _llvm("usub.sat")
_min_unsigned = _llvm("umin")
_max_unsigned = _llvm("umax")
_add = _operation(lambda builder, a, b: builder.add(a, b))
_sub = _operation(lambda builder, a, b: builder.sub(a, b))
_xor = _operation(lambda builder, a, b: builder.xor(a, b))
_or = _operation(lambda builder, a, b: builder.or_(a, b))


def _function(build: Callable[[Any, Any], Any]) -> Any:
    """Function of one vector."""

    @_intrinsic
    def function(_: Any, a: Any) -> Any:
        def code(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
            return build(builder, args[0])

        return _lanes(_lanes), code

    return function


def _constant(value: int) -> Any:
    return ir.Constant(_VECTOR, [value] * LANES)


def _build_square(builder: Any, a: Any) -> Any:
    wide = builder.zext(a, _WIDE)
    high = builder.lshr(builder.mul(wide, wide), ir.Constant(_WIDE, [16] * LANES))
    return builder.trunc(high, _VECTOR)


def _build_magnitude(builder: Any, a: Any) -> Any:
    kind = ir.FunctionType(_VECTOR, [_VECTOR, ir.IntType(1)])
    name = f"llvm.abs.v{LANES}i16"
    function = _tools.get_or_insert_function(builder.module, kind, name)
    return builder.call(function, [a, ir.Constant(ir.IntType(1), 0)])


_magnitude = _function(_build_magnitude)
_square = _function(_build_square)  # the upper half of the square, unsigned
_times_8 = _function(lambda builder, a: builder.shl(a, _constant(3)))
_over_8 = _function(lambda builder, a: builder.lshr(a, _constant(3)))
_sign = _function(lambda builder, a: builder.ashr(a, _constant(15)))  # 0 or -1


@_intrinsic
def _where_equal(_: Any, a: Any, b: Any, yes: Any, no: Any) -> Any:
    def code(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        return builder.select(builder.icmp_unsigned("==", args[0], args[1]), args[2], args[3])

    return _lanes(_lanes, _lanes, _lanes, _lanes), code


@_intrinsic
def _any_negative(_: Any, a: Any) -> Any:
    def code(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        signs = builder.icmp_signed("<", args[0], _constant(0))
        mask = ir.IntType(LANES)
        return builder.icmp_unsigned("!=", builder.bitcast(signs, mask), ir.Constant(mask, 0))

    return types.boolean(_lanes), code


# --- the decoder ---


@_inlined
def _box_plus(a: Any, b: Any, end: Any) -> Any:
    """Magnitude of the LLR of the sum of two bits: min + g(a + b) - g(|a - b|).

    g(x) = ln(1 + e^-x) is taken as ln 2 (1 - x / 5.75)^4 up to x = 5.75, within 0.013. ``end``
    is 5.75; passed in, it keeps LLVM from merging the two squares into slower wide ones.
    """
    low = _min_unsigned(a, b)
    high = _max_unsigned(a, b)
    x = _square(_sub_unsigned(end, _add_unsigned(low, high)))
    together = _square(_add_unsigned(x, x))
    x = _square(_sub_unsigned(end, _sub(high, low)))
    apart = _square(_add_unsigned(x, x))
    return _sub_unsigned(_add(low, together), apart)


@_inlined
def _extrinsic(state: Int16, where: Any, messages: Int16, message: Any) -> Any:
    """What a column says without what this row told it; kept where that was."""
    q = _sub_signed(_load(state, where), _load(messages, message))
    _store(messages, message, q)
    return q


@_inlined
def _reliability(q: Any, most: Any) -> Any:
    return _times_8(_min_unsigned(_magnitude(q), most))


@compiled
def _decode(
    state: Int16,
    messages: Int16,
    own: Int16,
    syndrome: Int16,
    row_start: Int64,
    base: UInt64,
    shift: UInt64,
    has_own: npt.NDArray[np.bool_],
    length: Int64,
    lifting: int,
    channel: int,
    end: int,
    max_iterations: int,
) -> int:
    rows = length.size
    at = np.empty(1024, np.uint64)
    zero, one, two = np.uint64(0), np.uint64(1), np.uint64(2)
    lanes, z = np.uint64(LANES), np.uint64(lifting)
    inner = np.uint64(lifting - 2 * LANES)
    end_vector = _all(end)
    infinite = _all(65535)
    most = _all(_MAX_LLR)
    channel_vector = _all(channel)
    for iteration in range(max_iterations):
        for row in range(rows):
            first = np.uint64(row_start[row])
            degree = np.uint64(row_start[row + 1]) - first
            for k in range(zero, degree):
                at[k] = base[first + k] + shift[first + k]
            for lane in range(0, length[row], LANES):
                sign = _load(syndrome, row * lifting + lane)
                least = _times_8(channel_vector) if has_own[row] else infinite
                # Two at a time, in two chains that the processor can work on side by side.
                others, more = infinite, infinite
                message = row_start[row] * lifting + lane * np.int64(degree)
                for k in range(one, degree, two):
                    p = _extrinsic(state, np.int64(at[k - one]), messages, message)
                    q = _extrinsic(state, np.int64(at[k]), messages, message + LANES)
                    message += 2 * LANES
                    sign = _xor(sign, _xor(p, q))
                    p, q = _reliability(p, most), _reliability(q, most)
                    more = _box_plus(more, _max_unsigned(p, q), end_vector)
                    p = _min_unsigned(p, q)
                    others = _box_plus(others, _max_unsigned(least, p), end_vector)
                    least = _min_unsigned(least, p)
                if degree % two:
                    q = _extrinsic(state, np.int64(at[degree - one]), messages, message)
                    sign = _xor(sign, q)
                    q = _reliability(q, most)
                    others = _box_plus(others, _max_unsigned(least, q), end_vector)
                    least = _min_unsigned(least, q)
                others = _box_plus(others, more, end_vector)
                total = _over_8(_box_plus(others, least, end_vector))
                others, least = _over_8(others), _over_8(least)
                if has_own[row]:
                    negative = _sign(sign)
                    value = _where_equal(channel_vector, least, others, total)
                    value = _sub(_xor(value, negative), negative)
                    _store(own, row * lifting + lane, value)
                message = row_start[row] * lifting + lane * np.int64(degree)
                for k in range(zero, degree):
                    q = _load(messages, message)
                    value = _min_unsigned(_magnitude(q), most)
                    value = _where_equal(value, least, others, total)
                    negative = _sign(_xor(sign, q))
                    value = _sub(_xor(value, negative), negative)
                    _store(messages, message, value)
                    message += LANES
                    q = _add_signed(q, value)
                    where = at[k]
                    _store(state, np.int64(where), q)
                    begin = base[first + k]
                    lane_there = where - begin
                    if lane_there - lanes > inner:  # near either end: the copies there
                        if lane_there < lanes:
                            _store(state, np.int64(where + z), q)
                        else:
                            _store(state, np.int64(where - z), q)
                    where += lanes
                    if where >= begin + z:
                        where -= z
                    at[k] = where
        row, done = 0, True
        while done and row < rows:
            wrong = _all(0)
            for lane in range(0, length[row], LANES):
                sign = _load(syndrome, row * lifting + lane)
                if has_own[row]:
                    value = _load(own, row * lifting + lane)
                    sign = _xor(sign, _add_signed(value, channel_vector))
                for edge in range(row_start[row], row_start[row + 1]):
                    lane_there = np.int64(shift[edge]) + lane
                    if lane_there >= lifting:
                        lane_there -= lifting
                    sign = _xor(sign, _load(state, np.int64(base[edge]) + lane_there))
                wrong = _or(wrong, sign)
            done = not _any_negative(wrong)
            row += 1
        if done:
            return iteration + 1
    return 0


def decode(
    state: Int16,
    messages: Int16,
    own: Int16,
    syndrome: Int16,
    row_start: Int64,
    base: UInt64,
    shift: UInt64,
    has_own: npt.NDArray[np.bool_],
    length: Int64,
    lifting: int,
    channel: int,
    max_iterations: int,
) -> int:
    """Find the error pattern of a syndrome by layered sum-product decoding.

    In a check node, the least magnitude gets the exact box-plus of the others, all others that of
    everything, themselves included (A-min*: Jones, Valles, Smith, Villasenor, MILCOM 2003).

    Args:
        state: LLRs of the columns, in ``UNIT``, changed in place; the signs at the end are the
            pattern. A column has its ``lifting`` lanes from ``base`` on, its first 32 lanes once
            more behind them, and 32 spare places before and behind.
        messages: Check to variable, all 0 at first; ``lifting`` for each edge, in the order of use.
        own: Work space, ``lifting`` for each row.
        syndrome: 0 or -1; ``lifting`` for each row.
        row_start: First edge of each row, and the end; edges go by row.
        base: Index in ``state`` of lane 0 of each edge's column.
        shift: Check i of an edge's row takes lane ``(i + shift) % lifting`` of its column.
        has_own: Rows with one more bit in each check that no other check has.
        length: Checks of each row, a multiple of 32, at most ``lifting``.
        lifting: A multiple of 64.
        channel: LLR of those bits, in ``UNIT``.
        max_iterations: When to give up.

    Returns:
        Iterations used; 0 where the checks were not satisfied after all of them.
    """
    return _decode(
        state,
        messages,
        own,
        syndrome,
        row_start,
        base,
        shift,
        has_own,
        length,
        lifting,
        channel,
        _CORRECTION,
        max_iterations,
    )


# --- bits ---


@compiled
def parities(
    columns: UInt8,
    row_start: Int64,
    column: Int64,
    shift: UInt64,
    length: Int64,
    first: int,
    end: int,
    out: UInt8,
) -> None:
    """Add the checks of the rows from ``first`` to before ``end`` to ``out``.

    Args:
        columns: Zeros and ones, shape (columns, lifting).
        row_start: First edge of each row, and the end.
        column: Column of each edge.
        shift: Shift of each edge.
        length: Checks of each row.
        first: The first row wanted.
        end: The row after the last one wanted.
        out: Zeros and ones, shape (rows, lifting).
    """
    lifting = columns.shape[1]
    for row in range(first, end):
        for edge in range(row_start[row], row_start[row + 1]):
            # Slices that begin at 0 are what LLVM turns into vectors.
            here = np.int64(shift[edge])
            until = min(length[row], lifting - here)
            line, bits = out[row, :until], columns[column[edge], here:]
            for lane in range(line.size):
                line[lane] ^= bits[lane]
            line, bits = out[row, until : length[row]], columns[column[edge], :here]
            for lane in range(line.size):
                line[lane] ^= bits[lane]


@compiled
def gather(bits: UInt8, start: int, step: int, out: UInt8) -> None:
    """Fill ``out`` with the bits at ``start``, ``start + step``, ... modulo their number."""
    place = start
    for i in range(out.size):
        out[i] = bits[place]
        place += step
        if place >= bits.size:
            place -= bits.size


@compiled
def flip(bits: UInt8, start: int, step: int, pattern: UInt8) -> int:
    """Add a pattern to the bits that ``gather`` takes. Returns the number of ones in it."""
    place, ones = start, 0
    for i in range(pattern.size):
        bits[place] ^= pattern[i]
        ones += pattern[i]
        place += step
        if place >= bits.size:
            place -= bits.size
    return ones


# --- codes ---


@compiled
def place(
    rows: Int64,
    columns: Int64,
    words: UInt64,
    shifts: Int64,
    load: Int64,
    lifting: int,
) -> None:
    """Add edges to a lifted graph, one after another, so that no cycle of length 4 arises.

    Args:
        rows: Row of each edge; -1 for one of the least degree that lacks the column.
        columns: Column of each edge; -1 for one of the least load that lacks the row.
        words: Two random words for each edge: one chooses the row or column, one the shift.
        shifts: Shape (rows, columns), -1 where there is no edge; filled in.
        load: Load of each column, by which edges without a column choose; added to.
        lifting: Number of lanes.
    """
    n_rows, n_columns = shifts.shape
    free = np.empty(lifting, np.bool_)
    refused = np.empty(max(n_rows, n_columns), np.bool_)
    degree = np.zeros(n_rows, np.int64)
    far = np.int64(1 << 40)
    for edge in range(rows.size):
        refused[:] = False
        while True:
            row, column = rows[edge], columns[edge]
            if row < 0 or column < 0:
                count, least = 0, far
                for pick in range(2):
                    left = np.int64(words[2 * edge] % np.uint64(max(count, 1)))
                    for i in range(n_rows if row < 0 else n_columns):
                        taken = shifts[i, column] if row < 0 else shifts[row, i]
                        if taken >= 0 or refused[i]:
                            continue
                        weight = degree[i] if row < 0 else load[i]
                        if pick == 0 and weight < least:
                            count, least = 1, weight
                        elif pick == 0 and weight == least:
                            count += 1
                        elif pick == 1 and weight == least:
                            if left == 0:
                                chosen = i
                            left -= 1
                if count == 0:
                    break
                refused[chosen] = True
                if row < 0:
                    row = chosen
                else:
                    column = chosen
            free[:] = True
            for c in range(n_columns):
                if shifts[row, c] >= 0 and c != column:
                    for r in range(n_rows):
                        if shifts[r, column] >= 0 and shifts[r, c] >= 0 and r != row:
                            bad = shifts[row, c] + shifts[r, column] - shifts[r, c]
                            free[bad % lifting] = False
            count = 0
            for s in range(lifting):
                count += free[s]
            if count == 0:
                if rows[edge] < 0 or columns[edge] < 0:
                    continue
                break
            left = np.int64(words[2 * edge + 1] % np.uint64(count))
            for s in range(lifting):
                if free[s]:
                    if left == 0:
                        shifts[row, column] = s
                        break
                    left -= 1
            degree[row] += 1
            load[column] += 1
            break
