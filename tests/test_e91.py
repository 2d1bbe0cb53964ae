"""`bellbench run e91` and `six_state` on twins: analyzers that turn, against closed forms."""

from __future__ import annotations

import dataclasses
import io
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bellbench.configs import ConfigErrors, bundled
from bellbench.experiments import Outcome, load_experiment, run_experiment, summary

V = 0.98  # what worlds/e91.yaml says
SEED = 4
SHORT = {
    "duration: 16 s ": "duration: 4 s ",
    "duration: 20 s ": "duration: 3.5 s ",
    "dwell: 0.8 s": "dwell: 0.2 s",
    "dwell: 0.4 s": "dwell: 0.2 s",
    "calibration: 1 s ": "calibration: 0.5 s ",
    "epsilon: 1e-10": "epsilon: 1e-6",
}
#: World time at which the calibration of these runs is over.
CALIBRATED_S = 4.4

Runs = Callable[..., Outcome]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """Runs a bundled experiment, shorter, on its bundled bench with a diode that is warm."""
    folder = tmp_path_factory.mktemp("e91")
    world = bundled("worlds")["e91"].read_text(encoding="utf-8")
    world = world.replace("kind: pump_laser", "kind: pump_laser\n    tec_time_constant: 0.1 s")
    bench = bundled("benches")["e91"].read_text(encoding="utf-8")

    def run(name: str, *, events: str = "", seed: int = SEED, **changes: Any) -> Outcome:
        (folder / "world.yaml").write_text(world + events, encoding="utf-8")
        (folder / "bench.yaml").write_text(
            bench.replace("world: e91", "world: world.yaml"), encoding="utf-8"
        )
        text = bundled("experiments")[name].read_text(encoding="utf-8")
        for old, new in SHORT.items():
            text = text.replace(old, new)
        text = text.replace("bench: e91", "bench: bench.yaml")
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
        config = load_experiment(folder / f"{name}.yaml")
        config = dataclasses.replace(config, file=config.file.model_copy(update=changes))
        return run_experiment(config, seed=seed, out=folder / "runs")

    return run


def shown(outcome: Outcome) -> str:
    from rich.console import Console

    out = io.StringIO()
    Console(file=out, width=120).print(summary(outcome))
    return out.getvalue()


@pytest.fixture(scope="module")
def e91(runs: Runs) -> Outcome:
    return runs("e91")


def test_s_is_that_of_the_source(e91: Outcome) -> None:
    m = e91.metrics
    assert not m["aborted"]
    for name in ("chsh", "chsh_ekert"):
        s = m[name]
        assert abs(s["value"] - 2 * math.sqrt(2) * V) < 3 * s["sigma"], name
        assert s["value"] > 2 + 10 * s["sigma"]
    assert len(m["correlations"]) == 8
    for one in m["correlations"]:
        angle = math.radians(2 * (float(one["bob"]) - float(one["alice"])))
        assert abs(one["value"] - V * math.cos(angle)) < 4 * one["sigma"], one


def test_equal_settings_make_key(e91: Outcome) -> None:
    m = e91.metrics
    assert m["qber"] == pytest.approx((1 - V) / 2, abs=4e-3)
    assert m["secret_key_bits"] > 1000
    keys = [(e91.folder / f"{party}.key").read_bytes() for party in ("alice", "bob")]
    assert keys[0] == keys[1]
    # clicks while the paddles turn make neither key nor S: a quarter and a half of the others do
    used = m["coincidences"] * (1 - m["unset_events"]["alice"] / (4.0e4 * m["duration_s"]))
    assert m["test_pairs"] + 2 * m["sifted_bits"] == pytest.approx(used, rel=0.1)
    report = json.loads((e91.folder / "report.json").read_text(encoding="utf-8"))
    assert report["alice"]["settings"]["scheme"] == "e91"
    assert (e91.folder / "chsh.png").exists()
    assert "CHSH S" in shown(e91)


@pytest.mark.usefixtures("no_pictures")
def test_an_eavesdropper_takes_s_below_2_and_the_key(runs: Runs, e91: Outcome) -> None:
    """Photons measured in Z or X and sent again: E falls to a half at every setting."""
    event = f"events: [{{at: {CALIBRATED_S} s, event: interception, to: eve, intercept: 100 %}}]\n"
    outcome = runs("e91", events=event, duration=2.0)
    m = outcome.metrics
    assert m["aborted"]
    assert "S 1." in m["reason"]
    assert m["secret_key_bits"] == 0
    assert not (outcome.folder / "alice.key").exists()
    s = m["chsh"]
    assert abs(s["value"] - math.sqrt(2) * V) < 3 * s["sigma"]
    assert s["value"] + 5 * s["sigma"] < 2
    assert "aborted" in shown(outcome)
    # until then it was the same run, by its seed
    for name in ("car", "visibility", "delays_ps", "paddles_deg"):
        assert m[name] == e91.metrics[name], name


@pytest.mark.slow  # test_qkd_e91 has the session
@pytest.mark.usefixtures("no_pictures")
def test_six_states_at_three_settings(runs: Runs) -> None:
    outcome = runs("six_state")
    m = outcome.metrics
    assert {one["alice"] for one in m["correlations"]} == {"Z", "X", "Y"}
    for one in m["correlations"]:
        assert one["alice"] == one["bob"]
        assert abs(one["value"] - V) < 4 * one["sigma"], one
    assert not m["aborted"]
    keys = [(outcome.folder / f"{party}.key").read_bytes() for party in ("alice", "bob")]
    assert keys[0] == keys[1]
    assert keys[0]
    assert "errors Y (test)" in shown(outcome)


def test_a_bench_without_paddles_is_refused(tmp_path: Path) -> None:
    text = bundled("experiments")["e91"].read_text(encoding="utf-8")
    (tmp_path / "e91.yaml").write_text(
        text.replace("bench: e91", "bench: tabletop") + "angles: {alice: [[1 deg, 2 deg]]}\n",
        encoding="utf-8",
    )
    with pytest.raises(ConfigErrors) as caught:
        load_experiment(tmp_path / "e91.yaml")
    words = str(caught.value)
    assert "'bob' with a controller" in words
    assert "1 settings of 3 angles" in words
