"""Squeezers and liquid crystals as elements: what light meets, block by block."""

import numpy as np
import numpy.typing as npt
import pytest
from bellbench.sims.elements import (
    Drifting,
    LiquidCrystals,
    LiquidCrystalsModel,
    Optic,
    Paddles,
    PaddlesModel,
    Squeezers,
    SqueezersModel,
)
from bellbench.sims.physics.polarization import retarders

RNG = np.random.default_rng(0)
AXES = (0.0, 45.0, 0.0, 45.0)


def squeezers(**changes: float) -> Squeezers:
    return Squeezers(SqueezersModel.model_validate({"kind": "squeezers", **changes}))


def angle_deg(a: npt.NDArray[np.complex128], b: npt.NDArray[np.complex128]) -> float:
    """Angle of the rotation on the Poincare sphere that leads from a to b."""
    half = abs(np.trace(b @ a.conj().T)) / 2
    return float(np.degrees(2 * np.arccos(min(1.0, half))))


def test_an_ideal_squeezer_follows_its_voltage() -> None:
    element = squeezers(hysteresis=0.0, creep=0.0, loss=3.0)
    assert isinstance(element, Optic)
    assert isinstance(element, Drifting)
    assert not element.drifts
    for i, volts in enumerate((0.7, -1.4, 2.1, 0.35)):
        element.drive(i, volts)
    passage = element.passage()
    assert np.allclose(passage.jones, retarders((90, -180, 270, 45), AXES))
    assert passage.transmission == pytest.approx(10**-0.3)
    assert passage.stokes is None
    assert element.passage() is passage


def test_unwinding_a_stage_leaves_the_state_but_for_hysteresis() -> None:
    volts = (1.2, 0.4, 0.9, -1.1)
    ideal, real = squeezers(hysteresis=0.0, creep=0.0), squeezers(hysteresis=0.1, creep=0.0)
    for element, most in ((ideal, 1e-5), (real, 65.0)):
        for i, v in enumerate(volts):
            element.drive(i, v)
        before = element.passage().jones
        element.drive(0, volts[0] - 2 * 1.4)
        off = angle_deg(before, element.passage().jones)
        assert off <= most
        element.drive(0, volts[0])
    # 2.8 V back: five plays of 0.25 ... 1.25 V turn, five do not; 0.5 V are missing at most
    assert off > 30


def test_the_way_to_a_voltage_matters() -> None:
    up, down = squeezers(creep=0.0), squeezers(creep=0.0)
    up.drive(0, -5.0)
    down.drive(0, 5.0)
    for each in (up, down):
        each.drive(0, 0.0)
    # the loop is 10 % of 10 V wide, 180 degrees per 1.4 V
    assert down.retardances_deg[0] - up.retardances_deg[0] == pytest.approx(180 / 1.4)


def test_creep_reaches_the_light_and_stays_the_same_object_while_it_rests() -> None:
    element = squeezers(hysteresis=0.0, creep=0.02)
    assert element.drifts
    element.drive(0, 1.4)
    assert element.retardances_deg[0] == pytest.approx(180.0)
    first = element.passage()
    for block in range(1000):
        element.step(RNG, block * 0.01)
    # two decades after 0.1 s
    assert element.retardances_deg[0] == pytest.approx(180 * 1.04, abs=0.1)
    later = element.passage()
    assert later is not first
    assert np.abs(later.jones - retarders((element.retardances_deg[0], 0, 0, 0), AXES)).max() < 1e-4
    element.step(RNG, 10.0)  # 0.01 s after 10 s: less than 0.01 degrees
    assert element.passage() is later


def test_without_power_there_is_no_voltage() -> None:
    element = squeezers(hysteresis=0.0, creep=0.0)
    element.drive(1, 2.0)
    element.sweep(np.full((4, 4), 1.0))
    element.power_off()
    assert element.volts == [0.0] * 4
    assert np.allclose(element.passage().jones, np.eye(2))


def test_what_piezos_keep_makes_another_one_the_same() -> None:
    element, other = squeezers(), squeezers()
    for volts in (3.0, -2.0, 1.0):
        element.drive(2, volts)
        element.step(RNG, 0.0)
    for key in Squeezers.KEPT:
        setattr(other, key, getattr(element, key))
    for each in (element, other):
        each.drive(2, -0.5)
        each.step(RNG, 0.0)
    assert other.retardances_deg == pytest.approx(element.retardances_deg, abs=1e-12)
    assert abs(element.retardances_deg[2]) > 1


def test_cells_follow_in_blocks() -> None:
    model = LiquidCrystalsModel(kind="liquid_crystals", rise=0.05, fall=0.005)
    cells = LiquidCrystals(model)
    assert isinstance(cells, Optic)
    assert isinstance(cells, Drifting)
    assert cells.drifts
    cells.amplitudes_v = [3.0, 0.0, 0.5, 1.0]
    cells.step(RNG, 0.0)
    assert cells.retardances_deg == pytest.approx([540.0] * 4)  # not driven yet
    first = cells.passage()
    cells.driven = True
    goal = 540 * np.cosh(1.0) ** -2
    cells.step(RNG, 0.01)
    assert cells.retardances_deg[0] == pytest.approx(goal + (540 - goal) * np.exp(-2))
    assert cells.retardances_deg[1:] == pytest.approx([540.0] * 3)  # below the threshold
    assert cells.passage() is not first
    cells.power_off()
    here = cells.retardances_deg[0]
    for _ in range(5):
        cells.step(RNG, 0.0)
    assert cells.retardances_deg[0] == pytest.approx(540 - (540 - here) * np.exp(-1))
    assert np.allclose(cells.passage().jones, retarders(cells.retardances_deg.tolist(), AXES))


def test_paddles_pass_light_as_they_stand() -> None:
    paddles = Paddles(PaddlesModel(kind="paddles", loss=1.0))
    first = paddles.passage()
    assert paddles.passage() is first
    paddles.angles_deg[1] = 30.0
    turned = paddles.passage()
    assert turned is not first
    assert np.allclose(turned.jones, retarders((90, 180, 90), (0, 30, 0)))
    assert turned.transmission == pytest.approx(10**-0.1)


def test_turns_of_fibre_make_the_retardance() -> None:
    model = PaddlesModel(kind="paddles", turns=(2, 4, 2), wavelength=1550e-9)
    # 84.2 degrees per turn of 18 mm
    assert model.retardances_deg == pytest.approx((168.5, 336.9, 168.5), abs=0.1)
    paddles = Paddles(model)
    assert np.allclose(paddles.passage().jones, retarders(model.retardances_deg, (0, 0, 0)))
    two = PaddlesModel(kind="paddles", turns=(1, 1))
    assert Paddles(two).angles_deg == [0.0, 0.0]
    with pytest.raises(ValueError, match="either retardance or turns"):
        PaddlesModel(kind="paddles", turns=(1,), retardance=(90.0,))


@pytest.mark.parametrize(
    "wrong",
    [
        {"axes": ()},
        {"pi_voltage": 0},
        {"hysteresis": 0.31},
        {"creep": -0.1},
        {"max_voltage": -1},
        {"loss": -1},
    ],
)
def test_bad_parameters_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError):
        squeezers(**wrong)
