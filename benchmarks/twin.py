"""How fast the world makes clicks: ``python benchmarks/twin.py [--json] [--quick]``.

One process, one core: photons, losses, jitter, sorting and dead time, at several rates and numbers
of detectors, against real time and against two peers measured in the same run: plain numpy that
makes every pair and loses photons afterwards, and one Python object per photon. Then a served
world beside the wall clock, with a driver reading each tagger.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import random
import shutil
import subprocess
import sys
import tempfile
import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
from bellbench.bench import load_bench, open_bench
from bellbench.configs import find_config
from bellbench.sims.elements import (
    DelayGenerator,
    Oven,
    Paddles,
    PumpLaser,
    SnspdArray,
    TaggerInputs,
)
from bellbench.sims.world import BLOCK_PS, World, WorldModel

BIAS_A = 18e-6
DETECTOR = {"efficiency": 0.8, "dark_rate": 75.0, "jitter": 60e-12, "dead_time": 30e-9}


def link(
    rate_hz: float, *, channels: int = 1, drifting: bool = False, **detector: Any
) -> WorldModel:
    """Two parties, 10 % and 10 % from crystal to click, ``rate_hz`` clicks a second each.

    With ``channels`` > 1 the crystal serves as many pairs of parties, with a detector each; with
    ``drifting`` two parties have four detectors and fibres that walk.
    """
    elements: dict[str, Any] = {
        "pump": {"kind": "pump_laser", "threshold": 0.04, "slope": 0.5},
        "crystal": {"kind": "spdc", "pump": "pump", "pair_rate": channels * rate_hz / 0.1},
    }
    if channels > 1:
        elements["crystal"]["channels"] = [1 / channels] * channels
    paths = []
    for n in range(channels):
        for arm, letter in (("signal", "s"), ("idler", "i")):
            name = f"{arm}{n}"
            elements |= {
                f"{name}_fibre": {
                    "kind": "fibre",
                    "length": 1e4,
                    "attenuation": 0.0,
                    "loss": 10 * math.log10(0.8 / 0.1),
                    "drift_time": 3600.0 if drifting else None,
                },
                f"{name}_snspd": {
                    "kind": "snspd",
                    "detectors": [DETECTOR | detector] * (4 if drifting else 1),
                },
                f"{name}_tagger": {"kind": "tagger", "jitter": 60e-12},
            }
            port = arm if channels == 1 else f"{letter}{n + 1}"
            path = [f"crystal.{port}", f"{name}_fibre", f"{name}_snspd", f"{name}_tagger"]
            if drifting:
                elements[f"{name}_analyzer"] = {"kind": "analyzer"}
                path.insert(2, f"{name}_analyzer")
            paths.append(path)
    return WorldModel.model_validate({"elements": elements, "paths": paths})


def ready(model: WorldModel, pump_a: float) -> World:
    """A world with its pump on, all detectors biased, all taggers recording."""
    world = World(model, seed=1)
    for element in world.elements.values():
        if isinstance(element, PumpLaser):
            element.current_a, element.emitting = pump_a, True
        elif isinstance(element, Oven):
            element.temperature_c = element.setpoint_c = 40.0
            element.heating = True
        elif isinstance(element, SnspdArray):
            element.enabled, element.bias_a = True, [BIAS_A] * len(element.model.detectors)
        elif isinstance(element, TaggerInputs):
            element.recording = True
        elif isinstance(element, Paddles):
            element.angles_deg = [0.0] * 3
        elif isinstance(element, DelayGenerator):
            element.source, element.rate_uhz = "internal", 5 * 10**12
    return world


def tags_per_second(world: World, seconds: float) -> tuple[float, float]:
    """Tags per second of the processor, and world time per wall time."""
    taggers = [e for e in world.elements.values() if isinstance(e, TaggerInputs)]
    for _ in range(20):
        world.run_block()  # compiles kernels, fills the tables of a pulse
    tags, blocks, began = 0, 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        world.run_block()
        blocks += 1
        tags += sum(tagger.times_ps.size for tagger in taggers)
    spent = time.perf_counter() - began
    return tags / spent, blocks * BLOCK_PS * 1e-12 / spent


def numpy_tags_per_second(rate_hz: float) -> float:
    """The peer: every pair in plain numpy, then loss, jitter, sorting and dead time."""
    rng = np.random.default_rng(1)
    eta, blocks, span = 0.1, max(1, round(2e6 / rate_hz)), 1e12
    pairs = min(rate_hz / eta, 2e7)
    span *= min(1.0, 2e6 * eta / rate_hz)
    tags, began = 0, time.perf_counter()
    for _ in range(min(blocks, 10)):
        emitted = rng.random(rng.poisson(pairs * span * 1e-12)) * span
        for _party in range(2):
            seen = emitted[rng.random(emitted.size) < eta]
            times = np.rint(seen + rng.normal(0.0, 36.0, seen.size)).astype(np.int64)
            times.sort()
            while (close := np.flatnonzero(np.diff(times) < 30_000)).size:
                times = np.delete(times, close[:1] + 1 if close.size == 1 else close + 1)
            tags += times.size
    return tags / (time.perf_counter() - began)


def objects_per_second(photons: int) -> float:
    """The peer: one object per photon, sorted; what an event-driven simulator does at least."""
    began = time.perf_counter()
    made = [{"time": random.random(), "detector": random.randrange(4)} for _ in range(photons)]
    made.sort(key=lambda photon: photon["time"])
    return photons / (time.perf_counter() - began)


def bytes_per_tag(world: World) -> tuple[float, float]:
    """What a block's tags take, and the most that making them took, bytes per tag."""
    tags = 0
    for _ in range(20):
        world.run_block()
    gc.collect()
    tracemalloc.start()
    held = tracemalloc.get_traced_memory()[0]
    taggers = [e for e in world.elements.values() if isinstance(e, TaggerInputs)]
    for _ in range(20):
        world.run_block()
        tags = max(tags, sum(tagger.times_ps.size for tagger in taggers))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    own = sum(tagger.times_ps.nbytes + tagger.inputs.nbytes for tagger in taggers)
    return own / max(1, sum(t.times_ps.size for t in taggers)), (peak - held) / max(1, tags)


def paced(seconds: float, pump_a: float) -> tuple[float, float, int]:
    """Mtags/s that two drivers read beside the wall clock, the lag in s, and the losses."""
    folder = Path(tempfile.mkdtemp(prefix="bellbench-"))
    bench = folder / "bright.yaml"
    text = find_config("metro", "benches").read_text()
    bench.write_text(text.replace("current_limit: 150 mA", "current_limit: 400 mA"))
    command = [sys.executable, "-P", "-m", "bellbench", "twin", "serve", str(bench), "--seed", "1"]
    server = subprocess.Popen(  # the world in a process of its own, as a lab would serve it
        [*command, "--until-stdin-closes"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert server.stdin is not None
    assert server.stdout is not None
    try:
        where = {}
        for line in map(json.loads, iter(server.stdout.readline, b"")):
            if "control" in line:
                control = str(line["control"])
                break
            where[line["instrument"]] = line["address"]
        config = load_bench(bench, twin=False)
        with open_bench(config, addresses=where) as lab:
            lab.source.pump_current.set(pump_a)
            taggers = [lab.parties[name].tagger for name in ("alice", "bob")]
            for tagger in taggers:
                tagger.start()
            tags = losses = 0
            began = None
            while began is None or time.monotonic() - began < seconds:
                batches = [tagger.read() for tagger in taggers]
                if began is None and all(len(batch) for batch in batches):
                    began = time.monotonic()  # both streams run
                elif began is not None:
                    tags += sum(map(len, batches))
                    losses += sum(len(batch.losses) for batch in batches)
                time.sleep(0.05)
            spent = time.monotonic() - began
            for tagger in taggers:
                tagger.stop()
        host, _, port = control.rpartition(":")
        return tags / spent / 1e6, _lag(host, int(port)), losses
    finally:
        server.stdin.close()
        server.wait(timeout=30)
        server.stdout.close()
        shutil.rmtree(folder)


def _lag(host: str, port: int) -> float:
    import socket

    with socket.create_connection((host, port), timeout=10) as peer:
        peer.sendall(b'{"op": "hello"}\n')
        return float(json.loads(peer.makefile().readline())["lag_s"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quick", action="store_true", help="a tenth of the time")
    args = parser.parse_args()
    each = 0.3 if args.quick else 3.0
    rows: list[dict[str, Any]] = []

    def add(work: str, ours: float, unit: str, peer: str, value: float) -> None:
        rows.append(
            {
                "work": work,
                "ours": ours,
                "unit": unit,
                "peer": peer,
                "peer_value": value,
                "ratio": ours / value,
            }
        )

    objects = objects_per_second(300_000) / 1e6
    works: list[tuple[str, WorldModel, float, float | None]] = [
        (f"two detectors, {rate:.0e} clicks/s each", link(rate), 2.04, rate)
        for rate in (1e5, 1e6, 1e7)
    ]
    works += [
        (
            f"2 x 4 detectors, drift, {rate:.0e} clicks/s a party",
            link(rate, drifting=True),
            2.04,
            rate,
        )
        for rate in (1e6, 1e7)
    ]
    works += [
        (f"{2 * n} detectors, 1e6 clicks/s each", link(1e6, channels=n), 2.04, 1e6) for n in (4, 16)
    ]
    for bench, current in (("metro", 0.09), ("swap", 0.14)):
        model = load_bench(bench, twin=True).world
        assert model is not None
        works.append((f"{bench} world, {current * 1e3:g} mA", model, current, None))
    for label, model, current, peer_rate in works:
        ours, real_time = tags_per_second(ready(model, current), each)
        label = f"{label}, {real_time:.2g} x real time"
        if peer_rate is None:
            add(label, ours / 1e6, "Mtags/s", "one Python object per photon", objects)
        else:
            peer = numpy_tags_per_second(peer_rate) / 1e6
            add(label, ours / 1e6, "Mtags/s", "numpy, all pairs made", peer)
    own, peak = bytes_per_tag(ready(link(1e7), 2.04))
    add("memory of a tag", own, "B", "int64 time, int16 input", 10.0)
    add("memory to make a block, per tag", peak, "B", "int64 time, int16 input", 10.0)
    read, lag, losses = paced(1.0 if args.quick else 10.0, 0.207)
    add(
        f"served and read beside the wall clock, lag {lag:.2f} s, {losses} losses",
        read,
        "Mtags/s",
        "the goal",
        5.0,
    )
    if args.json:
        print(json.dumps(rows))
        return
    for row in rows:
        print(
            f"{row['work']:66s} {row['ours']:6.1f} {row['unit']:8s}"
            f"{row['ratio']:6.2f} x {row['peer']} ({row['peer_value']:.2f})"
        )


if __name__ == "__main__":
    main()
