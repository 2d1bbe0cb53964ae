"""`bellbench run memory_link`: through wires, drivers and protocol, against closed forms."""

import dataclasses
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from bellbench.configs import ConfigErrors, bundled
from bellbench.experiments import load_experiment, run_experiment

SEED = 2
SHORT = {
    "duration: 12 s ": "duration: 4 s ",
    "calibration: 1 s ": "calibration: 0.5 s ",
    "points: 11": "points: 9",
    "time: 0.8 s ": "time: 0.4 s ",
}

# What worlds/memory_link.yaml and benches/memory_link.yaml say.
PAIRS, V, OVERLAP = 0.03, 0.98, 0.97
PULSES_HZ = 90 / 80e-6
STATION = 10**-0.07 * 0.8
PIT = 10**-0.1 * 0.95 * 0.8
MEMORY = 0.4 / 0.95 * math.exp(-((4 / 30) ** 2))
LATE_PS = 0.5 * 1.468 / 299_792_458.0 * 1e12


def write(folder: Path, changes: dict[str, str]) -> Path:
    """The bundled experiment with other words."""
    text = bundled("experiments")["memory_link"].read_text(encoding="utf-8")
    for old, new in changes.items():
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    path = folder / "link.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def agrees(found: dict[str, float], expected: float, *, within: float = 0.0) -> bool:
    """Whether it lies within 3 sigma, and what the closed form leaves out."""
    return abs(found["value"] - expected) <= 3 * found["sigma"] + within


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory, warm: Path) -> tuple[dict[str, Any], Path]:
    """The command as a user types it: its figures and its run folder."""
    out = tmp_path_factory.mktemp("command")
    bench = {"bench: memory_link\n": f"bench: {warm / 'memory_link.yaml'}\n"}
    path = write(tmp_path_factory.mktemp("experiment"), SHORT | bench)
    options = ["--json", "--seed", str(SEED), "--out", str(out)]
    result = subprocess.run(
        [sys.executable, "-P", "-m", "bellbench", "run", str(path), *options],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    (folder,) = out.iterdir()
    return json.loads(result.stdout), folder


def test_the_parts_are_those_of_the_world(command: tuple[dict[str, Any], Path]) -> None:
    metrics, folder = command
    assert not metrics["aborted"]
    rest = PAIRS / 2  # of two pairs in one pulse some stay in the coincidences
    for source in metrics["sources"].values():
        assert agrees(source["pairs_per_pulse"], PAIRS, within=rest * PAIRS)
        assert agrees(source["end_efficiency"], PIT, within=rest * PIT)
        assert agrees(source["station_efficiency"], STATION, within=rest * STATION)
    assert agrees(metrics["hom"]["centre_s"], 30e-9 - LATE_PS * 1e-12)
    assert agrees(metrics["hom"]["fwhm_s"], math.sqrt(2) * 5e-9)
    assert metrics["storage_s"] == pytest.approx(24e-6)
    for memory in metrics["memories"].values():
        assert memory["stated"] == pytest.approx(MEMORY, rel=0.01)
        assert agrees(memory["efficiency"], MEMORY, within=rest * MEMORY)
    assert {"hom.png", "correlations.png"} <= {p.name for p in folder.iterdir()}


def test_rate_and_fidelity_of_the_link_are_those_of_the_closed_form(
    command: tuple[dict[str, Any], Path],
) -> None:
    """To leading order in the pairs per pulse, of which there are 0.03."""
    metrics = command[0]
    link = metrics["link"]
    assert link["pulses_hz"] == pytest.approx(PULSES_HZ, rel=0.02)
    # one pair each, or two here and none there: half and half
    heralds = PULSES_HZ * (PAIRS * STATION) ** 2
    assert agrees(link["herald_rate_hz"], heralds, within=2 * PAIRS * heralds)
    pairs = heralds / 2 * (PIT * MEMORY) ** 2
    assert agrees(link["pair_rate_hz"], pairs, within=3 * PAIRS * pairs)
    assert agrees(metrics["empty_share"]["any"], 0.5, within=2 * PAIRS)
    fidelity = (1 + V**2 * (1 + 2 * OVERLAP)) / 4
    for label in ("psi-", "psi+", "all"):
        assert agrees(metrics["fidelity"][label], fidelity, within=2 * PAIRS)
        assert agrees(metrics["visibility"]["Z"][label], V**2, within=3 * PAIRS)
    # what the memories hold, if nobody looks whether photons came back
    assert agrees(metrics["held_fidelity"], fidelity / 2, within=3 * PAIRS)
    said = metrics["prediction"]
    assert agrees(said["fidelity"], fidelity, within=2 * PAIRS)
    assert said["pair_rate_hz"] == pytest.approx(pairs, rel=0.1)
    assert said["herald_rate_hz"] == pytest.approx(heralds, rel=0.1)


@pytest.mark.slow  # as in end_to_end, of every run
@pytest.mark.usefixtures("no_pictures")
def test_the_same_seed_gives_the_same_figures(tmp_path: Path) -> None:
    config = load_experiment(write(tmp_path, SHORT), duration=1.0)
    first, second = (
        {
            key: value
            for key, value in run_experiment(config, seed=4, out=tmp_path).metrics.items()
            if key != "wall_s"
        }
        for _ in range(2)
    )
    assert first == second


def test_a_storage_time_that_the_memory_cannot_do_is_refused(tmp_path: Path) -> None:
    for other, allowed in (("60 us", False), ("20.2 us", False), ("20 us", True), ("49 us", True)):
        path = write(tmp_path, {"storage_time: 24 us": f"storage_time: {other}"})
        if allowed:
            load_experiment(path)
            continue
        with pytest.raises(ConfigErrors, match=r"alice_memory stores for 20 µs .* 20\.5 to 49 µs"):
            load_experiment(path)


@pytest.mark.slow
@pytest.mark.usefixtures("no_pictures")
def test_a_blocked_source_gives_a_failed_result(tmp_path: Path) -> None:
    config = load_experiment(write(tmp_path, SHORT))
    bench = config.bench
    arrays = {
        name: dataclasses.replace(
            one,
            settings=one.settings.model_validate(one.settings.model_dump() | {"enabled": False}),
        )
        for name, one in bench.instruments.items()
        if name == "alice_snspd"
    }
    dark = dataclasses.replace(bench, instruments={**bench.instruments, **arrays})
    outcome = run_experiment(dataclasses.replace(config, bench=dark), seed=1, out=tmp_path)
    assert outcome.metrics["aborted"]
    assert "between the station and alice" in outcome.metrics["reason"]
    assert outcome.metrics["link"] is None


def test_a_bench_without_memories_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigErrors, match="needs a party 'alice' with a memory"):
        load_experiment(write(tmp_path, {"bench: memory_link\n": "bench: swap\n"}))
