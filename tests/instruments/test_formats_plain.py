"""Formats without a header: a1, a1x, s15raw, swabian, tdc1 as files."""

import contextlib
import struct
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from bellbench.instruments import Loss, TagBatch, TagFileError, concatenate
from bellbench.instruments.formats import FORMATS, TagFile, create_tags, encode_tags, open_tags
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

Write = Callable[..., Path]
TICK = {"a1": 125 / 32, "a1x": 125 / 32, "s15raw": 125.0, "tdc1": 2000.0, "swabian": 1.0}


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
    ends = [*times.tolist(), *[loss.end_ps for loss in losses]]
    channels = np.array([c for _, c in pairs], np.int16)
    return TagBatch(times, channels, 0, max(ends, default=0) + 1, losses=losses)


# Golden vectors of devices.md section 9.


def test_golden_a1(write: Write) -> None:
    word = bytes.fromhex("025068 64fa720000")
    time = 123456789012 * 125 / 32  # 482253082078.125 ps
    assert clicks(read(write(word * 1), "a1")) == [(round(time), 2)]
    assert clicks(read(write(word[4:] + word[:4]), "a1x")) == [(round(time), 2)]
    assert encode_tags(batch_of([(round(time), 2)]), "a1") == word


def test_golden_tdc1(write: Write) -> None:
    word = bytes.fromhex("e5d05a02")
    assert clicks(read(write(word), "tdc1")) == [(2469134000, 1), (2469134000, 3)]
    assert encode_tags(batch_of([(2469134000, 1), (2469134000, 3)]), "tdc1") == word


def test_golden_swabian(write: Write) -> None:
    record = bytes.fromhex("0000000002000000cb04fb711f010000")
    assert clicks(read(write(record), "swabian")) == [(1234567890123, 2)]
    assert encode_tags(batch_of([(1234567890123, 2)]), "swabian") == record


def test_golden_raw_event(write: Write) -> None:
    # The first event of pyS15's recording, by the layout of devices.md 4.3.
    word = struct.pack("<II", 0x118, 0x98280002)
    ticks = 0x118 << 17 | 0x98280002 >> 15
    assert clicks(read(write(word), "s15raw")) == [(ticks * 125, 2)]


def test_a1_mask_bits_and_dummies_are_not_clicks(write: Write) -> None:
    event = 1000 << 10 | 0b11111 << 5 | 0b0100
    dummy = 500 << 10 | 0x10
    words = b"".join(struct.pack("<II", x & 0xFFFFFFFF, x >> 32) for x in (event, dummy, event))
    assert clicks(read(write(words), "a1")) == [(3906, 3), (3906, 3)]


def test_a1_counter_turns_over(write: Write) -> None:
    late, half = (1 << 54) - 1, 1 << 53
    words = b"".join(
        struct.pack("<II", (t << 10 | 1) & 0xFFFFFFFF, t >> 22) for t in (late, 31, half, late, 31)
    )
    first = (late * 125 + 16) // 32
    turn = 70368744177664000
    for chunk in (1, 3, 5):
        batch = read(write(words), "a1", chunk)
        assert batch.times_ps[0] == first
        expected = [125, turn // 2 - 121, turn // 2 - 4, 125]
        assert np.diff(batch.times_ps).tolist() == expected


# Round trips: any clicks, any chunks, and the format is recognised by its content.


@pytest.mark.parametrize("name", ["a1", "a1x", "s15raw", "tdc1", "swabian"])
@given(
    steps=st.lists(st.tuples(st.integers(0, 10**6), st.integers(1, 4)), min_size=4, max_size=60),
    chunk=st.integers(1, 70),
)
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_round_trip(write: Write, name: str, steps: list[tuple[int, int]], chunk: int) -> None:
    ticks = np.cumsum([s for s, _ in steps])
    events = sorted({(int(t), c) for t, (_, c) in zip(ticks, steps, strict=True)})
    pairs = [(int(np.floor(t * TICK[name] + 0.5)), c) for t, c in events]
    path = write(encode_tags(batch_of(pairs), name))
    batch = read(path, name, chunk)
    assert clicks(batch) == pairs
    assert batch.begin_ps <= pairs[0][0]
    assert batch.end_ps == pairs[-1][0] + 1


@pytest.mark.parametrize("name", ["a1", "a1x", "s15raw", "tdc1", "swabian"])
@given(seed=st.integers(0, 2**32), offset=st.integers(0, 10**15))
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_recognised_by_content(write: Write, name: str, seed: int, offset: int) -> None:
    rng = np.random.default_rng(seed)
    times = np.cumsum(rng.integers(2000, 10**8, 200)) + (0 if name == "tdc1" else offset)
    channels = rng.integers(1, 5, 200)
    pairs = list(zip(times.tolist(), channels.tolist(), strict=True))
    assert open_tags(write(encode_tags(batch_of(pairs), name))).info.format == name


def test_swabian_losses(write: Write) -> None:
    record = struct.Struct("<BBHiq")
    data = b"".join(
        record.pack(kind, 0, missed, channel, time)
        for kind, missed, channel, time in [
            (0, 0, -3, 100),
            (2, 0, 0, 200),
            (4, 7, 1, 300),
            (4, 5, 2, 310),
            (0, 0, 1, 320),
            (3, 0, 0, 400),
            (0, 0, 1, 500),
            (4, 9, 1, 600),
            (1, 0, 0, 700),
            (0, 0, 2, 800),
        ]
    )
    whole = read(write(data), "swabian")
    assert clicks(whole) == [(100, -3), (320, 1), (500, 1), (800, 2)]
    assert whole.losses == (
        Loss("overflow", 200, 400, 12),
        Loss("overflow", 500, 600, 9),
        Loss("corrupt", 600, 700),
    )
    for chunk in range(1, 10):
        parts = read(write(data), "swabian", chunk)
        assert clicks(parts) == clicks(whole)
        assert parts.live_s == pytest.approx(whole.live_s)
        assert sum(loss.count or 0 for loss in parts.losses) == 21


def test_swabian_losses_round_trip(write: Write) -> None:
    losses = (Loss("overflow", 200, 400, 70000), Loss("corrupt", 500, 600))
    batch = batch_of([(100, 1), (500, -2), (700, 1)], losses)
    again = read(write(encode_tags(batch, "swabian")), "swabian")
    assert again.losses == losses
    assert clicks(again) == clicks(batch)


@pytest.mark.parametrize("cuts", [(50,), (300,), (250, 350), (100, 400, 450), (150, 150, 550)])
def test_swabian_losses_are_written_once(tmp_path: Path, cuts: tuple[int, ...]) -> None:
    losses = (Loss("overflow", 200, 400, 70000), Loss("corrupt", 500, 600))
    rest = whole = batch_of([(100, 1), (300, 4), (500, -2), (700, 1)], losses)
    with create_tags(tmp_path / "x.swabian") as writer:
        for cut in cuts:
            part, rest = rest.split(cut)
            writer.write(part)
        writer.write(rest)
    again = read(tmp_path / "x.swabian")
    assert again.losses == losses
    assert clicks(again) == clicks(whole)


def test_an_overflow_that_never_ends_lasts_to_the_last_record(write: Write) -> None:
    record = struct.Struct("<BBHiq")
    data = record.pack(2, 0, 0, 0, 200) + record.pack(0, 0, 0, 1, 900)
    assert read(write(data), "swabian").losses == (Loss("overflow", 200, 900),)


# What is no tag file, or a damaged one.


def test_channels_that_a_format_cannot_hold() -> None:
    for name in ("a1", "tdc1", "s15raw"):
        with pytest.raises(ValueError, match=r"channels 1\.\.4"):
            encode_tags(batch_of([(1, 5)]), name)
    with pytest.raises(ValueError, match=r"no writer for 'ttbin'; there are .*swabian"):
        encode_tags(batch_of([(1, 1)]), "ttbin")


@pytest.mark.parametrize(
    "content",
    [
        b"# Real recordings\nRecorded by others, published in public repositories\n" * 5,
        b"time,channel\n1000,1\n2000,2\n3000,1\n4000,2\n5000,1\n6000,4\n7000,1\n8000,3\n",
        bytes(4096),
        b"\xff" * 4096,
        np.random.default_rng(1).bytes(8192),
        b"\x89PNG\r\n\x1a\n" + np.random.default_rng(2).bytes(4000),
    ],
)
def test_not_a_tag_file(write: Write, content: bytes) -> None:
    with pytest.raises(
        TagFileError, match=r"not a tag file I know.*say --format with one of bbt, ptu"
    ):
        open_tags(write(content))


def test_named_ptu_without_the_magic(write: Write) -> None:
    with pytest.raises(TagFileError, match="does not begin with PQTTTR"):
        open_tags(write(b"hello " * 100, "x.ptu"))


def test_empty_folder_missing_and_unknown(tmp_path: Path, write: Write) -> None:
    with pytest.raises(TagFileError, match="is empty"):
        open_tags(write(b""))
    with pytest.raises(TagFileError, match="is a folder without epoch files"):
        open_tags(tmp_path)
    with pytest.raises(TagFileError, match="cannot be read: No such file"):
        open_tags(tmp_path / "none.ptu")
    with pytest.raises(TagFileError, match="unknown format 'ttbin'; known are bbt, ptu, a0"):
        open_tags(tmp_path, "ttbin")


def read_until_damage(file: TagFile) -> tuple[list[tuple[int, int]], TagFileError]:
    parts = []
    with pytest.raises(TagFileError) as caught:
        parts += list(file)  # all at once: a generator would be lost with the error
    for batch in iterate(file):
        parts.append(batch)
    return clicks(concatenate(parts)) if parts else [], caught.value


def iterate(file: TagFile) -> Iterator[TagBatch]:
    with contextlib.suppress(TagFileError):
        yield from file


@pytest.mark.parametrize("name", ["a1", "a1x", "s15raw", "tdc1", "swabian"])
@pytest.mark.parametrize("chunk", [1, 7, 100])
def test_all_before_a_cut_off_record_is_kept(write: Write, name: str, chunk: int) -> None:
    batch = batch_of([(10**6 * n, 1) for n in range(1, 50)])
    data = encode_tags(batch, name)
    kept, error = read_until_damage(open_tags(write(data[:-3]), name, chunk_records=chunk))
    assert "the last record is cut off" in str(error)
    assert error.offset == len(data) - len(data) // 49
    assert kept == clicks(batch)[:48]


def test_tdc1_time_that_goes_back(write: Write) -> None:
    data = encode_tags(batch_of([(10**6 * n, 1) for n in range(1, 9)]), "tdc1")
    swapped = data[:12] + data[20:24] + data[16:]
    for chunk in (1, 2, 100):
        file = open_tags(write(swapped), "tdc1", chunk_records=chunk)
        kept, error = read_until_damage(file)
        assert "record 4: " in str(error)
        assert error.offset == 16
        assert kept == [(10**6 * n, 1) for n in (1, 2, 3, 6)]


def test_unknown_swabian_type_and_channel(write: Write) -> None:
    good = struct.pack("<BBHiq", 0, 0, 0, 1, 5)
    with pytest.raises(TagFileError, match="record 1: record type 9 does not exist"):
        read(write(good + struct.pack("<BBHiq", 9, 0, 0, 1, 5)), "swabian")
    with pytest.raises(TagFileError, match="record 1: channel 70000 cannot be one"):
        read(write(good + struct.pack("<BBHiq", 0, 0, 0, 70000, 5)), "swabian")
    for kind in range(5):
        with pytest.raises(TagFileError, match="record 1: its time lies months away"):
            read(write(good + struct.pack("<BBHiq", kind, 0, 0, 1, 2**63 - 1)), "swabian")


def test_a_file_that_shrinks_while_it_is_read(write: Write) -> None:
    path = write(encode_tags(batch_of([(10**6 * n, 1) for n in range(1, 50)]), "a1"))
    file = open_tags(path, chunk_records=10)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(TagFileError, match="became shorter"):
        list(file)


@pytest.mark.parametrize("name", [*FORMATS, None])
@given(data=st.data())
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_give_tags_or_a_tag_file_error(
    write: Write, name: str | None, data: st.DataObject
) -> None:
    base = data.draw(st.sampled_from(["a1", "s15raw", "tdc1", "swabian"]))
    times = np.cumsum(np.random.default_rng(3).integers(1, 10**7, 100)).tolist()
    content = bytearray(encode_tags(batch_of([(t, t % 4 + 1) for t in times]), base))
    for _ in range(data.draw(st.integers(0, 5))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.integers(1, len(content)))]
    path = write(bytes(content))
    tracemalloc.start()
    with contextlib.suppress(TagFileError):
        read(path, name)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5e6
