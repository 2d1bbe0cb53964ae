"""Real recordings by others; they stay outside the repository."""

import os
from pathlib import Path

import numpy as np
import pytest
from bellbench.instruments import TagBatch, TagFileError, concatenate
from bellbench.instruments.formats import open_tags

FOLDER = Path(os.environ.get("BELLBENCH_RECORDINGS", "/nonexistent"))
pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="BELLBENCH_RECORDINGS names no folder")


def counts(batch: TagBatch) -> dict[int, int]:
    channels, number = np.unique(batch.channels, return_counts=True)
    return dict(zip(channels.tolist(), number.tolist(), strict=True))


@pytest.mark.parametrize("chunk", [1 << 18, 10_007])
def test_hydraharp(chunk: int) -> None:
    file = open_tags(FOLDER / "hydraharp_t2_hbt.ptu", chunk_records=chunk)
    assert file.info.format == "ptu"
    assert file.info.records == 409_482
    assert file.info.header["HW_Type"] == "HydraHarp 400"
    batch = concatenate(file).checked()
    assert counts(batch) == {0: 159_298, 1: 224_721}
    assert batch.duration_s == pytest.approx(1.0, abs=2e-5)
    a, b = (batch.times_ps[batch.channels == c] for c in (0, 1))
    near = np.searchsorted(b, a + 500, "right") - np.searchsorted(b, a - 500, "left")
    assert near.sum() == 1


def test_a1() -> None:
    file = open_tags(FOLDER / "timestamp_c1234.a1.ts")
    assert (file.info.format, file.info.records) == ("a1", 2000)
    batch = concatenate(file).checked()
    assert set(counts(batch)) == {1, 2, 3, 4}
    assert np.unique(batch.times_ps).size == 2000


def test_older_raw_events() -> None:
    file = open_tags(FOLDER / "s15_raw_events.raw")
    assert (file.info.format, file.info.records) == ("s15raw", 185)
    batch = concatenate(file)
    assert len(batch) == 185
    assert np.all(np.diff(batch.times_ps) > 0)
    assert np.all(batch.times_ps % 2000 == 0)  # on the TDC1's grid


def test_a_truncated_copy_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    copy = tmp_path / "copy.ptu"
    copy.write_bytes((FOLDER / "hydraharp_t2_hbt.ptu").read_bytes()[:1_000_001])
    read: list[TagBatch] = []
    with pytest.raises(TagFileError, match=r"announces 409482 records.*truncated") as caught:
        read.extend(open_tags(copy))
    assert caught.value.offset == 1_000_001
    whole = concatenate(open_tags(FOLDER / "hydraharp_t2_hbt.ptu"))
    kept = concatenate(read)
    assert len(kept) > 200_000
    assert np.array_equal(kept.times_ps, whole.times_ps[: len(kept)])
