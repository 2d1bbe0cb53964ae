"""What `open_tags` and `create_tags` offer beside one file from beginning to end."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from bellbench.instruments import Loss, TagBatch, TagFileError, concatenate
from bellbench.instruments.formats import FORMATS, create_tags, encode_tags, open_tags
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

quick = settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])


def batch_of(times: list[int], channels: list[int], begin: int, end: int) -> TagBatch:
    return TagBatch(np.array(times, np.int64), np.array(channels, np.int16), begin, end)


def clicks(batch: TagBatch) -> list[tuple[int, int]]:
    return list(zip(batch.times_ps.tolist(), batch.channels.tolist(), strict=True))


# Several files.


@given(
    steps=st.lists(st.tuples(st.integers(0, 50), st.integers(1, 3)), min_size=9, max_size=60),
    chunk=st.integers(1, 70),
    from_ps=st.none() | st.integers(-5, 2000),
)
@quick
def test_a_file_per_channel_is_read_as_one_stream(
    tmp_path: Path, steps: list[tuple[int, int]], chunk: int, from_ps: int | None
) -> None:
    times = np.cumsum([step for step, _ in steps]).tolist()
    steps[:3] = [(steps[i][0], i + 1) for i in range(3)]
    events = sorted({(t, c) for t, (_, c) in zip(times, steps, strict=True)})
    paths = [tmp_path / str(channel) for channel in (1, 2, 3)]
    for channel, path in enumerate(paths, 1):
        own = [t for t, c in events if c == channel]
        path.write_bytes(encode_tags(batch_of(own, [1] * len(own), 0, own[-1] + 1), "id900"))
    file = open_tags(paths, "id900", channel=[1, 2, 3], chunk_records=chunk, from_ps=from_ps)
    parts = list(file)
    assert [x for part in parts for x in clicks(part)] == [
        (t, c) for t, c in events if from_ps is None or t >= from_ps
    ]
    assert not parts or concatenate(parts).checked().end_ps == events[-1][0] + 1
    assert file.info.records == len(events)


def test_files_that_are_not_one(tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    a.write_bytes(encode_tags(batch_of([5, 9], [1, 2], 0, 10), "swabian"))
    b.write_bytes(encode_tags(batch_of([5, 9], [1, 2], 0, 10), "qutagraw"))
    with create_tags(tmp_path / "x.bbt", clock_id="maser") as writer:
        writer.write(batch_of([5, 9], [1, 2], 0, 10))
    with create_tags(tmp_path / "y.bbt", clock_id="Rb") as writer:
        writer.write(batch_of([5, 9], [1, 2], 0, 10))
    with pytest.raises(ValueError, match="different clocks, 'Rb' and 'maser'"):
        list(open_tags([tmp_path / "x.bbt", tmp_path / "y.bbt"]))
    with create_tags(tmp_path / "z.ptu") as writer:
        writer.write(batch_of([5], [1], 0, 10))
    with pytest.raises(ValueError, match=r"formats bbt and ptu are not of one tagger.*merge"):
        open_tags([tmp_path / "z.ptu", tmp_path / "x.bbt"])
    with pytest.raises(ValueError, match="no file in the list"):
        open_tags([])
    with pytest.raises(ValueError, match="2 files need a channel each, not 1"):
        open_tags([a, a], "id900", channel=3)
    with pytest.raises(ValueError, match="take no channel"):
        open_tags([a, a], "swabian", channel=[1, 2])
    with pytest.raises(TagFileError, match=r"none: cannot be read: No such file"):
        open_tags([a, tmp_path / "none"], "swabian")
    assert len(concatenate(open_tags([a, a], "swabian"))) == 4
    assert len(concatenate(open_tags([b], "qutagraw"))) == 2


# From a time on.


@pytest.mark.parametrize("name", FORMATS)
def test_from_a_time(tmp_path: Path, name: str) -> None:
    times = [81 * 2000 * n for n in range(1, 300)]
    batch = batch_of(times, [1] * len(times), 0, times[-1] + 1)
    path = tmp_path / "x"
    path.write_bytes(encode_tags(batch, name))
    whole = concatenate(open_tags(path, name, chunk_records=50))
    for from_ps in (-9, whole.begin_ps, times[7], times[7] + 1, times[-1], times[-1] + 10**13):
        parts = list(open_tags(path, name, chunk_records=50, from_ps=from_ps))
        rest = whole.split(from_ps)[1]
        if rest.duration_s:
            found = concatenate(parts)
            assert clicks(found) == clicks(rest)
            assert (found.begin_ps, found.end_ps) == (rest.begin_ps, rest.end_ps)
        else:
            assert parts == []


# Recordings in our own format.


def test_a_recording_is_followed_while_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "x.bbt"
    with create_tags(path, metadata={"tagger": "TDC1"}) as writer:
        writer.write(batch_of([5], [1], 0, 10))
        writer.flush()
        file = open_tags(path)
        assert file.info.header["metadata"] == {"tagger": "TDC1"}
        assert [clicks(batch) for batch in file.follow(patience_s=0)] == [[(5, 1)]]
        following = file.follow()
        assert clicks(next(following)) == [(5, 1)]
        writer.write(batch_of([15], [2], 10, 20))
        writer.flush()
        assert clicks(next(following)) == [(15, 2)]
        later = open_tags(path, from_ps=12).follow(patience_s=0)
        assert [(batch.begin_ps, batch.end_ps) for batch in later] == [(12, 20)]
    assert list(following) == []  # closed
    with create_tags(path, append=True, metadata={"tagger": "another"}) as writer:
        writer.write(batch_of([35], [1], 30, 40))
    again = open_tags(path)
    assert again.info.header["metadata"] == {"tagger": "TDC1"}
    assert clicks(concatenate(again.follow())) == [(5, 1), (15, 2), (35, 1)]
    assert concatenate(again).losses == (Loss("gap", 20, 30),)


def test_append_begins_where_nothing_is(tmp_path: Path) -> None:
    for path in (tmp_path / "none.bbt", tmp_path / "empty.bbt"):
        if path.stem == "empty":
            path.touch()
        with create_tags(path, append=True) as writer:
            writer.write(batch_of([5], [1], 0, 10))
        assert clicks(concatenate(open_tags(path))) == [(5, 1)]


def test_what_cannot_be_leaves_a_recording_alone(tmp_path: Path) -> None:
    path = tmp_path / "x.bbt"
    with create_tags(path) as writer:
        writer.write(batch_of([5], [1], 0, 10))
    data = path.read_bytes()
    with pytest.raises(ValueError, match="time step must lie"):
        create_tags(path, resolution_ps=float("nan"))
    with pytest.raises(ValueError, match="metadata must be JSON"):
        create_tags(path, metadata={"a": object()})
    assert path.read_bytes() == data
    path.write_bytes(b"not ours")
    with pytest.raises(TagFileError, match="before its first chunk"):
        create_tags(path, append=True)
    assert path.read_bytes() == b"not ours"
    with pytest.raises(ValueError, match="ptu cannot be appended to"):
        create_tags(tmp_path / "x.ptu", append=True)
    with pytest.raises(ValueError, match="ptu can hold no metadata"):
        create_tags(tmp_path / "x.ptu", metadata={})
    assert [p.name for p in tmp_path.iterdir()] == ["x.bbt"]


def test_reading_on_behind_damage(tmp_path: Path) -> None:
    path = tmp_path / "x.bbt"
    ends = []
    with create_tags(path) as writer:
        for begin in range(0, 50, 10):
            writer.write(batch_of([begin + 5], [1], begin, begin + 10))
            writer.flush()
            ends.append(path.stat().st_size)
    data = bytearray(path.read_bytes())
    data[ends[1] + 70] ^= 1
    path.write_bytes(data)
    with pytest.raises(TagFileError, match=r'open_tags\(path, damage="mark"\)') as caught:
        list(open_tags(path))
    assert caught.value.offset == ends[1]
    found = concatenate(open_tags(path, damage="mark"))
    assert clicks(found) == [(5, 1), (15, 1), (35, 1), (45, 1)]
    assert found.losses == (Loss("corrupt", 20, 30, 1),)
    data[60] ^= 1  # the first chunk, that says what the file is
    path.write_bytes(data)
    with pytest.raises(TagFileError, match=r'"bbt", damage="mark"\) reads those'):
        open_tags(path)
    assert len(concatenate(open_tags(path, "bbt", damage="mark"))) == 4
    with pytest.raises(ValueError, match='"raise" or "mark", not \'skip\''):
        open_tags(path, damage="skip")  # type: ignore[arg-type]
    plain = tmp_path / "x.a1"
    plain.write_bytes(encode_tags(batch_of([5, 9], [1, 2], 0, 10), "a1"))
    with pytest.raises(ValueError, match="a1 files take no damage"):
        open_tags(plain, "a1", damage="mark")
    with pytest.raises(ValueError, match="only one file of format bbt"):
        open_tags(plain, "a1").follow()


@pytest.mark.parametrize("name", FORMATS)
def test_losses_without_a_place_are_counted(tmp_path: Path, name: str) -> None:
    kinds = ("overflow", "gap", "late", "corrupt", "clock")
    losses = tuple(Loss(kind, 1000 * n, 1000 * n + 500) for n, kind in enumerate(kinds, 1))
    whole = TagBatch(np.array([9000]), np.ones(1, np.int16), 0, 10**4, losses=losses)
    with create_tags(tmp_path / "x", name) as writer:
        for part in whole.split(4250):
            writer.write(part)
    found = [x for batch in open_tags(tmp_path / "x", name) for x in batch.losses]
    kept = {x.kind for x in found}
    if name.startswith("qcrypto"):  # it has empty epochs only
        kept = set()
    assert writer.losses_dropped == len(set(kinds) - kept)
    assert writer.dropped_ps == 500 * writer.losses_dropped


def test_names(tmp_path: Path) -> None:
    """The public names and their options are what the documentation says."""
    import inspect

    from bellbench.instruments import formats

    public = itertools.chain.from_iterable(
        inspect.signature(getattr(formats, name)).parameters
        for name in ("open_tags", "create_tags")
    )
    assert [*public] == [
        *("path", "format", "chunk_records", "channel", "period_ps", "resolution_ps"),
        *("from_ps", "damage"),
        *("path", "format", "resolution_ps", "start_unix_ns", "clock_id", "metadata", "append"),
    ]


@pytest.mark.parametrize("name", ["bbt", "ptu", "photon_hdf5"])
def test_the_file_tells_start_and_clock_before_it_is_read(tmp_path: Path, name: str) -> None:
    with create_tags(tmp_path / "x", name, start_unix_ns=17 * 10**17, clock_id="Rb") as writer:
        writer.write(batch_of([5], [1], 0, 10))
    file = open_tags(tmp_path / "x", name)
    assert (file.info.start_unix_ns, file.info.clock_id) == (17 * 10**17, "Rb")
    (batch,) = [part for part in file if len(part)]
    assert (batch.start_unix_ns, batch.clock_id) == (17 * 10**17, "Rb")
