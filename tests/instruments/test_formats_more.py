"""qutools, ID Quantique and text files; clicks out of order; what a writer refuses."""

import contextlib
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from bellbench.instruments import Loss, TagBatch, TagFileError, concatenate
from bellbench.instruments.formats import (
    LOOK_AHEAD,
    TagFile,
    create_tags,
    encode_tags,
    open_tags,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

Write = Callable[..., Path]
A1_PS = 125 / 32
#: Time step and channels of each format.
FORMS: dict[str, tuple[float, list[int]]] = {
    "a0": (A1_PS, [1, 2, 3, 4]),
    "a2": (A1_PS, [1, 2, 3, 4]),
    "qutag": (1.0, [0, 5, 31, 104]),
    "qutagraw": (1.0, [0, 5, 31, 104]),
    "qutau": (81.0, [0, 3, 7]),
    "id900": (1.0, [1]),
    "id900ref": (1.0, [1]),
    "id900txt": (1.0, [1]),
}
fixed = settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(data: bytes, name: str = "x.bin") -> Path:
        path = tmp_path / name
        path.write_bytes(data)
        return path

    return write


def read(path: Path, name: str | None = None, chunk: int = 1 << 18) -> TagBatch:
    return concatenate(open_tags(path, name, chunk_records=chunk)).checked()


def clicks(batch: TagBatch) -> list[tuple[int, int]]:
    return list(zip(batch.times_ps.tolist(), batch.channels.tolist(), strict=True))


def batch_of(pairs: list[tuple[int, int]], losses: tuple[Loss, ...] = ()) -> TagBatch:
    times = np.array([t for t, _ in pairs], np.int64)
    channels = np.array([c for _, c in pairs], np.int16)
    return TagBatch(times, channels, 0, max(times.tolist(), default=0) + 1, losses=losses)


def until_damage(file: TagFile) -> tuple[list[tuple[int, int]], TagFileError]:
    parts: list[TagBatch] = []
    with pytest.raises(TagFileError) as caught:
        parts.extend(file)  # keeps what came before the error
    return clicks(concatenate(parts).checked()) if parts else [], caught.value


# Golden vectors of devices.md section 9, and the vendors' descriptions.


def test_golden_qutag(write: Write) -> None:
    record = bytes.fromhex("cb04fb711f0100000200")
    assert clicks(read(write(record), "qutagraw")) == [(1234567890123, 2)]
    assert clicks(read(write(bytes(40) + record), "qutag")) == [(1234567890123, 2)]
    assert encode_tags(batch_of([(1234567890123, 2)]), "qutagraw") == record


def test_qutau_turns_over(write: Write) -> None:
    late = (1 << 37) - 1
    data = bytes(40) + b"".join(
        (channel << 37 | ticks % (1 << 37)).to_bytes(5, "little")
        for ticks, channel in [(late, 0), (late + 10, 7), (late - 5, 3), (late + 20, 1)]
    )
    expected = [(late - 5, 3), (late, 0), (late + 10, 7), (late + 20, 1)]
    for chunk in (1, 2, 3, 10):
        assert clicks(read(write(data), "qutau", chunk)) == [(81 * t, c) for t, c in expected]
    old = open_tags(write(data), "qutau", resolution_ps=80.955)
    assert concatenate(old).times_ps[0] == round((late - 5) * 80.955)


def test_golden_id900(write: Write) -> None:
    word = bytes.fromhex("40e20100000000000100000000000000")
    assert clicks(read(write(word), "id900ref")) == [(123456, 1)]
    assert encode_tags(batch_of([(123456, 4)]), "id900ref") == word
    file = open_tags(write(b"123456;1\n200000;1\r\n"), "id900txt", channel=3)
    assert clicks(concatenate(file)) == [(123456, 3), (200000, 3)]
    assert file.info.records == 2
    assert encode_tags(batch_of([(123456, 4)]), "id900txt") == b"123456;1\n"


def test_id900_times_since_a_reference(write: Write) -> None:
    data = struct.pack("<8Q", 10, 1, 900, 1, 20, 2, 5, 40)
    periodic = open_tags(write(data), "id900ref", channel=2, period_ps=1000)
    assert concatenate(periodic).times_ps.tolist() == [1010, 1900, 2020, 40005]
    kept, error = until_damage(open_tags(write(data), "id900ref"))
    assert kept == [(10, 1), (900, 1)]
    assert error.offset == 32
    assert "counts from another reference event than the first (2, not 1)" in str(error)
    assert "period_ps" in str(error)


def test_a0_and_a2_are_a1_in_text(write: Write) -> None:
    time = round(123456789012 * A1_PS)
    assert clicks(read(write(b"64685002\n000072fa\n"), "a0")) == [(time, 2)]
    assert clicks(read(write(b"000072FA64685002\r\n"), "a2")) == [(time, 2)]
    assert encode_tags(batch_of([(time, 2)]), "a0") == b"64685002\n000072fa\n"
    assert encode_tags(batch_of([(time, 2)]), "a2") == b"000072fa64685002\n"


@pytest.mark.parametrize("name", ["a0", "a2"])
def test_text_is_read_by_fpfind(tmp_path: Path, name: str) -> None:
    parser = pytest.importorskip("fpfind.lib.parse_timestamps")
    times = np.cumsum(np.random.default_rng(4).integers(1, 10**9, 50)) * 125
    batch = batch_of([(t, t % 4 + 1) for t in times.tolist()])
    path = tmp_path / "x.txt"
    path.write_bytes(encode_tags(batch, name))
    theirs, patterns = getattr(parser, f"read_{name}")(path)
    assert np.round(theirs * 1000).astype(np.int64).tolist() == times.tolist()
    assert patterns.tolist() == [1 << (t % 4) for t in times.tolist()]


def test_lines_may_end_in_any_way(write: Write) -> None:
    lines = [b"%016x" % (t << 10 | 1) for t in (32, 64, 96)]
    for data in (
        b"\n".join(lines),
        b"\r\n".join(lines),
        b"\n" + b"\n".join(lines),  # as long as lines with an end each
        lines[0] + b"\r\n" + b"\n".join(lines[1:]),
        b"\n\n".join(lines) + b"\r\n",
    ):
        for chunk in (1, 2, 9):
            assert clicks(read(write(data), "a2", chunk)) == [(125, 1), (250, 1), (375, 1)]
    with pytest.raises(TagFileError, match="not 16 hexadecimal digits"):
        read(write(lines[0] + b"\n" + lines[1][:7] + b" " + lines[1][8:] + b"\n"), "a2")


# Every format: any clicks, any chunks; found by content; damage.


def some_clicks(name: str, steps: list[int], seed: int) -> list[tuple[int, int]]:
    tick, channels = FORMS[name]
    chosen = np.random.default_rng(seed).choice(channels, len(steps))
    ticks = np.cumsum(steps)
    events = sorted({(int(t), int(c)) for t, c in zip(ticks, chosen, strict=True)})
    return [(int(np.floor(t * tick + 0.5)), c) for t, c in events]


@pytest.mark.parametrize("name", FORMS)
@given(
    steps=st.lists(st.integers(0, 10**9), min_size=1, max_size=50),
    seed=st.integers(0, 99),
    chunk=st.integers(1, 60),
    cut=st.integers(0, 50),
)
@fixed
def test_round_trip(
    tmp_path: Path, name: str, steps: list[int], seed: int, chunk: int, cut: int
) -> None:
    pairs = some_clicks(name, [3, *steps], seed)
    whole = batch_of(pairs)
    path = tmp_path / "x"
    path.unlink(missing_ok=True)
    with create_tags(path, name) as writer:
        for part in whole.split(pairs[min(cut, len(pairs) - 1)][0]):
            writer.write(part)
        assert not path.exists()
    assert read(path, name, chunk).times_ps.tolist() == [t for t, _ in pairs]
    if not name.startswith("id900"):
        assert clicks(read(path, name, chunk)) == pairs
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


@pytest.mark.parametrize("name", FORMS)
@given(seed=st.integers(0, 2**32), offset=st.integers(0, 10**14))
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_recognised_by_content(write: Write, name: str, seed: int, offset: int) -> None:
    rng = np.random.default_rng(seed)
    times = np.cumsum(rng.integers(2000, 10**8, 200)) + offset
    pairs = [
        (t, int(c)) for t, c in zip(times.tolist(), rng.choice(FORMS[name][1], 200), strict=True)
    ]
    assert open_tags(write(encode_tags(batch_of(pairs), name))).info.format == name


@pytest.mark.parametrize("name", FORMS)
def test_all_before_the_damage_is_kept(write: Write, name: str) -> None:
    pairs = [(81 * 10**4 * n, FORMS[name][1][0]) for n in range(1, 40)]
    data = encode_tags(batch_of(pairs), name)
    for chunk in (1, 7, 100):
        path = write(data[:-3])
        kept, error = until_damage(open_tags(path, name, chunk_records=chunk))
        assert [t for t, _ in kept] == [t for t, _ in pairs[:38]]
        assert "cut off" in str(error) or "truncated" in str(error)
        assert error.offset is not None
        assert 0 <= len(data) - error.offset <= 18


@pytest.mark.parametrize(
    ("name", "place", "value", "match"),
    [
        ("a2", 17 * 3 + 4, b"g", "not 16 hexadecimal digits"),
        ("a2", 17 * 3 + 4, b"\n", "not 16 hexadecimal digits"),
        ("a0", 18 * 3 + 4, b"x", "not 8 hexadecimal digits"),
        ("qutag", 40 + 33 + 5, b"\xff", "cannot be"),
        ("qutagraw", 38, b"\xff\xff", "channel 65535 cannot be"),
        ("id900", 31, b"\x90", "months away"),
        ("id900txt", 31, b";1;1", "not <time>"),
        ("id900txt", 32, b"\r", "not <time>"),
    ],
)
def test_damage_is_named(write: Write, name: str, place: int, value: bytes, match: str) -> None:
    pairs = [(10**6 * n, FORMS[name][1][0]) for n in range(1, 40)]
    data = bytearray(encode_tags(batch_of(pairs), name))
    data[place : place + len(value)] = value
    for chunk in (1, 2, 100):
        kept, error = until_damage(open_tags(write(bytes(data)), name, chunk_records=chunk))
        assert match in str(error)
        assert [t for t, _ in kept] == [t for t, _ in pairs[:3]]
        assert place - 18 < (error.offset or 0) <= place


def test_a_line_without_end_costs_no_memory(write: Write) -> None:
    path = write(b"0123456789abcdef\n" * 3 + b"0" * 3_000_000)
    for name in ("a2", "a0", "id900txt"):
        tracemalloc.start()
        with pytest.raises(TagFileError):
            read(path, name, 100)
        assert tracemalloc.get_traced_memory()[1] < 5e5
        tracemalloc.stop()


@pytest.mark.parametrize("name", [*FORMS, None])
@given(data=st.data())
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_give_tags_or_a_tag_file_error(
    write: Write, name: str | None, data: st.DataObject
) -> None:
    base = name if name and data.draw(st.booleans()) else data.draw(st.sampled_from([*FORMS]))
    pairs = some_clicks(base, [10**6] * 30, 1)
    content = bytearray(encode_tags(batch_of(pairs), base))
    for _ in range(data.draw(st.integers(0, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.integers(1, len(content)))]
    path = write(bytes(content))
    tracemalloc.start()
    with contextlib.suppress(TagFileError):
        read(path, name, data.draw(st.integers(1, 40)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5e6


# Clicks out of order.


@pytest.mark.parametrize("name", ["a1", "a2", "s15raw", "swabian", "qutag", "qutau", "id900"])
@given(
    order=st.permutations(range(20)),
    chunk=st.integers(1, 25),
)
@fixed
def test_clicks_out_of_order_are_sorted(
    write: Write, name: str, order: list[int], chunk: int
) -> None:
    pairs = [(81 * 125 * 1000 * (n + 1), 1) for n in range(20)]
    data = encode_tags(batch_of(pairs), name)
    head = 40 if name in ("qutag", "qutau") else 0
    size = (len(data) - head) // 20
    records = [data[head + size * n : head + size * (n + 1)] for n in order]
    file = open_tags(write(data[:head] + b"".join(records)), name, chunk_records=chunk)
    assert clicks(concatenate(file).checked()) == pairs
    latest = np.maximum.accumulate(order)
    assert file.reordered == np.count_nonzero(order < latest)


def test_sorting_reaches_as_far_as_said_whatever_the_chunks(write: Write) -> None:
    count = 3 * LOOK_AHEAD
    times = np.arange(1, count + 1) * 1000
    records = np.zeros(count, np.dtype([("time", "<u8"), ("channel", "<u2")]))
    for late, fits in ((LOOK_AHEAD, True), (LOOK_AHEAD + 1, False)):
        records["time"] = times
        at = 2 * LOOK_AHEAD + 77  # the click of `late` places before comes only here
        records["time"][at - late : at] = times[at - late + 1 : at + 1]
        records["time"][at] = times[at - late]
        for chunk in (1 << 18, 20_011):
            file = open_tags(write(records.tobytes()), "qutagraw", chunk_records=chunk)
            if fits:
                assert concatenate(file).checked().times_ps.tolist() == times.tolist()
                assert file.reordered == 1
                continue
            kept, error = until_damage(file)
            assert error.offset == 10 * at
            assert f"record {at}: " in str(error)
            assert "copy it again" in str(error)
            without = np.delete(times, at - late)
            assert [t for t, _ in kept] == without[:at].tolist()


@given(
    times=st.lists(st.integers(0, 30), min_size=1, max_size=60),
    late=st.integers(0, 12),
    chunk=st.integers(1, 70),
)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_look_ahead_is_what_it_says(
    write: Write, monkeypatch: pytest.MonkeyPatch, times: list[int], late: int, chunk: int
) -> None:
    from bellbench.instruments.formats import _common

    with monkeypatch.context() as patch:
        patch.setattr(_common, "LOOK_AHEAD", late)
        data = struct.pack(f"<{len(times)}Q", *times)
        parts: list[TagBatch] = []
        error = None
        try:
            parts.extend(open_tags(write(data), "id900", chunk_records=chunk))
        except TagFileError as caught:
            error = caught
    bad = next(
        (i for i, t in enumerate(times) if t < max(times[: max(i - late, 0)], default=0)), -1
    )
    assert (error is None) == (bad < 0)
    if error is not None:
        assert error.offset == 8 * bad
    fine = sorted(times[:bad] if bad >= 0 else times)
    assert concatenate(parts).checked().times_ps.tolist() == fine if parts else not fine


def test_a_million_clicks_at_one_time_are_damage(write: Write) -> None:
    path = write(bytes(8 * (1 << 21)))
    tracemalloc.start()
    with pytest.raises(TagFileError, match="more than 1048576 clicks at 0 ps"):
        list(open_tags(path, "id900", chunk_records=1 << 16))
    assert tracemalloc.get_traced_memory()[1] < 1.5e8
    tracemalloc.stop()


def test_losses_stand_in_the_batches_they_touch(write: Write) -> None:
    record = struct.Struct("<BBHiq")
    count = 3 * LOOK_AHEAD
    data = bytearray()
    tags = b"".join(record.pack(0, 0, 0, 1, 1000 * t) for t in range(1, count))
    begin, end = 16 * 10_000, 16 * (count - 5000)
    data += tags[:begin] + record.pack(2, 0, 0, 0, 10_000_500)
    data += tags[begin:end] + record.pack(4, 0, 9, 0, 1000 * (count - 5000))
    data += record.pack(3, 0, 0, 0, 1000 * (count - 5000) + 500) + tags[end:]
    path = write(bytes(data))
    lost = 1000 * (count - 5000) - 10_000_000
    for chunk in (1 << 18, 30_011):
        batches = list(open_tags(path, "swabian", chunk_records=chunk))
        seen = 0
        for batch in batches:
            seen += sum(x.count or 0 for x in batch.losses if x.begin_ps >= batch.begin_ps)
            assert all(x.begin_ps < batch.end_ps for x in batch.losses)
        live = sum(batch.live_s for batch in batches)
        assert live == pytest.approx(1e-12 * (1000 * (count - 1) + 1 - 1000 - lost), abs=1e-12)
        assert seen == 9


# What a writer refuses, and how a file appears.


@pytest.mark.parametrize(
    ("name", "pairs", "match"),
    [
        ("a2", [(1, 5)], r"channels 1\.\.4"),
        ("qutau", [(1, 8)], r"channels 0\.\.7, not 8\.\.8"),
        ("qutag", [(1, -1)], r"channels 0\.\.127, not -1"),
        ("id900", [(1, 1), (2, 3)], "one channel in a file, not 1, 3; choose one"),
    ],
)
def test_clicks_that_do_not_fit(
    tmp_path: Path, name: str, pairs: list[tuple[int, int]], match: str
) -> None:
    with pytest.raises(ValueError, match=match), create_tags(tmp_path / "x", name) as writer:
        writer.write(batch_of(pairs))
    assert not list(tmp_path.iterdir())


def test_a_refused_batch_leaves_nothing(tmp_path: Path) -> None:
    with create_tags(tmp_path / "x.id900") as writer:
        writer.write(TagBatch(np.array([5]), np.array([1], np.int16), 0, 10))
        with pytest.raises(ValueError, match="one channel"):
            writer.write(TagBatch(np.array([15]), np.array([2], np.int16), 10, 20))
        with pytest.raises(ValueError, match="overlaps the one before"):
            writer.write(TagBatch(np.array([5]), np.array([1], np.int16), 0, 10))
        writer.write(TagBatch(np.array([25]), np.array([1], np.int16), 10, 30))
    assert (tmp_path / "x.id900").read_bytes() == struct.pack("<2Q", 5, 25)


def test_create_tags_errors(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match="does not say a format by its suffix; name one of bbt, ptu"
    ):
        create_tags(tmp_path / "x.dat")
    with pytest.raises(ValueError, match="time step of 1 ps, not 4"):
        create_tags(tmp_path / "x", "swabian", resolution_ps=4)
    with pytest.raises(ValueError, match="time step of nan ps is not between 1 fs and 1 ms"):
        create_tags(tmp_path / "x", "qutau", resolution_ps=float("nan"))
    with pytest.raises(TagFileError, match="cannot be written"):
        create_tags(tmp_path / "none" / "x", "swabian")
    assert not list(tmp_path.iterdir())


def test_options_of_reading(write: Write) -> None:
    path = write(encode_tags(batch_of([(1, 1)]), "swabian"))
    with pytest.raises(ValueError, match="swabian files take no channel"):
        open_tags(path, "swabian", channel=1)
    for bad in (float("nan"), 0.0, -1.0, 1e300):
        with pytest.raises(ValueError, match="not between 1 fs"):
            open_tags(path, "qutau", resolution_ps=bad)
    with pytest.raises(ValueError, match="does not fit 16 bits"):
        open_tags(path, "id900", channel=70000)
    with pytest.raises(ValueError, match="between 1 ps and 1000 s"):
        open_tags(path, "id900ref", period_ps=0)
