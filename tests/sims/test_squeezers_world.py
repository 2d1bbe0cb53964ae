"""A world whose fibre drifts, with squeezers: the lock follows it through blocks and rates."""

from pathlib import Path

import numpy as np
import pytest
from bellbench.instruments import Limits
from bellbench.protocols.lock import (
    LockSettings,
    LockState,
    PolarizationLock,
    RetarderStation,
    Station,
)
from bellbench.sims.elements import LiquidCrystals, PumpLaser, SnspdArray, Squeezers
from bellbench.sims.layout import WorldModel
from bellbench.sims.world import World

SIDES = ("alice", "bob")


def make_world(controller: dict[str, object], *, drift: bool = True) -> World:
    detector = {"efficiency": 0.8, "dark_rate": 25.0, "jitter": 60e-12, "dead_time": 30e-9}
    elements: dict[str, dict[str, object]] = {
        "pump": {"kind": "pump_laser", "threshold": 0.04, "slope": 0.5},
        "crystal": {"kind": "spdc", "pump": "pump", "pair_rate": 1e7, "visibility": 0.98},
    }
    drifting = {"drift_time": 1800.0} if drift else {}
    for side in SIDES:
        elements |= {
            f"{side}_fibre": {"kind": "fibre", "length": 1e3, **drifting},
            f"{side}_analyzer": {"kind": "analyzer"},
            f"{side}_snspd": {"kind": "snspd", "detectors": [detector] * 4},
        }
    elements["control"] = controller
    paths = [
        ["crystal.signal", "alice_fibre", "control", "alice_analyzer", "alice_snspd"],
        ["crystal.idler", "bob_fibre", "bob_analyzer", "bob_snspd"],
    ]
    world = World(WorldModel.model_validate({"elements": elements, "paths": paths}), seed=3)
    pump = world.elements["pump"]
    assert isinstance(pump, PumpLaser)
    pump.current_a, pump.emitting = 0.045, True
    for side in SIDES:
        array = world.elements[f"{side}_snspd"]
        assert isinstance(array, SnspdArray)
        array.enabled, array.bias_a = True, [18e-6] * 4
    return world


def qbers(world: World) -> list[float]:
    both = world.mean_rates("crystal").both
    return [
        float((block[0, 1] + block[1, 0]) / block.sum()) for block in (both[:2, :2], both[2:, 2:])
    ]


def test_the_lock_brings_a_drifting_world_to_its_optimum_with_squeezers() -> None:
    """From anywhere, past creep and hysteresis, 1800 revealed bits/s in each basis."""
    world = make_world({"kind": "squeezers"})
    squeezers = world.elements["control"]
    assert isinstance(squeezers, Squeezers)
    start = (0.7, -0.9, 1.1, 0.4)
    for i, volts in enumerate(start):
        squeezers.drive(i, volts)
    limits, curve = (Limits(-5, 5),) * 4, ((0.0, 0.0), (1.4, 180.0))
    alice = RetarderStation(squeezers.model.axes, curve, limits, start)
    lock = PolarizationLock((alice, Station((), (), ())), LockSettings(good=0.03))
    rng = np.random.default_rng(1)
    seen: list[float] = []
    for k in range(44):
        for _ in range(50):
            world.run_block()
        rates = qbers(world)
        seen.append(sum(rates) / 2)
        compared = rng.poisson(900, 2)
        wrong = rng.binomial(compared, rates)
        lock.add(0.5 * k, 0.5 * (k + 1), compared.tolist(), wrong.tolist())
        points = lock.advance(0.5 * (k + 1), True)
        for i, volts in enumerate(points[0] if points is not None else ()):
            squeezers.drive(i, round(volts, 3))
    assert seen[0] > 0.15
    assert np.mean(seen[-20:]) < 0.01 + 0.01
    assert lock.state is LockState.LOCKED


def test_light_in_the_world_turns_with_the_voltage() -> None:
    """Alice's squeezer about S1 turns D away from X, not H from Z: QBER_X = (1 - V cos phi)/2."""
    world = make_world({"kind": "squeezers", "hysteresis": 0.0, "creep": 0.0}, drift=False)
    squeezers = world.elements["control"]
    assert isinstance(squeezers, Squeezers)
    for volts in (0.0, 0.35, 0.7, 1.4, -2.8):
        squeezers.drive(0, volts)
        world.run_block()
        z, x = qbers(world)
        assert z == pytest.approx(0.01, abs=1e-4)
        assert x == pytest.approx((1 - 0.98 * np.cos(np.pi * volts / 1.4)) / 2, abs=1e-4)


def test_cells_in_the_world_take_their_time() -> None:
    world = make_world({"kind": "liquid_crystals", "rise": 0.05, "axes": (0.0,)}, drift=False)
    cells = world.elements["control"]
    assert isinstance(cells, LiquidCrystals)
    cells.driven, cells.amplitudes_v = True, [20.0]  # hardly any retardance
    for _ in range(20):
        world.run_block()
    assert qbers(world)[1] == pytest.approx(0.01, abs=1e-3)
    cells.driven = False  # back to 540 degrees
    seen = []
    for _ in range(40):
        world.run_block()
        phi = np.radians(cells.retardances_deg[0])
        seen.append(qbers(world)[1])
        assert seen[-1] == pytest.approx((1 - 0.98 * np.cos(phi)) / 2, abs=1e-3)
    assert max(seen) > 0.9  # swept past half a turn
    assert seen[-1] > 0.9


def test_a_world_resumed_remembers_where_its_piezos_were(tmp_path: Path) -> None:
    worlds = [make_world({"kind": "squeezers"}) for _ in range(2)]
    first, second = worlds
    for volts in (2.0, -1.0, 0.5):
        element = first.elements["control"]
        assert isinstance(element, Squeezers)
        element.drive(1, volts)
        for _ in range(30):
            first.run_block()
    first.save(tmp_path / "state.json")
    second.resume(tmp_path / "state.json")
    for world in worlds:
        element = world.elements["control"]
        assert isinstance(element, Squeezers)
        element.drive(1, 0.8)
        world.run_block()
    assert qbers(second) == pytest.approx(qbers(first), abs=1e-9)
