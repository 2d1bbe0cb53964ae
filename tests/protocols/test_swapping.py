"""Heralds and four-folds against brute force; what follows from them against closed forms."""

import itertools
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest
from bellbench.instruments import Loss, ProtocolError, TagBatch
from bellbench.protocols import swapping
from hypothesis import given, settings
from hypothesis import strategies as st

Clicks = list[tuple[int, int]]
Real = npt.NDArray[np.float64]
Complex = npt.NDArray[np.complex128]

STATION = {1: "cH", 2: "cV", 3: "dH", 4: "dV"}
ENDS = ({1: "H", 2: "V", 3: "D", 4: "A"}, {4: "H", 2: "V", 3: "D", 1: "A"})
END_PS = 301
GATE = swapping.Gate(70.0, 12.5, 50.0)

clicks = st.lists(st.tuples(st.integers(0, 300), st.integers(1, 5)), max_size=40).map(sorted)
cuts = st.lists(st.integers(0, END_PS), max_size=4)
delay = st.integers(-40, 40)
delays = st.fixed_dictionaries({1: delay, 2: delay, 3: delay, 4: delay})


def batch(pairs: Clicks, losses: tuple[Loss, ...] = (), end_ps: int = END_PS) -> TagBatch:
    times = np.array([t for t, _ in pairs], np.int64)
    channels = np.array([c for _, c in pairs], np.int16)
    return TagBatch(times, channels, 0, end_ps, losses=losses)


def split(whole: TagBatch, at: Sequence[int]) -> list[TagBatch]:
    parts = []
    for cut in sorted(at):
        first, whole = whole.split(cut)
        parts.append(first)
    return [*parts, whole]


def counted(
    streams: tuple[TagBatch, TagBatch, TagBatch],
    window_ps: int,
    shifts: tuple[dict[int, int], dict[int, int], dict[int, int]],
    at: tuple[list[int], list[int], list[int]] = ([], [], []),
    gates: Sequence[swapping.Gate] = (),
) -> swapping.SwapCounts:
    """Count with each stream cut on its own, empty batches standing in for those at their end."""
    counter = swapping.SwapCounter(STATION, *ENDS, window_ps, shifts, gates=gates)
    parts = [split(stream, cut) for stream, cut in zip(streams, at, strict=True)]
    empty = batch([]).split(END_PS)[1]
    for group in itertools.zip_longest(*parts, fillvalue=empty):
        counter.add(*group)
    return counter.finish()


def oracle(
    streams: tuple[Clicks, Clicks, Clicks],
    window_ps: int,
    shifts: tuple[dict[int, int], dict[int, int], dict[int, int]],
) -> tuple[npt.NDArray[np.int64], dict[str, int]]:
    """One click after the other, as the docstring of SwapCounter says it."""
    half = window_ps // 2
    station, *ends = (
        sorted((t - shift[c], c) for t, c in stream if c in shift)
        for stream, shift in zip(streams, shifts, strict=True)
    )
    table = np.zeros((3, 6, 6), np.int64)
    said = {"lone": 0, "unclear": 0, "lost": 0, "outside": 0}
    while station:
        start = station[0][0]
        group = [c for t, c in station if t <= start + half]
        times = [t for t, _ in station if t <= start + half]
        station = [x for x in station if x[0] > start + half]
        names = sorted(STATION[c] for c in group)
        if len(group) == 1:
            said["lone"] += 1
            continue
        if len(group) > 2 or names[0] == names[1]:
            said["unclear"] += 1
            continue
        same_port, same_pol = (names[0][k] == names[1][k] for k in (0, 1))
        kind = 2 if same_pol else 1 if same_port else 0
        at = sum(times) // 2
        if (at - GATE.begin_ps) % GATE.period_ps >= GATE.length_ps:
            said["outside"] += 1
            continue
        recorded = [
            at - half >= max(-s for s in shift.values())
            and at + half < min(END_PS - s for s in shift.values())
            for shift in shifts[1:]
        ]
        if not all(recorded):
            said["lost"] += 1
            continue
        where = []
        for labels, end in zip(ENDS, ends, strict=True):
            here = [labels[c] for t, c in end if abs(t - at) <= half]
            where.append("HVDA".index(here[0]) if len(here) == 1 else 5 if here else 4)
        table[kind, where[0], where[1]] += 1
    return table, said


@given(
    streams=st.tuples(clicks, clicks, clicks),
    shifts=st.tuples(delays, delays, delays),
    at=st.tuples(cuts, cuts, cuts),
    window=st.integers(2, 60),
)
@settings(max_examples=120, deadline=None)
def test_heralds_and_fourfolds_are_those_of_brute_force_in_any_split(
    streams: tuple[Clicks, Clicks, Clicks],
    shifts: tuple[dict[int, int], dict[int, int], dict[int, int]],
    at: tuple[list[int], list[int], list[int]],
    window: int,
) -> None:
    a, b, c = (batch(stream) for stream in streams)
    got = counted((a, b, c), window, shifts, at, [GATE])
    table, said = oracle(streams, window, shifts)
    assert got.table.tolist() == table.tolist()
    assert {name: getattr(got, name) for name in said} == said
    half, live = window // 2, set(range(-200, 2 * END_PS))
    for extra, of in zip((0, half, half), shifts, strict=True):
        live &= set(range(extra - min(of.values()), END_PS - extra - max(of.values())))
    assert got.live_s == pytest.approx(len(live) * 1e-12)


def test_each_pair_of_station_detectors_has_its_meaning() -> None:
    expected = {
        ("cH", "dV"): 0,
        ("cV", "dH"): 0,
        ("cH", "cV"): 1,
        ("dH", "dV"): 1,
        ("cH", "dH"): 2,
        ("cV", "dV"): 2,
    }
    none = dict.fromkeys((1, 2, 3, 4), 0)
    for (i, first), (j, second) in itertools.combinations(STATION.items(), 2):
        got = counted((batch([(100, i), (101, j)]), batch([]), batch([])), 10, (none,) * 3)
        (row,) = np.flatnonzero(got.table.sum(axis=(1, 2)))
        assert row == expected[first, second]
        assert got.table[row, 4, 4] == 1


def test_what_needs_a_lost_click_is_left_out_and_said() -> None:
    none = dict.fromkeys((1, 2, 3, 4), 0)
    station = batch([(50, 1), (51, 4), (150, 1), (151, 4)])
    alice = batch([(50, 1), (150, 1)], (Loss("overflow", 140, 145),))
    bob = batch([(50, 4), (150, 4)])
    for at in ([], [142], [100, 143, 144]):
        got = counted((station, alice, bob), 20, (none,) * 3, ([], at, []))
        assert got.fourfolds.sum() == 1
        assert got.lost == 1


def test_memory_is_bounded_while_a_stream_lags() -> None:
    none = dict.fromkeys((1, 2, 3, 4), 0)
    counter = swapping.SwapCounter(STATION, *ENDS, 10, (none,) * 3)
    times = np.arange(0, 100_000, 50)
    for k in range(20):
        begin, end = k * 100_000, (k + 1) * 100_000
        busy = TagBatch(times + begin, np.ones(times.size, np.int16), begin, end)
        counter.add(busy, busy, busy)
    held = [counter._times, counter._station._times, *(end._times for end in counter._ends)]
    assert max(array.size for array in held) < 5
    assert counter.finish().lone == 20 * times.size


def test_a_station_without_all_its_detectors_is_refused() -> None:
    none = dict.fromkeys((1, 2, 3, 4), 0)
    with pytest.raises(ValueError, match="cH, cV, dH, dV"):
        swapping.SwapCounter({1: "cH", 2: "cV"}, *ENDS, 10, (none,) * 3)


# -- settings


def jones(retardances: Sequence[float], angles: Sequence[float]) -> Complex:
    """Linear retarders passed in this order (physics sheet, section 6)."""
    total: Complex = np.eye(2, dtype=np.complex128)
    for phi, th in zip(np.radians(retardances), np.radians(angles), strict=True):
        turn = np.array([[np.cos(th), np.sin(th)], [-np.sin(th), np.cos(th)]])
        total = turn.T @ np.diag([np.exp(-0.5j * phi), np.exp(0.5j * phi)]) @ turn @ total
    return total


PAULI = np.array([[[1, 0], [0, -1]], [[0, 1], [1, 0]], [[0, -1j], [1j, 0]]])


def measured_direction(output: Complex, matrix: Complex) -> Real:
    """Stokes direction that an output stands for, seen from before the paddles."""
    projector = matrix.conj().T @ np.outer(output, output.conj()) @ matrix
    return np.array([np.trace(projector @ pauli).real for pauli in PAULI])


H = np.array([1, 0], dtype=np.complex128)
D = np.array([1, 1], dtype=np.complex128) / math.sqrt(2)


@pytest.mark.parametrize("name", ["ZX", "CHSH", "Y"])
@pytest.mark.parametrize("home", [(0.0, 0.0, 0.0), (151.01, 135.01, 88.23), (38.1, 146.9, 21.0)])
@pytest.mark.parametrize("retardances", [(90.0, 180.0, 90.0), (84.0, 172.0, 95.0)])
def test_paddles_turn_the_bases_to_the_setting(
    name: str, home: tuple[float, ...], retardances: tuple[float, ...]
) -> None:
    for analyzer in (swapping.SETTINGS[name].alice, swapping.SETTINGS[name].bob):
        angles = swapping.paddle_angles(analyzer, home, retardances_deg=retardances)
        assert all(0 <= angle <= 170 for angle in angles)
        # What home undoes comes first; what is left is the turn alone.
        turned = jones(retardances, angles) @ jones(retardances, home).conj().T
        assert measured_direction(H, turned) == pytest.approx(np.array(analyzer.hv), abs=1e-4)
        assert measured_direction(D, turned) == pytest.approx(np.array(analyzer.da), abs=1e-4)


def test_home_stays_home_and_what_cannot_be_turned_is_refused() -> None:
    home = (12.0, 34.0, 56.0)
    assert swapping.paddle_angles(swapping.SETTINGS["ZX"].alice, home) == pytest.approx(home)
    with pytest.raises(ValueError, match="no paddle angles"):
        swapping.paddle_angles(
            swapping.SETTINGS["Y"].alice, home, retardances_deg=(10.0, 10.0, 10.0)
        )
    with pytest.raises(ValueError, match="orthogonal"):
        _ = swapping.Analyzer((1, 0, 0), (1, 0, 0)).turn


# -- states: everything from density matrices, nothing from the tables under test


def bell(label: str) -> Complex:
    amplitudes = {
        "phi+": [1, 0, 0, 1],
        "phi-": [1, 0, 0, -1],
        "psi+": [0, 1, 1, 0],
        "psi-": [0, 1, -1, 0],
    }[label]
    ket = np.array(amplitudes, dtype=np.complex128) / math.sqrt(2)
    return np.outer(ket, ket.conj())


def werner(visibility: float, label: str = "phi+") -> Complex:
    return visibility * bell(label) + (1 - visibility) * np.eye(4) / 4


def swapped(first: Complex, second: Complex, overlap: float) -> list[Complex]:
    """States of the ends for psi- and psi+: projection of the middle, dephased by 1 - overlap."""
    rho = np.einsum("abcd,efgh->aebfcgdh", *(r.reshape(2, 2, 2, 2) for r in (first, second)))
    rho = np.einsum("aebfcgdh->abefcdgh", rho)  # alice left, right bob -> both kets, both bras
    states = []
    for label in ("psi-", "psi+"):
        middle = overlap * bell(label) + (1 - overlap) * np.diag([0, 0.5, 0.5, 0])
        # pairs (alice, left) and (bob, right): the far photons stay
        out = np.einsum("abefcdgh,dhbf->aecg", rho, middle.reshape(2, 2, 2, 2))
        matrix = out.reshape(4, 4)
        states.append(matrix / np.trace(matrix))
    return states


def expected_counts(states: Sequence[Complex], setting: swapping.Setting, n: float) -> Real:
    """Mean four-folds (2, 4, 4) of passive analyzers, n events per label."""
    table = np.zeros((2, 4, 4))
    outcomes = []
    for directions in setting.directions:
        effects = []
        for direction in directions:
            spin = np.tensordot(direction, PAULI, axes=1)
            effects += [0.25 * (np.eye(2) + spin), 0.25 * (np.eye(2) - spin)]
        outcomes.append(effects)
    for label, rho in enumerate(states):
        for i, j in itertools.product(range(4), repeat=2):
            table[label, i, j] = n * np.trace(rho @ np.kron(outcomes[0][i], outcomes[1][j])).real
    return table


def many(
    states: Sequence[Complex], n: float = 4e6
) -> list[tuple[swapping.Setting, npt.NDArray[np.int64]]]:
    return [
        (
            swapping.SETTINGS[name],
            np.rint(expected_counts(states, swapping.SETTINGS[name], n)).astype(np.int64),
        )
        for name in ("ZX", "Y")
    ]


def chsh_of(states: Sequence[Complex]) -> dict[str, swapping.Estimate]:
    setting = swapping.SETTINGS["CHSH"]
    return swapping.chsh(setting, np.rint(expected_counts(states, setting, 4e6)).astype(np.int64))


def fidelity_of(states: Sequence[Complex]) -> float:
    found = swapping.visibilities(many(states))
    return swapping.fidelity({axis: found[axis]["all"] for axis in "ZXY"}).value


@pytest.mark.parametrize(("v1", "v2", "overlap"), [(1, 1, 1), (0.95, 0.9, 1), (0.98, 0.98, 0.9)])
def test_a_swap_of_werner_pairs_shows_the_closed_form(v1: float, v2: float, overlap: float) -> None:
    states = swapped(werner(v1), werner(v2), overlap)
    found = swapping.visibilities(many(states))
    for label in ("psi-", "psi+", "all"):
        assert found["Z"][label].value == pytest.approx(v1 * v2, abs=1e-5)
        assert found["X"][label].value == pytest.approx(v1 * v2 * overlap, abs=1e-5)
        assert found["Y"][label].value == pytest.approx(v1 * v2 * overlap, abs=1e-5)
        s = chsh_of(states)[label]
        assert s.value == pytest.approx(math.sqrt(2) * v1 * v2 * (1 + overlap), abs=1e-4)
    f1, f2 = (1 + 3 * v1) / 4, (1 + 3 * v2) / 4
    if overlap == 1:
        assert fidelity_of(states) == pytest.approx(f1 * f2 + (1 - f1) * (1 - f2) / 3, abs=1e-5)
    true = [
        np.trace(rho @ bell(label)).real
        for rho, label in zip(states, ("psi-", "psi+"), strict=True)
    ]
    assert fidelity_of(states) == pytest.approx(np.mean(true), abs=1e-5)
    told = swapping.predict(
        swapping.Estimate(v1, 0.01), swapping.Estimate(v2, 0.02), swapping.Estimate(overlap, 0.03)
    )
    assert told.visibility_z.value == pytest.approx(v1 * v2)
    assert told.visibility_x.value == pytest.approx(v1 * v2 * overlap)
    assert told.fidelity.value == pytest.approx(np.mean(true))
    assert told.chsh.value == pytest.approx(math.sqrt(2) * v1 * v2 * (1 + overlap))


def test_exchanged_labels_are_no_better_than_chance_and_opposite_states_worse() -> None:
    states = swapped(werner(1), werner(1), 1)
    assert fidelity_of(states) == pytest.approx(1)
    assert fidelity_of(states[::-1]) == pytest.approx(0, abs=1e-5)
    mixed = [(states[0] + states[1]) / 2] * 2  # labels dropped
    assert fidelity_of(mixed) == pytest.approx(0.5)
    assert chsh_of([bell("phi-")] * 2)["psi-"].value == pytest.approx(0, abs=1e-4)


def test_no_fourfold_is_counted_twice() -> None:
    counts = np.arange(32, dtype=np.int64).reshape(2, 4, 4)
    setting = swapping.SETTINGS["ZX"]
    found = swapping.visibilities([(setting, counts)])
    for i, axis in enumerate("ZX"):
        block = counts[:, 2 * i : 2 * i + 2, 2 * i : 2 * i + 2]
        by_label = [found[axis][label].n for label in ("psi-", "psi+")]
        assert by_label == block.sum(axis=(1, 2)).tolist()
        assert found[axis]["all"].n == block.sum()
    assert math.isnan(found["Y"]["all"].value)
    chsh = swapping.SETTINGS["CHSH"]
    assert swapping.chsh(chsh, counts)["all"].n == counts.sum()
    with pytest.raises(ValueError, match="CHSH"):
        swapping.chsh(setting, counts)


def test_errors_are_those_of_counting() -> None:
    random = np.random.default_rng(3)
    states = swapped(werner(0.95), werner(0.93), 0.9)
    setting = swapping.SETTINGS["ZX"]
    turned = swapping.SETTINGS["CHSH"]
    z, s, sigma_z, sigma_s = [], [], [], []
    for _ in range(200):
        drawn = random.poisson(expected_counts(states, setting, 1200))
        one = swapping.visibilities([(setting, drawn)])["Z"]["all"]
        z.append(one.value)
        sigma_z.append(one.sigma)
        test = swapping.chsh(turned, random.poisson(expected_counts(states, turned, 1200)))["all"]
        s.append(test.value)
        sigma_s.append(test.sigma)
    # 200 draws know a width to 5 %
    assert np.std(z) == pytest.approx(np.mean(sigma_z), rel=0.16)
    assert np.std(s) == pytest.approx(np.mean(sigma_s), rel=0.16)
    assert swapping.Tally(20, 20).estimate.sigma > 0
    assert math.isnan(swapping.Tally().estimate.value)


# -- heralds that are empty on a side


def herald_table(g: float, left: float, right: float, eta: tuple[float, float]) -> Real:
    """Probabilities (6, 6) of a herald: one pair each, two of alice's source, two of bob's."""
    table = np.zeros((6, 6))
    for share, n_a, n_b in ((g, 1, 1), (left, 2, 0), (right, 0, 2)):
        columns = []
        for n, e in ((n_a, eta[0]), (n_b, eta[1])):
            none = (1 - e) ** n
            several = e**2 * 0.75 if n == 2 else 0.0  # two photons at different detectors
            one = 1 - none - several
            columns.append(np.array([one / 4] * 4 + [none, several]))
        table += share * np.outer(*columns)
    return table


def test_empty_heralds_are_found_with_their_error() -> None:
    random = np.random.default_rng(5)
    g, left, right, eta = 0.5, 0.3, 0.2, (0.6, 0.45)
    table = herald_table(g, left, right, eta)
    n, exact = 40_000, (swapping.Estimate(eta[0], 0.0), swapping.Estimate(eta[1], 0.0))

    def counts(drawn: npt.NDArray[np.int64]) -> swapping.SwapCounts:
        full = np.zeros((3, 6, 6), np.int64)
        full[0], full[1] = drawn // 2, drawn - drawn // 2
        return swapping.SwapCounts(full, 0, 0, 0, 0, 1.0)

    found = swapping.empty_shares(counts(np.rint(1e9 * table).astype(np.int64)), *exact)
    assert found.any.value == pytest.approx(left + right, abs=1e-6)
    assert found.bob.value == pytest.approx(left, abs=1e-6)
    assert found.alice.value == pytest.approx(right, abs=1e-6)

    pulls = []
    sigma = 0.01
    for _ in range(300):
        drawn = random.multinomial(n, table.ravel()).reshape(6, 6)
        known = [swapping.Estimate(e + sigma * random.standard_normal(), sigma) for e in eta]
        one = swapping.empty_shares(counts(drawn), *known)
        pulls.append(
            [
                (one.any.value - left - right) / one.any.sigma,
                (one.bob.value - left) / one.bob.sigma,
                (one.alice.value - right) / one.alice.sigma,
            ]
        )
    assert np.std(pulls, axis=0) == pytest.approx(np.ones(3), abs=0.15)
    assert np.mean(pulls, axis=0) == pytest.approx(np.zeros(3), abs=0.25)
    none = swapping.empty_shares(counts(np.zeros((6, 6), np.int64)), *exact)
    assert math.isnan(none.any.value)


# -- the dip


def hom_counts(
    random: np.random.Generator, delays: Real, base: float, v: float, centre: float, fwhm: float
) -> npt.NDArray[np.int64]:
    mean = base * (1 - v * np.exp(-4 * math.log(2) * ((delays - centre) / fwhm) ** 2))
    return random.poisson(mean)


def test_a_dip_is_found_with_its_errors() -> None:
    random = np.random.default_rng(7)
    delays = np.linspace(9e-9, 11e-9, 15)
    pulls = []
    for _ in range(80):
        found = swapping.fit_dip(delays, hom_counts(random, delays, 120, 0.9, 9.93e-9, 424e-12))
        assert found.ok, found.reason
        pulls.append(
            [
                (found.visibility.value - 0.9) / found.visibility.sigma,
                (found.centre_s.value - 9.93e-9) / found.centre_s.sigma,
                (found.fwhm_s.value - 424e-12) / found.fwhm_s.sigma,
            ]
        )
    assert np.std(pulls, axis=0) == pytest.approx(np.ones(3), abs=0.3)
    assert np.mean(pulls, axis=0) == pytest.approx(np.zeros(3), abs=0.4)
    assert found.model(delays) == pytest.approx(
        found.base
        * (
            1
            - found.visibility.value
            * np.exp(-4 * math.log(2) * ((delays - found.centre_s.value) / found.fwhm_s.value) ** 2)
        )
    )


def test_no_dip_is_said() -> None:
    random = np.random.default_rng(8)
    # on the generator's grid the middle of the scan is not the mean of its ends
    delays = np.round(np.linspace(6.753e-9, 8.353e-9, 15) / 5e-12) * 5e-12
    flat = [swapping.fit_dip(delays, random.poisson(np.full(15, 100.0))) for _ in range(40)]
    assert not any(found.ok for found in flat)
    assert "no dip" in flat[0].reason
    assert math.isnan(flat[0].visibility.value)
    delays = np.linspace(-1e-9, 1e-9, 15)
    dark = swapping.fit_dip(delays, np.zeros(15, np.int64))
    assert not dark.ok
    assert "dark or blocked" in dark.reason
    # half a dip at the edge has no centre
    edge = swapping.fit_dip(delays, hom_counts(random, delays, 400, 0.9, 1.6e-9, 424e-12))
    assert not edge.ok


# -- delays, arrivals and efficiencies


PERIOD_PS = 200_000


class Pulsed:
    """Synthetic clicks of two sources whose photons reach a station ``late_ps`` apart."""

    def __init__(self, seed: int, *, late_ps: int, seconds: float = 1.0, east: bool = True) -> None:
        random = np.random.default_rng(seed)
        self.eta = {"alice": 0.5, "bob": 0.4, "west": 0.3, "east": 0.35}
        self.mu = {"west": 0.03, "east": 0.02 if east else 0.0}
        self.cables = (
            {1: 0, 2: 130, 3: -220, 4: 310},
            {1: 700, 2: -150, 3: 420, 4: 90},
            {4: -50, 2: 600, 3: 33, 1: 260},
        )
        self.offsets = (0, 3_200_000_077, -1_100_000_033)
        pulses = round(seconds * 1e12 / PERIOD_PS)
        streams: list[list[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]] = [[], [], []]
        for end, source, late in ((1, "west", 0), (2, "east", late_ps)):
            pairs = random.poisson(self.mu[source], pulses)
            at = np.repeat(np.arange(pulses), pairs) * PERIOD_PS + 50_000 + late
            which = random.integers(0, 4, at.size)  # outcome at the end
            pol = np.where(which < 2, which, random.integers(0, 2, at.size))
            pol = np.where(random.random(at.size) < 0.01, 1 - pol, pol)  # visibility 0.98
            here = random.random(at.size) < self.eta[("", "alice", "bob")[end]]
            there = random.random(at.size) < self.eta[source]
            labels = {name: c for c, name in ENDS[end - 1].items()}
            channel = np.array([labels[x] for x in "HVDA"])[which]
            streams[end].append((at[here], channel[here]))
            port = random.integers(0, 2, at.size)
            streams[0].append((at[there], (1 + pol + 2 * port)[there]))
        self.batches = []
        for stream, cables, offset in zip(streams, self.cables, self.offsets, strict=True):
            dark = np.sort(random.integers(0, round(seconds * 1e12), 4000))
            stream.append((dark, random.integers(1, 5, dark.size)))
            times = np.concatenate([t for t, _ in stream])
            channels = np.concatenate([c for _, c in stream])
            shift = np.array([cables.get(k, 0) for k in range(5)])
            times = (
                times
                + shift[channels]
                + offset
                + np.rint(random.normal(0, 100, times.size)).astype(np.int64)
            )
            order = np.argsort(times, kind="stable")
            self.batches.append(
                TagBatch(
                    times[order].astype(np.int64),
                    channels[order].astype(np.int16),
                    int(times.min()),
                    int(times.max()) + 1,
                )
            )

    def delays(self) -> tuple[dict[int, int], dict[int, int], dict[int, int]]:
        a, b, c = (
            {k: v + offset for k, v in cables.items()}
            for cables, offset in zip(self.cables, self.offsets, strict=True)
        )
        return a, b, c


def test_delays_of_all_three_taggers_are_found_among_pulses() -> None:
    world = Pulsed(1, late_ps=2450)
    for k, end in enumerate(("alice", "bob"), start=1):
        station, own = swapping.find_end_delays(
            world.batches[0], world.batches[k], STATION, ENDS[k - 1]
        )
        true = world.delays()
        for channel, found in station.items():
            assert found == pytest.approx(true[0][channel] - true[0][1], abs=20), end
        for channel, found in own.items():
            assert found == pytest.approx(true[k][channel] - true[0][1], abs=20), end


def test_arrivals_tell_how_late_one_source_is() -> None:
    for late in (2450, -3100):
        world = Pulsed(2, late_ps=late)
        station, alice, bob = world.batches
        found = swapping.find_arrivals(
            station, alice, bob, world.delays(), period_ps=PERIOD_PS, window_ps=2000
        )
        assert found.late_ps == pytest.approx(late, abs=10)
        assert found.west_ps == pytest.approx(50_000, abs=10)


def test_efficiencies_and_pairs_per_pulse_of_each_source() -> None:
    world = Pulsed(3, late_ps=10_000, seconds=2.0)
    found = {}
    for k, source, phase in ((1, "west", 50_000), (2, "east", 60_000)):
        found[source] = swapping.klyshko(
            world.batches[0],
            world.batches[k],
            STATION,
            ENDS[k - 1],
            (world.delays()[0], world.delays()[k]),
            phase_ps=phase,
            other_ps=110_000 - phase,
            period_ps=PERIOD_PS,
            pulses_hz=5e6,
            window_ps=2000,
        )
    for source, end in (("west", "alice"), ("east", "bob")):
        one = found[source]
        for got, true in (
            (one.end, world.eta[end]),
            (one.station, world.eta[source]),
            (one.pairs_per_pulse, world.mu[source]),
            (one.visibility, 0.98),
        ):
            assert abs(got.value - true) < 4 * got.sigma
            assert got.sigma < 0.02 * true
    with pytest.raises(ProtocolError, match="apart"):
        swapping.klyshko(
            world.batches[0],
            world.batches[1],
            STATION,
            ENDS[0],
            world.delays()[:2],
            phase_ps=50_000,
            other_ps=52_000,
            period_ps=PERIOD_PS,
            pulses_hz=5e6,
            window_ps=2000,
        )


def test_a_gate_is_found_where_photons_come_back() -> None:
    random = np.random.default_rng(11)
    period, begin, storage = 40_000_000, 33_000_000, 21_000_000  # across the period's end
    came = np.sort(random.integers(0, 10**11, 20_000))
    phase = (came - begin) % period
    back = came[(phase < 9_000_000) & (random.random(came.size) < 0.3)] + storage
    noise = random.integers(0, 10**11, 3000)
    station = TagBatch(came, np.ones(came.size, np.int16), 0, 10**11)
    times = np.sort(np.concatenate([back, noise[noise < 99 * 10**9]]))
    end = TagBatch(times, np.ones(times.size, np.int16), 0, 10**11)
    gate = swapping.find_gate(
        station,
        end,
        ({1: 0}, {1: storage}),
        period_ps=period,
        length_ps=8_000_000,
        window_ps=2000,
    )
    inside = swapping.gated(station, {1: 0}, [gate])
    assert len(inside) == pytest.approx(0.2 * came.size, rel=0.05)
    assert gate.open(inside.times_ps).all()
    late = (gate.begin_ps - begin + period / 2) % period - period / 2
    assert -100_000 <= late <= 1_100_000  # 8 us of the 9 us in which it takes photons
    with pytest.raises(ProtocolError, match="cycle"):
        swapping.find_gate(
            station,
            end,
            ({1: 0}, {1: storage + 10_000_000}),
            period_ps=period,
            length_ps=8_000_000,
            window_ps=2000,
        )


def test_a_dark_source_is_said() -> None:
    world = Pulsed(4, late_ps=2450, seconds=0.3, east=False)
    with pytest.raises(ProtocolError, match="no coincidence peak"):
        swapping.find_end_delays(world.batches[0], world.batches[2], STATION, ENDS[1])


def test_heralds_count_while_all_three_were_live() -> None:
    lost = [(Loss("gap", 0, 50),), (Loss("gap", 40, 90),), ()]
    none = np.zeros(0, np.int64), np.zeros(0, np.int16)
    batches = [
        TagBatch(*none, 0, end, losses=one) for end, one in zip((300, 300, 250), lost, strict=True)
    ]
    shifts = dict.fromkeys(range(1, 5), 0), dict.fromkeys(range(1, 5), 20)
    counter = swapping.SwapCounter(STATION, *ENDS, 10, (shifts[0], shifts[1], shifts[0]))
    counter.add(*batches)
    # alice's gap is over at 90 - 20, and 5 ps later her window is; bob's ends 5 ps before his end
    assert counter.finish().live_s == pytest.approx((245 - 75) * 1e-12)
    with pytest.raises(ValueError, match="SwapCounter is finished: make a new one"):
        counter.add(*batches)
