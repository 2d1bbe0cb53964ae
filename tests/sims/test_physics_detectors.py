"""Nanowires and avalanche diodes against closed forms: efficiency, recovery, walk, jitter."""

import math
from typing import Any

import numpy as np
import pytest
from bellbench.sims.physics import snspd, spad
from bellbench.sims.physics.clicks import ClickMaker, Response, jitter_fwhm_s, jitter_pdf
from hypothesis import given, settings
from hypothesis import strategies as st

SECOND = 10**12


def poisson(rate_hz: float, seconds: float, seed: int = 1, detectors: int = 1) -> Any:
    """Packed photons, each detector at its own share of a rate, and their keys."""
    rng = np.random.default_rng(seed)
    n = rng.poisson(rate_hz * seconds)
    times = rng.integers(0, round(seconds * SECOND), n)
    packed = np.sort((times << 6) | rng.integers(0, detectors, n))
    return packed, rng.integers(0, 2**64, n, np.uint64)


def pulses(response: Response, photons: Any, sigma_ps: float = 0.0) -> Any:
    """Times of a single detector's pulses, ps."""
    maker = ClickMaker(np.array([sigma_ps]), [response])
    end = int(photons[0][-1] >> 6) + SECOND
    packed, keys = photons
    return maker.run((response,), packed, keys, end, end - maker.early_ps) >> 6


# -- efficiency and dark counts


@pytest.mark.parametrize("form", ["erf", "logistic", "power"])
def test_the_forms_agree_in_half_point_and_slope(form: Any) -> None:
    curve = snspd.Curve(form, 0.6, 0.1)
    assert curve(0.6) == pytest.approx(0.5)
    slope = (curve(0.6 + 1e-5) - curve(0.6 - 1e-5)) / 2e-5
    assert slope == pytest.approx(1 / (math.sqrt(math.pi) * 0.1), rel=1e-4)
    shares = [curve(x) for x in np.linspace(0, 1, 50)]
    assert shares[0] < 1e-6
    assert (np.diff(shares) >= 0).all()
    assert 0.95 < shares[-1] <= 1


def test_background_obeys_the_efficiency_and_the_rest_grows_exponentially() -> None:
    op, top = 18e-6, 22e-6
    light = [snspd.dark_rate_hz(i, op, top, 100, background=1.0) for i in (12e-6, 21e-6)]
    eta = [snspd.efficiency(i, op, top, 0.5) / 0.5 for i in (12e-6, 21e-6)]
    assert light == pytest.approx([100 * e for e in eta])
    fold = snspd.dark_rate_hz(op + 0.05 * top, op, top, 100, background=0.0, efold=0.05)
    assert fold == pytest.approx(100 * math.e)


def test_a_wire_prefers_one_polarization_by_the_extinction_ratio() -> None:
    operator = snspd.polarization_operator(4.0, (0, 1, 0))
    plus, minus = np.array([1, 1]) / math.sqrt(2), np.array([1, -1]) / math.sqrt(2)
    assert plus @ operator @ plus == pytest.approx(1)
    assert minus @ operator @ minus == pytest.approx(0.25)
    assert np.allclose(snspd.polarization_operator(1.0, (0, 0, 1)), np.eye(2))


# -- latching


def test_a_wire_latches_earlier_the_faster_it_resets() -> None:
    """The hot spot lives 1 ns and heats itself at 3 uA: what is back by then decides."""
    currents = [snspd.latching_current(22e-6, 3e-6, tau, 1e-9) for tau in (20e-9, 5e-9, 2e-9, 1e-9)]
    assert currents[0] == 22e-6
    assert currents[1] == pytest.approx(3e-6 / (1 - math.exp(-0.2)))
    assert (np.diff(currents) < 0).all()
    assert snspd.latching_current(22e-6, 3e-6, 1e-9, 0) == 22e-6


# -- recovery and time walk


@pytest.mark.parametrize("rate", [1e5, 3e6, 3e7])
def test_a_recovering_wire_counts_what_renewal_theory_says(rate: float) -> None:
    """Mean interval = int_0^inf exp(-n int_0^t p) dt: the hazard of a click is n p(t)."""
    tau, curve, bias = 12e-9, snspd.Curve(), 0.8
    t = np.linspace(0, max(60 * tau, 40 / rate), 400_001)
    # erf written out again: the table of the model is not used here
    p = np.array([math.erf((bias * x - 0.6) / 0.1) for x in np.linspace(0, 1, 4001)]) + 1
    hazard = rate * np.interp(1 - np.exp(-t / tau), np.linspace(0, 1, 4001), p) / p[-1]
    step = t[1] - t[0]
    survival = np.exp(-(np.cumsum(hazard) - (hazard + hazard[0]) / 2) * step)
    interval = float((survival.sum() - survival[0] / 2) * step)
    # variance of a renewal count: T var/mean^3
    variance = float(2 * (t * survival).sum() * step) - interval**2

    seconds = 2e5 / rate
    response = Response(
        0.0, recovery_s=tau, recovery=snspd.recovery_table(bias * 22e-6, 22e-6, curve)
    )
    counted = pulses(response, poisson(rate, seconds)).size
    sigma = math.sqrt(seconds * variance / interval**3)
    assert abs(counted - seconds / interval) < 4 * sigma + 1
    if rate > 1e6:  # and it is not what it would count without
        assert counted < 2e5 - 20 * sigma


def test_the_walk_of_each_click_follows_from_the_time_since_the_one_before() -> None:
    tau, threshold, rise = 10e-9, 0.3, 400e-12
    response = Response(0.0, recovery_s=tau, threshold=threshold, rise_s=rise)
    gaps = np.array([500, 3, 4, 5, 8, 12, 20, 40, 80, 300]) * 1000  # ps
    times = np.cumsum(gaps)
    keys = np.arange(times.size, dtype=np.uint64)
    found = pulses(response, (times << 6, keys))
    height = 1 - np.exp(-gaps / 10e3)
    seen = height > threshold
    assert seen.tolist() == [True, False, *[True] * 8]  # 3 ns after a click its pulse is too small
    shift = found - times[seen]
    expected = -400 * (np.log(1 - threshold / height[seen]) - math.log(1 - threshold))
    assert shift.tolist() == np.rint(expected).tolist()
    table = snspd.time_walk_s(gaps * 1e-12, tau, threshold, rise)
    assert np.isnan(table).tolist() == (~seen).tolist()
    assert table[seen] * 1e12 == pytest.approx(expected, abs=1e-6)


# -- jitter


def test_the_jitter_density_is_normalized_and_has_the_moments_of_its_parts() -> None:
    s, tail = 20e-12, 35e-12
    t = np.linspace(-400e-12, 1500e-12, 200_001)
    f = jitter_pdf(t, s, tail)
    step = t[1] - t[0]
    assert f.sum() * step == pytest.approx(1, abs=1e-6)
    assert (t * f).sum() * step == pytest.approx(0, abs=1e-16)
    assert (t**2 * f).sum() * step == pytest.approx(s**2 + tail**2, rel=1e-5)
    assert (t**3 * f).sum() * step == pytest.approx(2 * tail**3, rel=1e-4)


@pytest.mark.parametrize("tail", [0.0, 1e-15, 1e-12, 30e-12, 1e-9])
def test_the_fwhm_is_where_the_density_is_half(tail: float) -> None:
    width = jitter_fwhm_s(20e-12, tail)
    t = np.linspace(-100e-12 - 2 * tail, 200e-12 + 6 * tail, 400_001)
    f = jitter_pdf(t, 20e-12, tail)
    above = t[f > f.max() / 2]
    assert width == pytest.approx(above[-1] - above[0], rel=1e-3)
    if tail < 1e-12:
        assert width == pytest.approx(20e-12 * 2.3548, rel=1e-4)


def test_drawn_jitter_has_that_density() -> None:
    """Chi-squared over 40 bins of equal share."""
    n = 100_000
    times = (np.arange(n, dtype=np.int64) + 1) * 1_000_000
    keys = np.random.default_rng(5).integers(0, 2**64, n, np.uint64)
    response = Response(0.0, tail_s=60e-12)
    shifts = pulses(response, (times << 6, keys), sigma_ps=40.0) - times
    grid = np.arange(-400, 1500) + 0.5
    density = jitter_pdf(grid * 1e-12, 40e-12, 60e-12)
    share = np.cumsum(density) / density.sum()
    edges = np.unique(np.searchsorted(share, np.arange(1, 40) / 40))
    expected = np.diff([0.0, *share[edges], 1.0]) * n
    counts = np.bincount(
        np.searchsorted(grid[edges] + 0.5, shifts, "left"), minlength=edges.size + 1
    )
    chi2 = float(((counts - expected) ** 2 / expected).sum())
    assert abs(chi2 - edges.size) < 5 * math.sqrt(2 * edges.size)


# -- dead time and afterpulses


@pytest.mark.parametrize("extending", [False, True])
@pytest.mark.parametrize("load", [0.03, 0.5, 2.0])
def test_dead_time_counts_as_its_closed_form(extending: bool, load: float) -> None:
    dead, rate = 50e-9, load / 50e-9
    seconds = 2e5 / rate
    counted = pulses(Response(dead, extending=extending), poisson(rate, seconds)).size
    expected = spad.counted_rate_hz(rate, dead, extending=extending)
    plain = rate * (math.exp(-load) if extending else 1 / (1 + load))
    assert expected == pytest.approx(plain)
    # Counts behind a dead time vary less than Poisson's.
    assert abs(counted - expected * seconds) < 4 * math.sqrt(expected * seconds)


def test_afterpulses_of_all_generations_and_when_they_come() -> None:
    chance, life, dead = 0.3, 100e-9, 50e-9
    photons = poisson(100.0, 1000.0)
    response = Response(dead, afterpulse=chance, afterpulse_s=life)
    times = pulses(response, photons)
    extra = times.size / photons[0].size - 1
    share = spad.afterpulse_share(chance, life, dead)
    q = 0.3 * math.exp(-0.5)
    assert share == pytest.approx(q / (1 - q))
    assert extra == pytest.approx(
        share, abs=4 * math.sqrt(q / (1 - q) ** 3 / photons[0].size) + 2e-3
    )
    gaps = np.diff(times)
    soon = gaps[gaps < 1_500_000] - dead * 1e12  # behind the dead time, exponential with its life
    assert soon.min() >= 0
    assert soon.mean() == pytest.approx(life * 1e12, rel=0.03)


def test_many_afterpulses_wait_at_once() -> None:
    """Hundreds are on their way, and the pulses are half as many again as the photons."""
    photons = poisson(1e7, 0.01)
    times = pulses(Response(0.0, afterpulse=1 / 3, afterpulse_s=50e-6), photons)
    n = photons[0].size
    assert times.size / n == pytest.approx(1.5, abs=4 * math.sqrt((1 / 3) / (2 / 3) ** 3 / n))
    assert (np.diff(times) >= 0).all()


def test_the_loaded_kernel_filters_as_numpy_does(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(2)
    times = np.sort(rng.integers(0, 10**9, 5000))
    detectors = rng.integers(0, 3, times.size).astype(np.int16)
    dead = np.array([0, 200_000, 10**6], np.int64)

    def filtered() -> Any:
        last = np.array([-(1 << 50), 0, 10**6])
        return snspd.filter_dead_time(times, detectors, dead, last).tolist(), last.tolist()

    monkeypatch.setattr(snspd, "_filtered", 0)
    plain = filtered()
    assert 0 < sum(plain[0]) < times.size
    snspd.load_kernels()
    with monkeypatch.context() as patched:
        patched.setattr(np, "argsort", None)  # numpy's way asks for it
        assert filtered() == plain


# -- the pass as a whole

RESPONSES = (
    Response(30e-9, recovery_s=8e-9, threshold=0.3, rise_s=1e-9, afterpulse=0.3, afterpulse_s=2e-8),
    Response(5e-8, extending=True, afterpulse=0.5, afterpulse_s=1e-7, tail_s=1e-10),
    Response(0.0),
)


@settings(max_examples=30)
@given(
    seed=st.integers(0, 2**32 - 1),
    rate=st.sampled_from([1e5, 1e7, 1e8]),
    cuts=st.lists(st.floats(0, 1), max_size=5),
)
def test_pulses_do_not_depend_on_where_blocks_end(
    seed: int, rate: float, cuts: list[float]
) -> None:
    seconds = 300 / rate
    packed, keys = poisson(rate, seconds, seed, detectors=3)
    end = round(seconds * SECOND) + 10**7

    def made(edges: list[int]) -> Any:
        maker = ClickMaker(np.array([30.0, 200.0, 0.0]), RESPONSES)
        begin, parts = 0, []
        for edge in edges:
            cut = int(np.searchsorted(packed, (edge + maker.early_ps) << 6))
            part = slice(begin, max(begin, cut))
            until = edge + maker.early_ps
            parts.append(maker.run(RESPONSES, packed[part], keys[part], until, edge))
            assert ((parts[-1] >> 6) < edge).all()
            begin = part.stop
        return np.concatenate(parts)

    whole = made([end])
    split = made([*sorted(round(cut * end) for cut in cuts), end])
    assert (np.diff(whole) >= 0).all()
    assert split.tolist() == whole.tolist()


@settings(max_examples=20)
@given(st.lists(st.integers(1, 100), min_size=1, max_size=60), st.integers(0, 80))
def test_with_a_dead_time_alone_it_is_the_plain_filter(gaps: list[int], dead_ps: int) -> None:
    times = np.cumsum(np.array(gaps, np.int64))
    response = Response(dead_ps * 1e-12)
    found = pulses(response, (times << 6, np.zeros(times.size, np.uint64)))
    last = np.full(1, -(1 << 62), np.int64)
    alive = snspd.filter_dead_time(
        times, np.zeros(times.size, np.int16), np.array([dead_ps], np.int64), last
    )
    assert found.tolist() == times[alive].tolist()
