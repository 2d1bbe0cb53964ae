"""Hashing against the naive product, on all paths; universality counted out; random words."""

from __future__ import annotations

import functools
import itertools

import numpy as np
import numpy.typing as npt
import pytest
from bellbench.instruments import ProtocolError
from bellbench.protocols.qkd import SeededRandomness, SystemRandomness, amplify, verify
from bellbench.protocols.qkd.amplify import (
    Seeds,
    pack,
    seed_bits,
    toeplitz_hash,
    toeplitz_hash_packed,
)
from bellbench.protocols.qkd.randomness import Randomness, philox_words, random_bits
from bellbench.protocols.qkd.verify import collision_probability, tag_seed_bits, verification_tag
from hypothesis import example, given, settings
from hypothesis import strategies as st
from qkd import reconcile

Bits = npt.NDArray[np.uint8]
How = int | None

GF64 = 1 << 64 | 0b11011
GF128 = 1 << 128 | 0x87


@functools.cache
def ways() -> list[How]:
    """All ways to multiply that this processor has."""
    return [None] if amplify.carryless() is None else [None, 0]


def some_bits(seed: int, count: int) -> Bits:
    return np.random.default_rng(seed).integers(0, 2, count, dtype=np.uint8)


def number(bits: Bits) -> int:
    return int.from_bytes(np.packbits(bits).tobytes()) >> (-bits.size % 8)


def times(a: int, b: int, modulus: int) -> int:
    """Product of polynomials over GF(2), the remainder by ``modulus``."""
    product = 0
    for i in range(b.bit_length()):
        if b >> i & 1:
            product ^= a << i
    while product.bit_length() >= modulus.bit_length():
        product ^= modulus << (product.bit_length() - modulus.bit_length())
    return product


def naive(bits: Bits, seed: Bits, length: int) -> Bits:
    n = bits.size
    convolution = np.convolve(seed.astype(np.int64), bits.astype(np.int64))
    return (convolution[n - 1 : n - 1 + length] & 1).astype(np.uint8)


def hashed(bits: Bits, seed: Bits, length: int, how: How) -> Bits:
    words = [amplify._words(np.packbits(x)) for x in (bits, seed)]
    result = amplify._product(words[0], bits.size, words[1], length, how)
    return np.unpackbits(result.astype(">u8").view(np.uint8), count=length)


def assert_rows_fit(result: Bits, bits: Bits, seed: Bits, rows: list[int]) -> None:
    n = bits.size
    for row in [0, 1, result.size - 1, *rows]:
        assert result[row] == int(np.count_nonzero(seed[row : row + n][::-1] & bits)) % 2


def test_matrix_is_the_one_that_the_docstring_says() -> None:
    n, length = 37, 23
    bits, seed = some_bits(1, n), some_bits(2, seed_bits(n, length))
    matrix = np.array([[seed[i - j + n - 1] for j in range(n)] for i in range(length)])
    expected = matrix.astype(np.int64) @ bits % 2
    assert toeplitz_hash(bits, seed, length).tolist() == expected.tolist()


# Pieces have 30 bits, the smallest transform 32 pieces; sizes around both, and around words.
SIZES = st.one_of(
    st.integers(1, 200),
    st.sampled_from([449, 450, 451, 480, 481, 960, 961, 990]),
    st.integers(1, 4000),
)


@settings(max_examples=60, deadline=None)
@given(n=SIZES, length=SIZES, seed=st.integers(0, 2**32))
@example(n=1, length=1, seed=0)
@example(n=1, length=4000, seed=0)
@example(n=4000, length=1, seed=0)
def test_hash_is_the_naive_product_in_all_ways(n: int, length: int, seed: int) -> None:
    bits, matrix = some_bits(seed, n), some_bits(seed + 1, seed_bits(n, length))
    expected = naive(bits, matrix, length)
    for how in ways():
        assert np.array_equal(hashed(bits, matrix, length, how), expected)
    assert np.array_equal(toeplitz_hash(bits, matrix, length), expected)
    packed = toeplitz_hash_packed(np.packbits(bits), n, np.packbits(matrix), length)
    assert np.array_equal(packed, np.packbits(expected))


@pytest.mark.parametrize("k", [5, 6, 7])
def test_hash_is_exact_on_both_sides_of_each_switch_of_plans(k: int) -> None:
    # One transform holds up to 2^k + 1 pieces of bits and hash together; then come blocks.
    whole = (1 << k) + 1
    for columns in (1, 2, whole // 2, whole - 2):
        for pieces in (whole - 1, whole, whole + 1, 2 * whole, 2 * whole + 1):
            n, length = 30 * columns, 30 * (pieces - columns)
            bits, seed = some_bits(n, n), some_bits(length, seed_bits(n, length))
            for how in ways():
                assert np.array_equal(hashed(bits, seed, length, how), naive(bits, seed, length))


@pytest.mark.parametrize(
    ("width", "height", "n", "length"),
    [(16, 16, 5000, 2500), (16, 16, 480, 5000), (20, 13, 600, 2000), (13, 20, 2000, 590)],
)
def test_blocks_of_any_plan_add_up(
    width: int, height: int, n: int, length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(amplify, "_blocks", lambda columns, rows: (5, width, height))
    bits, seed = some_bits(1, n), some_bits(2, seed_bits(n, length))
    for how in ways():
        assert np.array_equal(hashed(bits, seed, length, how), naive(bits, seed, length))


# k = 12 and 16 reach the loops over the first and the second cache; 17 and 18 go beyond.
@pytest.mark.parametrize("n", [84_776, 1_000_000, 2_500_000])
def test_large_hashes_are_equal_in_all_ways_and_their_rows_exact(n: int) -> None:
    length = n // 2
    bits, seed = some_bits(1, n), some_bits(2, seed_bits(n, length))
    rows = np.random.default_rng(3).integers(0, length, 60).tolist()
    results = [hashed(bits, seed, length, how) for how in ways()]
    assert_rows_fit(results[0], bits, seed, rows)
    assert all(np.array_equal(result, results[0]) for result in results)


def test_every_row_is_what_a_float_transform_finds() -> None:
    from scipy import fft

    n, length = 300_000, 200_000
    bits, seed = some_bits(1, n), some_bits(2, seed_bits(n, length))
    size = fft.next_fast_len(seed.size, real=True)
    spectrum = fft.rfft(seed.astype(np.float64), size) * fft.rfft(bits.astype(np.float64), size)
    product = fft.irfft(spectrum, size)[n - 1 :][:length]
    assert np.max(np.abs(product - np.rint(product))) < 1e-3
    expected = (np.rint(product).astype(np.int64) & 1).astype(np.uint8)
    for how in ways():
        assert np.array_equal(hashed(bits, seed, length, how), expected)


@pytest.mark.slow
@pytest.mark.parametrize("n", [30_000_000, 100_000_000])
def test_the_largest_blocks_are_exact(n: int) -> None:
    """Run by ``pytest --rootdir=tests -c pyproject.toml tests -m slow -k largest_blocks``."""
    length = n // 2
    bits, seed = some_bits(1, n), some_bits(2, seed_bits(n, length))
    rows = np.random.default_rng(3).integers(0, length, 200).tolist()
    results = [hashed(bits, seed, length, how) for how in ways()]
    assert_rows_fit(results[0], bits, seed, rows)
    assert all(np.array_equal(result, results[0]) for result in results)
    # Linearity ties the rows that were not counted to another product.
    other = some_bits(4, n)
    total = hashed(bits ^ other, seed, length, ways()[-1])
    assert np.array_equal(total, results[0] ^ hashed(other, seed, length, ways()[-1]))


def test_hash_of_all_ones_is_exact_where_sums_are_largest() -> None:
    n, length = 200_001, 1000
    ones = np.ones(n, dtype=np.uint8)
    seed = np.ones(seed_bits(n, length), dtype=np.uint8)
    assert np.all(toeplitz_hash(ones, seed, length) == 1)


@settings(max_examples=30, deadline=None)
@given(n=st.integers(1, 3000), length=st.integers(1, 3000), seed=st.integers(0, 2**32))
def test_hash_is_linear_in_the_bits_and_in_the_seed(n: int, length: int, seed: int) -> None:
    bits, more = some_bits(seed, n), some_bits(seed + 1, n)
    matrix, other = (some_bits(seed + i, seed_bits(n, length)) for i in (2, 3))
    one = toeplitz_hash(bits, matrix, length)
    assert np.array_equal(
        toeplitz_hash(bits ^ more, matrix, length), one ^ toeplitz_hash(more, matrix, length)
    )
    assert np.array_equal(
        toeplitz_hash(bits, matrix ^ other, length), one ^ toeplitz_hash(bits, other, length)
    )


@pytest.mark.parametrize(("n", "t"), [(3, 2), (5, 3), (4, 4)])
def test_hashes_collide_with_probability_exactly_two_to_minus_t(n: int, t: int) -> None:
    seeds = [np.array(s, np.uint8) for s in itertools.product((0, 1), repeat=seed_bits(n, t))]
    for difference in itertools.product((0, 1), repeat=n):
        if any(difference):
            d = np.array(difference, np.uint8)
            collisions = sum(not toeplitz_hash(d, seed, t).any() for seed in seeds)
            assert collisions * 2**t == len(seeds)


def test_basis_is_a_cantor_basis_and_independent() -> None:
    basis = amplify._basis()
    assert basis[0] == 1
    for lower, upper in itertools.pairwise(basis):
        assert times(upper, upper, GF64) ^ upper == lower
    rows: list[int] = []
    for v in basis:
        for row in rows:
            v = min(v, v ^ row)
        assert v
        rows.append(v)


@pytest.mark.parametrize(("degree", "modulus"), [(64, GF64), (128, GF128)])
def test_moduli_are_irreducible(degree: int, modulus: int) -> None:
    # Rabin: x^(2^d) = x, and x^(2^(d/2)) - x has no common divisor (2 is the only prime of d).
    power = 0b10
    for i in range(degree):
        if i == degree // 2:
            a, b = modulus, power ^ 0b10
            while b:
                while a.bit_length() >= b.bit_length():
                    a ^= b << (a.bit_length() - b.bit_length())
                a, b = b, a
            assert a == 1
        power = times(power, power, modulus)
    assert power == 0b10


@pytest.mark.parametrize(
    ("bits", "seed", "length"),
    [
        (np.zeros(4, np.uint8), np.zeros(5, np.uint8), 3),
        (np.zeros(4, np.uint8), np.zeros(6, np.int64), 3),
        (np.zeros(4, np.float32), np.zeros(6, np.uint8), 3),
        (np.full(4, 2, np.uint8), np.zeros(6, np.uint8), 3),
        (np.zeros(4, np.uint8), np.full(6, 2, np.uint8), 3),
        (np.zeros(4, np.uint8), np.zeros(3, np.uint8), 0),
        (np.zeros(0, np.uint8), np.zeros(2, np.uint8), 3),
        (np.zeros((2, 2), np.uint8), np.zeros(6, np.uint8), 3),
    ],
)
def test_wrong_shapes_are_refused(bits: Bits, seed: Bits, length: int) -> None:
    with pytest.raises(ValueError):
        toeplitz_hash(bits, seed, length)


@pytest.mark.parametrize(
    ("bits", "n", "seed", "length"),
    [
        ([0x10], 3, [0], 4),
        ([0], 3, [0x01], 4),
        ([0, 0], 3, [0], 4),
        ([0], 3, [0, 0], 4),
        ([0], 0, [0], 4),
        ([0], 3, [0], 0),
    ],
)
def test_packed_bits_of_another_size_are_refused(
    bits: list[int], n: int, seed: list[int], length: int
) -> None:
    with pytest.raises(ValueError):
        toeplitz_hash_packed(np.array(bits, np.uint8), n, np.array(seed, np.uint8), length)


def test_packed_bits_of_another_type_are_refused() -> None:
    fine = np.zeros(1, np.uint8)
    for kind in (np.int8, np.int64, np.float32, np.bool_):
        with pytest.raises(ValueError, match="uint8"):
            toeplitz_hash_packed(np.zeros(1, kind), 3, fine, 4)
        with pytest.raises(ValueError, match="uint8"):
            toeplitz_hash_packed(fine, 3, np.zeros(1, kind), 4)


def test_a_seed_serves_one_block_once() -> None:
    alice, bob = Seeds(), Seeds()
    source = SeededRandomness(1, "alice")
    first = alice.draw(source, "s/0", 200, 100)
    assert np.array_equal(bob.admit("s/0", first, 200, 100), first)
    assert not np.array_equal(alice.draw(source, "s/1", 200, 100), first)
    with pytest.raises(ProtocolError, match="twice"):
        alice.draw(SystemRandomness(), "s/0", 200, 100)
    with pytest.raises(ProtocolError, match="twice"):
        bob.admit("s/0", pack(some_bits(1, 299)), 200, 100)
    with pytest.raises(ProtocolError, match="used before"):
        bob.admit("s/1", first, 200, 100)
    with pytest.raises(ValueError, match="packed bits of seed"):
        bob.admit("s/1", first[:-1], 200, 100)
    # What was refused is not taken for a use.
    bob.admit("s/1", pack(some_bits(2, 299)), 200, 100)


def test_seeds_are_remembered_for_a_bounded_number_of_blocks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(amplify, "_REMEMBERED", 3)
    seeds = Seeds()
    drawn = [seeds.draw(SystemRandomness(), str(i), 150, 1) for i in range(5)]
    for i in (2, 3, 4):
        with pytest.raises(ProtocolError, match="used before"):
            seeds.admit("new", drawn[i], 150, 1)
    assert len(seeds._digests) == len(seeds._blocks) == 3


def tag_number(bits: Bits, seed: Bits) -> int:
    """The whole tag of 128 bits, from the definition."""
    alpha, beta = number(seed[:128]), number(seed[128:])
    padded = np.concatenate([bits, np.zeros(-bits.size % 128, np.uint8)])
    value = 0
    for block in padded.reshape(-1, 128):
        value = times(value, alpha, GF128) ^ number(block)
    return times(value, beta, GF128)


@settings(max_examples=25, deadline=None)
@given(n=st.integers(1, 700), t=st.integers(1, 128), seed=st.integers(0, 2**32))
@example(n=128, t=64, seed=0)
@example(n=129, t=128, seed=0)
def test_tag_is_the_polynomial_at_a_random_point_times_another(n: int, t: int, seed: int) -> None:
    bits, points = some_bits(seed, n), some_bits(seed + 1, tag_seed_bits(n, t))
    expected = tag_number(bits, points)
    assert number(verification_tag(bits, points, t)) == expected >> (128 - t)
    for how in ways():
        packed = verify._tag(np.packbits(bits), np.packbits(points), how)
        assert int.from_bytes(packed.tobytes()) == expected


@pytest.mark.parametrize("t", [1, 17, 64, 128])
def test_second_factor_alone_collides_with_probability_exactly_two_to_minus_t(t: int) -> None:
    # For a difference of one element the tag is linear in beta; full rank makes it uniform.
    difference = some_bits(5, 128)
    rows: list[int] = []
    for i in range(128):
        seed = np.zeros(256, np.uint8)
        seed[128 + i] = 1
        row = number(verification_tag(difference, seed, t))
        for known in rows:
            row = min(row, row ^ known)
        if row:
            rows.append(row)
    assert len(rows) == t


def test_tags_collide_where_the_polynomial_has_a_root_and_that_is_counted() -> None:
    # (x + r)(x + s) x has the roots r, s and 0, as many as the bound grants to four elements.
    r, s = 0x1234567, 0xABCDEF << 90
    coefficients = [1, r ^ s, times(r, s, GF128), 0]
    difference = np.unpackbits(
        np.frombuffer(b"".join(c.to_bytes(16) for c in coefficients), np.uint8)
    )
    for root in (0, r, s):
        seed = np.unpackbits(np.frombuffer(root.to_bytes(16) + bytes(range(16)), np.uint8))
        assert not verification_tag(difference, seed, 128).any()
    seed = np.unpackbits(np.frombuffer((r ^ 1).to_bytes(16) + bytes(range(16)), np.uint8))
    assert verification_tag(difference, seed, 128).any()
    assert collision_probability(512, 128) == (1 + 3) * 2.0**-128
    assert collision_probability(128, 40) == 2.0**-40
    assert collision_probability(10**8, 50) - 2.0**-50 == pytest.approx(0, abs=1e-30)


@settings(max_examples=40, deadline=None)
@given(n=st.integers(1, 10**9), length=st.integers(1, 10**9))
def test_seeds_and_collisions_are_those_of_the_oracle(n: int, length: int) -> None:
    if length <= n:
        assert seed_bits(n, length) == reconcile.toeplitz_seed(n, length)
    for t in (20, 50, 128):
        # The oracle's polynomial hash, followed by one that collides with chance 2^-t.
        expected = reconcile.poly_collision(-(-n // 128), 128) + 2.0**-t
        assert collision_probability(n, t) == pytest.approx(expected, rel=1e-15)


@pytest.mark.parametrize(("n", "t"), [(0, 10), (10, 0), (10, 129)])
def test_tags_that_do_not_exist_are_refused(n: int, t: int) -> None:
    for function in (tag_seed_bits, collision_probability):
        with pytest.raises(ValueError, match="1 to 128 bits"):
            function(n, t)
    with pytest.raises(ValueError):
        verification_tag(np.zeros(n, np.uint8), np.zeros(256, np.uint8), t)


def test_tag_of_what_are_no_bits_is_refused() -> None:
    bits, seed = some_bits(1, 300), some_bits(2, 256)
    for wrong, points in ((bits + 1, seed), (bits, seed + 1), (bits, seed[1:]), (bits * 1.0, seed)):
        with pytest.raises(ValueError):
            verification_tag(wrong.astype(wrong.dtype), points, 40)


def test_philox_words_are_the_published_ones() -> None:
    # Random123 kat_vectors, philox4x64-10, zero counter and key.
    first = [0x16554D9ECA36314C, 0xDB20FE9D672D0FDC, 0xD7E772CEE186176B, 0x7E68B68AEC7BA23B]
    assert philox_words(0, 0, 4).tolist() == first


@settings(max_examples=50, deadline=None)
@given(start=st.integers(0, 1000), count=st.integers(0, 50))
def test_words_do_not_depend_on_how_they_are_asked_for(start: int, count: int) -> None:
    source = SeededRandomness(7, "alice")
    whole = source.words("x", 0, start + count)
    assert np.array_equal(source.words("x", start, count), whole[start:])


def test_seeded_streams_differ_by_seed_party_and_purpose() -> None:
    streams = {
        tuple(SeededRandomness(seed, party).words(purpose, 0, 4).tolist())
        for seed, party, purpose in itertools.product((1, 2), ("alice", "bob"), ("x", "y"))
    }
    assert len(streams) == 8


@pytest.mark.parametrize("source", [SystemRandomness(), SeededRandomness(1, "alice")])
def test_bits_are_bits_and_balanced(source: Randomness) -> None:
    bits = random_bits(source, "x", 100_003)
    assert bits.shape == (100_003,)
    assert set(np.unique(bits).tolist()) == {0, 1}
    assert abs(bits.mean() - 0.5) < 6 * 0.5 / 100_003**0.5


def test_system_words_are_fresh() -> None:
    source = SystemRandomness()
    assert source.kind == "system"
    assert not np.array_equal(source.words("x", 0, 8), source.words("x", 0, 8))
