"""The world: what its clicks depend on, and their rates against the CW closed form."""

import math
from typing import Any

import numpy as np
import pytest
from bellbench.instruments import ConfigError
from bellbench.sims.elements import Oven, Paddles, PumpLaser, SnspdArray, TaggerInputs
from bellbench.sims.world import BLOCK_PS, World, WorldModel, check_layout

Clicks = tuple[Any, Any]


def layout(**changes: Any) -> dict[str, Any]:
    detector = {"efficiency": 0.8, "dark_rate": 75.0, "jitter": 80e-12, "dead_time": 30e-9}
    elements: dict[str, Any] = {
        "pump": {"kind": "pump_laser", "threshold": 0.04, "slope": 0.5},
        "oven": {"kind": "oven", "start": 40.0},
        "crystal": {
            "kind": "spdc",
            "pump": "pump",
            "oven": "oven",
            "pair_rate": 1e7 / 0.03,
            "phase_matching": 40.0,
            "visibility": 0.98,
        },
    }
    for side, loss in (("alice", 10 * math.log10(0.8 / 0.1)), ("bob", 10 * math.log10(0.8 / 0.05))):
        elements |= {
            f"{side}_fibre": {"kind": "fibre", "length": 1000.0, "attenuation": 0.0, "loss": loss},
            f"{side}_paddles": {"kind": "paddles", "retardance": [90.0, 180.0, 90.0]},
            f"{side}_analyzer": {"kind": "analyzer"},
            f"{side}_snspd": {"kind": "snspd", "detectors": [detector] * 4},
            f"{side}_tagger": {"kind": "tagger", "jitter": 20e-12, "cable_delays": [0, 1e-8]},
        }
    for name, change in changes.items():
        elements[name] = {**elements[name], **change}
    stages = ("fibre", "paddles", "analyzer", "snspd", "tagger")
    return {
        "elements": elements,
        "paths": [
            ["crystal.signal", *(f"alice_{stage}" for stage in stages)],
            ["crystal.idler", *(f"bob_{stage}" for stage in stages)],
        ],
    }


class Bench:
    """A world with its knobs at the operating point and both taggers recording."""

    def __init__(self, seed: int = 1, *, record: bool = True, **changes: Any) -> None:
        self.world = World(WorldModel.model_validate(layout(**changes)), seed)
        self.pump = self.get("pump", PumpLaser)
        self.oven = self.get("oven", Oven)
        self.pump.current_a, self.pump.emitting = 0.1, True
        self.oven.setpoint_c, self.oven.heating = 40.0, True
        for side in ("alice", "bob"):
            array = self.get(f"{side}_snspd", SnspdArray)
            array.enabled, array.bias_a = True, [18e-6] * 4
            # lambda/4, lambda/2, lambda/4 with all axes aligned make a whole turn: no rotation
            self.get(f"{side}_paddles", Paddles).angles_deg = [0.0, 0.0, 0.0]
            self.get(f"{side}_tagger", TaggerInputs).recording = record

    def get(self, name: str, kind: type[Any]) -> Any:
        element = self.world.elements[name]
        assert isinstance(element, kind)
        return element

    def tags(self, side: str) -> TaggerInputs:
        element = self.get(f"{side}_tagger", TaggerInputs)
        assert isinstance(element, TaggerInputs)
        return element

    def run(self, blocks: int, side: str = "alice") -> Clicks:
        times, inputs = [], []
        for _ in range(blocks):
            self.world.run_block()
            times.append(self.tags(side).times_ps)
            inputs.append(self.tags(side).inputs)
        return np.concatenate(times), np.concatenate(inputs)


def same(a: Clicks, b: Clicks) -> bool:
    return np.array_equal(a[0], b[0]) and np.array_equal(a[1], b[1])


def test_clicks_depend_on_the_seed_and_nothing_else() -> None:
    assert same(Bench(7).run(5), Bench(7).run(5))
    assert not same(Bench(7).run(5), Bench(8).run(5))


def test_clicks_do_not_depend_on_who_listened_before() -> None:
    always, late = Bench(3), Bench(3, record=False)
    expected = always.run(6)
    late.run(4)
    for side in ("alice", "bob"):
        late.tags(side).recording = True
    times, inputs = late.run(2)
    part = expected[0] >= 4 * BLOCK_PS
    assert same((times, inputs), (expected[0][part], expected[1][part]))


def test_clicks_are_sorted_and_lie_in_their_block() -> None:
    bench = Bench(2)
    for block in range(5):
        times, _ = bench.run(1)
        assert (np.diff(times) >= 0).all()
        assert times[0] >= block * BLOCK_PS
        assert times[-1] < (block + 1) * BLOCK_PS


def test_dead_time_holds_across_blocks() -> None:
    times, inputs = Bench(2).run(20)
    for detector in range(1, 5):
        assert np.diff(times[inputs == detector]).min() >= 30_000


def closed_form(pairs: float, eta: tuple[float, float], dark: float, window: float) -> Any:
    """CW model of Neumann et al., PRA 104, 022406 (2021), with dead time (physics.md sec. 9)."""
    dead, detectors = 30e-9, 4
    lam = [1 / (1 + (pairs * e + dark) * dead / detectors) for e in eta]
    singles = [pairs * e * x + dark for e, x in zip(eta, lam, strict=True)]
    fwhm = math.hypot(80e-12, 20e-12) * math.sqrt(2)
    true = pairs * eta[0] * eta[1] * lam[0] * lam[1]
    true *= math.erf(math.sqrt(math.log(2)) * window / fwhm)
    accidental = singles[0] * singles[1] * window
    qber = (true * 0.01 + accidental / 2) / (true + accidental)
    return singles, true + accidental, accidental, qber


DELAYS = np.array([0, 0, 10_000, 0, 0])  # by input, as in the layout above


def aligned(clicks: Clicks) -> Clicks:
    times = clicks[0] - DELAYS[clicks[1]]
    order = np.argsort(times, kind="stable")
    return times[order], clicks[1][order]


def pairs_within(a: Any, b: Any, window_ps: int) -> int:
    """All pairs with |dt| <= window/2: numpy searchsorted, a way independent of our kernels."""
    low = np.searchsorted(b, a - window_ps // 2, side="left")
    high = np.searchsorted(b, a + window_ps // 2, side="right")
    return int((high - low).sum())


# The same number of pairs of each: what is left of the brighter one is the model's bias.
@pytest.mark.parametrize(("current", "seconds"), [(0.1, 2.0), (0.28, 0.5)])
def test_rates_qber_and_car_agree_with_the_cw_closed_form(current: float, seconds: float) -> None:
    """3 sigma of the Monte-Carlo error, plus a model bias of 0.5 % (all-pairs counting)."""
    bench, window = Bench(11), 300
    bench.pump.current_a = current
    alice: list[Clicks] = []
    bob: list[Clicks] = []
    for _ in range(round(seconds * 100)):
        bench.world.run_block()
        for side, store in (("alice", alice), ("bob", bob)):
            store.append((bench.tags(side).times_ps, bench.tags(side).inputs))
    a, b = (tuple(map(np.concatenate, zip(*s, strict=True))) for s in (alice, bob))
    pairs = 0.5 * (current - 0.04) * 1e7 / 0.03
    singles, coincidences, accidentals, qber = closed_form(pairs, (0.1, 0.05), 300, window * 1e-12)

    def agrees(counted: float, expected: float) -> bool:
        return abs(counted - expected) <= 3 * math.sqrt(expected) + 0.005 * expected

    assert agrees(a[0].size, singles[0] * seconds)
    assert agrees(b[0].size, singles[1] * seconds)
    a, b = aligned((a[0], a[1])), aligned((b[0], b[1]))
    rows, columns = ([times[inputs == i] for i in range(1, 5)] for times, inputs in (a, b))
    table = np.array([[pairs_within(row, column, window) for column in columns] for row in rows])
    assert agrees(table.sum(), coincidences * seconds)
    shifts = range(200_000, 1_200_000, 200_000)
    wrong = sum(pairs_within(a[0], b[0] + shift, window) for shift in shifts)
    assert agrees(wrong / len(shifts), accidentals * seconds)
    z, x = table[:2, :2], table[2:, 2:]
    errors = z[0, 1] + z[1, 0] + x[0, 1] + x[1, 0]
    sifted = z.sum() + x.sum()
    sigma = math.sqrt(qber * (1 - qber) / sifted)
    assert abs(errors / sifted - qber) <= 3 * sigma + 0.005 * qber


def test_detuning_the_oven_kills_the_rate() -> None:
    bench = Bench()
    tuned = bench.run(3)[0].size
    bench.oven.temperature_c = bench.oven.setpoint_c = 46.0
    assert bench.run(3)[0].size < 0.1 * tuned


def test_darkening_a_detector_shows_on_its_channel_only() -> None:
    bench = Bench()
    before = np.bincount(bench.run(5)[1], minlength=5)
    bench.get("alice_snspd", SnspdArray).bias_a[2] = 0.0
    bench.run(1)  # photons in flight still count
    after = np.bincount(bench.run(5)[1], minlength=5)
    assert after[3] == 0
    assert after[1] > 0.95 * before[1]


def test_turning_a_paddle_raises_the_error_rate() -> None:
    bench = Bench()
    aligned = bench.world.mean_rates("crystal").both
    bench.get("alice_paddles", Paddles).angles_deg[1] = 20.0
    turned = bench.world.mean_rates("crystal").both

    def qber(table: Any) -> float:
        return float((table[0, 1] + table[1, 0]) / table[:2, :2].sum())

    assert qber(aligned) == pytest.approx(0.01, abs=1e-4)
    # A half-wave plate turned by 20 deg turns polarization by 40 deg.
    expected = (1 - 0.98 * math.cos(math.radians(80))) / 2
    assert qber(turned) == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize(
    ("break_it", "words"),
    [
        (lambda w: w["elements"]["crystal"].update(pump="pmup"), "did you mean 'pump'"),
        (lambda w: w["elements"]["crystal"].update(oven="pump"), "'pump' is a pump_laser, a oven"),
        (lambda w: w["paths"][0].remove("alice_analyzer"), "the path has 1 output, the snspd 4"),
        (lambda w: w["paths"].pop(), "both arms need a path"),
        (lambda w: w["paths"][1].__setitem__(1, "alice_fibre"), "already in path 1"),
        (lambda w: w["paths"][0].__setitem__(0, "crystal"), "write crystal.signal"),
        (lambda w: w["paths"][0].insert(2, "oven"), "does not stand in a path"),
        (lambda w: w["paths"][0].reverse(), "a path begins with"),
        (lambda w: w["elements"]["bob_snspd"]["detectors"].pop(), "analyzer has 4 outputs"),
    ],
)
def test_a_layout_that_does_not_join_up_is_refused_with_its_place(
    break_it: Any, words: str
) -> None:
    raw = layout()
    raw["elements"]["bob_snspd"]["detectors"] = list(raw["elements"]["bob_snspd"]["detectors"])
    break_it(raw)
    model = WorldModel.model_validate(raw)
    issues = check_layout(model)
    assert any(words in message for _, message in issues), issues
    with pytest.raises(ConfigError):
        World(model, 1)


def test_a_line_may_stand_for_several_detectors_alike() -> None:
    several = {"kind": "snspd", "detectors": [{"count": 3, "efficiency": 0.5}, {"dark_rate": 7.0}]}
    written = {"kind": "snspd", "detectors": [{"efficiency": 0.5}] * 3 + [{"dark_rate": 7.0}]}
    one, two = (
        WorldModel.model_validate(layout(alice_snspd=box)).elements["alice_snspd"]
        for box in (several, written)
    )
    assert one == two
    with pytest.raises(ValueError, match="65 detectors; 64 is what a box can have"):
        WorldModel.model_validate(layout(alice_snspd={"detectors": [{"count": 64}, {}]}))


@pytest.mark.parametrize("turn", [0.0, 22.5, 45.0])
def test_a_polarizing_splitter_correlates_as_cos_of_twice_the_angle(turn: float) -> None:
    """E(a, b) = V cos 2(a - b) of |HH> + |VV>; with the extinction of the splitters."""
    raw = layout()
    box = {"kind": "snspd", "detectors": [{"count": 2}]}
    for side, angle in (("alice", 10.0), ("bob", 10.0 + turn)):
        raw["elements"][f"{side}_analyzer"] = {
            "kind": "polarizing_splitter",
            "angle": angle,
            "extinction": 20.0,
        }
        raw["elements"][f"{side}_snspd"] = box
    world = World(WorldModel.model_validate(raw), 1)
    pump = world.elements["pump"]
    assert isinstance(pump, PumpLaser)
    pump.current_a, pump.emitting = 0.1, True
    for side in ("alice", "bob"):
        snspd = world.elements[f"{side}_snspd"]
        assert isinstance(snspd, SnspdArray)
        snspd.enabled, snspd.bias_a = True, [18e-6] * 2
    both = world.mean_rates("crystal").both
    found = (both[0, 0] + both[1, 1] - both[0, 1] - both[1, 0]) / both.sum()
    kept = 1 - 2 / (1 + 10**2)
    assert found == pytest.approx(0.98 * kept**2 * math.cos(math.radians(2 * turn)), abs=1e-9)
