"""An attenuator and a switch in a world: how much light comes where."""

from typing import Any

import numpy as np
import pytest
from bellbench.sims.elements import Attenuator, OpticalSwitch, PumpLaser, SnspdArray
from bellbench.sims.layout import WorldModel
from bellbench.sims.world import World


def make_world() -> World:
    """Signal through an attenuator onto two detectors behind a switch; idler onto a third."""
    detector = {"efficiency": 1.0, "dark_rate": 0.0, "jitter": 50e-12, "dead_time": 0.0}
    elements: dict[str, Any] = {
        "pump": {"kind": "pump_laser", "threshold": 0.04, "slope": 0.5},
        "crystal": {"kind": "spdc", "pump": "pump", "pair_rate": 4e8},
        "attenuator": {"kind": "attenuator", "attenuation": 3.0, "loss": 1.0},
        "switch": {"kind": "switch", "outputs": 2, "isolation": 10.0, "loss": 1.0},
        "first": {"kind": "snspd", "detectors": [detector]},
        "second": {"kind": "snspd", "detectors": [detector]},
        "idler": {"kind": "snspd", "detectors": [detector]},
    }
    paths = [
        ["crystal.signal", "attenuator", "switch.1", "first"],
        ["crystal.signal", "attenuator", "switch.2", "second"],
        ["crystal.idler", "idler"],
    ]
    world = World(WorldModel.model_validate({"elements": elements, "paths": paths}), seed=1)
    pump = world.elements["pump"]
    assert isinstance(pump, PumpLaser)
    pump.current_a, pump.emitting = 0.045, True  # 1e6 pairs/s
    for name in ("first", "second", "idler"):
        array = world.elements[name]
        assert isinstance(array, SnspdArray)
        array.enabled, array.bias_a, array.counting = True, [18e-6], True
    return world


def counts(world: World, blocks: int) -> dict[str, int]:
    found = dict.fromkeys(("first", "second", "idler"), 0)
    for _ in range(blocks):
        world.run_block()
        for name in found:
            array = world.elements[name]
            assert isinstance(array, SnspdArray)
            found[name] += int(np.sum(array.counts))
    return found


def test_light_goes_where_the_switch_is_joined_and_leaks_elsewhere() -> None:
    world = make_world()
    attenuator, switch = world.elements["attenuator"], world.elements["switch"]
    assert isinstance(attenuator, Attenuator)
    assert isinstance(switch, OpticalSwitch)
    pairs = counts(world, 20)["idler"]
    assert pairs == pytest.approx(1e6 * 0.2, rel=0.02)
    for decibels, selected in ((3.0, 1), (3.0, 2), (13.0, 2)):
        attenuator.attenuation_db, switch.selected = decibels, selected
        world.run_block()
        seen = counts(world, 20)
        share = 10 ** (-(decibels + 2.0) / 10)
        for name, port in (("first", 1), ("second", 2)):
            wanted = 2e5 * share * (1.0 if port == selected else 0.1)
            assert abs(seen[name] - wanted) < 5 * np.sqrt(wanted) + 1
        assert seen["idler"] == pytest.approx(2e5, rel=0.02)
