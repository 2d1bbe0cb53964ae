"""Compiled arithmetic over GF(2). Import this module lazily: it loads numba.

Long products are done by an additive FFT over F = GF(2)[x] / (x^64 + x^4 + x^3 + x + 1) in a Cantor
basis: v_0 = 1, v_(i+1)^2 + v_(i+1) = v_i (Cantor, J. Comb. Theory A 50, 285 (1989); Gao and Mateer,
IEEE Trans. Inf. Theory 56, 6265 (2010); Lin, Chung and Han, FOCS 2014). Nothing is ever rounded.

A polynomial of 2^k coefficients is first written in products of the subspace polynomials s_i, by
XOR alone (:func:`convert`), then evaluated on the span of v_0 .. v_(k-1) (:func:`layers`). There,
s_i(v_(i+1+t)) = v_(1+t), so that one table of twiddles serves all layers.

Kernels take ``how``: None multiplies by integer products with holes, on any processor; 0 by the
carry-less product of x86 (PCLMULQDQ), for processors that have it. Results are the same. No branch
and no address depends on the data.
"""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import extending

from ...instruments.compiled import compiled

Int64 = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]
How = int | None

ir: Any = importlib.import_module("llvmlite.ir")
types: Any = importlib.import_module("numba.types")
U64: Any = np.uint64
_I64 = ir.IntType(64)
_PAIR = ir.VectorType(_I64, 2)
_FOUR = ir.VectorType(_I64, 4)

# The directions of a transform: evaluation, transposed interpolation, transposed evaluation.
EVALUATE, INTERPOLATE_T, EVALUATE_T = 0, 1, 2

#: Bits of a piece: a product of 2 W - 1 by W bits keeps its W middle bits when it is reduced.
PIECE = 30


def has_carryless() -> bool:
    """Tell whether numba compiles for an x86 processor that has PCLMULQDQ."""
    from numba.core.registry import cpu_target

    triple, _, features = cpu_target.target_context.codegen().magic_tuple()
    return triple.startswith("x86_64") and "+pclmul" in features.split(",")


# Instructions for PCLMULQDQ. Vectors of four words; lanes are independent.


def _clmul(builder: Any, a: Any, b: Any, halves: int) -> Any:
    name, byte = "llvm.x86.pclmulqdq", ir.IntType(8)
    function = builder.module.globals.get(name) or ir.Function(
        builder.module, ir.FunctionType(_PAIR, [_PAIR, _PAIR, byte]), name
    )
    return builder.call(function, [a, b, ir.Constant(byte, halves)])


def _pick(builder: Any, a: Any, b: Any, *lanes: int) -> Any:
    mask = ir.Constant(ir.VectorType(ir.IntType(32), len(lanes)), list(lanes))
    return builder.shuffle_vector(a, b, mask)


def _shifted(builder: Any, value: Any, by: int) -> Any:
    amount = ir.Constant(value.type, [abs(by)] * value.type.count)
    return builder.shl(value, amount) if by > 0 else builder.lshr(value, amount)


def _times(builder: Any, a: Any, b: Any, *, same: bool) -> Any:
    """Products in F, lane by lane; ``same`` where all lanes of b are equal."""
    parts = []
    for lanes in ((0, 1), (2, 3)):
        x = _pick(builder, a, a, *lanes)
        y = _pick(builder, b, b, *((0, 1) if same else lanes))
        parts.append([_clmul(builder, x, y, 0x00), _clmul(builder, x, y, 0x01 if same else 0x11)])
    even = _pick(builder, parts[0][0], parts[1][0], 0, 1, 2, 3)
    odd = _pick(builder, parts[0][1], parts[1][1], 0, 1, 2, 3)
    low = _pick(builder, even, odd, 0, 4, 2, 6)
    high = _pick(builder, even, odd, 1, 5, 3, 7)
    # x^64 = x^4 + x^3 + x + 1; the up to 4 bits that this shifts out come in again below.
    out = builder.xor(_shifted(builder, high, -60), _shifted(builder, high, -61))
    high = builder.xor(high, builder.xor(out, _shifted(builder, high, -63)))
    low = builder.xor(low, builder.xor(high, _shifted(builder, high, 1)))
    return builder.xor(low, builder.xor(_shifted(builder, high, 3), _shifted(builder, high, 4)))


def _place(context: Any, builder: Any, kind: Any, array: Any, index: Any) -> Any:
    data = context.make_array(kind)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [index]), _FOUR.as_pointer())


def _butterfly(builder: Any, u: Any, v: Any, w: Any, backward: bool, same: bool) -> tuple[Any, Any]:
    if backward:
        v = builder.xor(v, u)
        return builder.xor(u, _times(builder, v, w, same=same)), v
    u = builder.xor(u, _times(builder, v, w, same=same))
    return u, builder.xor(v, u)


def _four_butterflies(backward: bool) -> Any:
    """Instruction (a, i, j, w): butterflies of a[i:i+4] and a[j:j+4] with the twiddle w."""

    def build(typing: Any, a: Any, i: Any, j: Any, w: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            place_u, place_v = (_place(context, builder, a, args[0], args[x]) for x in (1, 2))
            factor = ir.Constant(_FOUR, ir.Undefined)
            for lane in range(4):
                factor = builder.insert_element(factor, args[3], ir.Constant(ir.IntType(32), lane))
            u, v = builder.load(place_u, align=8), builder.load(place_v, align=8)
            u, v = _butterfly(builder, u, v, factor, backward, True)
            builder.store(u, place_u, align=8)
            builder.store(v, place_v, align=8)
            return context.get_dummy_value()

        return types.void(a, types.intp, types.intp, types.uint64), code

    return extending.intrinsic(build)


def _last_butterflies(backward: bool, swapped: bool) -> Any:
    """Instruction (a, i, w): the two layers of least distance on a[i:i+8], i a multiple of 8."""

    def layer(builder: Any, x: Any, y: Any, w: Any, distance: int) -> Any:
        if distance == 1:
            first, second = (0, 2, 4, 6), (1, 3, 5, 7)
            back = (0, 4, 1, 5), (2, 6, 3, 7)
        else:
            first, second = (0, 1, 4, 5), (2, 3, 6, 7)
            back = (0, 1, 4, 5), (2, 3, 6, 7)
        u, v = _pick(builder, x, y, *first), _pick(builder, x, y, *second)
        if swapped:
            v, u = _butterfly(builder, v, u, w, backward, False)
        else:
            u, v = _butterfly(builder, u, v, w, backward, False)
        return tuple(_pick(builder, u, v, *lanes) for lanes in back)

    def build(typing: Any, a: Any, i: Any, w: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            index = args[1]

            def constant(value: int) -> Any:
                return ir.Constant(index.type, value)

            places = [
                _place(context, builder, a, args[0], builder.add(index, constant(at)))
                for at in (0, 4)
            ]
            near = builder.load(
                _place(context, builder, w, args[2], builder.lshr(index, constant(1))), align=8
            )
            far = builder.load(
                _place(context, builder, w, args[2], builder.lshr(index, constant(2))), align=8
            )
            far = _pick(builder, far, far, 0, 0, 1, 1)
            x, y = (builder.load(place, align=8) for place in places)
            for distance in (1, 2) if backward else (2, 1):
                x, y = layer(builder, x, y, near if distance == 1 else far, distance)
            builder.store(x, places[0], align=8)
            builder.store(y, places[1], align=8)
            return context.get_dummy_value()

        return types.void(a, types.intp, w), code

    return extending.intrinsic(build)


def _four_products() -> Any:
    """Instruction (sums, a, b, i): sums[i:i+4] += a[i:i+4] b[i:i+4]."""

    def build(typing: Any, sums: Any, a: Any, b: Any, i: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            place, at_a, at_b = (
                _place(context, builder, kind, args[x], args[3])
                for x, kind in enumerate((sums, a, b))
            )
            values = [builder.load(x, align=8) for x in (place, at_a, at_b)]
            product = _times(builder, values[1], values[2], same=False)
            builder.store(builder.xor(values[0], product), place, align=8)
            return context.get_dummy_value()

        return types.void(sums, a, b, types.intp), code

    return extending.intrinsic(build)


_forward4, _backward4 = _four_butterflies(False), _four_butterflies(True)
_last = (
    _last_butterflies(False, False),
    _last_butterflies(False, True),
    _last_butterflies(True, True),
)
_last0, _last1, _last2 = _last
_products4 = _four_products()


def _build_reversed(typing: Any, word: Any) -> Any:
    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitreverse(args[0])

    return types.uint64(types.uint64), code


_reversed_bits: Any = extending.intrinsic(_build_reversed)


# The same for any processor.


@compiled
def _add(a: Words, to: int, what: int, count: int) -> None:
    """``a[to:] += a[what:]`` where the two do not overlap."""
    target, source = a[to : to + count], a[what : what + count]
    for i in range(count):
        target[i] ^= source[i]


@compiled
def _low(a: int, b: int) -> Any:
    """Low word of the carry-less product.

    Between any two bits of a factor lie three zeros, so that the ones that meet in a sum, 15 at
    most below the highest place, carry into holes.
    """
    m0, m1 = U64(0x1111111111111111), U64(0x2222222222222222)
    m2, m3 = U64(0x4444444444444444), U64(0x8888888888888888)
    a0, a1, a2, a3 = a & m0, a & m1, a & m2, a & m3
    b0, b1, b2, b3 = b & m0, b & m1, b & m2, b & m3
    c0 = (a0 * b0) ^ (a1 * b3) ^ (a2 * b2) ^ (a3 * b1)
    c1 = (a0 * b1) ^ (a1 * b0) ^ (a2 * b3) ^ (a3 * b2)
    c2 = (a0 * b2) ^ (a1 * b1) ^ (a2 * b0) ^ (a3 * b3)
    c3 = (a0 * b3) ^ (a1 * b2) ^ (a2 * b1) ^ (a3 * b0)
    return (c0 & m0) | (c1 & m1) | (c2 & m2) | (c3 & m3)


@compiled
def _high(a: int, b: int) -> Any:
    return _reversed_bits(_low(_reversed_bits(a), _reversed_bits(b))) >> U64(1)


@compiled
def _times_portable(a: Words, b: Words, scratch: Words) -> Words:
    """Products in F, in loops short enough to become vector instructions.

    Args:
        a: Factors, at most 256.
        b: As many.
        scratch: Shape (3, 256).

    Returns:
        A part of scratch.
    """
    x, y, z = scratch[0, : a.size], scratch[1, : a.size], scratch[2, : a.size]
    for i in range(a.size):
        x[i] = _reversed_bits(a[i])
        y[i] = _reversed_bits(b[i])
    for i in range(a.size):
        z[i] = _low(x[i], y[i])
    for i in range(a.size):
        x[i] = _low(a[i], b[i])
    for i in range(a.size):
        high = _reversed_bits(z[i]) >> U64(1)
        high ^= (high >> U64(60)) ^ (high >> U64(61)) ^ (high >> U64(63))
        x[i] ^= high ^ (high << U64(1)) ^ (high << U64(3)) ^ (high << U64(4))
    return x


# One name for both.


def _layer(a: Words, w: Words, i: int, start: int, stop: int, way: int, how: How) -> None:
    """Butterflies of distance 2^i from start to stop; where i = 1, those of i = 0 too."""
    raise NotImplementedError


@extending.overload(_layer, strict=False)
def _(a: Any, w: Any, i: Any, start: Any, stop: Any, way: Any, how: Any) -> Any:
    def carryless(a: Words, w: Words, i: int, start: int, stop: int, way: int, how: How) -> None:
        half = 1 << i
        if i > 1:
            for x in range(start, stop, 2 * half):
                factor = w[x >> (i + 1)]
                if way == EVALUATE:
                    for u in range(x, x + half, 4):
                        _forward4(a, u, u + half, factor)
                elif way == INTERPOLATE_T:
                    for u in range(x, x + half, 4):
                        _forward4(a, u + half, u, factor)
                else:
                    for u in range(x, x + half, 4):
                        _backward4(a, u + half, u, factor)
        elif way == EVALUATE:
            for x in range(start, stop, 8):
                _last0(a, x, w)
        elif way == INTERPOLATE_T:
            for x in range(start, stop, 8):
                _last1(a, x, w)
        else:
            for x in range(start, stop, 8):
                _last2(a, x, w)

    def portable(a: Words, w: Words, i: int, start: int, stop: int, way: int, how: How) -> None:
        scratch = np.empty((3, 256), dtype=np.uint64)
        values, factors = np.empty(256, dtype=np.uint64), np.empty(256, dtype=np.uint64)
        for turn in range(2 if i == 1 else 1):
            distance = i if i > 1 else turn if way == EVALUATE_T else 1 - turn
            half = 1 << distance
            to, of = (0, half) if way == EVALUATE else (half, 0)
            for first in range(start >> 1, stop >> 1, 256):
                count = min(256, (stop >> 1) - first)
                for j in range(count):
                    b = first + j
                    x = 2 * b - (b & (half - 1))
                    if way == EVALUATE_T:
                        a[x + of] ^= a[x + to]
                    values[j] = a[x + of]
                    factors[j] = w[b >> distance]
                products = _times_portable(values[:count], factors[:count], scratch)
                for j in range(count):
                    b = first + j
                    x = 2 * b - (b & (half - 1))
                    a[x + to] ^= products[j]
                    if way != EVALUATE_T:
                        a[x + of] ^= a[x + to]

    return portable if isinstance(how, types.NoneType) else carryless


def _add_products(sums: Words, a: Words, b: Words, how: How) -> None:
    raise NotImplementedError


@extending.overload(_add_products, strict=False)
def _(sums: Any, a: Any, b: Any, how: Any) -> Any:
    def carryless(sums: Words, a: Words, b: Words, how: How) -> None:
        for i in range(0, sums.size, 4):
            _products4(sums, a, b, i)

    def portable(sums: Words, a: Words, b: Words, how: How) -> None:
        scratch = np.empty((3, 256), dtype=np.uint64)
        for x in range(0, sums.size, 256):
            y = min(x + 256, sums.size)
            products = _times_portable(a[x:y], b[x:y], scratch)
            for i in range(y - x):
                sums[x + i] ^= products[i]

    return portable if isinstance(how, types.NoneType) else carryless


# The transform.


@compiled
def add_products(sums: Words, a: Words, b: Words, how: How) -> None:
    """``sums += a b`` in F; sizes are equal multiples of 4."""
    _add_products(sums, a, b, how)


@compiled
def layers(a: Words, w: Words, schedule: Int64, way: int, how: How) -> None:
    """All butterflies of a transform of 2^k >= 32 words, in place.

    Args:
        a: The words.
        w: Twiddles; w[b] is the sum of v_(t+1) over the ones of b, at least a.size / 2.
        schedule: Rows i, start, stop: layers of distance 2^i in the order of EVALUATE, that of
            i = 1 together with that of i = 0.
        way: EVALUATE, INTERPOLATE_T or EVALUATE_T.
        how: The multiplication.
    """
    count = schedule.shape[0]
    for s in range(count):
        i, start, stop = schedule[count - 1 - s if way == EVALUATE_T else s]
        _layer(a, w, i, start, stop, way, how)


@compiled
def _divide(a: Words, half: int, shift: int, start: int, stop: int, way: int) -> None:
    """Divide chunks of 2 half by x^half + x^shift, in units of shift; or its transposes."""
    down = half - shift
    for x in range(start, stop, 2 * half):
        for turn in range(2):
            top = turn == (1 if way == EVALUATE_T else 0)
            upper, count = (x + 2 * half - shift, shift) if top else (x + half, down)
            if way == EVALUATE:
                _add(a, upper - down, upper, count)
            else:
                _add(a, upper, upper - down, count)


@compiled
def _divide16(a: Words, start: int, stop: int, way: int) -> None:
    """The last four steps, (8, 2), (4, 1), (8, 4) and (2, 1), on chunks of 16."""
    for x in range(start, stop, 16):
        b = a[x : x + 16]
        if way == EVALUATE:
            for i in range(15, 7, -1):
                b[i - 6] ^= b[i]
            for y in range(0, 16, 8):
                for i in range(7, 3, -1):
                    b[y + i - 3] ^= b[y + i]
            for i in range(15, 7, -1):
                b[i - 4] ^= b[i]
            for y in range(0, 16, 4):
                b[y + 2] ^= b[y + 3]
                b[y + 1] ^= b[y + 2]
        elif way == INTERPOLATE_T:
            for i in range(15, 7, -1):
                b[i] ^= b[i - 6]
            for y in range(0, 16, 8):
                for i in range(7, 3, -1):
                    b[y + i] ^= b[y + i - 3]
            for i in range(15, 7, -1):
                b[i] ^= b[i - 4]
            for y in range(0, 16, 4):
                b[y + 3] ^= b[y + 2]
                b[y + 2] ^= b[y + 1]
        else:
            for y in range(0, 16, 4):
                b[y + 2] ^= b[y + 1]
                b[y + 3] ^= b[y + 2]
            for i in range(8, 16):
                b[i] ^= b[i - 4]
            for y in range(0, 16, 8):
                for i in range(4, 8):
                    b[y + i] ^= b[y + i - 3]
            for i in range(8, 16):
                b[i] ^= b[i - 6]


@compiled
def convert(a: Words, schedule: Int64, way: int) -> None:
    """From powers of x to products of the s_i, or the transposes of that and of its inverse.

    Args:
        a: The words, in place.
        schedule: Rows half, shift, start, stop: divisions in the order of EVALUATE. Shift 0 is
            for the last four.
        way: EVALUATE, INTERPOLATE_T or EVALUATE_T.
    """
    count = schedule.shape[0]
    for s in range(count):
        half, shift, start, stop = schedule[count - 1 - s if way == EVALUATE_T else s]
        if shift:
            _divide(a, half, shift, start, stop, way)
        else:
            _divide16(a, start, stop, way)


# Pieces of bit strings.


@compiled
def windows(words: Words, first: int, width: int, step: int, out: Words, count: int) -> None:
    """Strings of ``width`` < 64 bits as words, string i from bit ``first + step i``; then zeros.

    Args:
        words: Bits, the first one the highest of word 0; all around them are zeros.
        first: May be negative.
        width: Bits of a string.
        step: May be negative.
        out: Takes the words.
        count: Strings; the rest of ``out`` becomes zero.
    """
    size = words.size
    for i in range(count):
        at = first + step * i
        q, r = at >> 6, U64(at & 63)
        high = words[q] if 0 <= q < size else U64(0)
        low = words[q + 1] if -1 <= q < size - 1 else U64(0)
        out[i] = ((high << r) | ((low >> U64(1)) >> (U64(63) - r))) >> U64(64 - width)
    out[count:] = 0


@compiled
def join(pieces: Words, count: int, words: Words, first: int) -> None:
    """Add the middle bits of ``count`` products to ``words``, from bit ``first`` on."""
    for i in range(count):
        at = first + PIECE * i
        q, r = at >> 6, U64(at & 63)
        piece = (pieces[i] >> U64(PIECE - 1)) << U64(64 - PIECE)
        if q < words.size:
            words[q] ^= piece >> r
        if q + 1 < words.size:
            words[q + 1] ^= (piece << U64(1)) << (U64(63) - r)


# Evaluation over GF(2^128).


def _build_wide(typing: Any, a: Any, b: Any) -> Any:
    kind = types.UniTuple(types.uint64, 2)

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        first, second = (ir.Constant(ir.IntType(32), lane) for lane in (0, 1))
        x, y = (builder.insert_element(ir.Constant(_PAIR, [0, 0]), word, first) for word in args)
        product = _clmul(builder, x, y, 0x00)
        words = [builder.extract_element(product, lane) for lane in (first, second)]
        return context.make_tuple(builder, kind, words)

    return kind(types.uint64, types.uint64), code


_wide_carryless: Any = extending.intrinsic(_build_wide)


def _wide(a: int, b: int, how: How) -> tuple[int, int]:
    raise NotImplementedError


@extending.overload(_wide, strict=False)
def _(a: Any, b: Any, how: Any) -> Any:
    def carryless(a: int, b: int, how: How) -> tuple[int, int]:
        low, high = _wide_carryless(a, b)
        return low, high

    def portable(a: int, b: int, how: How) -> tuple[int, int]:
        return _low(a, b), _high(a, b)

    return portable if isinstance(how, types.NoneType) else carryless


@compiled
def _times128(a1: int, a0: int, b1: int, b0: int, how: How) -> tuple[int, int]:
    """Product modulo x^128 + x^7 + x^2 + x + 1 of a1 x^64 + a0 and b1 x^64 + b0."""
    c0, c1 = _wide(a0, b0, how)
    c2, c3 = _wide(a1, b1, how)
    d0, d1 = _wide(a0 ^ a1, b0 ^ b1, how)
    c1, c2 = c1 ^ d0 ^ c0 ^ c2, c2 ^ d1 ^ c1 ^ c3
    c2 ^= (c3 >> U64(63)) ^ (c3 >> U64(62)) ^ (c3 >> U64(57))
    c1 ^= c3 ^ (c3 << U64(1)) ^ (c3 << U64(2)) ^ (c3 << U64(7))
    c1 ^= (c2 >> U64(63)) ^ (c2 >> U64(62)) ^ (c2 >> U64(57))
    c0 ^= c2 ^ (c2 << U64(1)) ^ (c2 << U64(2)) ^ (c2 << U64(7))
    return c1, c0


@compiled
def evaluate(words: Words, seed: Words, how: How) -> tuple[int, int]:
    """``beta (b_1 alpha^(m-1) + ... + b_m)`` over GF(2^128), high word first.

    Args:
        words: b_1 .. b_m, two words each, the high one first.
        seed: alpha and beta, likewise.
        how: The multiplication.
    """
    high = low = U64(0)
    for i in range(0, words.size, 2):
        high, low = _times128(high, low, seed[0], seed[1], how)
        high ^= words[i]
        low ^= words[i + 1]
    return _times128(high, low, seed[2], seed[3], how)
