"""Our own stream format: killed, cut, flipped, forged, read while it grows, and from the middle."""

import io
import os
import struct
import subprocess
import sys
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bellbench.instruments import Loss, TagBatch, TagFileError, concatenate
from bellbench.instruments.formats import bbt
from bellbench.instruments.formats.bbt import BBT, BbtReader, BbtWriter
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

HEAD = struct.Struct("<4sBBHIIIIQqqII")
PROPERTY = settings(
    deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40
)


def make(chunks: int = 4, each: int = 5) -> list[TagBatch]:
    """Batches of some clicks on three channels; the second has a loss."""
    rng = np.random.default_rng(1)
    batches = []
    for i in range(chunks):
        times = np.sort(rng.integers(i * 1000, (i + 1) * 1000, each))
        losses = (Loss("overflow", 1200, 1300, 4),) if i == 1 else ()
        channels = rng.choice(np.array([1, 2, 7], np.int16), each)
        batches.append(TagBatch(times, channels, i * 1000, (i + 1) * 1000, losses=losses))
    return batches


def save(batches: list[TagBatch], *, finish: bool = True) -> tuple[bytes, list[int]]:
    """Return a file with a chunk per batch, and where each chunk begins."""
    file = io.BytesIO()
    writer = BbtWriter(file, start_unix_ns=99, clock_id="A", metadata={"bench": "metro"})
    for batch in batches:
        writer.write(batch)
        writer.flush()
    if finish:
        writer.finish()
    data, starts, at = file.getvalue(), [], 0
    while at < len(data):
        starts.append(at)
        at += HEAD.size + HEAD.unpack_from(data, at)[4]
    return data, starts


def tell(batch: TagBatch) -> object:
    return (
        batch.times_ps.tolist(),
        batch.channels.tolist(),
        batch.begin_ps,
        batch.end_ps,
        batch.losses,
    )


def told(batches: list[TagBatch]) -> list[object]:
    return [tell(batch) for batch in batches]


def keep(path: Path) -> tuple[list[TagBatch], TagFileError | None]:
    """Return the batches before the damage, and the error for it."""
    found = []
    try:
        for batch in BbtReader(path):
            found.append(batch)
    except TagFileError as error:
        return found, error
    return found, None


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "x.bbt"


# Kills.


def test_cut_anywhere_the_complete_chunks_are_read_and_written_on(path: Path) -> None:
    batches = make()
    data, starts = save(batches)
    later = make(5)[4].split(4500)[1]
    for cut in range(len(data)):
        path.write_bytes(data[:cut])
        if cut < starts[1]:
            with pytest.raises(TagFileError, match="before its first chunk"):
                BbtReader(path)
            continue
        whole = sum(cut >= end for end in starts[2:])
        reader = BbtReader(path)
        assert told(list(reader)) == told(batches[:whole])
        assert reader.position == starts[1 + whole]
        assert not reader.info.header["closed"]
        assert reader.info.header["torn_bytes"] == cut - starts[1 + whole]
        if cut % 5 and cut not in starts:
            continue
        with path.open("r+b") as file:
            writer = BbtWriter.resume(file)
            writer.write(later)
            writer.finish()
        again = list(BbtReader(path))
        assert told(again[:whole]) == told(batches[:whole])
        (last,) = again[whole:]
        assert (last.begin_ps, last.end_ps) == (1000 * whole, 5000)
        assert last.losses == (Loss("gap", 1000 * whole, 4500),)
        assert last.times_ps.tolist() == later.times_ps.tolist()
        assert (last.start_unix_ns, last.clock_id) == (99, "A")


WRITE_FOR_EVER = """
import sys, numpy as np
from bellbench.instruments import TagBatch
from bellbench.instruments.formats.bbt import BbtWriter
with open(sys.argv[1], "wb") as file:
    writer = BbtWriter(file)
    for i in range(10**9):
        times = np.arange(i * 10**6, (i + 1) * 10**6, 50)
        writer.write(TagBatch(times, (times % 3).astype(np.int16), i * 10**6, (i + 1) * 10**6))
        if i % 7 == 0:
            writer.flush()
            print(i + 1, flush=True)
"""


def test_a_killed_process_loses_only_what_was_not_flushed(path: Path) -> None:
    environment = dict(os.environ)
    child = subprocess.Popen(
        [sys.executable, "-c", WRITE_FOR_EVER, str(path)], stdout=subprocess.PIPE, env=environment
    )
    assert child.stdout is not None
    flushed = 0
    while flushed < 30:
        flushed = int(child.stdout.readline())
    child.kill()
    rest = child.stdout.read().split(b"\n")[:-1]
    child.stdout.close()
    child.wait(60)
    flushed = int(rest[-1]) if rest else flushed
    found = concatenate(BbtReader(path)).checked()
    assert found.begin_ps == 0
    assert found.end_ps >= flushed * 10**6
    times = np.arange(0, found.end_ps, 50)
    assert np.array_equal(found.times_ps, times)
    assert np.array_equal(found.channels, times % 3)


def test_a_closed_recording_goes_on(path: Path) -> None:
    batches = make()
    path.write_bytes(save(batches[:2])[0])
    with path.open("r+b") as file:
        writer = BbtWriter.resume(file)
        with pytest.raises(ValueError, match="in order"):
            writer.write(batches[1])
        for batch in batches[2:]:
            writer.write(batch)
        writer.finish()
    found = concatenate(BbtReader(path))
    wanted = concatenate(batches)
    assert tell(found) == tell(wanted)
    info = BbtReader(path).info
    assert info.header["metadata"] == {"bench": "metro"}
    assert info.records == 20


class Full(io.BytesIO):
    """A disk with room for so many bytes."""

    room = 1 << 30

    def write(self, data: bytes) -> int:  # type: ignore[override]
        fits = min(len(data), self.room)
        self.room -= fits
        super().write(data[:fits])
        if fits < len(data):
            raise OSError(28, "No space left on device")
        return fits


def test_a_full_disk_leaves_what_is_complete(path: Path) -> None:
    batches = make()
    file = Full()
    writer = BbtWriter(file)
    for batch in batches[:2]:
        writer.write(batch)
        writer.flush()
    file.room = 70
    writer.write(batches[2])
    with pytest.raises(OSError, match="No space"):
        writer.flush()
    file.room = 1 << 30
    writer.finish()
    with pytest.raises(ValueError, match="writing failed"):
        writer.write(batches[3])
    path.write_bytes(file.getvalue())
    reader = BbtReader(path)
    assert [b.end_ps for b in reader] == [1000, 2000]
    assert reader.info.header["torn_bytes"] == 70


# Reading while it is written.


def test_read_on_while_it_grows(path: Path) -> None:
    batches = make(8)
    data, starts = save(batches, finish=False)
    cuts = [*starts[1:], len(data)]
    path.write_bytes(data[: starts[1]])
    reader = BbtReader(path)
    found: list[TagBatch] = []
    with path.open("ab") as file:
        for before, after in zip(
            [starts[1], *range(starts[1] + 9, len(data), 37)],
            [*range(starts[1] + 9, len(data), 37), len(data)],
            strict=True,
        ):
            file.write(data[before:after])
            file.flush()
            found += reader
            assert len(found) == sum(after >= c for c in cuts[1:])
    assert told(found) == told(batches)
    assert list(reader) == []


def test_leaving_a_loop_loses_nothing(path: Path) -> None:
    batches = make()
    path.write_bytes(save(batches)[0])
    reader = BbtReader(path)
    found = []
    for _ in batches:
        for batch in reader:
            found.append(batch)
            break
    assert told(found) == told(batches)


# From the middle.


class Counting(io.FileIO):
    """Counts the bytes read."""

    amount = 0

    def readinto(self, buffer: object, /) -> int:
        count = super().readinto(buffer)  # type: ignore[arg-type]
        Counting.amount += count or 0
        return count or 0


@given(from_ps=st.integers(-100, 41_000), lone=st.booleans())
@example(from_ps=0, lone=False)
@PROPERTY
def test_from_any_time(path: Path, from_ps: int, lone: bool) -> None:
    batches = make(40, 3)
    data = save(batches, finish=not lone)[0]
    path.write_bytes(data)
    found = list(BbtReader(path, from_ps=from_ps))
    if from_ps >= 40_000:
        assert found == []
        return
    tail = concatenate(batches).split(from_ps)[1]
    assert tell(concatenate(found)) == tell(tail)


def test_seeking_reads_little(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with path.open("wb") as file:
        writer = BbtWriter(file)
        rng = np.random.default_rng(3)
        times = np.cumsum(rng.integers(0, 2**40, 1 << 21))
        channels = rng.integers(-(2**15), 2**15, times.size).astype(np.int16)
        writer.write(TagBatch(times, channels, 0, int(times[-1]) + 1))
        writer.finish()
    wanted = int(times[1_000_000])
    at = np.searchsorted(times, wanted)
    read = 0
    real = Path.open

    def counting(self: Path, mode: str = "r", **more: object) -> io.BufferedReader:
        assert mode == "rb"
        return io.BufferedReader(Counting(self, "rb"))

    monkeypatch.setattr(Path, "open", counting)
    reader = BbtReader(path, from_ps=wanted)
    read = Counting.amount
    monkeypatch.setattr(Path, "open", real)
    first = next(iter(reader))
    assert first.times_ps[0] == wanted
    assert first.channels[:100].tolist() == channels[at : at + 100].tolist()
    assert path.stat().st_size > 12e6
    assert read < 9e6


# Damage.


def test_any_flipped_byte_is_found_and_read_on_behind(path: Path) -> None:
    batches = make()
    data, starts = save(batches)
    for i in range(len(data)):
        broken = bytearray(data)
        broken[i] ^= 1 << i % 8
        path.write_bytes(broken)
        chunk = sum(i >= s for s in starts) - 1
        found, error = keep(path)
        assert error is not None
        assert error.offset == starts[chunk]
        assert str(path) in str(error)
        assert told(found) == told(batches[: max(0, chunk - 1)])
        found = list(BbtReader(path, damage="mark"))
        if chunk == 0:
            assert told(found) == told(batches)
            assert found[0].clock_id == ""
        elif chunk == 5:
            assert told(found) == told(batches)
        else:
            lost = batches[chunk - 1]
            begin, end = lost.begin_ps, lost.end_ps
            gap: list[object] = [([], [], begin, end, (Loss("corrupt", begin, end, 5),))]
            assert told(found) == told(batches[: chunk - 1]) + gap + told(batches[chunk:])


def test_chunks_that_are_missing_doubled_or_foreign(path: Path) -> None:
    batches = make()
    data, starts = save(batches)
    parts = [data[i:j] for i, j in zip(starts, [*starts[1:], len(data)], strict=True)]
    lost: object = ([], [], 1000, 2000, (Loss("corrupt", 1000, 2000, 5),))
    missing = [parts[i] for i in (0, 1, 3, 4, 5)]
    doubled = [parts[i] for i in (0, 1, 2, 2, 3, 4, 5)]
    noise = [*parts[:3], b"\xbbBBT and other noise" * 50, *parts[3:]]
    zeros = [*parts[:3], bytes(4096), *parts[3:]]
    foreign = [*parts, *parts]
    for pieces, place, after in (
        (missing, starts[2], [*told(batches[:1]), lost, *told(batches[2:])]),
        (doubled, starts[3], told(batches)),
        (noise, starts[3], told(batches)),
        (zeros, starts[3], told(batches)),
        (foreign, len(data), told(batches)),
    ):
        path.write_bytes(b"".join(pieces))
        with pytest.raises(TagFileError) as caught:
            list(BbtReader(path))
        assert caught.value.offset == place
        assert told(list(BbtReader(path, damage="mark"))) == after


def test_a_tail_of_zeros_is_damage_and_can_be_cut(path: Path) -> None:
    batches = make()
    data = save(batches, finish=False)[0]
    path.write_bytes(data + bytes(1000))
    with pytest.raises(TagFileError) as caught:
        list(BbtReader(path))
    assert caught.value.offset == len(data)
    with path.open("r+b") as file:
        BbtWriter.resume(file).finish()
    assert told(list(BbtReader(path))) == told(batches)


def forge(data: bytes, at: int, **changed: int) -> bytes:
    """Change fields of a head and make its checksums right again."""
    names = ["magic", "kind", "version", "zero", "size", "clicks", "numerator", "denominator"]
    names += ["before", "begin", "end", "payload", "own"]
    fields = dict(zip(names, HEAD.unpack_from(data, at), strict=True))
    fields["payload"] = zlib.crc32(data[at + HEAD.size : at + HEAD.size + fields["size"]])
    fields |= changed
    head = HEAD.pack(*fields.values())[:-4]
    return data[:at] + head + struct.pack("<I", zlib.crc32(head)) + data[at + HEAD.size :]


@pytest.mark.parametrize(
    "changed",
    [
        {"size": 2**32 - 8},
        {"clicks": 2**32 - 1},
        {"clicks": 2**24},
        {"before": 2**60},
        {"begin": 2**60},
        {"begin": -(2**62)},
        {"end": 2**62, "numerator": 1000},
        {"numerator": 0},
        {"denominator": 0},
        {"denominator": 2},
        {"numerator": 2},
        {"numerator": 6, "denominator": 2},
        {"kind": 70},
        {"version": 2},
        {"zero": 1},
    ],
    ids=str,
)
def test_heads_that_lie(path: Path, changed: dict[str, int]) -> None:
    batches = make()
    data, starts = save(batches)
    path.write_bytes(forge(data, starts[2], **changed))
    tracemalloc.start()
    found, error = keep(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert error is not None
    assert error.offset == starts[2]
    assert told(found) == told(batches[:1])
    assert peak < 8e6


@pytest.mark.parametrize(("begin", "end"), [(2, 1), (-(2**63), 2**62), (0, 2**63 - 1)])
def test_losses_that_lie(path: Path, begin: int, end: int) -> None:
    losses = (Loss("gap", 0, 10),)
    batch = TagBatch(np.zeros(0, np.int64), np.zeros(0, np.int16), 0, 20, losses=losses)
    file = io.BytesIO()
    writer = BbtWriter(file, resolution_ps=10.0)
    writer.write(batch)
    writer.finish()
    data = file.getvalue()
    at = data.index(b"\xbbBBTC")
    place = at + HEAD.size + 16 + 16
    broken = data[:place] + struct.pack("<qq", begin, end) + data[place + 16 :]
    path.write_bytes(forge(broken, at))
    found, error = keep(path)
    assert error is not None
    assert (found, error.offset) == ([], at)


lies = st.fixed_dictionaries(
    {
        "changes": st.lists(
            st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=6
        ),
        "clicks": st.integers(0, 300),
        "which": st.integers(0, 2),
    }
)


def lie(path: Path, changes: list[tuple[float, int]], clicks: int, which: int) -> None:
    """Change a payload, most often in its first bytes, under a checksum that is right."""
    rng = np.random.default_rng(2)
    times = np.cumsum(rng.integers(0, 300, 300))
    channels = [np.arange(300) % 5, np.arange(300) % 300, np.arange(300) // 290][which]
    end = int(times[-1]) + 1
    batch = TagBatch(times, channels.astype(np.int16), 0, end, losses=(Loss("gap", 1, 2),))
    data, starts = save([batch])
    size = starts[2] - starts[1] - HEAD.size
    broken = bytearray(data)
    for place, value in changes:
        broken[starts[1] + HEAD.size + int(place**3 * (size - 1))] = value
    path.write_bytes(forge(bytes(broken), starts[1], clicks=clicks))
    found, error = keep(path)
    assert error is None or error.offset in starts[1:]
    for part in (*found, *BbtReader(path, damage="mark")):
        part.checked()


@given(case=lies, codes=st.booleans())
@settings(PROPERTY, max_examples=80)
def test_payloads_that_lie(
    path: Path, monkeypatch: pytest.MonkeyPatch, case: dict[str, Any], codes: bool
) -> None:
    monkeypatch.setattr(bbt, "_WORTH", 100.0 if codes else 0.97)
    lie(path, **case)


@pytest.mark.slow
@given(case=lies, codes=st.booleans())
@settings(PROPERTY, max_examples=5_000)
def test_many_payloads_that_lie(
    path: Path, monkeypatch: pytest.MonkeyPatch, case: dict[str, Any], codes: bool
) -> None:
    """With every index of the compiled loops checked:

    ``NUMBA_BOUNDSCHECK=1 NUMBA_CACHE_DIR=/tmp/checked pytest --rootdir=tests -c pyproject.toml
    tests/instruments/test_formats_bbt_damage.py -m slow --timeout=0``
    """
    monkeypatch.setattr(bbt, "_WORTH", 100.0 if codes else 0.97)
    lie(path, **case)


@given(data=st.binary(max_size=400), at=st.integers(0, 400))
@settings(PROPERTY, max_examples=60)
def test_noise(path: Path, data: bytes, at: int) -> None:
    good = save(make(2))[0]
    path.write_bytes(good[:at] + data)
    try:
        reader = BbtReader(path, damage="mark")
    except TagFileError:
        return
    for batch in (*reader, *keep(path)[0]):
        assert batch.checked().end_ps <= 2000


@pytest.mark.parametrize(
    "text",
    [
        b"[]",
        b"{",
        b"[" * 100_000,
        b'{"start_unix_ns": 1e400, "clock_id": "", "metadata": {}}',
        b'{"start_unix_ns": ' + b"9" * 5000 + b', "clock_id": "", "metadata": {}}',
        b"\xff",
    ],
    ids=["list", "cut", "deep", "float", "long", "no text"],
)
def test_first_chunks_that_lie(path: Path, text: bytes) -> None:
    data, starts = save(make())
    text += b" " * (-len(text) % 8)
    head = forge(data[: HEAD.size] + text, 0, size=len(text), payload=zlib.crc32(text))
    path.write_bytes(head + data[starts[1] :])
    with pytest.raises(TagFileError) as caught:
        BbtReader(path)
    assert caught.value.offset == 0
    assert told(list(BbtReader(path, damage="mark"))) == told(make())


def test_files_that_are_not_there_or_not_ours(path: Path) -> None:
    with pytest.raises(TagFileError, match="cannot be read"):
        BbtReader(path)
    path.write_bytes(b"")
    with pytest.raises(TagFileError):
        BbtReader(path)
    assert not BBT.plausible(b"PQTTTR\0\0", 8)


def test_memory_is_a_chunk(path: Path) -> None:
    with path.open("wb") as file:
        writer = BbtWriter(file)
        for i in range(30):
            times = np.arange(i * 10**8, (i + 1) * 10**8, 2000)
            writer.write(TagBatch(times, (times % 7).astype(np.int16), i * 10**8, (i + 1) * 10**8))
        writer.finish()
    list(BbtReader(path))
    tracemalloc.start()
    count = sum(len(batch) for batch in BbtReader(path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 1_500_000
    assert peak < 8e6  # of 15 MB of clicks
