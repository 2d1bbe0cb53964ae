"""LDPC: corrects, leaks what it sends and little more than must be, survives lies."""

from __future__ import annotations

import hashlib
import math
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest
from bellbench.instruments import ProtocolError
from bellbench.protocols.qkd import ldpc
from bellbench.protocols.qkd.finite_key import binary_entropy
from bellbench.protocols.qkd.ldpc import MIN_BITS, ROUNDS, Corrector, Reference, leak_budget
from hypothesis import given, settings
from hypothesis import strategies as st

Bits = npt.NDArray[np.uint8]
Indices = npt.NDArray[np.int64]


def noisy(n: int, rate: float, seed: int) -> tuple[Bits, Bits]:
    rng = np.random.default_rng(seed)
    bits = rng.integers(0, 2, n, dtype=np.uint8)
    return bits, bits ^ (rng.random(n) < rate).astype(np.uint8)


def reconcile(alice: Bits, bob: Bits, rate: float, key: int) -> tuple[Corrector, int, int]:
    """Corrector, bits of leak, rounds after the first."""
    reference, corrector = Reference(alice, rate, key), Corrector(bob, rate, key)
    parities = reference.syndrome()
    leak, rounds = parities.size, 0
    while (frames := corrector.accept(parities)) is not None:
        parities = reference.more(frames)
        leak, rounds = leak + parities.size, rounds + 1
    return corrector, leak, rounds


def shape(n: int, rate: float) -> ldpc._Shape:
    return ldpc._plan(n, rate).shape


def edges(code: ldpc._Code) -> list[list[tuple[int, int]]]:
    """Column and shift of the edges of each row."""
    pairs = list(zip(code.column.tolist(), code.shift.tolist(), strict=True))
    return [pairs[a:b] for a, b in pairwise(code.row_start.tolist())]


def dense(code: ldpc._Code, columns: int, lifting: int) -> Bits:
    """The parity-check matrix, without the bits that only one check has."""
    matrix = np.zeros((code.rows, lifting, columns, lifting), dtype=np.uint8)
    lane = np.arange(lifting)
    for row, line in enumerate(edges(code)):
        for column, shift in line:
            matrix[row, lane, column, (lane + shift) % lifting] = 1
    return matrix.reshape(code.rows * lifting, columns * lifting)


@pytest.mark.parametrize("rate", [0.0125, 0.0185, 0.03, 0.05, 0.08, 0.097, 0.12])
def test_corrects_near_the_shannon_limit(rate: float) -> None:
    n = 200_000
    alice, bob = noisy(n, rate, 5)
    corrector, leak, rounds = reconcile(alice, bob, rate, 5)
    wrong = int(np.count_nonzero(alice != bob))
    assert np.array_equal(corrector.bits, alice)
    assert corrector.errors == wrong
    f = leak / (n * binary_entropy(wrong / n))
    assert 1.0 < f < (1.14 if rate > 0.015 else 1.18)
    budget = leak_budget(n, rate)
    if rounds == 0:
        assert leak == budget.syndrome
    assert budget.efficiency == budget.syndrome / (n * binary_entropy(rate))
    assert not np.array_equal(bob, alice)  # the corrector works on a copy


@settings(max_examples=25, deadline=None)
@given(
    n=st.integers(MIN_BITS, 40_000),
    rate=st.floats(*ldpc.ERROR_RATES),
    real=st.floats(0.5, 1.2),
    key=st.integers(0, 2**128 - 1),
)
def test_any_length_rate_and_key(n: int, rate: float, real: float, key: int) -> None:
    alice, bob = noisy(n, rate * real, key % 2**64)
    budget = leak_budget(n, rate)
    corrector, leak, _ = reconcile(alice, bob, rate, key)
    assert np.array_equal(corrector.bits, alice)
    assert corrector.errors == np.count_nonzero(alice != bob)
    assert leak >= n * binary_entropy(corrector.errors / n)
    assert budget.syndrome <= leak <= budget.most


@pytest.mark.parametrize("rate", [0.02, 0.04, 0.08])
def test_more_redundancy_rescues_frames_with_more_errors(rate: float) -> None:
    n = 600_000  # three frames
    alice, bob = noisy(n, 1.15 * rate, 2)
    corrector, leak, rounds = reconcile(alice, bob, rate, 3)
    assert np.array_equal(corrector.bits, alice)
    assert 1 <= rounds <= 3
    wrong = corrector.errors / n
    # As good as a code made for the true rate, but for steps of 3, 6, 12 %.
    assert 1.0 < leak / (n * binary_entropy(wrong)) < 1.2


def test_only_frames_that_failed_get_more() -> None:
    n, rate = 600_000, 0.08
    alice, bob = noisy(n, rate, 4)
    reference, corrector = Reference(alice, rate, 1), Corrector(bob, rate, 1)
    # The second frame gets more errors.
    start, count = corrector._place(1)
    extra = np.random.default_rng(0).random(count) < 0.015
    corrector.bits[(start + corrector._step * np.flatnonzero(extra)) % n] ^= 1
    frames = corrector.accept(reference.syndrome())
    assert frames is not None
    assert frames.tolist() == [1]
    parities = reference.more(frames)
    assert parities.size == ldpc._bits_of_round(corrector._plan.shape, 1)
    while (frames := corrector.accept(parities)) is not None:
        assert frames.tolist() == [1]
        parities = reference.more(frames)
    assert np.array_equal(corrector.bits, alice)


def test_bursts_of_errors_are_spread() -> None:
    n, rate = 200_000, 0.03
    alice, bob = noisy(n, 0.01, 6)
    burst = slice(50_000, 58_000)  # half the bits wrong for a while
    bob[burst] = np.random.default_rng(6).integers(0, 2, 8_000)
    corrector, _, rounds = reconcile(alice, bob, rate, 9)
    assert np.array_equal(corrector.bits, alice)
    assert rounds == 0


@pytest.mark.parametrize("index", [0, 1, 3])
def test_irregular_syndrome_is_a_matrix_product(index: int) -> None:
    n, rate = 4_500, 0.04
    party = Reference(noisy(n, 0.0, 1)[0], rate, 11)
    kind = shape(n, rate)
    code = ldpc._code(kind, index)
    assert not kind.protograph
    columns = np.zeros(kind.columns * kind.lifting, dtype=np.uint8)
    columns[:n] = party._bits[(party._start + party._step * np.arange(n)) % n]
    product = (dense(code, kind.columns, kind.lifting) @ columns.astype(np.int64)) % 2
    first = code.first_row[index] * kind.lifting
    parities = party._parities(0, index)
    assert np.array_equal(parities, product[first : first + ldpc._bits_of_round(kind, index)])
    assert parities.size % kind.lifting == 0


@pytest.mark.parametrize(("n", "copies"), [(4_500, 1), (20_000, 3)])
@pytest.mark.parametrize("index", [0, 1, 3])
def test_protograph_syndrome_is_a_matrix_product(n: int, copies: int, index: int) -> None:
    rate = 0.09
    party = Reference(noisy(n, 0.0, 1)[0], rate, 11)
    kind = shape(n, rate)
    code = ldpc._code(kind, index)
    assert kind.protograph
    assert kind.columns == 26 * copies
    z = kind.lifting
    group = z * copies  # lanes of a row or column of the base graph
    own = kind.first - 2 * group
    key = party._bits[(party._start + party._step * np.arange(n)) % n].astype(np.int64)
    columns = np.zeros(26 * group, dtype=np.int64)
    columns[2 * group :][: n - own] = key[: n - own]

    def checks(row: int) -> Indices:
        """Sums of the checks of a row of the code, lane by lane."""
        total = np.zeros(z, dtype=np.int64)
        for column, shift in edges(code)[row]:
            total += np.roll(columns[column * z : (column + 1) * z], -shift)
        return total % 2

    # Row 1 has one hidden bit in each check, of column 0; row 0 one more, of column 1.
    for row in (*range(copies, 2 * copies), *range(copies)):
        hidden = [edge for edge in edges(code)[row] if edge[0] < 2 * copies]
        assert [c // copies for c, _ in hidden] == ([0] if row >= copies else [0, 1])
        column, shift = hidden[-1]
        columns[column * z : (column + 1) * z] = np.roll(checks(row), shift)
    product = np.concatenate([checks(row) for row in range(code.rows)])
    assert not product[: 2 * group].any()
    product[4 * group : 4 * group + own] ^= key[n - own :]
    first = code.first_row[index] * z + (2 * group if index == 0 else 0)
    parities = party._parities(0, index)
    assert np.array_equal(parities, product[first : first + ldpc._bits_of_round(kind, index)])


def test_a_check_node_is_the_box_plus() -> None:
    from bellbench.protocols.qkd import _kernels_ldpc as kernels

    lifting, ratios = 64, [0.7, -1.5, 2.5]
    stride = lifting + 128
    state = np.zeros((3, stride), dtype=np.int16)
    state[:] = np.round(np.array(ratios)[:, np.newaxis] * kernels.UNIT)
    # A second row, on a fourth column, can never be satisfied: so one iteration is what we see.
    kernels.decode(
        state.reshape(-1),
        np.zeros(3 * lifting, dtype=np.int16),
        np.zeros(lifting, dtype=np.int16),
        np.full(lifting, -1, dtype=np.int16),
        np.array([0, 3], dtype=np.int64),
        np.arange(3, dtype=np.uint64) * np.uint64(stride) + np.uint64(32),
        np.array([0, 40, 63], dtype=np.uint64),
        np.zeros(1, dtype=np.bool_),
        np.array([lifting], dtype=np.int64),
        lifting,
        0,
        1,
    )
    after = state[:, 32 : 32 + lifting] / kernels.UNIT
    halves = np.tanh(np.array(ratios) / 2)
    least = -2 * math.atanh(halves[1] * halves[2])  # the syndrome is 1
    others = 2 * math.atanh(math.prod(abs(halves)))  # of everything, themselves included
    assert after[0] == pytest.approx(ratios[0] + least, abs=0.04)
    assert after[1] == pytest.approx(ratios[1] - others, abs=0.04)
    assert after[2] == pytest.approx(ratios[2] + others, abs=0.04)
    # The lanes that wrap around are there twice.
    assert np.array_equal(state[:, 32:64], state[:, 32 + lifting : 64 + lifting])


@pytest.mark.parametrize(
    ("n", "rate", "rounds"),
    [
        (MIN_BITS, 0.012, 0),
        (20_000, 0.03, 2),
        (250_000, 0.02, 0),
        (60_000, 0.09, 3),
        (MIN_BITS, 0.12, 1),
    ],
)
def test_no_cycles_of_four(n: int, rate: float, rounds: int) -> None:
    kind = shape(n, rate)
    code = ldpc._code(kind, rounds)
    if kind.protograph:  # nothing had to be left out
        rows, _ = ldpc._protograph_edges(code.first_row[1], kind.columns // 26)
        assert code.row_start[code.first_row[1]] == len(rows)
    seen: set[tuple[int, int, int]] = set()
    for line in edges(code):
        assert len({column for column, _ in line}) == len(line)
        for i, (a, s) in enumerate(line):
            for b, t in line[i + 1 :]:
                edge = (a, b, (s - t) % kind.lifting)
                assert edge not in seen
                seen.add(edge)


def test_columns_of_degree_two_are_in_no_cycle() -> None:
    # R = 0.75 has more of them than rows: a cycle would be a light codeword, that is, a pattern of
    # errors that no decoder sees.
    kind = shape(250_000, 0.033)
    code = ldpc._code(kind, 0)
    rows_of: dict[int, list[int]] = {}
    for row, line in enumerate(edges(code)):
        for column, _ in line:
            rows_of.setdefault(column, []).append(row)
    pairs = [tuple(rows) for rows in rows_of.values() if len(rows) == 2]
    assert sorted(pairs) == [(row, row + 1) for row in range(len(pairs))]
    assert min(map(len, rows_of.values())) == 2
    assert len(rows_of) == kind.columns
    degrees = [len(line) for line in edges(code)]
    assert max(degrees) - min(degrees) <= 1


def test_base_graph_1_has_316_edges() -> None:
    rows, columns = ldpc._protograph_edges(46, 1)
    assert len(rows) + 42 == 316  # 42 rows have a column of their own
    assert [rows.count(row) for row in range(6)] == [19, 19, 19, 19, 2, 7]
    assert sorted(set(columns)) == list(range(26))
    assert [columns.count(column) for column in range(2)] == [30, 28]  # the punctured ones


def test_codes_are_the_same_everywhere() -> None:
    def digest(kind: ldpc._Shape, rounds: int) -> str:
        code = ldpc._code(kind, rounds)
        data = b"".join(
            np.ascontiguousarray(part).astype("<i8").tobytes()
            for part in (code.row_start, code.column, code.shift, code.length)
        )
        return hashlib.blake2b(data, digest_size=8).hexdigest()

    assert digest(ldpc._Shape(False, 64, 64, 17 * 64), 0) == "9a4c771ad5604165"
    assert digest(ldpc._Shape(False, 410, 640, 61 * 640), 2) == "649fc4ef26097551"
    assert digest(ldpc._Shape(True, 208, 800, 123_840), 2) == "410f9248103c7926"


def test_what_the_codes_are_not_made_for() -> None:
    bits = np.zeros(MIN_BITS, dtype=np.uint8)
    for rate in (0.0119, 0.121, math.nan, math.inf, 0.0):
        with pytest.raises(ValueError, match="take Cascade"):
            Reference(bits, rate, 0)
    with pytest.raises(ValueError, match="4096 to 2\\^31 bits"):
        Corrector(bits[1:], 0.03, 0)
    with pytest.raises(ValueError, match="4096 to 2\\^31 bits"):
        leak_budget(2**31 + 1, 0.03)


def test_messages_out_of_turn() -> None:
    alice, bob = noisy(MIN_BITS, 0.05, 1)
    reference, corrector = Reference(alice, 0.05, 0), Corrector(bob, 0.05, 0)
    frame = np.zeros(1, dtype=np.int64)
    with pytest.raises(ProtocolError, match="before the first"):
        reference.more(frame)
    syndrome = reference.syndrome()
    with pytest.raises(ProtocolError, match="sent before"):
        reference.syndrome()
    for index in range(ROUNDS):
        assert reference.more(frame).size > 0, index
    with pytest.raises(ProtocolError, match=f"after {ROUNDS} rounds"):
        reference.more(frame)
    while (frames := corrector.accept(syndrome)) is not None:
        pytest.fail(f"frames {frames} did not decode")
    with pytest.raises(ProtocolError, match="every frame had decoded"):
        corrector.accept(syndrome)


def test_malformed_messages() -> None:
    alice, bob = noisy(600_000, 0.09, 1)
    reference, corrector = Reference(alice, 0.08, 0), Corrector(bob, 0.08, 0)
    parities = reference.syndrome()
    bad_parities: list[object] = [
        parities[:-1],
        np.append(parities, parities),
        parities[:0],
        parities + np.uint8(1),
        parities.astype(np.int64),
        parities[np.newaxis],
        parities.tolist(),
        b"",
    ]
    for bad in bad_parities:
        with pytest.raises(ProtocolError):
            corrector.accept(bad)  # type: ignore[arg-type]
    bad_frames: list[object] = [
        np.array([], dtype=np.int64),
        np.array([0, 0], dtype=np.int64),
        np.array([1, 0], dtype=np.int64),
        np.array([-1], dtype=np.int64),
        np.array([3], dtype=np.int64),
        np.array([0], dtype=np.int32),
        np.array([[0]], dtype=np.int64),
        [0],
    ]
    for bad in bad_frames:
        with pytest.raises(ProtocolError):
            reference.more(bad)  # type: ignore[arg-type]
    assert reference.more(np.array([0, 2], dtype=np.int64)).size > 0
    with pytest.raises(ProtocolError, match="not open"):
        reference.more(np.array([1], dtype=np.int64))
    # None of it did harm.
    frames = corrector.accept(parities)
    assert frames is not None
    assert frames.tolist() == [0, 1, 2]


@pytest.mark.parametrize("rate", [0.03, 0.1])
def test_hopeless_frames_end_the_protocol(rate: float) -> None:
    rng = np.random.default_rng(1)
    corrector = Corrector(rng.integers(0, 2, MIN_BITS, dtype=np.uint8), rate, 0)
    for index in range(ROUNDS + 1):
        size = ldpc._bits_of_round(corrector._plan.shape, index)
        parities = rng.integers(0, 2, size, dtype=np.uint8)
        if index < ROUNDS:
            frames = corrector.accept(parities)
            assert frames is not None
            assert frames.tolist() == [0]
        else:
            with pytest.raises(ProtocolError, match="1 of 1 frames did not decode"):
                corrector.accept(parities)
    with pytest.raises(ProtocolError, match="after 5 rounds"):
        corrector.accept(parities)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("rate", [0.0125, 0.0185, 0.03, 0.05, 0.07, 0.09, 0.11])
@pytest.mark.parametrize(("n", "frames"), [(16_384, 20_000), (262_144, 1_000)])
def test_frames_that_fail(n: int, frames: int, rate: float) -> None:
    """Less than 10 % of the frames want a second round, all decode, and all rightly.

    Takes minutes: ``pytest --rootdir=tests -m slow tests/protocols/test_qkd_ldpc.py``.
    """
    again = 0
    for seed in range(frames):
        alice, bob = noisy(n, rate, seed)
        corrector, _, rounds = reconcile(alice, bob, rate, seed)
        assert np.array_equal(corrector.bits, alice), seed
        again += rounds > 0
    assert again < 0.1 * frames
