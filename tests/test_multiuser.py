"""The bundled network of four users: every link as its world file promises, and a key on one."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import bellbench
import pytest
from bellbench.bench import load_bench
from bellbench.experiments import load_experiment, run_experiment
from bellbench.instruments import TagBatch, concatenate
from bellbench.protocols import timing
from bellbench.sims.elements import PumpLaser, SnspdArray
from bellbench.sims.world import World

USERS = ("alice", "bob", "chloe", "dave")
REACH = {"alice": 0.103, "bob": 0.0898, "chloe": 0.0984, "dave": 0.1079}
PAIRS_HZ = 2.5e6


def test_every_two_users_share_the_pairs_of_one_pair_of_channels() -> None:
    model: Any = load_bench("multiuser").world
    world = World(model, seed=1)
    for element in world.elements.values():
        if isinstance(element, PumpLaser):
            element.current_a, element.emitting = 0.09, True
        elif isinstance(element, SnspdArray):
            element.enabled, element.bias_a = True, [18e-6] * 4
    world.elements["oven"].temperature_c = 40.0  # type: ignore[attr-defined]
    for n, (one, two) in enumerate(itertools.combinations(USERS, 2), start=1):
        rates = world.mean_rates("source", channel=n)
        expected = PAIRS_HZ * REACH[one] * REACH[two]
        assert rates.both.sum() == pytest.approx(expected, rel=5e-3), (one, two)
        for block in (rates.both[:2, :2], rates.both[2:, 2:]):
            assert (block[0, 1] + block[1, 0]) / block.sum() == pytest.approx(0.01, abs=1e-4)


def test_two_users_that_no_protocol_names_find_each_other() -> None:
    """Chloe and Dave, through every wire: rate, accidentals and visibility of their link."""
    read: dict[str, list[TagBatch]] = {"chloe": [], "dave": []}
    with bellbench.open_bench("multiuser", twin=True, seed=5) as lab:
        for party in read:
            lab.parties[party].tagger.start()
        for _ in range(4):
            lab.clock.sleep(0.1)
            for party, batches in read.items():
                batches.append(lab.parties[party].tagger.read())
    chloe, dave = (concatenate(batches) for batches in read.values())
    delays = timing.find_channel_delays(chloe, dave)
    window = 400
    counter = timing.CoincidenceCounter(
        (1, 2, 3, 4),
        (1, 2, 3, 4),
        window,
        delays_a=delays.delays_a,
        delays_b=delays.delays_b,
    )
    counter.add(chloe, dave)
    counts = counter.finish()
    singles = {name: 3 * PAIRS_HZ * REACH[name] + 300 for name in read}
    live = {name: rate / (1 + rate * 30e-9 / 4) for name, rate in singles.items()}
    # Both end together; a recording begins some ms after its command.
    seconds = min(len(chloe) / live["chloe"], len(dave) / live["dave"])
    assert 0.3 < seconds < 0.4
    # 4 jitters of 60 ps, and 4 km of 17 ps/nm/km over 0.6 nm
    fwhm = math.hypot(120, 4 * 17 * 0.6)
    inside = math.erf(math.sqrt(math.log(2)) * window / fwhm)
    share = live["chloe"] * live["dave"] / (singles["chloe"] * singles["dave"])
    true = PAIRS_HZ * REACH["chloe"] * REACH["dave"] * inside * share * seconds
    accidental = live["chloe"] * live["dave"] * window * 1e-12 * seconds
    matrix = counts.counts
    assert abs(matrix.sum() - true - accidental) < 5 * math.sqrt(true) + 0.005 * true
    wrong = int(matrix[0, 1] + matrix[1, 0] + matrix[2, 3] + matrix[3, 2])
    expected = true / 2 * 0.01 + accidental / 4
    assert abs(wrong - expected) < 5 * math.sqrt(expected)


@pytest.mark.slow
@pytest.mark.usefixtures("no_pictures")
def test_alice_and_bob_exchange_a_key_in_the_noise_of_the_other_links(tmp_path: Path) -> None:
    experiment = load_experiment("bbm92_multiuser", duration=3.0)
    metrics = run_experiment(experiment, seed=1, out=tmp_path).metrics
    assert not metrics["aborted"], metrics["reason"]
    assert metrics["secret_key_bits"] > 3000
    assert metrics["qber"] == pytest.approx(0.0135, abs=0.003)
