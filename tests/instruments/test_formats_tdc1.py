"""The live TDC1 word stream: any split, turnovers, lost bytes."""

import itertools
import struct

import numpy as np
import pytest
from bellbench.instruments import TagBatch, TagFileError, concatenate
from bellbench.instruments.formats import Tdc1Decoder, encode_tags
from hypothesis import given, settings
from hypothesis import strategies as st

TURN_PS = 2**28 * 1000


def words(*events: tuple[int, int]) -> bytes:
    """Words of (ticks within the turn, low five bits)."""
    return b"".join(struct.pack("<I", ticks << 5 | code) for ticks, code in events)


def decode(data: bytes, cuts: list[int] | None = None, *, resync: bool = True) -> TagBatch:
    decoder = Tdc1Decoder(resync=resync)
    edges = [0, *sorted(cuts or []), len(data)]
    parts = [decoder.feed(data[a:b]) for a, b in itertools.pairwise(edges)]
    return concatenate([*parts, decoder.flush()]).checked()


def stream(seed: int, clicks: int, rate_hz: float) -> TagBatch:
    rng = np.random.default_rng(seed)
    times = np.cumsum(1 + rng.exponential(5e8 / rate_hz, clicks).astype(np.int64)) * 2000
    channels = rng.integers(1, 5, clicks).astype(np.int16)
    return TagBatch(times, channels, 0, int(times[-1]) + 1)


@given(
    events=st.lists(st.tuples(st.integers(0, 2**26), st.integers(1, 15)), max_size=30),
    cuts=st.lists(st.integers(0, 200), max_size=6),
)
@settings(max_examples=60)
def test_any_split_of_any_stream(events: list[tuple[int, int]], cuts: list[int]) -> None:
    ticks = np.cumsum([step for step, _ in events]).astype(np.int64)
    expected = sorted(
        {
            (int(t) * 2000, bit + 1)
            for t, (_, code) in zip(ticks, events, strict=True)
            for bit in range(4)
            if code >> bit & 1
        }
    )
    times = np.array([t for t, _ in expected], np.int64)
    channels = np.array([c for _, c in expected], np.int16)
    data = encode_tags(TagBatch(times, channels, 0, 1 + max(times, default=0)), "tdc1")
    batch = decode(data, [min(cut, len(data)) for cut in cuts], resync=False)
    assert list(zip(batch.times_ps.tolist(), batch.channels.tolist(), strict=True)) == expected
    assert not batch.losses


def test_silent_inputs_keep_the_time_by_their_dummies() -> None:
    data = words((5, 1), (0, 16), (0, 16), (0, 16), (7, 2))
    batch = decode(data)
    assert batch.times_ps.tolist() == [10_000, 3 * TURN_PS + 14_000]


def test_a_dummy_first_means_a_silent_turn() -> None:
    assert decode(words((0, 16), (7, 2))).times_ps.tolist() == [TURN_PS + 14_000]


def test_a_dummy_in_mid_turn_is_no_turnover() -> None:
    assert decode(words((5, 1), (100, 16), (200, 1))).times_ps.tolist() == [10_000, 400_000]


def test_without_dummies_a_large_drop_is_a_turnover() -> None:
    batch = decode(words((2**27 - 1, 1), (3, 1)), resync=False)
    assert batch.times_ps.tolist() == [(2**27 - 1) * 2000, TURN_PS + 6000]


def test_the_watermark_is_the_last_word() -> None:
    decoder = Tdc1Decoder()
    batch = decoder.feed(words((10, 1), (20, 3), (20, 4)))
    assert (batch.times_ps.tolist(), batch.end_ps) == ([20_000], 40_000)
    batch = decoder.feed(words((0, 16))[:3])
    assert (len(batch), batch.begin_ps, batch.end_ps) == (0, 40_000, 40_000)
    batch = decoder.feed(words((0, 16))[3:])
    assert batch.channels.tolist() == [1, 2, 3]
    assert batch.end_ps == TURN_PS
    assert decoder.flush().end_ps == TURN_PS + 1


@pytest.mark.parametrize("lost", [1, 2, 3, 4, 6, 10])
def test_lost_bytes_cost_a_few_words_and_are_said(lost: int) -> None:
    sent = stream(7, 3000, 1e5)
    data = encode_tags(sent, "tdc1")
    for at in (4001, 6000, 8003):
        got = decode(data[:at] + data[at + lost :])
        missing = sorted(set(sent.times_ps.tolist()) - set(got.times_ps.tolist()))
        # Halves of two words may make a healthy third one; nothing can tell.
        assert len(set(got.times_ps.tolist()) - set(sent.times_ps.tolist())) <= 1
        assert len(missing) < 30
        if lost != 4:  # four bytes leave hardly a trace
            (loss,) = got.losses
            assert loss.kind == "corrupt"
            assert sum(not loss.begin_ps <= t < loss.end_ps for t in missing) <= 1


@given(seed=st.integers(0, 1000), data=st.data())
@settings(max_examples=100, deadline=None)
def test_lost_bytes_never_shift_what_follows(seed: int, data: st.DataObject) -> None:
    """In whole batches, at rates where words get lost, clicks are true or missing."""
    sent = stream(seed, 400, 1e5)
    raw = encode_tags(sent, "tdc1")
    at = data.draw(st.integers(4, len(raw) - 100))
    lost = data.draw(st.sampled_from([2, 4, 6]))  # the box loses halves of words
    got = decode(raw[:at] + raw[at + lost :])
    truth = set(sent.times_ps.tolist())
    assert got.times_ps[-1] == sent.times_ps[-1]
    assert len(set(got.times_ps.tolist()) - truth) <= 2
    assert len(truth) - len(set(got.times_ps.tolist()) & truth) < 40


@given(junk=st.binary(max_size=600), cuts=st.lists(st.integers(0, 600), max_size=5))
@settings(max_examples=100)
def test_any_bytes_give_a_valid_batch(junk: bytes, cuts: list[int]) -> None:
    decode(junk, [min(cut, len(junk)) for cut in cuts])


def test_strict_decoding_names_the_byte() -> None:
    decoder = Tdc1Decoder(resync=False)
    decoder.feed(words((10, 1), (20, 1)))
    with pytest.raises(TagFileError, match="neither an event nor a dummy") as caught:
        decoder.feed(words((30, 1), (15, 1)))
    assert caught.value.offset == 12
    decoder = Tdc1Decoder(resync=False)
    decoder.feed(words((10, 1))[:3])
    with pytest.raises(TagFileError, match="cut off") as caught:
        decoder.flush()
    assert caught.value.offset == 0
