"""Cascade: corrects, leaks near the Shannon limit, asks nothing twice, survives lies."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
from bellbench.instruments import ProtocolError
from bellbench.protocols.qkd.cascade import PASSES, Corrector, Reference, _Frame
from bellbench.protocols.qkd.finite_key import binary_entropy
from bellbench.protocols.qkd.randomness import philox_words
from hypothesis import given, settings
from hypothesis import strategies as st

Bits = npt.NDArray[np.uint8]


def noisy(n: int, rate: float, seed: int) -> tuple[Bits, Bits]:
    rng = np.random.default_rng(seed)
    bits = rng.integers(0, 2, n, dtype=np.uint8)
    return bits, bits ^ (rng.random(n) < rate).astype(np.uint8)


def reconcile(alice: Bits, bob: Bits, rate: float, key: int) -> tuple[Corrector, int, int]:
    """Corrector, bits of leak, rounds."""
    reference, corrector = Reference(alice, rate, key), Corrector(bob, rate, key)
    leak = rounds = 0
    while (request := corrector.request()) is not None:
        parities = reference.answer(*request)
        leak, rounds = leak + parities.size, rounds + 1
        corrector.accept(parities)
    return corrector, leak, rounds


@pytest.mark.parametrize("n", [16, 17, 1000, 1024, 1025])
def test_passes_sort_the_places_by_the_words_of_philox(n: int) -> None:
    frame = _Frame(n, 0.05, key=77)
    assert frame.order(0).tolist() == list(range(n))
    step = 2 ** math.ceil(math.log2(n))
    for index in (1, 2, PASSES - 1):
        words = philox_words(77, index * n, n).tolist()
        expected = sorted(range(n), key=lambda place: words[place] // step * step + place)
        assert frame.order(index).tolist() == expected


@pytest.mark.parametrize("rate", [0.01, 0.03, 0.08])
def test_efficiency_of_large_blocks(rate: float) -> None:
    n = 87_000
    alice, bob = noisy(n, rate, 5)
    corrector, leak, rounds = reconcile(alice, bob, rate, 5)
    wrong = int(np.count_nonzero(alice != bob))
    assert np.array_equal(corrector.bits, alice)
    assert corrector.errors == wrong
    f = leak / (n * binary_entropy(wrong / n))
    assert 1.0 < f <= 1.10
    assert rounds < 2500


@pytest.mark.parametrize(
    ("rate", "f_published"),
    [
        (0.005, 1.0499),
        (0.01, 1.0422),
        (0.02, 1.0401),
        (0.03, 1.0390),
        (0.05, 1.0431),
        (0.08, 1.0547),
        (0.11, 1.0613),
    ],
)
def test_efficiency_of_the_published_frame(rate: float, f_published: float) -> None:
    n, efficiencies = 16_384, []
    for seed in range(6):
        alice, bob = noisy(n, rate, seed)
        corrector, leak, rounds = reconcile(alice, bob, rate, seed)
        assert np.array_equal(corrector.bits, alice)
        f = leak / (n * binary_entropy(float(np.mean(alice != bob))))
        assert f >= 1.0
        assert rounds < 1500
        efficiencies.append(f)
    assert np.mean(efficiencies) == pytest.approx(f_published, abs=0.02)
    assert np.mean(efficiencies) <= 1.10


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(16, 3000),
    errors=st.floats(0.0, 0.12),
    guess=st.sampled_from([1e-6, 0.01, 0.05, 0.2]),
    seed=st.integers(0, 2**64),
)
def test_blocks_of_any_length_are_never_made_worse(
    n: int, errors: float, guess: float, seed: int
) -> None:
    alice, bob = noisy(n, errors, seed)
    corrector, leak, _ = reconcile(alice, bob, guess, seed)
    left = int(np.count_nonzero(corrector.bits != alice))
    wrong = int(np.count_nonzero(bob != alice))
    # Each flip repairs one error; an even number may hide from all blocks.
    assert left == wrong - corrector.errors
    assert left % 2 == 0
    assert leak > 0


def test_nothing_asked_is_implied_by_the_other_parities_of_its_pass() -> None:
    n, rate, key = 300, 0.06, 3
    alice, bob = noisy(n, rate, 11)
    reference, corrector = Reference(alice, rate, key), Corrector(bob, rate, key)
    asked: list[list[int]] = [[] for _ in range(PASSES)]
    while (request := corrector.request()) is not None:
        for index, node in zip(request[0].tolist(), request[1].tolist(), strict=True):
            asked[index].append(node)
        corrector.accept(reference.answer(*request))
    assert np.array_equal(corrector.bits, alice)
    assert all(asked)
    for index, nodes in enumerate(asked):
        vectors = []
        for node in nodes:
            level = node.bit_length() - 1
            first, last = (((node - (1 << level) + i) * n) >> level for i in (0, 1))
            vectors.append((1 << last) - (1 << first))
        if index:  # the whole frame is known from the first pass
            vectors.append((1 << n) - 1)
        rank, reduced = 0, dict[int, int]()
        for vector in vectors:
            while vector and (top := vector.bit_length()) in reduced:
                vector ^= reduced[top]
            if vector:
                reduced[vector.bit_length()] = vector
                rank += 1
        assert rank == len(vectors)


def test_equal_blocks_cost_only_the_blocks_of_each_pass() -> None:
    alice, _ = noisy(16_384, 0.0, 1)
    corrector, leak, rounds = reconcile(alice, alice, 0.01, 1)
    assert corrector.errors == 0
    assert rounds == PASSES
    # 128, 1024 and 4096 bits a block, then halves; from the second pass on the last is implied.
    assert leak == 128 + 15 + 3 + 11


def test_the_corrector_leaves_its_input_alone() -> None:
    alice, bob = noisy(1000, 0.05, 2)
    before = bob.copy()
    reconcile(alice, bob, 0.05, 2)
    assert np.array_equal(bob, before)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32), lie=st.floats(0.001, 0.5))
def test_lies_end_and_never_loop(seed: int, lie: float) -> None:
    alice, bob = noisy(600, 0.05, seed)
    rng = np.random.default_rng(seed)
    reference, corrector = Reference(alice, 0.05, seed), Corrector(bob, 0.05, seed)
    leak = 0
    try:
        while (request := corrector.request()) is not None:
            parities = reference.answer(*request)
            leak += parities.size
            corrector.accept(parities ^ (rng.random(parities.size) < lie).astype(np.uint8))
    except ProtocolError as error:
        assert "contradict" in str(error)  # noqa: PT017 - either end is fine
    assert leak < 600 * PASSES


def test_the_reference_answers_no_nonsense() -> None:
    alice, _ = noisy(1000, 0.0, 1)

    def ask(reference: Reference, passes: list[int], nodes: list[int]) -> Bits:
        return reference.answer(np.array(passes, np.uint8), np.array(nodes, np.int64))

    for passes, nodes in (
        ([1], [2]),
        ([14], [2]),
        ([0], [0]),
        ([0], [1]),
        ([0], [-5]),
        ([0], [2048]),
        ([0, 0], [700, 700]),
    ):
        with pytest.raises(ProtocolError):
            ask(Reference(alice, 0.02, 1), passes, nodes)
    reference = Reference(alice, 0.02, 1)
    assert ask(reference, [0], [512]).tolist() == [alice[0]]
    with pytest.raises(ProtocolError, match="twice"):
        ask(reference, [0], [512])


def test_the_corrector_takes_only_answers_to_its_question() -> None:
    _, bob = noisy(1000, 0.0, 1)
    corrector = Corrector(bob, 0.02, 1)
    with pytest.raises(ProtocolError):
        corrector.accept(np.zeros(1, np.uint8))
    request = corrector.request()
    assert request is not None
    with pytest.raises(ProtocolError):
        corrector.accept(np.zeros(request[1].size + 1, np.uint8))
    with pytest.raises(ProtocolError):
        corrector.request()
