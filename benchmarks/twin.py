"""How fast the world makes clicks: ``python benchmarks/twin.py [--json]``.

One process, one core: generation with jitter, sorting and dead time of the metro world at several
pump powers, and of the swap world's two pulsed sources at 5 MHz, against real time and against the
peer of each photon as a Python object.
"""

import argparse
import json
import random
import time
from typing import Any

from bellbench.bench import load_bench
from bellbench.sims.elements import (
    DelayGenerator,
    Oven,
    Paddles,
    PumpLaser,
    SnspdArray,
    TaggerInputs,
)
from bellbench.sims.world import BLOCK_PS, World


def ready(bench: str, pump_a: float) -> World:
    """The world of a bench, its pump on, all detectors biased, all taggers recording."""
    model = load_bench(bench, twin=True).world
    assert model is not None
    world = World(model, seed=1)
    for element in world.elements.values():
        if isinstance(element, PumpLaser):
            element.current_a, element.emitting = pump_a, True
        elif isinstance(element, Oven):
            element.temperature_c = element.setpoint_c = 40.0
            element.heating = True
        elif isinstance(element, SnspdArray):
            element.enabled, element.bias_a = True, [18e-6] * len(element.model.detectors)
        elif isinstance(element, TaggerInputs):
            element.recording = True
        elif isinstance(element, Paddles):
            element.angles_deg = [0.0] * 3
        elif isinstance(element, DelayGenerator):
            element.source, element.rate_uhz = "internal", 5 * 10**12
    return world


def tags_per_second(world: World, blocks: int) -> tuple[float, float]:
    taggers = [e for e in world.elements.values() if isinstance(e, TaggerInputs)]
    for _ in range(20):
        world.run_block()  # compiles the dead-time kernel, fills the tables of a pulse
    tags, began = 0, time.perf_counter()
    for _ in range(blocks):
        world.run_block()
        tags += sum(tagger.times_ps.size for tagger in taggers)
    seconds = time.perf_counter() - began
    return tags / seconds, blocks * BLOCK_PS * 1e-12 / seconds


def objects_per_second(photons: int) -> float:
    """The peer: one object per photon, sorted; what an event-driven simulator does at least."""
    began = time.perf_counter()
    made = [{"time": random.random(), "detector": random.randrange(4)} for _ in range(photons)]
    made.sort(key=lambda photon: photon["time"])
    return photons / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    as_json = parser.parse_args().json
    peer = objects_per_second(300_000)
    rows: list[dict[str, Any]] = []
    settings = [("metro", ma) for ma in (45, 90, 290, 540)] + [("swap", ma) for ma in (70, 140)]
    for bench, pump_ma in settings:
        rate, real_time = tags_per_second(ready(bench, pump_ma * 1e-3), 200)
        rows.append(
            {
                "work": f"{bench} world, pump {pump_ma} mA, {real_time:.2g} x real time",
                "ours": rate / 1e6,
                "unit": "Mtags/s",
                "peer": "one Python object per photon",
                "peer_value": peer / 1e6,
                "ratio": rate / peer,
            }
        )
    if as_json:
        print(json.dumps(rows))
        return
    for row in rows:
        print(
            f"{row['work']:45s} {row['ours']:6.1f} {row['unit']}"
            f"   {row['ratio']:5.1f} x {row['peer']} ({row['peer_value']:.2f})"
        )


if __name__ == "__main__":
    main()
