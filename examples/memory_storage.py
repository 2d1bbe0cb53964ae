"""What `bellbench run memory_storage` does not: g2 against the pump, and a recall that comes late.

Part one pumps the source harder and harder and watches the heralded photons stop being single.
Part two turns the sequencer's recall by hand, behind the memory's back, and looks for the photons.
"""

import argparse

import bellbench
import numpy as np
from bellbench.instruments import TagBatch, concatenate
from bellbench.protocols.heralding import (
    HeraldCounter,
    HeraldCounts,
    find_layout,
    relative_efficiency,
)
from matplotlib.figure import Figure

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--bench", default="memory")
parser.add_argument("--seed", type=int, default=1, help="of the twins' world")
options = parser.parse_args()


def expected_g2(mu: float, herald: float, click: float) -> float:
    """Heralded g2 of thermal pairs in two polarization modes, for detectors that do not count.

    A detector of efficiency eta is silent at n photons with (1 - eta)^n; the pairs of a pulse are
    of a negative binomial distribution, whose mean of x^n is (1 + mu (1 - x)/2)^-2. All clicks
    follow from such silences. For low efficiencies it is (3 mu + 3 mu^2)/(1 + 1.5 mu)^2.

    Args:
        mu: Mean number of pairs per pulse.
        herald: Efficiency of the herald's arm.
        click: Efficiency of the other arm, up to each of its two detectors.
    """

    def silent(heralded: float, share: float) -> float:
        return (1 + mu * (1 - (1 - heralded) * (1 - share)) / 2) ** -2

    h, c, hc = silent(herald, 0), silent(0, click), silent(herald, click)
    both, all_three = silent(0, 2 * click), silent(herald, 2 * click)
    p_h, p_hc = 1 - h, 1 - h - c + hc
    p_hcd = 1 - h - 2 * c + 2 * hc + both - all_three
    return p_hcd * p_h / p_hc**2


with bellbench.open_bench(options.bench, seed=options.seed) as lab:
    node = lab.parties["node"]
    tagger, memory, source, info = node.tagger, lab.memory, lab.source, lab.memory.info

    def record(seconds: float) -> TagBatch:
        """Clicks of some seconds; a recording that begins after a setting has seen no other."""
        while not memory.ready():
            lab.clock.sleep(0.01)
        lab.clock.sleep(0.01)
        tagger.start()
        batches = []
        for _ in range(round(seconds / 0.1)):
            lab.clock.sleep(0.1)
            batches.append(tagger.read())
        tagger.stop()
        return concatenate(batches)

    def count(seconds: float, **delays_s: float) -> HeraldCounts:
        """Clicks so long after a herald, in gates of 40 ns."""
        mode_ps = round(info.mode_duration_s * 1e12)
        begin, end = (round(t * 1e12) for t in info.window_s)
        counter = HeraldCounter(
            layout,
            window_ps=(begin + mode_ps, end - mode_ps),
            mode_ps=mode_ps,
            delays_ps={name: round(t * 1e12) for name, t in delays_s.items()},
            gate_ps=40_000,
            beside_ps=(-2 * mode_ps, -mode_ps, mode_ps, 2 * mode_ps),
        )
        counter.add(record(seconds))
        return counter.finish()

    # -- one: through the transparent memory, more and more pump
    memory.bypass()
    layout = find_layout(record(1.0), **node.inputs(("herald", "c", "d", "trigger")), info=info)
    found: list[tuple[float, float, float]] = []
    for current_a in (0.05, 0.07, 0.1, 0.14):
        source.pump_current.set(current_a)
        counts = count(0.8, prompt=0.0)
        gate = counts.gates["prompt"]
        if not found:  # Klyshko: of weak pulses, either arm's clicks herald the other's photons
            arms = gate.clicked / counts.slots["prompt"], gate.clicked / counts.heralds / 2
        mu = 2 * ((1 - counts.heralds / counts.modes) ** -0.5 - 1) / arms[0]
        g2 = gate.g2
        found.append((mu, g2.value, g2.sigma))
        print(
            f"{current_a * 1e3:3.0f} mA: {mu:.3f} pairs per pulse, heralded g2"
            f" {g2.value:.3f} ± {g2.sigma:.3f}, expected {expected_g2(mu, *arms):.3f}"
        )

    # -- two: store for 30 us, then let the recall come 5 us later than the memory knows
    source.pump_current.set(0.09)
    through = count(0.8, prompt=0.0)
    memory.prepare()
    memory.store()
    memory.retrieve(30e-6)
    for late_s in (0.0, 5e-6):
        if late_s:
            for edge in "FE":  # the pulse's end first: an edge must not overtake it
                delay = lab.sequencer.delays[edge]
                delay.set(delay.get() + late_s)
        counts = count(0.8, promised=30e-6, late=35e-6)
        out = [relative_efficiency(counts, at, through, "prompt") for at in counts.gates]
        print(
            f"recall {late_s * 1e6:.0f} us late: {out[0].value:5.1%} ± {out[0].sigma:.1%} come out"
            f" after 30 us, {out[1].value:5.1%} ± {out[1].sigma:.1%} after 35 us; set is"
            f" {memory.storage_time.get() * 1e6:g} us, for which the maker says"
            f" {memory.efficiency(30e-6 + late_s):.1%}"
        )
    memory.prepare()

figure = Figure(figsize=(5, 3.6), layout="constrained")
axes = figure.add_subplot(xlabel="mean number of pairs per pulse", ylabel="heralded g2(0)")
mus, values, sigmas = np.array(found).T
axes.errorbar(mus, values, sigmas, fmt="o", capsize=2, label="measured")
fine = np.linspace(1e-4, mus.max() * 1.1, 100)
axes.plot(fine, [expected_g2(mu, *arms) for mu in fine], label="thermal pairs in two modes")
axes.legend(frameon=False)
figure.savefig("heralded_g2.png", dpi=120)
