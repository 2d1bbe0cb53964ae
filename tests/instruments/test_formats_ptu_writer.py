"""PTU files we write, read by ourselves and by the other readers."""

import importlib.util
import io
import os
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from bellbench.instruments import Loss, TagBatch, TagFileError, concatenate
from bellbench.instruments.formats import open_tags
from bellbench.instruments.formats.ptu import PtuWriter
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

START_NS = 1_795_190_780_123_456_789
OVERFLOW_PS = 1 << 25

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(*batches: TagBatch, resolution_ps: float | None = None, start: int = 0) -> Path:
        path = tmp_path / "ours.ptu"
        with path.open("w+b") as file:
            writer = PtuWriter(
                file, resolution_ps=resolution_ps, start_unix_ns=start, clock_id="rubidium µ"
            )
            for batch in batches:
                writer.write(batch)
            writer.finish()
        return path

    return write


def batch_of(times: npt.ArrayLike, channels: npt.ArrayLike, end: int, begin: int = 0) -> TagBatch:
    return TagBatch(np.asarray(times, np.int64), np.asarray(channels, np.int16), begin, end)


#: Steps between clicks: near, some overflows, and more overflows than one record of ours holds.
STEPS = st.lists(
    st.tuples(
        st.one_of(
            st.integers(0, 1000),
            st.integers(OVERFLOW_PS - 2, 3 * OVERFLOW_PS),
            st.integers(126 * OVERFLOW_PS, 400 * OVERFLOW_PS),
        ),
        st.integers(-1, 63),
    ),
    max_size=40,
)


@given(
    steps=STEPS,
    cuts=st.lists(st.integers(0, 10**12), max_size=4),
    silence=st.integers(0, 200 * OVERFLOW_PS),
    chunk=st.integers(1, 50),
    room=st.integers(1, 20),
)
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_we_write_we_read(
    write: Write,
    monkeypatch: pytest.MonkeyPatch,
    steps: list[tuple[int, int]],
    cuts: list[int],
    silence: int,
    chunk: int,
    room: int,
) -> None:
    monkeypatch.setattr("bellbench.instruments.formats.ptu._WRITE_RECORDS", room)
    times = np.cumsum([step for step, _ in steps], dtype=np.int64)
    end = int(times[-1] if times.size else 0) + 1 + silence
    rest, parts = batch_of(times, [channel for _, channel in steps], end), []
    for cut in sorted(cuts):
        part, rest = rest.split(cut % end)
        parts.append(part)
        if rest.begin_ps > cut % end:
            break
    path = write(*parts, rest, start=START_NS)
    read = concatenate(open_tags(path, chunk_records=chunk)).checked()
    assert read.times_ps.tolist() == times.tolist()
    assert read.channels.tolist() == [channel for _, channel in steps]
    assert (read.start_unix_ns, read.clock_id) == (START_NS, "rubidium µ")
    assert end - OVERFLOW_PS < read.end_ps <= end


@pytest.mark.parametrize("step", [1.0, 4.0, 13.5, 15.625, 81.0, 10**6 / 3, 1e9])
@given(steps=STEPS)
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_times_are_rounded_to_the_resolution(
    write: Write, step: float, steps: list[tuple[int, int]]
) -> None:
    times = np.cumsum([gap for gap, _ in steps], dtype=np.int64)
    end = int(times[-1]) + 1 if times.size else 1
    path = write(batch_of(times, np.zeros(times.size), end), resolution_ps=step)
    file = open_tags(path)
    assert file.info.resolution_ps == pytest.approx(step, rel=1e-15)
    read = concatenate(file).checked()
    exact = Fraction(step).limit_denominator(1000)
    half = Fraction(1, 2)
    ticks = [(time / exact + half).__floor__() for time in times.tolist()]
    assert read.times_ps.tolist() == [(tick * exact + half).__floor__() for tick in ticks]


def test_header_of_a_finished_file(write: Write) -> None:
    path = write(
        batch_of([5, OVERFLOW_PS], [0, 7], 10**9),
        TagBatch(
            np.zeros(0, np.int64),
            np.zeros(0, np.int16),
            10**9,
            3 * 10**9 + 1,
            losses=(Loss("gap", 10**9, 2 * 10**9), Loss("overflow", 2 * 10**9, 25 * 10**8)),
        ),
        start=START_NS,
    )
    header = open_tags(path).info.header
    size = path.stat().st_size - open_tags(path).info.data_offset
    assert header["TTResult_NumberOfRecords"] == size // 4 == 2 + 1 + 1
    assert header["MeasDesc_AcquisitionTime"] == header["TTResult_StopAfter"] == 4  # ms
    assert header["HW_InpChannels"] == 8
    assert "2 losses of 0.0015 s" in header["File_Comment"]
    created = header["File_CreatingTime"]
    assert isinstance(created, datetime)
    assert abs(created.replace(tzinfo=UTC) - datetime.fromtimestamp(START_NS / 1e9, UTC)) < (
        timedelta(microseconds=5)
    )


def test_a_start_that_is_unknown_stays_so(write: Write) -> None:
    before = datetime.now(UTC) - timedelta(seconds=1)
    path = write(batch_of([5], [0], 10))
    file = open_tags(path)
    assert concatenate(file).start_unix_ns == 0
    created = file.info.header["File_CreatingTime"].replace(tzinfo=UTC)
    assert before < created < datetime.now(UTC) + timedelta(seconds=1)


def test_memory_does_not_grow_with_the_file(write: Write) -> None:
    concatenate(open_tags(write(batch_of([1], [0], 2))))  # compiled

    def parts() -> Iterator[TagBatch]:
        times = np.arange(0, 50 * 10_000, 50)
        for begin in range(0, 30 * 500_000, 500_000):
            yield batch_of(begin + times, times % 5, begin + 500_000, begin)

    tracemalloc.start()
    path = write(*parts())
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    assert sum(len(batch) for batch in open_tags(path, "ptu", chunk_records=10_000)) == 300_000
    peak = tracemalloc.get_traced_memory()[1] - before
    tracemalloc.stop()
    assert path.stat().st_size > 1_200_000
    assert peak < 10_000 * 40


def test_an_empty_recording(write: Write) -> None:
    read = concatenate(open_tags(write()))
    assert (len(read), read.begin_ps, read.end_ps) == (0, 0, 1)


def test_a_file_that_was_not_finished_is_read_and_said(tmp_path: Path) -> None:
    path = tmp_path / "killed.ptu"
    with path.open("w+b") as file:
        PtuWriter(file).write(batch_of([1, 2], [0, 1], 10))
    read: list[TagBatch] = []
    with pytest.raises(TagFileError, match="not closed properly"):
        read.extend(open_tags(path))
    assert concatenate(read).times_ps.tolist() == [1, 2]


@pytest.mark.parametrize("resolution", [0.0, 0.5, -1.0, 2e9, float("nan"), float("inf")])
def test_impossible_resolutions(resolution: float) -> None:
    with pytest.raises(ValueError, match="time step of 1 to 1e9 ps"):
        PtuWriter(io.BytesIO(), resolution_ps=resolution)


@pytest.mark.parametrize(
    ("times", "channels", "begin", "message"),
    [
        ([10, 20], [0, 64], 0, r"channel 64 at 20 ps: .* -1\.\.63"),
        ([10, 20], [-2, 0], 0, r"channel -2 at 10 ps: .* -1\.\.63"),
        ([-5, 20], [0, 0], -10, "click at -5 ps: .* from 0"),
        ([10, 5 * 10**18], [0, 0], 0, "click at 5000000000000000000 ps"),
        ([10, 30, 20], [0, 0, 0], 0, "in order of time"),
    ],
)
def test_clicks_that_cannot_be_written(
    times: list[int], channels: list[int], begin: int, message: str
) -> None:
    file = io.BytesIO()
    writer = PtuWriter(file)
    size = len(file.getvalue())
    end = max(times) + 100
    with pytest.raises(ValueError, match=message):
        writer.write(batch_of(times, channels, end, begin))
    assert len(file.getvalue()) == size
    writer.write(batch_of([1, 2], [0, 1], 10))
    writer.finish()


def test_batches_must_follow_on_each_other() -> None:
    writer = PtuWriter(io.BytesIO())
    writer.write(batch_of([1, 2], [0, 1], 10))
    with pytest.raises(ValueError, match="overlaps"):
        writer.write(batch_of([9], [0], 10, 9))


@pytest.fixture
def busy(write: Write) -> tuple[Path, TagBatch]:
    """A file with the sync, the first and last input, and silences of every length."""
    rng = np.random.default_rng(5)
    gaps = rng.integers(0, 10**6, 4000)
    gaps[[7, 100, 300, 301]] = OVERFLOW_PS, 127 * OVERFLOW_PS, 128 * OVERFLOW_PS, 10**12
    channels = rng.choice([-1, 0, 1, 5, 62, 63], gaps.size)
    times = np.cumsum(gaps)
    batch = batch_of(times, channels, int(times[-1]) + 10**9)
    return write(*batch.split(10**11), start=START_NS), batch


def test_ptufile_reads_the_same(busy: tuple[Path, TagBatch]) -> None:
    ptufile = pytest.importorskip("ptufile")
    path, batch = busy
    with ptufile.PtuFile(path) as file:
        read = file.decode_records()
        assert file.global_resolution == 1e-12
    read = read[read["channel"] >= 0]
    assert np.array_equal(read["time"], batch.times_ps)
    assert np.array_equal(read["channel"], np.maximum(batch.channels, 0))


#: Run elsewhere: they warn, print, log and write folders where they like.
PHCONVERT = """
import sys, numpy as np
from phconvert.pqreader import load_ptu
times, channels, _, meta, _ = load_ptu(sys.argv[1], ovcfunc="base")
assert meta["timestamps_unit"] == 1e-12
np.savez(sys.argv[2], times=times, channels=np.where(channels == 64, -1, channels.astype(int)))
"""
TTTRLIB = """
import sys, tttrlib, numpy as np
tags = tttrlib.TTTR(sys.argv[1], "PTU")
sync = np.asarray(tags.event_types) == 1
channels = np.where(sync, -1, np.asarray(tags.routing_channels).astype(int))
np.savez(sys.argv[2], times=tags.macro_times, channels=channels)
"""
SNAPI = '''
import sys, numpy as np, pathlib
from snAPI.Main import snAPI
folder = pathlib.Path(sys.argv[2]).parent
ini = folder / "system.ini"
ini.write_text(f"""[Paths]
Data = {folder}
[Log]
File = false
Console = false
[LogLevel]
Api = false
[Params]
BufferSize = 1
""")
reader = snAPI(systemIni=str(ini))
assert reader.getFileDevice(sys.argv[1])
reader.initDevice()
assert reader.unfold.measure(0, 1 << 17, True, False)
times, channels = (np.array(x) for x in reader.unfold.getData())
click = channels != 255  # the rest are overflows
np.savez(sys.argv[2], times=times[click], channels=channels[click].astype(int) - 1)
'''


@pytest.mark.parametrize(
    ("package", "script"), [("phconvert", PHCONVERT), ("tttrlib", TTTRLIB), ("snAPI", SNAPI)]
)
def test_libraries_read_the_same(
    busy: tuple[Path, TagBatch], tmp_path: Path, package: str, script: str
) -> None:
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    path, batch = busy
    out = tmp_path / "read.npz"
    done = subprocess.run(
        [sys.executable, "-c", script, str(path), str(out)],
        capture_output=True,
        cwd=tmp_path,
        env=os.environ | {"NUMBA_DISABLE_JIT": "1"},  # phconvert compiles for 6 s on import
        timeout=120,
        check=False,
    )
    assert out.exists(), done.stderr.decode(errors="replace")
    read = np.load(out)
    assert np.array_equal(read["times"], batch.times_ps)
    assert np.array_equal(read["channels"], batch.channels)
