"""Toeplitz hashing against the naive product, universality counted out, random words."""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt
import pytest
from bellbench.instruments import ProtocolError
from bellbench.protocols.qkd import SeededRandomness, SystemRandomness
from bellbench.protocols.qkd.amplify import seed_bits, toeplitz_hash
from bellbench.protocols.qkd.randomness import Randomness, philox_words, random_bits
from bellbench.protocols.qkd.verify import tag_seed_bits, verification_tag
from hypothesis import given, settings
from hypothesis import strategies as st

Bits = npt.NDArray[np.uint8]


def naive(bits: Bits, seed: Bits, length: int) -> Bits:
    n = bits.size
    matrix = np.array([[seed[i - j + n - 1] for j in range(n)] for i in range(length)])
    return (matrix.astype(np.int64) @ bits % 2).astype(np.uint8)


def some_bits(seed: int, count: int) -> Bits:
    return np.random.default_rng(seed).integers(0, 2, count, dtype=np.uint8)


@settings(max_examples=150, deadline=None)
@given(n=st.integers(1, 130), length=st.integers(1, 130), seed=st.integers(0, 2**32))
def test_hash_is_the_naive_product(n: int, length: int, seed: int) -> None:
    bits, matrix = some_bits(seed, n), some_bits(seed + 1, seed_bits(n, length))
    assert np.array_equal(toeplitz_hash(bits, matrix, length), naive(bits, matrix, length))


@pytest.mark.parametrize("n", [84_776, 1_000_000])
def test_rows_of_a_large_hash_are_exact(n: int) -> None:
    length = n // 2
    bits, seed = some_bits(1, n), some_bits(2, seed_bits(n, length))
    result = toeplitz_hash(bits, seed, length)
    for row in [0, 1, length - 1, *np.random.default_rng(3).integers(0, length, 60).tolist()]:
        assert result[row] == int(np.dot(seed[row : row + n][::-1].astype(np.int64), bits)) % 2


def test_hash_of_all_ones_is_exact_where_sums_are_largest() -> None:
    n, length = 200_001, 1000
    ones = np.ones(n, dtype=np.uint8)
    seed = np.ones(seed_bits(n, length), dtype=np.uint8)
    assert np.all(toeplitz_hash(ones, seed, length) == 1)


def test_unsafe_rounding_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from scipy import fft

    exact = fft.irfft
    monkeypatch.setattr(fft, "irfft", lambda *args: exact(*args) + 0.03)
    with pytest.raises(ProtocolError, match="unsafe"):
        toeplitz_hash(some_bits(1, 50), some_bits(2, seed_bits(50, 20)), 20)


def test_oversized_hash_is_refused() -> None:
    n = (1 << 28) + 1
    flat = np.broadcast_to(np.uint8(0), (n,))
    with pytest.raises(ProtocolError, match="smaller blocks"):
        toeplitz_hash(flat, flat, 1)


@pytest.mark.parametrize(
    ("bits", "seed", "length"),
    [
        (np.zeros(4, np.uint8), np.zeros(5, np.uint8), 3),
        (np.zeros(4, np.uint8), np.zeros(6, np.int64), 3),
        (np.full(4, 2, np.uint8), np.zeros(6, np.uint8), 3),
        (np.zeros(4, np.uint8), np.zeros(3, np.uint8), 0),
        (np.zeros((2, 2), np.uint8), np.zeros(6, np.uint8), 3),
    ],
)
def test_wrong_shapes_are_refused(bits: Bits, seed: Bits, length: int) -> None:
    with pytest.raises(ValueError):
        toeplitz_hash(bits, seed, length)


@pytest.mark.parametrize(("n", "t"), [(3, 2), (5, 3), (4, 4)])
def test_tags_collide_with_probability_exactly_two_to_minus_t(n: int, t: int) -> None:
    seeds = [np.array(s, np.uint8) for s in itertools.product((0, 1), repeat=tag_seed_bits(n, t))]
    for difference in itertools.product((0, 1), repeat=n):
        if any(difference):
            d = np.array(difference, np.uint8)
            collisions = sum(not verification_tag(d, seed, t).any() for seed in seeds)
            assert collisions * 2**t == len(seeds)


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
