"""Photon-HDF5; needs h5py, and phconvert as judge."""

import contextlib
import importlib.util
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bellbench.instruments import Loss, TagBatch, TagFileError, concatenate
from bellbench.instruments.formats import create_tags, open_tags
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

h5py: Any = pytest.importorskip("h5py")


def some(seed: int, count: int) -> TagBatch:
    rng = np.random.default_rng(seed)
    times = np.cumsum(rng.integers(0, 10**7, count)) + 5000
    channels = rng.integers(-3, 9, count).astype(np.int16)
    losses = (Loss("overflow", 6000, 7000, 3), Loss("gap", 8000, 9_000_000))
    return TagBatch(times, channels, 4000, int(times[-1]) + 999, 17 * 10**17, "Rb", losses)


def write(path: Path, batch: TagBatch, cuts: int = 1, step: float | None = None) -> Path:
    about = {"start_unix_ns": batch.start_unix_ns, "clock_id": batch.clock_id}
    with create_tags(path, resolution_ps=step, **about) as writer:  # type: ignore[arg-type]
        for k in range(cuts):
            part, batch = batch.split(
                batch.begin_ps + (batch.end_ps - batch.begin_ps) // (cuts - k)
            )
            writer.write(part)
    return path


@given(
    seed=st.integers(0, 99),
    count=st.integers(1, 80),
    cuts=st.integers(1, 5),
    chunk=st.integers(1, 90),
)
@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_round_trip(tmp_path: Path, seed: int, count: int, cuts: int, chunk: int) -> None:
    batch = some(seed, count)
    file = open_tags(write(tmp_path / "x.h5", batch, cuts), chunk_records=chunk)
    assert (file.info.format, file.info.records) == ("photon_hdf5", count)
    again = concatenate(file).checked()
    assert again.times_ps.tolist() == batch.times_ps.tolist()
    assert again.channels.tolist() == batch.channels.tolist()
    ends = again.begin_ps, again.end_ps, again.start_unix_ns, again.clock_id
    assert ends == (batch.begin_ps, batch.end_ps, batch.start_unix_ns, "Rb")
    assert again.losses == tuple(x for x in batch.losses if x.begin_ps < batch.end_ps)


def test_phconvert_finds_it_valid_and_reads_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = importlib.util.find_spec("phconvert")
    if found is None:
        pytest.skip("phconvert is not installed")
    # The package as a whole compiles its readers of other formats at import, for seconds.
    package = importlib.util.module_from_spec(found)
    monkeypatch.setitem(sys.modules, "phconvert", package)
    judge = importlib.import_module("phconvert.hdf5")
    tables = pytest.importorskip("tables")
    batch = some(1, 500)
    path = write(tmp_path / "x.h5", batch, 3, step=4.0)
    with tables.open_file(str(path)) as file:
        judge.assert_valid_photon_hdf5(
            file, warnings=False, require_rootformat=True, skip_measurement_specs=True
        )
        data = file.root.photon_data
        unit = data.timestamps_specs.timestamps_unit.read()
        assert data.detectors.read().tolist() == batch.channels.tolist()
        off = data.timestamps.read() * unit * 1e12 - batch.times_ps
        assert np.abs(off).max() < 2.001
        assert file.root.acquisition_duration.read() == pytest.approx(batch.duration_s)
        counted = dict(
            zip(file.root.setup.detectors.id, file.root.setup.detectors.counts, strict=True)
        )
    assert counted == {c: int((batch.channels == c).sum()) for c in set(batch.channels.tolist())}


def minimal(path: Path, times: Any, unit: float = 12.5e-9, **more: Any) -> Path:
    with h5py.File(path, "w") as file:
        file["photon_data/timestamps"] = times
        file["photon_data/timestamps_specs/timestamps_unit"] = unit
        for name, value in more.items():
            file[f"photon_data/{name}"] = value
    return path


def test_files_of_others(tmp_path: Path) -> None:
    times = np.array([4, 8, 20], np.uint32)
    batch = concatenate(open_tags(minimal(tmp_path / "a.h5", times)))
    assert batch.times_ps.tolist() == [50_000, 100_000, 250_000]
    assert batch.channels.tolist() == [0, 0, 0]
    path = minimal(
        tmp_path / "b.h5",
        times,
        detectors=np.array([1, 0, 200], np.uint8),
        nanotimes=np.array([7000, 1, 0], np.uint16),
    )
    with h5py.File(path, "a") as file:
        file["photon_data/nanotimes_specs/tcspc_unit"] = 16e-12
    batch = concatenate(open_tags(path))
    assert batch.times_ps.tolist() == [100_016, 162_000, 250_000]
    assert batch.channels.tolist() == [0, 1, 200]


def test_what_cannot_be(tmp_path: Path) -> None:
    times = np.arange(1, 5)
    for unit in (np.nan, 0.0, -1.0, 1e9):
        with pytest.raises(TagFileError, match="says a time step of"):
            open_tags(minimal(tmp_path / "x.h5", times, unit))
    with pytest.raises(TagFileError, match="differ in length"):
        open_tags(minimal(tmp_path / "x.h5", times, detectors=times[1:]))
    with pytest.raises(TagFileError, match="not a row of integers"):
        open_tags(minimal(tmp_path / "x.h5", times * 0.5))
    with h5py.File(tmp_path / "y.h5", "w") as file:
        file["other"] = 1
    with pytest.raises(TagFileError, match="HDF5, but not Photon-HDF5"):
        open_tags(tmp_path / "y.h5")
    with h5py.File(tmp_path / "y.h5", "w") as file:
        file.create_group("photon_data0")
        file.create_group("photon_data1")
    with pytest.raises(TagFileError, match="holds 2 spots"):
        open_tags(tmp_path / "y.h5")
    with h5py.File(tmp_path / "y.h5", "w") as file:
        file["photon_data"] = h5py.ExternalLink(str(tmp_path / "x2.h5"), "/photon_data")
    minimal(tmp_path / "x2.h5", times)
    with pytest.raises(TagFileError, match="lies in another file"):
        open_tags(tmp_path / "y.h5")


@pytest.mark.parametrize("chunks", [None, (1000,), (1 << 40,)])
def test_headers_that_promise_2_to_the_60_photons(tmp_path: Path, chunks: Any) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset(
            "photon_data/timestamps",
            (1 << 60,),
            "u1",
            chunks=chunks and (min(chunks[0], (1 << 32) - 1),),
        )
        file["photon_data/timestamps_specs/timestamps_unit"] = 1e-9
    tracemalloc.start()
    with pytest.raises(
        TagFileError, match=r"promises 1152921504606846976 numbers|too many to read"
    ):
        open_tags(tmp_path / "x.h5")
    assert tracemalloc.get_traced_memory()[1] < 5e6
    tracemalloc.stop()


@pytest.mark.parametrize("chunks", [None, (2,)])
def test_damage_names_the_byte(tmp_path: Path, chunks: Any) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        times = np.array([1, 2, 3, 1 << 63, 5], np.uint64)
        file.create_dataset("photon_data/timestamps", data=times, chunks=chunks)
        file["photon_data/timestamps_specs/timestamps_unit"] = 1e-12
    kept: list[TagBatch] = []
    with pytest.raises(TagFileError, match="record 3: time 9223372036854775808") as caught:
        kept.extend(open_tags(tmp_path / "x.h5"))
    assert concatenate(kept).times_ps.tolist() == [1, 2, 3]
    place = (tmp_path / "x.h5").read_bytes().index(times[2 if chunks else 3 :].tobytes()[:8])
    assert caught.value.offset == place


def test_without_h5py_the_way_out_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = minimal(tmp_path / "x.h5", np.arange(3))
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(TagFileError, match=r"pip install 'bellbench\[hdf5\]'"):
        open_tags(path)
    with pytest.raises(TagFileError, match=r"pip install 'bellbench\[hdf5\]'"):
        create_tags(tmp_path / "y.h5")
    assert not (tmp_path / "y.h5.part").exists()


@given(data=st.data())
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_give_tags_or_a_tag_file_error(tmp_path: Path, data: st.DataObject) -> None:
    whole = tmp_path / "whole.h5"
    if not whole.exists():
        write(whole, some(3, 50))
    content = bytearray(whole.read_bytes())
    for _ in range(data.draw(st.integers(0, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "x.h5"
    path.write_bytes(content[: data.draw(st.sampled_from([100, 2000, len(content)]))])
    with contextlib.suppress(TagFileError):
        concatenate(open_tags(path, "photon_hdf5", chunk_records=16)).checked()
