from collections.abc import Iterator

import numpy as np
import pytest
from bellbench.instruments import Loss, TagBatch, TagFileError, concatenate, merge
from bellbench.protocols.timing import CountRates
from hypothesis import given, settings
from hypothesis import strategies as st

END = 200

clicks = st.lists(st.tuples(st.integers(0, END - 1), st.integers(-3, 5)), max_size=30).map(sorted)
losses = st.lists(
    st.builds(
        lambda begin, length, count: Loss("gap", begin, min(begin + length, END), count),
        st.integers(0, END - 1),
        st.integers(0, 60),
        st.none() | st.integers(1, 9),
    ),
    max_size=4,
    unique=True,
)


def batch(pairs: list[tuple[int, int]], lost: list[Loss] | None = None) -> TagBatch:
    return TagBatch(
        np.array([t for t, _ in pairs], np.int64),
        np.array([c for _, c in pairs], np.int16),
        0,
        END,
        1_700_000_000,
        "rubidium",
        tuple(lost or ()),
    )


def same(a: TagBatch, b: TagBatch) -> bool:
    return (
        np.array_equal(a.times_ps, b.times_ps)
        and np.array_equal(a.channels, b.channels)
        and (a.begin_ps, a.end_ps, a.start_unix_ns, a.clock_id)
        == (b.begin_ps, b.end_ps, b.start_unix_ns, b.clock_id)
        and set(a.losses) == set(b.losses)
    )


@given(pairs=clicks, lost=losses, cuts=st.lists(st.integers(-10, END + 10), max_size=5))
def test_split_and_concatenate_are_inverse(
    pairs: list[tuple[int, int]], lost: list[Loss], cuts: list[int]
) -> None:
    whole = batch(pairs, lost)
    parts, rest = [], whole
    for cut in sorted(cuts):
        first, rest = rest.split(cut)
        parts.append(first)
    parts.append(rest)
    assert same(concatenate(parts), whole)
    assert sum(part.live_s for part in parts) == pytest.approx(whole.live_s, abs=1e-18)
    assert sum(part.duration_s for part in parts) == pytest.approx(END * 1e-12)


@given(pairs=clicks, lost=losses)
def test_live_time_leaves_out_the_union_of_losses(
    pairs: list[tuple[int, int]], lost: list[Loss]
) -> None:
    dead = {t for loss in lost for t in range(loss.begin_ps, loss.end_ps)}
    assert batch(pairs, lost).live_s == pytest.approx((END - len(dead)) * 1e-12)


@given(pairs=clicks, lost=losses, cut=st.integers(0, END))
def test_rates_do_not_depend_on_the_split(
    pairs: list[tuple[int, int]], lost: list[Loss], cut: int
) -> None:
    whole, parts = CountRates(), CountRates()
    whole.add(batch(pairs, lost))
    for part in batch(pairs, lost).split(cut):
        parts.add(part)
    assert parts.counts == whole.counts
    assert parts.lost == whole.lost
    assert parts.live_s == pytest.approx(whole.live_s, abs=1e-18)


@given(pairs=clicks, lost=losses, wanted=st.sets(st.integers(-3, 5)))
def test_select(pairs: list[tuple[int, int]], lost: list[Loss], wanted: set[int]) -> None:
    got = batch(pairs, lost).select(sorted(wanted))
    assert same(got, batch([(t, c) for t, c in pairs if c in wanted], lost))


def test_what_a_batch_refuses() -> None:
    times, channels = np.array([5, 9], np.int64), np.array([1, 2], np.int16)
    with pytest.raises(ValueError, match="int64 times and int16 channels, not float64"):
        TagBatch(times.astype(float), channels, 0, 10)
    with pytest.raises(ValueError, match="not int64 and int64"):
        TagBatch(times, channels.astype(np.int64), 0, 10)
    with pytest.raises(ValueError, match="differ in shape"):
        TagBatch(times, channels[:1], 0, 10)
    with pytest.raises(ValueError, match="before it begins"):
        TagBatch(times, channels, 10, 0)
    with pytest.raises(ValueError, match=r"clicks 5\.\.9 ps leave \[0, 9\)"):
        TagBatch(times, channels, 0, 9)
    with pytest.raises(ValueError, match=r"leave \[6, 10\)"):
        TagBatch(times, channels, 6, 10)
    with pytest.raises(ValueError, match="must not decrease"):
        TagBatch(np.array([5, 9, 7], np.int64), np.ones(3, np.int16), 0, 10).checked()
    batch = TagBatch(times, channels, 0, 10)
    assert batch.checked() is batch
    assert len(batch) == 2


def test_only_consecutive_batches_join() -> None:
    with pytest.raises(ValueError, match="zero batches"):
        concatenate([])
    whole = batch([(10, 1), (20, 2)])
    first, second = whole.split(15)
    with pytest.raises(ValueError, match="batch at 0 ps does not follow 200 ps"):
        concatenate([second, first])


# Streams that ran at the same time.


def cut(whole: TagBatch, cuts: list[int]) -> list[TagBatch]:
    parts = []
    for at in sorted(cuts):
        first, whole = whole.split(at)
        parts.append(first)
    return [*parts, whole]


@given(
    streams=st.lists(
        st.tuples(clicks, losses, st.lists(st.integers(-10, END + 10), max_size=5)),
        min_size=1,
        max_size=4,
    ),
    begins=st.lists(st.integers(-50, 0), min_size=4, max_size=4),
)
@settings(max_examples=40)
def test_merged_streams_are_sorted_whatever_their_batches(
    streams: list[tuple[list[tuple[int, int]], list[Loss], list[int]]], begins: list[int]
) -> None:
    wholes = [
        TagBatch(b.times_ps, b.channels, begin, END + begin % 7, 1, "a", b.losses)
        for (pairs, lost, _), begin in zip(streams, begins, strict=False)
        for b in [batch(pairs, lost)]
    ]
    parts = list(merge(*(cut(w, c[2]) for w, c in zip(wholes, streams, strict=True))))
    found = concatenate(parts).checked()
    times = np.concatenate([w.times_ps for w in wholes])
    order = np.argsort(times, kind="stable")
    assert found.times_ps.tolist() == times[order].tolist()
    assert found.channels.tolist() == np.concatenate([w.channels for w in wholes])[order].tolist()
    assert (found.begin_ps, found.end_ps) == (
        min(w.begin_ps for w in wholes),
        max(w.end_ps for w in wholes),
    )
    assert set(found.losses) >= {loss for w in wholes for loss in w.losses}
    # Where one of the streams is not there, or lost clicks, the whole did.
    spans = [[(x.begin_ps, x.end_ps) for x in w.losses] for w in wholes]
    spans += [[(-99, w.begin_ps), (w.end_ps, 999)] for w in wholes]
    assert {t for x in found.losses for t in range(x.begin_ps, x.end_ps)} == {
        t
        for t in range(found.begin_ps, found.end_ps)
        if any(begin <= t < end for one in spans for begin, end in one)
    }
    live = TagBatch(
        times[:0], found.channels[:0], found.begin_ps, found.end_ps, 0, "", found.losses
    )
    assert sum(part.live_s for part in parts) == pytest.approx(live.live_s, abs=1e-18)
    assert (found.start_unix_ns, found.clock_id) == (1, "a")


def test_rates_of_merged_streams_hold_where_all_were_there() -> None:
    def steady(channel: int, begin: int, end: int) -> TagBatch:
        times = np.arange(begin, end, 10)
        return TagBatch(times, np.full(times.size, channel, np.int16), begin, end)

    rates = CountRates()
    for part in merge([steady(1, 0, 1000)], cut(steady(2, 100, 500), [200, 300]), []):
        rates.add(part)
    assert rates.live_s == pytest.approx(400e-12)
    assert rates.rate_hz(1) == rates.rate_hz(2) == pytest.approx(1e11)


def test_many_losses_join_in_no_time() -> None:
    """Each is looked up, not compared with all before: 20 000 would take minutes."""
    none = np.zeros(0, np.int64), np.zeros(0, np.int16)
    losses = [Loss("overflow", 10 * k, 10 * k + 15) for k in range(20_000)]
    parts = [
        TagBatch(*none, 10 * k, 10 * k + 10, losses=tuple(losses[max(k - 1, 0) : k + 1]))
        for k in range(20_000)
    ]
    assert concatenate(parts).losses == tuple(losses)


def test_merge_reads_no_further_than_it_must() -> None:
    read = [0, 0]

    def stream(which: int, length: int) -> Iterator[TagBatch]:
        for begin in range(0, 1000, length):
            read[which] += 1
            times = np.array([begin], np.int64)
            yield TagBatch(times, np.array([which], np.int16), begin, begin + length)

    for part in merge(stream(0, 10), stream(1, 100)):
        assert read[0] * 10 - part.end_ps <= 10
        assert read[1] * 100 - part.end_ps <= 100
    assert read == [100, 10]


def test_all_before_the_damage_of_one_stream_is_merged() -> None:
    def broken() -> Iterator[TagBatch]:
        yield batch([(5, 1), (20, 1)]).split(50)[0]
        raise TagFileError("torn", path="b", offset=9)

    found: list[TagBatch] = []
    with pytest.raises(TagFileError, match="torn"):
        found.extend(merge([batch([(7, 2), (60, 2)])], broken()))
    assert concatenate(found).times_ps.tolist() == [5, 7, 20]


def test_streams_that_do_not_merge() -> None:
    one = batch([(5, 1)])
    other = TagBatch(one.times_ps, one.channels, 0, END, 0, "maser")
    with pytest.raises(ValueError, match="different clocks, 'maser' and 'rubidium'"):
        list(merge([one], [other]))
    later = TagBatch(one.times_ps, one.channels, 0, END, 1_800_000_000)
    with pytest.raises(ValueError, match="different starts"):
        list(merge([one], [later]))
    with pytest.raises(ValueError, match="does not follow 200 ps"):
        list(merge([one, one]))
    assert list(merge([], [])) == list(merge()) == []
