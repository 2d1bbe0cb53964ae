"""``bellbench tags convert``."""

import json
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bellbench.instruments import BellbenchError, Loss, TagBatch, TagFileError, concatenate
from bellbench.instruments.formats import FORMATS, create_tags, encode_tags, open_tags
from bellbench.tags_cli import app
from typer.testing import CliRunner, Result

RECORDINGS = Path(os.environ.get("BELLBENCH_RECORDINGS", "/nonexistent"))


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["convert", *map(str, arguments)])


def run(*arguments: object) -> dict[str, Any]:
    result = invoke(*arguments, "--json")
    if isinstance(result.exception, BellbenchError):
        raise result.exception
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert isinstance(found, dict)
    return found


def usage_error(*arguments: object) -> str:
    result = invoke(*arguments)
    assert result.exit_code == 2, result.output
    return " ".join(result.output.replace("│", " ").split())


@pytest.fixture
def batch() -> TagBatch:
    times = np.cumsum(np.random.default_rng(7).integers(10**6, 10**8, 2000)) // 81_000 * 81_000
    channels = np.random.default_rng(8).integers(1, 5, 2000).astype(np.int16)
    losses = (Loss("overflow", 10**9, 2 * 10**9, 5), Loss("gap", 3 * 10**9, 10**10))
    return TagBatch(times, channels, 0, int(times[-1]) + 1, 17 * 10**17, "Rb", losses)


@pytest.fixture
def file(tmp_path: Path, batch: TagBatch) -> Path:
    path = tmp_path / "in.bbt"
    with create_tags(path, start_unix_ns=17 * 10**17, clock_id="Rb") as writer:
        for part in batch.split(5 * 10**10):
            writer.write(part)
    return path


def same(path: Path, batch: TagBatch, name: str, step_ps: float) -> None:
    again = concatenate(open_tags(path, name)).checked()
    # With a start, qcrypto counts from an epoch's beginning.
    shift = (batch.start_unix_ns - again.start_unix_ns) * 1000 if again.start_unix_ns else 0
    assert np.abs(again.times_ps - shift - batch.times_ps).max() <= step_ps / 2
    if not name.startswith("id900"):
        assert again.channels.tolist() == batch.channels.tolist()


@pytest.mark.parametrize("name", FORMATS)
def test_there_and_back_in_every_format(
    tmp_path: Path, file: Path, batch: TagBatch, name: str
) -> None:
    wanted = batch.select([1]) if name.startswith("id900") else batch
    chosen = ("--channels", "1") if name.startswith("id900") else ()
    there = tmp_path / "there"
    found = run(file, there, "--to", name, *chosen)
    assert found["clicks"] == len(wanted)
    assert found["to"] == name
    same(there, wanted, name, found["resolution_ps"])
    back = run(there, tmp_path / f"back.{name}", "--to", "bbt", "--format", name)
    assert back["clicks"] == len(wanted)
    same(tmp_path / f"back.{name}", wanted, "bbt", found["resolution_ps"])
    notes = " ".join(found["notes"])
    assert ("rounded" in notes) == (found["resolution_ps"] > 1)
    kept = {"bbt": 0, "photon_hdf5": 0, "swabian": 1}.get(name, 2)
    assert found["losses_dropped"] == kept
    assert ("not marked" in notes) == bool(kept)


def test_losses_that_are_kept(tmp_path: Path, file: Path, batch: TagBatch) -> None:
    for name in ("bbt", "photon_hdf5"):
        run(file, tmp_path / name, "--to", name)
        again = concatenate(open_tags(tmp_path / name))
        assert again.losses == batch.losses
        assert (again.start_unix_ns, again.clock_id) == (17 * 10**17, "Rb")
    found = run(file, tmp_path / "x.swabian")
    assert concatenate(open_tags(tmp_path / "x.swabian")).losses == batch.losses[:1]
    assert found["lost_s"] == pytest.approx(7e-3)
    text = invoke(file, tmp_path / "y.swabian").stdout
    assert "1 losses, 7 ms in all, are not marked: swabian has no place for them" in text
    assert "start is not kept" in text


def test_channels_are_chosen_and_renumbered(tmp_path: Path, file: Path, batch: TagBatch) -> None:
    run(file, tmp_path / "x.qutag", "--channels", "2=-1,3", "--to", "bbt")
    again = concatenate(open_tags(tmp_path / "x.qutag"))
    kept = batch.select([2, 3])
    assert again.times_ps.tolist() == kept.times_ps.tolist()
    assert again.channels.tolist() == [-1 if c == 2 else 3 for c in kept.channels.tolist()]
    with pytest.raises(TagFileError, match=r"channels 0\.\.7, not 3\.\.9.*choose channels$"):
        run(file, tmp_path / "x.qutau", "--channels", "2=9,3")
    with pytest.raises(TagFileError, match=r"one channel.*--channels chooses and renumbers"):
        run(file, tmp_path / "x.id900")
    assert not list(tmp_path.glob("x.qutau*"))
    assert not list(tmp_path.glob("x.id900*"))
    assert "write channels as in 0,1 or 0=1,1=2" in usage_error(
        file, tmp_path / "x.bbt", "--channels", "a"
    )
    assert "stands twice" in usage_error(file, tmp_path / "x.bbt", "--channels", "1,1=2")
    assert "16-bit" in usage_error(file, tmp_path / "x.bbt", "--channels", "1=70000")


def test_nothing_is_overwritten_unasked(tmp_path: Path, file: Path) -> None:
    out = tmp_path / "x.swabian"
    out.write_bytes(b"precious")
    with pytest.raises(BellbenchError, match=r"x\.swabian exists; --force replaces it"):
        run(file, out)
    assert out.read_bytes() == b"precious"
    with pytest.raises(BellbenchError, match="is the recording itself"):
        run(file, file, "--force")
    assert run(file, out, "--force")["clicks"] == 2000
    with pytest.raises(TagFileError, match="cannot be written"):
        run(file, tmp_path / "none" / "x.swabian")
    with pytest.raises(TagFileError, match="does not say a format by its suffix"):
        run(file, tmp_path / "x.dat")
    with pytest.raises(TagFileError, match="time step of 1 ps, not 4"):
        run(file, tmp_path / "y.swabian", "--resolution", "4ps")
    with pytest.raises(TagFileError, match="No such file"):
        run(tmp_path / "none", tmp_path / "y.swabian")
    assert "no unit" in usage_error(file, tmp_path / "y.swabian", "--resolution", "4")
    assert "take no period_ps" in usage_error(file, tmp_path / "y.bbt", "--period", "1us")


def test_all_before_the_damage_is_written(tmp_path: Path, batch: TagBatch) -> None:
    path = tmp_path / "in.a1"
    path.write_bytes(encode_tags(TagBatch(batch.times_ps, batch.channels, 0, batch.end_ps), "a1"))
    path.write_bytes(path.read_bytes()[:8005])
    match = r"at byte 8000: the last record is cut off.*the 1,000 clicks before it are in"
    with pytest.raises(TagFileError, match=match):
        run(path, tmp_path / "x.swabian")
    again = concatenate(open_tags(tmp_path / "x.swabian"))
    assert np.abs(again.times_ps - batch.times_ps[:1000]).max() <= 2


def test_clicks_out_of_order_are_said(tmp_path: Path) -> None:
    path = tmp_path / "in.bin"
    path.write_bytes(struct.pack("<4Q", 10, 40, 20, 30))
    found = run(path, tmp_path / "x.bbt", "--format", "id900", "--channel", "3")
    assert found["reordered"] == 2
    assert "2 clicks stand too late in the file and were sorted (up to 65,536" in found["notes"][0]
    assert concatenate(open_tags(tmp_path / "x.bbt")).channels.tolist() == [3, 3, 3, 3]
    said = CliRunner().invoke(app, ["rates", str(path), "--format", "id900"])
    assert "2 clicks stand too late" in said.output


@pytest.mark.skipif(not RECORDINGS.is_dir(), reason="BELLBENCH_RECORDINGS names no folder")
def test_recordings(tmp_path: Path) -> None:
    found = run(RECORDINGS / "timestamp_c1234.a1.ts", tmp_path / "x.a2")
    assert found["clicks"] == 2012  # 2000 events
    found = run(RECORDINGS / "s15_raw_events.raw", tmp_path / "x.tdc1")
    assert found["clicks"] == 185
    ours, theirs = (
        concatenate(open_tags(p)) for p in (tmp_path / "x.tdc1", RECORDINGS / "s15_raw_events.raw")
    )
    assert ours.times_ps.tolist() == theirs.times_ps.tolist()
    hydraharp = RECORDINGS / "hydraharp_t2_hbt.ptu"
    assert run(hydraharp, tmp_path / "x.qutau")["clicks"] == 159_298 + 224_721
    with pytest.raises(TagFileError, match=r"channels 1\.\.4.*as in 0=1,1=2"):
        run(hydraharp, tmp_path / "x.a1")
    assert run(hydraharp, tmp_path / "x.a1", "--channels", "0=1,1=2")["clicks"] == 384_019


def test_files_of_a_tagger_become_one(tmp_path: Path, batch: TagBatch) -> None:
    whole = TagBatch(batch.times_ps, batch.channels, 0, batch.end_ps).select([1, 3])
    paths = [tmp_path / "first.bin", tmp_path / "second.bin"]
    for path, channel in zip(paths, (1, 3), strict=True):
        path.write_bytes(encode_tags(whole.select([channel]), "id900"))
    out = tmp_path / "x.bbt"
    found = run(*paths, out, "--channel", "1", "--channel", "3", "--format", "id900")
    assert found["clicks"] == len(whole)
    assert found["file"] == ", ".join(map(str, paths))
    again = concatenate(open_tags(out)).checked()
    assert again.times_ps.tolist() == whole.times_ps.tolist()
    assert again.channels.tolist() == whole.channels.tolist()
    with pytest.raises(BellbenchError, match="is the recording itself"):
        run(*paths, paths[1], "--channel", "1", "--channel", "3", "--force")
    assert "say that of each, as in --channel 1 --channel 2" in usage_error(
        *paths, tmp_path / "y.bbt", "--format", "id900"
    )
    assert "names one twice" in usage_error(
        *paths, tmp_path / "y.bbt", "--format", "id900", "--channel", "1", "--channel", "1"
    )
    assert "2 files need a channel each, not 1" in usage_error(
        *paths, tmp_path / "y.bbt", "--format", "id900", "--channel", "1"
    )


def test_epoch_files_become_one(tmp_path: Path, batch: TagBatch) -> None:
    folder = tmp_path / "epochs"
    times = 20 * batch.times_ps
    with create_tags(folder, "qcrypto_t1") as writer:
        writer.write(TagBatch(times, batch.channels, 0, int(times[-1]) + 1))
    epochs = sorted(folder.iterdir(), reverse=True)
    assert len(epochs) > 2
    assert run(*epochs, tmp_path / "x.bbt")["clicks"] == len(batch)
    again, whole = (concatenate(open_tags(path)) for path in (tmp_path / "x.bbt", folder))
    assert again.times_ps.tolist() == whole.times_ps.tolist()


def test_info_of_a_damaged_file_says_what_is_before(tmp_path: Path, batch: TagBatch) -> None:
    path = tmp_path / "in.a1"
    path.write_bytes(encode_tags(TagBatch(batch.times_ps, batch.channels, 0, batch.end_ps), "a1"))
    path.write_bytes(path.read_bytes()[:8005])
    for arguments in ((), ("--json",)):
        result = CliRunner().invoke(app, ["info", str(path), *arguments])
        assert isinstance(result.exception, TagFileError)
        assert "at byte 8000: the last record is cut off" in str(result.exception)
    found = json.loads(result.stdout)
    assert sum(found["clicks"].values()) == 1000
    assert found["damage"] == str(result.exception)
    text = CliRunner().invoke(app, ["info", str(path)]).stdout
    assert f"{found['clicks']['1']} clicks" in text


def test_a_begin_that_is_not_kept_is_said(tmp_path: Path) -> None:
    path = tmp_path / "late.bbt"
    with create_tags(path) as writer:
        writer.write(TagBatch(np.array([5 * 10**14]), np.ones(1, np.int16), 5 * 10**14, 10**15))
    (note,) = run(path, tmp_path / "late.id900")["notes"]
    assert "the begin is not kept" in note
    assert "500 s before the recording" in note
    assert run(path, tmp_path / "late.a1")["notes"][1:] == []


def test_two_taggers_are_not_joined(tmp_path: Path) -> None:
    for name in ("a", "b"):
        with create_tags(tmp_path / f"{name}.bbt", clock_id=f"clock {name}") as writer:
            writer.write(TagBatch(np.array([5]), np.ones(1, np.int16), 0, 10**6))
    with pytest.raises(BellbenchError, match=r"two taggers' \(clocks clock a and clock b\)"):
        run(tmp_path / "a.bbt", tmp_path / "b.bbt", tmp_path / "joined.bbt")
