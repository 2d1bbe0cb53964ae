"""Swap entanglement with photons that meet, and with photons that miss each other.

The delay generator is scanned by hand through the Hong-Ou-Mandel dip. At its bottom a click of the
station entangles two photons that never met. Beside it the station clicks as often, and what it
heralds is still correlated in Z, since two clicks of different polarization say so much. Only the
coherence between the two possibilities, the correlation in X, needs photons that cannot be told
apart.
"""

import argparse

import bellbench
import numpy as np
from bellbench.instruments import TagBatch, concatenate
from bellbench.protocols import swapping
from matplotlib.figure import Figure

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--bench", default="swap")
parser.add_argument("--seed", type=int, default=1, help="of the twins' world")
options = parser.parse_args()
WINDOW_PS = 4000

with bellbench.open_bench(options.bench, seed=options.seed) as lab:
    parties = [lab.parties[name] for name in ("station", "alice", "bob")]
    taggers = [party.tagger for party in parties]
    station, alice, bob = (party.channels for party in parties)
    pump_delay = lab.pulser.delays["C"]  # of the pulses in bob's source

    def record(seconds: float) -> tuple[TagBatch, TagBatch, TagBatch]:
        """Clicks made from now on: of the station, Alice and Bob."""
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

    def count(seconds: float) -> swapping.SwapCounts:
        """Heralds, and the clicks at both ends that belong to them."""
        counter = swapping.SwapCounter(station, alice, bob, WINDOW_PS, delays)
        counter.add(*record(seconds))
        return counter.finish()

    # -- what belongs together: delays from each source's pairs, then both sources' arrival
    for tagger in taggers:
        tagger.start()
    clicks = record(0.5)
    at_station, at_alice = swapping.find_end_delays(clicks[0], clicks[1], station, alice)
    _, at_bob = swapping.find_end_delays(clicks[0], clicks[2], station, bob)
    delays = (at_station, at_alice, at_bob)
    period_ps = 1e12 / lab.pulser.trigger_rate.get()
    arrivals = swapping.find_arrivals(
        *clicks, delays, period_ps=period_ps, window_ps=WINDOW_PS // 2
    )
    together_s = pump_delay.get() - arrivals.late_ps * 1e-12
    print(f"bob's photons come {arrivals.late_ps:.0f} ± {arrivals.sigma_ps:.0f} ps late")

    # -- the dip
    scan_s = together_s + np.linspace(-0.8e-9, 0.8e-9, 9)
    seen = []
    for delay_s in scan_s:
        pump_delay.set(float(delay_s))
        seen.append(count(0.3).hom)
    dip = swapping.fit_dip(scan_s, np.array(seen))
    if not dip.ok:
        raise SystemExit(dip.reason)
    print(f"HOM dip: visibility {dip.visibility.value:.3f} ± {dip.visibility.sigma:.3f}")

    # -- the swap
    for place, beside_s in (("in the dip", 0.0), ("1.2 ns beside it", 1.2e-9)):
        pump_delay.set(dip.centre_s.value + beside_s)
        counts = count(1.5)
        by_axis = swapping.visibilities([(swapping.SETTINGS["ZX"], counts.fourfolds)])
        z, x = (by_axis[axis]["all"] for axis in "ZX")
        print(
            f"{place}: {int(counts.heralds.sum()) / counts.live_s:.0f} heralds/s, visibility"
            f" Z {z.value:.2f} ± {z.sigma:.2f}, X {x.value:.2f} ± {x.sigma:.2f}"
        )
    for tagger in taggers:
        tagger.stop()

figure = Figure(figsize=(5, 3.6), layout="constrained")
axes = figure.add_subplot(xlabel="pump delay (ns)", ylabel="four-folds, equal polarization")
axes.errorbar(scan_s * 1e9, seen, np.sqrt(np.maximum(seen, 1)), fmt="o", capsize=2)
fine = np.linspace(scan_s[0], scan_s[-1], 200)
axes.plot(fine * 1e9, dip.model(fine))
axes.set_ylim(bottom=0)
figure.savefig("hom_dip.png", dpi=120)
