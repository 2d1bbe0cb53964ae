"""`bellbench run swap_spdc`: through wires, drivers and protocol, against closed forms."""

import dataclasses
import io
import itertools
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bellbench.configs import ConfigErrors, bundled
from bellbench.experiments import ExperimentConfig, load_experiment, run_experiment, summary
from bellbench.sims.physics import polarization as pol
from bellbench.sims.physics.pulsed_pairs import (
    ClickStatistics,
    PairPulse,
    arm_units,
    bell_station_units,
)

SEED = 5
SHORT = {
    "duration: 5 s ": "duration: 1.5 s ",
    "[90 mA, 120 mA, 150 mA]": "[70 mA, 150 mA]",
    "pump_time: 3 s": "pump_time: 1.5 s",
    "points: 13": "points: 11",
    "time: 0.5 s ": "time: 0.3 s ",
    "\nhom:": "\nangles: {CHSH: {bob: [128 deg, 81 deg, 88.5 deg]}}\nhom:",
}
QUICK = SHORT | {
    "duration: 5 s ": "duration: 0.3 s ",
    "[90 mA, 120 mA, 150 mA]": "[150 mA]",
    "calibration: 1 s ": "calibration: 0.2 s ",
    "points: 13": "points: 7",
    "time: 0.5 s ": "time: 0.1 s ",
}

# What worlds/swap.yaml says.
END = 10**-0.1 * 0.8
STATION = 10**-0.07 * 0.8
V, OVERLAP = 0.98, 0.97
PAIRS = {0.07: 0.018, 0.15: 0.066}
LATE_PS = 0.5 * 1.468 / 299_792_458.0 * 1e12
DIP_FWHM_PS = math.sqrt(2) * 300


def write(folder: Path, changes: dict[str, str]) -> Path:
    """The bundled experiment with other words."""
    text = bundled("experiments")["swap_spdc"].read_text(encoding="utf-8")
    for old, new in changes.items():
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    path = folder / "swap.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def on(warm: Path) -> dict[str, str]:
    """The bundled bench that is warm already."""
    return {"bench: swap\n": f"bench: {warm / 'swap.yaml'}\n"}


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


def agrees(found: dict[str, float], expected: float, *, within: float = 0.0) -> bool:
    """Whether it lies within 3 sigma, and what the closed form leaves out."""
    return abs(found["value"] - expected) <= 3 * found["sigma"] + within


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory, warm: Path) -> tuple[dict[str, Any], Path]:
    """The command as a user types it: its figures and its run folder."""
    out = tmp_path_factory.mktemp("command")
    path = write(tmp_path_factory.mktemp("experiment"), SHORT | on(warm))
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


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory, warm: Path) -> ExperimentConfig:
    return load_experiment(write(tmp_path_factory.mktemp("experiment"), QUICK | on(warm)))


def test_the_dip_lies_where_both_photons_arrive_together(
    command: tuple[dict[str, Any], Path],
) -> None:
    metrics, folder = command
    assert not metrics["aborted"]
    assert metrics["late_ps"] == pytest.approx(LATE_PS, abs=20)
    dip = metrics["hom"]
    assert agrees(dip["centre_s"], 10e-9 - LATE_PS * 1e-12)
    assert agrees(dip["fwhm_s"], DIP_FWHM_PS * 1e-12)
    # more pairs than one leave some coincidences at the bottom
    assert agrees(dip["visibility"], OVERLAP, within=2 * PAIRS[0.07])
    assert {"hom.png", "correlations.png", "pump.png"} <= {p.name for p in folder.iterdir()}


def test_both_sources_show_what_the_world_gave_them(command: tuple[dict[str, Any], Path]) -> None:
    # Of two pairs in one pulse some stay in the coincidences: half the pairs per pulse.
    rest = PAIRS[0.07] / 2
    for source in command[0]["sources"].values():
        assert agrees(source["pairs_per_pulse"], PAIRS[0.07], within=rest * PAIRS[0.07])
        assert agrees(source["end_efficiency"], END, within=rest * END)
        assert agrees(source["station_efficiency"], STATION, within=rest * STATION)
        assert agrees(source["visibility"], V, within=rest)


def test_swapped_pairs_are_those_of_the_closed_form(command: tuple[dict[str, Any], Path]) -> None:
    """Werner swap with limited overlap; at 0.018 pairs per pulse more pairs take 1 to 2 %."""
    metrics = command[0]
    more = 0.02
    for label in ("psi-", "psi+", "all"):
        assert agrees(metrics["visibility"]["Z"][label], V**2, within=more)
        assert agrees(metrics["visibility"]["X"][label], V**2 * OVERLAP, within=more)
        assert agrees(metrics["visibility"]["Y"][label], V**2 * OVERLAP, within=more)
    f1 = (1 + 3 * V) / 4
    dephased = (1 + V**2 * (1 + 2 * OVERLAP)) / 4
    assert dephased < f1**2 + (1 - f1) ** 2 / 3
    assert agrees(metrics["fidelity"]["all"], dephased, within=more)
    assert agrees(metrics["chsh"]["all"], math.sqrt(2) * V**2 * (1 + OVERLAP), within=3 * more)
    assert metrics["chsh"]["all"]["value"] - 2 * metrics["chsh"]["all"]["sigma"] > 2
    said = metrics["prediction"]
    assert agrees(said["visibility_z"], V**2, within=PAIRS[0.07])
    assert agrees(said["visibility_x"], V**2 * OVERLAP, within=3 * PAIRS[0.07])
    # heralds of both labels, and four-folds at the rate of leading order
    for counts in metrics["settings"].values():
        heralds = list(counts["heralds"].values())
        assert abs(heralds[0] - heralds[1]) <= 3 * math.sqrt(sum(heralds))
        rate = 5e6 * PAIRS[0.07] ** 2 / 2 * (END * STATION) ** 2
        events = counts["fourfold_rate_hz"] * counts["live_s"]
        assert abs(events - rate * counts["live_s"]) <= 3 * math.sqrt(events) + 0.05 * events


def test_more_pump_takes_visibility(command: tuple[dict[str, Any], Path]) -> None:
    weak, strong = command[0]["pumps"]
    assert strong["fourfold_rate_hz"] > 10 * weak["fourfold_rate_hz"]
    for axis, single in (("Z", V**2), ("X", V**2 * OVERLAP)):
        found = strong["visibility"][axis]
        assert found["value"] + 2 * found["sigma"] < single, axis
        # second opinion: all orders, by the twin's own statistics of photons
        assert agrees(found, exact_visibility(PAIRS[0.15], axis)), axis
    for pump in (weak, strong):
        assert pump["pairs_per_pulse"]["west"] == pytest.approx(PAIRS[pump["current_a"]], rel=0.05)
        # Two pairs here and none there herald as often as one and one: half, to leading order.
        assert agrees(pump["empty_share"]["any"], 0.5, within=PAIRS[pump["current_a"]])
        for end in ("alice", "bob"):
            assert agrees(pump["empty_share"][end], 0.25, within=PAIRS[pump["current_a"]])


def exact_visibility(pairs: float, axis: str) -> float:
    """Swapped visibility of psi- and psi+ together, with all numbers of pairs."""
    ends = pol.analyzer_operators(0.5, 40.0) * END
    station = bell_station_units(
        (0, 1),
        (1, 1),
        np.sqrt(10**-0.04) * np.eye(2, dtype=np.complex128),
        np.sqrt(10**-0.04) * np.eye(2, dtype=np.complex128),
        2,
        reflectivity=0.5,
        extinction_db=40.0,
        overlap=OVERLAP,
    )
    whole = np.eye(2, dtype=np.complex128)
    units = [arm_units(ends, whole, source, 0, 2) for source in (0, 1)]
    statistics = ClickStatistics(
        [PairPulse(pairs, V)] * 2, np.concatenate([*units, station * 10**-0.03 * 0.8])
    )
    first = {"Z": 0, "X": 2}[axis]
    found = {True: 0.0, False: 0.0}
    # station units 8 to 11: cH, cV, dH, dV
    for heralds, sign in (((8, 11), -1), ((9, 10), -1), ((8, 9), None), ((10, 11), None)):
        for a, b in itertools.product((0, 1), repeat=2):
            clicked = (first + a, 4 + first + b, *heralds)
            silent = [unit for unit in range(12) if unit not in clicked]
            wanted = sign or {"Z": -1, "X": 1}[axis]
            found[(a == b) == (wanted > 0)] += statistics.probability(clicked, silent)
    return (found[True] - found[False]) / (found[True] + found[False])


def test_angles_in_the_file_overrule_those_of_the_nominal_retardances(
    command: tuple[dict[str, Any], Path],
) -> None:
    metrics = command[0]
    # to the controller's grid
    paddles = {name: one["paddles_deg"] for name, one in metrics["settings"].items()}
    assert paddles["CHSH"]["bob"] == pytest.approx([128, 81, 88.5], abs=0.07)
    assert paddles["CHSH"]["alice"] == paddles["ZX"]["alice"]
    assert paddles["Y"]["alice"] != paddles["ZX"]["alice"]


@pytest.mark.slow  # as in end_to_end, of every run
@pytest.mark.usefixtures("no_pictures")
def test_the_same_seed_gives_the_same_figures(quick: ExperimentConfig, tmp_path: Path) -> None:
    outcomes = [run_experiment(quick, seed=7, out=tmp_path) for _ in range(2)]
    first, second = (
        {key: value for key, value in outcome.metrics.items() if key != "wall_s"}
        for outcome in outcomes
    )
    assert first == second


@pytest.mark.usefixtures("no_pictures")
def test_a_blocked_end_gives_a_failed_result(quick: ExperimentConfig, tmp_path: Path) -> None:
    from rich.console import Console

    outcome = run_experiment(changed(quick, bob_snspd={"enabled": False}), seed=7, out=tmp_path)
    assert outcome.metrics["aborted"]
    assert "between the station and bob" in outcome.metrics["reason"]
    assert outcome.metrics["chsh"] is None
    text = io.StringIO()
    Console(file=text, width=200).print(summary(outcome))
    assert "no result" in text.getvalue()


def test_mistakes_in_the_file_are_named(tmp_path: Path) -> None:
    wrong = {
        "bench: swap\n": "bench: metro\n",
        "span: 1.6 ns": "span: 6 ns",
        "\nhom:": "\nangles: {CHSH: {bob: [10 deg, 20 deg]}}\nhom:",
    }
    with pytest.raises(ConfigErrors) as caught:
        load_experiment(write(tmp_path, wrong))
    text = str(caught.value)
    assert "needs a party 'station'" in text
    assert "wider than the coincidence_window" in text
    assert "3 angles needed" in text
