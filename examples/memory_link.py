"""Rate of a memory link against storage time.

A herald says that two memories share an entangled pair; both must give their photon back to show
it, so the rate of seen pairs falls with the square of a memory's efficiency. The reference is the
rate through the transparent memories: neither losses nor the station's efficiency need be known.
"""

import argparse
import math

import bellbench
import numpy as np
from bellbench.instruments import TagBatch, concatenate
from bellbench.protocols import swapping
from matplotlib.figure import Figure

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--bench", default="memory_link")
parser.add_argument("--seed", type=int, default=1, help="of the twins' world")
options = parser.parse_args()
WINDOW_PS = 40_000

with bellbench.open_bench(options.bench, seed=options.seed) as lab:
    parties = [lab.parties[name] for name in ("station", "alice", "bob")]
    taggers = [party.tagger for party in parties]
    station, alice, bob = (party.channels for party in parties)
    memories = [lab.alice_memory, lab.bob_memory]

    def record(seconds: float) -> tuple[TagBatch, TagBatch, TagBatch]:
        """Clicks made from now on, once the memories are prepared: station, Alice, Bob."""
        while not all(memory.ready() for memory in memories):
            lab.clock.sleep(0.01)
        parts: list[list[TagBatch]] = [[], [], []]
        lab.clock.sleep(0.02 + max(tagger.info.latency_s for tagger in taggers))
        for tagger in taggers:
            tagger.read()  # made under the setting before
        for _ in range(round(seconds / 0.1)):
            lab.clock.sleep(0.1)
            for part, tagger in zip(parts, taggers, strict=True):
                part.append(tagger.read())
        a, b, c = (concatenate(part) for part in parts)
        return a, b, c

    def count(seconds: float, storage_s: float) -> swapping.SwapCounts:
        """Heralds, and the clicks at both ends so much later."""
        later = round(storage_s * 1e12)
        stored = [{c: ps + later for c, ps in end.items()} for end in (at_alice, at_bob)]
        counter = swapping.SwapCounter(
            station, alice, bob, WINDOW_PS, (at_station, stored[0], stored[1])
        )
        counter.add(*record(seconds))
        return counter.finish()

    # -- through the transparent memories: delays, both sources in step, and the reference
    lab.source.pump_current.set(0.08)  # A; a little more than the bench file says
    for memory in memories:
        memory.bypass()
    for tagger in taggers:
        tagger.start()
    clicks = record(0.5)
    at_station, at_alice = swapping.find_end_delays(clicks[0], clicks[1], station, alice)
    _, at_bob = swapping.find_end_delays(clicks[0], clicks[2], station, bob)
    arrivals = swapping.find_arrivals(
        *clicks,
        (at_station, at_alice, at_bob),
        period_ps=lab.pulser.burst_period.get() * 1e12,
        window_ps=WINDOW_PS // 2,
    )
    pump_delay = lab.pulser.delays["C"]  # of the pulses in bob's source
    pump_delay.set(pump_delay.get() - arrivals.late_ps * 1e-12)
    counts = count(2.0, 0.0)
    through_hz = float(counts.fourfolds.sum() / counts.live_s)
    share = float(counts.fourfolds.sum()) ** -0.5  # of it, its error
    print(
        f"through: {through_hz:.1f} pairs/s, {counts.heralds.sum() / counts.live_s:.0f} heralds/s"
    )

    # -- stored
    for memory in memories:
        memory.prepare()
        memory.store()
    found: list[tuple[float, float, float]] = []
    fourfolds = []
    for storage_s in (21e-6, 30e-6, 40e-6):
        for memory in memories:
            memory.retrieve(storage_s)
        counts = count(2.0, storage_s)
        n = int(counts.fourfolds.sum())
        found.append((storage_s, n / counts.live_s, math.sqrt(max(n, 1)) / counts.live_s))
        expected = through_hz * math.prod(memory.efficiency(storage_s) for memory in memories)
        fourfolds.append((swapping.SETTINGS["ZX"], counts.fourfolds))
        print(
            f"{storage_s * 1e6:.0f} us: {found[-1][1]:.1f} ± {found[-1][2]:.1f} pairs/s, expected"
            f" {expected:.1f} ± {expected * share:.1f}"
        )
    by_axis = swapping.visibilities(fourfolds)
    for axis in "ZX":
        v = by_axis[axis]["all"]
        print(f"visibility in {axis}, of all that was stored: {v.value:.2f} ± {v.sigma:.2f}")
    for tagger in taggers:
        tagger.stop()
    times = np.linspace(20.5e-6, 45e-6, 100)
    model = [through_hz * math.prod(m.efficiency(t) for m in memories) for t in times.tolist()]

figure = Figure(figsize=(5, 3.6), layout="constrained")
axes = figure.add_subplot(xlabel="storage time (µs)", ylabel="pairs per second")
storage, rates, sigmas = np.array(found).T
axes.errorbar(storage * 1e6, rates, sigmas, fmt="o", capsize=2, label="measured")
axes.plot(times * 1e6, model, label="transparent rate × efficiency²")
axes.set_ylim(bottom=0)
axes.legend(frameon=False)
figure.savefig("link_rate.png", dpi=120)
