"""`bellbench run emitters`: heralds, read-out errors and the heralded state from clicks alone."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
from bellbench.configs import bundled
from bellbench.experiments import check_file, load_experiment, run_experiment
from bellbench.instruments import ConfigError


def test_the_run_finds_what_the_world_says(tmp_path: Path) -> None:
    config = load_experiment("emitters", duration=0.4)
    # A short calibration: spins that are all bright make 2e6 clicks a second.
    config = replace(config, file=config.file.model_copy(update={"calibration": 0.1}))
    outcome = run_experiment(config, seed=4, out=tmp_path)
    m = outcome.metrics
    assert not m["aborted"]
    alpha, p_det = math.sin(math.pi / 2 * 1.85 / 5) ** 2, 6.75e-4 * 10**-0.13 * 0.8
    share = 2 * alpha * p_det + 2 * 20 * 60e-9
    expected = m["attempts"] * share
    assert m["heralds"] == pytest.approx(expected, abs=3.5 * math.sqrt(expected))
    lit, stray = 2e6 * 0.7 * 3.6e-6, (1e4 * 0.7 + 200) * 3.6e-6
    for errors in m["readout"].values():
        assert errors["false"]["value"] == pytest.approx(1 - math.exp(-stray), rel=0.2)
        assert errors["missed"]["value"] == pytest.approx(math.exp(-lit - stray), rel=0.4)
    # (1 - alpha)(1 + sqrt(M) e^(-s^2/2) (1 - p2) decay)/2, and some dark counts
    noise = math.exp(-2 * math.radians(10.1) ** 2 / 2) * math.sqrt(0.9) * 0.96 * 0.98
    ideal = (1 - alpha) * (1 + noise) / 2
    found = m["fidelity"]
    assert found["sigma"] < 0.12
    assert found["value"] == pytest.approx(ideal, abs=3.5 * found["sigma"])
    assert m["fidelity_raw"]["value"] < found["value"]
    assert (outcome.folder / "correlations.png").stat().st_size > 1000


def test_what_the_bench_lacks_is_told(tmp_path: Path) -> None:
    text = bundled("experiments")["emitters"].read_text(encoding="utf-8")
    assert check_file("emitters") == []
    path = tmp_path / "wrong.yaml"
    path.write_text(text.replace("bench: emitters", "bench: metro"), encoding="utf-8")
    with pytest.raises(ConfigError, match="station"):
        load_experiment(path)
