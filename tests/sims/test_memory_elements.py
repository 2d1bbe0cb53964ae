"""Memories as elements: what the outputs of a delay generator make of photons."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from bellbench.sims.elements import (
    DelayGenerator,
    DelayGeneratorModel,
    GasMemoryModel,
    MemoryModel,
    let_out,
)
from bellbench.sims.physics.memory import NEVER, in_band, retained
from hypothesis import given, settings
from hypothesis import strategies as st

US = 1_000_000
GAS = GasMemoryModel(
    kind="gas_memory",
    sequencer="sequencer",
    group_delay=10e-6,
    efficiency=0.5,
    absorption=0.7,
    transparency=0.9,
    spin_coherence_time=20e-6,
    decay="exponential",
    pump_time=1e-6,
    pumped_lifetime=1e-3,
)
PUMPED = 1 - math.exp(-20)


def sequenced(memory: Any, *arrivals_us: float, **edges_us: float) -> list[tuple[float, ...]]:
    """Passed, recalled and delay (us) of photons in the second of cycles of 100 us."""
    generator = DelayGenerator(DelayGeneratorModel(kind="delay_generator"))
    generator.source, generator.rate_uhz = "internal", 10**10
    for channel, delay in {"B": 20.0, **edges_us}.items():
        generator.delays_ps["ABCDEFGH".index(channel)] = round(delay * US)
    train = generator.edges(0, 400 * US).trains[0]
    at = np.array([round((100 + t) * US) for t in arrivals_us], np.int64)
    found = let_out(at, memory.cycles(train), memory.medium())
    return list(zip(found.passed, found.recalled, found.delay_ps / US, strict=True))


@pytest.mark.parametrize(
    ("at_us", "edges_us", "recalled", "delay_us"),
    [
        pytest.param(25, {"C": 23, "D": 60}, 0.5, 10, id="control on: slow light"),
        pytest.param(25, {"C": 25, "D": 35}, 0.5, 10, id="just long enough"),
        pytest.param(25, {"C": 25.001, "D": 60}, 0.0, 0, id="written too late"),
        pytest.param(25, {"C": 23, "D": 33}, 0.0, 0, id="never read"),
        pytest.param(25, {"C": 23, "D": 33, "E": 53, "F": 64}, 0.5 / math.e, 30, id="stored"),
        pytest.param(25, {"C": 23, "D": 33, "E": 53, "F": 55}, 0.5 / math.e, 30, id="in time"),
        pytest.param(26, {"C": 23, "D": 33, "E": 53, "F": 55}, 0.0, 0, id="read too short"),
        pytest.param(25, {"C": 23, "D": 33, "E": 20, "F": 21}, 0.0, 0, id="read too early"),
        pytest.param(25, {"C": 53, "D": 64, "E": 23, "F": 33}, 0.5 / math.e, 30, id="swapped"),
        pytest.param(25, {"C": 23, "D": 33, "E": 28, "F": 64}, 0.5, 10, id="no dark between"),
        pytest.param(25, {"C": 23, "D": 33, "E": 33, "F": 64}, 0.5, 10, id="no dark, just"),
        pytest.param(54, {"C": 23, "D": 33, "E": 53, "F": 64}, 0.5, 10, id="comes with the read"),
        pytest.param(40, {"C": 23, "D": 33, "E": 53, "F": 64}, 0.0, 0, id="comes in the dark"),
        pytest.param(25, {}, 0.0, 0, id="no control light"),
        pytest.param(
            32, {"C": 23, "D": 33, "E": 90, "F": 99.8}, 0.5 * math.exp(-57 / 20), 67, id="last"
        ),
        pytest.param(
            33, {"C": 23, "D": 34, "E": 92, "F": 99.8}, 0.0, 0, id="too late in the cycle"
        ),
    ],
)
def test_control_light_stops_light_and_lets_it_go(
    at_us: float, edges_us: dict[str, float], recalled: float, delay_us: float
) -> None:
    ((passed, found, delay),) = sequenced(GAS, at_us, **edges_us)
    assert passed == pytest.approx(0.3)
    assert found == pytest.approx(recalled * PUMPED * math.exp(-(at_us - 20) / 1000), abs=1e-12)
    assert delay == pytest.approx(delay_us)


@pytest.mark.parametrize(
    ("at_us", "edges_us", "delay_us"),
    [
        pytest.param(25, {"C": 23, "D": 33, "E": 43, "F": 54}, 26, id="first in, last out"),
        pytest.param(32, {"C": 23, "D": 33, "E": 43, "F": 54}, 12, id="last in, first out"),
        pytest.param(25, {"C": 23, "D": 33, "E": 43, "F": 51}, 26, id="in time"),
        pytest.param(24, {"C": 23, "D": 33, "E": 43, "F": 51}, 0, id="read too short"),
        pytest.param(25, {"C": 23, "D": 99}, 0, id="never turned round"),
        pytest.param(25, {"C": 23, "D": 33, "E": 30, "F": 54}, 0, id="turned round too early"),
        pytest.param(44, {"C": 23, "D": 33, "E": 43, "F": 99}, 0, id="comes with the read"),
        pytest.param(22, {"C": 23, "D": 33, "E": 43, "F": 54}, 0, id="comes in the dark"),
    ],
)
def test_a_gradient_echo_is_reversed_in_time(
    at_us: float, edges_us: dict[str, float], delay_us: float
) -> None:
    gradient = GAS.model_copy(update={"scheme": "gem"})
    ((passed, found, delay),) = sequenced(gradient, at_us, **edges_us)
    assert passed == pytest.approx(0.3)
    assert delay == pytest.approx(delay_us)
    decay = math.exp(-delay_us / 20 - (at_us - 20) / 1000) if delay_us else 0.0
    assert found == pytest.approx(0.5 * PUMPED * decay)


def test_pumping_prepares_or_makes_transparent() -> None:
    control = {"C": 23.0, "D": 60.0}
    assert sequenced(GAS, 19.0, **control) == [(0, 0, 0)]
    assert sequenced(GAS, 25.0, B=0.0, **control) == [(0, 0, 0)]
    assert sequenced(GAS, 19.0, 25.0, H=20.0, **control) == [(0, 0, 0), (0.9, 0, 0)]
    ((_, half, _),) = sequenced(GAS, 25.0, B=math.log(2), **control)
    lost = math.exp(-(25 - math.log(2)) / 1000)
    assert half == pytest.approx(0.25 * lost, rel=1e-6)
    assert let_out(np.array([5]), GAS.no_cycles(), GAS.medium()).passed == [0]


edges = st.floats(20, 99.8)


@settings(max_examples=30)
@given(st.lists(edges, min_size=4, max_size=4), st.lists(st.floats(20, 99), min_size=1, max_size=9))
def test_a_photon_leaves_when_it_has_had_its_share_of_control_light(
    control: list[float], arrivals: list[float]
) -> None:
    c, d, e, f = control
    arrivals.sort()
    rows = sequenced(GAS, *arrivals, C=c, D=max(c, d), E=e, F=max(e, f))
    pulses = [(a, b) for a, b in ((c, max(c, d)), (e, max(e, f))) if round(b * US) > round(a * US)]

    def lit(begin: float, end: float) -> float:
        """Control light between two times; the overlap of two pulses counts once."""
        grid = sorted({begin, end, *(x for p in pulses for x in p if begin < x < end)})
        return sum(
            right - left
            for left, right in pairwise(grid)
            if any(a <= (left + right) / 2 < b for a, b in pulses)
        )

    for at, (_, recalled, delay) in zip(arrivals, rows, strict=True):
        if recalled:
            assert at + delay < 100
            assert lit(at, at + delay) == pytest.approx(10, abs=1e-5)
            dark = 20 * math.log(0.5 * PUMPED * math.exp(-(at - 20) / 1000) / recalled)
            assert dark == pytest.approx(delay - 10, abs=1e-4)
        elif any(a + 1e-5 < at < b - 1e-5 for a, b in pulses):
            assert lit(at, 100) < 10 + 1e-5  # not enough is left of the cycle


def test_gaussian_decay_and_the_reads() -> None:
    gas = GAS.model_copy(update={"decay": "gaussian"})
    edges_us = {"C": 23.0, "D": 33.0, "E": 53.0, "F": 64.0}
    ((_, found, _),) = sequenced(gas, 25.0, **edges_us)
    assert found == pytest.approx(
        0.5 * PUMPED * math.exp(-5e-3) * float(retained(20, 1, 20, "gaussian"))
    )
    generator = DelayGenerator(DelayGeneratorModel(kind="delay_generator"))
    generator.source, generator.rate_uhz = "internal", 10**10
    generator.delays_ps = [0, 0, 23 * US, 33 * US, 53 * US, 64 * US, 0, 0]
    train = generator.edges(0, 300 * US).trains[0]
    begins, lengths = gas.reads(gas.cycles(train))
    assert begins.tolist() == [53 * US, 153 * US]
    assert lengths.tolist() == [11 * US] * 2
    comb = MemoryModel(kind="memory", sequencer="s", spin_wave=False)
    begins, _ = comb.reads(comb.cycles(train))
    assert begins.size == 0
    assert (comb.cycles(train).transfer_ps == NEVER).all()


@pytest.mark.parametrize("ratio", [0.2, 1.0, 5.0])
def test_a_band_takes_in_what_of_the_spectrum_it_covers(ratio: float) -> None:
    n, step = 1 << 14, 1e-11  # a Gaussian pulse by Fourier transform
    t = (np.arange(n) - n // 2) * step
    spectrum = np.abs(np.fft.fft(np.exp(-2 * math.log(2) * (t / 1e-9) ** 2))) ** 2
    f = np.fft.fftfreq(n, step)
    band = ratio * 2 * math.log(2) / math.pi / 1e-9
    gauss = np.exp(-4 * math.log(2) * (f / band) ** 2)
    assert in_band(1e-9, band, "gaussian") == pytest.approx(
        (spectrum * gauss).sum() / spectrum.sum(), rel=1e-6
    )
    square = spectrum[np.abs(f) < band / 2].sum() / spectrum.sum()
    assert in_band(1e-9, band, "square") == pytest.approx(square, abs=0.02)
    assert in_band(1e-9, math.inf, "gaussian") == in_band(1e-9, math.inf, "square") == 1
    comb = MemoryModel(kind="memory", sequencer="s", efficiency=0.5, bandwidth=band)
    assert comb.medium(1e-9).efficiency == 0.5 * in_band(1e-9, band, "square")
    assert comb.medium().efficiency == 0.5
    gas = GAS.model_copy(update={"bandwidth": band})
    assert gas.medium(1e-9).efficiency == 0.5 * in_band(1e-9, band, "gaussian")
