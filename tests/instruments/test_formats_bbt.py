"""Our own stream format: what is written is read, in as few bytes as it should take."""

import io
import itertools
import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from bellbench.instruments import Loss, TagBatch, concatenate
from bellbench.instruments.formats import bbt, create_tags, encode_tags, open_tags
from bellbench.instruments.formats.bbt import BbtReader, BbtWriter
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

PROPERTY = settings(
    max_examples=35, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def batch_of(
    times: npt.ArrayLike, channels: npt.ArrayLike, begin: int, end: int, *losses: Loss
) -> TagBatch:
    return TagBatch(
        np.asarray(times, np.int64), np.asarray(channels, np.int16), begin, end, losses=losses
    )


def save(path: Path, batches: list[TagBatch], resolution_ps: float | None = None) -> int:
    with path.open("wb") as file:
        writer = BbtWriter(file, resolution_ps=resolution_ps)
        for batch in batches:
            writer.write(batch)
        writer.finish()
    return path.stat().st_size


def same(found: TagBatch, wanted: TagBatch) -> None:
    assert found.times_ps.tolist() == wanted.times_ps.tolist()
    assert found.channels.tolist() == wanted.channels.tolist()
    assert (found.begin_ps, found.end_ps) == (wanted.begin_ps, wanted.end_ps)
    assert sorted(map(repr, found.losses)) == sorted(map(repr, wanted.losses))
    assert (found.start_unix_ns, found.clock_id) == (wanted.start_unix_ns, wanted.clock_id)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "x.bbt"


@pytest.fixture
def chunk_of(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of a few clicks, set by the test."""
    monkeypatch.setattr(bbt, "CHUNK_CLICKS", bbt.CHUNK_CLICKS)


step = st.one_of(
    st.integers(0, 3),
    st.integers(0, 10**4),
    st.integers(0, 10**9),
    st.sampled_from([0, 86_400 * 10**12, 3 * 10**17]),
)
kinds = st.sampled_from(["overflow", "gap", "late", "corrupt", "clock", "Überlauf"])


@st.composite
def recordings(draw: st.DrawFn) -> list[TagBatch]:
    """Batches in order: bursts, equal times, silence, days between, losses anywhere."""
    known = draw(st.lists(st.integers(-(2**15), 2**15 - 1), min_size=1, max_size=40))
    seed = draw(st.integers(0, 2**32))
    rng = np.random.default_rng(seed)
    end = draw(st.integers(-(2**60), 2**60))
    batches = []
    for _ in range(draw(st.integers(1, 6))):
        begin, steps = end, draw(st.lists(step, max_size=6))
        repeats = draw(st.integers(0, 60))
        steps += rng.geometric(draw(st.floats(1e-9, 1.0)), repeats).tolist()
        times = begin + np.cumsum(np.array(steps, np.int64))
        end = (int(times[-1]) if times.size else begin) + draw(step) + bool(times.size)
        near = st.integers(begin - 1000, end + 1000)
        losses = draw(
            st.lists(
                st.builds(
                    lambda kind, a, b, n: Loss(kind, min(a, b), max(a, b), n),
                    kinds,
                    near,
                    near,
                    st.none() | st.integers(0, 2**62),
                ),
                max_size=2,
                unique=True,
            )
        )
        batches.append(batch_of(times, rng.choice(known, times.size), begin, end, *losses))
    return batches


@given(batches=recordings(), most=st.integers(1, 70), flush=st.sets(st.integers(0, 5)))
@PROPERTY
def test_what_is_written_is_read(
    path: Path, chunk_of: None, batches: list[TagBatch], most: int, flush: set[int]
) -> None:
    bbt.CHUNK_CLICKS = most
    with path.open("wb") as file:
        writer = BbtWriter(file, start_unix_ns=17, clock_id="maser")
        for i, batch in enumerate(batches):
            writer.write(batch)
            if i in flush:
                writer.flush()
        writer.finish()
    found = list(BbtReader(path))
    for before, after in itertools.pairwise(found):
        assert before.end_ps == after.begin_ps
    whole = concatenate(batches)
    wanted = TagBatch(
        whole.times_ps,
        whole.channels,
        whole.begin_ps,
        whole.end_ps,
        17,
        "maser",
        whole.losses,
    )
    same(concatenate(found).checked(), wanted)
    info = BbtReader(path).info
    assert info.records == len(wanted)
    assert (info.header["begin_ps"], info.header["end_ps"]) == (wanted.begin_ps, wanted.end_ps)
    assert info.header["closed"]
    assert info.header["torn_bytes"] == 0


@pytest.mark.parametrize("known", [1, 2, 3, 4, 7, 16, 17, 200, 256, 257, 5000])
@pytest.mark.parametrize("skew", [0.0, 4.0])
def test_any_number_of_channels(path: Path, known: int, skew: float) -> None:
    rng = np.random.default_rng(known)
    shares = np.exp(-skew * np.arange(known))
    channels = rng.choice(np.arange(known) * 7 - 300, 20_000, p=shares / shares.sum())
    times = np.cumsum(rng.geometric(0.3, channels.size))
    batch = batch_of(times, channels, 0, int(times[-1]) + 1)
    save(path, [batch])
    same(concatenate(BbtReader(path)), batch)


def test_the_deepest_huffman_tree(path: Path) -> None:
    # Shares that halve would need codes of 255 bits.
    channels = np.repeat(np.arange(200), np.maximum(1, 2 ** np.arange(17, -183, -1.0)).astype(int))
    channels = np.random.default_rng(1).permutation(channels)
    batch = batch_of(np.arange(channels.size), channels, 0, channels.size)
    save(path, [batch])
    same(concatenate(BbtReader(path)), batch)


def test_a_recording_without_batches(path: Path) -> None:
    save(path, [])
    assert list(BbtReader(path)) == []
    assert BbtReader(path).info.records == 0


def test_silence_is_written_once_a_second(path: Path) -> None:
    silent = [batch_of([], [], i * 10**11, (i + 1) * 10**11) for i in range(40)]
    save(path, silent)
    assert [b.end_ps for b in BbtReader(path)] == [i * 10**12 for i in (1, 2, 3, 4)]


def test_a_loss_is_in_every_chunk_it_touches(path: Path, chunk_of: None) -> None:
    bbt.CHUNK_CLICKS = 2
    losses = Loss("overflow", 5, 25, 7), Loss("late", -50, -40), Loss("gap", 90, 95)
    save(path, [batch_of([0, 10, 20, 30, 40], [1] * 5, 0, 50, *losses)])
    found = list(BbtReader(path))
    assert [(b.begin_ps, b.end_ps) for b in found] == [(0, 20), (20, 40), (40, 50)]
    assert [b.losses for b in found] == [losses[:2], losses[:1], losses[2:]]
    assert sum(b.live_s for b in found) == pytest.approx(30e-12)


def test_start_clock_and_metadata(path: Path) -> None:
    said = {"instrument": "quTAG", "channels": {"1": "signal", "2": "Ω"}, "delays": [1.5, None]}
    with path.open("wb") as file:
        writer = BbtWriter(file, metadata=said)
        writer.write(TagBatch(np.arange(3), np.ones(3, np.int16), 0, 9, 1_700_000_000_123, "A"))
        with pytest.raises(ValueError, match="another recording"):
            writer.write(TagBatch(np.arange(0), np.ones(0, np.int16), 9, 10, 5, "A"))
        writer.finish()
    reader = BbtReader(path)
    assert reader.info.header["metadata"] == said
    (batch,) = reader
    assert (batch.start_unix_ns, batch.clock_id) == (1_700_000_000_123, "A")


def test_as_one_of_the_formats(path: Path) -> None:
    times = np.arange(10, 10**6, 7)
    batch = TagBatch(times, (times % 4).astype(np.int16), 0, 10**6, 5, "A")
    for resolution in (None, 1.0):
        with create_tags(path, resolution_ps=resolution, start_unix_ns=5, clock_id="A") as writer:
            writer.write(batch)
            assert path.exists()
        tags = open_tags(path)
        assert tags.info.format == "bbt"
        assert tags.info.records == times.size
        same(concatenate(tags), batch)
    path.write_bytes(encode_tags(batch, "bbt"))
    same(concatenate(open_tags(path, "bbt", chunk_records=10)), batch)


def test_an_abandoned_recording_stays(path: Path) -> None:
    batch = batch_of([1, 2], [1, 2], 0, 5)
    writer = create_tags(path)
    writer.write(batch)
    with pytest.raises(ValueError, match="in order"), writer:
        writer.write(batch)
    same(concatenate(open_tags(path)), batch)


# Coarser steps.


@given(
    ticks=st.lists(st.integers(0, 2000), min_size=1, max_size=200),
    scale=st.sampled_from([(125, 32), (125, 1), (2000, 1), (16191, 200)]),
    cuts=st.sets(st.integers(0, 200)),
)
@PROPERTY
def test_times_on_the_step_come_back(
    path: Path, ticks: list[int], scale: tuple[int, int], cuts: set[int]
) -> None:
    numerator, denominator = scale
    times = (np.cumsum(ticks) * numerator + denominator // 2) // denominator
    batches, begin = [], 0
    for i, j in itertools.pairwise([0, *sorted(c for c in cuts if c < len(ticks)), len(ticks)]):
        end = int(times[j]) if j < len(ticks) else int(times[-1]) + numerator
        i = int(np.searchsorted(times, begin))
        j = int(np.searchsorted(times, end))
        batches.append(batch_of(times[i:j], np.ones(j - i), begin, end))
        begin = end
    save(path, batches, numerator / denominator)
    found = concatenate(BbtReader(path)).checked()
    assert found.times_ps.tolist() == times.tolist()
    assert BbtReader(path).info.resolution_ps == pytest.approx(numerator / denominator)
    assert abs(found.end_ps - batches[-1].end_ps) <= numerator / denominator


@given(steps=st.lists(st.integers(0, 9), min_size=1, max_size=100), cut=st.integers(0, 900))
@PROPERTY
def test_off_the_step_they_are_rounded_half_up(path: Path, steps: list[int], cut: int) -> None:
    times = np.cumsum(steps)
    end = int(times[-1]) + 1
    whole = batch_of(times, np.arange(times.size), 0, end, Loss("gap", 3, 5), Loss("gap", 8, 16))
    save(path, list(whole.split(cut)), 8)
    found = concatenate(BbtReader(path)).checked()
    assert found.times_ps.tolist() == ((times + 4) // 8 * 8).tolist()
    assert found.channels.tolist() == list(range(times.size))
    assert {(x.begin_ps, x.end_ps) for x in found.losses} <= {(0, 8), (8, 16)}


@given(
    seed=st.integers(0, 2**32),
    scale=st.tuples(st.integers(1, 2**31 - 1), st.integers(1, 2**31 - 1)),
    span=st.integers(1, 62),
)
@PROPERTY
def test_scaling_is_exact(seed: int, scale: tuple[int, int], span: int) -> None:
    from bellbench.instruments.formats._kernels_bbt import scaled

    top = min(2**span, 2**62 // max(1, scale[0] // scale[1]) // 2 + 1)
    times = np.sort(np.random.default_rng(seed).integers(-top, top, 50))
    found = scaled(times, *scale).tolist()
    assert found == [(t * scale[0] + scale[1] // 2) // scale[1] for t in times.tolist()]


# What cannot be written.


def test_refused_batches_leave_no_trace(path: Path) -> None:
    good = batch_of([1, 2], [1, 2], 0, 5)
    bad = [
        batch_of([6, 5], [1, 1], 5, 9),
        batch_of([6], [1], 6, 9),
        batch_of([4], [1], 4, 9),
        batch_of([6], [1], 5, 2**63),
        batch_of([6], [1], 5, 9, Loss("a kind of seventeen", 5, 6)),
        batch_of([6], [1], 5, 9, Loss("gap", 5, 6, -1)),
        batch_of([6], [1], 5, 9, Loss("gap", 5, 2**70)),
        batch_of([6], [1], 5, 9, Loss("gap", 6, 5)),
    ]
    with path.open("wb") as file:
        writer = BbtWriter(file)
        writer.write(good)
        for batch in bad:
            with pytest.raises(ValueError):
                writer.write(batch)
        writer.write(batch_of([5], [3], 5, 9))
        writer.finish()
        with pytest.raises(ValueError, match="finished"):
            writer.write(batch_of([], [], 9, 10))
    same(concatenate(BbtReader(path)), batch_of([1, 2, 5], [1, 2, 3], 0, 9))


@pytest.mark.parametrize("resolution", [math.nan, math.inf, 0.0, -1.0, 2.0**31])
def test_senseless_steps(resolution: float) -> None:
    with pytest.raises(ValueError, match="time step"):
        BbtWriter(io.BytesIO(), resolution_ps=resolution)


@pytest.mark.parametrize("metadata", [{"a": math.nan}, {"a": {1, 2}}, {"a": "x" * (1 << 20)}])
def test_senseless_metadata(metadata: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="metadata"):
        BbtWriter(io.BytesIO(), metadata=metadata)


def test_the_ends_of_int64(path: Path) -> None:
    low, high = -(2**63), 2**63 - 1
    batch = batch_of([low, low, 0, high - 1], [-(2**15), 2**15 - 1, 0, 1], low, high)
    save(path, [batch])
    same(concatenate(BbtReader(path)), batch)


# Size.

EQUAL = {n: [1 / n] * n for n in (1, 2, 3, 4, 5, 8)}
SKEWED = [[0.99, 0.01], [0.7, 0.2, 0.1], [0.93] + [0.01] * 7, [0.45, 0.45] + [1 / 60] * 6]


@pytest.mark.parametrize("shares", [*EQUAL.values(), *SKEWED], ids=lambda p: f"{len(p)}x{p[0]:.2f}")
def test_size_is_within_15_percent_of_the_entropy(path: Path, shares: list[float]) -> None:
    rng = np.random.default_rng(5)
    count = 30_000
    of_channel = -sum(p * math.log2(p) for p in shares)
    channels = rng.choice(len(shares), count, p=shares)
    for rate in (1e3, 1e5, 1e7):
        for resolution in (1, 81, 2000):
            ticks = np.cumsum(np.floor(rng.exponential(1e12 / (rate * resolution), count)))
            times = ticks.astype(np.int64) * resolution
            batch = batch_of(times, channels, 0, int(times[-1]) + resolution)
            bits = 8 * save(path, [batch], resolution) / count
            entropy = math.log2(math.e / (rate * resolution * 1e-12)) + of_channel
            assert bits < 1.15 * entropy, (rate, resolution)


@pytest.mark.parametrize(
    "name", ["equal", "pulsed", "bursts", "days", "one per chunk", "noise", "each tick"]
)
def test_nothing_takes_more_than_10_bytes(path: Path, name: str) -> None:
    rng = np.random.default_rng(6)
    n = 1 << 16
    steps = {
        "equal": np.zeros(n),
        "pulsed": 12_500 * rng.integers(0, 2, n) + rng.integers(0, 80, n),
        "bursts": np.where(np.arange(n) % 100, rng.integers(0, 50, n), 10**9),
        "days": np.where(np.arange(n) % 5000, 10**6, 10**17),
        "one per chunk": np.full(n, 10**12),
        "noise": rng.integers(0, 2**46, n),
        "each tick": np.ones(n),
    }[name].astype(np.int64)
    times = np.cumsum(steps)
    channels = rng.integers(-(2**15), 2**15, n) if name == "noise" else rng.integers(0, 4, n)
    batch = batch_of(times, channels, 0, int(times[-1]) + 1)
    size = save(path, [batch])
    same(concatenate(BbtReader(path)), batch)
    assert size < 10 * n
