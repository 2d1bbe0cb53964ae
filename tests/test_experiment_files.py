"""What an experiment's file, its protocol and its bench say together; the frame round a run."""

from __future__ import annotations

import io
import json
import os
import typing
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from bellbench import experiments
from bellbench.configs import bundled
from bellbench.drivers.thorlabs.cld1015 import ThorlabsCLD1015
from bellbench.experiments import check_file, load_experiment, run_experiment, summary
from bellbench.experiments.contract import Experiment, ExperimentFile, Result, Run, lacks
from bellbench.instruments import BellbenchError, ConfigError, InstrumentError, Unit
from rich.console import Console

BENCH = """\
bellbench: bench/1
world: metro
twin: true
instruments:
  pump: {driver: thorlabs.cld1015, settings: {emission: false}}
"""
KEY = """\
bellbench: experiment/1
protocol: bbm92
bench: metro
duration: 1 s
key: {expected_sifted_rate: 24 kHz}
"""
LASER = """\
bellbench: experiment/1
protocol: laser
bench: bench.yaml
current: 80 mA
"""


class LaserFile(ExperimentFile):
    protocol: Literal["laser"]
    current: Annotated[float, Unit("A")]
    sudden: bool = False


def run_laser(file: LaserFile, run: Run) -> Result:
    """Set the pump's current on each of two openings; tell what was there before."""
    found, clocks, seeds = [], [], []
    for label in ("first", "second"):
        lab = run.open(label)
        found.append(lab.pump.current.get())
        clocks.append(lab.clock.now())
        seeds.append(lab.seed)
        lab.pump.current.set(file.current)
        lab.clock.sleep(1.0)
    if file.sudden:
        raise InstrumentError("the laser is tired")
    metrics = {"found_a": found, "clocks_s": clocks, "seeds": seeds}
    return Result(
        metrics, lambda folder: (folder / "drawn.txt").touch(), {"seal": bytes([1, 2, 3])}
    )


@pytest.fixture
def laser(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A protocol of two openings, its file and its bench of one laser."""
    experiment = Experiment(
        LaserFile,
        lambda file, bench: [(("current",), "too much")] if file.current > 0.1 else [],
        run_laser,
        lambda metrics: [("currents found", f"{metrics['found_a']}")],
    )
    monkeypatch.setitem(experiments._PROTOCOLS, "laser", experiment)
    (tmp_path / "bench.yaml").write_text(BENCH)
    path = tmp_path / "laser.yaml"
    path.write_text(LASER)
    return path


def mistakes(folder: Path, text: str) -> list[str]:
    path = folder / "experiment.yaml"
    path.write_text(text, encoding="utf-8")
    return [str(error).replace(f"{folder}{os.sep}", "") for error in check_file(path)]


def test_every_protocol_stands_under_its_own_name() -> None:
    for name, experiment in experiments._PROTOCOLS.items():
        assert typing.get_args(experiment.file.model_fields["protocol"].annotation) == (name,)


@pytest.mark.parametrize("name", bundled("experiments"))
def test_every_bundled_experiment_fits_its_bench(name: str) -> None:
    assert check_file(name) == []


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("bbm92", "bmb92", "experiment.yaml:2:11: protocol: unknown protocol 'bmb92'; did you"),
        ("bbm92", "[1]", "experiment.yaml:2:11: protocol: unknown protocol [1]; valid: bb84"),
        ("protocol: bbm92\n", "", "experiment.yaml:1:1: key 'protocol' is missing"),
        ("duration: 1 s", "duration: 1", "experiment.yaml:4:11: duration: 1 has no unit; write"),
        ("duration: 1 s", "duration: 0 s", "experiment.yaml:4:11: duration: should be greater"),
        ("key: {", "key: {epsilonn: 1, ", "experiment.yaml:5:7: key.epsilonn: unknown key; did"),
        ("key: {", "key: {time_grid: 1 us, ", "experiment.yaml:5:18: key.time_grid: is wider"),
        (
            "duration:",
            "calibrations: [bais]\nduration:",
            "experiment.yaml:4:16: calibrations.0: 'bais' does not fit here; did you mean 'bias'?",
        ),
    ],
)
def test_a_mistake_in_an_experiment_is_named_with_its_place(
    tmp_path: Path, old: str, new: str, expected: str
) -> None:
    assert KEY.count(old) == 1
    assert mistakes(tmp_path, KEY) == []
    (found,) = mistakes(tmp_path, KEY.replace(old, new))
    assert found.startswith(expected)


def test_what_a_bench_lacks_is_said_with_the_nearest_label(tmp_path: Path) -> None:
    metro = Path(bundled("benches")["metro"]).read_text(encoding="utf-8")
    bob = metro.rindex("  bob:")
    spoilt = metro[:bob] + metro[bob:].replace("bob:", "rob:", 1)
    spoilt = spoilt.replace("channels: {1: H, 2: V, 3: D, 4: A}", "channels: {1: H, 2: v}", 1)
    (tmp_path / "bench.yaml").write_text(spoilt, encoding="utf-8")
    found = mistakes(tmp_path, KEY.replace("bench: metro", "bench: bench.yaml"))
    assert found == [
        "experiment.yaml:3:8: bench: bbm92 needs a party 'alice' with channels H, V, D, A;"
        " bench.yaml lacks V, D, A; did you mean 'v'?",
        "experiment.yaml:3:8: bench: bbm92 needs a party 'bob'; bench.yaml has none;"
        " did you mean 'rob'?",
    ]


def test_a_role_that_a_party_lacks_is_named() -> None:
    config = load_experiment("bbm92_metro")
    assert lacks(config.file, config.bench, "alice", labels=("H", "A"), roles=("tagger",)) == []
    ((loc, message),) = lacks(config.file, config.bench, "alice", roles=("source", "detectors"))
    assert loc == ("bench",)
    assert message.startswith("bbm92 needs a party 'alice' with a source; ")


def test_a_duration_on_the_command_line_is_for_protocols_that_have_one(laser: Path) -> None:
    with pytest.raises(ConfigError, match=r"^--duration: laser has no duration to replace$"):
        load_experiment(laser, duration=2.0)
    with pytest.raises(ConfigError, match=r"^--duration: 2e\+06 s is out of range"):
        load_experiment("bbm92_metro", duration=2e6)


def test_a_protocols_own_check_names_the_line(laser: Path) -> None:
    laser.write_text(LASER.replace("80 mA", "0.2 A"))
    with pytest.raises(ConfigError, match=r"laser\.yaml:4:10: current: too much$"):
        load_experiment(laser)


@pytest.mark.parametrize("seed", [5, None])
def test_a_bench_opened_twice_is_the_same_world_from_its_beginning(
    laser: Path, tmp_path: Path, seed: int | None
) -> None:
    outcome = run_experiment(load_experiment(laser), seed=seed, out=tmp_path / "runs")
    metrics = outcome.metrics
    assert metrics["experiment"] == "laser"
    assert metrics["protocol"] == "laser"
    assert metrics["all_twins"]
    assert metrics["wall_s"] > 0
    assert metrics["seeds"] == [metrics["seed"]] * 2
    assert seed in (None, metrics["seed"])
    assert metrics["found_a"][0] == metrics["found_a"][1] != 0.08  # nothing was left behind
    assert metrics["clocks_s"][0] == metrics["clocks_s"][1]
    assert {path.name for path in outcome.folder.iterdir()} == {
        "bench.yaml",
        "experiment.yaml",
        "versions.json",
        "snapshot_first.json",
        "snapshot_second.json",
        "metrics.json",
        "drawn.txt",
        "seal",
    }
    assert json.loads((outcome.folder / "metrics.json").read_text()) == metrics
    assert (outcome.folder / "seal").read_bytes() == bytes([1, 2, 3])
    console = Console(width=100, file=io.StringIO(), record=True)
    console.print(summary(outcome))
    assert console.export_text().startswith(f"currents found  {metrics['found_a']}")
    again: Any = load_experiment(outcome.folder / "experiment.yaml").file
    assert again.current == 0.08


def test_an_error_in_a_protocol_leaves_a_failed_folder_and_a_safe_bench(
    laser: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends: list[str] = []

    def watch(end: str) -> None:
        act = getattr(ThorlabsCLD1015, end)

        def noted(pump: ThorlabsCLD1015) -> None:
            ends.append(end)
            act(pump)

        monkeypatch.setattr(ThorlabsCLD1015, end, noted)

    watch("off")
    watch("safe")
    laser.write_text(LASER + "sudden: true\n")
    with pytest.raises(BellbenchError, match="the laser is tired"):
        run_experiment(load_experiment(laser), seed=1, out=tmp_path / "runs")
    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name.endswith(".failed")
    assert "the laser is tired" in (folder / "error.txt").read_text()
    assert not (folder / "metrics.json").exists()
    assert ends == ["off", "safe"]  # the first opening ended well
