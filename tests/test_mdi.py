"""`bellbench run mdi`: from modulators and clicks to counts, against closed forms of the world."""

import dataclasses
import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bellbench.configs import ConfigErrors, bundled
from bellbench.experiments import ExperimentConfig, load_experiment, run_experiment, summary
from bellbench.protocols.qkd.mdi_link import relay_gains

SEED = 5
SHOTS = 2
PULSES = 600_000
PREAMBLE = 8192

# What worlds/mdi.yaml and benches/mdi.yaml say.
MU = 0.4 * (0.001 + 0.999 * np.sin(np.pi / 2 * np.array([1.0, 0.3328, 0.0])) ** 2)
SHARES = np.array([0.4, 0.35, 0.25])
WAYS = (10 ** (-(2 + 0.5 + 0.5) / 10) * 0.8, 10 ** (-(2.4024 + 0.5 + 0.5) / 10) * 0.8)
LATE_NS = 2012 * 1.468 / 299_792_458 * 1e9
SETTLING_NS = 28 - 16
PERIOD_NS = 80
SLOTS = round((LATE_NS - SETTLING_NS) / PERIOD_NS)
GAP_NS = LATE_NS - SETTLING_NS - SLOTS * PERIOD_NS
SIGMA_NS = 1 / math.sqrt(8 * math.log(2))
OVERLAP = 0.98 * math.exp(-((GAP_NS / (2 * SIGMA_NS)) ** 2))
PAIRS = SHOTS * (PULSES - PREAMBLE - SLOTS)


def write(folder: Path, changes: dict[str, str]) -> Path:
    """The bundled experiment with other words."""
    text = bundled("experiments")["mdi"].read_text(encoding="utf-8")
    for old, new in changes.items():
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    path = folder / "mdi.yaml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """Figures and run folder of a short run."""
    config = load_experiment("mdi", duration=SHOTS * PULSES * PERIOD_NS * 1e-9)
    outcome = run_experiment(config, seed=SEED, out=tmp_path_factory.mktemp("mdi"))
    text = io.StringIO()
    from rich.console import Console

    Console(file=text, width=200).print(summary(outcome))
    assert "too few announcements" in text.getvalue()
    return json.loads(json.dumps(outcome.metrics)), outcome.folder


def values(grid: list[list[dict[str, float] | None]]) -> np.ndarray[Any, Any]:
    return np.array([[np.nan if cell is None else cell["value"] for cell in row] for row in grid])


def test_pulses_meet_as_the_world_says(ran: tuple[dict[str, Any], Path]) -> None:
    metrics = ran[0]
    assert 0 < GAP_NS < 0.25
    assert (metrics["offset_slots"], SLOTS) == (123, 123)
    assert (metrics["shots"], metrics["shots_missed"], metrics["shots_with_losses"]) == (
        SHOTS,
        0,
        0,
    )
    assert metrics["pulse_pairs"] == PAIRS
    assert metrics["intensities"]["alice"] == pytest.approx(MU, rel=2e-3)
    fit = metrics["fit"]
    for name, expected in (
        ("efficiency_a", WAYS[0]),
        ("efficiency_b", WAYS[1]),
        ("overlap", OVERLAP),
    ):
        value, sigma = fit[name]
        assert abs(value - expected) < 4 * sigma, name
        assert sigma < 0.06
    assert fit["chi2"] < 2.5
    assert metrics["hom_visibility"][0] == pytest.approx(fit["overlap"][0] / 2)


def test_gains_and_errors_of_every_pair_of_intensities(
    ran: tuple[dict[str, Any], Path],
) -> None:
    """Ma, Fung and Razavi, PRA 86, 052305 (2012), at the overlap of the world."""
    metrics = ran[0]
    expected = relay_gains(list(MU), list(MU), *WAYS, overlap=OVERLAP, dark=75 * 4e-9)
    sent = PAIRS * np.outer(SHARES, SHARES) / 4
    for basis, name in enumerate("ZX"):
        found = values(metrics["gains"][name]) * sent
        mean = expected.gain[basis] * sent
        assert np.abs((found - mean) / np.sqrt(mean + 1)).max() < 4, name
    in_x = values(metrics["gains"]["X"]) * sent
    wrong = np.nan_to_num(values(metrics["errors"]["X"])) * in_x
    mean = expected.wrong[1] * sent
    assert np.abs((wrong - mean) / np.sqrt(mean + 1)).max() < 4
    # Z errs by leaks of the beam splitters, 1e-4, and what weakest pulses and dark counts add
    assert metrics["errors"]["Z"][0][0] is None  # the key's own bits are not told
    assert 0 <= metrics["qber_z"] < 0.02
    assert metrics["qber_x"] == pytest.approx(
        mean.sum() / (expected.gain[1] * sent).sum(), abs=0.04
    )
    both = metrics["announced"]
    assert abs(both["psi-"] - both["psi+"]) < 4 * math.sqrt(sum(both.values()))


def test_it_says_what_is_missing_to_a_key(ran: tuple[dict[str, Any], Path]) -> None:
    metrics, folder = ran
    assert metrics["aborted"]
    assert "too few announcements for a finite key" in metrics["reason"]
    assert metrics["secret_key_bits"] == 0
    assert metrics["epsilon"] is None
    assert metrics["epsilon_spent"] == pytest.approx(2e-10, rel=1e-4)
    assert metrics["randomness"] == "seeded"
    for bound in metrics["bounds"].values():
        assert bound["length"] == 0
        assert bound["raw"] < 0
        assert bound["key_bits"] > 50
    assert metrics["leak_bits"] == 0  # nothing was reconciled in vain
    told = metrics["disclosed_bits"]
    assert told["alice test"] == told["bob test"] > 1000
    single = metrics["single_pairs"]
    # lower and upper bounds, but for statistics: single pairs have Y11 = eta_a eta_b / 2
    assert single["yield"]["Z"] < 1.5 * WAYS[0] * WAYS[1] / 2
    assert single["error_x"] > (1 - OVERLAP) / 2 - 0.03
    names = {path.name for path in folder.iterdir()}
    assert {"gains.png", "report.json", "report.md", "metrics.json"} <= names
    assert not [name for name in names if name.endswith(".key")]
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))["alice"]
    assert report["rehearsal"]
    assert "nothing about the relay and its detectors" in report["assumptions"]
    assert len(report["blocks"]) == 2


QUICK = {
    "duration: 0.288 s": "duration: 4.8 ms",
    "shot_pulses: 600000": "shot_pulses: 60000",
    "preamble: 8192 ": "preamble: 4096 ",
}


def without(config: ExperimentConfig, instrument: str, **settings: Any) -> ExperimentConfig:
    instruments = dict(config.bench.instruments)
    old = instruments[instrument]
    new = old.settings.model_validate(old.settings.model_dump() | settings)
    instruments[instrument] = dataclasses.replace(old, settings=new)
    bench = dataclasses.replace(config.bench, instruments=instruments)
    return dataclasses.replace(config, bench=bench)


@pytest.mark.slow
@pytest.mark.usefixtures("no_pictures")
def test_a_dark_sender_makes_no_announcements(tmp_path: Path) -> None:
    config = load_experiment(write(tmp_path, QUICK))
    dark = without(config, "bob_laser", emission=False)
    metrics = run_experiment(dark, seed=SEED, out=tmp_path / "runs").metrics
    assert metrics["aborted"]
    assert (metrics["shots"], metrics["shots_missed"]) == (1, 1)
    assert sum(metrics["announced"].values()) == 0
    assert metrics["fit"] is None
    assert metrics["secret_key_bits"] == 0


@pytest.mark.slow
@pytest.mark.usefixtures("no_pictures")
def test_without_any_light_the_run_ends_with_its_reason(tmp_path: Path) -> None:
    config = load_experiment(write(tmp_path, QUICK))
    for laser in ("alice_laser", "bob_laser"):
        config = without(config, laser, emission=False)
    metrics = run_experiment(config, seed=SEED, out=tmp_path / "runs").metrics
    assert metrics["aborted"]
    assert "shows no pulses" in metrics["reason"]
    assert metrics["announced"] == {}
    assert metrics["single_pairs"] is None


@pytest.mark.slow  # as in end_to_end, of every run
@pytest.mark.usefixtures("no_pictures")
def test_the_same_seed_gives_the_same_figures(tmp_path: Path) -> None:
    config = load_experiment(write(tmp_path, QUICK))
    first, second = (
        {
            k: v
            for k, v in run_experiment(config, seed=7, out=tmp_path).metrics.items()
            if k != "wall_s"
        }
        for _ in range(2)
    )
    assert first == second


def test_mistakes_in_the_file_are_named(tmp_path: Path) -> None:
    wrong = {
        "bench: mdi\n": "bench: mdi\nsenders: {alice: alice_transmiter, bob: bob_laser}\n",
    }
    with pytest.raises(ConfigErrors) as caught:
        load_experiment(write(tmp_path, wrong))
    text = str(caught.value)
    assert "did you mean 'alice_transmitter'" in text
    assert "'bob_laser' is a thorlabs.cld1015, no weak coherent source" in text
    for changes, words in (
        ({"bench: mdi\n": "bench: metro\n"}, "needs a party 'relay'"),
        ({"[signal, decoy, vacuum]": "[signal, decoi, vacuum]"}, "did you mean 'decoy'"),
        ({"[signal, decoy, vacuum]": "[decoy, signal, vacuum]"}, "do not decrease"),
        ({"[40 %, 35 %, 25 %]": "[40 %, 35 %, 35 %]"}, "add up to 1"),
        ({"preamble: 8192 ": "preamble: 600000 "}, "a preamble, pulses behind it"),
    ):
        with pytest.raises(ConfigErrors, match=words):
            load_experiment(write(tmp_path, changes))
