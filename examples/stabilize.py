"""Drive the polarization lock by hand: a link is disturbed, and put right again while it runs.

`bellbench run bbm92_drift` holds a key exchange on drifting fibres. Here no key is made, so that
every coincidence may steer; the disturbance is a paddle of Alice's that somebody turns.
"""

import argparse

import bellbench
import numpy as np
from bellbench.instruments import TagBatch, concatenate
from bellbench.protocols import timing
from bellbench.protocols.lock import LockSettings, PolarizationLock, Station
from matplotlib.figure import Figure

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--bench", default="drift")
parser.add_argument("--seed", type=int, default=1, help="of the twins' world")
options = parser.parse_args()
DISTURBED_S, LOCKED_S, END_S, STEP_S = 5.0, 10.0, 45.0, 0.25

with bellbench.open_bench(options.bench, seed=options.seed) as lab:
    alice, bob = lab.parties["alice"], lab.parties["bob"]
    controllers = [lab.alice_paddles, lab.bob_paddles]
    inputs = [list(party.inputs("HVDA").values()) for party in (alice, bob)]

    def read(seconds: float) -> tuple[TagBatch, TagBatch]:
        """Let time pass; the clicks of Alice and Bob since the last time."""
        parts: tuple[list[TagBatch], list[TagBatch]] = ([], [])
        for _ in range(round(seconds / STEP_S)):
            lab.clock.sleep(STEP_S)
            parts[0].append(alice.tagger.read())
            parts[1].append(bob.tagger.read())
        return concatenate(parts[0]), concatenate(parts[1])

    alice.tagger.start()
    bob.tagger.start()
    begun_s = lab.clock.now()
    delays = timing.find_channel_delays(*read(2.0), channels_a=inputs[0], channels_b=inputs[1])

    lock: PolarizationLock | None = None
    disturbed = moving = False
    seen: list[tuple[float, list[int], list[int]]] = []
    while (now_s := lab.clock.now() - begun_s) < END_S:
        if now_s >= DISTURBED_S and not disturbed:
            paddle = lab.alice_paddles.actuators[0]
            paddle.set(paddle.get() - 20.0)
            disturbed = True
        if now_s >= LOCKED_S and lock is None:
            # Nothing is known but where the paddles stand, and what they are.
            stations = [
                Station(
                    retardances_deg=(90.0, 180.0, 90.0),
                    limits=tuple(actuator.limits for actuator in each.actuators),
                    angles_deg=tuple(actuator.get() for actuator in each.actuators),
                )
                for each in controllers
            ]
            lock = PolarizationLock((stations[0], stations[1]), LockSettings())
        a, b = read(STEP_S)
        counter = timing.CoincidenceCounter(
            inputs[0], inputs[1], 300, delays_a=delays.delays_a, delays_b=delays.delays_b
        )
        counter.add(a, b)
        n = counter.finish().counts
        compared = [int(n[:2, :2].sum()), int(n[2:, 2:].sum())]
        wrong = [int(n[0, 1] + n[1, 0]), int(n[2, 3] + n[3, 2])]
        seen.append((a.begin_ps * 1e-12, compared, wrong))
        if lock is not None:
            lock.add(a.begin_ps * 1e-12, a.end_ps * 1e-12, compared, wrong)
            moving = moving and not all(each.ready() for each in controllers)
            points = lock.advance(lab.clock.now() - begun_s, not moving)
            for each, angles in zip(controllers, points or (), strict=points is not None):
                for actuator, angle in zip(each.actuators, angles, strict=True):
                    actuator.set(angle)
                moving = True

# -- the story in numbers: QBER with the link as it was, disturbed, and held
times = np.array([time_s for time_s, _, _ in seen])
compared_z, compared_x = np.array([n for _, n, _ in seen]).T
wrong_z, wrong_x = np.array([n for _, _, n in seen]).T
for name, begin_s, end_s in (
    ("aligned", 0, DISTURBED_S),
    ("disturbed", DISTURBED_S + 0.5, LOCKED_S),
    ("locked", END_S - 10, END_S),
):
    inside = (times >= begin_s) & (times < end_s - STEP_S)
    qber = [
        wrong[inside].sum() / compared[inside].sum()
        for wrong, compared in ((wrong_z, compared_z), (wrong_x, compared_x))
    ]
    print(f"{name:9s}: QBER Z {qber[0]:.2%}, X {qber[1]:.2%}")
assert lock is not None
print(f"the lock has moved {lock.moves} times and is {lock.state}")

figure = Figure(figsize=(6, 3.6), layout="constrained")
axes = figure.add_subplot(xlabel="time (s)", ylabel="QBER (%)")
whole = len(seen) // 4 * 4  # a point for each second
for basis, wrong, compared in (("Z", wrong_z, compared_z), ("X", wrong_x, compared_x)):
    n, errors = (each[:whole].reshape(-1, 4).sum(axis=1) for each in (compared, wrong))
    axes.plot(times[:whole:4] + 0.5, 100 * errors / n, ".-", linewidth=0.8, label=basis)
axes.axvspan(DISTURBED_S, LOCKED_S, color="0.9", label="a paddle is turned, the lock is off")
axes.legend(frameon=False)
figure.savefig("lock.png", dpi=120)
