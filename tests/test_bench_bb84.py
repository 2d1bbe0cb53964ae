"""The bundled BB84 bench: what is played comes out with the gains and errors of the closed form."""

import math
from collections.abc import Iterator

import bellbench
import numpy as np
import numpy.typing as npt
import pytest
from bellbench import testing
from bellbench.bench import Lab

RATE_HZ = 12.5e6
PERIOD_PS = 80_000
PULSES = 3000
SECONDS = 1.0


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with bellbench.open_bench("bb84", twin=True, seed=5) as found:
        yield found


def record(lab: Lab, seconds: float) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Times and detectors (H V D A from 0), without what delays Bob's inputs against each other."""
    lab.bob_tagger.start()
    times, inputs = [], []
    for _ in range(round(seconds / 0.1)):
        lab.clock.sleep(0.1)
        batch = lab.bob_tagger.read()
        assert not batch.losses
        times.append(batch.times_ps)
        inputs.append(batch.channels)
    lab.bob_tagger.stop()
    detector = np.concatenate(inputs).astype(np.int64) - 1
    cables = np.array([41_700, 40_900, 42_600, 41_200])
    return np.concatenate(times) - cables[detector], detector


def slots(
    times: npt.NDArray[np.int64], bright: npt.NDArray[np.bool_]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Pulse of the pattern that each click belongs to, and whether it came within 1 ns of one."""
    within = times % PERIOD_PS
    fold = np.bincount(within // 200, minlength=PERIOD_PS // 200)
    peak = int(np.argmax(fold)) * 200 + 100
    slot, off = np.divmod(times - peak + 500, PERIOD_PS)
    near = off < 1000
    # Where the pattern began: bright pulses click more often.
    found = np.bincount(slot[near] % PULSES, minlength=PULSES)
    match = np.fft.ifft(np.fft.fft(found) * np.fft.fft(bright).conj()).real
    return (slot - int(np.argmax(match))) % PULSES, near


def test_gains_and_errors_of_every_intensity_and_state(lab: Lab) -> None:
    """Q_mu and E_mu, Ma, Qi, Zhao and Lo, PRA 72, 012326 (2005), eqs (8)-(11)."""
    rng = np.random.default_rng(11)
    which, turned = rng.integers(0, 3, PULSES), rng.integers(0, 4, PULSES)
    leaves = lab.transmitter.play(which, turned, RATE_HZ)
    assert (np.diff(leaves) == PERIOD_PS).all()
    lab.clock.sleep(0.1)
    times, detector = record(lab, SECONDS)
    slot, near = slots(times, which == 0)
    detector, slot = detector[near], slot[near]
    sent_each = (float(times[-1] - times[0])) / PERIOD_PS / PULSES
    eta = 10 ** (-(0.2 * 20 + 3.0103) / 10) * 0.8 / 2  # half of the light in each basis
    dark = 75e-9 + 1e-6  # in 1 ns; and what Bob's paddles leave of the fibre
    error = 1 / (1 + 10 ** (20 / 10))
    share = 0.001 + 0.999 * np.sin(np.pi / 2 * np.array([1.0, 0.2946, 0.0])) ** 2
    assert list(lab.transmitter.info.intensities) == ["signal", "decoy", "vacuum"]
    for i, mu in enumerate(0.5 * share):
        calibrated = list(lab.transmitter.info.intensities.values())[i]
        assert mu == pytest.approx(calibrated, rel=2e-3)
        for state in range(4):
            chosen = (which == i) & (turned == state)
            sent = sent_each * chosen.sum()
            counts = np.bincount(detector[chosen[slot]], minlength=4)
            right, wrong = counts[state], counts[state ^ 1]
            gain, bad = (1 - math.exp(-eta * mu * s) + dark for s in (1 - error, error))
            for found, expected in ((right, gain), (wrong, bad)):
                mean = sent * expected
                assert abs(found - mean) < 4 * math.sqrt(mean) + 1, (i, state)
            # and in the other basis, half and half
            for other in (counts[(state + 2) % 4], counts[((state + 2) % 4) ^ 1]):
                mean = sent * (1 - math.exp(-eta * mu / 2) + dark)
                assert abs(other - mean) < 4 * math.sqrt(mean) + 1, (i, state)


def test_no_light_without_laser_or_pattern(lab: Lab) -> None:
    source = lab.transmitter
    source.play([0], [0], RATE_HZ)

    def clicks() -> int:
        lab.clock.sleep(0.1)
        return record(lab, 0.2)[0].size

    assert clicks() > 50_000
    source.stop()
    assert clicks() < 200
    source.play([0], [0], RATE_HZ)
    source.emission.set(False)
    assert clicks() < 200
    source.emission.set(True)
    assert clicks() > 50_000
    source.off()
    assert source.emission.get() is False
    assert clicks() < 200


def test_it_keeps_the_promises_of_its_roles(lab: Lab) -> None:
    testing.check_weak_coherent_source(lab.transmitter, lab.clock)
    testing.check_pulse_sequencer(lab.alice_pulses, lab.clock)
