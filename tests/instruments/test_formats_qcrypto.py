"""qcrypto T1 and T2: packets in a row and folders of epochs."""

import contextlib
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from bellbench.instruments import Loss, TagBatch, TagFileError, concatenate
from bellbench.instruments.formats import create_tags, encode_tags, open_tags
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

EPOCH = 1000 << 29
NAMES = {"qcrypto_t1": 125 / 32, "qcrypto_t2": 125.0}
fixed = settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])


def clicks(batch: TagBatch) -> list[tuple[int, int]]:
    return list(zip(batch.times_ps.tolist(), batch.channels.tolist(), strict=True))


def batch_of(pairs: list[tuple[int, int]]) -> TagBatch:
    times = np.array([t for t, _ in pairs], np.int64)
    channels = np.array([c for _, c in pairs], np.int16)
    return TagBatch(times, channels, 0, int(times[-1]) + 1)


def write(path: Path, batch: TagBatch, name: str, parts: int = 1, start: int = 0) -> Path:
    with create_tags(path, name, start_unix_ns=start) as writer:
        for k in range(parts):
            cut = batch.begin_ps + (batch.end_ps - batch.begin_ps) // (parts - k)
            part, batch = batch.split(cut)
            writer.write(part)
    return path


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    return tmp_path


def some(seed: int, count: int, name: str) -> list[tuple[int, int]]:
    rng = np.random.default_rng(seed)
    ticks = np.cumsum(rng.integers(2, int(4e12 / count / NAMES[name]), count))
    times = np.floor(ticks * NAMES[name] + 0.5).astype(np.int64)
    return list(zip(times.tolist(), rng.integers(1, 5, count).tolist(), strict=True))


@pytest.mark.parametrize("name", NAMES)
@given(
    seed=st.integers(0, 99),
    count=st.integers(1, 60),
    parts=st.integers(1, 5),
    chunk=st.integers(1, 80),
)
@fixed
def test_round_trip(
    tmp_path_factory: pytest.TempPathFactory,
    name: str,
    seed: int,
    count: int,
    parts: int,
    chunk: int,
) -> None:
    folder = tmp_path_factory.mktemp("q")
    pairs = some(seed, count, name)
    path = write(folder / "out", batch_of(pairs), name, parts)
    epochs = sorted(p.name for p in path.iterdir())
    assert epochs == [f"{k:08x}" for k in range(pairs[-1][0] // EPOCH + 1)]
    file = open_tags(path, chunk_records=chunk)
    assert file.info.format == name
    assert file.info.records == (len({t for t, _ in pairs}) if len(epochs) > 1 else 0)
    again = concatenate(file).checked()
    assert clicks(again) == pairs
    assert again.losses == ()
    assert again.end_ps == len(epochs) * EPOCH
    row = folder / "row"
    row.write_bytes(encode_tags(batch_of(pairs), name))
    assert row.read_bytes() == b"".join((path / e).read_bytes() for e in epochs)
    assert clicks(concatenate(open_tags(row, chunk_records=chunk))) == pairs


@pytest.mark.parametrize("name", NAMES)
def test_fpfind_reads_what_we_write(tmp_path: Path, name: str) -> None:
    parser = pytest.importorskip("fpfind.lib.parse_epochs")
    pairs = some(5, 300, name)
    path = write(tmp_path / "out", batch_of(pairs), name)
    found: list[tuple[int, int]] = []
    for epoch in sorted(path.iterdir()):
        times, patterns = getattr(parser, f"read_{name[-2:].upper()}")(epoch)
        for time, pattern in zip(times, patterns, strict=True):
            found.append((int(np.floor(time * 1000 + np.longdouble(0.5))), int(pattern)))
    assert found == [(t, 1 << (c - 1)) for t, c in pairs]


def test_what_fpfind_writes_is_read(tmp_path: Path) -> None:
    parser = pytest.importorskip("fpfind.lib.parse_epochs")
    ticks = [5, 1000, 1 << 36]
    parser.write_T1(tmp_path, 0x3B1C2D3E, ticks, np.array([1, 2, 12]))
    file = open_tags(tmp_path)
    assert file.info.start_unix_ns == 0x3B1C2D3E << 29
    expected = [(20, 1), (3906, 2), (268435456000, 3), (268435456000, 4)]
    assert clicks(concatenate(file)) == expected


def test_golden_t2(tmp_path: Path) -> None:
    # 8 bits of difference, 4 of value: 5 and 1, escape to 300 and 8, end.
    bits = f"{5:08b}{1:04b}{0:08b}{300:032b}{8:04b}{1:08b}{0:04b}"
    bits += "0" * (-len(bits) % 32)
    words = [int(bits[k : k + 32], 2) for k in range(0, len(bits), 32)]
    data = struct.pack("<6I", 2, 7, 2, 8, 4, 0) + struct.pack(f"<{len(words)}I", *words)
    path = tmp_path / "00000007"
    path.write_bytes(data)
    for chunk in (1, 100):
        batch = concatenate(open_tags(path, chunk_records=chunk))
        assert clicks(batch) == [(7 * EPOCH + 5 * 125, 1), (7 * EPOCH + 305 * 125, 4)]
        assert (batch.begin_ps, batch.end_ps) == (7 * EPOCH, 8 * EPOCH)
    path.write_bytes(data.replace(struct.pack("<2I", 4, 0), struct.pack("<2I", 4, 1), 1))
    assert concatenate(open_tags(path)).channels.tolist() == [2, 9]


def test_close_clicks_of_t2_are_moved_apart(tmp_path: Path) -> None:
    batch = batch_of([(0, 1), (0, 2), (125, 1), (250, 3), (375, 1), (10_000, 2)])
    path = write(tmp_path / "out", batch, "qcrypto_t2")
    moved = [(250, 1), (250, 2), (500, 1), (750, 3), (1000, 1), (10_000, 2)]
    assert clicks(concatenate(open_tags(path))) == moved


def test_missing_epochs_are_gaps(tmp_path: Path) -> None:
    pairs = [(EPOCH * k + 500, 1) for k in range(6)]
    for name in NAMES:
        path = write(tmp_path / name, batch_of(pairs), name)
        for k in (2, 3):
            (path / f"{k:08x}").unlink()
        batch = concatenate(open_tags(path))
        assert batch.losses == (Loss("gap", 2 * EPOCH, 4 * EPOCH),)
        assert clicks(batch) == [pairs[k] for k in (0, 1, 4, 5)]
        again = write(tmp_path / f"{name}2", batch, name)
        assert sorted(p.name for p in again.iterdir()) == sorted(p.name for p in path.iterdir())


def test_start_is_kept_by_extended_epochs(tmp_path: Path) -> None:
    start = 1_700_000_000_123_456_789
    pairs = [(125_000 * k, 2) for k in range(1, 9)]
    for name in NAMES:
        file = open_tags(write(tmp_path / name, batch_of(pairs), name, start=start))
        batch = concatenate(file)
        assert file.info.start_unix_ns == start // (1 << 29) << 29
        assert batch.start_unix_ns == file.info.start_unix_ns
        absolute = [batch.start_unix_ns * 1000 + t for t in batch.times_ps.tolist()]
        for ours, (time, _) in zip(absolute, pairs, strict=True):
            assert abs(ours - start * 1000 - time) <= NAMES[name] / 2


@pytest.mark.parametrize("name", NAMES)
def test_damage_keeps_what_is_before(tmp_path: Path, name: str) -> None:
    pairs = some(1, 200, name)
    data = encode_tags(batch_of(pairs), name)
    path = tmp_path / "x"
    for cut in (30, 200, len(data) // 2, len(data) - 4):
        path.write_bytes(data[:cut])
        kept: list[TagBatch] = []
        with pytest.raises(TagFileError, match=r"truncated|damaged") as caught:
            kept.extend(open_tags(path, name, chunk_records=8))
        assert caught.value.offset is not None
        assert caught.value.offset <= cut
        got = clicks(concatenate(kept)) if kept else []
        assert got == pairs[: len(got)]
        assert len(got) >= (cut - 320) // (8 if name == "qcrypto_t1" else 24)
    path.write_bytes(data[:8] + struct.pack("<I", 3) + data[12:])
    with pytest.raises(TagFileError, match="announces 3 events"):
        list(open_tags(path))


def test_errors_of_folders_and_writers(tmp_path: Path) -> None:
    with pytest.raises(TagFileError, match="folder without epoch files"):
        open_tags(tmp_path)
    (tmp_path / "0000000a").write_bytes(b"")
    with pytest.raises(TagFileError, match="0000000a: is empty"):
        open_tags(tmp_path)
    (tmp_path / "0000000a").write_bytes(encode_tags(batch_of([(k, 1) for k in range(9)]), "id900"))
    with pytest.raises(TagFileError, match="is a folder, but id900 comes in files"):
        open_tags(tmp_path, "id900")
    full = tmp_path / "full"
    full.mkdir()
    (full / "x").touch()
    with pytest.raises(TagFileError, match="cannot take the place"):
        write(full, batch_of([(5, 1)]), "qcrypto_t1")
    late = TagBatch(np.zeros(0, np.int64), np.zeros(0, np.int16), 0, EPOCH << 17)
    with pytest.raises(ValueError, match=r"2\^17 epochs"):
        write(tmp_path / "late", late, "qcrypto_t2")
    assert not (tmp_path / "late").exists()


@pytest.mark.parametrize("name", NAMES)
@given(data=st.data())
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_give_tags_or_a_tag_file_error(
    tmp_path: Path, name: str, data: st.DataObject
) -> None:
    content = bytearray(encode_tags(batch_of(some(2, 30, name)), name))
    for _ in range(data.draw(st.integers(0, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "x"
    path.write_bytes(content[: data.draw(st.integers(1, len(content)))])
    tracemalloc.start()
    with contextlib.suppress(TagFileError):
        concatenate(open_tags(path, name, chunk_records=16)).checked()
    assert tracemalloc.get_traced_memory()[1] < 5e6
    tracemalloc.stop()
