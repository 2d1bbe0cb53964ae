"""Two nodes that share nothing: a key exchange whose clocks are held by the photons alone."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from bellbench.experiments import load_experiment, run_experiment

pytestmark = pytest.mark.usefixtures("no_pictures")

_PS_FWHM = 80


def exchange(warm: Path, folder: Path, seconds: float) -> dict[str, Any]:
    """The metro link at 1/25 of its rate: 40 and 20 kcps, 2000 coincidences per second.

    Bob's clock is 30 ppm off, jitter 80 ps FWHM at each detector and tagger, both fibres walk.
    """
    world = (warm / "world.yaml").read_text(encoding="utf-8")
    for old, new in (
        ("pair_rate: 400 kHz/mW", "pair_rate: 16 kHz/mW"),
        ("jitter: 60 ps", f"jitter: {_PS_FWHM} ps"),
        ("frequency_offset: -9e-6", "frequency_offset: 0"),
        ("frequency_offset: 31e-6", "frequency_offset: 30e-6"),
        ("temperature_walk: 1 K", "temperature_walk: 10 K"),  # 4 and 6 ns in an hour
    ):
        assert old in world
        world = world.replace(old, new)
    (folder / "world.yaml").write_text(world, encoding="utf-8")
    bench = (warm / "metro.yaml").read_text(encoding="utf-8")
    (folder / "bench.yaml").write_text(bench, encoding="utf-8")
    (folder / "free.yaml").write_text(
        "bellbench: experiment/1\nprotocol: bbm92\nbench: bench.yaml\n"
        f"duration: {seconds} s\ncalibration: 2 s\ncoincidence_window: 400 ps\n"
        "key: {expected_sifted_rate: 900 Hz}\n",
        encoding="utf-8",
    )
    config = load_experiment(folder / "free.yaml")
    outcome = run_experiment(config, seed=4, out=folder / "runs")
    metrics: dict[str, Any] = json.loads((outcome.folder / "metrics.json").read_text())
    return metrics


def check(metrics: dict[str, Any]) -> None:
    """Locked from cold, never lost, and as many coincidences as on one clock."""
    clock, seconds = metrics["clock"], metrics["duration_s"]
    assert clock["locked"], clock["reason"]
    assert clock["losses_of_lock"] == 0
    assert clock["locked_s"] == pytest.approx(seconds, abs=0.1)
    assert clock["unlocked_s"] < 0.1
    one_clock = math.sqrt(4) * _PS_FWHM / math.sqrt(8 * math.log(2))
    assert one_clock - 3 < clock["jitter_ps"] < 1.3 * one_clock
    # S t of a window on a peak as wide as one clock would show it, and what following costs
    pairs, dead = 4e5, 30e-9 / 4
    alive = [1 / (1 + pairs * eta * dead) for eta in (0.1, 0.05)]
    caught = math.erf(400 / 2 / (math.sqrt(2) * one_clock))
    expected = pairs * 0.1 * 0.05 * alive[0] * alive[1] * caught * seconds
    sigma = math.sqrt(expected)
    assert 0.985 * expected - 4 * sigma < metrics["coincidences"] < 1.01 * expected + 4 * sigma
    assert metrics["qber"] is None or metrics["qber"] < 0.03


def test_two_nodes_lock_from_cold_and_hold(warm: Path, tmp_path: Path) -> None:
    metrics = exchange(warm, tmp_path, 4.0)
    check(metrics)
    assert metrics["clock"]["frequency"] == pytest.approx(30e-6, abs=2e-8)


@pytest.mark.slow
@pytest.mark.timeout(6000)
def test_two_nodes_hold_for_half_an_hour(warm: Path, tmp_path: Path) -> None:
    """10 to 20 min: ``pytest -m slow tests/test_clocks_run_free.py``."""
    metrics = exchange(warm, tmp_path, 1800.0)
    check(metrics)
    assert metrics["clock"]["frequency"] == pytest.approx(30e-6, abs=1e-7)
    assert not metrics["aborted"], metrics["reason"]
    assert metrics["secret_key_bits"] > 500_000
