"""The experiment `memory_storage` with a gas that stops light, and its memory on the wire."""

import math
import re
from pathlib import Path
from typing import Any

import bellbench
import pytest
from bellbench.configs import bundled
from bellbench.experiments import load_experiment, run_experiment


def test_the_gas_memory_on_its_twin() -> None:
    with bellbench.open_bench("memory_eit", seed=1, bring_up=False) as lab:
        assert lab.memory.info.kind == "EIT"
        lab.memory.prepare()
        lab.memory.store()
        longest = lab.memory.info.max_storage_s
        lab.memory.retrieve(longest)
        lab.clock.sleep(0.1)
        assert lab.memory.state.get() == "retrieving"
        assert lab.memory.storage_time.get() == pytest.approx(longest, abs=5e-12)
        assert lab.sequencer.events() == ("triggered", "cycle ended")  # no trigger was ignored


@pytest.mark.slow
def test_efficiency_lifetime_and_noise_of_a_gas(tmp_path: Path) -> None:
    text = bundled("experiments")["memory_storage_eit"].read_text(encoding="utf-8")
    text, changed = re.subn("duration: 5 s  ", "duration: 2 s  ", text)
    assert changed == 1
    path = tmp_path / "eit.yaml"
    path.write_text(text, encoding="utf-8")
    config = load_experiment(path)
    assert config.bench.world is not None
    gas: Any = config.bench.world.elements["memory"]
    found = run_experiment(config, seed=1, out=tmp_path / "runs").metrics
    assert not found["aborted"]
    pumped = 1 - math.exp(-10e-6 / gas.pump_time)
    spectrum = 2 * math.log(2) / math.pi / 200e-9
    in_band = 1 / math.hypot(1, spectrum / gas.bandwidth)
    full = gas.efficiency * pumped * in_band / gas.transparency
    rows = [(found["echo_efficiency"], 0.0)]
    rows += [(row["efficiency"], row["storage_s"] - gas.group_delay) for row in found["storage"]]
    for measured, dark_s in rows:
        expected = full * math.exp(-((dark_s / gas.spin_coherence_time) ** 2))
        # pairs that come together, and the last of the pumping, make 2 %
        assert abs(measured["value"] - expected) < 3 * measured["sigma"] + 0.02 * expected
    for key, expected in (
        ("lifetime_s", gas.spin_coherence_time),
        ("noise_photons_per_mode", gas.noise),
    ):
        assert abs(found[key]["value"] - expected) < 3 * found[key]["sigma"]
    mu1 = gas.noise * 40e-9 / gas.mode_duration / found["storage"][0]["efficiency"]["value"]
    assert abs(found["mu1"]["value"] - mu1) < 3 * found["mu1"]["sigma"]
