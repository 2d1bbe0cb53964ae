"""The twin against the closed form: rate, QBER and CAR of a CW link over four sweeps.

Takes the metro world, changes one number at a time (pump power, loss of Bob's arm, coincidence
window, dark counts), counts what its detectors click, and puts the figures beside the model of
Neumann et al., PRA 104, 022406 (2021), which is given nothing but the numbers of the world file.

    python examples/twin_against_model.py [--seed N] [--seconds S] [--out FILE.png]
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bellbench.bench import load_bench
from bellbench.instruments import TagBatch
from bellbench.protocols.characterization import PairLink, characterize
from bellbench.protocols.qkd.link_model import Arm, CwLink, CwRates, timing_fwhm
from bellbench.protocols.timing import CoincidenceCounter, CountRates
from bellbench.sims.elements import (
    Oven,
    Paddles,
    PumpLaser,
    SnspdArray,
    TaggerInputs,
)
from bellbench.sims.elements.tagger import ClockModel
from bellbench.sims.world import BLOCK_PS, World, WorldModel

BIAS_A = 18e-6
C_M_PER_S = 299_792_458.0
SHIFTS_PS = [k * 20_000 for k in range(-8, 9) if k]


@dataclass(frozen=True)
class Point:
    """One setting of the link."""

    power_w: float = 25e-3
    bob_loss_db: float = 0.0  # beside the world file's
    window_ps: int = 300
    dark_rate_hz: float = 75.0  # of each detector


SWEEPS: dict[str, tuple[str, list[Point]]] = {
    "pump power (mW)": (
        "power_w",
        [Point(power_w=p * 1e-3) for p in (0.3, 1, 3, 10, 30, 100, 200)],
    ),
    "loss added to Bob's arm (dB)": (
        "bob_loss_db",
        [Point(bob_loss_db=db) for db in (0, 5, 10, 15, 20, 25)],
    ),
    "coincidence window (ps)": (
        "window_ps",
        [Point(window_ps=w) for w in (40, 80, 150, 300, 700, 2000)],
    ),
    "dark counts per detector (1/s)": (
        "dark_rate_hz",
        [Point(dark_rate_hz=d) for d in (75, 1e3, 1e4, 1e5, 4e5)],
    ),
}


def changed(point: Point) -> WorldModel:
    """The metro world with the point's numbers, nothing to undo in its fibres, and one clock."""
    model = load_bench("metro", twin=True).world
    assert model is not None
    elements: dict[str, Any] = {}
    for name, element in model.elements.items():
        update: dict[str, Any] = {}
        if element.kind == "fibre":
            update |= {"rotation": (0.0, 0.0, 0.0), "daily_swing": 0.0, "temperature_walk": 0.0}
            if name == "bob_fibre":
                update["loss"] = element.loss + point.bob_loss_db
        elif element.kind == "snspd":
            update["detectors"] = tuple(
                d.model_copy(update={"dark_rate": point.dark_rate_hz}) for d in element.detectors
            )
        elif element.kind == "tagger":
            update["clock"] = ClockModel()  # one for both: no clock is to be recovered here
        elements[name] = element.model_copy(update=update)
    return model.model_copy(update={"elements": elements})


def expected(model: WorldModel, point: Point) -> CwRates:
    """What the closed form says, from the numbers of the world file alone."""
    e: dict[str, Any] = dict(model.elements)
    arms, jitters = [], []
    for party in ("alice", "bob"):
        fibre, detector = e[f"{party}_fibre"], e[f"{party}_snspd"].detectors[0]
        db = fibre.loss + fibre.attenuation * fibre.length * 1e-3
        arms.append(
            Arm(
                efficiency=detector.efficiency * 10 ** (-db / 10),
                dark_rate_hz=4 * detector.dark_rate,
                dead_time_s=detector.dead_time,
            )
        )
        jitters += [detector.jitter, e[f"{party}_tagger"].jitter]
    return CwLink(
        pair_rate_hz=point.power_w * e["crystal"].pair_rate,
        alice=arms[0],
        bob=arms[1],
        window_s=point.window_ps * 1e-12,
        fwhm_s=timing_fwhm(*jitters),
        error=(1 - e["crystal"].visibility) / 2,
    ).rates()


def measured(model: WorldModel, point: Point, seconds: float, seed: int) -> PairLink:
    """What the detectors of the twin click."""
    world = World(model, seed)
    taggers: list[TaggerInputs] = []
    delays = []
    for element in world.elements.values():
        if isinstance(element, PumpLaser):
            element.current_a = element.model.threshold + point.power_w / element.model.slope
            element.emitting = True
        elif isinstance(element, Oven):
            element.temperature_c = element.setpoint_c = 40.0
            element.heating = True
        elif isinstance(element, Paddles):
            element.angles_deg = [0.0, 0.0, 0.0]
        elif isinstance(element, SnspdArray):
            element.enabled, element.bias_a = True, [BIAS_A] * 4
    for party in ("alice", "bob"):
        fibre: Any = model.elements[f"{party}_fibre"]
        flight = fibre.length * fibre.group_index / C_M_PER_S
        tagger = world.elements[f"{party}_tagger"]
        assert isinstance(tagger, TaggerInputs)
        tagger.recording = True
        taggers.append(tagger)
        cables = enumerate(tagger.model.cable_delays, start=1)
        delays.append({k: round((flight + cable) * 1e12) for k, cable in cables})
    counter = CoincidenceCounter(
        [1, 2, 3, 4],
        [1, 2, 3, 4],
        point.window_ps,
        delays_a=delays[0],
        delays_b=delays[1],
        shifts_ps=SHIFTS_PS,
    )
    rates = CountRates(), CountRates()
    for _ in range(max(1, round(seconds * 1e12 / BLOCK_PS))):
        begin = world.now_ps
        world.run_block()
        batches = [TagBatch(t.times_ps, t.inputs, begin, world.now_ps) for t in taggers]
        counter.add(*batches)
        for rate, batch in zip(rates, batches, strict=True):
            rate.add(batch)
    return characterize(counter.finish(), rates)


def compare(points: Sequence[Point], seconds: float, seed: int) -> list[tuple[PairLink, CwRates]]:
    """Each point as the twin has it and as the model has it."""
    found = []
    for i, point in enumerate(points):
        model = changed(point)
        closed = expected(model, point)
        # long enough for some thousand coincidences, as far as the time asked for allows
        enough = min(seconds, max(0.1, 2e4 / float(closed.coincidences_hz)))
        found.append((measured(model, point, enough, seed + i), closed))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=0.2, help="of world time per point")
    parser.add_argument("--out", default="twin_against_model.png")
    args = parser.parse_args()

    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    rows = ("coincidences (1/s)", "CAR", "QBER", "key (bit/s)")
    figure, axes = plt.subplots(
        len(rows), len(SWEEPS), figsize=(13, 11), sharex="col", layout="constrained"
    )
    print(f"{'sweep':32s} {'at':>8s}   twin and model: coincidences/s, CAR, QBER, key bit/s")
    for column, (name, (attribute, points)) in enumerate(SWEEPS.items()):
        scale = 1e3 if attribute == "power_w" else 1.0
        xs = [getattr(point, attribute) * scale for point in points]
        both = compare(points, args.seconds, args.seed)
        for x, (twin, model) in zip(xs, both, strict=True):
            print(
                f"{name:32s} {x:8g}   {twin.coincidences_hz.value:.4g} {model.coincidences_hz:.4g}"
                f"  {twin.car.value:.4g} {model.car:.4g}"
                f"  {twin.qber['all'].value:.3%} {model.qber:.3%}"
                f"  {twin.key_rate_bps.value:.4g} {model.key_rate_bps():.4g}"
            )
        ours = [
            (twin.coincidences_hz, twin.car, twin.qber["all"], twin.key_rate_bps)
            for twin, _ in both
        ]
        theirs = [
            (model.coincidences_hz, model.car, model.qber, model.key_rate_bps())
            for _, model in both
        ]
        for row, axis in enumerate(axes[:, column]):
            axis.plot(xs, [float(t[row]) for t in theirs], "-", color="C7", label="closed form")
            axis.errorbar(
                xs,
                [t[row].value for t in ours],
                [t[row].sigma for t in ours],
                fmt="o",
                ms=4,
                color="C0",
                label="twin",
            )
            if attribute != "bob_loss_db":
                axis.set_xscale("log")
            if rows[row] != "QBER" and min(float(t[row]) for t in theirs) > 0:
                axis.set_yscale("log")
            axis.grid(alpha=0.3)
            if column == 0:
                axis.set_ylabel(rows[row])
        axes[-1, column].set_xlabel(name)
    axes[0, 0].legend()
    figure.savefig(args.out, dpi=110)
    print(f"{args.out} is drawn")


if __name__ == "__main__":
    main()
