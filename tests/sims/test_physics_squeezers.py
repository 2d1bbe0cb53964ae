"""Loops, piezo squeezers and liquid crystals against their closed forms."""

import itertools
import math

import numpy as np
import pytest
from bellbench.sims.physics import liquid_crystal as lc
from bellbench.sims.physics.polarization import retarder, retarders
from bellbench.sims.physics.squeezers import Creep, Hysteresis, loop_retardance_deg
from hypothesis import given, settings
from hypothesis import strategies as st

# -- loops


def test_retardance_of_loops() -> None:
    # by hand: 2 pi^2 x 0.133 x (125 um)^2 / (1550 nm x 18 mm) = 1.470 rad
    assert math.radians(loop_retardance_deg(1, 18e-3, 1550e-9)) == pytest.approx(1.470, abs=1e-3)
    # Lefevre's own form: delta n = a (r/R)^2 along N loops of 2 pi R
    n, radius, wavelength = 3, 28e-3, 1550e-9
    path = n * 2 * math.pi * radius
    turns = 0.133 * (62.5e-6 / radius) ** 2 * path / wavelength
    assert loop_retardance_deg(n, 2 * radius, wavelength) == pytest.approx(360 * turns)
    assert loop_retardance_deg(2, 18e-3, 775e-9) == pytest.approx(
        4 * loop_retardance_deg(1, 18e-3, 1550e-9)
    )


# -- hysteresis


def swept(piezo: Hysteresis, *ends: float, steps: int = 400) -> np.ndarray:
    """Output along straight ways from one voltage to the next, shape (ways, steps + 1)."""
    ways = []
    for begin, end in itertools.pairwise(ends):
        way = []
        for u in np.linspace(begin, end, steps + 1):
            piezo.drive(0, float(u))
            way.append(piezo.output[0])
        ways.append(way)
    return np.array(ways)


@pytest.mark.parametrize("width", [0.05, 0.1, 0.15])
def test_a_full_sweep_has_the_loop_that_was_asked_for(width: float) -> None:
    piezo = Hysteresis(width, 5.0, 1)
    swept(piezo, 0, -5)  # forget the first branch
    up, down = swept(piezo, -5, 5, -5)
    assert (up[0], up[-1]) == (pytest.approx(-5.0), pytest.approx(5.0))
    assert down[-1] == pytest.approx(-5.0)
    middle = up.size // 2
    assert down[middle] - up[middle] == pytest.approx(width * 10.0)
    assert (down[::-1] - up).max() == pytest.approx(width * 10.0)  # nowhere wider


@pytest.mark.parametrize("amplitude", [0.3, 1.0, 2.5, 5.0])
def test_the_loops_area_is_that_of_its_plays(amplitude: float) -> None:
    """A play of threshold r encloses 4 r (A - r); the sum of all is the loop."""
    width, plays = 0.1, 10
    piezo = Hysteresis(width, 5.0, 1)
    swept(piezo, 0, -amplitude, amplitude)
    down, up = swept(piezo, amplitude, -amplitude, amplitude, steps=4000)
    du = 2 * amplitude / 4000
    area = float(np.trapezoid(down, dx=du) - np.trapezoid(up, dx=du))
    r = 2.5 * np.arange(1, plays + 1) / plays
    weight = 4 * width / (plays + 1)
    expected = weight * float((4 * r * np.maximum(amplitude - r, 0)).sum())
    assert area == pytest.approx(expected, rel=1e-3, abs=1e-9)


def test_small_strokes_are_straight_and_weaker() -> None:
    piezo = Hysteresis(0.1, 5.0, 1)
    swept(piezo, 0, 5, 1.0, 1.4)  # anywhere; the least threshold is 0.25 V
    there, back = swept(piezo, 1.4, 1.2, 1.4)
    assert there == pytest.approx(back[::-1])
    slope = 1 + 0.1 - 10 * 4 * 0.1 / 11
    assert there[0] - there[-1] == pytest.approx(slope * 0.2)


@settings(max_examples=30)
@given(st.lists(st.floats(-5, 5), min_size=1, max_size=12), st.floats(-5, 5))
def test_hysteresis_remembers_turning_points_only(turns: list[float], last: float) -> None:
    straight, halting = Hysteresis(0.15, 5.0, 1), Hysteresis(0.15, 5.0, 1)
    for u in [*turns, last]:
        straight.drive(0, u)
    here = 0.0
    for u in [*turns, last]:
        for v in np.linspace(here, u, 5):
            halting.drive(0, float(v))
        here = u
    assert halting.output[0] == pytest.approx(straight.output[0], abs=1e-12)
    # and a small loop closes: it wipes out its own memory
    straight.drive(0, min(5.0, last + 1.0))
    after = straight.output[0]
    straight.drive(0, last)
    straight.drive(0, min(5.0, last + 1.0))
    assert straight.output[0] == pytest.approx(after, abs=1e-12)


def test_no_hysteresis_is_a_straight_line() -> None:
    piezo = Hysteresis(0.0, 5.0, 1)
    for u in (3.0, -1.0, 4.0):
        piezo.drive(0, u)
        assert piezo.output[0] == pytest.approx(u)
    with pytest.raises(ValueError, match="loop"):
        Hysteresis(0.31, 5.0, 1)


# -- creep


@pytest.mark.parametrize("g", [0.01, 0.05])
def test_creep_grows_with_the_logarithm_of_time(g: float) -> None:
    creep = Creep(g, 1)
    now = 0.0
    for t in (0.1, 0.3, 1.0, 10.0, 60.0, 3600.0, 36000.0):
        creep.step([2.0], t - now)
        now = t
        # ripple of three relaxations per decade: 1 % of a decade's share; rounded off at 0.1 s
        slack = 0.01 if t > 0.5 else 0.3
        assert creep.output([2.0])[0] == pytest.approx(
            2.0 * (1 + g * math.log10(t / 0.1)), abs=2.0 * g * slack
        )


@settings(max_examples=30)
@given(
    st.lists(
        st.tuples(st.floats(-5, 5), st.integers(1, 400), st.integers(1, 7)), min_size=1, max_size=6
    )
)
def test_creep_does_not_see_how_long_the_blocks_are(told: list[tuple[float, int, int]]) -> None:
    """Solved exactly for drives that stand still: the same to rounding, 1e-9 V."""
    once, often = Creep(0.05, 2), Creep(0.05, 2)
    for drive, blocks, pieces in told:
        drives = [drive, -drive / 2]
        once.step(drives, blocks * 0.01)
        for _ in range(blocks if blocks < 60 else pieces):
            often.step(drives, blocks * 0.01 / (blocks if blocks < 60 else pieces))
    assert once.output(drives) == pytest.approx(often.output(drives), abs=1e-9)


def test_creep_after_a_step_back_is_the_difference_of_two() -> None:
    """Linear: up at 0 and down at 100 s gives y(t) - y(t - 100 s)."""
    both, alone, later = Creep(0.03, 1), Creep(0.03, 1), Creep(0.03, 1)
    both.step([1.0], 100.0)
    both.step([0.0], 400.0)
    alone.step([1.0], 500.0)
    later.step([1.0], 400.0)
    left = alone.output([1.0])[0] - later.output([1.0])[0]
    assert both.output([0.0])[0] == pytest.approx(left, abs=1e-12)
    assert left > 0


# -- squeezers as retarders


def test_unwinding_a_stage_by_a_full_turn_leaves_the_state() -> None:
    axes = (0.0, 45.0, 0.0, 45.0)
    before = retarders((130.0, 500.0, -77.0, 240.0), axes)
    for stage in range(4):
        phi = np.array([130.0, 500.0, -77.0, 240.0])
        phi[stage] -= 360.0
        after = retarders(phi.tolist(), axes)
        assert np.abs(after + before).max() < 1e-12  # -1 is a phase of all light


def test_axes_turn_about_s1_and_s2() -> None:
    half = np.radians(70.0) / 2
    assert np.allclose(retarder(70.0, 0.0), np.diag([np.exp(-1j * half), np.exp(1j * half)]))
    about_s2 = [[np.cos(half), -1j * np.sin(half)], [-1j * np.sin(half), np.cos(half)]]
    assert np.allclose(retarder(70.0, 45.0), about_s2)


# -- liquid crystals


def test_a_cell_is_flat_below_the_threshold_and_falls_above() -> None:
    volts = np.linspace(0, 10, 1001)
    retardance = lc.retardance_deg(volts, 540.0, 1.0, 2.0)
    assert np.all(retardance[volts <= 1.0] == 540.0)
    assert np.all(np.diff(retardance[volts >= 1.0]) < 0)
    # theta = pi/2 - 2 atan exp(-1), Gamma cos^2 theta
    tilt = math.pi / 2 - 2 * math.atan(math.exp(-1))
    assert float(lc.retardance_deg(3.0, 540.0, 1.0, 2.0)) == pytest.approx(
        540 * math.cos(tilt) ** 2
    )
    assert float(lc.retardance_deg(5000.0, 540.0, 1.0, 2.0)) == pytest.approx(0.0, abs=1e-9)


@settings(max_examples=30)
@given(st.floats(1.0, 12.0), st.floats(10, 2000), st.floats(0, 3), st.floats(0.3, 5))
def test_the_inverse_of_the_curve(volts: float, largest: float, low: float, scale: float) -> None:
    amplitude = low + volts / 4
    retardance = float(lc.retardance_deg(amplitude, largest, low, scale))
    back = lc.amplitude_of(retardance, largest, low, scale)
    assert float(lc.retardance_deg(back, largest, low, scale)) == pytest.approx(retardance)


def test_a_cell_rises_slowly_and_falls_fast_whatever_the_steps() -> None:
    now, goal = np.array([100.0, 300.0]), np.array([200.0, 200.0])
    once = lc.relax(now, goal, 0.03, 0.05, 0.005)
    assert once == pytest.approx(
        [200 - 100 * math.exp(-0.03 / 0.05), 200 + 100 * math.exp(-0.03 / 0.005)]
    )
    many = now
    for _ in range(30):
        many = lc.relax(many, goal, 0.001, 0.05, 0.005)
    assert many == pytest.approx(once)
    assert lc.relax(now, goal, 1e-9, 0.0, 0.0) == pytest.approx(goal)
