"""Decoy-state BB84 on the bundled bench: gains and errors of the closed form, and a key."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from bellbench.configs import bundled
from bellbench.experiments import Outcome, check_file, load_experiment, run_experiment, summary
from bellbench.protocols.qkd.bb84 import receiver_gains
from bellbench.protocols.qkd.finite_key import binary_entropy

#: worlds/bb84.yaml: 20 km at 0.2 dB/km, 3.0103 dB, 80 %; dark counts within the gate of 1 ns;
#: 20 dB of extinction.
EFFICIENCY = 10 ** (-(0.2 * 20 + 3.0103) / 10) * 0.8
DARK = 75 * 1e-9
MISALIGNMENT = 1 / (1 + 10 ** (20 / 10))
#: A weak security target, so that few shots give a key.
CHANGES = (
    ("duration: 0.48 s", "duration: 0.192 s"),
    ("secrecy: 1e-9", "secrecy: 1e-3"),
    ("correctness: 1e-12", "correctness: 1e-6"),
)


def written(folder: Path, *changes: tuple[str, str]) -> Path:
    """The bundled experiment with changes."""
    text = bundled("experiments")["bb84_decoy"].read_text(encoding="utf-8")
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    path = folder / "bb84_decoy.yaml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    folder = tmp_path_factory.mktemp("bb84")
    return run_experiment(load_experiment(written(folder, *CHANGES)), seed=7, out=folder)


def test_gains_and_errors_are_those_of_the_closed_form(outcome: Outcome) -> None:
    """Q_mu of Ma, Qi, Zhao and Lo, PRA 72, 012326 (2005), and E_mu at four detectors."""
    found = outcome.metrics
    photons = list(found["photons"].values())
    assert photons == [0.5, 0.1, 5e-4]
    gains, kept, errors = receiver_gains(photons, EFFICIENCY, DARK, MISALIGNMENT)
    dark = 1 - (1 - DARK) ** 4
    for k, (name, mu) in enumerate(found["photons"].items()):
        assert gains[k] == pytest.approx(1 - (1 - dark) * math.exp(-EFFICIENCY * mu))
        pulses = found["pulses"] * (0.15, 0.55, 0.30)[k]
        mean = pulses * gains[k]
        # the calibration is good to 2e-3, and dead times take some 1e-3
        assert abs(found["gains"][name] * pulses - mean) < 4 * math.sqrt(mean) + 4e-3 * mean + 2
        counts = found["counts"]
        assert counts["key"][k] + counts["test"][k] == pytest.approx(
            pulses * kept[k], rel=4e-3, abs=4 * math.sqrt(pulses * kept[k]) + 2
        )
        mean = counts["test"][k] * errors[k]
        assert abs(counts["wrong"][k] - mean) < 4 * math.sqrt(mean) + 1
    assert found["blind_slots"] < 50
    # Bob's beam splitter, whatever Alice's basis
    for name, gain in found["basis_gains"].items():
        mean = sum(gains * (0.15, 0.55, 0.30)) / 2
        assert gain == pytest.approx(mean, rel=0.05), name


def test_the_clocks_and_cables_are_found_by_the_clicks(outcome: Outcome) -> None:
    cables = {"H": 41_700, "V": 40_900, "D": 42_600, "A": 41_200}
    for label, delay in outcome.metrics["delays_ps"].items():
        assert delay == pytest.approx(cables[label] - cables["H"], abs=60)
    assert outcome.metrics["shots_lost"] == 0


def test_a_key_of_the_length_that_the_bound_gives(outcome: Outcome) -> None:
    found = outcome.metrics
    assert not found["aborted"]
    assert found["randomness"] == "seeded"
    counts, n = found["counts"], sum(found["counts"]["key"])
    assert found["sifted_bits"] == n + sum(counts["test"])
    # single photons of the key basis that honest light makes, and the bound on them
    single = sum(
        p * mu * math.exp(-mu) for p, mu in zip((0.15, 0.55, 0.30), (0.5, 0.1, 5e-4), strict=True)
    )
    expected = 0.7 * found["pulses"] * single * EFFICIENCY / 2
    assert 0.4 * expected < found["single_photons_key"] < expected
    assert MISALIGNMENT < found["phase_error"] < 0.25
    # Tupkary et al., with the halves of eps_sec, and the reserve charged
    least = found["single_photons_key"] * (1 - binary_entropy(found["phase_error"]))
    cost = found["leak_budget_bits"] + 1 - 2 * math.log2(1e-3) + math.log2(2e6)
    made = found["secret_key_bits"] + found["reserve_bits"]  # what fills the pool up is no key
    assert made == 8 * (math.floor(least - cost) // 8)
    assert found["secret_key_bits"] > 500
    assert found["leak_bits"] <= found["leak_budget_bits"]
    assert found["leak_bits"] >= n * binary_entropy(found["qber_reconciled"])
    assert found["epsilon"] == pytest.approx(1e-3 + 1e-6, rel=1e-3)
    keys = [(outcome.folder / f"{name}.key").read_bytes() for name in ("alice", "bob")]
    assert keys[0] == keys[1]
    assert 8 * len(keys[0]) == found["secret_key_bits"]
    assert (outcome.folder / "decoys.png").stat().st_size > 5000
    report = json.loads((outcome.folder / "report.json").read_text(encoding="utf-8"))
    assert any("Poisson" in line for line in report["alice"]["assumptions"])
    block = report["alice"]["own_clicks"]["decoy_blocks"]["0"]
    assert block["key"] == list(counts["key"])
    assert block["bound"]["single"] == found["single_photons_key"]
    assert summary(outcome) is not None


def test_mistakes_in_the_file_are_named(tmp_path: Path) -> None:
    for change, words in (
        (("[signal, decoy, vacuum]", "[signal, decoi, vacuum]"), "no decoi; did you mean 'decoy'"),
        (("[15 %, 55 %, 30 %]", "[15 %, 55 %, 20 %]"), "do not add up to 1"),
        (("bound: variable", "bound: rusca"), "bound rusca takes two intensities"),
        (("preamble: 8192", "preamble: 700000"), "no pulse behind its preamble"),
        (("bench: bb84", "bench: bb84\nsource: alice_laser"), "no weak coherent source"),
        (("bench: bb84", "bench: bb84\nsource: transmiter"), "did you mean 'transmitter'"),
        (("bench: bb84", "bench: metro"), "has no instrument 'transmitter'"),
    ):
        errors = check_file(written(tmp_path, change))
        assert errors
        assert any(words in str(error) for error in errors), (words, errors)
    assert check_file("bb84_decoy") == []
