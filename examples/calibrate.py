"""A morning on the table: find phase matching and polarization, keep them, use them.

`bellbench calibrate` does this with one command per kind. Here the routines are called on an open
bench, with scans that suit it; what they find goes into the registry, from which a bench takes it.
"""

import argparse
import datetime
from pathlib import Path

import bellbench
from bellbench import Lab, calibrations, plots
from bellbench.bench import load_bench
from bellbench.calibrations import Calibration, Value, made_on
from bellbench.instruments import TagBatch, TimeTagger, concatenate
from bellbench.protocols import calibration, timing

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--bench", default="tabletop")
parser.add_argument("--seed", type=int, default=1, help="of the twins' world")
options = parser.parse_args()
config = load_bench(options.bench)
registry = Path("calibrations")


def record(lab: Lab, taggers: list[TimeTagger], seconds: float) -> list[TagBatch]:
    """Clicks of some seconds, one batch per tagger."""
    for tagger in taggers:
        tagger.start()
    parts: list[list[TagBatch]] = [[] for _ in taggers]
    for _ in range(round(seconds / 0.1)):
        lab.clock.sleep(0.1)
        for part, tagger in zip(parts, taggers, strict=True):
            part.append(tagger.read())
    for tagger in taggers:
        tagger.stop()
    return [concatenate(part) for part in parts]


def look(lab: Lab, when: str) -> None:
    """Print the rate of coincidences, and the share of wrong ones in Z and X."""
    parties = lab.parties["alice"], lab.parties["bob"]
    a, b = record(lab, [party.tagger for party in parties], 1.0)
    inputs = [list(party.inputs("HVDA").values()) for party in parties]
    found = timing.find_channel_delays(
        a, b, channels_a=inputs[0], channels_b=inputs[1], search_ps=10_000_000_000
    )
    counter = timing.CoincidenceCounter(
        inputs[0], inputs[1], 400, delays_a=found.delays_a, delays_b=found.delays_b
    )
    counter.add(a, b)
    n = counter.finish().counts
    wrong = n[0, 1] + n[1, 0] + n[2, 3] + n[3, 2]
    qber = wrong / (n[:2, :2].sum() + n[2:, 2:].sum())
    print(f"{when}: {n.sum() / a.live_s:.0f} coincidences/s, QBER {qber:.1%}")


def entry(kind: calibrations.Kind, instrument: str, found: dict[str, Value]) -> Calibration:
    """What the registry keeps; valid for an hour."""
    return Calibration(
        kind=kind,
        bench=config.path.stem,
        made_on=made_on(config),
        who="examples/calibrate.py",
        when=datetime.datetime.now(datetime.UTC),
        valid_for=3600.0,
        values={instrument: found},
    )


with bellbench.open_bench(config, seed=options.seed) as lab:
    look(lab, "as found")
    alice, bob = lab.parties["alice"], lab.parties["bob"]
    crystal = calibration.find_phase_matching(
        lab.source, [alice.tagger, bob.tagger], lab.clock, span_k=6.0, step_k=1.0, settle_s=2.5
    )
    if not crystal.ok:
        raise SystemExit(crystal.reason)
    print(f"phase matching at {crystal.optimum_c:.3f} ± {crystal.sigma_c:.3f} °C")
    optimum = Value(value=crystal.optimum_c, sigma=crystal.sigma_c, unit="degC")
    made = entry("phase_matching", "source", {"crystal_temperature": optimum})
    calibrations.store(registry, made, lambda path: plots.plot_phase_matching(path, crystal))

    aligned = calibration.find_polarization(
        calibration.Station(alice.tagger, alice.channels, alice.controller),
        calibration.Station(bob.tagger, bob.channels, None),
        lab.clock,
        max_sweeps=2,
    )
    if not aligned.ok:
        raise SystemExit(aligned.reason)
    paddles = {}
    for paddle, angle, sigma in zip(
        lab.paddles.actuators, aligned.angles[0], aligned.sigmas[0], strict=True
    ):
        print(f"{paddle.name} at {angle:.1f} ± {sigma:.1f}°")
        paddles[paddle.name] = Value(value=angle, sigma=sigma, unit=paddle.unit)
    made = entry("polarization", "paddles", paddles)
    title = "QBER while the paddles turn"
    calibrations.store(
        registry, made, lambda path: plots.plot_polarization(path, aligned, title=title)
    )

# The bench file is as it was, so the bench opens out of tune, until the stored set points are
# applied. They are refused once they have expired, and on another bench.
with bellbench.open_bench(config, seed=options.seed) as lab:
    for kind in ("phase_matching", "polarization"):
        calibrations.apply(lab, calibrations.load(registry, kind, config))
    look(lab, "calibrated")
