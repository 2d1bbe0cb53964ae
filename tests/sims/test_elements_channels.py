"""Fibre, free space, satellite and eavesdropper as elements, alone and in a world."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from bellbench.sims.elements import (
    Drifting,
    Eavesdropper,
    EavesdropperModel,
    Fibre,
    FibreModel,
    FreeSpace,
    FreeSpaceModel,
    Optic,
    Passage,
    PumpLaser,
    SatellitePass,
    SatellitePassModel,
    SnspdArray,
    TaggerInputs,
)
from bellbench.sims.physics import free_space as fs
from bellbench.sims.physics.fibre import angular_width
from bellbench.sims.saved import recall, remember
from bellbench.sims.world import BLOCK_PS, World, WorldModel
from pydantic import TypeAdapter, ValidationError

FILE = {"file": True}
SLOW = math.sqrt(0.1 / 3600)  # rms walk in a step of 0.1 s for 1 K in an hour


def fibre(**fields: Any) -> Fibre:
    return Fibre(FibreModel.model_validate({"kind": "fibre", **fields}))


def walk(element: Fibre, steps: int, seed: int = 1) -> None:
    rng = np.random.default_rng(seed)
    for k in range(steps):
        element.step(rng, k * element.step_s)


# -- fibre -------------------------------------------------------------------------------------


def test_every_channel_is_an_optic() -> None:
    free = FreeSpaceModel(kind="free_space", length=1e3)
    eve = Eavesdropper(EavesdropperModel(kind="eavesdropper"))
    sky = SatellitePass(SatellitePassModel(kind="satellite_pass"))
    for element in (fibre(), FreeSpace(free), sky, eve):
        assert isinstance(element, Optic)
        assert element.passage() is element.passage()
    assert isinstance(fibre(), Drifting)
    assert isinstance(sky, Drifting)
    assert not isinstance(eve, Drifting)


def test_a_fibre_as_a_file_says_it() -> None:
    text = {
        "kind": "fibre",
        "length": "20 km",
        "attenuation": "0.2 dB/km",
        "loss": "1 dB",
        "dispersion": "17 ps/nm/km",
        "pmd": "0.1 ps/sqrt(km)",
        "thermal_delay": "37 ps/km/K",
        "raman": "2.6e-9 /km/nm",
        "classical_channels": [{"wavelength": "1558.1 nm", "power": "-20 dBm"}],
    }
    model = TypeAdapter(FibreModel).validate_python(text, context=FILE)
    passage = Fibre(model).passage()
    assert passage.transmission == pytest.approx(10**-0.5)
    assert passage.dispersion * 0.8e-9 == pytest.approx(272e-12)
    assert passage.delay_s == pytest.approx(20e3 * 1.468 / 299_792_458)
    again = FibreModel.model_validate_json(model.model_dump_json(), context=FILE)
    assert again == model


def test_a_quiet_fibre_does_not_drift() -> None:
    element = fibre(length=1e3)
    assert not element.drifts
    before = element.passage()
    walk(element, 3)
    assert element.passage() is before


def test_delay_follows_the_day() -> None:
    element = fibre(length=20e3, daily_swing=10.0)
    cold = element.passage().delay_s
    element.step(np.random.default_rng(1), 6 * 3600 - element.step_s)
    assert element.kelvin == pytest.approx(5.0)
    assert element.passage().delay_s - cold == pytest.approx(4e-9)


def test_temperature_walks_by_its_rms_in_an_hour() -> None:
    found = []
    for seed in range(100):
        element = fibre(length=1e3, temperature_walk=2.0)
        walk(element, 100, seed)
        found.append(element.kelvin)
    expected = 2.0 * SLOW * 10
    assert np.std(found) == pytest.approx(expected, rel=4 / math.sqrt(200))


def test_warmth_turns_the_polarization_and_back() -> None:
    element = fibre(rotation=(10.0, 20.0, 30.0), daily_swing=8.0, thermal_rotation=(5.0, 0.0, 0.0))
    start = element.jones
    rng = np.random.default_rng(1)
    element.step(rng, 6 * 3600 - element.step_s)
    turn = start.conj().T @ element.jones
    assert 2 * math.degrees(math.acos(abs(np.trace(turn)) / 2)) == pytest.approx(20.0)
    element.step(rng, 12 * 3600 - element.step_s)
    assert element.jones == pytest.approx(start, abs=1e-9)


def test_a_bump_and_a_bend_act_at_once() -> None:
    element = fibre()
    before = element.passage()
    element.bump((0.0, 0.0, 90.0), 5e-12)
    assert element.passage() is not before
    assert element.passage().jones @ np.array([1, 0]) == pytest.approx(
        np.array([1, 1]) / math.sqrt(2)
    )
    assert element.passage().delay_s == pytest.approx(5e-12)
    element.bent_db = 3.0103
    assert element.passage().transmission == pytest.approx(0.5)
    element.bent_db = 0.0
    assert element.passage().transmission == pytest.approx(1.0)


def test_a_fibre_is_resumed_where_it_was() -> None:
    fields = {"length": 1e4, "pmd": 1e-14, "drift_time": 5.0, "temperature_walk": 3.0}
    one, two = fibre(**fields), fibre(**fields)
    walk(one, 10)
    one.bump((0.0, 30.0, 0.0), 1e-9)
    two.passage()
    recall({"link": two}, remember({"link": one}))
    was, now = one.passage(), two.passage()
    assert np.array_equal(was.jones, now.jones)
    assert (was.delay_s, was.dgd_s, was.pmd_axis) == (now.delay_s, now.dgd_s, now.pmd_axis)


def test_pmd_is_drawn_once_or_walks() -> None:
    still = fibre(length=25e3, pmd=0.1e-12 / math.sqrt(1e3))
    assert still.drifts
    walk(still, 1)
    passage = still.passage()
    assert passage.dgd_s > 0
    assert math.hypot(*passage.pmd_axis) == pytest.approx(1)
    walk(still, 5)
    assert still.passage() is passage

    found = []
    for seed in range(300):
        one = fibre(length=25e3, pmd=0.1e-12 / math.sqrt(1e3))
        walk(one, 1, seed)
        found.append(one.passage().dgd_s)
    assert np.mean(found) == pytest.approx(0.5e-12, rel=4 * 0.42 / math.sqrt(300))

    moving = fibre(length=25e3, pmd=0.1e-12, drift_time=10.0)
    walk(moving, 2)
    first = moving.passage()
    walk(moving, 2)
    assert moving.passage().dgd_s != first.dgd_s


def test_traffic_in_the_fibre_makes_light() -> None:
    # The worked example of physics.md sec. 2, 1 THz beside the quantum channel.
    channel = {"wavelength": 1541.97e-9, "power": 0.0}
    base: dict[str, Any] = {"length": 25e3, "wavelength": 1550e-9}
    forward = fibre(**base, classical_channels=[{**channel, "isolation": 200.0}])
    backward = fibre(**base, classical_channels=[{**channel, "direction": "backward"}])
    assert forward.passage().light_hz == pytest.approx(1.28e8, rel=0.05)
    assert backward.passage().light_hz == pytest.approx(1.59e8, rel=0.05)
    leaky = fibre(**base, classical_channels=[{**channel, "isolation": 80.0}])
    leak = leaky.passage().light_hz - forward.passage().light_hz
    assert leak == pytest.approx(7.8e15 * 10**-0.5 * 1e-8, rel=0.01)
    both = fibre(
        **base,
        loss=3.0103,
        classical_channels=[
            {**channel, "isolation": 200.0},
            {**channel, "direction": "backward", "power": -10.0},
        ],
    )
    expected = (forward.passage().light_hz + 0.1 * backward.passage().light_hz) / 2
    assert both.passage().light_hz == pytest.approx(expected, rel=1e-4)
    # Raman light dominates the fibre unless traffic is dimmed: -30 dBm leaves some 1e5 /s.
    # A DWDM plan names frequencies: 194.42 THz is 1541.98 nm.
    plan = fibre(**base, classical_channels=[{"frequency": 194.42e12, "power": 0.0}])
    assert plan.passage().light_hz == pytest.approx(forward.passage().light_hz, rel=1e-2)
    dim = fibre(**base, classical_channels=[{**channel, "power": -30.0}])
    assert 1e5 < dim.passage().light_hz < 2e5


@pytest.mark.parametrize(
    ("fields", "place"),
    [
        ({"loss": "-1 dB"}, "loss"),
        ({"pmd": "-0.1 ps/sqrt(km)"}, "pmd"),
        ({"dispersion": "17 ps"}, "dispersion"),
        ({"classical_channels": [{"wavelength": "1550 nm"}]}, "power"),
        ({"classical_channels": [{"power": "0 dBm"}]}, "either its wavelength or its frequency"),
        (
            {
                "classical_channels": [
                    {"power": "0 dBm", "wavelength": "1550 nm", "frequency": "193.4 THz"}
                ]
            },
            "either its wavelength or its frequency",
        ),
        ({"classical_channels": [{"wavelength": "1550 nm", "power": "1 mW"}]}, "power"),
        ({"dispersion_broadening": "1 ps"}, "dispersion_broadening"),
    ],
)
def test_bad_fibres_are_refused(fields: dict[str, Any], place: str) -> None:
    with pytest.raises(ValidationError, match=place):
        TypeAdapter(FibreModel).validate_python({"kind": "fibre", **fields}, context=FILE)


# -- free space --------------------------------------------------------------------------------


def roofs(**fields: Any) -> FreeSpace:
    base = {"kind": "free_space", "length": 10e3, "divergence": math.degrees(100e-6)}
    return FreeSpace(FreeSpaceModel.model_validate({**base, "receiver": 0.2, **fields}))


def test_a_steady_link_over_roofs() -> None:
    link = roofs(transmitter=0.05, attenuation=0.3, loss=2.0)
    assert not link.drifts
    passage = link.passage()
    assert passage.transmission == pytest.approx((0.2 / 1.05) ** 2 * 10**-0.3 * 10**-0.2)
    assert passage.delay_s == pytest.approx(10e3 * 1.00027 / 299_792_458)
    assert passage.light_hz == 0


def test_a_link_sees_the_sky_behind_it() -> None:
    black = roofs(stray_light=500.0).passage().light_hz
    night = roofs(stray_light=500.0, sky="new_moon", loss=3.0103).passage().light_hz
    sky = fs.sky_light_hz(fs.sky_radiance(810e-9), 100e-6, 0.2, 3e-9, 810e-9)
    assert black == 500.0
    assert night == pytest.approx(500.0 + sky / 2)


def test_a_link_through_turbulence_keeps_its_mean_and_forgets() -> None:
    calm = roofs().passage().transmission
    link = roofs(turbulence=1e-15, scintillation_time=20e-3)
    assert link.drifts
    rng = np.random.default_rng(3)
    seen = np.empty(20_000)
    for k in range(seen.size):
        link.step(rng, 0.01 * k)
        seen[k] = link.passage().transmission / calm
    rytov = fs.rytov_variance(1e-15, 810e-9, 10e3)
    index = fs.scintillation_index(rytov) * fs.aperture_averaging(0.2, 810e-9, 10e3)
    share, correlation = fs.block_average(20e-3, 10e-3)
    variance = math.log1p(index) * share
    logs = np.log(seen)
    assert index > 0.02
    assert seen.mean() == pytest.approx(1, abs=5 * math.sqrt(variance * 5 / seen.size))
    assert logs.var() == pytest.approx(variance, rel=0.1)
    assert np.corrcoef(logs[1:], logs[:-1])[0, 1] == pytest.approx(correlation, abs=0.03)


def test_a_link_that_trembles_loses_its_mean_share() -> None:
    steady = roofs().passage().transmission
    link = roofs(pointing_jitter=math.degrees(20e-6), pointing_time=0.01)
    rng = np.random.default_rng(4)
    seen = []
    for k in range(10_000):
        link.step(rng, 0.01 * k)
        seen.append(link.passage().transmission / steady)
    radius = (0.3 + 100e-6 * 10e3) / 2
    expected = fs.pointing_mean(20e-6 * 10e3, radius)
    assert np.mean(seen) == pytest.approx(expected, abs=6 * float(np.std(seen)) / 100)


def test_a_receiver_that_takes_everything_takes_no_more() -> None:
    link = roofs(receiver=5.0, turbulence=1e-12)
    rng = np.random.default_rng(5)
    for k in range(200):
        link.step(rng, 0.01 * k)
        assert link.passage().transmission <= 1


# -- satellite ---------------------------------------------------------------------------------


def micius(**fields: Any) -> SatellitePass:
    return SatellitePass(SatellitePassModel.model_validate({"kind": "satellite_pass", **fields}))


def test_darkness_until_the_pass_and_after_it() -> None:
    sky = micius(sky="full_moon", culmination=300.0, max_elevation=60.0)
    rng = np.random.default_rng(6)
    lit = []
    dark = sky.passage()
    for t in np.arange(0.0, 600.0, 1.0):
        sky.step(rng, float(t))
        passage = sky.passage()
        high = sky.elevation_deg >= 10
        assert (passage.transmission > 0) == high
        assert (passage.light_hz > 0) == high
        assert high or passage is dark
        if high:
            lit.append(t)
    assert 430 < len(lit) < 445  # by the geometry, 7.3 min
    assert (lit[0] + lit[-1]) / 2 == pytest.approx(300, abs=1)


def test_the_delay_slews_without_steps() -> None:
    sky = micius(culmination=0.0)
    rng = np.random.default_rng(7)
    rates = []
    for begin in (-200.0, -100.0, -1.0, 0.0, 120.0):
        sky.step(rng, begin)
        one = sky.passage()
        sky.step(rng, begin + 0.01)
        two = sky.passage()
        assert one.delay_s + one.delay_rate * 0.01 == pytest.approx(two.delay_s, abs=1e-15)
        assert one.delay_s == pytest.approx(
            fs.pass_geometry(begin, 500e3, 90.0)[1] / 299_792_458, abs=1e-15
        )
        rates.append(one.delay_rate)
    assert -2.4e-5 < rates[0] < -2e-5
    assert rates == sorted(rates)


def test_a_pass_is_the_product_of_its_parts() -> None:
    sky = micius(turbulence=0.0, zenith_transmission=0.8, loss=3.0, culmination=0.0)
    sky.step(np.random.default_rng(8), 100.0)
    spread = fs.geometric_transmission(sky.distance_m, 0.3, 1.2, 10e-6)
    expected = spread * fs.slant_transmission(0.8, sky.elevation_deg) * 10**-0.3
    assert sky.passage().transmission == pytest.approx(expected)


def test_air_and_pointing_change_a_pass_but_not_its_mean() -> None:
    steady = micius(turbulence=0.0, culmination=0.0)
    steady.step(np.random.default_rng(9), 60.0)
    shaken = micius(turbulence=1.0, pointing_jitter=math.degrees(1e-6), culmination=0.0)
    rng = np.random.default_rng(9)
    seen = []
    for _ in range(5000):
        shaken.step(rng, 60.0)
        seen.append(shaken.passage().transmission / steady.passage().transmission)
    width = (0.3 + 10e-6 * steady.distance_m) / 2
    expected = fs.pointing_mean(1e-6 * steady.distance_m, width)
    # pointing is correlated over ten blocks
    assert np.mean(seen) == pytest.approx(
        expected, abs=4 * float(np.std(seen)) / math.sqrt(5000 / 20)
    )


def test_a_satellite_that_never_rises_is_refused() -> None:
    with pytest.raises(ValidationError, match="never rises above min_elevation"):
        micius(max_elevation=15.0, min_elevation=20.0)


# -- eavesdropper ------------------------------------------------------------------------------


def test_an_eavesdropper_does_nothing_until_told() -> None:
    eve = Eavesdropper(EavesdropperModel(kind="eavesdropper"))
    quiet = eve.passage()
    assert (quiet.transmission, quiet.stokes, quiet.light_hz) == (1.0, None, 0.0)
    eve.tap, eve.light, eve.intercept = 0.2, 1e6, 0.5
    now = eve.passage()
    assert now is not quiet
    assert now is eve.passage()
    assert now.transmission == pytest.approx(0.8)
    assert now.light_hz == 1e6
    assert now.stokes == pytest.approx(np.diag([1, 0.75, 0.75, 0.5]))


# -- in a world --------------------------------------------------------------------------------

Clicks = tuple[npt.NDArray[np.int64], npt.NDArray[np.int16]]


class Link:
    """Pairs whose signal passes one channel and whose idler another, each to an analyzer."""

    def __init__(self, a: dict[str, Any], b: dict[str, Any], pairs: float = 1e6, **crystal: Any):
        detector = {"efficiency": 1.0, "dark_rate": 0.0, "jitter": 20e-12, "dead_time": 1e-9}
        elements: dict[str, Any] = {
            "pump": {"kind": "pump_laser", "threshold": 0.04, "slope": 0.5},
            "crystal": {
                "kind": "spdc",
                "pump": "pump",
                "pair_rate": pairs / 0.03,
                "visibility": 1.0,
                **crystal,
            },
        }
        paths = []
        for arm, channel in (("signal", a), ("idler", b)):
            elements |= {
                f"{arm}_channel": channel,
                f"{arm}_analyzer": {"kind": "analyzer"},
                f"{arm}_snspd": {"kind": "snspd", "detectors": [detector] * 4},
                f"{arm}_tags": {"kind": "tagger"},
            }
            stages = ("channel", "analyzer", "snspd", "tags")
            paths.append([f"crystal.{arm}", *(f"{arm}_{stage}" for stage in stages)])
        self.world = World(WorldModel.model_validate({"elements": elements, "paths": paths}), 1)
        pump = self.world.elements["pump"]
        assert isinstance(pump, PumpLaser)
        pump.current_a, pump.emitting = 0.1, True
        for arm in ("signal", "idler"):
            array = self.world.elements[f"{arm}_snspd"]
            assert isinstance(array, SnspdArray)
            array.enabled, array.bias_a = True, [18e-6] * 4
            self.tags(arm).recording = True

    def tags(self, arm: str) -> TaggerInputs:
        element = self.world.elements[f"{arm}_tags"]
        assert isinstance(element, TaggerInputs)
        return element

    def passage(self, arm: str) -> Passage:
        element = self.world.elements[f"{arm}_channel"]
        assert isinstance(element, Optic)
        return element.passage()

    def run(self, blocks: int) -> tuple[Clicks, Clicks]:
        found: dict[str, list[Clicks]] = {"signal": [], "idler": []}
        for _ in range(blocks):
            self.world.run_block()
            for arm, batches in found.items():
                batches.append((self.tags(arm).times_ps, self.tags(arm).inputs))
        a, b = (
            (np.concatenate([t for t, _ in batch]), np.concatenate([i for _, i in batch]))
            for batch in found.values()
        )
        return a, b


def differences(
    a: Clicks, b: Clicks, delay_ps: float, window_ps: float
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int16], npt.NDArray[np.int16]]:
    """Idler less signal of coincidences about a delay, with both inputs."""
    want = a[0] + round(delay_ps)
    place = np.searchsorted(b[0], want)
    place = np.clip(place, 1, b[0].size - 1)
    near = np.where(want - b[0][place - 1] < b[0][place] - want, place - 1, place)
    gap = b[0][near] - want
    ok = np.abs(gap) <= window_ps / 2
    return gap[ok].astype(np.float64), a[1][ok], b[1][near[ok]]


NOTHING = {"kind": "fibre"}


def test_the_peak_walks_with_the_temperature() -> None:
    link = Link(
        NOTHING, {"kind": "fibre", "length": 20e3, "temperature_walk": 200.0, "attenuation": 0}
    )
    channel = link.world.elements["idler_channel"]
    assert isinstance(channel, Fibre)
    peaks = []
    for _ in range(4):
        a, b = link.run(10)
        delay = channel.passage().delay_s * 1e12
        gap, _, _ = differences(a, b, delay, 2000)
        peaks.append(delay)
        assert gap.size > 3e4
        assert np.median(gap) == pytest.approx(0, abs=3)
    assert np.ptp(peaks) > 100


def test_dispersion_widens_the_peak_and_a_fibre_in_the_other_arm_narrows_it() -> None:
    far = {"kind": "fibre", "length": 20e3, "dispersion": 17e-6, "attenuation": 0}
    undo = {"kind": "fibre", "length": 3.4e3, "dispersion": -100e-6, "attenuation": 0}
    widths = []
    for other in (NOTHING, undo):
        link = Link(far, other, bandwidth=0.8e-9)
        delays = [link.passage(arm).delay_s for arm in ("signal", "idler")]
        gap, _, _ = differences(*link.run(10), (delays[1] - delays[0]) * 1e12, 2000)
        core = gap[np.abs(gap) < 600]
        widths.append(core.std() * 2.354820)
    jitter = math.hypot(20, 20)
    assert widths[0] == pytest.approx(math.hypot(272, jitter), rel=0.03)
    assert widths[1] == pytest.approx(jitter, rel=0.3)


def errors(a: Clicks, b: Clicks, first: int) -> tuple[float, float]:
    """Share of unequal outcomes in Z (first input 1) or X (3), and its error."""
    _, one, two = differences(a, b, 0, 400)
    basis = np.isin(one, (first, first + 1)) & np.isin(two, (first, first + 1))
    wrong = (one != two)[basis]
    return float(wrong.mean()), math.sqrt(0.25 / wrong.size)


@pytest.mark.parametrize("other", [0.0, 1.0])
def test_pmd_blurs_what_lies_across_its_axis_and_is_undone_by_the_other_arm(other: float) -> None:
    link = Link(NOTHING, NOTHING, bandwidth=10e-9, wavelength=1550e-9)
    dgd = 0.3e-12
    for arm, part in (("signal", 1.0), ("idler", other)):
        channel = link.world.elements[f"{arm}_channel"]
        assert isinstance(channel, Fibre)
        channel.pmd_s = np.array([part * dgd, 0.0, 0.0])
    a, b = link.run(10)
    kept = math.exp(-((angular_width(10e-9, 1550e-9) * dgd * (1 - other)) ** 2) / 2)
    assert kept == (1.0 if other else pytest.approx(0.607, abs=0.01))
    for first, expected in ((1, 0.0), (3, (1 - kept) / 2)):
        found, error = errors(a, b, first)
        assert found == pytest.approx(expected, abs=4 * error * (expected > 0) + 1e-3)


@pytest.mark.parametrize("fraction", [0.3, 1.0])
def test_an_eavesdropper_costs_a_quarter_of_her_share_in_both_bases(fraction: float) -> None:
    eve = {"kind": "eavesdropper", "intercept": fraction, "tap": 0.5}
    a, b = Link(NOTHING, eve).run(20)
    assert b[0].size / a[0].size == pytest.approx(0.5, abs=0.01)
    for first in (1, 3):
        found, error = errors(a, b, first)
        assert found == pytest.approx(fraction / 4, abs=4 * error)


def test_light_of_an_eavesdropper_and_of_traffic_is_counted() -> None:
    traffic = {
        "kind": "fibre",
        "length": 25e3,
        "classical_channels": [{"wavelength": 1541.97e-9, "power": -20.0}],
    }
    link = Link(traffic, {"kind": "eavesdropper", "light": 2e6}, pairs=1.0)
    a, b = link.run(20)
    light = link.passage("signal").light_hz
    assert light > 1e6
    for clicks, rate in ((a, light), (b, 2e6)):
        expected = rate * 20 * BLOCK_PS * 1e-12
        assert clicks[0].size == pytest.approx(
            expected, abs=5 * math.sqrt(expected) + 0.01 * expected
        )


def test_a_satellite_rises_and_its_peak_slews() -> None:
    sky = {
        "kind": "satellite_pass",
        "culmination": 150.0,
        "receiver": 10.0,
        "turbulence": 0.0,
        "zenith_transmission": 1.0,
        "min_elevation": 20.0,
    }
    link = Link(NOTHING, sky, pairs=2e6)
    channel = link.world.elements["idler_channel"]
    assert isinstance(channel, SatellitePass)
    _, b = link.run(2)
    assert channel.elevation_deg < 20
    assert b[0].size == 0
    link.world.now_ps = 60 * 10**12  # nobody waits for the satellite here
    link.run(3)
    begin = link.world.now_ps
    delay_s = []
    batches = []
    for _ in range(4):
        batches.append(link.run(1))
        delay_s.append((channel.passage().delay_s, channel.passage().delay_rate))
    a = (
        np.concatenate([one[0][0] for one in batches]),
        np.concatenate([one[0][1] for one in batches]),
    )
    b = (
        np.concatenate([one[1][0] for one in batches]),
        np.concatenate([one[1][1] for one in batches]),
    )
    delay, rate = delay_s[0]
    assert rate < -1e-5
    moved = a[0] + np.rint((delay + rate * (a[0] - begin) * 1e-12) * 1e12).astype(np.int64)
    gap, _, _ = differences((moved, a[1]), b, 0, 2000)
    assert gap.size > 1000
    # a rate of 2e-5 would be 200 ns a block: the peak stays put within its curvature
    assert np.std(gap[np.abs(gap) < 400]) < 100
    assert np.median(gap) == pytest.approx(0, abs=60)
