"""A spin-wave memory against its timing rules, one photon at a time and by properties."""

import dataclasses
import math

import numpy as np
import pytest
from bellbench.instruments.errors import ConfigError
from bellbench.sims.physics.memory import (
    NEVER,
    Comb,
    Cycles,
    Ensemble,
    Fates,
    comb_efficiency,
    efficiency,
    fates,
    noisy_g2,
    retained,
    temporal_modes,
)
from hypothesis import given, settings
from hypothesis import strategies as st

US = 1_000_000
COMB = Comb(
    efficiency=0.4,
    absorption=0.9,
    transparency=0.97,
    echo_time_ps=25 * US,
    spin_coherence_time_ps=60.0 * US,
    burn_time_ps=100.0 * US,
    comb_lifetime_ps=5000.0 * US,
)
FULL = 1 - math.exp(-3)  # burned 300 us

# One cycle as (T0, A, B, pit, C, E) in us; None where an edge is missing.
Row = tuple[int, int | None, int | None, bool, int | None, int | None]
STORE: Row = (0, 10, 310, False, 420, 450)


def cycles(*rows: Row) -> Cycles:
    columns = [
        np.array([NEVER if row[i] is None else row[i] * US for row in rows], np.int64)  # type: ignore[operator]
        for i in (0, 1, 2, 4, 5)
    ]
    pit = np.array([row[3] for row in rows], np.bool_)
    return Cycles(columns[0], columns[1], columns[2], pit, columns[3], columns[4])


def fate(at_us: float, *rows: Row, comb: Comb = COMB) -> tuple[float, float, float]:
    result = fates(np.array([round(at_us * US)], np.int64), cycles(*rows), comb)
    return float(result.passed[0]), float(result.recalled[0]), float(result.delay_ps[0]) / US


LOST = (0.0, 0.0, 0.0)


def test_a_transferred_photon_waits_as_spin_wave_until_the_recall() -> None:
    passed, recalled, delay = fate(400, STORE)
    assert passed == pytest.approx(0.1)
    assert delay == 25 + (450 - 420)
    assert recalled == pytest.approx(
        0.4 * FULL * math.exp(-90 / 5000) * math.exp(-((30 / 60) ** 2)), rel=1e-12
    )


@pytest.mark.parametrize("transfer", [None, 399, 400, 425, 600])
def test_without_early_or_late_transfer_there_is_a_plain_echo(transfer: int | None) -> None:
    passed, recalled, delay = fate(400, (0, 10, 310, False, transfer, 700))
    assert delay == 25
    assert passed == pytest.approx(0.1)
    assert recalled == pytest.approx(0.4 * FULL * math.exp(-90 / 5000), rel=1e-12)


@pytest.mark.parametrize("recall", [None, 410, 420])
def test_a_transfer_without_a_later_recall_loses_the_photon(recall: int | None) -> None:
    passed, recalled, delay = fate(400, (0, 10, 310, False, 420, recall))
    assert (recalled, delay) == (0, 0)
    assert passed == pytest.approx(0.1)


def test_nothing_leaves_before_the_burn_has_ended() -> None:
    assert fate(5, STORE) == LOST
    assert fate(100, STORE) == LOST
    assert fate(309.999999, STORE) == LOST
    assert fate(310, STORE)[0] == pytest.approx(0.1)
    # neither the comb of the cycle before: T0 has cleaned it
    assert fate(1005, STORE, (1000, 1010, 1310, False, 1420, 1450)) == LOST
    assert fate(1350, STORE, (1000, None, None, False, 1420, 1450)) == LOST
    assert fate(1350, STORE, (1000, 1010, None, False, 1420, 1450)) == LOST
    assert fate(-1, STORE) == LOST


def test_no_cycles_and_no_photons() -> None:
    assert fate(400) == LOST
    empty = fates(np.empty(0, np.int64), cycles(STORE), COMB)
    assert empty.passed.size == empty.recalled.size == empty.delay_ps.size == 0


def test_the_next_cycle_takes_what_has_not_come_out() -> None:
    following: Row = (455, 460, 470, False, None, None)
    # would come out at 400 + 25 + 30 = 455 us: just too late; a ps earlier it is in time
    assert fate(400, STORE, following)[1:] == (0, 0)
    assert fate(400 - 1e-6, STORE, following)[2] == 55
    # the plain echo alike
    assert fate(430, STORE, following)[1:] == (0, 0)
    assert fate(430 - 1e-6, STORE, following)[2] == 25


def test_a_pit_lets_photons_pass_and_holds_none() -> None:
    assert fate(400, (0, 10, 310, True, 420, 450)) == (0.97, 0, 0)
    assert fate(300, (0, 10, 310, True, 420, 450)) == LOST


def test_a_burn_of_no_length_makes_no_echo_but_absorbs() -> None:
    assert fate(400, (0, 310, 310, False, 420, 450)) == pytest.approx((0.1, 0, 0))


def test_efficiency_is_what_a_perfect_burn_gives() -> None:
    comb = dataclasses.replace(COMB, burn_time_ps=1.0, comb_lifetime_ps=math.inf)
    for wait in (0.5, 30.0, 200.0):
        recall_ps = np.array([round((420 + wait) * US)], np.int64)
        sequence = dataclasses.replace(cycles(STORE), recall_ps=recall_ps)
        got = fates(np.array([400 * US], np.int64), sequence, comb)
        assert got.delay_ps[0] == round((25 + wait) * US)
        assert efficiency(got.delay_ps, comb) == pytest.approx(got.recalled, rel=1e-12)
    assert efficiency([0, 25 * US - 1, 25 * US], comb).tolist() == [0, 0, 0.4]
    assert efficiency(25 * US + 60 * US, comb) == pytest.approx(0.4 / math.e)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"efficiency": 0.95}, "exceeds absorption"),
        ({"transparency": 1.01}, "transparency"),
        ({"echo_time_ps": 0}, "echo_time"),
        ({"burn_time_ps": 0.0}, "burn_time"),
    ],
)
def test_an_impossible_comb_is_refused(change: dict[str, float], word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        dataclasses.replace(COMB, **change)  # type: ignore[arg-type]


edge = st.none() | st.integers(0, 120)


@st.composite
def sequences(draw: st.DrawFn) -> Cycles:
    starts = sorted(draw(st.sets(st.integers(0, 500), max_size=5)))
    rows: list[Row] = []
    for start in starts:
        a, b, c, e = (draw(edge) for _ in range(4))
        if a is not None and b is not None:
            a, b = min(a, b), max(a, b)
        shifted = [None if x is None else start + x for x in (a, b, c, e)]
        rows.append((start, shifted[0], shifted[1], draw(st.booleans()), shifted[2], shifted[3]))
    return cycles(*rows)


arrivals = st.lists(st.integers(-10 * US, 700 * US), max_size=30).map(
    lambda values: np.array(sorted(values), np.int64)
)


@given(sequences(), arrivals)
def test_no_photon_is_gained_and_every_delay_fits_into_its_cycle(
    sequence: Cycles, times: np.ndarray[tuple[int], np.dtype[np.int64]]
) -> None:
    result = fates(times, sequence, COMB)
    assert ((result.passed >= 0) & (result.recalled >= 0)).all()
    assert (result.passed + result.recalled <= 1).all()
    assert ((result.delay_ps == 0) == (result.recalled == 0)).all()
    for t, delay in zip(times, result.delay_ps, strict=True):
        if delay:
            assert delay >= COMB.echo_time_ps
            own = np.searchsorted(sequence.starts_ps, t, side="right")
            assert not (sequence.starts_ps[own:] <= t + delay).any()


@given(sequences(), arrivals)
def test_each_photon_has_the_fate_it_has_alone(
    sequence: Cycles, times: np.ndarray[tuple[int], np.dtype[np.int64]]
) -> None:
    together = fates(times, sequence, COMB)
    alone = [fates(times[i : i + 1], sequence, COMB) for i in range(times.size)]
    for field in dataclasses.fields(Fates):
        whole = getattr(together, field.name)
        assert whole.tolist() == pytest.approx(
            [float(getattr(one, field.name)[0]) for one in alone], rel=1e-15
        )


# --- closed forms of ensemble memories


def agrees(samples: np.ndarray[tuple[int], np.dtype[np.generic]], expected: float) -> None:
    values = np.asarray(samples, np.float64)
    assert abs(values.mean() - expected) <= 3 * values.std() / math.sqrt(values.size)


@pytest.mark.parametrize(("depth", "finesse", "background"), [(2, 3, 0), (8, 4, 0.3), (20, 10, 0)])
def test_echo_of_gaussian_teeth_by_fourier_transform(
    depth: float, finesse: float, background: float
) -> None:
    # transmission exp(-(absorption + i dispersion)/2) of a comb of period 1; causal: its
    # Fourier series has delays >= 0 only, and the echo is the term of one inverse period
    n = 4096
    detuning = (np.arange(n) / n)[:, None] - np.arange(-30, 31)
    teeth = depth * np.exp(-4 * math.log(2) * (detuning * finesse) ** 2).sum(axis=1) + background
    series = np.fft.fft(teeth) / n
    series[1 : n // 2] *= 2
    series[n // 2 :] = 0
    field = np.fft.fft(np.exp(-np.fft.ifft(series) * n / 2)) / n
    echo = abs(field[1]) ** 2
    assert comb_efficiency(depth, finesse, background) == pytest.approx(echo, rel=1e-9)
    # as the sheet rounds it: d/f and 7
    rough = (depth / finesse) ** 2 * math.exp(-depth / finesse - 7 / finesse**2 - background)
    assert rough == pytest.approx(echo, rel=0.15)


@pytest.mark.parametrize("depth", [0.5, 4.0, 20.0])
def test_an_echo_is_absorbed_again_on_its_way_forward_only(depth: float) -> None:
    finesse = 5.0
    x = depth / finesse * math.sqrt(math.pi / (4 * math.log(2)))
    z = (np.arange(20_000) + 0.5) / 20_000
    rephased = math.exp(-(math.pi**2) / (4 * math.log(2) * finesse**2))
    # written at depth z with e^(-xz/2), read from there to either end
    forward = (x * np.exp(-x * z / 2) * np.exp(-x * (1 - z) / 2)).mean() * rephased
    backward = (x * np.exp(-x * z / 2) * np.exp(-x * z / 2)).mean() * rephased
    assert comb_efficiency(depth, finesse) == pytest.approx(forward**2, rel=1e-6)
    assert comb_efficiency(depth, finesse, backward=True) == pytest.approx(backward**2, rel=1e-6)


def test_ceilings_of_the_comb() -> None:
    depths = np.linspace(0, 5000, 100_001)
    best = comb_efficiency(depths, 500.0).max()
    assert best == pytest.approx(4 * math.exp(-2), rel=1e-4)  # 54 %
    assert best == pytest.approx(0.54, abs=2e-3)
    assert comb_efficiency(depths, 500.0, backward=True).max() == pytest.approx(1, abs=1e-3)


def test_decay_with_storage_time() -> None:
    assert retained([0, 1, 2], 0.6, 2.0) == pytest.approx([0.6, 0.6 * math.exp(-0.5), 0.6 / math.e])
    assert retained([0, 1, 2], 0.6, 2.0, "gaussian") == pytest.approx(
        [0.6, 0.6 * math.exp(-0.25), 0.6 / math.e]
    )
    # homogeneous broadening of the teeth: burned and read with a Lorentzian of FWHM 1/(pi T2)
    # each, so the echo's field loses e^(-t/T2) twice
    t, t2 = 3e-6, 50e-6
    assert retained(t, 1.0, t2 / 4) == pytest.approx((math.exp(-t / t2) ** 2) ** 2)
    # Gaussian: a thermal gas leaves its spin wave, phase k v t with v Gaussian
    rng = np.random.default_rng(1)
    phase = rng.normal(0, 1.0, 200_000) * 0.8
    agrees(np.cos(phase), math.sqrt(retained(0.8, 1.0, 1.0, "gaussian")))


def test_modes_of_a_comb() -> None:
    assert temporal_modes(25e-6, 5e6) == 50
    assert temporal_modes(25e-6, 5.09e6) == 50


@pytest.mark.parametrize("efficiency_", [0.05, 0.4])
def test_noise_of_the_memory_and_the_cross_correlation(efficiency_: float) -> None:
    rng, trials, mean, noise, herald = np.random.default_rng(2), 2_000_000, 0.05, 0.01, 0.3
    made = rng.geometric(1 / (1 + mean), trials) - 1  # thermal
    clicked = rng.binomial(made, herald)
    read = rng.binomial(made, efficiency_) + rng.poisson(noise, trials)
    g2 = 2 + 1 / mean
    heralded = g2 * mean  # photons at the input after a herald
    expected = noisy_g2(g2, heralded, noise / efficiency_)
    product = (clicked * read).astype(np.float64)
    scale = mean * herald * (mean * efficiency_ + noise)
    assert abs(product.mean() - expected * scale) < 3 * product.std() / math.sqrt(trials)
    assert noisy_g2(g2, heralded, 1e-12) == pytest.approx(g2)
    assert noisy_g2(g2, heralded, 1e12) == pytest.approx(1)


@pytest.mark.parametrize("mean", [0.01, 0.3])
def test_write_and_read_of_an_ensemble(mean: float) -> None:
    memory = Ensemble(mean, 0.4, 0.5 * float(retained(0.5, 1.0, 1.0, "gaussian")))
    clicked, read = memory.sample(np.random.default_rng(3), 2_000_000)
    write_p, read_p, both_p = memory.clicks
    agrees(clicked, write_p)
    agrees(read > 0, read_p)
    agrees(clicked & (read > 0), both_p)
    after = read[clicked].astype(np.float64)
    pairs = after * (after - 1)
    g2 = pairs.mean() / after.mean() ** 2
    error = pairs.std() / math.sqrt(after.size) / after.mean() ** 2
    assert abs(g2 - memory.heralded_g2) < 3 * 1.1 * error
    assert memory.cross_g2 == pytest.approx(1 + (1 + mean) / mean)


def test_a_good_write_is_a_rare_write() -> None:
    faint = Ensemble(1e-3, 1e-2, 0.4)
    write_p, _, both_p = faint.clicks
    assert write_p == pytest.approx(1e-5, rel=2e-3)
    assert both_p / write_p == pytest.approx(0.4, rel=5e-3)  # retrieval, where noise is rare
    assert faint.heralded_g2 == pytest.approx(4e-3, rel=0.01)
    g2s = [Ensemble(p, 0.1, 0.4).heralded_g2 for p in (1e-3, 1e-2, 0.1, 1.0, 100.0)]
    assert g2s == sorted(g2s)
    assert g2s[-1] < 2


@settings(max_examples=30)
@given(st.floats(1e-4, 10), st.floats(0, 1), st.floats(0, 1))
def test_clicks_of_an_ensemble_are_sums_over_its_law(mean: float, w: float, r: float) -> None:
    n = np.arange(4000)
    law = (mean / (1 + mean)) ** n / (1 + mean)
    hit, seen = 1 - (1 - w) ** n, 1 - (1 - r) ** n
    expected = [law @ hit, law @ seen, law @ (hit * seen)]
    assert Ensemble(mean, w, r).clicks == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    ("values", "word"),
    [((0.0, 0.1, 0.1), "excitations"), ((0.1, 1.1, 0.1), "write"), ((0.1, 0.1, -1.0), "read")],
)
def test_an_impossible_ensemble_is_refused(values: tuple[float, float, float], word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        Ensemble(*values)
