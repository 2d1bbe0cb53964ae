"""Layouts beyond one pair of parties: shared sources, couplers, merged light, dispersion."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from bellbench.sims.continuous import ContinuousPair
from bellbench.sims.elements import Passage, PumpLaser, SnspdArray, TaggerInputs
from bellbench.sims.layout import Layout
from bellbench.sims.world import BLOCK_PS, World, WorldModel

Clicks = tuple[npt.NDArray[Any], npt.NDArray[Any]]

POWER_W = 0.03
LINKS = tuple(itertools.combinations("abcd", 2))
#: Which ports of a six-channel source each of four users has: every two share one channel.
PORTS = {
    user: "+".join(
        f"source.{'s' if user == link[0] else 'i'}{n}"
        for n, link in enumerate(LINKS, start=1)
        if user in link
    )
    for user in "abcd"
}


def crystal(rate_hz: float, **more: Any) -> dict[str, Any]:
    """A pump and a crystal that makes so many pairs per second."""
    made = {"kind": "spdc", "pump": "pump", "pair_rate": rate_hz / POWER_W, **more}
    return {"pump": {"kind": "pump_laser", "threshold": 0.04, "slope": 0.5}, "source": made}


def user(name: str, loss_db: float = 0.0, **changes: Any) -> dict[str, Any]:
    """What a user owns: fibre, analyzer, detectors, tagger."""
    detector = {
        "efficiency": 1.0,
        "dark_rate": 0.0,
        "jitter": 0.0,
        "dead_time": 0.0,
        **changes.get("detector", {}),
    }
    fibre = {"kind": "fibre", "length": 1000.0, "attenuation": 0.0, "loss": loss_db}
    return {
        f"{name}_fibre": fibre | changes.get("fibre", {}),
        f"{name}_analyzer": {"kind": "analyzer"},
        f"{name}_snspd": {"kind": "snspd", "detectors": [detector] * 4},
        f"{name}_tagger": {"kind": "tagger"},
    }


def way(name: str) -> list[str]:
    return [f"{name}_{part}" for part in ("fibre", "analyzer", "snspd", "tagger")]


def db(transmission: float) -> float:
    return -10 * math.log10(transmission)


class Bench:
    """A world with pump and detectors on; ``listening`` says whose taggers record."""

    def __init__(
        self,
        elements: dict[str, Any],
        paths: list[list[str]],
        seed: int = 1,
        listening: str | None = None,
    ) -> None:
        model = WorldModel.model_validate({"elements": elements, "paths": paths})
        self.world = World(model, seed)
        for element in self.world.elements.values():
            if isinstance(element, PumpLaser):
                element.current_a, element.emitting = 0.1, True
            elif isinstance(element, SnspdArray):
                element.enabled, element.bias_a = True, [18e-6] * len(element.bias_a)
        self.taggers = {
            name.removesuffix("_tagger"): element
            for name, element in self.world.elements.items()
            if isinstance(element, TaggerInputs)
        }
        self.listen(*(self.taggers if listening is None else listening))

    def listen(self, *names: str) -> None:
        for name, tagger in self.taggers.items():
            tagger.recording = name in names

    def run(self, blocks: int) -> dict[str, Clicks]:
        got: dict[str, tuple[list[Any], list[Any]]] = {name: ([], []) for name in self.taggers}
        for _ in range(blocks):
            begin = self.world.now_ps
            self.world.run_block()
            for name, tagger in self.taggers.items():
                if tagger.recording:
                    times = tagger.times_ps
                    assert (np.diff(times) >= 0).all()
                    assert not times.size or begin <= times[0] <= times[-1] < begin + BLOCK_PS
                    got[name][0].append(times)
                    got[name][1].append(tagger.inputs)
        return {
            name: (np.concatenate(t or [[]]), np.concatenate(i or [[]]))
            for name, (t, i) in got.items()
        }


def close(counted: float, expected: float, sigmas: float = 5.0) -> bool:
    return abs(counted - expected) <= sigmas * math.sqrt(max(expected, 1.0))


def pairs(a: npt.NDArray[Any], b: npt.NDArray[Any], window_ps: int, shift: int = 0) -> int:
    """All pairs within half a window, by numpy alone."""
    low = np.searchsorted(b, a + shift - window_ps // 2, side="left")
    high = np.searchsorted(b, a + shift + window_ps // 2, side="right")
    return int((high - low).sum())


def counts(a: Clicks, b: Clicks, window_ps: int, shift: int = 0) -> npt.NDArray[np.int64]:
    """Pairs of each two of four inputs."""
    one, two = ([t[i == n] for n in range(1, 5)] for t, i in (a, b))
    return np.array([[pairs(x, y, window_ps, shift) for y in two] for x in one])


def differences(a: npt.NDArray[Any], b: npt.NDArray[Any], reach_ps: int) -> npt.NDArray[Any]:
    """Every b - a within a reach."""
    low = np.searchsorted(b, a - reach_ps)
    counts = np.searchsorted(b, a + reach_ps) - low
    first = np.repeat(np.arange(a.size), counts)
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    found: npt.NDArray[Any] = b[np.repeat(low, counts) + within] - a[first]
    return found


def same(one: Clicks, other: Clicks) -> bool:
    return np.array_equal(one[0], other[0]) and np.array_equal(one[1], other[1])


# -- a source for four -------------------------------------------------------------------------

SHARES = (0.25, 0.2, 0.15, 0.15, 0.15, 0.1)
REACH = {"a": 0.2, "b": 0.15, "c": 0.1, "d": 0.25}


def mesh(seed: int = 1, listening: str | None = None, **source: Any) -> Bench:
    elements = crystal(1e7, visibility=0.96, channels=SHARES, **source)
    for name, transmission in REACH.items():
        elements |= user(name, db(transmission), detector={"dark_rate": 500.0, "jitter": 50e-12})
    return Bench(elements, [[PORTS[name], *way(name)] for name in "abcd"], seed, listening)


def test_every_two_of_four_users_share_pairs_as_the_closed_form_says() -> None:
    """Singles sum the channels of a user; coincidences are true ones plus S_u S_v W."""
    bench, seconds, window = mesh(5), 0.3, 400
    clicks = bench.run(round(seconds * 100))
    fwhm = 50e-12 * math.sqrt(2)
    inside = math.erf(math.sqrt(math.log(2)) * window * 1e-12 / fwhm)
    singles = {}
    for name in "abcd":
        mine = sum(s for s, link in zip(SHARES, LINKS, strict=True) if name in link)
        singles[name] = 1e7 * mine * REACH[name] + 4 * 500
        assert close(clicks[name][0].size, singles[name] * seconds)
    for share, (u, v) in zip(SHARES, LINKS, strict=True):
        true = 1e7 * share * REACH[u] * REACH[v] * inside
        accidental = singles[u] * singles[v] * window * 1e-12
        counted = pairs(clicks[u][0], clicks[v][0], window)
        assert close(counted, (true + accidental) * seconds), (u, v)
        wrong = pairs(clicks[u][0], clicks[v][0], window, shift=100_000)
        assert close(wrong, accidental * seconds), (u, v)


def test_every_link_of_the_mesh_has_the_state_of_its_pairs() -> None:
    """(|HH> + |VV>)/sqrt2 of visibility V: a share (1 - V)/2 errs, in both bases."""
    clicks = mesh(6).run(12)
    for u, v in LINKS:
        table = counts(clicks[u], clicks[v], 300) - counts(clicks[u], clicks[v], 300, 100_000)
        for block in (table[:2, :2], table[2:, 2:]):
            total = block.sum()
            # Accidentals are subtracted: their noise is that of as many again, twice.
            assert abs(block[0, 1] + block[1, 0] - 0.02 * total) < 5 * math.sqrt(0.05 * total)
            assert abs(block[0, 0] - 0.49 * total) < 5 * math.sqrt(0.3 * total)
        cross = table[:2, 2:]
        assert abs(cross[0, 0] - cross.sum() / 4) < 5 * math.sqrt(0.3 * cross.sum())


@pytest.mark.parametrize("state", [{"phase": 180.0}, {"imbalance": 0.5}])
def test_the_rates_of_a_channel_are_those_of_the_same_source_alone(state: dict[str, Any]) -> None:
    shared = mesh(**state)
    alone = crystal(1e7 * SHARES[3], visibility=0.96, **state)
    for name in "bc":
        alone |= user(name, db(REACH[name]), detector={"dark_rate": 500.0})
    two = Bench(alone, [["source.signal", *way("b")], ["source.idler", *way("c")]])
    expected = two.world.mean_rates("source")
    got = shared.world.mean_rates("source", channel=4)
    np.testing.assert_allclose(got.both, expected.both, rtol=1e-9)
    np.testing.assert_allclose(got.only[0], expected.only[0], rtol=1e-9)
    np.testing.assert_allclose(got.only[1], expected.only[1], rtol=1e-9)


def test_clicks_of_a_mesh_do_not_depend_on_who_listens_or_since_when() -> None:
    expected = mesh(3).run(5)
    late = mesh(3, listening="")
    late.run(2)
    late.listen("c")
    one = late.run(1)
    late.listen("b", "c")
    two = late.run(2)
    for name, got, since in (("c", one, 2), ("c", two, 3), ("b", two, 3)):
        times, inputs = expected[name]
        until = since + (1 if got is one else 2)
        part = (times >= since * BLOCK_PS) & (times < until * BLOCK_PS)
        assert same(got[name], (times[part], inputs[part]))


def test_a_mesh_of_another_seed_clicks_otherwise() -> None:
    assert same(mesh(7).run(2)["d"], mesh(7).run(2)["d"])
    assert not same(mesh(7).run(2)["d"], mesh(8).run(2)["d"])


# -- couplers, merged light --------------------------------------------------------------------


def test_a_coupler_lets_two_users_share_a_channel() -> None:
    """Each photon goes to one of them: both have coincidences with the third, none together."""
    elements = crystal(2e6)
    for name, transmission in (("a", 0.5), ("b", 0.4), ("c", 0.2)):
        elements |= user(name, db(transmission))
    elements["coupler"] = {"kind": "coupler", "shares": [0.6, 0.3], "loss": db(0.8)}
    elements["trunk"] = {"kind": "fibre", "length": 500.0, "attenuation": 0.0, "loss": db(0.9)}
    paths = [
        ["source.signal", *way("a")],
        ["source.idler", "trunk", "coupler.1", *way("b")],
        ["source.idler", "trunk", "coupler.2", *way("c")],
    ]
    seconds = 0.4
    clicks = Bench(elements, paths, 2).run(round(seconds * 100))
    eta = {"a": 0.5, "b": 0.9 * 0.6 * 0.8 * 0.4, "c": 0.9 * 0.3 * 0.8 * 0.2}
    for name, part in eta.items():
        assert close(clicks[name][0].size, 2e6 * part * seconds)
    trunk_ps = round(500 * 1.468 / 299792458 * 1e12)
    for name in "bc":
        true = 2e6 * eta["a"] * eta[name]
        accidental = 2e6 * eta["a"] * 2e6 * eta[name] * 200e-12
        counted = pairs(clicks["a"][0], clicks[name][0], 200, trunk_ps)
        assert close(counted, (true + accidental) * seconds)
    accidental = 2e6 * eta["b"] * 2e6 * eta["c"] * 2e-9
    assert close(pairs(clicks["b"][0], clicks["c"][0], 2000), accidental * seconds)


def test_both_photons_of_a_pair_may_come_to_one_user() -> None:
    """HH at once is 1/16 of all pairs seen both: two clicks of one detector."""
    elements = crystal(1e6) | user("a", db(0.3))
    paths = [["source.signal+source.idler", *way("a")]]
    seconds = 0.4
    bench = Bench(elements, paths, 4)
    clicks = bench.run(round(seconds * 100))["a"]
    times, inputs = clicks
    assert close(times.size, 2e6 * 0.3 * seconds, 8)  # pairs bunch: the variance is 1.3 times
    table = counts(clicks, clicks, 20)
    table -= np.diag(np.bincount(inputs, minlength=5)[1:])  # each click with itself
    # Every pair is counted from either end.
    expected = 2 * 1e6 * 0.3**2 * seconds / 8
    for i, j in ((0, 0), (1, 1), (2, 2), (3, 3)):
        assert close(table[i, j] / 2, expected / 2)
    assert close(table[0, 2], expected / 2)
    assert table[0, 1] < 0.002 * expected + 5


def test_light_merged_into_an_arm_adds_clicks_and_no_coincidences() -> None:
    elements = crystal(1e6)
    elements["lamp"] = {"kind": "light", "rate": 3e6, "polarization": [0.6, 0.0, 0.8]}
    for name in "ab":
        elements |= user(name, db(0.2))
    paths = [["source.signal+lamp.out", *way("a")], ["source.idler", *way("b")]]
    seconds = 0.4
    clicks = Bench(elements, paths, 9).run(round(seconds * 100))
    by_input = np.bincount(clicks["a"][1], minlength=5)[1:]
    lamp = 3e6 * 0.2 * np.array([0.25 * 1.6, 0.25 * 0.4, 0.25, 0.25])
    for counted, expected in zip(by_input, lamp + 1e6 * 0.2 / 4, strict=True):
        assert close(counted, expected * seconds)
    assert close(clicks["b"][0].size, 1e6 * 0.2 * seconds)
    window = 1000
    accidental = (4e6 * 0.2) * (1e6 * 0.2) * window * 1e-12
    counted = pairs(clicks["a"][0], clicks["b"][0], window)
    assert close(counted, (1e6 * 0.04 + accidental) * seconds)


RAMAN = {"classical_channels": [{"wavelength": 1510e-9, "power": -20.0, "isolation": 200.0}]}


@pytest.mark.parametrize("ports", ["source.s1+source.s2", "lamp.out+source.s1+source.s2"])
def test_light_that_a_fibre_adds_counts_once_however_many_ports_share_it(ports: str) -> None:
    elements = crystal(0.0, channels=[0.5, 0.5])
    elements["lamp"] = {"kind": "light", "rate": 0.0}
    elements |= user("a", 3.0, fibre={**RAMAN, "length": 2e4}) | user("b")
    elements["tap"] = {"kind": "coupler", "shares": [0.25, 0.5]}
    elements |= user("c")
    if "lamp" not in ports:
        elements.pop("lamp")
    paths = [
        [ports, "a_fibre", "tap.1", *way("a")[1:]],
        [ports, "a_fibre", "tap.2", *way("c")],
        ["source.i1+source.i2", *way("b")],
    ]
    bench = Bench(elements, paths, 3)
    added: Any = bench.world.elements["a_fibre"]
    hz = added.passage().light_hz
    assert hz > 1e5
    clicks = bench.run(30)
    for name, share in (("a", 0.25), ("c", 0.5)):
        assert close(clicks[name][0].size, hz * share * 0.3)
        by_input = np.bincount(clicks[name][1], minlength=5)[1:]
        assert close(by_input[0], hz * share * 0.3 / 4)
    assert clicks["b"][0].size == 0


# -- dispersion --------------------------------------------------------------------------------


def peak_fwhm_ps(
    dispersion: tuple[float, float], compensator: tuple[float, float] = (0.0, 0.0), **source: Any
) -> float:
    """FWHM of the coincidence peak of two arms of 40 and 20 km, ps."""
    elements = crystal(2e5, **{"bandwidth": 1e-9, **source})
    paths = []
    for name, port, length, d, more in zip(
        "ab", ("signal", "idler"), (4e4, 2e4), dispersion, compensator, strict=True
    ):
        elements |= user(name, fibre={"length": length, "dispersion": d})
        elements[f"{name}_module"] = {
            "kind": "fibre",
            "length": 1e3,
            "attenuation": 0.0,
            "dispersion": more,
        }
        paths.append([f"source.{port}", f"{name}_module", *way(name)])
    clicks = Bench(elements, paths, 8).run(10)
    expected = round(2e4 * 1.468 / 299792458 * 1e12)
    found = differences(clicks["a"][0], clicks["b"][0] + expected, 5000)
    assert found.size > 5000
    # Of a Gaussian 68.27 % lie within one sigma; accidentals hardly move that.
    low, high = np.quantile(found, [0.158655, 0.841345])
    return float(high - low) * math.sqrt(2 * math.log(2))


@pytest.mark.parametrize(("a", "b"), [(17e-6, 17e-6), (17e-6, 0.0), (17e-6, -20e-6)])
def test_dispersion_of_both_arms_widens_the_peak_by_its_sum(a: float, b: float) -> None:
    """|D_A L_A + D_B L_B| dlambda (Franson, PRA 45, 3126 (1992)); 1e-6 s/m2 is 1 ps/nm/km."""
    expected = abs(a * 4e4 + b * 2e4) * 1e-9 * 1e12
    assert peak_fwhm_ps((a, b)) == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("arm", [0, 1])
def test_a_fibre_of_negative_dispersion_in_either_arm_undoes_that_of_both(arm: int) -> None:
    module = -(17e-6 * 4e4 + 17e-6 * 2e4) / 1e3
    compensator = (module, 0.0) if arm == 0 else (0.0, module)
    assert peak_fwhm_ps((17e-6, 17e-6)) > 900
    assert peak_fwhm_ps((17e-6, 17e-6), compensator) < 3
    # What is left is the coherence time of the pair, which no fibre undoes.
    left = peak_fwhm_ps((17e-6, 17e-6), compensator, coherence_time=80e-12)
    assert left == pytest.approx(80, rel=0.05)


def test_photons_with_a_long_coherence_time_stay_in_order() -> None:
    """200 ns FWHM, as of a cavity for memories: some photons come 500 ns before their pair."""
    elements = crystal(1e6, coherence_time=200e-9)
    for name in "ab":
        elements |= user(name, fibre={"length": 0.0})
    paths = [["source.signal", *way("a")], ["source.idler", *way("b")]]
    clicks = Bench(elements, paths).run(20)
    found = differences(clicks["a"][0], clicks["b"][0], 600_000)
    near, far = (np.abs(found) < 100_000).sum(), (np.abs(found) > 400_000).sum()
    # Half of a Gaussian's height is passed at half the FWHM: erf(sqrt(ln 2)) lies within.
    accidental = 1e6 * 1e6 * 0.2
    assert close(near, 2e5 * math.erf(math.sqrt(math.log(2))) + accidental * 200e-9, 8)
    assert close(far, accidental * 400e-9, 8)


# -- what changes within a block, and thinning -------------------------------------------------


@dataclass
class Moving:
    """A platform that goes away: 20 us far at the beginning, 1e-6 s/s slower each second."""

    bench: Bench
    rate: float = 1e-6

    def __post_init__(self) -> None:
        self.passages: dict[int, Passage] = {}

    def passage(self) -> Passage:
        now = self.bench.world.now_ps
        if now not in self.passages:
            delay = 20e-6 + self.rate * now * 1e-12
            self.passages = {now: Passage(delay_s=delay, delay_rate=self.rate)}
        return self.passages[now]


@pytest.mark.parametrize("rate", [1e-6, -1e-6])
def test_a_delay_that_changes_moves_the_peak_smoothly(rate: float) -> None:
    elements = crystal(2e5)
    for name in "ab":
        elements |= user(name)
    paths = [["source.signal", *way("a")], ["source.idler", *way("b")]]
    bench = Bench(elements, paths, 2)
    engine = bench.world._engines["source"]
    assert isinstance(engine, ContinuousPair)
    moving = Moving(bench, rate)
    engine._sides[1].ways[0].arm._steps[0] = moving.passage
    clicks = bench.run(20)
    # An emission at t is seen at t + d(t): the shift follows the clock, not the block.
    for begin in (0.003, 0.011, 0.0199, 0.15):
        a, b = clicks["a"][0], clicks["b"][0]
        a = a[(a > begin * 1e12) & (a < (begin + 0.004) * 1e12)]
        fibre = 1e3 * 1.468 / 299792458
        middle = 20e-6 + rate * (begin + 0.002) - fibre
        found = differences(a, b - round(middle * 1e12), 4500)
        true = found[np.abs(found) < 2500]
        assert true.size > 500
        assert abs(true.mean()) < 150
        # Within 4 ms the delay moves by 4 ns: a flat distribution, 4 ns wide.
        assert np.std(true) == pytest.approx(4000 / math.sqrt(12), rel=0.1)


@pytest.mark.parametrize("where", ["fibre", "coupler", "detector"])
def test_loss_thins_the_pairs_alike_wherever_it_is(where: str) -> None:
    """Photons are thinned before they are made: by loss, share or efficiency, it is the same."""
    elements = crystal(1e6, visibility=0.9)
    elements |= user("a", db(0.3) if where == "fibre" else 0.0)
    elements |= user("b", db(0.6))
    if where == "detector":
        detector = {"efficiency": 0.3, "dark_rate": 0.0, "jitter": 0.0, "dead_time": 0.0}
        elements["a_snspd"]["detectors"] = [detector] * 4
    first = ["source.signal", *way("a")]
    if where == "coupler":
        elements["tap"] = {"kind": "coupler", "shares": [0.7, 0.3]}
        first.insert(1, "tap.2")
    bench = Bench(elements, [first, ["source.idler", *way("b")]], 5)
    rates = bench.world.mean_rates("source")
    assert rates.both.sum() == pytest.approx(1e6 * 0.3 * 0.6, rel=1e-9)
    assert rates.only[0].sum() == pytest.approx(1e6 * 0.3 * 0.4, rel=1e-9)
    assert rates.only[1].sum() == pytest.approx(1e6 * 0.7 * 0.6, rel=1e-9)
    clicks = bench.run(40)
    table = counts(clicks["a"], clicks["b"], 2)
    assert (np.abs(table - rates.both * 0.4) < 5 * np.sqrt(rates.both * 0.4 + 1)).all()


def test_a_detector_that_is_off_leaves_the_others_as_they_were() -> None:
    """Of independent losses none changes another: the rates, not the draws, are the same."""
    bench = mesh(2)
    before = [bench.world.mean_rates("source", channel=n) for n in range(1, 7)]
    array: Any = bench.world.elements["a_snspd"]
    array.bias_a[1] = 0.0
    after = [bench.world.mean_rates("source", channel=n) for n in range(1, 7)]
    for one, two in zip(before[:3], after[:3], strict=True):  # a has the signals of three
        kept = [0, 2, 3]
        np.testing.assert_allclose(one.both[kept], two.both[kept])
        assert two.both[1].sum() == 0
        # Partners of those not seen are now alone.
        np.testing.assert_allclose(one.both.sum(0) + one.only[1], two.both.sum(0) + two.only[1])
    for one, two in zip(before[3:], after[3:], strict=True):
        np.testing.assert_array_equal(one.both, two.both)


def test_paths_that_part_at_couplers_may_part_again() -> None:
    elements = crystal(1e6)
    for name in "abcd":
        elements |= user(name)
    elements["first"] = {"kind": "coupler", "shares": [0.5, 0.5]}
    elements["second"] = {"kind": "coupler", "shares": [0.5, 0.3]}
    paths = [
        ["source.signal", *way("a")],
        ["source.idler", "first.1", *way("b")],
        ["source.idler", "first.2", "second.1", *way("c")],
        ["source.idler", "first.2", "second.2", *way("d")],
    ]
    bench = Bench(elements, paths)
    assert Layout.of(bench.world.model).networks == (("source",),)
    rates = bench.world.mean_rates("source")
    assert rates.both.shape == (4, 12)
    by_user = rates.both.sum(0).reshape(3, 4).sum(1)
    np.testing.assert_allclose(by_user, [5e5, 2.5e5, 1.5e5], rtol=1e-9)
    assert rates.only[0].sum() == pytest.approx(1e5, rel=1e-9)


def test_clicks_of_long_ways_do_not_depend_on_since_when_somebody_listens() -> None:
    """25 ms of flight: what comes in a block was emitted two or three blocks before."""

    def bench(listening: str | None = None) -> Bench:
        elements = crystal(1e5)
        for name, length in (("a", 5.1e6), ("b", 2e5)):
            elements |= user(name, fibre={"length": length})
        paths = [["source.signal", *way("a")], ["source.idler", *way("b")]]
        return Bench(elements, paths, 4, listening)

    always, late = bench().run(8), bench("")
    assert always["a"][0][0] < 1e9  # the first of them were emitted before the world began
    late.run(5)
    late.listen("a")
    got = late.run(3)
    part = always["a"][0] >= 5 * BLOCK_PS
    assert same(got["a"], (always["a"][0][part], always["a"][1][part]))


def test_two_pulsed_arms_may_share_detectors_with_a_lamp() -> None:
    """A pulse's pairs, a lamp, and the fibre's own light, which counts once, on one splitter."""
    elements = crystal(0.0, trigger="pulser.A", pulse_width=1e-9)
    elements["pulser"] = {"kind": "delay_generator"}
    elements["lamp"] = {"kind": "light", "rate": 1e5}
    elements |= user("a", fibre={**RAMAN, "length": 2e4})
    paths = [["lamp.out+source.signal+source.idler", *way("a")]]
    bench = Bench(elements, paths)
    added: Any = bench.world.elements["a_fibre"]
    passage = added.passage()
    times, _ = bench.run(20)["a"]
    assert close(times.size, 0.2 * (passage.light_hz + 1e5 * passage.transmission))
