import contextlib
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from bellbench.instruments import TagBatch, TagFileError, concatenate
from bellbench.instruments.formats import open_tags
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

HYDRAHARP2, GENERIC, PICOHARP = 0x01010204, 0x00010207, 0x00010203
Values = dict[str, int | float | str]


def tag(name: str, value: int | float | str) -> bytes:
    head = struct.pack("<32si", name.encode(), -1)
    if isinstance(value, str):
        data = value.encode().ljust((len(value) // 8 + 1) * 8, b"\0")
        return head + struct.pack("<Iq", 0x4001FFFF, len(data)) + data
    if isinstance(value, float):
        return head + struct.pack("<Id", 0x20000008, value)
    return head + struct.pack("<Iq", 0x10000008, value)


def ptu(records: npt.ArrayLike, **changes: int | float | str) -> bytes:
    """A T2 file as PicoQuant's format demo describes it."""
    body = np.asarray(records, "<u4")
    values: Values = {
        "File_Comment": "made for a test",
        "Measurement_Mode": 2,
        "Measurement_SubMode": 0,
        "TTResultFormat_TTTRRecType": HYDRAHARP2,
        "TTResultFormat_BitsPerRecord": 32,
        "MeasDesc_GlobalResolution": 1e-12,
        "TTResult_NumberOfRecords": body.size,
    }
    values |= changes
    header = b"PQTTTR\0\0" + b"1.0.00\0\0" + b"".join(tag(k, v) for k, v in values.items())
    header += struct.pack("<32siIq", b"Header_End", -1, 0xFFFF0008, 0)
    return header + body.tobytes()


Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(data: bytes, name: str = "x.ptu") -> Path:
        path = tmp_path / name
        path.write_bytes(data)
        return path

    return write


def read(path: Path, chunk: int = 1 << 18) -> TagBatch:
    return concatenate(open_tags(path, chunk_records=chunk)).checked()


def clicks(batch: TagBatch) -> list[tuple[int, int]]:
    return list(zip(batch.times_ps.tolist(), batch.channels.tolist(), strict=True))


#: devices.md section 9: input 1 at 1000, sync at 2000, three overflows, marker 1 at 5.
GOLDEN = [0x000003E8, 0x800007D0, 0xFE000003, 0x82000005]


@pytest.mark.parametrize("kind", [HYDRAHARP2, GENERIC, 0x00010205, 0x00010206])
def test_golden_records(write: Write, kind: int) -> None:
    path = write(ptu([*GOLDEN, 0x02000007], TTResultFormat_TTTRRecType=kind))
    batch = read(path)
    assert clicks(batch) == [(1000, 0), (2000, -1), (3 * 33554432 + 7, 1)]
    assert (batch.begin_ps, batch.end_ps) == (0, 3 * 33554432 + 8)


def test_hydraharp_1_overflow_is_one_of_its_own_length(write: Write) -> None:
    batch = read(write(ptu([0xFE000003, 1], TTResultFormat_TTTRRecType=0x00010204)))
    assert clicks(batch) == [(33552001, 0)]


def test_picoharp_records(write: Write) -> None:
    records = [0x000003E8, 0x100007D0, 0xF0000000, 0xF0000002, 0x20000005]
    batch = read(write(ptu(records, TTResultFormat_TTTRRecType=PICOHARP)))
    assert clicks(batch) == [(1000, 0), (2000, 1), (210698240 + 5, 2)]


def test_a_file_that_ends_in_silence_lasts_to_its_last_overflow(write: Write) -> None:
    batch = read(write(ptu([10, 0xFE000002])))
    assert clicks(batch) == [(10, 0)]
    assert batch.end_ps == 2 * 33554432 + 1


@pytest.mark.parametrize(
    ("tick", "expected"),
    [(4e-12, [4, 12, 40]), (2.5e-10, [250, 750, 2500]), (3.90625e-12, [4, 12, 39])],
)
def test_ticks_become_whole_picoseconds(write: Write, tick: float, expected: list[int]) -> None:
    batch = read(write(ptu([1, 3, 10], MeasDesc_GlobalResolution=tick)))
    assert batch.times_ps.tolist() == expected


@given(
    steps=st.lists(st.tuples(st.integers(0, 10**8), st.integers(0, 3)), max_size=40),
    chunk=st.integers(1, 50),
)
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_clicks_in_any_chunks(write: Write, steps: list[tuple[int, int]], chunk: int) -> None:
    times = np.cumsum([s for s, _ in steps], dtype=np.int64) if steps else np.zeros(0, np.int64)
    records, turns = [], 0
    for time, (_, channel) in zip(times.tolist(), steps, strict=True):
        if time >> 25 > turns:
            records.append(0xFE000000 | (time >> 25) - turns)
            turns = time >> 25
        records.append(channel << 25 | time & 0x1FFFFFF)
    if not records:
        records = [0xFE000001]
    batch = read(write(ptu(records)), chunk)
    assert batch.times_ps.tolist() == times.tolist()
    assert batch.channels.tolist() == [c for _, c in steps]


def rejected(path: Path) -> TagFileError:
    with pytest.raises(TagFileError) as caught:
        read(path)
    assert str(path) in str(caught.value)
    return caught.value


def test_truncated_records(write: Write) -> None:
    data = ptu(np.arange(1000))
    for cut in (1, 4, 400, 3999):
        error = rejected(write(data[:-cut]))
        assert error.offset == len(data) - cut
        assert "truncated" in str(error)


@pytest.mark.parametrize("cut", [8, 16, 40, 100, 300])
def test_truncated_header(write: Write, cut: int) -> None:
    error = rejected(write(ptu(np.arange(10))[:cut]))
    assert "truncated" in str(error)
    assert error.offset == cut


@pytest.mark.parametrize("claimed", [0, -1, 9, 11, 2**31, 2**60, -(2**63)])
def test_header_lies_about_its_records(write: Write, claimed: int) -> None:
    path = write(ptu(np.arange(10), TTResult_NumberOfRecords=claimed))
    tracemalloc.start()
    error = rejected(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert f"announces {claimed} records, but 10" in str(error)
    assert error.offset is not None
    assert peak < 5e6


@pytest.mark.parametrize("length", [2**60, 2**31, -8])
def test_header_entry_lies_about_its_length(write: Write, length: int) -> None:
    data = ptu(np.arange(10))
    at = data.index(struct.pack("<I", 0x4001FFFF)) + 4
    error = rejected(write(data[:at] + struct.pack("<q", length) + data[at + 8 :]))
    assert error.offset == at
    assert f"claims {length} bytes" in str(error)


def test_t3_is_refused_with_the_way_out(write: Write) -> None:
    path = write(ptu([1], Measurement_Mode=3, TTResultFormat_TTTRRecType=0x01010304))
    assert "record in T2 mode" in str(rejected(path))


@pytest.mark.parametrize(
    "changes",
    [
        {"TTResultFormat_TTTRRecType": 0x12345},
        {"TTResultFormat_TTTRRecType": "text"},
        {"TTResultFormat_BitsPerRecord": 64},
        {"MeasDesc_GlobalResolution": 0.0},
        {"MeasDesc_GlobalResolution": float("nan")},
        {"MeasDesc_GlobalResolution": float("inf")},
        {"MeasDesc_GlobalResolution": 7},
        {"TTResult_NumberOfRecords": 1.0},
    ],
)
def test_impossible_headers(write: Write, changes: Values) -> None:
    rejected(write(ptu([1], **changes)))


def test_time_that_goes_back_names_its_byte(write: Write) -> None:
    data = ptu([100, 200, 150])
    for chunk in (1, 2, 3):
        with pytest.raises(TagFileError, match="record 2: its time lies before") as caught:
            read(write(data), chunk)
        assert caught.value.offset == len(data) - 4


def test_time_beyond_int64(write: Write) -> None:
    with pytest.raises(TagFileError, match="years ahead"):
        read(write(ptu([0xFFFFFFFF] * 9000, MeasDesc_GlobalResolution=1e-3)))


def test_unknown_special_record(write: Write) -> None:
    with pytest.raises(TagFileError, match="record 1: a special record"):
        read(write(ptu([1, 0xF0000000])))


@given(data=st.data())
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_flipped_bytes_raise_tag_file_error_or_nothing(write: Write, data: st.DataObject) -> None:
    damaged = bytearray(ptu(np.arange(0, 4000, 20)))
    for _ in range(data.draw(st.integers(1, 6))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    path = write(bytes(damaged))
    tracemalloc.start()
    with contextlib.suppress(TagFileError):
        read(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5e6
