"""The registry of calibrations, and the command that fills it."""

from __future__ import annotations

import dataclasses
import datetime
import json
from pathlib import Path
from typing import Any

import pytest
from bellbench import calibrations
from bellbench.bench import BenchConfig, load_bench
from bellbench.calibrations import Calibration, Value
from bellbench.cli import app
from bellbench.experiments import load_experiment, run_experiment
from bellbench.instruments import BellbenchError, ConfigError
from typer.testing import CliRunner

NOON = datetime.datetime(2026, 5, 1, 12, tzinfo=datetime.UTC)
OVEN = {"source": {"crystal_temperature": Value(value=41.5, sigma=0.01, unit="degC")}}


def entry(**changes: Any) -> Calibration:
    values: dict[str, Any] = {
        "kind": "phase_matching",
        "bench": "metro",
        "made_on": "twins",
        "seed": 1,
        "who": "ada@lab",
        "when": NOON,
        "valid_for": 3600.0,
        "values": OVEN,
    }
    return Calibration(**(values | changes))


def draw(path: Path) -> None:
    path.write_bytes(b"a picture")


@pytest.fixture(scope="module")
def metro() -> BenchConfig:
    return load_bench("metro")


def load(folder: Path, metro: BenchConfig, **options: Any) -> list[Calibration]:
    return calibrations.load(
        folder, options.pop("kind", "phase_matching"), metro, **{"now": NOON} | options
    )


def test_an_entry_reads_back_as_it_was_written_with_its_picture(
    tmp_path: Path, metro: BenchConfig
) -> None:
    path = calibrations.store(tmp_path / "new", entry(), draw)
    assert load(tmp_path / "new", metro) == [entry()]
    assert {p.name for p in path.parent.iterdir()} == {path.name, path.with_suffix(".png").name}


def test_the_newest_counts_and_each_party_has_its_own(tmp_path: Path, metro: BenchConfig) -> None:
    later = NOON + datetime.timedelta(minutes=1)
    for party, when in (("alice", NOON), ("bob", NOON), ("alice", later)):
        calibrations.store(tmp_path, entry(kind="bias", party=party, when=when), draw)
    found = load(tmp_path, metro, kind="bias")
    assert {(one.party, one.when) for one in found} == {("alice", later), ("bob", NOON)}


def test_an_expired_one_is_refused_with_when_and_how_to_renew(
    tmp_path: Path, metro: BenchConfig
) -> None:
    path = calibrations.store(tmp_path, entry(), draw)
    just, over = NOON + datetime.timedelta(hours=1), NOON + datetime.timedelta(hours=1, seconds=1)
    assert load(tmp_path, metro, now=just)
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, metro, now=over)
    assert str(caught.value).startswith(f"{path}: made 2026-05-01 12:00 UTC, expired 2026-05-01 13")
    assert "bellbench calibrate phase_matching" in str(caught.value)
    assert load(tmp_path, metro, now=over, allow_expired=True) == [entry()]


def test_none_at_all_says_how_to_make_one(tmp_path: Path, metro: BenchConfig) -> None:
    with pytest.raises(
        ConfigError, match=r"no calibration 'bias' of bench 'metro'.*calibrate bias"
    ):
        load(tmp_path / "nowhere", metro, kind="bias")
    with pytest.raises(ConfigError, match="there are delays, bias"):
        load(tmp_path, metro, kind="colour")


def test_twins_and_instruments_do_not_share_calibrations(
    tmp_path: Path, metro: BenchConfig
) -> None:
    calibrations.store(tmp_path, entry(), draw)
    table = load_bench("metro", twin=False)
    with pytest.raises(ConfigError, match="made on twins and this bench is of hardware"):
        load(tmp_path, table)
    calibrations.store(
        tmp_path, entry(made_on="hardware", when=NOON + datetime.timedelta(seconds=1)), draw
    )
    assert load(tmp_path, table)
    with pytest.raises(ConfigError, match="made on hardware and this bench is of twins"):
        load(tmp_path, metro)


def test_a_damaged_file_is_an_error_with_its_place(tmp_path: Path, metro: BenchConfig) -> None:
    path = calibrations.store(tmp_path, entry(), draw)
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("3600.0 s", "soon"), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"\.yaml:\d+:\d+: valid_for: "):
        load(tmp_path, metro)
    path.write_text(text[: len(text) // 2], encoding="utf-8")
    with pytest.raises(ConfigError, match=path.name):
        load(tmp_path, metro)


def test_nothing_is_left_of_an_entry_whose_picture_fails(tmp_path: Path) -> None:
    def fail(path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(BellbenchError, match="cannot write the calibrations"):
        calibrations.store(tmp_path, entry(), fail)
    assert list(tmp_path.iterdir()) == []


def test_a_run_applies_what_its_file_names_and_keeps_it(tmp_path: Path, warm: Path) -> None:
    """The stored oven set point is 4 K off on purpose, so the run must show it."""
    now = datetime.datetime.now(datetime.UTC)
    off = {"source": {"crystal_temperature": Value(value=44.0, sigma=0.01, unit="degC")}}
    calibrations.store(tmp_path / "cal", entry(when=now, values=off), draw)
    config = load_experiment(warm / "bbm92_metro.yaml", duration=0.5)
    file = config.file.model_copy(update={"calibrations": ("phase_matching",)})
    config = dataclasses.replace(config, file=file)
    outcome = run_experiment(config, seed=3, out=tmp_path / "runs", registry=tmp_path / "cal")
    assert outcome.metrics["aborted"]
    kept = json.loads((outcome.folder / "calibrations.json").read_text())
    assert kept[0]["values"]["source"]["crystal_temperature"]["value"] == 44.0
    snapshot = json.loads((outcome.folder / "snapshot.json").read_text())
    assert snapshot["oven"]["signals"]["temperature"]["value"] == 44.0


def test_a_run_with_an_expired_calibration_opens_nothing(tmp_path: Path) -> None:
    calibrations.store(tmp_path / "cal", entry(), draw)
    config = load_experiment("bbm92_metro", duration=0.5)
    file = config.file.model_copy(update={"calibrations": ("phase_matching",)})
    config = dataclasses.replace(config, file=file)
    with pytest.raises(ConfigError, match="expired 2026-05-01 13:00 UTC"):
        run_experiment(config, seed=3, out=tmp_path / "runs", registry=tmp_path / "cal")
    assert not (tmp_path / "runs").exists()


def test_an_experiment_file_names_calibrations_by_kind(tmp_path: Path) -> None:
    bundled = load_experiment("bbm92_metro")
    text = bundled.path.read_text(encoding="utf-8")
    path = tmp_path / "mine.yaml"
    path.write_text(text + "calibrations: [polarization, bias]\n", encoding="utf-8")
    assert load_experiment(path).file.calibrations == ("polarization", "bias")
    path.write_text(text + "calibrations: [polarisation]\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"mine\.yaml:\d+:\d+: calibrations"):
        load_experiment(path)


def test_the_command_finds_delays_and_says_the_same_twice(tmp_path: Path, warm: Path) -> None:
    found = []
    for folder in ("a", "b"):
        command = ["calibrate", "delays", str(warm / "metro.yaml"), "--seed", "5", "--json"]
        result = CliRunner().invoke(app, [*command, "--out", str(tmp_path / folder)])
        assert result.exit_code == 0, result.output
        (outcome,) = json.loads(result.stdout)
        assert outcome["ok"]
        assert Path(outcome["path"]).with_suffix(".png").stat().st_size > 10_000
        found.append(outcome["calibration"]["values"])
    assert found[0] == found[1]
    alice = found[0]["alice_tagger"]
    # worlds/metro.yaml: cables of 23.4, 24.1, 22.8 and 23.9 ns
    for channel, true in ((1, 0), (2, 700), (3, -600), (4, 500)):
        delay = alice[f"delay_{channel}"]
        assert abs(delay["value"] - true) <= 3.5 * delay["sigma"] + 0.5


def test_the_command_on_a_dark_bench_fails_and_writes_nothing(tmp_path: Path, warm: Path) -> None:
    text = (warm / "metro.yaml").read_text(encoding="utf-8")
    text = text.replace("world: world.yaml", f"world: {warm / 'world.yaml'}")
    bench = tmp_path / "dark.yaml"
    bench.write_text(text.replace("emission: true", "emission: false"), encoding="utf-8")
    out = tmp_path / "cal"
    result = CliRunner().invoke(app, ["calibrate", "delays", str(bench), "--out", str(out)])
    assert result.exit_code == 1
    assert "delays failed: no coincidence peak" in result.stdout
    assert list(out.iterdir()) == []


def test_a_party_that_is_not_there_is_refused_before_anything_opens(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no party 'carol'; there are alice, bob"):
        calibrations.calibrate("bias", load_bench("metro"), party="carol", registry=tmp_path)
    with pytest.raises(ConfigError, match="the whole bench"):
        calibrations.calibrate("delays", load_bench("metro"), party="alice", registry=tmp_path)


def test_inputs_of_other_use_are_no_analyzer(tmp_path: Path) -> None:
    text = load_bench("metro").path.read_text(encoding="utf-8")
    bench = tmp_path / "odd.yaml"
    odd = text.replace("channels: {1: H, 2: V, 3: D, 4: A}", "channels: {1: H, 2: V, 3: d}", 1)
    bench.write_text(odd, encoding="utf-8")
    expected = "delays needs channels H, V, D, A; alice lacks D, A; did you mean 'd'"
    with pytest.raises(ConfigError, match=expected):
        calibrations.calibrate("delays", load_bench(bench), registry=tmp_path / "cal")
    assert not (tmp_path / "cal").exists()
