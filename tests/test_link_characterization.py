"""The figures of a link, measured through every wire, against the closed form of its world."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from bellbench.experiments import check_file, load_experiment, run_experiment, summary
from bellbench.experiments.link_characterization import wrong_delays
from bellbench.protocols.qkd.link_model import Arm, CwLink
from rich.console import Console

DARK = """\
bellbench: experiment/1
protocol: link_characterization
bench: bench.yaml
duration: 1 s
calibration: 0.2 s
"""


def test_metro_is_the_link_that_its_world_describes(tmp_path: Path) -> None:
    config = load_experiment("link_metro", duration=1.5)
    outcome = run_experiment(config, seed=3, out=tmp_path)
    m = outcome.metrics
    arms = Arm(0.10, 300, 4, 30e-9), Arm(0.05, 300, 4, 30e-9)
    link = CwLink(1e7, *arms, window_s=300e-12, fwhm_s=120e-12, error=0.01)
    told = link.rates()
    live = [float(arm.live_share(1e7)) for arm in arms]
    # name: value of the closed form, and what the closed form itself leaves out
    expected: dict[str, tuple[Any, float]] = {
        "singles_hz.alice": (told.singles_a_hz, 1e-3),  # it does not thin darks
        "singles_hz.bob": (told.singles_b_hz, 1e-3),
        "true_hz": (told.true_hz, 2e-3),  # blind detectors of both are not quite independent
        "accidentals_hz": (told.accidental_hz, 2e-3),
        "car": (told.car, 4e-3),
        "qber": (told.qber, 0.0),
        "visibility_z": (told.visibility, 0.0),
        "heralding_efficiency.alice": (0.10 * live[0] * 0.9968, 2e-3),  # erf: 99.68 % in window
        "heralding_efficiency.bob": (0.05 * live[1] * 0.9968, 2e-3),
        "pair_rate_hz": (1e7 / 0.9968, 2e-3),
        "key_rate_bps": (told.key_rate_bps(), 5e-3),
    }
    for name, (value, slack) in expected.items():
        found = m
        for part in name.split("."):
            found = found[part]
        assert found["sigma"] > 0
        off = abs(found["value"] - float(value)) - slack * float(value)
        assert off < 4 * found["sigma"], f"{name}: {found}, expected {value}"
    assert m["fwhm_s"] == pytest.approx(120e-12, rel=0.05)
    assert m["live_s"] == pytest.approx(1.5, rel=1e-6)
    assert m["finite_key_bits"]["value"] < m["key_rate_bps"]["value"] * 1.5
    assert json.loads((outcome.folder / "metrics.json").read_text()) == m
    assert {"delays.png", "coincidences.png"} <= {p.name for p in outcome.folder.iterdir()}
    console = Console(width=120, file=io.StringIO(), record=True)
    console.print(summary(outcome))
    assert "key rate" in console.export_text()


def test_a_dark_bench_says_so(tmp_path: Path) -> None:
    from bellbench.configs import bundled

    metro = Path(bundled("benches")["metro"]).read_text(encoding="utf-8")
    (tmp_path / "bench.yaml").write_text(
        metro.replace("emission: true", "emission: false"), encoding="utf-8"
    )
    (tmp_path / "link.yaml").write_text(DARK, encoding="utf-8")
    outcome = run_experiment(load_experiment(tmp_path / "link.yaml"), seed=3, out=tmp_path / "runs")
    assert outcome.metrics["aborted"]
    assert "no coincidence peak" in outcome.metrics["reason"]
    assert "qber" not in outcome.metrics
    summary(outcome)


def test_any_two_parties_make_a_link_and_nobody_makes_one_alone(tmp_path: Path) -> None:
    file = tmp_path / "link.yaml"
    text = "bellbench: experiment/1\nprotocol: link_characterization\nbench: multiuser\n"
    file.write_text(text + "duration: 1 s\nparties: [chloe, dave]\n", encoding="utf-8")
    assert check_file(file) == []
    file.write_text(text + "duration: 1 s\nparties: [chloe, chloe]\n", encoding="utf-8")
    assert "names 'chloe' twice; a link has two ends" in str(check_file(file)[0])
    file.write_text(text + "duration: 1 s\nparties: [chloe, dan]\n", encoding="utf-8")
    assert "valid: alice, bob, chloe, dave" in str(check_file(file)[0])


def test_accidentals_of_pulses_are_counted_whole_periods_away() -> None:
    assert wrong_delays(1000, 300.0, None) == [20_000 * k for k in range(-10, 11) if k]
    assert wrong_delays(1000, 8000.0, None)[10] == 40_000
    period = 13_157.9
    got = wrong_delays(1000, 300.0, period)
    assert got == [round(2 * k * period) for k in range(-10, 11) if k]
