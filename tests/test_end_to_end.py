"""The main job as a user has it: an experiment on the twins, and what the optics do to it."""

import dataclasses
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from bellbench.bench import load_bench
from bellbench.experiments import ExperimentConfig, load_experiment, run_experiment
from bellbench.instruments import ConfigError


def changed(config: ExperimentConfig, **settings: dict[str, Any]) -> ExperimentConfig:
    """The experiment with other settings of some instruments."""
    instruments = dict(config.bench.instruments)
    for name, values in settings.items():
        old = instruments[name]
        new = old.settings.model_validate(old.settings.model_dump() | values)
        instruments[name] = dataclasses.replace(old, settings=new)
    return dataclasses.replace(
        config, bench=dataclasses.replace(config.bench, instruments=instruments)
    )


def run(config: ExperimentConfig, out: Path, seed: int = 11) -> dict[str, Any]:
    return run_experiment(config, seed=seed, out=out).metrics


def coincidences_hz(metrics: dict[str, Any]) -> float:
    return float(metrics["coincidences"] / metrics["duration_s"])


def without_wall_time(metrics: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in metrics.items() if key != "wall_s"}


@pytest.fixture(scope="module")
def short(warm: Path) -> ExperimentConfig:
    config = load_experiment(warm / "bbm92_metro.yaml", duration=0.7)
    return dataclasses.replace(config, file=config.file.model_copy(update={"calibration": 0.4}))


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def command(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[subprocess.CompletedProcess[str], Path]:
    """The command as a user types it, and its run folder."""
    out = tmp_path_factory.mktemp("command")
    options = ["--json", "--seed", "11", "--duration", "1.5 s", "--out", str(out)]
    result = subprocess.run(
        [sys.executable, "-P", "-m", "bellbench", "run", "bbm92_metro", *options],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    (folder,) = out.iterdir()
    return result, folder


@pytest.fixture(scope="module")
def reference(command: tuple[subprocess.CompletedProcess[str], Path]) -> dict[str, Any]:
    """The figures of the command; what the others are compared with."""
    metrics: dict[str, Any] = json.loads(command[0].stdout)
    return metrics


def test_the_command_ends_with_equal_keys_and_one_json_object(
    command: tuple[subprocess.CompletedProcess[str], Path], reference: dict[str, Any]
) -> None:
    (result, folder), metrics = command, reference
    assert metrics["secret_key_bits"] > 3_000
    assert not metrics["aborted"]
    assert metrics["randomness"] == "seeded"
    named = (
        "seed duration_s wall_s tags singles_hz coincidences car visibility sifted_bits qber_z"
        " qber_x leak_bits f_ec secret_key_bits secret_key_rate_bps epsilon aborted reason"
    )
    assert set(named.split()) <= set(metrics)
    keys = [(folder / f"{party}.key").read_bytes() for party in ("alice", "bob")]
    assert keys[0] == keys[1]
    assert len(keys[0]) == math.ceil(metrics["secret_key_bits"] / 8)
    assert {path.name for path in folder.iterdir()} == {
        "alice.key",
        "bob.key",
        "report.json",
        "report.md",
        "bench.yaml",
        "experiment.yaml",
        "versions.json",
        "snapshot.json",
        "metrics.json",
        "delays.png",
        "clock.png",
        "coincidences.png",
        "qber.png",
    }
    assert keys[0].hex() not in result.stderr + result.stdout
    # what the run resolved runs again
    again = load_experiment(folder / "experiment.yaml")
    assert again.bench.instruments == load_bench("metro").instruments


def test_the_taggers_share_nothing_and_bobs_clock_is_found(reference: dict[str, Any]) -> None:
    """31 and -9 ppm off the world's time, as its file says; the peak is as wide as on one clock."""
    clock = reference["clock"]
    assert clock["locked"]
    assert clock["frequency"] == pytest.approx(31e-6 + 9e-6, abs=2e-8)  # 3e-10 in a second, walking
    # two detectors, two taggers, and what following the clocks leaves
    one_clock = math.sqrt(4) * 60 / math.sqrt(8 * math.log(2))
    assert one_clock - 2 < clock["jitter_ps"] < 1.08 * one_clock
    assert clock["sigma_ps"] < one_clock
    # what Alice and Bob recorded at other times has no partner: their starts differ by 3.5 ms
    assert clock["unlocked_s"] < 0.005
    assert clock["locked_s"] == pytest.approx(reference["duration_s"], abs=0.005)
    assert clock["losses_of_lock"] == 0
    assert abs(clock["offset_ps"]) > 1e9
    assert clock["undated_events"] < 0.006 * sum(reference["singles_hz"]["bob"].values())


@pytest.mark.usefixtures("no_pictures")
def test_the_same_seed_gives_the_same_figures_in_another_process_and_another_seed_others(
    short: ExperimentConfig, reference: dict[str, Any], out: Path
) -> None:
    again = run(load_experiment("bbm92_metro", duration=1.5), out)
    assert without_wall_time(again) == without_wall_time(reference)
    other = run(short, out, seed=12)
    assert other["tags"] != reference["tags"]
    assert other["qber_sample"] != reference["qber_sample"]
    assert not other["aborted"]


def test_rates_and_errors_are_those_of_the_cw_closed_form(reference: dict[str, Any]) -> None:
    """Through wires, drivers and protocol, against Neumann et al., PRA 104, 022406 (2021).

    3 sigma of counting plus the model's bias of 0.5 %. The protocol matches one-to-one and
    merges clicks within a window, so its coincidences lie below all-pairs counting by some
    S t = 3e-4.
    """
    pairs, window, fwhm, dead = 1e7, 300e-12, math.sqrt(4) * 60e-12, 30e-9
    lam = [1 / (1 + (pairs * eta + 300) * dead / 4) for eta in (0.1, 0.05)]
    singles = [pairs * eta * x + 300 for eta, x in zip((0.1, 0.05), lam, strict=True)]
    true = pairs * 0.1 * 0.05 * lam[0] * lam[1]
    true *= math.erf(math.sqrt(math.log(2)) * window / fwhm)
    accidental = singles[0] * singles[1] * window
    recorded = reference["duration_s"] + 1.0
    for party, expected in zip(("alice", "bob"), singles, strict=True):
        counted = sum(reference["singles_hz"][party].values())
        assert abs(counted - expected) <= 3 * math.sqrt(expected / recorded) + 0.005 * expected
    expected = (true + accidental) * reference["duration_s"]
    assert abs(reference["coincidences"] - expected) <= 3 * math.sqrt(expected) + 0.005 * expected
    qber = (true * 0.01 + accidental / 2) / (true + accidental)
    compared = reference["sample_bits"] + reference["monitor_bits"]
    sigma = math.sqrt(qber * (1 - qber) / compared)
    assert abs(reference["qber"] - qber) <= 3 * sigma + 0.005 * qber
    # accidentals of the 1 s calibration, counted at 20 wrong delays
    car = true / accidental
    assert abs(reference["car"] - car) <= 3 * car / math.sqrt(20 * accidental) + 0.005 * car


@pytest.mark.usefixtures("no_pictures")
def test_raising_the_pump_raises_accidentals_and_errors(
    short: ExperimentConfig, reference: dict[str, Any], out: Path
) -> None:
    bright = run(changed(short, pump={"current": 0.14}), out)
    assert coincidences_hz(bright) > 1.8 * coincidences_hz(reference)
    assert bright["car"] < 0.6 * reference["car"]
    assert bright["qber_reconciled"] > reference["qber_reconciled"]


@pytest.mark.usefixtures("no_pictures")
def test_detuning_the_oven_kills_the_rate(
    short: ExperimentConfig, reference: dict[str, Any], out: Path
) -> None:
    cold = run(changed(short, oven={"temperature": 44.0}), out)
    assert coincidences_hz(cold) < 0.1 * coincidences_hz(reference)
    assert cold["aborted"]


@pytest.mark.usefixtures("no_pictures")
def test_a_misaligned_paddle_raises_the_error_rate_until_there_is_no_key(
    short: ExperimentConfig, reference: dict[str, Any], out: Path
) -> None:
    paddles = (151.01 - 8, 135.01, 88.23)
    slightly = run(changed(short, alice_paddles={"paddles": paddles}), out)
    assert slightly["qber"] > 1.3 * reference["qber"]
    badly = run(changed(short, alice_paddles={"paddles": (111.0, 135.01, 88.23)}), out)
    assert badly["aborted"]
    assert "of the calibration, above 15.00%" in badly["reason"]
    assert badly["secret_key_bits"] == 0
    folder = max(out.iterdir(), key=lambda path: path.stat().st_mtime)
    assert not list(folder.glob("*.key"))


def test_a_dark_detector_shows_in_the_singles_and_is_named(
    short: ExperimentConfig, out: Path
) -> None:
    currents = (18e-6, 18e-6, 0.0, 18e-6)
    dark = run(changed(short, bob_snspd={"bias_currents": currents}), out)
    assert dark["singles_hz"]["bob"]["D"] == 0
    assert dark["singles_hz"]["bob"]["H"] > 100_000
    assert dark["aborted"]
    assert "channels B3" in dark["reason"]


def test_without_light_the_run_ends_aborted_with_a_reason(
    short: ExperimentConfig, out: Path
) -> None:
    blocked = run(changed(short, pump={"emission": False}), out)
    assert blocked["aborted"]
    assert "no coincidence peak" in blocked["reason"]
    assert blocked["secret_key_bits"] == 0
    assert sum(blocked["singles_hz"]["alice"].values()) == pytest.approx(300, rel=0.3)


@pytest.mark.usefixtures("no_pictures")
def test_the_bench_with_tdc1_taggers_gives_key_too(warm: Path, out: Path) -> None:
    config = load_experiment(warm / "bbm92_metro_tdc1.yaml", duration=3.0)
    metrics = run(config, out)
    assert not metrics["aborted"], metrics["reason"]
    assert metrics["secret_key_bits"] > 1_000


def test_a_bench_without_the_parties_is_refused_before_anything_opens(tmp_path: Path) -> None:
    bench = tmp_path / "bench.yaml"
    bench.write_text(
        "bellbench: bench/1\nworld: metro\ntwin: true\n"
        "instruments:\n  pump: {driver: thorlabs.cld1015}\n"
    )
    experiment = tmp_path / "experiment.yaml"
    experiment.write_text(
        "bellbench: experiment/1\nprotocol: bbm92\nbench: bench.yaml\nduration: 1 s\n"
        "key: {expected_sifted_rate: 24 kHz}\n"
    )
    with pytest.raises(ConfigError, match=r"experiment\.yaml:3:8: bench: bbm92 needs a party"):
        load_experiment(experiment)
