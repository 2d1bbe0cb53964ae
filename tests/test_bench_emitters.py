"""The bundled bench of two emitters: herald rates and correlations from its clicks alone."""

import math
from collections.abc import Iterator

import bellbench
import numpy as np
import numpy.typing as npt
import pytest
from bellbench.bench import Lab
from bellbench.sims.physics import states
from bellbench.sims.physics.emitter import Emitter, Station, one_click

ATTEMPTS, PERIOD_PS, TRAIN_PS = 1800, 5_500_000, 10_000_000_000
EFFICIENCY = 6.75e-4 * 10**-0.13 * 0.8
WINDOW_PS = 60_000
READ_PS = 3_600_000
CABLES_PS = np.array([0, 12_400, 12_900, 11_800, 12_200])
Bits = npt.NDArray[np.bool_]


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with bellbench.open_bench("emitters", twin=True, seed=3) as found:
        yield found


def attempts(lab: Lab, seconds: float) -> tuple[Bits, Bits]:
    """Record, and return by attempt: clicks of cH, cV, dH, dV, and whether alice, bob were bright.

    Each node's train says when its cycles begin; the station's clicks show when photons come.
    """
    taggers = [lab.parties[name].tagger for name in ("station", "alice", "bob")]
    for tagger in taggers:
        tagger.start()
    parts: list[list[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]] = [[], [], []]
    for _ in range(round(seconds / 0.1)):
        lab.clock.sleep(0.1)
        for part, tagger in zip(parts, taggers, strict=True):
            batch = tagger.read()
            assert not batch.losses
            part.append((batch.times_ps, batch.channels.astype(np.int64)))
    for tagger in taggers:
        tagger.stop()
    station, *ends = (
        tuple(np.concatenate(column) for column in zip(*part, strict=True)) for part in parts
    )
    marks = [times[channel == 4] for times, channel in ends]
    begin = max(int(mark[0]) for mark in marks)
    trains = (min(int(mark[-1]) for mark in marks) - begin) // TRAIN_PS

    def sort(times: npt.NDArray[np.int64], lag: int, window: int) -> npt.NDArray[np.int64]:
        """Attempts of the clicks that fall into a window so long after their cycle began."""
        train, within = np.divmod(times - begin - lag, TRAIN_PS)
        cycle, off = np.divmod(within, PERIOD_PS)
        fits = (train >= 0) & (train < trains) & (cycle < ATTEMPTS) & (off < window)
        found: npt.NDArray[np.int64] = (train * ATTEMPTS + cycle)[fits]
        return found

    seen = np.zeros((4, trains * ATTEMPTS), np.bool_)
    bright = np.zeros((2, trains * ATTEMPTS), np.bool_)
    times = station[0] - CABLES_PS[station[1]]
    fold = np.bincount((times - begin) % TRAIN_PS % PERIOD_PS // 10_000, minlength=550)
    first = 10_000 * int(np.argmax(fold)) - 10_000
    for n in range(4):
        seen[n, sort(times[station[1] == n + 1], first, WINDOW_PS)] = True
    for end, (stamps, channel) in enumerate(ends):
        clicks = stamps[channel == 1]
        fold = np.bincount((clicks - begin) % TRAIN_PS % PERIOD_PS // 10_000, minlength=550)
        # Fluorescence begins with the window: the first bin that is not dark.
        opens = 10_000 * int(np.flatnonzero(fold > 0.5 * fold.max())[0]) - 10_000
        bright[end, sort(clicks, opens, READ_PS)] = True
    return seen, bright


def excite(lab: Lab, volts: float, axis: str = "") -> float:
    """Set alpha and the basis of both read-outs; return alpha."""
    for name in ("alice", "bob"):
        generator = lab.parties[name].delay_generator
        assert generator is not None
        generator.amplitudes["AB"].set(volts)
        for pulse, (rise, fall) in (("x", "CD"), ("y", "EF")):
            on = axis == pulse
            generator.delays[rise].set(1.5e-6 if on else 0.0)
            generator.delays[fall].set(1.55e-6 if on else 0.0)
    lab.clock.sleep(0.1)
    return math.sin(math.pi / 2 * volts / 5) ** 2


def heralds(seen: Bits) -> tuple[Bits, Bits]:
    """Attempts with one click in one of the H detectors: Psi+ and Psi-."""
    alone = seen.sum(0) == 1
    return alone & seen[0], alone & seen[2]


@pytest.mark.slow  # test_emitter_link.py sees the same bench, for a shorter time
def test_heralds_come_as_often_as_published(lab: Lab) -> None:
    """``2 alpha p_det`` per attempt, Humphreys et al., Nature 558, 268 (2018)."""
    for volts, seconds in ((0.72, 2.5), (1.85, 1.5)):
        alpha = excite(lab, volts)
        seen, _ = attempts(lab, seconds)
        expected = seen.shape[1] * (2 * alpha * EFFICIENCY + 2 * 20 * WINDOW_PS * 1e-12)
        found = sum(int(which.sum()) for which in heralds(seen))
        assert found == pytest.approx(expected, abs=3 * math.sqrt(expected))


@pytest.mark.slow
def test_read_outs_show_the_heralded_state(lab: Lab) -> None:
    """Correlations, with the errors of the read-out as bright and dark counts give them."""
    found, expected = {}, {}
    lit = 2e6 * 0.7 * READ_PS * 1e-12
    stray = (1e4 * 0.7 + 200) * READ_PS * 1e-12
    right = 1 - math.exp(-lit - stray) - (1 - math.exp(-stray))  # contrast of the read-out
    for axis in "zxy":
        alpha = excite(lab, 1.85, "" if axis == "z" else axis)
        seen, bright = attempts(lab, 1.4)
        same = bright[0] == bright[1]
        node = Emitter(alpha, EFFICIENCY)
        noise = math.radians(10.1) * math.sqrt(2)
        state = one_click(node, node, Station(0.9, 20 * WINDOW_PS * 1e-12, 0.0, noise))
        kept = math.exp(-2 * 1.0e-6 / 100e-6) * 0.96  # storage, double excitation
        i = "xyz".index(axis)
        for which, chosen in enumerate(heralds(seen)):
            value = float(states.correlations(state.states[which])[i, i])
            count = int(chosen.sum())
            assert count > 15
            mean = float(np.where(same, 1.0, -1.0)[chosen].mean())
            found[axis, which] = mean, 1 / math.sqrt(count)
            expected[axis, which] = value * right**2 * (1.0 if axis == "z" else kept)
    for key, (mean, sigma) in found.items():
        assert mean == pytest.approx(expected[key], abs=3.5 * sigma), key
    signs = {which: (found["x", which][0] > 0, found["y", which][0] > 0) for which in (0, 1)}
    assert signs == {0: (True, True), 1: (False, False)}
    fidelity = [
        (1 - found["z", w][0] + s * (found["x", w][0] + found["y", w][0])) / 4
        for w, s in ((0, 1), (1, -1))
    ]
    assert min(fidelity) > 0.5
